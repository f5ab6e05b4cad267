//! What changes a log, as bytes.
//!
//! ```text
//! command   1 | topic | flags u8 | expected u64 | timestamp ms u64 | count u32 | record...  append
//!           2 | topic | options                                          create
//!           3 | topic | options                                          configure
//!           4 | topic                                                    delete
//!           5 | topic | before u64                                       trim
//!           6 | topic | cursor | expectation u8 | expected u64 | offset u64   set a cursor
//!           7 | topic | cursor                                           clear a cursor
//!           8 | seen s u32 | step s u32                                  clock
//!           9 | topic | command of groups                                groups
//!          10 | carry                                                    carry
//!          11 | compact                                                  compact
//! topic, cursor   bytes u8 | name
//! flags     1: an offset is expected; 2: the topic must exist; `expected` is 0 without 1
//! expectation     0: any; 1: no such cursor; 2: `expected`
//! ```
//!
//! Numbers are little endian. Pure; decoding never panics and copies nothing.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::compaction::Compact;
use super::name::{is_name, put_name, take_name};
use super::options::TopicOptions;
use super::record::{self, InvalidRecord, Record};

const APPEND: u8 = 1;
const CREATE: u8 = 2;
const CONFIGURE: u8 = 3;
const DELETE: u8 = 4;
const TRIM: u8 = 5;
const SET_CURSOR: u8 = 6;
const CLEAR_CURSOR: u8 = 7;
const CLOCK: u8 = 8;
const GROUP: u8 = 9;
const CARRY: u8 = 10;
const COMPACT: u8 = 11;

const EXPECTS: u8 = 1;
const MUST_EXIST: u8 = 2;

/// A change of the log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Command {
    /// Appends records to a topic, all or none.
    Append(Append),
    /// Records that lie in this entry from now on, in parts that are not looked at here. What is
    /// not what the log has is passed over. Proposed by the replica that leads.
    Carry(Bytes),
    /// Removes a cursor. That there is none is no error.
    ClearCursor {
        /// The topic.
        topic: Bytes,
        /// The cursor.
        cursor: Bytes,
    },
    /// Lets the clock that ages are counted by go on. Proposed by the replica that leads.
    Clock {
        /// What it showed when the time began to count, in seconds.
        seen: u32,
        /// The time that has passed, in seconds.
        step: u32,
    },
    /// A step of a round of compaction, or its beginning, which is not looked at here. What does not
    /// fit to what the log has is refused. Proposed by the replica that leads.
    Compact(Bytes),
    /// Gives a topic other options.
    Configure {
        /// The topic.
        topic: Bytes,
        /// All of its options.
        options: TopicOptions,
    },
    /// Creates a topic. That it exists with these options is no error.
    Create {
        /// The topic.
        topic: Bytes,
        /// Its options.
        options: TopicOptions,
    },
    /// Removes a topic with everything in it. That there is none is no error.
    Delete {
        /// The topic.
        topic: Bytes,
    },
    /// Something for the groups of a topic. To create or to join a group creates the topic, if
    /// there is none, as an append does.
    Group {
        /// The topic.
        topic: Bytes,
        /// A [`GroupCommand`](super::groups::GroupCommand), which is not looked at here.
        command: Bytes,
    },
    /// Sets a cursor.
    SetCursor {
        /// The topic.
        topic: Bytes,
        /// The cursor.
        cursor: Bytes,
        /// What it has to be before.
        expected: Expected,
        /// Its new offset.
        offset: u64,
    },
    /// Removes the records below an offset.
    Trim {
        /// The topic.
        topic: Bytes,
        /// The first offset that stays.
        before: u64,
    },
}

/// Records for a topic, as their writer encoded them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Append {
    /// The topic.
    pub topic: Bytes,
    /// The offset that the first of the records has to get; any if none.
    pub expected: Option<u64>,
    /// Whether the topic has to exist; otherwise it is created with default options.
    pub must_exist: bool,
    /// When the writer appended them by its own account, in milliseconds since 1970.
    pub timestamp: u64,
    /// How many there are.
    pub count: u32,
    /// The records.
    pub records: Bytes,
}

/// What a cursor has to be before it is set.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Expected {
    /// There must be none.
    Absent,
    /// Whatever it is.
    #[default]
    Any,
    /// This offset.
    Offset(u64),
}

/// Why bytes are not a command or a query.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidCommand {
    /// The bytes are cut short, or there are too many.
    #[error("not a command or a query of the log")]
    Damaged,
    /// The name of a topic or a cursor is none.
    #[error("a name has 1 to 255 letters, digits, dots, underscores and hyphens of ASCII")]
    Name,
    /// An option is outside its limits.
    #[error("an option of the topic is outside its limits")]
    Options,
    /// No command has this number.
    #[error("unknown command number")]
    Unknown,
}

impl Command {
    /// The bytes to propose.
    ///
    /// # Errors
    ///
    /// [`InvalidCommand`]: a name or an option is outside its limits.
    pub fn encode(&self) -> Result<Bytes, InvalidCommand> {
        self.check()?;
        let mut out = BytesMut::new();
        match self {
            Self::Append(append) => append.put(&mut out),
            Self::Carry(parts) => {
                out.put_u8(CARRY);
                out.put_slice(parts);
            }
            Self::ClearCursor { topic, cursor } => {
                begin(&mut out, CLEAR_CURSOR, topic);
                put_name(&mut out, cursor);
            }
            Self::Clock { seen, step } => {
                out.put_u8(CLOCK);
                out.put_u32_le(*seen);
                out.put_u32_le(*step);
            }
            Self::Compact(step) => {
                out.put_u8(COMPACT);
                out.put_slice(step);
            }
            Self::Configure { topic, options } => {
                begin(&mut out, CONFIGURE, topic);
                options.put(&mut out);
            }
            Self::Create { topic, options } => {
                begin(&mut out, CREATE, topic);
                options.put(&mut out);
            }
            Self::Delete { topic } => begin(&mut out, DELETE, topic),
            Self::Group { topic, command } => {
                begin(&mut out, GROUP, topic);
                out.put_slice(command);
            }
            Self::SetCursor { topic, cursor, expected, offset } => {
                begin(&mut out, SET_CURSOR, topic);
                put_name(&mut out, cursor);
                expected.put(&mut out);
                out.put_u64_le(*offset);
            }
            Self::Trim { topic, before } => {
                begin(&mut out, TRIM, topic);
                out.put_u64_le(*before);
            }
        }
        Ok(out.freeze())
    }

    /// Reads a command; whatever has no fixed size is a slice of `bytes`. The records of an append
    /// are not looked at.
    ///
    /// # Errors
    ///
    /// [`InvalidCommand`] says what is wrong.
    pub fn decode(bytes: &Bytes) -> Result<Self, InvalidCommand> {
        let mut input = bytes.clone();
        let kind = input.try_get_u8().map_err(|_| InvalidCommand::Damaged)?;
        if kind == CLOCK {
            let (seen, step) = (take_u32(&mut input)?, take_u32(&mut input)?);
            return ended(&input, Self::Clock { seen, step });
        }
        if kind == CARRY {
            return Ok(Self::Carry(input));
        }
        if kind == COMPACT {
            return Ok(Self::Compact(input));
        }
        if kind != GROUP && !(APPEND..=CLEAR_CURSOR).contains(&kind) {
            return Err(InvalidCommand::Unknown);
        }
        let topic = take_name(&mut input).ok_or(InvalidCommand::Name)?;
        if kind == APPEND {
            return Append::take(topic, input).map(Self::Append);
        }
        let command = match kind {
            GROUP => return Ok(Self::Group { topic, command: input }),
            CREATE => Self::Create { topic, options: take_options(&mut input)? },
            CONFIGURE => Self::Configure { topic, options: take_options(&mut input)? },
            DELETE => Self::Delete { topic },
            TRIM => Self::Trim { topic, before: take_u64(&mut input)? },
            SET_CURSOR => {
                let cursor = take_name(&mut input).ok_or(InvalidCommand::Name)?;
                let expected = Expected::take(&mut input)?;
                Self::SetCursor { topic, cursor, expected, offset: take_u64(&mut input)? }
            }
            _ => {
                let cursor = take_name(&mut input).ok_or(InvalidCommand::Name)?;
                Self::ClearCursor { topic, cursor }
            }
        };
        ended(&input, command)
    }

    fn check(&self) -> Result<(), InvalidCommand> {
        let (topic, cursor, options) = match self {
            Self::Append(append) => (&append.topic, None, None),
            Self::ClearCursor { topic, cursor } | Self::SetCursor { topic, cursor, .. } => {
                (topic, Some(cursor), None)
            }
            Self::Carry(_) | Self::Clock { .. } | Self::Compact(_) => return Ok(()),
            Self::Configure { topic, options } | Self::Create { topic, options } => {
                (topic, None, Some(options))
            }
            Self::Delete { topic } | Self::Group { topic, .. } | Self::Trim { topic, .. } => {
                (topic, None, None)
            }
        };
        if !is_name(topic) || cursor.is_some_and(|cursor| !is_name(cursor)) {
            return Err(InvalidCommand::Name);
        }
        options.map_or(Ok(()), |options| options.check().map_err(|_| InvalidCommand::Options))
    }
}

impl Append {
    /// Records for a topic, that may get any offset.
    ///
    /// # Errors
    ///
    /// [`InvalidRecord`]: one of them is outside its limits, or all together are.
    pub fn new(
        topic: impl Into<Bytes>,
        timestamp: u64,
        records: &[Record],
    ) -> Result<Self, InvalidRecord> {
        let (topic, bytes) = (topic.into(), record::encode(records)?);
        let count = u32::try_from(records.len()).map_err(|_| InvalidRecord::Count)?;
        Ok(Self { topic, expected: None, must_exist: false, timestamp, count, records: bytes })
    }

    /// The append that a command is, if it is one.
    pub(super) fn peek(command: &Bytes) -> Option<Self> {
        if command.first() != Some(&APPEND) {
            return None;
        }
        let mut input = command.slice(1..);
        let topic = take_name(&mut input)?;
        Self::take(topic, input).ok()
    }

    fn put(&self, out: &mut BytesMut) {
        out.reserve(25 + self.topic.len() + self.records.len());
        begin(out, APPEND, &self.topic);
        let expects = if self.expected.is_some() { EXPECTS } else { 0 };
        out.put_u8(expects | if self.must_exist { MUST_EXIST } else { 0 });
        out.put_u64_le(self.expected.unwrap_or(0));
        out.put_u64_le(self.timestamp);
        out.put_u32_le(self.count);
        out.put_slice(&self.records);
    }

    fn take(topic: Bytes, mut input: Bytes) -> Result<Self, InvalidCommand> {
        let flags = take_u8(&mut input)?;
        let expected = take_u64(&mut input)?;
        let expects = flags & EXPECTS != 0;
        if flags & !(EXPECTS | MUST_EXIST) != 0 || (!expects && expected != 0) {
            return Err(InvalidCommand::Damaged);
        }
        Ok(Self {
            topic,
            expected: expects.then_some(expected),
            must_exist: flags & MUST_EXIST != 0,
            timestamp: take_u64(&mut input)?,
            count: take_u32(&mut input)?,
            records: input,
        })
    }
}

/// A command that has records of before.
#[derive(Clone, Debug)]
pub(super) enum Moved {
    /// The body of a carry.
    Carried(Bytes),
    /// A step of a round of compaction.
    Compacted(Compact),
}

impl Moved {
    /// The records that a command has of before, if it is such a command.
    pub(super) fn peek(command: &Bytes) -> Option<Self> {
        match command.first() {
            Some(&CARRY) => Some(Self::Carried(command.slice(1..))),
            Some(&COMPACT) => Compact::take(command.slice(1..)).map(Self::Compacted),
            Some(_) | None => None,
        }
    }
}

impl Expected {
    fn put(self, out: &mut BytesMut) {
        let (kind, offset) = match self {
            Self::Any => (0, 0),
            Self::Absent => (1, 0),
            Self::Offset(offset) => (2, offset),
        };
        out.put_u8(kind);
        out.put_u64_le(offset);
    }

    fn take(input: &mut Bytes) -> Result<Self, InvalidCommand> {
        match (take_u8(input)?, take_u64(input)?) {
            (0, 0) => Ok(Self::Any),
            (1, 0) => Ok(Self::Absent),
            (2, offset) => Ok(Self::Offset(offset)),
            _ => Err(InvalidCommand::Damaged),
        }
    }
}

fn begin(out: &mut BytesMut, kind: u8, topic: &[u8]) {
    out.put_u8(kind);
    put_name(out, topic);
}

fn take_options(input: &mut Bytes) -> Result<TopicOptions, InvalidCommand> {
    TopicOptions::take(input).map_err(|_| InvalidCommand::Options)
}

pub(super) fn take_u8(input: &mut Bytes) -> Result<u8, InvalidCommand> {
    input.try_get_u8().map_err(|_| InvalidCommand::Damaged)
}

pub(super) fn take_u32(input: &mut Bytes) -> Result<u32, InvalidCommand> {
    input.try_get_u32_le().map_err(|_| InvalidCommand::Damaged)
}

pub(super) fn take_u64(input: &mut Bytes) -> Result<u64, InvalidCommand> {
    input.try_get_u64_le().map_err(|_| InvalidCommand::Damaged)
}

/// What was read, if nothing is left.
pub(super) fn ended<T>(input: &Bytes, read: T) -> Result<T, InvalidCommand> {
    if input.is_empty() { Ok(read) } else { Err(InvalidCommand::Damaged) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::log::options::Compaction;
    use proptest::prelude::*;

    fn some_name() -> impl Strategy<Value = Bytes> {
        "[a-z0-9._-]{1,12}".prop_map(|name| Bytes::from(name.into_bytes()))
    }

    fn some_options() -> impl Strategy<Value = TopicOptions> {
        let some = || prop::option::of(1_u64..1_000);
        let compaction = prop::option::of((0_u64..1_000, 0_u64..1_000, 1_u8..=100));
        (some(), some(), some(), compaction, 1_u32..1_000_000).prop_map(
            |(age, bytes, records, compaction, record_bytes_max)| TopicOptions {
                age: age.map(Duration::from_secs),
                bytes,
                records,
                compaction: compaction.map(|(after, tombstones_for, dirty_percent)| {
                    let [after, tombstones_for] = [after, tombstones_for].map(Duration::from_secs);
                    Compaction { after, tombstones_for, dirty_percent }
                }),
                record_bytes_max,
            },
        )
    }

    fn some_append() -> impl Strategy<Value = Append> {
        let numbers = (prop::option::of(any::<u64>()), any::<bool>(), any::<u64>(), any::<u32>());
        (some_name(), numbers, prop::collection::vec(any::<u8>(), 0..20)).prop_map(
            |(topic, (expected, must_exist, timestamp, count), records)| {
                let records = records.into();
                Append { topic, expected, must_exist, timestamp, count, records }
            },
        )
    }

    fn some_command() -> impl Strategy<Value = Command> {
        let expected = prop_oneof![
            Just(Expected::Any),
            Just(Expected::Absent),
            any::<u64>().prop_map(Expected::Offset)
        ];
        prop_oneof![
            some_append().prop_map(Command::Append),
            (some_name(), some_options())
                .prop_map(|(topic, options)| Command::Create { topic, options }),
            (some_name(), some_options())
                .prop_map(|(topic, options)| Command::Configure { topic, options }),
            some_name().prop_map(|topic| Command::Delete { topic }),
            (some_name(), any::<u64>()).prop_map(|(topic, before)| Command::Trim { topic, before }),
            (some_name(), some_name(), expected, any::<u64>()).prop_map(
                |(topic, cursor, expected, offset)| {
                    Command::SetCursor { topic, cursor, expected, offset }
                }
            ),
            (some_name(), some_name())
                .prop_map(|(topic, cursor)| Command::ClearCursor { topic, cursor }),
            (some_name(), prop::collection::vec(any::<u8>(), 0..20))
                .prop_map(|(topic, command)| Command::Group { topic, command: command.into() }),
            prop::collection::vec(any::<u8>(), 0..20)
                .prop_map(|parts| Command::Carry(parts.into())),
            any::<(u32, u32)>().prop_map(|(seen, step)| Command::Clock { seen, step }),
        ]
    }

    proptest! {
        /// A command is in the log for ever: it has to be read as it was meant.
        #[test]
        fn commands_round_trip(command in some_command()) {
            let bytes = command.encode().unwrap();
            prop_assert_eq!(Command::decode(&bytes), Ok(command.clone()));
            let Command::Append(append) = command else {
                prop_assert_eq!(Append::peek(&bytes), None);
                if matches!(command, Command::Carry(_) | Command::Group { .. }) {
                    return Ok(());
                }
                // Only the records of an append may have any length here.
                for cut in 0..bytes.len() {
                    let options = match Command::decode(&bytes.slice(..cut)) {
                        Ok(Command::Create { options, .. } | Command::Configure { options, .. }) => {
                            options
                        }
                        other => {
                            prop_assert!(other.is_err(), "cut at {}", cut);
                            continue;
                        }
                    };
                    // Logs have these that were written before there was compaction.
                    prop_assert_eq!((options.compaction, bytes.len() - cut), (None, 17));
                }
                let mut long = BytesMut::from(&bytes[..]);
                long.put_u8(0);
                prop_assert!(Command::decode(&long.freeze()).is_err());
                return Ok(());
            };
            prop_assert_eq!(Append::peek(&bytes), Some(append));
        }

        /// Whatever a client sends is a command or is refused.
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let bytes = Bytes::from(bytes);
            drop(Command::decode(&bytes));
            drop(Append::peek(&bytes));
        }
    }

    /// Names come from users, and go into tables and files.
    #[test]
    fn names_and_options_are_checked_before_they_are_proposed() {
        let topic = Bytes::from_static(b"a/b");
        assert_eq!(Command::Delete { topic: topic.clone() }.encode(), Err(InvalidCommand::Name));
        let clear = Command::ClearCursor { topic: Bytes::from_static(b"a"), cursor: topic };
        assert_eq!(clear.encode(), Err(InvalidCommand::Name));
        let options = TopicOptions { bytes: Some(0), ..TopicOptions::default() };
        let create = Command::Create { topic: Bytes::from_static(b"a"), options };
        assert_eq!(create.encode(), Err(InvalidCommand::Options));
    }
}
