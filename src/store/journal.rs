//! The journal: the point of durability. It appends batches to the newest segment and finds them again at open.
//!
//! It neither prepares segments (see [`super::spare`]) nor keeps rows (see [`super::overlay`]), and it holds no lock: the
//! one writer owns it. Read [`Journal::append`] for the hot path and [`replay`] for the rules of an open:
//!
//! * Segments whose batches are all merged are handed back; the others follow each other without a gap, in their
//!   sequence and in the numbers of their batches, and begin no later than right after the last merged batch.
//! * Only the newest may end in a torn record, which is zeroed and synced before anything is appended.
//! * They hold every batch that the high-water mark says was acknowledged.
//! * Anything else is [`StoreError::Corrupt`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::RowWrite;
use super::disk::{Disk, DiskFile};
use super::error::StoreError;
use super::high_water::Reached;
use super::overlay::Overlay;
use super::record::{self, Tags};
use super::rows::Applied;
use super::segment::{self, HEADER_BYTES, Header, Scan, Segment};
use super::spare::Spare;

/// The writer's end of the journal.
pub(super) struct Journal {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    store_id: u128,
    active: Active,
    next_batch: u64,
    /// Kept between batches, so that the hot path does not allocate.
    frame: Vec<u8>,
}

/// The segment that is written to.
struct Active {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    sequence: u64,
    length: u64,
    tail: u64,
}

impl Journal {
    /// Begins an empty journal with its first segment.
    pub(super) fn create(
        disk: Arc<dyn Disk>,
        directory: PathBuf,
        store_id: u128,
        spare: Spare,
    ) -> Result<Journal, StoreError> {
        let active = begin_segment(&*disk, &directory, store_id, 1, 1, spare).map_err(|refused| refused.error)?;
        Ok(Journal { disk, directory, store_id, active, next_batch: 1, frame: Vec::new() })
    }

    /// The segment that is written to.
    pub(super) fn segment(&self) -> u64 {
        self.active.sequence
    }

    /// Whether a record of `extent` bytes fits into the segment.
    pub(super) fn has_room(&self, extent: u64) -> bool {
        self.active.length - self.active.tail >= extent
    }

    /// Writes one record and syncs it: one write, one `fdatasync`. Returns the batch's number and the bytes it took.
    ///
    /// The caller asked [`Journal::has_room`]. After an error what is in the file is unknown: append no more.
    pub(super) fn append(&mut self, revision: u64, rows: &[RowWrite]) -> Result<(u64, u64), StoreError> {
        let (batch, active) = (self.next_batch, &mut self.active);
        let tags = Tags::new(self.store_id, active.sequence);
        record::encode(&mut self.frame, tags, active.tail, batch, revision, rows);
        active.file.write_at(&self.frame, active.tail).map_err(StoreError::io("write", &active.path))?;
        active.file.sync_data().map_err(StoreError::io("sync", &active.path))?;
        let bytes = self.frame.len() as u64;
        active.tail += bytes;
        self.next_batch += 1;
        self.frame.shrink_to(FRAME_KEPT_BYTES);
        Ok((batch, bytes))
    }

    /// Goes on in another segment and returns the one it leaves.
    pub(super) fn rotate(&mut self, spare: Spare) -> Result<Segment, RotateRefused> {
        let sequence = self.active.sequence + 1;
        let next = begin_segment(&*self.disk, &self.directory, self.store_id, sequence, self.next_batch, spare)?;
        let left = std::mem::replace(&mut self.active, next);
        Ok(Segment { path: left.path, length: left.length })
    }
}

/// A segment could not be begun. The spare comes back when it is as good as before, that is when only the space for its
/// new name was missing.
pub(super) struct RotateRefused {
    pub error: StoreError,
    pub spare: Option<Spare>,
}

/// Memory for encoding that is kept between batches.
const FRAME_KEPT_BYTES: usize = 1024 * 1024;

/// Turns a spare into a segment. Its header is durable before its name is, and its name before anything is appended.
fn begin_segment(
    disk: &dyn Disk,
    directory: &Path,
    store_id: u128,
    sequence: u64,
    first_batch: u64,
    spare: Spare,
) -> Result<Active, RotateRefused> {
    let fatal = |error| RotateRefused { error, spare: None };
    let header = Header { store_id, sequence, first_batch, length: spare.length };
    header.write(&*spare.file).map_err(StoreError::io("write", &spare.path)).map_err(fatal)?;
    spare.file.sync_data().map_err(StoreError::io("sync", &spare.path)).map_err(fatal)?;
    let path = segment::path(directory, sequence);
    if let Err(error) = disk.rename(&spare.path, &path).map_err(StoreError::io("rename to", &path)) {
        let spare = error.is_no_space().then_some(spare);
        return Err(RotateRefused { error, spare });
    }
    disk.sync_directory(directory).map_err(StoreError::io("sync", directory)).map_err(fatal)?;
    Ok(Active { file: spare.file, path, sequence, length: spare.length, tail: HEADER_BYTES })
}

/// What an open found.
pub(super) struct Recovered {
    /// `None` when there is no segment at all.
    pub journal: Option<Journal>,
    /// Segments that the base has wholly; they may be recycled.
    pub merged: Vec<Segment>,
}

/// A journal that was read, and not touched yet.
pub(super) struct Replayed {
    directory: PathBuf,
    store_id: u128,
    merged: Vec<Segment>,
    newest: Option<(Found, Scan)>,
    /// What is beyond the base.
    pub overlay: Overlay,
}

/// Reads the journal of a store whose base has come as far as `applied`. It changes nothing.
///
/// # Errors
/// [`StoreError::Corrupt`] when the journal is not what a crash could have left.
pub(super) fn replay(
    disk: &dyn Disk,
    directory: &Path,
    store_id: u128,
    applied: Applied,
    reached: Reached,
) -> Result<Replayed, StoreError> {
    let mut overlay = Overlay::above(applied);
    let mut found = open_segments(disk, directory, store_id)?;
    // All batches of a segment are merged when the next one begins no later than right after the last merged batch.
    let is_merged = |next: &Found| next.header.first_batch <= applied.batch.saturating_add(1);
    let merged_count = found.iter().skip(1).take_while(|next| is_merged(next)).count();
    let merged: Vec<_> = found.drain(..merged_count).map(|found| found.closed()).collect();
    let directory = directory.to_path_buf();
    let Some(first) = found.first() else {
        return match applied.batch.max(reached.batch) {
            0 => Ok(Replayed { directory, store_id, merged, newest: None, overlay }),
            batch => Err(gone(&directory, format!("there is no segment, but {batch} batches were committed"))),
        };
    };
    if first.header.first_batch > applied.batch.saturating_add(1) {
        let what = format!("it begins with batch {}, after a gap", first.header.first_batch);
        return Err(StoreError::corrupt(&first.path, 0, what));
    }

    let mut next = (first.header.sequence, first.header.first_batch);
    let last = found.len() - 1;
    let mut newest = None;
    for (index, found) in found.into_iter().enumerate() {
        if (found.header.sequence, found.header.first_batch) != next {
            let what = format!("segment {:016x} with batch {} is due here: a gap", next.0, next.1);
            return Err(StoreError::corrupt(&found.path, 0, what));
        }
        let scan = segment::scan(&*found.file, &found.path, &found.header, |batch, revision, rows| {
            if batch > applied.batch {
                let bytes =
                    rows.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, bytes::Bytes::len)).sum();
                overlay.publish(batch, revision, record::sectors(bytes), rows);
            }
        })?;
        next = (next.0.saturating_add(1), scan.next_batch);
        if index == last {
            newest = Some((found, scan));
        } else if scan.torn {
            let what = "a record was never finished, but another segment follows";
            return Err(StoreError::corrupt(&found.path, scan.tail, what));
        } else {
            overlay.seal(found.closed());
        }
    }
    if let Some((found, scan)) = &newest {
        if scan.next_batch <= applied.batch {
            let what = format!("the journal ends before batch {}, which was merged", applied.batch);
            return Err(StoreError::corrupt(&found.path, scan.tail, what));
        }
        if scan.next_batch <= reached.batch {
            return Err(lost_end(&directory, &found.path, found.header.sequence, *scan, reached));
        }
    }
    Ok(Replayed { directory, store_id, merged, newest, overlay })
}

impl Replayed {
    /// Makes what was read durable, drops a record that was never finished, and goes on where the journal ends.
    pub(super) fn take_up(self, disk: Arc<dyn Disk>) -> Result<(Recovered, Overlay), StoreError> {
        let Replayed { directory, store_id, merged, newest, overlay } = self;
        let Some((found, scan)) = newest else {
            return Ok((Recovered { journal: None, merged }, overlay));
        };
        if scan.torn {
            tracing::info!(file = %found.path.display(), offset = scan.tail, "dropping a batch that was never acknowledged");
            segment::fill_with_zeros(&*found.file, scan.tail, found.header.length)
                .map_err(StoreError::io("clear the unfinished end of", &found.path))?;
        }
        // A process that was killed between write and sync leaves a whole record, or the name of a segment, that only
        // the page cache holds. It is about to be shown to readers and built upon, so it must not be lost any more.
        found.file.sync_data().map_err(StoreError::io("sync", &found.path))?;
        disk.sync_directory(&directory).map_err(StoreError::io("sync", &directory))?;
        let Found { file, path, header } = found;
        let active = Active { file, path, sequence: header.sequence, length: header.length, tail: scan.tail };
        let journal = Journal { disk, directory, store_id, active, next_batch: scan.next_batch, frame: Vec::new() };
        Ok((Recovered { journal: Some(journal), merged }, overlay))
    }
}

/// A segment on the disk with a sound header.
struct Found {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    header: Header,
}

impl Found {
    fn closed(&self) -> Segment {
        Segment { path: self.path.clone(), length: self.header.length }
    }
}

/// The segments in the directory by ascending sequence.
fn open_segments(disk: &dyn Disk, directory: &Path, store_id: u128) -> Result<Vec<Found>, StoreError> {
    let mut sequences = Vec::new();
    for name in disk.list(directory).map_err(StoreError::io("list", directory))? {
        match name.to_str().and_then(segment::sequence_of) {
            Some(Some(sequence)) => sequences.push(sequence),
            Some(None) => {
                let file = directory.join(&name);
                let what = "it is named like a segment but is none; move it elsewhere".to_owned();
                return Err(StoreError::Format { file, what });
            }
            None => {}
        }
    }
    sequences.sort_unstable();
    let open = |sequence| {
        let path = segment::path(directory, sequence);
        let file = disk.open(&path).map_err(StoreError::io("open", &path))?;
        let header = Header::read(&*file, &path, store_id, sequence)?;
        Ok(Found { file, path, header })
    };
    sequences.into_iter().map(open).collect()
}

/// The newest segment does not hold all that was acknowledged.
pub(super) fn lost_end(directory: &Path, newest: &Path, sequence: u64, scan: Scan, reached: Reached) -> StoreError {
    let batch = reached.batch;
    if sequence < reached.segment {
        let what = format!("it is missing, and batch {batch} was acknowledged in it");
        return StoreError::corrupt(&segment::path(directory, reached.segment), 0, what);
    }
    StoreError::corrupt(
        newest,
        scan.tail,
        format!("the journal ends here, before batch {batch}, which was acknowledged"),
    )
}

fn gone(directory: &Path, what: String) -> StoreError {
    StoreError::corrupt(directory, 0, what)
}
