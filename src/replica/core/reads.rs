//! Queries: confirmed by a quorum, answered from what is there, or waiting for something to happen.
//!
//! Pure.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Applied, Core, Operation};
use crate::consensus::Log;
use crate::replica::ack::AckLevel;
use crate::replica::error::ReplicaError;
use crate::replica::machine::{CommandId, Machine};
use crate::timer::Time;

impl<M: Machine, T, L: Log> Core<M, T, L> {
    /// Accepts a query that must see every write acknowledged before now, or answers why not.
    ///
    /// At the deadline the answer is [`ReplicaError::NoQuorum`].
    pub fn read(&mut self, query: Bytes, deadline: Time, ticket: T) {
        self.read_as(None, query, deadline, ticket);
    }

    pub(super) fn read_as(
        &mut self,
        id: Option<CommandId>,
        query: Bytes,
        deadline: Time,
        ticket: T,
    ) {
        let refusal = match self.leads() {
            Err(error) => Some(error),
            Ok(()) if self.read_count >= self.options.reads_max => {
                Some(ReplicaError::ProposalsFull)
            }
            Ok(()) => None,
        };
        if let Some(error) = refusal {
            return self.answer(ticket, Err(error));
        }
        self.read_count += 1;
        self.expire_at(deadline);
        self.reads.push(Operation { id, ..Operation::new(query, deadline, ticket) });
    }

    /// Accepts a query that waits for something to happen, or answers why not. Whether it leads or
    /// not, this replica answers when it has applied what the query waits for, see
    /// [`Machine::poll_query`]; at the deadline it answers from what it has applied.
    pub fn wait(&mut self, query: Bytes, deadline: Time, ticket: T) {
        if let Some(reason) = &self.failure {
            let error = ReplicaError::Io { reason: reason.clone() };
            return self.answer(ticket, Err(error));
        }
        if self.read_count >= self.options.reads_max {
            return self.answer(ticket, Err(ReplicaError::ProposalsFull));
        }
        if let Some(response) = self.machine.poll_query(&query, &self.past()) {
            return self.answer_query(ticket, response);
        }
        self.read_count += 1;
        self.expire_at(deadline);
        self.pending.push(Operation::new(query, deadline, ticket));
    }

    /// Answers a query from whatever has been applied here, however old that is; the index says
    /// how far it reaches.
    pub fn read_stale(&self, query: &Bytes) -> (u64, Bytes) {
        (self.applied, self.machine.query(query, &self.past()))
    }

    pub(super) fn take_unconfirmed_reads(&mut self) -> Vec<Operation<T>> {
        let mut reads: Vec<_> = std::mem::take(&mut self.rounds).into_values().flatten().collect();
        reads.append(&mut self.reads);
        reads
    }

    pub(super) fn begin_round(&mut self) {
        if self.reads.is_empty() {
            return;
        }
        if let Some(round) = self.consensus.begin_read() {
            self.rounds.insert(round, std::mem::take(&mut self.reads));
        }
    }

    pub(super) fn answer_reads(&mut self) {
        while let Some(waiting) = self.confirmed.first_entry() {
            if *waiting.key() > self.applied {
                break;
            }
            for operation in waiting.remove() {
                self.read_count -= 1;
                let response = match operation.id {
                    Some(id) => self.machine.inquire(id, self.is_under_way(id)),
                    None => self.machine.query(&operation.bytes, &self.past()),
                };
                self.answer_query(operation.ticket, response);
            }
        }
    }

    /// Looks at the queries that wait for something to happen, if anything has.
    pub(super) fn answer_pending(&mut self) {
        if self.pending_seen == self.applied {
            return;
        }
        let since = std::mem::replace(&mut self.pending_seen, self.applied);
        // Many ask the same: what wakes one of them wakes all.
        let mut answers = BTreeMap::new();
        for operation in std::mem::take(&mut self.pending) {
            if !self.machine.may_answer(&operation.bytes, since) {
                self.pending.push(operation);
                continue;
            }
            let known = answers.entry(operation.bytes.clone());
            let poll = || self.machine.poll_query(&operation.bytes, &self.past());
            match known.or_insert_with(poll).clone() {
                Some(response) => {
                    self.read_count -= 1;
                    self.answer_query(operation.ticket, response);
                }
                None => self.pending.push(operation),
            }
        }
    }

    pub(super) fn answer_query(&mut self, ticket: impl Into<Option<T>>, response: Bytes) {
        let (index, term) = (self.applied, self.consensus.term());
        let level = AckLevel::Quorum.held(self.consensus.is_durable());
        self.answer(ticket, Ok(Applied { index, term, level, response }));
    }
}
