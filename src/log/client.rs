//! Shell: The log as a program uses it: through any node that is linked to its replicas.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::answer::{Answer, InvalidAnswer, TopicView};
use super::error::Error;
use super::name::{GROUPS_LABEL, GROUPS_MAX, group_of, service};
use super::query::Query;
use crate::id::NodeId;
use crate::node::Node;
use crate::node::route::Filter;
use crate::replica::{Client, ClientError, Replica};

mod batch;
mod cursor;
mod lag;
mod tail;
mod topic;

pub use cursor::Cursor;
pub use lag::{Lag, OnLag};
pub use tail::Tail;
pub use topic::{Accepted, Appended, ReadLimits, Records, Stored, Topic};

/// The longest that an operation may take, unless another timeout is set.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A handle to the log of the mesh: topics of records that keep their order and their offsets.
/// Clones are cheap.
///
/// The node has to be linked to replicas of every group that it uses, or run them itself. Whatever
/// fails is tried again until the timeout (5 s unless [`timeout`](Self::timeout) is called), so a
/// change of leader is no error; what is appended is appended once, however often it was submitted,
/// since each group has a [session](crate::replica::session) for the handle and its clones.
///
/// The model is Kafka's, and its cursors are Liftbridge's; but a topic is no partition with files
/// and heartbeats of its own. It lies in one of a few replicated groups, by a stable hash of its
/// name, and the log of the group is the only copy of its records.
///
/// # Examples
///
/// ```
/// # async fn example(node: zmesh::Node) -> Result<(), zmesh::log::Error> {
/// use zmesh::log::{Log, Record, Start};
///
/// let orders = Log::new(&node).topic("orders");
/// let appended = orders.append(Record::with_key("order-7", "two apples")).await?;
/// let mut tail = orders.tail(Start::Offset(appended.first));
/// let next = tail.next().await?;
/// assert_eq!((next.offset, next.record.value.as_ref()), (appended.first, &b"two apples"[..]));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Log {
    node: Node,
    timeout: Duration,
    /// Replicas that the node runs itself, by group.
    local: Arc<Vec<Replica>>,
    groups: Arc<OnceLock<u16>>,
    /// One for each group that was used.
    clients: Arc<Mutex<Vec<Option<Client>>>>,
}

impl Log {
    /// A handle that reaches the log through `node`. Operations take at most 5 s.
    ///
    /// How many groups the log has is what the replicas say, once one is linked.
    pub fn new(node: &Node) -> Self {
        Self {
            node: node.clone(),
            timeout: TIMEOUT,
            local: Arc::default(),
            groups: Arc::default(),
            clients: Arc::default(),
        }
    }

    /// A handle for a node that runs a replica of every group itself, given in their order:
    /// operations begin there, and tails are served without the network.
    pub fn local(node: &Node, replicas: Vec<Replica>) -> Self {
        let groups = u16::try_from(replicas.len()).unwrap_or(GROUPS_MAX);
        Self { local: Arc::new(replicas), ..Self::new(node) }.groups(groups)
    }

    /// How many groups the log has [default: what its replicas say]; from 1 to 16. A wrong number
    /// looks for topics where they are not.
    pub fn groups(mut self, groups: u16) -> Self {
        self.groups = Arc::new(OnceLock::from(groups.clamp(1, GROUPS_MAX)));
        self.clients = Arc::default();
        self
    }

    /// The longest that an operation may take, retries included [default: 5 s].
    pub fn timeout(mut self, timeout: Duration) -> Self {
        // Clients keep the timeout, and the session stays with the handle that it came from.
        self.timeout = timeout;
        self.clients = Arc::default();
        self
    }

    /// A topic, whether it exists or not. A name that can be none is refused by every operation.
    ///
    /// The handle and its clones append in the order of their calls. Several handles of the same
    /// name do so each for itself.
    pub fn topic(&self, name: impl Into<String>) -> Topic {
        Topic::new(self.clone(), name.into())
    }

    /// The topics whose names begin with `prefix`, in the order of their names, from behind `after`
    /// on (the empty one begins with the first): at most `limit` of them, and at most 1,000. Fewer
    /// than `limit` means that there are no more, if `limit` is no more than 1,000.
    ///
    /// Each group is asked for what it has applied under a confirmed leader, one after the other:
    /// no topic that existed the whole time is left out.
    ///
    /// # Errors
    ///
    /// [`Error`]; it changes nothing.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn topics(
        &self,
        prefix: &str,
        after: &str,
        limit: u16,
    ) -> Result<Vec<(String, TopicView)>, Error> {
        let (prefix, after) = (Bytes::from(prefix.to_owned()), Bytes::from(after.to_owned()));
        let limit = limit.clamp(1, super::PAGE_ROWS_MAX);
        let query = Query::Topics { prefix, after, limit }.encode()?;
        let mut all = Vec::new();
        for group in 0..self.group_count().await? {
            let client = self.client(group);
            let (node, answer) = answered(client.query(query.clone()).await?)?;
            let Answer::Topics { topics, .. } = answer else { return Err(odd(node)) };
            let name = |name: Bytes| String::from_utf8_lossy(&name).into_owned();
            all.extend(topics.into_iter().map(|(topic, view)| (name(topic), view)));
        }
        all.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        all.truncate(usize::from(limit));
        Ok(all)
    }

    /// How many groups the log has; waits for a peer that says so.
    ///
    /// # Errors
    ///
    /// [`Error::GroupsDiffer`], and [`ClientError::NoReplica`] if nobody says so in time.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn group_count(&self) -> Result<u16, Error> {
        if let Some(groups) = self.groups.get() {
            return Ok(*groups);
        }
        let said = self.node.labels().get(GROUPS_LABEL).and_then(|groups| groups.parse().ok());
        let said = match said {
            Some(groups) => Some(groups),
            None => {
                let replicas = Filter::has(GROUPS_LABEL);
                let linked = self.node.wait_for_peers(&replicas, 1, self.timeout).await;
                linked.map_err(|_| ClientError::NoReplica)?;
                self.groups_of_peers()?
            }
        };
        let groups = said.filter(|groups| (1..=GROUPS_MAX).contains(groups));
        let groups = groups.ok_or(ClientError::NoReplica)?;
        Ok(*self.groups.get_or_init(|| groups))
    }

    fn groups_of_peers(&self) -> Result<Option<u16>, Error> {
        let peers = self.node.peers();
        let said = peers.iter().filter_map(|peer| peer.labels.get(GROUPS_LABEL)?.parse().ok());
        let said: Vec<u16> = said.collect();
        match (said.iter().min(), said.iter().max()) {
            (Some(one), Some(other)) if one != other => {
                Err(Error::GroupsDiffer { one: *one, other: *other })
            }
            (first, _) => Ok(first.copied()),
        }
    }

    /// The client of a group.
    fn client(&self, group: u16) -> Client {
        let at = usize::from(group);
        let mut clients = self.clients.lock();
        if clients.len() <= at {
            clients.resize(at + 1, None);
        }
        let client = clients[at].get_or_insert_with(|| {
            let client = match self.local.get(at) {
                Some(replica) => Client::local(&self.node, service(group), replica),
                None => Client::new(&self.node, service(group)),
            };
            client.timeout(self.timeout)
        });
        client.clone()
    }

    async fn client_of(&self, topic: &str) -> Result<Client, Error> {
        Ok(self.client(group_of(topic, self.group_count().await?)))
    }
}

/// What a replica said; none of it if it refused.
fn answered((node, applied): (NodeId, crate::replica::Applied)) -> Result<(NodeId, Answer), Error> {
    match Answer::decode(&applied.response) {
        Ok(Answer::Refused(refusal)) => Err(refusal.into()),
        Ok(answer) => Ok((node, answer)),
        Err(InvalidAnswer) => Err(odd(node)),
    }
}

/// An answer that is none to what was asked.
fn odd(node: NodeId) -> Error {
    ClientError::InvalidAnswer { node }.into()
}
