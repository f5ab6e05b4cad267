//! Every socket option that we set, in one place.
//!
//! libzmq's defaults fit no mesh: it lingers for ever, queues for peers that are not there, limits
//! no message, waits thirty seconds for a handshake, sends no heartbeat and does not back off.
//!
//! `ZMQ_TCP_MAXRT` (give up a connection whose bytes were not acknowledged for so long) is missing:
//! the crate has no setter for it. Heartbeats end such a connection after [`HEARTBEAT_TIMEOUT_MS`].

use crate::keys::{KeyPair, PublicKey};
use crate::transport::{Options, RoutingId};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;
/// How long a TCP connection may take.
const CONNECT_TIMEOUT_MS: i32 = 3_000;
/// How long ZMTP's handshake may take, so that silent connections do not pile up.
const HANDSHAKE_MS: i32 = 3_000;
/// Time between ZMTP pings, which find a cut cable, not a stuck peer.
const HEARTBEAT_MS: i32 = 1_000;
/// How long a ZMTP ping may stay unanswered.
const HEARTBEAT_TIMEOUT_MS: i32 = 3_000;
/// The first wait before connecting again.
pub(super) const RECONNECT_MS: i32 = 100;
/// The longest wait before connecting again.
pub(super) const RECONNECT_MAX_MS: i32 = 5_000;
/// Bytes that CURVE adds to a message: its name, a nonce, a code, flags.
const CURVE_BYTES: usize = 8 + 8 + 16 + 1;
/// Our domain of authentication, for libzmq asks nobody on behalf of a listener without one.
const ZAP_DOMAIN: &str = "zmesh";
/// TCP keepalive: idle seconds, seconds between probes, probes.
const KEEPALIVE: (i32, i32, i32) = (10, 5, 3);

/// What a socket is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Role {
    /// A DEALER that announces itself under this name.
    Dialer(RoutingId),
    /// A ROUTER.
    Listener,
}

/// How both sides know each other.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mechanism<'a> {
    /// They do not.
    Null,
    /// We dial, with our keys, whoever has the other one.
    CurveDialer(&'a KeyPair, PublicKey),
    /// We listen, with our keys, for those who are allowed.
    CurveListener(&'a KeyPair),
}

/// Sets the options of `socket`; they take effect at the next bind or connect.
pub(super) fn configure(
    socket: &::zmq::Socket,
    role: Role,
    mechanism: Mechanism<'_>,
    options: &Options,
) -> ::zmq::Result<()> {
    authenticate(socket, mechanism)?;
    // Zero would mean "no limit" to libzmq.
    let queue = i32::try_from(options.queue_messages_max.max(1)).unwrap_or(i32::MAX);
    let (idle, interval, count) = KEEPALIVE;
    socket.set_linger(0)?;
    socket.set_sndhwm(queue)?;
    socket.set_rcvhwm(queue)?;
    // libzmq measures what is on the wire; what is in it is measured when it is received.
    let extra = if matches!(mechanism, Mechanism::Null) { 0 } else { CURVE_BYTES };
    let bytes_max = options.message_bytes_max.saturating_add(extra);
    socket.set_maxmsgsize(i64::try_from(bytes_max).unwrap_or(i64::MAX))?;
    socket.set_handshake_ivl(HANDSHAKE_MS)?;
    socket.set_heartbeat_ivl(HEARTBEAT_MS)?;
    socket.set_heartbeat_timeout(HEARTBEAT_TIMEOUT_MS)?;
    socket.set_heartbeat_ttl(HEARTBEAT_TIMEOUT_MS)?;
    socket.set_reconnect_ivl(RECONNECT_MS)?;
    socket.set_reconnect_ivl_max(RECONNECT_MAX_MS)?;
    socket.set_connect_timeout(CONNECT_TIMEOUT_MS)?;
    socket.set_tcp_keepalive(1)?;
    socket.set_tcp_keepalive_idle(idle)?;
    socket.set_tcp_keepalive_intvl(interval)?;
    socket.set_tcp_keepalive_cnt(count)?;
    socket.set_ipv6(true)?;
    socket.set_backlog(BACKLOG)?;
    match role {
        Role::Dialer(routing_id) => {
            // Queue only for peers that are connected: nothing is sent late.
            socket.set_immediate(true)?;
            socket.set_identity(&routing_id.0)
        }
        Role::Listener => {
            // An unknown or full route is an error and not a silent loss.
            socket.set_router_mandatory(true)?;
            socket.set_router_handover(false)
        }
    }
}

fn authenticate(socket: &::zmq::Socket, mechanism: Mechanism<'_>) -> ::zmq::Result<()> {
    let set = |pair: &KeyPair| {
        socket.set_curve_publickey(pair.public().as_bytes())?;
        socket.set_curve_secretkey(&*zeroize::Zeroizing::new(pair.secret().to_bytes()))
    };
    match mechanism {
        Mechanism::Null => Ok(()),
        Mechanism::CurveDialer(pair, server) => {
            set(pair)?;
            socket.set_curve_serverkey(server.as_bytes())
        }
        Mechanism::CurveListener(pair) => {
            socket.set_zap_domain(ZAP_DOMAIN)?;
            socket.set_curve_server(true)?;
            set(pair)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Incarnation;

    /// A setter may do nothing on a crippled build of libzmq, so each option is read back.
    #[test]
    fn every_option_reads_back() {
        let options = Options { queue_messages_max: 77, message_bytes_max: 12_345 };
        let context = ::zmq::Context::new();
        let routing_id = RoutingId::new(Incarnation(9), 3);
        let dealer = context.socket(::zmq::DEALER).unwrap();
        configure(&dealer, Role::Dialer(routing_id), Mechanism::Null, &options).unwrap();
        assert!(dealer.is_immediate().unwrap());
        assert_eq!(dealer.get_identity().unwrap(), routing_id.0);
        let router = context.socket(::zmq::ROUTER).unwrap();
        configure(&router, Role::Listener, Mechanism::Null, &options).unwrap();
        for socket in [&dealer, &router] {
            let read = [
                (socket.get_linger(), 0),
                (socket.get_sndhwm(), 77),
                (socket.get_rcvhwm(), 77),
                (socket.get_handshake_ivl(), 3_000),
                (socket.get_heartbeat_ivl(), 1_000),
                (socket.get_heartbeat_timeout(), 3_000),
                (socket.get_heartbeat_ttl(), 3_000),
                (socket.get_reconnect_ivl(), 100),
                (socket.get_reconnect_ivl_max(), 5_000),
                (socket.get_connect_timeout(), 3_000),
                (socket.get_tcp_keepalive(), 1),
                (socket.get_tcp_keepalive_idle(), 10),
                (socket.get_tcp_keepalive_intvl(), 5),
                (socket.get_tcp_keepalive_cnt(), 3),
                (socket.get_backlog(), 128),
            ];
            for (number, (value, expected)) in read.into_iter().enumerate() {
                assert_eq!(value.unwrap(), expected, "option {number}");
            }
            assert_eq!(socket.get_maxmsgsize().unwrap(), 12_345);
            assert!(socket.is_ipv6().unwrap());
        }
    }

    /// Zero means "no limit" to libzmq and "nothing" to whoever wrote it.
    #[test]
    fn queue_limit_of_zero_does_not_mean_none() {
        let socket = ::zmq::Context::new().socket(::zmq::ROUTER).unwrap();
        let options = Options { queue_messages_max: 0, ..Options::default() };
        configure(&socket, Role::Listener, Mechanism::Null, &options).unwrap();
        assert_eq!(socket.get_sndhwm().unwrap(), 1);
    }

    #[test]
    fn keys_read_back() {
        let pair = KeyPair::from_secret(&[7; 32]).unwrap();
        let server = KeyPair::from_secret(&[8; 32]).unwrap().public();
        let context = ::zmq::Context::new();
        let dealer = context.socket(::zmq::DEALER).unwrap();
        let role = Role::Dialer(RoutingId::new(Incarnation(9), 3));
        configure(&dealer, role, Mechanism::CurveDialer(&pair, server), &Options::default())
            .unwrap();
        assert_eq!(dealer.get_curve_serverkey().unwrap(), server.as_bytes());
        assert_eq!(dealer.get_mechanism().unwrap(), ::zmq::Mechanism::ZMQ_CURVE);
        let router = context.socket(::zmq::ROUTER).unwrap();
        let mechanism = Mechanism::CurveListener(&pair);
        configure(&router, Role::Listener, mechanism, &Options::default()).unwrap();
        assert!(router.is_curve_server().unwrap());
        assert_eq!(router.get_zap_domain().unwrap().unwrap(), ZAP_DOMAIN);
    }

    /// The patched build is what the timers, keepalive and CURVE depend on.
    #[test]
    fn libzmq_is_the_patched_one() {
        assert!(::zmq::version() >= (4, 3, 5));
        assert_eq!(::zmq::has("curve"), Some(true));
    }
}
