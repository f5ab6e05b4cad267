//! Questions to the store.
//!
//! ```text
//! query      1 | key                                                     GET
//!            2 | revision u64, 0 now | key                               ENTRY
//!            3 | selection                                               LIST
//!            4 | after u64 | limit u32 | key                             HISTORY
//!            5 | previous u8 | position | limit u32 | bytes u32 | range  EVENTS
//!            6 | revision u64 | query                                    AT LEAST
//!            7 | after u64 | limit u32                                   LEASES
//!            8                                                           STATE
//! selection  flags u8 | revision u64, 0 now | limit u32 | bytes u32 | range
//!            flags: 1 keys only, 2 backwards, 4 count only
//! position   revision u64 | ordinal u32
//! ```
//!
//! Pure; see the [module above](super) for lengths and numbers.

use bytes::Bytes;

use super::range::KeyRange;
use super::wire::{Reader, Writer};
use super::{InvalidCommand, check_key};

/// Entries or events that one answer has at most, whatever was asked for.
pub const PAGE_LIMIT_MAX: u32 = 10_000;
/// Bytes of keys and values after which an answer ends, whatever was asked for. A single entry may
/// be larger.
pub const PAGE_BYTES_MAX: u32 = 1024 * 1024;

const GET: u8 = 1;
const ENTRY: u8 = 2;
const LIST: u8 = 3;
const HISTORY: u8 = 4;
const EVENTS: u8 = 5;
const AT_LEAST: u8 = 6;
const LEASES: u8 = 7;
const STATE: u8 = 8;

const KEYS_ONLY: u8 = 1;
const REVERSE: u8 = 2;
const COUNT_ONLY: u8 = 4;

/// A question that changes nothing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Query {
    /// A question to a store that has come to a revision at least; any replica can answer it. As a
    /// query that waits it is answered as soon as that is so.
    AtLeast {
        /// The revision.
        revision: u64,
        /// What is asked then; neither this again nor events.
        query: Box<Self>,
    },
    /// What a key has, or had at a revision, with everything that is kept about it.
    Entry {
        /// The key.
        key: Bytes,
        /// The revision; 0 for the present one.
        revision: u64,
    },
    /// Changes, in their order. As a query that waits it is answered when there is one.
    Events(EventQuery),
    /// What value a key has.
    Get {
        /// The key.
        key: Bytes,
    },
    /// What has become of a key, as far back as is known.
    History {
        /// The key.
        key: Bytes,
        /// Changes after this revision.
        after: u64,
        /// So many at most, the oldest first.
        limit: u32,
    },
    /// The leases there are.
    Leases {
        /// With a higher id than this.
        after: u64,
        /// So many at most.
        limit: u32,
    },
    /// A page of keys.
    List(Selection),
    /// How large the store is, and how far its history goes back.
    State,
}

/// Which keys a page has.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Selection {
    /// From this range.
    pub range: KeyRange,
    /// As they were at this revision; 0 for the present one.
    pub revision: u64,
    /// So many at most, and never more than [`PAGE_LIMIT_MAX`].
    pub limit: u32,
    /// Ends when keys and values have more bytes than this, and never later than with
    /// [`PAGE_BYTES_MAX`]; but has at least one entry, if there is one.
    pub bytes_max: u32,
    /// Without the values.
    pub keys_only: bool,
    /// The last keys first.
    pub is_reverse: bool,
    /// Says how many there are, and nothing about them; the limits mean nothing then.
    pub count_only: bool,
}

/// Which events are asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EventQuery {
    /// Of these keys.
    pub range: KeyRange,
    /// From this one on.
    pub from: Position,
    /// So many at most, and never more than [`PAGE_LIMIT_MAX`].
    pub limit: u32,
    /// Ends as a [`Selection`] does.
    pub bytes_max: u32,
    /// With what was there before.
    pub wants_previous: bool,
}

/// A place in the sequence of all changes.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Position {
    /// The revision of the change.
    pub revision: u64,
    /// Its place among the changes of that revision, in the order of their keys, from 0.
    pub ordinal: u32,
}

impl Selection {
    /// The first page of the range as it is now.
    pub fn of(range: KeyRange) -> Self {
        Self {
            range,
            revision: 0,
            limit: PAGE_LIMIT_MAX,
            bytes_max: PAGE_BYTES_MAX,
            keys_only: false,
            is_reverse: false,
            count_only: false,
        }
    }

    pub(super) fn write(&self, out: &mut Writer) {
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        out.u8(flag(self.keys_only, KEYS_ONLY)
            | flag(self.is_reverse, REVERSE)
            | flag(self.count_only, COUNT_ONLY));
        out.u64(self.revision);
        out.u32(self.limit);
        out.u32(self.bytes_max);
        self.range.write(out);
    }

    pub(super) fn read(input: &mut Reader) -> Result<Self, InvalidCommand> {
        let flags = input.u8()?;
        if flags & !(KEYS_ONLY | REVERSE | COUNT_ONLY) != 0 {
            return Err(InvalidCommand::Unknown);
        }
        Ok(Self {
            keys_only: flags & KEYS_ONLY != 0,
            is_reverse: flags & REVERSE != 0,
            count_only: flags & COUNT_ONLY != 0,
            revision: input.u64()?,
            limit: input.u32()?,
            bytes_max: input.u32()?,
            range: KeyRange::read(input)?,
        })
    }
}

impl Query {
    /// The bytes to ask with.
    ///
    /// # Errors
    ///
    /// [`InvalidCommand`]: a key is outside its limits, or a query is inside another that cannot be.
    pub fn encode(&self) -> Result<Bytes, InvalidCommand> {
        self.check()?;
        let mut out = Writer::default();
        self.write(&mut out);
        Ok(out.finish())
    }

    /// Reads a query; keys are slices of `bytes`.
    ///
    /// # Errors
    ///
    /// [`InvalidCommand`] says what is wrong.
    pub fn decode(bytes: &Bytes) -> Result<Self, InvalidCommand> {
        let mut input = Reader::new(bytes);
        let query = match input.u8()? {
            AT_LEAST => {
                let revision = input.u64()?;
                let inner = input.rest();
                // Looked at before it is read, so that nothing nests.
                if inner.first() == Some(&AT_LEAST) {
                    return Err(InvalidCommand::Unknown);
                }
                let query = Box::new(Self::decode(&inner)?);
                Self::AtLeast { revision, query }
            }
            ENTRY => Self::Entry { revision: input.u64()?, key: input.rest() },
            EVENTS => Self::Events(EventQuery::read(input)?),
            GET => Self::Get { key: input.rest() },
            HISTORY => {
                Self::History { after: input.u64()?, limit: input.u32()?, key: input.rest() }
            }
            LEASES => {
                let query = Self::Leases { after: input.u64()?, limit: input.u32()? };
                input.end()?;
                query
            }
            LIST => {
                let selection = Selection::read(&mut input)?;
                input.end()?;
                Self::List(selection)
            }
            STATE => {
                input.end()?;
                Self::State
            }
            _ => return Err(InvalidCommand::Unknown),
        };
        query.check()?;
        Ok(query)
    }

    fn check(&self) -> Result<(), InvalidCommand> {
        match self {
            Self::AtLeast { query, .. } => {
                let nests = matches!(**query, Self::AtLeast { .. } | Self::Events(_));
                if nests { Err(InvalidCommand::Unknown) } else { query.check() }
            }
            Self::Entry { key, .. } | Self::Get { key } | Self::History { key, .. } => {
                check_key(key)
            }
            Self::Events(events) => events.range.check(),
            Self::List(selection) => selection.range.check(),
            Self::Leases { .. } | Self::State => Ok(()),
        }
    }

    fn write(&self, out: &mut Writer) {
        match self {
            Self::AtLeast { revision, query } => {
                out.u8(AT_LEAST);
                out.u64(*revision);
                query.write(out);
            }
            Self::Entry { key, revision } => {
                out.u8(ENTRY);
                out.u64(*revision);
                out.rest(key);
            }
            Self::Events(events) => {
                out.u8(EVENTS);
                events.write(out);
            }
            Self::Get { key } => {
                out.u8(GET);
                out.rest(key);
            }
            Self::History { key, after, limit } => {
                out.u8(HISTORY);
                out.u64(*after);
                out.u32(*limit);
                out.rest(key);
            }
            Self::Leases { after, limit } => {
                out.u8(LEASES);
                out.u64(*after);
                out.u32(*limit);
            }
            Self::List(selection) => {
                out.u8(LIST);
                selection.write(out);
            }
            Self::State => out.u8(STATE),
        }
    }
}

impl EventQuery {
    fn write(&self, out: &mut Writer) {
        out.u8(u8::from(self.wants_previous));
        self.from.write(out);
        out.u32(self.limit);
        out.u32(self.bytes_max);
        self.range.write(out);
    }

    fn read(mut input: Reader) -> Result<Self, InvalidCommand> {
        let wants_previous = match input.u8()? {
            0 => false,
            1 => true,
            _ => return Err(InvalidCommand::Unknown),
        };
        let query = Self {
            wants_previous,
            from: Position::read(&mut input)?,
            limit: input.u32()?,
            bytes_max: input.u32()?,
            range: KeyRange::read(&mut input)?,
        };
        input.end()?;
        Ok(query)
    }
}

impl Position {
    /// The first change after everything that happened at a revision.
    pub fn after(revision: u64) -> Self {
        Self { revision: revision.saturating_add(1), ordinal: 0 }
    }

    pub(super) fn write(self, out: &mut Writer) {
        out.u64(self.revision);
        out.u32(self.ordinal);
    }

    pub(super) fn read(input: &mut Reader) -> Result<Self, super::wire::Cut> {
        Ok(Self { revision: input.u64()?, ordinal: input.u32()? })
    }
}
