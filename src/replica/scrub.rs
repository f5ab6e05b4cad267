//! Reads the files of a replica again, slowly, to find damage while there are other copies.
//!
//! Pure: time enters as `now`; the files are read by a [`Scrubber`] wherever its owner likes.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::setup::Options;
use super::snapshot::{SnapshotError, SnapshotFiles, SnapshotScrub};
use crate::timer::Time;
use crate::wal::{Disk, Identity, SegmentScrub, WalError};

/// The most bytes that are read at a time, so that others are not held up.
const STEP_BYTES_MAX: u64 = 1 << 20;
/// The fewest.
const STEP_BYTES_MIN: u64 = 4 << 10;

/// When to read how much.
#[derive(Debug)]
pub(super) struct Pace {
    bytes_per_second: u64,
    interval: Duration,
    due: Time,
}

impl Pace {
    /// The first pass begins one interval from now: a start has read everything.
    pub(super) fn new(options: &Options, now: Time) -> Self {
        let (bytes_per_second, interval) = (options.scrub_bytes_per_second, options.scrub_interval);
        Self { bytes_per_second, interval, due: now + interval }
    }

    /// When the next step is to be done; none if nothing is ever read again.
    pub(super) fn due(&self) -> Option<Time> {
        (self.bytes_per_second > 0).then_some(self.due)
    }

    /// Bytes of one step.
    pub(super) fn step_bytes(&self) -> usize {
        let bytes = self.bytes_per_second.clamp(STEP_BYTES_MIN, STEP_BYTES_MAX);
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// So much was read in the step that has ended now.
    pub(super) fn stepped(&mut self, now: Time, bytes: u64) {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second.max(1));
        let pause = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.due = now + pause;
    }

    /// Everything was read.
    pub(super) fn ended(&mut self, now: Time) {
        self.due = now + self.interval;
    }
}

/// One pass over all files.
#[derive(Debug)]
pub(super) struct Scrubber {
    disk: Arc<dyn Disk>,
    identity: Identity,
    files: SnapshotFiles,
    segments: VecDeque<PathBuf>,
    snapshots: VecDeque<PathBuf>,
    current: Option<Current>,
}

#[derive(Debug)]
enum Current {
    Segment(Box<SegmentScrub>),
    Snapshot(Box<SnapshotScrub>),
}

/// What a step came to.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Step {
    /// Bytes of a file are not what was written. The pass goes on with the next file.
    Damaged {
        /// File, offset and reason in words.
        reason: String,
    },
    /// Everything was read.
    Ended,
    /// A file could not be read. The pass goes on with the next.
    Failed {
        /// In words.
        reason: String,
    },
    /// So many bytes were as they should be.
    Read(u64),
}

impl Scrubber {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        identity: Identity,
        files: SnapshotFiles,
        segments: Vec<PathBuf>,
    ) -> Self {
        let snapshots = files.finished().unwrap_or_default().into();
        Self { disk, identity, files, segments: segments.into(), snapshots, current: None }
    }

    /// Reads on for about `bytes_max` bytes.
    pub(super) fn step(&mut self, bytes_max: usize) -> Step {
        loop {
            let Some(current) = &mut self.current else {
                match self.next() {
                    Ok(true) => continue,
                    Ok(false) => return Step::Ended,
                    Err(step) => return step,
                }
            };
            let read = match current {
                Current::Segment(segment) => segment.step(bytes_max).map_err(of_log),
                Current::Snapshot(snapshot) => snapshot.step(bytes_max).map_err(of_snapshot),
            };
            match read {
                Ok(0) => self.current = None,
                Ok(bytes) => return Step::Read(bytes as u64),
                Err(step) => {
                    self.current = None;
                    return step;
                }
            }
        }
    }

    /// Begins with the next file; whether there is one. One that is gone was forgotten meanwhile.
    fn next(&mut self) -> Result<bool, Step> {
        if let Some(path) = self.segments.pop_front() {
            let begun = SegmentScrub::begin(&self.disk, &path, &self.identity).map_err(of_log)?;
            self.current = begun.map(|it| Current::Segment(Box::new(it)));
            return Ok(true);
        }
        let Some(path) = self.snapshots.pop_front() else { return Ok(false) };
        let begun = self.files.scrub(&path).map_err(of_snapshot)?;
        self.current = begun.map(|it| Current::Snapshot(Box::new(it)));
        Ok(true)
    }
}

fn of_log(error: WalError) -> Step {
    let reason = error.to_string();
    if error.is_damage() { Step::Damaged { reason } } else { Step::Failed { reason } }
}

fn of_snapshot(error: SnapshotError) -> Step {
    let reason = error.to_string();
    if error.is_damage() { Step::Damaged { reason } } else { Step::Failed { reason } }
}

#[cfg(test)]
mod tests;
