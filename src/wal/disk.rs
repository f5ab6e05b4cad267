//! What the log asks of a disk, and the real one.
//!
//! The log never touches `std::fs`: it speaks to [`Disk`], so that a simulation can crash, tear and
//! fill [`MemoryDisk`](super::MemoryDisk) and run the very code that runs in production.
//!
//! Shell: [`RealDisk`] is the only part of `wal` that makes system calls. Both implementations pass
//! one conformance suite (`tests/storage.rs`).

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

/// How a file is opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OpenMode {
    /// The file must exist.
    Existing,
    /// The file is created, or emptied when it exists.
    CreateEmpty,
    /// The file must not exist.
    CreateNew,
    /// The file must exist, and is only read: no right to write is needed.
    Reading,
}

/// A place for files.
///
/// What is promised, and no more: written bytes survive a crash once [`DiskFile::sync_data`]
/// returned; a created, removed or renamed name survives once [`Disk::sync_dir`] of its directory
/// returned. Until then each may survive wholly, partly or not at all.
pub trait Disk: Send + Sync + std::fmt::Debug {
    /// Creates a directory and its parents; it is no error that it exists. The names are durable
    /// when this returns.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// Paths of the files in `dir`, sorted; directories are left out.
    ///
    /// # Errors
    ///
    /// What the system says; `NotFound` when there is no such directory.
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;

    /// Opens a file for reading and writing.
    ///
    /// # Errors
    ///
    /// What the system says; `NotFound` or `AlreadyExists` according to `mode`.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>>;

    /// Removes a file.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Renames a file within one directory, replacing `to`, at once for every observer.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Makes the names in `dir` durable.
    ///
    /// # Errors
    ///
    /// What the system says. After an error it is unknown which names are durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Takes the exclusive lock on the file `path`, creating the file when there is none; `None`
    /// when somebody else holds it. Never waits. Dropping the guard, or dying, releases it.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>>;

    /// Names the time for which the system of this disk has been up without a break: as long as it
    /// is the same, every written byte is there, synced or not. None if it cannot tell.
    fn boot(&self) -> Option<String> {
        None
    }

    /// Whether an operation may take long enough that others should not wait for it meanwhile.
    fn blocks(&self) -> bool {
        true
    }

    /// Takes the lock on the existing file `path` for reading: others may too, but nobody may have
    /// it exclusively meanwhile. None when somebody does. A disk without shared locks takes the
    /// exclusive one.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn try_lock_shared(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        self.try_lock(path)
    }
}

/// A held lock; dropping it releases it.
pub trait DiskLock: Send + Sync + std::fmt::Debug {}

/// An open file. Every method takes its position, so one handle may serve several readers.
pub trait DiskFile: Send + Sync + std::fmt::Debug {
    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` when the file ends first, else what the system says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`, growing the file when needed.
    ///
    /// # Errors
    ///
    /// What the system says. After an error any part of `bytes` may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Bytes in the file.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts the file to `bytes`, or grows it with zeros that take no space.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn set_len(&self, bytes: u64) -> io::Result<()>;

    /// Makes the file at least `bytes` long and takes the space for it; new bytes are zero.
    /// Writing inside an allocated file does not run out of space.
    ///
    /// # Errors
    ///
    /// `StorageFull` when there is no room, else what the system says.
    fn allocate(&self, bytes: u64) -> io::Result<()>;

    /// Makes written bytes and the length durable.
    ///
    /// # Errors
    ///
    /// What the system says. After an error nothing is known about any byte written since the last
    /// success, and calling it again would prove nothing: the system may have forgotten them.
    fn sync_data(&self) -> io::Result<()>;
}

/// The file system of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let missing: Vec<&Path> =
            dir.ancestors().take_while(|p| !p.as_os_str().is_empty() && !p.exists()).collect();
        fs::create_dir_all(dir)?;
        // A directory is durable when its parent is synced, from the outermost new one inwards.
        for created in missing.iter().rev() {
            self.sync_dir(parent(created))?;
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                paths.push(entry.path());
            }
        }
        paths.sort();
        Ok(paths)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(mode != OpenMode::Reading);
        match mode {
            OpenMode::Existing | OpenMode::Reading => {}
            OpenMode::CreateEmpty => {
                options.create(true).truncate(true);
            }
            OpenMode::CreateNew => {
                options.create_new(true);
            }
        }
        Ok(Box::new(RealFile(options.open(path)?)))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    /// Linux draws an id at every boot. It speaks for file systems of this machine; one that another
    /// machine serves may lose written bytes when that one goes down.
    fn boot(&self) -> Option<String> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(boot.trim().to_owned()).filter(|boot| !boot.is_empty())
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(RealLock { _file: file }))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn try_lock_shared(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        let file = File::open(path)?;
        match file.try_lock_shared() {
            Ok(()) => Ok(Some(Box::new(RealLock { _file: file }))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

/// The directory that holds `path`; the current one for a bare name.
pub(super) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// The system releases the lock with the descriptor.
#[derive(Debug)]
struct RealLock {
    _file: File,
}

impl DiskLock for RealLock {}

#[derive(Debug)]
struct RealFile(File);

impl RealFile {
    /// Takes space by writing zeros, for file systems that cannot preallocate.
    fn fill(&self, bytes: u64) -> io::Result<()> {
        static CHUNK: [u8; 65_536] = [0; 65_536];
        let mut offset = self.len()?;
        while offset < bytes {
            let rest = usize::try_from(bytes - offset).unwrap_or(usize::MAX).min(CHUNK.len());
            self.write_at(&CHUNK[..rest], offset)?;
            offset += rest as u64;
        }
        Ok(())
    }
}

impl DiskFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.0, buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(&self.0, bytes, offset)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.0, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => self.fill(bytes),
            Err(error) => Err(error.into()),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
