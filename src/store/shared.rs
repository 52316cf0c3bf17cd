//! What the writer, the readers and the two background threads share, and the order in which its locks are taken.
//!
//! Locks, each taken before the ones after it: [`Shared::merging`], the work, the overlay. No lock is held over I/O, but
//! for `merging` by a reader that was overtaken several times (see [`super::reader`]).

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::disk::Disk;
use super::error::StoreError;
use super::high_water::HighWater;
use super::overlay::Overlay;
use super::rows::Rows;
use super::segment::Segment;
use super::spare::Spare;

/// The common ground of a store.
pub(super) struct Shared {
    pub disk: Arc<dyn Disk>,
    pub directory: PathBuf,
    pub journal_directory: PathBuf,
    pub segment_bytes: u64,
    pub overlay_bytes: u64,
    pub ballast_bytes: u64,
    pub rows: Rows,
    /// `None` for a store that is only looked at.
    pub high_water: Option<Arc<HighWater>>,
    /// The last batch of the newest layer that the merge has begun to write into the base.
    pub merging: RwLock<u64>,
    /// Rung under the work's lock whenever something that somebody may wait for has changed.
    pub changed: Condvar,
    /// How many reads there were: what is answered from memory takes none.
    #[cfg(test)]
    pub reads: std::sync::atomic::AtomicU64,
    overlay: RwLock<Overlay>,
    work: Mutex<Work>,
    poison: OnceLock<String>,
    /// Held for as long as anybody can reach the files, readers included.
    _lock: Box<dyn Send + Sync>,
}

/// What the background has to do and has done.
pub(super) struct Work {
    pub stop: bool,
    pub reserve: Reserve,
    /// Segments whose layers are merged, from the oldest.
    pub merged: VecDeque<Segment>,
    /// The merge waits for space on the disk.
    pub merge_starved: bool,
    /// The log says that there is no space for the spare.
    pub told_missing: bool,
    /// The ballast is whole.
    pub has_ballast: bool,
    /// It is not, and there may be room for it.
    pub wants_ballast: bool,
}

/// The state of the spare segment.
pub(super) enum Reserve {
    /// Being prepared, or about to be.
    Wanted,
    /// At hand.
    Ready(Spare),
    /// The writer is giving it its place in the journal.
    Taken,
    /// The last try met a full disk.
    Missing,
}

/// The parts of a [`Shared`] that its opener chooses.
pub(super) struct Parts {
    pub disk: Arc<dyn Disk>,
    pub directory: PathBuf,
    pub segment_bytes: u64,
    pub overlay_bytes: u64,
    pub rows: Rows,
    pub high_water: Option<Arc<HighWater>>,
    pub overlay: Overlay,
    pub merged: Vec<Segment>,
    pub applied_batch: u64,
    pub ballast_bytes: u64,
    pub has_ballast: bool,
    pub lock: Box<dyn Send + Sync>,
}

impl Shared {
    pub(super) fn new(parts: Parts) -> Shared {
        let merged = parts.merged.into();
        Shared {
            disk: parts.disk,
            journal_directory: parts.directory.join(super::JOURNAL),
            directory: parts.directory,
            segment_bytes: parts.segment_bytes,
            overlay_bytes: parts.overlay_bytes,
            ballast_bytes: parts.ballast_bytes,
            rows: parts.rows,
            high_water: parts.high_water,
            merging: RwLock::new(parts.applied_batch),
            changed: Condvar::new(),
            #[cfg(test)]
            reads: std::sync::atomic::AtomicU64::default(),
            overlay: RwLock::new(parts.overlay),
            work: Mutex::new(Work {
                stop: false,
                reserve: Reserve::Wanted,
                merged,
                merge_starved: false,
                told_missing: false,
                has_ballast: parts.has_ballast,
                wants_ballast: false,
            }),
            poison: OnceLock::new(),
            _lock: parts.lock,
        }
    }

    pub(super) fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().expect("nobody panics while holding the work: it is plain bookkeeping")
    }

    pub(super) fn overlay(&self) -> RwLockReadGuard<'_, Overlay> {
        self.overlay.read().expect("nobody panics while changing the overlay: it only moves rows")
    }

    pub(super) fn overlay_mut(&self) -> RwLockWriteGuard<'_, Overlay> {
        self.overlay.write().expect("nobody panics while changing the overlay: it only moves rows")
    }

    /// Ends all acknowledgements. The first reason stays.
    pub(super) fn poison(&self, error: &StoreError) {
        let reason = error.with_causes();
        if self.poison.set(reason.clone()).is_ok() {
            tracing::error!(reason, "the store failed and accepts no more commits");
        }
        // Under the lock, so that nobody is between looking and waiting.
        let _work = self.work();
        self.changed.notify_all();
    }

    pub(super) fn is_poisoned(&self) -> bool {
        self.poison.get().is_some()
    }

    /// An error once the store is poisoned.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        match self.poison.get() {
            None => Ok(()),
            Some(reason) => Err(StoreError::Poisoned { reason: reason.clone() }),
        }
    }

    pub(super) fn full(&self) -> StoreError {
        StoreError::Full { directory: self.directory.clone() }
    }
}
