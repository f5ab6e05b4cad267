//! What a node makes of the keys of others: who they may say they are, and what they may do.

use std::sync::Arc;

use super::{Core, Output};
use crate::client;
use crate::discovery;
use crate::id::NodeId;
use crate::keys::{AllowList, PublicKey, Role};
use crate::protocol::system::{Labels, Refusal, RefuseReason, System};
use crate::server;
use crate::timer::Time;
use crate::transport::{Route, RoutingId};
use crate::trust::Trust;

/// A greeting under a name that is not that of the key.
#[derive(Clone, Debug, thiserror::Error)]
#[error("key {key:?} may not be {node}")]
struct Misnamed {
    key: Option<PublicKey>,
    node: NodeId,
}

/// A message on a route by a key that is not, or no longer, the one that belongs there.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("a key that is not allowed here")]
pub(super) struct ForeignKey;

impl<T> Core<T> {
    /// Lets in those on this list and nobody else, those included who have joined.
    pub(crate) fn allow(&mut self, now: Time, list: Arc<AllowList>) {
        if self.stopped || !matches!(self.settings.trust, Trust::Listed(_)) {
            return;
        }
        self.settings.trust = Trust::Listed(Arc::clone(&list));
        self.outputs.push_back(Output::Allow(list));
        self.discovery.handle(now, discovery::Input::Trust(self.settings.trust.clone()));
        self.drain_discovery(now);
        for (route, node) in self.misnamed() {
            self.refuse(now, route, node);
        }
    }

    /// Peers that have joined and could not join any more.
    fn misnamed(&self) -> Vec<(Route, NodeId)> {
        let down = self.keys.keys().map(|route| Route::Downstream(*route));
        let routes = down.chain(self.clients.keys().map(|link| Route::Upstream(*link)));
        let named = routes.filter_map(|route| Some((route, self.links.peek(route)?.peer.clone()?)));
        let trust = &self.settings.trust;
        named.filter(|(route, node)| !trust.may_be(self.key(*route).as_ref(), node)).collect()
    }

    fn refuse(&mut self, now: Time, route: Route, node: NodeId) {
        let reason = RefuseReason::Key;
        match route {
            Route::Downstream(route) => {
                self.server.handle(now, server::Input::Refused { route, node, reason });
                self.drain_server(now);
            }
            // As if it had refused us: the link rests for a while.
            Route::Upstream(link) => {
                let refusal = System::Refuse(Refusal { reason });
                self.client_input(now, link, client::Input::System(refusal));
            }
        }
    }

    /// The key of who is at the other end.
    fn key(&self, route: Route) -> Option<PublicKey> {
        match route {
            Route::Downstream(route) => self.keys.get(&route).copied(),
            Route::Upstream(link) => self.clients.get(&link)?.address.key(),
        }
    }

    /// What who is at the other end may do.
    pub(super) fn role(&self, route: Route) -> Role {
        match &self.settings.trust {
            Trust::Open { .. } | Trust::Told => Role::Peer,
            trust @ Trust::Listed(_) => trust.role(self.key(route).as_ref()),
        }
    }

    /// Whether a message of this key may come by this route.
    pub(super) fn check_sender(
        &self,
        route: Route,
        sender: Option<PublicKey>,
    ) -> Result<(), ForeignKey> {
        let (Trust::Listed(list), Route::Downstream(route)) = (&self.settings.trust, route) else {
            return Ok(());
        };
        let key = sender.ok_or(ForeignKey)?;
        // Routing ids are the dialer's choice: one that another key has joined by is no way in.
        let joined = self.keys.get(&route);
        let known = joined.is_some_and(|joined| *joined == key);
        match known || joined.is_none() && list.role(&key) > Role::Revoked {
            true => Ok(()),
            false => Err(ForeignKey),
        }
    }

    /// What is left of a system message once its sender's standing is known.
    pub(super) fn within_standing(
        &mut self,
        now: Time,
        route: Route,
        sender: Option<PublicKey>,
        message: System,
    ) -> Option<System> {
        if !matches!(self.settings.trust, Trust::Listed(_)) {
            return Some(message);
        }
        let key = sender.or_else(|| self.key(route));
        let is_peer = self.settings.trust.role(key.as_ref()) == Role::Peer;
        match message {
            System::Hello(greeting) | System::Welcome(greeting)
                if !self.settings.trust.may_be(key.as_ref(), &greeting.node) =>
            {
                self.counters.reject("misnamed");
                let node = greeting.node.clone();
                self.refuse_log.note(now, route, &Misnamed { key, node });
                self.refuse(now, route, greeting.node);
                None
            }
            System::Hello(mut greeting) => {
                if let (Route::Downstream(route), Some(key)) = (route, key) {
                    self.keys.insert(route, key);
                }
                drop_system_labels(is_peer, &mut greeting.labels);
                Some(System::Hello(greeting))
            }
            System::Labels(mut update) => {
                drop_system_labels(is_peer, &mut update.labels);
                Some(System::Labels(update))
            }
            // Where others are is for peers to say.
            System::Peers(_) if !is_peer => None,
            System::Goodbye
            | System::HelloAgain
            | System::Peers(_)
            | System::Ping(_)
            | System::Pong(_)
            | System::Refuse(_)
            | System::Welcome(_) => Some(message),
        }
    }

    /// Keeps the key of a route only while somebody is joined by it.
    pub(super) fn forget_stranger(&mut self, route: RoutingId) {
        if self.joined_as(Route::Downstream(route)).is_none() {
            self.keys.remove(&route);
        }
    }
}

/// Labels of the system say who has a replica and who leads it.
fn drop_system_labels(is_peer: bool, labels: &mut Labels) {
    if !is_peer {
        labels.retain(|name, _| !name.starts_with('_'));
    }
}
