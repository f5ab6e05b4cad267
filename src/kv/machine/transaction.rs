//! Transactions: looked at against the store, done on a draft, and committed together.
//!
//! Pure. Invariant: a transaction that fails has changed nothing.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::super::command::{
    Condition, Entry, Failure, Field, KeyRange, Operation, Page, Response, Selection, Settled,
    StepResult, Transaction, Unmet, VALUE_BYTES_MAX,
};
use super::leases::Leases;
use super::store::{NewValue, Store};
use super::version::cost;

/// Keys that one operation clears at most.
const CLEARED_MAX: usize = 4_096;
/// Bytes that the results of a transaction may have: a value and a little more.
const RESULT_BYTES_MAX: usize = VALUE_BYTES_MAX + 64 * 1024;
/// A counter is a decimal number; the longest has a sign and 19 digits.
const COUNTER_BYTES_MAX: usize = 20;

/// What a transaction would change.
pub(super) struct Draft<'a> {
    store: &'a Store,
    leases: &'a Leases,
    index: u64,
    /// Keys with what they are to have; none to be cleared.
    changes: BTreeMap<Bytes, Option<NewValue>>,
    /// Bytes of the results.
    result_bytes: usize,
}

/// The changes of a transaction, in the order of the keys, and what it says about them.
pub(super) type Outcome = (BTreeMap<Bytes, Option<NewValue>>, Settled);

/// Works out what a transaction changes and says; its revision is set when it is committed.
///
/// # Errors
///
/// The response that it is refused with.
pub(super) fn evaluate(
    store: &Store,
    leases: &Leases,
    index: u64,
    transaction: &Transaction,
) -> Result<Outcome, Response> {
    let unmet = check(store, &transaction.conditions)?;
    let operations = if unmet.is_none() { &transaction.then } else { &transaction.otherwise };
    let mut draft = Draft { store, leases, index, changes: BTreeMap::new(), result_bytes: 0 };
    let mut results = Vec::with_capacity(operations.len());
    for (number, operation) in operations.iter().enumerate() {
        let result = draft.step(operation).map_err(|failure| failed(number, failure))?;
        results.push(result);
    }
    let last = operations.len().saturating_sub(1);
    draft.check_room().map_err(|failure| failed(last, failure))?;
    Ok((draft.changes, Settled { revision: store.revision, unmet, results }))
}

fn failed(operation: usize, failure: Failure) -> Response {
    let operation = u8::try_from(operation).unwrap_or(u8::MAX);
    Response::Failed { operation, failure }
}

/// The first condition that does not hold, if one does not. A lock that is not held ends it all.
fn check(store: &Store, conditions: &[Condition]) -> Result<Option<Unmet>, Response> {
    let mut unmet = None;
    for (number, condition) in conditions.iter().enumerate() {
        if holds(store, condition) {
            continue;
        }
        if let Condition::Held { .. } = condition {
            return Err(failed(number, Failure::Fenced));
        }
        let condition_number = u8::try_from(number).unwrap_or(u8::MAX);
        let current = store.get(condition.key()).map_or(0, |version| version.revision);
        unmet = unmet.or(Some(Unmet { condition: condition_number, current }));
    }
    Ok(unmet)
}

fn holds(store: &Store, condition: &Condition) -> bool {
    let present = store.get(condition.key());
    match condition {
        Condition::Absent { .. } => present.is_none(),
        Condition::Exists { .. } => present.is_some(),
        Condition::Held { token, .. } => present.is_some_and(|it| it.created == *token),
        Condition::Number { field, comparison, number, .. } => {
            let found = present.map_or(0, |version| match field {
                Field::Created => version.created,
                Field::Lease => version.lease,
                Field::Revision => version.revision,
                Field::Version => version.version,
            });
            comparison.holds(found, *number)
        }
        Condition::Value { is_equal, value, .. } => {
            present.is_some_and(|version| version.value() == value) == *is_equal
        }
    }
}

impl Draft<'_> {
    fn step(&mut self, operation: &Operation) -> Result<StepResult, Failure> {
        Ok(match operation {
            Operation::Add { key, delta } => self.add(key, *delta)?,
            Operation::Clear { key, wants_previous } => {
                let was_there = self.has(key);
                let previous = self.previous(key, *wants_previous)?;
                self.put(key, None);
                StepResult::Cleared { was_there, previous }
            }
            Operation::ClearRange { range } => self.clear_range(range),
            Operation::Get { key } => StepResult::Got(self.previous(key, true)?),
            Operation::List { selection } => StepResult::Listed(self.list(selection)?),
            Operation::Set { key, value, lease, wants_previous } => {
                let previous = self.previous(key, *wants_previous)?;
                let lease = lease.unwrap_or(0);
                if lease != 0 {
                    // As if none of them had been attached: a little strict, and cheap.
                    self.leases.check(lease, self.changes.len() + 1)?;
                }
                self.put(key, Some(NewValue { value: value.clone(), lease }));
                StepResult::Set { previous }
            }
        })
    }

    fn add(&mut self, key: &Bytes, delta: i64) -> Result<StepResult, Failure> {
        let present = self.entry(key);
        let (number, lease) = match &present {
            None => (0, 0),
            Some(entry) => (counter(&entry.value)?, entry.lease.unwrap_or(0)),
        };
        let sum = number.checked_add(delta).ok_or(Failure::NotNumber)?;
        self.put(key, Some(NewValue { value: sum.to_string().into(), lease }));
        Ok(StepResult::Added(sum))
    }

    fn clear_range(&mut self, range: &KeyRange) -> StepResult {
        let keys = self.keys(range);
        let (cleared, has_more) = (keys.len().min(CLEARED_MAX), keys.len() > CLEARED_MAX);
        for key in keys.into_iter().take(CLEARED_MAX) {
            self.put(&key, None);
        }
        let cleared = u32::try_from(cleared).unwrap_or(u32::MAX);
        StepResult::ClearedRange { cleared, has_more }
    }

    /// The keys of a range that have a value, as far as they are needed.
    fn keys(&self, range: &KeyRange) -> Vec<Bytes> {
        let untouched = self.store.range(range).map(|version| version.key());
        let untouched = untouched.filter(|key| !self.changes.contains_key(*key));
        let untouched = untouched.take(CLEARED_MAX + 1).map(Bytes::copy_from_slice);
        let mut keys: Vec<Bytes> = untouched.collect();
        let touched = self.changes.iter().filter(|(key, new)| new.is_some() && range.contains(key));
        keys.extend(touched.map(|(key, _)| key.clone()));
        keys.sort_unstable();
        keys
    }

    /// A page of the store with what the transaction did so far.
    fn list(&mut self, selection: &Selection) -> Result<Page, Failure> {
        let mut page = self.store.page(selection)?;
        let seen = match (&page.next, selection.is_reverse) {
            (None, _) => selection.range.clone(),
            (Some(next), true) => {
                KeyRange::between(next.clone(), selection.range.end.clone()).without(next, false)
            }
            (Some(next), false) => KeyRange::between(selection.range.start.clone(), next.clone()),
        };
        for key in self.changes.keys().filter(|key| seen.contains(key)) {
            let was_there = self.store.get(key).is_some();
            let now = self.entry(key);
            page.matched = page.matched + u64::from(now.is_some()) - u64::from(was_there);
            if selection.count_only {
                continue;
            }
            page.entries.retain(|entry| entry.key != *key);
            page.entries.extend(now.map(|entry| match selection.keys_only {
                true => Entry { value: Bytes::new(), ..entry },
                false => entry,
            }));
        }
        page.entries.sort_by(|left, right| match selection.is_reverse {
            true => right.key.cmp(&left.key),
            false => left.key.cmp(&right.key),
        });
        let bytes = page.entries.iter().map(|entry| entry.key.len() + entry.value.len()).sum();
        self.count(bytes)?;
        Ok(page)
    }

    fn previous(&mut self, key: &Bytes, is_wanted: bool) -> Result<Option<Entry>, Failure> {
        let previous = if is_wanted { self.entry(key) } else { None };
        self.count(previous.as_ref().map_or(0, |entry| entry.value.len()))?;
        Ok(previous)
    }

    fn count(&mut self, bytes: usize) -> Result<(), Failure> {
        self.result_bytes += bytes;
        if self.result_bytes > RESULT_BYTES_MAX { Err(Failure::ResultsTooLarge) } else { Ok(()) }
    }

    fn put(&mut self, key: &Bytes, new: Option<NewValue>) {
        self.changes.insert(key.clone(), new);
    }

    fn has(&self, key: &Bytes) -> bool {
        self.changes.get(key).map_or_else(|| self.store.get(key).is_some(), Option::is_some)
    }

    /// What the key has, as it will be when the transaction is done.
    fn entry(&self, key: &Bytes) -> Option<Entry> {
        let present = self.store.get(key);
        let Some(changed) = self.changes.get(key) else {
            return present.map(|version| version.entry());
        };
        let NewValue { value, lease } = changed.as_ref()?;
        let (created, version) = present.map_or((self.index, 0), |it| (it.created, it.version));
        Some(Entry {
            key: key.clone(),
            value: value.clone(),
            revision: self.index,
            created,
            version: version + 1,
            lease: Some(*lease).filter(|lease| *lease != 0),
        })
    }

    fn check_room(&self) -> Result<(), Failure> {
        let (mut added, mut removed) = (0, 0);
        for (key, new) in &self.changes {
            removed += self.store.get(key).map_or(0, |version| version.cost());
            added += new.as_ref().map_or(0, |new| cost(key.len(), new.value.len()));
        }
        match self.store.has_room(added, removed) {
            true => Ok(()),
            false => Err(Failure::Quota { bytes_max: self.store.limits.bytes_max }),
        }
    }
}

/// The number that a value is. What `add` writes is read back; so is what people write, but not more
/// than one spelling of a number would need.
fn counter(value: &[u8]) -> Result<i64, Failure> {
    let text = std::str::from_utf8(value).ok().filter(|text| text.len() <= COUNTER_BYTES_MAX);
    text.and_then(|text| text.parse().ok()).ok_or(Failure::NotNumber)
}
