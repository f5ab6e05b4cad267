//! Shell: The key-value store as a program uses it: through any node that is linked to a replica.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;

use super::command::{Command, Entry, Events, KeyRange, Lease, Limits, Query, Response, State};
use super::error::Error;
use crate::id::NodeId;
use crate::node::Node;
use crate::replica::session::Inquiry;
use crate::replica::{
    AckLevel, Acknowledged, Acks, Applied, Client, ClientError, CommandId, Replica,
};

mod lock;
mod read;
mod watch;
mod write;

pub use lock::{Fence, Guard};
pub use read::{Get, List, Pages, Stale};
pub use watch::{Watch, WatchFrom};
pub use write::{Add, Clear, Set, Txn};

/// The name of the service that replicas of the store have in common.
pub const SERVICE: &str = "kv";

/// An operation that was begun.
type Task<T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>;

/// A handle to the key-value store of the mesh. Clones are cheap.
///
/// The node has to run a replica itself ([`local`](Self::local)) or be linked to at least one; the
/// leader is preferred, but any replica passes operations on. Whatever fails is tried again until
/// the timeout (5 s unless [`timeout`](Self::timeout) is called), so a change of leader is no error.
/// A write is done at most once, however often it was submitted: the handle and its clones share a
/// [session](crate::replica::session). If the outcome of a write is not known in time, the error
/// says so ([`Error::effect`]) and [`inquire`](Self::inquire) tells later.
///
/// Operations are built and then awaited; nothing happens before. Dropping the future of a write
/// does not recall it.
///
/// # Examples
///
/// ```
/// # async fn example(node: zmesh::Node) -> Result<(), zmesh::kv::Error> {
/// let kv = zmesh::kv::Kv::new(&node);
/// let written = kv.set("colour", "green").await?;
/// let found = kv.get("colour").await?.expect("it was just written");
/// assert_eq!((found.value.as_ref(), found.revision), (&b"green"[..], written.revision));
///
/// // Only if nobody has changed it since; otherwise `Error::Conflict` says at which revision it is.
/// kv.set("colour", "blue").if_revision(found.revision).await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Kv {
    client: Client,
    timeout: Duration,
    acks: Acks,
}

/// A write that was acknowledged.
#[derive(Clone, Debug, Eq, PartialEq)]
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
    /// What the key had before, if that was asked for.
    pub previous: Option<Entry>,
}

impl Kv {
    /// A handle that reaches the store through `node`. Operations take at most 5 s.
    pub fn new(node: &Node) -> Self {
        Self::with(Client::new(node, SERVICE))
    }

    /// A handle for a node that runs a replica itself: operations begin there.
    pub fn local(node: &Node, replica: &Replica) -> Self {
        Self::with(Client::local(node, SERVICE, replica))
    }

    fn with(client: Client) -> Self {
        Self { client, timeout: Duration::from_secs(5), acks: Acks::Quorum }
    }

    /// The longest that an operation may take, retries included [default: 5 s].
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { client: self.client.timeout(timeout), timeout, ..self }
    }

    /// Writes without a session: see [`Client::at_most_once`].
    pub fn at_most_once(self) -> Self {
        Self { client: self.client.at_most_once(), ..self }
    }

    /// When writes of this handle return [default: [`Acks::Quorum`]]. What they return says how
    /// strongly they are held. Whatever depends on the state of the store, such as a condition or a
    /// lease, is known to a quorum only, and waits for it in any case.
    pub fn acks(self, acks: Acks) -> Self {
        Self { acks, ..self }
    }

    /// The client of the service, with the session that the writes of this handle use.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Gives `key` a value, under conditions if some are added. Returns once the write is on the
    /// disks of a quorum and applied, unless [`acks`](Self::acks) says otherwise.
    ///
    /// Keys have 1 to 4,096 bytes, values up to 8 MiB; both are any bytes. A node whose payload
    /// limit is lower takes less.
    pub fn set(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Set {
        Set::new(self, key.into(), value.into())
    }

    /// Removes a key. That there is none is no error, unless it is made a condition.
    pub fn clear(&self, key: impl Into<Bytes>) -> Clear {
        Clear::new(self, key.into())
    }

    /// Adds to a counter, which is a value that is a decimal number, and returns the new number. A
    /// key without a value counts as 0, and is one from then on.
    pub fn add(&self, key: impl Into<Bytes>, delta: i64) -> Add {
        Add::new(self, key.into(), delta)
    }

    /// Several operations in one: all of them or none, with nothing of anybody else in between.
    pub fn txn(&self) -> Txn {
        Txn::new(self)
    }

    /// The value of a key, none if it has none. Sees every write that was acknowledged before the
    /// call, by whatever client, unless it is told to be content with less.
    pub fn get(&self, key: impl Into<Bytes>) -> Get {
        Get::new(self, key.into())
    }

    /// What one replica has applied for a key, however old that is, and how far it has applied:
    /// works without a quorum, and may miss writes that were acknowledged.
    ///
    /// # Errors
    ///
    /// [`Error`]; a read changes nothing.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn get_stale(&self, replica: &NodeId, key: impl Into<Bytes>) -> Result<Stale, Error> {
        let query = Query::Entry { key: key.into(), revision: 0 }.encode()?;
        let answer = self.client.query_stale(replica, query).await?;
        let index = answer.1.index;
        Ok(Stale { entry: read::entry(&answer)?, index })
    }

    /// Keys with their values, in pages and in order.
    pub fn list(&self, range: KeyRange) -> List {
        List::new(self, range)
    }

    /// How many keys of a range have a value.
    ///
    /// # Errors
    ///
    /// [`Error`]; a read changes nothing.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn count(&self, range: KeyRange) -> Result<u64, Error> {
        let mut pages = self.list(range).count_only().pages();
        let mut count = 0;
        while let Some(page) = pages.next().await? {
            count += page.matched;
        }
        Ok(count)
    }

    /// Tells of every change of some keys from now on, or from a revision.
    pub fn watch(&self, range: KeyRange) -> WatchFrom {
        WatchFrom::new(self, range)
    }

    /// What has become of a key after a revision, the oldest first, as far back as history goes and
    /// at most `limit` changes.
    ///
    /// # Errors
    ///
    /// [`Error`]; a read changes nothing.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn history(
        &self,
        key: impl Into<Bytes>,
        after: u64,
        limit: u32,
    ) -> Result<Events, Error> {
        let query = Query::History { key: key.into(), after, limit };
        let (node, response) = self.ask(&query).await?;
        let Response::Events(events) = response else { return Err(odd(node)) };
        Ok(events)
    }

    /// How large the store is, what its limits are, and how far its history goes back.
    ///
    /// # Errors
    ///
    /// [`Error`]; a read changes nothing.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn state(&self) -> Result<State, Error> {
        let (node, response) = self.ask(&Query::State).await?;
        let Response::State(state) = response else { return Err(odd(node)) };
        Ok(state)
    }

    /// Says how large the store may become, on all replicas.
    ///
    /// # Errors
    ///
    /// As [`Set`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not recall it: it may be done, or be done yet.
    pub async fn limits(&self, limits: Limits) -> Result<Written, Error> {
        self.write(&Command::Limits(limits)).await
    }

    /// Forgets what was before a revision. Limits do that by themselves; this is for those who want
    /// it earlier.
    ///
    /// # Errors
    ///
    /// As [`Set`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not recall it: it may be done, or be done yet.
    pub async fn compact(&self, revision: u64) -> Result<Written, Error> {
        self.write(&Command::Compact { revision }).await
    }

    /// Opens a lease: keys that are [set](Set::lease) with it are cleared when it has not been kept
    /// alive for `ttl` (kept within 100 ms and a year).
    ///
    /// It ends by a replicated decision and never early by the clock of the replica that leads; a
    /// new leader begins to count anew, so that it ends late if the leader changes.
    ///
    /// # Errors
    ///
    /// As [`Set`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not recall it: a lease that nobody knows of ends by itself.
    pub async fn grant(&self, ttl: Duration) -> Result<Lease, Error> {
        self.lease(&Command::Grant { ttl }).await
    }

    /// Makes the time of a lease begin anew.
    ///
    /// # Errors
    ///
    /// As [`Set`]; [`Failure::LeaseUnknown`](super::Failure::LeaseUnknown) if it has ended.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not recall it: it may be done, or be done yet.
    pub async fn keep_alive(&self, lease: u64) -> Result<Lease, Error> {
        self.lease(&Command::Keep { lease }).await
    }

    /// Ends a lease and clears its keys, in one entry.
    ///
    /// # Errors
    ///
    /// As [`keep_alive`](Self::keep_alive).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not recall it: it may be done, or be done yet.
    pub async fn revoke(&self, lease: u64) -> Result<Written, Error> {
        self.write(&Command::Revoke { lease }).await
    }

    /// The leases with an id above `after`, in the order of their ids and at most `limit`.
    ///
    /// # Errors
    ///
    /// [`Error`]; a read changes nothing.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn leases(&self, after: u64, limit: u32) -> Result<Vec<Lease>, Error> {
        let (node, response) = self.ask(&Query::Leases { after, limit }).await?;
        let Response::Leases { leases, .. } = response else { return Err(odd(node)) };
        Ok(leases)
    }

    /// What became of a write whose outcome was [unknown](ClientError::Unknown). The response of one
    /// that was done is a [`Response`].
    ///
    /// # Errors
    ///
    /// [`Error`]; an inquiry changes nothing.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn inquire(&self, command: CommandId) -> Result<Inquiry, Error> {
        Ok(self.client.inquire(command).await?)
    }

    /// Has a command applied, and returns what the store said.
    async fn command(&self, command: &Command) -> Result<(NodeId, Applied, Response), Error> {
        let bytes = command.encode()?;
        let acks = match self.acks {
            Acks::None | Acks::Leader => Acks::Quorum,
            acks @ (Acks::Quorum | Acks::All { .. }) => acks,
        };
        let (node, acknowledged) = self.client.command_with(bytes, acks).await?;
        let Acknowledged::Applied(applied) = acknowledged else { return Err(odd(node)) };
        let Ok(response) = Response::decode(&applied.response) else { return Err(odd(node)) };
        Ok((node, applied, response.accepted()?))
    }

    /// Has a command applied that says nothing but that it is done.
    async fn write(&self, command: &Command) -> Result<Written, Error> {
        let (node, acknowledged) = self.client.command_with(command.encode()?, self.acks).await?;
        let level = acknowledged.level();
        let unseen = |index, term| Written { revision: 0, index, term, level, previous: None };
        let applied = match acknowledged {
            Acknowledged::Applied(applied) => applied,
            Acknowledged::Accepted { index, term, .. } => return Ok(unseen(index, term)),
            Acknowledged::Sent => return Ok(unseen(0, 0)),
        };
        let Ok(response) = Response::decode(&applied.response) else { return Err(odd(node)) };
        let Response::Done { revision } = response.accepted()? else { return Err(odd(node)) };
        Ok(Written::of(revision, &applied))
    }

    async fn lease(&self, command: &Command) -> Result<Lease, Error> {
        let (node, _, response) = self.command(command).await?;
        let Response::Leases { leases, .. } = response else { return Err(odd(node)) };
        leases.first().copied().ok_or_else(|| odd(node))
    }

    /// Asks the leader.
    async fn ask(&self, query: &Query) -> Result<(NodeId, Response), Error> {
        let (node, applied) = self.client.query(query.encode()?).await?;
        let Ok(response) = Response::decode(&applied.response) else { return Err(odd(node)) };
        Ok((node, response.accepted()?))
    }
}

impl Written {
    fn of(revision: u64, applied: &Applied) -> Self {
        let Applied { index, term, level, .. } = *applied;
        Self { revision, index, term, level, previous: None }
    }
}

/// What came back is no answer to what was asked.
fn odd(node: NodeId) -> Error {
    ClientError::InvalidAnswer { node }.into()
}
