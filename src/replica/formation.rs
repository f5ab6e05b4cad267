//! Shell: How a replica gets its directory: it opens the one it has, or begins a cluster together
//! with the other initial members.
//!
//! A raft id names a data directory and is never used again, so that a member that lost its disk
//! can never vote as its former self. It is therefore drawn at random, written to disk before
//! anybody hears of it, and announced as a label. Once every initial member has been seen, each
//! computes the same list of members from the same announcements. A directory that is empty while
//! the others have already begun can only be that of a member that lost its disk: it stays out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::handle::{Phase, ReplicaSettings, Shared, StopCause, Stopped};
use super::rejoin::{self, Rejoin};
use super::snapshot::SnapshotError;
use super::store::{Store, StoreError};
use super::sync::Confidence;
use crate::consensus::LogError;
use crate::consensus::membership::{Bootstrap, InvalidBootstrap, Member};
use crate::id::NodeId;
use crate::node::Node;
use crate::wal::{Disk, OpenMode};

/// How long a linked node may take to say how the cluster began, and how long until it is looked
/// again for one that does.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Holds the raft id of a directory until there is a log that has it.
const RAFT_ID_FILE: &str = "raft-id";

/// Why a replica cannot begin or go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum FormationError {
    #[error("the initial members cannot be: {0}")]
    Bootstrap(#[from] InvalidBootstrap),
    #[error("the replica was stopped")]
    Closed,
    #[error("{file}: {error}")]
    Io { file: PathBuf, error: std::io::Error },
    #[error(transparent)]
    Log(LogError),
    #[error("{file} holds no raft id: restore it, or remove this member and add it again")]
    Malformed { file: PathBuf },
    #[error("{node} is not among the initial members")]
    NotMember { node: NodeId },
    #[error(
        "the cluster {cluster} has begun without this directory, which is empty: if its disk was \
         lost, remove the member and add it again; if the path is wrong, correct it"
    )]
    Outsider { cluster: String },
    #[error("the data directory belongs to node {owner}, not to {node}")]
    Owner { owner: NodeId, node: NodeId },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl FormationError {
    pub(super) fn cause(&self) -> StopCause {
        match self {
            Self::Bootstrap(_)
            | Self::NotMember { .. }
            | Self::Outsider { .. }
            | Self::Owner { .. } => StopCause::Configuration,
            Self::Closed => StopCause::Asked,
            Self::Io { .. } | Self::Log(_) => StopCause::Failed,
            Self::Malformed { .. }
            | Self::Store(StoreError::Bootstrap(_) | StoreError::Condemned { .. }) => {
                StopCause::Corrupt
            }
            Self::Store(StoreError::Incomplete { .. }) => StopCause::Configuration,
            Self::Store(StoreError::Snapshot(error)) if error.is_damage() => StopCause::Corrupt,
            Self::Store(StoreError::Snapshot(
                SnapshotError::Foreign { .. } | SnapshotError::NewerFormat { .. },
            )) => StopCause::Configuration,
            Self::Store(StoreError::Snapshot(_)) => StopCause::Failed,
            Self::Store(StoreError::Mark { .. }) => StopCause::Failed,
            Self::Store(StoreError::Copy { .. } | StoreError::Restore(_)) => StopCause::Corrupt,
            Self::Store(StoreError::Wal(error)) if error.is_damage() => StopCause::Corrupt,
            Self::Store(StoreError::Wal(error)) if error.is_of_others() => StopCause::Configuration,
            Self::Store(StoreError::Wal(_)) => StopCause::Failed,
        }
    }
}

/// Opens the directory, or waits for the other members and creates it.
pub(super) async fn form(
    disk: Arc<dyn Disk>,
    node: &Node,
    name: &str,
    settings: &ReplicaSettings,
    shared: &Shared,
) -> Result<Store, FormationError> {
    let mut store = open_or_create(disk, node, name, settings, shared).await?;
    store.begin(settings.sync)?;
    Ok(store)
}

async fn open_or_create(
    disk: Arc<dyn Disk>,
    node: &Node,
    name: &str,
    settings: &ReplicaSettings,
    shared: &Shared,
) -> Result<Store, FormationError> {
    let dir = settings.data_dir.as_path();
    let io = |error| FormationError::Io { file: dir.to_owned(), error };
    rejoin::resume(disk.as_ref(), dir).map_err(io)?;
    match Store::open(Arc::clone(&disk), dir, settings.wal) {
        Ok(Some(store)) => {
            check_owner(&store, node)?;
            match in_doubt(disk.as_ref(), dir, &store)? {
                None => return adopt(disk.as_ref(), dir, node, name, store),
                Some(rejoin) => {
                    rejoin.wait_for_leader(node, name, shared).await?;
                    rejoin.set_aside(disk.as_ref(), dir).map_err(io)?;
                }
            }
        }
        Ok(None) | Err(StoreError::Incomplete { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let rejoin = Rejoin::read(disk.as_ref(), dir).map_err(io)?;
    if settings.join || rejoin.is_some() {
        let raft_id = raft_id(node, disk.as_ref(), dir)?;
        announce(node, name, raft_id, None);
        let bootstrap = find_cluster(node, name, shared, rejoin.as_ref()).await?;
        let id = node.id().clone();
        let store = Store::create(Arc::clone(&disk), dir, settings.wal, id, raft_id, &bootstrap)?;
        return adopt(disk.as_ref(), dir, node, name, store);
    }
    if !settings.members.contains(node.id()) {
        return Err(FormationError::NotMember { node: node.id().clone() });
    }
    let raft_id = raft_id(node, disk.as_ref(), dir)?;
    announce(node, name, raft_id, None);
    let members = meet(node, name, raft_id, settings, shared).await?;
    let bootstrap = Bootstrap::new(members)?;
    let id = node.id().clone();
    let store = Store::create(Arc::clone(&disk), dir, settings.wal, id, raft_id, &bootstrap)?;
    adopt(disk.as_ref(), dir, node, name, store)
}

/// Takes an existing directory into use, if it is this node's.
fn adopt(
    disk: &dyn Disk,
    dir: &Path,
    node: &Node,
    name: &str,
    store: Store,
) -> Result<Store, FormationError> {
    check_owner(&store, node)?;
    let identity = store.identity();
    // From here on the raft id lives and dies with the log: who lost the one has lost the other.
    forget_raft_id(disk, dir)?;
    announce(node, name, identity.raft_id, Some(identity.cluster.to_string()));
    Ok(store)
}

fn check_owner(store: &Store, node: &Node) -> Result<(), FormationError> {
    let owner = &store.identity().node;
    if owner == node.id() {
        return Ok(());
    }
    Err(FormationError::Owner { owner: owner.clone(), node: node.id().clone() })
}

/// What has to be done before a directory may be used that was not closed in order.
fn in_doubt(disk: &dyn Disk, dir: &Path, store: &Store) -> Result<Option<Rejoin>, FormationError> {
    if store.confidence() == Confidence::Whole {
        return Ok(None);
    }
    let rejoin = Rejoin::of(disk, dir, store).map_err(FormationError::Log)?;
    if rejoin.is_none() {
        // Nobody else can have what is lost, or be misled by its being gone.
        tracing::warn!("writes of the time before the system went down may be lost");
    }
    Ok(rejoin)
}

/// Gives a replica that began anew the place of its former self, if it did. Returns only if that is
/// not possible.
pub(super) async fn finish(
    (disk, dir): (Arc<dyn Disk>, PathBuf),
    node: Node,
    name: &'static str,
    shared: &Arc<Shared>,
) -> Stopped {
    match Rejoin::read(disk.as_ref(), &dir) {
        Ok(Some(rejoin)) => {
            let reason = rejoin.finish((disk, dir), node, name, Arc::clone(shared)).await;
            Stopped::new(StopCause::Configuration, &reason)
        }
        Ok(None) => std::future::pending().await,
        Err(error) => Stopped::new(StopCause::Failed, &error),
    }
}

fn announce(node: &Node, name: &str, raft_id: u64, cluster: Option<String>) {
    node.set_system_label(&raft_id_label(name), Some(format!("{raft_id:016x}")));
    node.set_system_label(&cluster_label(name), cluster);
}

/// Takes everything back that a replica has announced.
pub(super) fn withdraw(node: &Node, name: &str) {
    for label in [super::service::role_label(name), raft_id_label(name), cluster_label(name)] {
        node.set_system_label(&label, None);
    }
}

/// The label in which a member announces its raft id.
pub(super) fn raft_id_label(name: &str) -> String {
    format!("_{name}.raft")
}

/// The label in which a replica announces which cluster its directory belongs to.
pub(super) fn cluster_label(name: &str) -> String {
    format!("_{name}.cluster")
}

/// Waits until a linked node runs a replica, and asks it how the cluster began: a new directory
/// begins the same way, and follows.
async fn find_cluster(
    node: &Node,
    name: &str,
    shared: &Shared,
    rejoin: Option<&Rejoin>,
) -> Result<Bootstrap, FormationError> {
    let label = cluster_label(name);
    let mut events = node.events();
    *shared.progress.lock() = Phase::Forming(Vec::new());
    loop {
        for peer in node.peers() {
            let Some(cluster) = peer.labels.get(&label) else { continue };
            if rejoin.is_some_and(|rejoin| !rejoin.is_of(cluster)) {
                continue;
            }
            let subject = super::service::bootstrap_subject(name);
            let request = node.system_request(&peer.node, &subject, bytes::Bytes::new());
            let Ok(bytes) = request.timeout(ASK_TIMEOUT).await else { continue };
            match Bootstrap::decode(&bytes) {
                Ok(found) if found.cluster_id().to_string() == *cluster => return Ok(found),
                Ok(_) | Err(_) => tracing::warn!(peer = %peer.node, "told of no cluster"),
            }
        }
        if node.is_stopped() {
            return Err(FormationError::Closed);
        }
        // Labels change without an event, and an answer may have been lost.
        if let Ok(Ok(None)) = tokio::time::timeout(LOOK_AGAIN, events.next()).await {
            return Err(FormationError::Closed);
        }
    }
}

/// The raft id that a linked node has announced, if its directory belongs to the cluster.
pub(super) fn announced_by(node: &Node, name: &str, who: &NodeId, cluster: &str) -> Option<u64> {
    let peer = node.peers().into_iter().find(|peer| peer.node == *who)?;
    let ours = peer.labels.get(&cluster_label(name)).is_some_and(|label| label == cluster);
    let raft_id = peer.labels.get(&raft_id_label(name)).filter(|_| ours)?;
    u64::from_str_radix(raft_id, 16).ok().filter(|raft_id| *raft_id != 0)
}

/// Waits until every initial member has announced its raft id.
async fn meet(
    node: &Node,
    name: &str,
    raft_id: u64,
    settings: &ReplicaSettings,
    shared: &Shared,
) -> Result<Vec<Member>, FormationError> {
    let mut events = node.events();
    loop {
        let seen = announced(node, name, raft_id);
        let missing: Vec<NodeId> =
            settings.members.iter().filter(|member| !seen.contains_key(*member)).cloned().collect();
        if missing.is_empty() {
            let members = settings.members.iter().map(|member| Member {
                raft_id: seen[member],
                node: member.clone(),
                voter: true,
            });
            let members: Vec<Member> = members.collect();
            refuse_outsider(node, name, &members)?;
            return Ok(members);
        }
        tracing::debug!(?missing, "waiting for the initial members");
        *shared.progress.lock() = Phase::Forming(missing);
        if node.is_stopped() {
            return Err(FormationError::Closed);
        }
        // Missing an event is no loss: the peer table is looked at again in any case.
        if let Ok(None) = events.next().await {
            return Err(FormationError::Closed);
        }
    }
}

/// Raft ids by node, as announced by every peer that has joined, and our own.
fn announced(node: &Node, name: &str, raft_id: u64) -> BTreeMap<NodeId, u64> {
    let label = raft_id_label(name);
    let parse = |text: &String| u64::from_str_radix(text, 16).ok().filter(|id| *id != 0);
    let mut seen: BTreeMap<NodeId, u64> = node
        .peers()
        .into_iter()
        .filter_map(|peer| Some((peer.node, peer.labels.get(&label).and_then(parse)?)))
        .collect();
    seen.insert(node.id().clone(), raft_id);
    seen
}

/// A peer that has begun a cluster with other members than these has begun without us.
fn refuse_outsider(node: &Node, name: &str, members: &[Member]) -> Result<(), FormationError> {
    let ours = Bootstrap::new(members.to_vec())?.cluster_id().to_string();
    let label = cluster_label(name);
    for peer in node.peers() {
        if !members.iter().any(|member| member.node == peer.node) {
            continue;
        }
        match peer.labels.get(&label) {
            Some(cluster) if *cluster != ours => {
                return Err(FormationError::Outsider { cluster: cluster.clone() });
            }
            Some(_) | None => {}
        }
    }
    Ok(())
}

/// A raft id for a new directory: random, so that none is ever used again.
pub fn new_raft_id() -> u64 {
    loop {
        let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
        if high ^ low != 0 {
            return high ^ low;
        }
    }
}

/// The raft id of this directory: read, or drawn and written before anybody hears of it.
fn raft_id(node: &Node, disk: &dyn Disk, dir: &Path) -> Result<u64, FormationError> {
    let file = dir.join(RAFT_ID_FILE);
    let io = |error| FormationError::Io { file: file.clone(), error };
    disk.create_dir(dir).map_err(io)?;
    if disk.list(dir).map_err(io)?.contains(&file) {
        return read_raft_id(disk, &file);
    }
    let raft_id = node.random_nonzero();
    let draft = dir.join("raft-id.new");
    let written = disk.open(&draft, OpenMode::CreateEmpty).map_err(io)?;
    written.write_at(format!("{raft_id:016x}").as_bytes(), 0).map_err(io)?;
    written.sync_data().map_err(io)?;
    disk.rename(&draft, &file).map_err(io)?;
    disk.sync_dir(dir).map_err(io)?;
    Ok(raft_id)
}

/// Removes the file of [`raft_id`], if it is there.
fn forget_raft_id(disk: &dyn Disk, dir: &Path) -> Result<(), FormationError> {
    let file = dir.join(RAFT_ID_FILE);
    let io = |error| FormationError::Io { file: file.clone(), error };
    if disk.list(dir).map_err(io)?.contains(&file) {
        disk.remove(&file).map_err(io)?;
        disk.sync_dir(dir).map_err(io)?;
    }
    Ok(())
}

fn read_raft_id(disk: &dyn Disk, file: &Path) -> Result<u64, FormationError> {
    let io = |error| FormationError::Io { file: file.to_owned(), error };
    let mut text = [0; 16];
    disk.open(file, OpenMode::Existing).map_err(io)?.read_at(&mut text, 0).map_err(io)?;
    let parsed =
        std::str::from_utf8(&text).ok().and_then(|text| u64::from_str_radix(text, 16).ok());
    parsed.filter(|id| *id != 0).ok_or_else(|| FormationError::Malformed { file: file.to_owned() })
}
