//! `zmesh key`: makes keys and says whose may come in. Nothing here speaks to a node: those that
//! run follow their files.

use std::path::PathBuf;
use std::time::SystemTime;

use serde::Serialize;
use zmesh::NodeId;
use zmesh::keys::{
    Allowed, KeyFileError, KeyPair, PublicKey, Role, put_in_allow_list, read_allow_list,
    read_key_pair, write_key_pair,
};

use super::Context;
use super::failure::{Exit, Failure};
use super::output::Record;

/// What to do with keys.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Make a key pair and print its public half, which others are given.
    New(KeyFile),
    /// Print the public half of a key pair.
    Show(KeyFile),
    /// Let a key in.
    Allow(Allow),
    /// Take keys back: one, or all of a name.
    Revoke(Revoke),
    /// List whose keys may come in.
    List(List),
}

/// Where a key pair is.
#[derive(Debug, clap::Args)]
pub(super) struct KeyFile {
    /// File of the key pair; DATA/node.key is what a node with that data directory uses.
    #[arg(env = "ZMESH_KEY_FILE", value_name = "FILE")]
    file: PathBuf,
}

/// Where an allow-list is.
#[derive(Debug, clap::Args)]
struct AllowListFile {
    /// File of the allow-list; DATA/node.allow is what a node with that data directory uses.
    #[arg(long, env = "ZMESH_ALLOW_LIST", value_name = "FILE")]
    allow_list: PathBuf,
}

/// Arguments of `zmesh key allow`.
#[derive(Debug, clap::Args)]
pub(super) struct Allow {
    /// Whose key it is: the node's name, or any for people and programs.
    name: NodeId,
    /// The public key, as `zmesh key show` prints it.
    key: PublicKey,
    /// What its owner may do.
    #[arg(long, value_enum, default_value_t = Role::Client)]
    role: Role,
    /// When the key is no longer good, such as 2027-01-31T00:00:00Z [default: never].
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_rfc3339_weak)]
    until: Option<SystemTime>,
    #[command(flatten)]
    list: AllowListFile,
}

/// Arguments of `zmesh key revoke`.
#[derive(Debug, clap::Args)]
pub(super) struct Revoke {
    /// A public key, or a name whose keys are all taken back.
    #[arg(value_name = "KEY|NAME")]
    whose: String,
    #[command(flatten)]
    list: AllowListFile,
}

/// Arguments of `zmesh key list`.
#[derive(Debug, clap::Args)]
pub(super) struct List {
    #[command(flatten)]
    list: AllowListFile,
}

/// Runs `zmesh key`.
pub(super) fn run(command: &Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::New(args) => {
            let pair = KeyPair::generate().map_err(KeyFileError::New)?;
            write_key_pair(&args.file, &pair)?;
            print(&pair, context)
        }
        Command::Show(args) => print(&read_key_pair(&args.file)?, context),
        Command::Allow(args) => allow(args),
        Command::Revoke(args) => revoke(args),
        Command::List(args) => list(args, context),
    }
}

fn print(pair: &KeyPair, context: &Context) -> Result<(), Failure> {
    match context.out.is_json() {
        true => context.out.json(&serde_json::json!({ "public": pair.public() })),
        false => context.out.text(&pair.public().to_string()),
    }
}

fn allow(args: &Allow) -> Result<(), Failure> {
    let Allow { name, key, role, until, list } = args;
    let allowed = Allowed { node: name.clone(), role: *role, until: *until };
    Ok(put_in_allow_list(&list.allow_list, &[(*key, allowed)])?)
}

/// A key that the list does not have is put there as revoked: it may have come with an address.
fn revoke(args: &Revoke) -> Result<(), Failure> {
    let path = &args.list.allow_list;
    let revoked = |node: &NodeId| Allowed { node: node.clone(), role: Role::Revoked, until: None };
    let list = match read_allow_list(path) {
        Err(error) if error.is_missing() => Default::default(),
        read => read?,
    };
    let lines: Vec<_> = match args.whose.parse::<PublicKey>() {
        Ok(key) => {
            let unknown = || NodeId::new("unknown").expect("a name");
            let node = list.get(&key).map_or_else(unknown, |allowed| allowed.node.clone());
            vec![(key, revoked(&node))]
        }
        Err(_) => {
            let theirs = list.iter().filter(|(_, it)| it.node.as_str() == args.whose);
            theirs.map(|(key, it)| (*key, revoked(&it.node))).collect()
        }
    };
    if lines.is_empty() {
        let message = format!("{} has no key of {}", path.display(), args.whose);
        return Err(Failure::new(Exit::Refused, message)
            .next("give the key itself: `zmesh peers` shows those of nodes, the log of a node those it refused"));
    }
    Ok(put_in_allow_list(path, &lines)?)
}

fn list(args: &List, context: &Context) -> Result<(), Failure> {
    let list = read_allow_list(&args.list.allow_list)?;
    let rows = list.iter().map(|(key, allowed)| Row { key: *key, allowed: allowed.clone() });
    context.out.table_or_json(&rows.collect::<Vec<_>>())
}

#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    allowed: Allowed,
    key: PublicKey,
}

impl Record for Row {
    const COLUMNS: &'static [&'static str] = &["node", "role", "key", "until"];

    fn cells(&self) -> Vec<String> {
        let Allowed { node, role, until } = &self.allowed;
        let until = until.map(|until| humantime::format_rfc3339_seconds(until).to_string());
        let until = until.unwrap_or_else(|| "-".to_owned());
        vec![node.to_string(), role.to_string(), self.key.to_string(), until]
    }
}
