//! What an operation is compared with: the same machine without us.
//!
//! What is written durably is compared with one append to a file and its sync, where the data of the
//! cluster lies; what only travels, with a round trip of as many bytes over TCP between two threads.
//! Both are measured right before and right after, since machines change.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use serde::Serialize;
use zmesh::Clock;

use super::usage;

/// Round trips of which the median is taken.
const ROUND_TRIPS: usize = 400;

/// Which one.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Baseline {
    DiskSync,
    TcpRoundTrip,
}

impl Baseline {
    /// Its median, in microseconds; none if it cannot be had.
    pub(super) fn measure(self, dir: &Path, payload: usize) -> Option<f64> {
        match self {
            Self::DiskSync => usage::disk_sync_us(dir),
            Self::TcpRoundTrip => round_trip_us(payload.max(1)).ok(),
        }
    }
}

fn round_trip_us(bytes: usize) -> std::io::Result<f64> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    let echo = std::thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut buffer = vec![0; bytes];
        for _ in 0..ROUND_TRIPS {
            stream.read_exact(&mut buffer)?;
            stream.write_all(&buffer)?;
        }
        Ok(())
    });
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let (clock, mut buffer) = (Clock::start(), vec![0; bytes]);
    let mut times = Vec::with_capacity(ROUND_TRIPS);
    for _ in 0..ROUND_TRIPS {
        let began = clock.now();
        stream.write_all(&buffer)?;
        stream.read_exact(&mut buffer)?;
        times.push((clock.now() - began).as_secs_f64() * 1e6);
    }
    // It has answered all of them.
    drop(echo.join());
    times.sort_by(f64::total_cmp);
    Ok(times[ROUND_TRIPS / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both are times that a machine can have.
    #[test]
    fn baselines_are_measured() {
        let dir = tempfile::tempdir().unwrap();
        for baseline in [Baseline::DiskSync, Baseline::TcpRoundTrip] {
            let us = baseline.measure(dir.path(), 64).unwrap();
            assert!(us > 0.1, "{baseline:?}: {us}");
        }
        assert_eq!(Baseline::DiskSync.measure(Path::new("/nowhere"), 1), None);
    }
}
