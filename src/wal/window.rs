//! The newest entries, in memory, so that followers that keep up never touch the disk.
//!
//! Pure. Invariant: the entries follow each other up to the last one of the log, and take no more
//! than the allowed bytes, except that the newest entry is always kept.

use std::collections::VecDeque;

use super::Entry;
use super::record::encoded_bytes;

/// See the module.
#[derive(Debug)]
pub(super) struct Window {
    entries: VecDeque<Entry>,
    bytes: usize,
    bytes_max: usize,
}

impl Window {
    pub(super) const fn new(bytes_max: usize) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// The entry at `index`, if it is in memory.
    pub(super) fn entry(&self, index: u64) -> Option<&Entry> {
        let place = index.checked_sub(self.entries.front()?.index)?;
        self.entries.get(usize::try_from(place).ok()?)
    }

    /// Adds an entry in place of everything from its index on; the oldest give way.
    pub(super) fn push(&mut self, entry: Entry) {
        while self.entries.back().is_some_and(|last| last.index >= entry.index) {
            let last = self.entries.pop_back();
            self.bytes -= last.map_or(0, |last| encoded_bytes(last.data.len()));
        }
        self.bytes += encoded_bytes(entry.data.len());
        self.entries.push_back(entry);
        while self.bytes > self.bytes_max && self.entries.len() > 1 {
            self.pop_front();
        }
    }

    /// Drops the entries up to and including `index`.
    pub(super) fn forget(&mut self, index: u64) {
        while self.entries.front().is_some_and(|first| first.index <= index) {
            self.pop_front();
        }
    }

    fn pop_front(&mut self) {
        if let Some(first) = self.entries.pop_front() {
            self.bytes -= encoded_bytes(first.data.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::wal::EntryKind;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { term, index, kind: EntryKind::Normal, data: Bytes::from_static(&[7; 8]) }
    }

    /// Each entry here takes forty bytes, so three fit into the window.
    #[test]
    fn oldest_entries_give_way_and_replaced_ones_vanish() {
        let mut window = Window::new(120);
        for index in 1..=5 {
            window.push(entry(index, 1));
        }
        assert_eq!(window.entry(2), None);
        assert_eq!(window.entry(3), Some(&entry(3, 1)));
        window.push(entry(4, 2));
        assert_eq!(window.entry(4), Some(&entry(4, 2)));
        assert_eq!((window.entry(5), window.bytes), (None, 80));
        window.forget(3);
        assert_eq!((window.entry(3), window.bytes), (None, 40));
    }

    /// A truncation below the window empties it before the new entry.
    #[test]
    fn entry_below_the_window_replaces_all_of_it() {
        let mut window = Window::new(80);
        (1..=5).for_each(|index| window.push(entry(index, 1)));
        window.push(entry(2, 2));
        assert_eq!(window.entry(2), Some(&entry(2, 2)));
        assert_eq!((window.entry(4), window.bytes), (None, 40));
    }
}
