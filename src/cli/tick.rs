//! `zmesh tick`: one one-way message to one node, to any, or to all that match.

use serde_json::json;
use zmesh::{NodeId, TickError};

use super::client::Client;
use super::failure::Failure;
use super::request::{Message, Payload};
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
pub(super) async fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let payload = args.message.payload()?;
    let client = Client::connect(&args.connect).await?;
    let sent = send(&args.message, &payload, &client).await;
    // Stopping sends what waits in the queues.
    client.close().await;
    let sent = sent?;
    if context.out.is_json() {
        return context.out.json(&json!({ "sent": sent }));
    }
    let names: Vec<_> = sent.iter().map(ToString::to_string).collect();
    context.out.text(&format!("sent to {}", names.join(", ")))
}

/// Sends to each target, and returns them; fails if one of them could not be sent to.
async fn send(
    message: &Message,
    payload: &Payload,
    client: &Client,
) -> Result<Vec<NodeId>, Failure> {
    let nodes = message.targets(client).await?;
    for node in &nodes {
        let sent = match payload {
            Payload::MessagePack(value) => client.node.tick(node, &message.subject, value),
            Payload::Raw(bytes) => client.node.tick_raw(node, &message.subject, bytes.clone()),
        };
        sent.map_err(|error: TickError| {
            Failure::from_code(error.code(), error.code().effect(), &error)
        })?;
    }
    Ok(nodes)
}
