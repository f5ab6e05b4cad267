//! The network between memory transports: who is connected, what is under way, what goes wrong.
//!
//! Pure: time enters as `now`, randomness from a seed, and the same calls give the same events.
//! The caller hands over time by [`Core::handle`], at [`Core::next_deadline`] at the latest.
//!
//! Invariant: a link has a connection exactly between its `Ready` and its `NotReady` event, and
//! what is under way on a connection ends with it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use super::{Faults, Station};
use crate::Time;
use crate::transport::{
    Address, BindError, Counters, DialError, Event, LinkId, Options, Route, RoutingId, SendError,
};

/// How long a link stays ready though a direction is cut, as long as ZMTP's heartbeats need.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(3);
/// Where port numbers begin that stand for "any".
const PORT_FIRST: u16 = 49_152;

/// The state of a network.
pub(super) struct Core {
    rng: fastrand::Rng,
    pub(super) faults: Faults,
    cuts: BTreeSet<(Station, Station)>,
    stations: BTreeMap<Station, Node>,
    connections: BTreeMap<u64, Connection>,
    timers: BTreeMap<(Time, u64), Timer>,
    touched: BTreeSet<Station>,
    numbers: u64,
    port_next: u16,
}

struct Node {
    options: Options,
    listener: Option<Address>,
    links: BTreeMap<LinkId, Link>,
    downstream: BTreeMap<RoutingId, u64>,
    inbox: VecDeque<Item>,
    counters: Counters,
}

struct Link {
    address: Address,
    routing_id: RoutingId,
    connections: u16,
    /// The connection, if it is ready.
    connection: Option<u64>,
    /// Whether an attempt to connect is under way.
    connecting: bool,
}

/// What waits to be polled.
struct Item {
    /// The connection that it came over, and whether up to the listener.
    over: Option<(u64, bool)>,
    event: Event,
}

struct Connection {
    dialer: Station,
    link: LinkId,
    listener: Station,
    routing_id: RoutingId,
    up: Direction,
    down: Direction,
}

/// One direction of a connection.
#[derive(Default)]
struct Direction {
    under_way: VecDeque<Bytes>,
    last_due: Time,
    /// Messages that were taken and not polled yet.
    held: usize,
    /// Whether the sender was told that it is full.
    full: bool,
}

enum Timer {
    Connect { dialer: Station, link: LinkId },
    Deliver { connection: u64, up: bool },
    Silence { connection: u64 },
}

impl Core {
    /// A network without stations, with every random choice drawn from `seed`.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            rng: fastrand::Rng::with_seed(seed),
            faults: Faults::default(),
            cuts: BTreeSet::new(),
            stations: BTreeMap::new(),
            connections: BTreeMap::new(),
            timers: BTreeMap::new(),
            touched: BTreeSet::new(),
            numbers: 0,
            port_next: PORT_FIRST,
        }
    }

    /// Adds a station.
    pub(super) fn join(&mut self, options: Options) -> Station {
        let station = Station(self.number());
        let node = Node {
            options,
            listener: None,
            links: BTreeMap::new(),
            downstream: BTreeMap::new(),
            inbox: VecDeque::new(),
            counters: Counters::default(),
        };
        self.stations.insert(station, node);
        station
    }

    /// Removes a station and all its connections.
    pub(super) fn leave(&mut self, now: Time, station: Station) {
        self.unbind(now, station);
        let links: Option<Vec<LinkId>> =
            self.stations.get(&station).map(|node| node.links.keys().copied().collect());
        for link in links.unwrap_or_default() {
            self.hang_up(station, link);
        }
        self.stations.remove(&station);
    }

    /// Lets a station listen.
    pub(super) fn bind(
        &mut self,
        now: Time,
        station: Station,
        address: &Address,
    ) -> Result<Address, BindError> {
        let address = self.with_port(address);
        let taken = self.listener(&address).is_some();
        let Some(node) = self.stations.get_mut(&station) else {
            return Err(BindError::Refused { address, reason: "the station has left".into() });
        };
        if let Some(bound) = &node.listener {
            return Err(BindError::AlreadyBound(bound.clone()));
        }
        if taken {
            return Err(BindError::Refused { address, reason: "the address is in use".into() });
        }
        node.listener = Some(address.clone());
        self.connect_all(now);
        Ok(address)
    }

    /// Ends a station's listening and every connection to it.
    pub(super) fn unbind(&mut self, now: Time, station: Station) {
        let Some(node) = self.stations.get_mut(&station) else { return };
        node.listener = None;
        let gone: Vec<u64> = std::mem::take(&mut node.downstream).into_values().collect();
        let is_upstream = |event: &Event| match event {
            Event::Message { route, .. } | Event::Writable { route } => {
                matches!(route, Route::Upstream(_))
            }
            Event::Closed { .. } | Event::NotReady { .. } | Event::Ready { .. } => true,
        };
        node.inbox.retain(|item| is_upstream(&item.event));
        for connection in gone {
            self.lose(now, connection);
        }
    }

    /// Opens a link.
    pub(super) fn dial(
        &mut self,
        now: Time,
        station: Station,
        link: LinkId,
        address: &Address,
        routing_id: RoutingId,
    ) -> Result<(), DialError> {
        let refused =
            |reason: &str| DialError::Refused { address: address.clone(), reason: reason.into() };
        if !address.is_dialable() {
            return Err(refused("a wildcard is for binding only"));
        }
        let node =
            self.stations.get_mut(&station).ok_or_else(|| refused("the station has left"))?;
        if node.links.contains_key(&link) {
            return Err(refused("the link exists"));
        }
        let address = address.clone();
        let new = Link { address, routing_id, connections: 0, connection: None, connecting: false };
        node.links.insert(link, new);
        self.connect(now, station, link);
        Ok(())
    }

    /// Closes a link; nothing of it is reported any more.
    pub(super) fn hang_up(&mut self, station: Station, link: LinkId) {
        let Some(node) = self.stations.get_mut(&station) else { return };
        let Some(removed) = node.links.remove(&link) else { return };
        let is_of_link = |event: &Event| match event {
            Event::Closed { link: of, .. }
            | Event::NotReady { link: of }
            | Event::Ready { link: of } => *of == link,
            Event::Message { route, .. } | Event::Writable { route } => {
                *route == Route::Upstream(link)
            }
        };
        node.inbox.retain(|item| !is_of_link(&item.event));
        if let Some(connection) = removed.connection {
            self.close(connection);
        }
    }

    /// Takes a message for sending.
    pub(super) fn send(
        &mut self,
        now: Time,
        station: Station,
        route: Route,
        message: &Bytes,
    ) -> Result<(), SendError> {
        let node = self.stations.get_mut(&station).ok_or(SendError::NotConnected)?;
        let (bytes, max) = (message.len(), node.options.message_bytes_max);
        if bytes > max {
            return Err(SendError::TooLarge { bytes, max });
        }
        let (id, up) = match route {
            Route::Downstream(peer) => (node.downstream.get(&peer).copied(), false),
            Route::Upstream(link) => (node.links.get(&link).and_then(|link| link.connection), true),
        };
        let id = id.ok_or(SendError::NotConnected)?;
        let limit = usize::try_from(node.options.queue_messages_max).unwrap_or(usize::MAX).max(1);
        let connection = self.connections.get_mut(&id).ok_or(SendError::NotConnected)?;
        let direction = connection.direction(up);
        if direction.held >= limit {
            direction.full = true;
            return Err(SendError::Full);
        }
        node.counters.sent += 1;
        let delay = self.delay();
        if let Some(connection) = self.connections.get_mut(&id) {
            let direction = connection.direction(up);
            direction.held += 1;
            direction.under_way.push_back(message.clone());
            // Never before the message in front.
            direction.last_due = direction.last_due.max(now + delay);
            let due = direction.last_due;
            self.at(due, Timer::Deliver { connection: id, up });
        }
        self.handle(now);
        Ok(())
    }

    /// Does what is due at `now`.
    pub(super) fn handle(&mut self, now: Time) {
        while let Some(entry) = self.timers.first_entry()
            && entry.key().0 <= now
        {
            match entry.remove() {
                Timer::Connect { dialer, link } => self.finish_connecting(dialer, link),
                Timer::Deliver { connection, up } => self.deliver(connection, up),
                Timer::Silence { connection } => self.hear_nothing(now, connection),
            }
        }
    }

    /// When [`Core::handle`] has to be called.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.timers.first_key_value().map(|((due, _), _)| *due)
    }

    /// The next event of a station.
    pub(super) fn next_event(&mut self, station: Station) -> Option<Event> {
        let node = self.stations.get_mut(&station)?;
        let Item { over, event } = node.inbox.pop_front()?;
        if let Event::Message { .. } = &event {
            node.counters.received += 1;
        }
        if let Some((connection, up)) = over {
            self.release(connection, up);
        }
        Some(event)
    }

    /// The stations that got events since the last call.
    pub(super) fn take_touched(&mut self) -> BTreeSet<Station> {
        std::mem::take(&mut self.touched)
    }

    /// What a station counted.
    pub(super) fn counters(&self, station: Station) -> Counters {
        self.stations.get(&station).map(|node| node.counters).unwrap_or_default()
    }

    /// Lets nothing through from one station to another.
    pub(super) fn cut(&mut self, now: Time, from: Station, to: Station) {
        self.cuts.insert((from, to));
        let between = |connection: &Connection| {
            let ends = (connection.dialer, connection.listener);
            ends == (from, to) || ends == (to, from)
        };
        let affected: Vec<u64> = (self.connections.iter())
            .filter(|(_, connection)| between(connection))
            .map(|(id, _)| *id)
            .collect();
        for connection in affected {
            self.at(now + HEARTBEAT_TIMEOUT, Timer::Silence { connection });
        }
    }

    /// Lets everything through again.
    pub(super) fn heal(&mut self, now: Time) {
        self.cuts.clear();
        self.connect_all(now);
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn at(&mut self, due: Time, timer: Timer) {
        let number = self.number();
        self.timers.insert((due, number), timer);
    }

    fn delay(&mut self) -> Duration {
        let (least, most) = (self.faults.delay_min, self.faults.delay_max);
        least + most.saturating_sub(least).mul_f64(self.rng.f64())
    }

    fn with_port(&mut self, address: &Address) -> Address {
        match address {
            Address::Tcp { host, port: 0, .. } => {
                let port = self.port_next;
                self.port_next = port.checked_add(1).unwrap_or(PORT_FIRST);
                Address::tcp(host.clone(), port)
            }
            Address::Inproc { .. } | Address::Ipc { .. } | Address::Tcp { .. } => address.clone(),
        }
    }

    /// Who listens where `address` leads.
    fn listener(&self, address: &Address) -> Option<Station> {
        let leads_to = |bound: &Address| match (bound, address) {
            (Address::Tcp { port: bound_port, .. }, Address::Tcp { port, .. })
                if !bound.is_dialable() =>
            {
                bound_port == port
            }
            (bound, address) => bound == address,
        };
        let mut stations = self.stations.iter();
        stations.find(|(_, node)| node.listener.as_ref().is_some_and(leads_to)).map(|(id, _)| *id)
    }

    fn is_cut(&self, a: Station, b: Station) -> bool {
        self.cuts.contains(&(a, b)) || self.cuts.contains(&(b, a))
    }

    fn report(&mut self, station: Station, over: Option<(u64, bool)>, event: Event) {
        if let Some(node) = self.stations.get_mut(&station) {
            node.inbox.push_back(Item { over, event });
            self.touched.insert(station);
        }
    }

    /// Begins to connect every link that is not connected.
    fn connect_all(&mut self, now: Time) {
        let waiting: Vec<(Station, LinkId)> = (self.stations.iter())
            .flat_map(|(station, node)| node.links.iter().map(|(id, link)| (*station, *id, link)))
            .filter(|(_, _, link)| link.connection.is_none())
            .map(|(station, id, _)| (station, id))
            .collect();
        for (station, link) in waiting {
            self.connect(now, station, link);
        }
    }

    fn connect(&mut self, now: Time, dialer: Station, link: LinkId) {
        let delay = self.delay();
        let node = self.stations.get_mut(&dialer);
        let Some(entry) = node.and_then(|node| node.links.get_mut(&link)) else { return };
        if !std::mem::replace(&mut entry.connecting, true) {
            self.at(now + delay, Timer::Connect { dialer, link });
            self.handle(now);
        }
    }

    fn finish_connecting(&mut self, dialer: Station, link: LinkId) {
        let node = self.stations.get_mut(&dialer);
        let Some(entry) = node.and_then(|node| node.links.get_mut(&link)) else { return };
        entry.connecting = false;
        let address = entry.address.clone();
        let Some(listener) = self.listener(&address) else { return };
        if self.is_cut(dialer, listener) {
            return;
        }
        let id = self.number();
        let node = self.stations.get_mut(&dialer);
        let Some(entry) = node.and_then(|node| node.links.get_mut(&link)) else { return };
        let routing_id = match entry.connections {
            0 => entry.routing_id,
            number => entry.routing_id.for_connection(number),
        };
        entry.connections = entry.connections.wrapping_add(1);
        entry.connection = Some(id);
        if let Some(node) = self.stations.get_mut(&listener) {
            node.downstream.insert(routing_id, id);
            node.counters.accepted += 1;
        }
        let (up, down) = (Direction::default(), Direction::default());
        let connection = Connection { dialer, link, listener, routing_id, up, down };
        self.connections.insert(id, connection);
        self.report(dialer, None, Event::Ready { link });
    }

    fn deliver(&mut self, id: u64, up: bool) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let (from, to) = connection.ends(up);
        let route = connection.route(up);
        let Some(message) = connection.direction(up).under_way.pop_front() else { return };
        let lost = self.cuts.contains(&(from, to)) || self.rng.f64() < self.faults.loss;
        let Some(node) = self.stations.get_mut(&to) else { return };
        let too_large = message.len() > node.options.message_bytes_max;
        node.counters.dropped_malformed += u64::from(too_large);
        if lost || too_large {
            self.release(id, up);
        } else {
            self.report(to, Some((id, up)), Event::Message { route, sender: None, message });
        }
    }

    /// One message less is held; its sender learns of it if it waits for room.
    fn release(&mut self, id: u64, up: bool) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let (from, _) = connection.ends(up);
        let route = connection.route(!up);
        let direction = connection.direction(up);
        direction.held -= 1;
        if std::mem::take(&mut direction.full) {
            self.report(from, None, Event::Writable { route });
        }
    }

    /// Heartbeats have gone unanswered, unless the cut was healed.
    fn hear_nothing(&mut self, now: Time, id: u64) {
        let Some(connection) = self.connections.get(&id) else { return };
        if self.is_cut(connection.dialer, connection.listener) {
            self.lose(now, id);
        }
    }

    /// Ends a connection and lets its link connect again.
    fn lose(&mut self, now: Time, id: u64) {
        let Some(Connection { dialer, link, .. }) = self.close(id) else { return };
        let node = self.stations.get_mut(&dialer);
        if let Some(entry) = node.and_then(|node| node.links.get_mut(&link)) {
            entry.connection = None;
            self.report(dialer, None, Event::NotReady { link });
            self.connect(now, dialer, link);
        }
    }

    fn close(&mut self, id: u64) -> Option<Connection> {
        let connection = self.connections.remove(&id)?;
        if let Some(node) = self.stations.get_mut(&connection.listener) {
            node.downstream.remove(&connection.routing_id);
        }
        Some(connection)
    }
}

impl Connection {
    fn direction(&mut self, up: bool) -> &mut Direction {
        if up { &mut self.up } else { &mut self.down }
    }

    /// The sender and the receiver.
    fn ends(&self, up: bool) -> (Station, Station) {
        if up { (self.dialer, self.listener) } else { (self.listener, self.dialer) }
    }

    /// The route of the connection as the receiver sees it.
    fn route(&self, up: bool) -> Route {
        if up { Route::Downstream(self.routing_id) } else { Route::Upstream(self.link) }
    }
}
