//! The server's process.

use std::io::{self, BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::usage::Usage;
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
        command.args(["--serve", side.name(), "--transport", &options.transport.to_string()]);
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
