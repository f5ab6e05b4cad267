//! Shell: Appends that wait for each other leave together.
//!
//! While a batch is under way, what is appended meanwhile gathers, and leaves as the next one: a
//! single append waits for nobody, and many share an entry of the log, its sync and its round trip.
//! Nothing is delayed so that there may be more.
//!
//! Invariant: one batch of a handle is under way at a time, so records are in the topic in the
//! order in which they were appended, whatever is submitted again.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::topic::{Appended, Topic};
use crate::log::command::Append;
use crate::log::error::Error;
use crate::log::record::Record;
use crate::log::refusal::Refusal;

/// Records of one batch.
const RECORDS_MAX: usize = 1_024;
/// Bytes of one batch, unless one record has more.
const BYTES_MAX: usize = 1024 * 1024;
/// KiB of records that may wait; whoever appends more waits for room.
const WAITING_KIB_MAX: usize = 16 * 1024;

/// What waits to be appended to a topic.
#[derive(Debug)]
pub(super) struct Batcher {
    state: Mutex<State>,
    room: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Waiting>,
    /// Whether somebody sends what waits.
    is_sending: bool,
}

/// Records that are to be appended together.
#[derive(Debug)]
struct Waiting {
    records: Vec<Record>,
    bytes: usize,
    reply: oneshot::Sender<Result<Appended, Error>>,
    /// Given back with the answer.
    _room: OwnedSemaphorePermit,
}

impl Batcher {
    pub(super) fn new() -> Self {
        Self { state: Mutex::default(), room: Arc::new(Semaphore::new(WAITING_KIB_MAX)) }
    }

    /// Room for so many bytes, once there is some.
    pub(super) async fn room(&self, bytes: usize) -> OwnedSemaphorePermit {
        let kib = (bytes / 1024 + 1).min(WAITING_KIB_MAX);
        let kib = u32::try_from(kib).expect("it was limited");
        let room = Arc::clone(&self.room).acquire_many_owned(kib).await;
        room.expect("nobody closes it")
    }

    /// Puts records behind what waits already, and has it sent.
    pub(super) fn put(
        self: &Arc<Self>,
        topic: &Topic,
        records: Vec<Record>,
        room: OwnedSemaphorePermit,
    ) -> oneshot::Receiver<Result<Appended, Error>> {
        let (reply, answer) = oneshot::channel();
        let bytes = records.iter().map(Record::encoded_bytes).sum();
        let mut state = self.state.lock();
        state.waiting.push_back(Waiting { records, bytes, reply, _room: room });
        if !std::mem::replace(&mut state.is_sending, true) {
            let (batcher, topic) = (Arc::clone(self), topic.clone());
            tokio::spawn(async move { batcher.send_all(topic).await });
        }
        answer
    }

    /// Sends one batch after the other until nothing waits.
    async fn send_all(self: Arc<Self>, topic: Topic) {
        // If the runtime goes, whoever still waits is told by the loss of its channel.
        while let Some(batch) = self.take() {
            send(&topic, batch).await;
        }
    }

    /// What leaves together; none if nothing waits, and then nobody sends any more.
    fn take(&self) -> Option<Vec<Waiting>> {
        let mut state = self.state.lock();
        let (mut batch, mut records, mut bytes) = (Vec::new(), 0, 0);
        while let Some(next) = state.waiting.front() {
            (records, bytes) = (records + next.records.len(), bytes + next.bytes);
            if !batch.is_empty() && (records > RECORDS_MAX || bytes > BYTES_MAX) {
                break;
            }
            batch.extend(state.waiting.pop_front());
        }
        state.is_sending = !batch.is_empty();
        (!batch.is_empty()).then_some(batch)
    }
}

impl Waiting {
    /// Whether the topic refuses a batch because of others in it, and not because of these records.
    fn is_blameless(&self, refusal: Refusal) -> bool {
        if let Refusal::TooLarge { limit } = refusal {
            return self.records.iter().all(|record| record.bytes() as u64 <= limit);
        }
        refusal == Refusal::KeyMissing && self.records.iter().all(|record| record.key.is_some())
    }
}

/// Appends a batch, and tells everybody what became of their part. One record that the topic does not
/// take must not cost the others.
async fn send(topic: &Topic, mut batch: Vec<Waiting>) {
    while !batch.is_empty() {
        let result = append(topic, &batch).await;
        let Err(Error::Refused(refusal)) = &result else { return tell(batch, &result) };
        let (rest, to_blame): (Vec<_>, Vec<_>) =
            batch.into_iter().partition(|waiting| waiting.is_blameless(*refusal));
        if to_blame.is_empty() {
            return tell(rest, &result);
        }
        tell(to_blame, &result);
        batch = rest;
    }
}

async fn append(topic: &Topic, batch: &[Waiting]) -> Result<Appended, Error> {
    let records: Vec<Record> = batch.iter().flat_map(|of| of.records.iter().cloned()).collect();
    let name: Bytes = topic.name_bytes();
    topic.submit(Append::new(name, topic.clock().unix_ms(), &records)?).await
}

fn tell(batch: Vec<Waiting>, result: &Result<Appended, Error>) {
    let mut before = 0;
    for waiting in batch {
        let count = waiting.records.len() as u64;
        let part = result.clone().map(|all| Appended { first: all.first + before, count, ..all });
        before += count;
        // Who does not wait any more does not want to know.
        drop(waiting.reply.send(part));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(batcher: &Batcher, records: usize, bytes: usize) {
        let (reply, _) = oneshot::channel();
        let room = Arc::clone(&batcher.room).try_acquire_owned().unwrap();
        let records = vec![Record::default(); records];
        batcher.state.lock().waiting.push_back(Waiting { records, bytes, reply, _room: room });
    }

    /// Batches are large where much waits, and no larger than their limits but for a single one.
    #[test]
    fn batch_takes_what_waits_within_its_limits() {
        let batcher = Batcher::new();
        let sizes = || batcher.take().map(|batch| batch.len());
        assert_eq!(sizes(), None);
        for (records, bytes) in
            [(1, 9), (1_000, 9), (24, 9), (1, BYTES_MAX), (1, BYTES_MAX + 1), (2_000, 9), (1, 9)]
        {
            waiting(&batcher, records, bytes);
        }
        assert_eq!(sizes(), Some(2), "1,025 records");
        assert_eq!(sizes(), Some(1), "a byte too much");
        for _ in 0..4 {
            assert_eq!(sizes(), Some(1));
        }
        assert!(batcher.state.lock().is_sending);
        assert_eq!(sizes(), None);
        assert!(!batcher.state.lock().is_sending);
    }
}
