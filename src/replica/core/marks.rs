//! Marks: entries after which the replicas compare their states.
//!
//! Pure: the sums are made by a [`Job`].

use std::time::Duration;

use bytes::Bytes;

use super::Core;
use crate::consensus::{Log, Role};
use crate::replica::hashes::{Hashes, Judgement, StateHash};
use crate::replica::machine::Machine;
use crate::replica::snapshot::Job;
use crate::replica::status;
use crate::replica::transfer::{Content, Frame};
use crate::timer::Time;
use crate::wal::Point;

/// See the module.
#[derive(Debug)]
pub(super) struct Marks {
    hashes: Hashes,
    /// When a leader sets the next mark.
    due: Time,
    /// The index of the last mark.
    last: u64,
    /// Whether a state is being summed up, or waits for that.
    summing: bool,
    /// Marks at which the one before was still being worked on.
    skipped: u64,
    /// What the others are to be told. They are told even of a sum that ends this replica.
    frames: Vec<(u64, Bytes)>,
}

impl Marks {
    pub(super) fn new(start: u64, due: Time) -> Self {
        Self {
            hashes: Hashes::default(),
            due,
            last: start,
            summing: false,
            skipped: 0,
            frames: Vec::new(),
        }
    }

    pub(super) fn take_frames(&mut self) -> Vec<(u64, Bytes)> {
        std::mem::take(&mut self.frames)
    }

    pub(super) fn status(&self) -> status::Hashes {
        status::Hashes {
            own: self.hashes.own().copied().collect(),
            equal: self.hashes.equal,
            skipped: self.skipped,
            divergence: self.hashes.divergence.clone(),
        }
    }
}

impl<M: Machine, T, L: Log> Core<M, T, L> {
    /// Stops for good because what this replica has is not what the others have, or not what it
    /// wrote. See [`Self::is_condemned`].
    pub fn condemn(&mut self, reason: String) {
        if self.failure.is_none() {
            tracing::error!(%reason, "this replica stops: it is damaged");
            self.condemned = true;
            self.fail(reason);
        }
    }

    /// Whether it has stopped because it is damaged: starting it again would not help.
    pub fn is_condemned(&self) -> bool {
        self.condemned
    }

    /// Takes an image of the state after the entry that was just applied, which is a mark.
    pub(super) fn mark(&mut self, point: Point) {
        self.marks.last = point.index;
        if self.marks.summing {
            self.marks.skipped += 1;
            return;
        }
        self.marks.summing = true;
        let image = self.machine.snapshot();
        self.snapshots.push_job(Job::Sum { point, image });
    }

    /// On a leader, sets a mark when it is time and something was applied after the last.
    pub(super) fn propose_mark(&mut self) {
        let Some(due) = self.mark_due().filter(|due| *due <= self.now) else { return };
        self.marks.due = due.max(self.now) + self.options.hash_interval;
        let alone = self.consensus.membership().members().count() < 2;
        if alone || self.applied <= self.marks.last {
            return;
        }
        if let Some(command) = self.machine.mark()
            && self.may_propose(&command).is_ok()
        {
            // What is lost is set again at the next time.
            let _ = self.consensus.propose(vec![command]);
        }
    }

    /// When a leader sets the next mark.
    pub(super) fn mark_due(&self) -> Option<Time> {
        let leads = self.consensus.role() == Role::Leader;
        let never = self.options.hash_interval == Duration::ZERO;
        (leads && !never).then_some(self.marks.due)
    }

    /// Takes the sum of a state, tells the other members, and compares.
    pub(super) fn summed(&mut self, result: std::io::Result<StateHash>) {
        self.marks.summing = false;
        let found = match result {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "the state could not be summed up");
                return;
            }
        };
        let (members, me) = (self.member_ids(), self.raft_id());
        let (cluster, point) = (self.consensus.cluster(), found.point);
        let content = Content::Hash { hash: found.hash, bytes: found.bytes };
        let others = members.iter().copied().filter(|member| *member != me);
        let frame = |to| Frame { cluster, from: me, to, point, content: content.clone() };
        self.marks.frames.extend(others.map(|to| (to, frame(to).encode())));
        let judgement = self.marks.hashes.found(found, &members, me);
        self.judge(judgement);
    }

    /// Takes the sum of another member.
    pub(super) fn told(&mut self, from: u64, told: StateHash) {
        let (members, me) = (self.member_ids(), self.raft_id());
        let judgement = self.marks.hashes.heard(from, told, &members, me);
        self.judge(judgement);
    }

    fn judge(&mut self, judgement: Judgement) {
        match judgement {
            Judgement::Fine => {}
            Judgement::Others(divergence) => {
                let (index, others) = (divergence.index, divergence.others.join(", "));
                tracing::error!(index, others, "the states of replicas differ");
            }
            Judgement::Alone(divergence) => self.condemn(format!(
                "the state after entry {} differs from that of the majority ({}), so nothing that \
                 this replica says can be relied on; the others go on without it",
                divergence.index,
                divergence.others.join(", ")
            )),
        }
    }

    fn member_ids(&self) -> Vec<u64> {
        self.consensus.membership().members().map(|member| member.raft_id).collect()
    }
}
