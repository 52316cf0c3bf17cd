//! One attempt of a program, from its start to the end of its last process. Facts only: what they mean (retry,
//! failure, which limit) is decided elsewhere.
//!
//! Three things go on at once in [`run`]: the pipes are drained, standard input is fed, and the process is minded.
//! When the first process has ended, by itself or by a [`Stopper`], the attempt is not over before nobody of it is
//! left (S-STATE-8): whoever it left behind is ended the same way, and a success stays a success. An attempt that
//! ended by itself gets 5 s first in which processes that still hold its pipes may finish writing.
//!
//! It starts no task that outlives [`run`], renders no template and knows no durations but its own. Read first:
//! [`ProcessSpec`], then [`run`], then [`ProcessReport`].

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use super::census::{memory_high_water, off_thread, watch_end};
use super::logs::LogWriter;
use super::output::{self, OutputFormat, StdoutCapture};
use super::pipes::{Flow, Pump, Sink, feed};
use super::spawn::{Launch, NotStarted, Reaped, Started};
use super::tag::{self, Tag};
use super::termination::{self, Patience, Roster};

pub use super::census::ProcessIdentity;
pub use super::logs::DEFAULT_LOG_CAP;
pub use super::output::OutputFault;
pub use super::spawn::INHERITED;

/// What to run and where its traces go. Values of `env` and `stdin` may be secret: there is no `Debug`.
#[derive(Clone)]
pub struct ProcessSpec {
    /// The program and its arguments, never a shell line. A name without `/` is looked up in the PATH that the
    /// program will see; a relative path counts from `working_dir`.
    pub argv: Vec<String>,
    /// The author's literal variables; they win over what is inherited.
    pub env: Vec<(String, String)>,
    /// noxd's own variables (`NOX_STORE_ID`, `NOX_EXECUTION_ID`, `NOX_TASK_ID`, `NOX_ATTEMPT`, …); they win over
    /// `env`. By these four together, and by the `tag` made of them, a process that left its session is still found.
    pub identity: Vec<(String, String)>,
    /// Where the program starts. It exists.
    pub working_dir: PathBuf,
    /// Written to standard input, which is then closed; `None` is `/dev/null`.
    pub stdin: Option<Vec<u8>>,
    /// Made empty, mode 0600, and told to the program as `NOX_OUTPUT`. Its directory exists.
    pub output_file: PathBuf,
    /// The attempt's log, see `logs`. Its directory exists.
    pub log_file: PathBuf,
    /// The most bytes of log file that are kept ([`DEFAULT_LOG_CAP`]); what is beyond is counted and marked.
    pub log_cap: u64,
    /// The task declares `output_format: JSON`.
    pub json_output: bool,
    /// How long after SIGTERM comes SIGKILL.
    pub grace: Duration,
    /// Told whenever the program writes something.
    pub activity: Arc<Notify>,
}

/// Why an attempt is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopCause {
    /// Somebody cancelled the task or its execution.
    Cancelled,
    /// One of its time limits has passed.
    TimedOut,
    /// noxd itself is shutting down.
    Interrupted,
}

/// Stops one attempt. Clones stop the same one; dropping them all stops nothing.
#[derive(Clone, Debug)]
pub struct Stopper {
    request: Arc<watch::Sender<Option<StopRequest>>>,
}

/// The attempt's end of a [`Stopper`].
#[derive(Clone, Debug)]
pub struct StopSignal {
    request: watch::Receiver<Option<StopRequest>>,
}

#[derive(Clone, Copy, Debug)]
struct StopRequest {
    cause: StopCause,
    grace: Grace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grace {
    Given,
    Denied,
}

impl Stopper {
    /// A stopper and its signal.
    pub fn new() -> (Self, StopSignal) {
        let (sender, receiver) = watch::channel(None);
        (Self { request: Arc::new(sender) }, StopSignal { request: receiver })
    }

    /// Asks the attempt to end: SIGTERM, its grace, SIGKILL. The first cause given is the one reported.
    pub fn stop(&self, cause: StopCause) {
        self.ask(cause, Grace::Given);
    }

    /// Ends the attempt without a grace, also when a grace is running already. The first cause given is the one
    /// reported.
    pub fn kill(&self, cause: StopCause) {
        self.ask(cause, Grace::Denied);
    }

    fn ask(&self, cause: StopCause, grace: Grace) {
        self.request.send_modify(|request| match request {
            None => *request = Some(StopRequest { cause, grace }),
            Some(earlier) if grace == Grace::Denied => earlier.grace = grace,
            Some(_) => {}
        });
    }
}

impl StopSignal {
    fn now(&self) -> Option<StopCause> {
        self.request.borrow().map(|request| request.cause)
    }

    /// Waits until somebody asks, and says why.
    pub async fn requested(&self) -> StopCause {
        self.request_that(|_| true).await.cause
    }

    async fn grace_denied(&self) {
        self.request_that(|request| request.grace == Grace::Denied).await;
    }

    async fn request_that(&self, fits: impl Fn(&StopRequest) -> bool) -> StopRequest {
        let mut request = self.request.clone();
        let found = request.wait_for(|request| request.as_ref().is_some_and(&fits)).await.ok().and_then(|found| *found);
        match found {
            Some(request) => request,
            // Every stopper is gone, so nobody can ask any more.
            None => std::future::pending().await,
        }
    }
}

/// How the attempt's first process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessEnd {
    /// It exited.
    Exited {
        /// Its exit code, 0 to 255.
        code: i32,
    },
    /// A signal ended it. Also reported, with SIGKILL, for one that even SIGKILL could not end within 5 s.
    Signaled {
        /// The number of the signal.
        signal: i32,
    },
    /// It never ran.
    SpawnFailed {
        /// Why, and what to do, in a sentence without the values of variables.
        message: String,
    },
}

/// What was seen of one attempt.
#[derive(Clone, Debug)]
pub struct ProcessReport {
    /// How its first process ended.
    pub end: ProcessEnd,
    /// Set only if it was signalled before it ended by itself, or was asked to stop before it was started.
    pub stopped: Option<StopCause>,
    /// Its output as compact JSON text. Made whatever the end; a fault when nothing was started.
    pub output: Result<Vec<u8>, OutputFault>,
    /// The last 4 KiB of standard error: not UTF-8 becomes U+FFFD, control characters stay.
    pub stderr_tail: String,
    /// User and system time of the first process and all it waited for; `None` if it never ran.
    pub cpu_time: Option<Duration>,
    /// The largest resident set, in bytes, of the first process or one it waited for. The kernel's figure includes
    /// what noxd held at the start, so one that is not larger says nothing; then this is the first process's own,
    /// sampled while it ran, or `None` if it was gone within 20 ms.
    pub peak_memory_bytes: Option<u64>,
    /// Bytes of output kept in the log, frame headers and notes not counted.
    pub log_bytes: u64,
    /// Bytes of output not kept in the log.
    pub log_bytes_dropped: u64,
}

/// Runs one attempt until nobody of it is left, and reports. `spawned` is called once, as soon as the program runs.
///
/// It never fails: what prevented a start is [`ProcessEnd::SpawnFailed`]. A dropped future kills the group at once,
/// but not those who left its session, who are then found by `leftovers::end_all` at the next start.
pub async fn run(spec: ProcessSpec, signal: StopSignal, spawned: impl FnOnce(ProcessIdentity) + Send) -> ProcessReport {
    run_inheriting(INHERITED, spec, signal, spawned).await
}

/// Like [`run`], with another list of variables to inherit from noxd's environment (a final `*` stands for any
/// ending), for hosts that configure one (S-DATA-4).
pub async fn run_inheriting(
    inherited: &[&str],
    spec: ProcessSpec,
    signal: StopSignal,
    spawned: impl FnOnce(ProcessIdentity) + Send,
) -> ProcessReport {
    if let Some(cause) = signal.now() {
        let message = "the attempt was stopped before its program was started".to_owned();
        return ProcessReport { stopped: Some(cause), ..never_ran(message) };
    }
    let inherited: Vec<String> = inherited.iter().map(|name| (*name).to_owned()).collect();
    let (grace, output_file) = (spec.grace, spec.output_file.clone());
    let (marks, tag) = (marks_of_attempt(&spec.identity), tag_of_attempt(&spec.identity));
    let attempt = match begin_in_time(spec, inherited, &signal).await {
        Ok(attempt) => attempt,
        Err(message) => return never_ran(message),
    };
    let roster = Roster::of_attempt(attempt.identity.mark(), marks, tag);
    spawned(attempt.identity);

    let (mut child, flow) = (attempt.child, Flow::default());
    let (sink, (), minded) = tokio::join!(
        attempt.pump.drain(&flow),
        feed(attempt.stdin, &flow),
        mind(&child, roster, grace, &signal, &flow)
    );
    let reaped = child.get_mut().reap();
    // Its pid may be used again from here on; nobody looks at it any more.
    drop(child);
    report(sink, minded, reaped, output_file).await
}

/// Starts the program, again and again for a while if the system has no room for it just now: that is no fault of the
/// task's.
async fn begin_in_time(mut spec: ProcessSpec, inherited: Vec<String>, signal: &StopSignal) -> Result<Attempt, String> {
    let mut pause = FIRST_PAUSE;
    loop {
        // Files and the wait for the child's exec would hold up a thread of the runtime; should we be dropped
        // meanwhile, what was started is dropped there and thereby killed.
        let (lent, names) = (spec, inherited.clone());
        let (given_back, begun) = off_thread(move || {
            let begun = begin(&lent, &names);
            (lent, begun)
        })
        .await;
        spec = given_back;
        let refused = match begun.and_then(Begun::enter_runtime) {
            Ok(attempt) => return Ok(attempt),
            Err(refused) if refused.for_now && pause <= LAST_PAUSE && signal.now().is_none() => refused,
            Err(refused) => return Err(refused.words),
        };
        tracing::warn!(reason = refused.words, ?pause, "an attempt is started again in a moment");
        tokio::select! {
            () = sleep(pause) => pause *= 2,
            _ = signal.requested() => return Err(refused.words),
        }
    }
}

/// Everything that stands after a start, outside the runtime.
struct Begun {
    started: Started,
    identity: ProcessIdentity,
    stdout: io::PipeReader,
    stderr: io::PipeReader,
    stdin: Option<(io::PipeWriter, Vec<u8>)>,
    sink: Sink,
}

/// The same, watched by the runtime.
struct Attempt {
    child: AsyncFd<Started>,
    identity: ProcessIdentity,
    pump: Pump,
    stdin: Option<(pipe::Sender, Vec<u8>)>,
}

impl Begun {
    fn enter_runtime(self) -> Result<Attempt, NotStarted> {
        let enter = || {
            let stdin = match self.stdin {
                Some((writer, bytes)) => Some((pipe::Sender::from_owned_fd(writer.into())?, bytes)),
                None => None,
            };
            let pump = Pump::new(self.stdout, self.stderr, self.sink)?;
            let child = watch_end(self.started)?;
            Ok(Attempt { child, identity: self.identity, pump, stdin })
        };
        enter().map_err(|error: io::Error| {
            // It has begun, so it is not begun again by itself.
            NotStarted::from(format!("noxd could not watch the new process, and ended it again: {error}"))
        })
    }
}

/// Makes the files and starts the program. Blocks until it executes.
fn begin(spec: &ProcessSpec, inherited: &[String]) -> Result<Begun, NotStarted> {
    let not_made = |what: &str, path: &Path, error: io::Error| {
        let words = format!("the attempt's {what} `{}` could not be made: {error}", path.display());
        NotStarted::by(words, &error)
    };
    let mut log =
        LogWriter::open(&spec.log_file, spec.log_cap).map_err(|error| not_made("log", &spec.log_file, error))?;
    let inherited: Vec<&str> = inherited.iter().map(String::as_str).collect();
    let start = || {
        let output_file =
            make_output_file(&spec.output_file).map_err(|error| not_made("output file", &spec.output_file, error))?;
        let author_then_noxd =
            spec.env.iter().chain(&spec.identity).map(|(name, value)| (name.as_str(), OsStr::new(value)));
        let variables = author_then_noxd.chain([("NOX_OUTPUT", output_file.as_os_str())]);
        let launch = Launch::prepare(&spec.argv, &inherited, variables, &spec.working_dir)?;
        let tag = tag_of_attempt(&spec.identity);
        tag::dressed(tag, || start_with_pipes(&launch, spec.stdin.clone(), tag))
    };
    match start() {
        Ok((started, identity, pipes)) => {
            let format = if spec.json_output { OutputFormat::Json } else { OutputFormat::Text };
            let sink = Sink::new(log, StdoutCapture::new(format), Arc::clone(&spec.activity));
            let Pipes { stdout, stderr, stdin } = pipes;
            Ok(Begun { started, identity, stdout, stderr, stdin, sink })
        }
        Err(refused) => {
            log.note(&refused.words);
            Err(refused)
        }
    }
}

/// Our ends.
struct Pipes {
    stdout: io::PipeReader,
    stderr: io::PipeReader,
    stdin: Option<(io::PipeWriter, Vec<u8>)>,
}

fn start_with_pipes(
    launch: &Launch,
    stdin: Option<Vec<u8>>,
    tag: Option<Tag>,
) -> Result<(Started, ProcessIdentity, Pipes), NotStarted> {
    let pipes = || -> io::Result<_> {
        let (source, stdin) = match stdin {
            Some(bytes) => {
                let (source, writer) = io::pipe()?;
                (source.into(), Some((writer, bytes)))
            }
            None => (File::open("/dev/null")?.into(), None),
        };
        let source: OwnedFd = source;
        Ok((source, stdin, io::pipe()?, io::pipe()?))
    };
    let (source, stdin, (stdout, stdout_end), (stderr, stderr_end)) = pipes().map_err(|error| {
        let words = format!(
            "noxd could not make the program's pipes ({error}): raise its limit on open files, or lower the concurrency limit"
        );
        NotStarted::by(words, &error)
    })?;
    // The lowest free number is given, so all below this one are taken. Some more are needed to watch the process, which
    // must not be found out when it runs already.
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    if u64::try_from(stderr_end.as_raw_fd()).unwrap_or(u64::MAX).saturating_add(DESCRIPTORS_KEPT) > most {
        let words = format!(
            "noxd has nearly all of its {most} open files in use: raise its limit on open files, or lower the concurrency limit"
        );
        return Err(NotStarted { words, for_now: true });
    }
    let (started, identity) = launch.start([source.as_fd(), stdout_end.as_fd(), stderr_end.as_fd()], tag)?;
    Ok((started, identity, Pipes { stdout, stderr, stdin }))
}

/// The absolute path of the empty file.
fn make_output_file(path: &Path) -> io::Result<PathBuf> {
    let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?;
    std::path::absolute(path)
}

/// What tells this attempt from all others: `NOX_…` variables, by name. `None` unless all are there: by the store's id
/// alone we would end everybody.
fn names_of_attempt(identity: &[(String, String)]) -> Option<[(&str, &str); 4]> {
    let value = |wanted: &'static str| {
        let (_, value) = identity.iter().rev().find(|(name, _)| name == wanted)?;
        Some((wanted, value.as_str()))
    };
    Some([value("NOX_STORE_ID")?, value("NOX_EXECUTION_ID")?, value("NOX_TASK_ID")?, value("NOX_ATTEMPT")?])
}

/// The variables that together are carried by this attempt and no other.
fn marks_of_attempt(identity: &[(String, String)]) -> Vec<Vec<u8>> {
    let entry = |(name, value): &(&str, &str)| format!("{name}={value}").into_bytes();
    names_of_attempt(identity).map(|names| names.iter().map(entry).collect()).unwrap_or_default()
}

/// The numbers that are carried by this attempt and no other.
fn tag_of_attempt(identity: &[(String, String)]) -> Option<Tag> {
    names_of_attempt(identity).map(|names| Tag::of_attempt(names.map(|(_, value)| value)))
}

/// What was seen of the processes.
struct Minded {
    stopped: Option<StopCause>,
    sampled_memory: Option<u64>,
    ending: termination::Ending,
}

/// Waits for the end of the first process, or brings it about; then ends everybody who is left and closes the pipes.
/// The first process is not reaped: as a zombie it keeps its pid, and with it the id of the group, from strangers.
async fn mind(
    child: &AsyncFd<Started>,
    mut roster: Roster,
    grace: Duration,
    signal: &StopSignal,
    flow: &Flow,
) -> Minded {
    let pid = child.get_ref().pid();
    let mut sampled_memory = None;
    let mut pause = FIRST_SAMPLE_AFTER;
    let asked = loop {
        tokio::select! {
            biased;
            () = ended(child) => break None,
            cause = signal.requested() => break Some(cause),
            () = sleep(pause) => {
                sampled_memory = sampled_memory.max(memory_high_water(pid));
                pause = (pause * 2).min(SAMPLE_AT_LEAST_EVERY);
            }
        }
    };
    // It may have ended while we were being woken.
    let stopped = asked.filter(|_| !child.get_ref().has_ended());
    sampled_memory = sampled_memory.max(memory_high_water(pid));
    let mut settle = Duration::ZERO;
    if asked.is_none() {
        settle = SETTLE_PATIENCE;
        tokio::select! {
            () = flow.drained.cancelled() => {}
            _ = signal.requested() => {}
            () = sleep(DRAIN_PATIENCE) => {}
        }
    }
    let ending = termination::end(&mut roster, Patience { settle, grace }, signal.grace_denied()).await;
    flow.closed.cancel();
    Minded { stopped, sampled_memory, ending }
}

async fn ended(child: &AsyncFd<Started>) {
    if child.readable().await.is_err() {
        // The runtime is shutting down, and we shall be dropped.
        std::future::pending::<()>().await;
    }
}

async fn report(
    mut sink: Sink,
    minded: Minded,
    reaped: io::Result<Option<Reaped>>,
    output_file: PathBuf,
) -> ProcessReport {
    if minded.stopped.is_none() && minded.ending.ended > 0 {
        sink.log
            .note(&format!("the program left {} running when it ended; noxd ended them", count(minded.ending.ended)));
    }
    if minded.ending.survivors > 0 {
        sink.log.note(&format!("{} could not be ended even by SIGKILL", count(minded.ending.survivors)));
    }
    if sink.cut_off {
        sink.log.note(
            "a process that is not of this attempt still holds its standard output or error; noxd reads it no further",
        );
    }
    let (log_bytes, log_bytes_dropped) = (sink.log.kept(), sink.log.dropped());
    let (output, stderr_tail) =
        off_thread(move || (output::collect(&output_file, sink.stdout), sink.stderr_tail.into_text())).await;
    let reaped = reaped.unwrap_or_else(|error| {
        tracing::error!(%error, "the end of a process was taken by somebody else");
        None
    });
    let end = match reaped.map(|reaped| reaped.end) {
        Some(Ok(code)) => ProcessEnd::Exited { code },
        Some(Err(signal)) => ProcessEnd::Signaled { signal },
        None => ProcessEnd::Signaled { signal: libc::SIGKILL },
    };
    let noxd_itself = memory_high_water(std::process::id());
    let counted = reaped.map(|reaped| reaped.peak_memory_bytes).filter(|peak| Some(*peak) > noxd_itself);
    ProcessReport {
        end,
        stopped: minded.stopped,
        output,
        stderr_tail,
        cpu_time: reaped.map(|reaped| reaped.cpu_time),
        peak_memory_bytes: counted.max(minded.sampled_memory),
        log_bytes,
        log_bytes_dropped,
    }
}

fn never_ran(message: String) -> ProcessReport {
    ProcessReport {
        end: ProcessEnd::SpawnFailed { message },
        stopped: None,
        output: Err(OutputFault { message: "the program was never started, so it has no output".to_owned() }),
        stderr_tail: String::new(),
        cpu_time: None,
        peak_memory_bytes: None,
        log_bytes: 0,
        log_bytes_dropped: 0,
    }
}

fn count(processes: usize) -> String {
    if processes == 1 { "1 process".to_owned() } else { format!("{processes} processes") }
}

/// How long processes that still hold the pipes may go on writing after the first one ended by itself.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);

/// How long the others of an attempt that ended by itself may take to end by themselves too: a process closes its
/// pipes some moments before it is gone, and is not to be called a leftover for them.
const SETTLE_PATIENCE: Duration = Duration::from_millis(100);

/// Memory is sampled first after this, then at intervals that double.
const FIRST_SAMPLE_AFTER: Duration = Duration::from_millis(20);

/// The longest such interval.
const SAMPLE_AT_LEAST_EVERY: Duration = Duration::from_secs(5);

/// Descriptors that a start leaves free.
const DESCRIPTORS_KEPT: u64 = 32;

/// After this a start is tried again for which the system had no room, then after pauses that double: for 25 s in all.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The longest such pause.
const LAST_PAUSE: Duration = Duration::from_millis(12_800);

#[cfg(test)]
mod tests;
