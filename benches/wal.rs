//! What the log costs above the disk: append and sync of a batch of entries, against one plain
//! write and `fdatasync` of as many bytes into a preallocated file.
//!
//! Both run in turn, batch by batch, on the same file system, so that a disk that gets slower gets
//! slower for both. Printed are medians and their ratio. Not measured: reading, rotation (segments
//! are large enough), anything above the log.
//!
//! `cargo bench --bench wal`, with `-- --test` for a quick run, with `-- --dir DIR` for the file
//! system to measure (default: the system's temporary directory).

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use zmesh::wal::{Disk, Entry, EntryKind, Identity, OpenMode, Options, RealDisk, Wal};

const ENTRY_BYTES: usize = 128;
/// What a record takes besides its data.
const RECORD_BYTES: usize = 32;
const BATCHES: [u64; 4] = [1, 16, 64, 256];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let rounds = if arguments.iter().any(|argument| argument == "--test") { 3 } else { 1_000 };
    let chosen = arguments.iter().position(|argument| argument == "--dir");
    let parent = chosen.and_then(|at| arguments.get(at + 1)).map(PathBuf::from);
    let dir = tempfile::tempdir_in(parent.unwrap_or_else(std::env::temp_dir))?;
    println!("{rounds} rounds of {ENTRY_BYTES}-byte entries; medians in microseconds");
    println!("{:>7} {:>12} {:>12} {:>12} {:>7}", "entries", "log", "log p99", "plain", "ratio");
    for entries in BATCHES {
        let (mut log, mut plain) = measure(&dir.path().join(entries.to_string()), entries, rounds)?;
        let (log_median, log_tail) = (quantile(&mut log, 50), quantile(&mut log, 99));
        let plain_median = quantile(&mut plain, 50);
        let ratio = log_median / plain_median;
        println!(
            "{entries:>7} {log_median:>12.1} {log_tail:>12.1} {plain_median:>12.1} {ratio:>7.3}"
        );
    }
    Ok(())
}

/// Times `rounds` batches of each kind.
fn measure(
    dir: &Path,
    entries: u64,
    rounds: u64,
) -> Result<(Vec<Duration>, Vec<Duration>), Box<dyn Error>> {
    let identity =
        Identity { cluster: uuid::Uuid::from_u128(1), node: "bench".parse()?, raft_id: 1 };
    let disk = Arc::new(RealDisk);
    let batch_bytes = usize::try_from(entries)? * (ENTRY_BYTES + RECORD_BYTES);
    let file_bytes = (batch_bytes as u64 * (rounds + 1)).max(64 << 20);
    let options = Options { segment_bytes: file_bytes, reserve_bytes: 0, ..Options::default() };
    let (mut wal, _) = Wal::open(Arc::clone(&disk) as Arc<dyn Disk>, dir, options, identity)?;
    let file = disk.open(&dir.join("plain"), OpenMode::CreateNew)?;
    file.allocate(file_bytes)?;
    file.sync_data()?;

    let data = Bytes::from(vec![0xAB; ENTRY_BYTES]);
    let block = vec![0xAB; batch_bytes];
    let (mut log, mut plain) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let batch: Vec<Entry> = (1..=entries)
            .map(|at| round * entries + at)
            .map(|index| Entry { term: 1, index, kind: EntryKind::Normal, data: data.clone() })
            .collect();
        log.push(timed(|| Ok(wal.append(&batch).and_then(|()| wal.sync())?))?);
        let offset = round * batch_bytes as u64;
        plain.push(timed(|| {
            file.write_at(&block, offset)?;
            Ok(file.sync_data()?)
        })?);
    }
    Ok((log, plain))
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn timed(
    operation: impl FnOnce() -> Result<(), Box<dyn Error>>,
) -> Result<Duration, Box<dyn Error>> {
    let start = Instant::now();
    operation()?;
    Ok(start.elapsed())
}

/// A quantile in microseconds.
fn quantile(times: &mut [Duration], percent: usize) -> f64 {
    times.sort_unstable();
    times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e6
}
