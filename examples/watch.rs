//! A configuration that is watched: the present keys are read at one revision, and every later change
//! comes in order, also over the loss of the leader. Nothing is polled and nothing is missed.
//!
//! ```text
//! at first: mode = dark, size = 10
//! mode became light, and was dark
//! the leader is gone
//! size became 12, and was 10
//! mode was cleared, and size became 14, in one step
//! ```

#![expect(clippy::print_stdout, reason = "an example shows its result")]

use std::time::Duration;

use bytes::Bytes;
use zmesh::kv::{Event, KeyRange, Operation, Watch};
use zmesh::testing::TestCluster;

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut cluster = TestCluster::start(3).await?;
    let kv = cluster.kv().timeout(PATIENCE);
    kv.set("config/mode", "dark").await?;
    kv.set("config/size", "10").await?;

    // The list says at which revision it is true; the watch begins right there.
    let config = || KeyRange::prefix("config/");
    let page = kv.list(config()).await?;
    let texts = page.entries.iter().map(|it| format!("{} = {}", name(&it.key), text(&it.value)));
    println!("at first: {}", texts.collect::<Vec<_>>().join(", "));
    let mut watch = kv.watch(config()).after(page.revision).with_previous().await?;

    kv.set("config/mode", "light").await?;
    kv.set("something/else", "is not watched").await?;
    print_change(&next(&mut watch).await?);

    let leader = cluster.leader().await?;
    cluster.kill(leader);
    println!("the leader is gone");
    kv.set("config/size", "12").await?;
    print_change(&next(&mut watch).await?);

    // What belongs together has one revision.
    let size = Operation::set("config/size", "14");
    kv.txn().then(Operation::clear("config/mode")).then(size).await?;
    let (cleared, set) = (next(&mut watch).await?, next(&mut watch).await?);
    let together = if cleared.revision == set.revision { "one step" } else { "two steps" };
    let size = set.entry.map(|entry| text(&entry.value)).unwrap_or_default();
    println!("{} was cleared, and size became {size}, in {together}", name(&cleared.key));
    Ok(())
}

/// The next change; as long as no replica answers, the watch is asked again and goes on.
async fn next(watch: &mut Watch) -> Result<Event, zmesh::kv::Error> {
    loop {
        match watch.next().await {
            Err(error) if error.is_retryable() => {}
            answer => return answer,
        }
    }
}

fn print_change(event: &Event) {
    let value = |entry: &Option<zmesh::kv::Entry>| entry.as_ref().map(|it| text(&it.value));
    let (now, before) = (value(&event.entry), value(&event.previous));
    let (now, before) = (now.unwrap_or_default(), before.unwrap_or_default());
    println!("{} became {now}, and was {before}", name(&event.key));
}

fn name(key: &Bytes) -> String {
    text(key).trim_start_matches("config/").to_owned()
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
