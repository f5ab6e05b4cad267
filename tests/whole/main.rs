//! Whole nodes in virtual time: mesh, consensus, disk format, store, log, groups and client library
//! as they are, on runtimes whose clocks stand still until they are told to go, over a network and
//! disks in memory.
//!
//! Every run follows from its seed, to the last byte that is sent.
//!
//! ```text
//! cargo test --test whole                                 500 seeds, in about two minutes
//! ZMESH_SEEDS=10000 cargo test --release --test whole     more of them
//! ZMESH_SEED=17 cargo test --test whole seeds             one of them, and what happened in it
//! ZMESH_LOG=debug ZMESH_MESSAGES=1 ...                    with all logs and all messages
//! ```
#![expect(clippy::unwrap_used, reason = "a test; the allowance does not reach functions beside it")]

mod clients;
mod computer;
mod desk;
mod ending;
mod nemesis;
#[allow(dead_code, reason = "shared with real processes, whose history is kept")]
mod oracle;
mod plan;
mod slow_disk;
mod trace;
mod wire;
mod world;

#[path = "../linearizable/checker.rs"]
mod checker;

use std::path::PathBuf;

use parking_lot::Mutex;

use plan::Mutant;
use trace::Trace;
use world::{Report, World};

/// Seeds of an ordinary run.
const SEEDS: u64 = 500;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Lives through one seed. What happened is kept where it can be read if it failed, or if it was the
/// only one that was asked for.
fn run(seed: u64) -> Report {
    let trace = Trace::default();
    let _logs = std::env::var("ZMESH_LOG").ok().map(|filter| {
        let writer = trace.clone();
        let logs = tracing_subscriber::fmt().without_time().with_ansi(false);
        let logs = logs.with_env_filter(filter).with_writer(move || writer.clone());
        tracing::subscriber::set_default(logs.finish())
    });
    let lived = World::run(seed, None, trace.clone());
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("whole-{seed}.txt"));
    if lived.is_err() || number("ZMESH_SEED").is_some() {
        std::fs::write(&file, trace.text()).unwrap();
        eprintln!("what happened: {}", file.display());
    }
    lived.unwrap_or_else(|what| {
        panic!("seed {seed}: {what}\nrepeat it: ZMESH_SEED={seed} cargo test --test whole seeds")
    })
}

#[test]
fn seeds_keep_every_promise() {
    let seeds = match number("ZMESH_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ZMESH_SEEDS").unwrap_or(SEEDS),
    };
    let seeds = Mutex::new(seeds);
    let next = || seeds.lock().next();
    let work = || {
        while let Some(seed) = next() {
            println!("seed {seed}: {:?}", run(seed));
        }
    };
    // Each world has one thread.
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        (0..threads).for_each(|_| drop(scope.spawn(work)));
    });
}

/// Worlds in which something was wrong once. What it was has a test of its own, see docs/TESTING.md:
/// a seed means another world whenever the code changes.
const FOUND: [(u64, &str); 3] = [
    (396, "a record was handed out whose time was up"),
    (1_050, "a lost update of labels was never missed"),
    (1_360, "a snapshot that could not be opened was called damaged"),
];

#[test]
fn worlds_in_which_something_was_wrong_once() {
    for (seed, what) in FOUND {
        println!("seed {seed}, where {what}: {:?}", run(seed));
    }
}

/// A failure that cannot be repeated cannot be understood.
#[test]
fn same_seed_sends_the_same_bytes() {
    for seed in 0..3 {
        assert_eq!(run(seed), run(seed));
    }
    assert_ne!(run(3).sum, run(4).sum, "the sum does not see what happens");
}

/// The simulation must see the mistakes it is there for.
#[test]
fn planted_mistakes_are_caught() {
    for mutant in [Mutant::LyingDisk, Mutant::RetryAnew, Mutant::StaleReads, Mutant::WatchFromNow] {
        let failure = |seed| World::run(seed, Some(mutant), Trace::default()).err();
        let caught = (0..60).find_map(|seed| Some((seed, failure(seed)?)));
        let (seed, failure) = caught.unwrap_or_else(|| panic!("{mutant:?} was not caught"));
        println!("{mutant:?} is caught by seed {seed}: {}", failure.lines().next().unwrap());
    }
}
