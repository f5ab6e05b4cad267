//! What may be thrown at zmesh by peers, clients, disks and files: one function for each door, which
//! must come back from any input without a panic, and check what it can of what came of it.
//!
//! The fuzzers of `fuzz/` and the test beside this file call the same functions.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use zmesh::config::{PeerAddress, Period, Size, Written};
use zmesh::keys::{AllowList, PublicKey};
use zmesh::kv::{self, KvMachine};
use zmesh::log::groups::{GroupCommand, GroupQuery, GroupResponse, Groups};
use zmesh::log::{self, LogMachine};
use zmesh::protocol::envelope::{Envelope, Kind, Limits, Subject};
use zmesh::protocol::frame::Envelopes;
use zmesh::protocol::handlers::Pattern;
use zmesh::protocol::payload;
use zmesh::protocol::system::System;
use zmesh::replica::{Core, Effects, Machine, NoPast, Sessions, Store, image_bytes, settle};
use zmesh::wal::{self, Disk, Entry, EntryKind, HardState, Identity, MemoryDisk, Wal};
use zmesh::{Address, NodeId, Time};

#[path = "../replica/fresh.rs"]
mod fresh;

/// Takes one input.
pub(crate) type Target = fn(&[u8]);

/// Every target by its name.
pub(crate) const TARGETS: &[(&str, Target)] = &[
    ("client", client),
    ("config", config),
    ("envelope", envelope),
    ("frames", frames),
    ("metadata", metadata),
    ("model", model),
    ("payload", payloads),
    ("segment", segment),
    ("snapshot", snapshot),
    ("system", system),
];

/// A frame of one or more envelopes, as a socket hands it up.
pub(crate) fn envelope(data: &[u8]) {
    let limits = Limits { payload_bytes_max: 1 << 16 };
    for bytes in Envelopes::new(Bytes::copy_from_slice(data)) {
        let Ok(envelope) = Envelope::decode_owned(bytes, &limits) else { break };
        assert!(envelope.payload.len() <= limits.payload_bytes_max);
        let subject = envelope.subject.as_str();
        assert!(subject.is_empty() || Subject::check(subject.as_bytes()).is_ok());
    }
}

/// A system message: the first byte says of which kind.
pub(crate) fn system(data: &[u8]) {
    const KINDS: [Kind; 9] = [
        Kind::Goodbye,
        Kind::Hello,
        Kind::HelloAgain,
        Kind::Labels,
        Kind::Peers,
        Kind::Ping,
        Kind::Pong,
        Kind::Refuse,
        Kind::Welcome,
    ];
    let Some((kind, body)) = data.split_first() else { return };
    let kind = KINDS[usize::from(*kind) % KINDS.len()];
    if let Ok(message) = System::decode(kind, body) {
        let (kind, encoded) = message.encode();
        assert_eq!(System::decode(kind, &encoded).expect("it decodes"), message);
    }
}

/// The payload of a request, a reply or a tick, for handlers of several types.
pub(crate) fn payloads(data: &[u8]) {
    #[derive(serde::Deserialize)]
    #[expect(dead_code, reason = "only decoded")]
    enum Tree {
        Leaf(Option<f64>),
        Branch(Box<(Self, Self)>),
    }
    let _ = payload::check(data);
    let _ = payload::decode::<serde_json::Value>(data);
    let _ = payload::decode::<Tree>(data);
    let _ = payload::decode::<BTreeMap<String, Vec<(u64, i8)>>>(data);
    if let Ok(text) = payload::decode::<(String, u32)>(data) {
        let encoded = payload::encode(&text).expect("what was decoded encodes");
        assert_eq!(payload::decode::<(String, u32)>(&encoded).expect("decodes"), text);
    }
}

/// One of three replicas that have just begun.
pub(crate) fn replica(raft_id: u64, now: Time) -> (Core<Sessions<KvMachine>, ()>, Store) {
    let machine = Sessions::new(KvMachine::new());
    fresh::replica(raft_id, &fresh::members(3), machine, fresh::SMALL, now)
}

/// What another replica sends: frames of consensus and of snapshots, with the right envelope, to one
/// that runs.
pub(crate) fn frames(data: &[u8]) {
    let now = Time::from_start(Duration::ZERO);
    let (mut core, mut store) = replica(1, now);
    let mut unwritten = None;
    let cluster = fresh::members(3).cluster_id().as_u128();
    let mut rest = data;
    while let Some((header, after)) = rest.split_at_checked(6) {
        let bytes = usize::from(u16::from_le_bytes([header[4], header[5]])).min(after.len());
        let mut frame = BytesMut::new();
        frame.put_u8(1 + header[0] % 2);
        frame.put_u8(header[1]);
        frame.put_slice(&header[2..4]);
        frame.put_u128(cluster);
        frame.put_u64_le(2);
        frame.put_u64_le(1);
        frame.put_slice(&after[..bytes]);
        rest = &after[bytes..];
        let _ = core.handle_frame(2, &frame.freeze());
        core.turn(now);
        drop(settle(&mut core, &mut store, &mut unwritten, |_, _| {}));
    }
    assert_eq!(core.failure(), None, "nothing that a peer says ends a replica");
}

/// What a client sends to the services, and what they answer.
pub(crate) fn client(data: &[u8]) {
    let Some((kind, body)) = data.split_first() else { return };
    let bytes = Bytes::copy_from_slice(body);
    let mut effects = Effects::default();
    match kind % 9 {
        0 => {
            let mut machine = Sessions::new(KvMachine::new());
            drop(machine.apply(3, &bytes, &mut effects));
        }
        1 => {
            let mut machine = KvMachine::new();
            drop(machine.apply(3, &bytes, &mut effects));
            drop(machine.query(&bytes, &NoPast));
        }
        2 => {
            let mut machine = Sessions::new(LogMachine::new());
            drop(machine.apply(3, &bytes, &mut effects));
        }
        3 => {
            let mut machine = LogMachine::new();
            drop(machine.apply(3, &bytes, &mut effects));
            drop(machine.query(&bytes, &NoPast));
        }
        4 => {
            if let Ok(command) = kv::Command::decode(&bytes) {
                let again = command.encode().and_then(|bytes| kv::Command::decode(&bytes));
                assert_eq!(again, Ok(command));
            }
        }
        5 => {
            if let Ok(query) = kv::Query::decode(&bytes) {
                let again = query.encode().and_then(|bytes| kv::Query::decode(&bytes));
                assert_eq!(again, Ok(query));
            }
        }
        6 => {
            let _ = kv::Response::decode(&bytes);
            let _ = log::Answer::decode(&bytes).map(|_| ());
        }
        7 => {
            let _ = log::Command::decode(&bytes);
            let _ = log::Query::decode(&bytes);
        }
        _ => {
            let _ = GroupCommand::decode(body).map(|_| ());
            let _ = GroupQuery::decode(body).map(|_| ());
            let _ = GroupResponse::decode(body).map(|_| ());
            let _ = Groups::decode(body).map(|_| ());
        }
    }
}

/// A snapshot of a machine. What is taken must be what is written again.
pub(crate) fn snapshot(data: &[u8]) {
    fn restore<M: Machine>(mut machine: M, again: M, mut bytes: &[u8]) {
        let before = image_bytes(machine.snapshot());
        if machine.restore(&mut bytes).is_err() {
            assert_eq!(image_bytes(machine.snapshot()), before, "a bad one changes nothing");
            return;
        }
        let written = image_bytes(machine.snapshot());
        let mut again = again;
        again.restore(&mut &written[..]).expect("its own image");
        assert_eq!(image_bytes(again.snapshot()), written);
    }
    let Some((kind, body)) = data.split_first() else { return };
    match kind % 4 {
        0 => restore(KvMachine::new(), KvMachine::new(), body),
        1 => restore(Sessions::new(KvMachine::new()), Sessions::new(KvMachine::new()), body),
        2 => restore(LogMachine::new(), LogMachine::new(), body),
        _ => restore(Sessions::new(LogMachine::new()), Sessions::new(LogMachine::new()), body),
    }
}

const OPTIONS: wal::Options =
    wal::Options { segment_bytes: 1 << 13, reserve_bytes: 0, window_bytes_max: 1 << 10 };

/// A log of five entries that are synced, and whose it is.
fn written(disk: &MemoryDisk, dir: &Path) -> (Identity, Vec<Entry>) {
    let identity = Identity {
        cluster: uuid::Uuid::from_u128(7),
        node: "a".parse().expect("a name"),
        raft_id: 5,
    };
    let opened = Wal::open(Arc::new(disk.clone()), dir, OPTIONS, identity.clone());
    let (mut wal, _) = opened.expect("a new log");
    let entries: Vec<Entry> = (1..=5)
        .map(|index| Entry {
            term: 1 + index / 3,
            index,
            kind: EntryKind::Normal,
            data: Bytes::from(vec![b'a'; 20 * usize::try_from(index).expect("small")]),
        })
        .collect();
    wal.append(&entries).expect("room");
    wal.sync().expect("it syncs");
    wal.store_hard_state(HardState { term: 2, vote: 5, commit: 5 }).expect("it is stored");
    (identity, entries)
}

/// A segment of the log of which anything may have become. What was committed is there, or the log
/// does not open.
pub(crate) fn segment(data: &[u8]) {
    let Some((header, patch)) = data.split_at_checked(3) else { return };
    let (disk, dir) = (MemoryDisk::new(), Path::new("/data"));
    let (identity, entries) = written(&disk, dir);
    let file = dir.join(segment_name(&disk, dir));
    let mut contents = disk.contents(&file).expect("a segment");
    let at = usize::from(u16::from_le_bytes([header[0], header[1]])) % contents.len();
    match header[2] % 3 {
        // Overwritten, cut, or replaced from there on.
        0 => {
            let end = contents.len().min(at + patch.len());
            contents[at..end].copy_from_slice(&patch[..end - at]);
        }
        1 => contents.truncate(at),
        _ => {
            contents.truncate(at);
            contents.extend_from_slice(patch);
        }
    }
    disk.overwrite(&file, contents);
    if let Ok((wal, recovered)) = Wal::open(Arc::new(disk), dir, OPTIONS, identity) {
        assert!(recovered.last_index >= 5, "committed entries are gone without a word");
        assert_eq!(wal.entries(1, 6, u64::MAX).expect("they are there"), entries);
    }
}

fn segment_name(disk: &MemoryDisk, dir: &Path) -> String {
    let files = disk.list(dir).expect("the directory").into_iter();
    let mut names = files.map(|file| file.file_name().expect("a file").display().to_string());
    names.find(|name| name.ends_with(".wal")).expect("a segment")
}

/// The metadata of a log, of which anything may have become.
pub(crate) fn metadata(data: &[u8]) {
    let (disk, dir) = (MemoryDisk::new(), Path::new("/data"));
    let (identity, entries) = written(&disk, dir);
    let file = dir.join("meta");
    let mut contents = disk.contents(&file).expect("metadata");
    match data.split_first() {
        None => contents.clear(),
        Some((at, patch)) => {
            let at = usize::from(*at) * 37 % contents.len();
            let end = contents.len().min(at + patch.len());
            contents[at..end].copy_from_slice(&patch[..end - at]);
        }
    }
    disk.overwrite(&file, contents);
    let _ = Wal::identity(&disk, dir);
    if let Ok((wal, recovered)) = Wal::open(Arc::new(disk), dir, OPTIONS, identity)
        && recovered.last_index >= 5
    {
        assert_eq!(wal.entries(1, 6, u64::MAX).expect("they are there"), entries);
    }
}

/// A configuration file, and what may stand in flags.
pub(crate) fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(written) = Written::parse(Path::new("zmesh.toml"), text)
        && let Ok(config) = written.resolve()
    {
        let printed = config.to_toml();
        let again = Written::parse(Path::new("zmesh.toml"), &printed);
        let again = again.and_then(Written::resolve);
        assert!(again.is_ok(), "what is printed is a configuration: {printed}");
    }
    if let Ok(list) = text.parse::<AllowList>() {
        assert_eq!(list.to_string().parse(), Ok(list));
    }
    if let Ok(address) = text.parse::<Address>() {
        assert_eq!(address.to_string().parse(), Ok(address));
    }
    if let Ok(peer) = text.parse::<PeerAddress>() {
        assert_eq!(peer.to_string().parse(), Ok(peer));
    }
    if let Ok(period) = text.parse::<Period>() {
        assert_eq!(period.to_string().parse().ok(), Some(period));
    }
    if let Ok(size) = text.parse::<Size>() {
        assert_eq!(size.to_string().parse().ok(), Some(size));
    }
    let _ = (text.parse::<PublicKey>(), text.parse::<NodeId>());
    let _ = (Pattern::new(text), Pattern::regex(text));
}

/// A sequence of changes, reads and snapshots of the store, beside a plain map.
pub(crate) fn model(data: &[u8]) {
    let mut machine = KvMachine::new();
    let mut plain: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for (index, step) in (1..).zip(data.chunks(3)) {
        let [what, key, value] = step else { return };
        let key = vec![b'k', key % 8];
        let command = match what % 4 {
            0 | 1 => {
                let value = vec![*value; usize::from(value % 5)];
                plain.insert(key.clone(), value.clone());
                kv::Command::Set { key: key.clone().into(), value: value.into() }
            }
            2 => {
                plain.remove(&key);
                kv::Command::Clear { key: key.clone().into() }
            }
            _ => {
                let image = image_bytes(machine.snapshot());
                machine = KvMachine::new();
                machine.restore(&mut &image[..]).expect("its own image");
                continue;
            }
        };
        let command = command.encode().expect("within the limits");
        drop(machine.apply(index, &command, &mut Effects::default()));
        let query = kv::Query::Entry { key: key.clone().into(), revision: 0 };
        let query = query.encode().expect("within the limits");
        let found = match kv::Response::decode(&machine.query(&query, &NoPast)) {
            Ok(kv::Response::Entry { entry, .. }) => Some(entry.value.to_vec()),
            Ok(kv::Response::Absent { .. }) => None,
            answer => panic!("{answer:?}"),
        };
        assert_eq!(found, plain.get(&key).cloned());
    }
}
