//! `noxd run FILE`: a daemon of its own, on a directory of its own, for one workflow file.
//!
//! The directory is kept: it has the history, the logs and the scratch files, and `--continue` goes on with what was
//! interrupted. There is no TCP listener; a Unix socket in the directory lets noxctl look in meanwhile.

use std::{
    fs,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::{
    api::convert::definition,
    cli::{
        self,
        approval::Answers,
        connect, file,
        inputs::{self, InputArgs},
        progress::Outcome,
        run::{RunOptions, View},
        status::CliError,
    },
    config::{ConfigError, Settings, runs_dir},
    daemon::{Daemon, RunError, StartError, chain},
    machine::workflow::Violation,
    notify::Supervisor,
    proto::v1,
    telemetry,
};

/// The end of a task's output that is shown after a run, in characters.
const SHOWN_OUTPUT: usize = 400;
/// Longest path of a Unix socket on Linux, less its final NUL.
const LONGEST_SOCKET: usize = 107;

/// What `noxd run` is told.
#[derive(clap::Args, Clone, Debug)]
pub struct RunArgs {
    /// The workflow file, YAML or JSON; `-` reads standard input
    #[arg(required_unless_present = "continue_dir")]
    file: Option<PathBuf>,
    /// Go on with a run that was interrupted, in its directory
    #[arg(long = "continue", value_name = "DIR", conflicts_with = "file")]
    continue_dir: Option<PathBuf>,
    /// The directory to run in; it must not exist yet [default: a new one below ~/.local/state/noxd/runs]
    #[arg(long, value_name = "DIR", conflicts_with = "continue_dir")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    inputs: InputArgs,
    /// Plain lines instead of a live display
    #[arg(long)]
    plain: bool,
    /// Nothing while it runs
    #[arg(long, short, conflicts_with = "plain")]
    quiet: bool,
    /// Most tasks running at once [default: 64]
    #[arg(long, env = "NOXD_CONCURRENCY_LIMIT", value_name = "N")]
    concurrency_limit: Option<u32>,
    /// Seconds that a process has between SIGTERM and SIGKILL [default: 10]
    #[arg(long, env = "NOXD_TERMINATION_GRACE", value_name = "SECONDS")]
    termination_grace: Option<f64>,
}

/// Why a run could not be made, or not be ended well.
#[derive(Debug, thiserror::Error)]
pub enum RunFailure {
    /// The file.
    #[error(transparent)]
    File(#[from] file::FileError),
    /// The inputs that were given.
    #[error("{} cannot run with these inputs:{}", path.display(), fault_lines(violations))]
    Inputs {
        /// Which file.
        path: PathBuf,
        /// Everything that is wrong with them.
        violations: Vec<Violation>,
    },
    /// What the file defines.
    #[error("{} cannot run:{}", path.display(), fault_lines(violations))]
    Faults {
        /// Which file.
        path: PathBuf,
        /// Everything that is wrong with it.
        violations: Vec<Violation>,
    },
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The directory.
    #[error("cannot use the directory {}: {why}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The daemon did not start.
    #[error("cannot start in {}: {}", path.display(), chain(source))]
    Start {
        /// Where.
        path: PathBuf,
        /// Why.
        source: StartError,
    },
    /// The daemon stopped.
    #[error(transparent)]
    Daemon(#[from] RunError),
    /// The daemon's own socket does not answer.
    #[error("cannot reach the daemon of this run")]
    Channel(#[from] tonic::transport::Error),
    /// A call failed.
    #[error(transparent)]
    Call(#[from] CliError),
    /// The system.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl RunFailure {
    /// What noxd exits with: 2 for what the person can mend on the command line or in the file, 1 for the rest.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::File(_) | Self::Inputs { .. } | Self::Faults { .. } | Self::Config(_) | Self::Directory { .. } => 2,
            Self::Call(error) => error.exit_code(),
            Self::Start { .. } | Self::Daemon(_) | Self::Channel(_) | Self::Io(_) => 1,
        }
    }
}

/// Runs a file, or goes on with a run, and says with what to exit.
///
/// # Errors
/// Why it could not be run.
pub async fn run(args: RunArgs) -> Result<u8, RunFailure> {
    if args.continue_dir.is_some() && !args.inputs.is_empty() {
        let words = "a run that goes on has its inputs already: leave --input and --inputs-file out";
        return Err(CliError::Usage(words.into()).into());
    }
    let wanted = args.file.as_deref().map(|file| read(file, &args.inputs)).transpose()?;
    let name = wanted.as_ref().map(|(workflow, _)| workflow.name.clone()).unwrap_or_default();
    let directory = directory(&args, &name)?;
    telemetry::log_to_file(&directory.join("noxd.log"), "info")?;
    let socket = socket_in(&directory);
    let settings = Settings {
        data_dir: Some(directory.clone()),
        listen: Some("none".into()),
        socket: Some(socket.clone()),
        concurrency_limit: args.concurrency_limit,
        termination_grace: args.termination_grace,
        drain_timeout: Some(0.0),
        ..Settings::default()
    };
    let config = settings.into_config()?;
    let daemon = Daemon::start(&config, Supervisor::nobody())
        .await
        .map_err(|source| RunFailure::Start { path: directory.clone(), source })?;
    let outcome = match connect::socket_channel(&socket).await {
        Ok(channel) => follow(&args, wanted, channel, &directory).await,
        Err(error) => Err(error.into()),
    };
    let closed = match &outcome {
        Ok(Some(Outcome::Killed)) => daemon.kill().await,
        _ => {
            let stop = CancellationToken::new();
            stop.cancel();
            daemon.run_until(stop).await
        }
    };
    let code = match outcome? {
        Some(outcome) => outcome.exit_code(),
        None => {
            tell(&format!("interrupted; go on with: noxd run --continue {}", directory.display()));
            // As a shell says of a program that SIGTERM ended.
            143
        }
    };
    closed?;
    Ok(code)
}

/// A workflow, and what its execution is given.
type Run = (v1::Workflow, Option<pbjson_types::Struct>);

/// Reads the file and the inputs and checks both, so that nothing is made for what cannot run.
fn read(path: &Path, given: &InputArgs) -> Result<Run, RunFailure> {
    let mut workflow = file::read_workflow(path)?;
    if workflow.name.is_empty() {
        workflow.name = file::stem(path).unwrap_or("stdin").to_string();
    }
    let path = path.to_path_buf();
    let content = match definition::parse(workflow.clone()).into_content(false) {
        Ok(content) => content,
        Err(violations) => return Err(RunFailure::Faults { path, violations }),
    };
    let values = given.read(&workflow.inputs)?;
    let violations = definition::input_faults(&content, &values);
    if !violations.is_empty() {
        return Err(RunFailure::Inputs { path, violations });
    }
    Ok((workflow, inputs::message(values)?))
}

/// Shows the run to its end. `None`: SIGTERM or SIGHUP came, and the run is to be left as it is.
async fn follow(
    args: &RunArgs,
    wanted: Option<Run>,
    channel: Channel,
    directory: &Path,
) -> Result<Option<Outcome>, RunFailure> {
    let view = match (args.quiet, args.plain) {
        (true, _) => View::Quiet,
        (_, true) => View::Plain,
        _ => View::Automatic,
    };
    let socket = socket_in(directory);
    // What reads the workflow from standard input has no keyboard left for answers.
    let answers = match args.file.as_deref() {
        Some(file) if file == Path::new("-") => Answers::Elsewhere,
        _ => Answers::Keyboard,
    };
    let noxctl = format!("noxctl --socket {}", socket.display());
    let options = RunOptions {
        view,
        log_hint: format!("noxd logs {} {{task}}", directory.display()),
        answer_hint: format!("{noxctl} execution approve {{execution}} {{task}} (or reject)"),
        answers,
    };
    let interrupts = interrupts()?;
    if view != View::Quiet {
        tell(&format!("running in {}", directory.display()));
        tell(&format!("look in with: {noxctl} execution list"));
    }
    let client = async {
        match wanted {
            Some((workflow, inputs)) => {
                cli::run::run_workflow(channel.clone(), workflow, inputs, options, interrupts).await
            }
            None => {
                let latest = latest(channel.clone(), directory).await?;
                cli::run::resume_workflow(channel.clone(), &latest, options, interrupts).await
            }
        }
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let outcome = tokio::select! {
        outcome = client => outcome?,
        _ = terminate.recv() => return Ok(None),
        _ = hang_up.recv() => return Ok(None),
    };
    if view != View::Quiet && outcome == Outcome::Completed {
        show_outputs(channel).await?;
    }
    Ok(Some(outcome))
}

/// One message per Ctrl-C.
#[expect(clippy::disallowed_methods, reason = "ends with its receiver")]
fn interrupts() -> Result<mpsc::Receiver<()>, RunFailure> {
    let (sender, receiver) = mpsc::channel(4);
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        while interrupt.recv().await.is_some() {
            if sender.send(()).await.is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// The newest execution in the directory; one that is paused goes on.
async fn latest(channel: Channel, directory: &Path) -> Result<String, CliError> {
    let request = v1::ListExecutionsRequest { page_size: 1, ..v1::ListExecutionsRequest::default() };
    let list = connect::executions(channel.clone()).list_executions(request).await?.into_inner();
    let execution = list.executions.into_iter().next();
    let execution = execution
        .ok_or_else(|| CliError::Usage(format!("{} holds no execution to go on with", directory.display())))?;
    if execution.status() == v1::WorkflowStatus::Paused {
        let request = v1::ResumeWorkflowRequest {
            workflow_id: execution.workflow_id,
            execution_id: execution.id.clone(),
            request_id: cli::run::request_id(),
        };
        connect::workflows(channel).resume_workflow(request).await?;
    }
    Ok(execution.id)
}

/// What the last tasks of the graph left: the result of the run.
async fn show_outputs(channel: Channel) -> Result<(), CliError> {
    let request = v1::ListExecutionsRequest { page_size: 1, ..v1::ListExecutionsRequest::default() };
    let list = connect::executions(channel.clone()).list_executions(request).await?.into_inner();
    let Some(execution) = list.executions.into_iter().next() else { return Ok(()) };
    let request = v1::GetExecutionRequest { execution_id: execution.id, wait: None };
    let whole = connect::executions(channel).get_execution(request).await?.into_inner().execution;
    for task in whole.into_iter().flat_map(|whole| whole.tasks).filter(|task| task.dependents.is_empty()) {
        let text = match task.output.and_then(|output| output.kind) {
            Some(pbjson_types::value::Kind::StringValue(text)) => text,
            _ => continue,
        };
        if !text.is_empty() {
            let skipped = text.chars().count().saturating_sub(SHOWN_OUTPUT);
            let end: String = text.chars().skip(skipped).collect();
            let mark = if skipped > 0 { "…" } else { "" };
            tell(&format!("{}: {mark}{}", task.task_id, cli::text::escape(&end)));
        }
    }
    Ok(())
}

fn fault_lines(violations: &[Violation]) -> String {
    let line = |fault: &Violation| {
        let reason = fault.reason.as_str();
        format!("\n  {}", cli::status::violation_line(&fault.field, &fault.description, reason))
    };
    violations.iter().map(line).collect()
}

fn tell(words: &str) {
    cli::output::talk(words);
}

/// The directory of the run: the one to go on with, the one asked for, or a new one.
#[expect(clippy::disallowed_methods, reason = "a directory's name, for people")]
fn directory(args: &RunArgs, name: &str) -> Result<PathBuf, RunFailure> {
    let refuse = |path: &Path, why: String| RunFailure::Directory { path: path.to_path_buf(), why };
    if let Some(directory) = &args.continue_dir {
        if !directory.join("store").is_dir() {
            return Err(refuse(directory, "no run was made there".into()));
        }
        return Ok(std::path::absolute(directory)?);
    }
    let directory = match &args.dir {
        Some(directory) if directory.exists() => {
            return Err(refuse(directory, "it exists; give a new one, or go on with --continue".into()));
        }
        Some(directory) => std::path::absolute(directory)?,
        None => {
            let stamp = chrono::Local::now().format("%Y%m%d-%H%M%S");
            let unique = &uuid::Uuid::new_v4().simple().to_string()[..4];
            let safe: String =
                name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' }).take(24).collect();
            runs_dir().join(format!("{stamp}-{safe}-{unique}"))
        }
    };
    // What runs here, and what it says, is this user's alone.
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
    made.map_err(|error| refuse(&directory, error.to_string()))?;
    Ok(directory)
}

/// In the directory, or, where that path is too long for a socket, in a short place named after it.
fn socket_in(directory: &Path) -> PathBuf {
    let inside = directory.join("noxd.sock");
    if inside.as_os_str().len() <= LONGEST_SOCKET {
        return inside;
    }
    let uid = rustix::process::geteuid().as_raw();
    let name = directory.file_name().map(|name| name.to_string_lossy().chars().rev().take(24).collect::<String>());
    PathBuf::from(format!("/tmp/noxd-{uid}/{}-{}.sock", std::process::id(), name.unwrap_or_default()))
}

/// Cancels `stop` at SIGTERM or SIGINT; a second one ends noxd at once, and recovery takes care of the rest.
///
/// # Errors
/// Where the signals cannot be listened to.
#[expect(
    clippy::disallowed_methods,
    reason = "listens as long as noxd lives; the second signal skips the ordered shutdown on purpose"
)]
pub fn stop_on_signals(stop: CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        for first in [true, false] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if first {
                tracing::info!("stopping; a second signal stops at once");
                stop.cancel();
            }
        }
        tracing::warn!("stopped at once; what ran will be recovered");
        std::process::exit(1);
    });
    Ok(())
}
