//! The peer table: who has joined, by which links, and what they said about themselves.
//!
//! The single truth about routing: a peer is routable exactly while it stands here. Pure.

use std::collections::BTreeMap;

use super::event::Direction;
use super::route::{Candidate, Filter};
use crate::id::{Incarnation, NodeId};
use crate::presence::PeerInfo;
use crate::protocol::system::Labels;
use crate::transport::{Address, LinkId, Route, RoutingId};

#[derive(Debug)]
struct Peer {
    upstream: Option<(LinkId, Incarnation)>,
    downstream: Option<(RoutingId, Incarnation)>,
    address: Option<Address>,
    labels: Labels,
    in_flight: usize,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Peers {
    peers: BTreeMap<NodeId, Peer>,
}

/// One peer as it is shown to people and programs.
#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize)]
pub struct PeerView {
    /// Its name.
    pub node: NodeId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// Where it can be dialed, if it listens.
    pub address: Option<Address>,
    /// By which kinds of link it has joined.
    pub directions: Vec<Direction>,
    /// What it says about itself.
    pub labels: Labels,
    /// Our requests that it has not answered.
    pub in_flight: usize,
    /// Messages that wait in our queue to it.
    pub queued: usize,
}

impl Peers {
    pub(crate) fn joined(&mut self, route: Route, info: PeerInfo) {
        let peer = self.peers.entry(info.node).or_insert_with(|| Peer {
            upstream: None,
            downstream: None,
            address: None,
            labels: Labels::new(),
            in_flight: 0,
        });
        match route {
            Route::Downstream(routing_id) => {
                peer.downstream = Some((routing_id, info.incarnation));
            }
            Route::Upstream(link) => peer.upstream = Some((link, info.incarnation)),
        }
        peer.address = info.address.or_else(|| peer.address.take());
        peer.labels = info.labels;
    }

    /// A link has left; returns which life of the peer it belonged to.
    pub(crate) fn left(&mut self, node: &NodeId, route: Route) -> Incarnation {
        let Some(peer) = self.peers.get_mut(node) else { return Incarnation::UNKNOWN };
        let incarnation = match route {
            Route::Downstream(id) => {
                peer.downstream.take_if(|(known, _)| *known == id).map(|l| l.1)
            }
            Route::Upstream(link) => {
                peer.upstream.take_if(|(known, _)| *known == link).map(|l| l.1)
            }
        };
        if peer.upstream.is_none() && peer.downstream.is_none() {
            self.peers.remove(node);
        }
        incarnation.unwrap_or(Incarnation::UNKNOWN)
    }

    /// Stores changed labels; returns whether they differ from the known ones.
    pub(crate) fn relabeled(&mut self, node: &NodeId, labels: &Labels) -> bool {
        let Some(peer) = self.peers.get_mut(node) else { return false };
        let changed = peer.labels != *labels;
        peer.labels.clone_from(labels);
        changed
    }

    /// The peer with this id and the route to it. The link that we dialed is preferred: it has a
    /// queue of its own in the transport.
    pub(crate) fn route(&self, node: &str) -> Option<(&NodeId, Route)> {
        let (node, peer) = self.peers.get_key_value(node)?;
        let upstream = peer.upstream.map(|(link, _)| Route::Upstream(link));
        let downstream = peer.downstream.map(|(id, _)| Route::Downstream(id));
        Some((node, upstream.or(downstream)?))
    }

    /// The incarnation that has joined by this very route.
    pub(crate) fn incarnation(&self, node: &NodeId, route: Route) -> Option<Incarnation> {
        let peer = self.peers.get(node)?;
        match route {
            Route::Downstream(id) => {
                peer.downstream.filter(|(known, _)| *known == id).map(|(_, inc)| inc)
            }
            Route::Upstream(link) => {
                peer.upstream.filter(|(known, _)| *known == link).map(|(_, inc)| inc)
            }
        }
    }

    /// Joined peers that match, in the order of their ids.
    pub(crate) fn matching<'a>(
        &'a self,
        filter: &'a Filter,
    ) -> impl Iterator<Item = Candidate<'a>> {
        let candidates = self.peers.iter().map(|(node, peer)| Candidate {
            node,
            labels: &peer.labels,
            up: peer.upstream.is_some(),
            down: peer.downstream.is_some(),
            in_flight: peer.in_flight,
        });
        candidates.filter(|candidate| filter.accepts(candidate))
    }

    /// One route to every joined peer.
    pub(crate) fn routes(&self) -> Vec<Route> {
        self.peers.keys().filter_map(|node| Some(self.route(node.as_str())?.1)).collect()
    }

    pub(crate) fn request_started(&mut self, node: &NodeId) {
        if let Some(peer) = self.peers.get_mut(node) {
            peer.in_flight += 1;
        }
    }

    pub(crate) fn request_ended(&mut self, node: &NodeId) {
        if let Some(peer) = self.peers.get_mut(node) {
            peer.in_flight = peer.in_flight.saturating_sub(1);
        }
    }

    /// Every joined peer; `queued` tells how much waits on a route.
    pub(crate) fn views(&self, queued: impl Fn(Route) -> usize) -> Vec<PeerView> {
        self.peers.iter().map(|(node, peer)| peer.view(node, &queued)).collect()
    }
}

impl Peer {
    fn view(&self, node: &NodeId, queued: &impl Fn(Route) -> usize) -> PeerView {
        let upstream =
            self.upstream.map(|(link, inc)| (Direction::Upstream, Route::Upstream(link), inc));
        let downstream =
            self.downstream.map(|(id, inc)| (Direction::Downstream, Route::Downstream(id), inc));
        let links: Vec<_> = upstream.into_iter().chain(downstream).collect();
        PeerView {
            node: node.clone(),
            incarnation: links.first().map_or(Incarnation::UNKNOWN, |link| link.2),
            address: self.address.clone(),
            directions: links.iter().map(|link| link.0).collect(),
            labels: self.labels.clone(),
            in_flight: self.in_flight,
            queued: links.iter().map(|link| queued(link.1)).sum(),
        }
    }
}
