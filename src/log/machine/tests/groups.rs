//! Consumer groups as a part of the log.

use super::*;
use crate::log::groups::{
    Delivered, GroupCommand, GroupOptions, GroupQuery, GroupResponse, Refusal as GroupRefusal,
    Start,
};

fn group(command: &GroupCommand) -> Command {
    Command::Group { topic: name("a"), command: command.encode() }
}

fn asked(query: &GroupQuery) -> Query {
    Query::Group { topic: name("a"), query: query.encode() }
}

fn join(world: &mut World, effects: &mut Effects) -> u64 {
    let join = GroupCommand::Join { group: "g".to_owned(), name: "w".to_owned() };
    let answer = world.apply_with(&group(&join), effects);
    let Answer::Group(GroupResponse::Joined { member, .. }) = answer else { panic!("{answer:?}") };
    member
}

fn fetch(world: &mut World, member: u64, effects: &mut Effects) -> Vec<u64> {
    let fetch = GroupCommand::Fetch { group: "g".to_owned(), member, max: 9 };
    let answer = world.apply_with(&group(&fetch), effects);
    let Answer::Group(GroupResponse::Fetched(records)) = answer else { panic!("{answer:?}") };
    records.iter().map(|Delivered { offset, .. }| *offset).collect()
}

/// What a group wants to be told must reach the replica that leads, now and after a change of
/// leader, and must come back as a command of this log.
#[test]
fn alarms_of_groups_are_set_kept_and_cleared_with_their_topic() {
    let mut world = World::new();
    world.apply(&Command::Append(append("a", 1, &["x", "y"])));
    let mut effects = Effects::default();
    let member = join(&mut world, &mut effects);
    assert_eq!(fetch(&mut world, member, &mut effects), [0, 1]);
    let set: Vec<_> = effects.take_alarms().into_iter().filter_map(|(_, alarm)| alarm).collect();
    assert_eq!(set.len(), 2);

    let snapshot = image_bytes(world.machine.snapshot());
    let mut other = LogMachine::new();
    other.restore(&mut &snapshot[..]).unwrap();
    assert_eq!(other, world.machine);
    let mut alarms = other.alarms();
    alarms.sort_by_key(|alarm| std::cmp::Reverse(alarm.id));
    assert_eq!(alarms, set);

    // Silent for long enough, the member is gone, and so are both alarms.
    let mut cleared = Vec::new();
    for _ in 0..6 {
        for alarm in world.machine.alarms() {
            let index = world.put(alarm.command.clone());
            world.machine.apply(index, &alarm.command, &mut effects);
        }
        cleared.extend(effects.take_alarms().into_iter().filter(|(_, alarm)| alarm.is_none()));
    }
    assert_eq!((world.machine.alarms(), cleared.len()), (Vec::new(), 2));

    let member = join(&mut world, &mut effects);
    assert_eq!(fetch(&mut world, member, &mut effects), [0, 1]);
    effects.take_alarms();
    world.apply_with(&Command::Delete { topic: name("a") }, &mut effects);
    assert!(effects.take_alarms().iter().all(|(_, alarm)| alarm.is_none()));
    assert_eq!(world.machine, LogMachine { position: world.machine.position, ..LogMachine::new() });
}

/// A member that asks waits for its replica to know it, and for records.
#[test]
fn question_of_a_member_waits_until_there_is_something() {
    let mut world = World::new();
    let ready = |member| asked(&GroupQuery::Ready { group: "g".to_owned(), member });
    let poll = |world: &World, member| {
        let bytes = world.machine.poll_query(&ready(member).encode().unwrap(), &world.log)?;
        Some(Answer::decode(&bytes).unwrap())
    };
    assert_eq!(poll(&world, 9), None, "the topic may come");
    world.apply(&Command::Create { topic: name("a"), options: TopicOptions::default() });
    assert_eq!(poll(&world, 9), None, "the member may come");
    let member = join(&mut world, &mut Effects::default());
    assert_eq!(poll(&world, member), None);
    world.apply(&Command::Append(append("a", 1, &["x"])));
    assert_eq!(poll(&world, member), Some(Answer::Group(GroupResponse::Ready(true))));
    // When its time is up, the question is answered as it is.
    let refused = Answer::Group(GroupResponse::Refused(GroupRefusal::NotMember));
    assert_eq!(world.ask(&ready(1)), refused);
}

/// Groups go on with what the topic still has.
#[test]
fn group_does_not_wait_for_records_that_were_trimmed() {
    let mut world = World::new();
    let mut effects = Effects::default();
    world.apply(&Command::Append(append("a", 1, &["x", "y", "z"])));
    let member = join(&mut world, &mut effects);
    world.apply(&Command::Trim { topic: name("a"), before: 2 });
    assert_eq!(fetch(&mut world, member, &mut effects), [2]);
}

/// Bytes that are no group command are refused by the group, a topic that is none by the log.
#[test]
fn operations_on_groups_are_refused_with_their_reason() {
    let mut world = World::new();
    let status = GroupQuery::Status { group: "g".to_owned() };
    assert_eq!(world.ask(&asked(&status)), Answer::Refused(Refusal::TopicUnknown));
    world.apply(&Command::Append(append("a", 1, &["x"])));
    let refused = |refusal| Answer::Group(GroupResponse::Refused(refusal));
    assert_eq!(world.ask(&asked(&status)), refused(GroupRefusal::NoGroup));
    let damaged = Command::Group { topic: name("a"), command: Bytes::from_static(b"\xff") };
    assert_eq!(world.apply(&damaged), refused(GroupRefusal::Malformed));
    let damaged = Query::Group { topic: name("a"), query: Bytes::from_static(b"\xff") };
    assert_eq!(world.ask(&damaged), refused(GroupRefusal::Malformed));
}

/// All groups of all topics have a limit of their own, which those that go make room in.
#[test]
fn groups_of_all_topics_are_limited() {
    let mut world = World::new();
    let create = |number: usize| {
        let (group, start) = (format!("g{}", number % 64), Start::End);
        let create = GroupCommand::Create { group, start, options: GroupOptions::default() };
        let topic = Bytes::from(format!("t{}", number / 64));
        Command::Group { topic, command: create.encode() }
    };
    for number in 0..CONSUMER_GROUPS_MAX {
        if number % 64 == 0 {
            let topic = format!("t{}", number / 64);
            world.apply(&Command::Append(append(&topic, 1, &["x"])));
        }
        assert_eq!(world.apply(&create(number)), Answer::Group(GroupResponse::Done));
    }
    let last = create(CONSUMER_GROUPS_MAX - 1);
    assert_eq!(world.apply(&last), Answer::Group(GroupResponse::Done), "it is there already");
    world.apply(&Command::Append(append("more", 1, &["x"])));
    let one_more = GroupCommand::Join { group: "g".to_owned(), name: "w".to_owned() };
    let one_more = Command::Group { topic: name("more"), command: one_more.encode() };
    let full = Answer::Group(GroupResponse::Refused(GroupRefusal::TooManyGroups));
    assert_eq!(world.apply(&one_more), full);
    world.apply(&Command::Delete { topic: name("t0") });
    assert!(matches!(world.apply(&one_more), Answer::Group(GroupResponse::Joined { .. })));
}
