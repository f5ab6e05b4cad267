//! Nodes in virtual time: who joins and leaves when, and what becomes of requests meanwhile.

use proptest::prelude::*;

use super::*;
use crate::client::ClientEvent;
use crate::id::Incarnation;
use crate::node::error::InvalidMessage;
use crate::node::event::Direction;
use crate::protocol::envelope::Outgoing;
use crate::protocol::system::{Greeting, Ping, RefuseReason, System};
use crate::server::ServerEvent;

mod requests;
mod standing;
mod strangers;
mod world;

use world::{World, listens_not, message, name};

// ---- the timelines of the architecture guide ---------------------------------------------------

/// The client's side of a lost connection: every layer reports at once, from the bottom up.
#[test]
fn dialing_side_notices_a_lost_connection_at_once_and_bottom_up() {
    let mut world = World::pair();
    world.run_to(0.5);
    world.story(0);
    world.cut(0, 1);
    world.settle();
    assert_eq!(
        world.story(0),
        [
            "transport: not ready",
            "client: NotReady",
            "client: server b left, connection_lost",
            "node: b left Upstream, connection_lost",
        ]
    );
    assert!(world.peers(0).is_empty());
    world.run_for(60.0);
    assert!(world.story(0).is_empty(), "it left once");
}

/// The server's side: nothing tells it, so it checks at 2, 4, 6 and 8 s, and at exactly 10 s of
/// silence the client is a ghost.
#[test]
fn dialed_side_checks_every_two_seconds_and_buries_after_ten() {
    let mut world = World::pair();
    world.story(1);
    world.cut(0, 1);
    let wakes = world.run_to(9.999);
    let checks: Vec<u64> = wakes.iter().map(|at| at.since_start().as_secs()).collect();
    assert_eq!(checks, [0, 2, 4, 6, 8], "0 is discovery, which has nobody to tell");
    assert_eq!(world.peers(1), ["a"], "buried early");
    assert!(world.story(1).is_empty());
    world.run_to(10.0);
    assert_eq!(world.story(1), ["server: client a left, ghost", "node: a left Downstream, ghost"]);
    assert!(world.peers(1).is_empty());
    world.run_to(100.0);
    assert!(world.story(1).is_empty(), "buried twice");
}

/// The ten steps of an upstream peer, and the seven of a downstream peer, in their order.
#[test]
fn lifecycles_are_those_of_the_guide() {
    let mut world = World::pair();
    let upstream = [
        "node: ready",
        "transport: ready",
        "client: Ready",
        "client: server b joined",
        "node: b joined Upstream",
    ];
    assert_eq!(world.story(0), upstream);
    let downstream = [
        "transport: ready",
        "server: Ready",
        "node: ready",
        "server: client a joined",
        "node: a joined Downstream",
    ];
    assert_eq!(world.story(1), downstream);
    world.run_to(30.0);
    assert!(world.story(0).is_empty() && world.story(1).is_empty(), "pings keep the link up");
    world.silence(0, 1);
    world.run_to(45.0);
    let buried = ["client: server b left, ghost", "node: b left Upstream, ghost"];
    assert_eq!(world.story(0)[..2], buried, "silence has the same end without a broken connection");
    let buried = ["server: client a left, ghost", "node: a left Downstream, ghost"];
    assert_eq!(world.story(1), buried);
    world.heal(0, 1);
    world.run_to(60.0);
    assert_eq!(world.peers(0), ["b"], "it comes back by itself");
}

/// A reconnect is a new handshake and a new join, and the listener sees the old one leave first.
#[test]
fn reconnect_joins_again() {
    let mut world = World::pair();
    world.cut(0, 1);
    world.run_to(1.0);
    world.story(0);
    world.story(1);
    world.heal(0, 1);
    world.settle();
    let joined = ["transport: ready", "client: Ready", "client: server b joined"];
    assert_eq!(world.story(0)[..3], joined);
    let moved = [
        "server: client a left, connection_lost",
        "node: a left Downstream, connection_lost",
        "server: client a joined",
        "node: a joined Downstream",
    ];
    assert_eq!(world.story(1), moved);
}

/// A message that the transport cannot deliver is proof enough: no need to wait for silence.
#[test]
fn unreachable_route_leaves_at_the_first_message() {
    let mut world = World::pair();
    world.cut(0, 1);
    assert_eq!(world.peers(1), ["a"], "a listener is not told");
    world.request(1, 0, 5.0, 1).expect("sent");
    world.request(1, 0, 5.0, 2).expect("sent");
    world.settle();
    assert!(world.peers(1).is_empty());
    let node = &world.nodes[1];
    let failed: Vec<_> = node.resolved.iter().map(|(ticket, _)| *ticket).collect();
    assert_eq!(failed, [1, 2]);
    assert_eq!(node.resolved[0].1.as_ref().unwrap_err().effect(), crate::Effect::None);
}

// ---- joins and leaves --------------------------------------------------------------------------

#[derive(Clone, Copy, Debug)]
enum Step {
    Connect(usize, usize),
    Cut(usize, usize),
    Disconnect(usize, usize),
    Heal(usize, usize),
    Kill(usize),
    Restart(usize),
    Silence(usize, usize),
    Wait(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let node = || 0..3_usize;
    let step = prop_oneof![
        2 => (node(), node()).prop_map(|(a, b)| Step::Connect(a, b)),
        3 => (node(), node()).prop_map(|(a, b)| Step::Cut(a, b)),
        1 => (node(), node()).prop_map(|(a, b)| Step::Disconnect(a, b)),
        3 => (node(), node()).prop_map(|(a, b)| Step::Heal(a, b)),
        1 => node().prop_map(Step::Kill),
        2 => node().prop_map(Step::Restart),
        2 => (node(), node()).prop_map(|(a, b)| Step::Silence(a, b)),
        4 => (0..15_000_u16).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 0..40)
}

fn take(world: &mut World, step: Step) {
    match step {
        Step::Connect(a, b) if world.nodes[a].alive => world.connect(a, b),
        Step::Cut(a, b) => world.cut(a, b),
        Step::Disconnect(a, b) if world.nodes[a].alive => {
            let (now, address) = (world.now, world.nodes[b].address.clone());
            world.nodes[a].core.disconnect(now, &address);
        }
        Step::Heal(a, b) => world.heal(a, b),
        Step::Kill(node) => world.kill(node),
        Step::Restart(node) if !world.nodes[node].alive => world.restart(node, true),
        Step::Silence(a, b) => world.silence(a, b),
        Step::Wait(ms) => world.run_for(f64::from(ms) / 1_000.0),
        Step::Connect(..) | Step::Disconnect(..) | Step::Restart(_) => {}
    }
    world.settle();
}

/// What joins and leaves say must be what routing does.
fn check_joins(world: &World) {
    for sim in world.nodes.iter().filter(|sim| sim.alive) {
        let mut up = BTreeSet::new();
        for (at, event) in &sim.events {
            if let Event::PeerJoined { peer, direction } = event {
                let new = up.insert((peer.node.clone(), *direction == Direction::Upstream));
                assert!(new, "{at}: {} joined {direction:?} twice", peer.node);
            }
            if let Event::PeerLeft { peer, direction, .. } = event {
                let was = up.remove(&(peer.clone(), *direction == Direction::Upstream));
                assert!(was, "{at}: {peer} left {direction:?} without having joined");
            }
        }
        let joined: BTreeSet<NodeId> = up.into_iter().map(|(node, _)| node).collect();
        let routable: BTreeSet<NodeId> = sim.core.matching(&Filter::any()).into_iter().collect();
        assert_eq!(joined, routable, "routable is exactly what has joined and not left");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    /// The peer table is the single truth, whatever happens to connections and processes: joins
    /// and leaves alternate for each peer and direction, and when the trouble is over everybody
    /// finds everybody again.
    #[test]
    fn joins_and_leaves_alternate_and_the_mesh_heals(steps in steps()) {
        let mut world = World::default();
        for _ in 0..3 {
            world.add(|settings| settings.gossip = true);
        }
        world.connect(1, 0);
        world.connect(2, 0);
        for step in steps {
            take(&mut world, step);
            check_joins(&world);
        }
        for node in 0..3 {
            take(&mut world, Step::Restart(node));
        }
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            world.heal(a, b);
            // Also takes back what a disconnect said.
            world.connect(a, b);
            world.connect(b, a);
        }
        world.run_for(200.0);
        check_joins(&world);
        prop_assert_eq!(world.peers(0), ["b", "c"]);
        prop_assert_eq!(world.peers(1), ["a", "c"]);
        prop_assert_eq!(world.peers(2), ["a", "b"]);
    }
}

/// One address is enough: a knows b, b knows c, and soon everybody is linked with everybody.
#[test]
fn chain_of_three_becomes_a_full_mesh() {
    let mut world = World::default();
    for _ in 0..3 {
        world.add(|settings| settings.gossip = true);
    }
    world.connect(0, 1);
    world.connect(1, 2);
    world.run_to(2.0);
    assert_eq!(world.peers(0), ["b", "c"]);
    assert_eq!(world.peers(2), ["a", "b"]);
    let views = world.nodes[0].core.peers().views(|_| 0);
    let both = [Direction::Upstream, Direction::Downstream];
    assert!(views.iter().all(|view| view.directions == both), "each dials each: {views:?}");
}

/// Without gossip the topology is what a person made it: who is dialed does not dial back.
#[test]
fn node_without_gossip_dials_seeds_only() {
    let mut world = World::default();
    for _ in 0..3 {
        world.add(|_| {});
    }
    world.connect(0, 1);
    world.connect(1, 2);
    world.run_to(100.0);
    let directions = |world: &World, node: usize| -> Vec<_> {
        let views = world.nodes[node].core.peers().views(|_| 0);
        views.into_iter().map(|view| (view.node, view.directions)).collect()
    };
    let (up, down) = (|| vec![Direction::Upstream], || vec![Direction::Downstream]);
    assert_eq!(directions(&world, 0), [(name(1), up())]);
    assert_eq!(directions(&world, 1), [(name(0), down()), (name(2), up())]);
    assert_eq!(directions(&world, 2), [(name(1), down())]);
}

/// Two links to one peer: it stays routable, and is reached by the one that is left.
#[test]
fn peer_that_is_linked_both_ways_stays_routable_when_one_link_goes() {
    let mut world = World::default();
    world.add(|_| {});
    world.add(|_| {});
    world.connect(0, 1);
    world.connect(1, 0);
    world.settle();
    world.nodes[1].echo = true;
    world.story(0);
    let address = world.nodes[1].address.clone();
    world.nodes[0].core.disconnect(world.now, &address);
    world.settle();
    let left =
        ["transport: closed", "client: server b left, stopped", "node: b left Upstream, stopped"];
    let mut story = world.story(0);
    story.sort_by_key(|line| left.iter().position(|l| l == line));
    assert_eq!(story, left);
    assert_eq!(world.peers(0), ["b"]);
    assert!(matches!(world.route(0, 1), Route::Downstream(_)));
    world.request(0, 1, 1.0, 7).expect("there is a link left");
    world.settle();
    assert!(matches!(world.nodes[0].resolved[..], [(7, Ok(_))]));
}

/// When the clock on the wall is set back by an hour, the dead are not alive for an hour more.
#[test]
fn steps_of_the_clock_on_the_wall_change_nothing() {
    let buries = |time_of_the_wall| {
        let mut world = World::default();
        world.time_of_the_wall = time_of_the_wall;
        world.wall_clock_step = Duration::from_secs(3_600);
        world.add(listens_not);
        world.add(|_| {});
        world.connect(0, 1);
        world.run_to(5.0);
        world.cut(0, 1);
        world.wall_clock_step = Duration::ZERO;
        world.run_for(20.0);
        world.story(1).iter().any(|line| line == "node: a left Downstream, ghost")
    };
    assert!(buries(false));
    assert!(!buries(true), "a node that goes by the clock on the wall is not caught");
}

/// A node that is dialed by two of its addresses has one link in the end; it must be routable all
/// the time, and the older link leaves before the newer one joins.
#[test]
fn second_address_of_a_peer_takes_over_the_link() {
    let mut world = World::pair();
    let other: Address = "tcp://b.test:7".parse().unwrap();
    world.story(0);
    let first = world.nodes[1].address.clone();
    world.nodes[0].core.connect(world.now, other.clone()).unwrap();
    world.nodes[1].address = other;
    world.settle();
    let story = world.story(0);
    let node: Vec<&String> = story.iter().filter(|line| line.starts_with("node")).collect();
    assert_eq!(node, ["node: b left Upstream, stopped", "node: b joined Upstream"]);
    assert_eq!(world.peers(0), ["b"]);
    world.nodes[1].echo = true;
    world.request(0, 1, 1.0, 1).expect("routable");
    world.run_for(60.0);
    assert!(matches!(world.nodes[0].resolved[..], [(1, Ok(_))]));
    assert!(world.story(0).is_empty(), "and it stays: {first} is not dialed again");
}

/// Dialing and giving up again and again must not leave anything behind.
#[test]
fn links_that_were_given_up_are_forgotten() {
    let mut world = World::pair();
    let address = world.nodes[1].address.clone();
    for _ in 0..10 {
        world.nodes[0].core.disconnect(world.now, &address);
        world.run_for(1.0);
        assert!(world.peers(0).is_empty() && world.peers(1).is_empty(), "the goodbye is heard");
        assert_eq!(world.nodes[0].core.links().len(), 0);
        assert_eq!(world.nodes[1].core.links().len(), 0);
        world.connect(0, 1);
        world.settle();
        assert_eq!(world.peers(0), ["b"]);
    }
}

/// A transport that cannot open a link, for want of descriptors say, is asked again later.
#[test]
fn link_that_could_not_be_opened_is_dialed_again() {
    let mut world = World::default();
    world.add(listens_not);
    world.add(|_| {});
    world.connect(0, 1);
    let link = LinkId(1);
    let reason = "too many open files".to_owned();
    let now = world.now;
    world.nodes[0].core.handle_transport(now, transport::Event::Closed { link, reason });
    world.run_to(29.0);
    assert!(world.story(0).contains(&"error: REFUSED".to_owned()));
    world.run_to(31.0);
    assert_eq!(world.peers(0), ["b"]);
}

/// Labels travel to both sides of a link, and with the greeting to whoever joins later.
#[test]
fn labels_reach_both_directions_and_later_joiners() {
    let mut world = World::default();
    for _ in 0..3 {
        world.add(|_| {});
    }
    world.connect(0, 1);
    world.settle();
    for (node, role) in [(0, "left"), (1, "right")] {
        let labels = Labels::from([("role".to_owned(), role.to_owned())]);
        world.nodes[node].core.set_labels(world.now, labels);
    }
    world.story(0);
    world.settle();
    world.connect(2, 1);
    world.settle();
    let joined_with = |world: &World, node: usize, role: &str| {
        world.nodes[node].core.matching(&Filter::label("role", role))
    };
    assert_eq!(joined_with(&world, 0, "right"), [name(1)]);
    assert_eq!(joined_with(&world, 1, "left"), [name(0)]);
    assert_eq!(joined_with(&world, 2, "right"), [name(1)]);
    assert!(world.story(0).iter().any(|line| line.starts_with("node: labels of b")));
}

/// Everybody hears of a stop at once, and what was accepted before it still arrives.
#[test]
fn stop_says_goodbye_to_everybody_and_delivers_what_was_accepted() {
    let mut world = World::default();
    for _ in 0..3 {
        world.add(|_| {});
    }
    world.connect(0, 1);
    world.connect(2, 0);
    world.settle();
    for node in 0..3 {
        world.story(node);
    }
    world.request(0, 1, 5.0, 1).expect("sent");
    world.request(0, 2, 5.0, 2).expect("sent");
    let now = world.now;
    world.nodes[0].core.tick(now, "b", message("last.words", b"")).expect("sent");
    world.nodes[0].core.stop(now);
    world.nodes[0].core.stop(now);
    world.settle();
    let stopped: Vec<_> =
        world.nodes[0].resolved.iter().map(|(t, r)| (*t, r.clone().err())).collect();
    assert_eq!(stopped, [(1, Some(RequestError::Stopped)), (2, Some(RequestError::Stopped))]);
    assert_eq!(world.nodes[1].deliveries.len(), 2, "the request and the tick");
    assert!(world.story(1).contains(&"node: a left Downstream, goodbye".to_owned()));
    assert!(world.story(2).contains(&"node: a left Upstream, goodbye".to_owned()));
    let story = world.story(0);
    let end = [
        "transport: closed",
        "server: Closed { reason: \"the node stops\" }",
        "transport: closed",
        "node: stopped",
    ];
    assert!(story.ends_with(&end.map(str::to_owned)), "{story:?}");
    assert!(world.nodes[0].core.is_drained());
    world.cut(0, 1);
    world.cut(0, 2);
    world.settle();
    assert!(world.story(0).is_empty(), "a stopped node has nothing to tell");
    assert_eq!(world.request(0, 1, 5.0, 3), Err(RequestError::Stopped));
}

/// More goodbyes than the queue for strangers holds.
#[test]
fn stop_says_goodbye_to_thousands() {
    let peers = STRAY_SENDS_MAX + 500;
    let mut world = World::default();
    world.add(|settings| settings.peers_max = peers);
    let (now, core) = (world.now, &mut world.nodes[0].core);
    for number in 0..peers {
        let incarnation = Incarnation(1_000 + number as u64);
        let id = format!("peer-{number}").parse().unwrap();
        let hello = System::Hello(Identity::new("test", id, incarnation).greeting());
        let route = Route::Downstream(RoutingId::new(incarnation, 1));
        let message = strangers::system_frame(incarnation, &hello);
        core.handle_transport(now, transport::Event::Message { route, sender: None, message });
    }
    while core.poll_send().is_some() {}
    core.stop(now);
    let goodbyes = std::iter::from_fn(|| core.poll_send()).count();
    assert_eq!(goodbyes, peers);
}
