//! Work on snapshot files that takes time, and is done beside the replica's own.
//!
//! Pure but for the files.

use super::{SnapshotError, SnapshotFiles};
use crate::consensus::Snapshot;
use crate::consensus::membership::Membership;
use crate::replica::hashes::{self, StateHash};
use crate::replica::machine::Image;
use crate::wal::Point;

/// Something to do in the background. One at a time.
pub enum Job {
    /// Check a snapshot that was received, and make it durable.
    Check {
        /// What it has to be.
        snapshot: Snapshot,
    },
    /// Look whether a snapshot that is on disk is whole, before it is offered to anybody.
    Inspect {
        /// Which.
        point: Point,
    },
    /// Sum up a state.
    Sum {
        /// The last entry in it.
        point: Point,
        /// The state.
        image: Image,
    },
    /// Write a snapshot.
    Write {
        /// The last entry in it.
        point: Point,
        /// The members after that entry.
        membership: Membership,
        /// The machine after that entry.
        image: Image,
    },
}

/// What became of a [`Job`].
#[derive(Debug)]
pub enum JobDone {
    /// Of [`Job::Check`].
    Checked {
        /// Which snapshot.
        point: Point,
        /// Whether it is durable and what it has to be.
        result: Result<(), SnapshotError>,
    },
    /// Of [`Job::Inspect`].
    Inspected {
        /// Which snapshot.
        point: Point,
        /// What it is, if it is whole.
        result: Result<Snapshot, SnapshotError>,
    },
    /// Of [`Job::Sum`].
    Summed {
        /// The sum.
        result: std::io::Result<StateHash>,
    },
    /// Of [`Job::Write`].
    Written {
        /// The snapshot, which is durable.
        result: Result<Snapshot, SnapshotError>,
    },
}

impl Job {
    /// The same job, whose image is written as `change` has it.
    pub(in crate::replica) fn with_image(self, change: impl FnOnce(Image) -> Image) -> Self {
        match self {
            Self::Sum { point, image } => Self::Sum { point, image: change(image) },
            Self::Write { point, membership, image } => {
                Self::Write { point, membership, image: change(image) }
            }
            other @ (Self::Check { .. } | Self::Inspect { .. }) => other,
        }
    }

    /// Does it.
    pub fn run(self, files: &SnapshotFiles) -> JobDone {
        match self {
            Self::Check { snapshot } => {
                JobDone::Checked { point: snapshot.point, result: files.finish(&snapshot) }
            }
            Self::Inspect { point } => JobDone::Inspected { point, result: files.inspect(point) },
            Self::Sum { point, image } => {
                JobDone::Summed { result: hashes::sum(point, image, files.cancelled()) }
            }
            Self::Write { point, membership, image } => {
                JobDone::Written { result: files.write(point, membership, image) }
            }
        }
    }
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Check { snapshot } => {
                f.debug_struct("Check").field("snapshot", snapshot).finish()
            }
            Self::Inspect { point } => f.debug_struct("Inspect").field("point", point).finish(),
            Self::Sum { point, .. } => {
                f.debug_struct("Sum").field("point", point).finish_non_exhaustive()
            }
            Self::Write { point, .. } => {
                f.debug_struct("Write").field("point", point).finish_non_exhaustive()
            }
        }
    }
}
