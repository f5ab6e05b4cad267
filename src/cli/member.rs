//! `zmesh member`: who takes part in the replicated services.
//!
//! A node is a member of every service of its cluster or of none, so each change is made for one
//! service after the other. Every change may be asked for again: what is so already counts as done.
//! A command that stopped half way is finished by running it again.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use zmesh::consensus::FollowerState;
use zmesh::replica::{Admin, ClientError, Roster, RosterMember};
use zmesh::{Effect, ErrorCode, NodeId};

use super::client::Client;
use super::failure::{Exit, Failure};
use super::output::Record;
use super::progress::Progress;
use super::{Connect, Context};

/// Entries a member may lack and still have caught up: under load it always lacks some.
const LAG_MAX: u64 = 1_000;
/// Wait between two looks at how far a member is.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// How long a node that is to be added may take to be seen.
const SEEN_WITHIN: Duration = Duration::from_secs(5);
/// What to do when a command stopped half way.
const AGAIN: &str = "see `zmesh member list`, and run the command again: what is done stays done";

/// What to do with the members.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List the members of every service, and how far each is.
    List(ListArgs),
    /// Add a node that was started with `serve --join`, and wait until it has caught up.
    Add(AddArgs),
    /// Let a member that has caught up vote.
    Promote(NodeArgs),
    /// Remove a member for good; its directory can never come back.
    Remove(NodeArgs),
    /// Put a new node in the place of a member: add, catch up, promote, remove.
    Replace(ReplaceArgs),
    /// Make a voter the leader.
    Transfer(TransferArgs),
}

/// Arguments of `zmesh member list`.
#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    connect: Connect,
}

/// Arguments of `zmesh member add`.
#[derive(Debug, clap::Args)]
#[command(mut_arg("timeout", |arg| arg.default_value("10m")))]
pub(super) struct AddArgs {
    /// The node.
    node: NodeId,
    /// Let it vote as soon as it has caught up.
    #[arg(long)]
    promote: bool,
    #[command(flatten)]
    connect: Connect,
}

/// Arguments of `zmesh member promote` and `remove`.
#[derive(Debug, clap::Args)]
#[command(mut_arg("timeout", |arg| arg.default_value("30s")))]
pub(super) struct NodeArgs {
    /// The member.
    node: NodeId,
    #[command(flatten)]
    connect: Connect,
}

/// Arguments of `zmesh member replace`.
#[derive(Debug, clap::Args)]
#[command(mut_arg("timeout", |arg| arg.default_value("10m")))]
pub(super) struct ReplaceArgs {
    /// The member that goes; it need not be up.
    old: NodeId,
    /// The node that takes its place.
    new: NodeId,
    #[command(flatten)]
    connect: Connect,
}

/// Arguments of `zmesh member transfer`.
#[derive(Debug, clap::Args)]
#[command(mut_arg("timeout", |arg| arg.default_value("30s")))]
pub(super) struct TransferArgs {
    /// The voter.
    node: NodeId,
    /// Only of this service, such as `kv` [default: all].
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    #[command(flatten)]
    connect: Connect,
}

/// Runs `zmesh member`.
pub(super) async fn run(command: &Command, context: &Context) -> Result<(), Failure> {
    let connect = match command {
        Command::Add(args) => &args.connect,
        Command::List(args) => &args.connect,
        Command::Promote(args) | Command::Remove(args) => &args.connect,
        Command::Replace(args) => &args.connect,
        Command::Transfer(args) => &args.connect,
    };
    let client = Client::connect(connect).await?;
    let done = match Members::find(&client, context).await {
        Ok(members) => members.run(command).await,
        Err(failure) => Err(failure),
    };
    client.close().await;
    done
}

/// The services of the mesh, and whoever works on their members.
struct Members<'a> {
    client: &'a Client,
    context: &'a Context,
    services: Vec<Admin>,
}

/// One change of the members.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    Add,
    Promote,
    Remove,
    Transfer,
}

impl Step {
    /// What the member is afterwards.
    const fn result(self) -> &'static str {
        match self {
            Self::Add => "learner",
            Self::Promote => "voter",
            Self::Remove => "removed",
            Self::Transfer => "leader",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Promote => "promote",
            Self::Remove => "remove",
            Self::Transfer => "transfer to",
        }
    }
}

impl<'a> Members<'a> {
    /// Finds the services that run in the mesh.
    async fn find(client: &'a Client, context: &'a Context) -> Result<Self, Failure> {
        client.settle().await;
        let services = Admin::services(&client.node);
        if services.is_empty() {
            let message = "no node runs a replica of a cluster that has begun";
            return Err(Failure::coded(Exit::Unreachable, ErrorCode::NoReplica, message).next(
                "see `zmesh status --all`: a cluster begins when all of its members are up",
            ));
        }
        let services = services.iter().map(|service| Admin::new(&client.node, service)).collect();
        Ok(Self { client, context, services })
    }

    async fn run(mut self, command: &Command) -> Result<(), Failure> {
        match command {
            Command::Add(args) => self.add(&args.node, args.promote).await,
            Command::List(_) => self.list().await,
            Command::Promote(args) => self.each(Step::Promote, &args.node).await,
            Command::Remove(args) => self.remove(&args.node).await,
            Command::Replace(args) => self.replace(&args.old, &args.new).await,
            Command::Transfer(args) => {
                if let Some(service) = &args.service {
                    self.services.retain(|admin| admin.service() == service);
                    if self.services.is_empty() {
                        let message = format!("no node runs a service called {service}");
                        return Err(Failure::new(Exit::Refused, message)
                            .next("see `zmesh member list` for the services"));
                    }
                }
                self.each(Step::Transfer, &args.node).await
            }
        }
    }

    async fn list(&self) -> Result<(), Failure> {
        let mut rows = Vec::new();
        for roster in self.rosters().await? {
            let leader = roster.leader.clone();
            rows.extend(roster.members.into_iter().map(|member| Row {
                service: roster.service.clone(),
                leads: leader.as_ref() == Some(&member.node),
                member,
            }));
        }
        self.context.out.table_or_json(&rows)
    }

    async fn add(&self, node: &NodeId, promote: bool) -> Result<(), Failure> {
        self.is_seen(node).await?;
        self.each(Step::Add, node).await?;
        self.catch_up(node).await?;
        match promote {
            true => self.each(Step::Promote, node).await,
            false => Ok(()),
        }
    }

    async fn remove(&self, node: &NodeId) -> Result<(), Failure> {
        if !self.is_member(node).await? {
            return Err(unknown(node));
        }
        self.each(Step::Remove, node).await?;
        self.say(&format!("stop {node}, if it runs: its directory cannot come back"))
    }

    async fn replace(&self, old: &NodeId, new: &NodeId) -> Result<(), Failure> {
        if old == new {
            let message = "a member cannot take its own place";
            return Err(Failure::new(Exit::Usage, message)
                .next("give the new node another name, and its own empty directory"));
        }
        let old_is_there = self.is_member(old).await?;
        if !old_is_there && !self.is_member(new).await? {
            return Err(unknown(old));
        }
        self.add(new, true).await?;
        match old_is_there {
            true => self.remove(old).await,
            false => self.say(&format!("{old} was removed before")),
        }
    }

    /// Waits a little until a node is seen that can be added.
    async fn is_seen(&self, node: &NodeId) -> Result<(), Failure> {
        let within = SEEN_WITHIN.min(self.client.time_left());
        let runs = async {
            while !self.services.iter().all(|service| service.runs(node)) {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        };
        if tokio::time::timeout(within, runs).await.is_ok() {
            return Ok(());
        }
        let lacking = self.services.iter().filter(|service| !service.runs(node));
        let lacking: Vec<_> = lacking.map(Admin::service).collect();
        let message = format!(
            "{node} is not in the mesh, or has no directory for {} there",
            lacking.join(", ")
        );
        let next = format!(
            "start it: zmesh serve --id {node} --join --data-dir DIR --peer ADDRESS, DIR being empty"
        );
        Err(Failure::coded(Exit::Refused, ErrorCode::MemberUnknown, message).next(next))
    }

    async fn is_member(&self, node: &NodeId) -> Result<bool, Failure> {
        Ok(self.rosters().await?.iter().any(|roster| roster.member(node).is_some()))
    }

    async fn rosters(&self) -> Result<Vec<Roster>, Failure> {
        let mut rosters = Vec::new();
        for service in &self.services {
            let roster = service.members(self.client.time_left()).await;
            rosters.push(roster.map_err(|error| failed(service.service(), &error, Effect::None))?);
        }
        Ok(rosters)
    }

    /// Makes a change for one service after the other; stops at the first that does not take it.
    async fn each(&self, step: Step, node: &NodeId) -> Result<(), Failure> {
        for (number, service) in self.services.iter().enumerate() {
            let left = self.client.time_left();
            let done = match step {
                Step::Add => service.add_learner(node, left).await,
                Step::Promote => service.promote(node, left).await,
                Step::Remove => service.remove(node, left).await,
                Step::Transfer => service.transfer(node, left).await,
            };
            match done {
                Ok(_) => self.report(service.service(), node, step)?,
                // Another run has removed it here and stopped at a later service.
                Err(error) if step == Step::Remove && error.code() == ErrorCode::MemberUnknown => {
                    self.report(service.service(), node, step)?;
                }
                Err(error) => return Err(self.stopped(step, node, number, &error)),
            }
        }
        Ok(())
    }

    /// Which services have the change, and which have not.
    fn stopped(&self, step: Step, node: &NodeId, number: usize, error: &ClientError) -> Failure {
        let names = |services: &[Admin]| {
            let names: Vec<_> = services.iter().map(Admin::service).collect();
            names.join(", ")
        };
        let failure = failed(self.services[number].service(), error, error.effect());
        let mut known = format!("{} {node}: ", step.name());
        let (before, after) = (&self.services[..number], &self.services[number + 1..]);
        if before.is_empty() && after.is_empty() {
            return failure;
        }
        known.push_str(&match before.is_empty() {
            true => "done for no service".to_owned(),
            false => format!("done for {}", names(before)),
        });
        if !after.is_empty() {
            known.push_str(&format!(", not tried for {}", names(after)));
        }
        failure.adding(&known)
    }

    /// Waits until a member has nearly everything, and says how far it is.
    async fn catch_up(&self, node: &NodeId) -> Result<(), Failure> {
        for service in &self.services {
            let mut progress = Progress::new(self.context.out);
            let name = service.service();
            loop {
                if self.client.time_left().is_zero() {
                    let message = format!("{node} has not caught up with {name}; it goes on");
                    return Err(Failure::coded(Exit::Unreachable, ErrorCode::MemberLags, message)
                        .next("run the command again to wait on; --timeout waits longer"));
                }
                // What fails is looked at again.
                let roster = service.members(self.client.time_left()).await;
                if let Ok(roster) = roster
                    && follow(&roster, node, &mut progress)
                {
                    break;
                }
                tokio::time::sleep(LOOK_INTERVAL.min(self.client.time_left())).await;
            }
        }
        Ok(())
    }

    fn report(&self, service: &str, node: &NodeId, step: Step) -> Result<(), Failure> {
        let state = step.result();
        match self.context.out.is_json() {
            true => {
                let record = json!({ "service": service, "node": node, "state": state });
                self.context.out.json(&record)
            }
            false => self.context.out.text(&format!("{service}: {node} {state}")),
        }
    }

    /// Says something to people.
    fn say(&self, text: &str) -> Result<(), Failure> {
        match self.context.out.is_json() {
            true => Ok(()),
            false => self.context.out.text(text),
        }
    }
}

/// Shows how far a member is; whether it has caught up.
fn follow(roster: &Roster, node: &NodeId, progress: &mut Progress) -> bool {
    let Some(member) = roster.member(node) else { return false };
    if member.voter {
        return true;
    }
    // Only the leader knows; without one there is nothing to show.
    let Some(how) = member.progress else { return false };
    if how.snapshot_bytes_total > 0 {
        let what = format!("{}: snapshot to {node}, bytes", roster.service);
        progress.set(&what, how.snapshot_bytes, how.snapshot_bytes_total);
    } else {
        let what = format!("{}: entries on {node}", roster.service);
        progress.set(&what, roster.commit.saturating_sub(how.lag), roster.commit);
    }
    how.active && how.state == FollowerState::Replicating && how.lag <= LAG_MAX
}

fn unknown(node: &NodeId) -> Failure {
    let message = format!("{node} is no member");
    Failure::coded(Exit::Refused, ErrorCode::MemberUnknown, message).next("see `zmesh member list`")
}

/// A refusal or a loss, with what can be done about it.
fn failed(service: &str, error: &ClientError, effect: Effect) -> Failure {
    let code = error.code();
    // The code goes before the message anyway.
    let message = if let ClientError::Refused { message, .. }
    | ClientError::Unknown { message, .. } = error
    {
        format!("{service}: {message}")
    } else {
        format!("{service}: {error}")
    };
    let failure = Failure::coded(Exit::of(code, effect), code, message);
    failure.next(if code == ErrorCode::QuorumAtRisk {
        "bring the silent members back first"
    } else if code == ErrorCode::MemberExists {
        "remove the member of this name first, or give the node another name"
    } else if code == ErrorCode::NotVoter {
        "promote it first"
    } else {
        AGAIN
    })
}

/// One member of one service in the table.
#[derive(Debug, Serialize)]
struct Row {
    service: String,
    leads: bool,
    #[serde(flatten)]
    member: RosterMember,
}

impl Record for Row {
    const COLUMNS: &'static [&'static str] =
        &["service", "node", "role", "lag", "state", "directory"];

    fn cells(&self) -> Vec<String> {
        let role = match (self.leads, self.member.voter) {
            (true, _) => "leader",
            (false, true) => "voter",
            (false, false) => "learner",
        };
        let dash = || "-".to_owned();
        let (lag, state) = match self.member.progress {
            Some(how) if !how.active => (how.lag.to_string(), "silent".to_owned()),
            Some(how) => {
                let state = match how.state {
                    FollowerState::Probing => "probing",
                    FollowerState::Replicating => "replicating",
                    FollowerState::Snapshot => "snapshot",
                };
                (how.lag.to_string(), state.to_owned())
            }
            None => (dash(), dash()),
        };
        let (service, node) = (self.service.clone(), self.member.node.to_string());
        vec![service, node, role.to_owned(), lag, state, self.member.raft_id.clone()]
    }
}
