//! Replicas that have just begun, on disks in memory: what tests of consensus begin with.

use std::path::Path;
use std::sync::Arc;

use zmesh::consensus::membership::{Bootstrap, Member};
use zmesh::replica::{Core, Machine, Options, Setup, Store};
use zmesh::wal::{self, MemoryDisk};
use zmesh::{Incarnation, Time};

/// The first members of a cluster, `n1` and so on, whose raft ids are their numbers.
pub(crate) fn members(count: u64) -> Bootstrap {
    let member = |raft_id: u64| Member {
        raft_id,
        node: format!("n{raft_id}").parse().expect("a name"),
        voter: true,
    };
    Bootstrap::new((1..=count).map(member).collect()).expect("members")
}

/// One of them, and where it keeps what it must.
pub(crate) fn replica<M: Machine, T>(
    raft_id: u64,
    bootstrap: &Bootstrap,
    machine: M,
    options: wal::Options,
    now: Time,
) -> (Core<M, T>, Store) {
    let disk = Arc::new(MemoryDisk::new());
    let node = format!("n{raft_id}").parse().expect("a name");
    let store = Store::create(disk, Path::new("/data"), options, node, raft_id, bootstrap);
    let store = store.expect("a disk in memory");
    let core = Core::new(Setup {
        raft_id,
        incarnation: Incarnation(raft_id),
        bootstrap: bootstrap.clone(),
        snapshot: None,
        older_snapshots: Vec::new(),
        hard_state: store.hard_state(),
        log: store.log(),
        machine,
        options: Options::default(),
        rng: fastrand::Rng::with_seed(raft_id),
        now,
    });
    (core.expect("a new log"), store)
}

/// Small files, of which tests make many.
#[allow(dead_code, reason = "a benchmark has files of the usual size")]
pub(crate) const SMALL: wal::Options =
    wal::Options { segment_bytes: 1 << 16, reserve_bytes: 0, window_bytes_max: 1 << 12 };
