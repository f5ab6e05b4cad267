//! Frames: what travels as one ZeroMQ message, one envelope or several small ones.
//!
//! A message of its own costs libzmq more than everything that we do with a small envelope, so
//! those that wait for the same peer at the same time travel together. Nothing ever waits to be
//! joined by others. Envelopes tell their own length, so a shared frame is simply one after the
//! other.
//!
//! Pure.
//! Invariant: the envelopes of a frame are taken out in the order in which they were put in.

use bytes::Bytes;

use super::envelope::Envelope;

/// The most bytes of a frame with more than one envelope: little enough that a payload which
/// somebody keeps does not keep much else alive, since it is a slice of its frame.
pub const SHARED_BYTES_MAX: usize = 8 * 1024;

/// Whether an envelope of `bytes` may follow `present` bytes in one frame.
pub const fn may_share(present: usize, bytes: usize) -> bool {
    present + bytes <= SHARED_BYTES_MAX
}

/// Takes the envelopes of a received frame apart, without looking at more of them than their
/// lengths.
#[derive(Debug)]
pub struct Envelopes {
    rest: Option<Bytes>,
    shared: bool,
}

impl Envelopes {
    /// The envelopes of `frame`. One that is too large to be shared is taken for one envelope, and
    /// so is one that is empty.
    pub fn new(frame: Bytes) -> Self {
        Self { shared: frame.len() <= SHARED_BYTES_MAX, rest: Some(frame) }
    }

    /// Drops what is left: after an envelope that breaks a rule, no length can be believed.
    pub fn stop(&mut self) {
        self.rest = None;
    }
}

impl Iterator for Envelopes {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut rest = self.rest.take()?;
        match Envelope::length(&rest) {
            Some(bytes) if self.shared && bytes < rest.len() => {
                let envelope = rest.split_to(bytes);
                self.rest = Some(rest);
                Some(envelope)
            }
            // The last one, or something that is none: whoever decodes it will see.
            Some(_) | None => Some(rest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Incarnation, RequestId};
    use crate::protocol::envelope::{Format, HEADER_BYTES, Kind, Outgoing};

    fn envelope(payload_bytes: usize) -> Bytes {
        let outgoing = Outgoing {
            kind: Kind::Tick,
            format: Format::Raw,
            code: 0,
            sequence: 1,
            request: RequestId::NONE,
            from: Incarnation(1),
            to: Incarnation(2),
            time_left: None,
            sent_ms: 0,
            subject: "a.b",
            payload: &vec![7; payload_bytes],
        };
        outgoing.encode()
    }

    fn joined(envelopes: &[Bytes]) -> Bytes {
        envelopes.concat().into()
    }

    /// What was put in one after the other comes out the same way.
    #[test]
    fn envelopes_come_out_as_they_went_in() {
        let envelopes = [envelope(0), envelope(100), envelope(1)];
        let out: Vec<Bytes> = Envelopes::new(joined(&envelopes)).collect();
        assert_eq!(out, envelopes);
        assert_eq!(Envelopes::new(envelope(9)).collect::<Vec<_>>(), [envelope(9)]);
    }

    /// Garbage behind an envelope is not hidden from whoever decodes.
    #[test]
    fn rest_that_is_no_envelope_comes_out_as_it_is() {
        let frame = joined(&[envelope(3), Bytes::from_static(b"garbage")]);
        let out: Vec<Bytes> = Envelopes::new(frame).collect();
        assert_eq!(out, [envelope(3), Bytes::from_static(b"garbage")]);
        let cut = envelope(3).slice(..HEADER_BYTES - 1);
        assert_eq!(Envelopes::new(cut.clone()).collect::<Vec<_>>(), [cut]);
        assert_eq!(Envelopes::new(Bytes::new()).collect::<Vec<_>>(), [Bytes::new()]);
    }

    /// A stranger must not make us look at a hundred thousand envelopes in one go.
    #[test]
    fn frame_that_is_too_large_to_be_shared_is_one_envelope() {
        let count = SHARED_BYTES_MAX / envelope(0).len() + 1;
        let frame = joined(&vec![envelope(0); count]);
        assert_eq!(Envelopes::new(frame.clone()).collect::<Vec<_>>(), [frame]);
    }

    /// The end of an envelope that lies about its length cannot be found.
    #[test]
    fn nothing_comes_after_a_stop() {
        let mut envelopes = Envelopes::new(joined(&[envelope(1), envelope(2)]));
        envelopes.next();
        envelopes.stop();
        assert_eq!(envelopes.next(), None);
    }
}
