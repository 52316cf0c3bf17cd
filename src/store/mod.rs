//! The store: durable rows under ordered keys, for one writer and many readers.
//!
//! # What it promises
//! * [`Store::commit`] returns only when its whole batch is on stable storage and readers see it. It survives the end of
//!   the process and of the power.
//! * A batch is seen whole or not at all, by readers and after a crash. One that was never acknowledged is whole or absent.
//! * What it cannot vouch for it refuses: damage is reported with file and offset, and never guessed at.
//! * A full disk is met only where a journal segment is allocated. It refuses that commit, and nothing else.
//!
//! # What it does not do
//! It knows no events, executions or protobuf: rows are opaque bytes, laid out by `layout`. It takes no time and makes no
//! ids. It assumes that the disk writes a sector of 512 bytes whole or not at all (see `record`) and that what
//! `fdatasync` returned for stays. sled's own files are beyond its seam (see [`disk`]).
//!
//! # How
//! ```text
//! commit ─▶ journal (write, fdatasync) ─▶ overlay (memory) ─▶ readers: overlay over base
//!              │ segment full                │ sealed layer
//!              ▼                             ▼
//!            spare ◀── merged segment ──── merge ─▶ base (sled)
//! ```
//! The journal is the point of durability (`journal`, `segment`, `record`), the overlay holds what is not merged
//! (`overlay`), the merge moves it on (`merge`, `rows`, [`sled`]), the spare keeps allocation off the hot path
//! (`spare`). All files but sled's are touched through [`disk`], which [`simulated`] replaces in tests.
//!
//! Read [`Store`] first, then `journal`.

mod audit;
mod ballast;
pub mod disk;
mod error;
mod examine;
mod format;
mod high_water;
mod journal;
pub mod layout;
mod merge;
mod overlay;
mod reader;
mod record;
mod rows;
mod segment;
mod shared;
pub mod simulated;
pub mod sled;
mod sled_files;
mod span;
mod spare;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard};
use std::thread::JoinHandle;

use bytes::Bytes;

use self::disk::Lock;
pub use self::disk::{Disk, DiskFile, RealDisk};
pub use self::error::StoreError;
pub use self::examine::{Examined, examine};
use self::high_water::HighWater;
use self::journal::{Journal, RotateRefused};
pub use self::reader::Reader;
use self::rows::Rows;
use self::shared::{Parts, Reserve, Shared, Work};
use self::simulated::SimulatedDisk;
use self::sled::{Base, SledBase};

/// The key of a row. Rows are ordered by their keys' bytes.
pub type Key = Vec<u8>;

/// One write of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowWrite {
    /// Which row; at most [`KEY_LIMIT_BYTES`].
    pub key: Key,
    /// What it shall be; `None` deletes it.
    pub value: Option<Vec<u8>>,
}

/// Writes that are committed together: one record of the journal. Of two writes of one row the later counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// The newest event revision known after it; it never decreases from batch to batch.
    pub revision: u64,
    /// The rows it writes.
    pub rows: Vec<RowWrite>,
}

/// Where and how a store is kept.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// The directory, which is created when it is missing and belongs to the store alone.
    pub directory: PathBuf,
    /// Length of a journal segment in bytes, rounded up to whole sectors of 512. May differ from one open to the next.
    pub segment_bytes: u64,
    /// Bytes of committed, not yet merged rows above which a commit waits for the merge (beside the newest segment).
    pub overlay_bytes: u64,
    /// What sled may cache, in bytes. It exceeds it during merges.
    pub cache_bytes: usize,
    /// The identity of the store, used only when the directory is fresh.
    pub new_store_id: u128,
}

impl StoreConfig {
    /// The usual sizes for a store in `directory`.
    pub fn new(directory: impl Into<PathBuf>, new_store_id: u128) -> StoreConfig {
        StoreConfig { directory: directory.into(), new_store_id, ..StoreConfig::default() }
    }
}

impl Default for StoreConfig {
    /// Segments of 4 MiB, 6 MiB unmerged, a cache of 8 MiB. The directory and the id are the caller's to set.
    fn default() -> StoreConfig {
        StoreConfig {
            directory: PathBuf::new(),
            segment_bytes: 4 * 1024 * 1024,
            overlay_bytes: 6 * 1024 * 1024,
            cache_bytes: 8 * 1024 * 1024,
            new_store_id: 0,
        }
    }
}

/// The greatest length of a row's key in bytes.
pub const KEY_LIMIT_BYTES: usize = 64 * 1024;

const JOURNAL: &str = "journal";
const ROWS: &str = "rows";

/// The writer's end of a store. There is one, on one thread; everybody else has a [`Reader`].
///
/// After a failed commit that may have written something it is poisoned: it refuses all further commits with the first
/// reason, readers go on, and the next open decides what is true.
pub struct Store {
    shared: Arc<Shared>,
    high_water: Arc<HighWater>,
    journal: Journal,
    store_id: u128,
    hands: Hands,
}

/// Who does the background work.
enum Hands {
    /// Two threads, as in production.
    Threads(Vec<JoinHandle<()>>),
    /// The writer, whenever it would wait, and the test, whenever it likes. So a simulation is the same each time.
    Writer,
}

impl Store {
    /// Opens the store in the configured directory, creating it in a fresh one and recovering it otherwise.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when somebody has it open, [`StoreError::Format`] when the directory is something else,
    /// [`StoreError::Corrupt`] when it is damaged, [`StoreError::Full`] when there is no room for the first segment.
    pub fn open(config: StoreConfig, disk: Arc<dyn Disk>) -> Result<Store, StoreError> {
        let cache_bytes = config.cache_bytes;
        let open_base = |directory: &Path| Ok(Arc::new(SledBase::open(directory, cache_bytes)?) as Arc<dyn Base>);
        let mut store = Store::assemble(config, disk, open_base)?;
        store.hands = Hands::Threads(merge::start(&store.shared)?);
        Ok(store)
    }

    /// Opens a store that lives on a simulated disk as a whole, sled's part included, and has no threads: merges happen
    /// when the writer would wait for one and at [`Store::merge_by_hand`].
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_simulated(config: StoreConfig, disk: &SimulatedDisk) -> Result<Store, StoreError> {
        let open_base = |directory: &Path| match disk.open_base() {
            Ok(base) => Ok(Arc::new(base) as Arc<dyn Base>),
            Err(source) => Err(StoreError::Base { operation: "open", directory: directory.to_path_buf(), source }),
        };
        Store::assemble(config, Arc::new(disk.clone()), open_base)
    }

    fn assemble(
        mut config: StoreConfig,
        disk: Arc<dyn Disk>,
        open_base: impl FnOnce(&Path) -> Result<Arc<dyn Base>, StoreError>,
    ) -> Result<Store, StoreError> {
        config.segment_bytes = config.segment_bytes.max(2 * segment::HEADER_BYTES);
        config.segment_bytes = config.segment_bytes.saturating_add(segment::HEADER_BYTES - 1) / segment::HEADER_BYTES
            * segment::HEADER_BYTES;
        if config.segment_bytes > segment::LENGTH_LIMIT_BYTES {
            let what = format!("segments of {} bytes are over {}", config.segment_bytes, segment::LENGTH_LIMIT_BYTES);
            return Err(StoreError::Refused { what });
        }
        let directory = config.directory;
        let (store_id, lock) = take_directory(&*disk, &directory, config.new_store_id)?;
        let (journal_directory, rows_directory) = (directory.join(JOURNAL), directory.join(ROWS));
        for part in [&journal_directory, &rows_directory] {
            disk.create_directory(part).map_err(StoreError::io("create", part))?;
        }
        disk.sync_directory(&directory).map_err(StoreError::io("sync", &directory))?;

        let high_water = Arc::new(HighWater::open(&*disk, &directory, store_id)?);
        let reached = high_water.reached();
        // Everything is judged before anything is changed, sled's files by its own opening included.
        let audited = audit::before_open(&*disk, &rows_directory, reached)?;
        let replay = |applied| journal::replay(&*disk, &journal_directory, store_id, applied, reached);
        let early = audited.map(|applied| replay(applied).map(|replayed| (applied, replayed))).transpose()?;
        // sled holds the old and the new state of its metadata at once while it opens.
        let ballast_bytes = config.segment_bytes / 8 + 2 * sled_files::metadata_bytes(&*disk, &rows_directory)?;
        ballast::release(&*disk, &directory, ballast_bytes)?;
        let rows = Rows::open(open_base(&rows_directory)?, rows_directory)?;
        let has_ballast = ballast::hold(&*disk, &directory, ballast_bytes)?;
        let applied = rows.applied()?;
        if applied.batch < reached.merged || early.as_ref().is_some_and(|(audited, _)| *audited != applied) {
            return Err(rows.behind(reached.merged));
        }
        let replayed = early.map_or_else(|| replay(applied), |(_, replayed)| Ok(replayed))?;
        let (recovered, overlay) = replayed.take_up(Arc::clone(&disk))?;
        let journal = match recovered.journal {
            Some(journal) => journal,
            None => {
                let spare = spare::make_first(&*disk, &journal_directory, config.segment_bytes);
                let spare = spare.map_err(|error| full_or(error, &directory))?;
                Journal::create(Arc::clone(&disk), journal_directory, store_id, spare)?
            }
        };
        spare::clear_large(&*disk, &directory.join(JOURNAL))?;
        let shared = Arc::new(Shared::new(Parts {
            disk,
            directory,
            segment_bytes: config.segment_bytes,
            overlay_bytes: config.overlay_bytes,
            rows,
            high_water: Some(Arc::clone(&high_water)),
            overlay,
            merged: recovered.merged,
            applied_batch: applied.batch,
            ballast_bytes,
            has_ballast,
            lock,
        }));
        Ok(Store { shared, high_water, journal, store_id, hands: Hands::Writer })
    }

    /// Commits a batch: when it returns, the batch is durable and visible.
    ///
    /// It takes two writes, of the record and of the high-water mark, and one `fdatasync`. Once in a segment it also waits for the next segment, and for the merge
    /// when too much is unmerged.
    ///
    /// # Errors
    /// [`StoreError::Full`], [`StoreError::TooLarge`] and [`StoreError::Refused`]: nothing was written, the store goes
    /// on. Any other error leaves the fate of the batch to the next open, and poisons the store.
    pub fn commit(&mut self, batch: Batch) -> Result<(), StoreError> {
        self.make_room(&batch)?;
        let (number, bytes) = self.journal.append(batch.revision, &batch.rows).map_err(|error| self.fatal(error))?;
        self.high_water.acknowledged(self.journal.segment(), number).map_err(|error| self.fatal(error))?;
        let rows = batch.rows.into_iter().map(|row| (Bytes::from(row.key), row.value.map(Bytes::from)));
        self.shared.overlay_mut().publish(number, batch.revision, bytes, rows);
        Ok(())
    }

    /// Makes sure that a commit of this batch finds its room, so that a caller that meets [`StoreError::Full`] still has
    /// the batch and can wait. A commit does it by itself.
    ///
    /// # Errors
    /// As [`Store::commit`]; nothing was written.
    pub fn make_room(&mut self, batch: &Batch) -> Result<(), StoreError> {
        self.shared.check()?;
        let extent = self.admit(batch)?;
        if !self.journal.has_room(extent) {
            self.next_segment(extent)?;
        }
        Ok(())
    }

    /// A handle for reading.
    pub fn reader(&self) -> Reader {
        Reader { shared: Arc::clone(&self.shared) }
    }

    /// The identity of the store, made once in its life.
    pub fn store_id(&self) -> u128 {
        self.store_id
    }

    /// The newest durable revision.
    pub fn revision(&self) -> u64 {
        self.shared.overlay().revision()
    }

    /// Whether work that has not begun may be admitted: the reserve for what is running is whole.
    ///
    /// It asks the file system each time (one system call) and, when the reserve is missing although there is space
    /// again, has it made anew: ask once per turn of the loop.
    pub fn free_for_new_work(&self) -> bool {
        let shared = &self.shared;
        // A merge of one segment, and half of another for what grows beside it.
        let watermark = shared.segment_bytes.saturating_add(shared.segment_bytes / 2);
        let has_space = shared.disk.free_bytes(&shared.directory).is_ok_and(|free| free >= watermark);
        let mut work = shared.work();
        if has_space && !work.has_ballast {
            shared.changed.notify_all();
            work.wants_ballast = true;
            return false;
        }
        match work.reserve {
            Reserve::Ready(_) | Reserve::Wanted | Reserve::Taken => has_space && !work.merge_starved,
            Reserve::Missing => {
                if has_space {
                    work.reserve = Reserve::Wanted;
                    shared.changed.notify_all();
                }
                false
            }
        }
    }

    /// Ends the background threads and gives the directory up, once the last [`Reader`] is gone too. What is not merged
    /// yet stays in the journal for the next open.
    ///
    /// # Errors
    /// [`StoreError::Poisoned`] when the store has failed before.
    pub fn close(mut self) -> Result<(), StoreError> {
        self.stop();
        self.shared.check()?;
        self.high_water.sync()
    }

    /// Does the background work that is due, up to one merged layer. Only for a store without threads.
    ///
    /// # Errors
    /// Those of a merge; they poison the store.
    pub fn merge_by_hand(&self) -> Result<(), StoreError> {
        self.shared.check()?;
        let shared = &self.shared;
        shared.work().merge_starved = false;
        shared.merge_oldest().and_then(|_| shared.prepare_spare()).map_err(|error| self.fatal(error))?;
        Ok(())
    }

    /// Checks a batch before anything is written; returns the bytes that its record fills.
    fn admit(&self, batch: &Batch) -> Result<u64, StoreError> {
        let newest = self.revision();
        if batch.revision < newest {
            let what = format!("the batch's revision {} is before the newest, {newest}", batch.revision);
            return Err(StoreError::Refused { what });
        }
        if let Some(row) = batch.rows.iter().find(|row| row.key.len() > KEY_LIMIT_BYTES) {
            let what = format!("a key of {} bytes is over the limit of {KEY_LIMIT_BYTES}", row.key.len());
            return Err(StoreError::Refused { what });
        }
        match record::extent_of(&batch.rows) {
            Ok(extent) => Ok(extent as u64),
            Err(bytes) => Err(StoreError::TooLarge { bytes, limit: record::PAYLOAD_LIMIT_BYTES }),
        }
    }

    /// Goes on in a segment that has room for `extent` bytes, once the overlay has room for the one that is left.
    fn next_segment(&mut self, extent: u64) -> Result<(), StoreError> {
        self.wait_for_overlay()?;
        let shared = Arc::clone(&self.shared);
        let spare = if extent + segment::HEADER_BYTES <= shared.segment_bytes {
            self.wait_for_spare()?
        } else {
            spare::make_large(&*shared.disk, &shared.journal_directory, extent, shared.segment_bytes).map_err(
                |error| match full_or(error, &shared.directory) {
                    full @ StoreError::Full { .. } => full,
                    error => self.fatal(error),
                },
            )?
        };
        let usual = spare.length == shared.segment_bytes;
        let (left, reserve) = match self.journal.rotate(spare) {
            Ok(left) => (Some(left), Reserve::Wanted),
            Err(RotateRefused { spare: Some(spare), .. }) => (None, Reserve::Ready(spare)),
            Err(refused) => return Err(self.fatal(refused.error)),
        };
        let sealed = left.map(|left| shared.overlay_mut().seal(left));
        let mut work = shared.work();
        if usual {
            work.reserve = reserve;
        }
        shared.changed.notify_all();
        // Without its name the segment could not be begun: what was left of the old one is as it was.
        sealed.ok_or_else(|| shared.full())
    }

    /// Waits until the layer that is about to be sealed fits beside those that wait for the merge.
    fn wait_for_overlay(&self) -> Result<(), StoreError> {
        let shared = &self.shared;
        let mut work = shared.work();
        let was_starved = std::mem::take(&mut work.merge_starved);
        if was_starved {
            // Let the merge look again: there may be space by now.
            shared.changed.notify_all();
        }
        loop {
            shared.check()?;
            let overlay = shared.overlay();
            let (sealed, active) = (overlay.sealed_weight(), overlay.active_weight());
            drop(overlay);
            // One layer may always wait, however great it is: otherwise a large one could never be sealed.
            if sealed == 0 || sealed.saturating_add(active) <= shared.overlay_bytes {
                return Ok(());
            }
            if work.merge_starved {
                return Err(shared.full());
            }
            work = self.wait(work)?;
        }
    }

    /// Takes the spare. Nobody makes the next one before this one has its own name, as both begin under the same.
    fn wait_for_spare(&self) -> Result<spare::Spare, StoreError> {
        let shared = &self.shared;
        let mut work = shared.work();
        if matches!(work.reserve, Reserve::Missing) {
            // It was missing when it was last looked for; only a new look tells whether it still is.
            work.reserve = Reserve::Wanted;
            shared.changed.notify_all();
        }
        loop {
            shared.check()?;
            match std::mem::replace(&mut work.reserve, Reserve::Taken) {
                Reserve::Ready(spare) => return Ok(spare),
                Reserve::Missing => {
                    work.reserve = Reserve::Missing;
                    return Err(shared.full());
                }
                other => {
                    work.reserve = other;
                    work = self.wait(work)?;
                }
            }
        }
    }

    /// Waits for a change of the work, or makes one where there are no threads to do so.
    fn wait<'a>(&'a self, work: MutexGuard<'a, Work>) -> Result<MutexGuard<'a, Work>, StoreError> {
        match &self.hands {
            Hands::Threads(_) => Ok(self.shared.changed.wait(work).expect("the work is plain bookkeeping")),
            Hands::Writer => {
                drop(work);
                let shared = &self.shared;
                let done = shared.prepare_spare().and_then(|prepared| match prepared {
                    true => Ok(true),
                    false => shared.merge_oldest(),
                });
                done.map_err(|error| self.fatal(error))?;
                Ok(shared.work())
            }
        }
    }

    /// Poisons the store with an error and returns it.
    fn fatal(&self, error: StoreError) -> StoreError {
        self.shared.poison(&error);
        error
    }

    fn stop(&mut self) {
        if let Hands::Threads(threads) = std::mem::replace(&mut self.hands, Hands::Writer) {
            merge::stop(&self.shared, threads);
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let directory = &self.shared.directory;
        formatter.debug_struct("Store").field("directory", directory).finish_non_exhaustive()
    }
}

/// Makes sure that the directory is a store of ours and that nobody else has it; returns its id and its lock.
///
/// Looks before it touches anything, so that a foreign directory stays as it was, and again once the lock is held.
fn take_directory(
    disk: &dyn Disk,
    directory: &Path,
    new_store_id: u128,
) -> Result<(u128, Box<dyn Send + Sync>), StoreError> {
    disk.create_directory(directory).map_err(StoreError::io("create", directory))?;
    format::examine(disk, directory)?;
    let lock_path = directory.join(format::LOCK);
    let lock = match disk.lock(&lock_path).map_err(StoreError::io("lock", &lock_path))? {
        Lock::Held(lock) => lock,
        Lock::Busy { holder } => {
            return Err(StoreError::Locked { directory: directory.to_path_buf(), holder });
        }
    };
    let store_id = match format::examine(disk, directory)? {
        Some(store_id) => {
            // A process that was killed before its own sync left a name that only the page cache holds.
            disk.sync_directory(directory).map_err(StoreError::io("sync", directory))?;
            store_id
        }
        None => {
            format::create(disk, directory, new_store_id)?;
            if let Some(parent) = directory.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                // The directory itself may be new. Where its parent is not ours to open, its name is not ours to make
                // durable either.
                match disk.sync_directory(parent) {
                    Err(error) if error.kind() != io::ErrorKind::PermissionDenied => {
                        return Err(StoreError::io("sync", parent)(error));
                    }
                    _ => {}
                }
            }
            new_store_id
        }
    };
    Ok((store_id, lock))
}

fn full_or(error: StoreError, directory: &Path) -> StoreError {
    if error.is_no_space() { StoreError::Full { directory: directory.to_path_buf() } } else { error }
}
