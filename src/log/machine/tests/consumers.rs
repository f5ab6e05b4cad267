//! Groups of consumers inside the machine: what they do is tested beside them, here is what the
//! machine makes of it.

use super::*;
use crate::log::groups::{GroupOptions, Refusal as GroupRefusal};

fn group(topic: &str, command: &GroupCommand) -> Command {
    Command::Group { topic: name(topic), command: command.encode() }
}

fn join(number: u64) -> GroupCommand {
    GroupCommand::Join { group: format!("g{number}"), name: "worker".to_owned() }
}

fn response(answer: &Answer) -> GroupResponse {
    let Answer::Group(bytes) = answer else { panic!("{answer:?}") };
    GroupResponse::decode(bytes).unwrap()
}

/// A worker may be there before the first record, waits for it, and gets it once.
#[test]
fn member_waits_for_records_and_gets_them() {
    let mut world = World::new();
    let GroupResponse::Joined { member, .. } = response(&world.apply(&group("a", &join(1)))) else {
        panic!("not joined")
    };
    let query = GroupQuery::Ready { group: "g1".to_owned(), member }.encode();
    let ready = Query::Group { topic: name("a"), query }.encode().unwrap();
    assert_eq!(world.machine.poll_query(&ready, &world.log), None);
    // A replica that lags has neither the topic nor the member.
    assert_eq!(LogMachine::new().poll_query(&ready, &world.log), None);
    world.apply(&Command::Append(append("a", 1, &["x", "y"])));
    assert!(world.machine.poll_query(&ready, &world.log).is_some());
    let fetch = GroupCommand::Fetch { group: "g1".to_owned(), member, max: 9 };
    let mut effects = Effects::default();
    let fetched = world.apply_with(&group("a", &fetch), &mut effects);
    let GroupResponse::Fetched(records) = response(&fetched) else { panic!("{fetched:?}") };
    assert_eq!(records.iter().map(|record| record.offset).collect::<Vec<_>>(), [0, 1]);
    let set = effects.take_alarms();
    assert!(!set.is_empty(), "nobody would notice that the member is gone");
    for (id, alarm) in set {
        assert!(world.machine.alarms().contains(&alarm.unwrap()), "{id} is not listed");
    }
}

/// What a topic takes with it when it is deleted: also the alarms of its groups.
#[test]
fn deleted_topic_takes_its_groups_along() {
    let mut world = World::new();
    world.apply(&group("a", &join(1)));
    let alarms: Vec<u64> = world.machine.alarms().iter().map(|alarm| alarm.id).collect();
    assert!(!alarms.is_empty());
    let mut effects = Effects::default();
    world.apply_with(&Command::Delete { topic: name("a") }, &mut effects);
    let mut cleared: Vec<u64> = effects.take_alarms().into_iter().map(|(id, _)| id).collect();
    cleared.sort_unstable();
    assert_eq!(cleared, alarms);
    assert_eq!((world.machine.alarms(), world.machine.consumer_groups), (vec![], 0));
}

/// What is refused changes nothing, so it creates no topic.
#[test]
fn refused_group_creates_no_topic() {
    let mut world = World::new();
    let options = GroupOptions { tries_max: 0, ..GroupOptions::default() };
    let start = crate::log::groups::Start::First;
    let create = GroupCommand::Create { group: "g".to_owned(), start, options };
    let refused = response(&world.apply(&group("a", &create)));
    assert_eq!(refused, GroupResponse::Refused(GroupRefusal::InvalidOptions));
    let leave = GroupCommand::Leave { group: "g".to_owned(), member: 7 };
    assert_eq!(world.apply(&group("a", &leave)), Answer::Refused(Refusal::TopicUnknown));
    assert!(world.machine.is_empty());
}

/// Groups come back with a snapshot, and count against the same limit.
#[test]
fn groups_survive_a_snapshot() {
    let mut world = World::new();
    world.apply(&Command::Append(append("a", 1, &["x"])));
    for number in 0..3 {
        world.apply(&group("a", &join(number)));
    }
    let bytes = image_bytes(world.machine.snapshot());
    let mut restored = LogMachine::new();
    restored.restore(&mut &bytes[..]).unwrap();
    assert_eq!(restored, world.machine);
    assert_eq!(restored.consumer_groups, 3);
    for cut in 0..bytes.len() {
        assert!(restored.restore(&mut &bytes[..cut]).is_err(), "cut at {cut}");
    }
}

/// One client must not fill the memory of the replicas with groups.
#[test]
fn groups_of_all_topics_together_are_limited() {
    let mut world = World::new();
    world.apply(&group("a", &join(1)));
    world.machine.consumer_groups = CONSUMER_GROUPS_MAX;
    let full = Answer::Refused(Refusal::GroupsFull { limit: CONSUMER_GROUPS_MAX as u64 });
    assert_eq!(world.apply(&group("b", &join(1))), full);
    let again = response(&world.apply(&group("a", &join(1))));
    assert!(matches!(again, GroupResponse::Joined { .. }), "one that is there needs no room");
}
