//! Replicas that do not sync, machines that lose power, and their way back as somebody else.

use std::time::Duration;

use zmesh::replica::{Confidence, MemberChange, Store, SyncMode};
use zmesh::wal::MemoryDisk;

use super::{Checked, Mutant, World, member};

impl World {
    /// Whether a crash takes what was not synced: one machine at a time has no power, or has not its
    /// place back. The others are only killed, and the system keeps what they wrote.
    pub(super) fn loses_power(&mut self, at: usize) -> bool {
        if !self.plan.unsynced {
            return true;
        }
        let loses = !self.healed && self.anew.is_empty() && self.rng.bool();
        if loses {
            self.anew.insert(at, Vec::new());
        }
        loses
    }

    /// Looks at what a machine has left; returns whether it has to begin anew, with another disk.
    pub(super) fn begins_anew(&mut self, at: usize, store: &mut Store) -> Result<bool, String> {
        if !self.plan.unsynced {
            return Ok(false);
        }
        let doubtful = store.confidence() == Confidence::Doubtful;
        if doubtful && self.plan.mutant != Some(Mutant::TrustWhatIsLeft) {
            let node = &mut self.nodes[at];
            self.anew.entry(at).or_default().push(node.raft_id);
            node.raft_id = self.rng.u64(1..);
            node.disk = MemoryDisk::new();
            return Ok(true);
        }
        // Whoever has begun anew is somebody else until it votes.
        if self.anew.get(&at).is_some_and(Vec::is_empty) {
            self.anew.remove(&at);
        }
        store.begin(SyncMode::Never).map_err(|error| error.to_string())?;
        Ok(false)
    }

    /// Asks whoever leads to give those that begin anew the place of their former selves.
    pub(super) fn take_places(&mut self) -> Checked {
        let Some((at, former)) = self.anew.clone().pop_first() else { return Ok(()) };
        // It is still without power.
        let Some(former) = self.rng.choice(former) else { return Ok(()) };
        let asked = self.asked();
        let raft_id = self.nodes[at].raft_id;
        let node = member(at, raft_id, false).node;
        self.tickets += 1;
        let (ticket, deadline) = (self.tickets, self.now + Duration::from_secs(1));
        let Some(running) = &mut self.nodes[asked].running else { return Ok(()) };
        let membership = running.core.consensus().membership();
        if membership.is_voter(raft_id) && !membership.is_joint() {
            self.anew.remove(&at);
            return Ok(());
        }
        let change = match membership.contains(raft_id) {
            true => MemberChange::Promote(node),
            false => MemberChange::Replace { node, former, raft_id },
        };
        self.history.changes(ticket, asked);
        running.core.change_member(change, deadline, ticket);
        self.wake_at(asked, self.now);
        Ok(())
    }
}
