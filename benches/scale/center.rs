//! The node in the middle: the process that is measured.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use zmesh::presence::Heartbeat;
use zmesh::transport::Kind;
use zmesh::{Builder, HandlerError, Node, Peer};

use super::Options;

/// The subject that answers with what it gets.
pub(crate) const ECHO: &str = "scale.echo";

/// A node as all here are: a ping a second, and nobody tells of others.
pub(crate) fn describe(id: &str, kind: Kind) -> Builder {
    let heartbeat = Heartbeat { ping_interval: Duration::from_secs(1), ..Heartbeat::default() };
    Node::builder(id).transport_kind(kind).heartbeat(heartbeat).gossip(false)
}

/// Is it, until standard input ends.
pub(crate) async fn be(kind: Kind, dialed: usize) {
    let inherited = std::fs::read_dir("/proc/self/fd").unwrap().count();
    zmesh::transport::zmq::check_descriptors();
    let mut lines = BufReader::new(std::io::stdin()).lines();
    let mut builder = describe("center", kind).bind("tcp://127.0.0.1:0");
    for address in lines.by_ref().take(dialed) {
        builder = builder.connect(address.unwrap());
    }
    let node = builder.start().unwrap();
    let echo = |_from: Peer, text: String| async move { Ok::<_, HandlerError>(text) };
    node.on_request(ECHO, echo).unwrap();
    println!("{} {inherited}", node.address().unwrap());
    // Nothing more is written: the end means that who measures is gone.
    tokio::task::spawn_blocking(move || drop(lines.next())).await.unwrap();
}

/// The process of the node in the middle, which ends with this value.
pub(crate) struct Center {
    child: Child,
    pub(crate) address: String,
    /// Descriptors that were not its own.
    inherited: usize,
}

impl Center {
    /// Starts this binary again; it dials `addresses`.
    pub(crate) fn start(options: &Options, addresses: &[String]) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--center", &addresses.len().to_string()]);
        command.args(["--transport", &options.transport.to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        for address in addresses {
            writeln!(stdin, "{address}").unwrap();
        }
        child.stdin = Some(stdin);
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let (address, inherited) = line.trim().split_once(' ').unwrap();
        let (address, inherited) = (address.to_owned(), inherited.parse().unwrap());
        Self { child, address, inherited }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count() - self.inherited
    }
}

impl Drop for Center {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
