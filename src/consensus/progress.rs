//! How far each follower is, as its leader knows it.
//!
//! A follower that is slow, paused or gone never holds up the others: it is sent what fits into its
//! window, then nothing until it answers, and it is probed with every heartbeat. This file makes a
//! report of that; the pacing is Raft's.
//!
//! Pure.

use raft::{ProgressState, ProgressTracker};

/// A follower as the leader sees it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize)]
pub struct Follower {
    /// Its raft id.
    pub raft_id: u64,
    /// The last index it is known to have on disk.
    pub matched: u64,
    /// The next index to send.
    pub next: u64,
    /// Entries it does not have.
    pub lag: u64,
    /// What is done about it.
    pub state: FollowerState,
    /// Whether it was heard of within the last election timeout.
    pub active: bool,
}

/// How a leader treats a follower.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FollowerState {
    /// One message at a time, to find out where its log ends.
    Probing,
    /// Everything that fits into its window.
    Replicating,
    /// It waits for a snapshot.
    Snapshot,
}

/// Everybody but the leader itself, by raft id.
///
/// `active` says who was heard of lately. The crate's own mark does not: the leader clears it with
/// every check of the quorum, and a follower that is well is then without it until it answers.
pub(super) fn followers(
    leader: u64,
    tracker: &ProgressTracker,
    last: u64,
    active: impl Fn(u64) -> bool,
) -> Vec<Follower> {
    let others = tracker.iter().filter(|(raft_id, _)| **raft_id != leader);
    let mut followers: Vec<_> = others
        .map(|(&raft_id, progress)| Follower {
            raft_id,
            matched: progress.matched,
            next: progress.next_idx,
            lag: last.saturating_sub(progress.matched),
            state: match progress.state {
                ProgressState::Probe => FollowerState::Probing,
                ProgressState::Replicate => FollowerState::Replicating,
                ProgressState::Snapshot => FollowerState::Snapshot,
            },
            active: active(raft_id),
        })
        .collect();
    followers.sort_by_key(|follower| follower.raft_id);
    followers
}
