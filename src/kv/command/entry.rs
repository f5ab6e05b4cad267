//! Entries, and the pages and changes that they come in.
//!
//! Pure; the bytes are in the [module of responses](super::response).

use bytes::Bytes;

use super::query::Position;
use super::response::InvalidResponse;
use super::wire::{Reader, Writer};

/// A key with its value and what the store keeps about it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: Bytes,
    /// Its value; empty where only keys were asked for.
    pub value: Bytes,
    /// The position of its last change in the replicated log.
    pub revision: u64,
    /// The revision at which it was created: it has had a value ever since.
    pub created: u64,
    /// Changes since then, the first included.
    pub version: u64,
    /// The lease it goes with.
    pub lease: Option<u64>,
}

/// Keys, as they were at one revision.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Page {
    /// The revision of the store at which it was read.
    pub revision: u64,
    /// Keys that matched, those that a page with a count leaves out included.
    pub matched: u64,
    /// The key from which the next page goes on; none if this one was the last. A page may have
    /// fewer entries than it might, and still not be the last.
    pub next: Option<Bytes>,
    /// The entries, in order.
    pub entries: Vec<Entry>,
}

/// Changes, in their order and without gaps.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Events {
    /// The changes that matched.
    pub events: Vec<Event>,
    /// From where on to ask next: everything before was looked at.
    pub next: Position,
    /// Index of the last change of the store.
    pub revision: u64,
}

/// A change of a key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Event {
    /// The position of the change in the replicated log. All changes of one transaction have the
    /// same.
    pub revision: u64,
    /// The key.
    pub key: Bytes,
    /// What it has since then; none if it was cleared.
    pub entry: Option<Entry>,
    /// What it had before, if that was asked for.
    pub previous: Option<Entry>,
}

impl Entry {
    pub(super) fn write(&self, out: &mut Writer) {
        out.key(&self.key);
        for number in [self.revision, self.created, self.version, self.lease.unwrap_or(0)] {
            out.u64(number);
        }
        out.value(&self.value);
    }

    pub(super) fn read(input: &mut Reader) -> Result<Self, InvalidResponse> {
        Ok(Self {
            key: input.key()?,
            revision: input.u64()?,
            created: input.u64()?,
            version: input.u64()?,
            lease: Some(input.u64()?).filter(|lease| *lease != 0),
            value: input.value()?,
        })
    }
}

impl Page {
    pub(super) fn write(&self, out: &mut Writer) {
        out.u64(self.revision);
        out.u64(self.matched);
        out.key(self.next.as_deref().unwrap_or_default());
        write_all(out, &self.entries, Entry::write);
    }

    pub(super) fn read(input: &mut Reader) -> Result<Self, InvalidResponse> {
        Ok(Self {
            revision: input.u64()?,
            matched: input.u64()?,
            next: Some(input.key()?).filter(|next| !next.is_empty()),
            entries: read_all(input, Entry::read)?,
        })
    }
}

impl Events {
    pub(super) fn write(&self, out: &mut Writer) {
        self.next.write(out);
        out.u64(self.revision);
        write_all(out, &self.events, Event::write);
    }

    pub(super) fn read(input: &mut Reader) -> Result<Self, InvalidResponse> {
        Ok(Self {
            next: Position::read(input)?,
            revision: input.u64()?,
            events: read_all(input, Event::read)?,
        })
    }
}

impl Event {
    pub(super) fn write(&self, out: &mut Writer) {
        out.u64(self.revision);
        out.key(&self.key);
        write_optional(out, self.entry.as_ref());
        write_optional(out, self.previous.as_ref());
    }

    pub(super) fn read(input: &mut Reader) -> Result<Self, InvalidResponse> {
        Ok(Self {
            revision: input.u64()?,
            key: input.key()?,
            entry: read_optional(input)?,
            previous: read_optional(input)?,
        })
    }
}

pub(super) fn write_all<T>(out: &mut Writer, all: &[T], write: fn(&T, &mut Writer)) {
    out.u32(u32::try_from(all.len()).expect("pages are limited"));
    all.iter().for_each(|one| write(one, out));
}

/// What is announced and not there takes no memory.
pub(super) fn read_all<T>(
    input: &mut Reader,
    read: fn(&mut Reader) -> Result<T, InvalidResponse>,
) -> Result<Vec<T>, InvalidResponse> {
    let mut all = Vec::new();
    for _ in 0..input.u32()? {
        all.push(read(input)?);
    }
    Ok(all)
}

pub(super) fn write_optional(out: &mut Writer, entry: Option<&Entry>) {
    out.u8(u8::from(entry.is_some()));
    if let Some(entry) = entry {
        entry.write(out);
    }
}

pub(super) fn read_optional(input: &mut Reader) -> Result<Option<Entry>, InvalidResponse> {
    Ok(if flag(input)? { Some(Entry::read(input)?) } else { None })
}

pub(super) fn flag(input: &mut Reader) -> Result<bool, InvalidResponse> {
    match input.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(InvalidResponse),
    }
}
