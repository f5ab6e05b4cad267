//! Commands against nodes that run: what they print, and how they end.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{Run, finish, run, zmesh};

/// A `zmesh serve` on a socket in a directory of its own: no port that anybody else could have.
pub(crate) struct Served {
    pub(crate) dir: tempfile::TempDir,
    child: Child,
    stdout: BufReader<ChildStdout>,
    ready: String,
}

impl Served {
    /// Starts a node called `a` and waits until it is ready.
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), args)
    }

    pub(crate) fn start_in(dir: tempfile::TempDir, args: &[&str]) -> Self {
        let (child, stdout, ready) = serve(dir.path(), "a", "ipc://socket", args);
        Self { dir, child, stdout, ready }
    }

    /// Its directory.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Runs a client command against it.
    pub(crate) fn run(&self, args: &[&str]) -> Run {
        finish(&mut self.command(args))
    }

    /// Runs one that is expected to try until its time is up.
    pub(crate) fn run_within(&self, timeout: &str, args: &[&str]) -> Run {
        finish(&mut self.command_within(timeout, args))
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        self.command_within("20s", args)
    }

    fn command_within(&self, timeout: &str, args: &[&str]) -> Command {
        let mut command = zmesh(self.dir.path());
        command.args(args).args(["--connect", "ipc://socket", "--timeout", timeout]);
        command
    }

    /// The only line of a command that prints one line of JSON.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let run = self.run(&[args, &["--json"]].concat());
        assert_eq!((run.exit, run.stderr.as_str()), (0, ""), "{args:?}");
        serde_json::from_str(&run.stdout).unwrap()
    }

    /// Kills it at once, and returns its directory.
    pub(crate) fn kill(mut self) -> tempfile::TempDir {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.dir
    }

    /// Asks it to stop, and returns its exit code and its directory.
    pub(crate) fn stop(mut self) -> (Option<i32>, tempfile::TempDir) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        (self.child.wait().unwrap().code(), self.dir)
    }
}

/// Starts a node in `dir`, and returns it with its output when it is ready.
pub(crate) fn serve(
    dir: &Path,
    id: &str,
    bind: &str,
    args: &[&str],
) -> (Child, BufReader<ChildStdout>, String) {
    let mut child = zmesh(dir)
        .args(["serve", "--id", id, "--exit-with-parent", "--log-level", "warn"])
        .args(["--bind", bind])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut ready = String::new();
    stdout.read_line(&mut ready).unwrap();
    (child, stdout, ready)
}

pub(crate) fn done(stdout: &str) -> Run {
    Run { exit: 0, stdout: stdout.to_owned(), stderr: String::new() }
}

pub(crate) fn failed(exit: i32, stderr: &str) -> Run {
    Run { exit, stdout: String::new(), stderr: stderr.to_owned() }
}

/// What a person does first; and what a script relies on: the bytes of a value and nothing else.
#[test]
fn keys_are_set_read_and_cleared() {
    let served = Served::start(&["--data-dir", "data"]);
    assert_eq!(served.ready, "ready node=a address=ipc://socket\n");
    let run = |args: &[&str]| served.run(args);

    // A write opens a session first and ends it afterwards: both are entries of the log as well.
    assert_eq!(run(&["kv", "set", "colour", "green"]), done("OK revision 4\n"));
    assert_eq!(run(&["kv", "get", "colour"]), done("green"));
    assert_eq!(
        served.json(&["kv", "get", "colour"]),
        json!({
            "key": "colour", "value": "green", "encoding": "utf-8",
            "revision": 4, "created": 4, "version": 1,
        })
    );
    assert_eq!(run(&["kv", "get", "--stale", "colour"]), done("green"));
    assert_eq!((run(&["kv", "get", ""]).exit, run(&["kv", "set", "", "x"]).exit), (2, 2));
    let absent = failed(1, "error: NOT_FOUND: taste has no value\n");
    assert_eq!(run(&["kv", "get", "taste"]), absent);

    let mut command = served.command(&["kv", "set", "bytes", "-", "--json"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"\xff\0\n").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let output = served.command(&["kv", "get", "bytes"]).output().unwrap();
    assert_eq!(output.stdout, b"\xff\0\n");
    let found = served.json(&["kv", "get", "bytes"]);
    assert_eq!((&found["value"], &found["encoding"]), (&json!("/wAK"), &json!("base64")));

    assert_eq!(run(&["kv", "clear", "colour"]), done("OK revision 10\n"));
    assert_eq!(run(&["kv", "get", "colour"]).exit, 1);

    // A restart loses nothing.
    let (exit, dir) = served.stop();
    assert_eq!(exit, Some(0), "SIGTERM is the way to stop a node");
    let again = Served::start_in(dir, &["--data-dir", "data"]);
    assert_eq!(again.json(&["kv", "get", "bytes"]), found);
}

/// Status and peers in the shape that other programs read.
#[test]
fn status_and_peers_describe_the_node() {
    let served = Served::start(&["--data-dir", "data", "--label", "role=store"]);
    assert_eq!(served.run(&["kv", "set", "k", "v"]).exit, 0);
    let status = served.json(&["status"]);
    for (pointer, value) in [
        ("/node", json!("a")),
        ("/cluster", json!("zmesh")),
        ("/address", json!("ipc://socket")),
        ("/labels/role", json!("store")),
        ("/encrypted", json!(false)),
        ("/insecure", json!(false)),
        ("/sync", json!("always")),
        ("/replica/phase", json!("running")),
        ("/replica/role", json!("leader")),
        ("/replica/leader", json!("a")),
        ("/replica/commit", json!(5)),
        ("/replica/applied", json!(5)),
        ("/replica/voters", json!(["a"])),
        ("/replica/followers", json!([])),
        ("/drops/ticks_refused_full", json!(0)),
    ] {
        assert_eq!(status.pointer(pointer), Some(&value), "{pointer} of {status}");
    }
    let table = served.run(&["status"]).stdout;
    let mut lines = table.lines();
    let columns: Vec<_> = lines.next().unwrap().split_whitespace().collect();
    let titles = "NODE ROLE TERM LEADER COMMIT APPLIED IN SYNC LAG PEERS DROPS UP";
    assert_eq!(columns.join(" "), titles);
    let cells: Vec<_> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(&cells[..2], ["a", "leader"]);

    // The command itself is a peer, and is left out.
    let peers = served.run(&["peers"]);
    assert_eq!(peers, done(" NODE  ADDRESS  DIRECTION  QUEUED  IN FLIGHT  LABELS\n"));
}

/// JSON in, JSON out; bytes in, bytes out; and a reason when there is none.
#[test]
fn requests_are_answered_or_say_why_not() {
    let served = Served::start(&["--label", "role=echo"]);
    let run = |args: &[&str]| served.run(args);
    let payload = r#"{"a":[1,-2,0.5,null,"x"]}"#;
    assert_eq!(run(&["request", "zmesh.echo", payload]), done(&format!("{payload}\n")));
    assert_eq!(run(&["request", "zmesh.echo", "--raw", "{no json"]), done("{no json"));
    assert_eq!(run(&["request", "zmesh.echo", "7", "--to", "a"]), done("7\n"));
    assert_eq!(run(&["request", "zmesh.echo", "--any", "role=echo"]), done("null\n"));
    let all = run(&["request", "zmesh.echo", "7", "--all", ""]);
    assert_eq!(all, done("{\"node\":\"a\",\"reply\":7}\n"));

    let nobody = failed(
        1,
        "error: NO_HANDLER: a: no handler for math.sum\n  \
         next: check the subject, or name a node that handles it: --to NAME\n",
    );
    assert_eq!(run(&["request", "math.sum", "[1]"]), nobody);
    let invalid = run(&["request", "zmesh.echo", "{a:1}"]);
    assert_eq!(invalid.exit, 2);
    assert!(invalid.stderr.starts_with("error: the payload is no JSON: "), "{}", invalid.stderr);
    let absent = finish(
        zmesh(served.dir.path())
            .args(["request", "zmesh.echo", "--to", "b", "--timeout", "200ms"])
            .args(["--connect", "ipc://socket"]),
    );
    let stderr = "error: node b is not in the mesh; joined within 200ms: a\n  \
        next: see `zmesh peers` for names and labels; --timeout waits longer\n";
    assert_eq!(absent, failed(3, stderr));
    let system = run(&["request", "_mesh.status"]);
    assert_eq!(system.exit, 2, "subjects of the system are not for users: {}", system.stderr);
}

/// A command that ends right after it has sent must not take its tick with it.
#[test]
fn tick_arrives_although_its_sender_ends_at_once() {
    let mut served = Served::start(&["--print", "metrics.>"]);
    for (args, line) in [
        (["metrics.cpu", "{\"load\":0.5}"].as_slice(), json!({ "load": 0.5 })),
        (&["metrics.disk.used", "--raw", "plenty"], json!("plenty")),
        (&["metrics.odd", "--all", ""], Value::Null),
    ] {
        let sent = served.run(&[&["tick"], args].concat());
        assert_eq!(sent, done("sent to a\n"));
        let mut printed = String::new();
        served.stdout.read_line(&mut printed).unwrap();
        let printed: Value = serde_json::from_str(&printed).unwrap();
        assert_eq!((&printed["subject"], &printed["payload"]), (&json!(args[0]), &line));
    }
}

/// Exit code 3 and the addresses that were tried, within the time that was given.
#[test]
fn nobody_there_is_said_in_time() {
    let nobody =
        |args: &[&str]| run(&[args, &["--connect", "ipc://nobody", "--timeout", "100ms"]].concat());
    for args in [
        ["kv", "get", "k"].as_slice(),
        &["kv", "set", "k", "v"],
        &["status"],
        &["peers"],
        &["request", "a.b"],
        &["tick", "a.b"],
    ] {
        let stderr = "error: nobody answered at ipc://nobody within 100ms\n  \
            next: start a node (zmesh serve), or say where one is: --connect ADDRESS\n";
        assert_eq!(nobody(args), failed(3, stderr), "{args:?}");
    }
}

/// A node of another mesh answers, and what it says is passed on at once.
#[test]
fn other_mesh_refuses_and_says_so() {
    let served = Served::start(&[]);
    let other = served.run(&["kv", "get", "k", "--cluster", "other"]);
    let stderr = "error: ipc://socket refused: the node belongs to another cluster\n  \
        next: name the mesh with --cluster, and its keys, if it has any: HOST:PORT#KEY, --key-file\n";
    assert_eq!(other, failed(1, stderr));
}

/// Without a replica in the mesh there is no store, which is not the same as an empty one.
#[test]
fn mesh_without_a_replica_has_no_store() {
    let served = Served::start(&[]);
    let none = finish(
        zmesh(served.dir.path())
            .args(["kv", "get", "k", "--timeout", "300ms"])
            .args(["--connect", "ipc://socket"]),
    );
    let stderr = "error: NO_REPLICA: no node that runs a replica was found within 300ms\n  \
        next: start one: zmesh serve --id NAME --data-dir DIR\n";
    assert_eq!(none, failed(3, stderr));
}

/// A cluster that never was is not one that lost its quorum: other nodes have to be started.
#[test]
fn cluster_that_has_not_begun_says_whom_it_waits_for() {
    let served = Served::start(&["--data-dir", "data", "--members", "a,b,c"]);
    let forming = finish(
        zmesh(served.dir.path())
            .args(["kv", "set", "k", "v", "--timeout", "1s"])
            .args(["--connect", "ipc://socket"]),
    );
    let stderr = "error: NOT_FORMED: the cluster has not begun: it waits for b, c; \
        nothing was written\n  \
        next: start the nodes that are missing; it begins when all have been up\n";
    assert_eq!(forming, failed(3, stderr));
}

/// A second node on one port, or on one directory, is a mistake in the configuration.
#[test]
fn what_belongs_to_another_process_is_refused() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", holder.local_addr().unwrap());
    let taken = run(&["serve", "--bind", &address, "--log-level", "off"]);
    let stderr = format!(
        "error: cannot bind {address}: Address already in use (os error 98)\n  \
         next: stop what listens there, or choose another address with --bind\n"
    );
    assert_eq!(taken, failed(2, &stderr));

    let served = Served::start(&["--data-dir", "data"]);
    let serve = |dir: &Path, args: &[&str]| {
        let bind = ["serve", "--bind", "ipc://other", "--log-level", "off", "--data-dir", "data"];
        finish(zmesh(dir).args(bind).args(args))
    };
    let locked = failed(
        2,
        "error: data/kv is in use by another process\n  \
         next: check --id, --members and --data-dir (data)\n",
    );
    assert_eq!(serve(served.dir.path(), &["--id", "a"]), locked);

    let (_, dir) = served.stop();
    let foreign = failed(
        2,
        "error: the data directory belongs to node a, not to b\n  \
         next: check --id, --members and --data-dir (data)\n",
    );
    assert_eq!(serve(dir.path(), &["--id", "b"]), foreign);
}

/// A flipped bit in what was acknowledged: the node must not start, and must not repair it.
#[test]
fn damaged_log_ends_the_node_with_its_own_exit_code() {
    let served = Served::start(&["--data-dir", "data"]);
    for key in ["a", "b", "c"] {
        assert_eq!(served.run(&["kv", "set", key, "value"]).exit, 0);
    }
    let (_, dir) = served.stop();
    let segment = segment(&dir.path().join("data/kv"));
    let mut bytes = std::fs::read(&segment).unwrap();
    let at = bytes.windows(5).position(|window| window == b"value").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&segment, &bytes).unwrap();

    let args = ["serve", "--id", "a", "--bind", "ipc://other", "--data-dir", "data"];
    let run = finish(zmesh(dir.path()).args(args).args(["--log-level", "off"]));
    assert_eq!((run.exit, run.stdout.as_str()), (5, ""), "{}", run.stderr);
    assert!(run.stderr.starts_with("error: CORRUPT: "), "{}", run.stderr);
    let next = "\n  next: see what is damaged, and what can be done: zmesh repair data\n";
    assert!(run.stderr.ends_with(next), "{}", run.stderr);
    assert_eq!(std::fs::read(&segment).unwrap(), bytes, "the file was changed");
}

/// A directory is used as it was made: with the number of groups that it was made for, and not if it
/// has the files of a replica itself, as those of early versions had.
#[test]
fn data_directory_of_another_kind_is_refused() {
    let served = Served::start(&["--data-dir", "data", "--log-groups", "2"]);
    let status = served.json(&["status"]);
    assert_eq!(status["log"].as_array().unwrap().len(), 2, "{status}");
    assert_eq!(status["log"][1]["phase"], "running");
    assert_eq!(status["labels"]["_log.groups"], "2");
    let table = served.run(&["status"]).stdout;
    assert!(table.contains("LOG GROUP  ROLE"), "{table}");
    let (_, dir) = served.stop();
    let serve = || {
        let args = ["serve", "--id", "a", "--bind", "ipc://other", "--log-level", "off"];
        finish(zmesh(dir.path()).args(args).args(["--data-dir", "data"]))
    };
    let other = failed(
        2,
        "error: data was made for 2 groups of the log, not for 4: the number never changes\n  \
         next: give --log-groups 2, or another --data-dir\n",
    );
    assert_eq!(serve(), other);

    for file in std::fs::read_dir(dir.path().join("data/kv")).unwrap() {
        let path = file.unwrap().path();
        std::fs::rename(&path, dir.path().join("data").join(path.file_name().unwrap())).unwrap();
    }
    let old = serve();
    assert_eq!((old.exit, old.stdout.as_str()), (2, ""));
    let text = "error: data holds the files of a replica itself: they belong into data/kv (stop ";
    assert!(old.stderr.starts_with(text), "{}", old.stderr);
}

/// The file that holds the log.
pub(crate) fn segment(dir: &Path) -> PathBuf {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut logs: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|it| it == "wal")).collect();
    assert_eq!(logs.len(), 1, "{logs:?}");
    logs.remove(0)
}

/// A cluster that stays: started, hurt, healed and stopped by one command after the other.
#[test]
fn local_cluster_survives_the_loss_of_its_leader() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = |args: &[&str]| -> Vec<Value> {
        let run = finish(zmesh(dir.path()).args(["cluster"]).args(args).arg("--json"));
        assert_eq!(run.exit, 0, "{args:?}: {}", run.stderr);
        run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let states = |nodes: &[Value]| -> Vec<String> {
        nodes.iter().map(|node| node["state"].as_str().unwrap().to_owned()).collect()
    };
    let _stop = StopCluster(dir.path());
    let nodes = cluster(&["start"]);
    assert_eq!(states(&nodes), ["running"; 3]);
    let leads = |node: &&Value| node["status"]["replica"]["role"] == "leader";
    let leader = nodes.iter().find(leads).expect("start waits for a leader");
    let addresses: Vec<_> = nodes.iter().map(|node| node["address"].as_str().unwrap()).collect();
    let addresses = addresses.join(",");
    let kv = |args: &[&str]| {
        let connect = ["--connect", &addresses, "--timeout", "20s"];
        finish(zmesh(dir.path()).arg("kv").args(args).args(connect))
    };
    assert_eq!(kv(&["set", "colour", "green"]).exit, 0);

    assert_eq!(cluster(&["kill", "leader"]), [json!({ "killed": leader["node"] })]);
    assert_eq!(kv(&["get", "colour"]), done("green"));
    let stopped = cluster(&["status"]).into_iter().find(|node| node["state"] == "stopped");
    assert_eq!(stopped.expect("it was killed")["node"], leader["node"]);

    assert_eq!(states(&cluster(&["start"])), ["running"; 3]);
    assert_eq!(states(&cluster(&["stop"])), ["stopped"; 3]);

    // A reader that goes before it was told anything is no reason to stop the nodes; and what was
    // moved to another place has everything with it.
    std::fs::rename(dir.path().join("zmesh-cluster"), dir.path().join(MOVED)).unwrap();
    let mut start = zmesh(dir.path());
    start.args(["cluster", "start", "--dir", MOVED]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = start.spawn().unwrap();
    drop(child.stdout.take());
    child.wait().unwrap();
    let two: Vec<_> = (0..2).map(|_| cluster(&["status", "--dir", MOVED])).collect();
    assert!(two.iter().all(|nodes| states(nodes) == ["running"; 3]), "{two:?}");
    assert_eq!(kv(&["get", "colour"]), done("green"));
}

const MOVED: &str = "moved";

/// Leaves no process behind when the test ends, wherever it does.
struct StopCluster<'a>(&'a Path);

impl Drop for StopCluster<'_> {
    fn drop(&mut self) {
        for dir in ["zmesh-cluster", MOVED] {
            drop(zmesh(self.0).args(["cluster", "stop", "--dir", dir]).output());
        }
    }
}
