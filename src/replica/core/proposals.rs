//! Commands on their way into the log.
//!
//! Pure.

use bytes::Bytes;

use super::{Applied, Core, Operation};
use crate::consensus::{Log, ProposeError};
use crate::replica::ack::{AckLevel, Acks};
use crate::replica::error::ReplicaError;
use crate::replica::machine::Machine;
use crate::timer::Time;

impl<M: Machine, T, L: Log> Core<M, T, L> {
    /// Accepts a command for the next turn's proposal, or answers at once why not.
    ///
    /// Until `deadline` the answer is certain: committed, refused, or replaced by another leader's
    /// entry. At the deadline it is [`ReplicaError::QuorumFailed`], and the command may yet commit.
    pub fn propose(&mut self, command: Bytes, deadline: Time, ticket: T) {
        self.propose_with(command, Acks::Quorum, deadline, ticket);
    }

    /// As [`propose`](Self::propose), but answered when `acks` is reached. For
    /// [`None`](Acks::None) that is here and now; a write for [`All`](Acks::All) that is committed
    /// and does not get as far until the deadline is answered by [`ReplicaError::NotOnAll`].
    pub fn propose_with(&mut self, command: Bytes, acks: Acks, deadline: Time, ticket: T) {
        if let Err(error) = self.may_propose(&command).and_then(|()| self.may_acknowledge(acks)) {
            return self.answer(ticket, Err(error));
        }
        let id = self.machine.command_id(&command);
        let mut operation = Operation { id, acks, ..Operation::new(command, deadline, ticket) };
        self.command_bytes += operation.size;
        self.expire_at(deadline);
        if acks == Acks::None {
            let (term, response) = (self.consensus.term(), Bytes::new());
            let applied = Applied { index: 0, term, level: AckLevel::None, response };
            self.answer(operation.ticket.take(), Ok(applied));
        }
        self.queued.push(operation);
    }

    pub(super) fn may_propose(&self, command: &Bytes) -> Result<(), ReplicaError> {
        self.leads()?;
        let (bytes, bytes_max) = (command.len(), self.options.command_bytes_max);
        if bytes == 0 {
            return Err(ReplicaError::CommandEmpty);
        }
        if bytes > bytes_max {
            return Err(ReplicaError::CommandTooLarge { bytes, bytes_max });
        }
        if !self.has_room {
            return Err(ReplicaError::NoSpace);
        }
        let proposals = self.queued.len() + self.proposed.len();
        let full = proposals >= self.options.proposals_max
            || self.command_bytes + bytes > self.options.proposal_bytes_max.max(bytes);
        if full { Err(ReplicaError::ProposalsFull) } else { Ok(()) }
    }

    pub(super) fn propose_queued(&mut self) {
        // A leader that hands over takes nothing more. Either the next one does, or it goes on itself.
        if self.queued.is_empty() || self.consensus.is_transferring() {
            return;
        }
        let queued = std::mem::take(&mut self.queued);
        let commands = queued.iter().map(|operation| operation.bytes.clone()).collect();
        match self.consensus.propose(commands) {
            Ok((first, term)) => {
                for (index, mut operation) in (first..).zip(queued) {
                    operation.bytes = Bytes::new();
                    if operation.acks == Acks::Leader {
                        self.await_leader((index, term));
                    }
                    self.proposed.insert((index, term), operation);
                }
            }
            Err(error) => {
                for operation in queued {
                    self.command_bytes -= operation.size;
                    let error = match error {
                        ProposeError::NotLeader => self.not_leader(),
                        ProposeError::ChangePending | ProposeError::Full => {
                            ReplicaError::ProposalsFull
                        }
                    };
                    self.answer(operation.ticket, Err(error));
                }
            }
        }
    }

    /// Proposes what time calls for. Nobody waits for it; what is lost is proposed again.
    pub(super) fn propose_alarms(&mut self) {
        while let Some(command) = self.alarms.poll(self.now) {
            if self.may_propose(&command).is_ok() {
                // A refusal is as good as a loss.
                let _ = self.consensus.propose(vec![command]);
            }
        }
    }
}
