//! The metadata of a log: whose it is, how Raft stood, and where the log begins and ends.
//!
//! The file `meta` has two slots, written in turn. Each has a generation and a checksum; the valid
//! slot of the higher generation counts. A store that was torn leaves a bad slot beside the valid
//! one of the generation before, and was never acknowledged, so the older slot is the truth. Rot in
//! the newer slot looks the same and cannot be told from a torn store by the slot alone; what can
//! be told is that the log goes on where the older slot does not know of it, which is refused.
//!
//! ```text
//!   0 magic      "zmeshmta"               72 commit      u64
//!   8 crc        u32 CRC32C from 12 on    80 compaction  index u64, term u64
//!  12 length     u32 of all               96 first       u32 first segment in use
//!  16 version    u32                     100 tail        segment u32, offset u32
//!  20 node bytes u32                     108 blob bytes  u32
//!  24 generation u64                     112 node id     64 bytes, padded with zeros
//!  32 cluster    16 bytes                176 blob
//!  48 raft id    u64
//!  56 term u64, vote u64
//! ```
//!
//! Invariant: everything before the tail was synced when it was stored, so a log that ends or
//! breaks before it has lost something.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use uuid::Uuid;

use super::disk::{Disk, DiskFile, OpenMode};
use super::error::{WalError, is_full};
use super::record::is_zero;
use super::{HardState, Identity, Point};
use crate::id::{NODE_ID_BYTES_MAX, NodeId};

/// The newest format of the directory that this code reads, and the one it writes.
pub(super) const FORMAT_VERSION: u32 = 1;

/// The most bytes of the bootstrap blob.
pub(super) const BLOB_BYTES_MAX: usize = 65_536;

const MAGIC: [u8; 8] = *b"zmeshmta";
const FIXED_BYTES: usize = 112 + NODE_ID_BYTES_MAX;
/// Whole sectors of 4 KiB, so that slots share none.
const SLOT_BYTES: usize = 69_632;
const _: () =
    assert!(FIXED_BYTES + BLOB_BYTES_MAX <= SLOT_BYTES && SLOT_BYTES.is_multiple_of(4_096));

/// A place in the log, in the order of writing.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Tail {
    /// Which segment; zero before the first.
    pub(super) sequence: u32,
    /// Where in it.
    pub(super) offset: u32,
}

/// What is stored.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Facts {
    pub(super) identity: Identity,
    pub(super) hard_state: HardState,
    /// The newest entry that was forgotten.
    pub(super) compaction: Point,
    /// The first segment in use; older ones are leftovers.
    pub(super) first_sequence: u32,
    /// Up to where the log was synced when this was stored. Segments beyond were never finished.
    pub(super) tail: Tail,
    pub(super) bootstrap: Bytes,
}

impl Facts {
    /// Whether the log has had a segment; before, its creation was not finished.
    pub(super) const fn is_finished(&self) -> bool {
        self.tail.sequence > 0
    }
}

/// The open metadata file.
#[derive(Debug)]
pub(super) struct Metadata {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    generation: u64,
    facts: Facts,
}

/// What a slot holds.
#[derive(Debug)]
enum Slot {
    Empty,
    Bad,
    Newer(u32),
    Valid(u64, Facts),
}

/// What a slot is, whatever it holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum SlotState {
    Bad,
    Empty,
    Valid { generation: u64 },
}

impl SlotState {
    const fn of(slot: &Slot) -> Self {
        match slot {
            Slot::Bad | Slot::Newer(_) => Self::Bad,
            Slot::Empty => Self::Empty,
            Slot::Valid(generation, _) => Self::Valid { generation: *generation },
        }
    }
}

impl Metadata {
    /// Reads the metadata of `dir`; `None` when there is none, or when its creation was never
    /// finished. Changes nothing.
    pub(super) fn load(disk: &dyn Disk, dir: &Path) -> Result<Option<Self>, WalError> {
        let path = dir.join("meta");
        let file = match disk.open(&path, OpenMode::Existing) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(WalError::io("open", &path)(error)),
        };
        let (generation, facts) = match (read(&*file, &path, 0)?, read(&*file, &path, 1)?) {
            (Slot::Newer(found), _) | (_, Slot::Newer(found)) => {
                return Err(WalError::NewerFormat { file: path, found, supported: FORMAT_VERSION });
            }
            (Slot::Valid(a, facts_a), Slot::Valid(b, facts_b)) => {
                if a > b {
                    (a, facts_a)
                } else {
                    (b, facts_b)
                }
            }
            (Slot::Valid(1, facts), Slot::Empty) => (1, facts),
            (Slot::Valid(generation, facts), Slot::Bad | Slot::Empty)
            | (Slot::Bad | Slot::Empty, Slot::Valid(generation, facts)) => {
                tracing::warn!(file = %path.display(), generation, "one metadata slot is bad");
                (generation, facts)
            }
            // The second slot is first written when the log exists.
            (Slot::Bad | Slot::Empty, Slot::Empty) => return Ok(None),
            (Slot::Bad | Slot::Empty, Slot::Bad) => {
                let reason = "both slots of the metadata are damaged".to_owned();
                return Err(WalError::Corrupt { file: path, offset: 0, reason });
            }
        };
        Ok(Some(Self { file, path, generation, facts }))
    }

    /// Where a slot begins.
    pub(super) fn slot_offset(slot: usize) -> u64 {
        slot_offset(slot as u64)
    }

    /// What each of the two slots is, in words; for people.
    pub(super) fn describe(disk: &dyn Disk, dir: &Path) -> Result<[SlotState; 2], WalError> {
        let path = dir.join("meta");
        let file = disk.open(&path, OpenMode::Existing).map_err(WalError::io("open", &path))?;
        Ok([SlotState::of(&read(&*file, &path, 0)?), SlotState::of(&read(&*file, &path, 1)?)])
    }

    /// Creates the metadata of a new log, durably, in place of what an interrupted creation left.
    pub(super) fn create(
        disk: &dyn Disk,
        dir: &Path,
        identity: Identity,
    ) -> Result<Self, WalError> {
        let path = dir.join("meta");
        let bytes = 2 * SLOT_BYTES as u64;
        match disk.remove(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(WalError::io("delete", &path)(error));
            }
            _ => {}
        }
        let file = disk.open(&path, OpenMode::CreateNew).map_err(WalError::io("create", &path))?;
        file.allocate(bytes).map_err(|error| match is_full(&error) {
            true => WalError::NoSpace { bytes },
            false => WalError::io("allocate", &path)(error),
        })?;
        let facts = Facts {
            identity,
            hard_state: HardState::default(),
            compaction: Point::default(),
            first_sequence: 1,
            tail: Tail::default(),
            bootstrap: Bytes::new(),
        };
        let mut metadata = Self { file, path, generation: 0, facts: facts.clone() };
        metadata.store(facts)?;
        disk.sync_dir(dir).map_err(WalError::io("sync", dir))?;
        Ok(metadata)
    }

    /// What was stored last.
    pub(super) const fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Where it is stored.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes what was read durable: a process that was killed, or whose sync failed, may have left
    /// it in the system's memory only. It is written again because after a failed sync the system
    /// takes it for clean.
    pub(super) fn settle(&self) -> Result<(), WalError> {
        self.write(self.generation, &self.facts)
    }

    /// Stores `facts` durably, in the slot that the current generation is not in. After an error
    /// it is unknown which of the two the next process will find, and this one must not go on.
    pub(super) fn store(&mut self, facts: Facts) -> Result<(), WalError> {
        let generation = self.generation + 1;
        self.write(generation, &facts)?;
        self.generation = generation;
        self.facts = facts;
        Ok(())
    }

    fn write(&self, generation: u64, facts: &Facts) -> Result<(), WalError> {
        let bytes = encode(generation, facts);
        let offset = slot_offset(slot_of(generation));
        self.file.write_at(&bytes, offset).map_err(WalError::io("write", &self.path))?;
        self.file.sync_data().map_err(WalError::io("sync", &self.path))
    }
}

/// The first generation lies in slot 0.
const fn slot_of(generation: u64) -> u64 {
    (generation + 1) % 2
}

const fn slot_offset(slot: u64) -> u64 {
    slot * SLOT_BYTES as u64
}

/// Reads a slot; what lies beyond the end of the file reads as zeros.
fn read(file: &dyn DiskFile, path: &Path, slot: u64) -> Result<Slot, WalError> {
    let len = file.len().map_err(WalError::io("read", path))?;
    let there = len.saturating_sub(slot_offset(slot)).min(SLOT_BYTES as u64);
    let mut bytes = vec![0; SLOT_BYTES];
    let present = &mut bytes[..usize::try_from(there).expect("at most SLOT_BYTES")];
    file.read_at(present, slot_offset(slot)).map_err(WalError::io("read", path))?;
    Ok(decode(&bytes, slot))
}

fn encode(generation: u64, facts: &Facts) -> Vec<u8> {
    let node = facts.identity.node.as_str().as_bytes();
    let length = FIXED_BYTES + facts.bootstrap.len();
    let mut bytes = Vec::with_capacity(length);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&[0; 4]);
    let small = |bytes: usize| u32::try_from(bytes).expect("lengths here are below 64 KiB + 176");
    for number in [small(length), FORMAT_VERSION, small(node.len())] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(&generation.to_le_bytes());
    bytes.extend_from_slice(facts.identity.cluster.as_bytes());
    let HardState { term, vote, commit } = facts.hard_state;
    let Point { index, term: compaction_term } = facts.compaction;
    for number in [facts.identity.raft_id, term, vote, commit, index, compaction_term] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    let Tail { sequence, offset } = facts.tail;
    for number in [facts.first_sequence, sequence, offset, small(facts.bootstrap.len())] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(node);
    bytes.resize(FIXED_BYTES, 0);
    bytes.extend_from_slice(&facts.bootstrap);
    let crc = crc32c::crc32c(&bytes[12..]);
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// `bytes` is a whole slot.
fn decode(bytes: &[u8], slot: u64) -> Slot {
    if is_zero(bytes) {
        return Slot::Empty;
    }
    let length = usize::try_from(u32_at(bytes, 12)).unwrap_or(usize::MAX);
    let Some(covered) = bytes.get(12..length) else {
        return Slot::Bad;
    };
    if bytes[..8] != MAGIC || crc32c::crc32c(covered) != u32_at(bytes, 8) || length < FIXED_BYTES {
        return Slot::Bad;
    }
    let version = u32_at(bytes, 16);
    if version > FORMAT_VERSION {
        return Slot::Newer(version);
    }
    let generation = u64_at(bytes, 24);
    match decode_facts(&bytes[..length]) {
        Some(facts) if generation > 0 && slot_of(generation) == slot => {
            Slot::Valid(generation, facts)
        }
        _ => Slot::Bad,
    }
}

/// `bytes` is a slot up to its length, at least [`FIXED_BYTES`]; its checksum is right.
fn decode_facts(bytes: &[u8]) -> Option<Facts> {
    let node_bytes = usize::try_from(u32_at(bytes, 20)).ok()?;
    let node = bytes[112..FIXED_BYTES].get(..node_bytes)?;
    let node = NodeId::new(std::str::from_utf8(node).ok()?).ok()?;
    let cluster = Uuid::from_slice(&bytes[32..48]).ok()?;
    let blob = &bytes[FIXED_BYTES..];
    (usize::try_from(u32_at(bytes, 108)) == Ok(blob.len())).then_some(())?;
    Some(Facts {
        identity: Identity { cluster, node, raft_id: u64_at(bytes, 48) },
        hard_state: HardState {
            term: u64_at(bytes, 56),
            vote: u64_at(bytes, 64),
            commit: u64_at(bytes, 72),
        },
        compaction: Point { index: u64_at(bytes, 80), term: u64_at(bytes, 88) },
        first_sequence: u32_at(bytes, 96),
        tail: Tail { sequence: u32_at(bytes, 100), offset: u32_at(bytes, 104) },
        bootstrap: Bytes::copy_from_slice(blob),
    })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a slice of four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a slice of eight bytes"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn facts() -> Facts {
        Facts {
            identity: Identity {
                cluster: Uuid::from_u128(7),
                node: NodeId::new("alpha").unwrap(),
                raft_id: 11,
            },
            hard_state: HardState { term: 3, vote: 11, commit: 40 },
            compaction: Point { index: 20, term: 2 },
            first_sequence: 4,
            tail: Tail { sequence: 5, offset: 800 },
            bootstrap: Bytes::from_static(b"three members"),
        }
    }

    fn slot(generation: u64) -> Vec<u8> {
        let mut bytes = encode(generation, &facts());
        bytes.resize(SLOT_BYTES, 0);
        bytes
    }

    /// What is stored comes back, from the slot it belongs in and from no other.
    #[test]
    fn stored_facts_come_back_from_their_own_slot() {
        let Slot::Valid(9, found) = decode(&slot(9), 0) else { panic!("not valid") };
        assert_eq!(found, facts());
        assert!(matches!(decode(&slot(9), 1), Slot::Bad), "a copy in the wrong slot");
    }

    /// No changed bit passes for valid metadata.
    #[test]
    fn every_flipped_bit_makes_the_slot_bad() {
        let bytes = slot(2);
        for bit in 0..encode(2, &facts()).len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(decode(&damaged, 1), Slot::Bad), "bit {bit}");
        }
    }

    proptest! {
        /// Bytes with a right checksum but wrong contents are refused, not believed.
        #[test]
        fn any_bytes_are_decoded_without_panic(
            tail in proptest::collection::vec(any::<u8>(), 0..300),
            length in 0_u32..400,
        ) {
            let mut bytes = slot(1);
            bytes[12..16].copy_from_slice(&length.to_le_bytes());
            bytes[16..16 + tail.len()].copy_from_slice(&tail);
            if let Some(covered) = bytes.get(12..length as usize) {
                let crc = crc32c::crc32c(covered);
                bytes[8..12].copy_from_slice(&crc.to_le_bytes());
            }
            decode(&bytes, 0);
        }
    }
}
