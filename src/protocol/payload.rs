//! Payloads: any serde type as one MessagePack value, checked before serde sees it.
//!
//! A deserializer trusts its input more than a network deserves: a value nested ten thousand deep
//! overflows the stack inside a recursive type, and 16 MiB of `nil` become hundreds of MiB of
//! values. [`check`] walks the bytes first, without recursion and without allocation, and lets
//! through only one well-formed value of bounded depth and element count. Structs are arrays on
//! the wire, in the order of their fields, and enum variants go by name.
//!
//! Pure. Invariant: what [`encode`] returns, [`check`] accepts.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// How deep arrays, maps and enum variants may be nested.
pub const DEPTH_MAX: usize = 128;
/// How many elements all arrays and maps may hold together; a map entry counts twice.
pub const ELEMENTS_MAX: u64 = 1 << 20;

/// Encodes a value as MessagePack.
///
/// # Errors
///
/// [`PayloadError::Encode`] when the type refuses to be serialized; [`PayloadError::Depth`] or
/// [`PayloadError::Elements`] when a receiver would refuse the value. Large byte strings belong in
/// a type that serializes as bytes: a `Vec<u8>` is an array of numbers and is held to
/// [`ELEMENTS_MAX`].
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, PayloadError> {
    let bytes =
        rmp_serde::to_vec(value).map_err(|error| PayloadError::Encode(error.to_string()))?;
    check(&bytes)?;
    Ok(bytes)
}

/// Decodes one MessagePack value.
///
/// # Errors
///
/// Those of [`check`], and [`PayloadError::Decode`] when the bytes are well-formed but are not a
/// value of this type.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, PayloadError> {
    check(bytes)?;
    rmp_serde::from_slice(bytes).map_err(|error| PayloadError::Decode(error.to_string()))
}

/// Checks that `bytes` are exactly one well-formed MessagePack value within [`DEPTH_MAX`] and
/// [`ELEMENTS_MAX`], in time linear in their number and without allocating.
///
/// Texts are not checked to be UTF-8; the type that is decoded does that.
///
/// # Errors
///
/// [`PayloadError`] says which rule the bytes break.
pub fn check(bytes: &[u8]) -> Result<(), PayloadError> {
    let mut scan = Scan { rest: bytes, elements: 0, open: [0; DEPTH_MAX], depth: 0 };
    loop {
        scan.value()?;
        if !scan.close() {
            break;
        }
    }
    match scan.rest.len() {
        0 => Ok(()),
        bytes => Err(PayloadError::Trailing { bytes }),
    }
}

/// Why bytes are not a payload, or a value cannot be one.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// The bytes are well-formed but are not a value of the type that is wanted.
    #[error("the payload is not of the expected type: {0}")]
    Decode(String),
    /// The value is nested too deep.
    #[error("the payload is nested deeper than {DEPTH_MAX} levels")]
    Depth,
    /// Arrays and maps have too many elements.
    #[error("the payload has more than {ELEMENTS_MAX} elements")]
    Elements,
    /// The type refuses to be serialized.
    #[error("the value cannot be encoded: {0}")]
    Encode(String),
    /// A length declares more than there is, or the value ends too early.
    #[error("the payload ends before the value does")]
    Length,
    /// The byte 0xc1, which MessagePack never uses.
    #[error("the payload has a byte that begins no value")]
    Marker,
    /// The bytes are raw: only the application knows what they are.
    #[error("the payload is raw bytes, not MessagePack")]
    NotMessagePack,
    /// There is something behind the value.
    #[error("{bytes} bytes follow the payload's value")]
    Trailing {
        /// How many bytes follow.
        bytes: usize,
    },
}

impl PayloadError {
    /// A stable name for counters and logs.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Decode(_) => "payload_type",
            Self::Depth => "payload_depth",
            Self::Elements => "payload_elements",
            Self::Encode(_) => "payload_encode",
            Self::Length => "payload_length",
            Self::Marker => "payload_marker",
            Self::NotMessagePack => "payload_raw",
            Self::Trailing { .. } => "payload_trailing",
        }
    }
}

/// A walk over one value. `open[..depth]` holds how many elements each open container still wants;
/// between two values every one of them is at least 1.
struct Scan<'a> {
    rest: &'a [u8],
    elements: u64,
    open: [u32; DEPTH_MAX],
    depth: usize,
}

impl Scan<'_> {
    /// Reads one scalar, or the head of one container.
    fn value(&mut self) -> Result<(), PayloadError> {
        let marker = self.take::<1>()?[0];
        match marker {
            // Small numbers, nil, false, true.
            0x00..=0x7f | 0xc0 | 0xc2 | 0xc3 | 0xe0..=0xff => Ok(()),
            0x80..=0x8f => self.open(2 * u64::from(marker & 0x0f)),
            0x90..=0x9f => self.open(u64::from(marker & 0x0f)),
            0xa0..=0xbf => self.skip(u64::from(marker & 0x1f)),
            0xc1 => Err(PayloadError::Marker),
            // Byte strings and texts with a length of 1, 2 or 4 bytes.
            0xc4 | 0xd9 => self.length8().and_then(|bytes| self.skip(bytes)),
            0xc5 | 0xda => self.length16().and_then(|bytes| self.skip(bytes)),
            0xc6 | 0xdb => self.length32().and_then(|bytes| self.skip(bytes)),
            // Extensions: a type byte and then as much as the length says.
            0xc7 => self.length8().and_then(|bytes| self.skip(1 + bytes)),
            0xc8 => self.length16().and_then(|bytes| self.skip(1 + bytes)),
            0xc9 => self.length32().and_then(|bytes| self.skip(1 + bytes)),
            0xd4..=0xd8 => self.skip(1 + (1 << (marker - 0xd4))),
            // Numbers of 1, 2, 4 and 8 bytes.
            0xcc | 0xd0 => self.skip(1),
            0xcd | 0xd1 => self.skip(2),
            0xca | 0xce | 0xd2 => self.skip(4),
            0xcb | 0xcf | 0xd3 => self.skip(8),
            0xdc => self.length16().and_then(|count| self.open(count)),
            0xdd => self.length32().and_then(|count| self.open(count)),
            0xde => self.length16().and_then(|count| self.open(2 * count)),
            0xdf => self.length32().and_then(|count| self.open(2 * count)),
        }
    }

    /// Opens a container of `elements` values. Every element has at least one byte, so a count
    /// that the rest cannot hold is refused at once.
    fn open(&mut self, elements: u64) -> Result<(), PayloadError> {
        if elements > self.rest.len() as u64 {
            return Err(PayloadError::Length);
        }
        self.elements += elements;
        let bounded = u32::try_from(elements).ok().filter(|_| self.elements <= ELEMENTS_MAX);
        let elements = bounded.ok_or(PayloadError::Elements)?;
        if self.depth == DEPTH_MAX {
            return Err(PayloadError::Depth);
        }
        // One more for the head that was just read: `close` counts that off too.
        self.open[self.depth] = elements + 1;
        self.depth += 1;
        Ok(())
    }

    /// Counts off the value that was just read, and every container that it completes. Returns
    /// whether a container is still open.
    fn close(&mut self) -> bool {
        while self.depth > 0 {
            let wanted = &mut self.open[self.depth - 1];
            *wanted -= 1;
            if *wanted > 0 {
                return true;
            }
            self.depth -= 1;
        }
        false
    }

    fn length8(&mut self) -> Result<u64, PayloadError> {
        self.take().map(u8::from_be_bytes).map(u64::from)
    }

    fn length16(&mut self) -> Result<u64, PayloadError> {
        self.take().map(u16::from_be_bytes).map(u64::from)
    }

    fn length32(&mut self) -> Result<u64, PayloadError> {
        self.take().map(u32::from_be_bytes).map(u64::from)
    }

    fn take<const BYTES: usize>(&mut self) -> Result<[u8; BYTES], PayloadError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(PayloadError::Length)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn skip(&mut self, bytes: u64) -> Result<(), PayloadError> {
        let bytes = usize::try_from(bytes).map_err(|_| PayloadError::Length)?;
        self.rest = self.rest.get(bytes..).ok_or(PayloadError::Length)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
