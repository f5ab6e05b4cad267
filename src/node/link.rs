//! What waits to be sent, route by route, and how late what arrives is.
//!
//! Every route has a queue of its own, limited in messages and in bytes, so that a peer that does
//! not read holds up nobody else and costs a stated amount of memory.
//!
//! Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::id::{NodeId, RequestId};
use crate::timer::Time;
use crate::transport::Route;

/// System messages that may wait in one queue.
const SYSTEM_MESSAGES_MAX: usize = 64;

/// Limits of one queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueLimits {
    pub(crate) messages_max: usize,
    pub(crate) bytes_max: usize,
}

/// One message that waits to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Queued {
    pub(crate) message: Bytes,
    /// The request it carries, so that its caller hears at once when it cannot be sent.
    pub(crate) request: RequestId,
    /// A system message: it still matters after the peer has left.
    pub(crate) system: bool,
}

impl Queued {
    pub(crate) fn system(message: Bytes) -> Self {
        Self { message, request: RequestId::NONE, system: true }
    }

    /// A message of the application; `request` is [`RequestId::NONE`] for ticks and replies.
    pub(crate) fn application(message: Bytes, request: RequestId) -> Self {
        Self { message, request, system: false }
    }
}

/// One link: its queue and what was learnt about its timing.
#[derive(Debug)]
pub(crate) struct Link {
    /// Who is at the other end, once the handshake is done.
    pub(crate) peer: Option<NodeId>,
    queue: VecDeque<Queued>,
    queued_bytes: usize,
    /// How many of the queue are system messages.
    queued_system: usize,
    /// The transport said that it is full; wait for it to say otherwise.
    blocked: bool,
    /// Whether the link stands in `Links::ready`.
    listed: bool,
    sequence_out: u32,
    sequence_in: Option<u32>,
    lateness: Lateness,
}

impl Link {
    fn new() -> Self {
        Self {
            peer: None,
            queue: VecDeque::new(),
            queued_bytes: 0,
            queued_system: 0,
            blocked: false,
            listed: false,
            sequence_out: 0,
            sequence_in: None,
            lateness: Lateness::default(),
        }
    }

    /// The number of the next envelope on this link.
    pub(crate) fn next_sequence(&mut self) -> u32 {
        let sequence = self.sequence_out;
        self.sequence_out = sequence.wrapping_add(1);
        sequence
    }

    /// Whether another message of `bytes` fits into the queue.
    pub(crate) fn has_room(&self, bytes: usize, limits: QueueLimits) -> bool {
        // An empty queue takes any message, or one larger than the byte limit could never be sent.
        self.queue.is_empty()
            || (self.queue.len() < limits.messages_max
                && self.queued_bytes + bytes <= limits.bytes_max)
    }

    /// Whether another system message fits. They have room of their own, so that a queue full of
    /// messages holds up no news, and a limit, or a peer that pings and never reads fills ours.
    pub(crate) fn has_system_room(&self) -> bool {
        self.queued_system < SYSTEM_MESSAGES_MAX
    }

    /// Notes the number of an envelope that arrived; returns how many are missing before it.
    pub(crate) fn note_sequence(&mut self, sequence: u32) -> u32 {
        let missing =
            self.sequence_in.map_or(0, |last| sequence.wrapping_sub(last.wrapping_add(1)));
        self.sequence_in = Some(sequence);
        // A jump of more than half the range is a number from the past, not a hole.
        if missing > u32::MAX / 2 { 0 } else { missing }
    }

    /// How long an envelope sent at `sent_ms` of the peer's clock was on its way.
    pub(crate) fn lateness(&mut self, now: Time, sent_ms: u32) -> Duration {
        self.lateness.note(now, sent_ms)
    }

    /// Messages that wait.
    pub(crate) fn queued(&self) -> usize {
        self.queue.len()
    }
}

/// The links of a node and the order in which they take turns.
#[derive(Debug, Default)]
pub(crate) struct Links {
    // Looked up several times for each message; routing ids are a stranger's choice, so that only
    // a slow hash could be trusted, and comparing is quicker than that.
    links: BTreeMap<Route, Link>,
    ready: VecDeque<Route>,
}

impl Links {
    pub(crate) fn open(&mut self, route: Route) -> &mut Link {
        self.links.entry(route).or_insert_with(Link::new)
    }

    /// Forgets a link and returns what waited on it.
    pub(crate) fn close(&mut self, route: Route) -> VecDeque<Queued> {
        // Its entry in `ready`, if there is one, is skipped when its turn comes.
        self.links.remove(&route).map(|link| link.queue).unwrap_or_default()
    }

    /// A dialed link lost its connection: nothing of the old one matters any more.
    pub(crate) fn reset(&mut self, route: Route) -> VecDeque<Queued> {
        let queue = self.close(route);
        self.open(route);
        queue
    }

    pub(crate) fn link(&mut self, route: Route) -> Option<&mut Link> {
        self.links.get_mut(&route)
    }

    pub(crate) fn peek(&self, route: Route) -> Option<&Link> {
        self.links.get(&route)
    }

    /// Puts a message at the end of a queue. The caller has looked at `has_room`.
    pub(crate) fn push(&mut self, route: Route, queued: Queued) {
        let Some(link) = self.links.get_mut(&route) else { return };
        link.queued_bytes += queued.message.len();
        link.queued_system += usize::from(queued.system);
        link.queue.push_back(queued);
        if !link.blocked && !link.listed {
            link.listed = true;
            self.ready.push_back(route);
        }
    }

    /// Takes the next message to send; routes take turns.
    pub(crate) fn pop(&mut self) -> Option<(Route, Queued)> {
        while let Some(route) = self.ready.pop_front() {
            let Some(link) = self.links.get_mut(&route) else { continue };
            link.listed = false;
            let Some(queued) = (!link.blocked).then(|| link.queue.pop_front()).flatten() else {
                continue;
            };
            link.queued_bytes -= queued.message.len();
            link.queued_system -= usize::from(queued.system);
            if !link.queue.is_empty() {
                link.listed = true;
                self.ready.push_back(route);
            }
            return Some((route, queued));
        }
        None
    }

    /// Puts a message back that the transport had no room for.
    pub(crate) fn blocked(&mut self, route: Route, queued: Queued) {
        let Some(link) = self.links.get_mut(&route) else { return };
        link.queued_bytes += queued.message.len();
        link.queued_system += usize::from(queued.system);
        link.queue.push_front(queued);
        link.blocked = true;
    }

    /// The transport may have room again.
    pub(crate) fn writable(&mut self, route: Route) {
        let Some(link) = self.links.get_mut(&route) else { return };
        link.blocked = false;
        if !link.queue.is_empty() && !link.listed {
            link.listed = true;
            self.ready.push_back(route);
        }
    }

    /// Whether a message could be handed to the transport at once.
    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// How many links there are, joined or not.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.links.len()
    }

    /// Whether every queue is empty.
    pub(crate) fn is_drained(&self) -> bool {
        self.links.values().all(|link| link.queue.is_empty())
    }
}

/// Estimates how long envelopes of one link were on their way, without a common clock.
///
/// The smallest difference between the two clocks that was seen stands for an instant delivery;
/// whatever exceeds it is time lost in queues, in the network, or while one side was stopped. Two
/// windows follow the slow drift between two machines' clocks.
#[derive(Debug, Default)]
struct Lateness {
    window_end: Option<Time>,
    current: Option<i64>,
    previous: Option<i64>,
}

/// How long a smallest difference is believed.
const LATENESS_WINDOW: Duration = Duration::from_secs(60);

impl Lateness {
    fn note(&mut self, now: Time, sent_ms: u32) -> Duration {
        let now_ms = i64::try_from(now.since_start().as_millis()).unwrap_or(i64::MAX);
        let mut difference = now_ms - i64::from(sent_ms);
        // The peer's clock wraps every 49 days; so must the comparison.
        if let Some(base) = self.base() {
            let wrap = i64::from(u32::MAX) + 1;
            difference -= wrap * ((difference - base + wrap / 2).div_euclid(wrap));
        }
        if self.window_end.is_none_or(|end| now >= end) {
            self.window_end = Some(now + LATENESS_WINDOW);
            self.previous = self.current.take();
        }
        let base = self.base().map_or(difference, |base| base.min(difference));
        self.current = Some(self.current.map_or(difference, |current| current.min(difference)));
        Duration::from_millis(u64::try_from(difference - base).unwrap_or(0))
    }

    fn base(&self) -> Option<i64> {
        match (self.current, self.previous) {
            (Some(current), Some(previous)) => Some(current.min(previous)),
            (current, previous) => current.or(previous),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::LinkId;

    const LIMITS: QueueLimits = QueueLimits { messages_max: 2, bytes_max: 10 };

    fn queued(bytes: usize) -> Queued {
        Queued::system(Bytes::from(vec![0; bytes]))
    }

    fn route(number: u64) -> Route {
        Route::Upstream(LinkId(number))
    }

    fn at(ms: u64) -> Time {
        Time::from_start(Duration::from_millis(ms))
    }

    /// Both limits hold, and a single message over the byte limit can still be sent.
    #[test]
    fn queue_is_limited_in_messages_and_bytes() {
        let mut links = Links::default();
        assert!(links.open(route(1)).has_room(11, LIMITS), "a first message always fits");
        links.push(route(1), queued(4));
        assert!(links.open(route(1)).has_room(6, LIMITS));
        assert!(!links.open(route(1)).has_room(7, LIMITS), "over the byte limit");
        links.push(route(1), queued(1));
        assert!(!links.open(route(1)).has_room(1, LIMITS), "over the message limit");
    }

    /// A peer that pings and never reads must not fill our memory with answers; what waits for it
    /// otherwise has no say in that.
    #[test]
    fn system_messages_have_a_limit_of_their_own() {
        let mut links = Links::default();
        links.open(route(1));
        links.push(route(1), Queued::application(Bytes::new(), RequestId::NONE));
        for waiting in 0..SYSTEM_MESSAGES_MAX {
            assert!(links.open(route(1)).has_system_room(), "refused after {waiting}");
            links.push(route(1), queued(1));
        }
        assert!(!links.open(route(1)).has_system_room());
        links.pop();
        assert!(!links.open(route(1)).has_system_room(), "that was no system message");
        let (_, taken) = links.pop().unwrap();
        assert!(links.open(route(1)).has_system_room());
        links.blocked(route(1), taken);
        assert!(!links.open(route(1)).has_system_room(), "it is back");
    }

    /// One peer's thousand messages must not delay another peer's one.
    #[test]
    fn routes_take_turns() {
        let mut links = Links::default();
        for number in [1, 1, 1, 2] {
            links.open(route(number));
            links.push(route(number), queued(1));
        }
        let order: Vec<Route> =
            std::iter::from_fn(|| links.pop().map(|(route, _)| route)).collect();
        assert_eq!(order, [route(1), route(2), route(1), route(1)]);
    }

    /// A full route keeps its order and is left alone until it is writable.
    #[test]
    fn blocked_route_waits_and_keeps_its_order() {
        let mut links = Links::default();
        links.open(route(1));
        links.push(route(1), queued(1));
        links.push(route(1), queued(2));
        let (_, first) = links.pop().unwrap();
        links.blocked(route(1), first);
        assert!(links.pop().is_none(), "a blocked route was served");
        links.writable(route(1));
        let sizes: Vec<usize> =
            std::iter::from_fn(|| links.pop().map(|(_, queued)| queued.message.len())).collect();
        assert_eq!(sizes, [1, 2]);
    }

    /// A hole is counted once, a wrap is no hole.
    #[test]
    fn holes_in_the_sequence_are_counted() {
        let mut link = Link::new();
        assert_eq!(link.note_sequence(u32::MAX - 1), 0, "nothing to compare the first with");
        assert_eq!(link.note_sequence(u32::MAX), 0);
        assert_eq!(link.note_sequence(0), 0);
        assert_eq!(link.note_sequence(4), 3);
    }

    /// The clocks differ by an hour; only the delay beyond the usual one counts.
    #[test]
    fn lateness_is_what_exceeds_the_quickest_delivery() {
        let mut link = Link::new();
        assert_eq!(link.lateness(at(3_600_010), 0), Duration::ZERO);
        assert_eq!(link.lateness(at(3_600_510), 500), Duration::ZERO);
        assert_eq!(link.lateness(at(3_606_010), 1_000), Duration::from_secs(5));
    }

    /// The sender's milliseconds wrap after 49 days.
    #[test]
    fn lateness_survives_the_wrap_of_the_clock() {
        let mut link = Link::new();
        let start = 7_000;
        assert_eq!(link.lateness(at(start), u32::MAX), Duration::ZERO);
        assert_eq!(link.lateness(at(start + 1), 0), Duration::ZERO);
        assert_eq!(link.lateness(at(start + 103), 2), Duration::from_millis(100));
    }
}
