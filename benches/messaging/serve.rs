//! The echo servers.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use zmesh::transport::Kind;
use zmesh::{Call, HandlerError, Node};

use crate::{Options, Outcome, Side};

/// The subject of requests that are sent back.
pub(crate) const ECHO: &str = "bench.echo";
/// The subject of ticks that are counted.
pub(crate) const TICK: &str = "bench.tick";
/// The subject of requests for the number of ticks.
pub(crate) const COUNT: &str = "bench.count";

/// The first byte of a raw message that is sent back.
pub(crate) const RAW_ECHO: u8 = 0;
/// The first byte of a raw message that is counted.
pub(crate) const RAW_TICK: u8 = 1;
/// The first byte of a raw message that asks for the number of counted ones.
pub(crate) const RAW_COUNT: u8 = 2;

/// Prints where it listens, and serves until standard input ends.
pub(crate) fn serve(side: Side, options: &Options) -> Outcome<()> {
    std::thread::spawn(|| {
        // Nothing is ever written: the client is gone, whatever this says.
        drop(std::io::stdin().read_to_end(&mut Vec::new()));
        std::process::exit(0);
    });
    match side {
        Side::Raw => serve_raw(),
        // Spawned, because on a multi-thread runtime the main thread is one wake-up further away.
        Side::Mesh => {
            let transport = options.transport;
            crate::runtime(options)?.block_on(async { tokio::spawn(serve_mesh(transport)).await? })
        }
    }
}

fn serve_raw() -> Outcome<()> {
    let context = zmq::Context::new();
    let router = context.socket(zmq::ROUTER)?;
    router.bind("tcp://127.0.0.1:*")?;
    println!("{}", router.get_last_endpoint()?.map_err(|_| "the endpoint is no text")?);
    let mut counted: u64 = 0;
    let mut peer = zmq::Message::new();
    let mut body = zmq::Message::new();
    loop {
        router.recv(&mut peer, 0)?;
        router.recv(&mut body, 0)?;
        match body.first() {
            Some(&RAW_TICK) => counted += 1,
            Some(&RAW_COUNT) => {
                router.send(std::mem::replace(&mut peer, zmq::Message::new()), zmq::SNDMORE)?;
                router.send(&counted.to_le_bytes()[..], 0)?;
            }
            _ => {
                router.send(std::mem::replace(&mut peer, zmq::Message::new()), zmq::SNDMORE)?;
                router.send(std::mem::replace(&mut body, zmq::Message::new()), 0)?;
            }
        }
    }
}

async fn serve_mesh(transport: Kind) -> Outcome<()> {
    let node =
        Node::builder("server").transport_kind(transport).bind("tcp://127.0.0.1:0").start()?;
    let counted = Arc::new(AtomicU64::new(0));
    node.on(ECHO).request_raw(|call: Call| async move { Ok(call.payload) })?;
    let ticks = Arc::clone(&counted);
    node.on(TICK).tick_raw(move |_: Call| {
        ticks.fetch_add(1, Ordering::Relaxed);
        async { Ok::<_, HandlerError>(Bytes::new()) }
    })?;
    node.on(COUNT).request_raw(move |_: Call| {
        let counted = counted.load(Ordering::Relaxed);
        async move { Ok(Bytes::copy_from_slice(&counted.to_le_bytes())) }
    })?;
    println!("{}", node.address().ok_or("the server does not listen")?);
    // The thread above ends the process.
    std::future::pending().await
}
