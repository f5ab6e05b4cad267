//! Who belongs to the cluster: the members it began with, and the changes since.
//!
//! Raft knows members by number only. The names travel with each change in our own format, inside
//! entries of the kind [`EntryKind::Membership`](crate::wal::EntryKind): the first entry of every
//! log is the [`Bootstrap`], every later one a [`Change`]. What the `raft` crate wants as protobuf
//! is made from these on the spot and never parsed from a peer's bytes.
//!
//! A raft id is drawn at random for a data directory and never used again: a replica that lost its
//! disk is another replica, since it no longer remembers its votes.
//!
//! Pure.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use protobuf::Message as _;
use raft::prelude::{ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState};
use uuid::Uuid;

use crate::id::NodeId;

/// One replica as the others know it.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, serde::Serialize)]
pub struct Member {
    /// Its number: random per data directory, never zero, never reused.
    pub raft_id: u64,
    /// The node that runs it.
    pub node: NodeId,
    /// Whether it votes; a learner receives everything and decides nothing.
    pub voter: bool,
}

/// The members a cluster begins with, the same on each of them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Bootstrap {
    members: Vec<Member>,
}

/// Why a list of members cannot begin a cluster.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidBootstrap {
    /// Two members have the same raft id or the same node id.
    #[error("{node} is there twice, or has the raft id of another")]
    Duplicate {
        /// The second holder.
        node: NodeId,
    },
    /// The bytes are not those of a list of members.
    #[error("not a list of members")]
    Malformed,
    /// Nobody could decide anything.
    #[error("no member votes")]
    NoVoter,
    /// Raft keeps zero for nobody.
    #[error("raft id 0 of {node}")]
    ZeroId {
        /// The holder.
        node: NodeId,
    },
}

/// One step from a membership to the next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// Adds a member, or makes a voter of a learner and the other way round.
    Add(Member),
    /// Removes a member by its raft id. The id can never come back.
    Remove(u64),
}

/// The members after everything that has been applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Membership {
    names: BTreeMap<u64, NodeId>,
    conf: ConfState,
}

impl Bootstrap {
    /// The index of the entry that holds the bootstrap.
    pub const INDEX: u64 = 1;
    /// The term of that entry, and the first term of every member.
    pub const TERM: u64 = 1;

    /// Checks the members and brings them into the one order.
    ///
    /// # Errors
    ///
    /// [`InvalidBootstrap`] says which member cannot be.
    pub fn new(mut members: Vec<Member>) -> Result<Self, InvalidBootstrap> {
        members.sort();
        for (at, member) in members.iter().enumerate() {
            if member.raft_id == 0 {
                return Err(InvalidBootstrap::ZeroId { node: member.node.clone() });
            }
            let same =
                |other: &Member| other.raft_id == member.raft_id || other.node == member.node;
            if members[..at].iter().any(same) {
                return Err(InvalidBootstrap::Duplicate { node: member.node.clone() });
            }
        }
        if !members.iter().any(|member| member.voter) {
            return Err(InvalidBootstrap::NoVoter);
        }
        Ok(Self { members })
    }

    /// The members, by raft id.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The id of the cluster that these members begin: equal members, equal id.
    pub fn cluster_id(&self) -> Uuid {
        // FNV-1a over the canonical bytes: every initial member computes the same, for ever.
        const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
        const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
        let hash = self
            .encode()
            .iter()
            .fold(OFFSET, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME));
        Uuid::from_u128(hash)
    }

    /// The bytes of the first entry.
    pub fn encode(&self) -> Bytes {
        let changes: Vec<Change> = self.members.iter().cloned().map(Change::Add).collect();
        encode_changes(&changes)
    }

    /// Reads the bytes of a first entry.
    ///
    /// # Errors
    ///
    /// [`InvalidBootstrap`]: the bytes are damaged or name members that cannot be.
    pub fn decode(data: &Bytes) -> Result<Self, InvalidBootstrap> {
        let changes = decode_changes(data).ok_or(InvalidBootstrap::Malformed)?;
        let member = |change| match change {
            Change::Add(member) => Ok(member),
            Change::Remove(_) => Err(InvalidBootstrap::Malformed),
        };
        Self::new(changes.into_iter().map(member).collect::<Result<_, _>>()?)
    }
}

impl Membership {
    /// The membership at the beginning of a log.
    pub fn new(bootstrap: &Bootstrap) -> Self {
        let names = bootstrap.members.iter().map(|m| (m.raft_id, m.node.clone())).collect();
        let of =
            |voter| bootstrap.members.iter().filter(move |m| m.voter == voter).map(|m| m.raft_id);
        let conf = ConfState {
            voters: of(true).collect(),
            learners: of(false).collect(),
            ..ConfState::default()
        };
        Self { names, conf }
    }

    /// Nobody at all, until something is read.
    pub(crate) fn none() -> Self {
        Self { names: BTreeMap::new(), conf: ConfState::default() }
    }

    /// The members by raft id. While a change is under way, a member that votes in either of the
    /// two memberships counts as a voter.
    pub fn members(&self) -> impl Iterator<Item = Member> + '_ {
        self.names.iter().map(|(&raft_id, node)| {
            let voter = self.is_voter(raft_id);
            Member { raft_id, node: node.clone(), voter }
        })
    }

    /// Whether a raft id belongs to a member.
    pub fn contains(&self, raft_id: u64) -> bool {
        self.names.contains_key(&raft_id)
    }

    /// Whether a raft id belongs to a voter of the present or, during a change, the next
    /// membership.
    pub fn is_voter(&self, raft_id: u64) -> bool {
        self.conf.voters.contains(&raft_id) || self.conf.voters_outgoing.contains(&raft_id)
    }

    /// The node that runs a member.
    pub fn node(&self, raft_id: u64) -> Option<&NodeId> {
        self.names.get(&raft_id)
    }

    /// Whether a change has been entered and not yet left.
    pub fn is_joint(&self) -> bool {
        !self.conf.voters_outgoing.is_empty()
    }

    /// The bytes of a membership, as a snapshot carries it:
    ///
    /// ```text
    /// membership  count u8 | flags u8 (1: left automatically) | member...
    /// member      raft id u64 | roles u8 (1 voter, 2 voter of the membership that is being left,
    ///             4 learner, 8 learner once that is left) | name bytes u8 | name
    /// ```
    ///
    /// # Panics
    ///
    /// If there are more than 255 members, which no change brings about.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(u8::try_from(self.names.len()).expect("a cluster has a handful of members"));
        out.put_u8(u8::from(self.conf.auto_leave));
        for (raft_id, node) in &self.names {
            let name = node.as_str().as_bytes();
            out.put_u64_le(*raft_id);
            out.put_u8(self.roles(*raft_id));
            out.put_u8(u8::try_from(name.len()).expect("a node id has at most 64 bytes"));
            out.put_slice(name);
        }
        out.freeze()
    }

    /// Reads the bytes of a membership; `None` if they are anything that [`Self::encode`] does not
    /// write, or that no change brings about: the `raft` crate panics on such a membership.
    pub fn decode(data: &Bytes) -> Option<Self> {
        let mut input = data.clone();
        let (count, flags) = (input.try_get_u8().ok()?, input.try_get_u8().ok()?);
        let (mut names, mut conf) = (BTreeMap::new(), ConfState::default());
        for _ in 0..count {
            let raft_id = input.try_get_u64_le().ok().filter(|raft_id| *raft_id != 0)?;
            let roles = input.try_get_u8().ok()?;
            let name_bytes = usize::from(input.try_get_u8().ok()?);
            if input.remaining() < name_bytes || names.keys().next_back() >= Some(&raft_id) {
                return None;
            }
            let name = input.split_to(name_bytes);
            let node = NodeId::new(std::str::from_utf8(&name).ok()?).ok()?;
            names.insert(raft_id, node);
            match roles {
                1 => conf.voters.push(raft_id),
                2 => conf.voters_outgoing.push(raft_id),
                3 => {
                    conf.voters.push(raft_id);
                    conf.voters_outgoing.push(raft_id);
                }
                4 => conf.learners.push(raft_id),
                10 => {
                    conf.voters_outgoing.push(raft_id);
                    conf.learners_next.push(raft_id);
                }
                _ => return None,
            }
        }
        conf.auto_leave = flags == 1;
        let sound = !conf.voters.is_empty()
            && flags <= 1
            && (flags == 0 || !conf.voters_outgoing.is_empty())
            && !input.has_remaining();
        sound.then_some(Self { names, conf })
    }

    fn roles(&self, raft_id: u64) -> u8 {
        let in_each = [
            &self.conf.voters,
            &self.conf.voters_outgoing,
            &self.conf.learners,
            &self.conf.learners_next,
        ];
        let bit = |(at, ids): (usize, &Vec<u64>)| u8::from(ids.contains(&raft_id)) << at;
        in_each.into_iter().enumerate().map(bit).sum()
    }

    pub(super) fn conf_state(&self) -> &ConfState {
        &self.conf
    }

    /// Takes over what Raft made of `changes`. Members that are in no part of it are gone. Raft may
    /// know a replica that nobody has added yet: see `attend`. It is not a member.
    pub(super) fn apply(&mut self, changes: &[Change], mut conf: ConfState) {
        for change in changes {
            if let Change::Add(member) = change {
                self.names.insert(member.raft_id, member.node.clone());
            }
        }
        let ids = [&conf.voters, &conf.learners, &conf.voters_outgoing, &conf.learners_next];
        self.names.retain(|raft_id, _| ids.iter().any(|ids| ids.contains(raft_id)));
        conf.learners.retain(|raft_id| self.names.contains_key(raft_id));
        self.conf = conf;
    }
}

/// The change as the `raft` crate wants it; none is the step out of a change under way.
pub(super) fn conf_change(changes: &[Change]) -> ConfChangeV2 {
    let single = |change: &Change| {
        let mut single = ConfChangeSingle::default();
        match change {
            Change::Add(member) => {
                single.node_id = member.raft_id;
                single.set_change_type(if member.voter {
                    ConfChangeType::AddNode
                } else {
                    ConfChangeType::AddLearnerNode
                });
            }
            Change::Remove(raft_id) => {
                single.node_id = *raft_id;
                single.set_change_type(ConfChangeType::RemoveNode);
            }
        }
        single
    };
    let mut conf_change = ConfChangeV2::default();
    conf_change.set_changes(changes.iter().map(single).collect::<Vec<_>>().into());
    conf_change
}

/// The same as bytes, which the `raft` crate reads when a change is proposed, and nobody else.
pub(super) fn encode_conf_change(changes: &[Change]) -> Bytes {
    let bytes = conf_change(changes).write_to_bytes();
    bytes.expect("writing protobuf to memory cannot fail").into()
}

/// ```text
/// changes  count u8 | change...
/// change   kind u8 (0 remove, 1 add learner, 2 add voter) | raft id u64 | name bytes u8 | name
/// ```
pub(super) fn encode_changes(changes: &[Change]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(u8::try_from(changes.len()).expect("a change has a handful of members"));
    for change in changes {
        match change {
            Change::Add(member) => {
                let name = member.node.as_str().as_bytes();
                out.put_u8(if member.voter { 2 } else { 1 });
                out.put_u64_le(member.raft_id);
                out.put_u8(u8::try_from(name.len()).expect("a node id has at most 64 bytes"));
                out.put_slice(name);
            }
            Change::Remove(raft_id) => {
                out.put_u8(0);
                out.put_u64_le(*raft_id);
                out.put_u8(0);
            }
        }
    }
    out.freeze()
}

/// Reads changes; `None` if the bytes are anything else. No bytes at all mean no change: the entry
/// with which Raft leaves a change under way.
pub(crate) fn decode_changes(data: &Bytes) -> Option<Vec<Change>> {
    if data.is_empty() {
        return Some(Vec::new());
    }
    let mut input = data.clone();
    let count = input.try_get_u8().ok()?;
    let mut changes = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        let kind = input.try_get_u8().ok()?;
        let raft_id = input.try_get_u64_le().ok().filter(|raft_id| *raft_id != 0)?;
        let name_bytes = usize::from(input.try_get_u8().ok()?);
        if input.remaining() < name_bytes {
            return None;
        }
        let name = input.split_to(name_bytes);
        changes.push(match kind {
            0 if name.is_empty() => Change::Remove(raft_id),
            1 | 2 => {
                let node = NodeId::new(std::str::from_utf8(&name).ok()?).ok()?;
                Change::Add(Member { raft_id, node, voter: kind == 2 })
            }
            _ => return None,
        });
    }
    (!input.has_remaining()).then_some(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(raft_id: u64, node: &str, voter: bool) -> Member {
        Member { raft_id, node: node.parse().unwrap(), voter }
    }

    /// Every initial member computes the bootstrap alone, from a list in whatever order it has.
    #[test]
    fn bootstrap_does_not_depend_on_the_order_of_members() {
        let (a, b) = (member(7, "a", true), member(3, "b", true));
        let one = Bootstrap::new(vec![a.clone(), b.clone()]).unwrap();
        let two = Bootstrap::new(vec![b, a]).unwrap();
        assert_eq!(one, two);
        assert_eq!(one.cluster_id(), two.cluster_id());
        assert_eq!(Bootstrap::decode(&one.encode()), Ok(one.clone()));
        let other = Bootstrap::new(vec![member(7, "a", true), member(4, "b", true)]).unwrap();
        assert_ne!(one.cluster_id(), other.cluster_id());
    }

    /// The id of a cluster is on every disk and in every frame: it must not change with versions.
    #[test]
    fn cluster_id_is_stable() {
        let bootstrap = Bootstrap::new(vec![member(1, "a", true)]).unwrap();
        assert_eq!(bootstrap.encode().as_ref(), [1, 2, 1, 0, 0, 0, 0, 0, 0, 0, 1, b'a']);
        assert_eq!(bootstrap.cluster_id().to_string(), "4b00be59-5a3b-40c1-d15c-fb6c30a8608d");
    }

    /// A list that would elect two leaders, or none, must not begin a cluster.
    #[test]
    fn bootstrap_refuses_members_that_cannot_be() {
        let refused = |members| Bootstrap::new(members).unwrap_err();
        assert_eq!(refused(vec![]), InvalidBootstrap::NoVoter);
        assert_eq!(refused(vec![member(1, "a", false)]), InvalidBootstrap::NoVoter);
        let zero = refused(vec![member(0, "a", true)]);
        assert_eq!(zero, InvalidBootstrap::ZeroId { node: "a".parse().unwrap() });
        for twice in [member(1, "b", true), member(2, "a", true)] {
            let error = refused(vec![member(1, "a", true), twice]);
            assert!(matches!(error, InvalidBootstrap::Duplicate { .. }), "{error}");
        }
    }

    /// A membership comes with a snapshot from a peer, and the crate panics on one that cannot be.
    #[test]
    fn membership_survives_the_round_trip_and_what_cannot_be_is_refused() {
        let names = [(1, "a"), (2, "b"), (3, "c"), (4, "d"), (5, "e")];
        let names = names.map(|(raft_id, name)| (raft_id, name.parse().unwrap())).into();
        let conf = ConfState {
            voters: vec![1, 2],
            voters_outgoing: vec![2, 3, 5],
            learners: vec![4],
            learners_next: vec![5],
            auto_leave: true,
            ..ConfState::default()
        };
        let membership = Membership { names, conf };
        let bytes = membership.encode();
        assert_eq!(Membership::decode(&bytes), Some(membership));
        for cut in 0..bytes.len() {
            assert_eq!(Membership::decode(&bytes.slice(..cut)), None, "cut at {cut}");
        }
        let one = |flags, roles| {
            let bytes = [1, flags, 7, 0, 0, 0, 0, 0, 0, 0, roles, 1, b'a'];
            Membership::decode(&Bytes::copy_from_slice(&bytes)).is_some()
        };
        let accepted: Vec<u8> = (0..=255).filter(|roles| one(0, *roles)).collect();
        assert_eq!(accepted, [1, 3], "alone, only a voter can be");
        assert!(one(1, 3) && !one(1, 1) && !one(2, 3), "nothing to leave, or an unknown flag");
        let twice = [2, 0, 7, 0, 0, 0, 0, 0, 0, 0, 1, 1, b'a', 7, 0, 0, 0, 0, 0, 0, 0, 1, 1, b'b'];
        assert_eq!(Membership::decode(&Bytes::copy_from_slice(&twice)), None);
    }

    /// Changes come out of a log that a peer filled: any cut or damage is refused, not trusted.
    #[test]
    fn changes_survive_the_round_trip_and_every_cut_is_refused() {
        let changes = vec![
            Change::Add(member(1, "a", true)),
            Change::Remove(2),
            Change::Add(member(3, "c", false)),
        ];
        let bytes = encode_changes(&changes);
        assert_eq!(decode_changes(&bytes), Some(changes));
        for cut in 1..bytes.len() {
            assert_eq!(decode_changes(&bytes.slice(..cut)), None, "cut at {cut}");
        }
        assert_eq!(decode_changes(&Bytes::from_static(&[1, 9, 1, 0, 0, 0, 0, 0, 0, 0, 0])), None);
        assert_eq!(decode_changes(&Bytes::from_static(&[0, 0])), None);
    }
}
