//! The processes of all, for as long as the benchmark runs.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use zmesh::transport::Kind;

use super::{Peer, Slot, etcd, libzmq, nats, redis, tcp, zmesh_peer};

/// What never takes so long unless it is broken.
const START_MAX: Duration = Duration::from_secs(30);

/// See the module. What is not installed, or not asked for, is not there.
pub(crate) struct Servers {
    zmesh: Option<zmesh_peer::Cluster>,
    zmesh_unsynced: Option<zmesh_peer::Cluster>,
    tcp: SocketAddr,
    libzmq: String,
    etcd: Option<Cluster>,
    nats: Option<Cluster>,
    redis: Option<Cluster>,
    redis_unsynced: Option<Cluster>,
    _dir: tempfile::TempDir,
}

struct Cluster {
    /// Where the member listens that leads.
    port: u16,
    /// Where the member listens that leads the bucket, of NATS.
    keys_port: u16,
    version: String,
    processes: Vec<Child>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // It may have ended by itself.
            drop(process.kill());
            drop(process.wait());
        }
    }
}

impl Servers {
    /// Starts those that `is_needed`.
    pub(crate) async fn start(kind: Kind, is_needed: impl Fn(Peer) -> bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        let zmesh = async |peer, flags: &[&str]| match is_needed(peer) {
            true => Some(zmesh_peer::Cluster::start(kind, flags).await),
            false => None,
        };
        let nats = [Peer::Nats, Peer::Jetstream, Peer::JetstreamKv].into_iter().any(&is_needed);
        Self {
            zmesh: zmesh(Peer::Zmesh, &[]).await,
            zmesh_unsynced: zmesh(Peer::ZmeshUnsynced, &["--sync", "interval"]).await,
            tcp: tcp::serve(),
            libzmq: libzmq::serve(),
            etcd: if is_needed(Peer::Etcd) { start_etcd(path).await } else { None },
            nats: if nats { start_nats(path).await } else { None },
            redis: if is_needed(Peer::Redis) { start_redis(path, "always").await } else { None },
            redis_unsynced: match is_needed(Peer::RedisEverysec) {
                true => start_redis(path, "everysec").await,
                false => None,
            },
            _dir: dir,
        }
    }

    fn cluster(&self, peer: Peer) -> Option<&Cluster> {
        match peer {
            Peer::Etcd => self.etcd.as_ref(),
            Peer::Nats | Peer::Jetstream | Peer::JetstreamKv => self.nats.as_ref(),
            Peer::Redis => self.redis.as_ref(),
            Peer::RedisEverysec => self.redis_unsynced.as_ref(),
            Peer::Libzmq | Peer::Tcp | Peer::Zmesh | Peer::ZmeshUnsynced => None,
        }
    }

    pub(crate) fn has(&self, peer: Peer) -> bool {
        let is_ours = matches!(peer, Peer::Libzmq | Peer::Tcp | Peer::Zmesh | Peer::ZmeshUnsynced);
        is_ours || self.cluster(peer).is_some()
    }

    pub(crate) fn versions(&self) -> String {
        let all = [&self.etcd, &self.nats, &self.redis];
        let all = all.into_iter().flatten().map(|cluster| cluster.version.as_str());
        all.collect::<Vec<_>>().join(", ")
    }

    /// So many slots of a peer that is there, on so many connections.
    pub(crate) async fn slots(&self, peer: Peer, count: usize, connections: usize) -> Vec<Slot> {
        let mut slots: Vec<Slot> = Vec::with_capacity(count);
        for number in 0..count {
            slots.push(match slots.get(number % connections) {
                Some(slot) if number >= connections => slot.share(),
                _ => self.slot(peer).await,
            });
        }
        slots
    }

    async fn slot(&self, peer: Peer) -> Slot {
        let port = || self.cluster(peer).unwrap().port;
        match peer {
            Peer::Zmesh => Slot::Zmesh(self.zmesh.as_ref().unwrap().slot()),
            Peer::ZmeshUnsynced => Slot::Zmesh(self.zmesh_unsynced.as_ref().unwrap().slot()),
            Peer::Tcp => Slot::Tcp(tcp::Slot::connect(self.tcp).await),
            Peer::Libzmq => Slot::Libzmq(libzmq::Slot::connect(&self.libzmq)),
            Peer::Etcd => Slot::Etcd(etcd::Slot::connect(port()).await.unwrap()),
            Peer::Nats | Peer::Jetstream => Slot::Nats(nats::Slot::connect(port()).await.unwrap()),
            Peer::JetstreamKv => {
                let port = self.cluster(peer).unwrap().keys_port;
                Slot::NatsKeys(nats::Slot::connect(port).await.unwrap())
            }
            Peer::Redis | Peer::RedisEverysec => {
                Slot::Redis(redis::Slot::connect(port()).await.unwrap())
            }
        }
    }
}

/// Free ports, as far as anybody can know.
fn ports<const N: usize>() -> [u16; N] {
    let held = [(); N].map(|()| TcpListener::bind(("127.0.0.1", 0)).unwrap());
    held.map(|listener| listener.local_addr().unwrap().port())
}

/// The version of a program, in its own words; says so if it is not there.
fn version(program: &str) -> Option<String> {
    let Ok(output) = Command::new(program).arg("--version").output() else {
        eprintln!("{program} is not installed, so it is left out");
        return None;
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let first = text.lines().next().unwrap_or_default();
    Some(first.split(" sha=").next().unwrap_or_default().to_owned())
}

/// Ends with this process, however it ends, where `setpriv` is there to see to it.
fn spawn(program: &str, args: &[String], dir: &Path) -> Child {
    let mut command = match Command::new("setpriv").arg("--version").output() {
        Ok(_) => {
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL", program]);
            command
        }
        Err(_) => Command::new(program),
    };
    std::fs::create_dir_all(dir).unwrap();
    let command = command.args(args).current_dir(dir).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

async fn until(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + START_MAX;
    // A look at something that hangs is one that fails.
    while tokio::time::timeout(Duration::from_secs(3), look()).await != Ok(true) {
        assert!(Instant::now() < end, "{what} is not ready within {START_MAX:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn start_etcd(dir: &Path) -> Option<Cluster> {
    let version = version("etcd")?;
    let (client, peer) = (ports::<3>(), ports::<3>());
    let members = [0, 1, 2].map(|at: usize| format!("e{at}=http://127.0.0.1:{}", peer[at]));
    let start = |at: usize| {
        let (client, peer) =
            (format!("http://127.0.0.1:{}", client[at]), format!("http://127.0.0.1:{}", peer[at]));
        let name = format!("e{at}");
        let args = [
            ("--name", &name),
            ("--data-dir", &"data".to_owned()),
            ("--listen-client-urls", &client),
            ("--advertise-client-urls", &client),
            ("--listen-peer-urls", &peer),
            ("--initial-advertise-peer-urls", &peer),
            ("--initial-cluster", &members.join(",")),
        ];
        let args = args.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value.clone()]);
        spawn("etcd", &args.collect::<Vec<_>>(), &dir.join(name.as_str()))
    };
    let processes = (0..3).map(start).collect();
    let mut cluster = Cluster { port: 0, keys_port: 0, version, processes };
    until("etcd", async || {
        for port in client {
            if let Some(slot) = etcd::Slot::connect(port).await
                && slot.leads().await == Some(true)
            {
                cluster.port = port;
            }
        }
        cluster.port != 0
    })
    .await;
    Some(cluster)
}

async fn start_nats(dir: &Path) -> Option<Cluster> {
    let version = version("nats-server")?;
    let (client, route) = (ports::<3>(), ports::<3>());
    let routes = route.map(|port| format!("nats://127.0.0.1:{port}")).join(", ");
    let start = |at: usize| {
        let own = dir.join(format!("nats{at}"));
        std::fs::create_dir_all(&own).unwrap();
        let config = format!(
            "host: 127.0.0.1\nport: {}\nserver_name: n{at}\njetstream {{ store_dir: \"js\" }}\n\
             cluster {{ name: peers, host: 127.0.0.1, port: {}, routes: [{routes}] }}\n",
            client[at], route[at]
        );
        std::fs::write(own.join("config"), config).unwrap();
        spawn("nats-server", &["-c".to_owned(), "config".to_owned()], &own)
    };
    let processes = (0..3).map(start).collect();
    let mut cluster = Cluster { port: 0, keys_port: 0, version, processes };
    until("nats-server", async || {
        let Some(slot) = nats::Slot::connect(client[0]).await else { return false };
        if !slot.create_streams().await {
            return false;
        }
        let port = async |stream| {
            let leader = slot.leader(stream).await?;
            (0..3).find(|at| leader == format!("n{at}")).map(|at| client[at])
        };
        let ports = (port(nats::STREAM).await, port(nats::BUCKET).await);
        let (Some(stream), Some(bucket)) = ports else { return false };
        (cluster.port, cluster.keys_port) = (stream, bucket);
        true
    })
    .await;
    nats::respond(cluster.port);
    Some(cluster)
}

async fn start_redis(dir: &Path, sync: &str) -> Option<Cluster> {
    let version = version("redis-server")?;
    let ports = ports::<3>();
    let start = |at: usize| {
        let port = ports[at].to_string();
        let mut args = vec!["--port", &port, "--appendonly", "yes", "--appendfsync", sync];
        args.extend(["--save", "", "--bind", "127.0.0.1"]);
        let primary = format!("127.0.0.1 {}", ports[0]);
        if at > 0 {
            args.extend(["--replicaof", &primary]);
        }
        let args: Vec<_> = args.into_iter().map(str::to_owned).collect();
        spawn("redis-server", &args, &dir.join(format!("redis-{sync}{at}")))
    };
    let processes = (0..3).map(start).collect();
    let cluster = Cluster { port: ports[0], keys_port: 0, version, processes };
    until("redis-server", async || {
        let Some(slot) = redis::Slot::connect(cluster.port).await else { return false };
        let info = slot.call(&[b"INFO", b"replication"]).await.unwrap_or_default();
        String::from_utf8_lossy(&info).matches("state=online").count() == 2
    })
    .await;
    Some(cluster)
}
