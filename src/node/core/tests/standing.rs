//! What nodes make of each other's keys.

use super::*;
use crate::keys::{Allowed, KeyPair};

fn key(number: usize) -> PublicKey {
    KeyPair::from_secret(&[u8::try_from(number).unwrap() + 1; 32]).unwrap().public()
}

fn list(entries: &[(usize, &str, Role)]) -> Arc<AllowList> {
    let mut list = AllowList::default();
    for (number, node, role) in entries {
        let node = node.parse().unwrap();
        list.insert(key(*number), Allowed { node, role: *role, until: None });
    }
    Arc::new(list)
}

const PEERS: [(usize, &str, Role); 3] =
    [(0, "a", Role::Peer), (1, "b", Role::Peer), (2, "c", Role::Peer)];

/// A world of nodes with keys, which all have this list.
fn keyed(nodes: usize, entries: &[(usize, &str, Role)]) -> World {
    let mut world = World::default();
    for number in 0..nodes {
        world.add(|settings| {
            settings.trust = Trust::Listed(list(entries));
            settings.gossip = true;
            let address = world::address(number).with_key(Some(key(number)));
            Arc::make_mut(&mut settings.identity).address = Some(address);
        });
        world.nodes[number].key = Some(key(number));
        world.nodes[number].allowed = list(entries);
    }
    world
}

fn allow(world: &mut World, node: usize, entries: &[(usize, &str, Role)]) {
    let now = world.now;
    world.nodes[node].core.allow(now, list(entries));
    world.settle();
}

#[test]
fn peers_on_the_list_join_and_find_each_other() {
    let mut world = keyed(3, &PEERS);
    world.connect(0, 1);
    world.connect(2, 1);
    world.run_for(5.0);
    assert_eq!(world.peers(0), ["b", "c"]);
    assert_eq!(world.peers(2), ["a", "b"]);
    world.request(0, 2, 1.0, 7).unwrap();
    world.settle();
    assert_eq!(world.nodes[2].deliveries[0].role, Role::Peer);
}

#[test]
fn a_name_of_another_key_is_refused_by_both_sides() {
    // By b's list, the key of a is that of x; by a's list, all is well.
    let mut world = keyed(2, &PEERS);
    allow(&mut world, 1, &[(0, "x", Role::Peer), (1, "b", Role::Peer)]);
    world.connect(0, 1);
    world.run_for(5.0);
    assert!(world.peers(0).is_empty() && world.peers(1).is_empty());
    let refused = "server: refused a, the key is not allowed under this name".to_owned();
    assert!(world.story(1).contains(&refused));
    // And the other way round: who was dialed is not who its key says.
    let mut world = keyed(2, &PEERS);
    allow(&mut world, 0, &[(1, "x", Role::Peer)]);
    world.connect(0, 1);
    world.run_for(5.0);
    assert!(world.peers(0).is_empty());
    let refused = "client: refused, the key is not allowed under this name".to_owned();
    assert!(world.story(0).contains(&refused));
}

#[test]
fn revoked_peers_leave_at_once_and_stay_out() {
    let mut world = keyed(2, &PEERS);
    world.connect(0, 1);
    world.settle();
    let (up, down) = (world.route(0, 1), world.route(1, 0));
    // The side that was dialed.
    allow(&mut world, 1, &[(1, "b", Role::Peer), (0, "a", Role::Revoked)]);
    assert!(world.peers(1).is_empty());
    let before = world.nodes[1].deliveries.len();
    let incarnations = [0, 1].map(|node: usize| world.nodes[node].core.identity().incarnation);
    let frame = strangers::request_frame(incarnations[0], incarnations[1], 1, None);
    let now = world.now;
    for sender in [Some(key(0)), None] {
        let message = frame.clone();
        let event = transport::Event::Message { route: down, sender, message };
        world.nodes[1].core.handle_transport(now, event);
    }
    world.settle();
    assert_eq!(world.nodes[1].deliveries.len(), before);
    assert_eq!(world.counters(1).rejected.get("foreign_key"), Some(&2));
    world.run_for(60.0);
    assert!(world.peers(0).is_empty() && world.peers(1).is_empty());
    assert!(matches!(up, Route::Upstream(_)));
    // And the side that dialed, which lets the other in again later.
    let mut world = keyed(2, &PEERS);
    world.connect(0, 1);
    world.settle();
    allow(&mut world, 0, &[(1, "b", Role::Revoked)]);
    world.run_for(60.0);
    assert!(world.peers(0).is_empty() && world.peers(1).is_empty());
    allow(&mut world, 0, &PEERS);
    world.run_for(1.0);
    assert_eq!((world.peers(0), world.peers(1)), (vec!["b".to_owned()], vec!["a".to_owned()]));
}

/// Routing ids are chosen by who dials: another key on the route of a peer is not that peer.
#[test]
fn messages_of_another_key_on_a_peers_route_are_dropped() {
    let mut world = keyed(2, &PEERS);
    world.connect(0, 1);
    world.settle();
    let route = world.route(1, 0);
    let incarnations = [0, 1].map(|node: usize| world.nodes[node].core.identity().incarnation);
    let message = strangers::request_frame(incarnations[0], incarnations[1], 1, None);
    let now = world.now;
    let event = |sender| transport::Event::Message { route, sender, message: message.clone() };
    world.nodes[1].core.handle_transport(now, event(Some(key(2))));
    world.settle();
    assert!(world.nodes[1].deliveries.is_empty());
    world.nodes[1].core.handle_transport(now, event(Some(key(0))));
    world.settle();
    assert_eq!(world.nodes[1].deliveries.len(), 1);
}

/// Keys are replaced one node at a time: for a while both are good.
#[test]
fn two_keys_of_one_node_are_good_at_once() {
    let mut world = keyed(2, &PEERS);
    let both = [(0, "a", Role::Peer), (1, "b", Role::Peer), (5, "a", Role::Peer)];
    world.nodes[0].key = Some(key(5));
    allow(&mut world, 1, &both);
    world.connect(0, 1);
    world.settle();
    assert_eq!(world.peers(1), ["a"]);
    allow(&mut world, 1, &both[1..]);
    assert_eq!(world.peers(1), ["a"], "the new key stays when the old one goes");
    world.story(1);
    allow(&mut world, 1, &both[..2]);
    assert!(world.story(1).contains(&"node: a left Downstream, refused".to_owned()));
}

/// A client may ask, under any name that is nobody's, and may not pass for more than that.
#[test]
fn clients_are_no_peers() {
    let entries = [(0, "app", Role::Client), (1, "b", Role::Peer), (2, "c", Role::Peer)];
    let mut world = keyed(3, &entries);
    let now = world.now;
    let labels = [("_kv.role", "leader"), ("zone", "x")];
    let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    world.nodes[0].core.set_labels(now, labels);
    world.nodes[0].core.settings.trust = Trust::Told;
    world.connect(0, 1);
    world.run_for(5.0);
    // Its name is "a", which is not on the list.
    assert_eq!(world.peers(1), ["a"]);
    let core = &world.nodes[1].core;
    let any = Filter::any();
    let known = core.peers().matching(&any).next().unwrap();
    assert_eq!(known.labels.keys().collect::<Vec<_>>(), ["zone"], "not those of the system");
    assert!(world.nodes[1].core.discovery.dialed().next().is_none(), "nobody dials a client");
    world.request(0, 1, 1.0, 1).unwrap();
    world.settle();
    assert_eq!(world.nodes[1].deliveries[0].role, Role::Client);
    // Nor is it believed about others: c is known to nobody but it.
    let known = crate::protocol::system::KnownPeers {
        peers: vec![crate::protocol::system::KnownPeer {
            node: name(2),
            incarnation: world.nodes[2].core.identity().incarnation,
            address: world.nodes[2].address.clone(),
        }],
    };
    let route = world.route(0, 1);
    world.nodes[0].core.send_system(now, route, &System::Peers(known));
    world.run_for(5.0);
    assert_eq!(world.peers(1), ["a"]);
}

#[test]
fn addresses_are_dialed_only_with_the_right_kind_of_key() {
    let remote: Address = "tcp://10.9.8.7:1".parse().unwrap();
    let local: Address = "tcp://127.0.0.1:1".parse().unwrap();
    let open = |insecure| Trust::Open { insecure };
    let listed = || Trust::Listed(list(&[(0, "a", Role::Peer), (1, "app", Role::Client)]));
    for (trust, address, number, allowed) in [
        (open(false), &local, None, true),
        (open(false), &remote, None, false),
        (open(true), &remote, None, true),
        (open(true), &remote, Some(0), false),
        (Trust::Told, &remote, Some(7), true),
        (Trust::Told, &local, None, false),
        (listed(), &remote, Some(0), true),
        (listed(), &local, Some(0), true),
        (listed(), &remote, Some(1), false),
        (listed(), &remote, Some(7), false),
        (listed(), &local, None, false),
    ] {
        let address = address.clone().with_key(number.map(key));
        assert_eq!(trust.may_dial(&address).is_ok(), allowed, "{trust:?} {address}");
    }
}
