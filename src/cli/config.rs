//! `zmesh config`: looks at a configuration without starting anything. Also where every command
//! that needs a [`Config`] gets it from.

use std::path::PathBuf;

use zmesh::config::{Config, Settings, Size, Written};

use super::failure::Failure;
use super::{Context, logging};

/// Where a configuration comes from: a file, the environment, flags.
#[derive(Debug, clap::Args)]
pub(super) struct ConfigArgs {
    /// File with settings, in TOML; the environment and flags override it.
    #[arg(long, env = "ZMESH_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

impl ConfigArgs {
    /// Merges the sources and checks the result, the data directory and the log filter included.
    pub(super) fn resolve(&self, context: &Context) -> Result<Config, Failure> {
        let mut settings = self.settings.clone();
        settings.log = context.log.clone();
        let written = Written::from_args(settings, context.command_matches());
        let config = match &self.config {
            Some(path) => written.or(Written::read(path)?).resolve()?,
            None => written.resolve()?,
        };
        config.check_disk()?;
        logging::check(&config.log.level)?;
        Ok(config)
    }
}

/// What to do with the configuration.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Say whether the configuration is right, and what it can cost.
    Check(ConfigArgs),
    /// Print every value and where it comes from; the output is a configuration file.
    Print(ConfigArgs),
}

/// Runs `zmesh config`.
pub(super) fn run(command: &Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Check(args) => check(&args.resolve(context)?, context),
        Command::Print(args) => {
            let config = args.resolve(context)?;
            match context.out.is_json() {
                true => context.out.json(&config.to_json()),
                false => context.out.text(&config.to_toml()),
            }
        }
    }
}

fn check(config: &Config, context: &Context) -> Result<(), Failure> {
    let queues = config.limits.queue_bytes_total_max();
    if context.out.is_json() {
        return context.out.json(&serde_json::json!({
            "ok": true,
            "queue_bytes_total_max": queues,
            "warnings": config.warnings,
        }));
    }
    context.out.text(&format!(
        "ok: queues hold at most {} ({} for each of {} peers)",
        Size(queues),
        Size(config.limits.queue_bytes_max),
        config.limits.peers_max,
    ))?;
    config.warnings.iter().try_for_each(|warning| context.out.text(&format!("warning: {warning}")))
}
