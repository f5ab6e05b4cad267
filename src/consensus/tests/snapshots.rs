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

/// The crate refuses a snapshot that does not have its own replica. An old snapshot is offered all
/// the same: a new member was nobody then, and finds the changes since, its own joining among them,
/// in the log. It can vote and lead afterwards, and be removed.
#[test]
fn member_begins_with_a_snapshot_from_before_it_joined_and_finds_itself_in_the_log() {
    let mut group = Group::new(5, 3);
    let leader = group.elect();
    let before = group.at(leader).consensus.membership().clone();
    group.at(leader).compact(before);
    let point = group.at(leader).log.0.borrow().base.unwrap();
    let gone = (1..=3).find(|raft_id| *raft_id != leader).unwrap();
    group.cut_off = Some(5);
    let add = |raft_id, voter| vec![Change::Add(member(raft_id, voter))];
    // Two voters change at once, so these go through a joint membership, too.
    let swap = vec![Change::Remove(gone), Change::Add(member(4, true))];
    for changes in [add(4, false), swap, add(5, false)] {
        group.at(leader).consensus.propose_changes(&changes).unwrap();
        group.pass(Duration::from_secs(1));
        group.at(leader).consensus.report_snapshot(4, true);
    }
    assert_eq!(group.at(4).installed, [point]);
    assert_eq!(group.at(5).installed, []);
    group.cut_off = None;
    group.pass(Duration::from_secs(1));
    assert_eq!(group.at(5).installed, [point]);
    group.at(leader).consensus.report_snapshot(5, true);
    group.pass(Duration::from_secs(1));
    let present = group.at(leader).consensus.membership().clone();
    assert!(present.contains(5) && !present.is_voter(5) && !present.contains(gone));
    for new in [4, 5] {
        assert_eq!(*group.at(new).consensus.membership(), present);
    }
    group.at(leader).consensus.propose_changes(&add(5, true)).unwrap();
    group.pass(Duration::from_secs(1));
    group.at(leader).consensus.transfer(5);
    group.pass(Duration::from_secs(1));
    assert_eq!(group.leader(), 5);
    group.at(5).consensus.propose_changes(&[Change::Remove(4)]).unwrap();
    group.pass(Duration::from_secs(1));
    assert!(!group.at(5).consensus.membership().contains(4));
}

/// A snapshot may have been taken between the two steps of a change.
#[test]
fn member_begins_with_a_joint_membership_that_it_is_not_in() {
    let mut replica = replica(9, 3, 1);
    let bytes = |roles: [u8; 3]| {
        let mut bytes = vec![3, 1];
        for (raft_id, roles) in (1u8..).zip(roles) {
            bytes.extend([raft_id, 0, 0, 0, 0, 0, 0, 0, roles, 1, b'a' + raft_id]);
        }
        Bytes::from(bytes)
    };
    // The first goes, the second stays, the third becomes a learner.
    let membership = Membership::decode(&bytes([2, 3, 10])).unwrap();
    assert!(membership.is_joint());
    let point = wal::Point { index: 50, term: 3 };
    let snapshot = Snapshot { point, membership: membership.clone(), bytes: 100, checksum: 7 };
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgSnapshot);
    (message.from, message.to, message.term) = (2, 9, 4);
    message.set_snapshot(snapshot.to_raft());
    replica.step(message).unwrap();
    let offer = replica.consensus.take_offer().unwrap();
    replica.install(offer);
    assert_eq!(replica.installed, [point]);
    assert_eq!(*replica.consensus.membership(), membership);
    let mut apply = |index, data| {
        let kind = wal::EntryKind::Membership;
        replica.consensus.apply_membership(&wal::Entry { term: 4, index, kind, data });
        replica.consensus.membership().members().collect::<Vec<_>>()
    };
    let members = |members: &[(u64, bool)]| {
        let member = |(raft_id, voter): &(u64, bool)| {
            let node = String::from(char::from(b'a' + u8::try_from(*raft_id).unwrap()));
            Member { raft_id: *raft_id, node: node.parse().unwrap(), voter: *voter }
        };
        members.iter().map(member).collect::<Vec<_>>()
    };
    assert_eq!(apply(51, Bytes::new()), members(&[(2, true), (3, false)]), "nobody added it yet");
    let us = Member { raft_id: 9, node: "j".parse().unwrap(), voter: false };
    for (index, voter) in [(52, false), (53, false), (54, true)] {
        let us = Member { voter, ..us.clone() };
        let joined = apply(index, membership::encode_changes(&[Change::Add(us)]));
        assert_eq!(joined, members(&[(2, true), (3, false), (9, voter)]));
    }
    let gone = apply(55, membership::encode_changes(&[Change::Remove(9)]));
    assert_eq!(gone, members(&[(2, true), (3, false)]));
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

/// A snapshot that contradicts what is committed would be fatal in the crate.
#[test]
fn impossible_snapshots_are_refused_at_the_door() {
    let mut replica = replica(1, 3, 1);
    let members = replica.consensus.membership().clone();
    let cases = [
        ("of nothing", 0, 1, members.clone()),
        ("of no term", 5, 0, members.clone()),
        ("of a term to come", 5, 5, members.clone()),
        ("against the bootstrap", 1, 4, members.clone()),
        ("beyond all numbers", u64::MAX, 4, members),
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
