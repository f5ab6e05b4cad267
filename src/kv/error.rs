//! What can go wrong with an operation on the key-value store.

use crate::error::{Effect, ErrorCode};
use crate::replica::ClientError;

use super::command::InvalidCommand;

/// Why an operation failed. [`effect`](Self::effect) tells whether it may have been done.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store could not be asked, refused, or did not answer in time.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The key or the value is outside its limits. Nothing was done.
    #[error(transparent)]
    Invalid(#[from] InvalidCommand),
}

impl Error {
    /// The stable code of this error.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Client(error) => error.code(),
            Self::Invalid(_) => ErrorCode::InvalidPayload,
        }
    }

    /// Whether a write may have been done, or may yet be done. A read never has an effect.
    pub const fn effect(&self) -> Effect {
        match self {
            Self::Client(error) => error.effect(),
            Self::Invalid(_) => Effect::None,
        }
    }

    /// Whether the same operation may succeed later. Look at [`effect`](Self::effect) first.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Client(error) => error.is_retryable(),
            Self::Invalid(_) => false,
        }
    }
}
