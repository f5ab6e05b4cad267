//! What became of a command, asked by a client that lost the answer.
//!
//! An inquiry is a query, so it sees everything that was committed when it was asked. What it does
//! not find there may yet be under way: proposed by this leader, or about to be, and not decided.
//!
//! Pure.

use bytes::Bytes;

use super::Core;
use crate::consensus::Log;
use crate::replica::machine::{CommandId, Machine};
use crate::timer::Time;

impl<M: Machine, T, L: Log> Core<M, T, L> {
    /// Accepts an inquiry into what became of a command, or answers why not. Everything else is as
    /// for [`Self::read`]; the answer is that of [`Machine::inquire`].
    pub fn inquire(&mut self, id: CommandId, deadline: Time, ticket: T) {
        self.read_as(Some(id), Bytes::new(), deadline, ticket);
    }

    /// Whether this replica has the command and it is not decided. Looks at everything that waits:
    /// inquiries are rare.
    pub(super) fn is_under_way(&self, id: CommandId) -> bool {
        let mut waiting = self.queued.iter().chain(self.proposed.values());
        waiting.any(|operation| operation.id == Some(id))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::Incarnation;
    use crate::consensus::membership::{Bootstrap, Member};
    use crate::kv::{Command, KvMachine};
    use crate::replica::session::{Inquiry, Outcome, Submission};
    use crate::replica::{Options, Sessions, Setup, Store, settle};
    use crate::wal::{self, MemoryDisk};

    /// A cluster of one.
    struct Single {
        core: Core<Sessions<KvMachine>, u32>,
        store: Store,
        now: Time,
    }

    impl Single {
        fn elected() -> Self {
            let member = Member { raft_id: 1, node: "a".parse().unwrap(), voter: true };
            let (name, bootstrap) = (member.node.clone(), Bootstrap::new(vec![member]).unwrap());
            let (disk, dir) = (Arc::new(MemoryDisk::new()), Path::new("/data"));
            let options =
                wal::Options { segment_bytes: 1 << 20, reserve_bytes: 0, ..Default::default() };
            let store = Store::create(disk, dir, options, name, 1, &bootstrap).unwrap();
            let core = Core::new(Setup {
                raft_id: 1,
                incarnation: Incarnation(1),
                bootstrap,
                snapshot: None,
                older_snapshots: Vec::new(),
                hard_state: store.hard_state(),
                log: store.log(),
                machine: Sessions::new(KvMachine::new()),
                options: Options::default(),
                rng: fastrand::Rng::with_seed(1),
                now: Time::ZERO,
            });
            let mut single = Self { core: core.unwrap(), store, now: Time::ZERO };
            for _ in 0..40 {
                single.now = single.now + Duration::from_millis(50);
                single.core.turn(single.now);
                single.settle();
            }
            single
        }

        /// Writes what there is to write, and returns the answers.
        fn settle(&mut self) -> Vec<(u32, Bytes)> {
            let done = settle(&mut self.core, &mut self.store, &mut None, |_, _| ());
            done.into_iter().map(|done| (done.ticket, done.result.unwrap().response)).collect()
        }

        fn deadline(&self) -> Time {
            self.now + Duration::from_secs(5)
        }

        fn propose(&mut self, submission: &Submission, ticket: u32) {
            let deadline = self.deadline();
            self.core.propose(submission.encode(), deadline, ticket);
        }

        /// Asks, with nothing written meanwhile.
        fn inquire(&mut self, id: CommandId) -> Inquiry {
            let deadline = self.deadline();
            self.core.inquire(id, deadline, 99);
            self.core.turn(self.now);
            let done = self.core.take_done();
            let answer = done.into_iter().find(|done| done.ticket == 99).expect("an answer");
            Inquiry::decode(&answer.result.unwrap().response).unwrap()
        }
    }

    /// Between its proposal and its decision a command is neither done nor unheard of: whoever was
    /// told "not seen" then would be told wrong.
    #[test]
    fn proposed_command_is_in_progress_until_it_is_applied() {
        let mut single = Single::elected();
        single.propose(&Submission::Open { idle: Duration::from_secs(60) }, 1);
        single.core.turn(single.now);
        let opened = single.settle();
        let Some(Outcome::Done { index, .. }) = Outcome::decode(&opened[0].1) else { panic!() };
        let id = CommandId { session: index, serial: 1 };
        assert_eq!(single.inquire(id), Inquiry::NotSeen);

        let set = Command::Set { key: "k".into(), value: "v".into() }.encode().unwrap();
        single.propose(&Submission::Numbered { id, lowest: 1, command: set }, 2);
        assert_eq!(single.inquire(id), Inquiry::InProgress);
        assert_eq!(single.inquire(CommandId { serial: 2, ..id }), Inquiry::NotSeen);
        assert_eq!(single.settle().len(), 1);
        assert!(matches!(single.inquire(id), Inquiry::Done { index: at, .. } if at > index));
    }
}
