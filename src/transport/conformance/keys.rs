//! What keys add to the contract, for every transport that has them.

use std::time::Instant;

use super::*;
use crate::keys::{Allowed, KeyPair, Role};

/// The key pair of this number.
fn pair(number: u8) -> KeyPair {
    KeyPair::from_secret(&[number; 32]).unwrap()
}

/// A list with the keys of these numbers.
fn allowed(numbers: &[u8]) -> Arc<AllowList> {
    let mut list = AllowList::default();
    for number in numbers {
        let node = format!("n{number}").parse().unwrap();
        list.insert(pair(*number).public(), Allowed { node, role: Role::Peer, until: None });
    }
    Arc::new(list)
}

/// Makes transports with keys.
pub(super) trait Keyed {
    type Transport: Transport + 'static;

    fn make(options: Options, keys: KeyPair) -> Self::Transport;

    /// One with the keys of this number, that lets in those of these numbers.
    fn transport_with(options: Options, number: u8, allows: &[u8]) -> Driven<Self::Transport> {
        let mut transport = Driven::new(Self::make(options, pair(number)));
        transport.allow(allowed(allows));
        transport
    }

    fn transport(number: u8, allows: &[u8]) -> Driven<Self::Transport> {
        Self::transport_with(Options::default(), number, allows)
    }
}

pub(super) struct Zmq;

impl Keyed for Zmq {
    type Transport = ZmqTransport;

    fn make(options: Options, keys: KeyPair) -> ZmqTransport {
        ZmqTransport::new(options).with_keys(keys)
    }
}

pub(super) struct Native;

impl Keyed for Native {
    type Transport = NativeTransport;

    fn make(options: Options, keys: KeyPair) -> NativeTransport {
        NativeTransport::new(options).with_keys(keys)
    }
}

fn listen(transport: &mut impl Transport) -> Address {
    transport.bind(&parse("tcp://127.0.0.1:0")).unwrap()
}

/// The reason for which the link of [`LINK`] is closed, which must happen.
async fn closed(dialer: &mut impl Transport) -> String {
    match next(dialer).await {
        Event::Closed { link: LINK, reason } => reason,
        event @ (Event::Closed { .. }
        | Event::Message { .. }
        | Event::NotReady { .. }
        | Event::Ready { .. }
        | Event::Writable { .. }) => panic!("{event:?}"),
    }
}

/// Nothing that a listener reports in a while.
async fn assert_silent(listener: &mut impl Transport) {
    let event = poll_fn(|cx| listener.poll_event(cx));
    let event = tokio::time::timeout(Duration::from_millis(300), event).await;
    assert!(event.is_err(), "{event:?}");
}

async fn messages_say_whose_they_are<L: Keyed, D: Keyed>() {
    let mut listener = L::transport(1, &[2, 3]);
    let address = listen(&mut listener);
    assert_eq!(address.key(), Some(pair(1).public()));
    for number in [2, 3] {
        let mut dialer = D::transport(number, &[]);
        dialer.dial(LINK, &address, routing_id()).unwrap();
        assert_eq!(next(&mut dialer).await, Event::Ready { link: LINK });
        for size in [0, 1, 200, 300, 70_000] {
            let message = Bytes::from(vec![number; size]);
            dialer.send(UP, &message).unwrap();
            let event = next(&mut listener).await;
            let Event::Message { route, sender, message: received } = event else {
                panic!("{event:?}")
            };
            assert_eq!((sender, &received), (Some(pair(number).public()), &message));
            listener.send(route, &message).unwrap();
            let expected = Event::Message { route: UP, sender: None, message };
            assert_eq!(next(&mut dialer).await, expected);
        }
    }
}

async fn keys_that_are_not_allowed_stay_out<L: Keyed, D: Keyed>() {
    let mut listener = L::transport(1, &[2]);
    let address = listen(&mut listener);
    let mut dialer = D::transport(3, &[]);
    dialer.dial(LINK, &address, routing_id()).unwrap();
    assert_eq!(closed(&mut dialer).await, "it does not allow our key");
    assert_silent(&mut listener).await;
    let counters = listener.counters();
    assert_eq!((counters.received, counters.handshakes_failed), (0, 1), "{counters:?}");
}

async fn wrong_listeners_are_never_ready<L: Keyed, D: Keyed>() {
    let mut listener = L::transport(1, &[2]);
    let address = listen(&mut listener).with_key(Some(pair(4).public()));
    let mut dialer = D::transport(2, &[]);
    dialer.dial(LINK, &address, routing_id()).unwrap();
    assert_eq!(closed(&mut dialer).await, "it has not proved to have the key in the address");
    assert_silent(&mut listener).await;
}

/// Neither side falls back to clear text.
async fn keyless_stay_out_and_are_not_believed<L: Keyed, D: Keyed>() {
    let mut listener = L::transport(1, &[2]);
    let address = listen(&mut listener);
    let mut dialer = D::transport(2, &[]);
    dialer.dial(LINK, &address.with_key(None), routing_id()).unwrap();
    let reason = closed(&mut dialer).await;
    assert_eq!(reason, "it speaks another protocol, or asks for a key: HOST:PORT#KEY");
    assert_silent(&mut listener).await;

    let mut keyless = ZmqTransport::new(Options::default());
    let address = listen(&mut keyless).with_key(Some(pair(1).public()));
    let mut dialer = D::transport(2, &[]);
    dialer.dial(LINK, &address, routing_id()).unwrap();
    assert_eq!(closed(&mut dialer).await, "it has not proved to have the key in the address");
    assert_silent(&mut keyless).await;
}

/// As a node does it, whose list is read again while it runs.
async fn lists_take_effect_for_the_next_connection<L: Keyed, D: Keyed>() {
    let mut listener = L::transport(1, &[]);
    let address = listen(&mut listener);
    for (allows, is_allowed) in [(&[2][..], true), (&[3], false), (&[3, 2], true)] {
        listener.allow(allowed(allows));
        let mut dialer = D::transport(2, &[]);
        dialer.dial(LINK, &address, routing_id()).unwrap();
        match next(&mut dialer).await {
            Event::Ready { .. } => assert!(is_allowed, "{allows:?}"),
            Event::Closed { .. } => assert!(!is_allowed, "{allows:?}"),
            event @ (Event::Message { .. } | Event::NotReady { .. } | Event::Writable { .. }) => {
                panic!("{event:?}")
            }
        }
    }
}

/// What is written on the wire tells nothing, and what is changed there is not taken.
async fn the_wire_tells_and_takes_nothing<L: Keyed, D: Keyed>() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const SECRET: &[u8] = b"a marked value that nobody may see";
    let mut listener = L::transport(1, &[2]);
    let address = listen(&mut listener);
    let Address::Tcp { port, .. } = address else { unreachable!() };
    let wire = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let through = Address::tcp("127.0.0.1", wire.local_addr().unwrap().port());
    let mut dialer = D::transport(2, &[]);
    dialer.dial(LINK, &through.with_key(address.key()), routing_id()).unwrap();
    let (dialed, _) = wire.accept().await.unwrap();
    let listened = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (mut from_dialer, mut to_dialer) = dialed.into_split();
    let (mut from_listener, mut to_listener) = listened.into_split();
    let back = tokio::spawn(async move {
        drop(tokio::io::copy(&mut from_listener, &mut to_dialer).await);
    });
    let seen = Arc::new(parking_lot::Mutex::new((Vec::new(), false)));
    let recorder = Arc::clone(&seen);
    let forth = tokio::spawn(async move {
        let mut buffer = [0; 64 << 10];
        while let Ok(bytes @ 1..) = from_dialer.read(&mut buffer).await {
            {
                let (seen, tampers) = &mut *recorder.lock();
                seen.extend_from_slice(&buffer[..bytes]);
                if *tampers {
                    buffer[bytes - 1] ^= 1;
                }
            }
            if to_listener.write_all(&buffer[..bytes]).await.is_err() {
                break;
            }
        }
    });
    assert_eq!(next(&mut dialer).await, Event::Ready { link: LINK });
    dialer.send(UP, &Bytes::from_static(SECRET)).unwrap();
    assert_eq!(&next_message(&mut listener).await.1[..], SECRET);
    let found = |bytes: &[u8]| bytes.windows(16).any(|window| window == &SECRET[..16]);
    assert!(!found(&seen.lock().0), "the wire tells");
    seen.lock().1 = true;
    dialer.send(UP, &Bytes::from_static(b"to be changed")).unwrap();
    assert_silent(&mut listener).await;
    until(&mut dialer, Event::NotReady { link: LINK }).await;
    back.abort();
    forth.abort();
}

/// Somebody who tries again and again costs little, and holds nobody up.
async fn refused_dialers_do_not_hold_up_the_others<L: Keyed, D: Keyed>() {
    let mut listener = L::transport(1, &[2]);
    let address = listen(&mut listener);
    let begun = begin();
    let mut strangers = Vec::new();
    for number in 0..50 {
        let mut stranger = D::transport(9, &[]);
        stranger.dial(LINK, &address, routing_id()).unwrap();
        strangers.push(stranger);
        if number % 10 == 0 {
            let mut dialer = D::transport(2, &[]);
            dialer.dial(LINK, &address, routing_id()).unwrap();
            assert_eq!(next(&mut dialer).await, Event::Ready { link: LINK });
            dialer.send(UP, &Bytes::from_static(b"hello")).unwrap();
            assert_eq!(&next_message(&mut listener).await.1[..], b"hello");
        }
    }
    for mut stranger in strangers {
        closed(&mut stranger).await;
    }
    assert!(begun.elapsed() < DEADLINE);
    assert_eq!(listener.counters().received, 5);
}

#[expect(clippy::disallowed_methods, reason = "real sockets")]
fn begin() -> Instant {
    Instant::now()
}

macro_rules! keyed {
    ($($world:ident: $listener:ty, $dialer:ty, $claims:tt;)+) => {
        $(keyed!(@ $world, $listener, $dialer, $claims);)+
    };
    (@ $world:ident, $listener:ty, $dialer:ty, [$($claim:ident),* $(,)?]) => {
        mod $world {
            use super::*;
            $(
                #[tokio::test]
                async fn $claim() {
                    super::$claim::<$listener, $dialer>().await;
                }
            )*
        }
    };
}

macro_rules! all_pairs {
    ($($world:ident: $listener:ty, $dialer:ty;)+) => {
        keyed!($($world: $listener, $dialer, [
            keyless_stay_out_and_are_not_believed,
            keys_that_are_not_allowed_stay_out,
            lists_take_effect_for_the_next_connection,
            messages_say_whose_they_are,
            refused_dialers_do_not_hold_up_the_others,
            the_wire_tells_and_takes_nothing,
            wrong_listeners_are_never_ready,
        ];)+);
    };
}

all_pairs! {
    native_and_native: Native, Native;
    native_and_zmq: Native, Zmq;
    zmq_and_native: Zmq, Native;
    zmq_and_zmq: Zmq, Zmq;
}
