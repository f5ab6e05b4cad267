//! What a benchmark says: a table, lines of JSON, and pictures.

use std::collections::BTreeMap;

use serde::Serialize;
use zmesh::transport::Kind;

use super::super::Context;
use super::super::failure::{Exit, Failure};
use super::super::output::Record;
use super::baseline::Baseline;
use super::plot::{self, Curve, Panel};
use super::recorder::Figures;
use super::usage::Machine;
use super::{Args, Scenario, Sweep};

/// One result.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) scenario: Scenario,
    pub(super) peer: &'static str,
    pub(super) clients: u16,
    pub(super) outstanding: u16,
    pub(super) payload: usize,
    pub(super) keys: u64,
    /// None for a closed loop.
    pub(super) rate: Option<u32>,
    pub(super) transport: Kind,
    /// Members; none for a cluster that was not started here.
    pub(super) nodes: Option<u16>,
    #[serde(flatten)]
    pub(super) figures: Figures,
    /// The p50 to that of the baseline.
    pub(super) ratio: Option<f64>,
    pub(super) baseline: Option<Baseline>,
    pub(super) baseline_us: Option<f64>,
    /// Seconds of a processor for a million operations, by process.
    pub(super) cpu_s_per_million: BTreeMap<String, f64>,
    /// Memory at the end, by process.
    pub(super) resident_bytes: BTreeMap<String, u64>,
    /// The longest time without any operation that ended well.
    pub(super) longest_gap_ms: f64,
    /// Acknowledged writes that could not be read back; failover only.
    pub(super) lost: Option<u64>,
    pub(super) machine: Machine,
}

impl Record for Report {
    const COLUMNS: &'static [&'static str] = &[
        "scenario",
        "at once",
        "rate",
        "payload",
        "per second",
        "p50 us",
        "p90",
        "p99",
        "p99.9",
        "max",
        "ratio",
        "errors",
        "cpu s/M",
    ];

    fn cells(&self) -> Vec<String> {
        let Figures { per_second, p50_us, p90_us, p99_us, p999_us, max_us, errors, .. } =
            &self.figures;
        let whole = |figure: &f64| format!("{figure:.0}");
        let at_once = u32::from(self.clients) * u32::from(self.outstanding);
        vec![
            self.scenario.name(),
            at_once.to_string(),
            self.rate.map_or_else(|| "-".to_owned(), |rate| rate.to_string()),
            self.payload.to_string(),
            whole(per_second),
            whole(p50_us),
            whole(p90_us),
            whole(p99_us),
            whole(p999_us),
            whole(max_us),
            self.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")),
            errors.values().sum::<u64>().to_string(),
            format!("{:.1}", self.cpu_s_per_million.values().sum::<f64>()),
        ]
    }
}

/// Prints and draws everything; a lost write is a failure.
pub(super) fn finish(
    args: &Args,
    context: &Context,
    reports: &[Report],
    panels: &[Panel],
) -> Result<(), Failure> {
    if let Some(file) = &args.plot {
        let svg = match &args.sweep {
            Some(sweep) => plot::curves(&curves(args, sweep, reports)),
            None => plot::results(panels),
        };
        std::fs::write(file, svg).map_err(|error| {
            Failure::new(Exit::Refused, format!("cannot write {}: {error}", file.display()))
        })?;
    }
    if !context.out.is_json() {
        context.out.table_or_json(reports)?;
        if args.sweep.is_none() {
            reports.iter().try_for_each(|report| context.out.text(&in_words(report)))?;
        }
        if let Some(report) = reports.last() {
            context.out.text(&format!("on {}", report.machine))?;
        }
    }
    match reports.iter().filter_map(|report| report.lost).sum::<u64>() {
        0 => Ok(()),
        lost => {
            let message = format!("{lost} acknowledged writes are lost");
            Err(Failure::coded(Exit::Corrupt, zmesh::ErrorCode::Corrupt, message)
                .next("this must never happen: run again with --dir and keep the directory"))
        }
    }
}

/// One curve for each scenario, over the figure that was varied.
fn curves(args: &Args, sweep: &Sweep, reports: &[Report]) -> Vec<Curve> {
    let curve = |scenario: &Scenario| {
        let of = reports.iter().filter(|report| report.scenario == *scenario);
        let point = |(value, report): (&u64, &Report)| {
            let Figures { p50_us, p99_us, per_second, .. } = report.figures;
            [*value as f64, p50_us, p99_us, per_second]
        };
        Curve {
            title: scenario.name(),
            name: format!("{:?}", sweep.name).to_lowercase(),
            points: sweep.values.iter().zip(of).map(point).collect(),
        }
    };
    args.scenarios.iter().map(curve).collect()
}

/// What has no column.
fn in_words(report: &Report) -> String {
    let mut words = vec![format!("{}:", report.scenario.name())];
    if let (Some(baseline), Some(us)) = (report.baseline, report.baseline_us) {
        let of = match baseline {
            Baseline::DiskSync => "a write and sync of the disk",
            Baseline::TcpRoundTrip => "a round trip over TCP",
        };
        words.push(format!("the ratio is p50 to {of}, {us:.0} us;"));
    }
    let memory = report.resident_bytes.iter();
    let memory = memory.map(|(name, bytes)| format!("{name} {:.0} MiB", *bytes as f64 / 1048576.0));
    words.push(format!("memory {}", memory.collect::<Vec<_>>().join(", ")));
    if report.scenario == Scenario::Failover {
        let lost = report.lost.unwrap_or(0);
        words.push(format!("; longest gap {:.0} ms, lost {lost}", report.longest_gap_ms));
    }
    for (code, count) in &report.figures.errors {
        words.push(format!("; {count} x {code}"));
    }
    words.join(" ").replace(" ;", ";")
}
