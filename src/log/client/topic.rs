//! Shell: One topic as a program uses it.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OnceCell;

use super::batch::Batcher;
use super::cursor::Cursor;
use super::tail::Tail;
use super::{Log, answered, odd};
use crate::error::ErrorCode;
use crate::id::NodeId;
use crate::log::answer::{Answer, Batch, Page, TopicView};
use crate::log::command::{Append, Command};
use crate::log::error::Error;
use crate::log::groups::{Group, GroupError, GroupStatus, Start};
use crate::log::options::TopicOptions;
use crate::log::query::{Query, Read};
use crate::log::record::{InvalidRecord, Record};
use crate::log::refusal::Refusal;
use crate::replica::{AckLevel, Acknowledged, Acks, Applied, Client, ClientError};
use crate::timer::Clock;

/// A handle to one topic. Clones are cheap, and share the order of what they append.
///
/// The first append creates the topic with default options, which keep everything, unless
/// [`existing`](Self::existing) is called. See [`Log`].
#[derive(Clone, Debug)]
pub struct Topic {
    log: Log,
    name: String,
    must_exist: bool,
    client: Arc<OnceCell<Client>>,
    batcher: Arc<Batcher>,
}

/// Records that were appended.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize)]
pub struct Appended {
    /// The offset of the first of them; the others follow without a gap.
    pub first: u64,
    /// How many there are.
    pub count: u64,
    /// The position of the command in the log of the topic's group.
    pub index: u64,
    /// The term of the leader that answered.
    pub term: u64,
    /// How strongly they are held.
    pub level: AckLevel,
}

/// Records that were handed over at the level that was asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize)]
pub struct Accepted {
    /// The offset of the first of them; none below the level of the quorum, where it is not
    /// decided.
    pub first: Option<u64>,
    /// How many there are.
    pub count: u64,
    /// The position of the command in the log of the topic's group; none if nobody has answered.
    pub index: Option<u64>,
    /// The term of the leader that answered.
    pub term: Option<u64>,
    /// How strongly they are held.
    pub level: AckLevel,
}

impl From<Appended> for Accepted {
    fn from(appended: Appended) -> Self {
        let Appended { first, count, index, term, level } = appended;
        Self { first: Some(first), count, index: Some(index), term: Some(term), level }
    }
}

/// A record with its place in a topic.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Stored {
    /// Its place, counted from 0.
    pub offset: u64,
    /// When its writer appended it by its own clock, in milliseconds since 1970. For people: the
    /// order is that of the offsets.
    pub timestamp: u64,
    /// What was appended.
    pub record: Record,
}

/// Records that were read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Records {
    /// In order, and without a gap unless there may be `gaps`.
    pub records: Vec<Stored>,
    /// Whether records may be missing that others with the same key have followed: the topic was
    /// [compacted](crate::log::Compaction).
    pub gaps: bool,
    /// The oldest offset that is kept.
    pub first: u64,
    /// The offset that the next record will get.
    pub end: u64,
}

/// How much is read at once.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ReadLimits {
    /// Bytes [default: 1 MiB; up to 4 MiB]. If the first batch has more, it comes alone.
    pub bytes: u32,
    /// Records [default: 65,536].
    pub records: u32,
}

impl Default for ReadLimits {
    fn default() -> Self {
        Self { bytes: 1024 * 1024, records: 65_536 }
    }
}

impl Topic {
    pub(super) fn new(log: Log, name: String) -> Self {
        let batcher = Arc::new(Batcher::new());
        Self { log, name, must_exist: false, client: Arc::default(), batcher }
    }

    /// Does not create the topic by appending to it: an append to one that does not exist is
    /// refused.
    pub fn existing(mut self) -> Self {
        self.must_exist = true;
        self.batcher = Arc::new(Batcher::new());
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    // ---- appending -------------------------------------------------------------------------

    /// Appends a record. Returns once it is on the disks of a quorum, with the offset that it has
    /// for ever.
    ///
    /// It is appended once, however often it has to be submitted. Records of this handle and its
    /// clones are in the topic in the order of the calls; what is appended while others are under
    /// way leaves together with what waits as well, in batches of up to 1,024 records or 1 MiB. The
    /// time of a call counts from its batch.
    ///
    /// # Errors
    ///
    /// [`Error`]; with [`Effect::Unknown`](crate::Effect::Unknown) the record may have been
    /// appended, or may be yet. Waits for room if more than 16 MiB wait already; if there is none
    /// within the timeout, the error is `WOULD_BLOCK` and nothing was sent.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not recall the record.
    pub async fn append(&self, record: Record) -> Result<Appended, Error> {
        self.append_batch(vec![record]).await
    }

    /// Appends records one behind the other, all or none; otherwise as [`append`](Self::append).
    ///
    /// # Errors
    ///
    /// As [`append`](Self::append); there must be at least one record, no more than 65,536 and no
    /// more than 8 MiB less 1 KiB of them.
    ///
    /// # Cancel safety
    ///
    /// As [`append`](Self::append).
    pub async fn append_batch(&self, records: Vec<Record>) -> Result<Appended, Error> {
        let bytes = check(&records)?;
        let room = tokio::time::timeout(self.log.timeout, self.batcher.room(bytes)).await;
        let Ok(room) = room else { return Err(full().into()) };
        match self.batcher.put(self, records, room).await {
            Ok(result) => result,
            // The runtime is going down with the batch under way.
            Err(_) => Err(lost().into()),
        }
    }

    /// Appends records if the first of them gets the offset `expected`: whoever has read up to
    /// there knows that nothing came between. It waits for no other append of the handle.
    ///
    /// # Errors
    ///
    /// As [`append_batch`](Self::append_batch); [`Refusal::OffsetMismatch`] has the offset that the
    /// next record will get.
    ///
    /// # Cancel safety
    ///
    /// As [`append`](Self::append).
    pub async fn append_at(&self, expected: u64, records: &[Record]) -> Result<Appended, Error> {
        check(records)?;
        let append = Append::new(self.name_bytes(), self.clock().unix_ms(), records)?;
        self.submit(Append { expected: Some(expected), ..append }).await
    }

    /// Appends records one behind the other, and returns when `acks` is reached: sooner than
    /// [`append_batch`](Self::append_batch), or when more replicas have them.
    ///
    /// Below the level of the quorum they are appended at most once, by anything that goes wrong
    /// not at all, and a record that the topic does not take is not reported. It waits for no other
    /// append of the handle, and may be overtaken by one.
    ///
    /// # Errors
    ///
    /// As [`append_batch`](Self::append_batch); with the code `NOT_ON_ALL` the records are in the
    /// topic, and only the level is missing.
    ///
    /// # Cancel safety
    ///
    /// As [`append`](Self::append).
    pub async fn append_with(&self, records: &[Record], acks: Acks) -> Result<Accepted, Error> {
        check(records)?;
        let append = Append::new(self.name_bytes(), self.clock().unix_ms(), records)?;
        let append = Append { must_exist: self.must_exist, ..append };
        let count = u64::from(append.count);
        let command = Command::Append(append).encode()?;
        let (node, acknowledged) = self.client().await?.command_with(command, acks).await?;
        let level = acknowledged.level();
        match acknowledged {
            Acknowledged::Applied(applied) => Ok(appended(node, applied, count)?.into()),
            Acknowledged::Accepted { index, term, .. } => {
                Ok(Accepted { first: None, count, index: Some(index), term: Some(term), level })
            }
            Acknowledged::Sent => {
                Ok(Accepted { first: None, count, index: None, term: None, level })
            }
        }
    }

    /// Appends what is encoded already.
    pub(super) async fn submit(&self, append: Append) -> Result<Appended, Error> {
        let append = Append { must_exist: self.must_exist, ..append };
        let count = u64::from(append.count);
        let command = Command::Append(append).encode()?;
        let (node, applied) = self.client().await?.command(command).await?;
        appended(node, applied, count)
    }

    // ---- reading ---------------------------------------------------------------------------

    /// Reads records from an offset on; none if there are none yet. Sees every record that was
    /// acknowledged before the call, and none that is not on a quorum of disks.
    ///
    /// # Errors
    ///
    /// [`Error`]: [`Refusal::OffsetTooOld`] has the oldest offset that is kept. It changes nothing.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn read(&self, from: u64, limits: ReadLimits) -> Result<Records, Error> {
        let read = self.read_query(0, from, limits);
        let client = self.client().await?;
        let page = match page(client.query(read.clone()).await?) {
            Err(Error::Refused(Refusal::Behind { .. })) => self.read_elsewhere(&read).await?,
            other => other?,
        };
        let Page { first, next: end, gaps, .. } = page;
        Ok(Records { first, end, gaps, records: stored(&page, from)? })
    }

    /// The offset of the first record that has at least this timestamp, in milliseconds since 1970,
    /// or is behind one that has; the offset of the next record if there is none. Timestamps are
    /// what the writers' clocks said.
    ///
    /// # Errors
    ///
    /// [`Error`]; it changes nothing.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn offset_at(&self, timestamp: u64) -> Result<u64, Error> {
        let query = Query::Find { topic: self.name_bytes(), timestamp }.encode()?;
        match answered(self.client().await?.query(query).await?)? {
            (_, Answer::Offset(offset)) => Ok(offset),
            (node, _) => Err(odd(node)),
        }
    }

    /// The offset that the next record will get: behind every record that was acknowledged before
    /// the call.
    ///
    /// # Errors
    ///
    /// [`Error`]; it changes nothing.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn end(&self) -> Result<u64, Error> {
        Ok(self.view().await?.next)
    }

    /// Follows the topic: gives one record after the other, those that are there and those that
    /// come.
    pub fn tail(&self, from: Start) -> Tail {
        Tail::new(self.clone(), from)
    }

    /// A durable place in the topic, whether it exists or not.
    pub fn cursor(&self, name: impl Into<String>) -> Cursor {
        Cursor::new(self.clone(), name.into())
    }

    /// A group of consumers that share the work of the topic, whether it exists or not. A name that
    /// can be none is refused by every operation.
    pub fn group(&self, name: impl Into<String>) -> Group {
        Group::new(self.clone(), name.into())
    }

    /// How the groups of consumers are doing, by name.
    ///
    /// # Errors
    ///
    /// [`GroupError`]; it changes nothing.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn groups(&self) -> Result<Vec<GroupStatus>, GroupError> {
        Group::all(self).await
    }

    /// The cursors of the topic by name, from behind `after` on (the empty one begins with the
    /// first): at most `limit` of them, and at most 1,000.
    ///
    /// # Errors
    ///
    /// [`Error`]; it changes nothing.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn cursors(&self, after: &str, limit: u16) -> Result<Vec<(String, u64)>, Error> {
        let (topic, after) = (self.name_bytes(), Bytes::from(after.to_owned()));
        let query = Query::Cursors { topic, after, limit }.encode()?;
        match answered(self.client().await?.query(query).await?)? {
            (_, Answer::Cursors { cursors, .. }) => {
                let name = |name: Bytes| String::from_utf8_lossy(&name).into_owned();
                Ok(cursors.into_iter().map(|(cursor, offset)| (name(cursor), offset)).collect())
            }
            (node, _) => Err(odd(node)),
        }
    }

    // ---- the topic itself ------------------------------------------------------------------

    /// Creates the topic. That it exists with the same options is no error.
    ///
    /// # Errors
    ///
    /// [`Error`]: [`Refusal::TopicExists`] if it has other options; with
    /// [`Effect::Unknown`](crate::Effect::Unknown) it may have been created.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not recall it: it may be done, or be done yet.
    pub async fn create(&self, options: TopicOptions) -> Result<TopicView, Error> {
        self.change_topic(&Command::Create { topic: self.name_bytes(), options }).await
    }

    /// Gives the topic other options, all of them. Records that are more than they want go at once,
    /// or soon if it is their age.
    ///
    /// # Errors
    ///
    /// [`Error`]; with [`Effect::Unknown`](crate::Effect::Unknown) it may have been done.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not recall it: it may be done, or be done yet.
    pub async fn configure(&self, options: TopicOptions) -> Result<TopicView, Error> {
        self.change_topic(&Command::Configure { topic: self.name_bytes(), options }).await
    }

    /// Removes the topic with all its records, cursors and groups. That there is none is no error.
    /// Tails of it end; a topic of the same name begins at offset 0.
    ///
    /// # Errors
    ///
    /// [`Error`]; with [`Effect::Unknown`](crate::Effect::Unknown) it may have been done.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not recall it: it may be done, or be done yet.
    pub async fn delete(&self) -> Result<(), Error> {
        self.done(&Command::Delete { topic: self.name_bytes() }).await
    }

    /// Removes the records below an offset, and returns the oldest that is kept from now on.
    ///
    /// # Errors
    ///
    /// [`Error`]; with [`Effect::Unknown`](crate::Effect::Unknown) it may have been done.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not recall it: it may be done, or be done yet.
    pub async fn trim(&self, before: u64) -> Result<u64, Error> {
        let command = Command::Trim { topic: self.name_bytes(), before };
        match self.change(&command).await? {
            (_, Answer::Offset(first)) => Ok(first),
            (node, _) => Err(odd(node)),
        }
    }

    /// What is known of the topic.
    ///
    /// # Errors
    ///
    /// [`Error`]: [`Refusal::TopicUnknown`] if there is none. It changes nothing.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn view(&self) -> Result<TopicView, Error> {
        let query = Query::Topic { topic: self.name_bytes() }.encode()?;
        match answered(self.client().await?.query(query).await?)? {
            (_, Answer::Topic(view)) => Ok(view),
            (node, _) => Err(odd(node)),
        }
    }

    // ---- for the other parts of the client -------------------------------------------------

    pub(in crate::log) fn name_bytes(&self) -> Bytes {
        Bytes::from(self.name.clone())
    }

    /// The client of the topic's group.
    pub(in crate::log) async fn client(&self) -> Result<&Client, Error> {
        self.client.get_or_try_init(|| self.log.client_of(&self.name)).await
    }

    /// The clock of the node that it is reached through.
    pub(in crate::log) fn clock(&self) -> Clock {
        self.log.node.clock()
    }

    pub(super) fn log(&self) -> &Log {
        &self.log
    }

    /// Has a command applied that is answered with no more than that.
    pub(super) async fn done(&self, command: &Command) -> Result<(), Error> {
        match self.change(command).await? {
            (_, Answer::Done) => Ok(()),
            (node, _) => Err(odd(node)),
        }
    }

    async fn change_topic(&self, command: &Command) -> Result<TopicView, Error> {
        match self.change(command).await? {
            (_, Answer::Topic(view)) => Ok(view),
            (node, _) => Err(odd(node)),
        }
    }

    async fn change(&self, command: &Command) -> Result<(NodeId, Answer), Error> {
        answered(self.client().await?.command(command.encode()?).await?)
    }

    pub(super) fn read_query(&self, id: u64, from: u64, limits: ReadLimits) -> Bytes {
        let ReadLimits { bytes: bytes_max, records: records_max } = limits;
        let query =
            Query::Read(Read { topic: self.name_bytes(), id, from, bytes_max, records_max });
        // A name that is none is refused by whoever is asked.
        query.encode().unwrap_or_default()
    }

    /// Asks the other replicas, if the leader came from a snapshot and lacks old records. What they
    /// have is the same.
    async fn read_elsewhere(&self, read: &Bytes) -> Result<Page, Error> {
        let client = self.client().await?;
        let mut last = ClientError::NoReplica.into();
        for replica in client.replicas() {
            match page(client.query_stale(&replica, read.clone()).await?) {
                Ok(page) => return Ok(page),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

impl Stored {
    /// Its key, if it has one.
    pub fn key(&self) -> Option<&Bytes> {
        self.record.key.as_ref()
    }

    /// Its content.
    pub fn value(&self) -> &Bytes {
        &self.record.value
    }
}

/// Bytes of the records, if they can be one batch.
fn check(records: &[Record]) -> Result<usize, Error> {
    if records.is_empty() || records.len() > crate::log::BATCH_RECORDS_MAX {
        return Err(InvalidRecord::Count.into());
    }
    let mut bytes = 0;
    for record in records {
        record.check()?;
        bytes += record.encoded_bytes();
    }
    if bytes > crate::log::BATCH_BYTES_MAX {
        Err(InvalidRecord::TooLarge.into())
    } else {
        Ok(bytes)
    }
}

/// What became of an append of `count` records that was applied.
fn appended(node: NodeId, applied: Applied, count: u64) -> Result<Appended, Error> {
    let (index, term, level) = (applied.index, applied.term, applied.level);
    match answered((node, applied))? {
        (_, Answer::Appended { first, .. }) => Ok(Appended { first, count, index, term, level }),
        (node, _) => Err(odd(node)),
    }
}

/// The page that a replica answered with.
pub(super) fn page(answer: (NodeId, Applied)) -> Result<Page, Error> {
    match answered(answer)? {
        (_, Answer::Records(page)) => Ok(page),
        (node, _) => Err(odd(node)),
    }
}

/// The records of a page from an offset on.
pub(super) fn stored(page: &Page, from: u64) -> Result<Vec<Stored>, Error> {
    let mut all = Vec::new();
    for batch in &page.batches {
        let Batch { base, timestamp, .. } = *batch;
        let records = (base..).zip(batch.decode()?);
        let wanted = records.filter(|(offset, _)| *offset >= from);
        all.extend(wanted.map(|(offset, record)| Stored { offset, timestamp, record }));
    }
    Ok(all)
}

fn full() -> ClientError {
    ClientError::Refused {
        code: ErrorCode::WouldBlock,
        message: "too many records wait to be appended".to_owned(),
    }
}

fn lost() -> ClientError {
    ClientError::Unknown {
        code: ErrorCode::ShuttingDown,
        message: "the runtime ended".to_owned(),
        command: None,
    }
}
