//! Round trips, golden bytes, every cut and any damage.

use proptest::prelude::*;

use super::*;
use crate::consensus::membership::{Bootstrap, Member, Membership};

const ENVELOPE: Envelope = Envelope { cluster: Uuid::from_u128(7), from: 2, to: 1 };

fn append() -> Message {
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgAppend);
    (message.from, message.to) = (2, 1);
    (message.term, message.log_term, message.index, message.commit) = (5, 4, 9, 8);
    let entry = |index, kind, data: &'static [u8]| {
        entry_from_log(wal::Entry { term: 5, index, kind, data: Bytes::from_static(data) })
    };
    let (normal, change) = (wal::EntryKind::Normal, wal::EntryKind::Membership);
    message.set_entries(vec![entry(10, normal, b"set"), entry(11, change, b"add")].into());
    message
}

fn encode_one(messages: &[Message]) -> Bytes {
    let frames = encode(ENVELOPE, messages);
    assert_eq!(frames.len(), 1);
    frames[0].clone()
}

/// The bytes are a promise to every other version.
#[test]
fn frame_has_these_bytes() {
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgHeartbeat);
    message.term = 3;
    message.commit = 2;
    message.context = Bytes::from_static(b"c");
    let mut expected = vec![1, 0, 1, 0];
    expected.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
    expected.extend([2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    expected.extend([3, 0, 1, 0, 0, 0, 0, 0]);
    for number in [3u64, 0, 0, 2, 0, 0] {
        expected.extend(number.to_le_bytes());
    }
    expected.push(b'c');
    assert_eq!(encode_one(&[message]), expected);
}

/// All of one turn for one peer is one frame, and entries are slices of it.
#[test]
fn several_messages_share_a_frame_and_data_are_not_copied() {
    let frame = encode_one(&[append(), append()]);
    let decoded = decode(&frame, ENVELOPE).unwrap();
    assert_eq!(decoded, [append(), append()]);
    let data = &decoded[0].get_entries()[0].data;
    let range = frame.as_ptr_range();
    assert!(range.contains(&data.as_ptr()), "data was copied");
}

fn snapshot(index: u64, term: u64) -> Snapshot {
    let member = Member { raft_id: 9, node: "a".parse().unwrap(), voter: true };
    let membership = Membership::new(&Bootstrap::new(vec![member]).unwrap());
    Snapshot { point: wal::Point { index, term }, membership, bytes: 300, checksum: 7 }
}

/// A snapshot is named by its point, its file and its membership, to the byte.
#[test]
fn snapshot_is_named_in_these_bytes() {
    let snapshot = snapshot(40, 4);
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgSnapshot);
    (message.from, message.to, message.term) = (2, 1, 5);
    message.set_snapshot(snapshot.to_raft());
    let mut expected = vec![10, 0, 0, 0, 0, 0, 0, 0];
    for number in [5u64, 4, 40, 0, 0, 0] {
        expected.extend(number.to_le_bytes());
    }
    expected.extend([25, 0, 0, 0, 44, 1, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0]);
    expected.extend([1, 0, 9, 0, 0, 0, 0, 0, 0, 0, 1, 1, b'a']);
    let frame = encode_one(std::slice::from_ref(&message));
    assert_eq!(frame[FRAME_HEADER_BYTES..], expected);
    let decoded = decode(&frame, ENVELOPE).unwrap();
    assert_eq!(decoded, [message]);
    assert_eq!(Snapshot::from_raft(decoded[0].get_snapshot()), Some(snapshot));
    for cut in 0..frame.len() {
        assert!(decode(&frame.slice(..cut), ENVELOPE).is_err(), "cut at {cut}");
    }
}

/// The mark that lets a transfer depose a living leader must survive, and nothing else be taken
/// for it.
#[test]
fn transfer_survives_the_round_trip() {
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgRequestVote);
    (message.from, message.to, message.term) = (2, 1, 5);
    message.context = Bytes::from_static(TRANSFER_CONTEXT);
    let frame = encode_one(std::slice::from_ref(&message));
    assert_eq!(decode(&frame, ENVELOPE).unwrap(), [message]);
    let end = frame.len();
    assert_eq!(end, FRAME_HEADER_BYTES + MESSAGE_HEADER_BYTES, "the context itself is not sent");
}

/// What is local to a replica cannot leave it.
#[test]
fn kinds_that_never_travel_are_not_encoded() {
    for kind in [
        MessageType::MsgPropose,
        MessageType::MsgReadIndex,
        MessageType::MsgHup,
        MessageType::MsgTransferLeader,
    ] {
        let mut message = Message::default();
        message.set_msg_type(kind);
        assert!(encode(ENVELOPE, &[message]).is_empty(), "{kind:?}");
    }
    for kind in (0..=255).filter(|kind| !(1..=10).contains(kind)) {
        let mut frame = encode_one(&[append()]).to_vec();
        frame[FRAME_HEADER_BYTES] = kind;
        assert_eq!(decode(&frame.into(), ENVELOPE), Err(WireError::UnknownKind { kind }));
    }
}

/// A frame of another cluster, for another replica, or from another than the link's is refused.
#[test]
fn frame_of_somebody_else_is_refused() {
    let frame = encode_one(&[append()]);
    for other in [
        Envelope { cluster: Uuid::from_u128(8), ..ENVELOPE },
        Envelope { from: 3, ..ENVELOPE },
        Envelope { to: 3, ..ENVELOPE },
    ] {
        assert_eq!(decode(&frame, other), Err(WireError::WrongEnvelope));
    }
}

/// A frame that was cut anywhere is refused, as is one that goes on.
#[test]
fn every_cut_is_refused() {
    let frame = encode_one(&[append(), append()]);
    for cut in 0..frame.len() {
        assert_eq!(
            decode(&frame.slice(..cut), ENVELOPE),
            Err(WireError::Truncated),
            "cut at {cut}"
        );
    }
    let mut long = frame.to_vec();
    long.push(0);
    assert_eq!(decode(&long.into(), ENVELOPE), Err(WireError::Trailing { bytes: 1 }));
}

/// Catching up must not become one frame of everything.
#[test]
fn large_messages_are_spread_over_frames() {
    let mut message = append();
    message.mut_entries()[0].data = vec![0; FRAME_BYTES_SOFT_MAX * 2 / 3].into();
    let frames = encode(ENVELOPE, &vec![message; 3]);
    assert_eq!(frames.len(), 3);
    for frame in &frames {
        assert_eq!(decode(frame, ENVELOPE).unwrap().len(), 1);
    }
}

proptest! {
    /// A peer may send anything. Starting from a whole frame reaches deeper than chance would.
    #[test]
    fn decoding_never_panics(cuts in prop::collection::vec((0usize..400, any::<u8>()), 0..6),
                             noise in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut frame = encode_one(&[append(), append()]).to_vec();
        for (at, byte) in cuts {
            let at = at % frame.len();
            frame[at] = byte;
        }
        let _ = decode(&frame.into(), ENVELOPE);
        let _ = decode(&noise.into(), ENVELOPE);
    }

    /// Whatever Raft says is understood on the other side.
    #[test]
    fn messages_survive_the_round_trip(
        kind in 0usize..SENDABLE.len(), reject: bool, numbers: [u32; 6],
        context in prop::collection::vec(any::<u8>(), 0..CONTEXT_BYTES_MAX),
        entries in prop::collection::vec((any::<u64>(), prop::collection::vec(any::<u8>(), 0..40)),
                                         0..6)) {
        let mut message = Message::default();
        message.set_msg_type(SENDABLE[kind].1);
        (message.from, message.to, message.reject) = (2, 1, reject);
        let [term, log_term, index, commit, commit_term, reject_hint] = numbers.map(u64::from);
        (message.term, message.log_term, message.index) = (term, log_term, index);
        (message.commit, message.commit_term, message.reject_hint) =
            (commit, commit_term, reject_hint);
        message.context = context.into();
        let entries = (index + 1..).zip(entries).map(|(index, (term, data))| {
            let kind = wal::EntryKind::Normal;
            entry_from_log(wal::Entry { term, index, kind, data: data.into() })
        });
        message.set_entries(entries.collect::<Vec<_>>().into());
        if SENDABLE[kind].1 == MessageType::MsgSnapshot {
            // The point takes the place of these, and there are no entries.
            (message.log_term, message.index) = (0, 0);
            message.set_entries(vec![].into());
            message.set_snapshot(snapshot(index, log_term).to_raft());
        }
        let frame = encode_one(std::slice::from_ref(&message));
        prop_assert_eq!(decode(&frame, ENVELOPE).unwrap(), [message]);
    }
}
