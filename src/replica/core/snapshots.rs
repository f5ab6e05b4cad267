//! Snapshots of this replica: when they are taken, what the log may forget, how one is installed.
//!
//! The log always reaches back to the snapshot before the newest, so that a damaged newest one loses
//! nothing, and a follower that lags a little is sent entries and no snapshot; and to what the machine
//! refers to. See the [shelf](super::shelf).
//!
//! Pure: the files are the owner's, who does [`FileWork`] at once and [`Job`]s whenever it likes.
//! Invariant: nothing is forgotten that no durable snapshot has.

use std::collections::VecDeque;
use std::io::Read;
use std::time::Duration;

use super::Core;
use super::shelf::{Offered, Shelf};
use crate::consensus::membership::Bootstrap;
use crate::consensus::wire::Envelope;
use crate::consensus::{Log, Refusal, Role, Snapshot};
use crate::replica::error::ReplicaError;
use crate::replica::hashes::StateHash;
use crate::replica::machine::Machine;
use crate::replica::setup::Options;
use crate::replica::snapshot::{Job, JobDone, SnapshotError};
use crate::replica::status::Snapshots as Status;
use crate::replica::transfer::{Content, Ended, FileWork, Frame, Transfers};
use crate::timer::Time;
use crate::wal::{Entry, HardState, Point};

/// What an entry takes in the log besides its data.
const ENTRY_BYTES: u64 = 40;
/// After a snapshot could not be written, the next is tried after this long.
const TRY_AGAIN: Duration = Duration::from_secs(5);
/// A transfer has failed when the receiver was silent for so many election timeouts.
const SILENT_TIMEOUTS: u32 = 5;

/// See the module.
pub(super) struct Snapshots {
    pub(super) transfers: Transfers,
    newest: Option<Snapshot>,
    shelf: Shelf,
    /// The lowest index that the machine refers to, when it was asked last.
    floor: Option<u64>,
    /// What the consensus was told to offer.
    named: Option<Snapshot>,
    /// What is being looked at before it is offered.
    inspecting: Option<Point>,
    /// Whether somebody was told that there is nothing to offer.
    warned: bool,
    /// Bytes of the entries that were applied after the newest.
    bytes: u64,
    /// The point of the one that is being written, and `bytes` at that point.
    writing: Option<(Point, u64)>,
    jobs: VecDeque<Job>,
    busy: bool,
    /// There is none to offer, or the newest was found damaged.
    wanted: bool,
    not_before: Time,
    taken: u64,
    installed: u64,
    failed: u64,
}

impl Snapshots {
    pub(super) fn new(transfers: Transfers, newest: Option<Snapshot>, older: Vec<Point>) -> Self {
        Self {
            transfers,
            shelf: Shelf::new(older, newest.clone()),
            floor: None,
            // That is what the consensus begins with.
            named: newest.clone(),
            inspecting: None,
            warned: false,
            newest,
            bytes: 0,
            writing: None,
            jobs: VecDeque::new(),
            busy: false,
            wanted: false,
            not_before: Time::ZERO,
            taken: 0,
            installed: 0,
            failed: 0,
        }
    }

    /// Has one of the present taken as soon as it can be.
    pub(super) fn want(&mut self) {
        self.wanted = true;
    }

    pub(super) fn push_job(&mut self, job: Job) {
        self.jobs.push_back(job);
    }

    pub(super) fn applied(&mut self, entry: &Entry) {
        self.bytes += entry.data.len() as u64 + ENTRY_BYTES;
    }

    pub(super) fn status(&self) -> Status {
        Status {
            index: self.newest.as_ref().map(|newest| newest.point.index),
            bytes: self.newest.as_ref().map_or(0, |newest| newest.bytes),
            kept: self.shelf.points().count(),
            writing: self.writing.is_some(),
            taken: self.taken,
            installed: self.installed,
            failed: self.failed,
            sending: self.transfers.sending(),
            receiving: self.transfers.receiving(),
        }
    }

    /// Whether it is time for a snapshot, `applied` being the last index.
    fn is_due(&self, applied: u64, options: &Options) -> bool {
        let start = self.newest.as_ref().map_or(Bootstrap::INDEX, |newest| newest.point.index);
        let entries = applied - start;
        if self.wanted {
            return true;
        }
        let much = entries >= options.snapshot_entries || self.bytes >= options.snapshot_bytes;
        // Writing a large state again and again for a few entries would wear out disk and caches.
        let worth = self.bytes >= self.newest.as_ref().map_or(0, |newest| newest.bytes);
        entries > 0 && much && worth
    }

    /// What of the log and of the files is needed no more.
    ///
    /// A job may have given a file its name, and not yet have said so: what is being written or was
    /// received stays, whether it is there or not.
    fn tidy(&mut self) {
        let mut keep: Vec<Point> = self.transfers.pinned().collect();
        let oldest = keep.iter().map(|point| point.index).min().unwrap_or(u64::MAX);
        if let Some(base) = self.shelf.tidy(self.floor) {
            let index = base.index.min(oldest);
            self.transfers.push_work(FileWork::Compact { index });
        }
        keep.extend(self.shelf.points());
        keep.extend(self.writing.map(|(point, _)| point));
        keep.extend(self.transfers.incoming());
        self.transfers.push_work(FileWork::Prune { keep });
    }

    fn written(&mut self, result: Result<Snapshot, SnapshotError>, now: Time) {
        let Some((point, bytes)) = self.writing.take() else { return };
        let snapshot = match result {
            Ok(snapshot) => snapshot,
            Err(error) => {
                tracing::warn!(%error, "no snapshot was written; the log keeps its entries");
                self.failed += 1;
                self.not_before = now + TRY_AGAIN;
                return;
            }
        };
        self.taken += 1;
        if self.newest.as_ref().is_none_or(|newest| newest.point.index <= point.index) {
            self.shelf.put(snapshot.clone());
            self.newest = Some(snapshot);
            self.bytes = self.bytes.saturating_sub(bytes);
            self.wanted = false;
        }
        self.tidy();
    }

    fn inspected(&mut self, point: Point, result: Result<Snapshot, SnapshotError>) {
        self.inspecting = None;
        match result {
            Ok(snapshot) => self.shelf.found(snapshot),
            Err(error) => {
                tracing::warn!(%error, index = point.index, "a snapshot cannot be offered");
                if error.is_lasting() {
                    self.shelf.lost(point);
                }
            }
        }
    }

    /// A follower needs a snapshot, and the consensus has none to offer.
    fn follower_waits(&mut self) {
        match self.shelf.offered(self.floor) {
            // It has been found meanwhile.
            Offered::Whole(_) => {}
            Offered::Unseen(point) if self.inspecting.is_none() => {
                self.inspecting = Some(point);
                self.jobs.push_back(Job::Inspect { point });
            }
            Offered::Unseen(_) => {}
            Offered::Nothing if self.floor.is_none() => self.wanted = true,
            Offered::Nothing => {
                if !std::mem::replace(&mut self.warned, true) {
                    tracing::warn!(
                        floor = self.floor,
                        "a follower waits: no snapshot is left from before what is retained"
                    );
                }
            }
        }
    }

    /// Takes note of what the machine refers to. Returns whether the consensus has to be told what
    /// followers can be offered.
    fn settle(&mut self, floor: Option<u64>) -> bool {
        self.floor = floor;
        if self.shelf.is_untidy(floor) {
            self.tidy();
        }
        let offered = match self.shelf.offered(floor) {
            Offered::Whole(snapshot) => Some(snapshot),
            Offered::Nothing | Offered::Unseen(_) => None,
        };
        if offered == self.named.as_ref() {
            return false;
        }
        self.named = offered.cloned();
        self.warned = false;
        true
    }
}

impl<M: Machine, T, L: Log> Core<M, T, L> {
    /// The next thing to do with the files, at once. What comes of a [read](FileWork::Read) goes to
    /// [`Self::part_read`], a [write](FileWork::Write) that failed to [`Self::receive_failed`].
    pub fn take_file_work(&mut self) -> Option<FileWork> {
        self.snapshots.transfers.take_work()
    }

    /// Something to do in the background, unless something is being done. Its result goes to
    /// [`Self::job_done`].
    pub fn take_job(&mut self) -> Option<Job> {
        if self.snapshots.busy || self.failure.is_some() {
            return None;
        }
        let job = self.snapshots.jobs.pop_front()?;
        self.snapshots.busy = true;
        Some(job)
    }

    /// Takes what became of the job that was taken last.
    pub fn job_done(&mut self, done: JobDone) {
        self.snapshots.busy = false;
        match done {
            JobDone::Checked { point, result } => {
                if let Err(error) = &result {
                    tracing::warn!(%error, index = point.index, "a received snapshot is of no use");
                }
                let result = result.map_err(|error| error.is_damage());
                self.snapshots.transfers.checked(point, result, self.now);
            }
            JobDone::Inspected { point, result } => self.snapshots.inspected(point, result),
            JobDone::Summed { result } => self.summed(result),
            JobDone::Written { result } => self.snapshots.written(result, self.now),
        }
        self.name_snapshot();
    }

    /// Has the consensus offer what is right at present.
    pub(super) fn name_snapshot(&mut self) {
        if self.snapshots.settle(self.machine.log_floor()) {
            self.consensus.set_snapshot(self.snapshots.named.clone());
        }
    }

    /// Takes a part that was read for `to`; none if the disk does not have it as it was.
    pub fn part_read(&mut self, to: u64, point: Point, offset: u64, data: Option<bytes::Bytes>) {
        self.snapshots.transfers.part_read(to, point, offset, data);
    }

    /// Says that what is being received cannot be written.
    pub fn receive_failed(&mut self, error: &SnapshotError) {
        tracing::warn!(%error, "cannot receive a snapshot");
        self.snapshots.transfers.give_up(false);
    }

    /// The snapshot that is on disk and waits to be [installed](Self::install), if it can be now:
    /// nothing else may be under way.
    pub fn installable(&self) -> Option<&Snapshot> {
        let idle = self.failure.is_none()
            && self.has_room
            && !self.has_more
            && self.persists.is_empty()
            && self.to_apply.is_empty()
            && self.consensus.is_settled();
        self.snapshots.transfers.ready().filter(|_| idle)
    }

    /// Continues from the snapshot that [`Self::installable`] has shown, if that is still called
    /// for. `body` is what its [`Image`](crate::replica::Image) wrote; `write` makes the log begin
    /// after the point and stores the hard state, durably.
    pub fn install(
        &mut self,
        body: &mut dyn Read,
        write: impl FnOnce(Point, HardState) -> Result<(), String>,
    ) {
        let Some(offer) = self.snapshots.transfers.take_ready() else { return };
        let point = offer.snapshot.point;
        let machine = &mut self.machine;
        let result = self.consensus.install(offer.clone(), |hard_state| {
            machine.restore(body).map_err(|error| error.to_string())?;
            write(point, hard_state)
        });
        match result {
            Err(reason) => return self.fail(reason),
            Ok(true) => self.installed(offer.snapshot.clone()),
            Ok(false) => self.snapshots.tidy(),
        }
        let arrived = self.consensus.commit() >= point.index;
        self.snapshots.transfers.settled(&offer, arrived);
        self.observe();
        self.answer_reads();
        self.answer_pending();
    }

    fn installed(&mut self, snapshot: Snapshot) {
        let Point { index, term } = snapshot.point;
        tracing::info!(index, term, bytes = snapshot.bytes, "continuing from a snapshot");
        (self.applied, self.applied_term) = (index, term);
        self.snapshots.installed += 1;
        self.snapshots.shelf.begin_with(snapshot.clone());
        // The consensus offers what it has installed.
        self.snapshots.named = Some(snapshot.clone());
        self.snapshots.newest = Some(snapshot);
        self.snapshots.bytes = 0;
        self.snapshots.floor = self.machine.log_floor();
        self.snapshots.tidy();
        self.name_snapshot();
        // Whether these were committed cannot be seen any more.
        let later = self.proposed.split_off(&(index + 1, 0));
        for operation in std::mem::replace(&mut self.proposed, later).into_values() {
            self.command_bytes -= operation.size;
            self.answer(operation.ticket, Err(ReplicaError::QuorumFailed));
        }
    }

    pub(super) fn handle_transfer(
        &mut self,
        from: u64,
        frame: &bytes::Bytes,
    ) -> Result<(), Refusal> {
        let (cluster, to) = (self.consensus.cluster(), self.raft_id());
        self.consensus.check_sender(from)?;
        let frame = Frame::decode(frame, Envelope { cluster, from, to })?;
        if let Content::Hash { hash, bytes } = frame.content {
            self.told(from, StateHash { point: frame.point, hash, bytes });
            return Ok(());
        }
        let Snapshots { transfers, shelf, .. } = &mut self.snapshots;
        let known = shelf.file(frame.point);
        transfers.handle(frame, known, self.now);
        Ok(())
    }

    /// What has to be done about transfers before the consensus goes on.
    pub(super) fn move_snapshots(&mut self) {
        let transfers = &mut self.snapshots.transfers;
        for (to, snapshot) in self.consensus.take_offered() {
            transfers.offered(to, snapshot, self.now);
        }
        if self.consensus.role() != Role::Leader {
            transfers.follow();
        }
        if let Some(offer) = self.consensus.take_offer() {
            transfers.take_offer(offer, self.now);
        }
        transfers.turn(self.now);
        for (to, point, ended) in transfers.take_ended() {
            self.consensus.report_snapshot(to, ended == Ended::Arrived);
            if ended == Ended::Damaged {
                self.snapshots.shelf.suspect(point);
                let newest = self.snapshots.newest.as_ref().map(|newest| newest.point);
                self.snapshots.wanted |= newest == Some(point);
            }
        }
        if let Some(snapshot) = self.snapshots.transfers.take_check() {
            self.snapshots.jobs.push_back(Job::Check { snapshot });
        }
    }

    /// Takes a snapshot if it is time: the machine is between two commands here.
    pub(super) fn take_snapshot(&mut self) {
        self.name_snapshot();
        if self.consensus.take_snapshot_wanted() {
            self.snapshots.follower_waits();
        }
        let waits = self.snapshots.writing.is_some() || self.now < self.snapshots.not_before;
        if waits || !self.snapshots.is_due(self.applied, &self.options) {
            return;
        }
        let point = Point { index: self.applied, term: self.applied_term };
        let membership = self.consensus.membership().clone();
        let image = self.machine.snapshot();
        self.snapshots.writing = Some((point, self.snapshots.bytes));
        self.snapshots.jobs.push_back(Job::Write { point, membership, image });
    }

    pub(super) fn new_transfers(
        consensus: &crate::consensus::Consensus<L>,
        options: &Options,
    ) -> Transfers {
        let patience = options.consensus.election_timeout_min * SILENT_TIMEOUTS;
        let part_bytes = options.snapshot_part_bytes;
        Transfers::new(consensus.cluster(), consensus.raft_id(), part_bytes, patience)
    }
}
