//! The format survives any bytes, and tells torn from changed.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

const SEED: u32 = 0x5EED;

fn entry(index: u64, payload_bytes: usize) -> Entry {
    // Never zero, so that a missing byte always shows.
    let data = (0..payload_bytes).map(|at| u8::try_from(at % 255).unwrap() + 1).collect::<Vec<_>>();
    Entry { term: 7, index, kind: EntryKind::Normal, data: Bytes::from(data) }
}

/// Three entries of which the last two belong to one unsynced write, then zeros.
fn segment(payload_bytes: [usize; 3]) -> (Vec<u8>, [usize; 4]) {
    let mut bytes = Vec::new();
    let mut ends = [0; 4];
    for (position, size) in payload_bytes.into_iter().enumerate() {
        let synced = if position == 0 { 0 } else { u32::try_from(ends[1]).unwrap() };
        Record::entry(&entry(position as u64 + 1, size), synced).encode(SEED, &mut bytes);
        ends[position + 1] = bytes.len();
    }
    bytes.resize(bytes.len() + 600, 0);
    (bytes, ends)
}

fn walk(bytes: &[u8]) -> (Vec<u64>, Step<'_>) {
    let mut walk = Walk::new(bytes, SEED, 0);
    let mut found = Vec::new();
    loop {
        match walk.step() {
            Step::Record { record, .. } => found.push(record.index),
            stop @ (Step::End { .. } | Step::Damaged { .. }) => return (found, stop),
        }
    }
}

/// The bytes of format version 1 must not change: logs on disk outlive the program.
#[test]
fn format_is_as_documented() {
    let entry =
        Entry { term: 3, index: 5, kind: EntryKind::Membership, data: Bytes::from_static(b"abc") };
    let mut bytes = Vec::new();
    Record::entry(&entry, 64).encode(SEED, &mut bytes);
    assert_eq!(bytes.len(), 40);
    assert_eq!(bytes[..4], [35, 0, 0, 0]);
    assert_eq!(bytes[8..10], [2, 1]);
    assert_eq!(bytes[12..16], [64, 0, 0, 0]);
    assert_eq!(bytes[16..32], [3, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(&bytes[32..], b"abc\0\0\0\0\0");
    let crc = crc32c::crc32c_append(crc32c::crc32c_append(SEED, &bytes[..4]), &bytes[8..35]);
    assert_eq!(bytes[4..8], crc.to_le_bytes());
    let (parsed, taken) = parse(&bytes, SEED).unwrap();
    assert_eq!((parsed, taken), (Record::entry(&entry, 64), 40));
}

/// A record of another segment is no record here, wherever it was copied to.
#[test]
fn record_of_another_segment_is_not_taken() {
    let (bytes, _) = segment([10, 20, 30]);
    assert_eq!(parse(&bytes, SEED + 1), Err(Damage::Header));
}

/// Any single bit that changes is noticed, also in the padding and in the header.
#[test]
fn every_flipped_bit_is_noticed_and_called_corrupt() {
    let (bytes, ends) = segment([10, 700, 30]);
    for bit in ends[1] * 8..ends[2] * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let (found, stop) = walk(&damaged);
        assert_eq!(found, [1], "bit {bit}");
        let Step::Damaged { offset, .. } = stop else { panic!("bit {bit} ended the log") };
        assert_eq!(offset, ends[1]);
        assert_eq!(judge(&damaged, SEED, offset), Cause::Corrupt, "bit {bit}");
    }
}

/// A crash leaves a prefix of the write: what was complete stays, the rest is called torn.
#[test]
fn every_prefix_of_the_last_write_is_torn_or_ends() {
    let (bytes, ends) = segment([10, 700, 1_100]);
    for end in ends[1]..ends[3] {
        let mut torn = bytes.clone();
        torn[end..].fill(0);
        let (found, stop) = walk(&torn);
        match stop {
            Step::End { offset } => assert!(ends.contains(&offset), "end {end}"),
            Step::Damaged { offset, .. } => {
                assert_eq!(judge(&torn, SEED, offset), Cause::Torn, "end {end}");
            }
            Step::Record { .. } => unreachable!("walk stops at no record"),
        }
        assert_eq!(found.len(), ends[1..].iter().filter(|at| whole(&bytes, **at, end)).count());
    }
}

/// Whether losing the bytes from `end` on cost the record that ends at `at` nothing but zeros.
fn whole(bytes: &[u8], at: usize, end: usize) -> bool {
    at <= end || is_zero(&bytes[end..at])
}

/// Damage below the `synced` of a later record is corruption even if it looks like a lost sector.
#[test]
fn lost_sector_below_a_later_sync_is_corrupt() {
    let (mut bytes, ends) = segment([2_000, 10, 10]);
    bytes[512..1_024].fill(0);
    assert!(matches!(walk(&bytes).1, Step::Damaged { offset: 0, .. }));
    assert_eq!(judge(&bytes, SEED, 0), Cause::Corrupt);
    bytes[ends[1]..].fill(0);
    assert_eq!(judge(&bytes, SEED, 0), Cause::Torn);
}

proptest! {
    /// Whatever a disk returns, walking it ends, and nothing is read beyond it.
    #[test]
    fn any_bytes_are_walked_without_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..2_000),
        start in 0_usize..64,
        with_record: bool,
    ) {
        if with_record {
            let mut record = Vec::new();
            Record::entry(&entry(1, 40), 0).encode(SEED, &mut record);
            bytes.splice(0..0, record);
        }
        let mut walk = Walk::new(&bytes, SEED, start);
        loop {
            match walk.step() {
                Step::Record { offset, record } => {
                    prop_assert!(offset + HEADER_BYTES + record.payload.len() <= bytes.len());
                }
                Step::End { .. } => break,
                Step::Damaged { offset, .. } => {
                    judge(&bytes, SEED, offset);
                    break;
                }
            }
        }
    }

    /// Every subset of the sectors of the last write either shows nothing or is called torn.
    #[test]
    fn any_lost_sectors_of_the_last_write_are_torn(
        sizes in proptest::array::uniform3(0_usize..3_000),
        lost in proptest::collection::vec(any::<bool>(), 20),
    ) {
        let (whole, ends) = segment(sizes);
        let mut bytes = whole.clone();
        for (sector, lost) in lost.into_iter().enumerate() {
            let start = (sector * SECTOR).max(ends[1]).min(bytes.len());
            let end = ((sector + 1) * SECTOR).max(ends[1]).min(bytes.len());
            if lost {
                bytes[start..end].fill(0);
            }
        }
        let (found, stop) = walk(&bytes);
        prop_assert!(!found.is_empty(), "the synced record is gone");
        if let Step::Damaged { offset, .. } = stop {
            prop_assert_eq!(judge(&bytes, SEED, offset), Cause::Torn);
        }
        if let Step::End { .. } = stop {
            prop_assert!(found.len() == 3 || bytes != whole);
        }
    }
}
