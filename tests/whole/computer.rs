//! A computer: a disk, a clock, and the process that runs on it, which is a whole node with its
//! replicas on a runtime of its own.
//!
//! Its clock is virtual and goes at its own pace. To kill the process is to drop its runtime, in the
//! middle of whatever its tasks do.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use zmesh::host::Host;
use zmesh::node::Peer;
use zmesh::replica::{Leadership, ReplicaSettings, StopCause, Stopped};
use zmesh::transport::memory::{Network, Station};
use zmesh::wal::{Disk, Keep, MemoryDisk};
use zmesh::{Address, Node, NodeId, Time, transport};

use crate::desk::{ECHO, NOTE};
use crate::oracle::Oracle;
use crate::plan::{Mutant, Plan};
use crate::slow_disk::{SlowDisk, Slowness};
use crate::trace::Trace;
use crate::wire::Wire;

pub(crate) const DATA_DIR: &str = "/data";
const LOG_GROUPS: u16 = 1;

/// A runtime whose clock only goes when it is told to.
pub(crate) struct Clockwork {
    runtime: Runtime,
    start: tokio::time::Instant,
    /// The time of the world when it began.
    began: Time,
    rate: f64,
}

impl Clockwork {
    pub(crate) fn new(now: Time, rate: f64) -> Self {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build().expect("a runtime");
        let start = runtime.block_on(async { tokio::time::Instant::now() });
        Self { runtime, start, began: now, rate }
    }

    /// Lets everything happen that happens until the world has come to `now`. After a pause the
    /// clock jumps: nobody ran in between.
    pub(crate) fn run(&self, now: Time) {
        let goal = self.start + now.saturating_since(self.began).mul_f64(self.rate);
        self.runtime.block_on(async {
            let behind = goal.saturating_duration_since(tokio::time::Instant::now());
            if behind > Duration::from_millis(5) {
                tokio::time::advance(behind - Duration::from_millis(1)).await;
            }
            tokio::time::sleep_until(goal).await;
        });
    }

    pub(crate) fn enter<T>(&self, work: impl FnOnce() -> T) -> T {
        let _inside = self.runtime.enter();
        work()
    }

    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.runtime.spawn(future)
    }
}

/// One start of a process. The fields go in this order: first the runtime, so that nothing is said
/// any more when the handles go.
pub(crate) struct Life {
    clockwork: Clockwork,
    node: Node,
    _host: Host,
    pub(crate) station: Station,
    stopped: Arc<Mutex<Option<(&'static str, Stopped)>>>,
    pub(crate) leaderships: Vec<(&'static str, watch::Receiver<Leadership>)>,
}

pub(crate) struct Computer {
    pub(crate) id: NodeId,
    pub(crate) address: Address,
    pub(crate) disk: MemoryDisk,
    pub(crate) slowness: Arc<Slowness>,
    pub(crate) life: Option<Life>,
    /// Whether its directory, as long as it is empty, becomes that of a new member.
    pub(crate) joins: bool,
    /// Whether its files are not as it left them.
    pub(crate) spoilt: bool,
    pub(crate) frozen_until: Time,
    pub(crate) restart_at: Option<Time>,
    rate: f64,
}

/// What is the same for all computers.
pub(crate) struct Site {
    pub(crate) plan: Plan,
    pub(crate) network: Network,
    pub(crate) members: Vec<NodeId>,
    pub(crate) addresses: Vec<Address>,
    pub(crate) trace: Trace,
    pub(crate) oracle: Oracle,
}

/// Answers and takes notes. Nothing may come twice, or after what was said later.
fn listen(node: &Node, oracle: &Oracle) {
    let (of_requests, of_ticks) = (oracle.clone(), oracle.clone());
    let (asked, told) = (node.id().clone(), node.id().clone());
    let echo = move |from: Peer, number: u64| {
        of_requests.heard(ECHO, from.id(), &asked, number);
        async move { Ok::<_, zmesh::HandlerError>(number) }
    };
    let note = move |from: Peer, number: u64| {
        of_ticks.heard(NOTE, from.id(), &told, number);
        std::future::ready(())
    };
    node.on_request(ECHO, echo).expect("one handler");
    node.on_tick(NOTE, note).expect("one handler");
}

impl Computer {
    pub(crate) fn new(number: usize, joins: bool, rate: f64) -> Self {
        Self {
            id: NodeId::new(&format!("n{}", number + 1)).expect("a name"),
            address: Address::tcp("memory", 7_001 + u16::try_from(number).expect("few")),
            disk: MemoryDisk::new(),
            slowness: Arc::default(),
            life: None,
            joins,
            spoilt: false,
            frozen_until: Time::ZERO,
            restart_at: None,
            rate,
        }
    }

    pub(crate) fn start(&mut self, now: Time, site: &Site, rng: &mut fastrand::Rng) {
        let clockwork = Clockwork::new(now, self.rate);
        let others = site.addresses.iter().filter(|other| **other != self.address);
        let wire = wire(site, self.id.as_str(), rng);
        let station = wire.inner.station();
        let stopped = Arc::new(Mutex::new(None));
        let (node, host) = clockwork.enter(|| {
            let mut builder = Node::builder(self.id.as_str())
                .heartbeat(site.plan.heartbeat)
                .bind(self.address.clone())
                .seed(rng.u64(..))
                .transport(wire);
            for other in others {
                builder = builder.connect(other.clone());
            }
            let node = builder.start().expect("the address is free");
            listen(&node, &site.oracle);
            let host = self.host(&node, site);
            (node, host)
        });
        if let Ok(host) = &host {
            let (host, flag) = (host.clone(), Arc::clone(&stopped));
            clockwork.spawn(async move { *flag.lock() = Some(host.stopped().await) });
        }
        site.trace.line(format_args!("{} starts", self.id));
        match host {
            Ok(host) => {
                let leaderships = host.replicas().map(|(name, of)| (name, of.leadership()));
                let leaderships = leaderships.collect();
                self.life =
                    Some(Life { clockwork, node, _host: host, station, stopped, leaderships });
            }
            // As a process that ends at once; whoever started it tries again.
            Err(error) => {
                site.trace.line(format_args!("{} does not start: {error}", self.id));
                drop((clockwork, node));
                self.restart_at = Some(now + Duration::from_millis(200));
            }
        }
    }

    fn host(&self, node: &Node, site: &Site) -> Result<Host, zmesh::host::HostError> {
        let settings = ReplicaSettings {
            join: self.joins,
            sync: site.plan.sync,
            wal: site.plan.wal,
            options: site.plan.options.clone(),
            ..ReplicaSettings::new(DATA_DIR, site.members.clone())
        };
        let slowness = Arc::clone(&self.slowness);
        let (inner, lies) = (self.disk.clone(), site.plan.mutant == Some(Mutant::LyingDisk));
        let disk: Arc<dyn Disk> = Arc::new(SlowDisk { inner, slowness, lies });
        Host::start_on(disk, node, &settings, LOG_GROUPS)
    }

    /// One step of time; why the process has ended, if it has.
    pub(crate) fn step(&mut self, now: Time) -> Option<(&'static str, Stopped)> {
        if now < self.frozen_until {
            return None;
        }
        let life = self.life.as_ref()?;
        life.clockwork.run(now);
        self.frozen_until = now + self.slowness.take();
        if life.node.is_stopped() {
            let reason = "the driver of the node has ended".to_owned();
            return Some(("node", Stopped { cause: StopCause::Failed, reason }));
        }
        life.stopped.lock().take()
    }

    /// Ends the process; what it wrote stays.
    pub(crate) fn kill(&mut self) {
        self.life = None;
    }

    /// Takes the power away.
    pub(crate) fn cut_power(&mut self, rng: &mut fastrand::Rng, keep: Keep) {
        self.kill();
        self.disk.heal();
        self.disk.crash(rng, keep);
    }
}

/// The way of a node into the network.
pub(crate) fn wire(site: &Site, name: &str, rng: &mut fastrand::Rng) -> Wire {
    Wire {
        inner: site.network.transport(transport::Options::default()),
        name: name.to_owned(),
        trace: site.trace.clone(),
        rng: rng.fork(),
        doubled: site.plan.doubled,
        overtaken: site.plan.overtaken,
        ready: VecDeque::new(),
        held: None,
    }
}
