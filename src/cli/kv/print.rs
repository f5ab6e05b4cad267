//! Entries, changes and the size of the store, as people and programs read them.

use serde::Serialize;
use serde_json::{Value, json};
use zmesh::config::Size;
use zmesh::kv::{Entry, Event, State};

use super::super::Context;
use super::super::failure::Failure;
use super::super::output::Record;
use super::payload;

/// One key in a list.
#[derive(Serialize)]
#[serde(transparent)]
pub(super) struct Row {
    json: Value,
    #[serde(skip)]
    cells: [String; 5],
}

impl Row {
    pub(super) fn new(found: &Entry, is_key_only: bool) -> Self {
        let mut json = entry(found);
        let mut value = text(&found.value);
        if is_key_only {
            // Not read is not the same as empty.
            json.as_object_mut().map(|fields| (fields.remove("value"), fields.remove("encoding")));
            value = String::new();
        }
        let lease = found.lease.map_or_else(|| "-".to_owned(), |lease| lease.to_string());
        let (revision, version) = (found.revision.to_string(), found.version.to_string());
        Self { json, cells: [text(&found.key), revision, version, lease, value] }
    }
}

impl Record for Row {
    const COLUMNS: &'static [&'static str] = &["key", "revision", "version", "lease", "value"];

    fn cells(&self) -> Vec<String> {
        self.cells.to_vec()
    }
}

/// A key with everything that is known about it.
pub(super) fn entry(entry: &Entry) -> Value {
    let (value, encoding) = encoded(&entry.value);
    let mut line = json!({
        "key": text(&entry.key),
        "value": value,
        "encoding": encoding,
        "revision": entry.revision,
        "created": entry.created,
        "version": entry.version,
    });
    if let Some(lease) = entry.lease {
        line["lease"] = json!(lease);
    }
    line
}

/// A change: one line, `REVISION set KEY VALUE` or `REVISION clear KEY`, or one line of JSON.
pub(super) fn event(event: &Event, context: &Context) -> Result<(), Failure> {
    let (revision, key) = (event.revision, text(&event.key));
    if !context.out.is_json() {
        return context.out.text(&match &event.entry {
            Some(entry) => format!("{revision} set {key} {}", text(&entry.value)),
            None => format!("{revision} clear {key}"),
        });
    }
    let mut line = match &event.entry {
        Some(found) => entry(found),
        None => json!({ "key": key, "revision": revision }),
    };
    line["event"] = json!(if event.entry.is_some() { "set" } else { "clear" });
    if let Some(previous) = &event.previous {
        line["previous"] = entry(previous);
    }
    context.out.json(&line)
}

pub(super) fn state(state: &State, context: &Context) -> Result<(), Failure> {
    if context.out.is_json() {
        return context.out.json(state);
    }
    let limits = &state.limits;
    let size = |bytes: u64| Size(bytes).to_string();
    context.out.text(&format!(
        "revision {}\nkeys     {}\nbytes    {} of {}\n\
         history  {} changes of {}, {} bytes of {}, readable from revision {}",
        state.revision,
        state.keys,
        state.bytes,
        size(limits.bytes_max),
        state.history_changes,
        limits.history_changes_max,
        state.history_bytes,
        size(limits.history_bytes_max),
        state.first,
    ))
}

/// A value as JSON has it, and how it is written there.
pub(super) fn encoded(value: &[u8]) -> (String, &'static str) {
    match std::str::from_utf8(value) {
        Ok(text) => (text.to_owned(), "utf-8"),
        Err(_) => (payload::base64(value), "base64"),
    }
}

/// Bytes on one line, whatever they are.
pub(super) fn text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    match text.chars().any(char::is_control) {
        true => text.escape_debug().to_string(),
        false => text.into_owned(),
    }
}
