//! Why a replica did not do what it was asked, and what is known about the operation afterwards.

use super::machine::CommandId;
use super::session::SessionError;
use crate::error::{Effect, ErrorCode};
use crate::id::NodeId;
use crate::node::RequestError;

/// Why an operation failed. [`Self::effect`] says whether it may have happened nevertheless.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplicaError {
    /// A change of the members is under way. Nothing was proposed.
    #[error("a change of the members is under way")]
    ChangePending,
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
    /// No member of this name has the directory that is to be replaced. Nothing was changed.
    #[error("no member has that directory of {node}")]
    DirectoryUnknown {
        /// Whose it was.
        node: NodeId,
    },
    /// Fewer replicas are in sync than the write asks for. It was not proposed.
    #[error("{in_sync} replicas are in sync, and the write asks for {min_insync}")]
    InsufficientIsr {
        /// Replicas in sync, the leader among them.
        in_sync: usize,
        /// How many it asks for.
        min_insync: u8,
    },
    /// A read, write or sync of the disk failed and the replica has stopped for good. What was
    /// waiting may have taken effect.
    #[error("replica has stopped: {reason}")]
    Io {
        /// In the words of the disk.
        reason: String,
    },
    /// There is a member of this name with another directory, or of this directory with another
    /// name. It has to be removed first. Nothing was changed.
    #[error("{node} is a member already, with another directory")]
    MemberExists {
        /// The member that there is.
        node: NodeId,
    },
    /// The learner lacks too much to vote, or does not answer. Nothing was changed.
    #[error("{node} lacks {lag} entries, or does not answer; to vote it may lack {lag_max}")]
    MemberLags {
        /// The learner.
        node: NodeId,
        /// Entries it lacks, as far as is known.
        lag: u64,
        /// Entries it may lack.
        lag_max: u64,
    },
    /// The bytes are not the name of a node. Nothing was changed.
    #[error("that is not the name of a node")]
    MemberName,
    /// There is no such member; for a new one: no peer of this name that has a directory for this
    /// cluster. Nothing was changed.
    #[error("{node} is no member, or is not linked to the leader")]
    MemberUnknown {
        /// Who was named.
        node: NodeId,
    },
    /// No leader is known, or no quorum confirmed the leader within the deadline. A proposal was
    /// not proposed; a read was not answered.
    #[error("no quorum")]
    NoQuorum,
    /// The cluster has not begun: the replica waits for other initial members, or to be told of a
    /// cluster that it joins. Nothing was proposed.
    #[error("the cluster has not begun{}", waiting_for(missing))]
    NotFormed {
        /// Members that have not been seen.
        missing: Vec<NodeId>,
    },
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
    /// The write is committed, and so on the disks of a quorum, but it is not known to be on as many
    /// as it asked for: one that was in sync did not take it in time, fewer than it asked for are in
    /// sync, or another replica leads.
    #[error("committed at index {index}, but not on all replicas in sync")]
    NotOnAll {
        /// Where it is in the log.
        index: u64,
        /// The term of the leader that proposed it.
        term: u64,
    },
    /// A learner cannot lead. Nothing was changed.
    #[error("{node} does not vote")]
    NotVoter {
        /// Who was named.
        node: NodeId,
    },
    /// Too much waits for the quorum. Nothing was proposed.
    #[error("too many proposals wait for the quorum")]
    ProposalsFull,
    /// Without this member too few voters would answer to decide anything. Nothing was changed.
    #[error("without {node} only {answering} of {voters} voters would answer")]
    QuorumAtRisk {
        /// Who was to be removed.
        node: NodeId,
        /// Voters that would answer.
        answering: usize,
        /// Voters there would be.
        voters: usize,
    },
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
            Self::ChangePending => ErrorCode::ChangePending,
            Self::CommandEmpty => ErrorCode::InvalidPayload,
            Self::CommandTooLarge { .. } => ErrorCode::PayloadTooLarge,
            Self::DirectoryUnknown { .. } => ErrorCode::DirectoryUnknown,
            Self::InsufficientIsr { .. } => ErrorCode::InsufficientIsr,
            Self::Io { .. } => ErrorCode::IoError,
            Self::MemberExists { .. } => ErrorCode::MemberExists,
            Self::MemberLags { .. } => ErrorCode::MemberLags,
            Self::MemberName => ErrorCode::InvalidPayload,
            Self::MemberUnknown { .. } => ErrorCode::MemberUnknown,
            Self::NoQuorum => ErrorCode::NoQuorum,
            Self::NoSpace => ErrorCode::NoSpace,
            Self::NotFormed { .. } => ErrorCode::NotFormed,
            Self::NotLeader { .. } => ErrorCode::NotLeader,
            Self::NotOnAll { .. } => ErrorCode::NotOnAll,
            Self::NotVoter { .. } => ErrorCode::NotVoter,
            Self::QuorumAtRisk { .. } => ErrorCode::QuorumAtRisk,
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

fn waiting_for(missing: &[NodeId]) -> String {
    match missing {
        [] => String::new(),
        missing => {
            let names: Vec<_> = missing.iter().map(NodeId::as_str).collect();
            format!(": it waits for {}", names.join(", "))
        }
    }
}

/// Why a [`Client`](super::Client) could not do an operation, or a
/// [`Replica`](super::Replica) a change of its members. [`Self::effect`] says whether it may have
/// been done.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// What came back is no answer of a replica. A command may have been applied.
    #[error("{node} answered something that is no answer")]
    InvalidAnswer {
        /// Who answered.
        node: NodeId,
    },
    /// No peer that runs a replica was joined within the timeout. Nothing was sent.
    #[error("no peer runs a replica: is the address right, and the node up?")]
    NoReplica,
    /// The service refused or could not do it. Nothing was applied.
    #[error("{code}: {message}")]
    Refused {
        /// The reason.
        code: ErrorCode,
        /// In the words of the replica.
        message: String,
    },
    /// The answer was lost or late. A command may have been applied, or may be yet.
    #[error("the outcome is unknown: {message}")]
    Unknown {
        /// What went wrong first.
        code: ErrorCode,
        /// In words.
        message: String,
        /// With this, [`Client::inquire`](super::Client::inquire) tells later what became of it;
        /// none for a command without a session.
        command: Option<CommandId>,
    },
}

impl ClientError {
    /// The stable code of this error.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::InvalidAnswer { .. } => ErrorCode::InvalidEnvelope,
            Self::NoReplica => ErrorCode::NoReplica,
            Self::Refused { code, .. } | Self::Unknown { code, .. } => *code,
        }
    }

    /// Whether a command may have been applied, or may be yet.
    pub const fn effect(&self) -> Effect {
        match self {
            Self::NoReplica | Self::Refused { .. } => Effect::None,
            Self::InvalidAnswer { .. } | Self::Unknown { .. } => Effect::Unknown,
        }
    }

    /// Whether the same operation may succeed later. Look at [`effect`](Self::effect) first.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::InvalidAnswer { .. } => false,
            Self::NoReplica | Self::Unknown { .. } => true,
            Self::Refused { code, .. } => code.is_retryable(),
        }
    }

    /// What a replica said.
    pub(super) fn answered(code: ErrorCode, message: String) -> Self {
        match code.effect() {
            Effect::None => Self::Refused { code, message },
            Effect::Unknown => Self::Unknown { code, message, command: None },
        }
    }

    pub(super) fn refused_by_session(error: SessionError) -> Self {
        Self::Refused { code: error.code(), message: error.to_string() }
    }

    /// The last submission was refused, but an earlier one may have been applied.
    pub(super) fn unknown_by_session(error: SessionError) -> Self {
        Self::Unknown { code: error.code(), message: error.to_string(), command: None }
    }

    /// Time was up before anything was sent.
    pub(super) fn late() -> Self {
        let error = ReplicaError::NoQuorum;
        Self::Refused { code: error.code(), message: error.to_string() }
    }

    /// Which command it is about.
    pub(super) fn of(self, id: CommandId) -> Self {
        match self {
            Self::Unknown { code, message, .. } => {
                Self::Unknown { code, message, command: Some(id) }
            }
            other @ (Self::InvalidAnswer { .. } | Self::NoReplica | Self::Refused { .. }) => other,
        }
    }

    /// What changes nothing is no mystery when it is not answered.
    pub(super) fn without_effect(self) -> Self {
        match self {
            Self::Unknown { message, .. } => Self::Refused { code: ErrorCode::NoQuorum, message },
            other @ (Self::InvalidAnswer { .. } | Self::NoReplica | Self::Refused { .. }) => other,
        }
    }
}

impl From<RequestError> for ClientError {
    fn from(error: RequestError) -> Self {
        if let RequestError::Handler { code, message, .. } = error {
            return Self::answered(code, message);
        }
        let (code, message) = (error.code(), error.to_string());
        match error.effect() {
            Effect::None => Self::Refused { code, message },
            Effect::Unknown => Self::Unknown { code, message, command: None },
        }
    }
}

impl From<ReplicaError> for ClientError {
    fn from(error: ReplicaError) -> Self {
        Self::answered(error.code(), error.to_string())
    }
}
