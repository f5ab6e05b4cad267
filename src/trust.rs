//! Whom a node dials, and what it lets others do.
//!
//! Pure.

use std::sync::Arc;

use crate::id::NodeId;
use crate::keys::{AllowList, PublicKey, Role};
use crate::transport::Address;

/// What a node's trust in others rests on.
#[derive(Clone, Debug)]
pub enum Trust {
    /// On nothing: it has no keys, and takes everybody for whom they say they are.
    Open {
        /// Whether it dials other machines even so.
        insecure: bool,
    },
    /// On its allow-list.
    Listed(Arc<AllowList>),
    /// On the addresses it was given and on what those who are there tell it: it has keys, but no
    /// list, and lets nobody in.
    Told,
}

impl Trust {
    /// Whether it may dial this address.
    ///
    /// # Errors
    ///
    /// [`NotDialed`]: it may not, and why.
    pub fn may_dial(&self, address: &Address) -> Result<(), NotDialed> {
        let error = |reason| Err(NotDialed { address: address.clone(), reason });
        match (self, address.key()) {
            (Self::Open { .. }, Some(_)) => error(NotDialedReason::NoKeys),
            (Self::Open { insecure }, None) if !insecure && !address.is_local() => {
                error(NotDialedReason::Clear)
            }
            (Self::Open { .. }, None) | (Self::Told, Some(_)) => Ok(()),
            (Self::Listed(_) | Self::Told, None) => error(NotDialedReason::Keyless),
            (Self::Listed(list), Some(key)) => match list.role(&key) {
                Role::Peer => Ok(()),
                Role::Admin | Role::Client | Role::Revoked => error(NotDialedReason::NotAPeer),
            },
        }
    }

    /// What the owner of `key` may do.
    pub fn role(&self, key: Option<&PublicKey>) -> Role {
        match self {
            Self::Open { .. } | Self::Told => Role::Peer,
            Self::Listed(list) => key.map_or(Role::Revoked, |key| list.role(key)),
        }
    }

    /// Whether the owner of `key` may use the name `node`.
    pub fn may_be(&self, key: Option<&PublicKey>, node: &NodeId) -> bool {
        match self {
            Self::Open { .. } | Self::Told => true,
            Self::Listed(list) => key.is_some_and(|key| list.may_be(key, node)),
        }
    }
}

/// Why an address is not dialed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{address} is not dialed: {reason}")]
pub struct NotDialed {
    /// The address.
    pub address: Address,
    /// Why.
    pub reason: NotDialedReason,
}

/// Why an address is not dialed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NotDialedReason {
    /// It is on another machine, has no key, and clear text was not allowed.
    #[error("it is on another machine and has no key (HOST:PORT#KEY), so all would be clear text")]
    Clear,
    /// It has no key, and a node with keys speaks to nobody without.
    #[error("it has no key (HOST:PORT#KEY), and this node has keys")]
    Keyless,
    /// It has a key, and this node has none to show.
    #[error("it asks for a key, and this node has none")]
    NoKeys,
    /// Its key is not that of a peer.
    #[error("its key is not allowed as that of a peer")]
    NotAPeer,
}
