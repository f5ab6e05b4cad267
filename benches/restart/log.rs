//! The log alone.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use zmesh::wal::{Disk, Entry, EntryKind, Identity, Options, RealDisk, Wal};

use super::MIB;
use super::usage::memory;

/// Bytes of an entry.
const ENTRIES: [usize; 2] = [128, 64 << 10];

pub(super) fn run(sizes: &[u64], rounds: usize) {
    println!("opening a log; medians of {rounds} starts, the least of as many plain reads");
    println!(
        "{:>8} {:>8} {:>10} {:>8} {:>10} {:>14} {:>10}",
        "MiB", "entry", "ms", "MiB/s", "to read", "peak MiB", "MiB after"
    );
    for (size, entry) in sizes.iter().flat_map(|size| ENTRIES.map(|entry| (*size, entry))) {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), size, entry);
        let (mut opened, mut plain) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            plain.push(read(dir.path()));
            opened.push(open_elsewhere(dir.path()));
        }
        opened.sort_by(|one, other| one.0.total_cmp(&other.0));
        let (ms, peak, after) = opened[opened.len() / 2];
        let least = plain.into_iter().min().unwrap().as_secs_f64() * 1e3;
        let mib = size as f64 / MIB as f64;
        println!(
            "{mib:>8.0} {entry:>8} {ms:>10.1} {:>8.0} {:>10.2} {peak:>14.1} {after:>10.1}",
            mib / ms * 1e3,
            ms / least
        );
    }
}

fn wal(dir: &Path) -> Wal {
    let identity =
        Identity { cluster: uuid::Uuid::from_u128(1), node: "n".parse().unwrap(), raft_id: 1 };
    let options = Options { reserve_bytes: 0, ..Options::default() };
    Wal::open(Arc::new(RealDisk) as Arc<dyn Disk>, dir, options, identity).unwrap().0
}

fn write(dir: &Path, size: u64, entry: usize) {
    let (mut wal, data) = (wal(dir), Bytes::from(vec![0xAB; entry]));
    let (count, batch) = (size / entry as u64, (MIB / entry as u64).max(1));
    for first in (1..=count).step_by(usize::try_from(batch).unwrap()) {
        let entry = |index| Entry { term: 1, index, kind: EntryKind::Normal, data: data.clone() };
        let batch: Vec<_> = (first..(first + batch).min(count + 1)).map(entry).collect();
        wal.append(&batch).unwrap();
    }
    wal.sync().unwrap();
}

/// Reads every file and computes its checksum.
fn read(dir: &Path) -> Duration {
    let (began, mut sum) = (Instant::now(), 0);
    for file in std::fs::read_dir(dir).unwrap() {
        let mut file = std::fs::File::open(file.unwrap().path()).unwrap();
        let mut chunk = vec![0; 256 << 10];
        loop {
            let bytes = std::io::Read::read(&mut file, &mut chunk).unwrap();
            if bytes == 0 {
                break;
            }
            sum = crc32c::crc32c_append(sum, &chunk[..bytes]);
        }
    }
    std::hint::black_box(sum);
    began.elapsed()
}

/// Milliseconds to open, the most memory, and the memory afterwards, of a process of its own.
fn open_elsewhere(dir: &Path) -> (f64, f64, f64) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command.arg("--open").arg(dir).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let figures: Vec<f64> =
        printed.split_whitespace().map(|figure| figure.parse().unwrap()).collect();
    (figures[0], figures[1], figures[2])
}

/// What the process does that [`open_elsewhere`] starts.
pub(super) fn open_here(dir: &Path) {
    let began = Instant::now();
    let wal = wal(dir);
    let ms = began.elapsed().as_secs_f64() * 1e3;
    let process = std::process::id();
    println!("{ms} {} {}", memory(process, "VmHWM").unwrap(), memory(process, "VmRSS").unwrap());
    drop(wal);
}
