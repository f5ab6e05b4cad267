//! One connection: its socket, what was received and not taken, what is to be written.
//!
//! Messages of one turn are written with one call; one call reads whatever has come. Small bodies
//! are copied together, large ones are shared.
//!
//! Shell: reads and writes a socket; time enters as `now`.
//! Invariants: the buffers grow with what was received, not with what a peer announces; a peer
//! that does not read costs at most the limits of its queue.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};

use super::curve::Curve;
use super::socket::Stream;
use super::wire::{self, Codec, Item, Role, WireError};
use crate::keys::PublicKey;
use crate::transport::{LinkId, Options, RoutingId, SendError};

/// How long a handshake may take, so that silent connections do not pile up.
const HANDSHAKE: Duration = Duration::from_secs(3);
/// Time between pings, which find a cut cable, not a stuck peer.
const PING: Duration = Duration::from_secs(1);
/// How long nothing may come from a peer that was pinged: no shorter than the usual ghost timeout,
/// or a runtime that is held up by a handler would lose its connections before its peers.
const SILENCE: Duration = Duration::from_secs(10);
/// Room for one read.
const READ_BYTES: usize = 64 * 1024;
/// Room for one read while the peer is a stranger.
const READ_BYTES_EARLY: usize = 512;
/// Bodies up to here are copied into one piece with others.
const COPIED_BYTES_MAX: usize = 8 * 1024;
/// Pieces of one write.
const SLICES_MAX: usize = 32;

/// Whose a connection is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Owner {
    Link(LinkId),
    Listener,
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum Loss {
    #[error("the peer closed it")]
    Closed,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("its key is not allowed")]
    Key,
    #[error("nothing was heard for too long")]
    Silence,
    #[error("its name is taken by another connection")]
    Taken,
    #[error("the peer broke the protocol: {0}")]
    Wire(#[from] WireError),
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) owner: Owner,
    /// The peer's name, if it dialed us and said it.
    pub(super) peer: Option<RoutingId>,
    pub(super) established: bool,
    /// The key that a peer which dialed us has proved to have.
    pub(super) key: Option<PublicKey>,
    /// Whether the caller was told that the queue is full.
    pub(super) full: bool,
    /// Whether it is among those that have something to write.
    pub(super) unflushed: bool,
    pub(super) since: Instant,
    /// Where the peer was when it came, if it is on a network.
    pub(super) ip: Option<IpAddr>,
    stream: Stream,
    codec: Codec,
    waker: Waker,
    input: BytesMut,
    output: VecDeque<Bytes>,
    /// The last piece of the output, which may grow.
    tail: BytesMut,
    /// Where the queued messages end, counted in bytes from the start of the connection.
    ends: VecDeque<u64>,
    queued: u64,
    written: u64,
    broken: Option<io::Error>,
    heard: Instant,
    /// Whether it was silent for too long at the last look, which may be for want of reading.
    suspect: bool,
    pinged: Instant,
}

impl Connection {
    /// A connection whose handshake begins.
    pub(super) fn new(
        stream: Stream,
        owner: Owner,
        role: Role,
        curve: Option<Curve>,
        options: &Options,
        waker: Waker,
        now: Instant,
    ) -> Self {
        let mut tail = BytesMut::new();
        let mut codec = Codec::new(role, curve, options.message_bytes_max);
        let broken = codec.put_hello(&mut tail).err().map(io::Error::other);
        Self {
            owner,
            peer: None,
            established: false,
            key: None,
            full: false,
            unflushed: false,
            since: now,
            ip: stream.ip(),
            stream,
            codec,
            waker,
            input: BytesMut::new(),
            output: VecDeque::new(),
            queued: tail.len() as u64,
            tail,
            ends: VecDeque::new(),
            written: 0,
            broken,
            heard: now,
            suspect: false,
            pinged: now,
        }
    }

    /// Puts one message into the queue.
    pub(super) fn send(&mut self, message: &Bytes, options: &Options) -> Result<(), SendError> {
        if !self.established || self.broken.is_some() {
            return Err(SendError::NotConnected);
        }
        if !self.has_room(options) {
            self.flush();
            if self.broken.is_some() {
                return Err(SendError::NotConnected);
            }
            if !self.has_room(options) {
                self.full = true;
                return Err(SendError::Full);
            }
        }
        self.put(message);
        self.ends.push_back(self.queued);
        Ok(())
    }

    fn put(&mut self, message: &Bytes) {
        if self.codec.is_encrypted() {
            return self.control(|codec, output| codec.put_boxed(message, output));
        }
        self.control(|_, output| {
            wire::put_message_head(message.len(), output);
            Ok(())
        });
        if message.len() <= COPIED_BYTES_MAX {
            self.tail.extend_from_slice(message);
        } else {
            self.seal();
            self.output.push_back(message.clone());
        }
        self.queued += message.len() as u64;
    }

    /// Whether it encrypts.
    pub(super) fn is_encrypted(&self) -> bool {
        self.codec.is_encrypted()
    }

    /// Where the peer is.
    pub(super) fn place(&self) -> String {
        self.stream.peer()
    }

    /// Writes a step of the handshake.
    pub(super) fn say(&mut self, step: &[u8]) {
        self.control(|_, output| {
            output.extend_from_slice(step);
            Ok(())
        });
    }

    /// Lets in a peer with this key, or not.
    pub(super) fn judge(&mut self, key: PublicKey, allowed: bool) -> Result<(), Loss> {
        if !allowed {
            self.say(&wire::refusal());
            self.flush();
            return Err(Loss::Key);
        }
        let ready = self.codec.admit()?;
        self.say(&ready);
        self.key = Some(key);
        Ok(())
    }

    fn has_room(&self, options: &Options) -> bool {
        let messages_max = usize::try_from(options.queue_messages_max.max(1)).unwrap_or(usize::MAX);
        // One message always fits, however large.
        let bytes = self.queued - self.written;
        self.ends.is_empty()
            || (self.ends.len() < messages_max && bytes <= options.message_bytes_max as u64)
    }

    /// Whether a look at it will find something, of which no waker tells.
    pub(super) fn needs_turn(&self, options: &Options) -> bool {
        self.broken.is_some() || self.is_writable_again(options)
    }

    /// Ends it at its next turn, for silence.
    pub(super) fn end(&mut self) {
        self.broken = Some(io::Error::from(io::ErrorKind::TimedOut));
    }

    /// Whether a route that was full has enough room that trying again is worth it.
    pub(super) fn is_writable_again(&self, options: &Options) -> bool {
        let half = usize::try_from(options.queue_messages_max / 2).unwrap_or(usize::MAX);
        self.full && self.ends.len() <= half && self.has_room(options)
    }

    /// Ends the last piece of the output.
    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.output.push_back(self.tail.split().freeze());
        }
    }

    /// Writes until all is written or there is no room; the waker is registered then.
    pub(super) fn flush(&mut self) {
        self.seal();
        while self.broken.is_none() && !self.output.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let mut count = 0;
            for (slice, piece) in slices.iter_mut().zip(&self.output) {
                *slice = IoSlice::new(piece);
                count += 1;
            }
            let mut cx = Context::from_waker(&self.waker);
            match self.stream.poll_write(&mut cx, &slices[..count]) {
                Poll::Pending => return,
                Poll::Ready(Ok(bytes)) => self.advance(bytes),
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                // What the peer sent before it left may still be read.
                Poll::Ready(Err(error)) => self.broken = Some(error),
            }
        }
    }

    fn advance(&mut self, mut bytes: usize) {
        self.written += bytes as u64;
        while let Some(piece) = self.output.front_mut() {
            if bytes < piece.len() {
                piece.advance(bytes);
                break;
            }
            bytes -= piece.len();
            self.output.pop_front();
        }
        while self.ends.front().is_some_and(|end| *end <= self.written) {
            self.ends.pop_front();
        }
    }

    /// The next item of the peer; `None` when there is nothing, and the waker is registered.
    pub(super) fn receive(&mut self, now: Instant) -> Result<Option<Item>, Loss> {
        loop {
            if let Some(item) = self.codec.decode(&mut self.input)? {
                return Ok(Some(item));
            }
            self.make_room();
            let mut cx = Context::from_waker(&self.waker);
            match self.stream.poll_read(&mut cx, &mut self.input) {
                Poll::Ready(Ok(0)) => return Err(Loss::Closed),
                Poll::Ready(Ok(_)) => (self.heard, self.suspect) = (now, false),
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Poll::Ready(Err(error)) => return Err(error.into()),
                Poll::Pending => return self.broken.take().map_or(Ok(None), |e| Err(e.into())),
            }
        }
    }

    /// Makes room for one read: as much as is missing, but no more than has come already.
    fn make_room(&mut self) {
        let least = if self.established { READ_BYTES } else { READ_BYTES_EARLY };
        let missing = self.codec.wanted().saturating_sub(self.input.len());
        let wanted = missing.min(self.input.len()).max(least / 4);
        if self.input.capacity() - self.input.len() < wanted {
            self.input.reserve(wanted.max(least));
        }
    }

    /// Answers a ping, unless the peer does not read: what waits for it says that we live.
    pub(super) fn pong(&mut self, context: &[u8]) {
        if self.output.is_empty() {
            self.control(|codec, output| codec.put_pong(context, output));
        }
    }

    fn control(&mut self, put: impl FnOnce(&mut Codec, &mut BytesMut) -> Result<(), WireError>) {
        let before = self.tail.len();
        if let Err(error) = put(&mut self.codec, &mut self.tail) {
            self.broken = Some(io::Error::other(error));
        }
        self.queued += (self.tail.len() - before) as u64;
    }

    /// Looks at the deadlines, and pings. The caller reads and writes before the next look.
    pub(super) fn tick(&mut self, now: Instant) -> Result<(), Loss> {
        let limit = if self.established { SILENCE } else { HANDSHAKE };
        let from = if self.established { self.heard } else { self.since };
        // A process that was halted finds everybody silent, and has to read first.
        if now.duration_since(from) >= limit && std::mem::replace(&mut self.suspect, true) {
            return Err(Loss::Silence);
        }
        if !self.established || now.duration_since(self.pinged) < PING {
            return Ok(());
        }
        self.pinged = now;
        // A peer that does not read gets no pile of pings.
        if self.output.is_empty() {
            let tenths = u16::try_from(SILENCE.as_millis() / 100).expect("a few seconds");
            self.control(|codec, output| codec.put_ping(tenths, output));
        }
        Ok(())
    }
}
