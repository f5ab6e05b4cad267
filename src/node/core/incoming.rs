//! What a node does with a message that arrives, and how one leaves.

use bytes::Bytes;

use super::{Core, Delivery, Duration, Message, Output, Reply, Waiting};
use crate::client;
use crate::error::ErrorCode;
use crate::id::{Incarnation, RequestId};
use crate::keys::{PublicKey, Role};
use crate::mutant::{self, Mutant};
use crate::node::error::{InvalidMessage, RequestError};
use crate::node::link::Queued;
use crate::protocol::envelope::{Envelope, Kind, Limits, Outgoing, Subject};
use crate::protocol::frame::Envelopes;
use crate::protocol::system::{Refusal, RefuseReason, System};
use crate::server;
use crate::timer::Time;
use crate::transport::Route;

impl<T> Core<T> {
    pub(super) fn received(
        &mut self,
        now: Time,
        route: Route,
        sender: Option<PublicKey>,
        frame: Bytes,
    ) {
        if let Err(foreign) = self.check_sender(route, sender) {
            self.counters.reject("foreign_key");
            return self.refuse_log.note(now, route, &foreign);
        }
        let limits = Limits { payload_bytes_max: self.payload_bytes_max(true) };
        let mut envelopes = Envelopes::new(frame);
        while let Some(bytes) = envelopes.next() {
            match Envelope::decode_owned(bytes, &limits) {
                Ok(envelope) => {
                    self.counters.received += 1;
                    self.accept(now, route, sender, envelope);
                }
                Err(error) => {
                    envelopes.stop();
                    self.counters.reject(error.reason());
                    self.refuse_log.note(now, route, &error);
                }
            }
        }
    }

    fn accept(&mut self, now: Time, route: Route, sender: Option<PublicKey>, envelope: Envelope) {
        let lateness = self.links.link(route).map_or(Duration::ZERO, |link| {
            let missing = link.note_sequence(envelope.sequence);
            self.counters.lost_on_links += u64::from(missing);
            link.lateness(now, envelope.sent_ms)
        });
        match envelope.kind {
            Kind::Request | Kind::Tick => self.accept_message(now, route, envelope, lateness),
            Kind::Reply | Kind::Error => self.accept_reply(now, route, envelope),
            Kind::Goodbye
            | Kind::Hello
            | Kind::HelloAgain
            | Kind::Labels
            | Kind::Peers
            | Kind::Ping
            | Kind::Pong
            | Kind::Refuse
            | Kind::Welcome => self.accept_system(now, route, sender, &envelope),
        }
    }

    fn accept_system(
        &mut self,
        now: Time,
        route: Route,
        sender: Option<PublicKey>,
        envelope: &Envelope,
    ) {
        let message = match System::decode(envelope.kind, &envelope.payload) {
            Ok(message) => message,
            Err(error) => {
                self.counters.reject("system_payload");
                self.refuse_log.note(now, route, &error);
                if envelope.kind == Kind::Hello {
                    let refusal = Refusal { reason: RefuseReason::Malformed };
                    self.send_system(now, route, &System::Refuse(refusal));
                }
                return;
            }
        };
        if !self.may_say(route, &message, envelope) {
            return self.counters.reject("system_not_allowed");
        }
        let Some(message) = self.within_standing(now, route, sender, message) else { return };
        match route {
            Route::Upstream(link) => self.client_input(now, link, client::Input::System(message)),
            Route::Downstream(route) => {
                self.server.handle(now, server::Input::System { route, message });
                self.drain_server(now);
                self.forget_stranger(route);
            }
        }
    }

    /// Whether a system message may come by this route, from this incarnation.
    fn may_say(&self, route: Route, message: &System, envelope: &Envelope) -> bool {
        let from_client = matches!(route, Route::Downstream(_));
        let joined = self.joined_as(route);
        match message {
            System::Hello(greeting) => from_client && greeting.incarnation == envelope.from,
            System::Welcome(greeting) => !from_client && greeting.incarnation == envelope.from,
            System::HelloAgain | System::Refuse(_) => !from_client,
            // Who has not joined is asked to greet; who has joined pings as itself.
            System::Ping(_) => from_client && joined.is_none_or(|joined| joined == envelope.from),
            System::Pong(_) => !from_client && joined == Some(envelope.from),
            System::Goodbye | System::Labels(_) | System::Peers(_) => joined == Some(envelope.from),
        }
    }

    /// The incarnation that has joined by this route.
    pub(super) fn joined_as(&self, route: Route) -> Option<Incarnation> {
        let peer = self.links.peek(route)?.peer.as_ref()?;
        self.peers.incarnation(peer, route)
    }

    fn accept_message(&mut self, now: Time, route: Route, envelope: Envelope, lateness: Duration) {
        let for_us = envelope.to == self.settings.identity.incarnation;
        if !for_us || self.joined_as(route) != Some(envelope.from) {
            return self.stranger(now, route, &envelope);
        }
        self.alive(now, route);
        if !self.is_within_rate(now, route, &envelope) {
            self.counters.over_rate += 1;
            let message = "more messages in a second than a peer may send";
            return self.refuse_request(now, route, &envelope, ErrorCode::Busy, message);
        }
        let deadline = envelope.time_left.map(|left| now + left.saturating_sub(lateness));
        if deadline.is_some_and(|deadline| deadline <= now) {
            self.counters.expired += 1;
            return self.refuse_request(now, route, &envelope, ErrorCode::Expired, "too late");
        }
        let max = self.payload_bytes_max(envelope.subject.is_system());
        if envelope.payload.len() > max {
            self.counters.reject("payload_too_large");
            let bytes = envelope.payload.len();
            let message = format!("payload of {bytes} bytes is over the limit of {max}");
            return self.refuse_request(
                now,
                route,
                &envelope,
                ErrorCode::PayloadTooLarge,
                &message,
            );
        }
        let Some(peer) = self.links.peek(route).and_then(|link| link.peer.clone()) else { return };
        self.outputs.push_back(Output::Deliver(Delivery {
            peer,
            role: self.role(route),
            route,
            request: envelope.request,
            subject: envelope.subject,
            format: envelope.format,
            payload: envelope.payload,
            deadline,
        }));
    }

    /// Whether a peer may send this message now. What members say to each other for the system they
    /// say for others, too, and it is not counted.
    fn is_within_rate(&mut self, now: Time, route: Route, envelope: &Envelope) -> bool {
        let Some(per_second) = self.settings.peer_rate else { return true };
        if envelope.subject.is_system() && self.role(route) == Role::Peer {
            return true;
        }
        self.links.link(route).is_none_or(|link| link.rate.take(now, per_second))
    }

    /// A request or a tick from somebody who has not joined, or for an earlier life of ours.
    fn stranger(&mut self, now: Time, route: Route, envelope: &Envelope) {
        self.counters.reject("not_joined");
        let message = "greet first";
        self.refuse_request(now, route, envelope, ErrorCode::ProtocolNotReady, message);
        // On a route that somebody has joined it is no sign of life of theirs.
        if let Route::Downstream(unknown) = route
            && self.joined_as(route).is_none()
        {
            self.server.handle(now, server::Input::Alive { route: unknown });
            self.drain_server(now);
        }
    }

    fn refuse_request(
        &mut self,
        now: Time,
        route: Route,
        envelope: &Envelope,
        code: ErrorCode,
        message: &str,
    ) {
        if envelope.kind == Kind::Request {
            self.reply_error(now, route, envelope.request, code, message);
        }
    }

    fn accept_reply(&mut self, now: Time, route: Route, envelope: Envelope) {
        let joined = self.joined_as(route) == Some(envelope.from);
        if !joined && !mutant::has(Mutant::ReplyOfAnyLife) {
            return self.counters.reject("not_joined");
        }
        self.alive(now, route);
        let Some(waiting) = self.requests.complete(envelope.request, route) else { return };
        let peer = waiting.peer.clone();
        let result = match envelope.kind == Kind::Error {
            true => Err(RequestError::Handler {
                peer,
                code: ErrorCode::from_number(envelope.code),
                message: String::from_utf8_lossy(&envelope.payload).into_owned(),
            }),
            false => Ok(Reply { peer, format: envelope.format, payload: envelope.payload }),
        };
        self.resolve(waiting, result);
    }

    /// Any valid envelope of a joined peer is a sign of life.
    fn alive(&mut self, now: Time, route: Route) {
        match route {
            Route::Upstream(link) => self.client_input(now, link, client::Input::Alive),
            Route::Downstream(route) => self.server.handle(now, server::Input::Alive { route }),
        }
    }

    pub(super) fn resolve(&mut self, waiting: Waiting<T>, result: Result<Reply, RequestError>) {
        self.peers.request_ended(&waiting.peer);
        self.outputs.push_back(Output::Resolve(waiting.ticket, result));
    }

    // ---- outgoing --------------------------------------------------------------------------

    pub(super) fn check(&self, message: Message<'_>) -> Result<(), InvalidMessage> {
        let subject = || message.subject.to_owned();
        if Subject::check(message.subject.as_bytes()).is_err() {
            return Err(InvalidMessage::Subject(subject()));
        }
        if message.subject.starts_with('_') && !message.system {
            return Err(InvalidMessage::SystemSubject(subject()));
        }
        let max = self.payload_bytes_max(message.system);
        match message.payload.len() > max {
            true => Err(InvalidMessage::TooLarge { bytes: message.payload.len(), max }),
            false => Ok(()),
        }
    }

    pub(super) fn has_room(&self, route: Route, message: Message<'_>) -> bool {
        let bytes = message.payload.len() + message.subject.len();
        self.links.has_room(route, bytes, self.settings.queue)
    }

    /// Puts a request or a tick into the queue of its route.
    pub(super) fn enqueue(
        &mut self,
        now: Time,
        route: Route,
        kind: Kind,
        request: RequestId,
        time_left: Option<Duration>,
        message: Message<'_>,
    ) {
        let to = self.joined_as(route).unwrap_or(Incarnation::UNKNOWN);
        let Some(link) = self.links.link(route) else { return };
        let outgoing = Outgoing {
            kind,
            format: message.format,
            code: 0,
            sequence: link.next_sequence(),
            request,
            from: self.settings.identity.incarnation,
            to,
            sent_ms: millis(now),
            time_left,
            subject: message.subject,
            payload: message.payload,
        };
        self.links.push(route, Queued::application(outgoing.encode(), request));
    }

    /// Queues the answer to a request, unless the requester reads so little that it is full.
    pub(super) fn answer(
        &mut self,
        now: Time,
        route: Route,
        kind: Kind,
        request: RequestId,
        code: u16,
        message: Message<'_>,
    ) {
        let to = self.joined_as(route);
        let joined = to.is_some();
        if joined && !self.has_room(route, message) {
            self.counters.replies_dropped_full += 1;
            return;
        }
        let sequence = self.links.link(route).map_or(0, super::super::link::Link::next_sequence);
        let encoded = Outgoing {
            kind,
            format: message.format,
            code,
            sequence,
            request,
            from: self.settings.identity.incarnation,
            to: to.unwrap_or(Incarnation::UNKNOWN),
            sent_ms: millis(now),
            time_left: None,
            subject: "",
            payload: message.payload,
        }
        .encode();
        match joined {
            true => self.links.push(route, Queued::application(encoded, RequestId::NONE)),
            false => self.send_stray(route, encoded),
        }
    }

    /// Queues a system message, unless too many wait already: the peer reads none of them.
    pub(super) fn send_system(&mut self, now: Time, route: Route, message: &System) {
        let (kind, payload) = message.encode();
        let to = self.joined_as(route).unwrap_or(Incarnation::UNKNOWN);
        let link = self.links.link(route);
        if link.as_ref().is_some_and(|link| !link.has_system_room()) {
            self.counters.dropped_full += 1;
            return;
        }
        let stray = link.is_none();
        let encoded = Outgoing {
            kind,
            format: Default::default(),
            code: 0,
            sequence: link.map_or(0, super::super::link::Link::next_sequence),
            request: RequestId::NONE,
            from: self.settings.identity.incarnation,
            to,
            sent_ms: millis(now),
            time_left: None,
            subject: "",
            payload: &payload,
        }
        .encode();
        match stray {
            true => self.send_stray(route, encoded),
            false => self.links.push(route, Queued::system(encoded)),
        }
    }

    pub(super) fn send_stray(&mut self, route: Route, message: Bytes) {
        match self.stray_sends.len() < super::STRAY_SENDS_MAX {
            true => self.stray_sends.push_back((route, message)),
            false => self.counters.dropped_full += 1,
        }
    }

    /// A message could not be sent: its caller hears at once, and the loss is counted.
    pub(super) fn unsent(&mut self, queued: &Queued) {
        self.counters.dropped_not_connected += 1;
        if let Some(waiting) = self.requests.cancel(queued.request) {
            let error = RequestError::NotConnected { peer: waiting.peer.clone() };
            self.resolve(waiting, Err(error));
        }
    }
}

/// Milliseconds on our clock, wrapping after 49 days as the wire's field does.
fn millis(now: Time) -> u32 {
    let millis = now.since_start().as_millis() & u128::from(u32::MAX);
    u32::try_from(millis).expect("masked to 32 bits")
}
