//! Three processes of the built binary, each with its data in a temporary directory.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::File;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use zmesh::keys::{Allowed, KeyPair, PublicKey, Role, put_in_allow_list, write_key_pair};
use zmesh::presence::Heartbeat;
use zmesh::route::Filter;
use zmesh::{Address, Node};

/// What never takes so long unless it is broken.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
/// Below the range from which systems hand out ports by themselves, so that a node finds its port
/// free when it comes back.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// What presence is decided by, here and in the processes.
pub(crate) const HEARTBEAT: Heartbeat = Heartbeat {
    ping_interval: Duration::from_millis(200),
    health_check_interval: Duration::from_millis(200),
    ghost_timeout: Duration::from_millis(1_500),
    handshake_timeout: Duration::from_millis(2_000),
};

/// The processes; they are killed when this is dropped, and end by themselves if the test dies.
pub(crate) struct Processes {
    dir: TempDir,
    nodes: Vec<Process>,
    /// Flags that all get beside the usual ones.
    flags: Vec<String>,
    /// What clients show to nodes with keys; none if there are no keys.
    client_key: Option<KeyPair>,
    /// By which address one dials another, if not by its own. Nobody tells of his own then.
    lines: BTreeMap<(usize, usize), Address>,
    /// What each has in its environment.
    environment: BTreeMap<usize, Vec<(&'static str, OsString)>>,
    /// Those that join a cluster which has begun.
    joining: BTreeSet<usize>,
    /// What each is run by, and in which namespace; none for here.
    namespaces: Vec<String>,
    /// The most files that each may have open, and then it has a GiB of addresses, too; none for
    /// what the system allows.
    pub(crate) files_max: Option<u32>,
}

struct Process {
    id: String,
    address: Address,
    child: Option<Child>,
}

impl Processes {
    /// Starts `count` members, each of which knows the addresses of all.
    pub(crate) async fn start(count: usize) -> Self {
        Self::start_with(count, &[]).await
    }

    /// Starts `count` members with further flags.
    pub(crate) async fn start_with(count: usize, flags: &[&str]) -> Self {
        let mut processes = Self::describe(count, flags);
        for number in 0..count {
            processes.spawn(number).await;
        }
        processes
    }

    /// Starts `count` members with keys, whose links are encrypted. They know each other's keys
    /// from their addresses, and that of [`client`](Self::client) from their allow-lists.
    pub(crate) async fn start_with_keys(count: usize) -> Self {
        let mut processes = Self::describe(count, &[]);
        let client = KeyPair::generate().unwrap();
        for number in 0..count {
            let pair = KeyPair::generate().unwrap();
            write_key_pair(&processes.key_file(number), &pair).unwrap();
            let node = &mut processes.nodes[number];
            node.address = node.address.clone().with_key(Some(pair.public()));
            processes.allow(number, "client", Role::Client, client.public());
        }
        processes.client_key = Some(client);
        for number in 0..count {
            processes.spawn(number).await;
        }
        processes
    }

    /// Says what a key may do, in the allow-list of one member.
    pub(crate) fn allow(&self, number: usize, name: &str, role: Role, key: PublicKey) {
        let allowed = Allowed { node: name.parse().unwrap(), role, until: None };
        put_in_allow_list(&self.data_dir(number).join("node.allow"), &[(key, allowed)]).unwrap();
    }

    /// The file with the keys of a member.
    pub(crate) fn key_file(&self, number: usize) -> PathBuf {
        self.data_dir(number).join("node.key")
    }

    /// Gives a member other keys, from its next start on.
    pub(crate) fn replace_keys(&mut self, number: usize, pair: &KeyPair) {
        std::fs::remove_file(self.key_file(number)).unwrap();
        write_key_pair(&self.key_file(number), pair).unwrap();
        let node = &mut self.nodes[number];
        node.address = node.address.clone().with_key(Some(pair.public()));
    }

    /// Lets one dial another by this address.
    pub(crate) fn lead(&mut self, from: usize, to: usize, by: Address) {
        self.lines.insert((from, to), by);
    }

    /// Adds to the environment of a member, from its next start on.
    pub(crate) fn set_environment(
        &mut self,
        number: usize,
        variables: impl IntoIterator<Item = (&'static str, OsString)>,
    ) {
        self.environment.entry(number).or_default().extend(variables);
    }

    /// Puts each member into a network namespace of its own, where it has this address. The links
    /// are not encrypted, although they lead to what could be another machine.
    pub(crate) fn move_to(&mut self, places: impl IntoIterator<Item = (String, String)>) {
        for (node, (namespace, host)) in self.nodes.iter_mut().zip(places) {
            node.address = Address::tcp(&host, 7_700);
            self.namespaces.push(namespace);
        }
        self.flags.push("--insecure".to_owned());
    }

    /// Lets a member begin with an empty directory in a cluster that has begun.
    pub(crate) fn set_join(&mut self, number: usize) {
        self.joining.insert(number);
    }

    /// Names and addresses of members that do not run yet.
    pub(crate) fn describe(count: usize, flags: &[&str]) -> Self {
        let mut rng = fastrand::Rng::with_seed(uuid::Uuid::new_v4().as_u64_pair().0);
        // Held until all are chosen, so that no port is chosen twice.
        let mut held = Vec::new();
        while held.len() < count {
            held.extend(TcpListener::bind(("127.0.0.1", rng.u16(PORTS))));
        }
        let address = |listener: &TcpListener| {
            Address::tcp("127.0.0.1", listener.local_addr().unwrap().port())
        };
        let node = |(number, listener): (usize, &TcpListener)| Process {
            id: format!("n{}", number + 1),
            address: address(listener),
            child: None,
        };
        let nodes = held.iter().enumerate().map(node).collect();
        drop(held);
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        Self {
            dir: tempfile::tempdir().unwrap(),
            nodes,
            flags,
            client_key: None,
            lines: BTreeMap::new(),
            environment: BTreeMap::new(),
            joining: BTreeSet::new(),
            namespaces: Vec::new(),
            files_max: None,
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn id(&self, number: usize) -> &str {
        &self.nodes[number].id
    }

    pub(crate) fn address(&self, number: usize) -> &Address {
        &self.nodes[number].address
    }

    pub(crate) fn data_dir(&self, number: usize) -> PathBuf {
        self.dir.path().join(self.id(number))
    }

    /// Starts a process that does not run, and waits until it says that it is ready.
    pub(crate) async fn spawn(&mut self, number: usize) {
        let mut child = self.command(number).spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let mut line = String::new();
        let mut reader = BufReader::new(stdout);
        let ready = tokio::time::timeout(DEADLINE, reader.read_line(&mut line)).await;
        let log = || std::fs::read_to_string(self.log(number)).unwrap_or_default();
        assert!(matches!(ready, Ok(Ok(_))), "{} is silent: {}", self.id(number), log());
        assert!(line.starts_with("ready "), "{} says {line:?}: {}", self.id(number), log());
        self.nodes[number].child = Some(child);
    }

    /// Starts a process that is expected to end; returns its exit code and what it logged.
    pub(crate) async fn spawn_in_vain(&mut self, number: usize) -> (Option<i32>, String) {
        let mut child = self.command(number).spawn().unwrap();
        let _held = child.stdin.take();
        let ended = tokio::time::timeout(DEADLINE, child.wait()).await;
        let code = ended.expect("the process ends").unwrap().code();
        (code, std::fs::read_to_string(self.log(number)).unwrap())
    }

    /// Where a member writes its log.
    pub(crate) fn log(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("{}.log", self.id(number)))
    }

    fn command(&self, number: usize) -> Command {
        let members: Vec<&str> = self.nodes.iter().map(|node| node.id.as_str()).collect();
        let mut command = self.program(number);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ZMESH_") {
                command.env_remove(&name);
            }
        }
        command.args(["serve", "--exit-with-parent", "--id", self.id(number)]);
        command.args(["--bind", &self.address(number).clone().with_key(None).to_string()]);
        for other in (0..self.count()).filter(|other| *other != number) {
            let by = self.lines.get(&(number, other)).unwrap_or_else(|| self.address(other));
            command.args(["--peer", &format!("{}@{by}", self.id(other))]);
        }
        if !self.lines.is_empty() {
            // Nobody listens there, so only the lines lead anywhere.
            command.args(["--advertise", &format!("tcp://127.0.0.1:{}", number + 1)]);
        }
        if self.address(number).key().is_some() {
            command.arg("--key-file").arg(self.key_file(number));
        }
        command.arg("--data-dir").arg(self.data_dir(number));
        match self.joining.contains(&number) {
            true => command.arg("--join"),
            false => command.args(["--members", &members.join(",")]),
        };
        command.args(["--ping-interval", "200ms", "--health-check-interval", "200ms"]);
        command.args(["--ghost-timeout", "1500ms", "--handshake-timeout", "2s"]);
        command.args(&self.flags);
        command.envs(self.environment.get(&number).into_iter().flatten().cloned());
        let log = File::options().create(true).append(true).open(self.log(number)).unwrap();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        command.current_dir(self.dir.path()).kill_on_drop(true);
        command
    }

    fn program(&self, number: usize) -> Command {
        let zmesh = env!("CARGO_BIN_EXE_zmesh");
        if let Some(namespace) = self.namespaces.get(number) {
            let mut ip = Command::new("ip");
            ip.args(["netns", "exec", namespace, zmesh]);
            return ip;
        }
        let Some(files_max) = self.files_max else { return Command::new(zmesh) };
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit -n {files_max} -v 1048576; exec \"$0\" \"$@\""), zmesh]);
        shell
    }

    /// Kills a process at once: nothing it has not done is done, and no goodbye is said.
    pub(crate) async fn kill(&mut self, number: usize) {
        let mut child = self.nodes[number].child.take().expect("the process runs");
        child.kill().await.unwrap();
    }

    /// Asks a process to stop in order, and waits until it has.
    pub(crate) async fn stop(&mut self, number: usize) {
        self.signal(number, Signal::TERM);
        let mut child = self.nodes[number].child.take().expect("the process runs");
        let ended = tokio::time::timeout(DEADLINE, child.wait()).await;
        assert!(ended.expect("it stops").unwrap().success());
    }

    /// Sends a signal to a process.
    pub(crate) fn signal(&self, number: usize, signal: Signal) {
        let pid = i32::try_from(self.pid(number)).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    /// The number that the system knows a process by.
    pub(crate) fn pid(&self, number: usize) -> u32 {
        let child = self.nodes[number].child.as_ref().expect("the process runs");
        child.id().expect("it was not waited for")
    }

    /// A node in this process that knows one address and finds the rest by itself.
    pub(crate) async fn client(&self, name: &str, seed: usize) -> Node {
        let mut builder = Node::builder(name).heartbeat(HEARTBEAT).connect(self.address(seed));
        builder = builder.insecure(!self.namespaces.is_empty());
        if !self.lines.is_empty() {
            for node in &self.nodes {
                builder = builder.connect(&node.address);
            }
        }
        let builder = match &self.client_key {
            Some(pair) => builder.keys(pair.clone()),
            None => builder,
        };
        let client = builder.start().unwrap();
        client.wait_for_peers(&Filter::any(), self.count(), DEADLINE).await.unwrap();
        client
    }

    /// The process that leads, as `client` hears; waits for one that is not `except`.
    pub(crate) async fn leader(&self, client: &Node, except: Option<usize>) -> usize {
        let mut events = client.events();
        let look = || {
            let leads = |id: &str| {
                let is_leader = |peer: &zmesh::PeerView| {
                    peer.node.as_str() == id
                        && peer.labels.get("_kv.role").is_some_and(|role| role == "leader")
                };
                client.peers().iter().any(is_leader)
            };
            (0..self.count()).find(|number| Some(*number) != except && leads(self.id(*number)))
        };
        let found = async {
            loop {
                if let Some(leader) = look() {
                    return leader;
                }
                // What was missed does not matter: the peers are looked at again.
                drop(events.next().await);
            }
        };
        tokio::time::timeout(DEADLINE, found).await.expect("somebody leads")
    }
}
