//! Leases: keys that go when nobody says for a time that they are still wanted.
//!
//! Time is an impulse, as for [sessions](crate::replica::session): the leader counts and proposes the
//! end, and the command that ends a lease names the one that had kept it alive last; if there was
//! another since, it does nothing.
//!
//! Pure. Invariant: a key is attached to a lease here exactly if its present version says so.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use imbl::OrdMap;

use super::super::command::{Command, Failure, Lease};
use super::key::Key;
use super::version::Version;
use crate::replica::{Alarm, Effects};

/// The shortest time to live, whatever was asked for.
pub const LEASE_TTL_MIN: Duration = Duration::from_millis(100);
/// The longest.
pub const LEASE_TTL_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
/// Leases that there may be.
pub const LEASES_MAX: usize = 65_536;
/// Keys that may go with one lease: they are cleared in one entry.
pub const LEASE_KEYS_MAX: usize = 65_536;

/// The leases that there are.
#[derive(Clone, Debug, Default)]
pub(super) struct Leases {
    /// Shares its nodes with images that are being written.
    pub(super) open: OrdMap<u64, Terms>,
    attached: BTreeMap<u64, BTreeSet<Key>>,
}

/// How long a lease lasts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Terms {
    pub(super) ttl: Duration,
    /// Index of the command that granted it or kept it alive last.
    pub(super) kept: u64,
}

impl Leases {
    pub(super) fn grant(
        &mut self,
        index: u64,
        ttl: Duration,
        effects: &mut Effects,
    ) -> Result<Lease, Failure> {
        if self.open.len() >= LEASES_MAX {
            return Err(Failure::LeaseFull);
        }
        let terms = Terms { ttl: ttl.clamp(LEASE_TTL_MIN, LEASE_TTL_MAX), kept: index };
        effects.set_alarm(terms.alarm(index));
        self.open.insert(index, terms);
        Ok(self.describe(index, terms))
    }

    pub(super) fn keep(
        &mut self,
        index: u64,
        lease: u64,
        effects: &mut Effects,
    ) -> Result<Lease, Failure> {
        let terms = self.open.get_mut(&lease).ok_or(Failure::LeaseUnknown { lease })?;
        terms.kept = index;
        let terms = *terms;
        effects.set_alarm(terms.alarm(lease));
        Ok(self.describe(lease, terms))
    }

    /// Whether nothing kept a lease alive since its time began.
    pub(super) fn is_over(&self, lease: u64, kept: u64) -> bool {
        self.open.get(&lease).is_some_and(|terms| terms.kept == kept)
    }

    /// Ends a lease, and says which keys go with it.
    pub(super) fn end(&mut self, lease: u64, effects: &mut Effects) -> Result<Vec<Bytes>, Failure> {
        self.open.remove(&lease).ok_or(Failure::LeaseUnknown { lease })?;
        effects.clear_alarm(lease);
        let attached = self.attached.get(&lease);
        let keys = attached.into_iter().flatten().map(|key| Bytes::copy_from_slice(key.bytes()));
        Ok(keys.collect())
    }

    /// Whether so many more keys can go with a lease.
    pub(super) fn check(&self, lease: u64, more: usize) -> Result<(), Failure> {
        match self.open.contains_key(&lease) {
            false => Err(Failure::LeaseUnknown { lease }),
            true if self.keys(lease) + more > LEASE_KEYS_MAX => Err(Failure::LeaseFull),
            true => Ok(()),
        }
    }

    /// A version of a key takes the place of another.
    pub(super) fn replaced(&mut self, before: Option<&Version>, after: &Version) {
        if let Some(before) = before.filter(|before| before.lease != 0)
            && before.lease != after.lease
            && let Some(keys) = self.attached.get_mut(&before.lease)
        {
            keys.remove(before.key());
            if keys.is_empty() {
                self.attached.remove(&before.lease);
            }
        }
        if after.lease != 0 {
            let keys = self.attached.entry(after.lease).or_default();
            keys.insert(after.key.clone());
        }
    }

    pub(super) fn after(&self, id: u64) -> impl Iterator<Item = Lease> {
        let range = (std::ops::Bound::Excluded(id), std::ops::Bound::Unbounded);
        self.open.range(range).map(|(id, terms)| self.describe(*id, *terms))
    }

    pub(super) fn alarms(&self) -> Vec<Alarm> {
        self.open.iter().map(|(id, terms)| terms.alarm(*id)).collect()
    }

    fn describe(&self, id: u64, terms: Terms) -> Lease {
        Lease { id, ttl: terms.ttl, keys: self.keys(id) as u64 }
    }

    fn keys(&self, lease: u64) -> usize {
        self.attached.get(&lease).map_or(0, BTreeSet::len)
    }
}

impl Terms {
    fn alarm(self, lease: u64) -> Alarm {
        let command = Command::Expire { lease, kept: self.kept }.encode();
        let command = command.expect("it has no key and no value");
        Alarm { id: lease, after: self.ttl, command }
    }
}

impl PartialEq for Leases {
    fn eq(&self, other: &Self) -> bool {
        // What is attached follows from the keys.
        self.open == other.open
    }
}

impl Eq for Leases {}
