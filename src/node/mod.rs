//! A node: a member of the mesh that sends requests and ticks to its peers and handles theirs.
//!
//! [`Node`] is a cheap handle; [`Builder`] starts one. What the node decides is in `core`, which
//! is pure; `driver` and `dispatch` are the shell around it.

mod builder;
mod calls;
mod core;
mod dispatch;
mod driver;
mod error;
mod event;
mod handler;
mod link;
mod peers;
mod rate;
mod refuse_log;
mod register;
pub mod route;
mod status;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{broadcast, watch};

pub use self::builder::{Builder, IntoAddress};
pub use self::calls::{Request, RequestAll, Response, Undecoded};
pub use self::error::{
    HandlerError, InvalidLabels, InvalidMessage, RequestError, StartError, TickError, WaitError,
};
pub use self::event::{Direction, Event, Source};
pub use self::handler::{BoxedOutcome, Call, Middleware, Next, Outcome, Peer};
pub use self::peers::PeerView;
pub use self::register::{HandlerId, On, RegisterError};
pub use self::status::{Counters, NodeStatus};

use self::calls::{Encoded, Target};
use self::core::{Message, Reply};
use self::driver::Shared;
use self::route::{Choice, Filter};
use crate::id::{Incarnation, NodeId};
use crate::keys::AllowList;
use crate::presence::{PeerInfo, labels_within_limits};
use crate::protocol::system::Labels;
use crate::timer::Clock;
use crate::transport::Address;
use crate::trust::NotDialed;

/// A handle to a running node. Clones are cheap and mean the same node.
///
/// Dropping the last handle stops the node, as [`stop`](Self::stop) does, without waiting.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use zmesh::{HandlerError, Node, Peer, route::Filter};
///
/// async fn sum(_from: Peer, numbers: Vec<u64>) -> Result<u64, HandlerError> {
///     Ok(numbers.iter().sum())
/// }
///
/// let adder = Node::builder("adder").bind("tcp://127.0.0.1:0").start()?;
/// adder.on_request("math.sum", sum)?;
///
/// let asker = Node::builder("asker").connect(adder.address().expect("bound")).start()?;
/// asker.wait_for_peers(&Filter::any(), 1, Duration::from_secs(5)).await?;
/// let total: u64 = asker.request("adder", "math.sum", &[1_u64, 2, 3]).await?;
/// assert_eq!(total, 6);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Node {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    node: NodeId,
    incarnation: Incarnation,
    address: Option<Address>,
    request_timeout: Duration,
    encrypted: bool,
    finished: watch::Receiver<bool>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.with(|core, now| core.stop(now));
    }
}

impl Node {
    /// Begins to describe a node with this id; [`Builder::start`] starts it.
    pub fn builder(id: impl Into<String>) -> Builder {
        Builder::new(id.into())
    }

    /// Its id.
    pub fn id(&self) -> &NodeId {
        &self.handle.node
    }

    /// Which life of it this is.
    pub fn incarnation(&self) -> Incarnation {
        self.handle.incarnation
    }

    /// Where peers can dial it; none if it does not listen.
    pub fn address(&self) -> Option<&Address> {
        self.handle.address.as_ref()
    }

    // ---- requests --------------------------------------------------------------------------

    /// Sends a request to one peer; await the result to get the reply.
    ///
    /// A request is sent at most once and never retried: only the caller knows whether the handler
    /// is idempotent. The deadline is the node's request timeout (5 s by default) unless
    /// [`Request::timeout`] is called.
    ///
    /// # Errors
    ///
    /// [`RequestError`] says what happened; [`RequestError::effect`] whether the handler may have
    /// run. A peer that has not joined, a full queue and an invalid payload fail at once.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the reply; it does not recall the request.
    pub fn request<P, R>(&self, to: impl AsRef<str>, subject: &str, payload: &P) -> Request<R>
    where
        P: Serialize + ?Sized,
        R: DeserializeOwned,
    {
        let target = Target::Node(to.as_ref().into());
        self.new_request(target, subject, Encoded::message_pack(payload), calls::typed)
    }

    /// As [`request`](Self::request), with bytes that only the application understands.
    pub fn request_raw(
        &self,
        to: impl AsRef<str>,
        subject: &str,
        payload: impl Into<Bytes>,
    ) -> Request<Bytes> {
        let target = Target::Node(to.as_ref().into());
        self.new_request(target, subject, Encoded::raw(payload.into()), calls::bytes)
    }

    /// Sends a request to one of the peers that match; [`Request::choose`] tells how it is picked.
    ///
    /// # Errors
    ///
    /// As [`request`](Self::request), and [`RequestError::NoNodesMatchFilter`].
    pub fn request_any<P, R>(&self, filter: &Filter, subject: &str, payload: &P) -> Request<R>
    where
        P: Serialize + ?Sized,
        R: DeserializeOwned,
    {
        let target = Target::Any(filter.clone(), Choice::RoundRobin);
        self.new_request(target, subject, Encoded::message_pack(payload), calls::typed)
    }

    /// Sends a request to every peer that matches, and waits for all of them.
    ///
    /// # Errors
    ///
    /// [`RequestError::NoNodesMatchFilter`] if nobody matches. Otherwise there is one result for
    /// each peer, in the order of their ids.
    pub fn request_all<P, R>(&self, filter: &Filter, subject: &str, payload: &P) -> RequestAll<R>
    where
        P: Serialize + ?Sized,
        R: DeserializeOwned,
    {
        let nodes = self.handle.shared.with(|core, _| core.choose_all(filter));
        let to_request = |node: NodeId| {
            let request = self.request(node.as_str(), subject, payload);
            (node, request)
        };
        RequestAll { requests: nodes.into_iter().map(to_request).collect() }
    }

    /// A request to a subject of the system; others' handlers never see it.
    pub(crate) fn system_request(
        &self,
        to: impl AsRef<str>,
        subject: &str,
        payload: Bytes,
    ) -> Request<Bytes> {
        let mut request = self.request_raw(to, subject, payload);
        request.system = true;
        request
    }

    fn new_request<R>(
        &self,
        target: Target,
        subject: &str,
        payload: Encoded,
        decode: fn(Reply) -> Result<R, RequestError>,
    ) -> Request<R> {
        Request {
            shared: Arc::clone(&self.handle.shared),
            target,
            subject: subject.into(),
            payload,
            timeout: self.handle.request_timeout,
            system: false,
            decode,
        }
    }

    // ---- ticks -----------------------------------------------------------------------------

    /// Sends a one-way message to one peer: at most once, in order with other messages to it.
    ///
    /// # Errors
    ///
    /// [`TickError`]: nothing was sent. `Ok` means that the message is in the queue of a live
    /// link, not that it arrived.
    pub fn tick<P>(&self, to: impl AsRef<str>, subject: &str, payload: &P) -> Result<(), TickError>
    where
        P: Serialize + ?Sized,
    {
        self.send_tick(to.as_ref(), subject, &Encoded::message_pack(payload), false)
    }

    /// As [`tick`](Self::tick), with bytes that only the application understands.
    ///
    /// # Errors
    ///
    /// As [`tick`](Self::tick).
    pub fn tick_raw(
        &self,
        to: impl AsRef<str>,
        subject: &str,
        payload: impl Into<Bytes>,
    ) -> Result<(), TickError> {
        self.send_tick(to.as_ref(), subject, &Encoded::raw(payload.into()), false)
    }

    /// Sends a one-way message to one of the peers that match, and returns which.
    ///
    /// # Errors
    ///
    /// As [`tick`](Self::tick), and [`TickError::NoNodesMatchFilter`].
    pub fn tick_any<P>(
        &self,
        filter: &Filter,
        choice: &Choice,
        subject: &str,
        payload: &P,
    ) -> Result<NodeId, TickError>
    where
        P: Serialize + ?Sized,
    {
        let chosen = self.handle.shared.with(|core, _| core.choose(filter, choice));
        let node = chosen.ok_or(TickError::NoNodesMatchFilter)?;
        self.tick(&node, subject, payload)?;
        Ok(node)
    }

    /// Sends a one-way message to every peer that matches; returns how many took it.
    ///
    /// # Errors
    ///
    /// [`TickError::NoNodesMatchFilter`] if nobody matches; the error of the first peer if none
    /// of them took it. A queue that is full for some of them only lowers the number.
    pub fn tick_all<P>(
        &self,
        filter: &Filter,
        subject: &str,
        payload: &P,
    ) -> Result<usize, TickError>
    where
        P: Serialize + ?Sized,
    {
        let payload = Encoded::message_pack(payload);
        let nodes = self.handle.shared.with(|core, _| core.choose_all(filter));
        let mut first_error = TickError::NoNodesMatchFilter;
        let mut taken = 0;
        for (position, node) in nodes.iter().enumerate() {
            match self.send_tick(node.as_str(), subject, &payload, false) {
                Ok(()) => taken += 1,
                Err(error) if position == 0 => first_error = error,
                Err(_counted) => {}
            }
        }
        if taken == 0 { Err(first_error) } else { Ok(taken) }
    }

    /// A tick to a subject of the system.
    pub(crate) fn system_tick(
        &self,
        to: impl AsRef<str>,
        subject: &str,
        payload: Bytes,
    ) -> Result<(), TickError> {
        self.send_tick(to.as_ref(), subject, &Encoded::raw(payload), true)
    }

    fn send_tick(
        &self,
        to: &str,
        subject: &str,
        payload: &Encoded,
        system: bool,
    ) -> Result<(), TickError> {
        let bytes = match &payload.bytes {
            Ok(bytes) => bytes,
            Err(error) => {
                return Err(TickError::Invalid(InvalidMessage::Payload(error.clone())));
            }
        };
        let message = Message { subject, format: payload.format, payload: bytes, system };
        self.handle.shared.with(|core, now| core.tick(now, to, message))
    }

    // ---- peers -----------------------------------------------------------------------------

    /// Dials an address and keeps the link: it is dialed again whenever it is lost.
    ///
    /// # Errors
    ///
    /// [`NotDialed`]: this node may not dial it.
    pub fn connect(&self, address: Address) -> Result<(), NotDialed> {
        self.handle.shared.with(|core, now| core.connect(now, address))
    }

    /// Lets in those on this list and nobody else, in place of the list that it was started with.
    /// Those who have joined by other keys leave at once. Means nothing to a node without keys, or
    /// to one that was started without a list.
    pub fn allow(&self, allowed: AllowList) {
        self.handle.shared.with(|core, now| core.allow(now, Arc::new(allowed)));
    }

    /// Gives up the link to an address; its peer leaves with the reason `stopped`.
    pub fn disconnect(&self, address: &Address) {
        self.handle.shared.with(|core, now| core.disconnect(now, address));
    }

    /// Announces other labels to every peer, present and future.
    ///
    /// Labels that begin with `_` belong to the system: those in `labels` are ignored, those of
    /// the system stay.
    ///
    /// # Errors
    ///
    /// [`InvalidLabels`]: there are too many, or one is too long. Nothing has changed.
    pub fn set_labels(&self, labels: Labels) -> Result<(), InvalidLabels> {
        self.handle.shared.with(|core, now| {
            let of_system = |name: &String| name.starts_with('_');
            let mut all = core.identity().labels.clone();
            all.retain(|name, _| of_system(name));
            all.extend(labels.into_iter().filter(|(name, _)| !of_system(name)));
            if !labels_within_limits(&all) {
                return Err(InvalidLabels);
            }
            core.set_labels(now, all);
            Ok(())
        })
    }

    /// Sets or removes one label of the system.
    pub(crate) fn set_system_label(&self, name: &str, value: Option<String>) {
        self.handle.shared.with(|core, now| {
            if core.identity().labels.get(name) == value.as_ref() {
                return;
            }
            let mut labels = core.identity().labels.clone();
            match value {
                Some(value) => labels.insert(name.to_owned(), value),
                None => labels.remove(name),
            };
            core.set_labels(now, labels);
        });
    }

    /// One of the peers that match; unlike a request to any, finding none is no event.
    pub(crate) fn choose(&self, filter: &Filter, choice: &Choice) -> Option<NodeId> {
        self.handle.shared.with(|core, _| core.choose_silently(filter, choice))
    }

    /// The labels that the node announces.
    pub fn labels(&self) -> Labels {
        self.handle.shared.with(|core, _| core.identity().labels.clone())
    }

    /// Peers that have joined, in the order of their ids.
    pub fn peers(&self) -> Vec<PeerView> {
        self.handle.shared.with(|core, _| {
            core.peers().views(|route| core.links().peek(route).map_or(0, link::Link::queued))
        })
    }

    /// Waits until at least `wanted` peers that match have joined; returns all that have.
    ///
    /// # Errors
    ///
    /// [`WaitError::Timeout`] after `timeout`, [`WaitError::Stopped`] if the node stops meanwhile.
    ///
    /// # Cancel safety
    ///
    /// Safe to drop and to call again.
    pub async fn wait_for_peers(
        &self,
        filter: &Filter,
        wanted: usize,
        timeout: Duration,
    ) -> Result<Vec<NodeId>, WaitError> {
        // Subscribed before the first look, so that no join falls between the two.
        let mut events = self.handle.shared.events.subscribe();
        let joined = || self.handle.shared.with(|core, _| core.matching(filter));
        let wait = async {
            loop {
                let peers = joined();
                if peers.len() >= wanted {
                    return Ok(peers);
                }
                if self.is_stopped() {
                    return Err(WaitError::Stopped);
                }
                match events.recv().await {
                    Ok(Event::Stopped) | Err(broadcast::error::RecvError::Closed) => {
                        return Err(WaitError::Stopped);
                    }
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                }
            }
        };
        let late = |_| Err(WaitError::Timeout { joined: joined().len(), wanted, after: timeout });
        tokio::time::timeout(timeout, wait).await.unwrap_or_else(late)
    }

    // ---- the node itself -------------------------------------------------------------------

    /// Events from now on: peers that join and leave, labels that change, links that are refused.
    /// A subscriber that does not keep up is told how many it missed; start from
    /// [`peers`](Self::peers) then.
    pub fn events(&self) -> Events {
        let receiver = self.handle.shared.events.subscribe();
        Events { receiver, ended: self.is_stopped() }
    }

    /// A number that nobody else draws.
    pub(crate) fn random_nonzero(&self) -> u64 {
        self.handle.shared.with(|core, _| core.random_nonzero())
    }

    /// The clock of everything that this node runs.
    pub(crate) fn clock(&self) -> Clock {
        self.handle.shared.clock
    }

    /// The most bytes of a message of the system.
    pub(crate) fn system_bytes_max(&self) -> usize {
        self.handle.shared.with(|core, _| core.payload_bytes_max(true))
    }

    /// What the node knows and has counted.
    pub fn status(&self) -> NodeStatus {
        let peers = self.peers();
        let transport = *self.handle.shared.transport.lock();
        let handle = &self.handle;
        handle.shared.with(|core, now| NodeStatus {
            cluster: core.identity().cluster.clone(),
            node: handle.node.clone(),
            incarnation: handle.incarnation,
            address: handle.address.clone(),
            labels: core.identity().labels.clone(),
            peers,
            in_flight: core.in_flight(),
            uptime_seconds: now.since_start().as_secs_f64(),
            encrypted: handle.encrypted,
            counters: core.counters(),
            transport,
        })
    }

    /// Whether the node has been stopped.
    pub fn is_stopped(&self) -> bool {
        self.handle.shared.with(|core, _| core.is_stopped())
    }

    /// Says goodbye to every peer, fails what is in flight and closes every socket.
    ///
    /// Returns when all is closed, within 2 s whatever the peers do. Idempotent.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future after it was polled does not recall it: the node stops all the same.
    pub async fn stop(&self) {
        self.handle.shared.with(|core, now| core.stop(now));
        let mut finished = self.handle.finished.clone();
        // An error means that the driver is gone, which is what we wait for.
        drop(finished.wait_for(|finished| *finished).await);
    }
}

/// A handle that does not keep its node running.
#[derive(Clone)]
pub(crate) struct WeakNode(std::sync::Weak<Handle>);

impl Node {
    pub(crate) fn downgrade(&self) -> WeakNode {
        WeakNode(Arc::downgrade(&self.handle))
    }
}

impl WeakNode {
    pub(crate) fn upgrade(&self) -> Option<Node> {
        self.0.upgrade().map(|handle| Node { handle })
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("id", &self.handle.node).finish_non_exhaustive()
    }
}

/// A stream of events with a limited memory.
#[derive(Debug)]
pub struct Events {
    receiver: broadcast::Receiver<Event>,
    /// The last event has been taken. The channel lives on with the handles of the node.
    ended: bool,
}

/// A subscriber did not keep up.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{missed} events were missed")]
pub struct Lagged {
    /// Events that are lost to this subscriber.
    pub missed: u64,
}

impl Events {
    /// The next event; none after the node has stopped.
    ///
    /// # Errors
    ///
    /// [`Lagged`] once for every gap; the events after the gap follow.
    ///
    /// # Cancel safety
    ///
    /// No event is lost if the future is dropped.
    pub async fn next(&mut self) -> Result<Option<Event>, Lagged> {
        if self.ended {
            return Ok(None);
        }
        match self.receiver.recv().await {
            Ok(event) => {
                self.ended = event == Event::Stopped;
                Ok(Some(event))
            }
            Err(broadcast::error::RecvError::Closed) => Ok(None),
            Err(broadcast::error::RecvError::Lagged(missed)) => Err(Lagged { missed }),
        }
    }

    /// The next join of a peer, skipping everything else; none after the node has stopped.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next).
    ///
    /// # Cancel safety
    ///
    /// No join is lost if the future is dropped.
    pub async fn next_joined(&mut self) -> Result<Option<PeerInfo>, Lagged> {
        while let Some(event) = self.next().await? {
            if let Event::PeerJoined { peer, .. } = event {
                return Ok(Some(peer));
            }
        }
        Ok(None)
    }
}
