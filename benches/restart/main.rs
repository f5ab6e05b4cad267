//! What a start costs, and what goes on beside it.
//!
//! `log`: opening a log of so many bytes, of many small entries and of few large ones, in a process
//! of its own, whose largest memory is told; against reading as many bytes of a file and computing
//! their checksum. The files are in the system's memory, as after the end of a process; after a power
//! cut the disk comes on top.
//!
//! `member`: three processes and a topic of so many bytes. One is killed and starts again: until it
//! is ready, and until it has applied everything; its memory. Then it is killed and the others write
//! as much again: how fast it catches up, and what that does to those who write meanwhile.
//!
//! `snapshot`: three processes and a store of a million keys. SET while a snapshot is being written,
//! against SET while none is, in the same run.
//!
//! ```text
//! cargo bench --bench restart                                  a few minutes
//! cargo bench --bench restart -- log --sizes 1MiB,256MiB,4GiB  other sizes; one part only
//! cargo bench --bench restart -- --test                        everything small
//! ```
//!
//! All on one machine and one disk; not measured: networks, disks of their own for each member.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
#![expect(clippy::unwrap_used, reason = "a benchmark that fails shall end")]

mod log;
mod member;
mod snapshot;
#[path = "../usage/mod.rs"]
mod usage;

use std::path::PathBuf;

use zmesh::config::Size;

const MIB: u64 = 1 << 20;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let after = |flag: &str| {
        let at = arguments.iter().position(|argument| argument == flag);
        at.and_then(|at| arguments.get(at + 1))
    };
    if let Some(dir) = after("--open") {
        return log::open_here(&PathBuf::from(dir));
    }
    let is_test = arguments.iter().any(|argument| argument == "--test");
    let sizes: Vec<u64> = match after("--sizes") {
        Some(sizes) => sizes.split(',').map(|size| size.parse::<Size>().unwrap().0).collect(),
        None if is_test => vec![MIB],
        None => vec![MIB, 16 * MIB, 256 * MIB, 1_024 * MIB],
    };
    let parts = ["log", "member", "snapshot"];
    let is_named = |part: &&str| arguments.iter().any(|argument| argument == part);
    let one = parts.iter().copied().find(is_named);
    let runs = |part: &str| one.is_none_or(|one| one == part);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    if runs("log") {
        log::run(&sizes, if is_test { 1 } else { 3 });
    }
    if runs("member") {
        runtime.block_on(member::run(&sizes));
    }
    if runs("snapshot") {
        runtime.block_on(snapshot::run(if is_test { 2_000 } else { 1_000_000 }));
    }
}
