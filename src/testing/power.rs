//! Shell: Disks that lose what was not synced when a test cuts the power of a machine.

use std::sync::Arc;

use super::{TestCluster, TestClusterBuilder};
use crate::replica::SyncMode;
use crate::wal::{Disk, Keep, MemoryDisk, RealDisk};

impl TestClusterBuilder {
    /// When writes reach the disk [default: [`SyncMode::Always`]].
    pub fn sync(mut self, mode: SyncMode) -> Self {
        self.plan.sync = mode;
        self
    }

    /// Keeps the logs on disks in memory instead of the temporary directory, so that a test can
    /// [cut the power](TestCluster::cut_power).
    pub fn memory_disks(mut self) -> Self {
        self.plan.memory_disks = true;
        self
    }
}

impl TestCluster {
    /// Kills a node and cuts the power of its machine: whatever was not synced is lost. What was is
    /// there when the node is started again.
    ///
    /// # Panics
    ///
    /// If the cluster was not built with [`memory_disks`](TestClusterBuilder::memory_disks).
    pub fn cut_power(&mut self, number: usize) {
        self.kill(number);
        let disk = self.members[number].disk.as_ref().expect("a cluster with disks in memory");
        // Everything is lost that may be, so there is nothing to draw.
        disk.crash(&mut fastrand::Rng::with_seed(0), Keep::Nothing);
    }

    /// The disk of a node in a cluster with [`memory_disks`](TestClusterBuilder::memory_disks).
    pub fn disk(&self, number: usize) -> Option<&MemoryDisk> {
        self.members[number].disk.as_ref()
    }
}

/// The disk that a node uses.
pub(super) fn disk(of: Option<&MemoryDisk>) -> Arc<dyn Disk> {
    match of {
        Some(disk) => Arc::new(disk.clone()),
        None => Arc::new(RealDisk),
    }
}
