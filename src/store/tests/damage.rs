//! Damage behind the store's back: refused with file and offset, or harmless (S-SAFE-5).

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::super::rows::{CHUNK_BYTES, Rows};
use super::super::simulated::{Chance, Operation, SimulatedDisk};
use super::super::sled::{Base, SledBase};
use super::super::{Store, StoreConfig, StoreError};
use super::{DIRECTORY, Model, all, batch, commit_many, config, open, put};

/// A disk with a journal of several segments, of which nothing is merged, and what it holds.
fn written_journal() -> (BTreeMap<PathBuf, Vec<u8>>, Model) {
    written_journal_of(11)
}

fn written_journal_of(commits: u64) -> (BTreeMap<PathBuf, Vec<u8>>, Model) {
    let disk = SimulatedDisk::new(6);
    let config = StoreConfig { overlay_bytes: 1 << 30, ..config(DIRECTORY) };
    let mut store = Store::open_simulated(config, &disk).unwrap();
    let mut model = Model::new();
    commit_many(&mut store, &mut model, commits);
    assert_eq!(disk.count(Operation::BaseFlush), 1, "the open's own, and no merge");
    (disk.files(), model)
}

fn disk_with(files: &BTreeMap<PathBuf, Vec<u8>>) -> SimulatedDisk {
    let disk = SimulatedDisk::new(7);
    for (path, bytes) in files {
        disk.plant(path, bytes);
    }
    disk
}

fn segments(files: &BTreeMap<PathBuf, Vec<u8>>) -> Vec<&PathBuf> {
    files.keys().filter(|path| path.extension().is_some_and(|extension| extension == "segment")).collect()
}

/// Opens a damaged disk: `true` when it was refused as corrupt; anything but refused or harmless fails the test.
fn refused_or_harmless(disk: &SimulatedDisk, model: &Model, damage: &str) -> bool {
    let before = disk.files();
    match open(disk) {
        Err(StoreError::Corrupt { file, offset, .. }) => {
            assert!(before.get(&file).is_none_or(|bytes| offset <= bytes.len() as u64), "{damage}");
            for path in segments(&before) {
                assert_eq!(disk.files().get(path), before.get(path), "{damage}: a refused store was changed");
            }
            true
        }
        Err(error) => panic!("{damage}: {}", error.with_causes()),
        Ok(store) => {
            assert_eq!(all(&store.reader()).unwrap(), *model, "{damage}: silent loss");
            false
        }
    }
}

#[test]
fn a_bit_flipped_in_any_sector_of_the_journal_is_refused_or_harmless() {
    // S-SAFE-5: a corrupt store is refused with the file and offset.
    let (files, model) = written_journal();
    let mut chance = Chance(8);
    let (mut refused, mut tried) = (0, 0);
    for path in segments(&files) {
        for sector in 0..files[path].len() / 512 {
            for bit in [0, 31, 32, 100, 200, 8 * 511 + 7, chance.below(4096) as usize] {
                let disk = disk_with(&files);
                disk.tamper(path, |bytes| bytes[sector * 512 + bit / 8] ^= 1 << (bit % 8));
                let damage = format!("{} sector {sector} bit {bit}", path.display());
                refused += u32::from(refused_or_harmless(&disk, &model, &damage));
                tried += 1;
            }
        }
    }
    assert!(tried >= 150 && refused * 2 > tried, "void: {refused} of {tried} were refused");
}

#[test]
fn a_shortened_swapped_or_missing_segment_is_refused() {
    let (files, model) = written_journal();
    let segments = segments(&files);
    for (index, path) in segments.iter().enumerate() {
        for length in [0, 100, 512, 1024, 3584, 4095] {
            let disk = disk_with(&files);
            disk.tamper(path, |bytes| bytes.truncate(length));
            assert!(refused_or_harmless(&disk, &model, &format!("segment {index} cut to {length}")));
        }
        let disk = disk_with(&files);
        let other = &files[segments[(index + 1) % segments.len()]];
        disk.tamper(path, |bytes| bytes.clone_from(other));
        assert!(refused_or_harmless(&disk, &model, &format!("segment {index} is a copy of another")));
        let disk = disk_with(&files);
        disk.snatch(path);
        assert!(refused_or_harmless(&disk, &model, &format!("segment {index} is missing")));
    }
    let disk = disk_with(&files);
    segments.iter().for_each(|path| disk.snatch(path));
    assert!(refused_or_harmless(&disk, &model, "all segments are missing"));
}

#[test]
fn an_older_copy_of_any_file_is_refused_or_harmless() {
    // What an older copy does not have, only the high-water mark tells: the journal of a store that has not come that
    // far looks the same.
    let (newer, model) = written_journal();
    let mut refused = 0;
    for commits in 1..11 {
        let (older, _) = written_journal_of(commits);
        for (path, bytes) in older {
            let disk = disk_with(&newer);
            disk.tamper(&path, |now| now.clone_from(&bytes));
            let what = format!("{} is as it was after {commits} commits", path.display());
            refused += u32::from(refused_or_harmless(&disk, &model, &what));
        }
    }
    assert!(refused >= 5, "void: {refused} were refused");
}

#[test]
fn a_mark_that_is_damaged_or_missing_is_refused() {
    let (files, model) = written_journal();
    let mark = files.keys().find(|path| path.ends_with("HIGH-WATER")).unwrap();
    for bit in (0..512 * 8).step_by(37) {
        let disk = disk_with(&files);
        disk.tamper(mark, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
        assert!(refused_or_harmless(&disk, &model, &format!("bit {bit} of the mark")));
    }
    let disk = disk_with(&files);
    disk.snatch(mark);
    assert!(refused_or_harmless(&disk, &model, "the mark is missing"));
}

#[test]
fn a_torn_tail_is_dropped_and_overwritten_but_a_hole_before_the_end_is_corruption() {
    let (files, model) = written_journal();
    let disk = disk_with(&files);
    let mut store = open(&disk).unwrap();
    disk.fail_nth(Operation::Sync, 1, io::ErrorKind::Other);
    store.commit(batch(49, vec![put("torn", vec![1; 600])])).expect_err("the sync fails");
    drop(store);
    // A record of 600 bytes has two sectors. The newest segment holds a few; find the last sector that is written.
    let files = disk.files();
    let (first, last) = (segments(&files)[0], *segments(&files).last().unwrap());
    let written = files[last].chunks(512).rposition(|sector| sector.iter().any(|byte| *byte != 0)).unwrap();
    let torn = disk_with(&files);
    torn.tamper(last, |bytes| bytes[written * 512..(written + 1) * 512].fill(0));
    let mut store = open(&torn).unwrap();
    assert_eq!(all(&store.reader()).unwrap(), model, "exactly the unfinished batch is gone");
    store.commit(batch(50, vec![put("next", "batch")])).unwrap();
    drop(store);
    assert_eq!(open(&torn).unwrap().reader().get(b"next").unwrap().unwrap(), "batch");

    // The same hole in a batch that was acknowledged is none that a crash could leave.
    let (files, model) = written_journal();
    let last = *segments(&files).last().unwrap();
    let written = files[last].chunks(512).rposition(|sector| sector.iter().any(|byte| *byte != 0)).unwrap();
    let lost = disk_with(&files);
    lost.tamper(last, |bytes| bytes[written * 512..(written + 1) * 512].fill(0));
    assert!(refused_or_harmless(&lost, &model, "the end of an acknowledged batch is gone"));

    let hole = disk_with(&files);
    hole.tamper(first, |bytes| bytes[2 * 512..3 * 512].fill(0));
    assert!(refused_or_harmless(&hole, &model, "a hole in the first segment"));
}

#[test]
fn a_merged_row_that_was_changed_behind_our_back_is_reported_and_not_returned() {
    let directory = tempfile::tempdir().unwrap();
    let base = SledBase::open(directory.path(), 1 << 20).unwrap();
    let base: Arc<dyn Base> = Arc::new(base);
    let rows = Rows::open(Arc::clone(&base), directory.path().to_path_buf()).unwrap();
    let long = Bytes::from(vec![5; CHUNK_BYTES * 2 + 1]);
    let mut writes = Vec::new();
    rows.writes_for(b"a", Some(&Bytes::from_static(b"row")), &mut writes).unwrap();
    rows.writes_for(b"b", Some(&long), &mut writes).unwrap();
    rows.apply(writes.clone()).unwrap();
    assert_eq!(rows.get(b"b").unwrap().unwrap(), long);
    // Each stored value in turn: damaged, then swapped for the value of another key.
    for (index, (key, value)) in writes.iter().enumerate() {
        let sound = value.clone().unwrap();
        let mut flipped = sound.clone();
        *flipped.last_mut().unwrap() ^= 1;
        let foreign = writes[(index + 1) % writes.len()].1.clone().unwrap();
        for bad in [Some(flipped), Some(foreign), Some(Vec::new())] {
            base.apply(vec![(key.clone(), bad)]).unwrap();
            let outcomes = [rows.get(b"a"), rows.get(b"b")];
            assert_eq!(outcomes.iter().filter(|o| matches!(o, Err(StoreError::Corrupt { .. }))).count(), 1);
        }
        base.apply(vec![(key.clone(), Some(sound))]).unwrap();
    }
    // A shorter value takes the chunks of the longer one away.
    let mut shorter = Vec::new();
    rows.writes_for(b"b", Some(&Bytes::from_static(b"short")), &mut shorter).unwrap();
    assert_eq!(shorter.iter().filter(|(_, value)| value.is_none()).count(), 3);
    rows.apply(shorter).unwrap();
    assert_eq!(rows.get(b"b").unwrap().unwrap(), "short");
}
