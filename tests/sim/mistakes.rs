//! Mistakes that are made on the way: of messages, and of snapshots to the disk.

use bytes::Bytes;
use raft::eraftpb::{Message, MessageType};
use zmesh::consensus::wire::{self, Envelope};
use zmesh::replica::{Machine, Sessions, image_bytes};

use crate::ledger::Ledger;

/// What a follower would say that had everything of `frame`, which is on its way to it.
pub(super) fn acknowledge(envelope: Envelope, frame: &Bytes) -> Option<Bytes> {
    let messages = wire::decode(frame, envelope).ok()?;
    let append = messages.iter().rfind(|it| it.get_msg_type() == MessageType::MsgAppend)?;
    let mut answer = Message::default();
    answer.set_msg_type(MessageType::MsgAppendResponse);
    answer.term = append.term;
    answer.from = envelope.to;
    answer.to = envelope.from;
    answer.index = append.index + append.entries.len() as u64;
    let back = Envelope { from: envelope.to, to: envelope.from, ..envelope };
    wire::encode(back, &[answer]).pop()
}

/// The image of the same machine whose clients have no sessions.
pub(super) fn without_sessions(image: &[u8], ledger: impl Fn() -> Ledger) -> Vec<u8> {
    let mut whole = Sessions::new(ledger());
    whole.restore(&mut &image[..]).expect("an image of its own");
    let mut inner = ledger();
    let bytes = image_bytes(whole.inner().snapshot());
    inner.restore(&mut &bytes[..]).expect("an image of its own");
    image_bytes(Sessions::new(inner).snapshot())
}
