//! `zmesh recover`: when more than half of the members are gone for good, what one of them has becomes
//! the beginning of a new cluster.
//!
//! Whether that is everything that was acknowledged nobody can tell, so it is never done without a
//! word. The old directories stay as they are, and their members cannot mix with the new cluster.

use std::collections::BTreeMap;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use zmesh::ErrorCode;
use zmesh::host::GROUPS_FILE;
use zmesh::kv::{self, KvMachine};
use zmesh::log::{self, LogMachine};
use zmesh::replica::{RecoverError, Recovered, Report, Sessions, new_raft_id, recover, verify};
use zmesh::wal::{self, Disk, RealDisk};

use super::failure::{Exit, Failure};
use super::{Context, check};

/// Arguments of `zmesh recover`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Data directories of members that are left; of several, the one that has most is taken.
    #[arg(required = true)]
    dirs: Vec<PathBuf>,
    /// The new data directory; it must not exist, or be empty.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Say that the other members are gone for good, and that what only they had is lost.
    #[arg(long, required = true)]
    force: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

/// One directory, with the replicas in it by the names of their services.
struct Candidate {
    dir: PathBuf,
    replicas: BTreeMap<String, Report>,
}

/// Runs `zmesh recover`.
pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let mut candidates = Vec::new();
    for dir in &args.dirs {
        candidates.push(look_at(&disk, dir)?);
    }
    let best = choose(candidates)?;
    confirm(args, &best)?;
    for (service, report) in &best.replicas {
        let to = args.to.join(service);
        let recovered = bring_over(&disk, service, &report.dir, &to)?;
        print(service, &recovered, context)?;
    }
    for service in empty_groups(&best) {
        print_empty(service, context)?;
    }
    let groups = best.dir.join(GROUPS_FILE);
    if groups.exists() {
        std::fs::copy(&groups, args.to.join(GROUPS_FILE)).map_err(|error| {
            Failure::new(Exit::Refused, format!("cannot copy {}: {error}", groups.display()))
        })?;
    }
    let node = best.replicas.values().find_map(|report| report.node.clone());
    let node = node.map_or_else(|| "NAME".to_owned(), |node| node.to_string());
    match context.out.is_json() {
        true => Ok(()),
        false => context.out.text(&format!(
            "start it: zmesh serve --id {node} --data-dir {}; others join it as new members",
            args.to.display()
        )),
    }
}

/// Groups of the log that the directory was made for and holds nothing of: they begin anew.
fn empty_groups(best: &Candidate) -> Vec<&'static str> {
    let groups = std::fs::read_to_string(best.dir.join(GROUPS_FILE)).unwrap_or_default();
    let groups = groups.trim().parse::<u16>().unwrap_or(0).min(log::GROUPS_MAX);
    (0..groups).map(log::service).filter(|it| !best.replicas.contains_key(*it)).collect()
}

fn print_empty(service: &str, context: &Context) -> Result<(), Failure> {
    match context.out.is_json() {
        true => context.out.json(&json!({ "service": service, "index": null })),
        false => context.out.text(&format!("{service}: nothing was found, so it begins empty")),
    }
}

fn look_at(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Candidate, Failure> {
    let mut replicas = BTreeMap::new();
    for replica in check::replicas(dir)? {
        let report = verify(disk, &replica)?;
        if let Some((file, offset, reason)) = report.damages().next() {
            let message = format!("{} is damaged at byte {offset}: {reason}", file.file.display());
            return Err(Failure::coded(Exit::Corrupt, ErrorCode::Corrupt, message).next(
                "name the directory of another member, or see what can be done: zmesh repair",
            ));
        }
        let service = replica.strip_prefix(dir).ok().and_then(Path::file_name);
        let service = service.map(|name| name.to_string_lossy().into_owned());
        // The directory of one replica may be named as well.
        let service = service.unwrap_or_else(|| kv::SERVICE.to_owned());
        replicas.insert(service, report);
    }
    Ok(Candidate { dir: dir.to_path_buf(), replicas })
}

/// The directory whose replicas have at least as much as those of every other.
fn choose(candidates: Vec<Candidate>) -> Result<Candidate, Failure> {
    let last = |candidate: &Candidate, service: &str| {
        let report = candidate.replicas.get(service);
        report.map_or((0, 0), |report| (report.last_term, report.last_index))
    };
    let has_most = |candidate: &Candidate| {
        candidates.iter().all(|other| {
            let mut services = other.replicas.keys();
            services.all(|service| last(candidate, service) >= last(other, service))
        })
    };
    let best = candidates.iter().position(has_most);
    let Some(best) = best else {
        let message = "none of the directories has most of every service";
        return Err(Failure::new(Exit::Refused, message)
            .next("compare them with `zmesh check`, and name the one to begin with"));
    };
    let mut candidates = candidates;
    Ok(candidates.swap_remove(best))
}

/// Asks at a terminal; elsewhere only the word counts.
fn confirm(args: &Args, best: &Candidate) -> Result<(), Failure> {
    if args.yes {
        return Ok(());
    }
    let refused = || {
        Failure::new(Exit::Usage, "not confirmed; nothing was done")
            .next("--yes does it without asking")
    };
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(refused());
    }
    let question = format!(
        "Begin a new cluster with what is in {}? What only other members have is lost. [y/N] ",
        best.dir.display()
    );
    let mut stderr = io::stderr().lock();
    let asked = write!(stderr, "{question}").and_then(|()| stderr.flush());
    let mut answer = String::new();
    let answered = asked.and_then(|()| io::stdin().lock().read_line(&mut answer));
    match answered.is_ok() && ["y", "yes"].contains(&answer.trim().to_lowercase().as_str()) {
        true => Ok(()),
        false => Err(refused()),
    }
}

fn bring_over(
    disk: &Arc<dyn Disk>,
    service: &str,
    from: &Path,
    to: &Path,
) -> Result<Recovered, Failure> {
    let (options, raft_id) = (wal::Options::default(), new_raft_id());
    let recovered = match service {
        kv::SERVICE => recover(disk, (from, to), options, raft_id, Sessions::new(KvMachine::new())),
        _ => recover(disk, (from, to), options, raft_id, Sessions::new(LogMachine::new())),
    };
    recovered.map_err(Failure::from)
}

fn print(service: &str, recovered: &Recovered, context: &Context) -> Result<(), Failure> {
    let Recovered { cluster, index, uncertain } = recovered;
    match context.out.is_json() {
        true => context.out.json(&json!({
            "service": service, "cluster": cluster, "index": index, "uncertain": uncertain,
        })),
        false => context.out.text(&format!(
            "{service}: {index} entries, {uncertain} of which were not known to be committed; the \
             new cluster is {cluster}"
        )),
    }
}

impl From<RecoverError> for Failure {
    fn from(error: RecoverError) -> Self {
        if let RecoverError::NotEmpty { .. } = error {
            return Self::from_error(Exit::Usage, &error).next("name another directory with --to");
        }
        Self::from_error(Exit::Refused, &error)
            .next("empty the new directory before you try again; the old ones are as they were")
    }
}
