//! How a command fails: one message, one next step, one exit code.
//!
//! Exit codes are a promise to scripts: 0 done, 1 refused or nothing found, 2 usage or
//! configuration, 3 unreachable or timed out, 4 outcome unknown, 5 data corrupt.

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use serde_json::json;
use zmesh::config::ConfigError;
use zmesh::{Effect, ErrorCode};

/// Why a command did not do what it was asked for.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    /// The exit code of another program, in place of ours.
    status: Option<u8>,
    code: Option<ErrorCode>,
    message: String,
    next: Option<String>,
}

/// The exit codes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Exit {
    /// The command did what it was asked for.
    Done = 0,
    /// The other side refused, or there is nothing under this name.
    Refused = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// Nobody answered, or not in time. Nothing was changed.
    Unreachable = 3,
    /// The change may have been made, or be made later.
    Unknown = 4,
    /// Data on a disk is damaged.
    Corrupt = 5,
}

impl Exit {
    /// The exit code for an error code of the mesh.
    ///
    /// `effect` is [`ErrorCode::effect`], except for operations that change nothing: a read that
    /// timed out has no outcome to wonder about.
    pub(crate) fn of(code: ErrorCode, effect: Effect) -> Self {
        // A subject is what somebody typed, whoever refuses it.
        const CONFIGURATION: [ErrorCode; 4] = [
            ErrorCode::AlreadyBound,
            ErrorCode::BindFailed,
            ErrorCode::InvalidAddress,
            ErrorCode::InvalidSubject,
        ];
        // Asking again later may help, but the answer is that there is nobody of this kind.
        const NOBODY: [ErrorCode; 2] = [ErrorCode::NodeNotFound, ErrorCode::NoNodesMatchFilter];

        if code == ErrorCode::Corrupt {
            Self::Corrupt
        } else if CONFIGURATION.contains(&code) {
            Self::Usage
        } else if effect == Effect::Unknown {
            Self::Unknown
        } else if code.is_retryable() && !NOBODY.contains(&code) {
            Self::Unreachable
        } else {
            Self::Refused
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Failure {
    /// A failure with a message in lower case and without a full stop.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, status: None, code: None, message: message.into(), next: None }
    }

    /// A failure that `error` explains, with its causes, each said once.
    pub(crate) fn from_error(exit: Exit, error: &dyn Error) -> Self {
        Self::new(exit, chain(error))
    }

    /// A failure that a node answered with `code`, or that stands for such an answer.
    pub(crate) fn from_code(code: ErrorCode, effect: Effect, error: &dyn Error) -> Self {
        Self { code: Some(code), ..Self::from_error(Exit::of(code, effect), error) }
    }

    /// A failure with a code that its exit does not follow from.
    pub(crate) fn coded(exit: Exit, code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code: Some(code), ..Self::new(exit, message) }
    }

    /// Adds what is known besides.
    pub(crate) fn adding(mut self, text: &str) -> Self {
        self.message = format!("{}; {text}", self.message);
        self
    }

    /// Adds what the user can do about it.
    pub(crate) fn next(mut self, step: impl Into<String>) -> Self {
        self.next = Some(step.into());
        self
    }

    /// Another program was run in place of ours and has ended like this; it has said why.
    pub(crate) fn status(code: i32) -> Self {
        let status = u8::try_from(code).unwrap_or(u8::MAX);
        Self { status: Some(status), ..Self::new(Exit::Refused, String::new()) }
    }

    /// How it failed.
    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    /// The exit code of the process.
    pub(crate) fn exit_code(&self) -> ExitCode {
        self.status.map_or_else(|| self.exit.into(), ExitCode::from)
    }

    /// The error could not be avoided and nobody is there to read it: the reader of our output
    /// has gone.
    fn broken_pipe() -> Self {
        Self::new(Exit::Done, String::new())
    }

    /// Writes the failure to standard error: two lines for people, or one JSON object.
    pub(crate) fn report(&self, json: bool, color: anstream::ColorChoice) {
        if self.message.is_empty() {
            return;
        }
        let mut stream = anstream::AutoStream::new(io::stderr().lock(), color);
        // Standard error is where we would say that standard error is gone.
        let _ignored = match json {
            true => writeln!(stream, "{}", self.to_json()),
            false => self.write_text(&mut stream),
        };
    }

    fn write_text(&self, to: &mut impl Write) -> io::Result<()> {
        let (red, bold) = (Style::new().bold().fg_color(Some(AnsiColor::Red.into())), Style::new());
        let code = self.code.map(|code| format!("{code}: ")).unwrap_or_default();
        writeln!(to, "{red}error:{red:#} {code}{}", self.message)?;
        match &self.next {
            Some(step) => writeln!(to, "  {bold}next:{bold:#} {step}"),
            None => Ok(()),
        }
    }

    fn to_json(&self) -> serde_json::Value {
        json!({ "error": {
            "message": self.message,
            "next": self.next,
            "code": self.code,
            "exit": self.exit as u8,
        } })
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let failure = Self::from_error(Exit::Usage, &error);
        if let ConfigError::UnknownKey { nearest: None, .. } = error {
            return failure.next("see `zmesh config print` for all keys");
        }
        failure
    }
}

/// Failures of standard output; every other I/O error has a name and its own words.
pub(super) fn stdout(error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Failure::broken_pipe();
    }
    Failure::new(Exit::Refused, format!("cannot write the output: {error}"))
}

/// The message of an error and of its causes. A cause that its parent has quoted is left out.
fn chain(error: &dyn Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !message.contains(&text) {
            message.push_str(": ");
            message.push_str(&text);
        }
        cause = error.source();
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A script decides by the exit code whether to try again, to look first, or to give up.
    #[test]
    fn exit_code_follows_what_is_known() {
        for code in ErrorCode::ALL {
            let exit = Exit::of(*code, code.effect());
            let certain = code.effect() == Effect::None;
            assert_eq!(exit == Exit::Unknown, !certain, "{code} became {exit:?}");
            assert_ne!(exit, Exit::Done, "{code}");
        }
        for (code, exit) in [
            (ErrorCode::Corrupt, Exit::Corrupt),
            (ErrorCode::NotFound, Exit::Refused),
            (ErrorCode::NoNodesMatchFilter, Exit::Refused),
            (ErrorCode::NoQuorum, Exit::Unreachable),
            (ErrorCode::BindFailed, Exit::Usage),
            (ErrorCode::InvalidSubject, Exit::Usage),
        ] {
            assert_eq!(Exit::of(code, code.effect()), exit, "{code}");
        }
        let read = Exit::of(ErrorCode::RequestTimeout, Effect::None);
        assert_eq!(read, Exit::Unreachable, "a read has no outcome to wonder about");
    }

    /// `thiserror` messages often quote their source; saying it twice helps nobody.
    #[test]
    fn causes_are_said_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] Middle);
        #[derive(Debug, thiserror::Error)]
        #[error("middle: {0}")]
        struct Middle(#[source] io::Error);

        let error = Outer(Middle(io::Error::other("inner")));
        assert_eq!(chain(&error), "outer: middle: inner");
    }

    /// `zmesh peers | head -1` is no error.
    #[test]
    fn broken_pipe_is_no_failure() {
        assert_eq!(stdout(&io::ErrorKind::BrokenPipe.into()).exit(), Exit::Done);
        assert_eq!(stdout(&io::ErrorKind::StorageFull.into()).exit(), Exit::Refused);
    }
}
