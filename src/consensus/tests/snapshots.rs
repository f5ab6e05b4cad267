//! Snapshots: to whom they are offered, how they end, and what must not happen in between.

use super::*;

/// What the log has forgotten a late member gets by a snapshot, and goes on from there with entries;
/// once the leader was told that it has arrived, it is sent entries again.
#[test]
fn late_member_catches_up_by_a_snapshot_and_goes_on_with_entries() {
    let mut group = Group::new(4, 3);
    let leader = group.elect();
    group.at(leader).consensus.propose_changes(&[Change::Add(member(4, false))]).unwrap();
    group.cut_off = Some(4);
    group.pass(Duration::from_secs(1));
    let membership = group.at(leader).consensus.membership().clone();
    group.at(leader).compact(membership.clone());
    let point = group.at(leader).log.0.borrow().base.unwrap();
    group.cut_off = None;
    group.pass(Duration::from_secs(1));
    assert_eq!(group.at(4).installed, [point]);
    assert_eq!(*group.at(4).consensus.membership(), membership);
    let offered = group.at(leader).consensus.take_offered();
    assert!(offered.iter().any(|(to, snapshot)| *to == 4 && snapshot.point == point));
    group.at(leader).consensus.report_snapshot(4, true);
    group.at(leader).consensus.propose(vec![Bytes::from_static(b"after")]).unwrap();
    group.pass(Duration::from_secs(1));
    assert_eq!(group.at(4).applied.last().unwrap().data.as_ref(), b"after");
}

/// A follower refuses a snapshot that does not have it as a member, so a new member that was offered
/// one from before its time would never catch up: a newer one is asked for instead.
#[test]
fn snapshot_from_before_a_member_joined_is_not_offered_to_it() {
    let mut group = Group::new(4, 3);
    let leader = group.elect();
    let before = group.at(leader).consensus.membership().clone();
    group.at(leader).compact(before);
    assert!(!group.at(leader).consensus.take_snapshot_wanted());
    group.at(leader).consensus.propose_changes(&[Change::Add(member(4, false))]).unwrap();
    group.pass(Duration::from_secs(1));
    assert!(group.at(leader).consensus.take_offered().is_empty());
    assert!(group.at(leader).consensus.take_snapshot_wanted(), "nobody asks for a newer one");
    let present = group.at(leader).consensus.membership().clone();
    group.at(leader).compact(present);
    group.pass(Duration::from_secs(1));
    assert_eq!(group.at(4).installed.len(), 1);
}

/// Until the leader hears how a snapshot ended, it sends that follower nothing. A failed one is
/// offered again.
#[test]
fn failed_snapshot_is_offered_again() {
    let mut group = Group::new(3, 3);
    let leader = group.elect();
    let away = leader % 3 + 1;
    group.cut_off = Some(away);
    group.at(leader).consensus.propose(vec![Bytes::from_static(b"x")]).unwrap();
    group.pass(Duration::from_millis(100));
    let membership = group.at(leader).consensus.membership().clone();
    group.at(leader).compact(membership);
    // It answers, but the offer is lost on its way.
    for arrived in [false, true] {
        group.cut_off = None;
        for _ in 0..10 {
            group.now = group.now + Duration::from_millis(50);
            for replica in &mut group.replicas {
                replica.consensus.tick(group.now);
            }
            group.at(away).consensus.take_offer();
            group.lose_offers = !arrived;
            group.talk();
        }
        let state = |group: &mut Group| {
            let followers = group.at(leader).consensus.followers();
            followers.iter().find(|it| it.raft_id == away).unwrap().state
        };
        let waits = state(&mut group) == FollowerState::Snapshot;
        assert_eq!(waits, !arrived, "arrived: {arrived}");
        group.at(leader).consensus.report_snapshot(away, arrived);
    }
    assert_eq!(group.at(away).installed.len(), 1);
    assert!(group.at(leader).consensus.take_offered().len() >= 2);
}

/// Between a snapshot that was taken over and its application the crate must not be asked anything:
/// an election in that time would be fatal. Here it comes right after.
#[test]
fn election_right_after_a_snapshot_does_no_harm() {
    let mut replica = replica(1, 3, 1);
    let membership = replica.consensus.membership().clone();
    let point = wal::Point { index: 50, term: 3 };
    let snapshot = Snapshot { point, membership, bytes: 100, checksum: 7 };
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgSnapshot);
    (message.from, message.to, message.term) = (2, 1, 4);
    message.set_snapshot(snapshot.to_raft());
    replica.step(message).unwrap();
    let offer = replica.consensus.take_offer().unwrap();
    replica.install(offer);
    assert_eq!((replica.consensus.commit(), replica.consensus.last_index()), (50, 50));
    let mut now = Time::ZERO;
    while replica.consensus.role() != Role::Candidate {
        now = now + Duration::from_millis(150);
        replica.consensus.tick(now);
    }
    replica.drain();
    assert_eq!(replica.installed, [point]);
}

/// A snapshot that contradicts what is committed, or does not have us, would be fatal in the crate.
#[test]
fn impossible_snapshots_are_refused_at_the_door() {
    let mut replica = replica(1, 3, 1);
    let members = replica.consensus.membership().clone();
    let others = Bootstrap::new(vec![member(2, true), member(3, true)]).unwrap();
    let cases = [
        ("of nothing", 0, 1, members.clone()),
        ("of no term", 5, 0, members.clone()),
        ("of a term to come", 5, 5, members.clone()),
        ("against the bootstrap", 1, 4, members.clone()),
        ("beyond all numbers", u64::MAX, 4, members),
        ("without us", 5, 4, Membership::new(&others)),
    ];
    for (what, index, term, membership) in cases {
        let point = wal::Point { index, term };
        let snapshot = Snapshot { point, membership, bytes: 100, checksum: 7 };
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgSnapshot);
        (message.from, message.to, message.term) = (2, 1, 4);
        message.set_snapshot(snapshot.to_raft());
        assert!(matches!(replica.step(message), Err(Refusal::Impossible { .. })), "{what}");
        assert!(replica.consensus.take_offer().is_none(), "{what}");
    }
}
