//! A process that was started earlier, perhaps by another command, told apart from a stranger
//! that got its number since.
//!
//! A process number alone is reused; together with the moment at which the process started it is
//! not. Every signal is preceded by a comparison of both.

use std::io;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

/// How often a process that is not our child is looked at while we wait for its end.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// One process, for all time.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Process {
    /// The number, which the system may give to another process later.
    pub(super) pid: u32,
    /// When it started, in the system's own words.
    started: String,
}

impl Process {
    /// The process that has this number at the moment.
    pub(super) fn of(pid: u32) -> Option<Self> {
        Some(Self { pid, started: started(pid)? })
    }

    /// Whether this process, and not a stranger with its number, runs.
    pub(super) fn is_running(&self) -> bool {
        started(self.pid).as_ref() == Some(&self.started)
    }

    /// Sends a signal, and says whether there was a process to send it to.
    ///
    /// # Errors
    ///
    /// The process belongs to another user.
    pub(super) fn signal(&self, signal: Signal) -> io::Result<bool> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else {
            return Ok(false);
        };
        if !self.is_running() {
            return Ok(false);
        }
        match kill_process(pid, signal) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until the process has ended, and says whether it did in time.
    pub(super) async fn ended(&self, within: Duration) -> bool {
        let end = async {
            while self.is_running() {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        };
        tokio::time::timeout(within, end).await.is_ok()
    }
}

/// When the process with this number started: clock ticks since boot, and which boot.
/// A process that has ended and was not waited for counts as ended.
#[cfg(target_os = "linux")]
fn started(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in parentheses and may hold anything, parentheses too.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?;
    let ticks = fields.nth(18)?;
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    (!matches!(state, "Z" | "X")).then(|| format!("{ticks}@{}", boot.trim_end()))
}

/// When the process with this number started, as `ps` tells it.
#[cfg(not(target_os = "linux"))]
fn started(pid: u32) -> Option<String> {
    let output = std::process::Command::new("ps")
        .args(["-o", "state=,lstart=", "-p", &pid.to_string()])
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (state, started) = text.trim().split_once(char::is_whitespace)?;
    (!state.starts_with('Z')).then(|| started.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    /// The number alone must never be enough to kill: it may be a stranger's by the time.
    #[tokio::test]
    async fn stranger_with_the_same_number_is_left_alone() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let process = Process::of(child.id()).unwrap();
        let stranger = Process { started: "1@another-boot".to_owned(), ..process.clone() };

        assert!(!stranger.is_running());
        assert!(!stranger.signal(Signal::KILL).unwrap());
        assert!(process.is_running(), "the process was killed in place of another");

        assert!(process.signal(Signal::KILL).unwrap());
        assert!(process.ended(Duration::from_secs(10)).await, "a process not waited for has ended");
        child.wait().unwrap();
        assert!(!process.signal(Signal::KILL).unwrap());
    }
}
