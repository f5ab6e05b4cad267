//! A replica's disk: the log, the metadata and the snapshots in one directory.
//!
//! [`Store::persist`] is the only way by which a replica writes; its order is what the promises of
//! the [`Core`] stand on. The log is shared with the core, which reads old entries from it.
//!
//! Touches the disk only through [`wal::Disk`], so a simulation runs this very code.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::condemned;
use super::core::{Core, Done};
use super::machine::{InvalidSnapshot, Machine};
use super::scrub::Scrubber;
use super::snapshot::{Loaded, SnapshotError, SnapshotFiles};
use super::sync::{self, Confidence, SyncMode};
use super::transfer::FileWork;
use crate::consensus::membership::{Bootstrap, InvalidBootstrap};
use crate::consensus::{Log, LogError, Persist, Snapshot};
use crate::id::NodeId;
use crate::timer::Time;
use crate::wal::{self, Disk, Entry, HardState, Identity, Point, Wal, WalError};

/// The disk of one replica.
#[derive(Debug)]
pub struct Store {
    wal: Arc<Mutex<Wal>>,
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    confidence: Confidence,
    mode: SyncMode,
    /// When [`Self::sync_due`] found something unsynced first.
    unsynced_since: Option<Time>,
    identity: Identity,
    bootstrap: Bootstrap,
    files: SnapshotFiles,
    loaded: Loaded,
}

/// The log of a [`Store`], to read.
#[derive(Clone, Debug)]
pub struct SharedLog(Arc<Mutex<Wal>>);

/// Why a store cannot be opened or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The first members as stored make no sense; the directory is damaged.
    #[error("the stored members cannot be: {0}")]
    Bootstrap(#[from] InvalidBootstrap),
    /// The replica was found to be damaged, and stopped for good.
    #[error(
        "{} is not to be used any more: {reason}; put it aside and join again: zmesh repair --rejoin",
        dir.display()
    )]
    Condemned {
        /// The directory.
        dir: PathBuf,
        /// Why.
        reason: String,
    },
    /// The log of another directory, which was to be taken over, cannot be read.
    #[error("cannot read the log: {reason}")]
    Copy {
        /// In the words of that log.
        reason: String,
    },
    /// The directory was begun but never got its members; [`Store::create`] with the same raft id
    /// completes it.
    #[error("the directory was not completely created")]
    Incomplete {
        /// Whose it is.
        identity: Identity,
    },
    /// The mark of unsynced writes could not be read, left or taken away.
    #[error("{}: {source}", file.display())]
    Mark {
        /// Its file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The machine does not understand a snapshot that is whole.
    #[error("the snapshot cannot be restored: {0}")]
    Restore(#[from] InvalidSnapshot),
    /// No snapshot can be used.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The log refused.
    #[error(transparent)]
    Wal(#[from] WalError),
}

impl StoreError {
    /// Whether the same call can succeed later: the disk was full and nothing was written.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Bootstrap(_)
            | Self::Condemned { .. }
            | Self::Copy { .. }
            | Self::Incomplete { .. }
            | Self::Mark { .. }
            | Self::Restore(_)
            | Self::Snapshot(_) => false,
            Self::Wal(error) => error.is_retryable(),
        }
    }
}

impl Store {
    /// Makes the directory of a new replica, or completes one whose making was interrupted.
    ///
    /// # Errors
    ///
    /// [`StoreError`]: the directory is not usable. Calling again is safe.
    pub fn create(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: wal::Options,
        node: NodeId,
        raft_id: u64,
        bootstrap: &Bootstrap,
    ) -> Result<Self, StoreError> {
        // The log continues after the bootstrap as if a snapshot had brought it.
        let point = Point { index: Bootstrap::INDEX, term: Bootstrap::TERM };
        let nothing = |_: &mut Wal| Ok(point);
        Self::create_with((disk, dir), options, (node, raft_id), bootstrap, (point, nothing))
    }

    /// As [`Self::create`], with a log that begins after a point and is filled at once; `fill`
    /// returns its last entry. All of it counts as committed.
    pub(super) fn create_with(
        (disk, dir): (Arc<dyn Disk>, &Path),
        options: wal::Options,
        (node, raft_id): (NodeId, u64),
        bootstrap: &Bootstrap,
        (base, fill): (Point, impl FnOnce(&mut Wal) -> Result<Point, StoreError>),
    ) -> Result<Self, StoreError> {
        let identity = Identity { cluster: bootstrap.cluster_id(), node, raft_id };
        let (mut wal, _) = Wal::open(Arc::clone(&disk), dir, options, identity.clone())?;
        if wal.bootstrap().is_empty() {
            wal.reset_to(base)?;
            let Point { index: commit, term } = fill(&mut wal)?;
            wal.sync()?;
            wal.store_hard_state(HardState { term, vote: 0, commit })?;
            // The members come last: a directory that has them is complete.
            wal.store_bootstrap(bootstrap.encode())?;
        }
        Self::with(disk, dir, wal, identity)
    }

    /// Opens the directory of a replica; `None` when there is none yet.
    ///
    /// # Errors
    ///
    /// [`StoreError`]: the directory is in use, damaged or incomplete.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: wal::Options,
    ) -> Result<Option<Self>, StoreError> {
        let Some(identity) = Wal::identity(disk.as_ref(), dir)? else { return Ok(None) };
        let condemned = condemned::read(disk.as_ref(), dir);
        let io = |source| WalError::Io { operation: "read", file: dir.to_path_buf(), source };
        if let Some(reason) = condemned.map_err(io)? {
            return Err(StoreError::Condemned { dir: dir.to_path_buf(), reason });
        }
        let (wal, _) = Wal::open(Arc::clone(&disk), dir, options, identity.clone())?;
        Self::with(disk, dir, wal, identity).map(Some)
    }

    /// What is known of the writes that were here when the directory was opened.
    pub fn confidence(&self) -> Confidence {
        self.confidence
    }

    /// Chooses when writes are synced [default: [`SyncMode::Always`]]. Before, everything is: opening
    /// a log syncs it. The caller has looked at [`Self::confidence`]: what it said is forgotten with this.
    ///
    /// # Errors
    ///
    /// [`StoreError`]: the directory may not be written without syncing.
    pub fn begin(&mut self, mode: SyncMode) -> Result<(), StoreError> {
        let (disk, dir) = (self.disk.as_ref(), self.dir.as_path());
        let marked = match mode {
            SyncMode::Always => sync::unmark(disk, dir),
            SyncMode::Interval(_) | SyncMode::Never => sync::mark(disk, dir),
        };
        marked.map_err(|source| StoreError::Mark { file: sync::file(dir), source })?;
        self.mode = mode;
        Ok(())
    }

    /// When [`Self::sync_due`] has something to do.
    pub fn poll_timeout(&self) -> Option<Time> {
        match self.mode {
            SyncMode::Interval(interval) => self.unsynced_since.map(|since| since + interval),
            SyncMode::Always | SyncMode::Never => None,
        }
    }

    /// Syncs what was written, if the interval has passed since the first call that found something.
    /// A driver calls it with every turn.
    ///
    /// # Errors
    ///
    /// [`StoreError`]: the core must be told to [`Core::fail`].
    pub fn sync_due(&mut self, now: Time) -> Result<(), StoreError> {
        let mut wal = self.wal.lock();
        if !wal.has_unsynced() {
            self.unsynced_since = None;
            return Ok(());
        }
        let since = *self.unsynced_since.get_or_insert(now);
        if let SyncMode::Interval(interval) = self.mode
            && now >= since + interval
        {
            wal.sync()?;
            self.unsynced_since = None;
        }
        Ok(())
    }

    /// Syncs everything and says so in the directory: the replica stops in order. The commit index is
    /// remembered, so that the next start applies up to it at once.
    ///
    /// # Errors
    ///
    /// [`StoreError`]: the next start may take it for one that did not stop in order.
    pub fn close(&mut self, commit: u64) -> Result<(), StoreError> {
        self.wal.lock().sync()?;
        self.store_commit(commit)?;
        self.begin(SyncMode::Always)
    }

    /// When writes are synced.
    pub fn mode(&self) -> SyncMode {
        self.mode
    }

    /// Writes everything in `persist`, and syncs it unless [`Self::begin`] said otherwise. When it
    /// returns, [`Core::persisted`] may be told.
    ///
    /// # Errors
    ///
    /// [`StoreError`]: if it [is retryable](StoreError::is_retryable), the disk is full and the
    /// same write may be tried again; else the core must be told to [`Core::fail`].
    pub fn persist(&mut self, persist: &Persist) -> Result<(), StoreError> {
        let mut wal = self.wal.lock();
        let replaced = persist.entries.first().map_or(u64::MAX, |first| first.index);
        // First the term and the vote, so that the log never has entries of a term that the
        // replica could forget having seen. What is replaced below was never committed: until it is
        // gone, a commit index must not cover it.
        if let Some(hard_state) = persist.hard_state {
            let commit = hard_state.commit.min(replaced - 1);
            wal.sync()?;
            wal.store_hard_state(HardState { commit, ..hard_state })?;
        }
        if !persist.entries.is_empty() {
            wal.append(&persist.entries)?;
            // A commit index is kept as far as the log is synced.
            if self.mode == SyncMode::Always || persist.hard_state.is_some() {
                wal.sync()?;
            }
        }
        // And last the commit index, if it covers what was written: a change of the members that is
        // about to be applied must not be forgotten.
        if let Some(hard_state) = persist.hard_state.filter(|it| it.commit >= replaced) {
            wal.store_hard_state(hard_state)?;
        }
        Ok(())
    }

    /// Remembers a commit index, so that the next start applies up to it at once. Not needed for
    /// safety; a driver calls it when it stops.
    ///
    /// # Errors
    ///
    /// [`StoreError`]: it was not remembered.
    pub fn store_commit(&mut self, commit: u64) -> Result<(), StoreError> {
        let mut wal = self.wal.lock();
        let hard_state = wal.hard_state();
        if commit > hard_state.commit {
            wal.store_hard_state(HardState { commit, ..hard_state })?;
        }
        Ok(())
    }

    /// Writes down that no replica may start on this directory any more.
    ///
    /// # Errors
    ///
    /// What the disk says; the next start may be tried.
    pub fn condemn(&self, reason: &str) -> io::Result<()> {
        condemned::write(self.disk.as_ref(), &self.dir, reason)
    }

    /// Begins to read all files again that are not written any more.
    pub(super) fn scrubber(&self) -> Scrubber {
        let (disk, identity) = (Arc::clone(&self.disk), self.identity.clone());
        let sealed = self.wal.lock().sealed();
        Scrubber::new(disk, identity, self.files.clone(), sealed)
    }

    /// Whether there is room for more entries; tries to make some if there was none.
    ///
    /// # Errors
    ///
    /// [`StoreError`]: the disk failed for good.
    pub fn find_room(&mut self) -> Result<bool, StoreError> {
        Ok(self.wal.lock().find_room()?)
    }

    /// Whether there was room when it was last needed.
    pub fn has_room(&self) -> bool {
        self.wal.lock().has_room()
    }

    /// The log, for [`Setup::log`](super::Setup::log).
    pub fn log(&self) -> SharedLog {
        SharedLog(Arc::clone(&self.wal))
    }

    /// The stored hard state.
    pub fn hard_state(&self) -> HardState {
        self.wal.lock().hard_state()
    }

    /// Whose directory it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The members the cluster began with.
    pub fn bootstrap(&self) -> &Bootstrap {
        &self.bootstrap
    }

    /// The snapshot files, for [`Job`](super::Job)s.
    pub fn files(&self) -> &SnapshotFiles {
        &self.files
    }

    /// The newest snapshot, as the directory was opened.
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.loaded.newest.as_ref()
    }

    /// Those before it that are still there, in order. The log goes on from each of them.
    pub fn older_snapshots(&self) -> &[Point] {
        &self.loaded.older
    }

    /// Brings a machine to the state of [`Self::snapshot`]; does nothing if there is none.
    ///
    /// # Errors
    ///
    /// [`StoreError`]: the machine is as it was.
    pub fn restore(&self, machine: &mut impl Machine) -> Result<(), StoreError> {
        if let Some(snapshot) = self.snapshot() {
            machine.restore(&mut self.files.open(snapshot.point)?)?;
        }
        Ok(())
    }

    /// Makes the log begin after a snapshot that is on disk.
    ///
    /// # Errors
    ///
    /// [`StoreError`]: the replica must stop.
    pub fn begin_after(&mut self, point: Point, hard_state: HardState) -> Result<(), StoreError> {
        begin_after(&mut self.wal.lock(), point, hard_state)
    }

    /// Forgets entries up to and including `index`, which a durable snapshot has.
    ///
    /// # Errors
    ///
    /// [`StoreError`]: the entries may be there or not.
    pub fn compact(&mut self, index: u64) -> Result<(), StoreError> {
        let mut wal = self.wal.lock();
        // Only what is synced can be forgotten.
        wal.sync()?;
        Ok(wal.compact(index)?)
    }

    fn with(
        disk: Arc<dyn Disk>,
        dir: &Path,
        mut wal: Wal,
        identity: Identity,
    ) -> Result<Self, StoreError> {
        if wal.bootstrap().is_empty() {
            return Err(StoreError::Incomplete { identity });
        }
        let confidence = sync::confidence(disk.as_ref(), dir);
        let confidence =
            confidence.map_err(|source| StoreError::Mark { file: sync::file(dir), source })?;
        let bootstrap = Bootstrap::decode(wal.bootstrap())?;
        let files = SnapshotFiles::new(Arc::clone(&disk), dir, identity.cluster);
        files.sweep()?;
        let mut loaded = files.load(wal.compaction().index)?;
        if let Some(Snapshot { point, .. }) = loaded.newest
            && wal.term(point.index) != Some(point.term)
        {
            // It was received, and the power failed before the log was told. What the log has is
            // older, or was never committed.
            let hard_state = wal.hard_state();
            begin_after(&mut wal, point, hard_state)?;
        }
        let reached = wal.compaction().index;
        loaded.older.retain(|older| older.index >= reached);
        let (dir, mode) = (dir.to_path_buf(), SyncMode::Always);
        let wal = Arc::new(Mutex::new(wal));
        let unsynced_since = None;
        Ok(Self {
            wal,
            disk,
            dir,
            confidence,
            mode,
            unsynced_since,
            identity,
            bootstrap,
            files,
            loaded,
        })
    }
}

impl Log for SharedLog {
    fn entries(&self, low: u64, high: u64, bytes_max: u64) -> Result<Vec<Entry>, LogError> {
        let entries = self.0.lock().entries(low, high, bytes_max);
        entries.map_err(|error| LogError { reason: error.to_string() })
    }

    fn term(&self, index: u64) -> Option<u64> {
        self.0.lock().term(index)
    }

    fn first_index(&self) -> u64 {
        self.0.lock().first_index()
    }

    fn last_index(&self) -> u64 {
        self.0.lock().last_index()
    }
}

/// First the term, so that the log never begins after a term that the replica has not seen.
fn begin_after(wal: &mut Wal, point: Point, hard_state: HardState) -> Result<(), StoreError> {
    let vote = if hard_state.term >= point.term { hard_state.vote } else { 0 };
    let term = hard_state.term.max(point.term);
    let commit = wal.hard_state().commit;
    wal.store_hard_state(HardState { term, vote, commit })?;
    wal.reset_to(point)?;
    Ok(())
}

/// Does what a turn of the core gave out, in the only safe order: sends, writes, and what follows
/// from the writes, until nothing is left. Answers are returned in order.
///
/// On a full disk the core refuses proposals from then on, and the unwritten rest is returned with
/// the next call; on any other failure the core stops.
pub fn settle<M: Machine, T>(
    core: &mut Core<M, T>,
    store: &mut Store,
    unwritten: &mut Option<Persist>,
    mut send: impl FnMut(u64, Bytes),
) -> Vec<Done<T>> {
    write(core, store, unwritten, &mut send);
    if do_file_work(core, store) {
        write(core, store, unwritten, &mut send);
    }
    match store.find_room() {
        Ok(has_room) => core.set_room(has_room && unwritten.is_none()),
        Err(error) => core.fail(error.to_string()),
    }
    core.take_done()
}

/// Sends and writes until nothing is left or the disk is full.
fn write<M: Machine, T>(
    core: &mut Core<M, T>,
    store: &mut Store,
    unwritten: &mut Option<Persist>,
    send: &mut impl FnMut(u64, Bytes),
) {
    loop {
        for (to, frame) in core.take_frames() {
            send(to, frame);
        }
        let Some(persist) = unwritten.take().or_else(|| core.take_persist()) else { break };
        match store.persist(&persist) {
            Ok(()) => core.persisted(persist.number),
            Err(error) if error.is_retryable() => {
                *unwritten = Some(persist);
                break;
            }
            Err(error) => core.fail(error.to_string()),
        }
    }
}

/// Does what has to be done with snapshot files at once, and installs a snapshot that is ready.
/// Returns whether there was anything. A driver of its own calls it when everything is written.
pub fn do_file_work<M: Machine, T>(core: &mut Core<M, T>, store: &mut Store) -> bool {
    let mut any = false;
    while let Some(work) = core.take_file_work() {
        any = true;
        match work {
            FileWork::Begin => try_to_receive(core, store.files.begin_incoming()),
            FileWork::Compact { index } => compact(core, store, index),
            FileWork::Discard => store.files.discard_incoming(),
            FileWork::Prune { keep } => {
                if let Err(error) = store.files.prune(&keep) {
                    tracing::warn!(%error, "a snapshot that is not needed could not be deleted");
                }
            }
            FileWork::Read { to, snapshot, offset, bytes } => {
                let read = store.files.read_part(&snapshot, offset, bytes);
                if let Err(error) = &read {
                    tracing::warn!(%error, "a snapshot cannot be sent");
                }
                core.part_read(to, snapshot.point, offset, read.ok());
            }
            FileWork::Write { offset, data } => {
                try_to_receive(core, store.files.write_part(offset, &data));
            }
        }
    }
    install(core, store) || any
}

fn try_to_receive<M: Machine, T>(core: &mut Core<M, T>, result: Result<(), SnapshotError>) {
    if let Err(error) = result {
        core.receive_failed(&error);
    }
}

fn compact<M: Machine, T>(core: &mut Core<M, T>, store: &mut Store, index: u64) {
    match store.compact(index) {
        Err(StoreError::Wal(error @ WalError::Poisoned { .. })) => core.fail(error.to_string()),
        // It is tried again after the next snapshot, or when the log is opened.
        Err(error) => tracing::warn!(%error, "the log could not be compacted"),
        Ok(()) => {}
    }
}

fn install<M: Machine, T>(core: &mut Core<M, T>, store: &mut Store) -> bool {
    let Some(point) = core.installable().map(|snapshot| snapshot.point) else { return false };
    match store.files.open(point) {
        Ok(mut body) => core.install(&mut body, |point, hard_state| {
            store.begin_after(point, hard_state).map_err(|error| error.to_string())
        }),
        Err(error) => core.receive_failed(&error),
    }
    true
}

#[cfg(test)]
mod tests;
