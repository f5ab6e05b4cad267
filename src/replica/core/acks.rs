//! Answers that wait for less than the quorum, or for more, and who is in sync.
//!
//! A follower is in sync if it had, at some moment not longer ago than the lag limit, everything that
//! the leader's log had at that moment. To know that without remembering every moment, one moment is
//! marked for each follower; when its log has reached the mark it was in sync then, and the present
//! moment is marked. The rule is Kafka's `replica.lag.time.max.ms`: it asks how long ago, not how
//! many entries, so a burst of writes makes nobody fall behind.
//!
//! Pure. Invariants: an answer never claims more than what was seen here to be on disk; nothing
//! waits for a replica that is not in sync.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use super::{Applied, Core, Done};
use crate::consensus::{Log, Role};
use crate::id::NodeId;
use crate::replica::ack::{AckLevel, Acks};
use crate::replica::error::ReplicaError;
use crate::replica::machine::Machine;
use crate::replica::status::Acknowledging;
use crate::timer::Time;

/// Who has everything, as the leader sees it. Known on the leader only.
#[derive(Clone, Debug, Default, Eq, PartialEq, serde::Deserialize, serde::Serialize)]
pub struct InSync {
    /// Voters that are in sync, the leader among them, in the order of their names.
    pub members: Vec<NodeId>,
    /// Voters that are not; the cluster is under-replicated as long as there are any.
    pub lagging: Vec<NodeId>,
}

impl InSync {
    /// Whether there are voters that lag.
    pub fn is_under_replicated(&self) -> bool {
        !self.lagging.is_empty()
    }
}

/// What waits for its level, and what that depends on.
pub(super) struct Acknowledgements<T> {
    tracker: Tracker,
    /// Writes for `leader`, by index and term, in the order of their proposal.
    on_leader: VecDeque<(u64, u64)>,
    /// Writes for `all` that are applied, in the order of their indexes.
    on_all: VecDeque<Held<T>>,
    /// The last news of the set, until they are taken.
    news: Option<InSync>,
}

/// A write that is committed and applied, and not yet everywhere where it should be.
struct Held<T> {
    index: u64,
    term: u64,
    response: Bytes,
    min_insync: u8,
    deadline: Time,
    ticket: T,
}

/// Which followers of the present leader are in sync.
#[derive(Debug)]
struct Tracker {
    lag_max: Duration,
    /// A replica that leads anew takes the others for in sync for so long.
    grace: Duration,
    /// With a longer pause between two looks, nothing ran here meanwhile.
    pause_max: Duration,
    /// The term in which this replica leads.
    term: Option<u64>,
    observed: Time,
    followers: BTreeMap<u64, Follower>,
    under_replicated_since: Option<Time>,
    shrinks: u64,
    grows: u64,
}

/// A voter beside the leader.
#[derive(Clone, Copy, Debug)]
struct Follower {
    /// The marked moment, and the last index of the leader's log at it.
    mark: (Time, u64),
    /// It is in sync until then, unless it shows more: the lag limit after the latest moment whose
    /// log it is known to have.
    until: Option<Time>,
    matched: u64,
    is_in_sync: bool,
}

impl Tracker {
    /// Takes a look; returns whether the set has changed.
    ///
    /// `voters`: the others, with the last index that each has on disk and whether it was heard of
    /// lately. A silent one that has everything cannot be known to have it still.
    fn observe(
        &mut self,
        now: Time,
        (term, last): (u64, u64),
        voters: impl Iterator<Item = (u64, u64, bool)>,
    ) -> bool {
        let begins = self.term.replace(term) != Some(term);
        let pause = now.saturating_since(self.observed);
        if begins {
            self.followers.clear();
        } else if pause > self.pause_max {
            self.forgive(pause);
        }
        self.observed = now;
        // A new leader cannot know what the others had, and must not wait for the dead for long.
        let trust = begins.then(|| now + self.grace.min(self.lag_max));
        let mut before = std::mem::take(&mut self.followers);
        let (mut left, mut came) = (0, 0);
        for (raft_id, matched, is_heard) in voters {
            let known = before.remove(&raft_id);
            let mut follower = known.unwrap_or_else(|| Follower::new(now, last, trust));
            follower.matched = matched;
            if is_heard {
                follower.advance(now, last, self.lag_max);
            }
            let was_in_sync = follower.is_in_sync;
            follower.is_in_sync = follower.until.is_some_and(|until| now <= until);
            left += u64::from(was_in_sync && !follower.is_in_sync);
            came += u64::from(!was_in_sync && follower.is_in_sync);
            self.followers.insert(raft_id, follower);
        }
        self.shrinks += left;
        self.grows += came;
        let lagging = self.followers.values().any(|follower| !follower.is_in_sync);
        let since = self.under_replicated_since;
        self.under_replicated_since = lagging.then(|| since.unwrap_or(now));
        begins || left + came > 0 || !before.is_empty()
    }

    /// Time in which nothing ran here is not held against the others.
    fn forgive(&mut self, pause: Duration) {
        for follower in self.followers.values_mut() {
            follower.mark.0 = follower.mark.0 + pause;
            follower.until = follower.until.map(|until| until + pause);
        }
    }

    fn follow(&mut self) {
        self.term = None;
        self.followers.clear();
        self.under_replicated_since = None;
    }

    /// Replicas in sync, the leader among them.
    fn count(&self) -> usize {
        1 + self.followers.values().filter(|follower| follower.is_in_sync).count()
    }

    /// The highest index that all replicas in sync have, if the leader has `own`.
    fn floor(&self, own: u64) -> u64 {
        let in_sync = self.followers.values().filter(|follower| follower.is_in_sync);
        in_sync.map(|follower| follower.matched).fold(own, u64::min)
    }
}

impl Follower {
    /// `trusted_until`: it is taken for in sync until then. Otherwise it has to show it first.
    fn new(now: Time, last: u64, trusted_until: Option<Time>) -> Self {
        let is_in_sync = trusted_until.is_some();
        Self { mark: (now, last), until: trusted_until, matched: 0, is_in_sync }
    }

    fn advance(&mut self, now: Time, last: u64, lag_max: Duration) {
        let (at, index) = self.mark;
        if self.matched >= index {
            let until = at + lag_max;
            self.until = self.until.max(Some(until));
            self.mark = (now, last);
        }
        if self.matched >= last {
            self.until = Some(now + lag_max);
        }
    }
}

impl<T> Acknowledgements<T> {
    /// Nothing waits. `grace` and `pause_max`: see [`Tracker`].
    pub(super) fn new(lag_max: Duration, grace: Duration, pause_max: Duration) -> Self {
        let tracker = Tracker {
            lag_max,
            grace,
            pause_max,
            term: None,
            observed: Time::ZERO,
            followers: BTreeMap::new(),
            under_replicated_since: None,
            shrinks: 0,
            grows: 0,
        };
        Self { tracker, on_leader: VecDeque::new(), on_all: VecDeque::new(), news: None }
    }

    /// Writes that are applied and wait for the rest of the replicas in sync.
    pub(super) fn waiting(&self) -> usize {
        self.on_all.len()
    }

    /// The earliest deadline of what waits.
    pub(super) fn expiry(&self) -> Option<Time> {
        self.on_all.iter().map(|held| held.deadline).min()
    }
}

impl<M: Machine, T, L: Log> Core<M, T, L> {
    /// Whether as many replicas are in sync as a write asks for.
    pub(super) fn may_acknowledge(&self, acks: Acks) -> Result<(), ReplicaError> {
        let Acks::All { min_insync } = acks else { return Ok(()) };
        let in_sync = self.acks.tracker.count();
        if in_sync < usize::from(min_insync) {
            return Err(ReplicaError::InsufficientIsr { in_sync, min_insync });
        }
        Ok(())
    }

    /// Remembers that a proposal is answered as soon as this replica has it on disk.
    pub(super) fn await_leader(&mut self, at: (u64, u64)) {
        self.acks.on_leader.push_back(at);
    }

    /// Answers a write that was applied, or keeps it until the others in sync have it too.
    pub(super) fn acknowledge(&mut self, applied: Applied, acks: Acks, deadline: Time, ticket: T) {
        let Acks::All { min_insync } = acks else {
            return self.done.push(Done { ticket, result: Ok(applied) });
        };
        let Applied { index, term, response, .. } = applied;
        let leads = self.acks.tracker.term == Some(self.consensus.term());
        let held = Held { index, term, response, min_insync, deadline, ticket };
        if leads && self.may_acknowledge(acks).is_ok() {
            self.acks.on_all.push_back(held);
        } else {
            self.refuse_held(held);
        }
    }

    /// Looks who is in sync, and answers what has reached its level.
    pub(super) fn settle_acks(&mut self) {
        self.answer_on_leader();
        if self.consensus.role() != Role::Leader {
            return self.follow_acks();
        }
        let at = (self.consensus.term(), self.consensus.last_index());
        let voters = self.consensus.followers().into_iter();
        let membership = self.consensus.membership();
        let voters = voters.filter(|follower| membership.is_voter(follower.raft_id));
        let voters = voters.map(|voter| (voter.raft_id, voter.matched, voter.active));
        if self.acks.tracker.observe(self.now, at, voters) {
            self.acks.news = Some(self.in_sync());
            self.refuse_short();
        }
        let floor = self.acks.tracker.floor(self.consensus.persisted_index());
        while self.acks.on_all.front().is_some_and(|held| held.index <= floor) {
            let Some(Held { index, term, response, ticket, .. }) = self.acks.on_all.pop_front()
            else {
                break;
            };
            let level = AckLevel::All.held(self.consensus.is_durable());
            let result = Ok(Applied { index, term, level, response });
            self.done.push(Done { ticket, result });
        }
    }

    /// The present state of the set; empty unless this replica leads.
    pub(super) fn in_sync(&self) -> InSync {
        let tracker = &self.acks.tracker;
        if tracker.term.is_none() {
            return InSync::default();
        }
        let named = |is_in_sync: bool| {
            let of = tracker.followers.iter().filter(move |(_, it)| it.is_in_sync == is_in_sync);
            let own = Some(self.raft_id()).filter(|_| is_in_sync);
            let raft_ids = of.map(|(raft_id, _)| *raft_id).chain(own);
            let membership = self.consensus.membership();
            let mut names: Vec<NodeId> =
                raft_ids.filter_map(|raft_id| membership.node(raft_id).cloned()).collect();
            names.sort();
            names
        };
        InSync { members: named(true), lagging: named(false) }
    }

    /// Who is in sync, if that has changed since it was asked last.
    pub fn take_in_sync(&mut self) -> Option<InSync> {
        self.acks.news.take()
    }

    pub(super) fn acks_status(&self) -> Acknowledging {
        let tracker = &self.acks.tracker;
        let since = tracker.under_replicated_since;
        let lasts = since.map(|since| self.now.saturating_since(since));
        Acknowledging {
            in_sync: self.in_sync(),
            under_replicated_ms: lasts
                .map(|lasts| u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX)),
            shrinks: tracker.shrinks,
            grows: tracker.grows,
            waiting: self.acks.waiting(),
            unanswered_dropped: 0,
        }
    }

    /// Gives up what has reached its deadline: it is committed, but not everywhere.
    pub(super) fn expire_acks(&mut self) {
        let now = self.now;
        self.refuse_where(|held| held.deadline <= now);
    }

    /// Gives up everything, since the replica stops.
    pub(super) fn fail_acks(&mut self, reason: &str) {
        for held in std::mem::take(&mut self.acks.on_all) {
            let error = ReplicaError::Io { reason: reason.to_owned() };
            self.done.push(Done { ticket: held.ticket, result: Err(error) });
        }
    }

    fn answer_on_leader(&mut self) {
        while let Some(&(index, term)) = self.acks.on_leader.front() {
            // Applied, replaced or too late: it was answered then.
            let Some(operation) = self.proposed.get_mut(&(index, term)) else {
                self.acks.on_leader.pop_front();
                continue;
            };
            if !self.consensus.has_persisted(index, term) {
                // What another leader has replaced is answered when that is committed.
                if self.consensus.term() == term {
                    break;
                }
                self.acks.on_leader.pop_front();
                continue;
            }
            if let Some(ticket) = operation.ticket.take() {
                let level = AckLevel::Leader.held(self.consensus.is_synced());
                let result = Ok(Applied { index, term, level, response: Bytes::new() });
                self.done.push(Done { ticket, result });
            }
            self.acks.on_leader.pop_front();
        }
    }

    /// Another leader decides who is in sync; what waited for that here will not be known.
    fn follow_acks(&mut self) {
        if self.acks.tracker.term.is_none() {
            return;
        }
        self.acks.tracker.follow();
        self.acks.news = Some(InSync::default());
        self.refuse_where(|_| true);
    }

    /// Gives up what asks for more replicas than are in sync.
    fn refuse_short(&mut self) {
        let in_sync = self.acks.tracker.count();
        self.refuse_where(|held| in_sync < usize::from(held.min_insync));
    }

    fn refuse_where(&mut self, is_refused: impl Fn(&Held<T>) -> bool) {
        if !self.acks.on_all.iter().any(&is_refused) {
            return;
        }
        let waiting = std::mem::take(&mut self.acks.on_all);
        let (refused, kept): (VecDeque<_>, VecDeque<_>) = waiting.into_iter().partition(is_refused);
        self.acks.on_all = kept;
        refused.into_iter().for_each(|held| self.refuse_held(held));
    }

    fn refuse_held(&mut self, held: Held<T>) {
        let Held { index, term, ticket, .. } = held;
        self.done.push(Done { ticket, result: Err(ReplicaError::NotOnAll { index, term }) });
    }
}

#[cfg(test)]
#[path = "acks/tests.rs"]
mod tests;
