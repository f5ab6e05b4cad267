//! Moves whole messages between nodes: one listener that many peers reach, one link per address
//! that we dial.
//!
//! A transport knows routes and bytes. It does not know what a message means, who a peer is, or
//! whether it is alive: that is the business of the layers above. Everything above this trait is
//! free of libzmq, so that another implementation can be chosen by configuration.
//!
//! # Contract
//!
//! 1. Nothing blocks. [`Transport::send`] takes a message or says at once why not.
//! 2. A message arrives whole or not at all, and at most once. Messages of one route arrive in the
//!    order in which they were sent, as long as the connection lasts.
//! 3. After [`SendError::Full`] a [`Event::Writable`] of that route follows when it is worth
//!    trying again. (It may come early: trying again may fail again.)
//! 4. A dialed link reports [`Event::Ready`] when messages can pass, [`Event::NotReady`] when the
//!    connection is lost, and goes on trying to connect by itself, waiting longer each time. While
//!    it is not ready, `send` fails with [`SendError::NotConnected`]: nothing is kept for later,
//!    and nothing that was accepted before a loss is delivered after it.
//! 5. The listener never reports that a peer is gone; `send` to a route that is gone fails with
//!    [`SendError::NotConnected`].
//! 6. A message that is larger than [`Options::message_bytes_max`] never reaches the receiver.
//! 7. Each connection of a link has a routing id of its own: the one given to [`Transport::dial`]
//!    for the first, [`RoutingId::for_connection`] for the next ones. A listener that has not
//!    noticed yet that a connection is gone would never read a second one of the same name.
//! 8. After any other call, [`Transport::poll_event`] is called before the caller's task sleeps.
//! 9. An implementation may move bytes, accept and connect only while it is polled.
//! 10. Dropping the transport closes everything at once and does not wait for peers.
//! 11. A link to an address with a key is encrypted, and ready only once the listener has proved
//!     to have that key; one to an address without is neither. The listener of a transport with
//!     keys lets in nobody who has not proved to have a key of the allow-list, and says with each
//!     message which one. Taking a key off the list ends no connection.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

mod address;
mod complaint;
#[cfg(test)]
mod conformance;
mod listening;
pub mod memory;
pub mod native;
mod woken;
pub mod zmq;

pub use address::{Address, InvalidAddress};

use crate::keys::{AllowList, PublicKey};

/// A way to move messages. See the [module](self) for the contract.
pub trait Transport: Send {
    /// Starts listening on `address` and returns the address that peers can dial, in which a
    /// wildcard port has become a real one.
    ///
    /// # Errors
    ///
    /// [`BindError`]: nothing listens. A transport listens on at most one address at a time.
    fn bind(&mut self, address: &Address) -> Result<Address, BindError>;

    /// Stops listening. Routes of downstream peers are gone.
    fn unbind(&mut self);

    /// Opens a link to `address`, under the name `link`, announcing ourselves as `routing_id`.
    ///
    /// Returns at once; [`Event::Ready`] tells when the link is connected. A host name is resolved
    /// in the background and again after every failure.
    ///
    /// # Errors
    ///
    /// [`DialError`]: no link was opened.
    fn dial(
        &mut self,
        link: LinkId,
        address: &Address,
        routing_id: RoutingId,
    ) -> Result<(), DialError>;

    /// Closes a link. Unknown links are ignored, and no event of it follows.
    fn hang_up(&mut self, link: LinkId);

    /// Hands over one message, without waiting.
    ///
    /// # Errors
    ///
    /// [`SendError`] says why the message was not taken. Nothing was sent.
    fn send(&mut self, route: Route, message: &Bytes) -> Result<(), SendError>;

    /// The next event, or `Pending` with the waker registered.
    ///
    /// The caller decides how many events make a turn of its loop, and yields to the runtime every
    /// few turns: an implementation over descriptors learns of news only when the runtime runs.
    /// Routes take turns, so that a flood over one does not hold up the others.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event>;

    /// Lets in those on this list from now on; nobody before the first call. Means nothing to a
    /// transport without keys.
    fn allow(&mut self, allowed: Arc<AllowList>) {
        drop(allowed);
    }

    /// What was counted since the start.
    fn counters(&self) -> Counters;
}

/// Names a link that we dialed. Chosen by the caller, never reused.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct LinkId(pub u64);

/// The name under which a dialing node's connection is known at the listener it dialed.
///
/// 16 bytes: a marker, the node's incarnation and a number that is never reused. It routes replies
/// and proves nothing about who sent a message.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RoutingId(pub [u8; Self::BYTES]);

impl RoutingId {
    /// Bytes of a routing id.
    pub const BYTES: usize = 16;
    /// The first byte; never zero, which ZeroMQ keeps for the ids it makes up.
    const MARKER: u8 = b'z';

    /// The routing id of the `number`th link of this incarnation (32 bits of `number` count; the
    /// 16 bits above them number the connections of the link).
    pub fn new(incarnation: crate::id::Incarnation, number: u64) -> Self {
        let mut bytes = [0; Self::BYTES];
        bytes[0] = Self::MARKER;
        bytes[1] = 1;
        bytes[2..10].copy_from_slice(&incarnation.0.to_le_bytes());
        bytes[10..14].copy_from_slice(&number.to_le_bytes()[..4]);
        Self(bytes)
    }

    /// The routing id of the `connection`th connection of this link; 0 is the first.
    #[must_use]
    pub fn for_connection(mut self, connection: u16) -> Self {
        self.0[14..].copy_from_slice(&connection.to_le_bytes());
        self
    }

    /// Takes the bytes of a received routing id, if they have our shape.
    pub fn from_wire(bytes: &[u8]) -> Option<Self> {
        let bytes: [u8; Self::BYTES] = bytes.try_into().ok()?;
        (bytes[0] == Self::MARKER && bytes[1] == 1).then_some(Self(bytes))
    }
}

impl fmt::Debug for RoutingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[2..].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Where a message comes from or goes to.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Route {
    /// A peer that dialed our listener.
    Downstream(RoutingId),
    /// A link that we dialed.
    Upstream(LinkId),
}

/// What a transport reports.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// A link can never be used again, such as after an authentication failure.
    Closed {
        /// The link.
        link: LinkId,
        /// Why, for people.
        reason: String,
    },
    /// A message arrived.
    Message {
        /// Where it came from.
        route: Route,
        /// The key that who sent it has proved to have; none if the listener has no keys, or if it
        /// came over a link that we dialed: the address says whose those are.
        sender: Option<PublicKey>,
        /// Its bytes.
        message: Bytes,
    },
    /// A link lost its connection; it is being dialed again.
    NotReady {
        /// The link.
        link: LinkId,
    },
    /// A link is connected. The peer has not said anything yet.
    Ready {
        /// The link.
        link: LinkId,
    },
    /// A route that was full may have room.
    Writable {
        /// The route.
        route: Route,
    },
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The queue to this route is full.
    #[error("the queue to the peer is full")]
    Full,
    /// There is no connection on this route.
    #[error("not connected")]
    NotConnected,
    /// The message is larger than the limit.
    #[error("message of {bytes} bytes is over the limit of {max}")]
    TooLarge {
        /// Bytes of the message.
        bytes: usize,
        /// The limit.
        max: usize,
    },
}

/// Why nothing listens.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The transport listens already.
    #[error("already bound to {0}")]
    AlreadyBound(Address),
    /// The operating system or the library refused.
    #[error("cannot bind {address}: {reason}")]
    Refused {
        /// What was to be bound.
        address: Address,
        /// In the words of whoever refused.
        reason: String,
    },
}

/// Why no link was opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// The operating system or the library refused, such as for want of descriptors.
    #[error("cannot dial {address}: {reason}")]
    Refused {
        /// What was to be dialed.
        address: Address,
        /// In the words of whoever refused.
        reason: String,
    },
}

/// Limits of a transport.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Options {
    /// Messages that may wait in each direction of each connection [default: 256]. Larger: a
    /// slow peer costs more memory. Smaller: bursts stall.
    pub queue_messages_max: u32,
    /// Bytes a message may have [default: 8 MiB and 4 KiB]. A larger one closes the connection.
    pub message_bytes_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { queue_messages_max: 256, message_bytes_max: 8 * 1024 * 1024 + 4096 }
    }
}

/// The transports over real networks, to choose from. Their nodes understand each other.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    Eq,
    PartialEq,
    clap::ValueEnum,
    serde::Deserialize,
    serde::Serialize,
)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Kind {
    /// The library of that name: in use everywhere; has an I/O thread and `inproc` addresses.
    Libzmq,
    /// Reads and writes the sockets itself, without another thread, which is several times faster.
    /// TCP and Unix sockets only, and a node that is not polled for ten seconds loses its
    /// connections.
    #[default]
    Native,
}

impl Kind {
    /// The default for a node with these addresses: the one that is faster, if it has them.
    pub fn for_addresses<'a>(addresses: impl IntoIterator<Item = &'a Address>) -> Self {
        let is_inproc = |address: &Address| matches!(address, Address::Inproc { .. });
        if addresses.into_iter().any(is_inproc) { Self::Libzmq } else { Self::Native }
    }
}

/// The name as it stands in flags and files.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Libzmq => "libzmq",
            Self::Native => "native",
        })
    }
}

/// What a transport counted since the start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Serialize)]
pub struct Counters {
    /// Messages received and handed on.
    pub received: u64,
    /// Messages taken for sending.
    pub sent: u64,
    /// Messages dropped because they had not one routing id of our shape and one body.
    pub dropped_malformed: u64,
    /// Connections accepted by the listener.
    pub accepted: u64,
    /// Connections that failed the transport's own handshake, such as for want of an allowed key.
    pub handshakes_failed: u64,
}
