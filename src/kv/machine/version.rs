//! One version of one key, shared by everything that mentions it.
//!
//! Pure.

use std::ops::Deref;

use bytes::Bytes;
use triomphe::ThinArc;

use super::super::command::Entry;
use super::key::Key;

/// What a version counts besides its bytes: about what it takes in memory.
const OVERHEAD: u64 = 100;

/// A value that a key got, or that it was cleared. A clone is the same version: numbers, key and
/// value are one allocation, counted by reference. The value is a copy, since the command that it
/// came with is a slice of a frame, which would live as long.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Version(ThinArc<Change, u8>);

/// What is known of a version besides its value.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Change {
    /// Index of the change.
    pub(super) revision: u64,
    /// Revision at which the key was created; 0 if it was cleared.
    pub(super) created: u64,
    /// Changes since then; 0 if it was cleared.
    pub(super) version: u64,
    /// The lease; 0 for none.
    pub(super) lease: u64,
    pub(super) key: Key,
}

impl Version {
    pub(super) fn new(key: Key, value: &[u8], numbers: Numbers) -> Self {
        let Numbers { revision, created, version, lease } = numbers;
        let change = Change { revision, created, version, lease, key };
        Self(ThinArc::from_header_and_slice(change, value))
    }

    /// That the key was cleared.
    pub(super) fn cleared(key: Key, revision: u64) -> Self {
        Self::new(key, &[], Numbers { revision, created: 0, version: 0, lease: 0 })
    }

    pub(super) fn key(&self) -> &[u8] {
        self.key.bytes()
    }

    pub(super) fn value(&self) -> &[u8] {
        &self.0.slice
    }

    pub(super) fn is_clear(&self) -> bool {
        self.version == 0
    }

    /// What it counts against the limits of the store.
    pub(super) fn cost(&self) -> u64 {
        cost(self.key().len(), self.value().len())
    }

    pub(super) fn entry(&self) -> Entry {
        Entry { value: Bytes::copy_from_slice(self.value()), ..self.entry_without_value() }
    }

    pub(super) fn entry_without_value(&self) -> Entry {
        Entry {
            key: Bytes::copy_from_slice(self.key()),
            value: Bytes::new(),
            revision: self.revision,
            created: self.created,
            version: self.version,
            lease: Some(self.lease).filter(|lease| *lease != 0),
        }
    }
}

impl Deref for Version {
    type Target = Change;

    fn deref(&self) -> &Change {
        &self.0.header.header
    }
}

/// What a key and its value count against the limits of the store.
pub(super) fn cost(key_bytes: usize, value_bytes: usize) -> u64 {
    (key_bytes + value_bytes) as u64 + OVERHEAD
}

/// The numbers of a version.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers {
    pub(super) revision: u64,
    pub(super) created: u64,
    pub(super) version: u64,
    pub(super) lease: u64,
}
