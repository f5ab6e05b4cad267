//! Describing a node and starting it.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::core::{Core, Settings, system_bytes_max};
use super::driver::{Driver, Shared};
use super::error::StartError;
use super::link::QueueLimits;
use super::{Handle, Node};
use crate::id::{Incarnation, NodeId};
use crate::keys::{AllowList, KeyPair};
use crate::presence::{Heartbeat, Identity};
use crate::protocol::system::{CLUSTER_NAME_BYTES_MAX, LABEL_BYTES_MAX, LABELS_MAX, Labels};
use crate::timer::Clock;
use crate::transport::native::NativeTransport;
use crate::transport::zmq::ZmqTransport;
use crate::transport::{self, Address, InvalidAddress, Transport};
use crate::trust::Trust;

/// The largest limit of payloads: one message must fit into memory, and its length into 4 bytes.
const PAYLOAD_BYTES_MAX_MAX: usize = 1024 * 1024 * 1024;

/// Something that can be an [`Address`].
pub trait IntoAddress {
    /// Makes an address of it.
    ///
    /// # Errors
    ///
    /// [`InvalidAddress`] says what is wrong with it.
    fn into_address(self) -> Result<Address, InvalidAddress>;
}

impl IntoAddress for Address {
    fn into_address(self) -> Result<Address, InvalidAddress> {
        Ok(self)
    }
}

impl IntoAddress for &Address {
    fn into_address(self) -> Result<Address, InvalidAddress> {
        Ok(self.clone())
    }
}

impl IntoAddress for &str {
    fn into_address(self) -> Result<Address, InvalidAddress> {
        self.parse()
    }
}

impl IntoAddress for String {
    fn into_address(self) -> Result<Address, InvalidAddress> {
        self.parse()
    }
}

/// Describes a node. See [`Node`] for an example.
#[must_use = "a builder does nothing until it is started"]
pub struct Builder {
    id: String,
    cluster: String,
    bind: Option<Result<Address, InvalidAddress>>,
    advertise: Option<Result<Address, InvalidAddress>>,
    seeds: Vec<Result<Address, InvalidAddress>>,
    labels: Labels,
    heartbeat: Heartbeat,
    request_timeout: Duration,
    payload_bytes_max: usize,
    queue: QueueLimits,
    in_flight_max: usize,
    peers_max: usize,
    peer_rate: Option<NonZeroU32>,
    events_max: usize,
    gossip: bool,
    seed: Option<u64>,
    transport: Option<Box<dyn Transport>>,
    transport_kind: Option<transport::Kind>,
    keys: Option<KeyPair>,
    allowed: Option<AllowList>,
    insecure: bool,
}

impl Builder {
    pub(super) fn new(id: String) -> Self {
        Self {
            id,
            cluster: "zmesh".to_owned(),
            bind: None,
            advertise: None,
            seeds: Vec::new(),
            labels: Labels::new(),
            heartbeat: Heartbeat::default(),
            request_timeout: Duration::from_secs(5),
            payload_bytes_max: 8 * 1024 * 1024,
            queue: QueueLimits {
                messages_max: 10_000,
                bytes_max: 64 << 20,
                total_bytes_max: 1 << 30,
            },
            in_flight_max: 65_536,
            peers_max: 4_096,
            peer_rate: None,
            events_max: 1_024,
            gossip: true,
            seed: None,
            transport: None,
            transport_kind: None,
            keys: None,
            allowed: None,
            insecure: false,
        }
    }

    /// The mesh to belong to [default: `zmesh`]. Nodes of different clusters refuse each other.
    pub fn cluster(mut self, name: impl Into<String>) -> Self {
        self.cluster = name.into();
        self
    }

    /// The address to listen on, such as `tcp://127.0.0.1:7700` [default: do not listen]. Port 0
    /// takes any free port.
    pub fn bind(mut self, address: impl IntoAddress) -> Self {
        self.bind = Some(address.into_address());
        self
    }

    /// The address that peers are told to dial [default: the bound one]. Needed when the bound one
    /// is a wildcard.
    pub fn advertise(mut self, address: impl IntoAddress) -> Self {
        self.advertise = Some(address.into_address());
        self
    }

    /// An address to dial. Through gossip one is enough to find the whole mesh.
    pub fn connect(mut self, address: impl IntoAddress) -> Self {
        self.seeds.push(address.into_address());
        self
    }

    /// A fact to announce to peers, for them to filter by.
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(name.into(), value.into());
        self
    }

    /// How presence is decided [default: [`Heartbeat::balanced`]].
    pub fn heartbeat(mut self, heartbeat: Heartbeat) -> Self {
        self.heartbeat = heartbeat;
        self
    }

    /// How long a request waits for its reply unless it says otherwise [default: 5 s].
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// The most bytes of a payload, in both directions [default: 8 MiB; at most 1 GiB]. Larger: one
    /// message may hold up a link for longer and costs more memory. The same on all nodes.
    pub fn payload_bytes_max(mut self, bytes: usize) -> Self {
        self.payload_bytes_max = bytes;
        self
    }

    /// The most messages and bytes that wait for one peer [default: 10,000 and 64 MiB]. Larger: a
    /// slow peer costs more memory. Smaller: bursts are refused sooner.
    pub fn queue(mut self, messages_max: usize, bytes_max: usize) -> Self {
        self.queue = QueueLimits { messages_max, bytes_max, ..self.queue };
        self
    }

    /// The most bytes that wait for all peers together [default: 1 GiB]. Larger: many slow peers
    /// cost more memory. Smaller: they get in each other's way sooner.
    pub fn queue_total(mut self, bytes_max: usize) -> Self {
        self.queue.total_bytes_max = bytes_max;
        self
    }

    /// The most requests of this node that wait for a reply [default: 65,536].
    pub fn in_flight_max(mut self, requests: usize) -> Self {
        self.in_flight_max = requests;
        self
    }

    /// The most peers that may dial this node [default: 4,096]; more are refused.
    pub fn peers_max(mut self, peers: usize) -> Self {
        self.peers_max = peers;
        self
    }

    /// Requests and ticks that a peer may send on one link in a second, and as many at once
    /// [default: none, which is no limit]. Requests beyond it are answered with `BUSY`, ticks are
    /// dropped and counted. What members say to each other for replicated services has no limit.
    pub fn peer_rate(mut self, per_second: Option<NonZeroU32>) -> Self {
        self.peer_rate = per_second;
        self
    }

    /// Whether nodes that tell of themselves or that peers tell of are dialed too [default: yes].
    /// Without it a node dials the addresses it was given and nobody else.
    pub fn gossip(mut self, gossip: bool) -> Self {
        self.gossip = gossip;
        self
    }

    /// Makes random choices repeatable [default: seeded by the system], and lets the clock on the
    /// wall begin at the start of 2020. For tests and simulations.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Which transport to use [default: native, or libzmq if an address given here is `inproc`].
    /// Nodes with either understand each other.
    pub fn transport_kind(mut self, kind: transport::Kind) -> Self {
        self.transport_kind = Some(kind);
        self
    }

    /// Uses this transport, whatever [`Builder::transport_kind`] says.
    pub fn transport(mut self, transport: impl Transport + 'static) -> Self {
        self.transport = Some(Box::new(transport));
        self
    }

    /// The keys of this node [default: none]. With them every link is encrypted, and every address
    /// that it dials must have the key of who is there: `tcp://HOST:PORT#KEY`.
    pub fn keys(mut self, keys: KeyPair) -> Self {
        self.keys = Some(keys);
        self
    }

    /// Who may come in and what they may do, for a node with keys [default: nobody]. It dials only
    /// those on the list that are peers; without a list, those whom it was told to dial and whom
    /// they tell of. [`Node::allow`] changes it.
    pub fn allow(mut self, allowed: AllowList) -> Self {
        self.allowed = Some(allowed);
        self
    }

    /// Allows a node without keys to listen where other machines can reach it, and to dial them
    /// [default: no]. Whoever can read or change what is on the network between them can read,
    /// change and forge every message.
    pub fn insecure(mut self, insecure: bool) -> Self {
        self.insecure = insecure;
        self
    }

    /// Starts the node on the current tokio runtime.
    ///
    /// Returns once it listens; links to peers come up in the background.
    ///
    /// # Errors
    ///
    /// [`StartError`]: nothing was started. Outside a tokio runtime it is
    /// [`NoRuntime`](StartError::NoRuntime).
    pub fn start(mut self) -> Result<Node, StartError> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| StartError::NoRuntime)?;
        let node = NodeId::new(&self.id).map_err(|error| StartError::Options(error.to_string()))?;
        self.check()?;
        // A transport that the application brought may be as safe as it pleases.
        self.insecure |= self.transport.is_some();
        self.transport_kind = Some(self.kind());
        let seeds = std::mem::take(&mut self.seeds).into_iter().collect::<Result<Vec<_>, _>>()?;
        let mut rng = self.rng();
        let incarnation = Incarnation::random(&mut rng);
        let options = self.transport_options();
        seeds.iter().try_for_each(|seed| self.trust().may_dial(seed))?;
        let mut transport = match self.transport.take() {
            Some(transport) => transport,
            None => self.make_transport(options),
        };
        let allowed = self.allowed.clone().unwrap_or_default();
        transport.allow(Arc::new(allowed));
        let address = self.listen(transport.as_mut())?;
        let mut identity = Identity::new(&self.cluster, node.clone(), incarnation);
        identity.address.clone_from(&address);
        identity.labels = std::mem::take(&mut self.labels);
        let clock = self.clock();
        let core = Core::new(clock.now(), self.settings(Arc::new(identity)), rng);
        let shared = Arc::new(Shared::new(clock, core, self.events_max));
        let (finish, finished) = watch::channel(false);
        for seed in seeds {
            shared.with(|core, now| core.connect(now, seed))?;
        }
        runtime.spawn(Driver::new(Arc::clone(&shared), transport, finish));
        tracing::info!(%node, %incarnation, address = address.as_ref().map(tracing::field::display), "node started");
        let request_timeout = self.request_timeout;
        let handle = Handle {
            shared,
            node,
            incarnation,
            address,
            request_timeout,
            encrypted: self.keys.is_some(),
            finished,
        };
        Ok(Node { handle: Arc::new(handle) })
    }

    fn trust(&self) -> Trust {
        match (&self.keys, &self.allowed) {
            (None, _) => Trust::Open { insecure: self.insecure },
            (Some(_), Some(list)) => Trust::Listed(Arc::new(list.clone())),
            (Some(_), None) => Trust::Told,
        }
    }

    fn make_transport(&self, options: transport::Options) -> Box<dyn Transport> {
        let keys = self.keys.clone();
        match self.kind() {
            transport::Kind::Libzmq => Box::new(ZmqTransport::new(options).with_keys(keys)),
            transport::Kind::Native => Box::new(NativeTransport::new(options).with_keys(keys)),
        }
    }

    fn rng(&self) -> fastrand::Rng {
        match self.seed {
            Some(seed) => fastrand::Rng::with_seed(seed),
            None => fastrand::Rng::with_seed(entropy()),
        }
    }

    fn clock(&self) -> Clock {
        match self.seed {
            Some(_) => Clock::start_at(START_OF_2020),
            None => Clock::start(),
        }
    }

    fn check(&self) -> Result<(), StartError> {
        self.check_keys()?;
        let wrong = |text: String| Err(StartError::Options(text));
        if let Err(error) = self.heartbeat.check() {
            return wrong(error.to_string());
        }
        if self.cluster.is_empty() || self.cluster.len() > CLUSTER_NAME_BYTES_MAX {
            return wrong(format!(
                "the cluster name must have 1 to {CLUSTER_NAME_BYTES_MAX} bytes"
            ));
        }
        let long = |text: &str| text.len() > LABEL_BYTES_MAX;
        if self.labels.len() > LABELS_MAX || self.labels.iter().any(|(k, v)| long(k) || long(v)) {
            return wrong(format!("at most {LABELS_MAX} labels of {LABEL_BYTES_MAX} bytes each"));
        }
        if self.payload_bytes_max > PAYLOAD_BYTES_MAX_MAX {
            return wrong(format!(
                "payload_bytes_max is {} and may be at most {PAYLOAD_BYTES_MAX_MAX}",
                self.payload_bytes_max
            ));
        }
        if self.queue.total_bytes_max < self.queue.bytes_max {
            return wrong(format!(
                "the queues may have {} bytes together, and one of them {}",
                self.queue.total_bytes_max, self.queue.bytes_max
            ));
        }
        if self.queue.messages_max == 0 || self.in_flight_max == 0 || self.peers_max == 0 {
            return wrong("a limit of 0 would refuse everything".to_owned());
        }
        Ok(())
    }

    fn check_keys(&self) -> Result<(), StartError> {
        let wrong = |text: &str| Err(StartError::Options(text.to_owned()));
        let bind = self.bind.as_ref().and_then(|bind| bind.as_ref().ok());
        match (&self.keys, bind) {
            (None, _) if self.allowed.is_some() => wrong("an allow-list needs keys"),
            (None, Some(bind))
                if !bind.is_local() && !self.insecure && self.transport.is_none() =>
            {
                Err(StartError::Insecure { bind: bind.clone() })
            }
            (None, _) => Ok(()),
            (Some(_), _) if self.insecure => wrong("keys and insecure contradict each other"),
            (Some(_), _) if !self.can_encrypt() => wrong(
                "this build of libzmq has no CURVE, so keys mean nothing to it: use the native \
                 transport",
            ),
            (Some(_), Some(_)) if self.allowed.is_none() => {
                wrong("a node that listens with keys needs an allow-list")
            }
            (Some(_), _) => Ok(()),
        }
    }

    fn can_encrypt(&self) -> bool {
        self.kind() == transport::Kind::Native || ::zmq::has("curve") == Some(true)
    }

    fn kind(&self) -> transport::Kind {
        let addresses = self.bind.iter().chain(&self.seeds).flatten();
        self.transport_kind.unwrap_or_else(|| transport::Kind::for_addresses(addresses))
    }

    fn listen(&mut self, transport: &mut dyn Transport) -> Result<Option<Address>, StartError> {
        let Some(bind) = self.bind.take() else { return Ok(None) };
        let bound = transport.bind(&bind?)?;
        let advertised = match self.advertise.take().transpose()? {
            Some(advertised) => advertised.with_key(bound.key()),
            None => bound.clone(),
        };
        match advertised.is_dialable() {
            true => Ok(Some(advertised)),
            false => Err(StartError::Advertise { bound }),
        }
    }

    fn transport_options(&self) -> transport::Options {
        transport::Options {
            message_bytes_max: system_bytes_max(self.payload_bytes_max) + 4096,
            ..transport::Options::default()
        }
    }

    fn settings(&self, identity: Arc<Identity>) -> Settings {
        Settings {
            listens: identity.address.is_some(),
            identity,
            heartbeat: self.heartbeat,
            queue: self.queue,
            payload_bytes_max: self.payload_bytes_max,
            in_flight_max: self.in_flight_max,
            peers_max: self.peers_max,
            peer_rate: self.peer_rate,
            gossip: self.gossip,
            trust: self.trust(),
        }
    }
}

/// Counted from the start of 1970.
const START_OF_2020: Duration = Duration::from_secs(1_577_836_800);

/// A number that no other process draws.
fn entropy() -> u64 {
    let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
    high ^ low
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder").field("id", &self.id).finish_non_exhaustive()
    }
}
