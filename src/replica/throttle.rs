//! Shell: Lets a replica's own work go before what is written beside it.
//!
//! To write a state of a million keys takes a processor and the disk for a second, and on a machine
//! that has not many of both, everybody who writes would wait meanwhile. So after each piece the
//! writer rests for twice the time that the piece took: a snapshot takes three times as long, and two
//! thirds of that time it is not there.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use super::machine::Image;

/// Bytes after which it rests: little enough that nobody waits for long.
const PIECE_BYTES: usize = 64 * 1024;
/// Rests for each piece, in times that it took.
const RESTS: u32 = 2;
/// The longest rest. A disk that stands still is not to stop a snapshot for good.
const REST_MAX: Duration = Duration::from_millis(100);

/// The same bytes, with rests.
pub(super) fn throttled(image: Image) -> Image {
    Box::new(move |out| {
        let mut throttled = Throttled { out, left: PIECE_BYTES, began: now() };
        image(&mut throttled)
    })
}

struct Throttled<'a> {
    out: &'a mut dyn Write,
    /// Bytes before the next rest.
    left: usize,
    /// When the piece began.
    began: Instant,
}

impl Write for Throttled<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(&bytes[..bytes.len().min(self.left)])?;
        self.left -= written;
        if self.left == 0 {
            rest((self.began.elapsed() * RESTS).min(REST_MAX));
            (self.left, self.began) = (PIECE_BYTES, now());
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[expect(clippy::disallowed_methods, reason = "a shell reads the clock")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "it has a thread to itself, and nobody waits for it")]
fn rest(period: Duration) {
    std::thread::sleep(period);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A snapshot that was throttled is the same snapshot.
    #[test]
    fn bytes_are_the_same() {
        let all: Vec<u8> = (0..=u8::MAX).cycle().take(3 * PIECE_BYTES + 7).collect();
        let written = all.clone();
        let image: Image = Box::new(move |out| {
            written.chunks(PIECE_BYTES + 13).try_for_each(|chunk| out.write_all(chunk))
        });
        let mut found = Vec::new();
        throttled(image)(&mut found).unwrap();
        assert!(found == all);
    }

    /// What goes wrong is said, and no rest is longer than its limit.
    #[test]
    fn failure_comes_through() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::Error::from(io::ErrorKind::StorageFull))
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let image: Image = Box::new(|out| out.write_all(&[1; 9]));
        let error = throttled(image)(&mut Full).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
