//! Strangers at the listener: whatever a TCP client sends, the node serves its peers, hands nothing
//! up that is not a routing id of our shape and one body, and does not grow.
//!
//! All in one test, since memory is a property of the process. ZMTP's greeting and commands are
//! written out here, as no library would send them wrong.
#![expect(clippy::unwrap_used, reason = "a test; the allowance does not reach functions beside it")]

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zmesh::transport::zmq::{ZmqTransport, check_descriptors};
use zmesh::transport::{Event, LinkId, Options, Route, RoutingId, Transport};
use zmesh::{Address, Incarnation};

/// What never takes so long unless it is broken.
const DEADLINE: Duration = Duration::from_secs(20);
/// How long an attacker waits to be thrown out; libzmq's handshake limit is three seconds.
const PATIENCE: Duration = Duration::from_millis(20);
/// By how much the process may grow over all attacks: what 300 half-open connections and the
/// allocator keep, far from any of the sizes that attackers claim or send.
const GROWTH_BYTES_MAX: u64 = 64 << 20;

/// A listener under attack, and the number of its next legitimate peer.
struct Target {
    listener: ZmqTransport,
    address: Address,
    peers: u64,
    /// Messages handed up that came from no legitimate peer.
    foreign: Vec<(RoutingId, Bytes)>,
}

impl Target {
    fn new() -> Self {
        let options = Options { message_bytes_max: 1 << 20, ..Options::default() };
        let mut listener = ZmqTransport::new(options);
        let address = listener.bind(&"tcp://127.0.0.1:0".parse().unwrap()).unwrap();
        Self { listener, address, peers: 0, foreign: Vec::new() }
    }

    async fn connect(&self) -> TcpStream {
        let Address::Tcp { host, port, .. } = &self.address else { unreachable!() };
        TcpStream::connect((host.as_str(), *port)).await.unwrap()
    }

    /// Passes ZMTP's handshake under `routing_id`.
    ///
    /// Whoever sends a message before the listener's READY fails the handshake.
    async fn shake_hands(&self, routing_id: &[u8]) -> TcpStream {
        let mut stream = self.connect().await;
        stream.write_all(&greeting("NULL")).await.unwrap();
        stream.write_all(&ready("DEALER", routing_id)).await.unwrap();
        let mut answer = Vec::new();
        while !answer.windows(6).any(|bytes| bytes == b"ROUTER") {
            let read = tokio::time::timeout(DEADLINE, stream.read_buf(&mut answer)).await;
            assert_ne!(read.expect("an answer").unwrap(), 0, "thrown out of the handshake");
        }
        stream
    }

    /// Sends `bytes` and waits a little, or until the connection is closed.
    async fn throw(mut stream: TcpStream, bytes: &[u8]) {
        // The listener may close at any byte, which is an error of the attacker's alone.
        let _ = tokio::time::timeout(DEADLINE, stream.write_all(bytes)).await;
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await;
    }

    /// A peer dials, asks and is answered.
    async fn serves(&mut self, after: &str) {
        self.peers += 1;
        let id = RoutingId::new(Incarnation(1), self.peers);
        let link = LinkId(1);
        let mut peer = ZmqTransport::new(Options::default());
        peer.dial(link, &self.address, id).unwrap();
        let question = Bytes::from(format!("question {}", self.peers));
        let served = async {
            loop {
                let event = poll_fn(|cx| match peer.poll_event(cx) {
                    std::task::Poll::Pending => self.listener.poll_event(cx),
                    ready => ready,
                });
                match event.await {
                    Event::Ready { .. } => peer.send(Route::Upstream(link), &question).unwrap(),
                    Event::Message { route: Route::Upstream(_), message, .. } => {
                        assert_eq!(message, question);
                        return;
                    }
                    Event::Message { route: Route::Downstream(from), message, .. }
                        if from == id =>
                    {
                        self.listener.send(Route::Downstream(from), &message).unwrap();
                    }
                    Event::Message { route: Route::Downstream(from), message, .. } => {
                        self.foreign.push((from, message));
                    }
                    event @ (Event::Closed { .. }
                    | Event::NotReady { .. }
                    | Event::Writable { .. }) => panic!("{after}: {event:?}"),
                }
            }
        };
        assert!(tokio::time::timeout(DEADLINE, served).await.is_ok(), "not served after {after}");
    }
}

/// The greeting of ZMTP 3.0 with a mechanism.
fn greeting(mechanism: &str) -> Vec<u8> {
    let mut bytes = vec![0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0x7f, 3, 0];
    bytes.extend_from_slice(mechanism.as_bytes());
    bytes.resize(64, 0);
    bytes
}

/// The READY command of a socket of the given type, under a routing id.
fn ready(socket_type: &str, routing_id: &[u8]) -> Vec<u8> {
    let mut body = b"\x05READY".to_vec();
    for (name, value) in [("Socket-Type", socket_type.as_bytes()), ("Identity", routing_id)] {
        body.push(u8::try_from(name.len()).unwrap());
        body.extend_from_slice(name.as_bytes());
        body.extend_from_slice(&u32::try_from(value.len()).unwrap().to_be_bytes());
        body.extend_from_slice(value);
    }
    let mut command = vec![0x06];
    command.extend_from_slice(&(body.len() as u64).to_be_bytes());
    command.extend_from_slice(&body);
    command
}

/// A short frame.
fn frame(more: bool, body: &[u8]) -> Vec<u8> {
    [&[u8::from(more), u8::try_from(body.len()).unwrap()], body].concat()
}

/// The head of a long frame that claims to have so many bytes.
fn long_frame(bytes: u64) -> Vec<u8> {
    [&[2], &bytes.to_be_bytes()[..]].concat()
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Inputs that stop before, or fail in, ZMTP's handshake.
fn before_the_handshake(rng: &mut fastrand::Rng) -> Vec<(&'static str, Vec<u8>)> {
    let mut random = || (0..1_024).map(|_| rng.u8(..)).collect::<Vec<u8>>();
    let mut inputs = vec![
        ("an HTTP request", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        ("a TLS hello", [&[22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 512]].concat()),
        ("64 KiB of zeros", vec![0; 1 << 16]),
        ("64 KiB of 0xff", vec![0xff; 1 << 16]),
        ("a greeting with an unknown mechanism", greeting("EVIL")),
        ("a greeting with a mechanism that is off", greeting("CURVE")),
        ("a publisher", [greeting("NULL"), ready("PUB", b"")].concat()),
        ("a socket type that does not exist", [greeting("NULL"), ready("", b"")].concat()),
        (
            "a READY whose property is longer than it",
            [greeting("NULL"), b"\x04\x0a\x05READY\x0bSoc".to_vec()].concat(),
        ),
        ("a READY of 1 GiB", [greeting("NULL"), vec![6, 0, 0, 0, 0, 0x40, 0, 0, 0]].concat()),
        // ZMTP 1: a frame's length, its flags, its bytes.
        ("ZMTP 1 with a routing id of its own", b"\x04\x00abc\x06\x00hello".to_vec()),
        ("ZMTP 1 with many frames", [&b"\x04\x00abc"[..], &b"\x02\x01x".repeat(50)].concat()),
    ];
    let whole = [greeting("NULL"), ready("DEALER", b"z")].concat();
    inputs.extend((0..whole.len()).step_by(7).map(|end| ("half a handshake", whole[..end].into())));
    inputs.extend((0..1_000).map(|_| ("1 KiB of random bytes", random())));
    inputs
}

/// What clients that pass ZMTP's handshake and are no nodes send, and under which routing id.
fn after_the_handshake() -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    let foreign_ids = [
        ("no routing id", vec![]),
        ("a routing id that begins with zero", vec![0; 16]),
        ("a routing id of one byte", vec![b'z'; 1]),
        ("a routing id of 255 bytes", vec![b'z'; 255]),
        ("a routing id of 256 bytes", vec![b'z'; 256]),
        ("a routing id of 1,000 bytes", vec![b'z'; 1_000]),
    ];
    let too_large = (1 << 20) + 1;
    let bodies = [
        ("2 frames", [frame(true, b""), frame(false, b"hello")].concat()),
        ("50 frames", [frame(true, b"x").repeat(49), frame(false, b"x")].concat()),
        ("half a frame", vec![0, 200, 1, 2, 3]),
        ("a frame that claims 1 GiB", [long_frame(1 << 30), vec![1; 1_024]].concat()),
        ("a frame that claims 2^63 bytes", long_frame(1 << 63)),
        ("a byte too many", [long_frame(too_large), vec![1; 1 << 20], vec![1]].concat()),
        ("reserved flags and half a frame", vec![0xf8, 2, 1]),
        ("an unknown command", b"\x04\x05\x04EVIL".to_vec()),
        ("a command that is longer than it", b"\x04\x05\xffEVIL".to_vec()),
        ("a long ping", [&[4, 255, 4][..], b"PING\x00\x01", &[9; 248]].concat()),
    ];
    let foreign = foreign_ids.map(|(what, id)| (what, id, frame(false, b"hello")));
    // Every connection under another id, as the listener reads only one of a name.
    let ours = (1..).map(|number| RoutingId::new(Incarnation(666), number).0.to_vec());
    let ours = bodies.into_iter().zip(ours).map(|((what, body), id)| (what, id, body));
    foreign.into_iter().chain(ours).collect()
}

/// Wire inputs 1 to 14 of the list of bad inputs; 15 and 16 are about the envelope.
#[tokio::test]
async fn strangers_neither_stop_nor_reach_nor_bloat_a_listener() {
    check_descriptors();
    let mut target = Target::new();
    target.serves("nothing").await;
    let before = resident_bytes();
    let mut rng = fastrand::Rng::with_seed(1);

    for (what, bytes) in before_the_handshake(&mut rng) {
        Target::throw(target.connect().await, &bytes).await;
        if what != "1 KiB of random bytes" {
            target.serves(what).await;
        }
    }
    target.serves("random bytes").await;
    for (what, id, bytes) in after_the_handshake() {
        Target::throw(target.shake_hands(&id).await, &bytes).await;
        target.serves(what).await;
    }
    assert_eq!(target.foreign, [], "handed up");

    // 200 claims of 1 GiB each, all open at once.
    let id = RoutingId::new(Incarnation(667), 1).0;
    let mut open = Vec::new();
    for _ in 0..200 {
        let mut stream = target.shake_hands(&id).await;
        let bytes = [long_frame(1 << 30), vec![1; 1_024]].concat();
        stream.write_all(&bytes).await.unwrap();
        open.push(stream);
    }
    target.serves("claims of 1 GiB").await;

    // 300 connections that say nothing after the greeting.
    for _ in 0..300 {
        let mut stream = target.connect().await;
        stream.write_all(&greeting("NULL")).await.unwrap();
        open.push(stream);
    }
    target.serves("silence").await;
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < GROWTH_BYTES_MAX, "grew by {grown} bytes");
    drop(open);

    let counters = target.listener.counters();
    assert!(counters.dropped_malformed >= 8, "{counters:?}");
    assert!(counters.handshakes_failed >= 100, "{counters:?}");
    assert!(counters.accepted >= 700, "{counters:?}");
}

/// libzmq keeps the frames of a message until the last has come, and no limit covers that. Once it
/// hands them over, they cost time in small pieces and nothing stays.
#[tokio::test]
async fn message_of_many_frames_is_dropped_without_holding_up_others() {
    let mut target = Target::new();
    let frames = 100_000;
    let id = RoutingId::new(Incarnation(668), 1).0;
    let bomb = [frame(true, b"").repeat(frames), frame(false, b"end")].concat();
    let mut stream = target.shake_hands(&id).await;
    stream.write_all(&bomb).await.unwrap();
    let dropped = async {
        while target.listener.counters().dropped_malformed == 0 {
            target.serves("many frames").await;
        }
    };
    tokio::time::timeout(DEADLINE, dropped).await.expect("the message is dropped");
    // The connection itself is fine, and so is a message of one frame.
    stream.write_all(&frame(false, b"hello")).await.unwrap();
    while target.foreign.is_empty() {
        target.serves("many frames").await;
    }
    assert_eq!(target.foreign, [(RoutingId(id), Bytes::from_static(b"hello"))]);
    assert_eq!(target.listener.counters().dropped_malformed, 1);
}
