//! How far long work is: a bar for somebody at a terminal, a line now and then for a file or a pipe,
//! nothing with `--json`. Always on standard error, so that the output stays what it is.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use zmesh::{Clock, Time};

use super::output::Output;

/// Time between two lines where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// The progress of one piece of work. Dropping it removes the bar.
#[derive(Debug)]
pub(super) struct Progress {
    shown: Shown,
    clock: Clock,
}

#[derive(Debug)]
enum Shown {
    Bar(ProgressBar),
    Lines { last: String, next: Time },
    Nothing,
}

impl Progress {
    /// Progress as it suits standard error and `--json`.
    pub(super) fn new(out: Output) -> Self {
        let shown = match (out.is_json(), io::stderr().is_terminal()) {
            (true, _) => Shown::Nothing,
            (false, true) => Shown::Bar(bar()),
            (false, false) => Shown::Lines { last: String::new(), next: Time::ZERO },
        };
        Self { shown, clock: Clock::start() }
    }

    /// Says what is being done, and how much of it is done.
    pub(super) fn set(&mut self, what: &str, done: u64, total: u64) {
        match &mut self.shown {
            Shown::Nothing => {}
            Shown::Bar(bar) => {
                bar.set_length(total);
                bar.set_position(done);
                bar.set_message(what.to_owned());
            }
            Shown::Lines { last, next } => {
                let now = self.clock.now();
                let line = format!("{what}: {done} of {total}");
                if now >= *next && line != *last {
                    // Nobody misses it if it cannot be said.
                    drop(writeln!(io::stderr().lock(), "{line}"));
                    (*last, *next) = (line, now + LINE_INTERVAL);
                }
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} [{bar:30}] {pos} of {len}");
    let style = style.expect("the template is right").progress_chars("=> ");
    ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr()).with_style(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The template is text that only a start of the bar reads.
    #[test]
    fn bar_takes_any_progress() {
        let mut progress = Progress { shown: Shown::Bar(bar()), clock: Clock::start() };
        for (done, total) in [(0, 0), (5, 3), (u64::MAX, u64::MAX)] {
            progress.set("work", done, total);
        }
        let Shown::Bar(bar) = &progress.shown else { panic!("it was a bar") };
        assert_eq!((bar.position(), bar.length()), (u64::MAX, Some(u64::MAX)));
    }
}
