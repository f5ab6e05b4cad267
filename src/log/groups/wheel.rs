//! Time in a group: rounds that are counted by replicated impulses.
//!
//! The replica that leads says when a round is over; what that means is decided where it is applied.
//! A wheel turns only while something waits for it, so a group that rests costs nothing.
//!
//! Pure. Invariant: a round of a wheel has a number that no other round of it has, so an impulse
//! that comes late or twice does nothing.

use std::time::Duration;

/// What a wheel is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WheelKind {
    /// Records that are with members for too long.
    Deliveries,
    /// Members that are silent for too long.
    Members,
}

/// Counts rounds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Wheel {
    /// The round that runs, or ran last.
    pub(super) round: u64,
    pub(super) is_turning: bool,
}

impl WheelKind {
    pub(super) const ALL: [Self; 2] = [Self::Deliveries, Self::Members];

    /// The number in commands and in ids of alarms.
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Deliveries => 0,
            Self::Members => 1,
        }
    }

    /// How long a round is.
    pub(super) fn step(self, timeout: Duration) -> Duration {
        timeout / self.steps()
    }

    /// Whether the whole timeout has passed since a moment in `round`. The round of the moment
    /// itself does not count, since it had begun before: late by up to a step, never early.
    pub(super) fn has_expired(self, round: u64, wheel: Wheel) -> bool {
        wheel.round.saturating_sub(round) > u64::from(self.steps())
    }

    /// Rounds in a timeout: more are more exact, and more entries in the log.
    const fn steps(self) -> u32 {
        match self {
            Self::Deliveries => 4,
            Self::Members => 2,
        }
    }
}

impl Wheel {
    /// Makes it turn, if it does not, and returns the round.
    pub(super) fn start(&mut self) -> u64 {
        if !self.is_turning {
            self.is_turning = true;
            self.round += 1;
        }
        self.round
    }

    pub(super) fn stop(&mut self) {
        self.is_turning = false;
    }

    /// A round is over; false if it is not the one that runs.
    pub(super) fn turn(&mut self, round: u64) -> bool {
        let is_meant = self.is_turning && round == self.round;
        if is_meant {
            self.round += 1;
        }
        is_meant
    }

    /// The first round in which at least `after` has passed, for [`WheelKind::Deliveries`].
    pub(super) fn round_after(&mut self, after: Duration, timeout: Duration) -> u64 {
        let step = WheelKind::Deliveries.step(timeout).as_millis().max(1);
        let steps = u64::try_from(after.as_millis().div_ceil(step)).unwrap_or(u64::MAX);
        self.start().saturating_add(steps).saturating_add(1)
    }

    pub(super) fn is_turning(self) -> bool {
        self.is_turning
    }

    pub(super) fn round(self) -> u64 {
        self.round
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each round has a number of its own, however often the wheel rests.
    #[test]
    fn impulses_for_other_rounds_do_nothing() {
        let mut wheel = Wheel::default();
        assert!(!wheel.turn(0), "a wheel that rests was turned");
        let round = wheel.start();
        assert_eq!(wheel.start(), round, "started twice");
        assert!(wheel.turn(round) && !wheel.turn(round), "turned twice by one impulse");
        let old = wheel.round();
        wheel.stop();
        assert!(!wheel.turn(old));
        assert!(wheel.start() > old, "an old impulse would be taken for a new one");
    }

    /// A timeout counts whole rounds only.
    #[test]
    fn timeout_is_late_by_a_round_at_most_and_never_early() {
        for kind in WheelKind::ALL {
            let mut wheel = Wheel::default();
            let round = wheel.start();
            let mut turns = 0;
            while !kind.has_expired(round, wheel) {
                assert!(wheel.turn(wheel.round()));
                turns += 1;
            }
            // The first turn may come right after the moment that is counted from.
            assert_eq!(turns, kind.steps() + 1, "{kind:?}");
        }
    }

    /// A delay is at least what was asked for.
    #[test]
    fn delay_is_never_short() {
        let timeout = Duration::from_secs(4);
        let mut wheel = Wheel::default();
        let round = wheel.start();
        for (millis, whole_rounds) in [(1, 1), (1_000, 1), (1_001, 2), (5_000, 5)] {
            let ripe = wheel.round_after(Duration::from_millis(millis), timeout);
            assert_eq!(ripe - round, whole_rounds + 1, "{millis} ms");
        }
    }
}
