//! The stall test: a lost wake-up shows only under bursts and silence, and only sometimes.
//!
//! Two transports dial each other. Each sends bursts of requests over its link, of which so many
//! may be unanswered as the window says, and answers those of the other. A wake-up that is lost
//! leaves both waiting. `ZMESH_STALL_ROUNDS` makes a soak of it.

use std::sync::Arc;

use super::*;

/// How long nothing may happen while something is under way.
const PROGRESS: Duration = Duration::from_secs(5);

struct Side<T> {
    transport: T,
    rng: fastrand::Rng,
    /// Answers for which there was no room.
    owed: Vec<(Route, Bytes)>,
    outstanding: usize,
    answered: u64,
}

impl<T: Transport> Side<T> {
    /// Sends one burst and waits until all of it is answered.
    async fn round(&mut self, window: usize) {
        let mut left = self.rng.usize(1..=200);
        while left > 0 || self.outstanding > 0 {
            while left > 0 && self.outstanding < window {
                let request = Bytes::copy_from_slice(&[&b"?"[..], &[0; 63]].concat());
                match self.transport.send(UP, &request) {
                    Ok(()) => (left, self.outstanding) = (left - 1, self.outstanding + 1),
                    Err(SendError::Full) => break,
                    Err(error) => panic!("{error}"),
                }
            }
            self.turn().await;
        }
    }

    /// Takes one event in.
    async fn turn(&mut self) {
        let event = poll_fn(|cx| self.transport.poll_event(cx));
        let event = tokio::time::timeout(PROGRESS, event).await.expect("no stall");
        self.take_in(event);
    }

    fn take_in(&mut self, event: Event) {
        match event {
            Event::Message { message, .. } if message[0] == b'!' => {
                self.outstanding -= 1;
                self.answered += 1;
            }
            Event::Message { route, .. } => self.owed.push((route, Bytes::from_static(b"!"))),
            Event::Writable { .. } => {}
            event @ (Event::Closed { .. } | Event::NotReady { .. } | Event::Ready { .. }) => {
                panic!("{event:?}")
            }
        }
        self.owed.retain(|(route, answer)| self.transport.send(*route, answer).is_err());
    }

    /// All rounds; then answers until nobody asks any more.
    async fn run(mut self, rounds: u64, window: usize, done: Arc<AtomicU64>) -> Self {
        for _ in 0..rounds {
            self.round(window).await;
        }
        done.fetch_add(1, Ordering::SeqCst);
        while done.load(Ordering::SeqCst) < 2 {
            let event = poll_fn(|cx| self.transport.poll_event(cx));
            let short = Duration::from_millis(50);
            if let Ok(event) = tokio::time::timeout(short, event).await {
                self.take_in(event);
            }
        }
        self
    }
}

/// Bursts over TCP.
async fn bursts(window: usize, rounds: u64) {
    let any = || parse("tcp://127.0.0.1:0");
    bursts_between(ZmqTransport::new, [any(), any()], window, rounds).await;
}

/// The same without libzmq.
async fn native_bursts(window: usize, rounds: u64) {
    let any = || parse("tcp://127.0.0.1:0");
    bursts_between(NativeTransport::new, [any(), any()], window, rounds).await;
}

async fn bursts_between<T: Transport + 'static>(
    make: fn(Options) -> T,
    addresses: [Address; 2],
    window: usize,
    rounds: u64,
) {
    let factor = std::env::var("ZMESH_STALL_ROUNDS").ok().and_then(|text| text.parse().ok());
    let rounds = rounds * factor.unwrap_or(1_u64);
    let sides = [1, 2].map(|seed| Side {
        transport: make(Options::default()),
        rng: fastrand::Rng::with_seed(seed + window as u64),
        owed: Vec::new(),
        outstanding: 0,
        answered: 0,
    });
    let [mut one, mut other] = sides;
    let addresses =
        [one.transport.bind(&addresses[0]).unwrap(), other.transport.bind(&addresses[1]).unwrap()];
    for (side, address) in [(&mut one, &addresses[1]), (&mut other, &addresses[0])] {
        side.transport.dial(LINK, address, routing_id()).unwrap();
    }
    // Both are polled while either waits: a transport may need that to get on.
    let mut ready = [false; 2];
    while ready != [true; 2] {
        let event = poll_fn(|cx| {
            for (side, ready) in [&mut one, &mut other].into_iter().zip(&mut ready) {
                if let Poll::Ready(event) = side.transport.poll_event(cx) {
                    *ready |= event == Event::Ready { link: LINK };
                    return Poll::Ready(());
                }
            }
            Poll::Pending
        });
        tokio::time::timeout(DEADLINE, event).await.expect("both links become ready");
    }
    let done = Arc::new(AtomicU64::new(0));
    let one = tokio::spawn(one.run(rounds, window, Arc::clone(&done)));
    let other = tokio::spawn(other.run(rounds, window, done));
    // Neither is dropped before both have ended, as the other would see that.
    let (one, other) = (one.await.unwrap(), other.await.unwrap());
    assert!(one.answered >= rounds && other.answered >= rounds);
}

/// Every request is a sleep and a wake-up, on both sides.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn window_of_one_does_not_stall() {
    bursts(1, 80).await;
}

/// Sends and arrivals meet in one turn, which is where a send may eat the edge of an arrival.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn window_of_16_does_not_stall() {
    bursts(16, 400).await;
}

/// Whole bursts at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn window_of_128_does_not_stall() {
    bursts(128, 1_000).await;
}

/// Both sides in one thread.
#[tokio::test]
async fn current_thread_does_not_stall() {
    bursts(16, 400).await;
}

/// No I/O thread stands between the sockets.
#[tokio::test]
async fn inproc_does_not_stall() {
    let mut window = 1;
    while window <= 128 {
        let names = [Address::Inproc { name: unique() }, Address::Inproc { name: unique() }];
        bursts_between(ZmqTransport::new, names, window, 300).await;
        window *= 8;
    }
}

/// Sleeps, wake-ups and bursts on two threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn native_does_not_stall() {
    for (window, rounds) in [(1, 80), (16, 400), (128, 1_000)] {
        native_bursts(window, rounds).await;
    }
}

/// Both sides in one thread.
#[tokio::test]
async fn native_on_a_current_thread_does_not_stall() {
    native_bursts(16, 400).await;
}
