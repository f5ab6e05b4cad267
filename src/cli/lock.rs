//! `zmesh lock`: runs a command while it holds a lock, and ends it when the lock is lost.
//!
//! The command finds in `ZMESH_FENCE` what proves to the store that the lock is held; `zmesh kv`
//! shows it with every write. So a write of a command that has not noticed in time is refused.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use zmesh::ErrorCode;
use zmesh::config::Period;
use zmesh::kv::{Error, Guard};

use super::failure::{Exit, Failure};
use super::kv::{Store, write_failed};
use super::{Connect, Context, interrupted, period_above_zero};

/// The variable in which the command finds its fence.
const FENCE: &str = "ZMESH_FENCE";

/// Arguments of `zmesh lock`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The name of the lock.
    name: String,
    /// How long after its holder has vanished the lock is free.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = period_above_zero)]
    ttl: Period,
    /// Do not wait if somebody has the lock: exit code 1.
    #[arg(long = "try")]
    only_try: bool,
    /// How long the command may take to end when the lock is lost, before it is killed.
    #[arg(long, value_name = "DURATION", default_value = "1s")]
    grace: Period,
    /// The command with its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    #[command(flatten)]
    connect: Connect,
}

/// Runs `zmesh lock`. The timeout is that of single steps; the wait for the lock has none.
pub(super) async fn run(args: &Args, _: &Context) -> Result<(), Failure> {
    let store = Store::connect(&args.connect).await?;
    let held = hold(&store, args).await;
    store.close().await;
    held
}

async fn hold(store: &Store, args: &Args) -> Result<(), Failure> {
    // The time that connecting took does not count for what may last for days.
    let kv = store.kv().timeout(args.connect.timeout.0);
    let failed = |error: &Error| write_failed(error, args.connect.timeout.0);
    let taking = async {
        match args.only_try {
            true => kv.try_lock(&args.name, args.ttl.0).await,
            false => kv.lock(&args.name, args.ttl.0).await.map(Some),
        }
    };
    let guard = tokio::select! {
        taken = taking => taken.map_err(|error| failed(&error))?,
        () = interrupted() => {
            return Err(Failure::new(Exit::Refused, "interrupted while waiting for the lock"));
        }
    };
    let Some(guard) = guard else {
        let message = format!("somebody has the lock {}, or waits for it", args.name);
        return Err(Failure::new(Exit::Refused, message));
    };
    let ended = supervise(args, &guard).await;
    let released = guard.release().await;
    // Ended before the node, so that nothing is left of it.
    let _ended = kv.client().end().await;
    let status = ended?;
    match released {
        Err(Error::LockLost { .. }) => Err(lost(args)),
        Err(error) => {
            tracing::warn!(%error, "the lock could not be given back; it is free when its time has passed");
            finished(status)
        }
        Ok(()) => finished(status),
    }
}

/// Runs the command until it ends by itself, the lock is lost, or we are to stop.
async fn supervise(args: &Args, guard: &Guard) -> Result<ExitStatus, Failure> {
    let fence = guard.fence();
    let text = format!("{}@{}", String::from_utf8_lossy(&fence.key), fence.token);
    let Some((program, arguments)) = args.command.split_first() else {
        return Err(Failure::new(Exit::Usage, "a command is required"));
    };
    let mut command = Command::new(program);
    command.args(arguments).env(FENCE, text).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| {
        let program = program.to_string_lossy();
        Failure::new(Exit::Usage, format!("cannot start {program}: {error}"))
    })?;
    tokio::select! {
        status = child.wait() => status.map_err(|error| wait_failed(&error)),
        () = guard.lost() => {
            end(&mut child, args.grace.0).await?;
            Err(lost(args))
        }
        () = interrupted() => end(&mut child, args.grace.0).await,
    }
}

/// Asks the command to end, and kills it if it does not.
async fn end(child: &mut Child, grace: Duration) -> Result<ExitStatus, Failure> {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended in this moment; then there is nobody to tell.
        let _ignored = kill_process(pid, Signal::TERM);
    }
    if let Ok(status) = tokio::time::timeout(grace, child.wait()).await {
        return status.map_err(|error| wait_failed(&error));
    }
    child.kill().await.map_err(|error| wait_failed(&error))?;
    child.wait().await.map_err(|error| wait_failed(&error))
}

fn wait_failed(error: &std::io::Error) -> Failure {
    Failure::new(Exit::Unknown, format!("cannot tell how the command ended: {error}"))
}

fn lost(args: &Args) -> Failure {
    let message = format!("the lock {} was lost; the command was ended", args.name);
    Failure::coded(Exit::Unknown, ErrorCode::LockLost, message)
        .next("look at what the command has done: others may have had the lock since")
}

/// Ends as the command has ended.
fn finished(status: ExitStatus) -> Result<(), Failure> {
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) => Err(Failure::status(code)),
        (None, Some(signal)) => Err(Failure::status(128 + signal)),
        (None, None) => Err(Failure::new(Exit::Unknown, "the command ended in no way we know")),
    }
}
