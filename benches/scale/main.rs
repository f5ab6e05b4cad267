//! What grows with what: the memory of a node with its peers, that of a member with keys and topics.
//!
//! `peers`: a node in a process of its own, and so many others in this one. Either these dial the
//! node, or the node dials them; nothing is said but the pings. Memory and descriptors for each peer,
//! the processor time of the idle node, and a round trip between two of them.
//!
//! `state`: a member alone, its memory before and after so many keys, and so many topics with one
//! record each. Snapshots and the log are as configured by default.
//!
//! ```text
//! cargo bench --bench scale                                a few minutes
//! cargo bench --bench scale -- peers --transport libzmq    one part; over libzmq
//! cargo bench --bench scale -- --json                      one JSON object a line
//! cargo bench --bench scale -- --test                      everything small
//! ```

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
#![expect(clippy::unwrap_used, reason = "a benchmark that fails shall end")]

mod center;
mod peers;
mod state;
#[path = "../usage/mod.rs"]
mod usage;

use clap::Parser;
use zmesh::transport::Kind;

#[derive(Clone, Debug, Parser)]
struct Options {
    /// Only this part.
    part: Option<Part>,
    #[arg(long)]
    json: bool,
    /// What the nodes go over.
    #[arg(long, value_enum, default_value_t)]
    transport: Kind,
    /// Everything small, to see that it works.
    #[arg(long)]
    test: bool,
    /// Be the node in the middle, which dials so many addresses from its standard input.
    #[arg(long, hide = true)]
    center: Option<usize>,
    /// Passed by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Part {
    Peers,
    State,
}

fn main() {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    if let Some(dialed) = options.center {
        return runtime.block_on(center::be(options.transport, dialed));
    }
    let runs = |part| options.part.is_none_or(|only| only == part);
    if runs(Part::Peers) {
        runtime.block_on(peers::run(&options));
    }
    if runs(Part::State) {
        runtime.block_on(state::run(&options));
    }
}

/// Prints one line of figures, with names for people or for programs.
fn print(options: &Options, scenario: &str, figures: &[(&str, f64)]) {
    if options.json {
        let mut object = serde_json::Map::new();
        object.insert("scenario".to_owned(), scenario.into());
        object.extend(figures.iter().map(|(name, figure)| ((*name).to_owned(), (*figure).into())));
        println!("{}", serde_json::Value::Object(object));
    } else {
        let figures = figures.iter().map(|(name, figure)| format!("{name} {figure:.1}"));
        println!("{scenario:<24} {}", figures.collect::<Vec<_>>().join("  "));
    }
}
