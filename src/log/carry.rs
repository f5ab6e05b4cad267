//! Carries records forward in the replicated log, so that the log can forget what lies before them.
//!
//! The log of a group is the only copy of its records, and it is cut at the oldest one that is
//! kept: a topic that nobody appends to would hold everything that other topics have let go of
//! since. So when the log has much more than is kept, the records at its beginning are written
//! again, at its end: the same batches with the same offsets, checked where the command is applied
//! against the checksum that the topic has of them. Readers do not notice.
//!
//! ```text
//! carry     part...                                     behind the number of the command
//! part      topic | id u64 | index u64 | bytes u32 | batch...
//! ```
//!
//! A part is one point of one topic, which lay at `index`. Numbers are little endian; batches are
//! those of answers. Pure; decoding never panics and copies nothing.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::answer::Batch;
use super::name::{put_name, take_name};
use super::points::{self, Point};
use super::refusal::Refusal;
use super::scan::Scan;
use super::topic::Topic;
use crate::replica::Past;

/// Bytes of records that one command carries, or one point if that has more.
const CARRY_BYTES: usize = 512 * 1024;
/// Points that one command carries.
const PARTS_MAX: usize = 512;

/// One point of a topic.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Part {
    pub(super) topic: Bytes,
    /// The topic's id.
    pub(super) id: u64,
    /// Where the point lay.
    pub(super) index: u64,
    pub(super) batches: Bytes,
}

/// Collects parts.
pub(super) struct Carry<'a> {
    out: BytesMut,
    parts: usize,
    scan: Scan<'a>,
    /// Nothing more is to be read for one command.
    is_full: bool,
}

impl<'a> Carry<'a> {
    pub(super) fn new(past: &'a dyn Past) -> Self {
        Self { out: BytesMut::new(), parts: 0, scan: Scan::new(&[], past), is_full: false }
    }

    /// Adds the points of a topic that are next in its sweep, as long as there is room. Topics are
    /// best given in the order in which they lie in the log, which is then read once.
    pub(super) fn add(&mut self, name: &'a Bytes, topic: &Topic) -> Result<(), Refusal> {
        self.add_until(name, topic, u64::MAX)
    }

    /// As [`add`](Self::add), but for points that end beyond an offset.
    pub(super) fn add_until(
        &mut self,
        name: &'a Bytes,
        topic: &Topic,
        until: u64,
    ) -> Result<(), Refusal> {
        self.scan.follow(name);
        for position in topic.points.swept()..topic.points.len() {
            let Some(point) = topic.points.at(position) else { break };
            if topic.end_of(position) > until {
                break;
            }
            let more = self.out.len() + point.bytes as usize;
            let mut batches = BytesMut::new();
            self.is_full = self.parts == PARTS_MAX
                || (self.parts > 0 && more > CARRY_BYTES)
                || !self.scan.whole_point(topic, position, |batch| batch.put(&mut batches))?;
            if self.is_full {
                break;
            }
            put_name(&mut self.out, name);
            self.out.put_u64_le(topic.id);
            self.out.put_u64_le(point.index);
            self.out.put_u32_le(u32::try_from(batches.len()).map_err(|_| Refusal::Damaged)?);
            self.out.put_slice(&batches);
            self.parts += 1;
        }
        Ok(())
    }

    pub(super) fn is_full(&self) -> bool {
        self.is_full
    }

    /// What is carried; nothing if it is empty.
    pub(super) fn finish(self) -> Bytes {
        self.out.freeze()
    }
}

impl Part {
    /// The parts of a carry, up to the first that is none.
    pub(super) fn all(mut input: Bytes) -> impl Iterator<Item = Self> {
        std::iter::from_fn(move || Self::take(&mut input))
    }

    /// The first part of a carry, or of what is left of one; none if there is none.
    pub(super) fn take(input: &mut Bytes) -> Option<Self> {
        let topic = take_name(input)?;
        let (id, index) = (input.try_get_u64_le().ok()?, input.try_get_u64_le().ok()?);
        let bytes = usize::try_from(input.try_get_u32_le().ok()?).ok()?;
        let is_there = bytes <= input.remaining();
        is_there.then(|| Self { topic, id, index, batches: input.split_to(bytes) })
    }

    /// Its batches, if they are the records of this point, which ends before `end`. There may be
    /// parts that are not, for instance forged ones: both who carries and who reads have to ask.
    pub(super) fn batches_of(&self, point: &Point, end: u64) -> Option<Vec<Batch>> {
        let batches = Batch::take_all(&mut self.batches.clone()).ok()?;
        are_of(&batches, point, end).then_some(batches)
    }

    /// Whether these are the records of the point that is next in the sweep of the topic.
    pub(super) fn is_next_of(&self, topic: &Topic) -> bool {
        let next = topic.points.swept();
        topic.points.at(next).is_some_and(|point| {
            self.id == topic.id
                && self.index == point.index
                && self.batches_of(point, topic.end_of(next)).is_some()
        })
    }
}

/// Whether batches that follow each other are the records of a point, which ends before `end`.
pub(super) fn are_of(batches: &[Batch], point: &Point, end: u64) -> bool {
    let bytes: usize = batches.iter().map(|batch| batch.records.len()).sum();
    let ends_before = |batch: &Batch| batch.end().is_some_and(|last| last <= end);
    batches.first().is_some_and(|batch| batch.base >= point.offset)
        && batches.last().is_some_and(ends_before)
        && bytes == point.bytes as usize
        && batches.iter().fold(0, points::checksum) == point.checksum
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever a client sends is parts or is not.
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let (offset, index, timestamp, stamp) = (0, 2, 0, 0);
            let point = Point { offset, index, timestamp, stamp, bytes: 6, span: 0, checksum: 0 };
            for part in Part::all(Bytes::from(bytes)) {
                drop(part.batches_of(&point, 1));
            }
        }
    }
}
