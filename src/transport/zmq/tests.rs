//! What is particular to libzmq; the contract itself is tested in `transport::conformance`.

use std::future::poll_fn;
use std::net::TcpListener;

use super::*;
use crate::id::Incarnation;

/// What never takes so long unless it is broken.
const DEADLINE: Duration = Duration::from_secs(20);

fn routing_id(number: u64) -> RoutingId {
    RoutingId::new(Incarnation(3), number)
}

fn bound(address: &str) -> (ZmqTransport, Address) {
    let mut listener = ZmqTransport::new(Options::default());
    let address = listener.bind(&address.parse().unwrap()).unwrap();
    (listener, address)
}

async fn next(transport: &mut ZmqTransport) -> Event {
    let event = poll_fn(|cx| transport.poll_event(cx));
    tokio::time::timeout(DEADLINE, event).await.expect("an event within the deadline")
}

/// Names are resolved by us; `localhost` may stand for `::1` first, where nobody listens.
#[tokio::test]
async fn host_names_are_resolved_and_every_address_is_tried() {
    let (_listener, address) = bound("tcp://127.0.0.1:0");
    let Address::Tcp { port, .. } = address else { unreachable!() };
    let mut dialer = ZmqTransport::new(Options::default());
    let address = Address::tcp("localhost", port);
    dialer.dial(LinkId(1), &address, routing_id(1)).unwrap();
    assert_eq!(next(&mut dialer).await, Event::Ready { link: LinkId(1) });
}

/// A name server that is down is no reason to give up, nor for an error.
#[tokio::test]
async fn unresolvable_names_are_tried_again() {
    let mut dialer = ZmqTransport::new(Options::default());
    let address: Address = "tcp://name.invalid:1".parse().unwrap();
    dialer.dial(LinkId(1), &address, routing_id(1)).unwrap();
    let event = poll_fn(|cx| dialer.poll_event(cx));
    assert!(tokio::time::timeout(Duration::from_millis(400), event).await.is_err());
    assert_eq!(
        dialer.send(Route::Upstream(LinkId(1)), &Bytes::new()),
        Err(SendError::NotConnected)
    );
}

/// Peers dial what they are told, and people compare it with what they configured.
#[tokio::test]
async fn bound_address_is_the_one_that_was_asked_for() {
    let (_listener, address) = bound("tcp://127.0.0.1:0");
    let Address::Tcp { host, .. } = address else { unreachable!() };
    assert_eq!(host, "127.0.0.1", "not an IPv6 address that it is mapped to");
}

/// A wildcard takes both families, and the bound address tells the real port.
#[tokio::test]
async fn wildcard_listens_on_ipv4_and_ipv6() {
    let (_listener, address) = bound("tcp://*:0");
    let Address::Tcp { port, .. } = address else { unreachable!() };
    assert_ne!(port, 0);
    let mut hosts = vec!["127.0.0.1"];
    if TcpListener::bind("[::1]:0").is_ok() {
        hosts.push("::1");
    }
    for host in hosts {
        let mut dialer = ZmqTransport::new(Options::default());
        let address = Address::tcp(host, port);
        dialer.dial(LinkId(1), &address, routing_id(u64::from(port))).unwrap();
        assert_eq!(next(&mut dialer).await, Event::Ready { link: LinkId(1) });
    }
}

/// The crate panics on error numbers that it does not know, such as "not a directory".
#[tokio::test]
async fn unusable_addresses_are_refused_with_a_reason() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    let ipc = |path: &std::path::Path| format!("ipc://{}", path.display());
    let mut listener = ZmqTransport::new(Options::default());
    for (address, reason) in [
        (ipc(&file), "no socket"),
        (ipc(&file.join("below")), "directory"),
        (ipc(&directory.path().join("missing/socket")), "No such file"),
        ("tcp://192.0.2.1:0".into(), "assign"),
        ("tcp://example.org:0".into(), "numeric"),
    ] {
        let error = listener.bind(&address.parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains(reason), "{address}: {error}");
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    listener.bind(&ipc(&directory.path().join("socket")).parse().unwrap()).unwrap();
}

/// A socket file that a killed process left behind is no obstacle.
#[tokio::test]
async fn stale_ipc_sockets_are_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    bound(&format!("ipc://{}", path.display()));
}

/// More links than one context has sockets for.
#[tokio::test]
async fn links_spread_over_contexts() {
    let links = 300;
    // Three sockets and a connection per link, whose other end is in this process as well.
    if check_descriptors() < 2_048 {
        return;
    }
    let (mut listener, address) = bound("tcp://127.0.0.1:0");
    let mut dialer = ZmqTransport::new(Options::default());
    for link in 0..links {
        dialer.dial(LinkId(link), &address, routing_id(link)).unwrap();
    }
    assert_eq!(dialer.contexts.slots(), 2);
    for _ in 0..links {
        let Event::Ready { link } = next(&mut dialer).await else { panic!("not ready") };
        dialer.send(Route::Upstream(link), &Bytes::new()).unwrap();
    }
    let mut routes = std::collections::HashSet::new();
    for _ in 0..links {
        let Event::Message { route, .. } = next(&mut listener).await else { panic!("no message") };
        assert!(routes.insert(route));
    }
    for link in 0..links {
        dialer.hang_up(LinkId(link));
    }
    dialer.dial(LinkId(1_000), &address, routing_id(1_000)).unwrap();
    assert_eq!(dialer.contexts.slots(), 2, "closed links make room");
}

/// What a node that sleeps costs must not depend on how often its sockets are looked at.
#[tokio::test]
async fn full_routes_do_not_spin() {
    let options = Options { queue_messages_max: 4, ..Options::default() };
    let mut listener = ZmqTransport::new(options);
    let address = listener.bind(&"tcp://127.0.0.1:0".parse().unwrap()).unwrap();
    let mut dialer = ZmqTransport::new(options);
    dialer.dial(LinkId(1), &address, routing_id(1)).unwrap();
    assert_eq!(next(&mut dialer).await, Event::Ready { link: LinkId(1) });
    let route = Route::Upstream(LinkId(1));
    let message = Bytes::from(vec![0; 64 * 1024]);
    // Until there is no room and none comes.
    loop {
        while dialer.send(route, &message).is_ok() {}
        let writable = poll_fn(|cx| dialer.poll_event(cx));
        if tokio::time::timeout(Duration::from_millis(300), writable).await.is_err() {
            break;
        }
    }
    let mut polls = 0;
    let event = poll_fn(|cx| {
        polls += 1;
        dialer.poll_event(cx)
    });
    assert!(tokio::time::timeout(Duration::from_millis(300), event).await.is_err());
    // The first, and a few for heartbeats that libzmq's I/O thread may signal.
    assert!(polls < 20, "{polls} polls in 300 ms");
}

/// Lets messages arrive while the runtime cannot look at descriptors.
fn block_the_runtime() {
    let start = now();
    while now().duration_since(start) < Duration::from_millis(5) {
        std::hint::spin_loop();
    }
}

/// A send takes in what libzmq's I/O thread has to say, and with it the only sign that a message
/// is there: the descriptor stays silent from then on.
#[tokio::test]
async fn sending_does_not_lose_the_wake_up_of_an_arrived_message() {
    let (mut listener, address) = bound("tcp://127.0.0.1:0");
    let mut dialer = ZmqTransport::new(Options::default());
    dialer.dial(LinkId(1), &address, routing_id(1)).unwrap();
    assert_eq!(next(&mut dialer).await, Event::Ready { link: LinkId(1) });
    let (up, down) = (Route::Upstream(LinkId(1)), Route::Downstream(routing_id(1)));
    let message = Bytes::from_static(b"a");
    dialer.send(up, &message).unwrap();
    next(&mut listener).await;
    let mut ends = [(dialer, up), (listener, down)];
    for _ in 0..40 {
        ends.reverse();
        let [(one, route), (other, back)] = &mut ends;
        // Both sleep; one sends; the other sends before it looks.
        for transport in [&mut *one, &mut *other] {
            let event = poll_fn(|cx| Poll::Ready(transport.poll_event(cx))).await;
            assert_eq!(event, Poll::Pending);
        }
        one.send(*route, &message).unwrap();
        block_the_runtime();
        other.send(*back, &message).unwrap();
        assert!(matches!(next(other).await, Event::Message { .. }));
        assert!(matches!(next(one).await, Event::Message { .. }));
    }
}

/// libzmq's I/O thread reports what happens to a connection to whoever monitors it, and waits for
/// ever when the other end is gone. All links and the listener of the node would stand still.
#[tokio::test]
async fn closing_a_link_while_its_connection_breaks_leaves_the_others_alive() {
    // With few free processors the I/O thread is in the middle of its report more often.
    let ended = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let burners: Vec<_> = (0..4).map(|_| burn(Arc::clone(&ended))).collect();
    let mut dialer = ZmqTransport::new(Options::default());
    for round in 1..=ROUNDS {
        let (mut listener, address) = bound("tcp://127.0.0.1:0");
        dialer.dial(LinkId(round), &address, routing_id(round)).unwrap();
        assert_eq!(next(&mut dialer).await, Event::Ready { link: LinkId(round) });
        dialer.send(Route::Upstream(LinkId(round)), &Bytes::new()).unwrap();
        next(&mut listener).await;
        drop(listener);
        assert_eq!(next(&mut dialer).await, Event::NotReady { link: LinkId(round) });
        dialer.hang_up(LinkId(round));
    }
    ended.store(true, std::sync::atomic::Ordering::Relaxed);
    burners.into_iter().for_each(|burner| burner.join().unwrap());
}

/// Connections that are lost, so many that a report is cut off in some of them.
const ROUNDS: u64 = 300;

fn burn(ended: Arc<std::sync::atomic::AtomicBool>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        while !ended.load(std::sync::atomic::Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    })
}

/// A name that is refused to a second listener stays the first one's.
#[tokio::test]
async fn refused_inproc_name_stays_with_its_owner() {
    let (_owner, address) = bound("inproc://owned");
    ZmqTransport::new(Options::default()).bind(&address).unwrap_err();
    let mut dialer = ZmqTransport::new(Options::default());
    dialer.dial(LinkId(1), &address, routing_id(1)).unwrap();
    assert_eq!(next(&mut dialer).await, Event::Ready { link: LinkId(1) });
}
