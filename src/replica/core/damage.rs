//! What a replica does about files of its own that are damaged.
//!
//! What it has in memory is right, and so is what it writes from here on: it takes part. But it may
//! not be able to send what others lack, nor to start again, so it leads only if nobody else can.
//!
//! Pure.

use super::Core;
use crate::consensus::{Log, Role};
use crate::replica::machine::Machine;
use crate::replica::scrub::Step;

/// A leader that could not hand over tries again after so many election timeouts: commands wait
/// while it tries.
const TRY_AGAIN_ELECTIONS: u32 = 20;

impl<M: Machine, T, L: Log> Core<M, T, L> {
    /// Takes what reading the files again has come to.
    pub(in crate::replica) fn scrubbed(&mut self, step: &Step) {
        match step {
            Step::Damaged { reason } => {
                tracing::error!(%reason, "a file of this replica is damaged");
                self.scrub.damaged += 1;
                self.scrub.damage.get_or_insert_with(|| reason.clone());
                // If it is a snapshot, the next one makes up for it.
                self.snapshots.want();
            }
            Step::Ended => self.scrub.passes += 1,
            Step::Failed { reason } => {
                tracing::warn!(%reason, "a file of this replica cannot be read again");
                self.scrub.failed += 1;
            }
            Step::Read(bytes) => self.scrub.bytes += bytes,
        }
    }

    /// Hands the leadership on if files are damaged.
    pub(super) fn shun_leadership(&mut self) {
        let leads = self.consensus.role() == Role::Leader;
        if self.scrub.damage.is_some() && leads && self.now >= self.hand_over_due {
            let pause = self.options.consensus.election_timeout_max * TRY_AGAIN_ELECTIONS;
            self.hand_over_due = self.now + pause;
            self.hand_on();
        }
    }
}
