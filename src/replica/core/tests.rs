//! Replicas with real stores over disks in memory: what is answered, when, and with what effect.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::consensus::membership::Member;
use crate::kv::{Command, KvMachine, Query, Response};
use crate::replica::{Store, settle};
use crate::wal::{Fault, MemoryDisk, Operation as DiskOperation};
use crate::{Effect, Incarnation};

const SECOND: Duration = Duration::from_secs(1);

struct NodeOf<M> {
    core: Core<M, u32>,
    store: Store,
    disk: MemoryDisk,
    unwritten: Option<Persist>,
    frames: Vec<(u64, Bytes)>,
    done: BTreeMap<u32, Reply>,
    /// Whether the disk fails whatever is done for snapshots.
    broken_jobs: bool,
}

type Node = NodeOf<KvMachine>;

/// Replicas 1 to n that hear each other at once, unless one is cut off.
struct ClusterOf<M> {
    nodes: Vec<NodeOf<M>>,
    /// What a new replica runs.
    machine: fn() -> M,
    now: Time,
    cut_off: Option<u64>,
    /// Replicas that do not run.
    down: Vec<u64>,
    /// The most bytes that one replica sent in one turn.
    turn_bytes_max: usize,
}

type Cluster = ClusterOf<KvMachine>;

fn bootstrap(voters: u64) -> Bootstrap {
    let member = |raft_id| Member { raft_id, node: name(raft_id), voter: true };
    Bootstrap::new((1..=voters).map(member).collect()).unwrap()
}

fn name(raft_id: u64) -> NodeId {
    format!("node-{raft_id}").parse().unwrap()
}

fn wal_options() -> wal::Options {
    wal::Options { segment_bytes: 1 << 20, reserve_bytes: 0, ..wal::Options::default() }
}

#[path = "tests/changes.rs"]
mod changes;
#[path = "tests/floors.rs"]
mod floors;
#[path = "../../../tests/replica/journal.rs"]
mod journal;
#[path = "tests/levels.rs"]
mod levels;
#[path = "tests/past.rs"]
mod past;
#[path = "tests/unsynced.rs"]
mod unsynced;

fn open(store: Store, disk: MemoryDisk, options: Options, now: Time) -> Node {
    open_with(KvMachine::new(), store, disk, options, now)
}

fn open_with<M: Machine>(
    mut machine: M,
    store: Store,
    disk: MemoryDisk,
    options: Options,
    now: Time,
) -> NodeOf<M> {
    let raft_id = store.identity().raft_id;
    store.restore(&mut machine).unwrap();
    let core = Core::new(Setup {
        raft_id,
        incarnation: Incarnation(now.since_start().as_secs() + 1),
        bootstrap: store.bootstrap().clone(),
        snapshot: store.snapshot().cloned(),
        older_snapshots: store.older_snapshots().to_vec(),
        hard_state: store.hard_state(),
        log: store.log(),
        machine,
        options,
        rng: fastrand::Rng::with_seed(raft_id),
        now,
    });
    let core = core.unwrap();
    let (frames, done) = (Vec::new(), BTreeMap::new());
    NodeOf { core, store, disk, unwritten: None, frames, done, broken_jobs: false }
}

impl<M: Machine> NodeOf<M> {
    fn turn(&mut self, now: Time) {
        self.core.turn(now);
        let frames = &mut self.frames;
        let send = |to, frame| frames.push((to, frame));
        for done in settle(&mut self.core, &mut self.store, &mut self.unwritten, send) {
            assert!(self.done.insert(done.ticket, done.result).is_none(), "answered twice");
        }
        while let Some(job) = self.core.take_job() {
            if self.broken_jobs {
                self.disk.fail(DiskOperation::Write, 0, Fault::Broken);
            }
            let done = job.run(self.store.files());
            self.disk.heal();
            self.core.job_done(done);
        }
    }
}

impl Cluster {
    fn new(voters: u64, options: &Options) -> Self {
        Self::of(KvMachine::new, voters, options)
    }

    fn elected(voters: u64) -> (Self, u64) {
        let mut cluster = Self::new(voters, &Options::default());
        cluster.pass(2 * SECOND);
        let leader = cluster.leader();
        (cluster, leader)
    }
}

impl<M: Machine> ClusterOf<M> {
    fn of(machine: fn() -> M, voters: u64, options: &Options) -> Self {
        let node = |raft_id| {
            let disk = MemoryDisk::new();
            let (shared, dir) = (Arc::new(disk.clone()), Path::new("/data"));
            let members = bootstrap(voters);
            let store = Store::create(shared, dir, wal_options(), name(raft_id), raft_id, &members);
            open_with(machine(), store.unwrap(), disk, options.clone(), Time::ZERO)
        };
        Self {
            nodes: (1..=voters).map(node).collect(),
            machine,
            now: Time::ZERO,
            cut_off: None,
            down: Vec::new(),
            turn_bytes_max: 0,
        }
    }

    fn at(&mut self, raft_id: u64) -> &mut NodeOf<M> {
        &mut self.nodes[usize::try_from(raft_id).unwrap() - 1]
    }

    fn talk(&mut self) {
        loop {
            let mut frames = Vec::new();
            let down = &self.down;
            for node in &mut self.nodes {
                if down.contains(&node.core.raft_id()) {
                    continue;
                }
                node.turn(self.now);
                let from = node.core.raft_id();
                let bytes = node.frames.iter().map(|(_, frame)| frame.len()).sum();
                self.turn_bytes_max = self.turn_bytes_max.max(bytes);
                frames.extend(node.frames.drain(..).map(|frame| (from, frame)));
            }
            frames.retain(|(from, (to, _))| ![Some(*from), Some(*to)].contains(&self.cut_off));
            frames.retain(|(_, (to, _))| !self.down.contains(to));
            if frames.is_empty() {
                return;
            }
            for (from, (to, frame)) in frames {
                let taken = self.at(to).core.handle_frame(from, &frame);
                // A member that was removed does not know it yet.
                let honest = matches!(taken, Ok(()) | Err(Refusal::NotMember { .. }));
                assert!(honest, "{taken:?}");
            }
        }
    }

    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            self.now = self.now + Duration::from_millis(50);
            self.talk();
        }
    }

    fn leader(&self) -> u64 {
        let cores = self.nodes.iter().map(|node| &node.core);
        let leaders = cores.filter(|core| core.status().role == Role::Leader);
        leaders.max_by_key(|core| core.status().term).expect("somebody leads").raft_id()
    }

    fn propose(&mut self, raft_id: u64, value: &str, ticket: u32) {
        let deadline = self.now + 5 * SECOND;
        self.at(raft_id).core.propose(set(value), deadline, ticket);
    }

    fn read(&mut self, raft_id: u64, ticket: u32) {
        let deadline = self.now + 5 * SECOND;
        let query = Query::Get { key: Bytes::from_static(b"key") }.encode().unwrap();
        self.at(raft_id).core.read(query, deadline, ticket);
    }

    fn answer(&mut self, raft_id: u64, ticket: u32) -> Option<Reply> {
        self.at(raft_id).done.get(&ticket).cloned()
    }
}

fn set(value: &str) -> Bytes {
    let value = Bytes::from(value.to_owned());
    Command::Set { key: Bytes::from_static(b"key"), value }.encode().unwrap()
}

fn value(reply: &Reply) -> Response {
    Response::decode(&reply.as_ref().unwrap().response).unwrap()
}

/// The way of a write and a read through a healthy cluster.
#[test]
fn write_is_answered_with_its_index_and_read_sees_it() {
    let (mut cluster, leader) = Cluster::elected(3);
    cluster.propose(leader, "one", 1);
    cluster.talk();
    let applied = cluster.answer(leader, 1).unwrap().unwrap();
    assert_eq!(applied.term, cluster.at(leader).core.status().term);
    let done = Response::Done { revision: applied.index };
    assert_eq!(Response::decode(&applied.response), Ok(done));
    cluster.read(leader, 2);
    cluster.talk();
    let read = cluster.answer(leader, 2).unwrap();
    let expected = Response::Value { revision: applied.index, value: Bytes::from_static(b"one") };
    assert_eq!(value(&read), expected);
    cluster.pass(SECOND);
    let (index, _) = cluster.at(leader % 3 + 1).core.read_stale(&Bytes::new());
    assert_eq!(index, applied.index, "followers learn the commit without further writes");
}

/// Another node can be asked at once, since nothing was proposed.
#[test]
fn follower_names_the_leader() {
    let (mut cluster, leader) = Cluster::elected(3);
    let follower = leader % 3 + 1;
    cluster.propose(follower, "one", 1);
    cluster.read(follower, 2);
    cluster.talk();
    let expected = Err(ReplicaError::NotLeader { leader: Some(name(leader)) });
    assert_eq!(cluster.answer(follower, 1), Some(expected.clone()));
    assert_eq!(cluster.answer(follower, 2), Some(expected));
}

/// Before any election nobody can be named.
#[test]
fn without_a_leader_nothing_is_proposed() {
    let mut cluster = Cluster::new(3, &Options::default());
    cluster.propose(1, "one", 1);
    cluster.talk();
    let error = cluster.answer(1, 1).unwrap().unwrap_err();
    assert_eq!((error.clone(), error.effect()), (ReplicaError::NoQuorum, Effect::None));
}

/// A write that nobody confirmed may yet happen; a read has no effect either way.
#[test]
fn deadline_passes_without_a_quorum() {
    let (mut cluster, leader) = Cluster::elected(3);
    cluster.cut_off = Some(leader);
    let deadline = cluster.now + Duration::from_millis(150);
    cluster.at(leader).core.propose(set("one"), deadline, 1);
    cluster.at(leader).core.read(Bytes::from_static(b"\x01key"), deadline, 2);
    cluster.pass(Duration::from_millis(100));
    assert_eq!(cluster.answer(leader, 1), None, "answered before its deadline");
    cluster.pass(Duration::from_millis(100));
    let error = cluster.answer(leader, 1).unwrap().unwrap_err();
    assert_eq!((error.clone(), error.effect()), (ReplicaError::QuorumFailed, Effect::Unknown));
    assert_eq!(cluster.answer(leader, 2), Some(Err(ReplicaError::NoQuorum)));
    assert_eq!(cluster.at(leader).core.status().waiting, Waiting::default());
}

/// A leader that was deposed finds another entry where its own was: that one never happened.
#[test]
fn replaced_proposal_is_known_to_have_had_no_effect() {
    let (mut cluster, old) = Cluster::elected(3);
    cluster.cut_off = Some(old);
    cluster.propose(old, "lost", 1);
    cluster.read(old, 2);
    cluster.pass(2 * SECOND);
    assert_eq!(cluster.answer(old, 1), None, "it may still be committed");
    assert_eq!(cluster.answer(old, 2), Some(Err(ReplicaError::NoQuorum)), "the office is lost");
    let new = cluster.leader();
    cluster.propose(new, "kept", 3);
    cluster.cut_off = None;
    cluster.pass(SECOND);
    let error = cluster.answer(old, 1).unwrap().unwrap_err();
    assert_eq!(error, ReplicaError::NotLeader { leader: Some(name(new)) });
    assert_eq!(error.effect(), Effect::None);
    assert!(cluster.answer(new, 3).unwrap().is_ok());
}

/// A leader that lost its office after its entry had spread learns that it was committed.
#[test]
fn proposal_that_outlives_its_leader_is_answered() {
    let (mut cluster, old) = Cluster::elected(3);
    let term = cluster.at(old).core.status().term;
    cluster.propose(old, "kept", 1);
    let now = cluster.now;
    cluster.at(old).turn(now);
    for (to, frame) in std::mem::take(&mut cluster.at(old).frames) {
        cluster.at(to).core.handle_frame(old, &frame).unwrap();
    }
    cluster.cut_off = Some(old);
    cluster.pass(2 * SECOND);
    assert_ne!(cluster.leader(), old);
    cluster.cut_off = None;
    cluster.pass(SECOND);
    let applied = cluster.answer(old, 1).unwrap().unwrap();
    assert_eq!(applied.term, term, "the entry is still that of its term");
}

/// Every limit refuses before anything is proposed.
#[test]
fn limits_refuse_without_effect() {
    let options = Options { proposals_max: 2, command_bytes_max: 100, ..Options::default() };
    let mut cluster = Cluster::new(1, &options);
    cluster.pass(2 * SECOND);
    cluster.at(1).core.propose(Bytes::new(), cluster_deadline(), 1);
    cluster.at(1).core.propose(vec![0; 101].into(), cluster_deadline(), 2);
    for ticket in 3..6 {
        cluster.propose(1, "x", ticket);
    }
    cluster.talk();
    assert_eq!(cluster.answer(1, 1), Some(Err(ReplicaError::CommandEmpty)));
    let too_large = ReplicaError::CommandTooLarge { bytes: 101, bytes_max: 100 };
    assert_eq!(cluster.answer(1, 2), Some(Err(too_large)));
    assert!(cluster.answer(1, 3).unwrap().is_ok() && cluster.answer(1, 4).unwrap().is_ok());
    assert_eq!(cluster.answer(1, 5), Some(Err(ReplicaError::ProposalsFull)));
    cluster.at(1).core.set_room(false);
    cluster.propose(1, "x", 6);
    cluster.talk();
    assert_eq!(cluster.answer(1, 6), Some(Err(ReplicaError::NoSpace)));
}

fn cluster_deadline() -> Time {
    Time::from_start(60 * SECOND)
}

/// Everything that was acknowledged is there again after the power fails everywhere.
#[test]
fn restart_replays_what_was_committed() {
    let (mut cluster, leader) = Cluster::elected(3);
    for ticket in 0..20 {
        cluster.propose(leader, &format!("value-{ticket}"), ticket);
        cluster.talk();
    }
    let before = cluster.at(leader).core.machine().clone();
    let now = cluster.now;
    cluster.nodes = std::mem::take(&mut cluster.nodes)
        .into_iter()
        .map(|node| {
            let disk = node.disk.clone();
            drop(node);
            disk.crash(&mut fastrand::Rng::with_seed(1), wal::Keep::Nothing);
            let shared = Arc::new(disk.clone());
            let store = Store::open(shared, Path::new("/data"), wal_options()).unwrap().unwrap();
            open(store, disk, Options::default(), now)
        })
        .collect();
    cluster.pass(2 * SECOND);
    for node in &cluster.nodes {
        assert_eq!(node.core.machine(), &before);
    }
}

/// After a failed sync nobody knows what is on the disk, so nothing may be promised any more.
#[test]
fn failed_sync_is_final() {
    let (mut cluster, leader) = Cluster::elected(3);
    cluster.at(leader).disk.fail(DiskOperation::Sync, 0, Fault::Broken);
    cluster.propose(leader, "one", 1);
    cluster.read(leader, 2);
    let now = cluster.now;
    cluster.at(leader).turn(now);
    for ticket in [1, 2] {
        let error = cluster.answer(leader, ticket).unwrap().unwrap_err();
        assert!(matches!(error, ReplicaError::Io { .. }), "{error}");
        assert_eq!(error.effect(), Effect::Unknown);
    }
    cluster.at(leader).frames.clear();
    cluster.propose(leader, "two", 3);
    cluster.talk();
    assert!(matches!(cluster.answer(leader, 3), Some(Err(ReplicaError::Io { .. }))));
    assert!(cluster.at(leader).core.poll_timeout().is_none());
    assert!(cluster.at(leader).core.status().failure.is_some());
    cluster.pass(2 * SECOND);
    let cores = cluster.nodes.iter().map(|node| node.core.status());
    let leads = |status: &Status| status.role == Role::Leader && status.failure.is_none();
    assert_eq!(cores.filter(leads).count(), 1, "the others go on");
}

/// A write that failed was not done: nothing that waits for it may be answered or sent, not even in
/// the same turn.
#[test]
fn failed_write_is_not_answered_as_done() {
    let (mut cluster, only) = Cluster::elected(1);
    cluster.at(only).disk.fail(DiskOperation::Sync, 0, Fault::Broken);
    cluster.propose(only, "one", 1);
    cluster.talk();
    assert!(matches!(cluster.answer(only, 1), Some(Err(ReplicaError::Io { .. }))));

    let (mut cluster, leader) = Cluster::elected(3);
    let follower = leader % 3 + 1;
    cluster.at(follower).disk.fail(DiskOperation::Sync, 0, Fault::Broken);
    cluster.propose(leader, "one", 1);
    let now = cluster.now;
    cluster.at(leader).turn(now);
    for (to, frame) in std::mem::take(&mut cluster.at(leader).frames) {
        cluster.at(to).core.handle_frame(leader, &frame).unwrap();
    }
    cluster.at(follower).turn(now);
    assert!(cluster.at(follower).frames.is_empty(), "acknowledged what is not on its disk");
}

/// The quorum may be faster than the leader's own disk. A read then waits until the leader has
/// applied what was acknowledged elsewhere.
#[test]
fn confirmed_read_waits_until_its_index_is_applied() {
    let (mut cluster, leader) = Cluster::elected(3);
    let now = cluster.now;
    cluster.propose(leader, "one", 1);
    cluster.at(leader).core.turn(now);
    let mut done = Vec::new();
    for round in 0..4 {
        for (to, frame) in cluster.at(leader).core.take_frames() {
            let follower = cluster.at(to);
            follower.core.handle_frame(leader, &frame).unwrap();
            follower.turn(now);
            for (_, answer) in std::mem::take(&mut follower.frames) {
                cluster.at(leader).core.handle_frame(to, &answer).unwrap();
            }
        }
        if round == 1 {
            cluster.read(leader, 2);
        }
        cluster.at(leader).core.turn(now);
        done.extend(cluster.at(leader).core.take_done());
    }
    let status = cluster.at(leader).core.status();
    assert!(status.commit > status.applied, "the quorum is not ahead of the disk: {status:?}");
    assert_eq!(done, [], "answered before it was applied");
    cluster.talk();
    let read = cluster.answer(leader, 2).unwrap();
    assert!(matches!(value(&read), Response::Value { value, .. } if value == "one"), "{read:?}");
}

/// A follower that was away catches up while the others go on, and the status shows it.
#[test]
fn follower_that_was_away_is_repaired_and_reported() {
    let (mut cluster, leader) = Cluster::elected(3);
    let away = leader % 3 + 1;
    cluster.cut_off = Some(away);
    for ticket in 0..40 {
        cluster.propose(leader, "x", ticket);
        cluster.talk();
        assert!(cluster.answer(leader, ticket).unwrap().is_ok(), "the quorum waits for nobody");
    }
    cluster.pass(3 * SECOND);
    let status = cluster.at(leader).core.status();
    let lag = status.followers.iter().find(|follower| follower.raft_id == away).unwrap().lag;
    assert!(lag >= 40, "{status:?}");
    assert_eq!(status.repair.behind, 1);
    cluster.cut_off = None;
    cluster.pass(3 * SECOND);
    let status = cluster.at(leader).core.status();
    assert!(status.followers.iter().all(|follower| follower.lag == 0), "{status:?}");
    assert_eq!(status.repair.behind, 0);
    assert!(status.repair.entries >= 40, "{status:?}");
}

/// A follower that lacks a lot is sent it in portions: reading all of it at once would keep the
/// leader from its heartbeats, and cost it memory for everything that no follower has room for yet.
#[test]
fn follower_that_lacks_much_gets_it_in_portions() {
    let (mut cluster, leader) = Cluster::elected(3);
    let away = leader % 3 + 1;
    cluster.cut_off = Some(away);
    let value = "x".repeat(512 * 1024);
    for ticket in 0..120 {
        cluster.propose(leader, &value, ticket);
        cluster.talk();
    }
    cluster.cut_off = None;
    cluster.turn_bytes_max = 0;
    cluster.pass(3 * SECOND);
    let lag = |status: Status| status.followers.iter().map(|follower| follower.lag).max();
    assert_eq!(lag(cluster.at(leader).core.status()), Some(0));
    let bytes = cluster.turn_bytes_max;
    assert!(bytes < 20 << 20, "{bytes} bytes in one turn");
}

/// A pause of the leader must not let it answer from what it knew before.
#[test]
fn read_round_from_before_a_pause_is_asked_again() {
    let (mut cluster, leader) = Cluster::elected(3);
    cluster.read(leader, 1);
    let now = cluster.now;
    cluster.at(leader).turn(now);
    let frames = std::mem::take(&mut cluster.at(leader).frames);
    let mut answers = Vec::new();
    for (to, frame) in frames {
        let follower = cluster.at(to);
        follower.core.handle_frame(leader, &frame).unwrap();
        follower.turn(now);
        answers.extend(follower.frames.drain(..).map(|(_, frame)| (to, frame)));
    }
    // The process stops here, with the answers in its sockets, for longer than an election takes.
    cluster.now = now + SECOND;
    let later = cluster.now;
    cluster.at(leader).turn(later);
    for (from, frame) in answers {
        cluster.at(leader).core.handle_frame(from, &frame).unwrap();
    }
    cluster.cut_off = Some(leader);
    cluster.pass(Duration::from_millis(100));
    assert!(cluster.answer(leader, 1).is_none_or(|reply| reply.is_err()), "answered from the past");
}

/// Proposes values of 16 KiB, one a turn, until one is refused; returns its ticket and its error.
fn write_until_refused(cluster: &mut Cluster, leader: u64) -> (u32, ReplicaError) {
    for ticket in 0..400 {
        cluster.propose(leader, &"x".repeat(16 * 1024), ticket);
        cluster.pass(Duration::from_millis(100));
        if let Some(Err(error)) = cluster.answer(leader, ticket) {
            return (ticket, error);
        }
    }
    panic!("the disk was never full");
}

/// What a full disk did not take must not stand between a leader and its reads.
#[test]
fn full_disk_of_a_leader_refuses_writes_and_goes_on_reading() {
    let (mut cluster, leader) = Cluster::elected(3);
    cluster.at(leader).disk.set_capacity(Some(0));
    let (refused, error) = write_until_refused(&mut cluster, leader);
    assert_eq!(error, ReplicaError::NoSpace);
    for ticket in 0..refused {
        assert!(matches!(cluster.answer(leader, ticket), Some(Ok(_))), "ticket {ticket}");
    }
    cluster.read(leader, 1_000);
    cluster.pass(SECOND);
    assert!(matches!(cluster.answer(leader, 1_000), Some(Ok(_))), "no read on a full disk");
    assert_eq!(cluster.leader(), leader);

    cluster.at(leader).disk.set_capacity(None);
    cluster.pass(SECOND);
    cluster.propose(leader, "there is room again", 1_001);
    cluster.pass(SECOND);
    assert!(matches!(cluster.answer(leader, 1_001), Some(Ok(_))), "room was not found again");
}

/// A follower whose disk is full must still help to elect a leader when the old one is lost, and
/// catch up when there is room.
#[test]
fn full_disk_of_a_follower_goes_on_voting() {
    let (mut cluster, leader) = Cluster::elected(3);
    let full = leader % 3 + 1;
    cluster.at(full).disk.set_capacity(Some(0));
    for ticket in 0..100 {
        cluster.propose(leader, &"x".repeat(16 * 1024), ticket);
        cluster.pass(Duration::from_millis(50));
        assert!(matches!(cluster.answer(leader, ticket), Some(Ok(_))), "a quorum has room");
    }
    assert!(!cluster.at(full).store.has_room(), "the disk is not full");
    cluster.cut_off = Some(leader);
    cluster.pass(5 * SECOND);
    let heir = cluster.leader();
    assert!(![leader, full].contains(&heir), "{heir} leads; {full} gave no vote");

    cluster.at(full).disk.set_capacity(None);
    cluster.propose(heir, "there is room again", 1_001);
    cluster.pass(3 * SECOND);
    assert!(matches!(cluster.answer(heir, 1_001), Some(Ok(_))), "it did not catch up");
}

/// A replica that starts with a long log must not keep its node from everything else until it has
/// applied the last entry.
#[test]
fn long_log_is_applied_in_steps() {
    let mut cluster = Cluster::new(1, &Options::default());
    cluster.pass(2 * SECOND);
    for ticket in 0..60_000 {
        cluster.propose(1, "x", ticket);
        if ticket % 1_000 == 999 {
            cluster.talk();
        }
    }
    let Node { core, mut store, disk, .. } = cluster.nodes.pop().unwrap();
    let (commit, before) = (core.consensus().commit(), core.machine().clone());
    store.store_commit(commit).unwrap();
    drop((core, store));
    let store = Store::open(Arc::new(disk.clone()), Path::new("/data"), wal_options());
    let mut node = open(store.unwrap().unwrap(), disk, Options::default(), cluster.now);
    while node.core.applied() < commit {
        let applied = node.core.applied();
        node.turn(cluster.now);
        let step = node.core.applied() - applied;
        assert!((1..50_000).contains(&step), "{step} entries in one turn");
        let more = node.core.poll_timeout().is_some_and(|due| due <= cluster.now);
        assert_eq!(more, node.core.has_more());
        assert!(more || node.core.applied() == commit, "it would sleep over committed entries");
    }
    assert_eq!(node.core.machine(), &before);
}
