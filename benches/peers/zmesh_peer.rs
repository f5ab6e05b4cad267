//! zmesh: three processes, one node as client, all slots on it.

use bytes::Bytes;
use zmesh::Node;
use zmesh::kv::Kv;
use zmesh::log::{Log, Record, Topic};
use zmesh::route::Filter;
use zmesh::transport::Kind;

use super::{Operation, VALUE};

#[allow(dead_code, reason = "shared with the tests of the cluster, which do more with it")]
#[path = "../../tests/cluster/processes.rs"]
mod processes;

use processes::{DEADLINE, HEARTBEAT, Processes};

/// The subject of the handler of `zmesh serve` that sends back what it gets.
const ECHO: &str = "zmesh.echo";

pub(crate) struct Cluster {
    slot: Slot,
    /// Ends with this.
    _processes: Processes,
}

#[derive(Clone)]
pub(crate) struct Slot {
    node: Node,
    kv: Kv,
    topic: Topic,
    leader: String,
}

impl Cluster {
    /// Three members, and a client, with this transport.
    pub(crate) async fn start(kind: Kind, flags: &[&str]) -> Self {
        let kind_name = kind.to_string();
        let transport = ["--transport", &kind_name];
        let processes = Processes::start_with(3, &[&transport[..], flags].concat()).await;
        let builder = Node::builder("client").heartbeat(HEARTBEAT).transport_kind(kind);
        let node = builder.connect(processes.address(0)).start().unwrap();
        node.wait_for_peers(&Filter::any(), 3, DEADLINE).await.unwrap();
        let leader = processes.leader(&node, None).await;
        let leader = processes.id(leader).to_owned();
        let kv = Kv::new(&node).timeout(DEADLINE);
        let topic = Log::new(&node).timeout(DEADLINE).topic("peers");
        Self { slot: Slot { node, kv, topic, leader }, _processes: processes }
    }

    pub(crate) fn slot(&self) -> Slot {
        self.slot.clone()
    }
}

impl Slot {
    pub(crate) async fn run(&self, operation: Operation, key: u64) {
        let (key, value) = (format!("key-{key:012}"), Bytes::from_static(&VALUE));
        match operation {
            Operation::Request => {
                drop(self.node.request_raw(&self.leader, ECHO, value).await.unwrap());
            }
            Operation::Set => drop(self.kv.set(key, value).await.unwrap()),
            Operation::Get => drop(self.kv.get(key).await.unwrap()),
            Operation::Append => drop(self.topic.append(Record::new(value)).await.unwrap()),
        }
    }
}
