//! One file of the log: a header record, entry records, zeros.
//!
//! Files are named `<sequence>-<first index>.wal`. The sequence counts segments and gives their
//! order; the index alone could not, because entries are replaced by writing after them, so that
//! a later segment may begin at an index that an earlier one reached. A gap in the sequence is a
//! lost file.
//!
//! The header says which segment of which directory this is, and how the log ended before it, so a
//! sealed segment that lost its end is noticed. Its place and layout are the same in every format
//! version. A file is created at its full size and synced, with its directory, before it is used;
//! one that is shorter was cut by somebody.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::disk::{Disk, DiskFile, OpenMode};
use super::error::{WalError, is_full};
use super::metadata::FORMAT_VERSION;
use super::record::{self, Content, HEADER_BYTES, Record};
use super::{Identity, Point};

const MAGIC: [u8; 8] = *b"zmeshwal";
const PAYLOAD_BYTES: usize = 48;
/// Memory in pieces of at least this size is mapped for itself by glibc, and always given back; from
/// the smaller of the two sizes on it may be.
const GIVEN_BACK_BYTES: usize = 33 << 20;
const KEPT_BYTES_MIN: usize = 128 << 10;

/// Where the first entry of a segment lies.
pub(super) const START: u32 = 80;
const _: () = assert!(record::encoded_bytes(PAYLOAD_BYTES) == START as usize);

/// What a file name says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Name {
    pub(super) sequence: u32,
    pub(super) first_index: u64,
}

impl Name {
    /// Whether the file claims to be a segment at all.
    pub(super) fn is_segment(path: &Path) -> bool {
        path.extension() == Some(OsStr::new("wal"))
    }

    /// Whether the file is named as the one after segment `sequence`.
    pub(super) fn is_next(path: &Path, sequence: u32) -> bool {
        Self::of(path).is_some_and(|name| name.sequence.checked_sub(1) == Some(sequence))
    }

    /// Whether both files are named as the same segment of a log.
    pub(super) fn is_same_place(a: &Path, b: &Path) -> bool {
        matches!((Self::of(a), Self::of(b)), (Some(a), Some(b)) if a.sequence == b.sequence)
    }

    fn of(path: &Path) -> Option<Self> {
        let (sequence, first) = path.file_stem()?.to_str()?.split_once('-')?;
        let name = Self { sequence: sequence.parse().ok()?, first_index: first.parse().ok()? };
        // Only the one spelling: `+1-2.wal` parses too.
        (path.file_name()? == OsStr::new(&name.file())).then_some(name)
    }

    fn file(self) -> String {
        format!("{:010}-{:020}.wal", self.sequence, self.first_index)
    }
}

/// The name of a segment whose first index is not known.
pub(super) fn pattern(dir: &Path, sequence: u32) -> PathBuf {
    dir.join(format!("{sequence:010}-*.wal"))
}

/// An open segment.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) file: Box<dyn DiskFile>,
    pub(super) path: PathBuf,
    pub(super) name: Name,
    /// The last entry before the segment, when it was created.
    pub(super) before: Point,
    /// What the checksums of its records begin with.
    pub(super) seed: u32,
    /// Bytes that may be written without asking for space.
    pub(super) allocated: u32,
}

impl Segment {
    /// Creates a segment of `bytes` bytes that continues the log after `before`, durably.
    ///
    /// # Errors
    ///
    /// [`WalError::NoSpace`]: nothing is left behind. Other errors: the file may exist, and is
    /// ignored since no metadata knows it.
    pub(super) fn create(
        disk: &dyn Disk,
        dir: &Path,
        identity: &Identity,
        sequence: u32,
        before: Point,
        bytes: u32,
    ) -> Result<Self, WalError> {
        let name = Name { sequence, first_index: before.index + 1 };
        let path = dir.join(name.file());
        let create = || {
            let file = disk.open(&path, OpenMode::CreateEmpty)?;
            file.allocate(u64::from(bytes))?;
            file.write_at(&encode_header(identity, name, before, bytes), 0)?;
            file.sync_data()?;
            disk.sync_dir(dir)?;
            Ok(file)
        };
        let file = create().map_err(|error| {
            if is_full(&error) {
                // The next attempt may choose another first index, and thus another name.
                let no_space = WalError::NoSpace { bytes: u64::from(bytes) };
                return match disk.remove(&path) {
                    Err(error) if error.kind() != ErrorKind::NotFound => {
                        WalError::io("delete", &path)(error)
                    }
                    _ => no_space,
                };
            }
            WalError::io("create", &path)(error)
        })?;
        let seed = seed(identity, name);
        Ok(Self { file, path, name, before, seed, allocated: bytes })
    }

    /// Opens a segment and checks that its header is whole and is what we expect.
    pub(super) fn open(
        disk: &dyn Disk,
        path: &Path,
        identity: &Identity,
    ) -> Result<Self, WalError> {
        let io = |operation| WalError::io(operation, path);
        let file = disk.open(path, OpenMode::Existing).map_err(io("open"))?;
        let length = file.len().map_err(io("read"))?;
        let mut bytes = [0; START as usize];
        let present = usize::try_from(length).unwrap_or(usize::MAX).min(bytes.len());
        file.read_at(&mut bytes[..present], 0).map_err(io("read"))?;
        let header = Header::parse(&bytes, path)?;
        header.check(path, identity)?;
        if length < u64::from(header.allocated) || length > u64::from(u32::MAX) {
            let reason = format!("the file has {length} of {} bytes", header.allocated);
            return Err(WalError::Corrupt { file: path.to_path_buf(), offset: length, reason });
        }
        let allocated = header.allocated;
        let (name, before) = (header.name, header.before);
        let seed = seed(identity, name);
        Ok(Self { file, path: path.to_path_buf(), name, before, seed, allocated })
    }

    /// All bytes of the segment.
    pub(super) fn read(&self) -> Result<Vec<u8>, WalError> {
        let length = usize::try_from(self.allocated).unwrap_or(usize::MAX);
        // The system's allocator keeps what it gets back in smaller pieces, and every group of the
        // log would leave a segment's worth of memory behind.
        let capacity = if length < KEPT_BYTES_MIN { length } else { length.max(GIVEN_BACK_BYTES) };
        let mut bytes = Vec::with_capacity(capacity);
        bytes.resize(length, 0);
        self.file.read_at(&mut bytes, 0).map_err(WalError::io("read", &self.path))?;
        Ok(bytes)
    }

    /// The damage at `offset` as an error.
    pub(super) fn corrupt(&self, offset: usize, reason: impl ToString) -> WalError {
        let (file, offset) = (self.path.clone(), offset as u64);
        WalError::Corrupt { file, offset, reason: reason.to_string() }
    }
}

/// The header record of a segment, as found.
#[derive(Debug)]
struct Header {
    cluster: [u8; 16],
    raft_id: u64,
    name: Name,
    before: Point,
    allocated: u32,
}

impl Header {
    fn parse(bytes: &[u8], path: &Path) -> Result<Self, WalError> {
        let corrupt = |reason: &str| WalError::Corrupt {
            file: path.to_path_buf(),
            offset: 0,
            reason: reason.to_owned(),
        };
        let (found, _) =
            record::parse(bytes, 0).map_err(|_| corrupt("the segment header is damaged"))?;
        let payload = match <&[u8; PAYLOAD_BYTES]>::try_from(found.payload) {
            Ok(payload) if found.content == Content::Header && payload[..8] == MAGIC => payload,
            _ => return Err(corrupt("the file does not begin with a segment header")),
        };
        let [version, sequence, allocated] = [8, 12, 40].map(|at| {
            u32::from_le_bytes(payload[at..at + 4].try_into().expect("a slice of four bytes"))
        });
        if version > FORMAT_VERSION {
            let (found, supported) = (version, FORMAT_VERSION);
            return Err(WalError::NewerFormat { file: path.to_path_buf(), found, supported });
        }
        let before = found.index.checked_sub(1).map(|index| Point { index, term: found.term });
        Ok(Self {
            cluster: payload[16..32].try_into().expect("a slice of sixteen bytes"),
            raft_id: u64::from_le_bytes(
                payload[32..40].try_into().expect("a slice of eight bytes"),
            ),
            name: Name { sequence, first_index: found.index },
            before: before.ok_or_else(|| corrupt("the segment begins at index 0"))?,
            allocated: (allocated >= START)
                .then_some(allocated)
                .ok_or_else(|| corrupt("the segment has no room for its own header"))?,
        })
    }

    /// Whether it belongs here, under this name.
    fn check(&self, path: &Path, identity: &Identity) -> Result<(), WalError> {
        if self.cluster != *identity.cluster.as_bytes() || self.raft_id != identity.raft_id {
            let cluster = uuid::Uuid::from_bytes(self.cluster);
            return Err(WalError::Foreign {
                file: path.to_path_buf(),
                found: format!("replica {:x} of cluster {cluster}", self.raft_id),
                expected: identity.to_string(),
            });
        }
        if Name::of(path) != Some(self.name) {
            let found = self.name.file();
            return Err(WalError::MisnamedSegment { file: path.to_path_buf(), found });
        }
        Ok(())
    }
}

fn encode_header(identity: &Identity, name: Name, before: Point, allocated: u32) -> Vec<u8> {
    let mut payload = Vec::with_capacity(PAYLOAD_BYTES);
    payload.extend_from_slice(&MAGIC);
    payload.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    payload.extend_from_slice(&name.sequence.to_le_bytes());
    payload.extend_from_slice(identity.cluster.as_bytes());
    payload.extend_from_slice(&identity.raft_id.to_le_bytes());
    payload.extend_from_slice(&allocated.to_le_bytes());
    payload.resize(PAYLOAD_BYTES, 0);
    let (term, index) = (before.term, name.first_index);
    let record = Record { content: Content::Header, synced: 0, term, index, payload: &payload };
    let mut bytes = Vec::with_capacity(HEADER_BYTES + PAYLOAD_BYTES);
    record.encode(0, &mut bytes);
    bytes
}

/// Differs between any two segments of any two directories, as far as 32 bits can.
fn seed(identity: &Identity, name: Name) -> u32 {
    let crc = crc32c::crc32c(identity.cluster.as_bytes());
    let crc = crc32c::crc32c_append(crc, &identity.raft_id.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &name.sequence.to_le_bytes());
    crc32c::crc32c_append(crc, &name.first_index.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only the exact spelling is a name: two spellings would be two names for one segment.
    #[test]
    fn name_has_one_spelling() {
        let name = Name { sequence: 3, first_index: 41 };
        assert_eq!(name.file(), "0000000003-00000000000000000041.wal");
        assert_eq!(Name::of(Path::new(&name.file())), Some(name));
        for other in ["3-41.wal", "0000000003-00000000000000000041.wal.wal", "x.wal", "1.wal"] {
            assert_eq!(Name::of(Path::new(other)), None, "{other}");
        }
        let plus = "+000000003-00000000000000000041.wal";
        assert_eq!(Name::of(Path::new(plus)), None);
    }
}
