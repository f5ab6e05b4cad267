//! Data directories as an operator looks at them: verified, and repaired, from the command line.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tempfile::TempDir;

use super::nodes::{Served, done, failed, segment};
use super::{Run, finish, zmesh};

/// The directory `data` of a node that has stopped, with a few writes in it.
fn written() -> TempDir {
    let served = Served::start(&["--data-dir", "data", "--log-groups", "1"]);
    for key in ["a", "b", "c"] {
        assert_eq!(served.run(&["kv", "set", key, "value"]).exit, 0);
    }
    // The log begins beside the store, and not at the same moment.
    let appended = served.run(&["log", "append", "orders", "one"]);
    assert_eq!(appended.exit, 0, "{appended:?}");
    let (exit, dir) = served.stop();
    assert_eq!(exit, Some(0));
    dir
}

/// Every file below a directory.
fn image(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(image(&path)),
            false => drop(files.insert(path.clone(), std::fs::read(&path).unwrap())),
        }
    }
    files
}

fn on(dir: &TempDir, args: &[&str]) -> Run {
    finish(zmesh(dir.path()).args(args))
}

/// Flips a bit in the value of the first write, with others after it.
fn damage(dir: &TempDir) -> (PathBuf, usize) {
    let segment = segment(&dir.path().join("data/kv"));
    let mut bytes = std::fs::read(&segment).unwrap();
    let at = bytes.windows(5).position(|window| window == b"value").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&segment, &bytes).unwrap();
    (segment, at)
}

/// A sound directory: exit code 0, every file named, and not a byte changed.
#[test]
fn sound_directory_is_found_sound_and_left_alone() {
    let dir = written();
    let before = image(&dir.path().join("data"));
    let check = on(&dir, &["check", "data"]);
    assert_eq!((check.exit, check.stderr.as_str()), (0, ""), "{}", check.stdout);
    for text in ["data/kv/meta", "metadata", "segment", "data/kv: sound; node a, directory "] {
        assert!(check.stdout.contains(text), "{text} is not in {}", check.stdout);
    }
    let json = on(&dir, &["check", "data/kv", "--json"]);
    let report: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((&report["sound"], &report["node"]), (&true.into(), &"a".into()));
    assert_eq!(report["last_index"], report["commit"], "nothing was lost: {report}");
    assert!(image(&dir.path().join("data")) == before, "the directory was changed");
}

/// Damage: exit code 5, file and offset; still not a byte changed.
#[test]
fn damage_is_named_with_file_and_offset() {
    let dir = written();
    let (segment, at) = damage(&dir);
    let before = image(&dir.path().join("data"));
    let check = on(&dir, &["check", "data"]);
    assert_eq!(check.exit, 5, "{}", check.stdout);
    let name = segment.file_name().unwrap().to_str().unwrap();
    let json = on(&dir, &["check", "data/kv", "--json"]);
    let report: Value = serde_json::from_str(&json.stdout).unwrap();
    let file = report["files"].as_array().unwrap().iter().find(|it| it["verdict"] == "damaged");
    let offset = file.unwrap()["offset"].as_u64().unwrap();
    // The record begins before the value in it.
    let before_value = u64::try_from(at).unwrap() - offset;
    assert!((32..200).contains(&before_value), "{report}");
    let message = format!("error: CORRUPT: data/kv/{name} is damaged at byte {offset}: ");
    assert!(check.stderr.starts_with(&message), "{}", check.stderr);
    assert!(check.stderr.ends_with("zmesh repair data\n"), "{}", check.stderr);
    assert!(check.stdout.contains("data/kv: NOT SOUND; node a"), "{}", check.stdout);
    assert!(image(&dir.path().join("data")) == before, "the directory was changed");
}

/// Without --apply nothing is changed, and what the log has acknowledged is never cut: the way back
/// is to join again, with everything kept.
#[test]
fn repair_says_first_and_puts_the_directory_aside_only_when_asked() {
    let dir = written();
    let sound = on(&dir, &["repair", "data", "--rejoin", "--apply"]);
    assert_eq!(sound, done("data: sound; nothing to do\n"), "nothing is put aside without need");
    let (segment, _) = damage(&dir);
    let before = image(&dir.path().join("data"));
    let name = segment.file_name().unwrap().to_str().unwrap();
    for args in [["repair", "data"].as_slice(), &["repair", "data", "--cut-unsynced", "--apply"]] {
        let plan = on(&dir, args);
        assert_eq!(plan.exit, 5, "{plan:?}");
        let text = format!("cannot do anything about data/kv/{name}: ");
        assert!(plan.stdout.starts_with(&text), "{plan:?}");
        assert!(plan.stderr.ends_with("zmesh repair data --rejoin --apply\n"), "{plan:?}");
        assert!(image(&dir.path().join("data")) == before, "the directory was changed");
    }
    assert_eq!(on(&dir, &["repair", "data", "--rejoin"]).exit, 5);
    assert!(image(&dir.path().join("data")) == before, "the directory was changed");

    let rejoin = on(&dir, &["repair", "data", "--rejoin", "--apply"]);
    assert_eq!((rejoin.exit, rejoin.stderr.as_str()), (0, ""), "{rejoin:?}");
    assert!(rejoin.stdout.contains("\n  zmesh member remove a\n"), "{rejoin:?}");
    assert_eq!(image(&dir.path().join("data")), BTreeMap::new());
    let aside = image(&dir.path().join("data.damaged-1"));
    let bytes = |files: &BTreeMap<PathBuf, Vec<u8>>| files.values().cloned().collect::<Vec<_>>();
    assert!(bytes(&aside) == bytes(&before), "something is missing");
}

/// A snapshot that is damaged is not needed as long as the log goes on after the one before.
#[test]
fn damaged_snapshot_is_put_aside_when_the_log_makes_up_for_it() {
    let served =
        Served::start(&["--data-dir", "data", "--log-groups", "1", "--snapshot-entries", "5"]);
    for number in 0..30 {
        let key = format!("key-{number}");
        assert_eq!(served.run(&["kv", "set", &key, &"v".repeat(200)]).exit, 0);
    }
    let (_, dir) = served.stop();
    let data = dir.path().join("data/kv");
    let files = std::fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().path());
    let mut snapshots: Vec<_> =
        files.filter(|file| file.extension().is_some_and(|it| it == "snapshot")).collect();
    snapshots.sort();
    assert!(snapshots.len() > 1, "{snapshots:?}");
    let newest = snapshots.last().unwrap();
    let mut bytes = std::fs::read(newest).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(newest, &bytes).unwrap();
    let check = on(&dir, &["check", "data"]);
    assert_eq!(check.exit, 5, "{}", check.stdout);
    let name = newest.file_name().unwrap().to_str().unwrap();
    assert!(check.stderr.contains(&format!("data/kv/{name} is damaged at byte ")), "{check:?}");

    assert_eq!(on(&dir, &["repair", "data"]).exit, 5, "only said");
    let repaired = on(&dir, &["repair", "data", "--apply"]);
    assert_eq!((repaired.exit, repaired.stderr.as_str()), (0, ""), "{repaired:?}");
    assert!(repaired.stdout.contains("\ndata/kv: sound\n"), "{repaired:?}");
    assert!(data.join(format!("{name}.damaged-1")).exists());
    assert_eq!(on(&dir, &["check", "data"]).exit, 0);
    let again = Served::start_in(dir, &["--data-dir", "data", "--log-groups", "1"]);
    assert_eq!(again.run(&["kv", "get", "key-29"]).stdout, "v".repeat(200));
}

/// The last record of a node that is alone: cut on an explicit word, with a copy kept.
#[test]
fn damaged_end_is_cut_only_on_an_explicit_word() {
    let served = Served::start(&["--data-dir", "data", "--log-groups", "1"]);
    assert_eq!(served.run(&["kv", "set", "first", "value"]).exit, 0);
    assert_eq!(served.run(&["kv", "set", "last", "value"]).exit, 0);
    // Killed: how far the log was synced and committed is not noted as in an orderly end.
    let dir = served.kill();
    let segment = segment(&dir.path().join("data/kv"));
    let mut bytes = std::fs::read(&segment).unwrap();
    let at = bytes.windows(5).rposition(|window| window == b"value").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&segment, &bytes).unwrap();
    let refused = on(&dir, &["repair", "data", "--apply"]);
    assert_eq!(refused.exit, 5);
    assert!(refused.stdout.contains("--cut-unsynced"), "{refused:?}");
    assert!(std::fs::read(&segment).unwrap() == bytes, "the file was changed");

    let cut = on(&dir, &["repair", "data", "--apply", "--cut-unsynced"]);
    assert_eq!((cut.exit, cut.stderr.as_str()), (0, ""), "{cut:?}");
    let copy = segment.with_extension("wal.damaged-1");
    assert!(std::fs::read(copy).unwrap() == bytes, "the copy is not what was there");
    let again = Served::start_in(dir, &["--data-dir", "data", "--log-groups", "1"]);
    assert_eq!(again.run(&["kv", "get", "first"]).stdout, "value");
    assert_eq!(again.run(&["kv", "get", "last"]).exit, 1, "it was given up");
}

/// Two of three are gone for good: the third begins a new cluster with what it has, only on two explicit
/// words, and its old directory stays as it is.
#[test]
fn new_cluster_begins_with_what_one_member_has() {
    let dir = written();
    let before = image(&dir.path().join("data"));
    let asked = on(&dir, &["recover", "--force", "data", "--to", "new"]);
    assert_eq!((asked.exit, asked.stdout.as_str()), (2, ""), "{asked:?}");
    assert_eq!(on(&dir, &["recover", "data", "--to", "new", "--yes"]).exit, 2, "without --force");
    assert!(!dir.path().join("new").exists(), "it was begun without a word");

    let recovered = on(&dir, &["recover", "--force", "data", "--to", "new", "--yes"]);
    assert_eq!((recovered.exit, recovered.stderr.as_str()), (0, ""), "{recovered:?}");
    assert!(recovered.stdout.starts_with("kv: "), "{recovered:?}");
    assert!(recovered.stdout.contains("\nlog0: "), "{recovered:?}");
    assert!(recovered.stdout.ends_with("as new members\n"), "{recovered:?}");
    let after = image(&dir.path().join("data"));
    assert!(before.keys().all(|file| after.contains_key(file)), "something is missing");
    let again = on(&dir, &["recover", "--force", "data", "--to", "new", "--yes"]);
    assert_eq!(again.exit, 2, "the new directory is never overwritten: {again:?}");
    assert_eq!(on(&dir, &["check", "new"]).exit, 0);
    let served = Served::start_in(dir, &["--data-dir", "new", "--log-groups", "1"]);
    assert_eq!(served.run(&["kv", "get", "c"]).stdout, "value");
    assert_eq!(served.run(&["kv", "set", "d", "value"]).exit, 0);
}

/// Everything goes out and comes back, bytes that are no text included; not into a store that has
/// keys, unless it is said; and never from half a dump.
#[test]
fn dump_is_restored_whole_or_not_at_all() {
    let served = Served::start(&["--data-dir", "data", "--log-groups", "1"]);
    for number in [0, 100, 200] {
        let set = served.run(&["kv", "set", &format!("key-{number}"), &number.to_string()]);
        assert_eq!(set.exit, 0, "{}", set.stderr);
    }
    let mut command = served.command(&["kv", "set", "bytes", "-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"\xff\0").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    for value in ["one", "two", "three"] {
        let appended = served.run(&["log", "append", "orders", value]);
        assert_eq!(appended.exit, 0, "{appended:?}");
    }
    let dump = served.run(&["dump", "all.dump"]);
    let text = "all.dump: 4 keys, 3 records of 1 topics\n";
    assert_eq!((dump.exit, dump.stdout.as_str()), (0, text), "{dump:?}");
    let text = std::fs::read_to_string(served.dir().join("all.dump")).unwrap();
    assert!(text.starts_with("{\"zmesh\":{\"version\":1,\"cluster\":\"zmesh\","), "{text}");
    assert!(text.contains("{\"key\":{\"key\":\"key-200\",\"value\":\"200\"}}\n"), "{text}");
    assert_eq!(served.run(&["dump"]).stdout, text, "the same to standard output");
    let again = served.run(&["dump", "all.dump"]);
    assert_eq!((again.exit, again.stderr.contains("all.dump exists")), (1, true), "{again:?}");

    let full = served.run(&["restore", "all.dump"]);
    assert_eq!(full.exit, 1, "{full:?}");
    assert!(full.stderr.contains("the store has 4 keys; nothing was written"), "{full:?}");

    let other = Served::start(&["--data-dir", "data", "--log-groups", "1"]);
    let file = other.dir().join("all.dump");
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    for (broken, exit) in [(lines[..3].concat(), 5), (text.replace("200", "201"), 5)] {
        std::fs::write(&file, broken).unwrap();
        let refused = other.run(&["restore", "all.dump"]);
        assert_eq!(refused.exit, exit, "{refused:?}");
        assert!(refused.stderr.contains("; nothing was written\n"), "{refused:?}");
        assert_eq!(other.run(&["kv", "get", "key-0"]).exit, 1, "half of it was written");
    }
    std::fs::write(&file, &text).unwrap();
    let restored = other.run(&["restore", "all.dump"]);
    let told = "restored 4 keys, 3 records of 1 topics\n";
    assert_eq!((restored.exit, restored.stdout.as_str()), (0, told), "{restored:?}");
    assert_eq!(other.run(&["kv", "get", "key-200"]).stdout, "200");
    let bytes = other.command(&["kv", "get", "bytes"]).output().unwrap().stdout;
    assert_eq!(bytes, b"\xff\0");
    // Again, as after an interruption.
    let merged = other.run(&["restore", "all.dump", "--merge"]);
    assert_eq!(merged.exit, 0, "{merged:?}");
    let (first, second) = (text.lines().skip(1), other.run(&["dump"]).stdout);
    // The first and the last line are about the dump itself.
    let keys = |line: &&str| !line.starts_with("{\"zmesh\"") && !line.starts_with("{\"end\"");
    let second: Vec<&str> = second.lines().filter(keys).collect();
    assert_eq!(first.filter(keys).collect::<Vec<_>>(), second, "what came back is the same");
}

/// What a running node writes meanwhile would look like damage.
#[test]
fn directory_in_use_is_not_looked_at() {
    let served = Served::start(&["--data-dir", "data", "--log-groups", "1"]);
    assert_eq!(served.run(&["kv", "set", "a", "value"]).exit, 0);
    let check = finish(zmesh(served.dir()).args(["check", "data"]));
    assert_eq!((check.exit, check.stdout.as_str()), (1, ""));
    assert!(check.stderr.starts_with("error: data/kv is in use by another process\n"));
    std::fs::create_dir(served.dir().join("empty")).unwrap();
    let nothing = finish(zmesh(served.dir()).args(["check", "empty"]));
    let stderr = "error: empty holds no replica\n  next: name the --data-dir of a node\n";
    assert_eq!(nothing, failed(1, stderr));
}

/// A group of the log of which there is nothing left must not be lost without a word.
#[test]
fn recovery_says_which_group_begins_empty() {
    let dir = written();
    std::fs::remove_dir_all(dir.path().join("data/log0")).unwrap();
    let recovered = on(&dir, &["recover", "--force", "data", "--to", "new", "--yes"]);
    assert_eq!((recovered.exit, recovered.stderr.as_str()), (0, ""), "{recovered:?}");
    let remark = "\nlog0: nothing was found, so it begins empty\n";
    assert!(recovered.stdout.contains(remark), "{recovered:?}");
}
