//! The transport over libzmq: one ROUTER that listens, one DEALER per dialed link.
//!
//! Why no thread polls the sockets: a wake-up of another thread costs more than everything else on
//! the way of a message. So the sockets belong to whoever polls the transport, and the runtime
//! watches their descriptors. Those are edge-triggered, and any call on a socket may eat the edge:
//! see `readiness` for the order that loses no wake-up.
//!
//! Shell: sockets, and the clock for limits of logging and for how fresh a look at a monitor is.
//!
//! Invariants: a link or the listener that may have something to do is in the queue, or its waker
//! is registered; each turn costs as much as there is to do, not as there are sockets; sockets are
//! closed before their contexts, and contexts end in a thread of their own.
//!
//! Over `inproc` nothing counts as accepted or failed: libzmq reports neither.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time::Sleep;

mod contexts;
mod inproc;
mod limits;
mod link;
mod listener;
mod options;
mod readiness;
mod receive;
mod zap;

use contexts::Contexts;
use link::Link;
use listener::Listener;
use readiness::Key;
use receive::Receiver;

pub use limits::check_descriptors;

use super::woken::Woken;
use super::{
    Address, BindError, Counters, DialError, Event, LinkId, Options, Route, RoutingId, SendError,
    Transport,
};
use crate::keys::{AllowList, KeyPair};

/// Messages taken from one socket before the next one's turn.
const BURST: u32 = 32;
/// Things done without an event before the caller's task yields: what is dropped must not hold it.
const STEPS_MAX: u32 = 1_024;
/// When a full downstream route is tried again; a ROUTER cannot say which of its peers has room.
const RETRY: Duration = Duration::from_millis(1);

/// A [`Transport`] over ZeroMQ.
///
/// All calls must be made within a tokio runtime that has I/O and time enabled; they panic
/// elsewhere. `inproc` addresses are shared by all transports of the process.
///
/// After [`Transport::unbind`] or dropping, the operating system may take a moment to free the
/// address.
pub struct ZmqTransport {
    // Sockets are closed before the contexts they live in: fields are dropped in this order.
    links: BTreeMap<LinkId, Link>,
    listener: Option<Listener>,
    retry: Retry,
    receiver: Receiver,
    contexts: Contexts,
    options: Options,
    keys: Option<KeyPair>,
    allowed: Arc<AllowList>,
    ready: Arc<Woken<Key>>,
    /// What may have something to do, each once, in turns.
    queue: VecDeque<Key>,
    /// Reused for what the ready list has.
    collected: Vec<Key>,
    burst_left: u32,
}

/// What came of looking at a link or the listener.
enum Step {
    /// Something was done; there may be more.
    Again,
    /// The link must go, after this event.
    Closed(Event),
    /// There is this to report, and there may be more.
    Event(Event),
    /// There is nothing to do until the waker is woken.
    Idle,
}

impl ZmqTransport {
    /// A transport without sockets.
    pub fn new(options: Options) -> Self {
        let ready = Woken::new();
        Self {
            links: BTreeMap::new(),
            listener: None,
            retry: Retry::new(Waker::from(ready.waker(Key::Retry))),
            receiver: Receiver::new(options.message_bytes_max),
            contexts: Contexts::default(),
            options,
            keys: None,
            allowed: Arc::default(),
            ready,
            queue: VecDeque::new(),
            collected: Vec::new(),
            burst_left: BURST,
        }
    }

    /// Encrypts with these keys, if there are any: what is bound from now on, and links to addresses
    /// with a key.
    #[must_use]
    pub fn with_keys(mut self, keys: impl Into<Option<KeyPair>>) -> Self {
        self.keys = keys.into();
        self
    }

    /// Puts `key` in the queue, unless it is there.
    fn schedule(&mut self, key: Key, woken: bool) {
        let scheduled = match key {
            Key::Link(id) => self.links.get_mut(&id).map(|link| {
                link.woken |= woken;
                &mut link.scheduled
            }),
            Key::Listener => self.listener.as_mut().map(|listener| {
                listener.woken |= woken;
                &mut listener.scheduled
            }),
            Key::Retry => Some(&mut self.retry.scheduled),
        };
        if let Some(scheduled) = scheduled
            && !std::mem::replace(scheduled, true)
        {
            self.queue.push_back(key);
        }
    }

    /// Takes what was woken into the queue.
    fn collect_woken(&mut self) {
        let mut collected = std::mem::take(&mut self.collected);
        self.ready.collect(&mut collected);
        for key in collected.drain(..) {
            self.schedule(key, true);
        }
        self.collected = collected;
    }

    fn service(&mut self, key: Key) -> Step {
        let Self { links, listener, retry, receiver, contexts, options, .. } = self;
        match key {
            Key::Link(id) => links
                .get_mut(&id)
                .map_or(Step::Idle, |link| link.service(contexts, options, receiver)),
            Key::Listener => {
                listener.as_mut().map_or(Step::Idle, |listener| listener.service(receiver))
            }
            Key::Retry => retry.service(),
        }
    }

    /// Takes the first key out of the queue.
    fn finish(&mut self, key: Key) {
        self.queue.pop_front();
        self.burst_left = BURST;
        match key {
            Key::Link(id) => {
                if let Some(link) = self.links.get_mut(&id) {
                    link.scheduled = false;
                }
            }
            Key::Listener => {
                if let Some(listener) = &mut self.listener {
                    listener.scheduled = false;
                }
            }
            Key::Retry => self.retry.scheduled = false,
        }
    }

    /// Gives the next socket its turn after a burst.
    fn rotate(&mut self) {
        self.burst_left -= 1;
        if self.burst_left == 0 {
            self.burst_left = BURST;
            self.queue.rotate_left(1);
            self.collect_woken();
        }
    }

    fn check_size(&self, message: &Bytes) -> Result<(), SendError> {
        let (bytes, max) = (message.len(), self.options.message_bytes_max);
        if bytes > max { Err(SendError::TooLarge { bytes, max }) } else { Ok(()) }
    }
}

impl Transport for ZmqTransport {
    fn bind(&mut self, address: &Address) -> Result<Address, BindError> {
        if let Some(listener) = &self.listener {
            return Err(BindError::AlreadyBound(listener.address().clone()));
        }
        let waker = Waker::from(self.ready.waker(Key::Listener));
        let keys = self.keys.as_ref().map(|pair| (pair, Arc::clone(&self.allowed)));
        let listener = Listener::bind(address, &mut self.contexts, &self.options, keys, waker)
            .map_err(|reason| BindError::Refused { address: address.clone(), reason })?;
        let bound = listener.address().clone();
        self.listener = Some(listener);
        self.schedule(Key::Listener, true);
        Ok(bound)
    }

    fn unbind(&mut self) {
        self.listener = None;
        self.retry.forget();
        self.queue.retain(|key| *key != Key::Listener);
    }

    fn dial(
        &mut self,
        link: LinkId,
        address: &Address,
        routing_id: RoutingId,
    ) -> Result<(), DialError> {
        let refused = |reason| DialError::Refused { address: address.clone(), reason };
        if !address.is_dialable() {
            return Err(refused("a wildcard is for binding only".into()));
        }
        if self.links.contains_key(&link) {
            return Err(refused("the link exists".into()));
        }
        let keys = match (address.key(), &self.keys) {
            (None, _) => None,
            (Some(theirs), Some(ours)) => Some((ours.clone(), theirs)),
            (Some(_), None) => return Err(refused("it asks for a key, and we have none".into())),
        };
        let waker = self.ready.waker(Key::Link(link));
        let mut new = Link::new(link, address, keys, routing_id, waker);
        new.start(&mut self.contexts, &self.options).map_err(refused)?;
        self.links.insert(link, new);
        self.schedule(Key::Link(link), true);
        Ok(())
    }

    fn hang_up(&mut self, link: LinkId) {
        if self.links.remove(&link).is_some() {
            self.queue.retain(|key| *key != Key::Link(link));
        }
    }

    fn send(&mut self, route: Route, message: &Bytes) -> Result<(), SendError> {
        self.check_size(message)?;
        let (key, sent) = match route {
            Route::Downstream(peer) => {
                let listener = self.listener.as_mut().ok_or(SendError::NotConnected)?;
                let sent = listener.send(peer, message);
                if sent == Err(SendError::Full) {
                    self.retry.add(peer);
                    self.schedule(Key::Retry, true);
                }
                (Key::Listener, sent)
            }
            Route::Upstream(id) => {
                let link = self.links.get_mut(&id).ok_or(SendError::NotConnected)?;
                (Key::Link(id), link.send(message, &mut self.receiver))
            }
        };
        // The call may have eaten the edge of an arriving message, so the socket gets a turn.
        self.schedule(key, false);
        self.receiver.counters.sent += u64::from(sent.is_ok());
        sent
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        for _ in 0..STEPS_MAX {
            if self.queue.is_empty() {
                self.collect_woken();
            }
            let Some(&key) = self.queue.front() else {
                if self.ready.park(cx.waker()) {
                    return Poll::Pending;
                }
                continue;
            };
            match self.service(key) {
                Step::Again => self.rotate(),
                Step::Closed(event) => {
                    self.finish(key);
                    if let Key::Link(id) = key {
                        self.links.remove(&id);
                    }
                    return Poll::Ready(event);
                }
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
        if let Some(listener) = &mut self.listener {
            listener.allow(Arc::clone(&allowed));
        }
        self.allowed = allowed;
    }

    fn counters(&self) -> Counters {
        self.receiver.counters
    }
}

/// Downstream routes that were full, and when to try them again.
struct Retry {
    waker: Waker,
    timer: Option<Pin<Box<Sleep>>>,
    waiting: BTreeSet<RoutingId>,
    due: BTreeSet<RoutingId>,
    scheduled: bool,
}

impl Retry {
    fn new(waker: Waker) -> Self {
        Self {
            waker,
            timer: None,
            waiting: BTreeSet::new(),
            due: BTreeSet::new(),
            scheduled: false,
        }
    }

    fn add(&mut self, peer: RoutingId) {
        self.waiting.insert(peer);
        self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(RETRY)));
    }

    fn forget(&mut self) {
        self.waiting.clear();
        self.due.clear();
    }

    fn service(&mut self) -> Step {
        if let Some(peer) = self.due.pop_first() {
            return Step::Event(Event::Writable { route: Route::Downstream(peer) });
        }
        let Some(timer) = &mut self.timer else { return Step::Idle };
        if timer.as_mut().poll(&mut Context::from_waker(&self.waker)).is_pending() {
            return Step::Idle;
        }
        self.timer = None;
        self.due = std::mem::take(&mut self.waiting);
        Step::Again
    }
}

/// The clock, for what no test needs to steer.
#[expect(clippy::disallowed_methods, reason = "a shell; libzmq's own timers run on this clock")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests;
