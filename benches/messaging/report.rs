//! Medians, ratios, and how they are shown.

use std::time::Duration;

use crate::mesh::ABSENT;
use crate::{Case, Load, Sample, Side};

/// A request to a peer that is not there fails within this.
const ABSENT_TARGET: Duration = Duration::from_millis(1);
/// The most times raw's latency, for the 99th percentile.
const P99_TARGET: f64 = 1.5;

/// Prints each case as soon as it is known.
pub(crate) struct Report {
    json: bool,
}

/// One figure of one run.
type Figure = fn(&Sample) -> f64;

impl Report {
    pub(crate) fn new(json: bool) -> Self {
        if !json {
            println!(
                "{:<28} {:>17} {:>17} {:>6} {:>8}  {:<24} {:>12} {:>15}",
                "", "raw", "zmesh", "ratio", "target", "", "switches", "CPU us, raw"
            );
        }
        Self { json }
    }

    /// Prints a case: each round has a sample of each [`Side`].
    pub(crate) fn case(&mut self, case: &Case, rounds: &[[Sample; 2]]) {
        let main: Figure = match case.load {
            Load::RoundTrips => p50,
            Load::Ticks | Load::Window(_) => per_second,
        };
        let ratio = ratio(rounds, main);
        if self.json {
            for side in [Side::Raw, Side::Mesh] {
                let ratio = (side == Side::Mesh).then_some(ratio);
                self.json_line(case, side, rounds, ratio);
            }
            return;
        }
        let of = |side| figures(case, side, rounds);
        let (sign, met) = match case.load {
            Load::RoundTrips => ("<=", ratio <= case.target),
            Load::Ticks | Load::Window(_) => (">=", ratio >= case.target),
        };
        let tail = match case.load {
            Load::RoundTrips => {
                let tail = self::ratio(rounds, p99);
                format!("p99 {tail:.2} <= {P99_TARGET:.2} {}", verdict(tail <= P99_TARGET))
            }
            Load::Ticks | Load::Window(_) => String::new(),
        };
        let pair = |side, client: Figure, server: Figure| {
            format!("{:.1}+{:.1}", median(rounds, side, client), median(rounds, side, server))
        };
        println!(
            "{:<28} {:>17} {:>17} {:>6.2} {sign}{:>5.2} {:<4} {:<20} {:>12} {:>11} {:>11}",
            case.name,
            of(Side::Raw),
            of(Side::Mesh),
            ratio,
            case.target,
            verdict(met),
            tail,
            pair(Side::Mesh, client_switches, server_switches),
            pair(Side::Mesh, client_cpu_us, server_cpu_us),
            pair(Side::Raw, client_cpu_us, server_cpu_us),
        );
    }

    fn json_line(&self, case: &Case, side: Side, rounds: &[[Sample; 2]], ratio: Option<f64>) {
        let latency =
            |figure| (case.load == Load::RoundTrips).then(|| median(rounds, side, figure));
        let line = serde_json::json!({
            "scenario": case.name,
            "peer": match side { Side::Raw => "libzmq", Side::Mesh => "zmesh" },
            "p50_us": latency(p50),
            "p99_us": latency(p99),
            "per_second": median(rounds, side, per_second),
            "ratio": ratio,
            "client_switches": median(rounds, side, client_switches),
            "server_switches": median(rounds, side, server_switches),
            "client_cpu_us": median(rounds, side, client_cpu_us),
            "server_cpu_us": median(rounds, side, server_cpu_us),
        });
        println!("{line}");
    }

    /// Prints how long it takes to hear that a peer is not there.
    pub(crate) fn absent(&mut self, latencies: &[Duration]) {
        let (p50, p99) = (percentile_us(latencies, 50), percentile_us(latencies, 99));
        if self.json {
            let line = serde_json::json!({
                "scenario": ABSENT, "peer": "zmesh", "p50_us": p50, "p99_us": p99,
                "per_second": null, "ratio": null,
            });
            println!("{line}");
            return;
        }
        let met = verdict(p99 <= ABSENT_TARGET.as_secs_f64() * 1e6);
        println!(
            "{ABSENT:<28} {:>17} {:>17} p99 < 1 ms {met}",
            "",
            format!("{p50:.1}/{p99:.1} us")
        );
    }
}

const fn verdict(met: bool) -> &'static str {
    if met { "ok" } else { "MISS" }
}

fn figures(case: &Case, side: Side, rounds: &[[Sample; 2]]) -> String {
    match case.load {
        Load::RoundTrips => {
            format!("{:.0}/{:.0} us", median(rounds, side, p50), median(rounds, side, p99))
        }
        Load::Ticks | Load::Window(_) => {
            format!("{:.0} k/s", median(rounds, side, per_second) / 1e3)
        }
    }
}

/// The median over the rounds of the ratio within a round, which a busy minute cannot shift.
fn ratio(rounds: &[[Sample; 2]], figure: Figure) -> f64 {
    let of = |round: &[Sample; 2]| {
        figure(&round[Side::Mesh as usize]) / figure(&round[Side::Raw as usize])
    };
    middle(rounds.iter().map(of).collect())
}

fn median(rounds: &[[Sample; 2]], side: Side, figure: Figure) -> f64 {
    middle(rounds.iter().map(|round| figure(&round[side as usize])).collect())
}

fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        length if length.is_multiple_of(2) => f64::midpoint(values[half - 1], values[half]),
        _ => values[half],
    }
}

fn p50(sample: &Sample) -> f64 {
    percentile_us(&sample.latencies, 50)
}

fn p99(sample: &Sample) -> f64 {
    percentile_us(&sample.latencies, 99)
}

/// Of sorted durations, in microseconds.
fn percentile_us(sorted: &[Duration], percent: usize) -> f64 {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).map_or(f64::NAN, |duration| duration.as_secs_f64() * 1e6)
}

fn per_second(sample: &Sample) -> f64 {
    messages(sample) / sample.elapsed.as_secs_f64()
}

fn client_switches(sample: &Sample) -> f64 {
    sample.client.switches as f64 / messages(sample)
}

fn server_switches(sample: &Sample) -> f64 {
    sample.server.switches as f64 / messages(sample)
}

fn client_cpu_us(sample: &Sample) -> f64 {
    sample.client.cpu.as_secs_f64() * 1e6 / messages(sample)
}

fn server_cpu_us(sample: &Sample) -> f64 {
    sample.server.cpu.as_secs_f64() * 1e6 / messages(sample)
}

fn messages(sample: &Sample) -> f64 {
    sample.messages as f64
}
