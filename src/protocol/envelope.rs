//! The envelope: a fixed header, a subject, a payload. A [frame](super::frame) has one or several.
//!
//! Everything two nodes say to each other is one envelope. The header is parsed by hand, because
//! it is the first thing a stranger's bytes meet: every field is checked before it is used, and
//! what breaks a rule becomes an [`EnvelopeError`], never a panic and never an allocation.
//! `docs/WIRE.md` has the same layout for readers who write another implementation.
//!
//! ```text
//!  0 magic "ZM"   2 version   3 kind   4 flags   5 subject bytes   6 code
//!  8 crc32c                           12 sequence
//! 16 request                          24 from
//! 32 to                               40 time left, ms   44 payload bytes
//! 48 sent at, ms
//! 52 subject, then payload, then the end of the frame
//! ```
//!
//! Pure: bytes in, bytes out.
//! Invariant: what [`Outgoing::encode`] makes of valid parts, [`Envelope::decode`] takes apart
//! again, and no two frames decode to the same envelope.

use std::time::Duration;

use bytes::{Buf, Bytes};

use super::system::PROTOCOL_VERSION;
use crate::id::{Incarnation, RequestId};

mod subject;

pub use subject::{InvalidSubject, SUBJECT_BYTES_MAX, Subject};

/// Bytes of the header, before subject and payload.
pub const HEADER_BYTES: usize = 52;

const MAGIC: [u8; 2] = *b"ZM";
const CHECKSUM_AT: usize = 8;
const CHECKSUM_BYTES: usize = 4;
const FLAG_RAW: u8 = 1;

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

impl Kind {
    /// Every kind, in the order of their numbers.
    pub const ALL: &[Self] = &[
        Self::Hello,
        Self::Welcome,
        Self::Refuse,
        Self::HelloAgain,
        Self::Ping,
        Self::Pong,
        Self::Goodbye,
        Self::Labels,
        Self::Peers,
        Self::Request,
        Self::Reply,
        Self::Error,
        Self::Tick,
    ];

    /// The number on the wire.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The kind with this number, if there is one.
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Hello,
            2 => Self::Welcome,
            3 => Self::Refuse,
            4 => Self::HelloAgain,
            5 => Self::Ping,
            6 => Self::Pong,
            7 => Self::Goodbye,
            8 => Self::Labels,
            9 => Self::Peers,
            16 => Self::Request,
            17 => Self::Reply,
            18 => Self::Error,
            19 => Self::Tick,
            _ => return None,
        })
    }

    /// Whether nodes say this about themselves, rather than on behalf of an application.
    pub const fn is_system(self) -> bool {
        self.number() < Self::Request.number()
    }

    /// Whether the envelope is addressed to a handler and so has a subject and a time limit.
    pub const fn is_addressed(self) -> bool {
        matches!(self, Self::Request | Self::Tick)
    }

    /// Whether the envelope is a request or answers one.
    pub const fn has_request(self) -> bool {
        matches!(self, Self::Request | Self::Reply | Self::Error)
    }
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
    /// Milliseconds on the sender's clock when it was sent, wrapping. The clocks of two nodes have
    /// nothing in common, but their difference tells how long this was on its way beyond usual.
    pub sent_ms: u32,
    /// What it is addressed to; empty unless a request or a tick.
    pub subject: Subject,
    /// Up to the payload limit.
    pub payload: Bytes,
}

impl Envelope {
    /// Encodes the envelope as one frame. See [`Outgoing::encode`].
    ///
    /// # Panics
    ///
    /// If the payload has 4 GiB or more; callers check [`Limits`] first.
    pub fn encode(&self) -> Bytes {
        self.as_outgoing().encode()
    }

    /// The parts of this envelope, borrowed.
    pub fn as_outgoing(&self) -> Outgoing<'_> {
        Outgoing {
            kind: self.kind,
            format: self.format,
            code: self.code,
            sequence: self.sequence,
            request: self.request,
            from: self.from,
            to: self.to,
            time_left: self.time_left,
            sent_ms: self.sent_ms,
            subject: self.subject.as_str(),
            payload: &self.payload,
        }
    }

    /// How many bytes the envelope at the beginning of `bytes` says that it has; none if it is not
    /// even a header.
    pub fn length(bytes: &[u8]) -> Option<usize> {
        usize::try_from(Header::parse(bytes).ok()?.length()).ok()
    }

    /// As [`decode_owned`](Self::decode_owned), of a frame that somebody else keeps too.
    ///
    /// # Errors
    ///
    /// As [`decode_owned`](Self::decode_owned).
    pub fn decode(frame: &Bytes, limits: &Limits) -> Result<Self, EnvelopeError> {
        Self::decode_owned(frame.clone(), limits)
    }

    /// Takes a received frame apart. Subject and payload are slices of the frame; nothing is
    /// copied, and the frame lives as long as they do. Without a subject the payload is all that
    /// remains of the frame, and nothing has to be allocated to share it.
    ///
    /// # Errors
    ///
    /// [`EnvelopeError`] says which rule the frame breaks. The frame must be dropped: after a
    /// failed checksum or length no field of it can be believed, not even the sender.
    pub fn decode_owned(mut frame: Bytes, limits: &Limits) -> Result<Self, EnvelopeError> {
        let header = Header::parse(&frame)?;
        header.check_lengths(frame.len(), limits)?;
        if checksum(&frame) != header.checksum {
            return Err(EnvelopeError::Checksum);
        }
        let kind = Kind::from_number(header.kind).ok_or(EnvelopeError::Kind(header.kind))?;
        let format = match header.flags {
            0 => Format::MessagePack,
            FLAG_RAW => Format::Raw,
            flags => return Err(EnvelopeError::Flags(flags)),
        };
        header.check_fields(kind, format)?;
        let payload_at = HEADER_BYTES + usize::from(header.subject_bytes);
        let subject = match header.subject_bytes {
            0 => Subject::default(),
            _ => Subject::from_wire(frame.slice(HEADER_BYTES..payload_at))?,
        };
        frame.advance(payload_at);
        Ok(Self {
            kind,
            format,
            code: header.code,
            sequence: header.sequence,
            request: header.request,
            from: header.from,
            to: header.to,
            time_left: match header.time_left_ms {
                0 => None,
                ms => Some(Duration::from_millis(ms.into())),
            },
            sent_ms: header.sent_ms,
            subject,
            payload: frame,
        })
    }
}

/// The parts of an envelope that is about to be sent, borrowed, so that sending copies the payload
/// once: into the frame. The fields are those of [`Envelope`].
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// What it is for.
    pub kind: Kind,
    /// How the payload is encoded.
    pub format: Format,
    /// For [`Kind::Error`]: why. Otherwise 0.
    pub code: u16,
    /// Counts the envelopes of the link.
    pub sequence: u32,
    /// Which request this is or answers.
    pub request: RequestId,
    /// The sender's incarnation.
    pub from: Incarnation,
    /// The incarnation this is meant for.
    pub to: Incarnation,
    /// Time left; rounded up to whole milliseconds, at least 1, at most 49 days.
    pub time_left: Option<Duration>,
    /// Milliseconds on our clock.
    pub sent_ms: u32,
    /// A valid subject (see [`Subject::check`]), or empty.
    pub subject: &'a str,
    /// The payload.
    pub payload: &'a [u8],
}

impl Outgoing<'_> {
    /// Encodes the envelope as one frame, in one allocation of exactly its size.
    ///
    /// The rules for each kind are the receiver's to check; debug builds check them here too.
    ///
    /// # Panics
    ///
    /// If the subject is longer than [`SUBJECT_BYTES_MAX`] or the payload has 4 GiB or more.
    pub fn encode(&self) -> Bytes {
        let header = self.header();
        debug_assert_eq!(header.check_fields(self.kind, self.format), Ok(()), "{self:?}");
        let mut frame = Vec::with_capacity(self.encoded_len());
        header.write(&mut frame);
        frame.extend_from_slice(self.subject.as_bytes());
        frame.extend_from_slice(self.payload);
        let checksum = crc32c::crc32c(&frame).to_le_bytes();
        frame[CHECKSUM_AT..CHECKSUM_AT + CHECKSUM_BYTES].copy_from_slice(&checksum);
        Bytes::from(frame)
    }

    /// Bytes of the encoded frame.
    pub const fn encoded_len(&self) -> usize {
        HEADER_BYTES + self.subject.len() + self.payload.len()
    }

    fn header(&self) -> Header {
        let subject_bytes = u8::try_from(self.subject.len());
        let payload_bytes = u32::try_from(self.payload.len());
        Header {
            version: PROTOCOL_VERSION,
            kind: self.kind.number(),
            flags: match self.format {
                Format::MessagePack => 0,
                Format::Raw => FLAG_RAW,
            },
            subject_bytes: subject_bytes.expect("subjects are checked before they are sent"),
            code: self.code,
            checksum: 0,
            sequence: self.sequence,
            request: self.request,
            from: self.from,
            to: self.to,
            time_left_ms: self.time_left.map_or(0, whole_milliseconds),
            payload_bytes: payload_bytes.expect("payload limits are below 4 GiB"),
            sent_ms: self.sent_ms,
        }
    }
}

/// Limits on what is received.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Bytes of a payload [default: 8 MiB]. Larger: one message costs more memory. Both sides of
    /// a link need the same limit.
    pub payload_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { payload_bytes_max: 8 * 1024 * 1024 }
    }
}

/// Which rule a frame breaks.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// The checksum does not match: the frame was damaged or made by something else.
    #[error("the checksum does not match")]
    Checksum,
    /// A field is set that this kind does not have, or is missing.
    #[error("an envelope of kind {kind:?} may not have this {field}")]
    Field {
        /// The kind.
        kind: Kind,
        /// The name of the field.
        field: &'static str,
    },
    /// Flags are set that this version does not know.
    #[error("unknown flags {0:#04x}")]
    Flags(u8),
    /// No kind has this number.
    #[error("unknown kind {0}")]
    Kind(u8),
    /// The frame is longer or shorter than its header says.
    #[error("the frame has {got} bytes and should have {expected}")]
    Length {
        /// What the header says.
        expected: u64,
        /// What arrived.
        got: usize,
    },
    /// The frame does not begin like an envelope.
    #[error("not an envelope")]
    NotAnEnvelope,
    /// The payload is larger than the receiver's limit.
    #[error("payload of {bytes} bytes is over the limit of {max}")]
    PayloadTooLarge {
        /// Bytes of the payload.
        bytes: u32,
        /// The limit.
        max: usize,
    },
    /// The subject is malformed.
    #[error("malformed subject: {0}")]
    Subject(#[from] InvalidSubject),
    /// The frame ends within the header.
    #[error("the frame of {bytes} bytes ends within the header")]
    Truncated {
        /// Bytes of the frame.
        bytes: usize,
    },
    /// The sender speaks another version of the protocol.
    #[error("unknown protocol version {0}")]
    Version(u8),
}

impl EnvelopeError {
    /// A stable name for counters and logs.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Checksum => "checksum",
            Self::Field { .. } => "field",
            Self::Flags(_) => "flags",
            Self::Kind(_) => "kind",
            Self::Length { .. } => "length",
            Self::NotAnEnvelope => "not_an_envelope",
            Self::PayloadTooLarge { .. } => "payload_too_large",
            Self::Subject(_) => "subject",
            Self::Truncated { .. } => "truncated",
            Self::Version(_) => "version",
        }
    }
}

/// The header as it is on the wire; nothing in it has been checked but magic and version.
#[derive(Clone, Copy, Debug)]
struct Header {
    version: u8,
    kind: u8,
    flags: u8,
    subject_bytes: u8,
    code: u16,
    checksum: u32,
    sequence: u32,
    request: RequestId,
    from: Incarnation,
    to: Incarnation,
    time_left_ms: u32,
    payload_bytes: u32,
    sent_ms: u32,
}

impl Header {
    /// Reads the header. Magic and version come first: of another protocol, and of another version
    /// of ours, we know nothing else, not even how long its header is.
    fn parse(frame: &[u8]) -> Result<Self, EnvelopeError> {
        if !frame.starts_with(&MAGIC) {
            return Err(EnvelopeError::NotAnEnvelope);
        }
        match frame.get(MAGIC.len()) {
            Some(&version) if version != PROTOCOL_VERSION => {
                return Err(EnvelopeError::Version(version));
            }
            Some(_) | None => {}
        }
        let header: &[u8; HEADER_BYTES] =
            frame.first_chunk().ok_or(EnvelopeError::Truncated { bytes: frame.len() })?;
        Ok(Self {
            version: header[2],
            kind: header[3],
            flags: header[4],
            subject_bytes: header[5],
            code: u16::from_le_bytes(field(header, 6)),
            checksum: u32::from_le_bytes(field(header, CHECKSUM_AT)),
            sequence: u32::from_le_bytes(field(header, 12)),
            request: RequestId(u64::from_le_bytes(field(header, 16))),
            from: Incarnation(u64::from_le_bytes(field(header, 24))),
            to: Incarnation(u64::from_le_bytes(field(header, 32))),
            time_left_ms: u32::from_le_bytes(field(header, 40)),
            payload_bytes: u32::from_le_bytes(field(header, 44)),
            sent_ms: u32::from_le_bytes(field(header, 48)),
        })
    }

    fn write(&self, frame: &mut Vec<u8>) {
        frame.extend_from_slice(&MAGIC);
        frame.extend_from_slice(&[self.version, self.kind, self.flags, self.subject_bytes]);
        frame.extend_from_slice(&self.code.to_le_bytes());
        frame.extend_from_slice(&self.checksum.to_le_bytes());
        frame.extend_from_slice(&self.sequence.to_le_bytes());
        frame.extend_from_slice(&self.request.0.to_le_bytes());
        frame.extend_from_slice(&self.from.0.to_le_bytes());
        frame.extend_from_slice(&self.to.0.to_le_bytes());
        frame.extend_from_slice(&self.time_left_ms.to_le_bytes());
        frame.extend_from_slice(&self.payload_bytes.to_le_bytes());
        frame.extend_from_slice(&self.sent_ms.to_le_bytes());
        debug_assert_eq!(frame.len(), HEADER_BYTES);
    }

    /// The limit comes before the length, so that a sender over the limit is told the limit.
    fn check_lengths(&self, got: usize, limits: &Limits) -> Result<(), EnvelopeError> {
        let max = limits.payload_bytes_max;
        if usize::try_from(self.payload_bytes).map_or(true, |bytes| bytes > max) {
            return Err(EnvelopeError::PayloadTooLarge { bytes: self.payload_bytes, max });
        }
        let expected = self.length();
        match got as u64 == expected {
            true => Ok(()),
            false => Err(EnvelopeError::Length { expected, got }),
        }
    }

    fn length(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.subject_bytes) + u64::from(self.payload_bytes)
    }

    /// Each kind has exactly the fields that it needs, so that no two frames mean the same.
    fn check_fields(&self, kind: Kind, format: Format) -> Result<(), EnvelopeError> {
        let field = |field| Err(EnvelopeError::Field { kind, field });
        if kind.is_system() && format == Format::Raw {
            return field("format");
        }
        if kind != Kind::Error && self.code != 0 {
            return field("code");
        }
        if kind.has_request() != (self.request != RequestId::NONE) {
            return field("request id");
        }
        if !kind.is_addressed() && self.time_left_ms != 0 {
            return field("time left");
        }
        if kind.is_addressed() != (self.subject_bytes != 0) {
            return field("subject");
        }
        Ok(())
    }
}

/// The bytes of one header field.
fn field<const BYTES: usize>(header: &[u8; HEADER_BYTES], at: usize) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    bytes.copy_from_slice(&header[at..at + BYTES]);
    bytes
}

/// The checksum that the frame should carry: as if the field that holds it were zero.
fn checksum(frame: &[u8]) -> u32 {
    // A call costs more than a few bytes do: the header is copied rather than taken in pieces.
    let mut header: [u8; HEADER_BYTES] = *frame.first_chunk().expect("the header was parsed");
    header[CHECKSUM_AT..CHECKSUM_AT + CHECKSUM_BYTES].fill(0);
    crc32c::crc32c_append(crc32c::crc32c(&header), &frame[HEADER_BYTES..])
}

/// Rounds up, so that a request is not given less time than its sender grants, and to at least 1,
/// because 0 stands for no limit.
fn whole_milliseconds(time_left: Duration) -> u32 {
    let milliseconds = time_left.as_nanos().div_ceil(1_000_000).max(1);
    u32::try_from(milliseconds).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
