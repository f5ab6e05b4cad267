//! What the key-value store costs: the machine alone, and operations by kind against three processes.
//!
//! `machine`: no disk, no network, no replication. Each figure is for 1,000 and for 1,000,000 keys of
//! 16 bytes with values of 128, so that what grows with the store shows; with it the memory of a key,
//! what a snapshot costs those who write meanwhile, and the time to read one at a start.
//!
//! `cluster`: three real processes and one client process on one machine, every write on the disks
//! of a quorum; operations take turns, round by round. With it the time from a write to the last of
//! many watchers. Not measured: networks, several machines, large values.
//!
//! `cargo bench --bench kv`, with `-- --test` for a quick run.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
#![expect(clippy::unwrap_used, reason = "a benchmark that fails shall end")]

mod cluster;
mod machine;

/// How much is done.
#[derive(Clone, Copy, Debug)]
struct Scale {
    /// Keys of the small and of the large store.
    keys: [u64; 2],
    rounds: usize,
    /// How long one operation is measured in one round.
    period: std::time::Duration,
    watchers: usize,
}

fn main() {
    let is_test = std::env::args().any(|argument| argument == "--test");
    let scale = match is_test {
        true => Scale {
            keys: [100, 10_000],
            rounds: 1,
            period: std::time::Duration::from_millis(50),
            watchers: 20,
        },
        false => Scale {
            keys: [1_000, 1_000_000],
            rounds: 5,
            period: std::time::Duration::from_secs(1),
            watchers: 1_000,
        },
    };
    machine::run(scale);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(cluster::run(scale));
}

/// The median; figures of this machine jump.
fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
