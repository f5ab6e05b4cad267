//! The ordered durable log: topics of records, one copy on disk.
//!
//! A topic is a list of records; each has an offset, counted from 0, that it keeps for ever.
//! [`Log`] is how a program uses it from any node, and [`start`] makes a node hold a replica of a
//! group of topics. Topics come into being by their first append, or by [`Topic::create`].
//!
//! # What is promised
//!
//! - [`Topic::append`] and [`append_batch`](Topic::append_batch) return when the records are on the
//!   disks of a quorum and applied. They are appended once, all or none, in the order of the calls
//!   of one handle. [`append_at`](Topic::append_at) appends where it was expected, or not at all;
//!   [`append_with`](Topic::append_with) promises what the level says that was asked for.
//! - [`Topic::read`], [`view`](Topic::view), [`offset_at`](Topic::offset_at) and [`Cursor::load`]
//!   return when a quorum has confirmed the leader: they see everything that was acknowledged
//!   before.
//! - [`Topic::tail`] gives committed records only, in order, without a gap, each once. A topic that is
//!   [compacted](Compaction) has gaps where others with the same key have followed; the last record
//!   of each key is there.
//! - [`Cursor::store`], [`Topic::trim`], [`delete`](Topic::delete) and other changes return when
//!   they
//!   are on the disks of a quorum and applied, and are done once.
//!
//! Whatever may have been done although it failed says so: [`Error::effect`]. Between topics there
//! is no order, though those of one group share a log. A replica that lags shows less, never
//! something else.
//!
//! # Where it comes from
//!
//! Offsets, batches that are stored as they were sent, sparse indexes and retention are Kafka's;
//! durable cursors and appends at an expected offset are Liftbridge's; groups of consumers that
//! redeliver are like those of NATS JetStream. That the log of the consensus is the log of the
//! messages, with offsets as an index into it, was proposed by Liftbridge's author for a system
//! that would be built anew.
//!
//! # Limits
//!
//! A group has up to 100,000 topics, and as many cursors; there are up to 16 groups. A record has
//! up to 8 MiB less 1 KiB, a batch 65,536 records. The machine has 40 bytes in memory for each few
//! KiB of a topic, or for each of its batches if others lie between them.

mod ages;
mod answer;
mod carry;
mod cleaner;
mod client;
mod command;
mod compaction;
mod error;
mod extent;
pub mod groups;
mod latest;
mod machine;
mod name;
mod options;
mod points;
mod query;
mod record;
mod refusal;
mod scan;
mod snapshot;
mod topic;
mod upkeep;

pub use answer::{Answer, Batch, Dirty, InvalidAnswer, Page, TopicView};
pub use client::{
    Accepted, Appended, Cursor, Lag, Log, OnLag, ReadLimits, Records, Stored, Tail, Topic,
};
pub use command::{Append, Command, Expected, InvalidCommand};
pub use error::Error;
pub use groups::Start;
pub use machine::{
    CONSUMER_GROUPS_MAX, CURSORS_MAX, LogMachine, PAGE_ROWS_MAX, TOPIC_CURSORS_MAX, TOPICS_MAX,
};
pub use name::{GROUPS_LABEL, GROUPS_MAX, NAME_BYTES_MAX, group_of, is_name, service};
pub use options::{AGE_MAX, AGE_MIN, Compaction, InvalidOptions, TopicOptions};
pub use query::{Query, Read};
pub use record::{
    BATCH_BYTES_MAX, BATCH_RECORDS_MAX, InvalidRecord, KEY_BYTES_MAX, RECORD_BYTES_MAX, Record,
};
pub use refusal::Refusal;
pub use upkeep::{Upkeep, keep, start, start_on};
