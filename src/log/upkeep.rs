//! Shell: A replica of a group of topics, and what it does besides while it leads.
//!
//! What is to be carried forward, and whether, the machine decides, and when a topic is worth a round
//! of compaction; here it is asked now and then, and the commands proposed. Whatever fails is tried
//! again the next time.

use std::collections::hash_map::RandomState;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::answer::Answer;
use super::cleaner::{Cleaner, RoundError, Step};
use super::command::Command;
use super::latest::{KEYS_MAX, Latest};
use super::machine::LogMachine;
use super::name::service;
use super::query::Query;
use crate::consensus::Role;
use crate::node::Node;
use crate::replica::{Replica, ReplicaError, ReplicaSettings, WeakReplica};
use crate::wal::{Disk, RealDisk};

/// Commands in a row; then others have their turn.
const ROUNDS_MAX: usize = 1_000;
/// Pause between two of them, in which writes of clients find the quorum free.
const PAUSE: Duration = Duration::from_millis(5);
/// The longest that one of them may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How a replica that leads keeps the log small.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Upkeep {
    /// How often it looks [default: 5 s]. Larger: space comes back later. Smaller: nothing but a
    /// look.
    pub every: Duration,
    /// Bytes that the log may have beyond twice what is kept [default: 64 MiB; at least 1 MiB].
    /// Larger: more disk, and less is written twice. Smaller: the other way round.
    pub slack_bytes: u64,
}

impl Default for Upkeep {
    fn default() -> Self {
        Self { every: Duration::from_secs(5), slack_bytes: 64 * 1024 * 1024 }
    }
}

/// Starts a replica of a group of topics on `node`, counted from 0: see [`Replica::start`].
///
/// # Panics
///
/// As [`Replica::start`]; and if there can be no such group.
pub fn start(node: &Node, group: u16, settings: ReplicaSettings) -> Replica {
    start_on(Arc::new(RealDisk), node, group, settings)
}

/// As [`start`], on a disk of the caller's choice.
///
/// # Panics
///
/// As [`start`].
pub fn start_on(
    disk: Arc<dyn Disk>,
    node: &Node,
    group: u16,
    settings: ReplicaSettings,
) -> Replica {
    let replica = Replica::start_on(disk, node, service(group), settings, LogMachine::new());
    keep(&replica, Upkeep::default());
    replica
}

/// Has a replica of a group of topics keep its log small while it leads, until it is gone. What is
/// kept by a topic and lies before much that is not is appended again; see
/// [`Command::Carry`]. [`start`] does it already.
///
/// # Panics
///
/// Outside a tokio runtime.
pub fn keep(replica: &Replica, upkeep: Upkeep) {
    let (weak, mut leadership) = (replica.downgrade(), replica.leadership());
    tokio::spawn(async move {
        loop {
            if leadership.wait_for(|now| now.role == Some(Role::Leader)).await.is_err() {
                return;
            }
            tokio::time::sleep(upkeep.every).await;
            // Compaction first: what it takes away need not be carried.
            if let Err(error) = compact(&weak).await {
                tracing::debug!(%error, "topics were not compacted");
            }
            if let Err(error) = carry(&weak, upkeep.slack_bytes).await {
                tracing::debug!(%error, "records were not carried forward");
            }
        }
    });
}

/// Compacts every topic that is worth it, once.
async fn compact(replica: &WeakReplica) -> Result<(), ReplicaError> {
    let mut after = Bytes::new();
    loop {
        let Some(Answer::Dirty(Some(dirty))) = ask(replica, &Query::Dirty { after }).await? else {
            return Ok(());
        };
        after = dirty.topic.clone();
        let topic = String::from_utf8_lossy(&after).into_owned();
        let hashes = [RandomState::new(), RandomState::new()];
        let mut cleaner = Cleaner::new(dirty, Latest::new(hashes, KEYS_MAX));
        match clean(replica, &mut cleaner).await? {
            Ok(()) => {
                let (before, left) = cleaner.bytes;
                tracing::debug!(topic, before, left, "a topic was compacted");
            }
            // It was trimmed or deleted meanwhile, or somebody else leads; otherwise it goes on.
            Err(error) => tracing::info!(topic, %error, "a topic was not compacted"),
        }
    }
}

/// Does what a cleaner wants, with some time for others after each step.
async fn clean(
    replica: &WeakReplica,
    cleaner: &mut Cleaner<RandomState>,
) -> Result<Result<(), RoundError>, ReplicaError> {
    loop {
        let (index, answer) = match cleaner.step() {
            Step::Over => return Ok(Ok(())),
            Step::Ask(query) => (0, ask(replica, &query).await?),
            Step::Propose(command) => {
                let command = command.encode().expect("its names are from the machine");
                let applied = alive(replica)?.propose(command, TIMEOUT).await?;
                (applied.index, Answer::decode(&applied.response).ok())
            }
        };
        let taken = answer.ok_or(RoundError::Odd).and_then(|answer| cleaner.take(index, answer));
        if taken.is_err() {
            return Ok(taken);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The replica, for one step: whoever lets it go must not have to wait for a whole round.
fn alive(replica: &WeakReplica) -> Result<Replica, ReplicaError> {
    replica.upgrade().ok_or(ReplicaError::Stopped)
}

/// Asks the machine of this replica, which leads.
async fn ask(replica: &WeakReplica, query: &Query) -> Result<Option<Answer>, ReplicaError> {
    let query = query.encode().expect("its names are from the machine");
    Ok(Answer::decode(&alive(replica)?.read_stale(query).await?.response).ok())
}

async fn carry(replica: &WeakReplica, slack_bytes: u64) -> Result<(), ReplicaError> {
    let slack = slack_bytes.max(1024 * 1024);
    for _ in 0..ROUNDS_MAX {
        let answer = ask(replica, &Query::Spare { slack }).await?;
        let Some(command) = answer.and_then(command) else { return Ok(()) };
        alive(replica)?.propose(command, TIMEOUT).await?;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// The command that the machine wants to have proposed, if it wants one.
fn command(answer: Answer) -> Option<Bytes> {
    if let Answer::Refused(refusal) = answer {
        tracing::warn!(%refusal, "records cannot be carried forward: the log keeps all since");
    }
    let Answer::Spare(parts) = answer else { return None };
    if parts.is_empty() { None } else { Command::Carry(parts).encode().ok() }
}
