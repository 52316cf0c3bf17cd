//! sled's files, read without sled: what is on the disk, proved, before sled is let near it.
//!
//! sled `1.0.0-alpha.124` trusts its files. It drops the rest of a log behind a damaged frame without a word, rewrites its
//! metadata at every open, panics on names it does not know, and spins for ever on a leaf that is not the one it looks
//! for. So its files are read here first, by its own format and read-only, and refused with file and offset. `noxd
//! doctor` reads damaged stores by the same means.
//!
//! ```text
//! rows/durability_cookie               the leaf fan-out
//! rows/metadata/snapshot_N             which leaves there are and where, up to log N
//! rows/metadata/log_N+1 …              what changed since, a frame per flush
//! rows/slabs/SIZE                      leaves in slots of SIZE bytes
//! ```
//!
//! What no file can tell of itself is told by the others: that a log was not cut short by [`super::high_water`], that
//! no leaf is older than it should be by the tally in the rows (see [`super::audit`]). Read [`Table::read`] first.

mod leaf;
mod metadata;

use std::io;
use std::path::{Path, PathBuf};

use super::disk::{Disk, DiskFile};
use super::error::StoreError;
use super::high_water::LogEnd;
pub(super) use leaf::Leaf;

const COOKIE: &str = "durability_cookie";
const METADATA: &str = "metadata";
const SLABS: &str = "slabs";
/// The tree that noxd's rows are in; sled keeps another for the names of trees.
const DEFAULT_COLLECTION: u64 = 1;

/// The leaves that are alive, in the order of their keys.
pub(super) struct Table {
    slabs: PathBuf,
    files: Vec<Option<Box<dyn DiskFile>>>,
    /// Those of noxd's rows.
    leaves: Vec<Place>,
    /// Those of sled's own tree.
    others: Vec<Place>,
}

/// Where a leaf is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// The first key it may hold.
    pub low_key: Vec<u8>,
    slab: usize,
    slot: u64,
}

impl Table {
    /// Reads sled's metadata in `directory`; `None` when sled has never been there. `reached` is how far its log is
    /// known to have come.
    ///
    /// # Errors
    /// The first thing that is wrong, as [`StoreError::Corrupt`]. [`Table::salvage`] goes on.
    pub(super) fn read(disk: &dyn Disk, directory: &Path, reached: LogEnd) -> Result<Option<Table>, StoreError> {
        let mut faults = Vec::new();
        let table = Table::salvage(disk, directory, reached, &mut faults)?;
        faults.into_iter().next().map_or(Ok(table), Err)
    }

    /// As [`Table::read`], but takes what can be read and notes what is wrong.
    ///
    /// # Errors
    /// Where the files cannot be read at all.
    pub(super) fn salvage(
        disk: &dyn Disk,
        directory: &Path,
        reached: LogEnd,
        faults: &mut Vec<StoreError>,
    ) -> Result<Option<Table>, StoreError> {
        metadata::check_cookie(disk, &directory.join(COOKIE), faults)?;
        let Some(objects) = metadata::read(disk, &directory.join(METADATA), reached, faults)? else {
            return Ok(None);
        };
        let slabs = directory.join(SLABS);
        let (mut leaves, mut others) = (Vec::new(), Vec::new());
        for object in objects.into_values() {
            let Some(slab) = usize::from(object.slab).checked_sub(1).filter(|slab| *slab < leaf::SLOT_BYTES.len())
            else {
                faults.push(StoreError::corrupt(&slabs, 0, "a leaf is said to be in a slab that does not exist"));
                continue;
            };
            let place = Place { low_key: object.low_key, slab, slot: object.slot };
            if object.collection == DEFAULT_COLLECTION { leaves.push(place) } else { others.push(place) }
        }
        leaves.sort_unstable_by(|one, other| one.low_key.cmp(&other.low_key));
        if let Some(first) = leaves.first().filter(|first| !first.low_key.is_empty()) {
            let what = format!("the leaf of the first rows is missing, before \"{}\"", first.low_key.escape_ascii());
            faults.push(StoreError::corrupt(&directory.join(METADATA), 0, what));
        }
        let mut files = Vec::new();
        for (slab, bytes) in leaf::SLOT_BYTES.iter().enumerate() {
            let path = slabs.join(bytes.to_string());
            let is_used = leaves.iter().chain(&others).any(|place| place.slab == slab);
            files.push(match is_used.then(|| disk.open_to_read(&path)) {
                None => None,
                Some(Ok(file)) => Some(file),
                Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => None,
                Some(Err(error)) => return Err(StoreError::io("open", &path)(error)),
            });
        }
        Ok(Some(Table { slabs, files, leaves, others }))
    }

    /// The leaves of noxd's rows, by their keys.
    pub(super) fn leaves(&self) -> &[Place] {
        &self.leaves
    }

    /// The leaves of sled's own tree.
    pub(super) fn others(&self) -> &[Place] {
        &self.others
    }

    /// The key at which the leaf after this one begins.
    pub(super) fn end_of(&self, index: usize) -> Option<&[u8]> {
        self.leaves.get(index + 1).map(|next| next.low_key.as_slice())
    }

    /// Reads a leaf and holds it against its place.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] with the slab and the offset of the slot.
    pub(super) fn leaf(&self, place: &Place) -> Result<Leaf, StoreError> {
        let path = self.slabs.join(leaf::SLOT_BYTES[place.slab].to_string());
        let offset = leaf::SLOT_BYTES[place.slab].saturating_mul(place.slot);
        let corrupt = |what: String| {
            let whose = place.low_key.escape_ascii();
            StoreError::corrupt(&path, offset, format!("{what} (the leaf of the rows from \"{whose}\")"))
        };
        let Some(file) = &self.files[place.slab] else {
            return Err(corrupt("the file is missing".into()));
        };
        let length = file.length().map_err(StoreError::io("measure", &path))?;
        let slot_bytes = leaf::SLOT_BYTES[place.slab];
        if offset.checked_add(slot_bytes).is_none_or(|end| end > length) {
            return Err(corrupt(format!("the file ends at {length}")));
        }
        let mut slot = vec![0; usize::try_from(slot_bytes).map_err(|error| corrupt(error.to_string()))?];
        file.read_at(&mut slot, offset).map_err(StoreError::io("read", &path))?;
        let leaf = Leaf::decode(&slot).map_err(corrupt)?;
        if leaf.low_key != place.low_key {
            return Err(corrupt(format!("another leaf stands here, of \"{}\"", leaf.low_key.escape_ascii())));
        }
        Ok(leaf)
    }

    /// Where a leaf stands, for a report about what is in it.
    pub(super) fn place(&self, place: &Place) -> (PathBuf, u64) {
        let bytes = leaf::SLOT_BYTES[place.slab];
        (self.slabs.join(bytes.to_string()), bytes.saturating_mul(place.slot))
    }
}

/// How far sled's log has come; `None` where sled has none, or is just changing it.
pub(super) fn log_end(disk: &dyn Disk, directory: &Path) -> Result<Option<LogEnd>, StoreError> {
    metadata::log_end(disk, &directory.join(METADATA))
}

/// The bytes of sled's metadata.
pub(super) fn metadata_bytes(disk: &dyn Disk, directory: &Path) -> Result<u64, StoreError> {
    metadata::bytes(disk, &directory.join(METADATA))
}

fn le_u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk::<8>()?))
}

/// Takes a number from the front.
fn take_u64(rest: &mut &[u8]) -> Option<u64> {
    let number = le_u64_at(rest, 0)?;
    *rest = &rest[8..];
    Some(number)
}

/// Takes a number from the front and so many bytes after it.
fn take_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take_u64(rest)?).ok()?;
    let (bytes, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(bytes)
}

/// Decompresses what may grow to `limit` bytes at most.
fn decompress(bytes: &[u8], limit: u64) -> Result<Vec<u8>, String> {
    use std::io::Read as _;
    let decoder = zstd::stream::read::Decoder::new(bytes).map_err(|error| error.to_string())?;
    let mut whole = Vec::new();
    decoder.take(limit + 1).read_to_end(&mut whole).map_err(|error| format!("it cannot be decompressed: {error}"))?;
    if whole.len() as u64 > limit {
        return Err(format!("it is larger than {limit} bytes"));
    }
    Ok(whole)
}
