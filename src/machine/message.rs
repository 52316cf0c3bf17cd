//! What goes in and out of the machine: [`Command`] in, [`Event`] remembered, [`Effect`] ordered, [`Rejection`] refused.
//!
//! All of them are values. Events are the only thing that changes state; effects follow from events.

use std::{collections::BTreeMap, sync::Arc};

pub use super::error_kind::ErrorKind;
use super::{
    ids::{Actor, AttemptKey, Elapsed, ExecutionId, Revision, TaskIndex, Timestamp, WorkflowId},
    task::TaskStatus,
    workflow::{Definition, Role, Violation, WorkflowSpec},
};

/// What somebody wants, or what the executor saw.
#[derive(Clone, Debug)]
pub enum Command {
    /// Store a definition under an id that is free.
    CreateWorkflow {
        /// Already checked.
        content: Content,
    },
    /// Store another version.
    UpdateWorkflow {
        /// Already checked.
        content: Content,
        /// Only if the stored one still has this etag.
        etag: Option<String>,
    },
    /// Forget a definition.
    DeleteWorkflow {
        /// Which.
        workflow: WorkflowId,
        /// Only if the stored one still has this etag.
        etag: Option<String>,
    },
    /// Run the newest version.
    StartExecution {
        /// Its id, made at the edge.
        execution: ExecutionId,
        /// Of which workflow.
        workflow: WorkflowId,
        /// Over the workflow's own.
        labels: BTreeMap<String, String>,
        /// What it is given, by the names that the workflow declares.
        inputs: Inputs,
        /// What starts it.
        trigger: Trigger,
    },
    /// Run an execution that has ended again, keeping what was good of it.
    RerunExecution {
        /// The new one's id, made at the edge.
        execution: ExecutionId,
        /// The one that is repeated.
        source: ExecutionId,
        /// Ids of the tasks to do again, with all that comes after them; empty: those that did not succeed.
        tasks: Vec<String>,
    },
    /// A person's answer to an approval.
    ResolveApproval {
        /// Of which execution.
        execution: ExecutionId,
        /// Id of the task that waits for it.
        task: String,
        /// Yes or no.
        approved: bool,
        /// In the person's words.
        comment: String,
    },
    /// Change how many attempts may be alive at once.
    SetConcurrencyLimit {
        /// Of which agent; `None`: of all.
        agent: Option<Arc<str>>,
        /// How many; `None`: the agent has no limit of its own any more.
        limit: Option<u32>,
    },
    /// Pause, resume or cancel one execution.
    Control {
        /// What to do.
        operation: Operation,
        /// Of which workflow.
        workflow: WorkflowId,
        /// Which execution.
        execution: ExecutionId,
    },
    /// The process of an attempt exists.
    AttemptSpawned {
        /// Which attempt.
        attempt: AttemptKey,
        /// Which process.
        process: ProcessIdentity,
    },
    /// A live attempt has shown no sign of life for its task's `idle_timeout`.
    AttemptSilent {
        /// Which attempt.
        attempt: AttemptKey,
    },
    /// An attempt is over, and no process of it is left.
    AttemptEnded {
        /// Which attempt.
        attempt: AttemptKey,
        /// How it ended.
        outcome: Box<AttemptOutcome>,
    },
    /// Admit nothing more: noxd is shutting down.
    Drain,
}

impl Command {
    /// About how many bytes of text it carries: batches are bounded by it.
    pub fn weight(&self) -> usize {
        match self {
            Self::CreateWorkflow { content } | Self::UpdateWorkflow { content, .. } => content.weight(),
            Self::StartExecution { labels, inputs, .. } => labels_weight(labels) + inputs.weight(),
            Self::ResolveApproval { comment, .. } => comment.len(),
            Self::AttemptEnded { outcome, .. } => {
                outcome.stderr_tail.len() + outcome.output.as_ref().map_or(0, |output| output.json.len())
            }
            _ => 0,
        }
    }
}

/// What an execution is given, by name, as it came: it is checked against the declarations of the version that runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inputs(pub Arc<serde_json::Map<String, serde_json::Value>>);

impl Inputs {
    fn weight(&self) -> usize {
        // A bound from above: what is not text takes less.
        fn of(value: &serde_json::Value) -> usize {
            match value {
                serde_json::Value::String(text) => text.len(),
                serde_json::Value::Array(values) => values.iter().map(of).sum::<usize>() + 8,
                serde_json::Value::Object(entries) => entries.iter().map(|(key, value)| key.len() + of(value)).sum(),
                _ => 24,
            }
        }
        self.0.iter().map(|(key, value)| key.len() + of(value)).sum()
    }
}

/// What is done with executions from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Start nothing more.
    Pause,
    /// Go on.
    Resume,
    /// End it.
    Cancel,
}

impl Operation {
    /// The verb, for words to people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Cancel => "cancel",
        }
    }
}

/// A definition on its way into the store.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// It can run.
    Ready(Arc<Definition>),
    /// It has faults and was stored all the same, on request.
    Draft {
        /// As given.
        spec: Arc<WorkflowSpec>,
        /// Why it cannot run.
        violations: Vec<Violation>,
    },
}

impl Content {
    /// About how many bytes of text it has.
    pub fn weight(&self) -> usize {
        let faults = match self {
            Self::Ready(_) => 0,
            Self::Draft { violations, .. } => {
                violations.iter().map(|fault| fault.field.len() + fault.description.len()).sum::<usize>()
            }
        };
        self.spec().weight() + faults
    }

    /// The definition as its author wrote it.
    pub fn spec(&self) -> &WorkflowSpec {
        match self {
            Self::Ready(definition) => definition.spec(),
            Self::Draft { spec, .. } => spec,
        }
    }
}

/// A workflow as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkflowRecord {
    /// Counts all versions under this id, from 1.
    pub version: u64,
    /// When the first version was stored.
    pub created_at: Timestamp,
    /// When this version was stored.
    pub updated_at: Timestamp,
    /// Who stored the first version.
    pub created_by: Actor,
    /// Whether it was deleted. The record stays, so that versions go on counting.
    pub deleted: bool,
    /// The definition.
    pub content: Content,
}

impl WorkflowRecord {
    /// Changes with the definition alone: a version is never stored twice.
    pub fn etag(&self) -> String {
        format!("v{}", self.version)
    }
}

/// What started an execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// A call.
    Manual,
    /// A rerun of this execution.
    Rerun(ExecutionId),
}

/// A process that cannot be taken for a later one with the same id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessIdentity {
    /// Its process id.
    pub pid: u32,
    /// Clock ticks after boot.
    pub start_time: u64,
    /// Which boot.
    pub boot_id: Arc<str>,
}

/// How an attempt ended, as the executor saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct AttemptOutcome {
    /// Its end.
    pub end: AttemptEnd,
    /// What it left, where it succeeded.
    pub output: Option<Output>,
    /// Last 4 KiB of standard error.
    pub stderr_tail: String,
    /// CPU time in microseconds.
    pub cpu_micros: Option<u64>,
    /// Most memory of one process, in bytes.
    pub peak_memory_bytes: Option<u64>,
}

impl AttemptOutcome {
    /// An end without anything measured.
    pub fn bare(end: AttemptEnd) -> Self {
        Self { end, output: None, stderr_tail: String::new(), cpu_micros: None, peak_memory_bytes: None }
    }
}

/// The end of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttemptEnd {
    /// It did its work.
    Succeeded,
    /// It exited with a code other than 0.
    ExitCode(i32),
    /// A signal that noxd did not send ended it.
    Signal(i32),
    /// It could not be started.
    NotSpawned(String),
    /// Its output cannot be taken.
    OutputRefused(String),
    /// A placeholder could not be filled.
    NotRendered(String),
    /// noxd ended it, since it was told to: by a cancel or a timeout.
    Stopped,
    /// noxd's own shutdown or crash ended it.
    Interrupted(&'static str),
}

/// What a task left: JSON text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The whole of it, or its beginning where `size` is greater.
    pub json: Arc<str>,
    /// Bytes of the whole.
    pub size: u64,
}

/// A fact with its place in the order of all facts.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// Its place.
    pub revision: Revision,
    /// When it was decided.
    pub time: Timestamp,
    /// The same on noxd's own clock.
    pub elapsed: Elapsed,
    /// Who caused it.
    pub actor: Actor,
    /// Which workflow it is about, if one.
    pub workflow: Option<WorkflowId>,
    /// Which execution, if one.
    pub execution: Option<ExecutionId>,
    /// What happened.
    pub event: Event,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A definition was stored or deleted.
    WorkflowChanged {
        /// What was done.
        change: WorkflowChange,
        /// The version since.
        version: u64,
        /// The record since; not kept in the history, which has the version rows for it.
        record: Option<Arc<WorkflowRecord>>,
    },
    /// An execution began.
    ExecutionStarted {
        /// Of which version.
        version: u64,
        /// How many tasks it has.
        task_count: u32,
        /// The workflow's and its own.
        labels: BTreeMap<String, String>,
        /// What started it.
        trigger: Trigger,
        /// What it was given, with the defaults of what it was not: a JSON object.
        inputs: Arc<str>,
        /// Tasks that keep the result that they have in the execution that this one repeats, ascending.
        reused: Arc<[(TaskIndex, TaskStatus)]>,
    },
    /// No new attempt starts from here.
    ExecutionPaused,
    /// Attempts start again.
    ExecutionResumed,
    /// A cancel was asked for. Running attempts are told to end.
    ExecutionCancelRequested {
        /// How many were told.
        running: u32,
        /// Whether it is the second one, which does not spare `finally` (S-STATE-5).
        finally_too: bool,
    },
    /// A task failed, and the rest is not to be done. Running attempts are told to end.
    ExecutionFailFast {
        /// Which task.
        cause: TaskIndex,
        /// How many were told.
        running: u32,
    },
    /// The execution's time is up. Running attempts are told to end.
    ExecutionTimeoutReached {
        /// The limit in microseconds.
        timeout_micros: u64,
        /// How many were told.
        running: u32,
    },
    /// All tasks before are over: handlers have their turn.
    HandlersStarted {
        /// Which.
        role: Role,
    },
    /// It ended.
    ExecutionEnded {
        /// How.
        end: ExecutionEnd,
    },
    /// A task's rule and conditions hold: it waits for a slot from here.
    TaskReady {
        /// Which task.
        task: TaskIndex,
    },
    /// A condition could not be evaluated, and so is not met (S-COND-4).
    ConditionError {
        /// Of which task.
        task: TaskIndex,
        /// The condition as it was written.
        expression: String,
        /// What it looked at.
        values: String,
        /// What is wrong.
        message: String,
    },
    /// A person is asked. The task waits, and holds no slot.
    ApprovalRequested {
        /// Which task.
        task: TaskIndex,
    },
    /// A person answered.
    ApprovalResolved {
        /// Which task.
        task: TaskIndex,
        /// Yes or no.
        approved: bool,
        /// In the person's words.
        comment: String,
    },
    /// The backoff of a task is over: it waits for a slot again.
    TaskRetryDue {
        /// Which task.
        task: TaskIndex,
    },
    /// An attempt was admitted: it holds its slot from here.
    TaskStarted {
        /// Which task.
        task: TaskIndex,
        /// Which try.
        attempt: u32,
        /// When its last dependency ended.
        ready_at: Timestamp,
        /// When it came into the queue.
        queued_at: Timestamp,
        /// What it waited for.
        waited: Waited,
    },
    /// Its process exists.
    TaskSpawned {
        /// Which task.
        task: TaskIndex,
        /// Which try.
        attempt: u32,
        /// Which process.
        process: ProcessIdentity,
    },
    /// Its time is up; it is told to end.
    TaskTimeoutReached {
        /// Which task.
        task: TaskIndex,
        /// Which try.
        attempt: u32,
        /// Which of the task's limits.
        limit: TimeLimit,
        /// The limit in microseconds.
        timeout_micros: u64,
    },
    /// An attempt is over, or a task without one.
    TaskEnded {
        /// Which task.
        task: TaskIndex,
        /// Which try; 0: it ended without one.
        attempt: u32,
        /// What it means for the task.
        end: TaskEnd,
        /// What is known of the attempt.
        result: Box<AttemptResult>,
    },
    /// Tasks that can no longer run.
    TasksBlocked {
        /// Which, ascending.
        tasks: Vec<TaskIndex>,
        /// The task whose end is the cause.
        cause: TaskIndex,
    },
    /// Tasks that are not to run: a condition or rule does not hold.
    TasksSkipped {
        /// Which, ascending.
        tasks: Vec<TaskIndex>,
        /// Why, in one sentence.
        reason: String,
    },
    /// Tasks that had not started when the rest of the execution was called off.
    TasksCancelled {
        /// Which, ascending.
        tasks: Vec<TaskIndex>,
    },
    /// How many attempts may be alive at once was changed.
    ConcurrencyLimitSet {
        /// Of which agent; `None`: of all.
        agent: Option<Arc<str>>,
        /// How many; `None`: the agent has no limit of its own any more.
        limit: Option<u32>,
    },
}

impl Event {
    /// About how many bytes its rows take: batches are bounded by it.
    pub fn weight(&self) -> usize {
        /// What an event takes besides its texts, with its share of index rows.
        const BASE: usize = 256;
        BASE + match self {
            Self::WorkflowChanged { record, .. } => record.as_ref().map_or(0, |record| record.content.weight()),
            // Once in the event and once in the summary.
            Self::ExecutionStarted { labels, inputs, reused, .. } => {
                2 * labels_weight(labels) + inputs.len() + 4 * reused.len()
            }
            Self::TaskEnded { result, .. } => {
                let error = result.error.as_ref().map_or(0, |error| error.message.len() + error.stderr_tail.len());
                error + result.output.as_ref().map_or(0, |output| output.json.len())
            }
            Self::TasksBlocked { tasks, .. } | Self::TasksCancelled { tasks } | Self::TasksSkipped { tasks, .. } => {
                4 * tasks.len()
            }
            Self::ApprovalResolved { comment, .. } => comment.len(),
            Self::ConditionError { expression, values, message, .. } => expression.len() + values.len() + message.len(),
            _ => 0,
        }
    }
}

fn labels_weight(labels: &BTreeMap<String, String>) -> usize {
    labels.iter().map(|(key, value)| key.len() + value.len()).sum()
}

/// What was done to a definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkflowChange {
    /// First stored.
    Created,
    /// Another version.
    Updated,
    /// Deleted.
    Deleted,
}

/// How an execution ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExecutionEnd {
    /// Every task COMPLETED or SKIPPED.
    Completed,
    /// Some task FAILED, TIMED_OUT or BLOCKED.
    Failed,
    /// On request.
    Cancelled,
}

/// What the end of an attempt means for its task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskEnd {
    /// COMPLETED.
    Completed,
    /// FAILED.
    Failed,
    /// TIMED_OUT.
    TimedOut,
    /// CANCELLED.
    Cancelled,
    /// QUEUED again: the attempt does not count (S-RETRY-7).
    Interrupted,
    /// RETRYING: the next attempt is due after so many microseconds.
    Retrying {
        /// How many.
        delay_micros: u64,
    },
}

/// A limit of time that an attempt ran into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeLimit {
    /// `timeout`: of the attempt.
    Attempt,
    /// `idle_timeout`: of its silence.
    Idle,
}

impl TimeLimit {
    /// The field that sets it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Attempt => "timeout",
            Self::Idle => "idle_timeout",
        }
    }
}

/// What is known of an attempt that is over.
#[derive(Clone, Debug, PartialEq)]
pub struct AttemptResult {
    /// When it was admitted.
    pub started_at: Timestamp,
    /// Exit code, where it exited.
    pub exit_code: Option<i32>,
    /// CPU time in microseconds.
    pub cpu_micros: Option<u64>,
    /// Most memory of one process, in bytes.
    pub peak_memory_bytes: Option<u64>,
    /// What went wrong.
    pub error: Option<TaskError>,
    /// What it left.
    pub output: Option<Output>,
    /// Revision of the end of the attempt before this one; 0: this is the first.
    pub previous: Revision,
}

/// What went wrong, and the evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskError {
    /// What kind.
    pub kind: ErrorKind,
    /// One sentence.
    pub message: String,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Last 4 KiB of standard error.
    pub stderr_tail: String,
}

/// Microseconds that a task waited before it started, by cause (S-VIEW-6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waited {
    /// For tasks before it.
    pub dependency: u64,
    /// For the execution to be resumed.
    pub pause: u64,
    /// For the backoff of the attempt before.
    pub backoff: u64,
    /// For a slot.
    pub limit: u64,
}

/// What the executor is to do. It leaves the engine only when the events behind it are durable.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Start an attempt.
    StartAttempt {
        /// Which.
        attempt: AttemptKey,
        /// Of which workflow.
        workflow: WorkflowId,
        /// What to do is in its task.
        definition: Arc<Definition>,
        /// What the execution was given: a JSON object.
        inputs: Arc<str>,
        /// What the task's placeholders may look at; `None`: it has none.
        filling: Option<Box<Filling>>,
    },
    /// End an attempt: SIGTERM, grace, SIGKILL.
    StopAttempt {
        /// Which.
        attempt: AttemptKey,
        /// Why.
        cause: StopCause,
    },
}

/// What the placeholders of a task may look at, but for what tasks before it left.
#[derive(Clone, Debug, PartialEq)]
pub struct Filling {
    /// The version that runs.
    pub version: u64,
    /// When the execution started.
    pub started_at: Timestamp,
    /// The execution's labels.
    pub labels: BTreeMap<String, String>,
    /// The tasks that they read, ascending.
    pub reads: Vec<TaskRead>,
}

/// How a task stands whose result another one reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskRead {
    /// Which task.
    pub task: TaskIndex,
    /// Where it stands.
    pub status: TaskStatus,
    /// Its attempts, interrupted ones too.
    pub attempts: u32,
    /// The execution whose result it has.
    pub source: ExecutionId,
    /// Revision of its end there; 0: to be looked for, or it left nothing.
    pub last_end: Revision,
}

/// Why noxd ends an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopCause {
    /// Its execution was cancelled.
    Cancelled,
    /// Its own time is up, or its silence was too long.
    TimedOut(TimeLimit),
    /// Its execution's time is up.
    ExecutionTimedOut,
}

/// Why a command was refused. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// No workflow of that id.
    #[error("workflow `{0}` does not exist; `noxctl workflow list` shows those that do")]
    WorkflowNotFound(WorkflowId),
    /// The id is taken.
    #[error("workflow `{0}` exists already; update it, or choose another id")]
    WorkflowExists(WorkflowId),
    /// Somebody else changed it first.
    #[error("workflow `{workflow}` has etag {current} now, not {given}; read it again and repeat the change")]
    EtagMismatch {
        /// Which.
        workflow: WorkflowId,
        /// What it has.
        current: String,
        /// What was given.
        given: String,
    },
    /// No execution of that id in that workflow.
    #[error("execution {execution} of workflow `{workflow}` does not exist")]
    ExecutionNotFound {
        /// Of which workflow.
        workflow: WorkflowId,
        /// Which.
        execution: ExecutionId,
    },
    /// No execution of that id.
    #[error("execution {0} does not exist")]
    NoSuchExecution(ExecutionId),
    /// No task of that id in that execution.
    #[error("execution {execution} has no task `{task}`")]
    TaskNotFound {
        /// Which execution.
        execution: ExecutionId,
        /// Which task.
        task: String,
    },
    /// What an execution was given is not what the workflow declares.
    #[error("the inputs do not fit workflow `{workflow}`")]
    InvalidInputs {
        /// Which workflow.
        workflow: WorkflowId,
        /// All faults.
        violations: Vec<Violation>,
    },
    /// The task does not wait for an answer.
    #[error("task `{task}` of execution {execution} does not wait for an answer: {why}")]
    NotWaiting {
        /// Which execution.
        execution: ExecutionId,
        /// Which task.
        task: String,
        /// What it is instead.
        why: String,
    },
    /// Another person must answer.
    #[error("`{actor}` may not answer task `{task}`; its approvers are {approvers}")]
    NotAnApprover {
        /// Which task.
        task: String,
        /// Who tried.
        actor: String,
        /// Who may.
        approvers: String,
    },
    /// No limit at all.
    #[error("{0}")]
    InvalidLimit(String),
    /// Not in this state.
    #[error("cannot {operation} workflow `{workflow}`: {why}")]
    InvalidWorkflowState {
        /// Which.
        workflow: WorkflowId,
        /// What was wanted.
        operation: &'static str,
        /// Why not, and what to do.
        why: String,
    },
    /// A report about an attempt that is not the live one.
    #[error("attempt {} of task {} in execution {} is not the live one", .0.attempt, .0.task, .0.execution)]
    StaleAttempt(AttemptKey),
    /// More would not fit into memory.
    #[error(
        "executions with {tasks} tasks run or wait already, and more cannot be queued; try again when some have ended"
    )]
    QueueFull {
        /// How many tasks they have.
        tasks: usize,
    },
    /// noxd is shutting down.
    #[error("noxd is shutting down; try again when it is back")]
    Draining,
}

/// What a command that was accepted answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A workflow was changed, to this version.
    Workflow {
        /// Which.
        workflow: WorkflowId,
        /// Its version since.
        version: u64,
    },
    /// Executions that were started, or that a control is about.
    Executions(Vec<ExecutionId>),
    /// A fact was taken.
    Taken,
}
