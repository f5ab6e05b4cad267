//! `zmesh status`: how a node is.

use super::failure::Failure;
use super::{Connect, Context};

/// Arguments of `zmesh status`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    connect: Connect,
}

/// Prints role, term, commit, applied, lag per follower, peers and drops.
///
/// PLUG: the status of the node that `connect` leads to. `zmesh cluster kill leader` and
/// `zmesh cluster status` ask the same question of each node.
pub(super) async fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    tracing::debug!(?args, json = context.out.is_json(), "status");
    Err(Failure::not_built("status"))
}
