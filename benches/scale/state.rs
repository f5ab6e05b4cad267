//! A member and what it holds.

use bytes::Bytes;
use tokio::task::JoinSet;
use zmesh::kv::Kv;
use zmesh::log::{Log, Record};

use super::usage::memory;
use super::{Options, print};

#[allow(dead_code, reason = "shared with the tests of the cluster, which do more with it")]
#[path = "../../tests/cluster/processes.rs"]
mod processes;

use processes::{DEADLINE, Processes};

/// Bytes of keys are 16, of values and records 128.
const VALUE: Bytes = Bytes::from_static(&[0xA5; 128]);
/// Operations at once.
const AT_ONCE: u64 = 256;

pub(crate) async fn run(options: &Options) {
    let counts: &[u64] = if options.test { &[300] } else { &[10_000, 100_000, 1_000_000] };
    for count in counts {
        keys(options, *count).await;
    }
    let counts: &[u64] = if options.test { &[300] } else { &[1_000, 10_000] };
    for count in counts {
        topics(options, *count).await;
    }
}

/// The memory of a member that has done as much with one key as it then does with so many.
async fn keys(options: &Options, count: u64) {
    let (one, many) = (filled_keys(count, true).await, filled_keys(count, false).await);
    let figures = [
        ("resident_mib", many),
        ("one_key_mib", one),
        ("bytes_per_key", (many - one) * 1_048_576.0 / count as f64),
    ];
    print(options, &format!("{count} keys"), &figures);
}

async fn filled_keys(count: u64, is_same: bool) -> f64 {
    let cluster = Processes::start(1).await;
    let node = cluster.client("client", 0).await;
    let kv = Kv::new(&node).timeout(DEADLINE);
    let set = |number: u64| {
        let (kv, number) = (kv.clone(), if is_same { 0 } else { number });
        async move { drop(kv.set(format!("key-{number:012}"), VALUE).await.unwrap()) }
    };
    at_once(count, set).await;
    memory(cluster.pid(0), "VmRSS").unwrap()
}

async fn topics(options: &Options, count: u64) {
    let cluster = Processes::start(1).await;
    let node = cluster.client("client", 0).await;
    let log = Log::new(&node).timeout(DEADLINE);
    let append = |name: String| {
        let topic = log.topic(name);
        async move {
            topic.append(Record::new(VALUE)).await.unwrap();
        }
    };
    // As many records in one topic, so that only the topics make the difference.
    at_once(count, |_| append("one".to_owned())).await;
    let one = memory(cluster.pid(0), "VmRSS").unwrap();
    at_once(count, |number| append(format!("topic-{number}"))).await;
    let many = memory(cluster.pid(0), "VmRSS").unwrap();
    let figures = [
        ("resident_mib", many),
        ("one_topic_mib", one),
        ("bytes_per_topic", (many - one) * 1_048_576.0 / count as f64),
    ];
    print(options, &format!("{count} topics"), &figures);
}

/// Does something so many times, some at once.
async fn at_once<F: Future<Output = ()> + Send + 'static>(count: u64, work: impl Fn(u64) -> F) {
    let mut running = JoinSet::new();
    for number in 0..count {
        if number >= AT_ONCE {
            running.join_next().await.unwrap().unwrap();
        }
        running.spawn(work(number));
    }
    while let Some(done) = running.join_next().await {
        done.unwrap();
    }
}
