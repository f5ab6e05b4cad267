//! What can go wrong when a node is started and when it is used.

use std::time::Duration;

use crate::error::{Effect, ErrorCode};
use crate::id::NodeId;
use crate::protocol::payload::PayloadError;
use crate::protocol::system::{LABEL_BYTES_MAX, LABELS_MAX};
use crate::transport::{Address, BindError, InvalidAddress};
use crate::trust::NotDialed;

/// Why a request has no reply.
///
/// [`effect`](Self::effect) tells whether the handler may have run.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// Our own queue to the peer, or the table of requests in flight, is full. Nothing was sent.
    #[error("too many messages wait for {peer}")]
    Full {
        /// The peer.
        peer: NodeId,
    },
    /// The remote node refused, or its handler ran and returned an error of its own; `code` tells
    /// which, and whether the handler may have run.
    #[error("{peer} refused with {code}: {message}")]
    Handler {
        /// The peer.
        peer: NodeId,
        /// Its reason.
        code: ErrorCode,
        /// In its words.
        message: String,
    },
    /// The payload cannot be encoded, is larger than the limit, or the subject is not allowed.
    /// Nothing was sent.
    #[error("invalid request: {0}")]
    Invalid(InvalidMessage),
    /// The reply is not what was asked for. The handler has run.
    #[error("the reply from {peer} cannot be read: {error}")]
    InvalidReply {
        /// The peer.
        peer: NodeId,
        /// What is wrong with its reply.
        error: PayloadError,
    },
    /// No joined peer matches the filter. Nothing was sent.
    #[error("no joined peer matches the filter")]
    NoNodesMatchFilter,
    /// No joined peer has this id. Nothing was sent, so sending again is safe.
    #[error("{peer} has not joined")]
    NoPeer {
        /// The id that was asked for.
        peer: String,
    },
    /// The connection was gone when the request was to be sent. Nothing was sent.
    #[error("{peer} is not connected")]
    NotConnected {
        /// The peer.
        peer: NodeId,
    },
    /// The peer left after the request was sent. Whether the handler ran is unknown.
    #[error("{peer} left before it replied")]
    PeerLost {
        /// The peer.
        peer: NodeId,
    },
    /// This node has stopped. If the request had been sent, whether the handler ran is unknown.
    #[error("this node has stopped")]
    Stopped,
    /// The deadline passed after sending. Whether the handler ran is unknown.
    #[error("no reply from {peer} within {after:?}")]
    Timeout {
        /// The peer.
        peer: NodeId,
        /// The timeout of the call.
        after: Duration,
    },
}

impl RequestError {
    /// The stable code of this error.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Full { .. } => ErrorCode::WouldBlock,
            Self::Handler { code, .. } => *code,
            Self::Invalid(invalid) => invalid.code(),
            Self::InvalidReply { .. } => ErrorCode::InvalidPayload,
            Self::NoNodesMatchFilter => ErrorCode::NoNodesMatchFilter,
            Self::NoPeer { .. } => ErrorCode::NodeNotFound,
            Self::NotConnected { .. } => ErrorCode::ProtocolNotReady,
            Self::PeerLost { .. } => ErrorCode::PeerLost,
            Self::Stopped => ErrorCode::ShuttingDown,
            Self::Timeout { .. } => ErrorCode::RequestTimeout,
        }
    }

    /// Whether the handler may have run.
    pub fn effect(&self) -> Effect {
        if matches!(self, Self::InvalidReply { .. } | Self::Stopped) {
            return Effect::Unknown;
        }
        self.code().effect()
    }

    /// Whether the same request may succeed later. Look at [`effect`](Self::effect) first.
    pub fn is_retryable(&self) -> bool {
        let final_here = matches!(self, Self::InvalidReply { .. } | Self::Stopped);
        !final_here && self.code().is_retryable()
    }
}

/// Why a one-way message was not taken. Nothing was sent.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TickError {
    /// Our own queue to the peer is full.
    #[error("too many messages wait for {peer}")]
    Full {
        /// The peer.
        peer: NodeId,
    },
    /// The payload cannot be encoded, is larger than the limit, or the subject is not allowed.
    #[error("invalid tick: {0}")]
    Invalid(InvalidMessage),
    /// No joined peer matches the filter.
    #[error("no joined peer matches the filter")]
    NoNodesMatchFilter,
    /// No joined peer has this id.
    #[error("{peer} has not joined")]
    NoPeer {
        /// The id that was asked for.
        peer: String,
    },
    /// This node has stopped.
    #[error("this node has stopped")]
    Stopped,
}

impl TickError {
    /// The stable code of this error.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Full { .. } => ErrorCode::WouldBlock,
            Self::Invalid(invalid) => invalid.code(),
            Self::NoNodesMatchFilter => ErrorCode::NoNodesMatchFilter,
            Self::NoPeer { .. } => ErrorCode::NodeNotFound,
            Self::Stopped => ErrorCode::ShuttingDown,
        }
    }

    /// Whether the same tick may succeed later.
    pub fn is_retryable(&self) -> bool {
        self.code().is_retryable()
    }
}

/// What is wrong with a message that a user wants to send.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidMessage {
    /// The payload cannot be encoded.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// Subjects that begin with `_` belong to the system.
    #[error("subject {0:?} belongs to the system")]
    SystemSubject(String),
    /// The subject is malformed.
    #[error("subject {0:?} is malformed: dotted words of printable ASCII, 1 to 255 bytes")]
    Subject(String),
    /// The payload is too large.
    #[error("payload of {bytes} bytes is over the limit of {max}")]
    TooLarge {
        /// Bytes of the payload.
        bytes: usize,
        /// The limit of this node.
        max: usize,
    },
}

impl InvalidMessage {
    /// The stable code of this error.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Payload(_) => ErrorCode::InvalidPayload,
            Self::SystemSubject(_) | Self::Subject(_) => ErrorCode::InvalidSubject,
            Self::TooLarge { .. } => ErrorCode::PayloadTooLarge,
        }
    }
}

/// What a handler returns when it refuses a request.
///
/// `code` and `message` travel to the caller. Any other error becomes
/// [`ErrorCode::HandlerError`] with its text as the message.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct HandlerError {
    /// The reason as a number; an application's own codes are `0x8000` and above.
    pub code: ErrorCode,
    /// The reason for people; cut to 1,024 bytes on the wire.
    pub message: String,
}

impl HandlerError {
    /// An error with this code and message.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// A refusal on purpose: the handler changed nothing.
    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Refused, message)
    }

    /// A failure: what the handler changed is unknown.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::HandlerError, message)
    }
}

impl From<std::convert::Infallible> for HandlerError {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The address to listen on is taken, forbidden or does not exist here.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// An address cannot be understood.
    #[error(transparent)]
    Address(#[from] InvalidAddress),
    /// The bound address means "every interface", which peers cannot dial.
    #[error("{bound} cannot be dialed by peers: say which address they should use (advertise)")]
    Advertise {
        /// What was bound.
        bound: Address,
    },
    /// Other machines could reach the node, which has no keys.
    #[error(
        "other machines can reach {bind}, and a node without keys takes everybody for whom they \
         say they are: give it keys, or allow it explicitly (insecure)"
    )]
    Insecure {
        /// What was to be bound.
        bind: Address,
    },
    /// An address to dial that may not be dialed.
    #[error(transparent)]
    NotDialed(#[from] NotDialed),
    /// Two options contradict each other.
    #[error("{0}")]
    Options(String),
    /// There is no tokio runtime on this thread.
    #[error("a node must be started within a tokio runtime")]
    NoRuntime,
}

/// A node announces at most 64 labels, with names and values of at most 256 bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("at most {LABELS_MAX} labels, with names and values of at most {LABEL_BYTES_MAX} bytes")]
pub struct InvalidLabels;

/// Why peers were not awaited to the end.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// The deadline passed.
    #[error("{joined} of {wanted} peers joined within {after:?}")]
    Timeout {
        /// Peers that match the filter and have joined.
        joined: usize,
        /// Peers that were wanted.
        wanted: usize,
        /// How long was waited.
        after: Duration,
    },
    /// The node has stopped.
    #[error("the node has stopped")]
    Stopped,
}
