//! The pure part of a replica: proposals and reads in, answers out.
//!
//! One turn takes all inputs that have arrived, proposes all commands in one message, begins one
//! read round for all reads, and gives out what to send, what to write and what is done. The order
//! in which a driver handles these is in the [module above](super).
//!
//! Pure: time enters as `now`, effects leave through the `take` functions.
//! Invariants: every accepted ticket is answered exactly once; a write is answered with success
//! only when its entry is committed with the term under which it was proposed; a read is answered
//! from a state that contains every write acknowledged before the read began.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::ack::{AckLevel, Acks};
use super::alarms::Alarms;
use super::error::ReplicaError;
use super::machine::{CommandId, Effects, Machine};
use super::past::AppliedLog;
use super::setup::{Options, Setup};
use super::status::{Repair, Scrub, Status, Waiting};
use super::store::SharedLog;
use super::transfer::Frame;
use crate::consensus::membership::{Bootstrap, Change};
use crate::consensus::{self, Consensus, Log, Persist, ProposeError, Refusal, Role, StartError};
use crate::id::NodeId;
use crate::timer::Time;
use crate::wal;
use acks::Acknowledgements;
use marks::Marks;
use snapshots::Snapshots;

mod acks;
mod damage;
mod inquiry;
mod marks;
mod members;
mod proposals;
mod reads;
mod shelf;
mod snapshots;

pub use acks::InSync;
pub use members::MemberChange;

/// Entries applied in one turn before whatever else waits has its turn; a little more if they are
/// small.
const APPLIED_MAX: u64 = 16_384;

/// Election timeouts for which a new leader takes the others for in sync unseen: long enough for
/// them to answer, short enough not to wait for the one that is dead.
const GRACE_ELECTIONS: u32 = 2;

/// A replica without its disk, its network and its clock. `T` names an operation for its owner.
pub struct Core<M, T, L: Log = SharedLog> {
    consensus: Consensus<L>,
    machine: M,
    options: Options,
    now: Time,
    applied: u64,
    /// The term of that entry.
    applied_term: u64,
    snapshots: Snapshots,
    marks: Marks,
    scrub: Scrub,
    /// When a leader whose files are damaged tries again to hand over.
    hand_over_due: Time,
    has_room: bool,
    /// Whether committed entries are left for the next turn.
    has_more: bool,
    /// Accepted for the next proposal.
    queued: Vec<Operation<T>>,
    /// Proposed, by index and term.
    proposed: BTreeMap<(u64, u64), Operation<T>>,
    acks: Acknowledgements<T>,
    /// Bytes of the commands in `queued` and `proposed`.
    command_bytes: usize,
    /// Accepted for the next read round.
    reads: Vec<Operation<T>>,
    /// Waiting for a quorum, by read round.
    rounds: BTreeMap<u64, Vec<Operation<T>>>,
    /// Confirmed, waiting until this index is applied.
    confirmed: BTreeMap<u64, Vec<Operation<T>>>,
    /// Waiting for something to happen; answered by any replica.
    pending: Vec<Operation<T>>,
    /// The index after which `pending` was looked at last.
    pending_seen: u64,
    /// Transfers of the leadership under way, by raft id.
    handovers: Vec<(u64, Operation<T>)>,
    /// Reads in all four of these.
    read_count: usize,
    alarms: Alarms,
    effects: Effects,
    /// No accepted operation has an earlier deadline.
    expiry: Option<Time>,
    persists: VecDeque<Persist>,
    /// Committed entries, each batch with the write that must be confirmed before.
    to_apply: VecDeque<(Option<u64>, Vec<wal::Entry>)>,
    done: Vec<Done<T>>,
    events: Vec<Event>,
    seen: Event,
    repair: Repair,
    repair_due: Time,
    repair_matched: BTreeMap<u64, u64>,
    failure: Option<String>,
    /// Whether what it has applied, or has on disk, is not to be relied on.
    condemned: bool,
}

/// A command or query with its owner's name for it.
#[derive(Debug)]
struct Operation<T> {
    /// The command's own id, or of a query, the command that it asks after.
    id: Option<CommandId>,
    bytes: Bytes,
    size: usize,
    deadline: Time,
    acks: Acks,
    /// None when it was answered before it was decided.
    ticket: Option<T>,
}

impl<T> Operation<T> {
    /// One whose level is no question.
    fn new(bytes: Bytes, deadline: Time, ticket: T) -> Self {
        let size = bytes.len();
        let (id, acks, ticket) = (None, Acks::Quorum, Some(ticket));
        Self { id, bytes, size, deadline, acks, ticket }
    }
}

/// An answer to one operation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Done<T> {
    /// The owner's name for the operation.
    pub ticket: T,
    /// What became of it.
    pub result: Reply,
}

/// What became of an operation.
pub type Reply = Result<Applied, ReplicaError>;

/// A command that was committed and applied, or a query that was answered; or a command that
/// reached a lower [level](AckLevel), which is what its caller asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Applied {
    /// The index of the command; for a query the highest index it saw.
    pub index: u64,
    /// The term of the command; for a query the present one.
    pub term: u64,
    /// How strongly the command is held; for a query, what it saw.
    pub level: AckLevel,
    /// What the machine said; empty for a command below the level of the quorum.
    pub response: Bytes,
}

/// The replica's place among the others has changed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Event {
    /// What it is.
    pub role: Role,
    /// The present term.
    pub term: u64,
    /// The node that leads, if known.
    pub leader: Option<NodeId>,
}

impl<M: Machine, T, L: Log> Core<M, T, L> {
    /// Starts from what the disk has. Committed entries are applied with the first turns.
    ///
    /// # Errors
    ///
    /// [`StartError`]: the options or the disk's content cannot be used.
    pub fn new(setup: Setup<M, L>) -> Result<Self, StartError> {
        let repair_due = setup.now + setup.options.repair_interval;
        let mark_due = setup.now + setup.options.hash_interval;
        let times = &setup.options.consensus;
        let grace = times.election_timeout_max * GRACE_ELECTIONS;
        let pause_max = times.election_timeout_min / 2;
        let acks = Acknowledgements::new(setup.options.in_sync_lag_max, grace, pause_max);
        let consensus = Consensus::new(consensus::Setup {
            raft_id: setup.raft_id,
            incarnation: setup.incarnation,
            bootstrap: setup.bootstrap,
            hard_state: setup.hard_state,
            snapshot: setup.snapshot.clone(),
            log: setup.log,
            options: setup.options.consensus.clone(),
            rng: setup.rng,
            now: setup.now,
        })?;
        let bootstrap = wal::Point { index: Bootstrap::INDEX, term: Bootstrap::TERM };
        let start = setup.snapshot.as_ref().map_or(bootstrap, |snapshot| snapshot.point);
        let transfers = Self::new_transfers(&consensus, &setup.options);
        let seen = Event { role: Role::Follower, term: consensus.term(), leader: None };
        let mut core = Self {
            consensus,
            machine: setup.machine,
            options: setup.options,
            now: setup.now,
            applied: start.index,
            applied_term: start.term,
            snapshots: Snapshots::new(transfers, setup.snapshot, setup.older_snapshots),
            marks: Marks::new(start.index, mark_due),
            scrub: Scrub::default(),
            hand_over_due: Time::ZERO,
            has_room: true,
            has_more: false,
            queued: Vec::new(),
            proposed: BTreeMap::new(),
            acks,
            command_bytes: 0,
            reads: Vec::new(),
            rounds: BTreeMap::new(),
            confirmed: BTreeMap::new(),
            pending: Vec::new(),
            pending_seen: start.index,
            handovers: Vec::new(),
            read_count: 0,
            alarms: Alarms::default(),
            effects: Effects::default(),
            expiry: None,
            persists: VecDeque::new(),
            to_apply: VecDeque::new(),
            done: Vec::new(),
            events: Vec::new(),
            seen,
            repair: Repair::default(),
            repair_due,
            repair_matched: BTreeMap::new(),
            failure: None,
            condemned: false,
        };
        core.name_snapshot();
        Ok(core)
    }

    /// Takes a frame from the authenticated link of the replica `from`.
    ///
    /// # Errors
    ///
    /// [`Refusal`]: it was not acceptable; it was counted.
    pub fn handle_frame(&mut self, from: u64, frame: &Bytes) -> Result<(), Refusal> {
        if self.failure.is_some() {
            return Ok(());
        }
        if !Frame::is_one(frame) {
            return self.consensus.handle_frame(from, frame);
        }
        let result = self.handle_transfer(from, frame);
        if let Err(refusal) = &result {
            self.consensus.count(refusal);
        }
        result
    }

    /// Says that what was sent to this replica was probably lost.
    pub fn unreachable(&mut self, raft_id: u64) {
        self.consensus.unreachable(raft_id);
    }

    /// See [`Consensus::admit`].
    pub fn admit(&mut self, raft_id: u64) {
        self.consensus.admit(raft_id);
    }

    /// Hands the leadership to a voter. See [`Consensus::transfer`].
    pub fn transfer(&mut self, raft_id: u64) {
        self.consensus.transfer(raft_id);
    }

    /// Proposes a change of the membership. It is done when [`Self::status`] shows it.
    ///
    /// # Errors
    ///
    /// [`ProposeError`]: it was not proposed.
    pub fn change_membership(&mut self, changes: &[Change]) -> Result<(), ProposeError> {
        // The empty change leaves a joint membership, which the consensus does by itself.
        if changes.is_empty() {
            return Ok(());
        }
        self.consensus.propose_changes(changes).map(|_| ())
    }

    /// Says whether the disk has room for more entries; without it, proposals are refused and
    /// entries of a leader are taken for lost. What little room is left is for what was on its way:
    /// a write that nothing has room for would stand before every vote.
    pub fn set_room(&mut self, has_room: bool) {
        if has_room != self.has_room {
            match has_room {
                true => tracing::info!("the disk has room again: writes are taken"),
                false => tracing::warn!("no space left for the log: writes are refused"),
            }
        }
        self.has_room = has_room;
        self.consensus.set_room(has_room);
    }

    /// Does everything that the inputs so far and the time call for.
    pub fn turn(&mut self, now: Time) {
        if self.failure.is_some() {
            return;
        }
        self.now = now;
        if self.consensus.tick(now) {
            // Answers to rounds from before a pause may be old; ask again before answering.
            for (_, reads) in std::mem::take(&mut self.rounds) {
                self.reads.extend(reads);
            }
        }
        self.observe();
        self.answer_handovers();
        self.propose_alarms();
        self.propose_mark();
        self.shun_leadership();
        self.propose_queued();
        self.move_snapshots();
        self.drain();
        self.take_snapshot();
        self.answer_pending();
        self.settle_acks();
        self.expire();
        self.observe_followers();
    }

    /// When [`Self::turn`] has something to do even without an input.
    pub fn poll_timeout(&self) -> Option<Time> {
        if self.failure.is_some() {
            return None;
        }
        if self.has_more {
            return Some(self.now);
        }
        let due = crate::timer::earliest(Some(self.consensus.poll_timeout()), self.expiry);
        let due = crate::timer::earliest(due, self.snapshots.transfers.poll_timeout());
        let due = crate::timer::earliest(due, self.mark_due());
        crate::timer::earliest(due, self.alarms.poll_timeout())
    }

    /// Whether the last turn has left work undone, so that a driver lets others run and comes back.
    pub fn has_more(&self) -> bool {
        self.has_more
    }

    /// Confirms a write, and all before it: they are on disk.
    pub fn persisted(&mut self, number: u64) {
        if self.failure.is_some() {
            return;
        }
        self.consensus.persisted(number);
        for (barrier, _) in &mut self.to_apply {
            *barrier = barrier.filter(|barrier| *barrier > number);
        }
        self.drain();
        self.answer_pending();
        self.settle_acks();
    }

    /// See [`Consensus::set_synced`]. The level of every answer tells it.
    pub fn set_synced(&mut self, synced: bool) {
        self.consensus.set_synced(synced);
    }

    /// Stops for good: a write or sync failed, so nothing that was waiting may be promised.
    pub fn fail(&mut self, reason: String) {
        if self.failure.is_some() {
            return;
        }
        self.failure = Some(reason.clone());
        self.persists.clear();
        self.has_more = false;
        let mut waiting = std::mem::take(&mut self.queued);
        waiting.extend(std::mem::take(&mut self.proposed).into_values());
        waiting.extend(self.take_unconfirmed_reads());
        waiting.extend(std::mem::take(&mut self.confirmed).into_values().flatten());
        waiting.append(&mut self.pending);
        waiting.extend(std::mem::take(&mut self.handovers).into_iter().map(|(_, it)| it));
        self.alarms.follow();
        self.fail_acks(&reason);
        (self.command_bytes, self.read_count, self.expiry) = (0, 0, None);
        for operation in waiting {
            self.answer(operation.ticket, Err(ReplicaError::Io { reason: reason.clone() }));
        }
    }

    /// The next write to do, in order. See [`Persist`].
    pub fn take_persist(&mut self) -> Option<Persist> {
        self.persists.pop_front()
    }

    /// Frames to send, each with the raft id of its receiver.
    pub fn take_frames(&mut self) -> Vec<(u64, Bytes)> {
        let mut sums = self.marks.take_frames();
        if self.failure.is_some() {
            return sums;
        }
        let mut frames = self.consensus.take_frames();
        frames.append(&mut sums);
        frames.append(&mut self.snapshots.transfers.take_frames());
        frames
    }

    /// Answers, in the order in which they came about.
    pub fn take_done(&mut self) -> Vec<Done<T>> {
        std::mem::take(&mut self.done)
    }

    /// Changes of role, term or leader, in order.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Raft id of this replica.
    pub fn raft_id(&self) -> u64 {
        self.consensus.raft_id()
    }

    /// The highest index that has been applied.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// The machine, as far as it has been applied.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// The consensus below, to look at.
    pub fn consensus(&self) -> &Consensus<L> {
        &self.consensus
    }

    /// The applied commands that the log still has.
    fn past(&self) -> AppliedLog<'_, L> {
        AppliedLog { consensus: &self.consensus, applied: self.applied }
    }

    /// Why the replica has stopped, if it has.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// What there is to say about this replica.
    pub fn status(&self) -> Status {
        Status {
            raft_id: self.raft_id(),
            role: self.consensus.role(),
            term: self.consensus.term(),
            leader: self.leader(),
            first_index: self.consensus.first_index(),
            last_index: self.consensus.last_index(),
            commit: self.consensus.commit(),
            applied: self.applied,
            members: self.consensus.membership().members().collect(),
            followers: self.consensus.followers(),
            repair: self.repair,
            acks: self.acks_status(),
            snapshots: self.snapshots.status(),
            hashes: self.marks.status(),
            scrub: self.scrub.clone(),
            waiting: Waiting {
                proposals: self.queued.len() + self.proposed.len(),
                bytes: self.command_bytes,
                reads: self.read_count,
            },
            refusals: self.consensus.refusals(),
            has_room: self.has_room,
            failure: self.failure.clone(),
        }
    }

    fn leads(&self) -> Result<(), ReplicaError> {
        if let Some(reason) = &self.failure {
            return Err(ReplicaError::Io { reason: reason.clone() });
        }
        if self.consensus.role() == Role::Leader { Ok(()) } else { Err(self.not_leader()) }
    }

    fn not_leader(&self) -> ReplicaError {
        if self.consensus.leader().is_none() {
            return ReplicaError::NoQuorum;
        }
        ReplicaError::NotLeader { leader: self.leader() }
    }

    fn leader(&self) -> Option<NodeId> {
        self.consensus.membership().node(self.consensus.leader()?).cloned()
    }

    /// Reports a change of role, term or leader, and gives up the reads of a leadership that is
    /// over. Its proposals wait on: whether they were committed will be seen in the log.
    fn observe(&mut self) {
        let (role, term) = (self.consensus.role(), self.consensus.term());
        let event = Event { role, term, leader: self.leader() };
        if event == self.seen {
            return;
        }
        let led = self.seen.role == Role::Leader;
        if led && (event.role, event.term) != (Role::Leader, self.seen.term) {
            for operation in self.take_unconfirmed_reads() {
                self.read_count -= 1;
                self.answer(operation.ticket, Err(self.not_leader()));
            }
            self.repair = Repair::default();
            self.repair_matched.clear();
        }
        if event.role != Role::Leader {
            self.alarms.follow();
        } else if !led || event.term != self.seen.term {
            // What it has not applied yet changes its alarms when it is applied.
            self.alarms.lead(self.now, self.machine.alarms());
        }
        self.seen = event.clone();
        self.events.push(event);
    }

    /// Takes outputs of the consensus and applies, until there is nothing more to do or it is much:
    /// a replica that starts has its whole log to apply.
    fn drain(&mut self) {
        let before = self.applied;
        self.has_more = true;
        while self.applied - before < APPLIED_MAX {
            self.begin_round();
            let output = self.consensus.poll();
            let idle = output.is_none();
            if let Some(output) = output {
                let barrier = output.persist.as_ref().map(|persist| persist.number);
                self.persists.extend(output.persist);
                if !output.committed.is_empty() {
                    let barrier = barrier.filter(|_| output.apply_after_persist);
                    self.to_apply.push_back((barrier, output.committed));
                }
                for (round, index) in output.reads {
                    if let Some(reads) = self.rounds.remove(&round) {
                        self.confirmed.entry(index).or_default().extend(reads);
                    }
                }
            }
            let applied = self.apply();
            self.answer_reads();
            self.observe();
            if idle && !applied {
                self.has_more = false;
                break;
            }
        }
        if let Some(error) = self.consensus.failure() {
            self.fail(error.to_string());
        }
    }

    /// Applies what is committed and waits for no write; returns whether there was anything.
    fn apply(&mut self) -> bool {
        let before = self.applied;
        while self.to_apply.front().is_some_and(|(barrier, _)| barrier.is_none()) {
            let Some((_, entries)) = self.to_apply.pop_front() else { break };
            for entry in &entries {
                self.apply_entry(entry);
            }
            self.consensus.applied(self.applied);
        }
        self.applied > before
    }

    fn apply_entry(&mut self, entry: &wal::Entry) {
        assert_eq!(entry.index, self.applied + 1, "committed entries come in order, each once");
        (self.applied, self.applied_term) = (entry.index, entry.term);
        self.snapshots.applied(entry);
        let response = match entry.kind {
            wal::EntryKind::Membership => {
                self.consensus.apply_membership(entry);
                Bytes::new()
            }
            // A new leader's first entry has no command.
            wal::EntryKind::Normal if entry.data.is_empty() => Bytes::new(),
            wal::EntryKind::Normal => {
                self.machine.apply(entry.index, &entry.data, &mut self.effects)
            }
        };
        self.alarms.take(self.now, &mut self.effects);
        if std::mem::take(&mut self.effects.marked) {
            self.mark(wal::Point { index: entry.index, term: entry.term });
        }
        while let Some(waiting) = self.proposed.first_entry() {
            let (index, term) = *waiting.key();
            if index > entry.index {
                break;
            }
            let operation = waiting.remove();
            self.command_bytes -= operation.size;
            let Some(ticket) = operation.ticket else { continue };
            if (index, term) == (entry.index, entry.term) {
                let level = AckLevel::Quorum.held(self.consensus.is_durable());
                let applied = Applied { index, term, level, response: response.clone() };
                self.acknowledge(applied, operation.acks, operation.deadline, ticket);
            } else {
                // Another entry is committed at this index, so this one never will be.
                let error = ReplicaError::NotLeader { leader: self.leader() };
                self.answer(ticket, Err(error));
            }
        }
    }

    /// Answers, unless it was answered before.
    fn answer(&mut self, ticket: impl Into<Option<T>>, result: Reply) {
        self.done.extend(ticket.into().map(|ticket| Done { ticket, result }));
    }

    fn expire_at(&mut self, deadline: Time) {
        self.expiry = crate::timer::earliest(self.expiry, Some(deadline));
    }

    /// Answers what has reached its deadline. Looks at everything that waits, but only when the
    /// earliest deadline has come.
    fn expire(&mut self) {
        if self.expiry.is_none_or(|expiry| expiry > self.now) {
            return;
        }
        let now = self.now;
        let due = |operation: &mut Operation<T>| operation.deadline <= now;
        let late = self.proposed.iter().filter(|(_, operation)| operation.deadline <= now);
        let late: Vec<_> = late.map(|(key, _)| *key).collect();
        let writes: Vec<_> = late.iter().filter_map(|key| self.proposed.remove(key)).collect();
        let mut reads: Vec<_> = self.reads.extract_if(.., due).collect();
        for waiting in self.rounds.values_mut().chain(self.confirmed.values_mut()) {
            reads.extend(waiting.extract_if(.., due));
        }
        for operation in writes {
            self.command_bytes -= operation.size;
            self.answer(operation.ticket, Err(ReplicaError::QuorumFailed));
        }
        for operation in self.queued.extract_if(.., due).collect::<Vec<_>>() {
            self.command_bytes -= operation.size;
            self.answer(operation.ticket, Err(ReplicaError::NoQuorum));
        }
        for operation in reads {
            self.read_count -= 1;
            self.answer(operation.ticket, Err(ReplicaError::NoQuorum));
        }
        let handovers = self.handovers.extract_if(.., |(_, it)| it.deadline <= now);
        for (_, operation) in handovers.collect::<Vec<_>>() {
            self.answer(operation.ticket, Err(ReplicaError::NoQuorum));
        }
        for operation in self.pending.extract_if(.., due).collect::<Vec<_>>() {
            self.read_count -= 1;
            let response = self.machine.query(&operation.bytes, &self.past());
            self.answer_query(operation.ticket, response);
        }
        self.expire_acks();
        let rest = self.proposed.values().chain(&self.reads).chain(&self.pending);
        let rest = rest.chain(self.handovers.iter().map(|(_, operation)| operation));
        let rest = rest.chain(&self.queued).chain(self.rounds.values().flatten());
        let rest = rest.chain(self.confirmed.values().flatten());
        let expiry = rest.map(|operation| operation.deadline).min();
        self.expiry = crate::timer::earliest(expiry, self.acks.expiry());
    }

    /// Counts, every repair interval, how much nearer the followers that lagged have come.
    fn observe_followers(&mut self) {
        if self.now < self.repair_due {
            return;
        }
        self.repair_due = self.now + self.options.repair_interval;
        let followers = self.consensus.followers();
        if followers.is_empty() {
            return;
        }
        self.repair.rounds += 1;
        for follower in &followers {
            if let Some(before) = self.repair_matched.remove(&follower.raft_id) {
                self.repair.entries += follower.matched.saturating_sub(before);
            }
            if follower.lag > 0 {
                self.repair_matched.insert(follower.raft_id, follower.matched);
            }
        }
        self.repair.behind = self.repair_matched.len();
    }
}

#[cfg(test)]
#[path = "core/tests.rs"]
mod tests;
