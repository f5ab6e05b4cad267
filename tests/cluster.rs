//! Three real processes under load that are killed, paused and restarted: what was acknowledged
//! stays, writes go on with two of three, and nobody reads what is old.
//!
//! One test at a time: a second cluster on the same cores would only slow both down. Nothing sleeps
//! for a fixed time.
#![expect(clippy::unwrap_used, reason = "a test; the allowance does not reach functions beside it")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use zmesh::kv::Kv;
use zmesh::presence::Heartbeat;
use zmesh::route::Filter;
use zmesh::{Effect, Node};

#[allow(dead_code, reason = "shared with tests that do more with it")]
#[path = "cluster/processes.rs"]
mod processes;

use processes::{DEADLINE, HEARTBEAT, Processes};

static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// Clients that write all the time.
const WRITERS: usize = 8;
/// Longer than any fail-over; a request to a paused leader is given up after it.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Writers that go on until they are stopped, and remember what was acknowledged.
struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: watch::Receiver<u64>,
    writers: Vec<JoinHandle<BTreeMap<String, String>>>,
}

impl Load {
    fn start(kv: &Kv) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (count, acknowledged) = watch::channel(0);
        let count = Arc::new(count);
        let writer = |writer: usize| {
            let (kv, stop, count) = (kv.clone(), Arc::clone(&stop), Arc::clone(&count));
            tokio::spawn(write(writer, kv, stop, count))
        };
        let writers = (0..WRITERS).map(writer).collect();
        Self { stop, acknowledged, writers }
    }

    /// Waits until so many more writes have been acknowledged.
    async fn goes_on(&mut self, writes: u64, after: &str) {
        let goal = *self.acknowledged.borrow() + writes;
        let reached = self.acknowledged.wait_for(|count| *count >= goal);
        let reached = tokio::time::timeout(DEADLINE, reached).await;
        assert!(reached.is_ok(), "no writes after {after}");
    }

    /// Stops, and checks that every acknowledged write is there.
    async fn verify(self, kv: &Kv) {
        self.stop.store(true, Ordering::Relaxed);
        let mut checked = 0;
        for writer in self.writers {
            let acknowledged = tokio::time::timeout(DEADLINE, writer).await.unwrap().unwrap();
            for (key, value) in acknowledged {
                let found = kv.get(key.clone()).await.unwrap();
                let found = found.unwrap_or_else(|| panic!("{key} was acknowledged and is gone"));
                assert_eq!(found.value, value, "{key}");
                checked += 1;
            }
        }
        assert!(checked > 0, "there was no load");
    }
}

/// Writes each value to a key of its own; keys whose write has an unknown outcome are given up.
async fn write(
    writer: usize,
    kv: Kv,
    stop: Arc<AtomicBool>,
    count: Arc<watch::Sender<u64>>,
) -> BTreeMap<String, String> {
    let mut acknowledged = BTreeMap::new();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let (key, value) = (format!("{writer}-{number}"), format!("value {number} of {writer}"));
        match kv.set(key.clone(), value.clone()).await {
            Ok(_) => {
                acknowledged.insert(key, value);
                count.send_modify(|count| *count += 1);
            }
            Err(error) => {
                let told = error.effect() == Effect::Unknown || error.is_retryable();
                assert!(told, "{error}");
            }
        }
    }
    acknowledged
}

fn kv(client: &Node) -> Kv {
    Kv::new(client).timeout(TIMEOUT)
}

/// Whichever process dies, in the middle of whatever it does, its place is taken within seconds and
/// nothing that was acknowledged is lost; it comes back from its disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_leader_and_killed_follower_lose_no_acknowledged_write() {
    survive_deaths(&[]).await;
}

/// The same without libzmq between the processes; the client has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn native_processes_lose_no_acknowledged_write_either() {
    survive_deaths(&["--transport", "native"]).await;
}

async fn survive_deaths(arguments: &[&str]) {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut cluster = Processes::start_with(3, arguments).await;
    let client = cluster.client("client", 0).await;
    let leader = cluster.leader(&client, None).await;
    let mut load = Load::start(&kv(&client));
    load.goes_on(50, "the start").await;

    cluster.kill(leader).await;
    let next = cluster.leader(&client, Some(leader)).await;
    load.goes_on(50, "the loss of the leader").await;
    cluster.spawn(leader).await;

    let follower = (0..3).find(|number| ![leader, next].contains(number)).unwrap();
    client.wait_for_peers(&Filter::any(), 3, DEADLINE).await.unwrap();
    load.goes_on(50, "the return of the old leader").await;
    cluster.kill(follower).await;
    load.goes_on(50, "the loss of a follower").await;
    cluster.spawn(follower).await;
    client.wait_for_peers(&Filter::any(), 3, DEADLINE).await.unwrap();
    load.goes_on(50, "the return of the follower").await;
    load.verify(&kv(&client)).await;
}

/// A paused process does not know that time has passed. The others must not wait for it, and when
/// it goes on, what it knows is old: it must find out before it answers anybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_leader_is_replaced_and_answers_no_stale_read_when_it_goes_on() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Processes::start(3).await;
    let client = cluster.client("client", 1).await;
    let leader = cluster.leader(&client, None).await;
    let writer = kv(&client);
    writer.set("k", "old").await.unwrap();
    // It does not give the paused node up, so its question is there when the node goes on.
    let heartbeat = Heartbeat { ghost_timeout: 2 * DEADLINE, ..HEARTBEAT };
    let only = Node::builder("only").heartbeat(heartbeat).gossip(false);
    let only = only.connect(cluster.address(leader)).start().unwrap();
    only.wait_for_peers(&Filter::any(), 1, DEADLINE).await.unwrap();
    let reader = Kv::new(&only).timeout(DEADLINE);
    assert_eq!(reader.get("k").await.unwrap().unwrap().value, "old");

    let mut load = Load::start(&writer);
    load.goes_on(20, "the start").await;
    cluster.signal(leader, Signal::STOP);
    cluster.leader(&client, Some(leader)).await;
    load.goes_on(50, "the pause of the leader").await;
    while let Err(error) = writer.set("k", "new").await {
        assert_eq!(error.effect(), Effect::Unknown, "{error}");
    }

    let asked = tokio::spawn(async move {
        let mut answers = Vec::new();
        for _ in 0..20 {
            answers.push(reader.get("k").await.unwrap().unwrap().value);
        }
        answers
    });
    // The question is on its way before the node goes on.
    let on_its_way = async {
        while only.status().in_flight == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, on_its_way).await.unwrap();
    cluster.signal(leader, Signal::CONT);
    let answers = tokio::time::timeout(DEADLINE, asked).await.unwrap().unwrap();
    assert!(answers.iter().all(|answer| answer == "new"), "{answers:?}");
    load.goes_on(20, "the return of the old leader").await;
    load.verify(&writer).await;
}

/// After all have died at once, their disks have everything, and one address is enough for a new
/// client to find it. A directory that was wiped meanwhile belongs to nobody: its process ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_comes_back_from_the_disks_except_a_wiped_one() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut cluster = Processes::start(3).await;
    let client = cluster.client("client", 2).await;
    let mut load = Load::start(&kv(&client));
    load.goes_on(100, "the start").await;
    for number in 0..3 {
        cluster.kill(number).await;
    }
    for number in 0..3 {
        cluster.spawn(number).await;
    }
    load.goes_on(50, "the restart of all").await;
    let fresh = cluster.client("fresh", 1).await;
    let fresh_kv = Kv::new(&fresh).timeout(DEADLINE);
    load.verify(&fresh_kv).await;

    let leader = cluster.leader(&fresh, None).await;
    let wiped = (0..3).find(|number| *number != leader).unwrap();
    cluster.kill(wiped).await;
    std::fs::remove_dir_all(cluster.data_dir(wiped)).unwrap();
    let (code, log) = cluster.spawn_in_vain(wiped).await;
    assert_eq!(code, Some(2), "{log}");
    assert!(log.contains("has begun without this directory"), "{log}");
    fresh_kv.set("k", "two of three go on").await.unwrap();
    assert_eq!(fresh_kv.get("k").await.unwrap().unwrap().value, "two of three go on");
}

/// Without a sync before each answer, processes that are killed lose nothing either: the system has
/// what they wrote. A machine that went down is another matter, which a test can only pretend, by the
/// mark of another boot: then the replica comes back as somebody else, and all is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_do_not_sync_lose_nothing_when_killed_and_begin_anew_in_doubt() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut cluster = Processes::start_with(3, &["--sync", "interval"]).await;
    let client = cluster.client("client", 0).await;
    let written = kv(&client).set("k", "v").await.unwrap();
    assert_eq!(written.level, zmesh::replica::AckLevel::QuorumUnsynced);
    let leader = cluster.leader(&client, None).await;
    let mut load = Load::start(&kv(&client));
    load.goes_on(50, "the start").await;
    cluster.kill(leader).await;
    cluster.leader(&client, Some(leader)).await;
    load.goes_on(50, "the loss of the leader").await;
    cluster.spawn(leader).await;
    for number in 0..3 {
        cluster.kill(number).await;
        let mark = cluster.data_dir(number).join("kv").join("unsynced");
        assert!(mark.exists(), "whoever is killed has had no time to take it away");
    }
    for number in 0..3 {
        cluster.spawn(number).await;
    }
    load.goes_on(50, "the restart of all").await;

    let down = (cluster.leader(&client, None).await + 1) % 3;
    let before = other_raft_id(&client, cluster.id(down), "").await;
    cluster.kill(down).await;
    std::fs::write(cluster.data_dir(down).join("kv").join("unsynced"), "zmesh unsynced 1\nother\n")
        .unwrap();
    cluster.spawn(down).await;
    other_raft_id(&client, cluster.id(down), &before).await;
    load.goes_on(50, "the return of a machine").await;
    let replaced = cluster.data_dir(down).join("kv").join("rejoin");
    let back = async {
        while replaced.exists() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, back).await.expect("it votes again");
    load.verify(&kv(&client)).await;

    cluster.stop(down).await;
    assert!(!cluster.data_dir(down).join("kv").join("unsynced").exists(), "it stopped in order");
}

/// The raft id that a node announces, once it is another one.
async fn other_raft_id(client: &Node, id: &str, than: &str) -> String {
    let announced = async {
        loop {
            let peer = client.peers().into_iter().find(|peer| peer.node.as_str() == id);
            let raft_id = peer.and_then(|peer| peer.labels.get("_kv.raft").cloned());
            match raft_id.filter(|raft_id| raft_id != than) {
                Some(raft_id) => return raft_id,
                None => tokio::task::yield_now().await,
            }
        }
    };
    tokio::time::timeout(DEADLINE, announced).await.expect("it runs a replica")
}
