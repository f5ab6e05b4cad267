//! A node and its peers.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use zmesh::Node;
use zmesh::route::Filter;

use super::center::{Center, ECHO, describe};
use super::usage::{Usage, memory};
use super::{Options, print};

/// What never takes so long unless it is broken.
const DEADLINE: Duration = Duration::from_secs(60);
const ROUND_TRIPS: u64 = 3_000;

/// Who dials.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Way {
    Incoming,
    Outgoing,
}

pub(crate) async fn run(options: &Options) {
    zmesh::transport::zmq::check_descriptors();
    let counts: &[usize] = if options.test { &[3] } else { &[10, 100, 300, 1_000] };
    for way in [Way::Incoming, Way::Outgoing] {
        let alone = {
            let (center, _nodes) = gather(options, way, 1).await;
            memory(center.pid(), "VmRSS").unwrap()
        };
        let scenario = format!("1 peer, {}", format!("{way:?}").to_lowercase());
        print(options, &scenario, &[("resident_mib", alone)]);
        for count in counts {
            measure(options, way, *count, alone).await;
        }
    }
}

/// The node in the middle and so many others, all of which know it.
async fn gather(options: &Options, way: Way, count: usize) -> (Center, Vec<Node>) {
    let describe = |number: usize| describe(&format!("peer-{number}"), options.transport);
    let mut nodes = Vec::new();
    let center = match way {
        Way::Incoming => {
            let center = Center::start(options, &[]);
            for number in 0..count {
                nodes.push(describe(number).connect(center.address.as_str()).start().unwrap());
            }
            center
        }
        Way::Outgoing => {
            for number in 0..count {
                nodes.push(describe(number).bind("tcp://127.0.0.1:0").start().unwrap());
            }
            let addresses = nodes.iter().map(|node| node.address().unwrap().to_string());
            Center::start(options, &addresses.collect::<Vec<_>>())
        }
    };
    for node in &nodes {
        node.wait_for_peers(&Filter::any(), 1, DEADLINE).await.unwrap();
    }
    (center, nodes)
}

async fn measure(options: &Options, way: Way, count: usize, alone: f64) {
    let began = Instant::now();
    let (center, nodes) = gather(options, way, count).await;
    let joined = began.elapsed();
    let idle = Duration::from_secs(if options.test { 1 } else { 5 });
    let before = Usage::of(center.pid()).unwrap();
    tokio::time::sleep(idle).await;
    let used = Usage::of(center.pid()).unwrap() - before;
    let resident = memory(center.pid(), "VmRSS").unwrap();
    let mut latencies = Histogram::<u64>::new(3).unwrap();
    for _ in 0..if options.test { 10 } else { ROUND_TRIPS } {
        let began = Instant::now();
        let _reply: String = nodes[count / 2].request("center", ECHO, "hello").await.unwrap();
        latencies.record(u64::try_from(began.elapsed().as_nanos()).unwrap()).unwrap();
    }
    let scenario = format!("{count} peers, {}", format!("{way:?}").to_lowercase());
    let figures = [
        ("joined_ms", joined.as_secs_f64() * 1e3),
        ("resident_mib", resident),
        ("kib_per_peer", (resident - alone) * 1_024.0 / (count - 1) as f64),
        ("descriptors", center.descriptors() as f64),
        ("idle_cpu_percent", used.cpu.as_secs_f64() / idle.as_secs_f64() * 100.0),
        ("p50_us", latencies.value_at_quantile(0.5) as f64 / 1e3),
        ("p99_us", latencies.value_at_quantile(0.99) as f64 / 1e3),
    ];
    print(options, &scenario, &figures);
}
