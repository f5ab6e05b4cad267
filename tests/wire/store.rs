//! The bytes of the key-value store, as the document has them.

use std::time::Duration;

use bytes::Bytes;
use zmesh::kv::{
    Command, Comparison, Condition, Entry, Event, EventQuery, Events, Failure, Field,
    InvalidCommand, KeyRange, Lease, Limits, Operation, Page, Position, Query, Response, Selection,
    Settled, State, StepResult, Transaction, Unmet,
};

use super::{hex, table};

/// The tables of the key-value store, row by row.
#[test]
fn tables_of_the_store_have_the_bytes_of_the_code() {
    for (title, expected) in
        [("Commands of the store", kv_commands()), ("Queries of the store", kv_queries())]
    {
        check_examples(title, &expected);
    }
    check_examples("Answers of the store", &kv_answers());
    let rows = table("Failures of the store");
    let failures = kv_failures();
    assert_eq!(rows.len(), failures.len());
    for (row, failure) in rows.iter().zip(failures) {
        let bytes = Response::Failed { operation: 2, failure }.encode();
        assert_eq!(
            (row[0].as_str(), row[1].as_str()),
            (bytes[2].to_string().as_str(), failure.code().name())
        );
    }
}

fn check_examples(title: &str, expected: &[Bytes]) {
    let rows = table(title);
    let bytes: Vec<_> = expected.iter().map(|bytes| hex(bytes).replace(' ', "")).collect();
    let examples: Vec<_> = rows.iter().map(|row| row[2].clone()).collect();
    assert_eq!(examples, bytes, "{title}");
}

fn kv_commands() -> Vec<Bytes> {
    let (key, value) = (Bytes::from_static(b"k"), Bytes::from_static(b"v"));
    let of = |conditions: Vec<Condition>, then: Vec<Operation>| {
        Command::Transaction(Transaction { conditions, then, otherwise: Vec::new() })
    };
    let when = |condition| of(vec![condition], Vec::new());
    let then = |operation| of(Vec::new(), vec![operation]);
    let number = Condition::Number {
        key: key.clone(),
        field: Field::Version,
        comparison: Comparison::Greater,
        number: 7,
    };
    let set = Operation::Set {
        key: key.clone(),
        value: value.clone(),
        lease: Some(5),
        wants_previous: true,
    };
    let commands = [
        Command::Set { key: key.clone(), value: value.clone() },
        Command::Clear { key: key.clone() },
        Command::Transaction(Transaction::default()),
        when(Condition::exists(key.clone())),
        when(Condition::absent(key.clone())),
        when(Condition::Held { key: key.clone(), token: 7 }),
        when(number),
        when(Condition::value(key.clone(), value)),
        then(set),
        then(Operation::Clear { key: key.clone(), wants_previous: false }),
        then(Operation::ClearRange { range: KeyRange::prefix(key.clone()) }),
        then(Operation::add(key.clone(), -1)),
        then(Operation::get(key.clone())),
        then(Operation::List { selection: Selection::of(KeyRange::key(key)) }),
        Command::Grant { ttl: Duration::from_secs(1) },
        Command::Keep { lease: 5 },
        Command::Revoke { lease: 5 },
        Command::Expire { lease: 5, kept: 7 },
        Command::Compact { revision: 7 },
        Command::Limits(Limits { bytes_max: 1, history_changes_max: 2, history_bytes_max: 3 }),
    ];
    commands.iter().map(|command| command.encode().unwrap()).collect()
}

fn kv_queries() -> Vec<Bytes> {
    let key = Bytes::from_static(b"k");
    let from = Position { revision: 7, ordinal: 1 };
    let events = EventQuery {
        range: KeyRange::all(),
        from,
        limit: 10,
        bytes_max: 256,
        wants_previous: true,
    };
    let selection = Selection { revision: 7, is_reverse: true, ..Selection::of(KeyRange::all()) };
    let queries = [
        Query::Get { key: key.clone() },
        Query::Entry { key: key.clone(), revision: 7 },
        Query::List(selection),
        Query::History { key: key.clone(), after: 7, limit: 10 },
        Query::Events(events),
        Query::AtLeast { revision: 7, query: Box::new(Query::Get { key }) },
        Query::Leases { after: 5, limit: 10 },
        Query::State,
    ];
    queries.iter().map(|query| query.encode().unwrap()).collect()
}

fn kv_answers() -> Vec<Bytes> {
    let (key, value) = (Bytes::from_static(b"k"), Bytes::from_static(b"v"));
    let entry = Entry {
        key: key.clone(),
        value: value.clone(),
        revision: 7,
        created: 6,
        version: 2,
        lease: Some(5),
    };
    let page =
        Page { revision: 7, matched: 1, next: Some(key.clone()), entries: vec![entry.clone()] };
    let event = Event { revision: 7, key: key.clone(), entry: Some(entry.clone()), previous: None };
    let next = Position { revision: 8, ordinal: 0 };
    let events = Events { events: vec![event], next, revision: 7 };
    let settled = |results: Vec<StepResult>| {
        Response::Transaction(Settled { revision: 7, unmet: None, results })
    };
    let unmet = Some(Unmet { condition: 1, current: 6 });
    let lease = Lease { id: 5, ttl: Duration::from_secs(1), keys: 2 };
    let limits = Limits { bytes_max: 7, history_changes_max: 8, history_bytes_max: 9 };
    let state = State {
        revision: 1,
        first: 2,
        keys: 3,
        bytes: 4,
        history_changes: 5,
        history_bytes: 6,
        limits,
    };
    let answers = [
        Response::Done { revision: 7 },
        Response::Value { revision: 7, value },
        Response::Absent { revision: 7 },
        Response::Refused(InvalidCommand::Key),
        Response::Entry { revision: 7, entry: entry.clone() },
        Response::Page(page.clone()),
        Response::Events(events),
        Response::Transaction(Settled { revision: 7, unmet, results: Vec::new() }),
        settled(vec![StepResult::Added(-1)]),
        settled(vec![StepResult::Cleared { was_there: true, previous: None }]),
        settled(vec![StepResult::ClearedRange { cleared: 3, has_more: false }]),
        settled(vec![StepResult::Got(Some(entry))]),
        settled(vec![StepResult::Listed(page)]),
        settled(vec![StepResult::Set { previous: None }]),
        Response::Leases { revision: 7, leases: vec![lease] },
        Response::State(state),
        Response::Failed { operation: 2, failure: Failure::Compacted { first: 7 } },
    ];
    answers.iter().map(Response::encode).collect()
}

fn kv_failures() -> [Failure; 8] {
    [
        Failure::Behind { revision: 1 },
        Failure::Compacted { first: 1 },
        Failure::Fenced,
        Failure::LeaseFull,
        Failure::LeaseUnknown { lease: 1 },
        Failure::NotNumber,
        Failure::Quota { bytes_max: 1 },
        Failure::ResultsTooLarge,
    ]
}
