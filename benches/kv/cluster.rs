//! Three processes, and a client.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use zmesh::NodeId;
use zmesh::kv::{KeyRange, Kv, Operation};

use super::{Scale, median};

#[allow(dead_code, reason = "shared with the tests of the cluster, which do more with it")]
#[path = "../../tests/cluster/processes.rs"]
mod processes;

use processes::{DEADLINE, Processes};

const VALUE: Bytes = Bytes::from_static(&[0xA5; 128]);
/// Writes of which the way to the watchers is measured.
const FAN_OUT_WRITES: usize = 50;
/// Operations of one transaction when the store is filled.
const FILL: u64 = 100;
/// Clients at once.
const MANY: usize = 64;
/// How long a lock lasts that is given back at once.
const TTL: Duration = Duration::from_secs(30);

/// What is done.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Set,
    SetIf,
    Add,
    Txn,
    Get,
    AtLeast,
    List,
    Lock,
}

const KINDS: [(Kind, &str); 8] = [
    (Kind::Set, "set"),
    (Kind::SetIf, "set if absent or not"),
    (Kind::Add, "add"),
    (Kind::Txn, "txn of 10 sets"),
    (Kind::Get, "get"),
    (Kind::AtLeast, "get at least, follower"),
    (Kind::List, "list 100 keys"),
    (Kind::Lock, "lock and release"),
];

struct Bench {
    kv: Kv,
    follower: NodeId,
    keys: u64,
}

pub(super) async fn run(scale: Scale) {
    let cluster = Processes::start(3).await;
    let node = cluster.client("client", 0).await;
    let leader = cluster.leader(&node, None).await;
    let follower = (0..3).find(|number| *number != leader).unwrap();
    let follower = cluster.id(follower).parse().unwrap();
    let kv = Kv::new(&node).timeout(DEADLINE);
    let mut bench = Bench { kv, follower, keys: scale.keys[0] };
    bench.fill(0).await;
    println!("\nthree processes; medians of {} rounds of {:?}", scale.rounds, scale.period);
    println!("{:<24}{:>10}{:>10}{:>14}{:>10}", "", "p50 us", "p99 us", "at 64: /s", "/ set");
    let mut reference = 0.0;
    for (kind, name) in KINDS {
        let (p50, p99, _) = bench.measure(kind, 1, scale).await;
        let (_, _, rate) = bench.measure(kind, MANY, scale).await;
        reference = if matches!(kind, Kind::Set) { rate } else { reference };
        println!("{name:<24}{p50:>10.0}{p99:>10.0}{rate:>14.0}{:>10.2}", rate / reference);
    }
    for watchers in [1, scale.watchers] {
        bench.fan_out(watchers).await;
    }
    let (_, _, small) = bench.measure(Kind::Set, MANY, scale).await;
    let filled = bench.keys;
    bench.keys = scale.keys[1];
    bench.fill(filled).await;
    let (_, _, large) = bench.measure(Kind::Set, MANY, scale).await;
    let ratio = large / small;
    println!("set at 64, {} keys / {filled} keys: {ratio:.2} ({large:.0}/s)", scale.keys[1]);
}

impl Bench {
    /// Writes the keys from a number on, many at a time.
    async fn fill(&self, from: u64) {
        let mut work = tokio::task::JoinSet::new();
        let mut number = from;
        while number < self.keys || !work.is_empty() {
            while number < self.keys && work.len() < MANY {
                let end = (number + FILL).min(self.keys);
                let sets = (number..end).map(|number| Operation::set(key(number), VALUE));
                let txn = sets.fold(self.kv.txn(), |txn, set| txn.then(set));
                work.spawn(txn.into_future());
                number = end;
            }
            work.join_next().await.unwrap().unwrap().unwrap();
        }
    }

    /// Median and 99th percentile in microseconds, and operations a second.
    async fn measure(&self, kind: Kind, clients: usize, scale: Scale) -> (f64, f64, f64) {
        let (mut p50, mut p99, mut rate) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..scale.rounds {
            let began = Instant::now();
            let end = began + scale.period;
            let clients = (0..clients).map(|client| tokio::spawn(self.client(kind, client, end)));
            let clients: Vec<_> = clients.collect();
            let mut all = Histogram::<u64>::new(3).unwrap();
            for client in clients {
                all.add(client.await.unwrap()).unwrap();
            }
            p50.push(all.value_at_quantile(0.5) as f64 / 1e3);
            p99.push(all.value_at_quantile(0.99) as f64 / 1e3);
            rate.push(all.len() as f64 / began.elapsed().as_secs_f64());
        }
        (median(p50), median(p99), median(rate))
    }

    fn client(
        &self,
        kind: Kind,
        client: usize,
        end: Instant,
    ) -> impl Future<Output = Histogram<u64>> + use<> {
        let (kv, follower, keys) = (self.kv.clone(), self.follower.clone(), self.keys);
        async move {
            let mut latencies = Histogram::<u64>::new(3).unwrap();
            let mut rng = fastrand::Rng::with_seed(client as u64);
            while Instant::now() < end {
                let key = key(rng.u64(0..keys));
                let began = Instant::now();
                match kind {
                    Kind::Add => drop(kv.add(format!("n/{client}"), 1).await.unwrap()),
                    Kind::AtLeast => drop(kv.get(key).at_least(1).on(&follower).await.unwrap()),
                    Kind::Get => drop(kv.get(key).await.unwrap()),
                    Kind::List => {
                        drop(kv.list(KeyRange::between(key, "")).limit(100).await.unwrap());
                    }
                    Kind::Lock => {
                        let guard = kv.lock(&format!("l/{client}"), TTL).await.unwrap();
                        guard.release().await.unwrap();
                    }
                    Kind::Set => drop(kv.set(key, VALUE).await.unwrap()),
                    Kind::SetIf => drop(kv.set(key, VALUE).if_exists().await),
                    Kind::Txn => {
                        let sets =
                            (0..10).map(|number| Operation::set(format!("t/{number}"), VALUE));
                        drop(sets.fold(kv.txn(), |txn, set| txn.then(set)).await.unwrap());
                    }
                }
                latencies.record(u64::try_from(began.elapsed().as_nanos()).unwrap()).unwrap();
            }
            latencies
        }
    }

    /// From the begin of a write to the last of the watchers that has it.
    async fn fan_out(&self, watchers: usize) {
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        let mut tasks = tokio::task::JoinSet::new();
        let after = self.kv.state().await.unwrap().revision;
        for _ in 0..watchers {
            let watch = self.kv.watch(KeyRange::prefix("news/")).after(after);
            let sender = sender.clone();
            tasks.spawn(async move {
                let mut watch = watch.await.unwrap();
                for _ in 0..FAN_OUT_WRITES {
                    sender.send(watch.next().await.unwrap().revision).unwrap();
                }
            });
        }
        let mut last = Vec::new();
        for number in 0..FAN_OUT_WRITES {
            let began = Instant::now();
            let revision = self.kv.set(format!("news/{number}"), VALUE).await.unwrap().revision;
            for _ in 0..watchers {
                assert_eq!(receiver.recv().await.unwrap(), revision, "out of order");
            }
            last.push(began.elapsed().as_secs_f64() * 1e6);
        }
        while tasks.join_next().await.is_some() {}
        let median = median(last);
        println!("from a set to the last of {watchers} watchers: {median:.0} us");
    }
}

/// Keys of 16 bytes, spread over the store.
fn key(number: u64) -> Bytes {
    format!("{:016x}", number.wrapping_mul(0x9E37_79B9_7F4A_7C15)).into()
}
