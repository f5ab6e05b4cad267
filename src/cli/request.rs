//! `zmesh request`: one request to one node, to any, or to all that match.

use zmesh::NodeId;
use zmesh::config::Label;

use super::failure::Failure;
use super::{Connect, Context};

/// Arguments of `zmesh request`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) message: Message,
    #[command(flatten)]
    connect: Connect,
}

/// What is sent, and to whom. The same for requests and ticks.
#[derive(Debug, clap::Args)]
pub(super) struct Message {
    /// The subject, such as math.sum.
    subject: String,
    /// The payload: JSON, sent as MessagePack [default: null]; `-` reads it from standard input.
    payload: Option<String>,
    /// Send the bytes of the payload as they are, and print a reply as it is.
    #[arg(long)]
    raw: bool,
    /// The node it is for [default: the node that --connect leads to].
    #[arg(long, value_name = "NAME", conflicts_with_all = ["any", "all"])]
    to: Option<NodeId>,
    /// One of the nodes that match, chosen at random.
    #[arg(long, conflicts_with = "all")]
    any: bool,
    /// Every node that matches.
    #[arg(long)]
    all: bool,
    /// Which nodes match --any and --all; may be repeated, all must hold [default: every node].
    #[arg(long = "where", value_name = "NAME=VALUE", conflicts_with = "to")]
    labels: Vec<Label>,
}

/// Sends the request and prints the reply as JSON, for `--all` one line per node.
///
/// PLUG: a node of its own that dials `connect` and sends `message`.
pub(super) async fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    tracing::debug!(?args, json = context.out.is_json(), "request");
    Err(Failure::not_built("request"))
}
