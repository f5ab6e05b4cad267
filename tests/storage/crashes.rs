//! Random histories on the disk in memory against a model of what must survive.
//!
//! The model knows what was synced, and the entries written since, one by one. After a crash the
//! log must be what was synced with the first so many of those applied: everything acknowledged,
//! nothing invented, no hole. An operation that failed may or may not have taken effect.

use proptest::prelude::*;
use zmesh::wal::{Fault, HardState, Keep, Operation, Point};

use super::*;

/// One step of a history.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Append this many entries, after going back by so many.
    Append {
        back: u64,
        count: u64,
    },
    Sync,
    /// Store the hard state with the commit this far below the last index.
    Store {
        below: u64,
    },
    /// Compact this far below the last index.
    Compact {
        below: u64,
    },
    /// Reset to this far above the last index.
    Reset {
        above: u64,
    },
    /// The process dies and another opens the log.
    Restart,
    /// The machine dies.
    Crash {
        keep: Keep,
        seed: u64,
    },
}

/// The entries after a compaction point.
#[derive(Clone, Debug, PartialEq)]
struct Log {
    base: Point,
    entries: Vec<Entry>,
}

impl Log {
    fn last(&self) -> Point {
        let last = self.entries.last();
        last.map_or(self.base, |entry| Point { index: entry.index, term: entry.term })
    }

    fn put(&mut self, entry: &Entry) {
        let kept = usize::try_from(entry.index - self.base.index - 1).unwrap();
        self.entries.truncate(kept);
        self.entries.push(entry.clone());
    }

    fn compacted(&self, index: u64) -> Self {
        let gone = usize::try_from(index - self.base.index).unwrap();
        let Some(at) = gone.checked_sub(1).map(|at| &self.entries[at]) else {
            return self.clone();
        };
        let base = Point { index, term: at.term };
        Self { base, entries: self.entries[gone..].to_vec() }
    }
}

/// A log, its disk, and what must be true of it.
pub(super) struct History {
    pub(super) site: Site,
    wal: Option<Wal>,
    synced: Log,
    unsynced: Vec<Entry>,
    hard_state: HardState,
    /// What else may be found because the operation that leads there failed.
    also_logs: Vec<Log>,
    also_hard_states: Vec<HardState>,
    term: u64,
}

impl History {
    pub(super) fn start() -> Self {
        let synced = Log { base: Point::default(), entries: Vec::new() };
        Self {
            site: Site::memory(),
            wal: None,
            synced,
            unsynced: Vec::new(),
            hard_state: HardState::default(),
            also_logs: Vec::new(),
            also_hard_states: Vec::new(),
            term: 1,
        }
    }

    fn memory(&self) -> &MemoryDisk {
        self.site.memory.as_ref().unwrap()
    }

    /// Every log that may be found.
    fn possible(&self) -> Vec<Log> {
        let mut log = self.synced.clone();
        let mut possible = vec![log.clone()];
        for entry in &self.unsynced {
            log.put(entry);
            possible.push(log.clone());
        }
        possible.extend(self.also_logs.iter().cloned());
        possible
    }

    fn written(&self) -> Log {
        let mut log = self.synced.clone();
        self.unsynced.iter().for_each(|entry| log.put(entry));
        log
    }

    /// Opens the log and checks that it is one of those that may be found.
    pub(super) fn open(&mut self) -> Result<(), WalError> {
        assert!(self.wal.is_none());
        let (wal, found) = self.site.open()?;
        let base = wal.compaction();
        let log = Log { base, entries: contents(&wal) };
        let possible = self.possible();
        assert!(
            possible.contains(&log),
            "found {} ..= {:?}, expected one of {:?}",
            log.base.index + 1,
            log.last(),
            possible.iter().map(|log| (log.base.index + 1, log.last())).collect::<Vec<_>>()
        );
        assert_eq!((found.last_index, found.last_term), (log.last().index, log.last().term));
        assert_eq!(found.first_index, base.index + 1);
        let mut hard_states = self.also_hard_states.clone();
        hard_states.push(self.hard_state);
        assert!(hard_states.contains(&found.hard_state), "{found:?} not in {hard_states:?}");
        self.synced = log;
        self.hard_state = found.hard_state;
        self.unsynced.clear();
        self.also_logs.clear();
        self.also_hard_states.clear();
        self.wal = Some(wal);
        Ok(())
    }

    /// Takes one step; on an error the model has taken note of what may have happened.
    pub(super) fn step(&mut self, step: &Step) -> Result<(), WalError> {
        if self.wal.is_none() {
            self.open()?;
        }
        match *step {
            Step::Append { back, count } => self.append(back, count),
            Step::Sync => {
                self.wal().sync()?;
                self.settle();
                Ok(())
            }
            Step::Store { below } => self.store(below),
            Step::Compact { below } => self.compact(below),
            Step::Reset { above } => self.reset(above),
            Step::Restart => {
                self.wal = None;
                self.open()
            }
            Step::Crash { keep, seed } => {
                self.wal = None;
                self.memory().crash(&mut fastrand::Rng::with_seed(seed), keep);
                self.open()
            }
        }
    }

    fn wal(&mut self) -> &mut Wal {
        self.wal.as_mut().unwrap()
    }

    /// Everything written is synced.
    fn settle(&mut self) {
        self.synced = self.written();
        self.unsynced.clear();
    }

    fn append(&mut self, back: u64, count: u64) -> Result<(), WalError> {
        let written = self.written();
        let floor = self.hard_state.commit.max(written.base.index);
        let first = (written.last().index + 1).saturating_sub(back).max(floor + 1);
        self.term += u64::from(back > 0);
        let batch = entries(first..=first + count - 1, self.term);
        let before = self.unsynced.len();
        self.unsynced.extend(batch.iter().cloned());
        let result = self.wal().append(&batch);
        if let Err(WalError::NoSpace { .. }) = result {
            self.unsynced.truncate(before);
        }
        result
    }

    fn store(&mut self, below: u64) -> Result<(), WalError> {
        let commit = self.written().last().index.saturating_sub(below);
        let (synced, stored) = (self.wal().synced_index(), self.hard_state.commit);
        let asked = HardState { term: self.term, vote: 7, commit };
        let stored = HardState { commit: commit.min(synced).max(stored), ..asked };
        self.also_hard_states.push(stored);
        self.wal().store_hard_state(asked)?;
        self.also_hard_states.clear();
        self.hard_state = stored;
        Ok(())
    }

    fn compact(&mut self, below: u64) -> Result<(), WalError> {
        self.wal().sync()?;
        self.settle();
        let index = self.synced.last().index.saturating_sub(below).max(self.synced.base.index);
        let log = self.synced.compacted(index);
        let mut hard_state = self.hard_state;
        if index > self.synced.base.index {
            hard_state.commit = hard_state.commit.max(index);
        }
        self.replaced(log, hard_state, |wal| wal.compact(index))
    }

    fn reset(&mut self, above: u64) -> Result<(), WalError> {
        let index = self.written().last().index + above;
        let base = Point { index, term: self.term };
        let hard_state = HardState { commit: index, ..self.hard_state };
        let log = Log { base, entries: Vec::new() };
        self.replaced(log, hard_state, |wal| wal.reset_to(base))
    }

    /// Runs an operation that leads to `log`, or leaves everything as it was.
    fn replaced(
        &mut self,
        log: Log,
        hard_state: HardState,
        operation: impl FnOnce(&mut Wal) -> Result<(), WalError>,
    ) -> Result<(), WalError> {
        self.also_logs.push(log.clone());
        self.also_hard_states.push(hard_state);
        let result = operation(self.wal());
        match &result {
            // A segment that could not be deleted does not change the log.
            Ok(()) | Err(WalError::Io { .. }) => {
                self.synced = log;
                self.unsynced.clear();
                self.hard_state = hard_state;
            }
            Err(WalError::NoSpace { .. }) => {}
            Err(_) => return result,
        }
        self.also_logs.clear();
        self.also_hard_states.clear();
        result
    }

    /// What can be read is what was written, and nothing else is accepted after a failure.
    pub(super) fn check(&mut self) {
        let written = self.written();
        if let Some(wal) = &mut self.wal {
            assert_eq!(wal.last_index(), written.last().index);
            assert_eq!(contents(wal), written.entries);
        }
    }

    /// The log stays closed after a failed write or sync.
    pub(super) fn assert_poisoned(&mut self) {
        let next = entry(self.written().last().index + 1, self.term);
        if let Some(wal) = &mut self.wal {
            for error in [
                wal.append(&[next]).unwrap_err(),
                wal.sync().unwrap_err(),
                wal.store_hard_state(HardState { term: 99, ..HardState::default() }).unwrap_err(),
                wal.find_room().unwrap_err(),
            ] {
                assert!(matches!(error, WalError::Poisoned { .. }), "{error}");
            }
        }
    }

    /// Ends the process, and with `Some` the machine.
    pub(super) fn die(&mut self, crash: Option<(Keep, u64)>) {
        self.wal = None;
        self.memory().heal();
        if let Some((keep, seed)) = crash {
            self.memory().crash(&mut fastrand::Rng::with_seed(seed), keep);
        }
    }
}

pub(super) fn keep() -> impl Strategy<Value = Keep> {
    prop_oneof![1 => Just(Keep::Nothing), 1 => Just(Keep::All), 4 => Just(Keep::Torn)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (prop_oneof![3 => Just(0), 1 => 0_u64..30], 1_u64..12)
            .prop_map(|(back, count)| Step::Append { back, count }),
        4 => Just(Step::Sync),
        2 => (0_u64..20).prop_map(|below| Step::Store { below }),
        1 => (0_u64..40).prop_map(|below| Step::Compact { below }),
        1 => (0_u64..5).prop_map(|above| Step::Reset { above }),
        1 => Just(Step::Restart),
        2 => (keep(), any::<u64>()).prop_map(|(keep, seed)| Step::Crash { keep, seed }),
    ]
}

/// As many histories as `PROPTEST_CASES` says, and a few hundred else.
fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases.unwrap_or(400)) }
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        Just(Operation::Write),
        Just(Operation::Sync),
        Just(Operation::Allocate),
        Just(Operation::Open),
        Just(Operation::Remove),
        Just(Operation::SyncDir),
    ]
}

proptest! {
    #![proptest_config(config())]

    /// No order of operations and crashes loses what was synced, or refuses to open.
    #[test]
    fn synced_entries_survive_any_history(steps in proptest::collection::vec(step(), 1..60)) {
        let mut history = History::start();
        for step in &steps {
            history.step(step).unwrap();
            history.check();
        }
    }

    /// The same with operations that fail: the log is closed, or was not touched, and whoever
    /// opens it next, with or without a crash between, finds everything that was synced.
    #[test]
    fn synced_entries_survive_failing_disks(
        steps in proptest::collection::vec(step(), 1..80),
        faults in proptest::collection::vec((operation(), 0_u64..30, any::<bool>()), 1..6),
        crashes in proptest::collection::vec(proptest::option::of((keep(), any::<u64>())), 80),
    ) {
        let mut history = History::start();
        let mut faults = faults.into_iter();
        for (step, crash) in steps.iter().zip(crashes) {
            match history.step(step) {
                Ok(()) => history.check(),
                Err(WalError::NoSpace { .. }) => history.check(),
                Err(WalError::Io { .. } | WalError::Poisoned { .. }) => {
                    history.die(crash);
                    if let Some((operation, before, full)) = faults.next() {
                        let fault = if full { Fault::Full } else { Fault::Broken };
                        history.memory().fail(operation, before, fault);
                    }
                }
                Err(other) => panic!("{step:?}: {other}"),
            }
            if history.memory().count(Operation::Write).is_multiple_of(7)
                && let Some((operation, before, full)) = faults.next() {
                    let fault = if full { Fault::Full } else { Fault::Broken };
                    history.memory().fail(operation, before, fault);
                }
        }
        history.die(Some((Keep::Torn, 1)));
        history.open().unwrap();
    }
}

/// Runs steps that may fail; after a failure the process dies, with `Some` the machine too.
fn live(history: &mut History, steps: &[Step], crash: Option<(Keep, u64)>) {
    for step in steps {
        match history.step(step) {
            Ok(()) => history.check(),
            Err(WalError::Io { .. } | WalError::Poisoned { .. }) => history.die(crash),
            Err(other) => panic!("{step:?}: {other}"),
        }
    }
}

/// A cut whose sync failed is zeros in the system's memory only. What it was to cut must not come
/// back behind records that were written since.
#[test]
fn torn_tail_stays_cut_after_a_cut_whose_sync_failed() {
    let append = |count| Step::Append { back: 0, count };
    let mut cuts = 0;
    for seed in 0..400 {
        for syncs in 0..2 {
            let mut history = History::start();
            live(&mut history, &[append(3), Step::Sync, append(9)], None);
            history.die(Some((Keep::Torn, seed)));
            history.memory().fail(Operation::Sync, syncs, Fault::Broken);
            live(&mut history, &[append(1)], None);
            cuts += u32::from(history.wal.is_none());
            history.memory().heal();
            live(&mut history, &[append(2)], None);
            history.die(Some((Keep::Torn, seed)));
            history.open().unwrap_or_else(|error| panic!("seed {seed}, {syncs} syncs: {error}"));
        }
    }
    assert!(cuts > 100, "{cuts} failures are too few to prove anything");
}

/// A half-made segment that was deleted is back after a crash if the sync of the directory had
/// failed; meanwhile another has its place.
#[test]
fn deleted_leftover_that_comes_back_is_no_part_of_the_log() {
    let append = |count| Step::Append { back: 0, count };
    let mut history = History::start();
    live(&mut history, &[append(10)], None);
    // The header of the next segment is not written, but its name is.
    history.memory().fail(Operation::Write, 1, Fault::Broken);
    live(&mut history, &[Step::Sync, append(1), append(30)], Some((Keep::All, 0)));
    history.memory().fail(Operation::SyncDir, 0, Fault::Broken);
    live(&mut history, &[append(1)], None);
    assert!(history.wal.is_none(), "the deletion was not synced");
    live(&mut history, &[Step::Reset { above: 1 }], None);
    history.die(Some((Keep::Torn, 1)));
    history.open().unwrap();
}
