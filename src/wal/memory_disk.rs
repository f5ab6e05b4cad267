//! A disk in memory that crashes, tears, fills up and fails as a real one may.
//!
//! It keeps what was synced apart from what was only written. A crash drops or tears the
//! difference: an unsynced write may survive wholly, in part, or not at all, and a name that was
//! created, removed or renamed may be as before unless its directory was synced.
//!
//! Pure and deterministic: randomness is passed to [`MemoryDisk::crash`].
//! Invariant: nothing that was synced changes unless a test damages it by name.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::disk::{Disk, DiskFile, DiskLock, OpenMode, parent};

/// Writes tear between sectors of this many bytes.
const SECTOR: usize = 512;

/// What of the unsynced state survives a crash.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Keep {
    /// Everything unsynced is lost.
    Nothing,
    /// Everything reached the disk in time.
    All,
    /// Every unsynced write and every unsynced name may survive, be lost, or (writes only)
    /// survive in part: in order up to a byte, or any subset of its sectors.
    Torn,
}

/// What can be made to fail.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Operation {
    /// [`DiskFile::read_at`].
    Read,
    /// [`DiskFile::write_at`]; half of the bytes are written nevertheless.
    Write,
    /// [`DiskFile::sync_data`]; the writes that it covered will not survive a crash, even if a
    /// later sync succeeds.
    Sync,
    /// [`DiskFile::allocate`].
    Allocate,
    /// [`Disk::open`].
    Open,
    /// [`Disk::remove`].
    Remove,
    /// [`Disk::rename`].
    Rename,
    /// [`Disk::sync_dir`]; the names that it covered will not survive a crash.
    SyncDir,
}

/// How an operation fails.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// An input/output error (EIO).
    Broken,
    /// No space left (ENOSPC).
    Full,
}

impl Fault {
    fn error(self) -> io::Error {
        match self {
            Self::Broken => io::Error::other("injected input/output error"),
            Self::Full => io::Error::new(ErrorKind::StorageFull, "injected: no space left"),
        }
    }
}

/// A disk in memory. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Counts crashes; handles of an earlier life are dead.
    life: u64,
    directories: BTreeSet<PathBuf>,
    files: BTreeMap<u64, FileState>,
    next_file: u64,
    /// Names as programs see them, and as they are on the platter.
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    /// What leads from the durable names to the seen ones.
    pending_names: Vec<NameChange>,
    locks: BTreeSet<PathBuf>,
    capacity: Option<u64>,
    faults: BTreeMap<Operation, (u64, Fault)>,
    counts: BTreeMap<Operation, u64>,
}

#[derive(Clone, Debug)]
enum NameChange {
    Create(PathBuf, u64),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
}

impl NameChange {
    fn dir(&self) -> &Path {
        match self {
            Self::Create(path, _) | Self::Remove(path) | Self::Rename(path, _) => parent(path),
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            Self::Create(path, id) => {
                names.insert(path.clone(), *id);
            }
            Self::Remove(path) => {
                names.remove(path);
            }
            Self::Rename(from, to) => {
                if let Some(id) = names.remove(from) {
                    names.insert(to.clone(), id);
                }
            }
        }
    }
}

#[derive(Debug, Default)]
struct FileState {
    current: Vec<u8>,
    durable: Vec<u8>,
    /// What leads from `durable` to `current`.
    pending: Vec<Change>,
}

#[derive(Debug)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    SetLen(usize),
}

impl Change {
    fn apply(&self, contents: &mut Vec<u8>) {
        match self {
            Self::Write { offset, bytes } => write(contents, *offset, bytes),
            Self::SetLen(len) => contents.resize(*len, 0),
        }
    }

    /// Applies the bytes before `end` of a write; a change of length is all or nothing.
    fn apply_prefix(&self, contents: &mut Vec<u8>, rng: &mut fastrand::Rng) {
        match self {
            Self::Write { offset, bytes } => {
                write(contents, *offset, &bytes[..rng.usize(..=bytes.len())]);
            }
            Self::SetLen(_) => {
                if rng.bool() {
                    self.apply(contents);
                }
            }
        }
    }

    /// Applies a random subset of the sectors of a write.
    fn apply_sectors(&self, contents: &mut Vec<u8>, rng: &mut fastrand::Rng) {
        let Self::Write { offset, bytes } = self else {
            return self.apply(contents);
        };
        let mut start = 0;
        while start < bytes.len() {
            let end = bytes.len().min(start + SECTOR - (offset + start) % SECTOR);
            if rng.bool() {
                write(contents, offset + start, &bytes[start..end]);
            }
            start = end;
        }
    }
}

/// Puts `bytes` at `offset`, growing `contents` with zeros when needed.
fn write(contents: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if contents.len() < end {
        contents.resize(end, 0);
    }
    contents[offset..end].copy_from_slice(bytes);
}

impl FileState {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.current);
        self.pending.push(change);
    }

    fn sync(&mut self) {
        for change in self.pending.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    fn crash(&mut self, rng: &mut fastrand::Rng, keep: Keep) {
        let pending = std::mem::take(&mut self.pending);
        match keep {
            Keep::Nothing => {}
            Keep::All => pending.iter().for_each(|change| change.apply(&mut self.durable)),
            Keep::Torn if rng.bool() => {
                let whole = rng.usize(..=pending.len());
                pending[..whole].iter().for_each(|change| change.apply(&mut self.durable));
                if let Some(torn) = pending.get(whole) {
                    torn.apply_prefix(&mut self.durable, rng);
                }
            }
            Keep::Torn => {
                for change in &pending {
                    match rng.u8(..3) {
                        0 => {}
                        1 => change.apply(&mut self.durable),
                        _ => change.apply_sectors(&mut self.durable, rng),
                    }
                }
            }
        }
        self.current.clone_from(&self.durable);
    }
}

impl State {
    /// Counts the operation and fails it when a test wants that.
    fn attempt(&mut self, operation: Operation) -> io::Result<()> {
        *self.counts.entry(operation).or_default() += 1;
        match self.faults.get_mut(&operation) {
            Some((0, fault)) => {
                let error = fault.error();
                self.faults.remove(&operation);
                Err(error)
            }
            Some((before, _)) => {
                *before -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn id(&self, path: &Path) -> io::Result<u64> {
        self.names.get(path).copied().ok_or_else(|| not_found(path))
    }

    fn rename_or_remove(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.pending_names.push(change);
    }

    /// Refuses growth beyond the capacity.
    fn grow(&self, id: u64, len: usize) -> io::Result<()> {
        let Some(capacity) = self.capacity else {
            return Ok(());
        };
        let others: usize = self
            .names
            .values()
            .filter(|other| **other != id)
            .map(|other| self.files[other].current.len())
            .sum();
        let own = self.files[&id].current.len();
        if len > own && (others + len) as u64 > capacity {
            return Err(Fault::Full.error());
        }
        Ok(())
    }
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(ErrorKind::NotFound, format!("{} does not exist", path.display()))
}

impl MemoryDisk {
    /// An empty disk without limits.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cuts the power: locks are released, open handles die, and of what was not synced only what
    /// `keep` says survives. Clones of this disk see what is left.
    pub fn crash(&self, rng: &mut fastrand::Rng, keep: Keep) {
        let mut state = self.state.lock();
        state.life += 1;
        state.locks.clear();
        let pending = std::mem::take(&mut state.pending_names);
        let ordered = rng.bool().then(|| rng.usize(..=pending.len()));
        for (position, change) in pending.iter().enumerate() {
            let survives = match keep {
                Keep::Nothing => false,
                Keep::All => true,
                Keep::Torn => ordered.map_or_else(|| rng.bool(), |whole| position < whole),
            };
            if survives {
                change.apply(&mut state.durable_names);
            }
        }
        state.names = state.durable_names.clone();
        let live: BTreeSet<u64> = state.names.values().copied().collect();
        state.files.retain(|id, _| live.contains(id));
        for file in state.files.values_mut() {
            file.crash(rng, keep);
        }
    }

    /// Makes the operation after `before` more of its kind fail, once.
    pub fn fail(&self, operation: Operation, before: u64, fault: Fault) {
        self.state.lock().faults.insert(operation, (before, fault));
    }

    /// Forgets faults that have not struck.
    pub fn heal(&self) {
        self.state.lock().faults.clear();
    }

    /// How often the operation was attempted so far.
    pub fn count(&self, operation: Operation) -> u64 {
        self.state.lock().counts.get(&operation).copied().unwrap_or(0)
    }

    /// Limits the bytes of all files together; `None` for no limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state.lock().capacity = bytes;
    }

    /// The bytes of a file as programs see them; `None` when there is no such file.
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state.lock();
        state.names.get(path).map(|id| state.files[id].current.clone())
    }

    /// Replaces a file by `bytes`, durably and at once, as damage or an operator would.
    pub fn overwrite(&self, path: &Path, bytes: Vec<u8>) {
        let mut state = self.state.lock();
        let id = state.names.get(path).copied().unwrap_or(state.next_file);
        state.next_file = state.next_file.max(id + 1);
        state.names.insert(path.to_path_buf(), id);
        state.durable_names.insert(path.to_path_buf(), id);
        let file = FileState { durable: bytes.clone(), current: bytes, pending: Vec::new() };
        state.files.insert(id, file);
    }

    /// Turns over one bit of a file, durably.
    ///
    /// # Panics
    ///
    /// When there is no such bit.
    pub fn flip_bit(&self, path: &Path, bit: usize) {
        let mut bytes = self.contents(path).expect("the test names a file that exists");
        bytes[bit / 8] ^= 1 << (bit % 8);
        self.overwrite(path, bytes);
    }
}

impl Disk for MemoryDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.directories.extend(dir.ancestors().map(Path::to_path_buf));
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let state = self.state.lock();
        if !state.directories.contains(dir) {
            return Err(not_found(dir));
        }
        Ok(state.names.keys().filter(|path| parent(path) == dir).cloned().collect())
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state.lock();
        state.attempt(Operation::Open)?;
        if !state.directories.contains(parent(path)) {
            return Err(not_found(path));
        }
        let id = match (state.names.get(path).copied(), mode) {
            (None, OpenMode::Existing | OpenMode::Reading) => return Err(not_found(path)),
            (Some(_), OpenMode::CreateNew) => return Err(ErrorKind::AlreadyExists.into()),
            (Some(id), OpenMode::Existing | OpenMode::Reading) => id,
            (Some(id), OpenMode::CreateEmpty) => {
                let file = state.files.get_mut(&id).expect("every name has its file");
                file.change(Change::SetLen(0));
                id
            }
            (None, OpenMode::CreateEmpty | OpenMode::CreateNew) => {
                let id = state.next_file;
                state.next_file += 1;
                state.files.insert(id, FileState::default());
                state.rename_or_remove(NameChange::Create(path.to_path_buf(), id));
                id
            }
        };
        Ok(Box::new(MemoryFile { disk: self.clone(), id, life: state.life }))
    }

    fn boot(&self) -> Option<String> {
        Some(format!("life-{}", self.state.lock().life))
    }

    fn blocks(&self) -> bool {
        false
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.attempt(Operation::Remove)?;
        state.id(path)?;
        state.rename_or_remove(NameChange::Remove(path.to_path_buf()));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.attempt(Operation::Rename)?;
        state.id(from)?;
        state.rename_or_remove(NameChange::Rename(from.to_path_buf(), to.to_path_buf()));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        if !state.directories.contains(dir) {
            return Err(not_found(dir));
        }
        let result = state.attempt(Operation::SyncDir);
        let pending = std::mem::take(&mut state.pending_names);
        let (covered, rest) = pending.into_iter().partition(|change| change.dir() == dir);
        state.pending_names = rest;
        let covered: Vec<NameChange> = covered;
        if result.is_ok() {
            covered.iter().for_each(|change| change.apply(&mut state.durable_names));
        }
        result
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        drop(match self.open(path, OpenMode::Existing) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.open(path, OpenMode::CreateNew)?
            }
            other => other?,
        });
        let mut state = self.state.lock();
        if !state.locks.insert(path.to_path_buf()) {
            return Ok(None);
        }
        let lock = MemoryLock { disk: self.clone(), path: path.to_path_buf(), life: state.life };
        Ok(Some(Box::new(lock)))
    }
}

#[derive(Debug)]
struct MemoryLock {
    disk: MemoryDisk,
    path: PathBuf,
    life: u64,
}

impl DiskLock for MemoryLock {}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        let mut state = self.disk.state.lock();
        if state.life == self.life {
            state.locks.remove(&self.path);
        }
    }
}

#[derive(Debug)]
struct MemoryFile {
    disk: MemoryDisk,
    id: u64,
    life: u64,
}

impl MemoryFile {
    /// Runs `f` on the file, unless the handle is from before a crash.
    fn with<R>(&self, f: impl FnOnce(&mut State, u64) -> io::Result<R>) -> io::Result<R> {
        let mut state = self.disk.state.lock();
        if state.life != self.life || !state.files.contains_key(&self.id) {
            return Err(io::Error::other("the handle is from before a crash"));
        }
        f(&mut state, self.id)
    }

    fn change(state: &mut State, id: u64, change: Change) {
        state.files.get_mut(&id).expect("`with` found the file").change(change);
    }
}

/// An offset or length as an index into memory.
fn position(bytes: u64) -> io::Result<usize> {
    usize::try_from(bytes).map_err(io::Error::other)
}

impl DiskFile for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let offset = position(offset)?;
        self.with(|state, id| {
            state.attempt(Operation::Read)?;
            if buffer.is_empty() {
                return Ok(());
            }
            let end = offset.checked_add(buffer.len());
            let bytes = end.and_then(|end| state.files[&id].current.get(offset..end));
            buffer.copy_from_slice(bytes.ok_or(ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let offset = position(offset)?;
        self.with(|state, id| {
            state.grow(id, offset + bytes.len())?;
            let result = state.attempt(Operation::Write);
            let written = if result.is_ok() { bytes } else { &bytes[..bytes.len() / 2] };
            Self::change(state, id, Change::Write { offset, bytes: written.to_vec() });
            result
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|state, id| Ok(state.files[&id].current.len() as u64))
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let len = position(bytes)?;
        self.with(|state, id| {
            Self::change(state, id, Change::SetLen(len));
            Ok(())
        })
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let len = position(bytes)?;
        self.with(|state, id| {
            state.attempt(Operation::Allocate)?;
            state.grow(id, len)?;
            if state.files[&id].current.len() < len {
                Self::change(state, id, Change::SetLen(len));
            }
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|state, id| {
            let result = state.attempt(Operation::Sync);
            let file = state.files.get_mut(&id).expect("`with` found the file");
            if result.is_ok() {
                file.sync();
            } else {
                file.pending.clear();
            }
            result
        })
    }
}
