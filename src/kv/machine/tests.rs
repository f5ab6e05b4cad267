//! The store against a model that remembers everything, and the limits that the model does not have.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::kv::Error;
use crate::kv::command::{
    Condition, Entry, Event, KeyRange, Limits, Operation, Page, Position, Selection, Settled,
    State, StepResult,
};
use crate::replica::{PastCommands, PastError, image_bytes};
use model::Model;
use steps::{Step, range, step};

mod model;
mod steps;

/// The store asks for no past: it has its own.
struct NoPast;

impl Past for NoPast {
    fn commands(&self, _: u64, _: u64) -> Result<PastCommands, PastError> {
        Err(PastError::Forgotten { first: u64::MAX })
    }
}

fn apply(machine: &mut KvMachine, index: u64, command: &Command) -> Response {
    let bytes = command.encode().unwrap();
    Response::decode(&machine.apply(index, &bytes, &mut Effects::default())).unwrap()
}

fn ask(machine: &KvMachine, query: &Query) -> Response {
    Response::decode(&machine.query(&query.encode().unwrap(), &NoPast)).unwrap()
}

/// Asks for what may be refused.
fn try_ask(machine: &KvMachine, query: &Query) -> Result<Response, Error> {
    ask(machine, query).accepted()
}

fn settled(response: Response) -> Result<Settled, Error> {
    let Response::Transaction(settled) = response.accepted()? else { panic!("no transaction") };
    Ok(settled)
}

fn set(machine: &mut KvMachine, index: u64, key: &str, value: &str) {
    let (key, value) = (Bytes::from(key.to_owned()), Bytes::from(value.to_owned()));
    let response = apply(machine, index, &Command::Set { key, value });
    assert_eq!(response, Response::Done { revision: index });
}

fn state(machine: &KvMachine) -> State {
    let Response::State(state) = ask(machine, &Query::State) else { panic!("no state") };
    state
}

/// Every page of a list.
fn list(machine: &KvMachine, selection: &Selection) -> Result<Vec<Entry>, Error> {
    let mut selection = selection.clone();
    let mut all = Vec::new();
    loop {
        let page = try_ask(machine, &Query::List(selection.clone()))?;
        let Response::Page(page) = page else { panic!("no page") };
        let Page { next, entries, matched, .. } = page;
        assert_eq!(matched, entries.len() as u64);
        all.extend(entries);
        let Some(next) = next else { return Ok(all) };
        selection.range = match selection.is_reverse {
            true => KeyRange::between(selection.range.start, [&next[..], &[0]].concat()),
            false => KeyRange::between(next, selection.range.end),
        };
    }
}

/// All events after a revision, page by page.
fn events(
    machine: &KvMachine,
    after: u64,
    range: &KeyRange,
    limit: u32,
) -> Result<Vec<Event>, Error> {
    let mut from = Position::after(after);
    let mut all = Vec::new();
    loop {
        let range = range.clone();
        let query = EventQuery { range, from, limit, bytes_max: 1 << 20, wants_previous: true };
        let found = try_ask(machine, &Query::Events(query))?;
        let Response::Events(found) = found else { panic!("no events") };
        all.extend(found.events);
        if found.next >= Position::after(found.revision) {
            return Ok(all);
        }
        from = found.next;
    }
}

/// A new machine that was given the snapshot of another.
fn restored(machine: &KvMachine) -> KvMachine {
    let bytes = image_bytes(machine.snapshot());
    let mut restored = KvMachine::new();
    restored.restore(&mut &bytes[..]).unwrap();
    assert_eq!(image_bytes(restored.snapshot()), bytes, "another snapshot of the same state");
    restored
}

/// A machine and a model that are told the same.
#[derive(Default)]
struct Pair {
    machine: KvMachine,
    model: Model,
    granted: Vec<u64>,
}

impl Pair {
    fn step(&mut self, index: u64, step: Step) {
        let lease = |number: usize| self.granted.get(number).copied().unwrap_or(1);
        let command = match step {
            Step::Do(command) => command,
            Step::Expire { lease: number, is_kept } => {
                let lease = lease(number);
                let kept = self.model.leases.get(&lease).copied().unwrap_or(1);
                Command::Expire { lease, kept: kept - u64::from(is_kept) }
            }
            Step::Grant => Command::Grant { ttl: Duration::from_secs(1) },
            Step::Keep { lease: number } => Command::Keep { lease: lease(number) },
            Step::Lend { key, lease: number } => {
                let (value, lease) = (Bytes::from_static(b"lent"), Some(lease(number)));
                let set = Operation::Set { key, value, lease, wants_previous: false };
                Command::Transaction(Transaction { then: vec![set], ..Transaction::default() })
            }
            Step::Revoke { lease: number } => Command::Revoke { lease: lease(number) },
        };
        let response = apply(&mut self.machine, index, &command);
        self.follow(index, command, &response);
        assert_eq!(self.machine.revision(), self.model.revision());
    }

    /// Does to the model what was done to the machine.
    fn follow(&mut self, index: u64, command: Command, response: &Response) {
        let model = &mut self.model;
        let unknown =
            |lease| Response::Failed { operation: 0, failure: Failure::LeaseUnknown { lease } };
        match command {
            Command::Clear { key } => model.make(index, [(key, None)].into()),
            Command::Compact { revision } => {
                model.first = model.first.max(revision.min(model.revision()));
            }
            Command::Expire { lease, kept } => {
                if model.leases.get(&lease) == Some(&kept) {
                    model.end_lease(index, lease);
                }
            }
            Command::Grant { .. } => {
                model.leases.insert(index, index);
                self.granted.insert(0, index);
            }
            Command::Keep { lease } => match model.leases.get_mut(&lease) {
                Some(kept) => *kept = index,
                None => assert_eq!(*response, unknown(lease)),
            },
            Command::Limits(_) => {}
            Command::Revoke { lease } if !model.leases.contains_key(&lease) => {
                assert_eq!(*response, unknown(lease));
            }
            Command::Revoke { lease } => model.end_lease(index, lease),
            Command::Set { key, value } => model.make(index, [(key, Some((value, 0)))].into()),
            Command::Transaction(transaction) => {
                let expected = model.transact(index, &transaction);
                match (expected, response) {
                    (None, Response::Failed { .. }) => {}
                    (Some((unmet, results)), Response::Transaction(settled)) => {
                        let revision = model.revision();
                        assert_eq!(*settled, Settled { revision, unmet, results });
                    }
                    (expected, found) => panic!("expected {expected:?}, found {found:?}"),
                }
            }
        }
    }

    /// Every revision that can be read is as the model remembers it; every other is refused.
    fn check(&self, range: &KeyRange, limit: u32, is_reverse: bool) {
        let Self { machine, model, .. } = self;
        let revision = model.revision();
        for at in 1..=revision + 1 {
            let selection =
                Selection { revision: at, limit, is_reverse, ..Selection::of(range.clone()) };
            let found = list(machine, &selection);
            let events = events(machine, at, range, limit);
            if at < model.first {
                let compacted = Error::Failed(Failure::Compacted { first: model.first });
                assert_eq!(found, Err(compacted.clone()));
                assert_eq!(events, Err(compacted));
                continue;
            } else if at > revision {
                assert_eq!(found, Err(Failure::Behind { revision }.into()));
                assert_eq!(events, Ok(Vec::new()));
                continue;
            }
            let expected = model.at(at).into_values().filter(|it| range.contains(&it.key));
            let mut expected: Vec<_> = expected.collect();
            if is_reverse {
                expected.reverse();
            }
            assert_eq!(found, Ok(expected), "at {at}");
            assert_eq!(events, Ok(model.events(at, range)), "after {at}");
        }
        let leases: Vec<u64> = machine.leases.after(0).map(|lease| lease.id).collect();
        assert_eq!(leases, model.leases.keys().copied().collect::<Vec<_>>());
        for lease in machine.leases.after(0) {
            let attached = model.now().into_values().filter(|it| it.lease == Some(lease.id));
            assert_eq!(lease.keys, attached.count() as u64);
        }
    }
}

proptest! {
    /// Whatever is done, every state since the compaction can be read, page by page and in both
    /// directions; a watch from any revision gets every later change; a snapshot changes nothing.
    #[test]
    fn store_is_what_its_changes_make_it(
        before in prop::collection::vec(step(), 0..20),
        after in prop::collection::vec(step(), 0..20),
        range in range(),
        limit in 1_u32..4,
        is_reverse in any::<bool>(),
    ) {
        let mut pair = Pair::default();
        let mut indexes = 2..;
        for (index, step) in indexes.by_ref().zip(before) {
            pair.step(index, step);
        }
        pair.check(&range, limit, is_reverse);
        let restored = restored(&pair.machine);
        prop_assert!(restored == pair.machine);
        pair.machine = restored;
        for (index, step) in indexes.zip(after) {
            pair.step(index, step);
        }
        pair.check(&range, limit, is_reverse);
    }

    /// Of those who wait only some are looked at after a command. Whoever has an answer must be among
    /// them, or would wait until something else happens.
    #[test]
    fn nobody_who_waits_is_passed_over(
        steps in prop::collection::vec(step(), 1..40),
        range in range(),
        after in 0_u64..20,
        history in 1_u64..30,
    ) {
        let limits = Limits { history_changes_max: history, ..Limits::default() };
        let (mut pair, mut since) = (Pair::default(), 1);
        apply(&mut pair.machine, 1, &Command::Limits(limits));
        let from = Position::after(after);
        let events = EventQuery { range, from, limit: 9, bytes_max: 99, wants_previous: false };
        let get = Box::new(Query::State);
        let queries = [Query::Events(events), Query::AtLeast { revision: after, query: get }];
        let mut waiting: Vec<_> = queries.iter().map(|query| query.encode().unwrap()).collect();
        waiting.retain(|query| pair.machine.poll_query(query, &NoPast).is_none());
        for (index, step) in (2..).zip(steps) {
            pair.step(index, step);
            // Several commands are applied before anybody is looked at.
            if index % 3 != 0 {
                continue;
            }
            waiting.retain(|query| {
                let answer = pair.machine.poll_query(query, &NoPast);
                assert!(answer.is_none() || pair.machine.may_answer(query, since), "at {index}");
                answer.is_none()
            });
            since = index;
        }
    }

    /// A query comes from anybody.
    #[test]
    fn any_query_has_an_answer(kind in 0_u8..10, rest in prop::collection::vec(any::<u8>(), 0..60)) {
        let mut machine = KvMachine::new();
        set(&mut machine, 2, "a", "1");
        set(&mut machine, 3, "b", "2");
        let query = Bytes::from([&[kind], &rest[..]].concat());
        prop_assert!(Response::decode(&machine.query(&query, &NoPast)).is_ok());
        let _ = machine.poll_query(&query, &NoPast);
    }

    /// A snapshot comes from a disk or a peer.
    #[test]
    fn damaged_snapshot_never_panics(place in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let mut pair = Pair::default();
        for (index, value) in (2..6).zip(["1", "2", "3", "4"]) {
            let (key, value) = (Bytes::from_static(b"k"), Bytes::from(value));
            pair.step(index, Step::Do(Command::Set { key, value }));
        }
        pair.step(6, Step::Grant);
        pair.step(7, Step::Lend { key: Bytes::from_static(b"lent"), lease: 0 });
        let mut bytes = image_bytes(pair.machine.snapshot());
        let place = place.index(bytes.len());
        bytes[place] ^= 1_u8 << bit;
        let mut machine = KvMachine::new();
        if machine.restore(&mut &bytes[..]).is_ok() {
            prop_assert!(image_bytes(machine.snapshot()) == bytes, "another state was read");
        }
    }
}

/// A command that cannot be read is in the log all the same, and again at every start.
#[test]
fn damaged_command_is_refused_and_changes_nothing() {
    let mut machine = KvMachine::new();
    set(&mut machine, 2, "a", "1");
    let before = machine.clone();
    let damaged = Bytes::from_static(b"\x63");
    let response = Response::decode(&machine.apply(3, &damaged, &mut Effects::default())).unwrap();
    assert!(matches!(response, Response::Refused(_)), "{response:?}");
    assert_eq!(machine, before);
}

/// A snapshot that was cut must not become a smaller store.
#[test]
fn damaged_snapshot_is_refused_and_the_state_stays() {
    let mut machine = KvMachine::new();
    set(&mut machine, 2, "a", "1");
    set(&mut machine, 3, "b", "2");
    set(&mut machine, 4, "b", "3");
    let (snapshot, before) = (image_bytes(machine.snapshot()), machine.clone());
    for cut in 0..snapshot.len() {
        assert!(machine.restore(&mut &snapshot[..cut]).is_err(), "cut at {cut}");
    }
    let mut long = snapshot;
    long.push(0);
    assert!(machine.restore(&mut &long[..]).is_err());
    assert_eq!(machine, before);
}

fn transact(machine: &mut KvMachine, index: u64, operation: Operation) -> Response {
    let then = vec![operation];
    apply(machine, index, &Command::Transaction(Transaction { then, ..Transaction::default() }))
}

/// A store that is full must still be one that can be emptied.
#[test]
fn full_store_refuses_growth_and_takes_what_makes_it_smaller() {
    let mut machine = KvMachine::new();
    let limits = Limits { bytes_max: 250, ..Limits::default() };
    apply(&mut machine, 2, &Command::Limits(limits));
    set(&mut machine, 3, "a", "12345678901234567890");
    set(&mut machine, 4, "b", "1");
    let quota = Response::Failed { operation: 0, failure: Failure::Quota { bytes_max: 250 } };
    let key = |key: &'static str| Bytes::from_static(key.as_bytes());
    let large = Command::Set { key: key("c"), value: key("") };
    assert_eq!(apply(&mut machine, 5, &large), quota);
    assert_eq!(transact(&mut machine, 6, Operation::Add { key: key("c"), delta: 1 }), quota);
    assert_eq!(machine.len(), 2, "a refused write was done");
    set(&mut machine, 7, "a", "123");
    assert_eq!(
        apply(&mut machine, 8, &Command::Clear { key: key("a") }),
        Response::Done { revision: 8 }
    );
    set(&mut machine, 9, "c", "1");
    assert_eq!(state(&machine).bytes, 2 * 102);
}

/// History is bounded by changes and by bytes; the newest change is always there, or nobody could
/// watch.
#[test]
fn history_is_bounded_and_keeps_the_newest() {
    let mut machine = KvMachine::new();
    let limits = Limits { history_changes_max: 3, ..Limits::default() };
    apply(&mut machine, 2, &Command::Limits(limits));
    for index in 3..10 {
        set(&mut machine, index, "a", "1");
    }
    assert_eq!((state(&machine).history_changes, state(&machine).first), (3, 6));
    let limits = Limits { history_bytes_max: 0, ..Limits::default() };
    apply(&mut machine, 10, &Command::Limits(limits));
    assert_eq!((state(&machine).history_changes, state(&machine).first), (1, 8));
    assert_eq!(events(&machine, 8, &KeyRange::all(), 10).unwrap().len(), 1);
    let compacted = Error::Failed(Failure::Compacted { first: 8 });
    assert_eq!(events(&machine, 7, &KeyRange::all(), 10), Err(compacted));
}

/// Somebody who waits for a rare key must not be told one day that history has gone on without it.
#[test]
fn quiet_watcher_is_told_how_far_it_is_before_history_forgets() {
    let mut machine = KvMachine::new();
    let limits = Limits { history_changes_max: 8, ..Limits::default() };
    apply(&mut machine, 2, &Command::Limits(limits));
    let mut from = Position::after(2);
    let mut told = 0;
    for index in 3..200 {
        set(&mut machine, index, "busy", "1");
        let range = KeyRange::key("quiet");
        let query = EventQuery { range, from, limit: 10, bytes_max: 99, wants_previous: false };
        let query = Query::Events(query).encode().unwrap();
        let Some(answer) = machine.poll_query(&query, &NoPast) else { continue };
        assert!(machine.may_answer(&query, index - 1), "nobody would have asked");
        let Response::Events(found) = Response::decode(&answer).unwrap() else {
            panic!("it was forgotten at {index}")
        };
        assert!(found.events.is_empty() && found.next > from);
        (from, told) = (found.next, told + 1);
    }
    assert!((1..100).contains(&told), "told {told} times");
}

/// A replica that lags answers when it has caught up, and says so when time is up before.
#[test]
fn question_for_a_later_revision_waits() {
    let mut machine = KvMachine::new();
    set(&mut machine, 2, "a", "1");
    let get = Box::new(Query::Get { key: Bytes::from_static(b"a") });
    let query = Query::AtLeast { revision: 3, query: get };
    let bytes = query.encode().unwrap();
    assert_eq!(machine.poll_query(&bytes, &NoPast), None);
    let behind = Response::Failed { operation: 0, failure: Failure::Behind { revision: 2 } };
    assert_eq!(ask(&machine, &query), behind);
    set(&mut machine, 3, "b", "1");
    let answer = machine.poll_query(&bytes, &NoPast).unwrap();
    let value = Bytes::from_static(b"1");
    assert_eq!(Response::decode(&answer).unwrap(), Response::Value { revision: 2, value });
}

/// A counter that began again at the other end would be worse than one that refuses.
#[test]
fn counter_refuses_to_overflow_and_what_is_no_number() {
    let mut machine = KvMachine::new();
    let key = Bytes::from_static(b"n");
    let mut add = |index, delta| {
        let done = transact(&mut machine, index, Operation::Add { key: key.clone(), delta });
        settled(done).map(|settled| settled.results)
    };
    assert_eq!(add(2, i64::MAX), Ok(vec![StepResult::Added(i64::MAX)]));
    assert_eq!(add(3, 1), Err(Failure::NotNumber.into()));
    assert_eq!(add(4, i64::MIN), Ok(vec![StepResult::Added(-1)]));
    set(&mut machine, 5, "n", "one");
    let failure = transact(&mut machine, 6, Operation::Add { key, delta: 1 });
    assert_eq!(failure, Response::Failed { operation: 0, failure: Failure::NotNumber });
    assert_eq!(machine.value(b"n"), Some((5, &b"one"[..])));
}

/// The leader's clock proposes the end of a lease; whoever kept it alive meanwhile decides.
#[test]
fn lease_that_was_kept_alive_does_not_end() {
    let mut machine = KvMachine::new();
    let mut effects = Effects::default();
    let grant = Command::Grant { ttl: Duration::from_secs(3) }.encode().unwrap();
    machine.apply(2, &grant, &mut effects);
    let [alarm] = &machine.alarms()[..] else { panic!("one alarm") };
    assert_eq!((alarm.id, alarm.after), (2, Duration::from_secs(3)));
    let too_late = alarm.command.clone();
    let lend = Operation::Set {
        key: Bytes::from_static(b"a"),
        value: Bytes::new(),
        lease: Some(2),
        wants_previous: false,
    };
    transact(&mut machine, 3, lend);
    apply(&mut machine, 4, &Command::Keep { lease: 2 });
    machine.apply(5, &too_late, &mut effects);
    assert_eq!(machine.len(), 1, "it ended although it was kept alive");
    let in_time = machine.alarms()[0].command.clone();
    machine.apply(6, &in_time, &mut effects);
    assert_eq!((machine.len(), machine.revision()), (0, 6), "the key goes with its lease");
    assert!(machine.alarms().is_empty());
}

/// A lock that changed hands keeps out whoever had it, whatever else they ask for.
#[test]
fn transaction_with_a_stale_token_is_refused_altogether() {
    let mut machine = KvMachine::new();
    set(&mut machine, 2, "lock", "alpha");
    apply(&mut machine, 3, &Command::Clear { key: Bytes::from_static(b"lock") });
    set(&mut machine, 4, "lock", "beta");
    let write = |token| {
        let key = Bytes::from_static(b"lock");
        let set = |key: &'static str| Operation::Set {
            key: Bytes::from_static(key.as_bytes()),
            value: Bytes::new(),
            lease: None,
            wants_previous: false,
        };
        Command::Transaction(Transaction {
            conditions: vec![Condition::Held { key, token }],
            then: vec![set("then")],
            otherwise: vec![set("otherwise")],
        })
    };
    let fenced = Response::Failed { operation: 0, failure: Failure::Fenced };
    assert_eq!(apply(&mut machine, 5, &write(2)), fenced);
    assert_eq!(machine.len(), 1, "nothing may be done");
    assert!(matches!(apply(&mut machine, 6, &write(4)), Response::Transaction(_)));
    assert_eq!(machine.value(b"then").map(|(revision, _)| revision), Some(6));
}

/// One entry of the log must not stop everything else for long.
#[test]
fn clearing_a_range_has_a_limit_and_says_so() {
    let mut machine = KvMachine::new();
    for index in 0..5_000 {
        set(&mut machine, index + 2, &format!("{index:05}"), "");
    }
    let clear = || Operation::ClearRange { range: KeyRange::all() };
    let cleared = |response| settled(response).unwrap().results;
    let first = cleared(transact(&mut machine, 10_000, clear()));
    assert_eq!(first, [StepResult::ClearedRange { cleared: 4_096, has_more: true }]);
    assert_eq!(list(&machine, &Selection::of(KeyRange::all())).unwrap()[0].key, "04096");
    let rest = cleared(transact(&mut machine, 10_001, clear()));
    assert_eq!(rest, [StepResult::ClearedRange { cleared: 904, has_more: false }]);
}

/// A transaction lists what it did before.
#[test]
fn list_in_a_transaction_sees_the_steps_before_it() {
    let mut machine = KvMachine::new();
    for (index, key) in (2..).zip(["a", "c", "e"]) {
        set(&mut machine, index, key, "old");
    }
    let key = |key: &'static str| Bytes::from_static(key.as_bytes());
    let set = |name| Operation::Set {
        key: key(name),
        value: key("new"),
        lease: None,
        wants_previous: false,
    };
    let selection = Selection { is_reverse: true, ..Selection::of(KeyRange::all()) };
    let then = vec![
        set("b"),
        set("c"),
        Operation::Clear { key: key("e"), wants_previous: true },
        Operation::List { selection },
    ];
    let transaction = Transaction { then, ..Transaction::default() };
    let Response::Transaction(settled) = apply(&mut machine, 9, &Command::Transaction(transaction))
    else {
        panic!("it is refused")
    };
    let Some(StepResult::Listed(page)) = settled.results.last() else { panic!("no page") };
    let seen: BTreeMap<_, _> =
        page.entries.iter().map(|it| (it.key.clone(), it.revision)).collect();
    assert_eq!(seen, BTreeMap::from([(key("a"), 2), (key("b"), 9), (key("c"), 9)]));
    assert_eq!((page.entries[0].key.clone(), page.matched), (key("c"), 3));
}
