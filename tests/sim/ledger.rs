//! The key-value machine with a memory: how often each command was applied.

use std::collections::BTreeMap;
use std::io::Read;

use bytes::Bytes;
use zmesh::kv::KvMachine;
use zmesh::replica::{Effects, Image, InvalidSnapshot, Machine, Past, image_bytes};

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
}

impl Ledger {
    pub(crate) fn new(counts_commands: bool) -> Self {
        Self { counts_commands, ..Self::default() }
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
        self.kv.apply(index, command, effects)
    }

    fn query(&self, query: &Bytes, past: &dyn Past) -> Bytes {
        self.kv.query(query, past)
    }

    fn snapshot(&self) -> Image {
        let (counts, kv) = (self.counts.clone(), image_bytes(self.kv.snapshot()));
        Box::new(move |out| {
            out.write_all(&(counts.len() as u64).to_le_bytes())?;
            for (command, count) in counts {
                out.write_all(&(command.len() as u64).to_le_bytes())?;
                out.write_all(&command)?;
                out.write_all(&count.to_le_bytes())?;
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
        self.kv.restore(snapshot)?;
        self.twice = None;
        self.counts = counts;
        Ok(())
    }
}
