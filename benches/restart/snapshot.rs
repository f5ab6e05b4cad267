//! SET while a snapshot is being written.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use zmesh::kv::{Kv, Operation};
use zmesh::status;

use super::member::processes::{DEADLINE, Processes};

const VALUE: Bytes = Bytes::from_static(&[0xA5; 128]);
/// Operations of one transaction when the store is filled.
const FILL: u64 = 100;
/// Snapshots that are seen before it ends.
const SNAPSHOTS: u64 = 5;
/// Those who write.
const CLIENTS: [usize; 2] = [64, 256];

pub(super) async fn run(keys: u64) {
    println!("\nSET while the leader writes a snapshot of {keys} keys, to SET while it does not");
    println!(
        "{:>8} {:>10} {:>10} {:>10} {:>10} {:>10}",
        "clients", "snapshots", "p50 us", "p50 to", "p99 us", "p99 to"
    );
    // Snapshots come as soon as the log has grown by the size of the last one.
    let flags = ["--snapshot-entries", "1000", "--snapshot-bytes", "1MiB", "--log-groups", "0"];
    let cluster = Processes::start_with(3, &flags).await;
    let node = cluster.client("client", 0).await;
    let kv = Kv::new(&node).timeout(DEADLINE);
    fill(&kv, keys).await;
    // Snapshots of small stores are written between two looks.
    let within = Duration::from_secs(if keys > 10_000 { 120 } else { 2 });
    let leader = cluster.leader(&node, None).await;
    let leader = cluster.id(leader).parse().unwrap();
    for clients in CLIENTS {
        let is_writing = Arc::new(AtomicBool::new(false));
        let ends = Arc::new(AtomicBool::new(false));
        let work = |client: usize| {
            let (kv, is_writing, ends) = (kv.clone(), is_writing.clone(), ends.clone());
            tokio::spawn(set(kv, keys, client, is_writing, ends))
        };
        let work: Vec<_> = (0..clients).map(work).collect();
        let (mut seen, mut wrote, began) = (0, false, Instant::now());
        while seen < SNAPSHOTS && began.elapsed() < within {
            let status = status::ask(&node, &leader, DEADLINE).await.unwrap();
            let writes = status.replica.unwrap().running().unwrap().snapshot_writing;
            is_writing.store(writes, Ordering::Relaxed);
            seen += u64::from(wrote && !writes);
            wrote = writes;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        ends.store(true, Ordering::Relaxed);
        let [mut calm, mut busy] = [(); 2].map(|()| Histogram::<u64>::new(3).unwrap());
        for client in work {
            let (of_calm, of_busy) = client.await.unwrap();
            calm.add(of_calm).unwrap();
            busy.add(of_busy).unwrap();
        }
        let us = |all: &Histogram<u64>, quantile| all.value_at_quantile(quantile) as f64 / 1e3;
        let [p50, p99] = [0.5, 0.99].map(|at| (us(&busy, at), us(&busy, at) / us(&calm, at)));
        println!(
            "{clients:>8} {seen:>10} {:>10.0} {:>10.2} {:>10.0} {:>10.2}",
            p50.0, p50.1, p99.0, p99.1
        );
    }
}

async fn fill(kv: &Kv, keys: u64) {
    for first in (0..keys).step_by(usize::try_from(FILL).unwrap()) {
        let set = |number| Operation::set(key(number), VALUE);
        let txn =
            (first..(first + FILL).min(keys)).fold(kv.txn(), |txn, number| txn.then(set(number)));
        txn.await.unwrap();
    }
}

fn key(number: u64) -> String {
    format!("key-{number:012}")
}

/// Latencies while no snapshot is written, and while one is.
async fn set(
    kv: Kv,
    keys: u64,
    client: usize,
    is_writing: Arc<AtomicBool>,
    ends: Arc<AtomicBool>,
) -> (Histogram<u64>, Histogram<u64>) {
    let [mut calm, mut busy] = [(); 2].map(|()| Histogram::<u64>::new(3).unwrap());
    let mut rng = fastrand::Rng::with_seed(client as u64);
    while !ends.load(Ordering::Relaxed) {
        let (began, before) = (Instant::now(), is_writing.load(Ordering::Relaxed));
        kv.set(key(rng.u64(0..keys)), VALUE).await.unwrap();
        let elapsed = u64::try_from(began.elapsed().as_nanos()).unwrap();
        match (before, is_writing.load(Ordering::Relaxed)) {
            (false, false) => calm.record(elapsed).unwrap(),
            (true, true) => busy.record(elapsed).unwrap(),
            // It began or ended meanwhile.
            (true, false) | (false, true) => {}
        }
    }
    (calm, busy)
}
