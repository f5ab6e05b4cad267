//! Shell: What a member has in hand, and what becomes of it.
//!
//! What members say about records goes through one task, which says many things at once when they
//! come faster than they are replicated.
//!
//! Invariant: every delivery is settled once, by its holder or by being dropped.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::client::Group;
use super::command::GroupCommand;
use super::error::GroupError;
use super::options::BATCH_MAX;
use super::response::{Outcome, Settlement, Verdict};
use crate::log::{Record, Stored};
use crate::timer::Time;

/// A record that is this member's to work on.
///
/// Dropping it says that the work failed: it is tried again at once, by whoever asks first, if it
/// may be.
#[derive(Debug)]
pub struct Delivery {
    /// The record.
    pub record: Record,
    /// Its offset in the topic.
    pub offset: u64,
    /// When its writer appended it by its own account, in milliseconds since 1970.
    pub timestamp: u64,
    /// Which try this is, from 1.
    pub tries: u32,
    ticket: Ticket,
}

/// The right to settle a delivery.
#[derive(Debug)]
pub(super) struct Ticket {
    settlement: Settlement,
    /// None once it is used.
    settler: Option<Settler>,
    /// What dropping it says.
    unused: Verdict,
    /// The life of the member to which it was given.
    member: u64,
    /// Until when it is certainly the member's.
    ends: Time,
}

/// Where settlements go. The queue has no limit of its own: there is one settlement for each
/// delivery at a time, and these are limited.
pub(super) type Settler = mpsc::UnboundedSender<Statement>;

/// What is said about a delivery.
#[derive(Debug)]
pub(super) struct Statement {
    settlement: Settlement,
    member: u64,
    verdict: Verdict,
    reply: Option<oneshot::Sender<Result<(), GroupError>>>,
}

impl Delivery {
    pub(super) fn new(stored: Stored, tries: u32, ticket: Ticket) -> Self {
        let Stored { offset, timestamp, record } = stored;
        Self { record, offset, timestamp, tries, ticket }
    }

    /// The work is done. Returns once a quorum has it on disk, so that nobody will do it again.
    ///
    /// # Errors
    ///
    /// [`GroupError`]; [`GroupError::Stale`] if the record was given to somebody else meanwhile,
    /// since this member was too slow. With [`Effect::Unknown`](crate::Effect::Unknown) it may count
    /// or not; if not, the record is tried again when its time is up.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future after it was polled does not recall what was said.
    pub async fn ack(self) -> Result<(), GroupError> {
        self.ticket.settle(Verdict::Ack).await
    }

    /// The work failed and is to be tried again, not before `after` has passed (zero: at once). When
    /// it was tried as often as the group allows, it becomes a dead letter.
    ///
    /// # Errors
    ///
    /// As [`ack`](Self::ack); longer than a day is refused.
    ///
    /// # Cancel safety
    ///
    /// As [`ack`](Self::ack).
    pub async fn nack(self, after: Duration) -> Result<(), GroupError> {
        self.ticket.settle(Verdict::Again { after }).await
    }

    /// There is no use in trying again: the record becomes a dead letter.
    ///
    /// # Errors
    ///
    /// As [`ack`](Self::ack).
    ///
    /// # Cancel safety
    ///
    /// As [`ack`](Self::ack).
    pub async fn bury(self) -> Result<(), GroupError> {
        self.ticket.settle(Verdict::Bury).await
    }

    /// The work takes longer: its time begins anew.
    ///
    /// # Errors
    ///
    /// As [`ack`](Self::ack).
    ///
    /// # Cancel safety
    ///
    /// As [`ack`](Self::ack).
    pub async fn extend(&self) -> Result<(), GroupError> {
        self.ticket.extend().await
    }

    /// The life of the member to which it was given.
    pub(super) fn member(&self) -> u64 {
        self.ticket.member
    }

    /// Until when it is certainly the member's, if it is not [extended](Self::extend).
    pub(super) fn ends(&self) -> Time {
        self.ticket.ends
    }

    /// Its holder has seen it: from here on being dropped is a failure.
    pub(super) fn seen(mut self) -> Self {
        self.ticket.unused = Verdict::Again { after: Duration::ZERO };
        self
    }
}

impl Ticket {
    /// For a record that nobody has seen yet: when it is dropped, that does not count as a try.
    pub(super) fn new(settlement: Settlement, member: u64, ends: Time, settler: Settler) -> Self {
        Self { settlement, settler: Some(settler), unused: Verdict::Release, member, ends }
    }

    /// The topic does not have the record any more: there is nothing left to be done with it.
    pub(super) fn gone(mut self) {
        self.unused = Verdict::Ack;
    }

    /// What is said is said when this is polled first, and what follows is the answer.
    async fn settle(mut self, verdict: Verdict) -> Result<(), GroupError> {
        let settler = self.settler.take().ok_or(GroupError::Left)?;
        self.say(&settler, verdict).await
    }

    async fn extend(&self) -> Result<(), GroupError> {
        let settler = self.settler.as_ref().ok_or(GroupError::Left)?;
        self.say(settler, Verdict::Extend).await
    }

    async fn say(&self, settler: &Settler, verdict: Verdict) -> Result<(), GroupError> {
        let (reply, answer) = oneshot::channel();
        let (settlement, member) = (self.settlement, self.member);
        let statement = Statement { settlement, member, verdict, reply: Some(reply) };
        settler.send(statement).map_err(|_| GroupError::Left)?;
        answer.await.unwrap_or(Err(GroupError::Left))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(settler) = self.settler.take() {
            let (settlement, member, verdict) = (self.settlement, self.member, self.unused);
            // If nobody listens any more, the member leaves or its time is up.
            let _ignored = settler.send(Statement { settlement, member, verdict, reply: None });
        }
    }
}

/// Passes on what is said about deliveries, until there are none any more and nobody who could make
/// some.
pub(super) async fn pass_on(group: Group, mut said: mpsc::UnboundedReceiver<Statement>) {
    let mut waiting = Vec::new();
    while said.recv_many(&mut waiting, BATCH_MAX).await > 0 {
        // What is said of one delivery stays in order: its last word is the last of all.
        while let Some(first) = waiting.first() {
            let (verdict, member) = (first.verdict, first.member);
            let same = |other: &Statement| other.verdict == verdict && other.member == member;
            let end = waiting.iter().position(|other| !same(other)).unwrap_or(waiting.len());
            let batch: Vec<_> = waiting.drain(..end).collect();
            settle(&group, member, verdict, batch).await;
        }
    }
}

async fn settle(group: &Group, member: u64, verdict: Verdict, batch: Vec<Statement>) {
    let deliveries: Vec<_> = batch.iter().map(|statement| statement.settlement).collect();
    let name = group.name().to_owned();
    let command = GroupCommand::Settle { group: name, member, verdict, deliveries };
    let outcomes = group.settled(&command).await;
    for (number, statement) in batch.into_iter().enumerate() {
        let Statement { settlement: Settlement { offset, .. }, reply: Some(reply), .. } = statement
        else {
            continue;
        };
        let outcome = match &outcomes {
            Ok(outcomes) if outcomes.get(number) == Some(&Outcome::Done) => Ok(()),
            Ok(_) => Err(GroupError::Stale { offset }),
            Err(error) => Err(error.clone()),
        };
        // Who does not wait for the answer does not want it.
        let _ignored = reply.send(outcome);
    }
}
