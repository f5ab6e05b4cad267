//! Shell: How a replica comes back that may have lost what it had confirmed: as somebody else.
//!
//! Its copies have been counted, so it must not vote with what is left of them. It waits until the
//! others have a leader without it, sets its directory aside, draws another raft id, and has its
//! former self replaced by a learner that gets everything from the leader. When it has, it votes
//! again if it did before, and what was set aside is deleted.
//!
//! As long as nobody leads, nothing is changed: if all went down at once, the directories are all
//! that there is, and an operator has to decide which of them to [recover](super::recover()) from.
//!
//! Invariant: the file `rejoin` is there from before the old directory is touched until the new self
//! has the place of the old one, so whatever dies in between, the next start goes on.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use super::formation::{self, FormationError};
use super::handle::{Phase, Shared};
use super::service::{self, Operation, Verb};
use super::store::Store;
use super::sync;
use crate::consensus::membership::{Change, Member, decode_changes};
use crate::consensus::{Log, LogError};
use crate::error::ErrorCode;
use crate::id::NodeId;
use crate::node::Node;
use crate::wal::{Disk, EntryKind};

/// How long one question may take, and the time between two.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Bytes of log that are read at a time.
const READ_BYTES: u64 = 1024 * 1024;

/// The file with what is left to do, and the one that says that the directory is being set aside.
const FILE: &str = "rejoin";
const BEGIN_FILE: &str = "rejoin.begin";
/// What is appended to the names of files that are set aside.
const ASIDE: &str = "aside";
/// Files that are no part of the old self.
const KEPT: [&str; 3] = ["lock", FILE, BEGIN_FILE];
const MAGIC: &str = "zmesh rejoin 1";

/// What a replica has to remember until its former self is replaced.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Rejoin {
    cluster: String,
    /// Raft ids that are not used any more, of which the members have one. There are several if the
    /// power failed again on the way.
    former: Vec<u64>,
    /// Whether it voted.
    voter: bool,
}

impl Rejoin {
    /// What is to be done with a directory whose past is in doubt; none if there is nobody else who
    /// could have anything, or be misled.
    pub(super) fn of(disk: &dyn Disk, dir: &Path, store: &Store) -> Result<Option<Self>, LogError> {
        let members = last_members(store)?;
        let former = store.identity().raft_id;
        if members.keys().all(|raft_id| *raft_id == former) {
            return Ok(None);
        }
        let voted = members.get(&former).is_some_and(|member| member.voter);
        let cluster = store.identity().cluster.to_string();
        // It may be the second time, before the first one came to its end.
        let before = Self::read(disk, dir).ok().flatten();
        let mut rejoin = before.unwrap_or(Self { cluster, former: Vec::new(), voter: false });
        rejoin.former.push(former);
        rejoin.voter |= voted;
        Ok(Some(rejoin))
    }

    /// What is left to do, if anything.
    pub(super) fn read(disk: &dyn Disk, dir: &Path) -> io::Result<Option<Self>> {
        Self::read_from(disk, dir, FILE)
    }

    /// Whether a cluster is the one that it left.
    pub(super) fn is_of(&self, cluster: &str) -> bool {
        self.cluster == cluster
    }

    /// Waits until a leader of the cluster has a quorum without this replica.
    pub(super) async fn wait_for_leader(
        &self,
        node: &Node,
        name: &str,
        shared: &Shared,
    ) -> Result<(), FormationError> {
        tracing::warn!(
            former = ?self.former,
            "writes may be lost that this replica had confirmed: it stays out until the others have \
             a leader, and then begins anew as a learner; if they went down with it, recover one of \
             the directories by force"
        );
        loop {
            *shared.progress.lock() = Phase::Doubtful;
            for leader in self.leaders(node, name) {
                if is_confirmed(node, name, &leader).await {
                    return Ok(());
                }
            }
            if node.is_stopped() {
                return Err(FormationError::Closed);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Sets the directory aside, all or nothing as far as anybody can see.
    pub(super) fn set_aside(&self, disk: &dyn Disk, dir: &Path) -> io::Result<()> {
        let Self { cluster, former, voter } = self;
        let former: Vec<String> = former.iter().map(|former| format!("{former:016x}")).collect();
        let content = format!("{MAGIC}\n{cluster} {voter} {}\n", former.join(" "));
        sync::replace(disk, dir, BEGIN_FILE, content.as_bytes())?;
        resume(disk, dir)
    }

    /// Has the former self replaced by this one, and waits until this one votes, if that one did.
    ///
    /// Returns only with a reason why that is not possible.
    pub(super) async fn finish(
        self,
        (disk, dir): (Arc<dyn Disk>, PathBuf),
        node: Node,
        name: &'static str,
        shared: Arc<Shared>,
    ) -> String {
        let own_name = Bytes::copy_from_slice(node.id().as_str().as_bytes());
        loop {
            let replaced = self.replace(&node, name, &shared).await;
            // A leader that was deposed may not know of a member yet; one that a quorum has confirmed
            // before it was asked does.
            if replaced == Err(ErrorCode::DirectoryUnknown)
                && self.has_confirmed_leader(&node, name).await
                && self.replace(&node, name, &shared).await == Err(ErrorCode::DirectoryUnknown)
            {
                return "this replica is no member any more: it was removed while it was down"
                    .to_owned();
            }
            let promoted = match replaced {
                Ok(()) if self.voter => {
                    self.ask(&node, name, &shared, Verb::Promote, own_name.clone()).await
                }
                other => other,
            };
            match promoted {
                Ok(()) => break,
                Err(code) => tracing::debug!(%code, "not back yet"),
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        tracing::info!("the replica has its place again");
        if let Err(error) = forget(disk.as_ref(), &dir) {
            tracing::warn!(%error, "what was set aside could not be deleted; the next start tries again");
        }
        std::future::pending().await
    }

    /// Asks for the place of each former self, of which one is a member.
    async fn replace(
        &self,
        node: &Node,
        name: &'static str,
        shared: &Arc<Shared>,
    ) -> Result<(), ErrorCode> {
        for former in &self.former {
            let mut payload = BytesMut::new();
            payload.put_u64_le(*former);
            payload.put_slice(node.id().as_str().as_bytes());
            match self.ask(node, name, shared, Verb::Replace, payload.freeze()).await {
                Err(ErrorCode::DirectoryUnknown) => {}
                answer => return answer,
            }
        }
        Err(ErrorCode::DirectoryUnknown)
    }

    async fn has_confirmed_leader(&self, node: &Node, name: &str) -> bool {
        for leader in self.leaders(node, name) {
            if is_confirmed(node, name, &leader).await {
                return true;
            }
        }
        false
    }

    /// Asks whoever leads for a change of the members.
    async fn ask(
        &self,
        node: &Node,
        name: &'static str,
        shared: &Arc<Shared>,
        verb: Verb,
        payload: Bytes,
    ) -> Result<(), ErrorCode> {
        let operation = Operation::Member(verb);
        if let Some(leader) = self.leaders(node, name).into_iter().next() {
            let subject = operation.subject(name);
            let request = node.system_request(&leader, &subject, payload).timeout(ASK_TIMEOUT);
            return request.await.map(drop).map_err(|error| error.code());
        }
        // It may lead itself by now.
        let done = service::operate(node, name, shared, operation, payload, ASK_TIMEOUT).await;
        done.map(drop).map_err(|error| error.code)
    }

    /// Linked nodes that lead the cluster by their own account.
    fn leaders(&self, node: &Node, name: &str) -> Vec<NodeId> {
        let (role, cluster) = (service::role_label(name), formation::cluster_label(name));
        let mut peers = node.peers();
        peers.retain(|peer| {
            let is =
                |label: &str, value: &str| peer.labels.get(label).is_some_and(|it| it == value);
            is(&role, "leader") && is(&cluster, &self.cluster)
        });
        peers.into_iter().map(|peer| peer.node).collect()
    }

    fn read_from(disk: &dyn Disk, dir: &Path, name: &str) -> io::Result<Option<Self>> {
        let Some(content) = sync::read(disk, dir, name)? else { return Ok(None) };
        let parsed = std::str::from_utf8(&content).ok().and_then(Self::parse);
        let malformed = || io::Error::new(io::ErrorKind::InvalidData, "not what was written here");
        parsed.map(Some).ok_or_else(malformed)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.strip_prefix(MAGIC)?.split_whitespace();
        let cluster = words.next()?.to_owned();
        let voter = words.next()?.parse().ok()?;
        let former = words.map(|word| u64::from_str_radix(word, 16).ok());
        let former: Vec<u64> = former.collect::<Option<_>>()?;
        (!former.is_empty()).then_some(Self { cluster, former, voter })
    }
}

/// Whether a quorum confirms that a node leads: an inquiry is not answered before.
async fn is_confirmed(node: &Node, name: &str, leader: &NodeId) -> bool {
    let subject = Operation::Inquire.subject(name);
    let question = node.system_request(leader, &subject, Bytes::from_static(&[0; 16]));
    question.timeout(ASK_TIMEOUT).await.is_ok()
}

/// Goes on with setting a directory aside, if that was begun.
///
/// What was set aside before stays, since it had more than what has come since.
pub(super) fn resume(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    let begin = dir.join(BEGIN_FILE);
    let files = match disk.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        files => files?,
    };
    if !files.contains(&begin) {
        let draft = sync::draft(dir, BEGIN_FILE);
        return if files.contains(&draft) { disk.remove(&draft) } else { Ok(()) };
    }
    let again = files.contains(&dir.join(FILE));
    for path in files.iter().filter(|path| is_of_former_self(path)) {
        match again {
            true => disk.remove(path)?,
            false => disk.rename(path, &with_ending(path))?,
        }
    }
    disk.sync_dir(dir)?;
    disk.rename(&begin, &dir.join(FILE))?;
    disk.sync_dir(dir)
}

/// Deletes what was set aside, and the note of it.
fn forget(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    for path in disk.list(dir)?.iter().filter(|path| is_aside(path)) {
        disk.remove(path)?;
    }
    disk.remove(&dir.join(FILE))?;
    disk.sync_dir(dir)
}

fn is_aside(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == ASIDE)
}

fn is_of_former_self(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    !is_aside(path) && !KEPT.contains(&name)
}

fn with_ending(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ASIDE);
    PathBuf::from(name)
}

/// The members as far as the directory tells: its snapshot, and whatever is in its log.
fn last_members(store: &Store) -> Result<BTreeMap<u64, Member>, LogError> {
    let (mut at, first): (u64, Vec<Member>) = match store.snapshot() {
        Some(snapshot) => (snapshot.point.index, snapshot.membership.members().collect()),
        None => (0, store.bootstrap().members().to_vec()),
    };
    let mut members: BTreeMap<_, _> =
        first.into_iter().map(|member| (member.raft_id, member)).collect();
    let log = store.log();
    at = at.max(log.first_index() - 1);
    while at < log.last_index() {
        for entry in log.entries(at + 1, log.last_index() + 1, READ_BYTES)? {
            at = entry.index;
            if entry.kind != EntryKind::Membership {
                continue;
            }
            for change in decode_changes(&entry.data).unwrap_or_default() {
                match change {
                    Change::Add(member) => members.insert(member.raft_id, member),
                    Change::Remove(raft_id) => members.remove(&raft_id),
                };
            }
        }
    }
    Ok(members)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::membership::Bootstrap;
    use crate::wal::{self, Keep, MemoryDisk, OpenMode};

    fn rejoin() -> Rejoin {
        Rejoin { cluster: "c".to_owned(), former: vec![0xABC, 1], voter: true }
    }

    fn put(disk: &MemoryDisk, name: &str) {
        disk.overwrite(&Path::new("/data").join(name), name.as_bytes().to_vec());
    }

    fn names(disk: &MemoryDisk) -> Vec<String> {
        let files = disk.list(Path::new("/data")).unwrap();
        files.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
    }

    /// Whenever the power fails on the way: the old directory is there as a whole, under its names or
    /// under those that it was set aside with, and the next start knows what to do.
    #[test]
    fn setting_aside_survives_a_power_cut_at_every_step() {
        let dir = Path::new("/data");
        for seed in 0..300 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let disk = MemoryDisk::new();
            disk.create_dir(dir).unwrap();
            ["00.wal", "meta", "lock", "unsynced"].iter().for_each(|name| put(&disk, name));
            let kind = [wal::Operation::Rename, wal::Operation::SyncDir];
            disk.fail(kind[rng.usize(..2)], rng.u64(..5), wal::Fault::Broken);
            let done = rejoin().set_aside(&disk, dir);
            disk.heal();
            disk.crash(&mut rng, Keep::Torn);
            resume(&disk, dir).unwrap();
            let found = names(&disk);
            match Rejoin::read(&disk, dir).unwrap() {
                Some(read) => {
                    assert_eq!(read, rejoin());
                    let expected =
                        ["00.wal.aside", "lock", "meta.aside", "rejoin", "unsynced.aside"];
                    assert!(
                        expected.iter().all(|name| found.contains(&(*name).to_owned())),
                        "{found:?}"
                    );
                    assert!(!found.contains(&"meta".to_owned()), "seed {seed}: {found:?}");
                }
                None => {
                    assert!(done.is_err(), "seed {seed}: it was durable");
                    assert!(found.contains(&"meta".to_owned()), "seed {seed}: {found:?}");
                }
            }
        }
    }

    /// The second time, what came since is thrown away and the older, fuller state is kept; at the end
    /// nothing is left of either.
    #[test]
    fn second_loss_keeps_what_was_set_aside_first() {
        let (disk, dir) = (MemoryDisk::new(), Path::new("/data"));
        disk.create_dir(dir).unwrap();
        put(&disk, "meta");
        rejoin().set_aside(&disk, dir).unwrap();
        drop(disk.open(&dir.join("meta"), OpenMode::CreateNew).unwrap());
        rejoin().set_aside(&disk, dir).unwrap();
        assert_eq!(names(&disk), ["meta.aside", "rejoin"]);
        assert_eq!(disk.contents(&dir.join("meta.aside")).unwrap(), b"meta");
        forget(&disk, dir).unwrap();
        assert_eq!(names(&disk), [""; 0]);
        assert_eq!(Rejoin::read(&disk, dir).unwrap(), None);
    }

    /// The power fails again before the members know of the new self: they have the first one, and
    /// whether it voted is what counts.
    #[test]
    fn second_loss_remembers_both_former_selves_and_the_vote() {
        let member =
            |raft_id: u64, name: &str| Member { raft_id, node: name.parse().unwrap(), voter: true };
        let members = vec![member(1, "a"), member(2, "b"), member(3, "c")];
        let bootstrap = Bootstrap::new(members).unwrap();
        let (disk, dir) = (MemoryDisk::new(), Path::new("/data"));
        let options = wal::Options { segment_bytes: 4_096, reserve_bytes: 0, ..Default::default() };
        let create = |raft_id| {
            let disk = Arc::new(disk.clone());
            Store::create(disk, dir, options, "a".parse().unwrap(), raft_id, &bootstrap).unwrap()
        };
        let first = create(1);
        let rejoin = Rejoin::of(&disk, dir, &first).unwrap().expect("there are others");
        assert_eq!((&rejoin.former[..], rejoin.voter), (&[1][..], true));
        rejoin.set_aside(&disk, dir).unwrap();
        drop(first);
        let second = create(4);
        let rejoin = Rejoin::of(&disk, dir, &second).unwrap().expect("there are others");
        assert_eq!((&rejoin.former[..], rejoin.voter), (&[1, 4][..], true));
        assert!(rejoin.is_of(&bootstrap.cluster_id().to_string()));
    }

    /// Alone in its cluster a replica has nobody to wait for, and nobody to mislead.
    #[test]
    fn lone_replica_has_nothing_to_rejoin() {
        let only = Member { raft_id: 1, node: "a".parse().unwrap(), voter: true };
        let bootstrap = Bootstrap::new(vec![only]).unwrap();
        let (disk, dir) = (MemoryDisk::new(), Path::new("/data"));
        let options = wal::Options { segment_bytes: 4_096, reserve_bytes: 0, ..Default::default() };
        let name = "a".parse().unwrap();
        let store = Store::create(Arc::new(disk.clone()), dir, options, name, 1, &bootstrap);
        assert_eq!(Rejoin::of(&disk, dir, &store.unwrap()).unwrap(), None);
    }

    /// A note that is damaged must not be read as something else.
    #[test]
    fn damaged_note_is_refused() {
        let (disk, dir) = (MemoryDisk::new(), Path::new("/data"));
        disk.create_dir(dir).unwrap();
        for text in ["", "zmesh rejoin 1\nc true", "zmesh rejoin 1\nc true xyz", "c true abc"] {
            disk.overwrite(&dir.join(FILE), text.as_bytes().to_vec());
            assert!(Rejoin::read(&disk, dir).is_err(), "{text:?}");
        }
    }
}
