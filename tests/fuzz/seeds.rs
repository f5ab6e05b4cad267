//! Valid inputs, from which the corpora begin. They are those of the present code, or fuzzing would
//! begin with what is refused at once: after a change of what is on the wire or on the disk,
//! `ZMESH_FUZZ_WRITE=1 cargo test --test fuzz seeds` writes them anew.

use std::fs;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use zmesh::kv::{Command, KvMachine, Query};
use zmesh::log::groups::{GroupCommand, GroupQuery};
use zmesh::log::{Append, LogMachine, TopicOptions};
use zmesh::presence::Identity;
use zmesh::protocol::envelope::{Format, Kind, Outgoing};
use zmesh::protocol::system::{
    KnownPeer, KnownPeers, LabelsUpdate, Ping, Refusal, RefuseReason, System,
};
use zmesh::replica::{Effects, Machine, Sessions, image_bytes, settle};
use zmesh::{Incarnation, RequestId, Time, log};

use super::targets::replica;

#[test]
fn seeds_are_those_of_the_present_code() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let writes = std::env::var_os("ZMESH_FUZZ_WRITE").is_some();
    for (target, inputs) in seeds() {
        for (number, input) in inputs.into_iter().enumerate() {
            let file = corpora.join(target).join(format!("seed-{number:02}"));
            if writes {
                fs::create_dir_all(corpora.join(target)).unwrap();
                fs::write(&file, input).unwrap();
            } else {
                let found = fs::read(&file).unwrap_or_default();
                assert!(found == input, "{} is old: see the head of this file", file.display());
            }
        }
    }
}

fn seeds() -> [(&'static str, Vec<Vec<u8>>); 10] {
    [
        ("client", clients()),
        ("config", CONFIGS.iter().map(|text| text.as_bytes().to_vec()).collect()),
        ("envelope", envelopes()),
        ("frames", frames()),
        ("metadata", vec![vec![0, 1, 2, 3], vec![], [&[9][..], &[0; 256]].concat()]),
        ("model", vec![b"\x00\x01\x02\x02\x01\x00\x03\x00\x00\x01\x02\x04\x00\x07\x09".to_vec()]),
        ("payload", payloads()),
        // Where, how, and what is written there.
        (
            "segment",
            vec![
                [&[0, 0, 0][..], &[0; 64]].concat(),
                vec![9, 1, 1],
                [&[64, 0, 2][..], b"x"].concat(),
            ],
        ),
        ("snapshot", snapshots()),
        ("system", systems()),
    ]
}

const CONFIGS: &[&str] = &[
    "[node]\nid = \"a\"\ncluster = \"c\"\nbind = \"tcp://127.0.0.1:7700\"\npeers = [\"b@tcp://[::1]:1\"]\n\
     labels = { zone = \"1\" }\ntransport = \"native\"\n[heartbeat]\npreset = \"low-latency\"\n\
     request_timeout = \"1m 30s\"\n[limits]\nqueue_bytes = \"64MiB\"\n[replica]\ndata_dir = \"d\"\n\
     members = [\"a\", \"b\", \"c\"]\nsync = \"interval\"\nscrub_rate = 0\n[log]\nlevel = \"info\"\n",
    "[node]\nkey_file = \"k\"\nallow_list = \"l\"\n",
    "tcp://a:1#0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f",
    "b@tcp://*:*",
    "ipc:///tmp/x",
    "b peer 0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f 2030-01-01T00:00:00Z # x",
    "250ms",
    "1GiB",
    "math.*.>",
    "^(a|b)+[0-9]{1,3}$",
];

fn envelopes() -> Vec<Vec<u8>> {
    let kinds = [
        (Kind::Request, "math.sum", 7, true),
        (Kind::Tick, "metrics.cpu", 0, false),
        (Kind::Reply, "", 7, false),
        (Kind::Error, "", 7, false),
        (Kind::Ping, "", 0, false),
    ];
    let encoded = kinds.map(|(kind, subject, request, is_request)| {
        let outgoing = Outgoing {
            kind,
            format: Format::default(),
            code: if kind == Kind::Error { 2 } else { 0 },
            sequence: 5,
            request: RequestId(request),
            from: Incarnation(3),
            to: Incarnation(4),
            sent_ms: 9,
            time_left: is_request.then_some(Duration::from_secs(5)),
            subject,
            payload: b"\x93\x01\x02\x03",
        };
        outgoing.encode().to_vec()
    });
    encoded.iter().cloned().chain([encoded.concat()]).collect()
}

fn systems() -> Vec<Vec<u8>> {
    let mut identity = Identity::new("zmesh", "a".parse().unwrap(), Incarnation(7));
    identity.address = Some("tcp://127.0.0.1:7700".parse().unwrap());
    identity.labels.insert("zone".to_owned(), "1".to_owned());
    let known = KnownPeer {
        node: "b".parse().unwrap(),
        incarnation: Incarnation(8),
        address: "ipc:///tmp/b".parse().unwrap(),
    };
    let update = LabelsUpdate { revision: 3, labels: identity.labels.clone() };
    let messages = [
        (0, System::Goodbye),
        (1, System::Hello(identity.greeting())),
        (3, System::Labels(update)),
        (4, System::Peers(KnownPeers { peers: vec![known] })),
        (5, System::Ping(Ping { number: 9, revision: 0 })),
        (7, System::Refuse(Refusal { reason: RefuseReason::Key })),
        (8, System::Welcome(identity.greeting())),
    ];
    messages.iter().map(|(kind, message)| [vec![*kind], message.encode().1].concat()).collect()
}

fn payloads() -> Vec<Vec<u8>> {
    let value = serde_json::json!({ "a": [1, -2, 3.5, null, true], "b": { "c": "text" } });
    vec![
        rmp_serde::to_vec(&value).unwrap(),
        rmp_serde::to_vec(&("text", 7_u32)).unwrap(),
        b"\x81\xa6Branch\x92\x81\xa4Leaf\xc0\x81\xa4Leaf\xcb\x3f\xf0\0\0\0\0\0\0".to_vec(),
        rmp_serde::to_vec(
            &[("k", vec![(1_u64, -1_i8)])]
                .into_iter()
                .collect::<std::collections::BTreeMap<_, _>>(),
        )
        .unwrap(),
    ]
}

/// What the second replica says to the first while three elect a leader and write.
fn frames() -> Vec<Vec<u8>> {
    let mut now = Time::from_start(Duration::ZERO);
    let mut replicas: Vec<_> = (1..=3).map(|raft_id| replica(raft_id, now)).collect();
    let mut said = Vec::new();
    for step in 0..200 {
        now = now + Duration::from_millis(20);
        let mut sent = Vec::new();
        for (from, (core, store)) in (1..).zip(&mut replicas) {
            core.turn(now);
            if step % 10 == 0 {
                let command = Command::Set { key: "k".into(), value: "v".into() };
                core.propose(command.encode().unwrap(), now + Duration::from_secs(1), ());
            }
            drop(settle(core, store, &mut None, |to, frame| sent.push((from, to, frame))));
            sent.extend(core.take_frames().into_iter().map(|(to, frame)| (from, to, frame)));
        }
        for (from, to, frame) in sent {
            if (from, to) == (2, 1) {
                said.push(frame.clone());
            }
            let (core, _) = &mut replicas[usize::try_from(to).unwrap() - 1];
            let _ = core.handle_frame(from, &frame);
        }
    }
    let as_input = |frame: &Bytes| {
        let body = &frame[36..];
        let length = u16::try_from(body.len()).unwrap().to_le_bytes();
        [&[frame[0] - 1, frame[1], frame[2], frame[3]], &length[..], body].concat()
    };
    let mut inputs: Vec<Vec<u8>> = said.iter().map(as_input).collect();
    inputs.sort();
    inputs.dedup_by_key(|input| (input.len(), input.get(7).copied()));
    inputs.truncate(24);
    inputs.push(inputs.concat());
    // Ask, part and end of a snapshot.
    for (kind, rest) in [(1, &[0; 12][..]), (2, &[0; 20]), (3, &[1, 0])] {
        let body = [&[5, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0][..], rest].concat();
        let length = u16::try_from(body.len()).unwrap().to_le_bytes();
        inputs.push([&[1, kind, 0, 0], &length[..], &body].concat());
    }
    inputs
}

fn kv_commands() -> Vec<Bytes> {
    let (key, value) = (Bytes::from("key"), Bytes::from("value"));
    let commands = [
        Command::Set { key: key.clone(), value },
        Command::Clear { key },
        Command::Grant { ttl: Duration::from_secs(9) },
        Command::Keep { lease: 3 },
        Command::Revoke { lease: 3 },
        Command::Compact { revision: 4 },
    ];
    commands.iter().map(|command| command.encode().unwrap()).collect()
}

fn log_commands() -> Vec<Bytes> {
    let append = Append {
        topic: "jobs".into(),
        expected: None,
        must_exist: false,
        timestamp: 9,
        count: 1,
        // No key, no headers, then the payload: see `zmesh::log::Record`.
        records: Bytes::from_static(b"\0\0\0\0\0\0\0\0one"),
    };
    let cursor = log::Command::ClearCursor { topic: "jobs".into(), cursor: "reader".into() };
    let create = log::Command::Create { topic: "jobs".into(), options: TopicOptions::default() };
    let join = GroupCommand::Join { group: "g".to_owned(), name: "m".to_owned() };
    let join = log::Command::Group { topic: "jobs".into(), command: join.encode() };
    let commands = [create, log::Command::Append(append), cursor, join];
    commands.iter().map(|command| command.encode().unwrap()).collect()
}

fn clients() -> Vec<Vec<u8>> {
    let mut inputs = Vec::new();
    let mut add = |kind: u8, body: &[u8]| inputs.push([&[kind], body].concat());
    for command in kv_commands() {
        add(1, &command);
        add(4, &command);
    }
    for query in [
        Query::Get { key: "key".into() },
        Query::Entry { key: "key".into(), revision: 0 },
        Query::AtLeast { revision: 2, query: Box::new(Query::Get { key: "key".into() }) },
        Query::Leases { after: 0, limit: 9 },
    ] {
        add(5, &query.encode().unwrap());
    }
    for command in log_commands() {
        add(3, &command);
        add(7, &command);
    }
    let (group, member) = ("g".to_owned(), 7);
    add(8, &GroupCommand::Fetch { group: group.clone(), member, max: 9 }.encode());
    add(8, &GroupCommand::Requeue { group, offsets: vec![1, 2] }.encode());
    add(8, &GroupQuery::Groups { after: String::new(), max: 9 }.encode());
    inputs
}

fn snapshots() -> Vec<Vec<u8>> {
    let mut inputs = Vec::new();
    let (mut kv, mut log) = (KvMachine::new(), LogMachine::new());
    for (index, command) in (3..).zip(kv_commands()) {
        drop(kv.apply(index, &command, &mut Effects::default()));
    }
    for (index, command) in (3..).zip(log_commands()) {
        drop(log.apply(index, &command, &mut Effects::default()));
    }
    inputs.push([vec![0], image_bytes(kv.snapshot())].concat());
    inputs.push([vec![1], image_bytes(Sessions::new(kv).snapshot())].concat());
    inputs.push([vec![2], image_bytes(log.snapshot())].concat());
    inputs.push([vec![3], image_bytes(Sessions::new(log).snapshot())].concat());
    inputs
}
