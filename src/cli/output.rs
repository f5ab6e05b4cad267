//! What goes to standard output, and how.
//!
//! A single text is printed as it is, records are a table of aligned columns. `--json` makes JSON
//! of everything, one object in a line. Colours follow `--color`, `NO_COLOR` and whether there is a
//! terminal.

use std::io::{self, IsTerminal, Write};

use anstream::{AutoStream, ColorChoice};
use comfy_table::Table;
use serde::Serialize;

use super::failure::{self, Failure};

/// Standard output of one command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
    terminal: bool,
    color: ColorChoice,
}

/// Something that can be a row of a table.
pub(crate) trait Record: Serialize {
    /// The titles of the columns.
    const COLUMNS: &'static [&'static str];

    /// One text per column.
    fn cells(&self) -> Vec<String>;
}

impl Output {
    /// Output as the flags ask for it.
    pub(crate) fn new(json: bool, color: ColorChoice) -> Self {
        Self { json, terminal: io::stdout().is_terminal(), color }
    }

    /// Whether `--json` was given.
    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// The colours that `--color` asks for.
    pub(crate) fn color(self) -> ColorChoice {
        self.color
    }

    /// Writes `text` and a newline, unless the text ends with one.
    pub(crate) fn text(self, text: &str) -> Result<(), Failure> {
        let mut stream = AutoStream::new(io::stdout().lock(), self.color);
        let newline = if text.ends_with('\n') { "" } else { "\n" };
        write!(stream, "{text}{newline}")
            .and_then(|()| stream.flush())
            .map_err(|error| failure::stdout(&error))
    }

    /// Writes bytes as they are; on a terminal a newline follows, so that the prompt is not glued
    /// to them.
    pub(crate) fn bytes(self, bytes: &[u8]) -> Result<(), Failure> {
        let newline: &[u8] = if self.terminal { b"\n" } else { b"" };
        let mut stream = io::stdout().lock();
        let written = stream.write_all(bytes).and_then(|()| stream.write_all(newline));
        written.and_then(|()| stream.flush()).map_err(|error| failure::stdout(&error))
    }

    /// Writes bytes as they are and nothing else, on a terminal as well.
    pub(crate) fn raw(self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stream = io::stdout().lock();
        let written = stream.write_all(bytes).and_then(|()| stream.flush());
        written.map_err(|error| failure::stdout(&error))
    }

    /// Whether somebody looks at a terminal.
    pub(crate) fn is_terminal(self) -> bool {
        self.terminal
    }

    /// Writes one value as one line of JSON.
    pub(crate) fn json(self, value: &impl Serialize) -> Result<(), Failure> {
        let line = serde_json::to_string(value).expect("our own records have string keys");
        self.text(&line)
    }

    /// Writes records: a table, or JSON lines with `--json`.
    pub(crate) fn table_or_json<R: Record>(self, records: &[R]) -> Result<(), Failure> {
        match self.json {
            true => records.iter().try_for_each(|record| self.json(record)),
            false => self.text(&table(records)),
        }
    }
}

fn table<R: Record>(records: &[R]) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(R::COLUMNS.iter().map(|title| title.to_uppercase()));
    table.add_rows(records.iter().map(Record::cells));
    let lines = table.lines().map(|line| line.trim_end().to_owned());
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Row(&'static str, u32);

    impl Record for Row {
        const COLUMNS: &'static [&'static str] = &["name", "count"];

        fn cells(&self) -> Vec<String> {
            vec![self.0.to_owned(), self.1.to_string()]
        }
    }

    /// Columns line up and no line ends in blanks, so that pasted output is clean.
    #[test]
    fn table_has_aligned_columns() {
        let text = table(&[Row("a", 1), Row("long", 20)]);
        assert_eq!(text, " NAME  COUNT\n a     1\n long  20");
    }
}
