//! Takes frames from sockets and makes whole messages of them, or drops them.
//!
//! A DEALER gets one frame per message, a ROUTER two: the routing id and the body. Everything else
//! comes from somebody who is no node: libzmq passes on whatever an old protocol version, or
//! chance, makes look like frames. The rest of such a message is dropped frame by frame, so that
//! it costs time in small pieces and no memory.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::now;
use super::readiness::{Watched, again_if_interrupted};
use crate::keys::PublicKey;
use crate::transport::{Counters, RoutingId};

/// Bodies from here on are handed on without copying. A smaller one would keep libzmq's whole
/// receive buffer of 8 KiB alive, and is cheaper to copy.
const ZERO_COPY_BYTES: usize = 4096;
/// At most one line about dropped messages in this time.
const WARN_INTERVAL: Duration = Duration::from_secs(1);

/// What came from a socket.
#[derive(Debug)]
pub(super) enum Received<T> {
    /// A frame of a malformed message.
    Dropped,
    /// A message.
    Message(T),
    /// There is nothing to receive.
    Nothing,
}

/// Receives, counts and complains.
pub(super) struct Receiver {
    /// Reused for frames that are only looked at.
    pub(super) frame: ::zmq::Message,
    pub(super) counters: Counters,
    body_bytes_max: usize,
    warned: Option<Instant>,
    unreported: u64,
}

impl Receiver {
    /// A receiver that drops bodies of more than `body_bytes_max`.
    pub(super) fn new(body_bytes_max: usize) -> Self {
        Self {
            frame: ::zmq::Message::new(),
            counters: Counters::default(),
            body_bytes_max,
            warned: None,
            unreported: 0,
        }
    }

    /// Receives from a DEALER.
    pub(super) fn dealer_message(&mut self, dealer: &mut Watched) -> Received<Bytes> {
        if dealer.skipping {
            return self.skip(dealer);
        }
        let mut body = ::zmq::Message::new();
        if !dealer.receive(&mut body) {
            return Received::Nothing;
        }
        self.check(dealer, body, Some(()))
            .map_or(Received::Dropped, |(body, ())| Received::Message(body))
    }

    /// Receives from a ROUTER; with keys, also whose message it is.
    pub(super) fn router_message(
        &mut self,
        router: &mut Watched,
        keys: bool,
    ) -> Received<(RoutingId, Option<PublicKey>, Bytes)> {
        if router.skipping {
            return self.skip(router);
        }
        if !router.receive(&mut self.frame) {
            return Received::Nothing;
        }
        let routing_id = RoutingId::from_wire(&self.frame);
        let mut body = ::zmq::Message::new();
        // libzmq hands over whole messages, so the body is there.
        let arrived = self.frame.get_more()
            && again_if_interrupted(|| router.socket().recv(&mut body, ::zmq::DONTWAIT)).is_ok();
        if !arrived {
            self.complain("no body");
            return Received::Dropped;
        }
        let key = match keys {
            // What ZAP answered when the connection was made.
            true => body.gets("User-Id").and_then(|key| key.parse().ok()),
            false => None,
        };
        self.check(router, body, routing_id).map_or(Received::Dropped, |(body, routing_id)| {
            Received::Message((routing_id, key, body))
        })
    }

    fn check<T>(
        &mut self,
        socket: &mut Watched,
        body: ::zmq::Message,
        sender: Option<T>,
    ) -> Option<(Bytes, T)> {
        socket.skipping = body.get_more();
        let reason = match sender {
            Some(sender) if !socket.skipping && body.len() <= self.body_bytes_max => {
                self.counters.received += 1;
                return Some((into_bytes(body), sender));
            }
            Some(_) if socket.skipping => "more than one frame",
            Some(_) => "too large",
            None => "foreign routing id",
        };
        self.complain(reason);
        None
    }

    /// Drops one frame.
    fn skip<T>(&mut self, socket: &mut Watched) -> Received<T> {
        if !socket.receive(&mut self.frame) {
            return Received::Nothing;
        }
        socket.skipping = self.frame.get_more();
        Received::Dropped
    }

    /// Counts a dropped message, and says so once in a while.
    fn complain(&mut self, reason: &'static str) {
        self.counters.dropped_malformed += 1;
        self.unreported += 1;
        let now = now();
        if self.warned.is_none_or(|warned| now.duration_since(warned) >= WARN_INTERVAL) {
            tracing::warn!(reason, messages = self.unreported, "dropped malformed messages");
            self.warned = Some(now);
            self.unreported = 0;
        }
    }
}

fn into_bytes(body: ::zmq::Message) -> Bytes {
    match body.len() < ZERO_COPY_BYTES {
        true => Bytes::copy_from_slice(&body),
        false => Bytes::from_owner(Body(body)),
    }
}

/// A received body that lives as long as somebody reads it.
struct Body(::zmq::Message);

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
