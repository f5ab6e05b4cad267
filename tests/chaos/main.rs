//! Real processes under load, and everything that can go wrong with processes, lines, disks and clocks.
//!
//! Each row does one kind of harm again and again, and then everything has to be served and every
//! promise to be kept, by the oracle that judges simulated worlds too.
//!
//! ```text
//! cargo test --test chaos                                      each row once or twice
//! ZMESH_CHAOS_ROUNDS=50 cargo test --release --test chaos      for longer
//! ```
//!
//! Histories of the registers are kept as JSON lines, see docs/TESTING.md.
#![expect(clippy::unwrap_used, reason = "a test; the allowance does not reach functions beside it")]

#[path = "../linearizable/checker.rs"]
mod checker;
#[path = "../whole/desk.rs"]
mod desk;
#[path = "../whole/ending.rs"]
mod ending;
mod load;
mod namespaces;
#[allow(dead_code, reason = "shared with simulated worlds, which have more of it")]
#[path = "../whole/oracle.rs"]
mod oracle;
#[allow(dead_code, reason = "shared with simulated worlds, which have more of it")]
#[path = "../whole/plan.rs"]
mod plan;
#[allow(dead_code, reason = "shared with tests that do more with it")]
#[path = "../cluster/processes.rs"]
mod processes;
mod proxy;
mod scene;
mod shim;
#[allow(dead_code, reason = "shared with simulated worlds, which have more of it")]
#[path = "../whole/trace.rs"]
mod trace;

mod disks;
mod lines;
mod lives;
mod soak;
