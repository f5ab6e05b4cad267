//! When writes reach the disk, and what can be known of them after a stop.
//!
//! A replica that does not sync every write counts as having what it may lose when its machine dies.
//! If it came back as itself and voted, a leader could be elected that lacks what was committed. So
//! it must know whether it may have lost something. Before the first write that is not synced it
//! leaves a mark in its directory, with the name of the system's present boot; the mark goes when it
//! stops in order, after a last sync. A mark that is found says that it did not stop in order, and
//! the boot says what that means: as long as the system runs, it has what was written, whoever died.
//!
//! Touches the disk only through [`Disk`].
//! Invariant: no write that is not synced happens in a directory without the mark of this boot.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::wal::{Disk, OpenMode};

/// When a write counts as being on the disk. Term and vote are synced in every mode.
///
/// Kafka's `flush.ms` and NATS's `sync_interval` are like the last two; unlike there, the level of
/// every answer says so, and a replica that may have lost something does not vote with what is left.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum SyncMode {
    /// When it is synced, many writes sharing one sync.
    #[default]
    Always,
    /// When it is written; what is written is synced after at most this time.
    Interval(Duration),
    /// When it is written; when it reaches the disk is up to the operating system.
    Never,
}

impl SyncMode {
    /// The name in files, flags and status.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Interval(_) => "interval",
            Self::Never => "never",
        }
    }
}

/// What is known of the writes of whoever used a directory before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Confidence {
    /// Everything that counted is there.
    Whole,
    /// It stopped without a last sync, and the system went down since, or cannot tell. Some of what
    /// counted may be lost.
    Doubtful,
}

/// The name of the mark.
const FILE: &str = "unsynced";
/// What a mark begins with.
const MAGIC: &str = "zmesh unsynced 1\n";
/// The most bytes of a mark that are read.
const BYTES_MAX: u64 = 4_096;

/// The file of the mark.
pub(super) fn file(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

/// Leaves the mark, durably.
pub(super) fn mark(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    let content = format!("{MAGIC}{}\n", disk.boot().unwrap_or_default());
    replace(disk, dir, FILE, content.as_bytes())
}

/// Takes the mark away, durably. Everything has to be synced before.
pub(super) fn unmark(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    let there = disk.list(dir)?;
    let mut ours =
        there.iter().filter(|path| [file(dir), draft(dir, FILE)].contains(path)).peekable();
    if ours.peek().is_none() {
        return Ok(());
    }
    ours.try_for_each(|path| disk.remove(path))?;
    disk.sync_dir(dir)
}

/// What the mark says. A mark that cannot be read is as good as one of another boot.
pub(super) fn confidence(disk: &dyn Disk, dir: &Path) -> io::Result<Confidence> {
    let Some(content) = read(disk, dir, FILE)? else { return Ok(Confidence::Whole) };
    let of_this_boot = disk.boot().map(|boot| format!("{MAGIC}{boot}\n").into_bytes());
    Ok(if Some(content) == of_this_boot { Confidence::Whole } else { Confidence::Doubtful })
}

/// Puts a small file in the place of another, durably and as a whole.
pub(super) fn replace(disk: &dyn Disk, dir: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let draft = draft(dir, name);
    let file = disk.open(&draft, OpenMode::CreateEmpty)?;
    file.write_at(content, 0)?;
    file.sync_data()?;
    disk.rename(&draft, &dir.join(name))?;
    disk.sync_dir(dir)
}

/// What an interrupted [`replace`] may leave.
pub(super) fn draft(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.new"))
}

/// The beginning of a small file; none if there is no such file, or no directory yet.
pub(super) fn read(disk: &dyn Disk, dir: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
    let path = dir.join(name);
    match disk.list(dir) {
        Ok(files) if files.contains(&path) => {}
        Ok(_) => return Ok(None),
        // A node that begins has no directory yet.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    }
    let file = disk.open(&path, OpenMode::Existing)?;
    let bytes = usize::try_from(file.len()?.min(BYTES_MAX)).unwrap_or(0);
    let mut content = vec![0; bytes];
    file.read_at(&mut content, 0)?;
    Ok(Some(content))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::{Keep, MemoryDisk};

    const DIR: &str = "/data";

    fn disk() -> MemoryDisk {
        let disk = MemoryDisk::new();
        disk.create_dir(Path::new(DIR)).unwrap();
        disk
    }

    fn confidence_in(disk: &MemoryDisk) -> Confidence {
        confidence(disk, Path::new(DIR)).unwrap()
    }

    /// A killed process leaves everything to the system; a machine that went down may not have it.
    #[test]
    fn mark_of_this_boot_is_harmless_and_one_of_another_is_not() {
        let disk = disk();
        assert_eq!(confidence_in(&disk), Confidence::Whole);
        mark(&disk, Path::new(DIR)).unwrap();
        assert_eq!(confidence_in(&disk), Confidence::Whole, "the system still runs");
        disk.crash(&mut fastrand::Rng::with_seed(1), Keep::Nothing);
        assert_eq!(confidence_in(&disk), Confidence::Doubtful, "the mark was durable");
        unmark(&disk, Path::new(DIR)).unwrap();
        disk.crash(&mut fastrand::Rng::with_seed(1), Keep::Nothing);
        assert_eq!(confidence_in(&disk), Confidence::Whole, "so is that it was taken away");
    }

    /// A replica looks for its marks before it has a directory.
    #[test]
    fn directory_that_is_not_there_yet_has_no_marks() {
        let disk = crate::wal::RealDisk;
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(&disk, &dir.path().join("none"), FILE).unwrap(), None);
        assert_eq!(read(&disk, dir.path(), FILE).unwrap(), None);
    }

    /// What nobody can read proves nothing, and must not pass for the mark of this boot.
    #[test]
    fn mark_that_cannot_be_read_is_in_doubt() {
        let disk = disk();
        for content in [&b""[..], b"zmesh unsynced 1\n", b"\0\xFF", &[b'x'; 5_000]] {
            disk.overwrite(&file(Path::new(DIR)), content.to_vec());
            assert_eq!(confidence_in(&disk), Confidence::Doubtful, "{content:?}");
        }
    }
}
