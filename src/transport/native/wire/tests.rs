//! What a peer may send, and what it may not.

use proptest::prelude::*;

use super::*;
use crate::id::Incarnation;
use crate::keys::KeyPair;

const MAX: usize = 10_000;

fn name() -> RoutingId {
    RoutingId::new(Incarnation(5), 6)
}

/// What a dialer sends: hello, then these messages.
fn stream(messages: &[Vec<u8>]) -> BytesMut {
    let mut bytes = BytesMut::new();
    Codec::new(Role::Dialer(name()), None, MAX).put_hello(&mut bytes).unwrap();
    for message in messages {
        put_message_head(message.len(), &mut bytes);
        bytes.put_slice(message);
    }
    bytes
}

fn all(decoder: &mut Codec, input: &mut BytesMut) -> Result<Vec<Item>, WireError> {
    std::iter::from_fn(|| decoder.decode(input).transpose()).collect()
}

fn refused(bytes: &[u8]) -> WireError {
    all(&mut Codec::new(Role::Listener, None, MAX), &mut bytes.into()).unwrap_err()
}

/// The hello of a dialer, and after it these bytes.
fn after_hello(bytes: &[u8]) -> Vec<u8> {
    [&stream(&[])[..], bytes].concat()
}

/// Both ends of a connection with keys, each with what it has to say first.
fn keyed() -> [(Codec, BytesMut); 2] {
    let pair = |seed| KeyPair::from_secret(&[seed; 32]).unwrap();
    let client = Curve::client(pair(1), pair(2).public()).unwrap();
    let server = Curve::server(pair(2)).unwrap();
    [(Role::Dialer(name()), client), (Role::Listener, server)].map(|(role, curve)| {
        let (mut codec, mut said) = (Codec::new(role, Some(curve), MAX), BytesMut::new());
        codec.put_hello(&mut said).unwrap();
        (codec, said)
    })
}

/// Lets both ends talk until they have nothing more to say, and returns what came out at each.
fn shake_hands(ends: &mut [(Codec, BytesMut); 2]) -> [Vec<Item>; 2] {
    let mut items = [Vec::new(), Vec::new()];
    while ends.iter().any(|(_, said)| !said.is_empty()) {
        for at in [0, 1] {
            let mut heard = ends[1 - at].1.split();
            let (codec, said) = &mut ends[at];
            for item in all(codec, &mut heard).unwrap() {
                if let Item::Say(step) = &item {
                    said.extend_from_slice(step);
                } else if let Item::Proved(..) = item {
                    said.extend_from_slice(&codec.admit().unwrap());
                }
                items[at].push(item);
            }
        }
    }
    items
}

#[test]
fn ends_with_keys_come_to_know_each_other() {
    let mut ends = keyed();
    let [dialer, listener] = shake_hands(&mut ends);
    let key = KeyPair::from_secret(&[1; 32]).unwrap().public();
    assert!(listener.contains(&Item::Proved(key, name())));
    assert_eq!(dialer.last(), Some(&Item::Established(None)));
    let mut said = BytesMut::new();
    ends[0].0.put_boxed(b"hello", &mut said).unwrap();
    ends[0].0.put_ping(30, &mut said).unwrap();
    let expected = [Item::Message(Bytes::from_static(b"hello")), Item::Ping(Bytes::new())];
    assert_eq!(all(&mut ends[1].0, &mut said).unwrap(), expected);
    // In clear text, such as a command that ends the connection, it is not from the peer.
    assert_eq!(all(&mut ends[1].0, &mut b"\x00\x05hello"[..].into()), Err(Broken.into()));
}

proptest! {
    /// However the network cuts a stream, the same comes out of it.
    #[test]
    fn messages_survive_any_cut(
        messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..6_000), 0..5),
        cut in 1_usize..700,
    ) {
        let mut decoder = Codec::new(Role::Listener, None, MAX);
        let (mut input, mut items) = (BytesMut::new(), Vec::new());
        for part in stream(&messages).chunks(cut) {
            input.extend_from_slice(part);
            items.extend(all(&mut decoder, &mut input).unwrap());
        }
        let mut expected = vec![Item::Established(Some(name()))];
        expected.extend(messages.into_iter().map(|message| Item::Message(message.into())));
        prop_assert_eq!(items, expected);
        prop_assert!(input.is_empty());
    }

    /// With keys too, whatever stands in the place of a step of the handshake.
    #[test]
    fn garbage_in_the_place_of_a_step_is_harmless(
        step in 0_usize..4,
        at in any::<prop::sample::Index>(),
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut ends = keyed();
        for turn in 0..4 {
            let listens = turn % 2 == 0;
            let mut heard = ends[usize::from(!listens)].1.split();
            if turn == step {
                let at = at.index(heard.len().max(1)).min(heard.len());
                heard.truncate(at);
                heard.extend_from_slice(&bytes);
            }
            let (codec, said) = &mut ends[usize::from(listens)];
            let Ok(items) = all(codec, &mut heard) else { break };
            for item in items {
                if let Item::Say(step) = item {
                    said.extend_from_slice(&step);
                }
            }
            prop_assert!(codec.wanted() <= MAX + 100);
        }
    }

    /// Garbage ends a connection or waits for more; it never panics and never asks for more room
    /// than the limit allows.
    #[test]
    fn garbage_is_harmless(bytes in prop::collection::vec(any::<u8>(), 0..300), greeted: bool) {
        let bytes = if greeted { after_hello(&bytes) } else { bytes };
        for role in [Role::Listener, Role::Dialer(name())] {
            let mut decoder = Codec::new(role, None, MAX);
            let _ = all(&mut decoder, &mut bytes.as_slice().into());
            prop_assert!(decoder.wanted() <= MAX + 9);
        }
    }

    /// One wrong byte in a handshake is refused, ignored or waited upon, but is no message.
    #[test]
    fn damaged_handshakes_bring_no_message(at in 0_usize..100, byte: u8) {
        let mut bytes = stream(&[]);
        let at = at % bytes.len();
        bytes[at] = byte;
        let items = all(&mut Codec::new(Role::Listener, None, MAX), &mut bytes).unwrap_or_default();
        prop_assert!(items.iter().all(|item| matches!(item, Item::Established(_))), "{items:?}");
    }
}

/// Waiting for the rest of it would keep what can never be a peer.
#[test]
fn wrong_greetings_are_refused_at_their_first_wrong_byte() {
    let mut greeting = stream(&[]).to_vec();
    assert_eq!(refused(b"GET / HTTP/1.1"), WireError::Signature);
    assert_eq!(refused(&[0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0x7f, 1]), WireError::Version(1));
    greeting[12..17].copy_from_slice(b"CURVE");
    assert_eq!(refused(&greeting), WireError::Mechanism);
}

/// A length is a claim: it must be refused before anything is allocated for it.
#[test]
fn oversized_frames_are_refused_by_their_head() {
    let message = [&[LONG][..], &10_001_u64.to_be_bytes()].concat();
    assert_eq!(refused(&after_hello(&message)), WireError::TooLarge { bytes: 10_001, max: MAX });
    let command = [&[LONG | COMMAND][..], &u64::MAX.to_be_bytes()].concat();
    let error = WireError::TooLarge { bytes: u64::MAX, max: COMMAND_BYTES_MAX };
    assert_eq!(refused(&after_hello(&command)), error);
}

#[test]
fn strangers_are_refused() {
    assert_eq!(refused(&after_hello(&[8, 0])), WireError::Flags(8));
    assert_eq!(refused(&after_hello(&[COMMAND, 0])), WireError::Command);
    assert_eq!(refused(&[&stream(&[])[..64], &[0, 0][..]].concat()), WireError::Early);
    let mut router = BytesMut::new();
    Codec::new(Role::Listener, None, MAX).put_hello(&mut router).unwrap();
    assert_eq!(refused(&router), WireError::SocketType);
    let mut foreign = stream(&[]);
    let last = foreign.len() - RoutingId::BYTES;
    foreign[last] = 0;
    assert_eq!(refused(&foreign), WireError::RoutingId);
}

/// As with libzmq: a message has one frame, and others are counted and dropped.
#[test]
fn messages_of_several_frames_are_dropped_whole() {
    let bytes = after_hello(&[MORE, 1, b'a', MORE, 0, 0, 1, b'b', 0, 1, b'c']);
    let items =
        all(&mut Codec::new(Role::Listener, None, MAX), &mut bytes.as_slice().into()).unwrap();
    let message = Item::Message(Bytes::from_static(b"c"));
    assert_eq!(items[1..], [Item::Other, Item::Other, Item::Malformed, message]);
}

/// A peer that gets no answer, or another one, ends the connection.
#[test]
fn pings_carry_their_context() {
    let mut bytes = stream(&[]);
    put_command(b"PING", b"\x00\x1econtext", &mut bytes);
    put_command(b"PING", &[0; 19], &mut bytes);
    let mut decoder = Codec::new(Role::Listener, None, MAX);
    decoder.decode(&mut bytes).unwrap();
    let ping = decoder.decode(&mut bytes).unwrap();
    assert_eq!(ping, Some(Item::Ping(Bytes::from_static(b"context"))));
    assert_eq!(decoder.decode(&mut bytes), Err(WireError::Command));
}
