//! `zmesh log`: topics of the replicated log from the command line.
//!
//! Any node can be asked; it finds the leaders. Records are printed as they are, one in a line, with
//! their place before them when they go to a terminal; `--json` has everything.

use zmesh::log::groups::GroupError;
use zmesh::log::{Error, Log};
use zmesh::{Effect, ErrorCode};

use super::client::Client;
use super::failure::{Exit, Failure};
use super::{Connect, Context, interrupted};

mod append;
mod cursors;
mod from;
mod groups;
mod read;
mod topics;

/// What to do when a change may have been made.
const LOOK: &str = "look with `zmesh log topics` or `zmesh log read` before you try again";

/// What to do with the log.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Append records to a topic; prints their offsets once a quorum has them on disk.
    Append(append::Args),
    /// Print records of a topic, up to its present end or on and on.
    Read(read::ReadArgs),
    /// Print records of a topic as they come, until interrupted.
    Tail(read::TailArgs),
    /// List topics.
    Topics(topics::ListArgs),
    /// Create a topic; that it exists with these options is no error.
    Create(topics::CreateArgs),
    /// Give a topic other options, all of them.
    Configure(topics::CreateArgs),
    /// Delete a topic with its records, cursors and groups.
    Delete(topics::DeleteArgs),
    /// Remove the records below an offset.
    Trim(topics::TrimArgs),
    /// List, set and clear the cursors of a topic.
    #[command(subcommand)]
    Cursors(cursors::Command),
    /// Look after groups of consumers that share the work of a topic.
    #[command(subcommand)]
    Groups(groups::Command),
}

/// Runs `zmesh log`.
pub(super) async fn run(command: &Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Append(args) => append::run(args, context).await,
        Command::Configure(args) => topics::configure(args, context).await,
        Command::Create(args) => topics::create(args, context).await,
        Command::Cursors(command) => cursors::run(command, context).await,
        Command::Delete(args) => topics::delete(args, context).await,
        Command::Groups(command) => groups::run(command, context).await,
        Command::Read(args) => read::read(args, context).await,
        Command::Tail(args) => read::tail(args, context).await,
        Command::Topics(args) => topics::list(args, context).await,
        Command::Trim(args) => topics::trim(args, context).await,
    }
}

/// A node for one command, and the log through it.
struct Session {
    client: Client,
    log: Log,
}

impl Session {
    async fn open(connect: &Connect) -> Result<Self, Failure> {
        let client = Client::connect(connect).await?;
        let log = Log::new(&client.node).timeout(client.time_left());
        Ok(Self { client, log })
    }

    /// The log, with the whole time of the command for each operation: for commands that end when
    /// they are told to.
    fn lasting(&self) -> Log {
        Log::new(&self.client.node).timeout(self.client.timeout())
    }

    /// Waits for the end of something that changes nothing.
    async fn ask<T, E: Into<Trouble>>(
        self,
        question: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Failure> {
        let result = question.await;
        let within = self.client.timeout();
        self.client.close().await;
        result.map_err(|error| error.into().failure(Effect::None, within))
    }

    /// Waits for the end of a change. A signal ends the wait and not the change, so that it is said
    /// what is not known.
    async fn change<T, E: Into<Trouble>>(
        self,
        change: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Failure> {
        let within = self.client.timeout();
        let result = changed(change, within).await;
        self.client.close().await;
        result
    }
}

async fn changed<T, E: Into<Trouble>>(
    change: impl Future<Output = Result<T, E>>,
    within: std::time::Duration,
) -> Result<T, Failure> {
    tokio::select! {
        biased;
        result = change => result.map_err(|error| error.into().change_failed(within)),
        () = interrupted() => Err(cut_off()),
    }
}

/// The wait for a change was interrupted.
fn cut_off() -> Failure {
    let message = "interrupted; the change may have been made, or be made yet";
    Failure::new(Exit::Unknown, message).next(LOOK)
}

/// Why an operation on the log failed.
#[derive(Debug)]
struct Trouble {
    code: ErrorCode,
    effect: Effect,
    message: String,
}

impl Trouble {
    fn failure(&self, effect: Effect, within: std::time::Duration) -> Failure {
        if self.code == ErrorCode::NoReplica {
            let message = format!("no node that has the log was found within {within:?}");
            return Failure::coded(Exit::Unreachable, self.code, message)
                .next("start one: zmesh serve --id NAME --data-dir DIR");
        }
        // The code goes before the message anyway.
        let code = format!("{}: ", self.code);
        let message = self.message.strip_prefix(&code).unwrap_or(&self.message);
        let failure = Failure::coded(exit(self.code, effect), self.code, message);
        if [ErrorCode::NoQuorum, ErrorCode::NotLeader].contains(&self.code) {
            failure.next("see `zmesh status --all`: more than half of the members must be up")
        } else if self.code == ErrorCode::TopicUnknown {
            failure.next("see `zmesh log topics`")
        } else if self.code == ErrorCode::GroupNotFound {
            failure.next("see `zmesh log groups list TOPIC`")
        } else {
            failure
        }
    }

    fn change_failed(&self, within: std::time::Duration) -> Failure {
        let failure = self.failure(self.effect, within);
        match self.effect {
            Effect::None => failure.adding("nothing was changed"),
            Effect::Unknown => failure.next(LOOK),
        }
    }
}

/// Limits do not pass by waiting: they are refusals, though the same may succeed later.
fn exit(code: ErrorCode, effect: Effect) -> Exit {
    let limits = [ErrorCode::GroupFull, ErrorCode::GroupLimit, ErrorCode::LogLimit];
    if limits.contains(&code) { Exit::Refused } else { Exit::of(code, effect) }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self { code: error.code(), effect: error.effect(), message: error.to_string() }
    }
}

impl From<GroupError> for Trouble {
    fn from(error: GroupError) -> Self {
        Self { code: error.code(), effect: error.effect(), message: error.to_string() }
    }
}
