//! The machine alone.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use zmesh::kv::{
    Command, Condition, EventQuery, KeyRange, KvMachine, Operation, Position, Query, Selection,
    Transaction,
};
use zmesh::replica::{Effects, Machine, Past, PastCommands, PastError};

use super::{Scale, median};

const VALUE: Bytes = Bytes::from_static(&[0xA5; 128]);
/// Operations of one kind in one round.
const OPERATIONS: u64 = 20_000;
/// Keys on a page.
const PAGE: u32 = 100;

/// The store asks for none.
struct NoPast;

impl Past for NoPast {
    fn commands(&self, _: u64, _: u64) -> Result<PastCommands, PastError> {
        Err(PastError::Forgotten { first: 0 })
    }
}

/// A machine, and the index of its next command.
struct Bench {
    machine: KvMachine,
    index: u64,
    keys: u64,
    rng: fastrand::Rng,
}

/// What is done, and how.
type Kind = (&'static str, fn(&mut Bench));

const KINDS: [Kind; 5] = [
    ("set", Bench::set),
    ("set if revision", Bench::set_if),
    ("add", Bench::add),
    ("get", Bench::get),
    ("list 100 keys", Bench::list),
];

pub(super) fn run(scale: Scale) {
    println!("machine alone, one thread; ns an operation, medians of {} rounds", scale.rounds);
    println!("{:<20}{:>12}{:>12}{:>8}", "", scale.keys[0], scale.keys[1], "ratio");
    let before = resident();
    let mut benches = scale.keys.map(Bench::filled);
    let memory = resident().saturating_sub(before);
    for (name, run) in KINDS {
        let [small, large] = measure(&mut benches, scale.rounds, run);
        println!("{name:<20}{small:>12.0}{large:>12.0}{:>8.2}", large / small);
    }
    let [_, large] = &mut benches;
    println!("memory of a key with its value and its history: {} bytes", memory / large.keys);
    fan_out(large, scale.watchers);
    snapshot(large);
}

/// Both stores in turns.
fn measure(benches: &mut [Bench; 2], rounds: usize, run: fn(&mut Bench)) -> [f64; 2] {
    let mut figures = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (bench, figures) in benches.iter_mut().zip(&mut figures) {
            let began = Instant::now();
            for _ in 0..OPERATIONS {
                run(bench);
            }
            figures.push(began.elapsed().as_nanos() as f64 / OPERATIONS as f64);
        }
    }
    figures.map(median)
}

/// What one write costs when many wait for changes, of other keys and of this one.
fn fan_out(bench: &mut Bench, watchers: usize) {
    let waiting: Vec<Bytes> = (0..watchers)
        .map(|watcher| {
            let query = EventQuery {
                range: KeyRange::prefix(format!("watched-{watcher}/")),
                from: Position::after(bench.index - 1),
                limit: 100,
                bytes_max: 10_000,
                wants_previous: false,
            };
            Query::Events(query).encode().unwrap()
        })
        .collect();
    const WRITES: u64 = 200;
    let mut looked = Duration::ZERO;
    for _ in 0..WRITES {
        let since = bench.index - 1;
        bench.set();
        let began = Instant::now();
        let due = waiting.iter().filter(|query| bench.machine.may_answer(query, since)).count();
        looked += began.elapsed();
        assert_eq!(due, 0, "nothing of theirs has changed");
    }
    let each = looked.as_secs_f64() * 1e6 / WRITES as f64;
    println!("a write beside {watchers} watchers of other keys: {each:.1} us more");
}

/// How long those who write wait while a snapshot is taken and written.
fn snapshot(bench: &mut Bench) {
    let alone = latencies(bench, || false);
    let began = Instant::now();
    let image = bench.machine.snapshot();
    let taken = began.elapsed();
    let done = Arc::new(AtomicBool::new(false));
    let writing = std::thread::spawn({
        let done = Arc::clone(&done);
        move || {
            let began = Instant::now();
            let mut bytes = Vec::new();
            image(&mut bytes).unwrap();
            bytes.flush().unwrap();
            done.store(true, Ordering::SeqCst);
            (began.elapsed(), bytes)
        }
    });
    let beside = latencies(bench, || !done.load(Ordering::SeqCst));
    let (written, bytes) = writing.join().unwrap();
    println!("snapshot of {} keys: taken in {taken:?}, written in {written:?}", bench.keys);
    let us =
        |histogram: &Histogram<u64>, quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
    for quantile in [0.5, 0.99, 0.999] {
        let (alone, beside) = (us(&alone, quantile), us(&beside, quantile));
        println!("  set p{:<5} {alone:.1} us alone, {beside:.1} us beside it", quantile * 100.0);
    }
    let began = Instant::now();
    let mut restored = KvMachine::new();
    restored.restore(&mut &bytes[..]).unwrap();
    println!("  {} MiB, read in {:?}", bytes.len() >> 20, began.elapsed());
}

/// Times of single writes, so many and as long as there is a reason.
fn latencies(bench: &mut Bench, go_on: impl Fn() -> bool) -> Histogram<u64> {
    let mut histogram = Histogram::new(3).unwrap();
    for number in 0.. {
        if number >= OPERATIONS && !go_on() {
            break;
        }
        let began = Instant::now();
        bench.set();
        histogram.record(u64::try_from(began.elapsed().as_nanos()).unwrap()).unwrap();
    }
    histogram
}

impl Bench {
    fn filled(keys: u64) -> Self {
        let rng = fastrand::Rng::with_seed(7);
        let mut bench = Self { machine: KvMachine::new(), index: 2, keys, rng };
        for number in 0..keys {
            bench.apply(&Command::Set { key: key(number), value: VALUE });
        }
        bench
    }

    fn apply(&mut self, command: &Command) {
        let bytes = command.encode().unwrap();
        std::hint::black_box(self.machine.apply(self.index, &bytes, &mut Effects::default()));
        self.index += 1;
    }

    fn ask(&self, query: &Query) {
        std::hint::black_box(self.machine.query(&query.encode().unwrap(), &NoPast));
    }

    fn key(&mut self) -> Bytes {
        key(self.rng.u64(0..self.keys))
    }

    fn set(&mut self) {
        let key = self.key();
        self.apply(&Command::Set { key, value: VALUE });
    }

    fn set_if(&mut self) {
        let key = self.key();
        let revision = self.machine.value(&key).map_or(0, |(revision, _)| revision);
        self.apply(&Command::Transaction(Transaction {
            conditions: vec![Condition::revision(key.clone(), revision)],
            then: vec![Operation::set(key, VALUE)],
            otherwise: Vec::new(),
        }));
    }

    fn add(&mut self) {
        let then = vec![Operation::add("counter", 1)];
        self.apply(&Command::Transaction(Transaction { then, ..Transaction::default() }));
    }

    fn get(&mut self) {
        let key = self.key();
        self.ask(&Query::Entry { key, revision: 0 });
    }

    fn list(&mut self) {
        let range = KeyRange::between(self.key(), "");
        self.ask(&Query::List(Selection { limit: PAGE, ..Selection::of(range) }));
    }
}

/// Keys of 16 bytes, spread over the store.
fn key(number: u64) -> Bytes {
    format!("{:016x}", number.wrapping_mul(0x9E37_79B9_7F4A_7C15)).into()
}

/// Bytes that the process has in memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
