//! A saga: steps that each have a step which undoes them, instead of one transaction over all.
//!
//! What happened stands in the log, and what happens next follows from it alone; so whoever reads
//! the log can go on where another was lost, and does again at most one step, which must not matter.
//! Nobody else goes on at the same time: an entry is only appended where its writer expects it.
//!
//! ```text
//! flight: booked
//! hotel: booked
//! the coordinator is lost before it could write that down, and the leader of the log as well
//! hotel: booked already
//! car: none left
//! hotel: cancelled
//! flight: cancelled
//! left over: nothing
//! log: did flight, did hotel, failed car, undid hotel, undid flight
//! the first coordinator comes back and is refused with OFFSET_MISMATCH
//! ```

#![expect(clippy::print_stdout, reason = "an example shows its result")]

use std::collections::BTreeSet;
use std::error::Error;
use std::time::Duration;

use zmesh::log::{ReadLimits, Record, Topic};
use zmesh::testing::TestCluster;

const PATIENCE: Duration = Duration::from_secs(20);
const STEPS: [&str; 3] = ["flight", "hotel", "car"];

/// What others did for us. Asking twice is the same as asking once.
#[derive(Default)]
struct World(BTreeSet<&'static str>);

impl World {
    fn book(&mut self, step: &'static str) -> bool {
        let (is_there, is_new) = (step != "car", step != "car" && self.0.insert(step));
        let said = match (is_there, is_new) {
            (true, true) => "booked",
            (true, false) => "booked already",
            (false, _) => "none left",
        };
        println!("{step}: {said}");
        is_there
    }

    fn cancel(&mut self, step: &'static str) {
        println!("{step}: {}", if self.0.remove(step) { "cancelled" } else { "cancelled already" });
    }
}

/// What is to be done after these entries; nothing at the end.
enum Next {
    Do(&'static str),
    Undo(&'static str),
    Nothing,
}

fn next(entries: &[String]) -> Next {
    let has =
        |verb: &str, step: &str| entries.iter().any(|entry| *entry == format!("{verb} {step}"));
    if STEPS.iter().any(|step| has("failed", step)) {
        // In reverse order, and only what was done.
        let done = STEPS.into_iter().rev().filter(|step| has("did", step));
        return done.into_iter().find(|step| !has("undid", step)).map_or(Next::Nothing, Next::Undo);
    }
    STEPS.into_iter().find(|step| !has("did", step)).map_or(Next::Nothing, Next::Do)
}

/// Goes on with the saga until its end, or until `steps` were taken and the last is not written down.
async fn coordinate(saga: &Topic, world: &mut World, steps: usize) -> Result<(), Box<dyn Error>> {
    for step in 1.. {
        let entries = entries(saga).await?;
        let entry = match next(&entries) {
            Next::Do(what) if world.book(what) => format!("did {what}"),
            Next::Do(what) => format!("failed {what}"),
            Next::Undo(what) => {
                world.cancel(what);
                format!("undid {what}")
            }
            Next::Nothing => break,
        };
        if step == steps {
            break;
        }
        saga.append_at(entries.len() as u64, &[Record::new(entry)]).await?;
    }
    Ok(())
}

async fn entries(saga: &Topic) -> Result<Vec<String>, zmesh::log::Error> {
    let read = saga.read(0, ReadLimits::default()).await?;
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    Ok(read.records.iter().map(|stored| text(stored.value())).collect())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut cluster = TestCluster::builder(3).log_groups(1).start().await?;
    let saga = cluster.log().timeout(PATIENCE).topic("trip-17");
    saga.create(Default::default()).await?;
    let mut world = World::default();

    coordinate(&saga, &mut world, 2).await?;
    println!(
        "the coordinator is lost before it could write that down, and the leader of the log as well"
    );
    let leader = cluster.log_leader(0).await?;
    cluster.kill(leader);
    coordinate(&saga, &mut world, usize::MAX).await?;

    let left: Vec<_> = world.0.into_iter().collect();
    println!("left over: {}", if left.is_empty() { "nothing".into() } else { left.join(", ") });
    println!("log: {}", entries(&saga).await?.join(", "));
    let late = saga.append_at(1, &[Record::new("did hotel")]).await;
    let refused = late.err().ok_or("two wrote the same entry")?;
    println!("the first coordinator comes back and is refused with {}", refused.code());
    Ok(())
}
