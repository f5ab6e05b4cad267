//! Members that come, vote, lead and go, from the command line.

use std::process::Child;

use serde_json::json;

use super::Run;
use super::nodes::{Served, done, failed, serve};

/// A second process in the directory of the first, which ends with its test.
struct Joined(Child);

impl Joined {
    fn start(beside: &Served, id: &str, args: &[&str]) -> Self {
        let (bind, data) = (format!("ipc://socket-{id}"), format!("data-{id}"));
        let fixed = ["--data-dir", &data, "--log-groups", "1"];
        let fixed = [&fixed[..], &["--peer", "ipc://socket", "--join"]].concat();
        let (child, _stdout, ready) = serve(beside.dir(), id, &bind, &[&fixed, args].concat());
        assert_eq!(ready, format!("ready node={id} address={bind}\n"));
        Self(child)
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// What another place prints on a terminal or to a file is progress, not the result.
fn result(run: &Run) -> (i32, &str) {
    (run.exit, run.stdout.as_str())
}

/// The whole life of a member: it joins, votes, leads in place of the first, which goes.
#[test]
fn node_joins_votes_and_takes_the_place_of_the_first() {
    let served = Served::start(&["--data-dir", "data", "--log-groups", "1"]);
    assert_eq!(served.run(&["kv", "set", "colour", "green"]).exit, 0);
    let _second = Joined::start(&served, "b", &[]);

    let added = served.run(&["member", "add", "b"]);
    assert_eq!(result(&added), (0, "kv: b learner\nlog0: b learner\n"), "{}", added.stderr);
    let again = served.run(&["member", "add", "b", "--promote"]);
    let text = "kv: b learner\nlog0: b learner\nkv: b voter\nlog0: b voter\n";
    assert_eq!(result(&again), (0, text), "{}", again.stderr);

    let list = served.run(&["member", "list"]);
    let rows: Vec<Vec<&str>> =
        list.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["SERVICE", "NODE", "ROLE", "LAG", "STATE", "DIRECTORY"]);
    assert_eq!(rows[1][..3], ["kv", "a", "leader"], "{}", list.stdout);
    assert_eq!(rows[2][..3], ["kv", "b", "voter"], "{}", list.stdout);

    let compared = served.run(&["check", "--online"]);
    assert_eq!((compared.exit, compared.stderr.as_str()), (0, ""), "{}", compared.stdout);
    let cells: Vec<Vec<&str>> =
        compared.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(cells[0], ["SERVICE", "NODE", "INDEX", "HASH", "BYTES", "VERDICT"]);
    assert_eq!((cells[1][1], cells[1][5], cells[2][1], cells[2][5]), ("a", "same", "b", "same"));
    assert_eq!(cells[1][2..5], cells[2][2..5], "one entry, one sum");

    assert_eq!(served.run(&["member", "transfer", "b"]), done("kv: b leader\nlog0: b leader\n"));
    let removed = served.run(&["member", "remove", "a"]);
    let text =
        "kv: a removed\nlog0: a removed\nstop a, if it runs: its directory cannot come back\n";
    assert_eq!(removed, done(text));
    assert_eq!(served.run(&["kv", "get", "colour"]), done("green"));
    let gone =
        failed(1, "error: MEMBER_UNKNOWN: a is no member\n  next: see `zmesh member list`\n");
    assert_eq!(served.run(&["member", "remove", "a"]), gone);
}

/// Replacing is one command, and running it again after it is done changes nothing.
#[test]
fn member_is_replaced_by_one_command_that_may_be_repeated() {
    let served = Served::start(&["--data-dir", "data", "--log-groups", "1"]);
    assert_eq!(served.run(&["kv", "set", "colour", "green"]).exit, 0);
    let _second = Joined::start(&served, "b", &[]);
    let added = served.run(&["member", "add", "b", "--promote"]);
    assert_eq!(added.exit, 0, "{}", added.stderr);

    let _third = Joined::start(&served, "c", &[]);
    let replaced = served.run(&["member", "replace", "b", "c"]);
    let text = "kv: c learner\nlog0: c learner\nkv: c voter\nlog0: c voter\nkv: b removed\nlog0: b removed\n\
                stop b, if it runs: its directory cannot come back\n";
    assert_eq!(result(&replaced), (0, text), "{}", replaced.stderr);
    let again = served.run(&["member", "replace", "b", "c"]);
    let text = "kv: c learner\nlog0: c learner\nkv: c voter\nlog0: c voter\nb was removed before\n";
    assert_eq!(result(&again), (0, text), "{}", again.stderr);
    assert_eq!(
        served.json(&["member", "transfer", "c", "--service", "kv"]),
        json!({
            "service": "kv", "node": "c", "state": "leader",
        })
    );
    assert_eq!(served.run(&["kv", "get", "colour"]), done("green"));
}

/// Names that are wrong are refused before anything is changed, and in far less than the time that
/// catching up may take.
#[test]
fn wrong_names_are_refused_before_anything_is_changed() {
    let served = Served::start(&["--data-dir", "data", "--log-groups", "1"]);
    assert_eq!(served.run(&["kv", "set", "colour", "green"]).exit, 0);
    let absent = failed(
        1,
        "error: MEMBER_UNKNOWN: b is not in the mesh, or has no directory for kv, log0 there\n  \
         next: start it: zmesh serve --id b --join --data-dir DIR --peer ADDRESS, DIR being empty\n",
    );
    assert_eq!(served.run(&["member", "add", "b"]), absent);
    let gone =
        failed(1, "error: MEMBER_UNKNOWN: x is no member\n  next: see `zmesh member list`\n");
    assert_eq!(served.run(&["member", "replace", "x", "b"]), gone);
    assert_eq!(served.run(&["member", "replace", "a", "a"]).exit, 2);
    let none = served.run(&["member", "transfer", "a", "--service", "nothing"]);
    assert_eq!((none.exit, none.stdout.as_str()), (1, ""), "{}", none.stderr);
}
