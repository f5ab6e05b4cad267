//! `zmesh demo`: three real processes, a load, a dead leader, and a count of what was lost.
//!
//! The processes are `zmesh serve` of this same binary under
//! [`LocalCluster`], attached: they end with the demo however it ends. This process is a node
//! without an address and does what any client would.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use zmesh::config::Preset;
use zmesh::status::Follower;
use zmesh::transport::Kind;
use zmesh::{Address, Clock, ErrorCode, Node, NodeId};

use super::failure::{Exit, Failure};
use super::local::{LocalCluster, Plan};
use super::{Access, Context, client, interrupted};
use load::Load;
use report::{Reporter, Summary, millis};

mod load;
mod report;

/// Time that a step may take which is expected to take a second.
const STEP_MAX: Duration = Duration::from_secs(30);
/// Wait between two looks at the nodes.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// Time a node may take to tell how it is.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// Writes begun in a second by all writers together, unless asked otherwise.
const RATE: u32 = 1_000;

/// Arguments of `zmesh demo`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Nodes to start; an odd number of at least 3 survives the loss of its leader.
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u16).range(3..=9))]
    nodes: u16,
    /// Directory for data and logs, kept afterwards [default: a temporary one, removed].
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// What moves messages: libzmq, or native without its I/O thread [default: libzmq].
    #[arg(long, value_name = "KIND", value_enum)]
    transport: Option<Kind>,
    /// Seconds of load before each kill, and again before the dead node is restarted.
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    seconds: Duration,
    /// Times that the leader is killed.
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    kills: u16,
    /// Writers at work at once.
    #[arg(long, value_name = "COUNT", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1024))]
    writers: u16,
    /// Writes begun in a second, at most, by all writers together.
    #[arg(long, value_name = "COUNT", default_value_t = RATE, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
    /// Bytes of each value.
    #[arg(long, value_name = "COUNT", default_value_t = 128, value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    value_bytes: u32,
}

/// A number of seconds, decimals allowed.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().and_then(|it| Duration::try_from_secs_f64(it).ok());
    match seconds {
        Some(seconds) if !seconds.is_zero() && seconds <= Duration::from_secs(86_400) => {
            Ok(seconds)
        }
        Some(_) | None => Err("expected seconds above 0 and up to a day, such as 2 or 0.5".into()),
    }
}

/// Runs the demonstration, or as much of it as a signal leaves time for.
pub(super) async fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let temporary = match &args.dir {
        Some(_) => None,
        None => Some(tempfile::tempdir().map_err(|error| {
            Failure::new(Exit::Refused, format!("cannot make a temporary directory: {error}"))
        })?),
    };
    let dir = args.dir.as_deref().or_else(|| temporary.as_ref().map(tempfile::TempDir::path));
    let dir = dir.expect("one of both is there").to_owned();
    let plan = Plan {
        cluster: "demo".to_owned(),
        nodes: args.nodes,
        preset: Preset::LowLatency,
        first_port: None,
        transport: args.transport,
        sync: None,
    };
    let cluster = LocalCluster::create(&dir, &plan, true)?;
    // Whatever ends this function drops the cluster, which kills its processes, and then the
    // directory.
    tokio::select! {
        result = demonstrate(args, cluster, context) => result,
        () = interrupted() => {
            Err(Failure::new(Exit::Refused, "interrupted; the nodes were killed"))
        }
    }
}

/// Time between two writes of one writer. Where it is long nobody would notice a new leader.
fn interval(args: &Args) -> Result<Duration, Failure> {
    let interval = Duration::from_secs(1) * u32::from(args.writers) / args.rate;
    if interval <= INTERVAL_MAX {
        return Ok(interval);
    }
    let message = format!("each of {} writers would write every {interval:?} only", args.writers);
    Err(Failure::new(Exit::Usage, message).next("give more --rate or fewer --writers"))
}

/// The longest time between two writes of one writer.
const INTERVAL_MAX: Duration = Duration::from_secs(1);

async fn demonstrate(
    args: &Args,
    mut cluster: LocalCluster,
    context: &Context,
) -> Result<(), Failure> {
    let clock = Clock::start();
    let report = Reporter::new(context.out, clock);
    let count = args.nodes;
    report.event("start", &format!("{count} nodes start"), json!({ "nodes": count }))?;
    cluster.start(STEP_MAX).await?;
    let addresses: Vec<Address> = cluster.nodes().iter().map(|node| node.address.clone()).collect();
    let node = client::start(cluster.name(), &addresses, &Access::default())?;
    let mut demo = Demo { node, cluster, report, failovers: Vec::new(), catch_ups: Vec::new() };
    demo.leader(0).await?;

    let interval = interval(args)?;
    let plan = load::Plan {
        writers: args.writers,
        interval,
        value_bytes: usize::try_from(args.value_bytes).unwrap_or(usize::MAX),
    };
    let began = report.now();
    let load = Load::start(&demo.node, clock, plan);
    let writers = args.writers;
    report.event("load", &format!("{writers} writers begin"), json!({ "writers": writers }))?;
    for _ in 0..args.kills {
        demo.lose_leader(&load, args.seconds).await?;
    }
    let record = load.stop().await;
    let loaded = report.now() - began;
    let acknowledged = record.acknowledged();
    let text = format!("load ends; {acknowledged} acknowledged writes are read back");
    report.event("verify", &text, json!({ "acknowledged": acknowledged }))?;
    let lost = record.lost(&demo.node).await;
    let lost = lost.map_err(|reason| Failure::new(Exit::Unreachable, reason))?;
    let summary = Summary::new(&record, loaded, lost, &demo.failovers, &demo.catch_ups);
    demo.node.stop().await;
    demo.cluster.stop(STEP_MAX).await?;
    report.event("stop", "all nodes have stopped", json!({}))?;
    report.result(&summary)?;
    match lost {
        0 => Ok(()),
        lost => {
            let message = format!("{lost} acknowledged writes are lost");
            Err(Failure::coded(Exit::Corrupt, ErrorCode::Corrupt, message)
                .next("this must never happen: run again with --dir and keep the directory"))
        }
    }
}

/// The cluster, and what was measured.
struct Demo {
    node: Node,
    cluster: LocalCluster,
    report: Reporter,
    failovers: Vec<Duration>,
    catch_ups: Vec<Duration>,
}

impl Demo {
    /// Lets the load run, kills the leader, lets the load run on, and brings the node back.
    async fn lose_leader(&mut self, load: &Load, seconds: Duration) -> Result<(), Failure> {
        tokio::time::sleep(seconds).await;
        let (victim, term) = self.find_leader(0).await?;
        let before = load.acknowledged();
        let killed = self.report.now();
        load.watch(killed);
        self.cluster.kill(&victim).await?;
        let text = format!("{victim} killed (SIGKILL) after {before} acknowledged writes");
        self.report.event("kill", &text, json!({ "node": victim, "acknowledged": before }))?;

        let first = tokio::time::timeout(STEP_MAX, load.first_after()).await;
        let first = first.map_err(|_| late("no write was acknowledged after the kill"))?;
        let failover = first - killed;
        self.failovers.push(failover);
        let text = format!("writes are acknowledged again, {:.0} ms later", millis(failover));
        self.report.event("failover", &text, json!({ "failover_ms": millis(failover) }))?;
        self.leader(term + 1).await?;

        tokio::time::sleep(seconds).await;
        self.cluster.start(STEP_MAX).await?;
        let text = format!("{victim} is started again, from its disk");
        self.report.event("restart", &text, json!({ "node": victim }))?;
        let missed = load.acknowledged() - before;
        self.catch_up(&victim, missed).await
    }

    /// Waits until somebody leads in `term` or later, and says so.
    async fn leader(&self, term: u64) -> Result<(), Failure> {
        let (leader, term) = self.find_leader(term).await?;
        let text = format!("{leader} leads in term {term}");
        self.report.event("leader", &text, json!({ "node": leader, "term": term }))
    }

    async fn find_leader(&self, term: u64) -> Result<(NodeId, u64), Failure> {
        let found = async {
            loop {
                let running = self.cluster.nodes().iter().filter(|node| node.pid().is_some());
                let running: Vec<_> = running.map(|node| node.id.clone()).collect();
                let statuses = client::survey(&self.node, running, ANSWER_MAX).await;
                match client::leader(&statuses) {
                    Some((leader, leads_in)) if leads_in >= term => return (leader, leads_in),
                    Some(_) | None => tokio::time::sleep(LOOK_INTERVAL).await,
                }
            }
        };
        tokio::time::timeout(STEP_MAX, found).await.map_err(|_| late("no node leads"))
    }

    /// Waits until a restarted node has everything that the leader had when it was back.
    async fn catch_up(&mut self, restarted: &NodeId, missed: u64) -> Result<(), Failure> {
        let began = self.report.now();
        let caught_up = async {
            let mut target = None;
            loop {
                if let Some((last_index, follower)) = self.seen(restarted).await {
                    let target = *target.get_or_insert(last_index);
                    if follower.active && follower.matched >= target {
                        return;
                    }
                }
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        };
        let caught_up = tokio::time::timeout(STEP_MAX, caught_up).await;
        caught_up.map_err(|_| late("the restarted node did not catch up"))?;
        let took = self.report.now() - began;
        self.catch_ups.push(took);
        let text =
            format!("{restarted} has the {missed} writes it missed, {:.0} ms later", millis(took));
        let fields = json!({ "node": restarted, "missed": missed, "catch_up_ms": millis(took) });
        self.report.event("caught_up", &text, fields)
    }

    /// The end of the leader's log, and how the leader sees a follower.
    async fn seen(&self, id: &NodeId) -> Option<(u64, Follower)> {
        let ids = self.cluster.nodes().iter().map(|node| node.id.clone());
        let statuses = client::survey(&self.node, ids, ANSWER_MAX).await;
        let (leader, _) = client::leader(&statuses)?;
        let running = statuses.get(&leader)?.running()?;
        let follower = running.followers.iter().find(|follower| follower.node == *id)?;
        Some((running.last_index, follower.clone()))
    }
}

fn late(what: &str) -> Failure {
    Failure::new(Exit::Unreachable, format!("{what} within {STEP_MAX:?}"))
        .next("run again with --dir, and look at the logs of the nodes there")
}
