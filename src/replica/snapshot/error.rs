//! What can be wrong with snapshot files.

use std::io;
use std::path::{Path, PathBuf};

/// Why a snapshot cannot be written or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// Bytes are not what was written. Nothing was changed on disk.
    #[error(
        "{} is corrupt at byte {offset}: {reason}; restore the directory, or remove this member and \
         add it again",
        file.display()
    )]
    Corrupt {
        /// The damaged file.
        file: PathBuf,
        /// Where in it the damage begins.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
    /// The file belongs to another cluster. Nothing was changed on disk.
    #[error("{} belongs to another cluster", file.display())]
    Foreign {
        /// The file.
        file: PathBuf,
    },
    /// The system refused.
    #[error("cannot {operation} {}: {source}", file.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The log was compacted and no snapshot holds what it had. Nothing was changed on disk.
    #[error(
        "{} has no snapshot, and the log begins after entry {compaction}; restore the directory, or \
         remove this member and add it again",
        dir.display()
    )]
    Missing {
        /// The directory.
        dir: PathBuf,
        /// The last entry that the log has forgotten.
        compaction: u64,
    },
    /// A newer zmesh wrote the file. Nothing was changed on disk.
    #[error("{} has format version {found}; start a newer zmesh", file.display())]
    NewerFormat {
        /// The file.
        file: PathBuf,
        /// The version in it.
        found: u16,
    },
}

impl SnapshotError {
    /// Says what was tried on which file when the system refused.
    pub(super) fn io(operation: &'static str, file: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io { operation, file: file.to_path_buf(), source }
    }

    /// A read that failed; a file that ends too early is damaged.
    pub(super) fn read(file: &Path, offset: u64) -> impl Fn(io::Error) -> Self {
        move |source| match source.kind() == io::ErrorKind::UnexpectedEof {
            true => Self::corrupt(file, offset, "it is cut short"),
            false => Self::io("read", file)(source),
        }
    }

    pub(super) fn corrupt(file: &Path, offset: u64, reason: impl Into<String>) -> Self {
        Self::Corrupt { file: file.to_path_buf(), offset, reason: reason.into() }
    }

    /// Whether the file will not become usable by itself: it is damaged, gone, or not for us.
    pub(in crate::replica) fn is_lasting(&self) -> bool {
        match self {
            Self::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
            Self::Corrupt { .. }
            | Self::Foreign { .. }
            | Self::Missing { .. }
            | Self::NewerFormat { .. } => true,
        }
    }

    /// Whether bytes are not what was written.
    pub const fn is_damage(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::Missing { .. })
    }
}
