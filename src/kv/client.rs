//! Shell: The key-value store as a program uses it: through any node that is linked to a replica.

use std::time::Duration;

use bytes::Bytes;

use super::command::{Command, Query, Response};
use super::error::Error;
use crate::error::{Effect, ErrorCode};
use crate::id::NodeId;
use crate::node::route::{Choice, Filter};
use crate::node::{HandlerError, Node, RequestError};
use crate::replica::service::{self, Operation};
use crate::replica::{AckLevel, Applied, Replica};
use crate::timer::{Clock, Time};

/// The name of the service that replicas of the store have in common.
pub const SERVICE: &str = "kv";
/// Wait before an operation that had no effect is tried again.
const RETRY_WAIT: Duration = Duration::from_millis(20);
/// Part of the timeout that the last attempt must have, and the most that it needs. Twice what a
/// replica keeps of it for the way back.
const ATTEMPT_SHARE: u32 = 5;
const ATTEMPT_MAX: Duration = Duration::from_millis(200);

/// A handle to the key-value store of the mesh. Clones are cheap.
///
/// The node has to run a replica itself ([`local`](Self::local)) or be linked to at least one; the
/// leader is preferred, but any replica passes operations on. What certainly had no effect is tried
/// again until the timeout (5 s unless [`timeout`](Self::timeout) is called), so a change of leader
/// is no error. A write whose outcome is unknown is never repeated: look at [`Error::effect`].
///
/// # Examples
///
/// ```
/// # async fn example(node: zmesh::Node) -> Result<(), zmesh::kv::Error> {
/// let kv = zmesh::kv::Kv::new(&node);
/// let written = kv.set("colour", "green").await?;
/// let found = kv.get("colour").await?.expect("it was just written");
/// assert_eq!((found.value.as_ref(), found.revision), (&b"green"[..], written.revision));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Kv {
    node: Node,
    local: Option<Replica>,
    timeout: Duration,
    leader: Filter,
    replicas: Filter,
    clock: Clock,
}

/// A write that was acknowledged.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize)]
pub struct Written {
    /// The position of the last change of the store, this one if it changed anything. A read with
    /// this revision or a higher one sees the write.
    pub revision: u64,
    /// The position of the command in the replicated log.
    pub index: u64,
    /// The term of the leader that took it.
    pub term: u64,
    /// How strongly it is held.
    pub level: AckLevel,
}

/// A value that was found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Found {
    /// The value.
    pub value: Bytes,
    /// The position of the key's last change.
    pub revision: u64,
}

impl Kv {
    /// A handle that reaches the store through `node`. Operations take at most 5 s.
    pub fn new(node: &Node) -> Self {
        Self {
            node: node.clone(),
            local: None,
            timeout: Duration::from_secs(5),
            leader: service::leader(SERVICE),
            replicas: service::replicas(SERVICE),
            clock: Clock::start(),
        }
    }

    /// A handle for a node that runs a replica itself: operations begin there.
    pub fn local(node: &Node, replica: &Replica) -> Self {
        Self { local: Some(replica.clone()), ..Self::new(node) }
    }

    /// The longest that an operation may take, retries included [default: 5 s].
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Gives `key` a value, whether it had one or not. Returns once the write is on the disks of a
    /// quorum and applied.
    ///
    /// Keys have 1 to 4,096 bytes, values up to 8 MiB; both are any bytes. A node whose payload
    /// limit is lower takes less.
    ///
    /// # Errors
    ///
    /// [`Error`]; with [`Effect::Unknown`] the write may have been done, or may be done yet.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not recall the write.
    pub async fn set(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> Result<Written, Error> {
        self.write(&Command::Set { key: key.into(), value: value.into() }).await
    }

    /// Removes a key. That there is none is no error.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set).
    pub async fn clear(&self, key: impl Into<Bytes>) -> Result<Written, Error> {
        self.write(&Command::Clear { key: key.into() }).await
    }

    /// The value of a key, none if it has none. Sees every write that was acknowledged before the
    /// call, by whatever client.
    ///
    /// # Errors
    ///
    /// [`Error`]; a read changes nothing.
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Option<Found>, Error> {
        let query = Query::Get { key: key.into() }.encode()?;
        let (node, applied) = self.operate(Operation::Query, query).await?;
        found(node, &applied)
    }

    /// What one replica has applied for a key, however old that is: works without a quorum, and may
    /// miss writes that were acknowledged.
    ///
    /// # Errors
    ///
    /// [`Error`]; a read changes nothing.
    pub async fn get_stale(
        &self,
        replica: &NodeId,
        key: impl Into<Bytes>,
    ) -> Result<Option<Found>, Error> {
        let query = Query::Get { key: key.into() }.encode()?;
        let subject = service::stale_subject(SERVICE);
        let request = self.node.system_request(replica, &subject, query).timeout(self.timeout);
        let answer = request.await.map_err(refused)?;
        let (node, applied) = answered(replica.clone(), answer)?;
        found(node, &applied)
    }

    async fn write(&self, command: &Command) -> Result<Written, Error> {
        let bytes = command.encode()?;
        let (node, applied) = self.operate(Operation::Command, bytes).await?;
        let Applied { index, term, response } = applied;
        match Response::decode(&response) {
            Ok(Response::Done { revision }) => {
                Ok(Written { revision, index, term, level: AckLevel::Quorum })
            }
            Ok(Response::Refused(invalid)) => Err(invalid.into()),
            Ok(Response::Absent { .. } | Response::Value { .. }) | Err(_) => {
                Err(Error::InvalidAnswer { node })
            }
        }
    }

    async fn operate(
        &self,
        operation: Operation,
        bytes: Bytes,
    ) -> Result<(NodeId, Applied), Error> {
        let Some(replica) = &self.local else { return self.ask(operation, bytes).await };
        let done = replica.operate(&self.node, SERVICE, operation, bytes, self.timeout).await;
        let refused =
            |error: HandlerError| Error::Refused { code: error.code, message: error.message };
        let answer = done.map_err(|error| without_effect(operation, refused(error)))?;
        answered(self.node.id().clone(), answer)
    }

    /// Asks one replica after the other until one answers, one fails for good, or time is up.
    async fn ask(&self, operation: Operation, bytes: Bytes) -> Result<(NodeId, Applied), Error> {
        let deadline = self.clock.now() + self.timeout;
        let subject = operation.subject(SERVICE);
        loop {
            let error = match self.replica() {
                Some(replica) => {
                    let left = deadline.saturating_since(self.clock.now());
                    let request = self.node.system_request(&replica, &subject, bytes.clone());
                    match request.timeout(left).await {
                        Ok(answer) => return answered(replica, answer),
                        Err(error) => refused(error),
                    }
                }
                None => Error::NoReplica,
            };
            let harmless = operation == Operation::Query || error.effect() == Effect::None;
            // Another peer may run a replica.
            let promising = error.is_retryable() || error.code() == ErrorCode::NoReplica;
            let left = deadline.saturating_since(self.clock.now());
            if !harmless || !promising || left < self.attempt_min() {
                return Err(without_effect(operation, error));
            }
            self.wait(deadline).await;
        }
    }

    /// The leader if it is linked, or any replica.
    fn replica(&self) -> Option<NodeId> {
        let choose = |filter| self.node.choose(filter, &Choice::RoundRobin);
        choose(&self.leader).or_else(|| choose(&self.replicas))
    }

    /// Time that must be left for another attempt. With less, its answer might come too late, and
    /// a certain "nothing happened" would become an "unknown".
    fn attempt_min(&self) -> Duration {
        (self.timeout / ATTEMPT_SHARE).min(ATTEMPT_MAX).max(RETRY_WAIT)
    }

    async fn wait(&self, deadline: Time) {
        let until = deadline.min(self.clock.now() + RETRY_WAIT);
        tokio::time::sleep_until(self.clock.instant(until)).await;
    }
}

fn answered(node: NodeId, answer: Bytes) -> Result<(NodeId, Applied), Error> {
    match service::decode(answer) {
        Some(applied) => Ok((node, applied)),
        None => Err(Error::InvalidAnswer { node }),
    }
}

fn found(node: NodeId, applied: &Applied) -> Result<Option<Found>, Error> {
    match Response::decode(&applied.response) {
        Ok(Response::Value { revision, value }) => Ok(Some(Found { value, revision })),
        Ok(Response::Absent { .. }) => Ok(None),
        Ok(Response::Refused(invalid)) => Err(invalid.into()),
        Ok(Response::Done { .. }) | Err(_) => Err(Error::InvalidAnswer { node }),
    }
}

/// A query that was not answered is no mystery: it changed nothing.
fn without_effect(operation: Operation, error: Error) -> Error {
    match operation {
        Operation::Query if error.effect() == Effect::Unknown => {
            Error::Refused { code: ErrorCode::NoQuorum, message: error.to_string() }
        }
        Operation::Command | Operation::Member(_) | Operation::Query => error,
    }
}

fn refused(error: RequestError) -> Error {
    if let RequestError::Handler { code, message, .. } = error {
        return Error::Refused { code, message };
    }
    match error.effect() {
        Effect::None => Error::Refused { code: error.code(), message: error.to_string() },
        Effect::Unknown => Error::Unknown(error),
    }
}
