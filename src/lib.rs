//! zmesh: a brokerless messaging mesh with a replicated log and key-value store.

pub mod config;
mod error;
mod id;
pub mod protocol;
mod timer;
pub mod transport;
pub mod wal;

pub use error::{Effect, ErrorCode};
pub use id::{Incarnation, InvalidNodeId, NODE_ID_BYTES_MAX, NodeId, RequestId};
pub use timer::{Clock, Time, earliest};
pub use transport::{Address, InvalidAddress};
