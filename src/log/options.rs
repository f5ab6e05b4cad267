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
    /// Whether of the records with the same key only the last one has to stay [default: no]. All
    /// records must have a key then. The other limits count as well.
    pub compaction: Option<Compaction>,
    /// Bytes that key and value of one record may have [default: 1 MiB; up to 8 MiB less 1 KiB].
    pub record_bytes_max: u32,
}

/// How a topic forgets records that others with the same key have followed. The idea is that of
/// Kafka's compacted topics.
///
/// The replica that leads does it now and then, in rounds. The last record of each key stays, with
/// its offset and its timestamp; so whoever reads from any offset to the end knows the last value of
/// every key that was written since. Records that are gone leave a gap in the offsets, which readers
/// pass over. A record with an empty value is a tombstone: it stands for the end of its key, and
/// goes itself after a time. The newest few KiB of a topic, or the newest batch if that is larger,
/// are not compacted.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize)]
pub struct Compaction {
    /// Every record stays for at least this time [default: 0; in whole seconds, up to 100 years;
    /// counted as [`TopicOptions::age`] is]. Readers who lag less see every record.
    pub after: Duration,
    /// Tombstones stay for at least this time [default: 24 h; likewise]. Readers who lag less see
    /// that a key has ended; others may keep its last value.
    pub tombstones_for: Duration,
    /// A round begins when so much of the topic, in percent of its bytes, has come since the last
    /// one and is old enough [default: 50; 1 to 100]. Larger: less is written again, and the topic
    /// has more bytes. A round writes again what is left of the whole topic.
    pub dirty_percent: u8,
}

impl Default for Compaction {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 3600);
        Self { after: Duration::ZERO, tombstones_for: day, dirty_percent: 50 }
    }
}

/// An option is outside its limits, or the bytes are no options.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("an option of the topic is outside its limits")]
pub struct InvalidOptions;

impl Default for TopicOptions {
    fn default() -> Self {
        Self {
            age: None,
            bytes: None,
            records: None,
            compaction: None,
            record_bytes_max: 1024 * 1024,
        }
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
        let compaction = self.compaction.is_none_or(|compaction| compaction.is_valid());
        if age && counts && record && compaction { Ok(()) } else { Err(InvalidOptions) }
    }

    /// The age in seconds.
    pub(super) fn age_seconds(&self) -> Option<u32> {
        self.age.map(seconds)
    }

    /// The shortest time that has to be counted, in seconds; none if there is none.
    pub(super) fn shortest_seconds(&self) -> Option<u32> {
        let of_compaction = self.compaction.map(|it| [it.after, it.tombstones_for]);
        let counted = of_compaction.into_iter().flatten().filter(|time| !time.is_zero());
        counted.chain(self.age).map(seconds).min()
    }

    /// `age s u64 | bytes u64 | records u64 | record bytes max u32 | dirty percent u8 | after s u64
    /// | tombstones for s u64`; 0 for no limit, and for no compaction.
    pub(super) fn put(&self, out: &mut BytesMut) {
        out.put_u64_le(self.age.map_or(0, |age| age.as_secs()));
        out.put_u64_le(self.bytes.unwrap_or(0));
        out.put_u64_le(self.records.unwrap_or(0));
        out.put_u32_le(self.record_bytes_max);
        out.put_u8(self.compaction.map_or(0, |compaction| compaction.dirty_percent));
        out.put_u64_le(self.compaction.map_or(0, |compaction| compaction.after.as_secs()));
        out.put_u64_le(self.compaction.map_or(0, |compaction| compaction.tombstones_for.as_secs()));
    }

    pub(super) fn take(input: &mut Bytes) -> Result<Self, InvalidOptions> {
        let mut limit = || input.try_get_u64_le().map_err(|_| InvalidOptions);
        let (age, bytes, records) = (limit()?, limit()?, limit()?);
        let some = |limit: u64| (limit > 0).then_some(limit);
        let record_bytes_max = input.try_get_u32_le().map_err(|_| InvalidOptions)?;
        let options = Self {
            age: some(age).map(Duration::from_secs),
            bytes: some(bytes),
            records: some(records),
            compaction: Compaction::take(input)?,
            record_bytes_max,
        };
        options.check()?;
        Ok(options)
    }
}

impl Compaction {
    fn is_valid(self) -> bool {
        let is_time = |time: Duration| time <= AGE_MAX && time.subsec_nanos() == 0;
        is_time(self.after)
            && is_time(self.tombstones_for)
            && (1..=100).contains(&self.dirty_percent)
    }

    fn take(input: &mut Bytes) -> Result<Option<Self>, InvalidOptions> {
        // Commands of logs that were written before there was compaction end here.
        if input.is_empty() {
            return Ok(None);
        }
        let dirty_percent = input.try_get_u8().map_err(|_| InvalidOptions)?;
        let mut time = || input.try_get_u64_le().map_err(|_| InvalidOptions);
        let (after, tombstones_for) = (time()?, time()?);
        if (dirty_percent, after, tombstones_for) == (0, 0, 0) {
            return Ok(None);
        }
        let [after, tombstones_for] = [after, tombstones_for].map(Duration::from_secs);
        Ok(Some(Self { after, tombstones_for, dirty_percent }))
    }
}

/// Whole seconds, as the clock of the machine counts them.
pub(super) fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of the options in logs that were written before there was compaction.
    const BEFORE_COMPACTION: usize = 28;

    /// Both sides of each limit: what was accepted once is replicated for ever.
    #[test]
    fn options_are_checked_on_both_sides() {
        let good = TopicOptions::default();
        let most = u32::try_from(RECORD_BYTES_MAX).unwrap();
        let default = Compaction::default();
        let compacted = |compaction| TopicOptions { compaction: Some(compaction), ..good };
        for options in [
            good,
            TopicOptions { age: Some(AGE_MIN), bytes: Some(1), records: Some(1), ..good },
            TopicOptions { age: Some(AGE_MAX), record_bytes_max: most, ..good },
            TopicOptions { record_bytes_max: 1, ..good },
            compacted(Compaction::default()),
            compacted(Compaction { dirty_percent: 1, tombstones_for: Duration::ZERO, ..default }),
            compacted(Compaction { dirty_percent: 100, after: AGE_MAX, ..default }),
        ] {
            assert_eq!(options.check(), Ok(()), "{options:?}");
            let mut out = BytesMut::new();
            options.put(&mut out);
            let bytes = out.freeze();
            assert_eq!(TopicOptions::take(&mut bytes.clone()), Ok(options));
            for cut in (0..bytes.len()).filter(|cut| *cut != BEFORE_COMPACTION) {
                assert!(TopicOptions::take(&mut bytes.slice(..cut)).is_err(), "cut at {cut}");
            }
            let before = TopicOptions::take(&mut bytes.slice(..BEFORE_COMPACTION));
            assert_eq!(before, Ok(TopicOptions { compaction: None, ..options }));
        }
        for options in [
            TopicOptions { age: Some(Duration::from_millis(1500)), ..good },
            TopicOptions { age: Some(Duration::ZERO), ..good },
            TopicOptions { age: Some(AGE_MAX + AGE_MIN), ..good },
            TopicOptions { bytes: Some(0), ..good },
            TopicOptions { records: Some(0), ..good },
            TopicOptions { record_bytes_max: 0, ..good },
            TopicOptions { record_bytes_max: most + 1, ..good },
            compacted(Compaction { dirty_percent: 0, ..default }),
            compacted(Compaction { dirty_percent: 101, ..default }),
            compacted(Compaction { after: Duration::from_millis(1), ..default }),
            compacted(Compaction { tombstones_for: AGE_MAX + AGE_MIN, ..default }),
        ] {
            assert_eq!(options.check(), Err(InvalidOptions), "{options:?}");
        }
    }
}
