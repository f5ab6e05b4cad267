//! Raft messages as bytes: our own codec, so that no byte of the network reaches a protobuf parser.
//!
//! One frame carries all messages that one replica has for one other at a time. Numbers are little
//! endian.
//!
//! ```text
//! frame    version u8 | flags u8 (1: the sender does not sync every write)
//!          | messages u16 | cluster id [16] | from u64 | to u64
//! message  kind u8 | flags u8 | context bytes u16 | entries u32 | term u64 | log term u64
//!          | index u64 | commit u64 | commit term u64 | reject hint u64 | context | entries
//!          | snapshot, if the kind is 10
//! snapshot bytes that follow u32 | file bytes u64 | file checksum u32 | membership
//! entry    term u64 | data bytes u32 | kind u8 | 0 [3] | data
//! ```
//!
//! The index of an entry is not sent: it follows from the message's, so that a gap cannot be
//! expressed. A snapshot is named here, by the point in `index` and `log term`, and never carried: its
//! body travels by itself. Kinds that never leave a replica have no number here, so they cannot be expressed
//! either: proposals, read requests, transfers and Raft's local messages.
//!
//! Pure. Decoding never panics, allocates no more than a small multiple of the frame, and copies
//! no entry: data are slices of the frame.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use raft::prelude::{Entry, EntryType, Message, MessageType};
use uuid::Uuid;

use super::snapshot::Snapshot;
use super::storage::{entry_from_log, entry_to_log};
use crate::wal;

/// Bytes before the first message.
const FRAME_HEADER_BYTES: usize = 1 + 1 + 2 + 16 + 8 + 8;
/// Bytes of a message without its context and entries.
const MESSAGE_HEADER_BYTES: usize = 1 + 1 + 2 + 4 + 6 * 8;
/// Bytes of an entry without its data.
const ENTRY_HEADER_BYTES: usize = 8 + 4 + 1 + 3;
/// The version of this format.
const VERSION: u8 = 1;
/// A context is the mark of a read round; it has a fixed, small size.
pub(super) const CONTEXT_BYTES_MAX: usize = 64;
/// A frame is closed when it has this many bytes; one message may go over it.
const FRAME_BYTES_SOFT_MAX: usize = 2 * 1024 * 1024;

/// Where the sender stands in a frame.
const SENDER_AT: usize = 20;
/// The sender counts entries as persisted that it may lose when its machine dies.
const FRAME_UNSYNCED: u8 = 1;
const FLAG_REJECT: u8 = 1;
/// The vote belongs to a transfer of leadership, which may depose a leader that is alive.
const FLAG_TRANSFER: u8 = 2;
/// What the `raft` crate puts into the context of a vote that belongs to a transfer.
const TRANSFER_CONTEXT: &[u8] = b"CampaignTransfer";

/// Who sends to whom, in which cluster; the receiver compares it with what it knows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Envelope {
    /// The cluster that both belong to.
    pub cluster: Uuid,
    /// Raft id of the sender.
    pub from: u64,
    /// Raft id of the receiver.
    pub to: u64,
}

/// Says in a frame that its sender does not sync every write.
pub fn mark_unsynced(frame: Bytes) -> Bytes {
    // A frame that was just encoded has one owner, so this copies nothing.
    let mut frame = frame.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
    if let Some(flags) = frame.get_mut(1) {
        *flags |= FRAME_UNSYNCED;
    }
    frame.freeze()
}

/// Whether a frame says that its sender does not sync every write.
pub fn is_unsynced(frame: &Bytes) -> bool {
    frame.get(1).is_some_and(|flags| flags & FRAME_UNSYNCED != 0)
}

/// Whom a frame names as its sender, before anything else is looked at; none if it is too short. So do
/// the frames that carry snapshots.
pub fn sender(frame: &Bytes) -> Option<u64> {
    let from = frame.get(SENDER_AT..)?.first_chunk::<8>()?;
    Some(u64::from_le_bytes(*from))
}

/// Why a frame was refused. Nothing of it was used.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// A context is longer than any that we make.
    #[error("context of {bytes} bytes")]
    ContextTooLong {
        /// Bytes of the context.
        bytes: usize,
    },
    /// What describes a snapshot cannot be.
    #[error("snapshot cannot be")]
    MalformedSnapshot,
    /// A number that has to be zero is not, or a flag does not exist.
    #[error("reserved bits are set")]
    Reserved,
    /// Bytes follow after the last message.
    #[error("{bytes} bytes after the last message")]
    Trailing {
        /// Bytes that follow.
        bytes: usize,
    },
    /// The frame ends before what it announces.
    #[error("frame is cut short")]
    Truncated,
    /// A kind of message or entry that does not exist or may not be sent.
    #[error("unknown kind {kind}")]
    UnknownKind {
        /// The number on the wire.
        kind: u8,
    },
    /// A format that this version does not speak.
    #[error("unknown version {version}")]
    UnknownVersion {
        /// The version on the wire.
        version: u8,
    },
    /// The frame names another cluster, another sender than the link belongs to, or another
    /// receiver than us.
    #[error("frame is for or from somebody else")]
    WrongEnvelope,
}

impl From<bytes::TryGetError> for WireError {
    fn from(_: bytes::TryGetError) -> Self {
        Self::Truncated
    }
}

/// Encodes messages of one replica for one other, in order, as few frames as possible.
///
/// Messages of kinds that never leave a replica are left out.
pub fn encode(envelope: Envelope, messages: &[Message]) -> Vec<Bytes> {
    let mut frames = Vec::with_capacity(1);
    let mut rest = messages;
    while !rest.is_empty() {
        let mut bytes = FRAME_HEADER_BYTES;
        let mut count = 0;
        for message in rest.iter().take(usize::from(u16::MAX)) {
            let encoded = encoded_bytes(message);
            if count > 0 && bytes + encoded > FRAME_BYTES_SOFT_MAX {
                break;
            }
            bytes += encoded;
            count += 1;
        }
        let (now, later) = rest.split_at(count);
        rest = later;
        frames.extend(encode_frame(envelope, now, bytes));
    }
    frames
}

/// Decodes a frame that came from the replica `expected.from`, as its link was authenticated.
///
/// # Errors
///
/// [`WireError`]: the frame is not one of ours, or not for us; nothing of it may be used.
pub fn decode(frame: &Bytes, expected: Envelope) -> Result<Vec<Message>, WireError> {
    let mut input = frame.clone();
    let version = input.try_get_u8()?;
    if version != VERSION {
        return Err(WireError::UnknownVersion { version });
    }
    if input.try_get_u8()? & !FRAME_UNSYNCED != 0 {
        return Err(WireError::Reserved);
    }
    let count = usize::from(input.try_get_u16_le()?);
    let cluster = Uuid::from_u128(input.try_get_u128()?);
    let (from, to) = (input.try_get_u64_le()?, input.try_get_u64_le()?);
    if (Envelope { cluster, from, to }) != expected {
        return Err(WireError::WrongEnvelope);
    }
    if input.remaining() < count * MESSAGE_HEADER_BYTES {
        return Err(WireError::Truncated);
    }
    let mut messages = Vec::with_capacity(count);
    for _ in 0..count {
        let mut message = decode_message(&mut input)?;
        message.from = from;
        message.to = to;
        messages.push(message);
    }
    if input.has_remaining() {
        return Err(WireError::Trailing { bytes: input.remaining() });
    }
    Ok(messages)
}

fn encode_frame(envelope: Envelope, messages: &[Message], bytes: usize) -> Option<Bytes> {
    let sendable = messages.iter().filter(|message| kind_number(message.get_msg_type()).is_some());
    let count =
        u16::try_from(sendable.clone().count()).expect("a frame has at most 65,535 messages");
    if count == 0 {
        return None;
    }
    let mut frame = BytesMut::with_capacity(bytes);
    frame.put_u8(VERSION);
    frame.put_u8(0);
    frame.put_u16_le(count);
    frame.put_slice(envelope.cluster.as_bytes());
    frame.put_u64_le(envelope.from);
    frame.put_u64_le(envelope.to);
    for message in sendable {
        encode_message(&mut frame, message);
    }
    Some(frame.freeze())
}

fn encoded_bytes(message: &Message) -> usize {
    let entries = message.get_entries().iter();
    let entries: usize = entries.map(|entry| ENTRY_HEADER_BYTES + payload(entry).len()).sum();
    let snapshot = match message.get_msg_type() == MessageType::MsgSnapshot {
        true => 4 + message.get_snapshot().data.len(),
        false => 0,
    };
    MESSAGE_HEADER_BYTES + message.context.len() + entries + snapshot
}

/// What of an entry travels: see [`entry_to_log`].
fn payload(entry: &Entry) -> &Bytes {
    match entry.get_entry_type() {
        EntryType::EntryNormal => &entry.data,
        EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => &entry.context,
    }
}

fn encode_message(frame: &mut BytesMut, message: &Message) {
    let kind = kind_number(message.get_msg_type()).expect("only sendable kinds are encoded");
    let transfer = message.context == TRANSFER_CONTEXT;
    let context: &[u8] = if transfer { &[] } else { &message.context };
    let context_bytes = u16::try_from(context.len()).expect("our contexts have a few bytes");
    let count = u32::try_from(message.entries.len()).expect("a message is bounded in bytes");
    frame.put_u8(kind);
    frame.put_u8(
        if message.reject { FLAG_REJECT } else { 0 } | if transfer { FLAG_TRANSFER } else { 0 },
    );
    frame.put_u16_le(context_bytes);
    frame.put_u32_le(count);
    frame.put_u64_le(message.term);
    let point = point_of(message);
    frame.put_u64_le(point.term);
    frame.put_u64_le(point.index);
    frame.put_u64_le(message.commit);
    frame.put_u64_le(message.commit_term);
    frame.put_u64_le(message.reject_hint);
    frame.put_slice(context);
    for entry in message.get_entries() {
        let entry = entry_to_log(entry);
        frame.put_u64_le(entry.term);
        frame.put_u32_le(u32::try_from(entry.data.len()).expect("an entry is a few MiB at most"));
        frame.put_u8(entry.kind as u8);
        frame.put_bytes(0, 3);
        frame.put_slice(&entry.data);
    }
    if message.get_msg_type() == MessageType::MsgSnapshot {
        let data = &message.get_snapshot().data;
        frame.put_u32_le(u32::try_from(data.len()).expect("a membership is a few KiB"));
        frame.put_slice(data);
    }
}

/// What the fields `index` and `log term` are: of a snapshot, its own.
fn point_of(message: &Message) -> wal::Point {
    if message.get_msg_type() == MessageType::MsgSnapshot {
        let metadata = message.get_snapshot().get_metadata();
        return wal::Point { index: metadata.index, term: metadata.term };
    }
    wal::Point { index: message.index, term: message.log_term }
}

fn decode_message(input: &mut Bytes) -> Result<Message, WireError> {
    let mut message = Message::default();
    let kind = input.try_get_u8()?;
    message.set_msg_type(kind_from_number(kind).ok_or(WireError::UnknownKind { kind })?);
    let flags = input.try_get_u8()?;
    if flags & !(FLAG_REJECT | FLAG_TRANSFER) != 0 {
        return Err(WireError::Reserved);
    }
    let context_bytes = usize::from(input.try_get_u16_le()?);
    let count = usize::try_from(input.try_get_u32_le()?).map_err(|_| WireError::Truncated)?;
    message.term = input.try_get_u64_le()?;
    message.log_term = input.try_get_u64_le()?;
    message.index = input.try_get_u64_le()?;
    message.commit = input.try_get_u64_le()?;
    message.commit_term = input.try_get_u64_le()?;
    message.reject_hint = input.try_get_u64_le()?;
    message.reject = flags & FLAG_REJECT != 0;
    if context_bytes > CONTEXT_BYTES_MAX {
        return Err(WireError::ContextTooLong { bytes: context_bytes });
    }
    message.context = take(input, context_bytes)?;
    if flags & FLAG_TRANSFER != 0 {
        if context_bytes != 0 {
            return Err(WireError::Reserved);
        }
        message.context = Bytes::from_static(TRANSFER_CONTEXT);
    } else if message.context == TRANSFER_CONTEXT {
        return Err(WireError::Reserved);
    }
    message.entries = decode_entries(input, message.index, count)?.into();
    if message.get_msg_type() == MessageType::MsgSnapshot {
        decode_snapshot(input, &mut message)?;
    }
    Ok(message)
}

fn decode_snapshot(input: &mut Bytes, message: &mut Message) -> Result<(), WireError> {
    let bytes = usize::try_from(input.try_get_u32_le()?).map_err(|_| WireError::Truncated)?;
    let data = take(input, bytes)?;
    let point = wal::Point { index: message.index, term: message.log_term };
    let snapshot = Snapshot::decode(point, &data).ok_or(WireError::MalformedSnapshot)?;
    if !message.get_entries().is_empty() {
        return Err(WireError::Reserved);
    }
    (message.index, message.log_term) = (0, 0);
    message.set_snapshot(snapshot.to_raft());
    Ok(())
}

fn decode_entries(input: &mut Bytes, index: u64, count: usize) -> Result<Vec<Entry>, WireError> {
    // Checked before allocating: the count is the sender's word, the remaining bytes are a fact.
    if input.remaining() / ENTRY_HEADER_BYTES < count {
        return Err(WireError::Truncated);
    }
    let mut entries = Vec::with_capacity(count);
    let mut index = index;
    for _ in 0..count {
        // An index at the end of the numbers is refused at the door, with the message's own.
        index = index.saturating_add(1);
        let term = input.try_get_u64_le()?;
        let bytes = usize::try_from(input.try_get_u32_le()?).map_err(|_| WireError::Truncated)?;
        let kind = input.try_get_u8()?;
        if input.try_get_uint_le(3)? != 0 {
            return Err(WireError::Reserved);
        }
        let kind = match kind {
            0 => wal::EntryKind::Normal,
            1 => wal::EntryKind::Membership,
            kind => return Err(WireError::UnknownKind { kind }),
        };
        let data = take(input, bytes)?;
        entries.push(entry_from_log(wal::Entry { term, index, kind, data }));
    }
    Ok(entries)
}

fn take(input: &mut Bytes, bytes: usize) -> Result<Bytes, WireError> {
    if input.remaining() < bytes {
        return Err(WireError::Truncated);
    }
    Ok(input.split_to(bytes))
}

/// The number of a kind that may travel.
fn kind_number(kind: MessageType) -> Option<u8> {
    SENDABLE.iter().find(|(_, sendable)| *sendable == kind).map(|(number, _)| *number)
}

pub(super) fn kind_from_number(number: u8) -> Option<MessageType> {
    SENDABLE.iter().find(|(sendable, _)| *sendable == number).map(|(_, kind)| *kind)
}

const SENDABLE: [(u8, MessageType); 10] = [
    (1, MessageType::MsgAppend),
    (2, MessageType::MsgAppendResponse),
    (3, MessageType::MsgHeartbeat),
    (4, MessageType::MsgHeartbeatResponse),
    (5, MessageType::MsgRequestPreVote),
    (6, MessageType::MsgRequestPreVoteResponse),
    (7, MessageType::MsgRequestVote),
    (8, MessageType::MsgRequestVoteResponse),
    (9, MessageType::MsgTimeoutNow),
    (10, MessageType::MsgSnapshot),
];

#[cfg(test)]
#[path = "wire/tests.rs"]
mod tests;
