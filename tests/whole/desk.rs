//! What one client does: it uses everything that the mesh offers, and tells the oracle what it was
//! told.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use zmesh::kv::{Condition, KeyRange, Kv, Operation};
use zmesh::log::groups::{Group, GroupOptions};
use zmesh::log::{Log, Record, Start};
use zmesh::replica::{AckLevel, Acks};
use zmesh::{Effect, Node, NodeId};

use crate::oracle::{Oracle, Span, Told};
use crate::plan::{Mutant, ms};

pub(crate) const CLIENTS: usize = 4;
/// Every client asks this, and every computer answers; and every client says this.
pub(crate) const ECHO: &str = "echo";
pub(crate) const NOTE: &str = "note";
const REGISTERS: usize = 4;
pub(crate) const TOPIC: &str = "events";
pub(crate) const GROUP: &str = "workers";
pub(crate) const COUNTER: &str = "counter";
/// Written when nothing else is: whoever has seen it has seen everything.
pub(crate) const LAST: &str = "last";
/// Written by whoever has the lock.
pub(crate) const FENCED: &str = "fenced";
/// Two accounts, between which money moves and never gets more or less.
const ACCOUNTS: [&str; 2] = ["bank/a", "bank/b"];
const MONEY: i64 = 1_000;

/// Something that a client does.
pub(crate) type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What one task of a client has.
#[derive(Clone)]
pub(crate) struct Desk {
    pub(crate) client: usize,
    pub(crate) node: Node,
    pub(crate) oracle: Oracle,
    pub(crate) rng: fastrand::Rng,
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) mutant: Option<Mutant>,
    /// What a quorum has when it acknowledges, as writes are synced here.
    pub(crate) level: AckLevel,
    /// The nodes that answer an echo.
    pub(crate) echoing: Vec<String>,
    /// Makes values unique.
    pub(crate) values: Arc<AtomicU64>,
}

impl Desk {
    /// All that the client does: what ends when it is told to, and what goes on to the end.
    pub(crate) fn tasks(&self, rng: &mut fastrand::Rng) -> (Vec<Task>, Vec<Task>) {
        let mut new = || Self { rng: rng.fork(), ..self.clone() };
        let mut writers: Vec<Task> = vec![
            Box::pin(new().use_registers()),
            Box::pin(new().add()),
            Box::pin(new().append()),
            Box::pin(new().move_money()),
            Box::pin(new().ask()),
        ];
        let mut readers: Vec<Task> = Vec::new();
        match self.client {
            0 => writers.push(Box::pin(new().write_under_lock())),
            1 => readers.push(Box::pin(new().tail())),
            _ => readers.push(Box::pin(new().work())),
        }
        if self.client < 2 {
            readers.push(Box::pin(new().watch()));
        }
        (writers, readers)
    }

    fn is_open(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn value(&self) -> u64 {
        self.values.fetch_add(1, Ordering::Relaxed)
    }

    async fn rest(&mut self, longest: u64) {
        tokio::time::sleep(ms(self.rng.u64(0..longest))).await;
    }

    fn kv(&mut self) -> Kv {
        let kv = Kv::new(&self.node).timeout(ms(self.rng.u64(100..2_000)));
        if self.rng.u8(..4) == 0 { kv.at_most_once() } else { kv }
    }

    fn log(&mut self) -> Log {
        Log::new(&self.node).timeout(ms(self.rng.u64(200..2_000)))
    }

    /// Notes and counts an outcome.
    fn note<T, E: std::fmt::Display>(
        &self,
        what: &str,
        result: &Result<T, E>,
        effect: impl Fn(&E) -> Effect,
    ) -> Told {
        let told = match result {
            Ok(_) => Told::Done,
            Err(error) if effect(error) == Effect::None => Told::Nothing,
            Err(_) => Told::Unknown,
        };
        if let Err(error) = result {
            self.oracle.trace.line(format_args!("c{}: {what}: {error}", self.client));
        }
        self.oracle.told(told);
        told
    }

    /// An acknowledgement says what has happened, no more and no less.
    fn claimed(&self, level: AckLevel) {
        if level != self.level {
            self.oracle.fail(format!("{level:?} is claimed, and it is {:?}", self.level));
        }
    }

    /// Reads and writes a few keys that everybody writes.
    async fn use_registers(mut self) {
        let kv = self.kv();
        while self.is_open() {
            self.rest(30).await;
            let key = self.rng.usize(..REGISTERS);
            let start = self.oracle.trace.stamp();
            let span = Span { client: self.client, key, start };
            let name = Bytes::from(format!("register-{key}"));
            match self.rng.u8(..10) {
                0..5 => self.read_register(&kv, name, span).await,
                5..8 => self.set_register(&kv, name, span).await,
                8 => self.clear_register(&kv, name, span).await,
                _ => self.send_register(&kv, name, span).await,
            }
        }
    }

    async fn read_register(&self, kv: &Kv, name: Bytes, span: Span) {
        let found = match self.mutant {
            Some(Mutant::StaleReads) => {
                let anybody = NodeId::new(&format!("n{}", 1 + span.start % 3)).expect("a name");
                kv.get_stale(&anybody, name.clone()).await.map(|stale| stale.entry)
            }
            _ => kv.get(name.clone()).await,
        };
        self.note("get", &found, zmesh::kv::Error::effect);
        let Ok(found) = found else { return };
        span.read(&self.oracle, found.as_ref().map(|entry| number(&entry.value)));
        if let Some(entry) = found {
            self.oracle.fact(&name, entry.revision, Some(&entry.value));
        }
    }

    async fn set_register(&self, kv: &Kv, name: Bytes, span: Span) {
        let number = self.value();
        let value = Bytes::from(number.to_string());
        let written = kv.set(name.clone(), value.clone()).await;
        span.write(
            &self.oracle,
            Some(number),
            self.note("set", &written, zmesh::kv::Error::effect),
        );
        if let Ok(written) = written {
            self.claimed(written.level);
            self.oracle.written(&name, written.revision, Some(&value));
        }
    }

    async fn clear_register(&self, kv: &Kv, name: Bytes, span: Span) {
        let cleared = kv.clear(name).await;
        span.write(&self.oracle, None, self.note("clear", &cleared, zmesh::kv::Error::effect));
    }

    /// A write that the leader alone has acknowledged may yet be lost, or done.
    async fn send_register(&self, kv: &Kv, name: Bytes, span: Span) {
        let number = self.value();
        let kv = kv.clone().acks(Acks::Leader);
        let written = kv.set(name, number.to_string()).await;
        let told = match self.note("send", &written, zmesh::kv::Error::effect) {
            Told::Done => Told::Unknown,
            told @ (Told::Nothing | Told::Unknown) => told,
        };
        span.write(&self.oracle, Some(number), told);
    }

    /// Adds to a number that everybody adds to.
    async fn add(mut self) {
        let kv = self.kv();
        while self.is_open() {
            self.rest(80).await;
            let mut sum = kv.add(COUNTER, 1).await;
            while self.mutant == Some(Mutant::RetryAnew)
                && sum.as_ref().is_err_and(|error| error.effect() == Effect::Unknown)
            {
                sum = kv.add(COUNTER, 1).await;
            }
            match self.note("add", &sum, zmesh::kv::Error::effect) {
                Told::Nothing => {}
                Told::Done | Told::Unknown => self.oracle.sum(sum.ok()),
            }
        }
    }

    /// Appends batches of one to three records.
    async fn append(mut self) {
        let log = self.log();
        let topic = log.topic(TOPIC);
        while self.is_open() {
            self.rest(60).await;
            let count = self.rng.usize(1..4);
            let values: Vec<Bytes> =
                (0..count).map(|_| Bytes::from(self.value().to_string())).collect();
            let appended = topic.append_batch(records(&values)).await;
            let told = self.note("append", &appended, zmesh::log::Error::effect);
            match (appended, told) {
                (Ok(appended), _) => {
                    self.claimed(appended.level);
                    for (offset, value) in (appended.first..).zip(&values) {
                        self.oracle.appended(offset, value);
                    }
                }
                (Err(_), Told::Nothing) => {
                    values.iter().for_each(|it| self.oracle.not_appended(it))
                }
                (Err(_), _) => {}
            }
        }
    }

    /// Moves money between two accounts, and looks whether it is all there.
    async fn move_money(mut self) {
        let kv = self.kv();
        while self.is_open() {
            self.rest(150).await;
            let page = kv.list(KeyRange::prefix("bank/")).await;
            self.note("list", &page, zmesh::kv::Error::effect);
            let Ok(page) = page else { continue };
            let amounts: Vec<i64> = page.entries.iter().map(|it| signed(&it.value)).collect();
            match amounts[..] {
                [] => self.open_accounts(&kv).await,
                [one, other] if one + other == MONEY => self.transfer(&kv, one, other).await,
                _ => self.oracle.fail(format!("the accounts have {amounts:?}")),
            }
        }
    }

    async fn open_accounts(&self, kv: &Kv) {
        let [one, other] = ACCOUNTS;
        let opened = kv
            .txn()
            .when(Condition::absent(one))
            .then(Operation::set(one, MONEY.to_string()))
            .then(Operation::set(other, "0"))
            .await;
        self.note("open", &opened, zmesh::kv::Error::effect);
    }

    async fn transfer(&mut self, kv: &Kv, from: i64, to: i64) {
        let ([one, other], amount) = (ACCOUNTS, self.rng.i64(-50..50));
        let moved = kv
            .txn()
            .when(Condition::value(one, from.to_string()))
            .when(Condition::value(other, to.to_string()))
            .then(Operation::set(one, (from - amount).to_string()))
            .then(Operation::set(other, (to + amount).to_string()))
            .await;
        self.note("move", &moved, zmesh::kv::Error::effect);
    }

    /// Tells computers something, and asks them for an echo; only the right one counts.
    async fn ask(mut self) {
        while self.is_open() && !self.echoing.is_empty() {
            self.rest(60).await;
            let (number, timeout) = (self.value(), ms(self.rng.u64(50..500)));
            let to = self.echoing[self.rng.usize(..self.echoing.len())].clone();
            // Whether it arrives nobody is told.
            drop(self.node.tick(&to, NOTE, &number));
            let echo = self.node.request::<u64, u64>(&to, ECHO, &number).timeout(timeout).await;
            match echo {
                Ok(echo) if echo == number => self.oracle.count(|counts| counts.echoes += 1),
                Ok(echo) => self.oracle.fail(format!("{number} was asked and {echo} answered")),
                Err(_) => {}
            }
        }
    }

    /// Writes its token whenever it has the lock. Whoever had it before writes in vain.
    async fn write_under_lock(mut self) {
        let kv = self.kv();
        while self.is_open() {
            self.rest(300).await;
            let Ok(Some(guard)) = kv.try_lock("lock", Duration::from_secs(1)).await else {
                continue;
            };
            self.rest(500).await;
            let (token, fence) = (guard.token(), guard.fence().clone());
            let written = kv.set(FENCED, token.to_string()).fenced_by(&fence).await;
            self.note("write under lock", &written, zmesh::kv::Error::effect);
            self.oracle.count(|counts| counts.locks += 1);
            drop(guard.release().await);
        }
    }

    /// Follows every change, from the first to the last.
    async fn watch(mut self) {
        let kv = Kv::new(&self.node).timeout(Duration::from_secs(1));
        let mut watch = kv.watch(KeyRange::all()).after(0).await.expect("it is not asked");
        loop {
            match watch.next().await {
                Ok(event) => self.oracle.event(self.client, &event),
                Err(error) if error.is_retryable() => {
                    self.oracle.trace.line(format_args!("c{}: watch: {error}", self.client));
                }
                Err(error) => return self.oracle.fail(format!("a watch has ended: {error}")),
            }
            let forgets = self.mutant == Some(Mutant::WatchFromNow) && self.rng.u8(..20) == 0;
            if forgets && let Ok(anew) = kv.watch(KeyRange::all()).await {
                watch = anew;
            }
        }
    }

    /// Reads the topic from its first record on.
    async fn tail(mut self) {
        let log = self.log();
        let mut tail = log.topic(TOPIC).tail(Start::First);
        loop {
            match tail.next().await {
                Ok(stored) => self.oracle.read(self.client, stored.offset, &stored.record.value),
                // Nobody has made the topic yet, or nobody answers.
                Err(error) => {
                    self.oracle.trace.line(format_args!("c{}: tail: {error}", self.client));
                    self.rest(100).await;
                }
            }
        }
    }

    /// Works on records as a member of a group, not always with success, and comes and goes.
    async fn work(mut self) {
        let log = self.log();
        let group = log.topic(TOPIC).group(GROUP);
        loop {
            if let Err(error) = self.work_for_a_time(&group).await {
                self.oracle.trace.line(format_args!("c{}: work: {error}", self.client));
            }
            self.rest(200).await;
        }
    }

    async fn work_for_a_time(
        &mut self,
        group: &Group,
    ) -> Result<(), zmesh::log::groups::GroupError> {
        let options = GroupOptions {
            ack_timeout: Duration::from_secs(1),
            session_timeout: Duration::from_secs(1),
            tries_max: u32::MAX,
            ..GroupOptions::default()
        };
        group.create(Start::First, options).await?;
        let mut member = group.member(format!("w{}", self.client)).prefetch(4).join().await?;
        for _ in 0..self.rng.u8(10..100) {
            let delivery = member.next().await?;
            let offset = delivery.offset;
            let (client, tries) = (self.client, delivery.tries);
            self.oracle.trace.line(format_args!("c{client}: gets {offset}, try {tries}"));
            self.oracle.delivered(offset, &delivery.record.value);
            self.rest(20).await;
            match self.rng.u8(..10) {
                0 => drop(delivery),
                1 => delivery.nack(ms(self.rng.u64(0..50))).await?,
                _ => {
                    delivery.ack().await?;
                    self.oracle.trace.line(format_args!("c{client}: is done with {offset}"));
                    self.oracle.settled(offset);
                }
            }
        }
        member.leave().await
    }
}

fn records(values: &[Bytes]) -> Vec<Record> {
    values.iter().cloned().map(Record::new).collect()
}

fn number(value: &[u8]) -> u64 {
    std::str::from_utf8(value).expect("text").parse().expect("a number")
}

fn signed(value: &[u8]) -> i64 {
    std::str::from_utf8(value).expect("text").parse().expect("a number")
}
