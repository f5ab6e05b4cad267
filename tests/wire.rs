//! The bytes of the protocol: `docs/WIRE.md` is read here, table by table and vector by vector, so
//! that the document and the code cannot drift apart; and what a stranger may send is refused.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::time::Duration;

use bytes::Bytes;
use zmesh::protocol::envelope::{Envelope, EnvelopeError, Format, Kind, Limits, Subject};
use zmesh::protocol::envelope::{HEADER_BYTES, SUBJECT_BYTES_MAX};
use zmesh::protocol::frame::SHARED_BYTES_MAX;
use zmesh::protocol::payload::{self, DEPTH_MAX, ELEMENTS_MAX, PayloadError};
use zmesh::protocol::system::{
    CLUSTER_NAME_BYTES_MAX, Greeting, KNOWN_PEERS_MAX, KnownPeer, KnownPeers, LABEL_BYTES_MAX,
    LABELS_MAX, Labels, LabelsUpdate, PROTOCOL_VERSION, Ping, Refusal, RefuseReason,
    SYSTEM_PAYLOAD_BYTES_MAX, System,
};
use zmesh::replica::CommandId;
use zmesh::replica::session::{Inquiry, Outcome, SessionError, Submission};
use zmesh::{Effect, ErrorCode, Incarnation, NODE_ID_BYTES_MAX, NodeId, RequestId};

#[path = "wire/groups.rs"]
mod groups;
#[path = "wire/store.rs"]
mod store;

const DOCUMENT: &str = include_str!("../docs/WIRE.md");
const ALPHA: Incarnation = Incarnation(0x1111_1111_1111_1111);
const BETA: Incarnation = Incarnation(0x2222_2222_2222_2222);
const REQUEST: RequestId = RequestId(0x0000_0001_0000_0000);

/// The rows of the table under this heading, without its head, as cells without backquotes.
fn table(heading: &str) -> Vec<Vec<String>> {
    let (_, section) = DOCUMENT.split_once(&format!("\n## {heading}\n")).expect(heading);
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
    let cell = |cell: &str| cell.trim().trim_matches('`').to_owned();
    rows.map(|row| row.trim_matches('|').split('|').map(cell).collect()).collect()
}

/// The bytes of the block that begins with ```` ```hex name ````; what follows `;` is for people.
fn vector(name: &str) -> Bytes {
    let (_, block) = DOCUMENT.split_once(&format!("\n```hex {name}\n")).expect(name);
    let (block, _) = block.split_once("\n```").expect("the block ends");
    let digits: String = block
        .lines()
        .flat_map(|line| line.split(';').next())
        .flat_map(str::split_whitespace)
        .collect();
    assert!(digits.is_ascii() && digits.len().is_multiple_of(2), "{name}: {digits}");
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect::<Vec<_>>()
        .into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x} ")).collect()
}

fn envelope(kind: Kind, sequence: u32, payload: Vec<u8>) -> Envelope {
    Envelope {
        kind,
        format: Format::MessagePack,
        code: 0,
        sequence,
        request: RequestId::NONE,
        sent_ms: 1_000,
        from: ALPHA,
        to: BETA,
        time_left: None,
        subject: Subject::default(),
        payload: payload.into(),
    }
}

fn system(message: &System, sequence: u32) -> Envelope {
    let (kind, payload) = message.encode();
    envelope(kind, sequence, payload)
}

fn from_beta(envelope: Envelope) -> Envelope {
    Envelope { from: BETA, to: ALPHA, ..envelope }
}

fn greetings() -> [Greeting; 2] {
    let node = |name: &str| NodeId::new(name).unwrap();
    let alpha = Greeting {
        version: PROTOCOL_VERSION,
        cluster: "demo".into(),
        node: node("alpha"),
        incarnation: ALPHA,
        address: None,
        labels: Labels::from([("role".into(), "math".into())]),
        revision: 0,
    };
    let address = Some("tcp://127.0.0.1:7001".parse().unwrap());
    let beta = Greeting {
        node: node("beta"),
        incarnation: BETA,
        address,
        labels: Labels::new(),
        ..alpha.clone()
    };
    [alpha, beta]
}

/// The system messages of the document, by the name of their vector.
fn system_vectors() -> Vec<(&'static str, System, Envelope)> {
    let [alpha, beta] = greetings();
    let known = KnownPeer {
        node: beta.node.clone(),
        incarnation: BETA,
        address: beta.address.clone().unwrap(),
    };
    let labels = LabelsUpdate { revision: 1, labels: alpha.labels.clone() };
    let refusal = Refusal { reason: RefuseReason::DuplicateId };
    let mut vectors = Vec::new();
    let mut add = |name, message: System, shape: fn(Envelope) -> Envelope, sequence| {
        let envelope = shape(system(&message, sequence));
        vectors.push((name, message, envelope));
    };
    let as_sent: fn(Envelope) -> Envelope = |envelope| envelope;
    let to_nobody = |envelope| Envelope { to: Incarnation::UNKNOWN, ..envelope };
    add("hello", System::Hello(alpha), to_nobody, 0);
    add("welcome", System::Welcome(beta), from_beta, 0);
    add("refuse", System::Refuse(refusal), from_beta, 0);
    add("hello-again", System::HelloAgain, from_beta, 0);
    add("ping", System::Ping(Ping { number: 1, revision: 0 }), as_sent, 1);
    add("pong", System::Pong(Ping { number: 1, revision: 0 }), from_beta, 1);
    add("labels", System::Labels(labels), as_sent, 5);
    add("peers", System::Peers(KnownPeers { peers: vec![known] }), from_beta, 5);
    add("goodbye", System::Goodbye, as_sent, 6);
    vectors
}

/// The application messages of the document, by the name of their vector.
fn application_vectors() -> Vec<(&'static str, Envelope)> {
    let request = Envelope {
        request: REQUEST,
        time_left: Some(Duration::from_secs(5)),
        subject: Subject::new("math.sum").unwrap(),
        ..envelope(Kind::Request, 2, payload::encode(&[1, 2, 3]).unwrap())
    };
    let reply = Envelope {
        request: REQUEST,
        ..from_beta(envelope(Kind::Reply, 2, payload::encode(&6).unwrap()))
    };
    let error = Envelope {
        code: ErrorCode::NoHandler.number(),
        request: REQUEST,
        ..from_beta(envelope(Kind::Error, 3, b"no handler for math.sum".to_vec()))
    };
    let tick = Envelope {
        subject: Subject::new("cache.flush").unwrap(),
        ..envelope(Kind::Tick, 3, payload::encode(&()).unwrap())
    };
    let raw = Envelope {
        format: Format::Raw,
        subject: Subject::new("blob").unwrap(),
        time_left: Some(Duration::from_millis(250)),
        ..envelope(Kind::Tick, 4, vec![0xde, 0xad])
    };
    vec![
        ("request", request),
        ("reply", reply),
        ("error", error),
        ("tick", tick),
        ("raw-tick", raw),
    ]
}

fn all_vectors() -> Vec<(&'static str, Envelope)> {
    let system = system_vectors().into_iter().map(|(name, _, envelope)| (name, envelope));
    system.chain(application_vectors()).collect()
}

/// Golden bytes, in both directions: another implementation was written from this document.
#[test]
fn every_vector_is_what_the_code_sends_and_understands() {
    let vectors = all_vectors();
    for (name, expected) in &vectors {
        let frame = vector(name);
        let encoded = expected.encode();
        assert_eq!(hex(&encoded), hex(&frame), "{name}");
        assert_eq!(Envelope::decode(&frame, &Limits::default()).as_ref(), Ok(expected), "{name}");
    }
    assert_eq!(DOCUMENT.matches("\n```hex ").count(), vectors.len(), "a vector is not checked");
    for kind in Kind::ALL {
        assert!(vectors.iter().any(|(_, envelope)| envelope.kind == *kind), "{kind:?} has none");
    }
}

/// The payloads of system messages mean what the document says they mean.
#[test]
fn every_system_vector_is_understood() {
    for (name, expected, _) in system_vectors() {
        let envelope = Envelope::decode(&vector(name), &Limits::default()).unwrap();
        assert_eq!(System::decode(envelope.kind, &envelope.payload).unwrap(), expected, "{name}");
    }
}

/// A frame that was cut or damaged anywhere is refused whole.
#[test]
fn every_truncation_and_flipped_bit_of_every_vector_is_refused() {
    for (name, _) in all_vectors() {
        let frame = vector(name);
        for end in 0..frame.len() {
            assert!(Envelope::decode(&frame.slice(..end), &Limits::default()).is_err(), "{name}");
        }
        for bit in 0..frame.len() * 8 {
            let mut flipped = frame.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let decoded = Envelope::decode(&flipped.into(), &Limits::default());
            assert!(decoded.is_err(), "{name} with bit {bit} flipped");
        }
    }
}

/// The tables of the document list what the code has: nothing is missing and nothing made up.
#[test]
fn tables_of_kinds_and_codes_are_complete() {
    let kinds: Vec<_> = table("Kinds").into_iter().map(|row| row[..2].to_vec()).collect();
    let expected = |kind: &Kind| vec![kind.number().to_string(), format!("{kind:?}")];
    assert_eq!(kinds, Kind::ALL.iter().map(expected).collect::<Vec<_>>());

    let codes: Vec<_> = table("Error codes").into_iter().map(|row| row[..4].to_vec()).collect();
    let expected = |code: &ErrorCode| {
        let effect = match code.effect() {
            Effect::None => "none",
            Effect::Unknown => "unknown",
        };
        let retry = if code.is_retryable() { "yes" } else { "no" };
        vec![code.number().to_string(), code.to_string(), effect.into(), retry.into()]
    };
    assert_eq!(codes, ErrorCode::ALL.iter().map(expected).collect::<Vec<_>>());
}

/// Which fields a kind has: each mark of the table is tried with the field set and not set.
#[test]
fn table_of_kinds_says_which_fields_each_kind_has() {
    let fields = ["request id", "time left", "subject", "code"];
    for (row, kind) in table("Kinds").iter().zip(Kind::ALL) {
        let is = |column: usize, mark: &str| row[2 + column] == mark;
        for (column, field) in fields.into_iter().enumerate() {
            for is_set in [false, true] {
                let set = |other: usize| if other == column { is_set } else { is(other, "x") };
                let frame = frame_with(kind.number(), [set(0), set(1), set(2), set(3)]);
                let decoded = Envelope::decode(&frame, &Limits::default());
                let allowed = is(column, "o") || is_set == is(column, "x");
                let refused = Err(EnvelopeError::Field { kind: *kind, field });
                assert!(if allowed { decoded.is_ok() } else { decoded == refused }, "{row:?}");
            }
        }
    }
}

/// A frame without payload, with these fields set: request, time left, subject, code.
fn frame_with(kind: u8, [request, time_left, subject, code]: [bool; 4]) -> Bytes {
    let mut frame = vec![0; HEADER_BYTES + usize::from(subject)];
    frame[..4].copy_from_slice(&[b'Z', b'M', PROTOCOL_VERSION, kind]);
    frame[HEADER_BYTES..].fill(b'a');
    for (at, is_set) in [(5, subject), (6, code), (16, request), (40, time_left)] {
        frame[at] = u8::from(is_set);
    }
    let checksum = crc32c::crc32c(&frame).to_le_bytes();
    frame[8..12].copy_from_slice(&checksum);
    frame.into()
}

/// A reason is its name on the wire, so each name of the document must be understood.
#[test]
fn table_of_refusals_is_understood() {
    let rows = table("Refusals");
    assert_eq!(rows.len(), 9);
    for row in rows {
        let payload = payload::encode(&[&row[0]]).unwrap();
        let message = System::decode(Kind::Refuse, &payload).unwrap();
        let System::Refuse(refusal) = message else { panic!("{message:?}") };
        assert_eq!(refusal.reason.to_string(), row[1]);
    }
}

/// The table of sessions, row by row: what the code proposes and what replicas answer.
#[test]
fn table_of_sessions_has_the_bytes_of_the_code() {
    let (session, index, bytes) = (7, 3, Bytes::from_static(&[0xaa]));
    let (id, lowest) = (CommandId { session, serial: 9 }, 8);
    let refused = |error| Outcome::Refused(error).encode();
    let expected = [
        Submission::Once { command: bytes.clone() }.encode(),
        Submission::Numbered { id, lowest, command: bytes.clone() }.encode(),
        Submission::Open { idle: Duration::from_secs(1) }.encode(),
        Submission::End { session }.encode(),
        Submission::Expire { session, seen: index }.encode(),
        Submission::Mark.encode(),
        Outcome::Done { index, response: bytes.clone() }.encode(),
        refused(SessionError::Expired),
        refused(SessionError::Full),
        refused(SessionError::Malformed),
        refused(SessionError::Mismatch),
        refused(SessionError::Stale),
        Inquiry::NotSeen.encode(),
        Inquiry::InProgress.encode(),
        Inquiry::Done { index, response: bytes }.encode(),
        Inquiry::Expired.encode(),
        Inquiry::Forgotten.encode(),
    ];
    let rows = table("Sessions");
    assert_eq!(rows.len(), expected.len());
    for (row, expected) in rows.iter().zip(&expected) {
        assert_eq!(row[2], hex(expected).replace(' ', ""), "{}", row[0]);
    }
    // The code of a refusal stands in its row.
    for (row, error) in rows[7..12].iter().zip([
        SessionError::Expired,
        SessionError::Full,
        SessionError::Malformed,
        SessionError::Mismatch,
        SessionError::Stale,
    ]) {
        assert!(row[0].contains(error.code().name()), "{}", row[0]);
    }
}

/// The tables of the log, row by row: what clients send and what replicas answer.
#[test]
fn tables_of_the_log_have_the_bytes_of_the_code() {
    use zmesh::log::{Answer, Append, Command, Expected, Page, Query, Read, Record, TopicView};
    let (topic, cursor) = (Bytes::from_static(b"t"), Bytes::from_static(b"c"));
    let (offset, opaque) = (9, Bytes::from_static(&[0xaa]));
    let options = zmesh::log::TopicOptions {
        age: Some(Duration::from_secs(3_600)),
        records: Some(10),
        ..Default::default()
    };
    let append = Append::new(topic.clone(), 1_000, &[Record::with_key("k", "vx")]).unwrap();
    let (t, c) = (|| topic.clone(), || cursor.clone());
    let commands = [
        Command::Append(Append { expected: Some(offset), ..append }),
        Command::Create { topic: t(), options },
        Command::Configure { topic: t(), options },
        Command::Delete { topic: t() },
        Command::Trim { topic: t(), before: offset },
        Command::SetCursor { topic: t(), cursor: c(), expected: Expected::Offset(7), offset },
        Command::ClearCursor { topic: t(), cursor: c() },
        Command::Clock { seen: 7, step: 10 },
        Command::Group { topic: t(), command: opaque.clone() },
        Command::Carry(opaque.clone()),
        Command::Compact(opaque.clone()),
    ];
    check_rows("Commands of the log", commands.iter().map(|command| command.encode().unwrap()));
    let (after, limit) = (Bytes::new(), 10);
    let read = Read { topic: t(), id: 0, from: offset, bytes_max: 4_096, records_max: 100 };
    let queries = [
        Query::Read(read),
        Query::Find { topic: t(), timestamp: 1_000 },
        Query::Topic { topic: t() },
        Query::Topics { prefix: t(), after: after.clone(), limit },
        Query::Cursor { topic: t(), cursor: c() },
        Query::Cursors { topic: t(), after: after.clone(), limit },
        Query::Group { topic: t(), query: opaque.clone() },
        Query::Spare { slack: 1 << 20 },
        Query::Dirty { after },
        Query::Sweep { topic: t(), id: 2, until: offset },
    ];
    check_rows("Queries of the log", queries.iter().map(|query| query.encode().unwrap()));
    let (first, next, bytes, timestamp) = (0, offset, 120, 0);
    let view = TopicView { id: 2, options, first, next, bytes, timestamp, cursors: 1 };
    let answers = [
        Answer::Done,
        Answer::Appended { id: 2, first: offset, next: offset + 1 },
        Answer::Records(Page { id: 2, first, next: offset + 1, gaps: false, batches: vec![] }),
        Answer::Offset(offset),
        Answer::Topic(view),
        Answer::Topics { topics: vec![], more: false },
        Answer::Cursor(Some(offset)),
        Answer::Cursors { cursors: vec![(c(), offset)], more: false },
        Answer::Group(opaque),
        Answer::Spare(Bytes::new()),
        Answer::Dirty(None),
        Answer::Refused(zmesh::log::Refusal::OffsetMismatch { current: 7 }),
    ];
    check_rows("Answers of the log", answers.iter().map(Answer::encode));
}

/// Compares the last column of the first rows with the bytes.
fn check_rows(heading: &str, expected: impl Iterator<Item = Bytes>) {
    let (rows, expected) = (table(heading), expected.collect::<Vec<_>>());
    assert!(rows.len() >= expected.len(), "{heading} lacks rows");
    for (row, expected) in rows.iter().zip(expected) {
        assert_eq!(row[2], hex(&expected).replace(' ', ""), "{}", row[0]);
    }
}

/// Every refusal of the log has its row, with the code and the number that the code has.
#[test]
fn table_of_refusals_of_the_log_is_complete() {
    use zmesh::log::Answer;
    let rows = table("Answers of the log");
    let refusals = &rows[rows.len() - 18..];
    for (number, row) in (1_u8..).zip(refusals) {
        assert_eq!(row[1], number.to_string());
        let mut bytes = vec![0xff, number];
        bytes.extend([0; 8]);
        let Ok(Answer::Refused(refusal)) = Answer::decode(&Bytes::from(bytes)) else {
            panic!("{} is no refusal", row[0])
        };
        assert_eq!(row[2], refusal.code().name(), "{}", row[0]);
    }
    let mut beyond = vec![0xff, 19];
    beyond.extend([0; 8]);
    assert!(Answer::decode(&Bytes::from(beyond)).is_err(), "one has no row");
}

/// A client in another language has to look for a topic where it is.
#[test]
fn table_of_topics_has_the_groups_of_the_code() {
    for row in table("Topics and their groups") {
        let topic = row[0].as_str();
        assert_eq!(row[1], format!("{:08x}", crc32c::crc32c(topic.as_bytes())));
        for (groups, cell) in [1, 4, 7].into_iter().zip(&row[2..]) {
            assert_eq!(*cell, zmesh::log::group_of(topic, groups).to_string(), "{topic}");
        }
    }
}

/// Limits are part of the protocol: whoever exceeds them is not understood.
#[test]
fn table_of_limits_has_the_numbers_of_the_code() {
    let limits = [
        ("header", HEADER_BYTES),
        ("subject", SUBJECT_BYTES_MAX),
        ("frame of several envelopes", SHARED_BYTES_MAX),
        ("payload, by default", Limits::default().payload_bytes_max),
        ("payload of a system message", SYSTEM_PAYLOAD_BYTES_MAX),
        ("nesting of a payload", DEPTH_MAX),
        ("elements of a payload", usize::try_from(ELEMENTS_MAX).unwrap()),
        ("node id", NODE_ID_BYTES_MAX),
        ("cluster name", CLUSTER_NAME_BYTES_MAX),
        ("labels", LABELS_MAX),
        ("label name or value", LABEL_BYTES_MAX),
        ("known peers in one message", KNOWN_PEERS_MAX),
    ];
    let rows = table("Limits");
    assert_eq!(rows.len(), limits.len());
    for (row, (name, value)) in rows.iter().zip(limits) {
        assert_eq!((row[0].as_str(), row[1].replace(',', "")), (name, value.to_string()));
    }
}

/// What reaches an open port before any peer does.
#[test]
fn what_is_not_an_envelope_is_refused() {
    let limits = Limits::default();
    let decode = |bytes: &[u8]| Envelope::decode(&Bytes::copy_from_slice(bytes), &limits);
    for bytes in [
        &b""[..],
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        &[0; 65_536],
        &[0xff; 65_536],
    ] {
        assert_eq!(decode(bytes), Err(EnvelopeError::NotAnEnvelope));
    }
    assert_eq!(decode(b"ZM"), Err(EnvelopeError::Truncated { bytes: 2 }));
    assert_eq!(decode(b"ZM\xff"), Err(EnvelopeError::Version(255)));
}

/// A peer's payload must not take the process down, however it is built.
#[test]
fn payload_bombs_are_refused_on_a_small_stack() {
    let bombs = || {
        let mut nils = vec![0xdd, 1, 0, 0, 0];
        nils.resize(5 + (1 << 24), 0xc0);
        let deep = vec![0x91; 100_000];
        assert!(matches!(payload::decode::<Vec<()>>(&nils), Err(PayloadError::Elements)));
        assert!(matches!(payload::decode::<Vec<()>>(&deep), Err(PayloadError::Depth)));
        for kind in Kind::ALL.iter().filter(|kind| kind.is_system()) {
            for bomb in [&nils[..], &deep, b"\xdd\xff\xff\xff\xff\xc0", b"\xc1", b"\xdf\x80\0\0\0"]
            {
                assert!(System::decode(*kind, bomb).is_err(), "{kind:?}");
            }
        }
    };
    let thread = std::thread::Builder::new().stack_size(256 * 1024).spawn(bombs).unwrap();
    thread.join().unwrap();
}
