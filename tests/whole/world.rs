//! A world: computers, the network between them, clients, and what goes wrong.
//!
//! First things go wrong, and only safety is asked. Then all of it is healed, and in bounded time
//! everybody has to agree and to serve again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::task::JoinHandle;
use zmesh::consensus::Role;
use zmesh::replica::{Admin, StopCause, Stopped, SyncMode};
use zmesh::transport::memory::{Faults, Network, Station};
use zmesh::wal::Keep;
use zmesh::{NodeId, Time};

use crate::clients::Clients;
use crate::computer::{Computer, Site};
use crate::ending::{Ending, SERVICES, agree, ending, report};
use crate::nemesis::Nemesis;
use crate::oracle::{Counts, Oracle};
use crate::plan::{Kind, Mutant, Plan, ms};
use crate::trace::Trace;

/// How far time goes at once.
const STEP: Duration = Duration::from_millis(1);
/// In which time each of the things has to happen that are asked of a healed world. An election
/// timeout is 400 ms at most.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a run came to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Report {
    pub(crate) sum: u64,
    pub(crate) counts: Counts,
    pub(crate) faults: u64,
    pub(crate) starts: u64,
    pub(crate) terms: u64,
    /// Milliseconds of the world, and how many of them it took to heal.
    pub(crate) millis: u64,
    pub(crate) healing: u64,
    /// Computers that an operator had to replace.
    pub(crate) replaced: u64,
}

pub(crate) struct World {
    pub(crate) rng: fastrand::Rng,
    pub(crate) now: Time,
    pub(crate) site: Site,
    pub(crate) computers: Vec<Computer>,
    pub(crate) clients: Clients,
    /// Who cannot be heard by whom, by number; clients come after the computers.
    pub(crate) cuts: BTreeSet<(usize, usize)>,
    leaders: BTreeMap<(&'static str, u64), NodeId>,
    pub(crate) report: Report,
}

impl World {
    /// Lives through what `seed` draws, and says in `trace` what happens.
    pub(crate) fn run(seed: u64, mutant: Option<Mutant>, trace: Trace) -> Result<Report, String> {
        // What the crate draws without caring how: where it begins to ask, and how long it pauses.
        fastrand::seed(seed);
        let mut rng = fastrand::Rng::with_seed(seed);
        let plan = Plan { mutant, ..Plan::draw(&mut rng) };
        trace.line(format_args!("{plan:?}"));
        let mut world = Self::new(plan, trace.clone(), rng);
        let lived = world.live();
        world.report.sum = trace.sum();
        world.report.millis = millis(world.now.since_start());
        world.report.counts = world.site.oracle.counts();
        lived.map(|()| world.report)
    }

    fn new(plan: Plan, trace: Trace, mut rng: fastrand::Rng) -> Self {
        let number = plan.computers;
        // One more than the cluster begins with, which may be added.
        let computers = (0..=number).map(|at| {
            let rate = 1.0 + plan.drift * (rng.f64() * 2.0 - 1.0);
            Computer::new(at, at == number, rate)
        });
        let computers: Vec<Computer> = computers.collect();
        let network = Network::by_hand(rng.u64(..));
        network.set_faults(plan.fair);
        let site = Site {
            members: computers[..number].iter().map(|it| it.id.clone()).collect(),
            addresses: computers.iter().map(|it| it.address.clone()).collect(),
            plan,
            network,
            oracle: Oracle::new(trace.clone()),
            trace,
        };
        let clients = Clients::new(Time::ZERO, &site, &mut rng);
        let (cuts, leaders, report) = (BTreeSet::new(), BTreeMap::new(), Report::default());
        Self { rng, now: Time::ZERO, site, computers, clients, cuts, leaders, report }
    }

    fn live(&mut self) -> Result<(), String> {
        (0..self.site.plan.computers).for_each(|number| self.start(number));
        let mut nemesis = Nemesis::new();
        let end = self.now + self.site.plan.faults_for;
        while self.now < end {
            nemesis.act(self);
            self.step()?;
        }
        let healing = self.now;
        self.heal();
        self.finish()?;
        self.report.healing = millis(self.now.saturating_since(healing));
        Ok(())
    }

    pub(crate) fn start(&mut self, number: usize) {
        self.report.starts += 1;
        let computer = &mut self.computers[number];
        computer.start(self.now, &self.site, &mut self.rng);
        computer.restart_at = None;
        // Whoever starts behind a broken cable is behind it still.
        self.apply_cuts();
    }

    fn station(&self, number: usize) -> Option<Station> {
        match number.checked_sub(self.computers.len()) {
            Some(client) => self.clients.stations.get(client).copied(),
            None => self.computers[number].life.as_ref().map(|life| life.station),
        }
    }

    pub(crate) fn apply_cuts(&self) {
        for (from, to) in &self.cuts {
            if let (Some(from), Some(to)) = (self.station(*from), self.station(*to)) {
                self.site.network.cut(from, to);
            }
        }
    }

    /// Lets the next millisecond happen.
    pub(crate) fn step(&mut self) -> Result<(), String> {
        self.now = self.now + STEP;
        self.site.trace.set_now(self.now);
        self.site.network.advance(self.now);
        for number in 0..self.computers.len() {
            if let Some(ended) = self.computers[number].step(self.now) {
                self.supervise(number, ended)?;
            }
            let computer = &self.computers[number];
            if computer.life.is_none() && computer.restart_at.is_some_and(|at| at <= self.now) {
                self.start(number);
            }
        }
        self.clients.run(self.now);
        self.look_at_leaders()?;
        if self.clients.is_broken() {
            self.site.oracle.fail("a task of a client has ended".to_owned());
        }
        self.site.oracle.failure().map_or(Ok(()), Err)
    }

    /// What whoever started the process does when it has ended by itself.
    fn supervise(&mut self, number: usize, ended: (&str, Stopped)) -> Result<(), String> {
        let (service, Stopped { cause, reason }) = ended;
        let computer = &mut self.computers[number];
        let id = computer.id.clone();
        self.site.trace.line(format_args!("{service} of {id} has stopped, {cause:?}: {reason}"));
        let fine = match cause {
            StopCause::Failed => !reason.contains("panicked") && !reason.contains("driver"),
            StopCause::Corrupt | StopCause::Configuration => computer.spoilt,
            StopCause::Asked => false,
        };
        if !fine {
            return Err(format!("{service} of {id} has stopped, {cause:?}: {reason}"));
        }
        if cause == StopCause::Failed {
            // What a failed disk has forgotten nobody knows before it was started anew.
            match self.site.plan.sync {
                SyncMode::Always => computer.cut_power(&mut self.rng, Keep::Torn),
                SyncMode::Interval(_) | SyncMode::Never => computer.kill(),
            }
            computer.restart_at = Some(self.now + ms(self.rng.u64(50..1_000)));
        } else {
            // Somebody has to look at it.
            computer.kill();
            computer.restart_at = None;
        }
        Ok(())
    }

    /// No term has two leaders.
    fn look_at_leaders(&mut self) -> Result<(), String> {
        for computer in &self.computers {
            let Some(life) = &computer.life else { continue };
            for (service, leadership) in &life.leaderships {
                let now = leadership.borrow();
                if now.role != Some(Role::Leader) {
                    continue;
                }
                let known = self.leaders.entry((service, now.term)).or_insert_with(|| {
                    let (id, term) = (&computer.id, now.term);
                    self.site.trace.line(format_args!("{id} leads {service} in term {term}"));
                    computer.id.clone()
                });
                self.report.terms = self.report.terms.max(now.term);
                if *known != computer.id {
                    let (one, other, term) = (&known, &computer.id, now.term);
                    return Err(format!("{one} and {other} lead {service} in term {term}"));
                }
            }
        }
        Ok(())
    }

    /// Ends everything that goes wrong. Whoever is down starts, unless somebody has to see to it.
    fn heal(&mut self) {
        self.site.trace.line("everything is healed");
        self.cuts.clear();
        self.site.network.heal();
        self.site.network.set_faults(Faults { delay_max: ms(2), ..Faults::default() });
        for number in 0..self.computers.len() {
            let computer = &mut self.computers[number];
            computer.disk.heal();
            computer.disk.set_capacity(None);
            computer.slowness.set(Duration::ZERO);
            computer.frozen_until = self.now;
            let joined = !computer.joins || self.site.plan.kinds.contains(&Kind::Members);
            if computer.life.is_none() && !computer.spoilt && joined {
                self.start(number);
            }
        }
    }

    /// Lets time go until the future has come to its end.
    fn until<T: Send + 'static>(
        &mut self,
        what: &str,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, String> {
        self.site.trace.line(format_args!("until {what}"));
        let task = self.clients.spawn(future);
        if !self.wait_for(&task, PATIENCE)? {
            let node = self.clients.nodes[0].clone();
            let report = self.clients.spawn(report(node, self.site.trace.clone()));
            self.wait_for(&report, PATIENCE)?;
            return Err(format!("not within {PATIENCE:?}: {what}"));
        }
        futures_now(task).ok_or_else(|| format!("it panicked: {what}"))
    }

    /// Lets time go until the task has ended; false if it has not in time.
    fn wait_for<T>(&mut self, task: &JoinHandle<T>, patience: Duration) -> Result<bool, String> {
        let end = self.now + patience;
        while !task.is_finished() && self.now < end {
            self.step()?;
        }
        Ok(task.is_finished())
    }

    /// Everybody has to serve, to agree, and to have everything that was acknowledged.
    fn finish(&mut self) -> Result<(), String> {
        let node = self.clients.nodes[0].clone();
        self.clients.stop();
        let end = self.now + PATIENCE;
        while !self.clients.are_done() {
            if self.now >= end {
                return Err("a client still waits for an answer".to_owned());
            }
            self.step()?;
        }
        self.replace_spoilt(&node)?;
        let trace = self.site.trace.clone();
        let ended = self.until("everything is served", ending(node.clone(), trace))?;
        for service in SERVICES {
            let what = format!("the members of {service} can be compared");
            self.until(&what, agree(node.clone(), service))??;
        }
        self.see_everything(ended)?;
        self.site.oracle.judge(ended)
    }

    /// Watches and readers have to come to the end.
    fn see_everything(&mut self, ended: Ending) -> Result<(), String> {
        let limit = self.now + PATIENCE;
        while !self.site.oracle.have_seen(ended) {
            if self.now >= limit {
                return Err(format!("somebody has not seen {ended:?}"));
            }
            self.step()?;
        }
        Ok(())
    }

    /// What an operator does about a member whose directory is damaged or lost: removes it, and adds
    /// it again with an empty one.
    fn replace_spoilt(&mut self, node: &zmesh::Node) -> Result<(), String> {
        for number in 0..self.computers.len() {
            let computer = &self.computers[number];
            if !computer.spoilt || computer.life.is_some() {
                continue;
            }
            self.report.replaced += 1;
            let id = computer.id.clone();
            let others = ms(5_000);
            for service in SERVICES {
                let (admin, id) = (Admin::new(node, service), id.clone());
                let what = format!("{id} is removed from {service}");
                self.until(&what, async move {
                    while let Err(error) = admin.remove(&id, others).await {
                        if error.code() == zmesh::ErrorCode::MemberUnknown {
                            break;
                        }
                    }
                })?;
            }
            let computer = &mut self.computers[number];
            computer.disk = zmesh::wal::MemoryDisk::new();
            (computer.joins, computer.spoilt) = (true, false);
            self.start(number);
            for service in SERVICES {
                let (admin, id) = (Admin::new(node, service), id.clone());
                let what = format!("{id} votes again in {service}");
                self.until(&what, async move {
                    while !admin.runs(&id) || admin.add_learner(&id, others).await.is_err() {
                        tokio::time::sleep(ms(50)).await;
                    }
                    while admin.promote(&id, others).await.is_err() {}
                })?;
            }
        }
        Ok(())
    }
}

/// The result of a task that has ended.
fn futures_now<T>(task: JoinHandle<T>) -> Option<T> {
    let mut task = std::pin::pin!(task);
    let waker = std::task::Waker::noop();
    match task.as_mut().poll(&mut std::task::Context::from_waker(waker)) {
        std::task::Poll::Ready(ended) => ended.ok(),
        std::task::Poll::Pending => None,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
