//! What a log is asked, as bytes.
//!
//! ```text
//! query     1 | topic | id u64 | from u64 | bytes u32 | records u32    read
//!           2 | topic | timestamp ms u64                               offset by time
//!           3 | topic                                                  one topic
//!           4 | prefix | after | limit u16                             topics
//!           5 | topic | cursor                                         one cursor
//!           6 | topic | after | limit u16                              cursors
//!           7 | topic | query of groups                                groups
//!           8 | slack u64                                              spare
//!           9 | after                                                  dirty
//!          10 | topic | id u64 | until u64                             sweep
//! topic, cursor   bytes u8 | name
//! prefix, after   bytes u8 | name, or the beginning of one, or nothing
//! ```
//!
//! Numbers are little endian. Pure; decoding never panics and copies nothing.

use bytes::{BufMut, Bytes, BytesMut};

use super::command::{InvalidCommand, ended, take_u8, take_u32, take_u64};
use super::name::{is_name, put_name, take_name, take_prefix};

const READ: u8 = 1;
const FIND: u8 = 2;
const TOPIC: u8 = 3;
const TOPICS: u8 = 4;
const CURSOR: u8 = 5;
const CURSORS: u8 = 6;
const GROUP: u8 = 7;
const SPARE: u8 = 8;
const DIRTY: u8 = 9;
const SWEEP: u8 = 10;

/// A question that changes nothing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Query {
    /// Where a cursor is.
    Cursor {
        /// The topic.
        topic: Bytes,
        /// The cursor.
        cursor: Bytes,
    },
    /// A page of the cursors of a topic, by name.
    Cursors {
        /// The topic.
        topic: Bytes,
        /// Begins behind this name; with the first if it is empty.
        after: Bytes,
        /// The most that are wanted.
        limit: u16,
    },
    /// The next topic that is worth a round of compaction.
    Dirty {
        /// Behind this name; the first if it is empty.
        after: Bytes,
    },
    /// The first record that was not appended before a time.
    Find {
        /// The topic.
        topic: Bytes,
        /// The time, in milliseconds since 1970.
        timestamp: u64,
    },
    /// Something about the groups of a topic.
    Group {
        /// The topic.
        topic: Bytes,
        /// A [`GroupQuery`](super::groups::GroupQuery), which is not looked at here.
        query: Bytes,
    },
    /// The records from an offset on. As a query that waits it is answered when there are any.
    Read(Read),
    /// What should be carried forward, so that the log has no more than twice the bytes that are
    /// kept, and `slack` bytes.
    Spare {
        /// Bytes.
        slack: u64,
    },
    /// The next points of the sweep of a topic, as to be carried forward, as many as one command
    /// may have.
    Sweep {
        /// The topic.
        topic: Bytes,
        /// Its id.
        id: u64,
        /// Those that end before here; if it is 0, all that are left of a sweep that is under way.
        until: u64,
    },
    /// What is known of a topic.
    Topic {
        /// The topic.
        topic: Bytes,
    },
    /// A page of the topics, by name.
    Topics {
        /// Those whose names begin like this.
        prefix: Bytes,
        /// Begins behind this name; with the first if it is empty.
        after: Bytes,
        /// The most that are wanted.
        limit: u16,
    },
}

/// Which records are wanted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Read {
    /// The topic.
    pub topic: Bytes,
    /// The [id](super::TopicView::id) that it has to have; any if 0.
    pub id: u64,
    /// The first offset.
    pub from: u64,
    /// Bytes that are wanted at most; a batch is given if it is the first, whatever its size.
    pub bytes_max: u32,
    /// Records that are wanted at most, likewise.
    pub records_max: u32,
}

impl Query {
    /// The bytes to ask with.
    ///
    /// # Errors
    ///
    /// [`InvalidCommand::Name`]: a name is none.
    pub fn encode(&self) -> Result<Bytes, InvalidCommand> {
        let mut out = BytesMut::new();
        match self {
            Self::Cursor { topic, cursor } => {
                begin(&mut out, CURSOR, topic)?;
                put_checked(&mut out, cursor)?;
            }
            Self::Cursors { topic, after, limit } => {
                begin(&mut out, CURSORS, topic)?;
                put_prefix(&mut out, after)?;
                out.put_u16_le(*limit);
            }
            Self::Dirty { after } => {
                out.put_u8(DIRTY);
                put_prefix(&mut out, after)?;
            }
            Self::Find { topic, timestamp } => {
                begin(&mut out, FIND, topic)?;
                out.put_u64_le(*timestamp);
            }
            Self::Group { topic, query } => {
                begin(&mut out, GROUP, topic)?;
                out.put_slice(query);
            }
            Self::Read(read) => {
                begin(&mut out, READ, &read.topic)?;
                out.put_u64_le(read.id);
                out.put_u64_le(read.from);
                out.put_u32_le(read.bytes_max);
                out.put_u32_le(read.records_max);
            }
            Self::Spare { slack } => {
                out.put_u8(SPARE);
                out.put_u64_le(*slack);
            }
            Self::Sweep { topic, id, until } => {
                begin(&mut out, SWEEP, topic)?;
                out.put_u64_le(*id);
                out.put_u64_le(*until);
            }
            Self::Topic { topic } => begin(&mut out, TOPIC, topic)?,
            Self::Topics { prefix, after, limit } => {
                out.put_u8(TOPICS);
                put_prefix(&mut out, prefix)?;
                put_prefix(&mut out, after)?;
                out.put_u16_le(*limit);
            }
        }
        Ok(out.freeze())
    }

    /// Reads a query; names are slices of `bytes`.
    ///
    /// # Errors
    ///
    /// [`InvalidCommand`] says what is wrong.
    pub fn decode(bytes: &Bytes) -> Result<Self, InvalidCommand> {
        let mut input = bytes.clone();
        let kind = take_u8(&mut input)?;
        let name = |input: &mut Bytes| take_name(input).ok_or(InvalidCommand::Name);
        let prefix = |input: &mut Bytes| take_prefix(input).ok_or(InvalidCommand::Name);
        let query = match kind {
            READ => {
                let topic = name(&mut input)?;
                let (id, from) = (take_u64(&mut input)?, take_u64(&mut input)?);
                let (bytes_max, records_max) = (take_u32(&mut input)?, take_u32(&mut input)?);
                Self::Read(Read { topic, id, from, bytes_max, records_max })
            }
            FIND => {
                let topic = name(&mut input)?;
                Self::Find { topic, timestamp: take_u64(&mut input)? }
            }
            SPARE => Self::Spare { slack: take_u64(&mut input)? },
            DIRTY => Self::Dirty { after: prefix(&mut input)? },
            SWEEP => {
                let topic = name(&mut input)?;
                let (id, until) = (take_u64(&mut input)?, take_u64(&mut input)?);
                Self::Sweep { topic, id, until }
            }
            TOPIC => Self::Topic { topic: name(&mut input)? },
            TOPICS => {
                let (prefix, after) = (prefix(&mut input)?, prefix(&mut input)?);
                Self::Topics { prefix, after, limit: take_u16(&mut input)? }
            }
            CURSOR => Self::Cursor { topic: name(&mut input)?, cursor: name(&mut input)? },
            CURSORS => {
                let (topic, after) = (name(&mut input)?, prefix(&mut input)?);
                Self::Cursors { topic, after, limit: take_u16(&mut input)? }
            }
            GROUP => return Ok(Self::Group { topic: name(&mut input)?, query: input }),
            _ => return Err(InvalidCommand::Unknown),
        };
        ended(&input, query)
    }
}

fn begin(out: &mut BytesMut, kind: u8, topic: &[u8]) -> Result<(), InvalidCommand> {
    out.put_u8(kind);
    put_checked(out, topic)
}

fn put_checked(out: &mut BytesMut, name: &[u8]) -> Result<(), InvalidCommand> {
    if !is_name(name) {
        return Err(InvalidCommand::Name);
    }
    put_name(out, name);
    Ok(())
}

fn put_prefix(out: &mut BytesMut, prefix: &[u8]) -> Result<(), InvalidCommand> {
    if prefix.is_empty() {
        put_name(out, prefix);
        return Ok(());
    }
    put_checked(out, prefix)
}

pub(super) fn take_u16(input: &mut Bytes) -> Result<u16, InvalidCommand> {
    let (low, high) = (take_u8(input)?, take_u8(input)?);
    Ok(u16::from_le_bytes([low, high]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn some_name() -> impl Strategy<Value = Bytes> {
        "[a-z0-9._-]{1,12}".prop_map(|name| Bytes::from(name.into_bytes()))
    }

    fn some_prefix() -> impl Strategy<Value = Bytes> {
        "[a-z0-9._-]{0,12}".prop_map(|name| Bytes::from(name.into_bytes()))
    }

    fn some_query() -> impl Strategy<Value = Query> {
        prop_oneof![
            (some_name(), any::<(u64, u64, u32, u32)>()).prop_map(
                |(topic, (id, from, bytes_max, records_max))| {
                    Query::Read(Read { topic, id, from, bytes_max, records_max })
                }
            ),
            (some_name(), any::<u64>())
                .prop_map(|(topic, timestamp)| Query::Find { topic, timestamp }),
            some_name().prop_map(|topic| Query::Topic { topic }),
            any::<u64>().prop_map(|slack| Query::Spare { slack }),
            some_prefix().prop_map(|after| Query::Dirty { after }),
            (some_name(), any::<(u64, u64)>()).prop_map(|(topic, (id, until))| Query::Sweep {
                topic,
                id,
                until
            }),
            (some_prefix(), some_prefix(), any::<u16>())
                .prop_map(|(prefix, after, limit)| Query::Topics { prefix, after, limit }),
            (some_name(), some_name()).prop_map(|(topic, cursor)| Query::Cursor { topic, cursor }),
            (some_name(), some_prefix(), any::<u16>())
                .prop_map(|(topic, after, limit)| Query::Cursors { topic, after, limit }),
        ]
    }

    proptest! {
        /// What is asked is what was meant, and half of it is nothing.
        #[test]
        fn queries_round_trip(query in some_query()) {
            let bytes = query.encode().unwrap();
            prop_assert_eq!(Query::decode(&bytes), Ok(query));
            for cut in 0..bytes.len() {
                prop_assert!(Query::decode(&bytes.slice(..cut)).is_err(), "cut at {}", cut);
            }
        }

        /// Whatever a client sends is a query or is refused.
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            drop(Query::decode(&Bytes::from(bytes)));
        }
    }
}
