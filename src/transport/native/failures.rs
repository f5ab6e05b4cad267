//! Addresses from which handshakes fail: each failure costs work with keys, so an address that has
//! had its share of it is turned away unheard for a while.
//!
//! Pure: time enters as `now`.
//! Whoever is let in costs nothing; who shares an address with somebody who guesses may have to knock
//! several times.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How long a failure weighs, and how many an address may have on its account.
const WEIGHT: Duration = Duration::from_millis(50);
const FAILURES_MAX: u32 = 40;
/// Addresses that are remembered. With more of them, those that have failed least are forgotten.
const ADDRESSES_MAX: usize = 4_096;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Failures {
    /// When the account of an address is empty again.
    clear_at: BTreeMap<IpAddr, Instant>,
}

impl Failures {
    /// Whether somebody from there is heard.
    pub(super) fn may_try(&self, now: Instant, from: IpAddr) -> bool {
        let clear_at = self.clear_at.get(&account(from));
        clear_at.is_none_or(|at| at.saturating_duration_since(now) < WEIGHT * FAILURES_MAX)
    }

    /// A handshake with somebody from there has failed.
    pub(super) fn note(&mut self, now: Instant, from: IpAddr) {
        if self.clear_at.len() >= ADDRESSES_MAX {
            self.forget(now);
        }
        let clear_at = self.clear_at.entry(account(from)).or_insert(now);
        *clear_at = (*clear_at).max(now) + WEIGHT;
    }

    fn forget(&mut self, now: Instant) {
        self.clear_at.retain(|_, at| *at > now);
        if self.clear_at.len() >= ADDRESSES_MAX {
            let least =
                self.clear_at.iter().min_by_key(|(_, at)| **at).map(|(address, _)| *address);
            if let Some(least) = least {
                self.clear_at.remove(&least);
            }
        }
    }
}

/// Whoever has one address of IPv6 has all that begin with the same 64 bits.
fn account(from: IpAddr) -> IpAddr {
    match from {
        IpAddr::V4(_) => from,
        IpAddr::V6(address) => IpAddr::from((u128::from(address) >> 64 << 64).to_be_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn start() -> Instant {
        Instant::now()
    }

    /// Forty at once and twenty a second are heard, and nobody else is held to account for it.
    #[test]
    fn address_that_fails_too_often_is_turned_away_for_a_while() {
        let (mut failures, start) = (Failures::default(), start());
        let [one, other] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(IpAddr::from);
        let mut heard = |from_ms: u64, to_ms: u64| {
            let tries = (from_ms..to_ms).step_by(10).filter(|ms| {
                let may = failures.may_try(at(start, *ms), one);
                if may {
                    failures.note(at(start, *ms), one);
                }
                may
            });
            tries.count()
        };
        let first = heard(0, 1_000);
        assert!((59..=61).contains(&first), "{first}");
        let later = heard(1_000, 11_000);
        assert!((195..=205).contains(&later), "{later}");
        assert!(failures.may_try(at(start, 11_000), other));
        assert!(failures.may_try(at(start, 14_000), one));
    }

    /// Addresses are forgotten when they are too many, those that cost most last; of one network of
    /// IPv6 all count as one.
    #[test]
    fn accounts_are_limited() {
        let (mut failures, start) = (Failures::default(), start());
        let worst = IpAddr::from([192, 168, 0, 1]);
        (0..FAILURES_MAX).for_each(|_| failures.note(start, worst));
        for number in 0..10_000_u32 {
            failures.note(start, IpAddr::from((0x0a00_0000 + number).to_be_bytes()));
        }
        assert!(failures.clear_at.len() <= ADDRESSES_MAX);
        assert!(!failures.may_try(start, worst));
        let of_one = |host: u128| IpAddr::from((0xfd00_u128 << 112 | host).to_be_bytes());
        (0..FAILURES_MAX).for_each(|host| failures.note(start, of_one(u128::from(host))));
        assert!(!failures.may_try(start, of_one(77)));
    }
}
