//! What a group is created with, and within which limits.
//!
//! Pure. The limits are part of the replicated state machine: all replicas must have the same.

use std::time::Duration;

use super::refusal::Refusal;
use crate::log::name::is_name;

/// Groups that a topic may have.
pub const GROUPS_MAX: usize = 64;
/// Members that a group may have at a time.
pub const MEMBERS_MAX: usize = 1_024;
/// Records that one fetch, one settlement or one change of dead letters may name, and rows of a
/// page.
pub const BATCH_MAX: usize = 1_024;
/// The most that a group may have pending, and of dead letters.
pub const PENDING_MAX: u32 = 65_536;
/// The shortest time that a group may give its members.
pub const TIMEOUT_MIN: Duration = Duration::from_secs(1);
/// The longest time that a group may give its members, and a member a record.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);

/// How a group hands out records.
///
/// Times are counted in coarse steps, so that they cost few entries of the log: what is to happen
/// after a time happens after it, by up to a half later, and later still when the leader changes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize)]
pub struct GroupOptions {
    /// How long a record may be with a member until it is given to another [default: 30 s; from
    /// 1 s to a day]. Too short, and slow work is done twice; too long, and a record whose worker
    /// hangs waits. A member that needs longer asks for more time.
    #[serde(serialize_with = "as_millis", rename = "ack_timeout_ms")]
    pub ack_timeout: Duration,
    /// How long a member may be silent until it counts as gone [default: 15 s; from 1 s to a day].
    #[serde(serialize_with = "as_millis", rename = "session_timeout_ms")]
    pub session_timeout: Duration,
    /// How often a record is delivered before it becomes a dead letter [default: 5; at least 1].
    pub tries_max: u32,
    /// Records that may be with members or wait for another try [default: 4,096; from 1 to 65,536].
    /// When so many are pending, no new ones are handed out.
    pub pending_max: u32,
    /// Records that may be with one member [default: 256; from 1 to 65,536]. A small number
    /// spreads slow work more evenly.
    pub member_pending_max: u32,
    /// Dead letters that are kept at no cost [default: 4,096; at most 65,536]. Those beyond it count
    /// as pending: a group whose dead letters nobody looks at comes to stand, and loses none.
    pub dead_max: u32,
}

/// Where a new group begins.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Start {
    /// With the next record that is appended.
    End,
    /// With the oldest record that is there.
    #[default]
    First,
    /// With this record; a group with the oldest that is there if it is older, and with the next
    /// one if there are not so many yet.
    Offset(u64),
}

/// The records that a topic has.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Bounds {
    /// Offset of the oldest record that is there.
    pub first: u64,
    /// Offset that the next record will have.
    pub next: u64,
}

impl Default for GroupOptions {
    fn default() -> Self {
        Self {
            ack_timeout: Duration::from_secs(30),
            session_timeout: Duration::from_secs(15),
            tries_max: 5,
            pending_max: 4_096,
            member_pending_max: 256,
            dead_max: 4_096,
        }
    }
}

impl GroupOptions {
    /// Whether every option is within its limits, and times are whole milliseconds.
    ///
    /// # Errors
    ///
    /// [`Refusal::InvalidOptions`].
    pub fn check(&self) -> Result<(), Refusal> {
        let times = [self.ack_timeout, self.session_timeout].iter().all(is_valid_time);
        let counts = [self.pending_max, self.member_pending_max];
        let counts = counts.iter().all(|count| (1..=PENDING_MAX).contains(count));
        let is_valid = times && counts && self.tries_max > 0 && self.dead_max <= PENDING_MAX;
        if is_valid { Ok(()) } else { Err(Refusal::InvalidOptions) }
    }
}

impl Start {
    /// The first offset that a group which is created now delivers.
    pub fn resolve(self, bounds: Bounds) -> u64 {
        match self {
            Self::End => bounds.next,
            Self::First => bounds.first,
            Self::Offset(offset) => offset.clamp(bounds.first, bounds.next.max(bounds.first)),
        }
    }
}

/// Whether a name may be that of a group or a member: letters, digits, `.`, `_` and `-` of ASCII.
///
/// # Errors
///
/// [`Refusal::InvalidName`].
pub(super) fn check_name(name: &str) -> Result<(), Refusal> {
    if is_name(name.as_bytes()) { Ok(()) } else { Err(Refusal::InvalidName) }
}

fn is_valid_time(time: &Duration) -> bool {
    (TIMEOUT_MIN..=TIMEOUT_MAX).contains(time) && time.subsec_nanos().is_multiple_of(1_000_000)
}

fn as_millis<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u128(time.as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both sides of each limit: what was accepted once is replicated for ever.
    #[test]
    fn options_are_checked_on_both_sides() {
        let good = GroupOptions::default();
        assert_eq!(good.check(), Ok(()));
        let edge = GroupOptions {
            ack_timeout: TIMEOUT_MIN,
            session_timeout: TIMEOUT_MAX,
            tries_max: 1,
            pending_max: PENDING_MAX,
            member_pending_max: 1,
            dead_max: 0,
        };
        assert_eq!(edge.check(), Ok(()));
        for bad in [
            GroupOptions { ack_timeout: Duration::from_millis(999), ..good },
            GroupOptions { ack_timeout: Duration::from_micros(1_000_001), ..good },
            GroupOptions { session_timeout: TIMEOUT_MAX + Duration::from_millis(1), ..good },
            GroupOptions { tries_max: 0, ..good },
            GroupOptions { pending_max: 0, ..good },
            GroupOptions { pending_max: PENDING_MAX + 1, ..good },
            GroupOptions { member_pending_max: 0, ..good },
            GroupOptions { dead_max: PENDING_MAX + 1, ..good },
        ] {
            assert_eq!(bad.check(), Err(Refusal::InvalidOptions), "{bad:?}");
        }
    }

    /// A group begins where there are records, or will be.
    #[test]
    fn start_is_within_the_topic() {
        let bounds = Bounds { first: 10, next: 20 };
        for (start, offset) in [
            (Start::First, 10),
            (Start::End, 20),
            (Start::Offset(3), 10),
            (Start::Offset(15), 15),
            (Start::Offset(99), 20),
        ] {
            assert_eq!(start.resolve(bounds), offset, "{start:?}");
        }
    }

    /// What stands in a table, a message or a script needs no escape.
    #[test]
    fn names_are_short_and_plain() {
        assert_eq!(check_name("w1"), Ok(()));
        assert_eq!(check_name(&"w".repeat(255)), Ok(()));
        for name in ["", "a b", "ä", &"w".repeat(256)] {
            assert_eq!(check_name(name), Err(Refusal::InvalidName), "{name:?}");
        }
    }
}
