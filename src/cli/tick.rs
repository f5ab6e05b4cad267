//! `zmesh tick`: one one-way message to one node, to any, or to all that match.

use super::failure::Failure;
use super::request::Message;
use super::{Connect, Context};

/// Arguments of `zmesh tick`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    message: Message,
    #[command(flatten)]
    connect: Connect,
}

/// Sends the tick. Success means that it was handed to the network, not that it arrived.
///
/// PLUG: a node of its own that dials `connect` and sends `message`.
pub(super) async fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    tracing::debug!(?args, json = context.out.is_json(), "tick");
    Err(Failure::not_built("tick"))
}
