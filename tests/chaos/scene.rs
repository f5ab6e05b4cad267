//! Three processes, the lines between them, and the load.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};

use crate::disks::SmallDisk;
use crate::load::Load;
use crate::namespaces::Namespaces;
use crate::oracle::Counts;
use crate::processes::Processes;
use crate::proxy::Line;
use crate::shim::Shim;

/// One row at a time: another one on the same processors would only slow both down.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// Operations that are answered while something is wrong, and before the next.
pub(crate) const BETWEEN: u64 = 150;
/// Little, so that snapshots are taken and files begun while things go wrong.
const FLAGS: [&str; 6] =
    ["--log-groups", "1", "--snapshot-entries", "500", "--hash-interval", "500ms"];

pub(crate) struct Scene {
    pub(crate) load: Load,
    /// Dropped before the disks, which are in use as long as it runs.
    pub(crate) cluster: Processes,
    pub(crate) disks: Vec<SmallDisk>,
    pub(crate) namespaces: Option<Namespaces>,
    pub(crate) lines: BTreeMap<(usize, usize), Line>,
    pub(crate) shims: Vec<Shim>,
    pub(crate) rng: fastrand::Rng,
    _only: MutexGuard<'static, ()>,
}

/// How often something is tried that a busy machine may spoil.
const TRIES: usize = 4;

/// How often each row does its harm.
pub(crate) fn rounds(usual: u64) -> u64 {
    std::env::var("ZMESH_CHAOS_ROUNDS").map_or(usual, |text| text.parse().unwrap())
}

/// What a row needs.
#[derive(Clone, Copy, Default)]
pub(crate) struct Needs {
    pub(crate) lines: bool,
    pub(crate) shims: bool,
    pub(crate) files_max: Option<u32>,
    /// Whether each has a network namespace of its own, if that is allowed here.
    pub(crate) namespaces: bool,
    /// How large each disk is; none for as large as it is.
    pub(crate) disk: Option<&'static str>,
}

impl Scene {
    pub(crate) async fn start(name: &'static str, needs: Needs) -> Self {
        let only = ONE_AT_A_TIME.lock().await;
        let mut cluster = Processes::describe(3, &FLAGS);
        cluster.files_max = needs.files_max;
        let (mut lines, mut shims) = (BTreeMap::new(), Vec::new());
        if needs.lines {
            for (from, to) in pairs() {
                let line = Line::to(cluster.address(to)).await;
                cluster.lead(from, to, line.address.clone());
                lines.insert((from, to), line);
            }
        }
        if needs.shims {
            for number in 0..3 {
                let shim = Shim::new(cluster.data_dir(number).with_extension("shim"));
                cluster.set_environment(number, shim.environment());
                shims.push(shim);
            }
        }
        let namespaces = needs.namespaces.then(|| Namespaces::make(3)).flatten();
        if let Some(namespaces) = &namespaces {
            cluster.move_to((0..3).map(|it| (namespaces.name(it), namespaces.host(it))));
        }
        let disks = needs.disk.map_or_else(Vec::new, |size| {
            (0..3).filter_map(|it| SmallDisk::mount(cluster.data_dir(it), size)).collect()
        });
        for number in 0..3 {
            cluster.spawn(number).await;
        }
        let load = Load::start(name, &cluster, 1).await;
        Self {
            load,
            cluster,
            disks,
            namespaces,
            lines,
            shims,
            rng: fastrand::Rng::with_seed(1),
            _only: only,
        }
    }

    pub(crate) async fn leader(&self) -> usize {
        self.cluster.leader(&self.load.nodes[0], None).await
    }

    /// Waits until the load has gone on, and says after what.
    pub(crate) async fn goes_on(&self, after: &str) -> Duration {
        self.load.say(after);
        self.load.goes_on(BETWEEN).await
    }

    /// Nothing passes in this direction any more, whoever has dialed whom.
    pub(crate) fn cut(&self, from: usize, to: usize) {
        self.lines[&(from, to)].forth.send_modify(|weather| weather.cut = true);
        self.lines[&(to, from)].back.send_modify(|weather| weather.cut = true);
    }

    pub(crate) fn heal(&self) {
        self.lines.values().for_each(Line::heal);
    }

    pub(crate) async fn end(self) -> Counts {
        self.load.end().await
    }
}

/// Does something several times until it costs nothing: what a busy machine alone may cost once, it
/// does not cost every time.
pub(crate) async fn costs_nothing(mut harm: impl AsyncFnMut() -> bool) -> bool {
    for _ in 0..TRIES {
        if harm().await {
            return true;
        }
    }
    false
}

/// All pairs of different processes.
pub(crate) fn pairs() -> impl Iterator<Item = (usize, usize)> {
    (0..3).flat_map(|from| (0..3).map(move |to| (from, to))).filter(|(from, to)| from != to)
}
