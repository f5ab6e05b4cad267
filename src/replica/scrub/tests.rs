//! Damage that is found, and reading that holds nobody up.

use bytes::Bytes;

use super::*;
use crate::consensus::Persist;
use crate::consensus::membership::{Bootstrap, Member, Membership};
use crate::replica::Store;
use crate::wal::{self, Entry, EntryKind, MemoryDisk, Point};

const DIR: &str = "/data";

/// A store with several segments and a snapshot.
fn filled() -> (MemoryDisk, Store) {
    let disk = MemoryDisk::new();
    let member = Member { raft_id: 1, node: "a".parse().unwrap(), voter: true };
    let bootstrap = Bootstrap::new(vec![member.clone()]).unwrap();
    let options = wal::Options { segment_bytes: 4_096, reserve_bytes: 0, window_bytes_max: 1 };
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let dir = std::path::Path::new(DIR);
    let mut store = Store::create(shared, dir, options, member.node, 1, &bootstrap).unwrap();
    for index in 2..100 {
        // One that is larger than a step.
        let data = Bytes::from(vec![7; if index == 50 { 9_000 } else { 200 }]);
        let entries = vec![Entry { term: 1, index, kind: EntryKind::Normal, data }];
        let persist = Persist { number: index, entries, hard_state: None };
        store.persist(&persist).unwrap();
    }
    let image = Box::new(|out: &mut dyn std::io::Write| out.write_all(&[9; 200_000]));
    let point = Point { index: 60, term: 1 };
    store.files().write(point, Membership::new(&bootstrap), image).unwrap();
    (disk, store)
}

fn scrubber(store: &Store) -> Scrubber {
    store.scrubber()
}

/// Everything that a pass says, with the bytes of the steps that went well.
fn pass(store: &Store, bytes_max: usize) -> (u64, Vec<Step>) {
    let (mut scrubber, mut bytes, mut others) = (scrubber(store), 0, Vec::new());
    loop {
        match scrubber.step(bytes_max) {
            Step::Read(more) => bytes += more,
            Step::Ended => return (bytes, others),
            step @ (Step::Damaged { .. } | Step::Failed { .. }) => others.push(step),
        }
    }
}

/// Whatever the size of a step, all sealed segments and the snapshot are read once.
#[test]
fn pass_reads_everything_once_and_finds_it_sound() {
    let (_, store) = filled();
    let (bytes, others) = pass(&store, 4_096);
    assert!(others.is_empty(), "{others:?}");
    assert!(bytes > 200_000 + 6 * 4_000, "{bytes}");
    for size in [1, 33, 500, 1 << 20] {
        assert_eq!(pass(&store, size), (bytes, Vec::new()), "steps of {size}");
    }
}

/// Every file is damaged once; each is named with its place, and the others are read on.
#[test]
fn damage_anywhere_is_found_and_named() {
    let (disk, store) = filled();
    let mut files = disk.list(std::path::Path::new(DIR)).unwrap();
    files.retain(|file| file.extension().is_some_and(|it| it == "wal" || it == "snapshot"));
    let active = files.iter().rfind(|file| file.extension().is_some_and(|it| it == "wal"));
    let active = active.unwrap().clone();
    for file in files {
        let before = disk.contents(&file).unwrap();
        let used = before.iter().rposition(|byte| *byte != 0).unwrap();
        for at in [3, 100, used / 2, used] {
            let mut damaged = before.clone();
            damaged[at] ^= 1;
            disk.overwrite(&file, damaged);
            let (_, others) = pass(&store, 1_000);
            let case = format!("{} at {at}: {others:?}", file.display());
            let expected = if file == active { 0 } else { 1 };
            assert_eq!(others.len(), expected, "{case}");
            for step in others {
                let Step::Damaged { reason } = step else { panic!("{case}") };
                assert!(reason.contains(&file.display().to_string()), "{case}");
            }
        }
        disk.overwrite(&file, before);
    }
}

/// The log forgets and snapshots are pruned while a pass is under way.
#[test]
fn files_that_are_forgotten_meanwhile_are_no_damage() {
    let (disk, store) = filled();
    let mut scrubber = scrubber(&store);
    assert!(matches!(scrubber.step(500), Step::Read(_)));
    for file in disk.list(std::path::Path::new(DIR)).unwrap() {
        disk.remove(&file).unwrap();
    }
    loop {
        match scrubber.step(500) {
            Step::Read(_) => {}
            Step::Ended => break,
            step @ (Step::Damaged { .. } | Step::Failed { .. }) => panic!("{step:?}"),
        }
    }
}

/// The rate is what was asked for, whatever a step has read; between passes it is quiet.
#[test]
fn pace_keeps_the_rate() {
    let second = Duration::from_secs(1);
    let options = Options {
        scrub_bytes_per_second: 5 << 20,
        scrub_interval: 10 * second,
        ..Options::default()
    };
    let start = Time::from_start(second);
    let mut pace = Pace::new(&options, start);
    assert_eq!((pace.due(), pace.step_bytes()), (Some(start + 10 * second), 1 << 20));
    pace.stepped(start, 5 << 20);
    assert_eq!(pace.due(), Some(start + second));
    pace.ended(start + second);
    assert_eq!(pace.due(), Some(start + 11 * second));

    let never = Options { scrub_bytes_per_second: 0, ..options };
    let mut pace = Pace::new(&never, start);
    pace.stepped(start, 1);
    assert_eq!(pace.due(), None);
}
