//! Answers libzmq's question whom to let in (ZeroMQ RFC 27/ZAP).
//!
//! libzmq asks once per connection, after the dialer has proved to have its key, over a socket of
//! a well-known name in the listener's context. Without that socket it would let everybody in, so
//! it is bound before the listener is and closed after it. The answer names the key, and libzmq
//! repeats it with each message of the connection.

use std::sync::Arc;
use std::task::Waker;

use super::readiness::{Watched, again_if_interrupted};
use crate::keys::{AllowList, PublicKey, Role};
use crate::transport::complaint::Complaint;

/// Where libzmq asks.
const ENDPOINT: &str = "inproc://zeromq.zap.01";
const VERSION: &[u8] = b"1.0";

/// Who answers.
pub(super) struct Zap {
    socket: Watched,
    allowed: Arc<AllowList>,
    complaint: Complaint,
}

impl Zap {
    /// Answers for the listeners of `context`.
    pub(super) fn bind(context: &::zmq::Context, allowed: Arc<AllowList>) -> Result<Self, String> {
        let socket = context.socket(::zmq::REP).map_err(|error| error.to_string())?;
        socket.set_linger(0).map_err(|error| error.to_string())?;
        socket.bind(ENDPOINT).map_err(|error| error.to_string())?;
        let socket = Watched::new(socket).map_err(|error| error.to_string())?;
        Ok(Self { socket, allowed, complaint: Complaint::default() })
    }

    /// Lets these in from now on. Connections that stand are not closed by it.
    pub(super) fn allow(&mut self, allowed: Arc<AllowList>) {
        self.allowed = allowed;
    }

    /// Registers `waker` for the next question.
    pub(super) fn arm(&mut self, waker: &Waker) {
        self.socket.arm(waker);
    }

    /// Answers one question, if there is one; says whether there was.
    pub(super) fn answer(&mut self) -> bool {
        if !self.socket.dirty {
            return false;
        }
        let socket = self.socket.socket();
        let Ok(question) = again_if_interrupted(|| socket.recv_multipart(::zmq::DONTWAIT)) else {
            self.socket.dirty = false;
            return false;
        };
        let (code, text, user) = match self.admit(&question) {
            Ok(key) => ("200", "OK", key.to_string()),
            Err(text) => ("400", text, String::new()),
        };
        let id = question.get(1).map_or(&[][..], Vec::as_slice);
        let answer = [VERSION, id, code.as_bytes(), text.as_bytes(), user.as_bytes(), b""];
        if let Err(error) = self.socket.socket().send_multipart(answer, ::zmq::DONTWAIT) {
            tracing::error!(%error, "a handshake got no answer and will time out");
        }
        true
    }

    /// Version, request, domain, address, routing id, mechanism, key.
    fn admit(&mut self, question: &[Vec<u8>]) -> Result<PublicKey, &'static str> {
        let [version, _, _, address, _, mechanism, key] = question else {
            return Err("not a question");
        };
        if version != VERSION || mechanism != b"CURVE" {
            return Err("CURVE only");
        }
        let key = PublicKey::from_bytes(key).map_err(|_| "not a key")?;
        match self.allowed.role(&key) > Role::Revoked {
            true => Ok(key),
            false => {
                let address = String::from_utf8_lossy(address);
                self.complaint.of_key(&address, key, &self.allowed);
                Err("the key is not allowed")
            }
        }
    }
}
