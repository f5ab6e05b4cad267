//! Shell: Drives one replica: one turn for everything that has arrived, one write, one sync.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::ack::AckLevel;
use super::core::{Applied, Core, Event, InSync, MemberChange, Reply};
use super::error::ReplicaError;
use super::formation;
use super::handle::{Input, Leadership, Shared, StopCause, Stopped};
use super::machine::Machine;
use super::scrub::{Pace, Scrubber, Step};
use super::service::{self, Verb};
use super::setup::{Options, Setup};
use super::snapshot::JobDone;
use super::status::Status;
use super::store::{Store, settle};
use super::sync::SyncMode;
use super::throttle::throttled;
use crate::consensus::membership::Member;
use crate::consensus::{Persist, Role, StartError, wire};
use crate::id::NodeId;
use crate::node::Node;
use crate::timer::{Time, earliest};

/// Bytes of a message of the consensus besides the command it carries, with room to spare.
const FRAME_BYTES: usize = 8 * 1024;

/// Runs a replica until its handle or its node is gone, or its disk fails.
pub(super) async fn run<M: Machine>(
    node: Node,
    name: &'static str,
    mut options: Options,
    store: Store,
    mut machine: M,
    shared: &Arc<Shared>,
) -> Result<(), Stopped> {
    store.restore(&mut machine).map_err(|error| {
        // A disk that does not answer is no damage.
        let error = formation::FormationError::Store(error);
        Stopped::new(error.cause(), &error)
    })?;
    fit(&mut options, node.system_bytes_max());
    let pace = Pace::new(&options, shared.clock.now());
    let tick_interval = options.consensus.tick_interval;
    let setup = Setup {
        raft_id: store.identity().raft_id,
        incarnation: node.incarnation(),
        bootstrap: store.bootstrap().clone(),
        snapshot: store.snapshot().cloned(),
        older_snapshots: store.older_snapshots().to_vec(),
        hard_state: store.hard_state(),
        log: store.log(),
        machine,
        options,
        // Every incarnation is random, and so is its election timeout.
        rng: fastrand::Rng::with_seed(node.incarnation().0),
        // All replicas of a node step at the same moments, so that what they have to say to another
        // node leaves together.
        now: step_before(shared.clock.now(), tick_interval),
    };
    let mut core = Core::new(setup).map_err(|error| Stopped::new(cause(&error), &error))?;
    core.set_synced(store.mode() == SyncMode::Always);
    let subject = service::frames_subject(name);
    // Only one driver runs for what is shared, so nothing is there before.
    let _ = shared.bootstrap.set(store.bootstrap().encode());
    shared.run();
    let mut driver = Driver {
        node,
        name,
        subject,
        core,
        store,
        shared: Arc::clone(shared),
        inputs: Vec::new(),
        unwritten: None,
        job: None,
        pace,
        pass: Pass::Quiet,
        membership_changes: 0,
        names: HashMap::new(),
    };
    driver.read_members();
    let ended = driver.run().await;
    driver.end_job().await;
    ended
}

/// Keeps commands and messages small enough for a payload of the node. An entry that no message can
/// carry would never be committed, nor would anything behind it.
fn fit(options: &mut Options, payload_bytes_max: usize) {
    let bytes = payload_bytes_max.saturating_sub(FRAME_BYTES).max(1);
    options.command_bytes_max = options.command_bytes_max.min(bytes);
    let message_bytes_max = &mut options.consensus.message_bytes_max;
    *message_bytes_max = (*message_bytes_max).min(u64::try_from(bytes).unwrap_or(u64::MAX));
}

/// The last whole interval before `now`.
fn step_before(now: Time, interval: Duration) -> Time {
    let into_step = now.since_start().as_nanos() % interval.as_nanos().max(1);
    let into_step = Duration::from_nanos(u64::try_from(into_step).unwrap_or(u64::MAX));
    Time::from_start(now.since_start().saturating_sub(into_step))
}

/// What is to be done when the consensus does not start.
fn cause(error: &StartError) -> StopCause {
    match error {
        StartError::Inconsistent { .. } => StopCause::Corrupt,
        StartError::Options(_) => StopCause::Configuration,
        StartError::Raft { .. } => StopCause::Failed,
    }
}

/// Does what should not hold up a turn: on another thread if the disk may have to be waited for.
fn aside<T: Send + 'static>(
    blocks: bool,
    work: impl FnOnce() -> T + Send + 'static,
) -> tokio::task::JoinHandle<T> {
    match blocks {
        true => tokio::task::spawn_blocking(work),
        false => tokio::spawn(async { work() }),
    }
}

/// How far a pass over the files is.
enum Pass {
    /// One is under way, and rests.
    Between(Box<Scrubber>),
    /// None is under way.
    Quiet,
    /// A step is being done in another thread, which holds the directory until it ends.
    Reading(tokio::task::JoinHandle<(Box<Scrubber>, Step)>),
}

struct Driver<M> {
    node: Node,
    name: &'static str,
    subject: String,
    core: Core<M, oneshot::Sender<Reply>>,
    store: Store,
    shared: Arc<Shared>,
    inputs: Vec<Input>,
    /// What a full disk did not take.
    unwritten: Option<Persist>,
    /// Work on snapshots in another thread, which holds the directory until it ends.
    job: Option<tokio::task::JoinHandle<JobDone>>,
    /// When and how fast the files are read again, and how far that is.
    pace: Pace,
    pass: Pass,
    /// How often the members had changed when they were read.
    membership_changes: u64,
    /// Members by raft id and by name; read again when somebody is not there.
    names: HashMap<u64, NodeId>,
}

impl<M: Machine> Driver<M> {
    async fn run(&mut self) -> Result<(), Stopped> {
        self.turn();
        while !self.shared.is_closed() && !self.node.is_stopped() {
            let due = earliest(self.core.poll_timeout(), self.store.poll_timeout());
            let due = earliest(due, self.scrub_due());
            let due = due.map(|due| self.shared.clock.instant(due));
            let timer = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            let job = async {
                match &mut self.job {
                    Some(job) => job.await,
                    None => std::future::pending().await,
                }
            };
            let scrub = async {
                match &mut self.pass {
                    Pass::Reading(job) => job.await,
                    Pass::Between(_) | Pass::Quiet => std::future::pending().await,
                }
            };
            // Work that is done comes first: it is rare, and holds the directory. In this order
            // always, so that a simulation can be repeated.
            tokio::select! {
                biased;
                read = scrub => {
                    self.pass = Pass::Quiet;
                    let (scrubber, step) =
                        read.map_err(|error| Stopped::new(StopCause::Failed, &error))?;
                    self.scrubbed(scrubber, &step);
                }
                done = job => {
                    self.job = None;
                    // An image that panics would do so again at every attempt.
                    let done = done.map_err(|error| Stopped::new(StopCause::Failed, &error))?;
                    self.core.job_done(done);
                }
                () = self.shared.wake.notified() => {}
                () = timer => {}
            }
            self.scrub();
            self.turn();
            if self.core.has_more() {
                tokio::task::yield_now().await;
            }
            if let Some(failure) = self.core.failure() {
                let cause = match self.core.is_condemned() {
                    true => {
                        if let Err(error) = self.store.condemn(failure) {
                            tracing::error!(%error, "the directory cannot be marked as damaged");
                        }
                        StopCause::Corrupt
                    }
                    false => StopCause::Failed,
                };
                return Err(Stopped::new(cause, &failure));
            }
        }
        let commit = self.core.consensus().commit();
        self.store.close(commit).map_err(|error| Stopped::new(StopCause::Failed, &error))
    }

    fn turn(&mut self) {
        self.take_inputs();
        self.core.turn(self.shared.clock.now());
        let changes = self.core.consensus().membership_changes();
        if changes != self.membership_changes {
            self.membership_changes = changes;
            self.read_members();
        }
        let mut lost = Vec::new();
        let (node, subject, names) = (&self.node, &self.subject, &self.names);
        let done = settle(&mut self.core, &mut self.store, &mut self.unwritten, |to, frame| {
            let sent = names.get(&to).map(|name| node.system_tick(name, subject, frame));
            if !matches!(sent, Some(Ok(()))) {
                lost.push(to);
            }
        });
        if let Err(error) = self.store.sync_due(self.shared.clock.now()) {
            self.core.fail(error.to_string());
        }
        for raft_id in lost {
            // A member that joined since the names were read is reached with the next message.
            if !self.names.contains_key(&raft_id) {
                self.read_members();
            }
            self.core.unreachable(raft_id);
        }
        self.begin_job();
        for event in self.core.take_events() {
            self.announce(event);
        }
        if let Some(in_sync) = self.core.take_in_sync() {
            self.announce_in_sync(in_sync);
        }
        for answer in done {
            // Nobody waits any more: the answer is dropped with its channel.
            drop(answer.ticket.send(answer.result));
        }
    }

    /// Begins what should not hold up a turn.
    fn begin_job(&mut self) {
        if self.job.is_some() {
            return;
        }
        if let Some(job) = self.core.take_job() {
            let (files, log) = (self.store.files().clone(), self.store.log());
            let job = if files.blocks() { job.with_image(throttled) } else { job };
            self.job = Some(aside(files.blocks(), move || {
                let done = job.run(&files);
                // With the log goes the lock of the directory.
                drop(log);
                done
            }));
        }
    }

    /// When the next step of reading the files again begins.
    fn scrub_due(&self) -> Option<Time> {
        match self.pass {
            Pass::Reading(_) => None,
            Pass::Between(_) | Pass::Quiet => self.pace.due(),
        }
    }

    /// Begins the next step, if it is time.
    fn scrub(&mut self) {
        if self.scrub_due().is_none_or(|due| due > self.shared.clock.now()) {
            return;
        }
        let mut scrubber = match std::mem::replace(&mut self.pass, Pass::Quiet) {
            Pass::Between(scrubber) => scrubber,
            Pass::Quiet | Pass::Reading(_) => Box::new(self.store.scrubber()),
        };
        let (bytes, log) = (self.pace.step_bytes(), self.store.log());
        self.pass = Pass::Reading(aside(self.store.files().blocks(), move || {
            let step = scrubber.step(bytes);
            // With the log goes the lock of the directory.
            drop(log);
            (scrubber, step)
        }));
    }

    fn scrubbed(&mut self, scrubber: Box<Scrubber>, step: &Step) {
        self.core.scrubbed(step);
        let now = self.shared.clock.now();
        match step {
            Step::Ended => self.pace.ended(now),
            Step::Damaged { .. } | Step::Failed { .. } => {
                self.pace.stepped(now, self.pace.step_bytes() as u64);
                self.pass = Pass::Between(scrubber);
            }
            Step::Read(bytes) => {
                self.pace.stepped(now, *bytes);
                self.pass = Pass::Between(scrubber);
            }
        }
    }

    /// Waits until nobody uses the directory any more.
    async fn end_job(&mut self) {
        if let Pass::Reading(job) = std::mem::replace(&mut self.pass, Pass::Quiet) {
            drop(job.await);
        }
        if let Some(job) = self.job.take() {
            self.store.files().cancel();
            drop(job.await);
        }
    }

    fn take_inputs(&mut self) {
        let mut inputs = std::mem::take(&mut self.inputs);
        self.shared.take(&mut inputs);
        let now = self.shared.clock.now();
        for input in inputs.drain(..) {
            match input {
                // Nobody waits for it: it must not take effect after its caller was told otherwise.
                Input::Inquire { deadline, reply, .. }
                | Input::Member { deadline, reply, .. }
                | Input::Propose { deadline, reply, .. }
                | Input::Read { deadline, reply, .. }
                    if deadline <= now =>
                {
                    drop(reply.send(Err(ReplicaError::NoQuorum)));
                }
                Input::Frame { from, frame } => self.frame(&from, &frame),
                Input::Inquire { id, deadline, reply } => self.core.inquire(id, deadline, reply),
                Input::Member { verb, name, deadline, reply } => {
                    match self.member_change(verb, &name) {
                        Ok(change) => self.core.change_member(change, deadline, reply),
                        Err(error) => drop(reply.send(Err(error))),
                    }
                }
                Input::Propose { command, acks, deadline, reply } => {
                    self.core.propose_with(command, acks, deadline, reply);
                }
                Input::Read { query, deadline, reply } => self.core.read(query, deadline, reply),
                Input::ReadStale { query, reply } => {
                    let (index, response) = self.core.read_stale(&query);
                    let consensus = self.core.consensus();
                    let level = AckLevel::Quorum.held(consensus.is_durable());
                    let term = consensus.term();
                    drop(reply.send(Ok(Applied { index, term, level, response })));
                }
                Input::Status { reply } => drop(reply.send(Box::new(self.status()))),
                Input::Wait { query, deadline, reply } => self.core.wait(query, deadline, reply),
            }
        }
        self.inputs = inputs;
    }

    fn frame(&mut self, from: &NodeId, frame: &Bytes) {
        // Zero is nobody: the frame of a node that is no member is refused and counted.
        let raft_id = self.sender(from, frame).unwrap_or(0);
        if let Err(refusal) = self.core.handle_frame(raft_id, frame) {
            tracing::debug!(%from, %refusal, "refused a frame");
        }
    }

    /// The raft id that a frame names as its sender, if it is one of this node. A node may have two: one
    /// of the directory that it had when what has been applied here was written, and one of another that
    /// has taken its place since.
    fn sender(&mut self, node: &NodeId, frame: &Bytes) -> Option<u64> {
        let raft_id = wire::sender(frame)?;
        if self.names.get(&raft_id) != Some(node) {
            self.read_members();
        }
        if self.names.get(&raft_id) != Some(node) {
            self.admit(node);
        }
        (self.names.get(&raft_id) == Some(node)).then_some(raft_id)
    }

    /// Hears a replica that joined after what has been applied here, or whose directory took the place
    /// of a former one, on the word of its handshake. Whoever follows a leader needs nobody else.
    fn admit(&mut self, node: &NodeId) {
        let consensus = self.core.consensus();
        let alone = consensus.leader().is_none();
        let outside = !consensus.membership().contains(self.core.raft_id());
        if (alone || outside)
            && let Some(raft_id) = self.announced(node)
        {
            self.core.admit(raft_id);
            self.names.insert(raft_id, node.clone());
        }
    }

    /// The raft id of a linked node's directory, if that belongs to this cluster.
    fn announced(&self, node: &NodeId) -> Option<u64> {
        let cluster = self.core.consensus().cluster().to_string();
        formation::announced_by(&self.node, self.name, node, &cluster)
    }

    fn member_change(&self, verb: Verb, name: &Bytes) -> Result<MemberChange, ReplicaError> {
        let (former, name) = match (verb, name.split_first_chunk::<8>()) {
            (Verb::Replace, Some((former, name))) => (u64::from_le_bytes(*former), name),
            (Verb::Replace, None) => return Err(ReplicaError::MemberName),
            (Verb::Add | Verb::Promote | Verb::Remove | Verb::Transfer, _) => (0, &name[..]),
        };
        let text = String::from_utf8_lossy(name);
        let node = NodeId::new(&text).map_err(|_| ReplicaError::MemberName)?;
        Ok(match verb {
            Verb::Add | Verb::Replace => {
                let Some(raft_id) = self.announced(&node) else {
                    return Err(ReplicaError::MemberUnknown { node });
                };
                match verb == Verb::Replace {
                    true => MemberChange::Replace { node, former, raft_id },
                    false => MemberChange::AddLearner { node, raft_id },
                }
            }
            Verb::Promote => MemberChange::Promote(node),
            Verb::Remove => MemberChange::Remove(node),
            Verb::Transfer => MemberChange::Transfer(node),
        })
    }

    fn read_members(&mut self) {
        let members: Vec<Member> = self.core.consensus().membership().members().collect();
        let names = members.into_iter().map(|m| (m.raft_id, m.node)).collect();
        // Whoever was admitted stays so until its joining, or its removal, has been applied.
        for (raft_id, node) in std::mem::replace(&mut self.names, names) {
            if self.core.consensus().is_admitted(raft_id) {
                self.names.entry(raft_id).or_insert(node);
            }
        }
    }

    fn status(&self) -> Status {
        let mut status = self.core.status();
        status.acks.unanswered_dropped = self.shared.unanswered_dropped.load(Ordering::Relaxed);
        status
    }

    fn announce_in_sync(&self, in_sync: InSync) {
        let (members, lagging) = (&in_sync.members, &in_sync.lagging);
        match in_sync.is_under_replicated() {
            true => tracing::warn!(?members, ?lagging, "under-replicated"),
            // Another replica leads.
            false if members.is_empty() => {}
            false => tracing::info!(?members, "all voters are in sync"),
        }
        self.shared.in_sync.send_replace(in_sync);
    }

    fn announce(&self, event: Event) {
        tracing::info!(role = ?event.role, term = event.term, leader = ?event.leader, "leadership");
        let role = match event.role {
            Role::Leader => Some("leader".to_owned()),
            Role::Candidate | Role::Follower => None,
        };
        self.node.set_system_label(&service::role_label(self.name), role);
        let role = Some(event.role);
        let leadership = Leadership { role, term: event.term, leader: event.leader };
        self.shared.set_leadership(leadership);
    }
}
