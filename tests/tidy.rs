//! Is the project still what ARCHITECTURE.md says it is?
//!
//! Layers import downwards only, pure modules touch no clock, socket, disk or entropy, every file
//! says what it is for, and every link in the documents leads somewhere.

use std::fs;
use std::path::{Path, PathBuf};

/// Layers from the bottom up. A module may import from its own line and from lines above it.
const LAYERS: &[&[&str]] = &[
    &["error", "id", "mutant", "timer"],
    &["keys"],
    &["transport"],
    &["protocol"],
    &["presence", "trust"],
    &["client", "server", "discovery"],
    &["node"],
    &["wal"],
    &["consensus"],
    &["replica"],
    &["kv", "log"],
    &["host"],
    &["status", "dump"],
    &["testing", "config"],
    &["cli", "main", "lib"],
];

/// Files that may touch the world; all others are pure.
const SHELLS: &[&str] = &[
    "src/cli/",
    "src/config",
    "src/host.rs",
    "src/lib.rs",
    "src/main.rs",
    "src/node/builder.rs",
    "src/node/calls.rs",
    "src/node/dispatch.rs",
    "src/node/driver.rs",
    "src/node/handler.rs",
    "src/node/mod.rs",
    "src/replica/admin.rs",
    "src/replica/client",
    "src/replica/driver.rs",
    "src/replica/formation.rs",
    "src/replica/handle.rs",
    "src/replica/rejoin.rs",
    "src/replica/service.rs",
    "src/replica/throttle.rs",
    "src/keys/file.rs",
    "src/keys/mod.rs",
    "src/kv/mod.rs",
    "src/kv/client",
    "src/log/client",
    "src/log/upkeep.rs",
    "src/log/groups/client",
    "src/log/groups/delivery",
    "src/log/groups/member",
    "src/testing",
    "src/timer.rs",
    "src/transport/complaint.rs",
    "src/transport/listening.rs",
    "src/transport/memory",
    "src/transport/native.rs",
    "src/transport/native/connection.rs",
    "src/transport/native/link.rs",
    "src/transport/native/socket.rs",
    "src/transport/zmq",
    "src/wal/disk.rs",
];

/// What a pure file has no business with.
const IMPURE: &[&str] = &[
    "Instant::now",
    "SystemTime::now",
    "tokio::",
    "std::fs",
    "std::net::Tcp",
    "std::thread",
    "std::process",
    "std::env",
    "Uuid::new_v4",
    "fastrand::Rng::new(",
    "zmq::",
];

const BANNED_NAMES: &[&str] = &["utils", "util", "helpers", "common", "misc", "types", "manager"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &str, ending: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the project") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                let text = fs::read_to_string(&path).expect("text");
                let name =
                    path.strip_prefix(root()).expect("inside").to_string_lossy().into_owned();
                found.push((name, text));
            }
        }
    }
    found.sort();
    found
}

/// The code of a file, without comments and without its tests.
fn code(text: &str) -> String {
    // Single items for tests may stand anywhere; the tests themselves are at the end.
    let tests =
        ["#[cfg(test)]\nmod tests", "#[cfg(test)]\npub(super) mod tests", "#[cfg(test)]\n#[path"];
    let end = tests.iter().filter_map(|tests| text.find(tests)).min().unwrap_or(text.len());
    let code = &text[..end];
    let uncommented = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    uncommented.collect::<Vec<_>>().join("\n")
}

fn is_test(file: &str) -> bool {
    ["/tests.rs", "/tests/", "conformance"].iter().any(|part| file.contains(part))
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|modules| modules.contains(&module))
}

fn module_of(file: &str) -> &str {
    let rest = file.strip_prefix("src/").unwrap_or(file);
    rest.split(['/', '.']).next().unwrap_or(rest)
}

#[test]
fn every_file_says_what_it_is_for() {
    for folder in ["src", "tests", "benches", "examples"] {
        for (file, text) in files(folder, ".rs") {
            assert!(text.starts_with("//!"), "{file} has no header");
        }
    }
}

#[test]
fn layers_import_downwards_only() {
    for (file, text) in files("src", ".rs") {
        if is_test(&file) {
            continue;
        }
        let module = module_of(&file);
        let own = layer(module).unwrap_or_else(|| panic!("{file} belongs to no layer"));
        for part in code(&text).split("crate::").skip(1) {
            let end = part.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(part.len());
            let imported = &part[..end];
            // Names that lib.rs re-exports are not modules.
            let Some(other) = layer(imported) else { continue };
            assert!(other <= own, "{file} imports {imported}, which lies above {module}");
        }
    }
}

#[test]
fn pure_modules_touch_nothing() {
    for (file, text) in files("src", ".rs") {
        if is_test(&file) || SHELLS.iter().any(|shell| file.starts_with(shell)) {
            continue;
        }
        let code = code(&text);
        for impure in IMPURE {
            // The transport module is called zmq and may be named.
            let found = code.replace("transport::zmq::", "").contains(impure);
            assert!(!found, "{file} is pure and mentions {impure}");
        }
    }
}

#[test]
fn names_say_what_is_in_a_file() {
    for (file, _) in files("src", ".rs") {
        let stem = Path::new(&file).file_stem().expect("a name").to_string_lossy().into_owned();
        assert!(!BANNED_NAMES.contains(&stem.as_str()), "{file}: the name says nothing");
    }
}

#[test]
fn links_in_the_documents_lead_somewhere() {
    let mut documents = files("docs", ".md");
    for name in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"] {
        documents.push((name.to_owned(), fs::read_to_string(root().join(name)).expect(name)));
    }
    for (document, text) in documents {
        let folder = root().join(&document).parent().expect("a folder").to_path_buf();
        for part in text.split("](").skip(1) {
            let target = part.split([')', '#']).next().unwrap_or_default();
            if target.is_empty() || target.starts_with("http") {
                continue;
            }
            assert!(folder.join(target).exists(), "{document} links to {target}, which is missing");
        }
    }
}

#[test]
fn every_dependency_has_its_reason() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml");
    let mut section = "";
    let mut previous = "";
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line;
        } else if section.ends_with("dependencies]") && line.contains('=') {
            assert!(previous.starts_with('#'), "{line} stands there without a reason");
        }
        previous = line;
    }
}
