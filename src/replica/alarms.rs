//! Alarms of a machine on the replica that leads: which command is to be proposed, and when.
//!
//! Pure: time enters as `now`. Invariant: each id has at most one due time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use super::machine::{Alarm, Effects};
use crate::timer::Time;

/// When an alarm that went off is proposed again, if applying it did not remove it: the proposal
/// may have been lost with a leadership, or refused because too much was waiting.
const AGAIN: Duration = Duration::from_secs(1);

/// The alarms that are set, while this replica leads.
#[derive(Debug, Default)]
pub(super) struct Alarms {
    leads: bool,
    set: BTreeMap<u64, (Time, Bytes)>,
    due: BTreeSet<(Time, u64)>,
}

impl Alarms {
    /// Begins with everything that is set, which is counted from now on.
    pub(super) fn lead(&mut self, now: Time, alarms: Vec<Alarm>) {
        self.follow();
        self.leads = true;
        for alarm in alarms {
            self.insert(alarm.id, now + alarm.after, alarm.command);
        }
    }

    /// Somebody else leads, or nobody.
    pub(super) fn follow(&mut self) {
        self.leads = false;
        self.set.clear();
        self.due.clear();
    }

    /// Takes what applying a command changed.
    pub(super) fn take(&mut self, now: Time, effects: &mut Effects) {
        for (id, alarm) in effects.alarms.drain(..) {
            if !self.leads {
                continue;
            }
            self.remove(id);
            if let Some(alarm) = alarm {
                self.insert(id, now + alarm.after, alarm.command);
            }
        }
    }

    /// The command of an alarm whose time has come; none when there is no more.
    pub(super) fn poll(&mut self, now: Time) -> Option<Bytes> {
        let &(_, id) = self.due.first().filter(|(due, _)| *due <= now)?;
        let (_, command) = self.remove(id)?;
        self.insert(id, now + AGAIN, command.clone());
        Some(command)
    }

    /// When [`Self::poll`] has something.
    pub(super) fn poll_timeout(&self) -> Option<Time> {
        self.due.first().map(|(due, _)| *due)
    }

    fn insert(&mut self, id: u64, due: Time, command: Bytes) {
        self.set.insert(id, (due, command));
        self.due.insert((due, id));
    }

    fn remove(&mut self, id: u64) -> Option<(Time, Bytes)> {
        let (due, command) = self.set.remove(&id)?;
        self.due.remove(&(due, id));
        Some((due, command))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::from_start(Duration::from_secs(seconds))
    }

    fn alarm(id: u64, seconds: u64) -> Alarm {
        let command = Bytes::from(format!("{id} after {seconds}"));
        Alarm { id, after: Duration::from_secs(seconds), command }
    }

    fn set(alarms: &mut Alarms, now: Time, alarm: Alarm) {
        let mut effects = Effects::default();
        effects.set_alarm(alarm);
        alarms.take(now, &mut effects);
    }

    /// An alarm that is set again counts anew, one that is cleared never goes off.
    #[test]
    fn alarm_goes_off_when_its_last_setting_says() {
        let mut alarms = Alarms::default();
        alarms.lead(at(0), vec![alarm(1, 3), alarm(2, 3)]);
        set(&mut alarms, at(2), alarm(1, 4));
        let mut effects = Effects::default();
        effects.clear_alarm(2);
        alarms.take(at(2), &mut effects);
        assert_eq!(alarms.poll_timeout(), Some(at(6)));
        assert_eq!(alarms.poll(at(5)), None, "early");
        assert_eq!(alarms.poll(at(6)).unwrap(), "1 after 4");
        assert_eq!(alarms.poll(at(6)), None, "twice at once");
    }

    /// A proposal may be lost; what was not applied is proposed again.
    #[test]
    fn alarm_is_repeated_until_it_is_gone() {
        let mut alarms = Alarms::default();
        alarms.lead(at(0), vec![alarm(1, 1)]);
        assert!(alarms.poll(at(1)).is_some());
        assert!(alarms.poll(at(2)).is_some(), "not repeated");
        let mut effects = Effects::default();
        effects.clear_alarm(1);
        alarms.take(at(2), &mut effects);
        assert_eq!(alarms.poll_timeout(), None);
    }

    /// Only the leader counts, and a new leader counts from its beginning: late, never early.
    #[test]
    fn follower_has_no_alarms_and_a_new_leader_counts_anew() {
        let mut alarms = Alarms::default();
        set(&mut alarms, at(0), alarm(1, 1));
        assert_eq!(alarms.poll_timeout(), None, "a follower counts");
        alarms.lead(at(10), vec![alarm(1, 1)]);
        assert_eq!(alarms.poll_timeout(), Some(at(11)));
        alarms.follow();
        assert_eq!(alarms.poll(at(20)), None);
    }
}
