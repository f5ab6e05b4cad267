//! `zmesh cluster`: a cluster on this machine that stays until it is stopped.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use zmesh::config::{Period, Preset};
use zmesh::status::Status;
use zmesh::transport::Kind;
use zmesh::{Address, Node, NodeId};

use super::failure::{Exit, Failure};
use super::local::{LocalCluster, LocalError, LocalNode, Plan};
use super::output::Record;
use super::status::{Replica, print_groups};
use super::{Access, Context, client, period_above_zero};

/// Where the first node of a new cluster listens if nobody else does: where client commands look.
const FIRST_PORT: u16 = 7_700;
/// Time a node may take to tell how it is.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Wait between two looks for a leader.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// What to do with the cluster.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Start a cluster, or those of its nodes that do not run.
    Start(StartArgs),
    /// Stop every node. Data stays, and `start` brings the cluster back with it.
    Stop(StopArgs),
    /// List the nodes: process, role, term, commit, lag.
    Status(DirArgs),
    /// Kill one node at once, as a power cut would (SIGKILL); `start` brings it back.
    Kill(KillArgs),
}

/// Which cluster.
#[derive(Debug, clap::Args)]
pub(super) struct DirArgs {
    /// Directory of the cluster.
    #[arg(long, env = "ZMESH_CLUSTER_DIR", value_name = "DIR", default_value = "zmesh-cluster")]
    dir: PathBuf,
}

/// Arguments of `zmesh cluster start`.
#[derive(Debug, clap::Args)]
pub(super) struct StartArgs {
    #[command(flatten)]
    dir: DirArgs,
    /// Nodes of a new cluster; 2f+1 of them survive the loss of f [default: 3].
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=99))]
    nodes: Option<u16>,
    /// Name of a new mesh.
    #[arg(long, env = "ZMESH_CLUSTER", value_name = "NAME", default_value = "zmesh")]
    cluster: String,
    /// How fast the nodes of a new cluster notice a loss.
    #[arg(long, value_name = "PRESET", default_value = "low-latency")]
    preset: Preset,
    /// What moves messages in a new cluster: libzmq, or native without its I/O thread [default:
    /// libzmq].
    #[arg(long, value_name = "KIND", value_enum)]
    transport: Option<Kind>,
    /// Time the nodes may take to be ready and to elect a leader.
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = period_above_zero)]
    timeout: Period,
}

/// Arguments of `zmesh cluster stop`.
#[derive(Debug, clap::Args)]
pub(super) struct StopArgs {
    #[command(flatten)]
    dir: DirArgs,
    /// Time the nodes may take before they are killed.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = period_above_zero)]
    timeout: Period,
}

/// Arguments of `zmesh cluster kill`.
#[derive(Debug, clap::Args)]
pub(super) struct KillArgs {
    /// Name of the node, or `leader`.
    #[arg(value_name = "NODE")]
    target: NodeId,
    #[command(flatten)]
    dir: DirArgs,
}

/// Runs `zmesh cluster`.
pub(super) async fn run(command: &Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Kill(args) => kill(args, context).await,
        Command::Start(args) => start(args, context).await,
        Command::Status(args) => {
            let cluster = LocalCluster::look_at(&args.dir)?;
            let statuses = look(&cluster).await?;
            print_nodes(&cluster, &statuses, context)?;
            print_groups(statuses.values(), context.out)
        }
        Command::Stop(args) => stop(args, context).await,
    }
}

async fn start(args: &StartArgs, context: &Context) -> Result<(), Failure> {
    let dir = &args.dir.dir;
    let mut cluster = match LocalCluster::open(dir, false) {
        Err(LocalError::Missing { .. }) => {
            let nodes = args.nodes.unwrap_or(3);
            let plan = Plan {
                cluster: args.cluster.clone(),
                nodes,
                preset: args.preset,
                first_port: Some(FIRST_PORT),
                transport: args.transport,
                sync: None,
            };
            LocalCluster::create(dir, &plan, false)?
        }
        opened => opened?,
    };
    let has = cluster.nodes().len();
    if let Some(nodes) = args.nodes.filter(|nodes| usize::from(*nodes) != has) {
        let message = format!("the cluster in {} has {has} nodes, not {nodes}", dir.display());
        return Err(Failure::new(Exit::Refused, message).next("leave --nodes out, or give a --dir"));
    }
    progress(&format!("{has} nodes start"));
    cluster.start(args.timeout.0).await?;
    tracing::info!(name = cluster.name(), dir = %cluster.dir().display(), "cluster runs");
    progress("they elect a leader");
    let statuses = elected(&cluster, args.timeout.0).await?;
    let first = &cluster.nodes()[0].address;
    if *first != Address::tcp("127.0.0.1", FIRST_PORT) {
        let addresses: Vec<_> =
            cluster.nodes().iter().map(|node| node.address.to_string()).collect();
        tracing::warn!("client commands need: export ZMESH_CONNECT={}", addresses.join(","));
    }
    // A reader that has gone is no reason to stop what runs.
    let printed = print_nodes(&cluster, &statuses, context);
    cluster.detach();
    printed
}

/// Says to somebody who waits at a terminal what is waited for.
fn progress(text: &str) {
    let mut stderr = io::stderr().lock();
    if stderr.is_terminal() {
        // Nobody misses it if it cannot be said.
        drop(writeln!(stderr, "{text} ..."));
    }
}

/// Waits until a node leads, and returns the status of all that answer.
async fn elected(
    cluster: &LocalCluster,
    within: Duration,
) -> Result<BTreeMap<NodeId, Status>, Failure> {
    let node = observer(cluster)?;
    let elected = async {
        loop {
            let statuses = ask(cluster, &node).await;
            if client::leader(&statuses).is_some() {
                return statuses;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    };
    let statuses = tokio::time::timeout(within, elected).await;
    node.stop().await;
    statuses.map_err(|_| {
        let message = format!("no leader was elected within {within:?}; the nodes were stopped");
        Failure::new(Exit::Unreachable, message)
            .next(format!("see the logs in {}", cluster.dir().display()))
    })
}

/// The status of every node that answers.
async fn look(cluster: &LocalCluster) -> Result<BTreeMap<NodeId, Status>, Failure> {
    let node = observer(cluster)?;
    let statuses = ask(cluster, &node).await;
    node.stop().await;
    Ok(statuses)
}

fn observer(cluster: &LocalCluster) -> Result<Node, Failure> {
    let addresses: Vec<_> = cluster.nodes().iter().map(|node| node.address.clone()).collect();
    client::start(cluster.name(), &addresses, &Access::default())
}

async fn ask(cluster: &LocalCluster, node: &Node) -> BTreeMap<NodeId, Status> {
    let running = cluster.nodes().iter().filter(|node| node.pid().is_some());
    let running: Vec<_> = running.map(|node| node.id.clone()).collect();
    client::survey(node, running, ANSWER_MAX).await
}

async fn stop(args: &StopArgs, context: &Context) -> Result<(), Failure> {
    let mut cluster = LocalCluster::open(&args.dir.dir, false)?;
    let killed = cluster.stop(args.timeout.0).await?;
    for id in &killed {
        tracing::warn!(%id, "did not stop in time and was killed");
    }
    print_nodes(&cluster, &BTreeMap::new(), context)
}

async fn kill(args: &KillArgs, context: &Context) -> Result<(), Failure> {
    let mut cluster = LocalCluster::open(&args.dir.dir, false)?;
    let id = match args.target.as_str() {
        "leader" => leader(&cluster).await?,
        _ => args.target.clone(),
    };
    if !cluster.kill(&id).await? {
        return Err(Failure::new(Exit::Refused, format!("node {id} does not run"))
            .next("start it: zmesh cluster start"));
    }
    match context.out.is_json() {
        true => context.out.json(&serde_json::json!({ "killed": id })),
        false => context.out.text(&format!("killed {id}")),
    }
}

/// Which node leads.
async fn leader(cluster: &LocalCluster) -> Result<NodeId, Failure> {
    let statuses = look(cluster).await?;
    let leader = client::leader(&statuses).map(|(leader, _)| leader);
    leader.ok_or_else(|| {
        let all_stopped = cluster.nodes().iter().all(|node| node.pid().is_none());
        let next = match all_stopped {
            true => "no node runs: zmesh cluster start",
            false => "look at them: zmesh cluster status",
        };
        Failure::new(Exit::Refused, "no node leads").next(next)
    })
}

/// One node, as `start`, `stop` and `status` print it.
#[derive(Debug, Serialize)]
struct NodeRecord {
    node: NodeId,
    address: Address,
    pid: Option<u32>,
    /// `running`; `silent` if the process runs and does not answer; `stopped`.
    state: &'static str,
    /// What the node tells, if it answers.
    status: Option<Status>,
}

impl NodeRecord {
    fn of(node: &LocalNode, status: Option<&Status>) -> Self {
        let pid = node.pid();
        let state = match (pid, status) {
            (Some(_), Some(_)) => "running",
            (Some(_), None) => "silent",
            (None, _) => "stopped",
        };
        let (id, address) = (node.id.clone(), node.address.clone());
        Self { node: id, address, pid, state, status: status.cloned() }
    }
}

impl Record for NodeRecord {
    const COLUMNS: &'static [&'static str] =
        &["node", "address", "pid", "state", "role", "term", "commit", "in sync", "lag"];

    fn cells(&self) -> Vec<String> {
        let pid = self.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let replica = self.status.as_ref().map_or_else(|| Replica::none("-"), Replica::of);
        let (node, address) = (self.node.to_string(), self.address.to_string());
        let Replica { role, term, commit, in_sync, lag, .. } = replica;
        vec![node, address, pid, self.state.to_owned(), role, term, commit, in_sync, lag]
    }
}

fn print_nodes(
    cluster: &LocalCluster,
    statuses: &BTreeMap<NodeId, Status>,
    context: &Context,
) -> Result<(), Failure> {
    let nodes = cluster.nodes().iter();
    let records: Vec<_> = nodes.map(|node| NodeRecord::of(node, statuses.get(&node.id))).collect();
    context.out.table_or_json(&records)
}

impl From<LocalError> for Failure {
    fn from(error: LocalError) -> Self {
        let (exit, next) = match &error {
            LocalError::Busy { .. } => (Exit::Refused, Some("try again when it is done")),
            LocalError::Config(_) | LocalError::Name(_) => (Exit::Usage, None),
            LocalError::Exists { .. } => {
                (Exit::Refused, Some("choose another directory with --dir, or remove this one"))
            }
            LocalError::NoNode { .. } => (Exit::Refused, Some("see `zmesh cluster status`")),
            LocalError::Missing { .. } => (
                Exit::Refused,
                Some("start one: zmesh cluster start, or say where it is: --dir DIR"),
            ),
            LocalError::Silent { .. } | LocalError::Unkillable { .. } => (Exit::Unreachable, None),
            LocalError::State { .. } => (Exit::Corrupt, None),
            LocalError::Ended { .. }
            | LocalError::Io { .. }
            | LocalError::NoPort
            | LocalError::NotReady { .. }
            | LocalError::Output { .. }
            | LocalError::Signal { .. } => (Exit::Refused, None),
        };
        let failure = Self::from_error(exit, &error);
        match next {
            Some(step) => failure.next(step),
            None => failure,
        }
    }
}
