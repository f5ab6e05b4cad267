//! Why a group does not do what it is asked for.
//!
//! Pure. What is refused has changed nothing.

use crate::error::ErrorCode;

/// Why an operation on a group was refused. It changed nothing.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// There is such a group, with other options.
    #[error("the group exists with other options")]
    Differs,
    /// As many records are pending as may be.
    #[error("too many records of the group are pending")]
    Full,
    /// The name of the group or of the member is none.
    #[error("a name has 1 to 255 letters, digits, dots, underscores and hyphens of ASCII")]
    InvalidName,
    /// An option is outside its limits.
    #[error("an option of the group is outside its limits")]
    InvalidOptions,
    /// The bytes are no operation, or name too many records at once.
    #[error("not an operation on a group")]
    Malformed,
    /// The topic has no such group.
    #[error("the topic has no such group")]
    NoGroup,
    /// The member left, was silent for too long, or joined again elsewhere.
    #[error("not a member of the group")]
    NotMember,
    /// The topic has as many groups as it may have.
    #[error("the topic has too many groups")]
    TooManyGroups,
    /// The group has as many members as it may have.
    #[error("the group has too many members")]
    TooManyMembers,
}

impl Refusal {
    /// All reasons.
    pub(super) const ALL: [Self; 9] = [
        Self::Differs,
        Self::Full,
        Self::InvalidName,
        Self::InvalidOptions,
        Self::Malformed,
        Self::NoGroup,
        Self::NotMember,
        Self::TooManyGroups,
        Self::TooManyMembers,
    ];

    /// The code on the wire.
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::Differs => ErrorCode::GroupDiffers,
            Self::Full => ErrorCode::GroupFull,
            Self::InvalidName | Self::InvalidOptions | Self::Malformed => ErrorCode::InvalidPayload,
            Self::NoGroup => ErrorCode::GroupNotFound,
            Self::NotMember => ErrorCode::NotInGroup,
            Self::TooManyGroups | Self::TooManyMembers => ErrorCode::GroupLimit,
        }
    }

    /// The number in a response.
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Differs => 1,
            Self::Full => 2,
            Self::InvalidName => 3,
            Self::InvalidOptions => 4,
            Self::Malformed => 5,
            Self::NoGroup => 6,
            Self::NotMember => 7,
            Self::TooManyGroups => 8,
            Self::TooManyMembers => 9,
        }
    }

    pub(super) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.number() == number)
    }
}
