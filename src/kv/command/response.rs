//! Answers of the store.
//!
//! ```text
//! response   0 | revision u64                                              done
//!            1 | revision u64 | value                                      value
//!            2 | revision u64                                              absent
//!            3 | reason u8                                                 refused
//!            4 | store revision u64 | entry                                entry
//!            5 | page                                                      page
//!            6 | next position | store revision u64 | count u32 | event... events
//!            7 | revision u64 | unmet | count u8 | result...               transaction
//!            8 | revision u64 | count u32 | lease...                       leases
//!            9 | number u64, nine times                                    state
//!           10 | operation u8 | failure u8 | number u64                    failed
//! entry      key | revision u64 | created u64 | version u64 | lease u64, 0 none | value
//! optional   0, or 1 | entry
//! page       revision u64 | matched u64 | next key, empty none | count u32 | entry...
//! event      revision u64 | key | optional (none: cleared) | optional (what was there before)
//! unmet      0, or 1 | condition u8 | revision of its key u64
//! result     1 | number i64                                                ADD
//!            2 | was there u8 | optional                                   CLEAR
//!            3 | cleared u32 | there is more u8                            CLEAR of a range
//!            4 | optional                                                  GET
//!            5 | page                                                      LIST
//!            6 | optional                                                  SET
//! lease      id u64 | time to live in ms u64 | keys u64
//! ```
//!
//! Pure; see the [module above](super) for lengths and numbers.

use std::time::Duration;

use bytes::Bytes;

use super::entry::{Entry, Events, Page, flag, read_all, read_optional, write_all, write_optional};
use super::wire::{Cut, Reader, Writer};
use super::{InvalidCommand, Limits};

const DONE: u8 = 0;
const VALUE: u8 = 1;
const ABSENT: u8 = 2;
const REFUSED: u8 = 3;
const ENTRY: u8 = 4;
const PAGE: u8 = 5;
const EVENTS: u8 = 6;
const TRANSACTION: u8 = 7;
const LEASES: u8 = 8;
const STATE: u8 = 9;
const FAILED: u8 = 10;

/// An answer of the store.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Response {
    /// The key has no value, which is not the same as an empty one.
    Absent {
        /// Index of the last change of the store.
        revision: u64,
    },
    /// The change is made; or, for a key that was not there, there was nothing to clear.
    Done {
        /// Index of the last change of the store: this one, if it changed anything.
        revision: u64,
    },
    /// What a key has.
    Entry {
        /// Index of the last change of the store.
        revision: u64,
        /// The key and what is kept about it.
        entry: Entry,
    },
    /// Changes.
    Events(Events),
    /// It could not be done, and nothing was changed.
    Failed {
        /// Which operation of a transaction failed, from 0; of [`Failure::Fenced`] which condition.
        operation: u8,
        /// Why.
        failure: Failure,
    },
    /// The lease that was granted or kept alive, or those there are.
    Leases {
        /// Index of the last change of the store.
        revision: u64,
        /// In the order of their ids.
        leases: Vec<Lease>,
    },
    /// Keys.
    Page(Page),
    /// The command or query is not one; nothing was changed.
    Refused(InvalidCommand),
    /// How large the store is.
    State(State),
    /// What came of a transaction.
    Transaction(Settled),
    /// The value of the key.
    Value {
        /// Index of the last change of the key.
        revision: u64,
        /// Its value.
        value: Bytes,
    },
}

/// What came of a transaction.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settled {
    /// Index of the last change of the store: this one, if it changed anything.
    pub revision: u64,
    /// The first condition that did not hold, if one did not: `otherwise` was done then.
    pub unmet: Option<Unmet>,
    /// What each operation came to, in order.
    pub results: Vec<StepResult>,
}

/// A condition that did not hold.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Unmet {
    /// Its number, from 0.
    pub condition: u8,
    /// The revision of the key that it is about; 0 if that has no value.
    pub current: u64,
}

/// What one operation of a transaction came to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum StepResult {
    /// The number that the counter has now.
    Added(i64),
    /// The key has no value any more.
    Cleared {
        /// Whether it had one.
        was_there: bool,
        /// What it had, if that was asked for.
        previous: Option<Entry>,
    },
    /// Keys of a range have no value any more.
    ClearedRange {
        /// How many.
        cleared: u32,
        /// Whether there are more, which were left.
        has_more: bool,
    },
    /// What the key has.
    Got(Option<Entry>),
    /// A page.
    Listed(Page),
    /// The key has the value.
    Set {
        /// What it had before, if that was asked for.
        previous: Option<Entry>,
    },
}

/// A lease.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Lease {
    /// Its id: the index of the command that granted it.
    pub id: u64,
    /// How long it lasts without being kept alive.
    pub ttl: Duration,
    /// Keys that go with it.
    pub keys: u64,
}

/// How large the store is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Serialize)]
pub struct State {
    /// Index of the last change.
    pub revision: u64,
    /// The first revision that can be read, and after which a watch can begin.
    pub first: u64,
    /// Keys that have a value.
    pub keys: u64,
    /// Bytes that they count.
    pub bytes: u64,
    /// Changes in the history.
    pub history_changes: u64,
    /// Bytes that they count.
    pub history_bytes: u64,
    /// What these may become.
    pub limits: Limits,
}

/// Why an operation could not be done.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The store has not come to this revision.
    #[error("the store is at revision {revision}, which is before the one asked for")]
    Behind {
        /// How far it has come.
        revision: u64,
    },
    /// What was asked for is forgotten.
    #[error("compacted: the first revision that is known is {first}")]
    Compacted {
        /// The first revision that can be read, and after which a watch can begin.
        first: u64,
    },
    /// The lock is not held with this token any more.
    #[error("the lock is not held with this token")]
    Fenced,
    /// As many keys go with the lease as may.
    #[error("too many keys go with the lease")]
    LeaseFull,
    /// There is no such lease: it has expired, or was revoked.
    #[error("there is no lease {lease}")]
    LeaseUnknown {
        /// Its id.
        lease: u64,
    },
    /// The value is no number, or the sum is none of 64 bits.
    #[error("the value is not a counter, or would not fit into one")]
    NotNumber,
    /// The store would become larger than it may. Clearing keys still works.
    #[error("the store may have {bytes_max} bytes and no more: clear keys, or raise the limit")]
    Quota {
        /// The limit.
        bytes_max: u64,
    },
    /// The results of the transaction are too large for one answer.
    #[error("the results of the transaction are too large")]
    ResultsTooLarge,
}

/// The bytes are not a response.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a response of the key-value store")]
pub struct InvalidResponse;

impl From<Cut> for InvalidResponse {
    fn from(_: Cut) -> Self {
        Self
    }
}

impl Response {
    /// The bytes of the answer.
    pub fn encode(&self) -> Bytes {
        let mut out = Writer::default();
        match self {
            Self::Absent { revision } => numbers(&mut out, ABSENT, [*revision]),
            Self::Done { revision } => numbers(&mut out, DONE, [*revision]),
            Self::Entry { revision, entry } => {
                numbers(&mut out, ENTRY, [*revision]);
                entry.write(&mut out);
            }
            Self::Events(events) => {
                out.u8(EVENTS);
                events.write(&mut out);
            }
            Self::Failed { operation, failure } => {
                out.u8(FAILED);
                out.u8(*operation);
                let (kind, number) = failure.numbers();
                numbers(&mut out, kind, [number]);
            }
            Self::Leases { revision, leases } => {
                numbers(&mut out, LEASES, [*revision]);
                write_all(&mut out, leases, Lease::write);
            }
            Self::Page(page) => {
                out.u8(PAGE);
                page.write(&mut out);
            }
            Self::Refused(reason) => {
                out.u8(REFUSED);
                out.u8(reason_number(*reason));
            }
            Self::State(state) => numbers(&mut out, STATE, state.numbers()),
            Self::Transaction(settled) => {
                out.u8(TRANSACTION);
                settled.write(&mut out);
            }
            Self::Value { revision, value } => {
                numbers(&mut out, VALUE, [*revision]);
                out.rest(value);
            }
        }
        out.finish()
    }

    /// Reads an answer; keys and values are slices of `bytes`.
    ///
    /// # Errors
    ///
    /// [`InvalidResponse`]: the bytes are something else.
    pub fn decode(bytes: &Bytes) -> Result<Self, InvalidResponse> {
        let mut input = Reader::new(bytes);
        let response = match input.u8()? {
            ABSENT => Self::Absent { revision: input.u64()? },
            DONE => Self::Done { revision: input.u64()? },
            ENTRY => Self::Entry { revision: input.u64()?, entry: Entry::read(&mut input)? },
            EVENTS => Self::Events(Events::read(&mut input)?),
            FAILED => {
                let operation = input.u8()?;
                Self::Failed { operation, failure: Failure::read(&mut input)? }
            }
            LEASES => {
                let revision = input.u64()?;
                Self::Leases { revision, leases: read_all(&mut input, Lease::read)? }
            }
            PAGE => Self::Page(Page::read(&mut input)?),
            REFUSED => {
                let number = input.u8()?;
                let reason = REASONS.iter().find(|known| reason_number(**known) == number);
                Self::Refused(*reason.ok_or(InvalidResponse)?)
            }
            STATE => Self::State(State::read(&mut input)?),
            TRANSACTION => Self::Transaction(Settled::read(&mut input)?),
            VALUE => {
                let revision = input.u64()?;
                return Ok(Self::Value { revision, value: input.rest() });
            }
            _ => return Err(InvalidResponse),
        };
        input.end()?;
        Ok(response)
    }
}

impl Settled {
    fn write(&self, out: &mut Writer) {
        out.u64(self.revision);
        match self.unmet {
            None => out.u8(0),
            Some(unmet) => {
                out.u8(1);
                out.u8(unmet.condition);
                out.u64(unmet.current);
            }
        }
        out.u8(u8::try_from(self.results.len()).expect("transactions are short"));
        self.results.iter().for_each(|result| result.write(out));
    }

    fn read(input: &mut Reader) -> Result<Self, InvalidResponse> {
        let revision = input.u64()?;
        let unmet = match flag(input)? {
            false => None,
            true => Some(Unmet { condition: input.u8()?, current: input.u64()? }),
        };
        let mut results = Vec::new();
        for _ in 0..input.u8()? {
            results.push(StepResult::read(input)?);
        }
        Ok(Self { revision, unmet, results })
    }
}

impl StepResult {
    fn write(&self, out: &mut Writer) {
        match self {
            Self::Added(number) => {
                out.u8(1);
                out.i64(*number);
            }
            Self::Cleared { was_there, previous } => {
                out.u8(2);
                out.u8(u8::from(*was_there));
                write_optional(out, previous.as_ref());
            }
            Self::ClearedRange { cleared, has_more } => {
                out.u8(3);
                out.u32(*cleared);
                out.u8(u8::from(*has_more));
            }
            Self::Got(entry) => {
                out.u8(4);
                write_optional(out, entry.as_ref());
            }
            Self::Listed(page) => {
                out.u8(5);
                page.write(out);
            }
            Self::Set { previous } => {
                out.u8(6);
                write_optional(out, previous.as_ref());
            }
        }
    }

    fn read(input: &mut Reader) -> Result<Self, InvalidResponse> {
        Ok(match input.u8()? {
            1 => Self::Added(input.i64()?),
            2 => Self::Cleared { was_there: flag(input)?, previous: read_optional(input)? },
            3 => Self::ClearedRange { cleared: input.u32()?, has_more: flag(input)? },
            4 => Self::Got(read_optional(input)?),
            5 => Self::Listed(Page::read(input)?),
            6 => Self::Set { previous: read_optional(input)? },
            _ => return Err(InvalidResponse),
        })
    }
}

impl Lease {
    fn write(&self, out: &mut Writer) {
        out.u64(self.id);
        out.u64(u64::try_from(self.ttl.as_millis()).unwrap_or(u64::MAX));
        out.u64(self.keys);
    }

    fn read(input: &mut Reader) -> Result<Self, InvalidResponse> {
        let (id, ttl) = (input.u64()?, Duration::from_millis(input.u64()?));
        Ok(Self { id, ttl, keys: input.u64()? })
    }
}

impl State {
    fn numbers(&self) -> [u64; 9] {
        [
            self.revision,
            self.first,
            self.keys,
            self.bytes,
            self.history_changes,
            self.history_bytes,
            self.limits.bytes_max,
            self.limits.history_changes_max,
            self.limits.history_bytes_max,
        ]
    }

    fn read(input: &mut Reader) -> Result<Self, InvalidResponse> {
        Ok(Self {
            revision: input.u64()?,
            first: input.u64()?,
            keys: input.u64()?,
            bytes: input.u64()?,
            history_changes: input.u64()?,
            history_bytes: input.u64()?,
            limits: Limits {
                bytes_max: input.u64()?,
                history_changes_max: input.u64()?,
                history_bytes_max: input.u64()?,
            },
        })
    }
}

impl Failure {
    /// What it is called on the wire, and what it says.
    const fn numbers(self) -> (u8, u64) {
        match self {
            Self::Behind { revision } => (1, revision),
            Self::Compacted { first } => (2, first),
            Self::Fenced => (3, 0),
            Self::LeaseFull => (4, 0),
            Self::LeaseUnknown { lease } => (5, lease),
            Self::NotNumber => (6, 0),
            Self::Quota { bytes_max } => (7, bytes_max),
            Self::ResultsTooLarge => (8, 0),
        }
    }

    fn read(input: &mut Reader) -> Result<Self, InvalidResponse> {
        Ok(match (input.u8()?, input.u64()?) {
            (1, revision) => Self::Behind { revision },
            (2, first) => Self::Compacted { first },
            (3, 0) => Self::Fenced,
            (4, 0) => Self::LeaseFull,
            (5, lease) => Self::LeaseUnknown { lease },
            (6, 0) => Self::NotNumber,
            (7, bytes_max) => Self::Quota { bytes_max },
            (8, 0) => Self::ResultsTooLarge,
            _ => return Err(InvalidResponse),
        })
    }
}

pub(super) const REASONS: [InvalidCommand; 5] = [
    InvalidCommand::Key,
    InvalidCommand::TooMany,
    InvalidCommand::Truncated,
    InvalidCommand::Unknown,
    InvalidCommand::Value,
];

const fn reason_number(reason: InvalidCommand) -> u8 {
    match reason {
        InvalidCommand::Key => 1,
        InvalidCommand::Truncated => 2,
        InvalidCommand::Unknown => 3,
        InvalidCommand::Value => 4,
        InvalidCommand::TooMany => 5,
    }
}

fn numbers<const COUNT: usize>(out: &mut Writer, kind: u8, numbers: [u64; COUNT]) {
    out.u8(kind);
    for number in numbers {
        out.u64(number);
    }
}
