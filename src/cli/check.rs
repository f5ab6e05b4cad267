//! `zmesh check`: is what lies on a disk what was written?

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use zmesh::ErrorCode;
use zmesh::replica::{Report, VerifyError, verify};
use zmesh::wal::{Disk, FileKind, FileReport, RealDisk, Verdict};

use super::failure::{Exit, Failure};
use super::output::Record;
use super::{Connect, Context, compare};

/// Directories of replicas lie at most this deep below the one that is named.
const DEPTH_MAX: usize = 3;

/// Arguments of `zmesh check`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Data directory of a node that does not run. Every file is read; none is changed.
    #[arg(required_unless_present = "online", conflicts_with = "online")]
    dir: Option<PathBuf>,
    /// Compare the states of the running replicas instead, through the network.
    #[arg(long)]
    online: bool,
    #[command(flatten)]
    connect: Connect,
}

/// Runs `zmesh check`.
pub(super) async fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    match &args.dir {
        Some(dir) => look_at(dir, context),
        None => compare::run(&args.connect, context).await,
    }
}

/// Looks at every replica in a directory.
fn look_at(dir: &Path, context: &Context) -> Result<(), Failure> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let mut reports = Vec::new();
    for replica in replicas(dir)? {
        reports.push(verify(&disk, &replica)?);
    }
    print(&reports, context)?;
    judge(&reports, dir)
}

/// The directories of replicas in `dir`, itself among them, in the order of their names.
pub(super) fn replicas(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    collect(dir, DEPTH_MAX, &mut found).map_err(|error| {
        Failure::new(Exit::Usage, format!("cannot read {}: {error}", dir.display()))
    })?;
    if found.is_empty() {
        return Err(VerifyError::NothingThere { dir: dir.to_path_buf() }.into());
    }
    Ok(found)
}

fn collect(dir: &Path, depth: usize, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let (mut inner, mut is_replica) = (Vec::new(), false);
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let ending = path.extension().unwrap_or_default();
        if path.is_dir() {
            // What was set aside is looked at by its own name.
            if !is_set_aside(&path) {
                inner.push(path);
            }
        } else {
            let known = ending == "wal" || ending == "snapshot";
            is_replica |= known || path.file_name().is_some_and(|name| name == "meta");
        }
    }
    if is_replica {
        found.push(dir.to_path_buf());
    }
    inner.sort();
    match depth {
        0 => Ok(()),
        _ => inner.iter().try_for_each(|dir| collect(dir, depth - 1, found)),
    }
}

/// Whether a repair has put this out of the way.
fn is_set_aside(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().contains(".damaged-"))
}

fn print(reports: &[Report], context: &Context) -> Result<(), Failure> {
    if context.out.is_json() {
        return reports.iter().try_for_each(|report| context.out.json(report));
    }
    let rows = reports.iter().flat_map(|report| &report.files).map(|file| Row { file });
    let rows: Vec<_> = rows.collect();
    context.out.table_or_json(&rows)?;
    reports.iter().try_for_each(|report| context.out.text(&summary(report)))
}

fn summary(report: &Report) -> String {
    let state = if report.sound { "sound" } else { "NOT SOUND" };
    let dir = report.dir.display();
    let (Some(node), Some(raft_id), Some(cluster)) =
        (&report.node, &report.raft_id, &report.cluster)
    else {
        return format!("{dir}: {state}");
    };
    format!(
        "{dir}: {state}; node {node}, directory {raft_id}, cluster {cluster}, term {}, entries {} \
         to {}, committed at least {}",
        report.term, report.first_index, report.last_index, report.commit
    )
}

/// Damage is what the exit code is for.
fn judge(reports: &[Report], dir: &Path) -> Result<(), Failure> {
    let damages: Vec<_> = reports.iter().flat_map(Report::damages).collect();
    if let Some((file, offset, reason)) = damages.first() {
        let count = match damages.len() {
            1 => String::new(),
            more => format!("; {} more", more - 1),
        };
        let message =
            format!("{} is damaged at byte {offset}: {reason}{count}", file.file.display());
        return Err(Failure::coded(Exit::Corrupt, ErrorCode::Corrupt, message)
            .next(format!("see what can be done: zmesh repair {}", dir.display())));
    }
    let mut files = reports.iter().filter(|report| !report.sound).flat_map(|it| &it.files);
    let unknown = files.find_map(|file| match &file.verdict {
        Verdict::Unknown { reason } => Some((file, reason)),
        Verdict::Damaged { .. } | Verdict::Harmless { .. } | Verdict::Sound => None,
    });
    match unknown {
        Some((file, reason)) => {
            let message = format!("{} cannot be judged: {reason}", file.file.display());
            Err(Failure::new(Exit::Refused, message))
        }
        None => Ok(()),
    }
}

/// One file in the table.
#[derive(Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    file: &'a FileReport,
}

impl Record for Row<'_> {
    const COLUMNS: &'static [&'static str] = &["file", "kind", "bytes", "content", "verdict"];

    fn cells(&self) -> Vec<String> {
        let FileReport { file, kind, bytes, content, verdict } = self.file;
        let kind = match kind {
            FileKind::Metadata => "metadata",
            FileKind::Other => "other",
            FileKind::Segment => "segment",
            FileKind::Snapshot => "snapshot",
        };
        let verdict = match verdict {
            Verdict::Damaged { offset, reason } => format!("DAMAGED at byte {offset}: {reason}"),
            Verdict::Harmless { offset: 0, reason } => format!("harmless: {reason}"),
            Verdict::Harmless { offset, reason } => format!("harmless at byte {offset}: {reason}"),
            Verdict::Sound => "sound".to_owned(),
            Verdict::Unknown { reason } => format!("UNKNOWN: {reason}"),
        };
        let name = file.display().to_string();
        vec![name, kind.to_owned(), bytes.to_string(), content.clone(), verdict]
    }
}

impl From<VerifyError> for Failure {
    fn from(error: VerifyError) -> Self {
        let failure = |exit| Self::from_error(exit, &error);
        if let VerifyError::InUse { .. } = error {
            return failure(Exit::Refused).next(
                "stop the node first, or compare the running replicas: zmesh check --online",
            );
        }
        if let VerifyError::NothingThere { .. } = error {
            return failure(Exit::Refused).next("name the --data-dir of a node");
        }
        failure(Exit::Refused)
    }
}
