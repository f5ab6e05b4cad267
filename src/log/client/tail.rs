//! Shell: Follows a topic.
//!
//! One page is with the reader and one more is fetched meanwhile; what the reader does not take is
//! not fetched. Invariant: records are given in the order of their offsets, each once, and none is
//! left out but those that [`Tail::skipped`] counts.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::lag::{OnLag, Position};
use super::topic::{ReadLimits, Stored, Topic, page, stored};
use crate::error::ErrorCode;
use crate::log::answer::Page;
use crate::log::error::Error;
use crate::log::groups::Start;
use crate::log::refusal::Refusal;
use crate::replica::ClientError;
use crate::timer::{Clock, Time};

/// Wait before another replica is asked when one failed.
const PAUSE: Duration = Duration::from_millis(50);

/// Gives the records of a topic one after the other, and waits for those that are not there yet.
///
/// Only records on the disks of a quorum are given, in their order, each once and without a gap. A
/// tail begins at a replica of its own node, if there is one, and at any other if not; when one is
/// lost, or has had nothing new for a while, it goes on at another.
///
/// At the end of the topic, or as long as there is no topic, it waits without an end; each wait for
/// a replica's answer has the timeout of the [`Log`](super::Log).
///
/// # Examples
///
/// ```
/// # async fn example(topic: zmesh::log::Topic) -> Result<(), zmesh::log::Error> {
/// use zmesh::log::{Lag, OnLag, Start};
///
/// // Rather fail than work on what is a thousand records old.
/// let limit = Lag { records: Some(1_000), age: None };
/// let mut tail = topic.tail(Start::End).on_lag(OnLag::Fail(limit));
/// loop {
///     let next = tail.next().await?;
///     println!("{}: {:?}", next.offset, next.value());
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Tail {
    on_lag: OnLag,
    limits: ReadLimits,
    /// The offset to be given next, once it is known where to begin.
    position: Option<u64>,
    /// The end of the topic when the last page was read.
    end: u64,
    skipped: u64,
    page: VecDeque<Stored>,
    /// The next page, if it is being fetched.
    ahead: Option<JoinHandle<Fetched>>,
    source: Source,
    start: Start,
}

/// Where the records come from.
#[derive(Clone, Debug)]
struct Source {
    topic: Topic,
    /// The id of the topic, once it was seen.
    id: u64,
    /// Counts the changes from one replica to another.
    turn: usize,
    clock: Clock,
}

/// Where a page is to begin.
#[derive(Clone, Copy, Debug)]
enum Begin {
    Offset(u64),
    Start(Start),
    /// The first record that is not before a time, nor before an offset.
    Time {
        time: u64,
        least: u64,
    },
}

/// A page that was fetched.
#[derive(Debug)]
struct Fetched {
    source: Source,
    /// Where it was to begin, its records, of which there is at least one, and the end of the
    /// topic. Records that are not kept any more may be missing at its beginning.
    result: Result<(u64, Vec<Stored>, u64), Error>,
}

impl Tail {
    pub(super) fn new(topic: Topic, start: Start) -> Self {
        let turn = if topic.log().local.is_empty() { fastrand::usize(..1 << 16) } else { 0 };
        let clock = topic.clock();
        Self {
            on_lag: OnLag::Block,
            limits: ReadLimits::default(),
            position: None,
            end: 0,
            skipped: 0,
            page: VecDeque::new(),
            ahead: None,
            source: Source { topic, id: 0, turn, clock },
            start,
        }
    }

    /// What happens when the reader falls behind [default: [`OnLag::Block`]]. Lag by count is that
    /// of the page that the reader has, so it is noticed at the latest one page later.
    pub fn on_lag(mut self, on_lag: OnLag) -> Self {
        self.on_lag = on_lag;
        self
    }

    /// How much is fetched at once. Two such pages are in memory at most.
    pub fn limits(mut self, limits: ReadLimits) -> Self {
        self.limits = limits;
        self
    }

    /// The offset that is given next; none as long as it is not known where to begin.
    pub fn position(&self) -> Option<u64> {
        self.position
    }

    /// Records that were there and were left out: by [`OnLag::DropOldest`], or, with it, because
    /// they were not kept any more.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The next record. Waits until there is one.
    ///
    /// # Errors
    ///
    /// [`Error`]; the tail is where it was, and goes on there when it is called again.
    ///
    /// - [`Error::TooSlow`]: the reader is further behind than it allows itself to be.
    /// - [`Error::Refused`] with [`Refusal::OffsetTooOld`]: the next record is not kept any more.
    ///   With [`OnLag::DropOldest`] it goes on at the oldest that is kept instead.
    /// - [`Error::Refused`] with [`Refusal::TopicUnknown`]: the topic was deleted.
    /// - [`Error::Client`]: no replica has answered for the timeout.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Stored, Error> {
        loop {
            if let Some(next) = self.take()? {
                return Ok(next);
            }
            self.fill().await?;
        }
    }

    /// The next record of the page, if it is near enough to the end.
    fn take(&mut self) -> Result<Option<Stored>, Error> {
        let Some(first) = self.page.front() else { return Ok(None) };
        let now = self.source.clock.unix_ms();
        let at = Position { next: first.offset, end: self.end, timestamp: first.timestamp };
        match self.on_lag {
            OnLag::Fail(lag) if lag.is_exceeded(at, now) => {
                return Err(Error::TooSlow { records: at.records(), age: at.age(now) });
            }
            OnLag::DropOldest(lag) if lag.is_exceeded(at, now) => {
                let (offset, time) = (lag.near_enough(self.end), lag.young_enough(now));
                self.seek(offset, time.unwrap_or(0));
            }
            OnLag::Block | OnLag::DropOldest(_) | OnLag::Fail(_) => {}
        }
        let next = self.page.pop_front();
        if let (Some(next), Some(position)) = (&next, &mut self.position) {
            self.skipped += next.offset - *position;
            *position = next.offset + 1;
        }
        Ok(next)
    }

    /// Leaves out what lies before an offset or a time.
    fn seek(&mut self, offset: u64, time: u64) {
        let mut next = offset.max(self.position.unwrap_or(0));
        while let Some(first) = self.page.front() {
            if first.offset >= offset && first.timestamp >= time {
                return;
            }
            next = next.max(first.offset + 1);
            self.page.pop_front();
        }
        // What is being fetched may be left out as well.
        self.stop();
        self.fetch(Begin::Time { time, least: next });
    }

    /// Waits for the page that is being fetched, and has the next one fetched.
    async fn fill(&mut self) -> Result<(), Error> {
        if self.ahead.is_none() {
            self.fetch(self.position.map_or(Begin::Start(self.start), Begin::Offset));
        }
        let Some(ahead) = &mut self.ahead else { return Err(ended()) };
        let fetched = ahead.await;
        self.ahead = None;
        let Ok(Fetched { source, result }) = fetched else { return Err(ended()) };
        self.source = source;
        let (begin, records, end) = result?;
        self.position.get_or_insert(begin);
        (self.end, self.page) = (end, records.into());
        if let Some(last) = self.page.back() {
            self.fetch(Begin::Offset(last.offset + 1));
        }
        Ok(())
    }

    fn fetch(&mut self, from: Begin) {
        let skips = matches!(self.on_lag, OnLag::DropOldest(_));
        self.ahead = Some(tokio::spawn(self.source.clone().fetch(from, self.limits, skips)));
    }

    fn stop(&mut self) {
        if let Some(ahead) = self.ahead.take() {
            ahead.abort();
        }
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Source {
    /// Asks one replica after the other until there is a record, or one fails for good.
    async fn fetch(mut self, from: Begin, limits: ReadLimits, skips: bool) -> Fetched {
        let result = match self.resolve(from).await {
            Ok(begin) => {
                let fetched = self.fetch_from(begin, limits, skips).await;
                fetched.map(|(records, end)| (begin, records, end))
            }
            Err(error) => Err(error),
        };
        Fetched { source: self, result }
    }

    /// The offset that is meant.
    async fn resolve(&mut self, from: Begin) -> Result<u64, Error> {
        let start = match from {
            Begin::Offset(offset) | Begin::Time { time: 0, least: offset } => return Ok(offset),
            Begin::Time { time, least } => {
                return Ok(self.topic.offset_at(time).await?.max(least));
            }
            Begin::Start(Start::Offset(offset)) => return Ok(offset),
            Begin::Start(start) => start,
        };
        match self.topic.view().await {
            Ok(view) => {
                self.id = view.id;
                Ok(if start == Start::End { view.next } else { view.first })
            }
            // It begins when the topic does.
            Err(Error::Refused(Refusal::TopicUnknown)) => Ok(0),
            Err(error) => Err(error),
        }
    }

    async fn fetch_from(
        &mut self,
        mut from: u64,
        limits: ReadLimits,
        skips: bool,
    ) -> Result<(Vec<Stored>, u64), Error> {
        let timeout = self.topic.log().timeout;
        let mut heard = self.clock.now();
        loop {
            let error = match self.ask(from, limits).await {
                Ok(page) if page.batches.is_empty() => {
                    // Another one may be less cut off.
                    (heard, self.turn) = (self.clock.now(), self.turn.wrapping_add(1));
                    continue;
                }
                Ok(page) => match self.check(from, &page) {
                    Ok(fetched) => return Ok(fetched),
                    Err(error) => error,
                },
                Err(Error::Refused(Refusal::OffsetTooOld { first })) if skips => {
                    from = first;
                    continue;
                }
                Err(Error::Refused(Refusal::TopicUnknown)) => {
                    if self.is_gone().await? {
                        return Err(Refusal::TopicUnknown.into());
                    }
                    (heard, self.turn) = (self.clock.now(), self.turn.wrapping_add(1));
                    continue;
                }
                Err(error) => error,
            };
            // A replica that is gone or damaged is not the only one.
            let is_of_replica = error.is_retryable()
                || matches!(error.code(), ErrorCode::NoReplica | ErrorCode::Corrupt);
            if !is_of_replica || self.is_late(heard, timeout) {
                return Err(error);
            }
            self.turn = self.turn.wrapping_add(1);
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Asks the replica whose turn it is for records, and waits there until there are some.
    async fn ask(&self, from: u64, limits: ReadLimits) -> Result<Page, Error> {
        let client = self.topic.client().await?;
        let query = self.topic.read_query(self.id, from, limits);
        if client.is_local() && self.turn.is_multiple_of(2) {
            return page(client.wait(query).await?);
        }
        let replicas = client.replicas();
        let turn = if client.is_local() { self.turn / 2 } else { self.turn };
        match replicas.get(turn % replicas.len().max(1)) {
            Some(replica) => page(client.wait_on(replica, query).await?),
            None => Err(ClientError::NoReplica.into()),
        }
    }

    /// The records of a page, which have to begin where they were asked for, or behind a gap.
    fn check(&mut self, from: u64, page: &Page) -> Result<(Vec<Stored>, u64), Error> {
        let records = stored(page, from)?;
        if records.first().is_none_or(|first| first.offset != from && !page.gaps) {
            return Err(Refusal::Damaged.into());
        }
        self.id = page.id;
        if !self.topic.log().local.is_empty() {
            // Back to the replica of this node.
            self.turn = self.turn.next_multiple_of(2);
        }
        Ok((records, page.next))
    }

    /// Whether the topic that was seen before is there no more. A replica that lags may not know it
    /// yet; the leader does.
    async fn is_gone(&self) -> Result<bool, Error> {
        match self.topic.view().await {
            Ok(view) => Ok(self.id != 0 && view.id != self.id),
            Err(Error::Refused(Refusal::TopicUnknown)) => Ok(self.id != 0),
            Err(error) => Err(error),
        }
    }

    fn is_late(&self, heard: Time, timeout: Duration) -> bool {
        self.clock.now().saturating_since(heard) >= timeout
    }
}

fn ended() -> Error {
    ClientError::Refused { code: ErrorCode::ShuttingDown, message: "the runtime ends".to_owned() }
        .into()
}
