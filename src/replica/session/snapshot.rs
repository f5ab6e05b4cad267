//! Sessions as bytes, in front of the machine's own snapshot.
//!
//! ```text
//! sessions  version u8 | count u64 | session... | CRC32C u32 over everything before
//! session   id u64 | idle ms u64 | active u64 | lowest u64 | count u64 | kept...
//! kept      serial u64 | index u64 | body bytes u64 | body CRC32C u32 | response bytes u64 | response
//! ```
//!
//! Numbers are little endian. Pure; what is read is checked, and takes no more memory than there
//! are bytes.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use super::super::machine::InvalidSnapshot;
use super::{Fingerprint, IDLE_MAX, IDLE_MIN, Kept, Session};

/// The version of the format.
const VERSION: u8 = 1;

type Map = BTreeMap<u64, Arc<Session>>;

pub(super) fn write(sessions: &Map, out: &mut dyn Write) -> io::Result<()> {
    let mut out = Summing { inner: out, checksum: 0 };
    out.put(&[VERSION])?;
    out.put_u64(sessions.len() as u64)?;
    for (id, session) in sessions {
        let idle = u64::try_from(session.idle.as_millis()).unwrap_or(u64::MAX);
        for number in [*id, idle, session.active, session.lowest, session.kept.len() as u64] {
            out.put_u64(number)?;
        }
        for (serial, kept) in &session.kept {
            for number in [*serial, kept.index, kept.body.bytes] {
                out.put_u64(number)?;
            }
            out.put(&kept.body.checksum.to_le_bytes())?;
            out.put_u64(kept.response.len() as u64)?;
            out.put(&kept.response)?;
        }
    }
    let checksum = out.checksum;
    out.put(&checksum.to_le_bytes())
}

pub(super) fn read(snapshot: &mut dyn Read) -> Result<Map, InvalidSnapshot> {
    let mut input = Summing { inner: snapshot, checksum: 0 };
    if input.take::<1>()? != [VERSION] {
        return Err(InvalidSnapshot::new("unknown version of the sessions"));
    }
    let mut sessions = Map::new();
    for _ in 0..input.take_u64()? {
        let (id, session) = read_session(&mut input)?;
        if sessions.last_key_value().is_some_and(|(last, _)| *last >= id) {
            return Err(InvalidSnapshot::new("sessions are not in order"));
        }
        sessions.insert(id, Arc::new(session));
    }
    let checksum = input.checksum;
    if input.take::<4>()? != checksum.to_le_bytes() {
        return Err(InvalidSnapshot::new("wrong checksum of the sessions"));
    }
    Ok(sessions)
}

fn read_session(input: &mut Summing<&mut dyn Read>) -> Result<(u64, Session), InvalidSnapshot> {
    let id = input.take_u64()?;
    let idle = Duration::from_millis(input.take_u64()?);
    let (active, lowest) = (input.take_u64()?, input.take_u64()?);
    if active < id || !(IDLE_MIN..=IDLE_MAX).contains(&idle) {
        return Err(InvalidSnapshot::new("impossible session"));
    }
    let mut session = Session { idle, active, lowest, kept: BTreeMap::new(), kept_bytes: 0 };
    for _ in 0..input.take_u64()? {
        let (serial, index, bytes) = (input.take_u64()?, input.take_u64()?, input.take_u64()?);
        let body = Fingerprint { bytes, checksum: u32::from_le_bytes(input.take()?) };
        let response_bytes = input.take_u64()?;
        let response = input.take_bytes(response_bytes)?;
        let last = session.kept.last_key_value().map_or(0, |(last, _)| *last);
        if serial <= last || serial < lowest || index > active {
            return Err(InvalidSnapshot::new("impossible result in a session"));
        }
        session.keep(serial, Kept { index, body, response: response.into() });
    }
    Ok((id, session))
}

/// Sums up what passes through.
struct Summing<T> {
    inner: T,
    checksum: u32,
}

impl Summing<&mut dyn Write> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.checksum = crc32c::crc32c_append(self.checksum, bytes);
        self.inner.write_all(bytes)
    }

    fn put_u64(&mut self, number: u64) -> io::Result<()> {
        self.put(&number.to_le_bytes())
    }
}

impl Summing<&mut dyn Read> {
    fn take<const BYTES: usize>(&mut self) -> Result<[u8; BYTES], InvalidSnapshot> {
        let mut bytes = [0; BYTES];
        self.inner.read_exact(&mut bytes)?;
        self.checksum = crc32c::crc32c_append(self.checksum, &bytes);
        Ok(bytes)
    }

    fn take_u64(&mut self) -> Result<u64, InvalidSnapshot> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    fn take_bytes(&mut self, count: u64) -> Result<Vec<u8>, InvalidSnapshot> {
        let mut bytes = Vec::new();
        (&mut *self.inner).take(count).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != count {
            return Err(InvalidSnapshot::new("cut short"));
        }
        self.checksum = crc32c::crc32c_append(self.checksum, &bytes);
        Ok(bytes)
    }
}
