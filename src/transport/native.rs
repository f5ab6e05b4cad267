//! The transport that speaks ZMTP by itself: the wire of libzmq without its I/O thread.
//!
//! libzmq hands each message to a thread of its own and back, which costs two wake-ups a hop. Here
//! whoever polls the transport reads and writes the sockets. Peers may use libzmq: a connection is
//! that of a ROUTER or a DEALER.
//!
//! Why own code: a route here needs a send that fails at once, limits of a message before anything
//! is allocated for it, and an event for each connection that is lost. As far as their sources were
//! read, `zeromq` 0.7 has no setting for a message's size, the sends of `rzmq` 0.5 are async calls
//! to tasks of its own, and `celerity` 0.1 knows neither ROUTER nor DEALER.
//!
//! With keys it encrypts as libzmq does, so that either end may be libzmq's. It has TCP and Unix
//! sockets; `inproc` addresses are refused.
//!
//! Bytes move only while the transport is polled, so a node that does not run has no heartbeat:
//! unlike with libzmq, its peers lose the connection after ten seconds, or three if they use libzmq.
//!
//! Shell: sockets, timers and the clock.
//!
//! Invariants: what may have something to do is in the queue, or its waker is registered; at most
//! `HALF_OPEN_MAX` strangers are waited for, the oldest of which makes way for the next.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time::Sleep;

mod connection;
mod curve;
mod failures;
mod link;
mod socket;
mod wire;

use connection::{Connection, Loss, Owner};
use curve::Curve;
use failures::Failures;
use link::Link;
use socket::{Acceptor, NO_INPROC, Stream};
use wire::{Item, Role, WireError};

use super::complaint::Complaint;
use super::woken::Woken;
use super::{
    Address, BindError, Counters, DialError, Event, LinkId, Options, Route, RoutingId, SendError,
    Transport,
};

use crate::keys::{AllowList, KeyPair, Role as KeyRole};

/// Messages taken from one connection before the next one's turn.
const BURST: u32 = 32;
/// Things done without an event before the caller's task yields.
const STEPS_MAX: u32 = 1_024;
/// Time between two looks at the deadlines of all connections.
const TICK: Duration = Duration::from_millis(500);
/// Connections to the listener whose handshake is not done.
const HALF_OPEN_MAX: usize = 256;
/// Connections to the listener in all; more are closed at once.
const ACCEPTED_MAX: usize = 16_384;
/// Connections in a row that were closed before anything was said, after which a link has no hope.
const TURNED_AWAY_MAX: u32 = 3;
/// A connection that stood for so long was a good one: the next failure is the first again.
const STABLE: Duration = Duration::from_secs(5);

/// A [`Transport`] that needs no libzmq and understands it. See the [module](self).
///
/// All calls must be made within a tokio runtime that has I/O and time enabled; they panic
/// elsewhere.
pub struct NativeTransport {
    options: Options,
    keys: Option<KeyPair>,
    allowed: Arc<AllowList>,
    complaint: Complaint,
    listener: Option<Listener>,
    links: BTreeMap<LinkId, Link>,
    connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    woken: Arc<Woken<Key>>,
    /// Reused for the keys that were woken.
    collected: Vec<Key>,
    /// What may have something to do, each once, in turns.
    queue: VecDeque<Key>,
    queued: BTreeSet<Key>,
    burst_left: u32,
    /// Connections with something to write.
    unflushed: Vec<u64>,
    tick: Option<Pin<Box<Sleep>>>,
    tick_waker: Waker,
    counters: Counters,
}

struct Listener {
    acceptor: Acceptor,
    address: Address,
    keys: Option<KeyPair>,
    waker: Waker,
    routes: BTreeMap<RoutingId, u64>,
    half_open: BTreeSet<u64>,
    failures: Failures,
}

/// What can have something to do.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Key {
    /// The listening socket.
    Accept,
    /// A connection, either way.
    Connection(u64),
    /// A link that is being dialed.
    Dial(LinkId),
    /// The look at everybody's deadlines.
    Tick,
}

/// What came of looking at one key.
enum Step {
    Again,
    Event(Event),
    Idle,
}

impl NativeTransport {
    /// A transport without sockets.
    pub fn new(options: Options) -> Self {
        let woken = Woken::new();
        Self {
            options,
            keys: None,
            allowed: Arc::default(),
            complaint: Complaint::default(),
            listener: None,
            links: BTreeMap::new(),
            connections: BTreeMap::new(),
            next_connection: 0,
            tick_waker: woken.waker(Key::Tick).into(),
            woken,
            collected: Vec::new(),
            queue: VecDeque::new(),
            queued: BTreeSet::new(),
            burst_left: BURST,
            unflushed: Vec::new(),
            tick: None,
            counters: Counters::default(),
        }
    }

    /// Encrypts with these keys, if there are any: what is bound from now on, and links to addresses
    /// with a key.
    #[must_use]
    pub fn with_keys(mut self, keys: impl Into<Option<KeyPair>>) -> Self {
        self.keys = keys.into();
        self
    }

    fn schedule(&mut self, key: Key) {
        if self.queued.insert(key) {
            self.queue.push_back(key);
        }
    }

    fn collect_woken(&mut self) {
        let mut collected = std::mem::take(&mut self.collected);
        self.woken.collect(&mut collected);
        collected.drain(..).for_each(|key| self.schedule(key));
        self.collected = collected;
    }

    fn service(&mut self, key: Key) -> Step {
        match key {
            Key::Accept => self.accept(),
            Key::Connection(id) => self.receive(id),
            Key::Dial(link) => self.dialed(link),
            Key::Tick => self.look_at_deadlines(),
        }
    }

    fn accept(&mut self) -> Step {
        let Some(listener) = &self.listener else { return Step::Idle };
        let accepted = listener.acceptor.poll_accept(&mut Context::from_waker(&listener.waker));
        match accepted {
            Poll::Pending => return Step::Idle,
            Poll::Ready(Ok(stream)) => {
                self.counters.accepted += 1;
                let has_room = listener.routes.len() + listener.half_open.len() < ACCEPTED_MAX;
                let keys = listener.keys.clone();
                let may_try = |from| listener.failures.may_try(now(), from);
                // Without keys a failure costs next to nothing; with them the work begins here.
                let is_heard = has_room && (keys.is_none() || stream.ip().is_none_or(may_try));
                match is_heard.then(|| keys.map(Curve::server).transpose()) {
                    Some(Ok(curve)) => self.open(stream, Owner::Listener, Role::Listener, curve),
                    Some(Err(_)) | None => self.counters.handshakes_failed += 1,
                }
            }
            // A want of descriptors lasts: the next look is the tick's, not a loop.
            Poll::Ready(Err(error)) => {
                tracing::warn!(%error, "cannot accept a connection");
                self.start_ticking();
                return Step::Idle;
            }
        }
        Step::Again
    }

    fn open(&mut self, stream: Stream, owner: Owner, role: Role, curve: Option<Curve>) {
        let id = self.next_connection;
        self.next_connection += 1;
        let waker = self.woken.waker(Key::Connection(id)).into();
        let connection = Connection::new(stream, owner, role, curve, &self.options, waker, now());
        self.connections.insert(id, connection);
        self.mark_unflushed(id);
        self.schedule(Key::Connection(id));
        self.start_ticking();
        match (owner, &mut self.listener) {
            (Owner::Listener, Some(listener)) => {
                listener.half_open.insert(id);
                if listener.half_open.len() > HALF_OPEN_MAX
                    && let Some(oldest) = listener.half_open.first().copied()
                {
                    // It is a stranger's, so there is nothing to report.
                    let _ = self.lose(oldest, &Loss::Silence);
                }
            }
            (Owner::Listener, None) => {}
            (Owner::Link(link), _) => {
                if let Some(link) = self.links.get_mut(&link) {
                    link.connection = Some(id);
                }
            }
        }
    }

    fn dialed(&mut self, id: LinkId) -> Step {
        let Some(link) = self.links.get_mut(&id) else { return Step::Idle };
        let Some((stream, name)) = link.poll() else { return Step::Idle };
        match link.curve() {
            Ok(curve) => self.open(stream, Owner::Link(id), Role::Dialer(name), curve),
            // Without randomness there is no safe connection.
            Err(_) => link.lost(false),
        }
        Step::Again
    }

    fn receive(&mut self, id: u64) -> Step {
        let Some(connection) = self.connections.get_mut(&id) else { return Step::Idle };
        let owner = connection.owner;
        if connection.is_writable_again(&self.options)
            && let Some(route) = route(connection)
        {
            connection.full = false;
            return Step::Event(Event::Writable { route });
        }
        match connection.receive(now()) {
            Err(loss) => self.lose(id, &loss),
            Ok(None) => {
                // The waker is one for both directions: it may have been woken by room to write.
                self.mark_unflushed(id);
                Step::Idle
            }
            Ok(Some(Item::Message(message))) => {
                let Some(route) = route(connection) else { return Step::Again };
                self.counters.received += 1;
                let sender = connection.key;
                Step::Event(Event::Message { route, sender, message })
            }
            Ok(Some(Item::Malformed)) => {
                self.counters.dropped_malformed += 1;
                Step::Again
            }
            Ok(Some(Item::Ping(context))) => {
                connection.pong(&context);
                self.mark_unflushed(id);
                Step::Again
            }
            Ok(Some(Item::Other)) => Step::Again,
            Ok(Some(Item::Say(step))) => {
                connection.say(&step);
                self.mark_unflushed(id);
                Step::Again
            }
            Ok(Some(Item::Proved(key, name))) => {
                let allowed = self.allowed.role(&key) > KeyRole::Revoked;
                if !allowed {
                    self.complaint.of_key(&connection.place(), key, &self.allowed);
                }
                match connection.judge(key, allowed) {
                    Ok(()) => {
                        self.mark_unflushed(id);
                        self.establish(id, owner, Some(name))
                    }
                    Err(loss) => self.lose(id, &loss),
                }
            }
            Ok(Some(Item::Established(peer))) => self.establish(id, owner, peer),
        }
    }

    fn establish(&mut self, id: u64, owner: Owner, peer: Option<RoutingId>) -> Step {
        let Some(connection) = self.connections.get_mut(&id) else { return Step::Idle };
        if let (Owner::Listener, Some(listener), Some(peer)) = (owner, &mut self.listener, peer) {
            if listener.routes.contains_key(&peer) {
                return self.lose(id, &Loss::Taken);
            }
            listener.routes.insert(peer, id);
            listener.half_open.remove(&id);
            connection.peer = Some(peer);
        }
        connection.established = true;
        connection.since = now();
        match owner {
            Owner::Link(link) => Step::Event(Event::Ready { link }),
            Owner::Listener => Step::Again,
        }
    }

    /// Forgets a connection that is gone.
    fn lose(&mut self, id: u64, loss: &Loss) -> Step {
        let Some(connection) = self.connections.remove(&id) else { return Step::Idle };
        tracing::debug!(owner = ?connection.owner, %loss, "connection lost");
        let established = connection.established;
        match (connection.owner, &mut self.listener) {
            (Owner::Listener, Some(listener)) => {
                listener.half_open.remove(&id);
                if let Some(peer) = connection.peer {
                    listener.routes.remove(&peer);
                }
                self.counters.handshakes_failed += u64::from(!established);
                if !established && let Some(from) = connection.ip {
                    listener.failures.note(now(), from);
                }
            }
            (Owner::Listener, None) => {}
            (Owner::Link(link), _) => {
                let turned_away =
                    self.links.get_mut(&link).map_or(0, |it| it.turned_away(established));
                let encrypted = connection.is_encrypted();
                if !established && let Some(reason) = hopeless(loss, encrypted, turned_away) {
                    self.links.remove(&link);
                    return Step::Event(Event::Closed { link, reason: reason.to_owned() });
                }
                if let Some(known) = self.links.get_mut(&link) {
                    let stood = now().duration_since(connection.since);
                    known.lost(established && stood >= STABLE);
                    self.schedule(Key::Dial(link));
                    if established {
                        return Step::Event(Event::NotReady { link });
                    }
                }
            }
        }
        Step::Again
    }

    fn start_ticking(&mut self) {
        if self.tick.is_none() {
            self.tick = Some(Box::pin(tokio::time::sleep(TICK)));
            self.schedule(Key::Tick);
        }
    }

    fn look_at_deadlines(&mut self) -> Step {
        let Some(tick) = &mut self.tick else { return Step::Idle };
        if tick.as_mut().poll(&mut Context::from_waker(&self.tick_waker)).is_pending() {
            return Step::Idle;
        }
        self.tick = None;
        let now = now();
        let mut lost = Vec::new();
        for (id, connection) in &mut self.connections {
            if connection.tick(now).is_err() {
                lost.push(*id);
            }
        }
        let all: Vec<u64> = self.connections.keys().copied().collect();
        for id in all {
            self.mark_unflushed(id);
            self.schedule(Key::Connection(id));
        }
        self.schedule(Key::Accept);
        if !self.connections.is_empty() {
            self.start_ticking();
        }
        for id in lost {
            // The connection itself reports its end at its next turn.
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.end();
            }
        }
        Step::Again
    }

    fn mark_unflushed(&mut self, id: u64) {
        if let Some(connection) = self.connections.get_mut(&id)
            && !std::mem::replace(&mut connection.unflushed, true)
        {
            self.unflushed.push(id);
        }
    }

    /// Writes what was sent since the last time: one call for all of it.
    fn flush(&mut self) {
        while let Some(id) = self.unflushed.pop() {
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            connection.unflushed = false;
            connection.flush();
            if connection.needs_turn(&self.options) {
                self.schedule(Key::Connection(id));
            }
        }
    }

    /// Takes the first key out of the queue.
    fn finish(&mut self, key: Key) {
        self.queue.pop_front();
        self.queued.remove(&key);
        self.burst_left = BURST;
    }

    /// Gives the next key its turn after a burst.
    fn rotate(&mut self) {
        self.burst_left -= 1;
        if self.burst_left == 0 {
            self.burst_left = BURST;
            self.queue.rotate_left(1);
            self.collect_woken();
        }
    }

    fn connection_of(&mut self, route: Route) -> Option<u64> {
        match route {
            Route::Downstream(peer) => self.listener.as_ref()?.routes.get(&peer).copied(),
            Route::Upstream(link) => self.links.get(&link)?.connection,
        }
    }
}

/// Why a dialed link has no hope, if it has none: the same words as libzmq's.
fn hopeless(loss: &Loss, encrypted: bool, turned_away: u32) -> Option<&'static str> {
    let not_it = match encrypted {
        true => "it has not proved to have the key in the address",
        false => "it speaks another protocol, or asks for a key: HOST:PORT#KEY",
    };
    match loss {
        Loss::Wire(WireError::Refused) if encrypted => Some("it does not allow our key"),
        Loss::Wire(_) => Some(not_it),
        // Whoever cannot read our first word hangs up. Once is no sign: it may just have died.
        Loss::Closed | Loss::Io(_) => (turned_away >= TURNED_AWAY_MAX).then_some(not_it),
        Loss::Key | Loss::Silence | Loss::Taken => None,
    }
}

fn route(connection: &Connection) -> Option<Route> {
    match connection.owner {
        Owner::Link(link) => Some(Route::Upstream(link)),
        Owner::Listener => connection.peer.map(Route::Downstream),
    }
}

impl Transport for NativeTransport {
    fn bind(&mut self, address: &Address) -> Result<Address, BindError> {
        if let Some(listener) = &self.listener {
            return Err(BindError::AlreadyBound(listener.address.clone()));
        }
        let refused = |reason| BindError::Refused { address: address.clone(), reason };
        if self.keys.is_some() && !matches!(address, Address::Tcp { .. }) {
            return Err(refused("only tcp has keys".to_owned()));
        }
        let (acceptor, bound) = Acceptor::bind(address).map_err(refused)?;
        let bound = bound.with_key(self.keys.as_ref().map(KeyPair::public));
        self.listener = Some(Listener {
            acceptor,
            address: bound.clone(),
            keys: self.keys.clone(),
            waker: self.woken.waker(Key::Accept).into(),
            routes: BTreeMap::new(),
            half_open: BTreeSet::new(),
            failures: Failures::default(),
        });
        self.schedule(Key::Accept);
        Ok(bound)
    }

    fn unbind(&mut self) {
        self.listener = None;
        self.connections.retain(|_, connection| connection.owner != Owner::Listener);
    }

    fn dial(
        &mut self,
        link: LinkId,
        address: &Address,
        routing_id: RoutingId,
    ) -> Result<(), DialError> {
        let refused = |reason: &str| {
            Err(DialError::Refused { address: address.clone(), reason: reason.to_owned() })
        };
        if matches!(address, Address::Inproc { .. }) {
            return refused(NO_INPROC);
        }
        if !address.is_dialable() {
            return refused("a wildcard is for binding only");
        }
        if self.links.contains_key(&link) {
            return refused("the link exists");
        }
        let keys = match (address.key(), &self.keys) {
            (None, _) => None,
            (Some(theirs), Some(ours)) => Some((ours.clone(), theirs)),
            (Some(_), None) => return refused("it asks for a key, and we have none"),
        };
        let waker = self.woken.waker(Key::Dial(link)).into();
        self.links.insert(link, Link::new(address, keys, routing_id, waker));
        self.schedule(Key::Dial(link));
        Ok(())
    }

    fn hang_up(&mut self, link: LinkId) {
        let connection = self.links.remove(&link).and_then(|link| link.connection);
        connection.and_then(|id| self.connections.remove(&id));
    }

    fn send(&mut self, route: Route, message: &Bytes) -> Result<(), SendError> {
        let (bytes, max) = (message.len(), self.options.message_bytes_max);
        if bytes > max {
            return Err(SendError::TooLarge { bytes, max });
        }
        let id = self.connection_of(route).ok_or(SendError::NotConnected)?;
        let connection = self.connections.get_mut(&id).ok_or(SendError::NotConnected)?;
        connection.send(message, &self.options)?;
        self.counters.sent += 1;
        self.mark_unflushed(id);
        Ok(())
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        for _ in 0..STEPS_MAX {
            self.flush();
            if self.queue.is_empty() {
                self.collect_woken();
            }
            let Some(&key) = self.queue.front() else {
                if self.woken.park(cx.waker()) {
                    return Poll::Pending;
                }
                continue;
            };
            match self.service(key) {
                Step::Again => self.rotate(),
                Step::Event(event) => {
                    self.rotate();
                    return Poll::Ready(event);
                }
                Step::Idle => self.finish(key),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn allow(&mut self, allowed: Arc<AllowList>) {
        self.allowed = allowed;
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}

/// The clock, for deadlines that no test needs to steer.
#[expect(clippy::disallowed_methods, reason = "a shell: real peers, real time")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests;
