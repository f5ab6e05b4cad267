//! Looks at a log without opening it: is every byte what was written, and if not, where?
//!
//! Opening stops at the first damage; this goes on, file by file, so that somebody who has to decide
//! sees all of it. What it says is what opening would say, since the same code reads.
//!
//! Pure but for the disk, of which it changes nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::disk::Disk;
use super::error::WalError;
use super::metadata::{Facts, Metadata, SlotState};
use super::read_only::ReadOnlyDisk;
use super::recovery::{self, Replay, Survey, offset_of};
use super::segment::{START, Segment};
use super::{HardState, Identity, Point};

/// What a file of a replica is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    /// What is no part of a replica, or not any more.
    Other,
    /// Term, vote, identity.
    Metadata,
    /// Entries of the log.
    Segment,
    /// A state.
    Snapshot,
}

/// What was found out about a file.
#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize)]
#[serde(rename_all = "lowercase", tag = "verdict")]
pub enum Verdict {
    /// Every byte is what was written.
    Sound,
    /// Not as it should be, and of no harm: the next start puts it right.
    Harmless {
        /// Where it begins.
        offset: u64,
        /// What it is.
        reason: String,
    },
    /// Bytes are not what was written, or missing. The replica does not start.
    Damaged {
        /// Where the damage begins.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
    /// It cannot be judged: it belongs to somebody else, is newer than this program, or cannot be
    /// read.
    Unknown {
        /// Why.
        reason: String,
    },
}

/// One file.
#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize)]
pub struct FileReport {
    /// Its path; `*` stands for a part of the name of a missing file that is not known.
    pub file: PathBuf,
    /// What it is.
    pub kind: FileKind,
    /// Its size; 0 if it is missing.
    pub bytes: u64,
    /// What is in it, in words.
    pub content: String,
    /// Whether it is whole.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// What was found in the directory of a log.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LogReport {
    /// Metadata and segments, in their order.
    pub files: Vec<FileReport>,
    /// Whose log it is, if the metadata says so.
    pub identity: Option<Identity>,
    /// How Raft stood.
    pub hard_state: HardState,
    /// The newest entry that was forgotten.
    pub compaction: Point,
    /// The last entry, as far as the log could be read.
    pub last: Point,
    /// Up to which byte the last segment is known to have been synced; it may be more.
    pub synced_offset: u64,
    /// The bootstrap blob.
    pub bootstrap: Bytes,
}

impl LogReport {
    /// Whether nothing is damaged, and everything could be judged.
    pub fn is_sound(&self) -> bool {
        let fine = |verdict: &Verdict| matches!(verdict, Verdict::Sound | Verdict::Harmless { .. });
        self.files.iter().all(|file| fine(&file.verdict))
    }
}

/// Reads the log in `dir` from front to back and says what is wrong with it. Changes nothing, and
/// does not look whether somebody uses it.
///
/// # Errors
///
/// [`WalError::Io`]: the directory cannot be read.
pub fn verify(disk: &Arc<dyn Disk>, dir: &Path) -> Result<LogReport, WalError> {
    let disk = ReadOnlyDisk(Arc::clone(disk));
    let files = recovery::segment_files(&disk, dir)?;
    let mut report = LogReport::default();
    let metadata = match Metadata::load(&disk, dir) {
        Ok(Some(metadata)) => metadata,
        Ok(None) if files.is_empty() => return Ok(report),
        Ok(None) => {
            let (file, offset) = (dir.join("meta"), 0);
            let reason = "the metadata is missing or empty beside a log".to_owned();
            report.refuse(&disk, FileKind::Metadata, WalError::Corrupt { file, offset, reason });
            return Ok(report);
        }
        Err(error) => {
            report.refuse(&disk, FileKind::Metadata, error);
            return Ok(report);
        }
    };
    let facts = metadata.facts();
    report.identity = Some(facts.identity.clone());
    (report.hard_state, report.compaction) = (facts.hard_state, facts.compaction);
    report.bootstrap = facts.bootstrap.clone();
    report.synced_offset = u64::from(facts.tail.offset);
    report.last = facts.compaction;
    report.metadata(&disk, dir, facts)?;
    match recovery::survey(&disk, dir, &files, facts) {
        Ok(survey) => report.log(&disk, &survey, &metadata),
        // Which files are the log is not known; each may be whole in itself.
        Err(error) => {
            report.refuse(&disk, FileKind::Segment, error);
            let open = |path: &PathBuf| Segment::open(&disk, path, &facts.identity).ok();
            for segment in files.iter().filter_map(open) {
                let mut replay = Replay::after(segment.before);
                report.segment(&mut replay, &segment, facts);
            }
        }
    }
    Ok(report)
}

impl LogReport {
    fn metadata(&mut self, disk: &dyn Disk, dir: &Path, facts: &Facts) -> Result<(), WalError> {
        let slots = Metadata::describe(disk, dir)?;
        let HardState { term, commit, .. } = facts.hard_state;
        let generation = slots.iter().map(|slot| match slot {
            SlotState::Valid { generation } => *generation,
            SlotState::Bad | SlotState::Empty => 0,
        });
        let generation = generation.max().unwrap_or(0);
        let verdict = match slots.iter().position(|slot| *slot == SlotState::Bad) {
            Some(slot) => Verdict::Harmless {
                offset: Metadata::slot_offset(slot),
                reason: "one slot is bad, as after a torn write; the other one counts".to_owned(),
            },
            None => Verdict::Sound,
        };
        let content = format!("generation {generation}, term {term}, commit {commit}");
        self.push(disk, dir.join("meta"), FileKind::Metadata, content, verdict);
        Ok(())
    }

    fn log(&mut self, disk: &dyn Disk, survey: &Survey, metadata: &Metadata) {
        let facts = metadata.facts();
        let Some(oldest) = survey.segments.front() else { return };
        let mut replay = Replay::after(oldest.before);
        let (mut whole, mut sealed): (bool, Option<&Segment>) = (true, None);
        for segment in &survey.segments {
            if let Some(sealed) = sealed.filter(|_| whole)
                && let Err(error) = replay.check_sealed(sealed, segment)
            {
                whole = false;
                self.refuse(disk, FileKind::Segment, error);
            }
            if !whole {
                // What came before is damaged, so what follows is judged by itself.
                replay = Replay::after(segment.before);
            }
            whole &= self.segment(&mut replay, segment, facts);
            sealed = Some(segment);
        }
        if let Some(active) = sealed.filter(|_| whole)
            && let Err(error) = replay.check_end(active, facts)
        {
            self.refuse(disk, FileKind::Segment, error);
        }
        if replay.table.last().index >= self.last.index {
            self.last = replay.table.last();
        }
        for path in &survey.leftovers {
            let reason = "left over; the next start deletes it".to_owned();
            let verdict = Verdict::Harmless { offset: 0, reason };
            self.push(disk, path.clone(), FileKind::Segment, String::new(), verdict);
        }
    }

    /// Reads the records of a segment; whether they are whole.
    fn segment(&mut self, replay: &mut Replay, segment: &Segment, facts: &Facts) -> bool {
        replay.torn = 0;
        let read = replay.segment(segment, facts);
        let (first, last) = (segment.name.first_index, replay.table.last().index);
        let content = match offset_of(replay.offset) > offset_of(START) {
            true => format!("entries {first} to {last}"),
            false => "no entries".to_owned(),
        };
        let bytes = u64::from(segment.allocated);
        let (file, kind) = (segment.path.clone(), FileKind::Segment);
        let whole = read.is_ok();
        let verdict = match read {
            Err(error) => Verdict::of(error),
            Ok(()) if replay.torn > 0 => Verdict::Harmless {
                offset: u64::from(replay.offset),
                reason: format!(
                    "{} bytes of a torn write that was never acknowledged; the next start cuts them",
                    replay.torn
                ),
            },
            Ok(()) => Verdict::Sound,
        };
        self.files.push(FileReport { file, kind, bytes, content, verdict });
        whole
    }

    /// Notes an error about a file.
    fn refuse(&mut self, disk: &dyn Disk, kind: FileKind, error: WalError) {
        let file = match &error {
            WalError::Corrupt { file, .. }
            | WalError::DuplicateSegment { file, .. }
            | WalError::Foreign { file, .. }
            | WalError::Io { file, .. }
            | WalError::MissingSegment { file }
            | WalError::MisnamedSegment { file, .. }
            | WalError::NewerFormat { file, .. } => file.clone(),
            WalError::BelowCommit { .. }
            | WalError::Compacted { .. }
            | WalError::Gap { .. }
            | WalError::Locked { .. }
            | WalError::NoSpace { .. }
            | WalError::OutOfRange { .. }
            | WalError::Poisoned { .. }
            | WalError::TooLarge { .. } => PathBuf::new(),
        };
        self.push(disk, file, kind, String::new(), Verdict::of(error));
    }

    fn push(
        &mut self,
        disk: &dyn Disk,
        file: PathBuf,
        kind: FileKind,
        content: String,
        verdict: Verdict,
    ) {
        let bytes = disk.open(&file, super::OpenMode::Reading).and_then(|file| file.len());
        let bytes = bytes.unwrap_or(0);
        self.files.push(FileReport { file, kind, bytes, content, verdict });
    }
}

impl Verdict {
    /// What an error says about the file it names. The remedy in its words is left to the reader of
    /// the report.
    fn of(error: WalError) -> Self {
        match error {
            WalError::Corrupt { offset, reason, .. } => Self::Damaged { offset, reason },
            WalError::DuplicateSegment { other, .. } => Self::Damaged {
                offset: 0,
                reason: format!("it is the same segment as {}", other.display()),
            },
            WalError::MissingSegment { .. } => {
                Self::Damaged { offset: 0, reason: "it is missing".to_owned() }
            }
            WalError::MisnamedSegment { found, .. } => {
                Self::Damaged { offset: 0, reason: format!("it was renamed: it is {found}") }
            }
            WalError::Foreign { found, .. } => {
                Self::Unknown { reason: format!("it belongs to {found}") }
            }
            WalError::Io { operation, source, .. }
                if source.kind() == io::ErrorKind::UnexpectedEof =>
            {
                let reason = format!("it is cut short: cannot {operation} it");
                Self::Damaged { offset: 0, reason }
            }
            error @ (WalError::BelowCommit { .. }
            | WalError::Compacted { .. }
            | WalError::Gap { .. }
            | WalError::Io { .. }
            | WalError::Locked { .. }
            | WalError::NewerFormat { .. }
            | WalError::NoSpace { .. }
            | WalError::OutOfRange { .. }
            | WalError::Poisoned { .. }
            | WalError::TooLarge { .. }) => Self::Unknown { reason: error.to_string() },
        }
    }
}
