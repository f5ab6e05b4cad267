//! Shell: Writes: one key, a counter, or several operations in one.

use bytes::Bytes;

use super::{Fence, Kv, Task, Written, odd};
use crate::kv::command::{
    Command, Condition, Operation, Response, Settled, StepResult, Transaction,
};
use crate::kv::error::Error;

/// A write of one key, made by [`Kv::set`]. Await it.
///
/// # Errors
///
/// - [`Error::Conflict`]: a condition did not hold. Nothing was done.
/// - [`Error::Failed`]: the lock is [not held](super::super::Failure::Fenced) any more, the lease has
///   [ended](super::super::Failure::LeaseUnknown), or the store is [full](super::super::Failure::Quota).
///   Nothing was done.
/// - [`Error::Client`]: with [`Effect::Unknown`](crate::Effect::Unknown) the write may have been done,
///   or may be done yet.
///
/// # Cancel safety
///
/// Dropping the future does not recall the write.
#[derive(Clone, Debug)]
#[must_use = "nothing is written unless it is awaited"]
pub struct Set {
    kv: Kv,
    key: Bytes,
    value: Bytes,
    lease: Option<u64>,
    wants_previous: bool,
    conditions: Vec<Condition>,
}

/// The removal of a key, made by [`Kv::clear`]. Await it; errors are those of [`Set`].
#[derive(Clone, Debug)]
#[must_use = "nothing is written unless it is awaited"]
pub struct Clear {
    kv: Kv,
    key: Bytes,
    wants_previous: bool,
    conditions: Vec<Condition>,
}

/// An addition to a counter, made by [`Kv::add`]. Await it to get the new number.
///
/// # Errors
///
/// As [`Set`]; and [`Failure::NotNumber`](super::super::Failure::NotNumber) if the value is no
/// decimal number of 64 bits, or the sum is none. Nothing was done then.
#[derive(Clone, Debug)]
#[must_use = "nothing is written unless it is awaited"]
pub struct Add {
    kv: Kv,
    key: Bytes,
    delta: i64,
    conditions: Vec<Condition>,
}

/// Several operations in one, made by [`Kv::txn`]. Await it to get what came of them.
///
/// # Errors
///
/// As [`Set`], but a condition that does not hold is no error: [`Settled::unmet`] says so, and
/// [`otherwise`](Self::otherwise) was done.
///
/// # Examples
///
/// ```
/// # async fn example(kv: zmesh::kv::Kv) -> Result<(), zmesh::kv::Error> {
/// use zmesh::kv::{Condition, Operation};
///
/// let moved = kv
///     .txn()
///     .when(Condition::exists("from"))
///     .then(Operation::clear("from"))
///     .then(Operation::set("to", "here"))
///     .await?;
/// assert!(moved.unmet.is_none(), "nothing to move");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is written unless it is awaited"]
pub struct Txn {
    kv: Kv,
    transaction: Transaction,
}

macro_rules! conditions {
    ($builder:ident) => {
        impl $builder {
            /// Only if the last change of the key was at this revision; 0 if it has no value.
            pub fn if_revision(self, revision: u64) -> Self {
                let key = self.key.clone();
                self.when(Condition::revision(key, revision))
            }

            /// Only if the key has this value.
            pub fn if_value(self, value: impl Into<Bytes>) -> Self {
                let key = self.key.clone();
                self.when(Condition::value(key, value))
            }

            /// Only if the key has a value.
            pub fn if_exists(self) -> Self {
                let key = self.key.clone();
                self.when(Condition::exists(key))
            }

            /// Only if the key has no value.
            pub fn if_absent(self) -> Self {
                let key = self.key.clone();
                self.when(Condition::absent(key))
            }

            /// Only while a lock is held: the store looks in the same step in which it writes.
            pub fn fenced_by(self, fence: &Fence) -> Self {
                self.when(fence.condition())
            }

            /// Only if this holds, about whatever key.
            pub fn when(mut self, condition: Condition) -> Self {
                self.conditions.push(condition);
                self
            }
        }
    };
}

conditions!(Add);
conditions!(Clear);
conditions!(Set);

impl Set {
    pub(super) fn new(kv: &Kv, key: Bytes, value: Bytes) -> Self {
        let (kv, conditions) = (kv.clone(), Vec::new());
        Self { kv, key, value, lease: None, wants_previous: false, conditions }
    }

    /// The key goes when this lease ends.
    pub fn lease(mut self, lease: u64) -> Self {
        self.lease = Some(lease);
        self
    }

    /// With [what the key had before](Written::previous).
    pub fn with_previous(mut self) -> Self {
        self.wants_previous = true;
        self
    }

    async fn run(self) -> Result<Written, Error> {
        let Self { kv, key, value, lease, wants_previous, conditions } = self;
        if conditions.is_empty() && lease.is_none() && !wants_previous {
            return kv.write(&Command::Set { key, value }).await;
        }
        one(&kv, conditions, Operation::Set { key, value, lease, wants_previous }).await
    }
}

impl Clear {
    pub(super) fn new(kv: &Kv, key: Bytes) -> Self {
        Self { kv: kv.clone(), key, wants_previous: false, conditions: Vec::new() }
    }

    /// With [what the key had before](Written::previous).
    pub fn with_previous(mut self) -> Self {
        self.wants_previous = true;
        self
    }

    async fn run(self) -> Result<Written, Error> {
        let Self { kv, key, wants_previous, conditions } = self;
        if conditions.is_empty() && !wants_previous {
            return kv.write(&Command::Clear { key }).await;
        }
        one(&kv, conditions, Operation::Clear { key, wants_previous }).await
    }
}

impl Add {
    pub(super) fn new(kv: &Kv, key: Bytes, delta: i64) -> Self {
        Self { kv: kv.clone(), key, delta, conditions: Vec::new() }
    }

    async fn run(self) -> Result<i64, Error> {
        let Self { kv, key, delta, conditions } = self;
        let then = vec![Operation::Add { key, delta }];
        let transaction = Transaction { conditions, then, otherwise: Vec::new() };
        let (node, _, settled) = transact(&kv, transaction).await?;
        match single(settled)? {
            StepResult::Added(number) => Ok(number),
            StepResult::Cleared { .. }
            | StepResult::ClearedRange { .. }
            | StepResult::Got(_)
            | StepResult::Listed(_)
            | StepResult::Set { .. } => Err(odd(node)),
        }
    }
}

impl Txn {
    pub(super) fn new(kv: &Kv) -> Self {
        Self { kv: kv.clone(), transaction: Transaction::default() }
    }

    /// One more condition; all of them must hold for [`then`](Self::then).
    pub fn when(mut self, condition: Condition) -> Self {
        self.transaction.conditions.push(condition);
        self
    }

    /// Refused altogether unless a lock is held.
    pub fn fenced_by(self, fence: &Fence) -> Self {
        self.when(fence.condition())
    }

    /// One more operation, if the conditions hold.
    pub fn then(mut self, operation: Operation) -> Self {
        self.transaction.then.push(operation);
        self
    }

    /// One more operation, if one of the conditions does not hold.
    pub fn otherwise(mut self, operation: Operation) -> Self {
        self.transaction.otherwise.push(operation);
        self
    }
}

impl From<(&Kv, Transaction)> for Txn {
    fn from((kv, transaction): (&Kv, Transaction)) -> Self {
        Self { kv: kv.clone(), transaction }
    }
}

/// Does one operation under conditions.
async fn one(kv: &Kv, conditions: Vec<Condition>, operation: Operation) -> Result<Written, Error> {
    let transaction = Transaction { conditions, then: vec![operation], otherwise: Vec::new() };
    let (node, written, settled) = transact(kv, transaction).await?;
    match single(settled)? {
        StepResult::Cleared { previous, .. } | StepResult::Set { previous } => {
            Ok(Written { previous, ..written })
        }
        StepResult::Added(_)
        | StepResult::ClearedRange { .. }
        | StepResult::Got(_)
        | StepResult::Listed(_) => Err(odd(node)),
    }
}

/// The result of a single operation, unless its conditions did not hold.
fn single(mut settled: Settled) -> Result<StepResult, Error> {
    match settled.unmet {
        Some(unmet) => Err(Error::Conflict { current: unmet.current }),
        // One that is missing is as odd as one of the wrong kind.
        None => Ok(settled.results.pop().unwrap_or(StepResult::Got(None))),
    }
}

async fn transact(
    kv: &Kv,
    transaction: Transaction,
) -> Result<(crate::NodeId, Written, Settled), Error> {
    let (node, applied, response) = kv.command(&Command::Transaction(transaction)).await?;
    let Response::Transaction(settled) = response else { return Err(odd(node)) };
    Ok((node, Written::of(settled.revision, &applied), settled))
}

impl IntoFuture for Set {
    type Output = Result<Written, Error>;
    type IntoFuture = Task<Written>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl IntoFuture for Clear {
    type Output = Result<Written, Error>;
    type IntoFuture = Task<Written>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl IntoFuture for Add {
    type Output = Result<i64, Error>;
    type IntoFuture = Task<i64>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl IntoFuture for Txn {
    type Output = Result<Settled, Error>;
    type IntoFuture = Task<Settled>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let (_, _, settled) = transact(&self.kv, self.transaction).await?;
            Ok(settled)
        })
    }
}
