//! Times and limits of consensus, and the relations between them that must hold.
//!
//! Pure: plain numbers.

use std::time::Duration;

/// Times and limits of one replica's consensus.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Options {
    /// Length of one step of Raft's clock [default: 50 ms]. Larger: elections start later and
    /// collide more often. Smaller: more wake-ups of an idle node.
    pub tick_interval: Duration,
    /// Time between two heartbeats of a leader [default: 100 ms]. Larger: followers wait longer
    /// for a lost commit index. Smaller: more traffic on an idle cluster.
    pub heartbeat_interval: Duration,
    /// The shortest silence of a leader after which a follower calls an election, and the time in
    /// which a leader must hear from a quorum to stay leader [default: 300 ms]. Larger: fail-over
    /// takes longer. Smaller: a pause of the leader costs it the leadership.
    pub election_timeout_min: Duration,
    /// The end, not included, of the range from which election timeouts are drawn
    /// [default: 600 ms]. Larger: fail-over takes longer. Smaller: votes are split more often.
    pub election_timeout_max: Duration,
    /// Append messages under way to one follower [default: 256]. Larger: more memory for a
    /// follower that is far away. Smaller: less is in flight on a long line.
    pub inflight_messages_max: usize,
    /// Bytes of entries in one append message [default: 1 MiB]; an entry that is larger travels
    /// alone. Larger: catching up delays other traffic. Smaller: catching up takes more rounds.
    pub message_bytes_max: u64,
    /// Bytes of proposals that wait for the quorum [default: 64 MiB]; over it, proposals are
    /// refused. Larger: a lost quorum costs more memory. Smaller: bursts are refused.
    pub uncommitted_bytes_max: u64,
    /// Read rounds that may wait for a quorum at once [default: 64]; later reads join the next.
    pub read_rounds_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tick_interval: Duration::from_millis(50),
            heartbeat_interval: Duration::from_millis(100),
            election_timeout_min: Duration::from_millis(300),
            election_timeout_max: Duration::from_millis(600),
            inflight_messages_max: 256,
            message_bytes_max: 1024 * 1024,
            uncommitted_bytes_max: 64 * 1024 * 1024,
            read_rounds_max: 64,
        }
    }
}

impl Options {
    /// Heartbeats that may be lost before anybody calls an election: one must never be enough.
    const HEARTBEATS_MISSED_MIN: u32 = 2;
    /// Steps of the clock between the shortest and the longest election timeout, so that two
    /// followers seldom draw the same.
    const ELECTION_STEPS_MIN: usize = 3;

    /// Checks the relations between the options.
    ///
    /// # Errors
    ///
    /// [`InvalidOptions`] names the relation that does not hold.
    pub fn check(&self) -> Result<(), InvalidOptions> {
        let refuse = |relation| Err(InvalidOptions { relation });
        if self.tick_interval < Duration::from_millis(1) {
            return refuse("tick_interval must be at least 1 ms");
        }
        if self.heartbeat_interval < self.tick_interval {
            return refuse("heartbeat_interval must be at least tick_interval");
        }
        if self.election_timeout_min < self.heartbeat_interval * (Self::HEARTBEATS_MISSED_MIN + 1) {
            return refuse("election_timeout_min must be at least 3 heartbeat_interval");
        }
        if self.election_ticks_max() < self.election_ticks_min() + Self::ELECTION_STEPS_MIN {
            return refuse(
                "election_timeout_max must be 3 tick_interval over election_timeout_min",
            );
        }
        if self.inflight_messages_max == 0 || self.read_rounds_max == 0 {
            return refuse("inflight_messages_max and read_rounds_max must not be 0");
        }
        if self.message_bytes_max == 0 || self.uncommitted_bytes_max < self.message_bytes_max {
            return refuse(
                "uncommitted_bytes_max must be at least message_bytes_max, which is not 0",
            );
        }
        Ok(())
    }

    pub(super) fn heartbeat_ticks(&self) -> usize {
        self.ticks(self.heartbeat_interval)
    }

    pub(super) fn election_ticks_min(&self) -> usize {
        self.ticks(self.election_timeout_min)
    }

    pub(super) fn election_ticks_max(&self) -> usize {
        self.ticks(self.election_timeout_max)
    }

    /// Whole steps of the clock in `duration`, rounded up, at least one.
    fn ticks(&self, duration: Duration) -> usize {
        let ticks = duration.as_nanos().div_ceil(self.tick_interval.as_nanos().max(1));
        usize::try_from(ticks.max(1)).unwrap_or(usize::MAX)
    }
}

/// A relation between options does not hold.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{relation}")]
pub struct InvalidOptions {
    relation: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The defaults must be usable, and each relation must be refused on its wrong side.
    #[test]
    fn options_are_refused_when_a_relation_does_not_hold() {
        let ms = Duration::from_millis;
        let good = Options::default;
        assert_eq!(good().check(), Ok(()));
        let bad = [
            Options { tick_interval: Duration::ZERO, ..good() },
            Options { tick_interval: ms(101), ..good() },
            Options { heartbeat_interval: ms(101), ..good() },
            Options { election_timeout_max: ms(400), ..good() },
            Options { inflight_messages_max: 0, ..good() },
            Options { read_rounds_max: 0, ..good() },
            Options { message_bytes_max: 0, ..good() },
            Options { uncommitted_bytes_max: 1, ..good() },
        ];
        for options in bad {
            assert!(options.check().is_err(), "{options:?}");
        }
    }

    /// Raft counts steps; a duration that is no multiple must not become shorter.
    #[test]
    fn durations_are_rounded_up_to_ticks() {
        let options = Options { tick_interval: Duration::from_millis(40), ..Options::default() };
        assert_eq!(options.heartbeat_ticks(), 3);
        assert_eq!(options.election_ticks_min(), 8);
        assert_eq!(options.election_ticks_max(), 15);
    }
}
