//! Rounds of compaction, as the machine takes part in them.
//!
//! Pure.

use std::ops::Bound;

use bytes::Bytes;

use super::{Changed, LogMachine};
use crate::log::answer::{Answer, Dirty};
use crate::log::carry::Carry;
use crate::log::compaction::Compact;
use crate::log::refusal::Refusal;
use crate::replica::Past;

impl LogMachine {
    /// Begins a round of compaction, or takes a step of one.
    pub(super) fn compact(&mut self, index: u64, step: Bytes) -> Changed {
        let step = Compact::take(step).ok_or(Refusal::Invalid)?;
        self.topics.get(&step.topic).filter(|it| it.id == step.id).ok_or(Refusal::TopicUnknown)?;
        let done = self.with(&step.topic, |topic| match step.round {
            0 => topic.begin_round(index, step.until).map(Answer::Offset),
            _ => topic.compact(index, &step).then_some(Answer::Done),
        })?;
        done.ok_or(Refusal::RoundOver)
    }

    /// The first topic behind a name that is worth a round of compaction.
    pub(super) fn dirty(&self, after: &Bytes) -> Option<Dirty> {
        let behind = (Bound::Excluded(after), Bound::Unbounded);
        let mut topics = self.topics.range::<Bytes, _>(behind);
        topics.find_map(|(name, topic)| topic.dirty(name, self.clock))
    }

    /// The next points of the sweep of a topic.
    pub(super) fn sweep(&self, name: &Bytes, id: u64, until: u64, past: &dyn Past) -> Changed {
        let topic = self.topics.get(name).filter(|topic| topic.id == id);
        let (topic, mut carry) = (topic.ok_or(Refusal::TopicUnknown)?, Carry::new(past));
        match until {
            0 if topic.points.swept() == 0 => {}
            0 => carry.add(name, topic)?,
            until => carry.add_until(name, topic, until)?,
        }
        Ok(Answer::Spare(carry.finish()))
    }
}
