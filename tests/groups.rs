//! Several replicas on each node: what they say leaves together, and machines that leave their
//! messages in the log lose none of them when members come and go.
//!
//! Nothing sleeps for a fixed time: every test waits for what it wants to see, with a deadline.
#![expect(clippy::unwrap_used, reason = "a test; the allowance does not reach functions beside it")]

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use zmesh::Node;
use zmesh::consensus::Role;
use zmesh::host::{Host, HostError};
use zmesh::log::{ReadLimits, Record, TopicOptions, group_of};
use zmesh::presence::Heartbeat;
use zmesh::replica::{Client, Options, ReplicaSettings};
use zmesh::testing::TestCluster;

mod waiting;

use waiting::{DEADLINE, change, status, until};

#[path = "replica/journal.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod journal;

use journal::Journal;

const NAMES: [&str; 8] = [
    "journal0", "journal1", "journal2", "journal3", "journal4", "journal5", "journal6", "journal7",
];
/// Messages that a journal retains.
const RETAINED: usize = 500;

/// The number of the node that leads a service.
async fn leader(cluster: &TestCluster, name: &str, nodes: &[usize]) -> usize {
    until("a leader", async || {
        for number in nodes {
            let status = status(cluster.service(*number, name)).await;
            if status.is_some_and(|status| status.role == Role::Leader) {
                return Some(*number);
            }
        }
        None
    })
    .await
}

/// Envelopes and frames that the nodes have sent.
fn sent(cluster: &TestCluster) -> (u64, u64) {
    let statuses = (0..cluster.nodes()).map(|number| cluster.node(number).status());
    statuses.fold((0, 0), |(envelopes, frames), status| {
        (envelopes + status.counters.sent, frames + status.transport.sent)
    })
}

/// Nine idle groups have nine times the heartbeats of one, and not nine times the messages: those to
/// one node, and the answers to them, leave in one frame, since all groups of a node keep one beat.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_of_idle_groups_share_their_frames() {
    let long = Duration::from_secs(30);
    let heartbeat =
        Heartbeat { ping_interval: long, ghost_timeout: long * 3, ..Heartbeat::default() };
    let mut builder = TestCluster::builder(3).heartbeat(heartbeat);
    for name in NAMES {
        builder = builder.service(name, || Journal::new(RETAINED));
    }
    let cluster = builder.start().await.unwrap();
    for name in NAMES {
        leader(&cluster, name, &[0, 1, 2]).await;
    }
    let before = sent(&cluster);
    // Some twenty beats: 9 groups, 2 followers of each, there and back.
    let (envelopes, frames) = until("enough heartbeats", async || {
        let now = sent(&cluster);
        let (envelopes, frames) = (now.0 - before.0, now.1 - before.1);
        (envelopes > 9 * 2 * 2 * 20).then_some((envelopes, frames))
    })
    .await;
    // All on one leader it would be one frame in nine; on three leaders that is three in nine.
    assert!(frames * 2 < envelopes, "{frames} frames for {envelopes} envelopes");
}

/// Appends messages until a replica has applied so many.
async fn append(client: &Client, from: usize, count: usize) {
    for number in from..from + count {
        client.command(Bytes::from(format!("message {number:>200}"))).await.unwrap();
    }
}

/// A member that joins late gets everything that is retained, though the log in which it was written
/// has long been forgotten in part, and passes it on when the old members are gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_in_the_log_outlive_the_members_that_took_them() {
    const NAME: &str = NAMES[0];
    let options = Options {
        snapshot_entries: 100,
        snapshot_part_bytes: 1_000,
        repair_interval: Duration::from_millis(100),
        ..Options::default()
    };
    let builder = TestCluster::builder(3).options(options);
    let mut cluster = builder.service(NAME, || Journal::new(RETAINED)).start().await.unwrap();
    let client = Client::new(cluster.client(), NAME).timeout(DEADLINE);
    append(&client, 0, 1_200).await;
    let first = leader(&cluster, NAME, &[0, 1, 2]).await;
    until("a log that has forgotten something", async || {
        let status = status(cluster.service(first, NAME)).await?;
        (status.first_index > 300).then_some(())
    })
    .await;

    let timeout = Duration::from_secs(10);
    let new = cluster.join().await.unwrap();
    let new_id = cluster.id(new).clone();
    let asked = cluster.service(first, NAME);
    change("added", async || asked.add_learner(&new_id, timeout).await.map(drop)).await;
    append(&client, 1_200, 100).await;
    change("promoted", async || asked.promote(&new_id, timeout).await.map(drop)).await;
    change("made leader", async || asked.transfer(&new_id, timeout).await.map(drop)).await;
    let installed = status(cluster.service(new, NAME)).await.unwrap().snapshots.installed;
    assert_eq!(installed, 1, "it began with the whole log");
    let asked = cluster.service(new, NAME);
    let old: Vec<usize> = (0..3).filter(|number| *number != first).collect();
    for number in &old {
        let id = cluster.id(*number).clone();
        change("removed", async || match asked.remove(&id, timeout).await {
            // The first attempt was done, and its answer lost.
            Err(error) if error.code() == zmesh::ErrorCode::MemberUnknown => Ok(()),
            other => other.map(drop),
        })
        .await;
    }
    for number in old {
        cluster.kill(number);
    }
    append(&client, 1_300, 100).await;
    for number in [first, new] {
        let replica = cluster.service(number, NAME);
        let everything = async || {
            let answer = replica.read_stale(Bytes::new()).await.unwrap().response;
            (answer == RETAINED.to_string()).then_some(())
        };
        until("everything that is retained on both", everything).await;
    }
    let (_, answer) = client.query(Bytes::new()).await.unwrap();
    assert_eq!(answer.response, RETAINED.to_string());
}

/// The log in a test of one's own: groups beside the store, found by their label, each with its own
/// directory, and as they were after a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_with_log_groups_keeps_topics_over_a_restart() {
    let mut cluster = TestCluster::builder(3).log_groups(4).start().await.unwrap();
    let log = cluster.log().timeout(DEADLINE);
    assert_eq!(log.group_count().await.unwrap(), 4);
    let names: Vec<String> = (0..8).map(|number| format!("topic-{number}")).collect();
    for name in &names {
        log.topic(name).create(TopicOptions::default()).await.unwrap();
        log.topic(name).append(Record::new(name.clone())).await.unwrap();
    }
    let groups: BTreeSet<u16> = names.iter().map(|name| group_of(name, 4)).collect();
    assert!(groups.len() > 1, "the topics lie in one group");
    for number in 0..3 {
        assert_eq!(cluster.log_replicas(number).len(), 4);
        let dir = cluster.data_dir(number).parent().unwrap();
        assert!(dir.join("log3").join("meta").is_file() && dir.join("kv").join("meta").is_file());
        cluster.stop(number).await;
    }
    for number in 0..3 {
        cluster.restart(number).await.unwrap();
    }
    cluster.wait_healthy(DEADLINE).await.unwrap();
    let log = cluster.log().timeout(DEADLINE);
    for name in &names {
        let page = log.topic(name).read(0, ReadLimits::default()).await.unwrap();
        let values: Vec<_> = page.records.iter().map(|stored| stored.value()).collect();
        assert_eq!(values, [name.as_bytes()]);
    }
}

/// A member that was set up with another number would look for topics where they are not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_disagree_on_the_number_of_groups_do_not_begin() {
    let dir = tempfile::tempdir().unwrap();
    let members = vec!["n1".parse().unwrap(), "n2".parse().unwrap()];
    let first = Node::builder("n1").bind("tcp://127.0.0.1:0").start().unwrap();
    let address = first.address().unwrap().clone();
    let second = Node::builder("n2").connect(address).start().unwrap();
    let host = |node: &Node, groups| {
        let settings = ReplicaSettings::new(dir.path().join(node.id().as_str()), members.clone());
        Host::start(node, &settings, groups).unwrap()
    };
    let (two, three) = (host(&first, 2), host(&second, 3));
    // The store has all members it waits for, and does begin; the third group of the log does not.
    let told = tokio::time::timeout(DEADLINE, three.disagreement(&second)).await.unwrap();
    assert_eq!((told.node.as_str(), told.theirs.as_str(), told.ours), ("n1", "2", 3));
    let again = Host::start(&first, &ReplicaSettings::new(dir.path().join("n1"), members), 3);
    assert!(matches!(again, Err(HostError::GroupsDiffer { found: 2, asked: 3, .. })));
    drop(two);
}
