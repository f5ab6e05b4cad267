//! `zmesh serve --print`: ticks on standard output, one line each.
//!
//! A thread of its own writes: a reader that does not keep up must not hold up the node. What does
//! not fit into the queue to it is dropped and counted in the log.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;
use zmesh::{Call, HandlerError, Node, NodeId, RegisterError};

use super::output::Output;
use super::payload;

/// Ticks that may wait to be written.
const WAITING_MAX: usize = 1_024;

/// One tick, as it is written.
#[derive(Debug, Serialize)]
struct Tick {
    subject: String,
    from: NodeId,
    payload: Value,
}

/// Prints every tick whose subject matches, until standard output is closed.
pub(super) fn ticks(node: &Node, pattern: &str, out: Output) -> Result<(), RegisterError> {
    let (waiting, written) = sync_channel(WAITING_MAX);
    thread::spawn(move || write(&written, out));
    node.on(pattern).tick_raw(move |call| print(call, waiting.clone()))?;
    Ok(())
}

async fn print(call: Call, waiting: SyncSender<Tick>) -> Result<Bytes, HandlerError> {
    let tick = Tick {
        subject: call.peer.subject().to_owned(),
        from: call.peer.id().clone(),
        payload: payload::to_json(call.format, &call.payload),
    };
    if let Err(TrySendError::Full(tick)) = waiting.try_send(tick) {
        tracing::warn!(subject = %tick.subject, from = %tick.from, "a tick was not printed");
    }
    Ok(Bytes::new())
}

fn write(waiting: &Receiver<Tick>, out: Output) {
    for tick in waiting {
        let written = match out.is_json() || !out.is_terminal() {
            true => out.json(&tick),
            false => out.text(&format!("{}  {}  {}", tick.subject, tick.from, tick.payload)),
        };
        if written.is_err() {
            // Nobody reads any more, and nobody is there to be told.
            return;
        }
    }
}
