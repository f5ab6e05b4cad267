//! What every transport promises.

use std::time::Instant;

use super::*;

/// The layer above begins its handshake on `Ready`, so nothing may come earlier.
pub(super) async fn ready_comes_before_the_first_message(world: &impl World) {
    let (mut listener, mut dialer, _, id) = pair(world, Options::default()).await;
    dialer.send(UP, &Bytes::from_static(b"question")).unwrap();
    let (route, message) = next_message(&mut listener).await;
    assert_eq!((route, &message[..]), (Route::Downstream(id), &b"question"[..]));
    listener.send(route, &Bytes::from_static(b"answer")).unwrap();
    let answer = Bytes::from_static(b"answer");
    assert_eq!(
        next(&mut dialer).await,
        Event::Message { route: UP, sender: None, message: answer }
    );
    assert_eq!((dialer.counters().sent, dialer.counters().received), (1, 1));
    assert_eq!((listener.counters().sent, listener.counters().received), (1, 1));
}

/// More than fit in a queue, both ways.
pub(super) async fn messages_stay_in_order(world: &impl World) {
    let (mut listener, mut dialer, _, id) = pair(world, Options::default()).await;
    let messages: Vec<Bytes> =
        (0..3_000_u32).map(|number| Bytes::copy_from_slice(&number.to_le_bytes())).collect();
    let received = transfer(&mut dialer, UP, &mut listener, &messages).await;
    assert!(received == messages, "up");
    let received = transfer(&mut listener, Route::Downstream(id), &mut dialer, &messages).await;
    assert!(received == messages, "down");
}

/// Both sides of the size from which on a body is not copied.
pub(super) async fn messages_are_whole_at_every_size(world: &impl World) {
    let (mut listener, mut dialer, _, id) = pair(world, Options::default()).await;
    let messages: Vec<Bytes> = [0, 1, 4_095, 4_096, 1 << 20]
        .map(|bytes| (0..bytes).map(|i| (i % 251) as u8).collect::<Vec<u8>>().into())
        .into();
    let received = transfer(&mut dialer, UP, &mut listener, &messages).await;
    assert!(received == messages, "up");
    let received = transfer(&mut listener, Route::Downstream(id), &mut dialer, &messages).await;
    assert!(received == messages, "down");
}

/// The sender is told by its own limit; the receiver's limit holds whatever the sender's is.
pub(super) async fn oversized_messages_never_arrive(world: &impl World) {
    let small = Options { message_bytes_max: 1_000, ..Options::default() };
    let mut listener = world.transport(small);
    let mut dialer = world.transport(Options { message_bytes_max: 9_000, ..small });
    let address = listener.bind(&world.address()).unwrap();
    dialer.dial(LINK, &address, routing_id()).unwrap();
    until(&mut dialer, Event::Ready { link: LINK }).await;

    let (bytes, max) = (9_001, 9_000);
    assert_eq!(
        dialer.send(UP, &Bytes::from(vec![0; bytes])),
        Err(SendError::TooLarge { bytes, max })
    );
    dialer.send(UP, &Bytes::from(vec![0; 1_001])).unwrap();
    // The connection may be closed by that. Whatever arrives first must be what came later.
    let limit = Bytes::from(vec![1; 1_000]);
    let _ = dialer.send(UP, &limit);
    let message = loop {
        let event = poll_fn(|cx| {
            if let Poll::Ready(event) = listener.poll_event(cx) {
                return Poll::Ready(event);
            }
            dialer.poll_event(cx)
        });
        match tokio::time::timeout(DEADLINE, event).await.unwrap() {
            Event::Message { message, .. } => break message,
            Event::Ready { .. } => dialer.send(UP, &limit).unwrap(),
            Event::Closed { .. } | Event::NotReady { .. } | Event::Writable { .. } => {}
        }
    };
    assert_eq!(message, limit);
}

/// Nothing is kept for a peer that may come.
pub(super) async fn unknown_routes_are_not_connected(world: &impl World) {
    let message = Bytes::from_static(b"a");
    let (mut listener, mut dialer, address, id) = pair(world, Options::default()).await;
    let unknown = Route::Downstream(routing_id());
    assert_eq!(listener.send(unknown, &message), Err(SendError::NotConnected));
    assert_eq!(dialer.send(Route::Upstream(LinkId(9)), &message), Err(SendError::NotConnected));
    assert_eq!(dialer.send(Route::Downstream(id), &message), Err(SendError::NotConnected));

    listener.unbind();
    assert_eq!(listener.send(Route::Downstream(id), &message), Err(SendError::NotConnected));
    until(&mut dialer, Event::NotReady { link: LINK }).await;
    assert_eq!(dialer.send(UP, &message), Err(SendError::NotConnected));
    dialer.dial(LinkId(2), &address, routing_id()).unwrap();
    assert_eq!(dialer.send(Route::Upstream(LinkId(2)), &message), Err(SendError::NotConnected));
}

/// A slow reader costs a bounded amount, and the sender learns when it may go on.
pub(super) async fn full_route_becomes_writable_and_loses_nothing(world: &impl World) {
    let options = Options { queue_messages_max: 8, ..Options::default() };
    let message = |number: usize| {
        let mut bytes = vec![0; 64 * 1024];
        bytes[..8].copy_from_slice(&(number as u64).to_le_bytes());
        Bytes::from(bytes)
    };
    let (mut listener, mut dialer, _, id) = pair(world, options).await;
    dialer.send(UP, &message(0)).unwrap();
    assert_eq!(next_message(&mut listener).await.1, message(0));

    let taken = fill(&mut dialer, UP, message).await;
    assert_eq!(dialer.send(UP, &message(taken)), Err(SendError::Full));
    for number in 0..taken {
        assert_eq!(next_message(&mut listener).await.1, message(number), "up");
    }
    until(&mut dialer, Event::Writable { route: UP }).await;

    let down = Route::Downstream(id);
    let taken = fill(&mut listener, down, message).await;
    assert_eq!(listener.send(down, &message(taken)), Err(SendError::Full));
    for number in 0..taken {
        assert_eq!(next_message(&mut dialer).await.1, message(number), "down");
    }
    until(&mut listener, Event::Writable { route: down }).await;
}

/// What was queued for the old listener must not reach the new one.
pub(super) async fn lost_listener_is_reported_and_found_again(world: &impl World) {
    until_address_is_free(async || lost_listener_is_reported_and_found_again_once(world).await)
        .await;
}

async fn lost_listener_is_reported_and_found_again_once(world: &impl World) -> bool {
    let (listener, mut dialer, address, _) = pair(world, Options::default()).await;
    for _ in 0..50 {
        dialer.send(UP, &Bytes::from_static(b"old")).unwrap();
    }
    drop(listener);
    while let Ok(()) = dialer.send(UP, &Bytes::from_static(b"old")) {
        let event = poll_fn(|cx| Poll::Ready(dialer.poll_event(cx))).await;
        if event == Poll::Ready(Event::NotReady { link: LINK }) {
            break;
        }
        assert!(event.is_pending(), "{event:?}");
        tokio::task::yield_now().await;
    }
    let mut listener = world.transport(Options::default());
    if !bind_again(&mut listener, &address).await {
        return false;
    }
    until(&mut dialer, Event::Ready { link: LINK }).await;
    dialer.send(UP, &Bytes::from_static(b"new")).unwrap();
    assert_eq!(&next_message(&mut listener).await.1[..], b"new");
    true
}

/// A listener that has not noticed the loss of a connection ignores another one of its name.
pub(super) async fn connections_of_a_link_have_different_routing_ids(world: &impl World) {
    until_address_is_free(async || {
        connections_of_a_link_have_different_routing_ids_once(world).await
    })
    .await;
}

async fn connections_of_a_link_have_different_routing_ids_once(world: &impl World) -> bool {
    let (mut listener, mut dialer, address, id) = pair(world, Options::default()).await;
    dialer.send(UP, &Bytes::new()).unwrap();
    assert_eq!(next_message(&mut listener).await.0, Route::Downstream(id));
    listener.unbind();
    until(&mut dialer, Event::NotReady { link: LINK }).await;
    if !bind_again(&mut listener, &address).await {
        return false;
    }
    until(&mut dialer, Event::Ready { link: LINK }).await;
    dialer.send(UP, &Bytes::new()).unwrap();
    let (route, _) = next_message(&mut listener).await;
    assert_ne!(route, Route::Downstream(id));
    assert!((1..100).any(|number| route == Route::Downstream(id.for_connection(number))));
    true
}

/// Nodes start in any order.
pub(super) async fn dialing_before_binding_becomes_ready(world: &impl World) {
    until_address_is_free(async || dialing_before_binding_becomes_ready_once(world).await).await;
}

async fn dialing_before_binding_becomes_ready_once(world: &impl World) -> bool {
    let mut listener = world.transport(Options::default());
    let address = listener.bind(&world.address()).unwrap();
    listener.unbind();
    let mut dialer = world.transport(Options::default());
    dialer.dial(LINK, &address, routing_id()).unwrap();
    assert_eq!(poll_fn(|cx| Poll::Ready(dialer.poll_event(cx))).await, Poll::Pending);
    if !bind_again(&mut listener, &address).await {
        return false;
    }
    assert_eq!(next(&mut dialer).await, Event::Ready { link: LINK });
    true
}

/// The layer above forgets a link when it hangs up, and would not know what an event is about.
pub(super) async fn hang_up_silences_a_link(world: &impl World) {
    let (mut listener, mut dialer, address, id) = pair(world, Options::default()).await;
    dialer.send(UP, &Bytes::new()).unwrap();
    next_message(&mut listener).await;
    for _ in 0..100 {
        listener.send(Route::Downstream(id), &Bytes::from_static(b"for the old link")).unwrap();
    }
    assert_eq!(next_message(&mut dialer).await.0, UP);
    dialer.hang_up(LINK);
    dialer.hang_up(LinkId(77));
    assert_eq!(dialer.send(UP, &Bytes::new()), Err(SendError::NotConnected));

    let (link, second) = (LinkId(2), routing_id());
    dialer.dial(link, &address, second).unwrap();
    assert_eq!(next(&mut dialer).await, Event::Ready { link });
    dialer.send(Route::Upstream(link), &Bytes::from_static(b"hello")).unwrap();
    let (route, _) = next_message(&mut listener).await;
    assert_eq!(route, Route::Downstream(second));
    listener.send(route, &Bytes::from_static(b"welcome")).unwrap();
    let message = Bytes::from_static(b"welcome");
    assert_eq!(
        next(&mut dialer).await,
        Event::Message { route: Route::Upstream(link), sender: None, message }
    );
}

/// A node must stop whatever its peers do.
pub(super) async fn drop_with_unsent_messages_returns_at_once(world: &impl World) {
    let options = Options { queue_messages_max: 8, ..Options::default() };
    let (listener, mut dialer, _, _) = pair(world, options).await;
    fill(&mut dialer, UP, |_| Bytes::from(vec![0; 64 * 1024])).await;
    dialer.dial(LinkId(2), &parse("tcp://127.0.0.1:1"), routing_id()).unwrap();
    #[expect(clippy::disallowed_methods, reason = "it is real time that must not pass")]
    let start = Instant::now();
    drop(dialer);
    drop(listener);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

/// Replies go to whoever asked.
pub(super) async fn two_dialers_are_kept_apart(world: &impl World) {
    let (mut listener, mut first, address, first_id) = pair(world, Options::default()).await;
    let mut second = world.transport(Options::default());
    let second_id = routing_id();
    second.dial(LINK, &address, second_id).unwrap();
    until(&mut second, Event::Ready { link: LINK }).await;
    for (dialer, name) in [(&mut first, "first"), (&mut second, "second")] {
        dialer.send(UP, &Bytes::from_static(name.as_bytes())).unwrap();
    }
    for _ in 0..2 {
        let (route, name) = next_message(&mut listener).await;
        let expected = if &name[..] == b"first" { first_id } else { second_id };
        assert_eq!(route, Route::Downstream(expected));
        listener.send(route, &name).unwrap();
    }
    assert_eq!(&next_message(&mut first).await.1[..], b"first");
    assert_eq!(&next_message(&mut second).await.1[..], b"second");
    assert_eq!((first.counters().received, second.counters().received), (1, 1));
}

/// One address per transport, so that there is one to tell others.
pub(super) async fn second_bind_is_refused(world: &impl World) {
    let mut listener = world.transport(Options::default());
    let address = listener.bind(&world.address()).unwrap();
    let error = listener.bind(&world.address()).unwrap_err();
    assert!(matches!(error, BindError::AlreadyBound(bound) if bound == address));
}

/// A person must learn why nothing listens.
pub(super) async fn taken_addresses_are_refused(world: &impl World) {
    let mut first = world.transport(Options::default());
    let address = first.bind(&world.address()).unwrap();
    let mut second = world.transport(Options::default());
    let error = second.bind(&address).unwrap_err().to_string();
    assert!(error.to_lowercase().contains("in use"), "{error}");
    second.bind(&world.address()).unwrap();
}

/// A flood over one socket must not keep the messages of another waiting.
pub(super) async fn busy_listener_does_not_starve_a_link(world: &impl World) {
    let (mut node, mut flooder, _, _) = pair(world, Options::default()).await;
    let mut other = world.transport(Options::default());
    let address = other.bind(&world.address()).unwrap();
    node.dial(LINK, &address, routing_id()).unwrap();
    until(&mut node, Event::Ready { link: LINK }).await;
    node.send(UP, &Bytes::new()).unwrap();
    let (route, _) = next_message(&mut other).await;

    // The listener is at work, and has more to do than it will ever get done.
    let flood = Bytes::from_static(b"flood");
    while flooder.send(UP, &flood).is_ok() {}
    assert!(matches!(next_message(&mut node).await.0, Route::Downstream(_)));
    other.send(route, &Bytes::from_static(b"other")).unwrap();
    let mut flooded = 0;
    loop {
        while flooder.send(UP, &flood).is_ok() {}
        // Room is looked for only by polling.
        let _ = poll_fn(|cx| Poll::Ready(flooder.poll_event(cx))).await;
        match next_message(&mut node).await {
            (Route::Upstream(_), message) => {
                assert_eq!(&message[..], b"other");
                break;
            }
            (Route::Downstream(_), _) => flooded += 1,
        }
        assert!(flooded < 10_000, "the link is starved");
        if flooded % 64 == 0 {
            // As a driver does: the runtime looks at descriptors only when it gets a turn.
            tokio::task::yield_now().await;
        }
    }
}
