//! Opening a log: what is there, is it whole, and where does it end.
//!
//! Nothing is written before everything was read and found whole, except for the files of a log
//! that has none. Then, and only then, a torn tail is overwritten with zeros, leftovers of an
//! interrupted rotation or compaction are deleted, and what is left is synced.
//!
//! A killed process, or one whose sync failed, may have left bytes that only the system's memory
//! has. They count as written by us: they are written again and synced before anybody hears of
//! them.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::chunks::Chunks;
use super::disk::{Disk, OpenMode};
use super::error::{WalError, is_full};
use super::lock::DirectoryLock;
use super::metadata::{Facts, Metadata, Tail};
use super::record::{Cause, Content, HEADER_BYTES, Record, Step, Walk, is_zero, judge};
use super::segment::{self, Name, START, Segment};
use super::table::{Position, Table};
use super::window::Window;
use super::{Identity, Options, Point, Recovered, Wal};
use crate::mutant::{self, Mutant};

/// Bytes that are written again at once.
const REWRITE_BYTES: usize = 1 << 20;

/// Bytes of a segment, if the format can express them.
pub(super) fn segment_bytes(bytes: u64) -> Result<u32, WalError> {
    let bytes_max = u64::from(u32::MAX);
    u32::try_from(bytes).map_err(|_| WalError::TooLarge { bytes, bytes_max })
}

/// See [`Wal::open`].
pub(super) fn open(
    disk: Arc<dyn Disk>,
    dir: &Path,
    options: Options,
    identity: Identity,
) -> Result<(Wal, Recovered), WalError> {
    disk.create_dir(dir).map_err(WalError::io("create", dir))?;
    let lock = DirectoryLock::take(&*disk, dir)?;
    let files = segment_files(&*disk, dir)?;
    let (mut metadata, created) = load_or_create(&*disk, dir, identity, &files)?;
    let Survey { mut segments, leftovers } = match created {
        true => Survey::default(),
        false => survey(&*disk, dir, &files, metadata.facts())?,
    };
    if created {
        segments.push_back(first_segment(&*disk, dir, &options, &mut metadata)?);
    }
    let replay = replay(&segments, &metadata)?;
    let active = segments.back().expect("a segment was found or created");
    metadata.settle()?;
    rewrite(active, metadata.facts().tail.offset, replay.offset)?;
    let torn_bytes = cut(active, &replay)?;
    active.file.sync_data().map_err(WalError::io("sync", &active.path))?;
    delete(&*disk, dir, &leftovers)?;
    // Also writes the slot that a torn store has left bad.
    let tail = Tail { sequence: active.name.sequence, offset: replay.offset };
    metadata.store(Facts { tail, ..metadata.facts().clone() })?;
    reserve(&*disk, dir, options.reserve_bytes)?;
    let last = replay.table.last();
    let recovered = Recovered {
        first_index: replay.table.base().index + 1,
        last_index: last.index,
        last_term: last.term,
        hard_state: metadata.facts().hard_state,
        created,
        torn_bytes,
    };
    let wal = Wal {
        disk,
        dir: dir.to_path_buf(),
        options,
        metadata,
        segments,
        table: replay.table,
        window: Window::new(options.window_bytes_max),
        offset: replay.offset,
        synced_offset: replay.offset,
        synced_index: last.index,
        buffer: Vec::new(),
        room: true,
        poison: None,
        _lock: lock,
    };
    Ok((wal, recovered))
}

/// Files that claim to be segments.
pub(super) fn segment_files(disk: &dyn Disk, dir: &Path) -> Result<Vec<PathBuf>, WalError> {
    let mut files = disk.list(dir).map_err(WalError::io("list", dir))?;
    files.retain(|path| Name::is_segment(path));
    Ok(files)
}

/// The metadata, and whether the log is new.
fn load_or_create(
    disk: &dyn Disk,
    dir: &Path,
    identity: Identity,
    files: &[PathBuf],
) -> Result<(Metadata, bool), WalError> {
    match Metadata::load(disk, dir)? {
        // Nobody was ever told of this log. Its names are made anew, since after a failed sync of
        // the directory the system may take them for durable although they are not.
        Some(unfinished) if !unfinished.facts().is_finished() => {
            let leftovers = survey(disk, dir, files, unfinished.facts())?.leftovers;
            delete(disk, dir, &leftovers)?;
            Ok((Metadata::create(disk, dir, identity)?, true))
        }
        Some(metadata) if metadata.facts().identity == identity => Ok((metadata, false)),
        Some(metadata) => Err(WalError::Foreign {
            file: metadata.path().to_path_buf(),
            found: metadata.facts().identity.to_string(),
            expected: identity.to_string(),
        }),
        None if files.is_empty() => Ok((Metadata::create(disk, dir, identity)?, true)),
        None => Err(WalError::Corrupt {
            file: dir.join("meta"),
            offset: 0,
            reason: "the metadata is missing or empty beside a log".to_owned(),
        }),
    }
}

/// What the files of a directory are.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// The log, in order and without gaps.
    pub(super) segments: VecDeque<Segment>,
    /// Forgotten before, or created and never used.
    pub(super) leftovers: Vec<PathBuf>,
}

pub(super) fn survey(
    disk: &dyn Disk,
    dir: &Path,
    files: &[PathBuf],
    facts: &Facts,
) -> Result<Survey, WalError> {
    let mut survey = Survey::default();
    for path in files {
        let segment = match Segment::open(disk, path, &facts.identity) {
            Ok(segment) => segment,
            Err(WalError::MisnamedSegment { found, .. }) if files.contains(&dir.join(&found)) => {
                let (file, other) = (path.clone(), dir.join(found));
                return Err(WalError::DuplicateSegment { file, other });
            }
            Err(WalError::Corrupt { .. })
                if (Name::is_next(path, facts.tail.sequence) || has_namesake(files, path))
                    && is_unfinished(disk, path)? =>
            {
                survey.leftovers.push(path.clone());
                continue;
            }
            Err(error) => return Err(error),
        };
        let sequence = segment.name.sequence;
        if sequence < facts.first_sequence {
            survey.leftovers.push(path.clone());
        } else if sequence > facts.tail.sequence {
            check_unused(&segment)?;
            survey.leftovers.push(path.clone());
        } else {
            survey.segments.push_back(segment);
        }
    }
    set_ghosts_aside(&mut survey)?;
    check_sequence(dir, &survey.segments, facts)?;
    Ok(survey)
}

/// Whether another file has the place of this one in the log.
fn has_namesake(files: &[PathBuf], path: &Path) -> bool {
    let mut others = files.iter().filter(|other| *other != path);
    others.any(|other| Name::is_same_place(other, path))
}

/// A leftover that was deleted comes back when the machine dies, if the sync of the directory had
/// failed. By then another segment may have its place. It was never used, which tells it apart.
fn set_ghosts_aside(survey: &mut Survey) -> Result<(), WalError> {
    let mut place: Vec<Segment> = Vec::new();
    for segment in std::mem::take(&mut survey.segments) {
        if place.last().is_some_and(|last| last.name.sequence != segment.name.sequence) {
            survey.settle_place(std::mem::take(&mut place))?;
        }
        place.push(segment);
    }
    survey.settle_place(place)
}

impl Survey {
    /// Takes the segments of one place over: all, or only the used ones if there are some.
    fn settle_place(&mut self, place: Vec<Segment>) -> Result<(), WalError> {
        let mut used = Vec::with_capacity(place.len());
        for segment in &place {
            used.push(place.len() == 1 || check_unused(segment).is_err());
        }
        let any = used.contains(&true);
        for (segment, used) in place.into_iter().zip(used) {
            match used || !any {
                true => self.segments.push_back(segment),
                false => self.leftovers.push(segment.path),
            }
        }
        Ok(())
    }
}

/// Whether the segment has nothing but part of a header, since its creation was interrupted.
fn is_unfinished(disk: &dyn Disk, path: &Path) -> Result<bool, WalError> {
    let io = |error| WalError::io("read", path)(error);
    let file = disk.open(path, OpenMode::Existing).map_err(io)?;
    let start = u64::from(START);
    let rest = file.len().map_err(io)?.saturating_sub(start).min(u64::from(u32::MAX));
    let mut bytes = vec![0; usize::try_from(rest).unwrap_or(usize::MAX)];
    file.read_at(&mut bytes, start).map_err(io)?;
    Ok(is_zero(&bytes))
}

/// A segment that the metadata does not know must be one that was never used.
fn check_unused(segment: &Segment) -> Result<(), WalError> {
    let bytes = segment.read()?;
    let start = usize::try_from(START).unwrap_or(usize::MAX);
    match Walk::new(&bytes, segment.seed, start).step() {
        Step::End { .. } => Ok(()),
        Step::Record { offset, .. } | Step::Damaged { offset, .. } => {
            Err(segment.corrupt(offset, "the segment is in use but the metadata is older than it"))
        }
    }
}

/// Segments are sorted by name and thus by sequence.
fn check_sequence(dir: &Path, segments: &VecDeque<Segment>, facts: &Facts) -> Result<(), WalError> {
    let mut found = segments.iter().map(|segment| (segment.name.sequence, &segment.path));
    let mut previous: Option<&PathBuf> = None;
    for expected in facts.first_sequence..=facts.tail.sequence {
        match (found.next(), previous) {
            (Some((sequence, path)), _) if sequence == expected => previous = Some(path),
            (Some((sequence, path)), Some(other)) if sequence < expected => {
                let (file, other) = (path.clone(), other.clone());
                return Err(WalError::DuplicateSegment { file, other });
            }
            _ => {
                return Err(WalError::MissingSegment { file: segment::pattern(dir, expected) });
            }
        }
    }
    match (found.next(), previous) {
        (Some((_, path)), Some(other)) => {
            Err(WalError::DuplicateSegment { file: path.clone(), other: other.clone() })
        }
        _ => Ok(()),
    }
}

/// Creates the first segment of a log whose metadata knows none.
fn first_segment(
    disk: &dyn Disk,
    dir: &Path,
    options: &Options,
    metadata: &mut Metadata,
) -> Result<Segment, WalError> {
    let facts = metadata.facts().clone();
    let sequence = facts.first_sequence;
    let bytes = segment_bytes(options.segment_bytes.max(u64::from(START)))?;
    let identity = &facts.identity;
    let segment = Segment::create(disk, dir, identity, sequence, facts.compaction, bytes)?;
    metadata.store(Facts { tail: Tail { sequence, offset: START }, ..facts })?;
    Ok(segment)
}

/// What the records of a log amount to.
#[derive(Debug)]
pub(super) struct Replay {
    pub(super) table: Table,
    /// Where the last segment ends.
    pub(super) offset: u32,
    /// Bytes after that which are not zero.
    pub(super) torn: u32,
}

/// Reads all segments. Changes nothing.
fn replay(segments: &VecDeque<Segment>, metadata: &Metadata) -> Result<Replay, WalError> {
    let facts = metadata.facts();
    let oldest = segments.front().expect("a segment was found or created");
    let mut replay = Replay::after(oldest.before);
    let mut sealed: Option<&Segment> = None;
    for segment in segments {
        if let Some(sealed) = sealed {
            replay.check_sealed(sealed, segment)?;
        }
        replay.segment(segment, facts)?;
        sealed = Some(segment);
    }
    let active = segments.back().expect("a segment was found or created");
    replay.check_end(active, facts)?;
    replay.table.forget(facts.compaction);
    Ok(replay)
}

pub(super) fn offset_of(bytes: u32) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

impl Replay {
    /// No records; the first will follow `point`.
    pub(super) fn after(point: Point) -> Self {
        Self { table: Table::new(point), offset: START, torn: 0 }
    }

    /// Reads the records of the next segment.
    pub(super) fn segment(&mut self, segment: &Segment, facts: &Facts) -> Result<(), WalError> {
        let mut chunks = Chunks::new(segment, offset_of(START));
        while let Some((offset, record)) = chunks.record()? {
            self.record(segment, offset, &record)?;
        }
        self.offset = small(chunks.offset());
        if chunks.ends_in_zeros()? { Ok(()) } else { self.judge_end(segment, facts) }
    }

    /// Finds out why the records of the segment are followed by something else. Takes all of its
    /// bytes to do so, which hardly ever happens.
    fn judge_end(&mut self, segment: &Segment, facts: &Facts) -> Result<(), WalError> {
        let bytes = segment.read()?;
        let Step::Damaged { offset, damage } =
            Walk::new(&bytes, segment.seed, offset_of(self.offset)).step()
        else {
            return Err(segment.corrupt(offset_of(self.offset), "it does not read twice the same"));
        };
        let synced = segment.name.sequence < facts.tail.sequence || self.offset < facts.tail.offset;
        let corrupt = synced || judge(&bytes, segment.seed, offset) == Cause::Corrupt;
        if corrupt && !mutant::has(Mutant::CutAnyDamage) {
            return Err(segment.corrupt(offset, damage));
        }
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
        self.torn = small(used - offset);
        Ok(())
    }

    /// Takes one record over into the table.
    fn record(
        &mut self,
        segment: &Segment,
        offset: usize,
        record: &Record<'_>,
    ) -> Result<(), WalError> {
        if record.content == Content::Header || record.index == 0 {
            return Err(segment.corrupt(offset, "a record that no log has here"));
        }
        let Point { index: base, .. } = self.table.base();
        if record.index <= base {
            // The entry replaces some that lie in segments which are compacted away. The term
            // before it is not known here; the compaction point lies at or above it.
            self.table = Table::new(Point { index: record.index - 1, term: 0 });
        }
        let last = self.table.last();
        let before = self.table.term(record.index - 1);
        if before.is_none_or(|term| term > record.term) {
            let reason = format!(
                "entry {} of term {} follows entry {} of term {}",
                record.index, record.term, last.index, last.term
            );
            return Err(segment.corrupt(offset, reason));
        }
        let position = Position {
            sequence: segment.name.sequence,
            offset: small(offset),
            payload_bytes: small(record.payload.len()),
        };
        self.table.put(Point { index: record.index, term: record.term }, position);
        Ok(())
    }

    /// Whether the segment that was read last holds what the next one says of it.
    pub(super) fn check_sealed(&self, sealed: &Segment, next: &Segment) -> Result<(), WalError> {
        let Point { index, term } = next.before;
        if self.table.last() == next.before {
            return Ok(());
        }
        let reason =
            format!("the segment ended with entry {index} of term {term}, and does not hold it");
        Err(sealed.corrupt(offset_of(self.offset), reason))
    }

    /// Whether the log holds what the metadata promises.
    pub(super) fn check_end(&self, active: &Segment, facts: &Facts) -> Result<(), WalError> {
        if mutant::has(Mutant::CutAnyDamage) {
            return Ok(());
        }
        let offset = offset_of(self.offset);
        if self.offset < facts.tail.offset {
            let reason = format!("the log was synced up to byte {}", facts.tail.offset);
            return Err(active.corrupt(offset, reason));
        }
        let (last, commit) = (self.table.last().index, facts.hard_state.commit);
        if last < commit {
            let reason = format!("the log ends with entry {last}, but {commit} is committed");
            return Err(active.corrupt(offset, reason));
        }
        let Point { index, term } = facts.compaction;
        // A base that replaced a deleted one has no term of its own.
        let unknown = self.table.base() == Point { index, term: 0 };
        if self.table.term(index) == Some(term) || unknown {
            return Ok(());
        }
        let reason = format!("the log does not continue after entry {index} of term {term}");
        Err(active.corrupt(offset, reason))
    }
}

/// Offsets and sizes within a segment, whose bytes are counted in 32 bits.
fn small(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a segment has less than 4 GiB")
}

/// Writes the records again that were not known to be synced. After a failed sync the system takes
/// them for clean although the disk does not have them, and would sync nothing.
fn rewrite(active: &Segment, from: u32, to: u32) -> Result<(), WalError> {
    let mut bytes = vec![0; REWRITE_BYTES.min(offset_of(to - from))];
    for begin in (from..to).step_by(REWRITE_BYTES) {
        let count = REWRITE_BYTES.min(offset_of(to - begin));
        let (part, begin) = (&mut bytes[..count], u64::from(begin));
        active.file.read_at(part, begin).map_err(WalError::io("read", &active.path))?;
        active.file.write_at(part, begin).map_err(WalError::io("write", &active.path))?;
    }
    Ok(())
}

/// Overwrites a torn tail with zeros, so that the next record finds what a new segment has. Says
/// how many bytes it was.
fn cut(active: &Segment, replay: &Replay) -> Result<u64, WalError> {
    if replay.torn == 0 {
        return Ok(0);
    }
    tracing::warn!(
        file = %active.path.display(),
        offset = replay.offset,
        bytes = replay.torn,
        last_index = replay.table.last().index,
        "cutting a torn write that was never acknowledged"
    );
    // The header goes last: it, or its lack, is what shows that the record is torn, and cutting may
    // be interrupted too.
    let (start, end) = (u64::from(replay.offset), u64::from(replay.offset + replay.torn));
    let header_end = end.min(start + HEADER_BYTES as u64);
    let mut torn = vec![0; offset_of(replay.torn)];
    active.file.read_at(&mut torn, start).map_err(WalError::io("read", &active.path))?;
    let cut = zero(active, header_end, end).and_then(|()| zero(active, start, header_end));
    if let Err(error) = cut {
        // Zeros that only the system's memory has would hide what the disk still has: the next
        // start would not cut it, and it would be back when the machine dies.
        if let Err(error) = active.file.write_at(&torn, start) {
            tracing::error!(file = %active.path.display(), %error, "cannot undo a cut that failed");
        }
        return Err(error);
    }
    Ok(u64::from(replay.torn))
}

/// Overwrites a range with zeros, durably.
fn zero(active: &Segment, start: u64, end: u64) -> Result<(), WalError> {
    static ZEROS: [u8; 65_536] = [0; 65_536];
    let mut offset = start;
    while offset < end {
        let rest = usize::try_from(end - offset).unwrap_or(usize::MAX);
        let chunk = &ZEROS[..rest.min(ZEROS.len())];
        active.file.write_at(chunk, offset).map_err(WalError::io("write", &active.path))?;
        offset += chunk.len() as u64;
    }
    active.file.sync_data().map_err(WalError::io("sync", &active.path))
}

fn delete(disk: &dyn Disk, dir: &Path, leftovers: &[PathBuf]) -> Result<(), WalError> {
    for path in leftovers {
        tracing::info!(file = %path.display(), "deleting a segment that is not in use");
        disk.remove(path).map_err(WalError::io("delete", path))?;
    }
    if leftovers.is_empty() {
        return Ok(());
    }
    disk.sync_dir(dir).map_err(WalError::io("sync", dir))
}

/// Sets space aside that can be freed by hand. A disk that has none to spare is no reason to stop.
fn reserve(disk: &dyn Disk, dir: &Path, bytes: u64) -> Result<(), WalError> {
    if bytes == 0 {
        return Ok(());
    }
    let path = dir.join("reserve");
    let file = match disk.open(&path, OpenMode::Existing) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            disk.open(&path, OpenMode::CreateNew)
        }
        other => other,
    };
    match file.and_then(|file| file.allocate(bytes)) {
        Err(error) if is_full(&error) => {
            tracing::warn!(file = %path.display(), bytes, "no space to set aside");
            Ok(())
        }
        other => other.map_err(WalError::io("reserve", &path)),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use crate::NodeId;
    use crate::mutant::{Mutant, breaks};
    use crate::wal::{Entry, EntryKind, HardState, Identity, MemoryDisk, Options, Wal};

    /// One bit of what was synced is wrong: the log opens with everything, or not at all.
    fn damage_is_never_cut(seed: u64) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (disk, dir) = (MemoryDisk::new(), Path::new("/data"));
        let options =
            Options { segment_bytes: 1 << 13, reserve_bytes: 0, window_bytes_max: 1 << 10 };
        let node = NodeId::new("a").unwrap();
        let identity = Identity { cluster: uuid::Uuid::from_u128(1), node, raft_id: 1 };
        let open = || Wal::open(Arc::new(disk.clone()), dir, options, identity.clone());
        let entry =
            |index| Entry { term: 1, index, kind: EntryKind::Normal, data: vec![b'x'; 50].into() };
        let (mut wal, _) = open().unwrap();
        wal.append(&(1..=9).map(entry).collect::<Vec<_>>()).unwrap();
        wal.sync().unwrap();
        wal.store_hard_state(HardState { term: 1, vote: 1, commit: 9 }).unwrap();
        let file = wal.segments.back().unwrap().path.clone();
        drop(wal);
        disk.flip_bit(&file, rng.usize(..9 * 88 * 8));
        if let Ok((_, recovered)) = open() {
            assert_eq!(recovered.last_index, 9, "cut what was committed");
        }
    }

    #[test]
    fn damage_in_the_middle_is_never_taken_for_a_torn_tail() {
        (0..200).for_each(damage_is_never_cut);
        let caught = (0..20).any(|seed| breaks(Mutant::CutAnyDamage, || damage_is_never_cut(seed)));
        assert!(caught, "a log that cuts any damage is not caught");
    }
}
