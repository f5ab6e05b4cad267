//! A transport that is polled whenever it wants to be, as a node's driver does it.
//!
//! The claims poll one transport at a time. One without threads moves bytes only while it is
//! polled, so a task polls it here, and stops while a message waits to be taken: a receiver that
//! does not read still does not read. Other events wait in a queue and hold up nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::*;

/// See the [module](self).
pub(super) struct Driven<T> {
    inner: Arc<Mutex<Inner<T>>>,
    task: JoinHandle<()>,
}

struct Inner<T> {
    transport: Option<T>,
    /// Of which only the last can be a message.
    events: VecDeque<Event>,
    /// Of the task that drives it.
    driver: Option<Waker>,
    caller: Option<Waker>,
}

impl<T: Transport + 'static> Driven<T> {
    pub(super) fn new(transport: T) -> Self {
        let inner = Inner {
            transport: Some(transport),
            events: VecDeque::new(),
            driver: None,
            caller: None,
        };
        let inner = Arc::new(Mutex::new(inner));
        let driven = Arc::clone(&inner);
        let task = tokio::spawn(poll_fn(move |cx| driven.lock().drive(cx)));
        Self { inner, task }
    }

    fn call<R>(&self, call: impl FnOnce(&mut T) -> R) -> R {
        let mut inner = self.inner.lock();
        let result = call(inner.transport.as_mut().unwrap());
        inner.wake_driver();
        result
    }
}

impl<T: Transport> Inner<T> {
    fn drive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.driver = Some(cx.waker().clone());
        let Some(transport) = &mut self.transport else { return Poll::Ready(()) };
        while !matches!(self.events.back(), Some(Event::Message { .. }))
            && let Poll::Ready(event) = transport.poll_event(cx)
        {
            self.events.push_back(event);
            if let Some(caller) = self.caller.take() {
                caller.wake();
            }
        }
        Poll::Pending
    }

    fn wake_driver(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }
}

impl<T: Transport + 'static> Transport for Driven<T> {
    fn bind(&mut self, address: &Address) -> Result<Address, BindError> {
        self.call(|transport| transport.bind(address))
    }

    fn unbind(&mut self) {
        self.call(Transport::unbind);
    }

    fn dial(&mut self, link: LinkId, address: &Address, id: RoutingId) -> Result<(), DialError> {
        self.call(|transport| transport.dial(link, address, id))
    }

    fn hang_up(&mut self, link: LinkId) {
        self.call(|transport| transport.hang_up(link));
        // What the task took before is of the past.
        let mut inner = self.inner.lock();
        let of_link = |event: &Event| match event {
            Event::Closed { link: of, .. }
            | Event::NotReady { link: of }
            | Event::Ready { link: of } => *of == link,
            Event::Message { route, .. } | Event::Writable { route } => {
                *route == Route::Upstream(link)
            }
        };
        inner.events.retain(|event| !of_link(event));
    }

    fn send(&mut self, route: Route, message: &Bytes) -> Result<(), SendError> {
        self.call(|transport| transport.send(route, message))
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let mut inner = self.inner.lock();
        inner.wake_driver();
        inner.caller = Some(cx.waker().clone());
        inner.events.pop_front().map_or(Poll::Pending, Poll::Ready)
    }

    fn allow(&mut self, allowed: Arc<AllowList>) {
        self.call(|transport| transport.allow(allowed));
    }

    fn counters(&self) -> Counters {
        self.call(|transport| transport.counters())
    }
}

impl<T> Drop for Driven<T> {
    fn drop(&mut self) {
        self.task.abort();
        self.inner.lock().transport = None;
    }
}
