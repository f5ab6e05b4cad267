//! The table, and the picture.

use std::fmt::Write as _;

use super::usage::Machine;
use super::{Options, Peer, Sample};

/// One case with one peer: medians over the rounds.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    scenario: &'static str,
    peer: Peer,
    sample: Sample,
    /// Ours to theirs, of the same round: throughput, more is better, and p50, less is better; with
    /// the least and the most of the rounds.
    rate: [f64; 3],
    p50: [f64; 3],
}

impl Row {
    pub(crate) fn new(
        scenario: &'static str,
        peer: Peer,
        ours: &[Sample],
        theirs: &[Sample],
    ) -> Self {
        let of = |figure: fn(&Sample) -> f64| spread(theirs.iter().map(figure))[0];
        let ratio = |figure: fn(&Sample) -> f64| {
            spread(ours.iter().zip(theirs).map(|(ours, theirs)| figure(ours) / figure(theirs)))
        };
        let sample = Sample {
            p50_us: of(|sample| sample.p50_us),
            p99_us: of(|sample| sample.p99_us),
            p999_us: of(|sample| sample.p999_us),
            per_second: of(|sample| sample.per_second),
        };
        let (rate, p50) = (ratio(|sample| sample.per_second), ratio(|sample| sample.p50_us));
        Self { scenario, peer, sample, rate, p50 }
    }

    fn peer(&self) -> &'static str {
        self.peer.name()
    }

    fn is_ours(&self) -> bool {
        matches!(self.peer, Peer::Zmesh | Peer::ZmeshUnsynced)
    }
}

/// The median, the least and the most.
fn spread(figures: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    [figures[figures.len() / 2], figures[0], figures[figures.len() - 1]]
}

pub(crate) fn print(options: &Options, rows: &[Row], versions: &str) {
    if let Some(file) = &options.plot {
        std::fs::write(file, svg(rows)).unwrap();
    }
    for row in rows.iter().filter(|_| options.json) {
        let Sample { p50_us, p99_us, p999_us, per_second } = row.sample;
        let ratio = (!row.is_ours()).then_some(row.rate[0]);
        let line = serde_json::json!({
            "scenario": row.scenario, "peer": row.peer(), "p50_us": p50_us, "p99_us": p99_us,
            "p999_us": p999_us, "per_second": per_second, "ratio": ratio,
            "ratio_least": ratio.map(|_| row.rate[1]), "ratio_most": ratio.map(|_| row.rate[2]),
            "ratio_p50": ratio.map(|_| row.p50[0]), "transport": options.transport,
            "connections": options.connections,
        });
        println!("{line}");
    }
    if options.json {
        return;
    }
    let (edge, rule) = if options.markdown { ("| ", " | ") } else { ("", "  ") };
    println!(
        "zmesh over {} beside {versions}; medians of {} rounds of {:?}; {}\non {}\n",
        options.transport,
        options.rounds,
        options.round,
        match options.connections {
            Some(connections) => format!("others share {connections} connections"),
            None => "others have a connection for each at once".to_owned(),
        },
        Machine::describe(Some(&std::env::temp_dir())),
    );
    let line = |cells: [String; 7]| {
        println!("{edge}{}{}", cells.join(rule), if options.markdown { " |" } else { "" });
    };
    line([
        format!("{:<27}", "case"),
        format!("{:<14}", "peer"),
        format!("{:>8}", "p50 us"),
        format!("{:>8}", "p99 us"),
        format!("{:>9}", "a second"),
        format!("{:<24}", "zmesh does"),
        "p50 of zmesh is".to_owned(),
    ]);
    if options.markdown {
        println!("|---|---|---:|---:|---:|---|---|");
    }
    for row in rows {
        let times = |[median, least, most]: [f64; 3]| match row.is_ours() {
            true => String::new(),
            false => format!("{median:.2} x ({least:.2} to {most:.2})"),
        };
        let Sample { p50_us, p99_us, per_second, .. } = row.sample;
        line([
            format!("{:<27}", row.scenario),
            format!("{:<14}", row.peer()),
            format!("{p50_us:>8.0}"),
            format!("{p99_us:>8.0}"),
            format!("{per_second:>9.0}"),
            format!("{:<24}", times(row.rate)),
            times(row.p50),
        ]);
    }
}

/// Bars of the ratios of throughput, on a scale of powers of ten; right of the middle we do more.
fn svg(rows: &[Row]) -> String {
    let rows: Vec<_> = rows.iter().filter(|row| !row.is_ours()).collect();
    let height = 26 * rows.len() + 50;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 760 {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<style>text{{fill:#57606a}}\
         .more{{fill:#1a7f37}}.less{{fill:#cf222e}}.axis{{stroke:#8c959f}}\
         @media(prefers-color-scheme:dark){{text{{fill:#adbac7}}}}</style>\n\
         <text x=\"250\" y=\"18\">operations in a second, zmesh to the other: left of the line it does \
         fewer</text>\n"
    );
    let x = |ratio: f64| 460.0 + ratio.clamp(0.05, 50.0).log10() * 130.0;
    for (at, row) in rows.iter().enumerate() {
        let (y, to) = (30 + 26 * at, x(row.rate[0]));
        let (from, width) = (to.min(x(1.0)), (to - x(1.0)).abs());
        let class = if row.rate[0] >= 1.0 { "more" } else { "less" };
        let _infallible = writeln!(
            out,
            "<text x=\"8\" y=\"{}\">{} / {}</text><rect class=\"{class}\" x=\"{from:.1}\" y=\"{y}\" \
             width=\"{width:.1}\" height=\"18\"/><text x=\"690\" y=\"{}\">{:.2} x</text>",
            y + 14,
            row.scenario,
            row.peer(),
            y + 14,
            row.rate[0]
        );
    }
    let _infallible =
        writeln!(out, "<path class=\"axis\" d=\"M{0:.1} 26V{1}\"/>\n</svg>", x(1.0), height - 16);
    out
}
