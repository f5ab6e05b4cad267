//! The bytes of groups: what is written is read again, and nothing else is.

use proptest::prelude::*;

use super::*;
use crate::log::name::NAME_BYTES_MAX;

fn commands() -> Vec<GroupCommand> {
    let settle = |verdict| GroupCommand::Settle {
        group: g(),
        member: 7,
        verdict,
        deliveries: vec![Settlement { offset: 1, delivery: 2 }],
    };
    let create = |start| GroupCommand::Create { group: g(), start, options: options() };
    vec![
        create(Start::First),
        create(Start::End),
        create(Start::Offset(u64::MAX)),
        GroupCommand::Delete { group: g() },
        GroupCommand::Drop { group: g(), offsets: vec![0, u64::MAX] },
        GroupCommand::Fetch { group: g(), member: u64::MAX, max: 3 },
        GroupCommand::Join { group: g(), name: "a.b-c_9".to_owned() },
        GroupCommand::KeepAlive { group: g(), member: 1 },
        GroupCommand::Leave { group: g(), member: 1 },
        GroupCommand::Requeue { group: g(), offsets: vec![] },
        settle(Verdict::Ack),
        settle(Verdict::Again { after: TIMEOUT_MAX }),
        settle(Verdict::Bury),
        settle(Verdict::Extend),
        settle(Verdict::Release),
        GroupCommand::Tick { group: g(), id: 1, wheel: WheelKind::Members, round: 2 },
    ]
}

fn queries() -> Vec<GroupQuery> {
    vec![
        GroupQuery::Dead { group: g(), from: 1, max: 2 },
        GroupQuery::Groups { after: String::new(), max: 2 },
        GroupQuery::Members { group: g(), from: 1, max: 2 },
        GroupQuery::Ready { group: g(), member: 1 },
        GroupQuery::Status { group: g() },
    ]
}

fn responses() -> Vec<GroupResponse> {
    let mut topic = Topic::new(4, options());
    let member = topic.join("a");
    topic.fetch(member, 2);
    let outcomes = vec![Outcome::Done, Outcome::Full, Outcome::Stale];
    let mut responses = vec![
        GroupResponse::Dead(vec![DeadLetter { offset: 1, tries: 2 }]),
        GroupResponse::Done,
        GroupResponse::Fetched(vec![Delivered { offset: 1, delivery: 2, tries: 3 }]),
        GroupResponse::Groups(vec![topic.status(), topic.status()]),
        GroupResponse::Joined { member, options: options() },
        GroupResponse::Members(vec![MemberStatus {
            id: 1,
            name: "a.b-c_9".to_owned(),
            in_flight: 2,
        }]),
        GroupResponse::Ready(true),
        GroupResponse::Settled(outcomes),
        GroupResponse::Status(Box::new(topic.status())),
    ];
    responses.extend(Refusal::ALL.map(GroupResponse::Refused));
    responses
}

/// What was proposed once is in the log for ever and has to be read for ever.
#[test]
fn everything_survives_the_round_trip_and_every_cut_is_refused() {
    for command in commands() {
        let bytes = command.encode();
        assert_eq!(GroupCommand::decode(&bytes), Ok(command.clone()));
        for cut in 0..bytes.len() {
            assert!(GroupCommand::decode(&bytes[..cut]).is_err(), "{command:?} cut at {cut}");
        }
    }
    for query in queries() {
        let bytes = query.encode();
        assert_eq!(GroupQuery::decode(&bytes), Ok(query.clone()));
        for cut in 0..bytes.len() {
            assert!(GroupQuery::decode(&bytes[..cut]).is_err(), "{query:?} cut at {cut}");
        }
    }
    for response in responses() {
        let bytes = response.encode();
        assert_eq!(GroupResponse::decode(&bytes), Ok(response.clone()));
        for cut in 0..bytes.len() {
            assert!(GroupResponse::decode(&bytes[..cut]).is_err(), "{response:?} cut at {cut}");
        }
    }
}

/// What is outside its limits is refused where it comes in, with the reason.
#[test]
fn commands_outside_their_limits_are_refused() {
    let refused = |command: GroupCommand| GroupCommand::decode(&command.encode()).unwrap_err();
    let group = String::new();
    assert_eq!(refused(GroupCommand::Delete { group }), Refusal::InvalidName);
    let group = "g".repeat(NAME_BYTES_MAX + 1);
    assert_eq!(refused(GroupCommand::Delete { group }), Refusal::InvalidName);
    let offsets = vec![0; BATCH_MAX + 1];
    assert_eq!(refused(GroupCommand::Drop { group: g(), offsets }), Refusal::Malformed);
    let options = GroupOptions { tries_max: 0, ..options() };
    let create = GroupCommand::Create { group: g(), start: Start::End, options };
    assert_eq!(refused(create), Refusal::InvalidOptions);
    let verdict = Verdict::Again { after: TIMEOUT_MAX + Duration::from_millis(1) };
    let settle = GroupCommand::Settle { group: g(), member: 1, verdict, deliveries: vec![] };
    assert_eq!(refused(settle), Refusal::InvalidOptions);
}

/// A busy group, with something in each of its lists.
fn busy() -> Groups {
    let mut topic = Topic::new(9, options());
    let (a, _) = (topic.join("a"), topic.join("b"));
    let held = topic.fetch(a, 5);
    topic.settle(a, Verdict::Again { after: Duration::from_secs(60) }, held[0]);
    topic.settle(a, Verdict::Bury, held[1]);
    topic.settle(a, Verdict::Release, held[2]);
    topic.apply(GroupCommand::Join { group: "h".to_owned(), name: "c".to_owned() });
    topic.groups
}

/// A snapshot that is cut short, or has a record in two places, is none.
#[test]
fn snapshot_that_cannot_be_is_refused() {
    let groups = busy();
    let bytes = groups.encode();
    assert_eq!(Groups::decode(&bytes), Ok(groups.clone()));
    for cut in 0..bytes.len() {
        assert!(Groups::decode(&bytes[..cut]).is_err(), "cut at {cut}");
    }
    let spoilt = |spoil: fn(&mut State)| {
        let mut groups = groups.clone();
        spoil(Arc::make_mut(groups.groups.get_mut("g").unwrap()));
        Groups::decode(&groups.encode())
    };
    assert!(spoilt(|_| {}).is_ok());
    for (number, spoil) in [
        (|group| group.available.extend([(1, group.available[&2])])) as fn(&mut State),
        |group| group.next = 1,
        |group| group.members.clear(),
        |group| group.deliveries = 1,
        |group| group.available.get_mut(&2).unwrap().tries = 2,
        |group| group.in_flight.get_mut(&3).unwrap().tried.tries = 0,
        |group| group.delivery_wheel.is_turning = false,
        |group| group.options.pending_max = 1,
        |group| group.deliveries = u64::MAX,
    ]
    .into_iter()
    .enumerate()
    {
        assert!(spoilt(spoil).is_err(), "number {number} was taken");
    }
}

proptest! {
    /// The bytes come from a peer: whatever they are, the answer is a value, and there is one way
    /// to write it.
    #[test]
    fn decoding_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..96)) {
        if let Ok(command) = GroupCommand::decode(&bytes) {
            prop_assert_eq!(&command.encode()[..], &bytes[..]);
        }
        if let Ok(query) = GroupQuery::decode(&bytes) {
            prop_assert_eq!(&query.encode()[..], &bytes[..]);
        }
        if let Ok(response) = GroupResponse::decode(&bytes) {
            prop_assert_eq!(&response.encode()[..], &bytes[..]);
        }
        let _ = Groups::decode(&bytes);
    }

    /// A byte of a snapshot that has changed makes it another possible state, or none.
    #[test]
    fn damaged_snapshots_never_panic(at in 0_usize..4096, to in any::<u8>()) {
        let mut bytes = busy().encode().to_vec();
        let at = at % bytes.len();
        bytes[at] = to;
        if let Ok(groups) = Groups::decode(&bytes) {
            prop_assert_eq!(&groups.encode()[..], &bytes[..]);
            // Whatever it is, it can be used.
            let mut groups = groups;
            for alarm in groups.alarms().collect::<Vec<_>>() {
                groups.apply(1, Bounds { first: 0, next: 99 }, &alarm.command, &mut Vec::new());
            }
        }
    }
}
