//! Lines that are cut, slow, lossy of connections, or half-open.

use std::time::Duration;

use zmesh::replica::Admin;

use crate::plan::ms;
use crate::proxy::Weather;
use crate::scene::{Needs, Scene, costs_nothing, pairs, rounds};

/// Silence of the leader after which an election may begin, as the processes are told by default.
const ELECTION_TIMEOUT: Duration = Duration::from_millis(300);

async fn scene(name: &'static str) -> Scene {
    Scene::start(name, Needs { lines: true, ..Needs::default() }).await
}

async fn term(scene: &Scene) -> u64 {
    let admin = Admin::new(&scene.load.nodes[0], "kv");
    admin.members(ms(10_000)).await.unwrap().term
}

/// Whoever is cut off, in one direction or in both, the others go on, and nobody waits for longer
/// than he said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_lines_leave_the_majority_at_work() {
    let scene = scene("cuts").await;
    for _ in 0..rounds(1) {
        for shape in 0..5 {
            let leader = scene.leader().await;
            let (one, other) = ((leader + 1) % 3, (leader + 2) % 3);
            let (name, cuts) = match shape {
                0 => (
                    "the leader is alone",
                    vec![(leader, one), (one, leader), (leader, other), (other, leader)],
                ),
                1 => (
                    "a follower is alone",
                    vec![(leader, one), (one, leader), (one, other), (other, one)],
                ),
                2 => ("the leader hears nobody", vec![(one, leader), (other, leader)]),
                3 => ("nobody hears the leader", vec![(leader, one), (leader, other)]),
                _ => ("one follower is the bridge", vec![(leader, one), (one, leader)]),
            };
            cuts.iter().for_each(|(from, to)| scene.cut(*from, *to));
            scene.goes_on(name).await;
            scene.heal();
            scene.goes_on("all lines are whole").await;
        }
    }
    scene.end().await;
}

/// A leader that comes and goes every second may cost elections, and no promise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flapping_line_costs_no_promise() {
    let mut scene = scene("flapping").await;
    for _ in 0..rounds(1) * 4 {
        let leader = scene.leader().await;
        for other in (0..3).filter(|other| *other != leader) {
            scene.cut(leader, other);
            scene.cut(other, leader);
        }
        tokio::time::sleep(ms(scene.rng.u64(300..1_000))).await;
        scene.heal();
        tokio::time::sleep(ms(scene.rng.u64(300..1_000))).await;
    }
    scene.goes_on("it flaps no more").await;
    scene.end().await;
}

/// A quarter of the election timeout is no reason for an election.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_lines_cost_no_leader() {
    let scene = scene("slow").await;
    let weather =
        Weather { delay: ELECTION_TIMEOUT / 8, jitter: ELECTION_TIMEOUT / 8, ..Weather::default() };
    for line in scene.lines.values() {
        line.forth.send_replace(weather);
        line.back.send_replace(weather);
    }
    let is_stable = async || {
        let (leader, before) = (scene.leader().await, term(&scene).await);
        for _ in 0..rounds(1) {
            scene.goes_on("all lines are slow").await;
        }
        (scene.leader().await, term(&scene).await) == (leader, before)
    };
    assert!(costs_nothing(is_stable).await, "an election, every time");
    scene.heal();
    scene.end().await;
}

/// Long, narrow and broken lines: everything comes late, some of it not at all, and comes again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_lines_cost_no_promise() {
    let mut scene = scene("bad").await;
    for round in 0..rounds(1) {
        for (from, to) in pairs() {
            let line = &scene.lines[&(from, to)];
            let weather = Weather {
                cut: false,
                delay: ms(scene.rng.u64(0..200)),
                jitter: ms(scene.rng.u64(0..300)),
                bytes_per_second: scene.rng.bool().then(|| scene.rng.u32(20_000..200_000)),
            };
            line.forth.send_replace(weather);
            line.back.send_replace(weather);
        }
        scene.goes_on(&format!("round {round}: bad lines")).await;
        for _ in 0..10 {
            let all: Vec<_> = pairs().collect();
            let pair = all[scene.rng.usize(..all.len())];
            scene.lines[&pair].reset();
            tokio::time::sleep(ms(scene.rng.u64(10..200))).await;
        }
        scene.goes_on("connections were reset").await;
        scene.heal();
        scene.goes_on("good lines").await;
    }
    scene.end().await;
}

/// The same with packets that the system drops: nobody is told of a reset, and connections hang.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_packets_leave_the_majority_at_work() {
    let scene = Scene::start("packets", Needs { namespaces: true, ..Needs::default() }).await;
    let Some(namespaces) = &scene.namespaces else {
        eprintln!("left out: nobody may make network namespaces here");
        return;
    };
    for _ in 0..rounds(1) {
        for shape in 0..3 {
            let leader = u8::try_from(scene.leader().await).unwrap();
            let (one, other) = ((leader + 1) % 3, (leader + 2) % 3);
            let name = match shape {
                0 => {
                    namespaces.unplug(leader);
                    "the leader is unplugged"
                }
                1 => {
                    namespaces.part(leader, one);
                    "one follower is the bridge"
                }
                _ => {
                    namespaces.silence(leader, one);
                    namespaces.silence(leader, other);
                    "nobody hears the leader"
                }
            };
            scene.goes_on(name).await;
            namespaces.heal();
            scene.goes_on("everybody is reached again").await;
        }
    }
    scene.end().await;
}
