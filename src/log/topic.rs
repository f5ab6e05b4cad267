//! One topic: what it has, where that lies, and what it still keeps.
//!
//! Pure and deterministic. Invariants: the records from `first` to `next` lie in the entries of the
//! points, and every append to the topic between the first and the last entry of a point was
//! applied; so whoever reads those entries in order knows the offset of every record. The points
//! before `swept` lie in the order of the log, and so do those from there on.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::answer::TopicView;
use super::groups::{Bounds, Groups};
use super::options::TopicOptions;
use super::points::{Point, Points, checksum};

/// Bytes of the topic's records after which a new point begins.
const POINT_BYTES: u32 = 4 * 1024;
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
    /// How many of the first points were carried forward in the present sweep. It ends, and is 0
    /// again, when all were.
    pub(super) swept: usize,
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
            swept: 0,
            cursors: BTreeMap::new(),
            groups: Groups::new(),
        }
    }

    /// Takes a batch of `count` records, and its number of bytes.
    pub(super) fn append(&mut self, place: Place, timestamp: u64, count: u32, records: &Bytes) {
        let bytes = u32::try_from(records.len()).expect("a batch is limited");
        self.timestamp = self.timestamp.max(timestamp);
        // A step of the clock may get shorter, and the next reading with it.
        self.stamp = self.stamp.max(place.stamp);
        let open = self.open;
        match self.points.last() {
            Some(last) if open.is_some_and(|began| fits(last, began, place, bytes)) => {
                let last = self.points.last_mut().expect("it was there a moment ago");
                last.bytes += bytes;
                last.checksum = checksum(last.checksum, timestamp, count, records);
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
                    checksum: checksum(0, timestamp, count, records),
                });
                self.open = Some(place.position);
            }
        }
        self.next += u64::from(count);
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
            self.swept = self.swept.saturating_sub(1);
            self.bytes -= u64::from(front.bytes);
            self.first = self.first.max(end);
        }
        if self.points.len() == 0 {
            self.open = None;
        }
    }

    /// The offset behind the records of a point.
    pub(super) fn end_of(&self, point: usize) -> u64 {
        self.points.at(point + 1).map_or(self.next, |next| next.offset)
    }

    /// The lowest entry that has records of it.
    pub(super) fn floor(&self) -> Option<u64> {
        let lowest = [0, self.swept].map(|position| self.points.at(position));
        lowest.into_iter().flatten().map(|point| point.index).min()
    }

    /// The next point of the sweep lies in this entry from now on.
    pub(super) fn carry(&mut self, index: u64) {
        let Some(point) = self.points.at(self.swept) else { return };
        self.points.set(self.swept, Point { index, span: 0, ..*point });
        self.swept += 1;
        if self.swept == self.points.len() {
            // Appends to the last point would be in other entries.
            (self.swept, self.open) = (0, None);
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
