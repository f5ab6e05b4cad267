//! What can go wrong with an operation on the key-value store.

use crate::error::{Effect, ErrorCode};
use crate::replica::ClientError;

use super::command::{Failure, InvalidCommand, Response};

/// Why an operation failed. [`effect`](Self::effect) tells whether it may have been done.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store could not be asked, refused, or did not answer in time.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A condition of the write did not hold. Nothing was done.
    #[error("a condition did not hold: the key is at revision {current} (0: it has no value)")]
    Conflict {
        /// The revision of the key when the store looked; 0 if it had no value.
        current: u64,
    },
    /// The store could not do it, in the state in which it was. Nothing was done.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// A key, a value or a number of operations is outside its limits. Nothing was done.
    #[error(transparent)]
    Invalid(#[from] InvalidCommand),
    /// The lock was lost before it was had or released: its lease has expired, or somebody has
    /// cleared its key. Whoever writes with its token is refused.
    #[error("the lock {name} was lost")]
    LockLost {
        /// The name of the lock.
        name: String,
    },
}

impl Error {
    /// The stable code of this error.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Client(error) => error.code(),
            Self::Conflict { .. } => ErrorCode::CasFailed,
            Self::Failed(failure) => failure.code(),
            Self::Invalid(_) => ErrorCode::InvalidPayload,
            Self::LockLost { .. } => ErrorCode::LockLost,
        }
    }

    /// Whether a write may have been done, or may yet be done. A read never has an effect.
    pub const fn effect(&self) -> Effect {
        match self {
            Self::Client(error) => error.effect(),
            Self::Conflict { .. } | Self::Failed(_) | Self::Invalid(_) | Self::LockLost { .. } => {
                Effect::None
            }
        }
    }

    /// Whether the same operation may succeed later. Look at [`effect`](Self::effect) first.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Client(error) => error.is_retryable(),
            Self::Conflict { .. } | Self::Failed(_) | Self::Invalid(_) | Self::LockLost { .. } => {
                self.code().is_retryable()
            }
        }
    }
}

impl Response {
    /// The response, unless it says that nothing was done.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] and [`Error::Invalid`], as it says.
    pub fn accepted(self) -> Result<Self, Error> {
        if let Self::Failed { failure, .. } = self {
            return Err(failure.into());
        }
        if let Self::Refused(invalid) = self { Err(invalid.into()) } else { Ok(self) }
    }
}

impl Failure {
    /// The stable code of this failure.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Behind { .. } => ErrorCode::Behind,
            Self::Compacted { .. } => ErrorCode::Compacted,
            Self::Fenced => ErrorCode::Fenced,
            Self::LeaseFull | Self::Quota { .. } => ErrorCode::QuotaExceeded,
            Self::LeaseUnknown { .. } => ErrorCode::LeaseNotFound,
            Self::NotNumber => ErrorCode::NotANumber,
            Self::ResultsTooLarge => ErrorCode::PayloadTooLarge,
        }
    }
}
