//! Tests of `requests`.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::transport::LinkId;

const A: Route = Route::Upstream(LinkId(1));
const B: Route = Route::Upstream(LinkId(2));

fn at(seconds: u64) -> Time {
    Time::from_start(Duration::from_secs(seconds))
}

/// A second reply must not reach the next request of the same slot.
#[test]
fn reply_is_accepted_once() {
    let mut requests = Requests::new(8, 1);
    let first = requests.insert(at(5), A, "first").unwrap();
    assert_eq!(requests.complete(first, A), Some("first"));
    let second = requests.insert(at(5), A, "second").unwrap();
    assert_ne!(first, second);
    assert_eq!(requests.complete(first, A), None);
    assert_eq!(requests.counters().replies_late, 1);
    assert_eq!(requests.complete(second, A), Some("second"));
}

/// A peer that guesses ids must not be able to answer for another, nor to stop its answer.
#[test]
fn reply_from_another_route_is_not_accepted() {
    let mut requests = Requests::new(8, 1);
    let id = requests.insert(at(5), A, ()).unwrap();
    assert_eq!(requests.complete(id, B), None);
    assert_eq!(requests.counters().replies_misrouted, 1);
    assert_eq!(requests.route(id), Some(A));
    assert_eq!(requests.complete(id, A), Some(()));
}

/// Ids that were never given out come from strangers.
#[test]
fn unknown_ids_are_late_replies() {
    let mut requests = Requests::<()>::new(8, 1);
    for id in [0, 1, u64::MAX, 1 << 32] {
        assert_eq!(requests.complete(RequestId(id), A), None);
        assert_eq!(requests.cancel(RequestId(id)), None);
    }
    assert_eq!(requests.counters().replies_late, 4);
}

/// The timer asks once, and each request expires once, in the order of deadlines.
#[test]
fn requests_expire_in_order_and_not_early() {
    let mut requests = Requests::new(8, 1);
    let late = requests.insert(at(9), A, "late").unwrap();
    let early = requests.insert(at(3), B, "early").unwrap();
    assert_eq!(requests.next_deadline(), Some(at(3)));
    assert_eq!(requests.poll_expired(at(2)), None);
    assert_eq!(requests.poll_expired(at(3)), Some((early, "early")));
    assert_eq!(requests.poll_expired(at(3)), None);
    assert_eq!(requests.next_deadline(), Some(at(9)));
    assert_eq!(requests.cancel(late), Some("late"));
    assert_eq!(requests.next_deadline(), None, "a deadline without a request");
    assert_eq!(requests.poll_expired(at(99)), None);
    assert_eq!(requests.counters().expired, 1);
    assert_eq!(requests.complete(early, B), None);
}

/// A lost link fails what was sent on it, at once, and nothing else.
#[test]
fn lost_route_fails_its_requests_only() {
    let mut requests = Requests::new(8, 1);
    let ids: Vec<_> =
        [A, B, A].into_iter().map(|route| requests.insert(at(5), route, route).unwrap()).collect();
    assert_eq!(requests.fail_route(A), [(ids[0], A), (ids[2], A)]);
    assert_eq!(requests.fail_route(A), []);
    assert_eq!(requests.len(), 1);
    assert_eq!(requests.complete(ids[1], B), Some(B));
}

/// The ticket comes back, and a reply makes room for another.
#[test]
fn limit_holds_and_gives_the_ticket_back() {
    let mut requests = Requests::new(2, 1);
    let first = requests.insert(at(5), A, 1).unwrap();
    requests.insert(at(5), A, 2).unwrap();
    assert_eq!(requests.insert(at(5), A, 3), Err(Full { ticket: 3 }));
    requests.complete(first, A).unwrap();
    assert!(requests.insert(at(5), A, 3).is_ok());
}

/// 300,000 requests a second with five seconds each must not keep 1.5 million dead deadlines, even
/// behind one request that stays.
#[test]
fn answered_requests_do_not_pile_up_in_the_heap() {
    let mut requests = Requests::new(1_000, 1);
    let stays = requests.insert(at(1), A, 0).unwrap();
    for n in 0..100_000 {
        let id = requests.insert(at(2 + n), A, n).unwrap();
        assert_eq!(requests.complete(id, A), Some(n));
        assert!(requests.deadlines.len() <= 3 * requests.len() + STALE_MIN + 1);
    }
    assert_eq!(requests.slots.len(), 2);
    assert_eq!(requests.next_deadline(), Some(at(1)));
    assert_eq!(requests.poll_expired(at(1)), Some((stays, 0)));
    assert_eq!(requests.deadlines.len(), 0);
}

/// When generations wrap, no request gets the id that stands for "no request".
#[test]
fn no_id_is_none_even_when_generations_wrap() {
    for first_generation in [0, u32::MAX] {
        let mut requests = Requests::new(1, first_generation);
        for _ in 0..3 {
            let id = requests.insert(at(1), A, ()).unwrap();
            assert_ne!(id, RequestId::NONE);
            assert_eq!(requests.complete(id, A), Some(()));
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Cancel(usize),
    Complete(usize, bool),
    Expire(u64),
    Fail(bool),
    Insert(u64, bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        1 => any::<usize>().prop_map(Step::Cancel),
        6 => any::<(usize, bool)>().prop_map(|(nth, route)| Step::Complete(nth, route)),
        2 => (0..50_u64).prop_map(Step::Expire),
        1 => any::<bool>().prop_map(Step::Fail),
        8 => (0..50_u64, any::<bool>()).prop_map(|(after, route)| Step::Insert(after, route)),
    ];
    prop::collection::vec(step, 0..400)
}

fn route(is_a: bool) -> Route {
    if is_a { A } else { B }
}

proptest! {
    /// Against a model that is an ordered map: every ticket leaves once, for the right reason, and
    /// deadlines are those of the requests in flight.
    #[test]
    fn behaves_like_an_ordered_map(steps in steps()) {
        let mut requests = Requests::new(40, 7);
        let mut model = BTreeMap::<RequestId, (Time, Route, usize)>::new();
        let mut given = Vec::new();
        let mut now = Time::ZERO;
        for (ticket, step) in steps.into_iter().enumerate() {
            let nth = |nth: usize| given.get(nth % given.len().max(1)).copied();
            match step {
                Step::Cancel(n) => {
                    let id = nth(n).unwrap_or(RequestId::NONE);
                    prop_assert_eq!(requests.cancel(id), model.remove(&id).map(|r| r.2));
                }
                Step::Complete(n, is_a) => {
                    let id = nth(n).unwrap_or(RequestId::NONE);
                    let matches = model.get(&id).is_some_and(|r| r.1 == route(is_a));
                    let expected = if matches { model.remove(&id) } else { None };
                    prop_assert_eq!(requests.complete(id, route(is_a)), expected.map(|r| r.2));
                }
                Step::Expire(after) => {
                    now = now + Duration::from_secs(after);
                    while let Some((id, ticket)) = requests.poll_expired(now) {
                        let earliest = model.iter().map(|(id, r)| (r.0, *id)).min();
                        let (deadline, _, expected) = model.remove(&id).unwrap();
                        prop_assert_eq!(earliest, Some((deadline, id)));
                        prop_assert!(deadline <= now);
                        prop_assert_eq!(ticket, expected);
                    }
                    prop_assert!(model.values().all(|r| r.0 > now));
                }
                Step::Fail(is_a) => {
                    let mut failed = requests.fail_route(route(is_a));
                    failed.sort();
                    let (gone, left): (BTreeMap<_, _>, _) =
                        model.into_iter().partition(|(_, r)| r.1 == route(is_a));
                    model = left;
                    let gone: Vec<_> = gone.into_iter().map(|(id, r)| (id, r.2)).collect();
                    prop_assert_eq!(failed, gone);
                }
                Step::Insert(after, is_a) => {
                    let deadline = now + Duration::from_secs(after);
                    match requests.insert(deadline, route(is_a), ticket) {
                        Ok(id) => {
                            prop_assert!(!given.contains(&id), "an id came back");
                            given.push(id);
                            model.insert(id, (deadline, route(is_a), ticket));
                        }
                        Err(full) => {
                            prop_assert_eq!(full.ticket, ticket);
                            prop_assert_eq!(model.len(), 40);
                        }
                    }
                }
            }
            prop_assert_eq!(requests.len(), model.len());
            prop_assert_eq!(requests.next_deadline(), model.values().map(|r| r.0).min());
        }
    }
}
