//! `zmesh status`: how a node is, or all of them.

use serde::Serialize;
use zmesh::NodeId;
use zmesh::consensus::Role;
use zmesh::replica::Divergence;
use zmesh::status::{self, ReplicaStatus, Running, Status};

use super::client::{self, Client};
use super::failure::Failure;
use super::output::{Output, Record};
use super::{Connect, Context};

/// Arguments of `zmesh status`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Ask every node that the connected one knows, not it alone.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    connect: Connect,
}

/// Prints role, term, commit, applied, lag per follower, peers and drops.
pub(super) async fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let client = Client::connect(&args.connect).await?;
    let statuses = ask(args, &client).await;
    client.close().await;
    let rows: Vec<_> = statuses?.into_iter().map(|status| Row { status }).collect();
    print(&rows, context.out)
}

async fn ask(args: &Args, client: &Client) -> Result<Vec<Status>, Failure> {
    let first = status::ask(&client.node, &client.peer, client.time_left()).await?;
    if !args.all {
        return Ok(vec![first]);
    }
    // Nodes without an address are commands such as this one.
    let others = first.peers.iter().filter(|peer| peer.address.is_some());
    let others: Vec<_> = others.map(|peer| peer.node.clone()).collect();
    let mut statuses = client::survey(&client.node, others.clone(), client.time_left()).await;
    for silent in others.iter().filter(|id| !statuses.contains_key(*id)) {
        tracing::warn!(node = %silent, "did not answer");
    }
    statuses.insert(first.node.clone(), first);
    Ok(statuses.into_values().collect())
}

/// A table, and below it what does not fit into one; or the whole status as JSON.
fn print(rows: &[Row], out: Output) -> Result<(), Failure> {
    out.table_or_json(rows)?;
    if out.is_json() {
        return Ok(());
    }
    print_groups(rows.iter().map(|row| &row.status), out)?;
    rows.iter().flat_map(|row| remarks(&row.status)).try_for_each(|remark| out.text(&remark))
}

/// A table of the groups of the log on these nodes, if they run any.
pub(super) fn print_groups<'a>(
    statuses: impl Iterator<Item = &'a Status>,
    out: Output,
) -> Result<(), Failure> {
    let groups = statuses.flat_map(|status| {
        let groups = status.log.iter().zip(0..);
        groups.map(|(replica, group)| Group { node: &status.node, group, replica })
    });
    let groups: Vec<_> = groups.collect();
    if groups.is_empty() || out.is_json() {
        return Ok(());
    }
    out.text("")?;
    out.table_or_json(&groups)
}

/// What somebody should look at.
fn remarks(status: &Status) -> Vec<String> {
    let node = &status.node;
    let mut remarks = Vec::new();
    let of_store = status.replica.as_ref().map(replica_remarks).unwrap_or_default();
    for (group, replica) in status.log.iter().enumerate() {
        // What is so for the store as well needs no line for each.
        let own = replica_remarks(replica).into_iter().filter(|remark| !of_store.contains(remark));
        remarks.extend(own.map(|remark| format!("{node} (log group {group}){remark}")));
    }
    let of_store = of_store.into_iter().map(|remark| format!("{node}{remark}"));
    remarks.splice(0..0, of_store);
    if let Some(mode @ ("interval" | "never")) = status.build.sync.as_deref() {
        remarks.push(format!(
            "{node} does not sync every write (sync {mode}): a power cut may take some back"
        ));
    }
    if status.build.insecure && !status.encrypted {
        remarks.push(format!("{node} listens without encryption (--insecure)"));
    }
    let drops = status.drops.iter().filter(|(_, count)| **count > 0);
    let drops: Vec<_> = drops.map(|(name, count)| format!("{name} {count}")).collect();
    if !drops.is_empty() {
        remarks.push(format!("{node} dropped: {}", drops.join(", ")));
    }
    remarks
}

/// What follows the name of whose replica it is.
fn replica_remarks(replica: &ReplicaStatus) -> Vec<String> {
    match replica {
        ReplicaStatus::Doubtful => {
            let doubtful = " may have lost writes and stays out until the others have a leader; if \
                            all went down at once, one directory has to be recovered by force";
            vec![doubtful.to_owned()]
        }
        ReplicaStatus::Forming { missing } => vec![format!(" waits for {}", names(missing))],
        ReplicaStatus::Stopped(stopped) => {
            vec![format!(": the replica has stopped: {}", stopped.reason)]
        }
        ReplicaStatus::Running(running) => {
            let full = " refuses writes: no space is left for the log".to_owned();
            let full = (!running.has_room).then_some(full);
            let damaged = running.damage.as_ref();
            let damaged = damaged.map(|damage| format!(" goes on with a damaged file: {damage}"));
            let remarks = full.into_iter().chain(under_replicated(running)).chain(damaged);
            remarks.chain(running.divergence.iter().map(|it| differs(it))).collect()
        }
    }
}

fn differs(divergence: &Divergence) -> String {
    let (index, others) = (divergence.index, divergence.others.join(", "));
    format!(
        ": its state after entry {index} differs from that of {others}: see `zmesh check --online`"
    )
}

fn under_replicated(running: &Running) -> Option<String> {
    let seconds = running.under_replicated_ms? / 1_000;
    let voters = running.voters.iter().filter(|voter| !running.in_sync.contains(voter));
    let lagging: Vec<_> = voters.cloned().collect();
    Some(format!(" leads under-replicated for {seconds}s: {} not in sync", names(&lagging)))
}

fn names(nodes: &[NodeId]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// One node in the table.
#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Row {
    status: Status,
}

impl Record for Row {
    const COLUMNS: &'static [&'static str] = &[
        "node", "role", "term", "leader", "commit", "applied", "in sync", "lag", "peers", "drops",
        "up",
    ];

    fn cells(&self) -> Vec<String> {
        let status = &self.status;
        let Replica { role, term, leader, commit, applied, in_sync, lag } = Replica::of(status);
        let peers = status.peers.len().to_string();
        let drops = status.drops_total().to_string();
        let up = format!("{:.0}s", status.uptime_seconds);
        let node = status.node.to_string();
        vec![node, role, term, leader, commit, applied, in_sync, lag, peers, drops, up]
    }
}

/// One group of the log on one node in the table.
#[derive(Debug, Serialize)]
struct Group<'a> {
    node: &'a NodeId,
    group: usize,
    #[serde(flatten)]
    replica: &'a ReplicaStatus,
}

impl Record for Group<'_> {
    const COLUMNS: &'static [&'static str] =
        &["node", "log group", "role", "term", "commit", "applied", "entries", "in sync", "lag"];

    fn cells(&self) -> Vec<String> {
        let Replica { role, term, commit, applied, in_sync, lag, .. } =
            Replica::of_replica(Some(self.replica));
        let entries = self.replica.running().map(|running| running.entries.to_string());
        let entries = entries.unwrap_or_else(|| "-".to_owned());
        let (node, group) = (self.node.to_string(), self.group.to_string());
        vec![node, group, role, term, commit, applied, entries, in_sync, lag]
    }
}

/// The replica in a table, with dashes for what there is not.
pub(super) struct Replica {
    pub(super) role: String,
    pub(super) term: String,
    pub(super) leader: String,
    pub(super) commit: String,
    pub(super) applied: String,
    /// Voters in sync of all voters, where that is known: on the leader.
    pub(super) in_sync: String,
    pub(super) lag: String,
}

impl Replica {
    /// How the replica of the store on a node is, in words.
    pub(super) fn of(status: &Status) -> Self {
        Self::of_replica(status.replica.as_ref())
    }

    fn of_replica(replica: Option<&ReplicaStatus>) -> Self {
        let phase = match replica {
            Some(ReplicaStatus::Doubtful) => "doubtful",
            Some(ReplicaStatus::Forming { .. }) => "forming",
            Some(ReplicaStatus::Running(_)) | None => "-",
            Some(ReplicaStatus::Stopped(_)) => "stopped",
        };
        let running = replica.and_then(ReplicaStatus::running);
        let Some(running) = running else { return Self::none(phase) };
        let lag = running.followers.iter().map(|follower| {
            let silent = if follower.active { "" } else { " (silent)" };
            format!("{} {}{silent}", follower.node, follower.lag)
        });
        let lag = lag.collect::<Vec<_>>().join(", ");
        Self {
            role: role(running.role).to_owned(),
            term: running.term.to_string(),
            leader: running.leader.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
            commit: running.commit.to_string(),
            applied: running.applied.to_string(),
            in_sync: match running.in_sync.len() {
                0 => "-".to_owned(),
                in_sync => format!("{in_sync}/{}", running.voters.len()),
            },
            lag: if lag.is_empty() { "-".to_owned() } else { lag },
        }
    }

    /// A node without a replica at work.
    pub(super) fn none(role: &str) -> Self {
        let dash = || "-".to_owned();
        Self {
            role: role.to_owned(),
            term: dash(),
            leader: dash(),
            commit: dash(),
            applied: dash(),
            in_sync: dash(),
            lag: dash(),
        }
    }
}

const fn role(role: Role) -> &'static str {
    match role {
        Role::Candidate => "candidate",
        Role::Follower => "follower",
        Role::Leader => "leader",
    }
}
