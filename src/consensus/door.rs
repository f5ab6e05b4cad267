//! What is refused before it reaches the `raft` crate.
//!
//! The crate panics on messages that no correct replica sends. A member may be broken or hostile,
//! so each such message is refused here, with its reason, and counted. Everything that a correct
//! replica may send, late, twice or out of order, passes.
//!
//! Pure.

use raft::prelude::{Message, MessageType};
use raft::{Raft, StateRole, Storage};

use super::snapshot::Snapshot;
use super::wire::WireError;
use crate::wal::Point;

/// Why a frame or message was refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It says what cannot be if everybody follows the protocol.
    #[error("impossible message: {what}")]
    Impossible {
        /// What cannot be.
        what: &'static str,
    },
    /// The bytes are not a frame for us.
    #[error(transparent)]
    Malformed(#[from] WireError),
    /// The sender is not a member, as far as has been applied here.
    #[error("replica {from} is not a member")]
    NotMember {
        /// Its raft id.
        from: u64,
    },
}

/// What was refused since the start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Serialize)]
pub struct Refusals {
    /// Messages that say what cannot be.
    pub impossible: u64,
    /// Frames that are not for us or not whole.
    pub malformed: u64,
    /// Frames of replicas that are not members.
    pub not_member: u64,
}

impl Refusals {
    pub(super) fn count(&mut self, refusal: &Refusal) {
        *match refusal {
            Refusal::Impossible { .. } => &mut self.impossible,
            Refusal::Malformed(_) => &mut self.malformed,
            Refusal::NotMember { .. } => &mut self.not_member,
        } += 1;
    }
}

/// Terms by which a message may be ahead of us. Terms grow by elections, a few a second at worst;
/// a greater jump would use up the numbers.
const TERM_JUMP_MAX: u64 = 1 << 32;

/// Checks a message that was decoded and whose sender is authenticated.
pub(super) fn check<T: Storage>(raft: &Raft<T>, message: &Message) -> Result<(), Refusal> {
    let last = raft.raft_log.last_index();
    let present = message.term == raft.term;
    refuse(message.term == 0, "term 0 belongs to local messages")?;
    refuse(message.term > raft.term.saturating_add(TERM_JUMP_MAX), "term jumps too far")?;
    refuse(message.index >= u64::MAX / 2, "index jumps too far")?;
    match message.get_msg_type() {
        MessageType::MsgAppend => {
            refuse(present && usurps(raft, message), "second leader in one term")?;
            check_append(message)
        }
        MessageType::MsgHeartbeat => {
            refuse(present && usurps(raft, message), "second leader in one term")?;
            let beyond = message.term >= raft.term && message.commit > last;
            refuse(beyond, "heartbeat commits what we do not have")
        }
        MessageType::MsgAppendResponse if present && raft.state == StateRole::Leader => {
            refuse(message.index > last, "acknowledges what we do not have")?;
            let hint = message.reject && message.reject_hint > message.index;
            refuse(hint, "hints at more than was sent")
        }
        MessageType::MsgRequestVoteResponse | MessageType::MsgRequestPreVoteResponse => {
            // We ask for votes only when our own log is on disk; the crate counts on that.
            let candidate = matches!(raft.state, StateRole::Candidate | StateRole::PreCandidate);
            refuse(candidate && raft.raft_log.persisted < last, "vote that nobody asked for")
        }
        MessageType::MsgSnapshot => {
            refuse(present && usurps(raft, message), "second leader in one term")?;
            check_snapshot(raft, message)
        }
        MessageType::MsgTimeoutNow => {
            refuse(present && usurps(raft, message), "told to take over by a second leader")
        }
        MessageType::MsgAppendResponse
        | MessageType::MsgHeartbeatResponse
        | MessageType::MsgRequestPreVote
        | MessageType::MsgRequestVote => Ok(()),
        MessageType::MsgBeat
        | MessageType::MsgCheckQuorum
        | MessageType::MsgHup
        | MessageType::MsgPropose
        | MessageType::MsgReadIndex
        | MessageType::MsgReadIndexResp
        | MessageType::MsgSnapStatus
        | MessageType::MsgTransferLeader
        | MessageType::MsgUnreachable => refuse(true, "kind that never travels"),
    }
}

/// Entries follow the one before them, in terms that do not fall and do not pass the sender's.
fn check_append(message: &Message) -> Result<(), Refusal> {
    // Every log begins with the bootstrap, so there always is an entry before.
    refuse(message.index == 0 || message.log_term == 0, "append without a previous entry")?;
    let (mut index, mut term) = (message.index, message.log_term);
    for entry in message.get_entries() {
        refuse(entry.index != index + 1, "append with a gap")?;
        refuse(entry.term < term, "terms fall within the log")?;
        (index, term) = (entry.index, entry.term);
    }
    refuse(term > message.term, "entry of a term to come")
}

/// A snapshot is of entries that are committed, and does not contradict what we know to be committed.
fn check_snapshot<T: Storage>(raft: &Raft<T>, message: &Message) -> Result<(), Refusal> {
    let Some(snapshot) = Snapshot::from_raft(message.get_snapshot()) else {
        return refuse(true, "snapshot without a membership");
    };
    let Point { index, term } = snapshot.point;
    refuse(index == 0 || term == 0, "snapshot of nothing")?;
    refuse(index >= u64::MAX / 2, "index jumps too far")?;
    refuse(term > message.term, "snapshot of a term to come")?;
    let log = &raft.raft_log;
    let known = (log.first_index().saturating_sub(1)..=log.committed).contains(&index);
    refuse(known && log.term(index) != Ok(term), "snapshot contradicts what is committed")
}

/// Whether somebody claims to lead a term that has another leader.
fn usurps<T: Storage>(raft: &Raft<T>, message: &Message) -> bool {
    raft.leader_id != raft::INVALID_ID && raft.leader_id != message.from
}

fn refuse(condition: bool, what: &'static str) -> Result<(), Refusal> {
    if condition { Err(Refusal::Impossible { what }) } else { Ok(()) }
}
