//! Where each entry lies, and its term.
//!
//! The table is complete: twelve bytes for each entry and sixteen for each run of equal terms. A
//! sparse index would be smaller, but an entry may be replaced by a later record of the same
//! segment, so offsets do not rise with indexes and scanning from a sparse point would have to
//! replay replacements. Compaction bounds the table: a million entries take 12 MB.
//!
//! Pure. Invariant: positions cover `base.index + 1 ..= last().index` without gaps; runs of terms
//! begin within that range, in order.

use std::collections::VecDeque;

use super::Point;

/// Where the record of an entry lies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Position {
    /// Which segment.
    pub(super) sequence: u32,
    /// Where in it.
    pub(super) offset: u32,
    /// Bytes of the entry's data.
    pub(super) payload_bytes: u32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Table {
    base: Point,
    positions: VecDeque<Position>,
    /// The first entry of each run of equal terms.
    runs: VecDeque<Point>,
}

impl Table {
    /// No entries; the first will follow `base`.
    pub(super) const fn new(base: Point) -> Self {
        Self { base, positions: VecDeque::new(), runs: VecDeque::new() }
    }

    /// The point before the first entry.
    pub(super) const fn base(&self) -> Point {
        self.base
    }

    /// The last entry; the base when there is none.
    pub(super) fn last(&self) -> Point {
        let term = self.runs.back().map_or(self.base.term, |run| run.term);
        Point { index: self.base.index + self.positions.len() as u64, term }
    }

    /// The term at `index`, also at the base.
    pub(super) fn term(&self, index: u64) -> Option<u64> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        self.position(index)?;
        let after = self.runs.partition_point(|run| run.index <= index);
        self.runs.get(after.checked_sub(1)?).map(|run| run.term)
    }

    /// Where the entry at `index` lies.
    pub(super) fn position(&self, index: u64) -> Option<Position> {
        let place = index.checked_sub(self.base.index + 1)?;
        self.positions.get(usize::try_from(place).ok()?).copied()
    }

    /// Puts an entry at `at.index`, in place of everything from there on.
    pub(super) fn put(&mut self, at: Point, position: Position) {
        assert!(at.index > self.base.index, "an entry below the base");
        assert!(at.index <= self.last().index + 1, "a gap in the log");
        self.truncate(at.index);
        if self.last().term != at.term || self.runs.is_empty() {
            self.runs.push_back(at);
        }
        self.positions.push_back(position);
    }

    /// Drops the entries from `index` on.
    fn truncate(&mut self, index: u64) {
        let kept = usize::try_from(index - self.base.index - 1).unwrap_or(usize::MAX);
        self.positions.truncate(kept);
        while self.runs.back().is_some_and(|run| run.index >= index) {
            self.runs.pop_back();
        }
    }

    /// Drops the entries up to `point`, which becomes the base.
    pub(super) fn forget(&mut self, point: Point) {
        while self.base.index < point.index && self.positions.pop_front().is_some() {
            self.base.index += 1;
        }
        while self.runs.get(1).is_some_and(|next| next.index <= point.index + 1) {
            self.runs.pop_front();
        }
        if self.positions.is_empty() {
            self.runs.clear();
        } else if let Some(first) = self.runs.front_mut() {
            first.index = first.index.max(point.index + 1);
        }
        self.base = point;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(offset: u32) -> Position {
        Position { sequence: 1, offset, payload_bytes: 0 }
    }

    fn terms(table: &Table) -> Vec<Option<u64>> {
        (0..8).map(|index| table.term(index)).collect()
    }

    /// Runs of terms are cut in the middle by replacement and by forgetting, and stay exact.
    #[test]
    fn terms_follow_replacement_and_forgetting() {
        let mut table = Table::new(Point::default());
        for (index, term) in [(1, 1), (2, 1), (3, 2), (4, 2), (5, 4)] {
            table.put(Point { index, term }, position(0));
        }
        let all = [Some(0), Some(1), Some(1), Some(2), Some(2), Some(4), None, None];
        assert_eq!(terms(&table), all);

        table.put(Point { index: 4, term: 5 }, position(9));
        assert_eq!(table.last(), Point { index: 4, term: 5 });
        let replaced = [Some(0), Some(1), Some(1), Some(2), Some(5), None, None, None];
        assert_eq!(terms(&table), replaced);
        assert_eq!(table.position(4), Some(position(9)));

        table.forget(Point { index: 2, term: 1 });
        assert_eq!(terms(&table), [None, None, Some(1), Some(2), Some(5), None, None, None]);
        table.forget(Point { index: 4, term: 5 });
        assert_eq!(table.last(), Point { index: 4, term: 5 });
        table.put(Point { index: 5, term: 5 }, position(1));
        assert_eq!(terms(&table), [None, None, None, None, Some(5), Some(5), None, None]);
    }

    /// A new first entry whose term equals the base's still begins a run.
    #[test]
    fn replacing_the_first_entry_keeps_its_term() {
        let mut table = Table::new(Point { index: 3, term: 2 });
        table.put(Point { index: 4, term: 2 }, position(0));
        table.put(Point { index: 4, term: 2 }, position(1));
        assert_eq!(table.term(4), Some(2));
    }
}
