//! sled's metadata: a snapshot and the logs after it, each a sequence of frames with checksums.
//!
//! A frame is 6 bytes length, 2 bytes checksum of the length, the changes compressed, 4 bytes checksum of all before. The
//! newest log may end in one that was never finished; everything that was flushed is before it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use super::super::disk::Disk;
use super::super::error::StoreError;
use super::super::high_water::LogEnd;
use super::{decompress, take_bytes, take_u64};

const LOG: &str = "log_";
const SNAPSHOT: &str = "snapshot_";
/// sled removes what ends so, whatever it is.
const UNFINISHED: &str = ".tmp";
const COOKIE_BYTES: u64 = 64;
const CRC_TURN: u32 = 0xAF;
/// No metadata comes near: that of a hundred million leaves.
const FRAME_LIMIT_BYTES: u64 = 8 * 1024 * 1024 * 1024;

/// A leaf as the metadata has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Object {
    pub collection: u64,
    /// The number of its slab, from 1.
    pub slab: u8,
    pub slot: u64,
    pub low_key: Vec<u8>,
}

type Objects = BTreeMap<u64, Object>;

/// Checks the cookie, where there is one: an empty one is what a power cut during the first open leaves.
pub(super) fn check_cookie(disk: &dyn Disk, path: &Path, faults: &mut Vec<StoreError>) -> Result<(), StoreError> {
    let bytes = match read_file(disk, path) {
        Ok(bytes) => bytes,
        Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let sound = bytes.is_empty()
        || bytes.len() as u64 == COOKIE_BYTES
            && bytes
                .split_last_chunk::<4>()
                .is_some_and(|(body, crc)| u32::from_le_bytes(*crc) == crc32fast::hash(body) ^ CRC_TURN);
    if !sound {
        faults.push(StoreError::corrupt(path, 0, "it does not match its checksum"));
    }
    Ok(())
}

/// Reads which leaves there are; `None` when there is no metadata yet.
pub(super) fn read(
    disk: &dyn Disk,
    directory: &Path,
    reached: LogEnd,
    faults: &mut Vec<StoreError>,
) -> Result<Option<Objects>, StoreError> {
    let Some(names) = names(disk, directory)? else {
        if reached != LogEnd::default() {
            faults.push(StoreError::corrupt(directory, 0, "sled's metadata is missing"));
        }
        return Ok(None);
    };
    faults.extend(names.strangers.iter().map(|name| {
        let what = "sled would take it for a file of its own and break on it; move it elsewhere".to_owned();
        StoreError::Format { file: directory.join(name), what }
    }));
    let newest_snapshot = names.snapshots.last().copied();
    let since = newest_snapshot.unwrap_or(0);
    let logs: Vec<u64> = names.logs.iter().copied().filter(|log| *log > since).collect();
    let mut objects = Objects::new();
    match newest_snapshot {
        Some(number) => {
            let path = snapshot_path(directory, number);
            let bytes = read_file(disk, &path)?;
            match frame(&bytes, 0) {
                Ok((end, changes)) if end == bytes.len() => apply(&mut objects, changes),
                Ok((end, changes)) => {
                    faults.push(StoreError::corrupt(&path, end as u64, "something follows the end of the snapshot"));
                    apply(&mut objects, changes);
                }
                Err(what) => faults.push(StoreError::corrupt(&path, 0, what)),
            }
        }
        // The snapshot is made before the first log, and replaced by renaming.
        None if !logs.is_empty() => {
            faults.push(StoreError::corrupt(directory, 0, "there are logs of sled's, and no snapshot"));
        }
        None if reached != LogEnd::default() => {
            faults.push(StoreError::corrupt(directory, 0, "sled's snapshot and logs are missing"));
        }
        None => return Ok(None),
    }
    let newest = logs.last().copied();
    if reached.number > since && newest.is_none_or(|newest| newest < reached.number) {
        let path = log_path(directory, reached.number);
        faults.push(StoreError::corrupt(&path, 0, "it is missing, and rows that were merged are in it"));
    }
    let mut due = since + 1;
    for log in logs {
        if log != due {
            faults.push(StoreError::corrupt(&log_path(directory, due), 0, "it is missing, and later logs are there"));
        }
        due = log + 1;
        let path = log_path(directory, log);
        let bytes = read_file(disk, &path)?;
        let (end, trouble) = read_log(&bytes, &mut objects);
        let known = if log == reached.number { reached.bytes } else { 0 };
        match trouble {
            // What was never finished, or was finished and not relied upon yet, is still in the journal.
            Some(_) if newest == Some(log) && end as u64 >= known => {}
            Some(what) => faults.push(StoreError::corrupt(&path, end as u64, what)),
            None if (end as u64) < known => {
                let what = format!("the file ends, and {known} bytes of it were relied upon");
                faults.push(StoreError::corrupt(&path, end as u64, what));
            }
            None => {}
        }
    }
    let mut taken = BTreeSet::new();
    for object in objects.values() {
        if !taken.insert((object.slab, object.slot)) {
            let what = format!("two leaves are said to be in slot {} of slab {}", object.slot, object.slab);
            faults.push(StoreError::corrupt(directory, 0, what));
        }
    }
    Ok(Some(objects))
}

/// See [`super::log_end`].
pub(super) fn log_end(disk: &dyn Disk, directory: &Path) -> Result<Option<LogEnd>, StoreError> {
    let Some(names) = names(disk, directory)? else { return Ok(None) };
    // An empty log is passed over: its name may not be durable yet. Without any the snapshot has everything.
    for log in names.logs.iter().rev().copied() {
        let path = log_path(directory, log);
        let length = disk.open_to_read(&path).and_then(|file| file.length());
        match length {
            Ok(0) => {}
            Ok(bytes) => return Ok(Some(LogEnd { number: log, bytes })),
            // It is being made part of a snapshot.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io("measure", &path)(error)),
        }
    }
    Ok(None)
}

/// See [`super::metadata_bytes`].
pub(super) fn bytes(disk: &dyn Disk, directory: &Path) -> Result<u64, StoreError> {
    let Some(names) = names(disk, directory)? else { return Ok(0) };
    let logs = names.logs.iter().map(|log| log_path(directory, *log));
    let snapshots = names.snapshots.iter().map(|snapshot| snapshot_path(directory, *snapshot));
    logs.chain(snapshots).try_fold(0, |sum: u64, path| {
        let length = disk.open_to_read(&path).and_then(|file| file.length());
        Ok(sum.saturating_add(length.map_err(StoreError::io("measure", &path))?))
    })
}

/// The files of the metadata.
struct Names {
    logs: BTreeSet<u64>,
    snapshots: BTreeSet<u64>,
    /// What sled would stumble over.
    strangers: Vec<String>,
}

fn names(disk: &dyn Disk, directory: &Path) -> Result<Option<Names>, StoreError> {
    let listed = match disk.list(directory) {
        Ok(listed) => listed,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::io("list", directory)(error)),
    };
    let mut names = Names { logs: BTreeSet::new(), snapshots: BTreeSet::new(), strangers: Vec::new() };
    for name in listed.iter().filter_map(|name| name.to_str()) {
        let number = |prefix: &str| {
            let digits = name.strip_prefix(prefix)?;
            let exact = digits.len() == 16 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            exact.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
        };
        if name.ends_with(UNFINISHED) {
        } else if let Some(log) = number(LOG) {
            names.logs.insert(log);
        } else if let Some(snapshot) = number(SNAPSHOT) {
            names.snapshots.insert(snapshot);
        } else if name.starts_with("log") || name.starts_with("snapshot") {
            names.strangers.push(name.to_owned());
        }
    }
    Ok(Some(names))
}

/// Reads a log's frames; returns the end of the last sound one, and what is wrong behind it.
fn read_log(bytes: &[u8], objects: &mut Objects) -> (usize, Option<String>) {
    let mut at = 0;
    while at < bytes.len() {
        match frame(bytes, at) {
            Ok((end, changes)) => {
                apply(objects, changes);
                at = end;
            }
            Err(what) => return (at, Some(what)),
        }
    }
    (at, None)
}

type Changes = Vec<(u64, Option<Object>)>;

/// The frame at `at`: where it ends and what it says.
fn frame(bytes: &[u8], at: usize) -> Result<(usize, Changes), String> {
    let rest = &bytes[at..];
    let (head, body) = rest.split_first_chunk::<8>().ok_or("the frame is cut short")?;
    let length = u64::from_le_bytes([head[0], head[1], head[2], head[3], head[4], head[5], 0, 0]);
    #[expect(clippy::cast_possible_truncation, reason = "sled keeps the lower half of the checksum")]
    let crc = (crc32fast::hash(&head[..6]) as u16).to_le_bytes();
    if crc != head[6..] {
        return Err("the frame's length does not match its checksum".into());
    }
    let length = usize::try_from(length).map_err(|error| error.to_string())?;
    let (payload, crc) = body
        .split_at_checked(length)
        .and_then(|(payload, after)| Some((payload, after.first_chunk::<4>()?)))
        .ok_or("the frame is cut short")?;
    if u32::from_le_bytes(*crc) != crc32fast::hash(&rest[..8 + length]) ^ CRC_TURN {
        return Err("the frame does not match its checksum".into());
    }
    let whole = decompress(payload, FRAME_LIMIT_BYTES)?;
    Ok((at + 8 + length + 4, changes(&whole).ok_or("the frame is no list of leaves")?))
}

/// Number, tree, place and low key of each leaf; place 0 says that it is gone.
fn changes(whole: &[u8]) -> Option<Changes> {
    let (mut rest, mut changes) = (whole, Changes::new());
    while !rest.is_empty() {
        let number = take_u64(&mut rest)?;
        let collection = take_u64(&mut rest)?;
        let place = take_u64(&mut rest)?;
        let low_key = take_bytes(&mut rest)?.to_vec();
        let slab = place.to_be_bytes()[0];
        let object = Object { collection, slab, slot: place & (u64::MAX >> 8), low_key };
        changes.push((number, (place != 0).then_some(object)));
    }
    Some(changes)
}

fn apply(objects: &mut Objects, changes: Changes) {
    for (number, object) in changes {
        match object {
            Some(object) => objects.insert(number, object),
            None => objects.remove(&number),
        };
    }
}

fn read_file(disk: &dyn Disk, path: &Path) -> Result<Vec<u8>, StoreError> {
    let file = disk.open_to_read(path).map_err(StoreError::io("open", path))?;
    let length = file.length().map_err(StoreError::io("measure", path))?;
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    file.read_at(&mut bytes, 0).map_err(StoreError::io("read", path))?;
    Ok(bytes)
}

fn log_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{LOG}{number:016x}"))
}

fn snapshot_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{SNAPSHOT}{number:016x}"))
}
