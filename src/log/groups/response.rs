//! Answers of groups, and their bytes.
//!
//! ```text
//! response  0                                                           done
//!           1 | reason u8                                               refused
//!           2 | member u64 | options                                    joined
//!           3 | (offset u64 | delivery u64 | tries u32) list            fetched
//!           4 | (outcome u8) list                                       settled
//!           5 | status list                                             groups
//!           6 | status                                                  status
//!           7 | (id u64 | name text | in flight u32) list               members
//!           8 | (offset u64 | tries u32) list                           dead letters
//!           9 | 0 or 1                                                  ready
//! outcome   0 done | 1 stale | 2 full
//! status    name text | options | floor u64 | next u64 | lag u64 | in flight u64 | available u64
//!           | delayed u64 | dead u64 | members u64 | counts
//! counts    acked, redelivered, expired, lost, buried, dropped, skipped u64
//! list      count u32 | items; options and texts as in commands
//! ```
//!
//! Numbers are little endian. Pure; decoding never panics and takes no more memory than there are
//! bytes.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use super::fields::{Input, Unreadable, put_list, put_options, put_text};
use super::options::GroupOptions;
use super::refusal::Refusal;

/// An answer of the groups of a topic.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum GroupResponse {
    /// A page of dead letters.
    Dead(Vec<DeadLetter>),
    /// It is done, or there was nothing to do.
    Done,
    /// What a member gets; it may be nothing.
    Fetched(Vec<Delivered>),
    /// A page of groups.
    Groups(Vec<GroupStatus>),
    /// The member is in.
    Joined {
        /// Its id, which no other life of it has.
        member: u64,
        /// What the group expects of it.
        options: GroupOptions,
    },
    /// A page of members.
    Members(Vec<MemberStatus>),
    /// Whether a fetch would bring something.
    Ready(bool),
    /// Nothing was changed.
    Refused(Refusal),
    /// What became of each record that was named, in order.
    Settled(Vec<Outcome>),
    /// How the group is doing.
    Status(Box<GroupStatus>),
}

/// A record that was given to a member.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Delivered {
    /// Its offset in the topic.
    pub offset: u64,
    /// The number of this delivery, with which it is settled.
    pub delivery: u64,
    /// Which try it is, from 1.
    pub tries: u32,
}

/// Names a delivery that is settled.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Settlement {
    /// The record.
    pub offset: u64,
    /// Its delivery: an earlier one does not count.
    pub delivery: u64,
}

/// What a member says about a record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It is done with.
    Ack,
    /// It failed; it is to be tried again, if it may be, and is a dead letter otherwise.
    Again {
        /// Not before this time has passed; at most a day.
        after: Duration,
    },
    /// There is no use in trying again: it is a dead letter.
    Bury,
    /// The member needs more time, as much again from here on.
    Extend,
    /// The member gives it back unseen, which does not count as a try.
    Release,
}

/// What became of one record that an operation named.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// What was asked for.
    Done,
    /// Nothing: as many records are pending as may be.
    Full,
    /// Nothing: the record was given to somebody else meanwhile, is done with, or was trimmed; or,
    /// for dead letters, it is none.
    Stale,
}

/// A record whose tries are used up. The record itself is where it always was.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize)]
pub struct DeadLetter {
    /// Its offset in the topic.
    pub offset: u64,
    /// How often it was tried.
    pub tries: u32,
}

/// A member as others see it.
#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize)]
pub struct MemberStatus {
    /// Its id.
    pub id: u64,
    /// The name that it joined with.
    pub name: String,
    /// Records that are with it.
    pub in_flight: u32,
}

/// How a group is doing.
#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize)]
pub struct GroupStatus {
    /// Its name.
    pub name: String,
    /// How it hands out records.
    pub options: GroupOptions,
    /// All records below this offset are done with, or are dead letters.
    pub floor: u64,
    /// The lowest offset that was never delivered.
    pub next: u64,
    /// Records of the topic that are neither done with nor dead letters.
    pub lag: u64,
    /// Records that are with members.
    pub in_flight: u64,
    /// Records that wait for another try.
    pub available: u64,
    /// Records that are not to be tried again yet.
    pub delayed: u64,
    /// Dead letters.
    pub dead: u64,
    /// Members.
    pub members: u64,
    /// What has happened since it was created.
    pub counts: Counts,
}

/// What has happened in a group since it was created.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Serialize)]
pub struct Counts {
    /// Records that were acknowledged.
    pub acked: u64,
    /// Deliveries that were not the first of their record.
    pub redelivered: u64,
    /// Deliveries whose time was up.
    pub expired: u64,
    /// Members that were silent for too long.
    pub lost: u64,
    /// Records that became dead letters.
    pub buried: u64,
    /// Dead letters that were given up.
    pub dropped: u64,
    /// Records that the topic forgot before they were done.
    pub skipped: u64,
}

/// The bytes are no answer of a group.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a response of a group")]
pub struct InvalidGroupResponse;

impl GroupResponse {
    /// The bytes of the answer.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(self.number());
        match self {
            Self::Dead(letters) => put_list(&mut out, letters, |out, letter| {
                out.put_u64_le(letter.offset);
                out.put_u32_le(letter.tries);
            }),
            Self::Done => {}
            Self::Fetched(records) => put_list(&mut out, records, |out, record| {
                out.put_u64_le(record.offset);
                out.put_u64_le(record.delivery);
                out.put_u32_le(record.tries);
            }),
            Self::Groups(groups) => put_list(&mut out, groups, put_status),
            Self::Joined { member, options } => {
                out.put_u64_le(*member);
                put_options(&mut out, options);
            }
            Self::Members(members) => put_list(&mut out, members, |out, member| {
                out.put_u64_le(member.id);
                put_text(out, &member.name);
                out.put_u32_le(member.in_flight);
            }),
            Self::Ready(is_ready) => out.put_u8(u8::from(*is_ready)),
            Self::Refused(reason) => out.put_u8(reason.number()),
            Self::Settled(outcomes) => {
                put_list(&mut out, outcomes, |out, outcome| out.put_u8(outcome.number()));
            }
            Self::Status(status) => put_status(&mut out, status),
        }
        out.freeze()
    }

    /// Reads an answer.
    ///
    /// # Errors
    ///
    /// [`InvalidGroupResponse`]: the bytes are something else.
    pub fn decode(bytes: &[u8]) -> Result<Self, InvalidGroupResponse> {
        let mut input = Input(bytes);
        let response = read(&mut input).and_then(|response| input.finish().map(|()| response));
        response.map_err(|Unreadable| InvalidGroupResponse)
    }

    const fn number(&self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Refused(_) => 1,
            Self::Joined { .. } => 2,
            Self::Fetched(_) => 3,
            Self::Settled(_) => 4,
            Self::Groups(_) => 5,
            Self::Status(_) => 6,
            Self::Members(_) => 7,
            Self::Dead(_) => 8,
            Self::Ready(_) => 9,
        }
    }
}

impl From<Result<Self, Refusal>> for GroupResponse {
    fn from(result: Result<Self, Refusal>) -> Self {
        result.unwrap_or_else(Self::Refused)
    }
}

impl Outcome {
    const fn number(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Stale => 1,
            Self::Full => 2,
        }
    }

    fn read(input: &mut Input<'_>) -> Result<Self, Unreadable> {
        match input.u8()? {
            0 => Ok(Self::Done),
            1 => Ok(Self::Stale),
            2 => Ok(Self::Full),
            _ => Err(Unreadable),
        }
    }
}

impl Counts {
    /// In the order of the wire.
    pub(super) const fn numbers(&self) -> [u64; 7] {
        let Self { acked, redelivered, expired, lost, buried, dropped, skipped } = *self;
        [acked, redelivered, expired, lost, buried, dropped, skipped]
    }

    pub(super) fn read(input: &mut Input<'_>) -> Result<Self, Unreadable> {
        Ok(Self {
            acked: input.u64()?,
            redelivered: input.u64()?,
            expired: input.u64()?,
            lost: input.u64()?,
            buried: input.u64()?,
            dropped: input.u64()?,
            skipped: input.u64()?,
        })
    }
}

fn read(input: &mut Input<'_>) -> Result<GroupResponse, Unreadable> {
    Ok(match input.u8()? {
        0 => GroupResponse::Done,
        1 => GroupResponse::Refused(Refusal::from_number(input.u8()?).ok_or(Unreadable)?),
        2 => GroupResponse::Joined { member: input.u64()?, options: input.options()? },
        3 => GroupResponse::Fetched(input.list(|input| {
            let (offset, delivery) = (input.u64()?, input.u64()?);
            Ok(Delivered { offset, delivery, tries: input.u32()? })
        })?),
        4 => GroupResponse::Settled(input.list(Outcome::read)?),
        5 => GroupResponse::Groups(input.list(read_status)?),
        6 => GroupResponse::Status(Box::new(read_status(input)?)),
        7 => GroupResponse::Members(input.list(|input| {
            Ok(MemberStatus { id: input.u64()?, name: input.text()?, in_flight: input.u32()? })
        })?),
        8 => GroupResponse::Dead(
            input.list(|input| Ok(DeadLetter { offset: input.u64()?, tries: input.u32()? }))?,
        ),
        9 => GroupResponse::Ready(match input.u8()? {
            0 => false,
            1 => true,
            _ => return Err(Unreadable),
        }),
        _ => return Err(Unreadable),
    })
}

fn put_status(out: &mut BytesMut, status: &GroupStatus) {
    put_text(out, &status.name);
    put_options(out, &status.options);
    let GroupStatus { floor, next, lag, in_flight, available, delayed, dead, members, .. } = status;
    for number in [floor, next, lag, in_flight, available, delayed, dead, members] {
        out.put_u64_le(*number);
    }
    status.counts.numbers().into_iter().for_each(|number| out.put_u64_le(number));
}

fn read_status(input: &mut Input<'_>) -> Result<GroupStatus, Unreadable> {
    Ok(GroupStatus {
        name: input.text()?,
        options: input.options()?,
        floor: input.u64()?,
        next: input.u64()?,
        lag: input.u64()?,
        in_flight: input.u64()?,
        available: input.u64()?,
        delayed: input.u64()?,
        dead: input.u64()?,
        members: input.u64()?,
        counts: Counts::read(input)?,
    })
}
