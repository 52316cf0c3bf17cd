//! The ballast: space that is held so that it can be given back when there is no other.
//!
//! sled writes when it opens, so without a free page on the disk a noxd that was killed there could not start, not even
//! for reading. The ballast is a file of the store that holds nothing: it is removed when an open finds less space than
//! it takes, and made again right after, as large as there is room, and whole as soon as there is room for that.
//!
//! It is no reserve for commits: that is [`super::spare`].

use std::io;
use std::path::Path;

use super::disk::Disk;
use super::error::StoreError;
use super::segment;

const NAME: &str = "BALLAST";
/// Where not all of it can be had, it is made smaller by this part of it.
const PARTS: u64 = 16;

/// Gives the space back, where there is no other.
pub(super) fn release(disk: &dyn Disk, directory: &Path, bytes: u64) -> Result<(), StoreError> {
    let free = disk.free_bytes(directory).map_err(StoreError::io("measure the free space of", directory))?;
    if free >= bytes {
        return Ok(());
    }
    let path = directory.join(NAME);
    match disk.remove(&path) {
        Ok(()) => {
            tracing::warn!(free, "the disk is full: gave up the ballast to open the store");
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(StoreError::io("remove", &path)(error)),
    }
}

/// Holds as much of it as there is room for; returns whether that is all.
pub(super) fn hold(disk: &dyn Disk, directory: &Path, bytes: u64) -> Result<bool, StoreError> {
    let path = directory.join(NAME);
    let file = match disk.open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => disk.create(&path),
        opened => opened,
    };
    let file = match file.map_err(StoreError::io("open", &path)) {
        Err(error) if error.is_no_space() => return Ok(false),
        file => file?,
    };
    let held = file.length().map_err(StoreError::io("measure", &path))?;
    for parts in (1..=PARTS).rev() {
        let wanted = bytes / PARTS * parts;
        if held >= wanted {
            return Ok(parts == PARTS);
        }
        let filled = file.allocate(wanted).and_then(|()| match file.length()? {
            // Not every file system can reserve.
            length if length < wanted => segment::fill_with_zeros(&*file, length, wanted),
            _ => Ok(()),
        });
        match filled.map_err(StoreError::io("allocate", &path)) {
            Ok(()) => return Ok(parts == PARTS),
            Err(error) if error.is_no_space() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}
