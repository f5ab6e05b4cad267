//! Forced recovery: when the quorum is gone for good, one member's directory becomes the beginning of
//! another cluster.
//!
//! Nobody can tell whether what the lost members acknowledged is all in this directory, so this is an
//! operator's decision and never automatic. The new cluster has a new id and one member with a new
//! raft id: members of the old one that come back are refused, and cannot mix what they have into it.
//!
//! The state goes over as a snapshot. What the machine refers to in the log goes over as well, with a
//! snapshot from before it, so that members that join later can begin there.
//!
//! Pure but for the disk it is given.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::machine::{Effects, Machine};
use super::snapshot::{SnapshotError, SnapshotFiles};
use super::store::{Store, StoreError};
use crate::consensus::membership::{Bootstrap, InvalidBootstrap, Member, Membership};
use crate::consensus::{Log, LogError};
use crate::wal::{self, Disk, EntryKind, Point, Wal};

/// Bytes of log that are read at a time.
const READ_BYTES: u64 = 1024 * 1024;

/// What a recovery came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Recovered {
    /// The id of the new cluster.
    pub cluster: uuid::Uuid,
    /// The last index in its state.
    pub index: u64,
    /// Entries among them that were not known to be committed. They were kept: some of them may have
    /// been acknowledged.
    pub uncertain: u64,
}

/// Why nothing was recovered. The old directory is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecoverError {
    /// The name of the member is none.
    #[error(transparent)]
    Bootstrap(#[from] InvalidBootstrap),
    /// The system refused to look at the new directory.
    #[error("{}: {source}", dir.display())]
    Io {
        /// The directory.
        dir: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// The log of the old directory cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// There is no replica in the old directory.
    #[error("{} holds no replica", dir.display())]
    NothingThere {
        /// The directory.
        dir: PathBuf,
    },
    /// The new directory is not empty. It is never overwritten.
    #[error("{} is not empty", dir.display())]
    NotEmpty {
        /// The directory.
        dir: PathBuf,
    },
    /// The new snapshot could not be written.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// One of the directories cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Makes of the directory `from` the directory `to` of a new cluster with this one member, and leaves
/// `from` as it is but for what opening a log does.
///
/// `raft_id` is the member's new one: drawn at random, as [`new_raft_id`](super::new_raft_id) does.
/// `machine` is an empty one of the kind that the replica ran. A replica that is started on `to`
/// leads at once; others join it as new members do.
///
/// # Errors
///
/// [`RecoverError`]; `to` may have been begun then, but no replica starts on it.
pub fn recover(
    disk: &Arc<dyn Disk>,
    (from, to): (&Path, &Path),
    options: wal::Options,
    raft_id: u64,
    mut machine: impl Machine,
) -> Result<Recovered, RecoverError> {
    let store = Store::open(Arc::clone(disk), from, options)?;
    let store = store.ok_or_else(|| RecoverError::NothingThere { dir: from.to_path_buf() })?;
    let io = |source| RecoverError::Io { dir: to.to_path_buf(), source };
    disk.create_dir(to).map_err(io)?;
    if !disk.list(to).map_err(io)?.is_empty() {
        return Err(RecoverError::NotEmpty { dir: to.to_path_buf() });
    }
    let point = replay(&store, &mut machine)?;
    let node = store.identity().node.clone();
    let bootstrap = Bootstrap::new(vec![Member { raft_id, node: node.clone(), voter: true }])?;
    let cluster = bootstrap.cluster_id();
    // The snapshots come first: a directory without a log is none, whatever else is there.
    let files = SnapshotFiles::new(Arc::clone(disk), to, cluster);
    files.write(point, Membership::new(&bootstrap), machine.snapshot())?;
    let (disk, member) = (Arc::clone(disk), (node, raft_id));
    match machine.log_floor() {
        None => {
            let nothing = |_: &mut Wal| Ok(point);
            Store::create_with((disk, to), options, member, &bootstrap, (point, nothing))?;
        }
        Some(floor) => {
            let log = store.log();
            let begins = log.first_index() - 1;
            let begins = Point { index: begins, term: log.term(begins).unwrap_or_default() };
            // Where members can begin that join. A log that is whole needs no snapshot for them.
            let whole = begins.index == Bootstrap::INDEX;
            let base = match restore_before(&store, floor, &mut machine).filter(|_| !whole) {
                Some(base) => {
                    files.write(base, Membership::new(&bootstrap), machine.snapshot())?;
                    base
                }
                None => begins,
            };
            let fill = |wal: &mut Wal| copy(&log, base, point, wal);
            Store::create_with((disk, to), options, member, &bootstrap, (base, fill))?;
        }
    }
    let uncertain = point.index.saturating_sub(store.hard_state().commit);
    Ok(Recovered { cluster, index: point.index, uncertain })
}

/// Brings the machine to the newest snapshot before `floor`, and says where that is; none if there is
/// none, or none that is whole.
fn restore_before(store: &Store, floor: u64, machine: &mut impl Machine) -> Option<Point> {
    let newest = store.snapshot().map(|snapshot| snapshot.point);
    let points = store.older_snapshots().iter().copied().chain(newest);
    let points: Vec<Point> = points.filter(|point| point.index < floor).collect();
    points.into_iter().rev().find(|point| {
        let opened = store.files().open(*point).map_err(|error| error.to_string());
        let restored = opened
            .and_then(|mut body| machine.restore(&mut body).map_err(|error| error.to_string()));
        if let Err(error) = &restored {
            tracing::warn!(index = point.index, error, "a snapshot is not taken over");
        }
        restored.is_ok()
    })
}

/// Writes the entries after `base` up to `last` into another log. The members of the old cluster are
/// none in the new one, so its changes of them are entries without a command.
fn copy(log: &impl Log, base: Point, last: Point, wal: &mut Wal) -> Result<Point, StoreError> {
    let mut next = base.index + 1;
    while next <= last.index {
        let read = log.entries(next, last.index + 1, READ_BYTES);
        let mut entries = read.map_err(|error| StoreError::Copy { reason: error.reason })?;
        for entry in &mut entries {
            if entry.kind == EntryKind::Membership {
                (entry.kind, entry.data) = (EntryKind::Normal, bytes::Bytes::new());
            }
        }
        wal.append(&entries)?;
        next += entries.len() as u64;
    }
    Ok(last)
}

/// Brings the machine to everything that the directory has, committed or not.
fn replay(store: &Store, machine: &mut impl Machine) -> Result<Point, RecoverError> {
    store.restore(machine)?;
    let bootstrap = Point { index: Bootstrap::INDEX, term: Bootstrap::TERM };
    let mut point = store.snapshot().map_or(bootstrap, |snapshot| snapshot.point);
    let log = store.log();
    while point.index < log.last_index() {
        let entries = log.entries(point.index + 1, log.last_index() + 1, READ_BYTES)?;
        for entry in entries {
            point = Point { index: entry.index, term: entry.term };
            if entry.kind == EntryKind::Normal && !entry.data.is_empty() {
                machine.apply(entry.index, &entry.data, &mut Effects::default());
            }
        }
    }
    Ok(point)
}
