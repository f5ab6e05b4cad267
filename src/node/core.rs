//! The node as a state machine: one server, many clients, one table of peers, and the messages
//! that travel between them and the application.
//!
//! Pure: time enters as `now`, messages as transport events, effects leave through
//! [`Core::poll_output`] and [`Core::poll_send`]. The ticket `T` stands for whoever waits for a
//! reply: a channel in the real node, a number in a simulation.
//!
//! Invariant: a peer is routable exactly while at least one of its links stands between its
//! `Joined` and its `Left`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::error::{HandlerError, RequestError, TickError};
use super::event::{Event, Source};
use super::link::{Links, Outbound, QueueLimits, Queued};
use super::peers::Peers;
use super::refuse_log::RefuseLog;
use super::route::{Choice, Chooser, Filter};
use super::status::Counters;
use crate::client::{self, Client};
use crate::discovery::{self, Discovery};
use crate::error::ErrorCode;
use crate::id::{NodeId, RequestId};
use crate::keys::{AllowList, PublicKey, Role};
use crate::presence::{Heartbeat, Identity};
use crate::protocol::envelope::{Format, Kind, Subject};
use crate::protocol::requests::Requests;
use crate::protocol::system::Labels;
use crate::server::{self, Server};
use crate::timer::{Time, earliest};
use crate::transport::{self, Address, LinkId, Route, RoutingId, SendError};
use crate::trust::{NotDialed, Trust};

/// Everything about a node that is decided before it starts.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) identity: Arc<Identity>,
    pub(crate) heartbeat: Heartbeat,
    pub(crate) queue: QueueLimits,
    pub(crate) payload_bytes_max: usize,
    pub(crate) in_flight_max: usize,
    pub(crate) peers_max: usize,
    /// Messages that a peer may send in a second; none for no limit.
    pub(crate) peer_rate: Option<NonZeroU32>,
    /// Whether there is a listener.
    pub(crate) listens: bool,
    /// Whether nodes that peers tell of are dialed too.
    pub(crate) gossip: bool,
    pub(crate) trust: Trust,
}

/// What the shell has to do.
#[derive(Debug)]
pub(crate) enum Output<T> {
    /// Let these in, and nobody else.
    Allow(Arc<AllowList>),
    /// Hand a request or a tick to the handlers.
    Deliver(Delivery),
    /// Open a link.
    Dial { link: LinkId, address: Address, routing_id: RoutingId },
    /// Tell those who listen to events.
    Event(Event),
    /// Close a link.
    HangUp(LinkId),
    /// A request is over.
    Resolve(T, Result<Reply, RequestError>),
}

/// A request or a tick for the handlers.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(crate) peer: NodeId,
    /// What the sender may ask for.
    pub(crate) role: Role,
    pub(crate) route: Route,
    /// [`RequestId::NONE`] for a tick.
    pub(crate) request: RequestId,
    pub(crate) subject: Subject,
    pub(crate) format: Format,
    pub(crate) payload: Bytes,
    /// After this nobody waits for the handler.
    pub(crate) deadline: Option<Time>,
}

impl Delivery {
    /// Where the answer goes.
    pub(crate) fn reply_to(&self) -> ReplyTo {
        ReplyTo { route: self.route, request: self.request, system: self.subject.is_system() }
    }
}

/// Where the answer to a request goes; a tick's goes nowhere.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReplyTo {
    pub(crate) route: Route,
    pub(crate) request: RequestId,
    /// Whether the request was one of the system, whose messages may be a little larger.
    system: bool,
}

/// What a handler on another node answered.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) peer: NodeId,
    pub(crate) format: Format,
    pub(crate) payload: Bytes,
}

/// A message on its way out: what a request and a tick have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    pub(crate) subject: &'a str,
    pub(crate) format: Format,
    pub(crate) payload: &'a [u8],
    /// Whether the caller belongs to the system and may use subjects that begin with `_`.
    pub(crate) system: bool,
}

/// The most bytes of a payload of the system, whose messages carry those of applications with
/// something around them, and which needs some room even where applications have little.
pub(crate) fn system_bytes_max(payload_bytes_max: usize) -> usize {
    payload_bytes_max.max(SYSTEM_BYTES_MIN) + SYSTEM_BYTES_EXTRA
}

const SYSTEM_BYTES_MIN: usize = 4 * 1024 * 1024;
const SYSTEM_BYTES_EXTRA: usize = 64 * 1024;

/// Answers to strangers that may wait to be sent.
const STRAY_SENDS_MAX: usize = 1_024;

struct ClientLink {
    client: Client,
    address: Address,
    timeout: Option<Time>,
    connected: bool,
}

mod incoming;
mod standing;
mod wiring;

/// See the [module](self).
pub(crate) struct Core<T> {
    settings: Settings,
    server: Server,
    clients: BTreeMap<LinkId, ClientLink>,
    client_timeouts: BTreeSet<(Time, LinkId)>,
    discovery: Discovery,
    links: Links,
    /// The keys of those who joined by dialing us, where keys are asked for.
    keys: BTreeMap<RoutingId, PublicKey>,
    /// Answers to routes that have not joined: refusals and requests to greet again.
    stray_sends: VecDeque<(Route, Bytes)>,
    peers: Peers,
    requests: Requests<Waiting<T>>,
    chooser: Chooser,
    outputs: VecDeque<Output<T>>,
    counters: Counters,
    /// Links that are closed once their goodbye has had its time.
    hang_ups: VecDeque<(Time, LinkId)>,
    next_link: u64,
    refuse_log: RefuseLog,
    rng: fastrand::Rng,
    stopped: bool,
}

/// Who waits for a reply, and what to tell them when there is none.
struct Waiting<T> {
    ticket: T,
    peer: NodeId,
    timeout: Duration,
}

impl<T> Core<T> {
    pub(crate) fn new(now: Time, settings: Settings, mut rng: fastrand::Rng) -> Self {
        let identity = settings.identity.clone();
        let options =
            server::Options { peers_max: settings.peers_max, ..server::Options::default() };
        let server = Server::new(now, Arc::clone(&identity), settings.heartbeat, options);
        let discovery = Discovery::new(identity.node.clone(), identity.address.clone(), rng.fork());
        let discovery = discovery.trusting(settings.trust.clone());
        let discovery = if settings.gossip { discovery } else { discovery.seeds_only() };
        let mut core = Self {
            server,
            clients: BTreeMap::new(),
            client_timeouts: BTreeSet::new(),
            discovery,
            links: Links::default(),
            keys: BTreeMap::new(),
            stray_sends: VecDeque::new(),
            peers: Peers::default(),
            requests: Requests::new(settings.in_flight_max, rng.u32(..)),
            chooser: Chooser::new(rng.fork()),
            outputs: VecDeque::new(),
            counters: Counters::default(),
            hang_ups: VecDeque::new(),
            next_link: 1,
            refuse_log: RefuseLog::default(),
            rng,
            stopped: false,
            settings,
        };
        if core.settings.listens {
            core.event(Event::TransportReady(Source::Server));
            core.server.handle(now, server::Input::Ready);
            core.drain_server(now);
        }
        core.event(Event::Ready { address: core.settings.identity.address.clone() });
        core
    }

    // ---- what the application asks for ----------------------------------------------------

    /// Sends a request to the peer `to`.
    pub(crate) fn request(
        &mut self,
        now: Time,
        to: &str,
        message: Message<'_>,
        timeout: Duration,
        ticket: T,
    ) -> Result<RequestId, (T, RequestError)> {
        match self.find_route(to, message) {
            Ok((peer, route)) => {
                let waiting = Waiting { ticket, peer, timeout };
                self.enqueue_request(now, route, message, waiting)
            }
            Err(error) => Err((ticket, error)),
        }
    }

    fn find_route(&self, to: &str, message: Message<'_>) -> Result<(NodeId, Route), RequestError> {
        if self.stopped {
            return Err(RequestError::Stopped);
        }
        self.check(message).map_err(RequestError::Invalid)?;
        let no_peer = || RequestError::NoPeer { peer: to.to_owned() };
        let (peer, route) = self.peers.route(to).ok_or_else(no_peer)?;
        match self.has_room(route, message) && self.requests.has_room() {
            true => Ok((peer.clone(), route)),
            false => Err(RequestError::Full { peer: peer.clone() }),
        }
    }

    fn enqueue_request(
        &mut self,
        now: Time,
        route: Route,
        message: Message<'_>,
        waiting: Waiting<T>,
    ) -> Result<RequestId, (T, RequestError)> {
        let timeout = waiting.timeout;
        let peer = waiting.peer.clone();
        match self.requests.insert(now + timeout, route, waiting) {
            Ok(request) => {
                self.peers.request_started(&peer);
                self.enqueue(now, route, Kind::Request, request, Some(timeout), message);
                Ok(request)
            }
            Err(full) => Err((full.ticket.ticket, RequestError::Full { peer })),
        }
    }

    /// Sends a tick to the peer `to`.
    pub(crate) fn tick(
        &mut self,
        now: Time,
        to: &str,
        message: Message<'_>,
    ) -> Result<(), TickError> {
        if self.stopped {
            return Err(TickError::Stopped);
        }
        self.check(message).map_err(TickError::Invalid)?;
        let no_peer = || TickError::NoPeer { peer: to.to_owned() };
        let (peer, route) = self.peers.route(to).ok_or_else(no_peer)?;
        if !self.has_room(route, message) {
            let peer = peer.clone();
            self.counters.ticks_refused_full += 1;
            return Err(TickError::Full { peer });
        }
        self.enqueue(now, route, Kind::Tick, RequestId::NONE, None, message);
        Ok(())
    }

    /// Picks one joined peer that matches.
    pub(crate) fn choose(&mut self, filter: &Filter, choice: &Choice) -> Option<NodeId> {
        let chosen = self.choose_silently(filter, choice);
        if chosen.is_none() {
            self.nobody_matches();
        }
        chosen
    }

    /// Every joined peer that matches, for a message to all of them.
    pub(crate) fn choose_all(&mut self, filter: &Filter) -> Vec<NodeId> {
        let chosen = self.matching(filter);
        if chosen.is_empty() {
            self.nobody_matches();
        }
        chosen
    }

    fn nobody_matches(&mut self) {
        self.event(Event::Error {
            source: Source::Node,
            code: ErrorCode::NoNodesMatchFilter,
            message: "no joined peer matches the filter".to_owned(),
        });
    }

    /// As [`choose`](Self::choose), without an event when there is none.
    pub(crate) fn choose_silently(&mut self, filter: &Filter, choice: &Choice) -> Option<NodeId> {
        self.chooser.choose(choice, self.peers.matching(filter)).cloned()
    }

    /// Every joined peer that matches, in the order of their ids.
    pub(crate) fn matching(&self, filter: &Filter) -> Vec<NodeId> {
        self.peers.matching(filter).map(|candidate| candidate.node.clone()).collect()
    }

    /// Answers a request that was delivered.
    pub(crate) fn reply(&mut self, now: Time, to: ReplyTo, format: Format, payload: &[u8]) {
        let max = self.payload_bytes_max(to.system);
        let ReplyTo { route, request, .. } = to;
        if payload.len() > max {
            // The handler has run, so this is not the error of a request that was too large.
            let message = format!("reply of {} bytes is over the limit of {max}", payload.len());
            return self.reply_error(now, route, request, ErrorCode::HandlerError, &message);
        }
        let message = Message { subject: "", format, payload, system: true };
        self.answer(now, route, Kind::Reply, request, 0, message);
    }

    /// Refuses a request that was delivered.
    pub(crate) fn reply_error(
        &mut self,
        now: Time,
        route: Route,
        request: RequestId,
        code: ErrorCode,
        message: &str,
    ) {
        let text = cut(message, ERROR_MESSAGE_BYTES_MAX).as_bytes();
        let message = Message { subject: "", format: Format::Raw, payload: text, system: true };
        self.answer(now, route, Kind::Error, request, code.number(), message);
    }

    /// The handler of a tick failed: nobody is told but the log, which a flood must not fill.
    pub(crate) fn tick_failed(&mut self, now: Time, route: Route, error: &HandlerError) {
        self.counters.reject("tick_failed");
        self.refuse_log.note(now, route, error);
    }

    /// Nobody waits for this request any more.
    pub(crate) fn cancel(&mut self, request: RequestId) {
        if let Some(waiting) = self.requests.cancel(request) {
            self.peers.request_ended(&waiting.peer);
        }
    }

    /// Dials `address`, and again whenever the link is lost.
    pub(crate) fn connect(&mut self, now: Time, address: Address) -> Result<(), NotDialed> {
        self.settings.trust.may_dial(&address)?;
        self.discovery.handle(now, discovery::Input::AddSeed { address });
        self.drain_discovery(now);
        Ok(())
    }

    /// A number that nobody else draws.
    pub(crate) fn random_nonzero(&mut self) -> u64 {
        self.rng.u64(1..)
    }

    /// Gives up the link to `address`; its peer leaves.
    pub(crate) fn disconnect(&mut self, now: Time, address: &Address) {
        self.discovery.handle(now, discovery::Input::RemoveSeed { address: address.clone() });
        self.drain_discovery(now);
    }

    /// Announces other labels.
    pub(crate) fn set_labels(&mut self, now: Time, labels: Labels) {
        Arc::make_mut(&mut self.settings.identity).set_labels(labels);
        let identity = Arc::clone(&self.settings.identity);
        self.server.handle(now, server::Input::Identity(Arc::clone(&identity)));
        self.drain_server(now);
        let links: Vec<LinkId> = self.clients.keys().copied().collect();
        for link in links {
            self.client_input(now, link, client::Input::Identity(Arc::clone(&identity)));
        }
    }

    /// Says goodbye to every peer and fails whatever is in flight. Idempotent.
    pub(crate) fn stop(&mut self, now: Time) {
        if self.stopped {
            return;
        }
        // Before the peers leave: their requests are lost because we stop, not because they do.
        for (_, waiting) in self.requests.drain() {
            self.resolve(waiting, Err(RequestError::Stopped));
        }
        let links: Vec<LinkId> = self.clients.keys().copied().collect();
        for &link in &links {
            self.client_input(now, link, client::Input::Stop);
        }
        self.server.handle(now, server::Input::Stop);
        self.drain_server(now);
        for link in links {
            self.forget_link(link);
        }
        if self.settings.listens {
            let reason = "the node stops".to_owned();
            self.server.handle(now, server::Input::Closed { reason });
            self.drain_server(now);
            self.event(Event::TransportClosed(Source::Server));
        }
        self.event(Event::Stopped);
        self.stopped = true;
    }

    // ---- what the world reports ------------------------------------------------------------

    /// Takes one event of the transport.
    pub(crate) fn handle_transport(&mut self, now: Time, event: transport::Event) {
        match event {
            transport::Event::Closed { link, reason } => {
                self.transport_closed(now, link, reason);
            }
            transport::Event::Message { route, sender, message } => {
                self.received(now, route, sender, message);
            }
            transport::Event::NotReady { link } => self.transport_not_ready(now, link),
            transport::Event::Ready { link } => self.transport_ready(now, link),
            transport::Event::Writable { route } => self.links.writable(route),
        }
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, now: Time) {
        while let Some((_, waiting)) = self.requests.poll_expired(now) {
            let after = waiting.timeout;
            let error = RequestError::Timeout { peer: waiting.peer.clone(), after };
            self.resolve(waiting, Err(error));
        }
        if self.server.poll_timeout().is_some_and(|due| due <= now) {
            self.server.handle(now, server::Input::Timeout);
            self.drain_server(now);
        }
        while let Some(&(due, link)) = self.client_timeouts.first() {
            if due > now {
                break;
            }
            self.client_timeouts.pop_first();
            self.client_input(now, link, client::Input::Timeout);
        }
        while self.hang_ups.front().is_some_and(|(due, _)| *due <= now) {
            let Some((_, link)) = self.hang_ups.pop_front() else { break };
            self.outputs.push_back(Output::HangUp(link));
            for queued in self.links.close(Route::Upstream(link)) {
                self.unsent(&queued);
            }
        }
        if self.discovery.poll_timeout().is_some_and(|due| due <= now) {
            self.discovery.handle(now, discovery::Input::Timeout);
            self.drain_discovery(now);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do next.
    pub(crate) fn poll_timeout(&mut self) -> Option<Time> {
        if self.stopped {
            return None;
        }
        let clients = self.client_timeouts.first().map(|(due, _)| *due);
        let hang_up = self.hang_ups.front().map(|(due, _)| *due);
        let presence = earliest(earliest(self.server.poll_timeout(), clients), hang_up);
        earliest(earliest(presence, self.discovery.poll_timeout()), self.requests.next_deadline())
    }

    /// The next effect.
    pub(crate) fn poll_output(&mut self) -> Option<Output<T>> {
        self.outputs.pop_front()
    }

    /// The next frame for the transport. Its fate is told with [`sent`](Self::sent).
    pub(crate) fn poll_send(&mut self) -> Option<Outbound> {
        if let Some((route, message)) = self.stray_sends.pop_front() {
            return Some(Outbound::one(route, Queued::system(message)));
        }
        self.links.next_frame()
    }

    /// What became of a frame of [`poll_send`](Self::poll_send).
    pub(crate) fn sent(&mut self, now: Time, outbound: Outbound, result: Result<(), SendError>) {
        let (route, messages) = (outbound.route, outbound.messages() as u64);
        match result {
            Ok(()) => {
                self.counters.sent += messages;
                self.links.sent(&outbound);
            }
            Err(SendError::Full) if self.links.peek(route).is_some() => {
                self.links.blocked(outbound);
            }
            Err(SendError::Full) => self.counters.dropped_full += messages,
            Err(error @ (SendError::NotConnected | SendError::TooLarge { .. })) => {
                for queued in self.links.unsent(outbound) {
                    self.unsent(&queued);
                }
                if error == SendError::NotConnected {
                    self.unreachable(now, route);
                }
            }
        }
    }

    /// Whether the shell has something to do at once, other than wait for a time.
    pub(crate) fn has_work(&self) -> bool {
        !self.outputs.is_empty() || !self.stray_sends.is_empty() || self.links.has_ready()
    }

    /// Whether everything was handed to the transport.
    pub(crate) fn is_drained(&self) -> bool {
        self.stray_sends.is_empty() && self.links.is_drained()
    }

    /// The most bytes of a payload, of an application or of the system.
    pub(crate) fn payload_bytes_max(&self, system: bool) -> usize {
        match system {
            true => system_bytes_max(self.settings.payload_bytes_max),
            false => self.settings.payload_bytes_max,
        }
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.settings.identity
    }

    pub(crate) fn peers(&self) -> &Peers {
        &self.peers
    }

    pub(crate) fn links(&self) -> &Links {
        &self.links
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.requests.len()
    }

    pub(crate) fn counters(&self) -> Counters {
        let requests = self.requests.counters();
        Counters {
            late_replies: requests.replies_late,
            misrouted_replies: requests.replies_misrouted,
            requests_timed_out: requests.expired,
            ..self.counters.clone()
        }
    }

    pub(crate) fn counters_mut(&mut self) -> &mut Counters {
        &mut self.counters
    }
}

/// How long a goodbye has to leave before its link is closed.
const GOODBYE_GRACE: Duration = Duration::from_millis(50);
/// The most bytes of the message in an error reply.
const ERROR_MESSAGE_BYTES_MAX: usize = 1_024;

/// The longest prefix of `text` that has at most `bytes_max` bytes.
fn cut(text: &str, bytes_max: usize) -> &str {
    let end = (0..=bytes_max.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests;
