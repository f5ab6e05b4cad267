//! All clients of a simulated world, each a node of its own, on one runtime.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::task::JoinHandle;
use zmesh::replica::{AckLevel, SyncMode};
use zmesh::transport::memory::Station;
use zmesh::{Node, Time};

use crate::computer::{Clockwork, Site, wire};
use crate::desk::{CLIENTS, Desk};

/// All clients, on one runtime.
pub(crate) struct Clients {
    clockwork: Clockwork,
    pub(crate) nodes: Vec<Node>,
    pub(crate) stations: Vec<Station>,
    /// Those that end when they are told to, and those that go on to the end.
    writers: Vec<JoinHandle<()>>,
    readers: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Clients {
    pub(crate) fn new(now: Time, site: &Site, rng: &mut fastrand::Rng) -> Self {
        let clockwork = Clockwork::new(now, 1.0);
        let wires: Vec<_> =
            (0..CLIENTS).map(|number| wire(site, &format!("c{number}"), rng)).collect();
        let stations = wires.iter().map(|wire| wire.inner.station()).collect();
        let nodes: Vec<Node> = clockwork
            .enter(|| wires.into_iter().map(|wire| node(site, wire, rng.u64(..))).collect());
        let (stop, values) = (Arc::<AtomicBool>::default(), Arc::new(AtomicU64::new(1)));
        let mut clients =
            Self { clockwork, nodes, stations, writers: vec![], readers: vec![], stop };
        for client in 0..CLIENTS {
            let desk = Desk {
                client,
                node: clients.nodes[client].clone(),
                oracle: site.oracle.clone(),
                rng: rng.fork(),
                stop: Arc::clone(&clients.stop),
                mutant: site.plan.mutant,
                level: match site.plan.sync {
                    SyncMode::Always => AckLevel::Quorum,
                    SyncMode::Interval(_) | SyncMode::Never => AckLevel::QuorumUnsynced,
                },
                echoing: site.members.iter().map(ToString::to_string).collect(),
                values: Arc::clone(&values),
            };
            let (writers, readers) = desk.tasks(rng);
            clients.writers.extend(writers.into_iter().map(|task| clients.clockwork.spawn(task)));
            clients.readers.extend(readers.into_iter().map(|task| clients.clockwork.spawn(task)));
        }
        clients
    }

    pub(crate) fn run(&self, now: Time) {
        self.clockwork.run(now);
    }

    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.clockwork.spawn(future)
    }

    /// Nothing new is begun from here on.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(crate) fn are_done(&self) -> bool {
        self.writers.is_empty()
    }

    /// Whether a task has panicked, or a reader given up.
    pub(crate) fn is_broken(&mut self) -> bool {
        let mut panicked = false;
        self.writers.retain_mut(|task| {
            panicked |= task.is_finished() && has_panicked(task);
            !task.is_finished()
        });
        panicked || self.readers.iter().any(JoinHandle::is_finished)
    }
}

fn has_panicked(task: &mut JoinHandle<()>) -> bool {
    let waker = std::task::Waker::noop();
    let ended = std::pin::Pin::new(task).poll(&mut std::task::Context::from_waker(waker));
    matches!(ended, std::task::Poll::Ready(Err(_)))
}

fn node(site: &Site, wire: crate::wire::Wire, seed: u64) -> Node {
    let mut builder = Node::builder(wire.name.clone()).heartbeat(site.plan.heartbeat);
    for address in &site.addresses {
        builder = builder.connect(address.clone());
    }
    builder.seed(seed).transport(wire).start().expect("a client")
}
