//! A network inside one process, for simulations and for users' tests.
//!
//! Every [`Network`] is a world of its own, in which any [`Address`] is just a name. It can delay
//! and lose messages and cut stations off from each other; all random choices come from its seed.
//! Delays run on tokio's clock, so that a test with paused time does not wait; or on that of a
//! simulation, which has several runtimes and says itself what time it is.
//!
//! This file is the shell; what happens is decided in `core`, which is pure.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Sleep;

mod core;

use self::core::Core;
use super::{
    Address, BindError, Counters, DialError, Event, LinkId, Options, Route, RoutingId, SendError,
    Transport,
};
use crate::{Clock, Time};

/// Names a transport within its network.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Station(u64);

/// What goes wrong on every connection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Faults {
    /// The least time a message, or an attempt to connect, takes [default: 0].
    pub delay_min: Duration,
    /// The most time it takes [default: 0]. Messages of one direction stay in order.
    pub delay_max: Duration,
    /// The probability that a message is lost, 0 to 1 [default: 0].
    pub loss: f64,
}

impl Default for Faults {
    fn default() -> Self {
        Self { delay_min: Duration::ZERO, delay_max: Duration::ZERO, loss: 0.0 }
    }
}

/// A network; clones are the same network.
#[derive(Clone)]
pub struct Network {
    hub: Arc<Mutex<Hub>>,
}

struct Hub {
    core: Core,
    wakers: BTreeMap<Station, Waker>,
    pace: Pace,
}

/// Who says what time it is.
enum Pace {
    /// The caller of [`Network::advance`].
    ByHand(Time),
    /// The runtime, whose clock is read for the first time when something happens.
    Runtime(Option<Clock>),
}

impl Pace {
    fn now(&mut self) -> Time {
        match self {
            Self::ByHand(now) => *now,
            Self::Runtime(clock) => clock.get_or_insert_with(Clock::start).now(),
        }
    }
}

impl Network {
    /// A network without faults that draws every random choice from `seed`.
    pub fn new(seed: u64) -> Self {
        Self::with_pace(seed, Pace::Runtime(None))
    }

    /// As [`new`](Self::new), but its time stands still until it is [advanced](Self::advance):
    /// transports on several runtimes then agree on it.
    pub fn by_hand(seed: u64) -> Self {
        Self::with_pace(seed, Pace::ByHand(Time::ZERO))
    }

    fn with_pace(seed: u64, pace: Pace) -> Self {
        let hub = Hub { core: Core::new(seed), wakers: BTreeMap::new(), pace };
        Self { hub: Arc::new(Mutex::new(hub)) }
    }

    /// Lets a network [by hand](Self::by_hand) come to this time, and wakes whoever has got
    /// something by then. Does nothing to any other.
    pub fn advance(&self, to: Time) {
        if let Pace::ByHand(now) = &mut self.hub.lock().pace {
            *now = to;
        }
        self.with(|core, now| core.handle(now));
    }

    /// A new transport in this network.
    pub fn transport(&self, options: Options) -> MemoryTransport {
        let station = self.hub.lock().core.join(options);
        MemoryTransport { network: self.clone(), station, sleep: None }
    }

    /// From here on, `faults` happen.
    pub fn set_faults(&self, faults: Faults) {
        self.hub.lock().core.faults = faults;
    }

    /// Lets nothing through from one station to the other; the way back stays open. Links between
    /// the two stop being ready after three seconds, as heartbeats would find out.
    pub fn cut(&self, from: Station, to: Station) {
        self.with(|core, now| core.cut(now, from, to));
    }

    /// Cuts both ways between two stations.
    pub fn partition(&self, one: Station, other: Station) {
        self.cut(one, other);
        self.cut(other, one);
    }

    /// Ends all cuts. Faults stay.
    pub fn heal(&self) {
        self.with(|core, now| core.heal(now));
    }

    /// Runs `action` at the present time and wakes whom it concerns.
    fn with<T>(&self, action: impl FnOnce(&mut Core, Time) -> T) -> T {
        let mut hub = self.hub.lock();
        let now = hub.pace.now();
        let result = action(&mut hub.core, now);
        let touched = hub.core.take_touched();
        let wakers: Vec<Waker> =
            touched.iter().filter_map(|station| hub.wakers.remove(station)).collect();
        drop(hub);
        wakers.into_iter().for_each(Waker::wake);
        result
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Network")
    }
}

/// A [`Transport`] within a [`Network`].
///
/// Must be used within a tokio runtime that has time enabled; it panics elsewhere.
#[derive(Debug)]
pub struct MemoryTransport {
    network: Network,
    station: Station,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl MemoryTransport {
    /// The name of this transport, for [`Network::cut`].
    pub fn station(&self) -> Station {
        self.station
    }

    /// Sleeps until the network has something to do; `Pending` when it sleeps.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let hub = self.network.hub.lock();
        let (Pace::Runtime(Some(clock)), Some(deadline)) = (&hub.pace, hub.core.next_deadline())
        else {
            return Poll::Pending;
        };
        let deadline = clock.instant(deadline);
        drop(hub);
        let sleep = match &mut self.sleep {
            Some(sleep) if sleep.deadline() == deadline => sleep,
            Some(sleep) => {
                sleep.as_mut().reset(deadline);
                sleep
            }
            none => none.insert(Box::pin(tokio::time::sleep_until(deadline))),
        };
        sleep.as_mut().poll(cx)
    }
}

impl Transport for MemoryTransport {
    fn bind(&mut self, address: &Address) -> Result<Address, BindError> {
        self.network.with(|core, now| core.bind(now, self.station, address))
    }

    fn unbind(&mut self) {
        self.network.with(|core, now| core.unbind(now, self.station));
    }

    fn dial(
        &mut self,
        link: LinkId,
        address: &Address,
        routing_id: RoutingId,
    ) -> Result<(), DialError> {
        self.network.with(|core, now| core.dial(now, self.station, link, address, routing_id))
    }

    fn hang_up(&mut self, link: LinkId) {
        self.network.with(|core, _| core.hang_up(self.station, link));
    }

    fn send(&mut self, route: Route, message: &Bytes) -> Result<(), SendError> {
        self.network.with(|core, now| core.send(now, self.station, route, message))
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        loop {
            let event = self.network.with(|core, now| {
                core.handle(now);
                core.next_event(self.station)
            });
            if let Some(event) = event {
                return Poll::Ready(event);
            }
            {
                let mut hub = self.network.hub.lock();
                hub.wakers.insert(self.station, cx.waker().clone());
            }
            // What came in between the two locks found no waker, so look once more at once.
            let event = self.network.with(|core, _| core.next_event(self.station));
            if let Some(event) = event {
                return Poll::Ready(event);
            }
            if self.poll_deadline(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn counters(&self) -> Counters {
        self.network.hub.lock().core.counters(self.station)
    }
}

impl Drop for MemoryTransport {
    fn drop(&mut self) {
        self.network.hub.lock().wakers.remove(&self.station);
        // Outside a runtime there is no clock of one, and nobody who waits for it.
        let by_hand = matches!(self.network.hub.lock().pace, Pace::ByHand(_));
        if by_hand || tokio::runtime::Handle::try_current().is_ok() {
            self.network.with(|core, now| core.leave(now, self.station));
        } else {
            let mut hub = self.network.hub.lock();
            let now = hub.core.next_deadline().unwrap_or(Time::ZERO);
            hub.core.leave(now, self.station);
        }
        // Somebody else must take over the deadline that this transport slept for.
        let wakers = std::mem::take(&mut self.network.hub.lock().wakers);
        wakers.into_values().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests;
