//! Configuration: from what a person wrote to what the code uses.
//!
//! [`Settings`] is what was written: in a file, in `ZMESH_` variables, in flags; every field is
//! optional. Merged, with flags over environment over file, it is [`Written`], which still knows
//! where each value comes from. [`Written::resolve`] fills in defaults and checks each value and
//! the relations between values; what comes out is a [`Config`], which nobody needs to check again.
//!
//! Only [`Written::read`] and [`Config::check_disk`] touch the disk.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::parser::ValueSource;

use crate::transport::Kind;
use crate::{Address, NodeId};

mod file;
mod peer;
mod period;
mod print;
mod resolve;
mod settings;
mod size;
#[cfg(test)]
mod tests;

pub use file::FILE_BYTES_MAX;
pub use peer::PeerAddress;
pub use period::{InvalidPeriod, Period};
pub use settings::{
    HeartbeatSettings, InvalidLabel, InvalidSync, Label, LimitsSettings, LogFormat, LogSettings,
    NodeSettings, Preset, ReplicaSettings, Settings, Sync,
};
pub use size::{InvalidSize, Size};

/// Checked configuration of one node.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// Who this node is and whom it knows.
    pub node: NodeConfig,
    /// How the loss of a peer is noticed.
    pub heartbeat: HeartbeatConfig,
    /// How much this node may use.
    pub limits: LimitsConfig,
    /// The replicated log and key-value store; `None` if this node is no replica.
    pub replica: Option<ReplicaConfig>,
    /// Diagnostics.
    pub log: LogConfig,
    /// What is allowed and probably not wanted, in sentences.
    pub warnings: Vec<String>,
    origins: Origins,
}

/// Who this node is and whom it knows.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeConfig {
    /// The name; `None` asks for a random one. Always there if the node is a replica.
    pub id: Option<NodeId>,
    /// Name of the mesh, 1 to 64 bytes.
    pub cluster: String,
    /// Where to listen.
    pub bind: Address,
    /// Where its keys are; `None` for a node without.
    pub keys: Option<KeysConfig>,
    /// Whether a node without keys may reach other machines and be reached by them.
    pub insecure: bool,
    /// What moves messages; one that can serve `bind` and all `peers`.
    pub transport: Kind,
    /// Where peers reach this node, dialable; `None` stands for the bound address.
    pub advertise: Option<Address>,
    /// Nodes to join: dialable, each once, none of them this node.
    pub peers: Vec<PeerAddress>,
    /// Facts to announce.
    pub labels: BTreeMap<String, String>,
}

/// Where the keys of a node are, and those of others.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeysConfig {
    /// The file of its own; made at the first start if nobody named it.
    pub file: PathBuf,
    /// Whether somebody named the file.
    pub is_named: bool,
    /// The file that says whose keys may come in. It may be missing.
    pub allow_list: PathBuf,
}

/// How the loss of a peer is noticed. No value is zero or longer than a day.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HeartbeatConfig {
    /// What the single values default to.
    pub preset: Preset,
    /// Time between two pings to a peer.
    pub ping_interval: Duration,
    /// Longest time between two looks for silent peers; at most the ghost timeout.
    pub health_check_interval: Duration,
    /// Silence after which a peer has left; at least two ping intervals.
    pub ghost_timeout: Duration,
    /// Time a peer may take to answer our handshake.
    pub handshake_timeout: Duration,
    /// Deadline of a request that names none.
    pub request_timeout: Duration,
}

/// How much this node may use. No value is zero.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LimitsConfig {
    /// Bytes one payload may have; at most 1 GiB.
    pub payload_bytes_max: usize,
    /// Messages that may wait for one peer.
    pub queue_messages_max: u32,
    /// Bytes that may wait for one peer; at least one payload.
    pub queue_bytes_max: u64,
    /// Bytes that may wait for all peers together; at least those for one.
    pub queue_total_max: u64,
    /// Peers that may be joined at once.
    pub peers_max: u32,
    /// Requests that may wait for their replies at once.
    pub in_flight_max: u32,
    /// Messages that a peer may send in a second; none for no limit.
    pub peer_rate: Option<NonZeroU32>,
}

impl LimitsConfig {
    /// The most bytes that all queues together can hold.
    pub fn queue_bytes_total_max(&self) -> u64 {
        let all = self.queue_bytes_max.saturating_mul(u64::from(self.peers_max));
        all.min(self.queue_total_max)
    }
}

/// The replicated log and key-value store.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReplicaConfig {
    /// Directory with those of the replicas.
    pub data_dir: PathBuf,
    /// Names of the initial members, each once, in alphabetical order; none if it joins.
    pub members: Vec<NodeId>,
    /// Groups of the log; 0 for none, at most 16.
    pub log_groups: u16,
    /// Whether an empty directory becomes that of a new member of a cluster that has begun.
    pub join: bool,
    /// Time between two heartbeats; at most a third of the election timeout.
    pub heartbeat_interval: Duration,
    /// Each wait for the leader is drawn between this and twice this.
    pub election_timeout: Duration,
    /// How long ago a voter may have had everything and still be in sync.
    pub in_sync_lag_max: Duration,
    /// When writes reach the disk.
    pub sync: Sync,
    /// Time between two syncs with [`Sync::Interval`].
    pub sync_interval: Duration,
    /// Size at which a new file of the log is begun; 1 MiB to 2 GiB.
    pub segment_bytes: u64,
    /// Entries after which the next snapshot is taken; not 0.
    pub snapshot_entries: u64,
    /// Bytes of log after which the next snapshot is taken; not 0.
    pub snapshot_bytes: u64,
    /// Bytes of a part of a snapshot on its way; 4 KiB to 1 MiB.
    pub snapshot_part_bytes: usize,
    /// Entries that a learner may lack when it is made a voter.
    pub promote_lag_max: u64,
    /// Bytes of files that are read again per second; 0 for none.
    pub scrub_bytes_per_second: u64,
    /// Time between two readings of all files; not 0.
    pub scrub_interval: Duration,
    /// Time between two comparisons of the replicas' states; 0 for none.
    pub hash_interval: Duration,
}

/// Diagnostics.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LogConfig {
    /// A filter as `tracing-subscriber` reads it.
    pub level: String,
    /// How a line looks.
    pub format: LogFormat,
}

/// Settings of one or more sources, and where each of them was written.
#[derive(Clone, Debug, Default)]
pub struct Written {
    settings: Settings,
    origins: Origins,
}

impl Written {
    /// Settings from the command line, `args` being the matches of the command they belong to.
    pub fn from_args(settings: Settings, args: &clap::ArgMatches) -> Self {
        let mut origins = Origins::default();
        let command = clap::Command::new("zmesh");
        let command = <Settings as clap::Args>::augment_args(command);
        let command = <LogSettings as clap::Args>::augment_args(command);
        for (group, keys) in Settings::KEYS {
            for key in *keys {
                let arg = command.get_arguments().find(|arg| arg.get_id() == key);
                let known = args.try_contains_id(key).is_ok();
                let (Some(arg), true) = (arg, known) else { continue };
                let flag = || arg.get_long().unwrap_or(key).to_owned();
                let variable = || match arg.get_env() {
                    Some(name) => name.to_string_lossy().into_owned(),
                    None => flag(),
                };
                let origin = match args.value_source(key) {
                    Some(ValueSource::CommandLine) => Origin::Flag { name: flag() },
                    Some(ValueSource::EnvVariable) => Origin::Environment { name: variable() },
                    Some(_) | None => continue,
                };
                origins.set(format!("{group}.{key}"), origin);
            }
        }
        Self { settings, origins }
    }

    /// Reads a configuration file.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names file, line and key. A file over [`FILE_BYTES_MAX`] is not read.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        file::read(path)
    }

    /// Takes the text of a configuration file, which is called `path` in errors.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        file::parse(path, text)
    }

    /// Takes what `self` says, and what it leaves open from `other`.
    pub fn or(self, other: Self) -> Self {
        let mut origins = other.origins;
        origins.0.extend(self.origins.0);
        Self { settings: self.settings.or(other.settings), origins }
    }

    /// Fills in defaults and checks each value and the relations between values.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Value`] names the first key that is wrong and where it was written.
    pub fn resolve(self) -> Result<Config, ConfigError> {
        resolve::resolve(self.settings, self.origins)
    }
}

impl From<Settings> for Written {
    /// Settings made in code: their origin is the program.
    fn from(settings: Settings) -> Self {
        Self { settings, origins: Origins::default() }
    }
}

impl Config {
    /// The name to run under: the configured one, or a new random one at each call.
    pub fn node_id(&self) -> NodeId {
        self.node.id.clone().unwrap_or_else(random_node_id)
    }

    /// Checks what only the disk can tell: whether the data directory is, or can be, one.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Value`]: it is a file, or cannot be looked at.
    pub fn check_disk(&self) -> Result<(), ConfigError> {
        let Some(replica) = &self.replica else { return Ok(()) };
        let refuse = |reason: String| Err(self.origins.refuse("replica.data_dir", reason));
        let shown = replica.data_dir.display();
        match std::fs::metadata(&replica.data_dir) {
            Ok(found) if found.is_dir() => Ok(()),
            Ok(_) => refuse(format!("{shown} is not a directory")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => refuse(format!("cannot look at {shown}: {error}")),
        }
    }

    /// The configuration as a file that [`Written::read`] accepts, each value with its origin as a
    /// comment.
    pub fn to_toml(&self) -> String {
        print::toml(self)
    }

    /// The configuration as JSON: group, key, then `value` and `origin`.
    pub fn to_json(&self) -> serde_json::Value {
        print::json(self)
    }
}

fn random_node_id() -> NodeId {
    let random = uuid::Uuid::new_v4().simple().to_string();
    NodeId::new(&format!("node-{random}")).expect("a short word and hex digits make a node id")
}

/// Where a value was written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Origin {
    /// In no source.
    Default,
    /// In a variable of the environment.
    Environment {
        /// Its name.
        name: String,
    },
    /// In a file.
    File {
        /// Its path.
        path: Arc<Path>,
        /// The line of the key, from 1.
        line: usize,
    },
    /// In a flag.
    Flag {
        /// Its long name, without dashes.
        name: String,
    },
    /// Implied by the preset.
    Preset {
        /// Which one.
        preset: Preset,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Environment { name } => f.write_str(name),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Flag { name } => write!(f, "--{name}"),
            Self::Preset { preset } => write!(f, "preset {}", preset.name()),
        }
    }
}

/// Where each value was written, by `group.key`; what is missing is a default.
#[derive(Clone, Debug, Default, PartialEq)]
struct Origins(BTreeMap<String, Origin>);

impl Origins {
    fn set(&mut self, key: String, origin: Origin) {
        self.0.insert(key, origin);
    }

    fn of(&self, key: &str) -> Origin {
        self.0.get(key).cloned().unwrap_or(Origin::Default)
    }

    fn refuse(&self, key: &'static str, reason: String) -> ConfigError {
        ConfigError::Value { key, origin: self.of(key), reason }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file is binary, or text in another encoding.
    #[error("{}: not UTF-8 text (byte {offset})", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// The first byte that is wrong, from 0.
        offset: usize,
    },
    /// The file cannot be opened or read.
    #[error("{}: cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line is no TOML, has a key twice, or has a value of the wrong type.
    #[error("{}:{line}: {}{reason}", path.display(), prefix(key.as_deref()))]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key, if it is one key's value that is wrong.
        key: Option<String>,
        /// What is wrong.
        reason: String,
    },
    /// The file is larger than any configuration. It was not read.
    #[error("{}: larger than {}, so it is no configuration", path.display(), Size(FILE_BYTES_MAX))]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A key that does not exist, probably a misspelt one.
    #[error("{}:{line}: unknown key `{key}`{}", path.display(), proposal(nearest.as_deref()))]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key as written.
        key: String,
        /// What it was probably meant to be.
        nearest: Option<String>,
    },
    /// A value is impossible, or does not go with another one.
    #[error("{key} ({origin}): {reason}")]
    Value {
        /// `group.key`.
        key: &'static str,
        /// Where the value was written.
        origin: Origin,
        /// What is wrong.
        reason: String,
    },
}

fn prefix(key: Option<&str>) -> String {
    key.map(|key| format!("{key}: ")).unwrap_or_default()
}

fn proposal(nearest: Option<&str>) -> String {
    nearest.map(|nearest| format!(", did you mean `{nearest}`?")).unwrap_or_default()
}
