//! Messaging between two processes over loopback TCP, against raw libzmq of the same build.
//!
//! One client (this process) and two echo servers (this binary again): a raw ROUTER and a node.
//! Every round runs a case against one and then the other, taking turns who is first, and only the
//! ratio of the two runs of one round counts: absolute figures say more about the machine and its
//! other work than about us. The result is the median of the rounds.
//!
//! ```text
//! cargo bench --bench messaging                    about a minute, a table
//! cargo bench --bench messaging -- --json          one JSON object a line
//! cargo bench --bench messaging -- --multi-thread  nodes on multi-thread runtimes
//! cargo bench --bench messaging -- --soak          millions of messages, looking for stalls
//! cargo bench --bench messaging -- --test          everything for a moment, to see that it works
//! ```
//!
//! Both sides send opaque bytes; the node's go through its public API and an async handler.

#![expect(clippy::print_stdout, reason = "the table is the purpose")]
#![expect(clippy::disallowed_methods, reason = "measures real time")]

mod mesh;
mod process;
mod raw;
mod report;
mod serve;
mod soak;
#[path = "../usage/mod.rs"]
mod usage;

use std::error::Error;
use std::time::Duration;

use clap::Parser;
use zmesh::transport::Kind;

use process::Server;
use usage::Usage;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Messaging benchmarks.
#[derive(Clone, Debug, Parser)]
struct Options {
    /// Only cases whose name contains this.
    filter: Option<String>,
    /// One JSON object a line instead of a table.
    #[arg(long)]
    json: bool,
    /// Rounds that count; one more comes before them.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// How long one side of one round runs.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "350ms")]
    round: Duration,
    /// Run nodes on multi-thread runtimes with this many workers.
    #[arg(long, value_name = "WORKERS", num_args = 0..=1, default_missing_value = "2")]
    multi_thread: Option<usize>,
    /// What the nodes use.
    #[arg(long, value_enum, default_value_t)]
    transport: Kind,
    /// Look for stalls instead of measuring.
    #[arg(long)]
    soak: bool,
    /// Messages of each part of the soak.
    #[arg(long, default_value_t = 5_000_000)]
    soak_messages: u64,
    /// Run everything for a moment.
    #[arg(long)]
    test: bool,
    /// Passed by cargo when it wants figures.
    #[arg(long, hide = true)]
    bench: bool,
    /// Be an echo server.
    #[arg(long, hide = true)]
    serve: Option<Side>,
}

/// Who is measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Side {
    /// libzmq, called directly.
    Raw,
    /// Two nodes.
    Mesh,
}

impl Side {
    const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Mesh => "mesh",
        }
    }
}

/// What a case sends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Load {
    /// Requests, one after the other.
    RoundTrips,
    /// Requests, so many at a time.
    Window(usize),
    /// One-way messages, until the receiver has counted them all.
    Ticks,
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
struct Case {
    name: &'static str,
    load: Load,
    bytes: usize,
    /// For round trips the most times raw's latency, otherwise the least share of raw's rate.
    target: f64,
}

const CASES: &[Case] = &[
    Case { name: "request 64 B, 1 at a time", load: Load::RoundTrips, bytes: 64, target: 1.15 },
    Case {
        name: "request 1 KiB, 1 at a time",
        load: Load::RoundTrips,
        bytes: 1 << 10,
        target: 1.15,
    },
    Case {
        name: "request 64 KiB, 1 at a time",
        load: Load::RoundTrips,
        bytes: 1 << 16,
        target: 1.15,
    },
    Case { name: "request 64 B, 128 at a time", load: Load::Window(128), bytes: 64, target: 0.65 },
    Case {
        name: "request 1 KiB, 128 at a time",
        load: Load::Window(128),
        bytes: 1 << 10,
        target: 0.7,
    },
    Case { name: "tick 64 B", load: Load::Ticks, bytes: 64, target: 0.5 },
    Case { name: "tick 1 KiB", load: Load::Ticks, bytes: 1 << 10, target: 0.8 },
];

/// What one run of a case came to.
#[derive(Clone, Debug, Default)]
struct Sample {
    messages: u64,
    elapsed: Duration,
    /// Of each message, sorted; only of round trips.
    latencies: Vec<Duration>,
    client: Usage,
    server: Usage,
}

fn main() -> Outcome<()> {
    let mut options = Options::parse();
    if let Some(side) = options.serve {
        return serve::serve(side, &options);
    }
    // As `cargo test --benches` runs it.
    options.test |= !options.bench;
    if options.test {
        options.rounds = 1;
        options.round = Duration::from_millis(50);
        options.soak_messages = 20_000;
    }
    // Spawned, because on a multi-thread runtime the main thread is one wake-up further away.
    runtime(&options)?.block_on(async move { tokio::spawn(run(options)).await? })
}

async fn run(options: Options) -> Outcome<()> {
    if options.soak {
        return soak::run(&options).await;
    }
    let mut raw = raw::Client::new(Server::start(Side::Raw, &options)?)?;
    let mesh = mesh::Client::new(Server::start(Side::Mesh, &options)?, options.transport).await?;
    let mut report = report::Report::new(options.json);
    let wanted = |name: &str| options.filter.as_ref().is_none_or(|part| name.contains(part));
    for case in CASES.iter().filter(|case| wanted(case.name)) {
        let mut rounds = Vec::new();
        for round in 0..=options.rounds {
            let mut samples = [Sample::default(), Sample::default()];
            let order =
                if round % 2 == 0 { [Side::Raw, Side::Mesh] } else { [Side::Mesh, Side::Raw] };
            for side in order {
                samples[side as usize] = match side {
                    // On a thread of its own, so that the node goes on answering pings.
                    Side::Raw => {
                        let (case, time) = (*case, options.round);
                        let measure = move || raw.measure(case, time).map(|sample| (raw, sample));
                        let (back, sample) = tokio::task::spawn_blocking(measure).await??;
                        raw = back;
                        sample
                    }
                    Side::Mesh => mesh.measure(*case, options.round).await?,
                };
            }
            // The first one warms up.
            if round > 0 {
                rounds.push(samples);
            }
        }
        report.case(case, &rounds);
    }
    if wanted(mesh::ABSENT) {
        report.absent(&mesh.measure_absent().await?);
    }
    mesh.stop().await;
    if options.test {
        soak::run(&options).await?;
    }
    Ok(())
}

fn runtime(options: &Options) -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = match options.multi_thread {
        Some(workers) => {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(workers);
            builder
        }
        None => tokio::runtime::Builder::new_current_thread(),
    };
    builder.enable_all().build()
}
