//! Those who do the operations.
//!
//! A client is a node of its own; it has so many operations outstanding at once, each in a task.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use zmesh::kv::{KeyRange, Kv, Operation, StepResult};
use zmesh::log::{Log, Record, Start, Tail, Topic};
use zmesh::replica::Acks;
use zmesh::transport::Kind;
use zmesh::{Call, Clock, Node, NodeId, Time};

use super::super::client;
use super::super::failure::{Exit, Failure};
use super::recorder::Recorder;
use super::schedule::Schedule;
use super::{Scenario, Stop};

/// The subject of the handler of `zmesh serve` that sends back what it gets.
const ECHO: &str = "zmesh.echo";
/// Where ticks go.
const SINK: &str = "bench.tick";
/// Ticks on their way at most: fewer than a queue has room for.
const TICKS_MAX: u64 = 1_024;
/// The longest that one operation may take.
const OPERATION_MAX: Duration = Duration::from_secs(30);
/// Time in which all that is on its way arrives, at the end.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// Operations of one transaction when keys are filled.
const FILL: u64 = 100;
/// Bytes of the time that payloads of ticks and followed records begin with.
const STAMP_BYTES: usize = 8;

/// What is done, and how much of it.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) scenario: Scenario,
    pub(super) clients: u16,
    pub(super) outstanding: u16,
    pub(super) payload: usize,
    pub(super) keys: u64,
    /// Reads of a hundred operations, in `mixed`.
    pub(super) reads: u8,
    pub(super) acks: Acks,
    pub(super) stale: bool,
    pub(super) seed: u64,
    /// Of the clients.
    pub(super) transport: Kind,
    pub(super) schedule: Schedule,
}

/// What all tasks share.
#[derive(Debug)]
pub(super) struct Shared {
    plan: Plan,
    /// What keys and the topic begin with.
    name: String,
    clock: Clock,
    began: Time,
    next: AtomicU64,
    stops: AtomicBool,
    pub(super) recorder: Mutex<Recorder>,
    /// Numbers of the writes that were acknowledged, where these are read back.
    acknowledged: Mutex<Vec<u64>>,
    /// Messages that were sent, of which somebody else hears.
    sent: AtomicU64,
    received: AtomicU64,
}

/// Operations under way.
pub(super) struct Work {
    pub(super) shared: Arc<Shared>,
    nodes: Vec<Node>,
    tasks: JoinSet<()>,
    followers: JoinSet<()>,
}

/// What one task works with.
#[derive(Clone)]
struct Client {
    shared: Arc<Shared>,
    node: Node,
    peer: NodeId,
    kv: Kv,
    topic: Topic,
    /// Where ticks go.
    sink: NodeId,
}

impl Work {
    /// Connects the clients, fills what is to be read, and begins.
    pub(super) async fn start(
        plan: Plan,
        name: String,
        client: impl Fn(Kind) -> Result<Node, Failure>,
        peer: &NodeId,
        stop: &Stop,
    ) -> Result<Self, Failure> {
        let clock = Clock::start();
        let mut nodes = Vec::new();
        for _ in 0..plan.clients {
            let node = client(plan.transport)?;
            if !client::joins(&node, peer, OPERATION_MAX).await {
                let message = format!("{peer} did not answer within {OPERATION_MAX:?}");
                return Err(Failure::new(Exit::Unreachable, message));
            }
            nodes.push(node);
        }
        let kv = Kv::new(&nodes[0]).timeout(OPERATION_MAX);
        if matches!(plan.scenario, Scenario::Get | Scenario::Mixed)
            && let Err(failure) = fill(&kv, &plan, &name, stop).await
        {
            // Somebody else's cluster is not to keep half of it.
            while let Ok(true) = clear_some(&kv, &name).await {}
            return Err(failure);
        }
        let shared = Arc::new(Shared {
            plan,
            name,
            clock,
            began: clock.now(),
            next: AtomicU64::new(0),
            stops: AtomicBool::new(false),
            recorder: Mutex::new(Recorder::new()),
            acknowledged: Mutex::new(Vec::new()),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
        });
        let mut work = Self { shared, nodes, tasks: JoinSet::new(), followers: JoinSet::new() };
        work.begin(peer).await?;
        Ok(work)
    }

    async fn begin(&mut self, peer: &NodeId) -> Result<(), Failure> {
        let mut sink = None;
        if self.shared.plan.scenario == Scenario::Tick {
            sink = Some(self.sink(&self.nodes[0].status().cluster).await?);
        } else if self.shared.plan.scenario == Scenario::Tail {
            let log = Log::new(&self.nodes[0]).timeout(OPERATION_MAX);
            let tail = log.topic(self.shared.name.clone()).tail(Start::First);
            self.followers.spawn(follow(Arc::clone(&self.shared), tail));
        }
        let plan = self.shared.plan.clone();
        for (number, node) in self.nodes.iter().take(usize::from(plan.clients)).enumerate() {
            let log = Log::new(node).timeout(OPERATION_MAX);
            let client = Client {
                shared: Arc::clone(&self.shared),
                node: node.clone(),
                peer: peer.clone(),
                kv: Kv::new(node).timeout(OPERATION_MAX).acks(plan.acks),
                topic: log.topic(self.shared.name.clone()),
                sink: sink.clone().unwrap_or_else(|| peer.clone()),
            };
            for task in 0..u64::from(plan.outstanding) {
                let seed = plan.seed ^ (number as u64) << 32 ^ task;
                self.tasks.spawn(client.clone().run(fastrand::Rng::with_seed(seed)));
            }
        }
        Ok(())
    }

    /// A node of this process that hears the ticks, and that all clients are linked to.
    async fn sink(&mut self, cluster: &str) -> Result<NodeId, Failure> {
        let id = format!("cli-sink-{}", uuid::Uuid::new_v4().simple());
        let builder = Node::builder(&id[..25]).cluster(cluster).bind("tcp://127.0.0.1:0");
        let builder = builder.transport_kind(self.shared.plan.transport);
        let sink = builder.start().map_err(|error| Failure::from_error(Exit::Refused, &error))?;
        let shared = Arc::clone(&self.shared);
        let heard = move |call: Call| {
            shared.heard(&call.payload);
            std::future::ready(Ok(Bytes::new()))
        };
        let registered = sink.on(SINK).tick_raw(heard);
        registered.map_err(|error| Failure::from_error(Exit::Refused, &error))?;
        let address = sink.address().expect("it is bound").clone();
        for node in &self.nodes {
            let dialed = node.connect(address.clone());
            dialed.map_err(|error| Failure::from_error(Exit::Refused, &error))?;
            if !client::joins(node, sink.id(), OPERATION_MAX).await {
                return Err(Failure::new(Exit::Unreachable, "the receiver of ticks is silent"));
            }
        }
        let id = sink.id().clone();
        self.nodes.push(sink);
        Ok(id)
    }

    /// Lets everybody finish what they are at, and waits for what is on its way. What was meant to
    /// begin by now and has not is counted: it would have been the slowest.
    pub(super) async fn end(&mut self) {
        let (shared, now) = (Arc::clone(&self.shared), self.shared.elapsed());
        let not_begun = shared.plan.schedule.not_begun(shared.next.load(Ordering::Relaxed), now);
        shared.stops.store(true, Ordering::Relaxed);
        while self.tasks.join_next().await.is_some() {}
        let drained = async {
            while shared.on_the_way() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        drop(tokio::time::timeout(DRAIN_MAX, drained).await);
        self.followers.shutdown().await;
        let mut recorder = shared.recorder.lock();
        recorder.missing("NOT_BEGUN", not_begun);
        recorder.missing("NOT_RECEIVED", shared.on_the_way());
    }

    /// Acknowledged writes that cannot be read back.
    pub(super) async fn lost(&self) -> Result<u64, Failure> {
        let kv = Kv::new(&self.nodes[0]).timeout(OPERATION_MAX);
        let acknowledged = std::mem::take(&mut *self.shared.acknowledged.lock());
        let mut lost = 0;
        for chunk in acknowledged.chunks(64) {
            let reads = chunk.iter().map(|number| {
                tokio::spawn({
                    let (kv, key) = (kv.clone(), self.shared.key(*number));
                    async move { kv.get(key).await }
                })
            });
            let reads: Vec<_> = reads.collect();
            for read in reads {
                let found = read.await.expect("a read does not panic");
                let found =
                    found.map_err(|error| Failure::from_error(Exit::Unreachable, &error))?;
                lost += u64::from(found.is_none());
            }
        }
        Ok(lost)
    }

    /// Removes what was written, and closes the nodes.
    pub(super) async fn clean_up(self, keeps: bool) {
        let kv = Kv::new(&self.nodes[0]).timeout(OPERATION_MAX);
        if !keeps && self.shared.plan.scenario.writes_keys() {
            // What is left does not matter to anybody.
            while let Ok(true) = clear_some(&kv, &self.shared.name).await {}
        }
        if !keeps && self.shared.plan.scenario.writes_records() {
            let log = Log::new(&self.nodes[0]).timeout(OPERATION_MAX);
            drop(log.topic(self.shared.name.clone()).delete().await);
        }
        for node in self.nodes {
            node.stop().await;
        }
    }
}

/// Clears some keys with a prefix; says whether there are more.
async fn clear_some(kv: &Kv, prefix: &str) -> Result<bool, zmesh::kv::Error> {
    let range = KeyRange::prefix(prefix.to_owned());
    let cleared = kv.txn().then(Operation::ClearRange { range }).await?;
    Ok(matches!(cleared.results.first(), Some(StepResult::ClearedRange { has_more: true, .. })))
}

async fn fill(kv: &Kv, plan: &Plan, name: &str, stop: &Stop) -> Result<(), Failure> {
    let value = Bytes::from(vec![0xA5; plan.payload]);
    // One entry has room for a few hundred KiB of them.
    let batch = (256 * 1024 / (plan.payload as u64 + 64)).clamp(1, FILL);
    for first in (0..plan.keys).step_by(usize::try_from(batch).unwrap_or(1)) {
        if *stop.borrow() {
            return Err(Failure::new(Exit::Refused, "interrupted while keys were written"));
        }
        let numbers = first..(first + batch).min(plan.keys);
        let set = |number| Operation::set(key(name, number), value.clone());
        let filled = numbers.fold(kv.txn(), |txn, number| txn.then(set(number))).await;
        filled.map_err(|error| Failure::from_error(Exit::Refused, &error))?;
    }
    Ok(())
}

fn key(name: &str, number: u64) -> String {
    format!("{name}/{number:012}")
}

impl Shared {
    /// Time since the beginning.
    pub(super) fn elapsed(&self) -> Duration {
        self.clock.now() - self.began
    }

    fn key(&self, number: u64) -> String {
        key(&self.name, number)
    }

    /// Messages that were sent and that nobody has heard of.
    fn on_the_way(&self) -> u64 {
        let received = self.received.load(Ordering::Relaxed);
        self.sent.load(Ordering::Relaxed).saturating_sub(received)
    }

    fn done(&self, began: Duration) {
        let now = self.elapsed();
        if self.plan.schedule.counts(began) {
            let at = now.saturating_sub(self.plan.schedule.warm_up);
            self.recorder.lock().done(at, now.saturating_sub(began));
        }
    }

    fn failed(&self, began: Duration, code: zmesh::ErrorCode) {
        if self.plan.schedule.counts(began) {
            let at = self.elapsed().saturating_sub(self.plan.schedule.warm_up);
            self.recorder.lock().failed(at, code.name());
        }
    }

    /// A message arrived that begins with the time at which it was sent.
    fn heard(&self, payload: &[u8]) {
        self.received.fetch_add(1, Ordering::Relaxed);
        if let Some(stamp) = payload.first_chunk::<STAMP_BYTES>() {
            self.done(Duration::from_nanos(u64::from_le_bytes(*stamp)));
        }
    }

    /// A payload; it begins with a time where somebody else looks at it.
    fn payload(&self, began: Duration) -> Bytes {
        let mut out = BytesMut::with_capacity(self.plan.payload.max(STAMP_BYTES));
        if matches!(self.plan.scenario, Scenario::Tick | Scenario::Tail) {
            out.put_u64_le(u64::try_from(began.as_nanos()).unwrap_or(u64::MAX));
        }
        out.resize(self.plan.payload.max(out.len()), 0xA5);
        out.freeze()
    }
}

/// Hears of every record of the topic.
async fn follow(shared: Arc<Shared>, mut tail: Tail) {
    loop {
        match tail.next().await {
            Ok(stored) => shared.heard(stored.value()),
            // The topic comes with its first record, and replicas come and go.
            Err(error) if error.is_retryable() => {}
            Err(error) => return shared.failed(shared.elapsed(), error.code()),
        }
    }
}

impl Client {
    async fn run(self, mut rng: fastrand::Rng) {
        let (shared, schedule) = (Arc::clone(&self.shared), self.shared.plan.schedule);
        while !shared.stops.load(Ordering::Relaxed) {
            let (number, now) = (shared.next.fetch_add(1, Ordering::Relaxed), shared.elapsed());
            let Some(at) = schedule.intended(number, now) else { return };
            let began = match at.checked_sub(now).filter(|wait| !wait.is_zero()) {
                // It is on time; that a timer is late by up to a millisecond is not the cluster's.
                Some(wait) => {
                    tokio::time::sleep(wait).await;
                    shared.elapsed()
                }
                // It had to wait for somebody to have time, and that counts.
                None => at,
            };
            if let Err(code) = self.once(number, began, &mut rng).await {
                shared.failed(began, code);
                // Whatever refuses at once would otherwise be all that is measured.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    /// One operation, from which the next one of this task waits.
    async fn once(
        &self,
        number: u64,
        began: Duration,
        rng: &mut fastrand::Rng,
    ) -> Result<(), zmesh::ErrorCode> {
        let (shared, plan) = (&self.shared, &self.shared.plan);
        let payload = shared.payload(began);
        let (key, percent) = (shared.key(rng.u64(0..plan.keys)), rng.u8(0..100));
        match plan.scenario {
            Scenario::Request => {
                let reply = self.node.request_raw(&self.peer, ECHO, payload).await;
                reply.map_err(|error| error.code())?;
            }
            Scenario::Tick => return self.tick(payload).await,
            Scenario::Get => self.get(key).await?,
            Scenario::Mixed if percent < plan.reads => self.get(key).await?,
            Scenario::Mixed | Scenario::Set => {
                self.kv.set(key, payload).await.map_err(|error| error.code())?;
            }
            Scenario::Append => {
                let appended = self.topic.append(Record::new(payload)).await;
                appended.map_err(|error| error.code())?;
            }
            Scenario::Tail => {
                let appended = self.topic.append(Record::new(payload)).await;
                appended.map_err(|error| error.code())?;
                // Whoever follows says how long it took.
                shared.sent.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            Scenario::Failover => {
                let set = self.kv.set(shared.key(number), payload).await;
                set.map_err(|error| error.code())?;
                shared.acknowledged.lock().push(number);
            }
        }
        shared.done(began);
        Ok(())
    }

    async fn get(&self, key: String) -> Result<(), zmesh::ErrorCode> {
        let found = match self.shared.plan.stale {
            true => self.kv.get_stale(&self.peer, key).await.map(drop),
            false => self.kv.get(key).await.map(drop),
        };
        found.map_err(|error| error.code())
    }

    /// Sends a tick, with not too many on their way.
    async fn tick(&self, payload: Bytes) -> Result<(), zmesh::ErrorCode> {
        let shared = &self.shared;
        while shared.on_the_way() >= TICKS_MAX {
            if shared.stops.load(Ordering::Relaxed) {
                return Ok(());
            }
            tokio::task::yield_now().await;
        }
        self.node.tick_raw(&self.sink, SINK, payload).map_err(|error| error.code())?;
        shared.sent.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}
