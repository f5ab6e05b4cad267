//! Pictures of what was measured, as SVG that is readable on a light and on a dark page.
//!
//! Pure. One row for each result: on the left the latencies up to the 99.99th percentile, on the
//! right the course of time, in which a fail-over is a gap. Where a figure was varied there is one row
//! for each scenario instead: latency and throughput over that figure.

use std::fmt::Write as _;

use super::recorder::Row;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 260.0;
const LEFT: (f64, f64) = (70.0, 440.0);
const RIGHT: (f64, f64) = (540.0, 930.0);
const TOP: f64 = 40.0;
const BOTTOM: f64 = 215.0;

/// Quantiles of the left picture.
pub(super) const QUANTILES: [f64; 9] = [0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 0.9999];

/// One result.
#[derive(Debug)]
pub(super) struct Panel {
    pub(super) title: String,
    /// Latencies in microseconds at [`QUANTILES`].
    pub(super) latencies: Vec<f64>,
    /// Tenths of a second.
    pub(super) rows: Vec<Row>,
}

/// What came of varying a figure.
#[derive(Debug)]
pub(super) struct Curve {
    pub(super) title: String,
    /// What was varied.
    pub(super) name: String,
    /// In the order of the first: the figure, p50 and p99 in microseconds, operations in a second.
    pub(super) points: Vec<[f64; 4]>,
}

/// A picture of results.
pub(super) fn results(panels: &[Panel]) -> String {
    svg(panels.iter().map(|panel| |out: &mut String| panel.draw(out)))
}

/// A picture of curves.
pub(super) fn curves(curves: &[Curve]) -> String {
    svg(curves.iter().map(|curve| |out: &mut String| curve.draw(out)))
}

fn svg(rows: impl ExactSizeIterator<Item = impl FnOnce(&mut String)>) -> String {
    let height = HEIGHT * rows.len() as f64 + 10.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<style>\
         text{{fill:#57606a}}.axis{{stroke:#8c959f;fill:none}}.line{{stroke:#0969da;fill:none;\
         stroke-width:2}}.second{{stroke:#cf222e;fill:none;stroke-width:2}}.bar{{fill:#0969da}}.bad{{fill:#cf222e}}.title{{font-weight:bold}}\
         @media(prefers-color-scheme:dark){{text{{fill:#adbac7}}}}</style>\n"
    );
    for (number, draw) in rows.enumerate() {
        let _infallible =
            writeln!(out, "<g transform=\"translate(0 {})\">", HEIGHT * number as f64);
        draw(&mut out);
        out.push_str("</g>\n");
    }
    out.push_str("</svg>\n");
    out
}

impl Panel {
    fn draw(&self, out: &mut String) {
        frame(out, &self.title);
        self.draw_latencies(out);
        self.draw_time(out);
    }

    /// Latency over quantile, both by powers of ten.
    fn draw_latencies(&self, out: &mut String) {
        let scale = Scale::of(self.latencies.iter().copied());
        let y = |us: f64| BOTTOM - scale.share(us) * (BOTTOM - TOP);
        let step = (LEFT.1 - LEFT.0) / (QUANTILES.len() - 1) as f64;
        let points = self.latencies.iter().enumerate();
        let points =
            points.map(|(at, us)| format!("{:.1},{:.1}", LEFT.0 + at as f64 * step, y(*us)));
        let points = points.collect::<Vec<_>>().join(" ");
        let _infallible = writeln!(out, "<polyline class=\"line\" points=\"{points}\"/>");
        for (at, quantile) in QUANTILES.iter().enumerate() {
            let name = format!("p{}", (quantile * 1e4).round() / 100.0);
            text(out, (LEFT.0 + at as f64 * step - 12.0, BOTTOM + 16.0), "", &name);
        }
        scale.label(out, 8.0, unit);
    }

    /// Operations in each tenth of a second; red where some failed.
    fn draw_time(&self, out: &mut String) {
        let most = self.rows.iter().map(|row| row.done).max().unwrap_or(0).max(1);
        let width = (RIGHT.1 - RIGHT.0) / self.rows.len().max(1) as f64;
        for (at, row) in self.rows.iter().enumerate() {
            let height = row.done as f64 / most as f64 * (BOTTOM - TOP);
            let class = if row.errors > 0 { "bad" } else { "bar" };
            let x = RIGHT.0 + at as f64 * width;
            // An error without anything done is a thin line at the bottom.
            let height = if row.errors > 0 { height.max(2.0) } else { height };
            let _infallible = writeln!(
                out,
                "<rect class=\"{class}\" x=\"{x:.2}\" y=\"{:.2}\" width=\"{:.2}\" \
                 height=\"{height:.2}\"/>",
                BOTTOM - height,
                (width * 0.9).max(0.2)
            );
        }
        let per_second = format!("{} in a second", most * 10);
        text(out, (RIGHT.0, TOP - 6.0), "", &per_second);
        let seconds = self.rows.len() as f64 / 10.0;
        text(out, (RIGHT.1 - 30.0, BOTTOM + 16.0), "", &format!("{seconds:.1} s"));
    }
}

impl Curve {
    fn draw(&self, out: &mut String) {
        frame(out, &self.title);
        let column = |at: usize| self.points.iter().map(move |point| (point[0], point[at]));
        let times = Scale::of(column(1).chain(column(2)).map(|(_, us)| us));
        let rates = Scale::of(column(3).map(|(_, rate)| rate));
        let along = Scale::of(column(0).map(|(figure, _)| figure));
        self.line(out, (LEFT, &along, &times), "line", column(1));
        self.line(out, (LEFT, &along, &times), "second", column(2));
        self.line(out, (RIGHT, &along, &rates), "line", column(3));
        times.label(out, LEFT.0 - 62.0, unit);
        rates.label(out, RIGHT.0 - 62.0, |rate| format!("{rate:.0}/s"));
        text(out, (LEFT.0 + 8.0, TOP + 4.0), "", "latency: p50 blue, p99 red");
        text(out, (RIGHT.0 + 8.0, TOP + 4.0), "", "throughput");
    }

    fn line(
        &self,
        out: &mut String,
        ((from, to), along, up): ((f64, f64), &Scale, &Scale),
        class: &str,
        points: impl Iterator<Item = (f64, f64)>,
    ) {
        let x = |figure: f64| from + along.share(figure) * (to - from);
        let y = |figure: f64| BOTTOM - up.share(figure) * (BOTTOM - TOP);
        let points = points.map(|(figure, value)| format!("{:.1},{:.1}", x(figure), y(value)));
        let points = points.collect::<Vec<_>>().join(" ");
        let _infallible = writeln!(out, "<polyline class=\"{class}\" points=\"{points}\"/>");
        for point in &self.points {
            text(out, (x(point[0]) - 6.0, BOTTOM + 16.0), "", &format!("{}", point[0]));
        }
        text(out, (f64::midpoint(from, to), BOTTOM + 32.0), "", &escape(&self.name));
    }
}

/// A scale by powers of ten, from one of them to another.
#[derive(Debug)]
struct Scale {
    low: f64,
    high: f64,
}

impl Scale {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let logs = values.map(|value| value.max(1.0).log10());
        let (low, high) = logs.fold((f64::INFINITY, 0.0), |(low, high): (f64, f64), value| {
            (low.min(value), high.max(value))
        });
        let low = if low.is_finite() { low.floor() } else { 0.0 };
        Self { low, high: high.ceil().max(low + 1.0) }
    }

    /// Where a value lies, from 0 to 1.
    fn share(&self, value: f64) -> f64 {
        (value.max(1.0).log10() - self.low) / (self.high - self.low)
    }

    /// Writes its powers of ten along the left side.
    fn label(&self, out: &mut String, x: f64, word: impl Fn(f64) -> String) {
        let mut power = self.low;
        while power <= self.high {
            let value = 10_f64.powf(power);
            let y = BOTTOM - self.share(value) * (BOTTOM - TOP) + 4.0;
            text(out, (x, y), "", &word(value));
            power += 1.0;
        }
    }
}

/// Title and axes of a row.
fn frame(out: &mut String, title: &str) {
    text(out, (LEFT.0, 20.0), "title", &escape(title));
    for (from, to) in [LEFT, RIGHT] {
        let _infallible = writeln!(out, "<path class=\"axis\" d=\"M{from} {TOP}V{BOTTOM}H{to}\"/>");
    }
}

fn text(out: &mut String, (x, y): (f64, f64), class: &str, text: &str) {
    let _infallible =
        writeln!(out, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>");
}

fn unit(us: f64) -> String {
    match us {
        us if us >= 1e6 => format!("{:.0} s", us / 1e6),
        us if us >= 1e3 => format!("{:.0} ms", us / 1e3),
        us => format!("{us:.0} us"),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A viewer that finds one number that is none shows nothing at all.
    #[test]
    fn picture_has_no_number_that_is_none() {
        let row = Row { done: 5, longest: Duration::from_millis(3), errors: 1 };
        let full = Panel {
            title: "set <64> & more".to_owned(),
            latencies: vec![100.0; QUANTILES.len()],
            rows: vec![row, Row::default()],
        };
        let empty = Panel { title: String::new(), latencies: vec![0.0; 9], rows: Vec::new() };
        let points = vec![[1.0, 100.0, 900.0, 9.0], [64.0, 300.0, 2_000.0, 40_000.0]];
        let (title, name) = ("set".to_owned(), "clients".to_owned());
        let curve = Curve { title, name, points };
        let none = Curve { title: String::new(), name: String::new(), points: Vec::new() };
        let svg = results(&[full, empty]) + &curves(&[curve, none]);
        assert!(svg.contains("set &lt;64&gt; &amp; more"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        for tag in ["g", "text", "svg", "style"] {
            let (opened, closed) = (format!("<{tag}"), format!("</{tag}>"));
            let opened = svg.matches(&format!("{opened} ")).count()
                + svg.matches(&format!("{opened}>")).count();
            assert_eq!(opened, svg.matches(&closed).count(), "{tag}");
        }
        assert_eq!(svg.matches("class=\"bad\"").count(), 1);
    }
}
