//! A pool of workers that come and go as they like: they ask to join and may be refused, each gets
//! what it can take, and who leaves finishes what it has in hand.
//!
//! ```text
//! eve is refused: the node takes no more peers
//! 6 jobs: ada 3, bob 3
//! ada leaves with 2 jobs in hand, the next 2 go to bob
//! 6 of 6 jobs are done: ada 2, bob 4
//! eve has room: 4 jobs: bob 2, eve 2
//! ```

#![expect(clippy::print_stdout, reason = "an example shows its result")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use zmesh::client::ClientEvent;
use zmesh::route::{Choice, Filter};
use zmesh::{Address, Event, HandlerError, Node, Peer, RequestError};

const PATIENCE: Duration = Duration::from_secs(20);
/// Jobs that one worker takes at a time.
const AT_ONCE: u32 = 8;

/// A worker is a node that dials the host. `work` is what it waits for in each job, and `slots` are
/// free again when it is done.
fn worker(id: &'static str, host: &Address, work: &Arc<Semaphore>) -> (Node, Arc<Semaphore>) {
    let node = Node::builder(id).label("role", "worker").connect(host).start().expect("valid");
    let (slots, work) = (Arc::new(Semaphore::new(AT_ONCE as usize)), Arc::clone(work));
    let free = Arc::clone(&slots);
    node.on_request("job", move |_from: Peer, _job: u32| {
        let (slots, work) = (Arc::clone(&free), Arc::clone(&work));
        async move {
            let _slot = slots.acquire().await.expect("it is never closed");
            work.acquire().await.expect("it is never closed").forget();
            Ok::<_, HandlerError>(id.to_owned())
        }
    })
    .expect("a valid pattern");
    (node, slots)
}

/// Goes without losing anything: wants no more work, hears that the host knows, and finishes.
async fn leave(node: &Node, slots: &Semaphore) -> Result<(), Box<dyn std::error::Error>> {
    node.set_labels(BTreeMap::new())?;
    // Messages between two nodes stay in order: whatever the host sent before this answer is here.
    node.request::<_, ()>("host", "pool.leave", &()).await?;
    drop(slots.acquire_many(AT_ONCE).await?);
    node.stop().await;
    Ok(())
}

/// Gives out jobs, each to the worker that has the fewest.
fn give_out(host: &Node, jobs: u32, into: &mut JoinSet<Result<String, RequestError>>) {
    for job in 0..jobs {
        let request = host.request_any(&Filter::label("role", "worker"), "job", &job);
        into.spawn(request.choose(Choice::LeastInFlight).timeout(PATIENCE).into_future());
    }
}

/// Waits for every job, and says who did how many.
async fn done(jobs: &mut JoinSet<Result<String, RequestError>>) -> Result<String, RequestError> {
    let mut counts = BTreeMap::<String, u32>::new();
    while let Some(done) = jobs.join_next().await {
        *counts.entry(done.expect("a job does not panic")?).or_default() += 1;
    }
    let each: Vec<_> = counts.iter().map(|(worker, count)| format!("{worker} {count}")).collect();
    Ok(each.join(", "))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let host = Node::builder("host").bind("tcp://127.0.0.1:0").peers_max(2).start()?;
    host.on_request("pool.leave", |_: Peer, (): ()| async { Ok::<_, HandlerError>(()) })?;
    let address = host.address().ok_or("not bound")?.clone();
    let workers = Filter::label("role", "worker");
    let work = Arc::new(Semaphore::new(0));
    let mut jobs = JoinSet::new();

    let (ada, ada_slots) = worker("ada", &address, &work);
    let (_bob, _) = worker("bob", &address, &work);
    host.wait_for_peers(&workers, 2, PATIENCE).await?;
    let (eve, _) = worker("eve", &address, &work);
    let mut events = eve.events();
    while let Some(event) = events.next().await? {
        if let Event::Client { event: ClientEvent::Refused { reason }, .. } = event {
            println!("eve is refused: {reason}");
            break;
        }
    }
    eve.stop().await;

    give_out(&host, 6, &mut jobs);
    work.add_permits(6);
    println!("6 jobs: {}", done(&mut jobs).await?);

    // Four are in hand, two with each, when ada wants to leave.
    give_out(&host, 4, &mut jobs);
    let mut events = host.events();
    let leaving =
        tokio::spawn(
            async move { leave(&ada, &ada_slots).await.map_err(|error| error.to_string()) },
        );
    while !matches!(events.next().await?, None | Some(Event::PeerLabels { .. })) {}
    give_out(&host, 2, &mut jobs);
    println!("ada leaves with 2 jobs in hand, the next 2 go to bob");
    work.add_permits(6);
    println!("6 of 6 jobs are done: {}", done(&mut jobs).await?);
    leaving.await??;

    let (_eve, _) = worker("eve", &address, &work);
    host.wait_for_peers(&workers, 2, PATIENCE).await?;
    give_out(&host, 4, &mut jobs);
    work.add_permits(4);
    println!("eve has room: 4 jobs: {}", done(&mut jobs).await?);
    Ok(())
}
