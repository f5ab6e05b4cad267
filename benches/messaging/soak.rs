//! Many messages, and the longest time without one: a lost wake-up shows as a gap.
//!
//! Sockets that are driven by readiness lose a wake-up once in a million messages when they are
//! driven wrongly, at some window sizes and not at others, so that no shorter test sees it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use zmesh::RequestError;

use crate::process::Server;
use crate::serve::ECHO;
use crate::{Options, Outcome, Side, mesh};

/// A gap this long is a stall.
const GAP_MAX: Duration = Duration::from_secs(1);
/// Requests at a time.
const WINDOWS: &[usize] = &[16, 128];
/// Bytes of each payload.
const PAYLOAD_BYTES: usize = 64;

/// Sees when nothing happens.
#[derive(Clone)]
struct Progress {
    last_and_longest: Arc<Mutex<(Instant, Duration)>>,
}

impl Progress {
    fn start() -> Self {
        Self { last_and_longest: Arc::new(Mutex::new((Instant::now(), Duration::ZERO))) }
    }

    fn note(&self) {
        let now = Instant::now();
        let (last, longest) = &mut *self.last_and_longest.lock();
        *longest = (*longest).max(now.saturating_duration_since(*last));
        *last = now;
    }

    /// Fails if there was a stall, also between the last message and this call.
    fn finish(&self, what: &str, messages: u64, start: Instant, json: bool) -> Outcome<()> {
        self.note();
        let gap = self.last_and_longest.lock().1;
        let rate = messages as f64 / start.elapsed().as_secs_f64();
        match json {
            true => println!(
                "{}",
                serde_json::json!({
                    "scenario": format!("soak: {what}"), "peer": "zmesh", "messages": messages,
                    "per_second": rate, "longest_gap_ms": gap.as_secs_f64() * 1e3,
                })
            ),
            false => {
                println!("soak: {what}: {messages} messages, {rate:.0}/s, longest gap {gap:?}")
            }
        }
        if gap > GAP_MAX {
            return Err(format!("{what}: nothing happened for {gap:?}").into());
        }
        Ok(())
    }
}

/// Runs each part once; fails at a stall, a failed request or a lost tick.
pub(crate) async fn run(options: &Options) -> Outcome<()> {
    let client = mesh::Client::new(Server::start(Side::Mesh, options)?, options.transport).await?;
    for &window in WINDOWS {
        requests(&client, window, options).await?;
    }
    ticks(&client, options).await?;
    client.stop().await;
    Ok(())
}

async fn requests(client: &mesh::Client, window: usize, options: &Options) -> Outcome<()> {
    let progress = Progress::start();
    let start = Instant::now();
    let each = options.soak_messages / u64::try_from(window)?;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..window {
        let (node, progress) = (client.node.clone(), progress.clone());
        tasks.spawn(async move {
            let payload = Bytes::from_static(&[0; PAYLOAD_BYTES]);
            for _ in 0..each {
                node.request_raw("server", ECHO, payload.clone()).await?;
                progress.note();
            }
            Ok::<(), RequestError>(())
        });
    }
    while let Some(task) = tasks.join_next().await {
        task??;
    }
    let messages = each * u64::try_from(window)?;
    progress.finish(&format!("requests, {window} at a time"), messages, start, options.json)
}

/// Ticks without a pause, so that every queue on the way is full nearly all the time.
async fn ticks(client: &mesh::Client, options: &Options) -> Outcome<()> {
    let before = client.counted().await?;
    let progress = Progress::start();
    let start = Instant::now();
    let payload = Bytes::from_static(&[0; PAYLOAD_BYTES]);
    for _ in 0..options.soak_messages {
        client.tick(&payload).await?;
        progress.note();
        tokio::task::consume_budget().await;
    }
    let counted = client.counted().await? - before;
    if counted != options.soak_messages {
        return Err(format!("{} ticks were sent, {counted} counted", options.soak_messages).into());
    }
    progress.finish("ticks", counted, start, options.json)
}
