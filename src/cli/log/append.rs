//! `zmesh log append`: records from arguments or from standard input.

use std::io::{self, BufRead};

use serde_json::json;
use tokio::sync::mpsc;
use zmesh::log::{Accepted, Error, RECORD_BYTES_MAX, Record, Topic};
use zmesh::replica::Acks;

use super::super::failure::{Exit, Failure};
use super::super::{Connect, Context, interrupted};
use super::{Session, Trouble, cut_off};

/// Lines that are appended at once, and bytes of them after which no more are added.
const BATCH_LINES: usize = 1_000;
const BATCH_BYTES: usize = 1024 * 1024;

/// Arguments of `zmesh log append`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The topic; it is created with default options if there is none.
    topic: String,
    /// The records; `-` reads them from standard input, one in a line.
    #[arg(required = true, allow_negative_numbers = true)]
    values: Vec<String>,
    /// The key of all of these records.
    #[arg(long)]
    key: Option<String>,
    /// Append only if the first of them gets this offset: nobody else has appended meanwhile.
    #[arg(long, value_name = "OFFSET")]
    expected: Option<u64>,
    /// Do not create the topic.
    #[arg(long)]
    existing: bool,
    /// How strongly they are held before the command ends: none, leader, quorum, all, or all:N with
    /// N replicas in sync at least [default: quorum]. Below the quorum offsets are not known, and
    /// records that the topic does not take are lost without a word.
    #[arg(long, value_name = "LEVEL", conflicts_with = "expected")]
    acks: Option<Acks>,
    #[command(flatten)]
    connect: Connect,
}

/// What was appended so far.
#[derive(Debug, Default)]
struct Sum {
    count: u64,
    /// The first and the last batch.
    ends: Option<(Accepted, Accepted)>,
}

/// Appends all values as one batch; what comes from standard input in batches, as it comes.
pub(super) async fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let is_stdin = args.values.iter().any(|value| value == "-");
    if is_stdin && args.values.len() > 1 {
        let message = "`-` stands for standard input and cannot stand beside other records";
        return Err(Failure::new(Exit::Usage, message));
    }
    let session = Session::open(&args.connect).await?;
    // How long standard input takes is not for us to say.
    let log = if is_stdin { session.lasting() } else { session.log.clone() };
    let topic = log.topic(args.topic.clone());
    let topic = if args.existing { topic.existing() } else { topic };
    let mut sum = Sum::default();
    let result = if is_stdin {
        let appended = append_lines(&topic, args, &mut sum, session.client.timeout());
        appended.await
    } else {
        let records = args.values.iter().map(|value| record(args, value.clone().into_bytes()));
        append(&topic, args, &mut sum, records.collect(), session.client.timeout()).await
    };
    session.client.close().await;
    match result {
        Ok(()) => print(args, &sum, context),
        Err(failure) if sum.count > 0 => {
            Err(failure.adding(&format!("{} records before it were appended", sum.count)))
        }
        Err(failure) => Err(failure),
    }
}

fn record(args: &Args, value: Vec<u8>) -> Record {
    match &args.key {
        Some(key) => Record::with_key(key.clone(), value),
        None => Record::new(value),
    }
}

/// Appends a batch behind what was appended before.
async fn append(
    topic: &Topic,
    args: &Args,
    sum: &mut Sum,
    records: Vec<Record>,
    within: std::time::Duration,
) -> Result<(), Failure> {
    let expected = args.expected.map(|first| first + sum.count);
    let appending = async {
        match (expected, args.acks) {
            (Some(expected), _) => topic.append_at(expected, &records).await.map(Accepted::from),
            (None, Some(acks)) => topic.append_with(&records, acks).await,
            (None, None) => topic.append_batch(records).await.map(Accepted::from),
        }
    };
    let appended = tokio::select! {
        biased;
        appended = appending => appended,
        () = interrupted() => return Err(cut_off()),
    };
    let appended = appended.map_err(|error: Error| Trouble::from(error).change_failed(within))?;
    sum.count += appended.count;
    let first = sum.ends.map_or(appended, |(first, _)| first);
    sum.ends = Some((first, appended));
    Ok(())
}

/// Appends lines as they come, as many at once as have come while the last were appended.
async fn append_lines(
    topic: &Topic,
    args: &Args,
    sum: &mut Sum,
    within: std::time::Duration,
) -> Result<(), Failure> {
    let (sender, mut lines) = mpsc::channel(BATCH_LINES);
    // A read cannot be interrupted, so it has a thread of its own, which ends with the process.
    std::thread::spawn(move || read_lines(&sender));
    loop {
        let first = tokio::select! {
            line = lines.recv() => line,
            // Everything that was read has been appended.
            () = interrupted() => return Ok(()),
        };
        let Some(mut line) = first else { return Ok(()) };
        let (mut records, mut bytes) = (Vec::new(), 0);
        loop {
            let value = match line {
                Ok(value) => value,
                Err(failure) if records.is_empty() => return Err(failure),
                Err(failure) => {
                    append(topic, args, sum, records, within).await?;
                    return Err(failure);
                }
            };
            bytes += value.len();
            records.push(record(args, value));
            if records.len() >= BATCH_LINES || bytes >= BATCH_BYTES {
                break;
            }
            match lines.try_recv() {
                Ok(next) => line = next,
                Err(_none_yet) => break,
            }
        }
        append(topic, args, sum, records, within).await?;
    }
}

fn read_lines(lines: &mpsc::Sender<Result<Vec<u8>, Failure>>) {
    let mut input = io::stdin().lock();
    loop {
        let line = match read_line(&mut input) {
            Ok(Some(line)) => Ok(line),
            Ok(None) => return,
            Err(failure) => Err(failure),
        };
        let is_last = line.is_err();
        if lines.blocking_send(line).is_err() || is_last {
            return;
        }
    }
}

/// A line without its end; none at the end of the input.
fn read_line(input: &mut impl BufRead) -> Result<Option<Vec<u8>>, Failure> {
    let mut line = Vec::new();
    // One byte more than fits, and the end of the line, are enough to be refused.
    let limit = u64::try_from(RECORD_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(2);
    match io::Read::take(input, limit).read_until(b'\n', &mut line) {
        Ok(0) => return Ok(None),
        Ok(_) => {}
        Err(error) => {
            return Err(Failure::new(Exit::Usage, format!("cannot read standard input: {error}")));
        }
    }
    if line.ends_with(b"\n") {
        line.pop();
    }
    if line.len() > RECORD_BYTES_MAX {
        let message = format!("a line is longer than {RECORD_BYTES_MAX} bytes");
        return Err(Failure::new(Exit::Usage, message));
    }
    Ok(Some(line))
}

fn print(args: &Args, sum: &Sum, context: &Context) -> Result<(), Failure> {
    let Some((first, last)) = sum.ends else {
        // There was no line.
        return if context.out.is_json() {
            context.out.json(&json!({ "topic": args.topic, "count": 0 }))
        } else {
            context.out.text("OK nothing to append")
        };
    };
    let end = last.first.map(|first| first + last.count - 1);
    if context.out.is_json() {
        return context.out.json(&json!({
            "topic": args.topic, "first": first.first, "last": end, "count": sum.count,
            "index": last.index, "term": last.term, "level": last.level,
        }));
    }
    context.out.text(&match (sum.count, first.first.zip(end)) {
        (_, None) => format!("OK {}, not known to be appended", last.level),
        (1, Some((first, _))) => format!("OK offset {first}"),
        // Others may have appended in between.
        (count, Some((first, end))) if end - first + 1 > count => {
            format!("OK {count} records, offsets {first} to {end} with gaps")
        }
        (count, Some((first, end))) => format!("OK {count} records, offsets {first} to {end}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record is what stands in the line, however it ends; an empty line is an empty record.
    #[test]
    fn lines_are_records_without_their_ends() {
        let mut input = &b"one\n\n\xfftwo"[..];
        let mut lines = Vec::new();
        while let Some(line) = read_line(&mut input).unwrap() {
            lines.push(line);
        }
        assert_eq!(lines, [&b"one"[..], b"", b"\xfftwo"]);
        let long = vec![b'x'; RECORD_BYTES_MAX];
        assert_eq!(read_line(&mut &long[..]).unwrap().unwrap().len(), RECORD_BYTES_MAX);
        let too_long = vec![b'x'; RECORD_BYTES_MAX + 1];
        assert_eq!(read_line(&mut &too_long[..]).unwrap_err().exit(), Exit::Usage);
    }
}
