//! What can go wrong in the store, and what it means for the caller.
//!
//! One enum for the whole room. Only [`StoreError::Full`], [`StoreError::TooLarge`] and [`StoreError::Refused`] leave the
//! store usable for commits; everything else a commit returns has poisoned it (see [`StoreError::Poisoned`]).

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A failure of the store. Messages leave out their source, which is reachable through `source()`.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process owns the directory.
    #[error("the store in {directory} is in use by {}; stop it or choose another directory", Holder(*.holder))]
    Locked {
        /// The store's directory.
        directory: PathBuf,
        /// The owner's process id, when the `LOCK` file names one.
        holder: Option<u32>,
    },
    /// The directory is not a store that this build understands. Nothing in it was changed.
    #[error("{file}: {what}; nothing was changed")]
    Format {
        /// The file or directory that was judged.
        file: PathBuf,
        /// What is wrong with it and what to do.
        what: String,
    },
    /// Bytes that were durable are no longer what was written. The store refuses rather than guess.
    #[error(
        "{file} is corrupt at byte {offset}: {what}; noxd does not guess: `noxd doctor` on the data directory tells what is affected, and can copy what is sound to a new one"
    )]
    Corrupt {
        /// The damaged file (for the merged rows: their directory, which only sled can look into).
        file: PathBuf,
        /// Where the damage was seen, in bytes from the start of the file (0 for the merged rows).
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// There is no room for another journal segment. Nothing was written and the store goes on.
    #[error("no space left in {directory} for another journal segment; free some space and try again")]
    Full {
        /// The store's directory.
        directory: PathBuf,
    },
    /// The batch is greater than a record may be. Nothing was written and the store goes on.
    #[error("a batch of {bytes} bytes is over the limit of {limit} bytes; split it")]
    TooLarge {
        /// The encoded size of the batch in bytes.
        bytes: u64,
        /// The greatest size allowed in bytes.
        limit: u64,
    },
    /// The batch or the configuration breaks a rule of the contract. Nothing was written and the store goes on.
    #[error("refused: {what}")]
    Refused {
        /// Which rule, and by what.
        what: String,
    },
    /// A file operation failed.
    #[error("cannot {operation} {file}")]
    Io {
        /// The operation, as a verb.
        operation: &'static str,
        /// The file or directory it was done to.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// sled failed. Its state is unknown from here on, so this is always fatal.
    #[error("sled cannot {operation} in {directory}")]
    Base {
        /// The operation, as a verb.
        operation: &'static str,
        /// sled's directory.
        directory: PathBuf,
        /// What sled said.
        source: io::Error,
    },
    /// sled did not finish opening in time: damaged metadata can make it spin for ever.
    #[error("{directory} could not be opened within {} s; its files may be damaged: see `noxd doctor`", .limit.as_secs())]
    OpenStalled {
        /// sled's directory.
        directory: PathBuf,
        /// How long it was waited for.
        limit: Duration,
    },
    /// An earlier failure made the store unfit to acknowledge anything more. Restart: recovery decides what is true.
    #[error("the store accepts no more commits since it failed: {reason}; restart to recover")]
    Poisoned {
        /// The first failure, with its causes.
        reason: String,
    },
}

impl StoreError {
    /// Binds the operation and the file to a system error: `.map_err(StoreError::io("read", path))`.
    pub(super) fn io<'a>(operation: &'static str, file: &'a Path) -> impl FnOnce(io::Error) -> StoreError + 'a {
        move |source| StoreError::Io { operation, file: file.to_path_buf(), source }
    }

    /// Damage in `file` at `offset`.
    pub(super) fn corrupt(file: &Path, offset: u64, what: impl Into<String>) -> StoreError {
        StoreError::Corrupt { file: file.to_path_buf(), offset, what: what.into() }
    }

    /// The error and its causes in one line, for the reason of a poisoned store and for logs.
    pub(super) fn with_causes(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }

    /// Whether it says that the disk (or the quota) has no room, which is survivable where nothing was promised yet.
    pub(super) fn is_no_space(&self) -> bool {
        match self {
            StoreError::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            StoreError::Full { .. } => true,
            _ => false,
        }
    }
}

/// Words for the owner of a locked directory.
struct Holder(Option<u32>);

impl fmt::Display for Holder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(pid) => write!(formatter, "process {pid}"),
            None => formatter.write_str("another process"),
        }
    }
}
