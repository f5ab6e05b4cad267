//! Writes a resolved configuration for people (TOML) and for machines (JSON).

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{Config, LimitsConfig, Period, Size};

/// Values of one group by key, in the order of the documentation; `None` where there is none.
type Group = (&'static str, Vec<(&'static str, Option<Value>)>);

pub(super) fn toml(config: &Config) -> String {
    let mut text = String::new();
    for (group, values) in groups(config) {
        if !text.is_empty() {
            text.push('\n');
        }
        let _infallible = writeln!(text, "[{group}]");
        for (key, value) in values {
            let origin = config.origins.of(&format!("{group}.{key}"));
            let _infallible = match value {
                Some(value) => writeln!(text, "{key} = {} # {origin}", toml_value(&value)),
                None => writeln!(text, "# {key} is not set"),
            };
        }
    }
    text
}

pub(super) fn json(config: &Config) -> Value {
    let mut object = Map::new();
    for (group, values) in groups(config) {
        let values = values.into_iter().map(|(key, value)| {
            let origin = config.origins.of(&format!("{group}.{key}")).to_string();
            (key.to_owned(), json!({ "value": value, "origin": origin }))
        });
        object.insert(group.to_owned(), Value::Object(values.collect()));
    }
    object.insert("warnings".to_owned(), json!(config.warnings));
    Value::Object(object)
}

fn groups(config: &Config) -> [Group; 5] {
    let Config { node, heartbeat, limits, replica, log, .. } = config;
    let replica = replica.as_ref();
    let named = node.keys.as_ref().filter(|keys| keys.is_named);
    let period = |period: Duration| Some(json!(Period(period).to_string()));
    let size = |bytes: u64| Some(json!(Size(bytes).to_string()));
    [
        (
            "node",
            vec![
                ("id", node.id.as_ref().map(|id| json!(id))),
                ("cluster", Some(json!(node.cluster))),
                ("bind", Some(json!(node.bind))),
                // One that nobody named is made; one that is named has to be there.
                ("key_file", named.map(|keys| json!(keys.file))),
                ("allow_list", node.keys.as_ref().map(|keys| json!(keys.allow_list))),
                ("insecure", Some(json!(node.insecure))),
                ("transport", Some(json!(node.transport))),
                ("advertise", node.advertise.as_ref().map(|address| json!(address))),
                ("peers", Some(json!(node.peers))),
                ("labels", Some(json!(node.labels))),
            ],
        ),
        (
            "heartbeat",
            vec![
                ("preset", Some(json!(heartbeat.preset.name()))),
                ("ping_interval", period(heartbeat.ping_interval)),
                ("health_check_interval", period(heartbeat.health_check_interval)),
                ("ghost_timeout", period(heartbeat.ghost_timeout)),
                ("handshake_timeout", period(heartbeat.handshake_timeout)),
                ("request_timeout", period(heartbeat.request_timeout)),
            ],
        ),
        limits_group(limits),
        (
            "replica",
            vec![
                ("data_dir", replica.map(|it| json!(it.data_dir.to_string_lossy()))),
                // A file that sets both would be refused.
                ("members", replica.filter(|it| !it.join).map(|it| json!(it.members))),
                ("join", replica.map(|it| json!(it.join))),
                ("log_groups", replica.map(|it| json!(it.log_groups))),
                ("heartbeat_interval", replica.and_then(|it| period(it.heartbeat_interval))),
                ("election_timeout", replica.and_then(|it| period(it.election_timeout))),
                ("in_sync_lag_max", replica.and_then(|it| period(it.in_sync_lag_max))),
                ("sync", replica.map(|it| json!(it.sync.name()))),
                ("sync_interval", replica.and_then(|it| period(it.sync_interval))),
                ("segment_bytes", replica.and_then(|it| size(it.segment_bytes))),
                ("snapshot_entries", replica.map(|it| json!(it.snapshot_entries))),
                ("snapshot_bytes", replica.and_then(|it| size(it.snapshot_bytes))),
                ("snapshot_part", replica.and_then(|it| size(it.snapshot_part_bytes as u64))),
                ("promote_lag", replica.map(|it| json!(it.promote_lag_max))),
                ("scrub_rate", replica.and_then(|it| size(it.scrub_bytes_per_second))),
                ("scrub_interval", replica.and_then(|it| period(it.scrub_interval))),
                ("hash_interval", replica.and_then(|it| period(it.hash_interval))),
            ],
        ),
        (
            "log",
            vec![("level", Some(json!(log.level))), ("format", Some(json!(log.format.name())))],
        ),
    ]
}

fn limits_group(limits: &LimitsConfig) -> Group {
    let size = |bytes: u64| Some(json!(Size(bytes).to_string()));
    (
        "limits",
        vec![
            ("payload_max", size(limits.payload_bytes_max as u64)),
            ("queue_messages", Some(json!(limits.queue_messages_max))),
            ("queue_bytes", size(limits.queue_bytes_max)),
            ("queue_total", size(limits.queue_total_max)),
            ("peers_max", Some(json!(limits.peers_max))),
            ("in_flight_max", Some(json!(limits.in_flight_max))),
            ("peer_rate", limits.peer_rate.map(|rate| json!(rate))),
        ],
    )
}

/// A JSON value in TOML. Numbers, booleans, arrays and strings are written alike in both, except
/// that TOML wants DEL escaped.
fn toml_value(value: &Value) -> String {
    match value {
        Value::Array(values) => {
            let values: Vec<_> = values.iter().map(toml_value).collect();
            format!("[{}]", values.join(", "))
        }
        Value::Object(values) => {
            let pair = |(key, value): (&String, &Value)| {
                format!("{} = {}", toml_value(&json!(key)), toml_value(value))
            };
            let pairs: Vec<_> = values.iter().map(pair).collect();
            match pairs.is_empty() {
                true => "{}".to_owned(),
                false => format!("{{ {} }}", pairs.join(", ")),
            }
        }
        Value::Bool(_) | Value::Null | Value::Number(_) | Value::String(_) => {
            value.to_string().replace('\u{7f}', "\\u007f")
        }
    }
}
