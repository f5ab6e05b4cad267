//! Snapshots and members on real nodes, sockets and disks: who was away too long comes back, who is
//! new catches up, and all three members are replaced under load without losing a write.
//!
//! Nothing sleeps for a fixed time: every test waits for what it wants to see, with a deadline.
#![expect(clippy::unwrap_used, reason = "a test; the allowance does not reach functions beside it")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use zmesh::consensus::Role;
use zmesh::kv::Kv;
use zmesh::replica::{ClientError, Options, Replica, Status};
use zmesh::testing::TestCluster;
use zmesh::{ErrorCode, NodeId};

mod waiting;

use waiting::{DEADLINE, change, status, until};

/// A cluster that takes a snapshot every few entries, and sends it in many parts.
async fn cluster() -> TestCluster {
    let options = Options {
        snapshot_entries: 50,
        snapshot_part_bytes: 1_000,
        repair_interval: Duration::from_millis(100),
        ..Options::default()
    };
    TestCluster::builder(3).options(options).start().await.unwrap()
}

/// Whether this leader has not heard of a member lately.
async fn is_silent(leader: &Replica, member: &NodeId) -> Option<()> {
    answers(leader, member).await.filter(|answers| !answers).map(drop)
}

/// Whether a leader has heard a member lately; one that leads anew has heard nobody yet.
async fn answers(leader: &Replica, member: &NodeId) -> Option<bool> {
    let status = status(leader).await?;
    let member = status.members.iter().find(|it| it.node == *member)?;
    let follower = status.followers.iter().find(|it| it.raft_id == member.raft_id)?;
    Some(follower.active)
}

/// Writes small values over a hundred keys.
async fn write_many(kv: &Kv, writes: usize) {
    for number in 0..writes {
        kv.set(format!("many-{}", number % 100), vec![b'v'; 200]).await.unwrap();
    }
}

/// Writers that go on until they are told to stop, and remember what was acknowledged.
struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    writers: Vec<JoinHandle<BTreeMap<String, String>>>,
}

impl Load {
    fn start(kv: &Kv) -> Self {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let writer = |writer: usize| {
            let (kv, stop) = (kv.clone(), Arc::clone(&stop));
            let acknowledged: Arc<AtomicU64> = Arc::clone(&acknowledged);
            tokio::spawn(async move {
                let mut written = BTreeMap::new();
                for number in 0_u64.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let (key, value) = (format!("{writer}-{number}"), number.to_string());
                    if kv.set(key.clone(), value.clone()).await.is_ok() {
                        written.insert(key, value);
                        acknowledged.fetch_add(1, Ordering::Relaxed);
                    }
                }
                written
            })
        };
        let writers = (0..4).map(writer).collect();
        Self { stop, acknowledged, writers }
    }

    async fn goes_on(&self, writes: u64) {
        let goal = self.acknowledged.load(Ordering::Relaxed) + writes;
        let enough = async || (self.acknowledged.load(Ordering::Relaxed) >= goal).then_some(());
        until("enough writes", enough).await;
    }

    async fn stop(self) -> BTreeMap<String, String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = BTreeMap::new();
        for writer in self.writers {
            all.extend(writer.await.unwrap());
        }
        all
    }
}

/// The log has forgotten what a follower lacks; it gets a snapshot in parts, while writes go on, and
/// then entries.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn follower_that_was_away_too_long_comes_back_by_a_snapshot_while_writes_go_on() {
    let mut cluster = cluster().await;
    let kv = cluster.kv().timeout(DEADLINE);
    let leader = cluster.leader().await.unwrap();
    let away = (0..3).find(|number| *number != leader).unwrap();
    write_many(&kv, 20).await;
    cluster.kill(away);
    write_many(&kv, 400).await;
    let snapshots = until("a second snapshot", async || {
        let snapshots = status(cluster.replica(leader)).await?.snapshots;
        (snapshots.taken > 1 && snapshots.bytes > 10_000).then_some(snapshots)
    })
    .await;
    assert_eq!((snapshots.failed, snapshots.installed), (0, 0));

    let load = Load::start(&kv);
    cluster.restart(away).await.unwrap();
    let installed = async || {
        let snapshots = status(cluster.replica(away)).await?.snapshots;
        (snapshots.installed > 0).then_some(())
    };
    until("a snapshot installed", installed).await;
    load.goes_on(50).await;
    let written = load.stop().await;
    cluster.wait_healthy(DEADLINE).await.unwrap();
    let own = cluster.replica(away);
    for (key, value) in written {
        let query = zmesh::kv::Query::Get { key: key.into() }.encode().unwrap();
        let found = own.read_stale(query).await.unwrap().response;
        assert!(found.ends_with(value.as_bytes()), "not in its own state");
    }
    let idle = async || {
        let sending = status(cluster.replica(leader)).await?.snapshots.sending;
        sending.is_empty().then_some(())
    };
    until("an end of the transfer", idle).await;
}

/// A start restores the newest snapshot and applies only what the log has after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restart_of_all_begins_at_their_snapshots() {
    let mut cluster = cluster().await;
    let kv = cluster.kv().timeout(DEADLINE);
    write_many(&kv, 300).await;
    kv.set("last", "kept").await.unwrap();
    cluster.wait_healthy(DEADLINE).await.unwrap();
    for number in 0..3 {
        cluster.kill(number);
    }
    for number in 0..3 {
        cluster.restart(number).await.unwrap();
    }
    cluster.wait_healthy(DEADLINE).await.unwrap();
    for number in 0..3 {
        let status = status(cluster.replica(number)).await.unwrap();
        assert!(status.snapshots.index > Some(100), "{:?}", status.snapshots);
        assert_eq!(status.members.len(), 3);
    }
    let found = kv.get("last").await.unwrap().unwrap();
    assert_eq!(found.value, "kept");
    assert_eq!(kv.get("many-0").await.unwrap().unwrap().value.len(), 200);
}

/// The whole cluster moves to other machines while it is at work, one member after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_member_is_replaced_under_load_and_no_acknowledged_write_is_lost() {
    let mut cluster = cluster().await;
    let kv = cluster.kv().timeout(Duration::from_secs(10));
    write_many(&kv.clone().timeout(DEADLINE), 200).await;
    let load = Load::start(&kv);
    let timeout = Duration::from_secs(5);
    for old in 0..3 {
        load.goes_on(50).await;
        let new = cluster.join().await.unwrap();
        // Any member takes the request; the next one to go is one, and at last the new one.
        let asked = cluster.replica(if old < 2 { old + 1 } else { new - 1 });
        let (old_id, new_id) = (cluster.id(old).clone(), cluster.id(new).clone());
        let add = async || asked.add_learner(&new_id, timeout).await.map(drop);
        change("added", add).await;
        let promote = async || asked.promote(&new_id, timeout).await.map(drop);
        change("promoted", promote).await;
        let remove = async || match asked.remove(&old_id, timeout).await {
            // The answer to the first attempt may have been lost with the old leader.
            Err(error) if error.code() == ErrorCode::MemberUnknown => Ok(()),
            other => other.map(drop),
        };
        change("removed", remove).await;
        cluster.kill(old);
    }
    load.goes_on(50).await;
    let written = load.stop().await;
    let status = status(cluster.replica(3)).await.unwrap();
    let names: Vec<_> = status.members.iter().map(|member| member.node.to_string()).collect();
    let voters = status.members.iter().filter(|member| member.voter).count();
    assert_eq!((names.len(), voters), (3, 3), "{names:?}");
    assert!(["n4", "n5", "n6"].iter().all(|name| names.contains(&(*name).to_owned())), "{names:?}");
    assert!(written.len() > 150);
    let kv = kv.timeout(DEADLINE);
    for (key, value) in written {
        let found = kv.get(key.clone()).await.unwrap();
        let found = found.unwrap_or_else(|| panic!("{key} was acknowledged and is gone"));
        assert_eq!(found.value, value, "{key}");
    }
}

/// A member that was away while another one joined and became the leader does not know it as a
/// member; without hearing it, it would never learn that it is one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn member_that_missed_the_joining_of_the_leader_follows_it() {
    let mut cluster = cluster().await;
    let timeout = Duration::from_secs(10);
    let leader = cluster.leader().await.unwrap();
    let away = (0..3).find(|number| *number != leader).unwrap();
    cluster.kill(away);
    let new = cluster.join().await.unwrap();
    let (asked, new_id) = (cluster.replica(leader), cluster.id(new).clone());
    let add = async || asked.add_learner(&new_id, timeout).await.map(drop);
    change("added", add).await;
    let promote = async || asked.promote(&new_id, timeout).await.map(drop);
    change("promoted", promote).await;
    let transfer = async || asked.transfer(&new_id, timeout).await.map(drop);
    change("made leader", transfer).await;
    let kv = cluster.kv().timeout(DEADLINE);
    kv.set("after", "the change").await.unwrap();

    cluster.restart(away).await.unwrap();
    cluster.wait_healthy(DEADLINE).await.unwrap();
    let status = status(cluster.replica(away)).await.unwrap();
    assert!(status.members.iter().any(|member| member.node == new_id && member.voter));
    let query = zmesh::kv::Query::Get { key: "after".into() }.encode().unwrap();
    let own = cluster.replica(away).read_stale(query).await.unwrap().response;
    assert!(own.ends_with(b"the change"));
}

/// A member that was away while another one came back with a new directory, and then was made leader,
/// knows that one by its former raft id. It must hear it by the new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn member_that_missed_the_new_directory_of_the_leader_follows_it() {
    let mut cluster = cluster().await;
    let timeout = Duration::from_secs(10);
    let leader = cluster.leader().await.unwrap();
    let away = (0..3).find(|number| *number != leader).unwrap();
    let new = cluster.join().await.unwrap();
    let new_id = cluster.id(new).clone();
    for life in 0..2 {
        let asked = cluster.replica(leader);
        let add = async || asked.add_learner(&new_id, timeout).await.map(drop);
        change("added", add).await;
        let promote = async || asked.promote(&new_id, timeout).await.map(drop);
        change("promoted", promote).await;
        if life == 0 {
            cluster.wait_healthy(DEADLINE).await.unwrap();
            cluster.kill(away);
            let asked = cluster.replica(leader);
            let remove = async || asked.remove(&new_id, timeout).await.map(drop);
            change("removed", remove).await;
            cluster.kill(new);
            std::fs::remove_dir_all(cluster.data_dir(new)).unwrap();
            cluster.restart(new).await.unwrap();
        }
    }
    let asked = cluster.replica(leader);
    let transfer = async || asked.transfer(&new_id, timeout).await.map(drop);
    change("made leader", transfer).await;
    let kv = cluster.kv().timeout(DEADLINE);
    kv.set("after", "the change").await.unwrap();
    let of_new = |status: Status| {
        status.members.into_iter().find(|member| member.node == new_id).map(|it| it.raft_id)
    };
    let present = of_new(status(cluster.replica(leader)).await.unwrap());

    cluster.restart(away).await.unwrap();
    let follows = async || {
        let status = status(cluster.replica(away)).await?;
        (status.leader == Some(new_id.clone()) && of_new(status) == present).then_some(())
    };
    until("followed the new directory", follows).await;
}

/// What would harm the cluster is refused, with a reason that programs can tell apart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_that_would_do_harm_are_refused_with_their_reason() {
    let mut cluster = cluster().await;
    let timeout = Duration::from_secs(10);
    let new = cluster.join().await.unwrap();
    let leader = cluster.leader().await.unwrap();
    let follower = (0..3).find(|number| *number != leader).unwrap();
    let other = (0..3).find(|number| ![leader, follower].contains(number)).unwrap();
    let id = |number: usize| cluster.id(number).clone();
    let code = |result: Result<_, ClientError>| result.map(|_| ()).unwrap_err().code();
    let asked = cluster.replica(follower);

    let nobody = "nobody".parse().unwrap();
    assert_eq!(code(asked.add_learner(&nobody, timeout).await), ErrorCode::MemberUnknown);
    assert_eq!(code(asked.promote(&nobody, timeout).await), ErrorCode::MemberUnknown);
    assert_eq!(code(asked.remove(&nobody, timeout).await), ErrorCode::MemberUnknown);
    let add = async || asked.add_learner(&id(new), timeout).await.map(drop);
    change("added", add).await;
    asked.add_learner(&id(new), timeout).await.expect("it is so already");
    assert_eq!(code(asked.transfer(&id(new), timeout).await), ErrorCode::NotVoter);

    asked.transfer(&id(follower), timeout).await.unwrap();
    let leads = async || {
        let status = status(cluster.replica(follower)).await?;
        (status.role == Role::Leader).then_some(())
    };
    until("the leader that was wanted", leads).await;

    let (new_id, other_id) = (id(new), id(other));
    // What is on its way must not arrive after the silence was seen.
    let replica = cluster.replica(follower);
    let heard = async || answers(replica, &new_id).await.filter(|answers| *answers);
    until("heard by the new leader", heard).await;
    cluster.kill(new);
    let replica = cluster.replica(follower);
    until("seen to be silent", async || is_silent(replica, &new_id).await).await;
    assert_eq!(code(replica.promote(&new_id, timeout).await), ErrorCode::MemberLags);
    let leader_id = cluster.id(leader).clone();
    cluster.kill(leader);
    let replica = cluster.replica(follower);
    until("seen to be silent", async || is_silent(replica, &leader_id).await).await;
    let refused = replica.remove(&other_id, timeout).await;
    assert_eq!(code(refused), ErrorCode::QuorumAtRisk, "two of three are needed");
    replica.remove(&leader_id, timeout).await.expect("the silent one may go");
}
