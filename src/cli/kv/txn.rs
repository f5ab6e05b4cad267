//! `zmesh kv txn`: several operations in one, as JSON from standard input.

use serde::Deserialize;
use serde_json::{Value, json};
use zmesh::ErrorCode;
use zmesh::kv::{
    Comparison, Condition, Entry, Fence, Field, KeyRange, Operation, Settled, StepResult,
};

use super::super::failure::{Exit, Failure};
use super::super::{Connect, Context};
use super::{Store, fence, print, stdin};

/// Bytes that are read.
const INPUT_BYTES_MAX: usize = 16 * 1024 * 1024;

const EXAMPLE: &str = r#"The transaction is one JSON object; every part may be left out:
  {
    "if": [
      {"key": "a", "revision": 7},     also created, version, lease: equal to
      {"key": "a", "absent": true},    false: it has a value
      {"key": "a", "value": "text"}    or "not_value"
    ],
    "then": [
      {"set": "a", "value": "text", "lease": 12},
      {"clear": "b"}, {"clear_prefix": "tmp/"},
      {"add": "n", "by": -1}, {"get": "c"}
    ],
    "else": [{"get": "a"}]
  }
Prints one JSON object with the result of each operation. Exit code 1 if a condition does not hold
and there is no "else"."#;

/// Arguments of `zmesh kv txn`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(in crate::cli) struct Args {
    /// Only while the lock is held that has given this fence.
    #[arg(long, env = "ZMESH_FENCE", value_name = "KEY@TOKEN", value_parser = fence)]
    fence: Option<Fence>,
    #[command(flatten)]
    connect: Connect,
}

/// What is read.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Script {
    #[serde(rename = "if")]
    conditions: Vec<Test>,
    then: Vec<Step>,
    #[serde(rename = "else")]
    otherwise: Vec<Step>,
}

/// A condition; exactly one of its fields besides the key is there.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Test {
    key: String,
    absent: Option<bool>,
    created: Option<u64>,
    lease: Option<u64>,
    not_value: Option<String>,
    revision: Option<u64>,
    value: Option<String>,
    version: Option<u64>,
}

/// An operation, by the field that names it.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Step {
    Add(AddStep),
    Clear(ClearStep),
    ClearPrefix(ClearPrefixStep),
    Get(GetStep),
    Set(SetStep),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AddStep {
    add: String,
    by: i64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClearStep {
    clear: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClearPrefixStep {
    clear_prefix: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GetStep {
    get: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SetStep {
    set: String,
    value: String,
    lease: Option<u64>,
}

/// Runs `zmesh kv txn`.
pub(super) async fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let script: Script = serde_json::from_slice(&stdin(INPUT_BYTES_MAX)?).map_err(|error| {
        Failure::new(Exit::Usage, format!("standard input is no transaction: {error}"))
            .next("see `zmesh kv txn --help`")
    })?;
    let has_other = !script.otherwise.is_empty();
    let conditions: Result<Vec<_>, _> = script.conditions.iter().map(condition).collect();
    let conditions = conditions?;
    let store = Store::connect(&args.connect).await?;
    let kv = store.kv();
    let mut txn = kv.txn();
    // First, so that nothing else is looked at for one who has lost the lock.
    if let Some(fence) = &args.fence {
        txn = txn.fenced_by(fence);
    }
    txn = conditions.into_iter().fold(txn, |txn, condition| txn.when(condition));
    txn = script.then.into_iter().map(operation).fold(txn, |txn, step| txn.then(step));
    txn = script.otherwise.into_iter().map(operation).fold(txn, |txn, step| txn.otherwise(step));
    let settled = store.write(&kv, txn).await;
    store.close().await;
    let settled = settled?;
    if let (Some(unmet), false) = (settled.unmet, has_other) {
        let number = unmet.condition + 1 - u8::from(args.fence.is_some());
        let message = format!(
            "condition {number} does not hold: the key is at revision {} (0: it has no value); nothing was written",
            unmet.current
        );
        return Err(Failure::coded(Exit::Refused, ErrorCode::CasFailed, message));
    }
    context.out.json(&report(&settled))
}

fn condition(test: &Test) -> Result<Condition, Failure> {
    let key = || test.key.clone();
    let number = |field, number: Option<u64>| {
        let comparison = Comparison::Equal;
        number.map(|number| Condition::Number { key: key().into(), field, comparison, number })
    };
    let value = |is_equal, value: &Option<String>| {
        let value = value.clone()?.into();
        Some(Condition::Value { key: key().into(), is_equal, value })
    };
    let absent = test.absent.map(|absent| match absent {
        true => Condition::absent(key()),
        false => Condition::exists(key()),
    });
    let given = [
        absent,
        number(Field::Created, test.created),
        number(Field::Lease, test.lease),
        number(Field::Revision, test.revision),
        number(Field::Version, test.version),
        value(true, &test.value),
        value(false, &test.not_value),
    ];
    let mut given = given.into_iter().flatten();
    match (given.next(), given.next()) {
        (Some(condition), None) => Ok(condition),
        _ => {
            let message = format!("the condition of {} must say one thing about it", test.key);
            Err(Failure::new(Exit::Usage, message).next("see `zmesh kv txn --help`"))
        }
    }
}

fn operation(step: Step) -> Operation {
    match step {
        Step::Add(AddStep { add, by }) => Operation::add(add, by),
        Step::Clear(ClearStep { clear }) => Operation::clear(clear),
        Step::ClearPrefix(ClearPrefixStep { clear_prefix }) => {
            Operation::ClearRange { range: KeyRange::prefix(clear_prefix) }
        }
        Step::Get(GetStep { get }) => Operation::get(get),
        Step::Set(SetStep { set, value, lease }) => {
            Operation::Set { key: set.into(), value: value.into(), lease, wants_previous: false }
        }
    }
}

fn report(settled: &Settled) -> Value {
    let entry = |entry: &Option<Entry>| entry.as_ref().map(print::entry);
    let results = settled.results.iter().map(|result| match result {
        StepResult::Added(number) => json!({ "number": number }),
        StepResult::Cleared { was_there, .. } => json!({ "cleared": u8::from(*was_there) }),
        StepResult::ClearedRange { cleared, has_more } => {
            json!({ "cleared": cleared, "more": has_more })
        }
        StepResult::Got(found) => json!({ "entry": entry(found) }),
        StepResult::Listed(page) => {
            json!({ "entries": page.entries.iter().map(print::entry).collect::<Vec<_>>() })
        }
        StepResult::Set { .. } => json!({ "set": true }),
    });
    let results: Vec<_> = results.collect();
    json!({
        "succeeded": settled.unmet.is_none(), "revision": settled.revision, "results": results,
    })
}
