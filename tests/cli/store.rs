//! The key-value store from the command line: conditions, lists, watches, transactions, leases and
//! locks.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::nodes::{Served, done, failed};
use super::{Run, finish, zmesh};

fn start() -> Served {
    Served::start(&["--data-dir", "data"])
}

/// The lines of a command that prints JSON lines.
fn lines(served: &Served, args: &[&str]) -> Vec<Value> {
    let run = served.run(&[args, &["--json"]].concat());
    assert_eq!((run.exit, run.stderr.as_str()), (0, ""), "{args:?}");
    run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn revision(run: &Run) -> u64 {
    let revision = run.stdout.strip_prefix("OK revision ");
    let revision = revision.unwrap_or_else(|| panic!("{}{}", run.stdout, run.stderr));
    revision.trim_end().parse().unwrap()
}

/// Two scripts that both read and write would lose a write without.
#[test]
fn write_whose_condition_does_not_hold_is_refused_and_says_why() {
    let served = start();
    let created = revision(&served.run(&["kv", "set", "k", "1", "--if-absent"]));
    let conflict = failed(
        1,
        &format!(
            "error: CAS_FAILED: a condition did not hold: the key is at revision {created} \
             (0: it has no value); nothing was written\n"
        ),
    );
    assert_eq!(served.run(&["kv", "set", "k", "2", "--if-absent"]), conflict);
    assert_eq!(served.run(&["kv", "set", "k", "2", "--if-revision", "1"]), conflict);
    assert_eq!(served.run(&["kv", "clear", "k", "--if-value", "2"]), conflict);
    let at = created.to_string();
    let changed = revision(&served.run(&["kv", "set", "k", "2", "--if-revision", &at]));
    assert!(changed > created);
    let previous = served.json(&["kv", "set", "k", "3", "--if-exists", "--previous"]);
    assert_eq!(previous["previous"]["value"], "2");

    assert_eq!(served.run(&["kv", "get", "k", "--revision", &at]), done("1"));
    assert_eq!(served.run(&["kv", "get", "k", "--at-least", &at]), done("3"));
    let history = served.run(&["kv", "history", "k", "--limit", "2"]);
    assert_eq!(history, done(&format!("{created} set k 1\n{changed} set k 2\n")));
    assert_eq!(served.run(&["kv", "compact"]).exit, 0);
    let compacted = served.run(&["kv", "get", "k", "--revision", &at]);
    assert_eq!(compacted.exit, 1);
    assert!(compacted.stderr.starts_with("error: COMPACTED: "), "{}", compacted.stderr);
}

/// A script that asks for less than the quorum must not take the answer for more, and one that asks
/// for more than there is must hear it.
#[test]
fn write_says_the_level_that_it_has_reached() {
    let served = start();
    let none = served.run(&["kv", "set", "n", "1", "--acks", "none"]);
    assert_eq!(none, done("OK none, not known to be applied\n"));
    revision(&served.run(&["kv", "set", "k", "2", "--acks", "all:1"]));
    let all = served.json(&["kv", "clear", "k", "--acks", "all"]);
    assert_eq!(all["level"], "all");
    let short = served.run_within("3s", &["kv", "set", "k", "3", "--acks", "all:2"]);
    assert_eq!(short.exit, 3);
    assert!(short.stderr.starts_with("error: INSUFFICIENT_ISR: "), "{}", short.stderr);
    assert_eq!(served.run(&["kv", "get", "k"]).exit, 1, "refused, and written");
}

/// Lists are in order and in pages that nobody notices; counters count.
#[test]
fn keys_are_listed_counted_and_cleared_by_prefix() {
    let served = start();
    assert_eq!(served.run(&["kv", "add", "n/1"]), done("1\n"));
    assert_eq!(served.run(&["kv", "add", "n/1", "-3"]), done("-2\n"));
    assert_eq!(served.run(&["kv", "set", "n/2", "two\nlines"]).exit, 0);
    assert_eq!(served.run(&["kv", "set", "other", "x"]).exit, 0);
    let no_number = served.run(&["kv", "add", "other"]);
    assert!(no_number.stderr.starts_with("error: NOT_A_NUMBER: "), "{}", no_number.stderr);
    assert_eq!(no_number.exit, 1);

    let rows = lines(&served, &["kv", "list", "n/"]);
    let values: Vec<_> = rows.iter().map(|row| (&row["key"], &row["value"])).collect();
    assert_eq!(values, [(&json!("n/1"), &json!("-2")), (&json!("n/2"), &json!("two\nlines"))]);
    let keys = lines(&served, &["kv", "list", "--keys-only", "--reverse", "--limit", "2"]);
    assert_eq!((&keys[0]["key"], &keys[1]["key"]), (&json!("other"), &json!("n/2")));
    assert_eq!((keys.len(), &keys[0]["value"]), (2, &Value::Null));
    let table = served.run(&["kv", "list", "n/2"]).stdout;
    assert!(table.ends_with("  two\\nlines\n"), "one line for each key: {table:?}");

    assert_eq!(served.run(&["kv", "list", "--count"]), done("3\n"));
    let cleared = served.run(&["kv", "clear", "n/", "--prefix"]);
    assert!(cleared.stdout.ends_with(", 2 keys cleared\n"), "{}", cleared.stdout);
    assert_eq!(served.run(&["kv", "list", "--count"]), done("1\n"));
    let state = served.json(&["kv", "limits", "--bytes-max", "1KiB"]);
    assert_eq!((&state["keys"], &state["limits"]["bytes_max"]), (&json!(1), &json!(1024)));
    let full = served.run(&["kv", "set", "large", &"x".repeat(2_000)]);
    assert_eq!(full.exit, 1);
    assert!(full.stderr.starts_with("error: QUOTA_EXCEEDED: "), "{}", full.stderr);
}

/// A watch from the beginning has everything, a transaction in one revision.
#[test]
fn watch_prints_what_a_transaction_did() {
    let served = start();
    let txn = |script: &Value| {
        let mut command = zmesh(served.dir());
        command.args(["kv", "txn", "--connect", "ipc://socket", "--timeout", "20s"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(script.to_string().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let script = json!({
        "if": [{ "key": "a", "absent": true }],
        "then": [{ "set": "a", "value": "1" }, { "add": "n", "by": 7 }, { "get": "a" }],
    });
    let (exit, stdout, stderr) = txn(&script);
    assert_eq!((exit, stderr.as_str()), (0, ""));
    let found: Value = serde_json::from_str(&stdout).unwrap();
    let at = &found["revision"];
    assert_eq!(
        (&found["succeeded"], &found["results"][1]),
        (&json!(true), &json!({ "number": 7 }))
    );
    assert_eq!(found["results"][2]["entry"]["value"], "1");
    let (exit, stdout, stderr) = txn(&script);
    assert_eq!((exit, stdout.as_str()), (1, ""));
    assert!(stderr.starts_with("error: CAS_FAILED: condition 1 does not hold"), "{stderr}");
    let other = json!({
        "if": [{ "key": "a", "value": "2" }],
        "else": [{ "clear_prefix": "a" }, { "clear": "n" }],
    });
    let (exit, stdout, _) = txn(&other);
    let found: Value = serde_json::from_str(&stdout).unwrap();
    let results = json!([{ "cleared": 1, "more": false }, { "cleared": 1 }]);
    assert_eq!((exit, &found["succeeded"], &found["results"]), (0, &json!(false), &results));
    assert_eq!(txn(&json!({ "if": [{ "key": "a" }] })).0, 2);
    assert_eq!(txn(&json!({ "them": [] })).0, 2);

    let then = &found["revision"];
    let watch = served.run(&["kv", "watch", "--after", "0", "--limit", "4"]);
    let expected = format!("{at} set a 1\n{at} set n 7\n{then} clear a\n{then} clear n\n");
    assert_eq!(watch, done(&expected));
    let before =
        lines(&served, &["kv", "watch", "n", "--after", "0", "--limit", "2", "--previous"]);
    assert_eq!(
        (&before[1]["event"], &before[1]["previous"]["value"]),
        (&json!("clear"), &json!("7"))
    );
}

/// What goes with a lease goes when it is revoked.
#[test]
fn keys_go_with_their_lease() {
    let served = start();
    let granted = served.run(&["kv", "lease", "grant", "1h"]);
    let id = granted.stdout.trim_end();
    assert_eq!(served.run(&["kv", "set", "k", "v", "--lease", id]).exit, 0);
    assert_eq!(served.run(&["kv", "lease", "keep", id]), done(&format!("{id}\n")));
    let leases = lines(&served, &["kv", "lease", "list"]);
    let lease = json!({ "id": id.parse::<u64>().unwrap(), "ttl_ms": 3_600_000, "keys": 1 });
    assert_eq!(leases, [lease]);
    assert_eq!(served.run(&["kv", "lease", "revoke", id]).exit, 0);
    assert_eq!(served.run(&["kv", "get", "k"]).exit, 1);
    let gone = format!("error: LEASE_NOT_FOUND: there is no lease {id}; nothing was written\n");
    assert_eq!(served.run(&["kv", "lease", "keep", id]), failed(1, &gone));
}

fn lock(served: &Served, flags: &[&str], script: &str) -> Command {
    let mut command = zmesh(served.dir());
    let connect = ["--connect", "ipc://socket", "--timeout", "20s"];
    command.args(["lock", "l"]).args(connect).args(flags).args(["--", "sh", "-c", script]);
    command
}

/// The command of a lock shows its fence with what it writes, without doing anything for it, and its
/// exit code is that of the lock.
#[test]
fn command_runs_under_a_lock_and_its_writes_are_fenced() {
    let served = start();
    let write = |then: &str| {
        let zmesh = env!("CARGO_BIN_EXE_zmesh");
        format!("{zmesh} kv set k v --connect ipc://socket --timeout 20s >/dev/null && {then}")
    };
    let held = finish(&mut lock(&served, &[], &write("echo $ZMESH_FENCE; exit 7")));
    assert_eq!((held.exit, held.stderr.as_str()), (7, ""));
    let fence = held.stdout.trim_end();
    assert!(fence.starts_with("_lock/l/"), "{fence}");
    assert_eq!(served.run(&["kv", "get", "k"]), done("v"));
    let late = served.run(&["kv", "set", "k", "late", "--fence", fence]);
    let fenced = "error: FENCED: the lock is not held with this token; nothing was written\n";
    assert_eq!(late, failed(1, fenced));
    assert_eq!(finish(&mut lock(&served, &[], "exit 0")), done(""));
}

/// A command that goes on without its lock does harm.
#[test]
fn command_is_ended_when_its_lock_is_lost() {
    let served = start();
    let mut holder = lock(&served, &["--ttl", "3s"], "echo held; exec sleep 600");
    let mut holder = holder.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(holder.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "held\n");
    let refused = finish(&mut lock(&served, &["--try"], "exit 0"));
    assert_eq!(refused, failed(1, "error: somebody has the lock l, or waits for it\n"));
    let leases = lines(&served, &["kv", "lease", "list"]);
    let id = leases[0]["id"].to_string();
    assert_eq!(served.run(&["kv", "lease", "revoke", &id]).exit, 0);
    let output = holder.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(4), "{stderr}");
    assert!(stderr.starts_with("error: LOCK_LOST: the lock l was lost"), "{stderr}");
}
