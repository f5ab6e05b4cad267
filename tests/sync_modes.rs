//! Replicas that do not sync every write: what their answers say, what a killed process and a machine
//! without power lose, and how they come back.
#![expect(clippy::unwrap_used, reason = "a test; the allowance does not reach functions beside it")]
#![expect(clippy::disallowed_methods, reason = "waits for what it wants to see, with a deadline")]

use std::time::{Duration, Instant};

use zmesh::replica::{AckLevel, Acks, Progress, Status, SyncMode};
use zmesh::testing::TestCluster;
use zmesh::{ErrorCode, replica};

const DEADLINE: Duration = Duration::from_secs(60);

async fn start(mode: SyncMode) -> TestCluster {
    TestCluster::builder(3).sync(mode).memory_disks().start().await.unwrap()
}

async fn status(cluster: &TestCluster, number: usize) -> Option<Status> {
    match cluster.replica(number).status().await {
        Progress::Running(status) => Some(*status),
        Progress::Doubtful | Progress::Forming { .. } | Progress::Stopped(_) => None,
    }
}

async fn until(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !look().await {
        assert!(Instant::now() < end, "never {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn write(cluster: &TestCluster, acks: Acks, key: String) -> AckLevel {
    let kv = cluster.kv().acks(acks).timeout(DEADLINE);
    kv.set(key, "v").await.unwrap().level
}

async fn has(cluster: &TestCluster, key: &str) -> bool {
    let kv = cluster.kv().timeout(DEADLINE);
    kv.get(key.to_owned()).await.unwrap().is_some()
}

/// A follower, and the other one.
fn followers(leader: usize) -> (usize, usize) {
    ((leader + 1) % 3, (leader + 2) % 3)
}

/// Raft ids and votes of the members, as one node knows them.
async fn members(cluster: &TestCluster, number: usize) -> Vec<(String, u64, bool)> {
    let Some(status) = status(cluster, number).await else { return Vec::new() };
    let members = status.members.into_iter();
    members.map(|member| (member.node.to_string(), member.raft_id, member.voter)).collect()
}

/// Waits until all three vote, and returns the raft id of one.
async fn until_voter(cluster: &TestCluster, number: usize, not: u64) -> u64 {
    let id = cluster.id(number).to_string();
    let mut found = 0;
    until("a voter again", async || {
        let leader = cluster.leader().await.unwrap();
        let members = members(cluster, leader).await;
        let own = members.iter().find(|(node, raft_id, _)| *node == id && *raft_id != not);
        found = own.map_or(0, |(_, raft_id, _)| *raft_id);
        members.len() == 3 && members.iter().all(|(_, _, voter)| *voter) && found != 0
    })
    .await;
    found
}

/// Nobody who reads an answer can believe that it is worth what a synced one is.
#[tokio::test]
async fn every_answer_of_a_replica_that_does_not_sync_says_so() {
    for mode in [SyncMode::Never, SyncMode::Interval(Duration::from_millis(100))] {
        let cluster = start(mode).await;
        for (acks, level) in [
            (Acks::Leader, AckLevel::LeaderUnsynced),
            (Acks::Quorum, AckLevel::QuorumUnsynced),
            (Acks::All { min_insync: 3 }, AckLevel::AllUnsynced),
        ] {
            assert_eq!(write(&cluster, acks, acks.to_string()).await, level, "{mode:?}");
            assert!(!level.is_durable() && level.reaches(acks));
        }
    }
}

/// A killed process leaves what it wrote to the system, which still runs: it goes on as itself.
#[tokio::test]
async fn killed_replica_comes_back_as_itself_with_everything() {
    let mut cluster = start(SyncMode::Never).await;
    let raft_ids = members(&cluster, cluster.leader().await.unwrap()).await;
    for number in 0..3 {
        write(&cluster, Acks::Quorum, format!("before-{number}")).await;
        cluster.kill(number);
        write(&cluster, Acks::Quorum, format!("without-{number}")).await;
        cluster.restart(number).await.unwrap();
        cluster.wait_healthy(DEADLINE).await.unwrap();
    }
    // All at once: nothing but the logs is left, and nothing is lost.
    (0..3).for_each(|number| cluster.kill(number));
    for number in 0..3 {
        cluster.restart(number).await.unwrap();
    }
    cluster.wait_healthy(DEADLINE).await.unwrap();
    assert_eq!(members(&cluster, cluster.leader().await.unwrap()).await, raft_ids);
    for number in 0..3 {
        for key in [format!("before-{number}"), format!("without-{number}")] {
            assert!(has(&cluster, &key).await, "{key}");
        }
    }
}

/// One machine after the other loses power, the leader's as well: each comes back as somebody else,
/// votes again, and nothing that was acknowledged is lost.
#[tokio::test]
async fn replica_whose_machine_lost_power_begins_anew_and_votes_again() {
    let mut cluster = start(SyncMode::Never).await;
    for round in 0..3 {
        for number in 0..20 {
            write(&cluster, Acks::Quorum, format!("{round}-{number}")).await;
        }
        let down = match round {
            2 => cluster.leader().await.unwrap(),
            _ => followers(cluster.leader().await.unwrap()).0,
        };
        let leader = cluster.leader().await.unwrap();
        let id = cluster.id(down).to_string();
        let known = members(&cluster, leader).await;
        let (_, former, _) = known.into_iter().find(|(node, ..)| *node == id).unwrap();
        cluster.cut_power(down);
        cluster.restart(down).await.unwrap();
        let raft_id = until_voter(&cluster, down, former).await;
        assert_ne!(raft_id, former);
        cluster.wait_healthy(DEADLINE).await.unwrap();
        let disk = cluster.disk(down).unwrap().clone();
        until("what was set aside is deleted", async || {
            let files = zmesh::wal::Disk::list(&disk, cluster.data_dir(down)).unwrap();
            !files.iter().any(|file| {
                let name = file.file_name().unwrap().to_string_lossy().into_owned();
                name.ends_with(".aside") || name.starts_with("rejoin")
            })
        })
        .await;
        for number in 0..20 {
            assert!(has(&cluster, &format!("{round}-{number}")).await);
        }
    }
}

/// A replica that stops in order has synced everything, and a power cut after it changes nothing.
#[tokio::test]
async fn replica_that_stopped_in_order_is_not_in_doubt() {
    let mut cluster = start(SyncMode::Never).await;
    write(&cluster, Acks::All { min_insync: 3 }, "k".to_owned()).await;
    let raft_ids = members(&cluster, cluster.leader().await.unwrap()).await;
    for number in 0..3 {
        cluster.stop(number).await;
        cluster.cut_power(number);
    }
    for number in 0..3 {
        cluster.restart(number).await.unwrap();
    }
    cluster.wait_healthy(DEADLINE).await.unwrap();
    assert!(has(&cluster, "k").await);
    assert_eq!(members(&cluster, cluster.leader().await.unwrap()).await, raft_ids);
}

/// When all lose power at once nobody can be believed. They stay out and say so, and the directories
/// are as they were, for an operator to recover one.
#[tokio::test]
async fn cluster_that_lost_power_as_a_whole_stays_out_and_changes_nothing() {
    let mut cluster = start(SyncMode::Never).await;
    write(&cluster, Acks::Quorum, "k".to_owned()).await;
    (0..3).for_each(|number| cluster.cut_power(number));
    for number in 0..3 {
        cluster.restart(number).await.unwrap();
    }
    for number in 0..3 {
        until("in doubt", async || {
            matches!(cluster.replica(number).status().await, Progress::Doubtful)
        })
        .await;
    }
    let kv = cluster.kv().timeout(Duration::from_secs(1));
    let error = kv.set("k", "v").await.unwrap_err();
    assert!([ErrorCode::NoQuorum, ErrorCode::NoReplica].contains(&error.code()), "{error}");
    for number in 0..3 {
        let disk = cluster.disk(number).unwrap();
        let files = zmesh::wal::Disk::list(disk, cluster.data_dir(number)).unwrap();
        assert!(files.iter().all(|file| !file.to_string_lossy().ends_with("aside")), "{files:?}");
        assert!(matches!(cluster.replica(number).status().await, Progress::Doubtful));
    }
}

/// A cluster of one has nobody to mislead: it goes on with what is left, which is what was synced.
#[tokio::test]
async fn lone_replica_goes_on_with_what_is_left() {
    let builder = TestCluster::builder(1).memory_disks();
    let mut cluster = builder.sync(SyncMode::Never).start().await.unwrap();
    assert_eq!(write(&cluster, Acks::Quorum, "lost".to_owned()).await, AckLevel::QuorumUnsynced);
    cluster.cut_power(0);
    cluster.restart(0).await.unwrap();
    cluster.wait_healthy(DEADLINE).await.unwrap();
    assert!(!has(&cluster, "lost").await);
    let kept = write(&cluster, Acks::Quorum, "kept".to_owned()).await;
    assert_eq!(kept, AckLevel::QuorumUnsynced);
    cluster.kill(0);
    cluster.restart(0).await.unwrap();
    cluster.wait_healthy(DEADLINE).await.unwrap();
    assert!(has(&cluster, "kept").await);
}

/// A follower that loses power in the middle of coming back begins once more.
#[tokio::test]
async fn second_power_cut_on_the_way_back_is_survived() {
    let options = replica::Options { promote_lag_max: 0, ..Default::default() };
    let builder = TestCluster::builder(3).memory_disks().sync(SyncMode::Never);
    let mut cluster = builder.options(options).start().await.unwrap();
    for number in 0..50 {
        write(&cluster, Acks::Quorum, number.to_string()).await;
    }
    let leader = cluster.leader().await.unwrap();
    let (down, _) = followers(leader);
    let id = cluster.id(down).to_string();
    let former = |members: Vec<(String, u64, bool)>| {
        members.into_iter().find(|(node, ..)| *node == id).map(|(_, raft_id, _)| raft_id)
    };
    let first = former(members(&cluster, leader).await).unwrap();
    cluster.cut_power(down);
    cluster.restart(down).await.unwrap();
    let mut second = first;
    until("replaced", async || {
        second = former(members(&cluster, leader).await).unwrap_or(first);
        second != first
    })
    .await;
    cluster.cut_power(down);
    cluster.restart(down).await.unwrap();
    // It had come to its end before the power went, or it begins anew once more.
    until_voter(&cluster, down, first).await;
    cluster.wait_healthy(DEADLINE).await.unwrap();
    for number in 0..50 {
        assert!(has(&cluster, &number.to_string()).await, "{number}");
    }
}

/// The power fails again and again before the new self has its place: which of its former selves is
/// the member does not matter.
#[tokio::test]
async fn power_cuts_before_the_place_is_taken_are_survived() {
    let mut cluster = start(SyncMode::Never).await;
    for number in 0..20 {
        write(&cluster, Acks::Quorum, number.to_string()).await;
    }
    let leader = cluster.leader().await.unwrap();
    let (down, _) = followers(leader);
    let id = cluster.id(down).to_string();
    let known = members(&cluster, leader).await;
    let (_, first, _) = known.into_iter().find(|(node, ..)| *node == id).unwrap();
    for _ in 0..4 {
        cluster.cut_power(down);
        cluster.restart(down).await.unwrap();
        let (disk, dir) = (cluster.disk(down).unwrap().clone(), cluster.data_dir(down));
        until("it begins anew", async || {
            let files = zmesh::wal::Disk::list(&disk, dir).unwrap();
            files.contains(&dir.join("rejoin")) && files.contains(&dir.join("unsynced"))
        })
        .await;
    }
    cluster.cut_power(down);
    cluster.restart(down).await.unwrap();
    until_voter(&cluster, down, first).await;
    cluster.wait_healthy(DEADLINE).await.unwrap();
    for number in 0..20 {
        assert!(has(&cluster, &number.to_string()).await, "{number}");
    }
}
