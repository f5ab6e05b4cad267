//! The schedule of figure 8 of the Raft paper (Ongaro and Ousterhout, 2014), step by step: why a
//! leader must not commit an entry of an earlier term because a quorum has it.
//!
//! Random faults hardly ever come to it, since a new leader's first entry travels with the old ones;
//! here entries travel one at a time, and to one replica none.
#![expect(clippy::unwrap_used, reason = "a test; the allowance does not reach functions beside it")]

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use raft::eraftpb::MessageType;
use zmesh::Time;
use zmesh::consensus::membership::Bootstrap;
use zmesh::consensus::wire::{self, Envelope};
use zmesh::consensus::{Log, Persist, Role};
use zmesh::kv::{Command, KvMachine};
use zmesh::replica::{Core, Store, settle};

use crate::fresh;

const STEP: Duration = Duration::from_millis(20);

struct Replica {
    core: Core<KvMachine, ()>,
    store: Store,
    unwritten: Option<Persist>,
}

impl Replica {
    /// The term of what it has applied at an index.
    fn applied(&self, index: u64) -> Option<u64> {
        let term = self.store.log().term(index);
        term.filter(|_| self.core.applied() >= index)
    }

    fn leads(&self) -> bool {
        self.core.consensus().role() == Role::Leader
    }
}

/// Five replicas, numbered from 1, between which messages pass where they are let.
struct Five {
    bootstrap: Bootstrap,
    replicas: Vec<Replica>,
    open: BTreeSet<(u64, u64)>,
    sent: Vec<(u64, u64, Bytes)>,
    now: Time,
    /// Gets no entries, and is only asked what it has.
    asked: u64,
    /// Leaders commit what a quorum has, of whatever term.
    counts: bool,
}

impl Five {
    fn new(counts: bool) -> Self {
        let bootstrap = fresh::members(5);
        let now = Time::from_start(Duration::ZERO);
        let replica = |raft_id| {
            let (core, store) =
                fresh::replica(raft_id, &bootstrap, KvMachine::new(), fresh::SMALL, now);
            Replica { core, store, unwritten: None }
        };
        let replicas = (1..=5).map(replica).collect();
        Self { bootstrap, replicas, open: BTreeSet::new(), sent: Vec::new(), now, asked: 0, counts }
    }

    fn get(&mut self, raft_id: u64) -> &mut Replica {
        &mut self.replicas[usize::try_from(raft_id).unwrap() - 1]
    }

    /// Lets messages pass between these and no others; what was under way is lost.
    fn connect(&mut self, hub: u64, others: &[u64]) {
        self.open = others.iter().flat_map(|other| [(hub, *other), (*other, hub)]).collect();
        self.sent.clear();
    }

    /// Lets a little time pass, and then whatever follows.
    fn step(&mut self) {
        self.now = self.now + STEP;
        self.run();
        for (from, to, frame) in std::mem::take(&mut self.sent) {
            if self.open.contains(&(from, to)) {
                let _ = self.get(to).core.handle_frame(from, &frame);
            }
        }
        self.run();
    }

    fn run(&mut self) {
        for raft_id in 1..=5 {
            let (now, mut frames) = (self.now, Vec::new());
            let Replica { core, store, unwritten } = self.get(raft_id);
            core.turn(now);
            drop(settle(core, store, unwritten, |to, frame| frames.push((to, frame))));
            frames.extend(core.take_frames());
            for (to, frame) in frames {
                let frame = self.mistaken(raft_id, to, frame);
                self.sent.push((raft_id, to, frame));
            }
        }
    }

    /// The frame as a leader sends it that counts, or as it is.
    fn mistaken(&mut self, from: u64, to: u64, frame: Bytes) -> Bytes {
        let envelope = Envelope { cluster: self.bootstrap.cluster_id(), from, to };
        let Ok(mut messages) = wire::decode(&frame, envelope) else { return frame };
        let consensus = self.get(from).core.consensus();
        let mut copies: Vec<u64> = consensus.followers().iter().map(|it| it.matched).collect();
        copies.push(consensus.last_index());
        copies.sort_unstable();
        let counted = copies[(copies.len() - 1) / 2];
        for message in messages.iter_mut() {
            if message.get_msg_type() == MessageType::MsgAppend {
                message.mut_entries().truncate(usize::from(to != self.asked));
                if self.counts {
                    message.commit = message.commit.max(counted);
                }
            }
        }
        wire::encode(envelope, &messages).pop().unwrap_or(frame)
    }

    /// Lets a replica win an election with the votes of these; what it sends then is lost.
    fn elect(&mut self, raft_id: u64, voters: &[u64]) {
        self.connect(raft_id, voters);
        for _ in 0..500 {
            self.step();
            if self.get(raft_id).leads() {
                self.sent.clear();
                return;
            }
        }
        panic!("{raft_id} is not elected");
    }

    fn steps(&mut self, count: u32) {
        (0..count).for_each(|_| self.step());
    }
}

/// Whether nothing is applied that the last leader does not have, and what it has is.
fn is_safe(counts: bool) -> bool {
    let mut five = Five::new(counts);
    five.elect(1, &[2, 3, 4, 5]);
    five.steps(10);
    let index = five.get(1).core.consensus().last_index() + 1;
    // (a) An entry of the first term reaches the second replica only.
    five.connect(1, &[2]);
    let command = Command::Set { key: "k".into(), value: "v".into() };
    let deadline = five.now + Duration::from_secs(60);
    five.get(1).core.propose(command.encode().unwrap(), deadline, ());
    five.steps(3);
    assert_eq!(five.get(2).core.consensus().last_index(), index);
    // (b) The fifth leads and has another entry there, alone.
    five.elect(5, &[3, 4]);
    assert_eq!(five.get(5).core.consensus().last_index(), index);
    // (c) The first leads again, and the entry comes to be on three: a quorum.
    five.elect(1, &[2, 3]);
    five.asked = 2;
    five.steps(12);
    five.asked = 0;
    assert!(five.get(3).core.consensus().last_index() >= index);
    let applied = |five: &Five| -> BTreeSet<u64> {
        five.replicas.iter().filter_map(|replica| replica.applied(index)).collect()
    };
    let before = applied(&five);
    // (d) The fifth leads again with the votes of those who have not seen what came after.
    five.elect(5, &[2, 4]);
    let leads = five.get(5).store.log().term(index).unwrap();
    five.steps(20);
    let lost = before.iter().any(|term| *term != leads);
    assert!(lost || applied(&five) == BTreeSet::from([leads]), "the last leader commits");
    !lost
}

#[test]
fn entries_of_earlier_terms_are_not_committed_by_counting() {
    assert!(is_safe(false));
    assert!(!is_safe(true), "a leader that counts is not caught");
}
