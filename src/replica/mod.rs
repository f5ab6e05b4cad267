//! A replica: consensus, a log on disk and a state machine, put together.
//!
//! [`Core`] decides and is pure; [`Store`] owns the disk. Whoever drives them repeats one turn:
//!
//! 1. hand in everything that has arrived: frames, proposals, reads;
//! 2. [`Core::turn`] with the present time;
//! 3. until [`Core::take_persist`] gives nothing: send [`Core::take_frames`], deliver
//!    [`Core::take_done`], [`Store::persist`] what there is to write, [`Core::persisted`];
//! 4. send and deliver once more, and sleep until [`Core::poll_timeout`] or the next input.
//!
//! [`Replica`] is such a driver, on a [`Node`](crate::Node) and a real disk.
//!
//! [`settle`] is step 3 and 4 for a driver that writes in its own thread, with [`do_file_work`] for
//! snapshots in between. [`Core::take_job`] gives out what should not hold up a turn; it may be done
//! in another thread, and its result handed in with any later turn.

mod ack;
mod admin;
mod alarms;
mod client;
mod condemned;
mod core;
mod driver;
mod error;
mod formation;
mod handle;
mod hashes;
mod machine;
mod members;
mod past;
mod recover;
mod rejoin;
mod repair;
mod scrub;
pub(crate) mod service;
pub mod session;
mod setup;
mod snapshot;
mod status;
mod store;
mod sync;
mod throttle;
mod transfer;
mod verify;

pub use self::core::{Applied, Core, Done, Event, InSync, MemberChange, Reply};
pub use ack::{AckLevel, Acknowledged, Acks, InvalidAcks};
pub use admin::{Admin, HashAt, HashReport, Roster, RosterMember, RosterProgress};
pub use client::Client;
pub use error::{ClientError, ReplicaError};
pub use formation::new_raft_id;
pub(crate) use handle::WeakReplica;
pub use handle::{Leadership, Progress, Replica, ReplicaSettings, StopCause, Stopped};
pub use hashes::{Divergence, StateHash};
pub use machine::{Alarm, CommandId, Effects, Image, InvalidSnapshot, Machine, image_bytes};
pub use past::{NoPast, Past, PastCommands, PastError};
pub use recover::{RecoverError, Recovered, recover};
pub use repair::{Action, RepairError, apply_repair, name_aside, plan_repair};
pub use session::Sessions;
pub use setup::{Options, Setup};
pub use snapshot::{Job, JobDone, SnapshotError, SnapshotFiles};
pub use status::{Acknowledging, Hashes, Repair, Scrub, Snapshots, Status, Transfer, Waiting};
pub use store::{SharedLog, Store, StoreError, do_file_work, settle};
pub use sync::{Confidence, SyncMode};
pub use transfer::FileWork;
pub use verify::{Report, VerifyError, verify};
