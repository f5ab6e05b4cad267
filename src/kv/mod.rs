//! The key-value store: three commands over one replicated map.
//!
//! Keys and values are bytes. `SET` and `CLEAR` are replicated commands, `GET` is a query; every
//! answer carries a revision, which is the log index of a change.

mod client;
mod command;
mod error;
mod machine;

pub use client::{Found, Kv, SERVICE, Written};
pub use command::{
    Command, InvalidCommand, InvalidResponse, KEY_BYTES_MAX, Query, Response, VALUE_BYTES_MAX,
};
pub use error::Error;
pub use machine::KvMachine;
