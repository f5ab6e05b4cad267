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

mod chunks;
mod disk;
mod error;
mod lock;
mod memory_disk;
mod metadata;
mod read;
mod read_only;
mod record;
mod recovery;
mod scrub;
mod segment;
mod table;
mod verify;
mod window;

use std::collections::VecDeque;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

pub use disk::{Disk, DiskFile, DiskLock, OpenMode, RealDisk};
pub use error::WalError;
pub use memory_disk::{Fault, Keep, MemoryDisk, Operation};
pub use read_only::ReadOnlyDisk;
pub use scrub::SegmentScrub;
pub use verify::{FileKind, FileReport, LogReport, Verdict, verify};

use self::lock::DirectoryLock;
use self::metadata::{BLOB_BYTES_MAX, Facts, Metadata, Tail};
use self::record::{PAYLOAD_BYTES_MAX, Record, encoded_bytes};
use self::segment::{START, Segment};
use self::table::{Position, Table};
use self::window::Window;
use crate::NodeId;

/// The most bytes of one batch; the segment that holds it must stay below 4 GiB.
const BATCH_BYTES_MAX: u64 = 2 << 30;

/// Part of a segment that is kept for what is on its way when the disk is full.
const LOW_WATER_SHARE: u64 = 8;

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
    /// disk; default 4 MiB, and about twice that with what is around small entries. Larger: followers
    /// that are a little behind are served from memory. Smaller: less memory.
    pub window_bytes_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, reserve_bytes: 16 << 20, window_bytes_max: 4 << 20 }
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

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "replica {:x} ({}) of cluster {}", self.raft_id, self.node, self.cluster)
    }
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
///
/// # Examples
///
/// ```
/// use std::{path::Path, sync::Arc};
/// use zmesh::wal::{Entry, EntryKind, Identity, MemoryDisk, Options, Wal};
///
/// let identity = Identity { cluster: uuid::Uuid::nil(), node: "alpha".parse()?, raft_id: 1 };
/// let options = Options { segment_bytes: 4_096, reserve_bytes: 0, ..Options::default() };
/// let disk = Arc::new(MemoryDisk::new());
/// let (mut wal, found) = Wal::open(disk, Path::new("data"), options, identity)?;
/// assert_eq!(found.last_index, 0);
///
/// let data = bytes::Bytes::from_static(b"set a 1");
/// wal.append(&[Entry { term: 1, index: 1, kind: EntryKind::Normal, data }])?;
/// wal.sync()?;
/// assert_eq!(wal.entries(1, 2, 1_024)?[0].data, "set a 1");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Wal {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: Options,
    metadata: Metadata,
    /// In the order of their sequence, without gaps; the last is the one written to. Never empty.
    segments: VecDeque<Segment>,
    table: Table,
    window: Window,
    /// Where the next record goes, and up to where the active segment is synced.
    offset: u32,
    synced_offset: u32,
    /// The last index that is synced and was not replaced since.
    synced_index: u64,
    /// Records of one append; kept for its allocation.
    buffer: Vec<u8>,
    room: bool,
    poison: Option<String>,
    _lock: DirectoryLock,
}

impl Wal {
    /// Opens the log in `dir`, creating both when they do not exist.
    ///
    /// A torn tail is cut: records that a crash left incomplete, that no sync covered and that lie
    /// above the stored commit. What is left is synced before this returns.
    ///
    /// # Errors
    ///
    /// - [`WalError::Locked`]: somebody else has it open.
    /// - [`WalError::Corrupt`], [`WalError::Foreign`], [`WalError::NewerFormat`],
    ///   [`WalError::MissingSegment`], [`WalError::MisnamedSegment`],
    ///   [`WalError::DuplicateSegment`]: the directory is not as it was left; no byte of the log
    ///   was changed.
    /// - [`WalError::NoSpace`]: there is no room for a first segment.
    /// - [`WalError::Io`]: the system refused; opening again is safe.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: Options,
        identity: Identity,
    ) -> Result<(Self, Recovered), WalError> {
        recovery::open(disk, dir, options, identity)
    }

    /// Reads whose directory `dir` is; `None` when it has no log yet. Needs no lock.
    ///
    /// # Errors
    ///
    /// As for [`Self::open`], as far as the metadata shows it.
    pub fn identity(disk: &dyn Disk, dir: &Path) -> Result<Option<Identity>, WalError> {
        let metadata = Metadata::load(disk, dir)?;
        let facts = metadata.as_ref().map(Metadata::facts).filter(|facts| facts.is_finished());
        Ok(facts.map(|facts| facts.identity.clone()))
    }

    /// Writes entries, replacing what the log has from the first one's index on. They can be read
    /// at once, and are durable after [`Self::sync`]. A batch is never split between segments.
    ///
    /// # Errors
    ///
    /// - [`WalError::BelowCommit`], [`WalError::Gap`], [`WalError::TooLarge`]: the batch was
    ///   refused, the log is as it was.
    /// - [`WalError::NoSpace`]: likewise; it may be tried again when there is room.
    /// - [`WalError::Poisoned`]: a write or sync failed; this log accepts nothing more.
    pub fn append(&mut self, entries: &[Entry]) -> Result<(), WalError> {
        self.check_alive()?;
        let Some(first) = entries.first() else {
            return Ok(());
        };
        let bytes = self.check_batch(first, entries)?;
        if self.free_bytes() < bytes {
            self.rotate(bytes)?;
        }
        let seed = self.active().seed;
        self.buffer.clear();
        for entry in entries {
            Record::entry(entry, self.synced_offset).encode(seed, &mut self.buffer);
        }
        let active = self.active();
        if let Err(error) = active.file.write_at(&self.buffer, u64::from(self.offset)) {
            let error = WalError::io("write", &active.path)(error);
            return Err(self.poison(&error));
        }
        self.synced_index = self.synced_index.min(first.index - 1);
        entries.iter().for_each(|entry| self.remember(entry));
        Ok(())
    }

    /// Makes all appended entries durable.
    ///
    /// # Errors
    ///
    /// [`WalError::Poisoned`]: a write or sync failed, in this call or before. It is unknown what
    /// of the entries since the last success is on disk.
    pub fn sync(&mut self) -> Result<(), WalError> {
        self.check_alive()?;
        if self.offset > self.synced_offset {
            let active = self.active();
            if let Err(error) = active.file.sync_data() {
                let error = WalError::io("sync", &active.path)(error);
                return Err(self.poison(&error));
            }
        }
        self.synced_offset = self.offset;
        self.synced_index = self.table.last().index;
        Ok(())
    }

    /// The term of the entry at `index`, also at the compaction point (0 before the first entry);
    /// `None` outside.
    pub fn term(&self, index: u64) -> Option<u64> {
        self.table.term(index)
    }

    /// First index that can be read; one more than the last when there is none.
    pub const fn first_index(&self) -> u64 {
        self.table.base().index + 1
    }

    /// Last index, synced or not; the compaction point's when there are no entries.
    pub fn last_index(&self) -> u64 {
        self.table.last().index
    }

    /// The last index that is synced and was not replaced since.
    pub const fn synced_index(&self) -> u64 {
        self.synced_index
    }

    /// Whether entries were appended since the last sync.
    pub const fn has_unsynced(&self) -> bool {
        self.offset > self.synced_offset
    }

    /// The stored hard state.
    pub const fn hard_state(&self) -> HardState {
        self.metadata.facts().hard_state
    }

    /// Stores term, vote and commit durably; writes nothing when they are as stored.
    ///
    /// A commit above [`Self::synced_index`] is lowered to it, since a log that is found shorter
    /// than its commit is corrupt; one below the stored commit is raised to that.
    ///
    /// # Errors
    ///
    /// [`WalError::Poisoned`]: a write or sync failed. It is unknown which of the two hard states
    /// is on disk.
    pub fn store_hard_state(&mut self, hard_state: HardState) -> Result<(), WalError> {
        self.check_alive()?;
        let stored = self.hard_state();
        let commit = hard_state.commit.min(self.synced_index).max(stored.commit);
        let hard_state = HardState { commit, ..hard_state };
        if hard_state == stored {
            return Ok(());
        }
        self.store(|facts| facts.hard_state = hard_state)
    }

    /// The bootstrap blob; empty until one is stored.
    pub const fn bootstrap(&self) -> &Bytes {
        &self.metadata.facts().bootstrap
    }

    /// Stores up to 64 KiB that belong to the directory (its first configuration) durably.
    ///
    /// # Errors
    ///
    /// - [`WalError::TooLarge`]: nothing was written.
    /// - [`WalError::Poisoned`]: a write or sync failed.
    pub fn store_bootstrap(&mut self, blob: Bytes) -> Result<(), WalError> {
        self.check_alive()?;
        if blob.len() > BLOB_BYTES_MAX {
            let bytes = blob.len() as u64;
            return Err(WalError::TooLarge { bytes, bytes_max: BLOB_BYTES_MAX as u64 });
        }
        self.store(|facts| facts.bootstrap = blob)
    }

    /// The newest forgotten entry; zeros when nothing was forgotten.
    pub const fn compaction(&self) -> Point {
        self.table.base()
    }

    /// Forgets entries up to and including `index`, which a snapshot holds, and deletes the
    /// segments that held nothing else. Does nothing if they are forgotten already.
    ///
    /// The caller promises that `index` is committed; the stored commit is raised to it.
    ///
    /// # Errors
    ///
    /// - [`WalError::OutOfRange`]: the entry is not synced; nothing was done.
    /// - [`WalError::Io`]: a segment could not be deleted; opening the log deletes it.
    /// - [`WalError::Poisoned`]: a write or sync failed.
    pub fn compact(&mut self, index: u64) -> Result<(), WalError> {
        self.check_alive()?;
        if index < self.first_index() {
            return Ok(());
        }
        let point = match self.table.term(index) {
            Some(term) if index <= self.synced_index => Point { index, term },
            _ => return Err(WalError::OutOfRange { high: index, last: self.synced_index }),
        };
        let first_sequence = match self.table.position(index + 1) {
            Some(position) => position.sequence,
            None => self.active().name.sequence,
        };
        self.store(|facts| {
            facts.compaction = point;
            facts.first_sequence = first_sequence;
            facts.hard_state.commit = facts.hard_state.commit.max(index);
        })?;
        self.table.forget(point);
        self.window.forget(index);
        self.delete_segments_before(first_sequence)
    }

    /// Forgets everything; the log continues after `point`, which a snapshot has reached. The
    /// stored commit is raised to it.
    ///
    /// # Errors
    ///
    /// - [`WalError::BelowCommit`]: the snapshot is older than what is committed here.
    /// - [`WalError::NoSpace`]: there is no room for a new segment; the log is as it was.
    /// - [`WalError::Io`]: a segment could not be deleted; opening the log deletes it.
    /// - [`WalError::Poisoned`]: a write or sync failed.
    pub fn reset_to(&mut self, point: Point) -> Result<(), WalError> {
        self.check_alive()?;
        let commit = self.hard_state().commit.max(self.compaction().index);
        if point.index < commit {
            return Err(WalError::BelowCommit { index: point.index, commit });
        }
        let segment = self.create_segment(point, 0)?;
        let first_sequence = segment.name.sequence;
        self.activate(segment);
        self.table = Table::new(point);
        self.window = Window::new(self.options.window_bytes_max);
        self.synced_index = point.index;
        self.store(|facts| {
            facts.compaction = point;
            facts.first_sequence = first_sequence;
            facts.hard_state.commit = facts.hard_state.commit.max(point.index);
        })?;
        self.delete_segments_before(first_sequence)
    }

    /// Whether the last attempt to get space for a segment succeeded. Without it there is still the
    /// rest of the last segment, for what cannot be refused.
    pub const fn has_room(&self) -> bool {
        self.room
    }

    /// Begins a segment if the last attempt failed, or if the present one is nearly full: the end of
    /// the space must be noticed while what is on its way still fits. Says whether there is room.
    ///
    /// # Errors
    ///
    /// [`WalError::Poisoned`]: a write or sync failed.
    pub fn find_room(&mut self) -> Result<bool, WalError> {
        self.check_alive()?;
        if !self.room || self.free_bytes() < self.low_water_bytes() {
            match self.rotate(0) {
                Ok(()) | Err(WalError::NoSpace { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.room)
    }
}

/// What the public methods are made of.
impl Wal {
    fn active(&self) -> &Segment {
        self.segments.back().expect("there is always an active segment")
    }

    fn free_bytes(&self) -> u64 {
        u64::from(self.active().allocated - self.offset)
    }

    /// With less than this, a segment is nearly full.
    fn low_water_bytes(&self) -> u64 {
        u64::from(self.active().allocated - START) / LOW_WATER_SHARE
    }

    fn check_alive(&self) -> Result<(), WalError> {
        match &self.poison {
            Some(reason) => Err(WalError::Poisoned { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    /// Remembers a failed write or sync for good: a repeated sync may succeed without having
    /// written anything.
    fn poison(&mut self, error: &WalError) -> WalError {
        let reason = error.to_string();
        tracing::error!(dir = %self.dir.display(), reason, "the log accepts nothing more");
        self.poison = Some(reason.clone());
        WalError::Poisoned { reason }
    }

    /// Whether the batch fits the log, and how many bytes it takes.
    fn check_batch(&self, first: &Entry, entries: &[Entry]) -> Result<u64, WalError> {
        let commit = self.hard_state().commit.max(self.compaction().index);
        if first.index <= commit {
            return Err(WalError::BelowCommit { index: first.index, commit });
        }
        let before = first.index - 1;
        let mut last = match self.table.term(before) {
            Some(term) => Point { index: before, term },
            None => self.table.last(),
        };
        let mut bytes = 0;
        for entry in entries {
            if entry.index != last.index + 1 || entry.term < last.term {
                let (index, term) = (entry.index, entry.term);
                let Point { index: after, term: after_term } = last;
                return Err(WalError::Gap { index, term, after, after_term });
            }
            if entry.data.len() > PAYLOAD_BYTES_MAX {
                let (bytes, bytes_max) = (entry.data.len() as u64, PAYLOAD_BYTES_MAX as u64);
                return Err(WalError::TooLarge { bytes, bytes_max });
            }
            last = Point { index: entry.index, term: entry.term };
            bytes += encoded_bytes(entry.data.len()) as u64;
        }
        if bytes > BATCH_BYTES_MAX {
            return Err(WalError::TooLarge { bytes, bytes_max: BATCH_BYTES_MAX });
        }
        Ok(bytes)
    }

    /// Takes note of an entry that was written at the current offset.
    fn remember(&mut self, entry: &Entry) {
        let fits = |bytes: usize| u32::try_from(bytes).expect("`check_batch` bounds the sizes");
        let position = Position {
            sequence: self.active().name.sequence,
            offset: self.offset,
            payload_bytes: fits(entry.data.len()),
        };
        self.table.put(Point { index: entry.index, term: entry.term }, position);
        self.window.push(entry.clone());
        self.offset += fits(encoded_bytes(entry.data.len()));
    }

    /// Seals the active segment and begins one with at least `bytes` of room.
    fn rotate(&mut self, bytes: u64) -> Result<(), WalError> {
        self.sync()?;
        let segment = self.create_segment(self.table.last(), bytes)?;
        self.activate(segment);
        self.store(|_| {})
    }

    /// Creates the segment after the active one. Until the metadata knows it, it does not count.
    fn create_segment(&mut self, before: Point, bytes: u64) -> Result<Segment, WalError> {
        let bytes = self.options.segment_bytes.max(u64::from(START) + bytes);
        let sequence = self.active().name.sequence + 1;
        let identity = &self.metadata.facts().identity;
        let bytes = recovery::segment_bytes(bytes)?;
        match Segment::create(&*self.disk, &self.dir, identity, sequence, before, bytes) {
            Ok(segment) => {
                self.room = true;
                Ok(segment)
            }
            Err(error @ WalError::NoSpace { .. }) => {
                self.room = false;
                Err(error)
            }
            Err(error) => Err(self.poison(&error)),
        }
    }

    fn activate(&mut self, segment: Segment) {
        self.segments.push_back(segment);
        self.offset = START;
        self.synced_offset = START;
    }

    /// Changes the metadata durably, and with it the end of the log that it knows to be synced.
    fn store(&mut self, change: impl FnOnce(&mut Facts)) -> Result<(), WalError> {
        let mut facts = self.metadata.facts().clone();
        facts.tail = Tail { sequence: self.active().name.sequence, offset: self.synced_offset };
        change(&mut facts);
        match self.metadata.store(facts) {
            Ok(()) => Ok(()),
            Err(error) => Err(self.poison(&error)),
        }
    }

    /// Deletes segments that the metadata does not count any more, oldest first.
    fn delete_segments_before(&mut self, sequence: u32) -> Result<(), WalError> {
        let mut result = Ok(());
        let mut deleted = false;
        while self.segments.front().is_some_and(|old| old.name.sequence < sequence) {
            let Some(old) = self.segments.pop_front() else { break };
            deleted = true;
            if let Err(error) = self.disk.remove(&old.path) {
                result = Err(WalError::io("delete", &old.path)(error));
            }
        }
        if deleted && let Err(error) = self.disk.sync_dir(&self.dir) {
            let error = WalError::io("sync", &self.dir)(error);
            return Err(self.poison(&error));
        }
        result
    }
}
