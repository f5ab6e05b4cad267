//! A cluster of real processes on this machine: `zmesh serve` of this same binary, one per node.
//!
//! A cluster lives in a directory: `cluster.json` says who it is and which processes run, and each
//! node has a subdirectory with its configuration (`zmesh.toml`), its log (`log`) and its data.
//! `cluster.json` is replaced as a whole, so it is readable at any moment; a lock file keeps two
//! commands from changing one cluster at the same time.
//!
//! Processes are attached or detached. Attached ones (`zmesh demo`, tests) end with this value
//! when it is dropped, and with this process however it dies, since they watch a pipe from it.
//! Detached ones (`zmesh cluster start`) stay. What was started by a value that was not
//! [detached](LocalCluster::detach) in the end is killed: a start that fails leaves nothing behind.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};
use zmesh::config::{ConfigError, PeerAddress, Preset, Settings, Sync, Written};
use zmesh::transport::Kind;
use zmesh::{Address, InvalidNodeId, NodeId};

use super::process::Process;

#[cfg(test)]
mod tests;

/// Below the range from which systems hand out ports by themselves, so that a node finds its port
/// free when it comes back.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
const PORT_TRIES_MAX: usize = 1_000;
const STATE_FILE: &str = "cluster.json";
const LOG_TAIL_BYTES: u64 = 2_048;
/// How long a process may take to vanish after it was killed or has closed its output.
const KILLED_WITHIN: Duration = Duration::from_secs(5);

/// What a new cluster looks like.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Name of the mesh.
    pub(super) cluster: String,
    /// How many nodes; they are called n1, n2, and so on.
    pub(super) nodes: u16,
    /// How fast a lost peer is noticed.
    pub(super) preset: Preset,
    /// The port of the first node, the others following it; any free ports if one of these is
    /// taken, or if there is none.
    pub(super) first_port: Option<u16>,
    /// What moves messages.
    pub(super) transport: Option<Kind>,
    /// When writes are synced.
    pub(super) sync: Option<Sync>,
}

/// A cluster of processes on this machine.
#[derive(Debug)]
pub(super) struct LocalCluster {
    dir: PathBuf,
    program: PathBuf,
    state: State,
    children: BTreeMap<NodeId, Child>,
    attached: bool,
    /// None for one that is only looked at.
    _lock: Option<File>,
}

/// The content of `cluster.json`.
#[derive(Debug, Deserialize, Serialize)]
struct State {
    cluster: String,
    nodes: Vec<LocalNode>,
}

/// One node of the cluster.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct LocalNode {
    /// Its name.
    pub(super) id: NodeId,
    /// Where it listens.
    pub(super) address: Address,
    /// The process that ran it last.
    process: Option<Process>,
}

impl LocalNode {
    /// The process number, if the process runs.
    pub(super) fn pid(&self) -> Option<u32> {
        self.process.as_ref().filter(|process| process.is_running()).map(|process| process.pid)
    }
}

impl LocalCluster {
    /// Lays out a new cluster in `dir`, which is created if need be. Starts nothing yet.
    pub(super) fn create(dir: &Path, plan: &Plan, attached: bool) -> Result<Self, LocalError> {
        fs::create_dir_all(dir).map_err(|source| LocalError::io("create", dir, source))?;
        let dir = fs::canonicalize(dir).map_err(|source| LocalError::io("find", dir, source))?;
        let lock = lock(&dir)?;
        if dir.join(STATE_FILE).exists() {
            return Err(LocalError::Exists { dir });
        }
        let nodes = lay_out(&dir, plan)?;
        let state = State { cluster: plan.cluster.clone(), nodes };
        let cluster = Self::new(dir, state, attached, Some(lock))?;
        cluster.save()?;
        Ok(cluster)
    }

    /// Opens the cluster that was laid out in `dir` before.
    pub(super) fn open(dir: &Path, attached: bool) -> Result<Self, LocalError> {
        Self::load(dir, attached, |dir| lock(dir).map(Some))
    }

    /// Opens it to look at only. What is written there is replaced as a whole, so that no lock is
    /// needed and no other command is in the way.
    pub(super) fn look_at(dir: &Path) -> Result<Self, LocalError> {
        Self::load(dir, false, |_| Ok(None))
    }

    fn load(
        dir: &Path,
        attached: bool,
        lock: impl FnOnce(&Path) -> Result<Option<File>, LocalError>,
    ) -> Result<Self, LocalError> {
        let path = dir.join(STATE_FILE);
        if !path.exists() {
            return Err(LocalError::Missing { dir: dir.to_owned() });
        }
        let dir = fs::canonicalize(dir).map_err(|source| LocalError::io("find", dir, source))?;
        let lock = lock(&dir)?;
        let text = fs::read(&path).map_err(|source| LocalError::io("read", &path, source))?;
        let state =
            serde_json::from_slice(&text).map_err(|source| LocalError::State { path, source })?;
        Self::new(dir, state, attached, lock)
    }

    fn new(
        dir: PathBuf,
        state: State,
        attached: bool,
        lock: Option<File>,
    ) -> Result<Self, LocalError> {
        let program = std::env::current_exe()
            .map_err(|source| LocalError::io("find", Path::new("zmesh"), source))?;
        Ok(Self { dir, program, state, children: BTreeMap::new(), attached, _lock: lock })
    }

    /// Starts every node that does not run, and returns when each has said that it is ready.
    ///
    /// # Errors
    ///
    /// The first node that ends, or stays silent for `within`, with the end of its log.
    pub(super) async fn start(&mut self, within: Duration) -> Result<(), LocalError> {
        let stopped = self.state.nodes.iter().filter(|node| node.pid().is_none());
        let stopped: Vec<_> = stopped.map(|node| node.id.clone()).collect();
        // All are started before the first is waited for: they may need each other.
        let mut outputs = Vec::new();
        for id in stopped {
            let stdout = self.spawn(&id)?;
            outputs.push((id, stdout));
        }
        self.save()?;
        for (id, stdout) in outputs {
            self.ready(&id, stdout, within).await?;
        }
        Ok(())
    }

    /// Asks every node to stop, and kills those that have not stopped within `within`. Returns the
    /// names of those that had to be killed.
    pub(super) async fn stop(&mut self, within: Duration) -> Result<Vec<NodeId>, LocalError> {
        let running: Vec<_> = self.state.nodes.iter().filter_map(running).collect();
        for (id, process) in &running {
            self.signal(id, process, Signal::TERM)?;
        }
        // All have the same deadline, not one after the other.
        let waits = running.iter().map(|(_, process)| process.ended(within));
        let ended = join(waits).await;
        let mut killed = Vec::new();
        for ((id, _), ended) in running.into_iter().zip(ended) {
            if !ended {
                self.kill(&id).await?;
                killed.push(id);
            }
        }
        for child in self.children.values_mut() {
            reap(child);
        }
        self.children.clear();
        Ok(killed)
    }

    /// Kills a node at once, as a power cut would, and says whether it was running.
    pub(super) async fn kill(&mut self, id: &NodeId) -> Result<bool, LocalError> {
        let Some((_, process)) = running(self.node(id)?) else { return Ok(false) };
        let was_running = self.signal(id, &process, Signal::KILL)?;
        if !process.ended(KILLED_WITHIN).await {
            return Err(LocalError::Unkillable { id: id.clone(), pid: process.pid });
        }
        if let Some(mut child) = self.children.remove(id) {
            reap(&mut child);
        }
        Ok(was_running)
    }

    /// Lets the processes run on after this value is dropped.
    pub(super) fn detach(mut self) {
        self.children.clear();
    }

    /// The nodes, in the order of their names.
    pub(super) fn nodes(&self) -> &[LocalNode] {
        &self.state.nodes
    }

    /// Name of the mesh.
    pub(super) fn name(&self) -> &str {
        &self.state.cluster
    }

    /// Where everything is.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    fn node(&self, id: &NodeId) -> Result<&LocalNode, LocalError> {
        let node = self.state.nodes.iter().find(|node| node.id == *id);
        node.ok_or_else(|| LocalError::NoNode { id: id.clone() })
    }

    fn node_dir(&self, id: &NodeId) -> PathBuf {
        self.dir.join(id.as_str())
    }

    fn signal(&self, id: &NodeId, process: &Process, signal: Signal) -> Result<bool, LocalError> {
        process.signal(signal).map_err(|source| LocalError::Signal { id: id.clone(), source })
    }

    /// Starts the process of one node and returns its standard output.
    fn spawn(&mut self, id: &NodeId) -> Result<ChildStdout, LocalError> {
        let dir = self.node_dir(id);
        let log_path = dir.join("log");
        let log = File::options().create(true).append(true).open(&log_path);
        let log = log.map_err(|source| LocalError::io("open", &log_path, source))?;
        let mut command = Command::new(&self.program);
        command.arg("serve").arg("--config").arg(dir.join("zmesh.toml")).current_dir(&dir);
        // What is set for the starter is not meant for each of its nodes, except for the log.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("ZMESH_") && !text.starts_with("ZMESH_LOG") {
                command.env_remove(&name);
            }
        }
        if self.attached {
            command.arg("--exit-with-parent").stdin(Stdio::piped());
        } else {
            command.stdin(Stdio::null());
        }
        // A group of its own: Ctrl-C in the terminal is for the starter, which stops the nodes.
        command.process_group(0).stdout(Stdio::piped()).stderr(log);
        let mut child =
            command.spawn().map_err(|source| LocalError::io("start", &self.program, source))?;
        let process = Process::of(child.id());
        let stdout = child.stdout.take().expect("standard output was asked for as a pipe");
        self.children.insert(id.clone(), child);
        let node = self.state.nodes.iter_mut().find(|node| node.id == *id);
        node.ok_or_else(|| LocalError::NoNode { id: id.clone() })?.process = process;
        Ok(stdout)
    }

    /// Waits for the line that says that a node takes requests.
    async fn ready(
        &mut self,
        id: &NodeId,
        stdout: ChildStdout,
        within: Duration,
    ) -> Result<(), LocalError> {
        let failed = |source| LocalError::Output { id: id.clone(), source };
        let stdout = tokio::process::ChildStdout::from_std(stdout).map_err(failed)?;
        let mut line = String::new();
        let mut reader = BufReader::new(stdout);
        match tokio::time::timeout(within, reader.read_line(&mut line)).await {
            Ok(Ok(_)) if line.starts_with("ready ") => Ok(()),
            Ok(Ok(0)) => {
                let status = self.ended(id).await;
                Err(LocalError::Ended { id: id.clone(), status, log: self.log_tail(id) })
            }
            Ok(Ok(_)) => {
                let line = line.trim_end().to_owned();
                Err(LocalError::NotReady { id: id.clone(), line, log: self.log_tail(id) })
            }
            Ok(Err(source)) => Err(failed(source)),
            Err(_) => Err(LocalError::Silent { id: id.clone(), within, log: self.log_tail(id) }),
        }
    }

    /// How a node that has closed its output ended, in words.
    async fn ended(&mut self, id: &NodeId) -> String {
        if let Some((_, process)) = self.node(id).ok().and_then(running)
            && !process.ended(KILLED_WITHIN).await
        {
            return "closed its output".to_owned();
        }
        let status = self.children.get_mut(id).and_then(|child| child.try_wait().ok().flatten());
        status.as_ref().map_or_else(|| "ended".to_owned(), ExitStatus::to_string)
    }

    /// The last lines that a node logged.
    fn log_tail(&self, id: &NodeId) -> String {
        let tail = || -> io::Result<String> {
            let mut file = File::open(self.node_dir(id).join("log"))?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
            let mut bytes = Vec::new();
            file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
        };
        tail().unwrap_or_default()
    }

    /// Replaces `cluster.json`.
    fn save(&self) -> Result<(), LocalError> {
        let text = serde_json::to_vec_pretty(&self.state).expect("the state has string keys");
        replace(&self.dir, STATE_FILE, &text)
            .map_err(|source| LocalError::io("write", &self.dir.join(STATE_FILE), source))
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        for child in self.children.values_mut() {
            reap(child);
        }
    }
}

/// Kills a child if it still runs, and waits for its end, which after a kill is near.
fn reap(child: &mut Child) {
    // Both fail only if the child has ended and was waited for.
    let _ = child.kill();
    let _ = child.wait();
}

fn running(node: &LocalNode) -> Option<(NodeId, Process)> {
    let process = node.process.clone().filter(Process::is_running)?;
    Some((node.id.clone(), process))
}

/// Awaits all of a few futures on this task.
async fn join<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.map(Box::pin).collect();
    let mut outputs: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        for (future, output) in futures.iter_mut().zip(&mut outputs) {
            if output.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(cx)
            {
                *output = Some(value);
            }
        }
        match outputs.iter().all(Option::is_some) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    outputs.into_iter().flatten().collect()
}

/// Chooses names and ports, and writes each node's configuration.
fn lay_out(dir: &Path, plan: &Plan) -> Result<Vec<LocalNode>, LocalError> {
    let mut rng = fastrand::Rng::with_seed(uuid::Uuid::new_v4().as_u64_pair().0);
    let held = match plan.first_port.and_then(|first| ports_from(first, plan.nodes)) {
        Some(held) => held,
        None => free_ports(&mut rng, plan.nodes).ok_or(LocalError::NoPort)?,
    };
    let mut nodes = Vec::new();
    for (number, (_listener, port)) in (1..=plan.nodes).zip(&held) {
        let port = *port;
        let id = NodeId::new(&format!("n{number}"))?;
        let address = Address::tcp("127.0.0.1", port);
        nodes.push(LocalNode { id, address, process: None });
    }
    for node in &nodes {
        let node_dir = dir.join(node.id.as_str());
        fs::create_dir_all(&node_dir)
            .map_err(|source| LocalError::io("create", &node_dir, source))?;
        let text = configuration(node, &nodes, plan)?;
        replace(&node_dir, "zmesh.toml", text.as_bytes())
            .map_err(|source| LocalError::io("write", &node_dir, source))?;
    }
    Ok(nodes)
}

/// The configuration file of one node.
fn configuration(node: &LocalNode, all: &[LocalNode], plan: &Plan) -> Result<String, LocalError> {
    let others = all.iter().filter(|other| other.id != node.id);
    let mut settings = Settings::default();
    settings.node.id = Some(node.id.clone());
    settings.node.cluster = Some(plan.cluster.clone());
    settings.node.bind = Some(node.address.clone());
    settings.node.peers = Some(
        others.map(|other| PeerAddress { node: None, address: other.address.clone() }).collect(),
    );
    settings.node.transport = plan.transport;
    settings.heartbeat.preset = Some(plan.preset);
    settings.replica.sync = plan.sync;
    // Relative to where the node runs, so that the whole directory may be moved or copied.
    settings.replica.data_dir = Some(PathBuf::from("data"));
    settings.replica.members = Some(all.iter().map(|node| node.id.clone()).collect());
    Ok(Written::from(settings).resolve()?.to_toml())
}

fn ports_from(first: u16, count: u16) -> Option<Vec<(TcpListener, u16)>> {
    let port = |offset| {
        let port = first.checked_add(offset)?;
        Some((TcpListener::bind(("127.0.0.1", port)).ok()?, port))
    };
    (0..count).map(port).collect()
}

fn free_ports(rng: &mut fastrand::Rng, count: u16) -> Option<Vec<(TcpListener, u16)>> {
    // A port that is held is not free, so that none is chosen twice.
    (0..count).map(|_| free_port(rng)).collect()
}

fn free_port(rng: &mut fastrand::Rng) -> Option<(TcpListener, u16)> {
    (0..PORT_TRIES_MAX).find_map(|_| {
        let port = rng.u16(PORTS);
        Some((TcpListener::bind(("127.0.0.1", port)).ok()?, port))
    })
}

/// Replaces a file as a whole: at any moment it has the old content or the new.
fn replace(dir: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(dir.join(name))?;
    File::open(dir)?.sync_all()
}

fn lock(dir: &Path) -> Result<File, LocalError> {
    let path = dir.join("cluster.lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|source| LocalError::io("open", &path, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(LocalError::Busy { dir: dir.to_owned() }),
        Err(fs::TryLockError::Error(source)) => Err(LocalError::io("lock", &path, source)),
    }
}

/// Why a local cluster could not be started, changed or stopped.
#[derive(Debug, thiserror::Error)]
pub(super) enum LocalError {
    /// Another command changes this cluster at the moment. Nothing was done.
    #[error("another command is at work on the cluster in {}", dir.display())]
    Busy { dir: PathBuf },
    /// The plan makes no valid configuration. Nothing was started.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The process ended before it was ready.
    #[error("node {id} did not start ({status}){}", quoted(log))]
    Ended { id: NodeId, status: String, log: String },
    /// There is a cluster in the directory. Nothing was done.
    #[error("there is a cluster in {} already", dir.display())]
    Exists { dir: PathBuf },
    /// A file or a directory could not be used.
    #[error("cannot {what} {}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    /// There is no cluster in the directory.
    #[error("there is no cluster in {}", dir.display())]
    Missing { dir: PathBuf },
    /// A name is no node id.
    #[error(transparent)]
    Name(#[from] InvalidNodeId),
    /// The cluster has no node of this name.
    #[error("the cluster has no node {id}")]
    NoNode { id: NodeId },
    /// No free port was found.
    #[error("no free port between {} and {}", PORTS.start, PORTS.end)]
    NoPort,
    /// The process said something else than that it is ready.
    #[error("node {id} is not ready but says {line:?}{}", quoted(log))]
    NotReady { id: NodeId, line: String, log: String },
    /// The output of a process cannot be read.
    #[error("cannot read the output of node {id}")]
    Output { id: NodeId, source: io::Error },
    /// A signal could not be sent.
    #[error("cannot signal node {id}")]
    Signal { id: NodeId, source: io::Error },
    /// The process was not ready in time.
    #[error("node {id} was not ready within {within:?}{}", quoted(log))]
    Silent { id: NodeId, within: Duration, log: String },
    /// `cluster.json` is not what this program writes.
    #[error("{} cannot be understood", path.display())]
    State { path: PathBuf, source: serde_json::Error },
    /// The system did not end a killed process, which then waits for a disk or a debugger.
    #[error("node {id} (process {pid}) was killed and has not ended")]
    Unkillable { id: NodeId, pid: u32 },
}

impl LocalError {
    fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { what, path: path.to_owned(), source }
    }
}

fn quoted(log: &str) -> String {
    match log.is_empty() {
        true => "; it logged nothing".to_owned(),
        false => format!("; its log ends with:\n{log}"),
    }
}
