//! Nodes with either transport, in all four combinations, through the public API alone.
#![expect(clippy::unwrap_used, reason = "a test; the allowance does not reach functions beside it")]

use std::time::Duration;

use zmesh::presence::LeaveReason;
use zmesh::route::Filter;
use zmesh::transport::Kind;
use zmesh::{Builder, Event, HandlerError, Node, Peer};

/// What never takes so long unless it is broken.
const DEADLINE: Duration = Duration::from_secs(30);

const KINDS: [Kind; 2] = [Kind::Libzmq, Kind::Native];

fn describe(id: &str, kind: Kind) -> Builder {
    Node::builder(id).transport_kind(kind).gossip(false).request_timeout(DEADLINE)
}

async fn echo(_from: Peer, text: String) -> Result<String, HandlerError> {
    Ok(text)
}

/// A server, and a client that has dialed it.
async fn pair(server: Kind, client: Kind) -> (Node, Node) {
    let server = describe("server", server).bind("tcp://127.0.0.1:0").start().unwrap();
    server.on_request("echo", echo).unwrap();
    let client = describe("client", client).connect(server.address().unwrap()).start().unwrap();
    client.wait_for_peers(&Filter::any().up(), 1, DEADLINE).await.unwrap();
    (server, client)
}

/// Whoever runs which transport, a mesh is one mesh.
#[tokio::test]
async fn requests_are_answered_between_all_transports() {
    for server in KINDS {
        for client in KINDS {
            let (_server, client) = pair(server, client).await;
            for bytes in [0_usize, 64, 1_024, 100_000, 4 << 20] {
                let sent = "x".repeat(bytes);
                let reply: String = client.request("server", "echo", &sent).await.unwrap();
                assert!(reply == sent, "{bytes} bytes between {client:?}");
            }
        }
    }
}

/// A peer that vanishes without a goodbye is noticed by its connection, not by its silence.
#[tokio::test]
async fn a_lost_server_is_noticed_at_once() {
    for server in KINDS {
        for client in KINDS {
            let thread = tokio::runtime::Runtime::new().unwrap();
            let lost = thread.spawn(async move {
                let node = describe("server", server).bind("tcp://127.0.0.1:0").start().unwrap();
                (node.address().unwrap().clone(), node)
            });
            let (address, _node) = lost.await.unwrap();
            let client = describe("client", client).connect(address).start().unwrap();
            client.wait_for_peers(&Filter::any().up(), 1, DEADLINE).await.unwrap();
            let mut events = client.events();
            thread.shutdown_background();
            let left = tokio::time::timeout(Duration::from_secs(2), async {
                loop {
                    if let Ok(Some(Event::PeerLeft { reason, .. })) = events.next().await {
                        return reason;
                    }
                }
            });
            // Sooner than any heartbeat could tell.
            let reason = left.await.expect("it is noticed at once");
            assert_eq!(reason, LeaveReason::ConnectionLost);
        }
    }
}

/// What was sent before a node stops still arrives, and then that it has stopped: nothing may be
/// left in the buffers of a transport that is dropped.
#[tokio::test]
async fn what_a_stopping_node_sent_arrives_before_its_goodbye() {
    const TICKS: u64 = 1_000;
    for server in KINDS {
        for client in KINDS {
            let (server, client) = pair(server, client).await;
            let (sender, mut ticks) = tokio::sync::mpsc::unbounded_channel();
            let count = move |_from: Peer, number: u64| {
                // After the test nobody takes them any more.
                let _ = sender.send(number);
                async {}
            };
            server.on_tick("count", count).unwrap();
            let mut events = server.events();
            (0..TICKS).for_each(|number| client.tick("server", "count", &number).unwrap());
            client.stop().await;
            let left = tokio::time::timeout(DEADLINE, async {
                loop {
                    if let Ok(Some(Event::PeerLeft { reason, .. })) = events.next().await {
                        return reason;
                    }
                }
            });
            assert_eq!(left.await.expect("it leaves"), LeaveReason::Goodbye);
            let arrived: Vec<u64> = std::iter::from_fn(|| ticks.try_recv().ok()).collect();
            assert_eq!(arrived, Vec::from_iter(0..TICKS));
        }
    }
}
