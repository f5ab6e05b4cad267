//! Looks at the directory of a replica without opening it: is every file what was written, and do
//! they go together?
//!
//! Pure but for the disk, of which it changes nothing. It shares the lock of the directory, so that
//! no replica starts on it meanwhile.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::condemned;
use super::snapshot::{SnapshotError, SnapshotFiles};
use crate::consensus::Snapshot;
use crate::consensus::membership::Bootstrap;
use crate::id::NodeId;
use crate::wal::{
    self, Disk, FileKind, FileReport, LogReport, OpenMode, ReadOnlyDisk, Verdict, WalError,
};

/// Files of a replica that say nothing about its state.
const SILENT: [&str; 6] = ["lock", "reserve", "raft-id", "unsynced", "rejoin", "rejoin.begin"];
/// What the name of a file begins with that an interrupted write has left.
const DRAFTS: [&str; 5] =
    ["snapshot.new", "snapshot.part", "raft-id.new", "rejoin.begin.new", "unsynced.new"];

/// What was found in a directory.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The directory.
    pub dir: PathBuf,
    /// Whether the replica would start, and nothing in it is damaged or unknown.
    pub sound: bool,
    /// The id of the cluster, if the metadata can be read; so with what follows.
    pub cluster: Option<uuid::Uuid>,
    /// Whose directory it is.
    pub node: Option<NodeId>,
    /// Which directory of that node, 16 hex digits.
    pub raft_id: Option<String>,
    /// The newest term that the replica has seen.
    pub term: u64,
    /// The highest index that it has noted as committed; a hint, it may lag.
    pub commit: u64,
    /// The first entry that the log still has.
    pub first_index: u64,
    /// The last entry, as far as the log could be read.
    pub last_index: u64,
    /// The term of that entry.
    pub last_term: u64,
    /// Up to which byte the last segment is known to have been synced.
    pub synced_offset: u64,
    /// The last index in the newest snapshot that is whole.
    pub snapshot_index: Option<u64>,
    /// Every file.
    pub files: Vec<FileReport>,
}

/// Why a directory was not looked at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// A replica runs on it; what it writes meanwhile would look like damage.
    #[error("{} is in use by another process", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// The system refused.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// What was read.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// The log cannot be looked at.
    #[error(transparent)]
    Log(#[from] WalError),
    /// There is no replica in the directory.
    #[error("{} holds no replica", dir.display())]
    NothingThere {
        /// The directory.
        dir: PathBuf,
    },
}

impl Report {
    /// The files that are damaged, with the place and the reason.
    pub fn damages(&self) -> impl Iterator<Item = (&FileReport, u64, &str)> {
        self.files.iter().filter_map(|file| match &file.verdict {
            Verdict::Damaged { offset, reason } => Some((file, *offset, reason.as_str())),
            Verdict::Harmless { .. } | Verdict::Sound | Verdict::Unknown { .. } => None,
        })
    }
}

/// Reads every file of the replica in `dir` from front to back.
///
/// # Errors
///
/// [`VerifyError`]; damage is no error but what the report is for.
pub fn verify(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Report, VerifyError> {
    let io = |source| VerifyError::Io { path: dir.to_path_buf(), source };
    let lock = dir.join("lock");
    let _shared = match disk.list(dir).map_err(io)?.contains(&lock) {
        true => {
            let taken = disk.try_lock_shared(&lock).map_err(io)?;
            Some(taken.ok_or_else(|| VerifyError::InUse { dir: dir.to_path_buf() })?)
        }
        false => None,
    };
    let log = wal::verify(disk, dir)?;
    let has_log = log.identity.is_some() || !log.files.is_empty();
    let mut report = Report::new(dir, &log);
    report.files.extend(log.files.iter().cloned());
    report.bootstrap(&log);
    let newest = report.others(disk, &log).map_err(io)?;
    if !has_log && report.files.is_empty() {
        return Err(VerifyError::NothingThere { dir: dir.to_path_buf() });
    }
    report.relations(&log, newest.as_ref());
    let fine = |file: &FileReport| {
        matches!(file.verdict, Verdict::Sound | Verdict::Harmless { .. })
            || file.kind == FileKind::Other
    };
    report.sound = report.files.iter().all(fine);
    Ok(report)
}

impl Report {
    fn new(dir: &Path, log: &LogReport) -> Self {
        let identity = log.identity.as_ref();
        Self {
            dir: dir.to_path_buf(),
            sound: false,
            cluster: identity.map(|identity| identity.cluster),
            node: identity.map(|identity| identity.node.clone()),
            raft_id: identity.map(|identity| format!("{:016x}", identity.raft_id)),
            term: log.hard_state.term,
            commit: log.hard_state.commit,
            first_index: log.compaction.index + 1,
            last_index: log.last.index,
            last_term: log.last.term,
            synced_offset: log.synced_offset,
            snapshot_index: None,
            files: Vec::new(),
        }
    }

    /// Whether the first members can be read, without which the replica does not start.
    fn bootstrap(&mut self, log: &LogReport) {
        if log.identity.is_none() {
            return;
        }
        let verdict = match Bootstrap::decode(&log.bootstrap) {
            Ok(_) => return,
            Err(_) if log.bootstrap.is_empty() => Verdict::Harmless {
                offset: 0,
                reason: "the directory was not completely created; a start completes it".to_owned(),
            },
            Err(error) => Verdict::Damaged {
                offset: 0,
                reason: format!("the first members cannot be read: {error}"),
            },
        };
        let (file, kind) = (self.dir.join("meta"), FileKind::Metadata);
        let content = "first members".to_owned();
        self.files.push(FileReport { file, kind, bytes: 0, content, verdict });
    }

    /// Snapshots, and whatever else lies there. Returns the newest snapshot that is whole.
    fn others(
        &mut self,
        disk: &Arc<dyn Disk>,
        log: &LogReport,
    ) -> std::io::Result<Option<Snapshot>> {
        let read_only: Arc<dyn Disk> = Arc::new(ReadOnlyDisk(Arc::clone(disk)));
        let cluster = log.identity.as_ref().map(|identity| identity.cluster);
        let mut newest: Option<Snapshot> = None;
        for file in disk.list(&self.dir)? {
            let name = file.file_name().map(|name| name.to_string_lossy().into_owned());
            let name = name.unwrap_or_default();
            if self.files.iter().any(|report| report.file == file)
                || SILENT.contains(&name.as_str())
                || name == "meta"
            {
                continue;
            }
            let bytes = read_only.open(&file, OpenMode::Reading).and_then(|file| file.len());
            let bytes = bytes.unwrap_or(0);
            let condemned = match name == condemned::FILE {
                true => condemned::read(read_only.as_ref(), &self.dir)?,
                false => None,
            };
            let (kind, content, verdict) = match cluster {
                _ if condemned.is_some() => {
                    let reason = condemned.unwrap_or_default();
                    (FileKind::Metadata, String::new(), Verdict::Damaged { offset: 0, reason })
                }
                Some(cluster) if name.ends_with(".snapshot") => {
                    let files = SnapshotFiles::new(Arc::clone(&read_only), &self.dir, cluster);
                    let (content, verdict) = match files.verify(&file) {
                        Ok(snapshot) => {
                            let content = state(&snapshot);
                            if newest
                                .as_ref()
                                .is_none_or(|it| it.point.index < snapshot.point.index)
                            {
                                newest = Some(snapshot);
                            }
                            (content, Verdict::Sound)
                        }
                        Err(error) => (String::new(), judge(error)),
                    };
                    (FileKind::Snapshot, content, verdict)
                }
                _ => (FileKind::Other, String::new(), stray(&name)),
            };
            self.files.push(FileReport { file, kind, bytes, content, verdict });
        }
        Ok(newest)
    }

    /// What one file promises about another.
    fn relations(&mut self, log: &LogReport, newest: Option<&Snapshot>) {
        self.snapshot_index = newest.map(|newest| newest.point.index);
        let forgotten = log.compaction.index;
        let needed = log.identity.is_some() && forgotten > Bootstrap::INDEX;
        if needed && newest.is_none_or(|newest| newest.point.index < forgotten) {
            let reason = format!(
                "the log begins after entry {forgotten}, and no whole snapshot holds what it had"
            );
            let verdict = Verdict::Damaged { offset: 0, reason };
            let (file, kind) = (self.dir.join("*.snapshot"), FileKind::Snapshot);
            self.files.push(FileReport { file, kind, bytes: 0, content: String::new(), verdict });
        }
    }
}

fn state(snapshot: &Snapshot) -> String {
    let members = snapshot.membership.members().count();
    let (index, term) = (snapshot.point.index, snapshot.point.term);
    format!("state after entry {index} of term {term}, {members} members")
}

/// A file that is no part of the replica.
fn stray(name: &str) -> Verdict {
    let reason = match name {
        "rejoin" | "rejoin.begin" => "the replica begins anew, since it may have lost writes",
        "unsynced" => "writes were not synced when this was left; so it is also while it runs",
        _ if name.ends_with(".aside") => "set aside until the replica has begun anew",
        _ if DRAFTS.contains(&name) => "left by an interrupted write; the next start removes it",
        _ => "not a file of a replica; it is left alone",
    };
    Verdict::Harmless { offset: 0, reason: reason.to_owned() }
}

fn judge(error: SnapshotError) -> Verdict {
    match error {
        SnapshotError::Corrupt { offset, reason, .. } => Verdict::Damaged { offset, reason },
        SnapshotError::Io { source, .. } if source.kind() == ErrorKind::UnexpectedEof => {
            Verdict::Damaged { offset: 0, reason: "it is cut short".to_owned() }
        }
        error @ (SnapshotError::Foreign { .. }
        | SnapshotError::Io { .. }
        | SnapshotError::Missing { .. }
        | SnapshotError::NewerFormat { .. }) => Verdict::Unknown { reason: error.to_string() },
    }
}
