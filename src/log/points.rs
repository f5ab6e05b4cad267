//! The sparse index of a topic: where in the replicated log its records lie.
//!
//! A point stands for a few records that lie near each other. To find a record is a binary search
//! and then a short sequential read; between two points nothing is remembered. The idea is that of
//! Kafka's index files, over a log that is not the topic's own.
//!
//! Pure. Copies share what they have in common, so that a snapshot of a long index costs little,
//! and a change afterwards copies one piece of it.

use std::collections::VecDeque;
use std::sync::Arc;

use super::answer::Batch;

/// Points that are copied together when a shared index changes.
const PIECE: usize = 256;

/// A few records of a topic that lie near each other in the log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Point {
    /// Offset of the first record.
    pub(super) offset: u64,
    /// Index of the entry that has it.
    pub(super) index: u64,
    /// The latest timestamp of a record up to the first batch, this one included.
    pub(super) timestamp: u64,
    /// Reading of the machine's clock, in seconds, by which the first batch was certainly there.
    pub(super) stamp: u32,
    /// Bytes of the records.
    pub(super) bytes: u32,
    /// Entries from the first that belongs to the point to the last.
    pub(super) span: u32,
    /// Of its batches, see [`checksum`].
    pub(super) checksum: u32,
}

/// Points in the order of their offsets, some of which may have been swept: put to the end of the
/// log, one after the other from the front, as they were or with fewer records.
///
/// The points that were swept lie in the order of the log, and so do the others. When all have
/// been, the sweep is over and none counts as swept. So there are points that were not swept, as
/// long as there are points.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Points {
    swept: Queue,
    rest: Queue,
}

/// Points one behind the other.
#[derive(Clone, Debug, Default)]
struct Queue {
    /// All have [`PIECE`] points but the last.
    pieces: VecDeque<Arc<Vec<Point>>>,
    /// Points of the first piece that are gone.
    gone: usize,
    len: usize,
}

/// The checksum of batches, with one more behind them: CRC32C of the offset of the first record, the
/// timestamp, the number of records, that of their bytes, and the records of each. So a copy has the
/// same batches at the same offsets.
pub(super) fn checksum(before: u32, batch: &Batch) -> u32 {
    let Batch { base, timestamp, count, records } = batch;
    let mut sum = crc32c::crc32c_append(before, &base.to_le_bytes());
    sum = crc32c::crc32c_append(sum, &timestamp.to_le_bytes());
    sum = crc32c::crc32c_append(sum, &count.to_le_bytes());
    sum = crc32c::crc32c_append(sum, &(records.len() as u64).to_le_bytes());
    crc32c::crc32c_append(sum, records)
}

impl Point {
    /// Index of the last entry that belongs to it.
    pub(super) fn last(&self) -> u64 {
        self.index + u64::from(self.span)
    }
}

impl Points {
    /// Adds one at the end.
    pub(super) fn push(&mut self, point: Point) {
        self.rest.push(point);
    }

    /// Adds one behind those that were swept. The sweep goes on, or is [over](Self::settle).
    pub(super) fn push_swept(&mut self, point: Point) {
        self.swept.push(point);
    }

    /// Takes the next point of the sweep out.
    pub(super) fn sweep(&mut self) -> Option<Point> {
        self.rest.pop_front()
    }

    /// Ends the sweep, if it is over; says whether it is.
    pub(super) fn settle(&mut self) -> bool {
        let is_over = self.rest.len == 0;
        if is_over {
            self.rest = std::mem::take(&mut self.swept);
        }
        is_over
    }

    pub(super) fn pop_front(&mut self) -> Option<Point> {
        self.swept.pop_front().or_else(|| self.rest.pop_front())
    }

    pub(super) fn last_mut(&mut self) -> Option<&mut Point> {
        self.rest.last_mut()
    }

    pub(super) fn len(&self) -> usize {
        self.swept.len + self.rest.len
    }

    /// How many were swept: the position of the next one in the sweep.
    pub(super) fn swept(&self) -> usize {
        self.swept.len
    }

    pub(super) fn front(&self) -> Option<&Point> {
        self.at(0)
    }

    pub(super) fn last(&self) -> Option<&Point> {
        self.rest.last()
    }

    /// A point by its position, from 0.
    pub(super) fn at(&self, position: usize) -> Option<&Point> {
        match position.checked_sub(self.swept.len) {
            Some(position) => self.rest.at(position),
            None => self.swept.at(position),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Point> {
        self.swept.iter().chain(self.rest.iter())
    }

    /// How many points come before the first for which `is_before` does not hold.
    pub(super) fn partition(&self, is_before: impl Fn(&Point) -> bool) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.at(middle) {
                Some(point) if is_before(point) => low = middle + 1,
                Some(_) | None => high = middle,
            }
        }
        low
    }

    /// The lowest entry that has one of them.
    pub(super) fn floor(&self) -> Option<u64> {
        let lowest = [self.swept.at(0), self.rest.at(0)];
        lowest.into_iter().flatten().map(|point| point.index).min()
    }
}

impl Queue {
    fn push(&mut self, point: Point) {
        match self.pieces.back_mut() {
            Some(piece) if piece.len() < PIECE => Arc::make_mut(piece).push(point),
            Some(_) | None => self.pieces.push_back(Arc::new(vec![point])),
        }
        self.len += 1;
    }

    fn pop_front(&mut self) -> Option<Point> {
        let front = *self.at(0)?;
        (self.gone, self.len) = (self.gone + 1, self.len - 1);
        if self.len == 0 {
            *self = Self::default();
        } else if self.gone == PIECE {
            self.pieces.pop_front();
            self.gone = 0;
        }
        Some(front)
    }

    fn last_mut(&mut self) -> Option<&mut Point> {
        Arc::make_mut(self.pieces.back_mut()?).last_mut()
    }

    fn last(&self) -> Option<&Point> {
        self.pieces.back()?.last()
    }

    fn at(&self, position: usize) -> Option<&Point> {
        let position = position + self.gone;
        self.pieces.get(position / PIECE)?.get(position % PIECE)
    }

    fn iter(&self) -> impl Iterator<Item = &Point> {
        self.pieces.iter().flat_map(|piece| piece.iter()).skip(self.gone)
    }
}

impl PartialEq for Queue {
    /// How they are cut into pieces does not matter.
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl Eq for Queue {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn point(offset: u64) -> Point {
        Point { offset, index: offset + 2, timestamp: 0, stamp: 0, bytes: 1, span: 0, checksum: 0 }
    }

    proptest! {
        /// It is a queue, however it is cut into pieces, and copies are not changed with it.
        #[test]
        fn points_are_a_queue(steps in prop::collection::vec((0_usize..700, 0_usize..700), 1..6)) {
            let (mut points, mut model) = (Points::default(), VecDeque::new());
            let mut next = 0;
            for (pushed, popped) in steps {
                for _ in 0..pushed {
                    points.push(point(next));
                    model.push_back(point(next));
                    next += 1;
                }
                let (copy, before) = (points.clone(), model.clone());
                for _ in 0..popped {
                    prop_assert_eq!(points.pop_front(), model.pop_front());
                }
                if let (Some(last), Some(expected)) = (points.last_mut(), model.back_mut()) {
                    (last.span, expected.span) = (9, 9);
                }
                let half = next / 2;
                let older = model.iter().filter(|point| point.offset < half).count();
                prop_assert_eq!(points.partition(|point| point.offset < half), older);
                for _ in 0..pushed / 3 {
                    let Some(swept) = points.sweep() else { break };
                    let position = points.swept();
                    prop_assert_eq!(Some(&swept), model.get(position));
                    if swept.offset % 3 == 0 {
                        // Nothing is left of it.
                        model.remove(position);
                    } else {
                        model[position].span = 5;
                        points.push_swept(Point { span: 5, ..swept });
                    }
                    points.settle();
                }
                prop_assert!(points.iter().eq(model.iter()));
                prop_assert!(copy.iter().eq(before.iter()), "a copy was changed");
                prop_assert_eq!(points.len(), model.len());
                prop_assert_eq!(points.front(), model.front());
                prop_assert_eq!(points.last(), model.back());
                for at in [0, model.len() / 2, model.len()] {
                    prop_assert_eq!(points.at(at), model.get(at));
                }
                let floor = points.iter().map(|point| point.index).min();
                prop_assert_eq!(points.floor(), floor);
                let mut rebuilt = Points::default();
                for (position, point) in model.iter().enumerate() {
                    match position < points.swept() {
                        true => rebuilt.push_swept(*point),
                        false => rebuilt.push(*point),
                    }
                }
                prop_assert_eq!(&rebuilt, &points);
            }
        }
    }
}
