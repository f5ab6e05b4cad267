//! The ordered durable log: topics of records, one copy on disk.

mod answer;
mod carry;
mod client;
mod command;
mod error;
mod extent;
pub mod groups;
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

pub use answer::{Answer, Batch, InvalidAnswer, Page, TopicView};
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
pub use options::{AGE_MAX, AGE_MIN, InvalidOptions, TopicOptions};
pub use query::{Query, Read};
pub use record::{
    BATCH_BYTES_MAX, BATCH_RECORDS_MAX, InvalidRecord, KEY_BYTES_MAX, RECORD_BYTES_MAX, Record,
};
pub use refusal::Refusal;
pub use upkeep::{Upkeep, keep, start};
