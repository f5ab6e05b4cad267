//! libzmq contexts: how many sockets each may have, and who waits for them to end.
//!
//! A context has at most 1,023 sockets, and the crate cannot raise that; a link takes three (its
//! DEALER and both ends of its monitor). Ending a context waits until its I/O thread has closed
//! every socket, so a thread of its own does that, never the runtime's.

use std::sync::Arc;

use super::readiness::Watched;

/// Connections per context. Closed sockets count until libzmq has reaped them, so this leaves room.
const CONNECTIONS_MAX: usize = 250;

/// The events of a monitor that somebody here looks at.
const EVENTS: i32 = (::zmq::SocketEvent::ACCEPTED as i32)
    | (::zmq::SocketEvent::CONNECT_RETRIED as i32)
    | (::zmq::SocketEvent::DISCONNECTED as i32)
    | (::zmq::SocketEvent::HANDSHAKE_FAILED_AUTH as i32)
    | (::zmq::SocketEvent::HANDSHAKE_FAILED_NO_DETAIL as i32)
    | (::zmq::SocketEvent::HANDSHAKE_FAILED_PROTOCOL as i32)
    | (::zmq::SocketEvent::HANDSHAKE_SUCCEEDED as i32);

/// A growing set of contexts.
#[derive(Default)]
pub(super) struct Contexts {
    slots: Vec<Slot>,
    monitors: u64,
}

struct Slot {
    context: ::zmq::Context,
    /// Whether it may have other connections.
    shared: bool,
    in_use: Arc<()>,
}

/// Keeps a place in a context taken.
#[derive(Debug)]
pub(super) struct Lease(#[expect(dead_code, reason = "counted by its clones")] Arc<()>);

impl Contexts {
    /// A context with room for one more connection.
    pub(super) fn lease(&mut self) -> (::zmq::Context, Lease) {
        let free = |slot: &Slot| slot.shared && Arc::strong_count(&slot.in_use) <= CONNECTIONS_MAX;
        match self.slots.iter().find(|slot| free(slot)) {
            Some(slot) => (slot.context.clone(), Lease(Arc::clone(&slot.in_use))),
            None => self.add(true),
        }
    }

    /// A context for one listener that asks whom to let in: the place where it asks has the same
    /// name in every context, and closing it takes a while.
    pub(super) fn own(&mut self) -> (::zmq::Context, Lease) {
        self.add(false)
    }

    fn add(&mut self, shared: bool) -> (::zmq::Context, Lease) {
        let (context, in_use) = (::zmq::Context::new(), Arc::new(()));
        let leased = (context.clone(), Lease(Arc::clone(&in_use)));
        self.slots.push(Slot { context, shared, in_use });
        leased
    }

    /// How many contexts there are.
    #[cfg(test)]
    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// A socket that reports what happens to the connections of `socket`.
    pub(super) fn monitor(
        &mut self,
        context: &::zmq::Context,
        socket: &::zmq::Socket,
    ) -> ::zmq::Result<::zmq::Socket> {
        self.monitors += 1;
        let endpoint = format!("inproc://zmesh-monitor-{}", self.monitors);
        socket.monitor(&endpoint, EVENTS)?;
        let monitor = context.socket(::zmq::PAIR)?;
        monitor.set_linger(0)?;
        // With a limit, a full queue would block libzmq's I/O thread and all its connections.
        monitor.set_rcvhwm(0)?;
        monitor.connect(&endpoint)?;
        Ok(monitor)
    }
}

impl Drop for Contexts {
    fn drop(&mut self) {
        let slots = std::mem::take(&mut self.slots);
        if slots.is_empty() {
            return;
        }
        let end = std::thread::Builder::new().name("zmq-end".into()).spawn(move || drop(slots));
        if let Err(error) = end {
            tracing::warn!(%error, "no thread to end contexts in; ended in place");
        }
    }
}

/// Ends the reports to the monitor of `socket`. To be called before the monitor is closed: libzmq's
/// I/O thread reports with a call that waits while nobody is at the other end, for ever if nobody
/// comes, and all connections of its context wait with it.
pub(super) fn silence(socket: &::zmq::Socket) {
    // The crate cannot ask for no monitor, but for one that is told of no event. Once the name is
    // taken libzmq refuses the new one; by then the old one is gone.
    let _ = socket.monitor("inproc://zmesh-no-monitor", 0);
}

/// What a monitor tells.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum MonitorEvent {
    Accepted,
    AuthenticationFailed,
    ConnectRetried,
    Disconnected,
    HandshakeFailed,
    HandshakeSucceeded,
    Other,
    ProtocolFailed,
}

/// The next event of a monitor, if there is one.
pub(super) fn monitor_event(
    monitor: &mut Watched,
    frame: &mut ::zmq::Message,
) -> Option<MonitorEvent> {
    use ::zmq::SocketEvent as Raw;
    if !monitor.receive(frame) {
        return None;
    }
    let number = match **frame {
        #[expect(clippy::host_endian_bytes, reason = "libzmq copies the integer as it is")]
        [low, high, ..] => u16::from_ne_bytes([low, high]),
        _ => 0,
    };
    // The second frame is an address.
    while frame.get_more() && monitor.receive(frame) {}
    let is = |event: Raw| number == event.to_raw();
    Some(match number {
        _ if is(Raw::ACCEPTED) => MonitorEvent::Accepted,
        _ if is(Raw::CONNECT_RETRIED) => MonitorEvent::ConnectRetried,
        _ if is(Raw::DISCONNECTED) => MonitorEvent::Disconnected,
        _ if is(Raw::HANDSHAKE_FAILED_AUTH) => MonitorEvent::AuthenticationFailed,
        _ if is(Raw::HANDSHAKE_FAILED_NO_DETAIL) => MonitorEvent::HandshakeFailed,
        _ if is(Raw::HANDSHAKE_FAILED_PROTOCOL) => MonitorEvent::ProtocolFailed,
        _ if is(Raw::HANDSHAKE_SUCCEEDED) => MonitorEvent::HandshakeSucceeded,
        _ => MonitorEvent::Other,
    })
}
