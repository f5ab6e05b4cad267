//! What can go wrong with an operation on the key-value store.

use crate::error::{Effect, ErrorCode};
use crate::id::NodeId;
use crate::replica::{ClientError, CommandId, ReplicaError};

use super::command::InvalidCommand;

/// Why an operation failed. [`effect`](Self::effect) tells whether it may have been done.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The key or the value is outside its limits. Nothing was sent.
    #[error(transparent)]
    Invalid(#[from] InvalidCommand),
    /// What came back is no answer of a key-value store. A write may have been done.
    #[error("{node} answered something that is no answer")]
    InvalidAnswer {
        /// Who answered.
        node: NodeId,
    },
    /// No peer that runs a replica was joined within the timeout. Nothing was sent.
    #[error("no peer runs a replica: is the address right, and the node up?")]
    NoReplica,
    /// The store refused or could not do it; `code` tells why and what is known.
    #[error("{code}: {message}")]
    Refused {
        /// The reason.
        code: ErrorCode,
        /// In the words of the replica.
        message: String,
    },
    /// The answer was lost or late. A write may have been done, or may be done yet.
    #[error("the outcome is unknown: {message}")]
    Unknown {
        /// What went wrong first.
        code: ErrorCode,
        /// In words.
        message: String,
        /// With this, [`Kv::inquire`](super::Kv::inquire) tells later what became of it; none for a
        /// write without a session.
        command: Option<CommandId>,
    },
}

impl Error {
    /// The stable code of this error.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Invalid(_) => ErrorCode::InvalidPayload,
            Self::InvalidAnswer { .. } => ErrorCode::InvalidEnvelope,
            Self::NoReplica => ErrorCode::NoReplica,
            Self::Refused { code, .. } | Self::Unknown { code, .. } => *code,
        }
    }

    /// Whether a write may have been done, or may yet be done. A read never has an effect.
    pub fn effect(&self) -> Effect {
        match self {
            Self::Invalid(_) | Self::NoReplica => Effect::None,
            Self::InvalidAnswer { .. } | Self::Unknown { .. } => Effect::Unknown,
            Self::Refused { code, .. } => code.effect(),
        }
    }

    /// Whether the same operation may succeed later. Look at [`effect`](Self::effect) first.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Invalid(_) | Self::InvalidAnswer { .. } => false,
            Self::NoReplica | Self::Unknown { .. } => true,
            Self::Refused { code, .. } => code.is_retryable(),
        }
    }
}

impl From<ClientError> for Error {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::InvalidAnswer { node } => Self::InvalidAnswer { node },
            ClientError::NoReplica => Self::NoReplica,
            ClientError::Refused { code, message } => Self::Refused { code, message },
            ClientError::Unknown { code, message, command } => {
                Self::Unknown { code, message, command }
            }
        }
    }
}

impl From<ReplicaError> for Error {
    fn from(error: ReplicaError) -> Self {
        Self::Refused { code: error.code(), message: error.to_string() }
    }
}
