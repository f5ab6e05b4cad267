//! What the consensus shows of itself: nothing here changes anything.
//!
//! Pure, but for reading the [`Log`].

use raft::StateRole;
use uuid::Uuid;

use super::membership::Membership;
use super::storage::entry_to_log;
use super::{Consensus, Follower, Log, LogError, Refusals, Role, progress};
use crate::wal;

impl<L: Log> Consensus<L> {
    /// Why this replica cannot go on, if so. Nothing leaves it any more.
    pub fn failure(&self) -> Option<LogError> {
        self.node.store().failure()
    }

    /// What this replica is.
    pub fn role(&self) -> Role {
        match self.node.raft.state {
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
            StateRole::Follower => Role::Follower,
            StateRole::Leader => Role::Leader,
        }
    }

    /// The present term.
    pub fn term(&self) -> u64 {
        self.node.raft.term
    }

    /// Raft id of the leader of the term, if it is known.
    pub fn leader(&self) -> Option<u64> {
        let leader = self.node.raft.leader_id;
        (leader != raft::INVALID_ID).then_some(leader)
    }

    /// Raft id of this replica.
    pub fn raft_id(&self) -> u64 {
        self.raft_id
    }

    /// The id of the cluster.
    pub fn cluster(&self) -> Uuid {
        self.cluster
    }

    /// The highest index that is known to be committed.
    pub fn commit(&self) -> u64 {
        self.node.raft.raft_log.committed
    }

    /// The last index of the log, persisted or not.
    pub fn last_index(&self) -> u64 {
        self.node.raft.raft_log.last_index()
    }

    /// The first index that the log can be asked for; one more than the last when there is none.
    pub fn first_index(&self) -> u64 {
        self.node.store().log_begins()
    }

    /// Entries with `low <= index < high`, whether they are persisted or not: as many as fit into
    /// `bytes_max`, at least one.
    ///
    /// # Errors
    ///
    /// [`LogError`]: they cannot be read. The replica goes on: it may be asked for others.
    pub fn entries(
        &self,
        low: u64,
        high: u64,
        bytes_max: u64,
    ) -> Result<Vec<wal::Entry>, LogError> {
        let high = high.min(self.last_index() + 1);
        let entries = self.node.store().joined(low, high, bytes_max)?;
        Ok(entries.iter().map(entry_to_log).collect())
    }

    /// The last index up to which the log is on this replica's own disk.
    pub fn persisted_index(&self) -> u64 {
        self.node.raft.raft_log.persisted
    }

    /// Whether the entry of this index and term is on this replica's own disk.
    pub fn has_persisted(&self, index: u64, term: u64) -> bool {
        let log = &self.node.raft.raft_log;
        index <= log.persisted && log.match_term(index, term)
    }

    /// The members as of what has been applied.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// How often the members have changed since the start.
    pub fn membership_changes(&self) -> u64 {
        self.membership_changes
    }

    /// What was refused at the door since the start.
    pub fn refusals(&self) -> Refusals {
        self.refusals
    }

    /// How far the others are, by raft id, as the leader knows it; nothing on other replicas.
    pub fn followers(&self) -> Vec<Follower> {
        if self.role() != Role::Leader {
            return Vec::new();
        }
        let oldest = self.ticks.saturating_sub(self.options.election_ticks_min());
        let active = |raft_id| self.heard.get(&raft_id).is_some_and(|tick| *tick >= oldest);
        progress::followers(self.raft_id, self.node.raft.prs(), self.last_index(), active)
    }
}
