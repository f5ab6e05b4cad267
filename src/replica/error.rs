//! Why a replica did not do what it was asked, and what is known about the operation afterwards.

use crate::error::{Effect, ErrorCode};
use crate::id::NodeId;

/// Why an operation failed. [`Self::effect`] says whether it may have happened nevertheless.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplicaError {
    /// The command has no bytes; those mean nothing to a machine. It was not proposed.
    #[error("command is empty")]
    CommandEmpty,
    /// The command is larger than the limit. It was not proposed.
    #[error("command of {bytes} bytes is over the limit of {bytes_max}")]
    CommandTooLarge {
        /// Bytes of the command.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// A read, write or sync of the disk failed and the replica has stopped for good. What was
    /// waiting may have taken effect.
    #[error("replica has stopped: {reason}")]
    Io {
        /// In the words of the disk.
        reason: String,
    },
    /// No leader is known, or no quorum confirmed the leader within the deadline. A proposal was
    /// not proposed; a read was not answered.
    #[error("no quorum")]
    NoQuorum,
    /// The disk has no room for more entries. Nothing was proposed; reads go on.
    #[error("no space left for the log")]
    NoSpace,
    /// Another replica leads. The operation was not proposed here, or its entry was replaced by
    /// another leader's and can never take effect.
    #[error("not the leader")]
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// Too much waits for the quorum. Nothing was proposed.
    #[error("too many proposals wait for the quorum")]
    ProposalsFull,
    /// The proposal was not committed within its deadline. It may be committed later.
    #[error("no quorum acknowledged in time")]
    QuorumFailed,
    /// The replica has stopped, or was asked to before it looked at the operation. Nothing was
    /// proposed.
    #[error("the replica has stopped")]
    Stopped,
}

impl ReplicaError {
    /// The code on the wire.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::CommandEmpty => ErrorCode::InvalidPayload,
            Self::CommandTooLarge { .. } => ErrorCode::PayloadTooLarge,
            Self::Io { .. } => ErrorCode::IoError,
            Self::NoQuorum => ErrorCode::NoQuorum,
            Self::NoSpace => ErrorCode::NoSpace,
            Self::NotLeader { .. } => ErrorCode::NotLeader,
            Self::ProposalsFull => ErrorCode::ProposalsFull,
            Self::QuorumFailed => ErrorCode::QuorumFailed,
            Self::Stopped => ErrorCode::NoReplica,
        }
    }

    /// Whether the operation may have taken effect.
    pub const fn effect(&self) -> Effect {
        self.code().effect()
    }

    /// Whether the same operation may succeed later.
    pub const fn is_retryable(&self) -> bool {
        self.code().is_retryable()
    }
}
