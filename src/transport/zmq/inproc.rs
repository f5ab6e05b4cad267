//! `inproc://`: one context for the whole process, and who listens under which name.
//!
//! libzmq neither reports that an inproc peer came or went nor connects again, so the names are
//! kept here. A link connects only while its name is bound, and is told when that changes.
//!
//! Invariant: binding, unbinding and connecting happen under one lock, so that no connection is
//! made to a name that nobody has.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Weak};
use std::task::Wake;

use parking_lot::Mutex;

use super::readiness::Key;
use crate::transport::woken::KeyWaker;

/// Shared by all transports of the process, as inproc addresses are per context. Never ended.
static CONTEXT: LazyLock<::zmq::Context> = LazyLock::new(::zmq::Context::new);

static NAMES: LazyLock<Mutex<Names>> = LazyLock::new(Mutex::default);

#[derive(Default)]
struct Names {
    by_name: HashMap<String, Name>,
    bindings: u64,
}

#[derive(Default)]
struct Name {
    /// The number of the binding, 0 when there is none.
    binding: Arc<AtomicU64>,
    watchers: Vec<Weak<KeyWaker<Key>>>,
}

impl Name {
    fn set(&mut self, binding: u64) {
        self.binding.store(binding, Ordering::Release);
        self.watchers.retain(|watcher| watcher.upgrade().map(Wake::wake).is_some());
    }
}

/// The context in which inproc sockets live.
pub(super) fn context() -> &'static ::zmq::Context {
    &CONTEXT
}

/// Binds `socket` to `name` and tells who waits for it.
pub(super) fn bind(name: &str, socket: &::zmq::Socket) -> ::zmq::Result<()> {
    let mut names = NAMES.lock();
    socket.bind(&endpoint(name))?;
    names.bindings += 1;
    let binding = names.bindings;
    names.by_name.entry(name.to_owned()).or_default().set(binding);
    Ok(())
}

/// Takes `name` from `socket`, if it has it, and tells who is connected to it.
pub(super) fn unbind(name: &str, socket: &::zmq::Socket) {
    let mut names = NAMES.lock();
    if let Err(error) = socket.unbind(&endpoint(name)) {
        tracing::debug!(%error, name, "inproc name was not bound");
        return;
    }
    if let Some(entry) = names.by_name.get_mut(name) {
        entry.set(0);
        if entry.watchers.is_empty() {
            names.by_name.remove(name);
        }
    }
}

/// A link's view of a name.
#[derive(Debug)]
pub(super) struct Watch {
    name: String,
    binding: Arc<AtomicU64>,
    /// The binding that the link is connected to.
    connected: u64,
    waker: Weak<KeyWaker<Key>>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut names = NAMES.lock();
        let Some(entry) = names.by_name.get_mut(&self.name) else { return };
        entry.watchers.retain(|watcher| !watcher.ptr_eq(&self.waker));
        if entry.watchers.is_empty() && entry.binding.load(Ordering::Acquire) == 0 {
            names.by_name.remove(&self.name);
        }
    }
}

impl Watch {
    /// Watches `name`; `waker` is woken when it is bound or unbound.
    pub(super) fn new(name: &str, waker: &Arc<KeyWaker<Key>>) -> Self {
        let mut names = NAMES.lock();
        let entry = names.by_name.entry(name.to_owned()).or_default();
        let waker = Arc::downgrade(waker);
        entry.watchers.push(Weak::clone(&waker));
        Self { name: name.to_owned(), binding: Arc::clone(&entry.binding), connected: 0, waker }
    }

    /// Whether somebody listens under the name.
    pub(super) fn is_bound(&self) -> bool {
        self.binding.load(Ordering::Acquire) != 0
    }

    /// Whether the listener that we connected to is still there.
    pub(super) fn is_connected(&self) -> bool {
        self.connected != 0 && self.binding.load(Ordering::Acquire) == self.connected
    }

    /// Connects `socket`; `false` when nobody listens.
    pub(super) fn connect(&mut self, socket: &::zmq::Socket) -> ::zmq::Result<bool> {
        let _names = NAMES.lock();
        let binding = self.binding.load(Ordering::Acquire);
        if binding == 0 {
            return Ok(false);
        }
        socket.connect(&endpoint(&self.name))?;
        self.connected = binding;
        Ok(true)
    }
}

fn endpoint(name: &str) -> String {
    format!("inproc://{name}")
}
