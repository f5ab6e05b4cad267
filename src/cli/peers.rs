//! `zmesh peers`: whom a node is linked to.

use super::failure::Failure;
use super::{Connect, Context};

/// Arguments of `zmesh peers`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    connect: Connect,
}

/// Prints one record per peer: name, address, direction, labels, time since the last message.
///
/// PLUG: the status of the node that `connect` leads to; rows implement
/// [`Record`](super::output::Record).
pub(super) async fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    tracing::debug!(?args, json = context.out.is_json(), "peers");
    Err(Failure::not_built("peers"))
}
