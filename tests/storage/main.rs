//! The log on a real disk and on one in memory: damage, faults, crashes.
//!
//! - `conformance`: both disks do what the log relies on, and the log does the same on both.
//! - `damage`: what somebody or something did to the files while nobody was looking.
//! - `faults`: every system call fails once, at every place.
//! - `crashes`: random histories against a model.

mod conformance;
mod crashes;
mod damage;
mod faults;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;
use zmesh::wal::{
    Disk, Entry, EntryKind, Identity, MemoryDisk, Options, RealDisk, Recovered, Wal, WalError,
};

/// Where the first record of a segment lies, and how many bytes a record of `entry` takes.
const START: usize = 80;
const RECORD: usize = 72;

/// An entry whose 37 bytes of data have no zero, so that a missing byte always shows.
fn entry(index: u64, term: u64) -> Entry {
    let byte = u8::try_from(index % 200).unwrap() + 1;
    Entry { term, index, kind: EntryKind::Normal, data: Bytes::from(vec![byte; 37]) }
}

fn entries(indexes: std::ops::RangeInclusive<u64>, term: u64) -> Vec<Entry> {
    indexes.map(|index| entry(index, term)).collect()
}

fn identity() -> Identity {
    Identity { cluster: Uuid::from_u128(1), node: "alpha".parse().unwrap(), raft_id: 11 }
}

/// Segments of 20 records, and a window of one, so that reads touch the disk.
fn options() -> Options {
    Options { segment_bytes: (START + 20 * RECORD) as u64, reserve_bytes: 0, window_bytes_max: 1 }
}

/// A directory on one of the disks, with a back door to its files.
struct Site {
    disk: Arc<dyn Disk>,
    memory: Option<MemoryDisk>,
    dir: PathBuf,
    _temporary: Option<tempfile::TempDir>,
}

impl Site {
    fn memory() -> Self {
        let memory = MemoryDisk::new();
        let disk = Arc::new(memory.clone());
        Self { disk, memory: Some(memory), dir: PathBuf::from("/data"), _temporary: None }
    }

    fn real() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().join("data");
        Self { disk: Arc::new(RealDisk), memory: None, dir, _temporary: Some(temporary) }
    }

    fn both() -> [Self; 2] {
        [Self::memory(), Self::real()]
    }

    fn open(&self) -> Result<(Wal, Recovered), WalError> {
        Wal::open(Arc::clone(&self.disk), &self.dir, options(), identity())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The segment files, in order.
    fn segments(&self) -> Vec<PathBuf> {
        let mut files = self.disk.list(&self.dir).unwrap();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "wal"));
        files
    }

    fn read(&self, path: &Path) -> Vec<u8> {
        match &self.memory {
            Some(memory) => memory.contents(path).unwrap(),
            None => fs::read(path).unwrap(),
        }
    }

    fn write(&self, path: &Path, bytes: &[u8]) {
        match &self.memory {
            Some(memory) => memory.overwrite(path, bytes.to_vec()),
            None => fs::write(path, bytes).unwrap(),
        }
    }

    /// Changes a file behind the log's back.
    fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = self.read(path);
        change(&mut bytes);
        self.write(path, &bytes);
    }

    /// All files.
    fn image(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let files = self.disk.list(&self.dir).unwrap();
        files.into_iter().map(|path| (path.clone(), self.read(&path))).collect()
    }

    /// Puts all files back.
    fn restore(&self, image: &BTreeMap<PathBuf, Vec<u8>>) {
        for path in self.disk.list(&self.dir).unwrap() {
            if !image.contains_key(&path) {
                self.disk.remove(&path).unwrap();
            }
        }
        for (path, bytes) in image {
            if !self.disk.list(&self.dir).unwrap().contains(path) || self.read(path) != *bytes {
                self.write(path, bytes);
            }
        }
    }

    /// A log of `count` entries, one batch and one sync each.
    fn filled(&self, count: u64) -> Vec<Entry> {
        let (mut wal, _) = self.open().unwrap();
        let all = entries(1..=count, 1);
        for entry in &all {
            wal.append(std::slice::from_ref(entry)).unwrap();
            wal.sync().unwrap();
        }
        all
    }
}

/// Everything the log has.
fn contents(wal: &Wal) -> Vec<Entry> {
    wal.entries(wal.first_index(), wal.last_index() + 1, u64::MAX).unwrap()
}
