//! What a snapshot is to the consensus: a point of the log, the membership there, and how to know the
//! body when it has arrived.
//!
//! The body never passes through the consensus: whoever owns this replica fetches it, and hands the
//! [`Offer`] back when all of it is on disk and checked.
//!
//! Pure.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use raft::prelude::{Message, Snapshot as RaftSnapshot};

use super::membership::Membership;
use crate::wal::Point;

/// A snapshot as the replicas speak of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// The last entry in it.
    pub point: Point,
    /// The members after that entry.
    pub membership: Membership,
    /// Bytes of its file.
    pub bytes: u64,
    /// CRC32C over that file without its last four bytes, which hold it.
    pub checksum: u32,
}

/// A leader's word that this replica has to continue from a snapshot.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Raft id of the leader.
    pub from: u64,
    /// What it offers.
    pub snapshot: Snapshot,
    pub(super) message: Message,
}

impl Offer {
    #[cfg(test)]
    pub(crate) fn new(from: u64, snapshot: Snapshot) -> Self {
        Self { from, snapshot, message: Message::default() }
    }
}

impl Snapshot {
    /// Whether both mean the same file. Equal points do not: each replica writes its own.
    pub fn is_same_file(&self, other: &Self) -> bool {
        let of = |it: &Self| (it.point, it.bytes, it.checksum);
        of(self) == of(other)
    }

    pub(super) fn to_raft(&self) -> RaftSnapshot {
        let mut data = BytesMut::new();
        data.put_u64_le(self.bytes);
        data.put_u32_le(self.checksum);
        data.put_slice(&self.membership.encode());
        let mut snapshot = RaftSnapshot { data: data.freeze(), ..RaftSnapshot::default() };
        let metadata = snapshot.mut_metadata();
        metadata.index = self.point.index;
        metadata.term = self.point.term;
        metadata.set_conf_state(self.membership.conf_state().clone());
        snapshot
    }

    /// Reads what [`Self::to_raft`] has made the data of; `None` if it is anything else.
    pub(super) fn decode(point: Point, data: &Bytes) -> Option<Self> {
        let mut input = data.clone();
        let (bytes, checksum) = (input.try_get_u64_le().ok()?, input.try_get_u32_le().ok()?);
        let membership = Membership::decode(&input)?;
        Some(Self { point, membership, bytes, checksum })
    }

    pub(super) fn from_raft(snapshot: &RaftSnapshot) -> Option<Self> {
        let metadata = snapshot.get_metadata();
        let point = Point { index: metadata.index, term: metadata.term };
        Self::decode(point, &snapshot.data)
    }
}
