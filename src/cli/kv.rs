//! `zmesh kv`: the replicated key-value store from the command line.
//!
//! Any node can be asked; it finds the leader. A value is printed as it is, with nothing around it
//! unless it goes to a terminal; `--json` adds the revision and what else is kept about it.
//!
//! A write goes through a session, so that it survives a change of leader without being done twice,
//! and the command ends the session before it exits: that is one more entry of the log, and thousands
//! of commands leave no thousands of sessions behind, which would put those of others out.

use std::io::{self, Read};
use std::time::Duration;

use zmesh::config::Size;
use zmesh::kv::{Error, Fence, KeyRange, Kv, Limits, VALUE_BYTES_MAX};
use zmesh::replica::ClientError;
use zmesh::{Effect, ErrorCode};

use super::client::Client;
use super::failure::{Exit, Failure};
use super::{Connect, Context, interrupted, payload};

mod lease;
mod print;
mod read;
mod txn;
mod watch;
mod write;

/// What to do when a write may have been done.
const LOOK: &str = "look with `zmesh kv get` before you try again";
/// The longest that the end of a session is waited for: it ends by itself as well.
const END_MAX: Duration = Duration::from_secs(1);

/// What to do with the store.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Set a key to a value; prints its revision once a quorum has it on disk.
    Set(write::SetArgs),
    /// Print the value of a key; exit code 1 if it has none.
    Get(read::GetArgs),
    /// Remove a key, or all with a prefix; a key that has no value is no error.
    Clear(write::ClearArgs),
    /// Add to a counter and print what it is then; a key without a value counts as 0.
    Add(write::AddArgs),
    /// List keys with their values, in order.
    List(read::ListArgs),
    /// Print what has become of a key, as far back as history goes.
    History(read::HistoryArgs),
    /// Print every change of some keys until interrupted.
    Watch(watch::Args),
    /// Do several operations in one; they are read from standard input as JSON.
    Txn(txn::Args),
    /// Grant, keep alive, revoke and list leases: keys with a lease go when it ends.
    #[command(subcommand)]
    Lease(lease::Command),
    /// Show how large the store is, and how far its history goes back.
    State(StateArgs),
    /// Say how large the store may become.
    Limits(LimitsArgs),
    /// Forget the history before a revision.
    Compact(CompactArgs),
}

/// Arguments of `zmesh kv state`.
#[derive(Debug, clap::Args)]
pub(super) struct StateArgs {
    #[command(flatten)]
    connect: Connect,
}

/// Arguments of `zmesh kv limits`; what is not given stays as it is.
#[derive(Debug, clap::Args)]
#[group(multiple = true)]
pub(super) struct LimitsArgs {
    /// Bytes of the present keys and values, with 100 more for each [default: 2GiB]. More is
    /// refused; clearing always works.
    #[arg(long, value_name = "SIZE")]
    bytes_max: Option<Size>,
    /// Changes that history keeps [default: 100000]. The oldest are forgotten.
    #[arg(long, value_name = "COUNT")]
    history_changes_max: Option<u64>,
    /// Bytes that history keeps [default: 256MiB]. The oldest are forgotten.
    #[arg(long, value_name = "SIZE")]
    history_bytes_max: Option<Size>,
    #[command(flatten)]
    connect: Connect,
}

/// Arguments of `zmesh kv compact`.
#[derive(Debug, clap::Args)]
pub(super) struct CompactArgs {
    /// The first revision that can be read afterwards [default: the present one].
    revision: Option<u64>,
    #[command(flatten)]
    connect: Connect,
}

/// Which keys are meant.
#[derive(Debug, clap::Args)]
struct Keys {
    /// The key; all keys if there is none.
    key: Option<String>,
    /// All keys that begin with it.
    #[arg(long, requires = "key")]
    prefix: bool,
}

impl Keys {
    fn range(&self) -> KeyRange {
        match (&self.key, self.prefix) {
            (None, _) => KeyRange::all(),
            (Some(key), true) => KeyRange::prefix(key.clone()),
            (Some(key), false) => KeyRange::key(key.clone()),
        }
    }
}

/// Runs `zmesh kv`.
pub(super) async fn run(command: &Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Add(args) => write::add(args, context).await,
        Command::Clear(args) => write::clear(args, context).await,
        Command::Compact(args) => compact(args, context).await,
        Command::Get(args) => read::get(args, context).await,
        Command::History(args) => read::history(args, context).await,
        Command::Lease(command) => lease::run(command, context).await,
        Command::Limits(args) => limits(args, context).await,
        Command::List(args) => read::list(args, context).await,
        Command::Set(args) => write::set(args, context).await,
        Command::State(args) => state(args, context).await,
        Command::Txn(args) => txn::run(args, context).await,
        Command::Watch(args) => watch::run(args, context).await,
    }
}

async fn state(args: &StateArgs, context: &Context) -> Result<(), Failure> {
    let store = Store::connect(&args.connect).await?;
    let state = store.read(store.kv().state()).await;
    store.close().await;
    print::state(&state?, context)
}

async fn limits(args: &LimitsArgs, context: &Context) -> Result<(), Failure> {
    let store = Store::connect(&args.connect).await?;
    let set = async {
        let present = store.read(store.kv().state()).await?.limits;
        let size = |given: Option<Size>, present: u64| given.map_or(present, |size| size.0);
        let limits = Limits {
            bytes_max: size(args.bytes_max, present.bytes_max),
            history_changes_max: args.history_changes_max.unwrap_or(present.history_changes_max),
            history_bytes_max: size(args.history_bytes_max, present.history_bytes_max),
        };
        let kv = store.kv();
        store.write(&kv, kv.limits(limits)).await?;
        store.read(kv.state()).await
    };
    let state = set.await;
    store.close().await;
    print::state(&state?, context)
}

async fn compact(args: &CompactArgs, context: &Context) -> Result<(), Failure> {
    let store = Store::connect(&args.connect).await?;
    let kv = store.kv();
    let compacted = store.write(&kv, kv.compact(args.revision.unwrap_or(u64::MAX))).await;
    let state = match compacted {
        Ok(_) => store.read(kv.state()).await,
        Err(failure) => Err(failure),
    };
    store.close().await;
    print::state(&state?, context)
}

/// The store as one command uses it.
pub(super) struct Store {
    client: Client,
}

impl Store {
    pub(super) async fn connect(connect: &Connect) -> Result<Self, Failure> {
        Ok(Self { client: Client::connect(connect).await? })
    }

    /// The store, for the time that is left.
    pub(super) fn kv(&self) -> Kv {
        Kv::new(&self.client.node).timeout(self.client.time_left())
    }

    /// Waits for the end of a write that was begun with `kv`, and ends its session unless the
    /// outcome is unknown: it would still be needed then.
    pub(super) async fn write<T>(
        &self,
        kv: &Kv,
        write: impl IntoFuture<Output = Result<T, Error>>,
    ) -> Result<T, Failure> {
        let written = written(write, interrupted(), self.client.timeout()).await;
        let is_unknown = |failure: &Failure| failure.exit() == Exit::Unknown;
        if !written.as_ref().is_err_and(is_unknown) {
            let end = kv.client().clone().timeout(self.client.time_left().min(END_MAX));
            // It ends by itself as well, only later.
            let _ended = end.end().await;
        }
        written
    }

    /// Waits for the end of a read.
    pub(super) async fn read<T>(
        &self,
        read: impl IntoFuture<Output = Result<T, Error>>,
    ) -> Result<T, Failure> {
        let within = self.client.timeout();
        read.into_future().await.map_err(|error| read_failed(&error, within))
    }

    pub(super) async fn close(self) {
        self.client.close().await;
    }
}

/// Waits for the end of a write. A signal ends the wait and not the write, so that it is said what
/// is not known.
async fn written<T>(
    write: impl IntoFuture<Output = Result<T, Error>>,
    interrupted: impl Future<Output = ()>,
    within: Duration,
) -> Result<T, Failure> {
    tokio::select! {
        biased;
        written = write.into_future() => written.map_err(|error| write_failed(&error, within)),
        () = interrupted => {
            Err(Failure::new(Exit::Unknown, "interrupted; the write may have been done, or be done yet")
                .next(LOOK))
        }
    }
}

/// The value as given, or from standard input.
fn value(given: &str) -> Result<Vec<u8>, Failure> {
    if given == "-" { stdin(VALUE_BYTES_MAX) } else { Ok(given.as_bytes().to_owned()) }
}

/// What comes from standard input; a little too much if there is too much, which is refused later.
fn stdin(bytes_max: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    match io::stdin().lock().take(limit).read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => {
            Err(Failure::new(Exit::Usage, format!("cannot read standard input: {error}")))
        }
    }
}

/// A fence as `zmesh lock` hands it on: the key of the lock, `@`, and the token.
fn fence(text: &str) -> Result<Fence, String> {
    let parts = text.rsplit_once('@');
    let parsed = parts.and_then(|(key, token)| {
        Some(Fence { key: key.to_owned().into(), token: token.parse().ok()? })
    });
    parsed.ok_or_else(|| "expected KEY@TOKEN, as `zmesh lock` sets ZMESH_FENCE".to_owned())
}

pub(super) fn write_failed(error: &Error, within: Duration) -> Failure {
    let failure = failed(error, error.effect(), within);
    match error.effect() {
        Effect::None => failure.adding("nothing was written"),
        Effect::Unknown => failure.next(LOOK),
    }
}

fn read_failed(error: &Error, within: Duration) -> Failure {
    failed(error, Effect::None, within)
}

fn failed(error: &Error, effect: Effect, within: Duration) -> Failure {
    if error.code() == ErrorCode::NoReplica {
        let message = format!("no node that runs a replica was found within {within:?}");
        return Failure::coded(Exit::Unreachable, ErrorCode::NoReplica, message)
            .next("start one: zmesh serve --id NAME --data-dir DIR");
    }
    if let Error::Invalid(invalid) = error {
        return Failure::coded(Exit::Usage, error.code(), invalid.to_string());
    }
    let Error::Client(ClientError::Refused { code, message }) = error else {
        return Failure::from_code(error.code(), effect, error);
    };
    // The code goes before the message anyway.
    let failure = Failure::coded(Exit::of(*code, effect), *code, message);
    if *code == ErrorCode::NotFormed {
        return failure.next("start the nodes that are missing; it begins when all have been up");
    }
    if [ErrorCode::NoQuorum, ErrorCode::NotLeader].contains(code) {
        return failure.next("see `zmesh status --all`: more than half of the members must be up");
    }
    failure
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    /// Ctrl-C must not leave anybody in the belief that nothing was written.
    #[tokio::test]
    async fn interrupted_write_has_an_unknown_outcome() {
        let within = Duration::from_secs(5);
        let failure = written::<()>(pending(), ready(()), within).await.unwrap_err();
        assert_eq!(failure.exit(), Exit::Unknown);
        let done = written::<()>(ready(Err(ClientError::NoReplica.into())), ready(()), within)
            .await
            .unwrap_err();
        assert_eq!(done.exit(), Exit::Unreachable, "an answer that is there counts");
    }

    /// Names of locks may have anything in them.
    #[test]
    fn fence_is_what_stands_before_the_last_at() {
        let found = fence("_lock/a@b/0001@17").unwrap();
        assert_eq!((&found.key[..], found.token), (&b"_lock/a@b/0001"[..], 17));
        assert!(fence("17").is_err() && fence("a@b").is_err());
    }
}
