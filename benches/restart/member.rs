//! A member of a cluster.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use zmesh::consensus::Role;
use zmesh::log::{Log, Record, Topic};
use zmesh::status::{self, Status};
use zmesh::{Node, NodeId};

use super::MIB;
use super::usage::memory;

#[allow(dead_code, reason = "shared with the tests of the cluster, which do more with it")]
#[path = "../../tests/cluster/processes.rs"]
pub(super) mod processes;

use processes::{DEADLINE, Processes};

const VALUE: Bytes = Bytes::from_static(&[0xA5; 1_024]);
/// Records of a batch.
const BATCH: u64 = 256;
/// How long appends are measured while nobody catches up.
const CALM: Duration = Duration::from_secs(1);

pub(super) async fn run(sizes: &[u64]) {
    println!("\na member starts again; a topic of so many bytes, records of 1 KiB");
    println!(
        "{:>8} {:>10} {:>12} {:>10} {:>10} {:>14} {:>12} {:>12}",
        "MiB",
        "ready ms",
        "applied ms",
        "peak MiB",
        "MiB after",
        "catch up MiB/s",
        "p50 to calm",
        "p99 to calm"
    );
    for size in sizes {
        one(*size).await;
    }
}

async fn one(size: u64) {
    let mut cluster = Processes::start_with(3, &["--log-groups", "1"]).await;
    let node = cluster.client("client", 0).await;
    let topic = Log::new(&node).timeout(DEADLINE).topic("topic");
    fill(&topic, size).await;
    let leader = leader(&cluster, &node).await;
    let other = (0..3).find(|number| *number != leader).unwrap();

    cluster.kill(other).await;
    let began = Instant::now();
    cluster.spawn(other).await;
    let ready = began.elapsed();
    caught_up(&cluster, &node, leader, other).await;
    let applied = began.elapsed();
    let process = cluster.pid(other);
    let (peak, after) = (memory(process, "VmHWM").unwrap(), memory(process, "VmRSS").unwrap());

    let calm = append(&topic, CALM, std::future::pending).await;
    cluster.kill(other).await;
    fill(&topic, size).await;
    let began = Instant::now();
    cluster.spawn(other).await;
    let while_lagging =
        append(&topic, DEADLINE, || caught_up(&cluster, &node, leader, other)).await;
    let speed = size as f64 / MIB as f64 / began.elapsed().as_secs_f64();
    let to_calm = |quantile| {
        while_lagging.value_at_quantile(quantile) as f64 / calm.value_at_quantile(quantile) as f64
    };
    println!(
        "{:>8} {:>10.0} {:>12.0} {peak:>10.1} {after:>10.1} {speed:>14.0} {:>12.2} {:>12.2}",
        size / MIB,
        ready.as_secs_f64() * 1e3,
        applied.as_secs_f64() * 1e3,
        to_calm(0.5),
        to_calm(0.99),
    );
}

async fn fill(topic: &Topic, size: u64) {
    let batch = vec![Record::new(VALUE); usize::try_from(BATCH).unwrap()];
    for _ in 0..size.div_ceil(BATCH * VALUE.len() as u64) {
        topic.append_batch(batch.clone()).await.unwrap();
    }
}

/// Appends one record after the other until `ends`, or for this long.
async fn append<F: Future<Output = ()>>(
    topic: &Topic,
    within: Duration,
    ends: impl FnOnce() -> F,
) -> Histogram<u64> {
    let mut latencies = Histogram::<u64>::new(3).unwrap();
    let mut ends = std::pin::pin!(tokio::time::timeout(within, ends()));
    loop {
        let began = Instant::now();
        tokio::select! {
            appended = topic.append(Record::new(VALUE)) => drop(appended.unwrap()),
            _ = &mut ends => return latencies,
        }
        latencies.record(u64::try_from(began.elapsed().as_nanos()).unwrap()).unwrap();
    }
}

async fn ask(node: &Node, id: &str) -> Option<Status> {
    let id: NodeId = id.parse().unwrap();
    status::ask(node, &id, Duration::from_secs(1)).await.ok()
}

async fn leader(cluster: &Processes, node: &Node) -> usize {
    loop {
        for number in 0..cluster.count() {
            let status = ask(node, cluster.id(number)).await.unwrap();
            if status.log[0].running().is_some_and(|running| running.role == Role::Leader) {
                return number;
            }
        }
    }
}

/// Until the one has applied what the leader has now.
async fn caught_up(cluster: &Processes, node: &Node, leader: usize, other: usize) {
    let status = ask(node, cluster.id(leader)).await.unwrap();
    let wanted = status.log[0].running().unwrap().commit;
    loop {
        let applied = ask(node, cluster.id(other)).await.and_then(|status| {
            status.log.first().and_then(|log| log.running()).map(|running| running.applied)
        });
        if applied.is_some_and(|applied| applied >= wanted) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
