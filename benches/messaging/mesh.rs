//! The client with a node: the public API, nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use zmesh::route::Filter;
use zmesh::transport::Kind;
use zmesh::{Node, RequestError, TickError};

use crate::process::Server;
use crate::serve::{COUNT, ECHO, TICK};
use crate::usage::Usage;
use crate::{Case, Load, Outcome, Sample};

/// The name of the case of a peer that is not there.
pub(crate) const ABSENT: &str = "request to an absent peer";
/// Ticks between two looks at the clock, after which the driver may run.
const BATCH: u64 = 128;
/// How long to wait for room in the queue. The queue holds more than leaves it meanwhile.
const WAIT_FOR_ROOM: Duration = Duration::from_millis(1);

/// A node connected to the server.
pub(crate) struct Client {
    server: Server,
    pub(crate) node: Node,
}

impl Client {
    pub(crate) async fn new(server: Server, transport: Kind) -> Outcome<Self> {
        let node =
            Node::builder("client").transport_kind(transport).connect(server.address()).start()?;
        node.wait_for_peers(&Filter::any(), 1, Duration::from_secs(10)).await?;
        Ok(Self { server, node })
    }

    pub(crate) async fn stop(&self) {
        self.node.stop().await;
    }

    /// Runs a case for about `time`.
    pub(crate) async fn measure(&self, case: Case, time: Duration) -> Outcome<Sample> {
        let payload = Bytes::from(vec![0; case.bytes]);
        let (client, server) = (Usage::own()?, self.server.usage()?);
        let start = Instant::now();
        let (messages, latencies) = match case.load {
            Load::RoundTrips => self.round_trips(payload, start + time).await?,
            Load::Window(size) => (self.window(payload, size, time).await?, Vec::new()),
            Load::Ticks => (self.ticks(payload, start + time).await?, Vec::new()),
        };
        let elapsed = start.elapsed();
        let (client, server) = (Usage::own()? - client, self.server.usage()? - server);
        Ok(Sample { messages, elapsed, latencies, client, server })
    }

    async fn round_trips(&self, payload: Bytes, end: Instant) -> Outcome<(u64, Vec<Duration>)> {
        let mut latencies = Vec::new();
        let mut before = Instant::now();
        while before < end {
            self.node.request_raw("server", ECHO, payload.clone()).await?;
            let after = Instant::now();
            latencies.push(after - before);
            before = after;
        }
        latencies.sort_unstable();
        Ok((latencies.len().try_into()?, latencies))
    }

    async fn window(&self, payload: Bytes, size: usize, time: Duration) -> Outcome<u64> {
        let over = Arc::new(AtomicBool::new(false));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..size {
            let (node, payload, over) = (self.node.clone(), payload.clone(), Arc::clone(&over));
            tasks.spawn(async move {
                let mut replies: u64 = 0;
                while !over.load(Ordering::Relaxed) {
                    node.request_raw("server", ECHO, payload.clone()).await?;
                    replies += 1;
                }
                Ok::<u64, RequestError>(replies)
            });
        }
        tokio::time::sleep(time).await;
        over.store(true, Ordering::Relaxed);
        let mut replies = 0;
        while let Some(task) = tasks.join_next().await {
            replies += task??;
        }
        Ok(replies)
    }

    async fn ticks(&self, payload: Bytes, end: Instant) -> Outcome<u64> {
        let before = self.counted().await?;
        let mut sent: u64 = 0;
        while Instant::now() < end {
            for _ in 0..BATCH {
                self.tick(&payload).await?;
            }
            sent += BATCH;
            tokio::task::yield_now().await;
        }
        let counted = self.counted().await? - before;
        match counted == sent {
            true => Ok(sent),
            false => Err(format!("{sent} ticks were sent, {counted} counted").into()),
        }
    }

    /// Sends one tick, as soon as there is room for it.
    pub(crate) async fn tick(&self, payload: &Bytes) -> Result<(), TickError> {
        loop {
            match self.node.tick_raw("server", TICK, payload.clone()) {
                Err(TickError::Full { .. }) => tokio::time::sleep(WAIT_FOR_ROOM).await,
                result => return result,
            }
        }
    }

    /// How many ticks the server has counted, of all that were sent before this.
    pub(crate) async fn counted(&self) -> Outcome<u64> {
        loop {
            match self.node.request_raw("server", COUNT, Bytes::new()).await {
                Err(RequestError::Full { .. }) => tokio::time::sleep(WAIT_FOR_ROOM).await,
                reply => return Ok(u64::from_le_bytes(reply?[..].try_into()?)),
            }
        }
    }

    /// How long it takes to hear that there is no such peer, sorted.
    pub(crate) async fn measure_absent(&self) -> Outcome<Vec<Duration>> {
        let mut latencies = Vec::new();
        for _ in 0..1_000 {
            let before = Instant::now();
            let result = self.node.request_raw("nobody", ECHO, Bytes::new()).await;
            latencies.push(before.elapsed());
            if !matches!(result, Err(RequestError::NoPeer { .. })) {
                return Err(format!("a request to nobody ended with {result:?}").into());
            }
        }
        latencies.sort_unstable();
        Ok(latencies)
    }
}
