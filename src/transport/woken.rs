//! Who has something to do: wakers that write down whom they woke.
//!
//! Asking every socket costs a system call per socket and turn; with this list a turn costs as
//! much as there are sockets with something to do. Each socket has a [`KeyWaker`], given to tokio
//! in place of the caller's waker. It puts itself on the list and wakes the caller.
//!
//! Shell only in that wakers are called from other threads.
//! Invariant: between two looks, a key that was woken is on the list exactly once, and whoever
//! parked is woken after the first.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use parking_lot::Mutex;

/// The wakers that were woken and not looked at since.
#[derive(Debug)]
pub(super) struct Woken<K>(Mutex<Inner<K>>);

#[derive(Debug)]
struct Inner<K> {
    wakers: Vec<Arc<KeyWaker<K>>>,
    caller: Option<Waker>,
}

impl<K: Copy> Woken<K> {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Inner { wakers: Vec::new(), caller: None })))
    }

    /// The waker of `key`.
    pub(super) fn waker(self: &Arc<Self>, key: K) -> Arc<KeyWaker<K>> {
        Arc::new(KeyWaker { key, listed: AtomicBool::new(false), list: Arc::clone(self) })
    }

    /// Moves the keys that were woken into `keys`.
    pub(super) fn collect(&self, keys: &mut Vec<K>) {
        for waker in self.0.lock().wakers.drain(..) {
            // Before the key is looked at, so that a wake-up from now on is written down again.
            waker.listed.store(false, Ordering::Release);
            keys.push(waker.key);
        }
    }

    /// Whether the caller may sleep: nothing is on the list, and `caller` is woken when that
    /// changes.
    pub(super) fn park(&self, caller: &Waker) -> bool {
        let mut inner = self.0.lock();
        if !inner.wakers.is_empty() {
            return false;
        }
        match &mut inner.caller {
            Some(known) => known.clone_from(caller),
            none => *none = Some(caller.clone()),
        }
        true
    }
}

/// Writes its key down when it is woken, once until it was looked at.
#[derive(Debug)]
pub(super) struct KeyWaker<K> {
    key: K,
    listed: AtomicBool,
    list: Arc<Woken<K>>,
}

impl<K: Copy> Wake for KeyWaker<K>
where
    Self: Send + Sync,
{
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.listed.swap(true, Ordering::AcqRel) {
            return;
        }
        let caller = {
            let mut inner = self.list.0.lock();
            inner.wakers.push(Arc::clone(self));
            inner.caller.take()
        };
        if let Some(caller) = caller {
            caller.wake();
        }
    }
}
