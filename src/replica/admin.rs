//! Shell: Looks at and changes the members of a replicated service from any node of the mesh.
//!
//! A node need not run a replica for that: it asks the leader, or a replica that passes it on. Every
//! change may be asked for again, since what is so already counts as done, so a lost answer is no
//! reason to stop.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::ack::AckLevel;
use super::core::Applied;
use super::error::{ClientError, ReplicaError};
use super::hashes::Divergence;
use super::service::{self, Operation, Verb};
use super::session::Submission;
use super::status::Status;
use crate::consensus::{FollowerState, Role};
use crate::error::ErrorCode;
use crate::id::NodeId;
use crate::node::{Node, PeerView};
use crate::timer::{Clock, Time};

/// How long one node may take to answer before another is asked.
const ATTEMPT_MAX: Duration = Duration::from_secs(3);
/// Wait before something is asked for again.
const PAUSE: Duration = Duration::from_millis(100);

/// The members of one service, seen and changed from outside.
///
/// # Examples
///
/// ```no_run
/// # async fn example(node: zmesh::Node) -> Result<(), Box<dyn std::error::Error>> {
/// use zmesh::replica::Admin;
/// let timeout = std::time::Duration::from_secs(10);
/// for service in Admin::services(&node) {
///     let admin = Admin::new(&node, &service);
///     admin.add_learner(&"n4".parse()?, timeout).await?;
///     println!("{:?}", admin.members(timeout).await?);
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Admin {
    node: Node,
    service: String,
    clock: Clock,
}

/// The members of a service, as one replica knows them. JSON on the wire: fields may be added, none
/// is renamed, removed or given another meaning.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Roster {
    /// The service.
    pub service: String,
    /// Who answered.
    pub node: NodeId,
    /// What it is.
    pub role: Role,
    /// Its term.
    pub term: u64,
    /// The node that leads, if known.
    pub leader: Option<NodeId>,
    /// The highest index that it knows to be committed.
    pub commit: u64,
    /// The members, in the order of their names.
    pub members: Vec<RosterMember>,
}

/// One member.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct RosterMember {
    /// Its name.
    pub node: NodeId,
    /// Which directory of it, 16 hex digits.
    pub raft_id: String,
    /// Whether it decides, or only receives.
    pub voter: bool,
    /// How far it is, if the leader was asked and this is another member.
    #[serde(flatten)]
    pub progress: Option<RosterProgress>,
}

/// How far a member is, as the leader sees it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct RosterProgress {
    /// Entries it does not have.
    pub lag: u64,
    /// What is done about it.
    pub state: FollowerState,
    /// Whether it was heard of within the last election timeout.
    pub active: bool,
    /// Bytes it has of the snapshot that is on its way to it; 0 if none is.
    pub snapshot_bytes: u64,
    /// Bytes of all of that snapshot.
    pub snapshot_bytes_total: u64,
}

/// The newest states of one replica, summed up. JSON on the wire, as a [`Roster`] is.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct HashReport {
    /// Who answered.
    pub node: NodeId,
    /// Which directory of it, 16 hex digits.
    pub raft_id: String,
    /// The highest index that it has applied.
    pub applied: u64,
    /// The sums at its newest marks, oldest first.
    pub hashes: Vec<HashAt>,
    /// Marks at which it was still at work on the one before.
    pub skipped: u64,
    /// The newest difference that it has found itself.
    pub divergence: Option<Divergence>,
}

/// The state after one entry, summed up.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct HashAt {
    /// The entry.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// FNV-1a over the bytes of the snapshot of that state, 16 hex digits.
    pub hash: String,
    /// Bytes that were summed up.
    pub bytes: u64,
}

impl HashReport {
    pub(super) fn new(node: NodeId, status: &Status) -> Self {
        let hashes = status.hashes.own.iter().map(|it| HashAt {
            index: it.point.index,
            term: it.point.term,
            hash: format!("{:016x}", it.hash),
            bytes: it.bytes,
        });
        Self {
            node,
            raft_id: format!("{:016x}", status.raft_id),
            applied: status.applied,
            hashes: hashes.collect(),
            skipped: status.hashes.skipped,
            divergence: status.hashes.divergence.clone(),
        }
    }
}

impl Roster {
    /// The member of this name.
    pub fn member(&self, node: &NodeId) -> Option<&RosterMember> {
        self.members.iter().find(|member| member.node == *node)
    }

    pub(super) fn new(service: &str, node: NodeId, status: &Status) -> Self {
        let progress = |raft_id: u64| {
            let follower = status.followers.iter().find(|it| it.raft_id == raft_id)?;
            let sending = status.snapshots.sending.iter().find(|it| it.raft_id == raft_id);
            Some(RosterProgress {
                lag: follower.lag,
                state: follower.state,
                active: follower.active,
                snapshot_bytes: sending.map_or(0, |sending| sending.bytes),
                snapshot_bytes_total: sending.map_or(0, |sending| sending.bytes_total),
            })
        };
        let members = status.members.iter().map(|member| RosterMember {
            node: member.node.clone(),
            raft_id: format!("{:016x}", member.raft_id),
            voter: member.voter,
            progress: progress(member.raft_id),
        });
        let mut members: Vec<_> = members.collect();
        members.sort_by(|a, b| a.node.cmp(&b.node));
        let (role, term, leader) = (status.role, status.term, status.leader.clone());
        let service = service.to_owned();
        Self { service, node, role, term, leader, commit: status.commit, members }
    }
}

impl Admin {
    /// The members of `service`, such as `kv`.
    pub fn new(node: &Node, service: &str) -> Self {
        Self { node: node.clone(), service: service.to_owned(), clock: Clock::start() }
    }

    /// The replicated services that linked nodes run, in the order of their names. A node that has
    /// just started may not know all of its peers.
    pub fn services(node: &Node) -> Vec<String> {
        let mut services = BTreeSet::new();
        for peer in node.peers() {
            services.extend(peer.labels.keys().filter_map(|label| {
                let service = label.strip_prefix('_')?.strip_suffix(".cluster")?;
                (!service.is_empty()).then(|| service.to_owned())
            }));
        }
        services.into_iter().collect()
    }

    /// The service.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// Whether a linked node of this name has a directory for the service, as a member or as one
    /// that waits to be added.
    pub fn runs(&self, node: &NodeId) -> bool {
        let label = super::formation::raft_id_label(&self.service);
        self.node.peers().iter().any(|peer| peer.node == *node && peer.labels.contains_key(&label))
    }

    /// The members, from the leader if one is known; it alone knows how far the others are.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; asking changes nothing.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn members(&self, timeout: Duration) -> Result<Roster, ClientError> {
        let deadline = self.clock.now() + timeout;
        let subject = service::list_subject(&self.service);
        let (node, bytes) = self.ask(&subject, &Bytes::new(), deadline, |_| true).await?;
        let roster: Option<Roster> = serde_json::from_slice(&bytes).ok();
        roster.ok_or(ClientError::InvalidAnswer { node })
    }

    /// As [`Replica::add_learner`](super::Replica::add_learner), tried again until the timeout.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; asking again is safe whatever its effect is.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not recall it: it may be done, or be done yet.
    pub async fn add_learner(
        &self,
        member: &NodeId,
        timeout: Duration,
    ) -> Result<Applied, ClientError> {
        self.change(Verb::Add, member, timeout).await
    }

    /// As [`Replica::promote`](super::Replica::promote), tried again until the timeout.
    ///
    /// # Errors
    ///
    /// As [`add_learner`](Self::add_learner).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not recall it: it may be done, or be done yet.
    pub async fn promote(
        &self,
        member: &NodeId,
        timeout: Duration,
    ) -> Result<Applied, ClientError> {
        self.change(Verb::Promote, member, timeout).await
    }

    /// As [`Replica::remove`](super::Replica::remove), tried again until the timeout.
    ///
    /// # Errors
    ///
    /// As [`add_learner`](Self::add_learner); `MEMBER_UNKNOWN` if there was no such member before.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not recall it: it may be done, or be done yet.
    pub async fn remove(&self, member: &NodeId, timeout: Duration) -> Result<Applied, ClientError> {
        let deadline = self.clock.now() + timeout;
        let roster = self.members(timeout).await?;
        if roster.member(member).is_none() {
            return Err(ReplicaError::MemberUnknown { node: member.clone() }.into());
        }
        match self.change(Verb::Remove, member, self.left(deadline)).await {
            // An earlier try has removed it, and its answer was lost.
            Err(error) if error.code() == ErrorCode::MemberUnknown => {
                // How it is held was in that answer, so the least is claimed.
                let level = AckLevel::QuorumUnsynced;
                let (index, term) = (roster.commit, roster.term);
                Ok(Applied { index, term, level, response: Bytes::new() })
            }
            other => other,
        }
    }

    /// As [`Replica::transfer`](super::Replica::transfer), tried again until the timeout.
    ///
    /// # Errors
    ///
    /// As [`add_learner`](Self::add_learner).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not recall it: it may be done, or be done yet.
    pub async fn transfer(
        &self,
        member: &NodeId,
        timeout: Duration,
    ) -> Result<Applied, ClientError> {
        self.change(Verb::Transfer, member, timeout).await
    }

    /// Sets a mark, at which the replicas compare their states; returns its index.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; a mark changes nothing.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not recall it: it may be done, or be done yet.
    pub async fn mark(&self, timeout: Duration) -> Result<u64, ClientError> {
        let deadline = self.clock.now() + timeout;
        let subject = Operation::Command.subject(&self.service);
        let mark = Submission::Mark.encode();
        let (node, bytes) = self.ask(&subject, &mark, deadline, |_| true).await?;
        let applied = service::decode(bytes);
        applied.map(|applied| applied.index).ok_or(ClientError::InvalidAnswer { node })
    }

    /// The newest sums of one replica.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; asking changes nothing.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn hashes(
        &self,
        node: &NodeId,
        timeout: Duration,
    ) -> Result<HashReport, ClientError> {
        let subject = service::hash_subject(&self.service);
        let request = self.node.system_request(node, &subject, Bytes::new()).timeout(timeout);
        let bytes = request.await.map_err(|error| ClientError::from(error).without_effect())?;
        let report: Option<HashReport> = serde_json::from_slice(&bytes).ok();
        report.ok_or_else(|| ClientError::InvalidAnswer { node: node.clone() })
    }

    async fn change(
        &self,
        verb: Verb,
        member: &NodeId,
        timeout: Duration,
    ) -> Result<Applied, ClientError> {
        let deadline = self.clock.now() + timeout;
        let name = Bytes::copy_from_slice(member.as_str().as_bytes());
        let subject = Operation::Member(verb).subject(&self.service);
        // A node that is to be added may be on its way; one that is to go and is not there has gone.
        let again = |code| !(verb == Verb::Remove && code == ErrorCode::MemberUnknown);
        let (node, bytes) = self.ask(&subject, &name, deadline, again).await?;
        service::decode(bytes).ok_or(ClientError::InvalidAnswer { node })
    }

    /// Asks one replica after the other until one answers or time is up. What is asked may be done
    /// twice.
    async fn ask(
        &self,
        subject: &str,
        payload: &Bytes,
        deadline: Time,
        again: impl Fn(ErrorCode) -> bool,
    ) -> Result<(NodeId, Bytes), ClientError> {
        for turn in 0.. {
            let error = match self.choose(turn) {
                None => ClientError::NoReplica,
                Some(node) => {
                    let limit = self.left(deadline).min(ATTEMPT_MAX);
                    let request = self.node.system_request(&node, subject, payload.clone());
                    match request.timeout(limit).await {
                        Ok(bytes) => return Ok((node, bytes)),
                        Err(error) => ClientError::from(error),
                    }
                }
            };
            let code = error.code();
            let may_help = error.is_retryable() || code == ErrorCode::NoReplica;
            if !may_help || !again(code) || self.left(deadline) <= PAUSE {
                return Err(error);
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(ClientError::NoReplica)
    }

    fn left(&self, deadline: Time) -> Duration {
        deadline.saturating_since(self.clock.now())
    }

    /// Whom to ask: the leader first, then one member after the other.
    fn choose(&self, turn: usize) -> Option<NodeId> {
        let role = service::role_label(&self.service);
        let cluster = super::formation::cluster_label(&self.service);
        let mut peers = self.node.peers();
        peers.retain(|peer| peer.labels.contains_key(&cluster));
        let leads = |peer: &PeerView| peer.labels.get(&role).is_some_and(|it| it == "leader");
        peers.sort_by_key(|peer| !leads(peer));
        let at = turn.checked_rem(peers.len())?;
        peers.into_iter().nth(at).map(|peer| peer.node)
    }
}
