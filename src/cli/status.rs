//! `zmesh status`: how a node is, or all of them.

use serde::Serialize;
use zmesh::NodeId;
use zmesh::consensus::Role;
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
    rows.iter().flat_map(|row| remarks(&row.status)).try_for_each(|remark| out.text(&remark))
}

/// What somebody should look at.
fn remarks(status: &Status) -> Vec<String> {
    let node = &status.node;
    let mut remarks = Vec::new();
    match &status.replica {
        Some(ReplicaStatus::Doubtful) => {
            remarks.push(format!(
                "{node} may have lost writes and stays out until the others have a leader; if all \
                 went down at once, one directory has to be recovered by force"
            ));
        }
        Some(ReplicaStatus::Forming { missing }) => {
            remarks.push(format!("{node} waits for {}", names(missing)));
        }
        Some(ReplicaStatus::Stopped(stopped)) => {
            remarks.push(format!("{node}: the replica has stopped: {}", stopped.reason));
        }
        Some(ReplicaStatus::Running(running)) => {
            if !running.has_room {
                remarks.push(format!("{node} refuses writes: no space is left for the log"));
            }
            remarks.extend(under_replicated(node, running));
            if let Some(damage) = &running.damage {
                remarks.push(format!("{node} goes on with a damaged file: {damage}"));
            }
            remarks.extend(running.divergence.iter().map(|divergence| {
                format!(
                    "{node}: its state after entry {} differs from that of {}: see \
                     `zmesh check --online`",
                    divergence.index,
                    divergence.others.join(", ")
                )
            }));
        }
        None => {}
    }
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

fn under_replicated(node: &NodeId, running: &Running) -> Option<String> {
    let seconds = running.under_replicated_ms? / 1_000;
    let voters = running.voters.iter().filter(|voter| !running.in_sync.contains(voter));
    let lagging: Vec<_> = voters.cloned().collect();
    Some(format!("{node} leads under-replicated for {seconds}s: {} not in sync", names(&lagging)))
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
    /// How the replica of a node is, in words.
    pub(super) fn of(status: &Status) -> Self {
        let phase = match &status.replica {
            Some(ReplicaStatus::Doubtful) => "doubtful",
            Some(ReplicaStatus::Forming { .. }) => "forming",
            Some(ReplicaStatus::Running(_)) | None => "-",
            Some(ReplicaStatus::Stopped(_)) => "stopped",
        };
        let Some(running) = status.running() else { return Self::none(phase) };
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
