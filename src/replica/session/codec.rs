//! What goes around the commands of a machine and its answers, so that a retry is known for one.
//!
//! ```text
//! submission  0 | command                                              once
//!             1 | session u64 | serial u64 | lowest u64 | command      numbered
//!             2 | idle ms u64                                          open
//!             3 | session u64                                          end
//!             4 | session u64 | seen u64                               expire
//!             5                                                        mark
//! outcome     0 | index u64 | response                                 done
//!             1 | reason u8                                            refused
//! inquiry     0                                                        not seen
//!             1                                                        in progress
//!             2 | index u64 | response                                 done
//!             3                                                        expired
//!             4                                                        forgotten
//! ```
//!
//! Numbers are little endian. Pure; decoding never panics and copies nothing.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::super::machine::CommandId;
use crate::error::ErrorCode;

const ONCE: u8 = 0;
const NUMBERED: u8 = 1;
const OPEN: u8 = 2;
const END: u8 = 3;
const EXPIRE: u8 = 4;
const MARK: u8 = 5;

const DONE: u8 = 0;
const REFUSED: u8 = 1;

const NOT_SEEN: u8 = 0;
const IN_PROGRESS: u8 = 1;
const INQUIRY_DONE: u8 = 2;
const EXPIRED: u8 = 3;
const FORGOTTEN: u8 = 4;

/// What is proposed: a command with what is known about its sender, or a word about a session.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Submission {
    /// Ends a session. That there is none is no error.
    End {
        /// The session.
        session: u64,
    },
    /// Ends a session if it was idle since `seen`; proposed by the replica that leads.
    Expire {
        /// The session.
        session: u64,
        /// The index at which it was active last when the time began to count.
        seen: u64,
    },
    /// Changes nothing: a place at which the replicas compare their states. Proposed by the replica
    /// that leads, and by whoever wants to know.
    Mark,
    /// A command in a session: applied at most once, however often it is submitted.
    Numbered {
        /// Session and serial. A client numbers its commands from 1.
        id: CommandId,
        /// The lowest serial whose outcome the client still wants; those below are forgotten.
        lowest: u64,
        /// What the machine gets.
        command: Bytes,
    },
    /// A command without a session: each submission is applied.
    Once {
        /// What the machine gets.
        command: Bytes,
    },
    /// Opens a session, whose id is the index at which this is applied.
    Open {
        /// After how long without a command it ends, in whole milliseconds. It is kept within
        /// [`IDLE_MIN`](super::IDLE_MIN) and [`IDLE_MAX`](super::IDLE_MAX).
        idle: Duration,
    },
}

/// What became of a submission.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// It was applied: by this submission, or by an earlier one of the same command.
    Done {
        /// Where it was applied first. For a session that was opened: its id.
        index: u64,
        /// What the machine said then.
        response: Bytes,
    },
    /// This submission changed nothing.
    Refused(SessionError),
}

/// What became of a command that was submitted before.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Inquiry {
    /// It was applied.
    Done {
        /// Where.
        index: u64,
        /// What the machine said.
        response: Bytes,
    },
    /// The session has ended. If the command was applied, nobody knows it any more; from here on
    /// it cannot be.
    Expired,
    /// The client has said that it does not want to know any more. The command may have been
    /// applied; from here on it cannot be.
    Forgotten,
    /// The leader has it and it is not decided.
    InProgress,
    /// It was not applied, and the leader does not have it. A message that is still on its way may
    /// bring it yet.
    NotSeen,
}

/// Why a submission was refused. It changed nothing itself, but an earlier submission of the same
/// command may have.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The session has ended, or never was.
    #[error("the session has expired")]
    Expired,
    /// The client has too many results that it did not acknowledge.
    #[error("too many results of the session are not acknowledged")]
    Full,
    /// The bytes are no submission.
    #[error("not a submission")]
    Malformed,
    /// Another command had this serial.
    #[error("another command had this serial")]
    Mismatch,
    /// The client said before that it does not want the outcome of this serial.
    #[error("the serial is below what was acknowledged")]
    Stale,
}

impl SessionError {
    /// All reasons, with the numbers that they have on the wire.
    const ALL: [Self; 5] =
        [Self::Expired, Self::Full, Self::Malformed, Self::Mismatch, Self::Stale];

    /// The code on the wire.
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::Expired => ErrorCode::SessionExpired,
            Self::Full => ErrorCode::SessionFull,
            Self::Malformed => ErrorCode::InvalidPayload,
            Self::Mismatch => ErrorCode::SerialMismatch,
            Self::Stale => ErrorCode::StaleSerial,
        }
    }

    const fn number(self) -> u8 {
        match self {
            Self::Expired => 1,
            Self::Full => 2,
            Self::Malformed => 3,
            Self::Mismatch => 4,
            Self::Stale => 5,
        }
    }
}

impl Submission {
    /// The bytes to propose.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        match self {
            Self::End { session } => {
                out.put_u8(END);
                out.put_u64_le(*session);
            }
            Self::Expire { session, seen } => {
                out.put_u8(EXPIRE);
                out.put_u64_le(*session);
                out.put_u64_le(*seen);
            }
            Self::Mark => out.put_u8(MARK),
            Self::Numbered { id, lowest, command } => {
                out.reserve(25 + command.len());
                out.put_u8(NUMBERED);
                out.put_u64_le(id.session);
                out.put_u64_le(id.serial);
                out.put_u64_le(*lowest);
                out.put_slice(command);
            }
            Self::Once { command } => {
                out.reserve(1 + command.len());
                out.put_u8(ONCE);
                out.put_slice(command);
            }
            Self::Open { idle } => {
                out.put_u8(OPEN);
                out.put_u64_le(u64::try_from(idle.as_millis()).unwrap_or(u64::MAX));
            }
        }
        out.freeze()
    }

    /// Reads a submission; its command is a slice of `bytes`.
    ///
    /// # Errors
    ///
    /// [`SessionError::Malformed`]: the bytes are something else. So is a command without bytes,
    /// or a serial of 0 or below `lowest`.
    pub fn decode(bytes: &Bytes) -> Result<Self, SessionError> {
        let mut input = bytes.clone();
        let kind = input.try_get_u8().map_err(|_| SessionError::Malformed)?;
        if kind == ONCE {
            return if input.is_empty() {
                Err(SessionError::Malformed)
            } else {
                Ok(Self::Once { command: input })
            };
        }
        let submission = match kind {
            END => Self::End { session: number(&mut input)? },
            EXPIRE => Self::Expire { session: number(&mut input)?, seen: number(&mut input)? },
            MARK => Self::Mark,
            NUMBERED => {
                let id = CommandId { session: number(&mut input)?, serial: number(&mut input)? };
                let lowest = number(&mut input)?;
                if id.serial == 0 || lowest > id.serial || input.is_empty() {
                    return Err(SessionError::Malformed);
                }
                return Ok(Self::Numbered { id, lowest, command: input });
            }
            OPEN => Self::Open { idle: Duration::from_millis(number(&mut input)?) },
            _ => return Err(SessionError::Malformed),
        };
        if input.is_empty() { Ok(submission) } else { Err(SessionError::Malformed) }
    }
}

impl Outcome {
    /// The bytes of the answer.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        match self {
            Self::Done { index, response } => {
                out.reserve(9 + response.len());
                out.put_u8(DONE);
                out.put_u64_le(*index);
                out.put_slice(response);
            }
            Self::Refused(error) => {
                out.put_u8(REFUSED);
                out.put_u8(error.number());
            }
        }
        out.freeze()
    }

    /// Reads an answer; none if the bytes are something else.
    pub fn decode(bytes: &Bytes) -> Option<Self> {
        let mut input = bytes.clone();
        match input.try_get_u8().ok()? {
            DONE => Some(Self::Done { index: input.try_get_u64_le().ok()?, response: input }),
            REFUSED => {
                let number = input.try_get_u8().ok()?;
                let known = SessionError::ALL.iter().find(|error| error.number() == number)?;
                input.is_empty().then_some(Self::Refused(*known))
            }
            _ => None,
        }
    }
}

impl Inquiry {
    /// The bytes of the answer.
    pub fn encode(&self) -> Bytes {
        let kind = match self {
            Self::Done { index, response } => {
                let mut out = BytesMut::with_capacity(9 + response.len());
                out.put_u8(INQUIRY_DONE);
                out.put_u64_le(*index);
                out.put_slice(response);
                return out.freeze();
            }
            Self::Expired => EXPIRED,
            Self::Forgotten => FORGOTTEN,
            Self::InProgress => IN_PROGRESS,
            Self::NotSeen => NOT_SEEN,
        };
        Bytes::copy_from_slice(&[kind])
    }

    /// Reads an answer; none if the bytes are something else.
    pub fn decode(bytes: &Bytes) -> Option<Self> {
        let mut input = bytes.clone();
        let inquiry = match input.try_get_u8().ok()? {
            INQUIRY_DONE => {
                let index = input.try_get_u64_le().ok()?;
                return Some(Self::Done { index, response: input });
            }
            EXPIRED => Self::Expired,
            FORGOTTEN => Self::Forgotten,
            IN_PROGRESS => Self::InProgress,
            NOT_SEEN => Self::NotSeen,
            _ => return None,
        };
        input.is_empty().then_some(inquiry)
    }
}

fn number(input: &mut Bytes) -> Result<u64, SessionError> {
    input.try_get_u64_le().map_err(|_| SessionError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn submissions() -> Vec<Submission> {
        let (id, command) = (CommandId { session: 7, serial: 9 }, Bytes::from_static(b"\0\xff"));
        vec![
            Submission::End { session: u64::MAX },
            Submission::Expire { session: 7, seen: 8 },
            Submission::Numbered { id, lowest: 9, command: command.clone() },
            Submission::Once { command },
            Submission::Open { idle: Duration::from_millis(1) },
            Submission::Mark,
        ]
    }

    /// What was proposed once is in the log for ever and has to be read for ever.
    #[test]
    fn submissions_survive_the_round_trip_and_cuts_are_refused() {
        for submission in submissions() {
            let bytes = submission.encode();
            assert_eq!(Submission::decode(&bytes), Ok(submission.clone()));
            // A command may end anywhere, but not before it begins.
            let header = match submission {
                Submission::Numbered { .. } => 26,
                Submission::Once { .. } => 2,
                Submission::End { .. }
                | Submission::Expire { .. }
                | Submission::Mark
                | Submission::Open { .. } => bytes.len(),
            };
            for cut in 0..header {
                let cut = Submission::decode(&bytes.slice(..cut));
                assert_eq!(cut, Err(SessionError::Malformed), "{submission:?}");
            }
        }
    }

    /// Impossible numbers would break what sessions count on.
    #[test]
    fn serial_of_zero_or_below_the_lowest_is_refused() {
        let numbered = |serial, lowest| {
            let id = CommandId { session: 1, serial };
            let command = Bytes::from_static(b"x");
            Submission::decode(&Submission::Numbered { id, lowest, command }.encode())
        };
        assert!(numbered(1, 1).is_ok() && numbered(1, 0).is_ok());
        assert_eq!(numbered(0, 0), Err(SessionError::Malformed));
        assert_eq!(numbered(1, 2), Err(SessionError::Malformed));
    }

    /// Answers are told apart by their first byte, whatever the machine says after it.
    #[test]
    fn answers_survive_the_round_trip() {
        let done = |response: &'static [u8]| Outcome::Done { index: 3, response: response.into() };
        let mut outcomes = vec![done(b""), done(b"\x01\x01")];
        outcomes.extend(SessionError::ALL.map(Outcome::Refused));
        for outcome in outcomes {
            assert_eq!(Outcome::decode(&outcome.encode()), Some(outcome));
        }
        let done = Inquiry::Done { index: 3, response: Bytes::from_static(b"x") };
        for inquiry in
            [done, Inquiry::Expired, Inquiry::Forgotten, Inquiry::InProgress, Inquiry::NotSeen]
        {
            assert_eq!(Inquiry::decode(&inquiry.encode()), Some(inquiry));
        }
    }

    proptest! {
        /// The bytes come from a peer: whatever they are, the answer is a value.
        #[test]
        fn decoding_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let bytes = Bytes::from(bytes);
            if let Ok(submission) = Submission::decode(&bytes) {
                prop_assert_eq!(submission.encode(), bytes.clone());
            }
            if let Some(outcome) = Outcome::decode(&bytes) {
                prop_assert_eq!(outcome.encode(), bytes.clone());
            }
            if let Some(inquiry) = Inquiry::decode(&bytes) {
                prop_assert_eq!(inquiry.encode(), bytes);
            }
        }
    }
}
