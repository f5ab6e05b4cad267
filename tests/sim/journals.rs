//! Does every replica have in its log what its machine refers to?

use bytes::Bytes;
use zmesh::consensus::{Log as _, Role};

use super::{Checked, Running, World, check};
use crate::ledger::READ_JOURNAL;

impl World {
    /// Now and then has a leader read everything.
    pub(super) fn read_at_times(&mut self, running: &Running) -> Checked {
        let (status, log) = (running.core.status(), running.store.log());
        // A new leader may lag behind what was applied elsewhere.
        let present = status.role == Role::Leader
            && status.applied == status.commit
            && log.term(status.applied) == Some(status.term);
        if self.plan.retained > 0 && present && self.rng.u32(0..8) == 0 {
            self.journals += 1;
            read_journal(running)?;
        }
        Ok(())
    }

    /// Has everybody who has applied up to `index` read everything.
    pub(super) fn all_read_their_journals(&self, index: u64) -> Checked {
        let running = self.nodes.iter().filter_map(|node| node.running.as_ref());
        let mut present = running.filter(|running| running.core.applied() >= index);
        present.try_for_each(read_journal)
    }
}

fn read_journal(running: &Running) -> Checked {
    if running.core.machine().inner().journal().is_none() {
        return Ok(());
    }
    let (applied, answer) = running.core.read_stale(&Bytes::from_static(READ_JOURNAL));
    let answer = String::from_utf8_lossy(&answer);
    let read = answer.parse::<u64>().is_ok();
    check(read, || format!("with {applied} applied, the log lacks messages: {answer}"))
}
