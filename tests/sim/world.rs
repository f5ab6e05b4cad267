//! The simulated machines and what lies between them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use zmesh::consensus::membership::{Bootstrap, Member, Membership};
use zmesh::consensus::wire;
use zmesh::consensus::{Log, Role};
use zmesh::kv::Query;
use zmesh::replica::session::Submission;
use zmesh::replica::{
    AckLevel, Acks, Applied, Core, Job, Machine, Options, Sessions, Setup, Snapshots, Store,
    do_file_work, image_bytes,
};
use zmesh::wal::{self, Disk, Keep, MemoryDisk};
use zmesh::{Incarnation, Time};

use crate::history::History;
use crate::ledger::Ledger;
use crate::lying_disk::LyingDisk;

#[path = "faults.rs"]
mod faults;
#[path = "journals.rs"]
mod journals;
#[path = "mistakes.rs"]
mod mistakes;
#[path = "sessions.rs"]
mod sessions;
#[path = "unsynced.rs"]
mod unsynced;

/// What kind of run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) nodes: usize,
    pub(crate) voters: usize,
    pub(crate) changes: bool,
    /// Whether clients with sessions take part.
    pub(crate) sessions: bool,
    /// Whether no entry is synced.
    pub(crate) unsynced: bool,
    pub(crate) mutant: Option<Mutant>,
    /// After how many entries a snapshot is taken.
    pub(crate) snapshot_entries: u64,
    /// How many commands the log must keep, besides what the replica itself needs.
    pub(crate) retained: usize,
}

impl Plan {
    pub(crate) fn voters(nodes: usize) -> Self {
        Self {
            nodes,
            voters: nodes,
            changes: false,
            sessions: false,
            unsynced: false,
            mutant: None,
            snapshot_entries: 6,
            retained: 0,
        }
    }

    /// Three of five replicas begin; the others come and go.
    pub(crate) fn changing() -> Self {
        Self { changes: true, voters: 3, ..Self::voters(5) }
    }

    /// The machine refers to its last commands in the log.
    pub(crate) fn journal(plan: Self) -> Self {
        Self { retained: 60, ..plan }
    }

    /// No entry is synced, and machines lose power.
    pub(crate) fn unsynced(nodes: usize) -> Self {
        Self { unsynced: true, ..Self::voters(nodes) }
    }

    /// Clients retry through sessions while leaders come and go.
    pub(crate) fn sessions() -> Self {
        Self { sessions: true, ..Self::voters(3) }
    }
}

/// A mistake that a driver could make.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Mutant {
    /// Says that entries are on disk before they are.
    AcknowledgeBeforeSync,
    /// Commits what only the leader has.
    CommitAlone,
    /// Forgets entries as soon as they are applied, before a snapshot has them.
    CompactTooMuch,
    /// Runs a machine on one node that is not deterministic.
    Diverge,
    /// Does not say what the machine refers to.
    ForgetFloor,
    /// Writes the first members into every snapshot.
    ForgetMembership,
    /// Writes snapshots that know no sessions.
    ForgetSessions,
    /// Does not write the term and the vote.
    ForgetVote,
    /// Gives a retry a serial of its own, so that nobody recognizes it.
    NumberAnew,
    /// Answers reads from the leader's own state.
    ReadWithoutQuorum,
    /// Goes on as itself with what a power cut has left of unsynced entries.
    TrustWhatIsLeft,
}

/// What a run came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Report {
    pub(crate) trace: u64,
    pub(crate) commits: u64,
    pub(crate) acks: u64,
    /// Writes that were answered below the level of the quorum.
    pub(crate) accepted: u64,
    pub(crate) reads: u64,
    pub(crate) crashes: u64,
    pub(crate) terms: u64,
    /// Snapshots that were written, and that replicas continued from.
    pub(crate) snapshots: u64,
    pub(crate) installs: u64,
    /// Comparisons of states.
    pub(crate) compared: u64,
    /// How often somebody read everything that the log must keep.
    pub(crate) journals: u64,
    /// Of clients with sessions: commands done, submissions after the first, sessions that ended.
    pub(crate) done: u64,
    pub(crate) retries: u64,
    pub(crate) expired: u64,
}

/// How long everything may go wrong, and how long healing may take.
const FAULTS: Duration = Duration::from_secs(6);
const HEALING: Duration = Duration::from_secs(6);
const KEYS: u64 = 4;
/// Time between two comparisons of the states.
const HASH_INTERVAL: Duration = Duration::from_millis(150);
/// What a client may ask for; mostly what it gets unasked.
const LEVELS: [Acks; 8] = [
    Acks::None,
    Acks::Leader,
    Acks::Quorum,
    Acks::Quorum,
    Acks::Quorum,
    Acks::Quorum,
    Acks::All { min_insync: 1 },
    Acks::All { min_insync: 3 },
];
const DIR: &str = "/replica";

pub(crate) struct World {
    rng: fastrand::Rng,
    plan: Plan,
    bootstrap: Bootstrap,
    now: Time,
    step: u64,
    queue: BTreeMap<(Time, u64), Event>,
    nodes: Vec<Node>,
    net: Net,
    history: History,
    /// Machines that lost power and have not their place back, with the raft ids that they had.
    anew: BTreeMap<usize, Vec<u64>>,
    sessions: sessions::Sessions,
    tickets: u64,
    trace: u64,
    crashes: u64,
    snapshots: u64,
    installs: u64,
    compared: u64,
    journals: u64,
    healed: bool,
}

struct Node {
    raft_id: u64,
    disk: MemoryDisk,
    running: Option<Running>,
    /// Frames that have arrived and wait for the next turn.
    inbox: Vec<(u64, Bytes)>,
    /// The process is stopped until then; frames wait.
    paused_until: Time,
    /// The one wake-up that counts.
    wake: Time,
    starts: u64,
}

struct Running {
    core: Core<Sessions<Ledger>, u64>,
    store: Store,
    /// Highest index the history has seen of this start.
    checked: u64,
    /// What the core had counted of snapshots when it was looked at last.
    counted: Snapshots,
    /// Likewise, of states that were equal.
    compared: u64,
    /// Work that goes on beside the turns, until its event comes.
    job: Option<Job>,
}

enum Event {
    Client,
    Deliver { from: usize, to: usize, frame: Bytes },
    Fault,
    Job { node: usize, start: u64 },
    Restart { node: usize },
    SessionClient,
    Wake { node: usize },
}

#[derive(Default)]
struct Net {
    loss: f64,
    doubles: f64,
    delay_max: u64,
    /// Directed links that are cut.
    cut: BTreeSet<(usize, usize)>,
}

type Checked = Result<(), String>;

impl World {
    /// Runs one seed. The error says what went wrong, and when.
    pub(crate) fn run(seed: u64, plan: Plan) -> Result<Report, String> {
        let mut world = Self::new(seed, plan);
        let result = world.phases();
        let (step, now) = (world.step, world.now);
        result.map_err(|error| format!("seed {seed}, step {step}, {now}: {error}"))?;
        Ok(Report {
            trace: world.trace,
            commits: world.history.commits(),
            acks: world.history.acks,
            accepted: world.history.accepted,
            reads: world.history.reads,
            crashes: world.crashes,
            terms: world.history.terms(),
            snapshots: world.snapshots,
            installs: world.installs,
            compared: world.compared,
            journals: world.journals,
            done: world.sessions.done().len() as u64,
            retries: world.sessions.retries,
            expired: world.sessions.expired,
        })
    }

    fn new(seed: u64, plan: Plan) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let raft_ids: Vec<u64> = (0..plan.nodes).map(|_| rng.u64(1..)).collect();
        let members = raft_ids.iter().take(plan.voters).enumerate();
        let members = members.map(|(at, &raft_id)| member(at, raft_id, true)).collect();
        let node = |raft_id| Node {
            raft_id,
            disk: MemoryDisk::new(),
            running: None,
            inbox: Vec::new(),
            paused_until: Time::ZERO,
            wake: Time::ZERO,
            starts: 0,
        };
        Self {
            plan,
            bootstrap: Bootstrap::new(members).expect("distinct voters"),
            now: Time::ZERO,
            step: 0,
            queue: BTreeMap::new(),
            nodes: raft_ids.into_iter().map(node).collect(),
            net: Net { delay_max: 2_000, ..Net::default() },
            history: History::default(),
            anew: BTreeMap::new(),
            sessions: sessions::Sessions::new(),
            tickets: 0,
            trace: 0xcbf2_9ce4_8422_2325,
            crashes: 0,
            snapshots: 0,
            installs: 0,
            compared: 0,
            journals: 0,
            healed: false,
            rng,
        }
    }

    fn phases(&mut self) -> Checked {
        for node in 0..self.nodes.len() {
            self.start(node)?;
        }
        self.after_ms(0..20, Event::Client);
        if self.plan.sessions {
            self.after_ms(0..20, Event::SessionClient);
        }
        self.after_ms(500..900, Event::Fault);
        let faults_end = Time::from_start(FAULTS);
        self.run_until(faults_end, |_| false)?;
        self.heal()?;
        let last = self.last_write(faults_end + HEALING)?;
        self.run_until(self.now + HEALING, |world| world.all_applied(last))?;
        check(self.all_applied(last), || "not everybody caught up after healing".into())?;
        // Whatever was asked before is answered by now, or its deadline has passed.
        self.queue.retain(|_, event| !matches!(event, Event::Client | Event::SessionClient));
        self.run_until(self.now + Duration::from_secs(2), |_| false)?;
        self.history.nothing_waits()?;
        self.history.check_end()?;
        self.done_once()?;
        self.same_state()?;
        self.all_read_their_journals(last)
    }

    fn run_until(&mut self, end: Time, done: impl Fn(&Self) -> bool) -> Checked {
        while let Some((&(time, _), _)) = self.queue.first_key_value() {
            if time > end || done(self) {
                break;
            }
            let Some(((time, sequence), event)) = self.queue.pop_first() else { break };
            self.now = time;
            self.step += 1;
            self.note(&[
                time.since_start().as_secs(),
                u64::from(time.since_start().subsec_nanos()),
                sequence,
            ]);
            self.handle(event)?;
        }
        Ok(())
    }

    fn handle(&mut self, event: Event) -> Checked {
        match event {
            Event::Client => {
                self.after_ms(0..40, Event::Client);
                self.take_places()?;
                self.client()
            }
            Event::Deliver { from, to, frame } => {
                let sender = self.nodes[from].raft_id;
                self.nodes[to].inbox.push((sender, frame));
                // The turn follows a little later, with everything that arrives until then.
                let delay = Duration::from_micros(self.rng.u64(0..200));
                self.wake_at(to, self.now + delay);
                Ok(())
            }
            Event::Fault => {
                if !self.healed {
                    self.fault()?;
                    self.after_ms(100..500, Event::Fault);
                }
                Ok(())
            }
            Event::Job { node, start } => self.job(node, start),
            Event::Restart { node } if self.nodes[node].running.is_none() => self.start(node),
            Event::Restart { .. } => Ok(()),
            Event::SessionClient => self.session_client(),
            Event::Wake { node } => self.turn(node),
        }
    }

    /// One turn of a driver, with a crash between any two of its steps.
    fn turn(&mut self, at: usize) -> Checked {
        let node = &mut self.nodes[at];
        if node.wake > self.now || node.running.is_none() {
            return Ok(());
        }
        if node.paused_until > self.now {
            let until = node.paused_until;
            self.wake_at(at, until);
            return Ok(());
        }
        let Some(mut running) = node.running.take() else { return Ok(()) };
        for (from, frame) in std::mem::take(&mut node.inbox) {
            for known in &self.nodes {
                running.core.admit(known.raft_id);
            }
            let refused = running.core.handle_frame(from, &frame);
            // What was on its way from or to a former self is for nobody.
            check(refused.is_ok() || self.plan.unsynced, || {
                format!("honest frame refused: {refused:?}")
            })?;
        }
        running.core.turn(self.now);
        let mut survived = self.settle(at, &mut running)?;
        if survived && do_file_work(&mut running.core, &mut running.store) {
            survived = !self.dies() && self.settle(at, &mut running)?;
        }
        self.look_at(&mut running)?;
        if survived {
            self.begin_job(at, &mut running)?;
        }
        self.compared += running.core.status().hashes.equal - running.compared;
        running.compared = running.core.status().hashes.equal;
        if running.core.is_condemned() {
            let reason = running.core.failure().unwrap_or_default();
            return Err(format!("node {at} is condemned: {reason}"));
        }
        let timeout = running.core.poll_timeout();
        let failed = running.core.status().failure.is_some();
        self.nodes[at].running = Some(running);
        match timeout {
            Some(timeout) if survived && !failed => {
                self.nodes[at].wake = timeout.max(self.now);
                self.schedule(timeout.max(self.now), Event::Wake { node: at });
                Ok(())
            }
            _ => self.crash(at),
        }
    }

    /// Sends, writes and delivers. Returns whether the machine is still running.
    fn settle(&mut self, at: usize, running: &mut Running) -> Result<bool, String> {
        loop {
            for (to, frame) in running.core.take_frames() {
                let envelope = self.envelope(at, to);
                if self.plan.mutant == Some(Mutant::CommitAlone)
                    && let Some(forged) = mistakes::acknowledge(envelope, &frame)
                {
                    self.forge(at, to, forged);
                }
                self.send(at, to, frame);
            }
            self.deliver(running)?;
            let Some(mut persist) = running.core.take_persist() else { return Ok(true) };
            if self.dies() {
                return Ok(false);
            }
            if self.plan.mutant == Some(Mutant::ForgetVote) {
                persist.hard_state = None;
            }
            match running.store.persist(&persist) {
                Ok(()) if self.dies() => return Ok(false),
                Ok(()) => running.core.persisted(persist.number),
                Err(error) => running.core.fail(error.to_string()),
            }
        }
    }

    /// Begins work on snapshots, which is done some time later.
    fn begin_job(&mut self, at: usize, running: &mut Running) -> Checked {
        if self.plan.mutant == Some(Mutant::CompactTooMuch) {
            running.store.compact(running.core.applied()).map_err(|error| error.to_string())?;
        }
        running.job = match running.core.take_job() {
            Some(Job::Write { point, mut membership, image }) => {
                if self.plan.mutant == Some(Mutant::ForgetMembership) {
                    membership = Membership::new(&self.bootstrap);
                }
                let image = image_bytes(image);
                // Here the replicas themselves have to find it.
                if self.plan.mutant != Some(Mutant::Diverge) {
                    self.history.snapshot(point, &membership, &image)?;
                }
                let image = match self.plan.mutant {
                    Some(Mutant::ForgetSessions) => {
                        mistakes::without_sessions(&image, || ledger(&self.plan))
                    }
                    _ => image,
                };
                let image = move |out: &mut dyn std::io::Write| out.write_all(&image);
                Some(Job::Write { point, membership, image: Box::new(image) })
            }
            None if running.job.is_some() => return Ok(()),
            other => other,
        };
        if running.job.is_some() {
            let start = self.nodes[at].starts;
            self.after_ms(0..100, Event::Job { node: at, start });
        }
        Ok(())
    }

    /// Does the work that was begun, if the process that began it still runs.
    fn job(&mut self, at: usize, start: u64) -> Checked {
        let node = &mut self.nodes[at];
        let running = node.running.as_mut().filter(|_| node.starts == start);
        if let Some(running) = running
            && let Some(job) = running.job.take()
        {
            let done = job.run(running.store.files());
            if self.dies() {
                return self.crash(at);
            }
            let Some(running) = &mut self.nodes[at].running else { return Ok(()) };
            running.core.job_done(done);
            self.wake_at(at, self.now);
        }
        Ok(())
    }

    fn deliver(&mut self, running: &mut Running) -> Checked {
        self.look_at_log(running)?;
        for done in running.core.take_done() {
            self.note(&[done.ticket, u64::from(done.result.is_ok())]);
            if let Ok(applied) = &done.result {
                self.check_level(running, applied)?;
            }
            match self.sessions.has(done.ticket) {
                true => self.sessions.answered(done.ticket, &done.result)?,
                false => self.history.answered(done.ticket, &done.result)?,
            }
        }
        let twice = running.core.machine().inner().twice();
        check(twice.is_none(), || format!("{twice:?} was applied twice"))
    }

    /// An answer claims no more copies than there are. Machines without power are not looked at.
    fn check_level(&self, running: &Running, applied: &Applied) -> Checked {
        let Applied { index, term, level, .. } = *applied;
        let has = |running: &Running| {
            let log = running.store.log();
            // What the log has forgotten is in a snapshot.
            log.term(index) == Some(term) || index < log.first_index()
        };
        let unsynced = [AckLevel::LeaderUnsynced, AckLevel::QuorumUnsynced, AckLevel::AllUnsynced];
        check(
            unsynced.contains(&level) == (self.plan.unsynced && level != AckLevel::None),
            || format!("{level} is not what the replicas do"),
        )?;
        match level {
            AckLevel::Leader | AckLevel::LeaderUnsynced => {
                check(has(running), || format!("the leader lacks {index}"))
            }
            AckLevel::All | AckLevel::AllUnsynced => {
                let in_sync = running.core.status().acks.in_sync.members;
                let others =
                    self.nodes.iter().enumerate().filter(|(at, node)| {
                        in_sync.contains(&member(*at, node.raft_id, true).node)
                    });
                // A power cut may have taken the copy that counted.
                let others = others.filter(|(at, _)| !self.anew.contains_key(at));
                let mut others = others.filter_map(|(_, node)| node.running.as_ref());
                check(has(running) && others.all(has), || format!("not all have {index}"))
            }
            AckLevel::None | AckLevel::Quorum | AckLevel::QuorumUnsynced => Ok(()),
        }
    }

    /// Whether the power fails at this very point.
    fn dies(&mut self) -> bool {
        let odds = if self.plan.mutant.is_some() { 100 } else { 600 };
        !self.healed && self.rng.u32(0..odds) == 0
    }

    fn look_at(&mut self, running: &mut Running) -> Checked {
        self.deliver(running)?;
        for event in running.core.take_events() {
            self.note(&[event.term, event.role as u64]);
            if event.role == Role::Leader {
                self.history.leads(event.term, running.core.raft_id())?;
            }
        }
        self.read_at_times(running)
    }

    fn look_at_log(&mut self, running: &mut Running) -> Checked {
        let applied = running.core.applied();
        let counted = running.core.status().snapshots;
        self.snapshots += counted.taken - running.counted.taken;
        if counted.installed > running.counted.installed {
            self.installs += counted.installed - running.counted.installed;
            running.checked = running.checked.max(running.store.log().first_index() - 1);
        }
        running.counted = counted;
        if applied > running.checked {
            let (low, high) = (running.checked + 1, applied + 1);
            let entries = running.store.log().entries(low, high, u64::MAX);
            let entries = entries.map_err(|error| error.to_string())?;
            check(entries.len() as u64 == applied - running.checked, || "log is short".into())?;
            for entry in &entries {
                self.history.applied(entry)?;
            }
            running.checked = applied;
        }
        Ok(())
    }

    fn envelope(&self, from: usize, to: u64) -> wire::Envelope {
        let cluster = self.bootstrap.cluster_id();
        wire::Envelope { cluster, from: self.nodes[from].raft_id, to }
    }

    /// Lets a replica hear something that the replica `from` has never said.
    fn forge(&mut self, at: usize, from: u64, frame: Bytes) {
        if let Some(from) = self.nodes.iter().position(|node| node.raft_id == from) {
            self.schedule(self.now, Event::Deliver { from, to: at, frame });
        }
    }

    fn send(&mut self, from: usize, raft_id: u64, frame: Bytes) {
        self.note(&[from as u64, raft_id, frame.len() as u64, hash(&frame)]);
        let Some(to) = self.nodes.iter().position(|node| node.raft_id == raft_id) else { return };
        if self.net.cut.contains(&(from, to)) {
            return;
        }
        let copies = if self.rng.f64() < self.net.loss {
            0
        } else {
            1 + usize::from(self.rng.f64() < self.net.doubles)
        };
        for _ in 0..copies {
            // Every copy has its own delay, so that frames overtake each other.
            let delay = Duration::from_micros(self.rng.u64(50..=self.net.delay_max));
            self.schedule(self.now + delay, Event::Deliver { from, to, frame: frame.clone() });
        }
    }

    fn client(&mut self) -> Checked {
        let node = self.asked();
        if self.nodes[node].paused_until > self.now {
            return Ok(());
        }
        self.tickets += 1;
        let ticket = self.tickets;
        let deadline = self.now + Duration::from_millis(self.rng.u64(30..1_500));
        let key = Bytes::from(format!("key-{}", self.rng.u64(0..KEYS)));
        let write = self.rng.bool();
        let mutant = self.plan.mutant;
        let Some(running) = &mut self.nodes[node].running else { return Ok(()) };
        if write {
            let command = set(&key, ticket);
            self.history.writes(ticket, node, key, command.clone());
            let acks = LEVELS[self.rng.usize(..LEVELS.len())];
            running.core.propose_with(once(command), acks, deadline, ticket);
        } else {
            self.history.asks(ticket, node, key.clone());
            let query = Query::Get { key }.encode().expect("within the limits");
            let leads = running.core.consensus().role() == Role::Leader;
            if mutant == Some(Mutant::ReadWithoutQuorum) && leads {
                let (index, response) = running.core.read_stale(&query);
                let level = AckLevel::Quorum;
                let reply = Ok(Applied { index, term: 0, level, response });
                return self.history.answered(ticket, &reply);
            }
            running.core.read(query, deadline, ticket);
        }
        self.wake_at(node, self.now);
        Ok(())
    }

    /// Whom a client asks: mostly somebody who thinks that it leads, sometimes anybody.
    fn asked(&mut self) -> usize {
        let leads = |node: &Node| {
            let running = node.running.as_ref();
            running.is_some_and(|running| running.core.consensus().role() == Role::Leader)
        };
        let leaders: Vec<_> = (0..self.nodes.len()).filter(|at| leads(&self.nodes[*at])).collect();
        match self.rng.choice(leaders) {
            Some(leader) if self.rng.u32(0..4) > 0 => leader,
            _ => self.rng.usize(0..self.nodes.len()),
        }
    }

    fn start(&mut self, at: usize) -> Checked {
        let node = &mut self.nodes[at];
        node.starts += 1;
        node.disk.heal();
        let disk: Arc<dyn Disk> = match self.plan.mutant {
            Some(Mutant::AcknowledgeBeforeSync) => Arc::new(LyingDisk(node.disk.clone())),
            _ => Arc::new(node.disk.clone()),
        };
        let options =
            wal::Options { segment_bytes: 1 << 14, reserve_bytes: 0, window_bytes_max: 4 << 10 };
        let store = Store::open(Arc::clone(&disk), Path::new(DIR), options);
        let mut store = match store.map_err(|error| format!("node {at} cannot start: {error}"))? {
            Some(store) => store,
            None => {
                let name = member(at, node.raft_id, true).node;
                let (dir, bootstrap) = (Path::new(DIR), &self.bootstrap);
                let store = Store::create(disk, dir, options, name, node.raft_id, bootstrap);
                store.map_err(|error| error.to_string())?
            }
        };
        if self.begins_anew(at, &mut store)? {
            return self.start(at);
        }
        let node = &mut self.nodes[at];
        let ledger = ledger(&self.plan);
        let astray = self.plan.mutant == Some(Mutant::Diverge) && at == 0;
        let mut machine = Sessions::new(if astray { ledger.astray() } else { ledger });
        store.restore(&mut machine).map_err(|error| error.to_string())?;
        let checked = store.snapshot().map_or(Bootstrap::INDEX, |snapshot| snapshot.point.index);
        let core = Core::new(Setup {
            raft_id: node.raft_id,
            incarnation: Incarnation(node.starts),
            bootstrap: store.bootstrap().clone(),
            snapshot: store.snapshot().cloned(),
            older_snapshots: store.older_snapshots().to_vec(),
            hard_state: store.hard_state(),
            log: store.log(),
            machine,
            options: Options {
                snapshot_entries: self.plan.snapshot_entries,
                snapshot_part_bytes: 64,
                hash_interval: HASH_INTERVAL,
                ..Options::default()
            },
            rng: self.rng.fork(),
            now: self.now,
        });
        let mut core = core.map_err(|error| format!("node {at} cannot start: {error}"))?;
        core.set_synced(!self.plan.unsynced);
        let counted = Snapshots::default();
        node.running = Some(Running { core, store, checked, counted, compared: 0, job: None });
        node.paused_until = self.now;
        node.wake = self.now;
        self.schedule(self.now, Event::Wake { node: at });
        Ok(())
    }

    /// Cuts the power of a machine; it comes back later.
    fn crash(&mut self, at: usize) -> Checked {
        self.crashes += 1;
        let node = &mut self.nodes[at];
        node.running = None;
        node.inbox.clear();
        if self.loses_power(at) {
            let keep = if self.rng.bool() { Keep::Nothing } else { Keep::Torn };
            self.nodes[at].disk.crash(&mut self.rng, keep);
        }
        self.history.forget(at);
        self.after_ms(20..1_200, Event::Restart { node: at });
        Ok(())
    }

    fn heal(&mut self) -> Checked {
        self.healed = true;
        self.net = Net { delay_max: 2_000, ..Net::default() };
        for at in 0..self.nodes.len() {
            self.nodes[at].disk.heal();
            self.nodes[at].paused_until = self.now;
            if self.nodes[at].running.is_none() {
                self.start(at)?;
            }
            self.wake_at(at, self.now);
        }
        Ok(())
    }

    /// Writes until a write is committed, and returns its index.
    fn last_write(&mut self, end: Time) -> Result<u64, String> {
        let key = Bytes::from_static(b"last");
        while self.now < end {
            self.tickets += 1;
            let command = set(&key, self.tickets);
            let deadline = self.now + Duration::from_millis(500);
            for at in 0..self.nodes.len() {
                let Some(running) = &mut self.nodes[at].running else { continue };
                if running.core.consensus().role() == Role::Leader {
                    self.history.writes(self.tickets, at, key.clone(), command.clone());
                    running.core.propose(once(command.clone()), deadline, self.tickets);
                    self.wake_at(at, self.now);
                    break;
                }
            }
            self.run_until(deadline, |world| world.history.index_of(&command).is_some())?;
            if let Some(index) = self.history.index_of(&command) {
                return Ok(index);
            }
        }
        Err("no write succeeded after healing".into())
    }

    /// Whether every member has applied up to `index`.
    fn all_applied(&self, index: u64) -> bool {
        let running = self.nodes.iter().filter_map(|node| node.running.as_ref());
        let newest = running.clone().max_by_key(|running| running.core.applied());
        newest.is_some_and(|newest| {
            let members = newest.core.consensus().membership();
            let applied = |running: &Running| {
                !members.contains(running.core.raft_id()) || running.core.applied() >= index
            };
            newest.core.applied() >= index && running.clone().all(applied)
        })
    }

    /// Replicas that have applied the same have the same state.
    fn same_state(&self) -> Checked {
        let mut states = BTreeMap::new();
        for running in self.nodes.iter().filter_map(|node| node.running.as_ref()) {
            let snapshot = image_bytes(running.core.machine().snapshot());
            let state = states.entry(running.core.applied()).or_insert_with(|| snapshot.clone());
            check(*state == snapshot, || "equal logs led to different states".into())?;
        }
        Ok(())
    }

    fn wake_at(&mut self, at: usize, time: Time) {
        self.nodes[at].wake = time.min(self.nodes[at].wake).max(self.now);
        self.schedule(time, Event::Wake { node: at });
    }

    fn after_ms(&mut self, range: std::ops::Range<u64>, event: Event) {
        let time = self.now + Duration::from_millis(self.rng.u64(range));
        self.schedule(time, event);
    }

    fn schedule(&mut self, time: Time, event: Event) {
        self.tickets += 1;
        self.queue.insert((time, self.tickets), event);
    }

    fn note(&mut self, words: &[u64]) {
        for word in words {
            self.trace = (self.trace ^ word).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

fn member(at: usize, raft_id: u64, voter: bool) -> Member {
    let node = format!("node-{at}").parse().expect("a short name");
    Member { raft_id, node, voter }
}

/// A write that no other write equals.
fn set(key: &Bytes, ticket: u64) -> Bytes {
    super::history::write(key, &Bytes::from(format!("value-{ticket}")))
}

fn once(command: Bytes) -> Bytes {
    Submission::Once { command }.encode()
}

fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn check(condition: bool, failure: impl FnOnce() -> String) -> Checked {
    if condition { Ok(()) } else { Err(failure()) }
}

/// The machine that replicas run.
fn ledger(plan: &Plan) -> Ledger {
    Ledger::new(plan.sessions, plan.retained, plan.mutant == Some(Mutant::ForgetFloor))
}
