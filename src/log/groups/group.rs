//! One group: which of its members has which record, and what is to be delivered again.
//!
//! Pure and deterministic; time comes as ticks of two [wheels](Wheel), which are replicated
//! decisions like everything else.
//!
//! Invariant: each offset from where the group began up to `next` is in exactly one of `in_flight`,
//! `available`, `delayed` and `dead`, or it is done with. So what is done with takes no memory, and
//! all four are bounded: the first three by [`GroupOptions::pending_max`], together with what is in
//! the last beyond [`GroupOptions::dead_max`].

use std::collections::BTreeMap;
use std::time::Duration;

use super::options::{BATCH_MAX, Bounds, GroupOptions, MEMBERS_MAX};
use super::refusal::Refusal;
use super::response::{
    Counts, DeadLetter, Delivered, GroupStatus, MemberStatus, Outcome, Settlement, Verdict,
};
use super::wheel::{Wheel, WheelKind};

/// The state of a group.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct State {
    /// The index at which it was created, which no other group ever has.
    pub(super) id: u64,
    pub(super) options: GroupOptions,
    /// The lowest offset that was never delivered.
    pub(super) next: u64,
    /// The number of the last delivery, from 1. A record that is delivered again gets a new one.
    pub(super) deliveries: u64,
    pub(super) in_flight: BTreeMap<u64, InFlight>,
    pub(super) available: BTreeMap<u64, Tried>,
    pub(super) delayed: BTreeMap<u64, Delayed>,
    pub(super) dead: BTreeMap<u64, Tried>,
    /// By the index at which they joined.
    pub(super) members: BTreeMap<u64, Member>,
    /// Turns as long as records are with members, or wait for their time.
    pub(super) delivery_wheel: Wheel,
    /// Turns as long as there are members.
    pub(super) member_wheel: Wheel,
    pub(super) counts: Counts,
}

/// What is known of a record that was delivered before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Tried {
    /// How often, without those that the member gave back unseen.
    pub(super) tries: u32,
    /// The last delivery: who had it may still say that it is done.
    pub(super) delivery: u64,
}

/// A record that is with a member.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct InFlight {
    pub(super) member: u64,
    pub(super) tried: Tried,
    /// Round of the wheel in which it was delivered, or its member asked for more time.
    pub(super) round: u64,
}

/// A record that is to be delivered again, but not yet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Delayed {
    pub(super) tried: Tried,
    /// First round of the wheel in which it is available.
    pub(super) round: u64,
}

/// Somebody who takes records.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Member {
    pub(super) name: String,
    /// Round of the wheel in which it was heard last.
    pub(super) round: u64,
    /// Records that are with it.
    pub(super) in_flight: u32,
}

impl State {
    /// A group without members that begins at `start`.
    pub(super) fn new(id: u64, options: GroupOptions, start: u64) -> Self {
        Self {
            id,
            options,
            next: start,
            deliveries: 0,
            in_flight: BTreeMap::new(),
            available: BTreeMap::new(),
            delayed: BTreeMap::new(),
            dead: BTreeMap::new(),
            members: BTreeMap::new(),
            delivery_wheel: Wheel::default(),
            member_wheel: Wheel::default(),
            counts: Counts::default(),
        }
    }

    /// Takes a member in; its id is `index`. An earlier life of the same name leaves.
    pub(super) fn join(&mut self, index: u64, name: &str) -> Result<(), Refusal> {
        let earlier = self.members.iter().find(|(_, member)| member.name == name);
        let earlier = earlier.map(|(id, _)| *id);
        if earlier.is_none() && self.members.len() >= MEMBERS_MAX {
            return Err(Refusal::TooManyMembers);
        }
        if let Some(earlier) = earlier {
            self.remove_member(earlier);
        }
        let round = self.member_wheel.start();
        let member = Member { name: name.to_owned(), round, in_flight: 0 };
        self.members.insert(index, member);
        self.rest();
        Ok(())
    }

    /// A member goes, and its records become available. That there is none is no error.
    pub(super) fn leave(&mut self, member: u64) {
        self.remove_member(member);
        self.rest();
    }

    /// A member is alive.
    pub(super) fn keep_alive(&mut self, member: u64) -> Result<(), Refusal> {
        let round = self.member_wheel.round();
        let member = self.members.get_mut(&member).ok_or(Refusal::NotMember)?;
        member.round = round;
        Ok(())
    }

    /// Gives a member records: first those that were delivered before, then new ones.
    pub(super) fn fetch(
        &mut self,
        member: u64,
        max: u32,
        bounds: Bounds,
    ) -> Result<Vec<Delivered>, Refusal> {
        self.trim(bounds.first);
        self.keep_alive(member)?;
        let room = usize::try_from(max.min(self.room_of(member))).unwrap_or(BATCH_MAX);
        let mut delivered = Vec::new();
        while delivered.len() < room.min(BATCH_MAX) {
            let (offset, tries) = match self.available.pop_first() {
                Some((offset, tried)) => (offset, tried.tries),
                None if self.has_new(bounds) => {
                    self.next += 1;
                    (self.next - 1, 0)
                }
                None => break,
            };
            delivered.push(self.deliver(member, offset, tries));
        }
        self.rest();
        Ok(delivered)
    }

    /// Whether a member would be given anything now.
    pub(super) fn is_ready(&self, member: u64, bounds: Bounds) -> Result<bool, Refusal> {
        if !self.members.contains_key(&member) {
            return Err(Refusal::NotMember);
        }
        let is_available = self.available.range(bounds.first..).next().is_some();
        Ok(self.room_of(member) > 0 && (is_available || self.has_new(bounds)))
    }

    /// A member says what became of deliveries. It need not be a member any more: whose delivery
    /// was the last one may always say that the record is done.
    pub(super) fn settle(
        &mut self,
        member: u64,
        verdict: Verdict,
        deliveries: &[Settlement],
        bounds: Bounds,
    ) -> Vec<Outcome> {
        self.trim(bounds.first);
        // One that has left is heard all the same.
        let _ignored = self.keep_alive(member);
        let outcomes = deliveries.iter().map(|delivery| self.settle_one(verdict, *delivery));
        let outcomes = outcomes.collect();
        self.rest();
        outcomes
    }

    /// Dead letters are tried again, as if they had never been.
    pub(super) fn requeue(&mut self, offsets: &[u64], bounds: Bounds) -> Vec<Outcome> {
        self.trim(bounds.first);
        offsets.iter().map(|offset| self.requeue_one(*offset)).collect()
    }

    /// Dead letters are given up.
    pub(super) fn drop_dead(&mut self, offsets: &[u64]) -> Vec<Outcome> {
        let drop_one = |offset| match self.dead.remove(offset) {
            Some(_) => {
                self.counts.dropped += 1;
                Outcome::Done
            }
            None => Outcome::Stale,
        };
        offsets.iter().map(drop_one).collect()
    }

    /// Time has passed. An impulse that was meant for another round does nothing.
    pub(super) fn tick(&mut self, kind: WheelKind, round: u64, bounds: Bounds) {
        self.trim(bounds.first);
        match kind {
            WheelKind::Deliveries if self.delivery_wheel.turn(round) => self.expire_deliveries(),
            WheelKind::Members if self.member_wheel.turn(round) => self.expire_members(),
            WheelKind::Deliveries | WheelKind::Members => {}
        }
        self.rest();
    }

    /// Forgets what the topic does not have any more.
    pub(super) fn trim(&mut self, first: u64) {
        let mut skipped = first.saturating_sub(self.next);
        self.next = self.next.max(first);
        let kept = self.in_flight.split_off(&first);
        let gone = std::mem::replace(&mut self.in_flight, kept);
        for record in gone.values() {
            self.lighten(record.member);
        }
        skipped += gone.len() as u64;
        skipped += cut(&mut self.available, first);
        skipped += cut(&mut self.delayed, first);
        skipped += cut(&mut self.dead, first);
        self.counts.skipped += skipped;
        self.rest();
    }

    /// When it is to be told that time has passed: the wheels that turn, their rounds and the
    /// length of these.
    pub(super) fn wheels(&self) -> impl Iterator<Item = (WheelKind, u64, Duration)> {
        let kinds = [
            (WheelKind::Deliveries, self.delivery_wheel, self.options.ack_timeout),
            (WheelKind::Members, self.member_wheel, self.options.session_timeout),
        ];
        let turning = kinds.into_iter().filter(|(_, wheel, _)| wheel.is_turning());
        turning.map(|(kind, wheel, timeout)| (kind, wheel.round(), kind.step(timeout)))
    }

    /// What there is to see.
    pub(super) fn status(&self, name: &str, bounds: Bounds) -> GroupStatus {
        let pending = self.pending();
        GroupStatus {
            name: name.to_owned(),
            options: self.options,
            floor: self.floor(),
            next: self.next,
            lag: pending + bounds.next.saturating_sub(self.next),
            in_flight: self.in_flight.len() as u64,
            available: self.available.len() as u64,
            delayed: self.delayed.len() as u64,
            dead: self.dead.len() as u64,
            members: self.members.len() as u64,
            counts: self.counts,
        }
    }

    /// Members with ids from `from` on.
    pub(super) fn members(&self, from: u64, max: usize) -> Vec<MemberStatus> {
        let members = self.members.range(from..).take(max);
        let status = |(id, member): (&u64, &Member)| MemberStatus {
            id: *id,
            name: member.name.clone(),
            in_flight: member.in_flight,
        };
        members.map(status).collect()
    }

    /// Dead letters with offsets from `from` on.
    pub(super) fn dead_letters(&self, from: u64, max: usize) -> Vec<DeadLetter> {
        let dead = self.dead.range(from..).take(max);
        dead.map(|(offset, tried)| DeadLetter { offset: *offset, tries: tried.tries }).collect()
    }

    /// The lowest offset that is neither done with nor a dead letter.
    fn floor(&self) -> u64 {
        let first = [
            self.in_flight.keys().next(),
            self.available.keys().next(),
            self.delayed.keys().next(),
        ];
        first.into_iter().flatten().copied().min().unwrap_or(self.next)
    }

    /// Records that are neither done with nor dead letters that have room of their own.
    pub(super) fn pending(&self) -> u64 {
        let alive = self.in_flight.len() + self.available.len() + self.delayed.len();
        alive as u64 + (self.dead.len() as u64).saturating_sub(u64::from(self.options.dead_max))
    }

    fn has_new(&self, bounds: Bounds) -> bool {
        let is_there = self.next.max(bounds.first) < bounds.next;
        is_there && self.pending() < u64::from(self.options.pending_max)
    }

    /// How many more records a member may have.
    fn room_of(&self, member: u64) -> u32 {
        let in_flight = self.members.get(&member).map_or(u32::MAX, |member| member.in_flight);
        self.options.member_pending_max.saturating_sub(in_flight)
    }

    fn deliver(&mut self, member: u64, offset: u64, tries: u32) -> Delivered {
        self.deliveries += 1;
        if tries > 0 {
            self.counts.redelivered += 1;
        }
        let tried = Tried { tries: tries + 1, delivery: self.deliveries };
        let round = self.delivery_wheel.start();
        self.in_flight.insert(offset, InFlight { member, tried, round });
        if let Some(member) = self.members.get_mut(&member) {
            member.in_flight += 1;
        }
        Delivered { offset, delivery: tried.delivery, tries: tried.tries }
    }

    fn settle_one(&mut self, verdict: Verdict, settled: Settlement) -> Outcome {
        let Settlement { offset, delivery } = settled;
        let Some(record) = self.in_flight.get_mut(&offset) else {
            return self.settle_late(verdict, settled);
        };
        if record.tried.delivery != delivery {
            return Outcome::Stale;
        }
        if verdict == Verdict::Extend {
            record.round = self.delivery_wheel.round();
            return Outcome::Done;
        }
        let InFlight { member, mut tried, .. } = *record;
        self.in_flight.remove(&offset);
        self.lighten(member);
        match verdict {
            Verdict::Ack => self.counts.acked += 1,
            Verdict::Again { after } => self.put_back(offset, tried, after),
            Verdict::Bury => self.bury(offset, tried),
            Verdict::Extend => {}
            Verdict::Release => {
                tried.tries -= 1;
                self.available.insert(offset, tried);
            }
        }
        Outcome::Done
    }

    /// The time of a delivery was up, but the record was given to nobody else.
    fn settle_late(&mut self, verdict: Verdict, settled: Settlement) -> Outcome {
        let Settlement { offset, delivery } = settled;
        let available = self.available.get(&offset);
        let delayed = self.delayed.get(&offset).map(|delayed| &delayed.tried);
        let tried = available.or(delayed).or_else(|| self.dead.get(&offset));
        let is_last = tried.is_some_and(|tried| tried.delivery == delivery);
        if verdict != Verdict::Ack || !is_last {
            return Outcome::Stale;
        }
        self.available.remove(&offset);
        self.delayed.remove(&offset);
        self.dead.remove(&offset);
        self.counts.acked += 1;
        Outcome::Done
    }

    fn requeue_one(&mut self, offset: u64) -> Outcome {
        let Some(tried) = self.dead.remove(&offset) else { return Outcome::Stale };
        if self.pending() >= u64::from(self.options.pending_max) {
            self.dead.insert(offset, tried);
            return Outcome::Full;
        }
        self.available.insert(offset, Tried { tries: 0, ..tried });
        Outcome::Done
    }

    /// A delivery came to nothing: the record is to be tried again, if it may be.
    fn put_back(&mut self, offset: u64, tried: Tried, after: Duration) {
        if tried.tries >= self.options.tries_max {
            self.bury(offset, tried);
        } else if after.is_zero() {
            self.available.insert(offset, tried);
        } else {
            let round = self.delivery_wheel.round_after(after, self.options.ack_timeout);
            self.delayed.insert(offset, Delayed { tried, round });
        }
    }

    fn bury(&mut self, offset: u64, tried: Tried) {
        self.dead.insert(offset, tried);
        self.counts.buried += 1;
    }

    fn remove_member(&mut self, member: u64) {
        if self.members.remove(&member).is_none() {
            return;
        }
        let its = self.in_flight.iter().filter(|(_, record)| record.member == member);
        let its: Vec<_> = its.map(|(offset, record)| (*offset, record.tried)).collect();
        for (offset, tried) in its {
            self.in_flight.remove(&offset);
            self.put_back(offset, tried, Duration::ZERO);
        }
    }

    /// One record less is with a member.
    fn lighten(&mut self, member: u64) {
        if let Some(member) = self.members.get_mut(&member) {
            member.in_flight -= 1;
        }
    }

    fn expire_deliveries(&mut self) {
        let wheel = self.delivery_wheel;
        let late = self
            .in_flight
            .iter()
            .filter(|(_, record)| WheelKind::Deliveries.has_expired(record.round, wheel));
        let late: Vec<_> = late.map(|(offset, record)| (*offset, *record)).collect();
        self.counts.expired += late.len() as u64;
        for (offset, record) in late {
            self.in_flight.remove(&offset);
            self.lighten(record.member);
            self.put_back(offset, record.tried, Duration::ZERO);
        }
        let ripe = self.delayed.iter().filter(|(_, delayed)| delayed.round <= wheel.round());
        let ripe: Vec<_> = ripe.map(|(offset, delayed)| (*offset, delayed.tried)).collect();
        for (offset, tried) in ripe {
            self.delayed.remove(&offset);
            self.available.insert(offset, tried);
        }
    }

    fn expire_members(&mut self) {
        let wheel = self.member_wheel;
        let silent = self
            .members
            .iter()
            .filter(|(_, member)| WheelKind::Members.has_expired(member.round, wheel));
        let silent: Vec<_> = silent.map(|(id, _)| *id).collect();
        for member in silent {
            self.counts.lost += 1;
            self.remove_member(member);
        }
    }

    /// Stops the wheels that turn for nothing.
    fn rest(&mut self) {
        if self.in_flight.is_empty() && self.delayed.is_empty() {
            self.delivery_wheel.stop();
        }
        if self.members.is_empty() {
            self.member_wheel.stop();
        }
    }
}

/// Removes what lies below `first`, and counts it.
fn cut<T>(records: &mut BTreeMap<u64, T>, first: u64) -> u64 {
    let kept = records.split_off(&first);
    std::mem::replace(records, kept).len() as u64
}
