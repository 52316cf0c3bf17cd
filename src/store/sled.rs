//! The ordered map under the overlay: what is asked of it ([`Base`]), and sled doing it ([`SledBase`]).
//!
//! It keeps the merged rows as opaque key-value pairs. It is *not* the point of durability: the journal is, and a base
//! that comes back from a crash with any prefix of the batches since its last flush is repaired by replay.
//! How rows are laid out in it is the business of `super::rows`.
//!
//! sled `1.0.0-alpha.124` is an alpha; each of its traps that was seen is walked around here, with the reason beside it.

use std::io;
use std::ops::{Bound, ControlFlow};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;

use super::error::StoreError;

/// One atomic group of writes, each key at most once; `None` deletes.
pub type BaseBatch = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// Looks at one pair of a walk and says whether to go on.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// An ordered map with atomic batches, durable at [`Base::flush`].
///
/// What it shows right after it was opened is durable: segments are given up on the strength of it.
///
/// After an error no further call is made: its state is unknown, the caller poisons the store.
pub trait Base: Send + Sync {
    /// The value of one key.
    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>>;
    /// Walks up from the first key `>= from` until the visitor breaks. The visitor must not call the base.
    fn ascend(&self, from: &[u8], visit: Visit<'_>) -> io::Result<()>;
    /// Walks down from the last key `<= through` until the visitor breaks. The visitor must not call the base.
    fn descend(&self, through: &[u8], visit: Visit<'_>) -> io::Result<()>;
    /// Applies a batch: readers, and a crash, see all of it or nothing.
    fn apply(&self, batch: BaseBatch) -> io::Result<()>;
    /// Returns when every batch applied before is on stable storage.
    fn flush(&self) -> io::Result<()>;
}

/// Keys per leaf. Small leaves make a point write rewrite less; it is baked into the files, so it is never changed.
const LEAF_FANOUT: usize = 64;
/// How long an open may take. A sound store opens in milliseconds; a damaged metadata log can make sled spin for ever.
const OPEN_LIMIT: Duration = Duration::from_secs(10);
/// A year. `None` would make sled flush at *every* drop of a handle; the default flushes behind our back.
const FLUSH_NEVER_MS: usize = 365 * 24 * 60 * 60 * 1000;

/// How many bytes are written before sled is opened again: it holds them in memory until then.
const RENEWED_AFTER_BYTES: u64 = 8 * 1024 * 1024;
/// Or which part of what is on the disk, if that is more.
const RENEWED_AFTER_PART: u64 = 32;
/// 10 s in all.
const LOCK_TRIES: u32 = 10_000;
const LOCK_PAUSE: Duration = Duration::from_millis(1);

type Db = ::sled::Db<LEAF_FANOUT>;

/// The base that ships.
///
/// sled's handles may move between threads but not be shared by them, and each brings caches of its own that are dear to
/// make: so a call borrows an idle one, and there come to be as many as there were calls at once.
pub struct SledBase {
    config: ::sled::Config,
    /// Held for reading by each call, and for writing while sled is closed and opened again.
    gate: RwLock<()>,
    /// Never empty outside of that: the first handle is only copied.
    handles: Mutex<Vec<Db>>,
    /// Bytes of keys and values written since sled was opened.
    written: AtomicU64,
    /// How many there may be before it is opened again.
    renewed_after: AtomicU64,
    failed: AtomicBool,
}

impl SledBase {
    /// Opens or creates the map in `directory`, keeping about `cache_bytes` in memory (sled exceeds it during merges).
    ///
    /// # Errors
    /// [`StoreError::OpenStalled`] after ten seconds (the thread that opens is left behind), otherwise
    /// [`StoreError::Base`].
    pub fn open(directory: &Path, cache_bytes: usize) -> Result<SledBase, StoreError> {
        clear_unfinished_cookie(directory)?;
        let config = ::sled::Config::new()
            .path(directory)
            .cache_capacity_bytes(cache_bytes)
            .flush_every_ms(Some(FLUSH_NEVER_MS))
            .zstd_compression_level(1);
        let (settings, path) = (config.clone(), directory.to_path_buf());
        let db = within(OPEN_LIMIT, directory, move || open_db(&settings, &path))?
            .map_err(|source| StoreError::Base { operation: "open", directory: directory.to_path_buf(), source })?;
        Ok(SledBase {
            config,
            gate: RwLock::new(()),
            handles: Mutex::new(vec![db]),
            written: AtomicU64::new(0),
            renewed_after: AtomicU64::new(RENEWED_AFTER_BYTES),
            failed: AtomicBool::new(false),
        })
    }

    /// Closes sled and opens it again, with nothing unflushed.
    ///
    /// A leaf that was written never leaves sled's memory (`max_unflushed_epoch` is never taken back, and the flush that
    /// should page it out looks for a dirty leaf that it has just cleaned): without this, noxd would hold all that was
    /// merged since its start. Calls wait meanwhile, which takes milliseconds.
    fn renew(&self) -> io::Result<()> {
        let _alone = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        without_panic(|| {
            self.handles().clear();
            Ok(())
        })?;
        let db = self.open_again()?;
        // Opening costs as much as there are leaves, so a large store is opened less often.
        let after = (db.size_on_disk()? / RENEWED_AFTER_PART).max(RENEWED_AFTER_BYTES);
        self.renewed_after.store(after, Ordering::Relaxed);
        self.written.store(0, Ordering::Relaxed);
        self.handles().push(db);
        Ok(())
    }

    /// sled gives its lock back from a thread of its own, a moment after its last handle is gone. What it finds was
    /// flushed by this process, so nothing has to be made sure as in [`open_db`]: that waits for the whole file system.
    fn open_again(&self) -> io::Result<Db> {
        for _ in 0..LOCK_TRIES {
            match without_panic(|| self.config.open::<LEAF_FANOUT>()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(LOCK_PAUSE),
                opened => return opened,
            }
        }
        without_panic(|| self.config.open::<LEAF_FANOUT>())
    }

    /// Runs one call into sled. Its internal assertions panic, and after a failed flush its next call hangs:
    /// a panic becomes an error, and after any error sled is not called again.
    fn guarded<T>(&self, call: impl FnOnce(&Db) -> io::Result<T>) -> io::Result<T> {
        if self.failed.load(Ordering::Acquire) {
            return Err(io::Error::other("sled failed before and is not called again"));
        }
        let _open = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        let db = self.borrow();
        let outcome = without_panic(|| call(&db));
        if outcome.is_err() {
            self.failed.store(true, Ordering::Release);
        }
        self.handles().push(db);
        outcome
    }

    fn borrow(&self) -> Db {
        let mut handles = self.handles();
        match handles.len() {
            0 | 1 => handles.first().expect("the first handle is only copied").clone(),
            _ => handles.pop().expect("there are two at least"),
        }
    }

    fn handles(&self) -> MutexGuard<'_, Vec<Db>> {
        self.handles.lock().expect("nobody panics while moving a handle")
    }
}

impl Base for SledBase {
    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        self.guarded(|db| Ok(db.get(key)?.map(|value| Bytes::copy_from_slice(&value))))
    }

    fn ascend(&self, from: &[u8], visit: Visit<'_>) -> io::Result<()> {
        // An open range, stopped by the visitor: a bounded one reads leaf after leaf past its own end.
        self.guarded(|db| {
            for pair in db.range::<&[u8], _>((Bound::Included(from), Bound::Unbounded)) {
                let (key, value) = pair?;
                if visit(&key, &value).is_break() {
                    break;
                }
            }
            Ok(())
        })
    }

    fn descend(&self, through: &[u8], visit: Visit<'_>) -> io::Result<()> {
        self.guarded(|db| {
            for pair in db.range::<&[u8], _>((Bound::Unbounded, Bound::Included(through))).rev() {
                let (key, value) = pair?;
                if visit(&key, &value).is_break() {
                    break;
                }
            }
            Ok(())
        })
    }

    fn apply(&self, batch: BaseBatch) -> io::Result<()> {
        let mut writes = ::sled::Batch::default();
        let mut bytes = 0;
        for (key, value) in batch {
            bytes += key.len() + value.as_ref().map_or(0, Vec::len);
            match value {
                Some(value) => writes.insert(key, value),
                None => writes.remove(key),
            }
        }
        self.written.fetch_add(bytes as u64, Ordering::Relaxed);
        self.guarded(|db| db.apply_batch(writes))
    }

    fn flush(&self) -> io::Result<()> {
        self.guarded(|db| db.flush().map(drop))?;
        if self.written.load(Ordering::Relaxed) < self.renewed_after.load(Ordering::Relaxed) {
            return Ok(());
        }
        let renewed = self.renew();
        if renewed.is_err() {
            self.failed.store(true, Ordering::Release);
        }
        renewed
    }
}

impl Drop for SledBase {
    #[expect(clippy::mem_forget, reason = "dropping sled after a failed flush hangs")]
    fn drop(&mut self) {
        if self.failed.load(Ordering::Acquire) {
            // Dropping flushes, and after a failed flush the next one hangs (or aborts the process from sled's own
            // thread). Recovery starts from the journal anyway.
            std::mem::forget(std::mem::take(&mut *self.handles()));
        }
    }
}

/// Runs `work` on a thread of its own and waits for it at most `limit`.
fn within<T: Send + 'static>(
    limit: Duration,
    directory: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StoreError> {
    let (sender, receiver) = mpsc::sync_channel(1);
    std::thread::Builder::new()
        .name("store-open".into())
        .spawn(move || {
            // Nobody listens any more when the limit has passed; the result is dropped here then.
            drop(sender.send(work()));
        })
        .map_err(StoreError::io("start a thread to open", directory))?;
    receiver.recv_timeout(limit).map_err(|_| StoreError::OpenStalled { directory: directory.to_path_buf(), limit })
}

/// Opens sled, with everything that it finds and makes on stable storage.
fn open_db(config: &::sled::Config, directory: &Path) -> io::Result<Db> {
    // A process that was killed in a flush leaves pages that only the page cache holds. sled takes them for merged, and
    // then a segment would be recycled that a power cut could make needed again. sled spawns `sync` against that, if
    // there is one on the PATH; here it is made sure. (The simulation found this, seed 3381.)
    let opened = std::fs::File::open(directory)?;
    rustix::fs::syncfs(&opened)?;
    let db = without_panic(|| config.open::<LEAF_FANOUT>())?;
    std::fs::File::open(cookie(directory))?.sync_all()?;
    opened.sync_all()?;
    Ok(db)
}

/// sled writes its settings cookie without a sync, so a power cut during the very first open leaves an empty one, which
/// it then refuses for ever. The cookie holds nothing but the leaf fan-out: an empty one is removed and written anew.
fn clear_unfinished_cookie(directory: &Path) -> Result<(), StoreError> {
    let cookie = cookie(directory);
    match std::fs::metadata(&cookie) {
        Ok(metadata) if metadata.len() == 0 => {
            std::fs::remove_file(&cookie).map_err(StoreError::io("remove the empty", &cookie))
        }
        _ => Ok(()),
    }
}

fn cookie(directory: &Path) -> PathBuf {
    directory.join("durability_cookie")
}

/// Turns a panic inside sled into an error.
fn without_panic<T>(call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let words = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        Err(io::Error::other(format!("sled panicked: {words}")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_that_never_returns_is_refused_by_the_watchdog_naming_the_directory() {
        let (_never, wait) = mpsc::channel::<()>();
        let refused = within(Duration::from_millis(1), Path::new("/data/rows"), move || wait.recv());
        let text = refused.expect_err("the work never ends").to_string();
        assert!(text.contains("/data/rows"), "{text}");
    }

    #[test]
    fn a_walk_up_and_down_stops_where_the_visitor_says_across_leaves() {
        let directory = tempfile::tempdir().unwrap();
        let base = SledBase::open(directory.path(), 1 << 20).unwrap();
        let key = |number: u32| number.to_be_bytes().to_vec();
        base.apply((0..1000).map(|number| (key(number), Some(key(number)))).collect()).unwrap();
        // Whole leaves of deletions between the start and the first live key.
        base.apply((200..600).map(|number| (key(number), None)).collect()).unwrap();
        let mut seen = Vec::new();
        base.ascend(&key(198), &mut |found, _| {
            seen.push(u32::from_be_bytes(found.try_into().unwrap()));
            if seen.len() == 4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
        assert_eq!(seen, [198, 199, 600, 601]);
        seen.clear();
        base.descend(&key(601), &mut |found, _| {
            seen.push(u32::from_be_bytes(found.try_into().unwrap()));
            if seen.len() == 4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
        assert_eq!(seen, [601, 600, 199, 198]);
    }

    #[test]
    fn what_was_written_does_not_stay_in_memory_and_can_be_read_while_sled_is_opened_again() {
        const ROWS: u32 = 60_000;
        let directory = tempfile::tempdir().unwrap();
        let base = SledBase::open(directory.path(), 1 << 20).unwrap();
        let row = |number: u32| (number.to_be_bytes().to_vec(), vec![7; 1_000]);
        let read = |number: u32| base.get(&row(number).0).unwrap().is_some_and(|value| value == row(number).1);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut seen = 0;
                while seen < ROWS {
                    // Once it is there, it is there.
                    assert!((0..seen).rev().step_by(997).all(read));
                    while seen < ROWS && read(seen) {
                        seen += 1;
                    }
                }
            });
            for first in (0..ROWS).step_by(500) {
                base.apply((first..first + 500).map(row).map(|(key, value)| (key, Some(value))).collect()).unwrap();
                base.flush().unwrap();
            }
            reader.join().unwrap();
        });
        assert!(base.written.load(Ordering::Relaxed) < u64::from(ROWS) * 1_000 / 2, "it was opened again");
        assert!((0..ROWS).all(read));
    }

    #[test]
    fn an_empty_cookie_left_by_a_power_cut_during_creation_does_not_lock_the_store_out() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(cookie(directory.path()), b"").unwrap();
        let base = SledBase::open(directory.path(), 1 << 20).unwrap();
        base.apply(vec![(b"k".to_vec(), Some(b"v".to_vec()))]).unwrap();
        assert_eq!(base.get(b"k").unwrap().unwrap(), "v");
    }

    #[test]
    fn a_panic_inside_a_call_becomes_an_error_and_no_call_follows_it() {
        let directory = tempfile::tempdir().unwrap();
        let base = SledBase::open(directory.path(), 1 << 20).unwrap();
        let error = base.guarded::<()>(|_| panic!("an assertion of sled")).expect_err("it panicked");
        assert!(error.to_string().contains("an assertion of sled"));
        assert!(base.get(b"k").is_err());
    }
}
