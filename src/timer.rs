//! Time as the state machines see it: a number that is passed in.
//!
//! [`Time`] is monotonic and counts from an arbitrary start, so that a simulation can begin at
//! zero and a test can do arithmetic. Only shells read a clock, through [`Clock`].

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// A point in monotonic time, counted from the start of the process or of the simulation.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Time(Duration);

impl Time {
    /// The start.
    pub const ZERO: Self = Self(Duration::ZERO);

    /// The point that lies `since_start` after the start.
    pub const fn from_start(since_start: Duration) -> Self {
        Self(since_start)
    }

    /// How long after the start this point lies.
    pub const fn since_start(self) -> Duration {
        self.0
    }

    /// Time from `earlier` to this point; zero when `earlier` is later.
    pub fn saturating_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

impl Sub for Time {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.saturating_since(earlier)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}s", self.0.as_secs_f64())
    }
}

/// Reads the monotonic clock of the runtime, so that paused test time works too.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: tokio::time::Instant,
    /// What the clock on the wall said at the start; none to look at it.
    wall: Option<Duration>,
}

impl Clock {
    /// Starts counting.
    pub fn start() -> Self {
        Self { start: tokio::time::Instant::now(), wall: None }
    }

    /// Starts counting, and takes it to be so long since the year 1970 began: the clock on the wall
    /// goes with this one. For simulations.
    pub fn start_at(since_1970: Duration) -> Self {
        Self { wall: Some(since_1970), ..Self::start() }
    }

    /// Time since the start.
    pub fn now(&self) -> Time {
        Time(self.start.elapsed())
    }

    /// Milliseconds since 1970 by the clock on the wall, for people to read. It may jump.
    pub fn unix_ms(&self) -> u64 {
        let since_1970 = match self.wall {
            Some(start) => start + self.start.elapsed(),
            None => on_the_wall(),
        };
        u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
    }

    /// The runtime's instant for `time`, to sleep until.
    pub fn instant(&self, time: Time) -> tokio::time::Instant {
        self.start + time.0
    }
}

fn on_the_wall() -> Duration {
    #[expect(clippy::disallowed_methods, reason = "for people to read; nothing is decided by it")]
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}

/// The earlier of two deadlines, where none means never.
pub fn earliest(a: Option<Time>, b: Option<Time>) -> Option<Time> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `None` is "never", not "now".
    #[test]
    fn earliest_prefers_any_deadline_to_none() {
        let one = Time::from_start(Duration::from_secs(1));
        assert_eq!(earliest(None, Some(one)), Some(one));
        assert_eq!(earliest(Some(one), Some(Time::ZERO)), Some(Time::ZERO));
        assert_eq!(earliest(None, None), None);
    }
}
