//! What both sides of a link share: heartbeat settings, who we are, who a peer is, why it left.
//!
//! Pure: no state, no time of its own. The two state machines are [`crate::client`] (the side that
//! dials) and [`crate::server`] (the side that is dialed).

use std::fmt;
use std::time::Duration;

use crate::id::{Incarnation, NodeId};
use crate::protocol::system::{
    CLUSTER_NAME_BYTES_MAX, Greeting, LABEL_BYTES_MAX, LABELS_MAX, Labels, LabelsUpdate,
    PROTOCOL_VERSION, RefuseReason,
};
use crate::transport::Address;

/// Pings a peer may miss before it can be a ghost: one lost message must never be enough.
const PINGS_MISSED_MIN: u32 = 2;

/// How often nodes prove that they live, and when silence means death.
///
/// All nodes of a mesh should use the same settings: a server judges a client's silence by its own
/// intervals.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Heartbeat {
    /// Time between two pings of a client [default: 2 s]. Larger: less traffic. Smaller: a
    /// restarted node takes over its id sooner.
    pub ping_interval: Duration,
    /// Longest time between two checks of a server for silent clients [default: 2 s]. A check runs
    /// at the earliest moment at which a client can expire anyway, so this adds nothing to the
    /// time in which a silent client is found.
    pub health_check_interval: Duration,
    /// Silence after which a peer has left [default: 10 s]: it leaves when exactly this much time
    /// has passed since its last sign of life. Larger: dead peers are noticed later. Smaller: busy
    /// or paused peers are taken for dead.
    pub ghost_timeout: Duration,
    /// Time a server has to answer a greeting before the client reports it [default: 10 s].
    pub handshake_timeout: Duration,
}

impl Heartbeat {
    /// Finds a dead peer in 3 s, for one ping a second.
    pub const fn low_latency() -> Self {
        Self::of_secs(1, 1, 3)
    }

    /// Finds a dead peer in 10 s, for one ping in two seconds.
    pub const fn balanced() -> Self {
        Self::of_secs(2, 2, 10)
    }

    /// Finds a dead peer in a minute, for one ping in ten seconds.
    pub const fn efficient() -> Self {
        Self::of_secs(10, 30, 60)
    }

    /// Checks the relations between the settings.
    ///
    /// # Errors
    ///
    /// [`InvalidHeartbeat`] names the first one that does not hold.
    pub fn check(&self) -> Result<(), InvalidHeartbeat> {
        for (name, value) in [
            ("ping_interval", self.ping_interval),
            ("health_check_interval", self.health_check_interval),
            ("ghost_timeout", self.ghost_timeout),
            ("handshake_timeout", self.handshake_timeout),
        ] {
            if value.is_zero() {
                return Err(InvalidHeartbeat::Zero { name });
            }
        }
        let shortest = self.ping_interval.saturating_mul(PINGS_MISSED_MIN);
        match self.ghost_timeout < shortest {
            true => Err(InvalidHeartbeat::GhostTooShort { ghost: self.ghost_timeout, shortest }),
            false => Ok(()),
        }
    }

    /// Silence after which another incarnation may take over an id: a ping and a half, since a
    /// ping that is merely late must not cost a live node its name.
    pub(crate) fn takeover_after(&self) -> Duration {
        self.ping_interval.saturating_add(self.ping_interval / 2)
    }

    const fn of_secs(ping: u64, check: u64, ghost: u64) -> Self {
        Self {
            ping_interval: Duration::from_secs(ping),
            health_check_interval: Duration::from_secs(check),
            ghost_timeout: Duration::from_secs(ghost),
            handshake_timeout: Duration::from_secs(10),
        }
    }
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self::balanced()
    }
}

/// Why heartbeat settings make no sense.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidHeartbeat {
    /// A peer would be a ghost after one lost ping.
    #[error("ghost_timeout is {ghost:?} and must be at least two pings: {shortest:?}")]
    GhostTooShort {
        /// The ghost timeout as given.
        ghost: Duration,
        /// The shortest one that goes with the ping interval.
        shortest: Duration,
    },
    /// An interval of nothing.
    #[error("{name} must be longer than zero")]
    Zero {
        /// The setting.
        name: &'static str,
    },
}

/// What we say of ourselves.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Identity {
    /// The mesh we belong to.
    pub cluster: String,
    /// Our name.
    pub node: NodeId,
    /// Which life of ours this is.
    pub incarnation: Incarnation,
    /// Where we can be dialed; none while we listen nowhere.
    pub address: Option<Address>,
    /// Facts about us.
    pub labels: Labels,
    /// How often the labels have changed since the start.
    pub revision: u64,
}

impl Identity {
    /// An identity without address and labels.
    pub fn new(cluster: &str, node: NodeId, incarnation: Incarnation) -> Self {
        let cluster = cluster.to_owned();
        Self { cluster, node, incarnation, address: None, labels: Labels::new(), revision: 0 }
    }

    /// Replaces the labels and counts the change.
    pub fn set_labels(&mut self, labels: Labels) {
        self.labels = labels;
        self.revision += 1;
    }

    /// Our half of the handshake.
    pub fn greeting(&self) -> Greeting {
        Greeting {
            version: PROTOCOL_VERSION,
            cluster: self.cluster.clone(),
            node: self.node.clone(),
            incarnation: self.incarnation,
            address: self.address.clone(),
            labels: self.labels.clone(),
            revision: self.revision,
        }
    }

    /// Our labels, for peers that have joined.
    pub fn labels_update(&self) -> LabelsUpdate {
        LabelsUpdate { revision: self.revision, labels: self.labels.clone() }
    }

    /// Whether we may be linked to the sender of `greeting`, as far as the greeting itself tells.
    ///
    /// # Errors
    ///
    /// The first reason against it, the version first: in another one the rest may mean something
    /// else.
    pub fn admits(&self, greeting: &Greeting) -> Result<(), RefuseReason> {
        if greeting.version != PROTOCOL_VERSION {
            return Err(RefuseReason::Version);
        }
        if greeting.cluster.len() > CLUSTER_NAME_BYTES_MAX
            || greeting.incarnation == Incarnation::UNKNOWN
            || !labels_within_limits(&greeting.labels)
        {
            return Err(RefuseReason::Malformed);
        }
        if greeting.cluster != self.cluster {
            return Err(RefuseReason::Cluster);
        }
        match (greeting.node == self.node, greeting.incarnation == self.incarnation) {
            (true, true) => Err(RefuseReason::Itself),
            (true, false) => Err(RefuseReason::DuplicateId),
            (false, _) => Ok(()),
        }
    }
}

/// Whether a peer's labels keep to [`LABELS_MAX`] and [`LABEL_BYTES_MAX`].
pub fn labels_within_limits(labels: &Labels) -> bool {
    let fits = |text: &String| text.len() <= LABEL_BYTES_MAX;
    labels.len() <= LABELS_MAX && labels.iter().all(|(name, value)| fits(name) && fits(value))
}

/// What a peer said of itself in its last greeting, with the labels it has announced since.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PeerInfo {
    /// Its name.
    pub node: NodeId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// Where it can be dialed; none if it only dials, or announced a wildcard.
    pub address: Option<Address>,
    /// Facts about it.
    pub labels: Labels,
}

impl From<Greeting> for PeerInfo {
    fn from(greeting: Greeting) -> Self {
        Self {
            node: greeting.node,
            incarnation: greeting.incarnation,
            address: greeting.address.filter(Address::is_dialable),
            labels: greeting.labels,
        }
    }
}

/// Why a peer is no longer routable. The names are stable: they stand in output and events.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum LeaveReason {
    /// The link can never be used again.
    Closed,
    /// The connection broke, or the peer made a new one in its place.
    ConnectionLost,
    /// No sign of life within the ghost timeout.
    Ghost,
    /// The peer left on purpose.
    Goodbye,
    /// One side refused the link after it had been up.
    Refused,
    /// We left: disconnected, unlinked or stopped.
    Stopped,
    /// Another incarnation of the peer took its place.
    Superseded,
}

impl LeaveReason {
    /// The stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::ConnectionLost => "connection_lost",
            Self::Ghost => "ghost",
            Self::Goodbye => "goodbye",
            Self::Refused => "refused",
            Self::Stopped => "stopped",
            Self::Superseded => "superseded",
        }
    }
}

impl fmt::Display for LeaveReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl serde::Serialize for LeaveReason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One lost ping must not make a ghost: two pings are the limit, and the limit is allowed.
    #[test]
    fn ghost_timeout_below_two_pings_is_refused() {
        let two_pings = Heartbeat { ghost_timeout: Duration::from_secs(4), ..Heartbeat::default() };
        assert_eq!(two_pings.check(), Ok(()));
        let less = Heartbeat { ghost_timeout: Duration::from_millis(3_999), ..two_pings };
        let error = less.check().unwrap_err();
        assert_eq!(error.to_string(), "ghost_timeout is 3.999s and must be at least two pings: 4s");
        let zero = Heartbeat { handshake_timeout: Duration::ZERO, ..two_pings };
        assert_eq!(zero.check(), Err(InvalidHeartbeat::Zero { name: "handshake_timeout" }));
    }

    /// The presets are the table of the architecture guide; each must pass its own check.
    #[test]
    fn presets_are_valid_and_as_documented() {
        for (preset, ping, check, ghost) in [
            (Heartbeat::low_latency(), 1, 1, 3),
            (Heartbeat::balanced(), 2, 2, 10),
            (Heartbeat::efficient(), 10, 30, 60),
        ] {
            assert_eq!(preset.check(), Ok(()));
            assert_eq!(preset.ping_interval.as_secs(), ping);
            assert_eq!(preset.health_check_interval.as_secs(), check);
            assert_eq!(preset.ghost_timeout.as_secs(), ghost);
            assert_eq!(preset.handshake_timeout.as_secs(), 10);
        }
        assert_eq!(Heartbeat::default(), Heartbeat::balanced());
    }

    /// Each reason has one cause, and the version is looked at before anything else.
    #[test]
    fn greetings_are_refused_for_the_first_reason_that_holds() {
        let ours = Identity::new("c", "a".parse().unwrap(), Incarnation(1));
        let theirs = Identity::new("c", "b".parse().unwrap(), Incarnation(2)).greeting();
        assert_eq!(ours.admits(&theirs), Ok(()));
        let other = Greeting { version: 9, cluster: "d".into(), ..theirs.clone() };
        assert_eq!(ours.admits(&other), Err(RefuseReason::Version));
        let other = Greeting { cluster: "d".into(), ..theirs.clone() };
        assert_eq!(ours.admits(&other), Err(RefuseReason::Cluster));
        assert_eq!(ours.admits(&ours.greeting()), Err(RefuseReason::Itself));
        let other = Greeting { node: ours.node.clone(), ..theirs.clone() };
        assert_eq!(ours.admits(&other), Err(RefuseReason::DuplicateId));
        let other = Greeting { incarnation: Incarnation::UNKNOWN, ..theirs.clone() };
        assert_eq!(ours.admits(&other), Err(RefuseReason::Malformed));
        let labels = |count: usize, bytes: usize| -> Labels {
            (0..count).map(|i| (i.to_string(), "x".repeat(bytes))).collect()
        };
        for (labels, expected) in [
            (labels(64, 256), Ok(())),
            (labels(65, 1), Err(RefuseReason::Malformed)),
            (labels(1, 257), Err(RefuseReason::Malformed)),
        ] {
            assert_eq!(ours.admits(&Greeting { labels, ..theirs.clone() }), expected);
        }
    }

    /// A wildcard handed on by gossip would send others to themselves.
    #[test]
    fn wildcard_address_of_a_peer_is_not_kept() {
        let mut theirs = Identity::new("c", "b".parse().unwrap(), Incarnation(2));
        theirs.address = Some("tcp://0.0.0.0:7".parse().unwrap());
        assert_eq!(PeerInfo::from(theirs.greeting()).address, None);
        theirs.address = Some("tcp://10.0.0.1:7".parse().unwrap());
        assert_eq!(PeerInfo::from(theirs.greeting()).address, theirs.address);
    }
}
