//! Shell: Runs handlers: in order for each peer, concurrently across peers.
//!
//! A handler's future is polled once where the message arrived; only one that has to wait becomes
//! a task. That saves a task for every handler that answers at once, which is most of them. A
//! handler that panics fails its request and nothing else.

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use parking_lot::Mutex;

use super::core::{Core, Delivery, ReplyTo};
use super::driver::{Shared, Ticket};
use super::error::HandlerError;
use super::handler::{Call, Middleware, Next, Outcome};
use crate::error::ErrorCode;
use crate::id::{NodeId, RequestId};
use crate::keys::Role;
use crate::protocol::envelope::Format;
use crate::protocol::handlers::{Handlers, Verb};
use crate::timer::Time;

/// Messages of one peer that may wait for its earlier ones to be handled.
const LANE_MESSAGES_MAX: usize = 10_000;
/// Bytes of payload that these may have together.
const LANE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The handlers of a node and what is wrapped around them.
#[derive(Default)]
pub(crate) struct Registry {
    pub(crate) handlers: Handlers<Handler>,
    /// Handlers of subjects that begin with `_`; an application's `>` must not take these.
    pub(crate) system: Handlers<Handler>,
    pub(crate) middleware: Arc<[Arc<dyn Middleware>]>,
}

/// One registered handler.
#[derive(Clone)]
pub(crate) struct Handler {
    pub(crate) call: HandlerFn,
    pub(crate) order: Order,
    /// What the sender must be allowed to do at least.
    pub(crate) needs: Role,
}

/// A handler of any payload type, with the decoding inside.
pub(crate) type HandlerFn = Arc<dyn Fn(Call) -> HandlerFuture + Send + Sync>;
/// A handler at work.
pub(crate) type HandlerFuture = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// How messages of one peer to one handler relate to each other.
#[derive(Clone)]
pub(crate) enum Order {
    /// Started in order, then side by side, up to a limit for the whole handler.
    Concurrent { running: Arc<AtomicUsize>, max: usize },
    /// One after the other with all other ordered handlers of that peer.
    OneByOne,
}

/// A message on its way to one handler.
struct Job {
    handler: Handler,
    call: Call,
    middleware: Arc<[Arc<dyn Middleware>]>,
    reply_to: ReplyTo,
    deadline: Option<Time>,
}

/// What one peer's ordered handlers are doing.
#[derive(Default)]
struct Lane {
    state: Mutex<LaneState>,
}

#[derive(Default)]
struct LaneState {
    busy: bool,
    waiting: VecDeque<Job>,
    waiting_bytes: usize,
}

impl LaneState {
    /// Puts a job at the end; false if there is no room.
    fn push(&mut self, job: Job) -> bool {
        let bytes = self.waiting_bytes + job.call.payload.len();
        if self.waiting.len() >= LANE_MESSAGES_MAX || bytes > LANE_BYTES_MAX {
            return false;
        }
        self.waiting_bytes = bytes;
        self.waiting.push_back(job);
        true
    }

    /// Takes the next job; without one the lane is free.
    fn pop(&mut self) -> Option<Job> {
        let Some(job) = self.waiting.pop_front() else {
            self.busy = false;
            return None;
        };
        self.waiting_bytes -= job.call.payload.len();
        Some(job)
    }
}

/// See the [module](self).
pub(crate) struct Dispatcher {
    shared: Arc<Shared>,
    lanes: BTreeMap<NodeId, Arc<Lane>>,
    /// Outcomes of handlers that finished at once, not yet handed to the core.
    outcomes: Vec<(ReplyTo, Outcome)>,
    /// Reused for the handlers of one message.
    found: Vec<Handler>,
}

impl Dispatcher {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, lanes: BTreeMap::new(), outcomes: Vec::new(), found: Vec::new() }
    }

    /// Runs the handlers of one message.
    pub(crate) fn deliver(&mut self, delivery: Delivery) {
        let verb = match delivery.request {
            RequestId::NONE => Verb::Tick,
            _ => Verb::Request,
        };
        let reply_to = delivery.reply_to();
        let middleware = self.find(verb, delivery.subject.as_str());
        if self.found.iter().any(|handler| handler.needs > delivery.role) {
            self.found.clear();
            return self.forbidden(reply_to, &delivery);
        }
        let Some(last) = self.found.pop() else {
            return self.unhandled(reply_to, delivery.subject.as_str());
        };
        let deadline = delivery.deadline;
        let call = Call::new(self.shared.clock, verb, delivery);
        let mut found = std::mem::take(&mut self.found);
        for handler in found.drain(..) {
            let (call, middleware) = (call.clone(), Arc::clone(&middleware));
            self.submit(Job { handler, call, middleware, reply_to, deadline });
        }
        self.found = found;
        self.submit(Job { handler: last, call, middleware, reply_to, deadline });
    }

    /// Puts the handlers of a message into `found` and returns what is wrapped around them.
    fn find(&mut self, verb: Verb, subject: &str) -> Arc<[Arc<dyn Middleware>]> {
        let registry = self.shared.registry.read();
        // What an application wraps around its handlers must not hold up or reorder the system's.
        let (table, middleware) = match subject.starts_with('_') {
            true => (&registry.system, Arc::default()),
            false => (&registry.handlers, Arc::clone(&registry.middleware)),
        };
        let clone = |(_, handler): (_, &Handler)| handler.clone();
        match verb {
            Verb::Request => self.found.extend(table.request_handler(subject).map(clone)),
            Verb::Tick => self.found.extend(table.tick_handlers(subject).map(clone)),
        }
        middleware
    }

    fn unhandled(&mut self, reply_to: ReplyTo, subject: &str) {
        if reply_to.request == RequestId::NONE {
            self.shared.with(|core, _| core.counters_mut().unhandled_ticks += 1);
            return;
        }
        let error = HandlerError::new(ErrorCode::NoHandler, format!("no handler for {subject}"));
        self.outcomes.push((reply_to, Err(error)));
    }

    fn forbidden(&mut self, reply_to: ReplyTo, delivery: &Delivery) {
        let Delivery { peer, role, subject, .. } = delivery;
        let subject = subject.as_str();
        tracing::debug!(%peer, %role, subject, "refused what the key of the sender does not allow");
        self.shared.with(|core, _| core.counters_mut().reject("role"));
        if reply_to.request != RequestId::NONE {
            let message = format!("a key in the role {role} may not ask for {subject}");
            self.outcomes.push((reply_to, Err(HandlerError::refused(message))));
        }
    }

    fn submit(&mut self, job: Job) {
        match job.handler.order.clone() {
            Order::Concurrent { running, max } => self.submit_concurrent(job, running, max),
            Order::OneByOne => self.submit_ordered(job),
        }
    }

    fn submit_concurrent(&mut self, job: Job, running: Arc<AtomicUsize>, max: usize) {
        if running.load(Ordering::Relaxed) >= max {
            return self.busy(job.reply_to);
        }
        let reply_to = job.reply_to;
        let mut future = job.start(&self.shared);
        match poll_once(&mut future) {
            Poll::Ready(outcome) => self.outcomes.push((reply_to, outcome)),
            Poll::Pending => {
                running.fetch_add(1, Ordering::Relaxed);
                let shared = Arc::clone(&self.shared);
                tokio::spawn(async move {
                    let outcome = future.await;
                    running.fetch_sub(1, Ordering::Relaxed);
                    finish(&shared, reply_to, outcome);
                });
            }
        }
    }

    fn submit_ordered(&mut self, job: Job) {
        let lane = match self.lanes.get(&job.call.peer.node) {
            Some(lane) => Arc::clone(lane),
            None => self.new_lane(job.call.peer.node.clone()),
        };
        let mut state = lane.state.lock();
        if state.busy {
            let reply_to = job.reply_to;
            let taken = state.push(job);
            drop(state);
            if !taken {
                self.busy(reply_to);
            }
            return;
        }
        // Taken before the handler runs: it may call into the node, which must not find the lock.
        state.busy = true;
        drop(state);
        let reply_to = job.reply_to;
        let mut future = job.start(&self.shared);
        match poll_once(&mut future) {
            Poll::Ready(outcome) => {
                self.outcomes.push((reply_to, outcome));
                lane.state.lock().busy = false;
            }
            Poll::Pending => {
                tokio::spawn(run_lane(Arc::clone(&self.shared), lane, reply_to, future));
            }
        }
    }

    fn new_lane(&mut self, node: NodeId) -> Arc<Lane> {
        // Peers come and go: lanes that have nothing to do are swept when their number doubles.
        if self.lanes.len() >= 64 && self.lanes.len().is_power_of_two() {
            self.lanes.retain(|_, lane| lane.state.lock().busy);
        }
        let lane = Arc::<Lane>::default();
        self.lanes.insert(node, Arc::clone(&lane));
        lane
    }

    fn busy(&mut self, reply_to: ReplyTo) {
        self.shared.with(|core, _| core.counters_mut().handlers_busy += 1);
        if reply_to.request != RequestId::NONE {
            let error = HandlerError::new(ErrorCode::Busy, "too many messages wait for a handler");
            self.outcomes.push((reply_to, Err(error)));
        }
    }

    /// Hands the outcomes of handlers that finished at once to the core.
    pub(crate) fn answer(&mut self, core: &mut Core<Ticket>, now: Time) {
        for (reply_to, outcome) in self.outcomes.drain(..) {
            reply(core, now, reply_to, outcome);
        }
    }
}

impl Job {
    fn start(self, shared: &Arc<Shared>) -> CatchPanic {
        let handler = self.handler.call;
        let future = match self.middleware.is_empty() {
            // What a handler does before it returns its future may panic as well.
            true => catch_unwind(AssertUnwindSafe(|| handler(self.call))).unwrap_or_else(|panic| {
                let outcome = note_panic(shared, panic.as_ref());
                Box::pin(std::future::ready(outcome))
            }),
            // Called when it is polled, where a panic is caught.
            false => Box::pin(async { Next::new(self.middleware, handler).run(self.call).await }),
        };
        CatchPanic { shared: Arc::clone(shared), future }
    }
}

/// Finishes a handler that had to wait, then whatever came after it from the same peer.
async fn run_lane(shared: Arc<Shared>, lane: Arc<Lane>, reply_to: ReplyTo, first: CatchPanic) {
    finish(&shared, reply_to, first.await);
    loop {
        let Some(job) = lane.state.lock().pop() else { return };
        let reply_to = job.reply_to;
        let expired = job.deadline.is_some_and(|deadline| deadline <= shared.clock.now());
        let outcome = match expired {
            true => expire(&shared),
            false => job.start(&shared).await,
        };
        finish(&shared, reply_to, outcome);
        // A long queue of handlers that finish at once must not hold the runtime.
        tokio::task::consume_budget().await;
    }
}

fn expire(shared: &Shared) -> Outcome {
    shared.with(|core, _| core.counters_mut().expired += 1);
    Err(HandlerError::new(ErrorCode::Expired, "the deadline passed before the handler was started"))
}

fn finish(shared: &Shared, reply_to: ReplyTo, outcome: Outcome) {
    shared.with(|core, now| reply(core, now, reply_to, outcome));
}

fn reply(core: &mut Core<Ticket>, now: Time, to: ReplyTo, outcome: Outcome) {
    match (to.request, outcome) {
        (RequestId::NONE, Ok(_)) => {}
        (RequestId::NONE, Err(error)) => core.tick_failed(now, to.route, &error),
        (_, Ok((format, payload))) => core.reply(now, to, format, &payload),
        (request, Err(error)) => {
            core.reply_error(now, to.route, request, error.code, &error.message);
        }
    }
}

/// Polls without a real waker: a future that is not ready is polled again by its own task.
fn poll_once(future: &mut CatchPanic) -> Poll<Outcome> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// Turns a panic of a handler into its outcome.
struct CatchPanic {
    shared: Arc<Shared>,
    future: HandlerFuture,
}

impl Future for CatchPanic {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        // A future that panicked is never polled again, so nothing broken can be observed.
        match catch_unwind(AssertUnwindSafe(|| self.future.as_mut().poll(cx))) {
            Ok(poll) => poll,
            Err(panic) => Poll::Ready(note_panic(&self.shared, panic.as_ref())),
        }
    }
}

fn note_panic(shared: &Shared, panic: &(dyn Any + Send)) -> Outcome {
    shared.with(|core, _| core.counters_mut().handler_panics += 1);
    Err(panicked(panic))
}

fn panicked(panic: &(dyn Any + Send)) -> HandlerError {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    HandlerError::failed(format!("the handler panicked: {text}"))
}

/// The bytes of an outcome.
pub(crate) type Answer = (Format, Bytes);
