//! Clients with a session: they submit a command again and again, to anybody, until they hear what
//! became of it, also while earlier submissions are under way.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use zmesh::replica::session::{Outcome, SessionError, Submission};
use zmesh::replica::{CommandId, Reply};

use super::{Checked, Event, Mutant, World, check, set};

/// How many there are.
pub(super) const CLIENTS: usize = 3;
/// After how long without a command a session ends: pauses of a run are longer at times.
const IDLE: Duration = Duration::from_secs(1);

/// What the clients know.
#[derive(Default)]
pub(super) struct Sessions {
    clients: Vec<Client>,
    /// Which client each submission is of, and of which command.
    tickets: BTreeMap<u64, (usize, Submitted)>,
    /// The first answer to each command.
    outcomes: BTreeMap<CommandId, Outcome>,
    /// Commands of which a client was told that they are done.
    done: Vec<Bytes>,
    pub(super) retries: u64,
    pub(super) expired: u64,
}

#[derive(Default)]
struct Client {
    session: Option<u64>,
    serial: u64,
    /// The command whose outcome it waits for.
    command: Option<Bytes>,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Submitted {
    Command(CommandId),
    Open,
}

impl Sessions {
    pub(super) fn new() -> Self {
        Self { clients: (0..CLIENTS).map(|_| Client::default()).collect(), ..Self::default() }
    }

    /// Commands that were done.
    pub(super) fn done(&self) -> &[Bytes] {
        &self.done
    }

    /// Whether the answer to this submission is for one of these clients.
    pub(super) fn has(&self, ticket: u64) -> bool {
        self.tickets.contains_key(&ticket)
    }

    /// A replica answers. One command has one outcome, whoever tells it and however often.
    pub(super) fn answered(&mut self, ticket: u64, reply: &Reply) -> Checked {
        let Some((at, submitted)) = self.tickets.remove(&ticket) else { return Ok(()) };
        let client = &mut self.clients[at];
        let Ok(applied) = reply else { return Ok(()) };
        let outcome = Outcome::decode(&applied.response).ok_or("no outcome")?;
        let id = match submitted {
            Submitted::Command(id) => id,
            Submitted::Open => {
                if let (Outcome::Done { index, .. }, None) = (outcome, client.session) {
                    (client.session, client.serial) = (Some(index), 1);
                }
                return Ok(());
            }
        };
        let current = client.session == Some(id.session) && client.serial == id.serial;
        match outcome {
            Outcome::Done { .. } => {
                let first = self.outcomes.entry(id).or_insert_with(|| outcome.clone());
                check(*first == outcome, || format!("{id:?}: {first:?}, then {outcome:?}"))?;
                if current {
                    self.done.extend(client.command.take());
                    client.serial += 1;
                }
                Ok(())
            }
            // Whether the command was applied is unknown; it is given up.
            Outcome::Refused(SessionError::Expired) => {
                if client.session == Some(id.session) {
                    self.expired += 1;
                    *client = Client::default();
                }
                Ok(())
            }
            // An answer to what the client does not wait for any more.
            Outcome::Refused(SessionError::Stale) if !current => Ok(()),
            Outcome::Refused(error) => Err(format!("{id:?} was refused: {error}")),
        }
    }
}

impl World {
    /// Some client submits what it waits for, once more, or the next command.
    pub(super) fn session_client(&mut self) -> Checked {
        let longest = if self.rng.u32(0..40) == 0 { 2_500 } else { 60 };
        self.after_ms(0..longest, Event::SessionClient);
        let (at, node) = (self.rng.usize(0..CLIENTS), self.asked());
        if self.nodes[node].paused_until > self.now || self.nodes[node].running.is_none() {
            return Ok(());
        }
        self.tickets += 1;
        let ticket = self.tickets;
        let client = &mut self.sessions.clients[at];
        let (submission, submitted) = match client.session {
            None => (Submission::Open { idle: IDLE }, Submitted::Open),
            Some(session) => {
                self.sessions.retries += u64::from(client.command.is_some());
                if client.command.is_some() && self.plan.mutant == Some(Mutant::NumberAnew) {
                    client.serial += 1;
                }
                let key = Bytes::from(format!("session-{at}"));
                let command = client.command.get_or_insert_with(|| set(&key, ticket)).clone();
                let id = CommandId { session, serial: client.serial };
                let submission = Submission::Numbered { id, lowest: id.serial, command };
                (submission, Submitted::Command(id))
            }
        };
        self.sessions.tickets.insert(ticket, (at, submitted));
        let deadline = self.now + Duration::from_millis(self.rng.u64(30..1_500));
        if let Some(running) = &mut self.nodes[node].running {
            running.core.propose(submission.encode(), deadline, ticket);
        }
        self.wake_at(node, self.now);
        Ok(())
    }

    /// What a client was told is done was done once, on every replica that has applied it.
    pub(super) fn done_once(&self) -> Checked {
        let running = self.nodes.iter().filter_map(|node| node.running.as_ref());
        let newest = running.max_by_key(|running| running.core.applied());
        let ledger = newest.ok_or("nobody runs")?.core.machine().inner();
        for command in self.sessions.done() {
            let count = ledger.count(command);
            check(count == 1, || format!("a command that is done was applied {count} times"))?;
        }
        Ok(())
    }
}
