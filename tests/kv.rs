//! The key-value store over real nodes, sockets and disks: watches over the loss of leaders, locks
//! that were lost, leases, conditions, limits and reads from followers.
//!
//! Nothing sleeps for a fixed time: every test waits for what it wants to see, with a deadline.
#![expect(clippy::unwrap_used, reason = "a test; the allowance does not reach functions beside it")]
#![expect(clippy::disallowed_methods, reason = "measures that a lease did not end early")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use zmesh::ErrorCode;
use zmesh::kv::{
    Condition, Error, Event, Failure, KeyRange, Kv, Limits, Operation, StepResult, Watch,
};
use zmesh::testing::TestCluster;

/// What never takes so long unless it is broken.
const DEADLINE: Duration = Duration::from_secs(60);
/// Long enough that no busy machine loses it by itself.
const LONG: Duration = Duration::from_secs(120);
/// Short enough to wait for, and long enough for a few writes on a busy machine.
const SHORT: Duration = Duration::from_secs(3);

async fn cluster() -> TestCluster {
    TestCluster::start(3).await.unwrap()
}

fn kv(cluster: &TestCluster) -> Kv {
    cluster.kv().timeout(DEADLINE)
}

async fn within<T>(what: &str, future: impl IntoFuture<Output = T>) -> T {
    match tokio::time::timeout(LONG, future).await {
        Ok(output) => output,
        Err(_) => panic!("it took too long: {what}"),
    }
}

/// The next change; a cluster that lost two leaders in a row may be silent for a while.
async fn next(watch: &mut Watch) -> Event {
    within("the next change", async {
        loop {
            match watch.next().await {
                Ok(event) => return event,
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
        }
    })
    .await
}

/// The next change by which a key is cleared.
async fn next_clear(watch: &mut Watch) -> Event {
    loop {
        let event = next(watch).await;
        if event.entry.is_none() {
            return event;
        }
    }
}

/// A follower of the cluster.
async fn follower(cluster: &TestCluster) -> usize {
    let leader = cluster.leader().await.unwrap();
    (0..cluster.nodes()).find(|node| *node != leader).unwrap()
}

/// A watch is what others build on: a change that it misses or tells twice is one that they do not
/// or do twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_goes_on_over_killed_leaders_without_gap_or_repetition() {
    const WRITES: u32 = 60;
    let mut cluster = cluster().await;
    let store = kv(&cluster);
    let mut watch = store.watch(KeyRange::prefix("w/")).with_previous().await.unwrap();
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            let mut revisions = Vec::new();
            for number in 0..WRITES {
                store.set(format!("other/{number}"), "").await.unwrap();
                let key = format!("w/{}", number % 5);
                revisions.push(store.set(key, number.to_string()).await.unwrap().revision);
            }
            revisions
        }
    });
    let mut events = Vec::new();
    for number in 0..WRITES {
        if number % 20 == 10 {
            let leader = cluster.leader().await.unwrap();
            cluster.kill(leader);
            events.push(next(&mut watch).await);
            cluster.restart(leader).await.unwrap();
        } else {
            events.push(next(&mut watch).await);
        }
    }
    let revisions = within("the writes", writer).await.unwrap();
    assert_eq!(events.iter().map(|event| event.revision).collect::<Vec<_>>(), revisions);
    for (number, event) in (0..).zip(&events) {
        let value = |number: u32| Bytes::from(number.to_string());
        let entry = event.entry.as_ref().unwrap();
        assert_eq!(
            (entry.value.clone(), entry.version),
            (value(number), u64::from(number) / 5 + 1)
        );
        let previous = event.previous.as_ref().map(|entry| entry.value.clone());
        assert_eq!(previous, number.checked_sub(5).map(value));
    }
    // From the beginning again, by another watch: the history has it all.
    let mut again = store.watch(KeyRange::prefix("w/")).after(0).await.unwrap();
    for event in events {
        assert_eq!(next(&mut again).await.revision, event.revision);
    }
}

/// The classic: a holder is paused for longer than its lock lasts, and writes when it wakes up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holder_that_was_paused_is_fenced() {
    let cluster = cluster().await;
    let paused = cluster.kv_through(0).await.unwrap().timeout(DEADLINE);
    let store = kv(&cluster);
    let first = within("the lock", paused.lock("l", SHORT)).await.unwrap();
    store.set("protected", "first").fenced_by(first.fence()).await.unwrap();
    // Nothing that keeps the lock alive gets through any more.
    paused.client().node().stop().await;
    let second = within("the lock, again", store.lock("l", LONG)).await.unwrap();
    assert!(second.token() > first.token());
    store.set("protected", "second").fenced_by(second.fence()).await.unwrap();
    let late = store.set("protected", "first again").fenced_by(first.fence()).await.unwrap_err();
    assert_eq!((late.code(), late.effect()), (ErrorCode::Fenced, zmesh::Effect::None));
    let found = store.get("protected").await.unwrap().unwrap();
    assert_eq!(found.value, "second");
    within("the holder to notice", first.lost()).await;
    assert!(first.is_lost() && !second.is_lost());
    second.release().await.unwrap();
}

/// Whoever came first has it first, and who gives up does not hold up the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lock_is_passed_on_in_order_and_to_one_at_a_time() {
    let cluster = cluster().await;
    let store = kv(&cluster);
    let first = store.elect("e", "one", LONG).await.unwrap();
    assert!(store.try_lock("e", LONG).await.unwrap().is_none(), "it is held");
    assert_eq!(store.elected("e").await.unwrap().unwrap().value, "one");
    // Another lock, whose keys are behind those of the first.
    let deeper = store.lock("e/below", LONG).await.unwrap();
    let waits = |value: &'static str| {
        let store = store.clone();
        tokio::spawn(async move { store.elect("e", value, LONG).await })
    };
    let queued = async |count: usize| {
        within("the queue", async {
            let mut watch = store.watch(KeyRange::prefix("_lock/e/")).after(0).await.unwrap();
            while store.list(KeyRange::prefix("_lock/e/")).await.unwrap().entries.len() < count {
                next(&mut watch).await;
            }
        })
        .await;
    };
    let gives_up = waits("two");
    queued(3).await;
    let third = waits("three");
    queued(4).await;
    gives_up.abort();
    first.release().await.unwrap();
    let third = within("the third", third).await.unwrap().unwrap();
    assert_eq!(store.elected("e").await.unwrap().unwrap().created, third.token());
    third.release().await.unwrap();
    deeper.release().await.unwrap();
    let mut watch = store.watch(KeyRange::prefix("_lock/")).after(0).await.unwrap();
    while !store.list(KeyRange::prefix("_lock/")).await.unwrap().entries.is_empty() {
        next(&mut watch).await;
    }
}

/// A lease ends when it says and not before, and what goes with it goes in one step.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lease_that_nobody_keeps_ends_late_and_never_early() {
    let mut cluster = cluster().await;
    let store = kv(&cluster);
    let mut watch = store.watch(KeyRange::all()).await.unwrap();
    let lease = store.grant(SHORT).await.unwrap();
    for key in ["a", "b", "c"] {
        store.set(key, "lent").lease(lease.id).await.unwrap();
    }
    store.set("c", "kept").await.unwrap();
    let before = Instant::now();
    assert_eq!(store.keep_alive(lease.id).await.unwrap().keys, 2);
    let first = next_clear(&mut watch).await;
    assert!(before.elapsed() >= SHORT, "it ended early, after {:?}", before.elapsed());
    let second = next_clear(&mut watch).await;
    assert_eq!((&first.key[..], &second.key[..]), (&b"a"[..], &b"b"[..]));
    assert_eq!(first.revision, second.revision);
    assert!(store.leases(0, 10).await.unwrap().is_empty());
    assert_eq!(store.keep_alive(lease.id).await.unwrap_err().code(), ErrorCode::LeaseNotFound);

    // The time goes on, from its beginning, with another leader.
    let lease = store.grant(SHORT).await.unwrap();
    store.set("d", "lent").lease(lease.id).await.unwrap();
    let leader = cluster.leader().await.unwrap();
    cluster.kill(leader);
    assert_eq!(next_clear(&mut watch).await.key, "d");
    let late = store.set("d", "late").lease(lease.id).await.unwrap_err();
    assert_eq!(late, Error::Failed(Failure::LeaseUnknown { lease: lease.id }));
}

/// Reads, and writes if nobody else has written since; again until it has.
async fn increment(store: &Kv) {
    loop {
        let found = store.get("n").await.unwrap();
        let revision = found.as_ref().map_or(0, |found| found.revision);
        let number = |value: Bytes| String::from_utf8_lossy(&value).parse::<i64>().unwrap();
        let next = found.map_or(0, |found| number(found.value)) + 1;
        match store.set("n", next.to_string()).if_revision(revision).await {
            Ok(written) => return assert!(written.revision > revision),
            Err(Error::Conflict { current }) => assert_ne!(current, revision),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Two clients that read the same and write both would lose one of their writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn increments_under_conditions_are_exact_among_many_clients() {
    const CLIENTS: i64 = 4;
    const INCREMENTS: i64 = 15;
    let cluster = cluster().await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let store = kv(&cluster);
        clients.spawn(async move {
            for _ in 0..INCREMENTS {
                increment(&store).await;
                store.add("sum", 2).await.unwrap();
            }
        });
    }
    within("the increments", clients.join_all()).await;
    let store = kv(&cluster);
    let sum = store.add("sum", 0).await.unwrap();
    assert_eq!(sum, 2 * CLIENTS * INCREMENTS);
    let found = store.get("n").await.unwrap().unwrap();
    assert_eq!(found.value, (CLIENTS * INCREMENTS).to_string());
    assert_eq!(found.version, (CLIENTS * INCREMENTS).unsigned_abs());
}

/// A store that is full takes nothing more, and can be emptied.
#[tokio::test]
async fn full_store_says_so_and_can_be_emptied() {
    let cluster = cluster().await;
    let store = kv(&cluster);
    store.set("a", vec![0; 10_000]).await.unwrap();
    store.limits(Limits { bytes_max: 15_000, ..Limits::default() }).await.unwrap();
    let full = store.set("b", vec![0; 10_000]).await.unwrap_err();
    assert_eq!((full.code(), full.is_retryable()), (ErrorCode::QuotaExceeded, false));
    assert!(store.get("b").await.unwrap().is_none());
    let cleared = store.clear("a").with_previous().await.unwrap();
    assert_eq!(cleared.previous.unwrap().value.len(), 10_000);
    store.set("b", vec![0; 10_000]).await.unwrap();
    let state = store.state().await.unwrap();
    assert_eq!((state.keys, state.limits.bytes_max), (1, 15_000));
}

/// A client reads its own writes from a replica that is near, without asking the leader.
#[tokio::test]
async fn follower_answers_when_it_has_come_to_a_revision() {
    let cluster = cluster().await;
    let store = kv(&cluster);
    let follower = follower(&cluster).await;
    let id = cluster.id(follower).clone();
    for number in 0..20 {
        let written = store.set("k", number.to_string()).await.unwrap();
        let found = store.get("k").at_least(written.revision).on(&id).await.unwrap().unwrap();
        assert_eq!((found.value, found.revision), (number.to_string().into(), written.revision));
        let stale = store.get_stale(&id, "k").await.unwrap();
        assert!(stale.index >= written.index, "it had applied that far");
    }
    let revision = store.state().await.unwrap().revision;
    let hasty = store.clone().timeout(Duration::from_millis(300));
    let behind = hasty.get("k").at_least(revision + 1).await.unwrap_err();
    assert_eq!(behind, Error::Failed(Failure::Behind { revision }));
}

/// Pages are of one moment, however much is written between them; what is forgotten is said to be.
#[tokio::test]
async fn pages_are_of_one_revision_until_it_is_forgotten() {
    let cluster = cluster().await;
    let store = kv(&cluster);
    for number in 0..20 {
        store.set(format!("k/{number:02}"), "old").await.unwrap();
    }
    let mut pages = store.list(KeyRange::prefix("k/")).limit(6).pages();
    let mut seen = Vec::new();
    while let Some(page) = pages.next().await.unwrap() {
        seen.extend(page.entries);
        store.txn().then(Operation::ClearRange { range: KeyRange::prefix("k/") }).await.unwrap();
        store.set("k/03", "new").await.unwrap();
    }
    assert_eq!(seen.len(), 20);
    assert!(seen.iter().all(|entry| entry.value == "old"));
    assert_eq!(store.count(KeyRange::prefix("k/")).await.unwrap(), 1);
    let created = seen[3].revision;
    let history = store.history("k/03", 0, 3).await.unwrap();
    assert_eq!((history.events.len(), history.events[0].revision), (3, created));
    assert_eq!(store.get("k/03").at(created).await.unwrap().unwrap().value, "old");

    let mut pages = store.list(KeyRange::all()).limit(1).reverse().pages();
    pages.next().await.unwrap();
    let now = store.set("z", "").await.unwrap().revision;
    store.compact(now).await.unwrap();
    let first = Error::Failed(Failure::Compacted { first: now });
    assert_eq!(store.get("k/03").at(created).await.unwrap_err(), first);
    let mut watch = store.watch(KeyRange::all()).after(created).await.unwrap();
    assert_eq!(watch.next().await.unwrap_err(), first);
}

/// Several operations in one entry, with the other branch if a condition does not hold.
#[tokio::test]
async fn transaction_does_all_or_the_other_thing() {
    let cluster = cluster().await;
    let store = kv(&cluster);
    store.set("from", "7").if_absent().await.unwrap();
    let again = store.set("from", "8").if_absent().await.unwrap_err();
    assert_eq!(again.code(), ErrorCode::CasFailed);
    let transfer = || {
        store
            .txn()
            .when(Condition::value("from", "7"))
            .then(Operation::add("from", -7))
            .then(Operation::add("to", 7))
            .otherwise(Operation::get("to"))
    };
    let done = transfer().await.unwrap();
    assert_eq!(done.results, [StepResult::Added(0), StepResult::Added(7)]);
    let other = transfer().await.unwrap();
    assert_eq!(other.unmet.unwrap().current, done.revision);
    let [StepResult::Got(Some(to))] = &other.results[..] else { panic!("{other:?}") };
    assert_eq!((&to.value[..], to.revision), (&b"7"[..], done.revision));
    assert!(store.clear("from").if_value("7").await.is_err());
    store.clear("from").if_exists().await.unwrap();
}
