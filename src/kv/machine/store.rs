//! The keys, and what they were before: a map of many versions.
//!
//! Every change is a [`Version`]. A key that has a value is in `live`, with what it had before; one
//! that has none any more but is remembered is in `cleared`; and the changes of the history are in
//! `events`, in their order. They share the versions. `live` and `cleared` share their nodes with
//! images that are being written, so that taking one costs nothing. A change of a key that is there
//! finds its place once.
//!
//! Compaction up to a revision forgets the events up to it and of each key all versions before the
//! one it had then: so every state from that revision on can be read, and every change after it.
//!
//! Pure. Invariants: the changes of one revision are in the order of their keys, and a key has one
//! at most; a version is past exactly if the change that replaced it is in `events`, or if it is a
//! clearing that is; so the past of the keys and `events` follow from each other. A key is in one of
//! the two maps at most, and in `cleared` only with a past.

use std::collections::VecDeque;
use std::ops::Bound;

use bytes::Bytes;
use imbl::OrdMap;

use super::super::command::{Failure, KeyRange, Limits, State};
use super::key::Key;
use super::past::Past;
use super::version::{Numbers, Version};

/// Changes that one command forgets at most beyond what makes room for itself, so that lower limits
/// do not hold up everything else.
const FORGET_MAX: usize = 10_000;

/// See the module.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Store {
    pub(super) live: OrdMap<Key, Live>,
    pub(super) cleared: OrdMap<Key, Past>,
    pub(super) events: VecDeque<Version>,
    /// Index of the last change.
    pub(super) revision: u64,
    /// The first revision that can be read.
    pub(super) first: u64,
    pub(super) limits: Limits,
    /// What the present versions count.
    live_bytes: u64,
    /// Versions that are past, and what they count.
    past_count: u64,
    past_bytes: u64,
}

/// A key that has a value.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Live {
    pub(super) now: Version,
    pub(super) past: Past,
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

    pub(super) fn get(&self, key: &[u8]) -> Option<&Version> {
        self.live.get(key).map(|live| &live.now)
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
    pub(super) fn get_at(&self, key: &[u8], revision: u64) -> Option<&Version> {
        match self.live.get(key) {
            Some(live) if live.now.revision <= revision => Some(&live.now),
            Some(live) => live.past.at(revision),
            None => self.cleared.get(key)?.at(revision),
        }
    }

    /// What the key of an event had before it.
    pub(super) fn before(&self, event: &Version) -> Option<&Version> {
        self.get_at(event.key(), event.revision.checked_sub(1)?)
    }

    /// The versions of a key that are known, after a revision, the oldest first.
    pub(super) fn versions(&self, key: &[u8], after: u64) -> impl Iterator<Item = &Version> {
        let live = self.live.get(key);
        let past = live.map(|live| &live.past).or_else(|| self.cleared.get(key));
        let now = live.map(|live| &live.now).filter(|now| now.revision > after);
        past.into_iter().flat_map(move |past| past.after(after)).chain(now)
    }

    /// The keys of a range that have a value, in order.
    pub(super) fn range(
        &self,
        range: &KeyRange,
    ) -> impl DoubleEndedIterator<Item = &Version> + use<'_> {
        self.live.range::<_, [u8]>(bounds(range)).map(|(_, live)| &live.now)
    }

    /// The first key of a range that has a value or had one, or the last.
    pub(super) fn any_key(&self, range: &KeyRange, is_last: bool) -> Option<&[u8]> {
        let mut live = self.live.range::<_, [u8]>(bounds(range)).map(|(key, _)| key.bytes());
        let mut cleared = self.cleared.range::<_, [u8]>(bounds(range)).map(|(key, _)| key.bytes());
        match is_last {
            true => live.next_back().max(cleared.next_back()),
            false => match (live.next(), cleared.next()) {
                (Some(live), Some(cleared)) => Some(live.min(cleared)),
                (live, cleared) => live.or(cleared),
            },
        }
    }

    /// Makes the changes of one command, at most one for each key and in the order of the keys.
    /// Says of each what it replaced and what it made.
    pub(super) fn commit(
        &mut self,
        revision: u64,
        changes: impl IntoIterator<Item = (Bytes, Option<NewValue>)>,
        mut replaced: impl FnMut(Option<&Version>, &Version),
    ) {
        for (key, new) in changes {
            let change = match new {
                Some(new) => Some(self.put(revision, &key, &new)),
                None => self.clear(revision, &key),
            };
            let Some((before, now)) = change else { continue };
            replaced(before.as_ref(), &now);
            self.revision = revision;
            self.events.push_back(now);
        }
        self.trim();
    }

    /// Gives a key a value. Returns the version before and the one that was made.
    fn put(&mut self, revision: u64, key: &[u8], new: &NewValue) -> (Option<Version>, Version) {
        let make = |key: Key, created, version| {
            let numbers = Numbers { revision, created, version, lease: new.lease };
            Version::new(key, &new.value, numbers)
        };
        let Some(live) = self.live.get_mut(key) else {
            let now = make(Key::new(key), revision, 1);
            let past = self.cleared.remove(key).unwrap_or_default();
            self.live_bytes += now.cost();
            self.live.insert(now.key.clone(), Live { now: now.clone(), past });
            return (None, now);
        };
        let now = make(live.now.key.clone(), live.now.created, live.now.version + 1);
        let before = std::mem::replace(&mut live.now, now.clone());
        live.past.push(before.clone());
        self.live_bytes = self.live_bytes + now.cost() - before.cost();
        self.count_past(&before);
        (Some(before), now)
    }

    /// Takes a key's value away, if it has one.
    fn clear(&mut self, revision: u64, key: &[u8]) -> Option<(Option<Version>, Version)> {
        let (key, Live { now: before, mut past }) = self.live.remove_with_key(key)?;
        let clearing = Version::cleared(key.clone(), revision);
        past.push(before.clone());
        past.push(clearing.clone());
        self.cleared.insert(key, past);
        self.live_bytes -= before.cost();
        self.count_past(&before);
        self.count_past(&clearing);
        Some((Some(before), clearing))
    }

    fn count_past(&mut self, version: &Version) {
        self.past_count += 1;
        self.past_bytes += version.cost();
    }

    /// Forgets what was before a revision, as far as it is known.
    pub(super) fn compact(&mut self, revision: u64) {
        let revision = revision.min(self.revision);
        while self.events.front().is_some_and(|event| event.revision <= revision) {
            let Some(event) = self.events.pop_front() else { break };
            self.forget_before(&event);
        }
        self.first = self.first.max(revision);
    }

    fn forget_before(&mut self, event: &Version) {
        let (count, bytes) = (&mut self.past_count, &mut self.past_bytes);
        let forgotten = |version: &Version| {
            *count -= 1;
            *bytes -= version.cost();
        };
        if let Some(live) = self.live.get_mut(event.key()) {
            live.past.forget(event, forgotten);
        } else if let Some(past) = self.cleared.get_mut(event.key()) {
            past.forget(event, forgotten);
            if past.is_empty() {
                self.cleared.remove(event.key());
            }
        }
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
            || self.past_bytes > self.limits.history_bytes_max
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
            history_bytes: self.past_bytes,
            limits: self.limits,
        }
    }

    /// Versions of all keys.
    pub(super) fn version_count(&self) -> u64 {
        self.live.len() as u64 + self.past_count
    }

    /// Takes a key from a snapshot: its versions in the order of their revisions. What is not the
    /// state of any store is found by the reader.
    pub(super) fn insert(&mut self, mut past: Past, last: Version) {
        let after = past.after(self.first).chain((last.revision > self.first).then_some(&last));
        self.events.extend(after.cloned());
        past.iter().for_each(|version| self.count_past(version));
        let key = last.key.clone();
        if last.is_clear() {
            self.count_past(&last);
            past.push(last);
            self.cleared.insert(key, past);
        } else {
            self.live_bytes += last.cost();
            self.live.insert(key, Live { now: last, past });
        }
    }

    /// Puts events in order that came in the order of their keys.
    pub(super) fn sort_events(&mut self) {
        // Stable: the changes of one revision stay in the order of their keys.
        self.events.make_contiguous().sort_by_key(|event| event.revision);
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
