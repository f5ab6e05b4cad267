//! Who gets into a cluster with keys, and what they can do there: real processes, whose links are
//! encrypted, and everything that a stranger, a client, or a node that is no longer trusted tries.
#![expect(clippy::unwrap_used, reason = "a test; the allowance does not reach functions beside it")]

use std::future::poll_fn;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zmesh::keys::{KeyPair, Role, read_key_pair, write_key_pair};
use zmesh::kv::Kv;
use zmesh::presence::Identity;
use zmesh::protocol::envelope::{Envelope, Format, Kind, Limits, Outgoing};
use zmesh::protocol::frame::Envelopes;
use zmesh::protocol::system::System;
use zmesh::route::Filter;
use zmesh::status::{self, Status};
use zmesh::transport::zmq::ZmqTransport;
use zmesh::transport::{Event, LinkId, Options, Route, RoutingId, Transport};
use zmesh::{Address, Incarnation, Node, NodeId, RequestId};

#[allow(dead_code, reason = "not every test needs all of it")]
#[path = "cluster/processes.rs"]
mod processes;
mod waiting;

use processes::{DEADLINE, HEARTBEAT, Processes};
use waiting::until;

async fn writes(client: &Node, key: &str) {
    let kv = Kv::new(client).timeout(DEADLINE);
    until("a write is acknowledged", async || kv.set(key.to_owned(), "x").await.ok()).await;
}

async fn status_of(client: &Node, node: &str) -> Status {
    let node: NodeId = node.parse().unwrap();
    status::ask(client, &node, DEADLINE).await.unwrap()
}

/// Runs a client command with the keys of this file.
fn zmesh(args: &[&str], key_file: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_zmesh"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ZMESH_") {
            command.env_remove(&name);
        }
    }
    command.args(args).arg("--key-file").arg(key_file).stdin(Stdio::null());
    command.output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Who has no key, an unknown one, or a wrong one for the address, gets nothing done, learns why,
/// and leaves a line in the log; the cluster goes on.
#[tokio::test]
async fn strangers_stay_out() {
    let cluster = Processes::start_with_keys(3).await;
    let client = cluster.client("client", 0).await;
    writes(&client, "before").await;
    let directory = tempfile::tempdir().unwrap();
    let stranger = directory.path().join("stranger.key");
    let pair = KeyPair::generate().unwrap();
    write_key_pair(&stranger, &pair).unwrap();
    let address = cluster.address(0).to_string();
    let refused = zmesh(&["kv", "set", "a", "1", "--connect", &address], &stranger);
    assert_eq!(refused.status.code(), Some(1), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("refused: it does not allow our key"));
    let other = cluster.address(0).clone().with_key(cluster.address(1).key()).to_string();
    let refused = zmesh(&["kv", "set", "a", "1", "--connect", &other], &stranger);
    assert_eq!(refused.status.code(), Some(1), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("it has not proved to have the key in the address"));
    let log = std::fs::read_to_string(cluster.log(0)).unwrap();
    assert!(log.contains("refused a key that is not allowed"), "{log}");
    assert!(log.contains(&pair.public().to_string()), "an audit names the key: {log}");
    writes(&client, "after").await;
}

/// A member's own key does not make it another member.
#[tokio::test]
async fn nobody_takes_the_name_of_another() {
    let cluster = Processes::start_with_keys(3).await;
    let client = cluster.client("client", 0).await;
    writes(&client, "before").await;
    let key = read_key_pair(&cluster.key_file(0)).unwrap();
    let impostor = Node::builder("n2").heartbeat(HEARTBEAT).keys(key);
    let impostor = impostor.connect(cluster.address(2)).start().unwrap();
    until("the name is refused", async || {
        let log = std::fs::read_to_string(cluster.log(2)).unwrap();
        log.contains("may not be n2").then_some(())
    })
    .await;
    assert!(impostor.peers().is_empty());
    let seen = status_of(&client, "n3").await;
    let n2: Vec<_> = seen.peers.iter().filter(|peer| peer.node.as_str() == "n2").collect();
    assert_eq!(n2.len(), 1);
    assert_eq!(n2[0].address.as_ref(), Some(cluster.address(1)));
    writes(&client, "after").await;
}

/// A client reads and writes; an administrator also changes the members; neither replicates.
#[tokio::test]
async fn clients_and_administrators_are_no_members() {
    let cluster = Processes::start_with_keys(3).await;
    let directory = tempfile::tempdir().unwrap();
    let files = ["app.key", "ops.key"].map(|name| directory.path().join(name));
    for (file, role) in files.iter().zip([Role::Client, Role::Admin]) {
        let pair = KeyPair::generate().unwrap();
        write_key_pair(file, &pair).unwrap();
        for number in 0..3 {
            cluster.allow(number, file.file_stem().unwrap().to_str().unwrap(), role, pair.public());
        }
    }
    let [app, ops] = files;
    let client = cluster.client("client", 0).await;
    writes(&client, "a").await;
    let address = cluster.address(0).to_string();
    let run = |args: &[&str], key: &Path| zmesh(&[args, &["--connect", &address]].concat(), key);
    let read = until("the list is taken up", async || {
        let read = run(&["kv", "get", "a"], &app);
        read.status.success().then_some(read)
    })
    .await;
    assert_eq!(String::from_utf8_lossy(&read.stdout), "x");
    let refused = run(&["member", "remove", "n3"], &app);
    assert_eq!(refused.status.code(), Some(1), "{}", stderr(&refused));
    assert!(
        stderr(&refused).contains("a key in the role client may not ask for _kv.member.remove")
    );
    let removed = run(&["member", "remove", "n3"], &ops);
    assert!(removed.status.success(), "{}", stderr(&removed));
    // What only members say to each other, said by a client by hand.
    let leader = cluster.leader(&client, None).await;
    let before = status_of(&client, cluster.id(leader)).await;
    let refused = |status: &Status| status.drops.get("rejected.role").copied().unwrap_or(0);
    let pair = read_key_pair(&app).unwrap();
    speak_as_a_member(&pair, cluster.address(leader)).await;
    let after = until("the frame is counted", async || {
        let status = status_of(&client, cluster.id(leader)).await;
        (refused(&status) > refused(&before)).then_some(status)
    })
    .await;
    let term = |status: &Status| status.running().map(|running| running.term);
    assert_eq!(term(&after), term(&before));
    writes(&client, "b").await;
}

/// Joins with this key and sends a frame that is for members alone.
async fn speak_as_a_member(pair: &KeyPair, address: &Address) {
    let ours = Incarnation(77);
    let mut transport = ZmqTransport::new(Options::default()).with_keys(pair.clone());
    let (link, route) = (LinkId(1), Route::Upstream(LinkId(1)));
    transport.dial(link, address, RoutingId::new(ours, 1)).unwrap();
    let identity = Identity::new("zmesh", "forger".parse().unwrap(), ours);
    let envelope = |kind, to, subject: &str, payload: &[u8], sequence| {
        let outgoing = Outgoing {
            kind,
            format: Format::default(),
            code: 0,
            sequence,
            request: RequestId::NONE,
            from: ours,
            to,
            sent_ms: 0,
            time_left: None,
            subject,
            payload,
        };
        outgoing.encode()
    };
    let talk = async {
        loop {
            match poll_fn(|cx| transport.poll_event(cx)).await {
                Event::Ready { .. } => {
                    let (kind, hello) = System::Hello(identity.greeting()).encode();
                    let frame = envelope(kind, Incarnation::UNKNOWN, "", &hello, 0);
                    transport.send(route, &frame).unwrap();
                }
                Event::Message { message, .. } => {
                    let limits = Limits { payload_bytes_max: 1 << 20 };
                    let bytes = Envelopes::new(message).next().unwrap();
                    let answer = Envelope::decode_owned(bytes, &limits).unwrap();
                    assert_eq!(answer.kind, Kind::Welcome);
                    let frame = envelope(Kind::Tick, answer.from, "_kv.raft", &[1; 64], 1);
                    return transport.send(route, &frame).unwrap();
                }
                event
                @ (Event::Closed { .. } | Event::NotReady { .. } | Event::Writable { .. }) => {
                    panic!("{event:?}")
                }
            }
        }
    };
    tokio::time::timeout(DEADLINE, talk).await.unwrap();
    // What was sent leaves the process while the transport is there.
    tokio::time::sleep(Duration::from_millis(200)).await;
}

/// A stolen key is taken back while everything runs: who has it is out at once, its connections
/// included, and in again when it is given back.
#[tokio::test]
async fn revoked_members_are_out_at_once() {
    let cluster = Processes::start_with_keys(3).await;
    let client = cluster.client("client", 0).await;
    writes(&client, "a").await;
    let key = read_key_pair(&cluster.key_file(2)).unwrap().public();
    for number in 0..2 {
        cluster.allow(number, "n3", Role::Revoked, key);
    }
    let knows = async |node: &str| {
        let status = status_of(&client, node).await;
        status.peers.iter().any(|peer| peer.node.as_str() == "n3")
    };
    for node in ["n1", "n2"] {
        until("n3 is out", async || (!knows(node).await).then_some(())).await;
    }
    writes(&client, "b").await;
    for number in 0..2 {
        cluster.allow(number, "n3", Role::Peer, key);
    }
    for node in ["n1", "n2"] {
        until("n3 is in again", async || knows(node).await.then_some(())).await;
    }
}

/// New keys for a member, without a moment in which the cluster does not take writes.
#[tokio::test]
async fn keys_are_replaced_while_the_cluster_works() {
    let mut cluster = Processes::start_with_keys(3).await;
    let client = cluster.client("client", 0).await;
    writes(&client, "a").await;
    let old = read_key_pair(&cluster.key_file(2)).unwrap().public();
    let new = KeyPair::generate().unwrap();
    for number in 0..2 {
        cluster.allow(number, "n3", Role::Peer, new.public());
    }
    cluster.stop(2).await;
    cluster.replace_keys(2, &new);
    cluster.spawn(2).await;
    client.wait_for_peers(&Filter::any(), 3, DEADLINE).await.unwrap();
    let has_new = async |node: &str| {
        let status = status_of(&client, node).await;
        let mut peers = status.peers.iter();
        peers.any(|peer| peer.address.as_ref() == Some(cluster.address(2)))
    };
    for node in ["n1", "n2"] {
        until("n3 is back with its new key", async || has_new(node).await.then_some(())).await;
    }
    for number in 0..2 {
        cluster.allow(number, "n3", Role::Revoked, old);
    }
    writes(&client, "b").await;
    let in_sync = async || {
        let status = status_of(&client, "n3").await;
        status.running().is_some_and(|running| running.applied >= 3).then_some(())
    };
    until("n3 follows", in_sync).await;
}

/// The secret is in one file, for its owner's eyes, and nowhere else.
#[tokio::test]
async fn secrets_are_where_they_belong() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let start = || {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_zmesh"));
        command.args(["serve", "--exit-with-parent", "--id", "n1", "--bind", "tcp://0.0.0.0:0"]);
        command.args(["--advertise", "tcp://127.0.0.1:1", "--log-level", "trace"]);
        command.arg("--data-dir").arg(&data).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let mut lines = Vec::new();
    for _ in 0..2 {
        let mut child = start();
        let mut ready = vec![0; 300];
        let read = child.stdout.as_mut().unwrap().read(&mut ready);
        let bytes = tokio::time::timeout(DEADLINE, read).await.unwrap().unwrap();
        lines.push(String::from_utf8(ready[..bytes].to_vec()).unwrap());
        let pid = child.id().unwrap();
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        drop(child.stdin.take());
        let output = child.wait_with_output().await.unwrap();
        let file = data.join("node.key");
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let text = std::fs::read_to_string(&file).unwrap();
        let secret = text.lines().find_map(|line| line.strip_prefix("secret ")).unwrap();
        let shown = String::from_utf8_lossy(&output.stderr);
        assert!(!shown.contains(secret) && !lines.concat().contains(secret));
        assert!(!String::from_utf8_lossy(&arguments).contains(secret));
    }
    let public = read_key_pair(&data.join("node.key")).unwrap().public().to_string();
    assert!(lines.iter().all(|line| line.trim_end().ends_with(&public)), "{lines:?}");
}

/// What no peer says, thrown at a listener that has keys: nothing of it comes up, nothing grows,
/// and who belongs there is served.
#[tokio::test]
async fn garbage_before_the_handshake_is_harmless() {
    const GROWTH_BYTES_MAX: u64 = 64 << 20;
    let cluster = Processes::start_with_keys(1).await;
    let client = cluster.client("client", 0).await;
    let before = status_of(&client, "n1").await;
    let Address::Tcp { host, port, .. } = cluster.address(0) else { unreachable!() };
    let connect = async || TcpStream::connect((host.as_str(), *port)).await.unwrap();
    let memory = resident(cluster.pid(0));
    let mut rng = fastrand::Rng::with_seed(1);
    let mut attacks: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        vec![0; 64 << 10],
        vec![0xff; 64 << 10],
        // ZMTP 1.0: a length, flags and a routing id, then a message.
        b"\x06\x00z1234\x06\x00hello".to_vec(),
        // ZMTP 2.0.
        b"\xff\0\0\0\0\0\0\0\x01\x7f\x01\x05\x00\x05z1234".to_vec(),
        greeting(b"NULL"),
        [greeting(b"NULL"), null_ready()].concat(),
        [greeting(b"PLAIN"), null_ready()].concat(),
        [greeting(b"EVIL"), null_ready()].concat(),
        [greeting(b"CURVE"), null_ready()].concat(),
        [greeting(b"CURVE"), b"\x04\xc8\x05HELLO".to_vec(), vec![7; 194]].concat(),
        // A command that says to have 700 MiB, and some of them.
        [greeting(b"CURVE"), b"\x06\0\0\0\0\x2b\xc0\0\0".to_vec(), vec![0; 1 << 20]].concat(),
        // One more frame, for ever.
        [greeting(b"CURVE"), b"\x01\x01a".repeat(100_000)].concat(),
    ];
    for _ in 0..200 {
        attacks.push((0..rng.usize(1..1_024)).map(|_| rng.u8(..)).collect());
        attacks.push([greeting(b"CURVE"), (0..200).map(|_| rng.u8(..)).collect()].concat());
    }
    let mut held = Vec::new();
    for attack in &attacks {
        let mut stream = connect().await;
        drop(tokio::time::timeout(Duration::from_secs(1), stream.write_all(attack)).await);
        held.push(stream);
    }
    // And many who say nothing.
    for _ in 0..300 {
        held.push(connect().await);
    }
    writes(&client, "during").await;
    let after = status_of(&client, "n1").await;
    assert_eq!(after.drops.get("rejected.foreign_key"), None);
    assert_eq!(after.drops.get("dropped_malformed"), before.drops.get("dropped_malformed"));
    assert_eq!(after.peers.len(), before.peers.len());
    let growth = resident(cluster.pid(0)).saturating_sub(memory);
    assert!(growth < GROWTH_BYTES_MAX, "grew by {} MiB", growth >> 20);
    drop(held);
    let fresh = cluster.client("fresh", 0).await;
    fresh.wait_for_peers(&Filter::any(), 1, DEADLINE).await.unwrap();
    writes(&fresh, "after").await;
}

/// The greeting of ZMTP 3.1 for a client with this mechanism.
fn greeting(mechanism: &[u8]) -> Vec<u8> {
    let mut greeting = b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\x01".to_vec();
    greeting.extend_from_slice(mechanism);
    greeting.resize(64, 0);
    greeting
}

/// A READY that would do where there are no keys.
fn null_ready() -> Vec<u8> {
    let mut body = b"\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\x10".to_vec();
    body.extend_from_slice(&RoutingId::new(Incarnation(5), 5).0);
    let mut frame = vec![4, u8::try_from(body.len()).unwrap()];
    frame.extend_from_slice(&body);
    frame
}

/// Bytes of memory that a process has.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib << 10
}

/// Time on a key is up while the node runs, whatever else is written meanwhile.
#[tokio::test]
async fn keys_end_when_their_time_is_over() {
    let cluster = Processes::start_with_keys(1).await;
    let pair = KeyPair::generate().unwrap();
    #[expect(clippy::disallowed_methods, reason = "keys end at a time of day")]
    let soon = std::time::SystemTime::now() + Duration::from_secs(12);
    let soon = humantime::format_rfc3339_millis(soon);
    let list = cluster.data_dir(0).join("node.allow");
    let text = std::fs::read_to_string(&list).unwrap();
    let line = format!("{text}guest client {} {soon}\n", pair.public());
    std::fs::write(&list, line).unwrap();
    let guest = Node::builder("guest").heartbeat(HEARTBEAT).keys(pair).connect(cluster.address(0));
    let guest = guest.start().unwrap();
    guest.wait_for_peers(&Filter::any(), 1, DEADLINE).await.unwrap();
    until("the guest is out", async || guest.peers().is_empty().then_some(())).await;
    let list = std::fs::read_to_string(list).unwrap();
    assert!(list.contains("guest client"), "nobody edits the file");
}
