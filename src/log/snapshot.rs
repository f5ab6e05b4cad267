//! The state of a group of topics as bytes.
//!
//! ```text
//! snapshot  version u8 | clock s u32 | position u64 | marks u32 | mark... | topics u32 | topic...
//! mark      index u64 | position u64
//! topic     bytes u8 | name | id u64 | options | first u64 | next u64 | timestamp ms u64
//!           | stamp s u32 | open u8 | began u64 | cursors u32 | cursor...
//!           | group bytes u64 | groups | cleaned u64 | round u64 | until u64
//!           | swept u64 | points u64 | point...
//! cursor    bytes u8 | name | offset u64
//! point     offset u64 | index u64 | timestamp ms u64 | stamp s u32 | bytes u32 | span u32
//!           | checksum u32
//! ```
//!
//! Numbers are little endian; the bytes of groups are their own; topics, cursors and points are in
//! order; `began` is 0 if `open` is, and `until` if `round` is: without one. Pure. Equal states write equal bytes; reading checks
//! everything that the machine relies on, and never takes more memory than the bytes that were
//! there to be read.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Read, Write};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::compaction::Round;
use super::extent::Extent;
use super::groups::Groups;
use super::machine::{CURSORS_MAX, LogMachine, STEP_MAX, TOPIC_CURSORS_MAX, TOPICS_MAX};
use super::name::{NAME_BYTES_MAX, is_name, put_name};
use super::options::TopicOptions;
use super::points::Point;
use super::topic::{SPAN_ENTRIES, Topic};
use crate::replica::InvalidSnapshot;

/// The version of the format.
const VERSION: u8 = 2;
/// Bytes that options have.
const OPTIONS_BYTES: usize = 45;

pub(super) fn write(
    topics: &BTreeMap<Bytes, Arc<Topic>>,
    clock: u32,
    extent: &Extent,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut out = BufWriter::new(out);
    let mut bytes = BytesMut::new();
    bytes.put_u8(VERSION);
    bytes.put_u32_le(clock);
    extent.put(&mut bytes);
    bytes.put_u32_le(u32::try_from(topics.len()).expect("topics are limited"));
    out.write_all(&bytes)?;
    for (name, topic) in topics {
        bytes.clear();
        put_topic(&mut bytes, name, topic);
        out.write_all(&bytes)?;
        for point in topic.points.iter() {
            bytes.clear();
            for number in [point.offset, point.index, point.timestamp] {
                bytes.put_u64_le(number);
            }
            for number in [point.stamp, point.bytes, point.span, point.checksum] {
                bytes.put_u32_le(number);
            }
            out.write_all(&bytes)?;
        }
    }
    out.flush()
}

/// Everything but the points.
fn put_topic(out: &mut BytesMut, name: &[u8], topic: &Topic) {
    put_name(out, name);
    out.put_u64_le(topic.id);
    topic.options.put(out);
    for number in [topic.first, topic.next, topic.timestamp] {
        out.put_u64_le(number);
    }
    out.put_u32_le(topic.stamp);
    out.put_u8(u8::from(topic.open.is_some()));
    out.put_u64_le(topic.open.unwrap_or(0));
    out.put_u32_le(u32::try_from(topic.cursors.len()).expect("cursors are limited"));
    for (cursor, offset) in &topic.cursors {
        put_name(out, cursor);
        out.put_u64_le(*offset);
    }
    let groups = if topic.groups.is_empty() { Bytes::new() } else { topic.groups.encode() };
    out.put_u64_le(groups.len() as u64);
    out.put_slice(&groups);
    let round = topic.round.map_or([0, 0], |round| [round.id, round.until]);
    for number in [topic.cleaned, round[0], round[1]] {
        out.put_u64_le(number);
    }
    out.put_u64_le(topic.points.swept() as u64);
    out.put_u64_le(topic.points.len() as u64);
}

pub(super) fn read(input: &mut dyn Read) -> Result<LogMachine, InvalidSnapshot> {
    let mut input = Input(input);
    let version = input.u8()?;
    if version != VERSION {
        return Err(InvalidSnapshot::new(format!(
            "it has format {version}, and this version of zmesh reads {VERSION}: dump it with the one \
             that wrote it"
        )));
    }
    let clock = input.u32()?;
    let extent = read_extent(&mut input)?;
    let count = input.u32()?;
    require(count as usize <= TOPICS_MAX, "too many topics")?;
    let mut topics = BTreeMap::<Bytes, Arc<Topic>>::new();
    let mut cursors = 0;
    for _ in 0..count {
        let name = input.name()?;
        let is_next = topics.last_key_value().is_none_or(|(last, _)| *last < name);
        require(is_next, "topics are not in order")?;
        let topic = read_topic(&mut input, clock, extent.position())?;
        cursors += topic.cursors.len();
        topics.insert(name, Arc::new(topic));
    }
    require(cursors <= CURSORS_MAX, "too many cursors")?;
    input.end()?;
    Ok(LogMachine::from_parts(topics, clock, extent))
}

fn read_extent(input: &mut Input<'_>) -> Result<Extent, InvalidSnapshot> {
    let (position, count) = (input.u64()?, input.u32()?);
    let mut extent = Extent::new(position);
    for _ in 0..count {
        let is_next = extent.push_mark(input.u64()?, input.u64()?);
        require(is_next, "marks are not in order")?;
    }
    Ok(extent)
}

fn read_topic(input: &mut Input<'_>, clock: u32, position: u64) -> Result<Topic, InvalidSnapshot> {
    let id = input.u64()?;
    let options = TopicOptions::take(&mut Bytes::copy_from_slice(&input.array::<OPTIONS_BYTES>()?));
    let options = options.map_err(|error| InvalidSnapshot::new(error.to_string()))?;
    let mut topic = Topic::new(id, options);
    (topic.first, topic.next) = (input.u64()?, input.u64()?);
    (topic.timestamp, topic.stamp) = (input.u64()?, input.u32()?);
    let (is_open, began) = (input.u8()?, input.u64()?);
    require(is_open <= 1 && (is_open == 1 || began == 0), "a topic is neither open nor closed")?;
    require(began <= position, "a point begins in the future")?;
    topic.open = (is_open == 1).then_some(began);
    read_cursors(input, &mut topic)?;
    let bytes = input.u64()?;
    if bytes > 0 {
        topic.groups = Groups::decode(&input.bytes(bytes)?)?;
        require(!topic.groups.is_empty(), "no groups where some are said to be")?;
    }
    topic.cleaned = input.u64()?;
    topic.round = read_round(input)?;
    let (swept, points) = (input.u64()?, input.u64()?);
    require(swept < points || (swept, points) == (0, 0), "more was swept than there is")?;
    let mut last = None;
    for position in 0..points {
        let point = read_point(input, &mut topic, last.filter(|_| position != swept), last)?;
        match position < swept {
            true => topic.points.push_swept(point),
            false => topic.points.push(point),
        }
        last = Some(point);
    }
    require(topic.first <= topic.next, "a topic ends before it begins")?;
    let has_records = topic.first < topic.next;
    require(has_records == (topic.points.len() > 0), "records without a place")?;
    require(topic.open.is_none() || has_records, "nothing is open")?;
    if let (Some(front), Some(last)) = (topic.points.front(), topic.points.last()) {
        let covers = topic.first < topic.end_of(0) && front.offset < topic.next;
        require(covers && last.offset < topic.next, "points do not cover the records")?;
        require(last.stamp <= topic.stamp, "the newest record is not the newest")?;
        require(last.timestamp <= topic.timestamp, "the latest record is not the latest")?;
    }
    require(topic.stamp <= clock.saturating_add(STEP_MAX), "a record is from the future")?;
    Ok(topic)
}

fn read_cursors(input: &mut Input<'_>, topic: &mut Topic) -> Result<(), InvalidSnapshot> {
    let count = input.u32()?;
    require(count as usize <= TOPIC_CURSORS_MAX, "too many cursors")?;
    for _ in 0..count {
        let name = input.name()?;
        let is_next = topic.cursors.last_key_value().is_none_or(|(last, _)| *last < name);
        require(is_next, "cursors are not in order")?;
        topic.cursors.insert(name, input.u64()?);
    }
    Ok(())
}

fn read_round(input: &mut Input<'_>) -> Result<Option<Round>, InvalidSnapshot> {
    let (id, until) = (input.u64()?, input.u64()?);
    require(id > 0 || until == 0, "there is a round and there is none")?;
    Ok((id > 0).then_some(Round { id, until }))
}

/// A point behind `last`, and in the log behind `before`: those that were swept do not lie before the
/// others.
fn read_point(
    input: &mut Input<'_>,
    topic: &mut Topic,
    before: Option<Point>,
    last: Option<Point>,
) -> Result<Point, InvalidSnapshot> {
    let (offset, index, timestamp) = (input.u64()?, input.u64()?, input.u64()?);
    let (stamp, bytes, span) = (input.u32()?, input.u32()?, input.u32()?);
    let checksum = input.u32()?;
    require(u64::from(span) <= SPAN_ENTRIES && bytes > 0, "a point is too long")?;
    require(index >= topic.id && index.checked_add(u64::from(span)).is_some(), "no such entry")?;
    // Points that were carried forward together lie in the same entry.
    let lies_behind = before.is_none_or(|before| before.last() <= index);
    let follows = last.is_none_or(|last| {
        last.offset < offset && last.timestamp <= timestamp && last.stamp <= stamp
    });
    require(lies_behind && follows, "points are not in order")?;
    let sum = topic.bytes.checked_add(u64::from(bytes));
    topic.bytes = sum.ok_or_else(|| InvalidSnapshot::new("too many bytes"))?;
    Ok(Point { offset, index, timestamp, stamp, bytes, span, checksum })
}

fn require(holds: bool, what_is_wrong: &str) -> Result<(), InvalidSnapshot> {
    if holds { Ok(()) } else { Err(InvalidSnapshot::new(what_is_wrong)) }
}

/// Reads numbers and names.
struct Input<'a>(&'a mut dyn Read);

impl Input<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], InvalidSnapshot> {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn u8(&mut self) -> Result<u8, InvalidSnapshot> {
        Ok(self.array::<1>()?[0])
    }

    fn u32(&mut self) -> Result<u32, InvalidSnapshot> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, InvalidSnapshot> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// So many bytes, for which no memory is taken before they are there.
    fn bytes(&mut self, count: u64) -> Result<Vec<u8>, InvalidSnapshot> {
        let mut bytes = Vec::new();
        let mut limited = Read::take(&mut *self.0, count);
        let found = limited.read_to_end(&mut bytes)?;
        require(found as u64 == count, "cut short")?;
        Ok(bytes)
    }

    fn name(&mut self) -> Result<Bytes, InvalidSnapshot> {
        let mut name = [0; NAME_BYTES_MAX];
        let name = &mut name[..usize::from(self.u8()?)];
        self.0.read_exact(name)?;
        require(is_name(name), "a name is none")?;
        Ok(Bytes::copy_from_slice(name))
    }

    /// There is nothing more.
    fn end(&mut self) -> Result<(), InvalidSnapshot> {
        let mut rest = [0];
        require(self.0.read(&mut rest)? == 0, "bytes after the last topic")
    }
}
