//! `zmesh cluster`: a cluster on this machine that stays until it is stopped.

use std::path::PathBuf;

use serde::Serialize;
use zmesh::config::{Period, Preset};
use zmesh::{Address, NodeId};

use super::failure::{Exit, Failure};
use super::local::{LocalCluster, LocalError, LocalNode, Plan};
use super::output::Record;
use super::{Context, period_above_zero};

/// What to do with the cluster.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Start a cluster, or those of its nodes that do not run.
    Start(StartArgs),
    /// Stop every node. Data stays, and `start` brings the cluster back with it.
    Stop(StopArgs),
    /// List the nodes: name, address, process, whether it runs.
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
    /// Time each node may take to be ready.
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
            let cluster = LocalCluster::open(&args.dir, false)?;
            print_nodes(&cluster, context)
        }
        Command::Stop(args) => stop(args, context).await,
    }
}

async fn start(args: &StartArgs, context: &Context) -> Result<(), Failure> {
    let dir = &args.dir.dir;
    let mut cluster = match LocalCluster::open(dir, false) {
        Err(LocalError::Missing { .. }) => {
            let nodes = args.nodes.unwrap_or(3);
            let plan = Plan { cluster: args.cluster.clone(), nodes, preset: args.preset };
            LocalCluster::create(dir, &plan, false)?
        }
        opened => opened?,
    };
    let has = cluster.nodes().len();
    if let Some(nodes) = args.nodes.filter(|nodes| usize::from(*nodes) != has) {
        let message = format!("the cluster in {} has {has} nodes, not {nodes}", dir.display());
        return Err(Failure::new(Exit::Refused, message).next("leave --nodes out, or give a --dir"));
    }
    cluster.start(args.timeout.0).await?;
    tracing::info!(name = cluster.name(), dir = %cluster.dir().display(), "cluster runs");
    print_nodes(&cluster, context)?;
    cluster.detach();
    Ok(())
}

async fn stop(args: &StopArgs, context: &Context) -> Result<(), Failure> {
    let mut cluster = LocalCluster::open(&args.dir.dir, false)?;
    let killed = cluster.stop(args.timeout.0).await?;
    for id in &killed {
        tracing::warn!(%id, "did not stop in time and was killed");
    }
    print_nodes(&cluster, context)
}

async fn kill(args: &KillArgs, context: &Context) -> Result<(), Failure> {
    let mut cluster = LocalCluster::open(&args.dir.dir, false)?;
    let id = match args.target.as_str() {
        "leader" => leader(&cluster).await?,
        _ => args.target.clone(),
    };
    if !cluster.kill(&id).await? {
        return Err(Failure::new(Exit::Refused, format!("node {id} does not run")));
    }
    match context.out.is_json() {
        true => context.out.json(&serde_json::json!({ "killed": id })),
        false => context.out.text(&format!("killed {id}")),
    }
}

/// Which node leads.
///
/// PLUG: status. Ask each running node of `cluster.nodes()` at its address; the one that leads in
/// the highest term is it.
async fn leader(cluster: &LocalCluster) -> Result<NodeId, Failure> {
    tracing::debug!(nodes = cluster.nodes().len(), "leader");
    Err(Failure::not_built("cluster kill leader").next("name the node, such as n1"))
}

/// One node, as `start`, `stop` and `status` print it.
#[derive(Debug, Serialize)]
struct NodeRecord {
    node: NodeId,
    address: Address,
    pid: Option<u32>,
    state: &'static str,
}

impl NodeRecord {
    fn of(node: &LocalNode) -> Self {
        let pid = node.pid();
        let state = if pid.is_some() { "running" } else { "stopped" };
        Self { node: node.id.clone(), address: node.address.clone(), pid, state }
    }
}

impl Record for NodeRecord {
    const COLUMNS: &'static [&'static str] = &["node", "address", "pid", "state"];

    fn cells(&self) -> Vec<String> {
        let pid = self.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        vec![self.node.to_string(), self.address.to_string(), pid, self.state.to_owned()]
    }
}

fn print_nodes(cluster: &LocalCluster, context: &Context) -> Result<(), Failure> {
    let records: Vec<_> = cluster.nodes().iter().map(NodeRecord::of).collect();
    context.out.table_or_json(&records)
}

impl From<LocalError> for Failure {
    fn from(error: LocalError) -> Self {
        let (exit, next) = match &error {
            LocalError::Busy { .. } => (Exit::Refused, Some("try again when it is done")),
            LocalError::Config(_) | LocalError::Name(_) => (Exit::Usage, None),
            LocalError::Exists { .. } | LocalError::NoNode { .. } => {
                (Exit::Refused, Some("see `zmesh cluster status`"))
            }
            LocalError::Missing { .. } => (Exit::Refused, Some("start one: zmesh cluster start")),
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
