//! Names of topics and cursors, and the group that a topic belongs to.
//!
//! Pure. A topic lies in one of a fixed number of replicated groups, chosen by a stable hash of its
//! name: however many topics there are, there are no more groups, and so no more heartbeats. The
//! idea is that of partitions in general; Liftbridge's author described it for groups of Raft.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes that the name of a topic or a cursor may have; it has at least one.
pub const NAME_BYTES_MAX: usize = 255;
/// Groups that there may be. Each of them has labels of its own on every node that runs a replica
/// of it, and a node has 64.
pub const GROUPS_MAX: u16 = 16;
/// The label with which a node that runs replicas of the log says how many groups there are.
pub const GROUPS_LABEL: &str = "_log.groups";

const SERVICES: [&str; GROUPS_MAX as usize] = [
    "log0", "log1", "log2", "log3", "log4", "log5", "log6", "log7", "log8", "log9", "log10",
    "log11", "log12", "log13", "log14", "log15",
];

/// The name of the service that the replicas of a group have in common.
///
/// # Panics
///
/// If there can be no such group.
pub fn service(group: u16) -> &'static str {
    SERVICES[usize::from(group)]
}

/// The group, from 0, that a topic belongs to when there are `groups` of them: the CRC32C of the
/// name modulo their number.
///
/// The number of groups is chosen when a cluster begins: with another one most topics would belong
/// elsewhere, and their records would not be found.
///
/// # Panics
///
/// If there are no groups.
pub fn group_of(topic: &str, groups: u16) -> u16 {
    let group = crc32c::crc32c(topic.as_bytes()) % u32::from(groups);
    u16::try_from(group).expect("it is less than the number of groups")
}

/// Whether these bytes may name a topic or a cursor: letters, digits, `.`, `_` and `-` of ASCII.
pub fn is_name(name: &[u8]) -> bool {
    let is_valid = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.iter().all(is_valid)
}

/// Writes `bytes u8 | name`.
pub(super) fn put_name(out: &mut BytesMut, name: &[u8]) {
    out.put_u8(u8::try_from(name.len()).expect("a name is short"));
    out.put_slice(name);
}

/// Takes a name off the front; none if there is none that may be one.
pub(super) fn take_name(input: &mut Bytes) -> Option<Bytes> {
    let name = take_text(input)?;
    is_name(&name).then_some(name)
}

/// Takes the beginning of a name off the front, which may be empty.
pub(super) fn take_prefix(input: &mut Bytes) -> Option<Bytes> {
    let prefix = take_text(input)?;
    (prefix.is_empty() || is_name(&prefix)).then_some(prefix)
}

fn take_text(input: &mut Bytes) -> Option<Bytes> {
    let bytes = usize::from(input.try_get_u8().ok()?);
    (bytes <= input.remaining()).then(|| input.split_to(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clients in other languages have to find the same group: these stand in WIRE.md.
    #[test]
    fn group_of_a_topic_never_changes() {
        let found = ["orders", "payments", "a", "events.eu-west_1"]
            .map(|topic| (topic, group_of(topic, 1), group_of(topic, 4), group_of(topic, 7)));
        let documented = [
            ("orders", 0, 2, 3),
            ("payments", 0, 2, 1),
            ("a", 0, 0, 1),
            ("events.eu-west_1", 0, 3, 6),
        ];
        assert_eq!(found, documented);
    }

    /// What stands in a subject, a file or a table needs no escape.
    #[test]
    fn names_are_plain() {
        for name in ["a", "orders.eu-1_x", &"n".repeat(NAME_BYTES_MAX)] {
            assert!(is_name(name.as_bytes()), "{name}");
        }
        for name in ["", "a b", "a/b", "ä", "a\0", &"n".repeat(NAME_BYTES_MAX + 1)] {
            assert!(!is_name(name.as_bytes()), "{name}");
        }
    }

    /// A length that says more than there is must not be believed.
    #[test]
    fn name_that_is_cut_short_is_none() {
        let mut out = BytesMut::new();
        put_name(&mut out, b"orders");
        let bytes = out.freeze();
        assert_eq!(take_name(&mut bytes.clone()).unwrap(), "orders");
        for cut in 0..bytes.len() {
            assert_eq!(take_name(&mut bytes.slice(..cut)), None, "cut at {cut}");
        }
        assert_eq!(take_name(&mut Bytes::from_static(b"\0")), None);
        assert_eq!(take_prefix(&mut Bytes::from_static(b"\0")).unwrap(), "");
    }
}
