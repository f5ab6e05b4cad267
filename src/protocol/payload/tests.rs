//! Tests of `payload`.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde::Deserialize;

use super::*;
use crate::NodeId;

#[derive(Debug, Deserialize, PartialEq, Serialize)]
enum Tree {
    Leaf,
    Node(Box<Self>),
}

/// Runs on a stack as small as that of a thread in a crowded process, so that recursion shows.
fn on_a_small_stack(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(256 * 1024).spawn(test).unwrap();
    thread.join().unwrap();
}

fn nested(depth: usize, head: &[u8], leaf: u8) -> Vec<u8> {
    let mut bytes = head.repeat(depth);
    bytes.push(leaf);
    bytes
}

/// `{"Node": ...}`: how rmp-serde writes an enum variant.
const NODE_HEAD: &[u8] = b"\x81\xa4Node";

fn tree(depth: usize) -> Vec<u8> {
    let mut bytes = NODE_HEAD.repeat(depth);
    bytes.extend_from_slice(b"\xa4Leaf");
    bytes
}

/// Both sides of the depth limit, for each kind of container, filled and empty.
#[test]
fn nesting_is_refused_beyond_the_limit() {
    on_a_small_stack(|| {
        for head in [&b"\x91"[..], b"\xdc\x00\x01", b"\xdd\x00\x00\x00\x01", b"\x81\x00"] {
            assert!(check(&nested(DEPTH_MAX, head, 0xc0)).is_ok());
            assert!(check(&nested(DEPTH_MAX - 1, head, 0x90)).is_ok());
            for too_deep in [DEPTH_MAX + 1, 1_000, 100_000] {
                let error = check(&nested(too_deep, head, 0xc0)).unwrap_err();
                assert!(matches!(error, PayloadError::Depth), "{error}");
            }
            let error = check(&nested(DEPTH_MAX, head, 0x80)).unwrap_err();
            assert!(matches!(error, PayloadError::Depth), "{error}");
        }
    });
}

/// rmp-serde's own depth limit does not count enum variants: 20,000 of them abort the process.
#[test]
fn recursive_enum_never_reaches_serde_too_deep() {
    on_a_small_stack(|| {
        assert!(matches!(decode::<Tree>(&tree(20_000)), Err(PayloadError::Depth)));
        assert!(matches!(decode::<Tree>(&tree(DEPTH_MAX + 1)), Err(PayloadError::Depth)));
        let deepest = decode::<Tree>(&tree(DEPTH_MAX)).unwrap();
        assert_eq!(encode(&deepest).unwrap(), tree(DEPTH_MAX));
        assert_eq!(decode::<Tree>(&tree(0)).unwrap(), Tree::Leaf);
    });
}

/// What a receiver would refuse is refused by the sender, where the bug is.
#[test]
fn encode_refuses_what_a_receiver_would_refuse() {
    let too_deep = (0..=DEPTH_MAX).fold(Tree::Leaf, |tree, _| Tree::Node(Box::new(tree)));
    assert!(matches!(encode(&too_deep), Err(PayloadError::Depth)));
    let too_many = vec![0_u8; usize::try_from(ELEMENTS_MAX).unwrap() + 1];
    assert!(matches!(encode(&too_many), Err(PayloadError::Elements)));
}

/// A length is a promise that must be kept before anybody reserves memory for it.
#[test]
fn lengths_beyond_the_bytes_are_refused() {
    on_a_small_stack(|| {
        for marker in [0xc6, 0xdb, 0xc9, 0xdd, 0xdf] {
            for length in [u32::MAX, u32::MAX - 1, 1 << 31, 6] {
                let mut bytes = vec![marker];
                bytes.extend_from_slice(&length.to_be_bytes());
                bytes.extend_from_slice(&[0; 5]);
                let error = check(&bytes).unwrap_err();
                assert!(matches!(error, PayloadError::Length), "{marker:#x} {length}: {error}");
            }
        }
    });
}

/// 16 MiB of nil would become 658 MiB of dynamic values. The count is shared by all containers.
#[test]
fn elements_are_refused_beyond_the_limit() {
    on_a_small_stack(|| {
        let array = |count: u32| {
            let mut bytes = vec![0xdd];
            bytes.extend_from_slice(&count.to_be_bytes());
            bytes.resize(5 + count as usize, 0xc0);
            bytes
        };
        let max = u32::try_from(ELEMENTS_MAX).unwrap();
        assert!(check(&array(max)).is_ok());
        for count in [max + 1, 16 << 20] {
            assert!(matches!(check(&array(count)), Err(PayloadError::Elements)));
        }
        let mut two_halves = vec![0x92];
        two_halves.extend(array(max / 2));
        two_halves.extend(array(max / 2));
        assert!(matches!(check(&two_halves), Err(PayloadError::Elements)));
        let mut map = array(max / 2 + 1);
        map[0] = 0xdf;
        map.resize(map.len() * 2, 0xc0);
        assert!(matches!(check(&map), Err(PayloadError::Elements)));
    });
}

/// Two encodings of one value would make hashes and signatures of payloads worthless.
#[test]
fn trailing_bytes_are_refused() {
    assert!(matches!(decode::<u64>(&[1, 2]), Err(PayloadError::Trailing { bytes: 1 })));
    let zeros = [0_u8; 4096];
    assert!(matches!(decode::<u64>(&zeros), Err(PayloadError::Trailing { bytes: 4095 })));
    assert!(matches!(decode::<u64>(&[]), Err(PayloadError::Length)));
}

/// Text from a peer becomes file names and keys: it must be text, and a node id must be one.
#[test]
fn invalid_text_is_refused_by_the_type() {
    assert!(matches!(decode::<String>(b"\xa2\xff\xfe"), Err(PayloadError::Decode(_))));
    assert!(matches!(decode::<NodeId>(b"\xa2\xff\xfe"), Err(PayloadError::Decode(_))));
    assert!(matches!(decode::<NodeId>(b"\xa2a\0"), Err(PayloadError::Decode(_))));
    assert!(matches!(decode::<NodeId>(b"\xa4../b"), Err(PayloadError::Decode(_))));
}

/// Numbers at the ends of their ranges arrive as they are or not at all.
#[test]
fn extreme_numbers_do_not_wrap() {
    let max = encode(&u64::MAX).unwrap();
    assert_eq!(decode::<u64>(&max).unwrap(), u64::MAX);
    assert!(matches!(decode::<i64>(&max), Err(PayloadError::Decode(_))));
    assert!(matches!(decode::<u32>(&max), Err(PayloadError::Decode(_))));
    let min = encode(&i64::MIN).unwrap();
    assert_eq!(decode::<i64>(&min).unwrap(), i64::MIN);
    assert!(matches!(decode::<u64>(&min), Err(PayloadError::Decode(_))));
    let nan = encode(&f64::NAN).unwrap();
    assert!(decode::<f64>(&nan).unwrap().is_nan());
    assert!(matches!(decode::<u64>(&nan), Err(PayloadError::Decode(_))));
}

/// One value for every marker byte, so that no length of a format is wrong in the walk.
#[test]
fn every_marker_has_the_length_of_the_format() {
    for marker in 0..=0xff_u8 {
        // What follows: a length of zero where there is one, then zeros, which are numbers.
        let lengths: Vec<usize> = (1..64)
            .filter(|&len| check(&[&[marker][..], &vec![0; len - 1]].concat()).is_ok())
            .collect();
        let expected = match marker {
            0x80..=0x8f => Some(1 + 2 * usize::from(marker & 15)),
            0x90..=0x9f => Some(1 + usize::from(marker & 15)),
            0xa0..=0xbf => Some(1 + usize::from(marker & 31)),
            0xc1 => None,
            0xc4 | 0xcc | 0xd0 | 0xd9 => Some(2),
            0xc5 | 0xc7 | 0xcd | 0xd1 | 0xd4 | 0xda | 0xdc | 0xde => Some(3),
            0xc8 | 0xd5 => Some(4),
            0xc6 | 0xca | 0xce | 0xd2 | 0xdb | 0xdd | 0xdf => Some(5),
            0xc9 | 0xd6 => Some(6),
            0xcb | 0xcf | 0xd3 => Some(9),
            0xd7 => Some(10),
            0xd8 => Some(18),
            _ => Some(1),
        };
        assert_eq!(lengths, expected.into_iter().collect::<Vec<_>>(), "{marker:#04x}");
    }
    assert!(matches!(check(&[0xc1]), Err(PayloadError::Marker)));
    assert!(matches!(check(&[0x91, 0xc1]), Err(PayloadError::Marker)));
}

type Sample = (i64, Option<String>, Vec<f32>, BTreeMap<String, (bool, char)>, Vec<Vec<u16>>);

prop_compose! {
    fn samples()(
        number: i64,
        text in prop::option::of("\\PC{0,40}"),
        floats in prop::collection::vec(prop::num::f32::NORMAL, 0..20),
        map in prop::collection::btree_map("[a-z]{0,4}", any::<(bool, char)>(), 0..20),
        nested in prop::collection::vec(prop::collection::vec(any::<u16>(), 0..20), 0..20),
    ) -> Sample {
        (number, text, floats, map, nested)
    }
}

proptest! {
    /// The walk agrees with rmp-serde about where every value ends.
    #[test]
    fn values_round_trip_and_every_truncation_fails(value in samples()) {
        let bytes = encode(&value).unwrap();
        prop_assert_eq!(decode::<Sample>(&bytes).unwrap(), value);
        for end in 0..bytes.len() {
            prop_assert!(matches!(check(&bytes[..end]), Err(PayloadError::Length)));
        }
    }

    /// The input is whatever a peer sends.
    #[test]
    fn any_bytes_are_refused_or_accepted_without_panic(bytes: Vec<u8>) {
        let well_formed = check(&bytes).is_ok();
        prop_assert!(well_formed || decode::<Sample>(&bytes).is_err());
        prop_assert!(well_formed || decode::<Tree>(&bytes).is_err());
    }
}
