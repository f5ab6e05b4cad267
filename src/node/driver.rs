//! Shell: Drives one node: moves events from the transport into the core and effects out of it.
//!
//! One future on the user's runtime, current-thread or multi-thread alike: a thread of its own
//! would cost two wake-ups for every message. It works in turns of bounded size and yields between
//! them, so that a flood of messages starves nobody else on the runtime.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{broadcast, oneshot, watch};
use tokio::time::Sleep;

use super::core::{Core, Output, Reply};
use super::dispatch::{Dispatcher, Registry};
use super::error::RequestError;
use super::event::Event;
use crate::timer::{Clock, Time};
use crate::transport::{self, Transport};

/// Who waits for a reply.
pub(crate) type Ticket = oneshot::Sender<Result<Reply, RequestError>>;

/// Events of the transport taken in one turn. Few, so that the answers to the first of a batch
/// are on their way while the next are handled.
const EVENTS_PER_TURN: usize = 32;
/// Messages handed to the transport under one hold of the lock.
const SENDS_PER_TURN: usize = 256;
/// Turns before the driver lets others on the runtime have theirs.
const TURNS_BEFORE_YIELD: usize = 8;
/// How long goodbyes may take to leave the process after the transport took them.
const GOODBYE_GRACE: Duration = Duration::from_millis(50);
/// How long a stop may take when a peer does not read its goodbye.
const STOP_LIMIT: Duration = Duration::from_secs(1);

/// What handles of a node and its driver share.
pub(crate) struct Shared {
    pub(crate) clock: Clock,
    state: Mutex<State>,
    pub(crate) registry: RwLock<Registry>,
    pub(crate) events: broadcast::Sender<Event>,
    /// What the transport counted, as of the last turn.
    pub(crate) transport: Mutex<transport::Counters>,
}

struct State {
    core: Core<Ticket>,
    /// The driver's, while it sleeps.
    waker: Option<Waker>,
    /// When it wakes by itself.
    wakes_at: Option<Time>,
}

impl State {
    /// Whether the driver has to wake earlier than it would.
    fn is_due(&mut self) -> bool {
        if self.core.has_work() || self.core.is_stopped() {
            return true;
        }
        // A request to a link that is full is no work, but its deadline may be the next.
        let due = self.core.poll_timeout();
        due.is_some_and(|due| self.wakes_at.is_none_or(|at| due < at))
    }
}

impl Shared {
    pub(crate) fn new(clock: Clock, core: Core<Ticket>, events_max: usize) -> Self {
        Self {
            clock,
            state: Mutex::new(State { core, waker: None, wakes_at: None }),
            registry: RwLock::default(),
            events: broadcast::Sender::new(events_max),
            transport: Mutex::default(),
        }
    }

    /// Calls into the core and wakes the driver if that made work for it.
    pub(crate) fn with<R>(&self, call: impl FnOnce(&mut Core<Ticket>, Time) -> R) -> R {
        let mut state = self.state.lock();
        let result = call(&mut state.core, self.clock.now());
        let waker = match state.waker.is_some() && state.is_due() {
            true => state.waker.take(),
            false => None,
        };
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        result
    }
}

/// See the [module](self).
pub(crate) struct Driver {
    shared: Arc<Shared>,
    transport: Box<dyn Transport>,
    dispatcher: Dispatcher,
    incoming: Vec<transport::Event>,
    outputs: Vec<Output<Ticket>>,
    timer: Pin<Box<Sleep>>,
    timer_due: Option<Time>,
    /// When to end at the latest, once the node is stopped.
    end: Option<Time>,
    /// When the last goodbye was handed to the transport.
    drained: Option<Time>,
    finished: watch::Sender<bool>,
    /// Whether those who got a reply run before the driver goes on: what they send next then
    /// leaves earlier. Not where other threads would be woken to take the work over.
    yields_to_callers: bool,
    /// Whether somebody got a reply since the last yield to them.
    resolved: bool,
    /// Whether the last poll ended with such a yield: requests may wait to be sent.
    callers_ran: bool,
}

impl Driver {
    pub(crate) fn new(
        shared: Arc<Shared>,
        transport: Box<dyn Transport>,
        finished: watch::Sender<bool>,
    ) -> Self {
        Self {
            dispatcher: Dispatcher::new(Arc::clone(&shared)),
            shared,
            transport,
            incoming: Vec::with_capacity(EVENTS_PER_TURN),
            outputs: Vec::new(),
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            timer_due: None,
            end: None,
            drained: None,
            finished,
            yields_to_callers: Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread,
            resolved: false,
            callers_ran: false,
        }
    }

    /// One turn with at most this many events; returns whether anything happened.
    fn turn(&mut self, cx: &mut Context<'_>, events_max: usize) -> bool {
        while self.incoming.len() < events_max {
            match self.transport.poll_event(cx) {
                Poll::Ready(event) => self.incoming.push(event),
                Poll::Pending => break,
            }
        }
        let mut busy = !self.incoming.is_empty();
        self.advance();
        busy |= !self.outputs.is_empty();
        self.perform();
        busy | self.flush()
    }

    /// Feeds the core and takes what it wants done.
    fn advance(&mut self) {
        let mut state = self.shared.state.lock();
        let now = self.shared.clock.now();
        for event in self.incoming.drain(..) {
            state.core.handle_transport(now, event);
        }
        if state.core.poll_timeout().is_some_and(|due| due <= now) {
            state.core.handle_timeout(now);
        }
        while let Some(output) = state.core.poll_output() {
            self.outputs.push(output);
        }
    }

    fn perform(&mut self) {
        let mut outputs = std::mem::take(&mut self.outputs);
        for output in outputs.drain(..) {
            match output {
                Output::Allow(list) => self.transport.allow(list),
                Output::Deliver(delivery) => self.dispatcher.deliver(delivery),
                Output::Dial { link, address, routing_id } => {
                    if let Err(error) = self.transport.dial(link, &address, routing_id) {
                        let reason = error.to_string();
                        self.incoming.push(transport::Event::Closed { link, reason });
                    }
                }
                Output::Event(event) => self.publish(event),
                Output::HangUp(link) => self.transport.hang_up(link),
                Output::Resolve(ticket, result) => {
                    self.resolved = true;
                    // If nobody waits any more, the reply is dropped with its channel.
                    drop(ticket.send(result));
                }
            }
        }
        self.outputs = outputs;
    }

    fn publish(&self, event: Event) {
        // No subscriber is no error.
        drop(self.shared.events.send(event));
    }

    /// Hands replies to the core and messages to the transport; returns whether there were any.
    fn flush(&mut self) -> bool {
        let mut state = self.shared.state.lock();
        let now = self.shared.clock.now();
        self.dispatcher.answer(&mut state.core, now);
        let mut sent = 0;
        while sent < SENDS_PER_TURN {
            let Some(outbound) = state.core.poll_send() else { break };
            let result = self.transport.send(outbound.route, &outbound.frame);
            sent += outbound.messages();
            state.core.sent(now, outbound, result);
        }
        sent > 0
    }

    /// Registers every waker; returns whether there is truly nothing to do.
    fn sleep(&mut self, cx: &mut Context<'_>) -> bool {
        *self.shared.transport.lock() = self.transport.counters();
        let mut state = self.shared.state.lock();
        if state.core.has_work() {
            return false;
        }
        state.waker = Some(cx.waker().clone());
        let due = state.core.poll_timeout();
        state.wakes_at = due;
        drop(state);
        self.arm(match self.drained {
            Some(drained) => Some(drained + GOODBYE_GRACE),
            None => self.end.or(due),
        });
        self.timer_due.is_none() || self.timer.as_mut().poll(cx).is_pending()
    }

    /// Sets the timer, unless it will ring early enough anyway: setting it costs more than an
    /// idle turn now and then.
    fn arm(&mut self, due: Option<Time>) {
        let Some(due) = due else {
            self.timer_due = None;
            return;
        };
        let rang = self.timer.is_elapsed();
        if rang || self.timer_due.is_none_or(|armed| due < armed) {
            self.timer.as_mut().reset(self.shared.clock.instant(due));
            self.timer_due = Some(due);
        }
    }

    /// Whether the node is stopped and its goodbyes have left, or have had their time.
    fn is_finished(&mut self) -> bool {
        let state = self.shared.state.lock();
        if !state.core.is_stopped() {
            return false;
        }
        let now = self.shared.clock.now();
        if state.core.is_drained() && self.drained.is_none() {
            self.drained = Some(now);
        }
        let end = *self.end.get_or_insert(now + STOP_LIMIT);
        now >= end || self.drained.is_some_and(|drained| now >= drained + GOODBYE_GRACE)
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let driver = &mut *self;
        // A single message is the usual case: it is answered before the transport is asked for
        // more, so that the question that finds nothing is asked once, after the sending. What
        // callers want to send when they have had their turn comes first for the same reason.
        let mut events_max = if std::mem::take(&mut driver.callers_ran) { 0 } else { 1 };
        for _ in 0..TURNS_BEFORE_YIELD {
            let busy = driver.turn(cx, events_max);
            if driver.is_finished() {
                return Poll::Ready(());
            }
            if driver.yields_to_callers && std::mem::take(&mut driver.resolved) {
                driver.callers_ran = true;
                break;
            }
            if !busy && events_max > 0 && driver.sleep(cx) {
                return Poll::Pending;
            }
            events_max = EVENTS_PER_TURN;
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // The runtime may end before the node is stopped: whoever waits must hear of it. Anything
        // else that the core still wants needs a runtime.
        self.shared.with(|core, now| core.stop(now));
        self.advance();
        for output in std::mem::take(&mut self.outputs) {
            match output {
                Output::Event(event) => self.publish(event),
                Output::Resolve(ticket, result) => drop(ticket.send(result)),
                Output::Allow(_) | Output::Deliver(_) | Output::Dial { .. } | Output::HangUp(_) => {
                }
            }
        }
        // Handlers often hold a handle of their node, which would keep itself in memory.
        let registry = std::mem::take(&mut *self.shared.registry.write());
        drop(registry);
        self.finished.send_replace(true);
    }
}
