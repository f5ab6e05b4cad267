//! One log per directory: a lock on the file `lock`.
//!
//! The system releases it when the holder dies, so a crash leaves no stale lock behind.

use std::path::Path;

use super::disk::{Disk, DiskLock};
use super::error::WalError;

/// The directory is ours while this lives.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    _lock: Box<dyn DiskLock>,
}

impl DirectoryLock {
    /// Takes the lock, or says at once that somebody else has it.
    pub(super) fn take(disk: &dyn Disk, dir: &Path) -> Result<Self, WalError> {
        let path = dir.join("lock");
        let lock = disk.try_lock(&path).map_err(WalError::io("lock", &path))?;
        let lock = lock.ok_or_else(|| WalError::Locked { dir: dir.to_path_buf() })?;
        Ok(Self { _lock: lock })
    }
}
