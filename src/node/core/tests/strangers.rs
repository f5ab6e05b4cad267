//! What nodes say that they should not: before the handshake, in another's name, or twice.

use super::*;
use crate::protocol::envelope::Envelope;

/// A frame with any sender, as only a stranger makes it.
pub(super) fn frame(kind: Kind, change: impl FnOnce(&mut Outgoing<'_>)) -> Bytes {
    let mut outgoing = Outgoing {
        kind,
        format: Format::MessagePack,
        code: 0,
        sequence: 0,
        request: RequestId::NONE,
        from: Incarnation(666),
        to: Incarnation::UNKNOWN,
        time_left: None,
        sent_ms: 0,
        subject: "",
        payload: b"",
    };
    change(&mut outgoing);
    outgoing.encode()
}

pub(super) fn system_frame(from: Incarnation, message: &System) -> Bytes {
    let (kind, payload) = message.encode();
    frame(kind, |outgoing| {
        outgoing.from = from;
        outgoing.payload = payload.leak();
    })
}

pub(super) fn request_frame(
    from: Incarnation,
    to: Incarnation,
    sent_ms: u32,
    time_left: Option<Duration>,
) -> Bytes {
    frame(Kind::Request, |outgoing| {
        (outgoing.from, outgoing.to) = (from, to);
        (outgoing.sent_ms, outgoing.time_left) = (sent_ms, time_left);
        (outgoing.request, outgoing.subject) = (RequestId(1), "math.sum");
    })
}

pub(super) fn decode(frame: &Bytes) -> Envelope {
    Envelope::decode(frame, &crate::protocol::envelope::Limits::default()).expect("our own frame")
}

fn greeting(node: &str, incarnation: u64, cluster: &str) -> Greeting {
    Identity::new(cluster, node.parse().unwrap(), Incarnation(incarnation)).greeting()
}

/// What a node that nobody has joined answers to one frame from nowhere.
fn answers(world: &mut World, node: usize, route: Route, frame: Bytes) -> Vec<Envelope> {
    let now = world.now;
    let core = &mut world.nodes[node].core;
    core.handle_transport(now, transport::Event::Message { route, sender: None, message: frame });
    let sent = std::iter::from_fn(|| core.poll_send());
    sent.map(|outbound| decode(&outbound.frame)).collect()
}

fn nowhere(number: u64) -> Route {
    Route::Downstream(RoutingId::new(Incarnation(666), number))
}

fn rejected(world: &World, node: usize, reason: &str) -> u64 {
    world.counters(node).rejected.get(reason).copied().unwrap_or(0)
}

/// Before the handshake nobody is anybody: requests are refused, ticks dropped, both counted.
#[test]
fn nothing_is_delivered_before_the_handshake() {
    let mut world = World::pair();
    let to = world.nodes[1].core.identity().incarnation;
    let request = request_frame(Incarnation(666), to, 0, None);
    let answers = answers(&mut world, 1, nowhere(1), request.clone());
    let kinds: Vec<(Kind, u16)> = answers.iter().map(|a| (a.kind, a.code)).collect();
    let refused = (Kind::Error, ErrorCode::ProtocolNotReady.number());
    assert_eq!(kinds, [refused, (Kind::HelloAgain, 0)]);
    let tick = frame(Kind::Tick, |outgoing| {
        (outgoing.subject, outgoing.to) = ("math.sum", to);
    });
    world.inject(1, nowhere(1), tick);
    assert_eq!(rejected(&world, 1, "not_joined"), 2);
    // The same request from one who has joined, in another's name.
    let route = world.route(1, 0);
    world.inject(1, route, request);
    assert_eq!(rejected(&world, 1, "not_joined"), 3);
    assert!(world.nodes[1].deliveries.is_empty());
}

/// A request that was meant for an earlier life of ours must not run in this one.
#[test]
fn request_for_another_incarnation_is_refused() {
    let mut world = World::pair();
    let from = world.nodes[0].core.identity().incarnation;
    let route = world.route(1, 0);
    world.inject(1, route, request_frame(from, Incarnation(12_345), 0, None));
    assert!(world.nodes[1].deliveries.is_empty());
    assert_eq!(rejected(&world, 1, "not_joined"), 1);
}

/// A greeting that comes twice is answered twice and changes nothing; one that claims to be
/// somebody else gets the reason and nothing else.
#[test]
fn greetings_that_contradict_what_is_known_are_refused() {
    let mut world = World::pair();
    let life = |world: &World, node: usize| world.nodes[node].core.identity().incarnation.0;
    let (a, b) = (life(&world, 0), life(&world, 1));
    world.story(1);
    let again = System::Hello(greeting("a", a, "test"));
    let route = world.route(1, 0);
    world.inject(1, route, system_frame(Incarnation(a), &again));
    assert!(world.story(1).is_empty(), "nobody joined or left");
    for (hello, reason) in [
        (greeting("a", 666, "test"), RefuseReason::DuplicateId),
        (greeting("b", 666, "test"), RefuseReason::DuplicateId),
        (greeting("b", b, "test"), RefuseReason::Itself),
        (greeting("x", 666, "other"), RefuseReason::Cluster),
        (Greeting { version: 9, ..greeting("x", 666, "test") }, RefuseReason::Version),
    ] {
        let from = hello.incarnation;
        let hello = system_frame(from, &System::Hello(hello));
        let answers = answers(&mut world, 1, nowhere(2), hello);
        let [answer] = &answers[..] else { panic!("{answers:?}") };
        let System::Refuse(refusal) = System::decode(answer.kind, &answer.payload).unwrap() else {
            panic!("{answer:?}");
        };
        assert_eq!(refusal.reason, reason);
    }
    world.settle();
    assert_eq!(world.peers(1), ["a"], "the one that is known stays");
    // The envelope and the greeting within disagree about the sender.
    let forged = system_frame(Incarnation(667), &System::Hello(greeting("x", 666, "test")));
    assert!(answers(&mut world, 1, nowhere(3), forged).is_empty());
    assert_eq!(rejected(&world, 1, "system_not_allowed"), 1);
}

/// One who has joined greets as somebody else by the same route: it is that peer then, and the
/// old one has left. It cannot be both.
#[test]
fn one_route_is_one_peer() {
    let mut world = World::pair();
    world.nodes[0].paused = true;
    world.story(1);
    let route = world.route(1, 0);
    let hello = System::Hello(greeting("x", 666, "test"));
    world.inject(1, route, system_frame(Incarnation(666), &hello));
    let story = [
        "server: client a left, superseded",
        "node: a left Downstream, superseded",
        "server: client x joined",
        "node: x joined Downstream",
    ];
    assert_eq!(world.story(1), story);
    assert_eq!(world.peers(1), ["x"]);
}

/// An incarnation that was replaced must not take its name back from its successor.
#[test]
fn replaced_incarnation_is_refused() {
    let mut world = World::pair();
    let old = world.nodes[0].core.identity().incarnation.0;
    world.kill(0);
    world.run_to(4.0);
    world.nodes[0].alive = true;
    world.restart(0, false);
    world.connect(0, 1);
    world.run_for(1.0);
    assert_eq!(world.peers(1), ["a"]);
    world.nodes[0].core.stop(world.now);
    world.run_for(1.0);
    assert!(world.peers(1).is_empty());
    let hello = System::Hello(greeting("a", old, "test"));
    let answers = answers(&mut world, 1, nowhere(4), system_frame(Incarnation(old), &hello));
    let refusal = System::decode(answers[0].kind, &answers[0].payload).unwrap();
    let System::Refuse(refusal) = refusal else { panic!("{refusal:?}") };
    assert_eq!(refusal.reason, RefuseReason::Stale);
}

/// Numbers of pings mean nothing but "the same one comes back".
#[test]
fn pings_may_jump() {
    let mut world = World::pair();
    let from = world.nodes[0].core.identity().incarnation;
    let route = world.route(1, 0);
    for number in [u64::MAX, 0, 7] {
        let ping = system_frame(from, &System::Ping(Ping { number, revision: 0 }));
        let answers = answers(&mut world, 1, route, ping);
        let pong = System::decode(answers[0].kind, &answers[0].payload).unwrap();
        assert_eq!(pong, System::Pong(Ping { number, revision: 0 }));
    }
    // A ping in the name of another incarnation is a ping of nobody who has joined.
    let to = world.nodes[1].core.identity().incarnation;
    let other = Incarnation(77);
    let forged = system_frame(other, &System::Ping(Ping { number: 1, revision: 0 }));
    world.run_to(5.0);
    world.silence(0, 1);
    for second in 6..=15 {
        world.run_to(f64::from(second));
        if world.peers(1).is_empty() {
            break;
        }
        world.inject(1, route, forged.clone());
        world.inject(1, route, request_frame(other, to, 0, None));
        world.inject(1, route, request_frame(from, other, 0, None));
    }
    assert!(
        world.peers(1).is_empty(),
        "the ghost was kept alive by what is not from it, or not for us"
    );
}

/// Only the peer that was asked may answer, and only by the route it was asked on.
#[test]
fn replies_from_elsewhere_are_ignored() {
    let mut world = World::pair();
    world.add(listens_not);
    world.connect(2, 1);
    world.settle();
    // b asks a; c, which has joined too, answers.
    let request = world.request(1, 0, 5.0, 1).expect("sent");
    world.settle();
    let life = |world: &World, node: usize| world.nodes[node].core.identity().incarnation;
    let (c, b) = (life(&world, 2), life(&world, 1));
    let reply = |from| {
        frame(Kind::Reply, |outgoing| {
            (outgoing.from, outgoing.to, outgoing.request) = (from, b, request);
        })
    };
    let route = world.route(1, 2);
    world.inject(1, route, reply(c));
    assert_eq!(world.counters(1).misrouted_replies, 1);
    // Somebody who has not joined, and a joined one in another's name.
    world.inject(1, nowhere(1), reply(c));
    let route = world.route(1, 0);
    world.inject(1, route, reply(c));
    assert_eq!(rejected(&world, 1, "not_joined"), 2);
    assert!(world.nodes[1].resolved.is_empty(), "still waiting for a");
    world.inject(1, route, reply(life(&world, 0)));
    assert_eq!(world.nodes[1].resolved.len(), 1);
    // Unknown ids, and the same reply again.
    let route = world.route(1, 0);
    world.inject(1, route, reply(life(&world, 0)));
    assert_eq!(world.counters(1).late_replies, 1);
}

/// A joined peer that pings for ever and reads nothing costs a bounded amount of memory.
#[test]
fn answers_to_pings_have_a_limit() {
    let mut world = World::pair();
    let from = world.nodes[0].core.identity().incarnation;
    let route = world.route(1, 0);
    world.nodes[1].full = true;
    for number in 0..10_000 {
        let message = system_frame(from, &System::Ping(Ping { number, revision: 0 }));
        let now = world.now;
        let event = transport::Event::Message { route, sender: None, message };
        world.nodes[1].core.handle_transport(now, event);
    }
    assert!(world.nodes[1].core.links().peek(route).unwrap().queued() < 100);
    assert!(world.counters(1).dropped_full > 9_000);
}

/// Strangers cannot fill our memory with answers that nobody fetches either.
#[test]
fn answers_to_strangers_have_a_limit() {
    let mut world = World::default();
    world.add(|_| {});
    let to = world.nodes[0].core.identity().incarnation;
    let now = world.now;
    for number in 0..10_000 {
        let message = request_frame(Incarnation(666), to, 0, None);
        let event = transport::Event::Message { route: nowhere(number), sender: None, message };
        world.nodes[0].core.handle_transport(now, event);
    }
    let core = &mut world.nodes[0].core;
    let answers = std::iter::from_fn(|| core.poll_send()).count();
    assert_eq!(answers, STRAY_SENDS_MAX);
    assert!(core.counters().dropped_full >= 10_000 - STRAY_SENDS_MAX as u64);
}
