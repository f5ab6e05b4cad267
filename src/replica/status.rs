//! What a replica says about itself.

use super::core::InSync;
use crate::consensus::membership::Member;
use crate::consensus::{Follower, Refusals, Role};
use crate::id::NodeId;
use crate::replica::hashes::{Divergence, StateHash};

/// A replica at one moment.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Status {
    /// Raft id of this replica.
    pub raft_id: u64,
    /// What it is.
    pub role: Role,
    /// The present term.
    pub term: u64,
    /// The node that leads, if known.
    pub leader: Option<NodeId>,
    /// The first index that the log still has; one more than the last when it has none.
    pub first_index: u64,
    /// The last index of the log, persisted or not.
    pub last_index: u64,
    /// The highest index known to be committed.
    pub commit: u64,
    /// The highest index that the machine has seen.
    pub applied: u64,
    /// The members, by raft id.
    pub members: Vec<Member>,
    /// On a leader: how far the others are, by raft id.
    pub followers: Vec<Follower>,
    /// On a leader: what was done for followers that lag.
    pub repair: Repair,
    /// Who is in sync, and what waits for that.
    pub acks: Acknowledging,
    /// What there is of snapshots, and which are on their way.
    pub snapshots: Snapshots,
    /// What comparing the states of the members has come to.
    pub hashes: Hashes,
    /// What reading the files again has come to.
    pub scrub: Scrub,
    /// Proposals that wait for the quorum, and their bytes.
    pub waiting: Waiting,
    /// What was refused at the door since the start.
    pub refusals: Refusals,
    /// Whether the disk has room for more entries; without it, writes are refused.
    pub has_room: bool,
    /// Why the replica has stopped, if so.
    pub failure: Option<String>,
}

/// Acknowledgements of this replica, counted since its start.
#[derive(Clone, Debug, Default, Eq, PartialEq, serde::Serialize)]
pub struct Acknowledging {
    /// On a leader: which voters are in sync.
    pub in_sync: InSync,
    /// On a leader: for how long voters have lagged without a break; none if none does.
    pub under_replicated_ms: Option<u64>,
    /// How often a voter fell out of the set while this replica led.
    pub shrinks: u64,
    /// How often one came into it again.
    pub grows: u64,
    /// Writes for `all` that are committed and wait for the rest of the set.
    pub waiting: usize,
    /// Writes for `none` that came here and got no further, since nobody was told.
    pub unanswered_dropped: u64,
}

/// Snapshots of this replica, counted since its start.
#[derive(Clone, Debug, Default, Eq, PartialEq, serde::Serialize)]
pub struct Snapshots {
    /// The last index in the newest one, if there is one.
    pub index: Option<u64>,
    /// Bytes of its file.
    pub bytes: u64,
    /// How many are kept on disk.
    pub kept: usize,
    /// Whether one is being written.
    pub writing: bool,
    /// How many were written.
    pub taken: u64,
    /// How many this replica continued from, because its log was too far behind.
    pub installed: u64,
    /// How many could not be written.
    pub failed: u64,
    /// To followers.
    pub sending: Vec<Transfer>,
    /// From the leader.
    pub receiving: Option<Transfer>,
}

/// Comparisons of states, counted since the start.
#[derive(Clone, Debug, Default, Eq, PartialEq, serde::Serialize)]
pub struct Hashes {
    /// The newest sums of this replica, oldest first.
    #[serde(skip)]
    pub own: Vec<StateHash>,
    /// How often the state of this replica was equal to that of the members which had told theirs.
    pub equal: u64,
    /// Marks at which the one before was still being worked on.
    pub skipped: u64,
    /// The newest difference that was found.
    pub divergence: Option<Divergence>,
}

/// What reading the files again has come to, counted since the start.
#[derive(Clone, Debug, Default, Eq, PartialEq, serde::Serialize)]
pub struct Scrub {
    /// Times that everything was read.
    pub passes: u64,
    /// Bytes that were read and were right.
    pub bytes: u64,
    /// Files that were found to be damaged.
    pub damaged: u64,
    /// Files that could not be read.
    pub failed: u64,
    /// The first damage. A replica that has some hands the leadership on and stays away from it,
    /// and otherwise takes part: what it has in memory is right.
    pub damage: Option<String>,
}

/// A snapshot on its way.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize)]
pub struct Transfer {
    /// The other side.
    pub raft_id: u64,
    /// The last index in it.
    pub index: u64,
    /// Bytes that the receiver has; on the sender's side, that it has at least asked for.
    pub bytes: u64,
    /// Bytes of all of it.
    pub bytes_total: u64,
}

/// What waits for the quorum.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Serialize)]
pub struct Waiting {
    /// Proposals.
    pub proposals: usize,
    /// Bytes of their commands.
    pub bytes: usize,
    /// Reads.
    pub reads: usize,
}

/// What a leader did for followers that lag, counted at every repair interval since it leads.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Serialize)]
pub struct Repair {
    /// Times it looked.
    pub rounds: u64,
    /// Followers that lagged when it last looked.
    pub behind: usize,
    /// Entries that lagging followers were brought nearer, in all rounds.
    pub entries: u64,
}
