//! A counter in sessions: what is applied once, what is refused, what ends, and what survives.

use proptest::prelude::*;

use super::*;
use crate::replica::machine::image_bytes;

/// A machine that notices when a command is applied twice: it adds up bytes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Counter {
    total: u64,
    /// Commands that it was told of and did not apply.
    skipped: u64,
}

impl Machine for Counter {
    fn apply(&mut self, _: u64, command: &Bytes, effects: &mut Effects) -> Bytes {
        self.total += command.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        if command[..] == b"alarm"[..] {
            effects.set_alarm(self.alarms().remove(0));
        }
        Bytes::from(self.total.to_string())
    }

    fn skip(&mut self, _: u64, _: &Bytes) {
        self.skipped += 1;
    }

    /// Answers with the commands that it is shown, and where to go on.
    fn query(&self, _: &Bytes, past: &dyn Past) -> Bytes {
        Bytes::from(format!("{:?}", past.commands(1, 1_000)))
    }

    fn log_floor(&self) -> Option<u64> {
        Some(self.total)
    }

    fn alarms(&self) -> Vec<Alarm> {
        vec![Alarm { id: 3, after: IDLE_MIN, command: Bytes::from_static(b"ring") }]
    }

    fn snapshot(&self) -> Image {
        let numbers = [self.total, self.skipped];
        Box::new(move |out| numbers.iter().try_for_each(|it| out.write_all(&it.to_le_bytes())))
    }

    fn restore(&mut self, snapshot: &mut dyn Read) -> Result<(), InvalidSnapshot> {
        let mut numbers = [[0; 8]; 2];
        for number in &mut numbers {
            snapshot.read_exact(number)?;
        }
        [self.total, self.skipped] = numbers.map(u64::from_le_bytes);
        Ok(())
    }
}

/// Sessions, the next index, and the alarms that are set.
struct World {
    sessions: Sessions<Counter>,
    index: u64,
    alarms: BTreeMap<u64, Alarm>,
}

impl World {
    fn new(limits: SessionLimits) -> Self {
        let sessions = Sessions::with_limits(Counter::default(), limits);
        Self { sessions, index: 1, alarms: BTreeMap::new() }
    }

    fn apply(&mut self, bytes: &Bytes) -> Outcome {
        self.index += 1;
        let mut effects = Effects::default();
        let response = self.sessions.apply(self.index, bytes, &mut effects);
        for (id, alarm) in effects.alarms {
            self.alarms.remove(&id);
            self.alarms.extend(alarm.map(|alarm| (id, alarm)));
        }
        Outcome::decode(&response).unwrap()
    }

    fn open(&mut self) -> u64 {
        match self.apply(&Submission::Open { idle: IDLE_MIN }.encode()) {
            Outcome::Done { index, .. } => index,
            Outcome::Refused(error) => panic!("{error}"),
        }
    }

    fn add(&mut self, session: u64, serial: u64, lowest: u64, amount: u8) -> Outcome {
        self.apply(&numbered(session, serial, lowest, &[amount]))
    }
}

fn numbered(session: u64, serial: u64, lowest: u64, command: &[u8]) -> Bytes {
    let id = CommandId { session, serial };
    Submission::Numbered { id, lowest, command: Bytes::copy_from_slice(command) }.encode()
}

fn done(index: u64, response: &str) -> Outcome {
    Outcome::Done { index, response: Bytes::from(response.to_owned()) }
}

fn small() -> SessionLimits {
    SessionLimits { sessions: 3, results: 4, result_bytes: 8 }
}

/// The promise itself: a retry gets the first answer and the first index, and changes nothing.
#[test]
fn retry_gets_the_first_result_and_is_not_applied() {
    let mut world = World::new(SessionLimits::default());
    let session = world.open();
    assert_eq!(world.add(session, 1, 1, 5), done(3, "5"));
    assert_eq!(world.add(session, 2, 1, 1), done(4, "6"));
    assert_eq!(world.add(session, 1, 1, 5), done(3, "5"), "answered anew");
    assert_eq!(world.sessions.inner().total, 6);
    let once = Submission::Once { command: Bytes::from_static(&[1]) }.encode();
    world.apply(&once);
    world.apply(&once);
    assert_eq!(world.sessions.inner().total, 8, "without a session each submission is applied");
}

/// A machine that reads the log again finds there what its sessions did not let through.
#[test]
fn machine_hears_of_every_command_that_is_not_applied() {
    let mut world = World::new(small());
    let session = world.open();
    let skipped = |world: &World| world.sessions.inner().skipped;
    world.add(session, 1, 1, 5);
    assert_eq!(skipped(&world), 0);
    world.add(session, 1, 1, 5);
    assert_eq!(skipped(&world), 1, "a retry");
    world.add(session, 1, 1, 6);
    assert_eq!(skipped(&world), 2, "another command with its serial");
    world.add(session + 1, 1, 1, 5);
    assert_eq!(skipped(&world), 3, "no such session");
    world.add(session, 4, 4, 5);
    world.add(session, 3, 1, 5);
    assert_eq!(skipped(&world), 4, "acknowledged");
    for serial in 5..=7 {
        world.add(session, serial, 4, 0);
    }
    assert!(matches!(world.add(session, 8, 4, 0), Outcome::Refused(SessionError::Full)));
    assert_eq!(skipped(&world), 5, "too much is kept");
    world.apply(&Submission::End { session }.encode());
    world.apply(&Bytes::from_static(b"\x09"));
    assert_eq!(skipped(&world), 5, "what is no command of the machine");
    world.sessions.skip(9, &numbered(session, 1, 1, b"a"));
    world.sessions.skip(9, &Submission::End { session }.encode());
    assert_eq!(skipped(&world), 6, "sessions in sessions");
}

/// A machine knows nothing of sessions, neither when it applies nor when it looks back.
#[test]
fn machine_sees_its_own_commands_in_the_past() {
    /// Submissions by index.
    struct Submissions(Vec<(u64, Bytes)>);

    impl Past for Submissions {
        fn commands(&self, from: u64, bytes_max: u64) -> Result<PastCommands, PastError> {
            match from {
                0 => Err(PastError::Forgotten { first: bytes_max }),
                _ => Ok(PastCommands { commands: self.0.clone(), next: 7 }),
            }
        }
    }

    let once = Submission::Once { command: Bytes::from_static(b"a") }.encode();
    let open = Submission::Open { idle: IDLE_MIN }.encode();
    let junk = Bytes::from_static(b"\x09");
    let past = vec![(2, once), (3, open), (4, numbered(3, 1, 1, b"b")), (5, junk)];
    let sessions = Sessions::new(Counter { total: 5, skipped: 0 });
    let seen = sessions.query(&Bytes::new(), &Submissions(past));
    let commands = vec![(2, Bytes::from_static(b"a")), (4, Bytes::from_static(b"b"))];
    let expected = format!("{:?}", Ok::<_, PastError>(PastCommands { commands, next: 7 }));
    assert_eq!(seen, expected);
    let forgotten = PastInside(&Submissions(Vec::new())).commands(0, 9);
    assert_eq!(forgotten, Err(PastError::Forgotten { first: 9 }));
    assert_eq!(sessions.log_floor(), Some(5));
}

/// A client that reuses a number has a bug that must not look like success.
#[test]
fn same_serial_with_another_body_is_an_error() {
    let mut world = World::new(SessionLimits::default());
    let session = world.open();
    world.add(session, 1, 1, 5);
    assert_eq!(world.add(session, 1, 1, 6), Outcome::Refused(SessionError::Mismatch));
    let longer = world.apply(&numbered(session, 1, 1, &[5, 0]));
    assert_eq!(longer, Outcome::Refused(SessionError::Mismatch));
    assert_eq!(world.sessions.inner().total, 5);
}

/// What the client does not want any more is forgotten, and a late copy of it is not applied.
#[test]
fn acknowledged_serial_is_forgotten_and_never_applied_again() {
    let mut world = World::new(SessionLimits::default());
    let session = world.open();
    world.add(session, 1, 1, 5);
    world.add(session, 3, 3, 1);
    for late in [1, 2] {
        assert_eq!(world.add(session, late, 1, 5), Outcome::Refused(SessionError::Stale));
        let id = CommandId { session, serial: late };
        assert_eq!(world.sessions.inquire_into(id), Inquiry::Forgotten);
    }
    assert_eq!(world.sessions.inner().total, 6);
    assert_eq!(world.sessions.sessions[&session].kept.len(), 1);
}

/// A session that is over refuses: applying the command again is what it is there to prevent.
#[test]
fn ended_session_refuses_and_its_id_is_not_used_again() {
    let mut world = World::new(SessionLimits::default());
    let first = world.open();
    world.add(first, 1, 1, 5);
    world.apply(&Submission::End { session: first }.encode());
    assert_eq!(world.add(first, 1, 1, 5), Outcome::Refused(SessionError::Expired));
    let id = CommandId { session: first, serial: 1 };
    assert_eq!(world.sessions.inquire_into(id), Inquiry::Expired);
    assert_ne!(world.open(), first);
    assert_eq!(world.alarms.len(), 1, "an ended session leaves an alarm");
}

/// An alarm may come late, twice, or after the session was used: only one that names the last
/// command of the session ends it.
#[test]
fn session_ends_only_if_it_was_idle_since_the_alarm_was_set() {
    let mut world = World::new(SessionLimits::default());
    let session = world.open();
    let early = world.alarms[&own_alarm(session)].clone();
    assert_eq!(early.after, IDLE_MIN);
    world.add(session, 1, 1, 5);
    world.apply(&early.command);
    world.apply(&early.command);
    assert_eq!(world.add(session, 1, 1, 5), done(3, "5"), "it was in use");
    // The second look named the command before this last one.
    let second = world.alarms[&own_alarm(session)].clone();
    world.apply(&second.command);
    assert_eq!(world.sessions.len(), 1);
    let third = world.alarms[&own_alarm(session)].clone();
    world.apply(&third.command);
    assert!(world.sessions.is_empty() && world.alarms.is_empty());
    world.apply(&third.command);
    assert_eq!(world.add(session, 1, 1, 5), Outcome::Refused(SessionError::Expired));
}

/// Clients that never say goodbye must not lock out those that come.
#[test]
fn longest_idle_session_makes_room() {
    let mut world = World::new(small());
    let sessions = [world.open(), world.open(), world.open()];
    world.add(sessions[0], 1, 1, 1);
    let fourth = world.open();
    assert_eq!(world.add(sessions[1], 1, 1, 1), Outcome::Refused(SessionError::Expired));
    for open in [sessions[0], sessions[2], fourth] {
        assert!(matches!(world.add(open, 2, 1, 1), Outcome::Done { .. }), "{open}");
    }
    assert_eq!(world.alarms.len(), 3);
}

/// A client that acknowledges nothing is stopped, in number and in bytes, until it does.
#[test]
fn kept_results_are_limited_until_they_are_acknowledged() {
    let mut world = World::new(small());
    let session = world.open();
    for serial in 1..=4 {
        assert!(matches!(world.add(session, serial, 1, 1), Outcome::Done { .. }));
    }
    assert_eq!(world.add(session, 5, 1, 1), Outcome::Refused(SessionError::Full));
    assert!(matches!(world.add(session, 1, 1, 1), Outcome::Done { .. }), "a retry needs no room");
    assert!(matches!(world.add(session, 5, 2, 1), Outcome::Done { .. }));

    let session = world.open();
    world.add(session, 1, 1, 255);
    for serial in 2..=3 {
        assert!(matches!(world.add(session, serial, 1, 0), Outcome::Done { .. }));
    }
    let bytes = world.sessions.sessions[&session].kept_bytes;
    assert_eq!((bytes, small().result_bytes), (9, 8));
    assert_eq!(world.add(session, 4, 1, 1), Outcome::Refused(SessionError::Full));
    assert!(matches!(world.add(session, 4, 4, 1), Outcome::Done { .. }));
    assert_eq!(world.sessions.sessions[&session].kept_bytes, 3);
}

/// The machine inside has its own alarms, whose ids must not meet those of sessions and whose
/// commands come back to it.
#[test]
fn alarms_of_the_machine_inside_pass_through() {
    let mut world = World::new(SessionLimits::default());
    let session = world.open();
    world.apply(&Submission::Once { command: Bytes::from_static(b"alarm") }.encode());
    let set: Vec<_> = world.alarms.values().cloned().collect();
    let mut all = world.sessions.alarms();
    all.sort_by_key(|alarm| alarm.id);
    assert_eq!(set, all, "a new leader begins with the same alarms");
    assert!(world.alarms.contains_key(&own_alarm(session)));
    let before = world.sessions.inner().total;
    let ring = world.alarms[&inner_alarm(3)].command.clone();
    world.apply(&ring);
    let rung = b"ring".iter().map(|byte| u64::from(*byte)).sum::<u64>();
    assert_eq!(world.sessions.inner().total, before + rung);
}

/// Whoever asks what became of a command hears one of five things.
#[test]
fn inquiry_tells_what_became_of_a_command() {
    let mut world = World::new(SessionLimits::default());
    let session = world.open();
    let inquire = |world: &World, serial, is_under_way| {
        let answer = world.sessions.inquire(CommandId { session, serial }, is_under_way);
        Inquiry::decode(&answer).unwrap()
    };
    assert_eq!(inquire(&world, 1, false), Inquiry::NotSeen);
    assert_eq!(inquire(&world, 1, true), Inquiry::InProgress);
    world.add(session, 1, 1, 5);
    let done = Inquiry::Done { index: 3, response: Bytes::from_static(b"5") };
    assert_eq!(inquire(&world, 1, true), done, "what is done is not in progress");
    world.add(session, 2, 2, 1);
    assert_eq!(inquire(&world, 1, true), Inquiry::Forgotten);
    world.apply(&Submission::End { session }.encode());
    assert_eq!(inquire(&world, 2, true), Inquiry::Expired);
}

/// A snapshot that was cut or damaged must not make clients forget what was applied.
#[test]
fn damaged_snapshot_is_refused_and_the_state_stays() {
    let mut world = World::new(SessionLimits::default());
    for _ in 0..2 {
        let session = world.open();
        world.add(session, 1, 1, 5);
        world.add(session, 2, 1, 6);
    }
    let bytes = image_bytes(world.sessions.snapshot());
    let before = world.sessions.clone();
    for cut in 0..bytes.len() {
        assert!(world.sessions.restore(&mut &bytes[..cut]).is_err(), "cut at {cut}");
    }
    // The last sixteen bytes are the counter's, which does not check them.
    for at in 0..bytes.len() - 16 {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        assert!(world.sessions.restore(&mut &damaged[..]).is_err(), "damaged at {at}");
    }
    assert_eq!(world.sessions, before);
}

/// An image shows the state at the moment when it was taken, whatever is applied until it is
/// written.
#[test]
fn image_is_not_changed_by_later_commands() {
    let mut world = World::new(SessionLimits::default());
    let session = world.open();
    world.add(session, 1, 1, 5);
    let (now, later) = (world.sessions.snapshot(), world.sessions.snapshot());
    let before = image_bytes(now);
    world.add(session, 2, 2, 5);
    assert_eq!(image_bytes(later), before);
}

/// One step of a client of a random session.
#[derive(Clone, Debug)]
enum Step {
    Add { session: usize, serial: u64, lowest: u64, amount: u8 },
    End { session: usize },
    Expire { session: usize, back: u64 },
    Garbage(Vec<u8>),
    Open,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..4_usize, 1..12_u64, 0..4_u64, 0..3_u8).prop_map(|(session, serial, below, amount)| {
            Step::Add { session, serial, lowest: serial.saturating_sub(below), amount }
        }),
        1 => (0..4_usize).prop_map(|session| Step::End { session }),
        2 => (0..4_usize, 0..4_u64).prop_map(|(session, back)| Step::Expire { session, back }),
        1 => prop::collection::vec(any::<u8>(), 0..8).prop_map(Step::Garbage),
        2 => Just(Step::Open),
    ]
}

proptest! {
    /// Against a model that remembers everything: each serial is applied at most once, a retry is
    /// answered as the first time, limits hold, and a replica that came from a snapshot at any
    /// point goes on to the same state, with the same answers.
    #[test]
    fn each_serial_is_applied_once_on_every_replica(
        steps in prop::collection::vec(step(), 1..80), cut in 0..80_usize,
    ) {
        let mut world = World::new(small());
        let mut replica = World::new(small());
        let mut opened = Vec::new();
        let mut applied = BTreeMap::<(u64, u64), (u8, Outcome)>::new();
        for (number, step) in steps.into_iter().enumerate() {
            let pick = |at: usize| opened.get(opened.len().wrapping_sub(1 + at)).copied();
            let id = |at| pick(at).unwrap_or(999);
            let bytes = match &step {
                Step::Add { session, serial, lowest, amount } => {
                    numbered(id(*session), *serial, *lowest, &[*amount])
                }
                Step::End { session } => Submission::End { session: id(*session) }.encode(),
                Step::Expire { session, back } => {
                    let seen = world.index.saturating_sub(*back);
                    Submission::Expire { session: id(*session), seen }.encode()
                }
                Step::Garbage(bytes) => Bytes::from([&[9], &bytes[..]].concat()),
                Step::Open => Submission::Open { idle: Duration::ZERO }.encode(),
            };
            let before = world.sessions.inner().total;
            let outcome = world.apply(&bytes);
            if let Step::Add { session, serial, amount, .. } = step {
                let key = (id(session), serial);
                let added = world.sessions.inner().total - before;
                match (&outcome, applied.get(&key)) {
                    (Outcome::Done { index, .. }, Some((body, first))) => {
                        prop_assert_eq!((body, first), (&amount, &outcome));
                        prop_assert!(*index < world.index);
                        prop_assert_eq!(added, 0, "applied twice");
                    }
                    (Outcome::Done { .. }, None) => {
                        prop_assert_eq!(added, u64::from(amount));
                        applied.insert(key, (amount, outcome.clone()));
                    }
                    (Outcome::Refused(_), _) => prop_assert_eq!(added, 0),
                }
            } else {
                prop_assert_eq!(world.sessions.inner().total, before);
            }
            if matches!(step, Step::Open) {
                opened.push(world.index);
            }
            prop_assert!(world.sessions.len() <= small().sessions);
            prop_assert_eq!(world.alarms.len(), world.sessions.len());
            for session in world.sessions.sessions.values() {
                let bytes: usize = session.kept.values().map(|kept| kept.response.len()).sum();
                prop_assert_eq!(session.kept_bytes, bytes);
                prop_assert!(session.kept.len() <= small().results);
            }
            prop_assert_eq!(replica.apply(&bytes), outcome);
            if number == cut {
                let image = image_bytes(replica.sessions.snapshot());
                let inner = Counter { total: 77, skipped: 7 };
                replica.sessions = Sessions::with_limits(inner, small());
                replica.sessions.restore(&mut &image[..]).unwrap();
            }
            prop_assert_eq!(&replica.sessions, &world.sessions);
            let images = [&replica, &world].map(|world| image_bytes(world.sessions.snapshot()));
            prop_assert_eq!(&images[0], &images[1]);
        }
    }
}
