//! The real disk and the real sled.

use std::fs;
use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, mpsc};

use bytes::Bytes;

use super::super::simulated::SimulatedDisk;
use super::super::{RealDisk, RowWrite, Store, StoreConfig, StoreError};
use super::{Model, all, apply, batch, commit_many, config, open, put};

fn open_real(directory: &Path) -> Result<Store, StoreError> {
    Store::open(config(directory), Arc::new(RealDisk))
}

#[test]
fn rows_survive_on_the_real_disk_across_merges_and_opens() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, mut model) = (open_real(directory.path()).unwrap(), Model::new());
    assert_eq!(store.store_id(), 77);
    for round in 0..3 {
        commit_many(&mut store, &mut model, 50);
        let long = batch(store.revision() + 1, vec![put("long", vec![round; 700_000]), put("row-000", "x")]);
        apply(&mut model, &long);
        store.commit(long).unwrap();
        let gone = RowWrite { key: b"row-001".to_vec(), value: None };
        let gone = batch(store.revision() + 1, vec![gone]);
        apply(&mut model, &gone);
        store.commit(gone).unwrap();
        assert_eq!(all(&store.reader()).unwrap(), model);
        let revision = store.revision();
        store.close().unwrap();
        let config = StoreConfig { new_store_id: 1, ..config(directory.path()) };
        store = Store::open(config, Arc::new(RealDisk)).unwrap();
        assert_eq!((store.store_id(), store.revision()), (77, revision));
        assert_eq!(all(&store.reader()).unwrap(), model);
    }
    // More was written than the overlay may hold, so all but the end of it must have been merged.
    let journal: u64 = fs::read_dir(directory.path().join("journal"))
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(journal < 3_000_000, "{journal} bytes of journal were not recycled");
}

#[test]
fn readers_see_whole_batches_in_their_order_while_segments_are_merged_under_them() {
    // S-VIEW-7. Every batch writes its number to all rows: a read that mixes two batches shows two numbers.
    let directory = tempfile::tempdir().unwrap();
    let mut store = open_real(directory.path()).unwrap();
    let number_of = |rows: &[(Bytes, Bytes)]| -> Option<u64> {
        let first = rows.first()?;
        assert_eq!(rows.len(), 8);
        assert!(rows.iter().all(|row| row.1[..8] == first.1[..8]), "a batch was seen in part");
        Some(u64::from_le_bytes(first.1[..8].try_into().unwrap()))
    };
    let seen = std::thread::scope(|scope| {
        let (mut tickets, mut readers) = (Vec::new(), Vec::new());
        for index in 0..2 {
            let (ticket, acknowledged) = mpsc::sync_channel::<u64>(4);
            tickets.push(ticket);
            let reader = store.reader();
            readers.push(scope.spawn(move || {
                let (mut newest, mut distinct) = (0, 0);
                for acknowledged in acknowledged {
                    let rows = match index {
                        0 => reader.scan(b"k", b"", 100),
                        _ => reader.scan_back(b"k", Bound::Unbounded, 100),
                    };
                    let number = number_of(&rows.unwrap()).expect("a batch was acknowledged before");
                    assert!(number >= acknowledged.max(newest), "{number} was seen after {acknowledged} and {newest}");
                    distinct += u64::from(number > newest);
                    newest = number;
                }
                distinct
            }));
        }
        for number in 1..=400_u64 {
            let mut value = number.to_le_bytes().to_vec();
            value.resize(100, 0);
            store.commit(batch(number, (0..8).map(|key| put(format!("k{key}"), &value)).collect())).unwrap();
            // The readers look while the next batches are committed, a few behind at most.
            tickets.iter().for_each(|ticket| ticket.send(number).expect("the reader lives"));
        }
        drop(tickets);
        readers.into_iter().map(|reader| reader.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(seen.iter().all(|distinct| *distinct >= 10), "void: readers saw only {seen:?} batches");
    store.close().unwrap();
}

#[test]
fn a_second_owner_is_told_who_the_first_is() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_real(directory.path()).unwrap();
    let refused = open_real(directory.path()).expect_err("it is in use");
    let StoreError::Locked { holder, .. } = &refused else { panic!("{refused}") };
    assert_eq!(*holder, Some(std::process::id()));
    assert!(refused.to_string().contains(&std::process::id().to_string()));
    store.close().unwrap();
    open_real(directory.path()).unwrap();
}

#[test]
fn a_directory_that_is_not_ours_is_left_as_it_was_to_the_byte() {
    for (name, content) in
        [("FORMAT", "noxd store\nversion 3\n"), ("FORMAT", "\0garbage"), ("thesis.tex", "years of work")]
    {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(name), content).unwrap();
        let refused = open_real(directory.path()).expect_err("not ours");
        assert!(matches!(refused, StoreError::Format { .. }), "{refused}");
        let names: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, [name]);
        assert_eq!(fs::read(directory.path().join(name)).unwrap(), content.as_bytes());
    }
}

#[test]
fn a_creation_that_was_cut_short_at_any_call_is_taken_up_again() {
    let mut cut = 0;
    for calls in 0..200 {
        let disk = SimulatedDisk::new(calls);
        disk.fail_power_after(calls);
        if open(&disk).is_ok() {
            break;
        }
        cut += 1;
        disk.crash();
        let mut store = open(&disk).unwrap_or_else(|error| panic!("after {calls} calls: {}", error.with_causes()));
        store.commit(batch(1, vec![put("k", "v")])).unwrap();
    }
    assert!(cut >= 10, "void: the creation takes only {cut} calls");
}
