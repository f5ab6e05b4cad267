//! Reads a segment from its front to its end with little memory.
//!
//! Pure but for the file, of which it changes nothing.

use super::error::WalError;
use super::record::{self, HEADER_BYTES, Record, is_zero};
use super::segment::Segment;

/// Bytes that are read at once: few enough to stay in a cache of the processor.
const CHUNK_BYTES: usize = 256 * 1024;

/// A part of a segment.
#[derive(Debug)]
pub(super) struct Chunks<'a> {
    segment: &'a Segment,
    /// Bytes of the file from `begin` on; as long as nothing larger was needed, a chunk of them.
    bytes: Vec<u8>,
    begin: usize,
    /// Where in `bytes` the next record lies.
    at: usize,
    /// Bytes of the file.
    end: usize,
}

impl<'a> Chunks<'a> {
    /// Begins at an offset of the file.
    pub(super) fn new(segment: &'a Segment, offset: usize) -> Self {
        let end = usize::try_from(segment.allocated).unwrap_or(usize::MAX);
        Self { segment, bytes: Vec::new(), begin: offset, at: 0, end }
    }

    /// Where the next record lies, or what there is instead.
    pub(super) fn offset(&self) -> usize {
        self.begin + self.at
    }

    /// The next record, and where it lies; none if there is something else.
    pub(super) fn record(&mut self) -> Result<Option<(usize, Record<'_>)>, WalError> {
        let (offset, seed) = (self.offset(), self.segment.seed);
        self.fill(HEADER_BYTES)?;
        let rest = &self.bytes[self.at..];
        // The check of a header costs as much as that of a small record, so it is made once.
        if record::claims(rest) > rest.len()
            && let Some(taken) = record::taken(rest, seed)
        {
            self.fill(taken)?;
        }
        let at = self.at;
        let Ok((record, taken)) = record::parse(&self.bytes[at..], seed) else { return Ok(None) };
        self.at += taken;
        Ok(Some((offset, record)))
    }

    /// Whether everything from here to the end of the file is zero, as in a segment that was never
    /// written so far.
    pub(super) fn ends_in_zeros(mut self) -> Result<bool, WalError> {
        loop {
            if !is_zero(&self.bytes[self.at..]) {
                return Ok(false);
            }
            (self.begin, self.at) = (self.begin + self.bytes.len(), 0);
            self.bytes.clear();
            if self.begin >= self.end {
                return Ok(true);
            }
            self.fill(CHUNK_BYTES)?;
        }
    }

    /// Has so many bytes from here on, if the file has them.
    fn fill(&mut self, wanted: usize) -> Result<(), WalError> {
        let present = self.bytes.len() - self.at;
        let wanted = wanted.min(self.end.saturating_sub(self.offset()));
        if present >= wanted {
            return Ok(());
        }
        self.bytes.copy_within(self.at.., 0);
        (self.begin, self.at) = (self.offset(), 0);
        let bytes = wanted.max(CHUNK_BYTES).min(self.end - self.begin);
        self.bytes.resize(bytes, 0);
        let read =
            self.segment.file.read_at(&mut self.bytes[present..], (self.begin + present) as u64);
        read.map_err(WalError::io("read", &self.segment.path))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::wal::record::{Step, Walk};
    use crate::wal::segment::START;
    use crate::wal::{Disk, Entry, EntryKind, Identity, MemoryDisk, OpenMode, Options, Wal};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Wherever a chunk ends, and whatever became of the bytes, it finds what a look at all of
        /// them finds.
        #[test]
        fn chunks_show_what_the_whole_shows(
            sizes in prop::collection::vec(prop_oneof![0_usize..300, 100_000_usize..400_000], 1..12),
            flipped in prop::option::of((any::<prop::sample::Index>(), 0_u8..8)),
        ) {
            let (disk, dir) = (std::sync::Arc::new(MemoryDisk::new()), Path::new("data"));
            let identity =
                Identity { cluster: uuid::Uuid::nil(), node: "n".parse().unwrap(), raft_id: 1 };
            let options = Options { segment_bytes: 6 << 20, reserve_bytes: 0, ..Options::default() };
            let (mut wal, _) =
                Wal::open(disk.clone(), dir, options, identity.clone()).unwrap();
            for (index, size) in (1..).zip(&sizes) {
                let data = Bytes::from(vec![7; *size]);
                wal.append(&[Entry { term: 1, index, kind: EntryKind::Normal, data }]).unwrap();
            }
            drop(wal);
            let path = crate::wal::recovery::segment_files(&*disk, dir).unwrap().remove(0);
            if let Some((at, bit)) = flipped {
                let file = disk.open(&path, OpenMode::Existing).unwrap();
                let start = usize::try_from(START).unwrap();
                let at = (start + at.index((6 << 20) - start)) as u64;
                let mut byte = [0];
                file.read_at(&mut byte, at).unwrap();
                file.write_at(&[byte[0] ^ (1 << bit)], at).unwrap();
            }
            let segment = Segment::open(&*disk, &path, &identity).unwrap();
            let bytes = segment.read().unwrap();
            let start = usize::try_from(START).unwrap();
            let mut walk = Walk::new(&bytes, segment.seed, start);
            let mut chunks = Chunks::new(&segment, start);
            loop {
                match (walk.step(), chunks.record().unwrap()) {
                    (Step::Record { offset, record }, Some(found)) => {
                        prop_assert_eq!((offset, record), found);
                    }
                    (Step::End { offset }, None) => {
                        prop_assert_eq!(offset, chunks.offset());
                        prop_assert!(chunks.ends_in_zeros().unwrap());
                        break;
                    }
                    (Step::Damaged { offset, .. }, None) => {
                        prop_assert_eq!(offset, chunks.offset());
                        prop_assert!(!chunks.ends_in_zeros().unwrap());
                        break;
                    }
                    (step, found) => prop_assert!(false, "{:?}, {:?}", step, found.is_some()),
                }
            }
        }
    }
}
