//! Shell: A client of a replicated service: it finds the replicas, and makes writes safe to retry.
//!
//! A write goes through a [session](super::session): it has a serial, so that the client may submit
//! it again, with the same bytes, when an answer is lost, and it is applied once. The session is
//! opened with the first write and shared by all clones of the client; when it has expired, a new
//! one is opened for what certainly was not applied in the old one.
//!
//! Invariant: a command is submitted in one session and with one serial, unless every earlier
//! submission certainly had no effect.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use super::ack::{Acknowledged, Acks};
use super::core::Applied;
use super::error::ClientError;
use super::formation::raft_id_label;
use super::handle::Replica;
use super::machine::CommandId;
use super::service::{self, Operation};
use super::session::{Inquiry, Outcome, SessionError, Submission};
use crate::error::{Effect, ErrorCode};
use crate::id::NodeId;
use crate::node::Node;
use crate::node::route::{Choice, Filter};
use crate::timer::{Clock, Time};

mod numbers;

use numbers::{Number, Numbers};

/// Wait before an operation is tried again for the first time; it doubles up to the second, and
/// half of it is random.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// Part of the timeout that the last attempt must have, and the most that it needs. Twice what a
/// replica keeps of it for the way back.
const ATTEMPT_SHARE: u32 = 5;
const ATTEMPT_MIN_MAX: Duration = Duration::from_millis(200);
/// How long the first submission of a write waits for its answer; each further one twice as long.
const SUBMISSION_MIN: Duration = Duration::from_secs(1);
/// After how long without a write the session ends.
const SESSION_IDLE: Duration = Duration::from_secs(3600);

/// A handle to a replicated service of the mesh. Clones are cheap and share a session.
///
/// The node has to run a replica itself ([`local`](Self::local)) or be linked to at least one; the
/// leader is preferred, but any replica passes operations on. Whatever fails is tried again until
/// the timeout (5 s unless [`timeout`](Self::timeout) is called), so a change of leader is no error:
/// a write is applied at most once, however often it was submitted. When time is up and the outcome
/// of a write is not known, [`ClientError::Unknown`] has its id, and [`inquire`](Self::inquire)
/// tells later what became of it.
///
/// # Examples
///
/// ```
/// # async fn example(node: zmesh::Node) -> Result<(), zmesh::replica::ClientError> {
/// use zmesh::replica::{Client, ClientError, session::Inquiry};
///
/// let client = Client::new(&node, "counter");
/// match client.command("add 1".into()).await {
///     Ok((_, applied)) => println!("applied at {}: {:?}", applied.index, applied.response),
///     Err(ClientError::Unknown { command: Some(id), .. }) => match client.inquire(id).await? {
///         Inquiry::Done { index, .. } => println!("it was applied at {index}"),
///         other => println!("not applied yet: {other:?}"),
///     },
///     Err(error) => return Err(error),
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    node: Node,
    name: &'static str,
    local: Option<Replica>,
    timeout: Duration,
    at_most_once: bool,
    leader: Filter,
    replicas: Filter,
    clock: Clock,
    shared: Arc<Shared>,
}

/// What clones have in common.
#[derive(Debug, Default)]
struct Shared {
    session: parking_lot::Mutex<Option<Arc<Numbers>>>,
    /// Held by whoever opens a session.
    opening: tokio::sync::Mutex<()>,
}

impl Client {
    /// A client that reaches the service `name` through `node`. Operations take at most 5 s.
    pub fn new(node: &Node, name: &'static str) -> Self {
        Self {
            node: node.clone(),
            name,
            local: None,
            timeout: Duration::from_secs(5),
            at_most_once: false,
            leader: service::leader(name),
            replicas: service::replicas(name),
            clock: Clock::start(),
            shared: Arc::default(),
        }
    }

    /// A client for a node that runs a replica itself: operations begin there.
    pub fn local(node: &Node, name: &'static str, replica: &Replica) -> Self {
        Self { local: Some(replica.clone()), ..Self::new(node, name) }
    }

    /// The longest that an operation may take, retries included [default: 5 s].
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Writes without a session: a write is tried again only if it certainly had no effect, and
    /// one whose answer is lost is an error at once, into which nobody can inquire.
    pub fn at_most_once(mut self) -> Self {
        self.at_most_once = true;
        self
    }

    /// The node through which it reaches the service.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Has a command applied, and returns who answered and the answer. Its index is where the
    /// command was applied first; the term is that in which it was answered.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; with [`Effect::Unknown`] it may have been applied, or may be yet.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not recall the command, and forgets its id.
    pub async fn command(&self, command: Bytes) -> Result<(NodeId, Applied), ClientError> {
        self.write(command, Acks::Quorum).await
    }

    /// As [`command`](Self::command), and returns when `acks` is reached. What came back says how
    /// much is known; it may be more than was asked for.
    ///
    /// Below the level of the quorum a command has no session: it is applied at most once, and is
    /// not submitted again when its outcome is unknown. With [`Acks::All`] a write for which too few
    /// replicas are in sync is submitted again until the timeout, since there may be more.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; with the code `NOT_ON_ALL` the write is committed and applied, and only its
    /// level is missing.
    ///
    /// # Cancel safety
    ///
    /// As [`command`](Self::command).
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example(client: zmesh::replica::Client) -> Result<(), zmesh::replica::ClientError> {
    /// use zmesh::replica::{Acknowledged, Acks};
    ///
    /// match client.command_with("add 1".into(), Acks::Leader).await?.1 {
    ///     Acknowledged::Sent => println!("on its way, or lost"),
    ///     Acknowledged::Accepted { index, .. } => println!("at {index}, if this leader stays"),
    ///     Acknowledged::Applied(applied) => println!("done: {:?}", applied.response),
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn command_with(
        &self,
        command: Bytes,
        acks: Acks,
    ) -> Result<(NodeId, Acknowledged), ClientError> {
        if acks == Acks::None {
            return Ok((self.send(command).await?, Acknowledged::Sent));
        }
        let (node, applied) = self.write(command, acks).await?;
        Ok((node, Acknowledged::of(applied)))
    }

    /// Hands a command to a replica, preferably the leader, and does not wait for more.
    async fn send(&self, command: Bytes) -> Result<NodeId, ClientError> {
        let bytes = Acks::None.around(Submission::Once { command }.encode());
        if let Some(replica) = &self.local {
            replica.send(&self.node, self.name, bytes).await?;
            return Ok(self.node.id().clone());
        }
        let replica = self.choose().ok_or(ClientError::NoReplica)?;
        let subject = Operation::Command.subject(self.name);
        let sent = self.node.system_tick(&replica, &subject, bytes);
        match sent {
            Ok(()) => Ok(replica),
            Err(error) => {
                Err(ClientError::Refused { code: error.code(), message: error.to_string() })
            }
        }
    }

    /// Has a command reach a level above `none`. Below that of the quorum there is no response.
    async fn write(&self, command: Bytes, acks: Acks) -> Result<(NodeId, Applied), ClientError> {
        let deadline = self.clock.now() + self.timeout;
        // A session refuses where a command is applied, of which a client that does not wait for
        // that would never hear.
        if self.at_most_once || acks == Acks::Leader {
            let bytes = acks.around(Submission::Once { command }.encode());
            let mut attempts = Attempts::once();
            let (node, applied) =
                self.repeat(Operation::Command, bytes, deadline, &mut attempts).await?;
            return match outcome(&applied, acks) {
                Some(Outcome::Done { response, .. }) => Ok((node, Applied { response, ..applied })),
                Some(Outcome::Refused(error)) => Err(ClientError::refused_by_session(error)),
                None => Err(ClientError::InvalidAnswer { node }),
            };
        }
        loop {
            let session = self.session(deadline).await?;
            let until = self.clock.instant(deadline);
            let Ok(number) = tokio::time::timeout_at(until, session.next()).await else {
                return Err(ClientError::refused_by_session(SessionError::Full));
            };
            match self.submit(number, &command, acks, deadline).await {
                Some(result) => return result,
                None => self.forget(&session),
            }
        }
    }

    /// Asks the leader, who confirms with a quorum that it still leads: the answer comes from a
    /// state that has every write acknowledged before the call.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; a query changes nothing.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn query(&self, query: Bytes) -> Result<(NodeId, Applied), ClientError> {
        self.query_as(Operation::Query, query).await
    }

    /// Asks one replica what it has applied, however old that is.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; a query changes nothing.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn query_stale(
        &self,
        replica: &NodeId,
        query: Bytes,
    ) -> Result<(NodeId, Applied), ClientError> {
        let subject = service::stale_subject(self.name);
        let request = self.node.system_request(replica, &subject, query).timeout(self.timeout);
        let answer = request.await.map_err(|error| ClientError::from(error).without_effect())?;
        answered(replica.clone(), answer)
    }

    /// Asks any replica a question that waits for something to happen, and returns when it has
    /// happened there or nearly all of the timeout has passed.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; a query changes nothing.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn wait(&self, query: Bytes) -> Result<(NodeId, Applied), ClientError> {
        if let Some(replica) = &self.local {
            return match replica.wait(query, self.timeout).await {
                Ok(applied) => Ok((self.node.id().clone(), applied)),
                Err(error) => Err(ClientError::from(error).without_effect()),
            };
        }
        self.query_as(Operation::Wait, query).await
    }

    /// Asks one replica a question that waits for something to happen, and returns when it has
    /// happened there or nearly all of the timeout has passed.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; a query changes nothing.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn wait_on(
        &self,
        replica: &NodeId,
        query: Bytes,
    ) -> Result<(NodeId, Applied), ClientError> {
        let subject = Operation::Wait.subject(self.name);
        let request = self.node.system_request(replica, &subject, query).timeout(self.timeout);
        let answer = request.await.map_err(|error| ClientError::from(error).without_effect())?;
        answered(replica.clone(), answer)
    }

    /// Peers that run a replica of the service, in the order of their ids.
    pub fn replicas(&self) -> Vec<NodeId> {
        let label = raft_id_label(self.name);
        let peers = self.node.peers().into_iter();
        peers.filter(|peer| peer.labels.contains_key(&label)).map(|peer| peer.node).collect()
    }

    /// Whether operations begin at a replica of this node.
    pub fn is_local(&self) -> bool {
        self.local.is_some()
    }

    /// What became of a command whose outcome was [unknown](ClientError::Unknown).
    ///
    /// Known as long as the session is open and this client has not forgotten the command, which it
    /// does, oldest first, when a thousand later ones need the room.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; an inquiry changes nothing.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn inquire(&self, command: CommandId) -> Result<Inquiry, ClientError> {
        let mut bytes = BytesMut::with_capacity(16);
        bytes.put_u64_le(command.session);
        bytes.put_u64_le(command.serial);
        let (node, applied) = self.query_as(Operation::Inquire, bytes.freeze()).await?;
        let inquiry = Inquiry::decode(&applied.response);
        let inquiry = inquiry.ok_or(ClientError::InvalidAnswer { node })?;
        let session = self.shared.session.lock().clone();
        if let (Inquiry::Done { .. }, Some(session)) = (&inquiry, session) {
            session.found(command);
        }
        Ok(inquiry)
    }

    /// Ends the session, if one is open, so that the replicas need not keep it until it has been
    /// idle for long. Writes of this client and its clones that are under way become unknown; the
    /// next write opens another session.
    ///
    /// # Errors
    ///
    /// [`ClientError`]: it will end by itself.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not recall it: it may be done, or be done yet.
    pub async fn end(&self) -> Result<(), ClientError> {
        let Some(session) = self.shared.session.lock().take() else { return Ok(()) };
        let deadline = self.clock.now() + self.timeout;
        let bytes = Submission::End { session: session.session() }.encode();
        let mut attempts = Attempts::numbered();
        let ended = self.repeat(Operation::Command, bytes, deadline, &mut attempts).await;
        ended.map(drop).map_err(ClientError::without_effect)
    }

    /// Something that changes nothing.
    async fn query_as(
        &self,
        operation: Operation,
        query: Bytes,
    ) -> Result<(NodeId, Applied), ClientError> {
        let deadline = self.clock.now() + self.timeout;
        let answer = self.repeat(operation, query, deadline, &mut Attempts::harmless()).await;
        answer.map_err(ClientError::without_effect)
    }

    /// Submits a command until its outcome is known or time is up; none if its session has expired
    /// and it certainly was not applied.
    async fn submit(
        &self,
        mut number: Number,
        command: &Bytes,
        acks: Acks,
        deadline: Time,
    ) -> Option<Result<(NodeId, Applied), ClientError>> {
        let id = number.id();
        let mut attempts = Attempts::numbered();
        loop {
            let (lowest, command) = (number.lowest(), command.clone());
            let bytes = acks.around(Submission::Numbered { id, lowest, command }.encode());
            let answer = self.repeat(Operation::Command, bytes, deadline, &mut attempts).await;
            let error = match answer {
                Err(error) => error.of(id),
                Ok((node, applied)) => match outcome(&applied, acks) {
                    Some(Outcome::Done { index, response }) => {
                        number.settle();
                        return Some(Ok((node, Applied { index, response, ..applied })));
                    }
                    Some(Outcome::Refused(SessionError::Expired)) if !attempts.is_uncertain() => {
                        number.settle();
                        return None;
                    }
                    Some(Outcome::Refused(SessionError::Full)) if self.has_time(deadline) => {
                        self.pause(&mut attempts, deadline).await;
                        continue;
                    }
                    Some(Outcome::Refused(error)) => match attempts.is_uncertain() {
                        true => ClientError::unknown_by_session(error).of(id),
                        false => ClientError::refused_by_session(error),
                    },
                    None => ClientError::InvalidAnswer { node },
                },
            };
            if error.effect() == Effect::None {
                number.settle();
            }
            return Some(Err(error));
        }
    }

    /// The session that is open, or a new one.
    async fn session(&self, deadline: Time) -> Result<Arc<Numbers>, ClientError> {
        let open = || self.shared.session.lock().clone();
        if let Some(session) = open() {
            return Ok(session);
        }
        let opening = self.shared.opening.lock();
        let opening = tokio::time::timeout_at(self.clock.instant(deadline), opening).await;
        let Ok(_opening) = opening else { return Err(ClientError::late()) };
        if let Some(session) = open() {
            return Ok(session);
        }
        let bytes = Submission::Open { idle: SESSION_IDLE }.encode();
        let mut attempts = Attempts::numbered();
        // One that was opened and whose id was lost on the way ends by itself.
        let opened = self.repeat(Operation::Command, bytes, deadline, &mut attempts).await;
        let (node, applied) = opened.map_err(ClientError::without_effect)?;
        let Some(Outcome::Done { index, .. }) = Outcome::decode(&applied.response) else {
            return Err(ClientError::InvalidAnswer { node }.without_effect());
        };
        let session = Arc::new(Numbers::new(index));
        *self.shared.session.lock() = Some(Arc::clone(&session));
        Ok(session)
    }

    /// Lets go of a session that has expired, unless another has been opened meanwhile.
    fn forget(&self, expired: &Arc<Numbers>) {
        let mut session = self.shared.session.lock();
        if session.as_ref().is_some_and(|session| Arc::ptr_eq(session, expired)) {
            *session = None;
        }
    }

    /// Asks one replica after the other until one answers, one fails for good, or time is up.
    async fn repeat(
        &self,
        operation: Operation,
        bytes: Bytes,
        deadline: Time,
        attempts: &mut Attempts,
    ) -> Result<(NodeId, Applied), ClientError> {
        loop {
            let left = deadline.saturating_since(self.clock.now());
            let error = match self.attempt(operation, bytes.clone(), attempts.limit(left)).await {
                Ok((node, answer)) => match answered(node, answer) {
                    Ok(answer) => return Ok(answer),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            if !attempts.may_repeat(&error) || !self.has_time(deadline) {
                return Err(attempts.conclude(error));
            }
            self.pause(attempts, deadline).await;
        }
    }

    /// Asks the replica of this node, or the one that leads, or any.
    async fn attempt(
        &self,
        operation: Operation,
        bytes: Bytes,
        limit: Duration,
    ) -> Result<(NodeId, Bytes), ClientError> {
        if let Some(replica) = &self.local {
            let done = replica.operate(&self.node, self.name, operation, bytes, limit).await;
            let answer = done.map_err(|error| ClientError::answered(error.code, error.message))?;
            return Ok((self.node.id().clone(), answer));
        }
        let replica = self.choose().ok_or(ClientError::NoReplica)?;
        let subject = operation.subject(self.name);
        let request = self.node.system_request(&replica, &subject, bytes);
        let answer = request.timeout(limit).await?;
        Ok((replica, answer))
    }

    /// A replica that is linked to this node: the one that leads, if it is known.
    fn choose(&self) -> Option<NodeId> {
        let choose = |filter| self.node.choose(filter, &Choice::RoundRobin);
        choose(&self.leader).or_else(|| choose(&self.replicas))
    }

    /// Whether there is time for another attempt. With less, its answer might come too late, and a
    /// certain "nothing happened" would become an "unknown".
    fn has_time(&self, deadline: Time) -> bool {
        let least = (self.timeout / ATTEMPT_SHARE).min(ATTEMPT_MIN_MAX).max(PAUSE_MIN);
        deadline.saturating_since(self.clock.now()) >= least
    }

    /// Others who failed at the same time come back at other times.
    async fn pause(&self, attempts: &mut Attempts, deadline: Time) {
        let until = deadline.min(self.clock.now() + attempts.pause(fastrand::f64()));
        tokio::time::sleep_until(self.clock.instant(until)).await;
    }
}

/// What the attempts at one operation have come to.
#[derive(Debug)]
struct Attempts {
    /// Whether it may be done twice: because it changes nothing, or is applied once.
    is_repeatable: bool,
    /// How long the next attempt may take.
    limit: Option<Duration>,
    pause: Duration,
    /// The first failure that may have had an effect.
    uncertain: Option<ClientError>,
}

impl Attempts {
    /// A command without a session.
    fn once() -> Self {
        Self { is_repeatable: false, limit: None, pause: PAUSE_MIN, uncertain: None }
    }

    /// Something that changes nothing. It has all the time that there is: a replica that cannot
    /// answer says so.
    fn harmless() -> Self {
        Self { is_repeatable: true, ..Self::once() }
    }

    /// A command with a session. Its first submissions wait for a short time, lest a replica that
    /// is paused or cut off costs it all.
    fn numbered() -> Self {
        Self { limit: Some(SUBMISSION_MIN), ..Self::harmless() }
    }

    fn is_uncertain(&self) -> bool {
        self.uncertain.is_some()
    }

    fn limit(&mut self, left: Duration) -> Duration {
        let limit = self.limit.map_or(left, |limit| limit.min(left));
        self.limit = self.limit.map(|limit| limit.saturating_mul(2));
        limit
    }

    /// Takes a failure; whether there is any point in another attempt.
    fn may_repeat(&mut self, error: &ClientError) -> bool {
        if error.effect() == Effect::Unknown {
            self.uncertain.get_or_insert_with(|| error.clone());
            return self.is_repeatable;
        }
        // Another peer may run a replica.
        error.is_retryable() || error.code() == ErrorCode::NoReplica
    }

    /// What is known at the end: one attempt that may have had an effect is enough.
    fn conclude(&self, last: ClientError) -> ClientError {
        self.uncertain.clone().unwrap_or(last)
    }

    /// How long to wait before the next attempt; `chance` is from 0 to 1.
    fn pause(&mut self, chance: f64) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE_MAX);
        pause.mul_f64(0.5 + chance / 2.0)
    }
}

/// What an answer says became of a submission; none if it is no answer to one that asked for `acks`.
fn outcome(applied: &Applied, acks: Acks) -> Option<Outcome> {
    if !applied.level.reaches(acks) {
        return None;
    }
    if !applied.level.reaches(Acks::Quorum) {
        // Nothing has been applied, so there is no response, and its place is the leader's.
        return Some(Outcome::Done { index: applied.index, response: Bytes::new() });
    }
    Outcome::decode(&applied.response)
}

fn answered(node: NodeId, answer: Bytes) -> Result<(NodeId, Applied), ClientError> {
    match service::decode(answer) {
        Some(applied) => Ok((node, applied)),
        None => Err(ClientError::InvalidAnswer { node }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unknown() -> ClientError {
        ClientError::answered(ErrorCode::QuorumFailed, "lost".into())
    }

    fn refused() -> ClientError {
        ClientError::answered(ErrorCode::NoQuorum, "nobody leads".into())
    }

    /// One submission of unknown outcome is enough: that the last one was refused says nothing
    /// about the first.
    #[test]
    fn later_refusal_does_not_make_an_unknown_outcome_certain() {
        let mut attempts = Attempts::numbered();
        assert!(attempts.may_repeat(&refused()));
        assert!(!attempts.is_uncertain());
        assert_eq!(attempts.conclude(refused()), refused());
        assert!(attempts.may_repeat(&unknown()));
        assert!(attempts.may_repeat(&refused()));
        assert_eq!(attempts.conclude(refused()), unknown());
    }

    /// Without a session a repetition could apply the command twice.
    #[test]
    fn unknown_outcome_without_a_session_is_not_repeated() {
        let mut attempts = Attempts::once();
        assert!(attempts.may_repeat(&refused()));
        assert!(!attempts.may_repeat(&unknown()));
        let too_large = ClientError::answered(ErrorCode::PayloadTooLarge, String::new());
        assert!(!attempts.may_repeat(&too_large), "it will not become smaller");
        assert!(attempts.may_repeat(&ClientError::NoReplica));
    }

    /// Clients that failed together must not come back together, nor too often.
    #[test]
    fn pauses_grow_to_a_limit_and_differ() {
        let mut attempts = Attempts::numbered();
        let pauses: Vec<_> = [0.0, 1.0, 0.0, 1.0, 1.0, 1.0].map(|c| attempts.pause(c)).into();
        let ms = |pauses: &[Duration]| pauses.iter().map(Duration::as_millis).collect::<Vec<_>>();
        assert_eq!(ms(&pauses), [10, 40, 40, 160, 200, 200]);
    }

    /// A leader that is paused must not use up the time in which another could have answered.
    #[test]
    fn submissions_wait_longer_each_time_and_never_past_the_deadline() {
        let mut attempts = Attempts::numbered();
        let seconds = Duration::from_secs;
        assert_eq!(attempts.limit(seconds(5)), seconds(1));
        assert_eq!(attempts.limit(seconds(4)), seconds(2));
        assert_eq!(attempts.limit(seconds(2)), seconds(2));
        assert_eq!(Attempts::harmless().limit(seconds(5)), seconds(5));
    }
}
