//! How clients, the server and discovery are wired into one node: their outputs become messages,
//! entries of the peer table and events.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{ClientLink, Core, Output};
use crate::client::{self, Client, ClientEvent};
use crate::discovery;
use crate::error::ErrorCode;
use crate::id::NodeId;
use crate::node::error::RequestError;
use crate::node::event::{Direction, Event, Source};
use crate::presence::{LeaveReason, PeerInfo};
use crate::protocol::system::{KnownPeers, RefuseReason, System};
use crate::server;
use crate::timer::Time;
use crate::transport::{Address, LinkId, Route, RoutingId};

impl<T> Core<T> {
    /// Tells those who listen; after the node's last event there is nothing to tell.
    pub(super) fn event(&mut self, event: Event) {
        if !self.stopped {
            self.outputs.push_back(Output::Event(event));
        }
    }

    // ---- clients ---------------------------------------------------------------------------

    fn dial(&mut self, now: Time, address: Address) {
        let link = LinkId(self.next_link);
        self.next_link += 1;
        let routing_id = RoutingId::new(self.settings.identity.incarnation, link.0);
        let rng = self.rng.fork();
        let identity = Arc::clone(&self.settings.identity);
        let client = Client::new(identity, self.settings.heartbeat, rng);
        let entry =
            ClientLink { client, address: address.clone(), timeout: None, connected: false };
        self.clients.insert(link, entry);
        self.links.open(Route::Upstream(link));
        self.outputs.push_back(Output::Dial { link, address, routing_id });
        self.drain_client(now, link);
    }

    /// Dials anew under another routing id: a listener may hold a connection that it does not read,
    /// because the last one of the same name ended without its noticing.
    fn redial(&mut self, now: Time, link: LinkId) {
        let Some(entry) = self.clients.get(&link) else { return };
        let address = entry.address.clone();
        self.outputs.push_back(Output::HangUp(link));
        for queued in self.links.close(Route::Upstream(link)) {
            self.unsent(&queued);
        }
        self.forget_link(link);
        self.dial(now, address);
    }

    fn hang_up(&mut self, now: Time, address: &Address) {
        let found = self.clients.iter().find(|(_, entry)| entry.address == *address);
        let Some(link) = found.map(|(link, _)| *link) else { return };
        self.client_input(now, link, client::Input::Stop);
        self.hang_ups.push_back((now + super::GOODBYE_GRACE, link));
        self.forget_link(link);
    }

    pub(super) fn forget_link(&mut self, link: LinkId) {
        if let Some(entry) = self.clients.remove(&link) {
            if let Some(timeout) = entry.timeout {
                self.client_timeouts.remove(&(timeout, link));
            }
            self.event(Event::TransportClosed(Source::Client(entry.address)));
        }
    }

    pub(super) fn transport_ready(&mut self, now: Time, link: LinkId) {
        let Some(entry) = self.clients.get_mut(&link) else { return };
        entry.connected = true;
        let source = Source::Client(entry.address.clone());
        self.event(Event::TransportReady(source));
        self.client_input(now, link, client::Input::Ready);
    }

    pub(super) fn transport_not_ready(&mut self, now: Time, link: LinkId) {
        let Some(entry) = self.clients.get_mut(&link) else { return };
        if std::mem::take(&mut entry.connected) {
            let source = Source::Client(entry.address.clone());
            self.event(Event::TransportNotReady(source));
        }
        self.client_input(now, link, client::Input::NotReady);
        for queued in self.links.reset(Route::Upstream(link)) {
            self.unsent(&queued);
        }
    }

    pub(super) fn transport_closed(&mut self, now: Time, link: LinkId, reason: String) {
        let Some(entry) = self.clients.get(&link) else { return };
        let address = entry.address.clone();
        let source = Source::Client(address.clone());
        let code = ErrorCode::Refused;
        self.event(Event::Error { source, code, message: reason.clone() });
        self.client_input(now, link, client::Input::Closed { reason });
        self.links.close(Route::Upstream(link));
        self.forget_link(link);
        self.discovery.handle(now, discovery::Input::GaveUp { address, reason: None });
        self.drain_discovery(now);
    }

    pub(super) fn client_input(&mut self, now: Time, link: LinkId, input: client::Input) {
        let Some(entry) = self.clients.get_mut(&link) else { return };
        entry.client.handle(now, input);
        self.drain_client(now, link);
    }

    fn drain_client(&mut self, now: Time, link: LinkId) {
        while let Some(output) = self.poll_client(link) {
            // Layers report from the bottom up: the client's own event, which follows its joins
            // and leaves, comes before the node's.
            if matches!(output, client::Output::Joined(_) | client::Output::Left(_))
                && let Some(report) = self.poll_client(link)
            {
                self.client_output(now, link, report);
            }
            self.client_output(now, link, output);
        }
        let Some(entry) = self.clients.get_mut(&link) else { return };
        let timeout = entry.client.poll_timeout();
        if timeout != entry.timeout {
            let old = std::mem::replace(&mut entry.timeout, timeout);
            if let Some(old) = old {
                self.client_timeouts.remove(&(old, link));
            }
            if let Some(new) = timeout {
                self.client_timeouts.insert((new, link));
            }
        }
    }

    fn poll_client(&mut self, link: LinkId) -> Option<client::Output> {
        self.clients.get_mut(&link)?.client.poll_output()
    }

    fn client_output(&mut self, now: Time, link: LinkId, output: client::Output) {
        let route = Route::Upstream(link);
        match output {
            client::Output::Event(event) => {
                let Some(entry) = self.clients.get(&link) else { return };
                let address = entry.address.clone();
                let unanswered = event == ClientEvent::HandshakeTimeout;
                self.event(Event::Client { address, event });
                if unanswered {
                    self.redial(now, link);
                }
            }
            client::Output::GiveUp(reason) => self.give_up(now, link, reason),
            client::Output::Joined(info) => self.joined(now, route, info),
            client::Output::Labels(peer) => self.relabeled(now, peer),
            client::Output::Left(reason) => self.left(now, route, reason),
            client::Output::Peers(known) => self.heard(now, known),
            client::Output::Send(message) => self.send_system(now, route, &message),
        }
    }

    fn give_up(&mut self, now: Time, link: LinkId, reason: RefuseReason) {
        let Some(entry) = self.clients.get(&link) else { return };
        let address = entry.address.clone();
        self.event(Event::Error {
            source: Source::Client(address.clone()),
            code: ErrorCode::Refused,
            message: reason.to_string(),
        });
        self.outputs.push_back(Output::HangUp(link));
        self.links.close(Route::Upstream(link));
        self.forget_link(link);
        self.discovery.handle(now, discovery::Input::GaveUp { address, reason: Some(reason) });
        self.drain_discovery(now);
    }

    // ---- server ----------------------------------------------------------------------------

    pub(super) fn drain_server(&mut self, now: Time) {
        while let Some(output) = self.server.poll_output() {
            // As for a client: first the server's own event, then what it means for the node.
            if matches!(output, server::Output::Joined { .. } | server::Output::Left { .. })
                && let Some(report) = self.server.poll_output()
            {
                self.server_output(now, report);
            }
            self.server_output(now, output);
        }
    }

    fn server_output(&mut self, now: Time, output: server::Output) {
        match output {
            server::Output::Event(event) => self.event(Event::Server(event)),
            server::Output::Joined { route, peer } => {
                self.joined(now, Route::Downstream(route), peer);
            }
            server::Output::Labels { peer, .. } => self.relabeled(now, peer),
            server::Output::Left { route, reason, .. } => {
                self.left(now, Route::Downstream(route), reason);
            }
            server::Output::Peers { known, .. } => self.heard(now, known),
            server::Output::Send { route, message } => {
                self.send_system(now, Route::Downstream(route), &message);
            }
        }
    }

    /// The transport has no connection for a route: a peer that dialed us is gone, or about to
    /// come back by a new connection. The links that we dialed report that by themselves.
    pub(super) fn unreachable(&mut self, now: Time, route: Route) {
        if let Route::Downstream(route) = route {
            self.server.handle(now, server::Input::Unreachable { route });
            self.drain_server(now);
        }
    }

    // ---- discovery -------------------------------------------------------------------------

    fn heard(&mut self, now: Time, known: KnownPeers) {
        self.discovery.handle(now, discovery::Input::Heard(known));
        self.drain_discovery(now);
    }

    pub(super) fn drain_discovery(&mut self, now: Time) {
        while let Some(output) = self.discovery.poll_output() {
            self.discovery_output(now, output);
        }
    }

    fn discovery_output(&mut self, now: Time, output: discovery::Output) {
        match output {
            discovery::Output::Dial { address } => self.dial(now, address),
            discovery::Output::HangUp { address } => self.hang_up(now, &address),
            discovery::Output::Tell(known) => {
                let message = System::Peers(known);
                for route in self.peers.routes() {
                    self.send_system(now, route, &message);
                }
            }
        }
    }

    // ---- the peer table --------------------------------------------------------------------

    fn joined(&mut self, now: Time, route: Route, info: PeerInfo) {
        let direction = direction(route);
        let dialed = self.dialed_address(route);
        self.discovery.handle(now, discovery::Input::Joined { dialed, peer: info.clone() });
        let effects: Vec<_> = std::iter::from_fn(|| self.discovery.poll_output()).collect();
        // A second link that we dialed to the same node takes the first one's place: the first
        // leaves before the second joins.
        let is_hang_up = |effect: &_| matches!(effect, discovery::Output::HangUp { .. });
        let (hang_ups, others): (Vec<_>, Vec<_>) = effects.into_iter().partition(is_hang_up);
        hang_ups.into_iter().for_each(|effect| self.discovery_output(now, effect));
        self.links.open(route).peer = Some(info.node.clone());
        self.peers.joined(route, info.clone());
        tracing::info!(peer = %info.node, ?direction, "peer joined");
        self.event(Event::PeerJoined { peer: info, direction });
        others.into_iter().for_each(|effect| self.discovery_output(now, effect));
    }

    fn dialed_address(&self, route: Route) -> Option<Address> {
        match route {
            Route::Upstream(link) => self.clients.get(&link).map(|entry| entry.address.clone()),
            Route::Downstream(_) => None,
        }
    }

    fn relabeled(&mut self, now: Time, info: PeerInfo) {
        if self.peers.relabeled(&info.node, &info.labels) {
            let (peer, labels) = (info.node.clone(), info.labels.clone());
            self.event(Event::PeerLabels { peer, labels });
        }
        self.discovery.handle(now, discovery::Input::Changed { peer: info });
        self.drain_discovery(now);
    }

    fn left(&mut self, now: Time, route: Route, reason: LeaveReason) {
        let Some(peer) = self.links.link(route).and_then(|link| link.peer.take()) else { return };
        let direction = direction(route);
        if let Route::Downstream(route) = route {
            self.keys.remove(&route);
        }
        let incarnation = self.peers.left(&peer, route);
        tracing::info!(%peer, ?direction, %reason, "peer left");
        let waiting = match (reason, route) {
            // What was accepted before we left still goes out, and the goodbye after it.
            (LeaveReason::Stopped, _) => VecDeque::new(),
            (_, Route::Downstream(_)) => self.links.close(route),
            (_, Route::Upstream(_)) => self.links.reset(route),
        };
        for queued in waiting {
            match queued.system {
                true => self.send_stray(route, queued.message),
                false => self.unsent(&queued),
            }
        }
        // What never left the queue had no effect; of the rest nobody knows.
        self.lose_requests(route);
        self.event(Event::PeerLeft { peer: peer.clone(), incarnation, direction, reason });
        if self.peers.route(peer.as_str()).is_none() {
            self.chooser.forget(&peer);
        }
        let dialed = self.dialed_address(route);
        self.discovery.handle(now, discovery::Input::Left { dialed, node: peer });
        self.drain_discovery(now);
    }

    /// Requests in flight on a link that is gone fail at once: nobody will answer them.
    fn lose_requests(&mut self, route: Route) {
        for (_, waiting) in self.requests.fail_route(route) {
            self.counters.requests_lost += 1;
            let peer: NodeId = waiting.peer.clone();
            self.resolve(waiting, Err(RequestError::PeerLost { peer }));
        }
    }
}

fn direction(route: Route) -> Direction {
    match route {
        Route::Downstream(_) => Direction::Downstream,
        Route::Upstream(_) => Direction::Upstream,
    }
}
