//! What a replicated operation costs above its parts: quorum SET and linearizable GET of three real
//! processes, against a plain request and against the disk.
//!
//! One client process, three nodes with their logs on one disk, all on one machine over loopback:
//! keys of 16 bytes, values of 128. Every SET is on the disks of a quorum before it is acknowledged.
//! Baselines and operations take turns, round by round, so that a machine that gets slower gets
//! slower for all; printed are medians over the rounds. Not measured: networks, several machines,
//! disks of their own for each node, large values.
//!
//! `cargo bench --bench replicated`, with `-- --test` for a quick run, with `-- --json` for one line
//! of JSON. With `-- --sync` it compares SET in the three sync modes instead, a cluster for each.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
#![expect(clippy::unwrap_used, reason = "a benchmark that fails shall end")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use zmesh::Node;
use zmesh::kv::Kv;

#[allow(dead_code, reason = "shared with the tests of the cluster, which do more with it")]
#[path = "../tests/cluster/processes.rs"]
mod processes;

use processes::{DEADLINE, Processes};

const KEYS: u64 = 10_000;
const VALUE: Bytes = Bytes::from_static(&[0xA5; 128]);
const DISK_BYTES: usize = 4_096;
/// The subject under which every node sends back what it gets.
const ECHO: &str = "zmesh.echo";

/// What is done, by how many clients at once.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Operation {
    Disk,
    Plain,
    Get,
    Set,
}

const MEASURED: [(Operation, usize); 9] = [
    (Operation::Disk, 1),
    (Operation::Plain, 1),
    (Operation::Get, 1),
    (Operation::Set, 1),
    (Operation::Plain, 64),
    (Operation::Get, 64),
    (Operation::Set, 64),
    (Operation::Get, 256),
    (Operation::Set, 256),
];

/// One operation in one round.
#[derive(Clone, Copy, Debug)]
struct Sample {
    p50_us: f64,
    p99_us: f64,
    per_second: f64,
}

/// What the client works with.
struct Bench {
    kv: Kv,
    node: Node,
    leader: String,
    disk: File,
}

fn main() {
    let has = |flag: &str| std::env::args().any(|argument| argument == flag);
    let (rounds, period) = match has("--test") {
        true => (1, Duration::from_millis(100)),
        false => (5, Duration::from_secs(1)),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    if has("--sync") {
        return runtime.block_on(compare_modes(rounds, period));
    }
    let samples = runtime.block_on(measure(rounds, period));
    let medians: BTreeMap<_, _> =
        samples.into_iter().map(|(key, all)| (key, median(all))).collect();
    match has("--json") {
        true => print_json(&medians),
        false => print_table(&medians, rounds, period),
    }
}

/// Runs every operation once in every round.
async fn measure(rounds: usize, period: Duration) -> BTreeMap<(Operation, usize), Vec<Sample>> {
    let cluster = Processes::start(3).await;
    let bench = Bench::new(&cluster).await;
    // Fills the keys that are read, and warms up everything on the way.
    bench.run(Operation::Set, 256, period).await;
    let mut samples = BTreeMap::<_, Vec<Sample>>::new();
    for _ in 0..rounds {
        for (operation, clients) in MEASURED {
            let sample = bench.run(operation, clients, period).await;
            samples.entry((operation, clients)).or_default().push(sample);
        }
    }
    samples
}

/// SET of one and of 64 clients in each mode, by turns. What a mode that does not sync is worth is
/// said elsewhere; here is what it saves.
async fn compare_modes(rounds: usize, period: Duration) {
    const CLIENTS: [usize; 2] = [1, 64];
    let mut clusters = Vec::new();
    for mode in ["always", "interval", "never"] {
        let cluster = Processes::start_with(3, &["--sync", mode]).await;
        let bench = Bench::new(&cluster).await;
        bench.run(Operation::Set, 64, period).await;
        clusters.push((mode, cluster, bench));
    }
    let mut samples = BTreeMap::<_, Vec<Sample>>::new();
    for _ in 0..rounds {
        for clients in CLIENTS {
            for (mode, _, bench) in &clusters {
                let sample = bench.run(Operation::Set, clients, period).await;
                samples.entry((clients, *mode)).or_default().push(sample);
            }
        }
    }
    println!("SET by sync mode; medians of {rounds} rounds of {period:?}");
    println!(
        "{:<10}{:>8}{:>12}{:>12}{:>12}{:>10}",
        "", "clients", "p50 us", "p99 us", "per second", "p50 to"
    );
    println!("{:<10}{:>8}{:>12}{:>12}{:>12}{:>10}", "", "", "", "", "", "always");
    let medians: BTreeMap<_, _> =
        samples.into_iter().map(|(key, all)| (key, median(all))).collect();
    for ((clients, mode), sample) in &medians {
        let Sample { p50_us, p99_us, per_second } = sample;
        let ratio = p50_us / medians[&(*clients, "always")].p50_us;
        println!(
            "{mode:<10}{clients:>8}{p50_us:>12.0}{p99_us:>12.0}{per_second:>12.0}{ratio:>10.2}"
        );
    }
}

impl Bench {
    async fn new(cluster: &Processes) -> Self {
        let node = cluster.client("client", 0).await;
        let leader = cluster.leader(&node, None).await;
        let disk = File::create(cluster.data_dir(leader).with_extension("disk")).unwrap();
        let kv = Kv::new(&node).timeout(DEADLINE);
        Self { kv, node, leader: cluster.id(leader).to_owned(), disk }
    }

    /// Lets `clients` do the same thing again and again, each one after its last.
    async fn run(&self, operation: Operation, clients: usize, period: Duration) -> Sample {
        let began = Instant::now();
        let work = (0..clients).map(|client| self.client(operation, client, began + period));
        let work: Vec<_> = work.collect();
        let mut all = Histogram::<u64>::new(3).unwrap();
        for client in work {
            all.add(client.await.unwrap()).unwrap();
        }
        let elapsed = began.elapsed().as_secs_f64();
        let microseconds = |quantile| all.value_at_quantile(quantile) as f64 / 1e3;
        Sample {
            p50_us: microseconds(0.5),
            p99_us: microseconds(0.99),
            per_second: all.len() as f64 / elapsed,
        }
    }

    fn client(
        &self,
        operation: Operation,
        client: usize,
        end: Instant,
    ) -> tokio::task::JoinHandle<Histogram<u64>> {
        let (kv, node, leader) = (self.kv.clone(), self.node.clone(), self.leader.clone());
        let mut disk = self.disk.try_clone().unwrap();
        tokio::spawn(async move {
            let mut latencies = Histogram::<u64>::new(3).unwrap();
            let mut rng = fastrand::Rng::with_seed(client as u64);
            while Instant::now() < end {
                let key = format!("key-{:012}", rng.u64(0..KEYS));
                let began = Instant::now();
                match operation {
                    Operation::Disk => {
                        disk.write_all(&[0; DISK_BYTES]).unwrap();
                        disk.sync_data().unwrap();
                    }
                    Operation::Get => drop(kv.get(key).await.unwrap()),
                    Operation::Plain => {
                        let reply = node.request_raw(&leader, ECHO, VALUE).await.unwrap();
                        assert_eq!(reply.len(), VALUE.len());
                    }
                    Operation::Set => drop(kv.set(key, VALUE).await.unwrap()),
                }
                latencies.record(u64::try_from(began.elapsed().as_nanos()).unwrap()).unwrap();
            }
            latencies
        })
    }
}

/// The median of each figure by itself.
fn median(samples: Vec<Sample>) -> Sample {
    let of = |figure: fn(&Sample) -> f64| {
        let mut figures: Vec<f64> = samples.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    };
    Sample {
        p50_us: of(|sample| sample.p50_us),
        p99_us: of(|sample| sample.p99_us),
        per_second: of(|sample| sample.per_second),
    }
}

/// A ratio of two figures of this run, and what it is to be.
struct Ratio {
    name: &'static str,
    value: f64,
    target: &'static str,
}

/// The targets name other systems; what these were to the disk, when they were measured beside it,
/// makes a figure that can be looked at without them: etcd took 7.8 times as long for a put as the
/// disk for an append, and did 0.87 and 1.7 puts in that time for 64 and for 256 clients.
fn ratios(medians: &BTreeMap<(Operation, usize), Sample>) -> Vec<Ratio> {
    let of = |operation, clients| medians[&(operation, clients)];
    let disk = of(Operation::Disk, 1);
    let plain = of(Operation::Plain, 1);
    let latency = |operation: Operation, to: Sample| of(operation, 1).p50_us / to.p50_us;
    let in_disk_time =
        |operation: Operation, clients| of(operation, clients).per_second * disk.p50_us / 1e6;
    let to_plain =
        |operation: Operation| of(operation, 64).per_second / of(Operation::Plain, 64).per_second;
    vec![
        Ratio {
            name: "SET p50 / disk p50",
            value: latency(Operation::Set, disk),
            target: "<= 4.7 (0.6 x etcd)",
        },
        Ratio { name: "SET p50 / plain p50", value: latency(Operation::Set, plain), target: "-" },
        Ratio {
            name: "SET at 64, per disk append",
            value: in_disk_time(Operation::Set, 64),
            target: ">= 5.2 (6 x etcd)",
        },
        Ratio {
            name: "SET at 256, per disk append",
            value: in_disk_time(Operation::Set, 256),
            target: ">= 13.4 (8 x etcd)",
        },
        Ratio {
            name: "GET p50 / plain p50",
            value: latency(Operation::Get, plain),
            target: "<= 1.5",
        },
        Ratio { name: "GET at 64 / plain at 64", value: to_plain(Operation::Get), target: "-" },
        Ratio { name: "SET at 64 / plain at 64", value: to_plain(Operation::Set), target: "-" },
    ]
}

fn print_table(medians: &BTreeMap<(Operation, usize), Sample>, rounds: usize, period: Duration) {
    println!("three processes, one client process; medians of {rounds} rounds of {period:?}");
    println!("{:<8}{:>8}{:>12}{:>12}{:>12}", "", "clients", "p50 us", "p99 us", "per second");
    for ((operation, clients), sample) in medians {
        let Sample { p50_us, p99_us, per_second } = sample;
        let name = format!("{operation:?}").to_lowercase();
        println!("{name:<8}{clients:>8}{p50_us:>12.0}{p99_us:>12.0}{per_second:>12.0}");
    }
    println!("\n{:<32}{:>8}  target", "ratio", "");
    for Ratio { name, value, target } in ratios(medians) {
        println!("{name:<32}{value:>8.2}  {target}");
    }
}

fn print_json(medians: &BTreeMap<(Operation, usize), Sample>) {
    let figures = medians.iter().map(|((operation, clients), sample)| {
        serde_json::json!({
            "operation": format!("{operation:?}").to_lowercase(),
            "clients": clients,
            "p50_us": sample.p50_us,
            "p99_us": sample.p99_us,
            "per_second": sample.per_second,
        })
    });
    let ratios = ratios(medians).into_iter().map(|Ratio { name, value, target }| {
        serde_json::json!({ "name": name, "value": value, "target": target })
    });
    let (figures, ratios): (Vec<_>, Vec<_>) = (figures.collect(), ratios.collect());
    println!("{}", serde_json::json!({ "figures": figures, "ratios": ratios }));
}
