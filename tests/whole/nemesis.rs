//! What goes wrong, one thing after the other and some at the same time.

use std::time::Duration;

use zmesh::replica::{Admin, SyncMode};
use zmesh::transport::memory::Faults;
use zmesh::wal::{Disk, Fault, Keep, Operation};
use zmesh::{NodeId, Time};

use crate::computer::DATA_DIR;
use crate::ending::SERVICES;
use crate::plan::{Kind, ms};
use crate::world::World;

pub(crate) struct Nemesis {
    next: Time,
    /// What ends when.
    ends: Vec<(Time, End)>,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Cuts,
    Full(usize),
    Slow(usize),
    Weather,
}

impl Nemesis {
    pub(crate) fn new() -> Self {
        // The first leaders are found without trouble in most runs.
        Self { next: Time::from_start(ms(600)), ends: Vec::new() }
    }

    /// Does what is due.
    pub(crate) fn act(&mut self, world: &mut World) {
        while let Some(at) = self.ends.iter().position(|(when, _)| *when <= world.now) {
            let (_, end) = self.ends.swap_remove(at);
            Self::end(world, end);
        }
        if world.now < self.next || world.site.plan.kinds.is_empty() {
            return;
        }
        self.next = world.now + world.rng.u32(..1_000) * world.site.plan.calm / 1_000;
        let kinds = &world.site.plan.kinds;
        let kind = kinds[world.rng.usize(..kinds.len())];
        world.report.faults += 1;
        self.begin(world, kind);
    }

    fn begin(&mut self, world: &mut World, kind: Kind) {
        let one = world.rng.usize(..world.site.plan.computers);
        let id = world.computers[one].id.clone();
        world.site.trace.line(format_args!("{kind:?}, {id}"));
        match kind {
            Kind::Kill => kill(world, one),
            Kind::PowerCut => cut_power(world, one),
            Kind::Blackout => (0..world.computers.len()).for_each(|one| cut_power(world, one)),
            Kind::Pause => {
                let pause = ms(world.rng.u64(5..2_500));
                world.computers[one].frozen_until = world.now + pause;
            }
            Kind::Partition => self.cut(world, one),
            Kind::Weather => self.storm(world),
            Kind::SlowDisk => {
                let sync = Duration::from_micros(world.rng.u64(200..60_000));
                world.computers[one].slowness.set(sync);
                self.ends.push((later(world, 1_500), End::Slow(one)));
            }
            Kind::DiskError => fail(world, one, Fault::Broken),
            Kind::DiskFull => {
                let room = world.rng.u64(..40_000);
                let used = used(world, one);
                world.computers[one].disk.set_capacity(Some(used + room));
                self.ends.push((later(world, 2_000), End::Full(one)));
            }
            Kind::Members => change_members(world, &id),
            Kind::FlippedBit | Kind::Wiped => {
                spoil(world, world.site.plan.victim, kind);
            }
        }
    }

    fn end(world: &mut World, end: End) {
        world.site.trace.line(format_args!("no more {end:?}"));
        match end {
            End::Cuts => {
                world.cuts.clear();
                world.site.network.heal();
            }
            End::Full(one) => world.computers[one].disk.set_capacity(None),
            End::Slow(one) => world.computers[one].slowness.set(Duration::ZERO),
            End::Weather => world.site.network.set_faults(world.site.plan.fair),
        }
    }

    /// Cuts lines in one of several shapes.
    fn cut(&mut self, world: &mut World, one: usize) {
        let (servers, all) =
            (world.site.plan.computers, world.computers.len() + world.clients.nodes.len());
        let other = (one + world.rng.usize(1..servers)) % servers;
        let half = |number: usize| number.is_multiple_of(2);
        let all_pairs = (0..all).flat_map(|from| (0..all).map(move |to| (from, to)));
        let between_servers = |(from, to): &(usize, usize)| *from < servers && *to < servers;
        let cuts: Vec<(usize, usize)> = match world.rng.u8(..6) {
            // One line, in one direction.
            0 => vec![(one, other)],
            // One line, in both.
            1 => vec![(one, other), (other, one)],
            // One computer from the others, while clients reach it.
            2 => all_pairs
                .filter(between_servers)
                .filter(|(a, b)| (*a == one) != (*b == one))
                .collect(),
            // One computer from everybody.
            3 => all_pairs.filter(|(a, b)| (*a == one) != (*b == one)).collect(),
            // One hears nobody, and everybody hears it.
            4 => {
                all_pairs.filter(between_servers).filter(|(a, b)| *a != one && *b == one).collect()
            }
            // Two halves, with one computer that hears both.
            _ => all_pairs
                .filter(between_servers)
                .filter(|(a, b)| *a != one && *b != one && half(*a) != half(*b))
                .collect(),
        };
        world.cuts.extend(cuts);
        world.apply_cuts();
        // Some last no longer than a leader needs to be heard of again.
        let longest = [150, 3_000][world.rng.usize(..2)];
        self.ends.push((later(world, longest), End::Cuts));
    }

    fn storm(&mut self, world: &mut World) {
        let delay_min = ms(world.rng.u64(..30));
        let delay_max = delay_min + ms(world.rng.u64(1..150));
        let loss = world.rng.f64() * 0.15;
        world.site.network.set_faults(Faults { delay_min, delay_max, loss });
        self.ends.push((later(world, 2_000), End::Weather));
    }
}

fn later(world: &mut World, longest: u64) -> Time {
    world.now + ms(world.rng.u64(20..longest))
}

fn kill(world: &mut World, one: usize) {
    world.computers[one].kill();
    restart(world, one);
}

fn cut_power(world: &mut World, one: usize) {
    // Where writes are not synced one of them may lose some, and the others must have them.
    if world.site.plan.sync != SyncMode::Always && one != world.site.plan.victim {
        return kill(world, one);
    }
    let keep = [Keep::Nothing, Keep::Torn, Keep::All][world.rng.usize(..3)];
    let computer = &mut world.computers[one];
    if computer.life.is_none() && computer.restart_at.is_none() {
        return;
    }
    computer.cut_power(&mut world.rng, keep);
    restart(world, one);
}

fn restart(world: &mut World, one: usize) {
    let computer = &mut world.computers[one];
    // Whoever waits for an operator goes on waiting.
    if !computer.spoilt {
        computer.restart_at = Some(world.now + ms(world.rng.u64(10..1_500)));
    }
}

/// Lets one of the next operations fail.
fn fail(world: &mut World, one: usize, fault: Fault) {
    use Operation::{Allocate, Open, Read, Remove, Rename, Sync, SyncDir, Write};
    let operations = [Sync, Sync, Write, Write, Read, Allocate, Open, Remove, Rename, SyncDir];
    let operation = operations[world.rng.usize(..operations.len())];
    world.site.trace.line(format_args!("the next {operation:?} or so fails"));
    world.computers[one].disk.fail(operation, world.rng.u64(..10), fault);
}

fn files(world: &World, one: usize) -> Vec<std::path::PathBuf> {
    let disk = &world.computers[one].disk;
    let folders = SERVICES.map(|service| std::path::Path::new(DATA_DIR).join(service));
    folders.iter().flat_map(|folder| disk.list(folder).unwrap_or_default()).collect()
}

fn used(world: &World, one: usize) -> u64 {
    let disk = &world.computers[one].disk;
    let bytes =
        |path: &std::path::PathBuf| disk.contents(path).map_or(0, |bytes| bytes.len() as u64);
    files(world, one).iter().map(bytes).sum()
}

/// Stops a computer, and does something to its files before it comes back.
fn spoil(world: &mut World, one: usize, kind: Kind) {
    if world.computers[one].spoilt {
        return;
    }
    world.computers[one].kill();
    if kind == Kind::Wiped {
        world.computers[one].disk = zmesh::wal::MemoryDisk::new();
    } else {
        let files = files(world, one);
        let disk = &world.computers[one].disk;
        let full = files.iter().filter(|path| disk.contents(path).is_some_and(|it| !it.is_empty()));
        let full: Vec<_> = full.collect();
        let Some(path) = (!full.is_empty()).then(|| full[world.rng.usize(..full.len())]) else {
            return restart(world, one);
        };
        let bits = disk.contents(path).map_or(0, |bytes| bytes.len() * 8);
        let bit = world.rng.usize(..bits);
        world.site.trace.line(format_args!("bit {bit} of {} turns over", path.display()));
        disk.flip_bit(path, bit);
    }
    restart(world, one);
    world.computers[one].spoilt = true;
}

/// Adds, promotes, removes or transfers to a member of one service, whatever comes of it.
fn change_members(world: &mut World, id: &NodeId) {
    let joiner = world.computers.len() - 1;
    if world.computers[joiner].life.is_none() && world.computers[joiner].restart_at.is_none() {
        world.start(joiner);
    }
    let (id, joiner) = (id.clone(), world.computers[joiner].id.clone());
    let service = SERVICES[world.rng.usize(..SERVICES.len())];
    let admin = Admin::new(&world.clients.nodes[0], service);
    let trace = world.site.trace.clone();
    let (what, within) = (world.rng.u8(..4), ms(1_000));
    drop(world.clients.spawn(async move {
        let changed = match what {
            0 => admin.add_learner(&joiner, within).await,
            1 => admin.promote(&joiner, within).await,
            2 => admin.transfer(&id, within).await,
            // One at a time, so that those that are left can decide.
            _ => admin.remove(&joiner, within).await,
        };
        let changed = changed.map(|applied| applied.index).map_err(|error| error.to_string());
        trace.line(format_args!("change {what} of the members of {service}: {changed:?}"));
    }));
}
