//! What the protocol layer costs for one message: envelopes, payload checks, requests in flight,
//! finding a handler. No socket, no serde, one thread.

use std::time::Duration;

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use zmesh::protocol::envelope::{Envelope, Format, Kind, Limits, Outgoing};
use zmesh::protocol::handlers::{Handlers, Pattern, Verb};
use zmesh::protocol::payload;
use zmesh::protocol::requests::Requests;
use zmesh::transport::{LinkId, Route};
use zmesh::{Incarnation, RequestId, Time};

const PAYLOAD_BYTES: [usize; 4] = [0, 64, 1_024, 65_536];
const ROUTE: Route = Route::Upstream(LinkId(1));

fn main() {
    divan::main();
}

fn request(payload: &[u8]) -> Outgoing<'_> {
    Outgoing {
        kind: Kind::Request,
        format: Format::Raw,
        code: 0,
        sequence: 1,
        request: RequestId(1 << 32),
        from: Incarnation(1),
        to: Incarnation(2),
        sent_ms: 0,
        time_left: Some(Duration::from_secs(5)),
        subject: "math.sum",
        payload,
    }
}

/// Encodes a request: one allocation, one copy, one checksum, and dropping the frame.
#[divan::bench(args = PAYLOAD_BYTES)]
fn encode(bencher: Bencher<'_, '_>, payload_bytes: usize) {
    let payload = vec![0xab; payload_bytes];
    bencher
        .counter(BytesCount::new(payload_bytes))
        .bench_local(|| request(black_box(&payload)).encode());
}

/// Decodes a request: one checksum, no copy.
#[divan::bench(args = PAYLOAD_BYTES)]
fn decode(bencher: Bencher<'_, '_>, payload_bytes: usize) {
    let payload = vec![0xab; payload_bytes];
    let frame = request(&payload).encode();
    let limits = Limits::default();
    bencher
        .counter(BytesCount::new(payload_bytes))
        .bench_local(|| Envelope::decode(black_box(&frame), &limits));
}

/// Checks a payload of many small elements, its worst case: one step for each.
#[divan::bench(args = PAYLOAD_BYTES)]
fn check_payload_of_numbers(bencher: Bencher<'_, '_>, elements: usize) {
    let bytes = payload::encode(&vec![7_u8; elements]).expect("below the limit of elements");
    bencher.counter(BytesCount::new(bytes.len())).bench_local(|| payload::check(black_box(&bytes)));
}

/// Adds a request and completes the oldest one, with this many in flight all the time.
#[divan::bench(args = [1_usize, 100, 10_000])]
fn insert_and_complete_request(bencher: Bencher<'_, '_>, in_flight: usize) {
    let mut requests = Requests::new(in_flight, 1);
    let mut now = Time::ZERO;
    let mut insert = |requests: &mut Requests<u64>| {
        now = now + Duration::from_micros(3);
        let deadline = now + Duration::from_secs(5);
        requests.insert(deadline, ROUTE, 0).expect("the oldest has been completed")
    };
    let mut ids: Vec<_> = (0..in_flight).map(|_| insert(&mut requests)).collect();
    let mut oldest = 0;
    bencher.bench_local(|| {
        let ticket = requests.complete(black_box(ids[oldest]), ROUTE);
        ids[oldest] = insert(&mut requests);
        oldest = (oldest + 1) % in_flight;
        ticket
    });
}

fn registry() -> Handlers<u64> {
    let mut handlers = Handlers::new();
    let exact = (0..100).map(|n| format!("service.{n}.call"));
    let wildcards = (0..10).map(|n| format!("metrics.{n}.*"));
    for (text, handler) in exact.chain(wildcards).zip(0..) {
        let pattern = Pattern::new(&text).expect("a pattern");
        for verb in [Verb::Request, Verb::Tick] {
            handlers.insert(verb, pattern.clone(), handler).expect("not registered before");
        }
    }
    handlers
}

/// Finds the handler of a request among 100 exact subjects and 10 patterns: the first subject is
/// exact, the second matches the last pattern, the third matches none.
#[divan::bench(args = ["service.42.call", "metrics.9.cpu", "nobody.knows"])]
fn find_request_handler(bencher: Bencher<'_, '_>, subject: &str) {
    let handlers = registry();
    bencher.bench_local(|| handlers.request_handler(black_box(subject)).map(|found| *found.1));
}

/// Walks the handlers of a tick, which asks every pattern.
#[divan::bench(args = ["service.42.call", "metrics.9.cpu"])]
fn find_tick_handlers(bencher: Bencher<'_, '_>, subject: &str) {
    let handlers = registry();
    bencher.bench_local(|| {
        handlers.tick_handlers(black_box(subject)).map(|found| *found.1).sum::<u64>()
    });
}
