//! Who is in sync, and when: time is arithmetic here.

use proptest::prelude::*;

use super::*;

const LAG_MAX: Duration = Duration::from_secs(10);
const GRACE: Duration = Duration::from_secs(1);
const TERM: u64 = 3;

fn at(ms: u64) -> Time {
    Time::from_start(Duration::from_millis(ms))
}

fn tracker() -> Tracker {
    Acknowledgements::<()>::new(LAG_MAX, GRACE, Duration::from_secs(3_600)).tracker
}

/// One look at followers 2 and 3, with what each has; both were heard.
fn look(tracker: &mut Tracker, ms: u64, last: u64, matched: [u64; 2]) -> bool {
    let voters = [(2, matched[0], true), (3, matched[1], true)];
    tracker.observe(at(ms), (TERM, last), voters.into_iter())
}

fn in_sync(tracker: &Tracker) -> Vec<u64> {
    let followers = tracker.followers.iter();
    followers.filter(|(_, it)| it.is_in_sync).map(|(raft_id, _)| *raft_id).collect()
}

/// A new leader cannot tell yet, so it takes everybody for in sync, but not for long: writes for all
/// must not wait for the one whose death made it leader.
#[test]
fn new_leader_trusts_the_others_for_the_grace_and_no_longer() {
    let mut tracker = tracker();
    assert!(look(&mut tracker, 0, 5, [0, 0]), "the set is news");
    assert_eq!((in_sync(&tracker), tracker.count()), (vec![2, 3], 3));
    assert!(!look(&mut tracker, 1_000, 5, [5, 0]));
    assert_eq!(in_sync(&tracker), [2, 3], "the last moment of the grace");
    assert!(look(&mut tracker, 1_001, 5, [5, 0]));
    assert_eq!(in_sync(&tracker), [2]);
    assert_eq!(tracker.under_replicated_since, Some(at(1_001)));
}

/// The rule is about time: whoever is always a little behind is in sync, however much is written.
#[test]
fn follower_that_is_always_behind_by_less_than_the_limit_stays_in_sync() {
    let mut tracker = tracker();
    for second in 0..100_u64 {
        let last = (second + 1) * 1_000;
        // From some time on three seconds and some thousand entries behind.
        let matched = if second < 5 { last } else { last - 3_000 };
        look(&mut tracker, second * 1_000, last, [last, matched]);
        assert_eq!(in_sync(&tracker), [2, 3], "second {second}");
    }
}

/// One that falls behind more and more leaves when the last log that it is known to have had is as
/// old as the limit, and comes back when it has caught up.
#[test]
fn follower_that_stops_leaves_at_the_limit_and_comes_back_when_it_has_all() {
    let mut tracker = tracker();
    look(&mut tracker, 0, 10, [10, 10]);
    let mut left = None;
    for ms in (100..=20_000).step_by(100) {
        look(&mut tracker, ms, 10 + ms, [10 + ms, 10]);
        if in_sync(&tracker) == [2] && left.is_none() {
            left = Some(ms);
        }
    }
    assert_eq!(left, Some(10_100), "it had everything at 0, and the limit is 10 s");
    assert_eq!((tracker.shrinks, tracker.grows), (1, 0));
    assert_eq!(tracker.floor(20_010), 20_010, "nobody waits for it");

    look(&mut tracker, 20_100, 20_010, [20_010, 20_009]);
    assert_eq!(in_sync(&tracker), [2], "it still lacks what the mark asks for");
    assert!(look(&mut tracker, 20_200, 20_010, [20_010, 20_010]));
    assert_eq!((in_sync(&tracker), tracker.grows), (vec![2, 3], 1));
    assert_eq!(tracker.under_replicated_since, None);
}

/// A dead follower of a leader that writes nothing has everything, as far as is known. It is not in
/// sync for ever: it could not take the next write.
#[test]
fn silent_follower_of_an_idle_leader_leaves_too() {
    let mut tracker = tracker();
    look(&mut tracker, 0, 10, [10, 10]);
    let idle = |tracker: &mut Tracker, ms| {
        let voters = [(2, 10, true), (3, 10, false)];
        tracker.observe(at(ms), (TERM, 10), voters.into_iter())
    };
    idle(&mut tracker, 10_000);
    assert_eq!(in_sync(&tracker), [2, 3]);
    assert!(idle(&mut tracker, 10_001));
    assert_eq!(in_sync(&tracker), [2]);
}

/// A leader that was stopped for a minute wrote nothing in it, so nobody fell behind meanwhile.
#[test]
fn own_pause_of_the_leader_is_not_held_against_the_others() {
    let pause_max = Duration::from_millis(150);
    let mut tracker = Acknowledgements::<()>::new(LAG_MAX, GRACE, pause_max).tracker;
    look(&mut tracker, 0, 10, [10, 10]);
    look(&mut tracker, 100, 20, [20, 10]);
    look(&mut tracker, 60_000, 20, [20, 10]);
    assert_eq!(in_sync(&tracker), [2, 3], "it was 100 ms late, and 59,900 ms did not pass");
    for ms in (60_100..=69_900).step_by(100) {
        look(&mut tracker, ms, 20, [20, 10]);
    }
    assert_eq!(in_sync(&tracker), [2, 3]);
    look(&mut tracker, 70_000, 20, [20, 10]);
    assert_eq!(in_sync(&tracker), [2], "the limit counts on after the pause");
}

/// A voter that joins later has to show that it has everything; one that goes is no longer counted.
#[test]
fn voters_that_come_and_go_change_the_set() {
    let mut tracker = tracker();
    let mut observe = |ms: u64, voters: &[(u64, u64, bool)]| {
        let changed = tracker.observe(at(ms), (TERM, 10), voters.iter().copied());
        (changed, in_sync(&tracker), tracker.count(), tracker.floor(10))
    };
    assert_eq!(observe(0, &[(2, 10, true)]), (true, vec![2], 2, 10));
    let (changed, set, _, floor) = observe(10, &[(2, 10, true), (4, 3, true)]);
    assert_eq!((changed, set, floor), (false, vec![2], 10), "it counts for nothing yet");
    assert_eq!(observe(20, &[(2, 10, true), (4, 10, true)]), (true, vec![2, 4], 3, 10));
    assert_eq!(observe(30, &[(4, 10, true)]), (true, vec![4], 2, 10));
}

proptest! {
    /// Whatever the followers do: who is in sync had, within the limit, all that the leader had then.
    #[test]
    fn whoever_is_in_sync_had_everything_within_the_limit(
        steps in proptest::collection::vec((1_u64..4_000, 0_u64..5, 0_u64..8, any::<bool>()), 1..60),
    ) {
        let mut tracker = tracker();
        let (mut ms, mut last, mut matched) = (0, 0, 0);
        // Every moment with the last index of the leader's log.
        let mut moments = Vec::new();
        for (step, (passed, written, taken, is_heard)) in steps.into_iter().enumerate() {
            ms += passed;
            last += written;
            if is_heard {
                matched = last.min(matched + taken);
            }
            moments.push((ms, last));
            tracker.observe(at(ms), (TERM, last), [(2, matched, is_heard)].into_iter());
            let in_grace = ms <= moments[0].0 + 1_000;
            if in_sync(&tracker) == [2] && !in_grace {
                let had = moments.iter().any(|(then, of)| then + 10_000 >= ms && matched >= *of);
                prop_assert!(had, "step {}: {} of {} at {}", step, matched, last, ms);
            }
        }
    }
}
