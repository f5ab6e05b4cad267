//! What goes wrong in the simulated world, and what its operators do to it.

use std::time::Duration;

use zmesh::consensus::membership::Change;
use zmesh::replica::MemberChange;
use zmesh::wal::{Fault, Operation};

use super::{Checked, Net, World, member};

impl World {
    pub(super) fn fault(&mut self) -> Checked {
        let node = self.rng.usize(0..self.nodes.len());
        let other = self.rng.usize(0..self.nodes.len());
        match self.rng.u32(0..if self.plan.changes { 15 } else { 10 }) {
            0 => return self.crash(node),
            1 => {
                let pause = Duration::from_millis(self.rng.u64(20..1_500));
                self.nodes[node].paused_until = self.now + pause;
            }
            2 => self.partition(),
            3 => {
                self.net.cut.insert((node, other));
            }
            4 | 5 => self.net.cut.clear(),
            6 => {
                self.net.loss = self.rng.f64() * 0.3;
                self.net.doubles = self.rng.f64() * 0.2;
                self.net.delay_max = self.rng.u64(500..60_000);
            }
            7 => self.net = Net { delay_max: 2_000, ..Net::default() },
            8 => {
                let operation = if self.rng.bool() { Operation::Sync } else { Operation::Write };
                self.nodes[node].disk.fail(operation, self.rng.u64(0..4), Fault::Broken);
            }
            9 => {
                let to = self.nodes[other].raft_id;
                if let Some(running) = &mut self.nodes[node].running {
                    running.core.transfer(to);
                }
            }
            10 | 11 => self.ask_for_change(),
            _ => self.change_members(),
        }
        Ok(())
    }

    /// Everybody on one side of a random line, with nothing in between.
    fn partition(&mut self) {
        let sides: Vec<bool> = self.nodes.iter().map(|_| self.rng.bool()).collect();
        for (from, left) in sides.iter().enumerate() {
            for (to, right) in sides.iter().enumerate() {
                if left != right {
                    self.net.cut.insert((from, to));
                }
            }
        }
    }

    /// Asks whoever leads, as a user would, to add, promote, remove or make leader some replica.
    fn ask_for_change(&mut self) {
        let asked = self.asked();
        let at = self.rng.usize(0..self.nodes.len());
        let raft_id = self.nodes[at].raft_id;
        let node = member(at, raft_id, false).node;
        let change = match self.rng.u32(0..5) {
            0 => MemberChange::Remove(node),
            1 => MemberChange::Transfer(node),
            2 | 3 => MemberChange::Promote(node),
            _ => MemberChange::AddLearner { node, raft_id },
        };
        self.tickets += 1;
        let (ticket, deadline) = (self.tickets, self.now + Duration::from_secs(1));
        if let Some(running) = &mut self.nodes[asked].running {
            self.history.changes(ticket, asked);
            running.core.change_member(change, deadline, ticket);
            self.wake_at(asked, self.now);
        }
    }

    /// Asks whoever leads for a random change of one to three members.
    fn change_members(&mut self) {
        let changes: Vec<Change> = (0..self.rng.usize(1..4))
            .map(|_| {
                let at = self.rng.usize(0..self.nodes.len());
                let raft_id = self.nodes[at].raft_id;
                match self.rng.u32(0..5) {
                    0 => Change::Remove(raft_id),
                    1 => Change::Add(member(at, raft_id, false)),
                    _ => Change::Add(member(at, raft_id, true)),
                }
            })
            .collect();
        for node in &mut self.nodes {
            if let Some(running) = &mut node.running {
                // Only the leader can; the others say so.
                let _ = running.core.change_membership(&changes);
            }
        }
    }
}
