//! Sessions: what makes a write safe to retry.
//!
//! A client whose answer was lost cannot know whether its command was applied; submitting it again
//! would apply it twice. [`Sessions`] wraps any machine and is one itself: a command that carries a
//! session and a serial is applied once, its response is kept with the replicated state, and every
//! further submission gets the kept response. Since the table is part of the state it survives
//! whatever the state survives: a change of leader, a restart, a snapshot. It knows no window of
//! time: a response is kept until the client says that it does not want it any more, or until the
//! session ends, and then the submission is refused instead of being applied again.
//!
//! Pure and deterministic. Invariants: the machine sees each serial of a session at most once; a
//! session has the id of the index at which it was opened, which no other session ever has.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::machine::{Alarm, CommandId, Effects, Image, InvalidSnapshot, Machine};
use super::past::{Past, PastCommands, PastError};

mod codec;
mod snapshot;

pub use codec::{Inquiry, Outcome, SessionError, Submission};

/// A session ends after at least this time without a command, whatever its client asked for.
pub const IDLE_MIN: Duration = Duration::from_secs(1);
/// A session never stays for longer than this without a command, give or take what
/// [`Sessions`] says.
pub const IDLE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// How much is kept. Part of the replicated state machine: all replicas must have the same.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SessionLimits {
    /// Sessions [default: 4,096]. When one more is opened, the one that was idle longest ends.
    pub sessions: usize,
    /// Responses kept for one session [default: 1,024]; with more, its commands are refused.
    pub results: usize,
    /// Bytes of the responses kept for one session [default: 256 KiB]. A session that has reached
    /// it is refused further commands until its client acknowledges some; so it is exceeded by one
    /// response at most.
    pub result_bytes: usize,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self { sessions: 4_096, results: 1_024, result_bytes: 256 * 1024 }
    }
}

/// A machine whose commands are retry-safe. See the [module](self).
///
/// Its commands are [`Submission`]s and its responses [`Outcome`]s; queries go to the machine
/// inside as they are. The machine [skips](Machine::skip) commands that its session had seen
/// before, or refused.
///
/// A session ends when its client says so, when room is needed for another, or when it was idle for
/// the time that it was opened with. That time is an alarm, which looks once in a period whether
/// there was a command since it looked before: a session is idle for one to two periods when it
/// ends, and for longer if the leader changed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sessions<M> {
    inner: M,
    limits: SessionLimits,
    /// Shared with images that are being written.
    sessions: BTreeMap<u64, Arc<Session>>,
}

/// One client.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Session {
    idle: Duration,
    /// Index of its last submission.
    active: u64,
    /// The lowest serial that is not acknowledged.
    lowest: u64,
    /// The responses that are not acknowledged, by serial.
    kept: BTreeMap<u64, Kept>,
    /// Bytes of them.
    kept_bytes: usize,
}

/// What a command came to.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Kept {
    index: u64,
    body: Fingerprint,
    response: Bytes,
}

/// Tells whether a command with the same serial is the same command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Fingerprint {
    bytes: u64,
    checksum: u32,
}

impl<M: Machine> Sessions<M> {
    /// No sessions, and this machine.
    pub fn new(inner: M) -> Self {
        Self::with_limits(inner, SessionLimits::default())
    }

    /// With other limits than every other replica of this version has.
    pub fn with_limits(inner: M, limits: SessionLimits) -> Self {
        Self { inner, limits, sessions: BTreeMap::new() }
    }

    /// The machine inside.
    pub fn inner(&self) -> &M {
        &self.inner
    }

    /// Sessions that are open.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether no session is open.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// What became of a command, apart from what is under way.
    pub fn inquire_into(&self, id: CommandId) -> Inquiry {
        let Some(session) = self.sessions.get(&id.session) else { return Inquiry::Expired };
        if id.serial < session.lowest {
            return Inquiry::Forgotten;
        }
        match session.kept.get(&id.serial) {
            Some(kept) => Inquiry::Done { index: kept.index, response: kept.response.clone() },
            None => Inquiry::NotSeen,
        }
    }

    fn submit(&mut self, index: u64, submission: Submission, effects: &mut Effects) -> Outcome {
        match submission {
            Submission::End { session } => {
                self.end(session, effects);
                Outcome::Done { index, response: Bytes::new() }
            }
            Submission::Expire { session, seen } => {
                self.expire(session, seen, effects);
                Outcome::Done { index, response: Bytes::new() }
            }
            Submission::Mark => {
                effects.mark();
                Outcome::Done { index, response: Bytes::new() }
            }
            Submission::Numbered { id, lowest, command } => {
                let result = self.numbered(index, id, lowest, &command, effects);
                if result.as_ref().map(|(applied, _)| *applied) != Ok(index) {
                    self.inner.skip(index, &command);
                }
                match result {
                    Ok((index, response)) => Outcome::Done { index, response },
                    Err(error) => Outcome::Refused(error),
                }
            }
            Submission::Once { command } => {
                let response = self.apply_inner(index, &command, effects);
                Outcome::Done { index, response }
            }
            Submission::Open { idle } => {
                self.open(index, idle, effects);
                Outcome::Done { index, response: Bytes::new() }
            }
        }
    }

    /// Applies a command, unless it was. Returns where it was applied, and what was said.
    fn numbered(
        &mut self,
        index: u64,
        id: CommandId,
        lowest: u64,
        command: &Bytes,
        effects: &mut Effects,
    ) -> Result<(u64, Bytes), SessionError> {
        let session = self.sessions.get_mut(&id.session).ok_or(SessionError::Expired)?;
        let session = Arc::make_mut(session);
        session.active = index;
        session.acknowledge(lowest);
        if id.serial < session.lowest {
            return Err(SessionError::Stale);
        }
        let body = Fingerprint::of(command);
        if let Some(kept) = session.kept.get(&id.serial) {
            let same = kept.body == body;
            return if same {
                Ok((kept.index, kept.response.clone()))
            } else {
                Err(SessionError::Mismatch)
            };
        }
        let limits = self.limits;
        if session.kept.len() >= limits.results || session.kept_bytes >= limits.result_bytes {
            return Err(SessionError::Full);
        }
        let response = self.apply_inner(index, command, effects);
        let session = self.sessions.get_mut(&id.session).expect("the machine ends no session");
        let kept = Kept { index, body, response: response.clone() };
        Arc::make_mut(session).keep(id.serial, kept);
        Ok((index, response))
    }

    fn open(&mut self, index: u64, idle: Duration, effects: &mut Effects) {
        while self.sessions.len() >= self.limits.sessions.max(1) {
            let longest = self.sessions.iter().min_by_key(|(_, session)| session.active);
            let Some((&longest, _)) = longest else { break };
            self.end(longest, effects);
        }
        let session = Session {
            idle: idle.clamp(IDLE_MIN, IDLE_MAX),
            active: index,
            lowest: 0,
            kept: BTreeMap::new(),
            kept_bytes: 0,
        };
        effects.set_alarm(session.alarm(index));
        self.sessions.insert(index, Arc::new(session));
    }

    fn end(&mut self, session: u64, effects: &mut Effects) {
        if self.sessions.remove(&session).is_some() {
            effects.clear_alarm(own_alarm(session));
        }
    }

    /// The time of a session is up, if it was idle since the time began to count.
    fn expire(&mut self, id: u64, seen: u64, effects: &mut Effects) {
        match self.sessions.get(&id) {
            Some(session) if session.active != seen => effects.set_alarm(session.alarm(id)),
            Some(_) => self.end(id, effects),
            // Ended meanwhile, and its alarm with it.
            None => {}
        }
    }

    fn apply_inner(&mut self, index: u64, command: &Bytes, effects: &mut Effects) -> Bytes {
        let mut inner = Effects::default();
        let response = self.inner.apply(index, command, &mut inner);
        if inner.marked {
            effects.mark();
        }
        for (id, alarm) in inner.alarms {
            match alarm {
                Some(alarm) => effects.set_alarm(around(alarm)),
                None => effects.clear_alarm(inner_alarm(id)),
            }
        }
        response
    }
}

impl<M: Machine> Machine for Sessions<M> {
    fn apply(&mut self, index: u64, command: &Bytes, effects: &mut Effects) -> Bytes {
        let outcome = match Submission::decode(command) {
            Ok(submission) => self.submit(index, submission, effects),
            Err(error) => Outcome::Refused(error),
        };
        outcome.encode()
    }

    fn skip(&mut self, index: u64, command: &Bytes) {
        if let Some(command) = command_inside(command) {
            self.inner.skip(index, &command);
        }
    }

    fn query(&self, query: &Bytes, past: &dyn Past) -> Bytes {
        self.inner.query(query, &PastInside(past))
    }

    fn poll_query(&self, query: &Bytes, past: &dyn Past) -> Option<Bytes> {
        self.inner.poll_query(query, &PastInside(past))
    }

    fn log_floor(&self) -> Option<u64> {
        self.inner.log_floor()
    }

    fn may_answer(&self, query: &Bytes, since: u64) -> bool {
        self.inner.may_answer(query, since)
    }

    fn command_id(&self, command: &Bytes) -> Option<CommandId> {
        match Submission::decode(command) {
            Ok(Submission::Numbered { id, .. }) => Some(id),
            _ => None,
        }
    }

    fn inquire(&self, id: CommandId, is_under_way: bool) -> Bytes {
        let known = self.inquire_into(id);
        let is_in_progress = known == Inquiry::NotSeen && is_under_way;
        if is_in_progress { Inquiry::InProgress.encode() } else { known.encode() }
    }

    fn alarms(&self) -> Vec<Alarm> {
        let own = self.sessions.iter().map(|(id, session)| session.alarm(*id));
        self.inner.alarms().into_iter().map(around).chain(own).collect()
    }

    fn mark(&self) -> Option<Bytes> {
        Some(Submission::Mark.encode())
    }

    fn snapshot(&self) -> Image {
        let (sessions, inner) = (self.sessions.clone(), self.inner.snapshot());
        Box::new(move |out| {
            snapshot::write(&sessions, out)?;
            inner(out)
        })
    }

    fn restore(&mut self, snapshot: &mut dyn Read) -> Result<(), InvalidSnapshot> {
        let sessions = snapshot::read(snapshot)?;
        self.inner.restore(snapshot)?;
        self.sessions = sessions;
        Ok(())
    }
}

impl Session {
    fn acknowledge(&mut self, lowest: u64) {
        if lowest <= self.lowest {
            return;
        }
        self.lowest = lowest;
        // One by one: mostly there is one.
        while let Some(first) = self.kept.first_entry().filter(|first| *first.key() < lowest) {
            self.kept_bytes -= first.remove().response.len();
        }
    }

    fn keep(&mut self, serial: u64, kept: Kept) {
        self.kept_bytes += kept.response.len();
        self.kept.insert(serial, kept);
    }

    fn alarm(&self, id: u64) -> Alarm {
        let command = Submission::Expire { session: id, seen: self.active }.encode();
        Alarm { id: own_alarm(id), after: self.idle, command }
    }
}

impl Fingerprint {
    fn of(command: &Bytes) -> Self {
        Self { bytes: command.len() as u64, checksum: crc32c::crc32c(command) }
    }
}

/// The past as the machine inside knows it.
struct PastInside<'a>(&'a dyn Past);

impl Past for PastInside<'_> {
    fn commands(&self, from: u64, bytes_max: u64) -> Result<PastCommands, PastError> {
        let PastCommands { commands, next } = self.0.commands(from, bytes_max)?;
        let inside = commands.into_iter();
        let inside = inside.filter_map(|(index, bytes)| Some((index, command_inside(&bytes)?)));
        Ok(PastCommands { commands: inside.collect(), next })
    }
}

/// The command that a submission brings to the machine inside, if it brings one.
fn command_inside(submission: &Bytes) -> Option<Bytes> {
    match Submission::decode(submission).ok()? {
        Submission::Numbered { command, .. } | Submission::Once { command } => Some(command),
        Submission::End { .. }
        | Submission::Expire { .. }
        | Submission::Mark
        | Submission::Open { .. } => None,
    }
}

/// Alarms of sessions have odd ids, those of the machine inside even ones.
fn own_alarm(session: u64) -> u64 {
    session.wrapping_mul(2).wrapping_add(1)
}

fn inner_alarm(id: u64) -> u64 {
    debug_assert!(id <= u64::MAX / 2, "an alarm of a machine has an id below 2^63");
    id.wrapping_mul(2)
}

/// An alarm of the machine inside, as one of ours.
fn around(alarm: Alarm) -> Alarm {
    let command = Submission::Once { command: alarm.command }.encode();
    Alarm { id: inner_alarm(alarm.id), command, ..alarm }
}

#[cfg(test)]
mod tests;
