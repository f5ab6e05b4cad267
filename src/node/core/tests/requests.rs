//! What becomes of requests and ticks: delivered once, answered once, or failed at once.

use super::strangers::frame;
use super::*;
use crate::mutant::{Mutant, breaks};

/// The errors of resolved requests, by ticket.
fn errors(world: &World, node: usize) -> Vec<(u32, Option<RequestError>)> {
    let resolved = &world.nodes[node].resolved;
    resolved.iter().map(|(ticket, result)| (*ticket, result.clone().err())).collect()
}

fn tick(world: &mut World, from: usize, to: usize) -> Result<(), TickError> {
    let now = world.now;
    world.nodes[from].core.tick(now, name(to).as_str(), message("metrics.cpu", b"1"))
}

#[test]
fn reply_resolves_its_request_once() {
    let mut world = World::pair();
    world.nodes[1].echo = true;
    world.request(0, 1, 5.0, 1).expect("sent");
    world.settle();
    let (ticket, reply) = world.nodes[0].resolved.pop().unwrap();
    assert_eq!((ticket, reply.unwrap().payload), (1, Bytes::from_static(b"12")));
    let delivery = &world.nodes[1].deliveries[0];
    assert_eq!((delivery.peer.clone(), delivery.subject.as_str()), (name(0), "math.sum"));
    assert_eq!(delivery.deadline, Some(world.now + Duration::from_secs(5)));
    world.run_for(30.0);
    assert!(world.nodes[0].resolved.is_empty(), "resolved twice");
    assert_eq!(world.nodes[0].core.in_flight(), 0);
}

/// Waiting for a timeout would be no failure detection at all.
#[test]
fn requests_in_flight_fail_at_once_and_once_when_the_peer_leaves() {
    let mut world = World::pair();
    for ticket in 1..=3 {
        world.request(0, 1, 60.0, ticket).expect("sent");
    }
    world.settle();
    assert_eq!(world.nodes[1].deliveries.len(), 3);
    world.cut(0, 1);
    world.settle();
    let lost = || Some(RequestError::PeerLost { peer: name(1) });
    assert_eq!(errors(&world, 0), [(1, lost()), (2, lost()), (3, lost())]);
    world.heal(0, 1);
    world.run_for(120.0);
    assert_eq!(world.nodes[0].resolved.len(), 3, "and never again");
    assert_eq!(world.counters(0).requests_lost, 3);
    assert_eq!(world.nodes[1].deliveries.len(), 3, "and nothing was sent again");
}

#[test]
fn request_to_nobody_fails_at_once_and_sends_nothing() {
    let mut world = World::pair();
    let before = world.counters(0).sent;
    let no_peer = RequestError::NoPeer { peer: "c".to_owned() };
    assert_eq!(world.request(0, 2, 5.0, 1), Err(no_peer));
    assert_eq!(tick(&mut world, 0, 2), Err(TickError::NoPeer { peer: "c".to_owned() }));
    world.settle();
    assert_eq!(world.counters(0).sent, before);
    world.story(0);
    let nobody = world.nodes[0].core.choose(&Filter::label("role", "none"), &Choice::Random);
    assert_eq!(nobody, None);
    world.settle();
    assert_eq!(world.story(0), ["error: NO_NODES_MATCH_FILTER"]);
    assert!(world.nodes[0].core.choose_all(&Filter::label("role", "none")).is_empty());
    world.settle();
    assert_eq!(world.story(0), ["error: NO_NODES_MATCH_FILTER"]);
}

#[test]
fn timeout_comes_at_the_deadline_of_the_call() {
    let mut world = World::pair();
    world.request(0, 1, 1.5, 1).expect("sent");
    world.run_to(1.499);
    assert!(world.nodes[0].resolved.is_empty());
    world.run_to(1.5);
    let after = Duration::from_secs_f64(1.5);
    assert_eq!(errors(&world, 0), [(1, Some(RequestError::Timeout { peer: name(1), after }))]);
    assert_eq!(world.counters(0).requests_timed_out, 1);
    let delivery = world.nodes[1].deliveries[0].clone();
    let now = world.now;
    for _ in 0..2 {
        let core = &mut world.nodes[1].core;
        core.reply(now, delivery.reply_to(), Format::Raw, b"late");
    }
    world.settle();
    assert_eq!(world.counters(0).late_replies, 2, "late, and late again");
    assert_eq!(world.nodes[0].resolved.len(), 1);
}

/// The receiver stands still for longer than the caller waits: running the handler then would do
/// work that nobody wants, and perhaps for the second time.
#[test]
fn requests_that_come_too_late_are_not_executed() {
    let mut world = World::pair();
    // Lateness is measured against the quickest delivery that was seen.
    world.request(0, 1, 1.0, 1).expect("sent");
    world.settle();
    assert_eq!(world.nodes[1].deliveries.len(), 1);
    world.nodes[1].paused = true;
    world.request(0, 1, 1.0, 2).expect("sent");
    world.request(0, 1, 5.0, 3).expect("sent");
    tick(&mut world, 0, 1).expect("sent");
    world.run_for(3.0);
    world.nodes[1].paused = false;
    world.settle();
    let node = &world.nodes[1];
    assert_eq!(node.deliveries.len(), 3, "the first, the patient one and the tick");
    assert_eq!(node.core.counters().expired, 1);
    let left = node.deliveries[1].deadline.unwrap() - world.now;
    assert_eq!(left, Duration::from_secs(2), "what was spent on the way is gone");
}

/// The receiver's answer to a request that came too late reaches a caller that still waits, such
/// as one whose clock runs slower.
#[test]
fn expired_request_is_refused_as_such() {
    let mut world = World::pair();
    world.nodes[0].paused = true;
    world.nodes[1].paused = true;
    let (now, route) = (world.now, world.route(1, 0));
    let from = world.nodes[0].core.identity().incarnation;
    let to = world.nodes[1].core.identity().incarnation;
    let frame =
        |sent_ms| strangers::request_frame(from, to, sent_ms, Some(Duration::from_millis(10)));
    let core = &mut world.nodes[1].core;
    core.handle_transport(
        now,
        transport::Event::Message { route, sender: None, message: frame(5_000) },
    );
    core.handle_transport(
        now,
        transport::Event::Message { route, sender: None, message: frame(4_000) },
    );
    let delivered = std::iter::from_fn(|| core.poll_output());
    assert_eq!(delivered.filter(|o| matches!(o, Output::Deliver(_))).count(), 1);
    let answer = strangers::decode(&core.poll_send().expect("an answer").frame);
    assert_eq!((answer.kind, answer.code), (Kind::Error, ErrorCode::Expired.number()));
}

/// A full queue is the caller's to know: nothing is dropped behind its back, and nothing waits
/// without a limit.
#[test]
fn full_queue_refuses_requests_and_ticks() {
    let mut world = World::pair();
    world.nodes[0].full = true;
    for number in 0..100 {
        match number % 2 {
            0 => drop(world.request(0, 1, 5.0, number).expect("room for 100")),
            _ => tick(&mut world, 0, 1).expect("room for 100"),
        }
        world.settle();
    }
    assert_eq!(world.request(0, 1, 5.0, 100), Err(RequestError::Full { peer: name(1) }));
    assert_eq!(tick(&mut world, 0, 1), Err(TickError::Full { peer: name(1) }));
    assert_eq!(world.counters(0).ticks_refused_full, 1);
    assert_eq!(world.nodes[0].core.in_flight(), 50);
    world.unblock(0);
    let order: Vec<bool> =
        world.nodes[1].deliveries.iter().map(|d| d.request != RequestId::NONE).collect();
    assert_eq!(order, [true, false].repeat(50), "all of them, in their order");
    assert_eq!(world.counters(1).lost_on_links, 0);
}

/// So many requests may be in flight, and no more.
#[test]
fn table_of_requests_in_flight_has_a_limit() {
    let mut world = World::default();
    world.add(|settings| settings.in_flight_max = 2);
    world.add(|_| {});
    world.connect(0, 1);
    world.settle();
    let first = world.request(0, 1, 5.0, 1).expect("room");
    world.request(0, 1, 5.0, 2).expect("room");
    assert_eq!(world.request(0, 1, 5.0, 3), Err(RequestError::Full { peer: name(1) }));
    world.nodes[0].core.cancel(first);
    world.request(0, 1, 5.0, 4).expect("a place was freed");
    let views = world.nodes[0].core.peers().views(|_| 0);
    assert_eq!(views[0].in_flight, 2);
}

/// Who says too much in a second is refused, or dropped and counted; others are served, and so is he
/// a second later.
#[test]
fn peer_that_says_too_much_is_told_and_others_are_served() {
    let mut world = World::default();
    world.add(listens_not);
    world.add(|settings| settings.peer_rate = NonZeroU32::new(10));
    world.add(listens_not);
    world.connect(0, 1);
    world.connect(2, 1);
    world.settle();
    world.nodes[1].echo = true;
    for number in 0..15 {
        world.request(0, 1, 5.0, number).expect("sent");
    }
    tick(&mut world, 0, 1).expect("sent");
    world.settle();
    let refused = |world: &World| {
        let busy = |(_, result): &&(u32, Result<Reply, RequestError>)| {
            matches!(result, Err(RequestError::Handler { code: ErrorCode::Busy, .. }))
        };
        world.nodes[0].resolved.iter().filter(busy).count()
    };
    assert_eq!((refused(&world), world.counters(1).over_rate), (5, 6));
    assert_eq!(world.nodes[1].deliveries.len(), 10);
    world.request(2, 1, 5.0, 1).expect("sent");
    world.settle();
    assert!(matches!(world.nodes[2].resolved[..], [(1, Ok(_))]), "another peer is served");
    world.run_for(1.0);
    world.request(0, 1, 5.0, 15).expect("sent");
    world.settle();
    assert_eq!(refused(&world), 5, "a second later he is served");
}

/// A peer asks ten thousand times and reads no answer: its answers are dropped and counted, its
/// queue stays within its limit, and others are served.
#[test]
fn replies_to_a_requester_that_does_not_read_are_dropped() {
    let mut world = World::pair();
    world.add(listens_not);
    world.connect(2, 1);
    world.settle();
    world.nodes[1].echo = true;
    world.nodes[1].full = true;
    for number in 0..10_000 {
        world.request(0, 1, 5.0, number).ok();
        world.settle();
        if number % 50 == 49 {
            world.run_for(0.001);
        }
    }
    let asked = world.nodes[1].deliveries.len() as u64;
    let waiting = world.nodes[1].core.links().peek(world.route(1, 0)).unwrap().queued() as u64;
    assert_eq!(waiting, 100, "the limit");
    assert_eq!(world.counters(1).replies_dropped_full, asked - waiting);
    world.nodes[1].full = false;
    world.request(2, 1, 5.0, 1).expect("sent");
    world.settle();
    assert!(matches!(world.nodes[2].resolved[..], [(1, Ok(_))]), "another peer is served");
}

#[test]
fn invalid_messages_are_refused_before_anything_happens() {
    let mut world = World::pair();
    let now = world.now;
    let large = vec![0; 64 * 1024 + 1];
    let core = &mut world.nodes[0].core;
    let mut tick = |subject, payload| core.tick(now, "b", message(subject, payload)).unwrap_err();
    let invalid = TickError::Invalid;
    let system = InvalidMessage::SystemSubject("_raft.vote".to_owned());
    assert_eq!(tick("_raft.vote", b""), invalid(system));
    assert_eq!(tick("a..b", b""), invalid(InvalidMessage::Subject("a..b".to_owned())));
    assert_eq!(tick("", b""), invalid(InvalidMessage::Subject(String::new())));
    let too_large = InvalidMessage::TooLarge { bytes: large.len(), max: 64 * 1024 };
    assert_eq!(tick("a", &large), invalid(too_large));
    assert!(tick("a", &large).to_string().contains("65536"), "the error names the limit");
}

/// A reply over the limit becomes an error that names the limit, instead of a reply that the
/// requester's side would have to drop.
#[test]
fn reply_over_the_limit_becomes_an_error_that_names_it() {
    let mut world = World::pair();
    world.request(0, 1, 5.0, 1).expect("sent");
    world.settle();
    let delivery = world.nodes[1].deliveries[0].clone();
    let (now, large) = (world.now, vec![0; 64 * 1024 + 1]);
    world.nodes[1].core.reply(now, delivery.reply_to(), Format::Raw, &large);
    world.settle();
    let Some((1, Some(RequestError::Handler { code, message, .. }))) = errors(&world, 0).pop()
    else {
        panic!("{:?}", errors(&world, 0));
    };
    assert_eq!(code, ErrorCode::HandlerError, "the handler has run");
    assert!(message.contains("65536"), "{message}");
}

/// What one side counts as sent the other counts as received, and every request has one outcome.
#[test]
fn counters_add_up() {
    let mut world = World::pair();
    world.nodes[1].echo = true;
    for number in 0..200 {
        world.request(0, 1, 2.0, number).expect("sent");
        tick(&mut world, 0, 1).expect("sent");
        if number % 3 == 0 {
            world.run_for(0.1);
        }
        if number % 50 == 49 {
            // Nothing is on its way when the connection breaks, so nothing is lost uncounted.
            world.settle();
            world.cut(0, 1);
            world.settle();
            world.heal(0, 1);
            world.settle();
        }
    }
    world.run_for(10.0);
    let (dialer, listener) = (world.counters(0), world.counters(1));
    assert_eq!(dialer.sent, listener.received);
    assert_eq!(listener.sent, dialer.received);
    assert_eq!(world.nodes[0].resolved.len(), 200);
    assert_eq!(world.nodes[1].deliveries.len(), 400);
    for counters in [dialer, listener] {
        assert_eq!((counters.lost_on_links, counters.late_replies, counters.expired), (0, 0, 0));
        assert!(counters.rejected.is_empty(), "{:?}", counters.rejected);
    }
}

/// The id of a request may mean another one to an earlier life of the same peer.
#[test]
fn replies_of_another_life_are_for_nobody() {
    let promise = || {
        let mut world = World::pair();
        let request = world.request(0, 1, 5.0, 1).expect("sent");
        let to = world.nodes[0].core.identity().incarnation;
        let reply = frame(Kind::Reply, |outgoing| {
            (outgoing.from, outgoing.to) = (Incarnation(12_345), to);
            outgoing.request = request;
        });
        let route = world.route(0, 1);
        world.inject(0, route, reply);
        assert!(world.nodes[0].resolved.is_empty());
    };
    assert!(breaks(Mutant::ReplyOfAnyLife, promise));
}
