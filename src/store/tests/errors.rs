//! Calls that fail and disks that are full (S-SAFE-5).

use std::io;

use super::super::simulated::{Operation, SimulatedDisk};
use super::super::{RowWrite, StoreError};
use super::{Model, all, apply, batch, commit_many, open, put};

#[test]
fn any_failed_write_or_sync_ends_all_acknowledgements_and_loses_nothing() {
    // S-SAFE-5: no more acknowledgements after a failed sync.
    for operation in [Operation::Write, Operation::Sync, Operation::BaseApply, Operation::BaseFlush] {
        let mut failures = 0;
        for nth in 1..40 {
            let disk = SimulatedDisk::new(nth);
            let (mut store, mut model) = (open(&disk).unwrap(), Model::new());
            disk.fail_nth(operation, nth, io::ErrorKind::Other);
            let mut failed = None;
            for revision in 1..60 {
                let batch = batch(revision, vec![put(format!("k{revision}"), vec![7; 500])]);
                match store.commit(batch.clone()) {
                    Ok(()) => apply(&mut model, &batch),
                    Err(error) => {
                        failed = Some((error, batch));
                        break;
                    }
                }
            }
            let Some((error, doubtful)) = failed else {
                continue;
            };
            failures += 1;
            assert!(matches!(error, StoreError::Io { .. } | StoreError::Base { .. }), "{error}");
            for _ in 0..3 {
                let refused = store.commit(batch(99, vec![])).expect_err("poisoned");
                assert!(matches!(refused, StoreError::Poisoned { .. }), "{refused}");
            }
            assert_eq!(all(&store.reader()).unwrap(), model, "readers go on");
            drop(store);
            disk.crash();
            let found = all(&open(&disk).unwrap().reader()).unwrap();
            let mut with = model.clone();
            apply(&mut with, &doubtful);
            assert!(found == model || found == with, "{operation:?} {nth}");
        }
        assert!(failures >= 5, "void: {operation:?} failed only {failures} times");
    }
}

#[test]
fn a_full_disk_refuses_a_commit_and_recovers_when_space_returns() {
    // S-SAFE-5
    let disk = SimulatedDisk::new(3);
    let (mut store, mut model) = (open(&disk).unwrap(), Model::new());
    commit_many(&mut store, &mut model, 2);
    store.merge_by_hand().unwrap();
    assert!(store.free_for_new_work());
    disk.limit_space(Some(disk.used_bytes()));
    assert!(!store.free_for_new_work(), "the spare is there, but nothing behind it");

    let (mut accepted, mut refused) = (0, 0);
    for revision in 10..40 {
        let batch = batch(revision, vec![put(format!("late-{revision}"), vec![1; 600])]);
        match store.commit(batch.clone()) {
            Ok(()) => {
                accepted += 1;
                apply(&mut model, &batch);
            }
            Err(error) => {
                assert!(matches!(error, StoreError::Full { .. }), "{error}");
                refused += 1;
            }
        }
        assert_eq!(all(&store.reader()).unwrap(), model, "reads go on");
    }
    assert!(accepted >= 3, "the reserve took only {accepted}");
    assert!(refused >= 10, "void: only {refused} were refused");
    assert!(!store.free_for_new_work());

    disk.limit_space(None);
    store.commit(batch(50, vec![put("after", "space")])).unwrap();
    apply(&mut model, &batch(50, vec![put("after", "space")]));
    store.merge_by_hand().unwrap();
    assert!(store.free_for_new_work());
    drop(store);
    disk.crash();
    assert_eq!(all(&open(&disk).unwrap().reader()).unwrap(), model);
}

#[test]
fn a_segment_that_finds_no_space_for_its_name_leaves_the_store_as_it_was() {
    let disk = SimulatedDisk::new(4);
    let (mut store, mut model) = (open(&disk).unwrap(), Model::new());
    commit_many(&mut store, &mut model, 3);
    store.merge_by_hand().unwrap();
    disk.fail_nth(Operation::Name, 1, io::ErrorKind::StorageFull);
    let mut fulls = 0;
    for revision in 10..20 {
        let batch = batch(revision, vec![put("k", vec![revision as u8; 600])]);
        match store.commit(batch.clone()) {
            Ok(()) => apply(&mut model, &batch),
            Err(StoreError::Full { .. }) => fulls += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(fulls, 1);
    assert_eq!(all(&store.reader()).unwrap(), model);
}

#[test]
fn what_breaks_the_contract_is_refused_before_a_byte_is_written() {
    let disk = SimulatedDisk::new(5);
    let mut store = open(&disk).unwrap();
    store.commit(batch(9, vec![put("k", "v")])).unwrap();
    let writes = disk.count(Operation::Write);
    let backwards = store.commit(batch(8, vec![])).expect_err("revisions never decrease");
    assert!(matches!(backwards, StoreError::Refused { .. }));
    let long_key = store.commit(batch(9, vec![put(vec![0; 70_000], "v")])).expect_err("the key is too long");
    assert!(matches!(long_key, StoreError::Refused { .. }));
    let huge = RowWrite { key: vec![], value: Some(vec![0; 257 << 20]) };
    let huge = store.commit(batch(9, vec![huge])).expect_err("the batch is too large");
    assert!(matches!(huge, StoreError::TooLarge { .. }));
    assert_eq!(disk.count(Operation::Write), writes);
    store.commit(batch(9, vec![put("k", "w")])).unwrap();
}
