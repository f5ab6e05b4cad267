//! A disk in memory whose syncs take time: whoever syncs stands still meanwhile.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use zmesh::wal::{Disk, DiskFile, DiskLock, MemoryDisk, OpenMode};

/// How slow it is, and what the computer has to stand still for.
#[derive(Debug, Default)]
pub(crate) struct Slowness {
    micros_per_sync: AtomicU64,
    owed_micros: AtomicU64,
}

impl Slowness {
    /// From here on a sync takes so long.
    pub(crate) fn set(&self, sync: Duration) {
        let micros = u64::try_from(sync.as_micros()).expect("a short time");
        self.micros_per_sync.store(micros, Ordering::Relaxed);
    }

    /// The time that was spent on syncs since the last call.
    pub(crate) fn take(&self) -> Duration {
        Duration::from_micros(self.owed_micros.swap(0, Ordering::Relaxed))
    }

    fn sync(&self) {
        let micros = self.micros_per_sync.load(Ordering::Relaxed);
        self.owed_micros.fetch_add(micros, Ordering::Relaxed);
    }
}

#[derive(Clone, Debug)]
pub(crate) struct SlowDisk {
    pub(crate) inner: MemoryDisk,
    pub(crate) slowness: Arc<Slowness>,
    /// Whether it says that it has synced, and has not.
    pub(crate) lies: bool,
}

#[derive(Debug)]
struct SlowFile {
    inner: Box<dyn DiskFile>,
    slowness: Arc<Slowness>,
    lies: bool,
}

impl Disk for SlowDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.create_dir(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.inner.list(dir)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        let (inner, slowness) = (self.inner.open(path, mode)?, Arc::clone(&self.slowness));
        Ok(Box::new(SlowFile { inner, slowness, lies: self.lies }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.inner.remove(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.slowness.sync();
        self.inner.sync_dir(dir)
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        self.inner.try_lock(path)
    }

    fn boot(&self) -> Option<String> {
        self.inner.boot()
    }

    fn blocks(&self) -> bool {
        self.inner.blocks()
    }
}

impl DiskFile for SlowFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.inner.write_at(bytes, offset)
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.inner.set_len(bytes)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.inner.allocate(bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.slowness.sync();
        if self.lies { Ok(()) } else { self.inner.sync_data() }
    }
}
