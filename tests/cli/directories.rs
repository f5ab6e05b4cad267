//! Data directories as an operator looks at them: verified, and repaired, from the command line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use super::nodes::{Served, failed, segment};
use super::{Run, finish, zmesh};

/// The directory `data` of a node that has stopped, with a few writes in it.
fn written() -> TempDir {
    let served = Served::start(&["--data-dir", "data", "--log-groups", "0"]);
    for key in ["a", "b", "c"] {
        assert_eq!(served.run(&["kv", "set", key, "value"]).exit, 0);
    }
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
    let json = on(&dir, &["check", "data", "--json"]);
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
    let json = on(&dir, &["check", "data", "--json"]);
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

/// What a running node writes meanwhile would look like damage.
#[test]
fn directory_in_use_is_not_looked_at() {
    let served = Served::start(&["--data-dir", "data", "--log-groups", "0"]);
    assert_eq!(served.run(&["kv", "set", "a", "value"]).exit, 0);
    let check = finish(zmesh(served.dir()).args(["check", "data"]));
    assert_eq!((check.exit, check.stdout.as_str()), (1, ""));
    assert!(check.stderr.starts_with("error: data/kv is in use by another process\n"));
    std::fs::create_dir(served.dir().join("empty")).unwrap();
    let nothing = finish(zmesh(served.dir()).args(["check", "empty"]));
    let stderr = "error: empty holds no replica\n  next: name the --data-dir of a node\n";
    assert_eq!(nothing, failed(1, stderr));
}
