//! `zmesh kv set`, `clear` and `add`.

use serde_json::json;
use zmesh::kv::{Condition, Fence, KeyRange, Operation, StepResult, Written};
use zmesh::replica::{AckLevel, Acks};

use super::super::failure::Failure;
use super::super::{Connect, Context};
use super::{Store, fence, print, value};

/// Arguments of `zmesh kv set`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct SetArgs {
    /// The key.
    key: String,
    /// The value; `-` reads it from standard input.
    #[arg(allow_negative_numbers = true)]
    value: String,
    /// The key goes when this lease ends (see `zmesh kv lease`).
    #[arg(long, value_name = "ID")]
    lease: Option<u64>,
    /// Print what the key had before, as JSON.
    #[arg(long)]
    previous: bool,
    /// How strongly it is held before the command ends: none, leader, quorum, all, or all:N with N
    /// replicas in sync at least [default: quorum]. With a condition, a lease or the previous value
    /// it is the quorum at least.
    #[arg(long, value_name = "LEVEL")]
    acks: Option<Acks>,
    #[command(flatten)]
    conditions: Conditions,
    #[command(flatten)]
    connect: Connect,
}

/// Arguments of `zmesh kv clear`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct ClearArgs {
    /// The key.
    key: String,
    /// All keys that begin with it, and print how many there were. With many it takes several
    /// steps, between which others may write.
    #[arg(long, conflicts_with_all = ["if_revision", "if_absent", "if_exists", "if_value"])]
    prefix: bool,
    /// Print what the key had before, as JSON.
    #[arg(long, conflicts_with = "prefix")]
    previous: bool,
    /// How strongly it is held before the command ends: none, leader, quorum, all, or all:N with N
    /// replicas in sync at least [default: quorum]. With a condition, a prefix or the previous
    /// value it is the quorum at least.
    #[arg(long, value_name = "LEVEL")]
    acks: Option<Acks>,
    #[command(flatten)]
    conditions: Conditions,
    #[command(flatten)]
    connect: Connect,
}

/// Arguments of `zmesh kv add`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct AddArgs {
    /// The key.
    key: String,
    /// What is added.
    #[arg(default_value_t = 1, allow_negative_numbers = true)]
    delta: i64,
    #[command(flatten)]
    conditions: Conditions,
    #[command(flatten)]
    connect: Connect,
}

/// Under which conditions something is written; if one does not hold, exit code 1.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Conditions")]
struct Conditions {
    /// Only if the last change of the key was at this revision; 0 if it has no value.
    #[arg(long, value_name = "REVISION")]
    if_revision: Option<u64>,
    /// Only if the key has no value.
    #[arg(long, conflicts_with = "if_exists")]
    if_absent: bool,
    /// Only if the key has a value.
    #[arg(long)]
    if_exists: bool,
    /// Only if the key has this value.
    #[arg(long, value_name = "VALUE")]
    if_value: Option<String>,
    /// Only while the lock is held that has given this fence.
    #[arg(long, env = "ZMESH_FENCE", value_name = "KEY@TOKEN", value_parser = fence)]
    fence: Option<Fence>,
}

impl Conditions {
    fn on(&self, key: &str) -> Vec<Condition> {
        let key = || key.to_owned();
        let revision = self.if_revision.map(|revision| Condition::revision(key(), revision));
        let value = self.if_value.as_ref().map(|value| Condition::value(key(), value.clone()));
        let absent = self.if_absent.then(|| Condition::absent(key()));
        let exists = self.if_exists.then(|| Condition::exists(key()));
        let fence = self.fence.as_ref().map(Fence::condition);
        [fence, revision, value, absent, exists].into_iter().flatten().collect()
    }
}

/// Runs `zmesh kv set`.
pub(super) async fn set(args: &SetArgs, context: &Context) -> Result<(), Failure> {
    let value = value(&args.value)?;
    let store = Store::connect(&args.connect).await?;
    let kv = store.kv().acks(args.acks.unwrap_or_default());
    let conditions = args.conditions.on(&args.key);
    let mut set =
        conditions.into_iter().fold(kv.set(args.key.clone(), value), |set, it| set.when(it));
    if let Some(lease) = args.lease {
        set = set.lease(lease);
    }
    if args.previous {
        set = set.with_previous();
    }
    let written = store.write(&kv, set).await;
    store.close().await;
    print_written(&args.key, &written?, args.previous, context)
}

/// Runs `zmesh kv clear`.
pub(super) async fn clear(args: &ClearArgs, context: &Context) -> Result<(), Failure> {
    let store = Store::connect(&args.connect).await?;
    if args.prefix {
        let cleared = clear_prefix(&store, args).await;
        store.close().await;
        let (revision, keys) = cleared?;
        return match context.out.is_json() {
            true => context.out.json(&json!({ "revision": revision, "cleared": keys })),
            false => context.out.text(&format!("OK revision {revision}, {keys} keys cleared")),
        };
    }
    let kv = store.kv().acks(args.acks.unwrap_or_default());
    let conditions = args.conditions.on(&args.key);
    let mut clear =
        conditions.into_iter().fold(kv.clear(args.key.clone()), |clear, it| clear.when(it));
    if args.previous {
        clear = clear.with_previous();
    }
    let written = store.write(&kv, clear).await;
    store.close().await;
    print_written(&args.key, &written?, args.previous, context)
}

/// Clears all keys with a prefix, so many at a time as one entry may.
async fn clear_prefix(store: &Store, args: &ClearArgs) -> Result<(u64, u64), Failure> {
    let mut keys = 0;
    loop {
        let kv = store.kv();
        let range = KeyRange::prefix(args.key.clone());
        let mut clear = kv.txn().then(Operation::ClearRange { range });
        if let Some(fence) = &args.conditions.fence {
            clear = clear.fenced_by(fence);
        }
        let settled = store.write(&kv, clear).await?;
        let Some(StepResult::ClearedRange { cleared, has_more }) = settled.results.first() else {
            return Ok((settled.revision, keys));
        };
        keys += u64::from(*cleared);
        if !has_more {
            return Ok((settled.revision, keys));
        }
    }
}

/// Runs `zmesh kv add`.
pub(super) async fn add(args: &AddArgs, context: &Context) -> Result<(), Failure> {
    let store = Store::connect(&args.connect).await?;
    let kv = store.kv();
    let conditions = args.conditions.on(&args.key);
    let add = kv.add(args.key.clone(), args.delta);
    let add = conditions.into_iter().fold(add, |add, it| add.when(it));
    let number = store.write(&kv, add).await;
    store.close().await;
    let number = number?;
    match context.out.is_json() {
        true => context.out.json(&json!({ "key": args.key, "number": number })),
        false => context.out.text(&number.to_string()),
    }
}

fn print_written(
    key: &str,
    written: &Written,
    with_previous: bool,
    context: &Context,
) -> Result<(), Failure> {
    let Written { revision, index, term, level, previous } = written;
    let previous = previous.as_ref().map(print::entry);
    if !context.out.is_json() {
        let text = match level {
            AckLevel::None | AckLevel::Leader | AckLevel::LeaderUnsynced => {
                format!("OK {level}, not known to be applied")
            }
            AckLevel::All | AckLevel::AllUnsynced | AckLevel::Quorum | AckLevel::QuorumUnsynced => {
                format!("OK revision {revision}")
            }
        };
        context.out.text(&text)?;
        return if with_previous { context.out.json(&previous) } else { Ok(()) };
    }
    let mut line = json!({
        "key": key, "revision": revision, "index": index, "term": term, "level": level,
    });
    if with_previous {
        line["previous"] = json!(previous);
    }
    context.out.json(&line)
}
