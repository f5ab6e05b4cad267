//! A peer that says what no node of ours would say: it speaks the protocol by hand, so that it can
//! use the system's subjects with any bytes, under any name.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use zmesh::protocol::envelope::{Envelope, Format, Kind, Limits, Subject};
use zmesh::protocol::frame::Envelopes;
use zmesh::protocol::system::{Greeting, Labels, PROTOCOL_VERSION, Ping, System};
use zmesh::transport::zmq::ZmqTransport;
use zmesh::transport::{Event, LinkId, Options, Route, RoutingId, Transport};
use zmesh::{Address, ErrorCode, Incarnation, RequestId};

const DEADLINE: Duration = Duration::from_secs(20);
const LINK: LinkId = LinkId(1);

/// A hand-made peer with one link.
pub(crate) struct Raw {
    transport: ZmqTransport,
    us: Incarnation,
    them: Incarnation,
    sequence: u32,
    requests: u64,
    /// Envelopes that came in one frame with those before them.
    received: VecDeque<Bytes>,
    /// Payloads of the ticks that arrived.
    pub(crate) ticks: Vec<Bytes>,
}

impl Raw {
    /// Joins the node at `address` under `name`.
    pub(crate) async fn join(name: &str, address: &Address) -> Self {
        let us = Incarnation(u64::from(std::process::id()) << 20 | u64::from(peer_number()));
        let options = Options { queue_messages_max: 10_000, ..Options::default() };
        let mut transport = ZmqTransport::new(options);
        transport.dial(LINK, address, RoutingId::new(us, 1)).unwrap();
        let them = Incarnation::UNKNOWN;
        let (received, ticks) = (VecDeque::new(), Vec::new());
        let mut raw = Self { transport, us, them, sequence: 0, requests: 0, received, ticks };
        while !matches!(raw.event().await, Event::Ready { .. }) {}
        let greeting = Greeting {
            version: PROTOCOL_VERSION,
            cluster: "zmesh".to_owned(),
            node: name.parse().unwrap(),
            incarnation: us,
            address: None,
            labels: Labels::new(),
            revision: 0,
        };
        raw.say(&System::Hello(greeting));
        loop {
            let envelope = raw.receive().await;
            assert_ne!(envelope.kind, Kind::Refuse, "{name}: {envelope:?}");
            if envelope.kind == Kind::Welcome {
                raw.them = envelope.from;
                return raw;
            }
        }
    }

    /// Asks and waits for the answer.
    pub(crate) async fn request(
        &mut self,
        subject: &str,
        payload: &[u8],
    ) -> Result<Bytes, (ErrorCode, String)> {
        self.stay();
        self.requests += 1;
        let request = RequestId(self.requests);
        self.send(Kind::Request, request, subject, payload);
        loop {
            let envelope = self.receive().await;
            if envelope.kind == Kind::Tick {
                self.ticks.push(envelope.payload);
            } else if envelope.request == request {
                return match envelope.kind == Kind::Reply {
                    true => Ok(envelope.payload),
                    false => {
                        let message = String::from_utf8_lossy(&envelope.payload).into_owned();
                        Err((ErrorCode::from_number(envelope.code), message))
                    }
                };
            }
        }
    }

    /// Sends a tick.
    pub(crate) fn tick(&mut self, subject: &str, payload: &[u8]) {
        self.stay();
        self.send(Kind::Tick, RequestId::NONE, subject, payload);
    }

    /// Waits until at least so many ticks have arrived.
    pub(crate) async fn hear(&mut self, ticks: usize) {
        while self.ticks.len() < ticks {
            self.stay();
            let envelope = self.receive().await;
            if envelope.kind == Kind::Tick {
                self.ticks.push(envelope.payload);
            }
        }
    }

    /// A sign of life.
    fn stay(&mut self) {
        self.say(&System::Ping(Ping { number: u64::from(self.sequence) + 1, revision: 0 }));
    }

    fn say(&mut self, message: &System) {
        let (kind, payload) = message.encode();
        self.put(kind, Format::MessagePack, RequestId::NONE, Subject::default(), payload.into());
    }

    fn send(&mut self, kind: Kind, request: RequestId, subject: &str, payload: &[u8]) {
        let subject = Subject::new(subject).unwrap();
        self.put(kind, Format::Raw, request, subject, Bytes::copy_from_slice(payload));
    }

    fn put(
        &mut self,
        kind: Kind,
        format: Format,
        request: RequestId,
        subject: Subject,
        payload: Bytes,
    ) {
        let envelope = Envelope {
            kind,
            format,
            code: 0,
            sequence: self.sequence,
            request,
            from: self.us,
            to: self.them,
            time_left: kind.is_addressed().then_some(DEADLINE),
            sent_ms: 0,
            subject,
            payload,
        };
        self.sequence += 1;
        self.transport.send(Route::Upstream(LINK), &envelope.encode()).unwrap();
    }

    async fn receive(&mut self) -> Envelope {
        loop {
            if let Some(bytes) = self.received.pop_front() {
                return Envelope::decode(&bytes, &Limits::default()).unwrap();
            }
            if let Event::Message { message, .. } = self.event().await {
                self.received.extend(Envelopes::new(message));
            }
        }
    }

    async fn event(&mut self) -> Event {
        let event = poll_fn(|cx| self.transport.poll_event(cx));
        tokio::time::timeout(DEADLINE, event).await.expect("the node says something")
    }
}

/// Tells the peers of one process apart.
fn peer_number() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering};
    static PEERS: AtomicU16 = AtomicU16::new(1);
    PEERS.fetch_add(1, Ordering::Relaxed)
}
