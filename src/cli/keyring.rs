//! The keys of a node that runs: read at the start, and the allow-list again whenever it changes.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use zmesh::Node;
use zmesh::config::{KeysConfig, PeerAddress};
use zmesh::keys::{
    AllowList, Allowed, KeyFileError, KeyPair, Role, read_allow_list, read_key_pair, write_key_pair,
};

use super::failure::{Exit, Failure};

/// Time between two looks at the allow-list. A key that is taken back is out within two of them.
const LOOK_INTERVAL: Duration = Duration::from_millis(400);

/// What a node was told of keys.
#[derive(Debug)]
pub(super) struct Keyring {
    config: KeysConfig,
    /// Those that came with the addresses of peers.
    given: AllowList,
    /// What the file says.
    listed: AllowList,
    /// How the file looked when it was read.
    seen: Option<Seen>,
    /// Whether it was said that the file cannot be read.
    complained: bool,
}

/// What changes when a file does.
#[derive(Debug, Eq, PartialEq)]
struct Seen {
    inode: u64,
    bytes: u64,
    modified: Option<SystemTime>,
}

impl Keyring {
    /// Reads the allow-list, if it is there.
    pub(super) fn open(config: &KeysConfig, peers: &[PeerAddress]) -> Result<Self, Failure> {
        let mut given = AllowList::default();
        for peer in peers {
            if let (Some(node), Some(key)) = (&peer.node, peer.address.key()) {
                let node = node.clone();
                given.insert(key, Allowed { node, role: Role::Peer, until: None });
            }
        }
        let seen = look(&config.allow_list);
        let listed = read_or_empty(&config.allow_list)?;
        Ok(Self { config: config.clone(), given, listed, seen, complained: false })
    }

    /// The keys of this node, made now if nobody said where they are.
    pub(super) fn pair(&self) -> Result<KeyPair, Failure> {
        let KeysConfig { file, is_named, .. } = &self.config;
        match read_key_pair(file) {
            Err(error) if error.is_missing() && !is_named => {
                let pair = KeyPair::generate().map_err(KeyFileError::New)?;
                write_key_pair(file, &pair)?;
                tracing::info!(file = %file.display(), public = %pair.public(), "made a key");
                Ok(pair)
            }
            Err(error) if error.is_missing() => {
                let make = format!("make it: zmesh key new {}", file.display());
                Err(Failure::from(error).next(make))
            }
            read => Ok(read?),
        }
    }

    /// Whose keys are good now. What the file says of a key goes before what came with an address.
    pub(super) fn allowed(&self) -> AllowList {
        let mut list = self.given.clone();
        for (key, allowed) in self.listed.iter() {
            list.insert(*key, allowed.clone());
        }
        #[expect(clippy::disallowed_methods, reason = "keys end at a time of day")]
        list.at(SystemTime::now())
    }

    /// Keeps the node's list as the file says, for as long as the node runs.
    pub(super) async fn follow(mut self, node: Node) {
        let mut allowed = self.allowed();
        while !node.is_stopped() {
            tokio::time::sleep(LOOK_INTERVAL).await;
            self.look();
            // Also when the file is as it was: keys have an end.
            let now = self.allowed();
            if now != allowed {
                report(&allowed, &now);
                allowed = now.clone();
                node.allow(now);
            }
        }
    }

    /// Reads the file if it has changed. One that cannot be read changes nothing: half a line that
    /// somebody is about to write must lock nobody out, nor let anybody back in.
    fn look(&mut self) {
        let seen = look(&self.config.allow_list);
        if seen == self.seen {
            return;
        }
        match read_allow_list(&self.config.allow_list) {
            Ok(listed) => {
                (self.listed, self.seen, self.complained) = (listed, seen, false);
            }
            Err(error) if !std::mem::replace(&mut self.complained, true) => {
                tracing::warn!(%error, "the allow-list stays as it was");
            }
            Err(_) => {}
        }
    }
}

/// Says what has changed, since this decides who may do what.
fn report(before: &AllowList, now: &AllowList) {
    let keys: BTreeSet<_> = before.iter().chain(now.iter()).map(|(key, _)| key).collect();
    for key in keys {
        let (was, is) = (before.role(key), now.role(key));
        let Some(allowed) = now.get(key).or_else(|| before.get(key)) else { continue };
        if was != is {
            tracing::info!(%key, node = %allowed.node, %was, %is, "the role of a key has changed");
        }
    }
}

fn read_or_empty(path: &Path) -> Result<AllowList, KeyFileError> {
    match read_allow_list(path) {
        Err(error) if error.is_missing() => Ok(AllowList::default()),
        read => read,
    }
}

fn look(path: &Path) -> Option<Seen> {
    let found = fs::metadata(path).ok()?;
    Some(Seen { inode: found.ino(), bytes: found.len(), modified: found.modified().ok() })
}

impl From<KeyFileError> for Failure {
    fn from(error: KeyFileError) -> Self {
        Self::from_error(Exit::Usage, &error)
    }
}
