//! `zmesh serve`: one node, and its replicas if it has a data directory, until a signal.
//!
//! # Contract with whoever starts it
//!
//! - Standard output carries exactly one line, written when the node is bound and takes requests:
//!   `ready node=NAME address=ADDRESS`, or with `--json`
//!   `{"ready":true,"node":"NAME","address":"ADDRESS"}`. A replica that does not sync every write
//!   adds ` sync=MODE`, or `"sync":"MODE"`. Only with `--print` something follows it:
//!   a line for each tick. Otherwise a starter may close its end of the pipe. Diagnostics go to
//!   standard error.
//! - The line does not wait for a leader: a replica that comes back alone is ready, and has no
//!   quorum. Writes wait for one, up to their deadline.
//! - SIGTERM and SIGINT stop the node in order: the log is synced and closed, peers are told; exit
//!   code 0.
//! - With `--exit-with-parent`, the end of standard input means the same as SIGTERM: a starter
//!   holds the other end of the pipe, which closes however the starter dies.
//! - A replica that cannot go on ends the process: exit code 5 if its files are damaged, 2 if the
//!   directory is not this node's or is in use, 1 if the disk failed.

use std::io::{self, Read};
use std::time::Duration;

use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use zmesh::config::{Config, NodeConfig, ReplicaConfig, Sync};
use zmesh::host::{GroupsDisagree, Host, HostError};
use zmesh::presence::Heartbeat;
use zmesh::protocol::handlers::Pattern;
use zmesh::replica::{ReplicaSettings, StopCause, Stopped, SyncMode};
use zmesh::status::{self, Build};
use zmesh::transport::BindError;
use zmesh::transport::zmq::check_descriptors;
use zmesh::{Address, Call, ErrorCode, Node, NodeId, Outcome, StartError, consensus, wal};

use super::config::ConfigArgs;
use super::failure::{Exit, Failure};
use super::keyring::Keyring;
use super::output::Output;
use super::{Context, logging, print, version};

/// The subject of the handler that sends back what it gets.
const ECHO: &str = "zmesh.echo";
/// Time in which a replica that is asked to stop has synced and closed its log.
const CLOSING_MAX: Duration = Duration::from_secs(5);
/// Time between two warnings that the node is open.
const REMINDER_INTERVAL: Duration = Duration::from_secs(60);
/// Echoes at work at once.
const ECHOES_MAX: usize = 1_024;

/// Arguments of `zmesh serve`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Stop when standard input ends, so that no node outlives whoever started it.
    #[arg(long)]
    exit_with_parent: bool,
    /// Print ticks whose subject matches, such as metrics.> (* is a word, > is the rest).
    #[arg(long, value_name = "PATTERN", value_parser = pattern)]
    print: Option<String>,
    #[command(flatten)]
    config: ConfigArgs,
}

fn pattern(text: &str) -> Result<String, String> {
    match Pattern::new(text) {
        Ok(pattern) if pattern.as_str().starts_with('_') => Err("belongs to the system".to_owned()),
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Why a node stops.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum StopReason {
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
    let mut stop = Stop::new(args.exit_with_parent.then(io::stdin))?;
    check_descriptors();
    let keyring = config.node.keys.as_ref();
    let keyring = keyring.map(|keys| Keyring::open(keys, &config.node.peers)).transpose()?;
    let node = start(&config, keyring.as_ref())?;
    match keyring {
        Some(keyring) => drop(tokio::spawn(keyring.follow(node.clone()))),
        None => remind(&config),
    }
    let host = config.replica.as_ref().map(|replica| host(&node, replica)).transpose()?;
    // Replicas open their directories when their tasks are first run: one that is refused is never
    // ready.
    tokio::task::yield_now().await;
    let running = async {
        serve(&node, host.as_ref(), &config, args.print.as_deref(), context.out)?;
        let reason = stop.asked().await;
        tracing::info!(?reason, "stopping");
        Ok(())
    };
    let ended = tokio::select! {
        biased;
        ended = ended(&node, host.as_ref(), config.replica.as_ref()) => Err(ended),
        ended = running => ended,
    };
    if let Some(host) = &host {
        // A disk that hangs must not keep the process.
        drop(tokio::time::timeout(CLOSING_MAX, host.close()).await);
    }
    drop(host);
    node.stop().await;
    ended
}

/// Says every minute that the node is open to whoever reaches it, if it is.
fn remind(config: &Config) {
    let NodeConfig { bind, insecure, .. } = &config.node;
    if *insecure && !bind.is_local() {
        let bind = bind.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(REMINDER_INTERVAL).await;
                tracing::warn!(%bind, "open to whoever reaches it (node.insecure)");
            }
        });
    }
}

/// Starts the node as configured.
fn start(config: &Config, keyring: Option<&Keyring>) -> Result<Node, Failure> {
    let NodeConfig { cluster, bind, insecure, transport, advertise, peers, labels, .. } =
        &config.node;
    let limits = &config.limits;
    let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let count = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
    let mut builder = Node::builder(config.node_id().as_str())
        .cluster(cluster)
        .bind(bind)
        .transport_kind(*transport)
        .heartbeat(Heartbeat {
            ping_interval: config.heartbeat.ping_interval,
            health_check_interval: config.heartbeat.health_check_interval,
            ghost_timeout: config.heartbeat.ghost_timeout,
            handshake_timeout: config.heartbeat.handshake_timeout,
        })
        .request_timeout(config.heartbeat.request_timeout)
        .payload_bytes_max(limits.payload_bytes_max)
        .queue(count(limits.queue_messages_max), bytes(limits.queue_bytes_max))
        .queue_total(bytes(limits.queue_total_max))
        .in_flight_max(count(limits.in_flight_max))
        .peers_max(count(limits.peers_max))
        .peer_rate(limits.peer_rate);
    builder = match keyring {
        Some(keyring) => builder.keys(keyring.pair()?).allow(keyring.allowed()),
        None => builder.insecure(*insecure),
    };
    if let Some(advertise) = advertise {
        builder = builder.advertise(advertise);
    }
    for peer in peers {
        builder = builder.connect(&peer.address);
    }
    for (name, value) in labels {
        builder = builder.label(name, value);
    }
    builder.start().map_err(|error| not_started(&error))
}

fn not_started(error: &StartError) -> Failure {
    let failure = Failure::from_error(Exit::Usage, error);
    let StartError::Bind(BindError::Refused { reason, .. }) = error else { return failure };
    if reason.contains("in use") {
        failure.next("stop what listens there, or choose another address with --bind")
    } else if reason.contains("denied") {
        failure.next("ports below 1024 need privileges: choose another with --bind")
    } else {
        failure.next("listen on an address of this machine: choose one with --bind")
    }
}

/// Starts the replicas as configured.
fn host(node: &Node, replica: &ReplicaConfig) -> Result<Host, Failure> {
    let mut settings = ReplicaSettings::new(&replica.data_dir, replica.members.clone());
    settings.wal = wal::Options { segment_bytes: replica.segment_bytes, ..settings.wal };
    settings.sync = match replica.sync {
        Sync::Always => SyncMode::Always,
        Sync::Interval => SyncMode::Interval(replica.sync_interval),
        Sync::Never => SyncMode::Never,
    };
    settings.join = replica.join;
    settings.options.snapshot_entries = replica.snapshot_entries;
    settings.options.snapshot_bytes = replica.snapshot_bytes;
    settings.options.snapshot_part_bytes = replica.snapshot_part_bytes;
    settings.options.promote_lag_max = replica.promote_lag_max;
    settings.options.hash_interval = replica.hash_interval;
    settings.options.scrub_bytes_per_second = replica.scrub_bytes_per_second;
    settings.options.scrub_interval = replica.scrub_interval;
    settings.options.in_sync_lag_max = replica.in_sync_lag_max;
    let defaults = consensus::Options::default();
    settings.options.consensus = consensus::Options {
        // Two steps in a heartbeat keep both intervals close to what was asked for.
        tick_interval: defaults.tick_interval.min(replica.heartbeat_interval / 2),
        heartbeat_interval: replica.heartbeat_interval,
        election_timeout_min: replica.election_timeout,
        election_timeout_max: replica.election_timeout * 2,
        ..defaults
    };
    Ok(Host::start(node, &settings, replica.log_groups)?)
}

impl From<HostError> for Failure {
    fn from(error: HostError) -> Self {
        let exit = match error.cause() {
            StopCause::Asked | StopCause::Failed => Exit::Refused,
            StopCause::Configuration => Exit::Usage,
            StopCause::Corrupt => Exit::Corrupt,
        };
        let failure = Self::from_error(exit, &error);
        if let HostError::GroupsDiffer { found, .. } = error {
            return failure.next(format!("give --log-groups {found}, or another --data-dir"));
        }
        failure
    }
}

impl From<GroupsDisagree> for Failure {
    fn from(error: GroupsDisagree) -> Self {
        let next = format!("give --log-groups {}, with an empty --data-dir", error.theirs);
        Self::from_error(Exit::Usage, &error).next(next)
    }
}

/// Registers what this program answers and says that the node is ready.
fn serve(
    node: &Node,
    host: Option<&Host>,
    config: &Config,
    print: Option<&str>,
    out: Output,
) -> Result<(), Failure> {
    let sync = config.replica.as_ref().map(|replica| replica.sync.name().to_owned());
    let version = version::version();
    let build = Build {
        version: version.zmesh.to_owned(),
        libzmq: version.libzmq,
        curve: version.curve,
        insecure: config.node.insecure,
        transport: config.node.transport,
        sync,
    };
    let taken = |error| Failure::from_error(Exit::Refused, &error);
    let log = host.map(Host::log).unwrap_or_default();
    status::serve(node, host.map(Host::store), log, build).map_err(taken)?;
    node.on(ECHO).concurrent(ECHOES_MAX).request_call(echo).map_err(taken)?;
    if let Some(address) = node.address() {
        let sync = config.replica.as_ref().map(|replica| replica.sync);
        announce(out, node.id(), address, sync.unwrap_or(Sync::Always))?;
    }
    match print {
        Some(pattern) => print::ticks(node, pattern, out).map_err(taken),
        None => Ok(()),
    }
}

async fn echo(call: Call) -> Outcome {
    Ok((call.format, call.payload))
}

/// Says on standard output that the node takes requests.
fn announce(out: Output, node: &NodeId, address: &Address, sync: Sync) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Ready<'a> {
        ready: bool,
        node: &'a NodeId,
        address: &'a Address,
        #[serde(skip_serializing_if = "Option::is_none")]
        sync: Option<&'a str>,
    }
    let sync = Some(sync.name()).filter(|_| sync != Sync::Always);
    match out.is_json() {
        true => out.json(&Ready { ready: true, node, address, sync }),
        false => {
            let sync = sync.map(|sync| format!(" sync={sync}")).unwrap_or_default();
            out.text(&format!("ready node={node} address={address}{sync}"))
        }
    }
}

/// Waits for the end of one of the replicas; for ever if there is none.
async fn ended(node: &Node, host: Option<&Host>, config: Option<&ReplicaConfig>) -> Failure {
    let Some(host) = host else { return std::future::pending().await };
    tokio::select! {
        biased;
        (name, stopped) = host.stopped() => {
            tracing::error!(replica = name, reason = stopped.reason, "a replica cannot go on");
            failure(&stopped, config)
        }
        disagreement = host.disagreement(node) => disagreement.into(),
    }
}

/// What a replica that stopped by itself means for the process.
fn failure(stopped: &Stopped, config: Option<&ReplicaConfig>) -> Failure {
    let dir = config.map(|replica| replica.data_dir.display().to_string()).unwrap_or_default();
    match stopped.cause {
        StopCause::Asked | StopCause::Failed => {
            let next = format!("look at the disk of {dir}, then start the node again");
            Failure::coded(Exit::Refused, ErrorCode::IoError, &stopped.reason).next(next)
        }
        StopCause::Configuration => Failure::new(Exit::Usage, &stopped.reason)
            .next(format!("check --id, --members and --data-dir ({dir})")),
        StopCause::Corrupt => Failure::coded(Exit::Corrupt, ErrorCode::Corrupt, &stopped.reason)
            .next(format!("see what is damaged, and what can be done: zmesh repair {dir}")),
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
    pub(super) async fn asked(&mut self) -> StopReason {
        tokio::select! {
            _ = self.interrupt.recv() => StopReason::Signal,
            _ = self.terminate.recv() => StopReason::Signal,
            // Nothing is ever sent: it ends when the last sender is gone.
            _ = self.parent.recv() => StopReason::ParentGone,
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

    async fn asked(stop: &mut Stop) -> StopReason {
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
        assert_eq!(asked(&mut child).await, StopReason::ParentGone);
        assert_eq!(asked(&mut child).await, StopReason::ParentGone, "it stays gone");

        let mut alone = Stop::new(None::<io::Empty>).unwrap();
        for signal in [Signal::TERM, Signal::INT] {
            kill_process(getpid(), signal).unwrap();
            assert_eq!(asked(&mut alone).await, StopReason::Signal);
        }
    }
}
