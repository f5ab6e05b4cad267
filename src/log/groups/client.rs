//! Shell: A group of consumers as a program uses it: through any node that is linked to a replica.

use bytes::Bytes;

use super::command::{GroupCommand, GroupQuery};
use super::error::GroupError;
use super::member::MemberBuilder;
use super::options::{BATCH_MAX, GROUPS_MAX, GroupOptions, Start};
use super::response::{DeadLetter, GroupResponse, GroupStatus, MemberStatus, Outcome};
use crate::id::NodeId;
use crate::log::{Answer, Command, Error, Query, Topic};
use crate::replica::{Applied, ClientError};

/// Rows that are asked for at once.
#[expect(clippy::cast_possible_truncation, reason = "it is a small constant")]
const PAGE: u32 = BATCH_MAX as u32;

/// A handle to a group of a topic; made by [`Topic::group`]. Clones are cheap.
#[derive(Clone, Debug)]
pub struct Group {
    topic: Topic,
    name: String,
}

impl Group {
    pub(in crate::log) fn new(topic: Topic, name: String) -> Self {
        Self { topic, name }
    }

    /// The topic whose records it hands out.
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// All groups of a topic.
    pub(in crate::log) async fn all(topic: &Topic) -> Result<Vec<GroupStatus>, GroupError> {
        let any = Self::new(topic.clone(), String::new());
        // A topic has no more than fit into one page.
        const _: () = assert!(GROUPS_MAX <= BATCH_MAX);
        match any.query(&GroupQuery::Groups { after: String::new(), max: PAGE }).await? {
            (_, GroupResponse::Groups(groups)) => Ok(groups),
            (node, _) => Err(invalid(node)),
        }
    }

    /// The name of the group.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes the group, and the topic, if there is none. That the group is there already with the
    /// same options is no error, and then it stays where it is.
    ///
    /// # Errors
    ///
    /// [`GroupError`]; with [`Refusal::Differs`](super::Refusal::Differs) it has other options.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not recall it: it may be done, or be done yet.
    pub async fn create(&self, start: Start, options: GroupOptions) -> Result<(), GroupError> {
        let group = self.name.clone();
        self.done(&GroupCommand::Create { group, start, options }).await
    }

    /// Removes the group with all that is known of it; the records stay. That there is none is no
    /// error.
    ///
    /// # Errors
    ///
    /// [`GroupError`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not recall it: it may be done, or be done yet.
    pub async fn delete(&self) -> Result<(), GroupError> {
        self.done(&GroupCommand::Delete { group: self.name.clone() }).await
    }

    /// Begins to join the group under a name of letters, digits, `.`, `_` and `-`. A group that is
    /// not there is created with default options. Who joins under a name that is taken takes the
    /// place of that member.
    pub fn member(&self, name: impl Into<String>) -> MemberBuilder {
        MemberBuilder::new(self.clone(), name.into())
    }

    /// How the group is doing.
    ///
    /// # Errors
    ///
    /// [`GroupError`]; a question changes nothing.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn status(&self) -> Result<GroupStatus, GroupError> {
        match self.query(&GroupQuery::Status { group: self.name.clone() }).await? {
            (_, GroupResponse::Status(status)) => Ok(*status),
            (node, _) => Err(invalid(node)),
        }
    }

    /// Who is in the group, in the order in which they joined.
    ///
    /// # Errors
    ///
    /// [`GroupError`]; a question changes nothing.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn members(&self) -> Result<Vec<MemberStatus>, GroupError> {
        let mut members: Vec<MemberStatus> = Vec::new();
        loop {
            let from = members.last().map_or(0, |last| last.id + 1);
            let group = self.name.clone();
            match self.query(&GroupQuery::Members { group, from, max: PAGE }).await? {
                (_, GroupResponse::Members(page)) if page.is_empty() => return Ok(members),
                (_, GroupResponse::Members(page)) => members.extend(page),
                (node, _) => return Err(invalid(node)),
            }
        }
    }

    /// The dead letters from an offset on, at most [`BATCH_MAX`]. The records themselves are where
    /// they always were, in the topic.
    ///
    /// # Errors
    ///
    /// [`GroupError`]; a question changes nothing.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn dead_letters(&self, from: u64) -> Result<Vec<DeadLetter>, GroupError> {
        let group = self.name.clone();
        match self.query(&GroupQuery::Dead { group, from, max: PAGE }).await? {
            (_, GroupResponse::Dead(dead)) => Ok(dead),
            (node, _) => Err(invalid(node)),
        }
    }

    /// Has dead letters tried again, as often as a new record; at most [`BATCH_MAX`] at once. Says
    /// of each whether it is done.
    ///
    /// # Errors
    ///
    /// [`GroupError`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not recall it: it may be done, or be done yet.
    pub async fn requeue(&self, offsets: &[u64]) -> Result<Vec<Outcome>, GroupError> {
        let (group, offsets) = (self.name.clone(), offsets.to_vec());
        self.settled(&GroupCommand::Requeue { group, offsets }).await
    }

    /// Gives dead letters up, at most [`BATCH_MAX`] at once; the records stay. Says of each whether
    /// it is done.
    ///
    /// # Errors
    ///
    /// [`GroupError`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not recall it: it may be done, or be done yet.
    pub async fn drop_dead(&self, offsets: &[u64]) -> Result<Vec<Outcome>, GroupError> {
        let (group, offsets) = (self.name.clone(), offsets.to_vec());
        self.settled(&GroupCommand::Drop { group, offsets }).await
    }

    pub(super) async fn command(
        &self,
        command: &GroupCommand,
    ) -> Result<(NodeId, GroupResponse), GroupError> {
        let command = Command::Group { topic: self.topic.name_bytes(), command: command.encode() };
        let bytes = command.encode().map_err(Error::from)?;
        answered(self.topic.client().await?.command(bytes).await)
    }

    pub(super) async fn done(&self, command: &GroupCommand) -> Result<(), GroupError> {
        match self.command(command).await? {
            (_, GroupResponse::Done) => Ok(()),
            (node, _) => Err(invalid(node)),
        }
    }

    pub(super) async fn settled(&self, command: &GroupCommand) -> Result<Vec<Outcome>, GroupError> {
        match self.command(command).await? {
            (_, GroupResponse::Settled(outcomes)) => Ok(outcomes),
            (node, _) => Err(invalid(node)),
        }
    }

    /// Waits until there is something for a member, or nearly all of the timeout has passed.
    pub(super) async fn ready(&self, member: u64) -> Result<bool, GroupError> {
        let query = self.wrap(&GroupQuery::Ready { group: self.name.clone(), member })?;
        match answered(self.topic.client().await?.wait(query).await)? {
            (_, GroupResponse::Ready(is_ready)) => Ok(is_ready),
            (node, _) => Err(invalid(node)),
        }
    }

    async fn query(&self, query: &GroupQuery) -> Result<(NodeId, GroupResponse), GroupError> {
        answered(self.topic.client().await?.query(self.wrap(query)?).await)
    }

    fn wrap(&self, query: &GroupQuery) -> Result<Bytes, GroupError> {
        let query = Query::Group { topic: self.topic.name_bytes(), query: query.encode() };
        Ok(query.encode().map_err(Error::from)?)
    }
}

/// What the group says, if it does not refuse.
fn answered(
    answer: Result<(NodeId, Applied), ClientError>,
) -> Result<(NodeId, GroupResponse), GroupError> {
    let (node, applied) = answer.map_err(Error::from)?;
    match Answer::decode(&applied.response) {
        Ok(Answer::Group(response)) => match GroupResponse::decode(&response) {
            Ok(GroupResponse::Refused(refusal)) => Err(refusal.into()),
            Ok(response) => Ok((node, response)),
            Err(_) => Err(invalid(node)),
        },
        Ok(Answer::Refused(refusal)) => Err(Error::from(refusal).into()),
        Ok(_) | Err(_) => Err(invalid(node)),
    }
}

pub(super) fn invalid(node: NodeId) -> GroupError {
    Error::from(ClientError::InvalidAnswer { node }).into()
}
