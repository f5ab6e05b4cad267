//! Members that come, vote, go and hand the leadership on, when somebody asks for it.
//!
//! One member at a time and one step at a time: a new member begins as a learner, votes only when it
//! has nearly everything, and a leader that is to go hands the leadership over first. What would
//! leave too few voters that answer is refused.
//!
//! Pure.

use super::{Core, Operation};
use crate::consensus::membership::{Change, Member};
use crate::consensus::{FollowerState, Log, ProposeError};
use crate::id::NodeId;
use crate::replica::error::ReplicaError;
use crate::replica::machine::Machine;
use crate::timer::Time;

/// What is asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum MemberChange {
    /// A new member, which receives everything and decides nothing.
    AddLearner {
        /// Its name.
        node: NodeId,
        /// The raft id of its directory.
        raft_id: u64,
    },
    /// A learner is to vote.
    Promote(NodeId),
    /// A member is to go for good.
    Remove(NodeId),
    /// A member with another directory, and so another raft id, takes the place of its former self,
    /// as a learner.
    Replace {
        /// Its name.
        node: NodeId,
        /// The raft id of the directory that it had.
        former: u64,
        /// The raft id of the directory that it has.
        raft_id: u64,
    },
    /// A voter is to lead.
    Transfer(NodeId),
}

impl<M: Machine, T, L: Log> Core<M, T, L> {
    /// Accepts a change of the members, or answers at once why not. What is so already is answered
    /// as done. A removal of the leader itself hands the leadership over and is answered with
    /// [`ReplicaError::NotLeader`], so that the next leader is asked.
    ///
    /// At the deadline the answer is [`ReplicaError::QuorumFailed`], and the change may yet be made;
    /// a transfer that did not come about is answered with [`ReplicaError::NoQuorum`].
    pub fn change_member(&mut self, change: MemberChange, deadline: Time, ticket: T) {
        if let Err(error) = self.leads() {
            return self.answer(ticket, Err(error));
        }
        // Both memberships of a change count until it is left, so one name may stand for two.
        let is_joint = self.consensus.membership().is_joint();
        if is_joint && !matches!(change, MemberChange::Transfer(_)) {
            return self.answer(ticket, Err(ReplicaError::ChangePending));
        }
        let wanted = match change {
            MemberChange::Replace { node, former, raft_id } => {
                return match self.may_replace(&node, former, raft_id) {
                    Ok(changes) if changes.is_empty() => self.answer_done(ticket),
                    Ok(changes) => self.propose_changes(&changes, deadline, ticket),
                    Err(error) => self.answer(ticket, Err(error)),
                };
            }
            MemberChange::AddLearner { node, raft_id } => self.may_add(node, raft_id),
            MemberChange::Promote(node) => self.may_promote(&node),
            MemberChange::Remove(node) => self.may_remove(&node),
            MemberChange::Transfer(node) => return self.hand_over(&node, deadline, ticket),
        };
        match wanted {
            Ok(Some(change)) => self.propose_changes(&[change], deadline, ticket),
            Ok(None) => self.answer_done(ticket),
            Err(error) => self.answer(ticket, Err(error)),
        }
    }

    /// Goes on with transfers, and answers those that are over.
    pub(super) fn answer_handovers(&mut self) {
        for (to, operation) in std::mem::take(&mut self.handovers) {
            match self.consensus.leader() {
                Some(leader) if leader == to => self.answer_done(operation.ticket),
                Some(leader) if leader != self.raft_id() => {
                    self.answer(operation.ticket, Err(self.not_leader()));
                }
                _ => {
                    // Raft gives a transfer up after an election timeout.
                    self.consensus.transfer(to);
                    self.handovers.push((to, operation));
                }
            }
        }
    }

    fn member(&self, node: &NodeId) -> Result<Member, ReplicaError> {
        let mut members = self.consensus.membership().members();
        let member = members.find(|member| member.node == *node);
        member.ok_or_else(|| ReplicaError::MemberUnknown { node: node.clone() })
    }

    fn may_add(&self, node: NodeId, raft_id: u64) -> Result<Option<Change>, ReplicaError> {
        let mut members = self.consensus.membership().members();
        match members.find(|member| member.node == node || member.raft_id == raft_id) {
            // It was announced by the node as it was before: another directory needs another id.
            None if self.consensus.was_removed(raft_id) => {
                Err(ReplicaError::MemberUnknown { node })
            }
            None => Ok(Some(Change::Add(Member { raft_id, node, voter: false }))),
            Some(member) if member.node == node && member.raft_id == raft_id => Ok(None),
            Some(member) => Err(ReplicaError::MemberExists { node: member.node }),
        }
    }

    fn may_promote(&self, node: &NodeId) -> Result<Option<Change>, ReplicaError> {
        let member = self.member(node)?;
        if member.voter {
            return Ok(None);
        }
        let (lag, lag_max) = (self.lag(member.raft_id), self.options.promote_lag_max);
        match lag.filter(|lag| *lag <= lag_max) {
            Some(_) => Ok(Some(Change::Add(Member { voter: true, ..member }))),
            None => {
                let lag = lag.unwrap_or_else(|| self.consensus.last_index());
                Err(ReplicaError::MemberLags { node: node.clone(), lag, lag_max })
            }
        }
    }

    fn may_remove(&mut self, node: &NodeId) -> Result<Option<Change>, ReplicaError> {
        let member = self.member(node)?;
        if !member.voter {
            return Ok(Some(Change::Remove(member.raft_id)));
        }
        self.spare(&member)?;
        if member.raft_id != self.raft_id() {
            return Ok(Some(Change::Remove(member.raft_id)));
        }
        self.hand_on();
        Err(ReplicaError::NotLeader { leader: None })
    }

    /// Begins to hand the leadership to the voter that is nearest, if one answers.
    pub(super) fn hand_on(&mut self) {
        let voters = self.consensus.membership().members().filter(|member| member.voter);
        let others = voters.map(|member| member.raft_id).filter(|other| *other != self.raft_id());
        let others = others.filter(|other| self.is_active(*other));
        if let Some(successor) = others.min_by_key(|other| self.lag(*other)) {
            self.consensus.transfer(successor);
        }
    }

    /// Whether the voters beside this one can do without it.
    fn spare(&self, member: &Member) -> Result<(), ReplicaError> {
        let others = self.consensus.membership().members();
        let others = others.filter(|other| other.voter && other.raft_id != member.raft_id);
        let others: Vec<u64> = others.map(|other| other.raft_id).collect();
        let answering = others.iter().filter(|other| self.is_active(**other)).count();
        if answering <= others.len() / 2 {
            let (node, voters) = (member.node.clone(), others.len());
            return Err(ReplicaError::QuorumAtRisk { node, answering, voters });
        }
        Ok(())
    }

    /// In one step, so that there is no moment at which the member is none, and none at which a
    /// repeated request could remove its new self.
    fn may_replace(
        &self,
        node: &NodeId,
        former: u64,
        raft_id: u64,
    ) -> Result<Vec<Change>, ReplicaError> {
        let mut members = self.consensus.membership().members();
        let member = members.find(|member| member.node == *node);
        let unknown = || ReplicaError::DirectoryUnknown { node: node.clone() };
        let member = member.ok_or_else(unknown)?;
        if member.raft_id == raft_id {
            return Ok(Vec::new());
        }
        let is_used = self.consensus.was_removed(raft_id);
        if member.raft_id != former || former == self.raft_id() || is_used {
            return Err(unknown());
        }
        if member.voter {
            self.spare(&member)?;
        }
        let learner = Member { raft_id, node: node.clone(), voter: false };
        Ok(vec![Change::Remove(former), Change::Add(learner)])
    }

    fn hand_over(&mut self, node: &NodeId, deadline: Time, ticket: T) {
        let to = match self.member(node) {
            Ok(member) if member.voter => member.raft_id,
            Ok(_) => {
                return self.answer(ticket, Err(ReplicaError::NotVoter { node: node.clone() }));
            }
            Err(error) => return self.answer(ticket, Err(error)),
        };
        self.expire_at(deadline);
        self.handovers.push((to, Operation::new(bytes::Bytes::new(), deadline, ticket)));
        self.answer_handovers();
    }

    fn propose_changes(&mut self, changes: &[Change], deadline: Time, ticket: T) {
        match self.consensus.propose_changes(changes) {
            Ok(at) => {
                self.expire_at(deadline);
                let operation = Operation::new(bytes::Bytes::new(), deadline, ticket);
                self.proposed.insert(at, operation);
            }
            Err(ProposeError::NotLeader) => self.answer(ticket, Err(self.not_leader())),
            Err(ProposeError::ChangePending) => {
                self.answer(ticket, Err(ReplicaError::ChangePending));
            }
            Err(ProposeError::Full) => self.answer(ticket, Err(ReplicaError::ProposalsFull)),
        }
    }

    fn answer_done(&mut self, ticket: impl Into<Option<T>>) {
        self.answer_query(ticket, bytes::Bytes::new());
    }

    fn is_active(&self, raft_id: u64) -> bool {
        raft_id == self.raft_id() || self.lag(raft_id).is_some()
    }

    /// Entries that a follower lacks; none if it does not answer or waits for a snapshot.
    fn lag(&self, raft_id: u64) -> Option<u64> {
        let followers = self.consensus.followers();
        let follower = followers.iter().find(|follower| follower.raft_id == raft_id)?;
        let answers = follower.active && follower.state != FollowerState::Snapshot;
        answers.then_some(follower.lag)
    }
}
