//! Reads sealed segments again, a little at a time, while the log is in use.
//!
//! Disks lose bytes that nobody reads for long. Sealed segments are never written again, so they can
//! be read beside the writer, through a handle of one's own.
//!
//! Pure but for the disk, of which it changes nothing.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use super::disk::Disk;
use super::error::WalError;
use super::read_only::ReadOnlyDisk;
use super::record::{self, Content, Damage, HEADER_BYTES, is_zero};
use super::segment::{START, Segment};
use super::{Identity, Wal};

/// A sealed segment that is being read again.
#[derive(Debug)]
pub struct SegmentScrub {
    segment: Segment,
    offset: usize,
    /// Whether everything after `offset` has to be zero.
    has_ended: bool,
}

impl Wal {
    /// The files that are not written any more, oldest first.
    pub fn sealed(&self) -> Vec<std::path::PathBuf> {
        let sealed = self.segments.iter().take(self.segments.len() - 1);
        sealed.map(|segment| segment.path.clone()).collect()
    }
}

impl SegmentScrub {
    /// Begins with the header; none if the segment has been forgotten meanwhile.
    ///
    /// # Errors
    ///
    /// [`WalError`]: the header is damaged, or the file cannot be read.
    pub fn begin(
        disk: &Arc<dyn Disk>,
        path: &Path,
        identity: &Identity,
    ) -> Result<Option<Self>, WalError> {
        match Segment::open(&ReadOnlyDisk(Arc::clone(disk)), path, identity) {
            Ok(segment) => Ok(Some(Self { segment, offset: start(), has_ended: false })),
            Err(WalError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads on for about `bytes_max` bytes, more if a record is larger. Returns how many were read;
    /// 0 at the end.
    ///
    /// # Errors
    ///
    /// [`WalError::Corrupt`]: bytes are not what was written.
    pub fn step(&mut self, bytes_max: usize) -> Result<usize, WalError> {
        let end = usize::try_from(self.segment.allocated).unwrap_or(usize::MAX);
        let left = end.saturating_sub(self.offset);
        let mut wanted = bytes_max.max(HEADER_BYTES).min(left);
        loop {
            let mut bytes = vec![0; wanted];
            let path = &self.segment.path;
            let read = self.segment.file.read_at(&mut bytes, self.offset as u64);
            read.map_err(WalError::io("read", path))?;
            match self.walk(&bytes, wanted == left)? {
                Walked::To(taken) => {
                    self.offset += taken;
                    return Ok(taken);
                }
                Walked::Needs(more) => wanted = more.min(left),
            }
        }
    }

    /// Checks the records in `bytes`, as far as they are all there.
    fn walk(&mut self, bytes: &[u8], is_rest: bool) -> Result<Walked, WalError> {
        let seed = self.segment.seed;
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            if is_zero(rest) {
                self.has_ended = true;
                at = bytes.len();
                continue;
            }
            if self.has_ended {
                return Err(self.corrupt(at, "something follows after the end of the records"));
            }
            let is_cut = !is_rest && (rest.len() < HEADER_BYTES);
            match record::parse(rest, seed) {
                Ok((record, _)) if record.content == Content::Header => {
                    return Err(self.corrupt(at, "a record that no log has here"));
                }
                Ok((_, taken)) => at += taken,
                Err(Damage::Cut) if !is_rest => return Ok(self.cut(at, rest)),
                Err(_) if is_cut => return Ok(self.cut(at, rest)),
                Err(damage) => return Err(self.corrupt(at, damage)),
            }
        }
        Ok(Walked::To(at))
    }

    /// The bytes end within a record: it is for the next step, or needs more of them now.
    fn cut(&self, at: usize, rest: &[u8]) -> Walked {
        match at {
            0 => Walked::Needs(record::taken(rest, self.segment.seed).unwrap_or(usize::MAX)),
            at => Walked::To(at),
        }
    }

    fn corrupt(&self, at: usize, reason: impl ToString) -> WalError {
        self.segment.corrupt(self.offset + at, reason)
    }
}

enum Walked {
    /// Everything before is right.
    To(usize),
    /// So many bytes are needed to judge the first record.
    Needs(usize),
}

fn start() -> usize {
    usize::try_from(START).unwrap_or(usize::MAX)
}
