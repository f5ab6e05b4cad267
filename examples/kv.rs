//! Three replicas in one process: a write is acknowledged by a quorum, the leader is lost, and the
//! store goes on without losing the write.
//!
//! ```text
//! formed: 3 members, one leads
//! colour is green
//! the leader is gone
//! colour is still green
//! colour is blue, at a later revision
//! ```

#![expect(clippy::print_stdout, reason = "an example shows its result")]

use std::time::Duration;

use zmesh::kv::{Kv, KvMachine, SERVICE};
use zmesh::replica::{Replica, ReplicaSettings};
use zmesh::route::Filter;
use zmesh::{Node, NodeId};

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let members: Vec<NodeId> =
        ["a", "b", "c"].into_iter().map(str::parse).collect::<Result<_, _>>()?;

    // Gossip: everybody is told one address and finds the others.
    let first = Node::builder("a").bind("tcp://127.0.0.1:0").start()?;
    let seed = first.address().ok_or("not bound")?.clone();
    let mut nodes = vec![first];
    for id in ["b", "c"] {
        nodes.push(Node::builder(id).bind("tcp://127.0.0.1:0").connect(&seed).start()?);
    }
    let mut replicas = Vec::new();
    for node in nodes {
        let settings =
            ReplicaSettings::new(folder.path().join(node.id().as_str()), members.clone());
        let replica = Replica::start(&node, SERVICE, settings, KvMachine::new());
        replicas.push((node, replica));
    }
    let leader = replicas[0].1.ready(PATIENCE).await?;
    println!("formed: {} members, one leads", members.len());

    // A client is a node like any other; it needs no address of its own.
    let client = Node::builder("client").connect(&seed).start()?;
    client.wait_for_peers(&Filter::any(), 3, PATIENCE).await?;
    let kv = Kv::new(&client).timeout(PATIENCE);
    kv.set("colour", "green").await?;
    let green = kv.get("colour").await?.ok_or("it was written")?;
    println!("colour is {}", String::from_utf8_lossy(&green.value));

    let at = replicas.iter().position(|(node, _)| *node.id() == leader).ok_or("a member")?;
    let (node, replica) = replicas.remove(at);
    replica.stop();
    node.stop().await;
    println!("the leader is gone");

    let still = kv.get("colour").await?.ok_or("it was acknowledged")?;
    println!("colour is still {}", String::from_utf8_lossy(&still.value));
    kv.set("colour", "blue").await?;
    let blue = kv.get("colour").await?.ok_or("it was written")?;
    let later = if blue.revision > green.revision { "a later" } else { "the same" };
    println!("colour is {}, at {later} revision", String::from_utf8_lossy(&blue.value));
    Ok(())
}
