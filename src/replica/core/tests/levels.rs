//! Levels of acknowledgement against failures: what each answer promises, and what it does not.

use super::*;
use crate::ErrorCode;

/// A lag limit that passes within a test, above the grace of a new leader.
fn options() -> Options {
    Options { in_sync_lag_max: 2 * SECOND, ..Options::default() }
}

fn elected(voters: u64) -> (Cluster, u64) {
    let mut cluster = Cluster::new(voters, &options());
    cluster.pass(2 * SECOND);
    let leader = cluster.leader();
    (cluster, leader)
}

const ALL: Acks = Acks::All { min_insync: 1 };
const ALL_OF_THREE: Acks = Acks::All { min_insync: 3 };

impl Cluster {
    fn propose_for(&mut self, raft_id: u64, acks: Acks, ticket: u32) {
        let deadline = self.now + 5 * SECOND;
        let command = set(&format!("value-{ticket}"));
        self.at(raft_id).core.propose_with(command, acks, deadline, ticket);
    }

    fn level(&mut self, raft_id: u64, ticket: u32) -> Option<AckLevel> {
        self.answer(raft_id, ticket).map(|reply| reply.unwrap().level)
    }

    fn code(&mut self, raft_id: u64, ticket: u32) -> Option<ErrorCode> {
        self.answer(raft_id, ticket).map(|reply| reply.unwrap_err().code())
    }

    /// Runs the leader alone: what it sends is lost.
    fn alone(&mut self, raft_id: u64) {
        let now = self.now;
        self.at(raft_id).turn(now);
        self.at(raft_id).frames.clear();
    }

    fn in_sync(&self, raft_id: u64) -> InSync {
        let node = &self.nodes[usize::try_from(raft_id).unwrap() - 1];
        node.core.status().acks.in_sync
    }
}

/// Each level is answered as soon as it is reached, and says so.
#[test]
fn every_level_is_reached_and_named_when_nothing_fails() {
    let (mut cluster, leader) = elected(3);
    let levels = [Acks::None, Acks::Leader, Acks::Quorum, ALL, ALL_OF_THREE];
    for (ticket, acks) in (1..).zip(levels) {
        cluster.propose_for(leader, acks, ticket);
    }
    assert_eq!(cluster.at(leader).core.take_done()[0].ticket, 1, "none waits for nothing");
    cluster.talk();
    cluster.pass(SECOND);
    let reached: Vec<_> = (2..=5).map(|ticket| cluster.level(leader, ticket).unwrap()).collect();
    assert_eq!(reached, [AckLevel::Leader, AckLevel::Quorum, AckLevel::All, AckLevel::All]);
    let accepted = cluster.answer(leader, 2).unwrap().unwrap();
    assert!(accepted.response.is_empty(), "nothing was applied when it was answered");
    let quorum = cluster.answer(leader, 3).unwrap().unwrap();
    assert_eq!(accepted.index + 1, quorum.index, "it is the index in the log nevertheless");
    assert_eq!(cluster.at(leader).core.status().waiting, Waiting::default());
}

/// The leader says what its own disk has, whether anybody else has it or not.
#[test]
fn leader_level_is_answered_alone_and_quorum_is_not() {
    let (mut cluster, leader) = elected(3);
    cluster.propose_for(leader, Acks::Leader, 1);
    cluster.propose_for(leader, Acks::Quorum, 2);
    cluster.alone(leader);
    assert_eq!(cluster.level(leader, 1), Some(AckLevel::Leader));
    assert_eq!(cluster.answer(leader, 2), None);
    let index = cluster.answer(leader, 1).unwrap().unwrap().index;
    assert!(cluster.at(leader).store.log().last_index() > index, "both are on its disk");

    // A write that failed is on no disk.
    let (mut cluster, leader) = elected(3);
    cluster.at(leader).disk.fail(DiskOperation::Sync, 0, Fault::Broken);
    cluster.propose_for(leader, Acks::Leader, 1);
    cluster.alone(leader);
    assert_eq!(cluster.code(leader, 1), Some(ErrorCode::IoError));
}

/// What the leader accepted alone is gone with it; the next one never had it. This is what the level
/// is worth, and why it is not called written.
#[test]
fn accepted_write_may_be_lost_and_acknowledged_one_is_not() {
    let (mut cluster, old) = elected(3);
    cluster.propose_for(old, Acks::Quorum, 1);
    cluster.talk();
    assert_eq!(cluster.level(old, 1), Some(AckLevel::Quorum));
    cluster.propose_for(old, Acks::Leader, 2);
    cluster.alone(old);
    let accepted = cluster.answer(old, 2).unwrap().unwrap();
    cluster.cut_off = Some(old);
    cluster.pass(2 * SECOND);
    let new = cluster.leader();
    cluster.propose_for(new, Acks::Quorum, 3);
    cluster.cut_off = None;
    cluster.pass(SECOND);
    assert_eq!(cluster.level(new, 3), Some(AckLevel::Quorum));
    let log = cluster.at(old).store.log();
    assert_ne!(log.term(accepted.index), Some(accepted.term), "another entry is in its place");
    let kept = cluster.answer(old, 1).unwrap().unwrap();
    assert_eq!(log.term(kept.index), Some(kept.term));
}

/// A planned change of leader is no reason to lose what was accepted: the next leader has all first.
#[test]
fn handing_over_drains_what_was_accepted_and_takes_nothing_meanwhile() {
    let (mut cluster, old) = elected(3);
    let next = old % 3 + 1;
    for ticket in 1..=50 {
        cluster.propose_for(old, Acks::Leader, ticket);
    }
    cluster.alone(old);
    let last = cluster.answer(old, 50).unwrap().unwrap();
    cluster.at(old).core.transfer(next);
    cluster.propose_for(old, Acks::Leader, 51);
    cluster.propose_for(old, Acks::None, 52);
    cluster.pass(SECOND);
    assert_eq!(cluster.leader(), next);
    let log = cluster.at(next).store.log();
    assert_eq!(log.term(last.index), Some(last.term), "it was drained");
    // What waited meanwhile was not proposed, and can be elsewhere.
    let refused = cluster.answer(old, 51).unwrap().unwrap_err();
    assert_eq!((refused.effect(), refused.is_retryable()), (Effect::None, true), "{refused}");
}

/// With one of three down, all with a minimum of three waits as long as the third counts as in sync,
/// and is refused from then on without effect. Less demanding levels go on.
#[test]
fn all_of_three_is_refused_within_the_lag_limit_when_one_is_down() {
    let (mut cluster, leader) = elected(3);
    let down = leader % 3 + 1;
    cluster.cut_off = Some(down);
    cluster.propose_for(leader, ALL_OF_THREE, 1);
    cluster.propose_for(leader, ALL, 2);
    cluster.pass(SECOND);
    assert_eq!(cluster.answer(leader, 1), None, "the third may have paused");
    cluster.pass(2 * SECOND);
    assert_eq!(cluster.code(leader, 1), Some(ErrorCode::NotOnAll), "it is committed");
    assert_eq!(
        cluster.level(leader, 2),
        Some(AckLevel::All),
        "nobody waits for who is not in sync"
    );
    for (ticket, acks) in [(3, ALL_OF_THREE), (4, Acks::All { min_insync: 2 }), (5, Acks::Quorum)] {
        cluster.propose_for(leader, acks, ticket);
    }
    cluster.talk();
    let refused = cluster.answer(leader, 3).unwrap().unwrap_err();
    assert_eq!(refused, ReplicaError::InsufficientIsr { in_sync: 2, min_insync: 3 });
    assert_eq!(refused.effect(), Effect::None);
    assert_eq!(cluster.level(leader, 4), Some(AckLevel::All));
    assert_eq!(cluster.level(leader, 5), Some(AckLevel::Quorum));
}

/// Under-replicated is a state with a length, and an event at both ends.
#[test]
fn under_replication_begins_lasts_and_ends() {
    let (mut cluster, leader) = elected(3);
    let whole = cluster.at(leader).core.take_in_sync().expect("the first set is news");
    assert_eq!((whole.members.len(), whole.is_under_replicated()), (3, false));
    let down = leader % 3 + 1;
    cluster.cut_off = Some(down);
    cluster.pass(4 * SECOND);
    let short = cluster.at(leader).core.take_in_sync().expect("it fell out");
    assert_eq!(short.lagging, [name(down)]);
    let status = cluster.at(leader).core.status().acks;
    assert!(status.under_replicated_ms.is_some_and(|ms| (1_000..3_000).contains(&ms)));
    assert_eq!(cluster.at(leader).core.take_in_sync(), None, "no news");
    cluster.cut_off = None;
    cluster.pass(SECOND);
    let whole = cluster.at(leader).core.take_in_sync().expect("it is back");
    assert!(!whole.is_under_replicated());
    let status = cluster.at(leader).core.status().acks;
    assert_eq!((status.shrinks, status.grows), (1, 1));
    assert_eq!(status.under_replicated_ms, None);
    assert_eq!(cluster.in_sync(down), InSync::default(), "a follower knows nothing of that");
}

/// Without a quorum none and leader are answered, and nothing stronger is.
#[test]
fn without_a_quorum_nothing_is_claimed_that_needs_one() {
    let (mut cluster, leader) = elected(3);
    cluster.cut_off = Some(leader);
    for (ticket, acks) in (1..).zip([Acks::None, Acks::Leader, Acks::Quorum, ALL]) {
        let deadline = cluster.now + Duration::from_millis(150);
        cluster.at(leader).core.propose_with(set("x"), acks, deadline, ticket);
    }
    cluster.pass(Duration::from_millis(250));
    assert_eq!(cluster.level(leader, 1), Some(AckLevel::None));
    assert_eq!(cluster.level(leader, 2), Some(AckLevel::Leader));
    for ticket in [3, 4] {
        assert_eq!(cluster.code(leader, ticket), Some(ErrorCode::QuorumFailed), "{ticket}");
    }
    assert_eq!(cluster.at(leader).core.status().waiting, Waiting::default());
}

/// A write for all that is committed when its leader loses the office is done, but at what level only
/// the next leader can tell.
#[test]
fn committed_write_for_all_is_not_on_all_when_the_leader_changes() {
    let (mut cluster, old) = elected(3);
    let (slow, next) = (old % 3 + 1, (old + 1) % 3 + 1);
    cluster.cut_off = Some(slow);
    cluster.propose_for(old, ALL, 1);
    cluster.pass(Duration::from_millis(100));
    assert_eq!(cluster.answer(old, 1), None, "the slow one is in sync and does not have it");
    cluster.at(old).core.transfer(next);
    cluster.pass(SECOND);
    assert_eq!(cluster.leader(), next);
    assert_eq!(cluster.code(old, 1), Some(ErrorCode::NotOnAll));
}

/// A learner receives everything and is waited for by nobody.
#[test]
fn learner_is_never_in_sync_and_holds_nothing_up() {
    let (mut cluster, leader) = elected(3);
    let new = cluster.join(3);
    let add = MemberChange::AddLearner { node: name(new), raft_id: new };
    cluster.at(leader).core.change_member(add, Time::from_start(60 * SECOND), 1);
    cluster.pass(SECOND);
    cluster.cut_off = Some(new);
    cluster.propose_for(leader, ALL_OF_THREE, 2);
    cluster.talk();
    assert_eq!(cluster.level(leader, 2), Some(AckLevel::All));
    let in_sync = cluster.in_sync(leader);
    assert_eq!((in_sync.members.len(), in_sync.is_under_replicated()), (3, false));
}
