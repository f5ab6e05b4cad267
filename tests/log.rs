//! The log on real nodes: what was acknowledged is there, once and in order, whoever is killed.
#![expect(clippy::unwrap_used, reason = "a test; the allowance does not reach functions beside it")]
#![expect(clippy::disallowed_methods, reason = "waits for what it wants to see, with a deadline")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use zmesh::ErrorCode;
use zmesh::consensus::Role;
use zmesh::log::{
    Lag, Log, OnLag, ReadLimits, Record, Refusal, Start, Stored, Topic, TopicOptions, Upkeep,
    group_of,
};
use zmesh::replica::{self, AckLevel, Acks, Progress};
use zmesh::testing::TestCluster;

mod files;

use files::bytes_of;

const DEADLINE: Duration = Duration::from_secs(60);

async fn cluster(groups: u16) -> TestCluster {
    TestCluster::builder(3).log_groups(groups).start().await.unwrap()
}

fn log(cluster: &TestCluster) -> Log {
    cluster.log().timeout(DEADLINE)
}

/// The node that leads the first group.
async fn leader(cluster: &TestCluster) -> usize {
    let end = Instant::now() + DEADLINE;
    loop {
        for node in (0..cluster.nodes()).filter(|node| cluster.is_running(*node)) {
            let progress = cluster.log_replicas(node)[0].status().await;
            if matches!(progress, Progress::Running(status) if status.role == Role::Leader) {
                return node;
            }
        }
        assert!(Instant::now() < end, "nobody leads the group");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn record(number: u64) -> Record {
    Record::with_key(format!("key-{number}"), number.to_string())
}

fn number(stored: &Stored) -> u64 {
    std::str::from_utf8(stored.value()).unwrap().parse().unwrap()
}

async fn append_all(topic: &Topic, count: u64) {
    let records = (0..count).map(record).collect();
    topic.append_batch(records).await.unwrap();
}

/// Reads a topic from its beginning to its end, in small pages.
async fn read_all(topic: &Topic) -> Vec<Stored> {
    let (mut all, limits) = (Vec::new(), ReadLimits { bytes: 2_000, records: 50 });
    loop {
        let page = topic.read(all.len() as u64, limits).await.unwrap();
        if page.records.is_empty() {
            assert_eq!(page.end, all.len() as u64);
            return all;
        }
        all.extend(page.records);
    }
}

/// The promise to users: nothing is lost, doubled or reordered, neither for the writer, nor for a
/// reader who follows while leaders are killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_are_there_once_and_in_order_though_leaders_are_killed() {
    const KILLS: usize = 4;
    let mut cluster = cluster(1).await;
    let topic = log(&cluster).topic("orders");
    let appended = Arc::new(AtomicU64::new(0));
    let done = Arc::new(AtomicU64::new(u64::MAX));
    let writer = tokio::spawn({
        let (topic, appended, done) = (topic.clone(), Arc::clone(&appended), Arc::clone(&done));
        async move {
            let mut next = 0;
            while next < done.load(Ordering::SeqCst) {
                // Several at once, so that batches are under way when a leader is killed.
                let all: Vec<_> = (next..next + 8)
                    .map(|number| {
                        let topic = topic.clone();
                        async move { topic.append(record(number)).await.unwrap().first }
                    })
                    .map(Box::pin)
                    .collect();
                for (number, append) in (next..).zip(join_in_order(all).await) {
                    assert_eq!(append, number, "another offset than its place");
                }
                next += 8;
                appended.store(next, Ordering::SeqCst);
            }
            next
        }
    });
    let reader = tokio::spawn({
        let (topic, done) = (topic.clone(), Arc::clone(&done));
        async move {
            let mut tail = topic.tail(Start::First);
            let mut next = 0;
            while next < done.load(Ordering::SeqCst) {
                let stored = tail.next().await.unwrap();
                assert_eq!((stored.offset, number(&stored)), (next, next));
                next += 1;
            }
            next
        }
    });
    for _ in 0..KILLS {
        let before = appended.load(Ordering::SeqCst);
        let end = Instant::now() + DEADLINE;
        while appended.load(Ordering::SeqCst) < before + 16 {
            assert!(Instant::now() < end, "no appends");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let leader = leader(&cluster).await;
        cluster.kill(leader);
        cluster.restart(leader).await.unwrap();
    }
    done.store(appended.load(Ordering::SeqCst) + 16, Ordering::SeqCst);
    let written = tokio::time::timeout(DEADLINE, writer).await.unwrap().unwrap();
    tokio::time::timeout(DEADLINE, reader).await.unwrap().unwrap();
    let all = read_all(&topic).await;
    assert_eq!(all.iter().map(number).collect::<Vec<_>>(), (0..written).collect::<Vec<_>>());
}

/// Polls all futures, in their order, until all are done.
async fn join_in_order<F: Future + Unpin>(mut all: Vec<F>) -> Vec<F::Output> {
    let mut outputs: Vec<Option<F::Output>> = all.iter().map(|_| None).collect();
    std::future::poll_fn(move |cx| {
        for (future, output) in all.iter_mut().zip(&mut outputs) {
            if output.is_none()
                && let std::task::Poll::Ready(ready) = std::pin::Pin::new(future).poll(cx)
            {
                *output = Some(ready);
            }
        }
        match outputs.iter().all(Option::is_some) {
            true => std::task::Poll::Ready(outputs.iter_mut().filter_map(Option::take).collect()),
            false => std::task::Poll::Pending,
        }
    })
    .await
}

/// Many who append at the same time share batches; each is told its own offset, and one whose
/// record is refused does not take the others with it.
#[tokio::test]
async fn appends_that_wait_leave_together_and_each_gets_its_offset() {
    let cluster = cluster(1).await;
    let topic = log(&cluster).topic("a");
    let options = TopicOptions { record_bytes_max: 100, ..TopicOptions::default() };
    topic.create(options).await.unwrap();
    let append = |number: u64| {
        let topic = topic.clone();
        let large = Record::new(vec![0; 101]);
        let record = if number == 300 { large } else { record(number) };
        Box::pin(async move { topic.append(record).await })
    };
    let results = join_in_order((0..600).map(append).collect()).await;
    let mut entries = std::collections::BTreeSet::new();
    let mut expected = 0;
    for (at, result) in results.into_iter().enumerate() {
        if at == 300 {
            assert_eq!(result.unwrap_err().code(), ErrorCode::PayloadTooLarge);
            continue;
        }
        let appended = result.unwrap();
        assert_eq!((appended.first, appended.count), (expected, 1));
        entries.insert(appended.index);
        expected += 1;
    }
    assert!(entries.len() <= 10, "{} entries for 600 records", entries.len());
    assert_eq!(read_all(&topic).await.len(), 599);
}

/// Whoever decides by what it has read must not decide by what is not so any more.
#[tokio::test]
async fn expected_offset_lets_one_of_two_writers_win() {
    let cluster = cluster(1).await;
    let topic = log(&cluster).topic("a").existing();
    let unknown = topic.append(record(0)).await.unwrap_err();
    assert_eq!(unknown.code(), ErrorCode::TopicUnknown);
    topic.create(TopicOptions::default()).await.unwrap();
    let appended = topic.append_at(0, &[record(0), record(1)]).await.unwrap();
    assert_eq!((appended.first, appended.count), (0, 2));
    let error = topic.append_at(0, &[record(9)]).await.unwrap_err();
    assert_eq!(error, Refusal::OffsetMismatch { current: 2 }.into());
    assert_eq!(topic.end().await.unwrap(), 2);
}

/// A writer chooses how much it waits for, and is told what it got.
#[tokio::test]
async fn append_is_acknowledged_at_the_level_that_was_asked_for() {
    let cluster = cluster(1).await;
    let topic = log(&cluster).topic("a");
    let records = [record(0), record(1)];
    let all = topic.append_with(&records, Acks::All { min_insync: 2 }).await.unwrap();
    assert_eq!((all.first, all.count, all.level), (Some(0), 2, AckLevel::All));
    let quorum = topic.append_batch(records.to_vec()).await.unwrap();
    assert_eq!((quorum.first, quorum.level), (2, AckLevel::Quorum));
    let leader = topic.append_with(&records, Acks::Leader).await.unwrap();
    assert_eq!((leader.first, leader.level), (None, AckLevel::Leader));
    let sent = topic.append_with(&records, Acks::None).await.unwrap();
    assert_eq!((sent.first, sent.level), (None, AckLevel::None));
    // Nothing goes wrong here, so they arrive.
    let mut tail = topic.tail(Start::First);
    for offset in 0..8 {
        let next = tokio::time::timeout(DEADLINE, tail.next()).await.unwrap().unwrap();
        assert_eq!(next.offset, offset);
    }
}

/// A tail waits for a topic that there is not yet, is served by the node's own replica, and does
/// not go on in another topic of the same name.
#[tokio::test]
async fn tail_waits_for_its_topic_and_ends_with_it() {
    let cluster = cluster(1).await;
    let far = log(&cluster).topic("a");
    let node = cluster.node(1);
    let near = Log::local(node, cluster.log_replicas(1).to_vec()).timeout(DEADLINE).topic("a");
    let mut tails = [far.tail(Start::First), near.tail(Start::First)];
    for tail in &mut tails {
        let early = tokio::time::timeout(Duration::from_millis(50), tail.next()).await;
        assert!(early.is_err(), "there is nothing");
    }
    append_all(&far, 3).await;
    for tail in &mut tails {
        for expected in 0..3 {
            let next = tokio::time::timeout(DEADLINE, tail.next()).await.unwrap().unwrap();
            assert_eq!(number(&next), expected);
        }
        assert_eq!((tail.position(), tail.skipped()), (Some(3), 0));
    }
    let mut late = far.tail(Start::End);
    let nothing = tokio::time::timeout(Duration::from_millis(50), late.next()).await;
    assert!(nothing.is_err(), "it began at the end");
    far.delete().await.unwrap();
    append_all(&far, 9).await;
    for tail in tails.iter_mut().chain([&mut late]) {
        let gone = tokio::time::timeout(DEADLINE, tail.next()).await.unwrap();
        assert_eq!(gone.unwrap_err(), Refusal::TopicUnknown.into());
    }
}

/// A reader that cannot keep up is told, or loses the oldest and is told how many; or it waits.
#[tokio::test]
async fn slow_reader_fails_skips_or_waits_as_it_wants() {
    let cluster = cluster(1).await;
    let topic = log(&cluster).topic("a");
    append_all(&topic, 100).await;
    let lag = |records| Lag { records: Some(records), age: None };
    let mut fails = topic.tail(Start::First).on_lag(OnLag::Fail(lag(99)));
    let error = fails.next().await.unwrap_err();
    assert_eq!((error.code(), error.is_retryable()), (ErrorCode::TooSlow, false));
    assert!(error.to_string().starts_with("100 records behind"), "{error}");
    let mut just = topic.tail(Start::First).on_lag(OnLag::Fail(lag(100)));
    assert_eq!(just.next().await.unwrap().offset, 0);
    let mut skips = topic.tail(Start::First).on_lag(OnLag::DropOldest(lag(10)));
    assert_eq!(skips.next().await.unwrap().offset, 90);
    assert_eq!(skips.skipped(), 90);
    // All that there is is too old, so it waits for what is new.
    let age = Lag { records: None, age: Some(Duration::ZERO) };
    tokio::time::sleep(Duration::from_millis(2)).await;
    let mut young = topic.tail(Start::First).on_lag(OnLag::Fail(age));
    assert_eq!(young.next().await.unwrap_err().code(), ErrorCode::TooSlow);
    let age = Lag { records: None, age: Some(DEADLINE) };
    let mut young = topic.tail(Start::Offset(5)).on_lag(OnLag::DropOldest(age));
    assert_eq!((young.next().await.unwrap().offset, young.skipped()), (5, 0));

    topic.trim(95).await.unwrap();
    // A replica that has not applied it yet still gives what it has.
    let end = Instant::now() + DEADLINE;
    let old = loop {
        match topic.tail(Start::Offset(50)).next().await {
            Ok(stored) => assert_eq!(stored.offset, 50),
            Err(error) => break error,
        }
        assert!(Instant::now() < end, "never trimmed");
    };
    assert_eq!(old, Refusal::OffsetTooOld { first: 95 }.into());
    skips_what_is_gone(&topic).await;
}

/// A reader that skips goes on behind what is not kept any more, and says how much that was.
async fn skips_what_is_gone(topic: &Topic) {
    let lag = Lag { records: Some(1_000), age: None };
    let end = Instant::now() + DEADLINE;
    loop {
        let mut skips = topic.tail(Start::Offset(50)).on_lag(OnLag::DropOldest(lag));
        let (offset, skipped) = (skips.next().await.unwrap().offset, skips.skipped());
        match offset {
            95 => return assert_eq!(skipped, 45),
            other => assert_eq!(other, 50),
        }
        assert!(Instant::now() < end, "never trimmed");
    }
}

/// What is older than a topic wants to keep goes by itself, and records that are kept stay where
/// they are; also on disk.
#[tokio::test]
async fn records_go_by_count_and_by_age() {
    let cluster = cluster(1).await;
    let log = log(&cluster);
    let counted = log.topic("counted");
    counted.create(TopicOptions { records: Some(10), ..Default::default() }).await.unwrap();
    let aged = log.topic("aged");
    let age = Some(Duration::from_secs(1));
    aged.create(TopicOptions { age, ..Default::default() }).await.unwrap();
    append_all(&counted, 100).await;
    append_all(&aged, 5).await;
    let view = counted.view().await.unwrap();
    assert_eq!((view.first, view.next), (90, 100));
    let page = counted.read(90, ReadLimits::default()).await.unwrap();
    assert_eq!(page.records.iter().map(number).collect::<Vec<_>>(), (90..100).collect::<Vec<_>>());
    let end = Instant::now() + DEADLINE;
    while aged.view().await.unwrap().first < 5 {
        assert!(Instant::now() < end, "old records stay");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(aged.append(record(5)).await.unwrap().first, 5, "offsets begin anew");
}

/// A topic that nobody appends to any more does not keep the disks full of what others have let go
/// of: its records move, and are read as before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_topic_does_not_fill_the_disk() {
    const MIB: usize = 1024 * 1024;
    let options = replica::Options { snapshot_bytes: 2 << 20, ..Default::default() };
    let cluster = TestCluster::builder(3).options(options).log_groups(1).start().await.unwrap();
    let upkeep = Upkeep { every: Duration::from_millis(20), slack_bytes: 1 << 20 };
    (0..3).for_each(|node| zmesh::log::keep(&cluster.log_replicas(node)[0], upkeep));
    let log = log(&cluster);
    let idle = log.topic("idle");
    append_all(&idle, 100).await;
    let busy = log.topic("busy");
    let options = TopicOptions { bytes: Some(1), ..Default::default() };
    busy.create(options).await.unwrap();
    for _ in 0..40 {
        busy.append(Record::new(vec![7; MIB - 1024])).await.unwrap();
    }
    let end = Instant::now() + DEADLINE;
    let dirs: Vec<_> = (0..3).map(|node| cluster.data_dir(node).with_file_name("log0")).collect();
    while dirs.iter().any(|dir| bytes_of(dir) > 24 * MIB as u64) {
        let bytes: Vec<_> = dirs.iter().map(|dir| bytes_of(dir)).collect();
        assert!(Instant::now() < end, "{bytes:?} bytes of 40 MiB");
        // Snapshots are taken where something happens.
        busy.append(Record::new(vec![7; MIB - 1024])).await.unwrap();
    }
    assert_eq!(read_all(&idle).await.iter().map(number).sum::<u64>(), 99 * 50);
}

/// Where a reader was is known after everything was stopped, and so is what it read.
#[tokio::test]
async fn cursors_and_records_survive_a_restart_of_all() {
    let mut cluster = cluster(1).await;
    let topic = log(&cluster).topic("a");
    append_all(&topic, 20).await;
    let cursor = topic.cursor("reader");
    assert_eq!(cursor.load().await.unwrap(), None);
    cursor.store(7).await.unwrap();
    let error = cursor.store_if(Some(6), 9).await.unwrap_err();
    assert_eq!(error, Refusal::CursorMismatch { current: 7 }.into());
    cursor.store_if(Some(7), 9).await.unwrap();
    for node in 0..3 {
        cluster.stop(node).await;
    }
    for node in 0..3 {
        cluster.restart(node).await.unwrap();
    }
    assert_eq!(cursor.load().await.unwrap(), Some(9));
    assert_eq!(topic.cursors("", 9).await.unwrap(), [("reader".to_owned(), 9)]);
    let mut tail = topic.tail(Start::Offset(9));
    assert_eq!(number(&tail.next().await.unwrap()), 9);
    cursor.clear().await.unwrap();
    assert_eq!(cursor.load().await.unwrap(), None);
    assert_eq!(topic.offset_at(0).await.unwrap(), 0);
    assert_eq!(topic.offset_at(u64::MAX).await.unwrap(), 20);
}

/// Topics are cheap: thousands of them lie in a few groups, each is found where its name says, and
/// all are listed in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_topics_in_four_groups() {
    const TOPICS: usize = 10_000;
    let cluster = cluster(4).await;
    let log = log(&cluster);
    let append = |number: usize| {
        let topic = log.topic(format!("topic-{number:05}"));
        Box::pin(async move { topic.append(Record::new("x")).await.unwrap() })
    };
    for begin in (0..TOPICS).step_by(1_000) {
        join_in_order((begin..begin + 1_000).map(append).collect()).await;
    }
    let (mut names, mut after) = (Vec::new(), String::new());
    loop {
        let page = log.topics("topic-", &after, 1_000).await.unwrap();
        let Some((last, _)) = page.last() else { break };
        after.clone_from(last);
        names.extend(page.into_iter().map(|(name, _)| name));
    }
    let expected: Vec<_> = (0..TOPICS).map(|number| format!("topic-{number:05}")).collect();
    assert_eq!(names, expected);
    let mut found = [0; 4];
    expected.iter().for_each(|name| found[usize::from(group_of(name, 4))] += 1);
    assert!(found.iter().all(|topics| (2_000..3_000).contains(topics)), "{found:?}");
    let some = log.topic("topic-09999").read(0, ReadLimits::default()).await.unwrap();
    assert_eq!(some.records[0].value().as_ref(), b"x");
}
