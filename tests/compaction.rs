//! Compaction by key on real nodes: the disk gets back what others have followed, and nobody misses
//! anything else, whoever is killed meanwhile.
#![expect(clippy::unwrap_used, reason = "a test; the allowance does not reach functions beside it")]

use std::collections::BTreeMap;
use std::time::Duration;

use zmesh::log::groups::GroupOptions;
use zmesh::log::{
    Compaction, ReadLimits, Record, Refusal, Start, Stored, Topic, TopicOptions, Upkeep,
};
use zmesh::replica;
use zmesh::testing::TestCluster;

mod files;
mod waiting;

use files::bytes_of;
use waiting::{DEADLINE, until};

const MIB: u64 = 1 << 20;
const KEYS: u64 = 100;
const VALUE_BYTES: usize = 400;

/// Three members that compact and snapshot as soon as there is anything to be had.
async fn cluster() -> TestCluster {
    let options = replica::Options { snapshot_bytes: 2 << 20, ..Default::default() };
    let cluster = TestCluster::builder(3).options(options).log_groups(1).start().await.unwrap();
    (0..3).for_each(|node| keep(&cluster, node));
    cluster
}

fn keep(cluster: &TestCluster, node: usize) {
    let upkeep = Upkeep { every: Duration::from_millis(20), slack_bytes: 1 << 20 };
    zmesh::log::keep(&cluster.log_replicas(node)[0], upkeep);
}

async fn topic(cluster: &TestCluster) -> Topic {
    let topic = cluster.log().timeout(DEADLINE).topic("prices");
    let compaction = Some(Compaction::default());
    topic.create(TopicOptions { compaction, ..Default::default() }).await.unwrap();
    topic
}

fn record(number: u64) -> Record {
    let value = format!("{number:0width$}", width = VALUE_BYTES);
    Record::with_key(format!("key-{}", number % KEYS), value)
}

fn number(stored: &Stored) -> u64 {
    std::str::from_utf8(stored.value()).unwrap().parse().unwrap()
}

async fn write(topic: &Topic, numbers: std::ops::Range<u64>) {
    for begin in numbers.clone().step_by(50) {
        let records = (begin..numbers.end.min(begin + 50)).map(record).collect();
        topic.append_batch(records).await.unwrap();
    }
}

/// What comes, or the test fails.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what).await.expect("nothing came")
}

async fn read_all(topic: &Topic) -> Vec<Stored> {
    let (mut all, mut from) = (Vec::<Stored>::new(), 0);
    loop {
        let page =
            topic.read(from, ReadLimits { records: 500, ..Default::default() }).await.unwrap();
        let Some(last) = page.records.last() else {
            assert_eq!(page.end, from, "there is nothing where something is");
            return all;
        };
        from = last.offset + 1;
        all.extend(page.records);
    }
}

/// Whoever reads all knows the last value of every key, and reads nothing that was not written.
fn check(found: &[Stored], written: u64) {
    assert!(found.windows(2).all(|pair| pair[0].offset < pair[1].offset));
    assert!(found.iter().all(|stored| stored.offset == number(stored)));
    let last: BTreeMap<_, _> =
        found.iter().map(|stored| (stored.key().unwrap(), number(stored))).collect();
    let mut last: Vec<_> = last.into_values().collect();
    last.sort_unstable();
    assert_eq!(last, (written - KEYS..written).collect::<Vec<_>>());
}

/// The promise: a topic with a hundred keys that are written again and again does not fill the disk,
/// a reader who follows sees the last value of every key, and so does whoever comes later, on
/// whichever replica, though leaders are killed meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn last_record_of_each_key_stays_though_leaders_are_killed() {
    const ROUNDS: u64 = 4;
    const WRITTEN: u64 = 20_000;
    let mut cluster = cluster().await;
    let topic = topic(&cluster).await;
    let mut tail = topic.tail(Start::First);
    let reader = tokio::spawn(async move {
        let mut seen = Vec::new();
        while seen.last().is_none_or(|last: &Stored| last.offset + 1 < ROUNDS * WRITTEN) {
            seen.push(soon(tail.next()).await.unwrap());
        }
        seen
    });
    for round in 0..ROUNDS {
        let from = round * WRITTEN;
        write(&topic, from..from + WRITTEN / 2).await;
        let leader = cluster.log_leader(0).await.unwrap();
        cluster.kill(leader);
        write(&topic, from + WRITTEN / 2..from + WRITTEN).await;
        cluster.restart(leader).await.unwrap();
        keep(&cluster, leader);
    }
    check(&reader.await.unwrap(), ROUNDS * WRITTEN);
    let written = ROUNDS * WRITTEN * VALUE_BYTES as u64;
    assert!(written > 30 * MIB);
    let dirs: Vec<_> = (0..3).map(|node| cluster.data_dir(node).with_file_name("log0")).collect();
    let view = until("compacted", async || {
        let view = topic.view().await.unwrap();
        // About what the keys need, the newest few KiB, and what has come since the last round.
        (view.bytes < 4 * KEYS * VALUE_BYTES as u64).then_some(view)
    })
    .await;
    assert_eq!((view.first, view.next), (0, ROUNDS * WRITTEN));
    let mut more = ROUNDS * WRITTEN;
    until("small", async || {
        // Snapshots are taken where something happens.
        write(&topic, more..more + 1_000).await;
        more += 1_000;
        dirs.iter().all(|dir| bytes_of(dir) < 14 * MIB).then_some(())
    })
    .await;
    check(&read_all(&topic).await, more);
    // Each of them by itself, also what came to it by a snapshot.
    for node in 0..3 {
        let local = cluster.log_replicas(node).to_vec();
        let log = zmesh::log::Log::local(cluster.node(node), local).timeout(DEADLINE);
        let mut tail = log.topic("prices").tail(Start::First);
        let mut seen = Vec::new();
        while seen.last().is_none_or(|last: &Stored| last.offset + 1 < more) {
            seen.push(soon(tail.next()).await.unwrap());
        }
        check(&seen, more);
    }
}

/// A group of consumers comes to the end of a topic whose records are gone under its hands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn group_passes_over_what_is_gone() {
    let cluster = cluster().await;
    let topic = topic(&cluster).await;
    let group = topic.group("workers");
    group.create(Start::First, GroupOptions::default()).await.unwrap();
    write(&topic, 0..5_000).await;
    until("compacted", async || {
        let view = topic.view().await.unwrap();
        (view.bytes < 4 * KEYS * VALUE_BYTES as u64).then_some(())
    })
    .await;
    let left = read_all(&topic).await;
    assert!(left.len() < 1_000, "{} are left", left.len());
    let mut member = group.member("one").join().await.unwrap();
    let mut seen = Vec::new();
    while seen.last() != Some(&4_999) {
        let delivery = soon(member.next()).await.unwrap();
        seen.push(delivery.offset);
        delivery.ack().await.unwrap();
    }
    assert!(left.iter().all(|stored| seen.contains(&stored.offset)), "{seen:?}");
    let status = until("all is done", async || {
        let status = group.status().await.unwrap();
        (status.lag == 0 && status.in_flight == 0).then_some(status)
    })
    .await;
    assert_eq!((status.next, status.dead), (5_000, 0));
}

/// What could never be followed is refused at once, with a word that helps.
#[tokio::test]
async fn record_without_a_key_is_refused() {
    let cluster = cluster().await;
    let topic = topic(&cluster).await;
    let error = topic.append(Record::new("x")).await.unwrap_err();
    assert_eq!(error, Refusal::KeyMissing.into());
    assert!(error.to_string().contains("need a key"), "{error}");
    assert_eq!(topic.append(record(0)).await.unwrap().first, 0);
}

/// Appends leave together, and one that the topic does not take must not cost the others of the same
/// handle.
#[tokio::test]
async fn record_without_a_key_costs_nobody_else() {
    let cluster = cluster().await;
    let topic = topic(&cluster).await;
    let append = |number: u64| {
        let (topic, is_good) = (topic.clone(), number % 3 != 1);
        let with_key = if is_good { record(number) } else { Record::new("x") };
        tokio::spawn(async move { (is_good, topic.append(with_key).await) })
    };
    // The first leaves alone, and these wait for it.
    let all: Vec<_> = (0..60).map(append).collect();
    for appended in all {
        match appended.await.unwrap() {
            (true, result) => drop(result.unwrap()),
            (false, result) => assert_eq!(result.unwrap_err(), Refusal::KeyMissing.into()),
        }
    }
    assert_eq!(topic.view().await.unwrap().next, 40);
}
