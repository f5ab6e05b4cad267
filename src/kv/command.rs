//! Commands, queries and responses of the key-value store as bytes.
//!
//! ```text
//! command   1 | key bytes u32 | key | value          SET
//!           2 | key                                  CLEAR
//! query     1 | key                                  GET
//! response  0 | revision u64                         done
//!           1 | revision u64 | value                 value
//!           2 | revision u64                         absent
//!           3 | code u8                              refused
//! ```
//!
//! Numbers are little endian. Pure; decoding never panics and copies nothing.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes a key may have; a key has at least one.
pub const KEY_BYTES_MAX: usize = 4 * 1024;
/// Bytes a value may have; it may have none.
pub const VALUE_BYTES_MAX: usize = 8 * 1024 * 1024;

const SET: u8 = 1;
const CLEAR: u8 = 2;
const GET: u8 = 1;
const DONE: u8 = 0;
const VALUE: u8 = 1;
const ABSENT: u8 = 2;
const REFUSED: u8 = 3;

/// A change of the store.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Command {
    /// Removes a key. It is no error that there is none.
    Clear {
        /// The key.
        key: Bytes,
    },
    /// Gives a key a value, whether it had one or not.
    Set {
        /// The key.
        key: Bytes,
        /// Its new value.
        value: Bytes,
    },
}

/// A question that changes nothing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Query {
    /// What value a key has.
    Get {
        /// The key.
        key: Bytes,
    },
}

/// An answer of the store.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Response {
    /// The key has no value, which is not the same as an empty one.
    Absent {
        /// Index of the last change of the store.
        revision: u64,
    },
    /// The change is made; or, for a key that was not there, there was nothing to clear.
    Done {
        /// Index of the last change of the store: this one, if it changed anything.
        revision: u64,
    },
    /// The command or query is not one; nothing was changed.
    Refused(InvalidCommand),
    /// The value of the key.
    Value {
        /// Index of the last change of the key.
        revision: u64,
        /// Its value.
        value: Bytes,
    },
}

/// Why bytes are not a command or a query, or a command may not be.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidCommand {
    /// The key is empty or too long.
    #[error("a key has 1 to {KEY_BYTES_MAX} bytes")]
    Key,
    /// The bytes are cut short.
    #[error("command is cut short")]
    Truncated,
    /// No command has this number.
    #[error("unknown command number")]
    Unknown,
    /// The value is too long.
    #[error("a value has at most {VALUE_BYTES_MAX} bytes")]
    Value,
}

/// The bytes are not a response.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a response of the key-value store")]
pub struct InvalidResponse;

impl Command {
    /// The bytes to propose.
    ///
    /// # Errors
    ///
    /// [`InvalidCommand`]: key or value are outside their limits.
    pub fn encode(&self) -> Result<Bytes, InvalidCommand> {
        self.check()?;
        let mut out = BytesMut::new();
        match self {
            Self::Clear { key } => {
                out.put_u8(CLEAR);
                out.put_slice(key);
            }
            Self::Set { key, value } => {
                out.reserve(1 + 4 + key.len() + value.len());
                out.put_u8(SET);
                out.put_u32_le(u32::try_from(key.len()).map_err(|_| InvalidCommand::Key)?);
                out.put_slice(key);
                out.put_slice(value);
            }
        }
        Ok(out.freeze())
    }

    /// Reads a command; key and value are slices of `bytes`.
    ///
    /// # Errors
    ///
    /// [`InvalidCommand`] says what is wrong.
    pub fn decode(bytes: &Bytes) -> Result<Self, InvalidCommand> {
        let mut input = bytes.clone();
        let command = match input.try_get_u8().map_err(|_| InvalidCommand::Truncated)? {
            CLEAR => Self::Clear { key: input },
            SET => {
                let key_bytes = input.try_get_u32_le().map_err(|_| InvalidCommand::Truncated)?;
                let key_bytes = usize::try_from(key_bytes).map_err(|_| InvalidCommand::Key)?;
                if key_bytes > input.remaining() {
                    return Err(InvalidCommand::Truncated);
                }
                let key = input.split_to(key_bytes);
                Self::Set { key, value: input }
            }
            _ => return Err(InvalidCommand::Unknown),
        };
        command.check()?;
        Ok(command)
    }

    fn check(&self) -> Result<(), InvalidCommand> {
        match self {
            Self::Clear { key } => check_key(key),
            Self::Set { value, .. } if value.len() > VALUE_BYTES_MAX => Err(InvalidCommand::Value),
            Self::Set { key, .. } => check_key(key),
        }
    }
}

impl Query {
    /// The bytes to ask with.
    ///
    /// # Errors
    ///
    /// [`InvalidCommand`]: the key is outside its limits.
    pub fn encode(&self) -> Result<Bytes, InvalidCommand> {
        let Self::Get { key } = self;
        check_key(key)?;
        let mut out = BytesMut::with_capacity(1 + key.len());
        out.put_u8(GET);
        out.put_slice(key);
        Ok(out.freeze())
    }

    /// Reads a query; the key is a slice of `bytes`.
    ///
    /// # Errors
    ///
    /// [`InvalidCommand`] says what is wrong.
    pub fn decode(bytes: &Bytes) -> Result<Self, InvalidCommand> {
        let mut input = bytes.clone();
        match input.try_get_u8().map_err(|_| InvalidCommand::Truncated)? {
            GET => check_key(&input).map(|()| Self::Get { key: input }),
            _ => Err(InvalidCommand::Unknown),
        }
    }
}

impl Response {
    /// The bytes of the answer.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        match self {
            Self::Absent { revision } => {
                out.put_u8(ABSENT);
                out.put_u64_le(*revision);
            }
            Self::Done { revision } => {
                out.put_u8(DONE);
                out.put_u64_le(*revision);
            }
            Self::Refused(reason) => {
                out.put_u8(REFUSED);
                out.put_u8(reason_number(*reason));
            }
            Self::Value { revision, value } => {
                out.reserve(1 + 8 + value.len());
                out.put_u8(VALUE);
                out.put_u64_le(*revision);
                out.put_slice(value);
            }
        }
        out.freeze()
    }

    /// Reads an answer; a value is a slice of `bytes`.
    ///
    /// # Errors
    ///
    /// [`InvalidResponse`]: the bytes are something else.
    pub fn decode(bytes: &Bytes) -> Result<Self, InvalidResponse> {
        let mut input = bytes.clone();
        let kind = input.try_get_u8().map_err(|_| InvalidResponse)?;
        if kind == REFUSED {
            let reason = input.try_get_u8().map_err(|_| InvalidResponse)?;
            let reason = REASONS.iter().find(|known| reason_number(**known) == reason);
            return match reason {
                Some(reason) if !input.has_remaining() => Ok(Self::Refused(*reason)),
                _ => Err(InvalidResponse),
            };
        }
        let revision = input.try_get_u64_le().map_err(|_| InvalidResponse)?;
        match kind {
            VALUE => Ok(Self::Value { revision, value: input }),
            ABSENT if !input.has_remaining() => Ok(Self::Absent { revision }),
            DONE if !input.has_remaining() => Ok(Self::Done { revision }),
            _ => Err(InvalidResponse),
        }
    }
}

const REASONS: [InvalidCommand; 4] = [
    InvalidCommand::Key,
    InvalidCommand::Truncated,
    InvalidCommand::Unknown,
    InvalidCommand::Value,
];

const fn reason_number(reason: InvalidCommand) -> u8 {
    match reason {
        InvalidCommand::Key => 1,
        InvalidCommand::Truncated => 2,
        InvalidCommand::Unknown => 3,
        InvalidCommand::Value => 4,
    }
}

fn check_key(key: &Bytes) -> Result<(), InvalidCommand> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX { Err(InvalidCommand::Key) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(key: usize, value: usize) -> Result<Bytes, InvalidCommand> {
        Command::Set { key: vec![b'k'; key].into(), value: vec![b'v'; value].into() }.encode()
    }

    /// Both sides of each limit: what was accepted once is in the log for ever.
    #[test]
    fn limits_hold_on_both_sides() {
        assert!(set(1, 0).is_ok());
        assert!(set(KEY_BYTES_MAX, 0).is_ok());
        assert!(set(1, VALUE_BYTES_MAX).is_ok());
        assert_eq!(set(0, 1), Err(InvalidCommand::Key));
        assert_eq!(set(KEY_BYTES_MAX + 1, 1), Err(InvalidCommand::Key));
        assert_eq!(set(1, VALUE_BYTES_MAX + 1), Err(InvalidCommand::Value));
        assert_eq!(Query::decode(&Bytes::from_static(&[GET])), Err(InvalidCommand::Key));
        assert_eq!(Command::decode(&Bytes::new()), Err(InvalidCommand::Truncated));
        assert_eq!(Command::decode(&Bytes::from_static(&[9])), Err(InvalidCommand::Unknown));
        let long = Bytes::from_static(&[SET, 255, 255, 255, 255, b'k']);
        assert_eq!(Command::decode(&long), Err(InvalidCommand::Truncated));
    }

    /// An empty value, no value and a refusal are three things.
    #[test]
    fn responses_survive_the_round_trip() {
        let value = Bytes::from_static(b"\0\xff");
        let mut responses = vec![
            Response::Absent { revision: 7 },
            Response::Done { revision: u64::MAX },
            Response::Value { revision: 1, value },
            Response::Value { revision: 1, value: Bytes::new() },
        ];
        responses.extend(REASONS.map(Response::Refused));
        for response in responses {
            assert_eq!(Response::decode(&response.encode()), Ok(response));
        }
    }

    proptest! {
        /// Keys and values are bytes: no value of a byte means anything.
        #[test]
        fn commands_survive_the_round_trip(key in prop::collection::vec(any::<u8>(), 1..64),
                                           value in prop::collection::vec(any::<u8>(), 0..64)) {
            let (key, value) = (Bytes::from(key), Bytes::from(value));
            let clear = Command::Clear { key: key.clone() };
            prop_assert_eq!(Command::decode(&clear.encode().unwrap()), Ok(clear));
            let query = Query::Get { key: key.clone() };
            prop_assert_eq!(Query::decode(&query.encode().unwrap()), Ok(query));
            let set = Command::Set { key, value };
            prop_assert_eq!(Command::decode(&set.encode().unwrap()), Ok(set));
        }

        /// The bytes come from a peer: whatever they are, the answer is a value.
        #[test]
        fn decoding_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let bytes = Bytes::from(bytes);
            if let Ok(command) = Command::decode(&bytes) {
                prop_assert_eq!(command.encode().unwrap(), bytes.clone());
            }
            let _ = Query::decode(&bytes);
            if let Ok(response) = Response::decode(&bytes) {
                prop_assert_eq!(response.encode(), bytes);
            }
        }
    }
}
