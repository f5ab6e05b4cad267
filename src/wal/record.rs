//! The record format; the only file that knows it.
//!
//! A segment is a row of records, and zeros up to its end. Numbers are little endian.
//!
//! ```text
//!  0 length  u32  bytes of the record without padding, these four included
//!  4 crc     u32  CRC32C of the length and of everything from byte 8 on, begun with the seed
//!  8 type    u8   1 header, 2 entry
//!  9 kind    u8   of an entry
//! 10 check   u16  low half of the CRC32C of the other header fields, begun with the seed
//! 12 synced  u32  bytes of this segment that were synced when the record was written
//! 16 term    u64
//! 24 index   u64
//! 32 payload
//!    zeros up to a multiple of 8
//! ```
//!
//! - `seed` is drawn from the identity of the segment. A record of another segment, copied by a
//!   misdirected write or inside somebody's payload, is not taken for one of this segment.
//! - `check` makes the length trustworthy although the payload is torn.
//! - `synced` tells a torn write from corruption: damage before the `synced` of any later record
//!   hit bytes that were safe on disk.
//!
//! Pure. Invariant: no bytes make the parser panic, or read or allocate beyond them.

use crate::wal::{Entry, EntryKind};

/// Bytes before the payload.
pub(super) const HEADER_BYTES: usize = 32;

/// The most bytes of payload, so that the bytes of a segment fit into 32 bits.
pub(super) const PAYLOAD_BYTES_MAX: usize = 1 << 30;

/// Disks write sectors of this size as one; a torn write misses whole ones.
const SECTOR: usize = 512;

/// What a record is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Content {
    /// The first record of a segment.
    Header,
    /// An entry of the log.
    Entry(EntryKind),
}

impl Content {
    const fn bytes(self) -> [u8; 2] {
        match self {
            Self::Header => [1, 0],
            Self::Entry(kind) => [2, kind as u8],
        }
    }

    const fn from_bytes(bytes: [u8; 2]) -> Option<Self> {
        match bytes {
            [1, 0] => Some(Self::Header),
            [2, 0] => Some(Self::Entry(EntryKind::Normal)),
            [2, 1] => Some(Self::Entry(EntryKind::Membership)),
            _ => None,
        }
    }
}

/// One record, borrowed from the bytes it was parsed from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Record<'a> {
    pub(super) content: Content,
    pub(super) synced: u32,
    pub(super) term: u64,
    pub(super) index: u64,
    pub(super) payload: &'a [u8],
}

impl<'a> Record<'a> {
    pub(super) fn entry(entry: &'a Entry, synced: u32) -> Self {
        let content = Content::Entry(entry.kind);
        Self { content, synced, term: entry.term, index: entry.index, payload: &entry.data }
    }

    /// Appends the record to `buffer`, with its padding.
    ///
    /// The caller has checked the payload against [`PAYLOAD_BYTES_MAX`].
    pub(super) fn encode(&self, seed: u32, buffer: &mut Vec<u8>) {
        let start = buffer.len();
        let length = u32::try_from(HEADER_BYTES + self.payload.len())
            .expect("the caller has checked the payload's size");
        buffer.extend_from_slice(&length.to_le_bytes());
        buffer.extend_from_slice(&[0; 4]);
        buffer.extend_from_slice(&self.content.bytes());
        buffer.extend_from_slice(&[0; 2]);
        buffer.extend_from_slice(&self.synced.to_le_bytes());
        buffer.extend_from_slice(&self.term.to_le_bytes());
        buffer.extend_from_slice(&self.index.to_le_bytes());
        buffer.extend_from_slice(self.payload);
        let check = header_check(&buffer[start..], seed);
        buffer[start + 10..start + 12].copy_from_slice(&check);
        let crc = record_crc(&buffer[start..], seed);
        buffer[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
        buffer.resize(start + padded(buffer.len() - start), 0);
    }
}

/// Bytes that a record with this much payload takes.
pub(super) const fn encoded_bytes(payload_bytes: usize) -> usize {
    padded(HEADER_BYTES + payload_bytes)
}

const fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(8)
}

/// `bytes` has the whole header.
fn header_check(bytes: &[u8], seed: u32) -> [u8; 2] {
    let crc = crc32c::crc32c_append(seed, &bytes[..4]);
    let crc = crc32c::crc32c_append(crc, &bytes[8..10]);
    let [low, high, ..] = crc32c::crc32c_append(crc, &bytes[12..HEADER_BYTES]).to_le_bytes();
    [low, high]
}

/// `bytes` is the record without padding.
fn record_crc(bytes: &[u8], seed: u32) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(seed, &bytes[..4]), &bytes[8..])
}

/// Why there is no valid record.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum Damage {
    /// The header fails its own check.
    #[error("the header of a record is damaged")]
    Header,
    /// The record goes on beyond the end of the file.
    #[error("a record reaches beyond the end of the file")]
    Cut,
    /// Length, contents or padding differ from what was written.
    #[error("the checksum of a record does not match")]
    Checksum,
    /// The checksum is right and the type is not known.
    #[error("a record has an unknown type")]
    Type,
}

/// Parses the record at the start of `bytes`; on success also says how many bytes it takes.
pub(super) fn parse(bytes: &[u8], seed: u32) -> Result<(Record<'_>, usize), Damage> {
    let length = intact_length(bytes, seed).ok_or(Damage::Header)?;
    let taken = padded(length);
    let (Some(record), Some(padding)) = (bytes.get(..length), bytes.get(length..taken)) else {
        return Err(Damage::Cut);
    };
    let crc = u32_at(record, 4);
    if record_crc(record, seed) != crc || !is_zero(padding) {
        return Err(Damage::Checksum);
    }
    let content = Content::from_bytes([record[8], record[9]]).ok_or(Damage::Type)?;
    let parsed = Record {
        content,
        synced: u32_at(record, 12),
        term: u64_at(record, 16),
        index: u64_at(record, 24),
        payload: &record[HEADER_BYTES..],
    };
    Ok((parsed, taken))
}

/// Bytes of the record at the start of `bytes` with its padding, if its header passes its check.
pub(super) fn taken(bytes: &[u8], seed: u32) -> Option<usize> {
    intact_length(bytes, seed).map(padded)
}

/// Bytes with padding that the record at the start of `bytes` says that it has, unchecked; 0 without
/// a length.
pub(super) fn claims(bytes: &[u8]) -> usize {
    let length = bytes.first_chunk().map_or(0, |length| u32::from_le_bytes(*length));
    usize::try_from(length).map_or(usize::MAX, padded)
}

/// The length in a header that passes its own check.
fn intact_length(bytes: &[u8], seed: u32) -> Option<usize> {
    let header = bytes.get(..HEADER_BYTES)?;
    let length = usize::try_from(u32_at(header, 0)).ok()?;
    let plausible = (HEADER_BYTES..=HEADER_BYTES + PAYLOAD_BYTES_MAX).contains(&length);
    (plausible && header_check(header, seed) == header[10..12]).then_some(length)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a slice of four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a slice of eight bytes"))
}

/// Whether all bytes are zero, eight at a time.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<8>();
    chunks.iter().all(|chunk| u64::from_le_bytes(*chunk) == 0) && rest.iter().all(|byte| *byte == 0)
}

/// Walks the records of a segment from `offset` on.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    bytes: &'a [u8],
    seed: u32,
    offset: usize,
}

/// What comes next in a segment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Step<'a> {
    /// A valid record, and where it lies.
    Record { offset: usize, record: Record<'a> },
    /// Zeros up to the end of the segment.
    End { offset: usize },
    /// Something else; the walk does not get past it.
    Damaged { offset: usize, damage: Damage },
}

impl<'a> Walk<'a> {
    pub(super) const fn new(bytes: &'a [u8], seed: u32, offset: usize) -> Self {
        Self { bytes, seed, offset }
    }

    /// The next record, or why there is none.
    pub(super) fn step(&mut self) -> Step<'a> {
        let offset = self.offset;
        let rest = self.bytes.get(offset..).unwrap_or_default();
        match parse(rest, self.seed) {
            Ok((record, taken)) => {
                self.offset += taken;
                Step::Record { offset, record }
            }
            // Most segments end in megabytes of zeros; looking at them once is enough.
            Err(_) if is_zero(rest) => Step::End { offset },
            Err(damage) => Step::Damaged { offset, damage },
        }
    }
}

/// What the bytes from a damaged record on say about its cause.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Cause {
    /// A write that never completed, and that no sync ever covered.
    Torn,
    /// Bytes that were on disk have changed.
    Corrupt,
}

/// Judges the damage at `offset` of a segment.
///
/// A record can only be torn if none that was written after a later sync follows, and only if bytes
/// of it are missing. Missing bytes are zero, since segments start as zeros and are written once:
/// whole sectors, or everything from some byte on.
pub(super) fn judge(segment: &[u8], seed: u32, offset: usize) -> Cause {
    let Some(damaged) = segment.get(offset..) else {
        return Cause::Torn;
    };
    if synced_later(segment, seed, offset) > offset || !has_gap(damaged, seed, offset) {
        return Cause::Corrupt;
    }
    Cause::Torn
}

/// The highest `synced` of the valid records after `offset`.
fn synced_later(segment: &[u8], seed: u32, offset: usize) -> usize {
    let mut highest = 0;
    let mut at = offset + 8;
    while at < segment.len() {
        match parse(&segment[at..], seed) {
            Ok((record, taken)) => {
                highest = highest.max(usize::try_from(record.synced).unwrap_or(usize::MAX));
                at += taken;
            }
            Err(_) => at += 8,
        }
    }
    highest
}

/// Whether bytes of the record at the start of `damaged` are missing.
fn has_gap(damaged: &[u8], seed: u32, offset: usize) -> bool {
    let Some(length) = intact_length(damaged, seed) else {
        let header = &damaged[..damaged.len().min(HEADER_BYTES)];
        return misses_sector(header, offset) || is_zero(&damaged[header.len()..]);
    };
    match damaged.get(..length) {
        None => true,
        Some(record) => record.last() == Some(&0) || misses_sector(record, offset),
    }
}

/// Whether `record`, which lies at `offset` of its file, is all zero within some sector.
fn misses_sector(record: &[u8], offset: usize) -> bool {
    let first = (SECTOR - offset % SECTOR).min(record.len());
    let (head, rest) = record.split_at(first);
    is_zero(head) || rest.chunks(SECTOR).any(is_zero)
}

#[cfg(test)]
mod tests;
