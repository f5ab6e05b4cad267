//! The key-value store: three commands over one replicated map.
//!
//! Keys and values are bytes. `SET` and `CLEAR` are replicated commands, `GET` is a query; every
//! answer carries a revision, which is the log index of a change.

mod command;
mod machine;

pub use command::{
    Command, InvalidCommand, KEY_BYTES_MAX, KvError, Query, Response, VALUE_BYTES_MAX,
};
pub use machine::KvMachine;
