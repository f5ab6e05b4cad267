//! The open format in which everything that a cluster stores can leave it, and come back.
//!
//! A dump is text: one JSON object in a line. [docs/DUMP.md](../docs/DUMP.md) has all of it. The last
//! line has counts and a checksum, so that a dump that was cut or changed is noticed before anything
//! of it is used.
//!
//! Pure: it writes to and reads from what it is given. Memory: one line.

use std::io::{self, BufRead, Read, Write};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::log::{Compaction, TopicOptions};

/// The version that is written, and the newest that is read.
pub const VERSION: u32 = 1;

/// Bytes of a line: a value of 8 MiB in base64, with a key and room to spare.
const LINE_BYTES_MAX: u64 = 16 << 20;

/// The first line.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The version of the format.
    pub version: u32,
    /// The name of the mesh it comes from.
    pub cluster: String,
    /// The revision of the key-value store that it shows.
    pub revision: u64,
}

/// One thing that is stored.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Item {
    /// A key with its value.
    Key {
        /// The key.
        key: Bytes,
        /// Its value.
        value: Bytes,
    },
    /// A topic, whose records follow.
    Topic {
        /// Its name.
        name: String,
        /// How it keeps its records.
        options: TopicOptions,
    },
    /// A record of the last topic.
    Record {
        /// What it is about.
        key: Option<Bytes>,
        /// Its content.
        value: Bytes,
    },
}

/// What is in a dump.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Keys.
    pub keys: u64,
    /// Keys that were left out, since they go with a lease.
    pub leased: u64,
    /// Topics.
    pub topics: u64,
    /// Records of all topics.
    pub records: u64,
}

/// Why a text is no dump, or cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DumpError {
    /// The text ends before the last line of a dump: it was cut.
    #[error("the dump was cut: it has no last line")]
    Cut,
    /// What is in the lines is not what was written.
    #[error("the dump was changed: {reason}")]
    Damaged {
        /// What does not fit.
        reason: String,
    },
    /// The system refused.
    #[error("cannot read the dump: {0}")]
    Io(#[from] io::Error),
    /// A line that no dump has there.
    #[error("line {line} is none of a dump: {reason}")]
    Line {
        /// Its number, from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A newer zmesh wrote it.
    #[error("the dump has version {version}, and this zmesh reads up to {VERSION}")]
    Newer {
        /// Its version.
        version: u32,
    },
}

/// One line.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
enum Line {
    Zmesh(Header),
    Key(Pair),
    Topic(TopicLine),
    Record(RecordLine),
    End(End),
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Pair {
    key: Blob,
    value: Blob,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct TopicLine {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    age_seconds: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    records: Option<u64>,
    record_bytes_max: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    compaction: Option<CompactionLine>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct CompactionLine {
    after_seconds: u64,
    tombstones_for_seconds: u64,
    dirty_percent: u8,
}

impl From<Compaction> for CompactionLine {
    fn from(compaction: Compaction) -> Self {
        let Compaction { after, tombstones_for, dirty_percent } = compaction;
        let [after_seconds, tombstones_for_seconds] =
            [after, tombstones_for].map(|time| time.as_secs());
        Self { after_seconds, tombstones_for_seconds, dirty_percent }
    }
}

impl From<CompactionLine> for Compaction {
    fn from(line: CompactionLine) -> Self {
        let CompactionLine { after_seconds, tombstones_for_seconds, dirty_percent } = line;
        let [after, tombstones_for] =
            [after_seconds, tombstones_for_seconds].map(Duration::from_secs);
        Self { after, tombstones_for, dirty_percent }
    }
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct RecordLine {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<Blob>,
    value: Blob,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct End {
    counts: Counts,
    /// CRC32C of everything before `,"crc32c"`, 8 hex digits.
    crc32c: String,
}

/// Bytes: a text if they are one, else base64.
#[derive(Debug, Deserialize, Serialize)]
#[serde(untagged)]
enum Blob {
    Text(String),
    Binary { base64: String },
}

impl Blob {
    fn of(bytes: &Bytes) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Binary { base64: STANDARD.encode(bytes) },
        }
    }

    fn bytes(self) -> Result<Bytes, String> {
        match self {
            Self::Text(text) => Ok(text.into()),
            Self::Binary { base64 } => {
                STANDARD.decode(base64).map(Bytes::from).map_err(|error| error.to_string())
            }
        }
    }
}

/// Writes a dump.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    counts: Counts,
    checksum: u32,
}

impl<W: Write> Writer<W> {
    /// Writes the first line.
    ///
    /// # Errors
    ///
    /// What `out` says.
    pub fn new(out: W, header: &Header) -> io::Result<Self> {
        let mut writer = Self { out, counts: Counts::default(), checksum: 0 };
        writer.line(&Line::Zmesh(header.clone()))?;
        Ok(writer)
    }

    /// Writes one item.
    ///
    /// # Errors
    ///
    /// What `out` says.
    pub fn write(&mut self, item: &Item) -> io::Result<()> {
        let line = match item {
            Item::Key { key, value } => {
                self.counts.keys += 1;
                Line::Key(Pair { key: Blob::of(key), value: Blob::of(value) })
            }
            Item::Record { key, value } => {
                self.counts.records += 1;
                Line::Record(RecordLine { key: key.as_ref().map(Blob::of), value: Blob::of(value) })
            }
            Item::Topic { name, options } => {
                self.counts.topics += 1;
                Line::Topic(TopicLine {
                    name: name.clone(),
                    age_seconds: options.age.map(|age| age.as_secs()),
                    bytes: options.bytes,
                    records: options.records,
                    record_bytes_max: options.record_bytes_max,
                    compaction: options.compaction.map(CompactionLine::from),
                })
            }
        };
        self.line(&line)
    }

    /// Counts a key that is left out.
    pub fn leave_out(&mut self) {
        self.counts.leased += 1;
    }

    /// What was written so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Writes the last line, without which nobody takes it for a dump.
    ///
    /// # Errors
    ///
    /// What `out` says.
    pub fn end(mut self) -> io::Result<(W, Counts)> {
        let counts = self.counts;
        let crc32c = format!("{:08x}", checksum(self.checksum, counts)?);
        self.line(&Line::End(End { counts, crc32c }))?;
        self.out.flush()?;
        Ok((self.out, counts))
    }

    fn line(&mut self, line: &Line) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        self.checksum = crc32c::crc32c_append(self.checksum, &bytes);
        self.out.write_all(&bytes)
    }
}

/// Reads a dump. Only when [`next`](Self::next) has returned its end is it known to be whole.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    header: Header,
    line: u64,
    bytes: u64,
    counts: Counts,
    checksum: u32,
    has_ended: bool,
}

impl<R: BufRead> Reader<R> {
    /// Reads the first line.
    ///
    /// # Errors
    ///
    /// [`DumpError`].
    pub fn new(input: R) -> Result<Self, DumpError> {
        let header = Header { version: 0, cluster: String::new(), revision: 0 };
        let counts = Counts::default();
        let mut reader =
            Self { input, header, line: 0, bytes: 0, counts, checksum: 0, has_ended: false };
        let (line, _) = reader.line()?.ok_or(DumpError::Cut)?;
        match line {
            Line::Zmesh(header) if header.version > VERSION => {
                Err(DumpError::Newer { version: header.version })
            }
            Line::Zmesh(header) => {
                reader.header = header;
                Ok(reader)
            }
            Line::End(_) | Line::Key(_) | Line::Record(_) | Line::Topic(_) => {
                Err(reader.wrong("the first line of a dump says `zmesh`"))
            }
        }
    }

    /// The first line.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// What was read so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Bytes that were read so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next item; none at the end, when everything was found to be right.
    ///
    /// # Errors
    ///
    /// [`DumpError`].
    #[expect(clippy::should_implement_trait, reason = "an iterator would go on after an error")]
    pub fn next(&mut self) -> Result<Option<Item>, DumpError> {
        if self.has_ended {
            return Ok(None);
        }
        let (line, before) = self.line()?.ok_or(DumpError::Cut)?;
        let item = match line {
            Line::End(end) => {
                self.end(&end, before)?;
                return Ok(None);
            }
            Line::Key(Pair { key, value }) => {
                self.counts.keys += 1;
                Item::Key { key: self.blob(key)?, value: self.blob(value)? }
            }
            Line::Record(_) if self.counts.topics == 0 => {
                return Err(self.wrong("a record before the first topic"));
            }
            Line::Record(RecordLine { key, value }) => {
                self.counts.records += 1;
                let key = key.map(|key| self.blob(key)).transpose()?;
                Item::Record { key, value: self.blob(value)? }
            }
            Line::Topic(topic) => {
                self.counts.topics += 1;
                let options = TopicOptions {
                    age: topic.age_seconds.map(Duration::from_secs),
                    bytes: topic.bytes,
                    records: topic.records,
                    record_bytes_max: topic.record_bytes_max,
                    compaction: topic.compaction.map(Compaction::from),
                };
                options.check().map_err(|error| self.wrong(&error.to_string()))?;
                Item::Topic { name: topic.name, options }
            }
            Line::Zmesh(_) => return Err(self.wrong("a second dump begins")),
        };
        Ok(Some(item))
    }

    fn end(&mut self, end: &End, before: u32) -> Result<(), DumpError> {
        let damaged = |reason: String| Err(DumpError::Damaged { reason });
        self.counts.leased = end.counts.leased;
        if end.counts != self.counts {
            return damaged(format!("{:?} are there, {:?} were written", self.counts, end.counts));
        }
        let expected = checksum(before, end.counts).map_err(io::Error::from)?;
        if end.crc32c != format!("{expected:08x}") {
            return damaged("the checksum does not match".to_owned());
        }
        let mut rest = [0];
        if self.input.read(&mut rest)? > 0 {
            return damaged("something follows after its end".to_owned());
        }
        self.has_ended = true;
        Ok(())
    }

    /// The next line, and the checksum of everything before it; none at the end of the text.
    fn line(&mut self) -> Result<Option<(Line, u32)>, DumpError> {
        let mut bytes = Vec::new();
        (&mut self.input).take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        self.line += 1;
        if bytes.last() != Some(&b'\n') {
            return match bytes.len() as u64 == LINE_BYTES_MAX {
                true => Err(self.wrong("it is too long")),
                false => Err(DumpError::Cut),
            };
        }
        let before = self.checksum;
        self.checksum = crc32c::crc32c_append(before, &bytes);
        self.bytes += bytes.len() as u64;
        match serde_json::from_slice(&bytes) {
            Ok(line) => Ok(Some((line, before))),
            Err(error) => Err(self.wrong(&error.to_string())),
        }
    }

    fn blob(&self, blob: Blob) -> Result<Bytes, DumpError> {
        blob.bytes().map_err(|reason| self.wrong(&reason))
    }

    fn wrong(&self, reason: &str) -> DumpError {
        DumpError::Line { line: self.line, reason: reason.to_owned() }
    }
}

/// The checksum in the last line, `before` being that of the lines before it.
fn checksum(before: u32, counts: Counts) -> serde_json::Result<u32> {
    let sum = crc32c::crc32c_append(before, br#"{"end":{"counts":"#);
    Ok(crc32c::crc32c_append(sum, &serde_json::to_vec(&counts)?))
}

#[cfg(test)]
mod tests;
