//! Is the store linearizable while its processes die and halt? Clients of three real processes keep
//! a history of what they asked and saw, and a search finds an order that explains it, or there is
//! none.
//!
//! ```text
//! cargo test --test linearizable                              about ten seconds of faults
//! ZMESH_TEST_FAULTS=100 ZMESH_TEST_SEED=7 cargo test --test linearizable   longer
//! ```
//!
//! A history without such an order is kept as JSON lines, one operation each, for other checkers:
//! `client`, `key`, `action` (`{"read":VALUE}`, `{"write":VALUE}`; null is no value), `start` and `end`
//! in nanoseconds, no `end` where the outcome is unknown.
#![expect(clippy::unwrap_used, reason = "a test; the allowance does not reach functions beside it")]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use tokio::task::JoinSet;
use zmesh::kv::{Error, Kv};
use zmesh::{Clock, Effect, Node};

mod checker;
#[allow(dead_code, reason = "shared with the tests of the cluster, which do more with it")]
#[path = "../cluster/processes.rs"]
mod processes;
#[path = "../waiting/mod.rs"]
mod waiting;

use checker::{Action, Operation, Verdict, check};
use processes::Processes;
use waiting::until;

/// Clients, each a node of its own that knows another member first.
const CLIENTS: usize = 6;
/// Few keys, so that clients get in each other's way; with more clients a key the search is slow.
const KEYS: usize = 5;
/// Shorter than a fail-over may take, so that some outcomes stay unknown.
const TIMEOUT: Duration = Duration::from_millis(700);
/// Faults, one after the other, each in another place.
const FAULTS: u64 = 6;
/// Operations that are answered between two faults, by all clients together.
const BETWEEN: u64 = 400;

/// What all clients share.
struct Run {
    clock: Clock,
    stop: AtomicBool,
    answered: AtomicU64,
    /// Makes values unique.
    values: AtomicU64,
}

impl Run {
    fn now(&self) -> u64 {
        u64::try_from(self.clock.now().since_start().as_nanos()).unwrap()
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clients_see_while_processes_die_has_an_order() {
    let (seed, faults) = (setting("ZMESH_TEST_SEED", 1), setting("ZMESH_TEST_FAULTS", FAULTS));
    let mut cluster = Processes::start(3).await;
    let run = Arc::new(Run {
        clock: Clock::start(),
        stop: AtomicBool::new(false),
        answered: AtomicU64::new(0),
        values: AtomicU64::new(1),
    });
    let mut clients = JoinSet::new();
    let mut nodes = Vec::new();
    for number in 0..CLIENTS {
        let node = cluster.client(&format!("client-{number}"), number % 3).await;
        let rng = fastrand::Rng::with_seed(seed * 1_000 + number as u64);
        clients.spawn(ask(number, node.clone(), rng, Arc::clone(&run)));
        nodes.push(node);
    }
    let mut rng = fastrand::Rng::with_seed(seed);
    for fault in 0..faults {
        goes_on(&run, BETWEEN, fault).await;
        disturb(&mut cluster, &nodes[0], fault, &mut rng, &run).await;
    }
    goes_on(&run, BETWEEN, faults).await;
    run.stop.store(true, Ordering::Relaxed);
    let mut history = Vec::new();
    while let Some(operations) = clients.join_next().await {
        history.extend(operations.unwrap());
    }
    judge(&history, seed);
}

/// Waits until so many more operations were answered.
async fn goes_on(run: &Run, operations: u64, fault: u64) {
    let goal = run.answered.load(Ordering::Relaxed) + operations;
    let is_reached = async || (run.answered.load(Ordering::Relaxed) >= goal).then_some(());
    until(&format!("{operations} more answers around fault {fault}"), is_reached).await;
}

/// Kills or halts a process, mostly the leader, lets clients go on, and brings it back.
async fn disturb(
    cluster: &mut Processes,
    node: &Node,
    fault: u64,
    rng: &mut fastrand::Rng,
    run: &Run,
) {
    let leader = cluster.leader(node, None).await;
    let victim = if rng.u8(0..4) == 0 { (leader + 1) % 3 } else { leader };
    if rng.bool() {
        cluster.kill(victim).await;
        goes_on(run, BETWEEN, fault).await;
        cluster.spawn(victim).await;
    } else {
        cluster.signal(victim, Signal::STOP);
        goes_on(run, BETWEEN, fault).await;
        // It wakes with everything it was sent, and may believe that it still leads.
        cluster.signal(victim, Signal::CONT);
    }
}

/// One client, which does one operation after the other and remembers them.
async fn ask(client: usize, node: Node, mut rng: fastrand::Rng, run: Arc<Run>) -> Vec<Operation> {
    let kv = Kv::new(&node).timeout(TIMEOUT);
    let mut history = Vec::new();
    while !run.stop.load(Ordering::Relaxed) {
        let key = rng.usize(0..KEYS);
        let name = format!("key-{key}");
        let start = run.now();
        let value = run.values.fetch_add(1, Ordering::Relaxed);
        let (action, outcome) = match rng.u8(0..10) {
            0..5 => match kv.get(name).await {
                Ok(found) => (Action::Read(found.map(|entry| number(&entry.value))), Ok(())),
                // What a read did not see tells nothing.
                Err(_) => (Action::Read(None), Err(Effect::None)),
            },
            5..9 => (Action::Write(Some(value)), told(kv.set(name, value.to_string()).await)),
            _ => (Action::Write(None), told(kv.clear(name).await)),
        };
        let end = match outcome {
            Ok(()) => Some(run.now()),
            Err(Effect::None) => continue,
            Err(_) => None,
        };
        run.answered.fetch_add(u64::from(end.is_some()), Ordering::Relaxed);
        history.push(Operation { client, key, action, start, end });
    }
    history
}

/// Whether a write was done, as the client is told.
fn told<T>(result: Result<T, Error>) -> Result<(), Effect> {
    result.map(drop).map_err(|error| error.effect())
}

fn number(value: &[u8]) -> u64 {
    std::str::from_utf8(value).unwrap().parse().unwrap()
}

/// Every key must have an order. The history is kept if one has none.
fn judge(history: &[Operation], seed: u64) {
    let unknown = history.iter().filter(|operation| operation.end.is_none()).count();
    for key in 0..KEYS {
        let own = history.iter().filter(|operation| operation.key == key).copied();
        let verdict = check(&own.collect::<Vec<_>>());
        if verdict != Verdict::Linearizable {
            let file = keep(history, seed);
            panic!("key {key} of seed {seed} is {verdict:?}; the history is in {}", file.display());
        }
    }
    assert!(history.len() as u64 >= BETWEEN, "a short history proves little");
    eprintln!("seed {seed}: {} operations, {unknown} with an unknown outcome", history.len());
}

fn keep(history: &[Operation], seed: u64) -> PathBuf {
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("history-{seed}.jsonl"));
    let lines = history.iter().map(|operation| serde_json::to_string(operation).unwrap() + "\n");
    std::fs::write(&file, lines.collect::<String>()).unwrap();
    file
}
