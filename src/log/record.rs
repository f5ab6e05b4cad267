//! Records as bytes, and batches of them.
//!
//! ```text
//! record    key bytes u16 | value bytes u32 | key | value       no key: 0 bytes
//! ```
//!
//! Numbers are little endian. Records stand one behind the other, as their writer encoded them:
//! they are proposed, logged and given to readers as they are. Pure; decoding never panics and
//! copies nothing.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes that a key may have; it has at least one if there is one.
pub const KEY_BYTES_MAX: usize = 4 * 1024;
/// Bytes that key and value of a record may have together: 8 MiB less 1 KiB, which leaves room in a
/// payload of 8 MiB for what goes around it. A node whose payload limit is lower takes less.
pub const RECORD_BYTES_MAX: usize = 8 * 1024 * 1024 - 1024;
/// Bytes that the records of one batch may have, with what stands before each of them.
pub const BATCH_BYTES_MAX: usize = RECORD_BYTES_MAX + RECORD_HEADER_BYTES;
/// Records that one batch may have; it has at least one.
pub const BATCH_RECORDS_MAX: usize = 65_536;
/// Bytes before the key of a record.
pub(super) const RECORD_HEADER_BYTES: usize = 6;

/// What is appended to a topic: any bytes, and a key if it is to have one.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Record {
    /// What the record is about, such as the id of an order; up to 4,096 bytes. It orders nothing.
    pub key: Option<Bytes>,
    /// Its content.
    pub value: Bytes,
}

/// Why a record or a batch cannot be.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidRecord {
    /// A batch has at least one record, and not too many.
    #[error("a batch has 1 to {BATCH_RECORDS_MAX} records")]
    Count,
    /// The bytes are not those of records.
    #[error("not a batch of records")]
    Damaged,
    /// The key is empty or too long.
    #[error("a key has 1 to {KEY_BYTES_MAX} bytes")]
    Key,
    /// The record is too large for any topic, or the records are for one batch.
    #[error("records of one batch have at most {BATCH_BYTES_MAX} bytes together")]
    TooLarge,
}

impl Record {
    /// A record without a key.
    pub fn new(value: impl Into<Bytes>) -> Self {
        Self { key: None, value: value.into() }
    }

    /// A record with a key.
    pub fn with_key(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self { key: Some(key.into()), value: value.into() }
    }

    /// Bytes of key and value.
    pub fn bytes(&self) -> usize {
        self.key.as_ref().map_or(0, Bytes::len) + self.value.len()
    }

    /// Bytes of the record in a batch.
    pub(super) fn encoded_bytes(&self) -> usize {
        RECORD_HEADER_BYTES + self.bytes()
    }

    /// Whether it can be part of a batch.
    pub(super) fn check(&self) -> Result<(), InvalidRecord> {
        let key_bytes = self.key.as_ref().map(Bytes::len);
        if key_bytes.is_some_and(|bytes| bytes == 0 || bytes > KEY_BYTES_MAX) {
            return Err(InvalidRecord::Key);
        }
        if self.bytes() > RECORD_BYTES_MAX { Err(InvalidRecord::TooLarge) } else { Ok(()) }
    }

    fn put(&self, out: &mut BytesMut) {
        let key = self.key.as_deref().unwrap_or_default();
        out.put_u16_le(u16::try_from(key.len()).expect("the key was checked"));
        out.put_u32_le(u32::try_from(self.value.len()).expect("the value was checked"));
        out.put_slice(key);
        out.put_slice(&self.value);
    }

    fn take(input: &mut Bytes) -> Result<Self, InvalidRecord> {
        let short = |_| InvalidRecord::Damaged;
        let key_bytes = usize::from(input.try_get_u16_le().map_err(short)?);
        let value_bytes = input.try_get_u32_le().map_err(short)?;
        let value_bytes = usize::try_from(value_bytes).map_err(|_| InvalidRecord::Damaged)?;
        if key_bytes + value_bytes > input.remaining() {
            return Err(InvalidRecord::Damaged);
        }
        let key = input.split_to(key_bytes);
        let key = (!key.is_empty()).then_some(key);
        let record = Self { key, value: input.split_to(value_bytes) };
        record.check()?;
        Ok(record)
    }
}

/// The bytes of a batch.
///
/// # Errors
///
/// [`InvalidRecord`]: one of them is outside its limits, or all together are.
pub(super) fn encode(records: &[Record]) -> Result<Bytes, InvalidRecord> {
    if records.is_empty() || records.len() > BATCH_RECORDS_MAX {
        return Err(InvalidRecord::Count);
    }
    let mut bytes = 0;
    for record in records {
        record.check()?;
        bytes += record.encoded_bytes();
    }
    if bytes > BATCH_BYTES_MAX {
        return Err(InvalidRecord::TooLarge);
    }
    let mut out = BytesMut::with_capacity(bytes);
    for record in records {
        record.put(&mut out);
    }
    Ok(out.freeze())
}

/// The records of a batch that has `count` of them; keys and values are slices of `bytes`.
///
/// # Errors
///
/// [`InvalidRecord`]: that is not what the bytes are.
pub(super) fn decode(bytes: &Bytes, count: u32) -> Result<Vec<Record>, InvalidRecord> {
    let mut records = Vec::with_capacity(bytes.len().min(count as usize * 64) / 64);
    walk(bytes, count, |record| records.push(record))?;
    Ok(records)
}

/// Looks at every record of a batch.
pub(super) fn walk(
    bytes: &Bytes,
    count: u32,
    mut see: impl FnMut(Record),
) -> Result<(), InvalidRecord> {
    if count == 0 || count as usize > BATCH_RECORDS_MAX {
        return Err(InvalidRecord::Count);
    }
    if bytes.len() > BATCH_BYTES_MAX {
        return Err(InvalidRecord::TooLarge);
    }
    let mut input = bytes.clone();
    for _ in 0..count {
        see(Record::take(&mut input)?);
    }
    if input.is_empty() { Ok(()) } else { Err(InvalidRecord::Damaged) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn some_record() -> impl Strategy<Value = Record> {
        let bytes = |least| prop::collection::vec(any::<u8>(), least..9).prop_map(Bytes::from);
        (prop::option::of(bytes(1)), bytes(0)).prop_map(|(key, value)| Record { key, value })
    }

    /// Both sides of each limit: what was accepted once is in the log for ever.
    #[test]
    fn records_are_checked_on_both_sides() {
        let key = |bytes| Record::with_key(vec![0; bytes], "v");
        assert_eq!(key(0).check(), Err(InvalidRecord::Key));
        assert_eq!(key(KEY_BYTES_MAX).check(), Ok(()));
        assert_eq!(key(KEY_BYTES_MAX + 1).check(), Err(InvalidRecord::Key));
        let value = |bytes| encode(&[Record::new(vec![0; bytes])]).map(|bytes| bytes.len());
        assert_eq!(value(RECORD_BYTES_MAX), Ok(BATCH_BYTES_MAX));
        assert_eq!(value(RECORD_BYTES_MAX + 1), Err(InvalidRecord::TooLarge));
        let two = [Record::new(vec![0; RECORD_BYTES_MAX]), Record::default()];
        assert_eq!(encode(&two), Err(InvalidRecord::TooLarge));
        assert_eq!(encode(&[]), Err(InvalidRecord::Count));
        assert_eq!(
            encode(&vec![Record::default(); BATCH_RECORDS_MAX + 1]),
            Err(InvalidRecord::Count)
        );
    }

    proptest! {
        /// What is read is what was written; with another count it is nothing.
        #[test]
        fn batch_round_trips(records in prop::collection::vec(some_record(), 1..9)) {
            let bytes = encode(&records).unwrap();
            let count = u32::try_from(records.len()).unwrap();
            prop_assert_eq!(decode(&bytes, count).unwrap(), records);
            prop_assert!(decode(&bytes, count - 1).is_err());
            prop_assert!(decode(&bytes, count + 1).is_err());
            for cut in 0..bytes.len() {
                prop_assert!(decode(&bytes.slice(..cut), count).is_err());
            }
        }

        /// Whatever a client sends is records or is refused.
        #[test]
        fn no_bytes_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..80), count in any::<u32>()) {
            drop(decode(&Bytes::from(bytes), count));
        }
    }
}
