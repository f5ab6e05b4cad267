//! System messages: what nodes tell each other about themselves.
//!
//! Each is a small struct of fixed shape, encoded as a MessagePack array. Lists and texts have
//! limits, so that no message of a peer makes us keep more than a stated amount.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{Incarnation, NodeId};
use crate::transport::Address;

/// The version of the protocol spoken by this crate.
pub const PROTOCOL_VERSION: u8 = 1;
/// The most labels a node may announce.
pub const LABELS_MAX: usize = 64;
/// The most bytes of a label's name or value.
pub const LABEL_BYTES_MAX: usize = 256;
/// The most bytes of a cluster name.
pub const CLUSTER_NAME_BYTES_MAX: usize = 64;
/// The most nodes in one gossip message.
pub const KNOWN_PEERS_MAX: usize = 1_024;

/// Facts a node announces about itself, such as `role` = `math`.
///
/// Names that begin with `_` belong to the system.
pub type Labels = BTreeMap<String, String>;

/// A system message, by the kind of its envelope.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum System {
    /// Either side leaves on purpose.
    Goodbye,
    /// Client to server: who I am; may I join?
    Hello(Greeting),
    /// Server to client: I do not know you (any more); greet me again.
    HelloAgain,
    /// Either side: these are my labels from now on.
    Labels(LabelsUpdate),
    /// Either side: nodes that I know and that can be dialed.
    Peers(KnownPeers),
    /// Client to server: I am alive; are you?
    Ping(Ping),
    /// Server to client: I am alive.
    Pong(Ping),
    /// Server to client: you may not join.
    Refuse(Refusal),
    /// Server to client: you have joined; this is who I am.
    Welcome(Greeting),
}

/// Who a node is: the body of both halves of the handshake.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Greeting {
    /// The version of the protocol the sender speaks.
    pub version: u8,
    /// The mesh the sender belongs to.
    pub cluster: String,
    /// Its name.
    pub node: NodeId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// Where it can be dialed; none for a node that only dials.
    pub address: Option<Address>,
    /// What it says about itself.
    pub labels: Labels,
}

/// Labels that changed at run time. A lower revision than the last one is old news.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LabelsUpdate {
    /// Counts the changes in one incarnation, from 1.
    pub revision: u64,
    /// All labels, not only the changed ones.
    pub labels: Labels,
}

/// Nodes that the sender knows, so that one address is enough to find the mesh.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct KnownPeers {
    /// At most [`KNOWN_PEERS_MAX`].
    pub peers: Vec<KnownPeer>,
}

/// One node that the sender is linked to.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct KnownPeer {
    /// Its name.
    pub node: NodeId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// Where it can be dialed.
    pub address: Address,
}

/// A sign of life. The answer carries the same number.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Ping {
    /// Counts the pings of one link, from 1.
    pub number: u64,
}

/// Why a node may not join.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize, thiserror::Error)]
#[non_exhaustive]
pub enum RefuseReason {
    /// The server has as many clients as it takes.
    #[error("the node takes no more peers")]
    Capacity,
    /// The nodes belong to different meshes.
    #[error("the node belongs to another cluster")]
    Cluster,
    /// Another live node has this id.
    #[error("another node with this id has joined")]
    DuplicateId,
    /// The node dialed itself.
    #[error("the node dialed itself")]
    Itself,
    /// The greeting breaks a limit of the protocol.
    #[error("the greeting is malformed")]
    Malformed,
    /// A newer incarnation of the node has joined.
    #[error("a newer incarnation of this node has joined")]
    Stale,
    /// The application refused.
    #[error("the application refused")]
    Application,
    /// The versions of the protocol have nothing in common.
    #[error("the node speaks another version of the protocol")]
    Version,
    /// The server is stopping.
    #[error("the node is stopping")]
    Stopping,
}

/// The body of a refusal.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Refusal {
    /// Why.
    pub reason: RefuseReason,
}
