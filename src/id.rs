//! The names and numbers that identify nodes, processes and requests.
//!
//! A [`NodeId`] is chosen by a person and outlives restarts. An [`Incarnation`] is drawn at random
//! at every process start, so that two lives of one node are never mistaken for each other. A
//! [`RequestId`] tells the requests of one incarnation apart.
//!
//! Pure: random numbers are passed in.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The most bytes a node id may have.
pub const NODE_ID_BYTES_MAX: usize = 64;

/// The name of a node: 1 to 64 bytes of ASCII letters, digits, `-`, `_` and `.`.
///
/// Cheap to clone. It must be unique within a mesh; the handshake refuses a second holder.
///
/// # Examples
///
/// ```
/// use zmesh::NodeId;
/// let id: NodeId = "adder-1".parse()?;
/// assert_eq!(id.as_str(), "adder-1");
/// assert!("two words".parse::<NodeId>().is_err());
/// # Ok::<(), zmesh::InvalidNodeId>(())
/// ```
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NodeId(Arc<str>);

impl NodeId {
    /// Checks `name` and makes a node id of it.
    ///
    /// # Errors
    ///
    /// [`InvalidNodeId`] says what is wrong with the name.
    pub fn new(name: &str) -> Result<Self, InvalidNodeId> {
        if name.is_empty() || name.len() > NODE_ID_BYTES_MAX {
            return Err(InvalidNodeId::Length { bytes: name.len() });
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        match name.chars().find(|c| !allowed(*c)) {
            Some(character) => Err(InvalidNodeId::Character { character }),
            None => Ok(Self(name.into())),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeId {
    type Err = InvalidNodeId;

    fn from_str(name: &str) -> Result<Self, InvalidNodeId> {
        Self::new(name)
    }
}

impl TryFrom<&str> for NodeId {
    type Error = InvalidNodeId;

    fn try_from(name: &str) -> Result<Self, InvalidNodeId> {
        Self::new(name)
    }
}

impl Serialize for NodeId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::new(&name).map_err(serde::de::Error::custom)
    }
}

impl AsRef<str> for NodeId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for NodeId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a name cannot be a node id.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidNodeId {
    /// The name has a character outside ASCII letters, digits, `-`, `_` and `.`.
    #[error("node id may hold letters, digits, '-', '_' and '.', not {character:?}")]
    Character {
        /// The first character that is not allowed.
        character: char,
    },
    /// The name is empty or too long.
    #[error("node id must have 1 to {NODE_ID_BYTES_MAX} bytes, not {bytes}")]
    Length {
        /// Bytes the name has.
        bytes: usize,
    },
}

/// Which life of a node: drawn at random at every process start, never zero.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

impl Incarnation {
    /// Stands for "not known yet" in an envelope.
    pub const UNKNOWN: Self = Self(0);

    /// Draws a new incarnation.
    pub fn random(rng: &mut fastrand::Rng) -> Self {
        Self(rng.u64(1..))
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// One request of one incarnation; zero stands for "no request".
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RequestId(pub u64);

impl RequestId {
    /// Stands for "not a request" in an envelope.
    pub const NONE: Self = Self(0);
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both sides of the length limit, and the first character that is refused.
    #[test]
    fn node_id_refuses_what_could_not_be_a_file_name() {
        assert!(NodeId::new(&"a".repeat(64)).is_ok());
        assert_eq!(NodeId::new(&"a".repeat(65)), Err(InvalidNodeId::Length { bytes: 65 }));
        assert_eq!(NodeId::new(""), Err(InvalidNodeId::Length { bytes: 0 }));
        assert_eq!(NodeId::new("a/../b"), Err(InvalidNodeId::Character { character: '/' }));
        assert_eq!(NodeId::new("a\0"), Err(InvalidNodeId::Character { character: '\0' }));
    }

    /// A peer's bytes reach `NodeId` through serde, so the check must be there too.
    #[test]
    fn node_id_is_checked_when_it_is_deserialized() {
        let bytes = rmp_serde::to_vec("a b").unwrap();
        assert!(rmp_serde::from_slice::<NodeId>(&bytes).is_err());
    }
}
