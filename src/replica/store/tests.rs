//! What is on disk when the power fails in the middle of a write.

use super::*;
use crate::consensus::membership::Member;
use crate::wal::{EntryKind, Fault, Keep, MemoryDisk, Operation};

fn entries(indexes: std::ops::RangeInclusive<u64>, term: u64) -> Vec<Entry> {
    let data = Bytes::from_static(b"x");
    let entry = |index| Entry { term, index, kind: EntryKind::Normal, data: data.clone() };
    indexes.map(entry).collect()
}

fn options() -> wal::Options {
    wal::Options { segment_bytes: 1 << 14, reserve_bytes: 0, ..wal::Options::default() }
}

/// Entries of a lost leader are replaced by a write that also brings the commit index. If only a
/// part of it survives, what was to be replaced must not count as committed.
#[test]
fn commit_index_never_covers_entries_that_are_about_to_be_replaced() {
    let member = Member { raft_id: 7, node: "a".parse().unwrap(), voter: true };
    let bootstrap = Bootstrap::new(vec![member]).unwrap();
    let mut completed = 0;
    for (operation, keep) in [
        (Operation::Write, Keep::Nothing),
        (Operation::Write, Keep::Torn),
        (Operation::Sync, Keep::Nothing),
        (Operation::Sync, Keep::Torn),
    ] {
        for before in 0..8 {
            let disk = MemoryDisk::new();
            let shared = || Arc::new(disk.clone());
            let node = "a".parse().unwrap();
            let dir = Path::new("/data");
            let store = Store::create(shared(), dir, options(), node, 7, &bootstrap);
            let mut store = store.unwrap();
            let old = Persist { number: 1, hard_state: None, entries: entries(2..=6, 1) };
            store.persist(&old).unwrap();
            let hard_state = Some(HardState { term: 2, vote: 0, commit: 8 });
            let new = Persist { number: 2, hard_state, entries: entries(4..=9, 2) };
            disk.fail(operation, before, Fault::Broken);
            let done = store.persist(&new).is_ok();
            drop(store);
            disk.heal();
            disk.crash(&mut fastrand::Rng::with_seed(before), keep);
            let store = Store::open(shared(), dir, options()).unwrap().unwrap();
            let (commit, log) = (store.hard_state().commit, store.log());
            for index in 4..=commit {
                assert_eq!(log.term(index), Some(2), "{operation:?} {before}: commit {commit}");
            }
            if done {
                assert_eq!((commit, log.last_index()), (8, 9), "not all of it was durable");
                completed += 1;
            }
        }
    }
    assert!((4..28).contains(&completed), "{completed} of 32 came to their end");
}
