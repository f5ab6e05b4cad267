//! Why an operation on a group failed, as its caller sees it.

use super::refusal::Refusal;
use crate::error::{Effect, ErrorCode};
use crate::log::Error;

/// Why an operation on a group failed. [`Self::effect`] says whether it may have taken effect.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// The member has left. Nothing was done.
    #[error("the member has left its group")]
    Left,
    /// The log was not reached, refused, or lost the answer.
    #[error(transparent)]
    Log(#[from] Error),
    /// The group refused. Nothing was changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Somebody else has joined under the name of the member, which is none any more.
    #[error("another member has joined as {name}")]
    Replaced {
        /// The name.
        name: String,
    },
    /// The record is with somebody else by now, is done with, or is not kept any more: what was
    /// said about it does not count.
    #[error("the delivery of record {offset} does not count any more")]
    Stale {
        /// Its offset.
        offset: u64,
    },
}

impl GroupError {
    /// The stable code of this error.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Left | Self::Replaced { .. } => ErrorCode::NotInGroup,
            Self::Log(error) => error.code(),
            Self::Refused(refusal) => refusal.code(),
            Self::Stale { .. } => ErrorCode::StaleDelivery,
        }
    }

    /// Whether the operation may have taken effect, or may yet.
    pub const fn effect(&self) -> Effect {
        match self {
            Self::Log(error) => error.effect(),
            Self::Left | Self::Refused(_) | Self::Replaced { .. } | Self::Stale { .. } => {
                Effect::None
            }
        }
    }

    /// Whether the same operation may succeed later. Look at [`effect`](Self::effect) first.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Log(error) => error.is_retryable(),
            Self::Left | Self::Refused(_) | Self::Replaced { .. } | Self::Stale { .. } => {
                self.code().is_retryable()
            }
        }
    }
}
