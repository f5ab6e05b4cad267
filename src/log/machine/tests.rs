//! The machine beside a simple model of it, and what it promises by itself.

use std::cell::Cell;

use super::*;
use crate::log::{Batch, Page, Record};
use crate::replica::{PastCommands, PastError, image_bytes};

/// The replicated log, as far as it is kept.
#[derive(Default)]
struct Log {
    entries: BTreeMap<u64, Bytes>,
    first: u64,
    next: u64,
    /// Entries that one read gives at most.
    most: usize,
    reads: Cell<usize>,
}

impl Past for Log {
    fn commands(&self, from: u64, bytes_max: u64) -> Result<PastCommands, PastError> {
        self.reads.set(self.reads.get() + 1);
        if from < self.first {
            return Err(PastError::Forgotten { first: self.first });
        }
        let (mut past, mut bytes) = (PastCommands { commands: Vec::new(), next: from }, 0);
        for (index, command) in self.entries.range(from..) {
            bytes += command.len() as u64;
            let is_full = past.commands.len() >= self.most || bytes > bytes_max;
            if is_full && !past.commands.is_empty() {
                return Ok(past);
            }
            past.commands.push((*index, command.clone()));
            past.next = index + 1;
        }
        past.next = self.next.max(from);
        Ok(past)
    }
}

/// A machine with its log.
struct World {
    machine: LogMachine,
    log: Log,
}

impl World {
    fn new() -> Self {
        let log = Log { next: 2, most: usize::MAX, ..Log::default() };
        Self { machine: LogMachine::new(), log }
    }

    fn put(&mut self, command: Bytes) -> u64 {
        let index = self.log.next;
        self.log.entries.insert(index, command);
        self.log.next += 1;
        index
    }

    fn apply_with(&mut self, command: &Command, effects: &mut Effects) -> Answer {
        let bytes = command.encode().unwrap();
        let index = self.put(bytes.clone());
        Answer::decode(&self.machine.apply(index, &bytes, effects)).unwrap()
    }

    fn apply(&mut self, command: &Command) -> Answer {
        self.apply_with(command, &mut Effects::default())
    }

    /// The same command arrives again, in its session.
    fn repeat(&mut self, command: &Command) {
        let bytes = command.encode().unwrap();
        let index = self.put(bytes.clone());
        self.machine.skip(index, &bytes);
    }

    /// The log forgets what the machine does not need.
    fn compact(&mut self) {
        self.log.first = self.machine.log_floor().unwrap_or(self.log.next);
        self.log.entries = self.log.entries.split_off(&self.log.first);
    }

    fn ask(&self, query: &Query) -> Answer {
        let bytes = query.encode().unwrap();
        Answer::decode(&self.machine.query(&bytes, &self.log)).unwrap()
    }

    /// What the machine wants to have carried, if anything.
    fn spare(&self, slack: u64) -> Option<Command> {
        let answer = self.ask(&Query::Spare { slack });
        let Answer::Spare(parts) = answer else { panic!("{answer:?}") };
        (!parts.is_empty()).then_some(Command::Carry(parts))
    }

    fn page(&self, topic: &str, from: u64, bytes_max: u32, records_max: u32) -> Page {
        let topic = Bytes::from(topic.to_owned());
        let answer = self.ask(&Query::Read(Read { topic, id: 0, from, bytes_max, records_max }));
        let Answer::Records(page) = answer else { panic!("{answer:?}") };
        page
    }

    fn view(&self, topic: &str) -> TopicView {
        self.machine.topic(topic.as_bytes()).unwrap()
    }
}

fn append(topic: &str, timestamp: u64, values: &[&str]) -> Append {
    let records: Vec<_> = values.iter().map(|value| Record::new((*value).to_owned())).collect();
    append_records(topic, timestamp, &records)
}

fn append_records(topic: &str, timestamp: u64, records: &[Record]) -> Append {
    Append::new(topic.to_owned(), timestamp, records).unwrap()
}

fn name(topic: &str) -> Bytes {
    Bytes::from(topic.to_owned())
}

/// The records of a page from an offset on, with their offsets.
fn records(page: &Page, from: u64) -> Vec<(u64, Bytes)> {
    let of = |batch: &Batch| {
        let records = batch.decode().unwrap().into_iter().map(|record| record.value);
        (batch.base..).zip(records).collect::<Vec<_>>()
    };
    page.batches.iter().flat_map(of).filter(|(offset, _)| *offset >= from).collect()
}

fn alarm(effects: &mut Effects) -> Option<Alarm> {
    effects.take_alarms().pop().and_then(|(_, alarm)| alarm)
}

/// The records lie in the log and nowhere else, and come out as they went in.
#[test]
fn records_are_read_out_of_the_log_with_their_offsets() {
    let mut world = World::new();
    let first = world.apply(&Command::Append(append("a", 5, &["x", "y"])));
    assert_eq!(first, Answer::Appended { id: 2, first: 0, next: 2 });
    world.apply(&Command::Append(append("b", 6, &["other"])));
    world.apply(&Command::Append(append("a", 7, &["z"])));
    let page = world.page("a", 0, 1_000, 1_000);
    assert_eq!((page.id, page.first, page.next), (2, 0, 3));
    assert_eq!(page.batches[0].records, append("a", 0, &["x", "y"]).records, "re-encoded");
    assert_eq!(page.batches.iter().map(|batch| batch.timestamp).collect::<Vec<_>>(), [5, 7]);
    assert_eq!(records(&page, 1), [(1, name("y")), (2, name("z"))]);
    assert_eq!(world.page("a", 3, 1_000, 1_000).batches, [], "there is nothing yet");
}

/// A writer that acts on what it has read must not act on what has changed since.
#[test]
fn expected_offset_is_met_or_nothing_is_appended() {
    let mut world = World::new();
    let with =
        |expected| Command::Append(Append { expected: Some(expected), ..append("a", 1, &["x"]) });
    let mismatch = |current| Answer::Refused(Refusal::OffsetMismatch { current });
    assert_eq!(world.apply(&with(1)), mismatch(0));
    assert!(world.machine.is_empty(), "a refused append has created a topic");
    assert_eq!(world.apply(&with(0)), Answer::Appended { id: 3, first: 0, next: 1 });
    assert_eq!(world.apply(&with(0)), mismatch(1));
    assert_eq!(world.apply(&with(1)), Answer::Appended { id: 3, first: 1, next: 2 });
    assert_eq!(records(&world.page("a", 0, 99, 99), 0), [(0, name("x")), (1, name("x"))]);
}

/// A topic comes into being by its first append, unless the writer does not want that.
#[test]
fn append_creates_its_topic_or_asks_for_one() {
    let mut world = World::new();
    let careful = Command::Append(Append { must_exist: true, ..append("a", 1, &["x"]) });
    assert_eq!(world.apply(&careful), Answer::Refused(Refusal::TopicUnknown));
    world.apply(&Command::Append(append("a", 1, &["x"])));
    assert_eq!(world.view("a").options, TopicOptions::default());
    assert!(matches!(world.apply(&careful), Answer::Appended { first: 1, .. }));
    let options = TopicOptions { record_bytes_max: 3, ..TopicOptions::default() };
    let create = |options| Command::Create { topic: name("a"), options };
    assert_eq!(world.apply(&create(options)), Answer::Refused(Refusal::TopicExists));
    let same = world.apply(&create(TopicOptions::default()));
    assert_eq!(same, Answer::Topic(world.view("a")), "a retry must not fail");
    world.apply(&Command::Configure { topic: name("a"), options });
    let large = world.apply(&Command::Append(append("a", 1, &["four"])));
    assert_eq!(large, Answer::Refused(Refusal::TooLarge { limit: 3 }));
}

/// Offsets begin anew in a topic that was deleted; whoever was reading must not go on in it.
#[test]
fn topic_that_was_deleted_is_another_one() {
    let mut world = World::new();
    world.apply(&Command::Append(append("a", 1, &["x", "y"])));
    let old = world.view("a").id;
    world.apply(&Command::Delete { topic: name("a") });
    assert_eq!(world.machine.log_floor(), None);
    world.apply(&Command::Append(append("a", 1, &["z"])));
    let read = |id| Read { topic: name("a"), id, from: 0, bytes_max: 99, records_max: 99 };
    assert_eq!(world.ask(&Query::Read(read(old))), Answer::Refused(Refusal::TopicUnknown));
    let Answer::Records(page) = world.ask(&Query::Read(read(world.view("a").id))) else { panic!() };
    assert_eq!(records(&page, 0), [(0, name("z"))]);
    // A replica that lags waits for the topic that is meant; one that is ahead says that it is
    // gone.
    let poll = |id| world.machine.poll_query(&Query::Read(read(id)).encode().unwrap(), &world.log);
    assert!(poll(world.view("a").id + 1).is_none());
    assert!(poll(old).is_some());
}

/// What does not make sense is in the log all the same, and must not be taken for records.
#[test]
fn refused_and_repeated_appends_are_passed_over() {
    let mut world = World::new();
    let first = Command::Append(append("a", 1, &["x"]));
    world.apply(&first);
    world.repeat(&first);
    let damaged = Append { records: Bytes::from_static(b"\x01"), ..append("a", 1, &["x"]) };
    let refused = world.apply(&Command::Append(damaged));
    assert_eq!(refused, Answer::Refused(Refusal::Records));
    world.apply(&Command::Append(append("a", 1, &["y"])));
    world.repeat(&first);
    assert_eq!(records(&world.page("a", 0, 999, 99), 0), [(0, name("x")), (1, name("y"))]);
    let index = world.put(Bytes::from_static(b"\x01\x01"));
    let entry = world.log.entries[&index].clone();
    let answer = world.machine.apply(index, &entry, &mut Effects::default());
    assert_eq!(Answer::decode(&answer), Ok(Answer::Refused(Refusal::Name)));
}

/// A page is as large as its reader wants; a batch that is larger than that comes alone.
#[test]
fn page_has_at_least_one_batch_and_no_more_than_was_asked_for() {
    let mut world = World::new();
    for value in ["aaaa", "bbbb", "cccc"] {
        world.apply(&Command::Append(append("a", 1, &[value])));
    }
    let found =
        |bytes_max, records_max| records(&world.page("a", 0, bytes_max, records_max), 0).len();
    assert_eq!(found(0, 0), 1);
    assert_eq!(found(2 * 34, 9), 2);
    assert_eq!(found(2 * 34 - 1, 9), 1);
    assert_eq!(found(1_000, 2), 2);
    assert_eq!(found(u32::MAX, u32::MAX), 3);
}

/// The newest records stay, exactly as many as was said.
#[test]
fn retention_by_count_is_exact_and_by_bytes_keeps_enough() {
    let mut world = World::new();
    let options = TopicOptions { records: Some(3), ..TopicOptions::default() };
    world.apply(&Command::Create { topic: name("a"), options });
    let options = TopicOptions { bytes: Some(10_000), ..TopicOptions::default() };
    world.apply(&Command::Create { topic: name("b"), options });
    let value = "v".repeat(100);
    for _ in 0..500 {
        world.apply(&Command::Append(append("a", 1, &["x"])));
        world.apply(&Command::Append(append("b", 1, &[&value])));
    }
    world.compact();
    let view = world.view("a");
    assert_eq!((view.first, view.next), (497, 500));
    let read =
        |from| Query::Read(Read { topic: name("a"), id: 0, from, bytes_max: 9, records_max: 9 });
    let old = world.ask(&read(496));
    assert_eq!(old, Answer::Refused(Refusal::OffsetTooOld { first: 497 }));
    assert_eq!(records(&world.page("a", 497, 999, 9), 497).len(), 3);
    let view = world.view("b");
    assert!((10_000..10_000 + 5_000).contains(&view.bytes), "{view:?}");
    assert!(world.log.entries.len() < 300, "the log keeps what nobody needs");
    assert!(!records(&world.page("b", view.first, 9_999, 999), view.first).is_empty());
}

/// A record is kept for its age, however the steps of the clock fall, and goes soon after. A word
/// about a step that was done already does nothing.
#[test]
fn record_lives_for_its_age_and_not_much_longer() {
    for age in [1_u64, 5, 80, 1_000] {
        let mut world = World::new();
        let mut effects = Effects::default();
        let age = Duration::from_secs(age);
        let options = TopicOptions { age: Some(age), ..TopicOptions::default() };
        world.apply_with(&Command::Create { topic: name("a"), options }, &mut effects);
        let mut next = alarm(&mut effects).unwrap();
        assert_eq!(world.machine.alarms(), [next.clone()]);
        world.apply(&Command::Append(append("a", 1, &["x"])));
        // The alarm was set before the append: as if it was about to go off at once.
        let mut passed = Duration::ZERO;
        let mut is_first = true;
        while world.view("a").first == 0 {
            passed += if is_first { Duration::ZERO } else { next.after };
            is_first = false;
            assert!(passed < age * 2 + Duration::from_secs(3), "never");
            let command = Command::decode(&next.command).unwrap();
            let before = world.machine.clock;
            world.apply_with(&command, &mut effects);
            next = alarm(&mut effects).unwrap();
            let after = world.machine.clock;
            assert!(after > before);
            world.apply(&command);
            assert_eq!(world.machine.clock, after, "two leaders have counted the same time");
        }
        assert!(passed >= age, "gone after {passed:?} of {age:?}");
        assert_eq!(world.machine.log_floor(), None);
        world.apply_with(&Command::Delete { topic: name("a") }, &mut effects);
        assert_eq!(alarm(&mut effects), None, "nobody needs a clock");
        assert_eq!(world.machine.alarms(), []);
    }
}

/// Writers' clocks are not to be relied on; the search relies on none of them.
#[test]
fn offset_by_time_is_the_first_that_is_not_before_it() {
    let mut world = World::new();
    for (timestamp, value) in [(10, "a"), (30, "b"), (20, "c"), (40, "d")] {
        world.apply(&Command::Append(append("a", timestamp, &[value])));
        // Breaks the points, so that some times lie between them.
        world.repeat(&Command::Append(append("a", timestamp, &[value])));
    }
    let find = |timestamp| world.ask(&Query::Find { topic: name("a"), timestamp });
    for (timestamp, offset) in
        [(0, 0), (10, 0), (11, 1), (20, 1), (30, 1), (31, 3), (40, 3), (41, 4)]
    {
        assert_eq!(find(timestamp), Answer::Offset(offset), "{timestamp}");
    }
    world.apply(&Command::Trim { topic: name("a"), before: 2 });
    let find = |timestamp| world.ask(&Query::Find { topic: name("a"), timestamp });
    assert_eq!(find(0), Answer::Offset(2));
}

/// Cursors are what their owners put there, and stay when the records go.
#[test]
fn cursors_are_set_compared_listed_and_cleared() {
    let mut world = World::new();
    let set = |cursor: &str, expected, offset| Command::SetCursor {
        topic: name("a"),
        cursor: name(cursor),
        expected,
        offset,
    };
    assert_eq!(world.apply(&set("c", Expected::Any, 1)), Answer::Refused(Refusal::TopicUnknown));
    world.apply(&Command::Append(append("a", 1, &["x"])));
    let missing = world.apply(&set("c", Expected::Offset(0), 1));
    assert_eq!(missing, Answer::Refused(Refusal::CursorMissing));
    assert_eq!(world.apply(&set("c", Expected::Absent, 1)), Answer::Done);
    let current = Answer::Refused(Refusal::CursorMismatch { current: 1 });
    assert_eq!(world.apply(&set("c", Expected::Absent, 2)), current);
    assert_eq!(world.apply(&set("c", Expected::Offset(0), 2)), current);
    assert_eq!(world.apply(&set("c", Expected::Offset(1), 2)), Answer::Done);
    assert_eq!(world.apply(&set("b", Expected::Any, 9)), Answer::Done);
    let list = |after: &str, limit| {
        world.ask(&Query::Cursors { topic: name("a"), after: name(after), limit })
    };
    let (b, c) = ((name("b"), 9), (name("c"), 2));
    assert_eq!(list("", 9), Answer::Cursors { cursors: vec![b.clone(), c.clone()], more: false });
    assert_eq!(list("", 1), Answer::Cursors { cursors: vec![b], more: true });
    assert_eq!(list("b", 1), Answer::Cursors { cursors: vec![c], more: false });
    let get = |world: &World| world.ask(&Query::Cursor { topic: name("a"), cursor: name("c") });
    world.apply(&Command::Trim { topic: name("a"), before: 1 });
    assert_eq!(get(&world), Answer::Cursor(Some(2)));
    world.apply(&Command::ClearCursor { topic: name("a"), cursor: name("c") });
    assert_eq!(get(&world), Answer::Cursor(None));
    assert_eq!(world.machine.cursors, 1);
    world.apply(&Command::Delete { topic: name("a") });
    assert_eq!(world.machine.cursors, 0);
}

/// A client that makes up cursors must not fill the memory of the replicas.
#[test]
fn cursors_are_limited() {
    let mut world = World::new();
    world.apply(&Command::Append(append("a", 1, &["x"])));
    let set = |number: usize| Command::SetCursor {
        topic: name("a"),
        cursor: name(&number.to_string()),
        expected: Expected::Any,
        offset: 0,
    };
    for number in 0..TOPIC_CURSORS_MAX {
        assert_eq!(world.apply(&set(number)), Answer::Done);
    }
    let limit = TOPIC_CURSORS_MAX as u64;
    let full = Answer::Refused(Refusal::CursorsFull { limit });
    assert_eq!(world.apply(&set(TOPIC_CURSORS_MAX)), full);
    assert_eq!(world.apply(&set(0)), Answer::Done, "one that is there needs no room");
}

/// Topics come in pages, by their beginnings.
#[test]
fn topics_are_listed_in_pages() {
    let mut world = World::new();
    for topic in ["a", "b.1", "b.2", "b.3", "c"] {
        world.apply(&Command::Append(append(topic, 1, &["x"])));
    }
    let list = |prefix: &str, after: &str, limit| {
        let query = Query::Topics { prefix: name(prefix), after: name(after), limit };
        let Answer::Topics { topics, more } = world.ask(&query) else { panic!() };
        let names = topics.into_iter().map(|(topic, _)| String::from_utf8(topic.to_vec()).unwrap());
        (names.collect::<Vec<_>>(), more)
    };
    assert_eq!(list("", "", 9).0.len(), 5);
    assert_eq!(list("b", "", 2), (vec!["b.1".to_owned(), "b.2".to_owned()], true));
    assert_eq!(list("b", "b.2", 2), (vec!["b.3".to_owned()], false));
    assert_eq!(list("b", "c", 2), (vec![], false));
    assert_eq!(list("", "b.3", 0), (vec!["c".to_owned()], false), "a page is never empty");
}

/// A replica that came from a snapshot may lack records that the topic has: it says so.
#[test]
fn replica_that_lacks_the_log_says_that_it_is_behind() {
    let mut world = World::new();
    world.apply(&Command::Append(append("a", 1, &["x"])));
    (world.log.entries, world.log.first) = (BTreeMap::new(), 7);
    let read = Read { topic: name("a"), id: 0, from: 0, bytes_max: 9, records_max: 9 };
    let behind = Answer::Refused(Refusal::Behind { first: 7 });
    assert_eq!(world.ask(&Query::Read(read.clone())), behind);
    // A log that has something else than what was applied must not give anybody a wrong offset.
    world.log.first = 0;
    assert_eq!(world.ask(&Query::Read(read)), Answer::Refused(Refusal::Damaged));
}

/// What many topics cost while nobody reads them, and how much a reader of one of them reads.
#[test]
fn reads_of_one_topic_among_many_stay_short() {
    let mut world = World::new();
    world.log.most = 4_096;
    let value = "v".repeat(120);
    for _ in 0..20 {
        for topic in 0..500 {
            world.apply(&Command::Append(append(&format!("t{topic}"), 1, &[&value])));
        }
    }
    world.log.reads.set(0);
    assert_eq!(records(&world.page("t7", 0, 1_000_000, 1_000), 0).len(), 20);
    assert!(world.log.reads.get() <= 20, "{} reads", world.log.reads.get());
}

/// A snapshot that was cut or changed must not become another log.
#[test]
fn damaged_snapshot_is_refused_and_the_state_stays() {
    let mut world = World::new();
    world.apply(&Command::Append(append("a", 1, &["x"])));
    world.apply(&Command::SetCursor {
        topic: name("a"),
        cursor: name("c"),
        expected: Expected::Any,
        offset: 3,
    });
    world.repeat(&Command::Append(append("a", 1, &["x"])));
    world.apply(&Command::Append(append("a", 1, &["x", "y"])));
    let snapshot = image_bytes(world.machine.snapshot());
    let before = world.machine.clone();
    for cut in 0..snapshot.len() {
        assert!(world.machine.restore(&mut &snapshot[..cut]).is_err(), "cut at {cut}");
    }
    let mut long = snapshot.clone();
    long.push(0);
    assert!(world.machine.restore(&mut &long[..]).is_err());
    assert_eq!(world.machine, before);
    for at in 0..snapshot.len() {
        let mut changed = snapshot.clone();
        changed[at] ^= 0x81;
        // Either it is refused, or it is a state that writes just these bytes; never a panic.
        let mut machine = LogMachine::new();
        if machine.restore(&mut &changed[..]).is_ok() {
            assert_eq!(image_bytes(machine.snapshot()), changed, "changed at {at}");
        }
    }
}

mod carried;
mod compacted;
mod consumers;
mod model;
