//! How a run ends: what is asked when nothing goes wrong any more, of a simulated world as of real
//! processes.

use zmesh::kv::Kv;
use zmesh::log::{Log, Topic};
use zmesh::replica::Admin;
use zmesh::{ErrorCode, Node, NodeId};

use crate::desk::{COUNTER, GROUP, LAST, TOPIC};
use crate::plan::ms;
use crate::trace::Trace;

/// The replicated services that are looked at.
pub(crate) const SERVICES: [&str; 2] = ["kv", "log0"];

/// What everybody has to have seen in the end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ending {
    /// What all additions came to.
    pub(crate) sum: i64,
    /// The revision of the last write.
    pub(crate) last: u64,
    /// The end of the topic.
    pub(crate) end: u64,
}

/// Waits until the store serves, and the group is done with the topic.
pub(crate) async fn ending(node: Node, trace: Trace) -> Ending {
    let kv = Kv::new(&node).timeout(ms(500));
    trace.line("waits for the last write");
    let last = loop {
        if let Ok(written) = kv.set(LAST, "1").await {
            break written.revision;
        }
    };
    trace.line("waits for the counter");
    let sum = loop {
        if let Ok(found) = kv.get(COUNTER).await {
            break found.map_or(0, |entry| number(&entry.value));
        }
    };
    trace.line("waits for the topic");
    let topic = Log::new(&node).timeout(ms(500)).topic(TOPIC);
    let end = loop {
        match topic.end().await {
            Ok(end) => break end,
            Err(error) if error.code() == ErrorCode::TopicUnknown => break 0,
            Err(_) => {}
        }
    };
    trace.line("waits for the group");
    drain(&topic, end).await;
    Ending { sum, last, end }
}

async fn drain(topic: &Topic, end: u64) {
    let group = topic.group(GROUP);
    while end > 0 && !group.status().await.is_ok_and(|status| status.lag == 0) {
        tokio::time::sleep(ms(50)).await;
    }
}

fn number(value: &[u8]) -> i64 {
    std::str::from_utf8(value).expect("text").parse().expect("a number")
}

/// Whether all members have the same state at the same entry; waits until they can be compared.
pub(crate) async fn agree(node: Node, service: &'static str) -> Result<(), String> {
    let states = states(&Admin::new(&node, service)).await;
    let mut hashes = states.iter().map(|(_, hash)| hash);
    let first = hashes.next().ok_or("there are no members")?;
    match hashes.all(|hash| hash == first) {
        true => Ok(()),
        false => Err(format!("the states of {service} differ: {states:?}")),
    }
}

/// What each member has at the newest mark that all of them have reached.
async fn states(admin: &Admin) -> Vec<(NodeId, String)> {
    loop {
        tokio::time::sleep(ms(100)).await;
        let Ok(mark) = admin.mark(ms(500)).await else { continue };
        let Ok(roster) = admin.members(ms(500)).await else { continue };
        let mut states = Vec::new();
        for member in &roster.members {
            // It may have to apply a little yet.
            for _ in 0..20 {
                let Ok(report) = admin.hashes(&member.node, ms(500)).await else { continue };
                if let Some(hash) = report.hashes.iter().find(|it| it.index == mark) {
                    states.push((member.node.clone(), hash.hash.clone()));
                    break;
                }
                tokio::time::sleep(ms(50)).await;
            }
        }
        if states.len() == roster.members.len() {
            return states;
        }
    }
}

/// Says how the members are, for whoever wonders why something does not happen.
pub(crate) async fn report(node: Node, trace: Trace) {
    for service in SERVICES {
        let roster = Admin::new(&node, service).members(ms(2_000)).await;
        trace.line(format_args!("{roster:?}"));
    }
}
