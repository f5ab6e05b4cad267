//! What the demonstration says: a line for each event, and a closing table.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::{Map, Value, json};
use zmesh::{Clock, Time};

use crate::cli::failure::Failure;
use crate::cli::output::Output;

/// Prints events with the time since the start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reporter {
    out: Output,
    clock: Clock,
}

impl Reporter {
    pub(super) fn new(out: Output, clock: Clock) -> Self {
        Self { out, clock }
    }

    pub(super) fn now(&self) -> Time {
        self.clock.now()
    }

    /// Prints one event: `text` for people, its name and `fields` for programs.
    pub(super) fn event(&self, name: &str, text: &str, fields: Value) -> Result<(), Failure> {
        let at = self.now().since_start().as_secs_f64();
        if !self.out.is_json() {
            return self.out.text(&format!("{at:>8.3}s  {text}"));
        }
        let mut object = Map::new();
        object.insert("at_seconds".to_owned(), json!((at * 1e3).round() / 1e3));
        object.insert("event".to_owned(), json!(name));
        if let Value::Object(fields) = fields {
            object.extend(fields);
        }
        self.out.json(&object)
    }

    /// Prints the closing table, or the last JSON line.
    pub(super) fn result(&self, result: &Summary) -> Result<(), Failure> {
        match self.out.is_json() {
            true => self.out.json(result),
            false => self.out.text(&result.table()),
        }
    }
}

/// What came of it. Times are in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Summary {
    event: &'static str,
    /// Writes that were acknowledged.
    pub(super) acknowledged: u64,
    /// Attempts whose outcome was unknown; each was made again.
    pub(super) unknown: u64,
    /// Attempts that certainly had no effect; each was made again.
    pub(super) refused: u64,
    /// Acknowledged writes that could not be read back.
    pub(super) lost: u64,
    /// The longest time from a kill to the next acknowledgement of a write begun after it.
    pub(super) failover_ms: f64,
    /// That time for each kill.
    pub(super) failovers_ms: Vec<f64>,
    /// The longest time in which a restarted node had everything that was there when it was back.
    pub(super) catch_up_ms: f64,
    /// Acknowledged writes in a second, the pauses included.
    pub(super) writes_per_second: f64,
    pub(super) latency_p50_ms: f64,
    pub(super) latency_p99_ms: f64,
    pub(super) latency_max_ms: f64,
}

impl Summary {
    pub(super) fn new(
        record: &super::load::Record,
        loaded: Duration,
        lost: u64,
        failovers: &[Duration],
        catch_ups: &[Duration],
    ) -> Self {
        let acknowledged = record.acknowledged();
        let latency = |quantile| micros(&record.latencies, quantile);
        let longest = |times: &[Duration]| times.iter().max().copied().map_or(0.0, millis);
        let per_second = acknowledged_per_second(acknowledged, loaded);
        Self {
            event: "result",
            acknowledged,
            unknown: record.unknown,
            refused: record.refused,
            lost,
            failover_ms: longest(failovers),
            failovers_ms: failovers.iter().copied().map(millis).collect(),
            catch_up_ms: longest(catch_ups),
            writes_per_second: per_second,
            latency_p50_ms: latency(0.5),
            latency_p99_ms: latency(0.99),
            latency_max_ms: latency(1.0),
        }
    }

    fn table(&self) -> String {
        let failovers: Vec<_> = self.failovers_ms.iter().map(|ms| format!("{ms:.0} ms")).collect();
        let rows = [
            ("writes acknowledged", self.acknowledged.to_string()),
            ("writes lost", self.lost.to_string()),
            ("outcome unknown, written again", self.unknown.to_string()),
            ("fail-over", failovers.join(", ")),
            ("catch-up after restart", format!("{:.0} ms", self.catch_up_ms)),
            (
                "latency p50 / p99 / max",
                format!(
                    "{:.1} / {:.1} / {:.1} ms",
                    self.latency_p50_ms, self.latency_p99_ms, self.latency_max_ms
                ),
            ),
            ("writes per second", format!("{:.0}", self.writes_per_second)),
        ];
        let lines = rows.iter().map(|(name, value)| format!("  {name:<32}{value}"));
        format!("\n{}", lines.collect::<Vec<_>>().join("\n"))
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people to read")]
fn acknowledged_per_second(acknowledged: u64, loaded: Duration) -> f64 {
    (acknowledged as f64 / loaded.as_secs_f64()).round()
}

/// Milliseconds with one digit after the point.
pub(super) fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e4).round() / 10.0
}

fn micros(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    millis(Duration::from_micros(histogram.value_at_quantile(quantile)))
}
