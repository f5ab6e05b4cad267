//! `zmesh repair`: what can be done about a damaged data directory, and doing it when asked.
//!
//! Without `--apply` nothing is changed. Nothing is ever deleted: files that are in the way get a name
//! that ends in `.damaged-N`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use zmesh::replica::{
    Action, RepairError, Report, VerifyError, apply_repair, name_aside, plan_repair, verify,
};
use zmesh::wal::{Disk, DiskLock, RealDisk};
use zmesh::{ErrorCode, NodeId};

use super::failure::{Exit, Failure};
use super::{Context, check};

/// Arguments of `zmesh repair`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Data directory of a node that does not run.
    dir: PathBuf,
    /// Do it; otherwise it is only said what would be done.
    #[arg(long)]
    apply: bool,
    /// Cut the end of the log where it is damaged, if it lies above what is known to be committed and
    /// synced. Acknowledged entries may be lost: only for a node that is alone in its cluster.
    #[arg(long, conflicts_with = "rejoin")]
    cut_unsynced: bool,
    /// Put the whole directory aside and leave an empty one, with which the node joins as a new member.
    #[arg(long)]
    rejoin: bool,
}

/// Runs `zmesh repair`.
pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let mut reports = Vec::new();
    for dir in check::replicas(&args.dir)? {
        reports.push(verify(&disk, &dir)?);
    }
    if reports.iter().all(|report| report.sound) {
        let nothing = format!("{}: sound; nothing to do", args.dir.display());
        return match context.out.is_json() {
            true => context.out.json(&json!({ "dir": args.dir, "sound": true, "actions": [] })),
            false => context.out.text(&nothing),
        };
    }
    match args.rejoin {
        true => rejoin(args, &reports, context),
        false => repair(args, &disk, &reports, context),
    }
}

/// Repairs one replica after the other.
fn repair(
    args: &Args,
    disk: &Arc<dyn Disk>,
    reports: &[Report],
    context: &Context,
) -> Result<(), Failure> {
    let (mut possible, mut sound) = (0, true);
    for report in reports {
        let actions = plan_repair(disk, report, args.cut_unsynced)?;
        possible += actions.iter().filter(|action| action.is_possible()).count();
        let after = match args.apply {
            true => apply_repair(disk, &report.dir, &actions)?.sound,
            false => report.sound,
        };
        sound &= after;
        print(report, &actions, after, args.apply, context)?;
    }
    if sound {
        return Ok(());
    }
    let shown = args.dir.display();
    let failure = |message: String| Failure::coded(Exit::Corrupt, ErrorCode::Corrupt, message);
    if !args.apply && possible > 0 {
        return Err(failure(format!("{shown} is damaged; nothing was changed"))
            .next("do what is said above: run the command again with --apply"));
    }
    Err(failure(format!("{shown} cannot be repaired by itself")).next(format!(
        "if other members are up, join again: zmesh repair {shown} --rejoin --apply"
    )))
}

fn print(
    report: &Report,
    actions: &[Action],
    sound: bool,
    applied: bool,
    context: &Context,
) -> Result<(), Failure> {
    if context.out.is_json() {
        let record = json!({
            "dir": report.dir, "applied": applied, "sound": sound, "actions": actions,
        });
        return context.out.json(&record);
    }
    let would = if applied { "" } else { "would " };
    for action in actions {
        context.out.text(&match action {
            Action::Aside { file, to, reason } => {
                let (file, to) = (file.display(), to.display());
                format!("{would}rename {file} to {to}: {reason}")
            }
            Action::Cut { file, offset, copy, reason } => {
                let (file, copy) = (file.display(), copy.display());
                format!("{would}copy {file} to {copy}, and cut it at byte {offset}: {reason}")
            }
            Action::Hopeless { file, reason } => {
                format!("cannot do anything about {}: {reason}", file.display())
            }
            Action::Rename { file, to } => {
                format!("{would}rename {} back to {}", file.display(), to.display())
            }
        })?;
    }
    if applied {
        let state = if sound { "sound" } else { "NOT SOUND" };
        context.out.text(&format!("{}: {state}", report.dir.display()))?;
    }
    Ok(())
}

/// Puts the directory aside. The node is a member of every service or of none, so all of it goes.
fn rejoin(args: &Args, reports: &[Report], context: &Context) -> Result<(), Failure> {
    let dir = &args.dir;
    let aside = name_aside(&plain(dir), Path::exists);
    let node = reports.iter().find_map(|report| report.node.clone());
    // The new directory has to be for as many groups of the log.
    let groups = std::fs::read_to_string(dir.join("log-groups")).ok();
    if args.apply {
        set_aside(dir, &aside, reports)?;
    }
    if context.out.is_json() {
        let record = json!({
            "dir": dir, "applied": args.apply, "aside": aside, "node": node,
        });
        context.out.json(&record)?;
    } else {
        let would = if args.apply { "" } else { "would " };
        let (from, to) = (dir.display(), aside.display());
        context.out.text(&format!("{would}rename {from} to {to}, and leave an empty {from}"))?;
        context.out.text(&steps(node.as_ref(), groups.as_deref().map(str::trim), dir))?;
    }
    match args.apply {
        true => Ok(()),
        false => {
            let message = format!("{} is damaged; nothing was changed", dir.display());
            Err(Failure::coded(Exit::Corrupt, ErrorCode::Corrupt, message)
                .next("run the command again with --apply"))
        }
    }
}

/// How the node comes back.
fn steps(node: Option<&NodeId>, groups: Option<&str>, dir: &Path) -> String {
    let node = node.map_or("NODE", NodeId::as_str);
    let groups = groups.map(|groups| format!(" --log-groups {groups}")).unwrap_or_default();
    let dir = dir.display();
    format!(
        "then, while the other members are up:\n  \
         zmesh member remove {node}\n  \
         zmesh serve --id {node} --data-dir {dir} --join --peer ADDRESS{groups}\n  \
         zmesh member add {node} --promote"
    )
}

fn set_aside(dir: &Path, aside: &Path, reports: &[Report]) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        let (from, to) = (dir.display(), aside.display());
        Failure::new(Exit::Refused, format!("cannot rename {from} to {to}: {error}"))
            .next("a mount point cannot be renamed: name a directory in it as --data-dir")
    };
    // Held until the directory is out of the way, so that no replica starts on it meanwhile.
    let mut held: Vec<Box<dyn DiskLock>> = Vec::new();
    for report in reports {
        let lock = RealDisk.try_lock(&report.dir.join("lock")).map_err(failed)?;
        let in_use = || VerifyError::InUse { dir: report.dir.clone() };
        held.push(lock.ok_or_else(in_use)?);
    }
    std::fs::rename(dir, aside).map_err(failed)?;
    RealDisk.create_dir(dir).map_err(failed)?;
    let parent = aside.parent().filter(|parent| !parent.as_os_str().is_empty());
    RealDisk.sync_dir(parent.unwrap_or_else(|| Path::new("."))).map_err(failed)
}

/// The path without a slash at its end, which would be in the way of another name.
fn plain(dir: &Path) -> PathBuf {
    dir.components().collect()
}

impl From<RepairError> for Failure {
    fn from(error: RepairError) -> Self {
        if let RepairError::Verify(error) = error {
            return error.into();
        }
        Self::from_error(Exit::Refused, &error)
            .next("run the command again: what is done stays done")
    }
}
