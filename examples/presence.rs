//! Presence: who joins, who says goodbye, and who falls silent.
//!
//! A ghost is a peer whose process is gone or stuck without a goodbye. Here a thread that stops
//! running its node plays that part.
//!
//! ```text
//! joined: polite (downstream), role=guest
//! left: polite (downstream), goodbye
//! joined: ghost (downstream), role=guest
//! left: ghost (downstream), ghost
//! ```

#![expect(clippy::print_stdout, reason = "an example shows its result")]

use std::time::Duration;

use zmesh::presence::Heartbeat;
use zmesh::{Address, Direction, Event, Events, Node};

fn guest(id: &str, host: &Address) -> Node {
    Node::builder(id).label("role", "guest").connect(host).start().expect("a valid description")
}

/// Prints what the host sees until a peer has left.
async fn watch(events: &mut Events) -> Result<(), Box<dyn std::error::Error>> {
    while let Some(event) = events.next().await? {
        if let Event::PeerJoined { peer, direction: Direction::Downstream } = &event {
            println!("joined: {} (downstream), role={}", peer.node, peer.labels["role"]);
        }
        if let Event::PeerLeft { peer, direction: Direction::Downstream, reason, .. } = &event {
            println!("left: {peer} (downstream), {reason}");
            break;
        }
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Quick for an example: ping every 100 ms, a ghost after 500 ms of silence.
    let heartbeat = Heartbeat {
        ping_interval: Duration::from_millis(100),
        health_check_interval: Duration::from_millis(100),
        ghost_timeout: Duration::from_millis(500),
        ..Heartbeat::low_latency()
    };
    let host = Node::builder("host").bind("tcp://127.0.0.1:0").heartbeat(heartbeat).start()?;
    let address = host.address().ok_or("not bound")?.clone();
    let mut events = host.events();

    let polite = guest("polite", &address);
    let mut own = polite.events();
    own.next_joined().await?;
    polite.stop().await;
    watch(&mut events).await?;

    // A runtime of its own that stops being run: its sockets stay open, and nobody answers.
    let (joined, mut has_joined) = tokio::sync::mpsc::channel::<()>(1);
    let (_release, released) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let ghost = guest("ghost", &address);
            let mut own = ghost.events();
            own.next_joined().await.ok();
            drop(joined);
            // Blocks the only thread of the runtime.
            released.recv().ok();
        });
    });
    has_joined.recv().await;
    watch(&mut events).await?;
    Ok(())
}
