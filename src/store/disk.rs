//! The one seam between the store and files.
//!
//! Every file the store owns (`FORMAT`, `LOCK`, the journal) is touched through [`Disk`] and nothing else, so that
//! [`super::simulated::SimulatedDisk`] can lose, tear and reorder whatever was not synced, and answer any call with an
//! error. What is *not* behind the seam: sled opens its own files under `rows/`. The simulation replaces it as a whole,
//! by a model of what it promises (see [`super::sled::Base`]).
//!
//! The seam promises no more than POSIX does: a write is durable after [`DiskFile::sync_data`], a name after
//! [`Disk::sync_directory`] on its directory. Start with [`Disk`]; [`RealDisk`] is the one that ships.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, FlockOperation};

/// Names, directories and locks.
pub trait Disk: Send + Sync {
    /// Creates a directory, for its owner alone, with its missing parents. One that exists is left as it is.
    fn create_directory(&self, path: &Path) -> io::Result<()>;
    /// The names in a directory, in no order. `NotFound` when there is none.
    fn list(&self, directory: &Path) -> io::Result<Vec<OsString>>;
    /// Creates a new, empty file for its owner alone. `AlreadyExists` when the name is taken.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Opens an existing file for reading alone.
    fn open_to_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Renames within one directory, replacing what stood there.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;
    /// Bytes that this process could still allocate on the file system of `directory`.
    fn free_bytes(&self, directory: &Path) -> io::Result<u64>;
    /// Takes the exclusive lock on a file without waiting, creating the file when it is missing.
    fn lock(&self, path: &Path) -> io::Result<Lock>;
    /// Takes the same lock and changes nothing: a missing file stays missing, and nobody holds a lock on it.
    fn lock_to_read(&self, path: &Path) -> io::Result<Lock>;
}

/// The bytes of one file.
pub trait DiskFile: Send + Sync {
    /// Fills the whole buffer from `offset`, or fails with `UnexpectedEof`.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all the bytes at `offset`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Returns when everything written to the file, and the length needed to read it, is on stable storage.
    fn sync_data(&self) -> io::Result<()>;
    /// The length in bytes.
    fn length(&self) -> io::Result<u64>;
    /// Reserves blocks for the first `length` bytes, so that a lack of space is met here and not while writing.
    fn allocate(&self, length: u64) -> io::Result<()>;
}

/// The outcome of [`Disk::lock`].
pub enum Lock {
    /// The lock is held until the guard is dropped.
    Held(Box<dyn Send + Sync>),
    /// Somebody else holds it.
    Busy {
        /// The process id found in the file.
        holder: Option<u32>,
    },
}

/// The disk of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<OsString>> {
        fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.file_name())).collect()
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        Ok(Box::new(RealFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RealFile(OpenOptions::new().read(true).write(true).open(path)?)))
    }

    fn open_to_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RealFile(File::open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }

    fn free_bytes(&self, directory: &Path) -> io::Result<u64> {
        let statistics = rustix::fs::statvfs(directory)?;
        Ok(statistics.f_bavail.saturating_mul(statistics.f_frsize))
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        if !take_flock(&file)? {
            return Ok(Lock::Busy { holder: holder(file) });
        }
        // On a full disk there may be no page for it. Who is refused then hears of another process without its number.
        let _courtesy = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Lock::Held(Box::new(file)))
    }

    fn lock_to_read(&self, path: &Path) -> io::Result<Lock> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Lock::Held(Box::new(()))),
            Err(error) => return Err(error),
        };
        Ok(if take_flock(&file)? { Lock::Held(Box::new(file)) } else { Lock::Busy { holder: holder(file) } })
    }
}

/// Whether the lock could be had.
fn take_flock(file: &File) -> io::Result<bool> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The process that wrote itself into a lock. It is a courtesy to the reader of the message: a file that cannot be read
/// costs only that.
fn holder(file: File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// An open file of the machine.
struct RealFile(File);

impl DiskFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.0, FallocateFlags::empty(), 0, length) {
            Ok(()) => Ok(()),
            // Not every file system can reserve. The zero-fill that follows allocates just as surely, only slower.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
