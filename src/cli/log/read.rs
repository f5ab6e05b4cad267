//! `zmesh log read` and `zmesh log tail`: records as they are, or as they come.

use std::time::Duration;

use serde_json::json;
use zmesh::config::Period;
use zmesh::log::{Cursor, Error, Lag, OnLag, ReadLimits, Start, Stored, Tail, Topic};

use super::super::failure::{Exit, Failure};
use super::super::output::Output;
use super::super::{Connect, Context, interrupted, payload};
use super::from::Where;
use super::{Effect, Session, Trouble, exit};

/// Records that are read and printed at once.
const PAGE: u32 = 1_000;
/// How often the cursor of a tail is stored at most: each time is a write.
const STORE_INTERVAL: Duration = Duration::from_secs(1);

/// Arguments of `zmesh log read`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct ReadArgs {
    /// The topic.
    topic: String,
    /// Where to begin: an offset, `first`, `end`, a time, or how long ago.
    #[arg(long, value_name = "WHERE", default_value = "first", allow_hyphen_values = true)]
    from: Where,
    /// Print so many records at most.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Go on with the records that come, until interrupted; as `tail`, from `--from`.
    #[arg(long)]
    follow: bool,
    #[command(flatten)]
    following: Following,
    #[command(flatten)]
    connect: Connect,
}

/// Arguments of `zmesh log tail`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct TailArgs {
    /// The topic; it need not be there yet.
    topic: String,
    /// Where to begin: an offset, `first`, `end`, a time, or how long ago.
    #[arg(long, value_name = "WHERE", default_value = "end", allow_hyphen_values = true)]
    from: Where,
    /// End after so many records.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    #[command(flatten)]
    following: Following,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, clap::Args)]
struct Following {
    /// Begin where the cursor is, if it is there, and leave it behind what was printed.
    #[arg(long, value_name = "NAME")]
    cursor: Option<String>,
    /// What to do when the output is too slow for the topic; it needs a `--lag`.
    #[arg(long, value_name = "POLICY", default_value = "block")]
    policy: Policy,
    /// Records by which the output may be behind.
    #[arg(long, value_name = "N")]
    lag_records: Option<u64>,
    /// Time by which the output may be behind, by the clocks of writer and reader.
    #[arg(long, value_name = "DURATION")]
    lag_age: Option<Period>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Policy {
    /// Print everything, however late.
    Block,
    /// Leave out what is too old.
    DropOldest,
    /// End with an error.
    Fail,
}

impl Following {
    fn on_lag(&self) -> Result<OnLag, Failure> {
        let lag = Lag { records: self.lag_records, age: self.lag_age.map(|period| period.0) };
        let has_limit = lag != Lag::default();
        match self.policy {
            Policy::Block if has_limit => {
                let message =
                    "--lag-records and --lag-age say when --policy drop-oldest or fail acts";
                Err(Failure::new(Exit::Usage, message))
            }
            Policy::Block => Ok(OnLag::Block),
            _ if !has_limit => {
                let message = "--policy drop-oldest and fail need --lag-records or --lag-age";
                Err(Failure::new(Exit::Usage, message))
            }
            Policy::DropOldest => Ok(OnLag::DropOldest(lag)),
            Policy::Fail => Ok(OnLag::Fail(lag)),
        }
    }
}

/// Prints records up to the end that the topic has now, or follows it.
pub(super) async fn read(args: &ReadArgs, context: &Context) -> Result<(), Failure> {
    let on_lag = args.following.on_lag()?;
    let is_lasting = args.follow;
    if !is_lasting && on_lag != OnLag::Block {
        return Err(Failure::new(Exit::Usage, "--policy is for --follow"));
    }
    let session = Session::open(&args.connect).await?;
    let within = session.client.timeout();
    let topic = session.lasting().topic(args.topic.clone());
    let reader = Reader { topic, following: &args.following, within, out: context.out };
    let result = match reader.begin(args.from).await {
        Err(failure) => Err(failure),
        Ok(start) if is_lasting => reader.follow(start, args.count, on_lag).await,
        Ok(start) => reader.print_all(start, args.count).await,
    };
    session.client.close().await;
    result
}

/// Follows a topic until it is interrupted.
pub(super) async fn tail(args: &TailArgs, context: &Context) -> Result<(), Failure> {
    let on_lag = args.following.on_lag()?;
    let session = Session::open(&args.connect).await?;
    let within = session.client.timeout();
    let topic = session.lasting().topic(args.topic.clone());
    let reader = Reader { topic, following: &args.following, within, out: context.out };
    let result = match reader.begin(args.from).await {
        Ok(start) => reader.follow(start, args.count, on_lag).await,
        Err(failure) => Err(failure),
    };
    session.client.close().await;
    result
}

/// Prints a topic.
struct Reader<'a> {
    topic: Topic,
    following: &'a Following,
    within: Duration,
    out: Output,
}

impl Reader<'_> {
    /// Where to begin: at the cursor, if there is one.
    async fn begin(&self, from: Where) -> Result<Start, Failure> {
        if let Some(cursor) = self.cursor() {
            match cursor.load().await {
                Ok(Some(offset)) => return Ok(Start::Offset(offset)),
                Ok(None) => {}
                // A topic that comes has no cursor yet.
                Err(error) if error.code() == zmesh::ErrorCode::TopicUnknown => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        from.resolve(&self.topic, self.within).await
    }

    fn cursor(&self) -> Option<Cursor> {
        self.following.cursor.as_ref().map(|name| self.topic.cursor(name.clone()))
    }

    /// Prints what is there, page by page.
    async fn print_all(&self, start: Start, count: Option<u64>) -> Result<(), Failure> {
        let view = self.topic.view().await.map_err(|error| self.failed(error))?;
        let mut next = match start {
            Start::First => view.first,
            Start::End => view.next,
            Start::Offset(offset) => offset,
        };
        // What is appended meanwhile is not printed: or it might never end.
        let (end, mut left) = (view.next, count.unwrap_or(u64::MAX));
        while next < end && left > 0 {
            let records = u32::try_from((end - next).min(left)).unwrap_or(PAGE).min(PAGE);
            let limits = ReadLimits { records, ..ReadLimits::default() };
            let page = tokio::select! {
                biased;
                page = self.topic.read(next, limits) => page.map_err(|error| self.failed(error))?,
                () = interrupted() => break,
            };
            let records = page.records.into_iter().take_while(|stored| stored.offset < end);
            let records: Vec<_> =
                records.take(usize::try_from(left).unwrap_or(usize::MAX)).collect();
            let Some(last) = records.last() else { break };
            next = last.offset + 1;
            left = left.saturating_sub(records.len() as u64);
            self.print(&records)?;
            self.store(next).await?;
        }
        Ok(())
    }

    /// Prints records as they come, until it is interrupted or has printed enough.
    async fn follow(&self, start: Start, count: Option<u64>, on_lag: OnLag) -> Result<(), Failure> {
        let limits = ReadLimits { records: PAGE, ..ReadLimits::default() };
        let mut tail = self.topic.tail(start).on_lag(on_lag).limits(limits);
        let mut left = count.unwrap_or(u64::MAX);
        let result = self.print_tail(&mut tail, &mut left).await;
        // What was printed last is not printed again, however it ended.
        if let Some(position) = tail.position() {
            self.store(position).await?;
        }
        if tail.skipped() > 0 {
            tracing::warn!(records = tail.skipped(), "left out, since the output was too slow");
        }
        result
    }

    async fn print_tail(&self, tail: &mut Tail, left: &mut u64) -> Result<(), Failure> {
        let mut signal = std::pin::pin!(interrupted());
        let mut store = tokio::time::interval(STORE_INTERVAL);
        store.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut stored = None;
        while *left > 0 {
            let next = tokio::select! {
                biased;
                () = &mut signal => return Ok(()),
                _ = store.tick() => {
                    if stored != tail.position() && let Some(position) = tail.position() {
                        self.store(position).await?;
                        stored = Some(position);
                    }
                    continue;
                }
                next = tail.next() => next,
            };
            match next {
                Ok(record) => self.print(std::slice::from_ref(&record))?,
                // Somebody who waits does not give up.
                Err(Error::Client(error)) if error.is_retryable() => {
                    tracing::warn!(%error, "nobody answers");
                    continue;
                }
                Err(error) => return Err(self.failed(error)),
            }
            *left -= 1;
        }
        Ok(())
    }

    async fn store(&self, offset: u64) -> Result<(), Failure> {
        let Some(cursor) = self.cursor() else { return Ok(()) };
        // To store it again is safe, so nobody has to look.
        cursor.store(offset).await.map_err(|error| self.failed(error))
    }

    fn print(&self, records: &[Stored]) -> Result<(), Failure> {
        if self.out.is_json() {
            return records.iter().try_for_each(|stored| self.out.json(&to_json(stored)));
        }
        let mut lines = Vec::new();
        for stored in records {
            if self.out.is_terminal() {
                lines.extend_from_slice(place(stored).as_bytes());
            }
            lines.extend_from_slice(stored.value());
            lines.push(b'\n');
        }
        self.out.raw(&lines)
    }

    fn failed(&self, error: Error) -> Failure {
        if let Error::TooSlow { .. } = error {
            let code = error.code();
            return Failure::coded(exit(code, Effect::None), code, error.to_string())
                .next("go on with --from or --cursor, or use --policy drop-oldest");
        }
        Trouble::from(error).failure(Effect::None, self.within)
    }
}

/// What stands before a record on a terminal.
fn place(stored: &Stored) -> String {
    let key = stored.key().map_or_else(|| "-".into(), |key| String::from_utf8_lossy(key));
    let time = std::time::UNIX_EPOCH + Duration::from_millis(stored.timestamp);
    format!("{:>8}  {}  {key}  ", stored.offset, humantime::format_rfc3339_seconds(time))
}

fn to_json(stored: &Stored) -> serde_json::Value {
    let (value, encoding) = text(stored.value());
    let mut record = json!({
        "offset": stored.offset, "timestamp": stored.timestamp,
        "value": value, "encoding": encoding,
    });
    if let Some(key) = stored.key() {
        let (key, encoding) = text(key);
        record["key"] = key.into();
        record["key_encoding"] = encoding.into();
    }
    record
}

fn text(bytes: &[u8]) -> (String, &'static str) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), "utf-8"),
        Err(_) => (payload::base64(bytes), "base64"),
    }
}
