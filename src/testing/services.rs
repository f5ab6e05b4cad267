//! Shell: Replicas of a test's own machines, beside those of the key-value store.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::Node;
use crate::replica::{Machine, Replica, ReplicaSettings};
use crate::wal::Disk;

/// A service that every node of a cluster runs a replica of.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) name: &'static str,
    start: Arc<Start>,
}

/// Starts a replica with a machine of its own.
type Start = dyn Fn(Arc<dyn Disk>, &Node, ReplicaSettings) -> Replica + Send + Sync;

impl Service {
    pub(super) fn new<M: Machine + Send + 'static>(
        name: &'static str,
        machine: impl Fn() -> M + Send + Sync + 'static,
    ) -> Self {
        let start = move |disk, node: &Node, settings| {
            Replica::start_on(disk, node, name, settings, machine())
        };
        Self { name, start: Arc::new(start) }
    }

    /// Starts a replica on the present runtime, with its log beside that of the store.
    pub(super) fn start(
        &self,
        disk: Arc<dyn Disk>,
        node: &Node,
        store: ReplicaSettings,
    ) -> Replica {
        let mut dir = store.data_dir.file_name().unwrap_or_default().to_owned();
        dir.push("-");
        dir.push(self.name);
        let data_dir = store.data_dir.parent().unwrap_or_else(|| Path::new("")).join(dir);
        (self.start)(disk, node, ReplicaSettings { data_dir, ..store })
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}
