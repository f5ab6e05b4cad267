//! Snapshot files: the state of a machine at one index, with the membership there.
//!
//! ```text
//! file    header | chunk... | end
//! header  "ZMSN" | version u16 | 0 u16 | cluster [16] | index u64 | term u64
//!         | membership bytes u32 | membership | CRC32C of all that u32
//! chunk   bytes u32, not 0 | CRC32C of its number u32 and its data u32 | data
//! end     0 u32 | chunks u32 | body bytes u64 | CRC32C of the whole file before u32
//! ```
//!
//! A file is written under another name, synced, and renamed when it is whole; the name is synced
//! before anybody may rely on it. Nothing is believed before it was checked: a file when it is
//! loaded or received, a chunk when it is restored from, a part when it is sent.
//!
//! Touches the disk only through [`wal::Disk`](crate::wal::Disk), so a simulation runs this code.
//! Memory: one chunk, and four bytes for each 64 KiB of a file.

mod codec;
mod error;
mod job;

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use uuid::Uuid;

pub use error::SnapshotError;
pub use job::{Job, JobDone};

use self::codec::{BLOCK_BYTES, FileReader, FileWriter, Sums};
use super::machine::Image;
use crate::consensus::Snapshot;
use crate::consensus::membership::Membership;
use crate::wal::{Disk, DiskFile, OpenMode, Point};

/// A file that is being written, and one that is being received.
const DRAFT: &str = "snapshot.new";
const INCOMING: &str = "snapshot.part";

/// The snapshot files in the directory of one replica. Clones mean the same files.
#[derive(Clone, Debug)]
pub struct SnapshotFiles {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    cluster: Uuid,
    cancelled: AtomicBool,
    /// Checksums of the blocks of each checked file.
    sums: Mutex<BTreeMap<u64, (Point, Sums)>>,
    incoming: Mutex<Option<Box<dyn DiskFile>>>,
}

/// A snapshot that is being read again, a little at a time.
#[derive(Debug)]
pub(super) struct SnapshotScrub(FileReader);

impl SnapshotScrub {
    /// Reads on for about `bytes_max` bytes of the body; returns how many, 0 at the end.
    pub(super) fn step(&mut self, bytes_max: usize) -> Result<usize, SnapshotError> {
        let (mut buffer, mut read) = ([0; 4096], 0);
        while read < bytes_max.max(1) {
            match self.0.read_checked(&mut buffer)? {
                0 => break,
                more => read += more,
            }
        }
        Ok(read)
    }
}

/// What [`SnapshotFiles::load`] found.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    /// The newest that is whole.
    pub(super) newest: Option<Snapshot>,
    /// Those before it, in order, as far as their names say.
    pub(super) older: Vec<Point>,
}

impl SnapshotFiles {
    pub(super) fn new(disk: Arc<dyn Disk>, dir: &Path, cluster: Uuid) -> Self {
        let shared = Shared {
            disk,
            dir: dir.to_path_buf(),
            cluster,
            cancelled: AtomicBool::new(false),
            sums: Mutex::default(),
            incoming: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Makes whatever is being written or checked end soon, without a result.
    pub fn cancel(&self) {
        self.shared.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether the disk may have to be waited for.
    pub(super) fn blocks(&self) -> bool {
        self.shared.disk.blocks()
    }

    /// Whether [`Self::cancel`] was called.
    pub(super) fn cancelled(&self) -> &AtomicBool {
        &self.shared.cancelled
    }

    /// Writes a snapshot. It is durable when this returns.
    ///
    /// # Errors
    ///
    /// [`SnapshotError`]: there is no such snapshot, and the others are as they were.
    pub fn write(
        &self,
        point: Point,
        membership: Membership,
        image: Image,
    ) -> Result<Snapshot, SnapshotError> {
        let draft = self.path(DRAFT);
        let result = self.write_draft(&draft, point, membership, image);
        if result.is_err() {
            // What it takes is needed for better things; a start removes it otherwise.
            self.shared.disk.remove(&draft).ok();
        }
        result
    }

    /// Checks a snapshot whose parts have all been received, and makes it durable.
    ///
    /// # Errors
    ///
    /// [`SnapshotError`]: what was received is not what was offered, or the disk failed.
    pub fn finish(&self, offered: &Snapshot) -> Result<(), SnapshotError> {
        let path = self.path(INCOMING);
        drop(self.shared.incoming.lock().take());
        let (found, sums) = self.check(&path)?;
        if found != *offered {
            return Err(SnapshotError::corrupt(&path, 0, "it is not the one that was offered"));
        }
        self.publish(&path, found.point, sums)
    }

    /// Reads the body of a snapshot, checked chunk by chunk.
    ///
    /// # Errors
    ///
    /// [`SnapshotError`]: there is no such file, or its header is damaged.
    pub fn open(&self, point: Point) -> Result<impl Read + use<>, SnapshotError> {
        let path = self.final_path(point);
        let file = self.open_file(&path)?;
        FileReader::new(file, path, self.shared.cluster)
    }

    /// The newest snapshot that is whole and from which the log goes on after `compaction`.
    pub(super) fn load(&self, compaction: u64) -> Result<Loaded, SnapshotError> {
        let mut points = self.points()?;
        let mut damaged = None;
        while let Some(point) = points.pop().filter(|point| point.index >= compaction) {
            match self.inspect(point) {
                Ok(newest) => {
                    points.retain(|older| older.index < point.index);
                    points.dedup_by_key(|older| older.index);
                    return Ok(Loaded { newest: Some(newest), older: points });
                }
                Err(error @ SnapshotError::Corrupt { .. }) => {
                    tracing::warn!(%error, "falling back to an older snapshot");
                    damaged.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        let first = crate::consensus::membership::Bootstrap::INDEX;
        match damaged {
            // The log is whole.
            _ if compaction <= first => Ok(Loaded::default()),
            Some(error) => Err(error),
            None => Err(SnapshotError::Missing { dir: self.shared.dir.clone(), compaction }),
        }
    }

    /// Reads a whole snapshot and says what it is; from then on its parts can be sent.
    ///
    /// # Errors
    ///
    /// [`SnapshotError`]: there is no such file, or it is damaged.
    pub(super) fn inspect(&self, point: Point) -> Result<Snapshot, SnapshotError> {
        let path = self.final_path(point);
        let (found, sums) = self.check(&path)?;
        if found.point != point {
            return Err(SnapshotError::corrupt(&path, 0, "it is not what its name says"));
        }
        self.shared.sums.lock().insert(point.index, (point, sums));
        Ok(found)
    }

    /// Reads a file that claims to be a snapshot from front to back, and says what it is. Its name
    /// has to agree with what is in it.
    pub(super) fn verify(&self, path: &Path) -> Result<Snapshot, SnapshotError> {
        let (snapshot, _) = self.check(path)?;
        match point_of(path) {
            Some(point) if point == snapshot.point => Ok(snapshot),
            Some(_) | None => {
                let Point { index, term } = snapshot.point;
                let reason = format!("it was renamed: it is of entry {index} of term {term}");
                Err(SnapshotError::corrupt(path, 0, reason))
            }
        }
    }

    /// The files of the snapshots that are there, oldest first.
    pub(super) fn finished(&self) -> Result<Vec<PathBuf>, SnapshotError> {
        Ok(self.points()?.into_iter().map(|point| self.final_path(point)).collect())
    }

    /// Begins to read a file again; none if it was deleted meanwhile.
    pub(super) fn scrub(&self, path: &Path) -> Result<Option<SnapshotScrub>, SnapshotError> {
        match self.open_file(path) {
            Ok(file) => {
                let reader = FileReader::new(file, path.to_path_buf(), self.shared.cluster)?;
                Ok(Some(SnapshotScrub(reader)))
            }
            Err(SnapshotError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Makes room for a snapshot that will be received.
    pub(super) fn begin_incoming(&self) -> Result<(), SnapshotError> {
        let path = self.path(INCOMING);
        let file = self.shared.disk.open(&path, OpenMode::CreateEmpty);
        *self.shared.incoming.lock() = Some(file.map_err(SnapshotError::io("create", &path))?);
        Ok(())
    }

    /// Takes a received part.
    pub(super) fn write_part(&self, offset: u64, data: &[u8]) -> Result<(), SnapshotError> {
        let path = self.path(INCOMING);
        match &*self.shared.incoming.lock() {
            Some(file) => file.write_at(data, offset).map_err(SnapshotError::io("write", &path)),
            None => Err(SnapshotError::corrupt(&path, offset, "nothing is being received")),
        }
    }

    /// Forgets what was received so far.
    pub(super) fn discard_incoming(&self) {
        if self.shared.incoming.lock().take().is_some() {
            // What it takes is given back by the next one or the next start at the latest.
            self.shared.disk.remove(&self.path(INCOMING)).ok();
        }
    }

    /// Reads a part of a snapshot, to be sent; it is as it was when the file was checked.
    pub(super) fn read_part(
        &self,
        snapshot: &Snapshot,
        offset: u64,
        bytes: usize,
    ) -> Result<Bytes, SnapshotError> {
        let (point, block) = (snapshot.point, BLOCK_BYTES as u64);
        let path = self.final_path(point);
        let end = offset.saturating_add(bytes as u64);
        if bytes == 0 || end > snapshot.bytes {
            return Err(SnapshotError::corrupt(&path, offset, "there is no such part"));
        }
        // Whole blocks are read, since each has one checksum.
        let start = offset / block * block;
        let stop = (end.div_ceil(block) * block).min(snapshot.bytes);
        let mut data = vec![0; usize::try_from(stop - start).unwrap_or(usize::MAX)];
        let file = self.open_file(&path)?;
        file.read_at(&mut data, start).map_err(SnapshotError::read(&path, start))?;
        let sums = self.shared.sums.lock();
        let sums = sums.get(&point.index).filter(|(of, _)| *of == point).map(|(_, sums)| sums);
        for (number, data) in (start / block..).zip(data.chunks(BLOCK_BYTES)) {
            if sums.and_then(|sums| sums.of_block(number)) != Some(crc32c::crc32c(data)) {
                let reason = "it has changed on disk";
                return Err(SnapshotError::corrupt(&path, number * block, reason));
            }
        }
        let within = usize::try_from(offset - start).unwrap_or(usize::MAX);
        Ok(Bytes::from(data).slice(within..within + bytes))
    }

    /// Deletes every snapshot but these.
    pub(super) fn prune(&self, keep: &[Point]) -> Result<(), SnapshotError> {
        let mut gone = self.points()?;
        gone.retain(|point| !keep.contains(point));
        for point in gone {
            self.shared.sums.lock().remove(&point.index);
            let path = self.final_path(point);
            self.shared.disk.remove(&path).map_err(SnapshotError::io("delete", &path))?;
        }
        Ok(())
    }

    /// Removes what an interrupted write or transfer left.
    pub(super) fn sweep(&self) -> Result<(), SnapshotError> {
        for path in self.list()? {
            if [self.path(DRAFT), self.path(INCOMING)].contains(&path) {
                self.shared.disk.remove(&path).map_err(SnapshotError::io("delete", &path))?;
            }
        }
        Ok(())
    }
}

impl SnapshotFiles {
    fn write_draft(
        &self,
        draft: &Path,
        point: Point,
        membership: Membership,
        image: Image,
    ) -> Result<Snapshot, SnapshotError> {
        let opened = self.shared.disk.open(draft, OpenMode::CreateEmpty);
        let file = opened.map_err(SnapshotError::io("create", draft))?;
        let head = (self.shared.cluster, point, &membership);
        let mut writer = FileWriter::new(file, head, &self.shared.cancelled);
        let written = image(&mut writer).and_then(|()| writer.end());
        let (bytes, checksum, sums) = written.map_err(SnapshotError::io("write", draft))?;
        self.publish(draft, point, sums)?;
        Ok(Snapshot { point, membership, bytes, checksum })
    }

    /// Gives a whole file its name, durably.
    fn publish(&self, from: &Path, point: Point, sums: Sums) -> Result<(), SnapshotError> {
        let disk = &self.shared.disk;
        self.open_file(from)?.sync_data().map_err(SnapshotError::io("sync", from))?;
        let path = self.final_path(point);
        disk.rename(from, &path).map_err(SnapshotError::io("rename", from))?;
        disk.sync_dir(&self.shared.dir).map_err(SnapshotError::io("sync", &self.shared.dir))?;
        self.shared.sums.lock().insert(point.index, (point, sums));
        Ok(())
    }

    /// Reads a whole file and says what it is.
    fn check(&self, path: &Path) -> Result<(Snapshot, Sums), SnapshotError> {
        let file = self.open_file(path)?;
        let mut reader = FileReader::new(file, path.to_path_buf(), self.shared.cluster)?;
        reader.sum_blocks()?;
        let mut chunk = [0; 4096];
        loop {
            if self.shared.cancelled.load(Ordering::Relaxed) {
                return Err(SnapshotError::io("check", path)(io::ErrorKind::Interrupted.into()));
            }
            match reader.read_checked(&mut chunk)? {
                0 => return reader.into_snapshot(),
                _ => continue,
            }
        }
    }

    fn open_file(&self, path: &Path) -> Result<Box<dyn DiskFile>, SnapshotError> {
        let file = self.shared.disk.open(path, OpenMode::Existing);
        file.map_err(SnapshotError::io("open", path))
    }

    fn list(&self) -> Result<Vec<PathBuf>, SnapshotError> {
        let dir = &self.shared.dir;
        self.shared.disk.list(dir).map_err(SnapshotError::io("list", dir))
    }

    /// Points of the files that are there, by their names, in order.
    fn points(&self) -> Result<Vec<Point>, SnapshotError> {
        let files = self.list()?;
        // Somebody may have put others beside them, such as copies with a similar name.
        let ours = |path: &&PathBuf| point_of(path).is_some_and(|it| self.final_path(it) == **path);
        let mut points: Vec<_> =
            files.iter().filter(ours).filter_map(|path| point_of(path)).collect();
        points.sort_by_key(|point| (point.index, point.term));
        Ok(points)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.shared.dir.join(name)
    }

    fn final_path(&self, point: Point) -> PathBuf {
        self.path(&format!("{:020}-{:020}.snapshot", point.index, point.term))
    }
}

fn point_of(path: &Path) -> Option<Point> {
    let name = path.file_name()?.to_str()?.strip_suffix(".snapshot")?;
    let (index, term) = name.split_once('-')?;
    Some(Point { index: index.parse().ok()?, term: term.parse().ok()? })
}

#[cfg(test)]
mod tests;
