//! The key-value machine with a memory: how often each command was applied, and which of the last
//! ones the log must still have.

use std::collections::BTreeMap;
use std::io::Read;

use bytes::Bytes;
use zmesh::kv::{KvMachine, Limits};
use zmesh::replica::{Effects, Image, InvalidSnapshot, Machine, Past, image_bytes};

use crate::journal::{CLEAR, Journal};

/// Asks whether the log has everything that the machine refers to.
pub(crate) const READ_JOURNAL: &[u8] = b"journal";
/// One command of so many lets go all before it.
const CLEARS: u32 = 50;

/// A key-value machine that counts. The count is part of its state.
#[derive(Default)]
pub(crate) struct Ledger {
    /// Whether it counts at all: the count makes snapshots large, and so rare.
    counts_commands: bool,
    kv: KvMachine,
    counts: BTreeMap<Bytes, u32>,
    twice: Option<Bytes>,
    /// Whether it does at times what no other replica does.
    is_astray: bool,
    /// If it refers to the log at all.
    journal: Option<Journal>,
    /// Whether it hides that from the replica.
    hides_floor: bool,
}

impl Ledger {
    /// `retained`: commands that the log must keep.
    pub(crate) fn new(counts_commands: bool, retained: usize, hides_floor: bool) -> Self {
        let journal = (retained > 0).then(|| Journal::new(retained));
        Self { counts_commands, journal, hides_floor, kv: store(), ..Self::default() }
    }

    /// What it refers to, if it refers to the log at all.
    pub(crate) fn journal(&self) -> Option<&Journal> {
        self.journal.as_ref()
    }

    /// One that is not deterministic.
    pub(crate) fn astray(self) -> Self {
        Self { is_astray: true, ..self }
    }

    /// How often a command was applied.
    pub(crate) fn count(&self, command: &Bytes) -> u32 {
        self.counts.get(command).copied().unwrap_or(0)
    }

    /// A command that was applied more than once. All commands of a run are different.
    pub(crate) fn twice(&self) -> Option<&Bytes> {
        self.twice.as_ref()
    }
}

/// A store with so little history that it is forgotten in every run, and that snapshots stay small.
pub(crate) fn store() -> KvMachine {
    KvMachine::with_limits(Limits { history_changes_max: 2, ..Limits::default() })
}

impl Machine for Ledger {
    fn apply(&mut self, index: u64, command: &Bytes, effects: &mut Effects) -> Bytes {
        if self.counts_commands {
            let count = self.counts.entry(command.clone()).or_default();
            *count += 1;
            if *count > 1 {
                self.twice = Some(command.clone());
            }
        }
        if self.is_astray && index.is_multiple_of(20) {
            self.counts.insert(Bytes::from_static(b"astray"), 1);
        }
        if let Some(journal) = &mut self.journal {
            let clears = crc32c::crc32c(command).is_multiple_of(CLEARS);
            journal.record(index, if clears { CLEAR } else { command });
        }
        self.kv.apply(index, command, effects)
    }

    fn query(&self, query: &Bytes, past: &dyn Past) -> Bytes {
        match &self.journal {
            Some(journal) if query[..] == *READ_JOURNAL => journal.query(query, past),
            _ => self.kv.query(query, past),
        }
    }

    fn log_floor(&self) -> Option<u64> {
        self.journal.as_ref().filter(|_| !self.hides_floor)?.floor()
    }

    fn snapshot(&self) -> Image {
        let (counts, kv) = (self.counts.clone(), image_bytes(self.kv.snapshot()));
        let journal = self.journal.clone();
        Box::new(move |out| {
            out.write_all(&(counts.len() as u64).to_le_bytes())?;
            for (command, count) in counts {
                out.write_all(&(command.len() as u64).to_le_bytes())?;
                out.write_all(&command)?;
                out.write_all(&count.to_le_bytes())?;
            }
            if let Some(journal) = journal {
                journal.write(out)?;
            }
            out.write_all(&kv)
        })
    }

    fn restore(&mut self, snapshot: &mut dyn Read) -> Result<(), InvalidSnapshot> {
        let mut number = [0; 8];
        let mut counts = BTreeMap::new();
        snapshot.read_exact(&mut number)?;
        for _ in 0..u64::from_le_bytes(number) {
            snapshot.read_exact(&mut number)?;
            let mut command = Vec::new();
            (&mut *snapshot).take(u64::from_le_bytes(number)).read_to_end(&mut command)?;
            let mut count = [0; 4];
            snapshot.read_exact(&mut count)?;
            counts.insert(Bytes::from(command), u32::from_le_bytes(count));
        }
        if let Some(journal) = &mut self.journal {
            journal.read_from(snapshot)?;
        }
        self.kv.restore(snapshot)?;
        self.twice = None;
        self.counts = counts;
        Ok(())
    }
}
