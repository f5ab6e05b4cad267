//! Keys: who a node is to others, and whom it lets in.
//!
//! A node has a [`KeyPair`] of Curve25519; its public half stands behind the `#` of its
//! [`Address`](crate::Address), so that whoever dials it knows whom to expect. An [`AllowList`]
//! says which keys may come in, under which names and in which [`Role`]. With both, links speak
//! CURVE (ZeroMQ RFC 26/CurveZMQ): encrypted, authenticated in both directions, with fresh keys
//! for every connection.
//!
//! Keys are written in hexadecimal, not in ZeroMQ's Z85: that has characters which shells,
//! addresses and lists give another meaning.

use std::fmt;
use std::str::FromStr;

mod allow;
mod file;

pub use allow::{ALLOW_LIST_BYTES_MAX, AllowList, Allowed, InvalidAllowList, Role};
pub use file::{KeyFileError, put_in_allow_list, read_allow_list, read_key_pair, write_key_pair};

/// Bytes of a key, public or secret.
pub const KEY_BYTES: usize = 32;

/// The public half of a [`KeyPair`], by which everybody knows its owner.
///
/// # Examples
///
/// ```
/// use zmesh::keys::{KeyPair, PublicKey};
/// let public = KeyPair::generate()?.public();
/// assert_eq!(public.to_string().parse::<PublicKey>()?, public);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PublicKey([u8; KEY_BYTES]);

impl PublicKey {
    /// The key with these bytes.
    ///
    /// # Errors
    ///
    /// [`InvalidKey`]: the bytes are not 32, or all of them are zero, which is nobody's key.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidKey> {
        key_bytes(bytes).map(Self)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        key_bytes(&*from_hex(text)?).map(Self)
    }
}

impl serde::Serialize for PublicKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A secret key and its public half. The secret is wiped from memory when the last clone is gone,
/// and no output shows it.
#[derive(Clone)]
pub struct KeyPair {
    secret: crypto_box::SecretKey,
    public: PublicKey,
}

impl KeyPair {
    /// A new pair, from the system's source of randomness.
    ///
    /// # Errors
    ///
    /// [`InvalidKey::NoRandomness`]: the system has none.
    pub fn generate() -> Result<Self, InvalidKey> {
        let mut secret = zeroize::Zeroizing::new([0; KEY_BYTES]);
        getrandom::fill(&mut *secret)
            .map_err(|error| InvalidKey::NoRandomness(error.to_string()))?;
        Self::from_secret(&*secret)
    }

    /// The pair of this secret key.
    ///
    /// # Errors
    ///
    /// [`InvalidKey`]: the bytes are not 32, or all of them are zero.
    pub fn from_secret(secret: &[u8]) -> Result<Self, InvalidKey> {
        let secret = crypto_box::SecretKey::from(key_bytes(secret)?);
        let public = PublicKey(*secret.public_key().as_bytes());
        Ok(Self { secret, public })
    }

    /// The public half.
    pub const fn public(&self) -> PublicKey {
        self.public
    }

    /// The secret half, for what encrypts with it.
    pub(crate) const fn secret(&self) -> &crypto_box::SecretKey {
        &self.secret
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair").field("public", &self.public).finish_non_exhaustive()
    }
}

/// Why something is no key.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidKey {
    /// Not 64 hexadecimal digits.
    #[error("a key has 64 hexadecimal digits")]
    Digits,
    /// The system gives no randomness to make a key of.
    #[error("the system gives no randomness: {0}")]
    NoRandomness(String),
    /// Nobody's key.
    #[error("a key of zeros is nobody's")]
    Zeros,
}

fn key_bytes(bytes: &[u8]) -> Result<[u8; KEY_BYTES], InvalidKey> {
    let bytes: [u8; KEY_BYTES] = bytes.try_into().map_err(|_| InvalidKey::Digits)?;
    if bytes == [0; KEY_BYTES] { Err(InvalidKey::Zeros) } else { Ok(bytes) }
}

fn from_hex(text: &str) -> Result<zeroize::Zeroizing<[u8; KEY_BYTES]>, InvalidKey> {
    let digits = text.as_bytes();
    if digits.len() != 2 * KEY_BYTES || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(InvalidKey::Digits);
    }
    let mut bytes = zeroize::Zeroizing::new([0; KEY_BYTES]);
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte =
            u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| InvalidKey::Digits)?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
