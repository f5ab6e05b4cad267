//! The command line, verbatim: what a person or a script sees, and the exit code it decides by.

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// What one run of `zmesh` did.
#[derive(Debug, PartialEq)]
struct Run {
    exit: i32,
    stdout: String,
    stderr: String,
}

/// The binary, in `dir`, with nothing in its environment that it would take for settings.
fn zmesh(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_zmesh"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ZMESH_") {
            command.env_remove(name);
        }
    }
    command.current_dir(dir).env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

fn finish(command: &mut Command) -> Run {
    let output = command.output().unwrap();
    Run {
        exit: output.status.code().expect("zmesh ends by itself, not by a signal"),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn run(args: &[&str]) -> Run {
    let dir = tempfile::tempdir().unwrap();
    finish(zmesh(dir.path()).args(args))
}

/// Runs `zmesh config check` with `text` as the content of `zmesh.toml`.
fn check_file(text: &[u8], args: &[&str]) -> Run {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("zmesh.toml"), text).unwrap();
    finish(zmesh(dir.path()).args(["config", "check", "--config", "zmesh.toml"]).args(args))
}

fn usage(message: &str) -> Run {
    Run { exit: 2, stdout: String::new(), stderr: message.to_owned() }
}

/// The first screen names every command, and the exit codes scripts rely on.
#[test]
fn help_goes_to_stdout_and_lists_every_command() {
    let help = run(&["--help"]);
    assert_eq!((help.exit, help.stderr.as_str()), (0, ""));
    for word in [
        "serve",
        "demo",
        "cluster",
        "kv",
        "request",
        "tick",
        "peers",
        "status",
        "config",
        "completions",
        "version",
    ] {
        assert!(help.stdout.contains(&format!("\n  {word} ")), "{word} is not in the help");
    }
    assert!(help.stdout.ends_with(
        "Exit codes:
  0  done
  1  refused, or nothing found
  2  wrong usage or configuration
  3  unreachable or timed out; nothing was changed
  4  outcome unknown: look before trying again
  5  data corrupt
"
    ));
}

/// Without a command there is nothing to do, which a script must notice.
#[test]
fn no_command_is_wrong_usage() {
    let none = run(&[]);
    assert_eq!((none.exit, none.stdout.as_str()), (2, ""));
    assert!(none.stderr.contains("Usage: zmesh [OPTIONS] <COMMAND>"), "{}", none.stderr);
}

/// Every option of `serve` says its default, or it could not be chosen with open eyes.
#[test]
fn every_setting_of_serve_documents_its_default() {
    let help = run(&["serve", "--help"]).stdout;
    let (_, settings) = help.split_once("Node:").unwrap();
    let (settings, _) = settings.split_once("Global options:").unwrap();
    let options: Vec<_> = settings.split("\n      --").skip(1).collect();
    assert_eq!(options.len(), 24, "options of serve");
    for option in options {
        // Lines are wrapped to the terminal, so a phrase may be split anywhere.
        let words: Vec<_> = option.split_whitespace().collect();
        let text = words.join(" ");
        assert!(text.contains("[default: "), "--{text}");
        assert!(text.contains("[env: ZMESH_"), "--{text}");
    }
}

/// CURVE and the monotonic clock come with the vendored library; a build without it shows here.
#[test]
fn version_names_the_libraries() {
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        run(&["version"]),
        Run {
            exit: 0,
            stdout: format!(
                "zmesh     {version}\nlibzmq    4.3.5\nlibsodium linked\ncurve     yes\n"
            ),
            stderr: String::new(),
        }
    );
    assert_eq!(
        run(&["version", "--json"]).stdout,
        format!(
            "{{\"zmesh\":\"{version}\",\"libzmq\":\"4.3.5\",\"libsodium\":\"linked\",\"curve\":true}}\n"
        )
    );
    assert_eq!(run(&["--version"]).stdout, format!("zmesh {version}\n"));
}

/// Mistakes of the fingers are told apart, and never reach a node.
#[test]
fn wrong_flags_and_values_are_refused() {
    for (args, message) in [
        (
            ["serve", "--bnid", "tcp://a:1"].as_slice(),
            "error: unexpected argument '--bnid' found

  tip: a similar argument exists: '--bind'

Usage: zmesh serve --bind <ADDRESS>

For more information, try '--help'.
",
        ),
        (
            &["serve", "--bind"],
            "error: a value is required for '--bind <ADDRESS>' but none was supplied

For more information, try '--help'.
",
        ),
        (
            &["serve", "--bind", "tcp://127.0.0.1:65536"],
            "error: invalid value 'tcp://127.0.0.1:65536' for '--bind <ADDRESS>': invalid address \
             \"tcp://127.0.0.1:65536\": the port must be 0 to 65535 or *

For more information, try '--help'.
",
        ),
        (
            &["serve", "--peer", "tcp://::1:7700"],
            "error: invalid value 'tcp://::1:7700' for '--peer <ADDRESS>': invalid address \
             \"tcp://::1:7700\": an IPv6 address must stand in brackets

For more information, try '--help'.
",
        ),
        (
            &["serve", "--sync", "never"],
            "error: invalid value 'never' for '--sync <MODE>': only `always` is available: the \
             others would acknowledge writes that can be lost

For more information, try '--help'.
",
        ),
        (
            &["config", "check", "--ghost-timeout", "-1s"],
            "error: invalid value '-1s' for '--ghost-timeout <DURATION>': expected a duration such \
             as `250ms`, `2s` or `1m 30s`

For more information, try '--help'.
",
        ),
        (
            &["kv", "get", "key", "--timeout", "0s"],
            "error: invalid value '0s' for '--timeout <DURATION>': must be longer than 0

For more information, try '--help'.
",
        ),
        (
            &["config", "check", "--log-level", "zmesh=loud"],
            "error: log level \"zmesh=loud\": error parsing level filter: expected \
             one of \"off\", \"error\", \"warn\", \"info\", \"debug\", \"trace\", or a number 0-5
  next: use error, warn, info, debug, trace, or such as info,zmesh=debug
",
        ),
    ] {
        assert_eq!(run(args), usage(message), "{args:?}");
    }
}

/// A list of peers is typed by hand and copied between nodes, with the mistakes that makes.
#[test]
fn peer_lists_that_cannot_be_meant_are_refused() {
    for (args, message) in [
        (
            ["--peer", "tcp://127.0.0.1:7700"].as_slice(),
            "error: node.peers (--peer): tcp://127.0.0.1:7700 is this node itself\n",
        ),
        (
            &["--advertise", "tcp://a:1", "--peer", "tcp://b:1,tcp://a:1"],
            "error: node.peers (--peer): tcp://a:1 is this node itself\n",
        ),
        (
            &["--peer", "tcp://b:1", "--peer", "tcp://b:1"],
            "error: node.peers (--peer): tcp://b:1 is there twice\n",
        ),
        (
            &["--peer", "tcp://b:0"],
            "error: node.peers (--peer): tcp://b:0 names no host and port that could be dialed\n",
        ),
        (
            &["--bind", "tcp://*:7700"],
            "error: node.bind (--bind): tcp://*:7700 listens on every interface, so peers must be \
             told which address to dial: set node.advertise (--advertise)\n",
        ),
        (
            &["--bind", "tcp://0.0.0.0:7700", "--advertise", "tcp://a:7700"],
            "error: node.bind (--bind): other machines can reach tcp://0.0.0.0:7700, and links are \
             neither encrypted nor authenticated: bind a loopback address, or allow it with \
             node.insecure (--insecure)\n",
        ),
        (
            &["--id", "a", "--data-dir", "d", "--members", "a,b,a"],
            "error: replica.members (--members): a is there twice\n",
        ),
    ] {
        let args = [&["config", "check"], args].concat();
        assert_eq!(run(&args), usage(message), "{args:?}");
        let serve = [&["serve"], &args[2..]].concat();
        assert_eq!(run(&serve), usage(message), "serve must check what `config check` checks");
    }
}

/// Timeouts that cannot work with each other would show up as peers that come and go.
#[test]
fn timeouts_that_cannot_work_are_refused() {
    for (args, message) in [
        (
            ["--ping-interval", "0s"].as_slice(),
            "error: heartbeat.ping_interval (--ping-interval): must be longer than 0\n",
        ),
        (
            &["--ghost-timeout", "3s"],
            "error: heartbeat.ghost_timeout (--ghost-timeout): 3s is less than \
             2 x heartbeat.ping_interval, which is 2s (default)\n",
        ),
        (
            &["--id", "a", "--data-dir", "d", "--heartbeat-interval", "300ms"],
            "error: replica.heartbeat_interval (--heartbeat-interval): 300ms is more than 1/3 of \
             replica.election_timeout, which is 300ms (default)\n",
        ),
    ] {
        let args = [&["config", "check"], args].concat();
        assert_eq!(run(&args), usage(message), "{args:?}");
    }
}

/// Whatever is handed over as a configuration file: a line to look at, or a reason.
#[test]
fn configuration_files_are_read_or_refused_with_a_reason() {
    let ok = Run {
        exit: 0,
        stdout: "ok: queues hold at most 256GiB (4096 peers x 64MiB)\n".to_owned(),
        stderr: String::new(),
    };
    assert_eq!(check_file(b"", &[]), ok, "an empty file is the defaults");
    assert_eq!(check_file(b"\xef\xbb\xbf[node]\nid = \"a\"\n", &[]), ok, "byte order mark");
    for (text, message) in [
        (
            b"[heartbeat]\npingg_interval = \"1s\"\n".as_slice(),
            "zmesh.toml:2: unknown key `heartbeat.pingg_interval`, did you mean `ping_interval`?",
        ),
        (
            b"[node]\nzebra = 1\n",
            "zmesh.toml:2: unknown key `node.zebra`\n  next: see `zmesh config print` for all keys",
        ),
        (b"[node]\nid = \"a\"\nid = \"b\"\n", "zmesh.toml:3: duplicate key"),
        (
            b"[node]\nid = 7\n",
            "zmesh.toml:2: node.id: invalid type: integer `7`, expected a string",
        ),
        (b"\x7fELF\x02\x01\x01\0\xff", "zmesh.toml: not UTF-8 text (byte 8)"),
        (b"\xff\xfe[\0n\0", "zmesh.toml: not UTF-8 text (byte 0)"),
    ] {
        assert_eq!(check_file(text, &[]), usage(&format!("error: {message}\n")));
    }
    assert_eq!(
        run(&["config", "check", "--config", "absent.toml"]),
        usage("error: absent.toml: cannot be read: No such file or directory (os error 2)\n"),
    );
}

/// A disk image by mistake must be refused by its length, not read.
#[test]
fn huge_configuration_file_is_refused_unread() {
    let dir = tempfile::tempdir().unwrap();
    let file = std::fs::File::create(dir.path().join("huge")).unwrap();
    file.set_len(1 << 30).unwrap();
    let run = finish(zmesh(dir.path()).args(["config", "check", "--config", "huge"]));
    assert_eq!(run, usage("error: huge: larger than 1MiB, so it is no configuration\n"));
}

/// A data directory that is a file is found before anything starts.
#[test]
fn data_directory_that_is_a_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("data"), "").unwrap();
    for command in [["config", "check"].as_slice(), &["serve"]] {
        let args = [command, &["--id", "a", "--data-dir", "data"]].concat();
        assert_eq!(
            finish(zmesh(dir.path()).args(args)),
            usage("error: replica.data_dir (--data-dir): data is not a directory\n"),
        );
    }
}

/// Flag over environment over file, and each value says where it comes from.
#[test]
fn sources_override_each_other_and_show_their_origin() {
    let dir = tempfile::tempdir().unwrap();
    let text = "[node]\nid = \"file\"\ncluster = \"file\"\nlabels = { zone = \"1\" }\n\
        [heartbeat]\npreset = \"efficient\"\n[log]\nlevel = \"debug\"\n";
    std::fs::write(dir.path().join("zmesh.toml"), text).unwrap();
    let mut command = zmesh(dir.path());
    command.args(["config", "print", "--id", "flag", "--log-level", "warn"]);
    command.env("ZMESH_CONFIG", "zmesh.toml").env("ZMESH_CLUSTER", "env").env("ZMESH_ID", "env");
    let printed = finish(&mut command);
    assert_eq!(
        printed,
        Run {
            exit: 0,
            stdout: "\
[node]
id = \"flag\" # --id
cluster = \"env\" # ZMESH_CLUSTER
bind = \"tcp://127.0.0.1:7700\" # default
insecure = false # default
# advertise is not set
peers = [] # default
labels = { \"zone\" = \"1\" } # zmesh.toml:4

[heartbeat]
preset = \"efficient\" # zmesh.toml:6
ping_interval = \"10s\" # preset efficient
health_check_interval = \"30s\" # preset efficient
ghost_timeout = \"1m\" # preset efficient
handshake_timeout = \"5s\" # default
request_timeout = \"5s\" # default

[limits]
payload_max = \"8MiB\" # default
queue_messages = 1000 # default
queue_bytes = \"64MiB\" # default
peers_max = 4096 # default
in_flight_max = 65536 # default

[replica]
# data_dir is not set
# members is not set
# heartbeat_interval is not set
# election_timeout is not set
# sync is not set
# segment_bytes is not set

[log]
level = \"warn\" # --log-level
format = \"text\" # default
"
            .to_owned(),
            stderr: String::new(),
        }
    );
    std::fs::write(dir.path().join("again.toml"), &printed.stdout).unwrap();
    let again = finish(zmesh(dir.path()).args(["config", "print", "--config", "again.toml"]));
    assert_eq!(again.exit, 0, "what is printed is a configuration: {}", again.stderr);
}

/// A warning is no error, but it is not kept back either.
#[test]
fn doubtful_configuration_passes_with_a_warning() {
    let run = check_file(b"", &["--id", "a", "--data-dir", "d", "--members", "a,b"]);
    assert_eq!((run.exit, run.stderr.as_str()), (0, ""));
    assert!(
        run.stdout
            .ends_with("warning: 2 members survive the loss of 0, no more than 1 members would\n"),
        "{}",
        run.stdout
    );
}

/// With `--json` a program gets every failure in one shape, of usage and of configuration alike.
#[test]
fn failures_are_json_when_asked_for() {
    for (args, message) in [
        (["status", "--json", "--nope"].as_slice(), "unexpected argument '--nope' found"),
        (
            &["--json", "config", "check", "--ping-interval", "0s"],
            "heartbeat.ping_interval (--ping-interval): must be longer than 0",
        ),
    ] {
        let run = run(args);
        assert_eq!((run.exit, run.stdout.as_str()), (2, ""), "{args:?}");
        let object: Value = serde_json::from_str(&run.stderr).unwrap();
        let expected = serde_json::json!({
            "error": { "message": message, "next": null, "code": null, "exit": 2 }
        });
        assert_eq!(object, expected);
    }
}

/// A script in the shell's own words, with every command in it.
#[test]
fn completions_exist_for_each_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let run = run(&["completions", shell]);
        assert_eq!((run.exit, run.stderr.as_str()), (0, ""), "{shell}");
        for word in ["serve", "demo", "cluster", "status", "ping-interval"] {
            assert!(run.stdout.contains(word), "{word} is not in the script for {shell}");
        }
    }
}

/// `zmesh completions zsh | head -1` ends without a word when the reader has gone.
#[test]
fn reader_that_has_gone_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = zmesh(dir.path());
    command.args(["completions", "zsh"]).stdout(writer).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!((child.wait().unwrap().code(), stderr.as_str()), (Some(0), ""));
}

/// A full disk under the output is a failure that is said.
#[test]
#[cfg(target_os = "linux")]
fn output_that_cannot_be_written_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = zmesh(dir.path()).arg("version").stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    let expected = "error: cannot write the output: No space left on device (os error 28)\n";
    assert_eq!(stderr, expected);
}

/// Nothing to work on is answered with the command that makes it.
#[test]
fn cluster_commands_without_a_cluster_say_how_to_start_one() {
    for command in [["status"].as_slice(), &["stop"], &["kill", "n1"]] {
        let run = run(&[&["cluster"], command].concat());
        assert_eq!(
            run,
            Run {
                exit: 1,
                stdout: String::new(),
                stderr: "error: there is no cluster in zmesh-cluster\n  \
                    next: start one: zmesh cluster start\n"
                    .to_owned(),
            }
        );
    }
}

/// A file that somebody else wrote, or a disk damaged, is not taken for a cluster.
#[test]
fn damaged_cluster_file_is_refused_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cluster.json");
    std::fs::File::create(&path).unwrap().write_all(b"{\"cluster\":").unwrap();
    let run = finish(zmesh(dir.path()).args(["cluster", "start", "--dir", "."]));
    assert_eq!(
        run,
        Run {
            exit: 5,
            stdout: String::new(),
            stderr: "error: ./cluster.json cannot be understood: EOF while parsing a value at \
                line 1 column 11\n"
                .to_owned(),
        }
    );
    assert_eq!(std::fs::read(&path).unwrap(), b"{\"cluster\":");
}

/// A `zmesh serve` on a socket in a directory of its own: no port that anybody else could have.
struct Served {
    dir: tempfile::TempDir,
    child: Child,
    stdout: BufReader<ChildStdout>,
    ready: String,
}

impl Served {
    /// Starts a node called `a` and waits until it is ready.
    fn start(args: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), args)
    }

    fn start_in(dir: tempfile::TempDir, args: &[&str]) -> Self {
        let mut child = zmesh(dir.path())
            .args(["serve", "--id", "a", "--exit-with-parent", "--log-level", "warn"])
            .args(["--bind", "ipc://socket"])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut ready = String::new();
        stdout.read_line(&mut ready).unwrap();
        Self { dir, child, stdout, ready }
    }

    /// Runs a client command against it.
    fn run(&self, args: &[&str]) -> Run {
        finish(&mut self.command(args))
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = zmesh(self.dir.path());
        command.args(args).args(["--connect", "ipc://socket", "--timeout", "20s"]);
        command
    }

    /// The only line of a command that prints one line of JSON.
    fn json(&self, args: &[&str]) -> Value {
        let run = self.run(&[args, &["--json"]].concat());
        assert_eq!((run.exit, run.stderr.as_str()), (0, ""), "{args:?}");
        serde_json::from_str(&run.stdout).unwrap()
    }

    /// Asks it to stop, and returns its exit code and its directory.
    fn stop(mut self) -> (Option<i32>, tempfile::TempDir) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        (self.child.wait().unwrap().code(), self.dir)
    }
}

fn done(stdout: &str) -> Run {
    Run { exit: 0, stdout: stdout.to_owned(), stderr: String::new() }
}

fn failed(exit: i32, stderr: &str) -> Run {
    Run { exit, stdout: String::new(), stderr: stderr.to_owned() }
}

/// What a person does first; and what a script relies on: the bytes of a value and nothing else.
#[test]
fn keys_are_set_read_and_cleared() {
    let served = Served::start(&["--data-dir", "data"]);
    assert_eq!(served.ready, "ready node=a address=ipc://socket\n");
    let run = |args: &[&str]| served.run(args);

    assert_eq!(run(&["kv", "set", "colour", "green"]), done("OK revision 3\n"));
    assert_eq!(run(&["kv", "get", "colour"]), done("green"));
    assert_eq!(
        served.json(&["kv", "get", "colour"]),
        json!({ "key": "colour", "value": "green", "encoding": "utf-8", "revision": 3 })
    );
    assert_eq!(run(&["kv", "get", "--stale", "colour"]), done("green"));
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

    assert_eq!(run(&["kv", "clear", "colour"]), done("OK revision 5\n"));
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
        ("/replica/commit", json!(3)),
        ("/replica/applied", json!(3)),
        ("/replica/voters", json!(["a"])),
        ("/replica/followers", json!([])),
        ("/drops/ticks_refused_full", json!(0)),
    ] {
        assert_eq!(status.pointer(pointer), Some(&value), "{pointer} of {status}");
    }
    let table = served.run(&["status"]).stdout;
    let mut lines = table.lines();
    let columns: Vec<_> = lines.next().unwrap().split_whitespace().collect();
    let titles = "NODE ROLE TERM LEADER COMMIT APPLIED LAG PEERS DROPS UP";
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

    let nobody = failed(1, "error: NO_HANDLER: a: no handler for math.sum\n");
    assert_eq!(run(&["request", "math.sum", "[1]"]), nobody);
    let invalid = run(&["request", "zmesh.echo", "{a:1}"]);
    assert_eq!(invalid.exit, 2);
    assert!(invalid.stderr.starts_with("error: the payload is no JSON: "), "{}", invalid.stderr);
    let absent = finish(
        zmesh(served.dir.path())
            .args(["request", "zmesh.echo", "--to", "b", "--timeout", "200ms"])
            .args(["--connect", "ipc://socket"]),
    );
    let stderr = "error: node b is not in the mesh; joined within 200ms: a\n";
    assert_eq!(absent, failed(3, stderr));
    let system = run(&["request", "_mesh.status"]);
    assert_eq!(system.exit, 1, "subjects of the system are not for users: {}", system.stderr);
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
        next: name the mesh with --cluster\n";
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
        "error: data is in use by another process\n  \
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
    let segment = segment(&dir.path().join("data"));
    let mut bytes = std::fs::read(&segment).unwrap();
    let at = bytes.windows(5).position(|window| window == b"value").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&segment, &bytes).unwrap();

    let args = ["serve", "--id", "a", "--bind", "ipc://other", "--data-dir", "data"];
    let run = finish(zmesh(dir.path()).args(args).args(["--log-level", "off"]));
    assert_eq!((run.exit, run.stdout.as_str()), (5, ""), "{}", run.stderr);
    assert!(run.stderr.starts_with("error: CORRUPT: "), "{}", run.stderr);
    let next = "\n  next: keep a copy of data before anything is changed in it\n";
    assert!(run.stderr.ends_with(next), "{}", run.stderr);
    assert_eq!(std::fs::read(&segment).unwrap(), bytes, "the file was changed");
}

/// The file that holds the log.
fn segment(dir: &Path) -> PathBuf {
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
}

/// Leaves no process behind when the test fails on its way.
struct StopCluster<'a>(&'a Path);

impl Drop for StopCluster<'_> {
    fn drop(&mut self) {
        drop(zmesh(self.0).args(["cluster", "stop"]).output());
    }
}
