//! What a node reports about itself and its peers.

use crate::client::ClientEvent;
use crate::error::ErrorCode;
use crate::id::{Incarnation, NodeId};
use crate::presence::{LeaveReason, PeerInfo};
use crate::protocol::system::Labels;
use crate::server::ServerEvent;
use crate::transport::Address;

/// Who dialed whom.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// The peer dialed us.
    Downstream,
    /// We dialed the peer.
    Upstream,
}

/// Which part of a node an event or an error comes from.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Source {
    /// The link that we dialed to this address.
    Client(Address),
    /// Routing: no peer fits.
    Node,
    /// The listener.
    Server,
}

/// What happened, from the node's own view down to the transport's.
///
/// A peer that dialed us and that we dialed has two links; each joins and leaves for itself. The
/// peer is routable while at least one link has joined.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A dialing link reports.
    Client {
        /// The address that was dialed.
        address: Address,
        /// What happened.
        event: ClientEvent,
    },
    /// Something failed that no caller waits for.
    Error {
        /// Where.
        source: Source,
        /// As a stable code.
        code: ErrorCode,
        /// For people.
        message: String,
    },
    /// A link to a peer has joined: the peer is routable.
    PeerJoined {
        /// Who.
        peer: PeerInfo,
        /// By which kind of link.
        direction: Direction,
    },
    /// A peer changed its labels.
    PeerLabels {
        /// Who.
        peer: NodeId,
        /// All its labels.
        labels: Labels,
    },
    /// A link to a peer has left; exactly one for each `PeerJoined`.
    PeerLeft {
        /// Who.
        peer: NodeId,
        /// Which life of it.
        incarnation: Incarnation,
        /// Which kind of link.
        direction: Direction,
        /// Why.
        reason: LeaveReason,
    },
    /// The node is started; peers can dial `address`, if it listens.
    Ready {
        /// Where peers can dial it.
        address: Option<Address>,
    },
    /// The listener reports.
    Server(ServerEvent),
    /// The node has stopped; nothing follows.
    Stopped,
    /// A transport can send and receive.
    TransportReady(Source),
    /// A transport lost its connection.
    TransportNotReady(Source),
    /// A transport is closed for good.
    TransportClosed(Source),
}
