//! How many messages one peer may send in a second.
//!
//! Pure: time enters as `now`.
//! The generic cell rate algorithm (ITU-T I.371): one point in time stands for a bucket of tokens
//! that fills by itself.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::timer::Time;

/// Tokens for this long are the most that a bucket holds.
const BURST: Duration = Duration::from_secs(1);

/// The bucket of one link.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rate {
    /// When it is full again.
    full_at: Time,
}

impl Rate {
    /// Takes a token for one message, if there is one. There are `per_second` of them at the
    /// beginning, and as many come in each second.
    pub(crate) fn take(&mut self, now: Time, per_second: NonZeroU32) -> bool {
        let full_at = self.full_at.max(now) + BURST / per_second.get();
        let is_there = full_at - now <= BURST;
        if is_there {
            self.full_at = full_at;
        }
        is_there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many at once, then as many as come in, and after a pause no more at once than before.
    #[test]
    fn second_has_so_many_messages_and_a_pause_saves_no_more() {
        let per_second = NonZeroU32::new(100).unwrap();
        let mut rate = Rate::default();
        let mut taken = |at_ms| {
            let now = Time::from_start(Duration::from_millis(at_ms));
            (0..1_000).filter(|_| rate.take(now, per_second)).count()
        };
        assert_eq!(taken(1_000), 100);
        assert_eq!(taken(1_000), 0);
        assert_eq!(taken(1_050), 5);
        assert_eq!(taken(1_055), 0);
        assert_eq!(taken(60_000), 100);
    }
}
