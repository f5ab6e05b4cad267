//! The envelope: a fixed header, a subject, a payload; one ZeroMQ frame.

use std::time::Duration;

use bytes::Bytes;

use crate::id::{Incarnation, RequestId};

/// What an envelope is for. System kinds are below 16.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum Kind {
    /// [`super::system::System::Hello`].
    Hello = 1,
    /// [`super::system::System::Welcome`].
    Welcome = 2,
    /// [`super::system::System::Refuse`].
    Refuse = 3,
    /// [`super::system::System::HelloAgain`].
    HelloAgain = 4,
    /// [`super::system::System::Ping`].
    Ping = 5,
    /// [`super::system::System::Pong`].
    Pong = 6,
    /// [`super::system::System::Goodbye`].
    Goodbye = 7,
    /// [`super::system::System::Labels`].
    Labels = 8,
    /// [`super::system::System::Peers`].
    Peers = 9,
    /// A request that wants a reply.
    Request = 16,
    /// The reply of a handler.
    Reply = 17,
    /// The refusal of a request: `code` says why, the payload is a UTF-8 message for people.
    Error = 18,
    /// A one-way message.
    Tick = 19,
}

/// How the payload is encoded.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Format {
    /// One MessagePack value.
    #[default]
    MessagePack,
    /// Bytes that only the application understands.
    Raw,
}

/// A message between two nodes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Envelope {
    /// What it is for.
    pub kind: Kind,
    /// How the payload is encoded.
    pub format: Format,
    /// For [`Kind::Error`]: the number of an [`ErrorCode`](crate::ErrorCode). Otherwise 0.
    pub code: u16,
    /// Counts the envelopes sent on one link in one direction, from 0, wrapping: a hole is a loss.
    pub sequence: u32,
    /// Which request this is or answers; [`RequestId::NONE`] for the rest.
    pub request: RequestId,
    /// The sender's incarnation.
    pub from: Incarnation,
    /// The incarnation this is meant for; [`Incarnation::UNKNOWN`] before the handshake.
    pub to: Incarnation,
    /// For [`Kind::Request`] and [`Kind::Tick`]: time left at sending, in whole milliseconds on
    /// the wire, rounded up; none for no limit.
    pub time_left: Option<Duration>,
    /// What it is addressed to; empty unless a request or a tick.
    pub subject: Subject,
    /// Up to the payload limit.
    pub payload: Bytes,
}

/// A subject: up to 255 bytes of dotted words, such as `math.sum`.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Subject(Bytes);
