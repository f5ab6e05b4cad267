//! `zmesh log cursors`: durable places in a topic.

use serde::Serialize;
use serde_json::json;
use zmesh::log::Topic;

use super::super::failure::Failure;
use super::super::output::Record;
use super::super::{Connect, Context};
use super::Session;

/// Rows that are asked for at once.
const PAGE: u16 = 1_000;

/// What to do with cursors.
#[derive(Debug, clap::Subcommand)]
pub(in crate::cli) enum Command {
    /// List the cursors of a topic.
    List(ListArgs),
    /// Put a cursor at an offset.
    Set(SetArgs),
    /// Remove a cursor; that there is none is no error.
    Clear(ClearArgs),
}

/// Arguments of `zmesh log cursors list`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct ListArgs {
    /// The topic.
    topic: String,
    #[command(flatten)]
    connect: Connect,
}

/// Arguments of `zmesh log cursors set`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct SetArgs {
    /// The topic.
    topic: String,
    /// The cursor.
    cursor: String,
    /// The offset of the record that is read next.
    offset: u64,
    #[command(flatten)]
    connect: Connect,
}

/// Arguments of `zmesh log cursors clear`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct ClearArgs {
    /// The topic.
    topic: String,
    /// The cursor.
    cursor: String,
    #[command(flatten)]
    connect: Connect,
}

/// Runs `zmesh log cursors`.
pub(super) async fn run(command: &Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Clear(args) => {
            let session = Session::open(&args.connect).await?;
            let cursor = session.log.topic(args.topic.clone()).cursor(args.cursor.clone());
            session.change(cursor.clear()).await?;
            print_done(&args.cursor, None, context)
        }
        Command::List(args) => {
            let session = Session::open(&args.connect).await?;
            let topic = session.log.topic(args.topic.clone());
            let rows = session.ask(all(&topic)).await?;
            context.out.table_or_json(&rows)
        }
        Command::Set(args) => {
            let session = Session::open(&args.connect).await?;
            let cursor = session.log.topic(args.topic.clone()).cursor(args.cursor.clone());
            session.change(cursor.store(args.offset)).await?;
            print_done(&args.cursor, Some(args.offset), context)
        }
    }
}

async fn all(topic: &Topic) -> Result<Vec<Row>, zmesh::log::Error> {
    let end = topic.end().await?;
    let mut rows: Vec<Row> = Vec::new();
    loop {
        let after = rows.last().map_or("", |row| &row.cursor);
        let page = topic.cursors(after, PAGE).await?;
        let is_last = page.len() < usize::from(PAGE);
        rows.extend(page.into_iter().map(|(cursor, offset)| {
            let lag = end.saturating_sub(offset);
            Row { cursor, offset, lag }
        }));
        if is_last {
            return Ok(rows);
        }
    }
}

fn print_done(cursor: &str, offset: Option<u64>, context: &Context) -> Result<(), Failure> {
    match context.out.is_json() {
        true => context.out.json(&json!({ "cursor": cursor, "offset": offset })),
        false => context.out.text("OK"),
    }
}

#[derive(Debug, Serialize)]
struct Row {
    cursor: String,
    offset: u64,
    lag: u64,
}

impl Record for Row {
    const COLUMNS: &'static [&'static str] = &["cursor", "offset", "lag"];

    fn cells(&self) -> Vec<String> {
        vec![self.cursor.clone(), self.offset.to_string(), self.lag.to_string()]
    }
}
