//! Defaults, limits of single values, and relations between values.
//!
//! Pure: neither the disk nor the network is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{
    Config, ConfigError, HeartbeatConfig, HeartbeatSettings, KeysConfig, Label, LimitsConfig,
    LimitsSettings, LogConfig, LogFormat, LogSettings, NodeConfig, NodeSettings, Origin, Origins,
    PeerAddress, Period, Preset, ReplicaConfig, ReplicaSettings, Settings, Size, Sync,
};
use crate::log::GROUPS_MAX;
use crate::protocol::system::{CLUSTER_NAME_BYTES_MAX, LABEL_BYTES_MAX, LABELS_MAX};
use crate::transport::Kind;
use crate::{Address, NodeId};

/// Pings a peer may miss before it can be a ghost: one lost message must never be enough.
const PINGS_PER_GHOST_TIMEOUT_MIN: u32 = 2;
/// Heartbeats in one election timeout: one lost heartbeat must never cost a leader its office.
const HEARTBEATS_PER_ELECTION_MIN: u32 = 3;
/// Longer is a mistake in the unit.
const PERIOD_MAX: Duration = Duration::from_secs(24 * 60 * 60);
const PAYLOAD_BYTES_MAX: u64 = 1 << 30;
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = (1 << 20)..=(2 << 30);

const CLUSTER: &str = "zmesh";
const BIND: &str = "tcp://127.0.0.1:7700";
/// The key file in the data directory, and the allow-list beside a key file.
const KEY_FILE: &str = "node.key";
const ALLOW_LIST: &str = "node.allow";
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const LIMITS: LimitsConfig = LimitsConfig {
    payload_bytes_max: 8 << 20,
    queue_messages_max: 10_000,
    queue_bytes_max: 64 << 20,
    queue_total_max: 1 << 30,
    peers_max: 4_096,
    in_flight_max: 65_536,
    peer_rate: None,
};
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(100);
const SYNC_INTERVAL: Duration = Duration::from_millis(100);
const IN_SYNC_LAG_MAX: Duration = Duration::from_secs(10);
const ELECTION_TIMEOUT: Duration = Duration::from_millis(300);
const SEGMENT_BYTES_DEFAULT: u64 = 64 << 20;
const SNAPSHOT_ENTRIES: u64 = 100_000;
const SNAPSHOT_BYTES: u64 = 64 << 20;
const SNAPSHOT_PART_BYTES: u64 = 256 << 10;
const SNAPSHOT_PART_RANGE: std::ops::RangeInclusive<u64> = (4 << 10)..=(1 << 20);
const PROMOTE_LAG_MAX: u64 = 1_000;
const LOG_GROUPS: u16 = 4;
const SCRUB_BYTES_PER_SECOND: u64 = 5 << 20;
const SCRUB_INTERVAL: Duration = PERIOD_MAX;
const HASH_INTERVAL: Duration = Duration::from_secs(10 * 60);

type Result<T> = std::result::Result<T, ConfigError>;

pub(super) fn resolve(settings: Settings, origins: Origins) -> Result<Config> {
    let mut resolver = Resolver { origins, warnings: Vec::new() };
    let node = resolver.node(settings.node, settings.replica.data_dir.as_deref())?;
    let heartbeat = resolver.heartbeat(settings.heartbeat)?;
    let limits = resolver.limits(settings.limits)?;
    let replica = resolver.replica(settings.replica, &node)?;
    let log = log(settings.log);
    let Resolver { origins, warnings } = resolver;
    Ok(Config { node, heartbeat, limits, replica, log, warnings, origins })
}

fn log(given: LogSettings) -> LogConfig {
    LogConfig {
        level: given.level.unwrap_or_else(|| "info".to_owned()),
        format: given.format.unwrap_or(LogFormat::Text),
    }
}

struct Resolver {
    origins: Origins,
    warnings: Vec<String>,
}

impl Resolver {
    fn node(&mut self, given: NodeSettings, data_dir: Option<&Path>) -> Result<NodeConfig> {
        let cluster = given.cluster.unwrap_or_else(|| CLUSTER.to_owned());
        if cluster.is_empty() || cluster.len() > CLUSTER_NAME_BYTES_MAX {
            let reason = format!("must have 1 to {CLUSTER_NAME_BYTES_MAX} bytes");
            return Err(self.origins.refuse("node.cluster", reason));
        }
        let bind = given.bind.unwrap_or_else(|| BIND.parse().expect("the default is an address"));
        self.advertise(&bind, given.advertise.as_ref())?;
        let insecure = given.insecure.unwrap_or(false);
        let peers = given.peers.unwrap_or_default();
        self.peers(&peers, &bind, given.advertise.as_ref())?;
        let keys =
            self.keys(given.key_file, given.allow_list, data_dir, &bind, insecure, &peers)?;
        self.exposure(&bind, insecure, keys.is_some(), &peers)?;
        let places = || std::iter::once(&bind).chain(peers.iter().map(|peer| &peer.address));
        let transport = given.transport.unwrap_or_else(|| Kind::for_addresses(places()));
        self.transport(transport, &bind, &peers)?;
        let labels = self.labels(given.labels.unwrap_or_default())?;
        let (id, advertise) = (given.id, given.advertise);
        Ok(NodeConfig { id, cluster, bind, keys, insecure, transport, advertise, peers, labels })
    }

    /// Refuses what the transport does not have.
    fn transport(&self, kind: Kind, bind: &Address, peers: &[PeerAddress]) -> Result<()> {
        let is_inproc = |address: &&Address| matches!(address, Address::Inproc { .. });
        let peers = peers.iter().map(|peer| &peer.address);
        match std::iter::once(bind).chain(peers).find(is_inproc) {
            Some(address) if kind == Kind::Native => {
                let reason = format!("native has tcp and ipc only, and {address} is inproc");
                Err(self.origins.refuse("node.transport", reason))
            }
            _ => Ok(()),
        }
    }

    /// Where the keys are, if there have to be any: where other machines are, or where they were
    /// asked for.
    fn keys(
        &self,
        file: Option<PathBuf>,
        allow_list: Option<PathBuf>,
        data_dir: Option<&Path>,
        bind: &Address,
        insecure: bool,
        peers: &[PeerAddress],
    ) -> Result<Option<KeysConfig>> {
        let asked = file.is_some() || peers.iter().any(|peer| peer.address.key().is_some());
        if asked && insecure {
            let reason =
                "contradicts node.key_file and peers with keys: with keys all is encrypted";
            return Err(self.origins.refuse("node.insecure", reason.to_owned()));
        }
        if !asked && (insecure || bind.is_local()) {
            if allow_list.is_some() {
                let reason = "this node needs no keys and looks at none: give it node.key_file too";
                return Err(self.origins.refuse("node.allow_list", reason.to_owned()));
            }
            return Ok(None);
        }
        if !matches!(bind, Address::Tcp { .. }) {
            let reason = format!("{bind} has no encryption, and this node has keys: use tcp");
            return Err(self.origins.refuse("node.bind", reason));
        }
        let is_named = file.is_some();
        let Some(file) = file.or_else(|| Some(data_dir?.join(KEY_FILE))) else {
            let reason = format!(
                "other machines can reach {bind}, so this node needs keys: make them (zmesh key \
                 new FILE) and give node.key_file (--key-file), or do without encryption with \
                 node.insecure (--insecure)"
            );
            return Err(self.origins.refuse("node.bind", reason));
        };
        let allow_list = allow_list.unwrap_or_else(|| file.with_file_name(ALLOW_LIST));
        Ok(Some(KeysConfig { file, is_named, allow_list }))
    }

    /// Refuses what would go to other machines in clear text, unless that was asked for.
    fn exposure(
        &mut self,
        bind: &Address,
        insecure: bool,
        keys: bool,
        peers: &[PeerAddress],
    ) -> Result<()> {
        if insecure && !bind.is_local() {
            self.warnings.push(format!(
                "{bind} is open to other machines: links are neither encrypted nor authenticated \
                 (node.insecure)"
            ));
        }
        let clear = |peer: &&PeerAddress| {
            peer.address.key().is_none() && (keys || !insecure && !peer.address.is_local())
        };
        let Some(peer) = peers.iter().find(clear) else { return Ok(()) };
        let reason = match keys {
            true => format!("{peer} has no key, and this node has keys: NAME@ADDRESS#KEY"),
            false => format!(
                "{peer} is on another machine and has no key: NAME@ADDRESS#KEY, or do without \
                 encryption with node.insecure (--insecure)"
            ),
        };
        Err(self.origins.refuse("node.peers", reason))
    }

    fn advertise(&self, bind: &Address, advertise: Option<&Address>) -> Result<()> {
        match advertise {
            Some(address) if !address.is_dialable() => {
                let reason = format!("{address} names no host and port that peers could dial");
                Err(self.origins.refuse("node.advertise", reason))
            }
            None if is_wildcard(bind) => {
                let reason = format!(
                    "{bind} listens on every interface, so peers must be told which address to \
                     dial: set node.advertise (--advertise)"
                );
                Err(self.origins.refuse("node.bind", reason))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn peers(
        &self,
        peers: &[PeerAddress],
        bind: &Address,
        advertise: Option<&Address>,
    ) -> Result<()> {
        let mut seen = BTreeSet::new();
        for PeerAddress { node, address: peer } in peers {
            let place = peer.clone().with_key(None);
            let reason = if peer.key().is_some() && node.is_none() {
                format!("{peer} has a key, but whose? NAME@ADDRESS#KEY")
            } else if !peer.is_dialable() {
                format!("{peer} names no host and port that could be dialed")
            } else if place == *bind || Some(&place) == advertise {
                format!("{peer} is this node itself")
            } else if !seen.insert(peer) {
                format!("{peer} is there twice")
            } else {
                continue;
            };
            return Err(self.origins.refuse("node.peers", reason));
        }
        Ok(())
    }

    fn labels(&self, given: Vec<Label>) -> Result<BTreeMap<String, String>> {
        let mut labels = BTreeMap::new();
        for Label { name, value } in given {
            let reason = if name.is_empty() || name.len().max(value.len()) > LABEL_BYTES_MAX {
                format!("a name must have 1 to {LABEL_BYTES_MAX} bytes, a value no more than that")
            } else if labels.contains_key(&name) {
                format!("{name} is there twice")
            } else if labels.len() == LABELS_MAX {
                format!("more than {LABELS_MAX}")
            } else {
                labels.insert(name, value);
                continue;
            };
            return Err(self.origins.refuse("node.labels", reason));
        }
        Ok(labels)
    }

    fn heartbeat(&mut self, given: HeartbeatSettings) -> Result<HeartbeatConfig> {
        let preset = given.preset.unwrap_or(Preset::Balanced);
        let [ping, check, ghost] = periods(preset);
        for key in ["ping_interval", "health_check_interval", "ghost_timeout"] {
            let key = format!("heartbeat.{key}");
            if given.preset.is_some() && self.origins.of(&key) == Origin::Default {
                self.origins.set(key, Origin::Preset { preset });
            }
        }
        let period = |key, given: Option<Period>, default| self.period(key, given, default);
        let config = HeartbeatConfig {
            preset,
            ping_interval: period("heartbeat.ping_interval", given.ping_interval, ping)?,
            health_check_interval: period(
                "heartbeat.health_check_interval",
                given.health_check_interval,
                check,
            )?,
            ghost_timeout: period("heartbeat.ghost_timeout", given.ghost_timeout, ghost)?,
            handshake_timeout: period(
                "heartbeat.handshake_timeout",
                given.handshake_timeout,
                HANDSHAKE_TIMEOUT,
            )?,
            request_timeout: period(
                "heartbeat.request_timeout",
                given.request_timeout,
                REQUEST_TIMEOUT,
            )?,
        };
        self.heartbeat_relations(&config)?;
        Ok(config)
    }

    fn heartbeat_relations(&self, config: &HeartbeatConfig) -> Result<()> {
        let ghost = Period(config.ghost_timeout);
        if config.ghost_timeout < config.ping_interval * PINGS_PER_GHOST_TIMEOUT_MIN {
            let reason = format!(
                "{ghost} is less than {PINGS_PER_GHOST_TIMEOUT_MIN} x heartbeat.ping_interval, \
                 which is {} ({})",
                Period(config.ping_interval),
                self.origins.of("heartbeat.ping_interval"),
            );
            return Err(self.origins.refuse("heartbeat.ghost_timeout", reason));
        }
        if config.health_check_interval > config.ghost_timeout {
            let reason = format!(
                "{} is longer than heartbeat.ghost_timeout, which is {ghost} ({})",
                Period(config.health_check_interval),
                self.origins.of("heartbeat.ghost_timeout"),
            );
            return Err(self.origins.refuse("heartbeat.health_check_interval", reason));
        }
        Ok(())
    }

    fn limits(&mut self, given: LimitsSettings) -> Result<LimitsConfig> {
        let payload = given.payload_max.map_or(LIMITS.payload_bytes_max as u64, |size| size.0);
        let payload_bytes_max = match usize::try_from(payload) {
            Ok(bytes) if (1..=PAYLOAD_BYTES_MAX).contains(&payload) => bytes,
            Ok(_) | Err(_) => {
                let reason =
                    format!("must be 1 byte to {}, not {}", Size(PAYLOAD_BYTES_MAX), Size(payload));
                return Err(self.origins.refuse("limits.payload_max", reason));
            }
        };
        let count = |key, given: Option<u32>, default| match given {
            Some(0) => Err(self.origins.refuse(key, "must not be 0".to_owned())),
            Some(count) => Ok(count),
            None => Ok(default),
        };
        let queue_bytes_max =
            given.queue_bytes.map_or_else(|| LIMITS.queue_bytes_max.max(payload), |size| size.0);
        let config = LimitsConfig {
            payload_bytes_max,
            queue_messages_max: count(
                "limits.queue_messages",
                given.queue_messages,
                LIMITS.queue_messages_max,
            )?,
            queue_bytes_max,
            queue_total_max: given
                .queue_total
                .map_or_else(|| LIMITS.queue_total_max.max(queue_bytes_max), |size| size.0),
            peers_max: count("limits.peers_max", given.peers_max, LIMITS.peers_max)?,
            in_flight_max: count(
                "limits.in_flight_max",
                given.in_flight_max,
                LIMITS.in_flight_max,
            )?,
            peer_rate: match given.peer_rate.map(NonZeroU32::new) {
                Some(None) => {
                    let reason = "must not be 0: nobody could say anything".to_owned();
                    return Err(self.origins.refuse("limits.peer_rate", reason));
                }
                rate => rate.flatten(),
            },
        };
        self.limits_relations(&config)?;
        Ok(config)
    }

    fn limits_relations(&mut self, config: &LimitsConfig) -> Result<()> {
        let payload = config.payload_bytes_max as u64;
        if config.queue_bytes_max < payload {
            let reason = format!(
                "{} cannot hold one payload of limits.payload_max, which is {} ({})",
                Size(config.queue_bytes_max),
                Size(payload),
                self.origins.of("limits.payload_max"),
            );
            return Err(self.origins.refuse("limits.queue_bytes", reason));
        }
        if config.queue_total_max < config.queue_bytes_max {
            let reason = format!(
                "{} cannot hold the queue of one peer, limits.queue_bytes, which is {} ({})",
                Size(config.queue_total_max),
                Size(config.queue_bytes_max),
                self.origins.of("limits.queue_bytes"),
            );
            return Err(self.origins.refuse("limits.queue_total", reason));
        }
        // Nobody who left the defaults alone needs to hear about them.
        if config.queue_bytes_total_max() > LIMITS.queue_bytes_total_max() {
            self.warnings.push(format!(
                "queues may take up to {} (limits.queue_total)",
                Size(config.queue_bytes_total_max()),
            ));
        }
        Ok(())
    }

    fn replica(
        &mut self,
        given: ReplicaSettings,
        node: &NodeConfig,
    ) -> Result<Option<ReplicaConfig>> {
        let Some(data_dir) = given.data_dir.clone() else {
            for (key, is_set) in [
                ("replica.members", given.members.is_some()),
                ("replica.join", given.join == Some(true)),
            ] {
                if is_set {
                    let reason = "members of a replica need replica.data_dir (--data-dir)";
                    return Err(self.origins.refuse(key, reason.to_owned()));
                }
            }
            return Ok(None);
        };
        if data_dir.as_os_str().is_empty() {
            return Err(self.origins.refuse("replica.data_dir", "must not be empty".to_owned()));
        }
        let members = self.initial_members(&given, node)?;
        let log_groups = given.log_groups.unwrap_or(LOG_GROUPS);
        if log_groups > GROUPS_MAX {
            let reason = format!("{log_groups} is more than {GROUPS_MAX}");
            return Err(self.origins.refuse("replica.log_groups", reason));
        }
        let (heartbeat_interval, election_timeout) =
            self.election(given.heartbeat_interval, given.election_timeout)?;
        let lag_max = given.in_sync_lag_max;
        let in_sync_lag_max = self.period("replica.in_sync_lag_max", lag_max, IN_SYNC_LAG_MAX)?;
        let sync = given.sync.unwrap_or(Sync::Always);
        let interval = given.sync_interval;
        let sync_interval = self.period("replica.sync_interval", interval, SYNC_INTERVAL)?;
        self.warn_of(sync);
        let (segment, part) = (given.segment_bytes, given.snapshot_part);
        let segment_bytes =
            self.size("replica.segment_bytes", segment, SEGMENT_BYTES_DEFAULT, SEGMENT_BYTES)?;
        let part =
            self.size("replica.snapshot_part", part, SNAPSHOT_PART_BYTES, SNAPSHOT_PART_RANGE)?;
        let any = 1..=u64::MAX;
        let snapshot_bytes =
            self.size("replica.snapshot_bytes", given.snapshot_bytes, SNAPSHOT_BYTES, any)?;
        let snapshot_entries = given.snapshot_entries.unwrap_or(SNAPSHOT_ENTRIES);
        if snapshot_entries == 0 {
            return Err(self
                .origins
                .refuse("replica.snapshot_entries", "must not be 0".to_owned()));
        }
        let scrub = self.period("replica.scrub_interval", given.scrub_interval, SCRUB_INTERVAL)?;
        let hash_interval = match given.hash_interval {
            Some(Period(Duration::ZERO)) => Duration::ZERO,
            given => self.period("replica.hash_interval", given, HASH_INTERVAL)?,
        };
        Ok(Some(ReplicaConfig {
            data_dir,
            members,
            join: given.join.unwrap_or(false),
            log_groups,
            heartbeat_interval,
            election_timeout,
            in_sync_lag_max,
            sync,
            sync_interval,
            segment_bytes,
            snapshot_entries,
            snapshot_bytes,
            snapshot_part_bytes: usize::try_from(part).expect("at most 1 MiB"),
            promote_lag_max: given.promote_lag.unwrap_or(PROMOTE_LAG_MAX),
            scrub_bytes_per_second: given.scrub_rate.map_or(SCRUB_BYTES_PER_SECOND, |it| it.0),
            scrub_interval: scrub,
            hash_interval,
        }))
    }

    fn warn_of(&mut self, sync: Sync) {
        match sync {
            Sync::Always => {}
            Sync::Interval | Sync::Never => self.warnings.push(format!(
                "sync {}: a power cut may take acknowledged writes back, and if all members lose \
                 power at once, one directory has to be recovered by force",
                sync.name(),
            )),
        }
    }

    /// The members that a cluster begins with, or none if the node joins one that has begun.
    fn initial_members(
        &mut self,
        given: &ReplicaSettings,
        node: &NodeConfig,
    ) -> Result<Vec<NodeId>> {
        let Some(id) = &node.id else {
            let reason = "a node with a data directory needs a name: set node.id (--id)";
            return Err(self.origins.refuse("replica.data_dir", reason.to_owned()));
        };
        if given.join == Some(true) {
            if given.members.is_some() {
                let reason = "a node that joins learns the members from the cluster: leave \
                              replica.members (--members) out";
                return Err(self.origins.refuse("replica.join", reason.to_owned()));
            }
            if node.peers.is_empty() {
                self.warnings.push(
                    "the node waits for a cluster to dial it: nothing says where one is \
                     (node.peers)"
                        .to_owned(),
                );
            }
            return Ok(Vec::new());
        }
        if given.members.is_none() && !node.peers.is_empty() {
            // Two nodes that each forgot to name the other would be two stores in one mesh.
            let reason = "a replica among peers has to name the members of its store, itself \
                          included: set replica.members (--members); a new member of a cluster \
                          that has begun sets replica.join (--join)";
            return Err(self.origins.refuse("replica.members", reason.to_owned()));
        }
        self.members(given.members.clone().unwrap_or_else(|| vec![id.clone()]))
    }

    fn size(
        &self,
        key: &'static str,
        given: Option<Size>,
        default: u64,
        range: std::ops::RangeInclusive<u64>,
    ) -> Result<u64> {
        let bytes = given.map_or(default, |size| size.0);
        if range.contains(&bytes) {
            return Ok(bytes);
        }
        let reason = match *range.end() {
            u64::MAX => format!("must be at least {}, not {}", Size(*range.start()), Size(bytes)),
            most => {
                let least = Size(*range.start());
                format!("must be {least} to {}, not {}", Size(most), Size(bytes))
            }
        };
        Err(self.origins.refuse(key, reason))
    }

    fn members(&mut self, mut members: Vec<NodeId>) -> Result<Vec<NodeId>> {
        members.sort();
        if let Some(pair) = members.windows(2).find(|pair| pair[0] == pair[1]) {
            let reason = format!("{} is there twice", pair[0]);
            return Err(self.origins.refuse("replica.members", reason));
        }
        if members.is_empty() {
            let reason = "must name at least one node".to_owned();
            return Err(self.origins.refuse("replica.members", reason));
        }
        if members.len().is_multiple_of(2) {
            self.warnings.push(format!(
                "{} members survive the loss of {}, no more than {} would",
                members.len(),
                (members.len() - 1) / 2,
                members.len() - 1,
            ));
        }
        Ok(members)
    }

    fn election(
        &self,
        heartbeat: Option<Period>,
        election: Option<Period>,
    ) -> Result<(Duration, Duration)> {
        let heartbeat = self.period("replica.heartbeat_interval", heartbeat, HEARTBEAT_INTERVAL)?;
        let election = self.period("replica.election_timeout", election, ELECTION_TIMEOUT)?;
        if heartbeat * HEARTBEATS_PER_ELECTION_MIN > election {
            let reason = format!(
                "{} is more than 1/{HEARTBEATS_PER_ELECTION_MIN} of replica.election_timeout, \
                 which is {} ({})",
                Period(heartbeat),
                Period(election),
                self.origins.of("replica.election_timeout"),
            );
            return Err(self.origins.refuse("replica.heartbeat_interval", reason));
        }
        Ok((heartbeat, election))
    }

    fn period(
        &self,
        key: &'static str,
        given: Option<Period>,
        default: Duration,
    ) -> Result<Duration> {
        match given {
            None => Ok(default),
            Some(Period(Duration::ZERO)) => {
                Err(self.origins.refuse(key, "must be longer than 0".to_owned()))
            }
            Some(Period(period)) if period > PERIOD_MAX => {
                let reason = format!("{} is longer than {}", Period(period), Period(PERIOD_MAX));
                Err(self.origins.refuse(key, reason))
            }
            Some(Period(period)) => Ok(period),
        }
    }
}

/// Ping interval, health check interval and ghost timeout.
const fn periods(preset: Preset) -> [Duration; 3] {
    let [ping, check, ghost] = match preset {
        Preset::Balanced => [2, 2, 10],
        Preset::Efficient => [10, 30, 60],
        Preset::LowLatency => [1, 1, 3],
    };
    [Duration::from_secs(ping), Duration::from_secs(check), Duration::from_secs(ghost)]
}

/// Whether the address stands for every interface (a port of 0 alone does not).
fn is_wildcard(address: &Address) -> bool {
    match address {
        Address::Tcp { host, .. } => !Address::tcp(host.clone(), 1).is_dialable(),
        Address::Inproc { .. } | Address::Ipc { .. } => false,
    }
}
