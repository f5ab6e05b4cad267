//! What a run did: lines to read, a sum over everything that was sent to compare, and a counter
//! that puts all that clients see in one order.

use std::collections::VecDeque;
use std::fmt::Display;
use std::sync::Arc;

use parking_lot::Mutex;
use zmesh::Time;

/// Lines that are kept; those before them are counted.
const LINES_MAX: usize = 200_000;

/// Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Trace(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    now: Time,
    lines: VecDeque<String>,
    forgotten: usize,
    sum: u64,
    stamp: u64,
}

impl Trace {
    pub(crate) fn set_now(&self, now: Time) {
        self.0.lock().now = now;
    }

    /// Something that happened.
    pub(crate) fn line(&self, text: impl Display) {
        let mut inner = self.0.lock();
        let line = format!("{} {text}", inner.now);
        inner.add(line.as_bytes());
        inner.lines.push_back(line);
        if inner.lines.len() > LINES_MAX {
            inner.lines.pop_front();
            inner.forgotten += 1;
        }
    }

    /// A message that was sent; it is not a line, but has to be the same when the run is repeated.
    pub(crate) fn message(&self, from: &str, bytes: &[u8]) {
        if std::env::var_os("ZMESH_MESSAGES").is_some() {
            self.line(format_args!("{from} sends {}", bytes.escape_ascii()));
        }
        let mut inner = self.0.lock();
        inner.add(from.as_bytes());
        inner.add(bytes);
    }

    /// A number larger than all before it: when something began or ended.
    pub(crate) fn stamp(&self) -> u64 {
        let mut inner = self.0.lock();
        inner.stamp += 1;
        inner.stamp
    }

    /// Everything so far in one number.
    pub(crate) fn sum(&self) -> u64 {
        self.0.lock().sum
    }

    /// All lines that are kept.
    pub(crate) fn text(&self) -> String {
        let inner = self.0.lock();
        let forgotten = format!("({} lines before)\n", inner.forgotten);
        let lines = inner.lines.iter().map(|line| format!("{line}\n"));
        std::iter::once(forgotten).chain(lines).collect()
    }
}

/// For logs: each write is a line.
impl std::io::Write for Trace {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.line(String::from_utf8_lossy(bytes).trim_end());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Inner {
    fn add(&mut self, bytes: &[u8]) {
        // The time makes the same message at another time another one.
        let when = u64::try_from(self.now.since_start().as_nanos()).unwrap_or(u64::MAX);
        let sum = u64::from(crc32c::crc32c(bytes)) ^ when;
        // Multiplying by an odd number keeps all of what was before.
        self.sum = (self.sum.rotate_left(7) ^ sum).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
