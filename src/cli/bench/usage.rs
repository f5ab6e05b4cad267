//! What processes used, and what machine it is: from `/proc`, as far as it tells.

use std::fs::read_to_string;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use zmesh::Clock;

/// Bytes of the writes by which the disk is described, and how many.
const DISK_BYTES: usize = 4_096;
const DISK_WRITES: usize = 40;

/// Processor time of a process so far; none where the system does not tell.
pub(super) fn cpu(process: u32) -> Option<Duration> {
    let mut nanos = 0_u64;
    for task in std::fs::read_dir(format!("/proc/{process}/task")).ok()? {
        // A thread may end between the listing and the look.
        let schedule = read_to_string(task.ok()?.path().join("schedstat")).unwrap_or_default();
        nanos += schedule.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0);
    }
    Some(Duration::from_nanos(nanos))
}

/// Resident memory of a process, in bytes.
pub(super) fn resident(process: u32) -> Option<u64> {
    let status = read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().split(' ').next()?.parse().ok()?;
    Some(kib * 1_024)
}

/// What everything was measured on.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Machine {
    cores: usize,
    kernel: String,
    /// The median time to write 4 KiB and sync them, where the cluster's data lies.
    pub(super) disk_sync_us: Option<f64>,
    version: &'static str,
}

impl Machine {
    /// Describes this machine, and the disk of a directory if there is one of the cluster.
    pub(super) fn describe(dir: Option<&Path>) -> Self {
        let kernel = read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: kernel.trim().to_owned(),
            disk_sync_us: dir.and_then(disk_sync_us),
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} cores, Linux {}", self.cores, self.kernel)?;
        match self.disk_sync_us {
            Some(us) => write!(f, ", write and sync of 4 KiB {us:.0} us"),
            None => Ok(()),
        }
    }
}

/// The median time to append to a file and sync it, in microseconds.
pub(super) fn disk_sync_us(dir: &Path) -> Option<f64> {
    let clock = Clock::start();
    let mut file = tempfile::tempfile_in(dir).ok()?;
    let mut times = Vec::with_capacity(DISK_WRITES);
    for _ in 0..DISK_WRITES {
        let began = clock.now();
        std::io::Write::write_all(&mut file, &[0; DISK_BYTES]).ok()?;
        file.sync_data().ok()?;
        times.push((clock.now() - began).as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    Some(times[DISK_WRITES / 2])
}
