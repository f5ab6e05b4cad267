//! The rules that the `raft` crate leaves to its users, one test each, and the door.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use proptest::prelude::*;
use raft::Storage as _;

use super::membership::Member;
use super::snapshot::Snapshot;
use super::storage::tests::VecLog;
use super::*;

#[path = "tests/snapshots.rs"]
mod snapshots;

/// A log that the group writes and the consensus reads.
#[derive(Clone, Default)]
struct SharedLog(Rc<RefCell<VecLog>>);

impl Log for SharedLog {
    fn entries(&self, low: u64, high: u64, bytes: u64) -> Result<Vec<wal::Entry>, LogError> {
        self.0.borrow().entries(low, high, bytes)
    }

    fn term(&self, index: u64) -> Option<u64> {
        self.0.borrow().term(index)
    }

    fn first_index(&self) -> u64 {
        self.0.borrow().first_index()
    }

    fn last_index(&self) -> u64 {
        self.0.borrow().last_index()
    }
}

struct Replica {
    consensus: Consensus<SharedLog>,
    log: SharedLog,
    applied: Vec<wal::Entry>,
    reads: Vec<(u64, u64)>,
    installed: Vec<wal::Point>,
}

/// Replicas 1 to n with a network that loses nothing, unless one is cut off.
struct Group {
    replicas: Vec<Replica>,
    now: Time,
    cut_off: Option<u64>,
    /// Whether whoever is offered a snapshot never hears of it.
    lose_offers: bool,
}

fn member(raft_id: u64, voter: bool) -> Member {
    Member { raft_id, node: format!("node-{raft_id}").parse().unwrap(), voter }
}

fn replica(raft_id: u64, voters: u64, seed: u64) -> Replica {
    let log = SharedLog::default();
    let setup = Setup {
        raft_id,
        incarnation: Incarnation(1),
        bootstrap: Bootstrap::new((1..=voters).map(|id| member(id, true)).collect()).unwrap(),
        hard_state: wal::HardState { term: 1, vote: 0, commit: 1 },
        snapshot: None,
        log: log.clone(),
        options: Options::default(),
        rng: fastrand::Rng::with_seed(seed),
        now: Time::ZERO,
    };
    let consensus = Consensus::new(setup).unwrap();
    let (applied, reads, installed) = (Vec::new(), Vec::new(), Vec::new());
    Replica { consensus, log, applied, reads, installed }
}

impl Replica {
    /// Does all outputs, as a driver with an instant disk would.
    fn drain(&mut self) {
        while let Some(output) = self.consensus.poll() {
            if let Some(persist) = output.persist {
                if let Some(first) = persist.entries.first() {
                    let entries = &mut self.log.0.borrow_mut().entries;
                    entries.retain(|entry| entry.index < first.index);
                    entries.extend(persist.entries.iter().cloned());
                }
                self.consensus.persisted(persist.number);
            }
            for entry in output.committed {
                if entry.kind == wal::EntryKind::Membership {
                    self.consensus.apply_membership(&entry);
                }
                self.consensus.applied(entry.index);
                self.applied.push(entry);
            }
            self.reads.extend(output.reads);
        }
        if let Some(offer) = self.consensus.take_offer() {
            self.install(offer);
            self.drain();
        }
    }

    /// Installs a snapshot as if its body had come with the offer.
    fn install(&mut self, offer: Offer) {
        let point = offer.snapshot.point;
        let log = self.log.clone();
        let installed = self.consensus.install(offer, |_| {
            let mut log = log.0.borrow_mut();
            (log.base, log.entries) = (Some(point), Vec::new());
            Ok::<(), ()>(())
        });
        if installed.unwrap() {
            self.installed.push(point);
        }
    }

    /// Forgets everything that is applied, as if a snapshot with these members were on disk.
    fn compact(&mut self, membership: Membership) {
        let last = self.applied.last().unwrap();
        let point = wal::Point { index: last.index, term: last.term };
        let mut log = self.log.0.borrow_mut();
        log.entries.retain(|entry| entry.index > point.index);
        log.base = Some(point);
        let snapshot = Snapshot { point, membership, bytes: 100, checksum: 7 };
        self.consensus.set_snapshot(Some(snapshot));
    }

    fn step(&mut self, message: Message) -> Result<(), Refusal> {
        let to = self.consensus.raft_id();
        let envelope = Envelope { cluster: self.consensus.cluster(), from: message.from, to };
        let frames = wire::encode(envelope, &[message]);
        self.consensus.handle_frame(envelope.from, &frames[0])
    }
}

impl Group {
    fn new(replicas: u64, voters: u64) -> Self {
        let replicas = (1..=replicas).map(|id| replica(id, voters, id)).collect();
        Self { replicas, now: Time::ZERO, cut_off: None, lose_offers: false }
    }

    fn at(&mut self, raft_id: u64) -> &mut Replica {
        &mut self.replicas[usize::try_from(raft_id).unwrap() - 1]
    }

    /// Delivers until nobody has anything to say.
    fn talk(&mut self) {
        loop {
            let mut frames = Vec::new();
            for replica in &mut self.replicas {
                replica.drain();
                let from = replica.consensus.raft_id();
                frames.extend(replica.consensus.take_frames().into_iter().map(|f| (from, f)));
            }
            frames.retain(|(from, (to, _))| ![Some(*from), Some(*to)].contains(&self.cut_off));
            if frames.is_empty() {
                return;
            }
            for (from, (receiver, frame)) in frames {
                let to = self.at(receiver);
                (1..=5).for_each(|raft_id| to.consensus.admit(raft_id));
                to.consensus.handle_frame(from, &frame).unwrap();
                if self.lose_offers {
                    self.at(receiver).consensus.take_offer();
                }
            }
        }
    }

    fn active(&mut self, leader: u64) -> Vec<u64> {
        let followers = self.at(leader).consensus.followers();
        followers.iter().filter(|it| it.active).map(|it| it.raft_id).collect()
    }

    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            self.now = self.now + Duration::from_millis(50);
            for replica in &mut self.replicas {
                replica.consensus.tick(self.now);
            }
            self.talk();
        }
    }

    fn leader(&self) -> u64 {
        let leads = |replica: &&Replica| replica.consensus.role() == Role::Leader;
        let leaders: Vec<_> = self.replicas.iter().filter(leads).collect();
        let newest = leaders.iter().max_by_key(|replica| replica.consensus.term());
        newest.expect("somebody leads").consensus.raft_id()
    }

    fn elect(&mut self) -> u64 {
        self.pass(Duration::from_secs(2));
        self.leader()
    }
}

/// Groups whose leaders were elected at different times have their heartbeats at the same moments,
/// also after a pause, so that their messages to another node can travel together.
#[test]
fn heartbeats_of_all_groups_fall_on_the_same_moments() {
    let interval = Options::default().heartbeat_interval;
    for delay in 0..4 {
        let mut group = Group::new(3, 3);
        let ms = Duration::from_millis;
        // What time it is when the cluster begins makes the leader's election odd or even.
        for _ in 0..delay {
            group.now = group.now + ms(50);
            for replica in &mut group.replicas {
                replica.consensus.tick(group.now);
            }
        }
        let leader = group.elect();
        group.pass(interval);
        let beats = |group: &mut Group| {
            let mut beats = Vec::new();
            for _ in 0..20 {
                group.now = group.now + ms(10);
                let now = group.now;
                let beating = group.at(leader);
                beating.consensus.tick(now);
                beating.drain();
                if !beating.consensus.take_frames().is_empty() {
                    beats.push(now.since_start().as_millis() % interval.as_millis());
                }
            }
            beats
        };
        assert_eq!(beats(&mut group), [0, 0], "after {delay} steps");
        group.now = group.now + ms(330);
        group.pass(ms(200));
        assert_eq!(group.leader(), leader);
        assert_eq!(beats(&mut group), [0, 0], "after a pause");
    }
}

/// The crate would leave a removed leader in office, where it drops proposals, and panics when it
/// looks for its own progress.
#[test]
fn leader_that_is_removed_steps_down_at_once() {
    let mut group = Group::new(3, 3);
    let leader = group.elect();
    group.at(leader).consensus.propose_changes(&[Change::Remove(leader)]).unwrap();
    group.talk();
    assert_eq!(group.at(leader).consensus.role(), Role::Follower);
    assert!(!group.at(leader).consensus.membership().contains(leader));
    group.pass(Duration::from_secs(2));
    let next = group.leader();
    assert_ne!(next, leader);
    group.at(next).consensus.propose(vec![Bytes::from_static(b"x")]).unwrap();
    group.talk();
    assert_eq!(group.at(next).applied.last().unwrap().data.as_ref(), b"x");
}

/// The crate forgets at every check of the quorum who was active. Somebody who looks right then
/// must not be told that the whole cluster is silent.
#[test]
fn follower_is_active_until_an_election_timeout_without_a_word() {
    let mut group = Group::new(3, 3);
    let leader = group.elect();
    let others: Vec<_> = (1..=3).filter(|raft_id| *raft_id != leader).collect();
    for _ in 0..100 {
        // Between the tick and the answers to the heartbeats that it brings.
        let soon = group.now + Options::default().tick_interval;
        group.at(leader).consensus.tick(soon);
        assert_eq!(group.active(leader), others);
        group.pass(Duration::from_millis(50));
        assert_eq!(group.active(leader), others);
    }
    group.cut_off = Some(others[0]);
    group.pass(Duration::from_secs(1));
    assert_eq!(group.active(leader), others[1..]);
    group.cut_off = None;
    group.pass(Duration::from_secs(1));
    assert_eq!(group.active(leader), others);
}

/// A change of several members passes through a joint membership and comes out of it by itself.
#[test]
fn joint_membership_is_entered_and_left() {
    let mut group = Group::new(5, 3);
    let leader = group.elect();
    let gone = (1..=3).find(|raft_id| *raft_id != leader).unwrap();
    let changes =
        [Change::Add(member(4, true)), Change::Add(member(5, false)), Change::Remove(gone)];
    group.at(leader).consensus.propose_changes(&changes).unwrap();
    group.pass(Duration::from_secs(1));
    for raft_id in [leader, 4, 5] {
        let membership = group.at(raft_id).consensus.membership().clone();
        assert!(!membership.is_joint());
        assert!(membership.is_voter(4) && !membership.is_voter(5));
        assert!(membership.contains(5) && !membership.contains(gone));
        assert_eq!(membership.node(4).unwrap().as_str(), "node-4");
    }
}

/// The crate forgets the step out of a joint membership when the leader changes in between.
#[test]
fn new_leader_leaves_a_joint_membership_that_it_finds() {
    let mut group = Group::new(4, 3);
    let leader = group.elect();
    let changes = [Change::Add(member(4, true)), Change::Add(member(leader, false))];
    group.at(leader).consensus.propose_changes(&changes).unwrap();
    group.at(leader).drain();
    for (to, frame) in group.at(leader).consensus.take_frames() {
        let follower = group.at(to);
        follower.consensus.handle_frame(leader, &frame).unwrap();
        follower.drain();
        for (_, answer) in follower.consensus.take_frames() {
            group.at(leader).consensus.handle_frame(to, &answer).unwrap();
        }
    }
    // The leader enters the joint membership, and is lost before anybody hears of the next step.
    group.at(leader).drain();
    assert!(group.at(leader).consensus.membership().is_joint());
    group.cut_off = Some(leader);
    group.pass(Duration::from_secs(3));
    let next = group.leader();
    assert_ne!(next, leader);
    let membership = group.at(next).consensus.membership().clone();
    assert!(!membership.is_joint(), "{membership:?}");
}

/// A membership that was applied and then forgotten could elect a leader with its old quorum.
#[test]
fn change_is_committed_durably_before_it_is_applied() {
    let mut alone = replica(1, 1, 1);
    alone.consensus.tick(Time::ZERO + Duration::from_millis(150));
    for step in 1..20 {
        alone.consensus.tick(Time::ZERO + Duration::from_millis(150 + 50 * step));
        alone.drain();
    }
    assert_eq!(alone.consensus.role(), Role::Leader);
    let (index, _) = alone.consensus.propose_changes(&[Change::Add(member(2, false))]).unwrap();
    let written = alone.consensus.poll().unwrap().persist.unwrap();
    alone.log.0.borrow_mut().entries.extend(written.entries);
    alone.consensus.persisted(written.number);
    let output = alone.consensus.poll().unwrap();
    assert_eq!(output.committed.last().unwrap().index, index);
    assert!(output.apply_after_persist);
    assert_eq!(output.persist.unwrap().hard_state.unwrap().commit, index);
}

/// Proposals of one turn are one append, and their indexes are known before they are committed.
#[test]
fn proposals_are_committed_in_order_with_one_append() {
    let mut group = Group::new(3, 3);
    let leader = group.elect();
    let commands: Vec<_> = (0u8..5).map(|byte| Bytes::from(vec![byte])).collect();
    let (first, term) = group.at(leader).consensus.propose(commands.clone()).unwrap();
    group.at(leader).drain();
    let frames = group.at(leader).consensus.take_frames();
    assert_eq!(frames.len(), 2, "one frame for each follower");
    for (to, frame) in frames {
        group.at(to).consensus.handle_frame(leader, &frame).unwrap();
    }
    group.pass(Duration::from_millis(100));
    for replica in &group.replicas {
        let tail = &replica.applied[replica.applied.len() - 5..];
        assert_eq!(tail[0].index, first);
        assert!(tail.iter().all(|entry| entry.term == term));
        let data: Vec<_> = tail.iter().map(|entry| entry.data.clone()).collect();
        assert_eq!(data, commands);
    }
}

/// Whoever waits at a follower does not wait for the clock, and under load nothing is sent for this
/// alone: a lost message is repeated with the tick.
#[test]
fn idle_followers_are_told_of_a_commit_once_and_soon() {
    let mut group = Group::new(3, 3);
    let leader = group.elect();
    let (index, _) = group.at(leader).consensus.propose(vec![Bytes::from_static(b"x")]).unwrap();
    group.talk();
    let began = group.now;
    group.at(leader).consensus.tick(began);
    let commits =
        |group: &Group| group.replicas.iter().filter(|it| it.consensus.commit() == index).count();
    assert_eq!(commits(&group), 1, "the leader alone knows it");
    let due = group.at(leader).consensus.poll_timeout();
    assert_eq!(due, began + Duration::from_millis(1));
    group.at(leader).consensus.tick(due);
    group.at(leader).drain();
    assert_eq!(group.at(leader).consensus.take_frames().len(), 2, "lost on the way");
    group.at(leader).consensus.tick(due + Duration::from_millis(1));
    group.talk();
    assert_eq!(commits(&group), 1, "told twice");
    group.pass(Duration::from_millis(50));
    assert_eq!(commits(&group), 3, "not repeated with the tick");
}

/// A follower would forward a proposal, which could then happen twice or be lost unseen.
#[test]
fn only_the_leader_proposes_and_reads() {
    let mut group = Group::new(3, 3);
    let leader = group.elect();
    let follower = (1..=3).find(|raft_id| *raft_id != leader).unwrap();
    let consensus = &mut group.at(follower).consensus;
    assert_eq!(consensus.propose(vec![Bytes::from_static(b"x")]), Err(ProposeError::NotLeader));
    assert_eq!(consensus.begin_read(), None);
    assert_eq!(consensus.leader(), Some(leader));
}

/// A read needs a quorum at the time of the read: a leader that is cut off does not confirm it.
#[test]
fn read_round_is_confirmed_by_a_quorum_only() {
    let mut group = Group::new(3, 3);
    let leader = group.elect();
    let round = group.at(leader).consensus.begin_read().unwrap();
    group.talk();
    let commit = group.at(leader).consensus.commit();
    assert_eq!(group.at(leader).reads, [(round, commit)]);

    group.cut_off = Some(leader);
    let second = group.at(leader).consensus.begin_read().unwrap();
    assert_ne!(second, round, "a mark was used twice");
    group.pass(Duration::from_secs(2));
    assert_eq!(group.at(leader).reads.len(), 1, "answered without a quorum");
    assert_ne!(group.at(leader).consensus.role(), Role::Leader, "check-quorum deposes it");
}

/// What a voter promised must be on its disk before the candidate hears of it.
#[test]
fn vote_leaves_only_after_it_is_persisted() {
    let mut voter = replica(1, 3, 1);
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgRequestVote);
    (message.from, message.to, message.term) = (2, 1, 2);
    (message.index, message.log_term) = (1, 1);
    voter.step(message).unwrap();
    let persist = voter.consensus.poll().unwrap().persist.unwrap();
    assert_eq!(persist.hard_state.unwrap().vote, 2);
    assert!(voter.consensus.take_frames().is_empty(), "told before it was written");
    voter.consensus.persisted(persist.number);
    assert_eq!(voter.consensus.take_frames().len(), 1);
}

/// A voter may learn of a term from somebody it does not vote for. The vote that it gives later in
/// that term is as much a promise as one that comes with the term.
#[test]
fn vote_in_a_known_term_is_persisted_too() {
    let mut voter = replica(1, 3, 1);
    let request = |from, log_term| {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgRequestVote);
        (message.from, message.to, message.term) = (from, 1, 3);
        (message.index, message.log_term) = (3, log_term);
        message
    };
    let mut heard = request(3, 1);
    heard.set_msg_type(MessageType::MsgRequestPreVoteResponse);
    heard.reject = true;
    voter.step(heard).unwrap();
    let persist = voter.consensus.poll().unwrap().persist.unwrap();
    assert_eq!(persist.hard_state.map(|state| (state.term, state.vote)), Some((3, 0)));
    voter.consensus.persisted(persist.number);
    voter.drain();
    voter.consensus.take_frames();

    voter.step(request(2, 2)).unwrap();
    let persist = voter.consensus.poll().unwrap().persist.expect("a vote is written");
    assert_eq!(persist.hard_state.map(|state| (state.term, state.vote)), Some((3, 2)));
    assert!(voter.consensus.take_frames().is_empty(), "told before it was written");
    voter.consensus.persisted(persist.number);
    assert_eq!(voter.consensus.take_frames().len(), 1);
}

/// The crate's own generator must have no say in when elections begin.
#[test]
fn election_timeouts_follow_from_the_seed() {
    let timeline = |seed| {
        let mut alone = replica(1, 3, seed);
        let mut changes = Vec::new();
        for step in 1..400 {
            alone.consensus.tick(Time::ZERO + Duration::from_millis(50 * step));
            alone.drain();
            let frames = alone.consensus.take_frames();
            changes.push((alone.consensus.role(), frames.len()));
        }
        changes
    };
    assert_eq!(timeline(3), timeline(3));
    assert!((4..9).any(|seed| timeline(seed) != timeline(3)), "the seed has no say either");
}

/// Time in which our own process stood still says nothing about the leader.
#[test]
fn pause_of_our_own_does_not_start_an_election() {
    let mut replica = replica(1, 3, 1);
    assert!(!replica.consensus.tick(Time::ZERO + Duration::from_millis(100)));
    assert!(replica.consensus.tick(Time::ZERO + Duration::from_secs(60)), "the pause is reported");
    assert_eq!(replica.consensus.role(), Role::Follower);
}

/// Every message that the crate would panic on, or that only a broken member sends.
#[test]
fn impossible_messages_are_refused_and_counted() {
    let mut replica = replica(1, 3, 1);
    let message = |kind, term| {
        let mut message = Message::default();
        message.set_msg_type(kind);
        (message.from, message.to, message.term) = (2, 1, term);
        message
    };
    let mut beyond = message(MessageType::MsgHeartbeat, 1);
    beyond.commit = 2;
    let far = message(MessageType::MsgHeartbeat, u64::MAX);
    let local = message(MessageType::MsgHeartbeat, 0);
    let mut gap = message(MessageType::MsgAppend, 1);
    gap.index = 1_000_000;
    let mut falling = message(MessageType::MsgAppend, 2);
    (falling.index, falling.log_term) = (1, 1);
    let mut entry = Entry::default();
    (entry.index, entry.term) = (2, 3);
    falling.set_entries(vec![entry].into());
    let mut end = message(MessageType::MsgAppend, 1);
    (end.index, end.log_term) = (u64::MAX, 1);
    let refused = [beyond, far, local, gap, falling, end];
    let count = refused.len() as u64;
    for message in refused {
        let description = format!("{message:?}");
        assert!(replica.step(message).is_err(), "{description}");
    }
    assert_eq!(replica.consensus.refusals().impossible, count);
    replica.drain();
    assert_eq!(replica.consensus.term(), 1, "a refused message had an effect");
}

/// A leader hears answers, and must not believe in what it never sent.
#[test]
fn leader_refuses_acknowledgements_of_what_it_does_not_have() {
    let mut group = Group::new(3, 3);
    while group.elect() != 1 {
        group.at(1).consensus.admit(1);
        let leader = group.leader();
        group.at(leader).consensus.transfer(1);
        group.talk();
    }
    let term = group.at(1).consensus.term();
    let last = group.at(1).consensus.last_index();
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgAppendResponse);
    (message.from, message.to, message.term) = (2, 1, term);
    message.index = last + 1;
    assert!(group.at(1).step(message.clone()).is_err());
    (message.index, message.reject, message.reject_hint) = (last, true, last + 1);
    assert!(group.at(1).step(message).is_err());
    let mut usurper = Message::default();
    usurper.set_msg_type(MessageType::MsgHeartbeat);
    (usurper.from, usurper.to, usurper.term) = (2, 1, term);
    assert!(group.at(1).step(usurper).is_err());
    assert_eq!(group.at(1).consensus.role(), Role::Leader);
}

/// Somebody who is no member, and for whom nobody vouches, is not heard.
#[test]
fn frame_of_a_stranger_is_refused() {
    let mut replica = replica(1, 3, 1);
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgHeartbeat);
    (message.from, message.to, message.term) = (9, 1, 1);
    assert_eq!(replica.step(message.clone()), Err(Refusal::NotMember { from: 9 }));
    assert_eq!(replica.consensus.refusals().not_member, 1);
    replica.consensus.admit(9);
    assert_eq!(replica.step(message), Ok(()));
}

/// A disk that cannot be read stops the replica; it does not bring down the process.
#[test]
fn unreadable_log_stops_everything_that_would_leave() {
    let mut group = Group::new(3, 3);
    let leader = group.elect();
    group.cut_off = Some(if leader == 1 { 2 } else { 1 });
    let behind = group.cut_off.unwrap();
    for _ in 0..3 {
        group.at(leader).consensus.propose(vec![Bytes::from_static(b"x")]).unwrap();
        group.talk();
    }
    group.at(leader).log.0.borrow_mut().broken = true;
    group.cut_off = None;
    group.at(leader).consensus.unreachable(behind);
    group.pass(Duration::from_millis(400));
    let consensus = &mut group.at(leader).consensus;
    assert_eq!(consensus.failure().unwrap().reason, "broken");
    assert!(consensus.take_frames().is_empty());
    assert!(consensus.poll().is_none());
}

/// The log is whole, so that a replica that joins late follows it from its beginning.
#[test]
fn late_member_catches_up_from_the_log_without_a_snapshot() {
    let mut group = Group::new(4, 3);
    let leader = group.elect();
    for _ in 0..50 {
        group.at(leader).consensus.propose(vec![Bytes::from_static(b"x")]).unwrap();
        group.talk();
    }
    group.at(leader).consensus.propose_changes(&[Change::Add(member(4, false))]).unwrap();
    group.pass(Duration::from_secs(1));
    let applied = group.at(leader).applied.clone();
    assert_eq!(group.at(4).applied, applied);
    let followers = group.at(leader).consensus.followers();
    let late = followers.iter().find(|follower| follower.raft_id == 4).unwrap();
    assert_eq!((late.lag, late.state), (0, FollowerState::Replicating));
    assert!(group.at(leader).consensus.node.store().snapshot(0, 4).is_err());
}

/// One thing that a hostile member, the clock or a client does to a replica.
#[derive(Clone, Debug)]
enum Hostile {
    Message(Message),
    Propose,
    Read,
    Tick,
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![12 => 0u64..7, 1 => Just(u64::MAX), 1 => Just(u64::MAX / 2), 1 => any::<u64>()]
}

fn hostile() -> impl Strategy<Value = Hostile> {
    let numbers = [(); 6].map(|()| number());
    let entries = prop::collection::vec((number(), any::<bool>()), 0..3);
    let parts = (1u8..11, 2u64..4, any::<bool>(), numbers, entries, any::<bool>());
    let message = parts.prop_map(|(kind, from, reject, numbers, entries, transfer)| {
        let mut message = Message::default();
        message.set_msg_type(wire::kind_from_number(kind).unwrap());
        let [term, log_term, index, commit, commit_term, hint] = numbers;
        (message.from, message.to, message.term, message.reject) = (from, 1, term, reject);
        (message.log_term, message.index, message.commit) = (log_term, index, commit);
        (message.commit_term, message.reject_hint) = (commit_term, hint);
        if transfer {
            message.context = Bytes::from_static(b"CampaignTransfer");
        }
        let entry = |(term, change)| {
            let kind = if change { wal::EntryKind::Membership } else { wal::EntryKind::Normal };
            let data = Bytes::from_static(&[1, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0]);
            storage::entry_from_log(wal::Entry { term, index: 0, kind, data })
        };
        message.set_entries(entries.into_iter().map(entry).collect::<Vec<_>>().into());
        if message.get_msg_type() == MessageType::MsgSnapshot {
            message.set_entries(vec![].into());
            let voters = (1..=3).filter(|id| (numbers[3] >> id) & 1 == 0);
            let voters = voters.map(|id| member(id, (numbers[4] >> id) & 1 == 0)).collect();
            let Ok(bootstrap) = Bootstrap::new(voters) else { return Hostile::Tick };
            let membership = Membership::new(&bootstrap);
            let point = wal::Point { index, term: log_term };
            let snapshot = Snapshot { point, membership, bytes: 1, checksum: 1 };
            message.set_snapshot(snapshot.to_raft());
        }
        Hostile::Message(message)
    });
    prop_oneof![
        8 => message,
        3 => Just(Hostile::Tick),
        1 => Just(Hostile::Propose),
        1 => Just(Hostile::Read),
    ]
}

proptest! {
    /// A member may be broken or hostile in any way: it can cost a replica its office, its time
    /// and its belief in terms, but not bring it down.
    #[test]
    fn hostile_member_cannot_bring_a_replica_down(inputs in prop::collection::vec(hostile(), 1..80)) {
        let mut replica = replica(1, 3, 1);
        let mut now = Time::ZERO;
        for input in inputs {
            match input {
                Hostile::Message(message) => {
                    let _ = replica.step(message);
                }
                Hostile::Propose => {
                    let _ = replica.consensus.propose(vec![Bytes::from_static(b"x")]);
                }
                Hostile::Read => {
                    let _ = replica.consensus.begin_read();
                }
                Hostile::Tick => {
                    now = now + Duration::from_millis(150);
                    replica.consensus.tick(now);
                }
            }
            replica.drain();
            replica.consensus.take_frames();
        }
    }
}

/// The driver may move a replica between threads.
#[test]
fn consensus_can_be_sent_to_another_thread() {
    fn sendable<T: Send>() {}
    sendable::<Consensus<crate::replica::SharedLog>>();
    sendable::<crate::replica::Core<crate::kv::KvMachine, u64>>();
    sendable::<crate::replica::Store>();
}
