//! Machines that refer to the log: what is kept for them, and how a new replica comes by it.

use std::path::PathBuf;

use super::changes::{done, options};
use super::journal::{CLEAR, Journal};
use super::*;
use crate::replica::{JobDone, MemberChange};
use crate::wal::{Disk as _, OpenMode};

const RETAINED: usize = 40;

type Journals = ClusterOf<Journal>;

fn elected(voters: u64) -> (Journals, u64) {
    let mut cluster = Journals::of(|| Journal::new(RETAINED), voters, &options());
    cluster.pass(2 * SECOND);
    let leader = cluster.leader();
    (cluster, leader)
}

impl Journals {
    /// How many messages a replica can read, which must be all that it refers to.
    fn readable(&mut self, raft_id: u64) -> Result<usize, String> {
        let core = &self.at(raft_id).core;
        core.machine().read(&core.past())
    }

    fn first_index(&mut self, raft_id: u64) -> u64 {
        self.at(raft_id).store.log().first_index()
    }

    fn floor(&mut self, raft_id: u64) -> u64 {
        self.at(raft_id).core.machine().floor().unwrap()
    }

    fn add(&mut self, leader: u64, voters: u64) -> u64 {
        let new = self.join(voters);
        let add = MemberChange::AddLearner { node: name(new), raft_id: new };
        assert!(done(self.change(leader, add, u32::try_from(new).unwrap())));
        self.pass(2 * SECOND);
        new
    }

    fn snapshots(&mut self, raft_id: u64) -> Vec<PathBuf> {
        let files = self.at(raft_id).disk.list(Path::new("/data")).unwrap();
        files
            .into_iter()
            .filter(|path| path.extension().is_some_and(|it| it == "snapshot"))
            .collect()
    }
}

/// The log is kept for what is retained, however many snapshots there are since, and no longer.
#[test]
fn log_is_kept_from_the_floor_on_and_no_longer() {
    let (mut cluster, leader) = elected(1);
    cluster.write(leader, 300, 100);
    let (first, floor) = (cluster.first_index(leader), cluster.floor(leader));
    assert!(first <= floor, "the log begins with {first}, and {floor} is retained");
    assert!(floor - first < 30, "{first} is not needed when {floor} is the oldest");
    assert_eq!(cluster.readable(leader), Ok(RETAINED));
    let before = cluster.snapshots(leader).len();
    let deadline = cluster.now + 5 * SECOND;
    cluster.at(leader).core.propose(Bytes::from_static(CLEAR), deadline, 1);
    cluster.pass(SECOND);
    let (first, last) = (cluster.first_index(leader), cluster.at(leader).core.applied());
    assert!(last - first < 30, "with nothing retained, space comes back without another snapshot");
    assert!(before > 2 && cluster.snapshots(leader).len() == 2, "{before} before");
}

/// A new replica begins with an old snapshot, so that the log behind it has all that is retained; it
/// is in none of the snapshots that it could be offered. It votes, leads, and the old ones go.
#[test]
fn new_member_has_everything_that_is_retained_when_it_has_caught_up() {
    let (mut cluster, leader) = elected(3);
    cluster.write(leader, 100, 100);
    let new = cluster.add(leader, 3);
    let installed = cluster.at(new).core.status().snapshots.installed;
    assert_eq!(installed, 1, "the log was whole, so this shows nothing");
    assert_eq!(cluster.readable(new), Ok(RETAINED));
    let expected = cluster.at(leader).core.machine().clone();
    assert_eq!(cluster.at(new).core.machine(), &expected);
    assert!(done(cluster.change(leader, MemberChange::Promote(name(new)), 10)));
    assert!(done(cluster.change(leader, MemberChange::Transfer(name(new)), 11)));
    assert_eq!(cluster.leader(), new);
    for (ticket, old) in (20..).zip((1..=3).filter(|old| *old != leader)) {
        assert!(done(cluster.change(new, MemberChange::Remove(name(old)), ticket)));
    }
    cluster.write(new, 20, 500);
    cluster.pass(SECOND);
    // The newest replica of all gets it from one that got it itself.
    let newest = cluster.add(new, 3);
    for replica in [leader, new, newest] {
        assert_eq!(cluster.readable(replica), Ok(RETAINED), "replica {replica}");
    }
}

/// A replica that began with an old snapshot and stops before it has the rest goes on after the
/// start: it is in none of its own snapshots yet.
#[test]
fn new_member_that_restarts_on_its_way_goes_on() {
    let (mut cluster, leader) = elected(3);
    cluster.write(leader, 100, 100);
    let new = cluster.join(3);
    let deadline = cluster.now + 5 * SECOND;
    let add = MemberChange::AddLearner { node: name(new), raft_id: new };
    cluster.at(leader).core.change_member(add, deadline, 1);
    while cluster.at(new).core.status().snapshots.installed == 0 {
        // One turn of everybody, so that the entries do not come at once with the snapshot.
        cluster.now = cluster.now + Duration::from_millis(1);
        let now = cluster.now;
        let mut frames = Vec::new();
        for node in &mut cluster.nodes {
            node.turn(now);
            let from = node.core.raft_id();
            frames.extend(node.frames.drain(..).map(|frame| (from, frame)));
        }
        for (from, (to, frame)) in frames {
            cluster.at(to).core.handle_frame(from, &frame).ok();
        }
    }
    let applied = cluster.at(leader).core.applied();
    let node = cluster.nodes.pop().unwrap();
    assert!(node.core.applied() < applied, "it has everything already");
    assert!(!node.core.consensus().membership().contains(new));
    let disk = node.disk.clone();
    drop(node);
    disk.crash(&mut fastrand::Rng::with_seed(1), wal::Keep::Nothing);
    let store = Store::open(Arc::new(disk.clone()), Path::new("/data"), wal_options());
    let store = store.unwrap().unwrap();
    let mut node = open_with(Journal::new(RETAINED), store, disk, options(), cluster.now);
    (1..new).for_each(|other| node.core.admit(other));
    cluster.nodes.push(node);
    cluster.pass(3 * SECOND);
    assert!(cluster.at(new).core.consensus().membership().contains(new));
    assert_eq!(cluster.readable(new), Ok(RETAINED));
}

/// What is offered is looked at before, since it may have lain on the disk for long. A newer one in
/// its place would leave out what is retained, so the follower has to wait for retention instead.
#[test]
fn damaged_snapshot_before_the_floor_is_not_replaced_by_one_that_lacks_messages() {
    let (mut cluster, leader) = elected(1);
    cluster.write(leader, 100, 100);
    let offered = cluster.snapshots(leader)[0].clone();
    let node = cluster.nodes.pop().unwrap();
    let disk = node.disk.clone();
    drop(node);
    let file = disk.open(&offered, OpenMode::Existing).unwrap();
    file.write_at(&[0xFF; 8], 70).unwrap();
    let store = Store::open(Arc::new(disk.clone()), Path::new("/data"), wal_options());
    let store = store.unwrap().unwrap();
    cluster.nodes.push(open_with(Journal::new(RETAINED), store, disk, options(), cluster.now));
    cluster.pass(2 * SECOND);
    assert_eq!(cluster.leader(), leader);

    let new = cluster.add(leader, 1);
    cluster.pass(2 * SECOND);
    assert_eq!(cluster.at(new).core.status().snapshots.installed, 0);
    assert_eq!(cluster.readable(leader), Ok(RETAINED), "the log is what it was");
    let mut ticket = 1_000;
    while cluster.at(new).core.status().snapshots.installed == 0 {
        cluster.write(leader, 1, ticket);
        cluster.pass(SECOND / 2);
        ticket += 1;
        assert!(ticket < 1_050, "it still waits");
    }
    cluster.pass(2 * SECOND);
    assert_eq!(cluster.readable(new), Ok(RETAINED));
}

/// What a machine left in the log is worth as much as its state: it goes over into another cluster,
/// and to whoever joins that.
#[test]
fn recovered_directory_has_what_is_retained_and_passes_it_on() {
    let (mut cluster, leader) = elected(3);
    cluster.write(leader, 60, 100);
    let new = cluster.add(leader, 3);
    assert!(done(cluster.change(leader, MemberChange::Promote(name(new)), 10)));
    cluster.write(leader, 30, 200);
    cluster.pass(SECOND);
    let at = usize::try_from(leader).unwrap() - 1;
    let node = cluster.nodes.remove(at);
    let (disk, before) = (node.disk.clone(), node.core.machine().clone());
    drop(node);
    let shared: Arc<dyn wal::Disk> = Arc::new(disk.clone());
    let dirs = (Path::new("/data"), Path::new("/new"));
    let machine = Journal::new(RETAINED);
    crate::replica::recover(&shared, dirs, wal_options(), 1, machine).unwrap();

    let store = Store::open(shared, dirs.1, wal_options()).unwrap().unwrap();
    let members = store.bootstrap().clone();
    let node = open_with(Journal::new(RETAINED), store, disk, options(), cluster.now);
    assert_eq!(node.core.machine(), &before);
    cluster.nodes = vec![node];
    cluster.pass(2 * SECOND);
    assert_eq!(cluster.readable(1), Ok(RETAINED));
    cluster.write(1, 5, 300);

    let disk = MemoryDisk::new();
    let store = Store::create(Arc::new(disk.clone()), dirs.0, wal_options(), name(9), 2, &members);
    let mut node = open_with(Journal::new(RETAINED), store.unwrap(), disk, options(), cluster.now);
    node.core.admit(1);
    cluster.nodes.push(node);
    let add = MemberChange::AddLearner { node: name(9), raft_id: 2 };
    assert!(done(cluster.change(1, add, 400)));
    cluster.pass(2 * SECOND);
    assert_eq!(cluster.at(2).core.status().snapshots.installed, 1);
    assert_eq!(cluster.readable(2), Ok(RETAINED));
    let members: Vec<_> = cluster.at(2).core.consensus().membership().members().collect();
    assert_eq!(members.len(), 2, "members of the old cluster: {members:?}");
}

/// A snapshot has its name before this replica is told that it is written. If the floor rises in
/// between, old ones are deleted, and this one must not be among them: soon the log begins after it.
#[test]
fn snapshot_that_is_about_to_be_reported_is_not_deleted_with_the_old_ones() {
    let (mut cluster, leader) = elected(1);
    cluster.write(leader, 100, 100);
    let (now, deadline) = (cluster.now, cluster.now + 5 * SECOND);
    let node = cluster.at(leader);
    let turn = |node: &mut NodeOf<Journal>, command: &'static [u8], ticket| {
        node.core.propose(Bytes::from_static(command), deadline, ticket);
        // The second one sees what was applied with the end of the first.
        for _ in 0..2 {
            node.core.turn(now);
            settle(&mut node.core, &mut node.store, &mut node.unwritten, |_, _| ());
        }
    };
    let job = (1_000..1_020).find_map(|ticket| {
        turn(node, b"message", ticket);
        node.core.take_job()
    });
    let done = job.expect("it is time for a snapshot").run(node.store.files());
    let JobDone::Written { result: Ok(written) } = &done else { panic!("{done:?}") };
    let point = written.point;
    turn(node, CLEAR, 2_000);
    node.core.job_done(done);
    settle(&mut node.core, &mut node.store, &mut node.unwritten, |_, _| ());
    assert_eq!(node.core.status().snapshots.index, Some(point.index));
    assert_eq!(node.store.files().inspect(point).map(|found| found.point).unwrap(), point);
}

/// A file that somebody has deleted is worth no more than a damaged one: it is not looked for again
/// and again, and the log is not cut as if it was there.
#[test]
fn deleted_snapshot_counts_no_more_than_a_damaged_one() {
    let (mut cluster, leader) = elected(1);
    cluster.write(leader, 100, 100);
    let kept = cluster.at(leader).core.status().snapshots.kept;
    let oldest = cluster.snapshots(leader)[0].clone();
    cluster.at(leader).disk.remove(&oldest).unwrap();
    let new = cluster.add(leader, 1);
    assert_eq!(cluster.at(leader).core.status().snapshots.kept, kept - 1);
    let mut ticket = 1_000;
    while cluster.at(new).core.status().snapshots.installed == 0 {
        cluster.write(leader, 1, ticket);
        cluster.pass(SECOND / 2);
        ticket += 1;
        assert!(ticket < 1_050, "it still waits");
    }
    cluster.pass(2 * SECOND);
    assert_eq!(cluster.readable(new), Ok(RETAINED));
}
