//! Snapshot files over a disk in memory: whole, damaged at every byte, cut, and interrupted.

use super::*;
use crate::consensus::membership::{Bootstrap, Member};
use crate::wal::{Fault, Keep, MemoryDisk, Operation};

const CLUSTER: Uuid = Uuid::from_u128(7);

fn membership() -> Membership {
    let member = Member { raft_id: 9, node: "a".parse().unwrap(), voter: true };
    Membership::new(&Bootstrap::new(vec![member]).unwrap())
}

fn files(disk: &MemoryDisk) -> SnapshotFiles {
    disk.create_dir(Path::new("/data")).unwrap();
    SnapshotFiles::new(Arc::new(disk.clone()), Path::new("/data"), CLUSTER)
}

fn body(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

fn write(files: &SnapshotFiles, index: u64, body: Vec<u8>) -> Result<Snapshot, SnapshotError> {
    let image: Image = Box::new(move |out| out.write_all(&body));
    files.write(Point { index, term: 3 }, membership(), image)
}

fn read(files: &SnapshotFiles, index: u64) -> io::Result<Vec<u8>> {
    let mut read = Vec::new();
    files.open(Point { index, term: 3 }).map_err(io::Error::other)?.read_to_end(&mut read)?;
    Ok(read)
}

/// The bytes are a promise to every later version.
#[test]
fn file_has_these_bytes() {
    let (disk, point) = (MemoryDisk::new(), Point { index: 40, term: 3 });
    let files = files(&disk);
    write(&files, 40, b"abc".to_vec()).unwrap();
    let path = files.final_path(point);
    assert_eq!(path, Path::new("/data/00000000000000000040-00000000000000000003.snapshot"));
    let mut expected = b"ZMSN\x01\0\0\0".to_vec();
    expected.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
    expected.extend([40, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 13, 0, 0, 0]);
    expected.extend([1, 0, 9, 0, 0, 0, 0, 0, 0, 0, 1, 1, b'a']);
    expected.extend(crc32c::crc32c(&expected).to_le_bytes());
    expected.extend([3, 0, 0, 0]);
    expected.extend(crc32c::crc32c(b"\0\0\0\0abc").to_le_bytes());
    expected.extend(b"abc\0\0\0\0\x01\0\0\0\x03\0\0\0\0\0\0\0");
    expected.extend(crc32c::crc32c(&expected).to_le_bytes());
    let file = disk.open(&path, OpenMode::Existing).unwrap();
    let mut found = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_at(&mut found, 0).unwrap();
    assert_eq!(found, expected);
}

/// A body of any size comes back, and the file is found again with everything about it.
#[test]
fn bodies_of_every_size_come_back() {
    for bytes in [0, 1, 65_535, 65_536, 65_537, 200_000] {
        let disk = MemoryDisk::new();
        let written = write(&files(&disk), 40, body(bytes)).unwrap();
        disk.crash(&mut fastrand::Rng::with_seed(1), Keep::Nothing);
        let files = files(&disk);
        assert_eq!(files.load(30).unwrap().newest, Some(written.clone()), "{bytes} bytes");
        assert_eq!(read(&files, 40).unwrap(), body(bytes));
        let mut sent = Vec::new();
        while (sent.len() as u64) < written.bytes {
            let part = 1_000.min(usize::try_from(written.bytes).unwrap() - sent.len());
            sent.extend(files.read_part(&written, sent.len() as u64, part).unwrap());
        }
        files.begin_incoming().unwrap();
        files.write_part(0, &sent).unwrap();
        files.finish(&written).unwrap();
        assert!(files.read_part(&written, written.bytes, 1).is_err(), "beyond the end");
    }
}

/// Whatever byte is damaged, the file is not used: the one before is, if the log reaches back to it,
/// and else nothing is, with file and offset.
#[test]
fn damaged_newest_falls_back_to_the_one_before_or_refuses() {
    let disk = MemoryDisk::new();
    let files = files(&disk);
    let older = write(&files, 30, body(100)).unwrap();
    let newest = write(&files, 40, body(300)).unwrap();
    let path = files.final_path(newest.point);
    for at in 0..newest.bytes {
        let file = disk.open(&path, OpenMode::Existing).unwrap();
        let mut byte = [0];
        file.read_at(&mut byte, at).unwrap();
        file.write_at(&[byte[0] ^ 0x10], at).unwrap();
        match files.load(30) {
            // A version or a cluster that is not ours is not ours to judge.
            Err(SnapshotError::NewerFormat { .. }) if (4..6).contains(&at) => {}
            loaded => assert_eq!(loaded.unwrap().newest, Some(older.clone()), "byte {at}"),
        }
        assert!(files.load(31).is_err(), "byte {at}, and the log begins behind the older one");
        assert!(files.read_part(&newest, 0, 300).is_err(), "byte {at} would be sent");
        file.write_at(&byte, at).unwrap();
    }
    let error = {
        let file = disk.open(&path, OpenMode::Existing).unwrap();
        file.write_at(&[0xFF], 100).unwrap();
        files.load(31).unwrap_err().to_string()
    };
    assert!(error.contains(".snapshot is corrupt at byte 61: chunk 0 is damaged"), "{error}");
}

/// A file that ends at any byte before its end, or goes on behind it, is damaged.
#[test]
fn cut_or_lengthened_file_is_refused() {
    let disk = MemoryDisk::new();
    let files = files(&disk);
    let snapshot = write(&files, 40, body(300)).unwrap();
    let file = disk.open(&files.final_path(snapshot.point), OpenMode::Existing).unwrap();
    file.write_at(&[0], snapshot.bytes).unwrap();
    assert!(files.load(40).is_err(), "a byte too many");
    for bytes in (0..snapshot.bytes).rev() {
        file.set_len(bytes).unwrap();
        assert!(files.load(40).is_err(), "cut at {bytes}");
        assert!(read(&files, 40).is_err(), "cut at {bytes}");
    }
}

/// The log is compacted on the word of a snapshot; without one the entries are nowhere.
#[test]
fn compacted_log_without_a_snapshot_is_refused_and_a_whole_log_needs_none() {
    let files = files(&MemoryDisk::new());
    assert!(files.load(Bootstrap::INDEX).unwrap().newest.is_none());
    assert!(matches!(files.load(7), Err(SnapshotError::Missing { compaction: 7, .. })));
}

/// Power may fail between any two steps: then there is the old snapshot or the new one, never half.
#[test]
fn interrupted_write_leaves_the_old_snapshot() {
    for operation in [Operation::Write, Operation::Sync, Operation::Rename, Operation::SyncDir] {
        for seed in 0..20 {
            let disk = MemoryDisk::new();
            let before = write(&files(&disk), 30, body(100)).unwrap();
            disk.fail(operation, 0, Fault::Broken);
            assert!(write(&files(&disk), 40, body(100)).is_err(), "{operation:?}");
            disk.heal();
            disk.crash(&mut fastrand::Rng::with_seed(seed), Keep::Torn);
            let files = files(&disk);
            files.sweep().unwrap();
            let newest = files.load(30).unwrap().newest.unwrap();
            let whole = newest == before || read(&files, newest.point.index).unwrap() == body(100);
            assert!(whole, "{operation:?}, seed {seed}");
        }
    }
}

/// A full disk costs the new snapshot and nothing else, and gives back what the attempt took.
#[test]
fn full_disk_costs_only_the_new_snapshot() {
    let disk = MemoryDisk::new();
    let files = files(&disk);
    let before = write(&files, 30, body(100)).unwrap();
    disk.fail(Operation::Write, 1, Fault::Full);
    assert!(write(&files, 40, body(200_000)).is_err());
    disk.heal();
    assert_eq!(files.load(30).unwrap().newest, Some(before));
    assert_eq!(disk.list(Path::new("/data")).unwrap().len(), 1, "the draft is gone");
}

/// What is received is believed only if it is what was offered, to the bit.
#[test]
fn received_file_that_is_not_the_offered_one_is_refused() {
    let (here, there) = (MemoryDisk::new(), MemoryDisk::new());
    let offered = write(&files(&there), 40, body(500)).unwrap();
    let sent = files(&there);
    sent.load(40).unwrap();
    let mut bytes =
        sent.read_part(&offered, 0, usize::try_from(offered.bytes).unwrap()).unwrap().to_vec();
    let receiver = files(&here);
    let receive = |bytes: &[u8], offered: &Snapshot| {
        receiver.begin_incoming().unwrap();
        receiver.write_part(0, bytes).unwrap();
        receiver.finish(offered)
    };
    let other = Snapshot { checksum: offered.checksum ^ 1, ..offered.clone() };
    assert!(receive(&bytes, &other).is_err(), "whole, but another one");
    bytes[200] ^= 1;
    assert!(receive(&bytes, &offered).is_err(), "damaged on its way");
    bytes[200] ^= 1;
    receive(&bytes, &offered).unwrap();
    let foreign = SnapshotFiles::new(Arc::new(here.clone()), Path::new("/data"), Uuid::nil());
    assert!(matches!(foreign.load(40), Err(SnapshotError::Foreign { .. })));
}

/// What else lies in the directory has no say in which snapshots there are: a copy under a similar
/// name, or one of the same entry, must not keep a replica from starting.
#[test]
fn files_of_other_names_are_no_snapshots() {
    let disk = MemoryDisk::new();
    let files = files(&disk);
    for index in [40, 50] {
        write(&files, index, body(10)).unwrap();
    }
    for copy in
        ["40-3.snapshot", "00000000000000000040-00000000000000000002.snapshot", "x.snapshot"]
    {
        disk.open(&Path::new("/data").join(copy), OpenMode::CreateEmpty).unwrap();
    }
    let loaded = files.load(30).unwrap();
    assert_eq!(loaded.newest.unwrap().point.index, 50);
    assert_eq!(loaded.older.iter().map(|point| point.index).collect::<Vec<_>>(), [40]);
    files.prune(&[Point { index: 50, term: 3 }]).unwrap();
    assert!(disk.list(Path::new("/data")).unwrap().contains(&PathBuf::from("/data/40-3.snapshot")));
}
