//! The spare segment: space that is reserved, zeroed and synced before it is needed.
//!
//! There is one spare at any time, prepared off the hot path from a merged segment or from free space. So a commit meets a
//! full disk only when it needs a segment and the spare is gone, and what is already running can still be completed
//! from it while new work is turned away (see [`super::Store::free_for_new_work`]).
//!
//! A merged segment gets the spare's name, durably, *before* it is zeroed: otherwise a crash in between would leave a
//! damaged file under a segment's name. Read [`Shared::prepare_spare`] first.

use std::io;
use std::path::{Path, PathBuf};

use super::ballast;
use super::disk::{Disk, DiskFile};
use super::error::StoreError;
use super::segment::{self, Segment};
use super::shared::{Reserve, Shared};

/// A file of zeros of the right length, synced.
pub(super) struct Spare {
    pub file: Box<dyn DiskFile>,
    pub path: PathBuf,
    pub length: u64,
}

const NAME: &str = "spare";
/// A segment for one record that no usual segment can hold is made when it is needed, beside the spare.
const LARGE_NAME: &str = "spare-large";

impl Shared {
    /// Does one piece of the work that is waiting: recycles or removes a merged segment, or makes a spare. Returns
    /// whether there was anything to do.
    ///
    /// A lack of space is noted, not returned: it ends when the disk has room again. Any error is fatal to the store.
    pub(super) fn prepare_spare(&self) -> Result<bool, StoreError> {
        if std::mem::take(&mut self.work().wants_ballast) {
            let whole = ballast::hold(&*self.disk, &self.directory, self.ballast_bytes)?;
            self.work().has_ballast = whole;
        }
        let journal = &self.journal_directory;
        let (merged, has_spare, wants_spare) = {
            let mut work = self.work();
            if matches!(work.reserve, Reserve::Taken) {
                return Ok(false);
            }
            let has_spare = matches!(work.reserve, Reserve::Ready(_));
            (work.merged.pop_front(), has_spare, matches!(work.reserve, Reserve::Wanted))
        };
        let made = match merged {
            Some(segment) if !has_spare && segment.length == self.segment_bytes => {
                recycle(&*self.disk, journal, &segment)
            }
            Some(segment) => {
                remove(&*self.disk, journal, &segment)?;
                return Ok(true);
            }
            None if wants_spare => make(&*self.disk, journal, NAME, self.segment_bytes),
            None => return Ok(false),
        };
        let reserve = match made {
            Ok(spare) => {
                self.work().told_missing = false;
                Reserve::Ready(spare)
            }
            Err(error) if error.is_no_space() => {
                // Once for each time that the disk is full, not for each look at it.
                if !std::mem::replace(&mut self.work().told_missing, true) {
                    tracing::warn!(reason = error.with_causes(), "no space for the next journal segment");
                }
                Reserve::Missing
            }
            Err(error) => return Err(error),
        };
        self.work().reserve = reserve;
        self.changed.notify_all();
        Ok(true)
    }
}

/// Makes a segment for one record of `extent` bytes, while the writer waits.
pub(super) fn make_large(disk: &dyn Disk, journal: &Path, extent: u64, usual: u64) -> Result<Spare, StoreError> {
    make(disk, journal, LARGE_NAME, segment::length_for(extent, usual))
}

/// Removes what a crash left of a segment for one record.
pub(super) fn clear_large(disk: &dyn Disk, journal: &Path) -> Result<(), StoreError> {
    let path = journal.join(LARGE_NAME);
    match disk.remove(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", &path)(error)),
        _ => Ok(()),
    }
}

/// Makes the first segment of a journal, while the open waits.
pub(super) fn make_first(disk: &dyn Disk, journal: &Path, length: u64) -> Result<Spare, StoreError> {
    make(disk, journal, NAME, length)
}

/// Uses what an earlier run left under the name when it fits, since on a full disk it is the reserve; otherwise makes a
/// new file, and leaves none behind when that fails.
fn make(disk: &dyn Disk, journal: &Path, name: &str, length: u64) -> Result<Spare, StoreError> {
    let path = journal.join(name);
    match disk.open(&path) {
        Ok(file) if file.length().map_err(StoreError::io("measure", &path))? == length => {
            segment::fill_with_zeros(&*file, 0, length).map_err(StoreError::io("zero", &path))?;
            return Ok(Spare { file, path, length });
        }
        Ok(_) => disk.remove(&path).map_err(StoreError::io("remove", &path))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(StoreError::io("open", &path)(error)),
    }
    let file = disk.create(&path).map_err(StoreError::io("create", &path))?;
    let filled = file.allocate(length).and_then(|()| segment::fill_with_zeros(&*file, 0, length));
    match filled.map_err(StoreError::io("allocate", &path)) {
        Ok(()) => Ok(Spare { file, path, length }),
        Err(error) => {
            // The half-made file would keep the space from everybody else.
            disk.remove(&path).map_err(StoreError::io("remove", &path))?;
            Err(error)
        }
    }
}

fn recycle(disk: &dyn Disk, journal: &Path, segment: &Segment) -> Result<Spare, StoreError> {
    let path = journal.join(NAME);
    disk.rename(&segment.path, &path).map_err(StoreError::io("rename to", &path))?;
    disk.sync_directory(journal).map_err(StoreError::io("sync", journal))?;
    let file = disk.open(&path).map_err(StoreError::io("open", &path))?;
    segment::fill_with_zeros(&*file, 0, segment.length).map_err(StoreError::io("zero", &path))?;
    Ok(Spare { file, path, length: segment.length })
}

/// Removes a merged segment, durably before the next one is touched, so that what is left never has a gap.
fn remove(disk: &dyn Disk, journal: &Path, segment: &Segment) -> Result<(), StoreError> {
    disk.remove(&segment.path).map_err(StoreError::io("remove", &segment.path))?;
    disk.sync_directory(journal).map_err(StoreError::io("sync", journal))
}
