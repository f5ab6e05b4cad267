//! Snapshots as they pass through the consensus: offered to followers, taken up, installed.
//!
//! Pure.

use raft::SnapshotStatus;
use raft::prelude::Message;

use super::{Consensus, Log, Offer, Snapshot, door};
use crate::wal;

impl<L: Log> Consensus<L> {
    /// Names the snapshot on this replica's disk that followers are offered which need more than the
    /// log has. The log must go on from there.
    pub fn set_snapshot(&mut self, snapshot: Option<Snapshot>) {
        self.node.mut_store().set_snapshot(snapshot);
    }

    /// Whether a follower was found that needs a snapshot while none was named, since this was asked
    /// last.
    pub fn take_snapshot_wanted(&mut self) -> bool {
        self.node.store().take_snapshot_wanted()
    }

    /// Followers that were offered a snapshot. They are sent nothing more, until
    /// [`Self::report_snapshot`] says how it ended, which the owner has to call for each.
    pub fn take_offered(&mut self) -> Vec<(u64, Snapshot)> {
        std::mem::take(&mut self.offered)
    }

    /// Says whether a follower has got the snapshot that it was offered.
    pub fn report_snapshot(&mut self, raft_id: u64, arrived: bool) {
        let status = if arrived { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.node.report_snapshot(raft_id, status);
        self.after_call();
    }

    /// The newest snapshot that a leader told this replica to continue from. Its body has to be on
    /// disk before it is [installed](Self::install).
    pub fn take_offer(&mut self) -> Option<Offer> {
        self.offer.take()
    }

    /// Whether [`Self::install`] may be called: every write is confirmed.
    pub fn is_settled(&self) -> bool {
        self.writing.is_empty()
    }

    /// Continues from a snapshot whose body is on disk, if that is still called for; returns
    /// whether it was.
    ///
    /// All of it happens in this call, since the crate must not be asked anything in between: a
    /// campaign that begins before the snapshot is applied would be fatal. `write` makes the log
    /// begin after the snapshot and stores the hard state, durably.
    ///
    /// # Errors
    ///
    /// That of `write`. This replica must stop then.
    ///
    /// # Panics
    ///
    /// If a write is not confirmed: see [`Self::is_settled`].
    pub fn install<E>(
        &mut self,
        offer: Offer,
        write: impl FnOnce(wal::HardState) -> Result<(), E>,
    ) -> Result<bool, E> {
        assert!(self.is_settled(), "a snapshot is installed when nothing else is being written");
        let Offer { snapshot, message, .. } = offer;
        if door::check(&self.node.raft, &message).is_err() {
            return Ok(false);
        }
        let _ = self.node.step(message);
        self.after_call();
        if self.node.snap().is_none() {
            return Ok(false);
        }
        let mut ready = self.node.ready();
        let number = ready.number();
        let (now, later) = (ready.take_messages(), ready.take_persisted_messages());
        let (term, vote) = (self.node.raft.term, self.node.raft.vote);
        write(wal::HardState { term, vote, commit: snapshot.point.index })?;
        self.durable = (term, vote);
        self.node.mut_store().reset();
        self.node.advance_append_async(ready);
        self.newest = number;
        self.membership = snapshot.membership.clone();
        self.membership_changes += 1;
        self.post(now);
        self.held.push_back((number, later));
        self.release();
        self.node.advance_apply_to(snapshot.point.index);
        self.set_snapshot(Some(snapshot));
        self.after_call();
        Ok(true)
    }

    /// Makes a snapshot acceptable to the crate, which refuses one without its own replica. A
    /// replica that is not in it became a member later, since no raft id is used twice: at that
    /// point it was nobody, which is as much as a learner decides. It applies its own joining when
    /// it comes to it in the log.
    pub(super) fn attend(&self, message: &mut Message) {
        let Some(snapshot) = Snapshot::from_raft(message.get_snapshot()) else { return };
        if !snapshot.membership.contains(self.raft_id) {
            let metadata = message.mut_snapshot().mut_metadata();
            metadata.mut_conf_state().learners.push(self.raft_id);
        }
    }

    /// Keeps a snapshot that is offered until its body is there. One that brings nothing new is left
    /// to the crate, which answers it.
    pub(super) fn keep_offer(&mut self, message: &Message) -> bool {
        let Some(snapshot) = Snapshot::from_raft(message.get_snapshot()) else { return false };
        let wal::Point { index, term } = snapshot.point;
        let log = &self.node.raft.raft_log;
        if index <= log.committed || log.match_term(index, term) {
            return false;
        }
        self.offer = Some(Offer { from: message.from, snapshot, message: message.clone() });
        true
    }
}
