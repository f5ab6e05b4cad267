//! The store as bytes. Equal stores write equal bytes, and only what a store can be is read.
//!
//! ```text
//! snapshot  version u8 | revision u64 | first u64 | limits u64, three times
//!           | leases u64 | lease... | versions u64 | version...
//! lease     id u64 | time to live in ms u64 | kept u64
//! version   key bytes u32 | value bytes u32 | revision u64 | created u64 | version u64 | lease u64
//!           | key | value
//! ```
//!
//! Versions come in the order of their keys and revisions. The last one of a key is what it has,
//! unless its `version` is 0: then it was cleared. Events are the versions after `first`.
//!
//! Pure. What is read takes no more memory than there are bytes.

use std::io::{self, Read, Write};
use std::time::Duration;

use imbl::OrdMap;

use super::super::command::{KEY_BYTES_MAX, Limits, VALUE_BYTES_MAX};
use super::KvMachine;
use super::key::Key;
use super::leases::{LEASE_TTL_MAX, LEASE_TTL_MIN, Leases, Terms};
use super::past::Past;
use super::store::{Live, Store};
use super::version::{Change, Numbers, Version};
use crate::replica::{Image, InvalidSnapshot};

/// The version of the format.
const FORMAT: u8 = 2;

/// Takes an image: what it writes is shared with the store as it is now.
pub(super) fn image(store: &Store, leases: &Leases) -> Image {
    let numbers = [store.revision, store.first];
    let numbers: Vec<u64> = numbers.into_iter().chain(store.limits.numbers()).collect();
    let (leases, store) = (leases.open.clone(), Shared::of(store));
    Box::new(move |out| write(&numbers, &leases, &store, out))
}

/// What an image shares with a store.
struct Shared {
    live: OrdMap<Key, Live>,
    cleared: OrdMap<Key, Past>,
    versions: u64,
}

impl Shared {
    fn of(store: &Store) -> Self {
        let (live, cleared) = (store.live.clone(), store.cleared.clone());
        Self { live, cleared, versions: store.version_count() }
    }
}

fn write(
    numbers: &[u64],
    leases: &OrdMap<u64, Terms>,
    store: &Shared,
    out: &mut dyn Write,
) -> io::Result<()> {
    out.write_all(&[FORMAT])?;
    write_numbers(out, numbers)?;
    write_numbers(out, &[leases.len() as u64])?;
    for (id, terms) in leases {
        let ttl = u64::try_from(terms.ttl.as_millis()).unwrap_or(u64::MAX);
        write_numbers(out, &[*id, ttl, terms.kept])?;
    }
    write_numbers(out, &[store.versions])?;
    let mut cleared = store.cleared.iter().peekable();
    for (key, live) in &store.live {
        while let Some((_, past)) = cleared.next_if(|(cleared, _)| *cleared < key) {
            write_versions(out, past)?;
        }
        write_versions(out, &live.past)?;
        write_version(out, &live.now)?;
    }
    cleared.try_for_each(|(_, past)| write_versions(out, past))
}

fn write_versions(out: &mut dyn Write, past: &Past) -> io::Result<()> {
    past.iter().try_for_each(|version| write_version(out, version))
}

fn write_version(out: &mut dyn Write, version: &Version) -> io::Result<()> {
    for bytes in [version.key().len(), version.value().len()] {
        let bytes = u32::try_from(bytes).expect("keys and values are checked");
        out.write_all(&bytes.to_le_bytes())?;
    }
    let Change { revision, created, version: number, lease, .. } = &**version;
    write_numbers(out, &[*revision, *created, *number, *lease])?;
    out.write_all(version.key())?;
    out.write_all(version.value())
}

fn write_numbers(out: &mut dyn Write, numbers: &[u64]) -> io::Result<()> {
    numbers.iter().try_for_each(|number| out.write_all(&number.to_le_bytes()))
}

/// Reads a whole snapshot.
pub(super) fn read(input: &mut dyn Read) -> Result<KvMachine, InvalidSnapshot> {
    let mut format = [0];
    input.read_exact(&mut format)?;
    if format != [FORMAT] {
        return Err(InvalidSnapshot::new("unknown version"));
    }
    let (revision, first) = (number(input)?, number(input)?);
    let limits = Limits {
        bytes_max: number(input)?,
        history_changes_max: number(input)?,
        history_bytes_max: number(input)?,
    };
    let mut machine =
        KvMachine { store: Store::at(revision, first, limits), leases: read_leases(input)? };
    ensure(first <= revision, "a history that begins after its end")?;
    read_versions(input, &mut machine)?;
    machine.store.sort_events();
    ensure(input.read(&mut [0])? == 0, "bytes after the end")?;
    Ok(machine)
}

fn read_leases(input: &mut dyn Read) -> Result<Leases, InvalidSnapshot> {
    let mut leases = Leases::default();
    for _ in 0..number(input)? {
        let (id, ttl, kept) = (number(input)?, number(input)?, number(input)?);
        let ttl = Duration::from_millis(ttl);
        let is_sound = (LEASE_TTL_MIN..=LEASE_TTL_MAX).contains(&ttl) && kept >= id && id > 0;
        let last = leases.open.get_max().map_or(0, |(last, _)| *last);
        ensure(is_sound && id > last, "impossible lease")?;
        leases.open.insert(id, Terms { ttl, kept });
    }
    Ok(leases)
}

fn read_versions(input: &mut dyn Read, machine: &mut KvMachine) -> Result<(), InvalidSnapshot> {
    let mut waiting: Option<Version> = None;
    let mut past = Past::default();
    for _ in 0..number(input)? {
        let version = read_version(input)?;
        let store = &machine.store;
        ensure(version.revision <= store.revision, "a change after the last")?;
        let is_known = !version.is_clear() || version.revision > store.first;
        ensure(is_known, "a clearing that is forgotten")?;
        if let Some(before) = waiting.replace(version.clone()) {
            let order = (before.key(), before.revision).cmp(&(version.key(), version.revision));
            ensure(order.is_lt(), "versions are not in order")?;
            if before.key() == version.key() {
                ensure(version.revision > store.first, "a version that is forgotten")?;
                past.push(before);
            } else {
                keep(machine, std::mem::take(&mut past), before)?;
            }
        }
    }
    waiting.map_or(Ok(()), |last| keep(machine, past, last))
}

/// Takes all versions of a key.
fn keep(machine: &mut KvMachine, past: Past, last: Version) -> Result<(), InvalidSnapshot> {
    let KvMachine { store, leases } = machine;
    if !last.is_clear() {
        // The lease of an earlier version may have ended; that of the last one cannot.
        let is_attached = last.lease == 0 || leases.open.contains_key(&last.lease);
        ensure(is_attached, "a key that goes with no lease")?;
        leases.replaced(None, &last);
    }
    store.insert(past, last);
    Ok(())
}

fn read_version(input: &mut dyn Read) -> Result<Version, InvalidSnapshot> {
    let (key_bytes, value_bytes) = (length(input)?, length(input)?);
    let is_sound = (1..=KEY_BYTES_MAX).contains(&key_bytes) && value_bytes <= VALUE_BYTES_MAX;
    ensure(is_sound, "a key or a value that is too long")?;
    let (revision, created) = (number(input)?, number(input)?);
    let (version, lease) = (number(input)?, number(input)?);
    let is_sound = match version {
        0 => created == 0 && lease == 0 && value_bytes == 0 && revision > 0,
        version => created > 0 && created <= revision && version <= revision - created + 1,
    };
    ensure(is_sound, "impossible version")?;
    let (key, value) = (bytes(input, key_bytes)?, bytes(input, value_bytes)?);
    Ok(Version::new(Key::new(&key), &value, Numbers { revision, created, version, lease }))
}

fn number(input: &mut dyn Read) -> Result<u64, InvalidSnapshot> {
    let mut bytes = [0; 8];
    input.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

fn length(input: &mut dyn Read) -> Result<usize, InvalidSnapshot> {
    let mut bytes = [0; 4];
    input.read_exact(&mut bytes)?;
    Ok(usize::try_from(u32::from_le_bytes(bytes)).unwrap_or(usize::MAX))
}

fn bytes(input: &mut dyn Read, count: usize) -> Result<Vec<u8>, InvalidSnapshot> {
    let mut bytes = Vec::new();
    (&mut *input).take(count as u64).read_to_end(&mut bytes)?;
    ensure(bytes.len() == count, "cut short")?;
    Ok(bytes)
}

fn ensure(condition: bool, reason: &str) -> Result<(), InvalidSnapshot> {
    if condition { Ok(()) } else { Err(InvalidSnapshot::new(reason)) }
}
