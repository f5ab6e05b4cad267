//! zmesh: a brokerless messaging mesh with a replicated log and key-value store.

pub mod client;
pub mod config;
pub mod consensus;
pub mod discovery;
mod error;
mod id;
pub mod kv;
pub mod node;
pub mod presence;
pub mod protocol;
pub mod replica;
pub mod server;
pub mod status;
pub mod testing;
mod timer;
pub mod transport;
pub mod wal;

pub use error::{Effect, ErrorCode};
pub use id::{Incarnation, InvalidNodeId, NODE_ID_BYTES_MAX, NodeId, RequestId};
pub use node::{
    BoxedOutcome, Builder, Call, Counters, Direction, Event, Events, HandlerError, HandlerId,
    IntoAddress, InvalidLabels, InvalidMessage, Lagged, Middleware, Next, Node, NodeStatus, On,
    Outcome, Peer, PeerView, RegisterError, Request, RequestAll, RequestError, Response, Source,
    StartError, TickError, Undecoded, WaitError, route,
};
pub use timer::{Clock, Time, earliest};
pub use transport::{Address, InvalidAddress};
