//! Server side of links: who is connected to us, and who has gone silent.
//!
//! A listening socket never tells that a peer is gone, so presence is decided here, from messages
//! alone: a peer joins by greeting, stays by giving signs of life, and leaves by goodbye, by
//! silence, or because another incarnation takes its place.
//!
//! # Which of two greetings wins
//!
//! Incarnations are random numbers and have no order, so "newer" is decided by what is heard:
//!
//! | the id is held by | and | the greeting is |
//! |---|---|---|
//! | nobody | its incarnation was replaced before | refused, `Stale` |
//! | nobody | otherwise | welcomed |
//! | the same incarnation, same route | | welcomed again; nobody joins or leaves |
//! | the same incarnation, other route | re-made | `Left(ConnectionLost)`, `Joined` |
//! | another incarnation | heard within a ping and a half | refused, `DuplicateId` |
//! | another incarnation | silent for a ping and a half | `Left(Superseded)`, `Joined` |
//!
//! An incarnation that was replaced by another one is remembered, within limits, and is not let in
//! again: it would take its name back from its successor.
//!
//! Pure: time enters as `now`, effects leave through [`Server::poll_output`]. One timer serves all
//! peers, and a sign of life costs one lookup.
//! Invariant: the `Joined` and `Left` outputs of one node alternate, starting with `Joined`; a peer
//! is known by route and by id exactly between them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::id::{Incarnation, NodeId};
use crate::presence::{Heartbeat, Identity, LeaveReason, PeerInfo, labels_within_limits};
use crate::protocol::system::{
    Greeting, KnownPeers, LabelsUpdate, Ping, Refusal, RefuseReason, System,
};
use crate::timer::{Time, earliest};
use crate::transport::RoutingId;

/// Replaced incarnations remembered per node.
const LIVES_MAX: usize = 16;
/// Unknown routes remembered, so that none is asked to greet again more often than once a second.
const STRANGERS_MAX: usize = 256;
/// Shortest time between two requests to one unknown route to greet again.
const STRANGER_WAIT: Duration = Duration::from_secs(1);

/// Limits of a server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Options {
    /// Peers that may be joined at once [default: 4,096]. Larger: more memory, about a kilobyte
    /// and the peer's labels each. Smaller: peers are refused.
    pub peers_max: usize,
    /// Nodes that the application refuses [default: none].
    pub denied: BTreeSet<NodeId>,
}

impl Default for Options {
    fn default() -> Self {
        Self { peers_max: 4_096, denied: BTreeSet::new() }
    }
}

/// All peers that dialed us. See the [module](self).
#[derive(Debug)]
pub struct Server {
    identity: Arc<Identity>,
    heartbeat: Heartbeat,
    options: Options,
    /// Looked up by route on every message: comparing is quicker than a hash that a stranger, who
    /// chooses the routing ids, cannot turn against us.
    peers: BTreeMap<RoutingId, Peer>,
    routes: BTreeMap<NodeId, RoutingId>,
    /// One entry per peer, at or before its true expiry: moved when it is reached, not at every
    /// sign of life.
    expiries: BTreeSet<(Time, RoutingId)>,
    checked: Time,
    /// Whether the last check was put off because we had been away.
    put_off: bool,
    /// No peer becomes a ghost before this time.
    no_ghosts_before: Time,
    lives: Lives,
    strangers: BTreeMap<RoutingId, Time>,
    stopping: bool,
    outputs: VecDeque<Output>,
}

impl Server {
    /// A server that nobody has joined.
    pub fn new(now: Time, identity: Arc<Identity>, heartbeat: Heartbeat, options: Options) -> Self {
        let lives = Lives::new(options.peers_max.saturating_mul(2));
        Self {
            identity,
            heartbeat,
            options,
            peers: BTreeMap::new(),
            routes: BTreeMap::new(),
            expiries: BTreeSet::new(),
            checked: now,
            put_off: false,
            no_ghosts_before: now,
            lives,
            strangers: BTreeMap::new(),
            stopping: false,
            outputs: VecDeque::new(),
        }
    }

    /// Takes one input; what follows from it is read with [`Self::poll_output`].
    ///
    /// [`Input::Timeout`] may come at any time; it does what is due and nothing else. Hand over
    /// messages that have arrived before it, or a pause of our own looks like silence of the peers.
    pub fn handle(&mut self, now: Time, input: Input) {
        match input {
            Input::Alive { route } => self.alive_or_stranger(now, route),
            Input::Closed { reason } => {
                self.event(ServerEvent::Closed { reason });
                self.leave_all(LeaveReason::Closed);
            }
            Input::Denied(denied) => self.deny(denied),
            Input::Identity(identity) => self.set_identity(identity),
            Input::Refused { route, node, reason } => self.refuse(route, node, reason),
            Input::NotReady => {
                self.event(ServerEvent::NotReady);
                self.leave_all(LeaveReason::ConnectionLost);
            }
            Input::Ready => {
                self.stopping = false;
                self.event(ServerEvent::Ready);
            }
            Input::Stop => {
                self.stopping = true;
                self.send_all(&System::Goodbye);
                self.leave_all(LeaveReason::Stopped);
            }
            Input::System { route, message } => self.system(now, route, message),
            Input::Timeout => self.check(now),
            Input::Unreachable { route } => self.leave(route, LeaveReason::ConnectionLost),
        }
    }

    /// The next effect, in the order in which they are to happen.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Timeout`] is due: at the earliest expiry, but at latest one health check
    /// interval after the last check. None while nobody is joined.
    pub fn poll_timeout(&self) -> Option<Time> {
        let &(expiry, _) = self.expiries.first()?;
        let expiry = expiry.max(self.no_ghosts_before);
        earliest(Some(expiry), Some(self.checked + self.heartbeat.health_check_interval))
    }

    /// The peer with this id, if it is joined.
    pub fn peer(&self, node: &NodeId) -> Option<(RoutingId, &PeerInfo)> {
        let route = *self.routes.get(node)?;
        self.peers.get(&route).map(|peer| (route, &peer.info))
    }

    /// The peer behind a route, if it is joined. Envelopes of another incarnation are not from it.
    pub fn peer_at(&self, route: RoutingId) -> Option<&PeerInfo> {
        self.peers.get(&route).map(|peer| &peer.info)
    }

    /// All joined peers, in the order of their ids.
    pub fn peers(&self) -> impl Iterator<Item = (RoutingId, &PeerInfo)> {
        self.routes.keys().filter_map(|node| self.peer(node))
    }

    /// How many peers are joined.
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Whether nobody is joined.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    fn system(&mut self, now: Time, route: RoutingId, message: System) {
        match message {
            System::Goodbye => self.leave(route, LeaveReason::Goodbye),
            System::Hello(greeting) => self.hello(now, route, greeting),
            System::Labels(update) => self.labels(now, route, update),
            System::Peers(known) => {
                self.alive_or_stranger(now, route);
                if let Some(peer) = self.peers.get(&route) {
                    let node = peer.info.node.clone();
                    self.outputs.push_back(Output::Peers { node, known });
                }
            }
            System::Ping(ping) => {
                self.alive_or_stranger(now, route);
                if let Some(peer) = self.peers.get(&route) {
                    let lost_news = peer.revision < ping.revision;
                    let (number, revision) = (ping.number, self.identity.revision);
                    self.send(route, System::Pong(Ping { number, revision }));
                    if lost_news {
                        self.send(route, System::HelloAgain);
                    }
                }
            }
            // What only a server says; from a client it means nothing.
            System::HelloAgain | System::Pong(_) | System::Refuse(_) | System::Welcome(_) => {}
        }
    }

    fn hello(&mut self, now: Time, route: RoutingId, greeting: Greeting) {
        match self.admit(now, route, &greeting) {
            Err(reason) => self.refuse(route, greeting.node, reason),
            Ok(()) => {
                let revision = greeting.revision;
                self.join(now, route, PeerInfo::from(greeting), revision);
                self.send(route, System::Welcome(self.identity.greeting()));
            }
        }
    }

    fn refuse(&mut self, route: RoutingId, node: NodeId, reason: RefuseReason) {
        // A peer that is refused on the route it joined by must not stay routable there.
        if self.peers.get(&route).is_some_and(|peer| peer.info.node == node) {
            self.leave(route, LeaveReason::Refused);
        }
        self.event(ServerEvent::ClientRefused { node, reason });
        self.send(route, System::Refuse(Refusal { reason }));
    }

    fn admit(&self, now: Time, route: RoutingId, greeting: &Greeting) -> Result<(), RefuseReason> {
        if self.stopping {
            return Err(RefuseReason::Stopping);
        }
        self.identity.admits(greeting)?;
        if self.options.denied.contains(&greeting.node) {
            return Err(RefuseReason::Application);
        }
        if self.lives.is_past(&greeting.node, greeting.incarnation) {
            return Err(RefuseReason::Stale);
        }
        match self.routes.get(&greeting.node).and_then(|route| self.peers.get(route)) {
            Some(holder) if holder.info.incarnation == greeting.incarnation => Ok(()),
            Some(holder) => {
                let silence = now.saturating_since(holder.last_seen);
                match silence < self.heartbeat.takeover_after() {
                    true => Err(RefuseReason::DuplicateId),
                    false => Ok(()),
                }
            }
            None if self.len() >= self.options.peers_max && !self.peers.contains_key(&route) => {
                Err(RefuseReason::Capacity)
            }
            None => Ok(()),
        }
    }

    /// Makes the peer joined by this route, whatever it or another one was before.
    fn join(&mut self, now: Time, route: RoutingId, info: PeerInfo, revision: u64) {
        if self.refresh(now, route, &info, revision) {
            return;
        }
        if let Some((old_route, old)) = self.peer(&info.node) {
            let reason = match old.incarnation == info.incarnation {
                true => LeaveReason::ConnectionLost,
                false => LeaveReason::Superseded,
            };
            self.leave(old_route, reason);
        }
        // A route never changes hands honestly; whoever joined by it before is gone.
        self.leave(route, LeaveReason::Superseded);
        self.lives.began(&info.node, info.incarnation);
        self.strangers.remove(&route);
        if self.peers.is_empty() {
            self.checked = now;
        }
        let expiry = now + self.heartbeat.ghost_timeout;
        self.expiries.insert((expiry, route));
        self.routes.insert(info.node.clone(), route);
        let peer = Peer { info: info.clone(), revision, last_seen: now, entry: expiry };
        self.peers.insert(route, peer);
        let node = info.node.clone();
        self.outputs.push_back(Output::Joined { route, peer: info });
        self.event(ServerEvent::ClientJoined { node });
    }

    /// Takes a repeated greeting of a peer that is joined by the same route; false if it is not.
    fn refresh(&mut self, now: Time, route: RoutingId, info: &PeerInfo, revision: u64) -> bool {
        let Some(peer) = self.peers.get_mut(&route) else { return false };
        if (&peer.info.node, peer.info.incarnation) != (&info.node, info.incarnation) {
            return false;
        }
        peer.last_seen = now;
        peer.revision = revision;
        if peer.info != *info {
            peer.info = info.clone();
            self.labels_changed(route, info.clone());
        }
        true
    }

    fn leave(&mut self, route: RoutingId, reason: LeaveReason) {
        let Some(peer) = self.peers.remove(&route) else { return };
        let node = peer.info.node;
        self.routes.remove(&node);
        self.expiries.remove(&(peer.entry, route));
        self.outputs.push_back(Output::Left { route, node: node.clone(), reason });
        self.event(ServerEvent::ClientLeft { node, reason });
    }

    fn leave_all(&mut self, reason: LeaveReason) {
        let routes: Vec<_> = self.routes.values().copied().collect();
        routes.into_iter().for_each(|route| self.leave(route, reason));
    }

    fn labels(&mut self, now: Time, route: RoutingId, update: LabelsUpdate) {
        self.alive_or_stranger(now, route);
        let Some(peer) = self.peers.get_mut(&route) else { return };
        if update.revision <= peer.revision || !labels_within_limits(&update.labels) {
            return;
        }
        peer.revision = update.revision;
        if peer.info.labels != update.labels {
            peer.info.labels = update.labels;
            let info = peer.info.clone();
            self.labels_changed(route, info);
        }
    }

    fn labels_changed(&mut self, route: RoutingId, peer: PeerInfo) {
        let node = peer.node.clone();
        self.outputs.push_back(Output::Labels { route, peer });
        self.event(ServerEvent::ClientLabels { node });
    }

    fn set_identity(&mut self, identity: Arc<Identity>) {
        let before = std::mem::replace(&mut self.identity, identity);
        // Only a greeting carries an address; a second one is harmless.
        if before.address != self.identity.address {
            self.send_all(&System::Welcome(self.identity.greeting()));
        } else if before.revision < self.identity.revision {
            self.send_all(&System::Labels(self.identity.labels_update()));
        }
    }

    fn deny(&mut self, denied: BTreeSet<NodeId>) {
        let expelled: Vec<_> =
            denied.iter().filter_map(|node| self.routes.get(node).copied()).collect();
        self.options.denied = denied;
        for route in expelled {
            self.leave(route, LeaveReason::Refused);
            self.send(route, System::Refuse(Refusal { reason: RefuseReason::Application }));
        }
    }

    fn alive_or_stranger(&mut self, now: Time, route: RoutingId) {
        match self.peers.get_mut(&route) {
            Some(peer) => peer.last_seen = peer.last_seen.max(now),
            None => self.stranger(now, route),
        }
    }

    /// Asks an unknown route to greet, rarely; when too many ask at once, some are not answered.
    fn stranger(&mut self, now: Time, route: RoutingId) {
        if self.stopping || self.strangers.get(&route).is_some_and(|next| now < *next) {
            return;
        }
        if self.strangers.len() >= STRANGERS_MAX {
            self.strangers.retain(|_, next| now < *next);
        }
        if self.strangers.len() < STRANGERS_MAX {
            self.strangers.insert(route, now + STRANGER_WAIT);
            self.send(route, System::HelloAgain);
        }
    }

    /// The health check: those whose expiry has come are ghosts, unless they were heard since.
    fn check(&mut self, now: Time) {
        let Some(due) = self.poll_timeout().filter(|due| now >= *due) else { return };
        self.checked = now;
        let away = now.saturating_since(due) > self.heartbeat.ping_interval;
        self.put_off = away && !self.put_off;
        if self.put_off {
            // We were away ourselves, so the silence proves nothing: let the peers speak first.
            self.no_ghosts_before = now + self.heartbeat.ping_interval;
        }
        if now < self.no_ghosts_before {
            return;
        }
        while let Some(&(entry, route)) = self.expiries.first().filter(|(entry, _)| *entry <= now) {
            let peer = self.peers.get_mut(&route).expect("every expiry belongs to a peer");
            let expiry = peer.last_seen + self.heartbeat.ghost_timeout;
            if expiry <= now {
                self.leave(route, LeaveReason::Ghost);
            } else {
                peer.entry = expiry;
                self.expiries.remove(&(entry, route));
                self.expiries.insert((expiry, route));
            }
        }
    }

    fn send_all(&mut self, message: &System) {
        let routes = self.routes.values();
        let sends = routes.map(|route| Output::Send { route: *route, message: message.clone() });
        self.outputs.extend(sends);
    }

    fn send(&mut self, route: RoutingId, message: System) {
        self.outputs.push_back(Output::Send { route, message });
    }

    fn event(&mut self, event: ServerEvent) {
        self.outputs.push_back(Output::Event(event));
    }
}

/// What a server reacts to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Input {
    /// A valid envelope that is no system message arrived on this route. If its sender claims
    /// another incarnation than [`Server::peer_at`] knows, it is no sign of life of that peer.
    Alive {
        /// Where it came from.
        route: RoutingId,
    },
    /// The listener can never be used again.
    Closed {
        /// Why, for people.
        reason: String,
    },
    /// The application refuses these nodes from now on, and no others. Joined ones have to leave.
    Denied(BTreeSet<NodeId>),
    /// Our labels or our address changed.
    Identity(Arc<Identity>),
    /// We listen no more; all routes are gone.
    NotReady,
    /// We listen.
    Ready,
    /// The node refuses who greets, or has joined, by this route, for what it alone knows.
    Refused {
        /// The route.
        route: RoutingId,
        /// The name that is refused there.
        node: NodeId,
        /// Why.
        reason: RefuseReason,
    },
    /// We leave: say goodbye to everybody and let nobody in until `Ready`.
    Stop,
    /// A system message arrived.
    System {
        /// Where it came from.
        route: RoutingId,
        /// The message.
        message: System,
    },
    /// The time of [`Server::poll_timeout`] has come.
    Timeout,
    /// The transport has no connection for this route. Peers may leave without this evidence; it
    /// only tells earlier.
    Unreachable {
        /// The route.
        route: RoutingId,
    },
}

/// What a server wants done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Output {
    /// Something that observers want to know; nothing has to be done.
    Event(ServerEvent),
    /// The peer is routable from here on.
    Joined {
        /// Its route.
        route: RoutingId,
        /// The peer.
        peer: PeerInfo,
    },
    /// The peer announced other labels or another address.
    Labels {
        /// Its route.
        route: RoutingId,
        /// The peer with its new labels.
        peer: PeerInfo,
    },
    /// The peer is not routable from here on; requests in flight to it have failed.
    Left {
        /// The route it had.
        route: RoutingId,
        /// Its name.
        node: NodeId,
        /// Why.
        reason: LeaveReason,
    },
    /// A joined peer told whom it knows.
    Peers {
        /// Who told.
        node: NodeId,
        /// What it told.
        known: KnownPeers,
    },
    /// Send this. If the transport does not take it, drop it: what matters is repeated.
    Send {
        /// Where to.
        route: RoutingId,
        /// What.
        message: System,
    },
}

/// What happens to the listener and its peers, for observers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ServerEvent {
    /// A peer has joined; its welcome goes out next.
    ClientJoined {
        /// The peer.
        node: NodeId,
    },
    /// A peer announced other labels.
    ClientLabels {
        /// The peer.
        node: NodeId,
    },
    /// A peer has left.
    ClientLeft {
        /// The peer.
        node: NodeId,
        /// Why.
        reason: LeaveReason,
    },
    /// A greeting was refused.
    ClientRefused {
        /// Who greeted, by its own account.
        node: NodeId,
        /// Why.
        reason: RefuseReason,
    },
    /// The listener can never be used again.
    Closed {
        /// Why, for people.
        reason: String,
    },
    /// We listen no more.
    NotReady,
    /// We listen.
    Ready,
}

#[derive(Debug)]
struct Peer {
    info: PeerInfo,
    /// Of the peer's last labels update in this life; 0 after a greeting.
    revision: u64,
    last_seen: Time,
    /// The time under which the peer stands in `expiries`.
    entry: Time,
}

/// Which incarnations of a node have been replaced by another one. The nodes that joined first for
/// the first time are forgotten first.
#[derive(Debug)]
struct Lives {
    nodes: BTreeMap<NodeId, Life>,
    order: VecDeque<NodeId>,
    nodes_max: usize,
}

#[derive(Debug)]
struct Life {
    current: Incarnation,
    past: VecDeque<Incarnation>,
}

impl Lives {
    fn new(nodes_max: usize) -> Self {
        Self { nodes: BTreeMap::new(), order: VecDeque::new(), nodes_max: nodes_max.max(1) }
    }

    fn began(&mut self, node: &NodeId, incarnation: Incarnation) {
        if let Some(life) = self.nodes.get_mut(node) {
            let before = std::mem::replace(&mut life.current, incarnation);
            if before != incarnation {
                life.past.truncate(LIVES_MAX - 1);
                life.past.push_front(before);
            }
            return;
        }
        if self.order.len() >= self.nodes_max
            && let Some(oldest) = self.order.pop_front()
        {
            self.nodes.remove(&oldest);
        }
        self.order.push_back(node.clone());
        self.nodes.insert(node.clone(), Life { current: incarnation, past: VecDeque::new() });
    }

    fn is_past(&self, node: &NodeId, incarnation: Incarnation) -> bool {
        self.nodes.get(node).is_some_and(|life| life.past.contains(&incarnation))
    }
}

#[cfg(test)]
mod tests;
