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

/// Points in the order of their offsets.
#[derive(Clone, Debug, Default)]
pub(super) struct Points {
    /// All have [`PIECE`] points but the last.
    pieces: VecDeque<Arc<Vec<Point>>>,
    /// Points of the first piece that are gone.
    gone: usize,
    len: usize,
}

/// The checksum of batches, with one more behind them: CRC32C of the timestamp, the number of records,
/// that of their bytes, and the records of each. So a copy has the same batches.
pub(super) fn checksum(before: u32, timestamp: u64, count: u32, records: &[u8]) -> u32 {
    let mut sum = crc32c::crc32c_append(before, &timestamp.to_le_bytes());
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
    pub(super) fn push(&mut self, point: Point) {
        match self.pieces.back_mut() {
            Some(piece) if piece.len() < PIECE => Arc::make_mut(piece).push(point),
            Some(_) | None => self.pieces.push_back(Arc::new(vec![point])),
        }
        self.len += 1;
    }

    pub(super) fn pop_front(&mut self) -> Option<Point> {
        let front = *self.front()?;
        (self.gone, self.len) = (self.gone + 1, self.len - 1);
        if self.len == 0 {
            *self = Self::default();
        } else if self.gone == PIECE {
            self.pieces.pop_front();
            self.gone = 0;
        }
        Some(front)
    }

    pub(super) fn last_mut(&mut self) -> Option<&mut Point> {
        Arc::make_mut(self.pieces.back_mut()?).last_mut()
    }

    /// Replaces a point, if there is one at this position.
    pub(super) fn set(&mut self, position: usize, point: Point) {
        let position = position + self.gone;
        if let Some(piece) = self.pieces.get_mut(position / PIECE)
            && let Some(old) = Arc::make_mut(piece).get_mut(position % PIECE)
        {
            *old = point;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn front(&self) -> Option<&Point> {
        self.at(0)
    }

    pub(super) fn last(&self) -> Option<&Point> {
        self.pieces.back()?.last()
    }

    /// A point by its position, from 0.
    pub(super) fn at(&self, position: usize) -> Option<&Point> {
        let position = position + self.gone;
        self.pieces.get(position / PIECE)?.get(position % PIECE)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Point> {
        self.pieces.iter().flat_map(|piece| piece.iter()).skip(self.gone)
    }

    /// How many points come before the first for which `is_before` does not hold.
    pub(super) fn partition(&self, is_before: impl Fn(&Point) -> bool) -> usize {
        let (mut low, mut high) = (0, self.len);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.at(middle) {
                Some(point) if is_before(point) => low = middle + 1,
                Some(_) | None => high = middle,
            }
        }
        low
    }
}

impl PartialEq for Points {
    /// How they are cut into pieces does not matter.
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl Eq for Points {}

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
                let middle = model.len() / 2;
                if let Some(old) = model.get_mut(middle) {
                    old.span = 5;
                    points.set(middle, *old);
                }
                prop_assert!(points.iter().eq(model.iter()));
                prop_assert!(copy.iter().eq(before.iter()), "a copy was changed");
                prop_assert_eq!(points.len(), model.len());
                prop_assert_eq!(points.front(), model.front());
                prop_assert_eq!(points.last(), model.back());
                for at in [0, model.len() / 2, model.len()] {
                    prop_assert_eq!(points.at(at), model.get(at));
                }
                let mut rebuilt = Points::default();
                model.iter().for_each(|point| rebuilt.push(*point));
                prop_assert_eq!(&rebuilt, &points);
            }
        }
    }
}
