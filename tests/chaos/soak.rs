//! Messages by the ten thousand: each is delivered once, refused to its sender, or counted as
//! dropped.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use zmesh::node::{Counters, Peer};
use zmesh::presence::Heartbeat;
use zmesh::route::Filter;
use zmesh::{Address, Node};

use crate::plan::ms;
use crate::proxy::{Line, Weather};
use crate::scene::rounds;

/// Messages of one round, and how many leave together at most.
const MESSAGES: u64 = 30_000;
const BURST: u64 = 3_000;
const PAYLOAD_BYTES: usize = 200;
const PATIENCE: Duration = Duration::from_secs(60);
/// Handlers of every so many-th message take so long.
const SLOW_EVERY: u64 = 1_000;
const SLOW: Duration = Duration::from_millis(20);

/// Two nodes with a line between them.
struct Pair {
    sender: Node,
    receiver: Node,
    line: Line,
    handled: Arc<AtomicU64>,
    /// Messages that came a second time.
    twice: Arc<AtomicU64>,
    taken: u64,
    refused: u64,
}

impl Pair {
    async fn start() -> Self {
        // A peer that stands in a narrow line is slow, not dead.
        let heartbeat = Heartbeat::efficient();
        let builder = Node::builder("receiver").heartbeat(heartbeat).gossip(false);
        let receiver = builder.bind("tcp://127.0.0.1:0").start().unwrap();
        let handled = Arc::new(AtomicU64::new(0));
        let (twice, seen) = (Arc::new(AtomicU64::new(0)), Mutex::new(HashSet::new()));
        let (count, again) = (Arc::clone(&handled), Arc::clone(&twice));
        let handle = move |_: Peer, (number, _): (u64, String)| {
            count.fetch_add(1, Ordering::Relaxed);
            again.fetch_add(u64::from(!seen.lock().insert(number)), Ordering::Relaxed);
            async move {
                if number.is_multiple_of(SLOW_EVERY) {
                    tokio::time::sleep(SLOW).await;
                }
            }
        };
        receiver.on_tick("soak", handle).unwrap();
        let address: &Address = receiver.address().unwrap();
        let line = Line::to(address).await;
        let builder = Node::builder("sender").heartbeat(heartbeat).gossip(false);
        let sender = builder.queue(1_000, 1 << 20).connect(line.address.clone()).start().unwrap();
        sender.wait_for_peers(&Filter::any(), 1, PATIENCE).await.unwrap();
        Self { sender, receiver, line, handled, twice, taken: 0, refused: 0 }
    }

    /// Sends so many in bursts, whatever becomes of them.
    async fn send(&mut self, messages: u64, rng: &mut fastrand::Rng) {
        let (mut sent, payload) = (0, "x".repeat(PAYLOAD_BYTES));
        while sent < messages {
            for _ in 0..rng.u64(1..BURST) {
                let number = self.taken + self.refused;
                match self.sender.tick("receiver", "soak", &(number, &payload)) {
                    Ok(()) => self.taken += 1,
                    Err(_) => self.refused += 1,
                }
                sent += 1;
            }
            tokio::time::sleep(ms(rng.u64(0..10))).await;
        }
    }

    /// What was taken and did not arrive, by the account of both.
    fn counted(&self) -> u64 {
        let there: Counters = self.receiver.status().counters;
        let here: Counters = self.sender.status().counters;
        there.handlers_busy + there.expired + there.lost_on_links + here.dropped_not_connected
    }

    /// Waits until everything that was taken is accounted for, and says what became of it.
    async fn settle(&self) {
        let mut waited = Duration::ZERO;
        while self.handled.load(Ordering::Relaxed) + self.counted() < self.taken {
            let (handled, counted) = (self.handled.load(Ordering::Relaxed), self.counted());
            assert!(
                waited < PATIENCE,
                "{} taken, {handled} handled, {counted} counted",
                self.taken
            );
            tokio::time::sleep(ms(20)).await;
            waited += ms(20);
        }
        let (handled, counted) = (self.handled.load(Ordering::Relaxed), self.counted());
        eprintln!(
            "{} taken: {handled} handled, {counted} counted as dropped; {} refused",
            self.taken, self.refused
        );
        assert_eq!(handled + counted, self.taken);
        assert_eq!(self.twice.load(Ordering::Relaxed), 0, "messages came twice");
    }
}

/// Through a wide line and a narrow one, to handlers that are quick and slow: sent = delivered +
/// counted drops + errors, to the last message.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_message_is_delivered_or_refused_or_counted() {
    let mut rng = fastrand::Rng::with_seed(1);
    let mut pair = Pair::start().await;
    for round in 0..rounds(3) {
        let narrow = [None, Some(4_000_000), Some(1_000_000)][usize::try_from(round % 3).unwrap()];
        let weather =
            Weather { bytes_per_second: narrow, delay: ms(round % 4), ..Weather::default() };
        pair.line.forth.send_replace(weather);
        pair.send(MESSAGES, &mut rng).await;
        pair.settle().await;
    }
    assert!(pair.refused > 0, "no queue was ever full");
    assert!(pair.handled.load(Ordering::Relaxed) > 10_000);
}

/// When connections break, what was under way may be lost, and nothing arrives twice; each break is
/// an event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_message_comes_twice_when_connections_break() {
    let mut rng = fastrand::Rng::with_seed(2);
    let mut pair = Pair::start().await;
    for _ in 0..rounds(1) * 10 {
        pair.send(MESSAGES / 20, &mut rng).await;
        pair.line.reset();
        tokio::time::sleep(ms(rng.u64(0..100))).await;
        pair.sender.wait_for_peers(&Filter::any(), 1, PATIENCE).await.unwrap();
    }
    // The last ones go over a connection that stays.
    let before = pair.handled.load(Ordering::Relaxed);
    while pair.handled.load(Ordering::Relaxed) == before {
        pair.send(1, &mut rng).await;
    }
    let handled = pair.handled.load(Ordering::Relaxed);
    assert_eq!(pair.twice.load(Ordering::Relaxed), 0, "messages came twice");
    eprintln!("{} taken, {handled} handled, {} counted", pair.taken, pair.counted());
}
