//! Nodes that come, go, die, stall and take each other's names.

use tokio::runtime::Runtime;
use zmesh::Address;
use zmesh::client::ClientEvent;

use super::*;

/// Quick enough for a test, slow enough for a machine that does other things too.
fn quick() -> Heartbeat {
    Heartbeat {
        ping_interval: Duration::from_millis(250),
        health_check_interval: Duration::from_millis(250),
        ghost_timeout: Duration::from_millis(1_500),
        handshake_timeout: Duration::from_secs(2),
    }
}

/// A node with a runtime of its own, so that it can die without a goodbye.
struct Process {
    runtime: Runtime,
    node: Node,
}

impl Process {
    fn start(description: Builder) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap();
        let guard = runtime.enter();
        let node = description.start().unwrap();
        drop(guard);
        Self { runtime, node }
    }

    /// Its sockets are closed, and it says nothing. Returns the handle, which outlives it.
    fn kill(self) -> Node {
        self.runtime.shutdown_background();
        self.node
    }
}

/// A node that has joined a peer and then stops running, with its sockets open. Ends when it is
/// dropped.
struct Stalled {
    address: Address,
    joined: oneshot::Receiver<()>,
    _release: std::sync::mpsc::Sender<()>,
}

impl Stalled {
    /// One that has dialed `server` and stands still.
    async fn join(id: &'static str, server: &Node) -> Self {
        let mut stalled = Self::start(describe(id).connect(server.address().unwrap())).await;
        soon(&mut stalled.joined).await.unwrap();
        stalled
    }

    /// One that stands still as soon as it has a peer.
    async fn start(description: Builder) -> Self {
        let (release, released) = std::sync::mpsc::channel::<()>();
        let (listen, listening) = oneshot::channel();
        let (join, joined) = oneshot::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let node = description.start().unwrap();
                listen.send(node.address().unwrap().clone()).unwrap();
                node.wait_for_peers(&Filter::any(), 1, DEADLINE).await.unwrap();
                join.send(()).unwrap();
                // Holds the only thread that the node runs on.
                let _ = released.recv();
            });
        });
        Self { address: soon(listening).await.unwrap(), joined, _release: release }
    }
}

async fn left(events: &mut Events) -> (String, Direction, LeaveReason) {
    let event = next(events, |event| matches!(event, Event::PeerLeft { .. })).await;
    let Event::PeerLeft { peer, direction, reason, .. } = event else { unreachable!() };
    (peer.to_string(), direction, reason)
}

/// Who dialed notices the end of a process by its connection: at once, requests included.
#[tokio::test]
async fn dead_server_is_noticed_at_once() {
    let server = Process::start(describe("server"));
    let arrived = Arc::new(Notify::new());
    let arrives = Arc::clone(&arrived);
    let never = move |_: Peer, (): ()| {
        arrives.notify_one();
        std::future::pending::<Result<(), HandlerError>>()
    };
    server.node.on_request("never", never).unwrap();
    let client = dial("client", &server.node).await;
    let mut events = client.events();
    let asked = tokio::spawn(client.request::<_, ()>("server", "never", &()).into_future());
    soon(arrived.notified()).await;
    let killed = Instant::now();
    let corpse = server.kill();
    let gone = ("server".to_owned(), Direction::Upstream, LeaveReason::ConnectionLost);
    assert_eq!(left(&mut events).await, gone);
    // Sooner than the transport's heartbeat could tell.
    assert!(killed.elapsed() < Duration::from_secs(2), "{:?}", killed.elapsed());
    let lost = RequestError::PeerLost { peer: corpse.id().clone() };
    assert_eq!(soon(asked).await.unwrap(), Err(lost));
    let error = soon(corpse.request::<_, ()>("client", "x", &())).await.unwrap_err();
    assert_eq!(error, RequestError::Stopped, "handles of a dead node say so");
    soon(corpse.stop()).await;
}

/// Who was dialed gets no sign, so silence has to do; and nobody else is affected.
#[tokio::test]
async fn dead_client_is_a_ghost_after_the_timeout() {
    let server = describe("server").heartbeat(quick()).start().unwrap();
    // It does not listen, so that the server has nothing to tell others about it, and to no one
    // anything to send: a message that cannot be delivered would end it sooner.
    let silent = |id: &str| Node::builder(id).heartbeat(quick());
    let dead = Process::start(silent("dead").connect(server.address().unwrap()));
    server.wait_for_peers(&Filter::any(), 1, DEADLINE).await.unwrap();
    let _alive = join(silent("alive").connect(server.address().unwrap()), &server).await;
    let mut events = server.events();
    let killed = Instant::now();
    // Its handle says goodbye when it is dropped, if its runtime still runs.
    let _corpse = dead.kill();
    let gone = ("dead".to_owned(), Direction::Downstream, LeaveReason::Ghost);
    assert_eq!(left(&mut events).await, gone);
    // Its last ping was at most one interval before its death.
    assert!(killed.elapsed() > Duration::from_millis(1_200), "{:?}", killed.elapsed());
    assert_eq!(server.peers().len(), 1);
}

/// A process that is started again has a new incarnation and its old name.
#[tokio::test]
async fn restarted_client_takes_its_name_back() {
    let server = describe("server").heartbeat(quick()).start().unwrap();
    let client = || describe("client").heartbeat(quick()).connect(server.address().unwrap());
    let first = Process::start(client());
    server.wait_for_peers(&Filter::any(), 1, DEADLINE).await.unwrap();
    let mut events = server.events();
    let _first = first.kill();
    let second = client().start().unwrap();
    soon(async {
        while let Ok(Some(peer)) = events.next_joined().await {
            if peer.incarnation == second.incarnation() {
                break;
            }
        }
    })
    .await;
    server.on_request("echo", echo).unwrap();
    second.wait_for_peers(&Filter::any(), 1, DEADLINE).await.unwrap();
    assert_eq!(soon(second.request("server", "echo", &1_u64)).await, Ok(1_u64));
}

async fn refusal(node: &Node) -> RefuseReason {
    let mut events = node.events();
    let refused =
        |event: &Event| matches!(event, Event::Client { event: ClientEvent::Refused { .. }, .. });
    let event = next(&mut events, refused).await;
    let Event::Client { event: ClientEvent::Refused { reason }, .. } = event else {
        panic!("{event:?}");
    };
    reason
}

#[tokio::test]
async fn namesakes_and_other_clusters_are_refused() {
    let (client, server) = pair().await;
    let address = server.address().unwrap();
    let namesake = describe("client").connect(address).start().unwrap();
    assert_eq!(refusal(&namesake).await, RefuseReason::DuplicateId);
    let foreign = describe("foreign").cluster("other").connect(address).start().unwrap();
    assert_eq!(refusal(&foreign).await, RefuseReason::Cluster);
    let itself = describe("server").connect(address).start().unwrap();
    assert_eq!(refusal(&itself).await, RefuseReason::DuplicateId);
    server.on_request("echo", echo).unwrap();
    assert_eq!(soon(client.request("server", "echo", &1_u64)).await, Ok(1_u64), "unharmed");
    assert_eq!(server.peers().len(), 1);
    assert_eq!(server.peers()[0].incarnation, client.incarnation());
}

/// The link comes back by itself, and the new server is a new incarnation of the same peer.
#[tokio::test]
async fn client_reconnects_when_its_server_is_started_again() {
    let first = Process::start(describe("server"));
    let address = first.node.address().unwrap().clone();
    let client = dial("client", &first.node).await;
    let mut events = client.events();
    let _first = first.kill();
    left(&mut events).await;
    let second = soon(async {
        loop {
            // The system may take a moment to free the address.
            match Node::builder("server").bind(&address).start() {
                Ok(node) => return node,
                Err(StartError::Bind(_)) => tokio::task::yield_now().await,
                Err(other) => panic!("{other}"),
            }
        }
    })
    .await;
    second.on_request("echo", echo).unwrap();
    let joined = soon(events.next_joined()).await.unwrap().unwrap();
    assert_eq!(joined.incarnation, second.incarnation());
    assert_eq!(soon(client.request("server", "echo", &1_u64)).await, Ok(1_u64));
}

/// The last handle is the node's owner; those who hold a request or events are not.
#[tokio::test]
async fn dropping_the_last_handle_stops_the_node() {
    let (client, server) = pair().await;
    let mut events = server.events();
    let mut own = client.events();
    drop(client.clone());
    server.on_request("echo", echo).unwrap();
    assert_eq!(soon(client.request("server", "echo", &1_u64)).await, Ok(1_u64), "one is left");
    drop(client);
    let gone = ("client".to_owned(), Direction::Downstream, LeaveReason::Goodbye);
    assert_eq!(left(&mut events).await, gone);
    next(&mut own, |event| *event == Event::Stopped).await;
    assert_eq!(soon(own.next()).await, Ok(None));
}

/// Handlers often hold a handle of their node; the end of the node must end that circle.
#[tokio::test]
async fn stopped_node_lets_go_of_its_handlers() {
    let node = start("node");
    let held = Arc::new(());
    let (inner, weak) = (node.clone(), Arc::downgrade(&held));
    node.on_tick("x", move |_: Peer, (): ()| {
        let _uses = (&inner, &held);
        async {}
    })
    .unwrap();
    soon(node.stop()).await;
    assert!(weak.upgrade().is_none());
    // A runtime that ends right after the start leaves nobody waiting and nothing broken.
    let description = describe("short").connect("tcp://127.0.0.1:9");
    let short = Process::start(description).kill();
    soon(short.stop()).await;
}

/// Goodbyes cannot be forced upon a peer that does not read.
#[tokio::test]
async fn stop_takes_at_most_two_seconds_whatever_a_peer_does() {
    let server = start("server");
    let _stalled = Stalled::join("stalled", &server).await;
    soon(server.wait_for_peers(&Filter::any(), 1, DEADLINE)).await.unwrap();
    let load = vec![0; 16 * 1024];
    soon(async {
        while server.tick_raw("stalled", "load", load.clone()).is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let began = Instant::now();
    soon(server.stop()).await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

/// Nothing else wakes the node: its next ping is ten seconds away.
#[tokio::test]
async fn request_on_a_link_that_is_full_times_out_in_time() {
    let stalled = Stalled::start(describe("stalled")).await;
    let client = describe("client").heartbeat(Heartbeat::efficient()).connect(&stalled.address);
    let client = client.start().unwrap();
    client.wait_for_peers(&Filter::any(), 1, DEADLINE).await.unwrap();
    soon(stalled.joined).await.unwrap();
    let load = vec![0; 16 * 1024];
    let waiting = || client.peers().first().map_or(0, |peer| peer.queued);
    soon(async {
        let mut seen = 0;
        // The queue grows over many turns of the driver: the transport takes no more.
        while seen < 20 {
            client.tick_raw("stalled", "load", load.clone()).ok();
            tokio::task::yield_now().await;
            seen = if waiting() > 4 { seen + 1 } else { 0 };
        }
    })
    .await;
    let after = Duration::from_millis(100);
    let began = Instant::now();
    let late = soon(client.request_raw("stalled", "x", "").timeout(after)).await.unwrap_err();
    assert_eq!(code(&late), ErrorCode::RequestTimeout, "{late:?}");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

/// More than a hundred clients of one node, one of which stalls after the handshake.
#[tokio::test]
async fn hundred_clients_are_served_beside_one_that_stalls() {
    const CLIENTS: usize = 105;
    zmesh::transport::zmq::check_descriptors();
    let server = start("server");
    server.on_request("echo", echo).unwrap();
    let _stalled = Stalled::join("stalled", &server).await;
    let start_one = |number: usize| {
        let id = format!("client-{number}");
        Node::builder(id).gossip(false).request_timeout(DEADLINE).connect(server.address().unwrap())
    };
    let clients: Vec<Node> =
        (0..CLIENTS).map(|number| start_one(number).start().unwrap()).collect();
    soon(server.wait_for_peers(&Filter::any(), CLIENTS + 1, DEADLINE)).await.unwrap();
    // What waits for the stalled one is its own trouble.
    while server.tick_raw("stalled", "load", vec![0; 16 * 1024]).is_ok() {}
    let (done, mut finished) = mpsc::unbounded_channel();
    for (number, client) in (0_u64..).zip(clients) {
        let done = done.clone();
        tokio::spawn(async move {
            client.wait_for_peers(&Filter::any(), 1, DEADLINE).await.unwrap();
            for round in 0..10 {
                let sent = 100 * number + round;
                assert_eq!(client.request("server", "echo", &sent).await, Ok(sent));
            }
            done.send(client).unwrap();
        });
    }
    drop(done);
    let mut served = Vec::new();
    while let Some(client) = soon(finished.recv()).await {
        served.push(client);
    }
    assert_eq!(served.len(), CLIENTS, "a client failed");
}
