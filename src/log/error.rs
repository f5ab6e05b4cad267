//! What can go wrong with an operation on the log.

use std::time::Duration;

use super::command::InvalidCommand;
use super::record::InvalidRecord;
use super::refusal::Refusal;
use crate::error::{Effect, ErrorCode};
use crate::replica::ClientError;

/// Why an operation failed. [`effect`](Self::effect) tells whether it may have been done.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The log could not be asked, or did not answer in time.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The peers do not agree about how many groups the log has, so a topic cannot be found.
    #[error("some peers have a log of {one} groups, others of {other}")]
    GroupsDiffer {
        /// What some say.
        one: u16,
        /// What others say.
        other: u16,
    },
    /// A name or an option is outside its limits. Nothing was sent.
    #[error(transparent)]
    InvalidCommand(#[from] InvalidCommand),
    /// A record is outside its limits, or all together are. Nothing was sent.
    #[error(transparent)]
    InvalidRecord(#[from] InvalidRecord),
    /// The log refused. Nothing was done.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The reader is further behind than it allows itself to be.
    #[error("{records} records behind, the oldest of them {age:?} old")]
    TooSlow {
        /// Records that it has not taken.
        records: u64,
        /// The age of the oldest of them, by the clocks of writer and reader.
        age: Duration,
    },
}

impl Error {
    /// The stable code of this error.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Client(error) => error.code(),
            Self::GroupsDiffer { .. } => ErrorCode::Refused,
            Self::InvalidCommand(_) => ErrorCode::InvalidPayload,
            Self::InvalidRecord(InvalidRecord::TooLarge) => ErrorCode::PayloadTooLarge,
            Self::InvalidRecord(_) => ErrorCode::InvalidPayload,
            Self::Refused(refusal) => refusal.code(),
            Self::TooSlow { .. } => ErrorCode::TooSlow,
        }
    }

    /// Whether records may have been appended, or another change done, or may yet be. What only
    /// asks never has an effect.
    pub const fn effect(&self) -> Effect {
        match self {
            Self::Client(error) => error.effect(),
            Self::GroupsDiffer { .. }
            | Self::InvalidCommand(_)
            | Self::InvalidRecord(_)
            | Self::Refused(_)
            | Self::TooSlow { .. } => Effect::None,
        }
    }

    /// Whether the same operation may succeed later. Look at [`effect`](Self::effect) first.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Client(error) => error.is_retryable(),
            Self::Refused(refusal) => refusal.code().is_retryable(),
            Self::GroupsDiffer { .. }
            | Self::InvalidCommand(_)
            | Self::InvalidRecord(_)
            | Self::TooSlow { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A refusal has changed nothing, or callers could not try again.
    #[test]
    fn only_a_lost_answer_leaves_the_outcome_unknown() {
        for number in 1..=16 {
            let refusal = Refusal::from_parts(number, 7).unwrap();
            assert_eq!(refusal.code().effect(), Effect::None, "{refusal}");
            assert_eq!(Error::from(refusal).effect(), Effect::None);
        }
        let unknown = ClientError::Unknown {
            code: ErrorCode::QuorumFailed,
            message: String::new(),
            command: None,
        };
        assert_eq!(Error::from(unknown).effect(), Effect::Unknown);
    }
}
