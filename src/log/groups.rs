//! Groups of consumers: several members share the work of a topic.
//!
//! Each record goes to one member at a time. It is delivered again, to whoever asks first, when it
//! is not acknowledged in time, when its member leaves or falls silent, or when its member says that
//! it failed; and it becomes a dead letter when it was tried often enough. So a record is worked on
//! at least once, and more than once if a worker was lost between the work and its acknowledgement:
//! work must be idempotent. The idea is that of JetStream's pull consumers and of Kafka's share
//! groups; the state is replicated like the records themselves, so it survives what they survive.
//!
//! The machine of the log has one [`Groups`] for each topic, and gives it the commands that its own
//! carry. The records stay where they are: a group knows offsets.
//!
//! Pure and deterministic: no clock, equal commands give equal states and equal snapshots. Time
//! comes as [alarms](GroupAlarm), of which a group has at most two, and only while it needs them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::replica::InvalidSnapshot;

mod client;
mod command;
mod delivery;
mod error;
mod fields;
mod group;
mod member;
mod options;
mod refusal;
mod response;
mod snapshot;
mod wheel;

pub use client::Group;
pub use command::{GroupCommand, GroupQuery};
pub use delivery::Delivery;
pub use error::GroupError;
pub use member::{Member, MemberBuilder};
pub use options::{
    BATCH_MAX, Bounds, GROUPS_MAX, GroupOptions, MEMBERS_MAX, PENDING_MAX, Start, TIMEOUT_MAX,
    TIMEOUT_MIN,
};
pub use refusal::Refusal;
pub use response::{
    Counts, DeadLetter, Delivered, GroupResponse, GroupStatus, InvalidGroupResponse, MemberStatus,
    Outcome, Settlement, Verdict,
};
pub use wheel::WheelKind;

use group::State;

type GroupMap = BTreeMap<String, Arc<State>>;

/// The groups of one topic. Cheap to clone, so that a snapshot does not stop commands.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Groups {
    /// Shared with clones until they change.
    groups: GroupMap,
}

/// Something that a group wants to be told when time has passed: see
/// [`Alarm`](crate::replica::Alarm), which the machine makes of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GroupAlarm {
    /// Tells the alarms of all groups of a log apart: the index at which the group was created,
    /// times two, and one more for the second.
    pub id: u64,
    /// After how long.
    pub after: Duration,
    /// What is to be applied then.
    pub command: GroupCommand,
}

/// What a command changed about alarms.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AlarmChange {
    /// The alarm of this id is not wanted any more.
    Clear(u64),
    /// The alarm is set; the one with its id, if there is one, is replaced and counts anew.
    Set(GroupAlarm),
}

impl Groups {
    /// A topic without groups.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many groups there are.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Applies a command that stands at `index` of the log, for a topic that has the records
    /// `bounds`. Alarms that it set or cleared are added to `alarms`.
    pub fn apply(
        &mut self,
        index: u64,
        bounds: Bounds,
        command: &GroupCommand,
        alarms: &mut Vec<AlarmChange>,
    ) -> GroupResponse {
        let before = self.alarms_of(command.group());
        let response = self.change(index, bounds, command);
        compare(&before, &self.alarms_of(command.group()), alarms);
        response.into()
    }

    /// Answers a question.
    pub fn query(&self, bounds: Bounds, query: &GroupQuery) -> GroupResponse {
        self.answer(bounds, query).into()
    }

    /// Answers a question that waits for something to happen; none as long as it has not. A
    /// replica that lags may not know yet who asks.
    pub fn poll_query(&self, bounds: Bounds, query: &GroupQuery) -> Option<GroupResponse> {
        let response = self.query(bounds, query);
        let waits = matches!(query, GroupQuery::Ready { .. })
            && matches!(
                response,
                GroupResponse::Ready(false)
                    | GroupResponse::Refused(Refusal::NoGroup | Refusal::NotMember)
            );
        (!waits).then_some(response)
    }

    /// Whether there is such a group.
    pub fn contains(&self, name: &str) -> bool {
        self.groups.contains_key(name)
    }

    /// The topic has forgotten what lies below `first`. Commands and questions tell it as well; so
    /// this only makes room sooner.
    pub fn trim(&mut self, first: u64, alarms: &mut Vec<AlarmChange>) {
        for (name, group) in &mut self.groups {
            let before = alarms_of(name, group);
            Arc::make_mut(group).trim(first);
            compare(&before, &alarms_of(name, group), alarms);
        }
    }

    /// All alarms that are set: for a replica that begins to lead, or for a topic that goes.
    pub fn alarms(&self) -> impl Iterator<Item = GroupAlarm> {
        self.groups.iter().flat_map(|(name, group)| alarms_of(name, group))
    }

    /// All groups as bytes; equal groups give equal bytes.
    pub fn encode(&self) -> Bytes {
        snapshot::encode(&self.groups)
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    ///
    /// [`InvalidSnapshot`]: the bytes are something else, or groups that cannot be.
    pub fn decode(bytes: &[u8]) -> Result<Self, InvalidSnapshot> {
        snapshot::decode(bytes)
    }

    fn change(
        &mut self,
        index: u64,
        bounds: Bounds,
        command: &GroupCommand,
    ) -> Result<GroupResponse, Refusal> {
        match command {
            GroupCommand::Create { group, start, options } => {
                self.create(index, bounds, group, *start, *options)?;
            }
            GroupCommand::Delete { group } => drop(self.groups.remove(group)),
            GroupCommand::Drop { group, offsets } => {
                return Ok(GroupResponse::Settled(self.group(group)?.drop_dead(offsets)));
            }
            GroupCommand::Fetch { group, member, max } => {
                let records = self.group(group)?.fetch(*member, *max, bounds)?;
                return Ok(GroupResponse::Fetched(records));
            }
            GroupCommand::Join { group, name } => {
                if !self.groups.contains_key(group) {
                    self.create(index, bounds, group, Start::First, GroupOptions::default())?;
                }
                let group = self.group(group)?;
                group.join(index, name)?;
                return Ok(GroupResponse::Joined { member: index, options: group.options });
            }
            GroupCommand::KeepAlive { group, member } => self.group(group)?.keep_alive(*member)?,
            GroupCommand::Leave { group, member } => self.group(group)?.leave(*member),
            GroupCommand::Requeue { group, offsets } => {
                let outcomes = self.group(group)?.requeue(offsets, bounds);
                return Ok(GroupResponse::Settled(outcomes));
            }
            GroupCommand::Settle { group, member, verdict, deliveries } => {
                let outcomes = self.group(group)?.settle(*member, *verdict, deliveries, bounds);
                return Ok(GroupResponse::Settled(outcomes));
            }
            GroupCommand::Tick { group, id, wheel, round } => {
                // It may be another group by now, or none.
                if let Some(group) = self.groups.get_mut(group).filter(|group| group.id == *id) {
                    Arc::make_mut(group).tick(*wheel, *round, bounds);
                }
            }
        }
        Ok(GroupResponse::Done)
    }

    fn create(
        &mut self,
        index: u64,
        bounds: Bounds,
        name: &str,
        start: Start,
        options: GroupOptions,
    ) -> Result<(), Refusal> {
        match self.groups.get(name) {
            Some(group) if group.options == options => Ok(()),
            Some(_) => Err(Refusal::Differs),
            None if self.groups.len() >= GROUPS_MAX => Err(Refusal::TooManyGroups),
            None => {
                let group = State::new(index, options, start.resolve(bounds));
                self.groups.insert(name.to_owned(), Arc::new(group));
                Ok(())
            }
        }
    }

    fn answer(&self, bounds: Bounds, query: &GroupQuery) -> Result<GroupResponse, Refusal> {
        let find = |name: &String| self.groups.get(name).ok_or(Refusal::NoGroup);
        let page = |max: u32| usize::try_from(max).map_or(BATCH_MAX, |max| max.min(BATCH_MAX));
        Ok(match query {
            GroupQuery::Dead { group, from, max } => {
                GroupResponse::Dead(find(group)?.dead_letters(*from.max(&bounds.first), page(*max)))
            }
            GroupQuery::Groups { after, max } => {
                let after = std::ops::Bound::Excluded(after.clone());
                let groups = self.groups.range((after, std::ops::Bound::Unbounded));
                let groups = groups.take(page(*max));
                GroupResponse::Groups(
                    groups.map(|(name, group)| group.status(name, bounds)).collect(),
                )
            }
            GroupQuery::Members { group, from, max } => {
                GroupResponse::Members(find(group)?.members(*from, page(*max)))
            }
            GroupQuery::Ready { group, member } => {
                GroupResponse::Ready(find(group)?.is_ready(*member, bounds)?)
            }
            GroupQuery::Status { group } => {
                GroupResponse::Status(Box::new(find(group)?.status(group, bounds)))
            }
        })
    }

    fn group(&mut self, name: &str) -> Result<&mut State, Refusal> {
        self.groups.get_mut(name).map(Arc::make_mut).ok_or(Refusal::NoGroup)
    }

    fn alarms_of(&self, name: &str) -> Vec<GroupAlarm> {
        self.groups.get(name).map_or_else(Vec::new, |group| alarms_of(name, group))
    }
}

fn alarms_of(name: &str, group: &State) -> Vec<GroupAlarm> {
    let alarm = |(wheel, round, after): (WheelKind, u64, Duration)| GroupAlarm {
        id: group.id * 2 + u64::from(wheel.number()),
        after,
        command: GroupCommand::Tick { group: name.to_owned(), id: group.id, wheel, round },
    };
    group.wheels().map(alarm).collect()
}

/// A round has a number of its own, so an alarm that is the same counts on.
fn compare(before: &[GroupAlarm], after: &[GroupAlarm], changes: &mut Vec<AlarmChange>) {
    let cleared = before.iter().filter(|old| !after.iter().any(|new| new.id == old.id));
    changes.extend(cleared.map(|old| AlarmChange::Clear(old.id)));
    let set = after.iter().filter(|new| !before.contains(new));
    changes.extend(set.cloned().map(AlarmChange::Set));
}

#[cfg(test)]
mod tests;
