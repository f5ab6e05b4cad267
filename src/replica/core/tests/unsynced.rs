//! Replicas that do not sync every write, and machines that go down.

use super::*;
use crate::replica::{Confidence, MemberChange, SyncMode};
use crate::wal::Keep;

const DIR: &str = "/data";

impl Cluster {
    /// A cluster whose replicas do not sync their entries, and its leader.
    fn unsynced() -> (Self, u64) {
        let (mut cluster, leader) = Self::elected(3);
        cluster.nodes.iter_mut().for_each(stop_syncing);
        cluster.pass(SECOND);
        (cluster, leader)
    }

    /// Cuts the power of a machine; what was not synced is lost. Returns what is left.
    fn cut_power(&mut self, raft_id: u64) -> Store {
        let disk = self.at(raft_id).disk.clone();
        disk.crash(&mut fastrand::Rng::with_seed(raft_id), Keep::Nothing);
        self.down.push(raft_id);
        let store = Store::open(Arc::new(disk), Path::new(DIR), wal_options());
        store.unwrap().unwrap()
    }

    /// Starts what is left of a machine as if nothing were in doubt.
    fn start_as_itself(&mut self, store: Store) {
        let raft_id = store.identity().raft_id;
        let disk = self.at(raft_id).disk.clone();
        *self.at(raft_id) = open(store, disk, Options::default(), self.now);
        stop_syncing(self.at(raft_id));
        self.down.retain(|down| *down != raft_id);
    }

    /// Starts the machine of `former` anew, with another directory.
    fn start_anew(&mut self, former: u64) -> u64 {
        let raft_id = self.nodes.len() as u64 + 1;
        let disk = MemoryDisk::new();
        let (shared, dir) = (Arc::new(disk.clone()), Path::new(DIR));
        let (node, members) = (name(former), bootstrap(3));
        let store = Store::create(shared, dir, wal_options(), node, raft_id, &members).unwrap();
        let mut node = open(store, disk, Options::default(), self.now);
        (1..raft_id).for_each(|other| node.core.admit(other));
        stop_syncing(&mut node);
        self.nodes.push(node);
        raft_id
    }

    fn value_at(&mut self, raft_id: u64, ticket: u32) -> Option<Response> {
        self.read(raft_id, ticket);
        self.pass(SECOND);
        self.answer(raft_id, ticket).filter(Result::is_ok).map(|reply| value(&reply))
    }

    fn changed(&mut self, raft_id: u64, change: MemberChange, ticket: u32) -> Reply {
        let deadline = self.now + 5 * SECOND;
        self.at(raft_id).core.change_member(change, deadline, ticket);
        self.pass(SECOND);
        self.answer(raft_id, ticket).expect("it is answered")
    }
}

fn stop_syncing(node: &mut Node) {
    node.store.begin(SyncMode::Never).unwrap();
    node.core.set_synced(false);
}

/// A write that is committed on two of three, of which one loses it, and the leader is cut off. What
/// is left of that one and the third, who never had it, are a quorum.
fn committed_and_lost_on_one() -> (Cluster, u64, u64, Store) {
    let (mut cluster, leader) = Cluster::unsynced();
    let (loses, never_had) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    cluster.cut_off = Some(never_had);
    cluster.propose(leader, "committed", 1);
    cluster.talk();
    let applied = cluster.answer(leader, 1).unwrap().unwrap();
    assert_eq!(applied.level, AckLevel::QuorumUnsynced, "the answer says what it is worth");
    let store = cluster.cut_power(loses);
    assert!(store.log().last_index() < applied.index, "it was not synced");
    cluster.cut_off = Some(leader);
    (cluster, leader, loses, store)
}

/// What NATS does by default, and why there is a rule: one power cut takes back what was committed.
#[test]
fn without_the_rule_one_power_cut_loses_what_was_committed() {
    let (mut cluster, old, loses, store) = committed_and_lost_on_one();
    assert_eq!(store.confidence(), Confidence::Doubtful);
    cluster.start_as_itself(store);
    cluster.pass(3 * SECOND);
    let never_had = (1..=3).find(|id| ![old, loses].contains(id)).unwrap();
    let leads = |id: u64, cluster: &mut Cluster| cluster.at(id).core.status().role == Role::Leader;
    let new = [loses, never_had].into_iter().find(|id| leads(*id, &mut cluster)).unwrap();
    let found = cluster.value_at(new, 2);
    assert!(matches!(found, Some(Response::Absent { .. })), "{found:?}");
}

/// The same with the rule: whoever may have lost something does not vote with the rest, so nobody
/// leads who lacks what was committed. It comes back under another raft id, gets everything, and
/// votes again.
#[test]
fn with_the_rule_what_was_committed_survives_and_the_replica_comes_back() {
    let (mut cluster, leader, former, store) = committed_and_lost_on_one();
    assert_eq!(store.confidence(), Confidence::Doubtful, "so it stays out");
    drop(store);
    cluster.pass(3 * SECOND);
    let never_had = (1..=3).find(|id| ![leader, former].contains(id)).unwrap();
    assert_ne!(cluster.at(never_had).core.status().role, Role::Leader, "alone it has no quorum");

    cluster.cut_off = None;
    cluster.pass(3 * SECOND);
    let leader = cluster.leader();
    let found = cluster.value_at(leader, 2);
    assert!(matches!(&found, Some(Response::Value { value, .. }) if value == "committed"));

    let raft_id = cluster.start_anew(former);
    let replace = MemberChange::Replace { node: name(former), former, raft_id };
    assert!(cluster.changed(leader, replace.clone(), 3).is_ok());
    assert!(cluster.changed(leader, replace, 4).is_ok(), "asked again, it is so already");
    let members = |cluster: &mut Cluster| {
        let members = cluster.at(leader).core.status().members.into_iter();
        members.map(|member| (member.raft_id, member.voter)).collect::<Vec<_>>()
    };
    assert!(members(&mut cluster).contains(&(raft_id, false)));
    assert!(members(&mut cluster).iter().all(|(id, _)| *id != former), "it can never come back");
    assert!(cluster.changed(leader, MemberChange::Promote(name(former)), 5).is_ok());
    assert!(members(&mut cluster).contains(&(raft_id, true)));
    let machine = cluster.at(leader).core.machine().clone();
    assert_eq!(cluster.at(raft_id).core.machine(), &machine);
}

/// A directory that is no member any more must not get in again by asking to replace itself.
#[test]
fn directory_of_nobody_replaces_nobody() {
    let (mut cluster, leader) = Cluster::unsynced();
    let former = leader % 3 + 1;
    cluster.down.push(former);
    cluster.pass(SECOND);
    let raft_id = cluster.start_anew(former);
    let replace = |former| MemberChange::Replace { node: name(2), former, raft_id };
    let unknown = cluster.changed(leader, replace(99), 1).unwrap_err();
    assert_eq!(unknown.code(), crate::ErrorCode::DirectoryUnknown);
    assert!(cluster.changed(leader, MemberChange::Remove(name(former)), 2).is_ok());
    let replace = MemberChange::Replace { node: name(former), former, raft_id };
    let removed = cluster.changed(leader, replace, 3).unwrap_err();
    assert_eq!(removed.code(), crate::ErrorCode::DirectoryUnknown);
}

/// Term and vote are synced in every mode: a vote that was forgotten could be given twice.
#[test]
fn term_and_vote_survive_a_power_cut_in_every_mode() {
    let (mut cluster, leader) = Cluster::unsynced();
    cluster.cut_off = Some(leader);
    cluster.pass(3 * SECOND);
    let new = (1..=3).find(|id| *id != leader && cluster.at(*id).core.status().term > 1);
    let voter = new.unwrap();
    let before = cluster.at(voter).store.hard_state();
    assert_ne!(before.vote, 0);
    let after = cluster.cut_power(voter).hard_state();
    assert_eq!((after.term, after.vote), (before.term, before.vote));
}

/// With an interval the loss is bounded by it; a stop in order leaves nothing to lose or to doubt.
#[test]
fn interval_syncs_in_time_and_a_stop_in_order_leaves_no_doubt() {
    let (mut cluster, leader) = Cluster::elected(1);
    let interval = Duration::from_millis(100);
    cluster.at(leader).store.begin(SyncMode::Interval(interval)).unwrap();
    cluster.propose(leader, "one", 1);
    cluster.talk();
    let (index, now) = (cluster.at(leader).core.applied(), cluster.now);
    let store = &mut cluster.at(leader).store;
    assert_eq!(store.poll_timeout(), None, "nobody has looked");
    store.sync_due(now).unwrap();
    assert_eq!(store.poll_timeout(), Some(now + interval));
    let syncs = |cluster: &mut Cluster| cluster.at(leader).disk.count(DiskOperation::Sync);
    let before = syncs(&mut cluster);
    cluster.at(leader).store.sync_due(now + interval / 2).unwrap();
    assert_eq!(syncs(&mut cluster), before, "synced early");
    cluster.at(leader).store.sync_due(now + interval).unwrap();
    assert_eq!(syncs(&mut cluster), before + 1);
    assert_eq!(cluster.at(leader).store.poll_timeout(), None);
    let left = cluster.cut_power(leader);
    assert_eq!((left.log().last_index(), left.confidence()), (index, Confidence::Doubtful));

    cluster.start_as_itself(left);
    cluster.pass(2 * SECOND);
    cluster.propose(leader, "two", 2);
    cluster.talk();
    let (index, commit) =
        (cluster.at(leader).core.applied(), cluster.at(leader).core.consensus().commit());
    cluster.at(leader).store.close(commit).unwrap();
    let left = cluster.cut_power(leader);
    assert_eq!((left.log().last_index(), left.confidence()), (index, Confidence::Whole));
}

/// The leader tells what its quorum is worth: one voter that does not sync is enough, and it is heard
/// with every frame; who synced again counts again.
#[test]
fn one_voter_that_does_not_sync_makes_every_quorum_undurable() {
    let (mut cluster, leader) = Cluster::elected(3);
    let lax = leader % 3 + 1;
    let level = |cluster: &mut Cluster, acks, ticket| {
        let deadline = cluster.now + 5 * SECOND;
        cluster.at(leader).core.propose_with(set("x"), acks, deadline, ticket);
        cluster.pass(SECOND);
        cluster.answer(leader, ticket).unwrap().unwrap().level
    };
    let all = Acks::All { min_insync: 3 };
    assert_eq!(level(&mut cluster, all, 1), AckLevel::All);
    stop_syncing(cluster.at(lax));
    cluster.pass(SECOND);
    assert_eq!(level(&mut cluster, Acks::Quorum, 2), AckLevel::QuorumUnsynced);
    assert_eq!(level(&mut cluster, all, 3), AckLevel::AllUnsynced);
    assert_eq!(level(&mut cluster, Acks::Leader, 4), AckLevel::Leader, "its own disk has it");
    cluster.at(lax).store.close(0).unwrap();
    cluster.at(lax).core.set_synced(true);
    cluster.pass(SECOND);
    assert_eq!(level(&mut cluster, Acks::Quorum, 5), AckLevel::Quorum);
    cluster.at(leader).core.set_synced(false);
    assert_eq!(level(&mut cluster, Acks::Leader, 6), AckLevel::LeaderUnsynced);
}

/// A power cut leaves any part of what was not synced, in any order. That is no damage: the log opens
/// with a beginning of it, and everything that was synced is there.
#[test]
fn torn_rest_of_unsynced_writes_is_cut_and_refuses_no_start() {
    for seed in 0..60 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (mut cluster, only) = Cluster::elected(1);
        let interval = Duration::from_millis(1);
        cluster.at(only).store.begin(SyncMode::Interval(interval)).unwrap();
        let mut synced = 0;
        for ticket in 0..rng.u32(1..12) {
            cluster.propose(only, &"x".repeat(rng.usize(1..2_000)), ticket);
            cluster.talk();
            if rng.u8(..4) == 0 {
                let now = cluster.now;
                let node = cluster.at(only);
                node.store.sync_due(now).unwrap();
                node.store.sync_due(now + interval).unwrap();
                synced = node.core.applied();
            }
        }
        let last = cluster.at(only).core.applied();
        let disk = cluster.at(only).disk.clone();
        disk.crash(&mut rng, Keep::Torn);
        let store = Store::open(Arc::new(disk), Path::new(DIR), wal_options());
        let store = store.unwrap_or_else(|error| panic!("seed {seed}: {error}")).unwrap();
        let found = store.log().last_index();
        assert!((synced..=last).contains(&found), "seed {seed}: {found} of {synced} to {last}");
        assert_eq!(store.confidence(), Confidence::Doubtful);
    }
}
