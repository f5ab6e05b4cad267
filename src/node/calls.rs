//! Requests on their way: futures that end with a reply or with a typed error.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use super::core::{Message, Reply};
use super::driver::Shared;
use super::error::{InvalidMessage, RequestError};
use super::route::{Choice, Filter};
use crate::id::{NodeId, RequestId};
use crate::protocol::envelope::Format;
use crate::protocol::payload::{self, PayloadError};

/// Whom a request is for.
pub(crate) enum Target {
    Any(Filter, Choice),
    Node(Box<str>),
}

/// A payload that is ready to be sent.
pub(crate) struct Encoded {
    pub(crate) format: Format,
    pub(crate) bytes: Result<Bytes, PayloadError>,
}

impl Encoded {
    pub(crate) fn message_pack<P: serde::Serialize + ?Sized>(value: &P) -> Self {
        Self { format: Format::MessagePack, bytes: payload::encode(value).map(Bytes::from) }
    }

    pub(crate) fn raw(bytes: Bytes) -> Self {
        Self { format: Format::Raw, bytes: Ok(bytes) }
    }
}

/// A request that is sent when it is awaited. See [`Node::request`](super::Node::request).
#[must_use = "a request is sent when it is awaited"]
pub struct Request<R> {
    pub(crate) shared: Arc<Shared>,
    pub(crate) target: Target,
    pub(crate) subject: Box<str>,
    pub(crate) payload: Encoded,
    pub(crate) timeout: Duration,
    pub(crate) system: bool,
    pub(crate) decode: fn(Reply) -> Result<R, RequestError>,
}

impl<R> Request<R> {
    /// Waits for the reply at most this long [default: the node's request timeout].
    ///
    /// The time left travels with the request: a node that receives it too late does not run it.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Takes the reply as it comes, whatever its format.
    pub fn undecoded(self) -> Request<Undecoded> {
        let Self { shared, target, subject, payload, timeout, system, decode: _ } = self;
        Request { shared, target, subject, payload, timeout, system, decode: undecoded }
    }

    /// How one peer is picked among those that match [default: round robin]. Without effect on a
    /// request to one node.
    pub fn choose(mut self, by: Choice) -> Self {
        if let Target::Any(_, choice) = &mut self.target {
            *choice = by;
        }
        self
    }

    /// Sends the request and returns the future of its reply.
    fn send(self) -> Response<R> {
        let (shared, decode) = (self.shared, self.decode);
        let payload = match self.payload.bytes {
            Ok(bytes) => bytes,
            Err(error) => {
                let error = RequestError::Invalid(InvalidMessage::Payload(error));
                return Response { decode, state: State::Failed(error) };
            }
        };
        let message = Message {
            subject: &self.subject,
            format: self.payload.format,
            payload: &payload,
            system: self.system,
        };
        let (ticket, receiver) = oneshot::channel();
        let sent = shared.with(|core, now| {
            let to: Box<str> = match self.target {
                Target::Any(filter, choice) => match core.choose(&filter, &choice) {
                    Some(node) => node.as_str().into(),
                    None => return Err(RequestError::NoNodesMatchFilter),
                },
                Target::Node(node) => node,
            };
            core.request(now, &to, message, self.timeout, ticket).map_err(|(_, error)| error)
        });
        let state = match sent {
            Ok(request) => State::Waiting(InFlight { shared, request, receiver }),
            Err(error) => State::Failed(error),
        };
        Response { decode, state }
    }
}

impl<R> IntoFuture for Request<R> {
    type Output = Result<R, RequestError>;
    type IntoFuture = Response<R>;

    fn into_future(self) -> Response<R> {
        self.send()
    }
}

impl<R> fmt::Debug for Request<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("subject", &self.subject).finish_non_exhaustive()
    }
}

/// The future of a reply.
///
/// # Cancel safety
///
/// Dropping it drops the reply; it does not recall the request.
#[must_use = "futures do nothing unless they are awaited"]
pub struct Response<R> {
    decode: fn(Reply) -> Result<R, RequestError>,
    state: State,
}

enum State {
    Done,
    Failed(RequestError),
    Waiting(InFlight),
}

/// A request in flight; dropping it frees its place in the table.
struct InFlight {
    shared: Arc<Shared>,
    request: RequestId,
    receiver: oneshot::Receiver<Result<Reply, RequestError>>,
}

impl<R> Future for Response<R> {
    type Output = Result<R, RequestError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = match &mut self.state {
            State::Waiting(in_flight) => match Pin::new(&mut in_flight.receiver).poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(result)) => result,
                Poll::Ready(Err(_closed)) => Err(RequestError::Stopped),
            },
            State::Failed(_) | State::Done => match std::mem::replace(&mut self.state, State::Done)
            {
                State::Failed(error) => Err(error),
                State::Done | State::Waiting(_) => Err(RequestError::Stopped),
            },
        };
        self.state = State::Done;
        Poll::Ready(result.and_then(self.decode))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        // Resolved or not: the core ignores an id that is not in flight.
        if matches!(self.receiver.try_recv(), Err(oneshot::error::TryRecvError::Empty)) {
            self.shared.with(|core, _| core.cancel(self.request));
        }
    }
}

impl<R> fmt::Debug for Response<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response").finish_non_exhaustive()
    }
}

/// A reply as it came. See [`Request::undecoded`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Undecoded {
    /// Who replied.
    pub peer: NodeId,
    /// How the payload is encoded.
    pub format: Format,
    /// The payload.
    pub payload: Bytes,
}

fn undecoded(reply: Reply) -> Result<Undecoded, RequestError> {
    Ok(Undecoded { peer: reply.peer, format: reply.format, payload: reply.payload })
}

/// Reads a MessagePack reply.
pub(crate) fn typed<R: DeserializeOwned>(reply: Reply) -> Result<R, RequestError> {
    let decoded = match reply.format {
        Format::MessagePack => payload::decode(&reply.payload),
        Format::Raw => Err(PayloadError::NotMessagePack),
    };
    decoded.map_err(|error| RequestError::InvalidReply { peer: reply.peer, error })
}

/// Takes the bytes of a reply, whatever they are.
pub(crate) fn bytes(reply: Reply) -> Result<Bytes, RequestError> {
    Ok(reply.payload)
}

/// A request to every peer that matches; awaiting it gives one result for each, in the order of
/// their ids. See [`Node::request_all`](super::Node::request_all).
#[must_use = "requests are sent when they are awaited"]
pub struct RequestAll<R> {
    pub(crate) requests: Vec<(NodeId, Request<R>)>,
}

impl<R> RequestAll<R> {
    /// Waits for each reply at most this long [default: the node's request timeout].
    pub fn timeout(mut self, timeout: Duration) -> Self {
        for (_, request) in &mut self.requests {
            request.timeout = timeout;
        }
        self
    }
}

impl<R: Send + 'static> IntoFuture for RequestAll<R> {
    type Output = Result<Vec<(NodeId, Result<R, RequestError>)>, RequestError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        // All are sent before the first is awaited.
        let sent: Vec<_> =
            self.requests.into_iter().map(|(node, request)| (node, request.send())).collect();
        Box::pin(async move {
            if sent.is_empty() {
                return Err(RequestError::NoNodesMatchFilter);
            }
            let mut results = Vec::with_capacity(sent.len());
            for (node, response) in sent {
                results.push((node, response.await));
            }
            Ok(results)
        })
    }
}

impl<R> fmt::Debug for RequestAll<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestAll").field("peers", &self.requests.len()).finish_non_exhaustive()
    }
}
