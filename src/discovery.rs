//! Which addresses a node dials, and whom it tells about whom.
//!
//! A node that is given one address finds the whole mesh: peers tell each other which nodes they
//! are linked to, and every node dials every dialable node that it hears of. Addresses that were
//! given by a person (seeds) are dialed for ever; those that were heard of are given up when they
//! have been unreachable for [`FORGET_AFTER`] and nobody has mentioned them for as long.
//!
//! Only nodes that the teller is linked to are told, so the dead fade out of the gossip with the
//! ghost timeout, and rumours cannot keep each other alive.
//!
//! Pure: time enters as `now`, effects leave through [`Discovery::poll_output`].
//! Invariants: an address is dialed at most once between its `Dial` and its `HangUp`; we dial
//! neither our own address nor our own id; what peers tell fills at most [`TARGETS_MAX`] places.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::id::NodeId;
use crate::presence::PeerInfo;
use crate::protocol::system::{KNOWN_PEERS_MAX, KnownPeer, KnownPeers, RefuseReason};
use crate::timer::{Time, earliest};
use crate::transport::Address;
use crate::trust::Trust;

/// The most addresses kept; only seeds are added beyond.
pub const TARGETS_MAX: usize = 1_024;
/// How long an address that was heard of may be unreachable and unmentioned.
pub const FORGET_AFTER: Duration = Duration::from_secs(60);
/// Time between two tellings when nothing has changed.
const TELL_INTERVAL: Duration = Duration::from_secs(10);
/// Time in which several changes are gathered into one telling.
const TELL_DEBOUNCE: Duration = Duration::from_millis(100);
/// Longest wait before an address that was heard of is dialed: many nodes hear of it at once.
const DIAL_JITTER: Duration = Duration::from_millis(200);
/// Time a node that was linked has to come back by the same address before another is tried.
const RETURN_WAIT: Duration = Duration::from_secs(5);
/// Wait before an address that led to a refusal, or to a node that we reach otherwise, is tried.
const REDIAL_WAIT: Duration = Duration::from_secs(30);

/// What a node knows about where others are. See the [module](self).
#[derive(Debug)]
pub struct Discovery {
    node: NodeId,
    address: Option<Address>,
    /// Whether nodes that were heard of are dialed too, or only seeds.
    dials_heard: bool,
    trust: Trust,
    rng: fastrand::Rng,
    targets: BTreeMap<Address, Target>,
    /// Removed by a person, so not to be learned again from peers.
    avoided: BTreeSet<Address>,
    /// Peers we are linked to, by either side or both.
    linked: BTreeMap<NodeId, Linked>,
    tell_at: Option<Time>,
    /// Nothing is due before this time. Computed once per input, since it is asked every turn.
    wake_at: Option<Time>,
    outputs: VecDeque<Output>,
}

impl Discovery {
    /// Knows nobody. `node` and `address` are our own: they are never dialed.
    pub fn new(node: NodeId, address: Option<Address>, rng: fastrand::Rng) -> Self {
        Self {
            node,
            address,
            dials_heard: true,
            trust: Trust::Open { insecure: true },
            rng,
            targets: BTreeMap::new(),
            avoided: BTreeSet::new(),
            linked: BTreeMap::new(),
            tell_at: None,
            wake_at: None,
            outputs: VecDeque::new(),
        }
    }

    /// Dials seeds and nobody else. Others are still told of those we are linked to.
    #[must_use]
    pub fn seeds_only(mut self) -> Self {
        self.dials_heard = false;
        self
    }

    /// Dials only what this allows.
    #[must_use]
    pub fn trusting(mut self, trust: Trust) -> Self {
        self.trust = trust;
        self
    }

    /// Takes one input; what follows from it is read with [`Self::poll_output`].
    pub fn handle(&mut self, now: Time, input: Input) {
        match input {
            Input::AddSeed { address } => self.add_seed(now, address),
            Input::Address(address) => self.set_address(now, address),
            Input::Changed { peer } => self.changed(now, &peer),
            Input::GaveUp { address, reason } => self.gave_up(now, &address, reason),
            Input::Heard(known) => {
                for peer in known.peers.into_iter().take(KNOWN_PEERS_MAX) {
                    self.heard_of(now, peer.node, peer.address);
                }
            }
            Input::Joined { dialed, peer } => self.joined(now, dialed, &peer),
            Input::Left { dialed, node } => self.left(now, dialed, &node),
            Input::RemoveSeed { address } => {
                self.remove(&address);
                self.avoided.insert(address);
            }
            Input::Timeout => {}
            Input::Trust(trust) => self.set_trust(now, trust),
        }
        self.act(now);
    }

    /// The next effect, in the order in which they are to happen.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.wake_at
    }

    /// The addresses that are dialed, linked or not.
    pub fn dialed(&self) -> impl Iterator<Item = &Address> {
        let dialed = self.targets.iter().filter(|(_, target)| target.state.is_dialed());
        dialed.map(|(address, _)| address)
    }

    fn add_seed(&mut self, now: Time, address: Address) {
        self.avoided.remove(&address);
        let ourselves = Some(&address) == self.address.as_ref();
        let target = self.targets.entry(address).or_insert_with(|| Target::new(now));
        target.seed = true;
        match &mut target.state {
            state if ourselves => *state = State::Ourselves,
            State::Waiting { dial_at } => *dial_at = now,
            State::Dialed { .. } | State::Linked | State::Ourselves => {}
        }
    }

    fn set_address(&mut self, now: Time, address: Option<Address>) {
        self.address = address;
        for (address, target) in &mut self.targets {
            if Some(address) == self.address.as_ref() {
                if target.state.is_dialed() {
                    self.outputs.push_back(Output::HangUp { address: address.clone() });
                }
                target.state = State::Ourselves;
            } else if matches!(target.state, State::Ourselves) {
                target.state = State::Waiting { dial_at: now };
            }
        }
    }

    /// Hangs up on whom we may no longer dial, and tries those whom we may now.
    fn set_trust(&mut self, now: Time, trust: Trust) {
        self.trust = trust;
        for (address, target) in &mut self.targets {
            match (self.trust.may_dial(address), &mut target.state) {
                (Err(_), state) if state.is_dialed() => {
                    *state = State::Waiting { dial_at: now + REDIAL_WAIT };
                    self.outputs.push_back(Output::HangUp { address: address.clone() });
                }
                (Ok(()), State::Waiting { dial_at }) => *dial_at = now,
                (Ok(()) | Err(_), _) => {}
            }
        }
    }

    fn heard_of(&mut self, now: Time, node: NodeId, address: Address) {
        let ourselves = node == self.node || Some(&address) == self.address.as_ref();
        if !self.dials_heard
            || ourselves
            || !address.is_dialable()
            || self.trust.may_dial(&address).is_err()
            || self.avoided.contains(&address)
        {
            return;
        }
        if let Some(target) = self.targets.get_mut(&address) {
            target.mentioned = now;
            // Hearsay does not overrule what the address itself has told us.
            if !target.state.is_linked() && !target.seed {
                target.node = Some(node);
            }
            return;
        }
        if self.targets.len() >= TARGETS_MAX {
            return;
        }
        let dial_at = now + DIAL_JITTER.mul_f64(self.rng.f64());
        let state = State::Waiting { dial_at };
        let target = Target { node: Some(node), state, ..Target::new(now) };
        self.targets.insert(address, target);
    }

    fn joined(&mut self, now: Time, dialed: Option<Address>, peer: &PeerInfo) {
        match dialed {
            Some(address) => {
                self.hang_up_twins(now, &address, &peer.node);
                let target = self.targets.entry(address).or_insert_with(|| Target::new(now));
                target.node = Some(peer.node.clone());
                target.state = State::Linked;
                self.linked.entry(peer.node.clone()).or_default().up = true;
            }
            None => self.linked.entry(peer.node.clone()).or_default().down = true,
        }
        self.changed(now, peer);
        // Also for a peer that cannot be dialed: it wants to hear of the others.
        self.tell_soon(now);
    }

    fn tell_soon(&mut self, now: Time) {
        self.tell_at = earliest(self.tell_at, Some(now + TELL_DEBOUNCE));
    }

    /// One link per node: the newest stays, because the server has moved the peer to it already.
    fn hang_up_twins(&mut self, now: Time, address: &Address, node: &NodeId) {
        for (twin, target) in &mut self.targets {
            let same = target.node.as_ref() == Some(node) && twin != address;
            // Who is at a seed that does not answer is not known, whoever was there before.
            let dialed = match target.seed {
                true => target.state.is_linked(),
                false => target.state.is_dialed(),
            };
            if same && dialed {
                target.state = State::Waiting { dial_at: now + REDIAL_WAIT };
                self.outputs.push_back(Output::HangUp { address: twin.clone() });
            }
        }
    }

    fn changed(&mut self, now: Time, peer: &PeerInfo) {
        let Some(linked) = self.linked.get_mut(&peer.node) else { return };
        let address = peer.address.clone();
        let told = address.filter(|address| self.trust.may_dial(address).is_ok()).map(|address| {
            KnownPeer { node: peer.node.clone(), incarnation: peer.incarnation, address }
        });
        if linked.told == told {
            return;
        }
        linked.told.clone_from(&told);
        if let Some(told) = told {
            self.heard_of(now, told.node, told.address);
            self.tell_soon(now);
        }
    }

    fn left(&mut self, now: Time, dialed: Option<Address>, node: &NodeId) {
        if dialed.is_some() {
            self.hold_back(now, node);
        }
        let Some(linked) = self.linked.get_mut(node) else { return };
        match dialed {
            Some(address) => {
                // The link may be the twin that was hung up: then the newer one is still there.
                if let Some(target) = self.targets.get_mut(&address)
                    && target.state.is_linked()
                {
                    target.state = State::Dialed { since: now };
                }
                let up = |target: &Target| {
                    target.node.as_ref() == Some(node) && target.state.is_linked()
                };
                linked.up = self.targets.values().any(up);
            }
            None => linked.down = false,
        }
        if !linked.up && !linked.down {
            self.linked.remove(node);
        }
    }

    /// Holds back other addresses of a node that has just left: it mostly returns by the same one.
    fn hold_back(&mut self, now: Time, node: &NodeId) {
        for target in self.targets.values_mut() {
            if let (State::Waiting { dial_at }, Some(there)) = (&mut target.state, &target.node)
                && there == node
            {
                *dial_at = (*dial_at).max(now + RETURN_WAIT);
            }
        }
    }

    fn gave_up(&mut self, now: Time, address: &Address, reason: Option<RefuseReason>) {
        let Some(target) = self.targets.get_mut(address) else { return };
        if reason == Some(RefuseReason::Itself) {
            target.state = State::Ourselves;
        } else if target.state.is_dialed() {
            // Who closes before greeting may be about to learn of our key, or we of its.
            let wait = if reason.is_some() { REDIAL_WAIT } else { RETURN_WAIT };
            target.state = State::Waiting { dial_at: now + wait };
        }
        self.outputs.push_back(Output::HangUp { address: address.clone() });
    }

    fn remove(&mut self, address: &Address) {
        if let Some(target) = self.targets.remove(address)
            && target.state.is_dialed()
        {
            self.outputs.push_back(Output::HangUp { address: address.clone() });
        }
    }

    /// Does what is due, and computes when there is something to do next.
    fn act(&mut self, now: Time) {
        self.forget(now);
        self.dial(now);
        self.tell(now);
        let linked_up = self.linked_up();
        let due = |target: &Target| match target.state {
            State::Waiting { dial_at } if !target.is_reached(&linked_up) => Some(dial_at),
            State::Dialed { .. } | State::Linked | State::Ourselves | State::Waiting { .. } => None,
        };
        let targets = self.targets.values();
        let next = targets.map(|target| earliest(due(target), target.forget_at()));
        self.wake_at = next.fold(self.tell_at, earliest);
    }

    fn forget(&mut self, now: Time) {
        let over = |target: &Target| target.forget_at().is_some_and(|at| now >= at);
        let targets = self.targets.iter().filter(|(_, target)| over(target));
        let forgotten: Vec<_> = targets.map(|(address, _)| address.clone()).collect();
        forgotten.iter().for_each(|address| self.remove(address));
    }

    fn dial(&mut self, now: Time) {
        let linked_up = self.linked_up();
        for (address, target) in &mut self.targets {
            let State::Waiting { dial_at } = target.state else { continue };
            if now < dial_at || target.is_reached(&linked_up) {
                continue;
            }
            if self.trust.may_dial(address).is_err() {
                target.state = State::Waiting { dial_at: now + REDIAL_WAIT };
            } else {
                target.state = State::Dialed { since: now };
                self.outputs.push_back(Output::Dial { address: address.clone() });
            }
        }
    }

    fn linked_up(&self) -> Vec<NodeId> {
        let linked = self.linked.iter().filter(|(_, linked)| linked.up);
        linked.map(|(node, _)| node.clone()).collect()
    }

    fn tell(&mut self, now: Time) {
        if self.tell_at.is_none_or(|at| now < at) {
            return;
        }
        let mut peers: Vec<_> = self.linked.values().filter_map(|l| l.told.clone()).collect();
        if peers.is_empty() {
            self.tell_at = None;
            return;
        }
        self.tell_at = Some(now + TELL_INTERVAL.mul_f64(0.75 + self.rng.f64() / 2.0));
        // More than fit: a different choice each time reaches everybody in the end.
        if peers.len() > KNOWN_PEERS_MAX {
            self.rng.shuffle(&mut peers);
            peers.truncate(KNOWN_PEERS_MAX);
        }
        self.outputs.push_back(Output::Tell(KnownPeers { peers }));
    }
}

/// What discovery reacts to. `dialed` is the address we dialed; none for a peer that dialed us.
#[derive(Clone, Debug)]
pub enum Input {
    /// A person wants us linked to whoever is at this address.
    AddSeed {
        /// The address.
        address: Address,
    },
    /// Our own address changed.
    Address(Option<Address>),
    /// A joined peer announced another address or labels.
    Changed {
        /// The peer.
        peer: PeerInfo,
    },
    /// A link will never be up: [`crate::client::Output::GiveUp`], or the transport closed it.
    GaveUp {
        /// The address that was dialed.
        address: Address,
        /// Why; none if the transport closed it.
        reason: Option<RefuseReason>,
    },
    /// A joined peer told whom it knows.
    Heard(KnownPeers),
    /// A link is up.
    Joined {
        /// The address that was dialed.
        dialed: Option<Address>,
        /// Who is there.
        peer: PeerInfo,
    },
    /// A link is down.
    Left {
        /// The address that was dialed.
        dialed: Option<Address>,
        /// Who was there.
        node: NodeId,
    },
    /// The person has no more wish to be linked to this address.
    RemoveSeed {
        /// The address.
        address: Address,
    },
    /// The time of [`Discovery::poll_timeout`] has come.
    Timeout,
    /// Other addresses may be dialed from now on.
    Trust(Trust),
}

/// What discovery wants done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Output {
    /// Open a link to this address, and keep it until `HangUp`.
    Dial {
        /// The address.
        address: Address,
    },
    /// End the link to this address, if there is one: stop its client, then close it.
    HangUp {
        /// The address.
        address: Address,
    },
    /// Send this to every joined peer.
    Tell(KnownPeers),
}

#[derive(Debug, Default)]
struct Linked {
    up: bool,
    down: bool,
    /// What we say of it; none if nobody can dial it.
    told: Option<KnownPeer>,
}

#[derive(Debug)]
struct Target {
    seed: bool,
    /// Who is there: as the address told us, or else as we heard.
    node: Option<NodeId>,
    mentioned: Time,
    state: State,
}

#[derive(Debug)]
enum State {
    /// A link exists and is not up.
    Dialed { since: Time },
    /// A link is up.
    Linked,
    /// Leads back to us; kept so that it is not dialed again.
    Ourselves,
    /// No link; to be dialed then, unless its node is reached by another address.
    Waiting { dial_at: Time },
}

impl State {
    fn is_dialed(&self) -> bool {
        matches!(self, Self::Dialed { .. } | Self::Linked)
    }

    fn is_linked(&self) -> bool {
        matches!(self, Self::Linked)
    }
}

impl Target {
    fn new(now: Time) -> Self {
        Self { seed: false, node: None, mentioned: now, state: State::Waiting { dial_at: now } }
    }

    /// Whether its node is linked by another address; `linked_up` is in the order of the ids.
    fn is_reached(&self, linked_up: &[NodeId]) -> bool {
        self.node.as_ref().is_some_and(|node| linked_up.binary_search(node).is_ok())
    }

    /// When it is given up; none for a seed and for a link that is up.
    fn forget_at(&self) -> Option<Time> {
        let unlinked_since = match self.state {
            State::Dialed { since } => since,
            State::Ourselves | State::Waiting { .. } => self.mentioned,
            State::Linked => return None,
        };
        (!self.seed).then(|| unlinked_since.max(self.mentioned) + FORGET_AFTER)
    }
}

#[cfg(test)]
mod tests;
