//! What a process of ours inherits and hardly loses: two soft limits whose numbers mean nothing to the kernel.
//!
//! A program may leave its session, clear its environment, execute another one and lose its parent; daemons do all of
//! that. Resource limits stay through all of it. noxd wears its store's number as its own limit of file locks (which
//! Linux has not looked at since 2.4) and, while it starts an attempt, the attempt's as the limit of real-time CPU (which
//! is longer than the machine will live), so that whatever it starts has both from the first moment. They are read in
//! `/proc/<pid>/limits`, also after noxd has died.
//!
//! A process that sets these limits itself takes its tag off; what finds it then is `orphans`. Nothing is ended here.
//! Read first: [`Tag`], then [`dressed`].

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sha2::{Digest as _, Sha256};

/// Whose a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    /// Of whatever attempt of a store.
    Store(u64),
    /// Of this attempt.
    Attempt(u64),
}

/// The numbers that a process carries, whatever they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Carried {
    locks: u64,
    realtime: u64,
}

impl Tag {
    /// Of a store at a place. The place counts, since a copy of a store has the same id: a noxd that serves one wears
    /// its number too, and no other noxd may end it. There is one noxd at a place at a time.
    pub(super) fn of_store(store_id: &str, place: &Path) -> Self {
        Self::Store(number(STORE_PREFIX, &[store_id.as_bytes(), place.as_os_str().as_bytes()]))
    }

    /// Of an attempt: store, execution, task, attempt.
    pub(super) fn of_attempt(names: [&str; 4]) -> Self {
        Self::Attempt(number(ATTEMPT_PREFIX, &names.map(str::as_bytes)))
    }

    /// Whether it is carried.
    pub(super) fn is_on(self, carried: Carried) -> bool {
        match self {
            Self::Store(number) => carried.locks == number,
            Self::Attempt(number) => carried.realtime == number,
        }
    }

    /// Whether that of another attempt of this noxd is carried, so that no other sign has to be looked for.
    pub(super) fn is_another(self, carried: Carried) -> bool {
        matches!(self, Self::Attempt(_))
            && carried.attempt().is_some_and(|other| other != self)
            && WORN.get() == Some(&Self::Store(carried.locks))
    }

    /// Puts it on this process, and thus on whatever it starts.
    ///
    /// # Errors
    /// A hard limit that is lower, or what the system says.
    pub(super) fn wear(self) -> io::Result<()> {
        let (resource, limit) = self.limit()?;
        setrlimit(resource, limit)?;
        if matches!(self, Self::Store(_)) {
            WORN.get_or_init(|| self);
        }
        Ok(())
    }

    fn limit(self) -> io::Result<(Resource, Rlimit)> {
        let (resource, number) = match self {
            Self::Store(number) => (Resource::Locks, number),
            Self::Attempt(number) => (Resource::Rttime, number),
        };
        // A soft limit cannot be above the hard one.
        let maximum = getrlimit(resource).maximum;
        if maximum.is_some_and(|maximum| maximum < number) {
            return Err(io::Error::other("the hard limits of file locks and real-time CPU are to be unlimited"));
        }
        Ok((resource, Rlimit { current: Some(number), maximum }))
    }
}

/// Starts something with `tag` on it from its first moment. Limits are those of the whole process, so there is one start
/// at a time. One that hangs (a program on a file system that is gone) has its child for long, and the next goes on.
pub(super) fn dressed<T>(tag: Option<Tag>, start: impl FnOnce() -> T) -> T {
    let turn = take_turn();
    if let Some(Err(error)) = tag.map(Tag::wear) {
        tracing::debug!(%error, "a process has no tag: what it leaves behind is found by its environment");
    }
    let started = start();
    let mut turns = TURNS.lock().unwrap_or_else(PoisonError::into_inner);
    if turns.now == Some(turn) {
        // What is started without a tag is not to be taken for this one's.
        if tag.is_some()
            && let Err(error) = undress()
        {
            tracing::debug!(%error, "the tag of an attempt stays on noxd until the next start");
        }
        turns.now = None;
        TURN_ENDED.notify_one();
    }
    started
}

/// Takes the tag of an attempt off this process.
fn undress() -> io::Result<()> {
    let maximum = getrlimit(Resource::Rttime).maximum;
    Ok(setrlimit(Resource::Rttime, Rlimit { current: maximum, maximum })?)
}

fn take_turn() -> u64 {
    let turns = TURNS.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut turns, _) = TURN_ENDED
        .wait_timeout_while(turns, PATIENCE, |turns| turns.now.is_some())
        .unwrap_or_else(PoisonError::into_inner);
    let turn = turns.next;
    turns.next += 1;
    turns.now = Some(turn);
    turn
}

/// Who starts something.
struct Turns {
    now: Option<u64>,
    next: u64,
}

static TURNS: Mutex<Turns> = Mutex::new(Turns { now: None, next: 0 });
static TURN_ENDED: Condvar = Condvar::new();

/// The store whose number this process wears.
static WORN: OnceLock<Tag> = OnceLock::new();

/// A start takes milliseconds; whoever waits longer than this has a hanging one before it.
const PATIENCE: Duration = Duration::from_secs(5);

impl Carried {
    /// Reads `/proc/<pid>/limits`; `None` if the process is gone.
    pub(super) fn by(pid: u32) -> Option<Self> {
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
        // "unlimited" is none of ours.
        let soft = |name: &str| {
            let rest = limits.lines().find_map(|line| line.strip_prefix(name))?;
            Some(rest.split_ascii_whitespace().next()?.parse().unwrap_or(u64::MAX))
        };
        Some(Self { locks: soft("Max file locks")?, realtime: soft("Max realtime timeout")? })
    }

    /// The attempt's, if there is one.
    pub(super) fn attempt(self) -> Option<Tag> {
        (self.realtime >> NUMBER_BITS == ATTEMPT_PREFIX).then_some(Tag::Attempt(self.realtime))
    }

    /// One that was never read from `/proc`.
    #[cfg(test)]
    pub(super) fn imagined(tag: Tag) -> Self {
        match tag {
            Tag::Store(locks) => Self { locks, ..Self::NOTHING },
            Tag::Attempt(realtime) => Self { realtime, ..Self::NOTHING },
        }
    }

    /// What a stranger carries.
    #[cfg(test)]
    pub(super) const NOTHING: Self = Self { locks: u64::MAX, realtime: u64::MAX };
}

/// Above every limit that anybody means, and below "unlimited".
const STORE_PREFIX: u64 = 0x4e58;
const ATTEMPT_PREFIX: u64 = 0x4e59;

/// Bits below the prefix.
const NUMBER_BITS: u32 = 48;

fn number(prefix: u64, names: &[&[u8]]) -> u64 {
    let mut hasher = Sha256::new();
    for name in names {
        hasher.update((name.len() as u64).to_be_bytes());
        hasher.update(name);
    }
    let hash = hasher.finalize().iter().take(6).fold(0, |number, byte| number << 8 | u64::from(*byte));
    prefix << NUMBER_BITS | hash
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    // S-STATE-8
    #[test]
    fn a_tag_stays_through_a_new_session_an_empty_environment_and_another_program() {
        let room = tempfile::tempdir().unwrap();
        let daemon = room.path().join("daemon");
        // At once: there is no moment in which it had none.
        let script = "setsid env -i PATH=/usr/bin:/bin sh -c 'echo $$ > daemon; exec sleep 600' & wait";
        let tag = Tag::of_attempt(["store", "execution", "task", "1"]);
        let mut command = Command::new("sh");
        command.args(["-c", script]).current_dir(&room);
        let mut parent = None;
        let start = || command.spawn().map(|child| parent.insert(child).id());
        assert!(dressed(Some(tag), start).is_ok());
        let deadline = std::time::Instant::now();
        let pid: u32 = loop {
            if let Some(pid) = std::fs::read_to_string(&daemon).ok().and_then(|text| text.trim().parse().ok()) {
                break pid;
            }
            assert!(deadline.elapsed().as_secs() < 20);
            std::thread::sleep(Duration::from_millis(2));
        };
        let carried = Carried::by(pid).unwrap();
        assert!(tag.is_on(carried));
        assert!(!Tag::of_attempt(["store", "execution", "task", "2"]).is_on(carried));
        rustix::process::kill_process(super::super::census::raw_pid(pid).unwrap(), rustix::process::Signal::KILL)
            .unwrap();
        parent.unwrap().wait().unwrap();
    }

    // S-SAFE-4
    #[test]
    fn a_copy_of_a_store_is_another_store() {
        let here = Tag::of_store("store", Path::new("/here"));
        assert!(here.is_on(Carried::imagined(here)));
        for other in [Tag::of_store("store", Path::new("/there")), Tag::of_store("stor", Path::new("e/here"))] {
            assert!(!other.is_on(Carried::imagined(here)));
        }
    }

    #[test]
    fn who_carries_nothing_is_nobody_s() {
        // Not this process: what another test's start wore is still on it.
        let carried = Carried::by(1).unwrap();
        let tag = Tag::of_attempt(["store", "execution", "task", "1"]);
        assert!(!tag.is_on(carried) && !tag.is_another(carried));
        assert_eq!(Carried::by(u32::MAX), None);
    }
}
