//! What is particular to the native transport: libzmq as a peer, and hostile ones.

use std::future::poll_fn;
use std::io::Write;

use super::*;
use crate::id::Incarnation;
use crate::transport::zmq::ZmqTransport;

/// What never takes so long unless it is broken.
const DEADLINE: Duration = Duration::from_secs(20);
const LINK: LinkId = LinkId(1);
const UP: Route = Route::Upstream(LINK);

fn native(options: Options) -> Box<dyn Transport> {
    Box::new(NativeTransport::new(options))
}

fn libzmq(options: Options) -> Box<dyn Transport> {
    Box::new(ZmqTransport::new(options))
}

fn name() -> RoutingId {
    RoutingId::new(Incarnation(4), 1)
}

fn any_port() -> Address {
    "tcp://127.0.0.1:0".parse().unwrap()
}

/// The next event of the first; both are polled.
async fn next(of: &mut dyn Transport, other: &mut dyn Transport) -> Event {
    let event = poll_fn(|cx| match of.poll_event(cx) {
        Poll::Pending => {
            // What the other has to say is not asked for here, but it must get on.
            assert!(other.poll_event(cx).is_pending(), "an event of the other side");
            Poll::Pending
        }
        ready => ready,
    });
    tokio::time::timeout(DEADLINE, event).await.expect("an event")
}

/// Polls until `is_done`, dropping events.
async fn poll_until(
    transport: &mut dyn Transport,
    mut is_done: impl FnMut(&dyn Transport) -> bool,
) {
    let done = poll_fn(|cx| {
        while transport.poll_event(cx).is_ready() {}
        if is_done(transport) { Poll::Ready(()) } else { Poll::Pending }
    });
    tokio::time::timeout(DEADLINE, done).await.expect("it happens");
}

type Make = fn(Options) -> Box<dyn Transport>;

/// Every kind of frame, both ways, then the listener goes.
async fn talk(listener: Make, dialer: Make) {
    let (mut listener, mut dialer) = (listener(Options::default()), dialer(Options::default()));
    let address = listener.bind(&any_port()).unwrap();
    dialer.dial(LINK, &address, name()).unwrap();
    assert_eq!(next(&mut *dialer, &mut *listener).await, Event::Ready { link: LINK });
    for bytes in [0, 1, 255, 256, 4_096, 70_000, 8 << 20] {
        let message = Bytes::from(vec![7; bytes]);
        dialer.send(UP, &message).unwrap();
        let route = Route::Downstream(name());
        let expected = Event::Message { route, sender: None, message: message.clone() };
        assert!(next(&mut *listener, &mut *dialer).await == expected, "{bytes} bytes up");
        listener.send(route, &message).unwrap();
        let expected = Event::Message { route: UP, sender: None, message };
        assert!(next(&mut *dialer, &mut *listener).await == expected, "{bytes} bytes down");
    }
    drop(listener);
    let event = poll_fn(|cx| dialer.poll_event(cx));
    let event = tokio::time::timeout(DEADLINE, event).await.expect("the loss shows");
    assert_eq!(event, Event::NotReady { link: LINK });
}

#[tokio::test]
async fn libzmq_dials_native() {
    talk(native, libzmq).await;
}

#[tokio::test]
async fn native_dials_libzmq() {
    talk(libzmq, native).await;
}

/// Longer than libzmq waits for the answer to a ping, and than we do.
#[tokio::test]
async fn idle_connections_live() {
    for (listener, dialer) in [(native as Make, libzmq as Make), (libzmq, native)] {
        let (mut listener, mut dialer) = (listener(Options::default()), dialer(Options::default()));
        let address = listener.bind(&any_port()).unwrap();
        dialer.dial(LINK, &address, name()).unwrap();
        assert_eq!(next(&mut *dialer, &mut *listener).await, Event::Ready { link: LINK });
        let silence = next(&mut *dialer, &mut *listener);
        assert!(tokio::time::timeout(Duration::from_secs(5), silence).await.is_err());
    }
}

/// Strangers may come in thousands; a peer still gets in, and what is kept of them is bounded.
#[tokio::test]
async fn half_open_connections_are_bounded() {
    let mut listener = NativeTransport::new(Options::default());
    let Ok(Address::Tcp { port, .. }) = listener.bind(&any_port()) else { unreachable!() };
    let mut strangers = Vec::new();
    for number in 1..=HALF_OPEN_MAX as u64 + 50 {
        strangers.push(std::net::TcpStream::connect(("127.0.0.1", port)).unwrap());
        poll_until(&mut listener, |listener| listener.counters().accepted == number).await;
    }
    assert_eq!(listener.connections.len(), HALF_OPEN_MAX);
    assert_eq!(listener.counters().handshakes_failed, 50);
    let mut dialer = libzmq(Options::default());
    let address = Address::tcp("127.0.0.1", port);
    dialer.dial(LINK, &address, name()).unwrap();
    assert_eq!(next(&mut *dialer, &mut listener).await, Event::Ready { link: LINK });
}

/// Neither garbage nor one byte at a time keeps a place.
#[tokio::test]
async fn garbage_and_silence_end_a_connection() {
    let mut listener = NativeTransport::new(Options::default());
    let Ok(Address::Tcp { port, .. }) = listener.bind(&any_port()) else { unreachable!() };
    let connect = || std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut garbage = connect();
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    poll_until(&mut listener, |listener| listener.counters().handshakes_failed == 1).await;
    let mut slow = connect();
    slow.write_all(&[0xff]).unwrap();
    poll_until(&mut listener, |listener| listener.counters().handshakes_failed == 2).await;
    assert!(listener.connections.is_empty());
}

/// A person must learn that it is the transport that cannot.
#[tokio::test]
async fn inproc_is_refused_with_the_reason() {
    let mut transport = NativeTransport::new(Options::default());
    let address: Address = "inproc://name".parse().unwrap();
    let bind = transport.bind(&address).unwrap_err().to_string();
    let dial = transport.dial(LINK, &address, name()).unwrap_err().to_string();
    assert!(bind.contains(NO_INPROC) && dial.contains(NO_INPROC), "{bind}; {dial}");
}
