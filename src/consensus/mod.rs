//! Consensus: which entries are committed, who leads, and when a read may be answered.
//!
//! Wraps the `raft` crate, which decides, behind inputs (time, messages, proposals, read rounds,
//! confirmed writes) and outputs in their order: [`Consensus::poll`] gives entries to persist and
//! entries that are committed, [`Consensus::take_frames`] what to send. Messages that promise
//! something leave only after [`Consensus::persisted`] of the write they depend on.
//!
//! Around the crate this module adds what it leaves to its users: our own codec ([`wire`]), a door
//! that refuses what it would panic on (`door`), seeded election timeouts, and the rules that its
//! membership changes need (see `apply_membership` and `leave_joint`).
//!
//! Pure: time and randomness come from outside; the only I/O is reading the [`Log`].

mod commit;
mod door;
mod install;
pub mod membership;
mod options;
mod output;
mod progress;
mod setup;
mod snapshot;
mod storage;
mod view;
pub mod wire;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use raft::prelude::{ConfChangeV2, Entry, Message, MessageType};
use raft::{RawNode, StateRole};
use uuid::Uuid;

pub use door::{Refusal, Refusals};
pub use options::{InvalidOptions, Options};
pub use output::{Output, Persist, ProposeError, Role};
pub use progress::{Follower, FollowerState};
pub use setup::{Setup, StartError};
pub use snapshot::{Offer, Snapshot};
pub use storage::{Log, LogError};

use crate::id::Incarnation;
use crate::timer::Time;
use crate::wal;
use commit::Telling;
use membership::{Bootstrap, Change, Membership};
use storage::{Window, entry_to_log, membership_entry};
use wire::Envelope;

/// One replica's part in the consensus. See the [module](self).
pub struct Consensus<L: Log> {
    node: RawNode<Window<L>>,
    cluster: Uuid,
    raft_id: u64,
    incarnation: Incarnation,
    options: Options,
    rng: fastrand::Rng,
    membership: Membership,
    membership_changes: u64,
    /// Raft ids outside the membership that the owner vouches for.
    admitted: BTreeSet<u64>,
    /// Raft ids of members that went, as far as was applied since the start.
    removed: BTreeSet<u64>,
    ticked: Time,
    /// The time of the last turn.
    now: Time,
    telling: Telling,
    /// Ticks since the start.
    ticks: usize,
    /// The tick in which each replica was heard last, by raft id.
    heard: BTreeMap<u64, usize>,
    /// What the present election timeout was drawn for.
    drawn_for: (u64, StateRole, u64),
    election_ticks: usize,
    read_rounds: u64,
    /// The newest number that the crate gave out.
    newest: u64,
    /// Term and vote as last handed out for writing.
    durable: (u64, u64),
    /// Writes handed out and not confirmed, with index and term of the last entry of each.
    writing: VecDeque<(u64, Option<(u64, u64)>)>,
    /// Messages that wait for the write with this number, in order.
    held: VecDeque<(u64, Vec<Message>)>,
    outbox: BTreeMap<u64, Vec<Message>>,
    /// The newest snapshot that this replica was told to continue from.
    offer: Option<Offer>,
    /// Followers that were offered a snapshot.
    offered: Vec<(u64, Snapshot)>,
    refusals: Refusals,
    has_room: bool,
    /// Whether what this replica confirms as persisted is synced, and which others say that theirs
    /// is not, by raft id.
    synced: bool,
    unsynced: BTreeSet<u64>,
}

impl<L: Log> Consensus<L> {
    /// Starts from what the disk has; committed entries come again through [`Self::poll`].
    ///
    /// # Errors
    ///
    /// [`StartError`]: the options or the disk's content cannot be used.
    pub fn new(setup: Setup<L>) -> Result<Self, StartError> {
        setup.options.check()?;
        if setup.raft_id == 0 {
            return Err(StartError::Inconsistent { what: "raft id 0" });
        }
        let bootstrap = wal::Point { index: Bootstrap::INDEX, term: Bootstrap::TERM };
        let start = setup.snapshot.as_ref().map_or(bootstrap, |snapshot| snapshot.point);
        let (first, last) = (setup.log.first_index(), setup.log.last_index());
        if first > start.index + 1 || setup.log.term(start.index) != Some(start.term) {
            return Err(StartError::Inconsistent {
                what: "log does not reach back to the snapshot or the bootstrap",
            });
        }
        if setup.hard_state.term < start.term || setup.hard_state.commit > last {
            return Err(StartError::Inconsistent { what: "hard state does not fit the log" });
        }
        let membership = match &setup.snapshot {
            Some(snapshot) => snapshot.membership.clone(),
            None => Membership::new(&setup.bootstrap),
        };
        let commit = setup.hard_state.commit.max(start.index);
        let hard_state = wal::HardState { commit, ..setup.hard_state };
        let mut window = Window::new(setup.log, hard_state, membership.conf_state().clone());
        window.set_snapshot(setup.snapshot);
        let config = setup::raft_config(setup.raft_id, start.index, &setup.options);
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&config, window, &logger)
            .map_err(|error| StartError::Raft { reason: error.to_string() })?;
        let mut consensus = Self {
            node,
            cluster: setup.bootstrap.cluster_id(),
            raft_id: setup.raft_id,
            incarnation: setup.incarnation,
            election_ticks: setup.options.election_ticks_min(),
            options: setup.options,
            rng: setup.rng,
            membership,
            membership_changes: 0,
            admitted: BTreeSet::new(),
            removed: BTreeSet::new(),
            ticked: setup.now,
            now: setup.now,
            telling: Telling::default(),
            ticks: 0,
            heard: BTreeMap::new(),
            drawn_for: (0, StateRole::Follower, 0),
            read_rounds: 0,
            newest: 0,
            durable: (setup.hard_state.term, setup.hard_state.vote),
            writing: VecDeque::new(),
            held: VecDeque::new(),
            outbox: BTreeMap::new(),
            offer: None,
            offered: Vec::new(),
            refusals: Refusals::default(),
            has_room: true,
            synced: true,
            unsynced: BTreeSet::new(),
        };
        consensus.after_call();
        Ok(consensus)
    }

    /// Lets time pass. Returns whether this replica was away for longer than half an election
    /// timeout, so that what it knows of the others may be old.
    ///
    /// Time in which nothing ran is not held against the others, who may well have written: at
    /// most half an election timeout passes at once.
    ///
    /// The clock steps at whole intervals after the time at which this replica was set up, and a
    /// leader has its heartbeats at whole heartbeat intervals of its time: replicas of one process
    /// that share a clock and began at a whole interval have them at the same moments.
    pub fn tick(&mut self, now: Time) -> bool {
        let interval = self.options.tick_interval;
        let elapsed = now.saturating_since(self.ticked);
        let due = u32::try_from(elapsed.as_nanos() / interval.as_nanos()).unwrap_or(u32::MAX);
        let limit = u32::try_from(self.options.election_ticks_min() / 2).unwrap_or(u32::MAX).max(1);
        self.ticked = self.ticked + interval * due;
        let last = self.ticked.since_start().as_nanos() / interval.as_nanos();
        for left in (0..due.min(limit)).rev() {
            self.tick_once(last - u128::from(left));
        }
        self.go_on_sending();
        self.now = now;
        self.tell_commit(now);
        elapsed > self.options.election_timeout_min / 2
    }

    /// When [`Self::tick`] has something to do next.
    pub fn poll_timeout(&self) -> Time {
        let tick = self.ticked + self.options.tick_interval;
        self.telling.due.map_or(tick, |due| due.min(tick))
    }

    /// Takes a frame that arrived on the authenticated link of the replica `from`.
    ///
    /// # Errors
    ///
    /// [`Refusal`]: the frame or a message in it is not acceptable, and was counted. Messages
    /// before it were used, which is as good as the rest having been lost.
    pub fn handle_frame(&mut self, from: u64, frame: &Bytes) -> Result<(), Refusal> {
        let result = self.step_frame(from, frame);
        if let Err(refusal) = &result {
            self.refusals.count(refusal);
        }
        result
    }

    /// Whether a replica may send anything here.
    pub(crate) fn check_sender(&self, from: u64) -> Result<(), Refusal> {
        if self.membership.contains(from) || self.admitted.contains(&from) {
            return Ok(());
        }
        Err(Refusal::NotMember { from })
    }

    /// Counts what the owner refused of what replicas say to each other beside the consensus.
    pub(crate) fn count(&mut self, refusal: &Refusal) {
        self.refusals.count(refusal);
    }

    /// Proposes entries, all in one message; returns the index of the first and their term.
    ///
    /// # Errors
    ///
    /// [`ProposeError`]: none of them was proposed.
    pub fn propose(&mut self, commands: Vec<Bytes>) -> Result<(u64, u64), ProposeError> {
        let entry = |data| Entry { data, ..Entry::default() };
        self.propose_entries(commands.into_iter().map(entry).collect())
    }

    /// Proposes a change of the membership; no changes leave the change under way.
    ///
    /// # Errors
    ///
    /// [`ProposeError`]: it was not proposed.
    pub fn propose_changes(&mut self, changes: &[Change]) -> Result<(u64, u64), ProposeError> {
        // The crate would replace such a proposal by an empty entry without a word.
        let pending = self.node.raft.has_pending_conf();
        if pending || self.membership.is_joint() != changes.is_empty() {
            return Err(ProposeError::ChangePending);
        }
        let data = membership::encode_conf_change(changes);
        let context = membership::encode_changes(changes);
        self.propose_entries(vec![membership_entry(data, context)])
    }

    /// Begins a read round, which asks a quorum whether this replica still leads; its number comes
    /// back in [`Output::reads`]. `None` when no round can begin at present: this replica does not
    /// lead, has not yet committed an entry of its term, or enough rounds are under way.
    ///
    /// The mark of a round is never used twice, not even by another start of the process: an answer
    /// to an old round must not confirm a new one.
    pub fn begin_read(&mut self) -> Option<u64> {
        let raft = &self.node.raft;
        let room = raft.pending_read_count() < self.options.read_rounds_max;
        if self.role() != Role::Leader || !room || !raft.commit_to_current_term() {
            return None;
        }
        self.read_rounds += 1;
        let mut mark = self.incarnation.0.to_le_bytes().to_vec();
        mark.extend_from_slice(&self.read_rounds.to_le_bytes());
        self.node.read_index(mark);
        self.after_call();
        Some(self.read_rounds)
    }

    /// Hands the leadership to a voter, if this replica leads. It may fail silently: the leadership
    /// then stays, and proposals are accepted again after an election timeout.
    pub fn transfer(&mut self, to: u64) {
        if self.role() == Role::Leader {
            self.node.transfer_leader(to);
            self.after_call();
        }
    }

    /// Whether this replica is handing the leadership over, and takes no proposals meanwhile.
    pub fn is_transferring(&self) -> bool {
        self.node.raft.lead_transferee.is_some()
    }

    /// Says whether the disk has room for more entries. Without it, those of a leader are taken for
    /// lost, which it repeats until there is room.
    pub fn set_room(&mut self, has_room: bool) {
        self.has_room = has_room;
    }

    /// Says whether this replica syncs what it confirms as persisted [true]; the others hear it with
    /// every frame.
    pub fn set_synced(&mut self, synced: bool) {
        self.synced = synced;
    }

    /// Whether this replica syncs what it confirms as persisted.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// Whether every copy that may count for a quorum is synced: this replica's, and those of all
    /// voters that were heard. Who was never heard has confirmed nothing.
    pub fn is_durable(&self) -> bool {
        self.synced && !self.unsynced.iter().any(|raft_id| self.membership.is_voter(*raft_id))
    }

    /// Says that what was sent to this replica was probably lost.
    pub fn unreachable(&mut self, raft_id: u64) {
        self.node.report_unreachable(raft_id);
        self.after_call();
    }

    /// Accepts a replica that is not a member as far as has been applied here. A replica that lags
    /// must hear leaders that joined later; its owner vouches for them by their handshake.
    pub fn admit(&mut self, raft_id: u64) {
        self.admitted.insert(raft_id);
    }

    /// Whether a member with this raft id went since this replica has started. It never comes back.
    pub fn was_removed(&self, raft_id: u64) -> bool {
        self.removed.contains(&raft_id)
    }

    /// Whether a replica was [admitted](Self::admit), and not removed since.
    pub fn is_admitted(&self, raft_id: u64) -> bool {
        self.admitted.contains(&raft_id)
    }

    /// The next output, until there is none. Call it after every input.
    pub fn poll(&mut self) -> Option<Output> {
        if self.failure().is_some() || !self.node.has_ready() {
            return None;
        }
        let mut ready = self.node.ready();
        let number = ready.number();
        let entries = ready.take_entries();
        let committed: Vec<_> = ready.take_committed_entries().iter().map(entry_to_log).collect();
        let reads = ready.take_read_states();
        let (now, later) = (ready.take_messages(), ready.take_persisted_messages());
        self.node.mut_store().append(&entries);
        self.node.advance_append_async(ready);
        self.post(now);
        self.newest = number;
        let changes = committed.iter().any(|entry| entry.kind == wal::EntryKind::Membership);
        let persist = self.write(number, &entries, changes);
        self.held.push_back((number, later));
        if self.writing.is_empty() {
            self.release();
        }
        let reads = reads
            .iter()
            .filter_map(|state| Some((self.round_of(&state.request_ctx)?, state.index)));
        let reads = reads.collect();
        Some(Output { persist, committed, apply_after_persist: changes, reads })
    }

    /// Confirms a write, and all before it: they are on disk. Then call [`Self::poll`].
    pub fn persisted(&mut self, number: u64) {
        while self.writing.front().is_some_and(|(written, _)| *written <= number) {
            if let Some((_, Some((index, term)))) = self.writing.pop_front() {
                self.node.mut_store().confirm(index, term);
            }
        }
        self.release();
        self.after_call();
        self.tell_commit(self.now);
    }

    /// Says that everything up to and including `index` has been applied.
    pub fn applied(&mut self, index: u64) {
        self.node.advance_apply_to(index);
        self.after_call();
    }

    /// Applies an entry of the kind [`Membership`](wal::EntryKind::Membership), in its turn.
    ///
    /// An entry that makes no sense changes nothing, on every replica alike.
    pub fn apply_membership(&mut self, entry: &wal::Entry) {
        let Some(changes) = membership::decode_changes(&entry.data) else { return };
        let conf_change: ConfChangeV2 = membership::conf_change(&changes);
        let Ok(conf) = self.node.apply_conf_change(&conf_change) else { return };
        self.membership.apply(&changes, conf);
        self.membership_changes += 1;
        self.admitted.retain(|raft_id| !changes.contains(&Change::Remove(*raft_id)));
        self.removed.extend(changes.iter().filter_map(|change| match change {
            Change::Add(_) => None,
            Change::Remove(raft_id) => Some(*raft_id),
        }));
        // Whoever is new has not been heard yet, whatever its former self has said.
        self.heard.retain(|raft_id, _| !self.removed.contains(raft_id));
        // The crate leaves a removed leader in office, where it would panic on its own progress or
        // keep the others from electing somebody.
        if !self.membership.is_voter(self.raft_id) && self.role() != Role::Follower {
            let term = self.node.raft.term;
            self.node.raft.become_follower(term, raft::INVALID_ID);
        }
        self.after_call();
    }

    /// Frames to send, each with the raft id of its receiver: one per receiver, unless there is
    /// more than fits.
    pub fn take_frames(&mut self) -> Vec<(u64, Bytes)> {
        let outbox = std::mem::take(&mut self.outbox);
        if self.failure().is_some() {
            return Vec::new();
        }
        let mut frames = Vec::with_capacity(outbox.len());
        for (to, messages) in outbox {
            let envelope = Envelope { cluster: self.cluster, from: self.raft_id, to };
            for frame in wire::encode(envelope, &messages) {
                let frame = if self.synced { frame } else { wire::mark_unsynced(frame) };
                frames.push((to, frame));
            }
        }
        frames
    }

    /// One step of the clock; `number` counts them from the start of time.
    fn tick_once(&mut self, number: u128) {
        self.ticks += 1;
        let log = &self.node.raft.raft_log;
        if self.role() != Role::Leader && log.persisted < log.last_index() {
            // A replica whose own disk is behind must not win: the crate counts on that.
            return;
        }
        // The crate counts from the election. Steps that are missing to the common beat come at
        // once, so that the first heartbeat is early and no later one is.
        let heartbeat_ticks = self.options.heartbeat_ticks();
        let beat = (number - 1) % heartbeat_ticks.max(1) as u128;
        while self.role() == Role::Leader && (self.node.raft.heartbeat_elapsed() as u128) < beat {
            self.node.tick();
            self.after_call();
        }
        self.node.tick();
        self.after_call();
        self.repeat_commit();
        self.leave_joint();
    }

    /// Sends followers the next portion of what they lack. Their answers call for the rest of it.
    fn go_on_sending(&mut self) {
        if !self.node.store().next_portion() || self.role() != Role::Leader {
            return;
        }
        let last = self.last_index();
        let (raft_id, progress) = (self.raft_id, self.node.raft.prs().iter());
        let behind = progress.filter(|(id, of)| **id != raft_id && of.next_idx <= last);
        for follower in behind.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.node.raft.send_append(follower);
        }
        self.after_call();
    }

    /// Raft may lose the step out of a joint membership when the leader changes.
    fn leave_joint(&mut self) {
        let pending = self.node.raft.has_pending_conf();
        if self.role() == Role::Leader && self.membership.is_joint() && !pending {
            // A refusal is repeated with the next tick.
            let _ = self.propose_changes(&[]);
        }
    }

    fn step_frame(&mut self, from: u64, frame: &Bytes) -> Result<(), Refusal> {
        self.check_sender(from)?;
        let expected = Envelope { cluster: self.cluster, from, to: self.raft_id };
        let messages = wire::decode(frame, expected)?;
        if wire::is_unsynced(frame) {
            self.unsynced.insert(from);
        } else {
            self.unsynced.remove(&from);
        }
        for mut message in messages {
            self.heard.insert(from, self.ticks);
            door::check(&self.node.raft, &message)?;
            let behind = self.node.raft.raft_log.persisted < self.last_index();
            if behind && message.get_msg_type() == MessageType::MsgTimeoutNow {
                // Taking over can wait: a replica campaigns only with its log on disk.
                continue;
            }
            // An entry without content, such as a new leader's first, takes next to nothing.
            let content =
                |entry: &Entry| !entry.get_data().is_empty() || !entry.get_context().is_empty();
            if !self.has_room && message.get_entries().iter().any(content) {
                continue;
            }
            if message.get_msg_type() == MessageType::MsgSnapshot {
                self.attend(&mut message);
                if self.keep_offer(&message) {
                    continue;
                }
            }
            // What the crate refuses here is from a replica whose progress it does not follow.
            let _ = self.node.step(message);
            self.after_call();
        }
        Ok(())
    }

    fn propose_entries(&mut self, entries: Vec<Entry>) -> Result<(u64, u64), ProposeError> {
        if self.role() != Role::Leader {
            return Err(ProposeError::NotLeader);
        }
        if entries.is_empty() {
            return Ok((self.last_index() + 1, self.term()));
        }
        let first = self.last_index() + 1;
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.raft_id;
        message.set_entries(entries.into());
        let result = self.node.raft.step(message);
        self.after_call();
        result.map(|()| (first, self.term())).map_err(|_| ProposeError::Full)
    }

    /// Makes the write of one step, if there is anything that must be durable.
    fn write(&mut self, number: u64, entries: &[Entry], changes: bool) -> Option<Persist> {
        let raft = &self.node.raft;
        let durable = (raft.term, raft.vote);
        // A commit index is a hint and costs no sync, but for one case: a membership that has been
        // applied must not be forgotten, or its old quorum could elect a leader again.
        let must = durable != self.durable || changes;
        let hard_state = must.then(|| wal::HardState {
            term: raft.term,
            vote: raft.vote,
            commit: raft.raft_log.committed,
        });
        if hard_state.is_none() && entries.is_empty() {
            return None;
        }
        self.durable = durable;
        self.writing.push_back((number, entries.last().map(|last| (last.index, last.term))));
        Some(Persist { number, hard_state, entries: entries.iter().map(entry_to_log).collect() })
    }

    /// Confirms to the crate, and lets out, what waits for no write any more.
    fn release(&mut self) {
        let through = self.writing.front().map_or(self.newest, |(number, _)| number - 1);
        self.node.on_persist_ready(through);
        while self.held.front().is_some_and(|(number, _)| *number <= through) {
            if let Some((_, messages)) = self.held.pop_front() {
                self.post(messages);
            }
        }
    }

    fn post(&mut self, messages: Vec<Message>) {
        for message in messages {
            if message.get_msg_type() == MessageType::MsgSnapshot {
                let snapshot = Snapshot::from_raft(message.get_snapshot());
                self.offered.extend(snapshot.map(|snapshot| (message.to, snapshot)));
            }
            self.outbox.entry(message.to).or_default().push(message);
        }
    }

    fn round_of(&self, mark: &[u8]) -> Option<u64> {
        let (incarnation, round) = mark.split_first_chunk::<8>()?;
        let round = u64::from_le_bytes(round.try_into().ok()?);
        (u64::from_le_bytes(*incarnation) == self.incarnation.0).then_some(round)
    }

    /// The crate draws election timeouts from a generator that cannot be seeded. After every call
    /// into it the timeout is therefore put back to ours, drawn anew when the term, the role or
    /// the leader has changed.
    fn after_call(&mut self) {
        let key = (self.node.raft.term, self.node.raft.state, self.node.raft.leader_id);
        if key != self.drawn_for {
            self.drawn_for = key;
            let (min, max) = (self.options.election_ticks_min(), self.options.election_ticks_max());
            self.election_ticks = self.rng.usize(min..max);
        }
        self.node.raft.set_randomized_election_timeout(self.election_ticks);
    }
}

#[cfg(test)]
mod tests;
