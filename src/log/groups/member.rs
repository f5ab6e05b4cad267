//! Shell: A member of a group: gets records, says that it lives, and leaves in good order.
//!
//! A task of its own does the fetching, so that dropping a call loses no record; another says that
//! the member lives. Both end with the member.
//!
//! Invariant: a record that was fetched is seen by the holder of the member, or given back.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::{AbortHandle, JoinHandle};

use super::client::{Group, invalid};
use super::command::GroupCommand;
use super::delivery::{Delivery, Settler, Ticket, pass_on};
use super::error::GroupError;
use super::options::{BATCH_MAX, GroupOptions};
use super::refusal::Refusal;
use super::response::{Delivered, GroupResponse, Settlement};
use crate::id::NodeId;
use crate::log::{self, Error, ReadLimits};
use crate::timer::Clock;

/// Wait before a fetch is tried again after one that brought nothing or failed; it doubles up to
/// the second.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// Signs of life in the time after which a member counts as gone.
const SIGNS_OF_LIFE: u32 = 4;
/// Records between two that are wanted, which are read with them rather than passed over.
const GAP_MAX: u64 = 16;

/// Describes how to join a group; made by [`Group::member`].
#[derive(Clone, Debug)]
#[must_use = "nobody has joined until `join` is called"]
pub struct MemberBuilder {
    group: Group,
    name: String,
    prefetch: u32,
}

/// A member of a group. While it lives it says so to the group.
///
/// Dropping it leaves the group in the background, as [`leave`](Self::leave) does.
///
/// # Examples
///
/// ```no_run
/// # async fn example(group: zmesh::log::groups::Group) -> Result<(), zmesh::log::groups::GroupError> {
/// let mut member = group.member("w1").join().await?;
/// for _ in 0..10 {
///     let delivery = member.next().await?;
///     println!("{:?}, try {}", delivery.record.value, delivery.tries);
///     delivery.ack().await?;
/// }
/// member.leave().await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Member {
    records: mpsc::Receiver<Result<Delivery, GroupError>>,
    wanted: Arc<Wanted>,
    /// Dropping it asks the task to leave.
    stop: oneshot::Sender<()>,
    left: JoinHandle<Result<(), GroupError>>,
}

/// What the holder of a member wants, and who the member is at present.
#[derive(Debug)]
struct Wanted {
    /// Records that somebody waits for.
    records: AtomicU32,
    changed: Notify,
    /// The group says that the member is none.
    lost: Notify,
    /// The id of the member; it changes when it has to join again.
    member: AtomicU64,
    clock: Clock,
}

impl MemberBuilder {
    pub(super) fn new(group: Group, name: String) -> Self {
        Self { group, name, prefetch: 0 }
    }

    /// Records that are fetched ahead [default: 0; at most 1,024]. With more, many small records go
    /// faster; but they wait for this member while others might have time, and their
    /// [time](GroupOptions::ack_timeout) runs meanwhile; when it is up they are given back.
    pub fn prefetch(mut self, records: u32) -> Self {
        self.prefetch = records.min(u32::try_from(BATCH_MAX).unwrap_or(u32::MAX));
        self
    }

    /// Joins the group. Needs a tokio runtime, on which the member goes on.
    ///
    /// # Errors
    ///
    /// [`GroupError`]; with [`Effect::Unknown`](crate::Effect::Unknown) a member may be there that
    /// nobody speaks for, and is gone when its time is up.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not recall it: a member may be there that nobody speaks for, and is
    /// gone when its time is up.
    pub async fn join(self) -> Result<Member, GroupError> {
        let Self { group, name, prefetch } = self;
        let (member, options) = join(&group, &name).await?;
        let wanted = Wanted {
            records: AtomicU32::new(0),
            changed: Notify::new(),
            lost: Notify::new(),
            member: AtomicU64::new(member),
            clock: group.topic().clock(),
        };
        let wanted = Arc::new(wanted);
        let (settler, said) = mpsc::unbounded_channel();
        let (out, records) = mpsc::channel(BATCH_MAX);
        let (stop, stopped) = oneshot::channel();
        let alive = tokio::spawn(keep_alive(group.clone(), Arc::clone(&wanted), options));
        let task = Task {
            settled: tokio::spawn(pass_on(group.clone(), said)),
            alive: alive.abort_handle(),
            wanted: Arc::clone(&wanted),
            group,
            name,
            options,
            prefetch,
            settler,
            out,
        };
        Ok(Member { records, wanted, stop, left: tokio::spawn(task.run(stopped)) })
    }
}

impl Member {
    /// The next record; waits until there is one.
    ///
    /// # Errors
    ///
    /// [`GroupError`]; after one that [may pass](GroupError::is_retryable) call it again, after any
    /// other the member has left.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing: what has come meanwhile is the next record.
    pub async fn next(&mut self) -> Result<Delivery, GroupError> {
        let Self { records, wanted, .. } = self;
        let _waits = wanted.want(1);
        receive(records, wanted).await
    }

    /// At least one record, and at most `max` (up to 1,024): as many as can be had without
    /// waiting for more.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next).
    ///
    /// # Cancel safety
    ///
    /// As [`next`](Self::next).
    pub async fn fetch(&mut self, max: usize) -> Result<Vec<Delivery>, GroupError> {
        let Self { records, wanted, .. } = self;
        let max = max.clamp(1, BATCH_MAX);
        let _waits = wanted.want(u32::try_from(max).unwrap_or(1));
        let mut fetched = vec![receive(records, wanted).await?];
        while fetched.len() < max {
            match records.try_recv() {
                Ok(Ok(delivery)) if wanted.is_current(&delivery) => fetched.push(delivery.seen()),
                Ok(Ok(_of_an_earlier_life)) => {}
                Ok(Err(_)) | Err(_) => break,
            }
        }
        Ok(fetched)
    }

    /// Leaves the group in good order: fetches nothing more, gives back what nobody has seen, which
    /// does not count as a try, and waits until what is in hand is settled or dropped, at most for
    /// the [time](GroupOptions::ack_timeout) that a record may be with a member.
    ///
    /// # Errors
    ///
    /// [`GroupError`]: the group was not told; it will find out.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not stop the member from leaving.
    pub async fn leave(self) -> Result<(), GroupError> {
        let Self { records, wanted: _, stop, left } = self;
        drop((records, stop));
        left.await.unwrap_or(Err(GroupError::Left))
    }
}

impl Wanted {
    /// Says that records are wanted, for as long as the answer lives.
    fn want(self: &Arc<Self>, records: u32) -> Waits {
        self.records.store(records, Ordering::Relaxed);
        self.changed.notify_one();
        Waits(Arc::clone(self))
    }

    /// Whether a delivery was made to the present life of the member, and its time is not up:
    /// otherwise somebody else may have the record by now, or may be done with it.
    fn is_current(&self, delivery: &Delivery) -> bool {
        delivery.member() == self.member() && self.clock.now() < delivery.ends()
    }

    fn member(&self) -> u64 {
        self.member.load(Ordering::Relaxed)
    }
}

/// Somebody waits for records.
struct Waits(Arc<Wanted>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.records.store(0, Ordering::Relaxed);
    }
}

/// The next record that is this member's; those that were and have waited here for too long are
/// given back.
async fn receive(
    records: &mut mpsc::Receiver<Result<Delivery, GroupError>>,
    wanted: &Wanted,
) -> Result<Delivery, GroupError> {
    loop {
        let delivery = records.recv().await.unwrap_or(Err(GroupError::Left))?;
        // There is room for another.
        wanted.changed.notify_one();
        if wanted.is_current(&delivery) {
            return Ok(delivery.seen());
        }
    }
}

async fn join(group: &Group, name: &str) -> Result<(u64, GroupOptions), GroupError> {
    let command = GroupCommand::Join { group: group.name().to_owned(), name: name.to_owned() };
    match group.command(&command).await? {
        (_, GroupResponse::Joined { member, options }) => Ok((member, options)),
        (node, _) => Err(invalid(node)),
    }
}

/// Says again and again that the member lives, and tells its task when it does not. What fails is
/// said again.
async fn keep_alive(group: Group, wanted: Arc<Wanted>, options: GroupOptions) {
    loop {
        tokio::time::sleep(options.session_timeout / SIGNS_OF_LIFE).await;
        let (group_name, member) = (group.name().to_owned(), wanted.member());
        let alive = GroupCommand::KeepAlive { group: group_name, member };
        if let Err(error) = group.done(&alive).await {
            tracing::debug!(group = group.name(), member, %error, "no sign of life");
            if is_unknown(&error) {
                wanted.lost.notify_one();
            }
        }
    }
}

/// Fetches records until it is stopped, and then leaves.
struct Task {
    group: Group,
    name: String,
    options: GroupOptions,
    prefetch: u32,
    wanted: Arc<Wanted>,
    settler: Settler,
    settled: JoinHandle<()>,
    alive: AbortHandle,
    out: mpsc::Sender<Result<Delivery, GroupError>>,
}

impl Task {
    async fn run(self, mut stop: oneshot::Receiver<()>) -> Result<(), GroupError> {
        let (mut pause, mut is_likely) = (PAUSE_MIN, false);
        let ended = loop {
            // Only waiting is interrupted: what is fetched is never lost.
            let waited = tokio::select! {
                biased;
                _ = &mut stop => break Ok(()),
                waited = self.wait(is_likely) => waited,
            };
            let fetched = match (waited, self.room()) {
                (Ok(true), 1..) => self.fetch().await,
                // Nothing came for long, or nobody wants it any more.
                (Ok(_), _) => continue,
                (Err(error), _) => Err(error),
            };
            match self.judge(fetched).await {
                Ok(has_some) => is_likely = has_some,
                Err(error) => break Err(error),
            }
            if is_likely {
                pause = PAUSE_MIN;
                continue;
            }
            tokio::select! {
                biased;
                _ = &mut stop => break Ok(()),
                () = tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)) => {}
            }
            pause = (pause * 2).min(PAUSE_MAX);
        };
        self.leave(ended).await
    }

    /// Waits until records are wanted and there are some, which is likely right after a fetch that
    /// brought some; false if there were none for long.
    async fn wait(&self, is_likely: bool) -> Result<bool, GroupError> {
        loop {
            let changed = self.wanted.changed.notified();
            if self.room() > 0 {
                break;
            }
            changed.await;
        }
        if is_likely {
            return Ok(true);
        }
        tokio::select! {
            biased;
            () = self.wanted.lost.notified() => Err(Refusal::NotMember.into()),
            ready = self.group.ready(self.wanted.member()) => ready,
        }
    }

    /// Records that are wanted and not there.
    fn room(&self) -> u32 {
        let wanted = self.wanted.records.load(Ordering::Relaxed).max(self.prefetch);
        let here = self.out.max_capacity() - self.out.capacity();
        wanted.saturating_sub(u32::try_from(here).unwrap_or(u32::MAX))
    }

    /// Fetches records and passes them on; says whether there were any.
    async fn fetch(&self) -> Result<bool, GroupError> {
        let (group, member) = (self.group.name().to_owned(), self.wanted.member());
        // The group counts from when it gives them away, which is later.
        let ends = self.wanted.clock.now() + self.options.ack_timeout;
        let max = self.room();
        let fetched = self.group.command(&GroupCommand::Fetch { group, member, max }).await?;
        let (node, GroupResponse::Fetched(fetched)) = fetched else {
            return Err(invalid(fetched.0));
        };
        let has_some = !fetched.is_empty();
        let ticket = |delivered: &Delivered| {
            let Delivered { offset, delivery, .. } = *delivered;
            Ticket::new(Settlement { offset, delivery }, member, ends, self.settler.clone())
        };
        // Whatever goes wrong from here on, tickets that are dropped are given back.
        let mut fetched: Vec<_> = fetched.iter().map(|of| (*of, ticket(of))).collect();
        fetched.sort_by_key(|(delivered, _)| delivered.offset);
        self.read(node, VecDeque::from(fetched)).await?;
        Ok(has_some)
    }

    /// Reads the records that were fetched and passes them on.
    async fn read(
        &self,
        node: NodeId,
        mut fetched: VecDeque<(Delivered, Ticket)>,
    ) -> Result<(), GroupError> {
        while let Some(from) = fetched.front().map(|(delivered, _)| delivered.offset) {
            let records = run(fetched.iter().map(|(delivered, _)| delivered.offset));
            let limits = ReadLimits { records, ..ReadLimits::default() };
            let (records, gaps) = match self.group.topic().read(from, limits).await {
                Ok(found) => (found.records, found.gaps),
                Err(Error::Refused(log::Refusal::OffsetTooOld { first })) if first > from => {
                    // The topic has forgotten them, and so will the group.
                    fetched.retain(|(delivered, _)| delivered.offset >= first);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if records.first().is_none_or(|first| first.offset != from && !gaps) {
                return Err(invalid(node));
            }
            for stored in records {
                // Others with the same key have followed those that are not there.
                let is_gone = |(delivered, _): &(Delivered, _)| delivered.offset < stored.offset;
                while fetched.front().is_some_and(is_gone) {
                    fetched.pop_front().into_iter().for_each(|(_, ticket)| ticket.gone());
                }
                let is_next = |(delivered, _): &(Delivered, _)| delivered.offset == stored.offset;
                if fetched.front().is_some_and(is_next)
                    && let Some((delivered, ticket)) = fetched.pop_front()
                {
                    let delivery = Delivery::new(stored, delivered.tries, ticket);
                    // The holder of the member may be gone: then it is given back.
                    let _ignored = self.out.send(Ok(delivery)).await;
                }
            }
        }
        Ok(())
    }

    /// Decides what a failure means: nothing that passes ends the member.
    async fn judge(&self, fetched: Result<bool, GroupError>) -> Result<bool, GroupError> {
        let error = match fetched {
            Ok(has_some) => return Ok(has_some),
            Err(error) if is_unknown(&error) => match self.rejoin().await {
                Ok(()) => return Ok(false),
                Err(error) => error,
            },
            Err(error) => error,
        };
        if !error.is_retryable() {
            return Err(error);
        }
        tracing::debug!(group = self.group.name(), member = self.name, %error, "cannot fetch");
        if self.wanted.records.load(Ordering::Relaxed) > 0 {
            let _ignored = self.out.send(Err(error)).await;
        }
        Ok(false)
    }

    /// The replica that was asked does not know the member: it may lag, the member may have been
    /// silent for too long, or somebody has taken its place.
    async fn rejoin(&self) -> Result<(), GroupError> {
        let (group, member) = (self.group.name().to_owned(), self.wanted.member());
        match self.group.done(&GroupCommand::KeepAlive { group, member }).await {
            Err(GroupError::Refused(Refusal::NotMember)) => {}
            other => return other,
        }
        let members = self.group.members().await?;
        if members.iter().any(|other| other.name == self.name) {
            return Err(GroupError::Replaced { name: self.name.clone() });
        }
        let (member, _) = join(&self.group, &self.name).await?;
        tracing::info!(group = self.group.name(), member = self.name, "joined again");
        self.wanted.member.store(member, Ordering::Relaxed);
        Ok(())
    }

    /// Waits for what is in hand and says goodbye.
    async fn leave(self, ended: Result<(), GroupError>) -> Result<(), GroupError> {
        let Self { group, wanted, settler, settled, alive, out, options, .. } = self;
        if let Err(error) = &ended {
            tracing::debug!(group = group.name(), %error, "leaves");
            // It is said to whoever asks next.
            let _ignored = out.try_send(Err(error.clone()));
        }
        drop((settler, out));
        let _late = tokio::time::timeout(options.ack_timeout, settled).await;
        alive.abort();
        let (group_name, member) = (group.name().to_owned(), wanted.member());
        let goodbye = group.done(&GroupCommand::Leave { group: group_name, member }).await;
        ended.and(goodbye)
    }
}

/// Whether whoever was asked does not know the member.
fn is_unknown(error: &GroupError) -> bool {
    matches!(
        error,
        GroupError::Refused(Refusal::NotMember | Refusal::NoGroup)
            | GroupError::Log(Error::Refused(log::Refusal::TopicUnknown))
    )
}

/// How far a read goes that begins with the first of these offsets and has no large gap.
fn run(mut offsets: impl Iterator<Item = u64>) -> u32 {
    let Some(first) = offsets.next() else { return 0 };
    let mut last = first;
    for offset in offsets {
        if offset - last > GAP_MAX {
            break;
        }
        last = offset;
    }
    u32::try_from(last - first + 1).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reading what lies between costs less than asking again, unless it is much.
    #[test]
    fn read_goes_over_small_gaps_only() {
        let run = |offsets: &[u64]| run(offsets.iter().copied());
        assert_eq!(run(&[]), 0);
        assert_eq!(run(&[7]), 1);
        assert_eq!(run(&[7, 8, 9]), 3);
        assert_eq!(run(&[7, 7 + GAP_MAX, 7 + 2 * GAP_MAX + 1]), 17);
    }
}
