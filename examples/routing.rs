//! By id, to any, to all: who gets a message is decided by the labels that peers announce.
//!
//! ```text
//! by id: math-2 in zone b
//! any two with role math: math-1, math-2
//! all with 8 cores or more: math-2, store-1
//! nobody matches: no joined peer matches the filter
//! ```

#![expect(clippy::print_stdout, reason = "an example shows its result")]

use std::time::Duration;

use zmesh::route::Filter;
use zmesh::{HandlerError, Node, Peer, RequestError};

fn worker(id: &'static str, role: &str, zone: &'static str, cores: &str) -> Node {
    let node = Node::builder(id)
        .bind("tcp://127.0.0.1:0")
        .label("role", role)
        .label("cores", cores)
        .start()
        .expect("a free port");
    node.on_request("whoami", move |_from: Peer, (): ()| async move {
        Ok::<_, HandlerError>(format!("{id} in zone {zone}"))
    })
    .expect("a valid pattern");
    node
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let workers = [
        worker("math-1", "math", "a", "4"),
        worker("math-2", "math", "b", "16"),
        worker("store-1", "store", "a", "8"),
    ];
    let asker = Node::builder("asker").start()?;
    for worker in &workers {
        asker.connect(worker.address().ok_or("not bound")?.clone())?;
    }
    asker.wait_for_peers(&Filter::any(), 3, Duration::from_secs(5)).await?;

    let one: String = asker.request("math-2", "whoami", &()).await?;
    println!("by id: {one}");

    // Round robin is the default choice; Request::choose has others.
    let math = Filter::label("role", "math");
    let first: String = asker.request_any(&math, "whoami", &()).await?;
    let second: String = asker.request_any(&math, "whoami", &()).await?;
    let name = |text: &str| text.split(' ').next().unwrap_or_default().to_owned();
    println!("any two with role math: {}, {}", name(&first), name(&second));

    let large = Filter::gte("cores", "8");
    let replies = asker.request_all::<_, String>(&large, "whoami", &()).await?;
    let names: Vec<_> = replies.iter().map(|(node, _)| node.to_string()).collect();
    println!("all with 8 cores or more: {}", names.join(", "));

    let nobody: Result<String, RequestError> =
        asker.request_any(&Filter::label("role", "queen"), "whoami", &()).await;
    println!("nobody matches: {}", nobody.expect_err("there is no queen"));
    Ok(())
}
