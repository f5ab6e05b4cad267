//! Levels of acknowledgement on real nodes, sockets and disks, against what may fail: each answer is
//! worth what it says, and says no more.
#![expect(clippy::unwrap_used, reason = "a test; the allowance does not reach functions beside it")]
#![expect(clippy::disallowed_methods, reason = "waits for what it wants to see, with a deadline")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use zmesh::consensus::Log;
use zmesh::kv::{Command, Kv};
use zmesh::replica::{self, AckLevel, Acknowledged, Acks, Client, InSync, Progress, Store};
use zmesh::testing::TestCluster;
use zmesh::{Effect, ErrorCode, consensus, wal};

#[path = "replica/raw.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod raw;

use raw::Raw;

const DEADLINE: Duration = Duration::from_secs(60);
/// Short, so that a replica that is down falls out of sync within a test.
const LAG_MAX: Duration = Duration::from_secs(1);
const ALL: Acks = Acks::All { min_insync: 1 };
const ALL_OF_TWO: Acks = Acks::All { min_insync: 2 };
const ALL_OF_THREE: Acks = Acks::All { min_insync: 3 };

/// A leader stays as long as nobody kills it, however slow the machine is.
async fn start() -> TestCluster {
    let options = replica::Options {
        consensus: consensus::Options {
            election_timeout_min: Duration::from_secs(1),
            election_timeout_max: Duration::from_secs(2),
            ..Default::default()
        },
        in_sync_lag_max: LAG_MAX,
        repair_interval: Duration::from_millis(100),
        ..Default::default()
    };
    TestCluster::builder(3).options(options).start().await.unwrap()
}

fn set(key: &str) -> Bytes {
    let key = Bytes::copy_from_slice(key.as_bytes());
    Command::Set { key, value: Bytes::from_static(b"v") }.encode().unwrap()
}

fn client(cluster: &TestCluster) -> Client {
    cluster.kv().client().clone().timeout(DEADLINE)
}

/// A write that has to succeed, and its level.
async fn write(kv: &Kv, acks: Acks, key: &str) -> AckLevel {
    kv.clone().acks(acks).timeout(DEADLINE).set(key.to_owned(), "v").await.unwrap().level
}

async fn has(kv: &Kv, key: &str) -> bool {
    kv.clone().timeout(DEADLINE).get(key.to_owned()).await.unwrap().is_some()
}

/// Waits until `look` is true.
async fn until(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !look().await {
        assert!(Instant::now() < end, "never {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until the leader takes so many voters for in sync.
async fn until_in_sync(cluster: &TestCluster, members: usize) -> InSync {
    let leader = cluster.leader().await.unwrap();
    let mut in_sync = cluster.replica(leader).in_sync();
    let right = |now: &InSync| now.members.len() == members && now.lagging.len() == 3 - members;
    let found = tokio::time::timeout(DEADLINE, in_sync.wait_for(right)).await;
    found.expect("it comes to be so").unwrap().clone()
}

/// A follower, and the other one.
fn followers(leader: usize) -> (usize, usize) {
    ((leader + 1) % 3, (leader + 2) % 3)
}

/// Whether the entry is in the log of a node that does not run.
fn is_on_disk(dir: &Path, (index, term): (u64, u64)) -> bool {
    let options = wal::Options { segment_bytes: 4 << 20, reserve_bytes: 0, ..Default::default() };
    let store = Store::open(Arc::new(wal::RealDisk), dir, options).unwrap().unwrap();
    store.log().term(index) == Some(term)
}

// ---- nothing fails -------------------------------------------------------------------------

/// Every level is reached and named, through the library and through the store.
#[tokio::test]
async fn every_level_is_reached_when_nothing_fails() {
    let cluster = start().await;
    let (kv, client) = (cluster.kv(), client(&cluster));
    for (acks, level) in [
        (Acks::None, AckLevel::None),
        (Acks::Leader, AckLevel::Leader),
        (Acks::Quorum, AckLevel::Quorum),
        (ALL, AckLevel::All),
        (ALL_OF_THREE, AckLevel::All),
    ] {
        assert_eq!(write(&kv, acks, &format!("kv-{acks}")).await, level);
        let (_, told) = client.command_with(set(&format!("client-{acks}")), acks).await.unwrap();
        assert_eq!(told.level(), level);
        match told {
            Acknowledged::Applied(applied) => assert!(!applied.response.is_empty(), "{acks}"),
            Acknowledged::Accepted { index, .. } => assert!(index > 0 && acks == Acks::Leader),
            Acknowledged::Sent => assert_eq!(acks, Acks::None),
        }
        for key in [format!("kv-{acks}"), format!("client-{acks}")] {
            until("it is there", async || has(&kv, &key).await).await;
        }
    }
}

/// A node with a replica passes every level on, whether its replica leads or not.
#[tokio::test]
async fn every_level_works_through_the_replica_of_the_same_node() {
    let cluster = start().await;
    let kv = cluster.kv();
    for number in 0..3 {
        let local = Kv::local(cluster.node(number), cluster.replica(number));
        for acks in [Acks::None, Acks::Leader, Acks::Quorum, ALL] {
            let key = format!("{number}-{acks}");
            assert!(write(&local, acks, &key).await.reaches(acks));
            until("it is there", async || has(&kv, &key).await).await;
        }
    }
}

/// What a client in another language sends and gets, byte by byte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn levels_on_the_wire_are_as_documented() {
    let cluster = start().await;
    let leader = cluster.leader().await.unwrap();
    let mut raw = Raw::join("stranger", cluster.node(followers(leader).0).address().unwrap()).await;
    let submission = [b"\0".as_slice(), &set("k")].concat();
    for (level, before) in
        [(0, &b"\x10"[..]), (1, b"\x11"), (2, b"\x12"), (2, b""), (3, b"\x13\x03")]
    {
        let answer = raw.request("_kv.command", &[before, &submission].concat()).await.unwrap();
        assert_eq!(answer[16], level);
        let index = u64::from_le_bytes(answer[..8].try_into().unwrap());
        assert_eq!(index == 0, level == 0, "only what nobody waits for has no index");
        assert_eq!(answer.len() == 17, level < 2, "an outcome comes with the quorum");
    }
    let (code, _) = raw.request("_kv.command", b"\x13").await.unwrap_err();
    assert_eq!(code, ErrorCode::InvalidPayload);
    let too_many = [b"\x13\x04".as_slice(), &submission].concat();
    let (code, message) = raw.request("_kv.command", &too_many).await.unwrap_err();
    assert_eq!(code, ErrorCode::InsufficientIsr, "{message}");
}

// ---- one follower is down ------------------------------------------------------------------

/// Only those who ask for three of three are refused, within the lag limit and without effect; when
/// the third is back, they are not.
#[tokio::test]
async fn with_one_follower_down_only_all_of_three_is_refused() {
    let mut cluster = start().await;
    let kv = cluster.kv();
    let (down, _) = followers(cluster.leader().await.unwrap());
    cluster.stop(down).await;
    let in_sync = until_in_sync(&cluster, 2).await;
    assert_eq!(in_sync.lagging, [cluster.id(down).clone()]);

    for acks in [Acks::Leader, Acks::Quorum, ALL, ALL_OF_TWO] {
        assert!(write(&kv, acks, &acks.to_string()).await.reaches(acks), "{acks}");
    }
    let refused = kv.clone().acks(ALL_OF_THREE).timeout(Duration::from_secs(1));
    let error = refused.set("refused", "v").await.unwrap_err();
    assert_eq!((error.code(), error.effect()), (ErrorCode::InsufficientIsr, Effect::None));
    assert!(!has(&kv, "refused").await);

    cluster.restart(down).await.unwrap();
    assert_eq!(write(&kv, ALL_OF_THREE, "again").await, AckLevel::All, "it waits for the third");
}

/// A write for all that is under way when a replica goes is committed, and its answer says so; the
/// client goes on and gets its level when the replica is back, and the write is done once.
#[tokio::test]
async fn write_for_all_outlasts_a_follower_that_comes_back() {
    let mut cluster = start().await;
    let kv = cluster.kv();
    let (down, _) = followers(cluster.leader().await.unwrap());
    cluster.kill(down);
    let writing = {
        let kv = kv.clone().acks(ALL_OF_THREE).timeout(DEADLINE);
        tokio::spawn(async move { kv.set("k", "v").await })
    };
    until("it is committed", async || has(&kv, "k").await).await;
    let revision = kv.get("k").await.unwrap().unwrap().revision;
    until_in_sync(&cluster, 2).await;
    cluster.restart(down).await.unwrap();
    let written = writing.await.unwrap().unwrap();
    assert_eq!((written.level, written.revision), (AckLevel::All, revision), "it was done once");
}

// ---- the quorum is lost --------------------------------------------------------------------

/// With two of three down nothing is claimed that needs a quorum; whatever the last one accepts is on
/// its disk, and a write that nobody waits for is counted where it ends.
#[tokio::test]
async fn without_a_quorum_accepted_writes_are_on_the_disk_of_one() {
    let mut cluster = start().await;
    let leader = cluster.leader().await.unwrap();
    let client = cluster.kv_through(leader).await.unwrap().client().clone();
    let (one, other) = followers(leader);
    cluster.kill(one);
    cluster.kill(other);
    let short = client.clone().timeout(Duration::from_secs(2));
    // It leads on for the time in which it misses the others.
    let accepted = short.command_with(set("accepted"), Acks::Leader).await;
    for acks in [Acks::Quorum, ALL, ALL_OF_TWO] {
        let error = short.command_with(set("lost"), acks).await.unwrap_err();
        let codes = [ErrorCode::NoQuorum, ErrorCode::QuorumFailed, ErrorCode::InsufficientIsr];
        assert!(codes.contains(&error.code()), "{acks}: {error}");
    }
    let dropped = async || match cluster.replica(leader).status().await {
        Progress::Running(status) => status.acks.unanswered_dropped,
        Progress::Doubtful | Progress::Forming { .. } | Progress::Stopped(_) => 0,
    };
    until("a write is dropped and counted", async || {
        client.command_with(set("gone"), Acks::None).await.unwrap();
        dropped().await > 0
    })
    .await;
    cluster.kill(leader);
    match accepted {
        Ok((_, Acknowledged::Accepted { index, term, level })) => {
            assert_eq!(level, AckLevel::Leader);
            assert!(is_on_disk(cluster.data_dir(leader), (index, term)));
        }
        Ok((_, told)) => panic!("no quorum was there for {told:?}"),
        // It was deposed before the write came.
        Err(error) => assert_eq!(error.effect(), Effect::None, "{error}"),
    }
}

// ---- the leader is killed right after it answered --------------------------------------------

/// What a quorum or all acknowledged is there under the next leader, however soon the old one dies.
#[tokio::test]
async fn acknowledged_write_survives_the_death_of_the_leader_that_answered() {
    let mut cluster = start().await;
    let kv = cluster.kv();
    for round in 0..6 {
        let acks = [Acks::Quorum, ALL, ALL_OF_TWO][round % 3];
        let key = format!("round-{round}");
        let leader = cluster.leader().await.unwrap();
        let written = write(&kv, acks, &key).await;
        cluster.kill(leader);
        assert!(written.reaches(acks));
        assert!(has(&kv, &key).await, "{acks} in round {round}");
        cluster.restart(leader).await.unwrap();
        cluster.wait_healthy(DEADLINE).await.unwrap();
    }
}

/// What the leader accepted is on its own disk when it dies right after; whether the others have it
/// is not promised, and what is there then is there everywhere or nowhere.
#[tokio::test]
async fn accepted_write_is_on_the_disk_of_the_leader_that_answered() {
    let mut cluster = start().await;
    let (kv, client) = (cluster.kv(), client(&cluster));
    for round in 0..4 {
        let key = format!("round-{round}");
        let leader = cluster.leader().await.unwrap();
        let (_, told) = client.command_with(set(&key), Acks::Leader).await.unwrap();
        cluster.kill(leader);
        if let Acknowledged::Accepted { index, term, .. } = told {
            assert!(is_on_disk(cluster.data_dir(leader), (index, term)), "round {round}");
        }
        cluster.restart(leader).await.unwrap();
        cluster.wait_healthy(DEADLINE).await.unwrap();
        let first = has(&kv, &key).await;
        let (one, _) = followers(cluster.leader().await.unwrap());
        assert_eq!(has(&cluster.kv_through(one).await.unwrap(), &key).await, first);
    }
}

/// A planned change of leader loses nothing that was accepted before, and every write of any level
/// meanwhile is answered truly: what is told as done is done.
#[tokio::test]
async fn handing_over_under_writes_loses_nothing_that_was_told() {
    let cluster = start().await;
    let (kv, client) = (cluster.kv(), client(&cluster));
    let mut accepted = Vec::new();
    for round in 0..6 {
        let leader = cluster.leader().await.unwrap();
        let next = cluster.id(followers(leader).0).clone();
        let handing_over = cluster.replica(leader).transfer(&next, DEADLINE);
        let writing = async {
            for number in 0..20 {
                let key = format!("{round}-{number}");
                match client.command_with(set(&key), Acks::Leader).await {
                    Ok(_) => accepted.push(key),
                    Err(error) => assert_eq!(error.effect(), Effect::None, "{error}"),
                }
            }
        };
        let (handed_over, ()) = tokio::join!(handing_over, writing);
        handed_over.unwrap();
    }
    assert!(!accepted.is_empty());
    for key in accepted {
        assert!(has(&kv, &key).await, "{key} was accepted");
    }
}
