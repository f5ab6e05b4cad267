//! What a node tells about itself: the answer to the system request `_mesh.status`.
//!
//! The answer is JSON, so that a client in any language, or a person with a packet dump, reads it
//! without our types. Its fields are a promise of their own, apart from the structs they are taken
//! from: a field may be added, none is renamed, removed or given another meaning.
//!
//! Pure apart from asking the node and the replica, which answer from memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::consensus::{FollowerState, Role};
use crate::node::{
    Direction, HandlerError, Node, NodeStatus, PeerView, RegisterError, RequestError,
};
use crate::protocol::system::Labels;
use crate::replica::{self, Progress, Stopped};
use crate::transport::{Address, Kind};
use crate::{ErrorCode, NodeId, keys};

/// The subject of the request; its payload is ignored.
pub const SUBJECT: &str = "_mesh.status";
/// Requests for a status that are answered at once.
const ANSWERS_MAX: usize = 64;

/// What only the program knows that runs the node.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Build {
    /// Version of zmesh.
    pub version: String,
    /// Version of libzmq as linked.
    pub libzmq: String,
    /// Whether libzmq could encrypt links. Whether it does is [`Status::encrypted`].
    pub curve: bool,
    /// Whether the node was allowed to listen, unencrypted, where other machines can reach it.
    pub insecure: bool,
    /// What moves its messages.
    #[serde(default)]
    pub transport: Kind,
    /// When writes of the replica reach the disk: `always` is before they are acknowledged, with
    /// `interval` and `never` a power cut may take acknowledged writes back. None without a replica.
    pub sync: Option<String>,
}

/// A node at one moment.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Status {
    /// Its name.
    pub node: NodeId,
    /// Which life of it, 16 hex digits; random at each start.
    pub incarnation: String,
    /// The mesh it belongs to.
    pub cluster: String,
    /// Where it can be dialed, if it listens.
    pub address: Option<Address>,
    /// What it says about itself; names that begin with `_` belong to the system.
    pub labels: Labels,
    /// Seconds since it started.
    pub uptime_seconds: f64,
    /// Whether links are encrypted.
    pub encrypted: bool,
    /// What it is made of.
    #[serde(flatten)]
    pub build: Build,
    /// The replica of the key-value store; none if the node runs none.
    pub replica: Option<ReplicaStatus>,
    /// The replicas of the log, by group; empty if the node runs none.
    #[serde(default)]
    pub log: Vec<ReplicaStatus>,
    /// Peers that have joined, in the order of their names.
    pub peers: Vec<Peer>,
    /// Its requests that are not answered yet.
    pub in_flight: usize,
    /// Envelopes received and understood.
    pub received: u64,
    /// Envelopes handed to the transport.
    pub sent: u64,
    /// Everything that was dropped, refused or lost since the start, by reason. The reasons are the
    /// fields of [`Counters`](crate::Counters) and of
    /// [`transport::Counters`](crate::transport::Counters).
    pub drops: BTreeMap<String, u64>,
}

/// One peer of a node.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Peer {
    /// Its name.
    pub node: NodeId,
    /// Which life of it.
    pub incarnation: String,
    /// Where it can be dialed, if it listens.
    pub address: Option<Address>,
    /// Who dialed whom; both if there are two links.
    pub directions: Vec<Direction>,
    /// What it says about itself.
    pub labels: Labels,
    /// Requests to it that it has not answered.
    pub in_flight: usize,
    /// Messages that wait in the queue to it.
    pub queued: usize,
}

/// A replica at one moment.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "lowercase", tag = "phase")]
pub enum ReplicaStatus {
    /// It may have lost writes that it had confirmed, and waits until the others have a leader.
    Doubtful,
    /// It waits for the other initial members.
    Forming {
        /// Members that have not been seen.
        missing: Vec<NodeId>,
    },
    /// It takes part.
    Running(Box<Running>),
    /// It does not take part.
    Stopped(Stopped),
}

/// A replica that takes part.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Running {
    /// What it is.
    pub role: Role,
    /// The present term.
    pub term: u64,
    /// The node that leads, if known.
    pub leader: Option<NodeId>,
    /// The first index that its log still has.
    #[serde(default)]
    pub first_index: u64,
    /// The last index of its log.
    pub last_index: u64,
    /// Entries that its log has.
    #[serde(default)]
    pub entries: u64,
    /// The highest index known to be committed.
    pub commit: u64,
    /// The highest index that the machine has seen.
    pub applied: u64,
    /// Voting members, in the order of their names.
    pub voters: Vec<NodeId>,
    /// Members that receive everything and decide nothing.
    pub learners: Vec<NodeId>,
    /// On a leader: how far the others are, in the order of their names. Empty elsewhere.
    pub followers: Vec<Follower>,
    /// On a leader: voters that are in sync, the leader among them, in the order of their names.
    /// Empty elsewhere.
    #[serde(default)]
    pub in_sync: Vec<NodeId>,
    /// On a leader: whether there are voters that are not.
    #[serde(default)]
    pub under_replicated: bool,
    /// For how many milliseconds there have been such voters, without a break.
    #[serde(default)]
    pub under_replicated_ms: Option<u64>,
    /// How often a voter fell out of sync while this replica led, since the start.
    #[serde(default)]
    pub in_sync_shrinks: u64,
    /// How often one came into sync again.
    #[serde(default)]
    pub in_sync_grows: u64,
    /// Writes of the level `none` that came here and got no further, since the start.
    #[serde(default)]
    pub unanswered_dropped: u64,
    /// Proposals that wait for the quorum.
    pub proposals_waiting: usize,
    /// Reads that wait for the quorum.
    pub reads_waiting: usize,
    /// Whether the disk has room for more entries; without it, writes are refused.
    pub has_room: bool,
    /// The last index in its newest snapshot, if it has one.
    #[serde(default)]
    pub snapshot_index: Option<u64>,
    /// Bytes of that.
    #[serde(default)]
    pub snapshot_bytes: u64,
    /// Whether one is being written.
    #[serde(default)]
    pub snapshot_writing: bool,
    /// How many were written since the start.
    #[serde(default)]
    pub snapshots_taken: u64,
    /// The newest difference between the states of the members that this one has found.
    #[serde(default)]
    pub divergence: Option<Box<replica::Divergence>>,
    /// The first damage that reading its files again has found.
    #[serde(default)]
    pub damage: Option<Box<str>>,
}

/// A follower as its leader sees it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Follower {
    /// Its name.
    pub node: NodeId,
    /// The last index it is known to have on disk.
    pub matched: u64,
    /// Entries it does not have.
    pub lag: u64,
    /// What is done about it.
    pub state: FollowerState,
    /// Whether it was heard of within the last election timeout.
    pub active: bool,
}

/// Answers `_mesh.status` on `node` from here on. Keeps neither the node nor the replica running.
///
/// # Errors
///
/// [`RegisterError::Taken`]: the node answers already.
pub fn serve(
    node: &Node,
    replica: Option<&replica::Replica>,
    log: &[replica::Replica],
    build: Build,
) -> Result<(), RegisterError> {
    let (weak, replica) = (node.downgrade(), replica.map(replica::Replica::downgrade));
    let log: Arc<[_]> = log.iter().map(replica::Replica::downgrade).collect();
    node.on_system(SUBJECT, keys::Role::Client).concurrent(ANSWERS_MAX).request_raw(
        move |_call| {
            let (weak, replica, build) = (weak.clone(), replica.clone(), build.clone());
            let log = Arc::clone(&log);
            async move {
                let gone = || HandlerError::new(ErrorCode::ShuttingDown, "the node is stopping");
                let node = weak.upgrade().ok_or_else(gone)?;
                let replica = replica.and_then(|replica| replica.upgrade());
                let log: Vec<_> = log.iter().filter_map(|replica| replica.upgrade()).collect();
                let status = Status::of(&node, replica.as_ref(), &log, build).await;
                match serde_json::to_vec(&status) {
                    Ok(json) => Ok(Bytes::from(json)),
                    Err(error) => Err(HandlerError::failed(error.to_string())),
                }
            }
        },
    )?;
    Ok(())
}

/// Asks a peer for its status.
///
/// # Errors
///
/// [`AskError`]; asking changes nothing.
///
/// # Cancel safety
///
/// Dropping the future changes nothing.
pub async fn ask(node: &Node, peer: &NodeId, within: Duration) -> Result<Status, AskError> {
    let answer = node.system_request(peer, SUBJECT, Bytes::new()).timeout(within).await?;
    serde_json::from_slice(&answer)
        .map_err(|error| AskError::Answer { peer: peer.clone(), reason: error.to_string() })
}

/// Why there is no status of a peer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// What came back is no status.
    #[error("the answer of {peer} is no status: {reason}")]
    Answer {
        /// Who answered.
        peer: NodeId,
        /// What is wrong with it.
        reason: String,
    },
    /// No answer came back.
    #[error(transparent)]
    Request(#[from] RequestError),
}

impl Status {
    /// The status of `node`, of its replica of the store and of those of the log.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn of(
        node: &Node,
        replica: Option<&replica::Replica>,
        log: &[replica::Replica],
        build: Build,
    ) -> Self {
        let replica = match replica {
            Some(replica) => Some(replica.status().await.into()),
            None => None,
        };
        let mut groups = Vec::with_capacity(log.len());
        for group in log {
            groups.push(group.status().await.into());
        }
        Self::new(node.status(), replica, groups, build)
    }

    fn new(
        node: NodeStatus,
        replica: Option<ReplicaStatus>,
        log: Vec<ReplicaStatus>,
        build: Build,
    ) -> Self {
        let drops = drops(&node);
        Self {
            node: node.node,
            incarnation: node.incarnation.to_string(),
            cluster: node.cluster,
            address: node.address,
            labels: node.labels,
            uptime_seconds: node.uptime_seconds,
            encrypted: node.encrypted,
            build,
            replica,
            log,
            peers: node.peers.into_iter().map(Peer::from).collect(),
            in_flight: node.in_flight,
            received: node.counters.received,
            sent: node.counters.sent,
            drops,
        }
    }

    /// The replica of the store, if it takes part.
    pub fn running(&self) -> Option<&Running> {
        self.replica.as_ref().and_then(ReplicaStatus::running)
    }

    /// The term in which it leads, if it does by its own account. Of several that claim to lead,
    /// only the one with the highest term can still have anything committed.
    pub fn leads_in(&self) -> Option<u64> {
        self.running().filter(|running| running.role == Role::Leader).map(|running| running.term)
    }

    /// Everything that was dropped, refused or lost, together.
    pub fn drops_total(&self) -> u64 {
        self.drops.values().sum()
    }
}

/// The counters of everything that went wrong, under the names of their fields.
fn drops(node: &NodeStatus) -> BTreeMap<String, u64> {
    let mut drops = BTreeMap::new();
    let of_node = serde_json::to_value(&node.counters);
    let of_transport = serde_json::to_value(node.transport);
    for value in [of_node, of_transport] {
        let fields = value.expect("counters are numbers under names");
        for (name, value) in fields.as_object().into_iter().flatten() {
            // What went well is not a drop.
            if !["received", "sent", "accepted"].contains(&name.as_str()) {
                collect(&mut drops, name, value);
            }
        }
    }
    drops
}

/// A counter, or one for each reason.
fn collect(drops: &mut BTreeMap<String, u64>, name: &str, value: &serde_json::Value) {
    if let Some(count) = value.as_u64() {
        drops.insert(name.to_owned(), count);
    }
    for (reason, count) in value.as_object().into_iter().flatten() {
        collect(drops, &format!("{name}.{reason}"), count);
    }
}

impl ReplicaStatus {
    /// More about it, if it takes part.
    pub fn running(&self) -> Option<&Running> {
        match self {
            Self::Running(running) => Some(running),
            Self::Doubtful | Self::Forming { .. } | Self::Stopped(_) => None,
        }
    }
}

impl From<PeerView> for Peer {
    fn from(view: PeerView) -> Self {
        Self {
            node: view.node,
            incarnation: view.incarnation.to_string(),
            address: view.address,
            directions: view.directions,
            labels: view.labels,
            in_flight: view.in_flight,
            queued: view.queued,
        }
    }
}

impl From<Progress> for ReplicaStatus {
    fn from(progress: Progress) -> Self {
        match progress {
            Progress::Doubtful => Self::Doubtful,
            Progress::Forming { missing } => Self::Forming { missing },
            Progress::Running(status) => Self::Running(Box::new((*status).into())),
            Progress::Stopped(stopped) => Self::Stopped(stopped),
        }
    }
}

impl From<replica::Status> for Running {
    fn from(status: replica::Status) -> Self {
        let names: BTreeMap<u64, NodeId> =
            status.members.iter().map(|member| (member.raft_id, member.node.clone())).collect();
        let named = |voter| {
            let members = status.members.iter().filter(move |member| member.voter == voter);
            let mut nodes: Vec<NodeId> = members.map(|member| member.node.clone()).collect();
            nodes.sort();
            nodes
        };
        let followers = status.followers.iter().filter_map(|follower| {
            Some(Follower {
                node: names.get(&follower.raft_id)?.clone(),
                matched: follower.matched,
                lag: follower.lag,
                state: follower.state,
                active: follower.active,
            })
        });
        let mut followers: Vec<Follower> = followers.collect();
        followers.sort_by(|a, b| a.node.cmp(&b.node));
        Self {
            role: status.role,
            term: status.term,
            leader: status.leader.clone(),
            first_index: status.first_index,
            last_index: status.last_index,
            entries: (status.last_index + 1).saturating_sub(status.first_index),
            commit: status.commit,
            applied: status.applied,
            voters: named(true),
            learners: named(false),
            followers,
            under_replicated: status.acks.in_sync.is_under_replicated(),
            in_sync: status.acks.in_sync.members,
            under_replicated_ms: status.acks.under_replicated_ms,
            in_sync_shrinks: status.acks.shrinks,
            snapshot_index: status.snapshots.index,
            snapshot_bytes: status.snapshots.bytes,
            snapshot_writing: status.snapshots.writing,
            snapshots_taken: status.snapshots.taken,
            in_sync_grows: status.acks.grows,
            unanswered_dropped: status.acks.unanswered_dropped,
            proposals_waiting: status.waiting.proposals,
            reads_waiting: status.waiting.reads,
            has_room: status.has_room,
            divergence: status.hashes.divergence.clone().map(Box::new),
            damage: status.scrub.damage.map(String::into_boxed_str),
        }
    }
}
