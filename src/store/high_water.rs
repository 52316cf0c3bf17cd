//! The high-water mark: how far the journal and the base are known to have come, kept in a file of its own.
//!
//! Each part of a store proves what it holds, and none of them proves that it holds everything: a newest segment that
//! is gone, an older copy of it, or a cut log of sled, read like a store that has not come that far. So after each step
//! its number is written here. The mark *never leads*: what it names was durable before, so it is written after the sync
//! of what it speaks of. It *may lag*: it is synced only after a merge and at the end, not with each batch, and a power
//! cut may leave an older one. So it costs a commit one write of one sector and no sync.
//!
//! It does not say where things are, and recovery takes nothing from it but the reason to refuse. Read [`Reached`].

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::disk::{Disk, DiskFile};
use super::error::StoreError;
use super::record::{SECTOR_BYTES, le_u32, le_u64};

/// The file's name, and that under which it is made.
pub(super) const NAME: &str = "HIGH-WATER";
const MAGIC: &[u8; 8] = b"noxdhigh";
const VERSION: u32 = 1;

/// What was reached, each at least.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Reached {
    /// The segment of the newest acknowledged batch.
    pub segment: u64,
    /// The newest acknowledged batch.
    pub batch: u64,
    /// The newest batch that the base has durably.
    pub merged: u64,
    /// How far sled's log of its own metadata had come by then.
    pub log: LogEnd,
}

/// A place in sled's metadata.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct LogEnd {
    /// The number of the log; a snapshot of that number or a later one has all of it.
    pub number: u64,
    /// Its length in bytes.
    pub bytes: u64,
}

/// The file, and what it says.
pub(super) struct HighWater {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    store_id: u128,
    reached: Mutex<Reached>,
}

impl HighWater {
    /// Makes the mark of a store in which nothing was reached yet. Its name is durable when the directory is synced.
    pub(super) fn create(disk: &dyn Disk, directory: &Path, store_id: u128) -> Result<(), StoreError> {
        let path = directory.join(NAME);
        match disk.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StoreError::io("remove", &path)(error));
            }
            _ => {}
        }
        let file = disk.create(&path).map_err(StoreError::io("create", &path))?;
        file.write_at(&encode(store_id, Reached::default()), 0).map_err(StoreError::io("write", &path))?;
        file.sync_data().map_err(StoreError::io("sync", &path))
    }

    /// Opens the mark of a store, to be raised.
    pub(super) fn open(disk: &dyn Disk, directory: &Path, store_id: u128) -> Result<HighWater, StoreError> {
        let path = directory.join(NAME);
        let file = disk.open(&path).map_err(|error| missing_or(error, &path))?;
        let reached = Mutex::new(read(&*file, &path, Some(store_id))?.1);
        Ok(HighWater { file, path, store_id, reached })
    }

    /// Reads what was reached by which store, and leaves the file as it is. `store_id` is whose it should be, where that
    /// is known.
    pub(super) fn look(
        disk: &dyn Disk,
        directory: &Path,
        store_id: Option<u128>,
    ) -> Result<(u128, Reached), StoreError> {
        let path = directory.join(NAME);
        let file = disk.open_to_read(&path).map_err(|error| missing_or(error, &path))?;
        read(&*file, &path, store_id)
    }

    /// What was reached.
    pub(super) fn reached(&self) -> Reached {
        *self.reached.lock().expect("nobody panics while raising a number")
    }

    /// Notes a batch that is durable. Not synced: see the head of this file.
    pub(super) fn acknowledged(&self, segment: u64, batch: u64) -> Result<(), StoreError> {
        self.raise(|reached| Reached { segment, batch, ..reached })
    }

    /// Notes how far the base has come, durably.
    pub(super) fn merged(&self, batch: u64, log: Option<LogEnd>) -> Result<(), StoreError> {
        self.raise(|reached| Reached { merged: batch, log: log.unwrap_or(reached.log), ..reached })?;
        self.sync()
    }

    /// Makes the mark durable.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.file.sync_data().map_err(StoreError::io("sync", &self.path))
    }

    fn raise(&self, raised: impl FnOnce(Reached) -> Reached) -> Result<(), StoreError> {
        // Held over the write, which only reaches the page cache: otherwise an older mark could overwrite a newer one.
        let mut reached = self.reached.lock().expect("nobody panics while raising a number");
        *reached = raised(*reached);
        self.file.write_at(&encode(self.store_id, *reached), 0).map_err(StoreError::io("write", &self.path))
    }
}

fn missing_or(error: io::Error, path: &Path) -> StoreError {
    match error.kind() {
        io::ErrorKind::NotFound => StoreError::corrupt(path, 0, "it is missing, and every store has one"),
        _ => StoreError::io("open", path)(error),
    }
}

fn read(file: &dyn DiskFile, path: &Path, store_id: Option<u128>) -> Result<(u128, Reached), StoreError> {
    let corrupt = |what| StoreError::corrupt(path, 0, what);
    let length = file.length().map_err(StoreError::io("measure", path))?;
    if length != SECTOR_BYTES as u64 {
        return Err(corrupt(format!("it is {length} bytes long, and not {SECTOR_BYTES}")));
    }
    let mut sector = [0; SECTOR_BYTES];
    file.read_at(&mut sector, 0).map_err(StoreError::io("read", path))?;
    if le_u32(&sector[SECTOR_BYTES - 4..]) != crc32c::crc32c(&sector[..SECTOR_BYTES - 4]) {
        return Err(corrupt("it does not match its checksum".into()));
    }
    if &sector[0..8] != MAGIC || le_u32(&sector[8..]) != VERSION {
        return Err(corrupt("it is of an unknown format".into()));
    }
    let found = u128::from(le_u64(&sector[12..])) | u128::from(le_u64(&sector[20..])) << 64;
    if store_id.is_some_and(|wanted| wanted != found) {
        return Err(corrupt("it belongs to another store".into()));
    }
    let number = |at: usize| le_u64(&sector[at..]);
    let log = LogEnd { number: number(52), bytes: number(60) };
    Ok((found, Reached { segment: number(28), batch: number(36), merged: number(44), log }))
}

fn encode(store_id: u128, reached: Reached) -> [u8; SECTOR_BYTES] {
    let mut sector = [0; SECTOR_BYTES];
    sector[0..8].copy_from_slice(MAGIC);
    sector[8..12].copy_from_slice(&VERSION.to_le_bytes());
    sector[12..28].copy_from_slice(&store_id.to_le_bytes());
    let Reached { segment, batch, merged, log } = reached;
    for (at, number) in [segment, batch, merged, log.number, log.bytes].into_iter().enumerate() {
        sector[28 + 8 * at..36 + 8 * at].copy_from_slice(&number.to_le_bytes());
    }
    let crc = crc32c::crc32c(&sector[..SECTOR_BYTES - 4]);
    sector[SECTOR_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
    sector
}
