//! One line a second, at most, about messages that were dropped: a flood of rubbish must not
//! become a flood of log lines.

use std::fmt::Display;
use std::time::Duration;

use crate::timer::Time;
use crate::transport::Route;

/// Shortest time between two lines.
const INTERVAL: Duration = Duration::from_secs(1);

/// See the [module](self). Decides purely; the line goes to `tracing`.
#[derive(Debug, Default)]
pub(crate) struct RefuseLog {
    next: Time,
    unlogged: u64,
}

impl RefuseLog {
    /// Notes a dropped message; every one is counted elsewhere, whether it is logged or not.
    pub(crate) fn note(&mut self, now: Time, route: Route, reason: &dyn Display) {
        if let Some(unlogged) = self.line_due(now) {
            tracing::warn!(?route, %reason, unlogged, "dropped a message");
        }
    }

    /// Whether this one gets a line, and how many before it got none.
    fn line_due(&mut self, now: Time) -> Option<u64> {
        if now < self.next {
            self.unlogged += 1;
            return None;
        }
        self.next = now + INTERVAL;
        Some(std::mem::take(&mut self.unlogged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A flood is one line a second, and the line says how much it stands for.
    #[test]
    fn flood_gets_one_line_a_second_that_counts_the_rest() {
        let mut log = RefuseLog::default();
        let lines = |log: &mut RefuseLog, from_ms: u64| -> Vec<u64> {
            let at =
                |number| Time::from_start(Duration::from_micros(from_ms * 1_000 + number * 99));
            (0_u64..10_000).filter_map(|number| log.line_due(at(number))).collect()
        };
        assert_eq!(lines(&mut log, 5_000), [0], "10,000 in less than a second");
        assert_eq!(lines(&mut log, 6_000), [9_999]);
    }
}
