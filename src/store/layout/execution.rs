//! Executions as rows: the summary that lists show, and the snapshot that loading begins with.

use std::{collections::BTreeMap, sync::Arc};

use prost::Message as _;

use super::{
    LayoutError, TriggerFields, decode_trigger,
    definition::{decode_retry, encode_retry},
    durations::{decode_expected, encode_expected},
    encode_trigger, rows, unreadable,
};
use crate::machine::{
    execution::{CutShort, Derived, Execution, ExecutionStatus},
    ids::{Actor, Elapsed, ExecutionId, Revision, TaskIndex, Timestamp, WorkflowId},
    message::{StopCause, TimeLimit, Trigger},
    progress::Counts,
    state::Mark,
    task::{TaskState, TaskStatus},
    workflow::{Definition, Role},
};

/// What lists show of an execution. It is written when the execution starts, is paused, resumed or cancelled, and ends:
/// while it runs, its counts are those of then.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Which.
    pub id: ExecutionId,
    /// Of which workflow.
    pub workflow: WorkflowId,
    /// Of which version.
    pub version: u64,
    /// Where it stands.
    pub status: ExecutionStatus,
    /// What started it.
    pub trigger: Trigger,
    /// Who asked for it.
    pub created_by: Actor,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// When it started.
    pub started_at: Timestamp,
    /// When a cancel was asked for.
    pub cancel_requested_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// The `execution_timeout` that it ran into, in microseconds.
    pub timed_out_micros: Option<u64>,
    /// How many tasks are in each status.
    pub counts: Counts,
    /// The first failure: which task, and the revision of its end.
    pub first_failure: Option<(TaskIndex, Revision)>,
    /// Its newest event.
    pub revision: Revision,
}

/// The summary row of an execution.
pub fn encode_summary(execution: &Execution) -> Vec<u8> {
    summary_row(execution).encode_to_vec()
}

/// Reads a summary.
///
/// # Errors
/// Where the bytes are no summary.
pub fn decode_summary(id: ExecutionId, bytes: &[u8]) -> Result<Summary, LayoutError> {
    let row = rows::ExecutionSummary::decode(bytes).map_err(|error| unreadable(format!("execution {id}"), error))?;
    summary_of(id, &row)
}

/// The snapshot row of an execution.
pub fn encode_snapshot(execution: &Execution) -> Vec<u8> {
    rows::ExecutionSnapshot {
        summary: Some(summary_row(execution)),
        tasks: execution.tasks.iter().map(encode_task).collect(),
        inputs: execution.inputs.to_string(),
        cancels_finally: execution.cancels_finally,
        failed_fast: execution.cut_short == Some(CutShort::FailFast),
        deadline: execution.deadline.map(|at| at.0),
        handlers_started: execution.handlers_started.iter().map(|role| *role as u32).collect(),
        expected: execution.expected.as_deref().map(encode_expected),
        retry: execution.retry.as_deref().map(encode_retry),
    }
    .encode_to_vec()
}

/// Reads a snapshot. The definition is asked for by workflow and version.
///
/// # Errors
/// Where the bytes are no snapshot, or are not of this definition.
pub fn decode_snapshot<E: From<LayoutError>>(
    id: ExecutionId,
    bytes: &[u8],
    definition: impl FnOnce(&WorkflowId, u64) -> Result<Arc<Definition>, E>,
) -> Result<Execution, E> {
    let what = || format!("the snapshot of execution {id}");
    let row = rows::ExecutionSnapshot::decode(bytes).map_err(|error| unreadable(what(), error))?;
    let summary_row = row.summary.ok_or_else(|| unreadable(what(), "it has no summary"))?;
    let summary = summary_of(id, &summary_row)?;
    let definition = definition(&summary.workflow, summary.version)?;
    if definition.task_count() != row.tasks.len() {
        let words = format!("it has {} tasks, its definition {}", row.tasks.len(), definition.task_count());
        return Err(unreadable(what(), words).into());
    }
    let tasks: Vec<TaskState> = row
        .tasks
        .iter()
        .map(|task| decode_task(task).ok_or_else(|| unreadable(what(), "a task has an unknown status")))
        .collect::<Result<_, _>>()?;
    let timed_out = summary_row.timed_out.map(|timeout_micros| CutShort::TimedOut { timeout_micros });
    let handlers = |number: &u32| Role::ALL.into_iter().find(|role| *role as u32 == *number);
    let mut execution = Execution {
        id,
        workflow: summary.workflow,
        version: summary.version,
        definition,
        status: summary.status,
        trigger: summary.trigger,
        created_by: summary.created_by,
        labels: summary.labels,
        started_at: summary.started_at,
        cancel_requested_at: summary.cancel_requested_at,
        ended_at: summary.ended_at,
        paused_at: summary_row.paused_at.map(Timestamp),
        paused_micros: summary_row.paused,
        inputs: if row.inputs.is_empty() { "{}".into() } else { row.inputs.into() },
        cancels_finally: row.cancels_finally,
        cut_short: timed_out.or_else(|| row.failed_fast.then_some(CutShort::FailFast)),
        deadline: row.deadline.map(Elapsed),
        handlers_started: row.handlers_started.iter().filter_map(handlers).collect(),
        tasks,
        expected: row.expected.and_then(decode_expected),
        retry: row.retry.map(|retry| Arc::new(decode_retry(retry))),
        derived: Derived::default(),
        first_failure: summary.first_failure,
        revision: summary.revision,
        events_since_snapshot: 0,
    };
    execution.derive();
    Ok(execution)
}

/// What is known of an execution that has nothing to do for now, without loading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dormant {
    /// Of which workflow.
    pub workflow: WorkflowId,
    /// RUNNING or PAUSED.
    pub status: ExecutionStatus,
    /// When its first deadline is due.
    pub wake: Option<Elapsed>,
}

/// The row of an execution that has not ended.
pub fn encode_mark(workflow: &WorkflowId, status: ExecutionStatus, mark: Mark) -> Vec<u8> {
    match mark {
        Mark::Hot => Vec::new(),
        Mark::Dormant { wake } => rows::AliveRow {
            dormant: true,
            workflow: workflow.as_str().into(),
            paused: status == ExecutionStatus::Paused,
            wake: wake.map(|at| at.0),
        }
        .encode_to_vec(),
    }
}

/// What the row of an execution that has not ended says; `None`: it has work, and must be loaded.
///
/// # Errors
/// Where it is no such row.
pub fn decode_mark(id: ExecutionId, bytes: &[u8]) -> Result<Option<Dormant>, LayoutError> {
    let what = || format!("the mark of execution {id}");
    let row = rows::AliveRow::decode(bytes).map_err(|error| unreadable(what(), error))?;
    if !row.dormant {
        return Ok(None);
    }
    Ok(Some(Dormant {
        workflow: WorkflowId::parse(&row.workflow).map_err(|why| unreadable(what(), why))?,
        status: if row.paused { ExecutionStatus::Paused } else { ExecutionStatus::Running },
        wake: row.wake.map(Elapsed),
    }))
}

fn summary_row(execution: &Execution) -> rows::ExecutionSummary {
    let trigger = encode_trigger(&execution.trigger);
    rows::ExecutionSummary {
        workflow: execution.workflow.as_str().into(),
        version: execution.version,
        status: match execution.status {
            ExecutionStatus::Running => 1,
            ExecutionStatus::Paused => 2,
            ExecutionStatus::Completed => 3,
            ExecutionStatus::Failed => 4,
            ExecutionStatus::Cancelled => 5,
        },
        started_at: execution.started_at.0,
        ended_at: execution.ended_at.map(|at| at.0),
        labels: execution.labels.clone().into_iter().collect(),
        trigger: trigger.number,
        rerun_of: trigger.rerun_of,
        schedule: trigger.schedule,
        nominal: trigger.nominal,
        backfill: trigger.backfill,
        timed_out: match execution.cut_short {
            Some(CutShort::TimedOut { timeout_micros }) => Some(timeout_micros),
            _ => None,
        },
        created_by: execution.created_by.as_str().into(),
        cancel_requested_at: execution.cancel_requested_at.map(|at| at.0),
        counts: TaskStatus::ALL.iter().map(|status| execution.counts().of(*status)).collect(),
        revision: execution.revision,
        first_failure: execution.first_failure.map(|(task, revision)| rows::Failure { task, revision }),
        paused: execution.paused_micros,
        paused_at: execution.paused_at.map(|at| at.0),
    }
}

fn summary_of(id: ExecutionId, row: &rows::ExecutionSummary) -> Result<Summary, LayoutError> {
    let what = || format!("execution {id}");
    let status = match row.status {
        1 => ExecutionStatus::Running,
        2 => ExecutionStatus::Paused,
        3 => ExecutionStatus::Completed,
        4 => ExecutionStatus::Failed,
        5 => ExecutionStatus::Cancelled,
        other => return Err(unreadable(what(), format!("status {other} is unknown"))),
    };
    let trigger = TriggerFields {
        number: row.trigger,
        rerun_of: row.rerun_of.clone(),
        schedule: row.schedule.clone(),
        nominal: row.nominal,
        backfill: row.backfill,
    };
    let mut counts = Counts::default();
    for (status, count) in TaskStatus::ALL.iter().zip(&row.counts) {
        counts.add_many(*status, *count);
    }
    Ok(Summary {
        id,
        workflow: WorkflowId::parse(&row.workflow).map_err(|why| unreadable(what(), why))?,
        version: row.version,
        status,
        trigger: decode_trigger(&trigger)
            .ok_or_else(|| unreadable(what(), format!("trigger {} is unknown", row.trigger)))?,
        timed_out_micros: row.timed_out,
        created_by: Actor::from_text(&row.created_by),
        labels: row.labels.clone().into_iter().collect(),
        started_at: Timestamp(row.started_at),
        cancel_requested_at: row.cancel_requested_at.map(Timestamp),
        ended_at: row.ended_at.map(Timestamp),
        counts,
        first_failure: row.first_failure.as_ref().map(|failure| (failure.task, failure.revision)),
        revision: row.revision,
    })
}

fn encode_task(state: &TaskState) -> rows::TaskSnapshot {
    rows::TaskSnapshot {
        status: state.status as u32,
        attempt: state.attempt,
        interruptions: state.interruptions,
        stopping: match state.stopping {
            None => 0,
            Some(StopCause::Cancelled) => 1,
            Some(StopCause::TimedOut(TimeLimit::Attempt)) => 2,
            Some(StopCause::TimedOut(TimeLimit::Idle)) => 3,
            Some(StopCause::ExecutionTimedOut) => 4,
        },
        deadline: state.deadline.map(|at| at.0),
        blocked_by: state.blocked_by.map_or(0, |task| task + 1),
        ready_at: state.ready_at.0,
        queued_at: state.queued_at.0,
        paused_before: state.paused_before,
        started_at: state.started_at.map(|at| at.0),
        attempt_started_at: state.attempt_started_at.0,
        completed_at: state.completed_at.map(|at| at.0),
        pid: state.pid,
        last_end: state.last_end,
        deadline_at: state.deadline_at.0,
        queued_since: state.queued_since.0,
        backoff: state.backoff_micros,
        reused: state.reused,
    }
}

fn decode_task(row: &rows::TaskSnapshot) -> Option<TaskState> {
    Some(TaskState {
        status: TaskStatus::from_number(u8::try_from(row.status).ok()?)?,
        remaining: 0,
        skipped: 0,
        failed: 0,
        broken: false,
        attempt: row.attempt,
        interruptions: row.interruptions,
        stopping: match row.stopping {
            1 => Some(StopCause::Cancelled),
            2 => Some(StopCause::TimedOut(TimeLimit::Attempt)),
            3 => Some(StopCause::TimedOut(TimeLimit::Idle)),
            4 => Some(StopCause::ExecutionTimedOut),
            _ => None,
        },
        deadline: row.deadline.map(Elapsed),
        blocked_by: row.blocked_by.checked_sub(1),
        ready_at: Timestamp(row.ready_at),
        queued_at: Timestamp(row.queued_at),
        paused_before: row.paused_before,
        started_at: row.started_at.map(Timestamp),
        attempt_started_at: Timestamp(row.attempt_started_at),
        completed_at: row.completed_at.map(Timestamp),
        pid: row.pid,
        last_end: row.last_end,
        deadline_at: Timestamp(row.deadline_at),
        queued_since: Elapsed(row.queued_since),
        backoff_micros: row.backoff,
        reused: row.reused,
    })
}
