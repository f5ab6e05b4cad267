//! What the consensus gives to its owner: writes, committed entries, confirmed reads, refusals.
//!
//! Pure.

use crate::wal;

/// What a replica is at present.
#[derive(
    Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, serde::Deserialize, serde::Serialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It asks to become leader.
    Candidate,
    /// It follows a leader, or waits for one.
    Follower,
    /// It leads.
    Leader,
}

/// A write to do: everything in it must be on disk before [`Consensus::persisted`](super::Consensus::persisted) is called.
///
/// Order on disk: hard state first, then the entries, then one sync.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Persist {
    /// Confirms this write and all before it.
    pub number: u64,
    /// The hard state, if it must be durable with this write.
    pub hard_state: Option<wal::HardState>,
    /// Entries, which replace what the log has from the first one's index on.
    pub entries: Vec<wal::Entry>,
}

/// What one step gave; handle it in the order of the fields.
#[derive(Debug, Default)]
pub struct Output {
    /// To write.
    pub persist: Option<Persist>,
    /// Committed, in order, each once. Entries of a changed membership among them are committed
    /// durably only after the write above; see [`Self::apply_after_persist`].
    pub committed: Vec<wal::Entry>,
    /// Whether the committed entries may be applied only after the write.
    pub apply_after_persist: bool,
    /// Read rounds that a quorum confirmed, with the index that must be applied first.
    pub reads: Vec<(u64, u64)>,
}

/// Why entries were not proposed. They had no effect.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// A change of the membership is under way, or there is nothing to leave.
    #[error("a change of the membership is under way")]
    ChangePending,
    /// Too much waits for the quorum, or the leadership is being handed over.
    #[error("too many proposals wait for the quorum")]
    Full,
    /// This replica does not lead.
    #[error("not the leader")]
    NotLeader,
}
