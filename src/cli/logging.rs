//! Diagnostics of the process, on standard error.

use std::io;

use tracing_subscriber::EnvFilter;
use zmesh::config::LogFormat;

use super::failure::{Exit, Failure};

/// Sends what is logged from here on to standard error.
///
/// # Errors
///
/// The filter cannot be understood; nothing is logged.
pub(super) fn start(level: &str, format: LogFormat, ansi: bool) -> Result<(), Failure> {
    let filter = check(level)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match format {
        LogFormat::Json => builder.json().init(),
        LogFormat::Text => builder.with_ansi(ansi).init(),
    }
    Ok(())
}

/// Parses a filter such as `info,zmesh=debug`.
pub(super) fn check(level: &str) -> Result<EnvFilter, Failure> {
    EnvFilter::try_new(level).map_err(|error| {
        Failure::new(Exit::Usage, format!("log level {level:?}: {error}"))
            .next("use error, warn, info, debug, trace, or such as info,zmesh=debug")
    })
}
