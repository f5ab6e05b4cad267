//! The command line: what can be asked for, and the frame that every command runs in.
//!
//! One file per command, each with its arguments and a `run`. A command prints through
//! [`Output`](output::Output), fails with a [`Failure`](failure::Failure), and never ends the
//! process itself.

use std::ffi::OsString;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::ExitCode;

use anstream::ColorChoice;
use clap::{ArgMatches, CommandFactory, FromArgMatches};
use tokio::signal::unix::{SignalKind, signal};
use zmesh::Address;
use zmesh::config::{LogFormat, LogSettings, Period};

use failure::{Exit, Failure};
use output::Output;

mod bench;
mod check;
mod client;
mod cluster;
mod compare;
mod completions;
mod config;
mod demo;
mod dump;
mod failure;
mod key;
mod keyring;
mod kv;
mod local;
mod lock;
mod log;
mod logging;
mod member;
mod output;
mod payload;
mod peers;
mod print;
mod process;
mod progress;
mod recover;
mod repair;
mod request;
mod serve;
mod status;
mod tick;
mod version;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  refused, or nothing found
  2  wrong usage or configuration
  3  unreachable or timed out; nothing was changed
  4  outcome unknown: look before trying again
  5  data corrupt";

/// A brokerless messaging mesh with a replicated key-value store and log.
#[derive(Debug, clap::Parser)]
#[command(
    name = "zmesh",
    version,
    after_help = EXIT_CODES,
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Flags of every command.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// Print JSON: one object per line, errors too (on standard error).
    #[arg(long, global = true)]
    json: bool,
    /// When to use colours; `auto` is on a terminal, unless NO_COLOR is set.
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: Color,
    #[command(flatten)]
    log: LogSettings,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Color {
    Auto,
    Always,
    Never,
}

/// How a client command reaches the mesh.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Connection")]
struct Connect {
    /// Address of a node; may be repeated, the first that answers is used.
    #[arg(
        long,
        env = "ZMESH_CONNECT",
        value_name = "ADDRESS",
        value_delimiter = ',',
        default_value = "tcp://127.0.0.1:7700,tcp://127.0.0.1:7701,tcp://127.0.0.1:7702"
    )]
    connect: Vec<Address>,
    /// Name of the mesh.
    #[arg(long, env = "ZMESH_CLUSTER", value_name = "NAME", default_value = "zmesh")]
    cluster: String,
    /// Time for the whole command, connecting included.
    #[arg(
        long,
        env = "ZMESH_TIMEOUT",
        value_name = "DURATION",
        default_value = "5s",
        value_parser = period_above_zero
    )]
    timeout: Period,
    #[command(flatten)]
    access: Access,
}

/// How a client command gets into a mesh beyond this machine.
#[derive(Clone, Debug, Default, clap::Args)]
struct Access {
    /// File with the secret key of this client, for nodes with keys (HOST:PORT#KEY).
    #[arg(long, env = "ZMESH_KEY_FILE", value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Speak to other machines without encryption.
    #[arg(
        long,
        env = "ZMESH_INSECURE",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_value = "false",
        default_missing_value = "true"
    )]
    insecure: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Run a node until it is told to stop.
    Serve(serve::Args),
    /// Start three processes, write under load, kill the leader, and count what was lost.
    Demo(demo::Args),
    /// Measure a mesh or a cluster: latencies, throughput, processor time and memory.
    Bench(bench::Args),
    /// Start, look at, stop and hurt a cluster on this machine that stays.
    #[command(subcommand)]
    Cluster(cluster::Command),
    /// Set, get, list and watch keys of the replicated store.
    #[command(subcommand)]
    Kv(kv::Command),
    /// Run a command while holding a lock, and end it if the lock is lost.
    Lock(lock::Args),
    /// List, add, promote, remove and replace the members of the replicated services.
    #[command(subcommand)]
    Member(member::Command),
    /// Append, read and follow records of the replicated log, and look after their consumers.
    #[command(subcommand)]
    Log(log::Command),
    /// Make keys, and say whose may come in.
    #[command(subcommand)]
    Key(key::Command),
    /// Send a request and print the reply.
    Request(request::Args),
    /// Send a one-way message.
    Tick(tick::Args),
    /// List the peers of a node.
    Peers(peers::Args),
    /// Show the state of a node: role, term, commit, lag, peers, drops.
    Status(status::Args),
    /// Verify a data directory without changing it, or compare the running replicas.
    Check(check::Args),
    /// Say what can be done about a damaged data directory; do it with --apply.
    Repair(repair::Args),
    /// Begin a new cluster with what one member has, when most others are gone for good.
    Recover(recover::Args),
    /// Write everything that the cluster stores to a file, as text.
    Dump(dump::DumpArgs),
    /// Write a dump into a cluster.
    Restore(dump::RestoreArgs),
    /// Check or print a configuration.
    #[command(subcommand)]
    Config(config::Command),
    /// Print a completion script for a shell.
    Completions(completions::Args),
    /// Print the versions of zmesh and of the libraries in it.
    Version,
}

/// What every command gets.
#[derive(Debug)]
struct Context {
    out: Output,
    log: LogSettings,
    matches: ArgMatches,
}

impl Context {
    /// The matches of the command that runs, which know where each of its values comes from.
    fn command_matches(&self) -> &ArgMatches {
        let mut matches = &self.matches;
        while let Some((_, inner)) = matches.subcommand() {
            matches = inner;
        }
        matches
    }

    /// Starts the log of a command that has no configuration of its own.
    fn start_log(&self) -> Result<(), Failure> {
        let level = self.log.level.as_deref().unwrap_or("warn");
        let format = self.log.format.unwrap_or(LogFormat::Text);
        logging::start(level, format, self.ansi())
    }

    /// Whether lines on standard error may have colours.
    fn ansi(&self) -> bool {
        match self.out.color() {
            ColorChoice::Always | ColorChoice::AlwaysAnsi => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => {
                anstream::AutoStream::choice(&std::io::stderr()) != ColorChoice::Never
            }
        }
    }
}

/// Runs the command line `args`, the name of the program being the first of them.
pub(crate) fn run(args: Vec<OsString>) -> ExitCode {
    // Errors of the command line itself come before its flags are known.
    let json = args.iter().take_while(|arg| *arg != "--").any(|arg| arg == "--json");
    let parsed = command().try_get_matches_from(args).and_then(|matches| {
        let cli = Cli::from_arg_matches(&matches)?;
        Ok((cli, matches))
    });
    let (cli, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return refuse_usage(&error, json),
    };
    let color = match cli.global.color {
        Color::Always => ColorChoice::Always,
        Color::Auto => ColorChoice::Auto,
        Color::Never => ColorChoice::Never,
    };
    let json = cli.global.json;
    let out = Output::new(json, color);
    let context = Context { out, log: cli.global.log, matches };
    match dispatch(&cli.command, &context) {
        Ok(()) => Exit::Done.into(),
        Err(failure) => {
            failure.report(json, color);
            failure.exit_code()
        }
    }
}

/// The definition of the command line, with what holds for all of its arguments.
fn command() -> clap::Command {
    fn adapt(command: clap::Command) -> clap::Command {
        let command = command.mut_args(|arg| {
            let duration = arg.get_value_names().is_some_and(|names| names == ["DURATION"]);
            // Help is the same whatever is set, and `-1s` is a bad duration, not an unknown flag.
            arg.hide_env_values(true).allow_hyphen_values(duration)
        });
        command.mut_subcommands(adapt)
    }
    adapt(Cli::command())
}

fn dispatch(command: &Command, context: &Context) -> Result<(), Failure> {
    match command {
        // The log of a node is as its configuration says.
        Command::Serve(_) => {}
        Command::Bench(_)
        | Command::Check(_)
        | Command::Cluster(_)
        | Command::Completions(_)
        | Command::Config(_)
        | Command::Demo(_)
        | Command::Key(_)
        | Command::Dump(_)
        | Command::Kv(_)
        | Command::Lock(_)
        | Command::Log(_)
        | Command::Member(_)
        | Command::Peers(_)
        | Command::Recover(_)
        | Command::Repair(_)
        | Command::Request(_)
        | Command::Restore(_)
        | Command::Status(_)
        | Command::Tick(_)
        | Command::Version => context.start_log()?,
    }
    match command {
        Command::Bench(args) => wait(bench::run(args, context)),
        Command::Check(args) => wait(check::run(args, context)),
        Command::Cluster(command) => wait(cluster::run(command, context)),
        Command::Completions(args) => completions::run(args, context),
        Command::Config(command) => config::run(command, context),
        Command::Demo(args) => wait(demo::run(args, context)),
        Command::Key(command) => key::run(command, context),
        Command::Kv(command) => wait(kv::run(command, context)),
        Command::Lock(args) => wait(lock::run(args, context)),
        Command::Log(command) => wait(log::run(command, context)),
        Command::Member(command) => wait(member::run(command, context)),
        Command::Peers(args) => wait(peers::run(args, context)),
        Command::Dump(args) => wait(dump::dump(args, context)),
        Command::Restore(args) => wait(dump::restore(args, context)),
        Command::Recover(args) => recover::run(args, context),
        Command::Repair(args) => repair::run(args, context),
        Command::Request(args) => wait(request::run(args, context)),
        Command::Serve(args) => wait(serve::run(args, context)),
        Command::Status(args) => wait(status::run(args, context)),
        Command::Tick(args) => wait(tick::run(args, context)),
        Command::Version => version::run(context),
    }
}

/// Runs a command on one thread, which mesh, consensus and handlers then share.
fn wait(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        // One kind of future, or the runtime's loop is compiled once for each command.
        Ok(runtime) => runtime.block_on::<Pin<Box<dyn Future<Output = _>>>>(Box::pin(command)),
        Err(error) => {
            let message = format!("cannot start the runtime: {error}");
            Err(Failure::new(Exit::Refused, message).next("raise the limit of open files"))
        }
    }
}

/// Waits for a signal that asks to stop, SIGINT or SIGTERM; for ever if signals cannot be heard.
async fn interrupted() {
    let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    let (Ok(mut interrupt), Ok(mut terminate)) = signals else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// Help and version go to standard output and are no errors; the rest is wrong usage.
fn refuse_usage(error: &clap::Error, json: bool) -> ExitCode {
    if json && error.use_stderr() {
        let text = error.to_string();
        let message = usage_message(&text);
        Failure::new(Exit::Usage, message).report(true, ColorChoice::Never);
    } else {
        // A reader that has gone does not read help.
        let _ignored = error.print();
    }
    if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() }
}

/// What is wrong, on one line; what clap says after it is for people.
fn usage_message(text: &str) -> String {
    // Without a subcommand clap gives the whole help and says nothing.
    let Some(text) = text.strip_prefix("error: ") else {
        return "a subcommand is required".to_owned();
    };
    let lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" ")
}

/// For timeouts, where zero would mean that nothing can ever succeed.
fn period_above_zero(text: &str) -> Result<Period, String> {
    match text.parse::<Period>() {
        Ok(period) if period.0.is_zero() => Err("must be longer than 0".to_owned()),
        Ok(period) => Ok(period),
        Err(error) => Err(error.to_string()),
    }
}
