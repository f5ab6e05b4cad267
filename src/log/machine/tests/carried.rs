//! Records are carried forward, and nobody notices but the disk.

use super::*;

const SLACK: u64 = 600 * 1024;

/// Appends to a topic that keeps little, until so many bytes have gone by.
fn churn(world: &mut World, bytes: usize) {
    let options = TopicOptions { bytes: Some(10_000), ..TopicOptions::default() };
    world.apply(&Command::Create { topic: name("busy"), options });
    let value = "v".repeat(10_000);
    for _ in 0..bytes / value.len() {
        world.apply(&Command::Append(append("busy", 1, &[&value])));
    }
}

/// Carries until there is nothing to be carried, and says how often.
fn carry_all(world: &mut World) -> usize {
    for times in 0..1_000 {
        let Some(carry) = world.spare(SLACK) else { return times };
        world.apply(&carry);
    }
    panic!("it never ends");
}

fn log_bytes(world: &World) -> u64 {
    world.log.entries.values().map(|command| command.len() as u64).sum()
}

/// A topic that nobody appends to must not keep the disk full of what all others have let go of.
#[test]
fn idle_topics_do_not_hold_the_log() {
    let mut world = World::new();
    for number in 0..300 {
        let topic = format!("idle-{}", number % 100);
        world.apply(&Command::Append(append(&topic, number, &["kept", "as", "well"])));
    }
    churn(&mut world, 3_000_000);
    world.compact();
    assert!(log_bytes(&world) > 3_000_000, "nothing is held, so there is nothing to test");
    let before: Vec<_> = (0..100).map(|at| world.page(&format!("idle-{at}"), 0, 999, 99)).collect();
    world.log.reads.set(0);
    let times = carry_all(&mut world);
    assert!(world.log.reads.get() <= (times + 1) * 70, "the replica stands still for too long");
    world.compact();
    assert!(log_bytes(&world) < 1_000_000, "{} bytes are held", log_bytes(&world));
    let after: Vec<_> = (0..100).map(|at| world.page(&format!("idle-{at}"), 0, 999, 99)).collect();
    assert_eq!(after, before);
    assert_eq!(
        world.ask(&Query::Find { topic: name("idle-7"), timestamp: 150 }),
        Answer::Offset(6)
    );
    // Again, and with appends to what was carried.
    world.apply(&Command::Append(append("idle-7", 999, &["new"])));
    churn(&mut world, 3_000_000);
    assert!(carry_all(&mut world) > 0);
    world.compact();
    assert!(log_bytes(&world) < 1_000_000, "{} bytes are held", log_bytes(&world));
    let found = records(&world.page("idle-7", 8, 999, 99), 8);
    assert_eq!(found, [(8, name("well")), (9, name("new"))]);
}

/// A large topic is carried piece by piece, more than one piece in an entry, in the order of the
/// log.
#[test]
fn large_topic_is_carried_in_pieces() {
    let mut world = World::new();
    let value = "v".repeat(500);
    for _ in 0..2_000 {
        world.apply(&Command::Append(append("large", 1, &[&value])));
    }
    churn(&mut world, 4_000_000);
    let times = carry_all(&mut world);
    assert!((2..20).contains(&times), "{times} times");
    world.compact();
    assert!(log_bytes(&world) < 3_200_000, "{} bytes are held", log_bytes(&world));
    world.log.reads.set(0);
    let page = world.page("large", 1_000, 300_000, 9_999);
    assert!(records(&page, 1_000).len() > 500);
    assert!(world.log.reads.get() < 10, "{} reads", world.log.reads.get());
    let bytes = image_bytes(world.machine.snapshot());
    let mut restored = LogMachine::new();
    restored.restore(&mut &bytes[..]).unwrap();
    assert_eq!(restored, world.machine);
}

/// As long as the log has little more than is kept, nothing is written twice.
#[test]
fn log_that_has_little_to_spare_is_left_alone() {
    let mut world = World::new();
    for _ in 0..100 {
        world.apply(&Command::Append(append("a", 1, &["x"])));
    }
    assert_eq!(world.spare(SLACK), None);
    world.apply(&Command::Trim { topic: name("a"), before: 100 });
    assert_eq!(world.spare(0), None, "nothing is kept, so nothing is held");
}

/// Whoever may send commands must not be able to change what was appended.
#[test]
fn forged_records_are_passed_over() {
    let mut world = World::new();
    world.apply(&Command::Append(append("a", 1, &["true"])));
    churn(&mut world, 1_000_000);
    let Some(Command::Carry(parts)) = world.spare(0) else { panic!("nothing to carry") };
    let at = parts.windows(4).position(|bytes| bytes == b"true").unwrap();
    let mut forged = parts.to_vec();
    forged[at..at + 4].copy_from_slice(b"fake");
    // Of a batch: base, timestamp, count, bytes; then of its record: key bytes, value bytes.
    let mut redated = parts.to_vec();
    redated[at - 6 - 16] ^= 1;
    let floor = world.machine.log_floor();
    for forged in [&forged, &redated] {
        world.apply(&Command::Carry(forged.clone().into()));
        assert_eq!(world.machine.log_floor(), floor);
        assert_eq!(records(&world.page("a", 0, 99, 9), 0), [(0, name("true"))]);
    }
    // What is passed over where it is applied is passed over by readers.
    world.apply(&Command::Carry([forged, redated, parts.to_vec()].concat().into()));
    assert!(world.machine.log_floor() > floor);
    let page = world.page("a", 0, 99, 9);
    assert_eq!(records(&page, 0), [(0, name("true"))]);
    assert_eq!(page.batches[0].timestamp, 1);
}
