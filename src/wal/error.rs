//! What can go wrong with the log, and what is known afterwards.
//!
//! Every variant about damage names the file and says what to do next: the log itself never
//! repairs what may have been acknowledged.

use std::io;
use std::path::{Path, PathBuf};

/// What an operator can do about damage that the log must not repair by itself.
const REMEDY: &str = "restore the file from a copy, or remove the member and add it again with an \
                      empty directory";

/// Why the log did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WalError {
    /// Entries would replace what is committed. Nothing was written; the caller has a bug or was
    /// fed by a leader that broke the rules.
    #[error("entry {index} would replace committed entries (committed up to {commit})")]
    BelowCommit {
        /// First index of the refused batch.
        index: u64,
        /// The highest committed or compacted index.
        commit: u64,
    },
    /// The index was compacted away; a snapshot has what it held.
    #[error("entry {index} was compacted; the first is {first}")]
    Compacted {
        /// The index that was asked for.
        index: u64,
        /// The first index the log still has.
        first: u64,
    },
    /// Bytes on disk are not what was synced. Nothing was changed on disk.
    #[error("{} is corrupt at byte {offset}: {reason}; {REMEDY}", file.display())]
    Corrupt {
        /// The damaged file.
        file: PathBuf,
        /// Where in it the damage begins.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
    /// Two files claim to be the same segment. Nothing was changed on disk.
    #[error(
        "{} and {} are the same segment; move the one that does not belong out of the directory",
        file.display(), other.display()
    )]
    DuplicateSegment {
        /// One of them.
        file: PathBuf,
        /// The other.
        other: PathBuf,
    },
    /// The file belongs to another cluster, node or data directory. Nothing was changed on disk.
    #[error("{} belongs to {found}, not to {expected}; {REMEDY}", file.display())]
    Foreign {
        /// The foreign file.
        file: PathBuf,
        /// Whose it is.
        found: String,
        /// Who opened the directory.
        expected: String,
    },
    /// Entries of one batch do not follow each other, or not the log. Nothing was written.
    #[error("entry {index} of term {term} cannot follow entry {after} of term {after_term}")]
    Gap {
        /// Index of the entry that does not fit.
        index: u64,
        /// Its term.
        term: u64,
        /// Index before it.
        after: u64,
        /// Term before it.
        after_term: u64,
    },
    /// A system call failed while nothing was at stake: reading, or opening the directory. A
    /// failed write is [`WalError::Poisoned`].
    #[error("cannot {operation} {}: {source}", file.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process, or another log in this one, uses the directory.
    #[error("{} is in use by another process", dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// A segment that was in use is gone. Nothing was changed on disk.
    #[error("{} is missing; {REMEDY}", file.display())]
    MissingSegment {
        /// The file that should be there; `*` stands for a part of its name that is not known.
        file: PathBuf,
    },
    /// The header inside a segment is not the one its name promises. Nothing was changed on disk.
    #[error("{} was renamed: it is {found}; give it back its name", file.display())]
    MisnamedSegment {
        /// The file.
        file: PathBuf,
        /// The name it had.
        found: String,
    },
    /// A newer zmesh wrote the file. Nothing was changed on disk.
    #[error(
        "{} has format version {found}, this zmesh reads up to {supported}; start a newer zmesh",
        file.display()
    )]
    NewerFormat {
        /// The file.
        file: PathBuf,
        /// The version in it.
        found: u32,
        /// The newest version that can be read.
        supported: u32,
    },
    /// There is no room for a new segment. Nothing of the batch was written, the log is as it was,
    /// and the call may be repeated when there is room.
    #[error("no space for {bytes} more bytes of log")]
    NoSpace {
        /// Bytes that were asked of the disk.
        bytes: u64,
    },
    /// The range reaches beyond the log.
    #[error("entries up to {high} were asked for, the last is {last}")]
    OutOfRange {
        /// Highest index that was asked for.
        high: u64,
        /// The last index there is.
        last: u64,
    },
    /// A write or sync failed, in this call or an earlier one. It is unknown what of everything
    /// since the last successful sync is on disk; nothing more is written. The process should stop
    /// acknowledging and end; opening the log again finds out what survived.
    #[error("the log is closed after a failed write: {reason}")]
    Poisoned {
        /// The first failure.
        reason: String,
    },
    /// An entry, batch or blob is larger than the format can hold. Nothing was written.
    #[error("{bytes} bytes are more than the {bytes_max} that fit")]
    TooLarge {
        /// Bytes there are.
        bytes: u64,
        /// Bytes there may be.
        bytes_max: u64,
    },
}

/// Whether the disk, or our share of it, is full.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl WalError {
    /// Says what was tried on which file when the system refused.
    pub(super) fn io(operation: &'static str, file: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io { operation, file: file.to_path_buf(), source }
    }

    /// Whether the files are not what was synced. Nothing was changed on disk.
    pub const fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::Corrupt { .. }
                | Self::DuplicateSegment { .. }
                | Self::MisnamedSegment { .. }
                | Self::MissingSegment { .. }
        )
    }

    /// Whether the directory is not ours to use: it is another node's, in use by another process,
    /// or of a newer version.
    pub const fn is_of_others(&self) -> bool {
        matches!(self, Self::Foreign { .. } | Self::Locked { .. } | Self::NewerFormat { .. })
    }

    /// Whether the same call can succeed later without anybody opening the log again.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::NoSpace { .. } | Self::Locked { .. })
    }
}
