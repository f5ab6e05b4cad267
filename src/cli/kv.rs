//! `zmesh kv`: the replicated key-value store from the command line.
//!
//! Any node can be asked; it finds the leader. A value is printed as it is, with nothing around it
//! unless it goes to a terminal; `--json` adds the revision.

use std::io::{self, Read};
use std::time::Duration;

use serde_json::json;
use zmesh::kv::{Error, Found, Kv, VALUE_BYTES_MAX, Written};
use zmesh::replica::ClientError;
use zmesh::{Effect, ErrorCode};

use super::client::Client;
use super::failure::{Exit, Failure};
use super::{Connect, Context, interrupted, payload};

/// What to do when a write may have been done.
const LOOK: &str = "look with `zmesh kv get` before you try again";

/// What to do with the store.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Set a key to a value; prints its revision once a quorum has it on disk.
    Set(SetArgs),
    /// Print the value of a key; exit code 1 if it has none.
    Get(GetArgs),
    /// Remove a key; a key that has no value is no error.
    Clear(ClearArgs),
}

/// Arguments of `zmesh kv set`.
#[derive(Debug, clap::Args)]
pub(super) struct SetArgs {
    /// The key.
    key: String,
    /// The value; `-` reads it from standard input.
    #[arg(allow_negative_numbers = true)]
    value: String,
    #[command(flatten)]
    connect: Connect,
}

/// Arguments of `zmesh kv get`.
#[derive(Debug, clap::Args)]
pub(super) struct GetArgs {
    /// The key.
    key: String,
    /// Ask the connected node alone: faster, works without a quorum, and may be out of date.
    #[arg(long)]
    stale: bool,
    #[command(flatten)]
    connect: Connect,
}

/// Arguments of `zmesh kv clear`.
#[derive(Debug, clap::Args)]
pub(super) struct ClearArgs {
    /// The key.
    key: String,
    #[command(flatten)]
    connect: Connect,
}

/// Runs `zmesh kv`.
pub(super) async fn run(command: &Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Clear(args) => {
            let client = Client::connect(&args.connect).await?;
            let kv = kv(&client);
            let write = kv.clear(args.key.clone());
            let written = written(write, interrupted(), client.timeout()).await;
            client.close().await;
            print_written(&args.key, written?, context)
        }
        Command::Get(args) => get(args, context).await,
        Command::Set(args) => {
            let value = value(&args.value)?;
            let client = Client::connect(&args.connect).await?;
            let kv = kv(&client);
            let write = kv.set(args.key.clone(), value);
            let written = written(write, interrupted(), client.timeout()).await;
            client.close().await;
            print_written(&args.key, written?, context)
        }
    }
}

async fn get(args: &GetArgs, context: &Context) -> Result<(), Failure> {
    let client = Client::connect(&args.connect).await?;
    let kv = kv(&client);
    let found = match args.stale {
        true => kv.get_stale(&client.peer, args.key.clone()).await,
        false => kv.get(args.key.clone()).await,
    };
    let found = found.map_err(|error| read_failed(&error, client.timeout()));
    client.close().await;
    match found? {
        Some(found) => print_found(&args.key, &found, context),
        None => {
            let message = format!("{} has no value", args.key);
            Err(Failure::coded(Exit::Refused, ErrorCode::NotFound, message))
        }
    }
}

/// The store, for the time that is left.
fn kv(client: &Client) -> Kv {
    Kv::new(&client.node).timeout(client.time_left())
}

/// Waits for the end of a write. A signal ends the wait and not the write, so that it is said what
/// is not known.
async fn written(
    write: impl Future<Output = Result<Written, Error>>,
    interrupted: impl Future<Output = ()>,
    within: Duration,
) -> Result<Written, Failure> {
    tokio::select! {
        biased;
        written = write => written.map_err(|error| write_failed(&error, within)),
        () = interrupted => {
            Err(Failure::new(Exit::Unknown, "interrupted; the write may have been done, or be done yet")
                .next(LOOK))
        }
    }
}

/// The value as given, or from standard input.
fn value(given: &str) -> Result<Vec<u8>, Failure> {
    if given != "-" {
        return Ok(given.as_bytes().to_owned());
    }
    let mut bytes = Vec::new();
    // One byte more than fits is enough to be refused.
    let limit = u64::try_from(VALUE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    match io::stdin().lock().take(limit).read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => {
            Err(Failure::new(Exit::Usage, format!("cannot read standard input: {error}")))
        }
    }
}

fn print_written(key: &str, written: Written, context: &Context) -> Result<(), Failure> {
    let Written { revision, index, term, level } = written;
    match context.out.is_json() {
        true => context.out.json(&json!({
            "key": key, "revision": revision, "index": index, "term": term, "level": level,
        })),
        false => context.out.text(&format!("OK revision {revision}")),
    }
}

fn print_found(key: &str, found: &Found, context: &Context) -> Result<(), Failure> {
    if !context.out.is_json() {
        return context.out.bytes(&found.value);
    }
    let (value, encoding) = match std::str::from_utf8(&found.value) {
        Ok(text) => (text.to_owned(), "utf-8"),
        Err(_) => (payload::base64(&found.value), "base64"),
    };
    context.out.json(&json!({
        "key": key, "value": value, "encoding": encoding, "revision": found.revision,
    }))
}

fn write_failed(error: &Error, within: Duration) -> Failure {
    let failure = failed(error, error.effect(), within);
    match error.effect() {
        Effect::None => failure.adding("nothing was written"),
        Effect::Unknown => failure.next(LOOK),
    }
}

fn read_failed(error: &Error, within: Duration) -> Failure {
    failed(error, Effect::None, within)
}

fn failed(error: &Error, effect: Effect, within: Duration) -> Failure {
    if error.code() == ErrorCode::NoReplica {
        let message = format!("no node that runs a replica was found within {within:?}");
        return Failure::coded(Exit::Unreachable, ErrorCode::NoReplica, message)
            .next("start one: zmesh serve --id NAME --data-dir DIR");
    }
    if let Error::Invalid(invalid) = error {
        return Failure::coded(Exit::Usage, error.code(), invalid.to_string());
    }
    let Error::Client(ClientError::Refused { code, message }) = error else {
        return Failure::from_code(error.code(), effect, error);
    };
    // The code goes before the message anyway.
    let failure = Failure::coded(Exit::of(*code, effect), *code, message);
    if *code == ErrorCode::NotFormed {
        return failure.next("start the nodes that are missing; it begins when all have been up");
    }
    if [ErrorCode::NoQuorum, ErrorCode::NotLeader].contains(code) {
        return failure.next("see `zmesh status --all`: more than half of the members must be up");
    }
    failure
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    /// Ctrl-C must not leave anybody in the belief that nothing was written.
    #[tokio::test]
    async fn interrupted_write_has_an_unknown_outcome() {
        let within = Duration::from_secs(5);
        let failure = written(pending(), ready(()), within).await.unwrap_err();
        assert_eq!(failure.exit(), Exit::Unknown);
        let done = written(ready(Err(ClientError::NoReplica.into())), ready(()), within)
            .await
            .unwrap_err();
        assert_eq!(done.exit(), Exit::Unreachable, "an answer that is there counts");
    }
}
