//! What a record costs: appends to a topic, one at a time and many at once, the way from a writer to
//! a reader who follows, and reading what is there, against appends to the bare disk.
//!
//! Three nodes in this process, each with a thread of its own and its log on the same disk, and a
//! client, over loopback; records of 128 bytes. Every append is on the disks of a quorum before it is
//! acknowledged. Baselines and operations take turns, round by round, so that a machine that gets
//! slower gets slower for all; printed are medians over the rounds. Not measured: networks, several
//! machines, disks of their own for each node, large records. Of many topics only the memory is
//! measured.
//!
//! `cargo bench --bench log`, with `-- --test` for a quick run, with `-- --json` for one line of
//! JSON. With `-- --compaction` it shows instead how fast a topic is compacted, and what that costs
//! those who append to another one of the same group.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
#![expect(clippy::unwrap_used, reason = "a benchmark that fails shall end")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use zmesh::log::{
    Append, Command, Compaction, LogMachine, ReadLimits, Record, Start, Topic, TopicOptions,
    Upkeep, keep,
};
use zmesh::replica::{Effects, Machine};
use zmesh::testing::TestCluster;

const VALUE: Bytes = Bytes::from_static(&[0xA5; 128]);
const DISK_BYTES: usize = 4_096;
const DEADLINE: Duration = Duration::from_secs(60);

/// What is done.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Operation {
    /// A write to a file and a sync, without anything of ours.
    Disk,
    Append,
    /// From the call of an append until a reader who follows has the record.
    Tail,
    /// A page of up to 1 MiB; its figure per second is in records.
    Read,
}

const MEASURED: [(Operation, usize); 6] = [
    (Operation::Disk, 1),
    (Operation::Append, 1),
    (Operation::Tail, 1),
    (Operation::Append, 64),
    (Operation::Append, 256),
    (Operation::Read, 1),
];

/// One operation in one round.
#[derive(Clone, Copy, Debug)]
struct Sample {
    p50_us: f64,
    p99_us: f64,
    per_second: f64,
}

struct Bench {
    topic: Topic,
    followed: Topic,
    disk: File,
}

/// Keys of a topic that is compacted.
const KEYS: u64 = 1_000;
/// Topics of the machine whose memory is looked at.
const TOPICS: u64 = 100_000;

/// Bytes of memory that a topic with one record costs a replica, its index included; none where the
/// system does not tell. What the allocator keeps for itself is in it.
fn bytes_per_topic() -> Option<u64> {
    let before = resident_bytes()?;
    let mut machine = LogMachine::new();
    for number in 0..TOPICS {
        let append = Append::new(format!("topic-{number}"), 0, &[Record::new(VALUE)]).unwrap();
        let command = Command::Append(append).encode().unwrap();
        machine.apply(number + 1, &command, &mut Effects::default());
    }
    let after = resident_bytes()?;
    assert_eq!(machine.len() as u64, TOPICS);
    Some(after.saturating_sub(before) / TOPICS)
}

/// Memory of this process.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

fn main() {
    let has = |flag: &str| std::env::args().any(|argument| argument == flag);
    let (rounds, period) = match has("--test") {
        true => (1, Duration::from_millis(100)),
        false => (5, Duration::from_secs(1)),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    if has("--compaction") {
        return runtime.block_on(compaction(rounds, if has("--test") { 2_000 } else { 200_000 }));
    }
    let bytes_per_topic = bytes_per_topic();
    let samples = runtime.block_on(measure(rounds, period));
    let medians: BTreeMap<_, _> =
        samples.into_iter().map(|(key, all)| (key, median(all))).collect();
    match has("--json") {
        true => print_json(&medians, bytes_per_topic),
        false => {
            print_table(&medians, rounds, period);
            if let Some(bytes) = bytes_per_topic {
                println!("{:<36}{bytes:>8}", "bytes of memory per topic");
            }
        }
    }
}

/// Appends of 64 clients to one topic, while another one is compacted, and before.
async fn compaction(rounds: usize, records: u64) {
    let cluster = TestCluster::builder(3).log_groups(1).start().await.unwrap();
    let log = cluster.log().timeout(DEADLINE);
    let disk = File::create(cluster.dir().join("disk")).unwrap();
    let bench = Bench { topic: log.topic("topic"), followed: log.topic("followed"), disk };
    let upkeep = Upkeep { every: Duration::from_millis(20), ..Upkeep::default() };
    (0..3).for_each(|node| keep(&cluster.log_replicas(node)[0], upkeep));
    println!(
        "{:<8}{:>14}{:>14}{:>14}{:>12}{:>12}",
        "round", "records", "per second", "bytes left", "p50 to", "p99 to"
    );
    println!("{:<8}{:>14}{:>14}{:>14}{:>12}{:>12}", "", "", "compacted", "", "before", "before");
    for round in 0..rounds {
        let topic = log.topic(format!("prices-{round}"));
        for begin in (0..records).step_by(100) {
            let keyed = |at| Record::with_key(format!("key-{:04}", at % KEYS), VALUE);
            topic.append_batch((begin..begin + 100).map(keyed).collect()).await.unwrap();
        }
        let before = bench.run(Operation::Append, 64, Duration::from_secs(1)).await;
        let options =
            TopicOptions { compaction: Some(Compaction::default()), ..Default::default() };
        topic.configure(options).await.unwrap();
        let (began, mut latencies) = (Instant::now(), Vec::new());
        let left = loop {
            latencies.push(bench.run(Operation::Append, 64, Duration::from_millis(100)).await);
            let bytes = topic.view().await.unwrap().bytes;
            if bytes < 2 * KEYS * 150 + 100 * 150 {
                break bytes;
            }
        };
        let (per_second, during) =
            (records as f64 / began.elapsed().as_secs_f64(), median(latencies));
        println!(
            "{round:<8}{records:>14}{per_second:>14.0}{left:>14}{:>12.2}{:>12.2}",
            during.p50_us / before.p50_us,
            during.p99_us / before.p99_us
        );
    }
}

/// Runs every operation once in every round.
async fn measure(rounds: usize, period: Duration) -> BTreeMap<(Operation, usize), Vec<Sample>> {
    let cluster = TestCluster::builder(3).log_groups(1).start().await.unwrap();
    let log = cluster.log().timeout(DEADLINE);
    let disk = File::create(cluster.dir().join("disk")).unwrap();
    let bench = Bench { topic: log.topic("topic"), followed: log.topic("followed"), disk };
    // Gives readers something to read, and warms up everything on the way.
    bench.run(Operation::Append, 256, period).await;
    let mut samples = BTreeMap::<_, Vec<Sample>>::new();
    for _ in 0..rounds {
        for (operation, clients) in MEASURED {
            let sample = bench.run(operation, clients, period).await;
            samples.entry((operation, clients)).or_default().push(sample);
        }
    }
    samples
}

impl Bench {
    async fn run(&self, operation: Operation, clients: usize, period: Duration) -> Sample {
        let began = Instant::now();
        let end = began + period;
        let (latencies, count) = match operation {
            Operation::Disk => self.write(end),
            Operation::Append => self.append(clients, end).await,
            Operation::Tail => self.follow(end).await,
            Operation::Read => self.read(end).await,
        };
        let elapsed = began.elapsed().as_secs_f64();
        let microseconds = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e3;
        Sample {
            p50_us: microseconds(0.5),
            p99_us: microseconds(0.99),
            per_second: count as f64 / elapsed,
        }
    }

    fn write(&self, end: Instant) -> (Histogram<u64>, u64) {
        let (mut latencies, mut disk) = (histogram(), &self.disk);
        while Instant::now() < end {
            let began = Instant::now();
            disk.write_all(&[0; DISK_BYTES]).unwrap();
            disk.sync_data().unwrap();
            note(&mut latencies, began);
        }
        let count = latencies.len();
        (latencies, count)
    }

    /// Lets `clients` append again and again, each one after its last.
    async fn append(&self, clients: usize, end: Instant) -> (Histogram<u64>, u64) {
        let client = |topic: Topic| async move {
            let mut latencies = histogram();
            while Instant::now() < end {
                let began = Instant::now();
                topic.append(Record::new(VALUE)).await.unwrap();
                note(&mut latencies, began);
            }
            latencies
        };
        let work: Vec<_> = (0..clients).map(|_| tokio::spawn(client(self.topic.clone()))).collect();
        let mut all = histogram();
        for client in work {
            all.add(client.await.unwrap()).unwrap();
        }
        let count = all.len();
        (all, count)
    }

    async fn follow(&self, end: Instant) -> (Histogram<u64>, u64) {
        let first = self.followed.append(Record::new(VALUE)).await.unwrap().first;
        let (mut latencies, mut tail) = (histogram(), self.followed.tail(Start::Offset(first)));
        tail.next().await.unwrap();
        while Instant::now() < end {
            let began = Instant::now();
            let append = tokio::spawn({
                let topic = self.followed.clone();
                async move { topic.append(Record::new(VALUE)).await.unwrap().first }
            });
            let found = tail.next().await.unwrap().offset;
            note(&mut latencies, began);
            assert_eq!(append.await.unwrap(), found);
        }
        let count = latencies.len();
        (latencies, count)
    }

    async fn read(&self, end: Instant) -> (Histogram<u64>, u64) {
        let (mut latencies, mut count, mut from) = (histogram(), 0, 0);
        while Instant::now() < end {
            let began = Instant::now();
            let page = self.topic.read(from, ReadLimits::default()).await.unwrap();
            note(&mut latencies, began);
            let records = page.records.len() as u64;
            count += records;
            from = if records == 0 { 0 } else { from + records };
        }
        (latencies, count)
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new(3).unwrap()
}

fn note(latencies: &mut Histogram<u64>, began: Instant) {
    latencies.record(u64::try_from(began.elapsed().as_nanos()).unwrap()).unwrap();
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

/// Ratios of two figures of this run: they say more than the figures, on whatever machine.
fn ratios(medians: &BTreeMap<(Operation, usize), Sample>) -> Vec<(&'static str, f64)> {
    let of = |operation, clients| medians[&(operation, clients)];
    let disk = of(Operation::Disk, 1);
    let in_disk_time = |clients| of(Operation::Append, clients).per_second * disk.p50_us / 1e6;
    vec![
        ("append p50 / disk p50", of(Operation::Append, 1).p50_us / disk.p50_us),
        ("append to reader p50 / disk p50", of(Operation::Tail, 1).p50_us / disk.p50_us),
        (
            "append to reader p50 / append p50",
            of(Operation::Tail, 1).p50_us / of(Operation::Append, 1).p50_us,
        ),
        ("appends at 64, per disk append", in_disk_time(64)),
        ("appends at 256, per disk append", in_disk_time(256)),
    ]
}

fn print_table(medians: &BTreeMap<(Operation, usize), Sample>, rounds: usize, period: Duration) {
    println!("three nodes and a client in one process; medians of {rounds} rounds of {period:?}");
    println!("{:<8}{:>8}{:>12}{:>12}{:>12}", "", "clients", "p50 us", "p99 us", "per second");
    for ((operation, clients), sample) in medians {
        let Sample { p50_us, p99_us, per_second } = sample;
        let name = format!("{operation:?}").to_lowercase();
        println!("{name:<8}{clients:>8}{p50_us:>12.0}{p99_us:>12.0}{per_second:>12.0}");
    }
    println!();
    for (name, value) in ratios(medians) {
        println!("{name:<36}{value:>8.2}");
    }
}

fn print_json(medians: &BTreeMap<(Operation, usize), Sample>, bytes_per_topic: Option<u64>) {
    let figures = medians.iter().map(|((operation, clients), sample)| {
        serde_json::json!({
            "operation": format!("{operation:?}").to_lowercase(),
            "clients": clients,
            "p50_us": sample.p50_us,
            "p99_us": sample.p99_us,
            "per_second": sample.per_second,
        })
    });
    let ratios = ratios(medians)
        .into_iter()
        .map(|(name, value)| serde_json::json!({ "name": name, "value": value }));
    let (figures, ratios): (Vec<_>, Vec<_>) = (figures.collect(), ratios.collect());
    let all = serde_json::json!({
        "figures": figures, "ratios": ratios, "bytes_per_topic": bytes_per_topic,
    });
    println!("{all}");
}
