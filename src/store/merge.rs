//! The merge: moves the oldest sealed layer of the overlay into the base, and hands its segment back.
//!
//! It runs on one background thread at the lowest CPU priority, or by hand in the simulation. It is idempotent: rows are
//! absolute values, the note of how far the base has come is in the *last* batch of a layer, and until the flush after it
//! returned neither the layer nor its segment is let go. So a crash at any point is repaired by replaying the segment.
//! Start with [`Shared::merge_oldest`].

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::error::StoreError;
use super::overlay::Layer;
use super::rows::{Applied, Rows};
use super::shared::{Reserve, Shared};
use super::sled::BaseBatch;
use super::sled_files;

/// What one batch for sled holds at most (a single row may exceed it): sled keeps the leaves of a batch locked while
/// it applies it, and readers wait for them.
const BATCH_BYTES: usize = 1024 * 1024;
/// Few in this room's tests, so that there as well a layer takes several batches and a crash can fall between them.
const BATCH_WRITES: usize = if cfg!(test) { 3 } else { 1024 };
/// Space that sled needs for what it is given: leaves are written anew before the old ones are freed.
const SPACE_PER_BYTE: u64 = 2;
const SPACE_BYTES: u64 = 1024 * 1024;
/// What sled is given between two flushes at most (a single row may exceed it). A flush frees what was replaced, so a
/// layer needs no more space at once than a part of it, and can be merged on a disk that is nearly full.
const PART_BYTES: u64 = 4 * 1024 * 1024;
/// How often a merge that waits for space on the disk looks again.
const STARVED_RETRY: Duration = Duration::from_secs(1);
/// The lowest CPU priority there is.
const LOWEST_PRIORITY: i32 = 19;

impl Shared {
    /// Merges the oldest sealed layer, if there is one and the disk has room for it. Returns whether it did.
    ///
    /// # Errors
    /// Any is fatal to the store.
    pub(super) fn merge_oldest(&self) -> Result<bool, StoreError> {
        let Some(layer) = self.overlay().oldest() else {
            return Ok(false);
        };
        // From here on the base may show batches that a reader's copy of the overlay does not know of.
        *self.merging.write().expect("nobody panics while holding the number") = layer.last_batch();
        if !self.apply(&layer)? {
            self.work().merge_starved = true;
            self.changed.notify_all();
            return Ok(false);
        }
        self.rows.flush()?;
        if let Some(high_water) = &self.high_water {
            let log = sled_files::log_end(&*self.disk, &self.directory.join(super::ROWS))?;
            high_water.merged(layer.last_batch(), log)?;
        }
        self.overlay_mut().retire_oldest();
        let mut work = self.work();
        work.merged.extend(layer.segment().cloned());
        self.changed.notify_all();
        Ok(true)
    }

    /// sled cannot survive a full disk, so it is not let near one.
    fn has_space_for(&self, bytes: u64) -> Result<bool, StoreError> {
        let free = self.disk.free_bytes(&self.directory);
        let free = free.map_err(StoreError::io("measure the free space of", &self.directory))?;
        Ok(free >= bytes.saturating_mul(SPACE_PER_BYTE).saturating_add(SPACE_BYTES))
    }

    /// Applies a layer in bounded batches, the note of how far it reaches in the last one. Returns `false` when the disk
    /// has no room for the next part: what was applied is applied again later, and nobody sees it before.
    fn apply(&self, layer: &Layer) -> Result<bool, StoreError> {
        let mut batch = BaseBatch::new();
        let (mut bytes, mut part) = (0, 0);
        let mut left = layer.bytes();
        if !self.has_space_for(left.min(PART_BYTES))? {
            return Ok(false);
        }
        for (key, value) in layer.rows() {
            let size = key.len() as u64 + value.as_ref().map_or(0, |value| value.len() as u64);
            if part > 0 && part + size > PART_BYTES {
                self.rows.apply(std::mem::take(&mut batch))?;
                self.rows.flush()?;
                (bytes, part) = (0, 0);
                if !self.has_space_for(left.min(PART_BYTES.max(size)))? {
                    return Ok(false);
                }
            }
            part += size;
            left = left.saturating_sub(size);
            bytes += self.rows.writes_for(key, value.as_ref(), &mut batch)?;
            if bytes >= BATCH_BYTES || batch.len() >= BATCH_WRITES {
                self.rows.apply(std::mem::take(&mut batch))?;
                bytes = 0;
            }
        }
        batch.push(Rows::applied_write(Applied { batch: layer.last_batch(), revision: layer.revision() }));
        self.rows.apply(batch)?;
        Ok(true)
    }

    fn merge_until_stopped(&self) -> Result<(), StoreError> {
        while self.wait_for_sealed() {
            self.merge_oldest()?;
        }
        Ok(())
    }

    /// Waits until there is a layer to merge; `false` when it is time to go.
    fn wait_for_sealed(&self) -> bool {
        let mut work = self.work();
        loop {
            if work.stop || self.is_poisoned() {
                return false;
            }
            if work.merge_starved {
                let (woken, wait) =
                    self.changed.wait_timeout(work, STARVED_RETRY).expect("the work is plain bookkeeping");
                work = woken;
                work.merge_starved &= !wait.timed_out();
            } else if self.overlay().oldest().is_some() {
                return true;
            } else {
                work = self.changed.wait(work).expect("the work is plain bookkeeping");
            }
        }
    }

    fn prepare_until_stopped(&self) -> Result<(), StoreError> {
        while self.wait_for_segments() {
            self.prepare_spare()?;
        }
        Ok(())
    }

    /// Waits until the spare or a merged segment needs attention; `false` when it is time to go.
    fn wait_for_segments(&self) -> bool {
        let work = self.work();
        let idle = |work: &mut super::shared::Work| {
            let has_work = match work.reserve {
                Reserve::Taken => false,
                Reserve::Wanted => true,
                Reserve::Ready(_) | Reserve::Missing => !work.merged.is_empty(),
            };
            !(work.stop || self.is_poisoned() || has_work || work.wants_ballast)
        };
        let work = self.changed.wait_while(work, idle).expect("the work is plain bookkeeping");
        !(work.stop || self.is_poisoned())
    }
}

/// Starts the two background threads. They end when [`super::shared::Work::stop`] is set or the store is poisoned.
pub(super) fn start(shared: &Arc<Shared>) -> Result<Vec<JoinHandle<()>>, StoreError> {
    let merge = spawn("store-merge", shared, |shared| {
        let thread = rustix::thread::gettid();
        // A courtesy to the hot path: where it is not permitted the merge merely competes.
        if let Err(error) = rustix::process::setpriority_process(Some(thread), LOWEST_PRIORITY) {
            tracing::debug!(%error, "the merge keeps the usual priority");
        }
        shared.merge_until_stopped()
    })?;
    let prepare = spawn("store-spare", shared, Shared::prepare_until_stopped);
    match prepare {
        Ok(prepare) => Ok(vec![merge, prepare]),
        Err(error) => {
            stop(shared, vec![merge]);
            Err(error)
        }
    }
}

/// Ends the background threads and waits for them: at most for one layer's merge or one segment's preparation.
pub(super) fn stop(shared: &Shared, threads: Vec<JoinHandle<()>>) {
    {
        let mut work = shared.work();
        work.stop = true;
        shared.changed.notify_all();
    }
    for thread in threads {
        // Its panics were turned into a poisoned store on the thread itself.
        drop(thread.join());
    }
}

fn spawn(
    name: &'static str,
    shared: &Arc<Shared>,
    work: impl FnOnce(&Shared) -> Result<(), StoreError> + Send + 'static,
) -> Result<JoinHandle<()>, StoreError> {
    let theirs = Arc::clone(shared);
    thread::Builder::new()
        .name(name.into())
        .spawn(move || match catch_unwind(AssertUnwindSafe(|| work(&theirs))) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => theirs.poison(&error),
            // A thread that dies silently would leave the writer waiting for it for ever.
            Err(_) => {
                let panicked = std::io::Error::other(format!("the thread {name} panicked"));
                theirs.poison(&StoreError::io("do the background work of", &theirs.directory)(panicked));
            }
        })
        .map_err(StoreError::io("start a thread for", &shared.directory))
}
