//! One topic: what it has, where that lies, and what it still keeps.
//!
//! Pure and deterministic. Invariants: the records from `first` to `next` lie in the entries of the
//! points, and every append to the topic between the first and the last entry of a point was
//! applied; so whoever reads those entries in order knows the offset of every record. The last point
//! is never compacted, so there is a record at or behind every offset before `next`.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::answer::{Batch, Dirty, TopicView};
use super::compaction::{Compact, Round, SOURCES_MAX, Source};
use super::groups::{Bounds, Groups};
use super::options::{Compaction, TopicOptions, seconds};
use super::points::{Point, Points, checksum};

/// Bytes of the topic's records after which a new point begins.
pub(super) const POINT_BYTES: u32 = 4 * 1024;
/// Entries of the log after which a new point begins: a read may have to pass so many that belong
/// to other topics.
pub(super) const SPAN_ENTRIES: u64 = 64;
/// Bytes of the log after which a new point begins, likewise.
const SPAN_BYTES: u64 = 64 * 1024;

/// The state of a topic.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Topic {
    /// Index of the entry that created it.
    pub(super) id: u64,
    pub(super) options: TopicOptions,
    /// The oldest offset that is kept.
    pub(super) first: u64,
    /// The offset of the next record.
    pub(super) next: u64,
    /// Bytes of the points.
    pub(super) bytes: u64,
    /// The latest timestamp so far.
    pub(super) timestamp: u64,
    /// Reading of the clock by which the newest record was there.
    pub(super) stamp: u32,
    /// Where the last point begins, in bytes of the log; none if it is closed.
    pub(super) open: Option<u64>,
    pub(super) points: Points,
    /// Before here no record is followed by another of its key that is before here as well.
    pub(super) cleaned: u64,
    /// The round of compaction that the present sweep is.
    pub(super) round: Option<Round>,
    pub(super) cursors: BTreeMap<Bytes, u64>,
    pub(super) groups: Groups,
}

/// Where a batch lies, and when it came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Index of its entry.
    pub(super) index: u64,
    /// Bytes of all commands before it.
    pub(super) position: u64,
    /// Reading of the clock by which it is certainly there.
    pub(super) stamp: u32,
}

impl Topic {
    pub(super) fn new(id: u64, options: TopicOptions) -> Self {
        Self {
            id,
            options,
            first: 0,
            next: 0,
            bytes: 0,
            timestamp: 0,
            stamp: 0,
            open: None,
            points: Points::default(),
            cleaned: 0,
            round: None,
            cursors: BTreeMap::new(),
            groups: Groups::new(),
        }
    }

    /// Takes a batch, whose offset is the next one.
    pub(super) fn append(&mut self, place: Place, batch: &Batch) {
        let bytes = u32::try_from(batch.records.len()).expect("a batch is limited");
        self.timestamp = self.timestamp.max(batch.timestamp);
        // A step of the clock may get shorter, and the next reading with it.
        self.stamp = self.stamp.max(place.stamp);
        let open = self.open;
        match self.points.last() {
            Some(last) if open.is_some_and(|began| fits(last, began, place, bytes)) => {
                let last = self.points.last_mut().expect("it was there a moment ago");
                last.bytes += bytes;
                last.checksum = checksum(last.checksum, batch);
                last.span = u32::try_from(place.index - last.index).expect("a span is short");
            }
            Some(_) | None => {
                self.points.push(Point {
                    offset: self.next,
                    index: place.index,
                    timestamp: self.timestamp,
                    stamp: self.stamp,
                    bytes,
                    span: 0,
                    checksum: checksum(0, batch),
                });
                self.open = Some(place.position);
            }
        }
        self.next += u64::from(batch.count);
        self.bytes += u64::from(bytes);
        self.trim_to_size();
    }

    /// There is an append in the log that is none: no point may reach across it.
    pub(super) fn close(&mut self) {
        self.open = None;
    }

    /// Lets go of what is more than the options want to keep, whatever its age.
    pub(super) fn trim_to_size(&mut self) {
        if let Some(bytes) = self.options.bytes {
            while let Some(front) = self.points.front() {
                if self.points.len() == 1 || self.bytes - u64::from(front.bytes) < bytes {
                    break;
                }
                self.drop_front();
            }
        }
        if let Some(records) = self.options.records {
            self.trim(self.next.saturating_sub(records));
        }
    }

    /// Lets go of what is older than the options want to keep, by this reading of the clock.
    pub(super) fn trim_to_age(&mut self, clock: u32) {
        while self.is_due(clock) {
            self.drop_front();
        }
    }

    /// Whether its oldest records are older than the options want to keep.
    pub(super) fn is_due(&self, clock: u32) -> bool {
        let Some(age) = self.options.age_seconds() else { return false };
        // The newest record of a point is no newer than the first of the next.
        let newest = self.points.at(1).map_or(self.stamp, |next| next.stamp);
        self.points.len() > 0 && clock >= newest.saturating_add(age)
    }

    /// Lets go of the records below an offset, which may be one that there is not yet.
    pub(super) fn trim(&mut self, before: u64) {
        let before = before.min(self.next);
        while self.points.front().is_some() && self.end_of(0) <= before {
            self.drop_front();
        }
        self.first = self.first.max(before);
    }

    fn drop_front(&mut self) {
        let end = self.end_of(0);
        if let Some(front) = self.points.pop_front() {
            self.bytes -= u64::from(front.bytes);
            self.first = self.first.max(end);
        }
        if self.points.len() == 0 {
            self.open = None;
        }
        self.settle_round();
    }

    /// The offset behind the records of a point.
    pub(super) fn end_of(&self, point: usize) -> u64 {
        self.points.at(point + 1).map_or(self.next, |next| next.offset)
    }

    /// The lowest entry that has records of it.
    pub(super) fn floor(&self) -> Option<u64> {
        self.points.floor()
    }

    /// The next point of the sweep lies in this entry from now on.
    pub(super) fn carry(&mut self, index: u64) {
        let Some(point) = self.points.sweep() else { return };
        self.points.push_swept(Point { index, span: 0, ..point });
        // What the point has was not asked of any round.
        self.round = None;
        if self.points.settle() {
            // Appends to the last point would be in other entries.
            self.open = None;
        }
    }

    // ---- compaction by key -----------------------------------------------------------------

    /// What a round would have to do, if it is worth one by this reading of the clock.
    pub(super) fn dirty(&self, name: &Bytes, clock: u32) -> Option<Dirty> {
        let Compaction { after, tombstones_for, dirty_percent } = self.options.compaction?;
        let from = self.cleaned.max(self.first);
        let until = self.older_than(after, clock);
        let is_dirty = |point: &&Point| (from..until).contains(&point.offset);
        let points = self.points.iter().filter(is_dirty);
        let bytes: u64 = points.map(|point| u64::from(point.bytes)).sum();
        let is_worth_it =
            u128::from(bytes) * 100 >= u128::from(self.bytes) * u128::from(dirty_percent);
        (bytes > 0 && is_worth_it).then(|| Dirty {
            topic: name.clone(),
            id: self.id,
            from,
            until,
            // A round begins at the front, so what they stand for is gone before they go.
            tombstones: self.older_than(tombstones_for, clock),
        })
    }

    /// All points before this offset are that old, and none of them is the last.
    fn older_than(&self, age: std::time::Duration, clock: u32) -> u64 {
        let last = self.points.len().saturating_sub(1);
        let old = match seconds(age) {
            0 => last,
            // The newest record of a point is no newer than the first of the next.
            age => {
                let begun = |point: &Point| point.stamp.saturating_add(age) <= clock;
                self.points.partition(begun).saturating_sub(1)
            }
        };
        self.points.at(old.min(last)).map_or(self.first, |point| point.offset)
    }

    /// Begins a round at this index, which ends at the last point that begins at or before `until`.
    /// Says where; nowhere if there can be no round.
    pub(super) fn begin_round(&mut self, index: u64, until: u64) -> Option<u64> {
        let begun = self.points.partition(|point| point.offset <= until);
        let until = self.points.at(begun.checked_sub(1)?)?.offset;
        let may_begin = self.options.compaction.is_some()
            && self.points.swept() == 0
            && until > self.cleaned.max(self.first);
        may_begin.then(|| self.round = Some(Round { id: index, until }))?;
        Some(until)
    }

    /// Replaces points by what is left of them; says whether the step was one of the round.
    pub(super) fn compact(&mut self, index: u64, step: &Compact) -> bool {
        let is_of_round = self.round.is_some_and(|round| round.id == step.round);
        let sources = if is_of_round { self.sources(step) } else { None };
        let points = sources.as_ref().and_then(|sources| step.points(index, sources));
        let (Some(sources), Some(points)) = (sources, points) else { return false };
        for source in sources {
            self.points.sweep();
            self.bytes -= u64::from(source.point.bytes);
        }
        for point in points {
            self.bytes += u64::from(point.bytes);
            self.points.push_swept(point);
        }
        // What was left of a point may be what is not kept of it.
        self.trim(self.first);
        self.settle_round();
        true
    }

    /// The points that a step takes the place of, if they are next in the sweep and in the round.
    fn sources(&self, step: &Compact) -> Option<Vec<Source>> {
        let until = self.round?.until;
        if step.sources.is_empty() || step.sources.len() > SOURCES_MAX {
            return None;
        }
        let source = |(position, (index, checksum)): (usize, &(u64, u32))| {
            let (point, next) = (self.points.at(position)?, self.points.at(position + 1)?);
            let is_it =
                (point.index, point.checksum) == (*index, *checksum) && next.offset <= until;
            let newest = (next.timestamp, next.stamp);
            is_it.then_some(Source { point: *point, end: next.offset, newest })
        };
        (self.points.swept()..).zip(&step.sources).map(source).collect()
    }

    /// Ends the round, if it has come to its end.
    fn settle_round(&mut self) {
        let Some(Round { until, .. }) = self.round else { return };
        let next = self.points.at(self.points.swept()).map(|point| point.offset);
        if next.is_none_or(|next| next >= until) {
            (self.round, self.cleaned) = (None, until);
        }
    }

    /// The records that its groups may hand out.
    pub(super) fn bounds(&self) -> Bounds {
        Bounds { first: self.first, next: self.next }
    }

    pub(super) fn view(&self) -> TopicView {
        TopicView {
            id: self.id,
            options: self.options,
            first: self.first,
            next: self.next,
            bytes: self.bytes,
            timestamp: self.timestamp,
            cursors: u32::try_from(self.cursors.len()).unwrap_or(u32::MAX),
        }
    }
}

/// Whether a batch may belong to the last point, which begins at `began`.
fn fits(last: &Point, began: u64, place: Place, bytes: u32) -> bool {
    place.index.checked_sub(last.index).is_some_and(|span| span < SPAN_ENTRIES)
        && place.position - began < SPAN_BYTES
        && last.bytes.saturating_add(bytes) <= POINT_BYTES
}
