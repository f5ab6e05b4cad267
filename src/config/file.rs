//! Reads a configuration file, and knows on which line each key stands.
//!
//! A file is at most 1 MiB, so that a wrong path (a disk image, a log) is refused before it is
//! read into memory. Every error names file, line and key where there is one.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use toml::de::{DeTable, DeValue};

use super::{ConfigError, Origin, Origins, Settings, Written};

/// The most bytes a configuration file may have.
pub const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// How alike two keys must be, from 0 to 1, for one to be proposed in place of the other.
const LIKENESS_MIN: f64 = 0.75;

/// Reads the file at `path`.
pub(super) fn read(path: &Path) -> Result<Written, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.into(), source };
    let mut file = File::open(path).map_err(failed)?;
    let too_large = || ConfigError::TooLarge { path: path.into() };
    if file.metadata().map_err(failed)?.len() > FILE_BYTES_MAX {
        return Err(too_large());
    }
    // A device or a pipe has no length in its metadata.
    let mut bytes = Vec::new();
    let read = file.by_ref().take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if read as u64 > FILE_BYTES_MAX {
        return Err(too_large());
    }
    let text = std::str::from_utf8(&bytes)
        .map_err(|error| ConfigError::NotText { path: path.into(), offset: error.valid_up_to() })?;
    parse(path, text)
}

/// Parses the text of the file at `path`.
pub(super) fn parse(path: &Path, text: &str) -> Result<Written, ConfigError> {
    // Some editors put a byte order mark in front, which means nothing in UTF-8.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let path: Arc<Path> = path.into();
    let place = Place { path: &path, text };
    let table = DeTable::parse(text).map_err(|error| place.refuse(&error, None))?;
    let mut origins = Origins::default();
    place.note_keys(table.get_ref(), &mut origins)?;
    let settings = toml::Deserializer::parse(text)
        .and_then(Settings::deserialize)
        .map_err(|error| place.refuse(&error, Some(table.get_ref())))?;
    Ok(Written { settings, origins })
}

/// Where we are, for errors.
struct Place<'a> {
    path: &'a Arc<Path>,
    text: &'a str,
}

impl Place<'_> {
    /// Checks every key of the file against those we know, and notes its line.
    fn note_keys(&self, table: &DeTable<'_>, origins: &mut Origins) -> Result<(), ConfigError> {
        for (group, value) in table.iter() {
            let line = self.line(&group.span());
            let Some((_, keys)) = Settings::KEYS.iter().find(|(name, _)| name == group.get_ref())
            else {
                return Err(self.unknown_group(group.get_ref(), line));
            };
            let DeValue::Table(inner) = value.get_ref() else {
                return Err(ConfigError::Syntax {
                    path: self.path.to_path_buf(),
                    line,
                    key: Some(group.get_ref().to_string()),
                    reason: format!("expected a table [{}]", group.get_ref()),
                });
            };
            for (key, _) in inner.iter() {
                let line = self.line(&key.span());
                let name = format!("{}.{}", group.get_ref(), key.get_ref());
                if !keys.contains(&key.get_ref().as_ref()) {
                    let nearest = nearest(key.get_ref(), keys.iter().copied());
                    return Err(self.unknown_key(name, line, nearest.map(str::to_owned)));
                }
                origins.set(name, Origin::File { path: self.path.clone(), line });
            }
        }
        Ok(())
    }

    /// A key at the top of the file is a misspelt table or a key outside its table.
    fn unknown_group(&self, name: &str, line: usize) -> ConfigError {
        let groups = Settings::KEYS.iter().map(|(group, _)| *group);
        let proposal = nearest(name, groups).map(|group| format!("[{group}]")).or_else(|| {
            let keys = Settings::KEYS
                .iter()
                .flat_map(|(group, keys)| keys.iter().map(move |key| (*group, *key)));
            keys.filter(|(_, key)| *key == name).map(|(group, key)| format!("{group}.{key}")).next()
        });
        self.unknown_key(name.to_owned(), line, proposal)
    }

    fn unknown_key(&self, key: String, line: usize, nearest: Option<String>) -> ConfigError {
        ConfigError::UnknownKey { path: self.path.to_path_buf(), line, key, nearest }
    }

    fn refuse(&self, error: &toml::de::Error, table: Option<&DeTable<'_>>) -> ConfigError {
        let span = error.span().unwrap_or(0..0);
        ConfigError::Syntax {
            path: self.path.to_path_buf(),
            line: self.line(&span),
            key: table.and_then(|table| key_at(table, &span)),
            reason: error.message().replace('\n', "; "),
        }
    }

    fn line(&self, span: &Range<usize>) -> usize {
        let before = &self.text.as_bytes()[..span.start.min(self.text.len())];
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }
}

/// The key whose value is at `span`.
fn key_at(table: &DeTable<'_>, span: &Range<usize>) -> Option<String> {
    let within = |outer: Range<usize>| outer.start <= span.start && span.end <= outer.end;
    table.iter().find_map(|(group, value)| {
        let (key, _) = value.get_ref().as_table()?.iter().find(|(_, v)| within(v.span()))?;
        Some(format!("{}.{}", group.get_ref(), key.get_ref()))
    })
}

/// The known name that `name` was probably meant to be.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|known| (strsim::jaro_winkler(name, known), known))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, known)| known)
}
