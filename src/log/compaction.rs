//! Compaction by key: records that others with the same key have followed go.
//!
//! A round is a sweep, as to carry records forward is: the points of a topic are put to the end of
//! the log, one after the other from the front, but with fewer records. The replica that leads
//! decides which ([`Latest`](super::latest::Latest)); what it says is believed only for the points
//! that it has seen (their index and checksum), and only if it takes records away and changes
//! nothing else.
//!
//! ```text
//! compact   topic | id u64 | round u64 | until u64 | sources u32 | source... | batch...
//! source    index u64 | checksum u32
//! ```
//!
//! A command whose `round` is 0 begins one, and has no sources; the others belong to the round that
//! began in that entry. A round is over when it has come to `until`, and void when a point of it was
//! carried without it: then nobody knows what its part has. Numbers are little endian; batches are
//! those of answers. Pure; decoding never panics and copies nothing.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::answer::Batch;
use super::name::{put_name, take_name};
use super::points::{self, Point};
use super::record;
use super::topic::POINT_BYTES;

/// Points that one command takes the place of.
pub(super) const SOURCES_MAX: usize = 512;

/// A round that is under way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Round {
    /// Index of the entry that began it.
    pub(super) id: u64,
    /// It is over here.
    pub(super) until: u64,
}

/// A step of a round, or its beginning.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Compact {
    pub(super) topic: Bytes,
    pub(super) id: u64,
    /// 0 to begin one.
    pub(super) round: u64,
    pub(super) until: u64,
    /// Index and checksum of the points that are next in the sweep.
    pub(super) sources: Vec<(u64, u32)>,
    /// What is left of their records.
    pub(super) batches: Bytes,
}

/// A point that is to be replaced.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source {
    pub(super) point: Point,
    /// Where it ends.
    pub(super) end: u64,
    /// Timestamp and stamp that its newest record has at most.
    pub(super) newest: (u64, u32),
}

impl Compact {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(64 + 12 * self.sources.len() + self.batches.len());
        put_name(&mut out, &self.topic);
        for number in [self.id, self.round, self.until] {
            out.put_u64_le(number);
        }
        out.put_u32_le(u32::try_from(self.sources.len()).expect("sources are limited"));
        for (index, checksum) in &self.sources {
            out.put_u64_le(*index);
            out.put_u32_le(*checksum);
        }
        out.put_slice(&self.batches);
        out.freeze()
    }

    /// What the body of the command is, if it is anything.
    pub(super) fn take(mut input: Bytes) -> Option<Self> {
        let topic = take_name(&mut input)?;
        let mut number = || input.try_get_u64_le().ok();
        let (id, round, until) = (number()?, number()?, number()?);
        let count = usize::try_from(input.try_get_u32_le().ok()?).ok()?;
        if count > SOURCES_MAX {
            return None;
        }
        let mut sources = Vec::with_capacity(count);
        for _ in 0..count {
            sources.push((input.try_get_u64_le().ok()?, input.try_get_u32_le().ok()?));
        }
        let is_beginning = round == 0;
        let has_records = !sources.is_empty() || !input.is_empty();
        (!is_beginning || !has_records).then_some(())?;
        Some(Self { topic, id, round, until, sources, batches: input })
    }

    /// Points in the entry `index` that take the place of the sources; none if that cannot be: the
    /// records are not in order, or none, or more than there were, or outside the sources.
    pub(super) fn points(&self, index: u64, sources: &[Source]) -> Option<Vec<Point>> {
        let batches = Batch::take_all(&mut self.batches.clone()).ok()?;
        let (mut points, mut sources) = (Vec::<Point>::new(), sources.iter().peekable());
        let mut left = sources.clone().map(|source| u64::from(source.point.bytes)).sum::<u64>();
        for batch in batches {
            record::walk(&batch.records, batch.count, |_| {}).ok()?;
            let end = batch.end()?;
            while sources.next_if(|source| source.end <= batch.base).is_some() {}
            let source = sources.peek().filter(|source| end <= source.end)?;
            let bytes = u32::try_from(batch.records.len()).ok()?;
            left = left.checked_sub(u64::from(bytes))?;
            let point = source.point_of(index, &batch, bytes)?;
            match points.last_mut() {
                Some(last) if last.bytes.saturating_add(bytes) <= POINT_BYTES => {
                    last.bytes += bytes;
                    last.checksum = points::checksum(last.checksum, &batch);
                }
                Some(_) | None => points.push(point),
            }
        }
        Some(points)
    }
}

impl Source {
    /// A point that begins with this batch, if it can be one of the source.
    fn point_of(&self, index: u64, batch: &Batch, bytes: u32) -> Option<Point> {
        let (latest, newest) = self.newest;
        let is_first = batch.base == self.point.offset;
        (batch.base >= self.point.offset).then(|| Point {
            offset: batch.base,
            index,
            // No later than what comes behind, whatever the batch says.
            timestamp: batch.timestamp.max(self.point.timestamp).min(latest),
            stamp: if is_first { self.point.stamp } else { newest },
            bytes,
            span: 0,
            checksum: points::checksum(0, batch),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::record::{Record, encode};
    use proptest::prelude::*;

    fn batch(base: u64, values: &[&'static str]) -> Batch {
        let records: Vec<_> = values.iter().map(|value| Record::with_key("k", *value)).collect();
        let count = u32::try_from(records.len()).unwrap();
        Batch { base, timestamp: 9, count, records: encode(&records).unwrap() }
    }

    fn source(offset: u64, end: u64, bytes: u32) -> Source {
        let (index, timestamp, stamp) = (offset + 2, offset, 1);
        let point = Point { offset, index, timestamp, stamp, bytes, span: 0, checksum: 5 };
        Source { point, end, newest: (end, 2) }
    }

    fn compact(batches: &[Batch]) -> Compact {
        let mut out = BytesMut::new();
        batches.iter().for_each(|batch| batch.put(&mut out));
        let (topic, batches) = (Bytes::from_static(b"t"), out.freeze());
        Compact { topic, id: 2, round: 3, until: 9, sources: vec![(2, 5)], batches }
    }

    /// A step can take records away, and do nothing else: what it says is in the log for ever.
    #[test]
    fn step_changes_nothing_but_takes_away() {
        let sources = [source(0, 4, 100), source(4, 8, 100)];
        let points = |batches: &[Batch]| compact(batches).points(50, &sources);
        let left = [batch(1, &["a"]), batch(3, &["b"]), batch(6, &["c", "d"])];
        let one = points(&left).unwrap();
        assert_eq!(one.len(), 1, "little is one point");
        assert_eq!((one[0].offset, one[0].index, one[0].stamp), (1, 50, 2));
        assert_eq!(one[0].bytes as usize, left.iter().map(|of| of.records.len()).sum::<usize>());
        assert_eq!(one[0].timestamp, 4, "no later than what comes behind");
        assert_eq!(points(&[]).unwrap(), [], "nothing is left");
        assert_eq!(points(&[batch(0, &["a"])]).unwrap()[0].stamp, 1);
        for forged in [
            vec![batch(3, &["a", "b"])],
            vec![batch(8, &["a"])],
            vec![batch(4, &["a"]), batch(1, &["b"])],
            vec![batch(1, &["a"]), batch(1, &["b"])],
            vec![batch(0, &["12345678901234567890123456789012345678901234567890"; 4])],
            vec![Batch { count: 2, ..batch(0, &["a"]) }],
            vec![Batch { records: Bytes::from_static(b"no record"), ..batch(0, &["a"]) }],
        ] {
            assert_eq!(points(&forged), None, "{forged:?}");
        }
    }

    /// What is left is in points of the usual size, so that one is found without much reading.
    #[test]
    fn much_is_several_points() {
        let value: &'static str = "x".repeat(1_500).leak();
        let batches: Vec<_> = (0..6).map(|at| batch(at, &[value])).collect();
        let points = compact(&batches).points(50, &[source(0, 6, 10_000)]).unwrap();
        assert_eq!(points.iter().map(|point| point.offset).collect::<Vec<_>>(), [0, 2, 4]);
        assert!(points.iter().all(|point| point.bytes <= POINT_BYTES));
    }

    proptest! {
        /// Whatever a client sends is a step or is none.
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..90)) {
            if let Some(compact) = Compact::take(Bytes::from(bytes)) {
                prop_assert_eq!(Compact::take(compact.encode()), Some(compact.clone()));
                drop(compact.points(7, &[source(0, 9, 50)]));
            }
        }
    }
}
