//! The commands that were applied and that the log still has, for machines that refer to them
//! instead of keeping them once more.
//!
//! Pure but for the [`Log`], which may read a disk.

use bytes::Bytes;

use crate::consensus::{Consensus, Log};
use crate::wal::EntryKind;

/// The applied commands that the log still has.
///
/// Through [`Sessions`](super::Sessions) a machine sees its own commands, without what sessions put
/// around them; those that its session refused, or had seen before, are among them, of which
/// [`Machine::skip`](super::Machine::skip) tells.
pub trait Past {
    /// Commands from index `from` on, in order, as many as fit into `bytes_max`, and at least one
    /// entry if there is any. Entries that are no commands of this machine are left out, so there
    /// may be none although there are more: see [`PastCommands::next`].
    ///
    /// The bytes of a command may be part of a block that was read from disk as a whole, which
    /// lives as long as one of them.
    ///
    /// # Errors
    ///
    /// [`PastError`]: none of them can be read here.
    fn commands(&self, from: u64, bytes_max: u64) -> Result<PastCommands, PastError>;
}

/// A part of the past.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PastCommands {
    /// Each with its index.
    pub commands: Vec<(u64, Bytes)>,
    /// Where to go on: behind the last entry that was looked at, whether it is in here or not. It
    /// is where one began if nothing from there on has been applied.
    pub next: u64,
}

/// The past of a machine that keeps everything itself, or to which nothing has happened.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPast;

impl Past for NoPast {
    fn commands(&self, from: u64, _bytes_max: u64) -> Result<PastCommands, PastError> {
        Ok(PastCommands { commands: Vec::new(), next: from })
    }
}

/// Why nothing was read.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PastError {
    /// The log does not reach back so far. This replica continues from a snapshot that is older
    /// than what it was asked for, or the machine let it go.
    #[error("the log begins with entry {first}")]
    Forgotten {
        /// The first index that is still there.
        first: u64,
    },
    /// The disk does not return what was written.
    #[error("cannot read the log: {reason}")]
    Unreadable {
        /// In the words of the log.
        reason: String,
    },
}

/// Entries that are looked at in one call: most may be left out, and others wait meanwhile.
const ENTRIES_MAX: u64 = 4_096;

/// The log of a consensus, up to what was applied.
pub(super) struct AppliedLog<'a, L: Log> {
    pub(super) consensus: &'a Consensus<L>,
    /// The last index.
    pub(super) applied: u64,
}

impl<L: Log> Past for AppliedLog<'_, L> {
    fn commands(&self, from: u64, bytes_max: u64) -> Result<PastCommands, PastError> {
        let first = self.consensus.first_index();
        if from < first {
            return Err(PastError::Forgotten { first });
        }
        let end = self.applied.saturating_add(1).min(from.saturating_add(ENTRIES_MAX));
        let mut past = PastCommands { commands: Vec::new(), next: from };
        if from >= end {
            return Ok(past);
        }
        let entries = self.consensus.entries(from, end, bytes_max);
        let entries = entries.map_err(|error| PastError::Unreadable { reason: error.reason })?;
        for entry in entries {
            past.next = entry.index + 1;
            // A new leader's first entry has no command.
            if entry.kind == EntryKind::Normal && !entry.data.is_empty() {
                past.commands.push((entry.index, entry.data));
            }
        }
        Ok(past)
    }
}
