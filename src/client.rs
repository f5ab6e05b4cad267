//! Client side of a link: greets the server we dialed, keeps proving that we live, notices its end.
//!
//! A connected socket says nothing about who is on the other side, so a link is up only between the
//! server's [`System::Welcome`] and whichever comes first of goodbye, silence, a lost connection or
//! a refusal. A lost link comes back by itself: the transport reconnects, and every reconnect is a
//! new handshake.
//!
//! ```text
//! Down --Ready--> Greeting --Welcome--> Joined        Closed, GiveUp, Stop --> Ended
//!   ^---NotReady-----'  ^--Goodbye, ghost, refusal--'
//! ```
//!
//! Pure: time enters as `now`, effects leave through [`Client::poll_output`].
//! Invariants: `Joined` and `Left` outputs alternate, starting with `Joined`, and
//! [`Client::server`] is some exactly between them. After `Ended` nothing is output any more.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::id::NodeId;
use crate::presence::{Heartbeat, Identity, LeaveReason, PeerInfo, labels_within_limits};
use crate::protocol::system::{Greeting, KnownPeers, LabelsUpdate, Ping, RefuseReason, System};
use crate::timer::Time;

/// Longest wait before a greeting that got no answer is repeated.
const GREETING_WAIT_MAX: Duration = Duration::from_secs(10);
/// Wait after a refusal that only time or an operator can change, and after a goodbye.
const REFUSED_WAIT: Duration = Duration::from_secs(30);
/// Doublings after which the wait between greetings is at its limit for any setting.
const DOUBLINGS_MAX: u32 = 16;

/// One link that we dialed. See the [module](self).
#[derive(Debug)]
pub struct Client {
    identity: Arc<Identity>,
    heartbeat: Heartbeat,
    rng: fastrand::Rng,
    phase: Phase,
    /// Handshakes in a row that got no answer.
    unanswered: u32,
    /// Counts the pings of this link.
    pings: u64,
    /// When and with which identity we greeted last.
    greeted: Option<(Time, Arc<Identity>)>,
    outputs: VecDeque<Output>,
}

impl Client {
    /// A client whose transport has not connected yet. The generator spreads retries.
    pub fn new(identity: Arc<Identity>, heartbeat: Heartbeat, rng: fastrand::Rng) -> Self {
        Self {
            identity,
            heartbeat,
            rng,
            phase: Phase::Down,
            unanswered: 0,
            pings: 0,
            greeted: None,
            outputs: VecDeque::new(),
        }
    }

    /// Takes one input; what follows from it is read with [`Self::poll_output`].
    ///
    /// [`Input::Timeout`] may come at any time; it does what is due and nothing else. Hand over
    /// messages that have arrived before it, or a pause of our own looks like silence of the peer.
    pub fn handle(&mut self, now: Time, input: Input) {
        match (&self.phase, input) {
            (Phase::Ended, _) => {}
            (_, Input::Alive) => self.alive(now),
            (_, Input::Closed { reason }) => {
                self.event(ClientEvent::Closed { reason });
                self.leave(LeaveReason::Closed);
                self.phase = Phase::Ended;
            }
            (_, Input::Identity(identity)) => {
                self.identity = identity;
                self.send_news(now);
            }
            (_, Input::NotReady) => {
                self.event(ClientEvent::NotReady);
                self.leave(LeaveReason::ConnectionLost);
                self.phase = Phase::Down;
            }
            (_, Input::Ready) => {
                self.leave(LeaveReason::ConnectionLost);
                self.event(ClientEvent::Ready);
                self.greet_after(now, Duration::ZERO);
                self.timeout(now);
            }
            (_, Input::Stop) => self.stop(),
            // Contract 4 of the transport: nothing sent before a loss arrives after it.
            (Phase::Down, Input::System(_)) => {}
            (Phase::Greeting { .. } | Phase::Joined(_), Input::System(message)) => {
                self.system(now, message);
            }
            (_, Input::Timeout) => self.timeout(now),
        }
    }

    /// The next effect, in the order in which they are to happen.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Timeout`] is due; none while only the outside can change anything.
    pub fn poll_timeout(&self) -> Option<Time> {
        match &self.phase {
            Phase::Down | Phase::Ended => None,
            Phase::Greeting { hello_at, timeout_at } => Some(*hello_at.min(timeout_at)),
            Phase::Joined(joined) => Some(joined.ping_at.min(joined.ghost_at)),
        }
    }

    /// The server, while it is joined. Envelopes of another incarnation are not from it.
    pub fn server(&self) -> Option<&PeerInfo> {
        match &self.phase {
            Phase::Joined(joined) => Some(&joined.server),
            Phase::Down | Phase::Ended | Phase::Greeting { .. } => None,
        }
    }

    /// Whether the link has ended for good: closed, given up or stopped.
    pub fn is_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended)
    }

    fn system(&mut self, now: Time, message: System) {
        match message {
            System::Goodbye => {
                self.leave(LeaveReason::Goodbye);
                // The connection breaks next. If it does not, the server may serve again one day.
                self.greet_after(now, REFUSED_WAIT);
            }
            System::HelloAgain => self.hello_again(now),
            System::Labels(update) => self.labels(now, update),
            System::Peers(known) => {
                if self.server().is_some() {
                    self.alive(now);
                    self.outputs.push_back(Output::Peers(known));
                }
            }
            System::Pong(pong) => {
                self.alive(now);
                self.compare_revision(now, pong.revision);
            }
            System::Refuse(refusal) => self.refused(now, refusal.reason),
            System::Welcome(greeting) => self.welcome(now, greeting),
            // What only a client says; from a server it means nothing.
            System::Hello(_) | System::Ping(_) => {}
        }
    }

    fn welcome(&mut self, now: Time, greeting: Greeting) {
        if let Err(reason) = self.identity.admits(&greeting) {
            // The server counts us as joined; it should not wait for the ghost timeout.
            self.send(System::Goodbye);
            self.refused(now, reason);
            return;
        }
        let revision = greeting.revision;
        let server = PeerInfo::from(greeting);
        match &mut self.phase {
            Phase::Joined(joined) if same_life(&joined.server, &server) => {
                joined.ghost_at = now + self.heartbeat.ghost_timeout;
                joined.revision = revision;
                if joined.server != server {
                    joined.server = server.clone();
                    self.labels_changed(server);
                }
            }
            Phase::Down | Phase::Ended | Phase::Greeting { .. } | Phase::Joined(_) => {
                self.leave(LeaveReason::Superseded);
                self.join(now, server, revision);
            }
        }
        self.send_news(now);
    }

    /// Stores the server and starts the pings before anybody hears of it.
    fn join(&mut self, now: Time, server: PeerInfo, revision: u64) {
        self.unanswered = 0;
        self.phase = Phase::Joined(Joined {
            server: server.clone(),
            revision,
            ping_at: now + self.heartbeat.ping_interval,
            ghost_at: now + self.heartbeat.ghost_timeout,
        });
        let node = server.node.clone();
        self.outputs.push_back(Output::Joined(server));
        self.event(ClientEvent::ServerJoined { node });
    }

    /// Reports the end of the link if it was up. The caller sets the next phase.
    fn leave(&mut self, reason: LeaveReason) {
        if !matches!(self.phase, Phase::Joined(_)) {
            return;
        }
        if let Phase::Joined(joined) = std::mem::replace(&mut self.phase, Phase::Down) {
            self.outputs.push_back(Output::Left(reason));
            self.event(ClientEvent::ServerLeft { node: joined.server.node, reason });
        }
    }

    fn refused(&mut self, now: Time, reason: RefuseReason) {
        self.event(ClientEvent::Refused { reason });
        self.leave(LeaveReason::Refused);
        match retry_wait(reason, &self.heartbeat) {
            Some(wait) => {
                let wait = jittered(&mut self.rng, wait);
                self.greet_after(now, wait);
            }
            None => {
                self.phase = Phase::Ended;
                self.outputs.push_back(Output::GiveUp(reason));
            }
        }
    }

    /// The server lost track of us, or we of it. We stay joined, since it is the same server until
    /// its welcome says otherwise; this is no sign of life, or a server that never welcomes us would
    /// stay too.
    fn hello_again(&mut self, now: Time) {
        let recently = |at: Time| now.saturating_since(at) < self.heartbeat.ping_interval / 2;
        if self.server().is_some() && !self.greeted.as_ref().is_some_and(|(at, _)| recently(*at)) {
            self.hello(now);
        }
    }

    /// An update of the server's labels that was lost comes with its next welcome.
    fn compare_revision(&mut self, now: Time, revision: u64) {
        let is_behind = |joined: &Joined| joined.revision < revision;
        if matches!(&self.phase, Phase::Joined(joined) if is_behind(joined)) {
            self.hello_again(now);
        }
    }

    fn labels(&mut self, now: Time, update: LabelsUpdate) {
        self.alive(now);
        let Phase::Joined(joined) = &mut self.phase else { return };
        if update.revision <= joined.revision || !labels_within_limits(&update.labels) {
            return;
        }
        joined.revision = update.revision;
        if joined.server.labels != update.labels {
            joined.server.labels = update.labels;
            let server = joined.server.clone();
            self.labels_changed(server);
        }
    }

    fn labels_changed(&mut self, server: PeerInfo) {
        let node = server.node.clone();
        self.outputs.push_back(Output::Labels(server));
        self.event(ClientEvent::ServerLabels { node });
    }

    /// Tells a joined server what changed since our last words about ourselves. Only a greeting
    /// carries an address; a second one is harmless.
    fn send_news(&mut self, now: Time) {
        let Phase::Joined(_) = self.phase else { return };
        let Some((_, told)) = &mut self.greeted else { return };
        if told.address != self.identity.address {
            self.hello(now);
        } else if told.revision < self.identity.revision {
            *told = Arc::clone(&self.identity);
            let update = self.identity.labels_update();
            self.send(System::Labels(update));
        }
    }

    fn stop(&mut self) {
        if !matches!(self.phase, Phase::Down) {
            self.send(System::Goodbye);
        }
        self.leave(LeaveReason::Stopped);
        self.phase = Phase::Ended;
    }

    fn alive(&mut self, now: Time) {
        if let Phase::Joined(joined) = &mut self.phase {
            joined.ghost_at = joined.ghost_at.max(now + self.heartbeat.ghost_timeout);
        }
    }

    fn timeout(&mut self, now: Time) {
        match &self.phase {
            Phase::Down | Phase::Ended => {}
            Phase::Greeting { hello_at, timeout_at } => {
                let (hello_at, timeout_at) = (*hello_at, *timeout_at);
                if now >= timeout_at {
                    self.handshake_timed_out(now);
                } else if now >= hello_at {
                    self.hello(now);
                    let hello_at = now + self.heartbeat.ping_interval;
                    self.phase = Phase::Greeting { hello_at, timeout_at };
                }
            }
            Phase::Joined(_) => self.ping_or_bury(now),
        }
    }

    fn ping_or_bury(&mut self, now: Time) {
        let Phase::Joined(joined) = &mut self.phase else { return };
        let due = joined.ping_at.min(joined.ghost_at);
        if now.saturating_since(due) > self.heartbeat.ping_interval {
            // We were away ourselves, so the silence proves nothing: ask once more.
            joined.ghost_at = joined.ghost_at.max(now + self.heartbeat.ping_interval);
        }
        if now >= joined.ghost_at {
            self.leave(LeaveReason::Ghost);
            self.greet_after(now, Duration::ZERO);
            self.timeout(now);
        } else if now >= joined.ping_at {
            joined.ping_at = now + self.heartbeat.ping_interval;
            self.pings += 1;
            let (number, revision) = (self.pings, self.identity.revision);
            self.send(System::Ping(Ping { number, revision }));
        }
    }

    fn handshake_timed_out(&mut self, now: Time) {
        self.event(ClientEvent::HandshakeTimeout);
        let doubled = 1_u32 << self.unanswered.min(DOUBLINGS_MAX);
        self.unanswered = self.unanswered.saturating_add(1);
        let wait = self.heartbeat.ping_interval.saturating_mul(doubled).min(GREETING_WAIT_MAX);
        let wait = jittered(&mut self.rng, wait);
        self.greet_after(now, wait);
    }

    fn greet_after(&mut self, now: Time, wait: Duration) {
        let hello_at = now + wait;
        let timeout_at = hello_at + self.heartbeat.handshake_timeout;
        self.phase = Phase::Greeting { hello_at, timeout_at };
    }

    fn hello(&mut self, now: Time) {
        self.greeted = Some((now, Arc::clone(&self.identity)));
        let greeting = self.identity.greeting();
        self.send(System::Hello(greeting));
    }

    fn send(&mut self, message: System) {
        self.outputs.push_back(Output::Send(message));
    }

    fn event(&mut self, event: ClientEvent) {
        self.outputs.push_back(Output::Event(event));
    }
}

/// What a client reacts to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Input {
    /// A valid envelope of the joined server arrived that is no system message.
    Alive,
    /// The transport gave the link up.
    Closed {
        /// Why, for people.
        reason: String,
    },
    /// Our labels or our address changed.
    Identity(Arc<Identity>),
    /// The connection broke; the transport is dialing again.
    NotReady,
    /// The connection is there.
    Ready,
    /// We leave this server.
    Stop,
    /// A system message arrived on this link.
    System(System),
    /// The time of [`Client::poll_timeout`] has come.
    Timeout,
}

/// What a client wants done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Output {
    /// Something that observers want to know; nothing has to be done.
    Event(ClientEvent),
    /// The refusal is final: hang up, and do not dial this address again without need.
    GiveUp(RefuseReason),
    /// The server is routable from here on.
    Joined(PeerInfo),
    /// The server announced other labels or another address.
    Labels(PeerInfo),
    /// The server is not routable from here on; requests in flight to it have failed.
    Left(LeaveReason),
    /// The server told whom it knows.
    Peers(KnownPeers),
    /// Send this on the link. If the transport does not take it, drop it: what matters is repeated.
    Send(System),
}

/// What happens to a link, for observers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ClientEvent {
    /// The transport gave the link up.
    Closed {
        /// Why, for people.
        reason: String,
    },
    /// A greeting got no answer in time; it is repeated.
    HandshakeTimeout,
    /// The connection broke; pings have stopped.
    NotReady,
    /// The connection is there; the handshake begins.
    Ready,
    /// The server refused us, or we refused it.
    Refused {
        /// Why.
        reason: RefuseReason,
    },
    /// The handshake is complete.
    ServerJoined {
        /// The server.
        node: NodeId,
    },
    /// The server announced other labels.
    ServerLabels {
        /// The server.
        node: NodeId,
    },
    /// The link is down.
    ServerLeft {
        /// The server.
        node: NodeId,
        /// Why.
        reason: LeaveReason,
    },
}

#[derive(Debug)]
enum Phase {
    /// No connection.
    Down,
    /// Over for good.
    Ended,
    /// Connected, not acknowledged. The next greeting and the report of failure are due then.
    Greeting { hello_at: Time, timeout_at: Time },
    /// The link is up.
    Joined(Joined),
}

#[derive(Debug)]
struct Joined {
    server: PeerInfo,
    /// Of the server's last labels update in this life; 0 after a welcome.
    revision: u64,
    ping_at: Time,
    /// When the server is a ghost unless it is heard before.
    ghost_at: Time,
}

fn same_life(a: &PeerInfo, b: &PeerInfo) -> bool {
    a.node == b.node && a.incarnation == b.incarnation
}

/// How long to wait before greeting again after a refusal; none if it is final.
fn retry_wait(reason: RefuseReason, heartbeat: &Heartbeat) -> Option<Duration> {
    match reason {
        // Most often our own former life, which the server buries after a ping and a half.
        RefuseReason::DuplicateId => Some(heartbeat.ping_interval.min(REFUSED_WAIT)),
        RefuseReason::Application
        | RefuseReason::Capacity
        | RefuseReason::Key
        | RefuseReason::Stale
        | RefuseReason::Stopping => Some(REFUSED_WAIT),
        RefuseReason::Cluster
        | RefuseReason::Itself
        | RefuseReason::Malformed
        | RefuseReason::Version => None,
    }
}

/// Between half of `wait` and all of it, so that many clients do not return in step.
fn jittered(rng: &mut fastrand::Rng, wait: Duration) -> Duration {
    wait.mul_f64(0.5 + rng.f64() / 2.0)
}

#[cfg(test)]
mod tests;
