//! `zmesh peers`: whom a node is linked to.

use serde::Serialize;
use zmesh::Direction;
use zmesh::status::{self, Peer};

use super::client::Client;
use super::failure::Failure;
use super::output::Record;
use super::{Connect, Context};

/// Arguments of `zmesh peers`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    connect: Connect,
}

/// Prints one record per peer of the node that `connect` leads to, this command left out.
pub(super) async fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let client = Client::connect(&args.connect).await?;
    let own = client.node.id().clone();
    let status = status::ask(&client.node, &client.peer, client.time_left()).await;
    client.close().await;
    let peers = status?.peers.into_iter().filter(|peer| peer.node != own);
    let rows: Vec<_> = peers.map(|peer| Row { peer }).collect();
    context.out.table_or_json(&rows)
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Row {
    peer: Peer,
}

impl Record for Row {
    const COLUMNS: &'static [&'static str] =
        &["node", "address", "direction", "queued", "in flight", "labels"];

    fn cells(&self) -> Vec<String> {
        let peer = &self.peer;
        let address = peer.address.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
        let directions: Vec<_> = peer.directions.iter().map(|way| direction(*way)).collect();
        // Those of the system are for machines.
        let labels = peer.labels.iter().filter(|(name, _)| !name.starts_with('_'));
        let labels: Vec<_> = labels.map(|(name, value)| format!("{name}={value}")).collect();
        vec![
            peer.node.to_string(),
            address,
            directions.join("+"),
            peer.queued.to_string(),
            peer.in_flight.to_string(),
            if labels.is_empty() { "-".to_owned() } else { labels.join(",") },
        ]
    }
}

const fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Downstream => "down",
        Direction::Upstream => "up",
    }
}
