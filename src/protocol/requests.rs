//! Requests in flight: which replies are awaited, from whom and until when.
//!
//! A reply finds its request by an id that is a slot and a generation, so that finding it is one
//! index and one comparison, and a reply that comes late or twice finds a slot that has moved on.
//! A ticket is what the caller wants back: a channel in the node, a number in a test.
//!
//! Deadlines are kept in a heap from which answered requests are removed lazily: at once when they
//! come to the top, and all together when they outnumber the others two to one. A lost link is
//! found by a scan over the slots, because links are lost rarely and requests are made often.
//!
//! Pure: time enters as `now`. Everything comes out in an order that depends on the calls alone.
//! Invariants: the top of the heap, if any, is a request in flight; every ticket leaves exactly
//! once.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use serde::Serialize;

use crate::id::RequestId;
use crate::timer::Time;
use crate::transport::Route;

/// Answered requests that may stay in the heap however few are in flight, so that a small heap is
/// not swept all the time.
const STALE_MIN: usize = 64;

/// Requests in flight. See the [module](self).
#[derive(Debug)]
pub struct Requests<T> {
    slots: Vec<Slot<T>>,
    /// Slots without a request; the one that was freed last is used first, while it is in cache.
    free: Vec<u32>,
    deadlines: BinaryHeap<Reverse<(Time, RequestId)>>,
    limit: usize,
    first_generation: u32,
    counters: Counters,
}

impl<T> Requests<T> {
    /// Makes room for up to `limit` requests in flight. Memory grows with use, not with the limit.
    ///
    /// Ids begin with `first_generation`; any number will do. An id comes back after 2^32 requests
    /// through one slot at the earliest, hours at the highest rates.
    pub fn new(limit: usize, first_generation: u32) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            deadlines: BinaryHeap::new(),
            limit: limit.min(u32::MAX as usize),
            first_generation: first_generation.max(1),
            counters: Counters::default(),
        }
    }

    /// Adds a request that goes out on `route` and wants its reply before `deadline`.
    ///
    /// # Errors
    ///
    /// [`Full`] gives the ticket back when as many requests as allowed are in flight.
    pub fn insert(
        &mut self,
        deadline: Time,
        route: Route,
        ticket: T,
    ) -> Result<RequestId, Full<T>> {
        if !self.has_room() {
            return Err(Full { ticket });
        }
        let Ok(index) = self.free.pop().map_or_else(|| u32::try_from(self.slots.len()), Ok) else {
            return Err(Full { ticket });
        };
        if index as usize == self.slots.len() {
            self.slots.push(Slot { generation: self.first_generation, pending: None });
        }
        let slot = &mut self.slots[index as usize];
        slot.pending = Some(Pending { route, ticket });
        let id = request_id(slot.generation, index);
        self.deadlines.push(Reverse((deadline, id)));
        Ok(id)
    }

    /// Takes the ticket of a request that was answered on `route`.
    ///
    /// None if the request is not in flight (any more), or was sent on another route: a peer may
    /// not answer for another. Such a request stays in flight. Both are counted.
    pub fn complete(&mut self, id: RequestId, route: Route) -> Option<T> {
        match self.pending(id) {
            None => {
                self.counters.replies_late += 1;
                None
            }
            Some(pending) if pending.route != route => {
                self.counters.replies_misrouted += 1;
                None
            }
            Some(_) => self.remove(id),
        }
    }

    /// Takes the ticket of a request whose caller has lost interest. A reply to it will be late.
    pub fn cancel(&mut self, id: RequestId) -> Option<T> {
        self.remove(id)
    }

    /// Takes the next request whose deadline has come, earliest deadline first; none when there
    /// are no more. A deadline of exactly `now` has come.
    pub fn poll_expired(&mut self, now: Time) -> Option<(RequestId, T)> {
        let &Reverse((deadline, id)) = self.deadlines.peek()?;
        if deadline > now {
            return None;
        }
        self.counters.expired += 1;
        self.remove(id).map(|ticket| (id, ticket))
    }

    /// Takes all requests that went out on a route that was lost, in the order of their slots.
    ///
    /// Scans all slots: as many as were ever in flight at once.
    pub fn fail_route(&mut self, route: Route) -> Vec<(RequestId, T)> {
        let of_route = |slot: &Slot<T>| slot.pending.as_ref().is_some_and(|p| p.route == route);
        let ids: Vec<RequestId> = (0_u32..)
            .zip(&self.slots)
            .filter(|(_, slot)| of_route(slot))
            .map(|(index, slot)| request_id(slot.generation, index))
            .collect();
        ids.into_iter().filter_map(|id| Some((id, self.remove(id)?))).collect()
    }

    /// Takes all requests in flight, in the order of their slots.
    pub fn drain(&mut self) -> Vec<(RequestId, T)> {
        let in_flight = |(index, slot): (u32, &Slot<T>)| {
            slot.pending.is_some().then(|| request_id(slot.generation, index))
        };
        let ids: Vec<RequestId> = (0_u32..).zip(&self.slots).filter_map(in_flight).collect();
        ids.into_iter().filter_map(|id| Some((id, self.remove(id)?))).collect()
    }

    /// Whether another request may be added.
    pub fn has_room(&self) -> bool {
        self.len() < self.limit
    }

    /// The earliest deadline of a request in flight.
    pub fn next_deadline(&self) -> Option<Time> {
        self.deadlines.peek().map(|Reverse((deadline, _))| *deadline)
    }

    /// The route a request in flight went out on.
    pub fn route(&self, id: RequestId) -> Option<Route> {
        self.pending(id).map(|pending| pending.route)
    }

    /// How many requests are in flight.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether no request is in flight.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What was counted since the start.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn pending(&self, id: RequestId) -> Option<&Pending<T>> {
        let (generation, index) = parts(id);
        let slot = self.slots.get(index as usize)?;
        if slot.generation == generation { slot.pending.as_ref() } else { None }
    }

    fn remove(&mut self, id: RequestId) -> Option<T> {
        let (generation, index) = parts(id);
        let slot = self.slots.get_mut(index as usize)?;
        if slot.generation != generation {
            return None;
        }
        let pending = slot.pending.take()?;
        // Generation 0 is left out, so that no id is `RequestId::NONE`.
        slot.generation = slot.generation.wrapping_add(1).max(1);
        self.free.push(index);
        self.sweep_deadlines();
        Some(pending.ticket)
    }

    fn sweep_deadlines(&mut self) {
        if self.deadlines.len() > 3 * self.len() + STALE_MIN {
            let slots = &self.slots;
            self.deadlines.retain(|Reverse((_, id))| is_in_flight(slots, *id));
        }
        while let Some(Reverse((_, id))) = self.deadlines.peek() {
            if is_in_flight(&self.slots, *id) {
                break;
            }
            self.deadlines.pop();
        }
    }
}

/// As many requests as allowed are in flight. Nothing was added.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("too many requests are in flight")]
pub struct Full<T> {
    /// The ticket of the request that was not added.
    pub ticket: T,
}

/// What [`Requests`] counted since the start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Counters {
    /// Requests whose deadline came before their reply.
    pub expired: u64,
    /// Replies to requests that were not in flight (any more): late, repeated or made up.
    pub replies_late: u64,
    /// Replies that came from another peer than the one that was asked.
    pub replies_misrouted: u64,
}

#[derive(Debug)]
struct Slot<T> {
    /// Goes up when a request leaves the slot, so an id names one request and not its successors.
    generation: u32,
    pending: Option<Pending<T>>,
}

#[derive(Debug)]
struct Pending<T> {
    route: Route,
    ticket: T,
}

fn request_id(generation: u32, index: u32) -> RequestId {
    RequestId(u64::from(generation) << 32 | u64::from(index))
}

/// Generation and slot of an id.
fn parts(id: RequestId) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = id.0.to_be_bytes();
    (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]))
}

/// A free slot has the generation of its next request, which no id has yet.
fn is_in_flight<T>(slots: &[Slot<T>], id: RequestId) -> bool {
    let (generation, index) = parts(id);
    slots.get(index as usize).is_some_and(|slot| slot.generation == generation)
}

#[cfg(test)]
mod tests;
