//! Process control, with a shell script in the place of a node: what matters here is how a process
//! starts, ends, and is told apart, which the script can vary and a good node does not.

use super::*;

const DEADLINE: Duration = Duration::from_secs(20);
const GOOD: &str = "echo ready node=x address=y; exec sleep 1000";
const SILENT: &str = "exec sleep 1000";
const STUBBORN: &str = "trap '' TERM; echo ready node=x address=y; exec sleep 1000";
const FAILING: &str = "echo disk on fire >&2; exit 3";

/// `sh serve ...` runs the file `serve` in the directory of the node.
fn cluster(dir: &Path, attached: bool, scripts: &[&str]) -> LocalCluster {
    let nodes = u16::try_from(scripts.len()).unwrap();
    let (cluster, preset) = ("test".to_owned(), Preset::LowLatency);
    let plan = Plan { cluster, nodes, preset, first_port: None, transport: None, sync: None };
    let mut cluster = LocalCluster::create(dir, &plan, attached).unwrap();
    cluster.program = "/bin/sh".into();
    for (node, script) in cluster.nodes().iter().zip(scripts) {
        fs::write(cluster.node_dir(&node.id).join("serve"), script).unwrap();
    }
    cluster
}

/// Opens a cluster as the next command would. A process that another test is starting at this
/// moment holds a copy of the lock until it has become the other program, so this may take a while.
async fn open(dir: &Path) -> LocalCluster {
    let opened = async {
        loop {
            match LocalCluster::open(dir, false) {
                Err(LocalError::Busy { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
                opened => return opened.unwrap(),
            }
        }
    };
    let mut cluster = tokio::time::timeout(DEADLINE, opened).await.unwrap();
    cluster.program = "/bin/sh".into();
    cluster
}

fn pids(cluster: &LocalCluster) -> Vec<Option<u32>> {
    cluster.nodes().iter().map(LocalNode::pid).collect()
}

fn processes(cluster: &LocalCluster) -> Vec<Process> {
    cluster.nodes().iter().filter_map(|node| node.process.clone()).collect()
}

/// A demo that is interrupted anywhere must not leave nodes on somebody's machine.
#[tokio::test]
async fn dropped_cluster_leaves_no_process() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = cluster(dir.path(), true, &[GOOD, GOOD, GOOD]);
    cluster.start(DEADLINE).await.unwrap();
    assert!(pids(&cluster).iter().all(Option::is_some));
    let processes = processes(&cluster);
    assert_eq!(processes.len(), 3);
    drop(cluster);
    assert!(!processes.iter().any(Process::is_running));
}

/// The reason why a node did not start is in its log; nobody should have to look for that.
#[tokio::test]
async fn node_that_ends_early_is_reported_with_its_log_and_the_rest_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = cluster(dir.path(), false, &[GOOD, FAILING]);
    let error = cluster.start(DEADLINE).await.unwrap_err().to_string();
    assert_eq!(error, "node n2 did not start (exit status: 3); its log ends with:\ndisk on fire");
    let processes = processes(&cluster);
    assert!(processes.iter().any(Process::is_running), "the good node ran");
    drop(cluster);
    assert!(!processes.iter().any(Process::is_running), "a failed start leaves nothing behind");
}

/// A node that hangs must not hang its starter.
#[tokio::test]
async fn silent_node_is_given_up_on_at_the_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = cluster(dir.path(), true, &[SILENT]);
    let error = cluster.start(Duration::from_millis(50)).await.unwrap_err().to_string();
    assert_eq!(error, "node n1 was not ready within 50ms; it logged nothing");
}

/// Stopping is asking first; who does not listen is killed, and the caller is told who.
#[tokio::test]
async fn stop_kills_only_those_that_do_not_stop() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = cluster(dir.path(), true, &[GOOD, STUBBORN]);
    cluster.start(DEADLINE).await.unwrap();
    let killed = cluster.stop(Duration::from_secs(2)).await.unwrap();
    assert_eq!(killed, [NodeId::new("n2").unwrap()]);
    assert_eq!(pids(&cluster), [None, None]);
}

/// `cluster start` in one command, `cluster kill` and `stop` in others: the file carries it over.
#[tokio::test]
async fn detached_cluster_is_found_again_and_only_the_dead_are_restarted() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = cluster(dir.path(), false, &[GOOD, GOOD]);
    first.start(DEADLINE).await.unwrap();
    let started = pids(&first);
    first.detach();

    let mut second = open(dir.path()).await;
    assert_eq!(pids(&second), started);
    let n1 = NodeId::new("n1").unwrap();
    assert!(second.kill(&n1).await.unwrap());
    assert!(!second.kill(&n1).await.unwrap(), "it was dead");
    assert_eq!(pids(&second), [None, started[1]]);

    second.start(DEADLINE).await.unwrap();
    assert!(pids(&second)[0].is_some_and(|pid| Some(pid) != started[0]));
    assert_eq!(pids(&second)[1], started[1], "a running node was restarted");
    assert!(second.stop(DEADLINE).await.unwrap().is_empty());
    drop(second);

    assert_eq!(pids(&open(dir.path()).await), [None, None]);
}

/// Two commands at once would start two processes on one data directory.
#[tokio::test]
async fn second_command_on_one_cluster_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let first = cluster(dir.path(), false, &[GOOD]);
    let second = LocalCluster::open(dir.path(), false);
    assert!(matches!(second, Err(LocalError::Busy { .. })), "{second:?}");
    drop(first);
    assert_eq!(open(dir.path()).await.nodes().len(), 1);
}

/// What `serve` will read must be what was meant: each node knows all others and not itself.
#[test]
fn each_node_gets_a_valid_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = cluster(dir.path(), false, &[GOOD, GOOD, GOOD]);
    for node in cluster.nodes() {
        let path = cluster.node_dir(&node.id).join("zmesh.toml");
        let config = Written::read(&path).unwrap().resolve().unwrap();
        assert_eq!(config.node.id.as_ref(), Some(&node.id));
        assert_eq!(config.node.bind, node.address);
        assert_eq!(config.node.peers.len(), 2);
        assert_eq!(config.replica.unwrap().members.len(), 3);
    }
}
