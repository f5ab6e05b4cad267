//! Replicas of the key-value store on real nodes, sockets and disks, in one process: what clients
//! are promised, what failures mean for them, and what strangers cannot do.
//!
//! Nothing sleeps for a fixed time: every test waits for what it wants to see, with a deadline.
#![expect(clippy::unwrap_used, reason = "a test; the allowance does not reach functions beside it")]
#![expect(clippy::disallowed_methods, reason = "measures how long a caller was kept waiting")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use zmesh::consensus::Role;
use zmesh::kv::{Error, KEY_BYTES_MAX, Kv, KvMachine, Response, SERVICE, VALUE_BYTES_MAX};
use zmesh::replica::session::{self, SessionError};
use zmesh::replica::{Progress, Replica, ReplicaError, ReplicaSettings, Status};
use zmesh::route::Filter;
use zmesh::testing::TestCluster;
use zmesh::{Call, Effect, ErrorCode, HandlerError, Next, Node, NodeId, Outcome};

mod waiting;

use waiting::{DEADLINE, until};

#[path = "replica/raw.rs"]
mod raw;

use raw::Raw;

/// What a busy machine may add to a caller's deadline.
const SLACK: Duration = Duration::from_secs(8);

async fn read(kv: &Kv, key: &str) -> Option<Bytes> {
    kv.get(key.to_owned()).await.unwrap().map(|found| found.value)
}

async fn status(replica: &Replica) -> Status {
    match replica.status().await {
        Progress::Running(status) => *status,
        other @ (Progress::Doubtful | Progress::Forming { .. } | Progress::Stopped(_)) => {
            panic!("the replica does not run: {other:?}")
        }
    }
}

/// Why a replica has stopped.
async fn why_stopped(replica: &Replica) -> String {
    let stopped = tokio::time::timeout(DEADLINE, replica.stopped()).await;
    stopped.expect("it stops").reason
}

/// A member of a cluster that is not the given one.
fn other_than(cluster: &TestCluster, number: usize) -> usize {
    (0..cluster.nodes()).find(|other| *other != number).unwrap()
}

/// A replica on a node that is started by hand.
fn lone_replica(node: &Node, dir: &std::path::Path, members: &[&str]) -> Replica {
    let members = members.iter().map(|id| id.parse().unwrap()).collect();
    Replica::start(node, SERVICE, ReplicaSettings::new(dir, members), KvMachine::new())
}

// ---- the promise to clients ----------------------------------------------------------------

/// Any node takes any client, and whoever was told that a write is done finds it, wherever it asks.
#[tokio::test]
async fn acknowledged_write_is_seen_through_every_node_at_once() {
    let cluster = TestCluster::start(3).await.unwrap();
    let mut through = Vec::new();
    for number in 0..3 {
        through.push(cluster.kv_through(number).await.unwrap());
    }
    for round in 0..30_usize {
        let value = round.to_string();
        through[round % 3].set("k", value.clone()).await.unwrap();
        for (number, kv) in through.iter().enumerate() {
            let seen = read(kv, "k").await.unwrap();
            assert_eq!(seen, value, "round {round} through node {number}");
        }
    }
}

/// Clients of other languages find the leader by asking anybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn direct_subject_of_a_follower_names_the_leader_and_its_address() {
    let cluster = TestCluster::start(3).await.unwrap();
    let leader = cluster.leader().await.unwrap();
    let follower = other_than(&cluster, leader);
    let mut raw = Raw::join("stranger", cluster.node(follower).address().unwrap()).await;
    let set = b"\x00\x01\x01\0\0\0kv";

    let (code, message) = raw.request("_kv.command.direct", set).await.unwrap_err();
    assert_eq!(code, ErrorCode::NotLeader, "{message}");
    let leader_address = cluster.node(leader).address().unwrap();
    let named = format!("leader={} address={leader_address}", cluster.id(leader));
    assert!(message.ends_with(&named), "{message}");

    let mut direct = Raw::join("other-stranger", leader_address).await;
    assert!(direct.request("_kv.command.direct", set).await.is_ok(), "the leader itself takes it");
    assert!(raw.request("_kv.command", set).await.is_ok(), "a follower passes it on");
    assert_eq!(read(&cluster.kv(), "k").await.unwrap(), "v");
}

/// What a key may be and what a value may be, to the byte and on both sides.
#[tokio::test]
async fn keys_and_values_are_any_bytes_within_their_limits() {
    let cluster = TestCluster::start(3).await.unwrap();
    let kv = cluster.kv();
    assert_eq!(kv.get("absent").await.unwrap(), None);
    let empty = kv.set("empty", "").await.unwrap();
    let found = kv.get("empty").await.unwrap().unwrap();
    assert_eq!((found.value.len(), found.revision), (0, empty.revision));

    let cleared = kv.clear("absent").await.unwrap();
    assert_eq!(cleared.revision, empty.revision, "clearing what is not there changes nothing");
    assert!(cleared.index > empty.index, "it is in the log nevertheless");
    kv.clear("empty").await.unwrap();
    assert_eq!(kv.get("empty").await.unwrap(), None);

    let binary: Vec<u8> = (0..=255).collect();
    kv.set(binary.clone(), binary.clone()).await.unwrap();
    assert_eq!(kv.get(binary.clone()).await.unwrap().unwrap().value, binary);

    let invalid = |error: Error| {
        assert_eq!((error.code(), error.effect()), (ErrorCode::InvalidPayload, Effect::None));
        assert!(!error.is_retryable());
    };
    invalid(kv.set("", "v").await.unwrap_err());
    invalid(kv.get("").await.unwrap_err());
    invalid(kv.set(vec![b'k'; KEY_BYTES_MAX + 1], "v").await.unwrap_err());
    invalid(kv.set("k", vec![0; VALUE_BYTES_MAX + 1]).await.unwrap_err());
}

/// The largest write that is accepted reaches every disk: an entry that no message could carry would
/// keep all later writes behind it. With what is around them, key and value are larger than any
/// payload of an application.
#[tokio::test]
async fn largest_key_and_value_are_replicated() {
    let cluster = TestCluster::start(3).await.unwrap();
    let kv = cluster.kv().timeout(DEADLINE);
    let (key, value) = (vec![b'k'; KEY_BYTES_MAX], vec![0xA5; VALUE_BYTES_MAX]);
    kv.set(key.clone(), value.clone()).await.unwrap();
    let found = kv.get(key).await.unwrap().unwrap();
    assert!(found.value == value, "the value came back changed");
    kv.set("next", "small").await.unwrap();
    cluster.wait_healthy(DEADLINE).await.unwrap();
}

/// Each of many clients sees its own writes, in its own order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundred_concurrent_clients_each_read_what_they_wrote() {
    let cluster = TestCluster::start(3).await.unwrap();
    let mut through = Vec::new();
    for number in 0..3 {
        through.push(cluster.kv_through(number).await.unwrap());
    }
    let client = |number: usize| {
        let kv = through[number % 3].clone().timeout(DEADLINE);
        tokio::spawn(async move {
            let key = format!("key-{number}");
            let mut revision = 0;
            for round in 0..10 {
                let value = format!("{number}-{round}");
                let written = kv.set(key.clone(), value.clone()).await.unwrap();
                assert!(written.revision > revision, "revisions grow");
                revision = written.revision;
                assert_eq!(read(&kv, &key).await.unwrap(), value);
            }
        })
    };
    for client in (0..100).map(client).collect::<Vec<_>>() {
        client.await.unwrap();
    }
    let leader = cluster.leader().await.unwrap();
    assert_eq!(status(cluster.replica(leader)).await.waiting, Default::default());
}

/// A cluster of one is its own quorum, and keeps what it wrote.
#[tokio::test]
async fn single_member_is_its_own_quorum() {
    let mut cluster = TestCluster::start(1).await.unwrap();
    cluster.kv().set("k", "v").await.unwrap();
    cluster.kill(0);
    cluster.restart(0).await.unwrap();
    assert_eq!(read(&cluster.kv().timeout(DEADLINE), "k").await.unwrap(), "v");
}

// ---- loss and return -----------------------------------------------------------------------

/// The leader is the node that everything depends on; any of them may be it and may be lost.
#[tokio::test]
async fn writes_go_on_when_leaders_are_lost_one_after_the_other() {
    let mut cluster = TestCluster::start(3).await.unwrap();
    let kv = cluster.kv().timeout(DEADLINE);
    for round in 0..3 {
        let key = format!("before-{round}");
        kv.set(key.clone(), "acknowledged").await.unwrap();
        let leader = cluster.leader().await.unwrap();
        cluster.kill(leader);
        assert_eq!(read(&kv, &key).await.unwrap(), "acknowledged");
        kv.set(format!("after-{round}"), "acknowledged").await.unwrap();
        assert_ne!(cluster.leader().await.unwrap(), leader);
        cluster.restart(leader).await.unwrap();
        cluster.wait_healthy(DEADLINE).await.unwrap();
    }
    for round in 0..3 {
        assert_eq!(read(&kv, &format!("before-{round}")).await.unwrap(), "acknowledged");
        assert_eq!(read(&kv, &format!("after-{round}")).await.unwrap(), "acknowledged");
    }
}

/// A reader that was answered by a new leader must not be answered by the old one later.
#[tokio::test]
async fn reads_never_go_back_while_the_leadership_changes() {
    let mut cluster = TestCluster::start(3).await.unwrap();
    let writer = cluster.kv().timeout(DEADLINE);
    let leader = cluster.leader().await.unwrap();
    let follower = other_than(&cluster, leader);
    let reader = cluster.kv_through(follower).await.unwrap().timeout(DEADLINE);
    writer.set("count", "0").await.unwrap();
    let acknowledged = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let floor = std::sync::Arc::clone(&acknowledged);
    let reading = tokio::spawn(async move {
        let mut highest = 0;
        while highest < 60 {
            let least = floor.load(std::sync::atomic::Ordering::SeqCst).max(highest);
            let seen = read(&reader, "count").await.unwrap();
            let seen: u64 = std::str::from_utf8(&seen).unwrap().parse().unwrap();
            assert!(seen >= least, "read {seen} after {least} was acknowledged or read");
            highest = seen;
        }
    });
    for count in 1..=60_u64 {
        if count == 20 {
            cluster.kill(leader);
        }
        // A write that the old leader took with it may have been done; doing it again is the same.
        while let Err(error) = writer.set("count", count.to_string()).await {
            assert_eq!(error.effect(), Effect::Unknown, "{error}");
        }
        acknowledged.store(count, std::sync::atomic::Ordering::SeqCst);
    }
    tokio::time::timeout(DEADLINE, reading).await.unwrap().unwrap();
}

/// Without a quorum nothing is acknowledged, and everybody hears so in time and with the truth
/// about what may have happened.
#[tokio::test]
async fn minority_refuses_in_time_and_says_whether_it_proposed() {
    let mut cluster = TestCluster::start(3).await.unwrap();
    let timeout = Duration::from_millis(1_500);
    cluster.kv().set("k", "before").await.unwrap();
    let leader = cluster.leader().await.unwrap();
    let kv = cluster.kv_through(leader).await.unwrap().timeout(timeout);
    // The first write opens the session.
    kv.set("k", "before").await.unwrap();
    for number in (0..3).filter(|number| *number != leader) {
        cluster.kill(number);
    }

    // It still leads, so the write is in its log: it may yet be committed.
    let began = Instant::now();
    let first = kv.set("k", "proposed").await.unwrap_err();
    assert_eq!((first.code(), first.effect()), (ErrorCode::QuorumFailed, Effect::Unknown));
    assert!(began.elapsed() < timeout + SLACK, "{:?}", began.elapsed());
    until("stepped down", async || {
        (status(cluster.replica(leader)).await.role != Role::Leader).then_some(())
    })
    .await;

    let began = Instant::now();
    let second = kv.set("k", "never proposed").await.unwrap_err();
    assert_eq!((second.code(), second.effect()), (ErrorCode::NoQuorum, Effect::None));
    let read_error = kv.get("k").await.unwrap_err();
    assert_eq!((read_error.code(), read_error.effect()), (ErrorCode::NoQuorum, Effect::None));
    assert!(began.elapsed() < 2 * timeout + SLACK, "{:?}", began.elapsed());

    cluster.restart(other_than(&cluster, leader)).await.unwrap();
    let found = read(&kv.timeout(DEADLINE), "k").await.unwrap();
    assert!(found == "before" || found == "proposed", "{found:?}");
}

/// A follower that was away is brought to the present by the leader alone, while writes go on, and
/// the leader can tell how it went.
#[tokio::test]
async fn returning_follower_catches_up_while_writes_go_on() {
    let mut cluster = TestCluster::start(3).await.unwrap();
    let kv = cluster.kv().timeout(DEADLINE);
    let leader = cluster.leader().await.unwrap();
    let away = other_than(&cluster, leader);
    cluster.kill(away);
    let write = |number: usize| kv.set(format!("key-{number}"), vec![b'v'; 4_096]);
    for number in 0..200 {
        write(number).await.unwrap();
    }
    until("seen to lag", async || {
        let repair = status(cluster.replica(leader)).await.repair;
        (repair.rounds > 0 && repair.behind == 1).then_some(())
    })
    .await;

    cluster.restart(away).await.unwrap();
    for number in 200..300 {
        write(number).await.unwrap();
    }
    cluster.wait_healthy(DEADLINE).await.unwrap();
    let repaired = until("seen to have caught up", async || {
        let status = status(cluster.replica(leader)).await;
        assert_eq!(status.role, Role::Leader, "nobody disturbed the leader");
        (status.repair.behind == 0).then_some(status.repair.entries)
    })
    .await;
    assert!(repaired >= 100, "{repaired} entries were counted");
    // Its own state, not the leader's.
    let query = zmesh::kv::Query::Get { key: "key-299".into() }.encode().unwrap();
    let own = cluster.replica(away).read_stale(query).await.unwrap();
    assert!(matches!(Response::decode(&own.response), Ok(Response::Value { .. })), "{own:?}");
}

/// The disks alone are enough to go on, whether the nodes stopped in order or not.
#[tokio::test]
async fn every_acknowledged_write_survives_a_restart_of_all_nodes() {
    let mut cluster = TestCluster::start(3).await.unwrap();
    for round in 0..2 {
        let kv = cluster.kv().timeout(DEADLINE);
        let mut revisions = Vec::new();
        for number in 0..20 {
            let written = kv.set(format!("{round}-{number}"), number.to_string()).await.unwrap();
            revisions.push(written.revision);
        }
        for number in 0..3 {
            match round {
                0 => cluster.kill(number),
                _ => cluster.stop(number).await,
            }
        }
        for number in 0..3 {
            cluster.restart(number).await.unwrap();
        }
        cluster.wait_healthy(DEADLINE).await.unwrap();
        for (number, revision) in revisions.into_iter().enumerate() {
            let found = kv.get(format!("{round}-{number}")).await.unwrap().unwrap();
            assert_eq!((found.value, found.revision), (number.to_string().into(), revision));
        }
    }
}

// ---- directories ---------------------------------------------------------------------------

/// A member that lost its disk has forgotten its votes: letting it vote again could elect a leader
/// without the acknowledged writes. It must stay out, and the others must not need it.
#[tokio::test]
async fn member_with_a_wiped_directory_stays_out_and_does_not_vote() {
    let mut cluster = TestCluster::start(3).await.unwrap();
    let kv = cluster.kv().timeout(DEADLINE);
    kv.set("k", "v").await.unwrap();
    let leader = cluster.leader().await.unwrap();
    let wiped = other_than(&cluster, leader);
    cluster.kill(wiped);
    std::fs::remove_dir_all(cluster.data_dir(wiped)).unwrap();
    cluster.restart(wiped).await.unwrap();
    let reason = why_stopped(cluster.replica(wiped)).await;
    assert!(reason.contains("has begun without this directory"), "{reason}");
    let not_ready = cluster.replica(wiped).ready(DEADLINE).await.unwrap_err();
    assert_eq!(not_ready, ReplicaError::Io { reason }, "whoever waits is told why");

    kv.set("k", "the others go on").await.unwrap();
    assert_eq!(read(&kv, "k").await.unwrap(), "the others go on");

    // One member and one outsider are no quorum of three.
    cluster.kill(leader);
    let remaining = (0..3).find(|number| ![leader, wiped].contains(number)).unwrap();
    until("nobody leads", async || {
        let leader = cluster.replica(remaining).leadership().borrow().leader.clone();
        leader.is_none().then_some(())
    })
    .await;
    let alone = cluster.kv_through(remaining).await.unwrap().timeout(Duration::from_secs(2));
    let error = alone.set("k", "lost").await.unwrap_err();
    assert_eq!((error.code(), error.effect()), (ErrorCode::NoQuorum, Effect::None), "{error}");
}

/// A lost log is a lost disk, whatever else is left of the directory.
#[tokio::test]
async fn member_that_lost_its_log_only_does_not_come_back_as_its_former_self() {
    let mut cluster = TestCluster::start(3).await.unwrap();
    let kv = cluster.kv().timeout(DEADLINE);
    kv.set("k", "v").await.unwrap();
    let wiped = other_than(&cluster, cluster.leader().await.unwrap());
    cluster.kill(wiped);
    for file in std::fs::read_dir(cluster.data_dir(wiped)).unwrap() {
        let path = file.unwrap().path();
        if path.file_name().unwrap() == "meta" || path.extension().is_some() {
            std::fs::remove_file(path).unwrap();
        }
    }
    cluster.restart(wiped).await.unwrap();
    let reason = why_stopped(cluster.replica(wiped)).await;
    assert!(reason.contains("has begun without this directory"), "{reason}");
}

/// Two processes on one log would be two voters with one name; a log under another name likewise.
#[tokio::test]
async fn directory_in_use_or_of_another_node_is_refused() {
    let mut cluster = TestCluster::start(3).await.unwrap();
    let members = ["n1", "n2", "n3"];
    let intruder = Node::builder("n1").start().unwrap();
    let second = lone_replica(&intruder, cluster.data_dir(0), &members);
    let reason = why_stopped(&second).await;
    assert!(reason.contains("another process") || reason.contains("in use"), "{reason}");

    cluster.stop(0).await;
    let imposter = Node::builder("n4").start().unwrap();
    let stolen = lone_replica(&imposter, cluster.data_dir(0), &members);
    let reason = why_stopped(&stolen).await;
    assert!(reason.contains("belongs to node n1, not to n4"), "{reason}");
    drop(stolen);

    cluster.restart(0).await.unwrap();
    cluster.wait_healthy(DEADLINE).await.unwrap();
}

// ---- before the beginning and after the end ------------------------------------------------

/// As long as not every initial member was seen there is nothing to propose to: callers hear that
/// within their own deadline, not when the cluster forms one day.
#[tokio::test]
async fn forming_replica_answers_within_the_deadline_that_nothing_was_proposed() {
    let dir = tempfile::tempdir().unwrap();
    let first = Node::builder("n1").bind("tcp://127.0.0.1:0").start().unwrap();
    let replica = lone_replica(&first, &dir.path().join("n1"), &["n1", "n2"]);
    let seed = first.address().unwrap().clone();
    let timeout = Duration::from_millis(400);

    let command = Bytes::from_static(b"\x01\x01\0\0\0kv");
    let began = Instant::now();
    let local = replica.propose(command, timeout).await.unwrap_err();
    assert_eq!((local.code(), local.effect()), (ErrorCode::NotFormed, Effect::None));
    let local = replica.read(Bytes::from_static(b"\x01k"), timeout).await.unwrap_err();
    let forming = ReplicaError::NotFormed { missing: vec!["n2".parse().unwrap()] };
    assert_eq!(local, forming);
    let stale = replica.read_stale(Bytes::from_static(b"\x01k")).await.unwrap_err();
    assert_eq!(stale, forming);

    let client = Node::builder("client").connect(&seed).start().unwrap();
    client.wait_for_peers(&Filter::any(), 1, DEADLINE).await.unwrap();
    let kv = Kv::new(&client).timeout(timeout);
    let error = kv.set("k", "too early").await.unwrap_err();
    assert_eq!((error.code(), error.effect()), (ErrorCode::NotFormed, Effect::None), "{error}");
    let error = kv.get("k").await.unwrap_err();
    assert_eq!((error.code(), error.effect()), (ErrorCode::NotFormed, Effect::None), "{error}");
    assert!(began.elapsed() < 4 * timeout + SLACK, "{:?}", began.elapsed());

    let second = Node::builder("n2").bind("tcp://127.0.0.1:0").connect(&seed).start().unwrap();
    let _other = lone_replica(&second, &dir.path().join("n2"), &["n1", "n2"]);
    replica.ready(DEADLINE).await.unwrap();
    let kv = kv.timeout(DEADLINE);
    assert_eq!(kv.get("k").await.unwrap(), None, "what was refused came back from the dead");
    kv.set("k", "v").await.unwrap();
}

/// A replica that has stopped on a node that lives on must send its clients away at once: it says
/// that it has no replica, keeps no label, and they go elsewhere.
#[tokio::test]
async fn stopped_replica_sends_its_clients_away() {
    let cluster = TestCluster::start(3).await.unwrap();
    let leader = cluster.leader().await.unwrap();
    let mut raw = Raw::join("stranger", cluster.node(leader).address().unwrap()).await;
    let kv = cluster.kv().timeout(DEADLINE);
    kv.set("k", "v").await.unwrap();

    cluster.replica(leader).stop();
    assert_eq!(why_stopped(cluster.replica(leader)).await, "the replica was stopped");
    let began = Instant::now();
    for subject in ["_kv.command", "_kv.command.direct", "_kv.query", "_kv.query.stale"] {
        let (code, message) = raw.request(subject, b"\x01\x01\0\0\0kv").await.unwrap_err();
        assert_eq!(code, ErrorCode::NoReplica, "{subject}: {message}");
    }
    assert!(began.elapsed() < SLACK, "{:?}", began.elapsed());
    let ended = cluster.replica(leader).propose(Bytes::from_static(b"\x02k"), DEADLINE).await;
    assert_eq!(ended.unwrap_err().effect(), Effect::None);
    let labels = cluster.node(leader).labels();
    assert!(labels.keys().all(|name| !name.starts_with("_kv.")), "{labels:?}");

    assert_eq!(read(&kv, "k").await.unwrap(), "v");
    kv.set("k", "the others go on").await.unwrap();
}

/// A replica goes with its node, and says so to whoever waits for it.
#[tokio::test]
async fn replica_ends_with_its_node_in_every_phase() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::builder("n1").bind("tcp://127.0.0.1:0").start().unwrap();
    let forming = lone_replica(&node, &dir.path().join("forming"), &["n1", "n2"]);
    node.stop().await;
    why_stopped(&forming).await;

    let node = Node::builder("n1").bind("tcp://127.0.0.1:0").start().unwrap();
    let running = lone_replica(&node, &dir.path().join("running"), &["n1"]);
    running.ready(DEADLINE).await.unwrap();
    node.stop().await;
    why_stopped(&running).await;
}

// ---- strangers -----------------------------------------------------------------------------

/// Input 28: what is no command is refused and changes nothing, on no replica.
#[tokio::test]
async fn bytes_that_are_no_command_are_refused_and_change_nothing() {
    let cluster = TestCluster::start(3).await.unwrap();
    let kv = cluster.kv();
    kv.set("k", "v").await.unwrap();
    let mut raw = Raw::join("stranger", cluster.node(0).address().unwrap()).await;
    let (code, _) = raw.request("_kv.command", b"").await.unwrap_err();
    assert_eq!(code, ErrorCode::InvalidPayload);
    let long_key = [&b"\x00\x02"[..], &vec![b'k'; KEY_BYTES_MAX + 1]].concat();
    let bad: [&[u8]; 8] = [
        b"\x00",
        b"\x01junk",
        b"\x09junk",
        b"\x00\x07junk",
        b"\x00\x01",
        b"\x00\x01\xff\xff\xff\xffk",
        b"\x00\x01\0\0\0\0",
        &long_key,
    ];
    for command in bad {
        match raw.request("_kv.command", command).await {
            Ok(answer) => match session::Outcome::decode(&answer.slice(17..)).unwrap() {
                session::Outcome::Done { response, .. } => {
                    let response = Response::decode(&response).unwrap();
                    assert!(matches!(response, Response::Refused(_)), "{command:?}");
                }
                session::Outcome::Refused(error) => assert_eq!(error, SessionError::Malformed),
            },
            Err((code, message)) => {
                assert_eq!(code, ErrorCode::InvalidPayload, "{command:?}: {message}");
            }
        }
        let answer = raw.request("_kv.query", b"\x09").await.unwrap();
        assert!(matches!(Response::decode(&answer.slice(17..)), Ok(Response::Refused(_))));
    }
    let found = kv.get("k").await.unwrap().unwrap();
    assert_eq!(found.value, "v");
    cluster.wait_healthy(DEADLINE).await.unwrap();
}

/// Input 29: whoever is no member cannot take part, whatever it sends, and is counted.
#[tokio::test]
async fn frames_of_a_node_that_is_no_member_are_refused_and_counted() {
    let cluster = TestCluster::start(3).await.unwrap();
    let leader = cluster.leader().await.unwrap();
    let before = status(cluster.replica(leader)).await;
    let mut raw = Raw::join("stranger", cluster.node(leader).address().unwrap()).await;
    let mut rng = fastrand::Rng::with_seed(29);
    for bytes in 0..50 {
        let frame: Vec<u8> = (0..bytes).map(|_| rng.u8(..)).collect();
        raw.tick("_kv.raft", &frame);
    }
    let after = until("counted", async || {
        let after = status(cluster.replica(leader)).await;
        (after.refusals.not_member >= before.refusals.not_member + 50).then_some(after)
    })
    .await;
    assert_eq!((after.term, after.role), (before.term, Role::Leader));
    cluster.kv().set("k", "v").await.unwrap();
}

/// Somebody who takes a member's place in the mesh, and replays and garbles what the others send
/// it, cannot disturb them: a frame is for one receiver of one cluster, and every field is checked.
#[tokio::test]
async fn garbled_and_replayed_frames_under_a_members_name_do_no_harm() {
    let mut cluster = TestCluster::start(3).await.unwrap();
    let kv = cluster.kv().timeout(DEADLINE);
    kv.set("k", "v").await.unwrap();
    let leader = cluster.leader().await.unwrap();
    let absent = other_than(&cluster, leader);
    let name = cluster.id(absent).clone();
    cluster.kill(absent);
    let gone = async || cluster.node(leader).peers().iter().all(|p| p.node != name).then_some(());
    until("gone", gone).await;
    let before = status(cluster.replica(leader)).await;
    let mut raw = Raw::join(name.as_str(), cluster.node(leader).address().unwrap()).await;
    raw.hear(10).await;
    let frames = raw.ticks.clone();
    let mut rng = fastrand::Rng::with_seed(7);
    let mut sent = 0;
    for frame in &frames {
        raw.tick("_kv.raft", frame);
        // From and to are swapped, so that only what is wrong on purpose is wrong.
        let mut ours = frame.to_vec();
        ours[20..36].rotate_left(8);
        raw.tick("_kv.raft", &ours);
        sent += 2;
        for _ in 0..20 {
            let mut garbled = ours.clone();
            match rng.bool() {
                // Version, number of messages, cluster.
                true => garbled[rng.usize(0..20)] ^= 1 << rng.u8(0..8),
                false => garbled.truncate(rng.usize(0..garbled.len())),
            }
            raw.tick("_kv.raft", &garbled);
            sent += 1;
        }
    }
    let counted = |status: &Status| {
        let refusals = status.refusals;
        refusals.impossible + refusals.malformed + refusals.not_member
    };
    let after = until("counted", async || {
        let status = status(cluster.replica(leader)).await;
        (counted(&status) == counted(&before) + sent).then_some(status)
    })
    .await;
    assert_eq!((after.term, after.role), (before.term, Role::Leader));
    kv.set("k", "still works").await.unwrap();
    drop(raw);
    until("gone", gone).await;
    cluster.restart(absent).await.unwrap();
    cluster.wait_healthy(DEADLINE).await.unwrap();
    assert_eq!(read(&kv, "k").await.unwrap(), "still works");
}

/// Names in answers are those of the members.
#[tokio::test]
async fn status_names_the_members_and_the_leader() {
    let cluster = TestCluster::start(3).await.unwrap();
    let leader = cluster.leader().await.unwrap();
    for number in 0..3 {
        let status = status(cluster.replica(number)).await;
        let mut names: Vec<NodeId> = status.members.into_iter().map(|m| m.node).collect();
        names.sort();
        assert_eq!(names, ["n1", "n2", "n3"].map(|id| id.parse().unwrap()));
        assert_eq!(status.leader.as_ref(), Some(cluster.id(leader)));
    }
}

/// A service that runs a replica itself needs no link to another one, whether it leads or follows;
/// and what it wraps around its own handlers does not come between replicas.
#[tokio::test]
async fn node_uses_its_own_replica_and_middleware_stays_out_of_it() {
    let cluster = TestCluster::start(3).await.unwrap();
    for number in 0..3 {
        cluster.node(number).wrap(async |_: Call, _: Next| -> Outcome {
            Err(HandlerError::refused("not for the system"))
        });
    }
    for number in 0..3 {
        let (node, replica) = (cluster.node(number), cluster.replica(number));
        let kv = Kv::local(node, replica).timeout(DEADLINE);
        kv.set("k", format!("from {number}")).await.unwrap();
        assert_eq!(read(&cluster.kv(), "k").await.unwrap(), format!("from {number}"));
        assert_eq!(read(&kv, "k").await.unwrap(), format!("from {number}"));
    }
}
