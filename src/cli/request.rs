//! `zmesh request`: one request to one node, to any, or to all that match.

use std::io::{self, Read};

use bytes::Bytes;
use serde_json::{Value, json};
use zmesh::protocol::envelope::Format;
use zmesh::route::Filter;
use zmesh::{NodeId, RequestError, Undecoded};

use super::client::Client;
use super::failure::{Exit, Failure};
use super::output::Output;
use super::{Connect, Context, payload};

/// Arguments of `zmesh request`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    message: Message,
    #[command(flatten)]
    connect: Connect,
}

/// What is sent, and to whom. The same for requests and ticks.
#[derive(Debug, clap::Args)]
pub(super) struct Message {
    /// The subject, such as math.sum.
    pub(super) subject: String,
    /// The payload: JSON, sent as MessagePack [default: null]; `-` reads it from standard input.
    #[arg(allow_negative_numbers = true)]
    payload: Option<String>,
    /// Send the bytes of the payload as they are.
    #[arg(long)]
    raw: bool,
    /// The node it is for [default: the node that --connect leads to].
    #[arg(long, value_name = "NAME", conflicts_with_all = ["any", "all"])]
    to: Option<NodeId>,
    /// One of the nodes that match, chosen at random: role=math,cores>=4; "" matches every node.
    #[arg(long, value_name = "FILTER", conflicts_with = "all")]
    any: Option<Filter>,
    /// Every node that matches.
    #[arg(long, value_name = "FILTER")]
    all: Option<Filter>,
}

/// Bytes of a payload that are read from standard input; JSON may be longer than what is sent.
const INPUT_BYTES_MAX: u64 = 64 * 1024 * 1024;

fn standard_input() -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    // One byte more than is taken is enough to be refused.
    let read = io::stdin().lock().take(INPUT_BYTES_MAX + 1).read_to_end(&mut bytes);
    read.map_err(|error| {
        Failure::new(Exit::Usage, format!("cannot read standard input: {error}"))
    })?;
    match bytes.len() as u64 > INPUT_BYTES_MAX {
        true => Err(Failure::new(Exit::Usage, "standard input has more than 64 MiB")),
        false => Ok(bytes),
    }
}

/// A payload that can be sent.
#[derive(Clone, Debug)]
pub(super) enum Payload {
    MessagePack(Value),
    Raw(Bytes),
}

impl Message {
    /// The payload, read before anybody is dialed.
    pub(super) fn payload(&self) -> Result<Payload, Failure> {
        let text = match self.payload.as_deref() {
            Some("-") => standard_input()?,
            Some(text) => text.as_bytes().to_owned(),
            None if self.raw => Vec::new(),
            None => b"null".to_vec(),
        };
        if self.raw {
            return Ok(Payload::Raw(text.into()));
        }
        serde_json::from_slice(&text).map(Payload::MessagePack).map_err(|error| {
            Failure::new(Exit::Usage, format!("the payload is no JSON: {error}"))
                .next("quote it for the shell, as in '{\"a\": 1}', or send bytes with --raw")
        })
    }

    /// The nodes it is for; at least one.
    pub(super) async fn targets(&self, client: &Client) -> Result<Vec<NodeId>, Failure> {
        if let Some(id) = &self.to {
            client.joined(id).await?;
            return Ok(vec![id.clone()]);
        }
        let Some(filter) = self.any.as_ref().or(self.all.as_ref()) else {
            return Ok(vec![client.peer.clone()]);
        };
        client.settle().await;
        let mut nodes = client.matching(filter).await?;
        if self.any.is_some() {
            let mut rng = fastrand::Rng::with_seed(client.node.incarnation().0);
            rng.shuffle(&mut nodes);
            nodes.truncate(1);
        }
        Ok(nodes)
    }
}

/// Sends the request and prints the reply, for `--all` one JSON line per node.
pub(super) async fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let payload = args.message.payload()?;
    let client = Client::connect(&args.connect).await?;
    let replies = send(&args.message, &payload, &client).await;
    client.close().await;
    let replies = replies?;
    if args.message.all.is_some() {
        return print_all(replies, context.out);
    }
    replies.into_iter().try_for_each(|(_, reply)| print(&reply?, context.out))
}

type Replies = Vec<(NodeId, Result<Undecoded, RequestError>)>;

async fn send(message: &Message, payload: &Payload, client: &Client) -> Result<Replies, Failure> {
    let nodes = message.targets(client).await?;
    let (subject, within) = (&message.subject, client.time_left());
    let requests = nodes.into_iter().map(|node| {
        let request = match payload {
            Payload::MessagePack(value) => {
                client.node.request::<_, ()>(&node, subject, value).undecoded()
            }
            Payload::Raw(bytes) => {
                client.node.request_raw(&node, subject, bytes.clone()).undecoded()
            }
        };
        (node, request.timeout(within))
    });
    // All are sent before the first is awaited.
    let sent: Vec<_> =
        requests.map(|(node, request)| (node, IntoFuture::into_future(request))).collect();
    let mut replies = Vec::new();
    for (node, response) in sent {
        replies.push((node, response.await));
    }
    Ok(replies)
}

/// MessagePack is printed as JSON, and bytes as they are unless JSON is asked for.
fn print(reply: &Undecoded, out: Output) -> Result<(), Failure> {
    match reply.format {
        Format::Raw if !out.is_json() => out.bytes(&reply.payload),
        Format::MessagePack | Format::Raw => {
            out.json(&payload::to_json(reply.format, &reply.payload))
        }
    }
}

/// One line for each node; fails as the first of them that failed.
fn print_all(replies: Replies, out: Output) -> Result<(), Failure> {
    let mut first = None;
    for (node, reply) in replies {
        match reply {
            Ok(reply) => {
                let reply = payload::to_json(reply.format, &reply.payload);
                out.json(&json!({ "node": node, "reply": reply }))?;
            }
            Err(error) => {
                let (code, message) = (error.code(), error.to_string());
                out.json(&json!({ "node": node, "error": { "code": code, "message": message } }))?;
                first.get_or_insert_with(|| Failure::from(error));
            }
        }
    }
    first.map_or(Ok(()), Err)
}
