//! Does what effects say and reports what it saw: facts only.
//!
//! [`Executor::start`] takes effects from the engine's channel. Each attempt is one task of the runtime that ends with
//! one report; the dispatcher itself never waits for the engine, so the two cannot wait for each other. `process` runs a
//! program to its end; `noop` does nothing, through the same effects and the same reports.

mod census;
pub mod files;
mod hunt;
pub mod leftovers;
pub mod logs;
mod orphans;
mod output;
mod pipes;
pub mod process;
mod spawn;
mod tag;
mod termination;

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{Notify, mpsc};
use tokio_util::task::TaskTracker;

use self::{
    files::DataLayout,
    process::{ProcessEnd, ProcessReport, ProcessSpec, StopCause, StopSignal, Stopper},
    tag::Tag,
};
use crate::{
    engine::{Handle, read::Reads},
    machine::{
        facts::{ExecutionFacts, Facts, TaskFacts},
        ids::{AttemptKey, WorkflowId},
        judgement::TaskResult,
        message::{self, AttemptEnd, AttemptOutcome, Command, Effect, Filling, Output},
        placeholder::{self, RenderedTask},
        workflow::{Action, CommandAction, Definition, OutputFormat, TaskSpec},
    },
};

/// Deepest output: protobuf's readers follow a hundred messages into each other, and an object costs three.
const MAX_OUTPUT_NESTING: usize = 30;

/// What the executor is started with.
#[derive(Clone, Debug)]
pub struct ExecutorConfig {
    /// Where attempts leave their files.
    pub layout: DataLayout,
    /// The store's id: every child carries it, so that leftovers can be found.
    pub store_id: String,
    /// How long a process has between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// Bytes of log kept per attempt.
    pub log_cap: u64,
}

/// Runs attempts.
#[derive(Clone)]
pub struct Executor {
    shared: Arc<Shared>,
}

struct Shared {
    config: ExecutorConfig,
    engine: Handle,
    /// Attempts that run. An entry is there from before the attempt starts until its end is about to be reported.
    running: Mutex<HashMap<AttemptKey, Stopper>>,
    attempts: TaskTracker,
}

impl Executor {
    /// Starts taking effects.
    #[expect(clippy::disallowed_methods, reason = "ends with the channel of effects, when the writer does")]
    pub fn start(config: ExecutorConfig, engine: Handle, mut effects: mpsc::Receiver<Vec<Effect>>) -> Self {
        if let Err(error) = Tag::of_store(&config.store_id, config.layout.root()).wear() {
            tracing::warn!(%error, "after a crash, daemons of tasks that clear their environment will not be found");
        }
        let minds_orphans = tokio::spawn(orphans::adopt(config.grace));
        let shared = Shared { config, engine, running: Mutex::default(), attempts: TaskTracker::new() };
        let executor = Self { shared: Arc::new(shared) };
        let dispatcher = executor.clone();
        tokio::spawn(async move {
            while let Some(batch) = effects.recv().await {
                dispatcher.dispatch(batch);
            }
            minds_orphans.abort();
        });
        executor
    }

    /// How many attempts run.
    pub fn running(&self) -> usize {
        self.running_map().len()
    }

    /// Lets running attempts end by themselves for that long, then ends the rest as interrupted. Every end is reported
    /// when this returns.
    pub async fn shut_down(&self, patience: Duration) {
        self.shared.attempts.close();
        if tokio::time::timeout(patience, self.shared.attempts.wait()).await.is_err() {
            let stoppers: Vec<Stopper> = self.running_map().values().cloned().collect();
            tracing::info!(attempts = stoppers.len(), "ending the attempts that are still running");
            for stopper in stoppers {
                stopper.stop(StopCause::Interrupted);
            }
            self.shared.attempts.wait().await;
        }
    }

    /// Ends every attempt at once, without its grace.
    #[expect(clippy::iter_over_hash_type, reason = "all are ended at once, in no order")]
    pub fn kill_all(&self) {
        for stopper in self.running_map().values() {
            stopper.kill(StopCause::Interrupted);
        }
    }

    fn dispatch(&self, batch: Vec<Effect>) {
        for effect in batch {
            match effect {
                Effect::StartAttempt { attempt, workflow, definition, inputs, filling } => {
                    self.start_attempt(Assignment { key: attempt, workflow, definition, inputs, filling });
                }
                Effect::StopAttempt { attempt, cause } => {
                    // One that is not there has ended: its report is on its way.
                    if let Some(stopper) = self.running_map().get(&attempt) {
                        stopper.stop(match cause {
                            message::StopCause::Cancelled => StopCause::Cancelled,
                            message::StopCause::TimedOut(_) | message::StopCause::ExecutionTimedOut => {
                                StopCause::TimedOut
                            }
                        });
                    }
                }
            }
        }
    }

    fn start_attempt(&self, assignment: Assignment) {
        let (stopper, signal) = Stopper::new();
        let key = assignment.key;
        self.running_map().insert(key, stopper);
        let executor = self.clone();
        self.shared.attempts.spawn(async move {
            let outcome = executor.attempt(assignment, signal).await;
            executor.running_map().remove(&key);
            // An engine that has stopped recovers this attempt when it opens again.
            let _ = executor.shared.engine.report(vec![ended(key, outcome)]).await;
        });
    }

    async fn attempt(&self, assignment: Assignment, signal: StopSignal) -> AttemptOutcome {
        let assignment = Arc::new(assignment);
        let command = match assignment.filling {
            None => None,
            // The results that placeholders read may come from the disk.
            Some(_) => {
                let (reads, assignment) = (self.shared.engine.reads().clone(), Arc::clone(&assignment));
                match tokio::task::spawn_blocking(move || filled_in(&assignment, &reads)).await {
                    Ok(Ok(rendered)) => rendered.command,
                    Ok(Err(end)) => return AttemptOutcome::bare(end),
                    Err(_) => return AttemptOutcome::bare(AttemptEnd::Interrupted("noxd shut down")),
                }
            }
        };
        let task = assignment.definition.task(assignment.key.task);
        match &task.action {
            Some(Action::Noop { duration_micros }) => noop(Duration::from_micros(*duration_micros), signal).await,
            Some(Action::Command(literal)) => {
                self.command(&assignment, task, command.as_ref().unwrap_or(literal), signal).await
            }
            Some(Action::Approval(_)) | None => AttemptOutcome::bare(AttemptEnd::NotSpawned(
                "the task has no action, and this build of noxd has no agents that could do it".into(),
            )),
        }
    }

    async fn command(
        &self,
        assignment: &Assignment,
        task: &TaskSpec,
        command: &CommandAction,
        signal: StopSignal,
    ) -> AttemptOutcome {
        let (layout, key) = (&self.shared.config.layout, assignment.key);
        let made = {
            let (layout, inputs) = (layout.clone(), Arc::clone(&assignment.inputs));
            tokio::task::spawn_blocking(move || layout.make_execution(key.execution, &inputs)).await
        };
        if let Ok(Err(error)) = made {
            let words =
                format!("the directory of the execution could not be made under {}: {error}", layout.root().display());
            return AttemptOutcome::bare(AttemptEnd::NotSpawned(words));
        }
        let spec = self.spec(key, &assignment.workflow, task, command);
        let (activity, idle) = (Arc::clone(&spec.activity), task.idle_timeout_micros.map(Duration::from_micros));
        let (spawned, identity) = tokio::sync::oneshot::channel();
        let begins = Arc::clone(&activity);
        let run = process::run(spec, signal, move |identity| {
            begins.notify_one();
            // The receiver lives as long as the run.
            let _ = spawned.send(identity);
        });
        let tell = async {
            let Ok(identity) = identity.await else { return };
            let process = message::ProcessIdentity {
                pid: identity.pid,
                start_time: identity.start_time,
                boot_id: identity.boot_id.as_str().into(),
            };
            // An engine that has stopped finds the process by its environment.
            let _ = self.shared.engine.report(vec![Command::AttemptSpawned { attempt: key, process }]).await;
        };
        let run = async {
            tokio::select! {
                report = run => report,
                never = self.tell_silence(key, idle, &activity) => match never {},
            }
        };
        let (report, ()) = tokio::join!(run, tell);
        outcome_of(report)
    }

    /// Tells the engine once when an attempt has been silent for too long: the machine decides what that means. Its
    /// start is the first sign of life.
    async fn tell_silence(&self, key: AttemptKey, idle: Option<Duration>, activity: &Notify) -> Infallible {
        if let Some(idle) = idle {
            activity.notified().await;
            while tokio::time::timeout(idle, activity.notified()).await.is_ok() {}
            // An engine that has stopped recovers this attempt when it opens again.
            let _ = self.shared.engine.report(vec![Command::AttemptSilent { attempt: key }]).await;
        }
        std::future::pending().await
    }

    fn spec(&self, key: AttemptKey, workflow: &WorkflowId, task: &TaskSpec, command: &CommandAction) -> ProcessSpec {
        let config = &self.shared.config;
        let execution = key.execution.to_string();
        let identity = [
            ("NOX_STORE_ID", config.store_id.clone()),
            ("NOX_WORKFLOW_ID", workflow.as_str().into()),
            ("NOX_TASK_ID", task.id.clone()),
            ("NOX_ATTEMPT", key.attempt.to_string()),
            ("NOX_INPUTS", config.layout.inputs_file(key.execution).to_string_lossy().into_owned()),
            ("NOX_SCRATCH_DIR", config.layout.work_dir(key.execution).to_string_lossy().into_owned()),
            ("NOX_IDEMPOTENCY_KEY", format!("{execution}/{}", task.id)),
            ("NOX_EXECUTION_ID", execution),
        ];
        let work_dir = if command.working_dir.is_empty() {
            config.layout.work_dir(key.execution)
        } else {
            command.working_dir.clone().into()
        };
        ProcessSpec {
            argv: command.argv.clone(),
            env: command.env.clone().into_iter().collect(),
            identity: identity.map(|(name, value)| (name.to_string(), value)).to_vec(),
            working_dir: work_dir,
            stdin: (!command.stdin.is_empty()).then(|| command.stdin.clone().into_bytes()),
            output_file: config.layout.output_file(key.execution, &task.id, key.attempt),
            log_file: config.layout.log_file(key.execution, &task.id, key.attempt),
            log_cap: config.log_cap,
            json_output: task.output_format == OutputFormat::Json,
            grace: config.grace,
            activity: Arc::default(),
        }
    }

    fn running_map(&self) -> std::sync::MutexGuard<'_, HashMap<AttemptKey, Stopper>> {
        // A panic while it was held leaves the map whole: it is only ever inserted into and removed from.
        self.shared.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an attempt is to do.
struct Assignment {
    key: AttemptKey,
    workflow: WorkflowId,
    definition: Arc<Definition>,
    inputs: Arc<str>,
    filling: Option<Box<Filling>>,
}

/// The task with its placeholders filled in, from what tasks before it left.
fn filled_in(assignment: &Assignment, reads: &Reads) -> Result<RenderedTask, AttemptEnd> {
    let Assignment { key, workflow, definition, inputs, filling } = assignment;
    let Some(filling) = filling else { return Err(AttemptEnd::NotRendered("nothing is known of its values".into())) };
    let mut tasks = BTreeMap::new();
    for read in &filling.reads {
        let spec = definition.task(read.task);
        let result = match (read.source == key.execution, read.last_end) {
            (true, 0) => Ok(TaskResult::default()),
            (true, last_end) => reads.result_at(key.execution, read.task, last_end),
            (false, _) => reads.result(read.source, read.task),
        };
        let result = result.map_err(|error| {
            tracing::error!(%error, task = %spec.id, "what a task left could not be read");
            AttemptEnd::NotRendered(format!("what task `{}` left could not be read; noxd's log says why", spec.id))
        })?;
        let facts = TaskFacts {
            status: read.status,
            output: result.output,
            metadata: &spec.metadata,
            exit_code: result.exit_code,
            attempts: read.attempts,
        };
        tasks.insert(spec.id.as_str(), facts);
    }
    let execution = ExecutionFacts {
        id: key.execution,
        workflow,
        version: filling.version,
        started_at: filling.started_at,
        labels: &filling.labels,
    };
    let facts = Facts { execution, inputs: Arc::clone(inputs), tasks };
    placeholder::render_task(definition.task(key.task), &facts)
        .map_err(|failure| AttemptEnd::NotRendered(format!("{}: {}", failure.field, failure.message)))
}

/// What there is to report of an effect that is over as soon as it is begun: a task that does nothing, with nothing to
/// fill in. The engine asks this first, and takes such a fact with its next batch.
pub fn at_once(effect: &Effect) -> Option<Command> {
    let Effect::StartAttempt { attempt, definition, filling: None, .. } = effect else { return None };
    let does_nothing = matches!(definition.task(attempt.task).action, Some(Action::Noop { duration_micros: 0 }));
    does_nothing.then(|| ended(*attempt, succeeded_with_nothing()))
}

fn ended(attempt: AttemptKey, outcome: AttemptOutcome) -> Command {
    Command::AttemptEnded { attempt, outcome: Box::new(outcome) }
}

fn succeeded_with_nothing() -> AttemptOutcome {
    AttemptOutcome::bare(AttemptEnd::Succeeded)
}

async fn noop(duration: Duration, signal: StopSignal) -> AttemptOutcome {
    tokio::select! {
        cause = signal.requested() => AttemptOutcome::bare(stopped(cause)),
        () = tokio::time::sleep(duration) => succeeded_with_nothing(),
    }
}

fn stopped(cause: StopCause) -> AttemptEnd {
    match cause {
        StopCause::Cancelled | StopCause::TimedOut => AttemptEnd::Stopped,
        StopCause::Interrupted => AttemptEnd::Interrupted("noxd shut down"),
    }
}

/// What the machine is told of a process.
fn outcome_of(report: ProcessReport) -> AttemptOutcome {
    let (end, output) = match (report.stopped, report.end) {
        (Some(cause), _) => (stopped(cause), None),
        (None, ProcessEnd::Exited { code: 0 }) => match report.output {
            Ok(json) if nesting(&json) > MAX_OUTPUT_NESTING => {
                let words = format!(
                    "the output is nested {} levels deep; at most {MAX_OUTPUT_NESTING} are taken, since clients read no more",
                    nesting(&json)
                );
                (AttemptEnd::OutputRefused(words), None)
            }
            Ok(json) => (AttemptEnd::Succeeded, output_of(json)),
            Err(fault) => (AttemptEnd::OutputRefused(fault.message), None),
        },
        (None, ProcessEnd::Exited { code }) => (AttemptEnd::ExitCode(code), None),
        (None, ProcessEnd::Signaled { signal }) => (AttemptEnd::Signal(signal), None),
        (None, ProcessEnd::SpawnFailed { message }) => (AttemptEnd::NotSpawned(message), None),
    };
    AttemptOutcome {
        end,
        output,
        stderr_tail: report.stderr_tail,
        cpu_micros: report.cpu_time.map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX)),
        peak_memory_bytes: report.peak_memory_bytes,
    }
}

/// Deepest array or object of JSON text.
fn nesting(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// The output is JSON text, made by `output`; it is UTF-8 by construction.
fn output_of(json: Vec<u8>) -> Option<Output> {
    let json = String::from_utf8(json).ok()?;
    Some(Output { size: json.len() as u64, json: json.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_depth_of_an_output_is_counted_outside_of_its_strings() {
        for (json, depth) in [("1", 0), ("[]", 1), (r#"{"a":[{"b":[]}]}"#, 4), (r#"["[[[\"[[","{"]"#, 1)] {
            assert_eq!(nesting(json.as_bytes()), depth, "{json}");
        }
    }
}
