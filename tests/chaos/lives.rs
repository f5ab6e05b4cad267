//! Processes that are killed, halted, restarted and disturbed.

use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;
use zmesh::NodeId;
use zmesh::replica::Admin;

use crate::ending::SERVICES;
use crate::plan::ms;
use crate::scene::{Needs, Scene, costs_nothing, rounds};

/// Signals of a storm, and the time between two.
const STORM: usize = 400;
const GUST: Duration = Duration::from_millis(5);

/// The leader, a follower, all of them: whatever was acknowledged is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_processes_lose_nothing() {
    let mut scene = Scene::start("killed", Needs::default()).await;
    let mut vacancies = Vec::new();
    for round in 0..rounds(1) {
        let leader = scene.leader().await;
        for victim in [leader, (leader + 1) % 3] {
            scene.cluster.kill(victim).await;
            let killed = Instant::now();
            if victim == leader {
                scene.cluster.leader(&scene.load.nodes[0], Some(leader)).await;
                vacancies.push(killed.elapsed());
            }
            scene.goes_on(&format!("round {round}: killed {victim}")).await;
            scene.cluster.spawn(victim).await;
            scene.goes_on("it is back").await;
        }
        for number in 0..3 {
            scene.cluster.kill(number).await;
        }
        for number in 0..3 {
            scene.cluster.spawn(number).await;
        }
        scene.goes_on("all are back").await;
    }
    vacancies.sort();
    let at = |part: usize| vacancies.get(vacancies.len() * part / 100);
    eprintln!("without a leader: median {:?}, 99 % {:?}", at(50), at(99));
    scene.end().await;
}

/// A leader that stands still is replaced, and wakes up with everything that it was sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn halted_leader_is_replaced_and_does_no_harm_when_it_wakes() {
    let mut scene = Scene::start("halted", Needs::default()).await;
    for _ in 0..rounds(2) {
        let leader = scene.leader().await;
        scene.cluster.signal(leader, Signal::STOP);
        let pause = ms(scene.rng.u64(100..4_000));
        scene.load.say(&format!("{leader} stands still for {pause:?}"));
        tokio::time::sleep(pause).await;
        scene.cluster.signal(leader, Signal::CONT);
        scene.goes_on("it goes on").await;
    }
    scene.end().await;
}

/// Every process stops and goes on hundreds of times, and gets signals that mean nothing: calls that
/// are interrupted are no errors.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storm_of_signals_is_no_error() {
    let scene = Scene::start("storm", Needs::default()).await;
    let storm = async || {
        let before = scene.load.oracle.counts();
        for gust in 0..STORM {
            for number in 0..3 {
                scene.cluster.signal(number, Signal::WINCH);
                if gust % 3 == number {
                    scene.cluster.signal(number, Signal::STOP);
                    scene.cluster.signal(number, Signal::CONT);
                }
            }
            tokio::time::sleep(GUST).await;
        }
        scene.goes_on("the storm is over").await;
        scene.load.oracle.counts().unknown == before.unknown
    };
    assert!(costs_nothing(storm).await, "an operation was lost, every time");
    scene.end().await;
}

/// One after the other is stopped in order and started again: nobody loses an operation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_restart_costs_no_operation() {
    let mut scene = Scene::start("rolling", Needs::default()).await;
    for round in 0..rounds(1) {
        for number in 0..3 {
            scene.cluster.stop(number).await;
            scene.goes_on(&format!("round {round}: {number} is stopped")).await;
            scene.cluster.spawn(number).await;
            scene.goes_on("it is back").await;
        }
    }
    scene.end().await;
}

/// With few descriptors and little memory a cluster of three still serves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn few_descriptors_and_little_memory_are_enough_for_a_small_cluster() {
    let needs = Needs { files_max: Some(64), ..Needs::default() };
    let mut scene = Scene::start("descriptors", needs).await;
    let leader = scene.leader().await;
    // More connections than there are descriptors.
    let (host, port) = ("127.0.0.1", port(&scene, leader));
    let mut held = Vec::new();
    for _ in 0..200 {
        held.extend(tokio::net::TcpStream::connect((host, port)).await);
    }
    scene.goes_on("strangers hold all descriptors").await;
    drop(held);
    scene.goes_on("they are gone").await;
    scene.cluster.kill(leader).await;
    scene.cluster.spawn(leader).await;
    scene.goes_on("the leader was killed").await;
    scene.end().await;
}

fn port(scene: &Scene, number: usize) -> u16 {
    let text = scene.cluster.address(number).to_string();
    text.rsplit_once(':').unwrap().1.parse().unwrap()
}

/// A member whose disk was lost is refused under its old name as long as it is a member, and is let
/// in again when it was removed: under load, and nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wiped_member_is_replaced_under_load() {
    let mut scene = Scene::start("wiped", Needs::default()).await;
    for _ in 0..rounds(1) {
        let victim = (scene.leader().await + 1) % 3;
        scene.cluster.kill(victim).await;
        std::fs::remove_dir_all(scene.cluster.data_dir(victim)).unwrap();
        let (code, said) = scene.cluster.spawn_in_vain(victim).await;
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("has begun without this directory"), "{said}");
        scene.goes_on("the wiped one was refused").await;
        replace(&mut scene, victim).await;
        scene.goes_on("it votes again").await;
    }
    scene.end().await;
}

/// What an operator does about a member whose directory is lost or damaged: removes it, and adds it
/// again with an empty one.
pub(crate) async fn replace(scene: &mut Scene, number: usize) {
    let id: NodeId = scene.cluster.id(number).parse().unwrap();
    for service in SERVICES {
        let admin = Admin::new(&scene.load.nodes[0], service);
        admin.remove(&id, ms(20_000)).await.unwrap();
    }
    drop(std::fs::remove_dir_all(scene.cluster.data_dir(number)));
    scene.cluster.set_join(number);
    scene.cluster.spawn(number).await;
    for service in SERVICES {
        let admin = Admin::new(&scene.load.nodes[0], service);
        while !admin.runs(&id) || admin.add_learner(&id, ms(5_000)).await.is_err() {
            tokio::time::sleep(ms(50)).await;
        }
        while admin.promote(&id, ms(5_000)).await.is_err() {}
    }
}
