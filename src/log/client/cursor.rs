//! Shell: A durable place in a topic.

use bytes::Bytes;

use super::topic::Topic;
use super::{answered, odd};
use crate::log::answer::Answer;
use crate::log::command::{Command, Expected};
use crate::log::error::Error;
use crate::log::query::Query;

/// A named offset that is replicated with the topic: where a reader goes on after a restart,
/// wherever that is. The idea is Liftbridge's.
///
/// A cursor is what its owner puts there and nothing else: storing one does not acknowledge
/// anything, reading does not move it, and records are not kept for it. Store the offset of the
/// next record to be read, after what was read has been dealt with. A topic has up to 1,024 of
/// them.
#[derive(Clone, Debug)]
pub struct Cursor {
    topic: Topic,
    name: Bytes,
}

impl Cursor {
    pub(super) fn new(topic: Topic, name: String) -> Self {
        Self { topic, name: name.into() }
    }

    /// Where it is; none if it was never stored, or was cleared. Sees every store that was
    /// acknowledged before the call.
    ///
    /// # Errors
    ///
    /// [`Error`], with [`Refusal::TopicUnknown`](crate::log::Refusal) if there is no topic. It
    /// changes nothing.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn load(&self) -> Result<Option<u64>, Error> {
        let query = Query::Cursor { topic: self.topic.name_bytes(), cursor: self.name.clone() };
        let client = self.topic.client().await?;
        match answered(client.query(query.encode()?).await?)? {
            (_, Answer::Cursor(offset)) => Ok(offset),
            (node, _) => Err(odd(node)),
        }
    }

    /// Puts it at an offset, wherever it was. Returns once that is on the disks of a quorum.
    ///
    /// # Errors
    ///
    /// [`Error`]; with [`Effect::Unknown`](crate::Effect::Unknown) it may have been done, or may be
    /// done yet. To store it again is safe.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not recall it.
    pub async fn store(&self, offset: u64) -> Result<(), Error> {
        self.set(Expected::Any, offset).await
    }

    /// As [`store`](Self::store), if it is at `expected`, or if it is absent and none is expected:
    /// so two readers that use the same cursor find out.
    ///
    /// # Errors
    ///
    /// As [`store`](Self::store); [`Refusal::CursorMismatch`](crate::log::Refusal) says where it
    /// is.
    ///
    /// # Cancel safety
    ///
    /// As [`store`](Self::store).
    pub async fn store_if(&self, expected: Option<u64>, offset: u64) -> Result<(), Error> {
        self.set(expected.map_or(Expected::Absent, Expected::Offset), offset).await
    }

    /// Removes it. That there is none is no error.
    ///
    /// # Errors
    ///
    /// As [`store`](Self::store).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not recall it: it may be done, or be done yet.
    pub async fn clear(&self) -> Result<(), Error> {
        let topic = self.topic.name_bytes();
        self.topic.done(&Command::ClearCursor { topic, cursor: self.name.clone() }).await
    }

    async fn set(&self, expected: Expected, offset: u64) -> Result<(), Error> {
        let (topic, cursor) = (self.topic.name_bytes(), self.name.clone());
        self.topic.done(&Command::SetCursor { topic, cursor, expected, offset }).await
    }
}
