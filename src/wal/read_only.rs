//! A disk that is only looked at.
//!
//! Whoever verifies a directory must not change a byte of it; on this disk nothing could.
//!
//! Pure: it passes on what is left of another disk.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{Disk, DiskFile, DiskLock, OpenMode};

/// A disk on which nothing can be changed, whatever is asked of it.
#[derive(Clone, Debug)]
pub struct ReadOnlyDisk(pub Arc<dyn Disk>);

/// What a disk says that must not be written.
fn read_only() -> io::Error {
    io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "opened for reading only")
}

impl Disk for ReadOnlyDisk {
    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        Err(read_only())
    }

    fn boot(&self) -> Option<String> {
        self.0.boot()
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.0.list(dir)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        match mode {
            OpenMode::Existing | OpenMode::Reading => {
                Ok(Box::new(ReadOnlyFile(self.0.open(path, OpenMode::Reading)?)))
            }
            OpenMode::CreateEmpty | OpenMode::CreateNew => Err(read_only()),
        }
    }

    fn remove(&self, _path: &Path) -> io::Result<()> {
        Err(read_only())
    }

    fn rename(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        Err(read_only())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Err(read_only())
    }

    /// Whoever only reads shares.
    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        self.0.try_lock_shared(path)
    }
}

#[derive(Debug)]
struct ReadOnlyFile(Box<dyn DiskFile>);

impl DiskFile for ReadOnlyFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, _bytes: &[u8], _offset: u64) -> io::Result<()> {
        Err(read_only())
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn set_len(&self, _bytes: u64) -> io::Result<()> {
        Err(read_only())
    }

    fn allocate(&self, _bytes: u64) -> io::Result<()> {
        Err(read_only())
    }

    fn sync_data(&self) -> io::Result<()> {
        Err(read_only())
    }
}
