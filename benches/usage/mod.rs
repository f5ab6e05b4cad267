//! What a process used, as `/proc` tells.

#![allow(dead_code, reason = "no benchmark uses all of it")]

use std::io;
use std::ops::Sub;
use std::time::Duration;

/// What all threads of a process used together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Time on a processor.
    pub(crate) cpu: Duration,
    /// Times that a thread went to sleep.
    pub(crate) switches: u64,
}

impl Usage {
    /// Of this process.
    pub(crate) fn own() -> io::Result<Self> {
        Self::of(std::process::id())
    }

    /// Of any process.
    pub(crate) fn of(process: u32) -> io::Result<Self> {
        let mut usage = Self::default();
        for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
            let task = task?.path();
            // A thread may end between the listing and the look.
            let Ok(status) = std::fs::read_to_string(task.join("status")) else { continue };
            let switches = status
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))
                .and_then(|number| number.trim().parse::<u64>().ok());
            usage.switches += switches.unwrap_or(0);
            // Nanoseconds on a processor, nanoseconds waiting for one, time slices.
            let Ok(schedule) = std::fs::read_to_string(task.join("schedstat")) else { continue };
            let cpu = schedule.split(' ').next().and_then(|number| number.parse().ok());
            usage.cpu += Duration::from_nanos(cpu.unwrap_or(0));
        }
        Ok(usage)
    }
}

impl Sub for Usage {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            switches: self.switches.saturating_sub(earlier.switches),
        }
    }
}

/// A figure of `/proc/PID/status`, in MiB: `VmHWM` is the most memory so far, `VmRSS` the present.
pub(crate) fn memory(process: u32, figure: &str) -> io::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find(|line| line.starts_with(figure));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    kib.map(|kib| kib / 1_024.0).ok_or_else(|| io::Error::other(format!("no {figure}")))
}
