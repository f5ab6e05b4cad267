//! Subjects: what requests and ticks are addressed to.
//!
//! The rules are narrow, so that a subject can be a metric's label, a log field or part of a
//! pattern without escaping.
//!
//! Pure. Invariant: a subject is empty or has passed [`Subject::check`].

use std::fmt;

use bytes::Bytes;

/// The most bytes of a subject: its length is one byte of the header.
pub const SUBJECT_BYTES_MAX: usize = 255;

/// A subject: up to 255 bytes of dotted words, such as `math.sum`.
///
/// A word is one or more printable ASCII characters other than the space, `.`, `*` and `>`. Cheap
/// to clone. The default is the empty subject of envelopes that have none.
///
/// # Examples
///
/// ```
/// use zmesh::protocol::envelope::Subject;
/// assert_eq!(Subject::new("math.sum")?.as_str(), "math.sum");
/// assert!(Subject::new("math..sum").is_err());
/// assert!(Subject::new("_zmesh.log")?.is_system());
/// # Ok::<(), zmesh::protocol::envelope::InvalidSubject>(())
/// ```
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Subject(Bytes);

impl Subject {
    /// Checks `text` and makes a subject of it.
    ///
    /// # Errors
    ///
    /// [`InvalidSubject`] says what is wrong with the text.
    pub fn new(text: &str) -> Result<Self, InvalidSubject> {
        Self::check(text.as_bytes())?;
        Ok(Self(Bytes::copy_from_slice(text.as_bytes())))
    }

    /// Checks `text` without keeping it.
    ///
    /// # Errors
    ///
    /// [`InvalidSubject`] says what is wrong with the text.
    pub fn check(text: &[u8]) -> Result<(), InvalidSubject> {
        if text.is_empty() || text.len() > SUBJECT_BYTES_MAX {
            return Err(InvalidSubject::Length { bytes: text.len() });
        }
        let mut previous = b'.';
        for &byte in text {
            match byte {
                b'.' if previous == b'.' => return Err(InvalidSubject::EmptyWord),
                b'*' | b'>' => return Err(InvalidSubject::Character { byte }),
                _ if !byte.is_ascii_graphic() => return Err(InvalidSubject::Character { byte }),
                _ => previous = byte,
            }
        }
        if previous == b'.' { Err(InvalidSubject::EmptyWord) } else { Ok(()) }
    }

    /// The subject as text.
    pub fn as_str(&self) -> &str {
        // Checked to be ASCII when it was made, so the default is never taken.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// Whether this is the empty subject of an envelope that has none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the subject belongs to the system: it begins with `_`.
    pub fn is_system(&self) -> bool {
        self.0.first() == Some(&b'_')
    }

    /// Checks the bytes of a received frame and keeps them without copying.
    pub(super) fn from_wire(bytes: Bytes) -> Result<Self, InvalidSubject> {
        Self::check(&bytes)?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a text is no subject.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSubject {
    /// It has a space, a control character, a character outside ASCII, `*` or `>`.
    #[error("a subject may not hold the byte {byte:#04x}")]
    Character {
        /// The first byte that is not allowed.
        byte: u8,
    },
    /// It begins or ends with a dot or has two in a row.
    #[error("a subject may not have an empty word")]
    EmptyWord,
    /// It is empty or too long.
    #[error("a subject must have 1 to {SUBJECT_BYTES_MAX} bytes, not {bytes}")]
    Length {
        /// Bytes it has.
        bytes: usize,
    },
}
