//! Pages of keys and of changes. Each answer is bounded, in bytes and in what is looked at for it.
//!
//! Pure.

use bytes::Bytes;

use super::super::command::{
    Entry, Event, EventQuery, Events, Failure, PAGE_BYTES_MAX, PAGE_LIMIT_MAX, Page, Position,
    Selection,
};
use super::store::Store;
use super::version::Version;

/// Keys that are looked at for one page of the past, and changes for one of events.
const LOOKED_AT_MAX: usize = 4_096;
/// Keys that are counted for one page.
const COUNTED_MAX: usize = 65_536;
/// What an entry takes in an answer besides its key and value.
const ENTRY_BYTES: usize = 40;

impl Store {
    /// A page of keys as they are now, or were.
    pub(super) fn page(&self, selection: &Selection) -> Result<Page, Failure> {
        let revision = self.readable(selection.revision)?;
        Ok(match revision == self.revision {
            true => self.page_now(selection),
            false => self.page_then(selection, revision),
        })
    }

    fn page_now(&self, selection: &Selection) -> Page {
        let range = self.range(&selection.range);
        match selection.is_reverse {
            true => Draft::new(selection, self.revision).fill(range.rev()),
            false => Draft::new(selection, self.revision).fill(range),
        }
    }

    fn page_then(&self, selection: &Selection, revision: u64) -> Page {
        let mut draft = Draft::new(selection, revision);
        let mut range = selection.range.clone();
        for looked_at in 0.. {
            if range.is_empty() {
                break;
            }
            let Some(key) = self.any_key(&range, selection.is_reverse) else { break };
            if looked_at == LOOKED_AT_MAX {
                draft.page.next = Some(Bytes::copy_from_slice(key));
                break;
            }
            if let Some(version) = self.get_at(key, revision)
                && !draft.take(version)
            {
                break;
            }
            let key = Bytes::copy_from_slice(key);
            range = range.without(&key, selection.is_reverse);
        }
        draft.page
    }

    /// Changes from a position on.
    pub(super) fn events(&self, query: &EventQuery) -> Result<Events, Failure> {
        if self.is_forgotten(query.from) {
            return Err(Failure::Compacted { first: self.first });
        }
        let start = self.event_number(query.from);
        let (limit, bytes_max) = limits(query.limit, query.bytes_max);
        let mut found = Events { revision: self.revision, ..Events::default() };
        let mut bytes = 0;
        let end = start.saturating_add(LOOKED_AT_MAX).min(self.events.len());
        let mut stopped = end;
        for (number, event) in self.events.range(start.min(end)..end).enumerate() {
            if !query.range.contains(event.key()) {
                continue;
            }
            let event = self.event(event, query.wants_previous);
            let size = |entry: &Option<Entry>| {
                entry.as_ref().map_or(0, |entry| entry.value.len() + entry.key.len() + ENTRY_BYTES)
            };
            bytes += event.key.len() + size(&event.entry) + size(&event.previous);
            if !found.events.is_empty() && bytes > bytes_max {
                stopped = start + number;
                break;
            }
            found.events.push(event);
            if found.events.len() == limit {
                stopped = start + number + 1;
                break;
            }
        }
        found.next = self.position(stopped).max(query.from);
        Ok(found)
    }

    /// Whether a question for events has an answer that is worth sending: something happened, or so
    /// much else that whoever waits had better ask from a later position on.
    pub(super) fn is_answered(&self, query: &EventQuery, found: &Events) -> bool {
        let passed = self.events.len().saturating_sub(self.event_number(query.from));
        !found.events.is_empty() || passed >= self.patience()
    }

    /// Whether a question for events that had no answer at an index may have one. Asked for everybody
    /// who waits, so it looks at what is new and searches nothing.
    pub(super) fn may_answer(&self, query: &EventQuery, since: u64) -> bool {
        let from = query.from.revision;
        let passed = self.events.len().checked_sub(self.patience());
        let passed = passed.and_then(|number| self.events.get(number));
        let is_late = passed.is_some_and(|event| event.revision >= from);
        let new = self.events.iter().rev();
        let mut new = new.take_while(|event| event.revision > since && event.revision >= from);
        self.is_forgotten(query.from)
            || is_late
            || new.any(|event| query.range.contains(event.key()))
    }

    fn is_forgotten(&self, from: Position) -> bool {
        self.first > 0 && from < Position::after(self.first)
    }

    /// Changes that may pass somebody who waits for others: long before history forgets them.
    fn patience(&self) -> usize {
        let half = usize::try_from(self.limits.history_changes_max / 2).unwrap_or(LOOKED_AT_MAX);
        half.clamp(1, LOOKED_AT_MAX)
    }

    /// What has become of a key, the oldest first.
    pub(super) fn history(&self, key: &[u8], after: u64, limit: u32) -> Events {
        let (limit, bytes_max) = limits(limit, PAGE_BYTES_MAX);
        let next = Position::after(self.revision);
        let mut found = Events { events: Vec::new(), next, revision: self.revision };
        let mut bytes = 0;
        for version in self.versions(key, after) {
            bytes += version.key().len() + version.value().len() + ENTRY_BYTES;
            let is_full = found.events.len() == limit || bytes > bytes_max;
            if is_full && !found.events.is_empty() {
                found.next = Position { revision: version.revision, ordinal: 0 };
                break;
            }
            found.events.push(self.event(version, false));
        }
        found
    }

    fn event(&self, version: &Version, wants_previous: bool) -> Event {
        let before = if wants_previous { self.before(version) } else { None };
        Event {
            revision: version.revision,
            key: Bytes::copy_from_slice(version.key()),
            entry: (!version.is_clear()).then(|| version.entry()),
            previous: before.map(|before| before.entry()),
        }
    }

    /// The number of the first event that is not before a position.
    fn event_number(&self, position: Position) -> usize {
        let first = self.events.partition_point(|event| event.revision < position.revision);
        let ordinal = usize::try_from(position.ordinal).unwrap_or(usize::MAX);
        let of_revision = self.events.range(first..).take(ordinal);
        first + of_revision.take_while(|event| event.revision == position.revision).count()
    }

    /// The position of an event, or behind them all.
    fn position(&self, number: usize) -> Position {
        let Some(event) = self.events.get(number) else {
            return Position::after(self.revision);
        };
        let first = self.events.partition_point(|other| other.revision < event.revision);
        let ordinal = u32::try_from(number - first).unwrap_or(u32::MAX);
        Position { revision: event.revision, ordinal }
    }
}

/// A page that is being filled.
struct Draft<'a> {
    selection: &'a Selection,
    limit: usize,
    bytes_max: usize,
    bytes: usize,
    page: Page,
}

impl<'a> Draft<'a> {
    fn new(selection: &'a Selection, revision: u64) -> Self {
        let (limit, bytes_max) = limits(selection.limit, selection.bytes_max);
        let page = Page { revision, ..Page::default() };
        Self { selection, limit, bytes_max, bytes: 0, page }
    }

    fn fill<'v>(mut self, versions: impl Iterator<Item = &'v Version>) -> Page {
        for version in versions {
            if !self.take(version) {
                break;
            }
        }
        self.page
    }

    /// Takes the next key; or if the page is full, says that the next page begins with it.
    fn take(&mut self, version: &Version) -> bool {
        let page = &mut self.page;
        let size = match self.selection.keys_only {
            true => version.key().len() + ENTRY_BYTES,
            false => version.key().len() + version.value().len() + ENTRY_BYTES,
        };
        let is_full = match self.selection.count_only {
            true => page.matched >= COUNTED_MAX as u64,
            false => {
                let is_over =
                    page.entries.len() >= self.limit || self.bytes + size > self.bytes_max;
                is_over && !page.entries.is_empty()
            }
        };
        if is_full {
            page.next = Some(Bytes::copy_from_slice(version.key()));
            return false;
        }
        page.matched += 1;
        if !self.selection.count_only {
            self.bytes += size;
            page.entries.push(match self.selection.keys_only {
                true => version.entry_without_value(),
                false => version.entry(),
            });
        }
        true
    }
}

fn limits(limit: u32, bytes_max: u32) -> (usize, usize) {
    let limit = limit.clamp(1, PAGE_LIMIT_MAX) as usize;
    (limit, bytes_max.min(PAGE_BYTES_MAX) as usize)
}
