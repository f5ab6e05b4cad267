//! Bytes of a snapshot file: the only place that knows the format.
//!
//! Pure but for the file it is given.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{BufMut, Bytes, BytesMut};
use uuid::Uuid;

use super::SnapshotError;
use crate::consensus::Snapshot;
use crate::consensus::membership::Membership;
use crate::wal::{DiskFile, Point};

const MAGIC: &[u8; 4] = b"ZMSN";
const VERSION: u16 = 1;
/// Bytes of a header before the membership.
const HEAD_BYTES: usize = 4 + 2 + 2 + 16 + 8 + 8 + 4;
/// More than any membership takes.
const MEMBERSHIP_BYTES_MAX: usize = 64 * 1024;
/// Bytes of data in one chunk.
const CHUNK_BYTES: usize = 64 * 1024;
/// Chunks after which a file that is being written is synced, so that a sync of the log never waits
/// for all of it.
const CHUNKS_UNSYNCED_MAX: u32 = 64;
/// Bytes of the file that have one checksum while it is sent.
pub(super) const BLOCK_BYTES: usize = 64 * 1024;
/// Bytes of the end after its first four.
const END_BYTES: usize = 4 + 8 + 4;

/// Checksums of a file's blocks, as it goes by.
#[derive(Clone, Debug, Default)]
pub(super) struct Sums {
    filled: usize,
    current: u32,
    done: Vec<u32>,
}

impl Sums {
    fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK_BYTES - self.filled));
            self.current = crc32c::crc32c_append(self.current, now);
            self.filled += now.len();
            bytes = later;
            if self.filled == BLOCK_BYTES {
                self.done.push(std::mem::take(&mut self.current));
                self.filled = 0;
            }
        }
    }

    fn end(&mut self) {
        if self.filled > 0 {
            self.done.push(self.current);
        }
    }

    /// The checksum of a block, counted from zero.
    pub(super) fn of_block(&self, number: u64) -> Option<u32> {
        self.done.get(usize::try_from(number).ok()?).copied()
    }
}

/// Writes a file from front to back.
pub(super) struct FileWriter<'a> {
    file: Box<dyn DiskFile>,
    offset: u64,
    checksum: u32,
    sums: Sums,
    chunk: Vec<u8>,
    chunks: u32,
    body_bytes: u64,
    head: Option<Bytes>,
    cancelled: &'a AtomicBool,
}

impl<'a> FileWriter<'a> {
    pub(super) fn new(
        file: Box<dyn DiskFile>,
        (cluster, point, membership): (Uuid, Point, &Membership),
        cancelled: &'a AtomicBool,
    ) -> Self {
        let membership = membership.encode();
        let mut head = BytesMut::with_capacity(HEAD_BYTES + membership.len() + 4);
        head.put_slice(MAGIC);
        head.put_u16_le(VERSION);
        head.put_u16_le(0);
        head.put_slice(cluster.as_bytes());
        head.put_u64_le(point.index);
        head.put_u64_le(point.term);
        head.put_u32_le(u32::try_from(membership.len()).expect("a membership is a few KiB"));
        head.put_slice(&membership);
        head.put_u32_le(crc32c::crc32c(&head));
        Self {
            file,
            offset: 0,
            checksum: 0,
            sums: Sums::default(),
            chunk: Vec::with_capacity(CHUNK_BYTES),
            chunks: 0,
            body_bytes: 0,
            head: Some(head.freeze()),
            cancelled,
        }
    }

    /// Writes the rest; returns the bytes of the file, its checksum and those of its blocks.
    pub(super) fn end(mut self) -> io::Result<(u64, u32, Sums)> {
        self.put_chunk()?;
        let mut end = BytesMut::with_capacity(4 + END_BYTES);
        end.put_u32_le(0);
        end.put_u32_le(self.chunks);
        end.put_u64_le(self.body_bytes);
        self.put(&end)?;
        let checksum = self.checksum;
        self.put(&checksum.to_le_bytes())?;
        self.sums.end();
        Ok((self.offset, checksum, self.sums))
    }

    fn put_chunk(&mut self) -> io::Result<()> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(io::Error::other("the replica is stopping"));
        }
        if let Some(head) = self.head.take() {
            self.put(&head)?;
        }
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::take(&mut self.chunk);
        let mut head = BytesMut::with_capacity(8);
        head.put_u32_le(u32::try_from(chunk.len()).expect("a chunk is 64 KiB at most"));
        head.put_u32_le(chunk_sum(self.chunks, &chunk));
        self.put(&head)?;
        self.put(&chunk)?;
        self.chunks += 1;
        self.body_bytes += chunk.len() as u64;
        if self.chunks.is_multiple_of(CHUNKS_UNSYNCED_MAX) {
            self.file.sync_data()?;
        }
        self.chunk = chunk;
        self.chunk.clear();
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(bytes, self.offset)?;
        self.offset += bytes.len() as u64;
        self.checksum = crc32c::crc32c_append(self.checksum, bytes);
        self.sums.take(bytes);
        Ok(())
    }
}

impl Write for FileWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(CHUNK_BYTES - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..taken]);
        if self.chunk.len() == CHUNK_BYTES {
            self.put_chunk()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The number is part of it, so that a chunk in the wrong place is noticed.
fn chunk_sum(number: u32, data: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), data)
}

/// Reads a file from front to back, and gives out no byte of a chunk that is damaged.
#[derive(Debug)]
pub(super) struct FileReader {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    offset: u64,
    checksum: u32,
    sums: Option<Sums>,
    point: Point,
    membership: Membership,
    chunk: Vec<u8>,
    /// Up to where the chunk has been given out.
    given: usize,
    chunks: u32,
    body_bytes: u64,
    /// The checksum at the end, once that was reached and was right.
    ended: Option<u32>,
}

impl FileReader {
    pub(super) fn new(
        file: Box<dyn DiskFile>,
        path: PathBuf,
        cluster: Uuid,
    ) -> Result<Self, SnapshotError> {
        let mut reader = Self {
            file,
            path,
            offset: 0,
            checksum: 0,
            sums: None,
            point: Point::default(),
            membership: Membership::none(),
            chunk: Vec::new(),
            given: 0,
            chunks: 0,
            body_bytes: 0,
            ended: None,
        };
        reader.header(cluster)?;
        Ok(reader)
    }

    fn header(&mut self, cluster: Uuid) -> Result<(), SnapshotError> {
        let head = self.take(HEAD_BYTES)?;
        let word = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("8 bytes"));
        let version = u16::from_le_bytes([head[4], head[5]]);
        if head[..4] != *MAGIC {
            return Err(self.corrupt(0, "it does not begin as a snapshot does"));
        }
        if version != VERSION {
            return Err(SnapshotError::NewerFormat { file: self.path.clone(), found: version });
        }
        let bytes = u32::from_le_bytes(head[HEAD_BYTES - 4..].try_into().expect("4 bytes"));
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        if bytes > MEMBERSHIP_BYTES_MAX {
            return Err(self.corrupt(0, "the header is damaged"));
        }
        let membership = Bytes::from(self.take(bytes)?);
        let expected = self.checksum;
        let found = self.take(4)?;
        let membership = Membership::decode(&membership);
        let (true, Some(membership)) = (found == expected.to_le_bytes(), membership) else {
            return Err(self.corrupt(0, "the header is damaged"));
        };
        if head[8..24] != *cluster.as_bytes() {
            return Err(SnapshotError::Foreign { file: self.path.clone() });
        }
        self.point = Point { index: word(24), term: word(32) };
        self.membership = membership;
        Ok(())
    }

    /// Notes the checksums of the blocks, from the beginning of the file on.
    pub(super) fn sum_blocks(&mut self) -> Result<(), SnapshotError> {
        let mut sums = Sums::default();
        let mut header = vec![0; usize::try_from(self.offset).expect("a header is a few KiB")];
        self.file.read_at(&mut header, 0).map_err(SnapshotError::read(&self.path, 0))?;
        sums.take(&header);
        self.sums = Some(sums);
        Ok(())
    }

    /// Gives out some of the body; nothing at its end, when the whole file was found to be right.
    pub(super) fn read_checked(&mut self, buffer: &mut [u8]) -> Result<usize, SnapshotError> {
        while self.given == self.chunk.len() && self.ended.is_none() {
            self.next_chunk()?;
        }
        let rest = &self.chunk[self.given..];
        let taken = rest.len().min(buffer.len());
        buffer[..taken].copy_from_slice(&rest[..taken]);
        self.given += taken;
        Ok(taken)
    }

    /// What the file is; to be called at its end.
    pub(super) fn into_snapshot(mut self) -> Result<(Snapshot, Sums), SnapshotError> {
        let (Some(checksum), Some(mut sums)) = (self.ended, self.sums.take()) else {
            return Err(self.corrupt(self.offset, "it was not read to its end"));
        };
        sums.end();
        let (point, membership, bytes) = (self.point, self.membership, self.offset);
        Ok((Snapshot { point, membership, bytes, checksum }, sums))
    }

    fn next_chunk(&mut self) -> Result<(), SnapshotError> {
        let start = self.offset;
        let bytes = self.number()?;
        if bytes == 0 {
            return self.end(start);
        }
        if bytes > CHUNK_BYTES {
            return Err(self.corrupt(start, "a chunk is too long"));
        }
        let sum = self.take(4)?;
        let data = self.take(bytes)?;
        if sum != chunk_sum(self.chunks, &data).to_le_bytes() {
            return Err(self.corrupt(start, format!("chunk {} is damaged", self.chunks)));
        }
        self.chunks += 1;
        self.body_bytes += data.len() as u64;
        (self.chunk, self.given) = (data, 0);
        Ok(())
    }

    fn end(&mut self, start: u64) -> Result<(), SnapshotError> {
        let counts = self.take(4 + 8)?;
        let checksum = self.checksum;
        let found = self.take(4)?;
        let mut expected = self.chunks.to_le_bytes().to_vec();
        expected.extend(self.body_bytes.to_le_bytes());
        if counts != expected || found != checksum.to_le_bytes() {
            return Err(self.corrupt(start, "its end does not fit the rest"));
        }
        if self.file.len().map_err(SnapshotError::io("read", &self.path))? != self.offset {
            return Err(self.corrupt(self.offset, "something follows after its end"));
        }
        (self.chunk, self.given, self.ended) = (Vec::new(), 0, Some(checksum));
        Ok(())
    }

    fn number(&mut self) -> Result<usize, SnapshotError> {
        let bytes = self.take(4)?;
        let number = u32::from_le_bytes(bytes.try_into().expect("4 bytes"));
        Ok(usize::try_from(number).unwrap_or(usize::MAX))
    }

    fn take(&mut self, bytes: usize) -> Result<Vec<u8>, SnapshotError> {
        let mut taken = vec![0; bytes];
        let read = self.file.read_at(&mut taken, self.offset);
        read.map_err(SnapshotError::read(&self.path, self.offset))?;
        self.offset += bytes as u64;
        self.checksum = crc32c::crc32c_append(self.checksum, &taken);
        if let Some(sums) = &mut self.sums {
            sums.take(&taken);
        }
        Ok(taken)
    }

    fn corrupt(&self, offset: u64, reason: impl Into<String>) -> SnapshotError {
        SnapshotError::corrupt(&self.path, offset, reason)
    }
}

impl Read for FileReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_checked(buffer).map_err(io::Error::other)
    }
}
