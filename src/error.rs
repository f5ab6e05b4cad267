//! The error codes shared by the wire, the command line and the documentation.
//!
//! Each layer has its own error enum; what crosses a boundary (a reply, an exit code, a line of
//! JSON) is an [`ErrorCode`], whose number and name never change, and an [`Effect`], which says
//! what a caller has to know before trying again.

use std::fmt;

/// Whether a failed operation may have taken effect.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// It did not take effect: trying again is safe.
    None,
    /// It may have taken effect: look before trying again, unless it is idempotent.
    Unknown,
}

macro_rules! error_codes {
    ($($(#[$doc:meta])+ $variant:ident = $number:literal, $name:literal, $effect:ident, $retry:literal;)+) => {
        /// What went wrong, as a stable number on the wire and a stable name everywhere else.
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        #[non_exhaustive]
        pub enum ErrorCode {
            $($(#[$doc])+ $variant,)+
            /// A number this version does not know, or a handler's own (`0x8000` and above).
            Other(u16),
        }

        impl ErrorCode {
            /// Every code this version knows, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The number on the wire.
            pub const fn number(self) -> u16 {
                match self {
                    $(Self::$variant => $number,)+
                    Self::Other(number) => number,
                }
            }

            /// The code with this number.
            pub const fn from_number(number: u16) -> Self {
                match number {
                    $($number => Self::$variant,)+
                    other => Self::Other(other),
                }
            }

            /// The name in output and documentation.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                    Self::Other(_) => "OTHER",
                }
            }

            /// Whether an operation refused with this code may have taken effect.
            pub const fn effect(self) -> Effect {
                match self {
                    $(Self::$variant => Effect::$effect,)+
                    Self::Other(_) => Effect::Unknown,
                }
            }

            /// Whether the same operation may succeed if it is tried again later.
            pub const fn is_retryable(self) -> bool {
                match self {
                    $(Self::$variant => $retry,)+
                    Self::Other(_) => false,
                }
            }
        }
    };
}

error_codes! {
    /// The subject has no handler on the node that was asked.
    NoHandler = 1, "NO_HANDLER", None, false;
    /// The handler panicked or failed without a code of its own.
    HandlerError = 2, "HANDLER_ERROR", Unknown, false;
    /// The deadline had passed before the handler was started.
    Expired = 3, "EXPIRED", None, true;
    /// A queue on the other side is full.
    Busy = 4, "BUSY", None, true;
    /// The payload is larger than the limit.
    PayloadTooLarge = 5, "PAYLOAD_TOO_LARGE", None, false;
    /// The payload is not what the handler expects.
    InvalidPayload = 6, "INVALID_PAYLOAD", None, false;
    /// The envelope is malformed or not allowed here.
    InvalidEnvelope = 7, "INVALID_ENVELOPE", None, false;
    /// The subject belongs to the system or is malformed.
    InvalidSubject = 8, "INVALID_SUBJECT", None, false;
    /// The node is stopping.
    ShuttingDown = 9, "SHUTTING_DOWN", None, true;
    /// The node, or the peer, refuses on purpose.
    Refused = 10, "REFUSED", None, false;
    /// No joined peer has this id.
    NodeNotFound = 11, "NODE_NOT_FOUND", None, true;
    /// No joined peer matches the filter.
    NoNodesMatchFilter = 12, "NO_NODES_MATCH_FILTER", None, true;
    /// No reply within the deadline.
    RequestTimeout = 13, "REQUEST_TIMEOUT", Unknown, true;
    /// The peer left before it replied.
    PeerLost = 14, "PEER_LOST", Unknown, true;
    /// Our own queue to the peer is full.
    WouldBlock = 15, "WOULD_BLOCK", None, true;
    /// The address cannot be understood.
    InvalidAddress = 16, "INVALID_ADDRESS", None, false;
    /// The address cannot be bound.
    BindFailed = 17, "BIND_FAILED", None, false;
    /// The node is bound already.
    AlreadyBound = 18, "ALREADY_BOUND", None, false;
    /// The handshake has not been acknowledged.
    ProtocolNotReady = 19, "PROTOCOL_NOT_READY", None, true;
    /// The node is connected to this peer already.
    DuplicateConnection = 20, "DUPLICATE_CONNECTION", None, false;

    /// This replica is not the leader.
    NotLeader = 32, "NOT_LEADER", None, true;
    /// No quorum answered; the operation was not proposed.
    NoQuorum = 33, "NO_QUORUM", None, true;
    /// No quorum acknowledged in time; the operation may commit later.
    QuorumFailed = 34, "QUORUM_FAILED", Unknown, true;
    /// The disk has no room; reads go on.
    NoSpace = 35, "NO_SPACE", None, true;
    /// A write or a sync of the log failed; the replica has stopped.
    IoError = 36, "IO_ERROR", Unknown, false;
    /// A file of the replica is damaged.
    Corrupt = 37, "CORRUPT", None, false;
    /// The replica has no such key or record.
    NotFound = 38, "NOT_FOUND", None, false;
    /// The node runs no replica.
    NoReplica = 39, "NO_REPLICA", None, false;
    /// Too many proposals wait for the quorum.
    ProposalsFull = 40, "PROPOSALS_FULL", None, true;
    /// The session has ended; an earlier submission of the command may have been applied.
    SessionExpired = 41, "SESSION_EXPIRED", Unknown, false;
    /// Another command had this serial; this one was not applied.
    SerialMismatch = 42, "SERIAL_MISMATCH", None, false;
    /// The client said before that it does not want the outcome of this serial.
    StaleSerial = 43, "STALE_SERIAL", Unknown, false;
    /// Too many results of the session are not acknowledged.
    SessionFull = 44, "SESSION_FULL", None, true;
    /// Fewer replicas are in sync than the write asks for; it was not proposed.
    InsufficientIsr = 45, "INSUFFICIENT_ISR", None, true;
    /// The write is committed, but not on as many replicas in sync as it asks for.
    NotOnAll = 46, "NOT_ON_ALL", Unknown, true;
    /// No member has this directory: it was removed, or replaced by another.
    DirectoryUnknown = 47, "DIRECTORY_UNKNOWN", None, false;

    /// A condition of the write did not hold.
    CasFailed = 48, "CAS_FAILED", None, false;
    /// The lock is not held with this fencing token any more.
    Fenced = 49, "FENCED", None, false;
    /// The revision that was asked for is forgotten.
    Compacted = 50, "COMPACTED", None, false;
    /// The store would become larger than it may; clearing keys still works.
    QuotaExceeded = 51, "QUOTA_EXCEEDED", None, false;
    /// There is no such lease: it has expired, or was revoked.
    LeaseNotFound = 52, "LEASE_NOT_FOUND", None, false;
    /// The lock was lost before it was released.
    LockLost = 53, "LOCK_LOST", None, false;
    /// The value is no counter, or would not fit into one.
    NotANumber = 54, "NOT_A_NUMBER", None, false;
    /// The replica has not come to the revision that was asked for.
    Behind = 55, "BEHIND", None, true;

    /// The log has no such topic.
    TopicUnknown = 56, "TOPIC_UNKNOWN", None, false;
    /// The topic exists with other options.
    TopicExists = 57, "TOPIC_EXISTS", None, false;
    /// The records would not have got the offset that was expected.
    OffsetMismatch = 58, "OFFSET_MISMATCH", None, false;
    /// The records at this offset are not kept any more.
    OffsetTooOld = 59, "OFFSET_TOO_OLD", None, false;
    /// A reader was further behind than it allows itself to be.
    TooSlow = 60, "TOO_SLOW", None, false;
    /// The cursor is not where it was expected.
    CursorMismatch = 61, "CURSOR_MISMATCH", None, false;
    /// There are as many topics or cursors as there may be.
    LogLimit = 62, "LOG_LIMIT", None, true;
    /// The replica lacks a part of the log; others have it.
    LogBehind = 63, "LOG_BEHIND", None, true;

    /// A change of the members is under way.
    ChangePending = 64, "CHANGE_PENDING", None, true;
    /// There is such a member already, with another directory.
    MemberExists = 65, "MEMBER_EXISTS", None, false;
    /// The learner lacks too much to vote, or does not answer.
    MemberLags = 66, "MEMBER_LAGS", None, true;
    /// There is no such member, or no such node that could become one.
    MemberUnknown = 67, "MEMBER_UNKNOWN", None, true;
    /// A learner cannot lead.
    NotVoter = 68, "NOT_VOTER", None, false;
    /// Without the member too few voters would answer.
    QuorumAtRisk = 69, "QUORUM_AT_RISK", None, true;

    /// The topic has no such group of consumers.
    GroupNotFound = 72, "GROUP_NOT_FOUND", None, false;
    /// There is such a group, with other options.
    GroupDiffers = 73, "GROUP_DIFFERS", None, false;
    /// The topic has too many groups, or the group too many members.
    GroupLimit = 74, "GROUP_LIMIT", None, true;
    /// The member left its group, or was silent for too long.
    NotInGroup = 75, "NOT_IN_GROUP", None, false;
    /// The record was given to another member, or is done with.
    StaleDelivery = 76, "STALE_DELIVERY", None, false;
    /// Too many records of the group are pending.
    GroupFull = 77, "GROUP_FULL", None, true;

    /// The replica waits for the other initial members; the cluster has not begun.
    NotFormed = 80, "NOT_FORMED", None, true;
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Other(number) = self {
            return write!(f, "OTHER({number})");
        }
        f.write_str(self.name())
    }
}

impl serde::Serialize for ErrorCode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers are a promise to other languages: each is there once and survives the round trip.
    #[test]
    fn numbers_are_unique_and_round_trip() {
        let mut seen = std::collections::BTreeSet::new();
        for code in ErrorCode::ALL {
            assert!(seen.insert(code.number()), "{code} has the number of another");
            assert_eq!(ErrorCode::from_number(code.number()), *code);
        }
        assert_eq!(ErrorCode::from_number(0x8001), ErrorCode::Other(0x8001));
    }
}
