//! A replica's disk: the log and the metadata in one directory.
//!
//! [`Store::persist`] is the only way by which a replica writes; its order is what the promises of
//! the [`Core`] stand on. The log is shared with the core, which reads old entries from it.
//!
//! Touches the disk only through [`wal::Disk`], so a simulation runs this very code.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::core::{Core, Done};
use super::machine::Machine;
use crate::consensus::membership::{Bootstrap, InvalidBootstrap};
use crate::consensus::{Log, LogError, Persist};
use crate::id::NodeId;
use crate::wal::{self, Disk, Entry, HardState, Identity, Point, Wal, WalError};

/// The disk of one replica.
#[derive(Debug)]
pub struct Store {
    wal: Arc<Mutex<Wal>>,
    identity: Identity,
    bootstrap: Bootstrap,
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
    /// The directory was begun but never got its members; [`Store::create`] with the same raft id
    /// completes it.
    #[error("the directory was not completely created")]
    Incomplete {
        /// Whose it is.
        identity: Identity,
    },
    /// The log refused.
    #[error(transparent)]
    Wal(#[from] WalError),
}

impl StoreError {
    /// Whether the same call can succeed later: the disk was full and nothing was written.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Bootstrap(_) | Self::Incomplete { .. } => false,
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
        let identity = Identity { cluster: bootstrap.cluster_id(), node, raft_id };
        let (mut wal, _) = Wal::open(disk, dir, options, identity.clone())?;
        if wal.bootstrap().is_empty() {
            // The log continues after the bootstrap as if a snapshot had brought it. The members
            // come last: a directory that has them is complete.
            let point = Point { index: Bootstrap::INDEX, term: Bootstrap::TERM };
            wal.reset_to(point)?;
            let (term, commit) = (Bootstrap::TERM, Bootstrap::INDEX);
            wal.store_hard_state(HardState { term, vote: 0, commit })?;
            wal.store_bootstrap(bootstrap.encode())?;
        }
        Self::with(wal, identity)
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
        let (wal, _) = Wal::open(disk, dir, options, identity.clone())?;
        Self::with(wal, identity).map(Some)
    }

    /// Writes and syncs everything in `persist`. When it returns, [`Core::persisted`] may be told.
    ///
    /// # Errors
    ///
    /// [`StoreError`]: if it [is retryable](StoreError::is_retryable), the disk is full and the
    /// same write may be tried again; else the core must be told to [`Core::fail`].
    pub fn persist(&mut self, persist: &Persist) -> Result<(), StoreError> {
        let mut wal = self.wal.lock();
        // First the term and the vote, so that the log never has entries of a term that the
        // replica could forget having seen.
        if let Some(hard_state) = persist.hard_state {
            wal.store_hard_state(hard_state)?;
        }
        if !persist.entries.is_empty() {
            wal.append(&persist.entries)?;
            wal.sync()?;
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

    fn with(wal: Wal, identity: Identity) -> Result<Self, StoreError> {
        if wal.bootstrap().is_empty() {
            return Err(StoreError::Incomplete { identity });
        }
        let bootstrap = Bootstrap::decode(wal.bootstrap())?;
        Ok(Self { wal: Arc::new(Mutex::new(wal)), identity, bootstrap })
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
    match store.find_room() {
        Ok(has_room) => core.set_room(has_room && unwritten.is_none()),
        Err(error) => core.fail(error.to_string()),
    }
    core.take_done()
}
