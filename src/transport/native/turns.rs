//! Who has something to do: keys that wakers write down, in the order of their turns.
//!
//! One waker for all sockets would mean to look at each of them on every wake-up. So every socket
//! has a waker that knows its key.
//!
//! Shell only in that wakers are called from other threads.
//! Invariant: between two looks, a key that was woken is in the list exactly once, and whoever
//! parked is woken after the first.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use parking_lot::Mutex;

use crate::transport::LinkId;

/// What can have something to do.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Key {
    /// The listening socket.
    Accept,
    /// A connection, either way.
    Connection(u64),
    /// A link that is being dialed.
    Dial(LinkId),
    /// The look at everybody's deadlines.
    Tick,
}

/// Keys that were woken.
#[derive(Debug, Default)]
pub(super) struct Woken(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    keys: Vec<Arc<KeyWaker>>,
    caller: Option<Waker>,
}

impl Woken {
    /// A waker that writes down `key`.
    pub(super) fn waker(self: &Arc<Self>, key: Key) -> Waker {
        Waker::from(Arc::new(KeyWaker {
            key,
            written: AtomicBool::new(false),
            to: Arc::clone(self),
        }))
    }

    /// Hands every woken key to `take`.
    pub(super) fn collect(&self, mut take: impl FnMut(Key)) {
        for waker in self.0.lock().keys.drain(..) {
            // Before its work is done, so that what comes during it is written down again.
            waker.written.store(false, Ordering::Release);
            take(waker.key);
        }
    }

    /// Has `caller` woken with the next key; false if there is one already.
    pub(super) fn park(&self, caller: &Waker) -> bool {
        let mut inner = self.0.lock();
        if !inner.keys.is_empty() {
            return false;
        }
        match &mut inner.caller {
            Some(known) => known.clone_from(caller),
            none => *none = Some(caller.clone()),
        }
        true
    }
}

#[derive(Debug)]
struct KeyWaker {
    key: Key,
    written: AtomicBool,
    to: Arc<Woken>,
}

impl Wake for KeyWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.written.swap(true, Ordering::AcqRel) {
            return;
        }
        let caller = {
            let mut inner = self.to.0.lock();
            inner.keys.push(Arc::clone(self));
            inner.caller.take()
        };
        if let Some(caller) = caller {
            caller.wake();
        }
    }
}
