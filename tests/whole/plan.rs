//! What kind of world a seed draws.

use std::time::Duration;

use zmesh::presence::Heartbeat;
use zmesh::replica::{self, SyncMode};
use zmesh::transport::memory::Faults;
use zmesh::wal;

/// What may go wrong. Each seed has only some of them, so that each is also seen without the others.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// A process is killed.
    Kill,
    /// A computer loses power, and what was not synced.
    PowerCut,
    /// All computers lose power at once.
    Blackout,
    /// A process stands still and goes on.
    Pause,
    /// Some cannot hear some others.
    Partition,
    /// Everything takes longer and some of it is lost.
    Weather,
    /// Syncs take long.
    SlowDisk,
    /// A disk fails once.
    DiskError,
    /// A disk is full for a time.
    DiskFull,
    /// Members are added, removed, and made leaders.
    Members,
    /// A bit of one computer's files turns over while it is down.
    FlippedBit,
    /// One computer comes back with an empty disk.
    Wiped,
}

const ALL: [Kind; 10] = [
    Kind::Kill,
    Kind::PowerCut,
    Kind::Blackout,
    Kind::Pause,
    Kind::Partition,
    Kind::Weather,
    Kind::SlowDisk,
    Kind::DiskError,
    Kind::DiskFull,
    Kind::Members,
];

/// A mistake, to see that it is caught.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Mutant {
    /// Disks say that they have synced, and have not.
    LyingDisk,
    /// A client that does not know what became of a command gives it another number.
    RetryAnew,
    /// A client reads from any replica what it has.
    StaleReads,
    /// A watch forgets now and then where it was, and goes on with what comes next.
    WatchFromNow,
}

/// What a seed draws before anything begins.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// How many computers the cluster begins with, and one more that may join.
    pub(crate) computers: usize,
    pub(crate) kinds: Vec<Kind>,
    /// The one computer whose files may be spoilt, and that may lose what was not synced.
    pub(crate) victim: usize,
    pub(crate) sync: SyncMode,
    pub(crate) mutant: Option<Mutant>,
    /// The longest pause between two faults.
    pub(crate) calm: Duration,
    /// How long things go wrong.
    pub(crate) faults_for: Duration,
    pub(crate) options: replica::Options,
    pub(crate) wal: wal::Options,
    pub(crate) heartbeat: Heartbeat,
    /// What the network is like when nothing goes wrong.
    pub(crate) fair: Faults,
    pub(crate) doubled: f64,
    pub(crate) overtaken: f64,
    /// By how much clocks may go fast or slow, each for itself. What real ones do is a tenth of it.
    /// With much more, messages seem to be late when they are not, and are refused.
    pub(crate) drift: f64,
}

impl Plan {
    pub(crate) fn draw(rng: &mut fastrand::Rng) -> Self {
        let mut kinds: Vec<Kind> = ALL.into_iter().filter(|_| rng.bool()).collect();
        let sync =
            [SyncMode::Always, SyncMode::Always, SyncMode::Interval(ms(40)), SyncMode::Never];
        let sync = sync[rng.usize(..4)];
        if sync != SyncMode::Always {
            // Nothing that is only in memory is promised to survive this.
            kinds.retain(|kind| *kind != Kind::Blackout);
        }
        // What needs an operator afterwards leaves the members to him.
        if !kinds.contains(&Kind::Members) {
            kinds.extend([None, Some(Kind::FlippedBit), Some(Kind::Wiped)][rng.usize(..3)]);
        }
        let computers = [3, 3, 3, 5][rng.usize(..4)];
        Self {
            computers,
            kinds,
            victim: rng.usize(..computers),
            sync,
            mutant: None,
            calm: ms(rng.u64(100..1_500)),
            faults_for: ms(rng.u64(3_000..7_000)),
            options: options(rng),
            wal: wal::Options {
                segment_bytes: 16 << 10,
                reserve_bytes: 0,
                window_bytes_max: 8 << 10,
            },
            heartbeat: heartbeat(rng),
            fair: Faults { delay_min: ms(0), delay_max: ms(rng.u64(1..15)), loss: 0.0 },
            doubled: [0.0, 0.02][rng.usize(..2)],
            overtaken: [0.0, 0.02][rng.usize(..2)],
            drift: [0.0, 0.002][rng.usize(..2)],
        }
    }
}

/// Times that are short, so that much happens, and limits that are low, so that they are reached.
fn options(rng: &mut fastrand::Rng) -> replica::Options {
    let election_timeout_min = ms(rng.u64(10..20) * 10);
    replica::Options {
        consensus: zmesh::consensus::Options {
            tick_interval: ms(10),
            heartbeat_interval: ms(30),
            election_timeout_min,
            election_timeout_max: election_timeout_min * 2,
            ..Default::default()
        },
        snapshot_entries: rng.u64(20..400),
        snapshot_bytes: 256 << 10,
        snapshot_part_bytes: 512,
        hash_interval: ms(400),
        scrub_bytes_per_second: 64 << 10,
        scrub_interval: ms(2_000),
        repair_interval: ms(100),
        in_sync_lag_max: ms(1_000),
        ..Default::default()
    }
}

fn heartbeat(rng: &mut fastrand::Rng) -> Heartbeat {
    let ping_interval = ms(rng.u64(50..200));
    Heartbeat {
        ping_interval,
        health_check_interval: ping_interval,
        ghost_timeout: ping_interval * 8,
        handshake_timeout: ms(1_000),
    }
}

pub(crate) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}
