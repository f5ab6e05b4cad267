//! Clients of real processes that do what the clients of simulated worlds do, and the same oracle.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use zmesh::replica::AckLevel;
use zmesh::{Clock, Node};

use crate::desk::{CLIENTS, Desk};
use crate::ending::{Ending, SERVICES, agree, ending, report};
use crate::oracle::{Counts, Oracle};
use crate::processes::Processes;
use crate::trace::Trace;

/// What never takes so long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

pub(crate) struct Load {
    pub(crate) name: &'static str,
    pub(crate) nodes: Vec<Node>,
    pub(crate) oracle: Oracle,
    pub(crate) trace: Trace,
    clock: Clock,
    stop: Arc<AtomicBool>,
    writers: JoinSet<()>,
    /// They end when the load is dropped.
    _readers: JoinSet<()>,
}

impl Load {
    /// Begins, and waits until it is served.
    pub(crate) async fn start(name: &'static str, cluster: &Processes, seed: u64) -> Self {
        let (trace, clock) = (Trace::default(), Clock::start());
        let oracle = Oracle::new(trace.clone());
        let (stop, values) = (Arc::<AtomicBool>::default(), Arc::new(AtomicU64::new(1)));
        let (mut writers, mut readers) = (JoinSet::new(), JoinSet::new());
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut nodes = Vec::new();
        for client in 0..CLIENTS {
            let node = cluster.client(&format!("c{client}"), client % cluster.count()).await;
            nodes.push(node.clone());
            let desk = Desk {
                client,
                node,
                oracle: oracle.clone(),
                rng: rng.fork(),
                stop: Arc::clone(&stop),
                mutant: None,
                level: AckLevel::Quorum,
                echoing: Vec::new(),
                values: Arc::clone(&values),
            };
            let (of_desk, that_go_on) = desk.tasks(&mut rng);
            of_desk.into_iter().for_each(|task| drop(writers.spawn(task)));
            that_go_on.into_iter().for_each(|task| drop(readers.spawn(task)));
        }
        let trace_time = trace.clone();
        readers.spawn(async move {
            loop {
                trace_time.set_now(clock.now());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        let load = Self { name, nodes, oracle, trace, clock, stop, writers, _readers: readers };
        load.goes_on(50).await;
        load
    }

    /// Says what happens.
    pub(crate) fn say(&self, what: &str) {
        self.trace.set_now(self.clock.now());
        self.trace.line(what);
    }

    /// Waits until so many more operations were answered, and returns how long that took.
    pub(crate) async fn goes_on(&self, operations: u64) -> Duration {
        let (begin, goal) = (self.clock.now(), self.oracle.counts().answered + operations);
        while self.oracle.counts().answered < goal {
            let waited = self.clock.now().saturating_since(begin);
            if let Some(what) = self.oracle.failure() {
                self.fail(&what);
            }
            if waited > PATIENCE {
                self.fail(&format!("nothing goes on: {:?}", self.oracle.counts()));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        self.clock.now().saturating_since(begin)
    }

    /// Ends, and judges what was seen.
    pub(crate) async fn end(mut self) -> Counts {
        self.say("the load ends");
        self.stop.store(true, Ordering::Relaxed);
        let mut writers = std::mem::take(&mut self.writers);
        let ended = async {
            while let Some(ended) = writers.join_next().await {
                ended.unwrap();
            }
        };
        if tokio::time::timeout(PATIENCE, ended).await.is_err() {
            self.fail("a client still waits for an answer");
        }
        let last = self.everything_served().await;
        for service in SERVICES {
            match tokio::time::timeout(PATIENCE, agree(self.nodes[0].clone(), service)).await {
                Ok(Ok(())) => {}
                Ok(Err(what)) => self.fail(&what),
                Err(_) => self.fail(&format!("the members of {service} cannot be compared")),
            }
        }
        let begin = self.clock.now();
        while !self.oracle.have_seen(last) {
            if self.clock.now().saturating_since(begin) > PATIENCE {
                self.fail(&format!("somebody has not seen {last:?}"));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        if let Some(what) = self.oracle.failure().or_else(|| self.oracle.judge(last).err()) {
            self.fail(&what);
        }
        self.keep_history();
        eprintln!("{}: {:?}", self.name, self.oracle.counts());
        self.oracle.counts()
    }

    /// Waits for the end as long as it comes nearer: after a long run the group has much to do.
    async fn everything_served(&self) -> Ending {
        let mut last = Box::pin(ending(self.nodes[0].clone(), self.trace.clone()));
        let mut delivered = 0;
        loop {
            if let Ok(last) = tokio::time::timeout(PATIENCE, &mut last).await {
                return last;
            }
            let now = self.oracle.counts().deliveries;
            if now == delivered {
                report(self.nodes[0].clone(), self.trace.clone()).await;
                self.fail("not everything is served again");
            }
            delivered = now;
        }
    }

    /// The history of the registers, for other checkers.
    fn keep_history(&self) -> PathBuf {
        let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let file = file.join(format!("chaos-{}.jsonl", self.name));
        std::fs::write(&file, self.oracle.history()).unwrap();
        file
    }

    fn fail(&self, what: &str) -> ! {
        let history = self.keep_history();
        let trace = history.with_extension("txt");
        std::fs::write(&trace, self.trace.text()).unwrap();
        let (name, trace, history) = (self.name, trace.display(), history.display());
        panic!("{name}: {what}\nwhat happened: {trace}\nthe history: {history}");
    }
}
