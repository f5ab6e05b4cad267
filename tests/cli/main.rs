//! The command line, verbatim: what a person or a script sees, and the exit code it decides by.

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

mod bench;
mod directories;
mod keys;
mod log;
mod members;
mod nodes;
mod store;

/// No command of these tests takes nearly as long, whatever else the machine does.
const END_MAX: Duration = Duration::from_secs(120);

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

/// Runs it to its end, or kills it: a command that never ends must fail its test.
fn finish(command: &mut Command) -> Run {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let process = Pid::from_child(&child);
    let (ended, wait) = mpsc::channel::<()>();
    let guard = thread::spawn(move || {
        if wait.recv_timeout(END_MAX) == Err(RecvTimeoutError::Timeout) {
            kill_process(process, Signal::KILL).ok();
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(ended);
    guard.join().unwrap();
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
        "lock",
        "log",
        "member",
        "request",
        "tick",
        "peers",
        "status",
        "check",
        "repair",
        "recover",
        "dump",
        "restore",
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
    assert_eq!(options.len(), 40, "options of serve");
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
            &["serve", "--sync", "sometimes"],
            "error: invalid value 'sometimes' for '--sync <MODE>': expected `always`, `interval` or \
             `never`

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
            "error: node.bind (--bind): other machines can reach tcp://0.0.0.0:7700, so this node \
             needs keys: make them (zmesh key new FILE) and give node.key_file (--key-file), or do \
             without encryption with node.insecure (--insecure)\n",
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
fn settings_that_cannot_work_together_are_refused() {
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
        (
            &["--id", "a", "--data-dir", "d", "--peer", "tcp://127.0.0.1:7701"],
            "error: replica.members (default): a replica among peers has to name the members of \
             its store, itself included: set replica.members (--members); a new member of a \
             cluster that has begun sets replica.join (--join)\n",
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
        stdout: "ok: queues hold at most 1GiB (64MiB for each of 4096 peers)\n".to_owned(),
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
# key_file is not set
# allow_list is not set
insecure = false # default
transport = \"native\" # default
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
queue_messages = 10000 # default
queue_bytes = \"64MiB\" # default
queue_total = \"1GiB\" # default
peers_max = 4096 # default
in_flight_max = 65536 # default
# peer_rate is not set

[replica]
# data_dir is not set
# members is not set
# join is not set
# log_groups is not set
# heartbeat_interval is not set
# election_timeout is not set
# in_sync_lag_max is not set
# sync is not set
# sync_interval is not set
# segment_bytes is not set
# snapshot_entries is not set
# snapshot_bytes is not set
# snapshot_part is not set
# promote_lag is not set
# scrub_rate is not set
# scrub_interval is not set
# hash_interval is not set

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
        run.stdout.ends_with("warning: 2 members survive the loss of 0, no more than 1 would\n"),
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
                    next: start one: zmesh cluster start, or say where it is: --dir DIR\n"
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
