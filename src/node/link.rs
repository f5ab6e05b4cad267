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
use crate::node::rate::Rate;
use crate::protocol::frame;
use crate::timer::Time;
use crate::transport::Route;

/// System messages that may wait in one queue.
const SYSTEM_MESSAGES_MAX: usize = 64;

/// Limits of one queue, and of all together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueLimits {
    pub(crate) messages_max: usize,
    pub(crate) bytes_max: usize,
    pub(crate) total_bytes_max: usize,
}

/// What is handed to the transport at once: one envelope, or several that share a frame.
#[derive(Clone, Debug)]
pub(crate) struct Outbound {
    pub(crate) route: Route,
    pub(crate) frame: Bytes,
    content: Content,
}

#[derive(Clone, Copy, Debug)]
enum Content {
    /// One message, which is the frame and has left the queue.
    One { request: RequestId, system: bool },
    /// So many messages, which are at the front of the queue.
    Many(usize),
}

impl Outbound {
    pub(crate) fn one(route: Route, queued: Queued) -> Self {
        let Queued { message, request, system } = queued;
        Self { route, frame: message, content: Content::One { request, system } }
    }

    /// How many envelopes it has.
    pub(crate) fn messages(&self) -> usize {
        match self.content {
            Content::One { .. } => 1,
            Content::Many(count) => count,
        }
    }
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
    /// What the peer may still say.
    pub(crate) rate: Rate,
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
            rate: Rate::default(),
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

    fn count(&mut self, queued: &Queued) {
        self.queued_bytes += queued.message.len();
        self.queued_system += usize::from(queued.system);
    }

    fn push_front(&mut self, queued: Queued) {
        self.count(&queued);
        self.queue.push_front(queued);
    }

    fn pop(&mut self) -> Option<Queued> {
        let queued = self.queue.pop_front()?;
        self.queued_bytes -= queued.message.len();
        self.queued_system -= usize::from(queued.system);
        Some(queued)
    }

    /// How many messages at the front of the queue fit into one frame.
    fn shareable(&self) -> usize {
        let mut bytes = 0;
        let fits = |queued: &&Queued| {
            let fits = frame::may_share(bytes, queued.message.len());
            bytes += queued.message.len();
            fits
        };
        self.queue.iter().take_while(fits).count()
    }

    fn join(&self, count: usize) -> Bytes {
        let messages = || self.queue.iter().take(count).map(|queued| &queued.message);
        let mut frame = Vec::with_capacity(messages().map(Bytes::len).sum());
        messages().for_each(|message| frame.extend_from_slice(message));
        frame.into()
    }
}

/// The links of a node and the order in which they take turns.
#[derive(Debug, Default)]
pub(crate) struct Links {
    // Looked up several times for each message; routing ids are a stranger's choice, so that only
    // a slow hash could be trusted, and comparing is quicker than that.
    links: BTreeMap<Route, Link>,
    ready: VecDeque<Route>,
    /// Bytes that wait in all queues.
    queued_bytes: usize,
}

impl Links {
    pub(crate) fn open(&mut self, route: Route) -> &mut Link {
        self.links.entry(route).or_insert_with(Link::new)
    }

    /// Forgets a link and returns what waited on it.
    pub(crate) fn close(&mut self, route: Route) -> VecDeque<Queued> {
        // Its entry in `ready`, if there is one, is skipped when its turn comes.
        let Some(link) = self.links.remove(&route) else { return VecDeque::new() };
        self.queued_bytes -= link.queued_bytes;
        link.queue
    }

    /// Whether another message of `bytes` for this route fits, among those for all others too.
    pub(crate) fn has_room(&self, route: Route, bytes: usize, limits: QueueLimits) -> bool {
        let Some(link) = self.links.get(&route) else { return false };
        let all = self.queued_bytes;
        // With nothing waiting anywhere, any message can be sent.
        link.has_room(bytes, limits) && (all == 0 || all + bytes <= limits.total_bytes_max)
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
        self.queued_bytes += queued.message.len();
        link.count(&queued);
        link.queue.push_back(queued);
        if !link.blocked && !link.listed {
            link.listed = true;
            self.ready.push_back(route);
        }
    }

    /// The next frame to send; routes take turns. What becomes of it is told with one of
    /// [`sent`](Self::sent), [`blocked`](Self::blocked) and [`unsent`](Self::unsent).
    pub(crate) fn next_frame(&mut self) -> Option<Outbound> {
        while let Some(route) = self.ready.pop_front() {
            let Some(link) = self.links.get_mut(&route) else { continue };
            link.listed = false;
            if link.blocked {
                continue;
            }
            let count = link.shareable();
            if count > 1 {
                let frame = link.join(count);
                return Some(Outbound { route, frame, content: Content::Many(count) });
            }
            if let Some(queued) = link.pop() {
                self.queued_bytes -= queued.message.len();
                return Some(Outbound::one(route, queued));
            }
        }
        None
    }

    /// The transport took a frame.
    pub(crate) fn sent(&mut self, outbound: &Outbound) {
        let Some(link) = self.links.get_mut(&outbound.route) else { return };
        if let Content::Many(count) = outbound.content {
            let sent = (0..count).filter_map(|_| link.pop());
            self.queued_bytes -= sent.map(|queued| queued.message.len()).sum::<usize>();
        }
        self.list(outbound.route);
    }

    /// The transport has no room for a frame: what it has stays at the front of the queue.
    pub(crate) fn blocked(&mut self, outbound: Outbound) {
        let Some(link) = self.links.get_mut(&outbound.route) else { return };
        if let Content::One { request, system } = outbound.content {
            self.queued_bytes += outbound.frame.len();
            link.push_front(Queued { message: outbound.frame, request, system });
        }
        link.blocked = true;
    }

    /// The transport cannot send a frame at all: returns what it has, which is lost.
    pub(crate) fn unsent(&mut self, outbound: Outbound) -> Vec<Queued> {
        let Outbound { route, frame, content } = outbound;
        let lost = match content {
            Content::One { request, system } => vec![Queued { message: frame, request, system }],
            Content::Many(count) => {
                let link = self.links.get_mut(&route);
                let lost: Vec<Queued> = link
                    .map_or_else(Vec::new, |link| (0..count).filter_map(|_| link.pop()).collect());
                self.queued_bytes -= lost.iter().map(|it| it.message.len()).sum::<usize>();
                lost
            }
        };
        self.list(route);
        lost
    }

    /// Puts a route among those that have something to send, if it has.
    fn list(&mut self, route: Route) {
        let Some(link) = self.links.get_mut(&route) else { return };
        if !link.queue.is_empty() && !link.blocked && !link.listed {
            link.listed = true;
            self.ready.push_back(route);
        }
    }

    /// The transport may have room again.
    pub(crate) fn writable(&mut self, route: Route) {
        let Some(link) = self.links.get_mut(&route) else { return };
        link.blocked = false;
        self.list(route);
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
/// windows follow the slow drift between two machines' clocks: what one gains on the other in two
/// minutes counts as lateness, 24 ms for a drift of 200 millionths.
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

    const LIMITS: QueueLimits = QueueLimits { messages_max: 2, bytes_max: 10, total_bytes_max: 12 };

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

    /// Many slow peers together do not cost more than is allowed, whatever becomes of what waits.
    #[test]
    fn all_queues_together_have_a_limit() {
        let mut links = Links::default();
        (1..=3).for_each(|number| drop(links.open(route(number)).peer.take()));
        links.push(route(1), queued(9));
        assert!(links.has_room(route(2), 3, LIMITS));
        assert!(!links.has_room(route(2), 4, LIMITS));
        // Sent, blocked and lost frames count as what they are.
        let outbound = links.next_frame().unwrap();
        assert!(links.has_room(route(2), 100, LIMITS), "nothing waits");
        links.blocked(outbound);
        assert!(!links.has_room(route(2), 4, LIMITS));
        links.push(route(2), queued(1));
        links.push(route(2), queued(1));
        let outbound = links.next_frame().unwrap();
        assert_eq!(outbound.messages(), 2);
        links.sent(&outbound);
        assert_eq!(links.queued_bytes, 9);
        links.writable(route(1));
        let outbound = links.next_frame().unwrap();
        assert_eq!(links.unsent(outbound).len(), 1);
        assert_eq!(links.queued_bytes, 0);
        links.push(route(3), queued(7));
        assert_eq!(links.close(route(3)).len(), 1);
        assert_eq!(links.queued_bytes, 0);
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
        let application = links.next_frame().unwrap();
        assert_eq!(application.messages(), 1 + SYSTEM_MESSAGES_MAX, "all fit into one frame");
        links.blocked(application.clone());
        assert!(!links.open(route(1)).has_system_room(), "nothing has left");
        links.writable(route(1));
        let again = links.next_frame().unwrap();
        links.sent(&again);
        assert!(links.open(route(1)).has_system_room());
    }

    /// One peer's thousand messages must not delay another peer's one.
    #[test]
    fn routes_take_turns() {
        let mut links = Links::default();
        for number in [1, 1, 1, 2] {
            links.open(route(number));
            links.push(route(number), queued(frame::SHARED_BYTES_MAX));
        }
        let order: Vec<Route> = std::iter::from_fn(|| {
            let next = links.next_frame()?;
            links.sent(&next);
            Some(next.route)
        })
        .collect();
        assert_eq!(order, [route(1), route(2), route(1), route(1)]);
    }

    /// A full route keeps its order and is left alone until it is writable.
    #[test]
    fn blocked_route_waits_and_keeps_its_order() {
        for large in [0, frame::SHARED_BYTES_MAX] {
            let mut links = Links::default();
            links.open(route(1));
            links.push(route(1), queued(1 + large));
            links.push(route(1), queued(2 + large));
            let first = links.next_frame().unwrap();
            links.blocked(first);
            assert!(links.next_frame().is_none(), "a blocked route was served");
            links.writable(route(1));
            let sizes: Vec<usize> = std::iter::from_fn(|| {
                let next = links.next_frame()?;
                links.sent(&next);
                Some(next.frame.len())
            })
            .collect();
            match large {
                0 => assert_eq!(sizes, [3], "small ones share a frame"),
                _ => assert_eq!(sizes, [1 + large, 2 + large]),
            }
            assert!(links.is_drained());
        }
    }

    /// What waits with others and cannot be sent is lost one by one: each has its caller.
    #[test]
    fn messages_of_a_lost_frame_come_back_one_by_one() {
        let mut links = Links::default();
        links.open(route(1));
        for number in 1..=3 {
            let message = Bytes::from(vec![0; 10]);
            links.push(route(1), Queued::application(message, RequestId(number)));
        }
        let outbound = links.next_frame().unwrap();
        links.push(route(1), queued(1));
        let lost: Vec<RequestId> = links.unsent(outbound).iter().map(|lost| lost.request).collect();
        assert_eq!(lost, [RequestId(1), RequestId(2), RequestId(3)]);
        assert_eq!(links.next_frame().unwrap().frame.len(), 1, "what came later is still there");
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
