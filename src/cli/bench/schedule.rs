//! When operations begin.
//!
//! Closed: each of those at work begins the next operation when its last one has ended. Open: so many
//! begin in a second, whatever became of those before; the latency of an operation counts from when
//! it was meant to begin, so that one that had to wait behind a stall has the stall in it. Without
//! that a benchmark leaves out just the requests that a stall would have hit (Gil Tene's coordinated
//! omission).
//!
//! Pure: times are since the beginning.

use std::time::Duration;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    /// Operations begun in a second; none for closed.
    pub(super) rate: Option<u32>,
    /// Before this, operations are not counted.
    pub(super) warm_up: Duration,
    /// After this, none begins.
    pub(super) end: Duration,
}

impl Schedule {
    /// When the operation with this number, from 0, is meant to begin, if it is asked for at `now`.
    pub(super) fn intended(&self, number: u64, now: Duration) -> Option<Duration> {
        let at = match self.rate {
            // In nanoseconds; at a million in a second the number has room for centuries.
            Some(rate) => {
                let nanos = u128::from(number) * 1_000_000_000 / u128::from(rate.max(1));
                Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
            }
            None => now,
        };
        (at < self.end).then_some(at)
    }

    /// How many were meant to begin in the time that counts up to `now`, and have numbers from `next`
    /// on: nobody had time for them.
    pub(super) fn not_begun(&self, next: u64, now: Duration) -> u64 {
        let Some(rate) = self.rate else { return 0 };
        let meant_before = |time: Duration| {
            let nanos = time.min(self.end).as_nanos() * u128::from(rate);
            u64::try_from(nanos.div_ceil(1_000_000_000)).unwrap_or(u64::MAX)
        };
        meant_before(now).saturating_sub(next.max(meant_before(self.warm_up)))
    }

    /// Whether an operation that was meant to begin then counts.
    pub(super) fn counts(&self, at: Duration) -> bool {
        (self.warm_up..self.end).contains(&at)
    }

    /// Time in which operations count.
    pub(super) fn counted(&self) -> Duration {
        self.end - self.warm_up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// An open loop is as fast as it was asked to be, and its times do not depend on when anybody
    /// asks for them; a closed one begins when it is asked.
    #[test]
    fn open_loop_keeps_its_times() {
        let open = Schedule { rate: Some(1_000), warm_up: SECOND, end: 3 * SECOND };
        let times = (0..).map_while(|number| open.intended(number, 9 * SECOND));
        let times: Vec<_> = times.collect();
        assert_eq!(times.len(), 3_000);
        assert_eq!(times[1_500], Duration::from_millis(1_500));
        assert_eq!(times.iter().filter(|at| open.counts(**at)).count(), 2_000);
        assert_eq!(open.counted(), 2 * SECOND);
        assert_eq!(open.not_begun(2_900, 9 * SECOND), 100, "the end is where it stops");
        assert_eq!(open.not_begun(10, 9 * SECOND), 2_000, "what is before the warm-up counts not");
        assert_eq!(open.not_begun(1_500, SECOND + SECOND / 2), 0);

        let closed = Schedule { rate: None, ..open };
        assert_eq!(closed.not_begun(0, 9 * SECOND), 0);
        assert_eq!(closed.intended(7, SECOND), Some(SECOND));
        assert_eq!(closed.intended(7, 3 * SECOND), None);
    }
}
