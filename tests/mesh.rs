//! Nodes over real sockets, through the public API alone.
//!
//! Nothing waits for a fixed time: every wait is for an event, with a deadline that only a broken
//! node misses. Where the promise is a bound on time, the bound is in the test.
#![expect(clippy::unwrap_used, reason = "a test; the allowance does not reach functions beside it")]

use std::future::IntoFuture;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use zmesh::keys::{AllowList, KeyPair};
use zmesh::presence::{Heartbeat, LeaveReason};
use zmesh::protocol::system::{Labels, RefuseReason};
use zmesh::route::{Choice, Filter};
use zmesh::{
    BoxedOutcome, Builder, Call, Direction, Effect, ErrorCode, Event, Events, HandlerError,
    InvalidMessage, Middleware, Next, Node, Outcome, Peer, RegisterError, RequestError, StartError,
    TickError, WaitError,
};

#[path = "mesh/lives.rs"]
mod lives;

/// What never takes so long unless it is broken.
const DEADLINE: Duration = Duration::from_secs(30);

async fn within<F: IntoFuture>(limit: Duration, future: F) -> F::Output {
    tokio::time::timeout(limit, future.into_future()).await.expect("it takes too long")
}

async fn soon<F: IntoFuture>(future: F) -> F::Output {
    within(DEADLINE, future).await
}

fn describe(id: &str) -> Builder {
    Node::builder(id).bind("tcp://127.0.0.1:0").gossip(false).request_timeout(DEADLINE)
}

fn start(id: &str) -> Node {
    describe(id).start().unwrap()
}

/// A node that has dialed `server`; both know each other when it is returned.
async fn dial(id: &str, server: &Node) -> Node {
    join(describe(id).connect(server.address().unwrap()), server).await
}

async fn join(description: Builder, server: &Node) -> Node {
    let node = description.start().unwrap();
    node.wait_for_peers(&Filter::any().up(), 1, DEADLINE).await.unwrap();
    let id = node.id().clone();
    let is_it = Filter::predicate(move |candidate| *candidate.node == id);
    server.wait_for_peers(&is_it, 1, DEADLINE).await.unwrap();
    node
}

async fn pair() -> (Node, Node) {
    let server = start("server");
    let client = dial("client", &server).await;
    (client, server)
}

async fn next(events: &mut Events, mut wanted: impl FnMut(&Event) -> bool) -> Event {
    soon(async {
        loop {
            match events.next().await {
                Ok(Some(event)) if wanted(&event) => return event,
                Ok(Some(_)) | Err(_) => {}
                Ok(None) => panic!("the events ended"),
            }
        }
    })
    .await
}

async fn echo(_from: Peer, number: u64) -> Result<u64, HandlerError> {
    Ok(number)
}

fn code(error: &RequestError) -> ErrorCode {
    error.code()
}

// ---- requests and ticks ------------------------------------------------------------------------

async fn every_reach() {
    let hub = start("hub");
    let (took, mut taken) = mpsc::unbounded_channel();
    let mut members = Vec::new();
    for (id, role) in [("m1", "math"), ("m2", "math"), ("t1", "text")] {
        let member = join(describe(id).label("role", role).connect(hub.address().unwrap()), &hub);
        let member = member.await;
        let name = id.to_owned();
        let answer = move |_: Peer, (): ()| {
            let name = name.clone();
            async move { Ok::<_, HandlerError>(name) }
        };
        member.on_request("who", answer).unwrap();
        let (name, took) = (id.to_owned(), took.clone());
        member
            .on_tick("news.*", move |from: Peer, text: String| {
                let news = (name.clone(), from.id().to_string(), from.subject().to_owned(), text);
                took.send(news).unwrap();
                async {}
            })
            .unwrap();
        members.push(member);
    }
    let who = soon(hub.request::<_, String>("m2", "who", &())).await.unwrap();
    assert_eq!(who, "m2");
    let math = Filter::label("role", "math");
    let mut turns = Vec::new();
    for _ in 0..4 {
        turns.push(soon(hub.request_any::<_, String>(&math, "who", &())).await.unwrap());
    }
    assert_eq!(turns, ["m1", "m2", "m1", "m2"], "one after the other");
    let all = soon(hub.request_all::<_, String>(&Filter::any(), "who", &())).await.unwrap();
    let all: Vec<(String, String)> =
        all.into_iter().map(|(node, reply)| (node.to_string(), reply.unwrap())).collect();
    let same = |id: &str| (id.to_owned(), id.to_owned());
    assert_eq!(all, [same("m1"), same("m2"), same("t1")]);

    hub.tick("t1", "news.local", "hello").unwrap();
    let news = |to: &str, subject: &str| {
        Some((to.to_owned(), "hub".to_owned(), subject.to_owned(), "hello".to_owned()))
    };
    assert_eq!(soon(taken.recv()).await, news("t1", "news.local"));
    let chosen = hub.tick_any(&math, &Choice::Random, "news.math", "hello").unwrap();
    assert_eq!(soon(taken.recv()).await, news(chosen.as_str(), "news.math"));
    assert_eq!(hub.tick_all(&Filter::any(), "news.world", "hello").unwrap(), 3);
    let mut everybody = Vec::new();
    for _ in 0..3 {
        everybody.push(soon(taken.recv()).await.unwrap().0);
    }
    everybody.sort();
    assert_eq!(everybody, ["m1", "m2", "t1"]);

    // All of them dialed the hub; it dialed nobody.
    let up = soon(hub.request_any::<_, String>(&Filter::any().up(), "who", &())).await;
    assert_eq!(up, Err(RequestError::NoNodesMatchFilter));
    assert!(soon(hub.request_any::<_, String>(&Filter::any().down(), "who", &())).await.is_ok());
    hub.on_request("who", |_: Peer, (): ()| async { Ok::<_, HandlerError>("hub") }).unwrap();
    let up = members[0].request_any::<_, String>(&Filter::any().up(), "who", &());
    assert_eq!(soon(up).await.as_deref(), Ok("hub"));
    let none = TickError::NoNodesMatchFilter;
    assert_eq!(hub.tick_all(&Filter::label("role", "x"), "news.x", &()), Err(none.clone()));
    let chosen = hub.tick_any(&Filter::label("role", "x"), &Choice::RoundRobin, "news.x", &());
    assert_eq!(chosen, Err(none));
    soon(hub.stop()).await;
}

/// Both runtimes that tokio has: the node is a future like any other.
#[tokio::test]
async fn requests_and_ticks_reach_one_any_and_all_on_one_thread() {
    every_reach().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_and_ticks_reach_one_any_and_all_on_many_threads() {
    every_reach().await;
}

/// Whoever is told what went wrong can decide what to do; whoever gets a text cannot.
#[tokio::test]
async fn every_failure_has_its_type() {
    let (client, server) = pair().await;
    let own = ErrorCode::Other(0x8001);
    server
        .on_request("fail", move |_: Peer, (): ()| async move {
            Err::<(), _>(HandlerError::new(own, "not today"))
        })
        .unwrap();
    server.on_request("echo", echo).unwrap();
    server
        .on_request("never", |_: Peer, (): ()| async {
            std::future::pending::<()>().await;
            Ok::<_, HandlerError>(())
        })
        .unwrap();

    let failed = soon(client.request::<_, ()>("server", "fail", &())).await.unwrap_err();
    assert_eq!(failed.to_string(), "server refused with OTHER(32769): not today");
    let no_peer = RequestError::NoPeer { peer: "nobody".to_owned() };
    assert_eq!(soon(client.request::<_, ()>("nobody", "echo", &())).await, Err(no_peer));
    let unhandled = soon(client.request::<_, ()>("server", "unknown", &())).await.unwrap_err();
    assert_eq!(code(&unhandled), ErrorCode::NoHandler);
    let wrong = soon(client.request::<_, u64>("server", "echo", "text")).await.unwrap_err();
    assert_eq!(code(&wrong), ErrorCode::InvalidPayload);
    let raw = soon(client.request_raw("server", "echo", "raw")).await.unwrap_err();
    assert_eq!(code(&raw), ErrorCode::InvalidPayload);
    let reply = soon(client.request::<_, String>("server", "echo", &1_u64)).await.unwrap_err();
    assert!(matches!(reply, RequestError::InvalidReply { .. }), "{reply:?}");
    let after = Duration::from_millis(50);
    let late = soon(client.request::<_, ()>("server", "never", &()).timeout(after)).await;
    let peer = server.id().clone();
    assert_eq!(late, Err(RequestError::Timeout { peer, after }));
    assert_eq!(late.unwrap_err().effect(), Effect::Unknown);
    let system = soon(client.request::<_, ()>("server", "_raft.vote", &())).await;
    let system_subject = InvalidMessage::SystemSubject("_raft.vote".to_owned());
    assert_eq!(system, Err(RequestError::Invalid(system_subject.clone())));
    let system = client.tick("server", "_raft.vote", &());
    assert_eq!(system, Err(TickError::Invalid(system_subject)));

    let handler = |_: Peer, (): ()| async { Ok::<_, HandlerError>(()) };
    let taken = server.on_request("echo", handler).unwrap_err();
    assert!(matches!(taken, RegisterError::Taken(_)), "{taken:?}");
    let system = server.on_request("_raft.>", handler).unwrap_err();
    assert!(matches!(system, RegisterError::System { .. }), "{system:?}");
    let malformed = server.on_request("a..b", handler).unwrap_err();
    assert!(matches!(malformed, RegisterError::Pattern(_)), "{malformed:?}");
    // What belongs to the system is no business of a handler for everything.
    server.on_tick(">", |_: Peer, (): ()| async {}).unwrap();
    assert_eq!(server.status().counters.handler_panics, 0);
}

#[tokio::test]
async fn impossible_options_are_refused_at_the_start() {
    let wrong = |builder: Builder| builder.start().unwrap_err();
    assert!(matches!(wrong(Node::builder("a b")), StartError::Options(_)));
    assert!(matches!(wrong(Node::builder("a").bind("7001")), StartError::Address(_)));
    let open = || Node::builder("a").bind("tcp://0.0.0.0:0");
    assert!(matches!(wrong(open()), StartError::Insecure { .. }));
    assert!(matches!(wrong(open().insecure(true)), StartError::Advertise { .. }));
    let far = || Node::builder("a").connect("tcp://192.0.2.1:1");
    assert!(matches!(wrong(far()), StartError::NotDialed(_)));
    far().insecure(true).start().unwrap();
    let pair = || KeyPair::generate().unwrap();
    for both in [
        open().keys(pair()),
        open().keys(pair()).allow(AllowList::default()).insecure(true),
        Node::builder("a").allow(AllowList::default()),
    ] {
        assert!(matches!(wrong(both), StartError::Options(_)));
    }
    let huge = wrong(Node::builder("a").payload_bytes_max(usize::MAX));
    assert!(huge.to_string().contains("1073741824"), "{huge}");
    let first = start("a");
    let taken = wrong(Node::builder("b").bind(first.address().unwrap()));
    assert!(matches!(taken, StartError::Bind(_)), "{taken:?}");
    let outside = std::thread::spawn(|| Node::builder("a").start().unwrap_err()).join().unwrap();
    assert!(matches!(outside, StartError::NoRuntime));
}

/// Both ends refuse what is over the limit before it is sent, and say what the limit is.
#[tokio::test]
async fn payload_limit_is_named_by_both_sides() {
    let server = describe("server").payload_bytes_max(100).start().unwrap();
    let description = describe("client").payload_bytes_max(100);
    let client = join(description.connect(server.address().unwrap()), &server).await;
    server.on("echo").request_raw(|call: Call| async move { Ok(call.payload) }).unwrap();
    server.on("large").request_raw(|_: Call| async { Ok(vec![0; 101].into()) }).unwrap();
    let exact = soon(client.request_raw("server", "echo", vec![1; 100])).await.unwrap();
    assert_eq!(exact.len(), 100);
    let over = soon(client.request_raw("server", "echo", vec![1; 101])).await.unwrap_err();
    assert_eq!(over, RequestError::Invalid(InvalidMessage::TooLarge { bytes: 101, max: 100 }));
    let over = soon(client.request_raw("server", "large", "")).await.unwrap_err();
    assert_eq!((code(&over), over.effect()), (ErrorCode::HandlerError, Effect::Unknown));
    assert!(over.to_string().contains("limit of 100"), "{over}");
}

// ---- handlers ----------------------------------------------------------------------------------

#[tokio::test]
async fn panic_of_a_handler_fails_its_request_and_nothing_else() {
    let (client, server) = pair().await;
    server
        .on_request("panic", |_: Peer, late: bool| async move {
            if late {
                tokio::task::yield_now().await;
            }
            panic!("on purpose");
            #[expect(unreachable_code, reason = "it gives the handler its type")]
            Ok::<(), HandlerError>(())
        })
        .unwrap();
    let early = |_: Call| -> std::future::Ready<Outcome> { panic!("on purpose") };
    server.on("early").request_call(early).unwrap();
    server.on_request("echo", echo).unwrap();
    for (subject, late) in [("panic", false), ("panic", true), ("early", false)] {
        let error = soon(client.request::<_, ()>("server", subject, &late)).await.unwrap_err();
        assert_eq!(code(&error), ErrorCode::HandlerError);
        assert!(error.to_string().contains("on purpose"), "{error}");
        assert_eq!(soon(client.request("server", "echo", &7_u64)).await, Ok(7_u64));
    }
    // Behind one that waits, it is started by another task.
    let both = ["panic", "early"].map(|subject| client.request::<_, ()>("server", subject, &true));
    let [first, second] = both.map(IntoFuture::into_future);
    assert_eq!(code(&soon(first).await.unwrap_err()), ErrorCode::HandlerError);
    assert_eq!(code(&soon(second).await.unwrap_err()), ErrorCode::HandlerError);
    assert_eq!(soon(client.request("server", "echo", &7_u64)).await, Ok(7_u64));
    assert_eq!(server.status().counters.handler_panics, 5);
}

/// The first message's handler waits; the second message of the same peer has to wait with it,
/// another peer's does not.
#[tokio::test]
async fn messages_are_handled_in_order_for_each_peer_and_side_by_side_across_peers() {
    let server = start("server");
    let (first, second) = (dial("first", &server).await, dial("second", &server).await);
    let release = Arc::new(Notify::new());
    let (began, mut begun) = mpsc::unbounded_channel();
    let gate = Arc::clone(&release);
    server
        .on_request("work", move |from: Peer, number: u64| {
            let gate = Arc::clone(&gate);
            began.send((from.id().to_string(), number)).unwrap();
            async move {
                if number == 1 {
                    gate.notified().await;
                }
                Ok::<_, HandlerError>(number)
            }
        })
        .unwrap();
    let one = tokio::spawn(first.request::<_, u64>("server", "work", &1_u64).into_future());
    assert_eq!(soon(begun.recv()).await, Some(("first".to_owned(), 1)));
    let two = tokio::spawn(first.request::<_, u64>("server", "work", &2_u64).into_future());
    assert_eq!(soon(second.request("server", "work", &3_u64)).await, Ok(3_u64));
    assert_eq!(soon(begun.recv()).await, Some(("second".to_owned(), 3)), "2 waits for 1");
    release.notify_one();
    assert_eq!(soon(one).await.unwrap(), Ok(1));
    assert_eq!(soon(two).await.unwrap(), Ok(2));
}

/// What waits for a slow handler is limited in bytes too: ten thousand messages of the largest size
/// would be 80 GB.
#[tokio::test]
async fn messages_that_wait_for_a_slow_handler_have_a_limit_in_bytes() {
    let server = start("server");
    let client = describe("client").queue(100, 256 * 1024 * 1024);
    let client = join(client.connect(server.address().unwrap()), &server).await;
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    server
        .on("work")
        .request_raw(move |_: Call| {
            let held = Arc::clone(&held);
            async move {
                held.acquire().await.unwrap().forget();
                Ok(Vec::new().into())
            }
        })
        .unwrap();
    let load = bytes::Bytes::from(vec![0; 7 * 1024 * 1024]);
    let mut asked: Vec<_> =
        (0..11).map(|_| client.request_raw("server", "work", load.clone()).into_future()).collect();
    // One runs and nine wait, for 63 of 64 MiB.
    let busy = soon(asked.pop().unwrap()).await.unwrap_err();
    assert_eq!(code(&busy), ErrorCode::Busy);
    gate.add_permits(10);
    for response in asked {
        assert!(soon(response).await.is_ok());
    }
}

#[tokio::test]
async fn concurrent_handler_overlaps_and_refuses_beyond_its_limit() {
    let (client, server) = pair().await;
    let gate = Arc::new(Semaphore::new(0));
    let running = Arc::new(AtomicUsize::new(0));
    let (held, inside) = (Arc::clone(&gate), Arc::clone(&running));
    server
        .on("work")
        .concurrent(2)
        .request(move |_: Peer, (): ()| {
            let (held, inside) = (Arc::clone(&held), Arc::clone(&inside));
            async move {
                inside.fetch_add(1, Ordering::SeqCst);
                held.acquire().await.unwrap().forget();
                Ok::<_, HandlerError>(())
            }
        })
        .unwrap();
    let work = || tokio::spawn(client.request::<_, ()>("server", "work", &()).into_future());
    let waiting = [work(), work()];
    // One link keeps its order: the third arrives when the others run.
    let busy = soon(work()).await.unwrap().unwrap_err();
    assert_eq!(code(&busy), ErrorCode::Busy);
    assert_eq!(running.load(Ordering::SeqCst), 2, "both run at once");
    assert_eq!(server.status().counters.handlers_busy, 1);
    gate.add_permits(3);
    for task in waiting {
        assert_eq!(soon(task).await.unwrap(), Ok(()));
    }
    assert_eq!(soon(work()).await.unwrap(), Ok(()), "there is room again");
}

/// A middleware that does not even return a future.
struct Panicking;

impl Middleware for Panicking {
    fn handle(&self, call: Call, next: Next) -> BoxedOutcome {
        assert_ne!(call.peer.subject(), "panic", "on purpose");
        next.run(call)
    }
}

#[tokio::test]
async fn middleware_wraps_every_handler_from_the_outside_in() {
    let (client, server) = pair().await;
    server.on_request("echo", echo).unwrap();
    server.wrap(Panicking);
    let (saw, mut seen) = mpsc::unbounded_channel();
    for name in ["outer", "inner"] {
        let saw = saw.clone();
        server.wrap(move |call: Call, next: Next| {
            let saw = saw.clone();
            async move {
                saw.send(format!("{name} in")).unwrap();
                if call.peer.subject() == "secret" {
                    return Err(HandlerError::refused("no"));
                }
                let outcome = next.run(call).await;
                saw.send(format!("{name} out")).unwrap();
                outcome
            }
        });
    }
    server.on_request("secret", echo).unwrap();
    server.on_request("panic", echo).unwrap();
    assert_eq!(soon(client.request("server", "echo", &7_u64)).await, Ok(7_u64));
    let order: Vec<String> = std::iter::from_fn(|| seen.try_recv().ok()).collect();
    assert_eq!(order, ["outer in", "inner in", "inner out", "outer out"]);
    let refused = soon(client.request::<_, u64>("server", "secret", &7_u64)).await.unwrap_err();
    assert_eq!(code(&refused), ErrorCode::Refused);
    let panicked = soon(client.request::<_, u64>("server", "panic", &7_u64)).await.unwrap_err();
    assert_eq!(code(&panicked), ErrorCode::HandlerError);
    assert_eq!(soon(client.request("server", "echo", &8_u64)).await, Ok(8_u64));
}

#[tokio::test]
async fn handlers_match_by_pattern_and_can_be_removed() {
    let (client, server) = pair().await;
    server.on_regex("^order\\.[0-9]+$").request(echo).unwrap();
    let exact = server
        .on_request("order.7", |_: Peer, _: u64| async { Ok::<_, HandlerError>(777_u64) })
        .unwrap();
    let ask = |subject: &'static str| soon(client.request::<_, u64>("server", subject, &1_u64));
    assert_eq!(ask("order.8").await, Ok(1));
    assert_eq!(ask("order.7").await, Ok(777), "the exact subject goes first");
    assert_eq!(code(&ask("order.x").await.unwrap_err()), ErrorCode::NoHandler);
    assert_eq!(code(&ask("xorder.8").await.unwrap_err()), ErrorCode::NoHandler, "tied to the ends");
    assert!(server.remove_handler(exact));
    assert!(!server.remove_handler(exact));
    assert_eq!(ask("order.7").await, Ok(1));
}

/// A handler asks a third node, and asks back whom it serves: no wait of one may hold the others.
#[tokio::test]
async fn handler_may_ask_others_and_its_own_sender() {
    let server = start("server");
    let (client, third) = (dial("client", &server).await, dial("third", &server).await);
    third
        .on_request("double", |_: Peer, n: u64| async move { Ok::<_, HandlerError>(2 * n) })
        .unwrap();
    client.on_request("salt", |_: Peer, (): ()| async { Ok::<_, HandlerError>(1_u64) }).unwrap();
    let node = server.clone();
    server
        .on("work")
        .concurrent(8)
        .request(move |from: Peer, number: u64| {
            let node = node.clone();
            async move {
                let failed = |error: RequestError| HandlerError::failed(error.to_string());
                let salt: u64 = node.request(from.id(), "salt", &()).await.map_err(failed)?;
                let double: u64 = node.request("third", "double", &number).await.map_err(failed)?;
                Ok::<_, HandlerError>(double + salt)
            }
        })
        .unwrap();
    let all: Vec<_> =
        (0..20_u64).map(|n| client.request::<_, u64>("server", "work", &n).into_future()).collect();
    let mut served = 0;
    for (number, reply) in (0_u64..).zip(all) {
        match soon(reply).await {
            Ok(result) => {
                assert_eq!(result, 2 * number + 1);
                served += 1;
            }
            Err(error) => assert_eq!(code(&error), ErrorCode::Busy),
        }
    }
    assert!(served >= 8, "{served}");
    // The handler holds a handle of its own node; the end of the node lets go of it.
    soon(server.stop()).await;
}

// ---- events, addresses, labels -----------------------------------------------------------------

#[tokio::test]
async fn slow_subscriber_is_told_what_it_missed_and_events_end_with_the_node() {
    let node = start("node");
    let mut events = node.events();
    // Each choice among nobody is an event; there is room for 1,024.
    for _ in 0..3_000 {
        node.tick_any(&Filter::any(), &Choice::Random, "x", &()).unwrap_err();
    }
    soon(node.stop()).await;
    let mut missed = 0;
    let mut read = 0;
    loop {
        match soon(events.next()).await {
            Ok(Some(_)) => read += 1,
            Ok(None) => break,
            Err(lagged) => missed += lagged.missed,
        }
    }
    assert_eq!(read, 1_024, "what fits is kept");
    assert!(missed >= 3_000 - 1_024, "{missed}");
    assert_eq!(soon(node.events().next()).await, Ok(None), "a stopped node has no more to tell");
}

#[tokio::test]
async fn waiting_for_peers_ends_with_a_reason() {
    let (client, server) = pair().await;
    let after = Duration::from_millis(20);
    let late = soon(server.wait_for_peers(&Filter::any(), 2, after)).await;
    assert_eq!(late, Err(WaitError::Timeout { joined: 1, wanted: 2, after }));
    let any = Filter::any();
    let waiting = server.wait_for_peers(&any, 2, DEADLINE * 2);
    let (waited, ()) = tokio::join!(soon(waiting), async {
        server.stop().await;
    });
    assert_eq!(waited, Err(WaitError::Stopped));
    let again = soon(server.wait_for_peers(&Filter::any(), 2, DEADLINE * 2)).await;
    assert_eq!(again, Err(WaitError::Stopped), "it had stopped before");
    drop(client);
}

/// The same over everything that an address can name.
#[tokio::test]
async fn every_kind_of_address_works_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = format!("ipc://{}", folder.path().join("node.sock").display());
    let mut addresses = vec!["tcp://127.0.0.1:0".to_owned(), path, "inproc://mesh-test".to_owned()];
    if std::net::TcpListener::bind("[::1]:0").is_ok() {
        addresses.push("tcp://[::1]:0".to_owned());
    }
    for address in addresses {
        let server = Node::builder("server").bind(address.as_str()).start().unwrap();
        server.on_request("echo", echo).unwrap();
        let client = Node::builder("client").connect(server.address().unwrap());
        let client = join(client, &server).await;
        assert_eq!(soon(client.request("server", "echo", &1_u64)).await, Ok(1_u64), "{address}");
        let mut events = server.events();
        soon(client.stop()).await;
        let left = next(&mut events, |event| matches!(event, Event::PeerLeft { .. })).await;
        let Event::PeerLeft { reason, .. } = left else { unreachable!() };
        assert_eq!(reason, LeaveReason::Goodbye, "{address}");
        soon(server.stop()).await;
    }
}

#[tokio::test]
async fn labels_change_while_the_node_runs() {
    let (client, server) = pair().await;
    let red = Filter::label("color", "red");
    for (node, other) in [(&client, &server), (&server, &client)] {
        node.set_labels(Labels::from([("color".to_owned(), "red".to_owned())])).unwrap();
        let found = soon(other.wait_for_peers(&red, 1, DEADLINE)).await.unwrap();
        assert_eq!(found, [node.id().clone()]);
    }
}
