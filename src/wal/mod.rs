//! The write-ahead log: what a replica promised to remember.
//!
//! A directory holds a two-slot metadata file (term, vote, commit, identity), segments of records,
//! a lock and a reserve of disk space. [`Wal`] appends entries, syncs them, reads them back and
//! forgets them after a snapshot. It never repairs what may have been acknowledged: a torn tail,
//! which by the order of syncs nobody was told about, is cut; every other damage refuses to open.
//!
//! It touches the disk only through [`Disk`], so that a simulation runs this very code.
//!
//! Invariants: bytes of a segment are written once, front to back (an entry replaces entries of
//! its index and above by being written after them); whatever lies before the position that the
//! metadata remembers was synced; after a failed write or sync nothing is written again.

mod disk;
mod error;
mod memory_disk;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

pub use disk::{Disk, DiskFile, DiskLock, OpenMode, RealDisk};
pub use error::WalError;
pub use memory_disk::{Fault, Keep, MemoryDisk, Operation};

use crate::NodeId;

/// One entry of the replicated log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// The term of the leader that made it.
    pub term: u64,
    /// Its position, from 1, without gaps.
    pub index: u64,
    /// What the data is.
    pub kind: EntryKind,
    /// Opaque to the log.
    pub data: Bytes,
}

/// What the data of an entry is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum EntryKind {
    /// A batch of commands for the state machine; empty for a new leader's first entry.
    Normal = 0,
    /// A change of the membership.
    Membership = 1,
}

/// What a replica must remember besides its entries. Raft's hard state.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct HardState {
    /// The newest term it has seen.
    pub term: u64,
    /// Whom it voted for in that term; 0 for nobody.
    pub vote: u64,
    /// The highest index it knows to be committed. A hint: it may lag.
    pub commit: u64,
}

/// Sizes of the log on disk and in memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Options {
    /// Bytes of a new segment, allocated at once; default 64 MiB. Larger: fewer files, space is
    /// given back later. Smaller: more rotations, each of which costs four syncs. A batch that is
    /// larger gets a segment of its own size.
    pub segment_bytes: u64,
    /// Bytes of the file `reserve`, which holds space that an operator can free by deleting it
    /// when the disk is full; default 16 MiB, zero for none.
    pub reserve_bytes: u64,
    /// Bytes of the newest entries kept in memory, so that followers that keep up never touch the
    /// disk; default 16 MiB.
    pub window_bytes_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, reserve_bytes: 16 << 20, window_bytes_max: 16 << 20 }
    }
}

/// Whose directory it is. Stamped into every file; a file of somebody else is refused.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Identity {
    /// The cluster.
    pub cluster: Uuid,
    /// The node.
    pub node: NodeId,
    /// The data directory: drawn at random when it is created, never used again. Raft's node id.
    pub raft_id: u64,
}

/// An index and the term of the entry there.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Point {
    /// The index.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// What opening found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Recovered {
    /// First index that [`Wal::entries`] can read; `last_index + 1` when there is none.
    pub first_index: u64,
    /// Last index; the compaction point's when there are no entries.
    pub last_index: u64,
    /// The term at `last_index`; 0 for an empty new log.
    pub last_term: u64,
    /// The stored hard state; its commit is at most `last_index`.
    pub hard_state: HardState,
    /// Whether the directory was new.
    pub created: bool,
    /// Bytes of a torn tail that were cut. No entry in them was ever synced.
    pub torn_bytes: u64,
}

/// The log of one replica. Dropping it releases the directory and syncs nothing.
#[derive(Debug)]
pub struct Wal {
    dir: PathBuf,
}

#[expect(clippy::todo, unused_variables, reason = "the interface, before its implementation")]
impl Wal {
    /// Opens the log in `dir`, creating it when the directory has none.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: Options,
        identity: Identity,
    ) -> Result<(Self, Recovered), WalError> {
        todo!()
    }

    /// Reads whose directory `dir` is; `None` when it has no log yet. Needs no lock.
    pub fn identity(disk: &dyn Disk, dir: &Path) -> Result<Option<Identity>, WalError> {
        todo!()
    }

    /// Writes entries, replacing what the log has from the first one's index on. Not durable
    /// before [`Self::sync`].
    pub fn append(&mut self, entries: &[Entry]) -> Result<(), WalError> {
        todo!()
    }

    /// Makes all appended entries durable.
    pub fn sync(&mut self) -> Result<(), WalError> {
        todo!()
    }

    /// Entries with `low <= index < high`: as many as fit into `bytes_max`, at least one.
    pub fn entries(&self, low: u64, high: u64, bytes_max: u64) -> Result<Vec<Entry>, WalError> {
        todo!()
    }

    /// The term of the entry at `index`, also at the compaction point; `None` outside.
    pub fn term(&self, index: u64) -> Option<u64> {
        todo!()
    }

    /// First index that can be read; one more than the last when there is none.
    pub fn first_index(&self) -> u64 {
        todo!()
    }

    /// Last index, synced or not.
    pub fn last_index(&self) -> u64 {
        todo!()
    }

    /// The last index that is synced and was not overwritten since.
    pub fn synced_index(&self) -> u64 {
        todo!()
    }

    /// The stored hard state.
    pub fn hard_state(&self) -> HardState {
        todo!()
    }

    /// Stores the hard state durably. The commit is lowered to [`Self::synced_index`] if higher.
    pub fn store_hard_state(&mut self, hard_state: HardState) -> Result<(), WalError> {
        todo!()
    }

    /// The bootstrap blob; empty until one is stored.
    pub fn bootstrap(&self) -> &Bytes {
        todo!()
    }

    /// Stores up to 64 KiB that belong to the directory (its first configuration) durably.
    pub fn store_bootstrap(&mut self, blob: Bytes) -> Result<(), WalError> {
        todo!()
    }

    /// The newest forgotten entry; zeros when nothing was.
    pub fn compaction(&self) -> Point {
        todo!()
    }

    /// Forgets entries up to and including `index`, which must be synced and committed.
    pub fn compact(&mut self, index: u64) -> Result<(), WalError> {
        todo!()
    }

    /// Forgets everything; the log continues after `point`, which a snapshot has reached.
    pub fn reset_to(&mut self, point: Point) -> Result<(), WalError> {
        todo!()
    }

    /// Whether the last attempt to get space for a segment succeeded.
    pub fn has_room(&self) -> bool {
        todo!()
    }

    /// Tries to get space for a segment if the last attempt failed; says whether there is room.
    pub fn find_room(&mut self) -> Result<bool, WalError> {
        todo!()
    }
}
