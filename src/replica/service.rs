//! Shell: A replica as a service of its node: commands and queries come as requests, the other
//! replicas' messages as ticks.
//!
//! Any node takes any client: a replica that does not lead passes the operation on to the one that
//! does, and waits for one while there is none. Only what certainly had no effect is tried again.
//!
//! | subject | |
//! |---|---|
//! | `_NAME.command` | a command, passed on to the leader |
//! | `_NAME.command.direct` | a command, for the leader only: others answer `NOT_LEADER` |
//! | the same as ticks | a command whose client waits for nothing |
//! | `_NAME.query`, `_NAME.query.direct` | a query, likewise |
//! | `_NAME.inquire`, `_NAME.inquire.direct` | what became of a command, likewise |
//! | `_NAME.query.stale` | a query, answered here and now |
//! | `_NAME.member.VERB`, `_NAME.member.VERB.direct` | a change of the members, likewise |
//! | `_NAME.member.bootstrap` | the first members, for a directory that begins |
//! | `_NAME.member.list` | the members, as this replica knows them |
//! | `_NAME.hash` | what the newest states of this replica sum up to |
//! | `_NAME.query.wait` | a query, answered here when what it waits for has happened |
//! | `_NAME.raft` | a tick with a frame of the consensus |

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::ack::{AckLevel, Acks};
use super::admin::{HashReport, Roster};
use super::core::{Applied, Reply};
use super::error::ReplicaError;
use super::formation::raft_id_label;
use super::handle::{Input, Progress, Shared};
use super::machine::CommandId;
use super::status::Status;
use crate::error::{Effect, ErrorCode};
use crate::id::NodeId;
use crate::keys::Role;
use crate::node::route::Filter;
use crate::node::{Call, HandlerError, Node, RegisterError, RequestError};
use crate::timer::Time;

/// Operations at work at once; what they cost is limited by the core.
const OPERATIONS_MAX: usize = 65_536;
/// Part of the time left that is kept for the way back, and the most that is kept.
const RETURN_SHARE: u32 = 10;
const RETURN_MAX: Duration = Duration::from_millis(100);
/// Wait before an operation is tried again when nothing tells that it would go better.
const RETRY_WAIT: Duration = Duration::from_millis(20);

pub(super) fn frames_subject(name: &str) -> String {
    format!("_{name}.raft")
}

/// The label of the replica that leads.
pub(super) fn role_label(name: &str) -> String {
    format!("_{name}.role")
}

/// Peers that run a replica of this service.
pub(crate) fn replicas(name: &str) -> Filter {
    Filter::has(&raft_id_label(name))
}

/// The peer that leads this service, by its own account.
pub(crate) fn leader(name: &str) -> Filter {
    Filter::label(&role_label(name), "leader")
}

/// Whether an operation changes anything.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Operation {
    /// Has a command applied.
    Command,
    /// Asks what became of a command.
    Inquire,
    /// Changes the members.
    Member(Verb),
    /// Asks the leader.
    Query,
    /// Asks any replica something that waits.
    Wait,
}

/// What is to be done with a member, whose name is the payload.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verb {
    Add,
    Promote,
    Remove,
    /// The payload is the raft id that the member had, then its name.
    Replace,
    Transfer,
}

impl Verb {
    const ALL: [Self; 5] = [Self::Add, Self::Promote, Self::Remove, Self::Replace, Self::Transfer];

    const fn name(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Promote => "promote",
            Self::Remove => "remove",
            Self::Replace => "replace",
            Self::Transfer => "transfer",
        }
    }
}

impl Operation {
    /// What it takes to ask for it.
    const fn needs(self) -> Role {
        match self {
            Self::Member(_) => Role::Admin,
            Self::Command | Self::Inquire | Self::Query | Self::Wait => Role::Client,
        }
    }

    /// The subject under which a replica takes the operation and passes it on.
    pub(crate) fn subject(self, name: &str) -> String {
        match self {
            Self::Command => format!("_{name}.command"),
            Self::Inquire => format!("_{name}.inquire"),
            Self::Member(verb) => format!("_{name}.member.{}", verb.name()),
            Self::Query => format!("_{name}.query"),
            Self::Wait => format!("_{name}.query.wait"),
        }
    }
}

/// The subject under which a replica answers a query from what it has applied.
pub(crate) fn stale_subject(name: &str) -> String {
    format!("{}.stale", Operation::Query.subject(name))
}

/// The subject under which a replica tells the first members of its cluster.
pub(super) fn bootstrap_subject(name: &str) -> String {
    format!("_{name}.member.bootstrap")
}

/// The subject under which a replica tells who the members are.
pub(super) fn list_subject(name: &str) -> String {
    format!("_{name}.member.list")
}

/// The subject under which a replica tells what its newest states sum up to.
pub(super) fn hash_subject(name: &str) -> String {
    format!("_{name}.hash")
}

/// Registers the handlers. They end when the replica is gone, which they do not keep alive.
///
/// # Errors
///
/// [`RegisterError`]: the node has had a replica of this name.
pub(super) fn register(
    node: &Node,
    name: &'static str,
    shared: &Arc<Shared>,
) -> Result<(), RegisterError> {
    let replica = Arc::downgrade(shared);
    let for_role = |role, subject: &str| node.on_system(subject, role).concurrent(OPERATIONS_MAX);
    let on = |subject: &str| for_role(Role::Client, subject);
    let weak = replica.clone();
    for_role(Role::Peer, &frames_subject(name))
        .tick_raw(move |call| take_frame(weak.upgrade(), call))?;
    let weak = replica.clone();
    on(&stale_subject(name)).request_raw(move |call| query_stale(weak.clone(), call))?;
    let weak = replica.clone();
    on(&Operation::Wait.subject(name)).request_raw(move |call| query_wait(weak.clone(), call))?;
    let weak = replica.clone();
    for_role(Role::Peer, &bootstrap_subject(name))
        .request_raw(move |_| tell_bootstrap(weak.upgrade()))?;
    let (weak, id) = (replica.clone(), node.id().clone());
    on(&list_subject(name)).request_raw(move |_| {
        let (shared, id) = (weak.upgrade(), id.clone());
        tell(shared, move |status| Roster::new(name, id, status))
    })?;
    let (weak, id) = (replica.clone(), node.id().clone());
    on(&hash_subject(name)).request_raw(move |_| {
        let (shared, id) = (weak.upgrade(), id.clone());
        tell(shared, move |status| HashReport::new(id, status))
    })?;
    for direct in [false, true] {
        let subject = Operation::Command.subject(name) + if direct { ".direct" } else { "" };
        let (node, weak) = (node.downgrade(), replica.clone());
        let service = Service { name, operation: Operation::Command, node, replica: weak };
        on(&subject).tick_raw(move |call| service.clone().take_unanswered(call, direct))?;
    }
    let members = Verb::ALL.map(Operation::Member);
    let others = [Operation::Command, Operation::Inquire, Operation::Query];
    for operation in others.into_iter().chain(members) {
        for direct in [false, true] {
            let subject = operation.subject(name) + if direct { ".direct" } else { "" };
            let replica = replica.clone();
            let service = Service { name, operation, node: node.downgrade(), replica };
            let handler = move |call| service.clone().handle(call, direct);
            for_role(operation.needs(), &subject).request_raw(handler)?;
        }
    }
    Ok(())
}

async fn take_frame(shared: Option<Arc<Shared>>, call: Call) -> Result<Bytes, HandlerError> {
    if let Some(shared) = shared {
        let from = call.peer.id().clone();
        // A full inbox drops and counts it; the sender sends again.
        drop(shared.push(Input::Frame { from, frame: call.payload }));
    }
    Ok(Bytes::new())
}

async fn tell_bootstrap(shared: Option<Arc<Shared>>) -> Result<Bytes, HandlerError> {
    let bootstrap = shared.and_then(|shared| shared.bootstrap.get().cloned());
    bootstrap.ok_or_else(|| HandlerError::new(ErrorCode::NoReplica, "the cluster has not begun"))
}

/// Answers in JSON from the present status.
async fn tell<T: serde::Serialize>(
    shared: Option<Arc<Shared>>,
    answer: impl FnOnce(&Status) -> T,
) -> Result<Bytes, HandlerError> {
    let shared = shared.ok_or_else(gone)?;
    match shared.status().await {
        Progress::Running(status) => {
            let json = serde_json::to_vec(&answer(&status));
            json.map(Bytes::from).map_err(|error| HandlerError::failed(error.to_string()))
        }
        Progress::Doubtful => Err(refusal(&ReplicaError::NoQuorum, None)),
        Progress::Forming { missing } => Err(refusal(&ReplicaError::NotFormed { missing }, None)),
        Progress::Stopped(_) => Err(gone()),
    }
}

async fn query_stale(shared: Weak<Shared>, call: Call) -> Result<Bytes, HandlerError> {
    let shared = shared.upgrade().ok_or_else(gone)?;
    let query = call.payload;
    let reply = shared.operate(|reply| Input::ReadStale { query, reply }).await;
    reply.map(|applied| encode(&applied)).map_err(|error| refusal(&error, None))
}

async fn query_wait(shared: Weak<Shared>, call: Call) -> Result<Bytes, HandlerError> {
    let shared = shared.upgrade().ok_or_else(gone)?;
    let left = call.peer.time_left().unwrap_or(shared.request_timeout);
    let deadline = shared.clock.now() + left.saturating_sub((left / RETURN_SHARE).min(RETURN_MAX));
    let query = call.payload;
    let reply = shared.operate(|reply| Input::Wait { query, deadline, reply }).await;
    reply.map(|applied| encode(&applied)).map_err(|error| refusal(&error, None))
}

fn gone() -> HandlerError {
    HandlerError::new(ErrorCode::NoReplica, "the replica has stopped")
}

/// One kind of operation as it is handled for others.
#[derive(Clone)]
struct Service {
    name: &'static str,
    operation: Operation,
    node: crate::node::WeakNode,
    replica: Weak<Shared>,
}

impl Service {
    async fn handle(self, call: Call, direct: bool) -> Result<Bytes, HandlerError> {
        let shared = self.replica.upgrade().ok_or_else(gone)?;
        let node = self.node.upgrade().ok_or_else(gone)?;
        let left = call.peer.time_left().unwrap_or(shared.request_timeout);
        let deadline =
            shared.clock.now() + left.saturating_sub((left / RETURN_SHARE).min(RETURN_MAX));
        let passing = Passing { name: self.name, operation: self.operation, node, shared };
        let held = passing.shared.hold(call.payload.len());
        let Some(_held) = held else { return Err(passing.refuse(&ReplicaError::ProposalsFull)) };
        match direct {
            true => {
                let reply = passing.here(call.payload, deadline).await;
                reply.map(|applied| encode(&applied)).map_err(|error| passing.refuse(&error))
            }
            false => passing.anywhere(call.payload, deadline).await,
        }
    }

    /// Takes a command whose client waits for nothing. What gets no further than here is counted.
    async fn take_unanswered(self, call: Call, direct: bool) -> Result<Bytes, HandlerError> {
        let (Some(shared), Some(node)) = (self.replica.upgrade(), self.node.upgrade()) else {
            return Ok(Bytes::new());
        };
        let passing = Passing { name: self.name, operation: self.operation, node, shared };
        let shared = Arc::clone(&passing.shared);
        let held = shared.hold(call.payload.len());
        let taken = match held {
            Some(_) => passing.onwards(call.payload, direct).await,
            None => Err(ReplicaError::ProposalsFull),
        };
        if let Err(error) = taken {
            tracing::debug!(%error, "dropped a command that nobody waits for");
            shared.unanswered_dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Bytes::new())
    }
}

/// Hands a command to the replica of this very node and waits for nothing but that.
///
/// # Errors
///
/// [`ReplicaError`]: it goes nowhere from here.
pub(super) async fn send(
    node: &Node,
    name: &'static str,
    shared: &Arc<Shared>,
    bytes: Bytes,
) -> Result<(), ReplicaError> {
    let (node, shared) = (node.clone(), Arc::clone(shared));
    Passing { name, operation: Operation::Command, node, shared }.onwards(bytes, false).await
}

/// Does an operation through the replica of this very node: here, or at the leader.
pub(super) async fn operate(
    node: &Node,
    name: &'static str,
    shared: &Arc<Shared>,
    operation: Operation,
    bytes: Bytes,
    timeout: Duration,
) -> Result<Bytes, HandlerError> {
    let deadline = shared.clock.now() + timeout;
    let (node, shared) = (node.clone(), Arc::clone(shared));
    Passing { name, operation, node, shared }.anywhere(bytes, deadline).await
}

/// An operation on its way to the leader.
struct Passing {
    name: &'static str,
    operation: Operation,
    node: Node,
    shared: Arc<Shared>,
}

impl Passing {
    async fn here(&self, bytes: Bytes, deadline: Time) -> Reply {
        let operation = self.operation;
        let id = match operation {
            Operation::Inquire => decode_id(bytes.clone()).ok_or(ReplicaError::CommandEmpty)?,
            Operation::Command | Operation::Member(_) | Operation::Query | Operation::Wait => {
                CommandId::default()
            }
        };
        let (acks, bytes) = match operation {
            Operation::Command => Acks::split(bytes).ok_or(ReplicaError::CommandEmpty)?,
            Operation::Inquire | Operation::Member(_) | Operation::Query | Operation::Wait => {
                (Acks::Quorum, bytes)
            }
        };
        let input = |reply| match operation {
            Operation::Command => Input::Propose { command: bytes, acks, deadline, reply },
            Operation::Inquire => Input::Inquire { id, deadline, reply },
            Operation::Member(verb) => Input::Member { verb, name: bytes, deadline, reply },
            Operation::Query => Input::Read { query: bytes, deadline, reply },
            Operation::Wait => Input::Wait { query: bytes, deadline, reply },
        };
        self.shared.operate(input).await
    }

    /// Takes a command here, or sends it to the leader, and tells nobody what became of it.
    async fn onwards(&self, bytes: Bytes, direct: bool) -> Result<(), ReplicaError> {
        let leader = self.shared.leadership().leader;
        match leader {
            Some(leader) if leader != *self.node.id() && !direct => {
                let subject = self.operation.subject(self.name) + ".direct";
                let sent = self.node.system_tick(&leader, &subject, bytes);
                sent.map_err(|_| ReplicaError::NotLeader { leader: Some(leader) })
            }
            Some(_) | None => {
                // Whatever it asks for, there is nobody to be told more than this.
                let (_, command) = Acks::split(bytes).ok_or(ReplicaError::CommandEmpty)?;
                let deadline = self.shared.clock.now() + self.shared.request_timeout;
                let acks = Acks::None;
                let input = |reply| Input::Propose { command, acks, deadline, reply };
                self.shared.operate(input).await.map(drop)
            }
        }
    }

    /// Tries here or at the leader until it is done, has failed for good, or time is up.
    async fn anywhere(&self, bytes: Bytes, deadline: Time) -> Result<Bytes, HandlerError> {
        loop {
            let changed = self.shared.leadership_changed();
            let refusal = match self.shared.leadership().leader {
                Some(leader) if leader != *self.node.id() => {
                    // Boxed: most clients ask the leader, and what waits here need not be large.
                    match Box::pin(self.there(&leader, bytes.clone(), deadline)).await {
                        Ok(answer) => return Ok(answer),
                        Err(refusal) => refusal,
                    }
                }
                Some(_) | None => match self.here(bytes.clone(), deadline).await {
                    Ok(applied) => return Ok(encode(&applied)),
                    // It will never know a leader again: others may.
                    Err(error @ ReplicaError::Stopped) => return Err(self.refuse(&error)),
                    Err(error) => self.refuse(&error),
                },
            };
            let now = self.shared.clock.now();
            if !worth_trying_again(self.operation, &refusal) || now >= deadline {
                return Err(refusal);
            }
            let wait = RETRY_WAIT.min(deadline.saturating_since(now));
            // Either tells that it may go better: a new leader, or some time.
            drop(tokio::time::timeout(wait, changed).await);
            if self.shared.clock.now() >= deadline {
                let not_formed = refusal.code == ErrorCode::NotFormed;
                let late = || self.refuse(&ReplicaError::NoQuorum);
                return Err(if not_formed { refusal } else { late() });
            }
        }
    }

    async fn there(
        &self,
        leader: &NodeId,
        bytes: Bytes,
        deadline: Time,
    ) -> Result<Bytes, HandlerError> {
        let subject = self.operation.subject(self.name) + ".direct";
        let left = deadline.saturating_since(self.shared.clock.now());
        let request = self.node.system_request(leader, &subject, bytes).timeout(left);
        let reply = match self.operation {
            Operation::Command | Operation::Member(_) => request.await,
            // A leader that is paused or cut off would keep the query until its deadline.
            Operation::Inquire | Operation::Query | Operation::Wait => tokio::select! {
                biased;
                reply = async { request.await } => reply,
                () = self.superseded(leader) => {
                    return Err(self.refuse(&ReplicaError::NoQuorum));
                }
            },
        };
        reply.map_err(|error| failed(self.operation, error))
    }

    /// Returns when another leader is known.
    async fn superseded(&self, leader: &NodeId) {
        loop {
            let changed = self.shared.leadership_changed();
            if self.shared.leadership().leader.is_some_and(|now| now != *leader) {
                return;
            }
            changed.await;
        }
    }

    /// An error as it goes on the wire, with the leader if it is known.
    fn refuse(&self, error: &ReplicaError) -> HandlerError {
        let leader = self.shared.leadership().leader;
        let address = leader.as_ref().and_then(|leader| {
            let peer = self.node.peers().into_iter().find(|peer| peer.node == *leader)?;
            Some((leader.clone(), peer.address?.to_string()))
        });
        refusal(error, address)
    }
}

/// What a lost answer of the leader means to whoever asked us.
fn failed(operation: Operation, error: RequestError) -> HandlerError {
    let unknown = error.effect() == Effect::Unknown;
    match (error, operation) {
        (RequestError::Handler { code, message, .. }, _) => HandlerError::new(code, message),
        (RequestError::Invalid(invalid), _) => {
            HandlerError::new(invalid.code(), invalid.to_string())
        }
        // Sent and not answered: it may commit.
        (other, Operation::Command | Operation::Member(_)) if unknown => {
            HandlerError::new(ErrorCode::QuorumFailed, other.to_string())
        }
        (other, _) => HandlerError::new(ErrorCode::NoQuorum, other.to_string()),
    }
}

/// Only what had no effect may be done again; a query never has any.
fn worth_trying_again(operation: Operation, refusal: &HandlerError) -> bool {
    let harmless = operation != Operation::Command || refusal.code.effect() == Effect::None;
    harmless
        && matches!(
            refusal.code,
            ErrorCode::NotLeader
                | ErrorCode::NoQuorum
                | ErrorCode::NotFormed
                | ErrorCode::QuorumFailed
                | ErrorCode::NoReplica
        )
}

fn refusal(error: &ReplicaError, leader: Option<(NodeId, String)>) -> HandlerError {
    let message = match leader {
        Some((leader, address)) => format!("{error}; leader={leader} address={address}"),
        None => error.to_string(),
    };
    HandlerError::new(error.code(), message)
}

/// `session u64 | serial u64`, little endian.
fn decode_id(mut bytes: Bytes) -> Option<CommandId> {
    let (session, serial) = (bytes.try_get_u64_le().ok()?, bytes.try_get_u64_le().ok()?);
    bytes.is_empty().then_some(CommandId { session, serial })
}

/// `index u64 | term u64 | level u8 | response`, little endian.
fn encode(applied: &Applied) -> Bytes {
    let mut bytes = BytesMut::with_capacity(17 + applied.response.len());
    bytes.put_u64_le(applied.index);
    bytes.put_u64_le(applied.term);
    bytes.put_u8(applied.level.number());
    bytes.put_slice(&applied.response);
    bytes.freeze()
}

/// Takes an answer apart; none if it is not one.
pub(crate) fn decode(mut bytes: Bytes) -> Option<Applied> {
    if bytes.len() < 17 {
        return None;
    }
    let (index, term) = (bytes.get_u64_le(), bytes.get_u64_le());
    let level = AckLevel::from_number(bytes.get_u8())?;
    Some(Applied { index, term, level, response: bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The leader that a `NOT_LEADER` names, and where it can be dialed.
    fn leader_in(message: &str) -> Option<(NodeId, crate::transport::Address)> {
        let (_, rest) = message.split_once("leader=")?;
        let (leader, address) = rest.split_once(" address=")?;
        Some((leader.parse().ok()?, address.parse().ok()?))
    }

    /// Clients of other languages read the leader out of the message.
    #[test]
    fn not_leader_names_the_leader_and_its_address() {
        let leader: NodeId = "b".parse().unwrap();
        let error = ReplicaError::NotLeader { leader: Some(leader.clone()) };
        let refusal = refusal(&error, Some((leader.clone(), "tcp://127.0.0.1:7001".into())));
        assert_eq!(refusal.message, "not the leader; leader=b address=tcp://127.0.0.1:7001");
        let (named, address) = leader_in(&refusal.message).unwrap();
        assert_eq!((named, address.to_string()), (leader, "tcp://127.0.0.1:7001".to_owned()));
        assert_eq!(leader_in("not the leader"), None);
    }

    /// A command that may have been proposed must not be proposed again by itself.
    #[test]
    fn only_what_had_no_effect_is_tried_again() {
        let unknown = HandlerError::new(ErrorCode::QuorumFailed, "");
        assert!(!worth_trying_again(Operation::Command, &unknown));
        assert!(worth_trying_again(Operation::Query, &unknown));
        let moved = HandlerError::new(ErrorCode::NotLeader, "");
        assert!(worth_trying_again(Operation::Command, &moved));
        let full = HandlerError::new(ErrorCode::NoSpace, "");
        assert!(!worth_trying_again(Operation::Command, &full));
    }

    /// A command that reached the leader, whose answer did not come back, may have been proposed:
    /// whoever passed it on must neither send it again nor say that nothing happened.
    #[test]
    fn lost_answer_of_the_leader_leaves_a_command_unknown() {
        let peer: NodeId = "leader".parse().unwrap();
        let lost = || RequestError::PeerLost { peer: peer.clone() };
        let late = || RequestError::Timeout { peer: peer.clone(), after: Duration::from_secs(1) };
        for error in [lost(), late()] {
            let told = failed(Operation::Command, error);
            assert_eq!(told.code.effect(), Effect::Unknown, "{told:?}");
            assert!(!worth_trying_again(Operation::Command, &told), "{told:?}");
        }
        let told = failed(Operation::Query, lost());
        assert!(worth_trying_again(Operation::Query, &told), "a query changes nothing");
        let unsent = failed(Operation::Command, RequestError::NotConnected { peer });
        assert_eq!(unsent.code.effect(), Effect::None);
        assert!(worth_trying_again(Operation::Command, &unsent), "nothing was sent");
    }

    /// Whatever a peer answers, it is an answer or it is not; nothing panics.
    #[test]
    fn answers_round_trip_and_short_ones_are_refused() {
        let (level, response) = (AckLevel::AllUnsynced, Bytes::from_static(b"x"));
        let applied = Applied { index: 7, term: 2, level, response };
        let bytes = encode(&applied);
        assert_eq!(decode(bytes.clone()), Some(applied));
        let mut unheard = bytes.to_vec();
        unheard[16] = 0x80;
        assert_eq!(decode(unheard.into()), None, "no such level");
        for length in 0..17 {
            assert_eq!(decode(bytes.slice(..length)), None, "{length} bytes");
        }
    }
}
