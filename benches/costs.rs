//! What an operation costs the processes that take part in it: sleeps, system calls, allocations,
//! time on a processor.
//!
//! Three members and one client are processes of their own, over loopback, with their logs on one
//! disk. Each case does the same operation again and again, and what every process used meanwhile is
//! divided by the number of operations; the share of what idle processes do (heartbeats) is in it.
//! Counts hardly depend on how busy the machine is, except that many operations share one sleep or
//! one sync when they come together; that is what the cases with 64 and 256 at once show.
//!
//! Sleeps and time come from `/proc`. System calls need `perf` and leave to trace; allocations need
//! a probe in libc besides, made once by root:
//!
//! ```text
//! perf probe -x /lib/x86_64-linux-gnu/libc.so.6 'malloc bytes=%di:u64'
//! cargo bench --bench costs                        a table, half a minute
//! cargo bench --bench costs -- --json              one JSON object a line
//! cargo bench --bench costs -- --transport libzmq
//! cargo bench --bench costs -- --payload 65536     of 128 bytes otherwise
//! ```
//!
//! A count that cannot be had is left out. Allocations that have room for the payload are counted by
//! themselves if it is of 16 KiB or more: each is a place that the payload is copied to, or that it
//! is received into from the kernel. Counting makes things slower (each allocation traps), so
//! the time on a processor is taken in a run of its own, and no latency is printed.

#![expect(clippy::print_stdout, reason = "the table is the purpose")]
#![expect(clippy::unwrap_used, reason = "a benchmark that fails shall end")]

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process};
use zmesh::kv::Kv;
use zmesh::log::{Log, Record, Topic};
use zmesh::route::Filter;
use zmesh::transport::Kind;
use zmesh::{Node, log};

#[allow(dead_code, reason = "shared with the tests of the cluster, which do more with it")]
#[path = "../tests/cluster/processes.rs"]
mod processes;
mod usage;

use processes::{DEADLINE, HEARTBEAT, Processes};
use usage::Usage;

const KEYS: u64 = 1_000;
/// The subject under which every member sends back what it gets.
const ECHO: &str = "zmesh.echo";
/// Log groups of a member unless it is told otherwise.
const GROUPS: u16 = 4;
/// In which `perf` has begun to count.
const PERF_BEGINS: Duration = Duration::from_millis(400);
const SYSTEM_CALLS: &str = "raw_syscalls:sys_enter";
const ALLOCATIONS: &str = "probe_libc:malloc";
/// Payloads that nothing else is as large as.
const LARGE: usize = 16 << 10;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Operation {
    Request,
    Get,
    Set,
    Append,
}

/// What is done, by how many at once, how often in all.
const CASES: [(Operation, usize, usize); 9] = [
    (Operation::Request, 1, 10_000),
    (Operation::Request, 64, 64_000),
    (Operation::Get, 1, 2_000),
    (Operation::Get, 64, 32_000),
    (Operation::Set, 1, 1_000),
    (Operation::Set, 64, 19_200),
    (Operation::Set, 256, 38_400),
    (Operation::Append, 1, 1_000),
    (Operation::Append, 64, 32_000),
];

/// What a process takes part as.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Role {
    Client,
    /// The one that is asked; for what is replicated, the leader.
    Server,
    /// The two others together.
    Others,
}

/// What the processes of one role used, for one operation.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    sleeps: f64,
    cpu_us: f64,
    /// System calls, allocations, and those of them that have room for the payload.
    counts: [Option<f64>; 3],
}

/// Who does the operations, on whom.
struct Bench {
    node: Node,
    kv: Kv,
    topic: Topic,
    payload: Bytes,
    cluster: Processes,
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let native = !arguments.windows(2).any(|pair| pair == ["--transport", "libzmq"]);
    let payload = arguments.windows(2).find(|pair| pair[0] == "--payload");
    let payload = payload.map_or(128, |pair| pair[1].parse().unwrap());
    // Of large payloads as many bytes as of a payload of 1 KiB.
    let share = if has("--test") { 100 } else { (payload >> 10).clamp(1, 64) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let bench = Bench::start(native, payload).await;
        if !has("--json") {
            let transport = if native { "native" } else { "libzmq" };
            println!("one operation of {payload} bytes costs, over {transport}");
            println!(
                "{:<9}{:>8}  {:<9}{:>9}{:>14}{:>13}{:>8}{:>9}",
                "",
                "at once",
                "process",
                "sleeps",
                "system calls",
                "allocations",
                "large",
                "CPU us"
            );
        }
        for (operation, at_once, count) in CASES {
            let count = (count / share).max(1).next_multiple_of(at_once);
            let costs = bench.costs(operation, at_once, count).await;
            print(has("--json"), operation, at_once, &costs);
        }
    });
}

fn print(json: bool, operation: Operation, at_once: usize, costs: &BTreeMap<Role, Cost>) {
    let name = format!("{operation:?}").to_lowercase();
    for (role, Cost { sleeps, cpu_us, counts }) in costs {
        let role = format!("{role:?}").to_lowercase();
        let [system_calls, allocations, large] = *counts;
        if json {
            let line = serde_json::json!({
                "scenario": name, "at_once": at_once, "process": role, "sleeps": sleeps,
                "system_calls": system_calls, "allocations": allocations,
                "large_allocations": large, "cpu_us": cpu_us,
            });
            println!("{line}");
            continue;
        }
        let [system_calls, allocations, large] = counts.map(|count| match count {
            Some(count) => format!("{count:.2}"),
            None => "-".to_owned(),
        });
        println!(
            "{name:<9}{at_once:>8}  {role:<9}{sleeps:>9.2}{system_calls:>14}{allocations:>13}\
             {large:>8}{cpu_us:>9.1}"
        );
    }
}

impl Bench {
    async fn start(native: bool, payload: usize) -> Self {
        let flags = ["--transport", if native { "native" } else { "libzmq" }];
        let cluster = Processes::start_with(3, &flags).await;
        let kind = if native { Kind::Native } else { Kind::Libzmq };
        let mut builder = Node::builder("client").heartbeat(HEARTBEAT).transport_kind(kind);
        for number in 0..cluster.count() {
            builder = builder.connect(cluster.address(number));
        }
        let node = builder.start().unwrap();
        node.wait_for_peers(&Filter::any(), cluster.count(), DEADLINE).await.unwrap();
        let kv = Kv::new(&node).timeout(DEADLINE);
        let topic = Log::new(&node).timeout(DEADLINE).topic("costs");
        let payload = Bytes::from(vec![0xA5; payload]);
        let bench = Self { node, kv, topic, payload, cluster };
        for operation in [Operation::Set, Operation::Append, Operation::Get] {
            bench.run(operation, 64, 1_920).await;
        }
        bench
    }

    /// What the operation costs each role: once counted, once timed.
    async fn costs(
        &self,
        operation: Operation,
        at_once: usize,
        count: usize,
    ) -> BTreeMap<Role, Cost> {
        let server = self.server(operation);
        let pids: Vec<(Role, u32)> = (0..self.cluster.count())
            .map(|number| {
                let role = if number == server { Role::Server } else { Role::Others };
                (role, self.cluster.pid(number))
            })
            .chain([(Role::Client, std::process::id())])
            .collect();
        let mut costs = BTreeMap::<Role, Cost>::new();
        let before: Vec<Usage> = pids.iter().map(|(_, pid)| Usage::of(*pid).unwrap()).collect();
        self.run(operation, at_once, count).await;
        for ((role, pid), before) in pids.iter().zip(before) {
            let (cost, used) = (costs.entry(*role).or_default(), Usage::of(*pid).unwrap() - before);
            cost.sleeps += used.switches as f64 / count as f64;
            cost.cpu_us += used.cpu.as_secs_f64() * 1e6 / count as f64;
        }
        let counters: Vec<_> = pids
            .iter()
            .map(|(role, pid)| (*role, Counter::start(*pid, self.payload.len())))
            .collect();
        tokio::time::sleep(PERF_BEGINS).await;
        self.run(operation, at_once, count).await;
        for (role, counter) in counters {
            let counted = counter.map(Counter::stop).unwrap_or_default();
            let cost = costs.entry(role).or_default();
            for (sum, number) in cost.counts.iter_mut().zip(counted) {
                *sum = Some(sum.unwrap_or(0.0) + number as f64 / count as f64);
            }
        }
        costs
    }

    /// The member that the operation goes to.
    fn server(&self, operation: Operation) -> usize {
        let service = match operation {
            Operation::Request => return 0,
            Operation::Get | Operation::Set => "kv",
            Operation::Append => log::service(log::group_of("costs", GROUPS)),
        };
        let role = format!("_{service}.role");
        let peers = self.node.peers();
        let leads =
            |peer: &&zmesh::PeerView| peer.labels.get(&role).is_some_and(|is| is == "leader");
        let leader = peers.iter().find(leads).expect("somebody leads").node.clone();
        (0..self.cluster.count())
            .find(|number| self.cluster.id(*number) == leader.as_str())
            .unwrap()
    }

    /// Does the operation `count` times, `at_once` of them at a time.
    async fn run(&self, operation: Operation, at_once: usize, count: usize) {
        let clients = (0..at_once).map(|client| {
            let (node, kv, topic) = (self.node.clone(), self.kv.clone(), self.topic.clone());
            let payload = self.payload.clone();
            let first = self.cluster.id(0).to_owned();
            let mut rng = fastrand::Rng::with_seed(client as u64);
            tokio::spawn(async move {
                for _ in 0..count.div_ceil(at_once) {
                    let key = format!("key-{:012}", rng.u64(0..KEYS));
                    let value = payload.clone();
                    match operation {
                        Operation::Request => {
                            drop(node.request_raw(&first, ECHO, value).await.unwrap());
                        }
                        Operation::Get => drop(kv.get(key).await.unwrap()),
                        Operation::Set => drop(kv.set(key, value).await.unwrap()),
                        Operation::Append => drop(topic.append(Record::new(value)).await.unwrap()),
                    }
                }
            })
        });
        let clients: Vec<_> = clients.collect();
        for client in clients {
            client.await.unwrap();
        }
    }
}

/// `perf stat`, attached to a process.
struct Counter(Child);

impl Counter {
    /// Begins to count what can be counted here.
    fn start(process: u32, payload: usize) -> Option<Self> {
        let mut command = Command::new("perf");
        command.args(["stat", "-x", ",", "-p", &process.to_string()]);
        if !can_count(SYSTEM_CALLS) {
            return None;
        }
        command.args(["-e", SYSTEM_CALLS]);
        if can_count(ALLOCATIONS) {
            command.args(["-e", ALLOCATIONS]);
            if payload >= LARGE {
                command.args(["-e", ALLOCATIONS, "--filter", &format!("bytes >= {payload}")]);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().ok().map(Self)
    }

    /// What was counted, in the order in which it was asked for.
    fn stop(self) -> Vec<u64> {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).unwrap()).unwrap();
        kill_process(pid, Signal::INT).unwrap();
        let printed = self.0.wait_with_output().unwrap().stderr;
        // A line is the count, its unit, the event, and more.
        let count = |line: &str| line.split(',').next()?.parse().ok();
        String::from_utf8_lossy(&printed).lines().filter_map(count).collect()
    }
}

/// Whether `perf` knows this event and may count it.
fn can_count(event: &str) -> bool {
    let mut command = Command::new("perf");
    command.args(["stat", "-e", event, "true"]);
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
