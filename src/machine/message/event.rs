//! What is remembered: the only thing that changes state. Every choice that was made is in it.

use std::{collections::BTreeMap, sync::Arc};

use super::{ErrorKind, Output, ProcessIdentity, Trigger, WorkflowRecord};
use crate::machine::{
    expected::Expected,
    ids::{Actor, Elapsed, ExecutionId, Revision, ScheduleId, TaskIndex, TemplateId, Timestamp, WorkflowId},
    parallel::LimitName,
    schedule::{Outcome, OverlapPolicy, ScheduleRecord, Upcoming},
    task::TaskStatus,
    template::TemplateRecord,
    workflow::{RetrySpec, Role},
};

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
    /// A template was stored or deleted.
    TemplateChanged {
        /// Which.
        template: TemplateId,
        /// What was done.
        change: WorkflowChange,
        /// The version since.
        version: u64,
        /// The record since; not kept in the history, which has the version rows for it.
        record: Option<Arc<TemplateRecord>>,
    },
    /// A schedule was stored, changed, paused, resumed or deleted.
    ScheduleChanged {
        /// Which.
        schedule: ScheduleId,
        /// What was done.
        change: ScheduleChange,
        /// The version since.
        version: u64,
        /// The record since; not kept in the history, which has its rows for it.
        record: Option<Arc<ScheduleRecord>>,
    },
    /// Something became of a nominal time of a schedule.
    ScheduleAdvanced {
        /// Which.
        schedule: ScheduleId,
        /// The nominal time; the last one, where there are several; of a call, when it came.
        nominal: Timestamp,
        /// What became of it.
        outcome: Outcome,
        /// The first time that nothing was decided about.
        next: Option<Upcoming>,
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
        reused: Arc<[Reused]>,
        /// How long it and its tasks are expected to take, by executions that had ended.
        expected: Option<Arc<Expected>>,
        /// When tasks are tried again that do not say so themselves.
        retry: Option<Arc<RetrySpec>>,
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
        /// Which limit held it up, the last one where there were several.
        held_up_by: Option<LimitName>,
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
            Self::WorkflowChanged { record, .. } => record.as_ref().map_or(0, |record| {
                record.content.weight() + record.origin.as_ref().map_or(0, |origin| origin.parameters.len())
            }),
            Self::TemplateChanged { record, .. } => record.as_ref().map_or(0, |record| record.spec.weight()),
            Self::ScheduleChanged { change, record, .. } => {
                let note = if let ScheduleChange::Paused { note } = change { 2 * note.len() } else { 0 };
                note + record.as_ref().map_or(0, |record| record.spec.weight() + record.course.weight())
            }
            // Its head is written once a batch.
            Self::ScheduleAdvanced { outcome: Outcome::Skipped { reason, .. }, .. } => reason.len(),
            // Once in the event and once in the summary.
            Self::ExecutionStarted { labels, inputs, reused, expected, retry, .. } => {
                let expected = expected.as_ref().map_or(0, |expected| 5 * expected.tasks_micros().len());
                let retry = retry.as_ref().map_or(0, |retry| retry.weight());
                2 * labels_weight(labels) + inputs.len() + 6 * reused.len() + expected + retry
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

/// A task that keeps the result that it has in the execution that is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reused {
    /// Which task.
    pub task: TaskIndex,
    /// The status that it keeps.
    pub status: TaskStatus,
    /// How many attempts it took there, interrupted ones too.
    pub attempts: u32,
}

pub(super) fn labels_weight(labels: &BTreeMap<String, String>) -> usize {
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

/// What was done to a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScheduleChange {
    /// First stored.
    Created,
    /// Another version.
    Updated,
    /// Deleted.
    Deleted,
    /// It starts nothing from here.
    Paused {
        /// Why, in a person's words.
        note: String,
    },
    /// It goes on.
    Resumed,
    /// Somebody wants times of the past made up.
    BackfillRequested {
        /// Times after this.
        from: Timestamp,
        /// Up to this one, and it.
        to: Timestamp,
        /// How many.
        count: u64,
        /// ALLOW_ALL or BUFFER_ALL.
        overlap: OverlapPolicy,
    },
    /// What was left of that is not to be made up.
    BackfillCancelled {
        /// How many times.
        count: u64,
    },
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
    /// For a slot, since a limit was reached.
    pub limit: u64,
    /// For its turn, with no limit in its way: noxd was starting, shutting down, or out of disk.
    pub queue: u64,
}
