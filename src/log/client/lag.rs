//! What happens to a reader that falls behind.
//!
//! Pure: what time it is comes from outside. The idea is the suicidal snail of the ZeroMQ guide: a
//! reader that is too slow should say so, rather than work on what nobody wants any more.

use std::time::Duration;

/// What a tail does when its reader falls behind.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum OnLag {
    /// Nothing: it fetches what its reader takes, and no faster. Records wait in the log for as
    /// long as they are kept.
    #[default]
    Block,
    /// Leaves out the oldest records until the reader is within the limits, and
    /// [counts](super::Tail::skipped) them.
    DropOldest(Lag),
    /// Ends with [`TooSlow`](crate::log::Error::TooSlow).
    Fail(Lag),
}

/// How far a reader may be behind. Without a limit: any distance.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Lag {
    /// Records that it has not taken, of those that there are.
    pub records: Option<u64>,
    /// The age of the oldest record that it has not taken: the time since its writer says that it
    /// appended it, by the reader's clock of the wall. Clocks that differ make it longer or
    /// shorter.
    pub age: Option<Duration>,
}

/// Where a reader is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Position {
    /// The offset that it takes next.
    pub(super) next: u64,
    /// The offset behind the last record that there is.
    pub(super) end: u64,
    /// The timestamp of the next record, in milliseconds since 1970.
    pub(super) timestamp: u64,
}

impl Position {
    pub(super) fn records(&self) -> u64 {
        self.end.saturating_sub(self.next)
    }

    /// The age of the next record.
    pub(super) fn age(&self, now_ms: u64) -> Duration {
        Duration::from_millis(now_ms.saturating_sub(self.timestamp))
    }
}

impl Lag {
    /// Whether a reader is further behind.
    pub(super) fn is_exceeded(&self, at: Position, now_ms: u64) -> bool {
        self.records.is_some_and(|limit| at.records() > limit)
            || self.age.is_some_and(|limit| at.records() > 0 && at.age(now_ms) > limit)
    }

    /// The offset from which on the number of records is within the limit.
    pub(super) fn near_enough(&self, end: u64) -> u64 {
        self.records.map_or(0, |limit| end.saturating_sub(limit))
    }

    /// The timestamp from which on the age is within the limit.
    pub(super) fn young_enough(&self, now_ms: u64) -> Option<u64> {
        let age = u64::try_from(self.age?.as_millis()).unwrap_or(u64::MAX);
        Some(now_ms.saturating_sub(age))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both sides of each limit, and neither without one.
    #[test]
    fn lag_is_exceeded_beyond_its_limits_only() {
        let at = Position { next: 10, end: 15, timestamp: 1_000 };
        let records = |records| Lag { records: Some(records), age: None };
        assert!(!records(5).is_exceeded(at, 0));
        assert!(records(4).is_exceeded(at, 0));
        assert_eq!((records(4).near_enough(15), records(99).near_enough(15)), (11, 0));
        let age = |ms| Lag { records: None, age: Some(Duration::from_millis(ms)) };
        assert!(!age(500).is_exceeded(at, 1_500));
        assert!(age(499).is_exceeded(at, 1_500));
        assert!(!age(0).is_exceeded(at, 900), "the writer's clock is ahead");
        assert_eq!(age(499).young_enough(1_500), Some(1_001));
        assert!(!Lag::default().is_exceeded(at, u64::MAX));
        let all = Position { next: 15, ..at };
        assert!(!age(0).is_exceeded(all, u64::MAX), "there is nothing that could be old");
    }
}
