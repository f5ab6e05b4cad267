//! A round of compaction, as the replica that leads works it off.
//!
//! It reads what has come since the last round, begins, replaces the points of the topic one command
//! after the other, and carries the rest of the topic as it is, so that the sweep ends. A round that
//! is cut off, because the replica does not lead any more, is taken up by nobody: what it has done
//! stays, what is left of its sweep is carried as it is, and the next round begins anew.
//!
//! Pure: it says what is to be asked or proposed next, and is told what came of it.

use std::hash::BuildHasher;

use bytes::{Bytes, BytesMut};

use super::answer::{Answer, Batch, Dirty, Page};
use super::carry::Part;
use super::command::Command;
use super::compaction::Compact;
use super::latest::Latest;
use super::points;
use super::query::{Query, Read};
use super::refusal::Refusal;

/// Bytes that are read at once. Others wait meanwhile.
const READ_BYTES: u32 = 256 * 1024;

/// What a cleaner wants next.
#[derive(Debug)]
pub(super) enum Step {
    Ask(Query),
    Propose(Command),
    /// Nothing more.
    Over,
}

/// Why a round is given up.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum RoundError {
    #[error("what the machine says is no answer to what it was asked")]
    Odd,
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// See the module.
pub(super) struct Cleaner<S> {
    dirty: Dirty,
    latest: Latest<S>,
    state: State,
    /// Bytes of the batches that are replaced, and of what is left of them.
    pub(super) bytes: (u64, u64),
}

/// What comes next.
enum State {
    /// To ask what is left of a sweep; before the round that may be one of somebody who led before.
    Rest {
        is_before: bool,
    },
    /// To carry that.
    Carry {
        is_before: bool,
        parts: Bytes,
    },
    /// To read from here on.
    Look {
        from: u64,
    },
    Begin {
        until: u64,
    },
    /// To ask for the next points of the round.
    Sweep {
        round: u64,
        until: u64,
    },
    /// To replace them by what is left.
    Replace {
        round: u64,
        until: u64,
        command: Command,
    },
    Over,
}

impl<S: BuildHasher> Cleaner<S> {
    /// The round that the machine thinks worth it.
    pub(super) fn new(dirty: Dirty, latest: Latest<S>) -> Self {
        Self { dirty, latest, state: State::Rest { is_before: true }, bytes: (0, 0) }
    }

    pub(super) fn step(&self) -> Step {
        let Dirty { topic, id, .. } = &self.dirty;
        let sweep = |until| Step::Ask(Query::Sweep { topic: topic.clone(), id: *id, until });
        match &self.state {
            State::Rest { .. } => sweep(0),
            State::Carry { parts, .. } => Step::Propose(Command::Carry(parts.clone())),
            State::Look { from } => Step::Ask(Query::Read(self.read(*from))),
            State::Begin { until } => Step::Propose(self.compact(0, *until, vec![], Bytes::new())),
            State::Sweep { until, .. } => sweep(*until),
            State::Replace { command, .. } => Step::Propose(command.clone()),
            State::Over => Step::Over,
        }
    }

    /// What came of the step: the answer, and the index of the command if it was one.
    pub(super) fn take(&mut self, index: u64, answer: Answer) -> Result<(), RoundError> {
        if let Answer::Refused(refusal) = answer {
            return Err(refusal.into());
        }
        let state = std::mem::replace(&mut self.state, State::Over);
        self.state = match (state, answer) {
            (State::Rest { is_before }, Answer::Spare(parts)) => {
                match (parts.is_empty(), is_before) {
                    (false, is_before) => State::Carry { is_before, parts },
                    (true, true) => State::Look { from: self.dirty.from },
                    (true, false) => State::Over,
                }
            }
            (State::Carry { is_before, .. }, Answer::Done) => State::Rest { is_before },
            (State::Look { from }, Answer::Records(page)) => self.look(from, &page)?,
            (State::Begin { .. }, Answer::Offset(until)) => State::Sweep { round: index, until },
            (State::Sweep { .. }, Answer::Spare(parts)) if parts.is_empty() => {
                State::Rest { is_before: false }
            }
            (State::Sweep { round, until }, Answer::Spare(parts)) => {
                let (sources, left) = self.left_of(&parts)?;
                self.bytes.0 += parts.len() as u64;
                self.bytes.1 += left.len() as u64;
                State::Replace { round, until, command: self.compact(round, until, sources, left) }
            }
            (State::Replace { round, until, .. }, Answer::Done) => State::Sweep { round, until },
            _ => return Err(RoundError::Odd),
        };
        Ok(())
    }

    fn read(&self, from: u64) -> Read {
        let Dirty { topic, id, until, .. } = &self.dirty;
        let records_max = u32::try_from(until.saturating_sub(from)).unwrap_or(u32::MAX).max(1);
        Read { topic: topic.clone(), id: *id, from, bytes_max: READ_BYTES, records_max }
    }

    /// Remembers the keys of a page. There may be more than have room: then the round ends there.
    fn look(&mut self, mut from: u64, page: &Page) -> Result<State, RoundError> {
        if page.batches.is_empty() {
            return Err(RoundError::Odd);
        }
        for batch in &page.batches {
            if !self.latest.see(batch).map_err(|_| RoundError::Odd)? {
                return Ok(State::Begin { until: batch.base });
            }
            from = batch.end().unwrap_or(u64::MAX);
        }
        let until = self.dirty.until;
        Ok(if from < until { State::Look { from } } else { State::Begin { until } })
    }

    /// Index and checksum of points, and what is left of them.
    fn left_of(&self, parts: &Bytes) -> Result<(Vec<(u64, u32)>, Bytes), RoundError> {
        let (mut sources, mut left) = (Vec::new(), BytesMut::new());
        for part in Part::all(parts.clone()) {
            let batches = Batch::take_all(&mut part.batches.clone());
            let batches = batches.map_err(|_| RoundError::Odd)?;
            sources.push((part.index, batches.iter().fold(0, points::checksum)));
            for batch in &batches {
                let put = self.latest.put_left(batch, self.dirty.tombstones, &mut left);
                put.map_err(|_| RoundError::Odd)?;
            }
        }
        Ok((sources, left.freeze()))
    }

    fn compact(&self, round: u64, until: u64, sources: Vec<(u64, u32)>, batches: Bytes) -> Command {
        let (topic, id) = (self.dirty.topic.clone(), self.dirty.id);
        Command::Compact(Compact { topic, id, round, until, sources, batches }.encode())
    }
}
