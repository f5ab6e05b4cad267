//! Records that others with the same key have followed go, and readers miss nothing but them.

use std::hash::{BuildHasherDefault, DefaultHasher};

use proptest::prelude::*;

use super::*;
use crate::log::Compaction;
use crate::log::carry::Part;
use crate::log::cleaner::{Cleaner, RoundError, Step};
use crate::log::compaction::Compact;
use crate::log::latest::Latest;

type Hash = BuildHasherDefault<DefaultHasher>;

fn compacted(compaction: Compaction) -> TopicOptions {
    TopicOptions { compaction: Some(compaction), ..TopicOptions::default() }
}

/// As soon as anything can be compacted, and tombstones at once.
const EAGER: Compaction =
    Compaction { after: Duration::ZERO, tombstones_for: Duration::ZERO, dirty_percent: 1 };

fn create(world: &mut World, topic: &str, compaction: Compaction) {
    world.apply(&Command::Create { topic: name(topic), options: compacted(compaction) });
}

/// Every record of a topic: offset, key and value.
fn all(world: &World, topic: &str, bytes_max: u32) -> Vec<(u64, Bytes, Bytes)> {
    let view = world.view(topic);
    let (mut from, mut found) = (view.first, Vec::new());
    while from < view.next {
        let page = world.page(topic, from, bytes_max, u32::MAX);
        assert!(!page.batches.is_empty(), "nothing at {from} of {view:?}");
        for batch in &page.batches {
            let records = (batch.base..).zip(batch.decode().unwrap());
            let behind = records.filter(|(offset, _)| *offset >= from);
            found.extend(behind.map(|(at, of)| (at, of.key.unwrap_or_default(), of.value)));
            from = from.max(batch.end().unwrap());
        }
    }
    found
}

fn cleaner(world: &World, after: &str, keys_max: usize) -> Option<Cleaner<Hash>> {
    let answer = world.ask(&Query::Dirty { after: name(after) });
    let Answer::Dirty(dirty) = answer else { panic!("{answer:?}") };
    dirty.map(|dirty| Cleaner::new(dirty, Latest::new(Default::default(), keys_max)))
}

/// Takes a step; says whether there was one.
fn step(world: &mut World, cleaner: &mut Cleaner<Hash>) -> Result<bool, RoundError> {
    let (index, answer) = match cleaner.step() {
        Step::Over => return Ok(false),
        Step::Ask(query) => (0, world.ask(&query)),
        Step::Propose(command) => (world.log.next, world.apply(&command)),
    };
    cleaner.take(index, answer)?;
    Ok(true)
}

/// Rounds until nothing is worth one; says how many there were.
fn clean(world: &mut World, keys_max: usize) -> usize {
    for times in 0..100 {
        let Some(mut cleaner) = cleaner(world, "", keys_max) else { return times };
        while step(world, &mut cleaner).unwrap() {}
    }
    panic!("it never ends");
}

fn set(world: &mut World, topic: &str, key: u64, value: &str) {
    let record = Record::with_key(format!("key-{key}"), value.to_owned());
    let answer = world.apply(&Command::Append(append_records(topic, 5, &[record])));
    assert!(matches!(answer, Answer::Appended { .. }), "{answer:?}");
}

/// What a compacted topic is for: its size is that of its keys, however often they were written, and
/// the disk gets the rest back.
#[test]
fn topic_has_the_size_of_its_keys() {
    let mut world = World::new();
    create(&mut world, "t", Compaction::default());
    let value = "v".repeat(100);
    for number in 0..30_000 {
        set(&mut world, "t", number % 100, &value);
        if number % 3_000 == 0 {
            clean(&mut world, 1 << 20);
            world.compact();
        }
    }
    clean(&mut world, 1 << 20);
    world.compact();
    let found = all(&world, "t", 100_000);
    assert!((100..200).contains(&found.len()), "{} records", found.len());
    assert!(world.view("t").bytes < 60_000, "{:?}", world.view("t"));
    let bytes: usize = world.log.entries.values().map(Bytes::len).sum();
    assert!(bytes < 150_000, "{bytes} bytes are held");
    assert_eq!(world.view("t").next, 30_000);
}

/// More keys than a round remembers take more rounds, and come to the same.
#[test]
fn rounds_that_remember_few_keys_come_to_the_same() {
    let mut world = World::new();
    create(&mut world, "t", EAGER);
    let value = "v".repeat(200);
    for number in 0..2_000 {
        set(&mut world, "t", number % 500, &value);
    }
    assert!(clean(&mut world, 60) > 5, "it was done in a few rounds");
    let found = all(&world, "t", 100_000);
    assert!((500..560).contains(&found.len()), "{} records", found.len());
}

/// A tombstone is there for readers who lag; when they have had their time, it goes, and what it
/// stood for does not come back.
#[test]
fn tombstones_go_after_their_time() {
    let mut world = World::new();
    let tombstones_for = Duration::from_secs(60);
    create(&mut world, "t", Compaction { tombstones_for, ..EAGER });
    let value = "v".repeat(3_000);
    let fill =
        |world: &mut World, from| (from..from + 6).for_each(|at| set(world, "t", at, &value));
    set(&mut world, "t", 1, "old");
    set(&mut world, "t", 1, "");
    fill(&mut world, 10);
    clean(&mut world, 99);
    let of_one = |world: &World| {
        let found = all(world, "t", 9_999).into_iter();
        found
            .filter(|(_, key, _)| key == "key-1")
            .map(|(at, _, value)| (at, value))
            .collect::<Vec<_>>()
    };
    assert_eq!(of_one(&world), [(1, name(""))]);
    for _ in 0..20 {
        let seen = world.machine.clock;
        world.apply(&Command::Clock { seen, step: 10 });
    }
    fill(&mut world, 10);
    clean(&mut world, 99);
    assert_eq!(of_one(&world), []);
}

/// Readers who lag less than that see every record.
#[test]
fn records_stay_for_their_time() {
    let mut world = World::new();
    create(&mut world, "t", Compaction { after: Duration::from_secs(60), ..EAGER });
    let value = "v".repeat(3_000);
    (0..9).for_each(|_| set(&mut world, "t", 1, &value));
    assert_eq!(clean(&mut world, 99), 0);
    for _ in 0..8 {
        let seen = world.machine.clock;
        world.apply(&Command::Clock { seen, step: 10 });
    }
    (0..9).for_each(|_| set(&mut world, "t", 1, &value));
    assert!(clean(&mut world, 99) > 0);
    let offsets: Vec<_> = all(&world, "t", 9_999).iter().map(|(at, ..)| *at).collect();
    assert!((9..12).contains(&offsets.len()), "{offsets:?}");
    assert!(offsets.ends_with(&[9, 10, 11, 12, 13, 14, 15, 16, 17]), "{offsets:?}");
}

/// What has no key can never be followed, so it is refused where it would stay for ever; what was
/// there before stays.
#[test]
fn record_without_a_key_is_refused() {
    let mut world = World::new();
    world.apply(&Command::Append(append("t", 1, &["before"])));
    world.apply(&Command::Configure { topic: name("t"), options: compacted(EAGER) });
    let answer = world.apply(&Command::Append(append("t", 1, &["x"])));
    assert_eq!(answer, Answer::Refused(Refusal::KeyMissing));
    let value = "v".repeat(3_000);
    (0..9).for_each(|_| set(&mut world, "t", 1, &value));
    clean(&mut world, 99);
    let offsets: Vec<_> = all(&world, "t", 9_999).iter().map(|(at, ..)| *at).collect();
    assert_eq!((offsets[0], offsets.last()), (0, Some(&9)));
    assert!(offsets.len() < 5, "{offsets:?}");
}

/// Whoever may send commands must not be able to change what was appended, or to have a step taken
/// for another round, for another topic, or twice.
#[test]
fn forged_steps_are_refused() {
    let mut world = World::new();
    create(&mut world, "t", EAGER);
    let value = "true".repeat(400);
    (0..20).for_each(|at| set(&mut world, "t", at % 4, &value));
    let mut cleaner = cleaner(&world, "", 99).unwrap();
    let good = loop {
        if let Step::Propose(Command::Compact(step)) = cleaner.step()
            && let Some(compact) = Compact::take(step)
            && compact.round > 0
        {
            break compact;
        }
        assert!(step(&mut world, &mut cleaner).unwrap());
    };
    let before = image_bytes(world.machine.snapshot());
    for forged in [
        Compact { round: good.round + 1, ..good.clone() },
        Compact { id: good.id + 1, ..good.clone() },
        Compact { sources: vec![], ..good.clone() },
        Compact { sources: good.sources[1..].to_vec(), ..good.clone() },
        Compact { sources: vec![(good.sources[0].0, 1)], ..good.clone() },
        Compact { batches: [&good.batches[..], b"x"].concat().into(), ..good.clone() },
        Compact { batches: [&good.batches[..], &good.batches[..]].concat().into(), ..good.clone() },
        Compact { round: 0, until: 8, ..good.clone() },
    ] {
        let refused = world.apply(&Command::Compact(forged.encode()));
        assert!(matches!(refused, Answer::Refused(_)), "{forged:?}: {refused:?}");
        // The bytes of the log count, and nothing else.
        let after = image_bytes(world.machine.snapshot());
        assert_eq!(after[13..], before[13..], "{forged:?}");
    }
    while step(&mut world, &mut cleaner).unwrap() {}
    let again = world.apply(&Command::Compact(good.encode()));
    assert_eq!(again, Answer::Refused(Refusal::RoundOver));
    assert!(all(&world, "t", 9_999).iter().all(|(.., found)| *found == value));
}

/// What happens while a round is under way.
#[derive(Clone, Debug)]
enum Event {
    Append {
        topic: u8,
        keys: Vec<(u8, u16)>,
    },
    /// The next step of the round, or the first one of a new round.
    Clean,
    /// Somebody else leads, and begins anew.
    Abandon,
    /// What is spare, and what is left of a sweep, whosever it is.
    Carry {
        topic: u8,
        is_whole: bool,
    },
    Clock,
    Compact,
    Configure {
        topic: u8,
        is_compacted: bool,
    },
    Restore,
    Trim {
        topic: u8,
        before: u64,
    },
}

fn some_event() -> impl Strategy<Value = Event> {
    let topic = || 0_u8..2;
    let value = prop_oneof![1 => Just(0_u16), 3 => 1_u16..40, 2 => 1_000_u16..3_000];
    let keys = prop::collection::vec((0_u8..5, value), 1..5);
    prop_oneof![
        8 => (topic(), keys).prop_map(|(topic, keys)| Event::Append { topic, keys }),
        20 => Just(Event::Clean),
        1 => Just(Event::Abandon),
        1 => (topic(), any::<bool>())
            .prop_map(|(topic, is_whole)| Event::Carry { topic, is_whole }),
        1 => Just(Event::Clock),
        2 => Just(Event::Compact),
        1 => (topic(), any::<bool>())
            .prop_map(|(topic, is_compacted)| Event::Configure { topic, is_compacted }),
        2 => Just(Event::Restore),
        1 => (topic(), 0_u64..90).prop_map(|(topic, before)| Event::Trim { topic, before }),
    ]
}

/// All records of a topic, whatever became of them: key, value, and whether its tombstone may go.
type Written = Vec<(Bytes, Bytes)>;

fn happen(world: &mut World, written: &mut BTreeMap<String, Written>, event: Event) {
    match event {
        Event::Append { topic, keys } => {
            let topic = format!("t{topic}");
            let number = world.log.next;
            let record = |(key, bytes): &(u8, u16)| {
                let text = format!("{number:06}").repeat(usize::from(*bytes) / 6 + 1);
                let value = if *bytes == 0 { String::new() } else { text };
                Record::with_key(vec![b'a' + key], value)
            };
            let records: Vec<_> = keys.iter().map(record).collect();
            world.apply(&Command::Append(append_records(&topic, number, &records)));
            let all = records.into_iter().map(|it| (it.key.unwrap(), it.value));
            written.entry(topic).or_default().extend(all);
        }
        Event::Carry { topic, is_whole } => {
            let id = world.machine.topic(&name(&format!("t{topic}"))).map_or(0, |view| view.id);
            let sweep = Query::Sweep { topic: name(&format!("t{topic}")), id, until: 0 };
            for query in [Query::Spare { slack: 0 }, sweep] {
                if let Answer::Spare(parts) = world.ask(&query) {
                    let mut behind = parts.clone();
                    drop(Part::take(&mut behind));
                    let one = parts.slice(..parts.len() - behind.len());
                    world.apply(&Command::Carry(if is_whole { parts } else { one }));
                }
            }
        }
        Event::Clock => {
            let seen = world.machine.clock;
            world.apply(&Command::Clock { seen, step: 7 });
        }
        Event::Compact => world.compact(),
        Event::Configure { topic, is_compacted } => {
            let compaction = is_compacted.then_some(Compaction {
                after: Duration::from_secs(5),
                tombstones_for: Duration::from_secs(9),
                ..EAGER
            });
            let options = TopicOptions { compaction, ..TopicOptions::default() };
            world.apply(&Command::Configure { topic: name(&format!("t{topic}")), options });
        }
        Event::Restore => {
            let bytes = image_bytes(world.machine.snapshot());
            let mut restored = LogMachine::new();
            restored.restore(&mut &bytes[..]).unwrap();
            assert_eq!(restored, world.machine);
            world.machine = restored;
        }
        Event::Trim { topic, before } => {
            world.apply(&Command::Trim { topic: name(&format!("t{topic}")), before });
        }
        Event::Clean | Event::Abandon => unreachable!("these are for the round"),
    }
}

/// Whoever reads from anywhere to the end knows the last value of every key that was written since,
/// and reads nothing that was not written.
fn check(
    world: &World,
    topic: &str,
    written: &Written,
    bytes_max: u32,
) -> Result<(), TestCaseError> {
    let view = world.view(topic);
    prop_assert_eq!(view.next, written.len() as u64);
    let found = all(world, topic, bytes_max);
    for pair in found.windows(2) {
        prop_assert!(pair[0].0 < pair[1].0);
    }
    let cleaned = world.machine.topics[topic.as_bytes()].cleaned;
    let clean: Vec<_> =
        found.iter().filter(|(at, ..)| *at < cleaned).map(|(_, key, _)| key).collect();
    let keys: std::collections::BTreeSet<_> = clean.iter().collect();
    prop_assert_eq!(keys.len(), clean.len(), "before {} a key comes twice: {:?}", cleaned, found);
    for (offset, key, value) in &found {
        let (of, is) = &written[usize::try_from(*offset).unwrap()];
        prop_assert_eq!((key, value), (of, is), "at {}", offset);
    }
    let first = usize::try_from(view.first).unwrap();
    let last: BTreeMap<_, _> = (first..written.len()).map(|at| (&written[at].0, at)).collect();
    for (key, at) in last {
        let is_there = found.iter().any(|(offset, ..)| *offset == at as u64);
        let seen: Vec<_> = found.iter().filter(|(_, of, _)| of == key).collect();
        // A tombstone may be gone, but then nothing of its key is left.
        let may_miss = written[at].1.is_empty() && seen.is_empty();
        prop_assert!(is_there || may_miss, "{key:?} is lost at {at}: {seen:?}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// See [`check`]; whatever happens between the steps of a round, and whoever goes on with it.
    #[test]
    fn last_record_of_each_key_stays(
        events in prop::collection::vec(some_event(), 1..250), most in 1_usize..50,
        bytes_max in 1_u32..9_000, keys_max in 1_usize..9,
    ) {
        let mut world = World::new();
        world.log.most = most;
        create(&mut world, "t0", EAGER);
        create(&mut world, "t1", Compaction { dirty_percent: 30, ..EAGER });
        let mut written = BTreeMap::<String, Written>::new();
        let mut round = None;
        for event in events {
            if matches!(event, Event::Abandon) {
                round = None;
            } else if matches!(event, Event::Clean) {
                round = round.or_else(|| cleaner(&world, "", keys_max));
                let went_on = round.as_mut().map(|round| step(&mut world, round));
                round = round.filter(|_| matches!(went_on, Some(Ok(true))));
            } else {
                happen(&mut world, &mut written, event);
            }
        }
        for (topic, written) in &written {
            check(&world, topic, written, bytes_max)?;
        }
    }
}
