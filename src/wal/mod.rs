//! The write-ahead log: what a replica promised to remember.

use bytes::Bytes;

/// One entry of the replicated log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// The term of the leader that made it.
    pub term: u64,
    /// Its position, from 1, without gaps.
    pub index: u64,
    /// What the data is.
    pub kind: EntryKind,
    /// Opaque to the log.
    pub data: Bytes,
}

/// What the data of an entry is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum EntryKind {
    /// A batch of commands for the state machine; empty for a new leader's first entry.
    Normal = 0,
    /// A change of the membership.
    Membership = 1,
}

/// What a replica must remember besides its entries. Raft's hard state.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct HardState {
    /// The newest term it has seen.
    pub term: u64,
    /// Whom it voted for in that term; 0 for nobody.
    pub vote: u64,
    /// The highest index it knows to be committed. A hint: it may lag.
    pub commit: u64,
}
