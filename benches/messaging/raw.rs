//! The client over libzmq: blocking calls on one DEALER, as little in the way as can be.

use std::time::{Duration, Instant};

use crate::process::Server;
use crate::serve::{RAW_COUNT, RAW_ECHO, RAW_TICK};
use crate::usage::Usage;
use crate::{Case, Load, Outcome, Sample};

/// Messages between two looks at the clock.
const BATCH: u64 = 64;

/// A DEALER connected to a raw server.
pub(crate) struct Client {
    server: Server,
    dealer: zmq::Socket,
    message: zmq::Message,
    ticks: u64,
}

impl Client {
    pub(crate) fn new(server: Server) -> Outcome<Self> {
        let dealer = zmq::Context::new().socket(zmq::DEALER)?;
        dealer.connect(server.address())?;
        Ok(Self { server, dealer, message: zmq::Message::new(), ticks: 0 })
    }

    /// Runs a case for about `time`.
    pub(crate) fn measure(&mut self, case: Case, time: Duration) -> Outcome<Sample> {
        let (client, server) = (Usage::own()?, self.server.usage()?);
        let start = Instant::now();
        let (messages, latencies) = match case.load {
            Load::RoundTrips => self.round_trips(case.bytes, start + time)?,
            Load::Window(size) => (self.window(case.bytes, size, start + time)?, Vec::new()),
            Load::Ticks => (self.ticks(case.bytes, start + time)?, Vec::new()),
        };
        let elapsed = start.elapsed();
        let (client, server) = (Usage::own()? - client, self.server.usage()? - server);
        Ok(Sample { messages, elapsed, latencies, client, server })
    }

    fn round_trips(&mut self, bytes: usize, end: Instant) -> Outcome<(u64, Vec<Duration>)> {
        let payload = payload(RAW_ECHO, bytes);
        let mut latencies = Vec::new();
        let mut before = Instant::now();
        while before < end {
            self.dealer.send(&payload[..], 0)?;
            self.dealer.recv(&mut self.message, 0)?;
            let after = Instant::now();
            latencies.push(after - before);
            before = after;
        }
        latencies.sort_unstable();
        Ok((latencies.len().try_into()?, latencies))
    }

    fn window(&mut self, bytes: usize, size: usize, end: Instant) -> Outcome<u64> {
        let payload = payload(RAW_ECHO, bytes);
        for _ in 0..size {
            self.dealer.send(&payload[..], 0)?;
        }
        let mut received: u64 = 0;
        while !received.is_multiple_of(BATCH) || Instant::now() < end {
            self.dealer.recv(&mut self.message, 0)?;
            self.dealer.send(&payload[..], 0)?;
            received += 1;
        }
        for _ in 0..size {
            self.dealer.recv(&mut self.message, 0)?;
            received += 1;
        }
        Ok(received)
    }

    fn ticks(&mut self, bytes: usize, end: Instant) -> Outcome<u64> {
        let payload = payload(RAW_TICK, bytes);
        let mut sent: u64 = 0;
        while !sent.is_multiple_of(BATCH) || Instant::now() < end {
            self.dealer.send(&payload[..], 0)?;
            sent += 1;
        }
        self.dealer.send(&[RAW_COUNT][..], 0)?;
        self.dealer.recv(&mut self.message, 0)?;
        self.ticks += sent;
        let counted = u64::from_le_bytes(self.message[..].try_into()?);
        match counted == self.ticks {
            true => Ok(sent),
            false => Err(format!("{} ticks were sent, {counted} counted", self.ticks).into()),
        }
    }
}

fn payload(first: u8, bytes: usize) -> Vec<u8> {
    let mut payload = vec![0; bytes];
    payload[0] = first;
    payload
}
