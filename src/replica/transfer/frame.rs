//! What replicas say to each other about the body of a snapshot, as bytes.
//!
//! Numbers are little endian. The first byte tells these frames from those of the consensus.
//!
//! ```text
//! frame  2 u8 | kind u8 | 0 u16 | cluster id [16] | from u64 | to u64 | index u64 | term u64 | rest
//! kind   1 ask   offset u64 | bytes u32
//!        2 part  offset u64 | CRC32C of the data u32 | data
//!        3 hold  the body is here and is being checked
//!        4 end   flags u8: 1 the snapshot has arrived, 2 its file is damaged
//!        5 hash  of the state after that entry u64 | bytes that were summed up u64
//! ```
//!
//! Pure. Decoding never panics and copies nothing.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use uuid::Uuid;

use crate::consensus::wire::{Envelope, WireError};
use crate::wal::Point;

const VERSION: u8 = 2;
/// Bytes of a frame before what its kind adds.
const HEADER_BYTES: usize = 1 + 1 + 2 + 16 + 4 * 8;

/// One frame.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::replica) struct Frame {
    pub(in crate::replica) cluster: Uuid,
    pub(in crate::replica) from: u64,
    pub(in crate::replica) to: u64,
    /// The snapshot that it is about.
    pub(in crate::replica) point: Point,
    pub(in crate::replica) content: Content,
}

/// What a frame says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::replica) enum Content {
    /// Send the part that begins there.
    Ask { offset: u64, bytes: u32 },
    /// The transfer is over, for either side.
    End { arrived: bool, damaged: bool },
    /// The state of the sender after the entry, summed up.
    Hash { hash: u64, bytes: u64 },
    /// Everything is here and is being checked.
    Hold,
    /// The part that begins there.
    Part { offset: u64, data: Bytes },
}

impl Frame {
    /// Whether the bytes are a frame of this kind, rather than one of the consensus.
    pub(in crate::replica) fn is_one(bytes: &Bytes) -> bool {
        bytes.first() == Some(&VERSION)
    }

    pub(in crate::replica) fn encode(&self) -> Bytes {
        let data = match &self.content {
            Content::Part { data, .. } => data.len(),
            Content::Ask { .. } | Content::End { .. } | Content::Hash { .. } | Content::Hold => 0,
        };
        let mut out = BytesMut::with_capacity(HEADER_BYTES + 12 + data);
        out.put_u8(VERSION);
        out.put_u8(match self.content {
            Content::Ask { .. } => 1,
            Content::Part { .. } => 2,
            Content::Hold => 3,
            Content::End { .. } => 4,
            Content::Hash { .. } => 5,
        });
        out.put_u16_le(0);
        out.put_slice(self.cluster.as_bytes());
        for number in [self.from, self.to, self.point.index, self.point.term] {
            out.put_u64_le(number);
        }
        match &self.content {
            Content::Ask { offset, bytes } => {
                out.put_u64_le(*offset);
                out.put_u32_le(*bytes);
            }
            Content::End { arrived, damaged } => {
                out.put_u8(u8::from(*arrived) | u8::from(*damaged) << 1);
            }
            Content::Hash { hash, bytes } => {
                out.put_u64_le(*hash);
                out.put_u64_le(*bytes);
            }
            Content::Hold => {}
            Content::Part { offset, data } => {
                out.put_u64_le(*offset);
                out.put_u32_le(crc32c::crc32c(data));
                out.put_slice(data);
            }
        }
        out.freeze()
    }

    /// Reads a frame that came from the replica `expected.from`, as its link was authenticated.
    ///
    /// # Errors
    ///
    /// [`WireError`]: it is not one of ours, or not for us.
    pub(in crate::replica) fn decode(bytes: &Bytes, expected: Envelope) -> Result<Self, WireError> {
        let mut input = bytes.clone();
        let (version, kind) = (input.try_get_u8()?, input.try_get_u8()?);
        if version != VERSION {
            return Err(WireError::UnknownVersion { version });
        }
        if input.try_get_u16_le()? != 0 {
            return Err(WireError::Reserved);
        }
        let cluster = Uuid::from_u128(input.try_get_u128()?);
        let (from, to) = (input.try_get_u64_le()?, input.try_get_u64_le()?);
        if (Envelope { cluster, from, to }) != expected {
            return Err(WireError::WrongEnvelope);
        }
        let point = Point { index: input.try_get_u64_le()?, term: input.try_get_u64_le()? };
        let content = match kind {
            1 => {
                let (offset, bytes) = (input.try_get_u64_le()?, input.try_get_u32_le()?);
                Content::Ask { offset, bytes }
            }
            2 => {
                let (offset, sum) = (input.try_get_u64_le()?, input.try_get_u32_le()?);
                let data = input.split_off(0);
                if crc32c::crc32c(&data) != sum {
                    return Err(WireError::MalformedSnapshot);
                }
                Content::Part { offset, data }
            }
            3 => Content::Hold,
            4 => match input.try_get_u8()? {
                flags @ 0..=3 => Content::End { arrived: flags & 1 != 0, damaged: flags & 2 != 0 },
                _ => return Err(WireError::Reserved),
            },
            5 => Content::Hash { hash: input.try_get_u64_le()?, bytes: input.try_get_u64_le()? },
            kind => return Err(WireError::UnknownKind { kind }),
        };
        match input.remaining() {
            0 => Ok(Self { cluster, from, to, point, content }),
            bytes => Err(WireError::Trailing { bytes }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(content: Content) -> Frame {
        let point = Point { index: 5, term: 3 };
        Frame { cluster: Uuid::from_u128(7), from: 2, to: 1, point, content }
    }

    /// The bytes are a promise to every other version, and nothing but them is taken.
    #[test]
    fn frames_have_these_bytes_and_every_cut_is_refused() {
        let head = |kind: u8| {
            let mut bytes = vec![2, kind, 0, 0];
            bytes.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
            for number in [2u64, 1, 5, 3] {
                bytes.extend(number.to_le_bytes());
            }
            bytes
        };
        let data = Bytes::from_static(b"123456789");
        let cases = [
            (Content::Ask { offset: 256, bytes: 9 }, 1, vec![0, 1, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0]),
            (
                Content::Part { offset: 1, data },
                2,
                [&[1, 0, 0, 0, 0, 0, 0, 0][..], &0xE306_9283_u32.to_le_bytes(), b"123456789"]
                    .concat(),
            ),
            (Content::Hold, 3, vec![]),
            (Content::End { arrived: false, damaged: true }, 4, vec![2]),
            (
                Content::Hash { hash: 258, bytes: 9 },
                5,
                vec![2, 1, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0],
            ),
        ];
        let envelope = Envelope { cluster: Uuid::from_u128(7), from: 2, to: 1 };
        for (content, kind, rest) in cases {
            let (frame, expected) = (frame(content), [head(kind), rest].concat());
            let bytes = frame.encode();
            assert_eq!(bytes, expected);
            assert_eq!(crate::consensus::wire::sender(&bytes), Some(2));
            assert_eq!(Frame::decode(&bytes, envelope), Ok(frame));
            for cut in 0..bytes.len() {
                assert!(Frame::decode(&bytes.slice(..cut), envelope).is_err(), "cut at {cut}");
            }
            let stranger = Envelope { from: 3, ..envelope };
            assert_eq!(Frame::decode(&bytes, stranger), Err(WireError::WrongEnvelope));
        }
    }
}
