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
        if now < self.next {
            self.unlogged += 1;
            return;
        }
        let unlogged = std::mem::take(&mut self.unlogged);
        self.next = now + INTERVAL;
        tracing::warn!(?route, %reason, unlogged, "dropped a message");
    }
}
