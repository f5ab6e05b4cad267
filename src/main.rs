//! The `zmesh` binary: reads the command line, runs one command, ends with its exit code.

use std::process::ExitCode;

mod cli;

fn main() -> ExitCode {
    cli::run(std::env::args_os().collect())
}
