//! Shell: A replica of a group of topics, and what it does besides while it leads.
//!
//! What is to be carried forward, and whether, the machine decides; here it is asked now and then,
//! and its command proposed. Whatever fails is tried again the next time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::answer::Answer;
use super::command::Command;
use super::machine::LogMachine;
use super::name::service;
use super::query::Query;
use crate::consensus::Role;
use crate::node::Node;
use crate::replica::{Replica, ReplicaError, ReplicaSettings};
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
            let Some(replica) = weak.upgrade() else { return };
            if let Err(error) = carry(&replica, upkeep.slack_bytes).await {
                tracing::debug!(%error, "records were not carried forward");
            }
        }
    });
}

async fn carry(replica: &Replica, slack_bytes: u64) -> Result<(), ReplicaError> {
    let slack = slack_bytes.max(1024 * 1024);
    let query = Query::Spare { slack }.encode().unwrap_or_default();
    for _ in 0..ROUNDS_MAX {
        let answer = replica.read_stale(query.clone()).await?;
        let Some(command) = command(&answer.response) else { return Ok(()) };
        replica.propose(command, TIMEOUT).await?;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// The command that the machine wants to have proposed, if it wants one.
fn command(answer: &Bytes) -> Option<Bytes> {
    match Answer::decode(answer).ok()? {
        Answer::Refused(refusal) => {
            tracing::warn!(%refusal, "records cannot be carried forward: the log keeps all since");
            None
        }
        Answer::Spare(parts) if !parts.is_empty() => Command::Carry(parts).encode().ok(),
        Answer::Appended { .. }
        | Answer::Cursor(_)
        | Answer::Cursors { .. }
        | Answer::Done
        | Answer::Group(_)
        | Answer::Offset(_)
        | Answer::Records(_)
        | Answer::Spare(_)
        | Answer::Topic(_)
        | Answer::Topics { .. } => None,
    }
}
