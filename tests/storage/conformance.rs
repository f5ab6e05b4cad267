//! One suite for both disks, and the log on top of each.

use std::io::ErrorKind;

use zmesh::wal::{Fault, HardState, Keep, OpenMode, Operation, Point};

use super::*;

/// What the log relies on holds on both disks; the simulation is worth as much as this.
#[test]
fn disks_agree_about_files_and_names() {
    for site in Site::both() {
        let (disk, dir) = (&site.disk, &site.dir);
        assert_eq!(disk.list(dir).unwrap_err().kind(), ErrorKind::NotFound);
        disk.create_dir(dir).unwrap();
        disk.create_dir(dir).unwrap();
        let (a, b) = (site.path("a"), site.path("b"));
        let missing = disk.open(&a, OpenMode::Existing).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        let file = disk.open(&b, OpenMode::CreateNew).unwrap();
        let taken = disk.open(&b, OpenMode::CreateNew).unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
        file.write_at(b"hello", 3).unwrap();
        file.sync_data().unwrap();
        assert_eq!(disk.open(&b, OpenMode::Existing).unwrap().len().unwrap(), 8);
        disk.open(&a, OpenMode::CreateEmpty).unwrap();
        assert_eq!(disk.list(dir).unwrap(), [a.clone(), b.clone()]);
        disk.rename(&b, &a).unwrap();
        disk.sync_dir(dir).unwrap();
        assert_eq!(disk.list(dir).unwrap(), std::slice::from_ref(&a));
        assert_eq!(disk.open(&a, OpenMode::Existing).unwrap().len().unwrap(), 8);
        assert!(disk.open(&a, OpenMode::CreateEmpty).unwrap().is_empty().unwrap());
        disk.remove(&a).unwrap();
        assert_eq!(disk.remove(&a).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(disk.rename(&a, &b).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(disk.list(dir).unwrap(), Vec::<PathBuf>::new());
    }
}

/// Gaps and allocated bytes are zero, allocation never shortens, reading past the end fails.
#[test]
fn disks_agree_about_contents() {
    for site in Site::both() {
        site.disk.create_dir(&site.dir).unwrap();
        let file = site.disk.open(&site.path("a"), OpenMode::CreateNew).unwrap();
        file.allocate(16).unwrap();
        file.allocate(4).unwrap();
        assert_eq!(file.len().unwrap(), 16);
        file.write_at(b"abc", 2).unwrap();
        let mut bytes = [9; 6];
        file.read_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"\0\0abc\0");
        file.write_at(b"z", 19).unwrap();
        file.read_at(&mut bytes, 14).unwrap();
        assert_eq!(&bytes, b"\0\0\0\0\0z");
        assert_eq!(file.read_at(&mut bytes, 15).unwrap_err().kind(), ErrorKind::UnexpectedEof);
        file.set_len(3).unwrap();
        file.set_len(5).unwrap();
        file.read_at(&mut bytes[..5], 0).unwrap();
        assert_eq!(&bytes[..5], b"\0\0a\0\0");
    }
}

/// The lock is exclusive even within one process, and ends with its guard.
#[test]
fn disks_agree_about_locks() {
    for site in Site::both() {
        site.disk.create_dir(&site.dir).unwrap();
        let path = site.path("lock");
        let guard = site.disk.try_lock(&path).unwrap();
        assert!(guard.is_some());
        assert!(site.disk.try_lock(&path).unwrap().is_none());
        drop(guard);
        assert!(site.disk.try_lock(&path).unwrap().is_some());
    }
}

/// A crash takes what was not synced: bytes and names apart from each other.
#[test]
fn crash_keeps_exactly_what_was_synced() {
    let mut rng = fastrand::Rng::with_seed(1);
    let disk = MemoryDisk::new();
    let dir = Path::new("/d");
    disk.create_dir(dir).unwrap();
    let (a, b) = (dir.join("a"), dir.join("b"));
    let file = disk.open(&a, OpenMode::CreateNew).unwrap();
    file.write_at(b"synced", 0).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(dir).unwrap();
    file.write_at(b"later", 6).unwrap();
    disk.open(&b, OpenMode::CreateNew).unwrap().sync_data().unwrap();
    disk.crash(&mut rng, Keep::Nothing);
    assert_eq!(disk.contents(&a).as_deref(), Some(&b"synced"[..]));
    assert_eq!(disk.contents(&b), None, "the directory was not synced");
    assert!(file.sync_data().is_err(), "a handle of the dead process");

    disk.remove(&a).unwrap();
    disk.crash(&mut rng, Keep::Nothing);
    assert_eq!(disk.contents(&a).as_deref(), Some(&b"synced"[..]), "the removal was not synced");
    let file = disk.open(&a, OpenMode::Existing).unwrap();
    file.write_at(b"kept", 6).unwrap();
    disk.crash(&mut rng, Keep::All);
    assert_eq!(disk.contents(&a).as_deref(), Some(&b"syncedkept"[..]));
}

/// After a failed sync the bytes can still be read, and a second sync does not save them.
#[test]
fn sync_after_a_failed_sync_saves_nothing() {
    let disk = MemoryDisk::new();
    let path = Path::new("/d/a");
    disk.create_dir(Path::new("/d")).unwrap();
    let file = disk.open(path, OpenMode::CreateNew).unwrap();
    disk.sync_dir(Path::new("/d")).unwrap();
    file.write_at(b"lost", 0).unwrap();
    disk.fail(Operation::Sync, 0, Fault::Broken);
    assert!(file.sync_data().is_err());
    file.sync_data().unwrap();
    assert_eq!(disk.contents(path).as_deref(), Some(&b"lost"[..]));
    disk.crash(&mut fastrand::Rng::with_seed(1), Keep::All);
    assert_eq!(disk.contents(path).as_deref(), Some(&b""[..]));
}

/// The life of a log, once through: over several segments, with replacement, compaction, a
/// snapshot from elsewhere, and reopening after each.
#[test]
fn log_comes_back_as_it_was_left() {
    for site in Site::both() {
        let (mut wal, found) = site.open().unwrap();
        assert!(found.created);
        assert_eq!((found.first_index, found.last_index, found.last_term), (1, 0, 0));
        wal.append(&entries(1..=50, 1)).unwrap();
        wal.append(&entries(51..=60, 2)).unwrap();
        wal.append(&entries(40..=45, 3)).unwrap();
        wal.sync().unwrap();
        wal.store_hard_state(HardState { term: 3, vote: 2, commit: 99 }).unwrap();
        let hard_state = HardState { term: 3, vote: 2, commit: 45 };
        assert_eq!(wal.hard_state(), hard_state, "commit beyond the log was not lowered");
        wal.store_bootstrap(Bytes::from_static(b"members")).unwrap();
        let all = [entries(1..=39, 1), entries(40..=45, 3)].concat();
        assert_eq!(contents(&wal), all);
        drop(wal);

        let (mut wal, found) = site.open().unwrap();
        assert_eq!((found.created, found.torn_bytes, found.last_term), (false, 0, 3));
        assert_eq!(found.hard_state, hard_state);
        assert_eq!((contents(&wal), wal.bootstrap().as_ref()), (all.clone(), &b"members"[..]));
        for batch in entries(46..=200, 3).chunks(3) {
            wal.append(batch).unwrap();
            wal.sync().unwrap();
        }
        let segments = site.segments().len();
        wal.compact(120).unwrap();
        assert!(site.segments().len() < segments, "no segment was deleted");
        drop(wal);

        let (mut wal, found) = site.open().unwrap();
        assert_eq!((found.first_index, found.last_index), (121, 200));
        assert_eq!(contents(&wal), entries(121..=200, 3));
        assert_eq!((wal.term(119), wal.term(120), wal.term(121)), (None, Some(3), Some(3)));
        wal.reset_to(Point { index: 1_000, term: 7 }).unwrap();
        assert_eq!((wal.first_index(), wal.last_index()), (1_001, 1_000));
        assert_eq!(site.segments().len(), 1);
        drop(wal);

        let (mut wal, found) = site.open().unwrap();
        assert_eq!((found.first_index, found.last_index, found.last_term), (1_001, 1_000, 7));
        assert_eq!(found.hard_state.commit, 1_000);
        wal.append(&[entry(1_001, 7)]).unwrap();
        assert_eq!(contents(&wal), [entry(1_001, 7)]);
    }
}

/// A segment may hold replacements of entries whose own segments were compacted away.
#[test]
fn replacement_outlives_the_segment_of_what_it_replaced() {
    for site in Site::both() {
        let (mut wal, _) = site.open().unwrap();
        wal.append(&entries(1..=20, 1)).unwrap();
        wal.append(&entries(21..=25, 1)).unwrap();
        wal.append(&entries(15..=19, 2)).unwrap();
        wal.sync().unwrap();
        wal.compact(14).unwrap();
        assert_eq!(site.segments().len(), 1);
        drop(wal);
        let (mut wal, found) = site.open().unwrap();
        assert_eq!((found.first_index, found.last_index), (15, 19));
        assert_eq!(contents(&wal), entries(15..=19, 2));
        assert_eq!(wal.term(14), Some(1));
        wal.compact(17).unwrap();
        drop(wal);
        assert_eq!(contents(&site.open().unwrap().0), entries(18..=19, 2));
    }
}

/// Refusals say why, and leave the log as it was.
#[test]
fn batch_that_does_not_fit_the_log_is_refused() {
    for site in Site::both() {
        let (mut wal, _) = site.open().unwrap();
        wal.append(&entries(1..=10, 2)).unwrap();
        wal.sync().unwrap();
        wal.store_hard_state(HardState { term: 2, vote: 0, commit: 5 }).unwrap();
        let below = wal.append(&[entry(5, 3)]).unwrap_err();
        assert!(matches!(below, WalError::BelowCommit { index: 5, commit: 5 }), "{below}");
        let gap = wal.append(&[entry(12, 2)]).unwrap_err();
        assert!(matches!(gap, WalError::Gap { index: 12, after: 10, .. }), "{gap}");
        let inner = wal.append(&[entry(11, 2), entry(13, 2)]).unwrap_err();
        assert!(matches!(inner, WalError::Gap { index: 13, after: 11, .. }), "{inner}");
        let term = wal.append(&[entry(11, 1)]).unwrap_err();
        assert!(matches!(term, WalError::Gap { index: 11, term: 1, .. }), "{term}");
        let blob = wal.store_bootstrap(Bytes::from(vec![0; 65_537])).unwrap_err();
        assert!(matches!(blob, WalError::TooLarge { bytes: 65_537, .. }), "{blob}");
        let unsynced = wal.compact(11).unwrap_err();
        assert!(matches!(unsynced, WalError::OutOfRange { high: 11, last: 10 }), "{unsynced}");
        let older = wal.reset_to(Point { index: 4, term: 2 }).unwrap_err();
        assert!(matches!(older, WalError::BelowCommit { index: 4, commit: 5 }), "{older}");
        assert_eq!(contents(&wal), entries(1..=10, 2));
        wal.append(&[entry(6, 3)]).unwrap();
        assert_eq!((wal.last_index(), wal.synced_index()), (6, 5));
    }
}

/// At least one entry, no more than the budget otherwise, from disk as from memory.
#[test]
fn entries_stay_within_their_budget() {
    for (site, window_bytes_max) in Site::both().into_iter().zip([1, 1 << 20]) {
        let options = Options { window_bytes_max, ..options() };
        let (mut wal, _) =
            Wal::open(Arc::clone(&site.disk), &site.dir, options, identity()).unwrap();
        wal.append(&entries(1..=70, 1)).unwrap();
        let budget = RECORD as u64;
        assert_eq!(wal.entries(1, 71, 0).unwrap(), entries(1..=1, 1));
        assert_eq!(wal.entries(5, 71, 3 * budget - 1).unwrap(), entries(5..=6, 1));
        assert_eq!(wal.entries(5, 71, 3 * budget).unwrap(), entries(5..=7, 1));
        assert_eq!(wal.entries(5, 9, u64::MAX).unwrap(), entries(5..=8, 1));
        assert_eq!(wal.entries(71, 71, 100).unwrap(), []);
        let beyond = wal.entries(60, 72, 100).unwrap_err();
        assert!(matches!(beyond, WalError::OutOfRange { high: 71, last: 70 }), "{beyond}");
        wal.sync().unwrap();
        wal.compact(9).unwrap();
        let gone = wal.entries(9, 12, 100).unwrap_err();
        assert!(matches!(gone, WalError::Compacted { index: 9, first: 10 }), "{gone}");
    }
}

/// A batch is never split, so one that is larger than a segment gets a larger segment.
#[test]
fn batch_larger_than_a_segment_is_written_whole() {
    for site in Site::both() {
        let (mut wal, _) = site.open().unwrap();
        let big = Entry { data: Bytes::from(vec![7; 100_000]), ..entry(1, 1) };
        wal.append(&[big.clone(), entry(2, 1)]).unwrap();
        wal.append(&[entry(3, 1)]).unwrap();
        wal.sync().unwrap();
        drop(wal);
        let (wal, _) = site.open().unwrap();
        assert_eq!(contents(&wal), [big, entry(2, 1), entry(3, 1)]);
    }
}

/// Two logs in one directory would overwrite each other.
#[test]
fn second_opener_is_refused_until_the_first_is_gone() {
    for site in Site::both() {
        let (wal, _) = site.open().unwrap();
        let refused = site.open().unwrap_err();
        assert!(matches!(&refused, WalError::Locked { dir } if *dir == site.dir), "{refused}");
        assert!(refused.is_retryable());
        drop(wal);
        site.open().unwrap();
    }
}
