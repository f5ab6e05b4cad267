//! `zmesh kv get`, `list` and `history`.

use serde_json::json;
use zmesh::ErrorCode;

use super::super::failure::{Exit, Failure};
use super::super::{Connect, Context};
use super::{Keys, Store, print};

/// Changes that are printed at most if nothing else is said.
const HISTORY_LIMIT: u32 = 1_000;

/// Arguments of `zmesh kv get`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct GetArgs {
    /// The key.
    key: String,
    /// Ask the connected node alone: faster, works without a quorum, and may be out of date.
    #[arg(long, conflicts_with_all = ["at_least", "revision"])]
    stale: bool,
    /// Ask the connected node alone, as soon as it has come to this revision: one's own writes are
    /// seen.
    #[arg(long, value_name = "REVISION")]
    at_least: Option<u64>,
    /// As it was at this revision.
    #[arg(long, value_name = "REVISION")]
    revision: Option<u64>,
    #[command(flatten)]
    connect: Connect,
}

/// Arguments of `zmesh kv list`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct ListArgs {
    /// Only keys that begin with this.
    prefix: Option<String>,
    /// So many at most [default: all].
    #[arg(long, value_name = "COUNT")]
    limit: Option<u64>,
    /// Without the values.
    #[arg(long)]
    keys_only: bool,
    /// The last keys first.
    #[arg(long)]
    reverse: bool,
    /// As they were at this revision.
    #[arg(long, value_name = "REVISION")]
    revision: Option<u64>,
    /// Print only how many there are now.
    #[arg(long, conflicts_with_all = ["limit", "keys_only", "reverse", "revision"])]
    count: bool,
    #[command(flatten)]
    connect: Connect,
}

/// Arguments of `zmesh kv history`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct HistoryArgs {
    /// The key.
    key: String,
    /// Only changes after this revision.
    #[arg(long, value_name = "REVISION", default_value_t = 0)]
    after: u64,
    /// So many at most, the oldest first.
    #[arg(long, value_name = "COUNT", default_value_t = HISTORY_LIMIT)]
    limit: u32,
    #[command(flatten)]
    connect: Connect,
}

/// Runs `zmesh kv get`.
pub(super) async fn get(args: &GetArgs, context: &Context) -> Result<(), Failure> {
    let store = Store::connect(&args.connect).await?;
    let (kv, peer) = (store.kv(), store.client.peer.clone());
    let (index, found) = if args.stale {
        let stale = store.read(kv.get_stale(&peer, args.key.clone())).await;
        (stale.as_ref().ok().map(|stale| stale.index), stale.map(|stale| stale.entry))
    } else {
        let mut get = kv.get(args.key.clone()).at(args.revision.unwrap_or(0));
        if let Some(revision) = args.at_least {
            get = get.at_least(revision).on(&peer);
        }
        (None, store.read(get).await)
    };
    store.close().await;
    let Some(entry) = found? else {
        let message = format!("{} has no value", args.key);
        return Err(Failure::coded(Exit::Refused, ErrorCode::NotFound, message));
    };
    if !context.out.is_json() {
        return context.out.bytes(&entry.value);
    }
    let mut line = print::entry(&entry);
    if let Some(index) = index {
        line["index"] = json!(index);
    }
    context.out.json(&line)
}

/// Runs `zmesh kv list`.
pub(super) async fn list(args: &ListArgs, context: &Context) -> Result<(), Failure> {
    let store = Store::connect(&args.connect).await?;
    let keys = Keys { key: args.prefix.clone(), prefix: true };
    if args.count {
        let count = store.read(store.kv().count(keys.range())).await;
        store.close().await;
        let count = count?;
        return match context.out.is_json() {
            true => context.out.json(&json!({ "keys": count })),
            false => context.out.text(&count.to_string()),
        };
    }
    let mut list = store.kv().list(keys.range()).at(args.revision.unwrap_or(0));
    if args.keys_only {
        list = list.keys_only();
    }
    if args.reverse {
        list = list.reverse();
    }
    let mut left = args.limit.unwrap_or(u64::MAX);
    if let Ok(limit) = u32::try_from(left) {
        list = list.limit(limit);
    }
    let mut pages = list.pages();
    let mut rows = Vec::new();
    let read = async {
        while left > 0
            && let Some(page) = store.read(pages.next()).await?
        {
            let count = u64::try_from(page.entries.len()).unwrap_or(u64::MAX).min(left);
            let taken = page.entries.into_iter().take(usize::try_from(count).unwrap_or(usize::MAX));
            rows.extend(taken.map(|entry| print::Row::new(&entry, args.keys_only)));
            left -= count;
        }
        Ok(())
    };
    let read: Result<(), Failure> = read.await;
    store.close().await;
    read?;
    context.out.table_or_json(&rows)
}

/// Runs `zmesh kv history`.
pub(super) async fn history(args: &HistoryArgs, context: &Context) -> Result<(), Failure> {
    let store = Store::connect(&args.connect).await?;
    let found = store.read(store.kv().history(args.key.clone(), args.after, args.limit)).await;
    store.close().await;
    found?.events.iter().try_for_each(|event| print::event(event, context))
}
