//! Whether the replicas of a service have the same state.
//!
//! At a mark, which is an entry of the log, every replica takes an image of its state, sums it up in
//! the background and tells the others. A replica whose state differs from that of the majority has
//! applied something else than they: its machine is not deterministic, its memory or its disk has
//! changed. It can no longer know which of its answers are right.
//!
//! Pure. Memory: a few numbers for each member.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use super::machine::Image;
use crate::wal::Point;

/// Marks that are remembered for each member; those that are behind are compared as they catch up.
const MARKS_MAX: usize = 16;

/// The state after one entry, summed up: FNV-1a over the bytes of its snapshot.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct StateHash {
    /// The entry.
    pub point: Point,
    /// The sum.
    pub hash: u64,
    /// Bytes that were summed up.
    pub bytes: u64,
}

/// States that should be equal and are not.
#[derive(Clone, Debug, Eq, PartialEq, serde::Deserialize, serde::Serialize)]
pub struct Divergence {
    /// The entry after which they differ; perhaps they did before.
    pub index: u64,
    /// Raft ids of the members that differ from this replica, as 16 hex digits.
    pub others: Vec<String>,
}

/// What is known of the states of all members.
#[derive(Debug, Default)]
pub(super) struct Hashes {
    own: VecDeque<StateHash>,
    /// By raft id.
    heard: BTreeMap<u64, VecDeque<StateHash>>,
    /// Comparisons of two states that came out equal.
    pub(super) equal: u64,
    /// The newest comparison that did not.
    pub(super) divergence: Option<Divergence>,
}

/// What a comparison came to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Judgement {
    /// Nothing differs, or not enough is known.
    Fine,
    /// Somebody differs; it is not this replica that is alone.
    Others(Divergence),
    /// The majority of the members has another state than this replica.
    Alone(Divergence),
}

impl Hashes {
    /// Takes what this replica has come to, and compares.
    pub(super) fn found(&mut self, found: StateHash, members: &[u64], me: u64) -> Judgement {
        remember(&mut self.own, found);
        self.judge(found.point, members, me)
    }

    /// Takes what another member has come to, and compares.
    pub(super) fn heard(
        &mut self,
        from: u64,
        told: StateHash,
        members: &[u64],
        me: u64,
    ) -> Judgement {
        self.heard.retain(|raft_id, _| members.contains(raft_id) || *raft_id == from);
        remember(self.heard.entry(from).or_default(), told);
        self.judge(told.point, members, me)
    }

    /// The newest sums of this replica, oldest first.
    pub(super) fn own(&self) -> impl Iterator<Item = &StateHash> {
        self.own.iter()
    }

    fn judge(&mut self, point: Point, members: &[u64], me: u64) -> Judgement {
        let at = |hashes: &VecDeque<StateHash>| {
            hashes.iter().find(|it| it.point == point).map(|it| (it.hash, it.bytes))
        };
        let Some(own) = at(&self.own) else { return Judgement::Fine };
        let others = members.iter().filter(|member| **member != me);
        let told = others.filter_map(|member| Some((*member, at(self.heard.get(member)?)?)));
        let told: Vec<(u64, (u64, u64))> = told.collect();
        let differing: Vec<u64> =
            told.iter().filter(|(_, hash)| *hash != own).map(|(member, _)| *member).collect();
        if differing.is_empty() {
            self.equal += u64::from(!told.is_empty());
            return Judgement::Fine;
        }
        let mut counts: BTreeMap<(u64, u64), usize> = BTreeMap::new();
        for (_, hash) in &told {
            *counts.entry(*hash).or_default() += 1;
        }
        let others = differing.iter().map(|raft_id| format!("{raft_id:016x}")).collect();
        let divergence = Divergence { index: point.index, others };
        self.divergence = Some(divergence.clone());
        let outvoted =
            counts.iter().any(|(hash, count)| *hash != own && *count > members.len() / 2);
        match outvoted {
            true => Judgement::Alone(divergence),
            false => Judgement::Others(divergence),
        }
    }
}

/// Keeps the newest marks.
fn remember(hashes: &mut VecDeque<StateHash>, new: StateHash) {
    hashes.retain(|hash| hash.point.index != new.point.index);
    let place = hashes.partition_point(|hash| hash.point.index < new.point.index);
    hashes.insert(place, new);
    while hashes.len() > MARKS_MAX {
        hashes.pop_front();
    }
}

/// Sums up what an image writes, unless it is cancelled.
///
/// # Errors
///
/// What the image says.
pub(super) fn sum(point: Point, image: Image, cancelled: &AtomicBool) -> io::Result<StateHash> {
    let mut sum = Fnv { hash: 0xcbf2_9ce4_8422_2325, bytes: 0, cancelled };
    image(&mut sum)?;
    Ok(StateHash { point, hash: sum.hash, bytes: sum.bytes })
}

/// FNV-1a: simple enough to be written again in any language, and good against accidents.
struct Fnv<'a> {
    hash: u64,
    bytes: u64,
    cancelled: &'a AtomicBool,
}

impl Write for Fnv<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(io::Error::other("the replica is stopping"));
        }
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMBERS: [u64; 3] = [1, 2, 3];

    fn state(index: u64, hash: u64) -> StateHash {
        StateHash { point: Point { index, term: 1 }, hash, bytes: 10 }
    }

    fn divergence(index: u64, others: &[u64]) -> Divergence {
        let others = others.iter().map(|raft_id| format!("{raft_id:016x}")).collect();
        Divergence { index, others }
    }

    /// Known values, so that other programs can compare; however the image cuts its writes.
    #[test]
    fn sum_is_fnv_over_all_bytes() {
        let write = |parts: &'static [&'static [u8]]| -> Image {
            Box::new(move |out| parts.iter().try_for_each(|part| out.write_all(part)))
        };
        let point = Point { index: 5, term: 1 };
        let sum = |image| sum(point, image, &AtomicBool::new(false));
        let whole = sum(write(&[b"foobar"])).unwrap();
        assert_eq!((whole.hash, whole.bytes), (0x8594_4171_f739_67e8, 6));
        assert_eq!(sum(write(&[b"foo", b"", b"bar"])).unwrap(), whole);
        let nothing = sum(write(&[])).unwrap();
        assert_eq!((nothing.hash, nothing.bytes), (0xcbf2_9ce4_8422_2325, 0));
    }

    /// One against two stops; one of two knows only that they differ.
    #[test]
    fn only_who_differs_from_a_majority_is_alone() {
        let mut hashes = Hashes::default();
        assert_eq!(hashes.found(state(9, 7), &MEMBERS, 1), Judgement::Fine);
        let first = hashes.heard(2, state(9, 8), &MEMBERS, 1);
        assert_eq!(first, Judgement::Others(divergence(9, &[2])), "it may be the other");
        let second = hashes.heard(3, state(9, 8), &MEMBERS, 1);
        assert_eq!(second, Judgement::Alone(divergence(9, &[2, 3])));

        let mut hashes = Hashes::default();
        hashes.heard(2, state(9, 7), &MEMBERS, 1);
        hashes.heard(3, state(9, 8), &MEMBERS, 1);
        let found = hashes.found(state(9, 7), &MEMBERS, 1);
        assert_eq!(found, Judgement::Others(divergence(9, &[3])));
        assert_eq!(hashes.divergence, Some(divergence(9, &[3])));

        let pair = [1, 2];
        let mut hashes = Hashes::default();
        hashes.heard(2, state(9, 8), &pair, 1);
        let found = hashes.found(state(9, 7), &pair, 1);
        assert_eq!(found, Judgement::Others(divergence(9, &[2])), "nobody knows who is right");
    }

    /// Equal states are counted; other entries, other terms and strangers are not compared.
    #[test]
    fn only_states_after_the_same_entry_are_compared() {
        let mut hashes = Hashes::default();
        hashes.found(state(9, 7), &MEMBERS, 1);
        assert_eq!(hashes.heard(2, state(8, 1), &MEMBERS, 1), Judgement::Fine);
        let other_term = StateHash { point: Point { index: 9, term: 2 }, ..state(9, 1) };
        assert_eq!(hashes.heard(2, other_term, &MEMBERS, 1), Judgement::Fine);
        assert_eq!(hashes.heard(9, state(9, 1), &MEMBERS, 1), Judgement::Fine, "no member");
        assert_eq!((hashes.equal, &hashes.divergence), (0, &None));
        assert_eq!(hashes.heard(3, state(9, 7), &MEMBERS, 1), Judgement::Fine);
        assert_eq!(hashes.equal, 1);
    }

    /// However much a member tells, little is kept of it, and it pushes out nothing of another.
    #[test]
    fn memory_is_bounded_for_each_member() {
        let mut hashes = Hashes::default();
        hashes.heard(2, state(5, 7), &MEMBERS, 1);
        for index in 0..1_000 {
            hashes.heard(3, state(1_000_000 + index, 7), &MEMBERS, 1);
        }
        assert_eq!(hashes.heard[&3].len(), MARKS_MAX);
        assert_eq!(hashes.heard[&2].len(), 1);
        hashes.heard(2, state(6, 7), &[1, 2], 1);
        assert!(!hashes.heard.contains_key(&3), "who is no member any more is forgotten");
    }
}
