//! How followers hear of the commit index when no append is on its way to tell them.
//!
//! Under load the next append says it, and nothing is sent for it alone. Without load whoever reads
//! from a follower, or waits there for a change, would wait for the next tick.
//!
//! Pure.

use std::time::Duration;

use super::{Consensus, Log, Role};
use crate::timer::Time;

/// How long an append is waited for that says it as well. A client that writes one after the other
/// is faster than that; much more would be noticed by readers.
const TELL_AFTER: Duration = Duration::from_millis(1);

/// What followers were told, by itself, and when they will be.
#[derive(Debug, Default)]
pub(super) struct Telling {
    /// Each commit index is told once in this way. What is lost is told with the next tick.
    told: u64,
    pub(super) due: Option<Time>,
}

impl<L: Log> Consensus<L> {
    /// Tells followers the commit index if the time has come.
    pub(super) fn tell_commit(&mut self, now: Time) {
        let committed = self.commit();
        if committed <= self.telling.told || !self.commit_is_news() {
            self.telling.due = None;
            return;
        }
        let due = *self.telling.due.get_or_insert(now + TELL_AFTER);
        if due <= now {
            self.telling = Telling { told: committed, due: None };
            self.node.raft.bcast_append();
            self.after_call();
        }
    }

    /// Tells them again, in case it was lost.
    pub(super) fn repeat_commit(&mut self) {
        if self.commit_is_news() {
            self.node.raft.bcast_append();
            self.after_call();
        }
    }

    /// Whether a follower has all entries and does not know that they are committed.
    fn commit_is_news(&self) -> bool {
        let committed = self.commit();
        let idle = self.role() == Role::Leader && committed == self.last_index();
        let raft_id = self.raft_id;
        idle && self.node.raft.prs().iter().any(|(id, progress)| {
            *id != raft_id && progress.matched == committed && progress.committed_index < committed
        })
    }
}
