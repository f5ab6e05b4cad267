//! The same work, side by side with others: raw libzmq, raw TCP, and what of etcd, NATS and Redis is
//! installed (Debian packages `etcd-server`, `nats-server`, `redis-server`), as clusters of three
//! processes.
//!
//! Every round runs a case on one of them after the other, each time with somebody else first; only
//! the ratio of the runs of one round counts, and the result is the median of the rounds. The other
//! clusters of the run are up meanwhile and do nothing but their heartbeats. One client process, in
//! which zmesh has all operations on one node. The others have a connection for each operation at
//! once, or share `--connections` of them, with requests one behind the other; which is better
//! depends on the peer. A `WAIT` of Redis holds up its connection, so SETs never share one.
//!
//! ```text
//! cargo bench --bench peers                       a few minutes, a table
//! cargo bench --bench peers -- set --rounds 3     only cases whose name contains that
//! cargo bench --bench peers -- --transport libzmq zmesh over libzmq
//! cargo bench --bench peers -- --connections 1    others share one connection
//! cargo bench --bench peers -- --json             one JSON object a line
//! cargo bench --bench peers -- --markdown         the table for a page
//! cargo bench --bench peers -- --plot out.svg     the ratios as a picture
//! ```
//!
//! What is not the same is said: Redis with `appendfsync always` and `WAIT 1` has the write on the
//! disk of its primary and in the memory of a replica; JetStream acknowledges what a quorum has in
//! its files, and syncs every two minutes. zmesh, as etcd, has it on the disks of a quorum, except in
//! the cases that say `not synced`, where it, and Redis, sync each second. A GET of JetStream and of
//! Redis asks one process.

#![expect(clippy::print_stdout, reason = "the table is the purpose")]
#![expect(clippy::print_stderr, reason = "says who is not there")]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
#![expect(clippy::unwrap_used, reason = "a benchmark that fails shall end")]

mod etcd;
mod libzmq;
mod nats;
mod pipe;
mod redis;
mod report;
mod servers;
mod tcp;
#[allow(dead_code, reason = "shared with `zmesh bench`, which tells more")]
#[path = "../../src/cli/bench/usage.rs"]
mod usage;
mod zmesh_peer;

use std::time::{Duration, Instant};

use clap::Parser;
use hdrhistogram::Histogram;
use zmesh::transport::Kind;

use report::Row;
use servers::Servers;

/// Bytes of keys are 16, of values and records 128.
const VALUE: [u8; 128] = [0xA5; 128];
const KEYS: u64 = 10_000;
/// What never takes so long unless it is broken.
const OPERATION_MAX: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, Parser)]
struct Options {
    /// Only cases whose name contains this.
    filter: Option<String>,
    #[arg(long)]
    json: bool,
    #[arg(long)]
    markdown: bool,
    /// Draw the ratios of throughput to this file.
    #[arg(long)]
    plot: Option<std::path::PathBuf>,
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    rounds: u16,
    /// How long one peer runs in one round.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "500ms")]
    round: Duration,
    /// Connections that all operations of another share; without it each has its own.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1_024))]
    connections: Option<u16>,
    /// What zmesh goes over.
    #[arg(long, value_enum, default_value_t)]
    transport: Kind,
    /// Everything for a moment, to see that it works.
    #[arg(long)]
    test: bool,
    /// Passed by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What is done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Operation {
    Request,
    Set,
    Get,
    Append,
}

/// Whom it is done with.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Peer {
    Zmesh,
    ZmeshUnsynced,
    Libzmq,
    Tcp,
    Etcd,
    Nats,
    Jetstream,
    JetstreamKv,
    Redis,
    RedisEverysec,
}

impl Peer {
    fn name(self) -> &'static str {
        match self {
            Self::Zmesh | Self::ZmeshUnsynced => "zmesh",
            Self::Libzmq => "libzmq",
            Self::Tcp => "tcp",
            Self::Etcd => "etcd",
            Self::Nats => "nats",
            Self::Jetstream => "jetstream",
            Self::JetstreamKv => "jetstream kv",
            Self::Redis => "redis",
            Self::RedisEverysec => "redis everysec",
        }
    }
}

/// A name, what is done, how often at once, and with whom; the first is us.
type Case = (&'static str, Operation, usize, &'static [Peer]);

const REQUEST: [Peer; 4] = [Peer::Zmesh, Peer::Libzmq, Peer::Tcp, Peer::Nats];
const SET: [Peer; 4] = [Peer::Zmesh, Peer::Etcd, Peer::Redis, Peer::JetstreamKv];
const GET: [Peer; 4] = SET;
const APPEND: [Peer; 2] = [Peer::Zmesh, Peer::Jetstream];
const UNSYNCED: [Peer; 3] = [Peer::ZmeshUnsynced, Peer::Jetstream, Peer::RedisEverysec];

const CASES: [Case; 12] = [
    ("request", Operation::Request, 1, &REQUEST),
    ("request, 128 at once", Operation::Request, 128, &[Peer::Zmesh, Peer::Nats]),
    ("set", Operation::Set, 1, &SET),
    ("set, 64 at once", Operation::Set, 64, &SET),
    ("set, 256 at once", Operation::Set, 256, &SET),
    ("get", Operation::Get, 1, &GET),
    ("get, 64 at once", Operation::Get, 64, &GET),
    ("append", Operation::Append, 1, &APPEND),
    ("append, 256 at once", Operation::Append, 256, &APPEND),
    ("set not synced", Operation::Set, 1, &UNSYNCED),
    ("set not synced, 64 at once", Operation::Set, 64, &UNSYNCED),
    ("set not synced, 256 at once", Operation::Set, 256, &UNSYNCED),
];

/// One place at which operations are done one after the other.
#[expect(clippy::large_enum_variant, reason = "a few hundred of them")]
enum Slot {
    Etcd(etcd::Slot),
    Libzmq(libzmq::Slot),
    Nats(nats::Slot),
    NatsKeys(nats::Slot),
    Redis(redis::Slot),
    Tcp(tcp::Slot),
    Zmesh(zmesh_peer::Slot),
}

/// One case with one peer in one round.
#[derive(Clone, Copy, Debug)]
struct Sample {
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    per_second: f64,
}

fn main() {
    let mut options = Options::parse();
    if options.test {
        (options.rounds, options.round) = (1, Duration::from_millis(50));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(run(&options));
}

async fn run(options: &Options) {
    let is_wanted =
        |name: &str| options.filter.as_ref().is_none_or(|filter| name.contains(filter.as_str()));
    let names = CASES.map(|(name, ..)| name);
    assert!(names.into_iter().any(is_wanted), "no case has that in its name: {names:?}");
    let is_needed = |peer: Peer| {
        CASES.iter().any(|(name, _, _, peers)| is_wanted(name) && peers.contains(&peer))
    };
    let servers = Servers::start(options.transport, is_needed).await;
    let mut rows = Vec::new();
    for (name, operation, at_once, peers) in CASES {
        if !is_wanted(name) {
            continue;
        }
        let mut there = Vec::new();
        for peer in peers.iter().filter(|peer| servers.has(**peer)) {
            let is_alone =
                operation == Operation::Set && matches!(peer, Peer::Redis | Peer::RedisEverysec);
            let connections =
                options.connections.filter(|_| !is_alone).map_or(at_once, usize::from);
            there.push((*peer, servers.slots(*peer, at_once, connections).await));
        }
        // Fills what is read, and warms up.
        for (_, slots) in &mut there {
            measure(
                slots,
                if operation == Operation::Get { Operation::Set } else { operation },
                options.round,
            )
            .await;
        }
        let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); there.len()];
        for round in 0..options.rounds {
            for turn in 0..there.len() {
                let peer = (usize::from(round) + turn) % there.len();
                samples[peer].push(measure(&mut there[peer].1, operation, options.round).await);
            }
        }
        for (at, (peer, _)) in there.iter().enumerate() {
            rows.push(Row::new(name, *peer, &samples[0], &samples[at]));
        }
    }
    report::print(options, &rows, &servers.versions());
}

/// Lets every slot do the operation again and again.
async fn measure(slots: &mut Vec<Slot>, operation: Operation, period: Duration) -> Sample {
    let began = Instant::now();
    let end = began + period;
    let work = std::mem::take(slots).into_iter().enumerate().map(|(number, mut slot)| {
        tokio::spawn(async move {
            let mut latencies = Histogram::<u64>::new(3).unwrap();
            let mut rng = fastrand::Rng::with_seed(number as u64);
            while Instant::now() < end {
                let began = Instant::now();
                let done = slot.run(operation, rng.u64(0..KEYS));
                let done = tokio::time::timeout(OPERATION_MAX, done).await;
                done.unwrap_or_else(|_| panic!("{operation:?} took more than {OPERATION_MAX:?}"));
                latencies.record(u64::try_from(began.elapsed().as_nanos()).unwrap()).unwrap();
            }
            (slot, latencies)
        })
    });
    let work: Vec<_> = work.collect();
    let mut all = Histogram::<u64>::new(3).unwrap();
    for slot in work {
        let (slot, latencies) = slot.await.unwrap();
        slots.push(slot);
        all.add(latencies).unwrap();
    }
    let us = |quantile| all.value_at_quantile(quantile) as f64 / 1e3;
    let per_second = all.len() as f64 / began.elapsed().as_secs_f64();
    Sample { p50_us: us(0.5), p99_us: us(0.99), p999_us: us(0.999), per_second }
}

impl Slot {
    async fn run(&mut self, operation: Operation, key: u64) {
        match self {
            Self::Etcd(slot) => slot.run(operation, key).await,
            Self::Libzmq(slot) => slot.round_trip(),
            Self::Nats(slot) => slot.run(operation, key).await,
            Self::NatsKeys(slot) => slot.run_keys(operation, key).await,
            Self::Redis(slot) => slot.run(operation, key).await,
            Self::Tcp(slot) => slot.round_trip().await,
            Self::Zmesh(slot) => slot.run(operation, key).await,
        }
    }

    /// Another one on the same connection.
    fn share(&self) -> Self {
        match self {
            Self::Etcd(slot) => Self::Etcd(slot.clone()),
            Self::Nats(slot) => Self::Nats(slot.clone()),
            Self::NatsKeys(slot) => Self::NatsKeys(slot.clone()),
            Self::Redis(slot) => Self::Redis(slot.clone()),
            Self::Zmesh(slot) => Self::Zmesh(slot.clone()),
            Self::Libzmq(_) | Self::Tcp(_) => panic!("these have no case with several at once"),
        }
    }
}
