//! The smallest program: two nodes, one request.
//!
//! ```text
//! adder says 6
//! ```

#![expect(clippy::print_stdout, reason = "an example shows its result")]

use std::time::Duration;

use zmesh::route::Filter;
use zmesh::{HandlerError, Node, Peer};

async fn sum(_from: Peer, numbers: Vec<u64>) -> Result<u64, HandlerError> {
    Ok(numbers.iter().sum())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let adder = Node::builder("adder").bind("tcp://127.0.0.1:0").start()?;
    adder.on_request("math.sum", sum)?;

    let asker = Node::builder("asker").connect(adder.address().ok_or("not bound")?).start()?;
    asker.wait_for_peers(&Filter::any(), 1, Duration::from_secs(5)).await?;

    let total: u64 = asker.request("adder", "math.sum", &[1_u64, 2, 3]).await?;
    println!("adder says {total}");

    asker.stop().await;
    adder.stop().await;
    Ok(())
}
