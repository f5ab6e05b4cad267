//! What is done to a store and its model, at random.

use bytes::Bytes;
use proptest::prelude::*;

use crate::kv::{Command, Comparison, Condition, Field, KeyRange, Operation, Transaction};

/// What a test does next; leases are chosen among those that were granted.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Do(Command),
    Expire { lease: usize, is_kept: bool },
    Grant,
    Keep { lease: usize },
    Lend { key: Bytes, lease: usize },
    Revoke { lease: usize },
}

fn key() -> impl Strategy<Value = Bytes> {
    prop::sample::select(vec!["a", "aa", "ab", "b", "ba", "c"]).prop_map(Bytes::from)
}

fn value() -> impl Strategy<Value = Bytes> {
    prop::sample::select(vec!["", "1", "x", "9223372036854775807"]).prop_map(Bytes::from)
}

pub(super) fn range() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        key().prop_map(KeyRange::key),
        key().prop_map(KeyRange::prefix),
        (key(), key()).prop_map(|(start, end)| KeyRange::between(start, end)),
        Just(KeyRange::all()),
    ]
}

fn condition() -> impl Strategy<Value = Condition> {
    let field =
        prop::sample::select(vec![Field::Created, Field::Lease, Field::Revision, Field::Version]);
    let comparison =
        prop::sample::select(vec![Comparison::Greater, Comparison::Less, Comparison::NotEqual]);
    prop_oneof![
        key().prop_map(|key| Condition::Absent { key }),
        key().prop_map(|key| Condition::Exists { key }),
        (key(), 2_u64..20).prop_map(|(key, token)| Condition::Held { key, token }),
        (key(), field, comparison, 0_u64..20).prop_map(|(key, field, comparison, number)| {
            Condition::Number { key, field, comparison, number }
        }),
        (key(), any::<bool>(), value()).prop_map(|(key, is_equal, value)| Condition::Value {
            key,
            is_equal,
            value
        }),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        (key(), -2_i64..3).prop_map(|(key, delta)| Operation::Add { key, delta }),
        (key(), any::<bool>())
            .prop_map(|(key, wants_previous)| Operation::Clear { key, wants_previous }),
        range().prop_map(|range| Operation::ClearRange { range }),
        key().prop_map(|key| Operation::Get { key }),
        (key(), value(), any::<bool>()).prop_map(|(key, value, wants_previous)| Operation::Set {
            key,
            value,
            lease: None,
            wants_previous
        }),
    ]
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let operations = || prop::collection::vec(operation(), 0..4);
    let transaction = (prop::collection::vec(condition(), 0..2), operations(), operations());
    let lease = 0_usize..3;
    prop_oneof![
        4 => (key(), value()).prop_map(|(key, value)| Step::Do(Command::Set { key, value })),
        2 => key().prop_map(|key| Step::Do(Command::Clear { key })),
        4 => transaction.prop_map(|(conditions, then, otherwise)| {
            Step::Do(Command::Transaction(Transaction { conditions, then, otherwise }))
        }),
        1 => (0_u64..40).prop_map(|revision| Step::Do(Command::Compact { revision })),
        1 => Just(Step::Grant),
        1 => lease.clone().prop_map(|lease| Step::Keep { lease }),
        3 => (key(), lease.clone()).prop_map(|(key, lease)| Step::Lend { key, lease }),
        1 => lease.clone().prop_map(|lease| Step::Revoke { lease }),
        1 => (lease, any::<bool>()).prop_map(|(lease, is_kept)| Step::Expire { lease, is_kept }),
    ]
}
