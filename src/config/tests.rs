//! What people get wrong, and what they are told.

use std::path::Path;

use super::*;

fn parse(text: &str) -> Result<Written, ConfigError> {
    file::parse(Path::new("zmesh.toml"), text)
}

fn resolve(text: &str) -> Result<Config, ConfigError> {
    parse(text)?.resolve()
}

fn error(text: &str) -> String {
    resolve(text).unwrap_err().to_string()
}

/// A file that says nothing is a node on this machine with no replica.
#[test]
fn empty_file_is_the_defaults() {
    let config = resolve("").unwrap();
    assert_eq!(config, Written::default().resolve().unwrap());
    assert_eq!(config.node.bind.to_string(), "tcp://127.0.0.1:7700");
    assert_eq!(config.heartbeat.ghost_timeout, Duration::from_secs(10));
    assert_eq!(config.replica, None);
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

/// Every kind of mistake in a file leads to its line.
#[test]
fn mistakes_in_a_file_name_line_and_key() {
    for (text, expected) in [
        (
            "\n[heartbeat]\npingg_interval = \"1s\"",
            "zmesh.toml:3: unknown key `heartbeat.pingg_interval`, did you mean `ping_interval`?",
        ),
        ("[heartbeet]", "zmesh.toml:1: unknown key `heartbeet`, did you mean `[heartbeat]`?"),
        ("bind = \"\"", "zmesh.toml:1: unknown key `bind`, did you mean `node.bind`?"),
        ("[node]\nzebra = 1", "zmesh.toml:2: unknown key `node.zebra`"),
        ("node = 1", "zmesh.toml:1: node: expected a table [node]"),
        ("[node]\nid = \"a\"\nid = \"b\"", "zmesh.toml:3: duplicate key"),
        (
            "[node]\n\nid = \"a b\"",
            "zmesh.toml:3: node.id: node id may hold letters, digits, '-', '_' and '.', not ' '",
        ),
        (
            "[heartbeat]\nping_interval = 5",
            "zmesh.toml:2: heartbeat.ping_interval: invalid type: integer `5`, expected \
             a duration such as `250ms`, `2s` or `1m 30s`",
        ),
        (
            "[limits]\npayload_max = \"8 apples\"",
            "zmesh.toml:2: limits.payload_max: expected a size such as `64MiB` \
             (units B, kB, MB, GB, KiB, MiB, GiB)",
        ),
        ("[limits]\npayload_max = -1", "zmesh.toml:2: limits.payload_max: a size is not negative"),
        (
            "[node]\npeers = [\"tcp://::1:1\"]",
            "zmesh.toml:2: node.peers: invalid address \"tcp://::1:1\": \
             an IPv6 address must stand in brackets",
        ),
        (
            "[replica]\nsync = \"sometimes\"",
            "zmesh.toml:2: replica.sync: expected `always`, `interval` or `never`",
        ),
    ] {
        assert_eq!(error(text), expected, "{text}");
    }
}

const REPLICA: &str = "[node]\nid = \"a\"\n[replica]\ndata_dir = \"d\"\n";

/// Each check has a value just outside it and, below, one just inside.
#[test]
fn impossible_values_and_relations_are_refused() {
    for (text, expected) in [
        (
            "[heartbeat]\nping_interval = \"2s\"\nghost_timeout = \"3999ms\"",
            "heartbeat.ghost_timeout (zmesh.toml:3): 3s 999ms is less than \
             2 x heartbeat.ping_interval, which is 2s (zmesh.toml:2)",
        ),
        (
            "[heartbeat]\npreset = \"efficient\"\nghost_timeout = \"15s\"",
            "heartbeat.ghost_timeout (zmesh.toml:3): 15s is less than \
             2 x heartbeat.ping_interval, which is 10s (preset efficient)",
        ),
        (
            "[heartbeat]\nhealth_check_interval = \"11s\"",
            "heartbeat.health_check_interval (zmesh.toml:2): 11s is longer than \
             heartbeat.ghost_timeout, which is 10s (default)",
        ),
        (
            "[heartbeat]\nrequest_timeout = \"0s\"",
            "heartbeat.request_timeout (zmesh.toml:2): must be longer than 0",
        ),
        (
            "[heartbeat]\nrequest_timeout = \"25h\"",
            "heartbeat.request_timeout (zmesh.toml:2): 1day 1h is longer than 1day",
        ),
        ("[limits]\npeers_max = 0", "limits.peers_max (zmesh.toml:2): must not be 0"),
        (
            "[limits]\npeer_rate = 0",
            "limits.peer_rate (zmesh.toml:2): must not be 0: nobody could say anything",
        ),
        (
            "[limits]\nqueue_bytes = \"8388607\"",
            "limits.queue_bytes (zmesh.toml:2): 8388607 cannot hold one payload of \
             limits.payload_max, which is 8MiB (default)",
        ),
        (
            "[limits]\nqueue_total = \"63MiB\"",
            "limits.queue_total (zmesh.toml:2): 63MiB cannot hold the queue of one peer, \
             limits.queue_bytes, which is 64MiB (default)",
        ),
        (
            "[node]\nbind = \"tcp://*:7700\"",
            "node.bind (zmesh.toml:2): tcp://*:7700 listens on every interface, so peers must be \
             told which address to dial: set node.advertise (--advertise)",
        ),
        (
            "[node]\npeers = [\"tcp://127.0.0.1:7700\"]",
            "node.peers (zmesh.toml:2): tcp://127.0.0.1:7700 is this node itself",
        ),
        (
            "[node]\npeers = [\"tcp://a:1\", \"tcp://a:1\"]",
            "node.peers (zmesh.toml:2): tcp://a:1 is there twice",
        ),
    ] {
        assert_eq!(error(text), expected, "{text}");
    }
}

/// The same for a replica.
#[test]
fn impossible_values_of_a_replica_are_refused() {
    for (text, expected) in [
        (
            "[replica]\nmembers = [\"a\"]",
            "replica.members (zmesh.toml:2): members of a replica need replica.data_dir \
             (--data-dir)",
        ),
        (
            "[replica]\ndata_dir = \"d\"",
            "replica.data_dir (zmesh.toml:2): a node with a data directory needs a name: \
             set node.id (--id)",
        ),
        (
            &format!("{REPLICA}heartbeat_interval = \"101ms\""),
            "replica.heartbeat_interval (zmesh.toml:5): 101ms is more than 1/3 of \
             replica.election_timeout, which is 300ms (default)",
        ),
        (
            &format!("{REPLICA}members = [\"a\", \"b\", \"a\"]"),
            "replica.members (zmesh.toml:5): a is there twice",
        ),
        (
            &format!("{REPLICA}segment_bytes = 1"),
            "replica.segment_bytes (zmesh.toml:5): must be 1MiB to 2GiB, not 1",
        ),
        (
            &format!("{REPLICA}snapshot_part = \"2MiB\""),
            "replica.snapshot_part (zmesh.toml:5): must be 4KiB to 1MiB, not 2MiB",
        ),
        (
            &format!("{REPLICA}snapshot_bytes = 0"),
            "replica.snapshot_bytes (zmesh.toml:5): must be at least 1, not 0",
        ),
        (
            &format!("{REPLICA}snapshot_entries = 0"),
            "replica.snapshot_entries (zmesh.toml:5): must not be 0",
        ),
        (
            &format!("{REPLICA}scrub_interval = \"0s\""),
            "replica.scrub_interval (zmesh.toml:5): must be longer than 0",
        ),
        (
            &format!("{REPLICA}members = [\"a\"]\njoin = true"),
            "replica.join (zmesh.toml:6): a node that joins learns the members from the cluster: \
             leave replica.members (--members) out",
        ),
        (
            "[replica]\njoin = true",
            "replica.join (zmesh.toml:2): members of a replica need replica.data_dir (--data-dir)",
        ),
    ] {
        assert_eq!(error(text), expected, "{text}");
    }
}

/// The file is right and the transport cannot: said before anything starts.
#[test]
fn native_transport_is_chosen_and_refuses_inproc() {
    let config = resolve("[node]\ntransport = \"native\"").unwrap();
    assert_eq!(config.node.transport, Kind::Native);
    assert_eq!(resolve("").unwrap().node.transport, Kind::Native);
    let inproc = resolve("[node]\nbind = \"inproc://a\"").unwrap();
    assert_eq!(inproc.node.transport, Kind::Libzmq, "which has them");
    let inproc = resolve("[node]\npeers = [\"inproc://a\"]").unwrap();
    assert_eq!(inproc.node.transport, Kind::Libzmq);
    assert_eq!(
        error("[node]\nbind = \"inproc://a\"\ntransport = \"native\""),
        "node.transport (zmesh.toml:3): native has tcp and ipc only, and inproc://a is inproc"
    );
}

/// The other side of each limit: a check that refused these would refuse real meshes.
#[test]
fn values_at_the_limits_are_accepted() {
    for text in [
        "[heartbeat]\nping_interval = \"5s\"\nghost_timeout = \"10s\"",
        "[limits]\nqueue_bytes = \"8MiB\"",
        "[limits]\npayload_max = \"1GiB\"",
        "[node]\nbind = \"tcp://*:7700\"\nadvertise = \"tcp://a:7700\"\ninsecure = true",
        "[node]\nbind = \"tcp://127.0.0.1:0\"",
        "[node]\nid = \"a\"\n[replica]\ndata_dir = \"d\"\nheartbeat_interval = \"100ms\"",
        "[node]\nid = \"a\"\n[replica]\ndata_dir = \"d\"\nhash_interval = \"0s\"\nscrub_rate = 0",
        "[node]\nid = \"a\"\npeers = [\"tcp://[::1]:1\"]\n[replica]\ndata_dir = \"d\"\njoin = true",
        "[node]\npeers = [\"b@tcp://a:1\"]\ninsecure = true",
    ] {
        assert!(resolve(text).is_ok(), "{text}: {}", error(text));
    }
}

/// Memory budget and an even number of members: allowed, but not without a word.
#[test]
fn doubtful_values_are_allowed_with_a_warning() {
    let config = resolve("[limits]\nqueue_total = \"4GiB\"").unwrap();
    assert_eq!(config.warnings, ["queues may take up to 4GiB (limits.queue_total)"]);
    let open = "[node]\nbind = \"tcp://192.0.2.1:7700\"\ninsecure = true";
    assert_eq!(
        resolve(open).unwrap().warnings,
        ["tcp://192.0.2.1:7700 is open to other machines: links are neither encrypted nor \
          authenticated (node.insecure)"]
    );
    let members = "[node]\nid = \"a\"\n[replica]\ndata_dir = \"d\"\nmembers = [\"a\", \"b\"]";
    assert_eq!(
        resolve(members).unwrap().warnings,
        ["2 members survive the loss of 0, no more than 1 would"]
    );
}

/// Flags win over the file, and an error then names the flag.
#[test]
fn first_source_wins_and_keeps_its_origin() {
    let file = parse("[heartbeat]\nping_interval = \"3s\"\nghost_timeout = \"30s\"").unwrap();
    let mut flags = Written::default();
    flags.settings.heartbeat.ping_interval = Some(Period(Duration::from_secs(4)));
    let flag = Origin::Flag { name: "ping-interval".into() };
    flags.origins.set("heartbeat.ping_interval".into(), flag);
    let config = flags.or(file).resolve().unwrap();
    assert_eq!(config.heartbeat.ping_interval, Duration::from_secs(4));
    assert_eq!(config.heartbeat.ghost_timeout, Duration::from_secs(30));
    assert_eq!(config.origins.of("heartbeat.ping_interval").to_string(), "--ping-interval");
    assert_eq!(config.origins.of("heartbeat.ghost_timeout").to_string(), "zmesh.toml:3");
}

/// What `config print` writes is a configuration that means the same.
#[test]
fn printed_configuration_reads_back() {
    let text = "[node]\nid = \"a\"\npeers = [\"tcp://[::1]:1\", \"ipc:///tmp/x\"]\n\
        labels = { \"a b\" = \"quote \\\" line \\n del \\u007f\", zone = \"1\" }\n\
        [heartbeat]\npreset = \"low-latency\"\nrequest_timeout = \"1m 30s\"\n\
        [limits]\nqueue_bytes = 8388609\n\
        [replica]\ndata_dir = \"/tmp/d\"\nmembers = [\"b\", \"a\", \"c\"]\n\
        [log]\nformat = \"json\"\n";
    let mut config = resolve(text).unwrap();
    let mut again = resolve(&config.to_toml()).unwrap();
    config.origins = Origins::default();
    again.origins = Origins::default();
    assert_eq!(config, again);
    let text = "[node]\nid = \"a\"\npeers = [\"tcp://[::1]:1\"]\n[replica]\ndata_dir = \"d\"\n\
        join = true\nsnapshot_part = \"4KiB\"\nhash_interval = \"0s\"";
    let mut config = resolve(text).unwrap();
    let mut again = resolve(&config.to_toml()).unwrap();
    (config.origins, again.origins) = (Origins::default(), Origins::default());
    assert_eq!(config, again);
}

/// Keys are there where other machines are, or where they are asked for.
#[test]
fn keys_are_where_they_are_needed() {
    let key = format!("#{}", "0f".repeat(32));
    let open = "bind = \"tcp://*:7700\"\nadvertise = \"tcp://a:7700\"\n";
    let keys = |text: &str| {
        let keys = resolve(text).unwrap_or_else(|error| panic!("{text}: {error}")).node.keys;
        keys.map(|it| (it.file.display().to_string(), it.allow_list.display().to_string()))
    };
    let at = |file: &str, list: &str| Some((file.to_owned(), list.to_owned()));
    for (text, expected) in [
        (String::new(), None),
        (format!("{open}insecure = true"), None),
        ("key_file = \"k/my.key\"".to_owned(), at("k/my.key", "k/node.allow")),
        (format!("{open}key_file = \"my.key\""), at("my.key", "node.allow")),
        ("key_file = \"my.key\"\nallow_list = \"/l\"".to_owned(), at("my.key", "/l")),
        (
            format!("id = \"a\"\n{open}[replica]\ndata_dir = \"d\""),
            at("d/node.key", "d/node.allow"),
        ),
        (
            format!(
                "id = \"a\"\npeers = [\"b@tcp://b:1{key}\"]\n[replica]\ndata_dir = \"d\"\n\
                 members = [\"a\", \"b\", \"c\"]"
            ),
            at("d/node.key", "d/node.allow"),
        ),
    ] {
        assert_eq!(keys(&format!("[node]\n{text}")), expected, "{text}");
    }
    let config = resolve(&format!("[node]\nkey_file = \"k\"\npeers = [\"b@tcp://b:1{key}\"]"));
    let mut config = config.unwrap();
    let mut again = resolve(&config.to_toml()).unwrap();
    (config.origins, again.origins) = (Origins::default(), Origins::default());
    assert_eq!(config, again);
}

/// What cannot be encrypted, or would not be, is refused with the way out.
#[test]
fn clear_text_to_other_machines_is_refused() {
    let key = format!("#{}", "0f".repeat(32));
    for (text, expected) in [
        (
            "bind = \"tcp://192.0.2.1:1\"".to_owned(),
            "node.bind (zmesh.toml:2): other machines can reach tcp://192.0.2.1:1, so this node \
             needs keys"
                .to_owned(),
        ),
        (
            "peers = [\"tcp://a:1\"]".to_owned(),
            "node.peers (zmesh.toml:2): tcp://a:1 is on another machine and has no key".to_owned(),
        ),
        (
            "key_file = \"k\"\npeers = [\"tcp://127.0.0.1:1\"]".to_owned(),
            "node.peers (zmesh.toml:3): tcp://127.0.0.1:1 has no key, and this node has keys"
                .to_owned(),
        ),
        (
            format!("key_file = \"k\"\npeers = [\"tcp://a:1{key}\"]"),
            format!("node.peers (zmesh.toml:3): tcp://a:1{key} has a key, but whose?"),
        ),
        (
            "key_file = \"k\"\ninsecure = true".to_owned(),
            "node.insecure (zmesh.toml:3): contradicts node.key_file".to_owned(),
        ),
        (
            "key_file = \"k\"\nbind = \"ipc:///tmp/x\"".to_owned(),
            "node.bind (zmesh.toml:3): ipc:///tmp/x has no encryption".to_owned(),
        ),
        (
            "allow_list = \"l\"".to_owned(),
            "node.allow_list (zmesh.toml:2): this node needs no keys".to_owned(),
        ),
    ] {
        let error = error(&format!("[node]\n{text}"));
        assert!(error.starts_with(&expected), "{error}");
    }
}

/// A wrong path must not be read into memory, and other encodings are told apart from bad TOML.
#[test]
fn files_that_are_no_configuration_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("zmesh.toml");
    let read = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        Written::read(&path).map_err(|error| error.to_string())
    };
    assert!(
        read(b"\xef\xbb\xbf[node]\nid = \"a\"\n").is_ok(),
        "a UTF-8 byte order mark is harmless"
    );
    let shown = path.display();
    assert_eq!(read(b"\xff\xfe[\0").unwrap_err(), format!("{shown}: not UTF-8 text (byte 0)"));
    assert_eq!(read(b"ok = 1\n\x80").unwrap_err(), format!("{shown}: not UTF-8 text (byte 7)"));

    let sparse = std::fs::File::create(&path).unwrap();
    sparse.set_len(1 << 30).unwrap();
    let error = Written::read(&path).unwrap_err().to_string();
    assert_eq!(error, format!("{shown}: larger than 1MiB, so it is no configuration"));
    let error = Written::read(Path::new("/dev/zero")).unwrap_err();
    assert!(matches!(error, ConfigError::TooLarge { .. }), "a device has no length: {error}");
}
