//! Shell: A cluster of real nodes inside a test, for programs that use this crate.
//!
//! Every node has a runtime on a thread of its own, as it would have in its own process: so it can
//! be killed at any point, in the middle of whatever it does, and nothing it had not yet done is
//! done afterwards. Sockets, disks and timers are the real ones.
//!
//! Touches only what every user of this crate can touch.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::consensus::Role;
use crate::host::{Host, HostError};
use crate::kv::{Kv, SERVICE};
use crate::log::Log;
use crate::presence::Heartbeat;
use crate::replica::{self, Progress, Replica, ReplicaSettings, Status};
use crate::route::Filter;
use crate::transport::memory::Network;
use crate::{Address, InvalidNodeId, Node, NodeId, WaitError, transport, wal};

mod power;
mod services;

use services::Service;

/// Time in which a cluster that nobody disturbs has formed and elected, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pause between two looks at something that tells nobody when it changes.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// The first port of nodes in a [`Network`], where addresses are just names.
const MEMORY_PORT: u16 = 7001;

/// Nodes with replicas of the key-value store, and a client, in one process.
///
/// The nodes are called `n1`, `n2` and so on, and are numbered from 0 in calls. They listen on
/// ports that the system chooses and keep their logs in a temporary directory, which goes with the
/// cluster. The [client](Self::client) runs on the caller's runtime, which may be of any flavor.
///
/// Dropping the cluster kills every node and waits for its thread.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use zmesh::testing::TestCluster;
///
/// let mut cluster = TestCluster::start(3).await?;
/// let kv = cluster.kv();
/// kv.set("colour", "green").await?;
///
/// let leader = cluster.leader().await?;
/// cluster.kill(leader);
/// let found = kv.get("colour").await?.expect("it was acknowledged");
/// assert_eq!(found.value.as_ref(), b"green");
///
/// cluster.restart(leader).await?;
/// cluster.wait_healthy(Duration::from_secs(20)).await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct TestCluster {
    members: Vec<Member>,
    client: Node,
    /// Clients made so far: every node of a mesh needs a name of its own.
    clients: AtomicUsize,
    plan: Arc<Plan>,
    dir: TempDir,
}

/// Describes a cluster before it starts. See [`TestCluster::builder`].
#[derive(Debug)]
#[must_use = "a builder does nothing until it is started"]
pub struct TestClusterBuilder {
    nodes: usize,
    plan: Plan,
}

/// What all nodes have in common.
#[derive(Clone, Debug)]
struct Plan {
    heartbeat: Heartbeat,
    options: replica::Options,
    wal: wal::Options,
    sync: replica::SyncMode,
    memory_disks: bool,
    network: Option<Network>,
    members: Vec<NodeId>,
    services: Vec<Service>,
    log_groups: u16,
}

/// One node and what stays of it when it does not run.
#[derive(Debug)]
struct Member {
    id: NodeId,
    /// With those of its replicas, and that of the store.
    data_dir: PathBuf,
    store_dir: PathBuf,
    /// Whether it joins the cluster after its beginning.
    join: bool,
    /// Where it listens, or listened last: it comes back there if it can.
    address: Option<Address>,
    /// In memory, if not in `data_dir`.
    disk: Option<wal::MemoryDisk>,
    running: Option<Running>,
}

/// A node at work.
struct Running {
    node: Node,
    host: Host,
    services: Vec<Replica>,
    /// Dropped to end the thread.
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Why a cluster is not as it should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TestError {
    /// A node may not be dialed.
    #[error(transparent)]
    Dial(#[from] crate::trust::NotDialed),
    /// A name is no node id.
    #[error(transparent)]
    Name(#[from] InvalidNodeId),
    /// It did not come to the wanted state in time. The nodes go on.
    #[error("not within {within:?}: {missing}")]
    NotYet {
        /// How long was waited.
        within: Duration,
        /// What was still missing, node by node.
        missing: String,
    },
    /// The replicas of a node did not start.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A node did not start.
    #[error("{node} did not start: {source}")]
    Start {
        /// Which.
        node: NodeId,
        /// Why.
        source: crate::StartError,
    },
    /// A directory, a thread or a runtime could not be had.
    #[error(transparent)]
    System(#[from] std::io::Error),
    /// The client did not find its peers.
    #[error("the client is alone: {0}")]
    Wait(#[from] WaitError),
}

impl TestClusterBuilder {
    /// How presence is decided [default: a ping every 100 ms, lost after 2 s].
    pub fn heartbeat(mut self, heartbeat: Heartbeat) -> Self {
        self.plan.heartbeat = heartbeat;
        self
    }

    /// Times and limits of the replicas [default: [`replica::Options::default`], but a look at the
    /// followers every 100 ms].
    pub fn options(mut self, options: replica::Options) -> Self {
        self.plan.options = options;
        self
    }

    /// Sizes of the logs [default: segments of 4 MiB and no reserve].
    pub fn wal(mut self, options: wal::Options) -> Self {
        self.plan.wal = options;
        self
    }

    /// Uses a network in memory instead of sockets, so that a test can disturb it.
    pub fn network(mut self, network: Network) -> Self {
        self.plan.network = Some(network);
        self
    }

    /// How many groups the log has [default: 0, no log; at most 16].
    /// [`TestCluster::wait_healthy`] waits for them as for the store.
    pub fn log_groups(mut self, groups: u16) -> Self {
        self.plan.log_groups = groups;
        self
    }

    /// Has every node run a replica of a machine of your own as well, as the service `name`. Its
    /// client is [`replica::Client`]; [`TestCluster::wait_healthy`] does not look at it.
    pub fn service<M: replica::Machine + Send + 'static>(
        mut self,
        name: &'static str,
        machine: impl Fn() -> M + Send + Sync + 'static,
    ) -> Self {
        self.plan.services.push(Service::new(name, machine));
        self
    }

    /// Starts every node and the client, and waits until the cluster is healthy.
    ///
    /// # Errors
    ///
    /// [`TestError`]; whatever was started is stopped.
    pub async fn start(self) -> Result<TestCluster, TestError> {
        let dir = tempfile::tempdir()?;
        let mut plan = self.plan;
        let name = |number: usize| NodeId::new(&format!("n{}", number + 1));
        plan.members = (0..self.nodes).map(name).collect::<Result<_, _>>()?;
        let plan = Arc::new(plan);
        let member = |(number, id): (usize, &NodeId)| {
            let address = plan.network.as_ref().map(|_| memory_address(number));
            let disk = plan.memory_disks.then(wal::MemoryDisk::new);
            Member::new(id.clone(), dir.path(), false, address, disk)
        };
        let members = plan.members.iter().enumerate().map(member).collect();
        let client = plan.client("client", &[])?;
        let mut cluster = TestCluster { members, client, clients: AtomicUsize::new(0), plan, dir };
        for number in 0..self.nodes {
            cluster.restart(number).await?;
        }
        cluster.wait_healthy(PATIENCE).await?;
        Ok(cluster)
    }
}

impl TestCluster {
    /// Starts a cluster with default options, and waits until it is healthy.
    ///
    /// # Errors
    ///
    /// [`TestError`]; whatever was started is stopped.
    pub async fn start(nodes: usize) -> Result<Self, TestError> {
        Self::builder(nodes).start().await
    }

    /// Begins to describe a cluster.
    pub fn builder(nodes: usize) -> TestClusterBuilder {
        let ms = Duration::from_millis;
        let plan = Plan {
            heartbeat: Heartbeat {
                ping_interval: ms(100),
                health_check_interval: ms(100),
                ghost_timeout: ms(2_000),
                handshake_timeout: ms(2_000),
            },
            options: replica::Options { repair_interval: ms(100), ..Default::default() },
            wal: wal::Options { segment_bytes: 4 << 20, reserve_bytes: 0, ..Default::default() },
            sync: replica::SyncMode::Always,
            memory_disks: false,
            network: None,
            members: Vec::new(),
            services: Vec::new(),
            log_groups: 0,
        };
        TestClusterBuilder { nodes, plan }
    }

    /// How many nodes the cluster has, running or not.
    pub fn nodes(&self) -> usize {
        self.members.len()
    }

    /// The name of a node.
    ///
    /// # Panics
    ///
    /// If there is no node of this number. So do all other calls with a number.
    pub fn id(&self, number: usize) -> &NodeId {
        &self.members[number].id
    }

    /// Whether a node runs.
    pub fn is_running(&self, number: usize) -> bool {
        self.members[number].running.is_some()
    }

    /// A running node. What it runs, its handlers for instance, runs on the node's own thread.
    ///
    /// # Panics
    ///
    /// If the node does not run.
    pub fn node(&self, number: usize) -> &Node {
        &self.running(number).node
    }

    /// The replica of the store on a running node.
    ///
    /// # Panics
    ///
    /// If the node does not run.
    pub fn replica(&self, number: usize) -> &Replica {
        self.running(number).host.store()
    }

    /// The replicas of the log on a running node, by group.
    ///
    /// # Panics
    ///
    /// If the node does not run.
    pub fn log_replicas(&self, number: usize) -> &[Replica] {
        self.running(number).host.log()
    }

    /// The replica of a service of your own on a running node.
    ///
    /// # Panics
    ///
    /// If the node does not run, or the cluster has no such service.
    pub fn service(&self, number: usize, name: &str) -> &Replica {
        let services = self.plan.services.iter().zip(&self.running(number).services);
        let mut named = services.filter(|(service, _)| service.name == name);
        named.next().map(|(_, replica)| replica).expect("a service of the cluster")
    }

    /// Where the store of a node has its files. Change them only while the node does not run.
    pub fn data_dir(&self, number: usize) -> &Path {
        &self.members[number].store_dir
    }

    /// A directory that goes with the cluster, for what a test wants to keep beside it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A node without a replica that is linked to all others.
    pub fn client(&self) -> &Node {
        &self.client
    }

    /// The store, as the client sees it.
    pub fn kv(&self) -> Kv {
        Kv::new(&self.client)
    }

    /// The log, as the client sees it.
    pub fn log(&self) -> Log {
        Log::new(&self.client)
    }

    /// The store, as a new client sees it that is linked to one node only.
    ///
    /// # Errors
    ///
    /// [`TestError`]: the client did not reach the node.
    ///
    /// # Panics
    ///
    /// If the node has never run.
    pub async fn kv_through(&self, number: usize) -> Result<Kv, TestError> {
        let address = self.members[number].address.clone().expect("the node has run");
        let name = format!("client-{}", self.clients.fetch_add(1, Ordering::Relaxed));
        let client = self.plan.client(&name, &[address])?;
        client.wait_for_peers(&Filter::any(), 1, PATIENCE).await?;
        Ok(Kv::new(&client))
    }

    /// The number of the node that leads the store; waits for one if there is none.
    ///
    /// # Errors
    ///
    /// [`TestError::NotYet`] if nobody leads for 30 s.
    pub async fn leader(&self) -> Result<usize, TestError> {
        self.leader_at(0).await
    }

    /// The number of the node that leads a group of the log; waits for one if there is none.
    ///
    /// # Errors
    ///
    /// As [`leader`](Self::leader).
    ///
    /// # Panics
    ///
    /// If the log has no such group.
    pub async fn log_leader(&self, group: u16) -> Result<usize, TestError> {
        assert!(group < self.plan.log_groups, "the log has no group {group}");
        self.leader_at(1 + usize::from(group)).await
    }

    /// Who leads the replicas that have this place among those of their nodes.
    async fn leader_at(&self, place: usize) -> Result<usize, TestError> {
        self.wait(PATIENCE, async || {
            let statuses = self.statuses(place).await;
            let leaders = statuses.iter().filter_map(|(number, progress)| match progress {
                Progress::Running(status) if status.role == Role::Leader => {
                    Some((status.term, *number))
                }
                Progress::Doubtful
                | Progress::Forming { .. }
                | Progress::Running(_)
                | Progress::Stopped(_) => None,
            });
            // One that was deposed and does not know it yet has a lower term.
            leaders.max().map(|(_, number)| number).ok_or_else(|| "a leader".to_owned())
        })
        .await
    }

    /// Waits until all nodes that run are linked to each other and to the client, follow the same
    /// leader and have applied everything that was committed.
    ///
    /// # Errors
    ///
    /// [`TestError::NotYet`] after `deadline` says what is missing.
    pub async fn wait_healthy(&self, deadline: Duration) -> Result<(), TestError> {
        self.wait(deadline, async || self.health().await).await
    }

    /// Kills a node as a crash would: it stops in the middle of what it does, says no goodbye and
    /// writes nothing more. Its sockets are closed, as a system closes those of a process that was
    /// killed. What it wrote and did not sync stays, unlike after a power cut. Does nothing if the
    /// node does not run.
    pub fn kill(&mut self, number: usize) {
        self.members[number].running = None;
    }

    /// Stops a node in order: it says goodbye, and its log is closed. Does nothing if the node does
    /// not run.
    pub async fn stop(&mut self, number: usize) {
        let Some(running) = &self.members[number].running else { return };
        running.host.stop();
        for (name, replica) in running.host.replicas() {
            if tokio::time::timeout(PATIENCE, replica.stopped()).await.is_err() {
                tracing::warn!(node = %running.node.id(), name, "a replica did not stop in time");
            }
        }
        running.node.stop().await;
        self.kill(number);
    }

    /// Starts a node with an empty directory that joins the cluster, and returns its number. It takes
    /// part when it was made a member, see [`Replica::add_learner`].
    ///
    /// # Errors
    ///
    /// [`TestError`]: the node did not start.
    pub async fn join(&mut self) -> Result<usize, TestError> {
        let number = self.members.len();
        let id = NodeId::new(&format!("n{}", number + 1))?;
        let address = self.plan.network.as_ref().map(|_| memory_address(number));
        let disk = self.plan.memory_disks.then(wal::MemoryDisk::new);
        self.members.push(Member::new(id, self.dir.path(), true, address, disk));
        self.restart(number).await?;
        Ok(number)
    }

    /// Starts a node that does not run, on the log that it has; kills it before if it runs. Does
    /// not wait for it to take part.
    ///
    /// # Errors
    ///
    /// [`TestError`]: the node did not start.
    pub async fn restart(&mut self, number: usize) -> Result<(), TestError> {
        self.kill(number);
        let running = self.members.iter().filter(|member| member.running.is_some());
        let others: Vec<Address> = running.filter_map(|member| member.address.clone()).collect();
        let member = &self.members[number];
        let launch = Launch {
            plan: Arc::clone(&self.plan),
            id: member.id.clone(),
            data_dir: member.data_dir.clone(),
            join: member.join,
            disk: power::disk(member.disk.as_ref()),
            bind: member.address.clone(),
            others,
        };
        let running = Running::start(launch).await?;
        let address = running.node.address().cloned();
        if let Some(address) = &address {
            self.client.connect(address.clone())?;
        }
        let member = &mut self.members[number];
        (member.address, member.running) = (address, Some(running));
        Ok(())
    }

    fn running(&self, number: usize) -> &Running {
        let member = &self.members[number];
        member.running.as_ref().unwrap_or_else(|| panic!("{} does not run", member.id))
    }

    /// Of the store, at the first place, or of a group of the log.
    async fn statuses(&self, place: usize) -> Vec<(usize, Progress)> {
        let mut statuses = Vec::new();
        for (number, member) in self.members.iter().enumerate() {
            if let Some(running) = &member.running {
                let mut replicas = running.host.replicas();
                let (_, replica) = replicas.nth(place).expect("every node runs as many replicas");
                statuses.push((number, replica.status().await));
            }
        }
        statuses
    }

    /// What is missing for the cluster to be healthy.
    async fn health(&self) -> Result<(), String> {
        for place in 0..=usize::from(self.plan.log_groups) {
            let health = self.service_health(place).await;
            health.map_err(|missing| match place {
                0 => missing,
                place => format!("group {} of the log: {missing}", place - 1),
            })?;
        }
        let running = self.members.iter().filter(|member| member.running.is_some()).count();
        let linked = self.client.peers().len();
        match linked >= running {
            true => Ok(()),
            false => Err(format!("the client is linked to {linked} nodes")),
        }
    }

    /// What is missing for the replicas to be healthy that have this place among those of their
    /// nodes.
    async fn service_health(&self, place: usize) -> Result<(), String> {
        let mut statuses = Vec::new();
        for (number, progress) in self.statuses(place).await {
            match progress {
                Progress::Running(status) => statuses.push((number, *status)),
                other @ (Progress::Doubtful | Progress::Forming { .. } | Progress::Stopped(_)) => {
                    return Err(format!("{} is {other:?}", self.id(number)));
                }
            }
        }
        let commit = statuses.iter().map(|(_, status)| status.commit).max().unwrap_or(0);
        let first = statuses.first().and_then(|(_, status)| status.leader.clone());
        for (number, status) in &statuses {
            self.member_health(*number, status, first.as_ref(), commit, statuses.len())?;
        }
        Ok(())
    }

    fn member_health(
        &self,
        number: usize,
        status: &Status,
        leader: Option<&NodeId>,
        commit: u64,
        running: usize,
    ) -> Result<(), String> {
        let id = self.id(number);
        if status.leader.is_none() || status.leader.as_ref() != leader {
            return Err(format!("{id} follows {:?}, another {leader:?}", status.leader));
        }
        if status.applied < commit {
            return Err(format!("{id} has applied {} of {commit}", status.applied));
        }
        let others = self.node(number).peers();
        let known = |peer: &NodeId| self.members.iter().any(|member| member.id == *peer);
        let linked = others.iter().filter(|peer| known(&peer.node)).count();
        match linked + 1 >= running {
            true => Ok(()),
            false => Err(format!("{id} is linked to {linked} nodes")),
        }
    }

    /// Looks again and again until `look` finds something.
    async fn wait<R>(
        &self,
        within: Duration,
        mut look: impl AsyncFnMut() -> Result<R, String>,
    ) -> Result<R, TestError> {
        let end = Instant::now() + within;
        loop {
            match look().await {
                Ok(found) => return Ok(found),
                Err(missing) if Instant::now() >= end => {
                    return Err(TestError::NotYet { within, missing });
                }
                Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }
}

impl Member {
    fn new(
        id: NodeId,
        dir: &Path,
        join: bool,
        address: Option<Address>,
        disk: Option<wal::MemoryDisk>,
    ) -> Self {
        let data_dir = dir.join(id.as_str());
        let store_dir = data_dir.join(SERVICE);
        Self { id, data_dir, store_dir, join, address, disk, running: None }
    }
}

impl Plan {
    /// A node without a replica, on the caller's runtime.
    fn client(&self, name: &str, seeds: &[Address]) -> Result<Node, TestError> {
        let id = NodeId::new(name)?;
        let mut builder = Node::builder(name).heartbeat(self.heartbeat).gossip(false);
        for seed in seeds {
            builder = builder.connect(seed);
        }
        self.on_network(builder).start().map_err(|source| TestError::Start { node: id, source })
    }

    fn on_network(&self, builder: crate::Builder) -> crate::Builder {
        match &self.network {
            Some(network) => builder.transport(network.transport(transport::Options::default())),
            None => builder,
        }
    }
}

fn memory_address(number: usize) -> Address {
    let number = u16::try_from(number).expect("a test has few nodes");
    Address::tcp("memory", MEMORY_PORT + number)
}

/// What one life of a node needs.
struct Launch {
    plan: Arc<Plan>,
    id: NodeId,
    data_dir: PathBuf,
    join: bool,
    disk: Arc<dyn wal::Disk>,
    bind: Option<Address>,
    others: Vec<Address>,
}

impl Launch {
    /// Starts node and replica on the present runtime.
    fn start(&self) -> Result<(Node, Host, Vec<Replica>), TestError> {
        let any_port = || Address::tcp("127.0.0.1", 0);
        let node = match &self.bind {
            None => self.node(any_port()),
            // Somebody else may have got the port meanwhile.
            Some(address) => match self.node(address.clone()) {
                Err(crate::StartError::Bind(_)) => self.node(any_port()),
                started => started,
            },
        };
        let start = |source| TestError::Start { node: self.id.clone(), source };
        let node = node.map_err(start)?;
        let settings = ReplicaSettings {
            join: self.join,
            sync: self.plan.sync,
            wal: self.plan.wal,
            options: self.plan.options.clone(),
            ..ReplicaSettings::new(&self.data_dir, self.plan.members.clone())
        };
        let disk = || Arc::clone(&self.disk);
        let start = |service: &Service| service.start(disk(), &node, settings.clone());
        let services = self.plan.services.iter().map(start).collect();
        let host = Host::start_on(disk(), &node, &settings, self.plan.log_groups)?;
        Ok((node, host, services))
    }

    fn node(&self, bind: Address) -> Result<Node, crate::StartError> {
        let mut builder = Node::builder(self.id.as_str()).heartbeat(self.plan.heartbeat).bind(bind);
        for other in &self.others {
            builder = builder.connect(other);
        }
        self.plan.on_network(builder).start()
    }
}

impl Running {
    async fn start(launch: Launch) -> Result<Self, TestError> {
        let name = launch.id.to_string();
        let (end, ended) = oneshot::channel();
        let (started, mut start) = mpsc::channel(1);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            runtime.block_on(async move {
                let result = launch.start();
                if started.send(result).await.is_ok() {
                    // Nothing is ever sent: it ends when the other half is dropped.
                    drop(ended.await);
                }
            });
            // The runtime goes with its tasks, wherever each of them is.
        })?;
        let (end, thread) = (Some(end), Some(thread));
        match start.recv().await {
            Some(Ok((node, host, services))) => Ok(Self { node, host, services, end, thread }),
            Some(Err(error)) => Err(error),
            None => Err(TestError::System(std::io::Error::other("the node's thread has ended"))),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.end.take());
        // A thread that panicked has ended too.
        drop(self.thread.take().map(JoinHandle::join));
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("node", &self.node).finish_non_exhaustive()
    }
}
