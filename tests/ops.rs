//! Replicas that are damaged, on real nodes, sockets and disks: they notice, say so, and do no harm.
//!
//! Nothing sleeps for a fixed time: every test waits for what it wants to see, with a deadline.

use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use zmesh::log::Record;
use zmesh::replica::{
    Client, Effects, Image, InvalidSnapshot, Machine, Options, Past, Progress, StopCause,
};
use zmesh::testing::TestCluster;
use zmesh::wal;

mod waiting;

use waiting::{DEADLINE, status, until};

/// Counts commands; one that is astray miscounts once it has seen some.
#[derive(Default)]
struct Counter {
    count: u64,
    is_astray: bool,
}

impl Machine for Counter {
    fn apply(&mut self, _index: u64, _command: &Bytes, _effects: &mut Effects) -> Bytes {
        self.count += if self.is_astray && self.count == 10 { 2 } else { 1 };
        Bytes::copy_from_slice(&self.count.to_le_bytes())
    }

    fn query(&self, _query: &Bytes, _past: &dyn Past) -> Bytes {
        Bytes::copy_from_slice(&self.count.to_le_bytes())
    }

    fn snapshot(&self) -> Image {
        let count = self.count;
        Box::new(move |out| out.write_all(&count.to_le_bytes()))
    }

    fn restore(&mut self, snapshot: &mut dyn Read) -> Result<(), InvalidSnapshot> {
        let mut count = [0; 8];
        snapshot.read_exact(&mut count)?;
        self.count = u64::from_le_bytes(count);
        Ok(())
    }
}

/// A replica whose state is not that of the majority cannot know which of its answers are right: it
/// stops, does not start again on the same files, and the others go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replica_whose_state_differs_from_the_majority_stops_for_good() {
    let made = AtomicUsize::new(0);
    let machine =
        move || Counter { is_astray: made.fetch_add(1, Ordering::Relaxed) == 0, count: 0 };
    let options = Options { hash_interval: Duration::from_millis(100), ..Options::default() };
    let builder = TestCluster::builder(3).options(options).service("count", machine);
    let mut cluster = builder.start().await.unwrap();
    let client = Client::new(cluster.client(), "count").timeout(DEADLINE);
    for _ in 0..20 {
        client.command(Bytes::from_static(b"+")).await.unwrap();
    }
    let stopped = tokio::time::timeout(DEADLINE, cluster.service(0, "count").stopped());
    let stopped = stopped.await.expect("it notices");
    assert_eq!(stopped.cause, StopCause::Corrupt);
    assert!(stopped.reason.contains("differs from that of the majority"), "{}", stopped.reason);

    let (_, applied) = client.command(Bytes::from_static(b"+")).await.unwrap();
    assert_eq!(applied.response.as_ref(), 21_u64.to_le_bytes(), "the others know the count");
    for number in [1, 2] {
        // The sum that ended it was its last word.
        until("told to the others", async || {
            status(cluster.service(number, "count")).await?.hashes.divergence
        })
        .await;
        // The store beside it was compared as well, and found right.
        let kv = status(cluster.replica(number)).await.unwrap().hashes;
        assert_eq!(kv.divergence, None);
    }

    cluster.restart(0).await.unwrap();
    let again = tokio::time::timeout(DEADLINE, cluster.service(0, "count").stopped());
    let again = again.await.expect("it is refused");
    assert_eq!(again.cause, StopCause::Corrupt);
    assert!(again.reason.contains("is not to be used any more"), "{}", again.reason);
}

/// A file that nobody reads has changed on the disk of the leader. It finds that by itself, hands the
/// leadership on, and goes on to vote: with another member away there is a quorum still.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leader_that_finds_damage_hands_over_and_goes_on_to_vote() {
    let options = Options {
        scrub_interval: Duration::from_millis(50),
        scrub_bytes_per_second: 100 << 20,
        ..Options::default()
    };
    let wal = wal::Options { segment_bytes: 16 << 10, reserve_bytes: 0, ..Default::default() };
    let builder = TestCluster::builder(3).options(options).wal(wal);
    let mut cluster = builder.start().await.unwrap();
    let kv = cluster.kv().timeout(DEADLINE);
    for number in 0..200 {
        kv.set(format!("key-{number}"), vec![7; 200]).await.unwrap();
    }
    let leader = cluster.leader().await.unwrap();
    until("a whole pass", async || {
        let scrub = status(cluster.replica(leader)).await?.scrub;
        (scrub.passes > 0 && scrub.bytes > 16_000).then_some(())
    })
    .await;
    assert_eq!(status(cluster.replica(leader)).await.unwrap().scrub.damage, None);

    let files = std::fs::read_dir(cluster.data_dir(leader)).unwrap();
    let mut files: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|ending| ending == "wal"));
    files.sort();
    let mut bytes = std::fs::read(&files[0]).unwrap();
    bytes[5_000] ^= 1;
    std::fs::write(&files[0], &bytes).unwrap();

    let damage = until("found", async || status(cluster.replica(leader)).await?.scrub.damage).await;
    assert!(damage.contains(files[0].file_name().unwrap().to_str().unwrap()), "{damage}");
    let next = until("handed over", async || {
        let next = cluster.leader().await.ok()?;
        (next != leader).then_some(next)
    })
    .await;
    let other = (0..3).find(|number| ![leader, next].contains(number)).unwrap();
    cluster.kill(other);
    kv.set("after", "it").await.unwrap();
    assert_eq!(kv.get("key-7").await.unwrap().unwrap().value, vec![7; 200]);
}

/// A false alarm would stop a healthy replica. The store and the log are compared all the time while
/// both are written, snapshots are taken and installed, and a member is killed and comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn store_and_log_of_all_replicas_are_found_equal_whatever_happens_to_them() {
    let options = Options {
        hash_interval: Duration::from_millis(20),
        snapshot_entries: 40,
        snapshot_part_bytes: 4_096,
        repair_interval: Duration::from_millis(100),
        ..Options::default()
    };
    let builder = TestCluster::builder(3).options(options).log_groups(1);
    let mut cluster = builder.start().await.unwrap();
    for round in 0..3 {
        let (kv, log) = (cluster.kv().timeout(DEADLINE), cluster.log().timeout(DEADLINE));
        let topic = log.topic("orders");
        cluster.kill(round);
        for number in 0..80 {
            kv.set(format!("key-{}", number % 7), format!("{round}-{number}")).await.unwrap();
            topic.append(Record { key: None, value: vec![7; 300].into() }).await.unwrap();
        }
        cluster.restart(round).await.unwrap();
        cluster.wait_healthy(DEADLINE).await.unwrap();
    }
    let kv = cluster.kv().timeout(DEADLINE);
    for number in 0..3 {
        for replica in [cluster.replica(number), &cluster.log_replicas(number)[0]] {
            let hashes = until("compared", async || {
                // Something has to be applied for there to be anything to compare.
                kv.set("more", "of it").await.ok()?;
                let topic = cluster.log().timeout(DEADLINE).topic("orders");
                topic.append(Record { key: None, value: "x".into() }).await.ok()?;
                let Progress::Running(status) = replica.status().await else {
                    panic!("node {number} has stopped: {:?}", replica.status().await);
                };
                (status.hashes.equal > 3).then_some(status.hashes)
            })
            .await;
            assert_eq!(hashes.divergence, None, "node {number}: {hashes:?}");
        }
    }
}
