//! `zmesh demo`, as a person runs it: it ends well, says so in numbers, and leaves nothing behind.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// The demonstration with its temporary directory inside `dir`.
fn demo(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_zmesh"));
    command.arg("demo").args(args).env("TMPDIR", dir).current_dir(dir).stdin(Stdio::null());
    command
}

/// Processes that have `dir` on their command line: the nodes of a demonstration in it.
fn processes(dir: &Path) -> usize {
    let dir = dir.to_str().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let line = std::fs::read(entry.unwrap().path().join("cmdline")).ok()?;
        String::from_utf8_lossy(&line).contains(dir).then_some(())
    });
    processes.count()
}

fn assert_nothing_left(dir: &Path) {
    assert_eq!(processes(dir), 0, "nodes were left behind");
    let left: Vec<_> = std::fs::read_dir(dir).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// The claim of the whole project in one command: the leader dies, and nothing acknowledged is
/// lost.
#[test]
fn leader_dies_twice_and_no_acknowledged_write_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = demo(dir.path(), &["--json", "--seconds", "0.4", "--kills", "2"]);
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");

    let stdout = String::from_utf8(output.stdout).unwrap();
    let lines = stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let lines: Vec<_> = lines.collect();
    let count = |name: &str| lines.iter().filter(|line| line["event"] == name).count();
    assert_eq!((count("kill"), count("restart"), count("caught_up")), (2, 2, 2), "{stdout}");
    let result = lines.last().unwrap();
    assert!(result["acknowledged"].as_u64().unwrap() > 0, "{result}");
    assert_eq!(result["lost"].as_u64(), Some(0), "{result}");
    assert!(result["failover_ms"].as_f64().unwrap() > 0.0, "{result}");
    assert_eq!(result["failovers_ms"].as_array().unwrap().len(), 2, "{result}");
    assert_nothing_left(dir.path());
}

/// Ctrl-C in the middle of the load must not leave three nodes on somebody's machine.
#[test]
fn interrupted_demo_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = demo(dir.path(), &["--json", "--seconds", "3600"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut events = lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    assert!(events.any(|event| event["event"] == "load"), "the load began");
    assert_eq!(processes(dir.path()), 3, "three nodes run");

    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert_nothing_left(dir.path());
}
