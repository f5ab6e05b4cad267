//! `zmesh serve`: one node, and its replica if it has a data directory, until a signal.
//!
//! # Contract with whoever starts it
//!
//! - Standard output carries exactly one line, written when the node is bound and takes requests:
//!   `ready node=NAME address=ADDRESS`, or with `--json`
//!   `{"ready":true,"node":"NAME","address":"ADDRESS"}`. Nothing follows it, so a starter may
//!   close its end of the pipe. Diagnostics go to standard error.
//! - SIGTERM and SIGINT stop the node in order: peers are told, the log is closed; exit code 0.
//! - With `--exit-with-parent`, the end of standard input means the same as SIGTERM: a starter
//!   holds the other end of the pipe, which closes however the starter dies.

use std::io::{self, Read};

use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use zmesh::config::Config;
use zmesh::{Address, NodeId};

use super::config::ConfigArgs;
use super::failure::{Exit, Failure};
use super::output::Output;
use super::{Context, logging};

/// Arguments of `zmesh serve`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Stop when standard input ends, so that no node outlives whoever started it.
    #[arg(long)]
    exit_with_parent: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Why a node stops.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum StopCause {
    /// Standard input ended under `--exit-with-parent`.
    ParentGone,
    /// SIGINT or SIGTERM.
    Signal,
}

/// Runs the node.
pub(super) async fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let config = args.config.resolve(context)?;
    logging::start(&config.log.level, config.log.format, context.ansi())?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let stop = Stop::new(args.exit_with_parent.then(io::stdin))?;
    serve(config, stop, context.out).await
}

/// Starts the node, says that it is ready, and stops it when asked to.
///
/// PLUG: the node. Build `zmesh::Node` (and the replica if `config.replica` is there) from
/// `config` under the name `config.node_id()`; when it is bound call [`announce`]; then await
/// `stop.asked()` together with the end of the node, and shut down.
async fn serve(config: Config, stop: Stop, out: Output) -> Result<(), Failure> {
    drop((config, stop, out));
    Err(Failure::not_built("serve"))
}

/// Says on standard output that the node takes requests.
#[expect(dead_code, reason = "called once the node is plugged in")]
fn announce(out: Output, node: &NodeId, address: &Address) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Ready<'a> {
        ready: bool,
        node: &'a NodeId,
        address: &'a Address,
    }
    match out.is_json() {
        true => out.json(&Ready { ready: true, node, address }),
        false => out.text(&format!("ready node={node} address={address}")),
    }
}

/// Waits for whatever asks a node to stop. Made before the node starts, so that a signal that
/// arrives early is not lost.
#[derive(Debug)]
pub(super) struct Stop {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    parent: mpsc::Receiver<()>,
    /// There without `--exit-with-parent`, so that `parent` never ends.
    _no_parent: Option<mpsc::Sender<()>>,
}

impl Stop {
    /// Begins to listen for signals, and for the end of `parent` if there is one.
    pub(super) fn new(parent: Option<impl Read + Send + 'static>) -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| {
                Failure::new(Exit::Refused, format!("cannot listen for signals: {error}"))
            })
        };
        let (interrupt, terminate) =
            (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
        let (held, ended) = mpsc::channel(1);
        let no_parent = match parent {
            Some(parent) => {
                drop_at_end(parent, held);
                None
            }
            None => Some(held),
        };
        Ok(Self { interrupt, terminate, parent: ended, _no_parent: no_parent })
    }

    /// Waits until the node should stop.
    ///
    /// Cancel safe: a signal that arrives between two calls is seen by the second.
    #[cfg_attr(not(test), expect(dead_code, reason = "awaited once the node is plugged in"))]
    pub(super) async fn asked(&mut self) -> StopCause {
        tokio::select! {
            _ = self.interrupt.recv() => StopCause::Signal,
            _ = self.terminate.recv() => StopCause::Signal,
            // Nothing is ever sent: it ends when the last sender is gone.
            _ = self.parent.recv() => StopCause::ParentGone,
        }
    }
}

/// Drops `held` when `reader` ends or fails; what it carries is ignored.
///
/// A thread of its own reads: it may be in the middle of a read when the node stops for another
/// reason, and unlike a task of the runtime it holds nobody up then.
fn drop_at_end(mut reader: impl Read + Send + 'static, held: mpsc::Sender<()>) {
    std::thread::spawn(move || {
        // End and failure mean the same: nobody is there.
        let _ = io::copy(&mut reader, &mut io::sink());
        drop(held);
    });
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use rustix::process::{Signal, getpid, kill_process};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    async fn asked(stop: &mut Stop) -> StopCause {
        tokio::time::timeout(DEADLINE, stop.asked()).await.unwrap()
    }

    /// However a starter dies, its end of the pipe closes; what it says before means nothing.
    /// A signal means the same as the end, and may come before anybody waits for it.
    #[tokio::test]
    async fn end_of_parent_and_signals_ask_to_stop() {
        let (reader, mut writer) = io::pipe().unwrap();
        let mut child = Stop::new(Some(reader)).unwrap();
        writer.write_all(b"ignored").unwrap();
        let early = tokio::time::timeout(Duration::from_millis(50), child.asked()).await;
        assert!(early.is_err(), "stopped while the parent lived");
        drop(writer);
        assert_eq!(asked(&mut child).await, StopCause::ParentGone);
        assert_eq!(asked(&mut child).await, StopCause::ParentGone, "it stays gone");

        let mut alone = Stop::new(None::<io::Empty>).unwrap();
        for signal in [Signal::TERM, Signal::INT] {
            kill_process(getpid(), signal).unwrap();
            assert_eq!(asked(&mut alone).await, StopCause::Signal);
        }
    }
}
