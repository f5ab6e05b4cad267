//! Tests of `system`.

use super::*;

fn greeting() -> Greeting {
    Greeting {
        version: PROTOCOL_VERSION,
        cluster: "demo".into(),
        node: NodeId::new("alpha").unwrap(),
        incarnation: Incarnation(1),
        address: Some("tcp://127.0.0.1:7001".parse().unwrap()),
        labels: Labels::from([("role".into(), "math".into())]),
        revision: 3,
    }
}

fn known_peer() -> KnownPeer {
    KnownPeer {
        node: NodeId::new(&"n".repeat(64)).unwrap(),
        incarnation: Incarnation(u64::MAX),
        address: Address::tcp("h".repeat(253), u16::MAX),
    }
}

fn every_message() -> Vec<System> {
    let labels = Labels::from([("zone".into(), "b".into())]);
    vec![
        System::Goodbye,
        System::Hello(greeting()),
        System::HelloAgain,
        System::Labels(LabelsUpdate { revision: 1, labels }),
        System::Peers(KnownPeers { peers: vec![known_peer()] }),
        System::Ping(Ping { number: 1, revision: 0 }),
        System::Pong(Ping { number: u64::MAX, revision: 0 }),
        System::Refuse(Refusal { reason: RefuseReason::Capacity }),
        System::Welcome(Greeting { address: None, ..greeting() }),
    ]
}

fn decoded(message: &System) -> Result<System, SystemError> {
    let (kind, payload) = message.encode();
    System::decode(kind, &payload)
}

/// Each message survives the wire, and only whole: cut short or extended it is refused.
#[test]
fn messages_round_trip_and_only_whole() {
    for message in every_message() {
        let (kind, payload) = message.encode();
        assert_eq!(System::decode(kind, &payload).unwrap(), message);
        for end in 0..payload.len() {
            assert!(System::decode(kind, &payload[..end]).is_err(), "{message:?} cut at {end}");
        }
        let longer = [&payload[..], &[0]].concat();
        assert!(System::decode(kind, &longer).is_err(), "{message:?} and one byte");
    }
}

/// Every kind is either a system message or an error, never a panic.
#[test]
fn kinds_of_the_application_are_refused() {
    let is_not_system = |kind| matches!(System::decode(kind, &[]), Err(SystemError::NotSystem(_)));
    for kind in Kind::ALL {
        assert_eq!(is_not_system(*kind), !kind.is_system(), "{kind:?}");
    }
}

/// Both sides of every limit.
#[test]
fn limits_hold_on_both_sides() {
    let with_labels = |labels| System::Hello(Greeting { labels, ..greeting() });
    let labels =
        |count: usize| with_labels((0..count).map(|n| (n.to_string(), String::new())).collect());
    assert!(decoded(&labels(LABELS_MAX)).is_ok());
    assert!(matches!(decoded(&labels(LABELS_MAX + 1)), Err(SystemError::Labels { count: 65 })));

    let text = |bytes| "x".repeat(bytes);
    let (most, over) = (text(LABEL_BYTES_MAX), text(LABEL_BYTES_MAX + 1));
    assert!(decoded(&with_labels(Labels::from([(most.clone(), most.clone())]))).is_ok());
    for label in [(over.clone(), most.clone()), (most, over)] {
        let refused = decoded(&with_labels(Labels::from([label])));
        assert!(matches!(refused, Err(SystemError::LabelBytes { bytes: 257 })));
    }

    let cluster = |bytes| System::Welcome(Greeting { cluster: text(bytes), ..greeting() });
    assert!(decoded(&cluster(CLUSTER_NAME_BYTES_MAX)).is_ok());
    let refused = decoded(&cluster(CLUSTER_NAME_BYTES_MAX + 1));
    assert!(matches!(refused, Err(SystemError::ClusterName { bytes: 65 })));
}

/// The largest message that the other limits allow must fit the limit on bytes.
#[test]
fn largest_gossip_fits() {
    let peers = |count| System::Peers(KnownPeers { peers: vec![known_peer(); count] });
    assert!(decoded(&peers(KNOWN_PEERS_MAX)).is_ok());
    assert!(matches!(
        decoded(&peers(KNOWN_PEERS_MAX + 1)),
        Err(SystemError::Peers { count: 1_025 })
    ));
    let payload = vec![0; SYSTEM_PAYLOAD_BYTES_MAX + 1];
    assert!(matches!(System::decode(Kind::Peers, &payload), Err(SystemError::TooLarge { .. })));
}

/// An incarnation of zero would match every envelope that is not meant for anybody.
#[test]
fn incarnation_zero_is_refused() {
    let zero = Incarnation::UNKNOWN;
    let hello = System::Hello(Greeting { incarnation: zero, ..greeting() });
    let peers = vec![KnownPeer { incarnation: zero, ..known_peer() }];
    for message in [hello, System::Peers(KnownPeers { peers })] {
        assert!(matches!(decoded(&message), Err(SystemError::Incarnation)));
    }
}
