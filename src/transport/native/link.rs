//! A dialed link between its connections: when it tries again, and under which name.
//!
//! Shell: dials and waits. Invariant: each attempt has a routing id of its own.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::curve::{Broken, Curve};
use super::socket::Stream;
use crate::keys::{KeyPair, PublicKey};
use crate::transport::{Address, RoutingId};

/// How long resolving and connecting may take.
const CONNECT: Duration = Duration::from_secs(3);
/// The first wait before dialing again.
const RECONNECT_MS: u64 = 100;
/// The longest wait before dialing again.
const RECONNECT_MAX_MS: u64 = 5_000;

type Dialing = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

/// See the [module](self).
pub(super) struct Link {
    /// Its connection, if it has one.
    pub(super) connection: Option<u64>,
    address: Address,
    /// Our keys, and that of who is to be there.
    keys: Option<(KeyPair, PublicKey)>,
    routing_id: RoutingId,
    attempts: u16,
    failures: u32,
    /// Connections in a row that came to nothing.
    turned_away: u32,
    jitter: fastrand::Rng,
    dialing: Option<Dialing>,
    waker: Waker,
}

impl Link {
    /// A link that is being dialed.
    pub(super) fn new(
        address: &Address,
        keys: Option<(KeyPair, PublicKey)>,
        routing_id: RoutingId,
        waker: Waker,
    ) -> Self {
        let seed = routing_id
            .0
            .iter()
            .fold(0, |seed: u64, byte| seed.wrapping_mul(0x100_0000_01b3) ^ u64::from(*byte));
        let mut link = Self {
            connection: None,
            address: address.clone(),
            keys,
            routing_id,
            attempts: 0,
            failures: 0,
            turned_away: 0,
            jitter: fastrand::Rng::with_seed(seed),
            dialing: None,
            waker,
        };
        link.dial(Duration::ZERO);
        link
    }

    fn dial(&mut self, wait: Duration) {
        let address = self.address.clone();
        self.dialing = Some(Box::pin(async move {
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            tokio::time::timeout(CONNECT, Stream::connect(&address)).await?
        }));
    }

    /// What encrypts the next connection; none if it is in clear text.
    pub(super) fn curve(&self) -> Result<Option<Curve>, Broken> {
        let keys = self.keys.as_ref();
        keys.map(|(ours, theirs)| Curve::client(ours.clone(), *theirs)).transpose()
    }

    /// A connected socket and the name to announce on it; `None` while there is nothing to do
    /// until the waker is woken.
    pub(super) fn poll(&mut self) -> Option<(Stream, RoutingId)> {
        loop {
            let dialing = self.dialing.as_mut()?;
            match dialing.as_mut().poll(&mut Context::from_waker(&self.waker)) {
                Poll::Pending => return None,
                Poll::Ready(Ok(stream)) => {
                    self.dialing = None;
                    let name = match self.attempts {
                        0 => self.routing_id,
                        number => self.routing_id.for_connection(number),
                    };
                    self.attempts = self.attempts.wrapping_add(1);
                    return Some((stream, name));
                }
                Poll::Ready(Err(error)) => {
                    tracing::debug!(address = %self.address, %error, "cannot connect; trying again");
                    self.lost(false);
                }
            }
        }
    }

    /// Counts the connections in a row that came to nothing, this one included unless it was
    /// `established`.
    pub(super) fn turned_away(&mut self, established: bool) -> u32 {
        self.turned_away = if established { 0 } else { self.turned_away.saturating_add(1) };
        self.turned_away
    }

    /// Dials again, at once or later; `was_good` forgets earlier failures.
    pub(super) fn lost(&mut self, was_good: bool) {
        self.connection = None;
        self.failures = if was_good { 0 } else { self.failures.saturating_add(1) };
        let longest = RECONNECT_MAX_MS.min(RECONNECT_MS << self.failures.saturating_sub(1).min(16));
        // Between half of it and all of it, so that peers do not come back all at once.
        let wait = self.jitter.u64(longest / 2..=longest);
        self.dial(Duration::from_millis(wait));
    }
}
