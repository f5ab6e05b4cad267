//! Tests of `envelope`.

use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { payload_bytes_max: 4096 };

/// Writes the checksum that makes a forged frame pass the first test.
fn seal(mut frame: Vec<u8>) -> Bytes {
    let sum = checksum(&frame).to_le_bytes();
    frame[CHECKSUM_AT..CHECKSUM_AT + CHECKSUM_BYTES].copy_from_slice(&sum);
    Bytes::from(frame)
}

fn request() -> Envelope {
    Envelope {
        kind: Kind::Request,
        format: Format::MessagePack,
        code: 0,
        sequence: 7,
        request: RequestId(0x0102_0304_0506_0708),
        from: Incarnation(0xa1),
        to: Incarnation(0xb2),
        time_left: Some(Duration::from_secs(5)),
        sent_ms: 9,
        subject: Subject::new("math.sum").unwrap(),
        payload: Bytes::from_static(&[0x93, 1, 2, 3]),
    }
}

/// A request with one byte of it changed and the checksum made right again.
fn forged(at: usize, byte: u8) -> Result<Envelope, EnvelopeError> {
    let mut frame = request().encode().to_vec();
    frame[at] = byte;
    Envelope::decode(&seal(frame), &LIMITS)
}

prop_compose! {
    fn subjects()(text in r"[!-)+\-/-=?-~]{1,9}(\.[!-)+\-/-=?-~]{1,9}){0,9}") -> String {
        text.split('.').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(".")
    }
}

prop_compose! {
    fn envelopes()(
        kind in prop::sample::select(Kind::ALL),
        raw: bool,
        code: u16,
        sequence: u32,
        request in 1..=u64::MAX,
        from: u64,
        to: u64,
        time_left in prop::option::of(1..=u32::MAX),
        sent_ms: u32,
        subject in subjects().prop_filter("has a word", |subject| !subject.is_empty()),
        payload in prop::collection::vec(any::<u8>(), 0..64),
    ) -> Envelope {
        Envelope {
            kind,
            format: if raw && !kind.is_system() { Format::Raw } else { Format::MessagePack },
            code: if kind == Kind::Error { code } else { 0 },
            sequence,
            request: if kind.has_request() { RequestId(request) } else { RequestId::NONE },
            from: Incarnation(from),
            to: Incarnation(to),
            time_left: time_left
                .filter(|_| kind.is_addressed())
                .map(|ms| Duration::from_millis(ms.into())),
            sent_ms,
            subject: match kind.is_addressed() {
                true => Subject::new(&subject).unwrap(),
                false => Subject::default(),
            },
            payload: payload.into(),
        }
    }
}

proptest! {
    /// Whatever is sent arrives as it was, in a frame of the size that was announced.
    #[test]
    fn envelopes_round_trip(envelope in envelopes()) {
        let frame = envelope.encode();
        prop_assert_eq!(frame.len(), envelope.as_outgoing().encoded_len());
        prop_assert_eq!(Envelope::decode(&frame, &LIMITS), Ok(envelope));
    }

    /// The input is whatever a stranger sends.
    #[test]
    fn any_bytes_are_refused_without_panic(bytes: Vec<u8>) {
        prop_assert!(Envelope::decode(&bytes.into(), &LIMITS).is_err());
    }

    /// Random bytes hardly get past the magic, so this gives them magic, version, lengths and
    /// checksum. What is accepted must be the only encoding of what it means.
    #[test]
    fn well_framed_bytes_are_refused_or_are_canonical(
        mut header: [u8; HEADER_BYTES],
        kind in 0..24_u8,
        flags in 0..3_u8,
        zeroes: [bool; 4],
        subject in prop_oneof![subjects(), "\\PC{0,20}"],
        payload in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        header[..3].copy_from_slice(b"ZM\x01");
        (header[3], header[4]) = (kind, flags);
        for (zero, range) in zeroes.into_iter().zip([6..8, 16..24, 40..44, 32..40]) {
            if zero {
                header[range].fill(0);
            }
        }
        header[5] = u8::try_from(subject.len()).unwrap();
        header[44..48].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        let frame = seal([&header[..], subject.as_bytes(), &payload].concat());
        if let Ok(envelope) = Envelope::decode(&frame, &LIMITS) {
            prop_assert_eq!(envelope.encode(), frame);
        }
    }

    /// A frame that was cut anywhere is refused, and one with a byte too many as well.
    #[test]
    fn truncations_and_extensions_are_refused(envelope in envelopes()) {
        let frame = envelope.encode();
        for end in 0..frame.len() {
            prop_assert!(Envelope::decode(&frame.slice(..end), &LIMITS).is_err());
        }
        let longer = Bytes::from([&frame[..], &[0]].concat());
        let refused = matches!(
            Envelope::decode(&longer, &LIMITS),
            Err(EnvelopeError::Length { .. })
        );
        prop_assert!(refused);
    }

    /// Every bit is covered by the checksum, the checksum's own bits included.
    #[test]
    fn any_flipped_bit_is_refused(envelope in envelopes()) {
        let frame = envelope.encode();
        for bit in 0..frame.len() * 8 {
            let mut flipped = frame.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Envelope::decode(&flipped.into(), &LIMITS).is_err(), "bit {}", bit);
        }
    }
}

/// Receiving must cost the frame and no more: subject and payload lie inside it.
#[test]
fn decoding_copies_neither_subject_nor_payload() {
    let frame = request().encode();
    let inside = frame.as_ptr_range();
    let envelope = Envelope::decode(&frame, &LIMITS).unwrap();
    assert!(inside.contains(&envelope.subject.as_str().as_ptr()));
    assert!(inside.contains(&envelope.payload.as_ptr()));
}

/// Each rule of the header has its own error, so that a counter says what is wrong out there.
#[test]
fn every_broken_rule_has_its_own_error() {
    let field = |kind, field| Err(EnvelopeError::Field { kind, field });
    assert_eq!(forged(0, b'z'), Err(EnvelopeError::NotAnEnvelope));
    assert_eq!(forged(2, 2), Err(EnvelopeError::Version(2)));
    assert_eq!(forged(2, 255), Err(EnvelopeError::Version(255)));
    for unknown in [0, 10, 15, 20, 255] {
        assert_eq!(forged(3, unknown), Err(EnvelopeError::Kind(unknown)));
    }
    for unknown in [2, 3, 0x80, 0xff] {
        assert_eq!(forged(4, unknown), Err(EnvelopeError::Flags(unknown)));
    }
    assert_eq!(forged(6, 1), field(Kind::Request, "code"));
    assert_eq!(forged(3, Kind::Tick.number()), field(Kind::Tick, "request id"));
    assert_eq!(forged(3, Kind::Ping.number()), field(Kind::Ping, "request id"));
    assert_eq!(forged(3, Kind::Reply.number()), field(Kind::Reply, "time left"));
    assert_eq!(forged(5, 9), Err(EnvelopeError::Length { expected: 65, got: 64 }));
    assert_eq!(forged(44, 3), Err(EnvelopeError::Length { expected: 63, got: 64 }));
    assert_eq!(
        forged(47, 1),
        Err(EnvelopeError::PayloadTooLarge { bytes: (1 << 24) + 4, max: 4096 })
    );
    let character = InvalidSubject::Character { byte: b' ' };
    assert_eq!(forged(54, b' '), Err(EnvelopeError::Subject(character)));
    let mut damaged = request().encode().to_vec();
    damaged[59] ^= 1;
    assert_eq!(Envelope::decode(&damaged.into(), &LIMITS), Err(EnvelopeError::Checksum));
    let short = request().encode().slice(..47);
    assert_eq!(Envelope::decode(&short, &LIMITS), Err(EnvelopeError::Truncated { bytes: 47 }));
}

/// The longest length that a header can declare must not overflow anything on the way to refusal.
#[test]
fn largest_declared_lengths_are_refused() {
    let mut frame = request().encode().to_vec();
    frame[5] = 255;
    frame[44..48].fill(255);
    let frame = seal(frame);
    let all = Limits { payload_bytes_max: usize::MAX };
    let expected = 52 + 255 + u64::from(u32::MAX);
    assert_eq!(Envelope::decode(&frame, &all), Err(EnvelopeError::Length { expected, got: 64 }));
    let none = Limits { payload_bytes_max: 0 };
    let error = EnvelopeError::PayloadTooLarge { bytes: u32::MAX, max: 0 };
    assert_eq!(Envelope::decode(&frame, &none), Err(error));
}

/// Both sides of the payload limit.
#[test]
fn payload_limit_is_inclusive() {
    let envelope = |bytes| Envelope { payload: vec![0; bytes].into(), ..request() };
    assert!(Envelope::decode(&envelope(4096).encode(), &LIMITS).is_ok());
    assert_eq!(
        Envelope::decode(&envelope(4097).encode(), &LIMITS),
        Err(EnvelopeError::PayloadTooLarge { bytes: 4097, max: 4096 })
    );
}

/// Less than a millisecond left is not "no limit", and a century is not a second.
#[test]
fn time_left_rounds_up_and_saturates() {
    for (sent, received_ms) in [
        (Duration::ZERO, 1),
        (Duration::from_nanos(1), 1),
        (Duration::from_millis(1), 1),
        (Duration::from_micros(1_001), 2),
        (Duration::from_secs(5), 5_000),
        (Duration::MAX, u64::from(u32::MAX)),
    ] {
        let frame = Envelope { time_left: Some(sent), ..request() }.encode();
        let envelope = Envelope::decode(&frame, &LIMITS).unwrap();
        assert_eq!(envelope.time_left, Some(Duration::from_millis(received_ms)), "{sent:?}");
    }
}

/// Both sides of every rule about subjects.
#[test]
fn subjects_are_dotted_words() {
    for good in ["a", "a.b", "_zmesh.log", "math.sum-2", "a/b:c", &"a".repeat(255)] {
        assert_eq!(Subject::new(good).unwrap().as_str(), good);
    }
    for bad in ["", ".", "a.", ".a", "a..b", "a b", "a.*", "a.>", "a\0", "é", &"a".repeat(256)] {
        assert!(Subject::new(bad).is_err(), "{bad:?}");
    }
    assert!(Subject::new("_a").unwrap().is_system());
    assert!(!Subject::new("a._b").unwrap().is_system());
    assert!(!Subject::default().is_system());
}

/// Numbers are a promise to other languages.
#[test]
fn kinds_round_trip_through_their_numbers() {
    let known: Vec<_> = (0..=255).filter_map(Kind::from_number).collect();
    assert_eq!(known, Kind::ALL);
    assert!(Kind::ALL.iter().all(|kind| Kind::from_number(kind.number()) == Some(*kind)));
    assert_eq!(Kind::ALL.iter().filter(|kind| kind.is_system()).count(), 9);
}
