//! Ten nodes in virtual time, and the rules one by one.

use std::collections::BTreeSet;

use super::*;
use crate::id::Incarnation;
use crate::protocol::system::Labels;

fn secs(seconds: f64) -> Time {
    Time::from_start(Duration::from_secs_f64(seconds))
}

fn address(name: &str) -> Address {
    format!("inproc://{name}").parse().unwrap()
}

/// A peer whose address has the name of its node.
fn peer(node: &str) -> PeerInfo {
    PeerInfo {
        node: node.parse().unwrap(),
        incarnation: Incarnation(1),
        address: Some(address(node)),
        labels: Labels::new(),
    }
}

fn known(peers: &[(&str, &str)]) -> Input {
    let peer = |(node, at): &(&str, &str)| KnownPeer {
        node: node.parse().unwrap(),
        incarnation: Incarnation(1),
        address: address(at),
    };
    Input::Heard(KnownPeers { peers: peers.iter().map(peer).collect() })
}

fn discovery() -> Discovery {
    let rng = fastrand::Rng::with_seed(5);
    Discovery::new("me".parse().unwrap(), Some(address("me")), rng)
}

fn drain(discovery: &mut Discovery) -> Vec<String> {
    let outputs = std::iter::from_fn(|| discovery.poll_output());
    let text = |output| match output {
        Output::Dial { address } => format!("dial {address}"),
        Output::HangUp { address } => format!("hang up {address}"),
        Output::Tell(known) => {
            let names: Vec<_> = known.peers.iter().map(|peer| peer.node.as_str()).collect();
            format!("tell {}", names.join(" "))
        }
    };
    outputs.map(text).collect()
}

fn feed(discovery: &mut Discovery, now: f64, input: Input) -> Vec<String> {
    discovery.handle(secs(now), input);
    drain(discovery)
}

/// Runs the timer until `end`.
fn run(discovery: &mut Discovery, end: f64) -> Vec<(Time, String)> {
    let mut log = Vec::new();
    while let Some(at) = discovery.poll_timeout().filter(|at| *at <= secs(end)) {
        discovery.handle(at, Input::Timeout);
        log.extend(drain(discovery).into_iter().map(|output| (at, output)));
        assert!(discovery.poll_timeout().is_none_or(|next| next > at), "the timer stands still");
    }
    log
}

fn join_up(discovery: &mut Discovery, now: f64, dialed: &str, node: &str) -> Vec<String> {
    let dialed = Some(address(dialed));
    feed(discovery, now, Input::Joined { dialed, peer: peer(node) })
}

fn leave_up(discovery: &mut Discovery, now: f64, dialed: &str, node: &str) -> Vec<String> {
    let node = node.parse().unwrap();
    feed(discovery, now, Input::Left { dialed: Some(address(dialed)), node })
}

/// A mesh without delay: a dial joins both sides at once, a telling is heard at once.
struct Mesh {
    nodes: Vec<Discovery>,
    /// Who has dialed whom, and every dial that was made.
    links: BTreeSet<(usize, usize)>,
    dials: usize,
}

impl Mesh {
    fn name(index: usize) -> String {
        format!("n{index}")
    }

    fn chain(count: usize, seed: u64) -> Self {
        let node = |index: usize| {
            let rng = fastrand::Rng::with_seed(seed * 100 + u64::try_from(index).unwrap());
            let name = Self::name(index);
            let mut node = Discovery::new(name.parse().unwrap(), Some(address(&name)), rng);
            if index > 0 {
                let address = address(&Self::name(index - 1));
                node.handle(Time::ZERO, Input::AddSeed { address });
            }
            node
        };
        Self { nodes: (0..count).map(node).collect(), links: BTreeSet::new(), dials: 0 }
    }

    fn deliver(&mut self, now: Time) {
        let mut busy = true;
        while std::mem::take(&mut busy) {
            for from in 0..self.nodes.len() {
                while let Some(output) = self.nodes[from].poll_output() {
                    busy = true;
                    self.apply(now, from, output);
                }
            }
        }
    }

    fn apply(&mut self, now: Time, from: usize, output: Output) {
        match output {
            Output::Dial { address: dialed } => {
                let is_there = |to: &usize| address(&Self::name(*to)) == dialed;
                let to = (0..self.nodes.len()).find(is_there).unwrap();
                assert_ne!(from, to, "a node dialed itself");
                assert!(self.links.insert((from, to)), "{from} dialed {to} twice");
                self.dials += 1;
                let (up, down) = (peer(&Self::name(to)), peer(&Self::name(from)));
                self.nodes[to].handle(now, Input::Joined { dialed: None, peer: down });
                let dialed = Some(dialed);
                self.nodes[from].handle(now, Input::Joined { dialed, peer: up });
            }
            Output::HangUp { address } => panic!("{from} hung up {address}"),
            Output::Tell(known) => {
                let linked = |to: &usize| {
                    self.links.contains(&(from, *to)) || self.links.contains(&(*to, from))
                };
                let others: Vec<_> = (0..self.nodes.len()).filter(linked).collect();
                for to in others {
                    self.nodes[to].handle(now, Input::Heard(known.clone()));
                }
            }
        }
    }
}

/// One address each is enough: ten nodes in a chain are a full mesh within two seconds, each pair
/// linked both ways by exactly one dial.
#[test]
fn chain_of_ten_becomes_a_full_mesh() {
    for seed in 0..20 {
        let mut mesh = Mesh::chain(10, seed);
        let mut now = Time::ZERO;
        mesh.deliver(now);
        assert!(mesh.links.len() < 90, "the chain alone is no full mesh");
        while mesh.links.len() < 90 {
            now = mesh.nodes.iter().filter_map(Discovery::poll_timeout).min().unwrap();
            assert!(now < secs(2.0), "seed {seed}: {} links after 2 s", mesh.links.len());
            for node in &mut mesh.nodes {
                if node.poll_timeout().is_some_and(|at| at <= now) {
                    node.handle(now, Input::Timeout);
                }
            }
            mesh.deliver(now);
        }
        assert_eq!(mesh.dials, 90);
    }
}

/// A seed is dialed at once and for ever; hearsay after a moment, and given up when nobody has
/// spoken of it for a minute.
#[test]
fn hearsay_is_forgotten_and_seeds_are_not() {
    let mut node = discovery();
    let seed = address("seed");
    assert_eq!(feed(&mut node, 0.0, Input::AddSeed { address: seed }), ["dial inproc://seed"]);
    assert_eq!(feed(&mut node, 1.0, known(&[("a", "a")])), [""; 0]);
    let log = run(&mut node, 1.2);
    assert_eq!(log.iter().map(|(_, o)| o.as_str()).collect::<Vec<_>>(), ["dial inproc://a"]);
    feed(&mut node, 30.0, known(&[("a", "a")]));
    assert_eq!(run(&mut node, 1_000.0), [(secs(90.0), "hang up inproc://a".to_owned())]);
    assert_eq!(node.dialed().collect::<Vec<_>>(), [&address("seed")]);
}

/// A link that is up is not given up, however long nobody speaks of its node; one that has been
/// up is kept for a minute after its end.
#[test]
fn linked_hearsay_is_kept_until_a_minute_after_its_end() {
    let mut node = discovery();
    feed(&mut node, 0.0, known(&[("a", "a")]));
    run(&mut node, 0.2);
    join_up(&mut node, 1.0, "a", "a");
    let told = run(&mut node, 500.0);
    assert!(told.iter().all(|(_, output)| output == "tell a"), "{told:?}");
    leave_up(&mut node, 500.0, "a", "a");
    let hung_up: Vec<_> =
        run(&mut node, 1_000.0).into_iter().filter(|(_, o)| o.starts_with("hang")).collect();
    assert_eq!(hung_up, [(secs(560.0), "hang up inproc://a".to_owned())]);
}

/// Our own id, our own address and what we found to be ourselves lead nowhere.
#[test]
fn nobody_dials_itself() {
    let mut node = discovery();
    feed(&mut node, 0.0, known(&[("me", "elsewhere"), ("other", "me")]));
    assert_eq!(run(&mut node, 100.0), []);
    let (own, alias) = (address("me"), address("alias"));
    assert_eq!(feed(&mut node, 100.0, Input::AddSeed { address: own }), [""; 0]);
    let outputs = feed(&mut node, 100.0, Input::AddSeed { address: alias.clone() });
    assert_eq!(outputs, ["dial inproc://alias"]);
    let gave_up = Input::GaveUp { address: alias, reason: Some(RefuseReason::Itself) };
    assert_eq!(feed(&mut node, 100.1, gave_up), ["hang up inproc://alias"]);
    assert_eq!(run(&mut node, 10_000.0), []);
}

/// Two addresses that lead to one node make one link, the newest, and no quarrel between them.
#[test]
fn second_address_of_a_linked_node_is_hung_up_or_not_dialed() {
    let mut node = discovery();
    feed(&mut node, 0.0, Input::AddSeed { address: address("one") });
    feed(&mut node, 0.0, Input::AddSeed { address: address("two") });
    join_up(&mut node, 0.1, "one", "a");
    assert_eq!(join_up(&mut node, 0.15, "two", "a"), ["hang up inproc://one"]);
    leave_up(&mut node, 0.15, "one", "a");
    feed(&mut node, 1.0, known(&[("a", "three")]));
    let log = run(&mut node, 300.0);
    assert!(log.iter().all(|(_, output)| output == "tell a"), "{log:?}");
    // The node is gone: what else leads to it is tried when it had time to come back.
    leave_up(&mut node, 300.0, "two", "a");
    let log = run(&mut node, 305.0);
    assert_eq!(log, [(secs(305.0), "dial inproc://one".to_owned())]);
}

/// A refusal that may end is tried again; a refused address that was hearsay fades out.
#[test]
fn refused_seed_is_dialed_again_later() {
    let mut node = discovery();
    feed(&mut node, 0.0, Input::AddSeed { address: address("a") });
    let gave_up = Input::GaveUp { address: address("a"), reason: Some(RefuseReason::Cluster) };
    assert_eq!(feed(&mut node, 1.0, gave_up), ["hang up inproc://a"]);
    assert_eq!(run(&mut node, 100.0), [(secs(31.0), "dial inproc://a".to_owned())]);
}

/// What a person removed is not learned again from others, until the person wants it back.
#[test]
fn removed_address_stays_removed() {
    let mut node = discovery();
    feed(&mut node, 0.0, Input::AddSeed { address: address("a") });
    join_up(&mut node, 0.1, "a", "a");
    run(&mut node, 0.9);
    let remove = Input::RemoveSeed { address: address("a") };
    assert_eq!(feed(&mut node, 1.0, remove), ["hang up inproc://a"]);
    leave_up(&mut node, 1.0, "a", "a");
    feed(&mut node, 2.0, known(&[("a", "a")]));
    assert_eq!(run(&mut node, 100.0), []);
    let add = Input::AddSeed { address: address("a") };
    assert_eq!(feed(&mut node, 100.0, add), ["dial inproc://a"]);
}

/// Many joins are one telling; a peer that nobody can dial hears it but is not told of.
#[test]
fn joins_are_gathered_and_undialable_peers_are_not_told() {
    let mut node = discovery();
    for name in ["b", "a"] {
        feed(&mut node, 0.0, Input::Joined { dialed: None, peer: peer(name) });
    }
    let mut mute = peer("mute");
    mute.address = None;
    feed(&mut node, 0.05, Input::Joined { dialed: None, peer: mute.clone() });
    let told = |log: Vec<(Time, String)>| -> Vec<_> {
        log.into_iter().filter(|(_, output)| output.starts_with("tell")).collect()
    };
    assert_eq!(told(run(&mut node, 5.0)), [(secs(0.1), "tell a b".to_owned())]);
    mute.address = Some(address("mute"));
    feed(&mut node, 5.0, Input::Changed { peer: mute });
    assert_eq!(told(run(&mut node, 5.1)), [(secs(5.1), "tell a b mute".to_owned())]);
    let again = told(run(&mut node, 18.0));
    assert_eq!(again.len(), 1, "and again after about ten seconds: {again:?}");
}

/// A peer that tells of endless nodes fills a bounded table, and seeds always find room.
#[test]
fn hearsay_is_bounded() {
    let mut node = discovery();
    for batch in 0..4 {
        let names: Vec<_> = (0..1_000).map(|i| format!("n{batch}-{i}")).collect();
        let peers: Vec<_> = names.iter().map(|name| (name.as_str(), name.as_str())).collect();
        feed(&mut node, 0.0, known(&peers));
    }
    assert_eq!(node.targets.len(), TARGETS_MAX);
    let add = Input::AddSeed { address: address("seed") };
    assert_eq!(feed(&mut node, 0.0, add), ["dial inproc://seed"]);
}
