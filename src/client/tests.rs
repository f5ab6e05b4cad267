//! The client's side of the timelines, in virtual time.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test picks what it looks at")]

use super::*;
use crate::id::Incarnation;
use crate::protocol::system::{Labels, Refusal};

fn secs(seconds: f64) -> Time {
    Time::from_start(Duration::from_secs_f64(seconds))
}

fn identity(node: &str, incarnation: u64) -> Identity {
    Identity::new("test", node.parse().unwrap(), Incarnation(incarnation))
}

fn client() -> Client {
    let rng = fastrand::Rng::with_seed(7);
    Client::new(Arc::new(identity("alpha", 1)), Heartbeat::balanced(), rng)
}

fn welcome(incarnation: u64) -> Input {
    Input::System(System::Welcome(identity("beta", incarnation).greeting()))
}

fn drain(client: &mut Client) -> Vec<Output> {
    std::iter::from_fn(|| client.poll_output()).collect()
}

fn feed(client: &mut Client, now: f64, input: Input) -> Vec<Output> {
    client.handle(secs(now), input);
    drain(client)
}

fn joined(now: f64) -> Client {
    let mut client = client();
    feed(&mut client, now, Input::Ready);
    feed(&mut client, now, welcome(2));
    assert!(client.server().is_some());
    client
}

/// Runs the timer until `end` and returns what it did, with the time of each.
fn run(client: &mut Client, end: f64) -> Vec<(Time, Output)> {
    let mut log = Vec::new();
    while let Some(at) = client.poll_timeout().filter(|at| *at <= secs(end)) {
        client.handle(at, Input::Timeout);
        log.extend(drain(client).into_iter().map(|output| (at, output)));
    }
    log
}

fn lefts(outputs: &[Output]) -> Vec<LeaveReason> {
    let left = |output: &Output| match output {
        Output::Left(reason) => Some(*reason),
        _ => None,
    };
    outputs.iter().filter_map(left).collect()
}

fn server_left(reason: LeaveReason) -> Output {
    let node = "beta".parse().unwrap();
    Output::Event(ClientEvent::ServerLeft { node, reason })
}

/// Lifecycle of an upstream peer: connect, greet, acknowledged, pings, then the loss at t = 0 of
/// the client death timeline, with everything that belongs to it at the same instant.
#[test]
fn upstream_peer_lives_from_welcome_to_lost_connection() {
    let mut client = client();
    let hello = System::Hello(identity("alpha", 1).greeting());
    assert_eq!(
        feed(&mut client, 0.0, Input::Ready),
        [Output::Event(ClientEvent::Ready), Output::Send(hello.clone())]
    );
    assert_eq!(client.server(), None, "the server has no name before its welcome");
    let beta = PeerInfo::from(identity("beta", 2).greeting());
    let node = beta.node.clone();
    assert_eq!(
        feed(&mut client, 0.1, welcome(2)),
        [Output::Joined(beta.clone()), Output::Event(ClientEvent::ServerJoined { node })]
    );
    assert_eq!(client.server(), Some(&beta));
    let ping = |number| Output::Send(System::Ping(Ping { number, revision: 0 }));
    assert_eq!(run(&mut client, 4.5), [(secs(2.1), ping(1)), (secs(4.1), ping(2))]);
    assert_eq!(
        feed(&mut client, 5.0, Input::NotReady),
        [
            Output::Event(ClientEvent::NotReady),
            Output::Left(LeaveReason::ConnectionLost),
            server_left(LeaveReason::ConnectionLost),
        ]
    );
    assert_eq!(client.poll_timeout(), None, "pings stop with the connection");
    assert_eq!(
        feed(&mut client, 6.0, Input::Ready),
        [Output::Event(ClientEvent::Ready), Output::Send(hello)],
        "a reconnect is a new handshake"
    );
    assert!(matches!(feed(&mut client, 6.1, welcome(2))[0], Output::Joined(_)));
}

/// NotReady, Closed and Goodbye may all report one death, in any order; it is one death.
#[test]
fn server_leaves_once_however_often_its_end_is_reported() {
    let goodbye = || Input::System(System::Goodbye);
    let closed = || Input::Closed { reason: "gone".into() };
    let not_ready = || Input::NotReady;
    let ends: [&dyn Fn() -> Input; 3] = [&goodbye, &closed, &not_ready];
    let reasons = [LeaveReason::Goodbye, LeaveReason::Closed, LeaveReason::ConnectionLost];
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut client = joined(0.0);
        let outputs: Vec<_> =
            order.iter().flat_map(|end| feed(&mut client, 1.0, ends[*end]())).collect();
        assert_eq!(lefts(&outputs), [reasons[order[0]]], "order {order:?}");
        assert_eq!(client.server(), None);
    }
}

/// Exactly at the limit, not a tick before; then it greets with every ping until it is heard.
#[test]
fn silent_server_is_a_ghost_at_the_timeout_and_may_return() {
    let mut client = joined(0.0);
    feed(&mut client, 1.0, Input::System(System::Pong(Ping { number: 1, revision: 0 })));
    assert!(run(&mut client, 10.999).iter().all(|(_, o)| matches!(o, Output::Send(_))));
    assert!(client.server().is_some());
    let log = run(&mut client, 15.5);
    assert_eq!(log[0], (secs(11.0), Output::Left(LeaveReason::Ghost)));
    let hellos = log.iter().filter(|(_, o)| matches!(o, Output::Send(System::Hello(_))));
    let times: Vec<_> = hellos.map(|(at, _)| *at).collect();
    assert_eq!(times, [secs(11.0), secs(13.0), secs(15.0)]);
    assert!(matches!(feed(&mut client, 15.6, welcome(2))[0], Output::Joined(_)));
}

/// A busy server must not be taken for dead because its pongs wait behind its work.
#[test]
fn any_envelope_is_a_sign_of_life() {
    let mut client = joined(0.0);
    feed(&mut client, 9.0, Input::Alive);
    assert!(run(&mut client, 18.9).iter().all(|(_, o)| matches!(o, Output::Send(_))));
    assert_eq!(run(&mut client, 19.0)[0].1, Output::Left(LeaveReason::Ghost));
}

/// A process that was stopped for a minute has heard nothing, which says nothing about its server.
#[test]
fn own_pause_is_no_silence_of_the_server() {
    let mut client = joined(0.0);
    let outputs = feed(&mut client, 60.0, Input::Timeout);
    assert_eq!(outputs, [Output::Send(System::Ping(Ping { number: 1, revision: 0 }))]);
    assert_eq!(lefts(&feed(&mut client, 61.999, Input::Timeout)), []);
    assert_eq!(lefts(&feed(&mut client, 62.0, Input::Timeout)), [LeaveReason::Ghost]);
}

/// A handshake that nobody answers is reported each time, with a growing wait that has a limit.
#[test]
fn unanswered_handshake_is_reported_and_repeated() {
    let mut client = client();
    feed(&mut client, 0.0, Input::Ready);
    let log = run(&mut client, 300.0);
    let timed_out = |o: &Output| *o == Output::Event(ClientEvent::HandshakeTimeout);
    let reports: Vec<_> = log.iter().filter(|(_, o)| timed_out(o)).map(|(at, _)| *at).collect();
    assert_eq!(reports[0], secs(10.0));
    let gaps: Vec<_> = reports.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps[0] >= Duration::from_secs(11) && gaps[0] <= Duration::from_secs(12));
    assert!(gaps.last().unwrap() >= &Duration::from_secs(15), "the wait has grown");
    assert!(gaps.iter().all(|gap| *gap <= Duration::from_secs(20)), "the wait has a limit");
    assert!(matches!(feed(&mut client, 301.0, welcome(2))[0], Output::Joined(_)));
}

/// What waiting cannot change is final; the rest is tried again, an id conflict within one ping.
#[test]
fn refusals_are_final_or_retried_by_their_reason() {
    use RefuseReason as R;
    for (reason, waits) in [
        (R::Cluster, None),
        (R::Itself, None),
        (R::Malformed, None),
        (R::Version, None),
        (R::DuplicateId, Some((1.0, 2.0))),
        (R::Application, Some((15.0, 30.0))),
        (R::Capacity, Some((15.0, 30.0))),
        (R::Stale, Some((15.0, 30.0))),
        (R::Stopping, Some((15.0, 30.0))),
    ] {
        let mut client = client();
        feed(&mut client, 0.0, Input::Ready);
        let refuse = Input::System(System::Refuse(Refusal { reason }));
        let outputs = feed(&mut client, 0.0, refuse);
        assert_eq!(outputs[0], Output::Event(ClientEvent::Refused { reason }));
        match waits {
            None => {
                assert_eq!(outputs[1], Output::GiveUp(reason));
                assert!(client.is_ended() && client.poll_timeout().is_none());
                assert_eq!(feed(&mut client, 1.0, Input::Ready), []);
            }
            Some((least, most)) => {
                let at = client.poll_timeout().unwrap();
                assert!(at >= secs(least) && at <= secs(most), "{reason:?} waits until {at}");
                let hello = &run(&mut client, most)[0].1;
                assert!(matches!(hello, Output::Send(System::Hello(_))), "{reason:?}");
            }
        }
    }
}

/// The greeting of the server is judged here too, and a server that we refuse is told.
#[test]
fn unacceptable_welcome_is_refused_here() {
    for (greeting, reason) in [
        (Identity::new("other", "beta".parse().unwrap(), Incarnation(2)).greeting(), "Cluster"),
        (Greeting { version: 2, ..identity("beta", 2).greeting() }, "Version"),
        (identity("alpha", 1).greeting(), "Itself"),
        (Greeting { incarnation: Incarnation(0), ..identity("beta", 2).greeting() }, "Malformed"),
    ] {
        let mut client = client();
        feed(&mut client, 0.0, Input::Ready);
        let outputs = feed(&mut client, 0.1, Input::System(System::Welcome(greeting)));
        assert_eq!(outputs[0], Output::Send(System::Goodbye));
        let Some(Output::GiveUp(given)) = outputs.last() else { panic!("{outputs:?}") };
        assert_eq!(format!("{given:?}"), reason);
    }
}

/// A repeated welcome changes nothing; one of another incarnation is another server.
#[test]
fn second_welcome_is_harmless_and_a_restart_is_not() {
    let mut client = joined(0.0);
    assert_eq!(feed(&mut client, 1.0, welcome(2)), []);
    let outputs = feed(&mut client, 2.0, welcome(3));
    assert_eq!(outputs[0], Output::Left(LeaveReason::Superseded));
    assert!(matches!(&outputs[2], Output::Joined(info) if info.incarnation == Incarnation(3)));
    assert_eq!(client.server().map(|server| server.incarnation), Some(Incarnation(3)));
}

/// A server that lost us is greeted, not left; asking often costs it no flood of greetings, and a
/// server that never welcomes us is no living server.
#[test]
fn hello_again_is_answered_but_is_no_sign_of_life() {
    let mut client = joined(0.0);
    let again = || Input::System(System::HelloAgain);
    assert!(matches!(feed(&mut client, 3.0, again())[..], [Output::Send(System::Hello(_))]));
    assert_eq!(feed(&mut client, 3.9, again()), []);
    assert!(matches!(feed(&mut client, 4.0, again())[..], [Output::Send(System::Hello(_))]));
    assert_eq!(run(&mut client, 10.0).last().unwrap().0, secs(10.0));
    assert_eq!(client.server(), None);
}

/// Old news must not overwrite new ones, and a restarted count after a welcome is not old.
#[test]
fn labels_of_the_server_follow_the_highest_revision() {
    let mut client = joined(0.0);
    let update = |revision, value: &str| {
        let labels = Labels::from([("role".to_owned(), value.to_owned())]);
        Input::System(System::Labels(LabelsUpdate { revision, labels }))
    };
    let outputs = feed(&mut client, 1.0, update(2, "math"));
    assert!(matches!(&outputs[0], Output::Labels(info) if info.labels["role"] == "math"));
    assert_eq!(feed(&mut client, 1.0, update(1, "old")), []);
    assert_eq!(feed(&mut client, 1.0, update(2, "other")), []);
    assert_eq!(client.server().unwrap().labels["role"], "math");
    let too_long = "x".repeat(257);
    assert_eq!(feed(&mut client, 1.0, update(3, &too_long)), []);
}

/// Labels that change while the greeting is under way would otherwise never reach the server.
#[test]
fn own_labels_reach_the_server_whenever_they_change() {
    let mut client = client();
    feed(&mut client, 0.0, Input::Ready);
    let mut ours = identity("alpha", 1);
    ours.set_labels(Labels::from([("role".to_owned(), "a".to_owned())]));
    assert_eq!(feed(&mut client, 0.1, Input::Identity(Arc::new(ours.clone()))), []);
    let outputs = feed(&mut client, 0.2, welcome(2));
    assert_eq!(outputs.last(), Some(&Output::Send(System::Labels(ours.labels_update()))));
    ours.set_labels(Labels::new());
    let outputs = feed(&mut client, 0.3, Input::Identity(Arc::new(ours.clone())));
    assert_eq!(outputs, [Output::Send(System::Labels(ours.labels_update()))]);
    ours.address = Some("tcp://10.0.0.1:1".parse().unwrap());
    let outputs = feed(&mut client, 0.4, Input::Identity(Arc::new(ours.clone())));
    assert_eq!(outputs, [Output::Send(System::Hello(ours.greeting()))]);
}

/// A stopped link says goodbye, so that the server need not wait, and then says nothing more.
#[test]
fn stop_says_goodbye_and_ends_the_link() {
    let mut client = joined(0.0);
    assert_eq!(
        feed(&mut client, 1.0, Input::Stop),
        [
            Output::Send(System::Goodbye),
            Output::Left(LeaveReason::Stopped),
            server_left(LeaveReason::Stopped),
        ]
    );
    assert_eq!(feed(&mut client, 1.0, Input::Stop), []);
    assert_eq!(feed(&mut client, 1.0, Input::Ready), []);
    assert_eq!(client.poll_timeout(), None);
}

/// An update that was lost is found out with the next pong, and comes with the welcome after it.
#[test]
fn lost_labels_of_the_server_are_asked_for() {
    let mut client = joined(0.0);
    let pong = |revision| Input::System(System::Pong(Ping { number: 1, revision }));
    assert_eq!(feed(&mut client, 2.0, pong(0)), []);
    let hello = System::Hello(identity("alpha", 1).greeting());
    assert_eq!(feed(&mut client, 4.0, pong(1)), [Output::Send(hello)]);
    let mut theirs = identity("beta", 2);
    theirs.set_labels(Labels::from([("role".to_owned(), "math".to_owned())]));
    feed(&mut client, 4.1, Input::System(System::Welcome(theirs.greeting())));
    assert_eq!(client.server().unwrap().labels["role"], "math");
    assert_eq!(feed(&mut client, 6.0, pong(1)), [], "it has been told");
}
