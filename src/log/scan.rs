//! Reads the records of a topic out of the replicated log.
//!
//! Pure, but for the [`Past`], which may read a disk. A scan reads ahead: points that follow each
//! other in the log are read once.

use std::collections::VecDeque;

use bytes::Bytes;

use super::answer::{Batch, Page};
use super::carry::{Part, are_of};
use super::command::{Append, Moved};
use super::points::Point;
use super::query::Read;
use super::refusal::Refusal;
use super::topic::Topic;
use crate::replica::{Past, PastError};

/// Bytes that are read from the log at once.
const FETCH_BYTES: u64 = 64 * 1024;
/// Reads of the log that one query may cost: the replica does nothing else meanwhile. A point never
/// needs so many.
const FETCHES_MAX: u32 = 64;
/// Bytes of one page, whatever its reader wants.
pub(super) const PAGE_BYTES_MAX: u32 = 4 * 1024 * 1024;

/// A part of the log that is being read.
pub(super) struct Scan<'a> {
    /// The name of the topic.
    name: &'a [u8],
    past: &'a dyn Past,
    commands: VecDeque<(u64, Bytes)>,
    /// The command with records of before that was looked at last, its index, and what is left of
    /// it: it may have further points, in their order.
    moved: Option<(u64, Moved)>,
    /// Everything from here to `next` is in `commands`.
    begin: u64,
    next: u64,
    fetches: u32,
}

/// Why a scan ends before its end.
enum End {
    /// It has done enough for one query.
    Enough,
    Refused(Refusal),
}

/// The records from an offset on; none of them if there are none yet.
///
/// # Errors
///
/// [`Refusal`]: they are not kept any more, or cannot be read here.
pub(super) fn read(topic: &Topic, read: &Read, past: &dyn Past) -> Result<Page, Refusal> {
    if read.from < topic.first {
        return Err(Refusal::OffsetTooOld { first: topic.first });
    }
    let gaps = topic.cleaned > 0 || topic.round.is_some();
    let (id, first, next) = (topic.id, topic.first, topic.next);
    let mut page = Page { id, first, next, gaps, batches: Vec::new() };
    if read.from >= topic.next {
        return Ok(page);
    }
    let bytes_max = read.bytes_max.min(PAGE_BYTES_MAX) as usize;
    let end = read.from.saturating_add(u64::from(read.records_max));
    let (mut bytes, mut is_full) = (0, false);
    let mut scan = Scan::new(&read.topic, past);
    // The last point that begins at or before the offset.
    let begin = topic.points.partition(|point| point.offset <= read.from).saturating_sub(1);
    for point in begin..topic.points.len() {
        let ended = scan.point(topic, point, |batch| {
            if is_full || batch.end().is_none_or(|end| end <= read.from) {
                return;
            }
            let more = bytes + batch.encoded_bytes();
            is_full = !page.batches.is_empty() && (more > bytes_max || batch.base >= end);
            if !is_full {
                bytes = more;
                page.batches.push(batch);
            }
        });
        match ended {
            Ok(()) if is_full => break,
            Ok(()) => {}
            // What was read of this point may lack a batch in its middle no more than at its end.
            Err(End::Enough) if !page.batches.is_empty() => break,
            Err(End::Enough) => return Err(Refusal::Damaged),
            Err(End::Refused(refusal)) => return Err(refusal),
        }
    }
    Ok(page)
}

/// The offset of the first record that, or one before it, has at least this timestamp.
///
/// # Errors
///
/// [`Refusal`]: the log cannot be read here.
pub(super) fn find(
    name: &[u8],
    topic: &Topic,
    timestamp: u64,
    past: &dyn Past,
) -> Result<u64, Refusal> {
    let later = topic.points.partition(|point| point.timestamp < timestamp);
    let Some(point) = later.checked_sub(1) else { return Ok(topic.first) };
    let Some(mut latest) = topic.points.at(point).map(|point| point.timestamp) else {
        return Ok(topic.next);
    };
    let mut found = None;
    let ended = Scan::new(name, past).point(topic, point, |batch| {
        latest = latest.max(batch.timestamp);
        if found.is_none() && latest >= timestamp {
            found = Some(batch.base);
        }
    });
    match ended {
        Ok(()) => Ok(found.unwrap_or_else(|| topic.end_of(point)).max(topic.first)),
        Err(End::Enough) => Err(Refusal::Damaged),
        Err(End::Refused(refusal)) => Err(refusal),
    }
}

/// The batches of a point, if they are next in a step of a round of compaction, but for those of
/// points before it.
fn compacted((point, end): (&Point, u64), left: &mut Bytes) -> Option<Vec<Batch>> {
    let mut batches = Vec::new();
    while let Some((batch, rest)) = Batch::peek(left).filter(|(batch, _)| batch.base < end) {
        *left = rest;
        if batch.base >= point.offset {
            batches.push(batch);
        }
    }
    are_of(&batches, point, end).then_some(batches)
}

impl<'a> Scan<'a> {
    /// Goes on with another topic, and with what has been read.
    pub(super) fn follow(&mut self, name: &'a [u8]) {
        self.name = name;
        // Its points may come before those of the other topic in the same entry.
        self.moved = None;
    }

    pub(super) fn new(name: &'a [u8], past: &'a dyn Past) -> Self {
        Self { name, past, commands: VecDeque::new(), moved: None, begin: 0, next: 0, fetches: 0 }
    }

    /// Shows the batches of a point in their order.
    fn point(
        &mut self,
        topic: &Topic,
        point: usize,
        mut see: impl FnMut(Batch),
    ) -> Result<(), End> {
        let damaged = End::Refused(Refusal::Damaged);
        let Some(place) = topic.points.at(point) else { return Err(damaged) };
        let (last, mut base) = (place.last(), place.offset);
        let end = topic.end_of(point);
        let mut moved = self.moved.take().filter(|(at, _)| *at == place.index);
        if let Some((_, moved)) = &mut moved {
            base = self.show_moved(topic, (place, end), moved, &mut see);
        } else {
            self.seek(place.index);
        }
        while moved.is_none() || self.next <= last {
            while let Some((index, _)) = self.commands.front()
                && *index <= last
            {
                let Some((index, command)) = self.commands.pop_front() else { break };
                self.begin = index + 1;
                if let Some(append) = Append::peek(&command).filter(|of| of.topic == self.name) {
                    let Append { timestamp, count, records, .. } = append;
                    see(Batch { base, timestamp, count, records });
                    base = base.saturating_add(u64::from(count));
                } else if index == place.index
                    && let Some(mut found) = Moved::peek(&command)
                {
                    base = self.show_moved(topic, (place, end), &mut found, &mut see);
                    moved = Some((index, found));
                }
            }
            if self.next > last {
                break;
            }
            self.fetch()?;
        }
        self.moved = moved;
        // The log has something else than what was applied: no record must get a wrong offset.
        if base == end { Ok(()) } else { Err(damaged) }
    }

    /// Shows the point that ends before `end`, if it is one of `moved`, and lets it and those before
    /// it go. Returns up to where records were shown. What was not taken when it was moved is passed
    /// over here as well.
    fn show_moved(
        &self,
        topic: &Topic,
        (point, end): (&Point, u64),
        moved: &mut Moved,
        see: &mut impl FnMut(Batch),
    ) -> u64 {
        let batches = match moved {
            Moved::Carried(parts) => self.carried(topic, (point, end), parts),
            Moved::Compacted(step) if step.id == topic.id && step.topic == self.name => {
                compacted((point, end), &mut step.batches)
            }
            Moved::Compacted(_) => None,
        };
        let Some(batches) = batches else { return point.offset };
        batches.into_iter().for_each(see);
        end
    }

    /// The batches of a point, if it is one of the parts of a carry.
    fn carried(
        &self,
        topic: &Topic,
        (point, end): (&Point, u64),
        parts: &mut Bytes,
    ) -> Option<Vec<Batch>> {
        let is_of = |part: &Part| part.id == topic.id && part.topic == self.name;
        std::iter::from_fn(|| Part::take(parts))
            .find_map(|part| if is_of(&part) { part.batches_of(point, end) } else { None })
    }

    /// As [`Self::point`]; says whether all of it was shown, or enough was read for one query.
    pub(super) fn whole_point(
        &mut self,
        topic: &Topic,
        point: usize,
        see: impl FnMut(Batch),
    ) -> Result<bool, Refusal> {
        match self.point(topic, point, see) {
            Ok(()) => Ok(true),
            Err(End::Enough) => Ok(false),
            Err(End::Refused(refusal)) => Err(refusal),
        }
    }

    /// Goes to an index, over what has been read if it is in there.
    fn seek(&mut self, index: u64) {
        if index < self.begin || index >= self.next {
            self.commands.clear();
            self.next = index;
        }
        while self.commands.front().is_some_and(|(at, _)| *at < index) {
            self.commands.pop_front();
        }
        self.begin = index;
    }

    fn fetch(&mut self) -> Result<(), End> {
        if self.fetches == FETCHES_MAX {
            return Err(End::Enough);
        }
        self.fetches += 1;
        let part = self.past.commands(self.next, FETCH_BYTES).map_err(|error| {
            End::Refused(match error {
                PastError::Forgotten { first } => Refusal::Behind { first },
                PastError::Unreadable { .. } => Refusal::Damaged,
            })
        })?;
        if part.next <= self.next {
            // It was applied, but is not there.
            return Err(End::Refused(Refusal::Damaged));
        }
        self.next = part.next;
        self.commands.extend(part.commands);
        Ok(())
    }
}
