//! Fire and forget: one-way messages, in order, with no reply to wait for.
//!
//! ```text
//! cpu of web-1: 10 %
//! cpu of web-1: 20 %
//! cpu of web-1: 30 %
//! a tick to nobody: nobody has not joined
//! ```

#![expect(clippy::print_stdout, reason = "an example shows its result")]

use std::time::Duration;

use tokio::sync::mpsc;
use zmesh::route::Filter;
use zmesh::{Node, Peer};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (samples, mut received) = mpsc::unbounded_channel();
    let collector = Node::builder("collector").bind("tcp://127.0.0.1:0").start()?;
    collector.on_tick("metrics.cpu", move |from: Peer, percent: u32| {
        let sent = samples.send((from.id().clone(), percent));
        async move { sent.expect("main waits for three") }
    })?;

    let web = Node::builder("web-1").connect(collector.address().ok_or("not bound")?).start()?;
    web.wait_for_peers(&Filter::any(), 1, Duration::from_secs(5)).await?;

    for percent in [10_u32, 20, 30] {
        web.tick("collector", "metrics.cpu", &percent)?;
    }
    for _ in 0..3 {
        let (node, percent) = received.recv().await.ok_or("the collector is gone")?;
        println!("cpu of {node}: {percent} %");
    }
    // A tick has no reply, but it is never silently sent to nowhere.
    if let Err(error) = web.tick("nobody", "metrics.cpu", &0) {
        println!("a tick to nobody: {error}");
    }

    web.stop().await;
    collector.stop().await;
    Ok(())
}
