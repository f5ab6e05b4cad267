//! Files that changed while nobody was looking. The log opens with everything that was synced, or
//! refuses and names the place; a refusal changes no byte.

use zmesh::wal::{HardState, LogReport, OpenMode, Verdict, verify};

use super::*;

/// Offset of the record of the `index`th entry of a segment, from 1.
const fn offset_of(index: usize) -> usize {
    START + (index - 1) * RECORD
}

/// What a look from outside finds.
fn look(site: &Site) -> LogReport {
    verify(&site.disk, &site.dir).unwrap()
}

/// Opens, expects a refusal, and checks that it left every file alone, as does a look from outside,
/// which finds that something is wrong, too.
fn refusal(site: &Site) -> WalError {
    let before = site.image();
    assert!(!look(site).is_sound(), "{:?}", look(site));
    let error = match site.open() {
        Ok((wal, found)) => panic!("opened with {found:?} and {} entries", contents(&wal).len()),
        Err(error) => error,
    };
    assert!(site.image() == before, "a refusal changed the directory: {error}");
    error
}

/// Expects corruption of `file` at `offset`.
fn assert_corrupt(site: &Site, file: &Path, offset: usize, case: &str) {
    match refusal(site) {
        WalError::Corrupt { file: found, offset: at, reason } => {
            assert_eq!((found.as_path(), at), (file, offset as u64), "{case}: {reason}");
            let report = look(site);
            let verdict = Verdict::Damaged { offset: at, reason };
            let found = report.files.iter().any(|it| it.file == file && it.verdict == verdict);
            assert!(found, "{case}: {report:?}");
        }
        other => panic!("{case}: {other}"),
    }
}

/// Segments have their full size before they are used, so a shorter one was cut by somebody.
#[test]
fn segment_cut_at_any_byte_is_refused() {
    for site in Site::both() {
        site.filled(10);
        let image = site.image();
        let file = site.segments().remove(0);
        for length in offset_of(8)..offset_of(11) {
            site.damage(&file, |bytes| bytes.truncate(length));
            assert_corrupt(&site, &file, length, "cut");
            site.restore(&image);
        }
        site.damage(&file, |bytes| bytes.truncate(bytes.len() - 1));
        assert!(matches!(refusal(&site), WalError::Corrupt { .. }), "only zeros were cut");
        site.damage(&file, |bytes| bytes.truncate(START / 2));
        assert_corrupt(&site, &file, 0, "header cut");
    }
}

/// What a torn write leaves: everything from some byte on was never written. The log opens with
/// the records that are whole, and goes on from there.
#[test]
fn write_that_stopped_at_any_byte_is_cut() {
    for site in Site::both() {
        let all = site.filled(10);
        let image = site.image();
        let file = site.segments().remove(0);
        // Each round costs a dozen syncs on the real disk.
        let step = if site.memory.is_some() { 1 } else { 7 };
        for length in (offset_of(8)..offset_of(11)).step_by(step) {
            site.damage(&file, |bytes| bytes[length..].fill(0));
            let before = site.image();
            let report = look(&site);
            assert!(report.is_sound() && site.image() == before, "{report:?}");
            let (mut wal, found) = site.open().unwrap();
            let harmless = |it: &Verdict| matches!(it, Verdict::Harmless { .. });
            let torn = report.files.iter().any(|file| harmless(&file.verdict));
            assert_eq!((report.last.index, torn), (found.last_index, found.torn_bytes > 0));
            // The last three bytes of each record are padding and zero anyway.
            let whole = (length - START + 3) / RECORD;
            assert_eq!(contents(&wal), all[..whole], "stopped at {length}");
            let torn = length.saturating_sub(offset_of(whole + 1));
            assert!(found.torn_bytes <= torn as u64, "stopped at {length}: {found:?}");
            assert!(site.read(&file)[offset_of(whole + 1)..].iter().all(|byte| *byte == 0));
            wal.append(&[entry(whole as u64 + 1, 1)]).unwrap();
            wal.sync().unwrap();
            drop(wal);
            assert_eq!(site.open().unwrap().1.last_index, whole as u64 + 1);
            site.restore(&image);
        }
    }
}

/// Makes the metadata forget how far the log was synced, and no more than that.
fn forget_tail(site: &Site) {
    site.damage(&site.path("meta"), |bytes| {
        for slot in [0, 69_632] {
            let slot = &mut bytes[slot..];
            let length = usize::from(slot[12]);
            slot[104..108].copy_from_slice(&u32::try_from(START).unwrap().to_le_bytes());
            let crc = crc32c::crc32c(&slot[12..length]);
            slot[8..12].copy_from_slice(&crc.to_le_bytes());
        }
    });
}

/// The same below the stored commit: what is gone was acknowledged. The commit alone shows it.
#[test]
fn log_that_ends_below_its_commit_is_refused() {
    for site in Site::both() {
        site.filled(10);
        let (mut wal, _) = site.open().unwrap();
        wal.store_hard_state(HardState { term: 1, vote: 0, commit: 10 }).unwrap();
        drop(wal);
        forget_tail(&site);
        let image = site.image();
        let file = site.segments().remove(0);
        for length in [offset_of(8), offset_of(9) + 1, offset_of(10), offset_of(10) + 50] {
            site.damage(&file, |bytes| bytes[length..].fill(0));
            let record = START + (length - START) / RECORD * RECORD;
            assert_corrupt(&site, &file, record, "zeroed");
            site.restore(&image);
        }
    }
}

/// The same below the end that the metadata remembers, whole records or not, committed or not.
#[test]
fn log_that_ends_below_its_synced_tail_is_refused() {
    for site in Site::both() {
        site.filled(10);
        drop(site.open().unwrap());
        let image = site.image();
        let file = site.segments().remove(0);
        for length in [offset_of(8), offset_of(9) + 1, offset_of(10), offset_of(10) + 50] {
            site.damage(&file, |bytes| bytes[length..].fill(0));
            let record = START + (length - START) / RECORD * RECORD;
            assert_corrupt(&site, &file, record, "zeroed");
            site.restore(&image);
        }
    }
}

/// Every bit of a record with others after it, header, data and padding, is covered.
#[test]
fn every_flipped_bit_of_a_middle_record_is_refused() {
    for site in Site::both() {
        site.filled(10);
        let image = site.image();
        let file = site.segments().remove(0);
        for bit in offset_of(5) * 8..offset_of(6) * 8 {
            site.damage(&file, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
            assert_corrupt(&site, &file, offset_of(5), &format!("bit {bit}"));
            site.restore(&image);
        }
    }
}

/// A complete last record that changed is not torn: cutting it would lose what was acknowledged.
/// Only a flip that makes its end look unwritten could pass for a torn write.
#[test]
fn every_flipped_bit_of_the_last_record_is_refused() {
    let site = Site::memory();
    site.filled(10);
    let image = site.image();
    let file = site.segments().remove(0);
    for bit in offset_of(10) * 8..offset_of(11) * 8 {
        site.damage(&file, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
        assert_corrupt(&site, &file, offset_of(10), &format!("bit {bit}"));
        site.restore(&image);
    }
}

/// The header is what everything else is believed by.
#[test]
fn every_flipped_bit_of_a_segment_header_is_refused() {
    let site = Site::memory();
    site.filled(3);
    let image = site.image();
    let file = site.segments().remove(0);
    for bit in 0..START * 8 {
        site.damage(&file, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
        assert_corrupt(&site, &file, 0, &format!("bit {bit}"));
        site.restore(&image);
    }
}

/// A lost block: with records after it, in a sealed segment, and below the remembered tail.
#[test]
fn zeroed_block_is_refused_unless_it_may_be_an_unsynced_tail() {
    for site in Site::both() {
        let big = Options { segment_bytes: 65_536, ..options() };
        let open = || Wal::open(Arc::clone(&site.disk), &site.dir, big, identity());
        let (mut wal, _) = open().unwrap();
        let all = entries(1..=300, 1);
        for batch in all.chunks(10) {
            wal.append(batch).unwrap();
            wal.sync().unwrap();
        }
        drop(wal);
        let image = site.image();
        let file = site.segments().remove(0);
        let before = (8_192 - START) / RECORD;
        site.damage(&file, |bytes| bytes[8_192..12_288].fill(0));
        assert_corrupt(&site, &file, offset_of(before + 1), "middle");
        site.restore(&image);

        let tail = offset_of(301) / 4_096 * 4_096;
        site.damage(&file, |bytes| bytes[tail..tail + 4_096].fill(0));
        let (wal, _) = open().unwrap();
        assert_eq!(contents(&wal), all[..(tail - START) / RECORD]);
        drop(wal);
        site.restore(&image);

        // Opening and closing remembers how far the log was synced.
        drop(open().unwrap());
        site.damage(&file, |bytes| bytes[tail..tail + 4_096].fill(0));
        assert_corrupt(&site, &file, offset_of((tail - START) / RECORD + 1), "synced tail");
    }
}

/// The end of a sealed segment is known to the next one.
#[test]
fn sealed_segment_that_lost_its_end_is_refused() {
    for site in Site::both() {
        site.filled(50);
        let image = site.image();
        let files = site.segments();
        assert_eq!(files.len(), 3);
        site.damage(&files[1], |bytes| bytes[offset_of(20)..].fill(0));
        assert_corrupt(&site, &files[1], offset_of(20), "lost its last record");
        site.restore(&image);
        site.damage(&files[1], |bytes| bytes[offset_of(20) + 40..].fill(0));
        assert_corrupt(&site, &files[1], offset_of(20), "lost half of its last record");
    }
}

/// All of it is told, since somebody has to decide what can be saved; opening stops at the first.
#[test]
fn look_from_outside_finds_every_damage() {
    for site in Site::both() {
        site.filled(50);
        let files = site.segments();
        for file in &files[..2] {
            site.damage(file, |bytes| bytes[offset_of(5) + 40] ^= 1);
        }
        site.damage(&files[2], |bytes| bytes[offset_of(3) + 40] ^= 1);
        let report = look(&site);
        let damaged = report.files.iter().filter_map(|file| match file.verdict {
            Verdict::Damaged { offset, .. } => Some((&file.file, offset)),
            _ => None,
        });
        let damaged: Vec<_> = damaged.collect();
        let [five, three] = [offset_of(5) as u64, offset_of(3) as u64];
        assert_eq!(damaged, [(&files[0], five), (&files[1], five), (&files[2], three)]);
    }
}

/// Also the last one: the metadata knows how many there are.
#[test]
fn missing_segment_is_named() {
    for site in Site::both() {
        site.filled(50);
        let image = site.image();
        for (number, file) in site.segments().iter().enumerate() {
            site.disk.remove(file).unwrap();
            match refusal(&site) {
                WalError::MissingSegment { file } => {
                    assert_eq!(file, site.path(&format!("{:010}-*.wal", number + 1)));
                }
                other => panic!("{other}"),
            }
            site.restore(&image);
        }
    }
}

/// A copy beside the original, and an original under another name.
#[test]
fn copied_and_renamed_segments_are_told_apart() {
    for site in Site::both() {
        site.filled(50);
        let image = site.image();
        let files = site.segments();
        for name in [
            "0000000002-00000000000000000022.wal",
            "0000000004-00000000000000000051.wal",
            "copy.wal",
        ] {
            let copy = site.path(name);
            site.disk.open(&copy, OpenMode::CreateNew).unwrap();
            site.write(&copy, &site.read(&files[1]));
            match refusal(&site) {
                WalError::DuplicateSegment { file, other } => {
                    assert_eq!((&file, &other), (&copy, &files[1]));
                }
                other => panic!("{name}: {other}"),
            }
            site.restore(&image);

            site.disk.rename(&files[1], &copy).unwrap();
            match refusal(&site) {
                WalError::MisnamedSegment { file, found } => {
                    assert_eq!((&file, site.path(&found)), (&copy, files[1].clone()));
                }
                other => panic!("{name}: {other}"),
            }
            site.restore(&image);
        }
        site.write(&files[1], &site.read(&files[0]));
        assert!(matches!(refusal(&site), WalError::DuplicateSegment { .. }), "copied over");
    }
}

/// A segment or a whole directory of another replica, even one of the same node and cluster.
#[test]
fn foreign_files_are_refused() {
    for (site, other) in Site::both().into_iter().zip(Site::both()) {
        site.filled(50);
        let theirs = Identity { raft_id: 12, ..identity() };
        let (mut wal, _) =
            Wal::open(Arc::clone(&other.disk), &other.dir, options(), theirs.clone()).unwrap();
        for batch in entries(1..=50, 1).chunks(1) {
            wal.append(batch).unwrap();
        }
        wal.sync().unwrap();
        drop(wal);
        let file = site.segments().remove(1);
        let name = file.file_name().unwrap().to_str().unwrap();
        site.write(&file, &other.read(&other.path(name)));
        match refusal(&site) {
            WalError::Foreign { file: at, found, .. } => {
                assert_eq!((at, found.contains("replica c of")), (file, true), "{found}");
            }
            other => panic!("{other}"),
        }
        let refused = other.open().unwrap_err();
        assert!(matches!(refused, WalError::Foreign { .. }), "{refused}");
        assert_eq!(Wal::identity(&*other.disk, &other.dir).unwrap(), Some(theirs));
    }
}

/// A log without its term and vote must not vote again.
#[test]
fn log_without_metadata_is_refused() {
    for site in Site::both() {
        site.filled(5);
        let meta = site.path("meta");
        let image = site.image();
        site.disk.remove(&meta).unwrap();
        assert_corrupt(&site, &meta, 0, "missing");
        site.restore(&image);
        site.write(&meta, b"");
        assert_corrupt(&site, &meta, 0, "empty");
        site.damage(&meta, |bytes| bytes.resize(139_264, 0));
        assert_corrupt(&site, &meta, 0, "zeroed");
        site.restore(&image);
        site.damage(&meta, |bytes| bytes.iter_mut().for_each(|byte| *byte ^= 0x55));
        assert_corrupt(&site, &meta, 0, "both slots bad");
    }
}

/// One bad slot is what a torn store leaves; the other slot is the last acknowledged one then.
/// The bad slot is written again at once, so that the next torn store finds a good one.
#[test]
fn one_bad_metadata_slot_is_survived_and_healed() {
    for site in Site::both() {
        site.filled(5);
        let (mut wal, _) = site.open().unwrap();
        wal.store_hard_state(HardState { term: 4, vote: 11, commit: 3 }).unwrap();
        wal.store_hard_state(HardState { term: 5, vote: 12, commit: 4 }).unwrap();
        drop(wal);
        let meta = site.path("meta");
        let bytes = site.read(&meta);
        let generation = |slot: usize| bytes[slot + 24];
        let slots = [0, 69_632];
        let newer = if generation(slots[0]) > generation(slots[1]) { 0 } else { 1 };
        for (slot, terms) in [(slots[newer], [4, 4]), (slots[1 - newer], [5, 5])] {
            site.write(&meta, &bytes);
            site.damage(&meta, |bytes| bytes[slot + 60] ^= 1);
            for term in terms {
                assert_eq!(site.open().unwrap().1.hard_state.term, term);
                let other = slots[0] + slots[1] - slot;
                site.damage(&meta, |bytes| bytes[other + 60] ^= 1);
            }
        }
    }
}

/// Rot of the newer slot cannot be told from a torn store by the slot; the log can tell when it
/// goes on in a segment that the older slot does not know.
#[test]
fn metadata_older_than_the_log_is_refused() {
    let site = Site::memory();
    site.filled(21);
    let meta = site.path("meta");
    let bytes = site.read(&meta);
    let newer = if bytes[24] > bytes[69_632 + 24] { 0 } else { 69_632 };
    site.damage(&meta, |bytes| bytes[newer + 60] ^= 1);
    assert_corrupt(&site, &site.segments()[1], START, "older metadata");
}

/// Puts a version into a file and makes its checksum right again, as a newer zmesh would.
fn set_version(bytes: &mut [u8], at: usize, crc_at: usize, crc: impl Fn(&[u8]) -> u32) {
    bytes[at..at + 4].copy_from_slice(&2_u32.to_le_bytes());
    let crc = crc(bytes);
    bytes[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
}

/// A newer format is not corruption, and says what to do.
#[test]
fn newer_format_is_named() {
    for site in Site::both() {
        site.filled(5);
        let image = site.image();
        let file = site.segments().remove(0);
        site.damage(&file, |bytes| {
            set_version(bytes, 40, 4, |bytes| {
                crc32c::crc32c_append(crc32c::crc32c(&bytes[..4]), &bytes[8..START])
            });
        });
        match refusal(&site) {
            WalError::NewerFormat { file: at, found: 2, supported: 1 } => assert_eq!(at, file),
            other => panic!("{other}"),
        }
        site.restore(&image);
        let meta = site.path("meta");
        site.damage(&meta, |bytes| {
            let length = usize::from(bytes[12]);
            set_version(bytes, 16, 8, |bytes| crc32c::crc32c(&bytes[12..length]));
        });
        match refusal(&site) {
            WalError::NewerFormat { file: at, .. } => assert_eq!(at, meta),
            other => panic!("{other}"),
        }
    }
}

/// Rot under a running log: a reader gets an error, never another entry or changed bytes.
#[test]
fn damage_is_noticed_when_an_entry_is_read() {
    for site in Site::both() {
        let (mut wal, _) = site.open().unwrap();
        wal.append(&entries(1..=10, 1)).unwrap();
        wal.sync().unwrap();
        let file = site.segments().remove(0);
        site.damage(&file, |bytes| bytes.copy_within(offset_of(2)..offset_of(3), offset_of(4)));
        let error = wal.entries(3, 6, u64::MAX).unwrap_err();
        let at = offset_of(4) as u64;
        assert!(matches!(error, WalError::Corrupt { offset, .. } if offset == at), "{error}");
        assert_eq!(wal.entries(3, 4, u64::MAX).unwrap(), entries(3..=3, 1));
    }
}
