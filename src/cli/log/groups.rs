//! `zmesh log groups`: consumers that share the work of a topic, and what they could not do.

use serde::Serialize;
use serde_json::json;
use zmesh::config::Period;
use zmesh::log::groups::{
    BATCH_MAX, DeadLetter, Group, GroupError, GroupOptions, GroupStatus, MemberStatus, Outcome,
};

use super::super::failure::{Exit, Failure};
use super::super::output::Record;
use super::super::{Connect, Context};
use super::from::Where;
use super::{ErrorCode, Session, changed};

/// What to do with groups.
#[derive(Debug, clap::Subcommand)]
pub(in crate::cli) enum Command {
    /// List the groups of a topic.
    List(ListArgs),
    /// Show a group and its members.
    Show(GroupArgs),
    /// List the records that were tried too often.
    Dead(GroupArgs),
    /// Have dead letters tried again.
    Requeue(OffsetArgs),
    /// Give dead letters up; the records stay in the topic.
    Drop(OffsetArgs),
    /// Create a group; that it exists with these options is no error.
    Create(CreateArgs),
    /// Delete a group; the records stay. That there is none is no error.
    Delete(GroupArgs),
}

/// Arguments of `zmesh log groups list`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct ListArgs {
    /// The topic.
    topic: String,
    #[command(flatten)]
    connect: Connect,
}

/// A group.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct GroupArgs {
    /// The topic.
    topic: String,
    /// The group.
    group: String,
    #[command(flatten)]
    connect: Connect,
}

/// Dead letters of a group.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct OffsetArgs {
    /// The topic.
    topic: String,
    /// The group.
    group: String,
    /// The records.
    #[arg(required_unless_present = "all")]
    offsets: Vec<u64>,
    /// All dead letters that there are.
    #[arg(long, conflicts_with = "offsets")]
    all: bool,
    #[command(flatten)]
    connect: Connect,
}

/// Arguments of `zmesh log groups create`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct CreateArgs {
    /// The topic; it is created with default options if there is none.
    topic: String,
    /// The group: letters, digits, `.`, `_` and `-`.
    group: String,
    /// Where to begin: an offset, `first`, `end`, a time, or how long ago.
    #[arg(long, value_name = "WHERE", default_value = "first", allow_hyphen_values = true)]
    from: Where,
    /// How long a record may be with a member until it is given to another [default: 30s].
    #[arg(long, value_name = "DURATION")]
    ack_timeout: Option<Period>,
    /// How long a member may be silent until it counts as gone [default: 15s].
    #[arg(long, value_name = "DURATION")]
    session_timeout: Option<Period>,
    /// How often a record is delivered before it becomes a dead letter [default: 5].
    #[arg(long, value_name = "N")]
    tries_max: Option<u32>,
    /// Records that may be with members or wait for another try [default: 4096].
    #[arg(long, value_name = "N")]
    pending_max: Option<u32>,
    /// Records that may be with one member [default: 256].
    #[arg(long, value_name = "N")]
    member_pending_max: Option<u32>,
    /// Dead letters before they take the room of pending records [default: 4096].
    #[arg(long, value_name = "N")]
    dead_max: Option<u32>,
    #[command(flatten)]
    connect: Connect,
}

/// Runs `zmesh log groups`.
pub(super) async fn run(command: &Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Create(args) => create(args, context).await,
        Command::Dead(args) => {
            let session = Session::open(&args.connect).await?;
            let group = session.log.topic(args.topic.clone()).group(args.group.clone());
            let rows = session.ask(all_dead(&group)).await?;
            context.out.table_or_json(&rows)
        }
        Command::Delete(args) => {
            let session = Session::open(&args.connect).await?;
            let group = session.log.topic(args.topic.clone()).group(args.group.clone());
            session.change(group.delete()).await?;
            print_done(&args.group, context)
        }
        Command::Drop(args) => settle(args, Settle::Drop, context).await,
        Command::List(args) => {
            let session = Session::open(&args.connect).await?;
            let topic = session.log.topic(args.topic.clone());
            let rows = session.ask(topic.groups()).await?;
            context.out.table_or_json(&rows.into_iter().map(Row).collect::<Vec<_>>())
        }
        Command::Requeue(args) => settle(args, Settle::Requeue, context).await,
        Command::Show(args) => {
            let session = Session::open(&args.connect).await?;
            let group = session.log.topic(args.topic.clone()).group(args.group.clone());
            let found = session.ask(async {
                Ok::<_, GroupError>((group.status().await?, group.members().await?))
            });
            let (status, members) = found.await?;
            show(&status, &members, context)
        }
    }
}

async fn create(args: &CreateArgs, context: &Context) -> Result<(), Failure> {
    let defaults = GroupOptions::default();
    let options = GroupOptions {
        ack_timeout: args.ack_timeout.map_or(defaults.ack_timeout, |period| period.0),
        session_timeout: args.session_timeout.map_or(defaults.session_timeout, |period| period.0),
        tries_max: args.tries_max.unwrap_or(defaults.tries_max),
        pending_max: args.pending_max.unwrap_or(defaults.pending_max),
        member_pending_max: args.member_pending_max.unwrap_or(defaults.member_pending_max),
        dead_max: args.dead_max.unwrap_or(defaults.dead_max),
    };
    if let Err(error) = options.check() {
        return Err(Failure::new(Exit::Usage, error.to_string())
            .next("times are from 1s to 24h; counts from 1 to 65536"));
    }
    let session = Session::open(&args.connect).await?;
    let topic = session.log.topic(args.topic.clone());
    let start = match args.from.resolve(&topic, session.client.timeout()).await {
        Ok(start) => start,
        Err(failure) => {
            session.client.close().await;
            return Err(failure);
        }
    };
    let group = topic.group(args.group.clone());
    session.change(group.create(start, options)).await?;
    print_done(&args.group, context)
}

/// What becomes of dead letters.
#[derive(Clone, Copy, Debug)]
enum Settle {
    Drop,
    Requeue,
}

async fn settle(args: &OffsetArgs, settle: Settle, context: &Context) -> Result<(), Failure> {
    let session = Session::open(&args.connect).await?;
    let group = session.log.topic(args.topic.clone()).group(args.group.clone());
    let within = session.client.timeout();
    let settling = async {
        let offsets = match args.all {
            true => all_dead(&group).await?.iter().map(|dead| dead.0.offset).collect(),
            false => args.offsets.clone(),
        };
        let mut rows = Vec::new();
        for batch in offsets.chunks(BATCH_MAX) {
            let outcomes = match settle {
                Settle::Drop => group.drop_dead(batch).await?,
                Settle::Requeue => group.requeue(batch).await?,
            };
            rows.extend(
                batch
                    .iter()
                    .zip(outcomes)
                    .map(|(offset, outcome)| Settled { offset: *offset, outcome }),
            );
        }
        Ok::<_, GroupError>(rows)
    };
    let rows = changed(settling, within).await;
    session.client.close().await;
    let rows = rows?;
    let done = rows.iter().filter(|row| row.outcome == Outcome::Done).count();
    match context.out.is_json() {
        true => context.out.table_or_json(&rows)?,
        false => context.out.text(&format!("OK {done} of {}", rows.len()))?,
    }
    let find = |outcome| rows.iter().find(|row| row.outcome == outcome);
    if let Some(full) = find(Outcome::Full) {
        let message =
            format!("record {} and others would be more than may be pending", full.offset);
        return Err(Failure::coded(Exit::Refused, ErrorCode::GroupFull, message)
            .next("try again when members have caught up"));
    }
    match find(Outcome::Stale) {
        Some(stale) => {
            let message = format!("record {} is no dead letter", stale.offset);
            Err(Failure::coded(Exit::Refused, ErrorCode::NotFound, message)
                .next(format!("see `zmesh log groups dead {} {}`", args.topic, args.group)))
        }
        None => Ok(()),
    }
}

async fn all_dead(group: &Group) -> Result<Vec<Dead>, GroupError> {
    let mut all: Vec<Dead> = Vec::new();
    loop {
        let from = all.last().map_or(0, |last| last.0.offset + 1);
        let page = group.dead_letters(from).await?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page.into_iter().map(Dead));
    }
}

fn show(status: &GroupStatus, members: &[MemberStatus], context: &Context) -> Result<(), Failure> {
    if context.out.is_json() {
        let mut value = serde_json::to_value(status).unwrap_or_default();
        value["members"] = json!(members);
        return context.out.json(&value);
    }
    let GroupStatus { floor, next, lag, in_flight, available, delayed, dead, .. } = status;
    let (options, counts) = (&status.options, &status.counts);
    let mut text = format!(
        "group      {}\n\
         offsets    floor {floor}, next {next}, lag {lag}\n\
         pending    {in_flight} in flight, {available} available, {delayed} delayed, \
         of at most {}\n\
         dead       {dead}\n\
         tries      at most {}, {} each, {} silence\n\
         so far     {} acked, {} redelivered, {} expired, {} buried, {} dropped, {} skipped, \
         {} members lost\n\
         members    {}",
        status.name,
        options.pending_max,
        options.tries_max,
        Period(options.ack_timeout),
        Period(options.session_timeout),
        counts.acked,
        counts.redelivered,
        counts.expired,
        counts.buried,
        counts.dropped,
        counts.skipped,
        counts.lost,
        status.members,
    );
    for member in members {
        text.push_str(&format!("\n           {}, {} in flight", member.name, member.in_flight));
    }
    context.out.text(&text)
}

fn print_done(group: &str, context: &Context) -> Result<(), Failure> {
    match context.out.is_json() {
        true => context.out.json(&json!({ "group": group })),
        false => context.out.text("OK"),
    }
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Row(GroupStatus);

impl Record for Row {
    const COLUMNS: &'static [&'static str] =
        &["group", "lag", "floor", "next", "in flight", "waiting", "dead", "members"];

    fn cells(&self) -> Vec<String> {
        let status = &self.0;
        let numbers = [
            status.lag,
            status.floor,
            status.next,
            status.in_flight,
            status.available + status.delayed,
            status.dead,
            status.members,
        ];
        std::iter::once(status.name.clone())
            .chain(numbers.map(|number| number.to_string()))
            .collect()
    }
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Dead(DeadLetter);

impl Record for Dead {
    const COLUMNS: &'static [&'static str] = &["offset", "tries"];

    fn cells(&self) -> Vec<String> {
        vec![self.0.offset.to_string(), self.0.tries.to_string()]
    }
}

#[derive(Debug, Serialize)]
struct Settled {
    offset: u64,
    outcome: Outcome,
}

impl Record for Settled {
    const COLUMNS: &'static [&'static str] = &["offset", "outcome"];

    fn cells(&self) -> Vec<String> {
        vec![self.offset.to_string(), format!("{:?}", self.outcome).to_lowercase()]
    }
}
