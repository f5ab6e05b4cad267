//! Every system call fails once, at every place of a history that does everything.

use zmesh::wal::{Fault, HardState, Keep, Operation};

use super::crashes::{History, Step};
use super::*;

/// Reads are left out: `History` reads on its own after every step.
const OPERATIONS: [Operation; 6] = [
    Operation::Write,
    Operation::Sync,
    Operation::Allocate,
    Operation::Open,
    Operation::Remove,
    Operation::SyncDir,
];

/// Appends, replaces, rotates, stores, compacts, resets, reopens.
fn steps() -> Vec<Step> {
    let mut steps = Vec::new();
    for round in 0..4 {
        steps.extend([
            Step::Append { back: 0, count: 8 },
            Step::Sync,
            Step::Append { back: 5, count: 6 },
            Step::Append { back: 0, count: 9 },
            Step::Sync,
            Step::Store { below: 9 },
            Step::Append { back: 0, count: 3 },
            Step::Compact { below: 4 },
            if round == 2 { Step::Reset { above: 3 } } else { Step::Restart },
        ]);
    }
    steps
}

/// Runs the history with one fault; says whether the fault struck.
fn run(operation: Operation, before: u64, fault: Fault, crash: Option<(Keep, u64)>) -> bool {
    let case = format!("{operation:?} after {before} more: {fault:?}, then {crash:?}");
    let mut history = History::start();
    history.site.memory.as_ref().unwrap().fail(operation, before, fault);
    let mut struck = false;
    for step in steps() {
        match history.step(&step) {
            Ok(()) => history.check(),
            Err(error) => {
                assert!(!struck, "{case}: a second failure: {error}");
                struck = true;
                match error {
                    // Refused as a whole; there is room again, so the next step succeeds.
                    WalError::NoSpace { .. } => {
                        assert_eq!(fault, Fault::Full, "{case}");
                        history.check();
                        continue;
                    }
                    WalError::Poisoned { .. } => history.assert_poisoned(),
                    WalError::Io { .. } => {}
                    other => panic!("{case}: {other}"),
                }
                history.die(crash);
                history.open().unwrap_or_else(|error| panic!("{case}: {error}"));
            }
        }
    }
    history.die(Some((Keep::Nothing, 0)));
    history.open().unwrap_or_else(|error| panic!("{case}: at the end: {error}"));
    struck
}

/// Whatever fails, and whatever dies after it, no synced entry is lost and the log opens again.
#[test]
fn every_operation_may_fail_at_every_place() {
    for operation in OPERATIONS {
        for fault in [Fault::Broken, Fault::Full] {
            let crashes =
                [None, Some((Keep::Nothing, 1)), Some((Keep::All, 2)), Some((Keep::Torn, 3))];
            for crash in crashes {
                let mut before = 0;
                while before < 400 && run(operation, before, fault, crash) {
                    before += 1;
                }
                assert!(before > 2, "{operation:?} was tried only {before} times");
            }
        }
    }
}

/// A full disk refuses entries and nothing else: term and vote are still stored, entries are still
/// read, and when space returns the log goes on.
#[test]
fn full_disk_refuses_entries_and_keeps_voting() {
    let site = Site::memory();
    let memory = site.memory.as_ref().unwrap();
    let (mut wal, _) = site.open().unwrap();
    memory.set_capacity(Some(144_000));
    let mut last = 0;
    let refused = loop {
        match wal.append(&[entry(last + 1, 1)]) {
            Ok(()) => last += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, WalError::NoSpace { .. }), "{refused}");
    assert!(refused.is_retryable() && last >= 20, "{last} entries fitted");
    assert!(!wal.has_room());
    assert!(!wal.find_room().unwrap());
    wal.sync().unwrap();
    wal.store_hard_state(HardState { term: 9, vote: 3, commit: last }).unwrap();
    assert_eq!(contents(&wal), entries(1..=last, 1));
    assert_eq!(wal.last_index(), last);
    memory.crash(&mut fastrand::Rng::with_seed(1), Keep::Nothing);
    drop(wal);

    let (mut wal, found) = site.open().unwrap();
    assert_eq!((found.last_index, found.hard_state.term), (last, 9));
    assert!(wal.append(&[entry(last + 1, 9)]).is_err(), "there is no more room than before");
    memory.set_capacity(None);
    assert!(wal.find_room().unwrap() && wal.has_room());
    wal.append(&[entry(last + 1, 9)]).unwrap();
    wal.sync().unwrap();
    drop(wal);
    assert_eq!(site.open().unwrap().1.last_index, last + 1);
}

/// The reserve is space that an operator can free by hand; a disk without it still works.
#[test]
fn reserve_is_kept_and_may_be_missing() {
    for site in Site::both() {
        let with_reserve = Options { reserve_bytes: 100_000, ..options() };
        let open = || Wal::open(Arc::clone(&site.disk), &site.dir, with_reserve, identity());
        drop(open().unwrap());
        assert_eq!(site.read(&site.path("reserve")).len(), 100_000);
        site.disk.remove(&site.path("reserve")).unwrap();
        if let Some(memory) = &site.memory {
            memory.set_capacity(Some(150_000));
        }
        drop(open().unwrap());
    }
}

/// A vote whose sync failed may be read by the next process and yet not be on disk. If that process
/// wrote over the other slot first and failed, the vote before it would be gone too.
#[test]
fn failed_store_never_costs_the_store_before_it() {
    for before in 0..5 {
        let site = Site::memory();
        let memory = site.memory.as_ref().unwrap();
        let (mut wal, _) = site.open().unwrap();
        // The entries move the tail, so that half of one store and half of another do not match.
        for term in [4, 5] {
            wal.append(&[entry(term - 3, term)]).unwrap();
            wal.sync().unwrap();
            wal.store_hard_state(HardState { term, vote: 1, commit: 0 }).unwrap();
        }
        wal.append(&[entry(3, 5)]).unwrap();
        wal.sync().unwrap();
        memory.fail(Operation::Sync, 0, Fault::Broken);
        wal.store_hard_state(HardState { term: 6, vote: 1, commit: 0 }).unwrap_err();
        drop(wal);
        memory.fail(Operation::Write, before, Fault::Broken);
        drop(site.open());
        memory.heal();
        memory.crash(&mut fastrand::Rng::with_seed(1), Keep::All);
        let term = site.open().unwrap().1.hard_state.term;
        assert!(term >= 5, "write {before}: the vote of term 5 is gone, found term {term}");
    }
}

/// A file that cannot be read is not a corrupt one, and not a new one.
#[test]
fn failed_read_refuses_and_changes_nothing() {
    let site = Site::memory();
    let all = site.filled(50);
    let memory = site.memory.as_ref().unwrap();
    for before in 0..12 {
        let image = site.image();
        memory.fail(Operation::Read, before, Fault::Broken);
        match site.open() {
            Err(WalError::Io { .. }) => {}
            Err(other) => panic!("read {before}: {other}"),
            Ok(_) => {
                assert!(before >= 8, "two slots, three headers, three segments");
                memory.heal();
                break;
            }
        }
        // The last read comes after all checks, when bytes are written again as they were.
        assert!(before >= 8 || site.image() == image, "read {before} changed the directory");
    }
    assert_eq!(contents(&site.open().unwrap().0), all);
}

/// A failed sync is never tried again: the second would succeed without having written anything.
#[test]
fn failed_sync_is_final() {
    let site = Site::memory();
    let memory = site.memory.as_ref().unwrap();
    let (mut wal, _) = site.open().unwrap();
    wal.append(&[entry(1, 1)]).unwrap();
    wal.sync().unwrap();
    wal.append(&[entry(2, 1)]).unwrap();
    memory.fail(Operation::Sync, 0, Fault::Broken);
    assert!(matches!(wal.sync().unwrap_err(), WalError::Poisoned { .. }));
    let syncs = memory.count(Operation::Sync);
    assert!(matches!(wal.sync().unwrap_err(), WalError::Poisoned { .. }));
    assert_eq!(memory.count(Operation::Sync), syncs, "the sync was tried again");
    assert_eq!(wal.synced_index(), 1);
    drop(wal);

    // The next process still sees the entry in the system's memory, and must not take it for
    // durable before it was written and synced once more.
    let (wal, found) = site.open().unwrap();
    assert_eq!((found.last_index, wal.synced_index()), (2, 2));
    drop(wal);
    memory.crash(&mut fastrand::Rng::with_seed(1), Keep::Nothing);
    assert_eq!(site.open().unwrap().1.last_index, 2);
}
