//! `zmesh key`: what it writes, prints and refuses, without any node.

use super::*;

/// The public key that was printed.
fn public(run: &Run) -> String {
    assert_eq!((run.exit, run.stderr.as_str()), (0, ""), "{run:?}");
    let key = run.stdout.trim_end().to_owned();
    assert!(key.len() == 64 && key.bytes().all(|byte| byte.is_ascii_hexdigit()), "{key}");
    key
}

#[test]
fn new_keys_are_shown_and_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.key").display().to_string();
    let key = public(&run(&["key", "new", &file]));
    assert_eq!(public(&run(&["key", "show", &file])), key);
    let json = run(&["key", "show", &file, "--json"]);
    assert_eq!(json.stdout, format!("{{\"public\":\"{key}\"}}\n"));
    let again = run(&["key", "new", &file]);
    assert_eq!(again.exit, 2);
    assert!(again.stderr.contains("File exists"), "{}", again.stderr);
    assert_eq!(public(&run(&["key", "show", &file])), key, "the first one is still there");
    let missing = run(&["key", "show", "nowhere.key"]);
    assert_eq!((missing.exit, missing.stdout.as_str()), (2, ""));
}

#[test]
fn allow_lists_are_made_changed_and_listed() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let list = at("node.allow");
    let keys = ["a", "b"].map(|name| public(&run(&["key", "new", &at(name)])));
    let done = |args: &[&str]| {
        let run = run(&[args, &["--allow-list", &list]].concat());
        assert_eq!((run.exit, run.stdout.as_str(), run.stderr.as_str()), (0, "", ""), "{args:?}");
    };
    done(&["key", "allow", "n1", &keys[0], "--role", "peer"]);
    done(&["key", "allow", "app", &keys[1], "--until", "2100-01-01T00:00:00Z"]);
    let rows = || {
        let run = run(&["key", "list", "--allow-list", &list, "--json"]);
        let mut rows: Vec<Value> =
            run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        rows.sort_by_key(|row| row["node"].to_string());
        rows.iter().map(|row| format!("{} {} {}", row["node"], row["role"], row["until"])).collect()
    };
    let before: Vec<String> = rows();
    assert_eq!(before, [r#""app" "client" "2100-01-01T00:00:00Z""#, r#""n1" "peer" null"#]);
    done(&["key", "revoke", "n1"]);
    // One that came with an address, and which no list has.
    let other = "0f".repeat(32);
    done(&["key", "revoke", &other]);
    let after: Vec<String> = rows();
    assert_eq!(after[1..], [r#""n1" "revoked" null"#, r#""unknown" "revoked" null"#]);
    let nobody = run(&["key", "revoke", "nobody", "--allow-list", &list]);
    assert_eq!(nobody.exit, 1);
    assert!(nobody.stderr.contains("has no key of nobody"), "{}", nobody.stderr);
}

#[test]
fn wrong_keys_and_lists_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("node.allow");
    let shown = list.display().to_string();
    let key = "0f".repeat(32);
    for (args, expected) in [
        (["n1", "12", "peer"], "a key has 64 hexadecimal digits"),
        (["n/1", &key, "peer"], "invalid value 'n/1'"),
        (["n1", &key, "king"], "invalid value 'king'"),
    ] {
        let [name, key, role] = args;
        let run = run(&["key", "allow", name, key, "--role", role, "--allow-list", &shown]);
        assert_eq!(run.exit, 2);
        assert!(run.stderr.contains(expected), "{}", run.stderr);
    }
    std::fs::write(&list, "n1 king\n").unwrap();
    let broken = run(&["key", "allow", "n1", &key, "--allow-list", &shown]);
    assert_eq!(broken.exit, 2);
    assert!(broken.stderr.contains("line 1: a line is NAME ROLE KEY [UNTIL]"), "{}", broken.stderr);
    assert_eq!(std::fs::read_to_string(&list).unwrap(), "n1 king\n", "nothing was written");
}

/// A node that was told where its keys are does not make others.
#[test]
fn missing_and_open_key_files_stop_a_node_with_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.key").display().to_string();
    let serve = || run(&["serve", "--bind", "tcp://127.0.0.1:0", "--key-file", &file]);
    let missing = serve();
    assert_eq!(missing.exit, 2);
    assert!(missing.stderr.contains(&format!("make it: zmesh key new {file}")), "{missing:?}");
    public(&run(&["key", "new", &file]));
    let open = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o644);
    std::fs::set_permissions(&file, open).unwrap();
    let open = serve();
    assert_eq!(open.exit, 2);
    assert!(open.stderr.contains("is open to others (mode 644): chmod 600 it"), "{open:?}");
}
