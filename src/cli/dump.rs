//! `zmesh dump` and `zmesh restore`: everything that a cluster stores, as text.
//!
//! A dump shows the key-value store as it was at one revision, and each topic as far as it went when it
//! was begun. What is written to a file has another name until it is whole. A restore reads the whole
//! dump before it writes anything, and may be run again when it was interrupted.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use zmesh::dump::{self, Counts, DumpError, Header, Item, Reader, VERSION};
use zmesh::kv::{KeyRange, Kv, OPERATIONS_MAX, Operation};
use zmesh::log::{self, Log, ReadLimits, Record, Refusal};
use zmesh::{Effect, ErrorCode};

use super::client::Client;
use super::failure::{self, Exit, Failure};
use super::progress::Progress;
use super::{Connect, Context};

/// Bytes of keys and values, or of records, that are written in one operation.
const BATCH_BYTES_MAX: usize = 256 << 10;
/// Records in one operation.
const BATCH_RECORDS_MAX: usize = 1_000;
/// The longest that one operation may take.
const OPERATION_MAX: Duration = Duration::from_secs(30);

/// Arguments of `zmesh dump`.
#[derive(Debug, clap::Args)]
#[command(mut_arg("timeout", |arg| arg.default_value("1h")))]
pub(super) struct DumpArgs {
    /// File to write; standard output without one. It must not exist.
    file: Option<PathBuf>,
    /// Leave the topics of the log out.
    #[arg(long)]
    keys_only: bool,
    #[command(flatten)]
    connect: Connect,
}

/// Arguments of `zmesh restore`.
#[derive(Debug, clap::Args)]
#[command(mut_arg("timeout", |arg| arg.default_value("1h")))]
pub(super) struct RestoreArgs {
    /// The dump. All of it is read and checked before anything is written.
    file: PathBuf,
    /// Write into a store that has keys: those of the dump replace them. A topic that has records must
    /// have those of the dump, such as after a restore that was interrupted, and gets the rest.
    #[arg(long)]
    merge: bool,
    #[command(flatten)]
    connect: Connect,
}

/// Runs `zmesh dump`.
pub(super) async fn dump(args: &DumpArgs, context: &Context) -> Result<(), Failure> {
    let target = Target::open(args.file.as_deref())?;
    let client = Client::connect(&args.connect).await?;
    let dumped = Dump { client: &client, args, context }.run(target).await;
    client.close().await;
    let counts = dumped?;
    match (&args.file, context.out.is_json()) {
        // Standard output has the dump.
        (None, _) => Ok(()),
        (Some(file), true) => context.out.json(&json!({ "file": file, "counts": counts })),
        (Some(file), false) => {
            context.out.text(&format!("{}: {}", file.display(), in_words(&counts)))
        }
    }
}

fn in_words(counts: &Counts) -> String {
    let Counts { keys, leased, topics, records } = counts;
    let leased = match leased {
        0 => String::new(),
        leased => format!(" ({leased} that go with a lease were left out)"),
    };
    format!("{keys} keys{leased}, {records} records of {topics} topics")
}

/// Where a dump goes.
struct Target {
    out: Box<dyn Write>,
    /// The name it has until it is whole, and the one it gets then.
    names: Option<(PathBuf, PathBuf)>,
}

impl Target {
    fn open(file: Option<&Path>) -> Result<Self, Failure> {
        let Some(file) = file else {
            return Ok(Self { out: Box::new(BufWriter::new(io::stdout())), names: None });
        };
        if file.exists() {
            let message = format!("{} exists", file.display());
            return Err(Failure::new(Exit::Refused, message).next("name a file that does not"));
        }
        let mut draft = file.as_os_str().to_owned();
        draft.push(".part");
        let draft = PathBuf::from(draft);
        let opened = File::create(&draft).map_err(|error| {
            Failure::new(Exit::Refused, format!("cannot create {}: {error}", draft.display()))
        })?;
        let out = Box::new(BufWriter::with_capacity(1 << 20, opened));
        Ok(Self { out, names: Some((draft, file.to_path_buf())) })
    }
}

struct Dump<'a> {
    client: &'a Client,
    args: &'a DumpArgs,
    context: &'a Context,
}

impl Dump<'_> {
    async fn run(&self, target: Target) -> Result<Counts, Failure> {
        let Target { out, names } = target;
        let counts = self.write(out).await?;
        if let Some((draft, file)) = names {
            let done = File::open(&draft).and_then(|it| it.sync_all());
            done.and_then(|()| std::fs::rename(&draft, &file)).map_err(|error| {
                Failure::new(Exit::Refused, format!("cannot keep {}: {error}", draft.display()))
            })?;
        }
        Ok(counts)
    }

    async fn write(&self, out: Box<dyn Write>) -> Result<Counts, Failure> {
        let kv = Kv::new(&self.client.node).timeout(self.operation());
        let mut pages = kv.list(KeyRange::all()).pages();
        let failed = |error| failure_of_kv(&error);
        let Some(first) = pages.next().await.map_err(failed)? else {
            return Err(Failure::new(Exit::Refused, "the store answered without a page"));
        };
        let cluster = self.args.connect.cluster.clone();
        let header = Header { version: VERSION, cluster, revision: first.revision };
        let mut writer =
            dump::Writer::new(out, &header).map_err(|error| failure::stdout(&error))?;
        let mut progress = Progress::new(self.context.out);
        let total = kv.count(KeyRange::all()).await.map_err(failed)?;
        let mut page = Some(first);
        while let Some(entries) = page.take().map(|page| page.entries) {
            for entry in entries {
                if entry.lease.is_some() {
                    // It would never go again, since its lease does not come back.
                    writer.leave_out();
                    continue;
                }
                let item = Item::Key { key: entry.key, value: entry.value };
                writer.write(&item).map_err(|error| failure::stdout(&error))?;
            }
            let done = writer.counts().keys;
            progress.set("keys", done, total.max(done));
            self.in_time()?;
            page = pages.next().await.map_err(failed)?;
        }
        if !self.args.keys_only {
            self.topics(&mut writer, &mut progress).await?;
        }
        let (_, counts) = writer.end().map_err(|error| failure::stdout(&error))?;
        Ok(counts)
    }

    async fn topics(
        &self,
        writer: &mut dump::Writer<Box<dyn Write>>,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        if !has_log(self.client).await {
            return Ok(());
        }
        let log = Log::new(&self.client.node).timeout(self.operation());
        let mut after = String::new();
        loop {
            let topics = log.topics("", &after, log::PAGE_ROWS_MAX).await;
            let topics = topics.map_err(|error| failure_of_log(&error))?;
            let Some((last, _)) = topics.last() else { return Ok(()) };
            after.clone_from(last);
            for (name, view) in topics {
                let item = Item::Topic { name: name.clone(), options: view.options };
                writer.write(&item).map_err(|error| failure::stdout(&error))?;
                let what = format!("records of {name}");
                let (mut offset, end) = (view.first, view.next);
                while offset < end {
                    progress.set(&what, offset - view.first, end - view.first);
                    self.in_time()?;
                    offset = records(&log, &name, offset, end, writer).await?;
                }
            }
        }
    }

    fn operation(&self) -> Duration {
        OPERATION_MAX.min(self.client.time_left())
    }

    fn in_time(&self) -> Result<(), Failure> {
        in_time(self.client)
    }
}

/// Whether there is a log in the mesh at all.
async fn has_log(client: &Client) -> bool {
    client.settle().await;
    client.node.peers().iter().any(|peer| peer.labels.contains_key(log::GROUPS_LABEL))
}

fn in_time(client: &Client) -> Result<(), Failure> {
    match client.time_left().is_zero() {
        false => Ok(()),
        true => {
            let message = format!("not done within {:?}", client.timeout());
            Err(Failure::new(Exit::Unreachable, message).next("--timeout gives it longer"))
        }
    }
}

/// Writes records from an offset on; returns where to go on.
async fn records(
    log: &Log,
    topic: &str,
    from: u64,
    end: u64,
    writer: &mut dump::Writer<Box<dyn Write>>,
) -> Result<u64, Failure> {
    let read = match log.topic(topic).read(from, ReadLimits::default()).await {
        // Retention was faster; what it has removed is not part of the dump.
        Err(log::Error::Refused(Refusal::OffsetTooOld { first, .. })) => return Ok(first.min(end)),
        read => read.map_err(|error| failure_of_log(&error))?,
    };
    let mut next = from;
    for stored in read.records.into_iter().take_while(|stored| stored.offset < end) {
        next = stored.offset + 1;
        let Record { key, value } = stored.record;
        writer.write(&Item::Record { key, value }).map_err(|error| failure::stdout(&error))?;
    }
    // Nothing where something was promised: the topic was made anew meanwhile.
    Ok(if next == from { end } else { next })
}

/// Runs `zmesh restore`.
pub(super) async fn restore(args: &RestoreArgs, context: &Context) -> Result<(), Failure> {
    let counts = check(&args.file, context)?;
    let client = Client::connect(&args.connect).await?;
    let restored = Restore { client: &client, args, context, counts }.run().await;
    client.close().await;
    restored?;
    match context.out.is_json() {
        true => context.out.json(&json!({ "restored": counts })),
        false => context.out.text(&format!("restored {}", in_words(&counts))),
    }
}

/// Reads the whole dump, so that half of one is never written anywhere.
fn check(file: &Path, context: &Context) -> Result<Counts, Failure> {
    let total = std::fs::metadata(file).map_or(0, |found| found.len());
    let mut progress = Progress::new(context.out);
    let mut reader = open(file)?;
    while reader.next().map_err(|error| refused(file, &error))?.is_some() {
        progress.set("bytes checked", reader.bytes(), total);
    }
    Ok(reader.counts())
}

fn open(file: &Path) -> Result<Reader<BufReader<File>>, Failure> {
    let opened = File::open(file).map_err(|error| {
        Failure::new(Exit::Usage, format!("cannot open {}: {error}", file.display()))
    })?;
    Reader::new(BufReader::with_capacity(1 << 20, opened)).map_err(|error| refused(file, &error))
}

fn refused(file: &Path, error: &DumpError) -> Failure {
    let message = format!("{}: {error}", file.display());
    if let DumpError::Io(_) = error {
        return Failure::new(Exit::Refused, message);
    }
    if let DumpError::Newer { .. } = error {
        return Failure::new(Exit::Refused, message).next("start a newer zmesh");
    }
    Failure::coded(Exit::Corrupt, ErrorCode::Corrupt, message).adding("nothing was written")
}

struct Restore<'a> {
    client: &'a Client,
    args: &'a RestoreArgs,
    context: &'a Context,
    counts: Counts,
}

/// What is to be written in one operation.
#[derive(Default)]
struct Pending {
    operations: Vec<Operation>,
    records: Vec<Record>,
    bytes: usize,
}

impl Restore<'_> {
    async fn run(&self) -> Result<(), Failure> {
        let kv = Kv::new(&self.client.node).timeout(OPERATION_MAX.min(self.client.time_left()));
        let log = Log::new(&self.client.node).timeout(OPERATION_MAX.min(self.client.time_left()));
        self.may_write(&kv).await?;
        if self.counts.topics > 0 && !has_log(self.client).await {
            let message = "the dump has topics, and no node of this mesh has a log";
            return Err(Failure::new(Exit::Refused, message).next("start nodes that have a log"));
        }
        let written = self.write(&kv, &log).await;
        // It ends by itself as well, later.
        drop(kv.client().end().await);
        written
    }

    /// Refuses what would mix the dump with something else.
    async fn may_write(&self, kv: &Kv) -> Result<(), Failure> {
        let state = kv.state().await.map_err(|error| failure_of_kv(&error))?;
        if state.keys > 0 && self.counts.keys > 0 && !self.args.merge {
            let message = format!("the store has {} keys; nothing was written", state.keys);
            return Err(Failure::new(Exit::Refused, message)
                .next("restore into an empty one, or let the dump replace keys: --merge"));
        }
        Ok(())
    }

    async fn write(&self, kv: &Kv, log: &Log) -> Result<(), Failure> {
        let mut reader = open(&self.args.file)?;
        let mut progress = Progress::new(self.context.out);
        let mut pending = Pending::default();
        let mut topic: Option<Appending> = None;
        let total = self.counts.keys + self.counts.records;
        while let Some(item) = reader.next().map_err(|error| refused(&self.args.file, &error))? {
            match item {
                Item::Key { key, value } => {
                    pending.bytes += key.len() + value.len();
                    let (lease, wants_previous) = (None, false);
                    pending.operations.push(Operation::Set { key, value, lease, wants_previous });
                }
                Item::Record { key, value } => {
                    pending.bytes += key.as_ref().map_or(0, |key| key.len()) + value.len();
                    pending.records.push(Record { key, value });
                }
                Item::Topic { name, options } => {
                    self.flush(kv, &mut topic, &mut pending).await?;
                    topic = Some(self.begin(log, name, options).await?);
                }
            }
            if pending.is_full() {
                self.flush(kv, &mut topic, &mut pending).await?;
                let done = reader.counts().keys + reader.counts().records;
                progress.set("keys and records written", done, total);
                in_time(self.client)?;
            }
        }
        self.flush(kv, &mut topic, &mut pending).await
    }

    /// Makes a topic, or finds out how much of it an earlier run has written.
    async fn begin(
        &self,
        log: &Log,
        name: String,
        options: log::TopicOptions,
    ) -> Result<Appending, Failure> {
        let topic = log.topic(name.clone());
        let view =
            topic.create(options).await.map_err(|error| interrupted(failure_of_log(&error)))?;
        if view.next > 0 && !self.args.merge {
            let message = format!("the topic {name} has records");
            return Err(Failure::new(Exit::Refused, message)
                .next("restore into an empty log, or go on with what was interrupted: --merge"));
        }
        Ok(Appending { name, topic, next: 0, first: view.first, end: view.next })
    }

    async fn flush(
        &self,
        kv: &Kv,
        topic: &mut Option<Appending>,
        pending: &mut Pending,
    ) -> Result<(), Failure> {
        let Pending { operations, records, .. } = std::mem::take(pending);
        if !operations.is_empty() {
            let txn = operations.into_iter().fold(kv.txn(), zmesh::kv::Txn::then);
            txn.await.map_err(|error| interrupted(failure_of_kv(&error)))?;
        }
        if let Some(topic) = topic {
            topic.append(records).await?;
        }
        Ok(())
    }
}

/// A topic that is being written.
struct Appending {
    name: String,
    topic: log::Topic,
    /// The place of the next record of the dump.
    next: u64,
    /// The first that is still kept of what is there already, and the end of that.
    first: u64,
    end: u64,
}

impl Appending {
    /// Writes records that are not there, and compares those that are.
    async fn append(&mut self, mut records: Vec<Record>) -> Result<(), Failure> {
        while self.next < self.end && !records.is_empty() {
            let count = usize::try_from(self.end - self.next).unwrap_or(usize::MAX);
            let mut there: Vec<_> = records.drain(..count.min(records.len())).collect();
            while !there.is_empty() {
                self.compare(&mut there).await?;
            }
        }
        if records.is_empty() {
            return Ok(());
        }
        // At an offset of its own, so that a lost answer cannot write them twice.
        let appended = self.topic.append_at(self.next, &records).await;
        self.next += appended.map_err(|error| interrupted(failure_of_log(&error)))?.count;
        Ok(())
    }

    /// Takes those records off that were found to be what the topic has.
    async fn compare(&mut self, records: &mut Vec<Record>) -> Result<(), Failure> {
        if self.next < self.first {
            // Retention has removed it.
            records.remove(0);
            self.next += 1;
            return Ok(());
        }
        let read = self.topic.read(self.next, ReadLimits::default()).await;
        let read = read.map_err(|error| interrupted(failure_of_log(&error)))?.records;
        let count = read.len().min(records.len());
        let same = read.iter().zip(records.iter()).all(|(stored, wanted)| stored.record == *wanted);
        if count == 0 || !same {
            let message = format!("the topic {} has other records than the dump", self.name);
            return Err(Failure::new(Exit::Refused, message)
                .next("delete the topic, or restore into another cluster"));
        }
        records.drain(..count);
        self.next += count as u64;
        Ok(())
    }
}

impl Pending {
    fn is_full(&self) -> bool {
        self.bytes >= BATCH_BYTES_MAX
            || self.operations.len() >= OPERATIONS_MAX
            || self.records.len() >= BATCH_RECORDS_MAX
    }
}

/// Part of it has been written.
fn interrupted(failure: Failure) -> Failure {
    failure.adding("part of the dump has been written").next("run the command again with --merge")
}

fn failure_of_kv(error: &zmesh::kv::Error) -> Failure {
    Failure::from_code(error.code(), Effect::None, error)
        .next("see `zmesh status --all`: more than half of the members must be up")
}

fn failure_of_log(error: &log::Error) -> Failure {
    Failure::from_code(error.code(), Effect::None, error)
        .next("see `zmesh status --all`: more than half of the members must be up")
}
