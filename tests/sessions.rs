//! Retry-safe writes on real nodes: a counter that several clients increment while leaders are
//! killed and answers are lost ends exact.
//!
//! `ZMESH_KILLS=1000 cargo test --test sessions` kills that many leaders instead of the usual few.
#![expect(clippy::unwrap_used, reason = "a test; the allowance does not reach functions beside it")]
#![expect(clippy::disallowed_methods, reason = "waits for what it wants to see, with a deadline")]

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use zmesh::Effect;
use zmesh::consensus::Role;
use zmesh::replica::session::{Inquiry, Submission};
use zmesh::replica::{
    Client, ClientError, Effects, Image, InvalidSnapshot, Machine, Past, Progress,
};
use zmesh::testing::TestCluster;

#[path = "replica/raw.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod raw;

use raw::Raw;

const NAME: &str = "counter";
const DEADLINE: Duration = Duration::from_secs(60);
const CLIENTS: usize = 4;
const KILLS: usize = 20;

/// Counts its commands: whatever is applied twice is seen.
#[derive(Default)]
struct Counter(u64);

impl Machine for Counter {
    fn apply(&mut self, _: u64, _: &Bytes, _: &mut Effects) -> Bytes {
        self.0 += 1;
        Bytes::copy_from_slice(&self.0.to_le_bytes())
    }

    fn query(&self, _: &Bytes, _: &dyn Past) -> Bytes {
        Bytes::copy_from_slice(&self.0.to_le_bytes())
    }

    /// Waits until the count is what the query says.
    fn poll_query(&self, query: &Bytes, past: &dyn Past) -> Option<Bytes> {
        (self.0 >= number(query)).then(|| self.query(query, past))
    }

    fn snapshot(&self) -> Image {
        let count = self.0;
        Box::new(move |out| out.write_all(&count.to_le_bytes()))
    }

    fn restore(&mut self, snapshot: &mut dyn Read) -> Result<(), InvalidSnapshot> {
        let mut bytes = [0; 8];
        snapshot.read_exact(&mut bytes)?;
        self.0 = u64::from_le_bytes(bytes);
        Ok(())
    }
}

async fn cluster() -> TestCluster {
    TestCluster::builder(3).service(NAME, Counter::default).start().await.unwrap()
}

fn number(bytes: &Bytes) -> u64 {
    u64::from_le_bytes(bytes[..].try_into().unwrap())
}

async fn count(client: &Client) -> u64 {
    number(&client.query(Bytes::new()).await.unwrap().1.response)
}

fn increment() -> Bytes {
    Bytes::from_static(b"increment")
}

/// The node that leads the counter.
async fn leader(cluster: &TestCluster) -> usize {
    let end = Instant::now() + DEADLINE;
    loop {
        for node in (0..cluster.nodes()).filter(|node| cluster.is_running(*node)) {
            let progress = cluster.service(node, NAME).status().await;
            if matches!(progress, Progress::Running(status) if status.role == Role::Leader) {
                return node;
            }
        }
        assert!(Instant::now() < end, "nobody leads the counter");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Increments until it is told to stop, and returns how often. Every result must be new: a result
/// that was given before would be that of another increment.
async fn increment_until(client: Client, stop: Arc<AtomicBool>, done: Arc<AtomicU64>) -> u64 {
    let (mut increments, mut last) = (0, 0);
    while !stop.load(Ordering::SeqCst) {
        let (_, applied) = client.command(increment()).await.unwrap();
        let result = number(&applied.response);
        assert!(result > last, "{result} after {last}");
        last = result;
        increments += 1;
        done.fetch_add(1, Ordering::SeqCst);
    }
    increments
}

/// A query that waits is answered when what it waits for has happened, by whatever replica it was
/// asked, or with what there is when its time is up.
#[tokio::test]
async fn waiting_query_is_answered_when_it_happens_or_at_its_deadline() {
    let cluster = cluster().await;
    leader(&cluster).await;
    let client = Client::new(cluster.client(), NAME).timeout(DEADLINE);
    let two = Bytes::copy_from_slice(&2_u64.to_le_bytes());
    let waiting: Vec<_> = (0..cluster.nodes())
        .map(|node| {
            let (replica, two) = (cluster.service(node, NAME).clone(), two.clone());
            tokio::spawn(async move { replica.wait(two, DEADLINE).await })
        })
        .collect();
    client.command(increment()).await.unwrap();
    let short = client.clone().timeout(Duration::from_millis(500));
    let (_, early) = short.wait(two.clone()).await.unwrap();
    assert_eq!(number(&early.response), 1, "its time was up");
    assert!(waiting.iter().all(|waiting| !waiting.is_finished()));
    client.command(increment()).await.unwrap();
    for waiting in waiting {
        let answer = tokio::time::timeout(DEADLINE, waiting).await.unwrap().unwrap().unwrap();
        assert_eq!(number(&answer.response), 2);
    }
    assert_eq!(number(&client.wait(two).await.unwrap().1.response), 2, "it has happened already");
}

/// The promise to users: no increment is lost and none is done twice, however many leaders are
/// killed with answers in their hands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counter_is_exact_after_many_leaders_were_killed() {
    let kills = std::env::var("ZMESH_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let mut cluster = cluster().await;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients = (0..CLIENTS).map(|at| {
        // Sessions with one user and sessions with two.
        let client = Client::new(cluster.client(), NAME).timeout(DEADLINE);
        let again = (client.clone(), Arc::clone(&stop), Arc::clone(&done));
        let first = tokio::spawn(increment_until(client, Arc::clone(&stop), Arc::clone(&done)));
        let second =
            (at % 2 == 0).then(|| tokio::spawn(increment_until(again.0, again.1, again.2)));
        [Some(first), second]
    });
    let clients: Vec<_> = clients.flatten().flatten().collect();
    for _ in 0..kills {
        // Each leader is killed with increments under way, and after some were done.
        let before = done.load(Ordering::SeqCst);
        let end = Instant::now() + DEADLINE;
        while done.load(Ordering::SeqCst) < before + 10 {
            assert!(Instant::now() < end, "no increments");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let leader = leader(&cluster).await;
        cluster.kill(leader);
        cluster.restart(leader).await.unwrap();
    }
    stop.store(true, Ordering::SeqCst);
    let mut increments = 0;
    for client in clients {
        increments += client.await.unwrap();
    }
    let client = Client::new(cluster.client(), NAME).timeout(DEADLINE);
    assert_eq!(count(&client).await, increments);
}

/// Time is up with the outcome unknown: the error has the id, and whoever asks with it is told.
#[tokio::test]
async fn unknown_outcome_can_be_inquired_into() {
    let mut cluster = cluster().await;
    let client = Client::new(cluster.client(), NAME);
    client.clone().timeout(DEADLINE).command(increment()).await.unwrap();
    let leader = leader(&cluster).await;
    let others: Vec<usize> = (0..3).filter(|node| *node != leader).collect();
    for node in &others {
        cluster.kill(*node);
    }
    // The leader takes it and cannot commit it.
    let error = client.clone().timeout(Duration::from_secs(1)).command(increment()).await;
    let error = error.unwrap_err();
    let ClientError::Unknown { command: Some(id), .. } = error else { panic!("{error}") };
    assert_eq!(error.effect(), Effect::Unknown);
    for node in &others {
        cluster.restart(*node).await.unwrap();
    }
    let patient = client.clone().timeout(DEADLINE);
    // Whatever it came to, it came to it before this one, or it never will.
    let (_, later) = patient.command(increment()).await.unwrap();
    match patient.inquire(id).await.unwrap() {
        Inquiry::Done { index, response } => {
            assert!(index < later.index);
            assert_eq!((number(&response), number(&later.response)), (2, 3));
        }
        Inquiry::NotSeen => assert_eq!(number(&later.response), 2),
        other @ (Inquiry::Expired | Inquiry::Forgotten | Inquiry::InProgress) => {
            panic!("{other:?}")
        }
    }
}

/// A session that is over is replaced for a command that was not applied in it, without a word.
#[tokio::test]
async fn command_after_the_end_of_its_session_is_done_in_another() {
    let cluster = cluster().await;
    let client = Client::new(cluster.client(), NAME).timeout(DEADLINE);
    let (_, first) = client.command(increment()).await.unwrap();
    // The session was opened by the entry before; somebody else ends it.
    let end = Submission::End { session: first.index - 1 }.encode();
    let address = cluster.node(leader(&cluster).await).address().unwrap().clone();
    let mut stranger = Raw::join("stranger", &address).await;
    stranger.request("_counter.command", &end).await.unwrap();
    let (_, second) = client.command(increment()).await.unwrap();
    assert_eq!(number(&second.response), 2);
    client.end().await.unwrap();
    client.end().await.unwrap();
    let (_, third) = client.command(increment()).await.unwrap();
    assert_eq!(number(&third.response), 3);
}
