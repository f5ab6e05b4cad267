//! Why a log does not do what it is asked for.
//!
//! Pure. What is refused has changed nothing.

use crate::error::ErrorCode;

use super::command::InvalidCommand;
use super::record::InvalidRecord;

/// Why a command or a query was refused. It changed nothing.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The replica that was asked has not caught up with what the topic has; others have.
    #[error("the replica has the log only from entry {first} on: it is catching up")]
    Behind {
        /// The first entry that it has.
        first: u64,
    },
    /// The cursor is not what was expected, but this.
    #[error("the cursor is at {current}, not where it was expected")]
    CursorMismatch {
        /// Where it is.
        current: u64,
    },
    /// There is no such cursor, but one was expected.
    #[error("there is no such cursor, but one was expected")]
    CursorMissing,
    /// The topic, or the group of topics, has as many cursors as it may have.
    #[error("there are {limit} cursors already, which is the limit")]
    CursorsFull {
        /// The limit.
        limit: u64,
    },
    /// The log on the disk of the replica that was asked cannot be read.
    #[error("the log of the replica cannot be read")]
    Damaged,
    /// There are as many groups of consumers as there may be.
    #[error("there are {limit} groups of consumers already, which is the limit")]
    GroupsFull {
        /// The limit.
        limit: u64,
    },
    /// The bytes are no command and no query.
    #[error("not a command or a query of the log")]
    Invalid,
    /// The topic is compacted by key, and a record has none.
    #[error("records of this topic need a key: it is compacted")]
    KeyMissing,
    /// A name is none.
    #[error("a name has 1 to 255 letters, digits, dots, underscores and hyphens of ASCII")]
    Name,
    /// The first record would not have got the offset that was expected.
    #[error("the next offset is {current}, not the one that was expected")]
    OffsetMismatch {
        /// The offset that it would have got.
        current: u64,
    },
    /// The records at this offset are not kept any more.
    #[error("the oldest offset that is kept is {first}")]
    OffsetTooOld {
        /// The first that is kept.
        first: u64,
    },
    /// An option is outside its limits.
    #[error("an option of the topic is outside its limits")]
    Options,
    /// The round of compaction is over, or its step does not fit to what the topic has.
    #[error("the step does not fit to the round of compaction of the topic")]
    RoundOver,
    /// The records are not records, or not as many as was said.
    #[error("not a batch of records")]
    Records,
    /// The topic exists with other options.
    #[error("the topic exists with other options")]
    TopicExists,
    /// The group has as many topics as it may have.
    #[error("there are {limit} topics in this group already, which is the limit")]
    TopicsFull {
        /// The limit.
        limit: u64,
    },
    /// There is no such topic, or not the one that was meant: it was deleted.
    #[error("there is no such topic")]
    TopicUnknown,
    /// A record or a batch has more bytes than the topic takes.
    #[error("a record of this topic has at most {limit} bytes")]
    TooLarge {
        /// The most that a record may have.
        limit: u64,
    },
}

impl Refusal {
    /// The code on the wire, in output and in documentation.
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::Behind { .. } => ErrorCode::LogBehind,
            Self::CursorMismatch { .. } | Self::CursorMissing => ErrorCode::CursorMismatch,
            Self::CursorsFull { .. } | Self::GroupsFull { .. } | Self::TopicsFull { .. } => {
                ErrorCode::LogLimit
            }
            Self::Damaged => ErrorCode::Corrupt,
            Self::Invalid
            | Self::KeyMissing
            | Self::Name
            | Self::Options
            | Self::Records
            | Self::RoundOver => ErrorCode::InvalidPayload,
            Self::OffsetMismatch { .. } => ErrorCode::OffsetMismatch,
            Self::OffsetTooOld { .. } => ErrorCode::OffsetTooOld,
            Self::TopicExists => ErrorCode::TopicExists,
            Self::TopicUnknown => ErrorCode::TopicUnknown,
            Self::TooLarge { .. } => ErrorCode::PayloadTooLarge,
        }
    }

    /// Number and detail in an answer.
    pub(super) const fn parts(self) -> (u8, u64) {
        match self {
            Self::Invalid => (1, 0),
            Self::Name => (2, 0),
            Self::Options => (3, 0),
            Self::Records => (4, 0),
            Self::TooLarge { limit } => (5, limit),
            Self::TopicUnknown => (6, 0),
            Self::TopicExists => (7, 0),
            Self::TopicsFull { limit } => (8, limit),
            Self::OffsetMismatch { current } => (9, current),
            Self::OffsetTooOld { first } => (10, first),
            Self::CursorMismatch { current } => (11, current),
            Self::CursorMissing => (12, 0),
            Self::CursorsFull { limit } => (13, limit),
            Self::Behind { first } => (14, first),
            Self::Damaged => (15, 0),
            Self::GroupsFull { limit } => (16, limit),
            Self::KeyMissing => (17, 0),
            Self::RoundOver => (18, 0),
        }
    }

    pub(super) const fn from_parts(number: u8, detail: u64) -> Option<Self> {
        let refusal = match number {
            1 => Self::Invalid,
            2 => Self::Name,
            3 => Self::Options,
            4 => Self::Records,
            5 => Self::TooLarge { limit: detail },
            6 => Self::TopicUnknown,
            7 => Self::TopicExists,
            8 => Self::TopicsFull { limit: detail },
            9 => Self::OffsetMismatch { current: detail },
            10 => Self::OffsetTooOld { first: detail },
            11 => Self::CursorMismatch { current: detail },
            12 => Self::CursorMissing,
            13 => Self::CursorsFull { limit: detail },
            14 => Self::Behind { first: detail },
            15 => Self::Damaged,
            16 => Self::GroupsFull { limit: detail },
            17 => Self::KeyMissing,
            18 => Self::RoundOver,
            _ => return None,
        };
        Some(refusal)
    }
}

impl From<InvalidCommand> for Refusal {
    fn from(invalid: InvalidCommand) -> Self {
        match invalid {
            InvalidCommand::Damaged | InvalidCommand::Unknown => Self::Invalid,
            InvalidCommand::Name => Self::Name,
            InvalidCommand::Options => Self::Options,
        }
    }
}

impl From<InvalidRecord> for Refusal {
    fn from(invalid: InvalidRecord) -> Self {
        match invalid {
            InvalidRecord::TooLarge => Self::TooLarge { limit: super::RECORD_BYTES_MAX as u64 },
            InvalidRecord::Count | InvalidRecord::Damaged | InvalidRecord::Key => Self::Records,
        }
    }
}
