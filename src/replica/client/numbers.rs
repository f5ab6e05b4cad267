//! The serials of a session on the client's side: which are under way, and which it still wants.
//!
//! Touches no clock; whoever has to wait for a number waits in a future.
//! Invariant: no serial is given out twice, and none that is under way is below what is told to the
//! replicas as the lowest.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::replica::machine::CommandId;

/// Serials from the lowest that is wanted to the next one. The replicas keep as many results.
const WINDOW: u64 = 1_024;

/// One session.
#[derive(Debug)]
pub(super) struct Numbers {
    session: u64,
    state: Mutex<State>,
    room: Notify,
}

#[derive(Debug)]
struct State {
    next: u64,
    under_way: BTreeSet<u64>,
    /// Given up without knowing the outcome, which somebody may inquire into.
    lost: BTreeSet<u64>,
}

/// The serial of one command. Dropped without [`Number::settle`] its outcome is unknown.
#[derive(Debug)]
pub(super) struct Number {
    numbers: Arc<Numbers>,
    serial: u64,
    is_settled: bool,
}

impl Numbers {
    pub(super) fn new(session: u64) -> Self {
        let state = State { next: 1, under_way: BTreeSet::new(), lost: BTreeSet::new() };
        Self { session, state: Mutex::new(state), room: Notify::new() }
    }

    pub(super) fn session(&self) -> u64 {
        self.session
    }

    /// The next serial, as soon as there is room for one more.
    pub(super) async fn next(self: &Arc<Self>) -> Number {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            if let Some(serial) = self.state.lock().take() {
                return Number { numbers: Arc::clone(self), serial, is_settled: false };
            }
            room.await;
        }
    }

    /// The outcome of a command that was lost is known after all.
    pub(super) fn found(&self, id: CommandId) {
        if id.session == self.session {
            self.state.lock().lost.remove(&id.serial);
        }
    }
}

impl State {
    /// A serial, if there is room. Outcomes that were given up make room, oldest first.
    fn take(&mut self) -> Option<u64> {
        while self.next - self.lowest() >= WINDOW {
            let lowest = self.lowest();
            if !self.lost.remove(&lowest) {
                return None;
            }
        }
        let serial = self.next;
        self.next += 1;
        self.under_way.insert(serial);
        Some(serial)
    }

    fn lowest(&self) -> u64 {
        let first = |of: &BTreeSet<u64>| of.first().copied().unwrap_or(self.next);
        first(&self.under_way).min(first(&self.lost))
    }
}

impl Number {
    pub(super) fn id(&self) -> CommandId {
        CommandId { session: self.numbers.session, serial: self.serial }
    }

    /// The lowest serial that is wanted now, at most this one.
    pub(super) fn lowest(&self) -> u64 {
        self.numbers.state.lock().lowest()
    }

    /// The outcome is known, and nobody wants it any more.
    pub(super) fn settle(&mut self) {
        self.is_settled = true;
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        let mut state = self.numbers.state.lock();
        state.under_way.remove(&self.serial);
        if !self.is_settled {
            state.lost.insert(self.serial);
        }
        drop(state);
        self.numbers.room.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll};

    use super::*;

    /// What is under way or lost keeps the replicas from forgetting, and nothing else does.
    #[tokio::test]
    async fn lowest_is_the_oldest_that_is_under_way_or_lost() {
        let numbers = Arc::new(Numbers::new(7));
        let (mut first, second) = (numbers.next().await, numbers.next().await);
        let mut third = numbers.next().await;
        assert_eq!(first.id(), CommandId { session: 7, serial: 1 });
        first.settle();
        drop(first);
        assert_eq!(third.lowest(), 2);
        let lost = second.id();
        drop(second);
        assert_eq!(third.lowest(), 2, "somebody may inquire into it");
        numbers.found(CommandId { session: 8, ..lost });
        assert_eq!(third.lowest(), 2);
        numbers.found(lost);
        assert_eq!(third.lowest(), 3);
        third.settle();
        drop(third);
        assert_eq!(numbers.next().await.lowest(), 4);
    }

    /// The replicas keep as many results and no more: one slow command stops the others before
    /// they are refused, and commands that were given up do not.
    #[tokio::test]
    async fn window_waits_for_the_oldest_and_forgets_what_was_given_up() {
        let numbers = Arc::new(Numbers::new(7));
        let mut slow = numbers.next().await;
        for _ in 1..WINDOW {
            numbers.next().await.settle();
        }
        let mut waiting = Box::pin(numbers.next());
        let poll = |cx: &mut Context<'_>| Poll::Ready(waiting.as_mut().poll(cx).is_pending());
        assert!(std::future::poll_fn(poll).await, "the window is not limited");
        slow.settle();
        drop(slow);
        waiting.await.settle();

        let lost = numbers.next().await.id();
        for _ in 0..WINDOW {
            numbers.next().await.settle();
        }
        assert!(numbers.next().await.lowest() > lost.serial, "a lost command stops all others");
    }
}
