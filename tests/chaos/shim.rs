//! The disk and the clock of one process, as `shim.cc` makes them.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

/// The kind of a record that says that its file is synced.
const SYNC: u8 = b'S';

/// What is between one process and its disk and clock.
pub(crate) struct Shim {
    folder: PathBuf,
}

impl Shim {
    /// Does nothing yet.
    pub(crate) fn new(folder: PathBuf) -> Self {
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("control"), [0; 24]).unwrap();
        Self { folder }
    }

    /// What the process needs in its environment.
    pub(crate) fn environment(&self) -> [(&'static str, OsString); 2] {
        [("LD_PRELOAD", library().into()), ("ZMESH_SHIM", self.folder.clone().into())]
    }

    /// From here on a sync takes so long.
    pub(crate) fn slow_syncs(&self, time: Duration) {
        self.control(0, i64::try_from(time.as_millis()).unwrap());
    }

    /// From here on the clock on the wall is wrong by so many seconds.
    pub(crate) fn step_clock(&self, seconds: i64) {
        self.control(8, seconds);
    }

    /// From here on everything is written down that a power cut could take back.
    pub(crate) fn begin_journal(&self) {
        self.control(16, 1);
    }

    fn control(&self, offset: u64, value: i64) {
        let control = fs::File::options().write(true).open(self.folder.join("control")).unwrap();
        control.write_all_at(&value.to_le_bytes(), offset).unwrap();
    }

    /// Takes back every write since the last sync of its file, of a process that has ended. Returns
    /// how many there were.
    pub(crate) fn lose_unsynced(&self) -> usize {
        let journal = self.folder.join("journal");
        let bytes = fs::read(&journal).unwrap();
        let mut records = records(&bytes);
        let mut lost = 0;
        // From the last to the first, so that each finds what it has left.
        while let Some(record) = records.pop() {
            if record.kind == SYNC {
                records.retain(|earlier| earlier.path != record.path);
            } else {
                record.undo();
                lost += 1;
            }
        }
        fs::write(&journal, []).unwrap();
        lost
    }
}

struct Record<'a> {
    kind: u8,
    path: &'a Path,
    offset: u64,
    length: u64,
    old: &'a [u8],
}

impl Record<'_> {
    fn undo(&self) {
        // It may have been removed since, or be no file of the disk.
        let Ok(file) = fs::File::options().write(true).open(self.path) else { return };
        if file.write_all_at(self.old, self.offset).is_ok() {
            drop(file.set_len(self.length));
        }
    }
}

/// All whole records: the last may be torn.
fn records(mut bytes: &[u8]) -> Vec<Record<'_>> {
    let mut records = Vec::new();
    while let Some((head, rest)) = bytes.split_at_checked(25) {
        let number = |at: usize, count: usize| {
            let mut wide = [0; 8];
            wide[..count].copy_from_slice(&head[at..at + count]);
            u64::from_le_bytes(wide)
        };
        let (path_bytes, old_bytes) = (number(1, 4), number(21, 4));
        let (Ok(path_bytes), Ok(old_bytes)) = (path_bytes.try_into(), old_bytes.try_into()) else {
            break;
        };
        let Some((path, rest)) = rest.split_at_checked(path_bytes) else { break };
        let Some((old, rest)) = rest.split_at_checked(old_bytes) else { break };
        let path = Path::new(std::str::from_utf8(path).unwrap());
        records.push(Record {
            kind: head[0],
            path,
            offset: number(5, 8),
            length: number(13, 8),
            old,
        });
        bytes = rest;
    }
    records
}

/// The library, compiled once per run of the tests.
fn library() -> PathBuf {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    let compile = || {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chaos/shim.cc");
        let library =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("shim-{}.so", std::process::id()));
        let mut compiler = Command::new("c++");
        compiler.args(["-std=c++17", "-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source);
        let compiled = compiler.arg("-ldl").output().expect("a C++ compiler");
        let said = String::from_utf8_lossy(&compiled.stderr).into_owned();
        assert!(compiled.status.success(), "{said}");
        library
    };
    LIBRARY.get_or_init(compile).clone()
}
