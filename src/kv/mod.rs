//! The key-value store: a replicated map with history, conditions, watches, leases and locks.
//!
//! Keys and values are bytes. Every answer carries a revision, which is the log index of a change.
//! [`Kv`] is the handle; everything else is what it takes and returns, or the replicated machine.
//!
//! What each operation promises, when it returns, and where the idea comes from:
//!
//! - [`Kv::set`], [`Kv::clear`]: done once, however often it was submitted. Returns when it is on the
//!   disks of a quorum and applied, or as [`Kv::acks`] says. Raft's sessions.
//! - [`Set::if_revision`] and the other conditions: decided and done in one step; returns as above.
//!   Compare and swap.
//! - [`Kv::txn`]: all or nothing and in one revision, or the other branch; returns as above. etcd.
//! - [`Kv::add`]: exact among any number of clients; returns as above. Redis.
//! - [`Kv::get`], [`Kv::list`], [`Kv::count`]: every write that was acknowledged before is seen.
//!   Returns when a quorum has confirmed the leader. ReadIndex.
//! - [`Get::at_least`]: every write up to a revision is seen. Returns when one replica has come to it.
//!   Session guarantees.
//! - [`Kv::get_stale`]: that it was so once, and when. Returns at once.
//! - [`Get::at`], [`Kv::history`]: as it was, until history forgets, which it says. Returns as `get`.
//!   Multi-version concurrency control.
//! - [`Kv::watch`]: every change after a revision, in order and once, or [`Failure::Compacted`].
//!   Returns when there is one. etcd.
//! - [`Kv::grant`]: keys that go in one step, never early by the leader's clock, late if the leader
//!   changes. Returns as `set`. Leases of Gray and Cheriton.
//! - [`Kv::lock`], [`Kv::elect`]: one holder at a time by the store's account, and
//!   [`Set::fenced_by`] refuses what earlier ones write. Returns when it is held. etcd's recipe, with
//!   the sequencers of Chubby.
//!
//! Durations are rounded down to milliseconds where they are replicated. Sizes are in bytes. Dropping
//! a future never recalls a write; dropping that of a lock gives up the place in its queue.

mod client;
mod command;
mod error;
mod machine;

pub use client::{
    Add, Clear, Fence, Get, Guard, Kv, List, Pages, SERVICE, Set, Stale, Txn, Watch, WatchFrom,
    Written,
};
pub use command::{
    Command, Comparison, Condition, Entry, Event, EventQuery, Events, Failure, Field,
    InvalidCommand, InvalidResponse, KEY_BYTES_MAX, KeyRange, Lease, Limits, OPERATIONS_MAX,
    Operation, PAGE_BYTES_MAX, PAGE_LIMIT_MAX, Page, Position, Query, Response, Selection, Settled,
    State, StepResult, Transaction, Unmet, VALUE_BYTES_MAX,
};
pub use error::Error;
pub use machine::{KvMachine, LEASE_KEYS_MAX, LEASE_TTL_MAX, LEASE_TTL_MIN, LEASES_MAX};
