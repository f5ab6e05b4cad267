//! What was measured: latencies, the course of time, and errors by kind.
//!
//! Pure. Memory is limited: histograms have a fixed size, and so many rows tell the course of time.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longest latency that is told apart, in nanoseconds, and digits that are right.
const NANOS_MAX: u64 = 600_000_000_000;
const DIGITS: u8 = 3;
/// A row of the course of time, and how many there are at most: what comes after an hour counts, and
/// has no row.
const ROW: Duration = Duration::from_millis(100);
const ROWS_MAX: usize = 36_000;

/// See the module.
#[derive(Debug)]
pub(super) struct Recorder {
    latencies: Histogram<u64>,
    /// Since the last look.
    recent: Histogram<u64>,
    rows: Vec<Row>,
    /// When the last one ended well, and the longest time from one to the next.
    last: Option<Duration>,
    gap: Duration,
    errors: BTreeMap<&'static str, u64>,
}

/// A tenth of a second.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Row {
    /// Operations that ended in it.
    pub(super) done: u64,
    /// The longest latency of them.
    pub(super) longest: Duration,
    pub(super) errors: u64,
}

/// Latencies in microseconds, and what was done.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Figures {
    pub(super) operations: u64,
    pub(super) per_second: f64,
    pub(super) p50_us: f64,
    pub(super) p90_us: f64,
    pub(super) p99_us: f64,
    pub(super) p999_us: f64,
    pub(super) max_us: f64,
    pub(super) errors: BTreeMap<&'static str, u64>,
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, NANOS_MAX, DIGITS).expect("the bounds are in order")
}

impl Recorder {
    pub(super) fn new() -> Self {
        Self {
            latencies: histogram(),
            recent: histogram(),
            rows: Vec::new(),
            last: None,
            gap: Duration::ZERO,
            errors: BTreeMap::new(),
        }
    }

    /// An operation ended well, at a time since what counts began.
    pub(super) fn done(&mut self, at: Duration, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.latencies.saturating_record(nanos);
        self.recent.saturating_record(nanos);
        let last = self.last.get_or_insert(at);
        (self.gap, *last) = (self.gap.max(at.saturating_sub(*last)), at.max(*last));
        if let Some(row) = self.row(at) {
            row.done += 1;
            row.longest = row.longest.max(latency);
        }
    }

    /// Operations of which nothing came, at no certain time.
    pub(super) fn missing(&mut self, code: &'static str, count: u64) {
        if count > 0 {
            *self.errors.entry(code).or_default() += count;
        }
    }

    /// An operation failed.
    pub(super) fn failed(&mut self, at: Duration, code: &'static str) {
        *self.errors.entry(code).or_default() += 1;
        if let Some(row) = self.row(at) {
            row.errors += 1;
        }
    }

    fn row(&mut self, at: Duration) -> Option<&mut Row> {
        let number = usize::try_from(at.as_nanos() / ROW.as_nanos()).ok()?;
        if number >= ROWS_MAX {
            return None;
        }
        if number >= self.rows.len() {
            self.rows.resize(number + 1, Row::default());
        }
        self.rows.get_mut(number)
    }

    /// What was done since the last look, and the p99 of that.
    pub(super) fn look(&mut self) -> (u64, Duration) {
        let seen = (self.recent.len(), Duration::from_nanos(self.recent.value_at_quantile(0.99)));
        self.recent.reset();
        seen
    }

    pub(super) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Latency in microseconds at each of these quantiles.
    pub(super) fn quantiles<'a>(&'a self, at: &'a [f64]) -> impl Iterator<Item = f64> + 'a {
        at.iter().map(|quantile| self.latencies.value_at_quantile(*quantile) as f64 / 1e3)
    }

    /// The longest time from one operation that ended well to the next.
    pub(super) fn longest_gap(&self) -> Duration {
        self.gap
    }

    pub(super) fn figures(&self, counted: Duration) -> Figures {
        let us = |quantile| self.latencies.value_at_quantile(quantile) as f64 / 1e3;
        Figures {
            operations: self.latencies.len(),
            per_second: self.latencies.len() as f64 / counted.as_secs_f64().max(1e-9),
            p50_us: us(0.5),
            p90_us: us(0.9),
            p99_us: us(0.99),
            p999_us: us(0.999),
            max_us: self.latencies.max() as f64 / 1e3,
            errors: self.errors.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A stall in which nothing was sent shows all the same: those that were meant for it count from
    /// when they were meant.
    #[test]
    fn stall_shows_in_the_quantiles() {
        let mut recorder = Recorder::new();
        // One each millisecond, and nothing ends from 500 to 700 ms.
        for meant in 0..1_000_u32 {
            let ended = if (500..700).contains(&meant) { 700 } else { meant } * MS + MS;
            recorder.done(ended, ended - meant * MS);
        }
        let figures = recorder.figures(Duration::from_secs(1));
        assert_eq!(figures.operations, 1_000);
        assert!((0.9e3..1.1e3).contains(&figures.p50_us), "{figures:?}");
        assert!(figures.p90_us > 90e3 && figures.p99_us > 180e3, "{figures:?}");
        assert_eq!(recorder.longest_gap(), 201 * MS);
        assert_eq!(recorder.rows()[7].longest, 201 * MS);
    }

    /// Errors are counted by kind, and a look takes only what has come since the last.
    #[test]
    fn errors_are_counted_by_kind() {
        let mut recorder = Recorder::new();
        recorder.failed(MS, "TIMEOUT");
        recorder.failed(MS, "TIMEOUT");
        recorder.failed(MS, "NO_QUORUM");
        recorder.missing("NOT_BEGUN", 7);
        recorder.missing("NOT_RECEIVED", 0);
        recorder.done(MS, MS);
        assert_eq!(recorder.look().0, 1);
        assert_eq!(recorder.look().0, 0);
        let figures = recorder.figures(Duration::from_secs(1));
        assert_eq!(figures.errors, [("NOT_BEGUN", 7), ("NO_QUORUM", 1), ("TIMEOUT", 2)].into());
        assert_eq!((figures.operations, recorder.rows()[0].errors), (1, 3));
    }

    /// However long it runs, it takes no more memory.
    #[test]
    fn course_of_time_is_limited() {
        let mut recorder = Recorder::new();
        recorder.done(Duration::MAX, MS);
        recorder.done(ROW * 35_999, MS);
        assert_eq!(recorder.rows().len(), ROWS_MAX);
        assert_eq!(recorder.figures(MS).operations, 2);
    }
}
