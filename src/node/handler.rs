//! What a handler is given and what it returns; how functions become handlers.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::core::Delivery;
use super::dispatch::{Answer, HandlerFn, HandlerFuture};
use super::error::HandlerError;
use crate::error::ErrorCode;
use crate::id::NodeId;
use crate::protocol::envelope::{Format, Subject};
use crate::protocol::handlers::Verb;
use crate::protocol::payload;
use crate::timer::{Clock, Time};

/// What a handler returned: the encoded reply, or why there is none.
pub type Outcome = Result<Answer, HandlerError>;

/// Who sent a message, and how long its sender waits.
#[derive(Clone)]
pub struct Peer {
    pub(crate) node: NodeId,
    pub(crate) subject: Subject,
    pub(crate) deadline: Option<Time>,
    pub(crate) clock: Clock,
}

impl Peer {
    /// The sender's id, as it was checked in the handshake.
    pub fn id(&self) -> &NodeId {
        &self.node
    }

    /// What the message is addressed to; tells the words that `*` and `>` matched.
    pub fn subject(&self) -> &str {
        self.subject.as_str()
    }

    /// Time until nobody waits for the reply; none for a tick without a deadline.
    pub fn time_left(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_since(self.clock.now()))
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").field("id", &self.node).field("subject", &self.subject()).finish()
    }
}

/// A message as it arrived, for raw handlers and middleware.
#[derive(Clone, Debug)]
pub struct Call {
    /// Who sent it.
    pub peer: Peer,
    /// Whether a reply is expected.
    pub verb: Verb,
    /// How the payload is encoded.
    pub format: Format,
    /// The payload; cheap to clone.
    pub payload: Bytes,
}

impl Call {
    pub(crate) fn new(clock: Clock, verb: Verb, delivery: Delivery) -> Self {
        let peer = Peer {
            node: delivery.peer,
            subject: delivery.subject,
            deadline: delivery.deadline,
            clock,
        };
        Self { peer, verb, format: delivery.format, payload: delivery.payload }
    }
}

/// Something that is wrapped around every handler of a node: it may look, refuse, or change.
///
/// Implemented by every `Fn(Call, Next) -> impl Future<Output = Outcome>`.
///
/// # Examples
///
/// ```
/// use zmesh::{Call, HandlerError, Next, Outcome};
///
/// async fn only_small(call: Call, next: Next) -> Outcome {
///     match call.payload.len() {
///         0..=1024 => next.run(call).await,
///         _ => Err(HandlerError::refused("at most 1 KiB here")),
///     }
/// }
/// ```
pub trait Middleware: Send + Sync + 'static {
    /// Handles `call`, usually by way of [`Next::run`].
    fn handle(&self, call: Call, next: Next) -> BoxedOutcome;
}

/// A boxed future of an [`Outcome`].
pub type BoxedOutcome = std::pin::Pin<Box<dyn Future<Output = Outcome> + Send>>;

impl<F, Fut> Middleware for F
where
    F: Fn(Call, Next) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Outcome> + Send + 'static,
{
    fn handle(&self, call: Call, next: Next) -> BoxedOutcome {
        Box::pin(self(call, next))
    }
}

/// What a middleware stands in front of.
pub struct Next {
    middleware: Arc<[Arc<dyn Middleware>]>,
    position: usize,
    handler: HandlerFn,
}

impl Next {
    pub(crate) fn new(middleware: Arc<[Arc<dyn Middleware>]>, handler: HandlerFn) -> Self {
        Self { middleware, position: 0, handler }
    }

    /// Goes on to the next middleware or, after the last, to the handler.
    pub fn run(mut self, call: Call) -> BoxedOutcome {
        match self.middleware.get(self.position).cloned() {
            Some(middleware) => {
                self.position += 1;
                middleware.handle(call, self)
            }
            None => (self.handler)(call),
        }
    }
}

impl fmt::Debug for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next").field("position", &self.position).finish_non_exhaustive()
    }
}

/// A handler of requests with payloads of its own types.
pub(crate) fn typed_request<P, R, E, F, Fut>(handler: F) -> HandlerFn
where
    F: Fn(Peer, P) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<R, E>> + Send + 'static,
    P: DeserializeOwned + Send + 'static,
    R: Serialize + Send + 'static,
    E: Into<HandlerError> + Send + 'static,
{
    let handler = Arc::new(handler);
    Arc::new(move |call| {
        let handler = Arc::clone(&handler);
        Box::pin(async move {
            let payload = decode(&call)?;
            let reply = handler(call.peer, payload).await.map_err(Into::into)?;
            encode(&reply)
        }) as HandlerFuture
    })
}

/// A handler of ticks with payloads of its own type.
pub(crate) fn typed_tick<P, F, Fut>(handler: F) -> HandlerFn
where
    F: Fn(Peer, P) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
    P: DeserializeOwned + Send + 'static,
{
    let handler = Arc::new(handler);
    Arc::new(move |call| {
        let handler = Arc::clone(&handler);
        Box::pin(async move {
            let payload = decode(&call)?;
            handler(call.peer, payload).await;
            Ok((Format::Raw, Bytes::new()))
        }) as HandlerFuture
    })
}

/// A handler of bytes.
pub(crate) fn raw<F, Fut>(handler: F) -> HandlerFn
where
    F: Fn(Call) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Bytes, HandlerError>> + Send + 'static,
{
    let handler = Arc::new(handler);
    Arc::new(move |call| {
        let handler = Arc::clone(&handler);
        Box::pin(async move { handler(call).await.map(|reply| (Format::Raw, reply)) })
            as HandlerFuture
    })
}

fn decode<P: DeserializeOwned>(call: &Call) -> Result<P, HandlerError> {
    let invalid = |error: String| HandlerError::new(ErrorCode::InvalidPayload, error);
    match call.format {
        Format::MessagePack => {
            payload::decode(&call.payload).map_err(|error| invalid(error.to_string()))
        }
        Format::Raw => Err(invalid("the handler expects MessagePack, not raw bytes".to_owned())),
    }
}

fn encode<R: Serialize>(reply: &R) -> Outcome {
    match payload::encode(reply) {
        Ok(bytes) => Ok((Format::MessagePack, bytes.into())),
        Err(error) => Err(HandlerError::failed(format!("the reply cannot be encoded: {error}"))),
    }
}
