//! Commands and queries of groups as bytes.
//!
//! ```text
//! command  0 | group | start | options                                  create
//!          1 | group                                                    delete
//!          2 | group | member text                                      join
//!          3 | group | member u64                                       leave
//!          4 | group | member u64                                       keep alive
//!          5 | group | member u64 | max u32                             fetch
//!          6 | group | member u64 | verdict | settlements               settle
//!          7 | group | offsets                                          requeue
//!          8 | group | offsets                                          drop
//!          9 | group | id u64 | wheel u8 | round u64                    tick
//! query    0 | after text | max u32                                     groups
//!          1 | group                                                    status
//!          2 | group | from u64 | max u32                               members
//!          3 | group | from u64 | max u32                               dead letters
//!          4 | group | member u64                                       ready
//! start    0 first | 1 end | 2, offset u64
//! options  ack timeout ms u64 | session timeout ms u64 | tries u32 | pending u32
//!          | pending per member u32 | dead u32
//! verdict  0 ack | 1, delay ms u64: again | 2 bury | 3 extend | 4 release
//! lists    count u32 | (offset u64 | delivery u64)... or (offset u64)...
//! text     bytes u8 | UTF-8; group and after are texts
//! ```
//!
//! Numbers are little endian. Pure; decoding never panics, and what it returns is within its limits.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use super::fields::{Input, Unreadable, put_list, put_millis, put_options, put_text};
use super::options::{BATCH_MAX, GroupOptions, Start, TIMEOUT_MAX, check_name};
use super::refusal::Refusal;
use super::response::{Settlement, Verdict};
use super::wheel::WheelKind;

/// A change of the groups of a topic.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum GroupCommand {
    /// Makes a group. That it is there already with the same options is no error.
    Create {
        /// Its name.
        group: String,
        /// Where it begins, if it is new.
        start: Start,
        /// How it hands out records.
        options: GroupOptions,
    },
    /// Removes a group and all that is known of it. That there is none is no error.
    Delete {
        /// Its name.
        group: String,
    },
    /// Gives dead letters up: they count as done.
    Drop {
        /// Name of the group.
        group: String,
        /// The records, at most [`BATCH_MAX`].
        offsets: Vec<u64>,
    },
    /// Gives a member records.
    Fetch {
        /// Name of the group.
        group: String,
        /// Who gets them.
        member: u64,
        /// How many at most; never more than [`BATCH_MAX`].
        max: u32,
    },
    /// Takes a member in. A group that is not there is created with default options and begins
    /// with the oldest record. A member with this name that is there leaves.
    Join {
        /// Name of the group.
        group: String,
        /// Name of the member.
        name: String,
    },
    /// A member that has nothing else to say is alive.
    KeepAlive {
        /// Name of the group.
        group: String,
        /// Who.
        member: u64,
    },
    /// A member goes; its records are available to others at once.
    Leave {
        /// Name of the group.
        group: String,
        /// Who.
        member: u64,
    },
    /// Dead letters are tried again from the beginning.
    Requeue {
        /// Name of the group.
        group: String,
        /// The records, at most [`BATCH_MAX`].
        offsets: Vec<u64>,
    },
    /// A member says what became of records.
    Settle {
        /// Name of the group.
        group: String,
        /// Who says so.
        member: u64,
        /// What became of them.
        verdict: Verdict,
        /// Which deliveries, at most [`BATCH_MAX`].
        deliveries: Vec<Settlement>,
    },
    /// A round of a wheel is over; proposed by the replica that leads, when an
    /// [alarm](super::GroupAlarm) goes off.
    Tick {
        /// Name of the group.
        group: String,
        /// Its id: it may be another of the same name.
        id: u64,
        /// Which of its wheels.
        wheel: WheelKind,
        /// Which round.
        round: u64,
    },
}

/// A question about the groups of a topic.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum GroupQuery {
    /// Which dead letters a group has, in pages.
    Dead {
        /// Name of the group.
        group: String,
        /// The lowest offset of the page.
        from: u64,
        /// Rows at most; never more than [`BATCH_MAX`].
        max: u32,
    },
    /// Which groups there are, by name, in pages.
    Groups {
        /// The last name of the page before; empty for the first.
        after: String,
        /// Rows at most; never more than [`BATCH_MAX`].
        max: u32,
    },
    /// Who is in a group, in pages.
    Members {
        /// Name of the group.
        group: String,
        /// The lowest id of the page.
        from: u64,
        /// Rows at most; never more than [`BATCH_MAX`].
        max: u32,
    },
    /// Whether there is something for a member. Asked with a wait it is answered when there is.
    Ready {
        /// Name of the group.
        group: String,
        /// Who asks.
        member: u64,
    },
    /// How a group is doing.
    Status {
        /// Name of the group.
        group: String,
    },
}

impl GroupCommand {
    /// The name of the group that it is about.
    pub fn group(&self) -> &str {
        match self {
            Self::Create { group, .. }
            | Self::Delete { group }
            | Self::Drop { group, .. }
            | Self::Fetch { group, .. }
            | Self::Join { group, .. }
            | Self::KeepAlive { group, .. }
            | Self::Leave { group, .. }
            | Self::Requeue { group, .. }
            | Self::Settle { group, .. }
            | Self::Tick { group, .. } => group,
        }
    }

    /// The bytes to propose.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(self.number());
        put_text(&mut out, self.group());
        match self {
            Self::Create { start, options, .. } => {
                put_start(&mut out, *start);
                put_options(&mut out, options);
            }
            Self::Delete { .. } => {}
            Self::Drop { offsets, .. } | Self::Requeue { offsets, .. } => {
                put_list(&mut out, offsets, |out, offset| out.put_u64_le(*offset));
            }
            Self::Fetch { member, max, .. } => {
                out.put_u64_le(*member);
                out.put_u32_le(*max);
            }
            Self::Join { name, .. } => put_text(&mut out, name),
            Self::KeepAlive { member, .. } | Self::Leave { member, .. } => out.put_u64_le(*member),
            Self::Settle { member, verdict, deliveries, .. } => {
                out.put_u64_le(*member);
                put_verdict(&mut out, *verdict);
                put_list(&mut out, deliveries, |out, settled| {
                    out.put_u64_le(settled.offset);
                    out.put_u64_le(settled.delivery);
                });
            }
            Self::Tick { id, wheel, round, .. } => {
                out.put_u64_le(*id);
                out.put_u8(wheel.number());
                out.put_u64_le(*round);
            }
        }
        out.freeze()
    }

    /// Reads a command.
    ///
    /// # Errors
    ///
    /// [`Refusal`]: the bytes are something else, or a name, an option or a count is outside its
    /// limits.
    pub fn decode(bytes: &[u8]) -> Result<Self, Refusal> {
        let mut input = Input(bytes);
        let command = read_command(&mut input).and_then(|command| input.finish().map(|()| command));
        let command = command.map_err(|Unreadable| Refusal::Malformed)?;
        command.check()?;
        Ok(command)
    }

    fn check(&self) -> Result<(), Refusal> {
        check_name(self.group())?;
        match self {
            Self::Create { options, .. } => options.check(),
            Self::Drop { offsets, .. } | Self::Requeue { offsets, .. } => check_count(offsets),
            Self::Join { name, .. } => check_name(name),
            Self::Settle { verdict, deliveries, .. } => {
                verdict.check()?;
                check_count(deliveries)
            }
            Self::Delete { .. }
            | Self::Fetch { .. }
            | Self::KeepAlive { .. }
            | Self::Leave { .. }
            | Self::Tick { .. } => Ok(()),
        }
    }

    const fn number(&self) -> u8 {
        match self {
            Self::Create { .. } => 0,
            Self::Delete { .. } => 1,
            Self::Join { .. } => 2,
            Self::Leave { .. } => 3,
            Self::KeepAlive { .. } => 4,
            Self::Fetch { .. } => 5,
            Self::Settle { .. } => 6,
            Self::Requeue { .. } => 7,
            Self::Drop { .. } => 8,
            Self::Tick { .. } => 9,
        }
    }
}

impl GroupQuery {
    /// The bytes to ask with.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        match self {
            Self::Groups { after, max } => {
                out.put_u8(0);
                put_text(&mut out, after);
                out.put_u32_le(*max);
            }
            Self::Status { group } => {
                out.put_u8(1);
                put_text(&mut out, group);
            }
            Self::Members { group, from, max } | Self::Dead { group, from, max } => {
                out.put_u8(if matches!(self, Self::Members { .. }) { 2 } else { 3 });
                put_text(&mut out, group);
                out.put_u64_le(*from);
                out.put_u32_le(*max);
            }
            Self::Ready { group, member } => {
                out.put_u8(4);
                put_text(&mut out, group);
                out.put_u64_le(*member);
            }
        }
        out.freeze()
    }

    /// Reads a query.
    ///
    /// # Errors
    ///
    /// [`Refusal`]: the bytes are something else, or a name is outside its limits.
    pub fn decode(bytes: &[u8]) -> Result<Self, Refusal> {
        let mut input = Input(bytes);
        let query = read_query(&mut input).and_then(|query| input.finish().map(|()| query));
        let query = query.map_err(|Unreadable| Refusal::Malformed)?;
        match &query {
            // Before the first name stands the empty one.
            Self::Groups { after, .. } if after.is_empty() => {}
            Self::Groups { after: name, .. }
            | Self::Dead { group: name, .. }
            | Self::Members { group: name, .. }
            | Self::Ready { group: name, .. }
            | Self::Status { group: name } => check_name(name)?,
        }
        Ok(query)
    }
}

impl Verdict {
    fn check(self) -> Result<(), Refusal> {
        match self {
            Self::Again { after } if after > TIMEOUT_MAX => Err(Refusal::InvalidOptions),
            Self::Ack | Self::Again { .. } | Self::Bury | Self::Extend | Self::Release => Ok(()),
        }
    }
}

fn check_count<T>(items: &[T]) -> Result<(), Refusal> {
    if items.len() <= BATCH_MAX { Ok(()) } else { Err(Refusal::Malformed) }
}

fn read_command(input: &mut Input<'_>) -> Result<GroupCommand, Unreadable> {
    let number = input.u8()?;
    let group = input.text()?;
    Ok(match number {
        0 => GroupCommand::Create { group, start: read_start(input)?, options: input.options()? },
        1 => GroupCommand::Delete { group },
        2 => GroupCommand::Join { group, name: input.text()? },
        3 => GroupCommand::Leave { group, member: input.u64()? },
        4 => GroupCommand::KeepAlive { group, member: input.u64()? },
        5 => GroupCommand::Fetch { group, member: input.u64()?, max: input.u32()? },
        6 => GroupCommand::Settle {
            group,
            member: input.u64()?,
            verdict: read_verdict(input)?,
            deliveries: input
                .list(|input| Ok(Settlement { offset: input.u64()?, delivery: input.u64()? }))?,
        },
        7 => GroupCommand::Requeue { group, offsets: input.list(Input::u64)? },
        8 => GroupCommand::Drop { group, offsets: input.list(Input::u64)? },
        9 => GroupCommand::Tick {
            group,
            id: input.u64()?,
            wheel: read_wheel(input)?,
            round: input.u64()?,
        },
        _ => return Err(Unreadable),
    })
}

fn read_query(input: &mut Input<'_>) -> Result<GroupQuery, Unreadable> {
    let number = input.u8()?;
    let group = input.text()?;
    Ok(match number {
        0 => GroupQuery::Groups { after: group, max: input.u32()? },
        1 => GroupQuery::Status { group },
        2 => GroupQuery::Members { group, from: input.u64()?, max: input.u32()? },
        3 => GroupQuery::Dead { group, from: input.u64()?, max: input.u32()? },
        4 => GroupQuery::Ready { group, member: input.u64()? },
        _ => return Err(Unreadable),
    })
}

fn read_wheel(input: &mut Input<'_>) -> Result<WheelKind, Unreadable> {
    let number = input.u8()?;
    WheelKind::ALL.into_iter().find(|kind| kind.number() == number).ok_or(Unreadable)
}

fn put_start(out: &mut BytesMut, start: Start) {
    match start {
        Start::First => out.put_u8(0),
        Start::End => out.put_u8(1),
        Start::Offset(offset) => {
            out.put_u8(2);
            out.put_u64_le(offset);
        }
    }
}

fn read_start(input: &mut Input<'_>) -> Result<Start, Unreadable> {
    match input.u8()? {
        0 => Ok(Start::First),
        1 => Ok(Start::End),
        2 => input.u64().map(Start::Offset),
        _ => Err(Unreadable),
    }
}

fn put_verdict(out: &mut BytesMut, verdict: Verdict) {
    match verdict {
        Verdict::Ack => out.put_u8(0),
        Verdict::Again { after } => {
            out.put_u8(1);
            put_millis(out, after);
        }
        Verdict::Bury => out.put_u8(2),
        Verdict::Extend => out.put_u8(3),
        Verdict::Release => out.put_u8(4),
    }
}

fn read_verdict(input: &mut Input<'_>) -> Result<Verdict, Unreadable> {
    match input.u8()? {
        0 => Ok(Verdict::Ack),
        1 => Ok(Verdict::Again { after: Duration::from_millis(input.u64()?) }),
        2 => Ok(Verdict::Bury),
        3 => Ok(Verdict::Extend),
        4 => Ok(Verdict::Release),
        _ => Err(Unreadable),
    }
}
