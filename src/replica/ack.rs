//! How strongly a write is to be held before it is acknowledged, and how strongly it is.
//!
//! A client asks with every write, in front of the submission:
//!
//! ```text
//! 0x10                none        0x12                quorum; so is a submission without this
//! 0x11                leader      0x13 | minimum u8   all
//! ```
//!
//! Submissions begin with other bytes. What was asked for is no part of the submission, so the same
//! command may be submitted again with another level.
//!
//! The levels are those of Kafka's `acks` and `min.insync.replicas`, with Raft's quorum between
//! them. Pure; decoding never panics and copies nothing.

use std::fmt;
use std::str::FromStr;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::core::Applied;

const NONE: u8 = 0x10;
const LEADER: u8 = 0x11;
const QUORUM: u8 = 0x12;
const ALL: u8 = 0x13;

/// When a write is acknowledged.
///
/// | | answered when | can be lost |
/// |---|---|---|
/// | `none` | never: the call returns when the command was handed to the transport | by anything |
/// | `leader` | the leader has it on its own disk | by a change of leader, even a short one |
/// | `quorum` | it is committed and applied | only with the disks of a quorum |
/// | `all` | every replica in sync has it as well | only with the disks of all of those |
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Acks {
    /// Nobody answers, and nobody tries again. Whether it was applied is not known; what did not
    /// get as far as a leader is counted where it was dropped.
    None,
    /// The leader has it on its own disk. It is a promise of one machine: another leader may not
    /// have it, and then it never happened. There is no response of the machine yet.
    Leader,
    /// It is on the disks of a quorum, and applied.
    #[default]
    Quorum,
    /// It is applied, and on the disks of all voters that are in sync: those that had everything
    /// within the [lag limit](super::Options::in_sync_lag_max). Who falls out of the set is not
    /// waited for.
    All {
        /// Replicas, the leader among them, that must be in sync; with fewer the write is refused.
        min_insync: u8,
    },
}

impl Acks {
    /// Puts the level in front of a submission.
    pub(crate) fn around(self, submission: Bytes) -> Bytes {
        let (level, minimum) = match self {
            Self::Quorum => return submission,
            Self::None => (NONE, None),
            Self::Leader => (LEADER, None),
            Self::All { min_insync } => (ALL, Some(min_insync)),
        };
        let mut bytes = BytesMut::with_capacity(2 + submission.len());
        bytes.put_u8(level);
        bytes.extend(minimum);
        bytes.put_slice(&submission);
        bytes.freeze()
    }

    /// Takes the level off a submission; none if there is the beginning of one and no more.
    pub(crate) fn split(mut bytes: Bytes) -> Option<(Self, Bytes)> {
        let acks = match bytes.first() {
            Some(&NONE) => Self::None,
            Some(&LEADER) => Self::Leader,
            Some(&QUORUM) => Self::Quorum,
            Some(&ALL) => {
                bytes.advance(1);
                Self::All { min_insync: *bytes.first()? }
            }
            Some(_) | None => return Some((Self::Quorum, bytes)),
        };
        bytes.advance(1);
        Some((acks, bytes))
    }
}

impl fmt::Display for Acks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Leader => f.write_str("leader"),
            Self::Quorum => f.write_str("quorum"),
            Self::All { min_insync } => write!(f, "all:{min_insync}"),
        }
    }
}

/// The text is no level.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected `none`, `leader`, `quorum`, `all`, or `all:N` with N replicas at least")]
pub struct InvalidAcks;

/// `all` alone asks for as many as there are in sync.
impl FromStr for Acks {
    type Err = InvalidAcks;

    fn from_str(text: &str) -> Result<Self, InvalidAcks> {
        match text {
            "none" => Ok(Self::None),
            "leader" => Ok(Self::Leader),
            "quorum" => Ok(Self::Quorum),
            "all" => Ok(Self::All { min_insync: 1 }),
            _ => {
                let minimum = text.strip_prefix("all:").and_then(|text| text.parse().ok());
                let min_insync = minimum.filter(|minimum| *minimum > 0).ok_or(InvalidAcks)?;
                Ok(Self::All { min_insync })
            }
        }
    }
}

/// How strongly an acknowledged write is held. The numbers are on the wire.
///
/// Of the levels with `Unsynced` the copies count that were written, though some of them may be in
/// the memory of an operating system only: a power cut of as many machines takes the write back.
/// Replicas that do not sync every write say so.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum AckLevel {
    /// It was taken, and may be lost by anything.
    None = 0,
    /// On the disk of the leader.
    Leader = 1,
    /// On the disks of a quorum.
    Quorum = 2,
    /// On the disks of all replicas in sync.
    All = 3,
    /// Written by the leader.
    LeaderUnsynced = 0x81,
    /// Written by a quorum.
    QuorumUnsynced = 0x82,
    /// Written by all replicas in sync.
    AllUnsynced = 0x83,
}

impl AckLevel {
    const LEVELS: [Self; 7] = [
        Self::None,
        Self::Leader,
        Self::Quorum,
        Self::All,
        Self::LeaderUnsynced,
        Self::QuorumUnsynced,
        Self::AllUnsynced,
    ];

    /// The level with this number on the wire.
    pub const fn from_number(number: u8) -> Option<Self> {
        let mut position = 0;
        while position < Self::LEVELS.len() {
            if Self::LEVELS[position] as u8 == number {
                return Some(Self::LEVELS[position]);
            }
            position += 1;
        }
        None
    }

    /// The number on the wire: its lowest two bits are the level, the highest bit says that some of
    /// the copies that count may not be on disk.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The name in output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Leader => "leader",
            Self::Quorum => "quorum",
            Self::All => "all",
            Self::LeaderUnsynced => "leader-unsynced",
            Self::QuorumUnsynced => "quorum-unsynced",
            Self::AllUnsynced => "all-unsynced",
        }
    }

    /// Whether every copy that counts was synced to its disk.
    pub const fn is_durable(self) -> bool {
        !matches!(self, Self::None) && self.number() & 0x80 == 0
    }

    /// Whether as many replicas have the write as `acks` asks for.
    pub const fn reaches(self, acks: Acks) -> bool {
        let asked = match acks {
            Acks::None => 0,
            Acks::Leader => 1,
            Acks::Quorum => 2,
            Acks::All { .. } => 3,
        };
        self.number() & 0x7f >= asked
    }

    /// The level as replicas hold it of which some do not sync every write.
    pub(super) const fn held(self, is_durable: bool) -> Self {
        match self {
            Self::None => Self::None,
            Self::Leader | Self::LeaderUnsynced if is_durable => Self::Leader,
            Self::Leader | Self::LeaderUnsynced => Self::LeaderUnsynced,
            Self::Quorum | Self::QuorumUnsynced if is_durable => Self::Quorum,
            Self::Quorum | Self::QuorumUnsynced => Self::QuorumUnsynced,
            Self::All | Self::AllUnsynced if is_durable => Self::All,
            Self::All | Self::AllUnsynced => Self::AllUnsynced,
        }
    }
}

impl fmt::Display for AckLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is known of a command when its call returns.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Acknowledged {
    /// It was handed to the transport, and that is all.
    Sent,
    /// The leader has it. It is provisional: it is committed soon after, or lost with the leader.
    Accepted {
        /// Where it stands in the leader's log; if it is committed, it is there.
        index: u64,
        /// The term in which it stands there.
        term: u64,
        /// [`AckLevel::Leader`] or [`AckLevel::LeaderUnsynced`].
        level: AckLevel,
    },
    /// It is committed and applied.
    Applied(Applied),
}

impl Acknowledged {
    /// How strongly it is held.
    pub const fn level(&self) -> AckLevel {
        match self {
            Self::Sent => AckLevel::None,
            Self::Accepted { level, .. } => *level,
            Self::Applied(applied) => applied.level,
        }
    }

    /// The answer of a leader, by the level that it reached.
    pub(super) fn of(applied: Applied) -> Self {
        let Applied { index, term, level, .. } = applied;
        match level {
            AckLevel::None => Self::Sent,
            AckLevel::Leader | AckLevel::LeaderUnsynced => Self::Accepted { index, term, level },
            AckLevel::All | AckLevel::AllUnsynced | AckLevel::Quorum | AckLevel::QuorumUnsynced => {
                Self::Applied(applied)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EVERY: [Acks; 5] = [
        Acks::None,
        Acks::Leader,
        Acks::Quorum,
        Acks::All { min_insync: 0 },
        Acks::All { min_insync: 0x13 },
    ];

    /// A client of an older version sends no level, and means the quorum.
    #[test]
    fn levels_come_off_as_they_were_put_on_and_none_means_quorum() {
        let submission = Bytes::from_static(b"\x01submission");
        for acks in EVERY {
            let split = Acks::split(acks.around(submission.clone()));
            assert_eq!(split, Some((acks, submission.clone())), "{acks}");
        }
        assert_eq!(Acks::split(submission.clone()), Some((Acks::Quorum, submission)));
        let explicit = Acks::split(Bytes::from_static(b"\x12\x01x"));
        assert_eq!(explicit, Some((Acks::Quorum, Bytes::from_static(b"\x01x"))));
        assert_eq!(Acks::split(Bytes::from_static(b"\x13")), None, "the minimum is missing");
    }

    #[test]
    fn texts_round_trip_and_others_are_refused() {
        for acks in EVERY.into_iter().filter(|acks| *acks != Acks::All { min_insync: 0 }) {
            assert_eq!(acks.to_string().parse(), Ok(acks));
        }
        assert_eq!("all".parse(), Ok(Acks::All { min_insync: 1 }));
        for bad in ["", "two", "ALL", "all:", "all:0", "all:256", "all:-1", "quorum:2"] {
            assert_eq!(bad.parse::<Acks>(), Err(InvalidAcks), "{bad}");
        }
    }

    /// What a reply claims is compared with what was asked for; a flag must not make it stronger.
    #[test]
    fn level_reaches_what_is_not_stronger_and_unsynced_is_not_durable() {
        for level in AckLevel::LEVELS {
            assert_eq!(AckLevel::from_number(level.number()), Some(level));
            assert!(level.reaches(Acks::None));
            assert_eq!(level.is_durable(), (1..4).contains(&level.number()), "{level}");
            assert_eq!(serde_json::to_value(level).unwrap(), level.name());
        }
        let all = Acks::All { min_insync: 1 };
        assert!(AckLevel::AllUnsynced.reaches(all) && !AckLevel::QuorumUnsynced.reaches(all));
        assert!(!AckLevel::LeaderUnsynced.reaches(Acks::Quorum));
        assert_eq!(AckLevel::from_number(0x80), None, "nothing cannot be unsynced");
    }

    proptest! {
        /// Whatever a client sends, there is a level and a rest, or a refusal.
        #[test]
        fn any_bytes_are_split_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..9)) {
            let bytes = Bytes::from(bytes);
            if let Some((acks, rest)) = Acks::split(bytes.clone()) {
                prop_assert!(rest.len() + 2 >= bytes.len());
                prop_assert_eq!(Acks::split(acks.around(rest.clone())), match acks {
                    // Without a level of its own the rest speaks for itself.
                    Acks::Quorum => Acks::split(rest),
                    Acks::All { .. } | Acks::Leader | Acks::None => Some((acks, rest)),
                });
            }
        }
    }
}
