//! Commands, queries and responses of the key-value store as bytes.
//!
//! ```text
//! command   1 | key bytes u32 | key | value                          SET
//!           2 | key                                                  CLEAR
//!           3 | transaction                                          TRANSACTION
//!           4 | time to live in ms u64                               GRANT a lease
//!           5 | lease u64                                            KEEP a lease alive
//!           6 | lease u64                                            REVOKE a lease
//!           7 | lease u64 | kept u64                                 EXPIRE a lease
//!           8 | revision u64                                         COMPACT the history
//!           9 | bytes u64 | history changes u64 | history bytes u64  LIMITS
//! range     start | end, each with a length
//! ```
//!
//! Unless said otherwise a key has its length (2 bytes) before it and a value its length (4 bytes).
//! [Transactions](transaction), [queries](query) and [responses](response) have their own files.
//!
//! Numbers are little endian. Pure; decoding never panics and copies nothing.

use std::time::Duration;

use bytes::Bytes;

mod entry;
mod query;
mod range;
mod response;
mod transaction;
pub(super) mod wire;

pub use entry::{Entry, Event, Events, Page};
pub use query::{EventQuery, PAGE_BYTES_MAX, PAGE_LIMIT_MAX, Position, Query, Selection};
pub use range::KeyRange;
pub use response::{Failure, InvalidResponse, Lease, Response, Settled, State, StepResult, Unmet};
pub use transaction::{Comparison, Condition, Field, OPERATIONS_MAX, Operation, Transaction};

use wire::{Cut, Reader, Writer};

/// Bytes a key may have; a key has at least one.
pub const KEY_BYTES_MAX: usize = 4 * 1024;
/// Bytes a value may have; it may have none.
pub const VALUE_BYTES_MAX: usize = 8 * 1024 * 1024;

const SET: u8 = 1;
const CLEAR: u8 = 2;
const TRANSACTION: u8 = 3;
const GRANT: u8 = 4;
const KEEP: u8 = 5;
const REVOKE: u8 = 6;
const EXPIRE: u8 = 7;
const COMPACT: u8 = 8;
const LIMITS: u8 = 9;

/// A change of the store.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Command {
    /// Removes a key. It is no error that there is none.
    Clear {
        /// The key.
        key: Bytes,
    },
    /// Forgets what was before a revision, which is the first that can be read afterwards.
    Compact {
        /// The revision; a higher one than the present one stands for that.
        revision: u64,
    },
    /// Ends a lease unless it was kept alive meanwhile: the leader proposes it when time is up.
    Expire {
        /// The lease.
        lease: u64,
        /// Index of the command that had kept it alive last when the time began.
        kept: u64,
    },
    /// Opens a lease, whose id is the index of this command.
    Grant {
        /// How long it lasts without being kept alive. Whole milliseconds.
        ttl: Duration,
    },
    /// Makes the time of a lease begin anew.
    Keep {
        /// The lease.
        lease: u64,
    },
    /// Says how large the store may become.
    Limits(Limits),
    /// Ends a lease and clears the keys that are attached to it.
    Revoke {
        /// The lease.
        lease: u64,
    },
    /// Gives a key a value, whether it had one or not.
    Set {
        /// The key.
        key: Bytes,
        /// Its new value.
        value: Bytes,
    },
    /// Does several things in one entry.
    Transaction(Transaction),
}

/// How large the store may become. Part of the replicated state, so the same on all replicas.
///
/// Bytes are those of keys and values, with 100 more for each.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize)]
pub struct Limits {
    /// Bytes of the present keys and values [default: 2 GiB]. What would make them more is refused;
    /// what makes them less is always done.
    pub bytes_max: u64,
    /// Changes that history keeps [default: 100,000]. The oldest are forgotten to make room.
    pub history_changes_max: u64,
    /// Bytes that history keeps [default: 256 MiB]. The oldest are forgotten to make room.
    pub history_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        const MIB: u64 = 1024 * 1024;
        Self { bytes_max: 2_048 * MIB, history_changes_max: 100_000, history_bytes_max: 256 * MIB }
    }
}

/// Why bytes are not a command or a query, or a command may not be.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidCommand {
    /// The key is empty or too long.
    #[error("a key has 1 to {KEY_BYTES_MAX} bytes")]
    Key,
    /// The transaction has too many parts.
    #[error("a transaction has at most {OPERATIONS_MAX} conditions and operations")]
    TooMany,
    /// The bytes are cut short, or there are too many.
    #[error("command is cut short or too long")]
    Truncated,
    /// No command has this number, or no part of it may be this.
    #[error("unknown command number")]
    Unknown,
    /// The value is too long.
    #[error("a value has at most {VALUE_BYTES_MAX} bytes")]
    Value,
}

impl From<Cut> for InvalidCommand {
    fn from(_: Cut) -> Self {
        Self::Truncated
    }
}

impl Command {
    /// The bytes to propose.
    ///
    /// # Errors
    ///
    /// [`InvalidCommand`]: a key, a value or a number of operations is outside its limits.
    pub fn encode(&self) -> Result<Bytes, InvalidCommand> {
        self.check()?;
        let mut out = Writer::default();
        match self {
            Self::Clear { key } => {
                out.u8(CLEAR);
                out.rest(key);
            }
            Self::Compact { revision } => {
                out.u8(COMPACT);
                out.u64(*revision);
            }
            Self::Expire { lease, kept } => {
                out.u8(EXPIRE);
                out.u64(*lease);
                out.u64(*kept);
            }
            Self::Grant { ttl } => {
                out.u8(GRANT);
                out.u64(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
            }
            Self::Keep { lease } => {
                out.u8(KEEP);
                out.u64(*lease);
            }
            Self::Limits(limits) => {
                out.u8(LIMITS);
                limits.numbers().into_iter().for_each(|number| out.u64(number));
            }
            Self::Revoke { lease } => {
                out.u8(REVOKE);
                out.u64(*lease);
            }
            Self::Set { key, value } => {
                out.u8(SET);
                out.value(key);
                out.rest(value);
            }
            Self::Transaction(transaction) => {
                out.u8(TRANSACTION);
                transaction.write(&mut out);
            }
        }
        Ok(out.finish())
    }

    /// Reads a command; keys and values are slices of `bytes`.
    ///
    /// # Errors
    ///
    /// [`InvalidCommand`] says what is wrong.
    pub fn decode(bytes: &Bytes) -> Result<Self, InvalidCommand> {
        let mut input = Reader::new(bytes);
        let command = match input.u8()? {
            CLEAR => return Self::checked(Self::Clear { key: input.rest() }),
            SET => {
                let key = input.value()?;
                return Self::checked(Self::Set { key, value: input.rest() });
            }
            COMPACT => Self::Compact { revision: input.u64()? },
            EXPIRE => Self::Expire { lease: input.u64()?, kept: input.u64()? },
            GRANT => Self::Grant { ttl: Duration::from_millis(input.u64()?) },
            KEEP => Self::Keep { lease: input.u64()? },
            LIMITS => Self::Limits(Limits {
                bytes_max: input.u64()?,
                history_changes_max: input.u64()?,
                history_bytes_max: input.u64()?,
            }),
            REVOKE => Self::Revoke { lease: input.u64()? },
            TRANSACTION => Self::Transaction(Transaction::read(&mut input)?),
            _ => return Err(InvalidCommand::Unknown),
        };
        input.end()?;
        Ok(command)
    }

    fn checked(self) -> Result<Self, InvalidCommand> {
        self.check()?;
        Ok(self)
    }

    fn check(&self) -> Result<(), InvalidCommand> {
        match self {
            Self::Clear { key } => check_key(key),
            Self::Set { key, value } => {
                check_value(value)?;
                check_key(key)
            }
            Self::Transaction(transaction) => transaction.check(),
            Self::Compact { .. }
            | Self::Expire { .. }
            | Self::Grant { .. }
            | Self::Keep { .. }
            | Self::Limits(_)
            | Self::Revoke { .. } => Ok(()),
        }
    }
}

impl Limits {
    /// As they are on the wire and in snapshots.
    pub(super) fn numbers(&self) -> [u64; 3] {
        [self.bytes_max, self.history_changes_max, self.history_bytes_max]
    }
}

fn check_key(key: &Bytes) -> Result<(), InvalidCommand> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX { Err(InvalidCommand::Key) } else { Ok(()) }
}

fn check_value(value: &Bytes) -> Result<(), InvalidCommand> {
    if value.len() > VALUE_BYTES_MAX { Err(InvalidCommand::Value) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
