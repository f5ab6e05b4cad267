//! The contract of [`Transport`](super::Transport) as tests, run alike for every implementation.

use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;

use super::memory::{MemoryTransport, Network};
use super::native::NativeTransport;
use super::zmq::ZmqTransport;
use super::*;
use crate::id::Incarnation;

mod claims;
mod driven;
mod keys;
mod stall;

use driven::Driven;

/// What never takes so long unless it is broken.
const DEADLINE: Duration = Duration::from_secs(20);

/// Makes transports that can reach each other, and addresses to reach them at.
trait World {
    type Transport: Transport;

    fn transport(&self, options: Options) -> Self::Transport;

    /// An address to bind that nobody else uses.
    fn address(&self) -> Address;
}

fn parse(address: &str) -> Address {
    address.parse().unwrap()
}

struct Memory(Network);

impl World for Memory {
    type Transport = MemoryTransport;

    fn transport(&self, options: Options) -> MemoryTransport {
        self.0.transport(options)
    }

    fn address(&self) -> Address {
        parse("tcp://127.0.0.1:0")
    }
}

/// libzmq over TCP, on the address that the text says.
struct Tcp(&'static str);

impl World for Tcp {
    type Transport = ZmqTransport;

    fn transport(&self, options: Options) -> ZmqTransport {
        ZmqTransport::new(options)
    }

    fn address(&self) -> Address {
        parse(self.0)
    }
}

struct Ipc(tempfile::TempDir);

impl World for Ipc {
    type Transport = ZmqTransport;

    fn transport(&self, options: Options) -> ZmqTransport {
        ZmqTransport::new(options)
    }

    fn address(&self) -> Address {
        Address::Ipc { path: self.0.path().join(unique()).to_str().unwrap().to_owned() }
    }
}

struct Inproc;

impl World for Inproc {
    type Transport = ZmqTransport;

    fn transport(&self, options: Options) -> ZmqTransport {
        ZmqTransport::new(options)
    }

    fn address(&self) -> Address {
        Address::Inproc { name: unique() }
    }
}

/// TCP with keys, all of whose nodes have the same one.
struct Curve<K>(std::marker::PhantomData<K>);

impl<K: keys::Keyed> World for Curve<K> {
    type Transport = Driven<K::Transport>;

    fn transport(&self, options: Options) -> Driven<K::Transport> {
        K::transport_with(options, 1, &[1])
    }

    fn address(&self) -> Address {
        parse("tcp://127.0.0.1:0")
    }
}

/// The native transport over TCP, on the address that the text says.
struct NativeTcp(&'static str);

impl World for NativeTcp {
    type Transport = Driven<NativeTransport>;

    fn transport(&self, options: Options) -> Driven<NativeTransport> {
        Driven::new(NativeTransport::new(options))
    }

    fn address(&self) -> Address {
        parse(self.0)
    }
}

struct NativeIpc(tempfile::TempDir);

impl World for NativeIpc {
    type Transport = Driven<NativeTransport>;

    fn transport(&self, options: Options) -> Driven<NativeTransport> {
        Driven::new(NativeTransport::new(options))
    }

    fn address(&self) -> Address {
        Address::Ipc { path: self.0.path().join(unique()).to_str().unwrap().to_owned() }
    }
}

fn unique() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("name-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A routing id that nobody else has.
fn routing_id() -> RoutingId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    RoutingId::new(Incarnation(7), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The next event, which must come.
async fn next(transport: &mut impl Transport) -> Event {
    let event = poll_fn(|cx| transport.poll_event(cx));
    tokio::time::timeout(DEADLINE, event).await.expect("an event within the deadline")
}

/// The next event that is a message.
async fn next_message(transport: &mut impl Transport) -> (Route, Bytes) {
    loop {
        if let Event::Message { route, message, .. } = next(transport).await {
            return (route, message);
        }
    }
}

/// Waits for the event, skipping others.
async fn until(transport: &mut impl Transport, wanted: Event) {
    while next(transport).await != wanted {}
}

/// Binds, again and again while the address is not free yet; whether that worked.
///
/// It may never: a free port is given to whoever asks for any port, such as the dialer itself.
async fn bind_again(transport: &mut impl Transport, address: &Address) -> bool {
    let bound = async {
        while transport.bind(address).is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE / 10, bound).await.is_ok()
}

/// Runs a claim that has to get its address back, until it does.
async fn until_address_is_free(mut claim: impl AsyncFnMut() -> bool) {
    for _ in 0..10 {
        if claim().await {
            return;
        }
    }
    panic!("an address never becomes free again");
}

/// A listener and a dialer whose link 1 is ready, and the dialer's routing id.
async fn pair<W: World>(
    world: &W,
    options: Options,
) -> (W::Transport, W::Transport, Address, RoutingId) {
    let mut listener = world.transport(options);
    let mut dialer = world.transport(options);
    let address = listener.bind(&world.address()).unwrap();
    let id = routing_id();
    dialer.dial(LINK, &address, id).unwrap();
    assert_eq!(next(&mut dialer).await, Event::Ready { link: LINK });
    (listener, dialer, address, id)
}

/// The link of [`pair`].
const LINK: LinkId = LinkId(1);
const UP: Route = Route::Upstream(LINK);

/// Sends messages from one transport to the other, waiting for room, and returns what arrived.
async fn transfer(
    from: &mut impl Transport,
    route: Route,
    to: &mut impl Transport,
    messages: &[Bytes],
) -> Vec<Bytes> {
    let mut received = Vec::new();
    let (mut sent, mut blocked) = (0, false);
    while received.len() < messages.len() {
        while !blocked && sent < messages.len() {
            match from.send(route, &messages[sent]) {
                Ok(()) => sent += 1,
                Err(SendError::Full) => blocked = true,
                Err(error) => panic!("message {sent}: {error}"),
            }
        }
        let event = poll_fn(|cx| {
            if let Poll::Ready(event) = to.poll_event(cx) {
                return Poll::Ready(event);
            }
            from.poll_event(cx)
        });
        match tokio::time::timeout(DEADLINE, event).await.expect("progress") {
            Event::Message { message, .. } => received.push(message),
            Event::Writable { route: writable } => {
                assert_eq!(writable, route);
                blocked = false;
            }
            event @ (Event::Closed { .. } | Event::NotReady { .. } | Event::Ready { .. }) => {
                panic!("{event:?}")
            }
        }
    }
    received
}

/// Sends until the route stays full; returns how many messages were taken.
async fn fill(from: &mut impl Transport, route: Route, message: impl Fn(usize) -> Bytes) -> usize {
    let (mut taken, mut refused) = (0, 0);
    // A downstream route is reported writable every millisecond, so it counts as full after many
    // reports without success; an upstream one after a while without a report.
    while refused < 100 {
        match from.send(route, &message(taken)) {
            Ok(()) => (taken, refused) = (taken + 1, 0),
            Err(SendError::Full) => {
                refused += 1;
                let writable = until(from, Event::Writable { route });
                if tokio::time::timeout(Duration::from_millis(300), writable).await.is_err() {
                    break;
                }
            }
            Err(error) => panic!("message {taken}: {error}"),
        }
        assert!(taken < 100_000, "a receiver that does not read must fill the route");
    }
    taken
}

macro_rules! conformance {
    ($world:ident, $make:expr, [$($claim:ident),* $(,)?]) => {
        mod $world {
            use super::*;
            $(
                #[tokio::test]
                async fn $claim() {
                    claims::$claim(&$make).await;
                }
            )*
        }
    };
}

macro_rules! all_worlds {
    ($($claim:ident),* $(,)?) => {
        conformance!(memory, Memory(Network::new(1)), [$($claim),*]);
        conformance!(tcp, Tcp("tcp://127.0.0.1:0"), [$($claim),*]);
        conformance!(tcp_ipv6, Tcp("tcp://[::1]:0"), [$($claim),*]);
        conformance!(ipc, Ipc(tempfile::tempdir().unwrap()), [$($claim),*]);
        conformance!(inproc, Inproc, [$($claim),*]);
        conformance!(tcp_curve, Curve::<keys::Zmq>(Default::default()), [$($claim),*]);
        conformance!(native_tcp, NativeTcp("tcp://127.0.0.1:0"), [$($claim),*]);
        conformance!(native_tcp_ipv6, NativeTcp("tcp://[::1]:0"), [$($claim),*]);
        conformance!(native_curve, Curve::<keys::Native>(Default::default()), [$($claim),*]);
        conformance!(native_ipc, NativeIpc(tempfile::tempdir().unwrap()), [$($claim),*]);
    };
}

all_worlds![
    busy_listener_does_not_starve_a_link,
    connections_of_a_link_have_different_routing_ids,
    dialing_before_binding_becomes_ready,
    drop_with_unsent_messages_returns_at_once,
    full_route_becomes_writable_and_loses_nothing,
    hang_up_silences_a_link,
    lost_listener_is_reported_and_found_again,
    messages_are_whole_at_every_size,
    messages_stay_in_order,
    oversized_messages_never_arrive,
    ready_comes_before_the_first_message,
    second_bind_is_refused,
    taken_addresses_are_refused,
    two_dialers_are_kept_apart,
    unknown_routes_are_not_connected,
];
