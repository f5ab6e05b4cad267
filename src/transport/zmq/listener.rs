//! The listener: a ROUTER and its monitor.

use std::path::Path;
use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;

use super::contexts::{Contexts, Lease, MonitorEvent, monitor_event, silence};
use super::options::{Mechanism, Role, configure};
use super::readiness::{Watched, again_if_interrupted};
use super::receive::{Received, Receiver};
use super::zap::Zap;
use super::{Step, inproc};
use crate::keys::{AllowList, KeyPair};
use crate::transport::{Address, Event, Options, Route, RoutingId, SendError, listening};

/// A bound ROUTER.
pub(super) struct Listener {
    address: Address,
    router: Watched,
    monitor: Option<Watched>,
    /// Who says whom to let in; closed after the ROUTER.
    zap: Option<Zap>,
    waker: Waker,
    /// Whether it is in the transport's queue.
    pub(super) scheduled: bool,
    /// Whether the waker must be registered again.
    pub(super) woken: bool,
    _lease: Option<Lease>,
}

impl Listener {
    /// Listens on `address`, or says why not.
    pub(super) fn bind(
        address: &Address,
        contexts: &mut Contexts,
        options: &Options,
        keys: Option<(&KeyPair, Arc<AllowList>)>,
        waker: Waker,
    ) -> Result<Self, String> {
        let text = |error: ::zmq::Error| error.to_string();
        let leased = |(context, lease)| (context, Some(lease));
        let (context, lease) = match (address, &keys) {
            (Address::Tcp { .. }, Some(_)) => leased(contexts.own()),
            (_, Some(_)) => return Err("only tcp has keys".to_owned()),
            (Address::Inproc { .. }, None) => (inproc::context().clone(), None),
            (Address::Ipc { .. } | Address::Tcp { .. }, None) => leased(contexts.lease()),
        };
        let router = context.socket(::zmq::ROUTER).map_err(text)?;
        let mechanism = keys.as_ref().map_or(Mechanism::Null, |(p, _)| Mechanism::CurveListener(p));
        configure(&router, Role::Listener, mechanism, options).map_err(text)?;
        let own_key = keys.as_ref().map(|(pair, _)| pair.public());
        let zap = keys.map(|(_, allowed)| Zap::bind(&context, allowed)).transpose()?;
        let watch = |socket| Watched::new(socket).map_err(|error| error.to_string());
        let monitor = match address {
            Address::Inproc { .. } => None,
            Address::Ipc { .. } | Address::Tcp { .. } => {
                Some(watch(contexts.monitor(&context, &router).map_err(text)?)?)
            }
        };
        // Whole before it listens: from then on it must end as a listener does.
        let mut listener = Self {
            address: address.clone(),
            router: watch(router)?,
            monitor,
            zap,
            waker,
            scheduled: false,
            woken: true,
            _lease: lease,
        };
        listener.listen()?;
        listener.address = listener.address.clone().with_key(own_key);
        Ok(listener)
    }

    /// Lets these in from now on.
    pub(super) fn allow(&mut self, allowed: Arc<AllowList>) {
        if let Some(zap) = &mut self.zap {
            zap.allow(allowed);
        }
    }

    fn listen(&mut self) -> Result<(), String> {
        let text = |error: ::zmq::Error| error.to_string();
        let router = self.router.socket();
        match &self.address {
            Address::Inproc { name } => inproc::bind(name, router).map_err(text)?,
            Address::Ipc { .. } | Address::Tcp { .. } => {
                router.bind(&endpoint(&self.address)?).map_err(text)?;
            }
        }
        let bound = router.get_last_endpoint().map_err(text)?;
        if let Some(bound) = bound.ok().and_then(|endpoint| endpoint.parse().ok()) {
            self.address = bound;
        }
        Ok(())
    }

    /// Where it listens, with the real port.
    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// Does one thing that is to be done.
    pub(super) fn service(&mut self, receiver: &mut Receiver) -> Step {
        if std::mem::take(&mut self.woken) {
            self.router.arm(&self.waker);
            if let Some(monitor) = &mut self.monitor {
                monitor.arm(&self.waker);
            }
            if let Some(zap) = &mut self.zap {
                zap.arm(&self.waker);
            }
        }
        if self.zap.as_mut().is_some_and(Zap::answer) {
            return Step::Again;
        }
        if let Some(monitor) = &mut self.monitor
            && let Some(event) = monitor_event(monitor, &mut receiver.frame)
        {
            let counters = &mut receiver.counters;
            counters.accepted += u64::from(event == MonitorEvent::Accepted);
            counters.handshakes_failed += u64::from(matches!(
                event,
                MonitorEvent::AuthenticationFailed
                    | MonitorEvent::HandshakeFailed
                    | MonitorEvent::ProtocolFailed
            ));
        }
        match receiver.router_message(&mut self.router, self.zap.is_some()) {
            Received::Dropped => Step::Again,
            Received::Message((peer, sender, message)) => {
                Step::Event(Event::Message { route: Route::Downstream(peer), sender, message })
            }
            Received::Nothing if self.monitor.as_ref().is_some_and(|m| m.dirty) => Step::Again,
            Received::Nothing => Step::Idle,
        }
    }

    /// Hands one message for `peer` to libzmq.
    pub(super) fn send(&mut self, peer: RoutingId, message: &Bytes) -> Result<(), SendError> {
        let router = &mut self.router;
        router.dirty = true;
        let socket = router.socket();
        let first = ::zmq::DONTWAIT | ::zmq::SNDMORE;
        match again_if_interrupted(|| socket.send(&peer.0[..], first)) {
            Ok(()) => {}
            Err(::zmq::Error::EAGAIN) => return Err(SendError::Full),
            Err(_) => return Err(SendError::NotConnected),
        }
        // Once the peer is found there is room: a ROUTER takes the body or, when the peer has
        // left in between, drops it.
        again_if_interrupted(|| socket.send(&message[..], ::zmq::DONTWAIT))
            .map_err(|_| SendError::NotConnected)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Address::Inproc { name } = &self.address {
            inproc::unbind(name, self.router.socket());
        }
        if self.monitor.is_some() {
            silence(self.router.socket());
        }
    }
}

/// What to hand to libzmq, once the operating system has nothing against it.
///
/// The system is asked first because the crate panics on an error number that it does not know,
/// and because libzmq would remove whatever file is in the way of an ipc socket.
fn endpoint(address: &Address) -> Result<String, String> {
    match address {
        Address::Inproc { .. } => Ok(address.to_string()),
        Address::Ipc { path } => {
            drop(listening::unix(Path::new(path))?);
            Ok(address.to_string())
        }
        Address::Tcp { host, port, .. } => {
            let ip = listening::ip(host)?;
            drop(listening::tcp(ip, *port)?);
            Ok(Address::tcp(ip.to_string(), *port).to_string())
        }
    }
}
