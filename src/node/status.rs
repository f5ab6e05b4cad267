//! What a node can tell about itself: counters, peers, limits.

use std::collections::BTreeMap;

use super::peers::PeerView;
use crate::id::{Incarnation, NodeId};
use crate::protocol::system::Labels;
use crate::transport::{self, Address};

/// Everything a node counted since it started. Every drop is in exactly one of these.
#[derive(Clone, Debug, Default, Eq, PartialEq, serde::Serialize)]
pub struct Counters {
    /// Envelopes received and understood.
    pub received: u64,
    /// Envelopes handed to the transport.
    pub sent: u64,
    /// Received messages that were dropped, by reason.
    pub rejected: BTreeMap<&'static str, u64>,
    /// Envelopes that were lost on the way, seen as holes in a link's numbers.
    pub lost_on_links: u64,
    /// Requests and ticks that arrived after their time was up and were not executed.
    pub expired: u64,
    /// Our requests that were not answered in time.
    pub requests_timed_out: u64,
    /// Our requests in flight to a peer that left.
    pub requests_lost: u64,
    /// Replies that arrived too late or twice.
    pub late_replies: u64,
    /// Replies that came from another peer than the one that was asked.
    pub misrouted_replies: u64,
    /// Replies that were dropped because the requester does not read.
    pub replies_dropped_full: u64,
    /// Ticks that were refused to the caller because the queue was full.
    pub ticks_refused_full: u64,
    /// Answers to strangers, and system messages, that were dropped because a queue was full.
    pub dropped_full: u64,
    /// Messages that could not be sent because the connection was gone.
    pub dropped_not_connected: u64,
    /// Ticks for which no handler is registered.
    pub unhandled_ticks: u64,
    /// Requests refused and ticks dropped because the handlers of their sender are too far behind.
    pub handlers_busy: u64,
    /// Requests refused and ticks dropped because their sender has sent too many in a second.
    pub over_rate: u64,
    /// Handlers that panicked.
    pub handler_panics: u64,
}

impl Counters {
    /// Counts a received message that was dropped.
    pub(crate) fn reject(&mut self, reason: &'static str) {
        *self.rejected.entry(reason).or_insert(0) += 1;
    }
}

/// A node at one moment.
#[derive(Clone, Debug, serde::Serialize)]
pub struct NodeStatus {
    /// The mesh it belongs to.
    pub cluster: String,
    /// Its name.
    pub node: NodeId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// Where peers can dial it, if it listens.
    pub address: Option<Address>,
    /// What it says about itself.
    pub labels: Labels,
    /// Peers that have joined.
    pub peers: Vec<PeerView>,
    /// Its requests that are not answered yet.
    pub in_flight: usize,
    /// Seconds since it started.
    pub uptime_seconds: f64,
    /// Whether links are encrypted.
    pub encrypted: bool,
    /// What it counted.
    pub counters: Counters,
    /// What its transport counted.
    pub transport: transport::Counters,
}
