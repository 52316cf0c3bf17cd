//! The store as a whole, told as stories: on a disk that fails by design, and on the real one. Here is what they share.

mod damage;
mod errors;
mod power;
mod reads;
mod real;

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::simulated::SimulatedDisk;
use super::{Batch, Reader, RowWrite, Store, StoreConfig, StoreError};

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

const DIRECTORY: &str = "/data";

fn config(directory: impl Into<PathBuf>) -> StoreConfig {
    // Small enough that a few batches fill a segment and a few segments fill the overlay.
    StoreConfig { segment_bytes: 4096, overlay_bytes: 10_000, ..StoreConfig::new(directory, 77) }
}

fn open(disk: &SimulatedDisk) -> Result<Store, StoreError> {
    Store::open_simulated(config(DIRECTORY), disk)
}

fn put(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> RowWrite {
    RowWrite { key: key.as_ref().to_vec(), value: Some(value.as_ref().to_vec()) }
}

fn batch(revision: u64, rows: Vec<RowWrite>) -> Batch {
    Batch { revision, rows }
}

fn apply(model: &mut Model, batch: &Batch) {
    for row in &batch.rows {
        match &row.value {
            Some(value) => model.insert(row.key.clone(), value.clone()),
            None => model.remove(&row.key),
        };
    }
}

fn all(reader: &Reader) -> Result<Model, StoreError> {
    let rows = reader.scan(b"", b"", usize::MAX)?;
    Ok(rows.into_iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect())
}

/// Commits `count` batches of one row of about 600 bytes each, so that three fill a segment.
fn commit_many(store: &mut Store, model: &mut Model, count: u64) {
    for number in 0..count {
        let revision = store.revision() + 1;
        let batch = batch(revision, vec![put(format!("row-{:03}", number % 40), vec![revision as u8; 600])]);
        apply(model, &batch);
        store.commit(batch).unwrap();
    }
}
