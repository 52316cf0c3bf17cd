//! What makes a directory a store: the `FORMAT` file, and the refusal of everything else.
//!
//! [`examine`] only reads, so that a directory that is not ours, or is of a newer format, is left as it was to the byte.

use std::io;
use std::path::Path;

use super::disk::Disk;
use super::error::StoreError;
use super::high_water::{self, HighWater};

/// 1 had no high-water mark, and no tally of its merged rows.
const VERSION: &str = "2";
const NAME: &str = "FORMAT";
const UNFINISHED: &str = "FORMAT.new";
/// The lock's file name, which is known here since a directory with nothing else is still a fresh one.
pub(super) const LOCK: &str = "LOCK";
/// A `FORMAT` file of this version is under 80 bytes; more is certainly something else.
const LIMIT_BYTES: u64 = 4096;

/// The id of the store in the directory, or `None` when the directory is fresh.
///
/// # Errors
/// [`StoreError::Format`] for a directory that holds something else.
pub(super) fn examine(disk: &dyn Disk, directory: &Path) -> Result<Option<u128>, StoreError> {
    let names = disk.list(directory).map_err(StoreError::io("list", directory))?;
    if names.iter().any(|name| name == NAME) {
        return read(disk, &directory.join(NAME)).map(Some);
    }
    // What a creation that was cut short leaves is a fresh directory's.
    match names.iter().find(|name| ![LOCK, UNFINISHED, high_water::NAME].iter().any(|known| *name == known)) {
        None => Ok(None),
        Some(name) => {
            let what = format!(
                "the directory has no FORMAT file but holds {:?}, so it is not a store; choose an empty directory",
                name.to_string_lossy()
            );
            Err(StoreError::Format { file: directory.to_path_buf(), what })
        }
    }
}

/// Makes a fresh directory a store, durably.
pub(super) fn create(disk: &dyn Disk, directory: &Path, store_id: u128) -> Result<(), StoreError> {
    // Its name is durable before that of FORMAT, so that a store has a mark from its first moment on. (Without the sync
    // a power cut could keep the later name alone: seed 258.)
    HighWater::create(disk, directory, store_id)?;
    disk.sync_directory(directory).map_err(StoreError::io("sync", directory))?;
    let unfinished = directory.join(UNFINISHED);
    match disk.remove(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(StoreError::io("remove", &unfinished)(error));
        }
        _ => {}
    }
    let file = disk.create(&unfinished).map_err(StoreError::io("create", &unfinished))?;
    file.write_at(text(store_id).as_bytes(), 0).map_err(StoreError::io("write", &unfinished))?;
    file.sync_data().map_err(StoreError::io("sync", &unfinished))?;
    let path = directory.join(NAME);
    disk.rename(&unfinished, &path).map_err(StoreError::io("rename to", &path))?;
    disk.sync_directory(directory).map_err(StoreError::io("sync", directory))
}

fn read(disk: &dyn Disk, path: &Path) -> Result<u128, StoreError> {
    let file = disk.open_to_read(path).map_err(StoreError::io("open", path))?;
    let length = file.length().map_err(StoreError::io("measure", path))?;
    let mut bytes = vec![0; length.min(LIMIT_BYTES) as usize];
    file.read_at(&mut bytes, 0).map_err(StoreError::io("read", path))?;
    parse(&bytes).map_err(|what| StoreError::Format { file: path.to_path_buf(), what })
}

/// Whether the `FORMAT` file is the sound one of another version, rather than a damaged one of this.
pub(super) fn is_of_another_version(disk: &dyn Disk, directory: &Path) -> bool {
    let Ok(file) = disk.open_to_read(&directory.join(NAME)) else { return false };
    let mut bytes = vec![0; file.length().unwrap_or(0).min(LIMIT_BYTES) as usize];
    if file.read_at(&mut bytes, 0).is_err() {
        return false;
    }
    let Ok(words) = std::str::from_utf8(&bytes) else { return false };
    let Some((version, rest)) = words.strip_prefix("noxd store\nversion ").and_then(|rest| rest.split_once('\n'))
    else {
        return false;
    };
    version != VERSION && parse(format!("noxd store\nversion {VERSION}\n{rest}").as_bytes()).is_err()
}

fn text(store_id: u128) -> String {
    let words = format!("noxd store\nversion {VERSION}\nid {store_id:032x}\n");
    // Over all before it: another id would make every other file of the store a stranger's.
    format!("{words}crc32c {:08x}\n", crc32c::crc32c(words.as_bytes()))
}

fn parse(bytes: &[u8]) -> Result<u128, String> {
    let text_of = std::str::from_utf8(bytes).ok();
    let Some(rest) = text_of.and_then(|text| text.strip_prefix("noxd store\nversion ")) else {
        return Err("this is not the FORMAT file of a noxd store".into());
    };
    let (version, rest) = rest.split_once('\n').unwrap_or((rest, ""));
    if version != VERSION {
        return Err(format!(
            "the store is of version {:?} and this noxd reads version {VERSION}; use the noxd that wrote it",
            version.chars().take(20).collect::<String>()
        ));
    }
    let id = rest.strip_prefix("id ").and_then(|rest| rest.split_once('\n')).map(|(id, _)| id);
    id.and_then(|id| u128::from_str_radix(id, 16).ok())
        // Written in one way only, so anything that reads alike but is not the same was tampered with.
        .filter(|id| text(*id).as_bytes() == bytes)
        .ok_or_else(|| "the FORMAT file is damaged: its id and checksum do not go together".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_text_is_a_format() {
        let sound = text(0xABCD << 64 | 9);
        assert_eq!(parse(sound.as_bytes()), Ok(0xABCD << 64 | 9));
        for end in 0..sound.len() {
            assert!(parse(&sound.as_bytes()[..end]).is_err(), "cut at {end}");
        }
        for bit in 0..sound.len() * 8 {
            let mut flipped = sound.clone().into_bytes();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&flipped).is_err(), "bit {bit}");
        }
        let newer = parse(b"noxd store\nversion 3\nwhatever\n").expect_err("unknown version");
        assert!(newer.contains("\"3\"") && newer.contains("version 2"), "{newer}");
        assert!(parse(sound.to_uppercase().as_bytes()).is_err());
        assert!(parse(&[0xFF, 0xFE]).is_err());
    }
}
