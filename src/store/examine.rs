//! Looking at a store without changing it: what is wrong in its files, and a reader of what is proved in spite of it.
//!
//! [`examine`] goes on where an open refuses. Of the base it takes the rows whose leaf and checksum are right, of the
//! journal every batch before the first damage, and reports the rest. It says nothing about what rows mean: whether an
//! execution is whole is judged above, by `noxd doctor`.
//!
//! It takes the store's lock, writes nothing and opens no sled.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::audit::Audit;
use super::disk::{Disk, Lock};
use super::error::StoreError;
use super::format;
use super::high_water::{HighWater, Reached};
use super::journal;
use super::overlay::Overlay;
use super::reader::Reader;
use super::record::sectors;
use super::rows::Rows;
use super::segment::{self, Header};
use super::shared::{Parts, Shared};
use super::sled::{Base, BaseBatch, Visit};
use super::sled_files::{Leaf, Table};
use super::{JOURNAL, Key, ROWS};

/// What was found.
pub struct Examined {
    /// The identity of the store.
    pub store_id: u128,
    /// The newest revision that is proved.
    pub revision: u64,
    /// What is wrong, file by file.
    pub faults: Vec<StoreError>,
    /// Acknowledged batches that the journal does not prove any more, from the first to the last.
    pub lost_batches: Option<(u64, u64)>,
    reader: Reader,
}

impl Examined {
    /// Reads what is proved.
    pub fn reader(&self) -> Reader {
        self.reader.clone()
    }
}

/// Examines the store in `directory`. `progress` hears what is looked at, and how many of how many are done.
///
/// # Errors
/// Where there is no store, somebody has it open, it is of another version, or the disk does not answer.
pub fn examine(
    directory: &Path,
    disk: Arc<dyn Disk>,
    progress: &mut dyn FnMut(&str, usize, usize),
) -> Result<Examined, StoreError> {
    let lock_path = directory.join(format::LOCK);
    let lock = match disk.lock_to_read(&lock_path).map_err(StoreError::io("lock", &lock_path))? {
        Lock::Held(lock) => lock,
        Lock::Busy { holder } => return Err(StoreError::Locked { directory: directory.to_path_buf(), holder }),
    };
    let mut faults = Vec::new();
    let (store_id, reached) = identity(&*disk, directory, &mut faults)?;

    let rows_directory = directory.join(ROWS);
    let table = Table::salvage(&*disk, &rows_directory, reached.log, &mut faults)?;
    let audit = match &table {
        Some(table) => {
            let mut leaves = |done: usize, all: usize| progress("leaves of merged rows", done, all);
            Audit::run(table, &rows_directory, u64::MAX, &mut leaves)?.0
        }
        None => Audit::default(),
    };
    faults.extend(audit.faults);
    let applied = audit.applied.unwrap_or_default();
    let rows = Rows::of_image(Arc::new(Image::new(table, audit.lost_keys)), rows_directory);
    if applied.batch < reached.merged {
        faults.push(rows.behind(reached.merged));
    }
    let mut overlay = Overlay::above(applied);
    let journal_directory = directory.join(JOURNAL);
    let mut salvage = Salvage { disk: &*disk, directory: &journal_directory, store_id, faults: &mut faults };
    salvage.replay(applied.batch, reached, &mut overlay, progress)?;
    let revision = overlay.revision();
    let (proved, acknowledged) = (overlay.published(), reached.batch.max(reached.merged));
    let lost_batches = (proved < acknowledged).then_some((proved + 1, acknowledged));
    let shared = Shared::new(Parts {
        disk,
        directory: directory.to_path_buf(),
        segment_bytes: 0,
        overlay_bytes: 0,
        rows,
        high_water: None,
        overlay,
        merged: Vec::new(),
        applied_batch: applied.batch,
        ballast_bytes: 0,
        has_ballast: true,
        lock,
    });
    Ok(Examined { store_id, revision, faults, lost_batches, reader: Reader { shared: Arc::new(shared) } })
}

/// The store's id and mark. Where `FORMAT` is damaged, the mark knows the id as well.
fn identity(disk: &dyn Disk, directory: &Path, faults: &mut Vec<StoreError>) -> Result<(u128, Reached), StoreError> {
    let known = match format::examine(disk, directory) {
        Ok(Some(id)) => Ok(id),
        Ok(None) => {
            let what = "there is no store in it".to_owned();
            return Err(StoreError::Format { file: directory.to_path_buf(), what });
        }
        Err(error @ StoreError::Format { .. }) if !format::is_of_another_version(disk, directory) => Err(error),
        Err(error) => return Err(error),
    };
    match known {
        Ok(id) => match HighWater::look(disk, directory, Some(id)) {
            Ok((_, reached)) => Ok((id, reached)),
            Err(error @ StoreError::Corrupt { .. }) => {
                faults.push(error);
                Ok((id, Reached::default()))
            }
            Err(error) => Err(error),
        },
        Err(error) => match HighWater::look(disk, directory, None) {
            Ok(found) => {
                faults.push(error);
                Ok(found)
            }
            Err(_) => Err(error),
        },
    }
}

/// The journal as far as it is proved.
struct Salvage<'a> {
    disk: &'a dyn Disk,
    directory: &'a Path,
    store_id: u128,
    faults: &'a mut Vec<StoreError>,
}

impl Salvage<'_> {
    fn replay(
        &mut self,
        applied: u64,
        reached: Reached,
        overlay: &mut Overlay,
        progress: &mut dyn FnMut(&str, usize, usize),
    ) -> Result<(), StoreError> {
        let sequences = self.sequences()?;
        let mut found = Vec::new();
        for sequence in &sequences {
            let path = segment::path(self.directory, *sequence);
            let file = self.disk.open_to_read(&path).map_err(StoreError::io("open", &path))?;
            match Header::read(&*file, &path, self.store_id, *sequence) {
                Ok(header) => found.push((file, path, header)),
                Err(error @ StoreError::Corrupt { .. }) => self.faults.push(error),
                Err(error) => return Err(error),
            }
        }
        // What is before the last segment that begins no later than what comes next is merged.
        let begins = |header: &Header| header.first_batch <= applied.saturating_add(1);
        let first = found.iter().rposition(|(_, _, header)| begins(header));
        if let (None, Some((_, path, header))) = (first, found.first()) {
            let what = format!("it begins with batch {}, after a gap", header.first_batch);
            self.faults.push(StoreError::corrupt(path, 0, what));
        }
        let found = found.split_off(first.unwrap_or(0));
        let (count, mut next, mut end) = (found.len(), None, None);
        for (index, (file, path, header)) in found.into_iter().enumerate() {
            progress("segments of the journal", index, count);
            if next.is_some_and(|next| next != (header.sequence, header.first_batch)) {
                self.faults.push(StoreError::corrupt(&path, 0, "what comes before it is missing"));
                return Ok(());
            }
            let scan = segment::scan(&*file, &path, &header, |batch, revision, rows| {
                if batch > applied {
                    let bytes = rows.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Bytes::len)).sum();
                    overlay.publish(batch, revision, sectors(bytes), rows);
                }
            });
            let scan = match scan {
                Ok(scan) => scan,
                Err(error @ StoreError::Corrupt { .. }) => {
                    self.faults.push(error);
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            next = Some((header.sequence.saturating_add(1), scan.next_batch));
            end = Some((path, header.sequence, scan));
        }
        match end {
            Some((path, sequence, scan)) if scan.next_batch <= reached.batch => {
                self.faults.push(journal::lost_end(self.directory, &path, sequence, scan, reached));
            }
            None if reached.batch.max(applied) > 0 && sequences.is_empty() => {
                let what = format!("there is no segment, but {} batches were committed", reached.batch.max(applied));
                self.faults.push(StoreError::corrupt(self.directory, 0, what));
            }
            _ => {}
        }
        Ok(())
    }

    fn sequences(&mut self) -> Result<BTreeSet<u64>, StoreError> {
        let mut sequences = BTreeSet::new();
        let names = match self.disk.list(self.directory) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(StoreError::io("list", self.directory)(error)),
        };
        for name in names {
            match name.to_str().and_then(segment::sequence_of) {
                Some(Some(sequence)) => drop(sequences.insert(sequence)),
                Some(None) => {
                    let what = "it is named like a segment but is none; move it elsewhere".to_owned();
                    self.faults.push(StoreError::Format { file: self.directory.join(name), what });
                }
                None => {}
            }
        }
        Ok(sequences)
    }
}

/// The proved leaves of sled's files, as a base that only gives.
struct Image {
    table: Option<Table>,
    /// Base keys that are passed over.
    lost: BTreeSet<Key>,
    /// The leaves that were read last, by their place in the table; `None` where one is not proved.
    recent: Mutex<VecDeque<(usize, Option<Arc<Leaf>>)>>,
}

/// Leaves kept at hand: reads go through neighbouring keys, in a few places at once.
const RECENT_LEAVES: usize = 64;

impl Image {
    fn new(table: Option<Table>, lost: BTreeSet<Key>) -> Image {
        Image { table, lost, recent: Mutex::default() }
    }

    fn leaf(&self, table: &Table, index: usize) -> io::Result<Option<Arc<Leaf>>> {
        let mut recent = self.recent.lock().expect("nobody panics while moving leaves");
        if let Some((_, leaf)) = recent.iter().find(|(at, _)| *at == index) {
            return Ok(leaf.clone());
        }
        let leaf = match table.leaf(&table.leaves()[index]) {
            Ok(leaf) => Some(Arc::new(leaf)),
            // It was reported by the audit.
            Err(StoreError::Corrupt { .. }) => None,
            Err(error) => return Err(io::Error::other(error.with_causes())),
        };
        if recent.len() >= RECENT_LEAVES {
            recent.pop_front();
        }
        recent.push_back((index, leaf.clone()));
        Ok(leaf)
    }

    /// The leaf in which a key would be.
    fn index_of(table: &Table, key: &[u8]) -> usize {
        table.leaves().partition_point(|place| place.low_key.as_slice() <= key).saturating_sub(1)
    }
}

impl Base for Image {
    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        let Some(table) = self.table.as_ref().filter(|table| !table.leaves().is_empty()) else { return Ok(None) };
        if self.lost.contains(key) {
            return Ok(None);
        }
        let Some(leaf) = self.leaf(table, Image::index_of(table, key))? else { return Ok(None) };
        let found = leaf.rows.binary_search_by(|(other, _)| other.as_slice().cmp(key));
        Ok(found.ok().map(|at| Bytes::copy_from_slice(&leaf.rows[at].1)))
    }

    fn ascend(&self, from: &[u8], visit: Visit<'_>) -> io::Result<()> {
        let Some(table) = &self.table else { return Ok(()) };
        for index in Image::index_of(table, from)..table.leaves().len() {
            let Some(leaf) = self.leaf(table, index)? else { continue };
            for (key, value) in leaf.rows.iter().filter(|(key, _)| key.as_slice() >= from && !self.lost.contains(key)) {
                if visit(key, value) == ControlFlow::Break(()) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn descend(&self, through: &[u8], visit: Visit<'_>) -> io::Result<()> {
        let Some(table) = self.table.as_ref().filter(|table| !table.leaves().is_empty()) else { return Ok(()) };
        for index in (0..=Image::index_of(table, through)).rev() {
            let Some(leaf) = self.leaf(table, index)? else { continue };
            let inside = leaf.rows.iter().rev().filter(|(key, _)| key.as_slice() <= through);
            for (key, value) in inside.filter(|(key, _)| !self.lost.contains(key)) {
                if visit(key, value) == ControlFlow::Break(()) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn apply(&self, _batch: BaseBatch) -> io::Result<()> {
        Err(io::Error::other("a store that is examined is not written to"))
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}
