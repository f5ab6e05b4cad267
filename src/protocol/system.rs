//! System messages: what nodes tell each other about themselves.
//!
//! Each is a small struct of fixed shape, encoded as a MessagePack array. Lists and texts have
//! limits, so that no message of a peer makes us keep more than a stated amount.
//!
//! Pure. Invariant: what [`System::decode`] returns keeps every limit of this module.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::envelope::Kind;
use super::payload::{self, PayloadError};
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

/// The most bytes of any system payload: above the largest that the other limits allow.
pub const SYSTEM_PAYLOAD_BYTES_MAX: usize = 512 * 1024;

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

impl System {
    /// The kind of envelope that carries this message.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Goodbye => Kind::Goodbye,
            Self::Hello(_) => Kind::Hello,
            Self::HelloAgain => Kind::HelloAgain,
            Self::Labels(_) => Kind::Labels,
            Self::Peers(_) => Kind::Peers,
            Self::Ping(_) => Kind::Ping,
            Self::Pong(_) => Kind::Pong,
            Self::Refuse(_) => Kind::Refuse,
            Self::Welcome(_) => Kind::Welcome,
        }
    }

    /// Encodes the message: the kind of its envelope and the payload.
    ///
    /// The limits are the sender's to keep; a receiver drops what breaks them. [`System::check`]
    /// tells whether a message does.
    pub fn encode(&self) -> (Kind, Vec<u8>) {
        let payload = match self {
            Self::Goodbye | Self::HelloAgain => Vec::new(),
            Self::Hello(greeting) | Self::Welcome(greeting) => to_array(greeting),
            Self::Labels(update) => to_array(update),
            Self::Peers(peers) => to_array(peers),
            Self::Ping(ping) | Self::Pong(ping) => to_array(ping),
            Self::Refuse(refusal) => to_array(refusal),
        };
        (self.kind(), payload)
    }

    /// Decodes the payload of a system envelope.
    ///
    /// # Errors
    ///
    /// [`SystemError`]: the message must be dropped. A greeting that fails here is answered with
    /// [`RefuseReason::Malformed`].
    pub fn decode(kind: Kind, payload: &[u8]) -> Result<Self, SystemError> {
        if payload.len() > SYSTEM_PAYLOAD_BYTES_MAX {
            return Err(SystemError::TooLarge { bytes: payload.len() });
        }
        let message = match kind {
            Kind::Goodbye => without_body(Self::Goodbye, payload)?,
            Kind::Hello => Self::Hello(payload::decode(payload)?),
            Kind::HelloAgain => without_body(Self::HelloAgain, payload)?,
            Kind::Labels => Self::Labels(payload::decode(payload)?),
            Kind::Peers => Self::Peers(payload::decode(payload)?),
            Kind::Ping => Self::Ping(payload::decode(payload)?),
            Kind::Pong => Self::Pong(payload::decode(payload)?),
            Kind::Refuse => Self::Refuse(payload::decode(payload)?),
            Kind::Welcome => Self::Welcome(payload::decode(payload)?),
            Kind::Error | Kind::Reply | Kind::Request | Kind::Tick => {
                return Err(SystemError::NotSystem(kind));
            }
        };
        message.check()?;
        Ok(message)
    }

    /// Checks the limits of this module.
    ///
    /// # Errors
    ///
    /// [`SystemError`] says which limit the message breaks.
    pub fn check(&self) -> Result<(), SystemError> {
        match self {
            Self::Hello(greeting) | Self::Welcome(greeting) => greeting.check(),
            Self::Labels(update) => check_labels(&update.labels),
            Self::Peers(known) if known.peers.len() > KNOWN_PEERS_MAX => {
                Err(SystemError::Peers { count: known.peers.len() })
            }
            Self::Peers(known) => {
                known.peers.iter().try_for_each(|peer| check_incarnation(peer.incarnation))
            }
            Self::Goodbye | Self::HelloAgain | Self::Ping(_) | Self::Pong(_) | Self::Refuse(_) => {
                Ok(())
            }
        }
    }
}

impl Greeting {
    fn check(&self) -> Result<(), SystemError> {
        if self.cluster.len() > CLUSTER_NAME_BYTES_MAX {
            return Err(SystemError::ClusterName { bytes: self.cluster.len() });
        }
        check_incarnation(self.incarnation)?;
        check_labels(&self.labels)
    }
}

/// Why a system message is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SystemError {
    /// The name of the cluster is too long.
    #[error("a cluster name of {bytes} bytes is over the limit of {CLUSTER_NAME_BYTES_MAX}")]
    ClusterName {
        /// Bytes of the name.
        bytes: usize,
    },
    /// An incarnation is zero, which stands for "not known".
    #[error("an incarnation may not be zero")]
    Incarnation,
    /// A label's name or value is too long.
    #[error("a label of {bytes} bytes is over the limit of {LABEL_BYTES_MAX}")]
    LabelBytes {
        /// Bytes of the name or value.
        bytes: usize,
    },
    /// There are too many labels.
    #[error("{count} labels are over the limit of {LABELS_MAX}")]
    Labels {
        /// How many there are.
        count: usize,
    },
    /// The kind is an application's.
    #[error("{0:?} is no system message")]
    NotSystem(Kind),
    /// The payload is not the MessagePack array of this kind.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// There are too many known peers.
    #[error("{count} peers are over the limit of {KNOWN_PEERS_MAX}")]
    Peers {
        /// How many there are.
        count: usize,
    },
    /// The payload is larger than any system message.
    #[error("a payload of {bytes} bytes is over the limit of {SYSTEM_PAYLOAD_BYTES_MAX}")]
    TooLarge {
        /// Bytes of the payload.
        bytes: usize,
    },
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
    /// How often that has changed in this life [default: 0].
    #[serde(default)]
    pub revision: u64,
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
    /// How often the labels of the sender have changed [default: 0]: who knows fewer changes has
    /// lost one, and greets again.
    #[serde(default)]
    pub revision: u64,
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
    /// The name is not that of the key.
    #[error("the key is not allowed under this name")]
    Key,
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

fn check_incarnation(incarnation: Incarnation) -> Result<(), SystemError> {
    match incarnation {
        Incarnation::UNKNOWN => Err(SystemError::Incarnation),
        Incarnation(_) => Ok(()),
    }
}

fn check_labels(labels: &Labels) -> Result<(), SystemError> {
    if labels.len() > LABELS_MAX {
        return Err(SystemError::Labels { count: labels.len() });
    }
    let lengths = labels.iter().flat_map(|(name, value)| [name.len(), value.len()]);
    match lengths.max() {
        Some(bytes) if bytes > LABEL_BYTES_MAX => Err(SystemError::LabelBytes { bytes }),
        Some(_) | None => Ok(()),
    }
}

fn without_body(message: System, payload: &[u8]) -> Result<System, SystemError> {
    match payload.len() {
        0 => Ok(message),
        bytes => Err(PayloadError::Trailing { bytes }.into()),
    }
}

fn to_array<T: Serialize>(body: &T) -> Vec<u8> {
    rmp_serde::to_vec(body).expect("numbers, texts, lists and maps always encode")
}

#[cfg(test)]
mod tests;
