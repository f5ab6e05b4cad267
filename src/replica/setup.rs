//! What a replica begins with, and its times and limits.
//!
//! Pure.

use std::time::Duration;

use super::store::SharedLog;
use crate::consensus;
use crate::consensus::membership::Bootstrap;
use crate::id::Incarnation;
use crate::timer::Time;
use crate::wal;

/// Times and limits of a replica.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Options {
    /// Those of the consensus below.
    pub consensus: consensus::Options,
    /// Proposals that may wait for the quorum [default: 16,384]. Larger: more memory while there
    /// is no quorum. Smaller: bursts are refused.
    pub proposals_max: usize,
    /// Bytes of commands that may wait for the quorum [default: 32 MiB]. Larger and smaller: as
    /// above. Must not be more than the limit of the consensus.
    pub proposal_bytes_max: usize,
    /// Reads that may wait for the quorum [default: 65,536].
    pub reads_max: usize,
    /// How long ago a voter may have had everything and still be in sync [default: 10 s]; see
    /// [`Acks::All`](super::Acks::All). Larger: writes for `all` wait longer for a replica that is
    /// slow or dead. Smaller: a short pause puts a replica out of the set.
    pub in_sync_lag_max: Duration,
    /// Entries that a learner may lack when it is made a voter [default: 1,000]. Larger: the quorum
    /// may have to wait for it. Smaller: under load it may never be near enough.
    pub promote_lag_max: u64,
    /// Bytes of one command [default: 8 MiB and 8 KiB].
    pub command_bytes_max: usize,
    /// Entries after the last snapshot after which the next is taken [default: 100,000].
    /// Larger: a start has more to apply again, and memory and disk hold
    /// more entries. Smaller: snapshots are written more often, but never before the log has grown
    /// by the size of the last one.
    pub snapshot_entries: u64,
    /// Bytes of log after the last snapshot after which the next is taken [default: 64 MiB].
    /// Larger and smaller: as above. Up to twice as much log is kept, or twice the size of the last
    /// snapshot if that is more, so that a damaged snapshot loses nothing.
    pub snapshot_bytes: u64,
    /// Bytes in which a snapshot is sent to a replica that lacks what the log has forgotten
    /// [default: 256 KiB], at most four under way. Larger, up to 1 MiB: other messages
    /// wait longer behind each part. Smaller: more messages.
    pub snapshot_part_bytes: usize,
    /// Time between two marks, at which the replicas compare their states [default: 10 min; zero for
    /// never]. Each costs one entry, and on each replica one pass over its state in the background;
    /// nothing if nothing was applied. Larger: a replica that went astray is found later. Smaller:
    /// more work.
    pub hash_interval: Duration,
    /// Bytes of files that are read again per second, to find damage while there are other copies
    /// [default: 5 MiB; 0 for none]. Larger: more of the disk's time. Smaller: damage is found later.
    pub scrub_bytes_per_second: u64,
    /// Time between the end of one reading of all files and the next [default: 1 day]. Larger and
    /// smaller: as above.
    pub scrub_interval: Duration,
    /// How often a leader looks how far the others lag [default: 2 s]. It decides what the status
    /// shows; catching up itself needs no such impulse.
    pub repair_interval: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            consensus: consensus::Options::default(),
            proposals_max: 16_384,
            proposal_bytes_max: 32 * 1024 * 1024,
            reads_max: 65_536,
            in_sync_lag_max: Duration::from_secs(10),
            promote_lag_max: 1_000,
            command_bytes_max: 8 * 1024 * 1024 + 8192,
            snapshot_entries: 100_000,
            snapshot_bytes: 64 * 1024 * 1024,
            snapshot_part_bytes: 256 * 1024,
            hash_interval: Duration::from_secs(600),
            scrub_bytes_per_second: 5 << 20,
            scrub_interval: Duration::from_secs(24 * 60 * 60),
            repair_interval: Duration::from_secs(2),
        }
    }
}

/// What a core begins with.
#[derive(Debug)]
pub struct Setup<M, L = SharedLog> {
    /// Raft id of this replica.
    pub raft_id: u64,
    /// This start of the process.
    pub incarnation: Incarnation,
    /// The members the cluster began with.
    pub bootstrap: Bootstrap,
    /// The snapshot that the machine was restored from, if any.
    pub snapshot: Option<consensus::Snapshot>,
    /// Snapshots before that one which are still on disk, in order; the log goes on from each.
    pub older_snapshots: Vec<wal::Point>,
    /// What the disk remembers.
    pub hard_state: wal::HardState,
    /// The entries on disk.
    pub log: L,
    /// The machine as of the snapshot, or an empty one; later entries are applied to it again.
    pub machine: M,
    /// Times and limits.
    pub options: Options,
    /// Election timeouts are drawn from it.
    pub rng: fastrand::Rng,
    /// The time of the start.
    pub now: Time,
}
