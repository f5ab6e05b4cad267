//! What the store is to be, written as plainly as possible: the list of all changes there ever were.
//! Everything is found by replaying it.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::kv::{
    Condition, Entry, Event, Field, KeyRange, Operation, StepResult, Transaction, Unmet,
};

/// Every change, and which leases are open.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) changes: Vec<Change>,
    /// Open leases with the index that kept them last.
    pub(super) leases: BTreeMap<u64, u64>,
    /// What is forgotten.
    pub(super) first: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Change {
    revision: u64,
    key: Bytes,
    new: Option<(Bytes, u64)>,
}

pub(super) type Keys = BTreeMap<Bytes, Entry>;

impl Model {
    pub(super) fn revision(&self) -> u64 {
        self.changes.last().map_or(0, |change| change.revision)
    }

    /// The keys as they were at a revision.
    pub(super) fn at(&self, revision: u64) -> Keys {
        let mut keys = Keys::new();
        for change in self.changes.iter().filter(|change| change.revision <= revision) {
            step(&mut keys, change);
        }
        keys
    }

    pub(super) fn now(&self) -> Keys {
        self.at(u64::MAX)
    }

    /// All changes after a revision, with what was before them.
    pub(super) fn events(&self, after: u64, range: &KeyRange) -> Vec<Event> {
        let mut keys = Keys::new();
        let mut events = Vec::new();
        for change in &self.changes {
            let previous = keys.get(&change.key).cloned();
            step(&mut keys, change);
            if change.revision > after && range.contains(&change.key) {
                let Change { revision, key, .. } = change.clone();
                let entry = keys.get(&key).cloned();
                events.push(Event { revision, key, entry, previous });
            }
        }
        events
    }

    /// Makes changes that belong together. What does not change anything is none.
    pub(super) fn make(&mut self, revision: u64, new: BTreeMap<Bytes, Option<(Bytes, u64)>>) {
        let keys = self.now();
        let real = new.into_iter().filter(|(key, new)| new.is_some() || keys.contains_key(key));
        self.changes.extend(real.map(|(key, new)| Change { revision, key, new }));
    }

    pub(super) fn end_lease(&mut self, index: u64, lease: u64) {
        self.leases.remove(&lease);
        let attached = self.now().into_values().filter(|entry| entry.lease == Some(lease));
        self.make(index, attached.map(|entry| (entry.key, None)).collect());
    }

    /// What a transaction says; none if it is refused.
    pub(super) fn transact(
        &mut self,
        index: u64,
        transaction: &Transaction,
    ) -> Option<(Option<Unmet>, Vec<StepResult>)> {
        let before = self.now();
        let mut unmet = None;
        for (number, condition) in (0..).zip(&transaction.conditions) {
            let current = before.get(condition.key()).map_or(0, |entry| entry.revision);
            if holds(before.get(condition.key()), condition) {
                continue;
            }
            if matches!(condition, Condition::Held { .. }) {
                return None;
            }
            unmet = unmet.or(Some(Unmet { condition: number, current }));
        }
        let operations = if unmet.is_none() { &transaction.then } else { &transaction.otherwise };
        let mut draft = BTreeMap::new();
        let mut results = Vec::new();
        for operation in operations {
            results.push(self.operate(index, &mut draft, operation)?);
        }
        self.make(index, draft);
        Some((unmet, results))
    }

    fn operate(
        &self,
        index: u64,
        draft: &mut BTreeMap<Bytes, Option<(Bytes, u64)>>,
        operation: &Operation,
    ) -> Option<StepResult> {
        // What it would be if the transaction ended here.
        let mut so_far = self.clone();
        so_far.make(index, draft.clone());
        let keys = so_far.now();
        let previous = |key: &Bytes, wanted: &bool| keys.get(key).cloned().filter(|_| *wanted);
        Some(match operation {
            Operation::Add { key, delta } => {
                let lease = keys.get(key).and_then(|entry| entry.lease).unwrap_or(0);
                let number = match keys.get(key) {
                    None => 0,
                    Some(entry) => std::str::from_utf8(&entry.value).ok()?.parse::<i64>().ok()?,
                };
                let sum = number.checked_add(*delta)?;
                draft.insert(key.clone(), Some((sum.to_string().into(), lease)));
                StepResult::Added(sum)
            }
            Operation::Clear { key, wants_previous } => {
                draft.insert(key.clone(), None);
                StepResult::Cleared {
                    was_there: keys.contains_key(key),
                    previous: previous(key, wants_previous),
                }
            }
            Operation::ClearRange { range } => {
                let within: Vec<_> = keys.keys().filter(|key| range.contains(key)).collect();
                let cleared = u32::try_from(within.len()).unwrap();
                draft.extend(within.into_iter().map(|key| (key.clone(), None)));
                StepResult::ClearedRange { cleared, has_more: false }
            }
            Operation::Get { key } => StepResult::Got(keys.get(key).cloned()),
            Operation::List { .. } => unreachable!("the generator makes none"),
            Operation::Set { key, value, lease, wants_previous } => {
                if lease.is_some_and(|lease| !self.leases.contains_key(&lease)) {
                    return None;
                }
                draft.insert(key.clone(), Some((value.clone(), lease.unwrap_or(0))));
                StepResult::Set { previous: previous(key, wants_previous) }
            }
        })
    }
}

fn step(keys: &mut Keys, change: &Change) {
    let Change { revision, key, new } = change.clone();
    let before = keys.remove(&key);
    let Some((value, lease)) = new else { return };
    let (created, version) = before.map_or((revision, 0), |it| (it.created, it.version));
    let lease = Some(lease).filter(|lease| *lease != 0);
    let entry = Entry { key: key.clone(), value, revision, created, version: version + 1, lease };
    keys.insert(key, entry);
}

fn holds(entry: Option<&Entry>, condition: &Condition) -> bool {
    match condition {
        Condition::Absent { .. } => entry.is_none(),
        Condition::Exists { .. } => entry.is_some(),
        Condition::Held { token, .. } => entry.is_some_and(|entry| entry.created == *token),
        Condition::Number { field, comparison, number, .. } => {
            let number_of = |entry: &Entry| match field {
                Field::Created => entry.created,
                Field::Lease => entry.lease.unwrap_or(0),
                Field::Revision => entry.revision,
                Field::Version => entry.version,
            };
            comparison.holds(entry.map_or(0, number_of), *number)
        }
        Condition::Value { is_equal, value, .. } => {
            entry.is_some_and(|entry| entry.value == *value) == *is_equal
        }
    }
}
