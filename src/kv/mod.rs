//! The key-value store: a replicated map with history, conditions, watches, leases and locks.
//!
//! Keys and values are bytes. Every answer carries a revision, which is the log index of a change.

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
