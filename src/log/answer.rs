//! What a log answers, as bytes.
//!
//! ```text
//! answer    0                                                          done
//!           1 | id u64 | first u64 | next u64                          appended
//!           2 | id u64 | first u64 | next u64 | gaps u8 | batch...     records
//!           3 | offset u64                                             offset
//!           4 | view                                                   topic
//!           5 | more u8 | (topic | view)...                            topics
//!           6 | present u8 | offset u64                                cursor
//!           7 | more u8 | (cursor | offset u64)...                     cursors
//!           8 | response of groups                                     groups
//!           9 | carry, or nothing                                      spare
//!          10 | nothing, or topic | id u64 | from u64 | until u64 | tombstones u64   dirty
//!         255 | number u8 | detail u64                                 refused
//! batch     base u64 | timestamp ms u64 | count u32 | bytes u32 | record...
//! view      id u64 | options | first u64 | next u64 | bytes u64 | timestamp ms u64 | cursors u32
//! topic, cursor   bytes u8 | name
//! ```
//!
//! Numbers are little endian; `more`, `present` and `gaps` are 0 or 1. Pure; decoding never panics and
//! copies nothing: the records of a batch are those that were proposed, byte for byte.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::command::{InvalidCommand, ended, take_u8, take_u32, take_u64};
use super::name::{put_name, take_name};
use super::options::TopicOptions;
use super::record::{self, InvalidRecord, Record};
use super::refusal::Refusal;

const DONE: u8 = 0;
const APPENDED: u8 = 1;
const RECORDS: u8 = 2;
const OFFSET: u8 = 3;
const TOPIC: u8 = 4;
const TOPICS: u8 = 5;
const CURSOR: u8 = 6;
const CURSORS: u8 = 7;
const GROUP: u8 = 8;
const SPARE: u8 = 9;
const DIRTY: u8 = 10;
const REFUSED: u8 = 255;

/// An answer of the log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    /// Records were appended.
    Appended {
        /// The topic's id.
        id: u64,
        /// Offset of the first of them.
        first: u64,
        /// The offset behind the last.
        next: u64,
    },
    /// Where a cursor is; none if there is none.
    Cursor(Option<u64>),
    /// Cursors in the order of their names.
    Cursors {
        /// Each with its offset.
        cursors: Vec<(Bytes, u64)>,
        /// Whether there are more behind them.
        more: bool,
    },
    /// A topic that is worth a round of compaction; none if none is.
    Dirty(Option<Dirty>),
    /// It is done.
    Done,
    /// What the groups of a topic say: a [`GroupResponse`](super::groups::GroupResponse), which is
    /// not looked at here.
    Group(Bytes),
    /// An offset: what was found, or the first that is kept.
    Offset(u64),
    /// Records of a topic.
    Records(Page),
    /// It was refused and changed nothing.
    Refused(Refusal),
    /// What is to be carried forward, as the body of [`Command::Carry`](super::Command::Carry);
    /// nothing if there is no need.
    Spare(Bytes),
    /// A topic.
    Topic(TopicView),
    /// Topics in the order of their names.
    Topics {
        /// Each with its name.
        topics: Vec<(Bytes, TopicView)>,
        /// Whether there are more behind them.
        more: bool,
    },
}

/// What a round of compaction has to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Dirty {
    /// The topic.
    pub topic: Bytes,
    /// The topic's id.
    pub id: u64,
    /// Up to here no record is followed by another of its key that is before here as well.
    pub from: u64,
    /// Up to here records may be compacted.
    pub until: u64,
    /// Up to here tombstones may go.
    pub tombstones: u64,
}

/// Records of a topic, in order, and without a gap unless it says so.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Page {
    /// The topic's id.
    pub id: u64,
    /// The oldest offset that is kept.
    pub first: u64,
    /// The offset that the next record will have: the high watermark of what the replica that
    /// answered has applied.
    pub next: u64,
    /// Whether records may be missing that others with the same key have followed.
    pub gaps: bool,
    /// The records. The first batch may begin before what was asked for.
    pub batches: Vec<Batch>,
}

/// Records that were appended together, as their writer encoded them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Batch {
    /// Offset of the first of them; the others follow without a gap.
    pub base: u64,
    /// When the writer appended them by its own account, in milliseconds since 1970.
    pub timestamp: u64,
    /// How many there are.
    pub count: u32,
    /// The records.
    pub records: Bytes,
}

/// What is known of a topic.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize)]
pub struct TopicView {
    /// Tells it from a topic of the same name that was deleted before: the index of the entry that
    /// created it.
    pub id: u64,
    /// How it keeps its records.
    pub options: TopicOptions,
    /// The oldest offset that is kept.
    pub first: u64,
    /// The offset that the next record will have.
    pub next: u64,
    /// Bytes of the records that are kept, in whole intervals of the index.
    pub bytes: u64,
    /// The latest timestamp of a record so far, in milliseconds since 1970 by the account of its
    /// writer; 0 before there is any.
    pub timestamp: u64,
    /// Cursors it has.
    pub cursors: u32,
}

/// The bytes are not an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not an answer of the log")]
pub struct InvalidAnswer;

impl Answer {
    /// The bytes of the answer.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        match self {
            Self::Appended { id, first, next } => put(&mut out, APPENDED, &[*id, *first, *next]),
            Self::Cursor(offset) => {
                out.put_slice(&[CURSOR, u8::from(offset.is_some())]);
                out.put_u64_le(offset.unwrap_or(0));
            }
            Self::Cursors { cursors, more } => {
                out.put_slice(&[CURSORS, u8::from(*more)]);
                for (cursor, offset) in cursors {
                    put_name(&mut out, cursor);
                    out.put_u64_le(*offset);
                }
            }
            Self::Dirty(dirty) => {
                out.put_u8(DIRTY);
                if let Some(dirty) = dirty {
                    dirty.put(&mut out);
                }
            }
            Self::Done => out.put_u8(DONE),
            Self::Group(response) => {
                out.put_u8(GROUP);
                out.put_slice(response);
            }
            Self::Offset(offset) => put(&mut out, OFFSET, &[*offset]),
            Self::Records(page) => page.put(&mut out),
            Self::Refused(refusal) => {
                let (number, detail) = refusal.parts();
                out.put_slice(&[REFUSED, number]);
                out.put_u64_le(detail);
            }
            Self::Spare(carry) => {
                out.put_u8(SPARE);
                out.put_slice(carry);
            }
            Self::Topic(view) => {
                out.put_u8(TOPIC);
                view.put(&mut out);
            }
            Self::Topics { topics, more } => {
                out.put_slice(&[TOPICS, u8::from(*more)]);
                for (topic, view) in topics {
                    put_name(&mut out, topic);
                    view.put(&mut out);
                }
            }
        }
        out.freeze()
    }

    /// Reads an answer; names and records are slices of `bytes`.
    ///
    /// # Errors
    ///
    /// [`InvalidAnswer`]: the bytes are something else.
    pub fn decode(bytes: &Bytes) -> Result<Self, InvalidAnswer> {
        Self::read(&mut bytes.clone()).map_err(|_| InvalidAnswer)
    }

    fn read(input: &mut Bytes) -> Result<Self, InvalidCommand> {
        let answer = match take_u8(input)? {
            DONE => Self::Done,
            APPENDED => {
                let (id, first, next) = (take_u64(input)?, take_u64(input)?, take_u64(input)?);
                if first >= next {
                    return Err(InvalidCommand::Damaged);
                }
                Self::Appended { id, first, next }
            }
            RECORDS => Self::Records(Page::take(input)?),
            OFFSET => Self::Offset(take_u64(input)?),
            TOPIC => Self::Topic(TopicView::take(input)?),
            TOPICS => {
                let more = take_flag(input)?;
                Self::Topics { topics: rows(input, TopicView::take)?, more }
            }
            CURSOR => {
                let (is_present, offset) = (take_flag(input)?, take_u64(input)?);
                Self::Cursor(is_present.then_some(offset))
            }
            CURSORS => {
                let more = take_flag(input)?;
                Self::Cursors { cursors: rows(input, take_u64)?, more }
            }
            GROUP => return Ok(Self::Group(std::mem::take(input))),
            SPARE => return Ok(Self::Spare(std::mem::take(input))),
            DIRTY if input.is_empty() => Self::Dirty(None),
            DIRTY => Self::Dirty(Some(Dirty::take(input)?)),
            REFUSED => {
                let refusal = Refusal::from_parts(take_u8(input)?, take_u64(input)?);
                Self::Refused(refusal.ok_or(InvalidCommand::Unknown)?)
            }
            _ => return Err(InvalidCommand::Unknown),
        };
        ended(input, answer)
    }
}

impl Dirty {
    fn put(&self, out: &mut BytesMut) {
        put_name(out, &self.topic);
        for number in [self.id, self.from, self.until, self.tombstones] {
            out.put_u64_le(number);
        }
    }

    fn take(input: &mut Bytes) -> Result<Self, InvalidCommand> {
        let topic = take_name(input).ok_or(InvalidCommand::Name)?;
        let (id, from) = (take_u64(input)?, take_u64(input)?);
        Ok(Self { topic, id, from, until: take_u64(input)?, tombstones: take_u64(input)? })
    }
}

impl Page {
    fn put(&self, out: &mut BytesMut) {
        let bytes: usize = self.batches.iter().map(Batch::encoded_bytes).sum();
        out.reserve(26 + bytes);
        put(out, RECORDS, &[self.id, self.first, self.next]);
        out.put_u8(u8::from(self.gaps));
        self.batches.iter().for_each(|batch| batch.put(out));
    }

    fn take(input: &mut Bytes) -> Result<Self, InvalidCommand> {
        let (id, first, next) = (take_u64(input)?, take_u64(input)?, take_u64(input)?);
        let gaps = take_flag(input)?;
        let batches = Batch::take_all(input)?;
        let end = batches.last().and_then(Batch::end);
        let follows = |pair: &[Batch]| pair[0].end() == Some(pair[1].base);
        if end.is_some_and(|end| end > next) || !(gaps || batches.windows(2).all(follows)) {
            return Err(InvalidCommand::Damaged);
        }
        Ok(Self { id, first, next, gaps, batches })
    }
}

impl Batch {
    /// Bytes that it has in an answer.
    pub(super) fn encoded_bytes(&self) -> usize {
        24 + self.records.len()
    }

    /// The offset behind its last record; none if there can be no such offset.
    pub fn end(&self) -> Option<u64> {
        self.base.checked_add(u64::from(self.count))
    }

    /// The records; keys and values are slices of the answer.
    ///
    /// # Errors
    ///
    /// [`InvalidRecord`]: whoever answered has sent something else.
    pub fn decode(&self) -> Result<Vec<Record>, InvalidRecord> {
        record::decode(&self.records, self.count)
    }

    pub(super) fn put(&self, out: &mut BytesMut) {
        out.put_u64_le(self.base);
        out.put_u64_le(self.timestamp);
        out.put_u32_le(self.count);
        out.put_u32_le(u32::try_from(self.records.len()).expect("a batch is limited"));
        out.put_slice(&self.records);
    }

    /// Batches that follow each other, there may be gaps, until nothing is left.
    pub(super) fn take_all(input: &mut Bytes) -> Result<Vec<Self>, InvalidCommand> {
        let mut batches = Vec::<Self>::new();
        while !input.is_empty() {
            let batch = Self::take(input)?;
            let last = batches.last().and_then(Self::end);
            let follows = last.is_none_or(|last| last <= batch.base);
            if !follows || batch.end().is_none() {
                return Err(InvalidCommand::Damaged);
            }
            batches.push(batch);
        }
        Ok(batches)
    }

    /// The next batch and what comes behind it, if there is one.
    pub(super) fn peek(input: &Bytes) -> Option<(Self, Bytes)> {
        let mut rest = input.clone();
        let batch = Self::take(&mut rest).ok()?;
        Some((batch, rest))
    }

    fn take(input: &mut Bytes) -> Result<Self, InvalidCommand> {
        let (base, timestamp) = (take_u64(input)?, take_u64(input)?);
        let (count, bytes) = (take_u32(input)?, take_u32(input)?);
        let bytes = usize::try_from(bytes).map_err(|_| InvalidCommand::Damaged)?;
        if count == 0 || bytes > input.remaining() {
            return Err(InvalidCommand::Damaged);
        }
        Ok(Self { base, timestamp, count, records: input.split_to(bytes) })
    }
}

impl TopicView {
    fn put(&self, out: &mut BytesMut) {
        out.put_u64_le(self.id);
        self.options.put(out);
        for number in [self.first, self.next, self.bytes, self.timestamp] {
            out.put_u64_le(number);
        }
        out.put_u32_le(self.cursors);
    }

    fn take(input: &mut Bytes) -> Result<Self, InvalidCommand> {
        let id = take_u64(input)?;
        let options = TopicOptions::take(input).map_err(|_| InvalidCommand::Options)?;
        let (first, next) = (take_u64(input)?, take_u64(input)?);
        let (bytes, timestamp) = (take_u64(input)?, take_u64(input)?);
        if first > next {
            return Err(InvalidCommand::Damaged);
        }
        Ok(Self { id, options, first, next, bytes, timestamp, cursors: take_u32(input)? })
    }
}

fn put(out: &mut BytesMut, kind: u8, numbers: &[u64]) {
    out.put_u8(kind);
    for number in numbers {
        out.put_u64_le(*number);
    }
}

fn take_flag(input: &mut Bytes) -> Result<bool, InvalidCommand> {
    match take_u8(input)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(InvalidCommand::Damaged),
    }
}

/// Names with what belongs to them, until nothing is left.
fn rows<T>(
    input: &mut Bytes,
    take: impl Fn(&mut Bytes) -> Result<T, InvalidCommand>,
) -> Result<Vec<(Bytes, T)>, InvalidCommand> {
    let mut rows = Vec::new();
    while !input.is_empty() {
        let name = take_name(input).ok_or(InvalidCommand::Name)?;
        rows.push((name, take(input)?));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn some_view() -> impl Strategy<Value = TopicView> {
        any::<(u64, u32, u32, u64, u64, u32)>().prop_map(
            |(id, first, more, bytes, timestamp, cursors)| TopicView {
                id,
                options: TopicOptions::default(),
                first: u64::from(first),
                next: u64::from(first) + u64::from(more),
                bytes,
                timestamp,
                cursors,
            },
        )
    }

    fn some_page() -> impl Strategy<Value = Page> {
        let batch = (any::<u64>(), 1_u32..5, prop::collection::vec(any::<u8>(), 0..20));
        (any::<u32>(), prop::collection::vec(batch, 0..5)).prop_map(|(base, batches)| {
            let mut base = u64::from(base);
            let batch = |(timestamp, count, records): (u64, u32, Vec<u8>)| {
                let batch = Batch { base, timestamp, count, records: records.into() };
                base += u64::from(count);
                batch
            };
            let batches: Vec<_> = batches.into_iter().map(batch).collect();
            Page { id: 7, first: 0, next: base, gaps: false, batches }
        })
    }

    fn some_answer() -> impl Strategy<Value = Answer> {
        let name = || "[a-z]{1,9}".prop_map(|name| Bytes::from(name.into_bytes()));
        let refusal = (1_u8..19, any::<u64>()).prop_map(|(number, detail)| {
            // Those without a detail have none on the wire.
            let refusal = Refusal::from_parts(number, detail).unwrap();
            Answer::Refused(refusal)
        });
        prop_oneof![
            Just(Answer::Done),
            any::<(u64, u32, u16)>().prop_map(|(id, first, count)| Answer::Appended {
                id,
                first: u64::from(first),
                next: u64::from(first) + u64::from(count) + 1,
            }),
            some_page().prop_map(Answer::Records),
            any::<u64>().prop_map(Answer::Offset),
            (name(), any::<(u64, u64, u64, u64)>()).prop_map(
                |(topic, (id, from, until, tombstones))| {
                    Answer::Dirty(Some(Dirty { topic, id, from, until, tombstones }))
                }
            ),
            some_view().prop_map(Answer::Topic),
            (prop::collection::vec((name(), some_view()), 0..4), any::<bool>())
                .prop_map(|(topics, more)| Answer::Topics { topics, more }),
            any::<Option<u64>>().prop_map(Answer::Cursor),
            (prop::collection::vec((name(), any::<u64>()), 0..4), any::<bool>())
                .prop_map(|(cursors, more)| Answer::Cursors { cursors, more }),
            refusal,
        ]
    }

    proptest! {
        /// What is read is what was answered, or it is no answer.
        #[test]
        fn answers_round_trip(answer in some_answer(), cut in any::<prop::sample::Index>()) {
            let bytes = answer.encode();
            prop_assert_eq!(Answer::decode(&bytes), Ok(answer.clone()));
            // Rows have no number before them, so a page may end between two of them.
            let cut = bytes.slice(..cut.index(bytes.len()));
            if let Ok(less) = Answer::decode(&cut) {
                prop_assert_eq!(less.encode(), cut);
                let rows = matches!(
                    answer,
                    Answer::Topics { .. }
                        | Answer::Cursors { .. }
                        | Answer::Dirty(_)
                        | Answer::Records(_)
                );
                prop_assert!(rows, "{:?} was cut to {:?}", answer, less);
            }
        }

        /// Whatever a peer sends is an answer or is refused.
        #[test]
        fn no_bytes_panic(kind in 0_u8..11, bytes in prop::collection::vec(any::<u8>(), 0..90)) {
            let mut all = vec![kind];
            all.extend(bytes);
            drop(Answer::decode(&Bytes::from(all)));
        }
    }

    /// A reader that believes a page with a hole would skip records, unless the hole is said to be.
    #[test]
    fn page_with_a_hole_is_none() {
        let batch = |base| Batch { base, timestamp: 0, count: 2, records: Bytes::new() };
        let page = |gaps, batches, next| {
            let page = Page { id: 1, first: 0, next, gaps, batches };
            Answer::decode(&Answer::Records(page).encode())
        };
        assert!(page(false, vec![batch(3), batch(5)], 7).is_ok());
        assert_eq!(page(false, vec![batch(3), batch(6)], 8), Err(InvalidAnswer));
        assert_eq!(page(false, vec![batch(3), batch(4)], 8), Err(InvalidAnswer));
        assert!(page(true, vec![batch(3), batch(6)], 8).is_ok());
        assert_eq!(page(true, vec![batch(3), batch(4)], 8), Err(InvalidAnswer));
        assert_eq!(page(false, vec![batch(3)], 4), Err(InvalidAnswer), "behind the high watermark");
        assert_eq!(page(false, vec![batch(u64::MAX)], u64::MAX), Err(InvalidAnswer));
    }
}
