//! Shell: A running replica: what its node's handlers and its user call.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, oneshot, watch};

use super::ack::{Acknowledged, Acks};
use super::core::{Applied, InSync, Reply};
use super::error::ReplicaError;
use super::machine::{CommandId, Machine};
use super::service::{Operation, Verb};
use super::session::{Outcome, Sessions, Submission};
use super::setup::Options;
use super::status::Status;
use super::sync::SyncMode;
use super::{driver, formation, service};
use crate::consensus::Role;
use crate::id::NodeId;
use crate::node::{HandlerError, Node, WeakNode};
use crate::timer::{Clock, Time};
use crate::wal::{self, Disk, RealDisk};

/// Operations that may wait to be looked at. The core has its own limits for those it accepted.
const INBOX_MAX: usize = 65_536;
/// Frames that may wait to be looked at; more are dropped, which Raft takes for a slow network.
const FRAMES_MAX: usize = 4_096;
/// Bytes of those frames; likewise.
const FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Bytes of operations that a replica holds for others, while it waits for a leader or for the
/// leader's answer; more are refused.
pub(super) const HELD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What a replica is made of.
#[derive(Clone, Debug)]
pub struct ReplicaSettings {
    /// Where the log lies. One replica for a directory; it is created if it is missing.
    pub data_dir: PathBuf,
    /// The members that the cluster begins with, this node among them. Looked at only as long as
    /// the directory is empty.
    pub members: Vec<NodeId>,
    /// Whether the directory, as long as it is empty, becomes that of a new member of a cluster
    /// that has begun: it waits until a linked node runs a replica, and takes part once it was
    /// [added](Replica::add_learner). `members` is not looked at then.
    pub join: bool,
    /// When writes reach the disk [default: [`SyncMode::Always`]]. With another mode the level of
    /// every answer says that copies may be in memory only, and a replica whose machine went down
    /// does not vote until it has begun anew as a learner.
    pub sync: SyncMode,
    /// Sizes of the log.
    pub wal: wal::Options,
    /// Times and limits.
    pub options: Options,
}

impl ReplicaSettings {
    /// A replica with default options.
    pub fn new(data_dir: impl Into<PathBuf>, members: Vec<NodeId>) -> Self {
        Self {
            data_dir: data_dir.into(),
            members,
            join: false,
            sync: SyncMode::Always,
            wal: wal::Options::default(),
            options: Options::default(),
        }
    }

    /// A replica that joins a cluster which has begun, with default options.
    pub fn joining(data_dir: impl Into<PathBuf>) -> Self {
        Self { join: true, ..Self::new(data_dir, Vec::new()) }
    }
}

/// Who leads, as far as this replica knows.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Leadership {
    /// What this replica is; none as long as the cluster has not formed.
    pub role: Option<Role>,
    /// The present term.
    pub term: u64,
    /// The node that leads.
    pub leader: Option<NodeId>,
}

/// How far a replica has come.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[serde(rename_all = "lowercase", tag = "phase")]
pub enum Progress {
    /// It waits for the other members, to begin the cluster with them.
    Forming {
        /// Members that have not been seen.
        missing: Vec<NodeId>,
    },
    /// It may have lost writes that it had confirmed, and stays out until the others have a leader.
    /// Then it begins anew as a learner. If all of them went down, an operator has to
    /// [recover](super::recover()) one of the directories.
    Doubtful,
    /// It takes part.
    Running(Box<Status>),
    /// It does not take part, and says why.
    Stopped(Stopped),
}

/// Why a replica does not take part.
#[derive(Clone, Debug, Eq, PartialEq, serde::Deserialize, serde::Serialize)]
pub struct Stopped {
    /// What kind of reason it is.
    pub cause: StopCause,
    /// For people.
    pub reason: String,
}

/// What has to be done about a replica that has stopped.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StopCause {
    /// Nothing: it was asked to, or its node has stopped.
    Asked,
    /// The settings and the data directory do not go together, or another process uses the
    /// directory. Nothing was changed on disk.
    Configuration,
    /// Files are damaged or missing. Nothing was changed on disk.
    Corrupt,
    /// A disk or the consensus failed. What was acknowledged is on the disks of a quorum; starting
    /// again finds out what is on this one.
    Failed,
}

impl Stopped {
    pub(super) fn new(cause: StopCause, error: &dyn fmt::Display) -> Self {
        Self { cause, reason: error.to_string() }
    }
}

/// A handle to a running replica. Clones are cheap and mean the same replica.
///
/// Dropping the last handle stops the replica; so does stopping its node. What it acknowledged is
/// on disk either way.
#[derive(Clone)]
pub struct Replica {
    pub(super) handle: Arc<Handle>,
}

pub(super) struct Handle {
    shared: Arc<Shared>,
    /// Weak, since the node keeps handlers that need the replica.
    pub(super) node: WeakNode,
    pub(super) name: &'static str,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// One thing for the replica to look at.
pub(super) enum Input {
    Frame { from: NodeId, frame: Bytes },
    Inquire { id: CommandId, deadline: Time, reply: oneshot::Sender<Reply> },
    Member { verb: Verb, name: Bytes, deadline: Time, reply: oneshot::Sender<Reply> },
    Propose { command: Bytes, acks: Acks, deadline: Time, reply: oneshot::Sender<Reply> },
    Read { query: Bytes, deadline: Time, reply: oneshot::Sender<Reply> },
    ReadStale { query: Bytes, reply: oneshot::Sender<Reply> },
    Status { reply: oneshot::Sender<Box<Status>> },
    Wait { query: Bytes, deadline: Time, reply: oneshot::Sender<Reply> },
}

/// What the handle, the handlers and the driver share.
pub(super) struct Shared {
    pub(super) clock: Clock,
    inbox: Mutex<Inbox>,
    pub(super) wake: Notify,
    /// Bytes of the operations that were taken in for others and are not answered.
    held_bytes: AtomicUsize,
    leadership: watch::Sender<Leadership>,
    leadership_changed: Notify,
    pub(super) in_sync: watch::Sender<InSync>,
    /// Writes that nobody waits for and that got no further than here.
    pub(super) unanswered_dropped: AtomicU64,
    pub(super) progress: Mutex<Phase>,
    /// The first members, once the cluster has begun.
    pub(super) bootstrap: OnceLock<Bytes>,
    /// Operations of its own that the replica answers with.
    pub(super) request_timeout: Duration,
}

/// An operation that was taken in, until it is dropped. See [`Shared::hold`].
pub(super) struct Held {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shared.held_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// See [`Progress`].
pub(super) enum Phase {
    Doubtful,
    Forming(Vec<NodeId>),
    Running,
    Stopped(Stopped),
}

#[derive(Default)]
struct Inbox {
    gate: Gate,
    inputs: Vec<Input>,
    frames: usize,
    frame_bytes: usize,
}

/// Whether somebody looks into the inbox. What is put in while nobody does would wait for ever.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Gate {
    #[default]
    NotYet,
    Open,
    Closed,
}

impl Shared {
    pub(super) fn new(clock: Clock, missing: Vec<NodeId>) -> Self {
        let nobody = Leadership { role: None, term: 0, leader: None };
        Self {
            clock,
            inbox: Mutex::default(),
            wake: Notify::new(),
            held_bytes: AtomicUsize::new(0),
            leadership: watch::Sender::new(nobody),
            leadership_changed: Notify::new(),
            in_sync: watch::Sender::new(InSync::default()),
            unanswered_dropped: AtomicU64::new(0),
            progress: Mutex::new(Phase::Forming(missing)),
            bootstrap: OnceLock::new(),
            request_timeout: Duration::from_secs(5),
        }
    }

    /// Who leads, as far as this replica knows.
    pub(super) fn leadership(&self) -> Leadership {
        self.leadership.borrow().clone()
    }

    /// Says who leads from here on.
    pub(super) fn set_leadership(&self, leadership: Leadership) {
        self.leadership.send_replace(leadership);
        self.leadership_changed.notify_waiters();
    }

    /// Ready as soon as who leads has changed since the call. Operations that wait go on in the
    /// order in which they came, which those that wait for a `watch` do not.
    pub(super) fn leadership_changed(&self) -> Notified<'_> {
        self.leadership_changed.notified()
    }

    /// Puts something into the inbox, or says why not; then it had no effect.
    pub(super) fn push(&self, input: Input) -> Result<(), ReplicaError> {
        let mut inbox = self.inbox.lock();
        match inbox.gate {
            Gate::NotYet => {
                drop(inbox);
                return Err(self.not_formed());
            }
            Gate::Open => {}
            Gate::Closed => return Err(ReplicaError::Stopped),
        }
        match &input {
            Input::Frame { frame, .. } => {
                let frame_bytes = inbox.frame_bytes.saturating_add(frame.len());
                if inbox.frames >= FRAMES_MAX || frame_bytes > FRAME_BYTES_MAX {
                    return Err(ReplicaError::ProposalsFull);
                }
                (inbox.frames, inbox.frame_bytes) = (inbox.frames + 1, frame_bytes);
            }
            // An overrun replica must still be able to say so.
            Input::Status { .. } => {}
            Input::Inquire { .. }
            | Input::Member { .. }
            | Input::Propose { .. }
            | Input::Read { .. }
            | Input::ReadStale { .. }
            | Input::Wait { .. } => {
                if inbox.inputs.len() >= INBOX_MAX {
                    return Err(ReplicaError::ProposalsFull);
                }
            }
        }
        inbox.inputs.push(input);
        drop(inbox);
        self.wake.notify_one();
        Ok(())
    }

    fn not_formed(&self) -> ReplicaError {
        match &*self.progress.lock() {
            Phase::Forming(missing) => ReplicaError::NotFormed { missing: missing.clone() },
            // It waits for others to lead, or has begun, or ended, this very moment.
            Phase::Doubtful | Phase::Running | Phase::Stopped(_) => ReplicaError::NoQuorum,
        }
    }

    /// Takes an operation of `bytes` in, unless too much is held already.
    pub(super) fn hold(self: &Arc<Self>, bytes: usize) -> Option<Held> {
        let before = self.held_bytes.fetch_add(bytes, Ordering::Relaxed);
        // Dropped where it is refused, which takes the bytes off again.
        let held = Held { shared: Arc::clone(self), bytes };
        (before == 0 || before + bytes <= HELD_BYTES_MAX).then_some(held)
    }

    /// Takes everything that has arrived.
    pub(super) fn take(&self, into: &mut Vec<Input>) {
        let mut inbox = self.inbox.lock();
        (inbox.frames, inbox.frame_bytes) = (0, 0);
        std::mem::swap(&mut inbox.inputs, into);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.inbox.lock().gate == Gate::Closed
    }

    pub(super) fn close(&self) {
        self.inbox.lock().gate = Gate::Closed;
        self.wake.notify_one();
    }

    /// Somebody looks into the inbox from here on, until it is closed.
    pub(super) fn run(&self) {
        let mut inbox = self.inbox.lock();
        if inbox.gate == Gate::NotYet {
            inbox.gate = Gate::Open;
        }
        drop(inbox);
        *self.progress.lock() = Phase::Running;
    }

    /// No operation is answered any more; those that nobody has looked at had no effect.
    pub(super) fn stop(&self, stopped: Stopped) {
        let mut inbox = self.inbox.lock();
        inbox.gate = Gate::Closed;
        let inputs = std::mem::take(&mut inbox.inputs);
        drop(inbox);
        // First the reason: whoever is woken by the leadership looks for it.
        *self.progress.lock() = Phase::Stopped(stopped);
        let nobody = Leadership { role: None, term: 0, leader: None };
        self.set_leadership(nobody);
        self.in_sync.send_replace(InSync::default());
        for input in inputs {
            match input {
                Input::Inquire { reply, .. }
                | Input::Member { reply, .. }
                | Input::Propose { reply, .. }
                | Input::Read { reply, .. }
                | Input::ReadStale { reply, .. }
                | Input::Wait { reply, .. } => drop(reply.send(Err(ReplicaError::Stopped))),
                Input::Frame { .. } | Input::Status { .. } => {}
            }
        }
    }

    /// Runs one operation on this replica, which has to lead.
    pub(super) async fn operate(
        &self,
        input: impl FnOnce(oneshot::Sender<Reply>) -> Input,
    ) -> Reply {
        let (reply, answer) = oneshot::channel();
        self.push(input(reply))?;
        // Dropped without an answer: the replica stopped with the operation in its hands.
        answer.await.unwrap_or(Err(ReplicaError::Io { reason: "the replica stopped".into() }))
    }
}

impl Replica {
    /// Starts a replica of `machine` on `node`, as the service `name`: its commands arrive under
    /// `_name.command` and its queries under `_name.query`.
    ///
    /// Returns at once. If the directory is empty the cluster begins as soon as every initial
    /// member has been seen; [`ready`](Self::ready) waits for that and for a leader.
    ///
    /// Writes and syncs run on the runtime's thread: they are short, and everything else this node
    /// does has to wait for them anyway.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, and if a replica of this name was started on this node before.
    pub fn start<M>(node: &Node, name: &'static str, settings: ReplicaSettings, machine: M) -> Self
    where
        M: Machine + Send + 'static,
    {
        Self::start_on(Arc::new(RealDisk), node, name, settings, machine)
    }

    /// As [`start`](Self::start), on a disk of the caller's choice.
    ///
    /// # Panics
    ///
    /// As [`start`](Self::start).
    pub fn start_on<M>(
        disk: Arc<dyn Disk>,
        node: &Node,
        name: &'static str,
        settings: ReplicaSettings,
        machine: M,
    ) -> Self
    where
        M: Machine + Send + 'static,
    {
        let others = settings.members.iter().filter(|_| !settings.join);
        let others = others.filter(|member| *member != node.id());
        let shared = Arc::new(Shared::new(node.clock(), others.cloned().collect()));
        service::register(node, name, &shared).expect("a node starts one replica of a name");
        let (running, of_node) = (Arc::clone(&shared), node.clone());
        tokio::spawn(async move {
            // Whoever waits must hear of a panic, too.
            let _guard = PanicGuard(Arc::clone(&running));
            let files = (Arc::clone(&disk), settings.data_dir.clone());
            let started = tokio::select! {
                biased;
                started = formation::form(disk, &of_node, name, &settings, &running) => started,
                () = closed(&running) => Err(formation::FormationError::Closed),
            };
            let ended = match started {
                Ok(store) => {
                    let node = of_node.clone();
                    let machine = Sessions::new(machine);
                    let rejoined = formation::finish(files, node.clone(), name, &running);
                    let options = settings.options;
                    tokio::select! {
                        biased;
                        ended = driver::run(node, name, options, store, machine, &running) => ended,
                        stopped = rejoined => Err(stopped),
                    }
                }
                Err(error) => Err(Stopped::new(error.cause(), &error)),
            };
            let asked = || Stopped::new(StopCause::Asked, &"the replica was stopped");
            let stopped = ended.err().unwrap_or_else(asked);
            match stopped.cause {
                StopCause::Asked => tracing::info!("the replica has stopped"),
                StopCause::Configuration | StopCause::Corrupt | StopCause::Failed => {
                    tracing::warn!(cause = ?stopped.cause, reason = %stopped.reason, "the replica has stopped");
                }
            }
            // Nobody shall come here any more, least of all for the leader.
            formation::withdraw(&of_node, name);
            running.stop(stopped);
        });
        let node = node.downgrade();
        Self { handle: Arc::new(Handle { shared, node, name }) }
    }

    /// Who leads, now and whenever it changes.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.handle.shared.leadership.subscribe()
    }

    /// Which voters are in sync, now and whenever it changes; empty as long as this replica does not
    /// lead.
    pub fn in_sync(&self) -> watch::Receiver<InSync> {
        self.handle.shared.in_sync.subscribe()
    }

    /// Waits until the cluster has formed and this replica knows a leader.
    ///
    /// # Errors
    ///
    /// After `timeout` [`ReplicaError::NotFormed`] if the cluster has not begun, else
    /// [`ReplicaError::NoQuorum`]; [`ReplicaError::Io`] if the replica has stopped.
    ///
    /// # Cancel safety
    ///
    /// Safe to drop and to call again.
    pub async fn ready(&self, timeout: Duration) -> Result<NodeId, ReplicaError> {
        let mut leadership = self.leadership();
        let wait = async {
            loop {
                let leader = leadership.borrow_and_update().leader.clone();
                match (leader, self.is_stopped()) {
                    (Some(leader), false) => return Some(leader),
                    (_, true) => return None,
                    // The handle has the sender, so this waits until something has changed.
                    (None, false) => drop(leadership.changed().await),
                }
            }
        };
        let known = tokio::time::timeout(timeout, wait).await;
        known.ok().flatten().ok_or_else(|| self.why_not_ready())
    }

    fn is_stopped(&self) -> bool {
        matches!(&*self.handle.shared.progress.lock(), Phase::Stopped(_))
    }

    fn why_not_ready(&self) -> ReplicaError {
        match &*self.handle.shared.progress.lock() {
            Phase::Stopped(stopped) => ReplicaError::Io { reason: stopped.reason.clone() },
            Phase::Forming(missing) => ReplicaError::NotFormed { missing: missing.clone() },
            Phase::Doubtful | Phase::Running => ReplicaError::NoQuorum,
        }
    }

    /// Proposes a command on this replica, which has to lead, and waits until it is applied. It
    /// belongs to no session: proposed again, it is applied again. See [`Client`](super::Client).
    ///
    /// # Errors
    ///
    /// [`ReplicaError`]; its [`effect`](ReplicaError::effect) says whether the command may yet
    /// take effect.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not recall the command.
    pub async fn propose(&self, command: Bytes, timeout: Duration) -> Reply {
        match self.propose_with(command, Acks::Quorum, timeout).await? {
            Acknowledged::Applied(applied) => Ok(applied),
            Acknowledged::Accepted { .. } | Acknowledged::Sent => {
                unreachable!("the core answers with the level that was asked for")
            }
        }
    }

    /// As [`propose`](Self::propose), and returns when `acks` is reached. [`Acks::None`] is when the
    /// command was taken for the next proposal.
    ///
    /// # Errors
    ///
    /// As [`propose`](Self::propose).
    ///
    /// # Cancel safety
    ///
    /// As [`propose`](Self::propose).
    pub async fn propose_with(
        &self,
        command: Bytes,
        acks: Acks,
        timeout: Duration,
    ) -> Result<Acknowledged, ReplicaError> {
        if command.is_empty() {
            return Err(ReplicaError::CommandEmpty);
        }
        let deadline = self.handle.shared.clock.now() + timeout;
        let command = Submission::Once { command }.encode();
        let input = |reply| Input::Propose { command, acks, deadline, reply };
        let applied = self.handle.shared.operate(input).await?;
        if !applied.level.reaches(Acks::Quorum) {
            return Ok(Acknowledged::of(applied));
        }
        match Outcome::decode(&applied.response) {
            Some(Outcome::Done { response, .. }) => {
                Ok(Acknowledged::of(Applied { response, ..applied }))
            }
            Some(Outcome::Refused(_)) | None => {
                unreachable!("a submission without a session is applied")
            }
        }
    }

    /// Answers a query so that it sees every write that was acknowledged before the call. This
    /// replica has to lead.
    ///
    /// # Errors
    ///
    /// [`ReplicaError`]; a query changes nothing.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn read(&self, query: Bytes, timeout: Duration) -> Reply {
        let deadline = self.handle.shared.clock.now() + timeout;
        let input = |reply| Input::Read { query, deadline, reply };
        self.handle.shared.operate(input).await
    }

    /// Answers a query from what has been applied here, however old that is. The index in the
    /// answer tells how far it reaches.
    ///
    /// # Errors
    ///
    /// [`ReplicaError`] if the replica has stopped.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn read_stale(&self, query: Bytes) -> Result<Applied, ReplicaError> {
        let input = |reply| Input::ReadStale { query, reply };
        self.handle.shared.operate(input).await
    }

    /// Answers a query as soon as what it waits for has been applied here, or at the end of
    /// `timeout` from what has been applied by then. This replica need not lead.
    ///
    /// # Errors
    ///
    /// [`ReplicaError`] if the replica has stopped, or too many wait.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn wait(&self, query: Bytes, timeout: Duration) -> Reply {
        let deadline = self.handle.shared.clock.now() + timeout;
        let input = |reply| Input::Wait { query, deadline, reply };
        self.handle.shared.operate(input).await
    }

    /// How far it has come, and everything about it.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn status(&self) -> Progress {
        self.handle.shared.status().await
    }

    /// Waits until the replica has stopped, and says why.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if the future is dropped.
    pub async fn stopped(&self) -> Stopped {
        let mut leadership = self.leadership();
        loop {
            if let Phase::Stopped(stopped) = &*self.handle.shared.progress.lock() {
                return stopped.clone();
            }
            // The handle has the sender, so this waits until something has changed.
            drop(leadership.changed().await);
        }
    }

    /// Does an operation here, or at the leader if another replica leads.
    pub(crate) async fn operate(
        &self,
        node: &Node,
        name: &'static str,
        operation: Operation,
        bytes: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, HandlerError> {
        service::operate(node, name, &self.handle.shared, operation, bytes, timeout).await
    }

    /// Hands a command on, here or to the leader, and waits for nothing but that.
    pub(crate) async fn send(
        &self,
        node: &Node,
        name: &'static str,
        bytes: Bytes,
    ) -> Result<(), ReplicaError> {
        service::send(node, name, &self.handle.shared, bytes).await
    }

    /// A handle that does not keep the replica running.
    pub(crate) fn downgrade(&self) -> WeakReplica {
        WeakReplica(Arc::downgrade(&self.handle))
    }

    /// Stops the replica. What it acknowledged is on disk.
    pub fn stop(&self) {
        self.handle.shared.close();
    }
}

/// See [`Replica::downgrade`].
#[derive(Clone)]
pub(crate) struct WeakReplica(std::sync::Weak<Handle>);

impl WeakReplica {
    pub(crate) fn upgrade(&self) -> Option<Replica> {
        self.0.upgrade().map(|handle| Replica { handle })
    }
}

impl Shared {
    pub(super) async fn status(&self) -> Progress {
        match &*self.progress.lock() {
            Phase::Doubtful => return Progress::Doubtful,
            Phase::Forming(missing) => return Progress::Forming { missing: missing.clone() },
            Phase::Stopped(stopped) => return Progress::Stopped(stopped.clone()),
            Phase::Running => {}
        }
        let (reply, answer) = oneshot::channel();
        drop(self.push(Input::Status { reply }));
        match answer.await {
            Ok(status) => Progress::Running(status),
            Err(_) => Progress::Stopped(Stopped::new(StopCause::Asked, &"the replica is stopping")),
        }
    }
}

/// Marks the replica as stopped if its task panics.
struct PanicGuard(Arc<Shared>);

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop(Stopped::new(StopCause::Failed, &"the replica panicked; see the log"));
        }
    }
}

/// Returns when the handle is gone.
async fn closed(shared: &Shared) {
    while !shared.is_closed() {
        shared.wake.notified().await;
    }
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without a leader operations wait, so they are limited in bytes; one alone always fits.
    #[tokio::test]
    async fn held_operations_are_limited_in_bytes_and_make_room_when_answered() {
        let shared = Arc::new(Shared::new(Clock::start(), Vec::new()));
        let first = shared.hold(HELD_BYTES_MAX + 1).expect("nothing else is held");
        assert!(shared.hold(1).is_none(), "over the limit");
        drop(first);
        let half = shared.hold(HELD_BYTES_MAX / 2).expect("there is room again");
        let other = shared.hold(HELD_BYTES_MAX / 2).expect("exactly the limit");
        assert!(shared.hold(1).is_none(), "refused ones must not count");
        drop((half, other));
        assert!(shared.hold(1).is_some());
    }
}
