//! The load of the demonstration: writers that record every write that was acknowledged.
//!
//! Each writer writes keys of its own, one after the other, and goes on to the next only when the
//! last is acknowledged. So a count per writer says exactly which keys must be there, and what
//! they hold follows from their names.

use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use zmesh::kv::Kv;
use zmesh::{Clock, Effect, Node, Time};

/// One attempt of a write, after which it is tried again. Longer than any fail-over should take.
const ATTEMPT_MAX: Duration = Duration::from_secs(5);
/// Wait after an attempt that was refused.
const RETRY_WAIT: Duration = Duration::from_millis(10);
/// Longest latency that the histogram tells apart, in microseconds, and its digits.
const LATENCY_US_MAX: u64 = 600_000_000;
const LATENCY_DIGITS: u8 = 3;
/// Reads at work at once when everything is read back.
const READS_MAX: usize = 64;

/// What the writers do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// Writers at work at once.
    pub(super) writers: u16,
    /// Writes that one writer begins in a second, at most.
    pub(super) interval: Duration,
    /// Bytes of each value.
    pub(super) value_bytes: usize,
}

/// Writers at work, until they are [stopped](Self::stop).
#[derive(Debug)]
pub(super) struct Load {
    shared: Arc<Shared>,
    writers: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    plan: Plan,
    clock: Clock,
    state: Mutex<State>,
    acknowledged: Notify,
}

/// What has been acknowledged, and how the rest went.
#[derive(Clone, Debug)]
struct State {
    stopping: bool,
    /// Per writer: its keys below this number are acknowledged.
    acknowledged: Vec<u64>,
    unknown: u64,
    refused: u64,
    latencies: Histogram<u64>,
    /// An acknowledgement of an attempt that began after this is waited for.
    since: Option<Time>,
    /// When it came.
    first_after: Option<Time>,
}

/// Everything the load did.
#[derive(Clone, Debug)]
pub(super) struct Record {
    plan: Plan,
    acknowledged: Vec<u64>,
    /// Attempts whose outcome was unknown; each was made again with the same key and value.
    pub(super) unknown: u64,
    /// Attempts that certainly had no effect.
    pub(super) refused: u64,
    /// Time from the first attempt of a write to its acknowledgement, in microseconds.
    pub(super) latencies: Histogram<u64>,
}

impl Load {
    /// Starts the writers.
    pub(super) fn start(node: &Node, clock: Clock, plan: Plan) -> Self {
        let latencies = Histogram::new_with_bounds(1, LATENCY_US_MAX, LATENCY_DIGITS)
            .expect("the bounds are in order and the digits few");
        let state = State {
            stopping: false,
            acknowledged: vec![0; usize::from(plan.writers)],
            unknown: 0,
            refused: 0,
            latencies,
            since: None,
            first_after: None,
        };
        let shared = Shared { plan, clock, state: Mutex::new(state), acknowledged: Notify::new() };
        let shared = Arc::new(shared);
        let mut writers = JoinSet::new();
        for writer in 0..usize::from(plan.writers) {
            let kv = Kv::new(node).timeout(ATTEMPT_MAX);
            writers.spawn(write(Arc::clone(&shared), kv, writer));
        }
        Self { shared, writers }
    }

    /// Writes that have been acknowledged.
    pub(super) fn acknowledged(&self) -> u64 {
        self.shared.state.lock().acknowledged.iter().sum()
    }

    /// From here on, an acknowledgement of an attempt that begins after `since` is looked for.
    pub(super) fn watch(&self, since: Time) {
        let mut state = self.shared.state.lock();
        state.since = Some(since);
        state.first_after = None;
    }

    /// Waits for what [`watch`](Self::watch) looks for, and says when it came.
    pub(super) async fn first_after(&self) -> Time {
        loop {
            let acknowledged = self.shared.acknowledged.notified();
            if let Some(first) = self.shared.state.lock().first_after {
                return first;
            }
            acknowledged.await;
        }
    }

    /// Lets each writer finish the write it is at.
    pub(super) async fn stop(mut self) -> Record {
        self.shared.state.lock().stopping = true;
        while self.writers.join_next().await.is_some() {}
        let state = self.shared.state.lock().clone();
        Record {
            plan: self.shared.plan,
            acknowledged: state.acknowledged,
            unknown: state.unknown,
            refused: state.refused,
            latencies: state.latencies,
        }
    }
}

/// One writer.
async fn write(shared: Arc<Shared>, kv: Kv, writer: usize) {
    let mut beat = tokio::time::interval(shared.plan.interval);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 0.. {
        beat.tick().await;
        let key = key(writer, number);
        let value = value(&key, shared.plan.value_bytes);
        let began = shared.clock.now();
        loop {
            if shared.state.lock().stopping {
                return;
            }
            let attempt = shared.clock.now();
            match kv.set(key.clone(), value.clone()).await {
                Ok(_) => {
                    shared.note(writer, began, attempt);
                    break;
                }
                Err(error) => {
                    tracing::debug!(key, %error, "a write was not acknowledged");
                    match error.effect() {
                        Effect::None => shared.state.lock().refused += 1,
                        Effect::Unknown => shared.state.lock().unknown += 1,
                    }
                    tokio::time::sleep(RETRY_WAIT).await;
                }
            }
        }
    }
}

impl Shared {
    fn note(&self, writer: usize, began: Time, attempt: Time) {
        let now = self.clock.now();
        let mut state = self.state.lock();
        state.acknowledged[writer] += 1;
        let micros = u64::try_from((now - began).as_micros()).unwrap_or(u64::MAX);
        state.latencies.saturating_record(micros);
        if state.first_after.is_none() && state.since.is_some_and(|since| attempt > since) {
            state.first_after = Some(now);
            self.acknowledged.notify_waiters();
        }
    }
}

impl Record {
    /// Writes that were acknowledged.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged.iter().sum()
    }

    /// Reads every acknowledged key back and counts those that do not hold what was written.
    ///
    /// # Errors
    ///
    /// A key could not be read, with the reason in words; nothing is known about the rest.
    pub(super) async fn lost(&self, node: &Node) -> Result<u64, String> {
        let kv = Kv::new(node).timeout(ATTEMPT_MAX);
        let keys = self.acknowledged.iter().enumerate();
        let mut keys =
            keys.flat_map(|(writer, count)| (0..*count).map(move |number| key(writer, number)));
        let mut reads = JoinSet::new();
        let mut lost = 0;
        loop {
            while reads.len() < READS_MAX {
                let Some(key) = keys.next() else { break };
                let (kv, bytes) = (kv.clone(), self.plan.value_bytes);
                reads.spawn(async move { holds(&kv, &key, bytes).await });
            }
            match reads.join_next().await {
                Some(read) => lost += u64::from(!read.map_err(|error| error.to_string())??),
                None => return Ok(lost),
            }
        }
    }
}

/// Whether a key holds what was written to it.
async fn holds(kv: &Kv, key: &str, value_bytes: usize) -> Result<bool, String> {
    match kv.get(key.to_owned()).await {
        Ok(Some(found)) => Ok(found.value == value(key, value_bytes)),
        Ok(None) => Ok(false),
        Err(error) => Err(format!("{key} cannot be read back: {error}")),
    }
}

fn key(writer: usize, number: u64) -> String {
    format!("demo/{writer}/{number}")
}

/// The key again and again, up to the length that was asked for.
fn value(key: &str, bytes: usize) -> Vec<u8> {
    key.bytes().cycle().take(bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two keys with the same value could stand in for each other, and hide a lost write.
    #[test]
    fn values_differ_with_their_keys() {
        assert_eq!(value("ab", 5), b"ababa");
        assert_ne!(value(&key(1, 23), 64), value(&key(12, 3), 64));
        assert!(value("ab", 0).is_empty());
    }
}
