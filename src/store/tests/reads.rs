//! Reads: equal to a sorted map, and never of two batches at once (S-VIEW-7).

use std::io;
use std::ops::Bound;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use proptest::prelude::*;

use super::super::simulated::SimulatedDisk;
use super::super::{Batch, RowWrite, Store};
use super::{DIRECTORY, Model, apply, batch, config, open, put};

fn short_key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop_oneof![Just(0_u8), Just(b'a'), Just(b'b'), Just(255)], 0..4)
}

#[derive(Debug, Clone)]
enum Step {
    Commit(Vec<(Vec<u8>, Option<Vec<u8>>)>),
    Merge,
    Reopen,
    Scan { prefix: Vec<u8>, edge: Vec<u8>, limit: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let value = prop::option::of(prop::collection::vec(any::<u8>(), 0..400));
    prop_oneof![
        5 => prop::collection::vec((short_key(), value), 1..6).prop_map(Step::Commit),
        3 => Just(Step::Merge),
        1 => Just(Step::Reopen),
        6 => (short_key(), short_key(), 1..12_usize)
            .prop_map(|(prefix, edge, limit)| Step::Scan { prefix, edge, limit }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_read_equals_a_sorted_map_whatever_is_merged(steps in prop::collection::vec(step(), 1..60)) {
        let disk = SimulatedDisk::new(9);
        let (mut store, mut model) = (open(&disk).unwrap(), Model::new());
        for step in steps {
            match step {
                Step::Commit(rows) => {
                    let rows = rows.into_iter().map(|(key, value)| RowWrite { key, value }).collect();
                    let batch = Batch { revision: 1, rows };
                    apply(&mut model, &batch);
                    store.commit(batch).unwrap();
                }
                Step::Merge => store.merge_by_hand().unwrap(),
                Step::Reopen => {
                    store.close().unwrap();
                    store = open(&disk).unwrap();
                }
                Step::Scan { prefix, edge, limit } => {
                    let reader = store.reader();
                    prop_assert_eq!(reader.get(&edge).unwrap().map(|row| row.to_vec()), model.get(&edge).cloned());
                    let expected = |keep: &dyn Fn(&[u8]) -> bool, back: bool| -> Vec<(Bytes, Bytes)> {
                        let inside = model.iter().filter(|(key, _)| key.starts_with(&prefix) && keep(key));
                        let row = |(key, value): (&Vec<u8>, &Vec<u8>)| (key.clone().into(), value.clone().into());
                        if back { inside.rev().take(limit).map(row).collect() } else { inside.take(limit).map(row).collect() }
                    };
                    prop_assert_eq!(reader.scan(&prefix, &edge, limit).unwrap(), expected(&|key| key >= edge.as_slice(), false));
                    prop_assert_eq!(
                        reader.scan_back(&prefix, Bound::Included(&edge), limit).unwrap(),
                        expected(&|key| key <= edge.as_slice(), true)
                    );
                    prop_assert_eq!(
                        reader.scan_back(&prefix, Bound::Excluded(&edge), limit).unwrap(),
                        expected(&|key| key < edge.as_slice(), true)
                    );
                    prop_assert_eq!(
                        reader.scan_back(&prefix, Bound::Unbounded, limit).unwrap(),
                        expected(&|_| true, true)
                    );
                }
            }
        }
    }
}

/// A base that lets something happen between a reader's copy of the overlay and its walk over the base.
struct Interrupted {
    base: super::super::simulated::SimulatedBase,
    meanwhile: Arc<Mutex<Option<Meanwhile>>>,
}

type Meanwhile = Box<dyn FnMut() + Send>;

impl Interrupted {
    fn interrupt(&self) {
        // Taken out while it runs, since the merge that it runs reads the base as well.
        let taken = self.meanwhile.lock().unwrap().take();
        if let Some(mut meanwhile) = taken {
            meanwhile();
            *self.meanwhile.lock().unwrap() = Some(meanwhile);
        }
    }
}

impl super::super::sled::Base for Interrupted {
    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        self.base.get(key)
    }
    fn ascend(&self, from: &[u8], visit: super::super::sled::Visit<'_>) -> io::Result<()> {
        self.interrupt();
        self.base.ascend(from, visit)
    }
    fn descend(&self, through: &[u8], visit: super::super::sled::Visit<'_>) -> io::Result<()> {
        self.interrupt();
        self.base.descend(through, visit)
    }
    fn apply(&self, batch: super::super::sled::BaseBatch) -> io::Result<()> {
        self.base.apply(batch)
    }
    fn flush(&self) -> io::Result<()> {
        self.base.flush()
    }
}

#[test]
fn a_read_that_a_merge_overtakes_starts_again_instead_of_mixing_two_batches() {
    // S-VIEW-7
    let disk = SimulatedDisk::new(10);
    let meanwhile = Arc::new(Mutex::new(None));
    let base = Interrupted { base: disk.open_base().unwrap(), meanwhile: Arc::clone(&meanwhile) };
    let store = Store::assemble(config(DIRECTORY), Arc::new(disk.clone()), |_| Ok(Arc::new(base)));
    let store = Arc::new(Mutex::new(store.unwrap()));
    let reader = store.lock().unwrap().reader();
    let commit_and_merge_all = |store: &mut Store, rows: Vec<RowWrite>| {
        store.commit(batch(1, rows)).unwrap();
        // Enough behind it to seal its segment, then everything sealed goes into the base.
        (0..4).for_each(|_| store.commit(batch(1, vec![put("filler", vec![0; 900])])).unwrap());
        (0..3).for_each(|_| store.merge_by_hand().unwrap());
    };
    // "pair-b" is in the base alone, "pair-a" in the overlay too; both are 0.
    commit_and_merge_all(&mut store.lock().unwrap(), vec![put("pair-a", [0]), put("pair-b", [0])]);
    store.lock().unwrap().commit(batch(1, vec![put("pair-a", [0])])).unwrap();
    let (mut number, theirs) = (0, Arc::clone(&store));
    let overtake = move || {
        if number < 2 {
            number += 1;
            commit_and_merge_all(&mut theirs.lock().unwrap(), vec![put("pair-a", [number]), put("pair-b", [number])]);
        }
    };
    *meanwhile.lock().unwrap() = Some(Box::new(overtake) as Meanwhile);

    let rows = reader.scan(b"pair", b"", 10).unwrap();
    assert_eq!(rows, [("pair-a".into(), vec![2].into()), ("pair-b".into(), vec![2].into())]);
    // The hook holds the store, and the store's base the hook.
    meanwhile.lock().unwrap().take();
}
