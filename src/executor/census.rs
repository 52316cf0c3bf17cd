//! Who is alive: one pass over `/proc`, shared by every attempt that asked before it began.
//!
//! Nothing is ended here; that is `termination`. A pass costs a read per process of the machine, and each attempt
//! needs at least one at its end, so passes are not made in parallel: whoever waits for the running one to finish
//! gets the next, which serves all who wait by then. Environments are read only of the processes somebody asks
//! about, at most once a pass.
//!
//! Read first: [`ProcessIdentity`], then [`Census::taken_after_now`].

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::panic::resume_unwind;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Mutex;

use super::tag::Carried;
#[cfg(test)]
use super::tag::Tag;

/// Which process, for ever: a pid alone is used again, together with its start time and the boot it is not.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProcessIdentity {
    /// The process id, which is also the id of the group and the session of an attempt's first process.
    pub pid: u32,
    /// When it started: field 22 of `/proc/<pid>/stat`, in clock ticks since the boot.
    pub start_time: u64,
    /// Which boot: `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
}

impl ProcessIdentity {
    /// The identity of the process that has `pid` now.
    ///
    /// # Errors
    /// `NotFound` if no process has it; otherwise what the system says.
    pub fn of(pid: u32) -> io::Result<Self> {
        let process = Process::read(pid)?;
        Ok(Self { pid, start_time: process.mark.start_time, boot_id: boot_id()?.to_owned() })
    }

    /// What identifies it among the processes of the boot it belongs to.
    pub(super) fn mark(&self) -> Mark {
        Mark { pid: self.pid, start_time: self.start_time }
    }
}

/// A process of the present boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark {
    pub(super) pid: u32,
    pub(super) start_time: u64,
}

impl Mark {
    /// Sends `signal` to this very process. False if it is gone already.
    pub(super) fn signal(self, signal: Signal) -> io::Result<bool> {
        let Some(pidfd) = self.open()? else { return Ok(false) };
        match rustix::process::pidfd_send_signal(pidfd, signal) {
            Ok(()) => Ok(true),
            Err(Errno::SRCH) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns once this very process has ended.
    pub(super) async fn ended(self) -> io::Result<()> {
        let Some(pidfd) = self.open()? else { return Ok(()) };
        watch_end(pidfd)?.readable().await.map(drop)
    }

    /// A descriptor that stays with this process whatever becomes of its pid, or `None` if it is gone.
    fn open(self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = raw_pid(self.pid) else { return Ok(None) };
        let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(pidfd) => pidfd,
            // EINVAL: the pid belongs to a thread by now, so our process is gone.
            Err(Errno::SRCH | Errno::INVAL) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Looked at after the descriptor was opened: the same start time now means the same process then.
        match Process::read(self.pid) {
            Ok(process) if process.mark == self => Ok(Some(pidfd)),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// One process as it was when the census came by.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) mark: Mark,
    pub(super) parent: u32,
    pub(super) group: u32,
    pub(super) session: u32,
    /// False for a zombie: it runs nothing and only waits for its parent to notice.
    pub(super) alive: bool,
    is_kernel_thread: bool,
    nox_variables: OnceLock<Vec<Vec<u8>>>,
    carried: OnceLock<Option<Carried>>,
}

impl Process {
    /// Reads `/proc/<pid>/stat`; `NotFound` if there is no such process.
    pub(super) fn read(pid: u32) -> io::Result<Self> {
        let mut buffer = [0; STAT_BYTES];
        let read = rustix::fs::open(format!("/proc/{pid}/stat"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .and_then(|file| rustix::io::read(file, &mut buffer));
        let length = match read {
            Ok(length) => length,
            // ESRCH: it ended between open and read.
            Err(Errno::SRCH | Errno::NOENT) => return Err(io::ErrorKind::NotFound.into()),
            Err(error) => return Err(error.into()),
        };
        Self::parse(pid, &buffer[..length])
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat is not as expected")))
    }

    /// The second field is the program's name in parentheses and may hold anything, `) R 1` included.
    fn parse(pid: u32, stat: &[u8]) -> Option<Self> {
        let name_end = stat.iter().rposition(|byte| *byte == b')')?;
        let rest = std::str::from_utf8(&stat[name_end + 1..]).ok()?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?;
        let parent = fields.next()?.parse().ok()?;
        let group = fields.next()?.parse().ok()?;
        let session = fields.next()?.parse().ok()?;
        let flags: u32 = fields.nth(2)?.parse().ok()?;
        let threads: u32 = fields.nth(10)?.parse().ok()?;
        let start_time = fields.nth(1)?.parse().ok()?;
        // A process whose first thread has ended shows as a zombie while its other threads still run.
        let alive = !matches!(state, "Z" | "X") || threads > 1;
        let mark = Mark { pid, start_time };
        let is_kernel_thread = flags & KERNEL_THREAD_FLAG != 0;
        let (nox_variables, carried) = (OnceLock::new(), OnceLock::new());
        Some(Self { mark, parent, group, session, alive, is_kernel_thread, nox_variables, carried })
    }

    /// One that was never read from `/proc`, in the group that is named like its session.
    #[cfg(test)]
    pub(super) fn imagined(mark: Mark, parent: u32, session: u32, variables: &[&str]) -> Self {
        let nox_variables = OnceLock::from(variables.iter().map(|entry| entry.as_bytes().to_vec()).collect::<Vec<_>>());
        let carried = OnceLock::from(Some(Carried::NOTHING));
        Self { mark, parent, group: session, session, alive: true, is_kernel_thread: false, nox_variables, carried }
    }

    /// The same with a tag.
    #[cfg(test)]
    pub(super) fn tagged(self, tag: Tag) -> Self {
        Self { carried: OnceLock::from(Some(Carried::imagined(tag))), ..self }
    }

    /// Whether it is of our own uid.
    fn is_of_our_user(&self) -> bool {
        let ours = rustix::process::geteuid().as_raw();
        std::fs::metadata(format!("/proc/{}", self.mark.pid)).is_ok_and(|meta| meta.uid() == ours)
    }

    /// The numbers of a [`tag`](super::tag) that it carries; none unless it is of our own uid. As root we also find
    /// those that have taken another one.
    pub(super) fn carried(&self) -> Option<Carried> {
        *self.carried.get_or_init(|| {
            let may_be_ours = rustix::process::geteuid().is_root() || self.is_of_our_user();
            may_be_ours.then(|| Carried::by(self.mark.pid)).flatten()
        })
    }

    /// The `NOX_…=…` entries of the environment it was executed with; none unless it is of our own uid.
    pub(super) fn nox_variables(&self) -> &[Vec<u8>] {
        self.nox_variables.get_or_init(|| {
            if !self.is_of_our_user() {
                return Vec::new();
            }
            // Unreadable: it is gone, or it is privileged and thus no child that noxd could end.
            let environ = std::fs::read(format!("/proc/{}/environ", self.mark.pid)).unwrap_or_default();
            let entries = environ.split(|byte| *byte == 0);
            entries.filter(|entry| entry.starts_with(b"NOX_")).map(<[u8]>::to_vec).collect()
        })
    }
}

/// All processes of the machine that we can see.
#[derive(Debug)]
pub(super) struct Census {
    began: Instant,
    pub(super) processes: Vec<Process>,
    /// Pid and inode in `/proc` of those that can never be of interest. The next census does not read them: on an
    /// idle machine they are most of all processes.
    kernel_threads: BTreeSet<(u32, u64)>,
}

/// The newest census. It also keeps two from running at once.
static NEWEST: Mutex<Option<Arc<Census>>> = Mutex::const_new(None);

impl Census {
    /// A census that began after this call did, so that whoever was alive at the call and still is, is in it.
    ///
    /// # Errors
    /// `/proc` cannot be listed.
    #[expect(clippy::disallowed_methods, reason = "orders two readings of /proc, nothing more")]
    pub(super) async fn taken_after_now() -> io::Result<Arc<Self>> {
        let asked = Instant::now();
        let mut newest = NEWEST.lock().await;
        if let Some(census) = newest.as_ref().filter(|census| census.began >= asked) {
            return Ok(Arc::clone(census));
        }
        let earlier = newest.clone();
        let take = move || match earlier {
            Some(earlier) => Self::take(&earlier.kernel_threads),
            None => Self::take(&BTreeSet::new()),
        };
        let census = Arc::new(off_thread(take).await?);
        *newest = Some(Arc::clone(&census));
        Ok(census)
    }

    #[expect(clippy::disallowed_methods, reason = "orders two readings of /proc, nothing more")]
    fn take(kernel_threads: &BTreeSet<(u32, u64)>) -> io::Result<Self> {
        let began = Instant::now();
        let mut processes = Vec::new();
        let mut kernel_threads_now = BTreeSet::new();
        for entry in std::fs::read_dir("/proc")? {
            let entry = entry?;
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // The inode tells a process from an earlier one with its pid.
            let place = (pid, entry.ino());
            if kernel_threads.contains(&place) {
                kernel_threads_now.insert(place);
                continue;
            }
            match Process::read(pid) {
                Ok(process) if process.is_kernel_thread => {
                    kernel_threads_now.insert(place);
                }
                Ok(process) => processes.push(process),
                // A process that ends while we read was not left alive, which is all that is asked.
                Err(_) => {}
            }
        }
        Ok(Self { began, processes, kernel_threads: kernel_threads_now })
    }

    /// A census of nobody real.
    #[cfg(test)]
    pub(super) fn imagined(processes: Vec<Process>) -> Self {
        Self { began: Instant::now(), processes, kernel_threads: BTreeSet::new() }
    }

    /// The process that has `pid`.
    pub(super) fn find(&self, pid: u32) -> Option<&Process> {
        self.processes.iter().find(|process| process.mark.pid == pid)
    }
}

/// Which boot this is.
pub(super) fn boot_id() -> io::Result<&'static str> {
    static BOOT_ID: OnceLock<String> = OnceLock::new();
    if let Some(known) = BOOT_ID.get() {
        return Ok(known);
    }
    let read = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(BOOT_ID.get_or_init(|| read.trim().to_owned()))
}

/// The most memory that the process has held at once, in bytes. `None` once it has ended.
pub(super) fn memory_high_water(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    kib.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// `pid` for system calls; `None` for 0 and what is too large, which would mean something else there.
pub(super) fn raw_pid(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// Whether the process behind `pidfd` has ended, reaped or not.
pub(super) fn has_ended(pidfd: impl AsFd) -> bool {
    let mut poll = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut poll, Some(&rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}

/// Has the runtime watch the process behind `pidfd`: readable means that it has ended.
///
/// # Errors
/// The runtime cannot watch another descriptor.
#[expect(unsafe_code, reason = "the runtime asks for a promise about the descriptor")]
pub(super) fn watch_end<P: AsFd + AsRawFd>(pidfd: P) -> io::Result<AsyncFd<P>> {
    // SAFETY: both of its kinds here (`OwnedFd` and `spawn::Started`) own one open descriptor, always return that
    // one, and close it only when they are dropped, which is when the `AsyncFd` that owns them is dropped.
    unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }.map_err(io::Error::from)
}

/// Runs `work` on a thread that may block. A panic there is a panic here.
pub(super) async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // The runtime is shutting down: nobody will look at this future again.
            Err(_) => std::future::pending().await,
        },
    }
}

/// `PF_KTHREAD` among the flags in `/proc/<pid>/stat`.
const KERNEL_THREAD_FLAG: u32 = 0x0020_0000;

/// Room for `/proc/<pid>/stat` up to the start time, with every number at its longest: the file comes in one read.
const STAT_BYTES: usize = 1024;

#[cfg(test)]
mod tests {
    use super::super::tag;
    use super::*;

    #[test]
    fn a_program_name_cannot_forge_its_stat() {
        let stat = b"7 (a) R 1 1 1 ) S 42 43 44 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 3 0 9876 1 2 3\n";
        let process = Process::parse(7, stat).unwrap();
        assert_eq!((process.parent, process.group, process.session), (42, 43, 44));
        assert_eq!((process.mark.start_time, process.alive), (9876, true));
        assert!(Process::parse(7, b"7 (cut) S 1").is_none());
    }

    #[test]
    fn a_zombie_is_dead_unless_its_other_threads_run() {
        let stat = |threads: u32| format!("7 (x) Z 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 {threads} 0 5 0\n");
        assert!(!Process::parse(7, stat(1).as_bytes()).unwrap().alive);
        assert!(Process::parse(7, stat(2).as_bytes()).unwrap().alive);
    }

    // S-SAFE-4
    #[test]
    fn a_mark_with_another_start_time_is_a_stranger_and_gets_no_signal() {
        let mut sleeper = tag::dressed(None, || std::process::Command::new("sleep").arg("600").spawn()).unwrap();
        let real = ProcessIdentity::of(sleeper.id()).unwrap().mark();
        let reused = Mark { start_time: real.start_time - 1, ..real };
        assert!(!reused.signal(Signal::KILL).unwrap());
        assert!(sleeper.try_wait().unwrap().is_none(), "the stranger lives");
        assert!(real.signal(Signal::KILL).unwrap());
        sleeper.wait().unwrap();
        assert!(!real.signal(Signal::KILL).unwrap(), "and gone is gone");
        assert_eq!(ProcessIdentity::of(sleeper.id()).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_census_sees_who_was_alive_when_it_was_asked_for() {
        Census::taken_after_now().await.unwrap();
        let mut sleeper = std::process::Command::new("sleep");
        sleeper.arg("600").env("NOX_CENSUS", "here");
        // With no tag on it: it is of none of the attempts that other tests start, and then end.
        let mut sleeper = tag::dressed(None, || sleeper.spawn()).unwrap();
        let since = Instant::now();
        loop {
            let census = Census::taken_after_now().await.unwrap();
            let found = census.find(sleeper.id()).expect("a stale census would not have it");
            assert!(found.alive && found.parent == std::process::id());
            // The start returns when the program takes the place of ours, and its environment is there a moment later.
            if found.nox_variables() == [b"NOX_CENSUS=here"] {
                break;
            }
            assert!(found.nox_variables().is_empty() && since.elapsed().as_secs() < 20);
        }
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
    }
}
