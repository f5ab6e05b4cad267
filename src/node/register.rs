//! Registering handlers.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Node;
use super::dispatch::{Handler, HandlerFn, Order};
use super::error::HandlerError;
use super::handler::{self, Call, Middleware, Outcome, Peer};
use crate::keys::Role;
pub use crate::protocol::handlers::HandlerId;
use crate::protocol::handlers::{AlreadyRegistered, InvalidPattern, Pattern, Verb};

impl Node {
    /// Handles requests whose subject matches `pattern`: an exact subject, or one with `*` for a
    /// word and `>` for the rest.
    ///
    /// Messages of one peer are handled one after the other in the order in which it sent them,
    /// those of different peers side by side. [`on`](Self::on) gives other choices.
    ///
    /// The handler's future is first polled where messages are received: it must not compute for
    /// long before its first await, or the node stands still meanwhile.
    ///
    /// # Errors
    ///
    /// [`RegisterError`]: the pattern is malformed, belongs to the system, or is taken.
    pub fn on_request<P, R, E, F, Fut>(
        &self,
        pattern: &str,
        handler: F,
    ) -> Result<HandlerId, RegisterError>
    where
        F: Fn(Peer, P) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, E>> + Send + 'static,
        P: DeserializeOwned + Send + 'static,
        R: Serialize + Send + 'static,
        E: Into<HandlerError> + Send + 'static,
    {
        self.on(pattern).request(handler)
    }

    /// Handles ticks whose subject matches `pattern`, in the same order as requests. Every
    /// matching handler gets the tick.
    ///
    /// # Errors
    ///
    /// As [`on_request`](Self::on_request).
    pub fn on_tick<P, F, Fut>(&self, pattern: &str, handler: F) -> Result<HandlerId, RegisterError>
    where
        F: Fn(Peer, P) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
        P: DeserializeOwned + Send + 'static,
    {
        self.on(pattern).tick(handler)
    }

    /// Begins to register a handler that is not the usual kind: [`On`] has the choices.
    pub fn on(&self, pattern: &str) -> On<'_> {
        let (pattern, order) = (Pattern::new(pattern), Order::OneByOne);
        On { node: self, pattern, order, system: false, needs: Role::Client }
    }

    /// As [`on`](Self::on), for subjects in which a regular expression finds a match, anywhere
    /// unless `^` and `$` tie it to the ends. Subjects that begin with `_` never match.
    pub fn on_regex(&self, expression: &str) -> On<'_> {
        let (pattern, order) = (Pattern::regex(expression), Order::OneByOne);
        On { node: self, pattern, order, system: false, needs: Role::Client }
    }

    /// A handler of a subject of the system, for those who have this role at least.
    pub(crate) fn on_system(&self, pattern: &str, needs: Role) -> On<'_> {
        On { system: true, needs, ..self.on(pattern) }
    }

    /// Removes a handler; returns whether it was there. Calls that have begun go on.
    pub fn remove_handler(&self, id: HandlerId) -> bool {
        self.handle.shared.registry.write().handlers.remove(id).is_some()
    }

    /// Wraps every handler, present and future, in a middleware. The first one added is the
    /// outermost.
    /// Handlers of the system are not wrapped.
    pub fn wrap(&self, middleware: impl Middleware) {
        let mut registry = self.handle.shared.registry.write();
        let added: Arc<dyn Middleware> = Arc::new(middleware);
        registry.middleware = registry.middleware.iter().cloned().chain([added]).collect();
    }
}

/// A handler that is about to be registered. See [`Node::on`].
#[must_use = "nothing is registered until request, tick or raw is called"]
pub struct On<'a> {
    node: &'a Node,
    pattern: Result<Pattern, InvalidPattern>,
    order: Order,
    system: bool,
    needs: Role,
}

impl On<'_> {
    /// Starts messages of one peer in order but lets them run side by side, at most `max` at once
    /// for this handler. Beyond that requests are refused with `BUSY` and ticks are counted.
    pub fn concurrent(mut self, max: usize) -> Self {
        self.order = Order::Concurrent { running: Arc::new(AtomicUsize::new(0)), max };
        self
    }

    /// Handles requests with payloads of the handler's own types.
    ///
    /// # Errors
    ///
    /// [`RegisterError`]: nothing was registered.
    pub fn request<P, R, E, F, Fut>(self, handler: F) -> Result<HandlerId, RegisterError>
    where
        F: Fn(Peer, P) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, E>> + Send + 'static,
        P: DeserializeOwned + Send + 'static,
        R: Serialize + Send + 'static,
        E: Into<HandlerError> + Send + 'static,
    {
        self.register(Verb::Request, handler::typed_request(handler))
    }

    /// Handles ticks with payloads of the handler's own type.
    ///
    /// # Errors
    ///
    /// [`RegisterError`]: nothing was registered.
    pub fn tick<P, F, Fut>(self, handler: F) -> Result<HandlerId, RegisterError>
    where
        F: Fn(Peer, P) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
        P: DeserializeOwned + Send + 'static,
    {
        self.register(Verb::Tick, handler::typed_tick(handler))
    }

    /// Handles requests as bytes; the reply is sent as raw bytes.
    ///
    /// # Errors
    ///
    /// [`RegisterError`]: nothing was registered.
    pub fn request_raw<F, Fut>(self, handler: F) -> Result<HandlerId, RegisterError>
    where
        F: Fn(Call) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Bytes, HandlerError>> + Send + 'static,
    {
        self.register(Verb::Request, handler::raw(handler))
    }

    /// Handles requests as they arrive; the handler says how its reply is encoded.
    ///
    /// # Errors
    ///
    /// [`RegisterError`]: nothing was registered.
    pub fn request_call<F, Fut>(self, handler: F) -> Result<HandlerId, RegisterError>
    where
        F: Fn(Call) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Outcome> + Send + 'static,
    {
        self.register(Verb::Request, Arc::new(move |call| Box::pin(handler(call))))
    }

    /// Handles ticks as bytes.
    ///
    /// # Errors
    ///
    /// [`RegisterError`]: nothing was registered.
    pub fn tick_raw<F, Fut>(self, handler: F) -> Result<HandlerId, RegisterError>
    where
        F: Fn(Call) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Bytes, HandlerError>> + Send + 'static,
    {
        self.register(Verb::Tick, handler::raw(handler))
    }

    fn register(self, verb: Verb, call: HandlerFn) -> Result<HandlerId, RegisterError> {
        let pattern = self.pattern?;
        if pattern.as_str().starts_with('_') && !self.system {
            return Err(RegisterError::System { pattern: pattern.as_str().to_owned() });
        }
        let handler = Handler { call, order: self.order, needs: self.needs };
        let mut registry = self.node.handle.shared.registry.write();
        let table = match self.system {
            true => &mut registry.system,
            false => &mut registry.handlers,
        };
        Ok(table.insert(verb, pattern, handler)?)
    }
}

/// Why a handler was not registered.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// The pattern is malformed.
    #[error(transparent)]
    Pattern(#[from] InvalidPattern),
    /// Subjects that begin with `_` belong to the system.
    #[error("pattern {pattern:?} belongs to the system")]
    System {
        /// The pattern.
        pattern: String,
    },
    /// Another request handler has this very pattern.
    #[error(transparent)]
    Taken(#[from] AlreadyRegistered),
}

impl fmt::Debug for On<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("On").field("pattern", &self.pattern).finish_non_exhaustive()
    }
}
