//! What a group promises, one claim each.

use std::time::Duration;

use super::*;

mod codec;
mod model;

/// A topic with one group that is called `g`.
struct Topic {
    groups: Groups,
    bounds: Bounds,
    index: u64,
    changes: Vec<AlarmChange>,
}

impl Topic {
    fn new(records: u64, options: GroupOptions) -> Self {
        let bounds = Bounds { first: 0, next: records };
        let mut topic = Self { groups: Groups::new(), bounds, index: 0, changes: Vec::new() };
        let create = GroupCommand::Create { group: g(), start: Start::First, options };
        assert_eq!(topic.apply(create), GroupResponse::Done);
        topic
    }

    fn apply(&mut self, command: GroupCommand) -> GroupResponse {
        self.index += 1;
        self.groups.apply(self.index, self.bounds, &command, &mut self.changes)
    }

    fn join(&mut self, name: &str) -> u64 {
        let response = self.apply(GroupCommand::Join { group: g(), name: name.to_owned() });
        let GroupResponse::Joined { member, .. } = response else { panic!("{response:?}") };
        member
    }

    fn fetch(&mut self, member: u64, max: u32) -> Vec<Delivered> {
        let response = self.apply(GroupCommand::Fetch { group: g(), member, max });
        let GroupResponse::Fetched(records) = response else { panic!("{response:?}") };
        records
    }

    fn settle(&mut self, member: u64, verdict: Verdict, record: Delivered) -> Outcome {
        let Delivered { offset, delivery, .. } = record;
        let deliveries = vec![Settlement { offset, delivery }];
        let response = self.apply(GroupCommand::Settle { group: g(), member, verdict, deliveries });
        let GroupResponse::Settled(outcomes) = response else { panic!("{response:?}") };
        outcomes[0]
    }

    fn status(&self) -> GroupStatus {
        let response = self.groups.query(self.bounds, &GroupQuery::Status { group: g() });
        let GroupResponse::Status(status) = response else { panic!("{response:?}") };
        *status
    }

    fn dead(&self) -> Vec<DeadLetter> {
        let query = GroupQuery::Dead { group: g(), from: 0, max: u32::MAX };
        let response = self.groups.query(self.bounds, &query);
        let GroupResponse::Dead(dead) = response else { panic!("{response:?}") };
        dead
    }

    /// Lets every alarm that is set go off once.
    fn tick(&mut self) {
        for alarm in self.groups.alarms().collect::<Vec<_>>() {
            self.apply(alarm.command);
        }
    }
}

fn g() -> String {
    "g".to_owned()
}

fn options() -> GroupOptions {
    GroupOptions { tries_max: 2, ..GroupOptions::default() }
}

fn tries(records: &[Delivered]) -> Vec<(u64, u32)> {
    records.iter().map(|record| (record.offset, record.tries)).collect()
}

/// The point of a group: two members never have the same record.
#[test]
fn each_record_is_with_one_member() {
    let mut topic = Topic::new(5, options());
    let (a, b) = (topic.join("a"), topic.join("b"));
    let first = topic.fetch(a, 3);
    assert_eq!(tries(&first), [(0, 1), (1, 1), (2, 1)]);
    assert_eq!(tries(&topic.fetch(b, 9)), [(3, 1), (4, 1)]);
    assert!(topic.fetch(a, 9).is_empty(), "given twice");
    assert_eq!(topic.settle(a, Verdict::Ack, first[0]), Outcome::Done);
    assert_eq!(topic.settle(a, Verdict::Ack, first[0]), Outcome::Stale, "acknowledged twice");
    let status = topic.status();
    assert_eq!((status.floor, status.next, status.lag, status.in_flight), (1, 5, 4, 4));
}

/// What a member had is not lost with it, and comes before what is new.
#[test]
fn records_of_a_member_that_leaves_come_first_and_in_order() {
    let mut topic = Topic::new(6, options());
    let (a, b) = (topic.join("a"), topic.join("b"));
    let held = topic.fetch(a, 3);
    topic.settle(a, Verdict::Ack, held[1]);
    topic.apply(GroupCommand::Leave { group: g(), member: a });
    assert_eq!(tries(&topic.fetch(b, 3)), [(0, 2), (2, 2), (3, 1)]);
    let fetch = GroupCommand::Fetch { group: g(), member: a, max: 1 };
    assert_eq!(topic.apply(fetch), GroupResponse::Refused(Refusal::NotMember));
}

/// A worker that was restarted at once is not two workers.
#[test]
fn second_life_of_a_member_ends_the_first() {
    let mut topic = Topic::new(2, options());
    let old = topic.join("a");
    topic.fetch(old, 1);
    let new = topic.join("a");
    assert_eq!(topic.status().members, 1);
    assert_eq!(tries(&topic.fetch(new, 2)), [(0, 2), (1, 1)]);
    let alive = GroupCommand::KeepAlive { group: g(), member: old };
    assert_eq!(topic.apply(alive), GroupResponse::Refused(Refusal::NotMember));
}

/// Slow work whose record nobody else has taken yet was not done in vain; but a delivery that was
/// followed by another never speaks for it.
#[test]
fn late_acknowledgement_counts_until_somebody_else_has_the_record() {
    let mut topic = Topic::new(2, options());
    let (a, b) = (topic.join("a"), topic.join("b"));
    let held = topic.fetch(a, 2);
    topic.apply(GroupCommand::Leave { group: g(), member: a });
    assert_eq!(topic.settle(a, Verdict::Ack, held[0]), Outcome::Done);
    let again = topic.fetch(b, 2);
    assert_eq!(tries(&again), [(1, 2)]);
    assert_eq!(topic.settle(a, Verdict::Ack, held[1]), Outcome::Stale);
    assert_eq!(topic.settle(b, Verdict::Ack, again[0]), Outcome::Done);
    assert_eq!(topic.status().floor, 2);
}

/// Failing is tried as often as was said and not once more; giving back unseen is no try.
#[test]
fn record_that_fails_too_often_becomes_a_dead_letter() {
    let mut topic = Topic::new(2, options());
    let a = topic.join("a");
    let now = Verdict::Again { after: Duration::ZERO };
    for (verdict, expected) in [(Verdict::Release, 1), (now, 1), (now, 2)] {
        let record = topic.fetch(a, 1)[0];
        assert_eq!((record.offset, record.tries), (0, expected));
        assert_eq!(topic.settle(a, verdict, record), Outcome::Done);
    }
    assert_eq!(topic.dead(), [DeadLetter { offset: 0, tries: 2 }]);
    let hopeless = topic.fetch(a, 1)[0];
    topic.settle(a, Verdict::Bury, hopeless);
    assert_eq!(topic.dead().len(), 2);

    let requeue = GroupCommand::Requeue { group: g(), offsets: vec![0, 7] };
    let outcomes = GroupResponse::Settled(vec![Outcome::Done, Outcome::Stale]);
    assert_eq!(topic.apply(requeue), outcomes);
    let drop = GroupCommand::Drop { group: g(), offsets: vec![1, 0] };
    assert_eq!(topic.apply(drop), outcomes);
    assert_eq!(tries(&topic.fetch(a, 1)), [(0, 1)], "the tries of a requeued record count anew");
}

/// Nothing is given up because nobody looked: the group comes to stand instead.
#[test]
fn dead_letters_beyond_their_room_stop_the_group_and_are_kept() {
    let tight = GroupOptions { pending_max: 2, dead_max: 1, ..options() };
    let mut topic = Topic::new(10, tight);
    let a = topic.join("a");
    for _ in 0..3 {
        let record = topic.fetch(a, 1)[0];
        topic.settle(a, Verdict::Bury, record);
    }
    assert!(topic.fetch(a, 1).is_empty(), "the dead letters grow without end");
    assert_eq!(topic.dead().len(), 3);
    let ready = GroupQuery::Ready { group: g(), member: a };
    assert_eq!(topic.groups.poll_query(topic.bounds, &ready), None);
    topic.apply(GroupCommand::Drop { group: g(), offsets: vec![0] });
    assert_eq!(topic.groups.poll_query(topic.bounds, &ready), Some(GroupResponse::Ready(true)));
    assert_eq!(tries(&topic.fetch(a, 9)), [(3, 1)]);
    let requeue = GroupCommand::Requeue { group: g(), offsets: vec![1, 2] };
    let outcomes = GroupResponse::Settled(vec![Outcome::Done, Outcome::Full]);
    assert_eq!(topic.apply(requeue), outcomes, "more is pending than may be");
}

/// Limits of one member and of all of them.
#[test]
fn no_more_is_pending_than_may_be() {
    let tight = GroupOptions { pending_max: 3, member_pending_max: 2, ..options() };
    let mut topic = Topic::new(10, tight);
    let (a, b) = (topic.join("a"), topic.join("b"));
    let held = topic.fetch(a, 9);
    assert_eq!(held.len(), 2);
    assert_eq!(topic.fetch(b, 9).len(), 1);
    topic.settle(a, Verdict::Ack, held[0]);
    assert_eq!(tries(&topic.fetch(b, 9)), [(3, 1)]);
}

/// A worker that hangs loses its records; one that asks for more time keeps them.
#[test]
fn records_expire_unless_more_time_is_asked_for() {
    let mut topic = Topic::new(2, GroupOptions { session_timeout: TIMEOUT_MAX, ..options() });
    let a = topic.join("a");
    let held = topic.fetch(a, 2);
    for _ in 0..5 {
        assert_eq!(topic.status().in_flight, 2, "early");
        topic.tick();
        topic.settle(a, Verdict::Extend, held[0]);
        topic.apply(GroupCommand::KeepAlive { group: g(), member: a });
    }
    let status = topic.status();
    assert_eq!((status.in_flight, status.available, status.counts.expired), (1, 1, 1));
    assert_eq!(topic.settle(a, Verdict::Extend, held[1]), Outcome::Stale);
}

/// Members that say nothing are gone; anything they say is a sign of life.
#[test]
fn silent_member_is_lost_with_what_it_has() {
    let mut topic = Topic::new(2, options());
    let (a, b) = (topic.join("a"), topic.join("b"));
    topic.fetch(a, 1);
    for _ in 0..3 {
        topic.tick();
        topic.fetch(b, 0);
    }
    let status = topic.status();
    assert_eq!((status.members, status.counts.lost), (1, 1));
    assert_eq!(tries(&topic.fetch(b, 1)), [(0, 2)]);
}

/// An alarm costs an entry of the log each time that it goes off.
#[test]
fn group_that_rests_has_no_alarm() {
    let mut topic = Topic::new(1, options());
    assert_eq!(topic.groups.alarms().count(), 0);
    let a = topic.join("a");
    let record = topic.fetch(a, 1)[0];
    assert_eq!(topic.groups.alarms().count(), 2);
    topic.changes.clear();
    topic.apply(GroupCommand::KeepAlive { group: g(), member: a });
    assert_eq!(topic.changes, [], "an alarm that is set anew at each command never goes off");
    topic.settle(a, Verdict::Ack, record);
    topic.apply(GroupCommand::Leave { group: g(), member: a });
    assert_eq!(topic.groups.alarms().count(), 0);
    assert_eq!(topic.changes, [AlarmChange::Clear(2), AlarmChange::Clear(3)]);
}

/// A group that was removed and made again under its name is another one.
#[test]
fn alarm_of_a_group_that_is_gone_does_nothing() {
    let mut topic = Topic::new(1, options());
    let a = topic.join("a");
    topic.fetch(a, 1);
    let alarms: Vec<_> = topic.groups.alarms().collect();
    topic.changes.clear();
    topic.apply(GroupCommand::Delete { group: g() });
    assert_eq!(topic.changes, [AlarmChange::Clear(2), AlarmChange::Clear(3)]);
    let a = topic.join("a");
    topic.fetch(a, 1);
    let before = topic.groups.clone();
    for alarm in alarms {
        assert_eq!(topic.apply(alarm.command), GroupResponse::Done);
    }
    assert_eq!(topic.groups, before);
}

/// What retention took away cannot be worked on; that it is missing is counted.
#[test]
fn records_that_the_topic_forgot_are_skipped_and_counted() {
    let mut topic = Topic::new(10, options());
    let a = topic.join("a");
    let held = topic.fetch(a, 3);
    topic.settle(a, Verdict::Ack, held[0]);
    topic.settle(a, Verdict::Bury, held[1]);
    topic.bounds.first = 5;
    topic.groups.trim(5, &mut topic.changes);
    assert_eq!(topic.settle(a, Verdict::Ack, held[2]), Outcome::Stale);
    let status = topic.status();
    assert_eq!((status.counts.skipped, status.in_flight, status.dead), (4, 0, 0));
    assert_eq!(tries(&topic.fetch(a, 1)), [(5, 1)]);
}

/// Both sides of each limit on how many there may be.
#[test]
fn groups_and_members_are_bounded() {
    let mut topic = Topic::new(0, options());
    for number in 1..GROUPS_MAX {
        let (group, start) = (format!("g{number}"), Start::End);
        let create = GroupCommand::Create { group, start, options: options() };
        assert_eq!(topic.apply(create.clone()), GroupResponse::Done);
        assert_eq!(topic.apply(create), GroupResponse::Done, "the same again is no error");
    }
    let join = GroupCommand::Join { group: "more".to_owned(), name: "a".to_owned() };
    assert_eq!(topic.apply(join), GroupResponse::Refused(Refusal::TooManyGroups));
    let create = |options| GroupCommand::Create { group: g(), start: Start::End, options };
    let other = create(GroupOptions::default());
    assert_eq!(topic.apply(other), GroupResponse::Refused(Refusal::Differs));
    for number in 0..MEMBERS_MAX {
        topic.join(&format!("m{number}"));
    }
    topic.join("m0");
    let join = GroupCommand::Join { group: g(), name: "more".to_owned() };
    assert_eq!(topic.apply(join), GroupResponse::Refused(Refusal::TooManyMembers));

    let page = GroupQuery::Groups { after: "g1".to_owned(), max: 2 };
    let GroupResponse::Groups(page) = topic.groups.query(topic.bounds, &page) else { panic!() };
    assert_eq!(page.iter().map(|group| &group.name[..]).collect::<Vec<_>>(), ["g10", "g11"]);
}
