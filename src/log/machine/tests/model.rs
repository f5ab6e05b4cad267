//! Whatever happens, the log is a list of records for each topic.

use proptest::prelude::*;

use super::*;

/// Something that happens to a group of topics.
#[derive(Clone, Debug)]
enum Step {
    Append {
        topic: u8,
        values: Vec<u16>,
        timestamp: u64,
    },
    /// What is to be carried is asked for before, and may not be true any more.
    Carry {
        trim: Option<(u8, u64)>,
        twice: bool,
    },
    Compact,
    Configure {
        topic: u8,
        bytes: Option<u64>,
        records: Option<u64>,
    },
    Delete {
        topic: u8,
    },
    Refused {
        topic: u8,
    },
    Repeat {
        topic: u8,
    },
    Restore,
    Trim {
        topic: u8,
        before: u64,
    },
}

fn some_step() -> impl Strategy<Value = Step> {
    let topic = || 0_u8..3;
    let values = prop_oneof![
        4 => prop::collection::vec(0_u16..40, 1..4),
        1 => prop::collection::vec(0_u16..3_000, 1..4),
    ];
    prop_oneof![
        12 => (topic(), values, 0_u64..50)
            .prop_map(|(topic, values, timestamp)| Step::Append { topic, values, timestamp }),
        3 => (prop::option::of((topic(), 0_u64..60)), any::<bool>())
            .prop_map(|(trim, twice)| Step::Carry { trim, twice }),
        2 => Just(Step::Compact),
        1 => (topic(), prop::option::of(1_u64..9_000), prop::option::of(1_u64..30))
            .prop_map(|(topic, bytes, records)| Step::Configure { topic, bytes, records }),
        1 => topic().prop_map(|topic| Step::Delete { topic }),
        2 => topic().prop_map(|topic| Step::Refused { topic }),
        2 => topic().prop_map(|topic| Step::Repeat { topic }),
        1 => Just(Step::Restore),
        1 => (topic(), 0_u64..60).prop_map(|(topic, before)| Step::Trim { topic, before }),
    ]
}

/// What a topic is, without any index.
#[derive(Clone, Debug, Default)]
struct Model {
    records: Vec<(u64, Bytes)>,
    options: TopicOptions,
    trimmed: u64,
}

impl Model {
    /// What has to be there whatever the machine's intervals are.
    fn must_have(&self) -> u64 {
        let next = self.records.len() as u64;
        let by_count = self.options.records.map_or(0, |records| next.saturating_sub(records));
        let mut kept = 0;
        let by_bytes = self.options.bytes.map_or(0, |limit| {
            let newest = self.records.iter().rev().take_while(|(_, value)| {
                let is_needed = kept < limit;
                kept += value.len() as u64 + 6;
                is_needed
            });
            next - newest.count() as u64
        });
        by_count.max(by_bytes).max(self.trimmed)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Every record that is kept can be read at its offset, by pages of any size, whatever else is
    /// in the log, whatever the log has forgotten, and after a restart from a snapshot; nothing is
    /// forgotten that had to be kept.
    #[test]
    fn log_behaves_as_lists_of_records(
        steps in prop::collection::vec(some_step(), 1..120), most in 1_usize..50,
        bytes_max in 1_u32..9_000, records_max in 1_u32..50) {
        let mut world = World::new();
        world.log.most = most;
        let mut models = BTreeMap::<String, Model>::new();
        let mut number = 0_u64;
        for step in steps {
            number += 1;
            run(&mut world, &mut models, step, number)?;
        }
        prop_assert_eq!(world.machine.len(), models.len());
        for (topic, model) in &models {
            let view = world.view(topic);
            prop_assert_eq!(view.next, model.records.len() as u64);
            prop_assert!(view.first <= model.must_have(), "{} forgot {:?}", topic, view);
            let exact = model.options.records.map_or(0, |kept| view.next.saturating_sub(kept));
            prop_assert!(view.first >= exact.max(model.trimmed));
            check_reads(&world, topic, model, bytes_max, records_max)?;
            check_times(&world, topic, model)?;
        }
        let mut restored = LogMachine::new();
        let bytes = image_bytes(world.machine.snapshot());
        restored.restore(&mut &bytes[..]).unwrap();
        prop_assert_eq!(image_bytes(restored.snapshot()), bytes);
        prop_assert_eq!(restored, world.machine);
    }

    /// Whatever a client sends is answered, and whatever is in the log is applied.
    #[test]
    fn no_bytes_panic(
        commands in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20)) {
        let mut world = World::new();
        for (index, command) in (2..).zip(commands) {
            let command = Bytes::from(command);
            world.machine.apply(index, &command, &mut Effects::default());
            world.machine.skip(index, &command);
            world.machine.query(&command, &world.log);
            world.machine.poll_query(&command, &world.log);
        }
    }
}

fn run(
    world: &mut World,
    models: &mut BTreeMap<String, Model>,
    step: Step,
    number: u64,
) -> Result<(), TestCaseError> {
    match step {
        Step::Append { topic, values, timestamp } => {
            let topic = format!("t{topic}");
            let value = |bytes: &u16| {
                let text = format!("{number:04}");
                Bytes::from(text.repeat(usize::from(*bytes) / 4 + 1))
            };
            let values: Vec<Bytes> = values.iter().map(value).collect();
            let all: Vec<Record> = values.iter().cloned().map(Record::new).collect();
            let answer = world.apply(&Command::Append(append_records(&topic, timestamp, &all)));
            let model = models.entry(topic).or_default();
            let first = model.records.len() as u64;
            let appended = matches!(answer, Answer::Appended { first: at, .. } if at == first);
            prop_assert!(appended, "{:?}", answer);
            model.records.extend(values.into_iter().map(|value| (timestamp, value)));
        }
        Step::Carry { trim, twice } => {
            let carry = world.spare(0);
            if let Some((topic, before)) = trim {
                run(world, models, Step::Trim { topic, before }, number)?;
            }
            for _ in 0..=u8::from(twice) {
                if let Some(carry) = &carry {
                    prop_assert_eq!(world.apply(carry), Answer::Done);
                }
            }
        }
        Step::Compact => world.compact(),
        Step::Configure { topic, bytes, records } => {
            let (topic, options) = (format!("t{topic}"), TopicOptions::default());
            let options = TopicOptions { bytes, records, ..options };
            world.apply(&Command::Configure { topic: name(&topic), options });
            if let Some(model) = models.get_mut(&topic) {
                // What went before stays gone.
                model.trimmed = world.view(&topic).first.min(model.trimmed.max(model.must_have()));
                model.options = options;
                model.trimmed = model.trimmed.max(world.view(&topic).first.min(model.must_have()));
            }
        }
        Step::Delete { topic } => {
            let topic = format!("t{topic}");
            world.apply(&Command::Delete { topic: name(&topic) });
            models.remove(&topic);
        }
        Step::Refused { topic } => {
            let append = append(&format!("t{topic}"), 99, &["refused"]);
            world.apply(&Command::Append(Append { expected: Some(u64::MAX), ..append }));
        }
        Step::Repeat { topic } => {
            world.repeat(&Command::Append(append(&format!("t{topic}"), 99, &["repeated"])));
        }
        Step::Restore => {
            let bytes = image_bytes(world.machine.snapshot());
            world.machine = LogMachine::new();
            world.machine.restore(&mut &bytes[..]).unwrap();
        }
        Step::Trim { topic, before } => {
            let topic = format!("t{topic}");
            world.apply(&Command::Trim { topic: name(&topic), before });
            if let Some(model) = models.get_mut(&topic) {
                model.trimmed = model.trimmed.max(before.min(model.records.len() as u64));
            }
        }
    }
    Ok(())
}

fn check_reads(
    world: &World,
    topic: &str,
    model: &Model,
    bytes_max: u32,
    records_max: u32,
) -> Result<(), TestCaseError> {
    let view = world.view(topic);
    for from in view.first..view.next {
        let found = records(&world.page(topic, from, bytes_max, records_max), from);
        prop_assert!(!found.is_empty(), "nothing at {} of {:?}", from, view);
        let expected = (from..).zip(model.records.iter().skip(usize::try_from(from).unwrap()));
        for ((offset, value), (at, (_, record))) in found.iter().zip(expected) {
            prop_assert_eq!((*offset, value), (at, record));
        }
    }
    if let Some(below) = view.first.checked_sub(1) {
        let read = Read { topic: name(topic), id: 0, from: below, bytes_max, records_max };
        let old = Answer::Refused(Refusal::OffsetTooOld { first: view.first });
        prop_assert_eq!(world.ask(&Query::Read(read)), old);
    }
    Ok(())
}

fn check_times(world: &World, topic: &str, model: &Model) -> Result<(), TestCaseError> {
    let view = world.view(topic);
    for timestamp in 0..51 {
        let mut records = model.records.iter();
        let first = records.position(|(at, _)| *at >= timestamp).map_or(view.next, |at| at as u64);
        let found = world.ask(&Query::Find { topic: name(topic), timestamp });
        prop_assert_eq!(found, Answer::Offset(first.max(view.first)), "time {}", timestamp);
    }
    Ok(())
}
