//! The server's process, and what a process used.

use std::io::{self, BufRead, BufReader};
use std::ops::Sub;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::{Options, Side};

/// An echo server in a process of its own, which ends with this value.
pub(crate) struct Server {
    child: Child,
    address: String,
}

impl Server {
    /// Starts this binary again and waits until it listens.
    pub(crate) fn start(side: Side, options: &Options) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--serve", side.name(), "--transport", options.transport.name()]);
        if let Some(workers) = options.multi_thread {
            command.args(["--multi-thread", &workers.to_string()]);
        }
        // The server ends when its standard input does, so also when this process is killed.
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut address = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut address)?;
        }
        Ok(Self { child, address: address.trim().to_owned() })
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// What it used so far.
    pub(crate) fn usage(&self) -> io::Result<Usage> {
        Usage::of(self.child.id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

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

    fn of(process: u32) -> io::Result<Self> {
        let mut usage = Self::default();
        for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
            let task = task?.path();
            let status = std::fs::read_to_string(task.join("status"))?;
            let switches = status
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))
                .and_then(|number| number.trim().parse::<u64>().ok());
            usage.switches += switches.unwrap_or(0);
            // Nanoseconds on a processor, nanoseconds waiting for one, time slices.
            let schedule = std::fs::read_to_string(task.join("schedstat"))?;
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
