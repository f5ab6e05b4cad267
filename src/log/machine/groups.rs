//! Consumer groups as a part of the log: their commands, questions and alarms, with the topic that
//! they belong to.
//!
//! Pure.

use std::sync::Arc;

use bytes::Bytes;

use super::{CONSUMER_GROUPS_MAX, LogMachine};
use crate::log::command::Command;
use crate::log::groups::{
    AlarmChange, GroupAlarm, GroupCommand, GroupQuery, GroupResponse, Refusal as GroupRefusal,
};
use crate::log::refusal::Refusal;
use crate::log::topic::Topic;
use crate::replica::{Alarm, Effects};

impl LogMachine {
    pub(super) fn change_group(
        &mut self,
        index: u64,
        name: &Bytes,
        command: &[u8],
        effects: &mut Effects,
    ) -> Result<GroupResponse, Refusal> {
        let topic = self.topics.get_mut(name).ok_or(Refusal::TopicUnknown)?;
        let command = match GroupCommand::decode(command) {
            Ok(command) => command,
            Err(refusal) => return Ok(GroupResponse::Refused(refusal)),
        };
        let creates = matches!(command, GroupCommand::Create { .. } | GroupCommand::Join { .. });
        let is_new = creates && !topic.groups.contains(command.group());
        if is_new && self.groups >= CONSUMER_GROUPS_MAX {
            return Ok(GroupResponse::Refused(GroupRefusal::TooManyGroups));
        }
        let before = topic.groups.len();
        let (topic, mut changes) = (Arc::make_mut(topic), Vec::new());
        let response = topic.groups.apply(index, topic.bounds(), &command, &mut changes);
        self.groups = self.groups + topic.groups.len() - before;
        for change in changes {
            match change {
                AlarmChange::Clear(id) => effects.clear_alarm(id),
                AlarmChange::Set(of) => alarm(name, of).into_iter().for_each(|alarm| {
                    effects.set_alarm(alarm);
                }),
            }
        }
        Ok(response)
    }

    /// A topic goes, and its groups with it.
    pub(super) fn forget_groups(&mut self, topic: &Topic, effects: &mut Effects) {
        self.groups -= topic.groups.len();
        topic.groups.alarms().for_each(|alarm| effects.clear_alarm(alarm.id));
    }

    pub(super) fn answer_group(
        &self,
        topic: &Bytes,
        query: &[u8],
    ) -> Result<GroupResponse, Refusal> {
        let topic = self.topics.get(topic).ok_or(Refusal::TopicUnknown)?;
        let answer = GroupQuery::decode(query);
        let answer = answer.map(|query| topic.groups.query(topic.bounds(), &query));
        Ok(answer.unwrap_or_else(GroupResponse::Refused))
    }

    /// Whether a question about a group has to wait; a topic that is not there may be one that this
    /// replica does not have yet.
    pub(super) fn group_waits(&self, topic: &Bytes, query: &[u8]) -> bool {
        match (GroupQuery::decode(query), self.topics.get(topic)) {
            (Ok(query), Some(topic)) => topic.groups.poll_query(topic.bounds(), &query).is_none(),
            (Ok(query), None) => matches!(query, GroupQuery::Ready { .. }),
            (Err(_), _) => false,
        }
    }

    pub(super) fn group_alarms(&self) -> impl Iterator<Item = Alarm> {
        let topics = self.topics.iter();
        topics.flat_map(|(name, topic)| {
            topic.groups.alarms().filter_map(|of| alarm(name, of)).collect::<Vec<_>>()
        })
    }
}

/// The clock of the log has the alarm 0; groups have others, since no entry has the index 0.
fn alarm(topic: &Bytes, alarm: GroupAlarm) -> Option<Alarm> {
    let command = Command::Group { topic: topic.clone(), command: alarm.command.encode() };
    let command = command.encode().ok()?;
    Some(Alarm { id: alarm.id, after: alarm.after, command })
}
