//! CurveZMQ: both ends prove to have their keys, and what passes between them is encrypted.
//!
//! ```text
//! dialer                                                              listener
//!   HELLO     its fresh key, and a proof that it knows the listener's ---->
//!   <---- WELCOME   the listener's fresh key, and a cookie
//!   INITIATE  the cookie, its lasting key, who it is            -------->
//!   <---- READY     who the listener is; or ERROR, if the key is not allowed
//!   MESSAGE   both ways: a number that only grows, and a box
//! ```
//!
//! The protocol is specified in <https://rfc.zeromq.org/spec/26/>; the boxes are those of NaCl
//! (Curve25519, XSalsa20, Poly1305). Names in boxes: `client` dials, `server` listens.
//!
//! A listener of ours remembers who is half-way through, so its cookie is a random number and hides
//! nothing; how many may be half-way through has a limit elsewhere.
//!
//! Pure, but for the randomness that it begins with.
//! Invariant: a number is used once per direction, and one that is not above the last is refused.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use crypto_box::aead::AeadInPlace;
use crypto_box::aead::generic_array::GenericArray;
use crypto_box::{SalsaBox, SecretKey};
use zeroize::Zeroizing;

use crate::keys::{KEY_BYTES, KeyPair, PublicKey};

/// Bytes that are added to a message: name, number, code, flags.
pub(super) const MESSAGE_OVERHEAD: usize = MESSAGE.len() + NUMBER_BYTES + TAG_BYTES + 1;

const HELLO: &[u8] = b"\x05HELLO";
const WELCOME: &[u8] = b"\x07WELCOME";
const INITIATE: &[u8] = b"\x08INITIATE";
const READY: &[u8] = b"\x05READY";
const MESSAGE: &[u8] = b"\x07MESSAGE";
/// Says to whom it may concern that the key is not allowed, in the words of ZAP.
pub(super) const REFUSAL: &[u8] = b"\x05ERROR\x03400";

const TAG_BYTES: usize = 16;
const NUMBER_BYTES: usize = 8;
const LONG_NONCE_BYTES: usize = 16;
const COOKIE_BYTES: usize = 96;
/// Bytes of a HELLO that say nothing, so that its answer is not larger.
const PADDING_BYTES: usize = 72;
const HELLO_BYTES: usize =
    HELLO.len() + 2 + PADDING_BYTES + KEY_BYTES + NUMBER_BYTES + TAG_BYTES + 64;
const VOUCH_BYTES: usize = TAG_BYTES + 2 * KEY_BYTES;

/// Nothing of it can be believed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("it breaks the rules of CURVE, or has not the key that it should have")]
pub(super) struct Broken;

type Result<T> = std::result::Result<T, Broken>;

/// Which end of a connection we are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Side {
    /// We dialed the owner of this key.
    Client(PublicKey),
    Server,
}

/// One end of a connection. See the [module](self).
pub(super) struct Curve {
    side: Side,
    ours: KeyPair,
    /// Our key for this connection.
    fresh: SecretKey,
    /// Theirs, once they have said it.
    their_fresh: Option<crypto_box::PublicKey>,
    cookie: Zeroizing<[u8; COOKIE_BYTES]>,
    /// What both fresh keys make.
    session: Option<SalsaBox>,
    sent: u64,
    seen: u64,
}

impl std::fmt::Debug for Curve {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Curve").field("side", &self.side).finish_non_exhaustive()
    }
}

impl Curve {
    /// The end that dialed the owner of `server`.
    pub(super) fn client(ours: KeyPair, server: PublicKey) -> Result<Self> {
        Self::new(Side::Client(server), ours)
    }

    /// The end that listens.
    pub(super) fn server(ours: KeyPair) -> Result<Self> {
        Self::new(Side::Server, ours)
    }

    fn new(side: Side, ours: KeyPair) -> Result<Self> {
        let fresh = Zeroizing::new(random::<KEY_BYTES>()?);
        Ok(Self {
            side,
            ours,
            fresh: SecretKey::from(*fresh),
            their_fresh: None,
            cookie: Zeroizing::new(random()?),
            session: None,
            sent: 0,
            seen: 0,
        })
    }

    // ---- the client's steps ----------------------------------------------------------------

    /// The first command.
    pub(super) fn hello(&mut self, output: &mut BytesMut) -> Result<()> {
        let Side::Client(server) = self.side else { return Err(Broken) };
        let number = self.next_number();
        output.put_slice(HELLO);
        output.put_slice(&[1, 0]);
        output.put_bytes(0, PADDING_BYTES);
        output.put_slice(self.fresh.public_key().as_bytes());
        output.put_u64(number);
        let to_server = SalsaBox::new(&boxed(&server), &self.fresh);
        seal(&to_server, &short(b"CurveZMQHELLO---", number), &[0; 64], output)
    }

    /// Answers the WELCOME; `metadata` says who we are.
    pub(super) fn initiate(
        &mut self,
        welcome: &[u8],
        metadata: &[u8],
        output: &mut BytesMut,
    ) -> Result<()> {
        let Side::Client(server) = self.side else { return Err(Broken) };
        let mut input = welcome.strip_prefix(WELCOME).ok_or(Broken)?;
        let nonce: [u8; LONG_NONCE_BYTES] = take(&mut input)?;
        let from_server = SalsaBox::new(&boxed(&server), &self.fresh);
        let opened = open(&from_server, &long(b"WELCOME-", &nonce), input)?;
        let mut opened = &opened[..];
        let their_fresh = crypto_box::PublicKey::from(take::<KEY_BYTES>(&mut opened)?);
        let cookie: [u8; COOKIE_BYTES] = take(&mut opened)?;
        if !opened.is_empty() {
            return Err(Broken);
        }
        let vouch_nonce = random()?;
        let mut inside = BytesMut::new();
        inside.put_slice(self.ours.public().as_bytes());
        inside.put_slice(&vouch_nonce);
        let vouched = [&self.fresh.public_key().as_bytes()[..], server.as_bytes()].concat();
        let vouch = SalsaBox::new(&their_fresh, self.ours.secret());
        seal(&vouch, &long(b"VOUCH---", &vouch_nonce), &vouched, &mut inside)?;
        inside.put_slice(metadata);
        let session = SalsaBox::new(&their_fresh, &self.fresh);
        let number = self.next_number();
        output.put_slice(INITIATE);
        output.put_slice(&cookie);
        output.put_u64(number);
        seal(&session, &short(b"CurveZMQINITIATE", number), &inside, output)?;
        self.session = Some(session);
        Ok(())
    }

    /// Takes the READY; returns what the server says of itself.
    pub(super) fn finish(&mut self, ready: &[u8]) -> Result<Vec<u8>> {
        let mut input = ready.strip_prefix(READY).ok_or(Broken)?;
        let number = self.take_number(&mut input)?;
        let session = self.session.as_ref().ok_or(Broken)?;
        open(session, &short(b"CurveZMQREADY---", number), input)
    }

    // ---- the server's steps ----------------------------------------------------------------

    /// Answers the HELLO.
    pub(super) fn welcome(&mut self, hello: &[u8], output: &mut BytesMut) -> Result<()> {
        if hello.len() != HELLO_BYTES || self.side != Side::Server || self.their_fresh.is_some() {
            return Err(Broken);
        }
        let input = hello.strip_prefix(HELLO).ok_or(Broken)?;
        let mut input = input.strip_prefix(&[1, 0]).ok_or(Broken)?;
        input.advance(PADDING_BYTES);
        let their_fresh = crypto_box::PublicKey::from(take::<KEY_BYTES>(&mut input)?);
        let number = self.take_number(&mut input)?;
        let with_client = SalsaBox::new(&their_fresh, self.ours.secret());
        let opened = open(&with_client, &short(b"CurveZMQHELLO---", number), input)?;
        if opened != [0; 64] {
            return Err(Broken);
        }
        let nonce = random()?;
        output.put_slice(WELCOME);
        output.put_slice(&nonce);
        let said = [&self.fresh.public_key().as_bytes()[..], &self.cookie[..]].concat();
        seal(&with_client, &long(b"WELCOME-", &nonce), &said, output)?;
        self.their_fresh = Some(their_fresh);
        Ok(())
    }

    /// Takes the INITIATE; returns the key that the client has proved to have, and what it says of
    /// itself.
    pub(super) fn prove(&mut self, initiate: &[u8]) -> Result<(PublicKey, Vec<u8>)> {
        let their_fresh = self.their_fresh.clone().ok_or(Broken)?;
        let input = initiate.strip_prefix(INITIATE).ok_or(Broken)?;
        let mut input = input.strip_prefix(&self.cookie[..]).ok_or(Broken)?;
        let number = self.take_number(&mut input)?;
        let session = SalsaBox::new(&their_fresh, &self.fresh);
        let inside = open(&session, &short(b"CurveZMQINITIATE", number), input)?;
        let mut inside = &inside[..];
        let client = PublicKey::from_bytes(&take::<KEY_BYTES>(&mut inside)?).map_err(|_| Broken)?;
        let vouch_nonce: [u8; LONG_NONCE_BYTES] = take(&mut inside)?;
        let vouch: [u8; VOUCH_BYTES] = take(&mut inside)?;
        let with_client = SalsaBox::new(&boxed(&client), &self.fresh);
        let vouched = open(&with_client, &long(b"VOUCH---", &vouch_nonce), &vouch)?;
        let expected = [&their_fresh.as_bytes()[..], self.ours.public().as_bytes()].concat();
        if vouched != expected {
            return Err(Broken);
        }
        self.session = Some(session);
        Ok((client, inside.to_vec()))
    }

    /// The last command of the handshake; `metadata` says who we are.
    pub(super) fn ready(&mut self, metadata: &[u8], output: &mut BytesMut) -> Result<()> {
        let number = self.next_number();
        let session = self.session.as_ref().ok_or(Broken)?;
        output.put_slice(READY);
        output.put_u64(number);
        seal(session, &short(b"CurveZMQREADY---", number), metadata, output)
    }

    // ---- both ------------------------------------------------------------------------------

    /// Bytes that `seal` makes of so many.
    pub(super) const fn sealed_bytes(bytes: usize) -> usize {
        bytes + MESSAGE_OVERHEAD
    }

    /// Puts a message with its flags into a box.
    pub(super) fn seal(&mut self, flags: u8, parts: &[&[u8]], output: &mut BytesMut) -> Result<()> {
        let number = self.next_number();
        let prefix = match self.side {
            Side::Client(_) => b"CurveZMQMESSAGEC",
            Side::Server => b"CurveZMQMESSAGES",
        };
        let session = self.session.as_ref().ok_or(Broken)?;
        output.put_slice(MESSAGE);
        output.put_u64(number);
        let tag_at = output.len();
        output.put_bytes(0, TAG_BYTES);
        output.put_u8(flags);
        parts.iter().for_each(|part| output.put_slice(part));
        seal_in_place(session, &short(prefix, number), tag_at, output)
    }

    /// Takes a message and its flags out of a box.
    pub(super) fn open(&mut self, mut frame: BytesMut) -> Result<(u8, Bytes)> {
        if frame.len() < MESSAGE_OVERHEAD || !frame.starts_with(MESSAGE) {
            return Err(Broken);
        }
        frame.advance(MESSAGE.len());
        let number = self.check_number(frame.get_u64())?;
        let prefix = match self.side {
            Side::Client(_) => b"CurveZMQMESSAGES",
            Side::Server => b"CurveZMQMESSAGEC",
        };
        let session = self.session.as_ref().ok_or(Broken)?;
        let tag = frame.split_to(TAG_BYTES);
        let nonce = short(prefix, number);
        let tag = GenericArray::from_slice(&tag);
        let opened = session.decrypt_in_place_detached(&nonce.into(), b"", &mut frame, tag);
        opened.map_err(|_| Broken)?;
        let flags = frame.get_u8();
        Ok((flags, frame.freeze()))
    }

    fn next_number(&mut self) -> u64 {
        self.sent += 1;
        self.sent
    }

    fn take_number(&mut self, input: &mut &[u8]) -> Result<u64> {
        let number = input.try_get_u64().map_err(|_| Broken)?;
        self.check_number(number)
    }

    fn check_number(&mut self, number: u64) -> Result<u64> {
        if number <= self.seen {
            return Err(Broken);
        }
        self.seen = number;
        Ok(number)
    }
}

type Nonce = [u8; 24];

fn short(prefix: &[u8; 16], number: u64) -> Nonce {
    let mut nonce = [0; 24];
    nonce[..16].copy_from_slice(prefix);
    nonce[16..].copy_from_slice(&number.to_be_bytes());
    nonce
}

fn long(prefix: &[u8; 8], rest: &[u8; LONG_NONCE_BYTES]) -> Nonce {
    let mut nonce = [0; 24];
    nonce[..8].copy_from_slice(prefix);
    nonce[8..].copy_from_slice(rest);
    nonce
}

fn seal(with: &SalsaBox, nonce: &Nonce, content: &[u8], output: &mut BytesMut) -> Result<()> {
    let tag_at = output.len();
    output.put_bytes(0, TAG_BYTES);
    output.put_slice(content);
    seal_in_place(with, nonce, tag_at, output)
}

/// Encrypts what follows the place of the tag, and puts the tag there.
fn seal_in_place(
    with: &SalsaBox,
    nonce: &Nonce,
    tag_at: usize,
    output: &mut BytesMut,
) -> Result<()> {
    let (before, content) = output.split_at_mut(tag_at + TAG_BYTES);
    let tag = with.encrypt_in_place_detached(&(*nonce).into(), b"", content);
    before[tag_at..].copy_from_slice(&tag.map_err(|_| Broken)?);
    Ok(())
}

fn open(with: &SalsaBox, nonce: &Nonce, content: &[u8]) -> Result<Vec<u8>> {
    let (tag, content) = content.split_at_checked(TAG_BYTES).ok_or(Broken)?;
    let (tag, mut content) = (GenericArray::from_slice(tag), content.to_vec());
    let opened = with.decrypt_in_place_detached(&(*nonce).into(), b"", &mut content, tag);
    opened.map(|()| content).map_err(|_| Broken)
}

fn take<const N: usize>(from: &mut &[u8]) -> Result<[u8; N]> {
    let (taken, rest) = from.split_first_chunk().ok_or(Broken)?;
    *from = rest;
    Ok(*taken)
}

fn boxed(key: &PublicKey) -> crypto_box::PublicKey {
    crypto_box::PublicKey::from(*key.as_bytes())
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| Broken)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(seed: u8) -> KeyPair {
        KeyPair::from_secret(&[seed; KEY_BYTES]).unwrap()
    }

    /// Both ends after a handshake of these keys.
    fn shaken() -> (Curve, Curve) {
        let mut client = Curve::client(pair(1), pair(2).public()).unwrap();
        let mut server = Curve::server(pair(2)).unwrap();
        let [mut hello, mut welcome, mut initiate, mut ready] = [(); 4].map(|()| BytesMut::new());
        client.hello(&mut hello).unwrap();
        server.welcome(&hello, &mut welcome).unwrap();
        client.initiate(&welcome, b"client", &mut initiate).unwrap();
        let (key, said) = server.prove(&initiate).unwrap();
        assert_eq!((key, &said[..]), (pair(1).public(), &b"client"[..]));
        server.ready(b"server", &mut ready).unwrap();
        assert_eq!(client.finish(&ready).unwrap(), b"server");
        (client, server)
    }

    #[test]
    fn messages_come_out_as_they_went_in() {
        let (mut client, mut server) = shaken();
        for size in [0, 1, 255, 5_000] {
            let content = vec![7; size];
            let mut frame = BytesMut::new();
            client.seal(1, &[&content], &mut frame).unwrap();
            assert_eq!(frame.len(), Curve::sealed_bytes(size));
            assert_eq!(server.open(frame).unwrap(), (1, Bytes::from(content.clone())));
            let mut frame = BytesMut::new();
            server.seal(0, &[&content[..size / 2], &content[size / 2..]], &mut frame).unwrap();
            assert_eq!(client.open(frame).unwrap(), (0, Bytes::from(content)));
        }
    }

    #[test]
    fn changed_repeated_and_reflected_messages_are_refused() {
        let (mut client, mut server) = shaken();
        let mut frame = BytesMut::new();
        client.seal(0, &[b"hello"], &mut frame).unwrap();
        for at in 0..frame.len() {
            let mut changed = frame.clone();
            changed[at] ^= 1;
            let seen = server.seen;
            assert_eq!(server.open(changed), Err(Broken), "byte {at}");
            server.seen = seen;
        }
        assert_eq!(client.open(frame.clone()), Err(Broken), "our own");
        assert!(server.open(frame.clone()).is_ok());
        assert_eq!(server.open(frame), Err(Broken), "twice");
    }

    /// Whatever is wrong with a handshake, at any byte, it does not come to an end.
    #[test]
    fn handshakes_that_are_changed_fail() {
        let mut client = Curve::client(pair(1), pair(2).public()).unwrap();
        let mut hello = BytesMut::new();
        client.hello(&mut hello).unwrap();
        let padding = 8..8 + PADDING_BYTES;
        for at in (0..hello.len()).filter(|at| !padding.contains(at)) {
            let mut changed = hello.clone();
            changed[at] ^= 1;
            let mut server = Curve::server(pair(2)).unwrap();
            assert_eq!(server.welcome(&changed, &mut BytesMut::new()), Err(Broken), "byte {at}");
        }
        let mut stranger = Curve::server(pair(3)).unwrap();
        assert_eq!(stranger.welcome(&hello, &mut BytesMut::new()), Err(Broken), "another's key");
        let mut server = Curve::server(pair(2)).unwrap();
        let mut welcome = BytesMut::new();
        server.welcome(&hello, &mut welcome).unwrap();
        for at in 0..welcome.len() {
            let mut changed = welcome.clone();
            changed[at] ^= 1;
            let outcome = client.initiate(&changed, b"", &mut BytesMut::new());
            assert_eq!(outcome, Err(Broken), "byte {at}");
        }
        let mut initiate = BytesMut::new();
        client.initiate(&welcome, b"client", &mut initiate).unwrap();
        for at in 0..initiate.len() {
            let mut changed = initiate.clone();
            changed[at] ^= 1;
            server.seen = 1;
            assert_eq!(server.prove(&changed), Err(Broken), "byte {at}");
        }
        server.seen = 1;
        assert!(server.prove(&initiate).is_ok());
    }
}
