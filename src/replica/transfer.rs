//! Bodies of snapshots on their way from one replica to another.
//!
//! The receiver asks for one part after the other, a few at a time, and asks again for what did not
//! come: so it never gets more than it can take, a lost part costs one part, and after a lost
//! connection or a new leader with the same file it goes on where it was. The sender keeps nothing
//! but how far the receiver has come; when it hears nothing for a while it gives up, and the leader
//! offers a snapshot anew.
//!
//! Pure: time enters as `now`, what is to be done with files leaves as [`FileWork`].

mod frame;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

pub(super) use self::frame::{Content, Frame};
use super::status::Transfer;
use crate::consensus::{Offer, Snapshot};
use crate::timer::{Time, earliest};
use crate::wal::Point;

/// Parts that a receiver waits for at a time.
const PARTS_ASKED_MAX: usize = 4;
/// Parts that a sender has yet to read from disk, for all receivers; more are asked for again.
const READS_MAX: usize = 16;
/// The most that is read for one answer.
const PART_BYTES_MAX: usize = 1024 * 1024;
/// After this long without an answer a part is asked for again.
const ASK_AGAIN: Duration = Duration::from_millis(400);
/// A receiver that gets nothing for this long drops what it has.
const RECEIVER_PATIENCE: Duration = Duration::from_secs(60);

/// What is to be done with snapshot files, in order and at once: all of it is short.
#[derive(Clone, Debug, PartialEq)]
pub enum FileWork {
    /// Make room for a snapshot that is going to be received.
    Begin,
    /// Forget entries of the log up to this one: a durable snapshot has them.
    Compact {
        /// The last index to forget.
        index: u64,
    },
    /// Forget what was received.
    Discard,
    /// Delete all snapshots but these.
    Prune {
        /// What is still needed.
        keep: Vec<Point>,
    },
    /// Read a part, for somebody who asked for it.
    Read {
        /// Raft id of who asked.
        to: u64,
        /// Of which snapshot.
        snapshot: Snapshot,
        /// From where.
        offset: u64,
        /// How much.
        bytes: usize,
    },
    /// Write a received part.
    Write {
        /// Where.
        offset: u64,
        /// What.
        data: Bytes,
    },
}

/// How far the received body has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    Receiving,
    Checking,
    Ready,
}

struct Incoming {
    offer: Offer,
    stage: Stage,
    /// The first part that has not been asked for.
    next: u64,
    /// Parts that were asked for, and when.
    asked: BTreeMap<u64, Time>,
    received: u64,
    /// When anything came, and when a word was sent last.
    heard: Time,
    spoke: Time,
}

struct Outgoing {
    snapshot: Snapshot,
    sent: u64,
    heard: Time,
}

/// See the module.
pub(super) struct Transfers {
    cluster: Uuid,
    raft_id: u64,
    part_bytes: u64,
    /// After this long without a word of the receiver a transfer has failed.
    patience: Duration,
    incoming: Option<Incoming>,
    outgoing: BTreeMap<u64, Outgoing>,
    work: VecDeque<FileWork>,
    reads: usize,
    frames: Vec<(u64, Bytes)>,
    /// Transfers that ended: with whom, of what, and whether the receiver has it.
    ended: Vec<(u64, Point, Ended)>,
    check: Option<Snapshot>,
}

/// How a transfer ended for its sender.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Ended {
    Arrived,
    /// The file was damaged on its way or before.
    Damaged,
    Failed,
}

impl Transfers {
    pub(super) fn new(cluster: Uuid, raft_id: u64, part_bytes: usize, patience: Duration) -> Self {
        Self {
            cluster,
            raft_id,
            part_bytes: part_bytes.clamp(1, PART_BYTES_MAX) as u64,
            patience,
            incoming: None,
            outgoing: BTreeMap::new(),
            work: VecDeque::new(),
            reads: 0,
            frames: Vec::new(),
            ended: Vec::new(),
            check: None,
        }
    }

    // ---- sending ---------------------------------------------------------------------------

    /// A follower was offered a snapshot.
    pub(super) fn offered(&mut self, to: u64, snapshot: Snapshot, now: Time) {
        self.outgoing.insert(to, Outgoing { snapshot, sent: 0, heard: now });
    }

    /// This replica leads no more: nobody has to be told how its transfers end.
    pub(super) fn follow(&mut self) {
        self.outgoing.clear();
    }

    /// Snapshots that are being sent, and must not be deleted.
    pub(super) fn pinned(&self) -> impl Iterator<Item = Point> + '_ {
        self.outgoing.values().map(|outgoing| outgoing.snapshot.point)
    }

    /// A part was read, or could not be.
    pub(super) fn part_read(&mut self, to: u64, point: Point, offset: u64, data: Option<Bytes>) {
        self.reads -= 1;
        let content = match data {
            Some(data) => Content::Part { offset, data },
            None => Content::End { arrived: false, damaged: true },
        };
        if matches!(content, Content::End { .. }) && self.outgoing.remove(&to).is_some() {
            self.ended.push((to, point, Ended::Damaged));
        }
        self.send(to, point, content);
    }

    fn asked(
        &mut self,
        from: u64,
        point: Point,
        (offset, bytes): (u64, u32),
        known: Option<&Snapshot>,
        now: Time,
    ) {
        let sent = self.outgoing.get_mut(&from).filter(|sent| sent.snapshot.point == point);
        let snapshot = match sent {
            Some(outgoing) => {
                outgoing.heard = now;
                outgoing.sent = outgoing.sent.max(offset);
                Some(outgoing.snapshot.clone())
            }
            None => known.cloned(),
        };
        // Nobody who knows the file asks for what is not in it: whoever does goes on without it, and
        // the file is not suspected.
        let is_there = |snapshot: &Snapshot| offset < snapshot.bytes && bytes > 0;
        match snapshot.filter(is_there) {
            Some(snapshot) if self.reads < READS_MAX => {
                self.reads += 1;
                let rest = snapshot.bytes.saturating_sub(offset).min(u64::from(bytes));
                let bytes = usize::try_from(rest).unwrap_or(usize::MAX).min(PART_BYTES_MAX);
                self.work.push_back(FileWork::Read { to: from, snapshot, offset, bytes });
            }
            Some(_) => {}
            None => self.send(from, point, Content::End { arrived: false, damaged: false }),
        }
    }

    // ---- receiving -------------------------------------------------------------------------

    /// A leader wants this replica to continue from a snapshot.
    pub(super) fn take_offer(&mut self, offer: Offer, now: Time) {
        if let Some(incoming) = &mut self.incoming {
            if incoming.offer.snapshot.is_same_file(&offer.snapshot) {
                incoming.offer = offer;
                incoming.heard = now;
                for asked in incoming.asked.values_mut() {
                    *asked = Time::ZERO;
                }
                return self.go_on(now);
            }
            // What is being checked cannot be replaced; the leader offers it again.
            if incoming.stage == Stage::Checking {
                return;
            }
        }
        self.work.push_back(FileWork::Begin);
        self.incoming = Some(Incoming {
            offer,
            stage: Stage::Receiving,
            next: 0,
            asked: BTreeMap::new(),
            received: 0,
            heard: now,
            spoke: now,
        });
        self.go_on(now);
    }

    /// The snapshot that is being received, checked, or about to be installed.
    pub(super) fn incoming(&self) -> Option<Point> {
        self.incoming.as_ref().map(|incoming| incoming.offer.snapshot.point)
    }

    /// Whether everything is there to be installed, and what it is.
    pub(super) fn ready(&self) -> Option<&Snapshot> {
        let incoming = self.incoming.as_ref().filter(|incoming| incoming.stage == Stage::Ready)?;
        Some(&incoming.offer.snapshot)
    }

    /// Takes what [`Self::ready`] has shown; whether it was of use is to be [told](Self::settled).
    pub(super) fn take_ready(&mut self) -> Option<Offer> {
        self.ready()?;
        self.incoming.take().map(|incoming| incoming.offer)
    }

    /// Tells the sender how it went.
    pub(super) fn settled(&mut self, offer: &Offer, arrived: bool) {
        let content = Content::End { arrived, damaged: false };
        self.send(offer.from, offer.snapshot.point, content);
    }

    /// The snapshot whose parts are all there, to be checked.
    pub(super) fn take_check(&mut self) -> Option<Snapshot> {
        self.check.take()
    }

    /// The body was checked and made durable, or was not.
    pub(super) fn checked(&mut self, point: Point, sound: Result<(), bool>, now: Time) {
        let Some(incoming) = &mut self.incoming else { return };
        if incoming.stage != Stage::Checking || incoming.offer.snapshot.point != point {
            return;
        }
        incoming.heard = now;
        match sound {
            Ok(()) => incoming.stage = Stage::Ready,
            Err(damaged) => self.give_up(damaged),
        }
    }

    /// Ends the transfer to this replica without a result.
    pub(super) fn give_up(&mut self, damaged: bool) {
        if let Some(Incoming { offer, .. }) = self.incoming.take() {
            self.work.push_back(FileWork::Discard);
            let content = Content::End { arrived: false, damaged };
            self.send(offer.from, offer.snapshot.point, content);
        }
    }

    fn part(&mut self, from: u64, point: Point, offset: u64, data: Bytes, now: Time) {
        let Some(incoming) = &mut self.incoming else { return };
        let of = &incoming.offer.snapshot;
        let bytes = of.bytes.saturating_sub(offset).min(self.part_bytes);
        let expected = incoming.offer.from == from
            && of.point == point
            && incoming.stage == Stage::Receiving
            && data.len() as u64 == bytes;
        if !expected || incoming.asked.remove(&offset).is_none() {
            return;
        }
        incoming.received += bytes;
        incoming.heard = now;
        self.work.push_back(FileWork::Write { offset, data });
        self.go_on(now);
    }

    /// Asks for what may be asked for, and begins to check when nothing is missing.
    fn go_on(&mut self, now: Time) {
        let Some(incoming) = &mut self.incoming else { return };
        if incoming.stage != Stage::Receiving {
            return;
        }
        let (from, point) = (incoming.offer.from, incoming.offer.snapshot.point);
        let bytes = incoming.offer.snapshot.bytes;
        while incoming.asked.len() < PARTS_ASKED_MAX && incoming.next < bytes {
            incoming.asked.insert(incoming.next, Time::ZERO);
            incoming.next += self.part_bytes;
        }
        if incoming.asked.is_empty() {
            incoming.stage = Stage::Checking;
            self.check = Some(incoming.offer.snapshot.clone());
            return;
        }
        let due = |asked: &Time| *asked == Time::ZERO || *asked + ASK_AGAIN <= now;
        let mut again = Vec::new();
        for (offset, asked) in incoming.asked.iter_mut().filter(|(_, asked)| due(asked)) {
            *asked = now;
            again.push(*offset);
        }
        incoming.spoke = now;
        let part_bytes = u32::try_from(self.part_bytes).unwrap_or(u32::MAX);
        for offset in again {
            self.send(from, point, Content::Ask { offset, bytes: part_bytes });
        }
    }

    // ---- both ------------------------------------------------------------------------------

    /// Takes a frame of a replica that has been authenticated. `known`: the snapshot on disk that
    /// it is about, if there is one.
    pub(super) fn handle(&mut self, frame: Frame, known: Option<&Snapshot>, now: Time) {
        let Frame { from, point, content, .. } = frame;
        match content {
            Content::Ask { offset, bytes } => {
                self.asked(from, point, (offset, bytes), known, now);
            }
            Content::End { arrived, damaged } => self.end(from, point, arrived, damaged),
            // It belongs to no transfer; the core has taken it.
            Content::Hash { .. } => {}
            Content::Hold => {
                if let Some(outgoing) = self.outgoing.get_mut(&from) {
                    outgoing.heard = now;
                    outgoing.sent = outgoing.snapshot.bytes;
                }
            }
            Content::Part { offset, data } => self.part(from, point, offset, data, now),
        }
    }

    fn end(&mut self, from: u64, point: Point, arrived: bool, damaged: bool) {
        let sent = self.outgoing.get(&from).is_some_and(|sent| sent.snapshot.point == point);
        if sent {
            self.outgoing.remove(&from);
            let ended = match (arrived, damaged) {
                (true, _) => Ended::Arrived,
                (false, true) => Ended::Damaged,
                (false, false) => Ended::Failed,
            };
            self.ended.push((from, point, ended));
        }
        let receiving = self.incoming.as_ref().is_some_and(|incoming| {
            let of = &incoming.offer;
            of.from == from && of.snapshot.point == point && incoming.stage == Stage::Receiving
        });
        if receiving {
            self.incoming = None;
            self.work.push_back(FileWork::Discard);
        }
    }

    /// Asks again, holds the line while a body is checked, and gives up on the silent.
    pub(super) fn turn(&mut self, now: Time) {
        let silent = |heard: Time, patience: Duration| heard + patience <= now;
        let late: Vec<u64> = self
            .outgoing
            .iter()
            .filter(|(_, it)| silent(it.heard, self.patience))
            .map(|(to, _)| *to)
            .collect();
        for to in late {
            if let Some(outgoing) = self.outgoing.remove(&to) {
                self.ended.push((to, outgoing.snapshot.point, Ended::Failed));
            }
        }
        let Some(incoming) = &mut self.incoming else { return };
        if incoming.stage != Stage::Checking && silent(incoming.heard, RECEIVER_PATIENCE) {
            return self.give_up(false);
        }
        if incoming.stage == Stage::Receiving {
            return self.go_on(now);
        }
        if silent(incoming.spoke, ASK_AGAIN) {
            incoming.spoke = now;
            let (from, point) = (incoming.offer.from, incoming.offer.snapshot.point);
            self.send(from, point, Content::Hold);
        }
    }

    /// When [`Self::turn`] has something to do.
    pub(super) fn poll_timeout(&self) -> Option<Time> {
        let outgoing = self.outgoing.values().map(|outgoing| outgoing.heard + self.patience).min();
        let incoming = self.incoming.as_ref().map(|incoming| {
            let asked = incoming.asked.values().copied().min().unwrap_or(incoming.spoke);
            asked + ASK_AGAIN
        });
        earliest(outgoing, incoming)
    }

    pub(super) fn take_work(&mut self) -> Option<FileWork> {
        self.work.pop_front()
    }

    pub(super) fn push_work(&mut self, work: FileWork) {
        self.work.push_back(work);
    }

    pub(super) fn take_frames(&mut self) -> Vec<(u64, Bytes)> {
        std::mem::take(&mut self.frames)
    }

    pub(super) fn take_ended(&mut self) -> Vec<(u64, Point, Ended)> {
        std::mem::take(&mut self.ended)
    }

    pub(super) fn receiving(&self) -> Option<Transfer> {
        let incoming = self.incoming.as_ref()?;
        let of = &incoming.offer;
        let (index, bytes_total) = (of.snapshot.point.index, of.snapshot.bytes);
        Some(Transfer { raft_id: of.from, index, bytes: incoming.received, bytes_total })
    }

    pub(super) fn sending(&self) -> Vec<Transfer> {
        let transfer = |(&raft_id, sent): (&u64, &Outgoing)| {
            let (index, bytes_total) = (sent.snapshot.point.index, sent.snapshot.bytes);
            Transfer { raft_id, index, bytes: sent.sent, bytes_total }
        };
        self.outgoing.iter().map(transfer).collect()
    }

    fn send(&mut self, to: u64, point: Point, content: Content) {
        let frame = Frame { cluster: self.cluster, from: self.raft_id, to, point, content };
        self.frames.push((to, frame.encode()));
    }
}

#[cfg(test)]
mod tests;
