//! What a replicated state machine is.
//!
//! Pure, and deterministic above all: every replica applies the same commands in the same order and
//! must come to the same state, byte for byte.

use std::io::{self, Read, Write};
use std::time::Duration;

use bytes::Bytes;

use super::past::Past;

/// A state that changes by committed commands only.
///
/// Nothing in it may depend on time, on chance, on the order of a hash map or on which replica it
/// runs on. A command that makes no sense is answered with an error response; it must not panic,
/// since it would do so again at every start.
pub trait Machine {
    /// Applies a command, once per index and in their order, and returns the response, of which
    /// the replica that proposed it tells its caller.
    ///
    /// What depends on time is decided by a command as well: see [`Effects::set_alarm`].
    fn apply(&mut self, index: u64, command: &Bytes, effects: &mut Effects) -> Bytes;

    /// Takes note of a command that arrived at `index` and is not applied, since it is a further
    /// submission of one that was, or its session refused it. Machines that read the log again
    /// need to know; see [`Past`].
    fn skip(&mut self, _index: u64, _command: &Bytes) {}

    /// Answers a question about the present state. `past` has the commands that led to it, as far
    /// as the log still has them.
    fn query(&self, query: &Bytes, past: &dyn Past) -> Bytes;

    /// Answers a question that waits for something to happen; none as long as it has not. It is
    /// asked again whenever commands were applied, and answered by [`Self::query`] when its time is
    /// up.
    fn poll_query(&self, query: &Bytes, past: &dyn Past) -> Option<Bytes> {
        Some(self.query(query, past))
    }

    /// The lowest index of the log that the state still refers to; none if it refers to none, as
    /// machines do that keep everything themselves. The log keeps entries from there on, whatever
    /// snapshots there are. It never falls while commands are applied.
    fn log_floor(&self) -> Option<u64> {
        None
    }

    /// Whether a query that [waits](Self::poll_query), and had no answer after index `since`, may
    /// have one now. It is asked for each of them whenever commands were applied, so it must be
    /// cheap; one that may is polled.
    fn may_answer(&self, _query: &Bytes, _since: u64) -> bool {
        true
    }

    /// Which command this is, if it says so: all submissions of one command have the same id.
    fn command_id(&self, _command: &Bytes) -> Option<CommandId> {
        None
    }

    /// Answers what became of a command. `is_under_way`: the replica that leads has proposed it, or
    /// is about to, and it is not decided. Machines whose commands have ids answer this; see
    /// [`Sessions`](super::Sessions).
    fn inquire(&self, _id: CommandId, _is_under_way: bool) -> Bytes {
        Bytes::new()
    }

    /// All alarms that are set, for a replica that begins to lead.
    fn alarms(&self) -> Vec<Alarm> {
        Vec::new()
    }

    /// A command that changes nothing and [marks](Effects::mark) its place; none if the machine has
    /// none. The replica that leads proposes it from time to time.
    fn mark(&self) -> Option<Bytes> {
        None
    }

    /// The whole state as it is now. Taken between two commands, so it must be cheap: what costs
    /// time is done by the [`Image`], which is written elsewhere while commands go on.
    fn snapshot(&self) -> Image;

    /// Replaces the state by one that an [`Image`] wrote. It runs on the replica's own thread, on
    /// which nothing else goes on meanwhile.
    ///
    /// # Errors
    ///
    /// [`InvalidSnapshot`]: the bytes are damaged or cannot be read. The state is as it was.
    fn restore(&mut self, snapshot: &mut dyn Read) -> Result<(), InvalidSnapshot>;
}

/// Names one command of one client, however often it is submitted.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    Eq,
    Hash,
    Ord,
    PartialEq,
    PartialOrd,
    serde::Deserialize,
    serde::Serialize,
)]
pub struct CommandId {
    /// The session of the client.
    pub session: u64,
    /// The number that the client gave it, from 1.
    pub serial: u64,
}

/// Writes a state as it was when the image was taken. Equal states write equal bytes.
pub type Image = Box<dyn FnOnce(&mut dyn Write) -> io::Result<()> + Send>;

/// Something that is to happen when time has passed.
///
/// Clocks differ, so time is only ever an impulse: the replica that leads proposes the command when
/// the time is up, again and again until the alarm is gone, and what the command does is decided
/// where it is applied. It must name what it is meant for, since that may have changed meanwhile.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Alarm {
    /// Tells the alarms of a machine apart.
    pub id: u64,
    /// After how long. A new leader begins to count anew: an alarm may be late, but is not early.
    pub after: Duration,
    /// What is proposed then.
    pub command: Bytes,
}

/// What applying a command asks of the replica besides the response.
#[derive(Debug, Default)]
pub struct Effects {
    pub(super) alarms: Vec<(u64, Option<Alarm>)>,
    pub(super) marked: bool,
}

impl Effects {
    /// Sets an alarm; the one with its id, if there is one, is replaced and counts anew.
    pub fn set_alarm(&mut self, alarm: Alarm) {
        self.alarms.push((alarm.id, Some(alarm)));
    }

    /// Has the replicas compare their states as they are after this command.
    pub fn mark(&mut self) {
        self.marked = true;
    }

    /// Removes an alarm, if it is set.
    pub fn clear_alarm(&mut self, id: u64) {
        self.alarms.push((id, None));
    }

    /// Takes what was asked for, in its order: each alarm that was set or, if there is none with
    /// the id, removed. For whoever applies commands to a machine by itself.
    pub fn take_alarms(&mut self) -> Vec<(u64, Option<Alarm>)> {
        std::mem::take(&mut self.alarms)
    }
}

/// The bytes are not a snapshot of this kind of machine.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("snapshot is damaged: {reason}")]
pub struct InvalidSnapshot {
    /// What is wrong.
    pub reason: String,
}

impl InvalidSnapshot {
    /// Something is wrong with the bytes.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }
}

impl From<io::Error> for InvalidSnapshot {
    fn from(error: io::Error) -> Self {
        match error.kind() == io::ErrorKind::UnexpectedEof {
            true => Self::new("cut short"),
            false => Self::new(error.to_string()),
        }
    }
}

/// The bytes that an image writes, for states that fit into memory twice.
///
/// # Panics
///
/// If the image fails where writing to memory does not.
pub fn image_bytes(image: Image) -> Vec<u8> {
    let mut bytes = Vec::new();
    image(&mut bytes).expect("writing to memory does not fail");
    bytes
}
