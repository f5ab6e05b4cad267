//! What can be done about a damaged directory, and doing it.
//!
//! Nothing is ever deleted: what is in the way gets another name. What may have been acknowledged is
//! given up only on an explicit word; a replica that has lost some of it must not vote as its former
//! self, so for most damage the way is to join again as a new member.
//!
//! Pure but for the disk.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::verify::{Report, VerifyError, verify};
use crate::wal::{Disk, FileKind, OpenMode, Verdict};

/// Bytes that are copied at a time.
const COPY_BYTES: usize = 1 << 20;
/// Names that are tried for a file that is put aside.
const NAMES_MAX: u32 = 10_000;

/// One thing to do.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase", tag = "action")]
pub enum Action {
    /// Overwrite the end of the last segment with zeros, after a copy of it was made. Entries from
    /// there on are lost here; they may have been acknowledged.
    Cut {
        /// The segment.
        file: PathBuf,
        /// Where the damage begins.
        offset: u64,
        /// The name of the copy.
        copy: PathBuf,
        /// Why.
        reason: String,
    },
    /// Give a file another name, under which no replica looks at it.
    Aside {
        /// The file.
        file: PathBuf,
        /// The other name.
        to: PathBuf,
        /// Why.
        reason: String,
    },
    /// Give a file its own name back.
    Rename {
        /// The file.
        file: PathBuf,
        /// The name that is written in it.
        to: PathBuf,
    },
    /// Nothing can be done about this file.
    Hopeless {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Why nothing was repaired, or not everything.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepairError {
    /// A replica runs on the directory.
    #[error("{} is in use by another process", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// The system refused. What was done before stays done, and can be done again.
    #[error("cannot {operation} {}: {source}", file.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        file: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The directory cannot be looked at.
    #[error(transparent)]
    Verify(#[from] VerifyError),
}

impl Action {
    /// Whether it is something that can be done.
    pub const fn is_possible(&self) -> bool {
        !matches!(self, Self::Hopeless { .. })
    }
}

/// What can be done about what `report` tells. `may_cut`: somebody has said that entries may be given
/// up which perhaps were acknowledged.
///
/// # Errors
///
/// [`RepairError::Io`]: the directory cannot be read.
pub fn plan_repair(
    disk: &Arc<dyn Disk>,
    report: &Report,
    may_cut: bool,
) -> Result<Vec<Action>, RepairError> {
    let io = io_of("list", &report.dir);
    let names = disk.list(&report.dir).map_err(io)?;
    let mut plan = Plan { report, names, may_cut, actions: Vec::new() };
    for (file, offset, reason) in report.damages() {
        let action = match file.kind {
            FileKind::Snapshot => plan.snapshot(&file.file, reason),
            FileKind::Segment => plan.segment(&file.file, offset, reason),
            FileKind::Metadata | FileKind::Other => hopeless(&file.file, reason),
        };
        plan.actions.push(action);
    }
    Ok(plan.actions)
}

/// Does what a plan says, as far as it is possible, and looks at the directory again.
///
/// # Errors
///
/// [`RepairError`]; planning and doing it again goes on where it stopped.
pub fn apply_repair(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    actions: &[Action],
) -> Result<Report, RepairError> {
    let lock = dir.join("lock");
    let taken = disk.try_lock(&lock).map_err(io_of("lock", &lock))?;
    let held = taken.ok_or_else(|| RepairError::InUse { dir: dir.to_path_buf() })?;
    for action in actions {
        match action {
            Action::Cut { file, offset, copy, .. } => {
                duplicate(disk.as_ref(), file, copy)?;
                disk.sync_dir(dir).map_err(io_of("sync", dir))?;
                zero(disk.as_ref(), file, *offset)?;
            }
            Action::Aside { file, to, .. } | Action::Rename { file, to } => {
                disk.rename(file, to).map_err(io_of("rename", file))?;
            }
            Action::Hopeless { .. } => {}
        }
    }
    disk.sync_dir(dir).map_err(io_of("sync", dir))?;
    drop(held);
    Ok(verify(disk, dir)?)
}

/// A name beside `path` that is not taken: `NAME.damaged-1` and so on.
pub fn name_aside(path: &Path, is_taken: impl Fn(&Path) -> bool) -> PathBuf {
    let name = |number: u32| {
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".damaged-{number}"));
        path.with_file_name(name)
    };
    let free = (1..NAMES_MAX).map(name).find(|name| !is_taken(name));
    free.unwrap_or_else(|| name(NAMES_MAX))
}

struct Plan<'a> {
    report: &'a Report,
    names: Vec<PathBuf>,
    may_cut: bool,
    actions: Vec<Action>,
}

impl Plan<'_> {
    /// A damaged snapshot is not needed if the log goes on after a whole one, or from the beginning.
    fn snapshot(&self, file: &Path, reason: &str) -> Action {
        let reaches = match self.report.snapshot_index {
            Some(index) => index + 1 >= self.report.first_index,
            None => self.report.begins_at_the_beginning(),
        };
        if !reaches || !self.names.iter().any(|name| name == file) {
            return hopeless(file, reason);
        }
        let (file, reason) = (file.to_path_buf(), reason.to_owned());
        let to = name_aside(&file, |name| self.names.iter().any(|taken| taken == name));
        Action::Aside { file, to, reason }
    }

    fn segment(&self, file: &Path, offset: u64, reason: &str) -> Action {
        if let Some(found) = reason.strip_prefix("it was renamed: it is ") {
            let to = file.with_file_name(found);
            return match self.names.contains(&to) {
                true => hopeless(file, "another file has its name"),
                false => Action::Rename { file: file.to_path_buf(), to },
            };
        }
        let segments = self.report.files.iter().filter(|it| it.kind == FileKind::Segment);
        let is_last = segments.map(|it| &it.file).max().is_some_and(|last| last == file);
        let only =
            self.report.damages().filter(|(it, ..)| it.kind == FileKind::Segment).count() == 1;
        let is_above = self.report.last_index >= self.report.commit;
        if !(is_last && only && is_above && offset >= self.report.synced_offset) {
            return hopeless(file, reason);
        }
        if !self.may_cut {
            let reason = format!(
                "{reason}; it lies above what was noted as committed (entry {}), and can be cut with \
                 --cut-unsynced if this is the only member: entries after {} are lost then, and may \
                 have been acknowledged",
                self.report.commit, self.report.last_index
            );
            return hopeless(file, &reason);
        }
        let copy = name_aside(file, |name| self.names.iter().any(|taken| taken == name));
        let (file, reason) = (file.to_path_buf(), reason.to_owned());
        Action::Cut { file, offset, copy, reason }
    }
}

fn hopeless(file: &Path, reason: &str) -> Action {
    Action::Hopeless { file: file.to_path_buf(), reason: reason.to_owned() }
}

/// Copies a file, durably.
fn duplicate(disk: &dyn Disk, from: &Path, to: &Path) -> Result<(), RepairError> {
    let source = disk.open(from, OpenMode::Reading).map_err(io_of("open", from))?;
    let target = disk.open(to, OpenMode::CreateNew).map_err(io_of("create", to))?;
    let length = source.len().map_err(io_of("read", from))?;
    let mut offset = 0;
    while offset < length {
        let bytes = usize::try_from(length - offset).unwrap_or(usize::MAX).min(COPY_BYTES);
        let mut data = vec![0; bytes];
        source.read_at(&mut data, offset).map_err(io_of("read", from))?;
        target.write_at(&data, offset).map_err(io_of("write", to))?;
        offset += bytes as u64;
    }
    target.sync_data().map_err(io_of("sync", to))
}

/// Overwrites a file from `offset` on with zeros, back to front, so that what is left of the damage
/// at any moment is still found at its beginning.
fn zero(disk: &dyn Disk, path: &Path, offset: u64) -> Result<(), RepairError> {
    static ZEROS: [u8; COPY_BYTES] = [0; COPY_BYTES];
    let file = disk.open(path, OpenMode::Existing).map_err(io_of("open", path))?;
    let mut end = file.len().map_err(io_of("read", path))?;
    while end > offset {
        let bytes = (end - offset).min(COPY_BYTES as u64);
        let zeros = &ZEROS[..usize::try_from(bytes).unwrap_or(COPY_BYTES)];
        file.write_at(zeros, end - bytes).map_err(io_of("write", path))?;
        end -= bytes;
    }
    file.sync_data().map_err(io_of("sync", path))
}

fn io_of(operation: &'static str, file: &Path) -> impl Fn(io::Error) -> RepairError {
    move |source| RepairError::Io { operation, file: file.to_path_buf(), source }
}

impl Report {
    /// Whether the log has forgotten nothing.
    fn begins_at_the_beginning(&self) -> bool {
        self.first_index <= crate::consensus::membership::Bootstrap::INDEX + 1
    }

    /// Whether it was stopped for good because its state was found to be wrong.
    pub fn is_condemned(&self) -> bool {
        let is_it = |file: &&crate::wal::FileReport| {
            file.file.file_name().is_some_and(|name| name == super::condemned::FILE)
                && matches!(file.verdict, Verdict::Damaged { .. })
        };
        self.files.iter().any(|file| is_it(&file))
    }
}
