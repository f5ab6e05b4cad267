//! What the simulated clients and replicas did, and whether it was allowed.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use zmesh::Effect;
use zmesh::consensus::membership::Membership;
use zmesh::kv::{Command, Comparison, Condition, Field, Operation as Step, Response, Transaction};
use zmesh::replica::session::{Sessions, Submission};
use zmesh::replica::{Acks, Effects, Machine, ReplicaError, Reply};
use zmesh::wal::{Entry, EntryKind, Point};

/// Knows everything that was promised. Every method fails when a promise is broken.
#[derive(Default)]
pub(crate) struct History {
    /// Who led each term.
    leaders: BTreeMap<u64, u64>,
    /// Term and data of each committed entry, by index.
    committed: BTreeMap<u64, (u64, Bytes)>,
    /// Data of each committed entry that is no change of the members.
    normal: BTreeMap<u64, Bytes>,
    /// What the writes at these indexes were answered.
    answers: BTreeMap<u64, Bytes>,
    /// Index of each committed command. Commands are unique, but those of a session are submitted
    /// more than once.
    commands: BTreeMap<Bytes, u64>,
    /// Newest acknowledged index of each key.
    acknowledged: BTreeMap<Bytes, u64>,
    /// Commands of which we were told that they took no effect.
    refused: BTreeSet<Bytes>,
    pending: BTreeMap<u64, Operation>,
    /// State and members of each snapshot, by its index.
    snapshots: BTreeMap<u64, (Point, Bytes, Vec<u8>)>,
    pub(crate) acks: u64,
    /// Answers below the level of the quorum.
    pub(crate) accepted: u64,
    pub(crate) reads: u64,
}

enum Operation {
    Change { node: usize },
    Read { key: Bytes, node: usize, at_least: u64 },
    Write { key: Bytes, node: usize, command: Bytes },
}

type Checked = Result<(), String>;

impl History {
    /// A client asks for a write.
    pub(crate) fn writes(&mut self, ticket: u64, node: usize, key: Bytes, command: Bytes) {
        self.pending.insert(ticket, Operation::Write { key, node, command });
    }

    /// A client asks for a read; what is acknowledged by now it has to see.
    pub(crate) fn asks(&mut self, ticket: u64, node: usize, key: Bytes) {
        let at_least = self.acknowledged.get(&key).copied().unwrap_or(0);
        self.pending.insert(ticket, Operation::Read { key, node, at_least });
    }

    /// Somebody asks for a change of the members.
    pub(crate) fn changes(&mut self, ticket: u64, node: usize) {
        self.pending.insert(ticket, Operation::Change { node });
    }

    /// A crash takes the operations of a node with it.
    pub(crate) fn forget(&mut self, lost: usize) {
        self.pending.retain(|_, operation| match operation {
            Operation::Change { node }
            | Operation::Read { node, .. }
            | Operation::Write { node, .. } => *node != lost,
        });
    }

    /// Nothing may wait for ever.
    pub(crate) fn nothing_waits(&self) -> Checked {
        ensure(self.pending.is_empty(), || format!("{} operations unanswered", self.pending.len()))
    }

    /// A replica says that it leads.
    pub(crate) fn leads(&mut self, term: u64, raft_id: u64) -> Checked {
        let leader = *self.leaders.entry(term).or_insert(raft_id);
        ensure(leader == raft_id, || format!("{leader} and {raft_id} both lead term {term}"))
    }

    /// A replica has applied an entry.
    pub(crate) fn applied(&mut self, entry: &Entry) -> Checked {
        let found = self.committed.entry(entry.index);
        let (term, data) = found.or_insert_with(|| (entry.term, entry.data.clone()));
        ensure(*term == entry.term && *data == entry.data, || {
            format!("index {} was applied with terms {term} and {}", entry.index, entry.term)
        })?;
        if entry.kind == EntryKind::Membership {
            return Ok(());
        }
        // A new leader's first entry has no command.
        if !entry.data.is_empty() {
            self.normal.entry(entry.index).or_insert_with(|| entry.data.clone());
        }
        match Submission::decode(&entry.data) {
            Ok(Submission::Once { command }) => {
                let index = *self.commands.entry(command).or_insert(entry.index);
                ensure(index == entry.index, || {
                    format!("a command was applied at {index} and {}", entry.index)
                })
            }
            Ok(Submission::Numbered { command, .. }) => {
                self.commands.entry(command).or_insert(entry.index);
                Ok(())
            }
            // Words about sessions, and a leader's first entry.
            _ => Ok(()),
        }
    }

    /// A replica takes a snapshot. Whoever takes one at the same index takes the same.
    pub(crate) fn snapshot(
        &mut self,
        point: Point,
        membership: &Membership,
        state: &[u8],
    ) -> Checked {
        let taken = (point, membership.encode(), state.to_vec());
        let first = self.snapshots.entry(point.index).or_insert_with(|| taken.clone());
        ensure(*first == taken, || format!("two snapshots differ at index {}", point.index))
    }

    /// A replica answers an operation.
    pub(crate) fn answered(&mut self, ticket: u64, reply: &Reply) -> Checked {
        let operation = self.pending.remove(&ticket);
        let operation = operation.ok_or_else(|| format!("ticket {ticket} was answered twice"))?;
        match (operation, reply) {
            // What is not committed may be lost yet; whether it was where it should be has been seen.
            (Operation::Write { .. }, Ok(applied)) if !applied.level.reaches(Acks::Quorum) => {
                self.accepted += 1;
            }
            (Operation::Write { command, .. }, Err(ReplicaError::NotOnAll { index, .. })) => {
                let at = self.commands.get(&command).copied();
                ensure(at == Some(*index), || format!("committed at {index}, but is at {at:?}"))?;
            }
            (Operation::Write { key, command, .. }, Ok(applied)) => {
                let index = self.commands.get(&command).copied();
                ensure(index == Some(applied.index), || {
                    format!("write acknowledged at {} is at {index:?}", applied.index)
                })?;
                self.answers.insert(applied.index, applied.response.clone());
                let newest = self.acknowledged.entry(key).or_default();
                *newest = applied.index.max(*newest);
                self.acks += 1;
            }
            (Operation::Write { command, .. }, Err(error)) if error.effect() == Effect::None => {
                self.refused.insert(command);
            }
            (Operation::Read { key, at_least, .. }, Ok(applied)) => {
                self.check_read(&key, at_least, &applied.response)?;
            }
            (Operation::Change { .. }, _)
            | (Operation::Read { .. } | Operation::Write { .. }, Err(_)) => {}
        }
        Ok(())
    }

    /// Every answer to a write is what a machine says that is given the log, one entry after the
    /// other: so conditions were decided at the place of the command and nowhere else.
    fn check_answers(&self) -> Checked {
        let mut machine = Sessions::new(super::ledger::store());
        let mut answers = BTreeMap::new();
        for (index, data) in &self.normal {
            answers.insert(index, machine.apply(*index, data, &mut Effects::default()));
        }
        for (index, response) in &self.answers {
            let expected = answers.get(index);
            ensure(expected == Some(response), || {
                format!("the write at {index} was answered {response:?}, not {expected:?}")
            })?;
        }
        Ok(())
    }

    /// What was said to have had no effect has had none, and nothing acknowledged is missing.
    pub(crate) fn check_end(&self) -> Checked {
        self.check_answers()?;
        for command in &self.refused {
            ensure(!self.commands.contains_key(command), || "a refused write was applied".into())?;
        }
        let indexes: Vec<u64> = self.committed.keys().copied().collect();
        ensure(indexes.windows(2).all(|pair| pair[0] + 1 == pair[1]), || "log has gaps".into())
    }

    pub(crate) fn commits(&self) -> u64 {
        self.committed.len() as u64
    }

    pub(crate) fn terms(&self) -> u64 {
        self.leaders.len() as u64
    }

    /// Whether this command is committed.
    pub(crate) fn index_of(&self, command: &Bytes) -> Option<u64> {
        self.commands.get(command).copied()
    }

    fn check_read(&mut self, key: &Bytes, at_least: u64, response: &Bytes) -> Checked {
        self.reads += 1;
        let response = Response::decode(response).map_err(|error| error.to_string())?;
        if let Response::Value { revision, value } = response {
            ensure(revision >= at_least, || format!("read {revision}, acked {at_least}"))?;
            return ensure(self.index_of(&write(key, &value)) == Some(revision), || {
                format!("read at {revision} what was not written there")
            });
        }
        // No client clears these keys.
        let is_absent = matches!(response, Response::Absent { .. });
        ensure(is_absent && at_least == 0, || format!("read {response:?}, acked {at_least}"))
    }
}

/// The command that gives a key a value, which is another for each. Some look at the state first, so
/// that what they answer depends on everything before them; they write in any case.
pub(crate) fn write(key: &Bytes, value: &Bytes) -> Bytes {
    let set = Step::set(key.clone(), value.clone());
    let command = match value.last() {
        Some(b'0'..=b'3') => Command::Transaction(Transaction {
            conditions: vec![Condition::Number {
                key: key.clone(),
                field: Field::Version,
                comparison: Comparison::Less,
                number: 3,
            }],
            then: vec![set.clone(), Step::add("below three", 1)],
            otherwise: vec![Step::clear(key.clone()), Step::get("below three"), set],
        }),
        _ => Command::Set { key: key.clone(), value: value.clone() },
    };
    command.encode().expect("within the limits")
}

fn ensure(condition: bool, failure: impl FnOnce() -> String) -> Checked {
    if condition { Ok(()) } else { Err(failure()) }
}
