//! One dialed link: a DEALER and its monitor, made anew for every connection.
//!
//! ```text
//! Waiting --connect--> Connecting --handshake, writable--> Ready --lost--> Draining --empty-+
//!    ^                     |                                                                |
//!    +------ failed -------+-------------------------- NotReady ----------------------------+
//! ```
//!
//! libzmq goes on connecting by itself until the first connection stands. After that, a lost
//! connection ends its sockets: nothing that was queued for it survives, and the next connection
//! gets a routing id that the listener has never seen.
//!
//! Host names are resolved here, since libzmq would do it in the I/O thread of all sockets, where
//! one dead resolver stalls them for many seconds.
//!
//! Invariant: messages are received only between the `Ready` and the `NotReady` event.

use std::collections::VecDeque;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinHandle;
use tokio::time::Sleep;

use super::contexts::{Contexts, Lease, MonitorEvent, monitor_event, silence};
use super::inproc;
use super::options::{Mechanism, RECONNECT_MAX_MS, RECONNECT_MS, Role, configure};
use super::readiness::{Key, Watched, again_if_interrupted};
use super::receive::{Received, Receiver};
use super::{Step, now};
use crate::keys::{KeyPair, PublicKey};
use crate::transport::woken::KeyWaker;
use crate::transport::{Address, Event, LinkId, Options, Route, RoutingId, SendError};

/// How long a look at the monitor stays good. libzmq waits [`RECONNECT_MS`] at least before it
/// connects again, so within half of that no message can slip into a connection after the one
/// that the caller knows.
const MONITOR_FRESH: Duration = Duration::from_millis(RECONNECT_MS as u64 / 2);
/// A connection that stood for so long was a good one: the next failure is the first again.
const STABLE: Duration = Duration::from_secs(5);
/// While messages keep coming, how many of them pass between looks for room to send.
const WRITABLE_CHECK_MESSAGES: u32 = 64;

/// A dialed link.
pub(super) struct Link {
    id: LinkId,
    routing_id: RoutingId,
    connections: u16,
    waker: Waker,
    target: Target,
    /// Our keys, and that of who is to be there.
    keys: Option<(KeyPair, PublicKey)>,
    phase: Phase,
    connection: Option<Connection>,
    /// A wait before the next attempt.
    timer: Option<Pin<Box<Sleep>>>,
    failures: u32,
    jitter: fastrand::Rng,
    /// Whether the caller was told that the link is full.
    full: bool,
    received_since_check: u32,
    /// Whether the link is in the transport's queue.
    pub(super) scheduled: bool,
    /// Whether the waker must be registered again.
    pub(super) woken: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    /// No sockets; for the timer, the resolver or a name.
    Waiting,
    /// The sockets are there, the connection is not.
    Connecting {
        handshaken: bool,
    },
    Ready,
    /// The connection is lost, but what came over it may wait to be received.
    Draining,
}

enum Target {
    /// An endpoint that needs no resolving.
    Fixed(String),
    Inproc(inproc::Watch),
    Named {
        host: String,
        port: u16,
        candidates: VecDeque<SocketAddr>,
        resolving: Option<JoinHandle<std::io::Result<Vec<SocketAddr>>>>,
    },
}

struct Connection {
    dealer: Watched,
    monitor: Option<Watched>,
    monitor_seen: Instant,
    ready_since: Option<Instant>,
    _lease: Option<Lease>,
}

impl Link {
    /// A link that has not begun to connect.
    pub(super) fn new(
        id: LinkId,
        address: &Address,
        keys: Option<(KeyPair, PublicKey)>,
        routing_id: RoutingId,
        waker: Arc<KeyWaker<Key>>,
    ) -> Self {
        let target = match address {
            Address::Inproc { name } => Target::Inproc(inproc::Watch::new(name, &waker)),
            Address::Ipc { .. } => Target::Fixed(address.to_string()),
            Address::Tcp { host, .. } if host.parse::<IpAddr>().is_ok() => {
                Target::Fixed(address.clone().with_key(None).to_string())
            }
            Address::Tcp { host, port, .. } => Target::Named {
                host: host.clone(),
                port: *port,
                candidates: VecDeque::new(),
                resolving: None,
            },
        };
        let seed = routing_id
            .0
            .iter()
            .fold(0, |seed: u64, byte| seed.wrapping_mul(0x100_0000_01b3) ^ u64::from(*byte));
        Self {
            id,
            routing_id,
            connections: 0,
            waker: Waker::from(waker),
            target,
            keys,
            phase: Phase::Waiting,
            connection: None,
            timer: None,
            failures: 0,
            jitter: fastrand::Rng::with_seed(seed),
            full: false,
            received_since_check: 0,
            scheduled: false,
            woken: true,
        }
    }

    /// Begins to connect where that needs no waiting, so that a lack of descriptors shows at once.
    pub(super) fn start(
        &mut self,
        contexts: &mut Contexts,
        options: &Options,
    ) -> Result<(), String> {
        match &self.target {
            Target::Fixed(endpoint) => self.connect(Some(endpoint.clone()), contexts, options),
            Target::Inproc(_) | Target::Named { .. } => Ok(()),
        }
    }

    /// Does one thing that is to be done.
    pub(super) fn service(
        &mut self,
        contexts: &mut Contexts,
        options: &Options,
        receiver: &mut Receiver,
    ) -> Step {
        if std::mem::take(&mut self.woken) {
            self.arm();
        }
        match self.phase {
            Phase::Waiting => self.service_waiting(contexts, options),
            Phase::Connecting { handshaken } => self.service_connecting(handshaken, receiver),
            Phase::Ready => self.service_ready(receiver),
            Phase::Draining => self.service_draining(receiver),
        }
    }

    /// Hands one message to libzmq.
    pub(super) fn send(
        &mut self,
        message: &Bytes,
        receiver: &mut Receiver,
    ) -> Result<(), SendError> {
        let now = now();
        if self.is_stale(now) {
            self.look_for_loss(receiver);
        }
        let (Phase::Ready, Some(connection)) = (self.phase, &mut self.connection) else {
            return Err(SendError::NotConnected);
        };
        let dealer = &mut connection.dealer;
        let sent = again_if_interrupted(|| dealer.socket().send(&message[..], ::zmq::DONTWAIT));
        // The call may have eaten the edge of an arriving message.
        dealer.dirty = true;
        if sent.is_ok() {
            return Ok(());
        }
        self.look_for_loss(receiver);
        if self.phase != Phase::Ready {
            return Err(SendError::NotConnected);
        }
        self.full = true;
        Err(SendError::Full)
    }

    fn arm(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.dealer.arm(&self.waker);
            if let Some(monitor) = &mut connection.monitor {
                monitor.arm(&self.waker);
            }
        }
    }

    /// Whether a loss might have gone unseen.
    fn is_stale(&self, now: Instant) -> bool {
        match (&self.target, &self.connection) {
            (_, None) => false,
            (Target::Inproc(watch), Some(_)) => !watch.is_connected(),
            (Target::Fixed(_) | Target::Named { .. }, Some(connection)) => {
                now.duration_since(connection.monitor_seen) > MONITOR_FRESH
            }
        }
    }

    /// Reads the monitor, and begins to drain if the connection is lost.
    fn look_for_loss(&mut self, receiver: &mut Receiver) {
        let Some(connection) = &mut self.connection else { return };
        let mut lost = matches!(&self.target, Target::Inproc(watch) if !watch.is_connected());
        if let Some(monitor) = &mut connection.monitor {
            monitor.dirty = true;
            connection.monitor_seen = now();
            while let Some(event) = monitor_event(monitor, &mut receiver.frame) {
                lost |= event == MonitorEvent::Disconnected;
            }
        }
        if lost && self.phase == Phase::Ready {
            self.phase = Phase::Draining;
            connection.dealer.dirty = true;
        }
    }

    fn service_waiting(&mut self, contexts: &mut Contexts, options: &Options) -> Step {
        let mut cx = Context::from_waker(&self.waker);
        if let Some(timer) = &mut self.timer {
            if timer.as_mut().poll(&mut cx).is_pending() {
                return Step::Idle;
            }
            self.timer = None;
        }
        let endpoint = match &mut self.target {
            Target::Fixed(endpoint) => Some(endpoint.clone()),
            Target::Inproc(watch) => match watch.is_bound() {
                true => None,
                false => return Step::Idle,
            },
            Target::Named { host, port, candidates, resolving } => {
                match next_candidate(
                    host,
                    *port,
                    candidates,
                    resolving,
                    self.failures == 0,
                    &mut cx,
                ) {
                    Poll::Pending => return Step::Idle,
                    Poll::Ready(Some(address)) => Some(format!("tcp://{address}")),
                    Poll::Ready(None) => return self.fail(),
                }
            }
        };
        match self.connect(endpoint, contexts, options) {
            Ok(()) => Step::Again,
            Err(reason) => {
                tracing::warn!(link = self.id.0, reason, "cannot connect; trying again");
                self.fail()
            }
        }
    }

    /// Makes the sockets and lets them connect, to the inproc name if there is no `endpoint`.
    fn connect(
        &mut self,
        endpoint: Option<String>,
        contexts: &mut Contexts,
        options: &Options,
    ) -> Result<(), String> {
        let routing_id = match self.connections {
            0 => self.routing_id,
            number => self.routing_id.for_connection(number),
        };
        let (context, lease) = match &self.target {
            Target::Inproc(_) => (inproc::context().clone(), None),
            Target::Fixed(_) | Target::Named { .. } => {
                let (context, lease) = contexts.lease();
                (context, Some(lease))
            }
        };
        let text = |error: ::zmq::Error| error.to_string();
        let watch = |socket| Watched::new(socket).map_err(|error| error.to_string());
        let dealer = context.socket(::zmq::DEALER).map_err(text)?;
        let mechanism = match &self.keys {
            Some((pair, server)) => Mechanism::CurveDialer(pair, *server),
            None => Mechanism::Null,
        };
        configure(&dealer, Role::Dialer(routing_id), mechanism, options).map_err(text)?;
        let monitor = match &self.target {
            Target::Inproc(_) => None,
            Target::Fixed(_) | Target::Named { .. } => {
                Some(watch(contexts.monitor(&context, &dealer).map_err(text)?)?)
            }
        };
        // Whole before it connects: from then on it must end as a connection does.
        let connection = Connection {
            dealer: watch(dealer)?,
            monitor,
            monitor_seen: now(),
            ready_since: None,
            _lease: lease,
        };
        let dealer = connection.dealer.socket();
        let connected = match &mut self.target {
            Target::Inproc(watch) => watch.connect(dealer).map_err(text)?,
            Target::Fixed(_) | Target::Named { .. } => {
                dealer.connect(&endpoint.unwrap_or_default()).map_err(text)?;
                true
            }
        };
        if !connected {
            return Ok(());
        }
        self.connections = self.connections.wrapping_add(1);
        // No event tells that an inproc connection stands: it does as soon as it is made.
        self.phase = Phase::Connecting { handshaken: connection.monitor.is_none() };
        self.connection = Some(connection);
        self.full = false;
        self.arm();
        Ok(())
    }

    fn service_connecting(&mut self, handshaken: bool, receiver: &mut Receiver) -> Step {
        let Some(connection) = &mut self.connection else { return self.fail() };
        // The event may come before the I/O thread has handed us the connection itself.
        if handshaken && connection.dealer.is_writable() {
            connection.ready_since = Some(now());
            connection.dealer.dirty = true;
            self.phase = Phase::Ready;
            return Step::Event(Event::Ready { link: self.id });
        }
        let Some(monitor) = &mut connection.monitor else { return self.fail() };
        match monitor_event(monitor, &mut receiver.frame) {
            None => Step::Idle,
            Some(MonitorEvent::AuthenticationFailed) => self.closed("it does not allow our key"),
            // Another address of the name may be that of the right one.
            Some(MonitorEvent::ProtocolFailed) if self.has_another() => self.fail(),
            Some(MonitorEvent::ProtocolFailed) => self.not_it(),
            Some(MonitorEvent::ConnectRetried) => match self.target {
                // There may be another address, or another one by now.
                Target::Named { .. } => self.fail(),
                Target::Fixed(_) | Target::Inproc(_) => Step::Again,
            },
            // A listener that lacks the key cannot read our first word, and hangs up.
            Some(MonitorEvent::Disconnected) if self.keys.is_some() && !self.has_another() => {
                self.not_it()
            }
            Some(MonitorEvent::Disconnected) => self.fail(),
            Some(MonitorEvent::HandshakeSucceeded) => {
                self.phase = Phase::Connecting { handshaken: true };
                Step::Again
            }
            Some(MonitorEvent::Accepted | MonitorEvent::HandshakeFailed | MonitorEvent::Other) => {
                Step::Again
            }
        }
    }

    fn service_ready(&mut self, receiver: &mut Receiver) -> Step {
        let monitor_dirty = |connection: &Connection| {
            connection.monitor.as_ref().is_some_and(|monitor| monitor.dirty)
        };
        let lost_name = matches!(&self.target, Target::Inproc(watch) if !watch.is_connected());
        if lost_name || self.connection.as_ref().is_some_and(monitor_dirty) {
            self.look_for_loss(receiver);
            if self.phase != Phase::Ready {
                return Step::Again;
            }
        }
        let Some(connection) = &mut self.connection else { return self.fail() };
        self.received_since_check += 1;
        if self.full && self.received_since_check > WRITABLE_CHECK_MESSAGES {
            self.received_since_check = 0;
            if connection.dealer.is_writable() {
                return self.writable();
            }
        }
        match receiver.dealer_message(&mut connection.dealer) {
            Received::Dropped => Step::Again,
            Received::Message(message) => self.message(message),
            // Room is looked for last: receiving has taken in the news of it, and eaten its edge.
            Received::Nothing if self.full && connection.dealer.is_writable() => self.writable(),
            Received::Nothing if connection.dealer.dirty => Step::Again,
            Received::Nothing => Step::Idle,
        }
    }

    fn service_draining(&mut self, receiver: &mut Receiver) -> Step {
        let received = match &mut self.connection {
            Some(connection) => receiver.dealer_message(&mut connection.dealer),
            None => Received::Nothing,
        };
        match received {
            Received::Dropped => Step::Again,
            Received::Message(message) => self.message(message),
            Received::Nothing => {
                if let Target::Named { candidates, .. } = &mut self.target {
                    // The name may stand for another host by now.
                    candidates.clear();
                }
                self.fail();
                Step::Event(Event::NotReady { link: self.id })
            }
        }
    }

    fn not_it(&self) -> Step {
        self.closed(match self.keys {
            Some(_) => "it has not proved to have the key in the address",
            None => "it speaks another protocol, or asks for a key: HOST:PORT#KEY",
        })
    }

    fn closed(&self, reason: &str) -> Step {
        Step::Closed(Event::Closed { link: self.id, reason: reason.to_owned() })
    }

    fn message(&self, message: Bytes) -> Step {
        Step::Event(Event::Message { route: Route::Upstream(self.id), sender: None, message })
    }

    fn writable(&mut self) -> Step {
        self.full = false;
        Step::Event(Event::Writable { route: Route::Upstream(self.id) })
    }

    /// Closes the sockets and waits before the next attempt, unless it has another address.
    fn fail(&mut self) -> Step {
        let ready_since = self.connection.take().and_then(|connection| connection.ready_since);
        if ready_since.is_some_and(|since| now().duration_since(since) > STABLE) {
            self.failures = 0;
        }
        self.phase = Phase::Waiting;
        self.full = false;
        if !self.has_another() {
            self.timer = Some(Box::pin(tokio::time::sleep(self.backoff())));
        }
        Step::Again
    }

    /// Whether the name has an address that was not tried.
    fn has_another(&self) -> bool {
        matches!(&self.target, Target::Named { candidates, .. } if !candidates.is_empty())
    }

    /// Doubles with every failure, up to a limit, and keeps links from coming back in step.
    fn backoff(&mut self) -> Duration {
        let first = Duration::from_millis(RECONNECT_MS as u64);
        let longest = Duration::from_millis(RECONNECT_MAX_MS as u64);
        let wait = first.saturating_mul(1 << self.failures.min(10)).min(longest);
        self.failures = self.failures.saturating_add(1);
        wait.mul_f64(0.5 + self.jitter.f64() / 2.0)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.monitor.is_some() {
            silence(self.dealer.socket());
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Target::Named { resolving: Some(task), .. } = &self.target {
            task.abort();
        }
    }
}

/// The next address of `host`, resolving it if none is left; `None` when it has no address. A
/// person is told at the `first` failure in a row.
fn next_candidate(
    host: &str,
    port: u16,
    candidates: &mut VecDeque<SocketAddr>,
    resolving: &mut Option<JoinHandle<std::io::Result<Vec<SocketAddr>>>>,
    first: bool,
    cx: &mut Context<'_>,
) -> Poll<Option<SocketAddr>> {
    if let Some(address) = candidates.pop_front() {
        return Poll::Ready(Some(address));
    }
    let task = resolving.get_or_insert_with(|| {
        let host = host.to_owned();
        tokio::spawn(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    });
    let Poll::Ready(resolved) = Pin::new(task).poll(cx) else { return Poll::Pending };
    *resolving = None;
    match resolved {
        Ok(Ok(addresses)) => candidates.extend(addresses),
        Ok(Err(error)) if first => tracing::warn!(host, %error, "cannot resolve; trying again"),
        Ok(Err(error)) => tracing::debug!(host, %error, "cannot resolve"),
        Err(error) => tracing::debug!(host, %error, "resolving ended early"),
    }
    Poll::Ready(candidates.pop_front())
}
