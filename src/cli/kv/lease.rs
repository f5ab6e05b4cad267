//! `zmesh kv lease`: leases, and the keys that go with them.

use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use zmesh::config::Period;
use zmesh::kv::Lease;

use super::super::failure::Failure;
use super::super::output::Record;
use super::super::{Connect, Context};
use super::Store;

/// Leases that are asked for at once.
const PAGE: u32 = 1_000;

/// What to do with leases.
#[derive(Debug, clap::Subcommand)]
pub(in crate::cli) enum Command {
    /// Open a lease and print its id; its keys are cleared when it was not kept alive for its time.
    Grant(GrantArgs),
    /// Make the time of a lease begin anew.
    Keep(IdArgs),
    /// End a lease and clear its keys.
    Revoke(IdArgs),
    /// List the leases that there are.
    List(ListArgs),
}

/// Arguments of `zmesh kv lease grant`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct GrantArgs {
    /// How long it lasts without being kept alive, such as `30s`; 100 ms to a year.
    #[arg(value_name = "DURATION")]
    ttl: Period,
    #[command(flatten)]
    connect: Connect,
}

/// Arguments of `zmesh kv lease keep` and `revoke`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct IdArgs {
    /// The id that `grant` has printed.
    id: u64,
    #[command(flatten)]
    connect: Connect,
}

/// Arguments of `zmesh kv lease list`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct ListArgs {
    #[command(flatten)]
    connect: Connect,
}

#[derive(Serialize)]
struct Row {
    id: u64,
    ttl_ms: u64,
    keys: u64,
}

impl Record for Row {
    const COLUMNS: &'static [&'static str] = &["id", "time to live", "keys"];

    fn cells(&self) -> Vec<String> {
        let ttl = Period(Duration::from_millis(self.ttl_ms));
        vec![self.id.to_string(), ttl.to_string(), self.keys.to_string()]
    }
}

/// Runs `zmesh kv lease`.
pub(super) async fn run(command: &Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Grant(args) => {
            let store = Store::connect(&args.connect).await?;
            let kv = store.kv();
            let lease = store.write(&kv, kv.grant(args.ttl.0)).await;
            store.close().await;
            print(&lease?, context)
        }
        Command::Keep(args) => {
            let store = Store::connect(&args.connect).await?;
            let kv = store.kv();
            let lease = store.write(&kv, kv.keep_alive(args.id)).await;
            store.close().await;
            print(&lease?, context)
        }
        Command::List(args) => list(args, context).await,
        Command::Revoke(args) => {
            let store = Store::connect(&args.connect).await?;
            let kv = store.kv();
            let revoked = store.write(&kv, kv.revoke(args.id)).await;
            store.close().await;
            let revision = revoked?.revision;
            match context.out.is_json() {
                true => context.out.json(&json!({ "id": args.id, "revision": revision })),
                false => context.out.text(&format!("OK revision {revision}")),
            }
        }
    }
}

async fn list(args: &ListArgs, context: &Context) -> Result<(), Failure> {
    let store = Store::connect(&args.connect).await?;
    let (mut rows, mut after) = (Vec::new(), 0);
    let leases = loop {
        let leases = match store.read(store.kv().leases(after, PAGE)).await {
            Ok(leases) => leases,
            Err(failure) => break Err(failure),
        };
        let Some(last) = leases.last() else { break Ok(rows) };
        after = last.id;
        rows.extend(leases.iter().map(row));
    };
    store.close().await;
    context.out.table_or_json(&leases?)
}

fn row(lease: &Lease) -> Row {
    let ttl_ms = u64::try_from(lease.ttl.as_millis()).unwrap_or(u64::MAX);
    Row { id: lease.id, ttl_ms, keys: lease.keys }
}

fn print(lease: &Lease, context: &Context) -> Result<(), Failure> {
    match context.out.is_json() {
        true => context.out.json(&row(lease)),
        false => context.out.text(&lease.id.to_string()),
    }
}
