//! A disk that promises too much, to prove that the simulation notices.

use std::io;
use std::path::{Path, PathBuf};

use zmesh::wal::{Disk, DiskFile, DiskLock, MemoryDisk, OpenMode};

/// A disk that says of entries that they are synced when they are not. The rest it does well.
#[derive(Debug)]
pub(crate) struct LyingDisk(pub(crate) MemoryDisk);

#[derive(Debug)]
struct LyingFile(Box<dyn DiskFile>);

impl Disk for LyingDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.create_dir(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.0.list(dir)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        let file = self.0.open(path, mode)?;
        // A new segment is created honestly, with its header; lies begin with the entries.
        let log = path.extension().is_some_and(|extension| extension == "wal");
        Ok(if log { Box::new(LyingFile(file)) } else { file })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.sync_dir(dir)
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        self.0.try_lock(path)
    }
}

impl DiskFile for LyingFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(bytes, offset)?;
        if offset == 0 { self.0.sync_data() } else { Ok(()) }
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.0.allocate(bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
}
