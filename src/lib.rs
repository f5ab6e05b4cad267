//! zmesh: a brokerless messaging mesh with a replicated log and key-value store.
//!
//! A program starts a [`Node`], which links to other nodes over ZeroMQ. Nodes send each other
//! requests and one-way ticks, and learn at once when that cannot work. Some of them may run a
//! replica of a log, and of the key-value store made from it.
//!
//! # Three ways in
//!
//! - **Messages**: [`Node`]. Build one, register handlers, send.
//! - **State**: [`kv::Kv`] uses the store from any node; [`replica::Replica`] makes a node hold a
//!   copy of it, or of a state machine of your own ([`replica::Machine`]).
//! - **Tests**: [`testing::TestCluster`] runs real nodes with real disks inside a test, to kill and
//!   restart.
//!
//! ```
//! use std::time::Duration;
//! use zmesh::{HandlerError, Node, Peer, RequestError, route::Filter, testing::TestCluster};
//!
//! async fn sum(_from: Peer, numbers: Vec<u64>) -> Result<u64, HandlerError> {
//!     Ok(numbers.iter().sum())
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Messages: two nodes, one request, one that cannot be answered.
//! let adder = Node::builder("adder").label("role", "math").bind("tcp://127.0.0.1:0").start()?;
//! adder.on_request("math.sum", sum)?;
//! let asker = Node::builder("asker").connect(adder.address().ok_or("not bound")?).start()?;
//! asker.wait_for_peers(&Filter::label("role", "math"), 1, Duration::from_secs(5)).await?;
//! let total: u64 = asker.request("adder", "math.sum", &[1_u64, 2, 3]).await?;
//! assert_eq!(total, 6);
//! let absent: Result<u64, RequestError> = asker.request("nobody", "math.sum", &[1_u64]).await;
//! assert!(matches!(absent, Err(RequestError::NoPeer { .. })));
//!
//! // State: a store of one replica, and its client.
//! let cluster = TestCluster::start(1).await?;
//! let kv = cluster.kv();
//! kv.set("colour", "green").await?;
//! let found = kv.get("colour").await?.ok_or("not found")?;
//! assert_eq!(found.value.as_ref(), b"green");
//! # Ok(()) }
//! ```
//!
//! # What is where
//!
//! | to | use |
//! |---|---|
//! | start, configure and stop a node | [`Builder`], [`Node::stop`] |
//! | ask one, any or all | [`Node::request`], [`Node::request_any`], [`Node::request_all`] |
//! | tell one, any or all | [`Node::tick`], [`Node::tick_any`], [`Node::tick_all`] |
//! | answer | [`Node::on_request`], [`Node::on_tick`]; concurrency and raw bytes by [`Node::on`] |
//! | choose peers | [`route::Filter`] over labels, [`route::Choice`] among those that match |
//! | see who comes and goes | [`Node::events`], [`Node::peers`], [`Node::wait_for_peers`] |
//! | know what happened after an error | [`RequestError::effect`], [`kv::Error::effect`], [`ErrorCode`] |
//! | set, read, list and clear keys | [`kv::Kv`] |
//! | write under conditions, or several keys at once | [`kv::Set`], [`kv::Txn`] |
//! | see every change of a key | [`kv::Watch`] |
//! | be the only one | [`kv::Kv::lock`], [`kv::Kv::elect`], [`kv::Guard`] |
//! | append, read and follow records | [`log::Log`], [`log::Topic`], [`log::Tail`] |
//! | share the work of a topic | [`log::groups::Group`], [`log::groups::Member`] |
//! | replicate | [`host::Host`], or a machine of your own: [`replica::Replica`] |
//! | add, promote and remove members from any node | [`replica::Admin`] |
//! | take everything out and put it back | [`dump`], `zmesh dump` |
//! | look at a node from afar | [`status::ask`] |
//! | test | [`testing::TestCluster`], [`transport::memory`] |
//!
//! The other modules are the layers below, from [`transport`] up to [`consensus`]; they are public
//! so that tools and tests can use them.
//!
//! # What always holds
//!
//! - Everything needs a tokio runtime of any flavor; a node is one task on it, and handlers run
//!   there: what blocks for long belongs into `tokio::task::spawn_blocking`.
//! - Every wait ends: requests and operations after 5 s unless said otherwise.
//! - A message is sent at most once. Dropping a future gives up the answer; it recalls nothing that
//!   was sent.
//! - An error says whether the operation may have had an effect: [`Effect`].

// Machines that tests of this crate share with those beside it are written for its users.
#[cfg(test)]
extern crate self as zmesh;

pub mod client;
pub mod config;
pub mod consensus;
pub mod discovery;
pub mod dump;
mod error;
pub mod host;
mod id;
pub mod keys;
pub mod kv;
pub mod log;
mod mutant;
pub mod node;
pub mod presence;
pub mod protocol;
pub mod replica;
pub mod server;
pub mod status;
pub mod testing;
mod timer;
pub mod transport;
pub mod trust;
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
