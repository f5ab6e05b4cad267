//! Settings as a person wrote them: every field optional, nothing checked against anything else.
//!
//! The doc comment of a field is its `--help` text, so each says unit, default, and what gets
//! worse when the value is larger or smaller. A field's name is its key in a file, and the name of
//! its group is the table it stands in.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Visitor};

use super::{PeerAddress, Period, Size, period, size};
use crate::transport::Kind;
use crate::{Address, NodeId};

/// Everything that can be set, as written in one source or merged from several.
///
/// # Examples
///
/// ```
/// use zmesh::config::{Settings, Written};
/// let mut settings = Settings::default();
/// settings.node.id = Some("adder".parse()?);
/// let config = Written::from(settings).resolve()?;
/// assert_eq!(config.node.cluster, "zmesh");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, clap::Args, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Who this node is and whom it knows.
    #[command(flatten)]
    pub node: NodeSettings,
    /// How the loss of a peer is noticed.
    #[command(flatten)]
    pub heartbeat: HeartbeatSettings,
    /// How much one node may use.
    #[command(flatten)]
    pub limits: LimitsSettings,
    /// The replicated log and key-value store.
    #[command(flatten)]
    pub replica: ReplicaSettings,
    /// Diagnostics. Not a part of the arguments of one command: the binary has it globally.
    #[arg(skip)]
    pub log: LogSettings,
}

/// Declares what is the same for every group: its name, its keys, and who wins in a merge.
macro_rules! groups {
    ($($group:ident: $name:ident { $($field:ident),+ $(,)? })+) => {
        impl Settings {
            /// Takes what `self` says, and what it leaves open from `other`.
            pub fn or(self, other: Self) -> Self {
                Self { $($group: self.$group.or(other.$group),)+ }
            }

            /// Every group with its keys, in the order of the documentation.
            pub const KEYS: &[(&str, &[&str])] =
                &[$((stringify!($group), &[$(stringify!($field)),+]),)+];
        }

        $(impl $name {
            fn or(self, other: Self) -> Self {
                Self { $($field: self.$field.or(other.$field),)+ }
            }
        })+
    };
}

groups! {
    node: NodeSettings {
        id, cluster, bind, key_file, allow_list, insecure, transport, advertise, peers, labels,
    }
    heartbeat: HeartbeatSettings {
        preset, ping_interval, health_check_interval, ghost_timeout, handshake_timeout,
        request_timeout,
    }
    limits: LimitsSettings {
        payload_max, queue_messages, queue_bytes, queue_total, peers_max, in_flight_max,
        peer_rate,
    }
    replica: ReplicaSettings {
        data_dir, members, join, log_groups, heartbeat_interval, election_timeout, in_sync_lag_max,
        sync, sync_interval, segment_bytes, snapshot_entries, snapshot_bytes, snapshot_part,
        promote_lag, scrub_rate,
        scrub_interval, hash_interval,
    }
    log: LogSettings { level, format }
}

/// Who this node is and whom it knows.
#[derive(Clone, Debug, Default, PartialEq, clap::Args, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Node")]
pub struct NodeSettings {
    /// Name of this node [default: random at every start].
    ///
    /// 1 to 64 letters, digits, '-', '_' and '.'. Unique in the mesh: a second holder is refused.
    /// A node with a data directory must have one, for it has to be the same after a restart.
    #[arg(long, env = "ZMESH_ID", value_name = "NAME")]
    pub id: Option<NodeId>,
    /// Name of the mesh; nodes of another one are refused [default: zmesh].
    #[arg(long, env = "ZMESH_CLUSTER", value_name = "NAME")]
    pub cluster: Option<String>,
    /// Address to listen on [default: tcp://127.0.0.1:7700].
    ///
    /// tcp://HOST:PORT, ipc://PATH or inproc://NAME. Port 0 takes any free port; host * listens on
    /// every interface and then needs --advertise.
    #[arg(long, env = "ZMESH_BIND", value_name = "ADDRESS")]
    pub bind: Option<Address>,
    /// File with the secret key of this node, which encrypts its links [default: DATA/node.key].
    ///
    /// `zmesh key new` makes one. Needed where other machines can reach the node: with a data
    /// directory one is made at the first start. Without need, loopback is not encrypted.
    #[arg(long, env = "ZMESH_KEY_FILE", value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// File that says whose keys may come in [default: node.allow beside the key file].
    ///
    /// `zmesh key allow` and `zmesh key revoke` change it; a running node follows within a second.
    /// Peers that are given as NAME@ADDRESS#KEY are allowed without it.
    #[arg(long, env = "ZMESH_ALLOW_LIST", value_name = "FILE")]
    pub allow_list: Option<PathBuf>,
    /// Reach other machines, and be reached by them, without encryption [default: false].
    ///
    /// Links are then neither encrypted nor authenticated: whoever reaches the port can join, read
    /// and write. Loopback addresses, ipc and inproc need no permission.
    #[arg(
        long,
        env = "ZMESH_INSECURE",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub insecure: Option<bool>,
    /// What moves messages: native, or libzmq with its I/O thread [default: native].
    ///
    /// Nodes with either understand each other. native is faster, but has no inproc addresses
    /// (libzmq is the default for those), and a node that stands still for ten seconds loses its
    /// connections.
    #[arg(long, env = "ZMESH_TRANSPORT", value_name = "KIND", value_enum)]
    pub transport: Option<Kind>,
    /// Address at which peers reach this node [default: the bound address].
    #[arg(long, env = "ZMESH_ADVERTISE", value_name = "ADDRESS")]
    pub advertise: Option<Address>,
    /// Address of a node to join, or NAME@ADDRESS#KEY; may be repeated [default: none].
    ///
    /// One live node is enough, the others are learned from it. More make a start possible while
    /// some of them are away.
    #[arg(
        id = "peers",
        long = "peer",
        env = "ZMESH_PEERS",
        value_name = "ADDRESS",
        value_delimiter = ','
    )]
    pub peers: Option<Vec<PeerAddress>>,
    /// A fact to announce, such as role=math; may be repeated [default: none].
    #[arg(
        id = "labels",
        long = "label",
        env = "ZMESH_LABELS",
        value_name = "NAME=VALUE",
        value_delimiter = ','
    )]
    #[serde(deserialize_with = "labels_of_table")]
    pub labels: Option<Vec<Label>>,
}

/// How the loss of a peer is noticed.
#[derive(Clone, Debug, Default, PartialEq, clap::Args, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Heartbeat")]
pub struct HeartbeatSettings {
    /// Ping interval, health check and ghost timeout together [default: balanced].
    ///
    /// low-latency is 1s/1s/3s, balanced 2s/2s/10s, efficient 10s/30s/60s. Single values override
    /// it. Faster notices a loss sooner and costs more messages and more false alarms.
    #[arg(long, env = "ZMESH_PRESET", value_name = "PRESET")]
    pub preset: Option<Preset>,
    /// Time between two pings to a peer [default: by preset, 2s].
    ///
    /// Larger: a loss is noticed later. Smaller: more messages on an idle mesh.
    #[arg(long, env = "ZMESH_PING_INTERVAL", value_name = "DURATION")]
    pub ping_interval: Option<Period>,
    /// Longest time between two looks for silent peers [default: by preset, 2s].
    ///
    /// Larger: fewer wake-ups of an idle node. Smaller: a check that was late is made up for sooner.
    #[arg(long, env = "ZMESH_HEALTH_CHECK_INTERVAL", value_name = "DURATION")]
    pub health_check_interval: Option<Period>,
    /// Silence after which a peer has left [default: by preset, 10s].
    ///
    /// At least 2 ping intervals. Larger: requests to a dead peer wait longer. Smaller: a pause of
    /// a live peer (its disk, its machine) makes it leave and join again.
    #[arg(long, env = "ZMESH_GHOST_TIMEOUT", value_name = "DURATION")]
    pub ghost_timeout: Option<Period>,
    /// Time a peer may take to answer our handshake before the next try [default: 5s].
    ///
    /// Larger: a lost handshake is repeated later. Smaller: slow peers are asked twice.
    #[arg(long, env = "ZMESH_HANDSHAKE_TIMEOUT", value_name = "DURATION")]
    pub handshake_timeout: Option<Period>,
    /// Deadline of a request that names none [default: 5s].
    ///
    /// Larger: callers wait longer for what never comes. Smaller: slow handlers run for nobody.
    #[arg(long, env = "ZMESH_REQUEST_TIMEOUT", value_name = "DURATION")]
    pub request_timeout: Option<Period>,
}

/// How much one node may use.
#[derive(Clone, Debug, Default, PartialEq, clap::Args, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Limits")]
pub struct LimitsSettings {
    /// Bytes one payload may have [default: 8MiB; at most 1GiB].
    ///
    /// Larger: one message holds up others on its link for longer and costs more memory at once.
    /// Smaller: larger data must be cut by its sender. Must be the same on all nodes.
    #[arg(long, env = "ZMESH_PAYLOAD_MAX", value_name = "SIZE")]
    pub payload_max: Option<Size>,
    /// Messages that may wait for one peer [default: 10000].
    ///
    /// Larger: a slow peer costs more memory and gets older messages. Smaller: bursts are refused.
    #[arg(long, env = "ZMESH_QUEUE_MESSAGES", value_name = "COUNT")]
    pub queue_messages: Option<u32>,
    /// Bytes that may wait for one peer [default: 64MiB; at least --payload-max].
    ///
    /// Larger: a slow peer costs more memory. Smaller: bursts are refused.
    #[arg(long, env = "ZMESH_QUEUE_BYTES", value_name = "SIZE")]
    pub queue_bytes: Option<Size>,
    /// Bytes that may wait for all peers together [default: 1GiB; at least --queue-bytes].
    ///
    /// Larger: many slow peers cost more memory. Smaller: they get in each other's way sooner.
    #[arg(long, env = "ZMESH_QUEUE_TOTAL", value_name = "SIZE")]
    pub queue_total: Option<Size>,
    /// Peers that may be joined at once [default: 4096].
    ///
    /// Larger: more memory and descriptors may be used. Smaller: a big mesh is refused.
    #[arg(long, env = "ZMESH_PEERS_MAX", value_name = "COUNT")]
    pub peers_max: Option<u32>,
    /// Requests that may wait for their replies at once [default: 65536].
    ///
    /// Larger: a mesh that does not answer costs more memory. Smaller: bursts are refused.
    #[arg(long, env = "ZMESH_IN_FLIGHT_MAX", value_name = "COUNT")]
    pub in_flight_max: Option<u32>,
    /// Requests and ticks that one peer may send in a second, and at once [default: no limit].
    ///
    /// Requests beyond it are answered with BUSY, ticks are dropped and counted. What members say to
    /// each other for the store and the log has no limit.
    #[arg(long, env = "ZMESH_PEER_RATE", value_name = "COUNT")]
    pub peer_rate: Option<u32>,
}

/// The replicated log and key-value store.
#[derive(Clone, Debug, Default, PartialEq, clap::Args, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Replica")]
pub struct ReplicaSettings {
    /// Directory of the store and the log; it makes this node a replica [default: no replica].
    ///
    /// Created if it does not exist, with a directory in it for each replica: kv, log0 and so on. It
    /// belongs to one node of one cluster for good.
    #[arg(long, env = "ZMESH_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Names of the initial members, the same list on each [default: this node alone].
    ///
    /// Read at the first start only; afterwards the members are what the log says. More members
    /// survive more losses and make writes slower; an even number survives no more than one fewer.
    #[arg(long, env = "ZMESH_MEMBERS", value_name = "NAME", value_delimiter = ',')]
    pub members: Option<Vec<NodeId>>,
    /// Begin as a new member of a cluster that has begun [default: false].
    ///
    /// Read at the first start only. The node waits until `zmesh member add` names it; --peer says
    /// where the cluster is, and --members is left out.
    #[arg(
        long,
        env = "ZMESH_JOIN",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub join: Option<bool>,
    /// Groups that share the topics of the log among them [default: 4; 0 is no log, at most 16].
    ///
    /// Chosen once for a cluster, the same on all members: another number is refused from then on.
    /// Larger: more writers append at once, and an idle node uses more memory and disk. Smaller: fewer
    /// disks and cores share the work.
    #[arg(long, env = "ZMESH_LOG_GROUPS", value_name = "COUNT")]
    pub log_groups: Option<u16>,
    /// Time between two heartbeats of the leader [default: 100ms].
    ///
    /// At most a third of the election timeout. Larger: followers learn of commits later when
    /// nothing is written. Smaller: more messages on an idle mesh.
    #[arg(long, env = "ZMESH_HEARTBEAT_INTERVAL", value_name = "DURATION")]
    pub heartbeat_interval: Option<Period>,
    /// Silence of the leader after which an election may begin [default: 300ms].
    ///
    /// Each wait is drawn anew between this and twice this. Larger: writes pause longer when a
    /// leader dies. Smaller: a slow disk or a busy machine costs a healthy leader its office.
    #[arg(long, env = "ZMESH_ELECTION_TIMEOUT", value_name = "DURATION")]
    pub election_timeout: Option<Period>,
    /// How long ago a voter may have had everything and still be in sync [default: 10s].
    ///
    /// Writes that ask for all wait for every voter in sync. Larger: they wait longer for one that
    /// is slow or dead. Smaller: a short pause puts a voter out of the set.
    #[arg(long, env = "ZMESH_IN_SYNC_LAG_MAX", value_name = "DURATION")]
    pub in_sync_lag_max: Option<Period>,
    /// When writes reach the disk [default: always].
    ///
    /// always: before they are acknowledged, many writes sharing one sync. interval: after at most
    /// the sync interval. never: when the system decides. The last two are faster, and a power cut
    /// may take acknowledged writes back; every reply says so. Term and vote are always synced.
    ///
    /// After a power cut a replica with interval or never does not vote until it has got everything
    /// from the others anew. If all lose power at once, no majority is left that may be believed: an
    /// operator has to recover one directory by force. So they are for members that do not share
    /// their power. A process that is killed loses nothing, as long as the file system is of the
    /// same machine.
    #[arg(long, env = "ZMESH_SYNC", value_name = "MODE")]
    pub sync: Option<Sync>,
    /// Time between two syncs with sync interval [default: 100ms].
    ///
    /// Larger: a power cut takes more back. Smaller: writes wait for the disk more often.
    #[arg(long, env = "ZMESH_SYNC_INTERVAL", value_name = "DURATION")]
    pub sync_interval: Option<Period>,
    /// Size at which a new file of the log is begun [default: 64MiB; 1MiB to 2GiB].
    ///
    /// Each group of the log has files of a quarter of it. Larger: space is given back later and in
    /// bigger pieces. Smaller: more files.
    #[arg(long, env = "ZMESH_SEGMENT_BYTES", value_name = "SIZE")]
    pub segment_bytes: Option<Size>,
    /// Entries after a snapshot after which the next is taken [default: 100000].
    ///
    /// Never before the log has grown by the size of the last one. Larger: a start has more to apply
    /// again and the disk holds more log. Smaller: snapshots are written more often.
    #[arg(long, env = "ZMESH_SNAPSHOT_ENTRIES", value_name = "COUNT")]
    pub snapshot_entries: Option<u64>,
    /// Bytes of log after a snapshot after which the next is taken [default: 64MiB].
    ///
    /// Whichever of the two comes first. Larger and smaller: as above.
    #[arg(long, env = "ZMESH_SNAPSHOT_BYTES", value_name = "SIZE")]
    pub snapshot_bytes: Option<Size>,
    /// Bytes in which a snapshot is sent to another replica [default: 256KiB; 4KiB to 1MiB].
    ///
    /// Larger: other messages wait longer behind each part. Smaller: more messages.
    #[arg(long, env = "ZMESH_SNAPSHOT_PART", value_name = "SIZE")]
    pub snapshot_part: Option<Size>,
    /// Entries that a learner may lack when it is made a voter [default: 1000].
    ///
    /// Larger: the quorum may have to wait for it. Smaller: under load it may never be near enough.
    #[arg(long, env = "ZMESH_PROMOTE_LAG", value_name = "COUNT")]
    pub promote_lag: Option<u64>,
    /// Bytes of files that are read again per second, to find damage [default: 5MiB; 0 is never].
    ///
    /// Larger: more of the disk's time. Smaller: damage is found later, perhaps when two replicas
    /// have some.
    #[arg(long, env = "ZMESH_SCRUB_RATE", value_name = "SIZE")]
    pub scrub_rate: Option<Size>,
    /// Time between the end of one reading of all files and the next [default: 1day].
    ///
    /// Larger: damage is found later. Smaller: more of the disk's time.
    #[arg(long, env = "ZMESH_SCRUB_INTERVAL", value_name = "DURATION")]
    pub scrub_interval: Option<Period>,
    /// Time between two comparisons of the replicas' states [default: 10m; 0s is never].
    ///
    /// Each costs one entry, and on each replica one pass over its state in the background; nothing
    /// if nothing was written. Larger: a replica that went astray is found later. Smaller: more work.
    #[arg(long, env = "ZMESH_HASH_INTERVAL", value_name = "DURATION")]
    pub hash_interval: Option<Period>,
}

/// Diagnostics on standard error.
#[derive(Clone, Debug, Default, PartialEq, clap::Args, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Global options")]
pub struct LogSettings {
    /// What to log: a level, or such as info,zmesh=debug [default: serve info, others warn].
    ///
    /// Levels are off, error, warn, info, debug and trace. More than info costs throughput.
    #[arg(
        id = "level",
        long = "log-level",
        env = "ZMESH_LOG",
        value_name = "FILTER",
        global = true
    )]
    pub level: Option<String>,
    /// Lines for people or JSON objects for machines [default: text].
    #[arg(
        id = "format",
        long = "log-format",
        env = "ZMESH_LOG_FORMAT",
        value_name = "FORMAT",
        global = true
    )]
    pub format: Option<LogFormat>,
}

/// Intervals that go well together.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// 1s, 1s, 3s: losses are noticed within 4 seconds.
    LowLatency,
    /// 2s, 2s, 10s.
    Balanced,
    /// 10s, 30s, 60s: little traffic in a big, calm mesh.
    Efficient,
}

impl Preset {
    /// The name in files and flags.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Balanced => "balanced",
            Self::Efficient => "efficient",
            Self::LowLatency => "low-latency",
        }
    }
}

/// When writes reach the disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sync {
    /// Before they are acknowledged.
    Always,
    /// After at most the sync interval.
    Interval,
    /// When the operating system decides.
    Never,
}

impl Sync {
    /// The name in files and flags.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Interval => "interval",
            Self::Never => "never",
        }
    }
}

impl FromStr for Sync {
    type Err = InvalidSync;

    fn from_str(text: &str) -> Result<Self, InvalidSync> {
        match text {
            "always" => Ok(Self::Always),
            "interval" => Ok(Self::Interval),
            "never" => Ok(Self::Never),
            _ => Err(InvalidSync),
        }
    }
}

/// The text is no sync mode.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected `always`, `interval` or `never`")]
pub struct InvalidSync;

/// How a line of diagnostics looks.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// One line for people.
    Text,
}

impl LogFormat {
    /// The name in files and flags.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Text => "text",
        }
    }
}

/// A fact that a node announces about itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Label {
    /// What it is about, such as `role`.
    pub name: String,
    /// What is said, such as `math`.
    pub value: String,
}

impl FromStr for Label {
    type Err = InvalidLabel;

    fn from_str(text: &str) -> Result<Self, InvalidLabel> {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => {
                Ok(Self { name: name.to_owned(), value: value.to_owned() })
            }
            Some(_) | None => Err(InvalidLabel),
        }
    }
}

/// A text that is no label.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected a label such as `role=math`")]
pub struct InvalidLabel;

/// In a file, labels are a table of strings.
fn labels_of_table<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<Label>>, D::Error> {
    let table = BTreeMap::<String, String>::deserialize(from)?;
    Ok(Some(table.into_iter().map(|(name, value)| Label { name, value }).collect()))
}

/// Reads a type from a string of a file by the same rules as from a flag.
struct FromText<T> {
    expected: &'static str,
    parsed: std::marker::PhantomData<T>,
}

impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for FromText<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

macro_rules! deserialize_from_text {
    ($($name:ty: $expected:expr;)+) => {
        $(impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let parsed = std::marker::PhantomData;
                from.deserialize_str(FromText { expected: $expected, parsed })
            }
        })+
    };
}

deserialize_from_text! {
    Period: period::EXPECTED;
    Sync: "`always`, `interval` or `never`";
}

/// A size may also stand in a file as a plain number of bytes.
impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(size::EXPECTED)
            }

            fn visit_i64<E: serde::de::Error>(self, bytes: i64) -> Result<Size, E> {
                u64::try_from(bytes).map(Size).map_err(|_| E::custom("a size is not negative"))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Size, E> {
                text.parse().map_err(E::custom)
            }
        }
        from.deserialize_any(Bytes)
    }
}
