//! What a machine is shown of the log behind it.

use super::*;
use crate::replica::{Past, PastCommands, PastError};

fn indexes(past: &PastCommands) -> Vec<u64> {
    past.commands.iter().map(|(index, _)| *index).collect()
}

/// What a query is told must have happened, and a machine has not seen what is only in the log.
#[test]
fn past_ends_with_what_was_applied_and_has_commands_only() {
    let (mut cluster, leader) = Cluster::elected(3);
    for ticket in 0..3 {
        cluster.propose(leader, &format!("{ticket}"), ticket);
        cluster.talk();
    }
    cluster.cut_off = Some(leader);
    cluster.propose(leader, "nobody confirms it", 3);
    cluster.pass(Duration::from_millis(50));
    let core = &cluster.at(leader).core;
    let applied = core.applied();
    assert_eq!(core.consensus().last_index(), applied + 1, "there is more in the log");
    let past = core.past().commands(Bootstrap::INDEX + 1, u64::MAX).unwrap();
    assert_eq!(indexes(&past), [applied - 2, applied - 1, applied], "the first entry of a leader");
    assert_eq!(past.commands[1].1, set("1"));
    assert_eq!(past.next, applied + 1);
    let end = core.past().commands(past.next, u64::MAX).unwrap();
    assert_eq!(end, PastCommands { commands: Vec::new(), next: past.next });
}

/// A question that is asked for a few bytes must not read the whole log, and must get on.
#[test]
fn past_is_read_in_portions_that_go_on() {
    let (mut cluster, leader) = Cluster::elected(1);
    for ticket in 0..20 {
        cluster.propose(leader, &format!("{ticket:>100}"), ticket);
        cluster.talk();
    }
    let core = &cluster.at(leader).core;
    let (mut next, mut seen, mut portions) = (Bootstrap::INDEX + 1, Vec::new(), 0);
    while next <= core.applied() {
        let past = core.past().commands(next, 500).unwrap();
        assert!(past.next > next, "it stands still");
        assert!(past.commands.len() <= 5, "{} commands at once", past.commands.len());
        seen.extend(indexes(&past));
        (next, portions) = (past.next, portions + 1);
    }
    assert_eq!(seen, (core.applied() - 19..=core.applied()).collect::<Vec<_>>());
    assert!(portions >= 4);
    let one = core.past().commands(core.applied(), 0).unwrap();
    assert_eq!(indexes(&one), [core.applied()], "at least one, however small the portion");
}

/// A machine must not take what is gone for what never was.
#[test]
fn forgotten_past_is_told_from_an_empty_one() {
    let (mut cluster, leader) = Cluster::elected(1);
    let first = Bootstrap::INDEX + 1;
    let forgotten = cluster.at(leader).core.past().commands(first - 1, 1).unwrap_err();
    assert_eq!(forgotten, PastError::Forgotten { first });
}
