//! Shell: The key-value store as a program uses it: through any node that is linked to a replica.

use std::time::Duration;

use bytes::Bytes;

use super::command::{Command, Query, Response};
use super::error::Error;
use crate::id::NodeId;
use crate::node::Node;
use crate::replica::session::Inquiry;
use crate::replica::{
    AckLevel, Acknowledged, Acks, Applied, Client, ClientError, CommandId, Replica,
};

/// The name of the service that replicas of the store have in common.
pub const SERVICE: &str = "kv";

/// A handle to the key-value store of the mesh. Clones are cheap.
///
/// The node has to run a replica itself ([`local`](Self::local)) or be linked to at least one; the
/// leader is preferred, but any replica passes operations on. Whatever fails is tried again until
/// the timeout (5 s unless [`timeout`](Self::timeout) is called), so a change of leader is no error.
/// A write is done at most once, however often it was submitted: the handle and its clones share a
/// [session](crate::replica::session). If the outcome of a write is not known in time, the error
/// says so ([`Error::effect`]) and [`inquire`](Self::inquire) tells later.
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
    client: Client,
    acks: Acks,
}

/// A write that was acknowledged.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize)]
pub struct Written {
    /// The position of the last change of the store, this one if it changed anything. A read with
    /// this revision or a higher one sees the write. 0 if the level is below that of the quorum:
    /// nothing is known to have changed then.
    pub revision: u64,
    /// The position of the command in the replicated log, where it was applied first; for the level
    /// of the leader, where it stands in the leader's log; 0 for the level `none`.
    pub index: u64,
    /// The term of the leader that answered.
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
        Self { client: Client::new(node, SERVICE), acks: Acks::Quorum }
    }

    /// A handle for a node that runs a replica itself: operations begin there.
    pub fn local(node: &Node, replica: &Replica) -> Self {
        Self { client: Client::local(node, SERVICE, replica), acks: Acks::Quorum }
    }

    /// The longest that an operation may take, retries included [default: 5 s].
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { client: self.client.timeout(timeout), ..self }
    }

    /// Writes without a session: see [`Client::at_most_once`].
    pub fn at_most_once(self) -> Self {
        Self { client: self.client.at_most_once(), ..self }
    }

    /// When writes of this handle return [default: [`Acks::Quorum`]]. What they return says how
    /// strongly they are held.
    pub fn acks(self, acks: Acks) -> Self {
        Self { acks, ..self }
    }

    /// The client of the service, with the session that the writes of this handle use.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Gives `key` a value, whether it had one or not. Returns once the write is on the disks of a
    /// quorum and applied, unless [`acks`](Self::acks) says otherwise.
    ///
    /// Keys have 1 to 4,096 bytes, values up to 8 MiB; both are any bytes. A node whose payload
    /// limit is lower takes less.
    ///
    /// # Errors
    ///
    /// [`Error`]; with [`Effect::Unknown`](crate::Effect::Unknown) the write may have been done, or may be done yet.
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
        let (node, applied) = self.client.query(query).await?;
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
        let (node, applied) = self.client.query_stale(replica, query).await?;
        found(node, &applied)
    }

    /// What became of a write whose outcome was [unknown](crate::replica::ClientError::Unknown). The response of one that
    /// was done is a [`Response`].
    ///
    /// # Errors
    ///
    /// [`Error`]; an inquiry changes nothing.
    pub async fn inquire(&self, command: CommandId) -> Result<Inquiry, Error> {
        Ok(self.client.inquire(command).await?)
    }

    async fn write(&self, command: &Command) -> Result<Written, Error> {
        let bytes = command.encode()?;
        let (node, acknowledged) = self.client.command_with(bytes, self.acks).await?;
        let level = acknowledged.level();
        let Applied { index, term, response, .. } = match acknowledged {
            Acknowledged::Applied(applied) => applied,
            Acknowledged::Accepted { index, term, .. } => {
                return Ok(Written { revision: 0, index, term, level });
            }
            Acknowledged::Sent => return Ok(Written { revision: 0, index: 0, term: 0, level }),
        };
        match Response::decode(&response) {
            Ok(Response::Done { revision }) => Ok(Written { revision, index, term, level }),
            Ok(Response::Refused(invalid)) => Err(invalid.into()),
            Ok(Response::Absent { .. } | Response::Value { .. }) | Err(_) => {
                Err(ClientError::InvalidAnswer { node }.into())
            }
        }
    }
}

fn found(node: NodeId, applied: &Applied) -> Result<Option<Found>, Error> {
    match Response::decode(&applied.response) {
        Ok(Response::Value { revision, value }) => Ok(Some(Found { value, revision })),
        Ok(Response::Absent { .. }) => Ok(None),
        Ok(Response::Refused(invalid)) => Err(invalid.into()),
        Ok(Response::Done { .. }) | Err(_) => Err(ClientError::InvalidAnswer { node }.into()),
    }
}
