//! What a socket's readiness is about, and when it has to be looked at again.
//!
//! A socket's descriptor is edge-triggered and any call on the socket may eat the edge, so the
//! order in [`Watched::arm`] and its callers is the point of this file: clear and register first,
//! then receive until nothing is there. An edge that comes in between wakes once too often.

use std::task::{Context, Poll, Waker};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::transport::LinkId;

/// What a wake-up is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Key {
    /// One link.
    Link(LinkId),
    /// The listener and its monitor.
    Listener,
    /// The timer after which full downstream routes are tried again.
    Retry,
}

/// A socket whose descriptor the runtime watches.
///
/// Invariant: while `dirty` is unset, nothing was there at the last look, and the waker given to
/// [`Watched::arm`] is woken when that may have changed, except by a call on the socket itself:
/// whoever makes such a call sets `dirty`.
#[derive(Debug)]
pub(super) struct Watched {
    // The descriptor is taken from the runtime before the socket closes it: AsyncFd does both.
    socket: AsyncFd<Socket>,
    /// Whether something may be there.
    pub(super) dirty: bool,
    /// Whether the next frame belongs to a message that is being dropped.
    pub(super) skipping: bool,
}

impl Watched {
    /// Watches `socket`. It counts as dirty at first, since no edge tells of what is there already.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O.
    pub(super) fn new(socket: ::zmq::Socket) -> std::io::Result<Self> {
        #[expect(deprecated, reason = "its successor is unsafe; `Socket` owns its descriptor")]
        let socket = AsyncFd::with_interest(Socket(socket), Interest::READABLE)?;
        Ok(Self { socket, dirty: true, skipping: false })
    }

    /// Forgets past edges and registers `waker` for the next one.
    pub(super) fn arm(&mut self, waker: &Waker) {
        let mut cx = Context::from_waker(waker);
        while let Poll::Ready(ready) = self.socket.poll_read_ready(&mut cx) {
            self.dirty = true;
            match ready {
                Ok(mut guard) => guard.clear_ready(),
                // The runtime is shutting down; nothing will be polled again.
                Err(_) => return,
            }
        }
    }

    /// The socket. Whoever sends on it must set `dirty` afterwards.
    pub(super) fn socket(&self) -> &::zmq::Socket {
        &self.socket.get_ref().0
    }

    /// Receives one frame into `frame`; `false` when there is none.
    pub(super) fn receive(&mut self, frame: &mut ::zmq::Message) -> bool {
        if !self.dirty {
            return false;
        }
        match again_if_interrupted(|| self.socket().recv(frame, ::zmq::DONTWAIT)) {
            Ok(()) => true,
            Err(error) => {
                if error != ::zmq::Error::EAGAIN {
                    tracing::error!(%error, "receiving failed");
                }
                self.dirty = false;
                false
            }
        }
    }

    /// Whether a message could be sent. Also takes in what libzmq's I/O thread has to say, so
    /// `dirty` is set when something can be received.
    pub(super) fn is_writable(&mut self) -> bool {
        let events = again_if_interrupted(|| self.socket().get_events());
        let events = events.unwrap_or(::zmq::PollEvents::empty());
        self.dirty |= events.contains(::zmq::POLLIN);
        events.contains(::zmq::POLLOUT)
    }
}

/// Calls `call` until no signal interrupts it.
pub(super) fn again_if_interrupted<T>(
    mut call: impl FnMut() -> ::zmq::Result<T>,
) -> ::zmq::Result<T> {
    loop {
        match call() {
            Err(::zmq::Error::EINTR) => {}
            result => return result,
        }
    }
}

/// A socket that can be shown.
struct Socket(::zmq::Socket);

impl std::os::fd::AsRawFd for Socket {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Socket")
    }
}
