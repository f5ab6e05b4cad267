//! A body on its way: in order, lost, doubled, interrupted, and from two leaders.

use super::*;
use crate::consensus::membership::{Bootstrap, Member, Membership};

const PATIENCE: Duration = Duration::from_millis(1_500);
const PART: usize = 100;

fn at(ms: u64) -> Time {
    Time::from_start(Duration::from_secs(10) + Duration::from_millis(ms))
}

fn snapshot(bytes: u64) -> Snapshot {
    let member = Member { raft_id: 1, node: "a".parse().unwrap(), voter: true };
    let membership = Membership::new(&Bootstrap::new(vec![member]).unwrap());
    Snapshot { point: Point { index: 40, term: 3 }, membership, bytes, checksum: 7 }
}

fn side(raft_id: u64) -> Transfers {
    Transfers::new(Uuid::from_u128(7), raft_id, PART, PATIENCE)
}

fn offer(from: u64, bytes: u64) -> Offer {
    Offer::new(from, snapshot(bytes))
}

/// Hands everything that one side says to the other; the n-th frames of `lost` get lost.
fn talk(from: &mut Transfers, to: &mut Transfers, now: Time, lost: &[usize]) -> usize {
    let frames = from.take_frames();
    for (number, (_, bytes)) in frames.iter().enumerate() {
        let envelope = crate::consensus::wire::Envelope {
            cluster: from.cluster,
            from: from.raft_id,
            to: to.raft_id,
        };
        if !lost.contains(&number) {
            to.handle(Frame::decode(bytes, envelope).unwrap(), None, now);
        }
    }
    frames.len()
}

/// Does the sender's reading; returns how many parts were read.
fn serve(sender: &mut Transfers) -> usize {
    let mut parts = 0;
    while let Some(work) = sender.take_work() {
        let FileWork::Read { to, snapshot, offset, bytes } = work else { panic!("{work:?}") };
        parts += 1;
        sender.part_read(to, snapshot.point, offset, Some(vec![0xA5; bytes].into()));
    }
    parts
}

/// Offsets that the receiver has written.
fn written(receiver: &mut Transfers) -> Vec<u64> {
    let mut offsets = Vec::new();
    while let Some(work) = receiver.take_work() {
        if let FileWork::Write { offset, .. } = work {
            offsets.push(offset);
        }
    }
    offsets
}

/// Only a few parts are under way at a time, each is written once, and the end is told.
#[test]
fn body_arrives_in_parts_with_few_of_them_under_way() {
    let (mut sender, mut receiver) = (side(1), side(2));
    sender.offered(2, snapshot(1_050), at(0));
    receiver.take_offer(offer(1, 1_050), at(0));
    let mut offsets = Vec::new();
    while receiver.take_check().is_none() {
        assert!(talk(&mut receiver, &mut sender, at(1), &[]) <= PARTS_ASKED_MAX);
        serve(&mut sender);
        talk(&mut sender, &mut receiver, at(2), &[]);
        offsets.extend(written(&mut receiver));
    }
    assert_eq!(offsets, (0..=1_000).step_by(100).collect::<Vec<_>>());
    assert_eq!(receiver.ready(), None, "not before it is checked");
    receiver.checked(snapshot(1_050).point, Ok(()), at(3));
    let ready = receiver.take_ready().unwrap();
    receiver.settled(&ready, true);
    talk(&mut receiver, &mut sender, at(4), &[]);
    assert_eq!(sender.take_ended(), [(2, snapshot(1_050).point, Ended::Arrived)]);
    assert_eq!(sender.pinned().count(), 0);
}

/// A lost part costs one part: it is asked for again, and nothing else is.
#[test]
fn lost_part_is_asked_for_again() {
    let (mut sender, mut receiver) = (side(1), side(2));
    sender.offered(2, snapshot(300), at(0));
    receiver.take_offer(offer(1, 300), at(0));
    talk(&mut receiver, &mut sender, at(0), &[]);
    assert_eq!(serve(&mut sender), 3);
    talk(&mut sender, &mut receiver, at(1), &[1]);
    assert_eq!(written(&mut receiver), [0, 200]);
    receiver.turn(at(200));
    assert!(receiver.take_frames().is_empty(), "too early");
    let due = receiver.poll_timeout().unwrap();
    receiver.turn(due);
    talk(&mut receiver, &mut sender, due, &[]);
    assert_eq!(serve(&mut sender), 1);
    talk(&mut sender, &mut receiver, due, &[]);
    assert_eq!(written(&mut receiver), [100]);
    assert!(receiver.take_check().is_some());
}

/// A new leader that offers the same file goes on where the old one was; another file begins anew.
#[test]
fn same_file_of_another_leader_goes_on_and_another_file_begins_anew() {
    let (mut old, mut new, mut receiver) = (side(1), side(3), side(2));
    old.offered(2, snapshot(600), at(0));
    receiver.take_offer(offer(1, 600), at(0));
    talk(&mut receiver, &mut old, at(0), &[]);
    serve(&mut old);
    talk(&mut old, &mut receiver, at(1), &[2, 3]);
    assert_eq!(written(&mut receiver), [0, 100]);

    new.offered(2, snapshot(600), at(2));
    receiver.take_frames();
    receiver.take_offer(offer(3, 600), at(2));
    talk(&mut receiver, &mut new, at(2), &[]);
    assert_eq!(serve(&mut new), 4, "what was under way, and the rest of it");
    talk(&mut old, &mut receiver, at(3), &[]);
    talk(&mut new, &mut receiver, at(3), &[]);
    assert_eq!(written(&mut receiver), [200, 300, 400, 500]);

    receiver.take_check().unwrap();
    receiver.checked(snapshot(600).point, Ok(()), at(4));
    receiver.take_offer(offer(3, 700), at(5));
    assert_eq!(receiver.ready(), None);
    assert_eq!(receiver.take_work(), Some(FileWork::Begin));
}

/// Whatever happens to the receiver, the leader must hear the end, or it would never send again.
#[test]
fn sender_gives_up_on_a_silent_receiver_and_not_on_one_that_checks() {
    let (mut sender, mut receiver) = (side(1), side(2));
    sender.offered(2, snapshot(100), at(0));
    receiver.take_offer(offer(1, 100), at(0));
    talk(&mut receiver, &mut sender, at(0), &[]);
    serve(&mut sender);
    talk(&mut sender, &mut receiver, at(0), &[]);
    assert!(receiver.take_check().is_some());
    for ms in (0..6_000).step_by(100) {
        receiver.turn(at(ms));
        talk(&mut receiver, &mut sender, at(ms), &[]);
        sender.turn(at(ms));
        assert!(sender.take_ended().is_empty(), "given up after {ms} ms");
    }
    sender.turn(at(5_900) + PATIENCE);
    assert_eq!(sender.take_ended(), [(2, snapshot(100).point, Ended::Failed)]);
}

/// A file that is damaged at either end is told as such, so that another one is made.
#[test]
fn damage_is_told_to_both_sides() {
    let (mut sender, mut receiver) = (side(1), side(2));
    for at_sender in [true, false] {
        sender.offered(2, snapshot(100), at(0));
        receiver.take_offer(offer(1, 100), at(0));
        talk(&mut receiver, &mut sender, at(0), &[]);
        if at_sender {
            let Some(FileWork::Read { to, snapshot, offset, .. }) = sender.take_work() else {
                panic!("nothing was asked for")
            };
            sender.part_read(to, snapshot.point, offset, None);
            talk(&mut sender, &mut receiver, at(0), &[]);
        } else {
            serve(&mut sender);
            talk(&mut sender, &mut receiver, at(0), &[]);
            receiver.take_check().unwrap();
            receiver.checked(snapshot(100).point, Err(true), at(0));
            talk(&mut receiver, &mut sender, at(0), &[]);
        }
        assert_eq!(sender.take_ended(), [(2, snapshot(100).point, Ended::Damaged)]);
        assert_eq!(receiver.receiving(), None);
        written(&mut receiver);
    }
}

/// Nobody gets a snapshot that is gone, and asks for ever.
#[test]
fn snapshot_that_is_gone_is_told() {
    let (mut sender, mut receiver) = (side(1), side(2));
    receiver.take_offer(offer(1, 100), at(0));
    talk(&mut receiver, &mut sender, at(0), &[]);
    talk(&mut sender, &mut receiver, at(0), &[]);
    assert_eq!(receiver.receiving(), None);
}

/// A file is not damaged because somebody asks for what was never in it: nothing is read, written
/// anew, or told to the leader.
#[test]
fn request_for_what_is_not_in_the_file_is_answered_and_blames_nobody() {
    let (mut sender, mut receiver) = (side(1), side(2));
    sender.offered(2, snapshot(1_050), at(0));
    for (offset, bytes) in [(1_050, 100), (u64::MAX, 100), (0, 0)] {
        receiver.send(1, snapshot(1_050).point, Content::Ask { offset, bytes });
        talk(&mut receiver, &mut sender, at(1), &[]);
        assert_eq!(sender.take_work(), None, "{offset}");
        assert_eq!(sender.take_ended(), [], "{offset}");
        let answers = sender.take_frames();
        assert_eq!(answers.len(), 1, "{offset}");
    }
    assert_eq!(sender.pinned().count(), 1, "it may ask for something else");
}
