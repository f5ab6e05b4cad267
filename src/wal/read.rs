//! Reading entries back: from memory when they are recent, else from disk, verified.
//!
//! Invariant: an entry that is returned has the index and term that the table says, and its
//! checksum was right when it was read.

use std::ops::Range;

use bytes::Bytes;

use super::error::WalError;
use super::record::{self, Content, encoded_bytes};
use super::segment::Segment;
use super::table::Position;
use super::{Entry, Wal};

/// The most bytes read from disk at once, unless a single entry is larger.
const READ_BYTES_MAX: usize = 4 << 20;

impl Wal {
    /// Entries with `low <= index < high`: at least the first, and as many as take no more than
    /// `bytes_max` bytes on disk (32 bytes and padding for each besides its data).
    ///
    /// Recent entries come from memory. Those from disk are verified, and share the allocation of
    /// the block they were read in.
    ///
    /// # Errors
    ///
    /// - [`WalError::Compacted`], [`WalError::OutOfRange`]: there are no such entries.
    /// - [`WalError::Corrupt`], [`WalError::Io`]: the disk does not return what was written.
    pub fn entries(&self, low: u64, high: u64, bytes_max: u64) -> Result<Vec<Entry>, WalError> {
        let range = self.affordable(low, high, bytes_max)?;
        let mut entries = Vec::new();
        let mut index = range.start;
        while index < range.end {
            match self.window.entry(index) {
                Some(entry) => {
                    entries.push(entry.clone());
                    index += 1;
                }
                None => {
                    self.read_block(index..range.end, &mut entries)?;
                    index = entries.last().map_or(range.end, |last| last.index + 1);
                }
            }
        }
        Ok(entries)
    }

    /// The part of `low..high` that fits into `bytes_max`, with at least one entry.
    fn affordable(&self, low: u64, high: u64, bytes_max: u64) -> Result<Range<u64>, WalError> {
        if low < self.first_index() {
            return Err(WalError::Compacted { index: low, first: self.first_index() });
        }
        if high > self.last_index() + 1 {
            return Err(WalError::OutOfRange { high: high - 1, last: self.last_index() });
        }
        let mut bytes = 0;
        let mut end = low;
        while end < high {
            bytes += self.record_bytes(end) as u64;
            if bytes > bytes_max && end > low {
                break;
            }
            end += 1;
        }
        Ok(low..end)
    }

    fn position(&self, index: u64) -> Position {
        self.table.position(index).expect("the caller has checked the range")
    }

    fn record_bytes(&self, index: u64) -> usize {
        payload_bytes_of(self.position(index)).map_or(0, encoded_bytes)
    }

    /// Reads the first entries of `range` that lie side by side, in one go.
    fn read_block(&self, range: Range<u64>, entries: &mut Vec<Entry>) -> Result<(), WalError> {
        let first = self.position(range.start);
        let mut block_bytes = 0;
        let mut end = range.start;
        while end < range.end {
            let position = self.position(end);
            let adjacent = position.sequence == first.sequence
                && u64::from(position.offset) == u64::from(first.offset) + block_bytes as u64;
            let bytes = self.record_bytes(end);
            if !adjacent || (end > range.start && block_bytes + bytes > READ_BYTES_MAX) {
                break;
            }
            block_bytes += bytes;
            end += 1;
        }
        let segment = self.segment(first.sequence);
        let mut block = vec![0; block_bytes];
        segment
            .file
            .read_at(&mut block, u64::from(first.offset))
            .map_err(WalError::io("read", &segment.path))?;
        let block = Bytes::from(block);
        let mut at = 0;
        for index in range.start..end {
            let bytes = self.record_bytes(index);
            entries.push(self.read_entry(index, &block.slice(at..at + bytes), segment)?);
            at += bytes;
        }
        Ok(())
    }

    /// Verifies the record of the entry at `index`.
    fn read_entry(&self, index: u64, bytes: &Bytes, segment: &Segment) -> Result<Entry, WalError> {
        let offset = usize::try_from(self.position(index).offset).unwrap_or(usize::MAX);
        let (record, _) =
            record::parse(bytes, segment.seed).map_err(|damage| segment.corrupt(offset, damage))?;
        match record.content {
            Content::Entry(kind)
                if record.index == index && Some(record.term) == self.term(index) =>
            {
                let data = bytes.slice_ref(record.payload);
                Ok(Entry { term: record.term, index, kind, data })
            }
            Content::Entry(_) | Content::Header => {
                Err(segment.corrupt(offset, "the record is not the one that was written there"))
            }
        }
    }

    fn segment(&self, sequence: u32) -> &Segment {
        let oldest = self.segments.front().expect("there is always an active segment");
        let place = usize::try_from(sequence - oldest.name.sequence).unwrap_or(usize::MAX);
        &self.segments[place]
    }
}

fn payload_bytes_of(position: Position) -> Option<usize> {
    usize::try_from(position.payload_bytes).ok()
}
