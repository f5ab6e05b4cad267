//! The wire of ZMTP 3.1, as far as a ROUTER and a DEALER need it, in clear text (NULL) or encrypted
//! (CURVE, see [`curve`](super::curve)).
//!
//! Everything that a peer sends is hostile until it is checked: lengths are compared with their
//! limits before a byte is waited for, and nothing is kept of a message that has several frames.
//! The protocol is specified in <https://rfc.zeromq.org/spec/37/>.
//!
//! Pure: bytes enter in a buffer, items leave it.
//! Invariant: no message comes out before the peer has said what it is.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::curve::{Broken, Curve, MESSAGE_OVERHEAD, REFUSAL};
use crate::keys::PublicKey;
use crate::transport::RoutingId;

/// Bytes of a greeting.
pub(super) const GREETING_BYTES: usize = 64;
/// The most bytes of a command. Those of ours and of libzmq have less than 100.
pub(super) const COMMAND_BYTES_MAX: usize = 1024;
/// The most bytes of a ping's context, by the specification.
const CONTEXT_BYTES_MAX: usize = 16;
/// From here on a received body is not copied. A smaller one would keep a whole buffer alive.
const ZERO_COPY_BYTES: usize = 4096;

const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;
/// Within a box, a command has another flag.
const BOXED_COMMAND: u8 = 2;

/// Which end of a connection we are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Role {
    /// A DEALER of this name.
    Dialer(RoutingId),
    /// A ROUTER.
    Listener,
}

impl Role {
    fn socket_type(self) -> &'static [u8] {
        match self {
            Self::Dialer(_) => b"DEALER",
            Self::Listener => b"ROUTER",
        }
    }

    fn peer_socket_type(self) -> &'static [u8] {
        match self {
            Self::Dialer(_) => b"ROUTER",
            Self::Listener => b"DEALER",
        }
    }
}

/// What came out of the bytes of a peer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Item {
    /// The handshake is done. A dialer has a name.
    Established(Option<RoutingId>),
    /// A message of more than one frame, which was dropped.
    Malformed,
    /// A message.
    Message(Bytes),
    /// A ping, to be answered with this context.
    Ping(Bytes),
    /// A dialer of this name has proved to have this key, and waits to be [let
    /// in](Codec::admit).
    Proved(PublicKey, RoutingId),
    /// A step of the handshake, to be written.
    Say(Bytes),
    /// A command that asks for nothing.
    Other,
}

/// Why a connection must end.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum WireError {
    #[error("it does not speak ZMTP")]
    Signature,
    #[error("it speaks ZMTP {0}, and 3 is needed")]
    Version(u8),
    #[error("one of both ends asks for a key, and the other has none")]
    Mechanism,
    #[error(transparent)]
    Curve(#[from] Broken),
    #[error("a frame has the unknown flags {0:#04x}")]
    Flags(u8),
    #[error("a frame of {bytes} bytes is over the limit of {max}")]
    TooLarge { bytes: u64, max: usize },
    #[error("a command is malformed")]
    Command,
    #[error("a message or command came before the handshake was done")]
    Early,
    #[error("its socket is of a type that cannot talk to ours")]
    SocketType,
    #[error("its routing id is not one of a mesh")]
    RoutingId,
    #[error("it refused the handshake")]
    Refused,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Greeting,
    Ready,
    Traffic,
}

/// Takes the bytes of one peer apart, and puts together what it is told.
#[derive(Debug)]
pub(super) struct Codec {
    role: Role,
    /// What encrypts; none in clear text.
    curve: Option<Box<Curve>>,
    state: State,
    message_bytes_max: usize,
    /// Whether the frames so far belong to a message of several.
    skipping: bool,
    /// Bytes that the next item needs at least, for the reader to make room.
    wanted: usize,
}

impl Codec {
    /// For a connection of which nothing was received.
    pub(super) fn new(role: Role, curve: Option<Curve>, message_bytes_max: usize) -> Self {
        let (state, curve, wanted) = (State::Greeting, curve.map(Box::new), GREETING_BYTES);
        Self { role, curve, state, message_bytes_max, skipping: false, wanted }
    }

    /// Whether it encrypts.
    pub(super) fn is_encrypted(&self) -> bool {
        self.curve.is_some()
    }

    /// Bytes that the buffer must have before there can be another item.
    pub(super) fn wanted(&self) -> usize {
        self.wanted
    }

    /// Takes the next item from `input`; `None` when it needs more bytes.
    ///
    /// # Errors
    ///
    /// [`WireError`]: nothing of this connection can be understood any more.
    pub(super) fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Item>, WireError> {
        if self.state == State::Greeting {
            if !self.greeting(input)? {
                return Ok(None);
            }
            self.state = State::Ready;
        }
        let Some((flags, body)) = self.frame(input)? else { return Ok(None) };
        let (flags, body) = match (&mut self.curve, self.state) {
            (Some(curve), State::Traffic) => match (flags & !LONG, curve.open(body)?) {
                (0, (flags, body)) if flags & BOXED_COMMAND != 0 => (COMMAND, body),
                (0, (flags, body)) => (flags & MORE, body),
                (flags, _) => return Err(WireError::Flags(flags)),
            },
            (_, _) => (flags, body.freeze()),
        };
        if flags & COMMAND != 0 {
            return self.command(&body).map(Some);
        }
        let several = self.skipping || flags & MORE != 0;
        self.skipping = flags & MORE != 0;
        Ok(Some(match (several, self.skipping) {
            (false, _) => Item::Message(body),
            (true, true) => Item::Other,
            (true, false) => Item::Malformed,
        }))
    }

    fn greeting(&mut self, input: &mut BytesMut) -> Result<bool, WireError> {
        // Garbage is seen at its first byte, not when enough of it has come.
        let wrong =
            |at: usize, is_wrong: fn(u8) -> bool| input.get(at).is_some_and(|b| is_wrong(*b));
        if wrong(0, |byte| byte != 0xff) || wrong(9, |byte| byte & 1 == 0) {
            return Err(WireError::Signature);
        }
        if let Some(major) = input.get(10).filter(|major| **major < 3) {
            return Err(WireError::Version(*major));
        }
        if input.len() < GREETING_BYTES {
            return Ok(false);
        }
        if input[12..32] != self.mechanism() {
            return Err(WireError::Mechanism);
        }
        input.advance(GREETING_BYTES);
        Ok(true)
    }

    /// Takes one whole frame.
    fn frame(&mut self, input: &mut BytesMut) -> Result<Option<(u8, BytesMut)>, WireError> {
        self.wanted = 2;
        let Some(&flags) = input.first() else { return Ok(None) };
        if flags & !(MORE | LONG | COMMAND) != 0 || flags & (MORE | COMMAND) == MORE | COMMAND {
            return Err(WireError::Flags(flags));
        }
        let is_command = flags & COMMAND != 0;
        if !is_command && self.state == State::Ready {
            return Err(WireError::Early);
        }
        let head = if flags & LONG != 0 { 9 } else { 2 };
        self.wanted = head;
        if input.len() < head {
            return Ok(None);
        }
        let mut length = &input[1..head];
        let bytes = if head == 9 { length.get_u64() } else { u64::from(length.get_u8()) };
        let extra = if self.curve.is_some() { MESSAGE_OVERHEAD } else { 0 };
        let message_max = self.message_bytes_max.saturating_add(extra);
        let max = if is_command { COMMAND_BYTES_MAX } else { message_max };
        let Some(body) = usize::try_from(bytes).ok().filter(|body| *body <= max) else {
            return Err(WireError::TooLarge { bytes, max });
        };
        self.wanted = head.saturating_add(body);
        if input.len() < self.wanted {
            return Ok(None);
        }
        input.advance(head);
        self.wanted = 2;
        if body < ZERO_COPY_BYTES {
            let copy = BytesMut::from(&input[..body]);
            input.advance(body);
            return Ok(Some((flags, copy)));
        }
        Ok(Some((flags, input.split_to(body))))
    }

    fn command(&mut self, body: &Bytes) -> Result<Item, WireError> {
        let name_end = 1 + usize::from(*body.first().ok_or(WireError::Command)?);
        let name = body.get(1..name_end).ok_or(WireError::Command)?;
        let rest = body.slice(name_end..);
        if self.state == State::Ready && name != b"ERROR" && self.curve.is_some() {
            return self.curve_command(name, body);
        }
        match (self.state, name) {
            (State::Greeting | State::Ready, b"READY") => {
                let name = self.introduced(&rest)?;
                self.state = State::Traffic;
                Ok(Item::Established(name))
            }
            (_, b"ERROR") => Err(WireError::Refused),
            (State::Greeting | State::Ready, _) => Err(WireError::Early),
            (State::Traffic, b"PING") => match rest.len() {
                2.. if rest.len() <= 2 + CONTEXT_BYTES_MAX => Ok(Item::Ping(rest.slice(2..))),
                _ => Err(WireError::Command),
            },
            (State::Traffic, _) => Ok(Item::Other),
        }
    }

    /// A command of the handshake of CURVE.
    fn curve_command(&mut self, name: &[u8], body: &Bytes) -> Result<Item, WireError> {
        let metadata = self.metadata();
        let curve = self.curve.as_mut().ok_or(WireError::Early)?;
        let mut said = BytesMut::new();
        match (self.role, name) {
            (Role::Dialer(_), b"WELCOME") => curve.initiate(body, &metadata, &mut said)?,
            (Role::Dialer(_), b"READY") => {
                let properties = curve.finish(body)?;
                self.introduced(&properties)?;
                self.state = State::Traffic;
                return Ok(Item::Established(None));
            }
            (Role::Listener, b"HELLO") => curve.welcome(body, &mut said)?,
            (Role::Listener, b"INITIATE") => {
                let (key, properties) = curve.prove(body)?;
                let name = self.introduced(&properties)?.ok_or(WireError::RoutingId)?;
                return Ok(Item::Proved(key, name));
            }
            (Role::Dialer(_) | Role::Listener, _) => return Err(WireError::Early),
        }
        Ok(Item::Say(command(&said)))
    }

    /// Lets in who has [proved](Item::Proved) to have a key; returns what is to be written.
    pub(super) fn admit(&mut self) -> Result<Bytes, WireError> {
        let metadata = self.metadata();
        let curve = self.curve.as_mut().ok_or(WireError::Early)?;
        let mut said = BytesMut::new();
        curve.ready(&metadata, &mut said)?;
        self.state = State::Traffic;
        Ok(command(&said))
    }

    /// What a peer says of itself: its name, if it has one.
    fn introduced(&self, mut properties: &[u8]) -> Result<Option<RoutingId>, WireError> {
        let (mut socket_type, mut identity) = (None, None);
        while !properties.is_empty() {
            let name = usize::from(properties.get_u8());
            let name = take(&mut properties, name)?;
            let value = properties.try_get_u32().map_err(|_| WireError::Command)?;
            let value = take(&mut properties, usize::try_from(value).unwrap_or(usize::MAX))?;
            match name.to_ascii_lowercase().as_slice() {
                b"socket-type" => socket_type = Some(value),
                b"identity" => identity = Some(value),
                _ => {}
            }
        }
        if socket_type != Some(self.role.peer_socket_type()) {
            return Err(WireError::SocketType);
        }
        let name = identity.and_then(RoutingId::from_wire);
        if self.role == Role::Listener && name.is_none() {
            return Err(WireError::RoutingId);
        }
        Ok(name)
    }

    // ---- what is written -------------------------------------------------------------------

    /// Writes what a connection begins with: the greeting, and the first that there is to say.
    pub(super) fn put_hello(&mut self, output: &mut BytesMut) -> Result<(), WireError> {
        output.put_slice(&[0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0x7f, 3, 1]);
        output.put_slice(&self.mechanism());
        output.put_u8(u8::from(self.curve.is_some() && self.role == Role::Listener));
        output.put_bytes(0, 31);
        match (&mut self.curve, self.role) {
            (None, _) => put_command(b"READY", &self.metadata(), output),
            (Some(curve), Role::Dialer(_)) => {
                let mut hello = BytesMut::new();
                curve.hello(&mut hello)?;
                output.put_slice(&command(&hello));
            }
            (Some(_), Role::Listener) => {}
        }
        Ok(())
    }

    /// Writes a message of one frame into a box; for those who encrypt.
    pub(super) fn put_boxed(
        &mut self,
        message: &[u8],
        out: &mut BytesMut,
    ) -> Result<(), WireError> {
        self.put_box(0, &[message], out)
    }

    /// Writes a ping after which the peer may end the connection if it hears nothing for `ttl`, in
    /// tenths of a second.
    pub(super) fn put_ping(&mut self, ttl: u16, output: &mut BytesMut) -> Result<(), WireError> {
        self.put_control(b"PING", &ttl.to_be_bytes(), output)
    }

    /// Writes the answer to a ping.
    pub(super) fn put_pong(&mut self, context: &[u8], out: &mut BytesMut) -> Result<(), WireError> {
        self.put_control(b"PONG", context, out)
    }

    fn put_control(
        &mut self,
        name: &[u8],
        rest: &[u8],
        output: &mut BytesMut,
    ) -> Result<(), WireError> {
        if self.curve.is_none() {
            put_command(name, rest, output);
            return Ok(());
        }
        let length = [u8::try_from(name.len()).expect("names are short")];
        self.put_box(BOXED_COMMAND, &[&length, name, rest], output)
    }

    fn put_box(
        &mut self,
        flags: u8,
        parts: &[&[u8]],
        output: &mut BytesMut,
    ) -> Result<(), WireError> {
        let curve = self.curve.as_mut().ok_or(WireError::Early)?;
        let bytes = parts.iter().map(|part| part.len()).sum();
        put_head(0, Curve::sealed_bytes(bytes), output);
        Ok(curve.seal(flags, parts, output)?)
    }

    /// Who we are.
    fn metadata(&self) -> BytesMut {
        let identity: &[u8] = match &self.role {
            Role::Dialer(id) => &id.0,
            Role::Listener => &[],
        };
        let mut metadata = BytesMut::with_capacity(64);
        let socket_type = self.role.socket_type();
        for (name, value) in [(&b"Socket-Type"[..], socket_type), (b"Identity", identity)] {
            put_short(name, &mut metadata);
            metadata.put_u32(u32::try_from(value.len()).expect("a few bytes"));
            metadata.put_slice(value);
        }
        metadata
    }

    fn mechanism(&self) -> [u8; 20] {
        let name: &[u8] = if self.curve.is_some() { b"CURVE" } else { b"NULL" };
        let mut padded = [0; 20];
        padded[..name.len()].copy_from_slice(name);
        padded
    }
}

/// What tells a dialer that its key is not allowed.
pub(super) fn refusal() -> Bytes {
    command(REFUSAL)
}

/// The frame of a whole command.
fn command(content: &[u8]) -> Bytes {
    let mut output = BytesMut::with_capacity(content.len() + 9);
    put_head(COMMAND, content.len(), &mut output);
    output.put_slice(content);
    output.freeze()
}

fn take<'a>(from: &mut &'a [u8], bytes: usize) -> Result<&'a [u8], WireError> {
    let (taken, rest) = from.split_at_checked(bytes).ok_or(WireError::Command)?;
    *from = rest;
    Ok(taken)
}

fn put_command(name: &[u8], rest: &[u8], output: &mut BytesMut) {
    put_head(COMMAND, 1 + name.len() + rest.len(), output);
    put_short(name, output);
    output.put_slice(rest);
}

/// Writes what stands before the body of a message of one frame.
pub(super) fn put_message_head(bytes: usize, output: &mut BytesMut) {
    put_head(0, bytes, output);
}

fn put_head(flags: u8, bytes: usize, output: &mut BytesMut) {
    if let Ok(bytes) = u8::try_from(bytes) {
        output.put_slice(&[flags, bytes]);
    } else {
        output.put_u8(flags | LONG);
        output.put_u64(bytes as u64);
    }
}

fn put_short(name: &[u8], output: &mut BytesMut) {
    output.put_u8(u8::try_from(name.len()).expect("names are short"));
    output.put_slice(name);
}

#[cfg(test)]
mod tests;
