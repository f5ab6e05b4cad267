//! Disks that are slow, full, damaged or forgetful, and clocks that jump.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use zmesh::kv::Kv;
use zmesh::{Effect, ErrorCode};

use crate::lives::replace;
use crate::plan::ms;
use crate::processes::Processes;
use crate::scene::{Needs, Scene, costs_nothing, rounds};
use crate::shim::Shim;

async fn scene(name: &'static str) -> Scene {
    Scene::start(name, Needs { shims: true, ..Needs::default() }).await
}

/// A leader that needs 50 ms for each sync slows everybody down or is replaced, and that is all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_disk_slows_down() {
    let scene = scene("slow-disk").await;
    for _ in 0..rounds(1) {
        let leader = scene.leader().await;
        scene.shims[leader].slow_syncs(ms(50));
        scene.goes_on("the leader's disk is slow").await;
        scene.shims[leader].slow_syncs(ms(0));
        scene.goes_on("it is quick again").await;
    }
    scene.end().await;
}

/// All computers lose power at once, and with it every write that was not synced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_all_lose_what_is_not_synced() {
    let mut scene = scene("unsynced").await;
    scene.shims.iter().for_each(Shim::begin_journal);
    let mut lost = 0;
    for round in 0..rounds(2) {
        scene.goes_on(&format!("round {round}")).await;
        for number in 0..3 {
            scene.cluster.kill(number).await;
        }
        for number in 0..3 {
            lost += scene.shims[number].lose_unsynced();
            scene.cluster.spawn(number).await;
        }
    }
    scene.goes_on("all are back").await;
    eprintln!("{lost} writes that were not synced were taken back");
    scene.end().await;
}

/// The row above can fail: without syncs, what was acknowledged is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_are_lost_without_syncs() {
    let mut cluster = Processes::describe(1, &["--log-groups", "0", "--sync", "never"]);
    let shim = Shim::new(cluster.data_dir(0).with_extension("shim"));
    cluster.set_environment(0, shim.environment());
    cluster.spawn(0).await;
    shim.begin_journal();
    let client = cluster.client("client", 0).await;
    let kv = Kv::new(&client).timeout(ms(20_000));
    kv.set("key", "value").await.unwrap();
    cluster.kill(0).await;
    assert!(shim.lose_unsynced() > 0);
    cluster.spawn(0).await;
    assert_eq!(kv.get("key").await.unwrap(), None);
}

/// One byte of each file of a follower is another: it refuses, repairs, or has not needed it, and the
/// others lose nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flipped_bytes_of_one_member_cost_nothing() {
    let mut scene = scene("flipped").await;
    let victim = (scene.leader().await + 1) % 3;
    scene.goes_on("before").await;
    scene.cluster.kill(victim).await;
    let dir = scene.cluster.data_dir(victim);
    let mut flipped = 0;
    for service in ["kv", "log0"] {
        flipped += flip_all(&dir.join(service), &mut scene.rng);
    }
    assert!(flipped > 4, "{flipped} files");
    let (code, said) = scene.cluster.spawn_in_vain(victim).await;
    assert_eq!(code, Some(5), "{said}");
    scene.goes_on(&format!("{victim} was refused with {flipped} bytes flipped")).await;
    replace(&mut scene, victim).await;
    scene.goes_on("it votes again").await;
    scene.end().await;
}

/// Turns over a bit of every file that has bytes; returns how many there were.
fn flip_all(dir: &Path, rng: &mut fastrand::Rng) -> usize {
    let mut flipped = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
        let bytes = file.metadata().unwrap().len();
        if bytes == 0 {
            continue;
        }
        // Where there is something: files are longer than what is in them.
        let at = rng.u64(..bytes.min(512));
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ (1 << rng.u8(..8))], at).unwrap();
        flipped += 1;
    }
    flipped
}

/// Hours and days, there and back: nothing is decided by the clock on the wall.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steps_of_the_clock_change_nothing() {
    let scene = scene("clocks").await;
    for _ in 0..rounds(1) {
        let steps = async || {
            let before = scene.load.oracle.counts();
            for seconds in [3_600, -3_600, 86_400, -86_400, 0] {
                for (number, shim) in scene.shims.iter().enumerate() {
                    shim.step_clock(if number == 0 { -seconds } else { seconds });
                }
                scene.goes_on(&format!("clocks are wrong by {seconds} s")).await;
            }
            scene.load.oracle.counts().unknown == before.unknown
        };
        assert!(costs_nothing(steps).await, "an operation was lost, every time");
    }
    scene.end().await;
}

/// A file system of limited size, as long as this is not dropped.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// None where that is not allowed.
    pub(crate) fn mount(dir: PathBuf, size: &str) -> Option<Self> {
        std::fs::create_dir_all(&dir).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"]).arg(&dir);
        let mounted = mount.stderr(Stdio::null()).status().is_ok_and(|status| status.success());
        mounted.then_some(Self(dir))
    }

    /// Takes all the space that is left.
    fn fill(&self) {
        let ballast = std::fs::File::create(self.0.join("ballast")).unwrap();
        let mut at = 0;
        while ballast.write_all_at(&[1; 65_536], at).is_ok() {
            at += 65_536;
        }
    }

    fn make_room(&self) {
        std::fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(&self.0).status());
    }
}

/// Far more large writes than all files together can take.
const WRITES_MAX: usize = 2_000;

/// All disks are full: writes are refused and say why, reads are served, and when there is room again
/// everything goes on without a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disks_refuse_writes_until_there_is_room() {
    let needs = Needs { disk: Some("256m"), ..Needs::default() };
    let scene = Scene::start("full-disk", needs).await;
    if scene.disks.is_empty() {
        eprintln!("left out: nobody may mount a file system here");
        return;
    }
    let kv = Kv::new(&scene.load.nodes[0]).timeout(ms(3_000));
    let large = vec![7; 256 << 10];
    kv.set("large", large.clone()).await.unwrap();
    scene.disks.iter().for_each(SmallDisk::fill);
    scene.load.say("all disks are full");
    let mut refused = None;
    for _ in 0..WRITES_MAX {
        match kv.set("large", large.clone()).await {
            Err(error) if error.code() == ErrorCode::NoSpace => {
                refused = Some(error);
                break;
            }
            Ok(_) | Err(_) => {}
        }
    }
    let refused = refused.expect("a write that no disk can take");
    assert_eq!(refused.effect(), Effect::None, "{refused}");
    assert_eq!(kv.get("large").await.unwrap().unwrap().value.len(), large.len());
    scene.disks.iter().for_each(SmallDisk::make_room);
    scene.goes_on("there is room again").await;
    scene.end().await;
}
