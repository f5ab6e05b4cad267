//! The server's side of the timelines, in virtual time.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test picks what it looks at")]

use super::*;
use crate::protocol::system::{Labels, Ping};

fn secs(seconds: f64) -> Time {
    Time::from_start(Duration::from_secs_f64(seconds))
}

fn identity(node: &str, incarnation: u64) -> Identity {
    Identity::new("test", node.parse().unwrap(), Incarnation(incarnation))
}

fn server_with(options: Options) -> Server {
    Server::new(Time::ZERO, Arc::new(identity("hub", 1)), Heartbeat::balanced(), options)
}

fn server() -> Server {
    server_with(Options::default())
}

fn id(node: &str) -> NodeId {
    node.parse().unwrap()
}

fn route(incarnation: u64, number: u64) -> RoutingId {
    RoutingId::new(Incarnation(incarnation), number)
}

fn drain(server: &mut Server) -> Vec<Output> {
    std::iter::from_fn(|| server.poll_output()).collect()
}

fn feed(server: &mut Server, now: f64, input: Input) -> Vec<Output> {
    server.handle(secs(now), input);
    drain(server)
}

fn say(server: &mut Server, now: f64, route: RoutingId, message: System) -> Vec<Output> {
    feed(server, now, Input::System { route, message })
}

/// `node` greets under `incarnation` on its `number`th link.
fn hello(server: &mut Server, now: f64, node: &str, (life, number): (u64, u64)) -> Vec<Output> {
    let greeting = identity(node, life).greeting();
    say(server, now, route(life, number), System::Hello(greeting))
}

fn ping(server: &mut Server, now: f64, route: RoutingId) -> Vec<Output> {
    say(server, now, route, System::Ping(Ping { number: 1, revision: 0 }))
}

/// `+node` and `-node reason` for what became routable and what ceased to be.
fn changes(outputs: &[Output]) -> Vec<String> {
    let change = |output: &Output| match output {
        Output::Joined { peer, .. } => Some(format!("+{}", peer.node)),
        Output::Left { node, reason, .. } => Some(format!("-{node} {reason}")),
        _ => None,
    };
    outputs.iter().filter_map(change).collect()
}

fn refusal(outputs: &[Output]) -> Option<RefuseReason> {
    outputs.iter().find_map(|output| match output {
        Output::Send { message: System::Refuse(refusal), .. } => Some(refusal.reason),
        _ => None,
    })
}

/// Runs the timer until `end`; returns the times of all checks, and what they changed.
fn run(server: &mut Server, end: f64) -> (Vec<Time>, Vec<(Time, String)>) {
    let (mut checks, mut log) = (Vec::new(), Vec::new());
    while let Some(at) = server.poll_timeout().filter(|at| *at <= secs(end)) {
        server.handle(at, Input::Timeout);
        checks.push(at);
        log.extend(changes(&drain(server)).into_iter().map(|change| (at, change)));
    }
    (checks, log)
}

/// The server half of the client death timeline: checks at 2, 4, 6 and 8 s find nothing, the one
/// at 10 s finds a ghost.
#[test]
fn silent_client_leaves_at_the_timeout_and_once() {
    let mut server = server();
    hello(&mut server, 0.0, "beta", (2, 1));
    let (checks, log) = run(&mut server, 60.0);
    assert_eq!(checks, [2.0, 4.0, 6.0, 8.0, 10.0].map(secs));
    assert_eq!(log, [(secs(10.0), "-beta ghost".to_owned())]);
    assert!(server.is_empty() && server.peer(&id("beta")).is_none());
    assert_eq!(server.poll_timeout(), None, "nobody is left to check");
}

/// `CLIENT_JOINED` comes before the acknowledgement, so that whoever observes the join can answer
/// the first message of the peer.
#[test]
fn downstream_peer_joins_before_its_welcome_and_leaves_by_goodbye() {
    let mut server = server();
    let beta = PeerInfo::from(identity("beta", 2).greeting());
    let (route, node) = (route(2, 1), id("beta"));
    assert_eq!(
        hello(&mut server, 0.0, "beta", (2, 1)),
        [
            Output::Joined { route, peer: beta.clone() },
            Output::Event(ServerEvent::ClientJoined { node: node.clone() }),
            Output::Send { route, message: System::Welcome(identity("hub", 1).greeting()) },
        ]
    );
    assert_eq!(server.peer(&node), Some((route, &beta)));
    assert_eq!(
        ping(&mut server, 2.0, route),
        [Output::Send { route, message: System::Pong(Ping { number: 1, revision: 0 }) }]
    );
    let reason = LeaveReason::Goodbye;
    assert_eq!(
        say(&mut server, 3.0, route, System::Goodbye),
        [
            Output::Left { route, node: node.clone(), reason },
            Output::Event(ServerEvent::ClientLeft { node, reason }),
        ]
    );
    assert_eq!(say(&mut server, 3.0, route, System::Goodbye), []);
}

/// Ghost when exactly the timeout has passed since the last sign of life, for checks that come
/// rarely too: the check wakes at the earliest expiry.
#[test]
fn detection_takes_the_timeout_and_not_an_interval_more() {
    let heartbeat = Heartbeat::efficient();
    let mut server =
        Server::new(Time::ZERO, Arc::new(identity("hub", 1)), heartbeat, Options::default());
    hello(&mut server, 0.0, "beta", (2, 1));
    hello(&mut server, 0.0, "gamma", (3, 1));
    feed(&mut server, 7.0, Input::Alive { route: route(2, 1) });
    ping(&mut server, 31.0, route(3, 1));
    let (_, log) = run(&mut server, 66.999);
    assert_eq!(log, []);
    let (_, log) = run(&mut server, 200.0);
    let expected = [(67.0, "-beta ghost"), (91.0, "-gamma ghost")];
    assert_eq!(log, expected.map(|(at, change)| (secs(at), change.to_owned())));
}

/// A process that was stopped finds everybody silent; one ping interval later it knows better.
#[test]
fn own_pause_is_no_silence_of_the_peers() {
    let mut server = server();
    hello(&mut server, 0.0, "beta", (2, 1));
    hello(&mut server, 0.0, "gamma", (3, 1));
    assert_eq!(feed(&mut server, 100.0, Input::Timeout), []);
    ping(&mut server, 101.0, route(2, 1));
    let (_, log) = run(&mut server, 102.0);
    assert_eq!(log, [(secs(102.0), "-gamma ghost".to_owned())]);
    let (_, log) = run(&mut server, 200.0);
    assert_eq!(log, [(secs(111.0), "-beta ghost".to_owned())]);
}

/// Who may take over an id: the table of the module, row by row.
#[test]
fn greeting_for_a_held_id_wins_or_loses_by_the_table() {
    let joined = |changes: &[String]| changes.iter().any(|change| change == "+beta");
    for (case, life, number, at, expected, reason) in [
        ("same route", 2, 1, 1.0, vec![], None),
        ("other route", 2, 2, 1.0, vec!["-beta connection_lost", "+beta"], None),
        ("too early", 3, 1, 2.999, vec![], Some(RefuseReason::DuplicateId)),
        ("silent", 3, 1, 3.0, vec!["-beta superseded", "+beta"], None),
    ] {
        let mut server = server();
        hello(&mut server, 0.0, "beta", (2, 1));
        let outputs = hello(&mut server, at, "beta", (life, number));
        assert_eq!(changes(&outputs), expected, "{case}");
        assert_eq!(refusal(&outputs), reason, "{case}");
        assert_eq!(server.len(), 1, "{case}");
        let (held_by, _) = server.peer(&id("beta")).unwrap();
        let moved = joined(&changes(&outputs));
        assert_eq!(held_by, if moved { route(life, number) } else { route(2, 1) }, "{case}");
    }
}

/// Without this memory two holders of one id would take it from each other for ever.
#[test]
fn replaced_incarnation_is_not_let_in_again() {
    let mut server = server();
    hello(&mut server, 0.0, "beta", (2, 1));
    hello(&mut server, 3.0, "beta", (3, 1));
    let outputs = ping(&mut server, 4.0, route(2, 1));
    assert_eq!(outputs, [Output::Send { route: route(2, 1), message: System::HelloAgain }]);
    let outputs = hello(&mut server, 4.0, "beta", (2, 1));
    assert_eq!((refusal(&outputs), changes(&outputs)), (Some(RefuseReason::Stale), vec![]));
    say(&mut server, 5.0, route(3, 1), System::Goodbye);
    let outputs = hello(&mut server, 6.0, "beta", (2, 2));
    assert_eq!(refusal(&outputs), Some(RefuseReason::Stale), "gone is not forgotten");
    // A ghost that nobody replaced is welcome back.
    let outputs = hello(&mut server, 7.0, "beta", (3, 2));
    assert_eq!(changes(&outputs), ["+beta"]);
}

/// Both sides together: a node that was killed just after a ping and is back at once gets its name
/// as soon as its former life has been silent for a ping and a half and it asks again.
#[test]
fn restarted_node_has_its_name_back_within_five_seconds() {
    use crate::client;
    for seed in 0..50 {
        let mut server = server();
        hello(&mut server, 0.0, "beta", (2, 1));
        let rng = fastrand::Rng::with_seed(seed);
        let ours = Arc::new(identity("beta", 3));
        let mut client = client::Client::new(ours, Heartbeat::balanced(), rng);
        let (mut now, mut input) = (secs(0.1), client::Input::Ready);
        while client.server().is_none() {
            client.handle(now, input);
            while let Some(output) = client.poll_output() {
                let client::Output::Send(message) = output else { continue };
                let route = route(3, 1);
                server.handle(now, Input::System { route, message });
            }
            for output in drain(&mut server) {
                let Output::Send { message, .. } = output else { continue };
                client.handle(now, client::Input::System(message));
            }
            now = client.poll_timeout().unwrap();
            input = client::Input::Timeout;
            assert!(client.server().is_some() || now <= secs(5.0), "seed {seed}: not before {now}");
        }
        assert_eq!(server.peer_at(route(3, 1)).unwrap().incarnation, Incarnation(3));
    }
}

/// A goodbye frees the id at once: a quick restart need not wait for a ping and a half.
#[test]
fn restart_after_goodbye_joins_at_once() {
    let mut server = server();
    hello(&mut server, 0.0, "beta", (2, 1));
    say(&mut server, 0.1, route(2, 1), System::Goodbye);
    assert_eq!(changes(&hello(&mut server, 0.2, "beta", (3, 1))), ["+beta"]);
}

/// The memory of former lives has a limit per node and over all nodes.
#[test]
fn former_lives_are_remembered_within_limits() {
    let mut lives = Lives::new(2);
    for life in 1..=40 {
        lives.began(&id("a"), Incarnation(life));
    }
    let past: Vec<_> =
        (1..=40).filter(|life| lives.is_past(&id("a"), Incarnation(*life))).collect();
    assert_eq!(past, (24..=39).collect::<Vec<_>>());
    lives.began(&id("b"), Incarnation(1));
    lives.began(&id("c"), Incarnation(1));
    assert_eq!(lives.nodes.len(), 2);
    assert!(!lives.is_past(&id("a"), Incarnation(39)));
}

/// Each reason for a refusal, and that a refused node leaves no trace.
#[test]
fn greetings_are_refused_for_stated_reasons() {
    let denied = BTreeSet::from([id("evil")]);
    let mut server = server_with(Options { peers_max: 1, denied });
    assert_eq!(refusal(&hello(&mut server, 0.0, "evil", (9, 1))), Some(RefuseReason::Application));
    assert_eq!(refusal(&hello(&mut server, 0.0, "hub", (1, 1))), Some(RefuseReason::Itself));
    assert_eq!(refusal(&hello(&mut server, 0.0, "hub", (8, 1))), Some(RefuseReason::DuplicateId));
    let other = Identity::new("other", id("x"), Incarnation(7)).greeting();
    let outputs = say(&mut server, 0.0, route(7, 1), System::Hello(other));
    assert_eq!(refusal(&outputs), Some(RefuseReason::Cluster));
    assert!(server.is_empty());
    assert_eq!(refusal(&hello(&mut server, 0.0, "beta", (2, 1))), None);
    let outputs = hello(&mut server, 0.0, "gamma", (3, 1));
    let (node, reason) = (id("gamma"), RefuseReason::Capacity);
    assert_eq!(outputs[0], Output::Event(ServerEvent::ClientRefused { node, reason }));
    assert_eq!(refusal(&outputs), Some(reason));
    // A full server still takes a peer that is in already and made a new connection.
    assert_eq!(refusal(&hello(&mut server, 1.0, "beta", (2, 2))), None);
}

/// Asking unknown routes to greet again must not become a way to make us talk or remember.
#[test]
fn strangers_are_asked_to_greet_rarely_and_within_limits() {
    let mut server = server();
    assert_eq!(ping(&mut server, 0.0, route(5, 1)).len(), 1);
    assert_eq!(ping(&mut server, 0.999, route(5, 1)).len(), 0);
    assert_eq!(feed(&mut server, 1.0, Input::Alive { route: route(5, 1) }).len(), 1);
    let asked: usize = (0..10_000).map(|n| ping(&mut server, 1.5, route(6, n)).len()).sum();
    assert_eq!(asked, STRANGERS_MAX - 1);
    assert_eq!(server.strangers.len(), STRANGERS_MAX);
    assert_eq!(ping(&mut server, 2.5, route(6, 9_999)).len(), 1, "room comes back with time");
}

/// Old news must not overwrite new ones; what breaks the limits is ignored.
#[test]
fn labels_of_a_peer_follow_the_highest_revision() {
    let mut server = server();
    hello(&mut server, 0.0, "beta", (2, 1));
    let mut update = |revision, value: &str| {
        let labels = Labels::from([("role".to_owned(), value.to_owned())]);
        let message = System::Labels(LabelsUpdate { revision, labels });
        let outputs = say(&mut server, 1.0, route(2, 1), message);
        (outputs.len(), server.peer_at(route(2, 1)).unwrap().labels["role"].clone())
    };
    assert_eq!(update(2, "math"), (2, "math".to_owned()));
    assert_eq!(update(1, "old"), (0, "math".to_owned()));
    assert_eq!(update(2, "other"), (0, "math".to_owned()));
    assert_eq!(update(3, &"x".repeat(257)), (0, "math".to_owned()));
    assert_eq!(update(3, "text"), (2, "text".to_owned()));
}

/// Our own changes go to everybody who has joined, in the order of their ids.
#[test]
fn own_changes_are_told_to_all_joined_peers() {
    let mut server = server();
    hello(&mut server, 0.0, "gamma", (3, 1));
    hello(&mut server, 0.0, "beta", (2, 1));
    let mut ours = identity("hub", 1);
    ours.set_labels(Labels::from([("role".to_owned(), "hub".to_owned())]));
    let outputs = feed(&mut server, 1.0, Input::Identity(Arc::new(ours.clone())));
    let message = System::Labels(ours.labels_update());
    let to = |route| Output::Send { route, message: message.clone() };
    assert_eq!(outputs, [to(route(2, 1)), to(route(3, 1))]);
    ours.address = Some("tcp://10.0.0.1:1".parse().unwrap());
    let outputs = feed(&mut server, 1.0, Input::Identity(Arc::new(ours.clone())));
    let welcome = System::Welcome(ours.greeting());
    assert_eq!(outputs[0], Output::Send { route: route(2, 1), message: welcome });
}

/// Goodbye to all, everybody left, nobody comes in until we listen again.
#[test]
fn stopped_server_says_goodbye_and_lets_nobody_in() {
    let mut server = server();
    hello(&mut server, 0.0, "beta", (2, 1));
    let outputs = feed(&mut server, 1.0, Input::Stop);
    assert_eq!(outputs[0], Output::Send { route: route(2, 1), message: System::Goodbye });
    assert_eq!(changes(&outputs), ["-beta stopped"]);
    let outputs = hello(&mut server, 1.1, "beta", (2, 1));
    assert_eq!(refusal(&outputs), Some(RefuseReason::Stopping));
    assert_eq!(ping(&mut server, 1.1, route(2, 1)), []);
    feed(&mut server, 2.0, Input::Ready);
    assert_eq!(changes(&hello(&mut server, 2.0, "beta", (2, 1))), ["+beta"]);
}

/// What the transport or the application knows ends a peer at once.
#[test]
fn peers_leave_with_their_route_and_by_denial() {
    let mut server = server();
    for (node, life) in [("a", 2), ("b", 3), ("c", 4)] {
        hello(&mut server, 0.0, node, (life, 1));
    }
    let outputs = feed(&mut server, 1.0, Input::Unreachable { route: route(2, 1) });
    assert_eq!(changes(&outputs), ["-a connection_lost"]);
    let outputs = feed(&mut server, 1.0, Input::Denied(BTreeSet::from([id("b"), id("z")])));
    assert_eq!(changes(&outputs), ["-b refused"]);
    assert_eq!(refusal(&outputs), Some(RefuseReason::Application));
    assert_eq!(changes(&feed(&mut server, 1.0, Input::NotReady)), ["-c connection_lost"]);
    assert_eq!(server.expiries.len(), 0, "no timer is left behind");
}

/// Any sequence of inputs keeps the tables consistent, and `Joined` and `Left` of each node
/// alternate: what routing and every observer rely on.
#[test]
fn joined_and_left_alternate_for_any_sequence() {
    for seed in 0..200 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut server = server_with(Options { peers_max: 3, ..Options::default() });
        let mut routable = BTreeSet::new();
        let mut now = 0.0;
        for _ in 0..300 {
            now += rng.f64() * 3.0;
            let route = route(rng.u64(1..6), rng.u64(0..2));
            let node = ["a", "b", "c", "d"][rng.usize(..4)];
            let input = match rng.u8(..10) {
                0..=3 => {
                    let greeting = identity(node, rng.u64(2..6)).greeting();
                    Input::System { route, message: System::Hello(greeting) }
                }
                4 => Input::System { route, message: System::Goodbye },
                5 => Input::Unreachable { route },
                6 => Input::Denied(BTreeSet::from([id(node)])),
                7 => Input::Timeout,
                _ => Input::Alive { route },
            };
            for output in feed(&mut server, now, input) {
                match output {
                    Output::Joined { peer, .. } => assert!(routable.insert(peer.node)),
                    Output::Left { node, .. } => assert!(routable.remove(&node)),
                    _ => {}
                }
            }
            assert!(routable.iter().eq(server.routes.keys()), "seed {seed}");
            assert_eq!(server.expiries.len(), server.peers.len());
            assert_eq!(server.routes.len(), server.peers.len());
            assert!(server.len() <= 3);
        }
    }
}

/// An update that was lost is found out with the next ping, and comes with the greeting after it.
#[test]
fn lost_labels_of_a_peer_are_asked_for() {
    let mut server = server();
    hello(&mut server, 0.0, "beta", (2, 1));
    let at = route(2, 1);
    let ping = Ping { number: 1, revision: 1 };
    let pong = Output::Send { route: at, message: System::Pong(Ping { revision: 0, ..ping }) };
    let again = Output::Send { route: at, message: System::HelloAgain };
    assert_eq!(say(&mut server, 1.0, at, System::Ping(ping)), [pong.clone(), again]);
    let mut theirs = identity("beta", 2);
    theirs.set_labels(Labels::from([("role".to_owned(), "math".to_owned())]));
    say(&mut server, 1.1, at, System::Hello(theirs.greeting()));
    assert_eq!(server.peer_at(at).unwrap().labels["role"], "math");
    assert_eq!(say(&mut server, 2.0, at, System::Ping(ping)), [pong], "it has been told");
}
