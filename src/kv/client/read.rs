//! Shell: Reads: a key, now or at a revision, and lists in pages.

use bytes::Bytes;

use super::{Kv, Task, odd};
use crate::NodeId;
use crate::kv::command::{Entry, KeyRange, Page, Query, Response, Selection};
use crate::kv::error::Error;
use crate::replica::Applied;

/// The read of a key, made by [`Kv::get`]. Await it.
///
/// # Errors
///
/// [`Error`]; a read changes nothing. [`Failure::Compacted`](super::super::Failure::Compacted) if the
/// revision is forgotten, [`Failure::Behind`](super::super::Failure::Behind) if the store, or the
/// replica within the timeout, has not come to it.
#[derive(Clone, Debug)]
#[must_use = "nothing is read unless it is awaited"]
pub struct Get {
    kv: Kv,
    key: Bytes,
    revision: u64,
    at_least: Option<u64>,
    replica: Option<NodeId>,
}

/// What one replica has, as far as it has applied.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Stale {
    /// What the key has there.
    pub entry: Option<Entry>,
    /// The position in the replicated log up to which the replica had applied.
    pub index: u64,
}

/// A list of keys, made by [`Kv::list`]. Await it to get the first page, or take
/// [all pages](Self::pages).
///
/// # Errors
///
/// As [`Get`].
///
/// # Examples
///
/// ```
/// # async fn example(kv: zmesh::kv::Kv) -> Result<(), zmesh::kv::Error> {
/// use zmesh::kv::KeyRange;
///
/// let mut pages = kv.list(KeyRange::prefix("jobs/")).limit(100).pages();
/// while let Some(page) = pages.next().await? {
///     println!("{} keys as they were at {}", page.entries.len(), page.revision);
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is read unless it is awaited"]
pub struct List {
    kv: Kv,
    selection: Selection,
}

/// The pages of a list, all of them as they were when the first was read.
#[derive(Clone, Debug)]
pub struct Pages {
    kv: Kv,
    /// None at the end.
    selection: Option<Selection>,
}

impl Get {
    pub(super) fn new(kv: &Kv, key: Bytes) -> Self {
        Self { kv: kv.clone(), key, revision: 0, at_least: None, replica: None }
    }

    /// As it was at this revision.
    pub fn at(mut self, revision: u64) -> Self {
        self.revision = revision;
        self
    }

    /// From any replica that has come to this revision: one's own writes are seen, those of others
    /// may be missed. Waits for it, within the timeout.
    pub fn at_least(mut self, revision: u64) -> Self {
        self.at_least = Some(revision);
        self
    }

    /// From this replica, and with [`at_least`](Self::at_least) only.
    pub fn on(mut self, replica: &NodeId) -> Self {
        self.replica = Some(replica.clone());
        self
    }

    async fn run(self) -> Result<Option<Entry>, Error> {
        let Self { kv, key, revision, at_least, replica } = self;
        let query = Query::Entry { key, revision };
        let answer = match at_least {
            None => kv.client.query(query.encode()?).await?,
            Some(revision) => {
                let query = Query::AtLeast { revision, query: Box::new(query) }.encode()?;
                match replica {
                    None => kv.client.wait(query).await?,
                    Some(replica) => kv.client.wait_on(&replica, query).await?,
                }
            }
        };
        entry(&answer)
    }
}

impl IntoFuture for Get {
    type Output = Result<Option<Entry>, Error>;
    type IntoFuture = Task<Option<Entry>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl List {
    pub(super) fn new(kv: &Kv, range: KeyRange) -> Self {
        Self { kv: kv.clone(), selection: Selection::of(range) }
    }

    /// So many keys on a page at most [default and limit: 10,000].
    pub fn limit(mut self, keys: u32) -> Self {
        self.selection.limit = keys;
        self
    }

    /// A page ends with the key that has it exceed so many bytes [default and limit: 1 MiB].
    pub fn bytes_max(mut self, bytes: u32) -> Self {
        self.selection.bytes_max = bytes;
        self
    }

    /// Without the values.
    pub fn keys_only(mut self) -> Self {
        self.selection.keys_only = true;
        self
    }

    /// The last keys first.
    pub fn reverse(mut self) -> Self {
        self.selection.is_reverse = true;
        self
    }

    /// As they were at this revision.
    pub fn at(mut self, revision: u64) -> Self {
        self.selection.revision = revision;
        self
    }

    /// Only [how many](Page::matched) there are.
    pub(super) fn count_only(mut self) -> Self {
        self.selection.count_only = true;
        self
    }

    /// One page after the other, all as they were when the first was read.
    pub fn pages(self) -> Pages {
        Pages { kv: self.kv, selection: Some(self.selection) }
    }

    async fn run(self) -> Result<Page, Error> {
        read(&self.kv, self.selection).await
    }
}

impl IntoFuture for List {
    type Output = Result<Page, Error>;
    type IntoFuture = Task<Page>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl Pages {
    /// The next page; none after the last.
    ///
    /// # Errors
    ///
    /// As [`Get`]. [`Failure::Compacted`](super::super::Failure::Compacted) if the revision of the first
    /// page was forgotten meanwhile.
    ///
    /// # Cancel safety
    ///
    /// A page is lost only with the result of the future.
    pub async fn next(&mut self) -> Result<Option<Page>, Error> {
        let Some(selection) = &self.selection else { return Ok(None) };
        let page = read(&self.kv, selection.clone()).await?;
        self.selection = page.next.as_ref().map(|next| Selection {
            revision: page.revision,
            range: selection.range.starting_at(next, selection.is_reverse),
            ..selection.clone()
        });
        Ok(Some(page))
    }
}

async fn read(kv: &Kv, selection: Selection) -> Result<Page, Error> {
    let (node, response) = kv.ask(&Query::List(selection)).await?;
    let Response::Page(page) = response else { return Err(odd(node)) };
    Ok(page)
}

/// What an answer says about a key.
pub(super) fn entry((node, applied): &(NodeId, Applied)) -> Result<Option<Entry>, Error> {
    let Ok(response) = Response::decode(&applied.response) else { return Err(odd(node.clone())) };
    let response = response.accepted()?;
    if let Response::Absent { .. } = response {
        return Ok(None);
    }
    let Response::Entry { entry, .. } = response else { return Err(odd(node.clone())) };
    Ok(Some(entry))
}
