//! `zmesh completions`: a script for the shell, from the same definition as the command line.

use clap_complete::Shell;

use super::failure::Failure;
use super::{Context, command};

/// Arguments of `zmesh completions`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The shell.
    shell: Shell,
}

/// Prints the script.
pub(super) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command(), "zmesh", &mut script);
    context.out.text(&String::from_utf8_lossy(&script))
}
