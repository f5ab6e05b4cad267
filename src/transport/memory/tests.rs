//! Faults of the memory network; the contract itself is tested in `transport::conformance`.

use std::future::poll_fn;

use super::*;
use crate::id::Incarnation;

const LINK: LinkId = LinkId(1);
const UP: Route = Route::Upstream(LINK);

/// A listener and a dialer with a link that is ready.
async fn pair(network: &Network) -> (MemoryTransport, MemoryTransport) {
    let mut listener = network.transport(Options::default());
    let mut dialer = network.transport(Options::default());
    let address = listener.bind(&"inproc://a".parse().unwrap()).unwrap();
    dialer.dial(LINK, &address, RoutingId::new(Incarnation(1), 1)).unwrap();
    assert_eq!(next(&mut dialer).await, Event::Ready { link: LINK });
    (listener, dialer)
}

async fn next(transport: &mut MemoryTransport) -> Event {
    let event = poll_fn(|cx| transport.poll_event(cx));
    tokio::time::timeout(Duration::from_secs(60), event).await.expect("an event")
}

/// Everything that has arrived.
async fn arrived(transport: &mut MemoryTransport) -> Vec<Bytes> {
    let mut messages = Vec::new();
    let second = Duration::from_secs(1);
    while let Ok(event) = tokio::time::timeout(second, poll_fn(|cx| transport.poll_event(cx))).await
    {
        if let Event::Message { message, .. } = event {
            messages.push(message);
        }
    }
    messages
}

fn number(number: u8) -> Bytes {
    vec![number].into()
}

/// Delays vary from message to message, and still nothing overtakes.
#[tokio::test(start_paused = true)]
async fn delayed_messages_take_their_time_and_stay_in_order() {
    let network = Network::new(1);
    let (mut listener, mut dialer) = pair(&network).await;
    let (delay_min, delay_max) = (Duration::from_millis(10), Duration::from_millis(50));
    network.set_faults(Faults { delay_min, delay_max, ..Faults::default() });
    let start = tokio::time::Instant::now();
    let sent: Vec<Bytes> = (0..100).map(number).collect();
    for message in &sent {
        dialer.send(UP, message).unwrap();
    }
    for message in &sent {
        let Event::Message { message: received, .. } = next(&mut listener).await else {
            panic!("no message")
        };
        assert!(start.elapsed() >= delay_min);
        assert_eq!(received, *message);
    }
    assert!(start.elapsed() <= delay_max + Duration::from_millis(5), "{:?}", start.elapsed());
}

/// A failing simulation is worth nothing unless it can be replayed.
#[tokio::test(start_paused = true)]
async fn same_seed_loses_the_same_messages() {
    let mut runs = Vec::new();
    for seed in [1, 1, 2] {
        let network = Network::new(seed);
        let (mut listener, mut dialer) = pair(&network).await;
        network.set_faults(Faults { loss: 0.5, ..Faults::default() });
        for message in 0..200 {
            dialer.send(UP, &number(message)).unwrap();
        }
        runs.push(arrived(&mut listener).await);
    }
    assert!((50..150).contains(&runs[0].len()), "{}", runs[0].len());
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0], runs[2]);
}

/// A cut of one direction is what breaks protocols that were thought of for two.
#[tokio::test(start_paused = true)]
async fn one_way_cut_lets_the_other_way_through() {
    let network = Network::new(1);
    let (mut listener, mut dialer) = pair(&network).await;
    dialer.send(UP, &number(0)).unwrap();
    let Event::Message { route, .. } = next(&mut listener).await else { panic!("no message") };
    network.cut(dialer.station(), listener.station());
    dialer.send(UP, &number(1)).unwrap();
    listener.send(route, &number(2)).unwrap();
    assert_eq!(arrived(&mut dialer).await, [number(2)]);
    assert!(arrived(&mut listener).await.is_empty());
}

/// Heartbeats find a partition after three seconds; healing connects again, under another id.
#[tokio::test(start_paused = true)]
async fn partition_ends_links_and_healing_brings_them_back() {
    let network = Network::new(1);
    let (mut listener, mut dialer) = pair(&network).await;
    let start = tokio::time::Instant::now();
    network.partition(dialer.station(), listener.station());
    dialer.send(UP, &number(1)).unwrap();
    assert_eq!(next(&mut dialer).await, Event::NotReady { link: LINK });
    assert_eq!(start.elapsed().as_secs(), 3);
    assert_eq!(dialer.send(UP, &number(2)), Err(SendError::NotConnected));
    network.heal();
    assert_eq!(next(&mut dialer).await, Event::Ready { link: LINK });
    dialer.send(UP, &number(3)).unwrap();
    let message = number(3);
    let id = RoutingId::new(Incarnation(1), 1).for_connection(1);
    assert_eq!(
        next(&mut listener).await,
        Event::Message { route: Route::Downstream(id), sender: None, message }
    );
}

/// A short cut is not noticed, as with heartbeats.
#[tokio::test(start_paused = true)]
async fn short_cut_does_not_end_a_link() {
    let network = Network::new(1);
    let (mut listener, mut dialer) = pair(&network).await;
    network.partition(dialer.station(), listener.station());
    tokio::time::advance(Duration::from_secs(2)).await;
    network.heal();
    assert!(arrived(&mut dialer).await.is_empty());
    dialer.send(UP, &number(1)).unwrap();
    assert_eq!(arrived(&mut listener).await, [number(1)]);
}
