//! A replicated log whose records several workers share: each is done by one of them, what fails is
//! tried again, what fails too often is put aside. An auditor follows the same topic on its own.
//!
//! ```text
//! six jobs at offsets 0 to 5
//! the auditor saw: wash, dry, iron, burn, fold, store
//! two workers did: wash, dry, iron, fold, store
//! dead letter: burn, tried 2 times
//! tried again after the leader was lost: burn
//! left to do: 0
//! ```

#![expect(clippy::print_stdout, reason = "an example shows its result")]

use std::collections::BTreeMap;
use std::time::Duration;

use zmesh::log::groups::{Group, GroupError, GroupOptions};
use zmesh::log::{Record, Start};
use zmesh::testing::TestCluster;

const PATIENCE: Duration = Duration::from_secs(20);

/// Works until there is nothing left to do; nobody can do `burn`.
async fn work(group: Group, name: &str) -> Result<BTreeMap<u64, String>, GroupError> {
    let (mut member, mut done) = (group.member(name).join().await?, BTreeMap::new());
    while group.status().await?.lag > 0 {
        let next = tokio::time::timeout(Duration::from_millis(100), member.next()).await;
        let Ok(next) = next else { continue };
        let delivery = next?;
        let job = String::from_utf8_lossy(&delivery.record.value).into_owned();
        if job == "burn" {
            delivery.nack(Duration::ZERO).await?;
        } else {
            done.insert(delivery.offset, job);
            delivery.ack().await?;
        }
    }
    member.leave().await?;
    Ok(done)
}

fn list(jobs: &BTreeMap<u64, String>) -> String {
    jobs.values().cloned().collect::<Vec<_>>().join(", ")
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut cluster = TestCluster::builder(3).log_groups(1).start().await?;
    let topic = cluster.log().timeout(PATIENCE).topic("jobs");
    let jobs = ["wash", "dry", "iron", "burn", "fold", "store"].map(Record::new);
    let appended = topic.append_batch(jobs.to_vec()).await?;
    println!("six jobs at offsets {} to {}", appended.first, appended.first + appended.count - 1);

    let (mut tail, mut seen) = (topic.tail(Start::First), BTreeMap::new());
    while seen.len() < 6 {
        let next = tail.next().await?;
        seen.insert(next.offset, String::from_utf8_lossy(next.value()).into_owned());
    }
    println!("the auditor saw: {}", list(&seen));

    let group = topic.group("laundry");
    group.create(Start::First, GroupOptions { tries_max: 2, ..GroupOptions::default() }).await?;
    let (ada, bob) = (work(group.clone(), "ada"), work(group.clone(), "bob"));
    let (mut done, others) = tokio::try_join!(ada, bob)?;
    done.extend(others);
    println!("two workers did: {}", list(&done));
    for letter in group.dead_letters(0).await? {
        println!("dead letter: {}, tried {} times", seen[&letter.offset], letter.tries);
        group.requeue(&[letter.offset]).await?;
    }

    let leader = cluster.log_leader(0).await?;
    cluster.kill(leader);
    let mut eve = group.member("eve").join().await?;
    let again = eve.next().await?;
    println!("tried again after the leader was lost: {}", seen[&again.offset]);
    again.ack().await?;
    eve.leave().await?;
    println!("left to do: {}", group.status().await?.lag);
    Ok(())
}
