//! Who may come in: which keys, under which names, in which roles.
//!
//! Pure: time enters as the time of day.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use super::PublicKey;
use crate::id::NodeId;

/// The most bytes that an allow-list may have as text.
pub const ALLOW_LIST_BYTES_MAX: usize = 8 << 20;

/// What the owner of a key may do; each role may do what the ones before it may.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Nothing: the key was taken back, and no other line lets it in.
    Revoked,
    /// Requests and ticks, and reading and writing keys and logs.
    Client,
    /// Also changing who the members are.
    Admin,
    /// A node of the mesh: is dialed, and replicates.
    Peer,
}

impl Role {
    const ALL: [Self; 4] = [Self::Revoked, Self::Client, Self::Admin, Self::Peer];

    const fn name(self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::Client => "client",
            Self::Admin => "admin",
            Self::Peer => "peer",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One line of an [`AllowList`].
#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize)]
pub struct Allowed {
    /// Whose key it is. A peer joins under this name only; of the others, several processes may
    /// share the key, under this name and under any that the list does not have.
    pub node: NodeId,
    /// What its owner may do.
    pub role: Role,
    /// The end of the time in which the key is good; none for no end.
    #[serde(serialize_with = "as_text")]
    pub until: Option<SystemTime>,
}

impl Allowed {
    /// The line of a list that says this of `key`.
    pub(super) fn line(&self, key: &PublicKey) -> String {
        let Self { node, role, until } = self;
        match until {
            Some(until) => {
                format!("{node} {role} {key} {}", humantime::format_rfc3339_seconds(*until))
            }
            None => format!("{node} {role} {key}"),
        }
    }
}

/// The keys that may come in. A node may have several, such as an old and a new one.
///
/// As text, each line is `NAME ROLE KEY [UNTIL]`, such as `b peer 8f…  2027-01-31T00:00:00Z`;
/// empty lines and what follows a `#` mean nothing.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AllowList {
    keys: BTreeMap<PublicKey, Allowed>,
}

impl AllowList {
    /// Lets `key` in, or changes what is said of it.
    pub fn insert(&mut self, key: PublicKey, allowed: Allowed) {
        self.keys.insert(key, allowed);
    }

    /// What is said of `key`.
    pub fn get(&self, key: &PublicKey) -> Option<&Allowed> {
        self.keys.get(key)
    }

    /// What the owner of `key` may do; nothing if the list does not have it.
    pub fn role(&self, key: &PublicKey) -> Role {
        self.get(key).map_or(Role::Revoked, |allowed| allowed.role)
    }

    /// Whether the owner of `key` may use the name `node`.
    pub fn may_be(&self, key: &PublicKey, node: &NodeId) -> bool {
        let Some(allowed) = self.get(key) else { return false };
        match allowed.role {
            Role::Revoked => false,
            Role::Peer => allowed.node == *node,
            Role::Client | Role::Admin => {
                allowed.node == *node || !self.keys.values().any(|other| other.node == *node)
            }
        }
    }

    /// The list as it is at `now`: without the keys whose time is over.
    #[must_use]
    pub fn at(&self, now: SystemTime) -> Self {
        let good = |allowed: &Allowed| allowed.until.is_none_or(|until| now < until);
        let keys = self.keys.iter().filter(|(_, allowed)| good(allowed));
        Self { keys: keys.map(|(key, allowed)| (*key, allowed.clone())).collect() }
    }

    /// Every key, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&PublicKey, &Allowed)> {
        self.keys.iter()
    }
}

impl fmt::Display for AllowList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.keys.iter().try_for_each(|(key, allowed)| writeln!(f, "{}", allowed.line(key)))
    }
}

impl FromStr for AllowList {
    type Err = InvalidAllowList;

    fn from_str(text: &str) -> Result<Self, InvalidAllowList> {
        let mut list = Self::default();
        for (number, line) in text.lines().enumerate() {
            let error = |reason: String| InvalidAllowList { line: number + 1, reason };
            let said = line.split_once('#').map_or(line, |(said, _)| said);
            let words: Vec<&str> = said.split_whitespace().collect();
            if words.is_empty() {
                continue;
            }
            let (key, allowed) = entry(&words).map_err(error)?;
            if list.keys.insert(key, allowed).is_some() {
                return Err(error(format!("key {key} is there twice")));
            }
        }
        Ok(list)
    }
}

fn entry(words: &[&str]) -> Result<(PublicKey, Allowed), String> {
    let (node, role, key, until) = match words {
        [node, role, key] => (node, role, key, None),
        [node, role, key, until] => (node, role, key, Some(until)),
        _ => return Err("a line is NAME ROLE KEY [UNTIL]".to_owned()),
    };
    let node = NodeId::new(node).map_err(|error| format!("name {node:?}: {error}"))?;
    let role = Role::ALL.into_iter().find(|known| known.name() == *role);
    let role = role.ok_or("the role must be peer, admin, client or revoked")?;
    let key = key.parse().map_err(|error| format!("key {key:?}: {error}"))?;
    let until = until.map(|until| humantime::parse_rfc3339_weak(until)).transpose();
    let until = until.map_err(|error| format!("until: {error}; such as 2027-01-31T00:00:00Z"))?;
    Ok((key, Allowed { node, role, until }))
}

/// What is wrong with an allow-list. Nothing of it is taken.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct InvalidAllowList {
    /// Counted from 1.
    pub line: usize,
    /// For people.
    pub reason: String,
}

#[expect(clippy::ref_option, reason = "the signature that serde asks for")]
fn as_text<S: serde::Serializer>(until: &Option<SystemTime>, to: S) -> Result<S::Ok, S::Error> {
    match until {
        Some(until) => to.collect_str(&humantime::format_rfc3339_seconds(*until)),
        None => to.serialize_none(),
    }
}
