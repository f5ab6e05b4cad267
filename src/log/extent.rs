//! How much of the replicated log lies between an entry and its end.
//!
//! The machine sees its commands and not the log, so it counts their bytes, and remembers for one
//! entry now and then how many there were before it. That is exact enough to tell whether the log
//! has much more than is still kept. Pure.

use std::collections::VecDeque;

use bytes::{BufMut, BytesMut};

/// Bytes between two marks.
const MARK_BYTES: u64 = 256 * 1024;

/// Bytes of all commands, and where some of them lie.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Extent {
    position: u64,
    /// An index, and the bytes of all commands before it; both ascending.
    marks: VecDeque<(u64, u64)>,
}

impl Extent {
    pub(super) fn new(position: u64) -> Self {
        Self { position, marks: VecDeque::new() }
    }

    /// Bytes of all commands so far.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// A command of so many bytes stands at an index. What lies before `floor` is not asked for any
    /// more.
    pub(super) fn add(&mut self, index: u64, bytes: usize, floor: Option<u64>) {
        let last = self.marks.back().map(|(_, position)| *position);
        if last.is_none_or(|last| self.position - last >= MARK_BYTES) {
            self.marks.push_back((index, self.position));
        }
        self.position = self.position.saturating_add(bytes as u64);
        let floor = floor.unwrap_or(u64::MAX);
        while self.marks.get(1).is_some_and(|(index, _)| *index <= floor) {
            self.marks.pop_front();
        }
    }

    /// A further mark, if it lies behind the last one.
    pub(super) fn push_mark(&mut self, index: u64, position: u64) -> bool {
        let follows = self.marks.back().is_none_or(|last| last.0 < index && last.1 <= position);
        let is_mark = follows && position <= self.position;
        if is_mark {
            self.marks.push_back((index, position));
        }
        is_mark
    }

    /// Bytes from an entry to the end, or a little more.
    pub(super) fn since(&self, index: u64) -> u64 {
        let before = self.marks.partition_point(|(at, _)| *at <= index);
        let mark = before.checked_sub(1).and_then(|at| self.marks.get(at));
        self.position - mark.map_or(0, |(_, position)| *position)
    }

    /// An entry from which to the end there are no more than so many bytes.
    pub(super) fn last(&self, bytes: u64) -> u64 {
        let begin = self.position.saturating_sub(bytes);
        let before = self.marks.partition_point(|(_, position)| *position < begin);
        self.marks.get(before).map_or(u64::MAX, |(index, _)| *index)
    }

    /// `position u64 | marks u32 | (index u64 | position u64)...`
    pub(super) fn put(&self, out: &mut BytesMut) {
        out.put_u64_le(self.position);
        out.put_u32_le(u32::try_from(self.marks.len()).expect("marks are far from each other"));
        for (index, position) in &self.marks {
            out.put_u64_le(*index);
            out.put_u64_le(*position);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It may say a little more than there is, never less: the log must not be thought shorter.
    #[test]
    fn distance_to_the_end_is_right_but_for_a_mark() {
        let mut extent = Extent::default();
        let bytes = 1_000;
        for index in 0..2_000 {
            extent.add(index, bytes, Some(500));
        }
        for index in [500_u64, 501, 1_000, 1_999] {
            let exact = (2_000 - index) * 1_000;
            let since = extent.since(index);
            assert!((exact..=exact + MARK_BYTES + 1_000).contains(&since), "{index}: {since}");
        }
        assert!(extent.marks.len() < 10 && extent.marks[0].0 <= 500, "{:?}", extent.marks);
        let last = extent.last(500_000);
        assert!((1_500..1_800).contains(&last), "{last}");
        assert_eq!(extent.last(0), u64::MAX);
        extent.add(2_000, bytes, None);
        assert_eq!(extent.marks.len(), 1, "nothing is kept, so nothing is asked for");
    }
}
