//! `zmesh kv`: the replicated key-value store from the command line.
//!
//! Any node can be asked; it finds the leader. A value is printed as it is and followed by a
//! newline; with `--json` it is `{"key":...,"value":...}`, which keeps every byte apart.

use super::failure::Failure;
use super::{Connect, Context};

/// What to do with the store.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Set a key to a value; prints OK once a quorum has it on disk.
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
///
/// PLUG: the KV client. A missing key is [`Exit::Refused`](super::failure::Exit::Refused) with
/// code `NOT_FOUND`; failures of `get` have [`Effect::None`](zmesh::Effect::None).
pub(super) async fn run(command: &Command, context: &Context) -> Result<(), Failure> {
    tracing::debug!(?command, json = context.out.is_json(), "kv");
    Err(Failure::not_built(match command {
        Command::Clear(_) => "kv clear",
        Command::Get(_) => "kv get",
        Command::Set(_) => "kv set",
    }))
}
