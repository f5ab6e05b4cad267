//! Every door of [`targets`], with the inputs that are kept in `fuzz/corpus` and with mutations of
//! them, each repeatable from its number. `ZMESH_FUZZ_INPUTS` says how many mutations per target
//! [default: 2,000], `ZMESH_FUZZ_SEED` from which number on [default: 0].
//!
//! The fuzzers of `fuzz/` look where coverage leads them: `cargo +nightly fuzz run TARGET`.
#![expect(clippy::unwrap_used, reason = "a test; the allowance does not reach functions beside it")]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

mod seeds;
mod targets;

/// What a thread of the fuzzers has: recursion without a limit ends here.
const STACK_BYTES: usize = if cfg!(debug_assertions) { 1 << 20 } else { 256 << 10 };
const INPUT_BYTES_MAX: usize = 4_096;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|file| (file.clone(), fs::read(file).unwrap())).collect()
}

/// One input changed in one to four places, or joined with a part of another.
fn mutated(rng: &mut fastrand::Rng, corpus: &[(PathBuf, Vec<u8>)]) -> Vec<u8> {
    let pick = |rng: &mut fastrand::Rng| corpus[rng.usize(..corpus.len())].1.clone();
    let mut input = pick(rng);
    for _ in 0..rng.usize(1..=4) {
        let at = rng.usize(..=input.len());
        match rng.u8(..8) {
            0 if at < input.len() => input[at] ^= 1 << rng.u8(..8),
            1 if at < input.len() => input[at] = *rng.choice(&[0, 1, 0x7f, 0x80, 0xff]).unwrap(),
            2 if at < input.len() => input[at] = rng.u8(..),
            3 => input.truncate(at),
            4 => input.insert(at, rng.u8(..)),
            5 if at < input.len() => drop(input.remove(at)),
            6 => {
                let other = pick(rng);
                let from = rng.usize(..=other.len());
                input.splice(at.., other[from..].iter().copied());
            }
            _ => {
                let end = (at + rng.usize(1..=8)).min(input.len());
                let number = *rng.choice(&[0, 1, 0xffff, 1 << 31, u64::MAX]).unwrap();
                input.splice(at..end, number.to_le_bytes());
            }
        }
    }
    input.truncate(INPUT_BYTES_MAX);
    input
}

fn run(name: &str, target: targets::Target) {
    let corpus = corpus(name);
    for (file, input) in &corpus {
        let outcome = catch_unwind(AssertUnwindSafe(|| target(input)));
        assert!(outcome.is_ok(), "{name} fails with {}", file.display());
    }
    let first = setting("ZMESH_FUZZ_SEED", 0);
    for seed in first..first + setting("ZMESH_FUZZ_INPUTS", 2_000) {
        let input = mutated(&mut fastrand::Rng::with_seed(seed), &corpus);
        let outcome = catch_unwind(AssertUnwindSafe(|| target(&input)));
        assert!(outcome.is_ok(), "{name} fails with ZMESH_FUZZ_SEED={seed}: {input:02x?}");
    }
}

/// Runs a target on a thread with little stack.
fn with_little_stack(name: &'static str) {
    let (_, target) = targets::TARGETS.iter().find(|(known, _)| *known == name).unwrap();
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
    let outcome = thread.spawn(move || run(name, *target)).unwrap().join();
    assert!(outcome.is_ok(), "see above");
}

macro_rules! fuzz {
    ($($name:ident),+ $(,)?) => {
        $(#[test]
        fn $name() {
            with_little_stack(stringify!($name));
        })+

        /// No door without a test, and no test without a door.
        #[test]
        fn every_target_is_tested() {
            let names: Vec<_> = targets::TARGETS.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, [$(stringify!($name)),+]);
        }
    };
}

fuzz!(client, config, envelope, frames, metadata, model, payload, segment, snapshot, system);
