//! Keys, their files and lists of them, good and bad.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, SystemTime};

use super::*;
use crate::NodeId;

fn pair(seed: u8) -> KeyPair {
    KeyPair::from_secret(&[seed; KEY_BYTES]).unwrap()
}

fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn list(text: &str) -> AllowList {
    text.parse().unwrap()
}

/// libzmq makes keys of its own; ours must be of the same kind.
#[test]
fn public_key_is_the_one_that_libzmq_derives() {
    let theirs = ::zmq::CurveKeyPair::new().unwrap();
    let ours = KeyPair::from_secret(&theirs.secret_key).unwrap();
    assert_eq!(ours.public().as_bytes(), &theirs.public_key);
}

#[test]
fn keys_differ_and_stay_out_of_debug_output() {
    let (one, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    assert_ne!(one.public(), other.public());
    let secret = one.secret().to_bytes().map(|byte| format!("{byte:02x}")).concat();
    assert!(!format!("{one:?}").contains(&secret));
}

#[test]
fn texts_that_are_no_keys_are_refused() {
    let (short, long) = ("a".repeat(63), "a".repeat(65));
    for text in ["", "xyz", &short, &long, &"g".repeat(64), &"é".repeat(32), &"+1".repeat(32)] {
        assert_eq!(text.parse::<PublicKey>(), Err(InvalidKey::Digits), "{text}");
    }
    assert_eq!("0".repeat(64).parse::<PublicKey>(), Err(InvalidKey::Zeros));
    assert_eq!(KeyPair::from_secret(&[0; 32]).unwrap_err(), InvalidKey::Zeros);
}

#[test]
fn key_file_is_its_owners_alone_and_is_never_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("deep/node.key");
    write_key_pair(&path, &pair(1)).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    assert_eq!(read_key_pair(&path).unwrap().public(), pair(1).public());
    assert!(write_key_pair(&path, &pair(2)).is_err());
    assert_eq!(read_key_pair(&path).unwrap().public(), pair(1).public());
    for mode in [0o640, 0o604, 0o620] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let error = read_key_pair(&path).unwrap_err().to_string();
        assert!(error.ends_with(&format!("(mode {mode:o}): chmod 600 it")), "{error}");
    }
}

#[test]
fn files_that_hold_no_pair_are_refused_without_repeating_them() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("node.key");
    let (one, other) = (pair(1).public(), "05".repeat(32));
    let texts = [
        String::new(),
        "public".to_owned(),
        format!("public {one}\n"),
        format!("public {one}\nsecret {}\n", &other[..60]),
        format!("public {other}\nsecret {one}\n"),
        format!("public {one}\npublic {one}\nsecret {other}\n"),
        format!("public {one}\nsecret {}\n", "00".repeat(32)),
        "x".repeat(5_000),
    ];
    for text in texts {
        fs::write(&path, &text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let error = read_key_pair(&path).unwrap_err().to_string();
        assert!(!error.contains(&other[..60]), "{error}");
    }
    fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(read_key_pair(&path).is_err());
}

#[test]
fn allow_list_reads_what_it_writes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("node.allow");
    assert!(read_allow_list(&path).unwrap_err().is_missing());
    let text = format!(
        "# people\n\nb peer {}\nops admin {} 2030-01-01T00:00:00Z # until then\n",
        pair(1).public(),
        pair(2).public()
    );
    fs::write(&path, &text).unwrap();
    let read = read_allow_list(&path).unwrap();
    assert_eq!(read, list(&text));
    assert_eq!(list(&read.to_string()), read);
}

/// Whoever wrote a comment wants to find it again.
#[test]
fn changes_of_an_allow_list_leave_the_rest_of_it_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("node.allow");
    let [one, other] = [1, 2].map(|seed| pair(seed).public());
    let allowed = |name: &str, role| Allowed { node: node(name), role, until: None };
    put_in_allow_list(&path, &[(one, allowed("b", Role::Peer))]).unwrap();
    let begun = fs::read_to_string(&path).unwrap();
    assert!(begun.starts_with("# NAME ROLE KEY") && begun.ends_with(&format!("b peer {one}\n")));
    fs::write(&path, format!("# ours\n\nb peer {one} # the old one")).unwrap();
    put_in_allow_list(&path, &[(other, allowed("b", Role::Peer))]).unwrap();
    put_in_allow_list(&path, &[(one, allowed("b", Role::Revoked))]).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text, format!("# ours\n\nb revoked {one}\nb peer {other}\n"));
    fs::write(&path, "nonsense").unwrap();
    assert!(put_in_allow_list(&path, &[(one, allowed("b", Role::Peer))]).is_err());
    assert_eq!(fs::read_to_string(&path).unwrap(), "nonsense");
}

/// Two people at once, or a script that goes through a list.
#[test]
fn changes_at_once_are_all_made() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("node.allow");
    std::thread::scope(|scope| {
        for seed in 1..=16 {
            let path = &path;
            scope.spawn(move || {
                let allowed = Allowed { node: node("b"), role: Role::Peer, until: None };
                put_in_allow_list(path, &[(pair(seed).public(), allowed)]).unwrap();
            });
        }
    });
    assert_eq!(read_allow_list(&path).unwrap().iter().count(), 16);
}

#[test]
fn lines_of_an_allow_list_that_mean_nothing_are_named() {
    let key = pair(1).public();
    for (text, expected) in [
        ("b peer".to_owned(), "line 1: a line is NAME ROLE KEY [UNTIL]"),
        (format!("\nb king {key}"), "line 2: the role must be peer, admin, client or revoked"),
        ("b peer 12".to_owned(), "line 1: key \"12\": a key has 64 hexadecimal digits"),
        (format!("b/c peer {key}"), "line 1: name \"b/c\""),
        (format!("b peer {key} soon"), "line 1: until: "),
        (format!("b peer {key}\nc peer {key}"), "line 2: key "),
    ] {
        let error = text.parse::<AllowList>().unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn a_name_on_the_list_belongs_to_its_keys() {
    let (peer, old, app, ops) =
        (pair(1).public(), pair(2).public(), pair(3).public(), pair(4).public());
    let list = list(&format!(
        "b peer {peer}\nb peer {old}\napp client {app}\nops admin {ops}\ngone revoked {}\n",
        pair(5).public()
    ));
    for key in [peer, old] {
        assert!(list.may_be(&key, &node("b")));
        assert!(!list.may_be(&key, &node("app")));
        assert!(!list.may_be(&key, &node("cli-1")), "a peer has one name");
    }
    assert!(list.may_be(&app, &node("app")) && list.may_be(&app, &node("cli-1")));
    assert!(!list.may_be(&app, &node("b")) && !list.may_be(&app, &node("ops")));
    assert!(!list.may_be(&pair(5).public(), &node("gone")), "revoked");
    assert!(!list.may_be(&pair(6).public(), &node("b")), "not on the list");
    assert_eq!(list.role(&ops), Role::Admin);
    assert_eq!(list.role(&pair(6).public()), Role::Revoked);
    assert!(Role::Client < Role::Admin && Role::Admin < Role::Peer);
}

#[test]
fn keys_are_good_until_their_time_is_over() {
    let key = pair(1).public();
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
    let list = list(&format!("b peer {key} 1970-01-01T00:16:40Z"));
    assert_eq!(list.at(end - Duration::from_secs(1)).role(&key), Role::Peer);
    assert_eq!(list.at(end).role(&key), Role::Revoked);
}
