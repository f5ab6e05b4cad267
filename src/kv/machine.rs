//! The state of the key-value store: a sorted map in memory.
//!
//! Pure and deterministic: equal commands give equal states, and equal states equal snapshots.
//!
//! ```text
//! snapshot  version u8 | revision u64 | keys u64 | entry...
//! entry     key bytes u32 | value bytes u32 | revision u64 | key | value
//! ```

use std::collections::BTreeMap;
use std::io::Read;

use bytes::{Buf, Bytes};

use super::command::{Command, KEY_BYTES_MAX, Query, Response, VALUE_BYTES_MAX};
use crate::replica::{Effects, Image, InvalidSnapshot, Machine, Past};

/// The replicated map.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct KvMachine {
    entries: BTreeMap<Bytes, Entry>,
    /// Index of the last change.
    revision: u64,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Entry {
    /// Index of the last change of this key.
    revision: u64,
    value: Bytes,
}

/// The version of the snapshot's format.
const VERSION: u8 = 1;

impl KvMachine {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Keys that have a value.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no key has a value.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Index of the last change.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The value of a key, and the index of its last change.
    pub fn value(&self, key: &[u8]) -> Option<(u64, &Bytes)> {
        self.entries.get(key).map(|entry| (entry.revision, &entry.value))
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.revision.to_le_bytes());
        out.extend_from_slice(&(self.entries.len() as u64).to_le_bytes());
        for (key, entry) in &self.entries {
            let bytes = |bytes: &Bytes| u32::try_from(bytes.len()).expect("limits are checked");
            out.extend_from_slice(&bytes(key).to_le_bytes());
            out.extend_from_slice(&bytes(&entry.value).to_le_bytes());
            out.extend_from_slice(&entry.revision.to_le_bytes());
            out.extend_from_slice(key);
            out.extend_from_slice(&entry.value);
        }
        out
    }

    fn change(&mut self, index: u64, command: Command) -> Response {
        match command {
            Command::Clear { key } => {
                if self.entries.remove(&key).is_some() {
                    self.revision = index;
                }
            }
            Command::Set { key, value } => {
                // Copies: the command is a slice of a frame, which would live as long as the value.
                let entry = Entry { revision: index, value: Bytes::copy_from_slice(&value) };
                self.entries.insert(Bytes::copy_from_slice(&key), entry);
                self.revision = index;
            }
        }
        Response::Done { revision: self.revision }
    }
}

impl Machine for KvMachine {
    fn apply(&mut self, index: u64, command: &Bytes, _: &mut Effects) -> Bytes {
        let response = match Command::decode(command) {
            Ok(command) => self.change(index, command),
            Err(reason) => Response::Refused(reason),
        };
        response.encode()
    }

    fn query(&self, query: &Bytes, _: &dyn Past) -> Bytes {
        let response = match Query::decode(query) {
            Ok(Query::Get { key }) => match self.entries.get(&key) {
                Some(Entry { revision, value }) => {
                    Response::Value { revision: *revision, value: value.clone() }
                }
                None => Response::Absent { revision: self.revision },
            },
            Err(reason) => Response::Refused(reason),
        };
        response.encode()
    }

    fn snapshot(&self) -> Image {
        let state = self.clone();
        Box::new(move |out| out.write_all(&state.encode()))
    }

    fn restore(&mut self, snapshot: &mut dyn Read) -> Result<(), InvalidSnapshot> {
        let mut bytes = Vec::new();
        snapshot.read_to_end(&mut bytes)?;
        *self = decode(&bytes)?;
        Ok(())
    }
}

fn decode(mut input: &[u8]) -> Result<KvMachine, InvalidSnapshot> {
    let damaged = |reason: &str| InvalidSnapshot::new(reason);
    let short = |_| InvalidSnapshot::new("cut short");
    if input.try_get_u8().map_err(short)? != VERSION {
        return Err(damaged("unknown version"));
    }
    let revision = input.try_get_u64_le().map_err(short)?;
    let count = input.try_get_u64_le().map_err(short)?;
    let mut entries = BTreeMap::<Bytes, Entry>::new();
    for _ in 0..count {
        let size = |bytes: u32| usize::try_from(bytes).unwrap_or(usize::MAX);
        let key_bytes = size(input.try_get_u32_le().map_err(short)?);
        let value_bytes = size(input.try_get_u32_le().map_err(short)?);
        let changed = input.try_get_u64_le().map_err(short)?;
        if key_bytes == 0 || key_bytes > KEY_BYTES_MAX || value_bytes > VALUE_BYTES_MAX {
            return Err(damaged("key or value outside its limits"));
        }
        if input.len() < key_bytes + value_bytes {
            return Err(damaged("cut short"));
        }
        let (key, rest) = input.split_at(key_bytes);
        let (value, rest) = rest.split_at(value_bytes);
        input = rest;
        if changed > revision {
            return Err(damaged("key is newer than the snapshot"));
        }
        if entries.last_key_value().is_some_and(|(last, _)| last.as_ref() >= key) {
            return Err(damaged("keys are not in order"));
        }
        let value = Bytes::copy_from_slice(value);
        entries.insert(Bytes::copy_from_slice(key), Entry { revision: changed, value });
    }
    if !input.is_empty() {
        return Err(damaged("bytes after the last key"));
    }
    Ok(KvMachine { entries, revision })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::NoPast;
    use proptest::prelude::*;

    fn apply(machine: &mut KvMachine, index: u64, command: Command) -> Response {
        Response::decode(&machine.apply(index, &command.encode().unwrap(), &mut Effects::default()))
            .unwrap()
    }

    fn set(machine: &mut KvMachine, index: u64, key: &str, value: &str) -> Response {
        let (key, value) = (key.to_owned().into(), value.to_owned().into());
        apply(machine, index, Command::Set { key, value })
    }

    fn clear(machine: &mut KvMachine, index: u64, key: &str) -> Response {
        apply(machine, index, Command::Clear { key: key.to_owned().into() })
    }

    fn query(machine: &KvMachine, key: &str) -> Response {
        let query = Query::Get { key: key.to_owned().into() };
        Response::decode(&machine.query(&query.encode().unwrap(), &NoPast)).unwrap()
    }

    /// A key without a value and a key with an empty one are told apart.
    #[test]
    fn absent_key_is_not_an_empty_value() {
        let mut machine = KvMachine::new();
        assert_eq!(query(&machine, "k"), Response::Absent { revision: 0 });
        assert_eq!(set(&mut machine, 2, "k", ""), Response::Done { revision: 2 });
        assert_eq!(query(&machine, "k"), Response::Value { revision: 2, value: Bytes::new() });
    }

    /// Clearing what is not there succeeds and changes nothing, not even the revision.
    #[test]
    fn clear_of_a_missing_key_is_a_successful_no_op() {
        let mut machine = KvMachine::new();
        set(&mut machine, 2, "a", "1");
        let before = machine.clone();
        assert_eq!(clear(&mut machine, 3, "b"), Response::Done { revision: 2 });
        assert_eq!(machine, before);
        assert_eq!(clear(&mut machine, 4, "a"), Response::Done { revision: 4 });
        assert_eq!(query(&machine, "a"), Response::Absent { revision: 4 });
    }

    /// A command that cannot be read is in the log all the same, and again at every start.
    #[test]
    fn damaged_command_is_refused_and_changes_nothing() {
        let mut machine = KvMachine::new();
        set(&mut machine, 2, "a", "1");
        let before = machine.clone();
        let response = Response::decode(&machine.apply(
            3,
            &Bytes::from_static(b"\x07"),
            &mut Effects::default(),
        ))
        .unwrap();
        assert!(matches!(response, Response::Refused(_)), "{response:?}");
        assert_eq!(machine, before);
    }

    /// A snapshot that was cut must not become a smaller store.
    #[test]
    fn damaged_snapshot_is_refused_and_the_state_stays() {
        let mut machine = KvMachine::new();
        set(&mut machine, 2, "a", "1");
        set(&mut machine, 3, "b", "2");
        let (snapshot, before) = (machine.encode(), machine.clone());
        for cut in 0..snapshot.len() {
            assert!(machine.restore(&mut &snapshot[..cut]).is_err(), "cut at {cut}");
        }
        let mut long = snapshot;
        long.push(0);
        assert!(machine.restore(&mut &long[..]).is_err());
        assert_eq!(machine, before);
    }

    proptest! {
        /// The store is a map; snapshots of equal states are equal, whatever led there.
        #[test]
        fn store_behaves_as_a_map(changes in prop::collection::vec(
            (0u8..8, prop::option::of(prop::collection::vec(any::<u8>(), 0..4))), 0..60)) {
            let mut machine = KvMachine::new();
            let mut model = BTreeMap::<u8, (u64, Vec<u8>)>::new();
            for (index, (key, value)) in (2..).zip(changes) {
                let bytes = Bytes::from(vec![key]);
                match value {
                    Some(value) => {
                        apply(&mut machine, index, Command::Set {
                            key: bytes, value: value.clone().into() });
                        model.insert(key, (index, value));
                    }
                    None => {
                        apply(&mut machine, index, Command::Clear { key: bytes });
                        model.remove(&key);
                    }
                }
            }
            prop_assert_eq!(machine.len(), model.len());
            for key in 0..8 {
                let found = machine.value(&[key]).map(|(at, value)| (at, value.to_vec()));
                prop_assert_eq!(found, model.get(&key).cloned());
            }
            let mut restored = KvMachine::new();
            restored.restore(&mut &machine.encode()[..]).unwrap();
            prop_assert_eq!(restored.encode(), machine.encode());
            prop_assert_eq!(restored, machine);
        }
    }
}
