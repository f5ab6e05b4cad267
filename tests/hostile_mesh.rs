//! Strangers and bad peers at a running node: whatever they send, it serves its peers, runs no
//! handler that it should not, counts what it drops, and does not grow.
//!
//! The attackers speak ZeroMQ through the bare library, or TCP by hand; they take their envelopes
//! from this crate and then damage them. Each test ends with a message that is valid, so that a
//! node that drops everything fails too.
#![expect(clippy::unwrap_used, reason = "a test; the allowance does not reach functions beside it")]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use zmesh::presence::Identity;
use zmesh::protocol::envelope::{Envelope, Format, Kind, Limits, Outgoing};
use zmesh::protocol::frame::{Envelopes, SHARED_BYTES_MAX};
use zmesh::protocol::system::{
    Greeting, KnownPeer, KnownPeers, Labels, LabelsUpdate, Ping, RefuseReason, System,
};
use zmesh::route::Filter;
use zmesh::transport::RoutingId;
use zmesh::{
    Address, Builder, ErrorCode, HandlerError, Incarnation, Node, NodeId, Peer, RequestId,
};

/// What never takes so long unless it is broken.
const DEADLINE: Duration = Duration::from_secs(30);
/// By how much the process may grow in one test, while others run beside it: far from any size
/// that attackers claim or send.
const GROWTH_BYTES_MAX: u64 = 192 * 1024 * 1024;

/// What the typed handler expects.
#[derive(Debug, Deserialize, Serialize)]
struct Order {
    customer: NodeId,
    text: String,
    count: u32,
    tree: Tree,
}

#[derive(Debug, Deserialize, Serialize)]
enum Tree {
    Leaf,
    Branch(Box<Self>),
}

fn order() -> Order {
    let tree = Tree::Branch(Box::new(Tree::Leaf));
    Order { customer: "ada".parse().unwrap(), text: "tea".to_owned(), count: 3, tree }
}

fn packed<T: Serialize>(value: &T) -> Vec<u8> {
    rmp_serde::to_vec(value).unwrap()
}

/// A node under attack and its legitimate peer.
struct Target {
    node: Node,
    peer: Node,
    /// Orders that reached the handler.
    orders: Arc<AtomicU64>,
    bytes_before: u64,
}

impl Target {
    async fn start() -> Self {
        Self::describe(|builder| builder).await
    }

    async fn describe(change: impl FnOnce(Builder) -> Builder) -> Self {
        let builder = Node::builder("target").bind("tcp://127.0.0.1:0").gossip(false);
        let node = change(builder).start().unwrap();
        let orders = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&orders);
        let take = move |_: Peer, _: Order| {
            counter.fetch_add(1, Ordering::SeqCst);
            async { Ok::<_, HandlerError>(()) }
        };
        node.on_request("order", take).unwrap();
        let counter = Arc::clone(&orders);
        node.on_tick("order", move |_: Peer, _: Order| {
            counter.fetch_add(1, Ordering::SeqCst);
            async {}
        })
        .unwrap();
        node.on_request("echo", |_: Peer, n: u64| async move { Ok::<_, HandlerError>(n) }).unwrap();
        node.on("large").request_raw(|_| async { Ok(vec![0; 16 * 1024].into()) }).unwrap();
        let peer = Node::builder("peer").connect(node.address().unwrap()).start().unwrap();
        peer.wait_for_peers(&Filter::any(), 1, DEADLINE).await.unwrap();
        Self { node, peer, orders, bytes_before: resident_bytes() }
    }

    fn orders(&self) -> u64 {
        self.orders.load(Ordering::SeqCst)
    }

    fn rejected(&self, reason: &str) -> u64 {
        self.node.status().counters.rejected.get(reason).copied().unwrap_or(0)
    }

    fn all_rejected(&self) -> u64 {
        self.node.status().counters.rejected.values().sum()
    }

    /// The legitimate peer is served, and memory is what it was.
    async fn is_well(&self, after: &str) {
        let reply = self.peer.request::<_, u64>("target", "echo", &7_u64).timeout(DEADLINE).await;
        assert_eq!(reply, Ok(7), "after {after}");
        let grown = resident_bytes().saturating_sub(self.bytes_before);
        assert!(grown < GROWTH_BYTES_MAX, "grown by {grown} bytes after {after}");
        assert_eq!(self.node.status().counters.handler_panics, 0, "after {after}");
    }

    fn tcp(&self) -> std::net::TcpStream {
        let Some(Address::Tcp { host, port, .. }) = self.node.address() else { unreachable!() };
        std::net::TcpStream::connect((host.as_str(), *port)).unwrap()
    }
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// A DEALER in wrong hands.
struct Attacker {
    socket: zmq::Socket,
    incarnation: Incarnation,
    target: Incarnation,
    /// Envelopes that came in one frame with those before them.
    received: RefCell<VecDeque<Bytes>>,
    _context: zmq::Context,
}

impl Attacker {
    fn connect(target: &Target, incarnation: u64) -> Self {
        let incarnation = Incarnation(incarnation);
        Self::named(target, &RoutingId::new(incarnation, 1).0, incarnation)
    }

    fn named(target: &Target, routing_id: &[u8], incarnation: Incarnation) -> Self {
        let context = zmq::Context::new();
        let socket = context.socket(zmq::DEALER).unwrap();
        socket.set_linger(0).unwrap();
        socket.set_identity(routing_id).unwrap();
        let deadline = i32::try_from(DEADLINE.as_millis()).unwrap();
        socket.set_rcvtimeo(deadline).unwrap();
        socket.set_sndtimeo(deadline).unwrap();
        socket.set_sndhwm(100_000).unwrap();
        socket.connect(&target.node.address().unwrap().to_string()).unwrap();
        let target = target.node.incarnation();
        Self { socket, incarnation, target, received: RefCell::default(), _context: context }
    }

    /// One that has passed the handshake under the name `id`.
    fn join(target: &Target, id: &str, incarnation: u64) -> Self {
        let attacker = Self::connect(target, incarnation);
        attacker.say(&System::Hello(greeting(id, incarnation)));
        assert!(matches!(attacker.hear(), System::Welcome(_)));
        attacker
    }

    fn send(&self, frame: &[u8]) {
        self.socket.send(frame, 0).unwrap();
    }

    fn receive(&self) -> Envelope {
        let mut received = self.received.borrow_mut();
        if received.is_empty() {
            let frame = Bytes::from(self.socket.recv_bytes(0).expect("an answer in time"));
            received.extend(Envelopes::new(frame));
        }
        let envelope = received.pop_front().expect("a frame has at least one");
        Envelope::decode(&envelope, &Limits::default()).unwrap()
    }

    fn frame(&self, kind: Kind, payload: &[u8], change: impl FnOnce(&mut Outgoing<'_>)) -> Bytes {
        let mut outgoing = Outgoing {
            kind,
            format: Format::MessagePack,
            code: 0,
            sequence: 0,
            request: RequestId::NONE,
            from: self.incarnation,
            to: self.target,
            time_left: None,
            sent_ms: 0,
            subject: "",
            payload,
        };
        change(&mut outgoing);
        outgoing.encode()
    }

    fn request(&self, subject: &'static str, payload: &[u8]) -> Bytes {
        self.frame(Kind::Request, payload, |outgoing| {
            (outgoing.subject, outgoing.request) = (subject, RequestId(7));
        })
    }

    fn say(&self, message: &System) {
        let (kind, payload) = message.encode();
        self.send(&self.frame(kind, &payload, |_| {}));
    }

    fn hear(&self) -> System {
        let envelope = self.receive();
        System::decode(envelope.kind, &envelope.payload).unwrap()
    }

    /// Returns when the target has handled everything that was sent before.
    fn synchronize(&self) {
        self.say(&System::Ping(Ping { number: u64::MAX, revision: 0 }));
        loop {
            let envelope = self.receive();
            if envelope.kind == Kind::Pong {
                let pong = System::decode(envelope.kind, &envelope.payload).unwrap();
                return assert_eq!(pong, System::Pong(Ping { number: u64::MAX, revision: 0 }));
            }
        }
    }
}

fn greeting(id: &str, incarnation: u64) -> Greeting {
    Identity::new("zmesh", id.parse().unwrap(), Incarnation(incarnation)).greeting()
}

/// Inputs 15 and 16: a valid request with any byte of its header flipped, cut at every length, or
/// with something behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_envelopes_are_dropped_and_counted() {
    let target = Target::start().await;
    let attacker = Attacker::join(&target, "attacker", 666);
    let valid = attacker.request("order", &packed(&order()));
    let mut sent = 0;
    for position in 0..valid.len() {
        let mut damaged = valid.to_vec();
        damaged[position] ^= 0x5a;
        attacker.send(&damaged);
        attacker.send(&valid[..position]);
        sent += 2;
    }
    for kind in [0, 10, 15, 20, 255] {
        // A kind that nobody knows, with a checksum that is right.
        let mut unknown = valid.to_vec();
        unknown[3] = kind;
        unknown[8..12].fill(0);
        let checksum = crc32c::crc32c(&unknown).to_le_bytes();
        unknown[8..12].copy_from_slice(&checksum);
        attacker.send(&unknown);
        sent += 1;
    }
    // What has something behind it is a frame of several envelopes if it is small, and nothing else.
    let longer = [&attacker.request("order", &vec![0; SHARED_BYTES_MAX])[..], b"x"].concat();
    attacker.send(&longer);
    sent += 1;
    attacker.synchronize();
    assert_eq!(target.orders(), 0);
    assert_eq!(target.all_rejected(), sent);
    for reason in ["not_an_envelope", "version", "checksum", "length", "truncated"] {
        assert!(target.rejected(reason) > 0, "{reason}");
    }
    assert_eq!(target.rejected("kind"), 5);
    target.is_well("damaged envelopes").await;
    attacker.send(&[&valid[..], b"x"].concat());
    assert_eq!(attacker.receive().kind, Kind::Reply);
    attacker.synchronize();
    assert_eq!((target.orders(), target.all_rejected()), (1, sent + 1), "the rest is dropped");
}

/// Input 10: another node's routing id. Whoever comes second under it is not read, and whoever has
/// it goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routing_id_of_a_peer_gives_nobody_its_place() {
    let target = Target::start().await;
    let victim = Attacker::join(&target, "victim", 666);
    let thief = Attacker::named(&target, &RoutingId::new(Incarnation(666), 1).0, Incarnation(667));
    thief.say(&System::Hello(greeting("thief", 667)));
    thief.say(&System::Goodbye);
    thief.send(&thief.request("order", &packed(&order())));
    victim.synchronize();
    target.is_well("a routing id was taken").await;
    let names: Vec<_> = target.node.peers().iter().map(|peer| peer.node.to_string()).collect();
    assert!(names.contains(&"victim".to_owned()) && !names.contains(&"thief".to_owned()));
    assert_eq!(target.orders(), 0);
    victim.send(&victim.request("order", &packed(&order())));
    assert_eq!(victim.receive().kind, Kind::Reply, "the answer goes to whoever asked");
    assert_eq!(target.orders(), 1);
}

/// Inputs 17 to 23: payloads that would cost a careless decoder its stack or its memory, or that
/// are not what the handler takes. Each is refused by name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_payloads_are_refused_before_the_handler() {
    let target = Target::start().await;
    let attacker = Attacker::join(&target, "attacker", 666);
    let deep = |head: &[u8], times: usize| [head.repeat(times), vec![0xc0]].concat();
    // {"Branch": {"Branch": ...
    let branch = [&[0x81, 0xa6][..], b"Branch"].concat();
    let recursive = [packed(&("ada", "tea", 3))[1..].to_vec(), deep(&branch, 20_000)].concat();
    let claims = |marker: u8| vec![marker, 0xff, 0xff, 0xff, 0xff, 0];
    let nils = [&[0xdd][..], &(7_u32 << 20).to_be_bytes(), &vec![0xc0; 7 << 20]].concat();
    let mut not_utf8 = packed(&order());
    let text = not_utf8.windows(3).position(|bytes| bytes == b"tea").unwrap();
    not_utf8[text] = 0xff;
    let leaf = "Leaf";
    let inputs = [
        ("17 nested arrays", deep(&[0x91], 100_000)),
        ("18 nested enums", [vec![0x94], recursive].concat()),
        ("19 bytes of 4 GiB", claims(0xc6)),
        ("19 text of 4 GiB", claims(0xdb)),
        ("19 array of 4 G", claims(0xdd)),
        ("19 map of 4 G", claims(0xdf)),
        ("20 millions of nil", nils),
        ("21 trailing bytes", [packed(&order()), vec![0]].concat()),
        ("22 text that is not UTF-8", not_utf8),
        ("22 name with NUL", packed(&("a\0b", "tea", 3, leaf))),
        ("22 name that climbs", packed(&("../../etc", "tea", 3, leaf))),
        ("23 NaN", packed(&("ada", "tea", f64::NAN, leaf))),
        ("23 smallest integer", packed(&("ada", "tea", i64::MIN, leaf))),
        ("23 largest integer", packed(&("ada", "tea", u64::MAX, leaf))),
        ("nothing at all", Vec::new()),
        ("unused marker", vec![0xc1]),
    ];
    for (what, payload) in inputs {
        attacker.send(&attacker.request("order", &payload));
        let answer = attacker.receive();
        let code = ErrorCode::from_number(answer.code);
        assert_eq!((answer.kind, code), (Kind::Error, ErrorCode::InvalidPayload), "{what}");
        target.is_well(what).await;
    }
    let raw = attacker.frame(Kind::Request, b"raw", |outgoing| {
        (outgoing.subject, outgoing.request) = ("order", RequestId(8));
        outgoing.format = Format::Raw;
    });
    attacker.send(&raw);
    assert_eq!(ErrorCode::from_number(attacker.receive().code), ErrorCode::InvalidPayload);
    assert_eq!(target.orders(), 0);
    attacker.send(&attacker.request("order", &packed(&order())));
    assert_eq!(attacker.receive().kind, Kind::Reply);
    assert_eq!(target.orders(), 1);
    // A message over the limit ends the connection, and costs nobody else anything.
    attacker.send(&attacker.request("order", &vec![0xc0; 16 << 20]));
    target.is_well("a message over the limit").await;
    assert_eq!(target.orders(), 1);
}

/// Input 24: replies that nobody asked for, twice, and too late.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_count_once_and_only_for_what_was_asked() {
    let target = Target::start().await;
    let attacker = Attacker::join(&target, "attacker", 666);
    let reply = |request: RequestId, payload: &[u8]| {
        attacker.send(&attacker.frame(Kind::Reply, payload, |outgoing| outgoing.request = request));
    };
    for unknown in [1, 2, u64::MAX] {
        reply(RequestId(unknown), b"\x07");
    }
    attacker.synchronize();
    assert_eq!(target.node.status().counters.late_replies, 3);
    let node = target.node.clone();
    let asked = tokio::spawn(async move {
        node.request::<_, u64>("attacker", "x", &()).timeout(DEADLINE).await
    });
    let request = attacker.receive();
    assert_eq!((request.kind, request.from), (Kind::Request, attacker.target));
    reply(request.request, b"\x07");
    reply(request.request, b"\x08");
    assert_eq!(asked.await.unwrap(), Ok(7), "the first counts");
    attacker.synchronize();
    assert_eq!(target.node.status().counters.late_replies, 4);
    let short = Duration::from_millis(10);
    let late = target.node.request::<_, u64>("attacker", "x", &()).timeout(short).await;
    assert_eq!(late.unwrap_err().code(), ErrorCode::RequestTimeout);
    reply(attacker.receive().request, b"\x09");
    attacker.synchronize();
    assert_eq!(target.node.status().counters.late_replies, 5);
    target.is_well("replies").await;
}

/// Inputs 25 to 27 and 31: nobody is anybody before the handshake, and a name is taken once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_has_joined_is_served() {
    let target = Target::start().await;
    let stranger = Attacker::connect(&target, 667);
    stranger.send(&stranger.request("order", &packed(&order())));
    let answer = stranger.receive();
    let code = ErrorCode::from_number(answer.code);
    assert_eq!((answer.kind, code), (Kind::Error, ErrorCode::ProtocolNotReady));
    assert_eq!(stranger.hear(), System::HelloAgain);
    let tick = stranger.frame(Kind::Tick, &packed(&order()), |out| out.subject = "order");
    stranger.send(&tick);
    // Another's name, the target's own, another cluster, another version.
    let own = target.node.incarnation().0;
    for (hello, reason) in [
        (greeting("peer", 667), RefuseReason::DuplicateId),
        (greeting("target", 667), RefuseReason::DuplicateId),
        (Greeting { cluster: "other".into(), ..greeting("x", 667) }, RefuseReason::Cluster),
        (Greeting { version: 255, ..greeting("x", 667) }, RefuseReason::Version),
    ] {
        stranger.say(&System::Hello(hello));
        let System::Refuse(refusal) = stranger.hear() else { panic!("{reason:?}") };
        assert_eq!(refusal.reason, reason);
    }
    let itself = Attacker::connect(&target, own);
    itself.say(&System::Hello(greeting("target", own)));
    let System::Refuse(refusal) = itself.hear() else { panic!("its own incarnation") };
    assert_eq!(refusal.reason, RefuseReason::Itself);
    assert_eq!(target.rejected("not_joined"), 2);
    assert_eq!(target.orders(), 0);

    // Twice the same greeting is once the same peer.
    let member = Attacker::join(&target, "member", 668);
    member.say(&System::Hello(greeting("member", 668)));
    assert!(matches!(member.hear(), System::Welcome(_)));
    assert_eq!(target.node.peers().len(), 2);
    let captured = member.request("order", &packed(&order()));
    member.send(&captured);
    assert_eq!(member.receive().kind, Kind::Reply);
    assert_eq!(target.orders(), 1);
    // What was captured is worth nothing on another connection, joined or not.
    stranger.send(&captured);
    assert_eq!(stranger.receive().kind, Kind::Error);
    let other = Attacker::join(&target, "other", 669);
    other.send(&captured);
    let answer = other.receive();
    let code = ErrorCode::from_number(answer.code);
    assert_eq!((answer.kind, code), (Kind::Error, ErrorCode::ProtocolNotReady));
    assert_eq!(target.orders(), 1);
    // On the same connection it is one more request: the mesh promises at most once for each
    // sending, and leaves repetition to those who number their requests (`replica` does).
    member.send(&captured);
    assert_eq!(member.receive().kind, Kind::Reply);
    assert_eq!(target.orders(), 2);
    target.is_well("handshakes").await;
}

/// System messages over their limits, or from the wrong side, change nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn system_messages_beyond_their_limits_are_dropped() {
    let target = Target::start().await;
    let attacker = Attacker::join(&target, "attacker", 666);
    let known = KnownPeer {
        node: "ghost".parse().unwrap(),
        incarnation: Incarnation(1),
        address: "tcp://127.0.0.1:9".parse().unwrap(),
    };
    attacker.say(&System::Peers(KnownPeers { peers: vec![known.clone(); 20_000] }));
    let labels = |count: usize, bytes: usize| -> Labels {
        (0..count).map(|number| (number.to_string(), "x".repeat(bytes))).collect()
    };
    for (revision, labels) in [(1, labels(65, 1)), (2, labels(1, 257)), (3, labels(60_000, 1))] {
        attacker.say(&System::Labels(LabelsUpdate { revision, labels }));
    }
    attacker.synchronize();
    assert_eq!(target.rejected("system_payload"), 4);
    // What only a server says.
    attacker.say(&System::Welcome(greeting("x", 666)));
    attacker.say(&System::HelloAgain);
    attacker.say(&System::Pong(Ping { number: 1, revision: 0 }));
    // Goodbye in another's name.
    let goodbye = attacker.frame(Kind::Goodbye, b"", |out| out.from = target.peer.incarnation());
    attacker.send(&goodbye);
    attacker.synchronize();
    assert_eq!(target.node.peers().len(), 2, "nobody joined, nobody left");
    let labels = Labels::from([("color".to_owned(), "red".to_owned())]);
    attacker.say(&System::Labels(LabelsUpdate { revision: 1, labels }));
    attacker.synchronize();
    let red = Filter::label("color", "red");
    target.node.wait_for_peers(&red, 1, DEADLINE).await.unwrap();
    target.is_well("system messages").await;
}

/// Input 32: ten thousand requests for large replies, none of which is read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requester_that_does_not_read_is_cut_short_alone() {
    let target = Target::describe(|builder| builder.queue(100, 1024 * 1024)).await;
    let attacker = Attacker::join(&target, "attacker", 666);
    let request = attacker.frame(Kind::Request, b"", |outgoing| {
        (outgoing.subject, outgoing.request) = ("large", RequestId(7));
        outgoing.format = Format::Raw;
    });
    for number in 0..10_000 {
        attacker.send(&request);
        if number % 1_000 == 0 {
            target.is_well("a thousand unread replies").await;
        }
    }
    let received = || target.node.status().counters.received;
    tokio::time::timeout(DEADLINE, async {
        while received() < 10_000 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("all requests are taken in");
    target.is_well("ten thousand unread replies").await;
    // Some thousands fit into the sockets; the rest had nowhere to go.
    assert!(target.node.status().counters.replies_dropped_full > 1_000);
    let waiting = target.node.peers().iter().map(|peer| peer.queued).max();
    assert!(waiting <= Some(100), "{waiting:?}");
}

/// The wire garbage of the transport's own test, in brief: the node above it is as unmoved.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_node_reaches_nothing() {
    let target = Target::start().await;
    let mut rng = fastrand::Rng::with_seed(7);
    let random = std::iter::repeat_with(|| rng.u8(..)).take(64 * 1024).collect::<Vec<u8>>();
    let greeting = [&[0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0x7f, 3, 0][..], b"EVIL", &[0; 48]].concat();
    let huge = [&greeting[..], &[0x02, 0, 0, 0, 0, 0x40, 0, 0, 0, 0]].concat();
    let inputs: [(&str, &[u8]); 7] = [
        ("HTTP", b"GET / HTTP/1.1\r\nHost: target\r\n\r\n"),
        ("TLS", &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]),
        ("noise", &random),
        ("zeros", &[0; 64 * 1024]),
        ("ones", &[0xff; 64 * 1024]),
        ("unknown mechanism", &greeting),
        ("frame of a gigabyte", &huge),
    ];
    let mut silent = Vec::new();
    for (what, bytes) in inputs {
        for _ in 0..10 {
            let mut stream = target.tcp();
            stream.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
            // The node may close the connection at any byte.
            let _ = stream.write_all(bytes);
            let _ = stream.read(&mut [0; 64]);
            silent.push(stream);
        }
        target.is_well(what).await;
    }
    // Through the library: names of another shape, and other numbers of frames.
    let failed = target.node.status().transport.handshakes_failed;
    let foreign = Attacker::named(&target, b"somebody", Incarnation(666));
    foreign.say(&System::Hello(self::greeting("x", 666)));
    let attacker = Attacker::join(&target, "attacker", 667);
    let valid = attacker.request("order", &packed(&order()));
    for frames in [2, 3, 50] {
        attacker.socket.send_multipart(vec![&valid[..]; frames], 0).unwrap();
    }
    attacker.send(b"");
    attacker.synchronize();
    // A transport that sees names in the handshake ends that; another drops what comes by them.
    let dropped = || {
        let transport = target.node.status().transport;
        transport.dropped_malformed + (transport.handshakes_failed - failed).min(1)
    };
    tokio::time::timeout(DEADLINE, async {
        while dropped() < 4 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("three messages of many frames and a foreign name are counted");
    assert_eq!(target.rejected("not_an_envelope"), 1, "the empty frame");
    assert_eq!(target.orders(), 0);
    assert_eq!(target.node.peers().len(), 2);
    attacker.send(&valid);
    assert_eq!(attacker.receive().kind, Kind::Reply);
    assert_eq!(target.orders(), 1);
    target.is_well("garbage").await;
}
