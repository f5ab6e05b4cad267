//! Addresses: `tcp://host:port`, `tcp://host:port#key`, `ipc://path`, `inproc://name`.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use crate::keys::PublicKey;

/// The longest name of an `ipc` path or an `inproc` name; a Unix socket path holds 107 bytes.
const NAME_BYTES_MAX: usize = 107;

/// Where a node listens or can be dialed.
///
/// A port of 0 or `*` asks for any free port, a host of `*` for every interface; both make sense
/// for binding only. IPv6 addresses stand in brackets. What follows a `#` is the public key of the
/// node that listens there, which must prove to have it; links to such an address are encrypted.
///
/// # Examples
///
/// ```
/// use zmesh::Address;
/// let address: Address = "tcp://[::1]:7001".parse()?;
/// assert_eq!(address.to_string(), "tcp://[::1]:7001");
/// assert!("tcp://::1:7001".parse::<Address>().is_err());
/// # Ok::<(), zmesh::InvalidAddress>(())
/// ```
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Address {
    /// Within one process (and one transport).
    Inproc {
        /// Any text.
        name: String,
    },
    /// A Unix socket.
    Ipc {
        /// Where the socket is in the file system.
        path: String,
    },
    /// TCP.
    Tcp {
        /// A host name, an IPv4 or IPv6 address without brackets, or `*`.
        host: String,
        /// The port; 0 stands for any free one.
        port: u16,
        /// The key of who listens; none where links are not encrypted.
        key: Option<PublicKey>,
    },
}

impl Address {
    /// A TCP address without a key.
    pub fn tcp(host: impl Into<String>, port: u16) -> Self {
        Self::Tcp { host: host.into(), port, key: None }
    }

    /// The key of who listens there.
    pub const fn key(&self) -> Option<PublicKey> {
        match self {
            Self::Tcp { key, .. } => *key,
            Self::Inproc { .. } | Self::Ipc { .. } => None,
        }
    }

    /// The same place with this key, or with none. Only TCP has keys.
    #[must_use]
    pub fn with_key(self, key: Option<PublicKey>) -> Self {
        match self {
            Self::Tcp { host, port, .. } => Self::Tcp { host, port, key },
            Self::Inproc { .. } | Self::Ipc { .. } => self,
        }
    }

    /// Whether peers can dial this address: it names a host and a port.
    pub fn is_dialable(&self) -> bool {
        match self {
            Self::Tcp { host, port, .. } => {
                *port != 0
                    && host != "*"
                    && !host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_unspecified())
            }
            Self::Inproc { .. } | Self::Ipc { .. } => true,
        }
    }

    /// Whether only this machine can reach the address.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp { host, .. } => {
                let is_loopback = |ip: IpAddr| ip.to_canonical().is_loopback();
                host == "localhost" || host.parse::<IpAddr>().is_ok_and(is_loopback)
            }
            Self::Inproc { .. } | Self::Ipc { .. } => true,
        }
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let error = |reason| InvalidAddress { address: text.into(), reason };
        let (scheme, rest) =
            text.split_once("://").ok_or_else(|| error("no scheme such as tcp://"))?;
        let name = || match rest.len() {
            0 => Err(error("the name is empty")),
            n if n > NAME_BYTES_MAX => Err(error("the name is longer than 107 bytes")),
            _ if rest.contains('\0') => Err(error("the name has a NUL byte")),
            _ => Ok(rest.to_owned()),
        };
        match scheme {
            "inproc" => Ok(Self::Inproc { name: name()? }),
            "ipc" => Ok(Self::Ipc { path: name()? }),
            "tcp" => parse_tcp(rest).map_err(error),
            _ => Err(error("the scheme must be tcp, ipc or inproc")),
        }
    }
}

fn parse_tcp(rest: &str) -> Result<Address, &'static str> {
    let (place, key) = match rest.split_once('#') {
        Some((place, key)) => {
            let key = key.parse().map_err(|_| "after # stands a key of 64 hexadecimal digits")?;
            (place, Some(key))
        }
        None => (rest, None),
    };
    let (host, port) = place.rsplit_once(':').ok_or("no port")?;
    let port = match port {
        "*" => 0,
        number => number.parse().map_err(|_| "the port must be 0 to 65535 or *")?,
    };
    let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(host) if host.parse::<Ipv6Addr>().is_ok() => host,
        Some(_) => return Err("what stands in brackets is no IPv6 address"),
        None if host.contains(':') => return Err("an IPv6 address must stand in brackets"),
        None => host,
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '*');
    match host.is_empty() || host.len() > 253 || !host.chars().all(allowed) {
        true => Err("the host is empty, too long or has characters that no host name has"),
        false => Ok(Address::Tcp { host: plain(host), port, key }),
    }
}

/// An IPv4 address in IPv6 clothes, which a socket that takes both reports, as people know it.
fn plain(host: &str) -> String {
    let mapped = host.parse::<Ipv6Addr>().ok().and_then(|ip| ip.to_ipv4_mapped());
    mapped.map_or_else(|| host.to_owned(), |ip| ip.to_string())
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inproc { name } => write!(f, "inproc://{name}"),
            Self::Ipc { path } => write!(f, "ipc://{path}"),
            Self::Tcp { host, port, key } => {
                match host.contains(':') {
                    true => write!(f, "tcp://[{host}]:{port}")?,
                    false => write!(f, "tcp://{host}:{port}")?,
                }
                key.map_or(Ok(()), |key| write!(f, "#{key}"))
            }
        }
    }
}

impl serde::Serialize for Address {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Address {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Why a text is no address.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("invalid address {address:?}: {reason}")]
pub struct InvalidAddress {
    /// The text.
    pub address: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What people really type, right and wrong.
    #[test]
    fn addresses_parse_or_say_why_not() {
        for good in
            ["tcp://127.0.0.1:7001", "tcp://[::1]:1", "tcp://*:0", "ipc:///tmp/a", "inproc://a"]
        {
            assert_eq!(good.parse::<Address>().unwrap().to_string(), good);
        }
        for (bad, reason) in [
            ("127.0.0.1:7001", "no scheme such as tcp://"),
            ("udp://a:1", "the scheme must be tcp, ipc or inproc"),
            ("tcp://localhost", "no port"),
            ("tcp://localhost:65536", "the port must be 0 to 65535 or *"),
            ("tcp://::1:7001", "an IPv6 address must stand in brackets"),
            ("tcp://[a]:7001", "what stands in brackets is no IPv6 address"),
            ("ipc://", "the name is empty"),
            ("tcp://a:1#12", "after # stands a key of 64 hexadecimal digits"),
            ("tcp://a#12:1", "after # stands a key of 64 hexadecimal digits"),
        ] {
            assert_eq!(bad.parse::<Address>().unwrap_err().reason, reason, "{bad}");
        }
    }

    #[test]
    fn keys_stand_after_the_port() {
        let text = format!("tcp://[::1]:7001#{}", "0f".repeat(32));
        let address: Address = text.parse().unwrap();
        assert_eq!(address.to_string(), text);
        assert_eq!(address.with_key(None).to_string(), "tcp://[::1]:7001");
    }

    /// A wildcard is for binding; handing it to others would send them to themselves.
    #[test]
    fn wildcards_are_not_dialable() {
        for (text, dialable) in [
            ("tcp://*:1", false),
            ("tcp://0.0.0.0:1", false),
            // What libzmq says when it was told to listen on 0.0.0.0.
            ("tcp://[::ffff:0.0.0.0]:1", false),
            ("tcp://a:0", false),
            ("tcp://a:1", true),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().is_dialable(), dialable, "{text}");
        }
    }
}
