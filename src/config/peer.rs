//! Peers as a person writes them.

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer};

use crate::{Address, NodeId};

/// A node to join: an address, and perhaps who is there: `[NAME@]ADDRESS`.
///
/// The name of an address with a key says whose key it is, which puts it on the allow-list.
///
/// # Examples
///
/// ```
/// use zmesh::config::PeerAddress;
/// let peer: PeerAddress = "b@tcp://10.0.0.2:7700".parse()?;
/// assert_eq!(peer.node.unwrap().as_str(), "b");
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct PeerAddress {
    /// Who is there; not checked unless the address has a key.
    pub node: Option<NodeId>,
    /// Where.
    pub address: Address,
}

impl FromStr for PeerAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (node, address) = match text.split_once("://").and_then(|(s, _)| s.split_once('@')) {
            Some((node, _)) => (Some(node), &text[node.len() + 1..]),
            None => (None, text),
        };
        let node = node.map(NodeId::new).transpose().map_err(|error| error.to_string())?;
        let address = address.parse().map_err(|error: crate::InvalidAddress| error.to_string())?;
        Ok(Self { node, address })
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.node {
            Some(node) => write!(f, "{node}@{}", self.address),
            None => self.address.fmt(f),
        }
    }
}

impl serde::Serialize for PeerAddress {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PeerAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
