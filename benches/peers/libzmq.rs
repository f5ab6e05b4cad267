//! libzmq by itself: one DEALER that waits for a ROUTER on a thread of its own.

use super::{OPERATION_MAX, VALUE};

pub(crate) struct Slot(zmq::Socket);

/// Echoes on a thread of its own, which ends with the process.
pub(crate) fn serve() -> String {
    let router = zmq::Context::new().socket(zmq::ROUTER).unwrap();
    router.bind("tcp://127.0.0.1:*").unwrap();
    let address = router.get_last_endpoint().unwrap().unwrap();
    std::thread::spawn(move || {
        loop {
            let parts = router.recv_multipart(0).unwrap();
            router.send_multipart(parts, 0).unwrap();
        }
    });
    address
}

impl Slot {
    pub(crate) fn connect(address: &str) -> Self {
        let dealer = zmq::Context::new().socket(zmq::DEALER).unwrap();
        let millis = i32::try_from(OPERATION_MAX.as_millis()).unwrap();
        dealer.set_sndtimeo(millis).unwrap();
        dealer.set_rcvtimeo(millis).unwrap();
        dealer.connect(address).unwrap();
        Self(dealer)
    }

    /// Blocks whoever runs it, who has nothing else to do.
    pub(crate) fn round_trip(&self) {
        self.0.send(&VALUE[..], 0).unwrap();
        assert_eq!(self.0.recv_bytes(0).unwrap(), VALUE);
    }
}
