//! Shell: Locks and elections.
//!
//! Whoever wants a lock puts a key with a lease of its own behind the name of the lock; the key that
//! was created first has it. The others wait each for the one before it, so that a release wakes one
//! of them. This is etcd's recipe. What is added is that the store itself looks at the fencing token,
//! which is the revision at which the key was created, in the same step in which it writes: however
//! late a holder finds out that it is none, its writes are refused.
//!
//! A holder believes that it has lost the lock when its lease was not kept alive for its time, counted
//! from before the question that was answered last. The leader counts from later, so that nobody else
//! has it before that.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use super::Kv;
use crate::kv::command::{Condition, Entry, Failure, KeyRange, Lease, Operation};
use crate::kv::error::Error;
use crate::timer::{Clock, Time};

/// Where the keys of locks are.
const PREFIX: &str = "_lock/";
/// A lease is kept alive so many times within its time.
const KEPT_TIMES: u32 = 3;
/// Digits of a lease in the key.
const LEASE_DIGITS: usize = 16;

/// What a write shows to prove that its lock is held. It may travel to whoever writes in the holder's
/// name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fence {
    /// The key of the holder.
    pub key: Bytes,
    /// The token: higher than that of every holder before.
    pub token: u64,
}

/// A lock that is held, until it is released, dropped or lost.
///
/// Dropping it releases the lock in the background, if it is dropped on a runtime; otherwise the
/// lock is free when its time has passed.
///
/// # Examples
///
/// ```
/// # async fn example(kv: zmesh::kv::Kv) -> Result<(), zmesh::kv::Error> {
/// use std::time::Duration;
///
/// let guard = kv.lock("report", Duration::from_secs(10)).await?;
/// kv.set("report/today", "done").fenced_by(guard.fence()).await?;
/// guard.release().await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Guard {
    kv: Kv,
    name: String,
    fence: Fence,
    keeper: Keeper,
}

impl Kv {
    /// Takes a lock, and waits as long as others have it or came earlier. It is kept alive in the
    /// background, and free `ttl` after its holder was heard last.
    ///
    /// # Errors
    ///
    /// [`Error`]; whatever was begun ends by itself. [`Error::LockLost`] if the place in the queue
    /// was lost while waiting.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives the place in the queue up.
    pub async fn lock(&self, name: &str, ttl: Duration) -> Result<Guard, Error> {
        self.elect(name, Bytes::new(), ttl).await
    }

    /// Takes a lock if nobody has it or waits for it.
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock).
    ///
    /// # Cancel safety
    ///
    /// As [`lock`](Self::lock).
    pub async fn try_lock(&self, name: &str, ttl: Duration) -> Result<Option<Guard>, Error> {
        let guard = self.queue(name, Bytes::new(), ttl).await?;
        match guard.before().await? {
            None => Ok(Some(guard)),
            Some(_) => {
                guard.release().await?;
                Ok(None)
            }
        }
    }

    /// Stands for election, and waits until elected: an election is a lock whose holder has
    /// something to say, such as its address, which [`elected`](Self::elected) tells everybody.
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock).
    ///
    /// # Cancel safety
    ///
    /// As [`lock`](Self::lock).
    pub async fn elect(
        &self,
        name: &str,
        value: impl Into<Bytes>,
        ttl: Duration,
    ) -> Result<Guard, Error> {
        let guard = self.queue(name, value.into(), ttl).await?;
        while let Some((before, revision)) = guard.before().await? {
            let mut watch = self.watch(KeyRange::key(before)).after(revision).await?;
            tokio::select! {
                biased;
                cleared = cleared(&mut watch) => cleared?,
                () = guard.lost() => return Err(guard.loss()),
            }
        }
        Ok(guard)
    }

    /// Who holds a lock or was elected, and what it said: the value, and as `created` the token.
    ///
    /// # Errors
    ///
    /// [`Error`]; a read changes nothing.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn elected(&self, name: &str) -> Result<Option<Entry>, Error> {
        let (queue, _) = self.waiting(name).await?;
        let Some(first) = queue.into_iter().min_by_key(|entry| entry.created) else {
            return Ok(None);
        };
        let found = self.get(first.key).await?;
        // It may have gone meanwhile, and somebody else be elected.
        Ok(found.filter(|entry| entry.created == first.created))
    }

    /// Puts a key in the queue of a lock.
    async fn queue(&self, name: &str, value: Bytes, ttl: Duration) -> Result<Guard, Error> {
        let clock = Clock::start();
        let asked = clock.now();
        let lease = self.grant(ttl).await?;
        let keeper = Keeper::start(self, lease, clock, asked);
        let key = Bytes::from(format!("{PREFIX}{name}/{:016x}", lease.id));
        let lease = Some(lease.id);
        let set = Operation::Set { key: key.clone(), value, lease, wants_previous: false };
        let settled = self.txn().when(Condition::absent(key.clone())).then(set).await?;
        let fence = Fence { key, token: settled.revision };
        let guard = Guard { kv: self.clone(), name: name.to_owned(), fence, keeper };
        if settled.unmet.is_some() { Err(guard.loss()) } else { Ok(guard) }
    }

    /// The keys in the queue of a lock, and the revision at which they were read.
    async fn waiting(&self, name: &str) -> Result<(Vec<Entry>, u64), Error> {
        let prefix = format!("{PREFIX}{name}/");
        let key_bytes = prefix.len() + LEASE_DIGITS;
        let mut pages = self.list(KeyRange::prefix(prefix)).keys_only().pages();
        let (mut queue, mut revision) = (Vec::new(), 0);
        while let Some(page) = pages.next().await? {
            revision = page.revision;
            // Keys of locks whose name goes on after a slash are longer.
            queue.extend(page.entries.into_iter().filter(|entry| entry.key.len() == key_bytes));
        }
        Ok((queue, revision))
    }
}

impl Guard {
    /// The name of the lock.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What proves to the store that the lock is held: see [`Set::fenced_by`](super::Set::fenced_by).
    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    /// The fencing token: higher than that of every holder before.
    pub fn token(&self) -> u64 {
        self.fence.token
    }

    /// The lease that the lock goes with; other keys may be set with it.
    pub fn lease(&self) -> u64 {
        self.keeper.lease.id
    }

    /// Whether the lock may have been lost.
    pub fn is_lost(&self) -> bool {
        *self.keeper.lost.borrow()
    }

    /// Returns when the lock may have been lost; never if it is not.
    ///
    /// # Cancel safety
    ///
    /// Safe to drop and to call again.
    pub async fn lost(&self) {
        let mut lost = self.keeper.lost.clone();
        // The keeper is gone only with the guard.
        if lost.wait_for(|lost| *lost).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Gives the lock back; the next in the queue has it then.
    ///
    /// # Errors
    ///
    /// [`Error::LockLost`]: it had been lost before. Any other error: it is free when its time has
    /// passed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not recall it; at the latest the lock is free when its time has
    /// passed.
    pub async fn release(mut self) -> Result<(), Error> {
        let lease = self.keeper.stop();
        match self.kv.revoke(lease).await {
            Ok(_) => Ok(()),
            Err(Error::Failed(Failure::LeaseUnknown { .. })) => Err(self.loss()),
            Err(error) => Err(error),
        }
    }

    /// The key that is before this one in the queue, if there is one, and the revision at which it
    /// was there.
    async fn before(&self) -> Result<Option<(Bytes, u64)>, Error> {
        let (queue, revision) = self.kv.waiting(&self.name).await?;
        let is_own = |entry: &Entry| entry.key == self.fence.key;
        if self.is_lost() || !queue.iter().any(is_own) {
            return Err(self.loss());
        }
        let earlier = queue.into_iter().filter(|entry| entry.created < self.fence.token);
        let before = earlier.max_by_key(|entry| entry.created);
        Ok(before.map(|entry| (entry.key, revision)))
    }

    fn loss(&self) -> Error {
        Error::LockLost { name: self.name.clone() }
    }
}

/// Waits until a key is cleared.
async fn cleared(watch: &mut super::Watch) -> Result<(), Error> {
    loop {
        match watch.next().await {
            Ok(event) if event.entry.is_none() => return Ok(()),
            Ok(_) => {}
            // Whoever waits looks at the queue again in any case.
            Err(Error::Failed(Failure::Compacted { .. })) => return Ok(()),
            Err(error) if error.is_retryable() => {}
            Err(error) => return Err(error),
        }
    }
}

/// Keeps a lease alive in the background.
#[derive(Debug)]
struct Keeper {
    kv: Kv,
    lease: Lease,
    lost: watch::Receiver<bool>,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Keeper {
    /// `asked`: when the lease was asked for.
    fn start(kv: &Kv, lease: Lease, clock: Clock, asked: Time) -> Self {
        let (sender, lost) = watch::channel(false);
        let keeping = keep(kv.clone(), lease, clock, asked, sender);
        Self { kv: kv.clone(), lease, lost, task: Some(tokio::spawn(keeping)) }
    }

    /// Stops keeping the lease alive, and says which it is.
    fn stop(&mut self) -> u64 {
        if let Some(task) = self.task.take() {
            task.abort();
        }
        self.lease.id
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if self.task.is_none() {
            return;
        }
        let lease = self.stop();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let kv = self.kv.clone();
            runtime.spawn(async move { kv.revoke(lease).await.map(drop) });
        }
    }
}

/// Keeps a lease alive until it has ended, or may have.
async fn keep(kv: Kv, lease: Lease, clock: Clock, asked: Time, lost: watch::Sender<bool>) {
    let pause = lease.ttl / KEPT_TIMES;
    let mut until = asked + lease.ttl;
    let mut next = asked + pause;
    loop {
        tokio::time::sleep_until(clock.instant(next.min(until))).await;
        let asked = clock.now();
        if asked >= until {
            break;
        }
        // It does no harm twice, so that it needs no session.
        let left = until.saturating_since(asked);
        let kept = kv.clone().timeout(left).at_most_once();
        let kept = tokio::time::timeout_at(clock.instant(until), kept.keep_alive(lease.id)).await;
        match kept {
            Ok(Ok(_)) => (until, next) = (asked + lease.ttl, asked + pause),
            Ok(Err(Error::Failed(Failure::LeaseUnknown { .. }))) | Err(_) => break,
            // Lost on the way, perhaps: again after a moment, as long as there is time.
            Ok(Err(_)) => next = clock.now() + pause / KEPT_TIMES,
        }
    }
    lost.send_replace(true);
}

impl Fence {
    /// What the store is to look at.
    pub fn condition(&self) -> Condition {
        Condition::Held { key: self.key.clone(), token: self.token }
    }
}
