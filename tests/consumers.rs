//! Consumer groups on real nodes: every record is worked on, whoever comes, goes or is killed.
#![expect(clippy::unwrap_used, reason = "a test; the allowance does not reach functions beside it")]
#![expect(clippy::disallowed_methods, reason = "waits for what it wants to see, with a deadline")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use zmesh::log::groups::{
    DeadLetter, Group, GroupError, GroupOptions, GroupStatus, Outcome, Start,
};
use zmesh::log::{Log, Record};
use zmesh::route::Filter;
use zmesh::testing::TestCluster;
use zmesh::{Address, ErrorCode, Node};

const DEADLINE: Duration = Duration::from_secs(60);

async fn cluster() -> TestCluster {
    TestCluster::builder(3).log_groups(1).start().await.unwrap()
}

fn log(node: &Node) -> Log {
    Log::new(node).timeout(DEADLINE)
}

/// A group of the topic `jobs`, which gets so many records.
async fn group(cluster: &TestCluster, records: u64, options: GroupOptions) -> Group {
    let topic = log(cluster.client()).topic("jobs");
    for number in 0..records {
        topic.append(Record::new(number.to_string())).await.unwrap();
    }
    let group = topic.group("workers");
    group.create(Start::First, options).await.unwrap();
    group
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// Waits until the status of a group is as wanted.
async fn wait_for(group: &Group, wanted: impl Fn(&GroupStatus) -> bool) -> GroupStatus {
    let end = Instant::now() + DEADLINE;
    loop {
        let status = group.status().await.unwrap();
        if wanted(&status) {
            return status;
        }
        assert!(Instant::now() < end, "still {status:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What workers did, by offset.
#[derive(Default)]
struct Ledger {
    worked: Mutex<BTreeMap<u64, u32>>,
    acked: Mutex<BTreeMap<u64, u32>>,
}

impl Ledger {
    fn note(of: &Mutex<BTreeMap<u64, u32>>, offset: u64) {
        *of.lock().unwrap().entry(offset).or_default() += 1;
    }
}

/// A worker in good order, until it is told to go.
async fn work(group: Group, name: String, ledger: Arc<Ledger>, mut go: watch::Receiver<bool>) {
    let mut member = group.member(name).prefetch(4).join().await.unwrap();
    loop {
        let next = tokio::select! {
            _ = go.wait_for(|go| *go) => break,
            next = member.next() => next,
        };
        let delivery = match next {
            Ok(delivery) => delivery,
            Err(error) => {
                assert!(error.is_retryable(), "{error}");
                continue;
            }
        };
        let offset = delivery.offset;
        assert_eq!(delivery.record.value, offset.to_string(), "the record of another offset");
        Ledger::note(&ledger.worked, offset);
        match delivery.ack().await {
            Ok(()) => Ledger::note(&ledger.acked, offset),
            // It was slow, or the answer was lost: somebody will do it again, or need not.
            Err(error) => assert!(!matches!(error, GroupError::Left), "{error}"),
        }
    }
    member.leave().await.unwrap();
}

/// A worker that takes records and is killed with its node before it has done anything.
fn doomed(address: Address, ledger: Arc<Ledger>) -> tokio::sync::oneshot::Receiver<usize> {
    let (dead, died) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let in_hand = runtime.block_on(async {
            let node = Node::builder("doomed").connect(address).start().unwrap();
            node.wait_for_peers(&Filter::any(), 1, DEADLINE).await.unwrap();
            let group = log(&node).topic("jobs").group("workers");
            let mut member = group.member("doomed").join().await.unwrap();
            let mut in_hand = Vec::new();
            while in_hand.is_empty() {
                in_hand = member.fetch(5).await.unwrap_or_default();
            }
            in_hand.iter().for_each(|delivery| Ledger::note(&ledger.worked, delivery.offset));
            let count = in_hand.len();
            // Nothing of it runs after this, not even what it would do when it is dropped.
            std::mem::forget((in_hand, member));
            count
        });
        runtime.shutdown_background();
        dead.send(in_hand).unwrap();
    });
    died
}

/// The promise to users: whatever happens to workers and replicas, every record is worked on and
/// acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_record_is_acknowledged_whoever_is_killed() {
    const RECORDS: u64 = 400;
    let mut cluster = cluster().await;
    let options = GroupOptions {
        ack_timeout: secs(2),
        session_timeout: secs(2),
        tries_max: 1_000,
        ..GroupOptions::default()
    };
    let group = group(&cluster, 0, options).await;
    let (progress, mut appended) = mpsc::channel(1_000);
    let writer = tokio::spawn({
        let topic = group.topic().clone();
        async move {
            for number in 0..RECORDS {
                topic.append(Record::new(number.to_string())).await.unwrap();
                progress.send(number).await.unwrap();
            }
        }
    });
    let ledger = Arc::new(Ledger::default());
    let (stop, go) = watch::channel(false);
    let (first_leaves, first_goes) = watch::channel(false);
    let start = |name: &str, go: &watch::Receiver<bool>| {
        tokio::spawn(work(group.clone(), name.to_owned(), Arc::clone(&ledger), go.clone()))
    };
    let mut workers = vec![start("w1", &first_goes), start("w2", &go)];
    let address = cluster.node(0).address().unwrap().clone();
    while let Some(number) = appended.recv().await {
        if number == RECORDS / 5 {
            let in_hand = doomed(address.clone(), Arc::clone(&ledger)).await.unwrap();
            assert!(in_hand > 0);
        } else if number == RECORDS / 3 {
            first_leaves.send(true).unwrap();
            workers.push(start("w3", &go));
        } else if number == RECORDS / 2 {
            let leader = cluster.log_leader(0).await.unwrap();
            cluster.kill(leader);
            workers.push(start("w4", &go));
        }
    }
    writer.await.unwrap();
    let status = wait_for(&group, |status| status.lag == 0).await;
    stop.send(true).unwrap();
    for worker in workers {
        worker.await.unwrap();
    }
    assert_eq!((status.counts.acked, status.floor, status.dead), (RECORDS, RECORDS, 0));
    // Those that left said so; the one that was killed is missed.
    let status = wait_for(&group, |status| status.members == 0).await;
    assert!(status.counts.lost > 0 && status.in_flight == 0, "{status:?}");
    let worked = ledger.worked.lock().unwrap();
    assert!(worked.keys().copied().eq(0..RECORDS), "a record was not worked on");
    let acked = ledger.acked.lock().unwrap();
    assert!(acked.values().all(|times| *times == 1), "acknowledged twice: {acked:?}");
}

/// What cannot be done is put aside, where somebody can look at it and try again.
#[tokio::test]
async fn record_that_always_fails_becomes_a_dead_letter() {
    let cluster = cluster().await;
    let options = GroupOptions { tries_max: 2, ..GroupOptions::default() };
    let group = group(&cluster, 2, options).await;
    let mut member = group.member("w1").join().await.unwrap();
    for tries in [1, 2] {
        let delivery = member.next().await.unwrap();
        assert_eq!((delivery.offset, delivery.tries), (0, tries));
        // Dropping it is as good as saying that it failed.
        if tries == 1 { delivery.nack(Duration::ZERO).await.unwrap() } else { drop(delivery) }
    }
    let status = wait_for(&group, |status| status.dead == 1).await;
    assert_eq!(status.counts.buried, 1);
    assert_eq!(group.dead_letters(0).await.unwrap(), [DeadLetter { offset: 0, tries: 2 }]);
    let hopeless = member.next().await.unwrap();
    assert_eq!(hopeless.offset, 1);
    hopeless.bury().await.unwrap();

    assert_eq!(group.drop_dead(&[1, 7]).await.unwrap(), [Outcome::Done, Outcome::Stale]);
    assert_eq!(group.requeue(&[0]).await.unwrap(), [Outcome::Done]);
    let again = member.next().await.unwrap();
    assert_eq!((again.offset, again.tries), (0, 1));
    again.ack().await.unwrap();
    member.leave().await.unwrap();
    let status = group.status().await.unwrap();
    assert_eq!((status.lag, status.dead, status.members), (0, 0, 0));
}

/// A worker that is asked to go finishes what it has begun, and takes nothing away from others.
#[tokio::test]
async fn member_that_leaves_finishes_and_gives_back_what_it_has_not_seen() {
    let cluster = cluster().await;
    let group = group(&cluster, 6, GroupOptions::default()).await;
    let mut member = group.member("w1").prefetch(5).join().await.unwrap();
    let in_hand = member.next().await.unwrap();
    wait_for(&group, |status| status.in_flight == 6).await;
    let leaving = tokio::spawn(member.leave());
    let status = wait_for(&group, |status| status.available == 5).await;
    assert_eq!((status.members, status.in_flight), (1, 1), "it left with work in hand");
    in_hand.ack().await.unwrap();
    leaving.await.unwrap().unwrap();
    let status = group.status().await.unwrap();
    assert_eq!((status.members, status.counts.acked, status.available), (0, 1, 5));

    let mut other = group.member("w2").join().await.unwrap();
    let rest = other.fetch(9).await.unwrap().into_iter();
    let rest: Vec<_> = rest.map(|delivery| (delivery.offset, delivery.tries)).collect();
    assert_eq!(rest, [(1, 1), (2, 1), (3, 1), (4, 1), (5, 1)], "unseen records counted as tries");
    drop(other);
    wait_for(&group, |status| status.members == 0).await;
}

/// A worker that hangs must not hold a record for ever, nor end the work of its successor.
#[tokio::test]
async fn record_of_a_slow_member_goes_to_another() {
    let cluster = cluster().await;
    let options = GroupOptions { ack_timeout: secs(3), ..GroupOptions::default() };
    let group = group(&cluster, 1, options).await;
    let mut slow = group.member("slow").join().await.unwrap();
    let mut quick = group.member("quick").join().await.unwrap();
    let held = slow.next().await.unwrap();
    // It asks for more time once, and then hangs.
    held.extend().await.unwrap();
    let again = quick.next().await.unwrap();
    assert_eq!((again.offset, again.tries), (0, 2));
    let stale = held.ack().await.unwrap_err();
    assert_eq!(stale, GroupError::Stale { offset: 0 });
    assert_eq!(stale.code(), ErrorCode::StaleDelivery);
    again.ack().await.unwrap();
    assert_eq!(group.status().await.unwrap().lag, 0);
}

/// Two processes under one name would take turns in throwing each other out.
#[tokio::test]
async fn member_that_was_replaced_hears_of_it() {
    let cluster = cluster().await;
    let options = GroupOptions { session_timeout: secs(8), ..GroupOptions::default() };
    let group = group(&cluster, 0, options).await;
    let mut first = group.member("w1").join().await.unwrap();
    let waiting = tokio::spawn(async move { first.next().await });
    wait_for(&group, |status| status.members == 1).await;
    let mut second = group.member("w1").join().await.unwrap();
    let record = Record::new("0");
    group.topic().append(record).await.unwrap();
    assert_eq!(second.next().await.unwrap().offset, 0);
    let error = waiting.await.unwrap().unwrap_err();
    assert_eq!(error, GroupError::Replaced { name: "w1".to_owned() });
    let options = GroupOptions { tries_max: 9, ..GroupOptions::default() };
    let differs = group.create(Start::First, options).await.unwrap_err();
    assert_eq!(differs.code(), ErrorCode::GroupDiffers);
}

/// What a member has fetched ahead is not handed to it when its time is up: somebody else is done
/// with it by then.
#[tokio::test]
async fn record_that_waited_for_too_long_is_not_handed_out() {
    let cluster = cluster().await;
    let options = GroupOptions { ack_timeout: secs(1), ..GroupOptions::default() };
    let group = group(&cluster, 3, options).await;
    let mut slow = group.member("slow").prefetch(4).join().await.unwrap();
    let first = slow.next().await.unwrap();
    wait_for(&group, |status| status.in_flight == 3).await;
    let mut quick = group.member("quick").join().await.unwrap();
    for _ in 0..3 {
        quick.next().await.unwrap().ack().await.unwrap();
    }
    quick.leave().await.unwrap();
    assert!(matches!(first.ack().await, Err(GroupError::Stale { offset: 0 })));
    let topic = log(cluster.client()).topic("jobs");
    let appended = topic.append(Record::new("3")).await.unwrap();
    assert_eq!(slow.next().await.unwrap().offset, appended.first);
}
