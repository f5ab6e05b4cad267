//! Which keys are meant: one, those with a prefix, or those between two bounds.
//!
//! Pure.

use bytes::{Bytes, BytesMut};

use super::wire::{Reader, Writer};
use super::{InvalidCommand, KEY_BYTES_MAX};

/// Keys from a bound, included, to another, excluded, in the order of their bytes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct KeyRange {
    /// The first key; empty begins with the first there is.
    pub(in crate::kv) start: Bytes,
    /// The first key that is not meant; empty goes on to the last there is.
    pub(in crate::kv) end: Bytes,
}

impl KeyRange {
    /// Every key.
    pub fn all() -> Self {
        Self::default()
    }

    /// One key.
    pub fn key(key: impl Into<Bytes>) -> Self {
        let start = key.into();
        Self { end: successor(&start), start }
    }

    /// Every key that begins with `prefix`; with an empty one every key.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start = prefix.into();
        let kept = start.iter().rposition(|byte| *byte != u8::MAX).map_or(0, |last| last + 1);
        let mut end = BytesMut::from(&start[..kept]);
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        Self { start, end: end.freeze() }
    }

    /// Keys from `start`, included, to `end`, excluded. An empty bound is none.
    pub fn between(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        Self { start: start.into(), end: end.into() }
    }

    /// Whether a key is meant.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.start.as_ref() <= key && (self.end.is_empty() || key < self.end.as_ref())
    }

    /// Whether no key can be meant.
    pub fn is_empty(&self) -> bool {
        !self.end.is_empty() && self.end <= self.start
    }

    /// The part that begins with a key, or going backwards, ends with it.
    pub(in crate::kv) fn starting_at(&self, key: &Bytes, is_reverse: bool) -> Self {
        match is_reverse {
            true => Self { start: self.start.clone(), end: successor(key) },
            false => Self { start: key.clone(), end: self.end.clone() },
        }
    }

    /// The part behind a key, or going backwards, before it.
    pub(in crate::kv) fn without(&self, key: &Bytes, is_reverse: bool) -> Self {
        match is_reverse {
            true => Self { start: self.start.clone(), end: key.clone() },
            false => Self { start: successor(key), end: self.end.clone() },
        }
    }

    pub(super) fn write(&self, out: &mut Writer) {
        out.key(&self.start);
        out.key(&self.end);
    }

    pub(super) fn read(input: &mut Reader) -> Result<Self, InvalidCommand> {
        let range = Self { start: input.key()?, end: input.key()? };
        range.check()?;
        Ok(range)
    }

    /// A bound may be one byte longer than a key, so that every key has one right behind it.
    pub(super) fn check(&self) -> Result<(), InvalidCommand> {
        let is_long = |bound: &Bytes| bound.len() > KEY_BYTES_MAX + 1;
        if is_long(&self.start) || is_long(&self.end) { Err(InvalidCommand::Key) } else { Ok(()) }
    }
}

/// The first key behind `key`.
fn successor(key: &[u8]) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.extend_from_slice(&[0]);
    next.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A prefix that ends in the highest byte has no successor of its own length.
    #[test]
    fn prefix_ends_before_the_next_one() {
        assert_eq!(KeyRange::prefix("ab"), KeyRange::between("ab", "ac"));
        assert_eq!(KeyRange::prefix(&b"a\xff\xff"[..]), KeyRange::between(&b"a\xff\xff"[..], "b"));
        assert_eq!(KeyRange::prefix(&b"\xff"[..]), KeyRange::between(&b"\xff"[..], ""));
        assert_eq!(KeyRange::prefix(""), KeyRange::all());
    }

    proptest! {
        /// However it is built, a range means what its name says.
        #[test]
        fn range_contains_what_it_is_named_for(key in prop::collection::vec(253_u8.., 0..4),
                                               other in prop::collection::vec(253_u8.., 0..4)) {
            let range = KeyRange::prefix(other.clone());
            prop_assert_eq!(range.contains(&key), key.starts_with(&other));
            prop_assert_eq!(KeyRange::key(other.clone()).contains(&key), key == other);
        }
    }
}
