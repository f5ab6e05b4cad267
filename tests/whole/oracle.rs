//! What clients were told, and whether all of it can be true.
//!
//! What contradicts itself is found at once. Whether reads and writes have an order, and whether
//! everything that was acknowledged is there, is asked at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use zmesh::{NodeId, kv};

use crate::checker::{Action, Operation, Verdict, check};
use crate::desk::{FENCED, LAST};
use crate::ending::Ending;
use crate::trace::Trace;

/// Clones share it.
#[derive(Clone)]
pub(crate) struct Oracle {
    pub(crate) trace: Trace,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    failure: Option<String>,
    registers: Vec<Operation>,
    /// What a key had at a revision, whoever says it: an answer, a read, a watch.
    facts: BTreeMap<(Bytes, u64), Option<Bytes>>,
    /// Every write that was acknowledged at the level of the quorum.
    written: BTreeSet<(Bytes, u64)>,
    /// What each watch saw.
    seen: BTreeMap<usize, Vec<(Bytes, u64)>>,
    /// The last token that each watch saw.
    tokens: BTreeMap<usize, u64>,
    /// The sums that additions have answered, and additions of which nothing is known.
    sums: BTreeSet<i64>,
    sums_lost: u64,
    /// What is at an offset, whoever says it, and who has which.
    records: BTreeMap<u64, Bytes>,
    offsets: BTreeMap<Bytes, u64>,
    appended: BTreeSet<u64>,
    refused: BTreeSet<Bytes>,
    /// Where each reader is.
    positions: BTreeMap<usize, u64>,
    /// The last request or tick of one node that another has heard.
    heard: BTreeMap<(&'static str, NodeId, NodeId), u64>,
    delivered: BTreeSet<u64>,
    settled: BTreeSet<u64>,
    counts: Counts,
}

/// How much of what a run has seen.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Counts {
    /// Operations that were answered, those of which the outcome is unknown, and those that
    /// certainly had no effect.
    pub(crate) answered: u64,
    pub(crate) unknown: u64,
    pub(crate) refused: u64,
    pub(crate) echoes: u64,
    pub(crate) heard: u64,
    pub(crate) events: u64,
    pub(crate) records: u64,
    pub(crate) deliveries: u64,
    pub(crate) locks: u64,
}

/// What became of an operation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Told {
    Done,
    Nothing,
    Unknown,
}

impl Oracle {
    pub(crate) fn new(trace: Trace) -> Self {
        Self { trace, state: Arc::default() }
    }

    /// Something that must not be.
    pub(crate) fn fail(&self, what: String) {
        self.trace.line(format_args!("WRONG: {what}"));
        self.state.lock().failure.get_or_insert(what);
    }

    /// What was found first.
    pub(crate) fn failure(&self) -> Option<String> {
        self.state.lock().failure.clone()
    }

    pub(crate) fn counts(&self) -> Counts {
        self.state.lock().counts
    }

    /// Counts an outcome.
    pub(crate) fn told(&self, told: Told) {
        let counts = &mut self.state.lock().counts;
        match told {
            Told::Done => counts.answered += 1,
            Told::Nothing => counts.refused += 1,
            Told::Unknown => counts.unknown += 1,
        }
    }

    pub(crate) fn count(&self, add: impl FnOnce(&mut Counts)) {
        add(&mut self.state.lock().counts);
    }

    /// An operation on a register, for the search of an order.
    pub(crate) fn register(&self, operation: Operation) {
        self.state.lock().registers.push(operation);
    }

    /// Somebody says that a key had this value at this revision.
    pub(crate) fn fact(&self, key: &Bytes, revision: u64, value: Option<&Bytes>) {
        let mut state = self.state.lock();
        let known = state.facts.entry((key.clone(), revision)).or_insert_with(|| value.cloned());
        if known.as_ref() != value {
            let what =
                format!("{key:?} at {revision} is {known:?} to one and {value:?} to another");
            drop(state);
            self.fail(what);
        }
    }

    /// A write was acknowledged.
    pub(crate) fn written(&self, key: &Bytes, revision: u64, value: Option<&Bytes>) {
        self.fact(key, revision, value);
        self.state.lock().written.insert((key.clone(), revision));
    }

    /// A watch has seen a change.
    pub(crate) fn event(&self, watch: usize, event: &kv::Event) {
        let value = event.entry.as_ref().map(|entry| &entry.value);
        self.fact(&event.key, event.revision, value);
        let mut state = self.state.lock();
        state.counts.events += 1;
        let seen = state.seen.entry(watch).or_default();
        let before = seen.last().map_or(0, |(_, revision)| *revision);
        seen.push((event.key.clone(), event.revision));
        drop(state);
        if event.revision < before {
            self.fail(format!("watch {watch} sees {} after {before}", event.revision));
        }
        if event.key == FENCED.as_bytes() {
            self.token(watch, value);
        }
    }

    /// What is written under a lock has the token of whoever had it: no earlier one comes later.
    fn token(&self, watch: usize, value: Option<&Bytes>) {
        let Some(value) = value else { return };
        let token: u64 = std::str::from_utf8(value).expect("text").parse().expect("a number");
        let before = self.state.lock().tokens.insert(watch, token).unwrap_or(0);
        if token < before {
            self.fail(format!("who had lock {token} has written after who had {before}"));
        }
    }

    /// An addition of one was answered with the sum, or is lost.
    pub(crate) fn sum(&self, sum: Option<i64>) {
        let mut state = self.state.lock();
        match sum {
            None => state.sums_lost += 1,
            Some(sum) if state.sums.insert(sum) => {}
            Some(sum) => {
                drop(state);
                self.fail(format!("two additions were answered with {sum}"));
            }
        }
    }

    /// Somebody says that this record is at this offset.
    pub(crate) fn record(&self, offset: u64, value: &Bytes) {
        let mut state = self.state.lock();
        let at = state.records.entry(offset).or_insert_with(|| value.clone()).clone();
        let of = *state.offsets.entry(value.clone()).or_insert(offset);
        let wrong = state.refused.contains(value);
        drop(state);
        if at != *value || of != offset || wrong {
            self.fail(format!(
                "{value:?} is at {offset}, where {at:?} was, and was at {of} before (refused: {wrong})"
            ));
        }
    }

    /// A record was acknowledged.
    pub(crate) fn appended(&self, offset: u64, value: &Bytes) {
        self.record(offset, value);
        self.state.lock().appended.insert(offset);
    }

    /// It is certain that a record was not appended.
    pub(crate) fn not_appended(&self, value: &Bytes) {
        let mut state = self.state.lock();
        state.refused.insert(value.clone());
        if let Some(offset) = state.offsets.get(value).copied() {
            drop(state);
            self.fail(format!("{value:?} was refused and is at {offset}"));
        }
    }

    /// A reader has read the record at this offset.
    pub(crate) fn read(&self, reader: usize, offset: u64, value: &Bytes) {
        self.record(offset, value);
        let mut state = self.state.lock();
        state.counts.records += 1;
        let expected = state.positions.insert(reader, offset + 1).unwrap_or(0);
        drop(state);
        if offset != expected {
            self.fail(format!("reader {reader} reads {offset} instead of {expected}"));
        }
    }

    /// A member of the group got a record.
    pub(crate) fn delivered(&self, offset: u64, value: &Bytes) {
        self.record(offset, value);
        let mut state = self.state.lock();
        state.counts.deliveries += 1;
        state.delivered.insert(offset);
        if state.settled.contains(&offset) {
            drop(state);
            self.fail(format!("record {offset} is delivered although it was acknowledged"));
        }
    }

    /// One node has heard what another has said, which counts what it says.
    pub(crate) fn heard(&self, what: &'static str, from: &NodeId, by: &NodeId, number: u64) {
        let mut state = self.state.lock();
        state.counts.heard += 1;
        let before = state.heard.insert((what, from.clone(), by.clone()), number).unwrap_or(0);
        drop(state);
        if before >= number {
            self.fail(format!("{by} hears {what} {number} of {from} after {before}"));
        }
    }

    /// The group has acknowledged that a record is done with.
    pub(crate) fn settled(&self, offset: u64) {
        self.state.lock().settled.insert(offset);
    }

    /// What was done to the registers, an operation a line, for other checkers.
    pub(crate) fn history(&self) -> String {
        let state = self.state.lock();
        let line = |it: &Operation| serde_json::to_string(it).expect("json") + "\n";
        state.registers.iter().map(line).collect()
    }

    /// Whether every watch has seen the last write, and every reader has come to the end.
    pub(crate) fn have_seen(&self, ended: Ending) -> bool {
        let state = self.state.lock();
        let last = (Bytes::from_static(LAST.as_bytes()), ended.last);
        let watched = state.seen.values().all(|seen| seen.iter().rev().any(|it| *it == last));
        watched && state.positions.values().all(|at| *at >= ended.end)
    }

    /// What can only be asked when nothing is under way any more.
    pub(crate) fn judge(&self, ended: Ending) -> Result<(), String> {
        let state = self.state.lock();
        state.judge_registers()?;
        state.judge_sums(ended.sum)?;
        state.judge_watches(ended.last)?;
        state.judge_log(ended.end)
    }
}

impl State {
    fn judge_registers(&self) -> Result<(), String> {
        let keys: BTreeSet<usize> = self.registers.iter().map(|it| it.key).collect();
        for key in keys {
            let of_key = self.registers.iter().filter(|it| it.key == key).copied();
            let operations: Vec<Operation> = of_key.collect();
            let verdict = check(&operations);
            if verdict != Verdict::Linearizable {
                let lines: Vec<String> =
                    operations.iter().map(|it| serde_json::to_string(it).expect("json")).collect();
                return Err(format!("key {key} is {verdict:?}:\n{}", lines.join("\n")));
            }
        }
        Ok(())
    }

    fn judge_sums(&self, sum: i64) -> Result<(), String> {
        let done = i64::try_from(self.sums.len()).expect("few");
        let lost = i64::try_from(self.sums_lost).expect("few");
        let highest = self.sums.last().copied().unwrap_or(0);
        if sum < done || sum > done + lost || highest > sum {
            return Err(format!("{done} additions and {lost} lost ones came to {sum}"));
        }
        Ok(())
    }

    /// Up to the last write all watches have seen the same, without a repetition, and every
    /// acknowledged write in it.
    fn judge_watches(&self, last: u64) -> Result<(), String> {
        let until = |seen: &'_ Vec<(Bytes, u64)>| -> Vec<(Bytes, u64)> {
            seen.iter().filter(|(_, revision)| *revision <= last).cloned().collect()
        };
        let mut all = self.seen.values().map(until);
        let first = all.next().ok_or("no watch has seen anything")?;
        let unique: BTreeSet<&(Bytes, u64)> = first.iter().collect();
        if unique.len() != first.len() {
            return Err("a watch has seen something twice".to_owned());
        }
        for other in all {
            if other != first {
                let at = first.iter().zip(&other).position(|(a, b)| a != b);
                return Err(format!("two watches differ from event {at:?} on"));
            }
        }
        match self.written.iter().find(|write| !unique.contains(write)) {
            Some((key, revision)) => Err(format!("no watch has seen {key:?} at {revision}")),
            None => Ok(()),
        }
    }

    fn judge_log(&self, end: u64) -> Result<(), String> {
        if let Some(offset) = self.appended.iter().find(|offset| **offset >= end) {
            return Err(format!("record {offset} was acknowledged, and the topic ends at {end}"));
        }
        if let Some(offset) = (0..end).find(|offset| !self.records.contains_key(offset)) {
            return Err(format!("nobody has read record {offset} of {end}"));
        }
        if let Some((reader, at)) = self.positions.iter().find(|(_, at)| **at != end) {
            return Err(format!("reader {reader} is at {at} of {end}"));
        }
        match (0..end).find(|offset| !self.delivered.contains(offset)) {
            Some(offset) => Err(format!("record {offset} was delivered to nobody")),
            None => Ok(()),
        }
    }
}

/// A read or a write of a register, from its beginning to its end.
pub(crate) struct Span {
    pub(crate) client: usize,
    pub(crate) key: usize,
    pub(crate) start: u64,
}

impl Span {
    pub(crate) fn read(self, oracle: &Oracle, value: Option<u64>) {
        let end = Some(oracle.trace.stamp());
        let Self { client, key, start } = self;
        oracle.register(Operation { client, key, action: Action::Read(value), start, end });
    }

    /// A write that was not done has left nothing to explain.
    pub(crate) fn write(self, oracle: &Oracle, value: Option<u64>, told: Told) {
        let end = match told {
            Told::Done => Some(oracle.trace.stamp()),
            Told::Nothing => return,
            Told::Unknown => None,
        };
        let Self { client, key, start } = self;
        oracle.register(Operation { client, key, action: Action::Write(value), start, end });
    }
}
