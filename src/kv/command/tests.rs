//! Commands, queries and responses survive the round trip, and nothing else is taken for one.

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::response::REASONS;
use super::*;

fn set(key: usize, value: usize) -> Result<Bytes, InvalidCommand> {
    Command::Set { key: vec![b'k'; key].into(), value: vec![b'v'; value].into() }.encode()
}

/// Both sides of each limit: what was accepted once is in the log for ever.
#[test]
fn limits_hold_on_both_sides() {
    assert!(set(1, 0).is_ok());
    assert!(set(KEY_BYTES_MAX, 0).is_ok());
    assert!(set(1, VALUE_BYTES_MAX).is_ok());
    assert_eq!(set(0, 1), Err(InvalidCommand::Key));
    assert_eq!(set(KEY_BYTES_MAX + 1, 1), Err(InvalidCommand::Key));
    assert_eq!(set(1, VALUE_BYTES_MAX + 1), Err(InvalidCommand::Value));
    assert_eq!(Query::decode(&Bytes::from_static(&[1])), Err(InvalidCommand::Key));
    assert_eq!(Command::decode(&Bytes::new()), Err(InvalidCommand::Truncated));
    assert_eq!(Command::decode(&Bytes::from_static(&[99])), Err(InvalidCommand::Unknown));
    let long = Bytes::from_static(&[SET, 255, 255, 255, 255, b'k']);
    assert_eq!(Command::decode(&long), Err(InvalidCommand::Truncated));
}

/// A transaction is one entry of the log, so that its parts are counted together.
#[test]
fn transaction_has_so_many_parts_and_no_more() {
    let with = |conditions: usize, then: usize| {
        let key = Bytes::from_static(b"k");
        let condition = Condition::Exists { key: key.clone() };
        Command::Transaction(Transaction {
            conditions: vec![condition; conditions],
            then: vec![Operation::Get { key }; then],
            otherwise: Vec::new(),
        })
    };
    assert!(with(1, OPERATIONS_MAX - 1).encode().is_ok());
    assert_eq!(with(1, OPERATIONS_MAX).encode(), Err(InvalidCommand::TooMany));
}

/// A query in a query in a query would be a way to run out of stack.
#[test]
fn queries_do_not_nest() {
    let inner = Query::AtLeast { revision: 1, query: Box::new(Query::State) };
    let outer = Query::AtLeast { revision: 1, query: Box::new(inner.clone()) };
    assert!(inner.encode().is_ok());
    assert_eq!(outer.encode(), Err(InvalidCommand::Unknown));
    let nested: Vec<u8> = [&[6, 0, 0, 0, 0, 0, 0, 0, 0][..]; 10_000].concat();
    assert_eq!(Query::decode(&nested.into()), Err(InvalidCommand::Unknown));
}

fn bytes(least: usize) -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), least..8).prop_map(Bytes::from)
}

fn range() -> impl Strategy<Value = KeyRange> {
    (bytes(0), bytes(0)).prop_map(|(start, end)| KeyRange::between(start, end))
}

fn selection(revision: impl Strategy<Value = u64>) -> impl Strategy<Value = Selection> {
    (range(), revision, any::<(u32, u32, bool, bool, bool)>()).prop_map(
        |(range, revision, (limit, bytes_max, keys_only, is_reverse, count_only))| Selection {
            range,
            revision,
            limit,
            bytes_max,
            keys_only,
            is_reverse,
            count_only,
        },
    )
}

fn condition() -> impl Strategy<Value = Condition> {
    let field =
        prop::sample::select(vec![Field::Created, Field::Lease, Field::Revision, Field::Version]);
    let comparison = prop::sample::select(vec![
        Comparison::Equal,
        Comparison::Greater,
        Comparison::Less,
        Comparison::NotEqual,
    ]);
    prop_oneof![
        bytes(1).prop_map(|key| Condition::Absent { key }),
        bytes(1).prop_map(|key| Condition::Exists { key }),
        (bytes(1), any::<u64>()).prop_map(|(key, token)| Condition::Held { key, token }),
        (bytes(1), field, comparison, any::<u64>()).prop_map(|(key, field, comparison, number)| {
            Condition::Number { key, field, comparison, number }
        }),
        (bytes(1), any::<bool>(), bytes(0))
            .prop_map(|(key, is_equal, value)| { Condition::Value { key, is_equal, value } }),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    let lease = prop::option::of(1..u64::MAX);
    prop_oneof![
        (bytes(1), any::<i64>()).prop_map(|(key, delta)| Operation::Add { key, delta }),
        (bytes(1), any::<bool>())
            .prop_map(|(key, wants_previous)| Operation::Clear { key, wants_previous }),
        range().prop_map(|range| Operation::ClearRange { range }),
        bytes(1).prop_map(|key| Operation::Get { key }),
        selection(Just(0)).prop_map(|selection| Operation::List { selection }),
        (bytes(1), bytes(0), lease, any::<bool>()).prop_map(
            |(key, value, lease, wants_previous)| Operation::Set {
                key,
                value,
                lease,
                wants_previous
            }
        ),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    let operations = || prop::collection::vec(operation(), 0..4);
    prop_oneof![
        bytes(1).prop_map(|key| Command::Clear { key }),
        any::<u64>().prop_map(|revision| Command::Compact { revision }),
        any::<(u64, u64)>().prop_map(|(lease, kept)| Command::Expire { lease, kept }),
        any::<u64>().prop_map(|ttl| Command::Grant { ttl: Duration::from_millis(ttl) }),
        any::<u64>().prop_map(|lease| Command::Keep { lease }),
        any::<[u64; 3]>().prop_map(|[bytes_max, history_changes_max, history_bytes_max]| {
            Command::Limits(Limits { bytes_max, history_changes_max, history_bytes_max })
        }),
        any::<u64>().prop_map(|lease| Command::Revoke { lease }),
        (bytes(1), bytes(0)).prop_map(|(key, value)| Command::Set { key, value }),
        (prop::collection::vec(condition(), 0..4), operations(), operations()).prop_map(
            |(conditions, then, otherwise)| {
                Command::Transaction(Transaction { conditions, then, otherwise })
            }
        ),
    ]
}

fn query() -> impl Strategy<Value = Query> {
    let events = (range(), any::<(u64, u32, u32, u32, bool)>()).prop_map(|(range, numbers)| {
        let (revision, ordinal, limit, bytes_max, wants_previous) = numbers;
        let from = Position { revision, ordinal };
        Query::Events(EventQuery { range, from, limit, bytes_max, wants_previous })
    });
    let entry =
        || (bytes(1), any::<u64>()).prop_map(|(key, revision)| Query::Entry { key, revision });
    let at_least = (any::<u64>(), entry())
        .prop_map(|(revision, query)| Query::AtLeast { revision, query: Box::new(query) });
    prop_oneof![
        at_least,
        entry(),
        events,
        bytes(1).prop_map(|key| Query::Get { key }),
        (bytes(1), any::<u64>(), any::<u32>()).prop_map(|(key, after, limit)| Query::History {
            key,
            after,
            limit
        }),
        any::<(u64, u32)>().prop_map(|(after, limit)| Query::Leases { after, limit }),
        selection(any::<u64>()).prop_map(Query::List),
        Just(Query::State),
    ]
}

fn entry() -> impl Strategy<Value = Entry> {
    (bytes(1), bytes(0), any::<[u64; 3]>(), prop::option::of(1..u64::MAX)).prop_map(
        |(key, value, [revision, created, version], lease)| Entry {
            key,
            value,
            revision,
            created,
            version,
            lease,
        },
    )
}

fn page() -> impl Strategy<Value = Page> {
    let entries = prop::collection::vec(entry(), 0..3);
    (any::<u64>(), any::<u64>(), prop::option::of(bytes(1)), entries)
        .prop_map(|(revision, matched, next, entries)| Page { revision, matched, next, entries })
}

fn result() -> impl Strategy<Value = StepResult> {
    let optional = || prop::option::of(entry());
    prop_oneof![
        any::<i64>().prop_map(StepResult::Added),
        (any::<bool>(), optional())
            .prop_map(|(was_there, previous)| StepResult::Cleared { was_there, previous }),
        any::<(u32, bool)>()
            .prop_map(|(cleared, has_more)| StepResult::ClearedRange { cleared, has_more }),
        optional().prop_map(StepResult::Got),
        page().prop_map(StepResult::Listed),
        optional().prop_map(|previous| StepResult::Set { previous }),
    ]
}

fn failure() -> impl Strategy<Value = Failure> {
    prop_oneof![
        any::<u64>().prop_map(|revision| Failure::Behind { revision }),
        any::<u64>().prop_map(|first| Failure::Compacted { first }),
        Just(Failure::Fenced),
        Just(Failure::LeaseFull),
        any::<u64>().prop_map(|lease| Failure::LeaseUnknown { lease }),
        Just(Failure::NotNumber),
        any::<u64>().prop_map(|bytes_max| Failure::Quota { bytes_max }),
        Just(Failure::ResultsTooLarge),
    ]
}

fn response() -> impl Strategy<Value = Response> {
    let optional = || prop::option::of(entry());
    let event = (any::<u64>(), bytes(1), optional(), optional())
        .prop_map(|(revision, key, entry, previous)| Event { revision, key, entry, previous });
    let events = (any::<(u64, u32, u64)>(), prop::collection::vec(event, 0..3)).prop_map(
        |((at, ordinal, revision), events)| {
            let next = Position { revision: at, ordinal };
            Response::Events(Events { events, next, revision })
        },
    );
    let lease = any::<[u64; 3]>().prop_map(|[id, ttl, keys]| Lease {
        id,
        ttl: Duration::from_millis(ttl),
        keys,
    });
    let unmet = prop::option::of(
        any::<(u8, u64)>().prop_map(|(condition, current)| Unmet { condition, current }),
    );
    prop_oneof![
        any::<u64>().prop_map(|revision| Response::Absent { revision }),
        any::<u64>().prop_map(|revision| Response::Done { revision }),
        (any::<u64>(), entry()).prop_map(|(revision, entry)| Response::Entry { revision, entry }),
        events,
        (any::<u8>(), failure())
            .prop_map(|(operation, failure)| Response::Failed { operation, failure }),
        (any::<u64>(), prop::collection::vec(lease, 0..3))
            .prop_map(|(revision, leases)| Response::Leases { revision, leases }),
        page().prop_map(Response::Page),
        prop::sample::select(REASONS.to_vec()).prop_map(Response::Refused),
        any::<[u64; 6]>().prop_map(|[revision, first, keys, bytes, changes, old]| {
            Response::State(State {
                revision,
                first,
                keys,
                bytes,
                history_changes: changes,
                history_bytes: old,
                limits: Limits::default(),
            })
        }),
        (any::<u64>(), unmet, prop::collection::vec(result(), 0..4)).prop_map(
            |(revision, unmet, results)| Response::Transaction(Settled {
                revision,
                unmet,
                results
            })
        ),
        (any::<u64>(), bytes(0)).prop_map(|(revision, value)| Response::Value { revision, value }),
    ]
}

/// What begins as one of these must not be taken for a smaller one.
fn all_cuts_differ<T: PartialEq>(
    bytes: &Bytes,
    whole: &T,
    decode: impl Fn(&Bytes) -> Option<T>,
) -> bool {
    (0..bytes.len()).all(|cut| decode(&bytes.slice(..cut)).as_ref() != Some(whole))
}

proptest! {
    /// Keys and values are bytes: no value of a byte means anything.
    #[test]
    fn commands_survive_the_round_trip(command in command()) {
        let bytes = command.encode().unwrap();
        prop_assert!(all_cuts_differ(&bytes, &command, |bytes| Command::decode(bytes).ok()));
        prop_assert_eq!(Command::decode(&bytes), Ok(command));
    }

    #[test]
    fn queries_survive_the_round_trip(query in query()) {
        let bytes = query.encode().unwrap();
        prop_assert!(all_cuts_differ(&bytes, &query, |bytes| Query::decode(bytes).ok()));
        prop_assert_eq!(Query::decode(&bytes), Ok(query));
    }

    /// An empty value, no value and a refusal are three things.
    #[test]
    fn responses_survive_the_round_trip(response in response()) {
        let bytes = response.encode();
        prop_assert!(all_cuts_differ(&bytes, &response, |bytes| Response::decode(bytes).ok()));
        prop_assert_eq!(Response::decode(&bytes), Ok(response));
    }

    /// The bytes come from a peer: whatever they are, the answer is a value, and there is one way
    /// to write what they say.
    #[test]
    fn decoding_never_panics(kind in 0_u8..12, bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let bytes = Bytes::from([&[kind], &bytes[..]].concat());
        if let Ok(command) = Command::decode(&bytes) {
            prop_assert_eq!(command.encode().unwrap(), bytes.clone());
        }
        if let Ok(query) = Query::decode(&bytes) {
            prop_assert_eq!(query.encode().unwrap(), bytes.clone());
        }
        if let Ok(response) = Response::decode(&bytes) {
            prop_assert_eq!(response.encode(), bytes);
        }
    }
}
