//! What a topic is created with.
//!
//! Pure. Checked by whoever creates a topic, and again where the command is applied.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::record::RECORD_BYTES_MAX;

/// The shortest age that records may be kept for.
pub const AGE_MIN: Duration = Duration::from_secs(1);
/// The longest.
pub const AGE_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// How long the records of a topic are kept, and what they may be. Without any limit they are kept
/// until somebody [trims](super::Topic::trim) the topic: nothing is forgotten that nobody asked to
/// forget.
///
/// A limit never takes records that it need not take; those beyond it go at the next append (bytes,
/// records) or soon (age). They go in intervals of the index: a few KiB, or one batch if that is
/// larger. With several limits, whichever is reached first counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize)]
pub struct TopicOptions {
    /// Records stay for at least this time [default: for ever; from 1 s to 100 years, in whole
    /// seconds]. It is counted only while a leader is there, in steps of up to 10 s and by no clock
    /// of the wall: a record goes late, never early.
    pub age: Option<Duration>,
    /// The newest records that have so many bytes stay [default: all; at least 1].
    pub bytes: Option<u64>,
    /// So many of the newest records stay [default: all; at least 1]. Exact to the record.
    pub records: Option<u64>,
    /// Bytes that key and value of one record may have [default: 1 MiB; up to 8 MiB less 1 KiB].
    pub record_bytes_max: u32,
}

/// An option is outside its limits, or the bytes are no options.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("an option of the topic is outside its limits")]
pub struct InvalidOptions;

impl Default for TopicOptions {
    fn default() -> Self {
        Self { age: None, bytes: None, records: None, record_bytes_max: 1024 * 1024 }
    }
}

impl TopicOptions {
    /// Whether every option is within its limits.
    ///
    /// # Errors
    ///
    /// [`InvalidOptions`].
    pub fn check(&self) -> Result<(), InvalidOptions> {
        let age = self
            .age
            .is_none_or(|age| (AGE_MIN..=AGE_MAX).contains(&age) && age.subsec_nanos() == 0);
        let counts = [self.bytes, self.records].into_iter().flatten().all(|count| count > 0);
        let record = usize::try_from(self.record_bytes_max).unwrap_or(usize::MAX);
        let record = (1..=RECORD_BYTES_MAX).contains(&record);
        if age && counts && record { Ok(()) } else { Err(InvalidOptions) }
    }

    /// The age in seconds.
    pub(super) fn age_seconds(&self) -> Option<u32> {
        self.age.map(|age| u32::try_from(age.as_secs()).unwrap_or(u32::MAX))
    }

    /// `age s u64 | bytes u64 | records u64 | record bytes max u32`; 0 for no limit.
    pub(super) fn put(&self, out: &mut BytesMut) {
        out.put_u64_le(self.age.map_or(0, |age| age.as_secs()));
        out.put_u64_le(self.bytes.unwrap_or(0));
        out.put_u64_le(self.records.unwrap_or(0));
        out.put_u32_le(self.record_bytes_max);
    }

    pub(super) fn take(input: &mut Bytes) -> Result<Self, InvalidOptions> {
        let mut limit = || input.try_get_u64_le().map_err(|_| InvalidOptions);
        let (age, bytes, records) = (limit()?, limit()?, limit()?);
        let some = |limit: u64| (limit > 0).then_some(limit);
        let options = Self {
            age: some(age).map(Duration::from_secs),
            bytes: some(bytes),
            records: some(records),
            record_bytes_max: input.try_get_u32_le().map_err(|_| InvalidOptions)?,
        };
        options.check()?;
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both sides of each limit: what was accepted once is replicated for ever.
    #[test]
    fn options_are_checked_on_both_sides() {
        let good = TopicOptions::default();
        let most = u32::try_from(RECORD_BYTES_MAX).unwrap();
        for options in [
            good,
            TopicOptions { age: Some(AGE_MIN), bytes: Some(1), records: Some(1), ..good },
            TopicOptions { age: Some(AGE_MAX), record_bytes_max: most, ..good },
            TopicOptions { record_bytes_max: 1, ..good },
        ] {
            assert_eq!(options.check(), Ok(()), "{options:?}");
            let mut out = BytesMut::new();
            options.put(&mut out);
            let bytes = out.freeze();
            assert_eq!(TopicOptions::take(&mut bytes.clone()), Ok(options));
            for cut in 0..bytes.len() {
                assert!(TopicOptions::take(&mut bytes.slice(..cut)).is_err(), "cut at {cut}");
            }
        }
        for options in [
            TopicOptions { age: Some(Duration::from_millis(1500)), ..good },
            TopicOptions { age: Some(Duration::ZERO), ..good },
            TopicOptions { age: Some(AGE_MAX + AGE_MIN), ..good },
            TopicOptions { bytes: Some(0), ..good },
            TopicOptions { records: Some(0), ..good },
            TopicOptions { record_bytes_max: 0, ..good },
            TopicOptions { record_bytes_max: most + 1, ..good },
        ] {
            assert_eq!(options.check(), Err(InvalidOptions), "{options:?}");
        }
    }
}
