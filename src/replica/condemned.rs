//! A directory that must not be used any more, since its replica was found to be damaged.
//!
//! That is written down, because starting again would not help: the same files would lead to the same
//! state. The file `condemned` holds the reason; `zmesh repair` puts the directory aside.
//!
//! Pure but for the disk.

use std::io;
use std::path::Path;

use crate::wal::{Disk, OpenMode};

/// The file in the directory.
pub(super) const FILE: &str = "condemned";
/// Bytes of a reason.
const REASON_BYTES_MAX: usize = 4_096;

/// Condemns a directory, durably.
///
/// # Errors
///
/// What the disk says; the directory may be condemned or not.
pub(super) fn write(disk: &dyn Disk, dir: &Path, reason: &str) -> io::Result<()> {
    let file = disk.open(&dir.join(FILE), OpenMode::CreateEmpty)?;
    let end = reason.len().min(REASON_BYTES_MAX);
    file.write_at(&reason.as_bytes()[..end], 0)?;
    file.sync_data()?;
    disk.sync_dir(dir)
}

/// Why a directory is condemned; none if it is not. A file without a reason counts: the machine may
/// have died while it was written.
///
/// # Errors
///
/// What the disk says.
pub(super) fn read(disk: &dyn Disk, dir: &Path) -> io::Result<Option<String>> {
    let file = match disk.open(&dir.join(FILE), OpenMode::Reading) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let bytes = usize::try_from(file.len()?).unwrap_or(usize::MAX).min(REASON_BYTES_MAX);
    let mut reason = vec![0; bytes];
    file.read_at(&mut reason, 0)?;
    match reason.is_empty() {
        true => Ok(Some("it was found to be damaged".to_owned())),
        false => Ok(Some(String::from_utf8_lossy(&reason).into_owned())),
    }
}
