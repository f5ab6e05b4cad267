//! `zmesh log` against a node that runs: what it prints, and how it ends.

use std::io::Write;
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use zmesh::Node;
use zmesh::log::Log;

use super::Run;
use super::nodes::{Served, done, failed};

fn serve() -> Served {
    Served::start(&["--data-dir", "data"])
}

/// The lines of JSON that a command prints.
fn lines(served: &Served, args: &[&str]) -> Vec<Value> {
    let Run { exit, stdout, stderr } = served.run(&[args, &["--json"]].concat());
    assert_eq!((exit, stderr.as_str()), (0, ""), "{args:?}");
    stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn spawn(served: &Served, args: &[&str]) -> Child {
    let mut command = served.command(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn ended(child: Child) -> Run {
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let exit = output.status.code().unwrap();
    Run { exit, stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// A script that asks for less than the quorum must not take the answer for more, and one that asks
/// for more than there is must hear it.
#[test]
fn append_says_the_level_that_it_has_reached() {
    let served = serve();
    let run = |args: &[&str]| served.run(&[&["log", "append"], args].concat());
    assert_eq!(run(&["jobs", "a", "--acks", "all:1"]), done("OK offset 0\n"));
    let leader = served.json(&["log", "append", "jobs", "b", "c", "--acks", "leader"]);
    assert_eq!(leader["level"], "quorum", "one member that syncs is its own quorum");
    assert!(leader["index"].as_u64() > Some(1) && leader["last"] == 2, "{leader}");
    assert_eq!(run(&["jobs", "d", "--acks", "none"]), done("OK none, not known to be appended\n"));
    let short = served.run_within("3s", &["log", "append", "jobs", "e", "--acks", "all:2"]);
    assert_eq!(short.exit, 3);
    assert!(short.stderr.starts_with("error: INSUFFICIENT_ISR: "), "{}", short.stderr);
    assert_eq!(run(&["jobs", "f", "--acks", "all", "--expected", "4"]).exit, 2);
    // What nobody waited for may come later than this one.
    assert_eq!(run(&["jobs", "f"]).exit, 0);
    let found = served.run(&["log", "read", "jobs"]).stdout;
    let mut found: Vec<&str> = found.lines().collect();
    found.sort_unstable();
    assert_eq!(found, ["a", "b", "c", "d", "f"]);
}

/// What a person does first, and what a script relies on: a record is a line.
#[test]
fn records_are_appended_read_and_trimmed() {
    let served = serve();
    let run = |args: &[&str]| served.run(&[&["log"], args].concat());
    assert_eq!(run(&["append", "jobs", "wash", "dry"]), done("OK 2 records, offsets 0 to 1\n"));
    assert_eq!(run(&["read", "jobs"]), done("wash\ndry\n"));

    let expected = ["append", "jobs", "iron", "--key", "shirt", "--expected", "2"];
    assert_eq!(run(&expected), done("OK offset 2\n"));
    let mismatch = "error: OFFSET_MISMATCH: the next offset is 3, not the one that was expected; \
                    nothing was changed\n";
    assert_eq!(run(&expected), failed(1, mismatch));
    let mut found = lines(&served, &["log", "read", "jobs", "--from", "2"]);
    let timestamp = found[0]["timestamp"].take();
    assert!(timestamp.as_u64().unwrap() > 1_600_000_000_000, "{timestamp}");
    let record = json!({
        "offset": 2, "timestamp": null, "key": "shirt", "key_encoding": "utf-8",
        "value": "iron", "encoding": "utf-8",
    });
    assert_eq!(found, [record]);

    let mut child = spawn(&served, &["log", "append", "jobs", "-"]);
    child.stdin.take().unwrap().write_all(b"fold\n\nstore").unwrap();
    assert_eq!(ended(child), done("OK 3 records, offsets 3 to 5\n"));
    assert_eq!(run(&["read", "jobs", "--from", "2", "--count", "3"]), done("iron\nfold\n\n"));
    assert_eq!(run(&["read", "jobs", "--from", "1h", "--count", "1"]), done("wash\n"));
    assert_eq!(run(&["read", "jobs", "--from", "end"]), done(""));

    assert_eq!(run(&["trim", "jobs", "--before", "2"]), done("OK first offset 2\n"));
    assert_eq!(run(&["read", "jobs", "--count", "1"]), done("iron\n"));
    let old = failed(1, "error: OFFSET_TOO_OLD: the oldest offset that is kept is 2\n");
    assert_eq!(run(&["read", "jobs", "--from", "0"]), old);
}

/// Topics with their options, and those that are not there.
#[test]
fn topics_are_created_listed_configured_and_deleted() {
    let served = serve();
    let run = |args: &[&str]| served.run(&[&["log"], args].concat());
    let create = ["create", "events", "--age", "1h", "--bytes", "1MiB"];
    assert_eq!((run(&create), run(&create)), (done("OK\n"), done("OK\n")));
    let exists = run(&["create", "events"]);
    let message = "error: TOPIC_EXISTS: the topic exists with other options; nothing was changed\n";
    assert_eq!(exists, failed(1, message));
    assert_eq!(run(&["configure", "events", "--records", "10"]), done("OK\n"));
    assert_eq!(run(&["append", "orders", "x"]), done("OK offset 0\n"));
    let compacted =
        ["create", "prices", "--compact", "--compact-after", "1m", "--dirty-percent", "30"];
    assert_eq!(run(&compacted), done("OK\n"));
    assert_eq!(run(&["append", "prices", "9", "--key", "tea"]), done("OK offset 0\n"));
    let keyless = "error: INVALID_PAYLOAD: records of this topic need a key: it is compacted; nothing \
                   was changed\n";
    assert_eq!(run(&["append", "prices", "9"]), failed(1, keyless));
    assert_eq!(run(&["create", "other", "--compact-after", "1m"]).exit, 2);
    assert_eq!(run(&["create", "other", "--compact", "--dirty-percent", "0"]).exit, 2);

    let table = run(&["topics"]).stdout;
    let rows: Vec<Vec<&str>> = table.lines().map(|row| row.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["TOPIC", "RECORDS", "FIRST", "NEXT", "BYTES", "KEEPS", "CURSORS"]);
    assert_eq!(rows[1], ["events", "0", "0", "0", "0", "10", "records", "0"]);
    assert_eq!(rows[2][..4], ["orders", "1", "0", "1"]);
    assert_eq!(rows[3][5..9], ["last", "of", "each", "key"]);
    let prices = &lines(&served, &["log", "topics", "prices"])[0]["options"]["compaction"];
    assert_eq!((&prices["dirty_percent"], &prices["after"]["secs"]), (&json!(30), &json!(60)));
    let orders = lines(&served, &["log", "topics", "ord"]);
    assert_eq!(
        (orders.len(), &orders[0]["topic"], &orders[0]["next"]),
        (1, &json!("orders"), &json!(1))
    );

    assert_eq!(run(&["delete", "orders"]), done("OK\n"));
    assert_eq!(run(&["delete", "orders"]), done("OK\n"));
    let unknown = "error: TOPIC_UNKNOWN: there is no such topic\n  next: see `zmesh log topics`\n";
    assert_eq!(run(&["read", "orders"]), failed(1, unknown));
    assert_eq!(run(&["append", "orders", "x", "--existing"]).exit, 1);
    assert_eq!(run(&["append", "a b", "x"]).exit, 1, "no topic can have this name");
    assert_eq!(run(&["create", "events", "--age", "1500ms"]).exit, 2);
    assert_eq!(run(&["read", "events", "--from", "yesterday"]).exit, 2);
    assert_eq!(run(&["append", "events", "-", "x"]).exit, 2);
}

/// A reader that was stopped goes on behind what it printed.
#[test]
fn cursor_goes_on_where_it_stopped() {
    let served = serve();
    let run = |args: &[&str]| served.run(&[&["log"], args].concat());
    run(&["append", "jobs", "wash", "dry", "iron"]);
    let read = ["read", "jobs", "--cursor", "me", "--count", "1"];
    assert_eq!((run(&read), run(&read)), (done("wash\n"), done("dry\n")));
    let cursors = lines(&served, &["log", "cursors", "list", "jobs"]);
    assert_eq!(cursors, [json!({ "cursor": "me", "offset": 2, "lag": 1 })]);
    assert_eq!(run(&["cursors", "set", "jobs", "me", "1"]), done("OK\n"));
    let rest = run(&["tail", "jobs", "--cursor", "me", "--count", "2"]);
    assert_eq!(rest, done("dry\niron\n"));
    assert_eq!(run(&["cursors", "clear", "jobs", "me"]), done("OK\n"));
    assert_eq!(lines(&served, &["log", "cursors", "list", "jobs"]), [json!(null); 0]);
}

/// Somebody who waits sees what comes, and is stopped by a signal without an error.
#[test]
fn tail_prints_what_comes_until_it_has_enough_or_is_interrupted() {
    let served = serve();
    let tail = spawn(&served, &["log", "tail", "jobs", "--from", "first", "--count", "2"]);
    assert_eq!(served.run(&["log", "append", "jobs", "wash"]), done("OK offset 0\n"));
    assert_eq!(served.run(&["log", "append", "jobs", "dry"]), done("OK offset 1\n"));
    assert_eq!(ended(tail), done("wash\ndry\n"));

    let mut follow = spawn(&served, &["log", "read", "jobs", "--follow", "--cursor", "me"]);
    let mut stdout = std::io::BufReader::new(follow.stdout.take().unwrap());
    let mut line = String::new();
    while line != "wash\ndry\n" {
        std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
    }
    let pid = Pid::from_raw(i32::try_from(follow.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    assert_eq!(ended(follow), done(""));
    let cursors = lines(&served, &["log", "cursors", "list", "jobs"]);
    assert_eq!(cursors[0]["offset"], json!(2), "the cursor is not behind what was printed");

    let slow = ["log", "tail", "jobs", "--from", "first", "--policy", "fail", "--lag-records", "1"];
    let slow = served.run(&slow);
    assert_eq!((slow.exit, slow.stdout.as_str()), (1, ""));
    assert!(slow.stderr.starts_with("error: TOO_SLOW: 2 records behind"), "{}", slow.stderr);
    assert_eq!(served.run(&["log", "tail", "jobs", "--policy", "fail"]).exit, 2);
}

/// What an operator needs when workers fail: who is there, what is left, and what was given up.
#[test]
fn groups_are_shown_and_their_dead_letters_settled() {
    let served = serve();
    let run = |args: &[&str]| served.run(&[&["log"], args].concat());
    run(&["append", "jobs", "wash", "burn", "dry"]);
    let create = ["groups", "create", "jobs", "workers", "--tries-max", "1"];
    assert_eq!((run(&create), run(&create)), (done("OK\n"), done("OK\n")));
    assert_eq!(run(&["groups", "create", "jobs", "workers"]).exit, 1, "with other options");
    let unknown = "error: GROUP_NOT_FOUND: the topic has no such group\n  \
                   next: see `zmesh log groups list TOPIC`\n";
    assert_eq!(run(&["groups", "show", "jobs", "nobody"]), failed(1, unknown));

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let address = format!("ipc://{}", served.dir.path().join("socket").display());
    let member = runtime.block_on(async {
        let node = Node::builder("worker").connect(address.as_str()).start().unwrap();
        let log = Log::new(&node).timeout(Duration::from_secs(30));
        let mut member = log.topic("jobs").group("workers").member("w1").join().await.unwrap();
        for _ in 0..3 {
            let delivery = member.next().await.unwrap();
            match delivery.offset {
                0 => delivery.ack().await.unwrap(),
                _ => delivery.nack(Duration::ZERO).await.unwrap(),
            }
        }
        member
    });
    let table = run(&["groups", "list", "jobs"]).stdout;
    let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row, ["workers", "0", "3", "3", "0", "0", "2", "1"]);
    let status = served.json(&["log", "groups", "show", "jobs", "workers"]);
    assert_eq!((&status["dead"], &status["counts"]["acked"]), (&json!(2), &json!(1)));
    assert_eq!(status["members"][0]["name"], json!("w1"));
    assert!(run(&["groups", "show", "jobs", "workers"]).stdout.contains("w1, 0 in flight"));

    let dead = lines(&served, &["log", "groups", "dead", "jobs", "workers"]);
    assert_eq!(dead, [json!({ "offset": 1, "tries": 1 }), json!({ "offset": 2, "tries": 1 })]);
    assert_eq!(run(&["groups", "drop", "jobs", "workers", "1"]), done("OK 1 of 1\n"));
    let stale = run(&["groups", "drop", "jobs", "workers", "1"]);
    assert_eq!((stale.exit, stale.stdout.as_str()), (1, "OK 0 of 1\n"));
    assert!(stale.stderr.starts_with("error: NOT_FOUND: record 1 is no dead letter"));
    assert_eq!(run(&["groups", "requeue", "jobs", "workers", "--all"]), done("OK 1 of 1\n"));
    runtime.block_on(async move {
        let mut member = member;
        let again = member.next().await.unwrap();
        assert_eq!(again.offset, 2);
        again.ack().await.unwrap();
        member.leave().await.unwrap();
    });
    let status = served.json(&["log", "groups", "show", "jobs", "workers"]);
    assert_eq!(
        (&status["dead"], &status["lag"], &status["members"]),
        (&json!(0), &json!(0), &json!([]))
    );
    assert_eq!(run(&["groups", "delete", "jobs", "workers"]), done("OK\n"));
    assert_eq!(lines(&served, &["log", "groups", "list", "jobs"]), [json!(null); 0]);
}
