//! What a consensus begins with, and why it may not begin.
//!
//! Pure.

use super::membership::Bootstrap;
use super::options::{InvalidOptions, Options};
use super::snapshot::Snapshot;
use crate::id::Incarnation;
use crate::timer::Time;
use crate::wal;

/// What a replica begins with.
#[derive(Debug)]
pub struct Setup<L> {
    /// Raft id of this replica.
    pub raft_id: u64,
    /// This start of the process; marks its read rounds.
    pub incarnation: Incarnation,
    /// The members the cluster began with.
    pub bootstrap: Bootstrap,
    /// What the disk remembers.
    pub hard_state: wal::HardState,
    /// Where the machine begins: at a snapshot, or at [`Bootstrap::INDEX`].
    pub snapshot: Option<Snapshot>,
    /// The entries on disk, which reach back to where the machine begins.
    pub log: L,
    /// Times and limits.
    pub options: Options,
    /// Election timeouts are drawn from it.
    pub rng: fastrand::Rng,
    /// The time of the start.
    pub now: Time,
}

pub(super) fn raft_config(raft_id: u64, applied: u64, options: &Options) -> raft::Config {
    raft::Config {
        id: raft_id,
        applied,
        heartbeat_tick: options.heartbeat_ticks(),
        election_tick: options.election_ticks_min(),
        min_election_tick: options.election_ticks_min(),
        max_election_tick: options.election_ticks_max(),
        check_quorum: true,
        pre_vote: true,
        read_only_option: raft::ReadOnlyOption::Safe,
        skip_bcast_commit: true,
        max_inflight_msgs: options.inflight_messages_max,
        max_size_per_msg: options.message_bytes_max,
        max_uncommitted_size: options.uncommitted_bytes_max,
        max_committed_size_per_ready: COMMITTED_BYTES_MAX,
        ..raft::Config::default()
    }
}

/// Bytes of committed entries in one output; a replica that starts applies its log in such steps.
const COMMITTED_BYTES_MAX: u64 = 1024 * 1024;

/// Why a replica cannot start.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// What the disk has does not fit together.
    #[error("{what}")]
    Inconsistent {
        /// What does not fit.
        what: &'static str,
    },
    /// A relation between the options does not hold.
    #[error(transparent)]
    Options(#[from] InvalidOptions),
    /// The `raft` crate refused the configuration.
    #[error("raft refused to start: {reason}")]
    Raft {
        /// In its words.
        reason: String,
    },
}
