//! A machine that leaves its messages in the log, as topics do: its state is only which entries it
//! still refers to, and what they must be.

use std::collections::VecDeque;
use std::io::{self, Read, Write};

use bytes::Bytes;
use zmesh::replica::{Effects, Image, InvalidSnapshot, Machine, Past, PastError};

/// A command that lets all messages go. Everything else is a message.
pub(crate) const CLEAR: &[u8] = b"clear";

/// See the module.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Journal {
    /// Messages that are retained; more make the oldest go. All replicas must have the same.
    retained_max: usize,
    /// Index and checksum of each.
    retained: VecDeque<(u64, u32)>,
}

impl Journal {
    pub(crate) fn new(retained_max: usize) -> Self {
        Self { retained_max, retained: VecDeque::new() }
    }

    pub(crate) fn record(&mut self, index: u64, command: &[u8]) {
        if command == CLEAR {
            return self.retained.clear();
        }
        self.retained.push_back((index, crc32(command)));
        while self.retained.len() > self.retained_max {
            self.retained.pop_front();
        }
    }

    pub(crate) fn floor(&self) -> Option<u64> {
        self.retained.front().map(|(index, _)| *index)
    }

    /// Reads everything that is retained out of the log, a little at a time; says how much it was.
    pub(crate) fn read(&self, past: &dyn Past) -> Result<usize, String> {
        let mut wanted = self.retained.iter().peekable();
        let mut next = self.floor().unwrap_or(u64::MAX);
        while wanted.peek().is_some() {
            let part = past.commands(next, 500).map_err(|error| match error {
                PastError::Forgotten { first } => format!("{next} is forgotten: {first}"),
                PastError::Unreadable { reason } => reason,
            })?;
            if part.next == next {
                return Err(format!("the log ends with {next}"));
            }
            for (index, command) in part.commands {
                if wanted
                    .next_if(|(wanted, _)| *wanted == index)
                    .is_some_and(|(_, checksum)| *checksum != crc32(&command))
                {
                    return Err(format!("{index} is another command"));
                }
            }
            if wanted.peek().is_some_and(|(index, _)| *index < part.next) {
                return Err(format!("a message before {} is gone", part.next));
            }
            next = part.next;
        }
        Ok(self.retained.len())
    }

    pub(crate) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&(self.retained.len() as u64).to_le_bytes())?;
        for (index, checksum) in &self.retained {
            out.write_all(&index.to_le_bytes())?;
            out.write_all(&checksum.to_le_bytes())?;
        }
        Ok(())
    }

    /// Replaces what is retained.
    pub(crate) fn read_from(&mut self, snapshot: &mut dyn Read) -> io::Result<()> {
        let mut retained = VecDeque::new();
        let (mut number, mut checksum) = ([0; 8], [0; 4]);
        snapshot.read_exact(&mut number)?;
        for _ in 0..u64::from_le_bytes(number) {
            snapshot.read_exact(&mut number)?;
            snapshot.read_exact(&mut checksum)?;
            retained.push_back((u64::from_le_bytes(number), u32::from_le_bytes(checksum)));
        }
        self.retained = retained;
        Ok(())
    }
}

impl Machine for Journal {
    fn apply(&mut self, index: u64, command: &Bytes, _: &mut Effects) -> Bytes {
        self.record(index, command);
        Bytes::new()
    }

    /// Answers with how many messages could be read, or with why one could not.
    fn query(&self, _: &Bytes, past: &dyn Past) -> Bytes {
        match self.read(past) {
            Ok(count) => Bytes::from(count.to_string()),
            Err(reason) => Bytes::from(reason),
        }
    }

    fn log_floor(&self) -> Option<u64> {
        self.floor()
    }

    fn snapshot(&self) -> Image {
        let journal = self.clone();
        Box::new(move |out| journal.write(out))
    }

    fn restore(&mut self, snapshot: &mut dyn Read) -> Result<(), InvalidSnapshot> {
        Ok(self.read_from(snapshot)?)
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}
