//! `zmesh kv watch`: every change of some keys, until interrupted.

use zmesh::kv::{Error, Event, Watch};

use super::super::failure::Failure;
use super::super::{Connect, Context, interrupted};
use super::{Keys, Store, print, read_failed};

/// Arguments of `zmesh kv watch`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    keys: Keys,
    /// Begin with the first change after this revision [default: now].
    #[arg(long, value_name = "REVISION")]
    after: Option<u64>,
    /// With what was there before; with --json only.
    #[arg(long)]
    previous: bool,
    /// End after so many changes.
    #[arg(long, value_name = "COUNT")]
    limit: Option<u64>,
    #[command(flatten)]
    connect: Connect,
}

/// Runs `zmesh kv watch`. The timeout is that of the connection; the watch has none.
pub(super) async fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let store = Store::connect(&args.connect).await?;
    let watched = tokio::select! {
        watched = watch(&store, args, context) => watched,
        () = interrupted() => Ok(()),
    };
    store.close().await;
    watched
}

async fn watch(store: &Store, args: &Args, context: &Context) -> Result<(), Failure> {
    let mut watch = store.kv().watch(args.keys.range());
    if let Some(revision) = args.after {
        watch = watch.after(revision);
    }
    if args.previous {
        watch = watch.with_previous();
    }
    let mut watch = store.read(watch).await?;
    let mut left = args.limit.unwrap_or(u64::MAX);
    while left > 0 {
        let event = next(&mut watch).await;
        let event = event.map_err(|error| read_failed(&error, store.client.timeout()))?;
        print::event(&event, context)?;
        left -= 1;
    }
    Ok(())
}

/// The next change, however long the store cannot be reached.
async fn next(watch: &mut Watch) -> Result<Event, Error> {
    loop {
        match watch.next().await {
            Err(error) if error.is_retryable() => {
                tracing::warn!(%error, "cannot reach the store; the watch goes on when it can");
            }
            answer => return answer,
        }
    }
}
