//! Starting one program: what it inherits, where its file is, and the system call.
//!
//! The call is `posix_spawn`, not fork and exec: the C library makes the child share our memory until it executes,
//! so the price does not grow with the daemon's (fork copies its page tables; std falls back to fork as soon as a
//! session of its own is wanted). The child gets its own session, hence group, and default signal handling.
//!
//! It waits for nothing and reads no pipe. Read first: [`Launch`], then [`Started`].

use std::ffi::{CStr, CString, OsStr, OsString};
use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use rustix::fs::{Access, AtFlags, CWD};
use rustix::process::{PidfdFlags, Signal};

use super::census::{ProcessIdentity, has_ended, raw_pid};
use super::orphans::{self, Start};
use super::tag::Tag;

/// What a program inherits of noxd's own environment, where a final `*` stands for any ending (S-DATA-4).
pub const INHERITED: &[&str] = &["PATH", "HOME", "USER", "LANG", "LC_*", "TZ", "TMPDIR"];

/// What the C library searches where no PATH is set.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// How long a child that nobody wants any more is waited for after SIGKILL, before a later call reaps it.
const ABANDON_AFTER_NANOS: i64 = 100_000_000;

/// Killed children that had not ended when they were given up.
static ABANDONED: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// A program ready to be started: everything checked that can be checked before.
#[derive(Debug)]
pub(super) struct Launch {
    program: CString,
    argv: Vec<CString>,
    environment: Vec<CString>,
    working_dir: CString,
}

impl Launch {
    /// `variables` win over what is inherited, later ones over earlier ones. A program without a `/` is looked up
    /// in the PATH that results; a relative path counts from `working_dir`, as it would after a `cd`.
    ///
    /// # Errors
    /// A sentence for a person. It names arguments and variables but holds none of their values.
    pub(super) fn prepare<'a>(
        argv: &[String],
        inherited: &[&str],
        variables: impl IntoIterator<Item = (&'a str, &'a OsStr)>,
        working_dir: &Path,
    ) -> Result<Self, String> {
        let name = argv.first().filter(|name| !name.is_empty());
        let name = name.ok_or("the command is empty: its first element must be the name of a program")?;
        let mut environment = inherited_variables(inherited);
        for (name, value) in variables {
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err(format!("`{}` cannot be the name of an environment variable", name.escape_debug()));
            }
            environment.retain(|(known, _)| known != name);
            environment.push((name.into(), value.into()));
        }
        check_working_dir(working_dir)?;
        let path = environment.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.as_os_str());
        let argv_bytes = |(index, element): (usize, &String)| {
            CString::new(element.as_str()).map_err(|_| {
                format!("argv[{index}] holds a NUL byte, which no argument can carry: pass the value on stdin")
            })
        };
        let entry_bytes = |(name, value): &(OsString, OsString)| {
            let entry = [name.as_bytes(), b"=", value.as_bytes()].concat();
            let shown = name.display();
            CString::new(entry).map_err(|_| {
                format!(
                    "the environment variable `{shown}` holds a NUL byte, which none can carry: pass the value on stdin"
                )
            })
        };
        Ok(Self {
            argv: argv.iter().enumerate().map(argv_bytes).collect::<Result<_, _>>()?,
            environment: environment.iter().map(entry_bytes).collect::<Result<_, _>>()?,
            program: path_bytes(&find_program(name, path.unwrap_or(DEFAULT_PATH.as_ref()), working_dir)?)?,
            working_dir: path_bytes(working_dir)?,
        })
    }

    /// Starts the program with `stdio` as its descriptors 0, 1 and 2; it has no others. It carries `tag`,
    /// which this process wears (`tag::dressed`).
    ///
    /// # Errors
    /// A sentence for a person.
    pub(super) fn start(
        &self,
        stdio: [BorrowedFd<'_>; 3],
        tag: Option<Tag>,
    ) -> Result<(Started, ProcessIdentity), NotStarted> {
        keep_descriptors_to_ourselves();
        reap_abandoned();
        let start = Start::begin();
        let spawned = self.posix_spawn(stdio.map(|fd| fd.as_raw_fd()));
        let pid = spawned.map_err(|error| NotStarted::by(self.explain(&error), &error))?;
        start.gave(pid, None, tag);
        let open = |pid| while_full(|| rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK).map_err(io::Error::from));
        let pidfd = raw_pid(pid).map_or_else(|| Err(ErrorKind::InvalidInput.into()), open).map_err(|error| {
            abandon(pid, None);
            let words = format!(
                "noxd could not watch the new process, which was ended again: it is out of file descriptors, or the kernel is older than 5.3 ({error})"
            );
            NotStarted::from(words)
        })?;
        // From here on dropping it ends the child.
        let started = Started { pid, pidfd, reaped: false };
        match while_full(|| ProcessIdentity::of(pid)) {
            Ok(identity) => {
                start.gave(pid, Some(identity.start_time), tag);
                Ok((started, identity))
            }
            Err(error) => {
                let words =
                    format!("noxd could not read the new process's start time in /proc, and ended it again: {error}");
                Err(NotStarted::by(words, &error))
            }
        }
    }

    #[expect(unsafe_code, reason = "posix_spawn has no safe wrapper that sets a session")]
    fn posix_spawn(&self, stdio: [RawFd; 3]) -> io::Result<u32> {
        // A source that is also a target would be overwritten before it is used.
        if stdio.iter().any(|fd| *fd <= libc::STDERR_FILENO) {
            return Err(io::Error::other("one of noxd's own standard descriptors is closed"));
        }
        let pointers = |strings: &[CString]| -> Vec<*mut libc::c_char> {
            strings.iter().map(|s| s.as_ptr().cast_mut()).chain([ptr::null_mut()]).collect()
        };
        let (argv, environment) = (pointers(&self.argv), pointers(&self.environment));
        let settings = SpawnSettings::new(&self.working_dir, stdio)?;
        let mut pid = 0;
        // SAFETY: every pointer is to an initialised object that outlives the call, both arrays end in null, and
        // their strings are NUL-terminated. The call keeps none of them and writes to no argument or variable.
        let failed = unsafe {
            let (program, actions, attributes) =
                (self.program.as_ptr(), &raw const settings.actions, &raw const settings.attributes);
            libc::posix_spawn(&raw mut pid, program, actions, attributes, argv.as_ptr(), environment.as_ptr())
        };
        checked(failed)?;
        u32::try_from(pid).map_err(io::Error::other)
    }

    /// What the system refused, and what to do about it.
    fn explain(&self, error: &io::Error) -> String {
        let program = self.program.to_string_lossy();
        let folder = Path::new(OsStr::from_bytes(self.working_dir.as_bytes()));
        if let Err(changed_meanwhile) = check_working_dir(folder) {
            return changed_meanwhile;
        }
        match error.raw_os_error() {
            Some(libc::E2BIG) => {
                let sizes = self.argv.iter().chain(&self.environment).map(|s| s.as_bytes_with_nul().len());
                let total: usize = sizes.sum();
                format!(
                    "the arguments and environment of `{program}` are too long for the system ({total} bytes; one of them may have 128 KiB): pass the long value on stdin"
                )
            }
            Some(libc::ENOEXEC) => format!(
                "program `{program}` is neither a binary for this machine nor a script whose first line is `#!` and an interpreter"
            ),
            Some(libc::ENOENT) => format!(
                "program `{program}` exists but its interpreter does not: look at its `#!` line, or install its loader"
            ),
            Some(libc::EACCES) => format!(
                "program `{program}` may not be executed: look at its permissions and at those of its interpreter, and whether its file system is mounted noexec"
            ),
            Some(libc::EAGAIN | libc::ENOMEM) => format!(
                "the system has no room for another process ({error}): lower the concurrency limit, or raise the limit on processes or memory"
            ),
            _ => format!("program `{program}` could not be started: {error}"),
        }
    }
}

/// Why a program was not started.
#[derive(Debug)]
pub(super) struct NotStarted {
    /// A sentence for a person.
    pub(super) words: String,
    /// The system has no descriptor, process or memory left; later it may have.
    pub(super) for_now: bool,
}

impl NotStarted {
    /// What the system said decides whether it is for now.
    pub(super) fn by(words: String, error: &io::Error) -> Self {
        let exhausted = [libc::EMFILE, libc::ENFILE, libc::EAGAIN, libc::ENOMEM];
        Self { words, for_now: error.raw_os_error().is_some_and(|number| exhausted.contains(&number)) }
    }
}

impl From<String> for NotStarted {
    fn from(words: String) -> Self {
        Self { words, for_now: false }
    }
}

/// A child of ours. Dropped before it was reaped, it is killed with its group.
#[derive(Debug)]
pub(super) struct Started {
    pid: u32,
    pidfd: OwnedFd,
    reaped: bool,
}

impl Started {
    /// Its process id, and that of its group and its session.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it has ended, reaped or not.
    pub(super) fn has_ended(&self) -> bool {
        has_ended(&self.pidfd)
    }

    /// Takes its end from the system, after which its pid may be used again. `None` if it has not ended.
    pub(super) fn reap(&mut self) -> io::Result<Option<Reaped>> {
        if self.reaped {
            return Ok(None);
        }
        let reaped = wait4(self.pid)?;
        self.reaped = reaped.is_some();
        Ok(reaped)
    }
}

impl AsFd for Started {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl AsRawFd for Started {
    fn as_raw_fd(&self) -> RawFd {
        self.pidfd.as_raw_fd()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if !self.reaped {
            abandon(self.pid, Some(&self.pidfd));
        }
    }
}

/// How a child ended, and what it and the children it waited for have used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reaped {
    /// Its exit code, or the signal that ended it.
    pub(super) end: Result<i32, i32>,
    /// User and system time together.
    pub(super) cpu_time: Duration,
    /// The largest resident set among them, in bytes; but at least what noxd itself held when it started the
    /// child, because the kernel counts the memory that a process had before it executed its program.
    pub(super) peak_memory_bytes: u64,
}

/// Reaps `pid`, a child of ours, if it has ended.
fn wait4(pid: u32) -> io::Result<Option<Reaped>> {
    orphans::reap(pid, || wait4_now(pid))
}

#[expect(unsafe_code, reason = "rustix has no wait4, which alone tells what a child has used")]
fn wait4_now(pid: u32) -> io::Result<Option<Reaped>> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: both pointers are to writable memory of the right type. All zeros is a valid `rusage`, and the call
    // fills it when it returns a pid.
    let (waited, usage) =
        unsafe { (libc::wait4(pid, &raw mut status, libc::WNOHANG, usage.as_mut_ptr()), usage.assume_init()) };
    if waited < 0 {
        return Err(io::Error::last_os_error());
    }
    if waited == 0 {
        return Ok(None);
    }
    let end = if libc::WIFSIGNALED(status) { Err(libc::WTERMSIG(status)) } else { Ok(libc::WEXITSTATUS(status)) };
    let peak_memory_bytes = u64::try_from(usage.ru_maxrss).unwrap_or(0).saturating_mul(1024);
    Ok(Some(Reaped { end, cpu_time: duration(usage.ru_utime) + duration(usage.ru_stime), peak_memory_bytes }))
}

fn duration(time: libc::timeval) -> Duration {
    let micros = u32::try_from(time.tv_usec).unwrap_or(0);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), micros.saturating_mul(1_000))
}

/// Does what needs a descriptor, again and again for a while if there is none: the program runs already, and that others
/// took the last one just now is no fault of its own. Blocks.
pub(super) fn while_full<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..FULL_TRIES {
        match attempt() {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                std::thread::sleep(FULL_PAUSE);
            }
            other => return other,
        }
    }
    attempt()
}

/// 5 s in all.
const FULL_TRIES: u32 = 500;
const FULL_PAUSE: Duration = Duration::from_millis(10);

/// Kills a child with its group and reaps it, now or when the next one is started.
fn abandon(pid: u32, pidfd: Option<&OwnedFd>) {
    if let Some(group) = raw_pid(pid)
        && let Err(error) = rustix::process::kill_process_group(group, Signal::KILL)
    {
        tracing::warn!(pid, %error, "an abandoned process could not be killed");
    }
    if let Some(pidfd) = pidfd {
        let mut poll = [rustix::event::PollFd::new(pidfd, rustix::event::PollFlags::IN)];
        let patience = rustix::time::Timespec { tv_sec: 0, tv_nsec: ABANDON_AFTER_NANOS };
        // Not ended, or interrupted: then it waits in the list below.
        rustix::event::poll(&mut poll, Some(&patience)).unwrap_or_default();
    }
    if !matches!(wait4(pid), Ok(Some(_))) {
        ABANDONED.lock().unwrap_or_else(PoisonError::into_inner).push(pid);
    }
}

/// noxd opens everything close-on-exec, but whoever started noxd may have left it descriptors that are not: a shell's,
/// a supervisor's. They are marked once, before the first program could inherit them; noxd's own use of them goes on.
#[expect(unsafe_code, reason = "rustix has no close_range that marks instead of closing")]
fn keep_descriptors_to_ourselves() {
    static MARKED: Once = Once::new();
    MARKED.call_once(|| {
        let first = libc::STDERR_FILENO.cast_unsigned() + 1;
        // SAFETY: the call takes three integers and, with this flag, closes nothing.
        let failed = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
        if failed != 0 {
            let error = io::Error::last_os_error();
            tracing::warn!(%error, "programs may inherit descriptors that noxd was started with; Linux 5.11 prevents it");
        }
    });
}

/// A child is reaped only by us, so a pid in the list is still that child's.
fn reap_abandoned() {
    let mut abandoned = ABANDONED.lock().unwrap_or_else(PoisonError::into_inner);
    abandoned.retain(|pid| matches!(wait4(*pid), Ok(None)));
}

/// What `posix_spawn` is told besides the program; freed when dropped.
struct SpawnSettings {
    attributes: libc::posix_spawnattr_t,
    actions: libc::posix_spawn_file_actions_t,
}

impl SpawnSettings {
    #[expect(clippy::cast_possible_truncation, reason = "the flags are below 256")]
    #[expect(unsafe_code, reason = "the settings of posix_spawn have no safe wrapper")]
    fn new(working_dir: &CStr, stdio: [RawFd; 3]) -> io::Result<Self> {
        let mut attributes = MaybeUninit::uninit();
        let mut actions = MaybeUninit::uninit();
        // SAFETY: the two init calls initialise what they are given, and are checked before anybody relies on it
        // (an init that fails has allocated nothing). The sets are initialised by sigemptyset and sigfillset.
        // The path is NUL-terminated, and the call copies it.
        unsafe {
            checked(libc::posix_spawnattr_init(attributes.as_mut_ptr()))?;
            if let Err(error) = checked(libc::posix_spawn_file_actions_init(actions.as_mut_ptr())) {
                libc::posix_spawnattr_destroy(attributes.as_mut_ptr());
                return Err(error);
            }
            let mut this = Self { attributes: attributes.assume_init(), actions: actions.assume_init() };
            let (mut none, mut all) = (MaybeUninit::uninit(), MaybeUninit::uninit());
            libc::sigemptyset(none.as_mut_ptr());
            libc::sigfillset(all.as_mut_ptr());
            let flags = libc::c_int::from(libc::POSIX_SPAWN_SETSID)
                | libc::POSIX_SPAWN_SETSIGMASK
                | libc::POSIX_SPAWN_SETSIGDEF;
            checked(libc::posix_spawnattr_setflags(&raw mut this.attributes, flags as libc::c_short))?;
            checked(libc::posix_spawnattr_setsigmask(&raw mut this.attributes, none.as_ptr()))?;
            checked(libc::posix_spawnattr_setsigdefault(&raw mut this.attributes, all.as_ptr()))?;
            checked(libc::posix_spawn_file_actions_addchdir_np(&raw mut this.actions, working_dir.as_ptr()))?;
            for (target, source) in (0..).zip(stdio) {
                checked(libc::posix_spawn_file_actions_adddup2(&raw mut this.actions, source, target))?;
            }
            Ok(this)
        }
    }
}

impl Drop for SpawnSettings {
    #[expect(unsafe_code, reason = "the settings of posix_spawn have no safe wrapper")]
    fn drop(&mut self) {
        // SAFETY: both were initialised in `new` and are destroyed once.
        unsafe {
            libc::posix_spawn_file_actions_destroy(&raw mut self.actions);
            libc::posix_spawnattr_destroy(&raw mut self.attributes);
        }
    }
}

/// The `posix_spawn` family returns the error number itself.
fn checked(error: libc::c_int) -> io::Result<()> {
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

fn inherited_variables(names: &[&str]) -> Vec<(OsString, OsString)> {
    let matches = |pattern: &&str, name: &OsStr| match pattern.strip_suffix('*') {
        Some(prefix) => name.as_bytes().starts_with(prefix.as_bytes()),
        None => name == *pattern,
    };
    std::env::vars_os().filter(|(name, _)| names.iter().any(|pattern| matches(pattern, name))).collect()
}

fn check_working_dir(path: &Path) -> Result<(), String> {
    let shown = path.display();
    match std::fs::metadata(path) {
        Ok(meta) if !meta.is_dir() => {
            Err(format!("the working directory `{shown}` is not a directory: name one in `working_dir`"))
        }
        Ok(_) if !is_executable(path) => Err(format!(
            "the working directory `{shown}` may not be entered: give noxd's user the permission to search it"
        )),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(format!("the working directory `{shown}` does not exist: create it, or change `working_dir`"))
        }
        Err(error) => Err(format!("the working directory `{shown}` cannot be used: {error}")),
    }
}

/// The file that `name` means.
fn find_program(name: &str, path: &OsStr, working_dir: &Path) -> Result<PathBuf, String> {
    let shown = name.escape_debug();
    if name.contains('/') {
        let program = working_dir.join(name);
        return match std::fs::metadata(&program) {
            Ok(meta) if meta.is_dir() => Err(format!("program `{shown}` is a directory: name the file in it")),
            Ok(_) if !is_executable(&program) => Err(not_executable(&program)),
            Ok(_) => Ok(program),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(format!(
                "program `{shown}` does not exist (looked for `{}`): check the path, or install it",
                program.display()
            )),
            Err(error) => Err(format!("program `{shown}` cannot be used: {error}")),
        };
    }
    let mut refused = None;
    for folder in path.as_bytes().split(|byte| *byte == b':') {
        // An empty element of PATH means the working directory, for POSIX and for the C library.
        let candidate = working_dir.join(OsStr::from_bytes(folder)).join(name);
        if candidate.is_file() {
            if is_executable(&candidate) {
                return Ok(candidate);
            }
            refused.get_or_insert(candidate);
        }
    }
    match refused {
        Some(candidate) => Err(not_executable(&candidate)),
        None => {
            // A person sees which PATH it was without a screen full of it.
            let mut searched: String = path.display().to_string().chars().take(200).collect();
            if searched.len() < path.as_bytes().len() {
                searched.push('…');
            }
            Err(format!(
                "program `{shown}` was not found in PATH ({searched}): install it, or name it by its full path"
            ))
        }
    }
}

fn not_executable(program: &Path) -> String {
    let shown = program.display();
    format!("program `{shown}` is not executable: run `chmod +x {shown}`, or start it through its interpreter")
}

fn is_executable(path: &Path) -> bool {
    rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS).is_ok()
}

fn path_bytes(path: &Path) -> Result<CString, String> {
    CString::new(path.as_os_str().to_owned().into_vec())
        .map_err(|_| format!("the path `{}` holds a NUL byte", path.display()))
}
