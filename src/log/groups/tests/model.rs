//! Random lives of a group against a list of what must be true of each record.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Append(u64),
    /// Names are few, so that members come again.
    Join(u8),
    Leave(usize),
    Fetch(usize, u32),
    /// Any delivery there ever was, so mostly stale ones.
    Settle(usize, Verdict),
    Requeue(u64),
    Drop(u64),
    Trim(u64),
    /// Milliseconds; members that speak meanwhile are told by the bits.
    Wait(u64, u8),
    NewLeader,
}

/// What the list says of a record.
#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Fresh,
    With { member: u64, delivery: u64, tries: u32, since: u64 },
    Waiting { tries: u32, delivery: u64, not_before: u64 },
    Dead { delivery: u64 },
    Done,
    Skipped,
}

struct World {
    topic: Topic,
    now: u64,
    alarms: BTreeMap<u64, (u64, GroupCommand)>,
    records: Vec<State>,
    /// By id: when it was heard last.
    members: BTreeMap<u64, u64>,
    delivered: Vec<(u64, Delivered)>,
}

const ACK_MS: u64 = 4_000;
const SESSION_MS: u64 = 3_000;

fn tight() -> GroupOptions {
    GroupOptions {
        ack_timeout: Duration::from_millis(ACK_MS),
        session_timeout: Duration::from_millis(SESSION_MS),
        tries_max: 3,
        pending_max: 6,
        member_pending_max: 4,
        dead_max: 2,
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let verdict = prop_oneof![
        4 => Just(Verdict::Ack),
        2 => (0_u64..6_000).prop_map(|ms| Verdict::Again { after: Duration::from_millis(ms) }),
        1 => Just(Verdict::Again { after: Duration::ZERO }),
        1 => Just(Verdict::Bury),
        1 => Just(Verdict::Extend),
        1 => Just(Verdict::Release),
    ];
    let step = prop_oneof![
        3 => (1_u64..4).prop_map(Step::Append),
        3 => (0_u8..4).prop_map(Step::Join),
        1 => any::<usize>().prop_map(Step::Leave),
        8 => (any::<usize>(), 0_u32..6).prop_map(|(member, max)| Step::Fetch(member, max)),
        8 => (any::<usize>(), verdict).prop_map(|(which, verdict)| Step::Settle(which, verdict)),
        1 => (0_u64..40).prop_map(Step::Requeue),
        1 => (0_u64..40).prop_map(Step::Drop),
        1 => (0_u64..3).prop_map(Step::Trim),
        5 => (1_u64..3_000, any::<u8>()).prop_map(|(ms, alive)| Step::Wait(ms, alive)),
        1 => Just(Step::NewLeader),
    ];
    prop::collection::vec(step, 1..120)
}

impl World {
    fn new() -> Self {
        let topic = Topic::new(0, tight());
        let (alarms, members) = (BTreeMap::new(), BTreeMap::new());
        Self { topic, now: 0, alarms, records: Vec::new(), members, delivered: Vec::new() }
    }

    fn apply(&mut self, command: GroupCommand) -> GroupResponse {
        let response = self.topic.apply(command);
        for change in std::mem::take(&mut self.topic.changes) {
            match change {
                AlarmChange::Clear(id) => drop(self.alarms.remove(&id)),
                AlarmChange::Set(alarm) => self.set(alarm),
            }
        }
        response
    }

    fn set(&mut self, alarm: GroupAlarm) {
        let after = u64::try_from(alarm.after.as_millis()).unwrap();
        self.alarms.insert(alarm.id, (self.now + after, alarm.command));
    }

    fn group(&self) -> &group::State {
        &self.topic.groups.groups["g"]
    }

    fn member(&self, which: usize) -> Option<u64> {
        let count = self.members.len();
        (count > 0).then(|| *self.members.keys().nth(which % count).unwrap())
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Append(count) => {
                self.topic.bounds.next += count;
                self.records.resize(usize::try_from(self.topic.bounds.next).unwrap(), State::Fresh);
            }
            Step::Join(name) => self.join(name),
            Step::Leave(which) => {
                let Some(member) = self.member(which) else { return };
                self.apply(GroupCommand::Leave { group: g(), member });
                self.gone(member);
            }
            Step::Fetch(which, max) => self.fetch(which, max),
            Step::Settle(which, verdict) => self.settle(which, verdict),
            Step::Requeue(offset) => self.dead_letter(offset, true),
            Step::Drop(offset) => self.dead_letter(offset, false),
            Step::Trim(count) => self.trim(count),
            Step::Wait(ms, alive) => self.wait(ms, alive),
            Step::NewLeader => {
                self.alarms.clear();
                let alarms: Vec<_> = self.topic.groups.alarms().collect();
                alarms.into_iter().for_each(|alarm| self.set(alarm));
            }
        }
    }

    fn join(&mut self, name: u8) {
        let name = format!("m{name}");
        let earlier = self.group().members.iter().find(|(_, member)| member.name == name);
        let earlier = earlier.map(|(id, _)| *id);
        let response = self.apply(GroupCommand::Join { group: g(), name });
        let GroupResponse::Joined { member, .. } = response else { panic!("{response:?}") };
        earlier.into_iter().for_each(|earlier| self.gone(earlier));
        self.members.insert(member, self.now);
    }

    fn fetch(&mut self, which: usize, max: u32) {
        let Some(member) = self.member(which) else { return };
        let ready = GroupQuery::Ready { group: g(), member };
        let was_ready = self.topic.groups.query(self.topic.bounds, &ready);
        let response = self.apply(GroupCommand::Fetch { group: g(), member, max });
        let GroupResponse::Fetched(records) = response else { panic!("{response:?}") };
        let is_ready = was_ready == GroupResponse::Ready(true);
        assert_eq!(is_ready && max > 0, !records.is_empty(), "of {max}: {records:?}");
        assert!(records.len() <= max as usize);
        self.members.insert(member, self.now);
        let state = |record: &Delivered| self.records[usize::try_from(record.offset).unwrap()];
        let is_new = |record: &Delivered| state(record) == State::Fresh;
        assert!(records.is_sorted_by_key(|record| (is_new(record), record.offset)));
        for record in records {
            let state = &mut self.records[usize::try_from(record.offset).unwrap()];
            let tries = match *state {
                State::Fresh => 0,
                State::Waiting { tries, not_before, .. } => {
                    assert!(not_before <= self.now, "{record:?} was delivered too early");
                    tries
                }
                State::With { .. } | State::Dead { .. } | State::Done | State::Skipped => {
                    panic!("{record:?} was delivered, but is {state:?}")
                }
            };
            assert_eq!(record.tries, tries + 1);
            assert!(record.tries <= tight().tries_max, "tried too often");
            let Delivered { delivery, tries, .. } = record;
            assert!(self.delivered.last().is_none_or(|(_, last)| last.delivery < delivery));
            *state = State::With { member, delivery, tries, since: self.now };
            self.delivered.push((member, record));
        }
    }

    fn settle(&mut self, which: usize, verdict: Verdict) {
        if self.delivered.is_empty() {
            return;
        }
        // Of the last ones, since most of the others are stale.
        let back = which % self.delivered.len().min(12);
        let (member, record) = self.delivered[self.delivered.len() - 1 - back];
        let Delivered { offset, delivery, .. } = record;
        let deliveries = vec![Settlement { offset, delivery }];
        let command = GroupCommand::Settle { group: g(), member, verdict, deliveries };
        let response = self.apply(command);
        if let Some(heard) = self.members.get_mut(&member) {
            *heard = self.now;
        }
        let now = self.now;
        let state = &mut self.records[usize::try_from(offset).unwrap()];
        let next = match (*state, verdict) {
            (State::With { delivery: its, member, tries, .. }, _) if its == delivery => {
                Some(match verdict {
                    Verdict::Ack => State::Done,
                    Verdict::Bury => State::Dead { delivery },
                    Verdict::Extend => State::With { member, delivery, tries, since: now },
                    Verdict::Release => {
                        State::Waiting { tries: tries - 1, delivery, not_before: now }
                    }
                    Verdict::Again { after } => {
                        let after = u64::try_from(after.as_millis()).unwrap();
                        failed(tries, delivery, now + after)
                    }
                })
            }
            (
                State::Waiting { delivery: its, .. } | State::Dead { delivery: its },
                Verdict::Ack,
            ) if its == delivery => Some(State::Done),
            _ => None,
        };
        let outcome = if next.is_some() { Outcome::Done } else { Outcome::Stale };
        assert_eq!(response, GroupResponse::Settled(vec![outcome]), "{record:?} {state:?}");
        *state = next.unwrap_or(*state);
    }

    fn dead_letter(&mut self, offset: u64, requeue: bool) {
        let offsets = vec![offset];
        let response = self.apply(match requeue {
            true => GroupCommand::Requeue { group: g(), offsets },
            false => GroupCommand::Drop { group: g(), offsets },
        });
        let now = self.now;
        let mut nothing = State::Done;
        let state = usize::try_from(offset).unwrap();
        let state = self.records.get_mut(state).unwrap_or(&mut nothing);
        let State::Dead { delivery } = *state else {
            assert_eq!(response, GroupResponse::Settled(vec![Outcome::Stale]));
            return;
        };
        if response == GroupResponse::Settled(vec![Outcome::Full]) {
            assert!(requeue && self.group().pending() == 6);
            return;
        }
        assert_eq!(response, GroupResponse::Settled(vec![Outcome::Done]));
        *state = match requeue {
            true => State::Waiting { tries: 0, delivery, not_before: now },
            false => State::Done,
        };
    }

    fn trim(&mut self, count: u64) {
        let bounds = &mut self.topic.bounds;
        bounds.first = (bounds.first + count).min(bounds.next);
        let first = bounds.first;
        let mut groups = std::mem::take(&mut self.topic.groups);
        groups.trim(first, &mut self.topic.changes);
        self.topic.groups = groups;
        // A command without effect, for its changes of alarms.
        self.apply(GroupCommand::Leave { group: g(), member: 0 });
        for state in &mut self.records[..usize::try_from(first).unwrap()] {
            if *state != State::Done {
                *state = State::Skipped;
            }
        }
    }

    /// Time passes, and alarms go off when they are due.
    fn wait(&mut self, ms: u64, alive: u8) {
        let until = self.now + ms;
        while let Some((&id, &(due, _))) = self.alarms.iter().min_by_key(|(_, (due, _))| *due) {
            if due > until {
                break;
            }
            self.now = due;
            let (_, command) = self.alarms.remove(&id).unwrap();
            self.apply(command.clone());
            self.expire();
            let before = self.topic.groups.clone();
            self.apply(command);
            assert_eq!(self.topic.groups, before, "an impulse worked twice");
        }
        self.now = until;
        for (number, member) in self.members.keys().copied().collect::<Vec<_>>().iter().enumerate()
        {
            if alive & (1 << (number % 8)) != 0 {
                let alive = GroupCommand::KeepAlive { group: g(), member: *member };
                assert_eq!(self.apply(alive), GroupResponse::Done);
                self.members.insert(*member, self.now);
            }
        }
    }

    /// An alarm went off: whatever changed must have had its time.
    fn expire(&mut self) {
        let lost = |id: &u64| !self.group().members.contains_key(id);
        let lost: Vec<_> = self.members.keys().copied().filter(lost).collect();
        for member in lost {
            let silent = self.now - self.members[&member];
            assert!(silent >= SESSION_MS, "lost after {silent} ms");
            self.gone(member);
        }
        let group = Arc::clone(&self.topic.groups.groups["g"]);
        for (offset, state) in self.records.iter_mut().enumerate() {
            let State::With { delivery, tries, since, .. } = *state else { continue };
            if !group.in_flight.contains_key(&(offset as u64)) {
                assert!(self.now - since >= ACK_MS, "expired after {} ms", self.now - since);
                *state = failed(tries, delivery, self.now);
            }
        }
    }

    fn gone(&mut self, member: u64) {
        self.members.remove(&member);
        let now = self.now;
        for state in &mut self.records {
            if let State::With { member: its, delivery, tries, .. } = *state
                && its == member
            {
                *state = failed(tries, delivery, now);
            }
        }
    }

    /// The group and the list say the same of every record.
    fn check(&self) {
        let group = self.group();
        let heard: Vec<_> = self.members.keys().collect();
        assert_eq!(group.members.keys().collect::<Vec<_>>(), heard);
        for (offset, state) in (0_u64..).zip(&self.records) {
            let with = group.in_flight.get(&offset).map(|record| record.member);
            let waits = group.available.contains_key(&offset);
            let waits = waits || group.delayed.contains_key(&offset);
            let found = (with, waits, group.dead.contains_key(&offset), offset >= group.next);
            let expected = match *state {
                State::Fresh => (None, false, false, true),
                State::With { member, .. } => (Some(member), false, false, false),
                State::Waiting { .. } => (None, true, false, false),
                State::Dead { .. } => (None, false, true, false),
                State::Done | State::Skipped => (None, false, false, false),
            };
            assert_eq!(found, expected, "record {offset} is {state:?}");
        }
        assert!(group.pending() <= 6, "more is pending than may be");
        let done = self.records.iter().filter(|state| **state == State::Done).count() as u64;
        assert_eq!(group.counts.acked + group.counts.dropped, done);
        let alarms: Vec<_> = self.topic.groups.alarms().map(|alarm| alarm.id).collect();
        assert_eq!(self.alarms.keys().copied().collect::<Vec<_>>(), alarms);
        let bytes = self.topic.groups.encode();
        let read = Groups::decode(&bytes).unwrap();
        assert_eq!((&read, read.encode()), (&self.topic.groups, bytes));
    }
}

fn failed(tries: u32, delivery: u64, not_before: u64) -> State {
    match tries >= tight().tries_max {
        true => State::Dead { delivery },
        false => State::Waiting { tries, delivery, not_before },
    }
}

proptest! {
    /// Each record is fresh, with exactly one member, waiting, dead, or done with: it is never lost
    /// and never with two, whatever happens; and everything takes at least the time it should.
    #[test]
    fn no_record_is_lost_or_given_twice(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
            world.check();
        }
        // Left alone with one member that works, the group comes to its end.
        world.topic.apply(GroupCommand::Join { group: g(), name: "last".to_owned() });
        let member = world.topic.index;
        for _ in 0..400 {
            for record in world.topic.fetch(member, 4) {
                world.topic.settle(member, Verdict::Ack, record);
            }
            let offsets = world.topic.dead().iter().map(|letter| letter.offset).collect();
            world.topic.apply(GroupCommand::Requeue { group: g(), offsets });
            world.topic.tick();
        }
        prop_assert_eq!(world.topic.status().lag, 0);
        prop_assert_eq!(world.topic.status().dead, 0);
    }
}
