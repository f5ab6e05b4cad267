//! Members that change by request, and snapshots, over disks in memory.

use super::*;
use crate::ErrorCode;
use crate::consensus::membership::Membership;
use crate::replica::MemberChange;
use crate::wal::{Disk as _, OpenMode, Point};

pub(super) fn options() -> Options {
    Options { snapshot_entries: 10, snapshot_part_bytes: 64, ..Options::default() }
}

/// A cluster that takes snapshots, and its leader.
fn elected(voters: u64) -> (Cluster, u64) {
    let mut cluster = Cluster::new(voters, &options());
    cluster.pass(2 * SECOND);
    let leader = cluster.leader();
    (cluster, leader)
}

impl<M: Machine> ClusterOf<M> {
    /// Another replica with a new directory.
    pub(super) fn join(&mut self, voters: u64) -> u64 {
        let raft_id = self.nodes.len() as u64 + 1;
        let disk = MemoryDisk::new();
        let (shared, dir) = (Arc::new(disk.clone()), Path::new("/data"));
        let (node, members) = (name(raft_id), bootstrap(voters));
        let store = Store::create(shared, dir, wal_options(), node, raft_id, &members).unwrap();
        let mut node = open_with((self.machine)(), store, disk, options(), self.now);
        (1..raft_id).for_each(|other| node.core.admit(other));
        self.nodes.push(node);
        raft_id
    }

    pub(super) fn change(
        &mut self,
        raft_id: u64,
        change: MemberChange,
        ticket: u32,
    ) -> Option<Reply> {
        let deadline = self.now + 5 * SECOND;
        self.at(raft_id).core.change_member(change, deadline, ticket);
        self.pass(SECOND);
        self.answer(raft_id, ticket)
    }

    pub(super) fn write(&mut self, raft_id: u64, writes: u32, ticket: u32) {
        for number in 0..writes {
            self.propose(raft_id, &format!("value-{number}"), ticket + number);
            self.talk();
        }
    }
}

pub(super) fn done(reply: Option<Reply>) -> bool {
    matches!(reply, Some(Ok(_)))
}

/// The way of a new member: a learner that catches up by a snapshot, then a voter, and then it can
/// lead; each step is answered when it is done.
#[test]
fn new_member_catches_up_by_a_snapshot_votes_and_leads() {
    let (mut cluster, leader) = elected(3);
    cluster.write(leader, 50, 100);
    let new = cluster.join(3);
    let add = MemberChange::AddLearner { node: name(new), raft_id: new };
    assert!(done(cluster.change(leader, add.clone(), 1)));
    assert!(done(cluster.change(leader, add, 2)), "it is so already");
    cluster.pass(SECOND);
    assert_eq!(cluster.at(new).core.status().snapshots.installed, 1);
    let applied = cluster.at(leader).core.applied();
    assert_eq!(cluster.at(new).core.applied(), applied);

    let refused = cluster.change(leader, MemberChange::Transfer(name(new)), 3);
    assert_eq!(refused, Some(Err(ReplicaError::NotVoter { node: name(new) })));
    assert!(done(cluster.change(leader, MemberChange::Promote(name(new)), 4)));
    assert!(done(cluster.change(leader, MemberChange::Transfer(name(new)), 5)));
    assert_eq!(cluster.leader(), new);
    let states: Vec<_> = cluster.nodes.iter().map(|node| node.core.machine().clone()).collect();
    assert!(states.windows(2).all(|pair| pair[0] == pair[1]), "states differ");
}

/// Who lacks too much would make the quorum wait, and who is not there makes it wait for ever.
#[test]
fn learner_that_lags_is_not_promoted() {
    let (mut cluster, leader) = elected(3);
    let new = cluster.join(3);
    let add = MemberChange::AddLearner { node: name(new), raft_id: new };
    assert!(done(cluster.change(leader, add, 1)));
    cluster.cut_off = Some(new);
    cluster.pass(SECOND);
    let refused = cluster.change(leader, MemberChange::Promote(name(new)), 2);
    assert!(matches!(refused, Some(Err(ReplicaError::MemberLags { .. }))), "{refused:?}");
}

/// A leader that is to go hands over first: the request is for the next one, and no command that
/// comes in between is refused as if the cluster were full.
#[test]
fn leader_hands_over_before_it_is_removed_and_commands_wait() {
    let (mut cluster, leader) = elected(3);
    let deadline = cluster.now + 5 * SECOND;
    let remove = MemberChange::Remove(name(leader));
    cluster.at(leader).core.change_member(remove.clone(), deadline, 1);
    cluster.propose(leader, "meanwhile", 2);
    cluster.pass(SECOND);
    let unled = Some(Err(ReplicaError::NotLeader { leader: None }));
    assert_eq!(cluster.answer(leader, 1), unled);
    let meanwhile = cluster.answer(leader, 2).expect("it is answered");
    // Whoever asks another replica next gets it done; a full leader would be a reason to give up.
    let elsewhere = [ReplicaError::NotLeader { leader: None }.code(), ErrorCode::NoQuorum];
    let waited =
        meanwhile.as_ref().map_or_else(|error| elsewhere.contains(&error.code()), |_| true);
    assert!(waited, "{meanwhile:?}");
    let next = cluster.leader();
    assert_ne!(next, leader);
    assert!(done(cluster.change(next, remove, 3)));
    assert!(!cluster.at(next).core.consensus().membership().contains(leader));
}

/// With one of three silent, nobody who answers can be spared; the silent one can.
#[test]
fn member_that_is_needed_is_not_removed() {
    let (mut cluster, leader) = elected(3);
    let (silent, other) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    cluster.cut_off = Some(silent);
    cluster.pass(SECOND);
    let refused = cluster.change(leader, MemberChange::Remove(name(other)), 1);
    assert!(matches!(refused, Some(Err(ReplicaError::QuorumAtRisk { .. }))), "{refused:?}");
    assert!(done(cluster.change(leader, MemberChange::Remove(name(silent)), 2)));
    let (mut alone, only) = elected(1);
    let refused = alone.change(only, MemberChange::Remove(name(only)), 1);
    assert!(matches!(refused, Some(Err(ReplicaError::QuorumAtRisk { .. }))), "{refused:?}");
}

/// A leader that was cut off with a command in its log, and continues from a snapshot, cannot know
/// whether the command is in there: it must not say either.
#[test]
fn command_of_a_lost_leader_is_unknown_after_a_snapshot() {
    let (mut cluster, old) = elected(3);
    cluster.cut_off = Some(old);
    let deadline = cluster.now + 60 * SECOND;
    cluster.at(old).core.propose(set("lost"), deadline, 1);
    cluster.pass(2 * SECOND);
    let rest = cluster.nodes.iter().filter(|node| node.core.raft_id() != old);
    let new = rest.max_by_key(|node| node.core.status().term).unwrap().core.status().leader;
    let new = (1..=3).find(|raft_id| Some(name(*raft_id)) == new).unwrap();
    cluster.write(new, 50, 100);
    assert_eq!(cluster.answer(old, 1), None);
    cluster.cut_off = None;
    cluster.pass(2 * SECOND);
    assert_eq!(cluster.at(old).core.status().snapshots.installed, 1);
    let told = cluster.answer(old, 1).unwrap().unwrap_err();
    assert_eq!((told.clone(), told.effect()), (ReplicaError::QuorumFailed, Effect::Unknown));
    assert_eq!(cluster.at(old).core.status().waiting, Waiting::default());
}

/// The newest snapshot is damaged on disk: the one before and the log behind it give the same state.
#[test]
fn start_with_a_damaged_snapshot_comes_to_the_same_state() {
    let (mut cluster, leader) = elected(1);
    cluster.write(leader, 60, 100);
    let Node { core, mut store, disk, .. } = cluster.nodes.pop().unwrap();
    let (commit, before) = (core.consensus().commit(), core.machine().clone());
    let newest = core.status().snapshots.index.unwrap();
    store.store_commit(commit).unwrap();
    drop((core, store));
    let path = disk.list(Path::new("/data")).unwrap().into_iter().rev().find(|path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with(&format!("{newest:020}"))
    });
    let file = disk.open(&path.unwrap(), OpenMode::Existing).unwrap();
    file.write_at(&[0xFF; 8], 70).unwrap();
    let reopen = || {
        let disk = Arc::new(disk.clone());
        Store::open(disk, Path::new("/data"), wal_options()).map(Option::unwrap)
    };
    let store = reopen().unwrap();
    assert!(store.snapshot().unwrap().point.index < newest);
    let mut node = open(store, disk.clone(), options(), cluster.now);
    while node.core.applied() < commit {
        node.turn(cluster.now);
    }
    assert_eq!(node.core.machine(), &before);
    drop(node);

    for path in disk.list(Path::new("/data")).unwrap() {
        if path.extension().is_some_and(|extension| extension == "snapshot") {
            let file = disk.open(&path, OpenMode::Existing).unwrap();
            file.write_at(&[0xFF; 8], 70).unwrap();
        }
    }
    let error = reopen().unwrap_err().to_string();
    assert!(error.contains(".snapshot is corrupt at byte"), "{error}");
}

/// Two of three are gone for good. What the third has becomes another cluster, which the others, if
/// they come back, cannot talk to.
#[test]
fn recovered_directory_is_another_cluster_with_the_same_state() {
    let (mut cluster, leader) = elected(3);
    cluster.write(leader, 40, 100);
    cluster.pass(SECOND);
    let at = usize::try_from(leader).unwrap() - 1;
    let Node { core, store, disk, .. } = cluster.nodes.remove(at);
    let (before, old, last) = (core.machine().clone(), store.identity().cluster, core.applied());
    drop((core, store));
    let shared: Arc<dyn wal::Disk> = Arc::new(disk.clone());
    let recover = |to: &str| {
        let dirs = (Path::new("/data"), Path::new(to));
        crate::replica::recover(&shared, dirs, wal_options(), 77, KvMachine::new())
    };
    let recovered = recover("/new").unwrap();
    assert_eq!(recovered.index, last);
    assert_ne!(recovered.cluster, old);
    assert!(matches!(recover("/new"), Err(crate::replica::RecoverError::NotEmpty { .. })));

    let store = Store::open(Arc::clone(&shared), Path::new("/new"), wal_options());
    let mut node = open(store.unwrap().unwrap(), disk.clone(), options(), cluster.now);
    assert_eq!(node.core.machine(), &before);
    for _ in 0..40 {
        cluster.now = cluster.now + Duration::from_millis(50);
        node.turn(cluster.now);
    }
    assert_eq!(node.core.status().role, Role::Leader);
    let members: Vec<_> = node.core.consensus().membership().members().collect();
    assert_eq!(members, [Member { raft_id: 77, node: name(leader), voter: true }]);
    let mut refused = 0;
    for other in &mut cluster.nodes {
        let from = other.core.raft_id();
        node.core.admit(from);
        (0..40).for_each(|tick| other.turn(cluster.now + Duration::from_millis(50) * tick));
        for (_, frame) in other.frames.drain(..) {
            assert!(node.core.handle_frame(from, &frame).is_err(), "the old cluster is heard");
            refused += 1;
        }
    }
    assert!(refused > 0, "they said nothing");
}

/// The power may fail after a received snapshot got its name and before the log was told: the start
/// completes what was begun, with a term that is not behind it.
#[test]
fn start_after_a_half_done_installation_completes_it() {
    let (mut cluster, leader) = elected(1);
    cluster.write(leader, 5, 100);
    let Node { core, store, disk, .. } = cluster.nodes.pop().unwrap();
    let (point, members) = (Point { index: 500, term: 9 }, Membership::new(&bootstrap(1)));
    let image = core.machine().snapshot();
    store.files().write(point, members, image).unwrap();
    drop((core, store));
    let store = Store::open(Arc::new(disk.clone()), Path::new("/data"), wal_options());
    let store = store.unwrap().unwrap();
    let hard_state = store.hard_state();
    assert_eq!((hard_state.term, hard_state.vote, hard_state.commit), (9, 0, 500));
    let node = open(store, disk, options(), cluster.now);
    assert_eq!((node.core.applied(), node.core.consensus().last_index()), (500, 500));
}

/// A snapshot that cannot be written costs nothing but itself: the log keeps what it has, and the
/// next attempt comes later.
#[test]
fn failed_snapshot_is_tried_again_and_nothing_is_forgotten() {
    let (mut cluster, leader) = elected(1);
    let node = cluster.at(leader);
    node.broken_jobs = true;
    let first = node.store.log().first_index();
    cluster.write(leader, 40, 100);
    let node = cluster.at(leader);
    assert_eq!((node.core.status().snapshots.taken, node.core.status().snapshots.failed), (0, 1));
    assert_eq!(node.store.log().first_index(), first);
    node.broken_jobs = false;
    cluster.pass(6 * SECOND);
    assert_eq!(cluster.at(leader).core.status().snapshots.taken, 1);
}

/// A directory that was removed never votes again: what it had confirmed may be gone with it. A node
/// that comes back with a new one may still be announced by the old one, and counting that as a
/// voter, which nobody runs any more, could take the quorum from the others for good.
#[test]
fn removed_raft_id_is_not_added_again() {
    let (mut cluster, leader) = elected(3);
    let new = cluster.join(3);
    let add = MemberChange::AddLearner { node: name(new), raft_id: new };
    assert!(done(cluster.change(leader, add.clone(), 1)));
    assert!(done(cluster.change(leader, MemberChange::Promote(name(new)), 2)));
    assert!(done(cluster.change(leader, MemberChange::Remove(name(new)), 3)));
    let refused = cluster.change(leader, add, 4);
    assert_eq!(refused, Some(Err(ReplicaError::MemberUnknown { node: name(new) })));
}
