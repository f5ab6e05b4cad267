//! Which records of a topic others with the same key have followed.
//!
//! Before a round of compaction the part of the topic that has come since the last one is read, and
//! the last offset of every key in it remembered: 16 bytes of a hash instead of the key, so that a
//! million keys fit into little memory. The hash has its own random keys in every round; that two of
//! a million keys have the same one happens in one of 10^26 rounds. Kafka's log cleaner works like
//! this.
//!
//! Pure: the hash, and with it the randomness, comes from outside.

use std::collections::HashMap;
use std::hash::BuildHasher;

use bytes::{Bytes, BytesMut};

use super::answer::Batch;
use super::record::{self, InvalidRecord, RECORD_HEADER_BYTES, Record};

/// Keys that are remembered: 1 million, about 64 MiB. If there are more in one round, it ends
/// earlier, and the next one goes on.
pub(super) const KEYS_MAX: usize = 1 << 20;

/// The last offset of each key.
pub(super) struct Latest<S> {
    /// Two of them make 128 bits.
    hashes: [S; 2],
    keys: HashMap<u128, u64>,
    keys_max: usize,
}

impl<S: BuildHasher> Latest<S> {
    pub(super) fn new(hashes: [S; 2], keys_max: usize) -> Self {
        Self { hashes, keys: HashMap::new(), keys_max }
    }

    /// Looks at a batch, which comes behind those that were seen before; says whether there is room
    /// for more. If there is not, none of this one may have been remembered.
    pub(super) fn see(&mut self, batch: &Batch) -> Result<bool, InvalidRecord> {
        let mut offset = batch.base;
        let mut keys = Vec::new();
        record::walk(&batch.records, batch.count, |record| {
            keys.extend(record.key.map(|key| (key, offset)));
            offset += 1;
        })?;
        if self.keys.len() + keys.len() > self.keys_max && !self.keys.is_empty() {
            return Ok(false);
        }
        for (key, offset) in keys {
            self.keys.insert(self.hash(&key), offset);
        }
        Ok(true)
    }

    fn hash(&self, key: &Bytes) -> u128 {
        let [high, low] = self.hashes.each_ref().map(|hash| u128::from(hash.hash_one(key)));
        high << 64 | low
    }

    /// Adds what is left of a batch. Tombstones below an offset go, too.
    pub(super) fn put_left(
        &self,
        batch: &Batch,
        tombstones: u64,
        out: &mut BytesMut,
    ) -> Result<(), InvalidRecord> {
        let mut left = Left { of: batch, from: None, at: 0, offset: batch.base };
        record::walk(&batch.records, batch.count, |record| {
            let stays = self.stays(&record, left.offset, tombstones);
            left.step(stays, RECORD_HEADER_BYTES + record.bytes(), out);
        })?;
        left.end(out);
        Ok(())
    }

    fn stays(&self, record: &Record, offset: u64, tombstones: u64) -> bool {
        // Those without a key are from before the topic was compacted.
        let Some(key) = &record.key else { return true };
        let is_last = self.keys.get(&self.hash(key)).is_none_or(|last| *last <= offset);
        is_last && !(record.value.is_empty() && offset < tombstones)
    }
}

/// Cuts out of a batch what is left of it: records that stand one behind the other are one batch.
struct Left<'a> {
    of: &'a Batch,
    /// Where those that stay begin, as bytes and as an offset.
    from: Option<(usize, u64)>,
    at: usize,
    offset: u64,
}

impl Left<'_> {
    fn step(&mut self, stays: bool, bytes: usize, out: &mut BytesMut) {
        if stays {
            self.from.get_or_insert((self.at, self.offset));
        } else {
            self.end(out);
        }
        (self.at, self.offset) = (self.at + bytes, self.offset + 1);
    }

    fn end(&mut self, out: &mut BytesMut) {
        let Some((begin, base)) = self.from.take() else { return };
        let count = u32::try_from(self.offset - base).expect("a batch is limited");
        let (timestamp, records) = (self.of.timestamp, self.of.records.slice(begin..self.at));
        Batch { base, timestamp, count, records }.put(out);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::hash::{BuildHasherDefault, DefaultHasher};

    use super::*;
    use crate::log::record::encode;
    use proptest::prelude::*;

    type Hash = BuildHasherDefault<DefaultHasher>;

    fn latest(keys_max: usize) -> Latest<Hash> {
        Latest::new(Default::default(), keys_max)
    }

    fn batch(base: u64, records: &[Record]) -> Batch {
        let count = u32::try_from(records.len()).unwrap();
        Batch { base, timestamp: base, count, records: encode(records).unwrap() }
    }

    fn left(latest: &Latest<Hash>, batch: &Batch, tombstones: u64) -> Vec<(u64, Record)> {
        let mut out = BytesMut::new();
        latest.put_left(batch, tombstones, &mut out).unwrap();
        let batches = Batch::take_all(&mut out.freeze()).unwrap();
        batches.iter().flat_map(|of| (of.base..).zip(of.decode().unwrap())).collect()
    }

    fn some_record() -> impl Strategy<Value = Record> {
        (prop::option::weighted(0.9, 0_u8..6), 0_usize..3).prop_map(|(key, bytes)| Record {
            key: key.map(|key| vec![key + 1].into()),
            value: vec![7; bytes].into(),
        })
    }

    proptest! {
        /// Of each key the last record is left, with its offset; nothing else goes but tombstones,
        /// and those only from where they may.
        #[test]
        fn last_record_of_each_key_is_left(
            batches in prop::collection::vec(prop::collection::vec(some_record(), 1..9), 1..6),
            tombstones in 0_u64..40,
        ) {
            let (mut base, mut all, mut latest) = (0, Vec::new(), latest(100));
            for records in &batches {
                let batch = batch(base, records);
                prop_assert!(latest.see(&batch).unwrap());
                base += records.len() as u64;
                all.push(batch);
            }
            let found: Vec<_> =
                all.iter().flat_map(|batch| left(&latest, batch, tombstones)).collect();
            let flat: Vec<_> = (0_u64..).zip(batches.into_iter().flatten()).collect();
            let last: BTreeMap<_, _> =
                flat.iter().map(|(offset, record)| (record.key.clone(), *offset)).collect();
            let expected = flat.into_iter().filter(|(offset, record)| {
                let is_gone = record.value.is_empty() && *offset < tombstones;
                record.key.is_none() || (last[&record.key] == *offset && !is_gone)
            });
            prop_assert_eq!(found, expected.collect::<Vec<_>>());
        }
    }

    /// A topic with more keys than memory is compacted all the same, in more rounds.
    #[test]
    fn keys_are_limited() {
        let mut latest = latest(3);
        let keys = |names: [&'static str; 2]| names.map(|name| Record::with_key(name, "v"));
        assert!(latest.see(&batch(0, &keys(["a", "b"]))).unwrap());
        assert!(!latest.see(&batch(2, &keys(["a", "c"]))).unwrap(), "it does not count twice");
        let gone = left(&latest, &batch(0, &keys(["a", "b"])), 0);
        assert_eq!(gone.iter().map(|(offset, _)| *offset).collect::<BTreeSet<_>>(), [0, 1].into());
    }
}
