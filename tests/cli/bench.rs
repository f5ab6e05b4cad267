//! `zmesh bench`: what it measures is there, whole, and of the run it says; how fast it is does not
//! matter here.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::nodes::Served;
use super::{Run, finish, zmesh};

const SHORT: [&str; 6] = ["--duration", "400ms", "--warm-up", "100ms", "--keys", "200"];

/// The benchmark with its temporary directory inside `dir`.
fn bench(dir: &Path, args: &[&str]) -> Run {
    finish(zmesh(dir).arg("bench").args(args).args(SHORT).env("TMPDIR", dir))
}

fn lines(run: &Run) -> Vec<Value> {
    assert_eq!(run.exit, 0, "{run:?}");
    run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn number(line: &Value, name: &str) -> f64 {
    line[name].as_f64().unwrap_or_else(|| panic!("no {name} in {line}"))
}

/// Whoever compares us with others relies on these fields, and on every scenario being there.
#[test]
fn every_scenario_measures_what_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let scenarios = ["request", "tick", "set", "get", "append", "tail", "mixed", "failover"];
    let args = [&scenarios[..], &["--outstanding", "4", "--json", "--plot", "out.svg"]].concat();
    let lines = lines(&bench(dir.path(), &args));
    let names: Vec<_> = lines.iter().map(|line| line["scenario"].as_str().unwrap()).collect();
    assert_eq!(names, scenarios);
    for line in &lines {
        assert_eq!((&line["peer"], &line["nodes"]), (&"zmesh".into(), &3.into()));
        let at = ["p50_us", "p90_us", "p99_us", "p999_us", "max_us"].map(|name| number(line, name));
        assert!(at[0] > 0.0 && at.is_sorted(), "{line}");
        assert!(number(line, "per_second") > 0.0 && number(line, "ratio") > 0.0, "{line}");
        let errors = line["errors"].as_object().unwrap();
        assert!(errors.is_empty() || line["scenario"] == "failover", "{line}");
        let processes = line["resident_bytes"].as_object().unwrap().len();
        assert_eq!(processes, if line["scenario"] == "failover" { 3 } else { 4 }, "{line}");
        assert!(line["cpu_s_per_million"].as_object().unwrap().len() >= 3, "{line}");
        assert!(number(&line["machine"], "cores") >= 1.0);
    }
    let failover = lines.last().unwrap();
    assert_eq!((&failover["lost"], &failover["rate"]), (&0.into(), &1_000.into()));
    assert!(number(failover, "longest_gap_ms") > 1.0, "{failover}");
    let svg = std::fs::read_to_string(dir.path().join("out.svg")).unwrap();
    assert!(svg.ends_with("</svg>\n") && svg.matches("class=\"title\"").count() == 8);
    std::fs::remove_file(dir.path().join("out.svg")).unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "something is left behind");
}

/// On somebody's cluster it leaves nothing behind, and kills nobody.
#[test]
fn running_cluster_is_left_as_it_was() {
    let served = Served::start(&["--data-dir", "data", "--members", "a"]);
    let run = |args: &[&str]| {
        let connect = ["--connect", "ipc://socket"];
        bench(served.dir(), &[args, &connect].concat())
    };
    let found = lines(&run(&["request", "mixed", "append", "--json"]));
    assert!(found.iter().all(|line| line["nodes"].is_null() && line["ratio"].is_null()));
    assert_eq!(served.run(&["kv", "list", "--json"]).stdout, "");
    assert_eq!(served.run(&["log", "topics", "--json"]).stdout, "");
    let refused = run(&["failover"]);
    assert_eq!(refused.exit, 2);
    assert!(refused.stderr.contains("only in a cluster that it started"), "{}", refused.stderr);
}

/// A cluster that is slower than it was asked to be must not look fast because nobody got round to the
/// rest.
#[test]
fn what_was_meant_and_not_begun_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let lines = lines(&bench(dir.path(), &["set", "--rate", "1000000", "--json"]));
    let missing = lines[0]["errors"]["NOT_BEGUN"].as_u64().unwrap();
    let done = lines[0]["operations"].as_u64().unwrap();
    assert!((done + missing).abs_diff(400_000) < 1_000, "{done} and {missing}");
}

/// Who has seen enough gets what was measured so far, and nothing that stays.
#[test]
fn interrupted_benchmark_says_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = zmesh(dir.path());
    command.args(["bench", "request", "set", "--duration", "1h", "--warm-up", "0s"]);
    let command = command.env("TMPDIR", dir.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut progress = BufReader::new(child.stderr.take().unwrap()).lines();
    let first = progress.next().unwrap().unwrap();
    assert!(first.starts_with("request "), "{first}");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stdout}");
    let rows: Vec<Vec<&str>> = stdout.lines().map(|row| row.split_whitespace().collect()).collect();
    assert_eq!((rows[1][0], rows[2][0]), ("request", "request:"), "{stdout}");
    assert!(rows[1][4].parse::<f64>().unwrap() > 0.0, "{stdout}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "something is left behind");
}

/// Curves: one result for each value, over either transport, at a rate as well.
#[test]
fn figure_is_varied() {
    let dir = tempfile::tempdir().unwrap();
    let args =
        ["get", "--sweep", "outstanding=1,8", "--transport", "native", "--json", "--rate", "500"];
    let lines = lines(&bench(dir.path(), &[&args[..], &["--plot", "out.svg"]].concat()));
    let outstanding: Vec<_> = lines.iter().map(|line| line["outstanding"].as_u64()).collect();
    assert_eq!(outstanding, [Some(1), Some(8)]);
    assert!(lines.iter().all(|line| line["transport"] == "native" && line["rate"] == 500));
    let svg = std::fs::read_to_string(dir.path().join("out.svg")).unwrap();
    assert_eq!(svg.matches("<polyline").count(), 3, "{svg}");
    for wrong in ["clients", "clients=0", "clients=x", "size=1"] {
        assert_eq!(bench(dir.path(), &["get", "--sweep", wrong]).exit, 2, "{wrong}");
    }
    assert_eq!(bench(dir.path(), &[]).exit, 2);
    assert_eq!(bench(dir.path(), &["get", "--sweep", "nodes=1,3", "--dir", "kept"]).exit, 2);
    let many = bench(dir.path(), &["get", "--sweep", "nodes=3,100"]);
    assert_eq!((many.exit, many.stderr.contains("100 is more than 9")), (2, true), "{many:?}");
}
