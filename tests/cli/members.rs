//! Members that come, vote, lead and go, from the command line.

use std::process::Child;

use serde_json::json;

use super::nodes::{Served, done, failed, segment, serve};
use super::{Run, finish, zmesh};

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

impl Joined {
    /// One of the members that the cluster `a,b,c` begins with.
    fn member(beside: &Served, id: &str) -> Self {
        let (bind, data) = (format!("ipc://socket-{id}"), format!("data-{id}"));
        let args = ["--data-dir", &data, "--peer", "ipc://socket", "--members", "a,b,c"];
        let args = [&args[..], &["--log-groups", "1"]].concat();
        Self(serve(beside.dir(), id, &bind, &args).0)
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

/// One of three loses what it had on disk. It does not start on the rest, is put aside, and comes back
/// as a new member; with it there is a quorum again when another goes.
#[test]
fn damaged_member_of_three_joins_again_and_counts_again() {
    let served = Served::start(&["--data-dir", "data", "--members", "a,b,c", "--log-groups", "1"]);
    let member = |id| Joined::member(&served, id);
    let (second, third) = (member("b"), member("c"));
    for number in 0..5 {
        let set = served.run(&["kv", "set", &format!("key-{number}"), "value"]);
        assert_eq!(set.exit, 0, "{}", set.stderr);
    }
    // Whoever leads, `c` shall have everything.
    let compared = served.run(&["check", "--online"]);
    assert_eq!(compared.exit, 0, "{}", compared.stderr);
    drop(third);
    let file = segment(&served.dir().join("data-c/kv"));
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.windows(5).position(|window| window == b"value").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&file, &bytes).unwrap();

    let serve = ["serve", "--id", "c", "--bind", "ipc://socket-c", "--data-dir", "data-c"];
    let on = |args: &[&str]| finish(zmesh(served.dir()).args(args));
    let refused =
        on(&[&serve[..], &["--members", "a,b,c", "--peer", "ipc://socket", "--log-groups", "1"]]
            .concat());
    assert_eq!(refused.exit, 5, "{}", refused.stderr);
    let repair = on(&["repair", "data-c", "--rejoin", "--apply"]);
    assert_eq!(repair.exit, 0, "{}", repair.stderr);
    assert!(served.dir().join("data-c.damaged-1").is_dir());

    let removed = served.run(&["member", "remove", "c"]);
    assert_eq!(removed.exit, 0, "{}", removed.stderr);
    let _third = Joined::start(&served, "c", &[]);
    let added = served.run(&["member", "add", "c", "--promote"]);
    assert_eq!(
        result(&added),
        (0, "kv: c learner\nlog0: c learner\nkv: c voter\nlog0: c voter\n"),
        "{}",
        added.stderr
    );
    drop(second);
    assert_eq!(served.run(&["kv", "set", "after", "it"]).exit, 0);
    assert_eq!(served.run(&["kv", "get", "key-4"]), done("value"));
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
