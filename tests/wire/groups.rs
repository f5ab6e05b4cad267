//! The tables of groups of consumers in `docs/WIRE.md`.

use std::time::Duration;

use zmesh::log::groups::{
    DeadLetter, Delivered, GroupCommand, GroupOptions, GroupQuery, GroupResponse, MemberStatus,
    Outcome as Settled, Refusal as GroupRefusal, Settlement, Start, Verdict, WheelKind,
};

use super::{hex, table};

/// The table of groups, row by row: commands, queries and responses of consumers.
#[test]
fn table_of_groups_has_the_bytes_of_the_code() {
    let (options, offsets) = (GroupOptions::default(), vec![3]);
    let (g, member, from, max) = (|| "g".to_owned(), 7, 3, 16);
    let settle = |verdict| {
        let deliveries = vec![Settlement { offset: 3, delivery: 9 }];
        GroupCommand::Settle { group: g(), member, verdict, deliveries }.encode()
    };
    let wheel = WheelKind::Members;
    let expected = [
        GroupCommand::Create { group: g(), start: Start::Offset(3), options }.encode(),
        GroupCommand::Delete { group: g() }.encode(),
        GroupCommand::Join { group: g(), name: "w".to_owned() }.encode(),
        GroupCommand::Leave { group: g(), member }.encode(),
        GroupCommand::KeepAlive { group: g(), member }.encode(),
        GroupCommand::Fetch { group: g(), member, max }.encode(),
        settle(Verdict::Ack),
        settle(Verdict::Again { after: Duration::from_secs(1) }),
        settle(Verdict::Bury),
        settle(Verdict::Extend),
        settle(Verdict::Release),
        GroupCommand::Requeue { group: g(), offsets: offsets.clone() }.encode(),
        GroupCommand::Drop { group: g(), offsets }.encode(),
        GroupCommand::Tick { group: g(), id: 6, wheel, round: 2 }.encode(),
        GroupQuery::Groups { after: String::new(), max }.encode(),
        GroupQuery::Status { group: g() }.encode(),
        GroupQuery::Members { group: g(), from, max }.encode(),
        GroupQuery::Dead { group: g(), from, max }.encode(),
        GroupQuery::Ready { group: g(), member }.encode(),
        GroupResponse::Done.encode(),
        GroupResponse::Refused(GroupRefusal::NotMember).encode(),
        GroupResponse::Joined { member, options }.encode(),
        GroupResponse::Fetched(vec![Delivered { offset: 3, delivery: 9, tries: 1 }]).encode(),
        GroupResponse::Settled(vec![Settled::Done, Settled::Stale, Settled::Full]).encode(),
        GroupResponse::Members(vec![MemberStatus { id: 7, name: "w".to_owned(), in_flight: 1 }])
            .encode(),
        GroupResponse::Dead(vec![DeadLetter { offset: 3, tries: 5 }]).encode(),
        GroupResponse::Ready(true).encode(),
    ];
    let rows = table("Groups of consumers");
    assert_eq!(rows.len(), expected.len());
    for (row, expected) in rows.iter().zip(&expected) {
        assert_eq!(row[2], hex(expected).replace(' ', ""), "{}", row[0]);
    }
}
