//! A transport in memory that shows the trace what is sent, and that doubles and swaps messages of
//! the consensus, which must not mind.
//!
//! What users send is neither doubled nor swapped: no transport does that to them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use zmesh::Address;
use zmesh::keys::AllowList;
use zmesh::transport::memory::MemoryTransport;
use zmesh::transport::{
    BindError, Counters, DialError, Event, LinkId, Route, RoutingId, SendError, Transport,
};

use crate::trace::Trace;

/// The end of the subject of all messages of the consensus, and the beginning of any message.
const CONSENSUS: &[u8] = b".raft";
const MESSAGE: &[u8] = b"ZM\x01";

pub(crate) struct Wire {
    pub(crate) inner: MemoryTransport,
    pub(crate) name: String,
    pub(crate) trace: Trace,
    pub(crate) rng: fastrand::Rng,
    /// The probability that a message is doubled, and that it is overtaken by the next.
    pub(crate) doubled: f64,
    pub(crate) overtaken: f64,
    /// What comes before anything else.
    pub(crate) ready: VecDeque<Event>,
    /// What waits to be overtaken.
    pub(crate) held: Option<Event>,
}

impl Wire {
    /// What becomes of an event that has arrived; none if it is held back.
    fn pass(&mut self, event: Event) -> Option<Event> {
        let Event::Message { message, .. } = &event else {
            // The connection of what is held may be gone.
            self.held = None;
            return Some(event);
        };
        self.ready.extend(self.held.take());
        // Several of them travel together.
        if count(message, CONSENSUS) != count(message, MESSAGE) {
            return Some(event);
        }
        if self.rng.f64() < self.doubled {
            self.ready.push_back(event.clone());
        }
        if self.ready.is_empty() && self.rng.f64() < self.overtaken {
            self.held = Some(event);
            return None;
        }
        Some(event)
    }
}

fn count(message: &[u8], part: &[u8]) -> usize {
    message.windows(part.len()).filter(|window| *window == part).count()
}

impl Transport for Wire {
    fn bind(&mut self, address: &Address) -> Result<Address, BindError> {
        self.inner.bind(address)
    }

    fn unbind(&mut self) {
        self.inner.unbind();
    }

    fn dial(&mut self, link: LinkId, to: &Address, id: RoutingId) -> Result<(), DialError> {
        self.inner.dial(link, to, id)
    }

    fn hang_up(&mut self, link: LinkId) {
        (self.held, self.ready) = (None, VecDeque::new());
        self.inner.hang_up(link);
    }

    fn send(&mut self, route: Route, message: &Bytes) -> Result<(), SendError> {
        self.trace.message(&self.name, message);
        self.inner.send(route, message)
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Poll::Ready(event);
            }
            let Poll::Ready(event) = self.inner.poll_event(cx) else { return Poll::Pending };
            if let Some(event) = self.pass(event) {
                return Poll::Ready(event);
            }
        }
    }

    fn allow(&mut self, allowed: Arc<AllowList>) {
        self.inner.allow(allowed);
    }

    fn counters(&self) -> Counters {
        self.inner.counters()
    }
}
