//! `zmesh demo`: three real processes, a load, a dead leader, and a count of what was lost.
//!
//! The processes are `zmesh serve` of this same binary under
//! [`LocalCluster`](super::local::LocalCluster), attached: they end with the demo however it ends.

use std::path::PathBuf;

use zmesh::config::Period;

use super::failure::Failure;
use super::{Context, period_above_zero};

/// Arguments of `zmesh demo`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Nodes to start; an odd number of at least 3 survives the loss of its leader.
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u16).range(3..=9))]
    nodes: u16,
    /// Directory for data and logs, kept afterwards [default: a temporary one, removed].
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Time to write before the leader is killed, and again after it is back.
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = period_above_zero)]
    load: Period,
    /// Writers at work at once. More: higher throughput and latency.
    #[arg(long, value_name = "COUNT", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1024))]
    writers: u16,
    /// Bytes of each value.
    #[arg(long, value_name = "COUNT", default_value_t = 128, value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    value_bytes: u32,
}

/// Runs the demonstration.
///
/// PLUG: the KV client. `LocalCluster::create` and `start` give the processes, `kill` and
/// `start` lose the leader and bring it back, dropping the cluster leaves nothing behind. With
/// `--json` each event is a line, the last one an object with at least `acknowledged`, `lost` and
/// `failover_ms`.
pub(super) async fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    tracing::debug!(?args, json = context.out.is_json(), "demo");
    Err(Failure::not_built("demo"))
}
