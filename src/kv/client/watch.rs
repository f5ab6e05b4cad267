//! Shell: Watches: every change of some keys, in order, without a gap and without a repetition.
//!
//! A watch asks a replica for what comes after a position and waits there for an answer, which has
//! the next position. So nothing is kept for it by anybody: when the replica or the leader is lost it
//! asks another, from the same position. The idea is etcd's, with the position on the client's side.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use super::{Kv, Task, odd};
use crate::NodeId;
use crate::kv::command::{
    Event, EventQuery, KeyRange, PAGE_BYTES_MAX, PAGE_LIMIT_MAX, Position, Query, Response,
};
use crate::kv::error::Error;
use crate::replica::Applied;

/// How long a replica keeps a question for changes when there are none. A replica that is cut off
/// from the others is left after this time.
const WAIT: Duration = Duration::from_secs(5);

/// Questions that are lost one after the other before a watch says so.
const LOST_MAX: u32 = 2;

/// Where a watch begins, made by [`Kv::watch`]. Await it to get a [`Watch`].
///
/// # Errors
///
/// [`Error`]: the store could not be asked at which revision it is. With [`after`](Self::after) it
/// is not asked.
#[derive(Clone, Debug)]
#[must_use = "nothing is watched unless it is awaited"]
pub struct WatchFrom {
    kv: Kv,
    range: KeyRange,
    after: Option<u64>,
    wants_previous: bool,
}

/// Changes of some keys, one after the other.
///
/// # Examples
///
/// ```
/// # async fn example(kv: zmesh::kv::Kv) -> Result<(), zmesh::kv::Error> {
/// use zmesh::kv::KeyRange;
///
/// let page = kv.list(KeyRange::prefix("jobs/")).await?;
/// let mut watch = kv.watch(KeyRange::prefix("jobs/")).after(page.revision).await?;
/// let event = watch.next().await?;
/// println!("{:?} changed at {}", event.key, event.revision);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Watch {
    kv: Kv,
    query: EventQuery,
    buffered: VecDeque<Event>,
}

impl WatchFrom {
    pub(super) fn new(kv: &Kv, range: KeyRange) -> Self {
        Self { kv: kv.clone(), range, after: None, wants_previous: false }
    }

    /// Begins with the first change after this revision [default: after the present one].
    pub fn after(mut self, revision: u64) -> Self {
        self.after = Some(revision);
        self
    }

    /// With [what was there before](Event::previous) each change.
    pub fn with_previous(mut self) -> Self {
        self.wants_previous = true;
        self
    }

    async fn run(self) -> Result<Watch, Error> {
        let Self { kv, range, after, wants_previous } = self;
        let after = match after {
            Some(after) => after,
            None => kv.state().await?.revision,
        };
        let from = Position::after(after);
        let (limit, bytes_max) = (PAGE_LIMIT_MAX, PAGE_BYTES_MAX);
        let query = EventQuery { range, from, limit, bytes_max, wants_previous };
        let timeout = kv.timeout.max(WAIT);
        Ok(Watch { kv: kv.timeout(timeout), query, buffered: VecDeque::new() })
    }
}

impl IntoFuture for WatchFrom {
    type Output = Result<Watch, Error>;
    type IntoFuture = Task<Watch>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl Watch {
    /// The next change; waits until there is one, over the loss of replicas and of leaders.
    ///
    /// # Errors
    ///
    /// - [`Failure::Compacted`](super::super::Failure::Compacted): the store has forgotten changes
    ///   that this watch has not seen. Read the keys anew and watch after that; this watch is over.
    /// - [`Error::Client`]: no replica answered, twice within the timeout of the handle or 5 s. The
    ///   watch goes on where it was when it is asked again.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no change: the next call returns it.
    pub async fn next(&mut self) -> Result<Event, Error> {
        loop {
            if let Some(event) = self.buffered.pop_front() {
                return Ok(event);
            }
            self.ask().await?;
        }
    }

    /// The changes that are there already, and waits only for the first; never none.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next).
    ///
    /// # Cancel safety
    ///
    /// As [`next`](Self::next).
    pub async fn next_batch(&mut self) -> Result<Vec<Event>, Error> {
        while self.buffered.is_empty() {
            self.ask().await?;
        }
        Ok(self.buffered.drain(..).collect())
    }

    /// The revision up to which every change has been returned or is about to be: a watch after it
    /// continues this one, once all that is [buffered](Self::next_batch) was taken.
    pub fn seen(&self) -> u64 {
        self.query.from.revision.saturating_sub(1)
    }

    async fn ask(&mut self) -> Result<(), Error> {
        let query = Query::Events(self.query.clone()).encode()?;
        let (node, applied) = self.answer(query).await?;
        let response = Response::decode(&applied.response).map_err(|_| odd(node.clone()))?;
        let Response::Events(found) = response.accepted()? else { return Err(odd(node)) };
        let is_old = |event: &Event| event.revision < self.query.from.revision;
        if found.next < self.query.from || found.events.iter().any(is_old) {
            return Err(odd(node));
        }
        self.query.from = found.next;
        self.buffered.extend(found.events);
        Ok(())
    }

    /// What a replica says; one that is silent is given up for another.
    async fn answer(&self, query: Bytes) -> Result<(NodeId, Applied), Error> {
        let mut lost = 0;
        loop {
            match self.kv.client.wait(query.clone()).await {
                Err(error) if error.is_retryable() && lost + 1 < LOST_MAX => lost += 1,
                answer => return Ok(answer?),
            }
        }
    }
}
