//! Transactions: conditions, and what is done in one entry if they hold or if they do not.
//!
//! ```text
//! transaction  conditions u8 | condition... | then u8 | operation... | otherwise u8 | operation...
//! condition    1 | key                                       exists
//!              2 | key                                       absent
//!              3 | key | token u64                           held
//!              4 | key | field u8 | comparison u8 | u64      number
//!              5 | key | is equal u8 | value                 value
//! operation    1 | previous u8 | lease u64, 0 none | key | value     SET
//!              2 | previous u8 | key                                 CLEAR
//!              3 | range                                             CLEAR of a range
//!              4 | delta i64 | key                                   ADD
//!              5 | key                                               GET
//!              6 | selection                                         LIST
//! ```
//!
//! Pure; see the [module above](super) for lengths and numbers.

use bytes::Bytes;

use super::query::Selection;
use super::range::KeyRange;
use super::wire::{Reader, Writer};
use super::{InvalidCommand, check_key, check_value};

/// Conditions and operations that a transaction may have, all together.
pub const OPERATIONS_MAX: usize = 128;

/// Operations that are done together or not at all, in one entry of the log.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Transaction {
    /// All of them must hold for `then`.
    pub conditions: Vec<Condition>,
    /// What is done if they hold.
    pub then: Vec<Operation>,
    /// What is done if one does not.
    pub otherwise: Vec<Operation>,
}

/// What must hold about a key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Condition {
    /// The key has no value.
    Absent {
        /// The key.
        key: Bytes,
    },
    /// The key has a value.
    Exists {
        /// The key.
        key: Bytes,
    },
    /// A lock is held by whoever got this token with it. If it is not, the whole transaction is
    /// refused, whatever else it says.
    Held {
        /// The key of the lock.
        key: Bytes,
        /// The fencing token.
        token: u64,
    },
    /// A number that the store keeps with the key. All numbers of a key without a value are 0.
    Number {
        /// The key.
        key: Bytes,
        /// Which of its numbers.
        field: Field,
        /// How it must compare.
        comparison: Comparison,
        /// With what.
        number: u64,
    },
    /// The value of the key. A key without a value has a value equal to none.
    Value {
        /// The key.
        key: Bytes,
        /// Whether it must be equal, or must not.
        is_equal: bool,
        /// To what.
        value: Bytes,
    },
}

/// What the store keeps with a value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Field {
    /// The revision at which the key was created.
    Created = 1,
    /// The lease it is attached to; 0 for none.
    Lease = 2,
    /// The revision of its last change.
    Revision = 3,
    /// Changes since it was created, this one included.
    Version = 4,
}

/// How two numbers compare.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Comparison {
    /// The key's number is equal.
    Equal = 1,
    /// The key's number is higher.
    Greater = 2,
    /// The key's number is lower.
    Less = 3,
    /// The key's number is another.
    NotEqual = 4,
}

/// One step of a transaction. It sees what the steps before it did.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Operation {
    /// Adds to a counter: a value that is a decimal number from -2^63 to 2^63 - 1. A key without a
    /// value counts as 0.
    Add {
        /// The key.
        key: Bytes,
        /// What is added.
        delta: i64,
    },
    /// Removes a key.
    Clear {
        /// The key.
        key: Bytes,
        /// Whether the answer has what was there.
        wants_previous: bool,
    },
    /// Removes the keys of a range, the first 4,096 of them.
    ClearRange {
        /// Which keys.
        range: KeyRange,
    },
    /// Reads a key.
    Get {
        /// The key.
        key: Bytes,
    },
    /// Reads a page of keys. Its revision must be 0: it sees the present.
    List {
        /// Which page.
        selection: Selection,
    },
    /// Gives a key a value.
    Set {
        /// The key.
        key: Bytes,
        /// Its new value.
        value: Bytes,
        /// The lease with which it goes; none lets it stay, also if it was attached to one.
        lease: Option<u64>,
        /// Whether the answer has what was there.
        wants_previous: bool,
    },
}

impl Comparison {
    const ALL: [Self; 4] = [Self::Equal, Self::Greater, Self::Less, Self::NotEqual];

    /// Whether `left` and `right` compare like this.
    pub fn holds(self, left: u64, right: u64) -> bool {
        match self {
            Self::Equal => left == right,
            Self::Greater => left > right,
            Self::Less => left < right,
            Self::NotEqual => left != right,
        }
    }
}

impl Field {
    const ALL: [Self; 4] = [Self::Created, Self::Lease, Self::Revision, Self::Version];
}

impl Condition {
    /// The key has no value.
    pub fn absent(key: impl Into<Bytes>) -> Self {
        Self::Absent { key: key.into() }
    }

    /// The key has a value.
    pub fn exists(key: impl Into<Bytes>) -> Self {
        Self::Exists { key: key.into() }
    }

    /// The last change of the key was at this revision; 0 if it has no value.
    pub fn revision(key: impl Into<Bytes>, revision: u64) -> Self {
        Self::Number {
            key: key.into(),
            field: Field::Revision,
            comparison: Comparison::Equal,
            number: revision,
        }
    }

    /// The key has this value.
    pub fn value(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self::Value { key: key.into(), is_equal: true, value: value.into() }
    }

    /// The key that it is about.
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Absent { key }
            | Self::Exists { key }
            | Self::Held { key, .. }
            | Self::Number { key, .. }
            | Self::Value { key, .. } => key,
        }
    }

    fn check(&self) -> Result<(), InvalidCommand> {
        if let Self::Value { value, .. } = self {
            check_value(value)?;
        }
        check_key(self.key())
    }

    fn write(&self, out: &mut Writer) {
        let number = match self {
            Self::Exists { .. } => 1,
            Self::Absent { .. } => 2,
            Self::Held { .. } => 3,
            Self::Number { .. } => 4,
            Self::Value { .. } => 5,
        };
        out.u8(number);
        out.key(self.key());
        match self {
            Self::Absent { .. } | Self::Exists { .. } => {}
            Self::Held { token, .. } => out.u64(*token),
            Self::Number { field, comparison, number, .. } => {
                out.u8(*field as u8);
                out.u8(*comparison as u8);
                out.u64(*number);
            }
            Self::Value { is_equal, value, .. } => {
                out.u8(u8::from(*is_equal));
                out.value(value);
            }
        }
    }

    fn read(input: &mut Reader) -> Result<Self, InvalidCommand> {
        let (number, key) = (input.u8()?, input.key()?);
        let condition = match number {
            1 => Self::Exists { key },
            2 => Self::Absent { key },
            3 => Self::Held { key, token: input.u64()? },
            4 => {
                let field = one_of(&Field::ALL, input.u8()?, |field| *field as u8)?;
                let comparison = one_of(&Comparison::ALL, input.u8()?, |it| *it as u8)?;
                Self::Number { key, field, comparison, number: input.u64()? }
            }
            5 => Self::Value { key, is_equal: flag(input)?, value: input.value()? },
            _ => return Err(InvalidCommand::Unknown),
        };
        condition.check()?;
        Ok(condition)
    }
}

impl Operation {
    /// Adds to a counter.
    pub fn add(key: impl Into<Bytes>, delta: i64) -> Self {
        Self::Add { key: key.into(), delta }
    }

    /// Removes a key.
    pub fn clear(key: impl Into<Bytes>) -> Self {
        Self::Clear { key: key.into(), wants_previous: false }
    }

    /// Reads a key.
    pub fn get(key: impl Into<Bytes>) -> Self {
        Self::Get { key: key.into() }
    }

    /// Gives a key a value that stays.
    pub fn set(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self::Set { key: key.into(), value: value.into(), lease: None, wants_previous: false }
    }

    fn check(&self) -> Result<(), InvalidCommand> {
        match self {
            Self::Add { key, .. } | Self::Clear { key, .. } | Self::Get { key } => check_key(key),
            Self::ClearRange { range } => range.check(),
            Self::List { selection } if selection.revision != 0 => Err(InvalidCommand::Unknown),
            Self::List { selection } => selection.range.check(),
            Self::Set { key, value, lease, .. } => {
                check_value(value)?;
                if *lease == Some(0) { Err(InvalidCommand::Unknown) } else { check_key(key) }
            }
        }
    }

    fn write(&self, out: &mut Writer) {
        match self {
            Self::Set { key, value, lease, wants_previous } => {
                out.u8(1);
                out.u8(u8::from(*wants_previous));
                out.u64(lease.unwrap_or(0));
                out.key(key);
                out.value(value);
            }
            Self::Clear { key, wants_previous } => {
                out.u8(2);
                out.u8(u8::from(*wants_previous));
                out.key(key);
            }
            Self::ClearRange { range } => {
                out.u8(3);
                range.write(out);
            }
            Self::Add { key, delta } => {
                out.u8(4);
                out.i64(*delta);
                out.key(key);
            }
            Self::Get { key } => {
                out.u8(5);
                out.key(key);
            }
            Self::List { selection } => {
                out.u8(6);
                selection.write(out);
            }
        }
    }

    fn read(input: &mut Reader) -> Result<Self, InvalidCommand> {
        let operation = match input.u8()? {
            1 => {
                let wants_previous = flag(input)?;
                let lease = Some(input.u64()?).filter(|lease| *lease != 0);
                Self::Set { key: input.key()?, value: input.value()?, lease, wants_previous }
            }
            2 => Self::Clear { wants_previous: flag(input)?, key: input.key()? },
            3 => Self::ClearRange { range: KeyRange::read(input)? },
            4 => Self::Add { delta: input.i64()?, key: input.key()? },
            5 => Self::Get { key: input.key()? },
            6 => Self::List { selection: Selection::read(input)? },
            _ => return Err(InvalidCommand::Unknown),
        };
        operation.check()?;
        Ok(operation)
    }
}

impl Transaction {
    pub(super) fn check(&self) -> Result<(), InvalidCommand> {
        if self.conditions.len() + self.then.len() + self.otherwise.len() > OPERATIONS_MAX {
            return Err(InvalidCommand::TooMany);
        }
        self.conditions.iter().try_for_each(Condition::check)?;
        self.then.iter().chain(&self.otherwise).try_for_each(Operation::check)
    }

    pub(super) fn write(&self, out: &mut Writer) {
        out.u8(count(self.conditions.len()));
        self.conditions.iter().for_each(|condition| condition.write(out));
        for operations in [&self.then, &self.otherwise] {
            out.u8(count(operations.len()));
            operations.iter().for_each(|operation| operation.write(out));
        }
    }

    pub(super) fn read(input: &mut Reader) -> Result<Self, InvalidCommand> {
        let mut transaction = Self::default();
        for _ in 0..input.u8()? {
            transaction.conditions.push(Condition::read(input)?);
        }
        for _ in 0..input.u8()? {
            transaction.then.push(Operation::read(input)?);
        }
        for _ in 0..input.u8()? {
            transaction.otherwise.push(Operation::read(input)?);
        }
        transaction.check()?;
        Ok(transaction)
    }
}

fn count(number: usize) -> u8 {
    u8::try_from(number).expect("the number of operations is checked")
}

fn flag(input: &mut Reader) -> Result<bool, InvalidCommand> {
    match input.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(InvalidCommand::Unknown),
    }
}

fn one_of<T: Copy>(all: &[T], number: u8, of: fn(&T) -> u8) -> Result<T, InvalidCommand> {
    all.iter().copied().find(|it| of(it) == number).ok_or(InvalidCommand::Unknown)
}
