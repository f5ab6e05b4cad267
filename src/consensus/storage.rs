//! What Raft reads: the entries that are being written, over the log on disk.
//!
//! Raft must find an entry from the moment it handed it out for writing, so entries wait here until
//! their write is confirmed; everything older is read from the [`Log`]. A read that fails must not
//! become a panic inside the `raft` crate: it is remembered in [`Window::failure`] and answered as
//! if there were nothing, and the owner lets nothing out after a failure.
//!
//! Pure but for the [`Log`], which may read a disk.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use bytes::Bytes;
use raft::prelude::{ConfState, Entry, EntryType, HardState, Snapshot as RaftSnapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use super::snapshot::Snapshot;
use crate::wal;

/// The persisted log, as far as Raft reads it.
pub trait Log {
    /// Entries with `low <= index < high`: as many as fit into `bytes_max`, at least one.
    ///
    /// # Errors
    ///
    /// [`LogError`]: the entries cannot be read; the replica must stop.
    fn entries(&self, low: u64, high: u64, bytes_max: u64) -> Result<Vec<wal::Entry>, LogError>;

    /// The term at `index`, also at the point before the first index; `None` outside.
    fn term(&self, index: u64) -> Option<u64>;

    /// The first index that can be read; one more than the last when there is none.
    fn first_index(&self) -> u64;

    /// The last index.
    fn last_index(&self) -> u64;
}

/// The persisted log cannot be read. The replica must stop.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("cannot read the log: {reason}")]
pub struct LogError {
    /// In the words of the log.
    pub reason: String,
}

/// The log as Raft sees it.
pub(super) struct Window<L> {
    log: L,
    /// Handed out for writing and not yet confirmed; consecutive.
    unconfirmed: VecDeque<Entry>,
    hard_state: HardState,
    conf_state: ConfState,
    /// The snapshot that followers are offered.
    snapshot: Option<Snapshot>,
    /// Whether a follower needs a snapshot and there is none to offer.
    snapshot_wanted: Cell<bool>,
    failure: RefCell<Option<LogError>>,
    /// Bytes of entries that may yet be read for followers in this portion.
    portion: Cell<u64>,
    /// Whether a follower has to wait for the next portion.
    postponed: Cell<bool>,
}

/// Bytes of entries that are read for followers that lag, before other work has its turn.
const PORTION_BYTES: u64 = 8 * 1024 * 1024;
/// What the smallest of them costs.
const ENTRY_COST_BYTES: u64 = 64;

impl<L: Log> Window<L> {
    pub(super) fn new(log: L, hard_state: wal::HardState, conf_state: ConfState) -> Self {
        let wal::HardState { term, vote, commit } = hard_state;
        let hard_state = HardState { term, vote, commit, ..HardState::default() };
        let failure = RefCell::new(None);
        let (portion, postponed) = (Cell::new(PORTION_BYTES), Cell::new(false));
        Self {
            log,
            unconfirmed: VecDeque::new(),
            hard_state,
            conf_state,
            snapshot: None,
            snapshot_wanted: Cell::new(false),
            failure,
            portion,
            postponed,
        }
    }

    /// Names the snapshot that followers can be offered.
    pub(super) fn set_snapshot(&mut self, snapshot: Option<Snapshot>) {
        self.snapshot = snapshot;
    }

    /// Whether a follower was found that needs a snapshot and could not be offered any, since this
    /// was asked last.
    pub(super) fn take_snapshot_wanted(&self) -> bool {
        self.snapshot_wanted.take()
    }

    /// Forgets all entries: the log begins anew after a snapshot.
    pub(super) fn reset(&mut self) {
        self.unconfirmed.clear();
    }

    /// Takes entries that are about to be written. They replace what has their index or more.
    pub(super) fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        while self.unconfirmed.back().is_some_and(|last| last.index >= first.index) {
            self.unconfirmed.pop_back();
        }
        self.unconfirmed.extend(entries.iter().cloned());
    }

    /// Forgets entries up to and including this one: the log has them.
    pub(super) fn confirm(&mut self, index: u64, term: u64) {
        let confirmed = self.unconfirmed.iter().any(|e| e.index == index && e.term == term);
        while confirmed && self.unconfirmed.front().is_some_and(|first| first.index <= index) {
            self.unconfirmed.pop_front();
        }
    }

    /// The first read that failed, if any.
    pub(super) fn failure(&self) -> Option<LogError> {
        self.failure.borrow().clone()
    }

    /// Begins the next portion; returns whether a follower has to be sent more of what it lacks.
    pub(super) fn next_portion(&self) -> bool {
        self.portion.set(PORTION_BYTES);
        self.postponed.take()
    }

    fn unconfirmed_at(&self, index: u64) -> Option<&Entry> {
        let first = self.unconfirmed.front()?.index;
        self.unconfirmed.get(usize::try_from(index.checked_sub(first)?).ok()?)
    }

    /// Entries below `high` from the log on disk.
    fn read(&self, low: u64, high: u64, bytes_max: u64) -> Result<Vec<Entry>, LogError> {
        let entries = self.log.entries(low, high, bytes_max)?;
        Ok(entries.into_iter().map(entry_from_log).collect())
    }

    /// The first index that is still there.
    pub(super) fn log_begins(&self) -> u64 {
        self.log.first_index()
    }

    /// Entries from the log and, behind them, those that are being written.
    pub(super) fn joined(
        &self,
        low: u64,
        high: u64,
        bytes_max: u64,
    ) -> Result<Vec<Entry>, LogError> {
        let split = self.unconfirmed.front().map_or(high, |first| first.index.clamp(low, high));
        let mut entries = if low < split { self.read(low, split, bytes_max)? } else { Vec::new() };
        let mut next = low + entries.len() as u64;
        if next < split {
            return Ok(entries);
        }
        let mut bytes: u64 = entries.iter().map(|entry| entry.data.len() as u64).sum();
        while next < high {
            let Some(entry) = self.unconfirmed_at(next) else { break };
            bytes = bytes.saturating_add(entry.data.len() as u64);
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
            next += 1;
        }
        Ok(entries)
    }
}

impl<L: Log> Storage for Window<L> {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low < self.log.first_index() {
            return Err(StorageError::Compacted.into());
        }
        // Only reading for a follower may wait, and a window full of messages is what it may ask
        // for at once, however large each of them is.
        if context.can_async() && self.portion.get() == 0 {
            self.postponed.set(true);
            return Err(StorageError::LogTemporarilyUnavailable.into());
        }
        let entries = self.joined(low, high, max_size.into().unwrap_or(u64::MAX));
        let entries = entries.unwrap_or_else(|error| {
            self.failure.borrow_mut().get_or_insert(error);
            Vec::new()
        });
        if context.can_async() {
            let cost = |entry: &Entry| entry.data.len() as u64 + ENTRY_COST_BYTES;
            let bytes: u64 = entries.iter().map(cost).sum();
            self.portion.set(self.portion.get().saturating_sub(bytes));
        }
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        let unconfirmed = self.unconfirmed_at(index).map(|entry| entry.term);
        let term = unconfirmed.or_else(|| self.log.term(index));
        term.ok_or_else(|| StorageError::Unavailable.into())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.log.first_index())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.unconfirmed.back().map_or_else(|| self.log.last_index(), |last| last.index))
    }

    /// The snapshot that was named, if the log goes on from there. Whether the follower is a member
    /// in it does not matter: it became one later then, and finds that in the log.
    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<RaftSnapshot> {
        let useful = |snapshot: &&Snapshot| {
            let index = snapshot.point.index;
            index >= request_index && index + 1 >= self.log.first_index()
        };
        let Some(snapshot) = self.snapshot.as_ref().filter(useful) else {
            self.snapshot_wanted.set(true);
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        };
        Ok(snapshot.to_raft())
    }
}

/// The entry that is written and sent. A membership entry travels in our own format, which it has
/// as its context; its data are protobuf, made for the `raft` crate's own check of a proposal.
pub(super) fn entry_to_log(entry: &Entry) -> wal::Entry {
    let (kind, data) = match entry.get_entry_type() {
        EntryType::EntryNormal => (wal::EntryKind::Normal, &entry.data),
        EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
            (wal::EntryKind::Membership, &entry.context)
        }
    };
    wal::Entry { term: entry.term, index: entry.index, kind, data: data.clone() }
}

/// The reverse of [`entry_to_log`]. Raft looks at the kind of an entry in its log and never into
/// it, so the protobuf form is not made again.
pub(super) fn entry_from_log(entry: wal::Entry) -> Entry {
    let wal::Entry { term, index, .. } = entry;
    let mut converted = Entry { term, index, ..Entry::default() };
    match entry.kind {
        wal::EntryKind::Membership => {
            converted.set_entry_type(EntryType::EntryConfChangeV2);
            converted.context = entry.data;
        }
        wal::EntryKind::Normal => converted.data = entry.data,
    }
    converted
}

/// A proposed change of the membership.
pub(super) fn membership_entry(data: Bytes, context: Bytes) -> Entry {
    let mut entry = Entry { data, context, ..Entry::default() };
    entry.set_entry_type(EntryType::EntryConfChangeV2);
    entry
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A log in memory that can be told to fail.
    #[derive(Default)]
    pub(in crate::consensus) struct VecLog {
        pub(in crate::consensus) entries: Vec<wal::Entry>,
        pub(in crate::consensus) broken: bool,
        /// The last entry that was forgotten, if that is not the bootstrap.
        pub(in crate::consensus) base: Option<wal::Point>,
    }

    impl VecLog {
        fn base(&self) -> wal::Point {
            self.base.unwrap_or(wal::Point { index: 1, term: 1 })
        }
    }

    impl Log for VecLog {
        fn entries(&self, low: u64, high: u64, _: u64) -> Result<Vec<wal::Entry>, LogError> {
            if self.broken {
                return Err(LogError { reason: "broken".to_owned() });
            }
            let within = |entry: &&wal::Entry| (low..high).contains(&entry.index);
            Ok(self.entries.iter().filter(within).cloned().collect())
        }

        fn term(&self, index: u64) -> Option<u64> {
            let found = self.entries.iter().find(|entry| entry.index == index);
            let base = self.base();
            found.map(|entry| entry.term).or_else(|| (index == base.index).then_some(base.term))
        }

        fn first_index(&self) -> u64 {
            self.base().index + 1
        }

        fn last_index(&self) -> u64 {
            self.entries.last().map_or_else(|| self.base().index, |entry| entry.index)
        }
    }

    fn entry(index: u64, term: u64) -> Entry {
        let data = Bytes::from(vec![0; 10]);
        entry_from_log(wal::Entry { term, index, kind: wal::EntryKind::Normal, data })
    }

    fn window(persisted: u64) -> Window<VecLog> {
        let entries = (2..=persisted).map(|index| entry_to_log(&entry(index, 1))).collect();
        let log = VecLog { entries, ..VecLog::default() };
        Window::new(log, wal::HardState::default(), ConfState::default())
    }

    fn indexes(window: &Window<VecLog>, low: u64, high: u64, bytes: u64) -> Vec<(u64, u64)> {
        let entries = window.entries(low, high, bytes, GetEntriesContext::empty(false)).unwrap();
        entries.iter().map(|entry| (entry.index, entry.term)).collect()
    }

    /// Raft reads a range that is half on disk and half on its way there.
    #[test]
    fn entries_join_the_log_and_what_is_being_written() {
        let mut window = window(3);
        window.append(&[entry(4, 1), entry(5, 2)]);
        assert_eq!(indexes(&window, 2, 6, u64::MAX), [(2, 1), (3, 1), (4, 1), (5, 2)]);
        assert_eq!(indexes(&window, 2, 6, 30), [(2, 1), (3, 1), (4, 1)]);
        assert_eq!(indexes(&window, 5, 6, 1), [(5, 2)], "at least one entry");
        assert_eq!(window.last_index().unwrap(), 5);
        assert_eq!(window.term(5).unwrap(), 2);
        assert_eq!(window.term(1).unwrap(), 1);
    }

    /// A new leader's entries replace those of the old one, on disk or not.
    #[test]
    fn replaced_entries_are_not_read_again() {
        let mut window = window(4);
        window.append(&[entry(5, 1), entry(6, 1)]);
        window.append(&[entry(3, 2)]);
        assert_eq!(indexes(&window, 2, 4, u64::MAX), [(2, 1), (3, 2)]);
        assert_eq!(window.last_index().unwrap(), 3);
        window.confirm(6, 1);
        assert_eq!(window.last_index().unwrap(), 3, "a late confirmation is of other entries");
    }

    /// The `raft` crate panics on a failed read; it must see an empty one, and we must know.
    #[test]
    fn failed_read_is_remembered_and_does_not_panic() {
        let mut window = window(4);
        window.log.broken = true;
        assert_eq!(indexes(&window, 2, 5, u64::MAX), []);
        assert_eq!(window.failure().unwrap().reason, "broken");
    }
}
