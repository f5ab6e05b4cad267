//! `zmesh bench`: how fast a mesh or a cluster is, against what, and what it costs.
//!
//! It starts a cluster of processes on this machine, unless `--connect` names one that runs. This
//! process has the clients, so on a small machine they take processor time from the members.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use zmesh::config::{Period, Preset, Size, Sync};
use zmesh::replica::Acks;
use zmesh::transport::Kind;
use zmesh::{Address, Node, NodeId};

use super::failure::{Exit, Failure};
use super::local::{LocalCluster, Plan as ClusterPlan};
use super::progress::Progress;
use super::{Access, Connect, Context, client, interrupted, period_above_zero};
use baseline::Baseline;
use plot::Panel;
use report::Report;
use schedule::Schedule;
use usage::Machine;
use work::{Plan, Work};

mod baseline;
mod plot;
mod recorder;
mod report;
mod schedule;
mod usage;
mod work;

/// Time in which a cluster has started, or stopped.
const STEP_MAX: Duration = Duration::from_secs(30);
/// Operations that are begun in a second while the leader is killed, unless asked otherwise.
const FAILOVER_RATE: u32 = 1_000;
/// Time between two looks at what is measured.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Time a node may take to tell how it is.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// Whether somebody wants it to end.
type Stop = tokio::sync::watch::Receiver<bool>;

/// What is measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Scenario {
    /// A request to a member, and its reply.
    Request,
    /// A one-way message, from the call to its handler in this process.
    Tick,
    /// A write of the store, on the disks of a quorum.
    Set,
    /// A linearizable read of the store.
    Get,
    /// A record appended to a topic, on the disks of a quorum.
    Append,
    /// A record, from the call of its append until a reader who follows has it.
    Tail,
    /// Reads and writes of the store.
    Mixed,
    /// Writes while the leader is killed; all that were acknowledged are read back.
    Failover,
}

impl Scenario {
    fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    fn writes_keys(self) -> bool {
        matches!(self, Self::Set | Self::Get | Self::Mixed | Self::Failover)
    }

    fn writes_records(self) -> bool {
        matches!(self, Self::Append | Self::Tail)
    }

    /// What it is compared with.
    fn baseline(self) -> Baseline {
        match self {
            Self::Request | Self::Tick | Self::Get => Baseline::TcpRoundTrip,
            Self::Set | Self::Append | Self::Tail | Self::Mixed | Self::Failover => {
                Baseline::DiskSync
            }
        }
    }
}

/// Arguments of `zmesh bench`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What is measured, one after the other.
    #[arg(required = true, value_enum)]
    scenarios: Vec<Scenario>,
    /// Clients, each a node of its own with its own connections.
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    clients: u16,
    /// Operations that one client has outstanding at once. Ticks have no end to wait for: of them
    /// 1024 are on their way, whatever this is.
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=4096))]
    outstanding: u16,
    /// Begin so many operations in a second, by all clients together, and count the latency from when
    /// each was meant to begin, so that stalls are not hidden [default: each begins when the last one
    /// of its place has ended; failover: 1000].
    #[arg(long, value_name = "PER_SECOND", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    rate: Option<u32>,
    /// Time that is measured.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = period_above_zero)]
    duration: Period,
    /// Time before that, which is not counted.
    #[arg(long, value_name = "DURATION", default_value = "1s")]
    warm_up: Period,
    /// Bytes of payloads, values and records; of ticks and of tail at least 8.
    #[arg(long, value_name = "SIZE", default_value = "128")]
    payload: Size,
    /// Keys that are read and written, at random.
    #[arg(long, value_name = "COUNT", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    keys: u64,
    /// Reads of a hundred operations, in mixed.
    #[arg(long, value_name = "PERCENT", default_value_t = 90, value_parser = clap::value_parser!(u8).range(0..=100))]
    reads: u8,
    /// How strongly a write of the store is held before it counts: none, leader, quorum, all, or all:N.
    #[arg(long, value_name = "LEVEL", default_value = "quorum")]
    acks: Acks,
    /// Read what one member has applied, instead of linearizably.
    #[arg(long)]
    stale: bool,
    /// Seed of the choice of keys.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// Measure again for each of these values: clients, outstanding, payload, keys, rate or nodes, such
    /// as clients=1,16,64.
    #[arg(long, value_name = "NAME=VALUE,...", value_parser = sweep)]
    sweep: Option<Sweep>,
    /// Draw latencies and the course of time to this file, as SVG.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Keep the keys and the topic that were written.
    #[arg(long)]
    keep: bool,
    /// Members of the cluster that is started; without --connect.
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: u16,
    /// When its members sync what is written: always, interval or never.
    #[arg(long, value_name = "MODE", default_value = "always")]
    sync: Sync,
    /// What moves messages, of the clients and of the members that are started.
    #[arg(long, value_name = "KIND", value_enum, default_value_t)]
    transport: Kind,
    /// Directory for data and logs of that cluster, kept afterwards [default: a temporary one].
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    connect: Connect,
}

/// A figure that is varied.
#[derive(Clone, Debug)]
struct Sweep {
    name: Varied,
    values: Vec<u64>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Varied {
    Clients,
    Keys,
    Nodes,
    Outstanding,
    Payload,
    Rate,
}

fn sweep(text: &str) -> Result<Sweep, String> {
    let (name, values) = text.split_once('=').ok_or("expected such as clients=1,16,64")?;
    let name = match name {
        "clients" => Varied::Clients,
        "keys" => Varied::Keys,
        "nodes" => Varied::Nodes,
        "outstanding" => Varied::Outstanding,
        "payload" => Varied::Payload,
        "rate" => Varied::Rate,
        _ => return Err("expected clients, keys, nodes, outstanding, payload or rate".to_owned()),
    };
    let value = |value: &str| match value.parse::<Size>() {
        Ok(Size(0)) => Err(format!("{value} is not above 0")),
        Ok(size) => Ok(size.0),
        Err(error) => Err(error.to_string()),
    };
    let values = values.split(',').map(value).collect::<Result<Vec<_>, _>>()?;
    Ok(Sweep { name, values })
}

/// Whom it is measured on.
struct Bed {
    /// Members that were wanted.
    nodes: u16,
    cluster: String,
    addresses: Vec<Address>,
    access: Access,
    /// The processes that were started for it.
    local: Option<LocalCluster>,
    /// Removed at the end.
    _temporary: Option<tempfile::TempDir>,
}

/// Measures everything that was asked for, or as much of it as somebody waits for.
pub(super) async fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let plans = plans(args, context)?;
    let (says_stop, stop) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        interrupted().await;
        says_stop.send_replace(true);
    });
    let (mut reports, mut panels, mut bed) = (Vec::new(), Vec::new(), None::<Bed>);
    for (nodes, plan) in plans {
        if *stop.borrow() {
            break;
        }
        // Another number of members is another cluster.
        if let Some(before) = bed.take_if(|bed| bed.nodes != nodes) {
            end(before).await?;
        }
        let bed = match &mut bed {
            Some(bed) => bed,
            none => none.insert(Bed::start(args, nodes, context).await?),
        };
        let (report, panel) = bed.measure(plan, args, context, &stop).await?;
        if context.out.is_json() {
            context.out.json(&report)?;
        }
        reports.push(report);
        panels.push(panel);
    }
    if let Some(bed) = bed {
        end(bed).await?;
    }
    report::finish(args, context, &reports, &panels)
}

/// Everything that is to be measured, each with the members of its cluster; what is wrong with it is
/// said before anything is started.
fn plans(args: &Args, context: &Context) -> Result<Vec<(u16, Plan)>, Failure> {
    check(args, context)?;
    let values = args.sweep.as_ref().map_or_else(
        || vec![None],
        |sweep| sweep.values.iter().map(|value| Some((sweep.name, *value))).collect(),
    );
    let mut plans = Vec::new();
    for value in values {
        for scenario in &args.scenarios {
            plans.push(plan(args, *scenario, value)?);
        }
    }
    Ok(plans)
}

/// What is wrong, before anything is started.
fn check(args: &Args, context: &Context) -> Result<(), Failure> {
    let is_running = is_running(context);
    if is_running && args.scenarios.contains(&Scenario::Failover) {
        let message = "failover kills the leader, and does so only in a cluster that it started";
        return Err(Failure::new(Exit::Usage, message).next("leave --connect out"));
    }
    let varies_nodes = args.sweep.as_ref().is_some_and(|sweep| sweep.name == Varied::Nodes);
    if varies_nodes && (is_running || args.dir.is_some()) {
        let message = "to vary the members takes a cluster for each number of them";
        return Err(Failure::new(Exit::Usage, message).next("leave --connect and --dir out"));
    }
    if args.payload.0 > 8 << 20 {
        return Err(Failure::new(Exit::Usage, "--payload is at most 8MiB"));
    }
    Ok(())
}

/// Whether `--connect`, or its variable, names a cluster that runs.
fn is_running(context: &Context) -> bool {
    let source = context.command_matches().value_source("connect");
    !matches!(source, None | Some(clap::parser::ValueSource::DefaultValue))
}

fn plan(
    args: &Args,
    scenario: Scenario,
    value: Option<(Varied, u64)>,
) -> Result<(u16, Plan), Failure> {
    let mut nodes = args.nodes;
    let default = (scenario == Scenario::Failover).then_some(FAILOVER_RATE);
    let mut plan = Plan {
        scenario,
        clients: args.clients,
        outstanding: args.outstanding,
        payload: usize::try_from(args.payload.0).unwrap_or(usize::MAX),
        keys: args.keys,
        reads: args.reads,
        acks: args.acks,
        stale: args.stale,
        seed: args.seed,
        transport: args.transport,
        schedule: Schedule {
            rate: args.rate.or(default),
            warm_up: args.warm_up.0,
            end: args.warm_up.0.saturating_add(args.duration.0),
        },
    };
    if scenario == Scenario::Failover {
        // Enough that those which wait for the next leader do not keep the others from beginning.
        plan.outstanding = plan.outstanding.max(64);
    }
    let Some((name, value)) = value else { return Ok((nodes, plan)) };
    let limit = |most: u64| match value <= most {
        true => Ok(value),
        false => Err(Failure::new(Exit::Usage, format!("{value} is more than {most}"))),
    };
    let small = |most: u64| limit(most).map(|value| u16::try_from(value).unwrap_or(u16::MAX));
    match name {
        Varied::Clients => plan.clients = small(1_024)?,
        Varied::Keys => plan.keys = limit(10_000_000)?,
        Varied::Nodes => nodes = small(9)?,
        Varied::Outstanding => plan.outstanding = small(4_096)?,
        Varied::Payload => plan.payload = usize::try_from(limit(8 << 20)?).unwrap_or(usize::MAX),
        Varied::Rate => {
            plan.schedule.rate = Some(u32::try_from(limit(10_000_000)?).unwrap_or(u32::MAX));
        }
    }
    Ok((nodes, plan))
}

impl Bed {
    async fn start(args: &Args, nodes: u16, context: &Context) -> Result<Self, Failure> {
        if is_running(context) {
            let (cluster, addresses) = (args.connect.cluster.clone(), args.connect.connect.clone());
            let access = args.connect.access.clone();
            return Ok(Self { nodes, cluster, addresses, access, local: None, _temporary: None });
        }
        let temporary = match args.dir {
            Some(_) => None,
            None => Some(tempfile::tempdir().map_err(|error| {
                Failure::new(Exit::Refused, format!("cannot make a temporary directory: {error}"))
            })?),
        };
        let dir = args.dir.as_deref().or_else(|| temporary.as_ref().map(tempfile::TempDir::path));
        let plan = ClusterPlan {
            cluster: "bench".to_owned(),
            nodes,
            preset: Preset::LowLatency,
            first_port: None,
            transport: Some(args.transport),
            sync: Some(args.sync),
        };
        let dir = dir.expect("one of both is there");
        let mut local = LocalCluster::create(dir, &plan, true)?;
        local.start(STEP_MAX).await?;
        let addresses = local.nodes().iter().map(|node| node.address.clone()).collect();
        let cluster = local.name().to_owned();
        let (access, local) = (Access::default(), Some(local));
        Ok(Self { nodes, cluster, addresses, access, local, _temporary: temporary })
    }

    /// The processes that can be looked at.
    fn processes(&self) -> Vec<(String, u32)> {
        let own = ("clients".to_owned(), std::process::id());
        let local = self.local.iter().flat_map(LocalCluster::nodes);
        let local = local.filter_map(|node| Some((node.id.to_string(), node.pid()?)));
        std::iter::once(own).chain(local).collect()
    }

    /// A node that asks.
    fn client(&self, transport: Kind) -> Result<Node, Failure> {
        client::start_over(transport, &self.cluster, &self.addresses, &self.access)
    }

    /// The member that leads the store, or the first that answers if there is no store.
    async fn leader(&self) -> Result<NodeId, Failure> {
        let node = self.client(Kind::default())?;
        let found = async {
            loop {
                let peers: Vec<_> = node.peers().into_iter().map(|peer| peer.node).collect();
                let statuses = client::survey(&node, peers, ANSWER_MAX).await;
                let has_store = statuses.values().any(|status| status.replica.is_some());
                match client::leader(&statuses) {
                    Some((leader, _)) => return leader,
                    None if !has_store && !statuses.is_empty() => {
                        return statuses.into_keys().next().expect("there is one");
                    }
                    None => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        let found = tokio::time::timeout(STEP_MAX, found).await;
        node.stop().await;
        found.map_err(|_| {
            Failure::new(Exit::Unreachable, format!("no node leads within {STEP_MAX:?}"))
                .next("see `zmesh status`")
        })
    }

    /// Measures one plan.
    async fn measure(
        &mut self,
        plan: Plan,
        args: &Args,
        context: &Context,
        stop: &Stop,
    ) -> Result<(Report, Panel), Failure> {
        let dir = self.local.as_ref().map(|local| local.dir().to_owned());
        let baseline = dir.as_ref().map(|_| plan.scenario.baseline());
        let look =
            || dir.as_ref().zip(baseline).and_then(|(dir, it)| it.measure(dir, plan.payload));
        let before = look();
        let leader = self.leader().await?;
        let name = format!("zmesh.bench.{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
        let mut work =
            Work::start(plan.clone(), name, |over| self.client(over), &leader, stop).await?;
        let cpu_before = self.watch(&mut work, &plan, &leader, (context, stop)).await?;
        let cpu_after = self.cpu();
        let measured = work.shared.elapsed().min(plan.schedule.end);
        work.end().await;
        let after = look();
        let baseline_us = before.zip(after).map(|(before, after)| f64::midpoint(before, after));
        let is_failover = plan.scenario == Scenario::Failover;
        let lost = if is_failover { Some(work.lost().await?) } else { None };
        let shared = std::sync::Arc::clone(&work.shared);
        let resident = self.processes().into_iter();
        let resident = resident.filter_map(|(name, pid)| Some((name, usage::resident(pid)?)));
        let resident_bytes = resident.collect();
        work.clean_up(args.keep).await;
        if is_failover && let Some(local) = &mut self.local {
            local.start(STEP_MAX).await?;
        }
        let recorder = shared.recorder.lock();
        let figures = recorder.figures(measured.saturating_sub(plan.schedule.warm_up));
        let per_million = |(name, after): (String, Duration)| {
            let spent = after.checked_sub(*cpu_before.get(&name)?)?;
            let operations = figures.operations.max(1) as f64;
            Some((name, spent.as_secs_f64() / operations * 1e6))
        };
        let report = Report {
            scenario: plan.scenario,
            peer: "zmesh",
            clients: plan.clients,
            outstanding: plan.outstanding,
            payload: plan.payload,
            keys: plan.keys,
            rate: plan.schedule.rate,
            transport: plan.transport,
            nodes: self.local.as_ref().and_then(|local| u16::try_from(local.nodes().len()).ok()),
            ratio: baseline_us.map(|baseline| figures.p50_us / baseline),
            baseline,
            baseline_us,
            cpu_s_per_million: cpu_after.into_iter().filter_map(per_million).collect(),
            resident_bytes,
            longest_gap_ms: recorder.longest_gap().as_secs_f64() * 1e3,
            lost,
            machine: Machine::describe(dir.as_deref()),
            figures,
        };
        let title = format!(
            "{}, {} clients, {} outstanding each, {} bytes",
            plan.scenario.name(),
            plan.clients,
            plan.outstanding,
            plan.payload
        );
        let latencies = recorder.quantiles(&plot::QUANTILES).collect();
        Ok((report, Panel { title, latencies, rows: recorder.rows().to_vec() }))
    }

    /// Shows how it goes until it is over, or somebody has seen enough. Returns what the processes
    /// had used when it began to count.
    async fn watch(
        &mut self,
        work: &mut Work,
        plan: &Plan,
        leader: &NodeId,
        (context, stop): (&Context, &Stop),
    ) -> Result<BTreeMap<String, Duration>, Failure> {
        let shared = std::sync::Arc::clone(&work.shared);
        let mut progress = Progress::new(context.out);
        let (mut cpu, mut victim) = (BTreeMap::new(), None);
        if plan.scenario == Scenario::Failover {
            victim = Some(leader.clone());
        }
        let middle = plan.schedule.warm_up + plan.schedule.counted() / 2;
        let mut stop = stop.clone();
        loop {
            let elapsed = shared.elapsed();
            if elapsed >= plan.schedule.warm_up && cpu.is_empty() {
                cpu = self.cpu();
            }
            if elapsed >= middle
                && let (Some(victim), Some(local)) = (victim.take(), &mut self.local)
            {
                local.kill(&victim).await?;
            }
            if elapsed >= plan.schedule.end {
                return Ok(cpu);
            }
            // Looks at the moments that count, and once in a second.
            let moments = [plan.schedule.warm_up, middle, plan.schedule.end];
            let next = moments.into_iter().find(|moment| *moment > elapsed).unwrap_or(elapsed);
            let wait = LOOK_INTERVAL.min(next - elapsed);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = stop.wait_for(|stops| *stops) => return Ok(cpu),
            }
            let now = shared.elapsed();
            let (done, p99) = shared.recorder.lock().look();
            let per_second = done as f64 / (now - elapsed).as_secs_f64();
            let name = plan.scenario.name();
            let what = format!("{name} {per_second:.0}/s, p99 {:.1} ms", p99.as_secs_f64() * 1e3);
            if done > 0 {
                progress.set(&what, now.as_secs(), plan.schedule.end.as_secs());
            }
        }
    }

    fn cpu(&self) -> BTreeMap<String, Duration> {
        let processes = self.processes().into_iter();
        processes.filter_map(|(name, pid)| Some((name, usage::cpu(pid)?))).collect()
    }
}

async fn end(bed: Bed) -> Result<(), Failure> {
    if let Some(mut local) = bed.local {
        local.stop(STEP_MAX).await?;
    }
    Ok(())
}
