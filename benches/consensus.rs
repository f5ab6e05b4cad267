//! What consensus costs in processor time: codec, and a whole group without network and disk.
//!
//! Not measured: sockets, syncs, threads. Replicas are real cores over disks in memory.

use std::time::Duration;

use bytes::Bytes;
use zmesh::kv::{Command, KvMachine};
use zmesh::replica::{Core, Store, settle};
use zmesh::{Time, wal};

#[path = "../tests/replica/fresh.rs"]
mod fresh;

fn main() {
    divan::main();
}

struct Group {
    nodes: Vec<(Core<KvMachine, usize>, Store)>,
    now: Time,
    done: usize,
}

impl Group {
    /// Three replicas with a leader, which is the first number.
    fn elected() -> (usize, Self) {
        let bootstrap = fresh::members(3);
        let options = wal::Options { reserve_bytes: 0, ..wal::Options::default() };
        let start =
            |raft_id| fresh::replica(raft_id, &bootstrap, KvMachine::new(), options, Time::ZERO);
        let nodes = (1..=3).map(start).collect();
        let mut group = Self { nodes, now: Time::ZERO, done: 0 };
        loop {
            group.now = group.now + Duration::from_millis(50);
            group.talk();
            let leads = |(core, _): &(Core<_, _>, _)| core.consensus().leader().is_some();
            if group.nodes.iter().all(leads) {
                let leader = group.nodes[0].0.consensus().leader();
                let at = group.nodes.iter().position(|(core, _)| Some(core.raft_id()) == leader);
                return (at.expect("a member leads"), group);
            }
        }
    }

    fn talk(&mut self) {
        loop {
            let mut frames = Vec::new();
            for (core, store) in &mut self.nodes {
                core.turn(self.now);
                let from = core.raft_id();
                let send = |to, frame| frames.push((from, to, frame));
                self.done += settle(core, store, &mut None, send).len();
            }
            if frames.is_empty() {
                return;
            }
            for (from, to, frame) in frames {
                let to = usize::try_from(to).expect("small ids") - 1;
                self.nodes[to].0.handle_frame(from, &frame).expect("an honest frame");
            }
        }
    }
}

/// Commits this many writes of 128 bytes together on three replicas in one thread, with their logs
/// encoded and checksummed.
#[divan::bench(args = [1, 64, 256])]
fn commit(bencher: divan::Bencher<'_, '_>, writes: usize) {
    let (leader, mut group) = Group::elected();
    let value = Bytes::from(vec![7; 128]);
    let command = Command::Set { key: Bytes::from_static(b"key"), value };
    let command = command.encode().expect("within the limits");
    let deadline = Time::from_start(Duration::from_secs(3_600));
    bencher.counter(divan::counter::ItemsCount::new(writes)).bench_local(|| {
        let before = group.done;
        for ticket in 0..writes {
            group.nodes[leader].0.propose(command.clone(), deadline, ticket);
        }
        group.talk();
        assert_eq!(group.done, before + writes);
    });
}
