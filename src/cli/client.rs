//! A node of its own for the time of one command: it listens nowhere, dials the addresses of
//! `--connect`, and finds the rest of the mesh through gossip.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use zmesh::client::ClientEvent;
use zmesh::keys::read_key_pair;
use zmesh::route::Filter;
use zmesh::status::{AskError, Status};
use zmesh::transport::Kind;
use zmesh::trust::{NotDialed, NotDialedReason};
use zmesh::{
    Address, Clock, Direction, Effect, ErrorCode, Event, Events, Node, NodeId, RequestError,
    StartError, Time, status,
};

use super::failure::{Exit, Failure};
use super::{Access, Connect};

/// The longest wait for nodes that are known and perhaps not to be reached.
const SETTLE_MAX: Duration = Duration::from_secs(5);

/// The mesh as one command sees it, until its time is up.
#[derive(Debug)]
pub(super) struct Client {
    /// The node of the command.
    pub(super) node: Node,
    /// The first node that answered.
    pub(super) peer: NodeId,
    timeout: Duration,
    clock: Clock,
    deadline: Time,
}

impl Client {
    /// Starts a node and waits until the first of the addresses has answered.
    pub(super) async fn connect(connect: &Connect) -> Result<Self, Failure> {
        let timeout = connect.timeout.0;
        let clock = Clock::start();
        let deadline = clock.now() + timeout;
        let node = start(&connect.cluster, &connect.connect, &connect.access)?;
        let first = first_peer(&node, connect);
        match tokio::time::timeout(timeout, first).await {
            Ok(Ok(peer)) => Ok(Self { node, peer, timeout, clock, deadline }),
            Ok(Err(failure)) => {
                node.stop().await;
                Err(failure)
            }
            Err(_) => {
                node.stop().await;
                Err(nobody(connect))
            }
        }
    }

    /// What is left of the time of the command.
    pub(super) fn time_left(&self) -> Duration {
        self.deadline.saturating_since(self.clock.now())
    }

    /// The time of the whole command.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Waits until a node has joined; it may have to be found through others.
    pub(super) async fn joined(&self, id: &NodeId) -> Result<(), Failure> {
        match joins(&self.node, id, self.time_left()).await {
            true => Ok(()),
            false => Err(self.absent(&format!("node {id} is not in the mesh"))),
        }
    }

    /// Waits until at least one node matches; returns all that do.
    pub(super) async fn matching(&self, filter: &Filter) -> Result<Vec<NodeId>, Failure> {
        let wait = self.node.wait_for_peers(filter, 1, self.time_left());
        wait.await.map_err(|_| self.absent(&format!("no node matches {filter}")))
    }

    /// Waits until every node that the first one knows has joined, or half of the time is gone, but
    /// not for long.
    pub(super) async fn settle(&self) {
        let half = (self.time_left() / 2).min(SETTLE_MAX);
        let settled = async {
            // A node that does not tell is one whose peers come by gossip alone.
            let Ok(status) = status::ask(&self.node, &self.peer, half).await else { return };
            for peer in status.peers.iter().filter(|peer| peer.address.is_some()) {
                joins(&self.node, &peer.node, half).await;
            }
        };
        drop(tokio::time::timeout(half, settled).await);
    }

    /// Somebody was not found in time: says who is there instead.
    fn absent(&self, what: &str) -> Failure {
        let there = self.node.peers().into_iter().map(|peer| peer.node.to_string());
        let there: Vec<_> = there.collect();
        let message = format!("{what}; joined within {:?}: {}", self.timeout, there.join(", "));
        Failure::new(Exit::Unreachable, message)
            .next("see `zmesh peers` for names and labels; --timeout waits longer")
    }

    /// Says goodbye, so that nobody takes the command for a dead node.
    pub(super) async fn close(self) {
        self.node.stop().await;
    }
}

/// Starts a node that listens nowhere and dials `addresses`.
pub(super) fn start(
    cluster: &str,
    addresses: &[Address],
    access: &Access,
) -> Result<Node, Failure> {
    start_over(Kind::default(), cluster, addresses, access)
}

/// As [`start`], over a transport.
pub(super) fn start_over(
    transport: Kind,
    cluster: &str,
    addresses: &[Address],
    access: &Access,
) -> Result<Node, Failure> {
    let random = uuid::Uuid::new_v4().simple().to_string();
    let builder = Node::builder(format!("cli-{}", &random[..16])).cluster(cluster);
    let builder = builder.transport_kind(transport).insecure(access.insecure);
    let builder = match &access.key_file {
        Some(file) => builder.keys(read_key_pair(file)?),
        None => builder,
    };
    let builder = addresses.iter().fold(builder, |builder, address| builder.connect(address));
    builder.start().map_err(|error| {
        let failure = Failure::from_error(Exit::Usage, &error);
        let StartError::NotDialed(NotDialed { reason, .. }) = error else { return failure };
        failure.next(match reason == NotDialedReason::NoKeys {
            true => "give yours: --key-file FILE (`zmesh key new` makes one)",
            false => "its key is what `zmesh key show` prints there; or --insecure",
        })
    })
}

/// The first node that answers at one of the addresses. Fails before the time is up when all of
/// them have refused.
async fn first_peer(node: &Node, connect: &Connect) -> Result<NodeId, Failure> {
    let mut events = node.events();
    let mut refusals = BTreeMap::new();
    while let Some(event) = next(&mut events).await {
        if let Event::PeerJoined { peer, direction: Direction::Upstream } = event {
            return Ok(peer.node);
        }
        let Event::Client { address, event } = event else { continue };
        let reason = if let ClientEvent::Refused { reason } = event {
            Some(reason.to_string())
        } else if let ClientEvent::Closed { reason } = event {
            Some(reason)
        } else {
            None
        };
        if let Some(reason) = reason {
            refusals.insert(address, reason);
            let addresses: BTreeSet<_> = connect.connect.iter().collect();
            if refusals.len() == addresses.len() {
                return Err(refused(&refusals, connect));
            }
        }
    }
    Err(nobody(connect))
}

/// The next event; a gap does not matter to somebody who waits for any of many.
async fn next(events: &mut Events) -> Option<Event> {
    loop {
        match events.next().await {
            Ok(event) => return event,
            Err(_missed) => {}
        }
    }
}

fn refused(refusals: &BTreeMap<Address, String>, connect: &Connect) -> Failure {
    let each = refusals.iter().map(|(address, reason)| format!("{address} refused: {reason}"));
    let message = each.collect::<Vec<_>>().join("; ");
    let next = match connect.access.key_file.is_some() {
        true => {
            "after # stands what `zmesh key show` prints there, and `zmesh key allow` lets yours in"
        }
        false => {
            "name the mesh with --cluster, and its keys, if it has any: HOST:PORT#KEY, --key-file"
        }
    };
    Failure::new(Exit::Refused, message).next(next)
}

fn nobody(connect: &Connect) -> Failure {
    let addresses: Vec<_> = connect.connect.iter().map(ToString::to_string).collect();
    let message =
        format!("nobody answered at {} within {}", addresses.join(" or "), connect.timeout);
    Failure::new(Exit::Unreachable, message)
        .next("start a node (zmesh serve), or say where one is: --connect ADDRESS")
}

/// Waits until a node has joined, and says whether it has.
pub(super) async fn joins(node: &Node, id: &NodeId, within: Duration) -> bool {
    let wanted = id.clone();
    let filter = Filter::predicate(move |candidate| *candidate.node == wanted);
    node.wait_for_peers(&filter, 1, within).await.is_ok()
}

/// Asks several nodes for their status, side by side. Those that do not answer are left out.
pub(super) async fn survey(
    node: &Node,
    ids: impl IntoIterator<Item = NodeId>,
    within: Duration,
) -> BTreeMap<NodeId, Status> {
    let mut asked = tokio::task::JoinSet::new();
    for id in ids {
        let node = node.clone();
        asked.spawn(async move {
            let answer = async {
                let joined = joins(&node, &id, within).await;
                if joined { status::ask(&node, &id, within).await.ok() } else { None }
            };
            let status = tokio::time::timeout(within, answer).await.ok().flatten();
            status.map(|status| (id, status))
        });
    }
    let mut found = BTreeMap::new();
    while let Some(answer) = asked.join_next().await {
        found.extend(answer.ok().flatten());
    }
    found
}

/// Of these nodes the one that leads, and its term: of several that say so, the one with the
/// highest term.
pub(super) fn leader(statuses: &BTreeMap<NodeId, Status>) -> Option<(NodeId, u64)> {
    let leaders = statuses.iter().filter_map(|(id, status)| Some((status.leads_in()?, id)));
    leaders.max().map(|(term, id)| (id.clone(), term))
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        let (code, effect) = (error.code(), error.effect());
        if let RequestError::Handler { peer, message, .. } = error {
            // The code goes before the message anyway.
            let failure = Self::coded(Exit::of(code, effect), code, format!("{peer}: {message}"));
            return match code == ErrorCode::NoHandler {
                true => {
                    failure.next("check the subject, or name a node that handles it: --to NAME")
                }
                false => failure,
            };
        }
        Self::from_code(code, effect, &error)
    }
}

impl From<AskError> for Failure {
    fn from(error: AskError) -> Self {
        let AskError::Request(request) = &error else {
            return Self::from_error(Exit::Refused, &error);
        };
        if let RequestError::Handler { code: ErrorCode::NoHandler, peer, .. } = request {
            return Self::new(Exit::Refused, format!("{peer} does not tell its status"))
                .next("ask a node that runs `zmesh serve`");
        }
        Self::from_code(request.code(), Effect::None, request)
    }
}
