//! Deterministic simulation: real cores and stores over disks in memory, a network that delays,
//! loses, doubles and cuts, machines that crash and pause, clients that read and write.
//!
//! Every run follows from its seed. First a phase of faults, in which only safety is asked; then
//! everything is healed and a write must reach every member in bounded time.
//!
//! - `ZMESH_SEED=n cargo test --test sim` runs one seed of every kind and says what it did.
//! - `ZMESH_SEEDS=n cargo test --test sim` runs n seeds instead of the usual number.

#[path = "sim/figure_eight.rs"]
mod figure_eight;
#[path = "replica/fresh.rs"]
mod fresh;
#[path = "sim/history.rs"]
mod history;
#[path = "replica/journal.rs"]
mod journal;
#[path = "sim/ledger.rs"]
mod ledger;
#[path = "sim/lying_disk.rs"]
mod lying_disk;
#[path = "sim/world.rs"]
mod world;

use world::{Mutant, Plan, World};

/// Seeds of each plan in an ordinary run, chosen to take seconds.
const SEEDS: u64 = 80;

/// Runs the seeds of `plan` that the environment asks for, and fails with the command that repeats
/// the first failure.
fn run(test: &str, plan: Plan, seeds: u64) {
    let number =
        |name| std::env::var(name).ok().map(|n: String| n.parse::<u64>().expect("a number"));
    let range = match number("ZMESH_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ZMESH_SEEDS").unwrap_or(seeds),
    };
    for seed in range {
        if let Err(failure) = World::run(seed, plan) {
            panic!("{failure}\nrepeat it: ZMESH_SEED={seed} cargo test --test sim {test}");
        }
    }
}

/// The first seed under which a promise is broken. That the log refuses to start from what a bad
/// disk left is no broken promise, but the opposite; unless the driver itself has thrown away what
/// it needs.
fn first_failure(plan: Plan, seeds: u64) -> Option<(u64, String)> {
    let failure = |seed| World::run(seed, plan).err().map(|failure| (seed, failure));
    let refused = plan.mutant != Some(Mutant::CompactTooMuch);
    let mut failures = (0..seeds).filter_map(failure);
    failures.find(|(_, failure)| !refused || !failure.contains("cannot start"))
}

/// The common cluster, under everything at once.
#[test]
fn three_replicas_keep_every_promise() {
    run("three_replicas_keep_every_promise", Plan::voters(3), SEEDS);
}

/// Five replicas have quorums that three do not have.
#[test]
fn five_replicas_keep_every_promise() {
    run("five_replicas_keep_every_promise", Plan::voters(5), SEEDS);
}

/// Members come, go and change their vote while everything else goes wrong.
#[test]
fn changing_members_keep_every_promise() {
    run("changing_members_keep_every_promise", Plan::changing(), SEEDS / 2);
}

/// Without a sync before each answer, what was committed survives machines that lose power one after
/// the other, since they come back as somebody else; and they do come back.
#[test]
fn replicas_that_do_not_sync_keep_every_promise() {
    run("replicas_that_do_not_sync_keep_every_promise", Plan::unsynced(3), SEEDS);
    run("replicas_that_do_not_sync_keep_every_promise", Plan::unsynced(5), SEEDS / 4);
}

/// However often a client submits a command, it is done once, and every answer is the first one.
#[test]
fn retries_through_sessions_are_applied_once() {
    run("retries_through_sessions_are_applied_once", Plan::sessions(), SEEDS);
    // Several, since a single run may have few of any one kind.
    let (mut done, mut retries, mut expired) = (0, 0, 0);
    for seed in 0..5 {
        let report = World::run(seed, Plan::sessions()).unwrap();
        done += report.done;
        retries += report.retries;
        expired += report.expired;
    }
    assert!(done > 50 && retries > 20 && expired > 0, "{done}, {retries}, {expired}");
}

/// What a machine leaves in the log can be read by every leader, and in the end by everybody: also
/// by whoever was away, began late, or was not yet a member when the oldest of it was written.
#[test]
fn log_keeps_what_the_machine_refers_to() {
    let test = "log_keeps_what_the_machine_refers_to";
    run(test, Plan::journal(Plan::voters(3)), SEEDS / 2);
    run(test, Plan::journal(Plan::changing()), SEEDS / 2);
    let report = |seed| World::run(seed, Plan::journal(Plan::changing())).unwrap();
    let (installs, reads) = (0..30).map(report).fold((0, 0), |(installs, reads), report| {
        (installs + report.installs, reads + report.journals)
    });
    assert!(installs > 5 && reads > 500, "{installs}, {reads}");
}

/// A failure that cannot be repeated cannot be understood.
#[test]
fn same_seed_gives_the_same_trace() {
    for plan in [Plan::voters(3), Plan::changing(), Plan::sessions()] {
        let trace = |seed| World::run(seed, plan).unwrap();
        assert_eq!(trace(7), trace(7));
        assert_ne!(trace(7).trace, trace(8).trace, "the trace does not see what happens");
    }
}

/// A run in which nothing happens proves nothing.
#[test]
fn runs_commit_read_crash_and_elect() {
    let report = World::run(2, Plan::voters(3)).unwrap();
    assert!(report.commits > 50, "{report:?}");
    assert!(report.reads > 20, "{report:?}");
    assert!(report.accepted > 5, "{report:?}");
    assert!(report.crashes > 1, "{report:?}");
    assert!(report.terms > 1, "{report:?}");
    assert!(report.snapshots > 3, "{report:?}");
    assert!(report.compared > 10, "{report:?}");
}

/// Replicas that were away must come back by snapshots, and new ones begin with them, in most runs.
#[test]
fn most_runs_install_snapshots() {
    for plan in [Plan::voters(3), Plan::voters(5), Plan::changing()] {
        let report = |seed| World::run(seed, plan).unwrap_or_else(|failure| panic!("{failure}"));
        let with = (0..20).filter(|seed| report(*seed).installs > 0).count();
        assert!(with > 10, "{plan:?}: {with} of 20");
    }
}

/// A replica that applies something else than the others is found by itself, and by nobody else.
#[test]
fn replica_that_goes_astray_condemns_itself() {
    // A snapshot could carry its state to another, and then the two would be the majority.
    let plan = Plan { snapshot_entries: u64::MAX, ..Plan::voters(3) };
    let plan = Plan { mutant: Some(Mutant::Diverge), ..plan };
    let failures = (0..12).filter_map(|seed| World::run(seed, plan).err());
    let failures: Vec<String> = failures.collect();
    let of = |text: &str| failures.iter().filter(|failure| failure.contains(text)).count();
    let (found, condemned) = (of("node 0 is condemned: the state after"), of("is condemned"));
    assert!(found > 5, "{found} of 12: {failures:#?}");
    assert_eq!(condemned, found, "the wrong one was condemned: {failures:#?}");
}

/// The simulation must see the mistakes it is there for.
#[test]
fn planted_mistakes_are_caught() {
    for (mutant, seeds) in [
        (Mutant::AcknowledgeBeforeSync, 300),
        (Mutant::ForgetVote, 600),
        (Mutant::NumberAnew, 300),
        (Mutant::ReadWithoutQuorum, 300),
        (Mutant::TrustWhatIsLeft, 300),
        (Mutant::CompactTooMuch, 20),
        (Mutant::ForgetFloor, 20),
        (Mutant::ForgetMembership, 100),
        (Mutant::ForgetSessions, 100),
        (Mutant::CommitAlone, 300),
    ] {
        let sessions = [Mutant::NumberAnew, Mutant::ForgetSessions].contains(&mutant);
        let plan = match mutant {
            Mutant::CompactTooMuch => Plan::voters(3),
            Mutant::ForgetFloor => Plan::journal(Plan::voters(3)),
            Mutant::ForgetMembership => Plan::changing(),
            Mutant::ForgetSessions => Plan::voters(3),
            Mutant::TrustWhatIsLeft => Plan { snapshot_entries: u64::MAX, ..Plan::unsynced(3) },
            // A snapshot would make good what these forget.
            Mutant::AcknowledgeBeforeSync
            | Mutant::CommitAlone
            | Mutant::Diverge
            | Mutant::ForgetVote
            | Mutant::NumberAnew
            | Mutant::ReadWithoutQuorum => Plan { snapshot_entries: u64::MAX, ..Plan::voters(3) },
        };
        let plan = Plan { mutant: Some(mutant), sessions, ..plan };
        let caught = first_failure(plan, seeds);
        let (seed, failure) = caught.unwrap_or_else(|| panic!("{mutant:?} was not caught"));
        println!("{mutant:?} caught by seed {seed}: {failure}");
    }
}
