//! The audit of the merged rows: every leaf, every row and their tally, as the disk has them, before sled is opened.
//!
//! It proves each leaf by its checksum and place, each row by its own checksum, long rows by their chunks, and all of
//! them together by the tally, which a lost or older leaf does not add up to. It repairs nothing and keeps no rows.
//!
//! An open bounds it ([`OPEN_LIMIT_BYTES`]), since its length is that of the history; what it leaves out is proved leaf
//! by leaf and row by row when it is read, and as a whole by `noxd doctor`. Read [`Audit::run`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bytes::Bytes;

use super::disk::Disk;
use super::error::StoreError;
use super::high_water::Reached;
use super::rows::{Applied, Pair, Tally, Value};
use super::sled_files::{Leaf, Place, Table};

/// How many bytes of rows an open looks through: on the machine of docs/performance.md under a second.
const OPEN_LIMIT_BYTES: u64 = 256 * 1024 * 1024;

/// What an audit found.
#[derive(Debug, Default)]
pub(super) struct Audit {
    /// What is wrong, in the order of the keys.
    pub faults: Vec<StoreError>,
    /// Base keys of single rows that are not proved, though their leaves are.
    pub lost_keys: BTreeSet<Vec<u8>>,
    /// How far the merge had come, where that is known.
    pub applied: Option<Applied>,
    tally: Option<Tally>,
    counted: Tally,
    /// Long rows, whose chunks come after all rows.
    long: BTreeMap<Vec<u8>, Long>,
}

#[derive(Debug)]
struct Long {
    length: u64,
    chunks: u32,
    crc: u32,
    seen: u32,
    seen_bytes: u64,
    seen_crc: u32,
}

/// Holds sled's files against their promises; the first broken one is the error. Returns how far the merge has come, `None`
/// where sled has never been.
pub(super) fn before_open(disk: &dyn Disk, directory: &Path, reached: Reached) -> Result<Option<Applied>, StoreError> {
    let Some(table) = Table::read(disk, directory, reached.log)? else {
        return Ok(None);
    };
    let (audit, all) = Audit::run(&table, directory, OPEN_LIMIT_BYTES, &mut |_, _| {})?;
    if !all {
        tracing::info!(
            looked_at = OPEN_LIMIT_BYTES,
            "the oldest rows were looked through; the others are proved when they are read, or by noxd doctor"
        );
    }
    let applied = audit.applied.unwrap_or_default();
    audit.faults.into_iter().next().map_or(Ok(Some(applied)), Err)
}

impl Audit {
    /// Looks through the leaves up to `limit` bytes of rows, telling how many of how many are done. Returns whether it
    /// came to the end.
    ///
    /// # Errors
    /// Where the files cannot be read at all.
    pub(super) fn run(
        table: &Table,
        directory: &Path,
        limit: u64,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<(Audit, bool), StoreError> {
        let mut audit = Audit::default();
        for place in table.others() {
            if let Some(error) = proved(table.leaf(place))?.err() {
                audit.faults.push(error);
            }
        }
        let (mut bytes, count) = (0, table.leaves().len());
        for (index, place) in table.leaves().iter().enumerate() {
            if bytes > limit {
                return Ok((audit, false));
            }
            progress(index, count);
            match proved(table.leaf(place))? {
                Ok(leaf) => {
                    bytes += leaf.bytes;
                    audit.leaf(table, index, place, leaf);
                }
                Err(error) => audit.faults.push(error),
            }
        }
        audit.finish(directory);
        Ok((audit, true))
    }

    fn leaf(&mut self, table: &Table, index: usize, place: &Place, leaf: Leaf) {
        let end = table.end_of(index);
        for (key, stored) in leaf.rows {
            let stored = Bytes::from(stored);
            let inside = key >= place.low_key && end.is_none_or(|end| key.as_slice() < end);
            let read = if inside { Pair::read(&key, stored.clone()) } else { Err("a row stands in a leaf of others") };
            match read {
                Ok(Pair::Applied(applied)) => self.applied = Some(applied),
                Ok(Pair::Tally(tally)) => self.tally = Some(tally),
                Ok(Pair::Row(row, value)) => {
                    self.counted.add(&key, &stored);
                    if let Value::Chunked { length, chunks, crc } = value {
                        self.long.insert(row, Long { length, chunks, crc, seen: 0, seen_bytes: 0, seen_crc: 0 });
                    }
                }
                Ok(Pair::Chunk { key: row, index, bytes }) => match self.long.get_mut(&row) {
                    Some(long) if long.seen == index => {
                        long.seen += 1;
                        long.seen_bytes += bytes.len() as u64;
                        long.seen_crc = crc32c::crc32c_append(long.seen_crc, &bytes);
                    }
                    _ => {}
                },
                Err(what) => {
                    let (file, offset) = table.place(place);
                    let what = format!("{what} (key \"{}\")", key.escape_ascii());
                    self.faults.push(StoreError::corrupt(&file, offset, what));
                    self.lost_keys.insert(key);
                }
            }
        }
    }

    fn finish(&mut self, directory: &Path) {
        for (row, long) in std::mem::take(&mut self.long) {
            if (long.seen, long.seen_bytes, long.seen_crc) != (long.chunks, long.length, long.crc) {
                let what = format!("the long row \"{}\" is not whole", row.escape_ascii());
                self.faults.push(StoreError::corrupt(directory, 0, what));
                self.lost_keys.insert(super::rows::row_key(&row));
            }
        }
        let (found, due) = (self.counted, self.tally.unwrap_or_default());
        if self.faults.is_empty() && found != due {
            let what = format!(
                "{} rows are there and {} were merged, or some are older than those that were: a file below was \
                 replaced by an older copy, or lost a part",
                found.rows, due.rows
            );
            self.faults.push(StoreError::corrupt(directory, 0, what));
        }
    }
}

/// Tells damage from a disk that does not answer.
fn proved(leaf: Result<Leaf, StoreError>) -> Result<Result<Leaf, StoreError>, StoreError> {
    match leaf {
        Err(error @ StoreError::Corrupt { .. }) => Ok(Err(error)),
        Err(error) => Err(error),
        Ok(leaf) => Ok(Ok(leaf)),
    }
}
