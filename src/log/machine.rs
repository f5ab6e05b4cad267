//! The state of one group of topics.
//!
//! Pure and deterministic: equal commands give equal states, and equal states equal snapshots. The
//! machine has no record: they stay in the replicated log, which is the only copy, and the machine
//! knows where ([`Topic`]). Time comes as a command only: the clock that ages are counted by is a
//! number of seconds that the leader's alarm lets go on, so no clock of the wall can make it jump,
//! and as long as nobody leads it stands still.
//!
//! Invariant: what is derived (`floors`, `ages`, `cursors`, `consumer_groups`) is what the topics
//! say.

use std::collections::BTreeMap;
use std::io::Read as Input;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::ages::Ages;
use super::answer::{Answer, Batch, TopicView};
use super::carry::{Carry, Part};
use super::command::{Append, Command, Expected};
use super::extent::Extent;
use super::groups::{AlarmChange, GroupAlarm, GroupCommand, GroupQuery, GroupResponse};
use super::options::TopicOptions;
use super::query::{Query, Read};
use super::record;
use super::refusal::Refusal;
use super::topic::{Place, Topic};
use super::{scan, snapshot};
use crate::replica::{Alarm, Effects, Image, InvalidSnapshot, Machine, Past};

mod rounds;

/// Topics that one group may have.
pub const TOPICS_MAX: usize = 100_000;
/// Cursors that one topic may have.
pub const TOPIC_CURSORS_MAX: usize = 1_024;
/// Cursors that all topics of one group may have together.
pub const CURSORS_MAX: usize = 100_000;
/// Groups of consumers that all topics of one group of topics may have together.
pub const CONSUMER_GROUPS_MAX: usize = 10_000;
/// Rows of one page of topics or cursors.
pub const PAGE_ROWS_MAX: u16 = 1_000;

/// The longest step of the clock, in seconds.
pub(super) const STEP_MAX: u32 = 10;
/// Steps of the clock in the shortest age, if they are no shorter than a second.
const STEPS_IN_AGE: u32 = 8;
/// The alarm of the clock.
const CLOCK_ALARM: u64 = 0;

/// The topics of one group. See the [module](super).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LogMachine {
    /// Shared with images that are being written.
    pub(super) topics: BTreeMap<Bytes, Arc<Topic>>,
    /// Seconds for which there was a leader, while there were ages to be counted.
    pub(super) clock: u32,
    /// Bytes of all commands.
    extent: Extent,
    /// The lowest entry of each topic that has records, with the topic's id, and its name.
    floors: BTreeMap<(u64, u64), Bytes>,
    /// Bytes of all records that are kept.
    bytes: u64,
    /// The topics for which time counts, and the shortest time of each, in seconds.
    ages: Ages,
    /// Cursors of all topics.
    cursors: usize,
    /// Groups of consumers of all topics.
    consumer_groups: usize,
}

impl LogMachine {
    /// A group without topics.
    pub fn new() -> Self {
        Self::default()
    }

    /// Topics that there are.
    pub fn len(&self) -> usize {
        self.topics.len()
    }

    /// Whether there is no topic.
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// What is known of a topic.
    pub fn topic(&self, name: &[u8]) -> Option<TopicView> {
        self.topics.get(name).map(|topic| topic.view())
    }

    /// A state with these topics; what is derived from them is as it has to be.
    pub(super) fn from_parts(
        topics: BTreeMap<Bytes, Arc<Topic>>,
        clock: u32,
        extent: Extent,
    ) -> Self {
        let floor = |(name, topic): (&Bytes, &Arc<Topic>)| {
            topic.floor().map(|floor| ((floor, topic.id), name.clone()))
        };
        let floors = topics.iter().filter_map(floor).collect();
        let bytes = topics.values().map(|topic| topic.bytes).fold(0, u64::saturating_add);
        let mut ages = Ages::default();
        topics.iter().for_each(|(name, topic)| ages.set(name, topic.options.shortest_seconds()));
        let cursors = topics.values().map(|topic| topic.cursors.len()).sum();
        let consumer_groups = topics.values().map(|topic| topic.groups.len()).sum();
        Self { topics, clock, extent, floors, bytes, ages, cursors, consumer_groups }
    }

    fn change(&mut self, index: u64, command: Command, effects: &mut Effects) -> Changed {
        match command {
            Command::Append(append) => self.append(index, append),
            Command::Carry(parts) => Ok(self.carry(index, &parts)),
            Command::ClearCursor { topic, cursor } => self.clear_cursor(&topic, &cursor),
            Command::Clock { seen, step } => Ok(self.advance(seen, step, effects)),
            Command::Compact(step) => self.compact(index, step),
            Command::Configure { topic, options } => self.configure(&topic, options, effects),
            Command::Create { topic, options } => self.create(index, &topic, options, effects),
            Command::Delete { topic } => Ok(self.delete(&topic, effects)),
            Command::Group { topic, command } => self.group(index, &topic, &command, effects),
            Command::SetCursor { topic, cursor, expected, offset } => {
                self.set_cursor(&topic, &cursor, expected, offset)
            }
            Command::Trim { topic, before } => self.trim(&topic, before, effects),
        }
    }

    fn append(&mut self, index: u64, append: Append) -> Changed {
        let Append { topic: name, expected, must_exist, timestamp, count, records } = append;
        let (options, next) = match self.topics.get(&name) {
            Some(topic) => (topic.options, topic.next),
            None if must_exist => return Err(Refusal::TopicUnknown),
            None => (TopicOptions::default(), 0),
        };
        let limit = u64::from(options.record_bytes_max);
        let mut largest = 0;
        let mut all_have_keys = true;
        record::walk(&records, count, |record| {
            largest = largest.max(record.bytes() as u64);
            all_have_keys &= record.key.is_some();
        })?;
        if largest > limit {
            return Err(Refusal::TooLarge { limit });
        }
        if options.compaction.is_some() && !all_have_keys {
            return Err(Refusal::KeyMissing);
        }
        // The offsets of one topic last for longer than anything else.
        let Some(end) = next.checked_add(u64::from(count)) else { return Err(Refusal::Records) };
        if expected.is_some_and(|expected| expected != next) {
            return Err(Refusal::OffsetMismatch { current: next });
        }
        if !self.topics.contains_key(&name) {
            self.insert(index, &name, options)?;
        }
        let stamp = self.clock.saturating_add(self.step().unwrap_or(STEP_MAX));
        let place = Place { index, position: self.extent.position(), stamp };
        let batch = Batch { base: next, timestamp, count, records };
        let id = self.with(&name, |topic| {
            topic.append(place, &batch);
            topic.id
        })?;
        Ok(Answer::Appended { id, first: next, next: end })
    }

    /// A new topic; whether it has a place here was not looked at.
    fn insert(&mut self, index: u64, name: &Bytes, options: TopicOptions) -> Result<(), Refusal> {
        if self.topics.len() >= TOPICS_MAX {
            return Err(Refusal::TopicsFull { limit: TOPICS_MAX as u64 });
        }
        // Copies: the command is a slice of a frame, which would live as long as the topic.
        let name = Bytes::copy_from_slice(name);
        self.topics.insert(name, Arc::new(Topic::new(index, options)));
        Ok(())
    }

    fn create(
        &mut self,
        index: u64,
        name: &Bytes,
        options: TopicOptions,
        effects: &mut Effects,
    ) -> Changed {
        match self.topics.get(name) {
            Some(topic) if topic.options != options => return Err(Refusal::TopicExists),
            Some(_) => {}
            None => {
                self.insert(index, name, options)?;
                self.count_age(name, options, effects);
            }
        }
        self.topic(name).map(Answer::Topic).ok_or(Refusal::TopicUnknown)
    }

    fn configure(&mut self, name: &Bytes, options: TopicOptions, effects: &mut Effects) -> Changed {
        let view = self.with(name, |topic| {
            topic.options = options;
            topic.round = topic.round.filter(|_| options.compaction.is_some());
            topic.trim_to_size();
            topic.view()
        })?;
        self.count_age(name, options, effects);
        Ok(Answer::Topic(view))
    }

    fn delete(&mut self, name: &Bytes, effects: &mut Effects) -> Answer {
        if let Some(topic) = self.topics.remove(name) {
            if let Some(floor) = topic.floor() {
                self.floors.remove(&(floor, topic.id));
            }
            self.bytes = self.bytes.saturating_sub(topic.bytes);
            self.cursors -= topic.cursors.len();
            self.consumer_groups -= topic.groups.len();
            topic.groups.alarms().for_each(|alarm| effects.clear_alarm(alarm.id));
            let options = TopicOptions { age: None, compaction: None, ..topic.options };
            self.count_age(name, options, effects);
        }
        Answer::Done
    }

    fn trim(&mut self, name: &Bytes, before: u64, effects: &mut Effects) -> Changed {
        let mut alarms = Vec::new();
        let first = self.with(name, |topic| {
            topic.trim(before);
            topic.groups.trim(topic.first, &mut alarms);
            topic.first
        })?;
        take_alarms(name, alarms, effects);
        Ok(Answer::Offset(first))
    }

    fn group(
        &mut self,
        index: u64,
        name: &Bytes,
        command: &Bytes,
        effects: &mut Effects,
    ) -> Changed {
        let command = match GroupCommand::decode(command) {
            Ok(command) => command,
            Err(refusal) => return Ok(Answer::Group(GroupResponse::Refused(refusal).encode())),
        };
        let begins = matches!(command, GroupCommand::Create { .. } | GroupCommand::Join { .. });
        let is_new = begins && !self.topics.contains_key(name);
        if begins && self.consumer_groups >= CONSUMER_GROUPS_MAX && !self.has_group(name, &command)
        {
            return Err(Refusal::GroupsFull { limit: CONSUMER_GROUPS_MAX as u64 });
        }
        if is_new {
            self.insert(index, name, TopicOptions::default())?;
        }
        let topic = Arc::make_mut(self.topics.get_mut(name).ok_or(Refusal::TopicUnknown)?);
        let (mut alarms, before) = (Vec::new(), topic.groups.len());
        let response = topic.groups.apply(index, topic.bounds(), &command, &mut alarms);
        self.consumer_groups = self.consumer_groups - before + topic.groups.len();
        if is_new && matches!(response, GroupResponse::Refused(_)) {
            self.topics.remove(name);
        }
        take_alarms(name, alarms, effects);
        Ok(Answer::Group(response.encode()))
    }

    fn has_group(&self, name: &Bytes, command: &GroupCommand) -> bool {
        self.topics.get(name).is_some_and(|topic| topic.groups.contains(command.group()))
    }

    fn set_cursor(
        &mut self,
        name: &Bytes,
        cursor: &Bytes,
        expected: Expected,
        offset: u64,
    ) -> Changed {
        let topic = self.topics.get_mut(name).ok_or(Refusal::TopicUnknown)?;
        let current = topic.cursors.get(cursor).copied();
        match (expected, current) {
            (Expected::Absent, Some(current)) => return Err(Refusal::CursorMismatch { current }),
            (Expected::Offset(_), None) => return Err(Refusal::CursorMissing),
            (Expected::Offset(expected), Some(current)) if expected != current => {
                return Err(Refusal::CursorMismatch { current });
            }
            (Expected::Any | Expected::Absent | Expected::Offset(_), _) => {}
        }
        if current.is_none() {
            for (has, limit) in
                [(topic.cursors.len(), TOPIC_CURSORS_MAX), (self.cursors, CURSORS_MAX)]
            {
                if has >= limit {
                    return Err(Refusal::CursorsFull { limit: limit as u64 });
                }
            }
            self.cursors += 1;
        }
        Arc::make_mut(topic).cursors.insert(Bytes::copy_from_slice(cursor), offset);
        Ok(Answer::Done)
    }

    fn clear_cursor(&mut self, name: &Bytes, cursor: &Bytes) -> Changed {
        let topic = self.topics.get_mut(name).ok_or(Refusal::TopicUnknown)?;
        if topic.cursors.contains_key(cursor) {
            Arc::make_mut(topic).cursors.remove(cursor);
            self.cursors -= 1;
        }
        Ok(Answer::Done)
    }

    /// Lets the clock go on, unless it has done so since the time began to count.
    fn advance(&mut self, seen: u32, step: u32, effects: &mut Effects) -> Answer {
        if seen == self.clock {
            self.clock = self.clock.saturating_add(step.min(STEP_MAX));
            let due = self.topics.iter().filter(|(_, topic)| topic.is_due(self.clock));
            for name in due.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
                self.expire(&name, effects);
            }
        }
        self.set_clock(effects);
        Answer::Done
    }

    fn expire(&mut self, name: &Bytes, effects: &mut Effects) {
        let (clock, mut alarms) = (self.clock, Vec::new());
        let expired = self.with(name, |topic| {
            topic.trim_to_age(clock);
            topic.groups.trim(topic.first, &mut alarms);
        });
        if expired.is_ok() {
            take_alarms(name, alarms, effects);
        }
    }

    /// Takes note of the age that a topic has from now on.
    fn count_age(&mut self, name: &Bytes, options: TopicOptions, effects: &mut Effects) {
        let before = self.step();
        self.ages.set(name, options.shortest_seconds());
        if self.step() != before {
            self.set_clock(effects);
        }
    }

    fn set_clock(&self, effects: &mut Effects) {
        match self.clock_alarm() {
            Some(alarm) => effects.set_alarm(alarm),
            None => effects.clear_alarm(CLOCK_ALARM),
        }
    }

    fn clock_alarm(&self) -> Option<Alarm> {
        let step = self.step()?;
        let command = Command::Clock { seen: self.clock, step }.encode().ok()?;
        Some(Alarm { id: CLOCK_ALARM, after: Duration::from_secs(step.into()), command })
    }

    /// By how much the clock goes on at once; none if nobody needs it.
    fn step(&self) -> Option<u32> {
        self.ages.shortest().map(|age| (age / STEPS_IN_AGE).clamp(1, STEP_MAX))
    }

    /// Changes a topic, and takes note of where its records begin from now on.
    fn with<T>(
        &mut self,
        name: &Bytes,
        change: impl FnOnce(&mut Topic) -> T,
    ) -> Result<T, Refusal> {
        let topic = self.topics.get_mut(name).ok_or(Refusal::TopicUnknown)?;
        let (before, bytes) = (topic.floor(), topic.bytes);
        let changed = change(Arc::make_mut(topic));
        let after = topic.floor();
        self.bytes = self.bytes.saturating_sub(bytes).saturating_add(topic.bytes);
        let id = topic.id;
        if before != after {
            before.map(|floor| self.floors.remove(&(floor, id)));
            // The name that was given may be a slice of a frame, which would live as long.
            let kept = self.topics.get_key_value(name).map(|(kept, _)| kept.clone());
            if let (Some(floor), Some(kept)) = (after, kept) {
                self.floors.insert((floor, id), kept);
            }
        }
        Ok(changed)
    }

    /// Takes note of where records lie from now on.
    fn carry(&mut self, index: u64, parts: &Bytes) -> Answer {
        for part in Part::all(parts.clone()) {
            let topic = self.topics.get(&part.topic);
            if let Some(name) = topic.filter(|topic| part.is_next_of(topic)).map(|_| &part.topic) {
                self.with(name, |topic| topic.carry(index)).ok();
            }
        }
        Answer::Done
    }

    /// What lies so far back that the log has more than it should.
    fn spare(&self, slack: u64, past: &dyn Past) -> Changed {
        let wanted = self.bytes.saturating_mul(2).saturating_add(slack);
        let mut carry = Carry::new(past);
        if self.log_floor().is_some_and(|floor| self.extent.since(floor) > wanted) {
            let end = self.extent.last(wanted);
            for name in self.floors.range(..(end, 0)).map(|(_, name)| name) {
                if let Some(topic) = self.topics.get(name) {
                    carry.add(name, topic)?;
                }
                if carry.is_full() {
                    break;
                }
            }
        }
        Ok(Answer::Spare(carry.finish()))
    }

    /// An append is in the log that was not applied.
    fn pass_over(&mut self, append: &Append) {
        if let Some(topic) = self.topics.get_mut(&append.topic)
            && topic.open.is_some()
        {
            Arc::make_mut(topic).close();
        }
    }

    fn answer(&self, query: Query, past: &dyn Past) -> Changed {
        match query {
            Query::Cursor { topic, cursor } => {
                let topic = self.topics.get(&topic).ok_or(Refusal::TopicUnknown)?;
                Ok(Answer::Cursor(topic.cursors.get(&cursor).copied()))
            }
            Query::Cursors { topic, after, limit } => {
                let topic = self.topics.get(&topic).ok_or(Refusal::TopicUnknown)?;
                let (cursors, more) = page(&topic.cursors, &[], &after, limit, |offset| *offset);
                Ok(Answer::Cursors { cursors, more })
            }
            Query::Dirty { after } => Ok(Answer::Dirty(self.dirty(&after))),
            Query::Find { topic: name, timestamp } => {
                let topic = self.topics.get(&name).ok_or(Refusal::TopicUnknown)?;
                Ok(Answer::Offset(scan::find(&name, topic, timestamp, past)?))
            }
            Query::Group { topic, query } => {
                let topic = self.topics.get(&topic).ok_or(Refusal::TopicUnknown)?;
                let response = GroupQuery::decode(&query)
                    .map_or_else(GroupResponse::Refused, |query| {
                        topic.groups.query(topic.bounds(), &query)
                    });
                Ok(Answer::Group(response.encode()))
            }
            Query::Read(read) => Ok(Answer::Records(scan::read(self.read(&read)?, &read, past)?)),
            Query::Spare { slack } => self.spare(slack, past),
            Query::Sweep { topic, id, until } => self.sweep(&topic, id, until, past),
            Query::Topic { topic } => {
                self.topic(&topic).map(Answer::Topic).ok_or(Refusal::TopicUnknown)
            }
            Query::Topics { prefix, after, limit } => {
                let (topics, more) =
                    page(&self.topics, &prefix, &after, limit, |topic| topic.view());
                Ok(Answer::Topics { topics, more })
            }
        }
    }

    /// The topic that is to be read, if it is the one that is meant.
    fn read(&self, read: &Read) -> Result<&Topic, Refusal> {
        let topic = self.topics.get(&read.topic).ok_or(Refusal::TopicUnknown)?;
        if read.id == 0 || read.id == topic.id { Ok(topic) } else { Err(Refusal::TopicUnknown) }
    }

    /// Whether what a question about groups waits for has not happened. A replica that lags may see
    /// the topic later.
    fn is_early(&self, topic: &Bytes, query: &Bytes) -> bool {
        let Ok(query) = GroupQuery::decode(query) else { return false };
        self.topics.get(topic).map_or(matches!(query, GroupQuery::Ready { .. }), |topic| {
            topic.groups.poll_query(topic.bounds(), &query).is_none()
        })
    }

    /// Whether a reader has to wait: there is nothing for it yet, and there may be.
    fn is_ahead(&self, read: &Read) -> bool {
        match self.topics.get(&read.topic) {
            Some(topic) if read.id == 0 || read.id == topic.id => read.from >= topic.next,
            // A replica that lags may see the one that is meant later.
            Some(topic) => topic.id < read.id,
            None => true,
        }
    }
}

/// What a command comes to.
type Changed = Result<Answer, Refusal>;

impl Machine for LogMachine {
    fn apply(&mut self, index: u64, command: &Bytes, effects: &mut Effects) -> Bytes {
        let changed = match Command::decode(command) {
            Ok(command) => self.change(index, command, effects),
            Err(invalid) => Err(invalid.into()),
        };
        let answer = changed.unwrap_or_else(|refusal| {
            if let Some(append) = Append::peek(command) {
                self.pass_over(&append);
            }
            Answer::Refused(refusal)
        });
        self.extent.add(index, command.len(), self.log_floor());
        answer.encode()
    }

    fn skip(&mut self, index: u64, command: &Bytes) {
        if let Some(append) = Append::peek(command) {
            self.pass_over(&append);
        }
        self.extent.add(index, command.len(), self.log_floor());
    }

    fn query(&self, query: &Bytes, past: &dyn Past) -> Bytes {
        let answer = match Query::decode(query) {
            Ok(query) => self.answer(query, past),
            Err(invalid) => Err(invalid.into()),
        };
        answer.unwrap_or_else(Answer::Refused).encode()
    }

    fn poll_query(&self, query: &Bytes, past: &dyn Past) -> Option<Bytes> {
        self.may_answer(query, 0).then(|| self.query(query, past))
    }

    fn may_answer(&self, query: &Bytes, _: u64) -> bool {
        match Query::decode(query) {
            Ok(Query::Read(read)) => !self.is_ahead(&read),
            Ok(Query::Group { topic, query }) => !self.is_early(&topic, &query),
            Ok(_) | Err(_) => true,
        }
    }

    fn log_floor(&self) -> Option<u64> {
        self.floors.first_key_value().map(|((floor, _), _)| *floor)
    }

    fn alarms(&self) -> Vec<Alarm> {
        let of_groups = self.topics.iter().flat_map(|(name, topic)| {
            topic.groups.alarms().filter_map(|alarm| around(name, &alarm))
        });
        self.clock_alarm().into_iter().chain(of_groups).collect()
    }

    fn snapshot(&self) -> Image {
        let (topics, clock, extent) = (self.topics.clone(), self.clock, self.extent.clone());
        Box::new(move |out| snapshot::write(&topics, clock, &extent, out))
    }

    fn restore(&mut self, input: &mut dyn Input) -> Result<(), InvalidSnapshot> {
        *self = snapshot::read(input)?;
        Ok(())
    }
}

/// An alarm of the groups of a topic, as one of ours.
fn around(name: &Bytes, alarm: &GroupAlarm) -> Option<Alarm> {
    let command = Command::Group { topic: name.clone(), command: alarm.command.encode() };
    // The topic exists, so its name is one.
    let command = command.encode().ok()?;
    Some(Alarm { id: alarm.id, after: alarm.after, command })
}

fn take_alarms(name: &Bytes, changes: Vec<AlarmChange>, effects: &mut Effects) {
    for change in changes {
        match change {
            AlarmChange::Clear(id) => effects.clear_alarm(id),
            AlarmChange::Set(alarm) => {
                if let Some(alarm) = around(name, &alarm) {
                    effects.set_alarm(alarm);
                }
            }
        }
    }
}

/// Rows behind a name that begin in a certain way, and whether there are more of them.
fn page<V, R>(
    all: &BTreeMap<Bytes, V>,
    prefix: &[u8],
    after: &Bytes,
    limit: u16,
    row: impl Fn(&V) -> R,
) -> (Vec<(Bytes, R)>, bool) {
    let limit = usize::from(limit.clamp(1, PAGE_ROWS_MAX));
    let is_behind = |name: &[u8]| after.is_empty() || name > after.as_ref();
    let begin = prefix.max(after.as_ref());
    let rows = all.range::<[u8], _>((Bound::Included(begin), Bound::Unbounded));
    let mut rows = rows
        .skip_while(|(name, _)| !is_behind(name))
        .take_while(|(name, _)| name.starts_with(prefix))
        .map(|(name, value)| (name.clone(), row(value)));
    let page = rows.by_ref().take(limit).collect();
    (page, rows.next().is_some())
}

#[cfg(test)]
mod tests;
