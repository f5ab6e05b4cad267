//! `zmesh log topics`, `create`, `configure`, `delete` and `trim`.

use serde::Serialize;
use serde_json::json;
use zmesh::config::{Period, Size};
use zmesh::log::{Compaction, TopicOptions, TopicView};

use super::super::failure::{Exit, Failure};
use super::super::output::Record;
use super::super::{Connect, Context};
use super::{Log, Session};

/// Rows that are asked for at once.
const PAGE: u16 = 1_000;

/// Arguments of `zmesh log topics`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct ListArgs {
    /// Only those whose names begin like this.
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,
    #[command(flatten)]
    connect: Connect,
}

/// Arguments of `zmesh log create` and `configure`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct CreateArgs {
    /// The topic: letters, digits, `.`, `_` and `-`.
    topic: String,
    /// Keep records for at least this time [default: for ever].
    #[arg(long, value_name = "DURATION")]
    age: Option<Period>,
    /// Keep at least so many bytes of the newest records [default: all].
    #[arg(long, value_name = "SIZE")]
    bytes: Option<Size>,
    /// Keep so many of the newest records [default: all].
    #[arg(long, value_name = "N")]
    records: Option<u64>,
    /// Bytes that one record may have [default: 1MiB].
    #[arg(long, value_name = "SIZE")]
    record_bytes_max: Option<Size>,
    /// Compact by key: of the records with the same key only the last one has to stay. A record with
    /// an empty value ends its key. All records must have a key then.
    #[arg(long)]
    compact: bool,
    /// Keep every record for at least this time before it may be compacted [default: 0s].
    #[arg(long, value_name = "DURATION", requires = "compact")]
    compact_after: Option<Period>,
    /// Keep records with an empty value for at least this time [default: 24h].
    #[arg(long, value_name = "DURATION", requires = "compact")]
    tombstones_for: Option<Period>,
    /// Compact when so much of the topic has come since the last time [default: 50].
    #[arg(long, value_name = "PERCENT", requires = "compact")]
    dirty_percent: Option<u8>,
    #[command(flatten)]
    connect: Connect,
}

/// Arguments of `zmesh log delete`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct DeleteArgs {
    /// The topic; that there is none is no error.
    topic: String,
    #[command(flatten)]
    connect: Connect,
}

/// Arguments of `zmesh log trim`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct TrimArgs {
    /// The topic.
    topic: String,
    /// The first offset that stays.
    #[arg(long, value_name = "OFFSET")]
    before: u64,
    #[command(flatten)]
    connect: Connect,
}

/// Lists topics by name.
pub(super) async fn list(args: &ListArgs, context: &Context) -> Result<(), Failure> {
    let session = Session::open(&args.connect).await?;
    let log = session.log.clone();
    let rows = session.ask(all(&log, &args.prefix)).await?;
    context.out.table_or_json(&rows)
}

async fn all(log: &Log, prefix: &str) -> Result<Vec<Row>, zmesh::log::Error> {
    let mut rows: Vec<Row> = Vec::new();
    loop {
        let after = rows.last().map_or("", |row| &row.topic);
        let page = log.topics(prefix, after, PAGE).await?;
        let is_last = page.len() < usize::from(PAGE);
        rows.extend(page.into_iter().map(|(topic, view)| Row { topic, view }));
        if is_last {
            return Ok(rows);
        }
    }
}

/// Creates a topic.
pub(super) async fn create(args: &CreateArgs, context: &Context) -> Result<(), Failure> {
    let options = options(args)?;
    let session = Session::open(&args.connect).await?;
    let topic = session.log.topic(args.topic.clone());
    let view = session.change(topic.create(options)).await?;
    print_view(&args.topic, view, context)
}

/// Gives a topic other options.
pub(super) async fn configure(args: &CreateArgs, context: &Context) -> Result<(), Failure> {
    let options = options(args)?;
    let session = Session::open(&args.connect).await?;
    let topic = session.log.topic(args.topic.clone());
    let view = session.change(topic.configure(options)).await?;
    print_view(&args.topic, view, context)
}

/// Deletes a topic.
pub(super) async fn delete(args: &DeleteArgs, context: &Context) -> Result<(), Failure> {
    let session = Session::open(&args.connect).await?;
    let topic = session.log.topic(args.topic.clone());
    session.change(topic.delete()).await?;
    match context.out.is_json() {
        true => context.out.json(&json!({ "topic": args.topic, "deleted": true })),
        false => context.out.text("OK"),
    }
}

/// Removes old records.
pub(super) async fn trim(args: &TrimArgs, context: &Context) -> Result<(), Failure> {
    let session = Session::open(&args.connect).await?;
    let topic = session.log.topic(args.topic.clone());
    let first = session.change(topic.trim(args.before)).await?;
    match context.out.is_json() {
        true => context.out.json(&json!({ "topic": args.topic, "first": first })),
        false => context.out.text(&format!("OK first offset {first}")),
    }
}

fn options(args: &CreateArgs) -> Result<TopicOptions, Failure> {
    let defaults = TopicOptions::default();
    let record_bytes_max = match args.record_bytes_max {
        Some(size) => u32::try_from(size.0).unwrap_or(u32::MAX),
        None => defaults.record_bytes_max,
    };
    let options = TopicOptions {
        age: args.age.map(|period| period.0),
        bytes: args.bytes.map(|size| size.0),
        records: args.records,
        compaction: args.compact.then(|| compaction(args)),
        record_bytes_max,
    };
    match options.check() {
        Ok(()) => Ok(options),
        Err(error) => Err(Failure::new(Exit::Usage, error.to_string()).next(
            "ages are whole seconds; limits are above 0; a record has at most 8MiB less 1KiB; \
             --dirty-percent is 1 to 100",
        )),
    }
}

fn compaction(args: &CreateArgs) -> Compaction {
    let defaults = Compaction::default();
    Compaction {
        after: args.compact_after.map_or(defaults.after, |period| period.0),
        tombstones_for: args.tombstones_for.map_or(defaults.tombstones_for, |period| period.0),
        dirty_percent: args.dirty_percent.unwrap_or(defaults.dirty_percent),
    }
}

fn print_view(topic: &str, view: TopicView, context: &Context) -> Result<(), Failure> {
    match context.out.is_json() {
        true => context.out.json(&Row { topic: topic.to_owned(), view }),
        false => context.out.text("OK"),
    }
}

#[derive(Debug, Serialize)]
struct Row {
    topic: String,
    #[serde(flatten)]
    view: TopicView,
}

impl Record for Row {
    const COLUMNS: &'static [&'static str] =
        &["topic", "records", "first", "next", "bytes", "keeps", "cursors"];

    fn cells(&self) -> Vec<String> {
        let view = &self.view;
        vec![
            self.topic.clone(),
            (view.next - view.first).to_string(),
            view.first.to_string(),
            view.next.to_string(),
            view.bytes.to_string(),
            keeps(&view.options),
            view.cursors.to_string(),
        ]
    }
}

/// How long records are kept, in a few words.
fn keeps(options: &TopicOptions) -> String {
    let limits = [
        options.age.map(|age| Period(age).to_string()),
        options.bytes.map(|bytes| Size(bytes).to_string()),
        options.records.map(|records| format!("{records} records")),
        options.compaction.map(|_| "last of each key".to_owned()),
    ];
    let limits: Vec<_> = limits.into_iter().flatten().collect();
    if limits.is_empty() { "all".to_owned() } else { limits.join(", ") }
}
