//! Shell: The replicas that one node runs: the key-value store, and the groups of the log.
//!
//! Each has a directory of its own in the data directory of the node:
//!
//! ```text
//! DATA_DIR/log-groups   how many groups the log has, as text
//! DATA_DIR/kv/          the store
//! DATA_DIR/log0/ ...    the groups of the log
//! ```
//!
//! How many groups there are is written down when the directory is made, and announced to other
//! nodes: a topic belongs to one of them by a hash of its name modulo their number, so with another
//! number it would be looked for elsewhere.
//!
//! Invariant: no replica starts in a directory that was made for another number of groups.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::NodeId;
use crate::kv::{self, KvMachine};
use crate::log::{self, GROUPS_LABEL, GROUPS_MAX};
use crate::node::Node;
use crate::replica::{Progress, Replica, ReplicaSettings, StopCause, Stopped};
use crate::wal::{self, Disk, OpenMode, RealDisk};

/// The file of a data directory that says how many groups the log has, as text.
pub const GROUPS_FILE: &str = "log-groups";
/// The most bytes of that file which are looked at.
const GROUPS_FILE_BYTES: usize = 16;
/// A group of the log gets files, and a window in memory, of this part of the store's size: there
/// are several of them, and retention gives space back in whole files.
const GROUP_SHARE: u64 = 4;
const WINDOW_SHARE: usize = 4;

/// The replicas of one node. Clones are cheap and mean the same.
///
/// Dropping the last one stops them.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use zmesh::{Node, host::Host, kv::Kv, replica::ReplicaSettings};
///
/// let dir = tempfile::tempdir()?;
/// let node = Node::builder("alone").bind("tcp://127.0.0.1:0").start()?;
/// let settings = ReplicaSettings::new(dir.path(), vec![node.id().clone()]);
/// let host = Host::start(&node, &settings, 1)?;
/// host.store().ready(Duration::from_secs(20)).await?;
/// Kv::local(&node, host.store()).set("colour", "green").await?;
/// assert!(dir.path().join("kv").is_dir() && dir.path().join("log0").is_dir());
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Host {
    store: Replica,
    log: Vec<Replica>,
    groups: u16,
}

/// Why a data directory is not used. Nothing was changed in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// The directory belongs to a log with another number of groups.
    #[error(
        "{} was made for {found} groups of the log, not for {asked}: the number never changes",
        dir.display()
    )]
    GroupsDiffer {
        /// The directory.
        dir: PathBuf,
        /// What it was made for.
        found: u16,
        /// What was asked for.
        asked: u16,
    },
    /// There is a limit to the number of groups.
    #[error("{asked} groups of the log are more than {GROUPS_MAX}")]
    GroupsTooMany {
        /// What was asked for.
        asked: u16,
    },
    /// The system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The file with the number of groups has something else in it.
    #[error("{} does not hold a number of groups", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
    },
    /// The directory has the files of one replica, as those of early versions had.
    #[error(
        "{0} holds the files of a replica itself: they belong into {0}/kv (stop the node, then: \
         mkdir {0}/kv && find {0} -maxdepth 1 -type f -exec mv {{}} {0}/kv ';')",
        dir.display()
    )]
    OldLayout {
        /// The directory.
        dir: PathBuf,
    },
}

impl HostError {
    /// What has to be done about it.
    pub const fn cause(&self) -> StopCause {
        match self {
            Self::GroupsDiffer { .. } | Self::GroupsTooMany { .. } | Self::OldLayout { .. } => {
                StopCause::Configuration
            }
            Self::Io { .. } => StopCause::Failed,
            Self::Malformed { .. } => StopCause::Corrupt,
        }
    }
}

/// Another node has another number of groups.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "{node} runs {theirs} groups of the log and this node {ours}: all members must have as many"
)]
pub struct GroupsDisagree {
    /// Who.
    pub node: NodeId,
    /// What it says.
    pub theirs: String,
    /// What this node has.
    pub ours: u16,
}

impl Host {
    /// Starts a replica of the store and `log_groups` replicas of the log on `node`, in
    /// subdirectories of [`ReplicaSettings::data_dir`].
    ///
    /// Files and windows of the log's groups are smaller than those of the store: a quarter for
    /// each; space is set aside once, with the store.
    ///
    /// # Errors
    ///
    /// [`HostError`]: the directory cannot be used, and nothing was started.
    ///
    /// # Panics
    ///
    /// As [`Replica::start`].
    pub fn start(
        node: &Node,
        settings: &ReplicaSettings,
        log_groups: u16,
    ) -> Result<Self, HostError> {
        Self::start_on(Arc::new(RealDisk), node, settings, log_groups)
    }

    /// As [`start`](Self::start), on a disk of the caller's choice.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    ///
    /// # Panics
    ///
    /// As [`start`](Self::start).
    pub fn start_on(
        disk: Arc<dyn Disk>,
        node: &Node,
        settings: &ReplicaSettings,
        log_groups: u16,
    ) -> Result<Self, HostError> {
        prepare(disk.as_ref(), &settings.data_dir, log_groups)?;
        // Before any replica of the log announces itself.
        node.set_system_label(GROUPS_LABEL, Some(log_groups.to_string()));
        let at = |name: &str| settings.data_dir.join(name);
        let of_store = ReplicaSettings { data_dir: at(kv::SERVICE), ..settings.clone() };
        let on = || Arc::clone(&disk);
        let store = Replica::start_on(on(), node, kv::SERVICE, of_store, KvMachine::new());
        let of_group = |group| {
            let name = log::service(group);
            let wal = group_wal(settings.wal);
            let settings = ReplicaSettings { data_dir: at(name), wal, ..settings.clone() };
            log::start_on(on(), node, group, settings)
        };
        let log = (0..log_groups).map(of_group).collect();
        Ok(Self { store, log, groups: log_groups })
    }

    /// The replica of the key-value store.
    pub fn store(&self) -> &Replica {
        &self.store
    }

    /// The replicas of the log, by group.
    pub fn log(&self) -> &[Replica] {
        &self.log
    }

    /// All replicas with the names of their services.
    pub fn replicas(&self) -> impl Iterator<Item = (&'static str, &Replica)> {
        let groups = (0..self.groups).map(log::service);
        std::iter::once((kv::SERVICE, &self.store)).chain(groups.zip(&self.log))
    }

    /// Waits until one of the replicas has stopped, and says which and why.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if the future is dropped.
    pub async fn stopped(&self) -> (&'static str, Stopped) {
        let stopped = self
            .replicas()
            .map(|(name, replica)| Box::pin(async move { (name, replica.stopped().await) }));
        let mut stopped: Vec<_> = stopped.collect();
        std::future::poll_fn(move |cx| {
            let ready = stopped.iter_mut().find_map(|it| match it.as_mut().poll(cx) {
                std::task::Poll::Ready(stopped) => Some(stopped),
                std::task::Poll::Pending => None,
            });
            ready.map_or(std::task::Poll::Pending, std::task::Poll::Ready)
        })
        .await
    }

    /// Waits until another node says that the log has another number of groups, as long as a replica
    /// of this node has not begun: afterwards it is the other that is wrong. Pending for ever if that
    /// does not happen.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if the future is dropped.
    pub async fn disagreement(&self, node: &Node) -> GroupsDisagree {
        let mut events = node.events();
        let ours = self.groups.to_string();
        while self.is_forming().await {
            for peer in node.peers() {
                if let Some(theirs) = peer.labels.get(GROUPS_LABEL).filter(|it| **it != ours) {
                    let (node, theirs) = (peer.node, theirs.clone());
                    return GroupsDisagree { node, theirs, ours: self.groups };
                }
            }
            // Missing an event is no loss: all peers are looked at in any case.
            if let Ok(None) = events.next().await {
                break;
            }
        }
        std::future::pending().await
    }

    async fn is_forming(&self) -> bool {
        for (_, replica) in self.replicas() {
            if let Progress::Forming { .. } = replica.status().await {
                return true;
            }
        }
        false
    }

    /// Stops all replicas, and returns when the last has put its directory in order.
    ///
    /// # Cancel safety
    ///
    /// The replicas stop even if nobody waits for it.
    pub async fn close(&self) {
        self.stop();
        for (_, replica) in self.replicas() {
            replica.stopped().await;
        }
    }

    /// Stops all replicas. What they acknowledged is on disk.
    pub fn stop(&self) {
        self.replicas().for_each(|(_, replica)| replica.stop());
    }
}

/// Makes the directory, or looks whether it is as it was made.
fn prepare(disk: &dyn Disk, dir: &Path, groups: u16) -> Result<(), HostError> {
    if groups > GROUPS_MAX {
        return Err(HostError::GroupsTooMany { asked: groups });
    }
    let io = |source| HostError::Io { path: dir.to_path_buf(), source };
    disk.create_dir(dir).map_err(io)?;
    let entries = disk.list(dir).map_err(io)?;
    if entries.iter().any(|path| is_of_replica(path)) {
        return Err(HostError::OldLayout { dir: dir.to_path_buf() });
    }
    let file = dir.join(GROUPS_FILE);
    if !entries.contains(&file) {
        return write_groups(disk, dir, groups);
    }
    let found = read_groups(disk, &file)?;
    if found != groups {
        let dir = dir.to_path_buf();
        return Err(HostError::GroupsDiffer { dir, found, asked: groups });
    }
    Ok(())
}

/// Whether a file is one that a replica has in its own directory.
fn is_of_replica(path: &Path) -> bool {
    let named = |name: &str| path.file_name().is_some_and(|file| file == name);
    let ends = path.extension().is_some_and(|ending| ending == "wal" || ending == "snapshot");
    ends || named("meta") || named("raft-id")
}

fn write_groups(disk: &dyn Disk, dir: &Path, groups: u16) -> Result<(), HostError> {
    let draft = dir.join("log-groups.new");
    let io = |source| HostError::Io { path: draft.clone(), source };
    let written = disk.open(&draft, OpenMode::CreateEmpty).map_err(io)?;
    written.write_at(format!("{groups}\n").as_bytes(), 0).map_err(io)?;
    written.sync_data().map_err(io)?;
    disk.rename(&draft, &dir.join(GROUPS_FILE)).map_err(io)?;
    disk.sync_dir(dir).map_err(io)
}

fn read_groups(disk: &dyn Disk, file: &Path) -> Result<u16, HostError> {
    let io = |source| HostError::Io { path: file.to_path_buf(), source };
    let opened = disk.open(file, OpenMode::Existing).map_err(io)?;
    let length = usize::try_from(opened.len().map_err(io)?).unwrap_or(usize::MAX);
    let mut text = vec![0; length.min(GROUPS_FILE_BYTES)];
    opened.read_at(&mut text, 0).map_err(io)?;
    let number = std::str::from_utf8(&text).ok().and_then(|text| text.trim_end().parse().ok());
    number
        .filter(|number| *number <= GROUPS_MAX)
        .ok_or_else(|| HostError::Malformed { file: file.to_path_buf() })
}

fn group_wal(store: wal::Options) -> wal::Options {
    wal::Options {
        segment_bytes: store.segment_bytes / GROUP_SHARE,
        reserve_bytes: 0,
        window_bytes_max: store.window_bytes_max / WINDOW_SHARE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::MemoryDisk;

    const DIR: &str = "/data";

    fn write(disk: &MemoryDisk, name: &str, text: &[u8]) {
        disk.create_dir(Path::new(DIR)).unwrap();
        let file = disk.open(&Path::new(DIR).join(name), OpenMode::CreateEmpty).unwrap();
        file.write_at(text, 0).unwrap();
    }

    /// With another number topics would be looked for where they are not.
    #[test]
    fn number_of_groups_is_fixed_when_the_directory_is_made() {
        let disk = MemoryDisk::new();
        let dir = Path::new(DIR);
        let groups = |groups| prepare(&disk, dir, groups);
        let too_many = groups(GROUPS_MAX + 1).unwrap_err();
        assert!(matches!(too_many, HostError::GroupsTooMany { .. }), "{too_many}");
        groups(4).unwrap();
        disk.crash(&mut fastrand::Rng::with_seed(1), wal::Keep::Nothing);
        groups(4).unwrap();
        for other in [0, 3, GROUPS_MAX] {
            let error = groups(other).unwrap_err();
            let expected = format!(
                "/data was made for 4 groups of the log, not for {other}: the number never changes"
            );
            assert_eq!(error.to_string(), expected);
        }
        for text in [&b""[..], b"x", b"17", b"4 groups", b"-1", b"44444444444444444444"] {
            write(&disk, GROUPS_FILE, text);
            let error = groups(4).unwrap_err();
            assert!(matches!(error, HostError::Malformed { .. }), "{text:?}: {error}");
        }
    }

    /// Whoever has a directory of an early version is told what to do with it, and nothing is made
    /// beside its files.
    #[test]
    fn directory_that_is_a_replica_itself_is_refused() {
        for name in ["meta", "raft-id", "0000000001-00000000000000000002.wal", "1-1.snapshot"] {
            let disk = MemoryDisk::new();
            write(&disk, name, b"x");
            let error = prepare(&disk, Path::new(DIR), 4).unwrap_err();
            assert!(error.to_string().contains("mkdir /data/kv && find /data"), "{name}: {error}");
            assert_eq!(disk.list(Path::new(DIR)).unwrap().len(), 1);
        }
    }
}
