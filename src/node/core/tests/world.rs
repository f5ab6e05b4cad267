//! A network of cores in virtual time: it moves bytes, breaks connections, and does nothing else.

use std::collections::BTreeSet;

use super::*;

/// One node and everything it wanted done.
pub(super) struct Sim {
    pub(super) core: Core<u32>,
    pub(super) events: Vec<(Time, Event)>,
    pub(super) deliveries: Vec<Delivery>,
    pub(super) resolved: Vec<(u32, Result<Reply, RequestError>)>,
    pub(super) address: Address,
    pub(super) alive: bool,
    /// Does not run; what arrives waits.
    pub(super) paused: bool,
    /// Its transport has no room for anything.
    pub(super) full: bool,
    /// Answers every request with its own payload.
    pub(super) echo: bool,
    /// What it proves to have when it dials; what it asks of others is in its settings.
    pub(super) key: Option<PublicKey>,
    /// Whom its transport lets in; everybody while it has no key.
    pub(super) allowed: Arc<AllowList>,
    incoming: VecDeque<transport::Event>,
    dials: Vec<Dial>,
}

struct Dial {
    link: LinkId,
    address: Address,
    routing_id: RoutingId,
    connections: u16,
}

struct Connection {
    dialer: usize,
    link: LinkId,
    listener: usize,
    route: RoutingId,
    /// Takes messages and delivers none.
    silent: bool,
}

#[derive(Default)]
pub(super) struct World {
    pub(super) now: Time,
    pub(super) nodes: Vec<Sim>,
    connections: Vec<Connection>,
    cut: BTreeSet<(usize, usize)>,
    lives: u64,
    /// Set by whoever changes the clock on the wall, of which nobody here is to know.
    pub(super) wall_clock_step: Duration,
    /// A mistake: the nodes' time is that of the wall.
    pub(super) time_of_the_wall: bool,
}

impl World {
    /// Adds a node; its name is a letter and its number is returned.
    pub(super) fn add(&mut self, change: impl FnOnce(&mut Settings)) -> usize {
        let number = self.nodes.len();
        let mut settings = self.settings(number);
        change(&mut settings);
        let address = settings.identity.address.clone().unwrap_or_else(|| address(number));
        self.nodes.push(Sim {
            core: Core::new(self.now, settings, fastrand::Rng::with_seed(self.lives)),
            events: Vec::new(),
            deliveries: Vec::new(),
            resolved: Vec::new(),
            address,
            alive: true,
            paused: false,
            full: false,
            echo: false,
            key: None,
            allowed: Arc::default(),
            incoming: VecDeque::new(),
            dials: Vec::new(),
        });
        number
    }

    fn settings(&mut self, number: usize) -> Settings {
        self.lives += 1;
        let mut identity = Identity::new("test", name(number), Incarnation(self.lives));
        identity.address = Some(address(number));
        Settings {
            identity: Arc::new(identity),
            heartbeat: Heartbeat::balanced(),
            queue: QueueLimits { messages_max: 100, bytes_max: 1 << 20, total_bytes_max: 1 << 24 },
            payload_bytes_max: 64 * 1024,
            in_flight_max: 1_000,
            peer_rate: None,
            peers_max: 16,
            listens: true,
            gossip: false,
            trust: Trust::Open { insecure: true },
        }
    }

    /// Two nodes, the first of which has dialed the second.
    pub(super) fn pair() -> Self {
        let mut world = Self::default();
        world.add(listens_not);
        world.add(|_| {});
        world.connect(0, 1);
        world.settle();
        world
    }

    pub(super) fn connect(&mut self, from: usize, to: usize) {
        let address = self.nodes[to].address.clone();
        self.nodes[from].core.connect(self.now, address).unwrap();
    }

    /// Breaks the connections of two nodes, as a reset does, and lets no new one through.
    pub(super) fn cut(&mut self, a: usize, b: usize) {
        self.cut.insert((a.min(b), a.max(b)));
        self.drop_connections(|connection| {
            [(a, b), (b, a)].contains(&(connection.dialer, connection.listener))
        });
    }

    pub(super) fn heal(&mut self, a: usize, b: usize) {
        self.cut.remove(&(a.min(b), a.max(b)));
        for connection in &mut self.connections {
            if [(a, b), (b, a)].contains(&(connection.dialer, connection.listener)) {
                connection.silent = false;
            }
        }
    }

    /// Messages between two nodes vanish; neither side is told.
    pub(super) fn silence(&mut self, a: usize, b: usize) {
        for connection in &mut self.connections {
            if [(a, b), (b, a)].contains(&(connection.dialer, connection.listener)) {
                connection.silent = true;
            }
        }
    }

    /// The process ends; the system closes its sockets.
    pub(super) fn kill(&mut self, node: usize) {
        self.nodes[node].alive = false;
        self.nodes[node].incoming.clear();
        self.nodes[node].dials.clear();
        self.drop_connections(|connection| {
            [connection.dialer, connection.listener].contains(&node)
        });
    }

    /// A new process with the same id and address.
    pub(super) fn restart(&mut self, node: usize, gossip: bool) {
        let settings = Settings { gossip, ..self.settings(node) };
        let sim = &mut self.nodes[node];
        sim.core = Core::new(self.now, settings, fastrand::Rng::with_seed(self.lives));
        sim.alive = true;
        sim.events.clear();
    }

    fn drop_connections(&mut self, is_dropped: impl Fn(&Connection) -> bool) {
        for connection in self.connections.iter().filter(|connection| is_dropped(connection)) {
            let dialer = &mut self.nodes[connection.dialer];
            dialer.incoming.push_back(transport::Event::NotReady { link: connection.link });
        }
        self.connections.retain(|connection| !is_dropped(connection));
    }

    fn open_connections(&mut self) {
        for dialer in 0..self.nodes.len() {
            for number in 0..self.nodes[dialer].dials.len() {
                let dial = &self.nodes[dialer].dials[number];
                let (link, address) = (dial.link, dial.address.clone());
                let listener = self.nodes.iter().position(|n| n.alive && n.address == address);
                let Some(listener) = listener else { continue };
                let key = self.nodes[dialer].key;
                let is_refused = self.nodes[listener].key.is_some()
                    && key.is_none_or(|key| self.nodes[listener].allowed.get(&key).is_none());
                let is_cut =
                    is_refused || self.cut.contains(&(dialer.min(listener), dialer.max(listener)));
                let is_open = |c: &Connection| c.dialer == dialer && c.link == link;
                if is_cut || self.connections.iter().any(is_open) {
                    continue;
                }
                let dial = &mut self.nodes[dialer].dials[number];
                let route = dial.routing_id.for_connection(dial.connections);
                dial.connections += 1;
                self.connections.push(Connection { dialer, link, listener, route, silent: false });
                self.nodes[dialer].incoming.push_back(transport::Event::Ready { link });
            }
        }
    }

    /// Does everything that can be done without time passing.
    pub(super) fn settle(&mut self) {
        for _ in 0..10_000 {
            self.open_connections();
            let mut busy = false;
            for node in 0..self.nodes.len() {
                busy |= self.turn(node);
            }
            if !busy {
                return;
            }
        }
        panic!("the nodes never come to rest");
    }

    fn turn(&mut self, node: usize) -> bool {
        let step = if self.time_of_the_wall { self.wall_clock_step } else { Duration::ZERO };
        let now = self.now + step;
        let sim = &mut self.nodes[node];
        if !sim.alive || sim.paused {
            return false;
        }
        let mut busy = !sim.incoming.is_empty();
        while let Some(event) = sim.incoming.pop_front() {
            sim.core.handle_transport(now, event);
        }
        if sim.core.poll_timeout().is_some_and(|due| due <= now) {
            sim.core.handle_timeout(now);
            busy = true;
        }
        busy |= self.perform(node);
        busy | self.flush(node)
    }

    fn perform(&mut self, node: usize) -> bool {
        let mut busy = false;
        while let Some(output) = self.nodes[node].core.poll_output() {
            busy = true;
            let sim = &mut self.nodes[node];
            match output {
                Output::Deliver(delivery) => {
                    if sim.echo && delivery.request != RequestId::NONE {
                        sim.core.reply(
                            self.now,
                            delivery.reply_to(),
                            Format::Raw,
                            &delivery.payload,
                        );
                    }
                    sim.deliveries.push(delivery);
                }
                Output::Allow(list) => sim.allowed = list,
                Output::Dial { link, address, routing_id } => {
                    sim.dials.push(Dial { link, address, routing_id, connections: 0 });
                }
                Output::Event(event) => sim.events.push((self.now, event)),
                Output::HangUp(link) => {
                    sim.dials.retain(|dial| dial.link != link);
                    self.connections.retain(|c| c.dialer != node || c.link != link);
                }
                Output::Resolve(ticket, result) => sim.resolved.push((ticket, result)),
            }
        }
        busy
    }

    fn flush(&mut self, node: usize) -> bool {
        let mut busy = false;
        while let Some(outbound) = self.nodes[node].core.poll_send() {
            let result = match self.nodes[node].full {
                true => Err(SendError::Full),
                false => self.carry(node, outbound.route, &outbound.frame),
            };
            busy |= result != Err(SendError::Full);
            self.nodes[node].core.sent(self.now, outbound, result);
        }
        busy
    }

    fn carry(&mut self, from: usize, route: Route, message: &Bytes) -> Result<(), SendError> {
        let is_it = |c: &&Connection| match route {
            Route::Downstream(id) => c.listener == from && c.route == id,
            Route::Upstream(link) => c.dialer == from && c.link == link,
        };
        let connection = self.connections.iter().find(is_it).ok_or(SendError::NotConnected)?;
        let (to, route) = match route {
            Route::Downstream(_) => (connection.dialer, Route::Upstream(connection.link)),
            Route::Upstream(_) => (connection.listener, Route::Downstream(connection.route)),
        };
        if !connection.silent {
            let message = message.clone();
            let sender = match route {
                Route::Downstream(_) => self.nodes[from].key,
                Route::Upstream(_) => None,
            };
            self.nodes[to].incoming.push_back(transport::Event::Message { route, sender, message });
        }
        Ok(())
    }

    /// The transport of `node` has room again.
    pub(super) fn unblock(&mut self, node: usize) {
        self.nodes[node].full = false;
        let route = |c: &Connection| match (c.dialer == node, c.listener == node) {
            (true, _) => Some(Route::Upstream(c.link)),
            (false, true) => Some(Route::Downstream(c.route)),
            (false, false) => None,
        };
        let routes: Vec<Route> = self.connections.iter().filter_map(route).collect();
        for route in routes {
            self.nodes[node].incoming.push_back(transport::Event::Writable { route });
        }
        self.settle();
    }

    /// Lets time pass up to `seconds` after the start, and returns when something was due.
    pub(super) fn run_to(&mut self, seconds: f64) -> Vec<Time> {
        let end = Time::from_start(Duration::from_secs_f64(seconds));
        let mut wakes = Vec::new();
        loop {
            self.settle();
            let awake = self.nodes.iter_mut().filter(|node| node.alive && !node.paused);
            let next = awake.filter_map(|node| node.core.poll_timeout()).min();
            match next.filter(|next| *next <= end) {
                Some(next) => self.now = self.now.max(next),
                None => break,
            }
            wakes.push(self.now);
        }
        self.now = end;
        self.settle();
        wakes
    }

    /// Lets so many seconds pass.
    pub(super) fn run_for(&mut self, seconds: f64) {
        self.run_to(self.now.since_start().as_secs_f64() + seconds);
    }

    /// Sends a request of `from` to `to` whose reply comes under the number `ticket`.
    pub(super) fn request(
        &mut self,
        from: usize,
        to: usize,
        timeout: f64,
        ticket: u32,
    ) -> Result<RequestId, RequestError> {
        let (now, timeout) = (self.now, Duration::from_secs_f64(timeout));
        let core = &mut self.nodes[from].core;
        let sent =
            core.request(now, name(to).as_str(), message("math.sum", b"12"), timeout, ticket);
        sent.map_err(|(_, error)| error)
    }

    /// Hands `frame` to `node`, as if it had come from the listener's side of a dialed connection
    /// or from the dialer's side of an accepted one.
    pub(super) fn inject(&mut self, node: usize, route: Route, frame: Bytes) {
        self.nodes[node].incoming.push_back(transport::Event::Message {
            route,
            sender: None,
            message: frame,
        });
        self.settle();
    }

    /// The route by which `node` is connected with `peer`.
    pub(super) fn route(&self, node: usize, peer: usize) -> Route {
        let (_, route) = self.nodes[node].core.peers.route(name(peer).as_str()).expect("joined");
        route
    }

    /// What happened at `node` since the start, or since this was asked last.
    pub(super) fn story(&mut self, node: usize) -> Vec<String> {
        std::mem::take(&mut self.nodes[node].events).iter().map(|(_, event)| say(event)).collect()
    }

    pub(super) fn counters(&self, node: usize) -> Counters {
        self.nodes[node].core.counters()
    }

    pub(super) fn peers(&self, node: usize) -> Vec<String> {
        let joined = self.nodes[node].core.matching(&Filter::any());
        joined.iter().map(ToString::to_string).collect()
    }
}

pub(super) fn listens_not(settings: &mut Settings) {
    settings.listens = false;
    Arc::make_mut(&mut settings.identity).address = None;
}

pub(super) fn message<'a>(subject: &'a str, payload: &'a [u8]) -> Message<'a> {
    Message { subject, format: Format::Raw, payload, system: false }
}

pub(super) fn name(number: usize) -> NodeId {
    let letter = ["a", "b", "c", "d", "e"][number];
    letter.parse().expect("a letter is a name")
}

pub(super) fn address(number: usize) -> Address {
    format!("tcp://10.0.0.{}:7", number + 1).parse().expect("an address")
}

/// An event in a few words.
fn say(event: &Event) -> String {
    match event {
        Event::Client { event, .. } => match event {
            ClientEvent::ServerJoined { node } => format!("client: server {node} joined"),
            ClientEvent::ServerLeft { node, reason } => {
                format!("client: server {node} left, {reason}")
            }
            ClientEvent::Refused { reason } => format!("client: refused, {reason}"),
            other @ (ClientEvent::Closed { .. }
            | ClientEvent::HandshakeTimeout
            | ClientEvent::NotReady
            | ClientEvent::Ready
            | ClientEvent::ServerLabels { .. }) => format!("client: {other:?}"),
        },
        Event::Error { code, .. } => format!("error: {code}"),
        Event::PeerJoined { peer, direction } => {
            format!("node: {} joined {direction:?}", peer.node)
        }
        Event::PeerLabels { peer, labels } => format!("node: labels of {peer} are {labels:?}"),
        Event::PeerLeft { peer, direction, reason, .. } => {
            format!("node: {peer} left {direction:?}, {reason}")
        }
        Event::Ready { .. } => "node: ready".to_owned(),
        Event::Server(event) => match event {
            ServerEvent::ClientJoined { node } => format!("server: client {node} joined"),
            ServerEvent::ClientLeft { node, reason } => {
                format!("server: client {node} left, {reason}")
            }
            ServerEvent::ClientRefused { node, reason } => {
                format!("server: refused {node}, {reason}")
            }
            other @ (ServerEvent::ClientLabels { .. }
            | ServerEvent::Closed { .. }
            | ServerEvent::NotReady
            | ServerEvent::Ready) => format!("server: {other:?}"),
        },
        Event::Stopped => "node: stopped".to_owned(),
        Event::TransportReady(_) => "transport: ready".to_owned(),
        Event::TransportNotReady(_) => "transport: not ready".to_owned(),
        Event::TransportClosed(_) => "transport: closed".to_owned(),
    }
}
