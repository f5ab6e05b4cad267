//! `zmesh check --online`: do the running replicas have the same state?
//!
//! A mark is set, which is an entry that changes nothing; every member sums up its state as it is
//! after that entry; the sums are compared. It works under load, and costs one pass over the state.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use zmesh::replica::{Admin, HashAt};
use zmesh::{Effect, ErrorCode, NodeId};

use super::client::Client;
use super::failure::{Exit, Failure};
use super::output::Record;
use super::{Connect, Context};

/// Wait between two looks whether a member has come to its sum.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// How long one member may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// Compares the replicas of every service.
pub(super) async fn run(connect: &Connect, context: &Context) -> Result<(), Failure> {
    let client = Client::connect(connect).await?;
    let compared = compare(&client).await;
    client.close().await;
    let rows = compared?;
    context.out.table_or_json(&rows)?;
    judge(&rows)
}

async fn compare(client: &Client) -> Result<Vec<Row>, Failure> {
    client.settle().await;
    let services = Admin::services(&client.node);
    if services.is_empty() {
        let message = "no node runs a replica of a cluster that has begun";
        return Err(Failure::coded(Exit::Unreachable, ErrorCode::NoReplica, message)
            .next("see `zmesh status --all`"));
    }
    let mut rows = Vec::new();
    for service in services {
        rows.extend(compare_service(client, &service).await?);
    }
    Ok(rows)
}

async fn compare_service(client: &Client, service: &str) -> Result<Vec<Row>, Failure> {
    let admin = Admin::new(&client.node, service);
    // A third for the mark, the rest for the members.
    let failed = |error: zmesh::replica::ClientError| {
        Failure::from_code(error.code(), Effect::None, &error)
            .next("see `zmesh status --all`: more than half of the members must be up")
    };
    let roster = admin.members(client.time_left() / 3).await.map_err(failed)?;
    let members: Vec<NodeId> = roster.members.into_iter().map(|member| member.node).collect();
    let index = admin.mark(client.time_left() / 2).await.map_err(failed)?;
    let mut found = BTreeMap::new();
    let collect = async {
        while found.len() < members.len() {
            for node in &members {
                if found.contains_key(node) {
                    continue;
                }
                // Who is behind has not come to the mark; who is silent may be back in time.
                let Ok(report) = admin.hashes(node, ANSWER_MAX).await else { continue };
                let at = report.hashes.into_iter().find(|at| at.index == index);
                found.extend(at.map(|at| (node.clone(), at)));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    };
    drop(tokio::time::timeout(client.time_left().saturating_sub(LOOK_INTERVAL), collect).await);
    Ok(rows(service, index, &members, &found))
}

/// Who agrees with the majority, and who does not.
fn rows(
    service: &str,
    index: u64,
    members: &[NodeId],
    found: &BTreeMap<NodeId, HashAt>,
) -> Vec<Row> {
    let mut counts: BTreeMap<(&str, u64), usize> = BTreeMap::new();
    for at in found.values() {
        *counts.entry((&at.hash, at.bytes)).or_default() += 1;
    }
    let majority = counts.iter().find(|(_, count)| **count * 2 > found.len());
    let majority = majority.map(|(hash, _)| *hash);
    let row = |node: &NodeId| {
        let at = found.get(node).cloned();
        let verdict = match &at {
            None => "silent",
            Some(at) if majority == Some((&at.hash, at.bytes)) => "same",
            Some(_) => "differs",
        };
        Row { service: service.to_owned(), node: node.clone(), index, at, verdict }
    };
    members.iter().map(row).collect()
}

fn judge(rows: &[Row]) -> Result<(), Failure> {
    let of = |verdict: &str| -> Vec<String> {
        let rows = rows.iter().filter(|row| row.verdict == verdict);
        rows.map(|row| format!("{} of {}", row.node, row.service)).collect()
    };
    let (differs, silent) = (of("differs"), of("silent"));
    if !differs.is_empty() {
        let message = format!("the state of {} differs", differs.join(", "));
        let next = "stop that node, and see what can be done: zmesh repair DIR --rejoin";
        return Err(Failure::coded(Exit::Corrupt, ErrorCode::Corrupt, message).next(next));
    }
    match silent.is_empty() {
        true => Ok(()),
        false => {
            let message = format!("nothing was heard of {} in time", silent.join(", "));
            Err(Failure::new(Exit::Unreachable, message)
                .next("see `zmesh status --all`; --timeout waits longer"))
        }
    }
}

/// One replica in the table.
#[derive(Debug, Serialize)]
struct Row {
    service: String,
    node: NodeId,
    index: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<HashAt>,
    verdict: &'static str,
}

impl Record for Row {
    const COLUMNS: &'static [&'static str] =
        &["service", "node", "index", "hash", "bytes", "verdict"];

    fn cells(&self) -> Vec<String> {
        let (hash, bytes) = match &self.at {
            Some(at) => (at.hash.clone(), at.bytes.to_string()),
            None => ("-".to_owned(), "-".to_owned()),
        };
        let (service, node) = (self.service.clone(), self.node.to_string());
        vec![service, node, self.index.to_string(), hash, bytes, self.verdict.to_owned()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(hashes: &[Option<&str>]) -> Vec<&'static str> {
        let members: Vec<NodeId> =
            (0..hashes.len()).map(|at| format!("n{at}").parse().unwrap()).collect();
        let found = members.iter().zip(hashes).filter_map(|(node, hash)| {
            let hash = (*hash)?.to_owned();
            Some((node.clone(), HashAt { index: 9, term: 1, hash, bytes: 5 }))
        });
        rows("kv", 9, &members, &found.collect()).iter().map(|row| row.verdict).collect()
    }

    /// The odd one out is named; of two nobody knows which it is.
    #[test]
    fn who_differs_from_the_majority_is_named() {
        let [a, b] = [Some("a"), Some("b")];
        assert_eq!(verdicts(&[a, a, a]), ["same"; 3]);
        assert_eq!(verdicts(&[a, b, a]), ["same", "differs", "same"]);
        assert_eq!(verdicts(&[a, b]), ["differs"; 2]);
        assert_eq!(verdicts(&[a, None, a]), ["same", "silent", "same"]);
        assert_eq!(verdicts(&[None]), ["silent"]);
        assert_eq!(verdicts(&[a]), ["same"]);
    }
}
