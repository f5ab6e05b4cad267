//! The state of the key-value store.
//!
//! [`store`] has the keys and their history, [`leases`] what keys go with, [`pages`] answers, and
//! [`transaction`] does several things at once.
//!
//! Pure and deterministic: equal commands give equal states, and equal states equal snapshots.

use std::io::Read;

use bytes::Bytes;

use super::command::{
    Command, EventQuery, Failure, Limits, PAGE_LIMIT_MAX, Query, Response, Transaction,
};
use crate::replica::{Alarm, Effects, Image, InvalidSnapshot, Machine, Past};

mod key;
mod leases;
mod pages;
mod past;
mod snapshot;
mod store;
mod transaction;
mod version;

pub use leases::{LEASE_KEYS_MAX, LEASE_TTL_MAX, LEASE_TTL_MIN, LEASES_MAX};

use leases::Leases;
use store::{NewValue, Store};
use version::cost;

/// The replicated map. A clone shares what the two have in common.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct KvMachine {
    store: Store,
    leases: Leases,
}

impl KvMachine {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store that begins with these limits, until a command changes them. All replicas must
    /// begin with the same.
    pub fn with_limits(limits: Limits) -> Self {
        Self { store: Store::at(0, 0, limits), ..Self::default() }
    }

    /// Keys that have a value.
    pub fn len(&self) -> usize {
        self.store.live.len()
    }

    /// Whether no key has a value.
    pub fn is_empty(&self) -> bool {
        self.store.live.is_empty()
    }

    /// Index of the last change.
    pub fn revision(&self) -> u64 {
        self.store.revision
    }

    /// The value of a key, and the index of its last change.
    pub fn value(&self, key: &[u8]) -> Option<(u64, &[u8])> {
        self.store.get(key).map(|version| (version.revision, version.value()))
    }

    fn change(
        &mut self,
        index: u64,
        command: Command,
        effects: &mut Effects,
    ) -> Result<Response, Response> {
        match command {
            Command::Clear { key } => self.commit(index, [(key, None)]),
            Command::Compact { revision } => self.store.compact(revision),
            Command::Expire { lease, kept } => {
                if self.leases.is_over(lease, kept) {
                    self.end_lease(index, lease, effects)?;
                }
            }
            Command::Grant { ttl } => {
                let granted = self.leases.grant(index, ttl, effects).map_err(failed)?;
                return Ok(Response::Leases { revision: self.revision(), leases: vec![granted] });
            }
            Command::Keep { lease } => {
                let kept = self.leases.keep(index, lease, effects).map_err(failed)?;
                return Ok(Response::Leases { revision: self.revision(), leases: vec![kept] });
            }
            Command::Limits(limits) => {
                self.store.limits = limits;
                self.store.trim();
            }
            Command::Revoke { lease } => self.end_lease(index, lease, effects)?,
            Command::Set { key, value } => self.set(index, key, value)?,
            Command::Transaction(transaction) => return self.transact(index, &transaction),
        }
        Ok(Response::Done { revision: self.revision() })
    }

    fn set(&mut self, index: u64, key: Bytes, value: Bytes) -> Result<(), Response> {
        let added = cost(key.len(), value.len());
        // What goes is looked for only if it matters.
        let removed = || self.store.get(&key).map_or(0, |version| version.cost());
        if !self.store.has_room(added, 0) && !self.store.has_room(added, removed()) {
            return Err(failed(Failure::Quota { bytes_max: self.store.limits.bytes_max }));
        }
        self.commit(index, [(key, Some(NewValue { value, lease: 0 }))]);
        Ok(())
    }

    fn transact(&mut self, index: u64, transaction: &Transaction) -> Result<Response, Response> {
        let Self { store, leases } = &*self;
        let (changes, mut settled) = transaction::evaluate(store, leases, index, transaction)?;
        self.commit(index, changes);
        settled.revision = self.revision();
        Ok(Response::Transaction(settled))
    }

    fn end_lease(&mut self, index: u64, lease: u64, effects: &mut Effects) -> Result<(), Response> {
        let keys = self.leases.end(lease, effects).map_err(failed)?;
        self.commit(index, keys.into_iter().map(|key| (key, None)));
        Ok(())
    }

    fn commit(&mut self, index: u64, changes: impl IntoIterator<Item = (Bytes, Option<NewValue>)>) {
        let Self { store, leases } = self;
        store.commit(index, changes, |before, after| leases.replaced(before, after));
    }

    fn answer(&self, query: &Query) -> Result<Response, Failure> {
        let revision = self.revision();
        Ok(match query {
            Query::AtLeast { revision: least, .. } if revision < *least => {
                return Err(Failure::Behind { revision });
            }
            Query::AtLeast { query, .. } => self.answer(query)?,
            Query::Entry { key, revision: at } => {
                let at = self.store.readable(*at)?;
                match self.store.get_at(key, at) {
                    Some(version) => Response::Entry { revision, entry: version.entry() },
                    None => Response::Absent { revision },
                }
            }
            Query::Events(events) => Response::Events(self.store.events(events)?),
            Query::Get { key } => match self.store.get(key) {
                Some(version) => {
                    let value = Bytes::copy_from_slice(version.value());
                    Response::Value { revision: version.revision, value }
                }
                None => Response::Absent { revision },
            },
            Query::History { key, after, limit } => {
                Response::Events(self.store.history(key, *after, *limit))
            }
            Query::Leases { after, limit } => {
                let limit = (*limit).clamp(1, PAGE_LIMIT_MAX) as usize;
                let leases = self.leases.after(*after).take(limit).collect();
                Response::Leases { revision, leases }
            }
            Query::List(selection) => Response::Page(self.store.page(selection)?),
            Query::State => Response::State(self.store.state()),
        })
    }

    /// An answer for somebody who waits for changes; none as long as there is nothing to say.
    fn answer_events(&self, query: &EventQuery) -> Option<Response> {
        match self.store.events(query) {
            Ok(found) if !self.store.is_answered(query, &found) => None,
            Ok(found) => Some(Response::Events(found)),
            Err(failure) => Some(failed(failure)),
        }
    }
}

impl Machine for KvMachine {
    fn apply(&mut self, index: u64, command: &Bytes, effects: &mut Effects) -> Bytes {
        let response = match Command::decode(command) {
            Ok(command) => self.change(index, command, effects).unwrap_or_else(|refusal| refusal),
            Err(reason) => Response::Refused(reason),
        };
        response.encode()
    }

    fn query(&self, query: &Bytes, _: &dyn Past) -> Bytes {
        let response = match Query::decode(query) {
            Ok(query) => self.answer(&query).unwrap_or_else(failed),
            Err(reason) => Response::Refused(reason),
        };
        response.encode()
    }

    fn poll_query(&self, query: &Bytes, past: &dyn Past) -> Option<Bytes> {
        match Query::decode(query) {
            Ok(Query::AtLeast { revision, .. }) if self.revision() < revision => None,
            Ok(Query::Events(events)) => self.answer_events(&events).map(|it| it.encode()),
            _ => Some(self.query(query, past)),
        }
    }

    fn may_answer(&self, query: &Bytes, since: u64) -> bool {
        match Query::decode(query) {
            Ok(Query::AtLeast { revision, .. }) => self.revision() >= revision,
            Ok(Query::Events(events)) => self.store.may_answer(&events, since),
            _ => true,
        }
    }

    fn alarms(&self) -> Vec<Alarm> {
        self.leases.alarms()
    }

    fn snapshot(&self) -> Image {
        snapshot::image(&self.store, &self.leases)
    }

    fn restore(&mut self, snapshot: &mut dyn Read) -> Result<(), InvalidSnapshot> {
        *self = snapshot::read(snapshot)?;
        Ok(())
    }
}

fn failed(failure: Failure) -> Response {
    Response::Failed { operation: 0, failure }
}

#[cfg(test)]
mod tests;
