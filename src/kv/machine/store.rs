//! The keys, and what they were before: a map of many versions.
//!
//! Every change is a [`Version`]. The newest of a key that has a value is in `live`; what it replaced,
//! and that it was cleared, is in `old`; and the changes of the history are in `events`, in their
//! order. They share the versions. `live` and `old` share their nodes with images that are being
//! written, so that taking one costs nothing.
//!
//! Compaction up to a revision forgets the events up to it and of each key all versions before the
//! one it had then: so every state from that revision on can be read, and every change after it.
//!
//! Pure. Invariants: the changes of one revision are in the order of their keys, and a key has one
//! at most; a version is in `old` exactly if the change that replaced it is in `events`, or if it is
//! a clearing that is; so `old` and `events` follow from each other.

use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use imbl::OrdSet;

use super::super::command::{Failure, KeyRange, Limits, State};
use super::version::{ByKey, ByRevision, Numbers, Version};

/// Changes that one command forgets at most beyond what makes room for itself, so that lower limits
/// do not hold up everything else.
const FORGET_MAX: usize = 10_000;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Store {
    pub(super) live: OrdSet<ByKey>,
    pub(super) old: OrdSet<ByRevision>,
    pub(super) events: VecDeque<Arc<Version>>,
    /// Index of the last change.
    pub(super) revision: u64,
    /// The first revision that can be read.
    pub(super) first: u64,
    pub(super) limits: Limits,
    /// What the versions in `live` and in `old` count.
    live_bytes: u64,
    old_bytes: u64,
}

/// What a key is to have.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct NewValue {
    pub(super) value: Bytes,
    /// 0 for none.
    pub(super) lease: u64,
}

impl Store {
    /// No keys, at a revision.
    pub(super) fn at(revision: u64, first: u64, limits: Limits) -> Self {
        Self { revision, first, limits, ..Self::default() }
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&Arc<Version>> {
        self.live.get(key).map(|by_key| &by_key.0)
    }

    /// The revision at which a question is to be answered, if it can be; 0 means the present one.
    pub(super) fn readable(&self, revision: u64) -> Result<u64, Failure> {
        match revision {
            0 => Ok(self.revision),
            revision if revision > self.revision => {
                Err(Failure::Behind { revision: self.revision })
            }
            revision if revision < self.first => Err(Failure::Compacted { first: self.first }),
            revision => Ok(revision),
        }
    }

    /// What a key had at a [readable](Self::readable) revision.
    pub(super) fn get_at(&self, key: &[u8], revision: u64) -> Option<&Arc<Version>> {
        match self.get(key) {
            Some(live) if live.revision <= revision => Some(live),
            _ => self.newest_old(key, ..=ByRevision::at(key, revision)),
        }
    }

    /// What the key of an event had before it.
    pub(super) fn before(&self, event: &Arc<Version>) -> Option<&Arc<Version>> {
        self.newest_old(event.key(), ..ByRevision(Arc::clone(event)))
    }

    /// The versions of a key that are known, after a revision, the oldest first.
    pub(super) fn versions(&self, key: &[u8], after: u64) -> impl Iterator<Item = &Arc<Version>> {
        let start = Bound::Excluded(ByRevision::at(key, after));
        let end = Bound::Included(ByRevision::at(key, u64::MAX));
        let old = self.old.range((start, end)).map(|version| &version.0);
        old.chain(self.get(key).filter(|live| live.revision > after))
    }

    /// The keys of a range that have a value, in order.
    pub(super) fn range(
        &self,
        range: &KeyRange,
    ) -> impl DoubleEndedIterator<Item = &Arc<Version>> + use<'_> {
        self.live.range::<_, [u8]>(bounds(range)).map(|by_key| &by_key.0)
    }

    /// The first key of a range that has a value or had one, or the last.
    pub(super) fn any_key(&self, range: &KeyRange, is_last: bool) -> Option<&[u8]> {
        let mut live = self.range(range).map(|version| version.key());
        let start = Bound::Included(ByRevision::at(&range.start, 0));
        let end = match range.end.is_empty() {
            true => Bound::Unbounded,
            false => Bound::Excluded(ByRevision::at(&range.end, 0)),
        };
        let mut old = self.old.range((start, end)).map(|version| version.0.key());
        match is_last {
            true => live.next_back().max(old.next_back()),
            false => match (live.next(), old.next()) {
                (Some(live), Some(old)) => Some(live.min(old)),
                (live, old) => live.or(old),
            },
        }
    }

    /// Makes the changes of one command, at most one for each key and in the order of the keys.
    /// Returns what each replaced and what it made.
    pub(super) fn commit(
        &mut self,
        revision: u64,
        changes: impl IntoIterator<Item = (Bytes, Option<NewValue>)>,
        mut replaced: impl FnMut(Option<&Arc<Version>>, &Arc<Version>),
    ) {
        for (key, new) in changes {
            let before = self.live.get(&key[..]).cloned();
            let version = match &new {
                Some(NewValue { value, lease }) => {
                    let before = before.as_ref().map(|before| (before.0.created, before.0.version));
                    let (created, version) = before.unwrap_or((revision, 0));
                    let version = version + 1;
                    let numbers = Numbers { revision, created, version, lease: *lease };
                    Version::new(&key, value, numbers)
                }
                None if before.is_none() => continue,
                None => Version::cleared(&key, revision),
            };
            let version = Arc::new(version);
            replaced(before.as_ref().map(|before| &before.0), &version);
            self.revision = revision;
            self.place(before, version);
        }
        self.trim();
    }

    fn place(&mut self, before: Option<ByKey>, version: Arc<Version>) {
        if version.is_clear() {
            self.live.remove(version.key());
            self.put_old(Arc::clone(&version));
        } else {
            self.live_bytes += version.cost();
            self.live.insert(ByKey(Arc::clone(&version)));
        }
        if let Some(ByKey(before)) = before {
            self.live_bytes -= before.cost();
            self.put_old(before);
        }
        self.events.push_back(version);
    }

    /// Forgets what was before a revision, as far as it is known.
    pub(super) fn compact(&mut self, revision: u64) {
        let revision = revision.min(self.revision);
        while self.events.front().is_some_and(|event| event.revision <= revision) {
            let Some(event) = self.events.pop_front() else { break };
            if let Some(before) = self.before(&event).cloned() {
                self.remove_old(before);
            }
            if event.is_clear() {
                self.remove_old(event);
            }
        }
        self.first = self.first.max(revision);
    }

    /// Forgets the oldest changes, as many as are too many; the last change is never.
    pub(super) fn trim(&mut self) {
        let least = self.events.len().saturating_sub(FORGET_MAX);
        while self.is_over() && self.events.len() > least {
            match self.events.front() {
                Some(event) if event.revision < self.revision => self.compact(event.revision),
                _ => break,
            }
        }
    }

    fn is_over(&self) -> bool {
        self.events.len() as u64 > self.limits.history_changes_max
            || self.old_bytes > self.limits.history_bytes_max
    }

    /// Whether the store may hold so many bytes more.
    pub(super) fn has_room(&self, added: u64, removed: u64) -> bool {
        let after = (self.live_bytes + added).saturating_sub(removed);
        added <= removed || after <= self.limits.bytes_max
    }

    pub(super) fn state(&self) -> State {
        State {
            revision: self.revision,
            first: self.first,
            keys: self.live.len() as u64,
            bytes: self.live_bytes,
            history_changes: self.events.len() as u64,
            history_bytes: self.old_bytes,
            limits: self.limits,
        }
    }

    /// Takes a version from a snapshot, in the order of keys and revisions; `is_last` for a key that
    /// has it now. What is not the state of any store is found by the reader.
    pub(super) fn insert(&mut self, version: Arc<Version>, is_last: bool) {
        if version.revision > self.first {
            self.events.push_back(Arc::clone(&version));
        }
        if is_last && !version.is_clear() {
            self.live_bytes += version.cost();
            self.live.insert(ByKey(version));
        } else {
            self.put_old(version);
        }
    }

    /// Puts events in order that came in the order of their keys.
    pub(super) fn sort_events(&mut self) {
        // Stable: the changes of one revision stay in the order of their keys.
        self.events.make_contiguous().sort_by_key(|event| event.revision);
    }

    fn newest_old(
        &self,
        key: &[u8],
        range: impl std::ops::RangeBounds<ByRevision>,
    ) -> Option<&Arc<Version>> {
        let version = &self.old.range(range).next_back()?.0;
        Some(version).filter(|version| version.key() == key && !version.is_clear())
    }

    fn put_old(&mut self, version: Arc<Version>) {
        self.old_bytes += version.cost();
        self.old.insert(ByRevision(version));
    }

    fn remove_old(&mut self, version: Arc<Version>) {
        let cost = version.cost();
        let removed = self.old.remove(&ByRevision(version));
        debug_assert!(removed.is_some(), "what an event replaced is there as long as the event");
        self.old_bytes -= cost;
    }
}

fn bounds(range: &KeyRange) -> (Bound<&[u8]>, Bound<&[u8]>) {
    let end = if range.end.is_empty() { Bound::Unbounded } else { Bound::Excluded(&range.end[..]) };
    // A range that ends before it begins has no keys, as one that begins at its end.
    match range.is_empty() {
        true => (Bound::Included(&range.end[..]), end),
        false => (Bound::Included(&range.start[..]), end),
    }
}

impl PartialEq for Store {
    fn eq(&self, other: &Self) -> bool {
        let live = |store: &Self| store.live.iter().map(|it| Arc::clone(&it.0)).collect::<Vec<_>>();
        let old = |store: &Self| store.old.iter().map(|it| Arc::clone(&it.0)).collect::<Vec<_>>();
        self.state() == other.state()
            && self.events == other.events
            && live(self) == live(other)
            && old(self) == old(other)
    }
}

impl Eq for Store {}
