//! Executions, tasks and attempts as clients see them.

use pbjson_types::value::Kind;
use prost::Message as _;

use super::{
    definition::{render_retry, status},
    duration,
    ends::Ends,
    timestamp,
};
use crate::{
    engine::{
        clock::wall_now,
        read::{ReadError, Reads},
        recent::Shown,
    },
    machine::{
        attempt::seconds,
        execution::{CutShort, Execution, ExecutionStatus},
        explain::Blocker,
        ids::{Revision, TaskIndex, Timestamp},
        message::{AttemptResult, ErrorKind, Event, Output, Recorded, TaskEnd, TaskError, Trigger},
        progress::{Counts, estimate, percent},
        task::{TaskState, TaskStatus, remedy},
    },
    proto::v1,
    store::layout::Summary,
};

/// Tasks up to which an execution shows them all.
pub const SHOWN_TASKS: usize = 1_000;

/// An execution with its tasks, or with their counts alone where there are too many.
///
/// # Errors
/// Where the store cannot be read; so for all below.
pub fn whole(execution: &Execution, reads: &Reads) -> Result<v1::WorkflowExecution, ReadError> {
    let mut shown = without_tasks(execution, reads)?;
    if execution.tasks.len() <= SHOWN_TASKS {
        shown.tasks = tasks(execution, &Ends::read(execution, reads)?);
    }
    Ok(shown)
}

/// An execution with its tasks, from what the writer had at hand.
pub fn whole_at_hand(shown: &Shown) -> v1::WorkflowExecution {
    v1::WorkflowExecution { tasks: tasks(&shown.execution, &Ends::of_all(&shown.ends)), ..without_tasks_at_hand(shown) }
}

fn tasks(execution: &Execution, ends: &Ends) -> Vec<v1::TaskExecution> {
    let mut room = Room::of_answer();
    let tasks = (0..).zip(&execution.tasks);
    tasks.map(|(task, _)| room.fit(one_task(execution, task, ends))).collect()
}

/// An execution without its tasks.
pub fn without_tasks(execution: &Execution, reads: &Reads) -> Result<v1::WorkflowExecution, ReadError> {
    let failure = match first_failure(execution) {
        Some(revision) => reads.event_at(execution.id, revision)?,
        None => None,
    };
    Ok(bare(execution, failure.as_ref()))
}

/// An execution without its tasks, from what the writer had at hand.
pub fn without_tasks_at_hand(shown: &Shown) -> v1::WorkflowExecution {
    let failure = first_failure(&shown.execution);
    let failure = shown.ends.iter().find(|recorded| Some(recorded.revision) == failure);
    bare(&shown.execution, failure.map(AsRef::as_ref))
}

/// The revision of what made an execution fail.
fn first_failure(execution: &Execution) -> Option<Revision> {
    execution.first_failure.filter(|_| execution.status == ExecutionStatus::Failed).map(|(_, revision)| revision)
}

fn bare(execution: &Execution, failure: Option<&Recorded>) -> v1::WorkflowExecution {
    let mut shown = summarised(
        &Summary {
            id: execution.id,
            workflow: execution.workflow.clone(),
            version: execution.version,
            status: execution.status,
            trigger: execution.trigger.clone(),
            created_by: execution.created_by.clone(),
            labels: execution.labels.clone(),
            started_at: execution.started_at,
            cancel_requested_at: execution.cancel_requested_at,
            ended_at: execution.ended_at,
            counts: execution.counts().clone(),
            first_failure: execution.first_failure,
            timed_out_micros: match execution.cut_short {
                Some(CutShort::TimedOut { timeout_micros }) => Some(timeout_micros),
                _ => None,
            },
            revision: execution.revision,
        },
        None,
    );
    let v1::ExecutionProgress { progress, eta, estimate_basis, estimated_from, .. } = progress(execution, wall_now());
    (shown.progress, shown.eta) = (progress, eta);
    (shown.estimate_basis, shown.estimated_from) = (estimate_basis, estimated_from);
    shown.inputs = inputs_of(&execution.inputs);
    shown.retry_config = execution.retry.as_deref().map(render_retry);
    if let (ExecutionStatus::Failed, Some(CutShort::TimedOut { timeout_micros })) =
        (execution.status, execution.cut_short)
    {
        shown.error = Some(out_of_time(timeout_micros));
    } else if let (Some((task, _)), Some(failure)) = (execution.first_failure, failure) {
        shown.error = failure_of(&execution.definition.task(task).id, failure);
    }
    shown
}

/// How far an execution is.
pub fn progress(execution: &Execution, now: Timestamp) -> v1::ExecutionProgress {
    let executions = execution.expected.as_ref().map_or(0, |expected| expected.executions());
    let (basis, estimated_from) = match (execution.status.is_terminal(), executions) {
        (true, _) => (v1::EstimateBasis::Unspecified, 0),
        (false, 0) => (v1::EstimateBasis::Count, 0),
        (false, executions) => (v1::EstimateBasis::History, executions),
    };
    v1::ExecutionProgress {
        progress: percent(execution),
        eta: estimate(execution, now).map(|estimate| timestamp(estimate.at)),
        estimate_basis: basis as i32,
        estimated_from,
        task_counts: Some(counts(execution.counts())),
    }
}

/// An execution as lists show it.
pub fn summarised(summary: &Summary, error: Option<v1::ExecutionError>) -> v1::WorkflowExecution {
    v1::WorkflowExecution {
        id: summary.id.to_string(),
        workflow_id: summary.workflow.as_str().into(),
        workflow_version: summary.version,
        status: status(summary.status) as i32,
        cancel_requested_at: summary.cancel_requested_at.map(timestamp),
        trigger: trigger(&summary.trigger) as i32,
        rerun_of: rerun_of(&summary.trigger),
        schedule_id: schedule_of(&summary.trigger),
        scheduled_for: scheduled_for(&summary.trigger),
        backfill: is_backfill(&summary.trigger),
        progress: summary.counts.percent(summary.status.is_terminal()),
        created_at: Some(timestamp(summary.started_at)),
        started_at: Some(timestamp(summary.started_at)),
        completed_at: summary.ended_at.map(timestamp),
        error,
        labels: summary.labels.clone().into_iter().collect(),
        task_counts: Some(counts(&summary.counts)),
        revision: summary.revision,
        created_by: summary.created_by.as_str().into(),
        ..v1::WorkflowExecution::default()
    }
}

/// What started an execution, as clients see it.
pub fn trigger(trigger: &Trigger) -> v1::ExecutionTrigger {
    match trigger {
        Trigger::Manual => v1::ExecutionTrigger::Manual,
        Trigger::Rerun(_) => v1::ExecutionTrigger::Rerun,
        Trigger::Schedule { .. } => v1::ExecutionTrigger::Schedule,
    }
}

/// The execution that is repeated; empty: none.
pub fn rerun_of(trigger: &Trigger) -> String {
    if let Trigger::Rerun(source) = trigger { source.to_string() } else { String::new() }
}

/// The schedule that started it; empty: none.
pub fn schedule_of(trigger: &Trigger) -> String {
    if let Trigger::Schedule { schedule, .. } = trigger { schedule.as_str().into() } else { String::new() }
}

/// The nominal time that it is for.
pub fn scheduled_for(trigger: &Trigger) -> Option<pbjson_types::Timestamp> {
    if let Trigger::Schedule { nominal, .. } = trigger { nominal.map(timestamp) } else { None }
}

/// Whether somebody had that time made up.
pub fn is_backfill(trigger: &Trigger) -> bool {
    matches!(trigger, Trigger::Schedule { backfill: true, .. })
}

/// What an execution was given; absent where that is nothing.
pub fn inputs_of(json: &str) -> Option<pbjson_types::Struct> {
    match serde_json::from_str(json).map(kind_of) {
        Ok(Kind::StructValue(inputs)) if !inputs.fields.is_empty() => Some(inputs),
        _ => None,
    }
}

/// The error of an execution that ran into its `execution_timeout`.
pub fn out_of_time(timeout_micros: u64) -> v1::ExecutionError {
    let message = format!("the execution ran into its `execution_timeout` of {}", seconds(timeout_micros));
    let task_error = v1::TaskError {
        kind: ErrorKind::Timeout.as_str().into(),
        message: message.clone(),
        remedy: "raise `execution_timeout`, or see which task took long".into(),
        ..v1::TaskError::default()
    };
    v1::ExecutionError { task_id: String::new(), message, task_error: Some(task_error) }
}

/// Counts as clients see them.
pub fn counts(counts: &Counts) -> v1::TaskCounts {
    let of = |status| counts.of(status);
    v1::TaskCounts {
        total: counts.total(),
        pending: of(TaskStatus::Pending),
        waiting: of(TaskStatus::Waiting),
        queued: of(TaskStatus::Queued),
        running: of(TaskStatus::Running),
        retrying: of(TaskStatus::Retrying),
        completed: of(TaskStatus::Completed),
        failed: of(TaskStatus::Failed),
        timed_out: of(TaskStatus::TimedOut),
        skipped: of(TaskStatus::Skipped),
        blocked: of(TaskStatus::Blocked),
        cancelled: of(TaskStatus::Cancelled),
    }
}

/// A task's status as clients see it: the numbers are the same.
pub fn task_status(status: TaskStatus) -> v1::TaskStatus {
    match status {
        TaskStatus::Pending => v1::TaskStatus::Pending,
        TaskStatus::Waiting => v1::TaskStatus::Waiting,
        TaskStatus::Queued => v1::TaskStatus::Queued,
        TaskStatus::Running => v1::TaskStatus::Running,
        TaskStatus::Retrying => v1::TaskStatus::Retrying,
        TaskStatus::Completed => v1::TaskStatus::Completed,
        TaskStatus::Failed => v1::TaskStatus::Failed,
        TaskStatus::TimedOut => v1::TaskStatus::TimedOut,
        TaskStatus::Skipped => v1::TaskStatus::Skipped,
        TaskStatus::Blocked => v1::TaskStatus::Blocked,
        TaskStatus::Cancelled => v1::TaskStatus::Cancelled,
    }
}

/// A task as it stands in an execution.
pub fn one_task(execution: &Execution, task: TaskIndex, ends: &Ends) -> v1::TaskExecution {
    let definition = &execution.definition;
    let (spec, state, graph) = (definition.task(task), &execution.tasks[task as usize], definition.graph());
    let name = |index: &TaskIndex| definition.task(*index).id.clone();
    let ended = ends.of(task);
    let attempts = ended.iter().filter_map(|recorded| attempt_of(recorded));
    let mut attempts: Vec<v1::TaskAttempt> = attempts.filter(|one| one.number > 0).collect();
    if state.status == TaskStatus::Running {
        attempts.push(running_attempt(state));
    }
    let last = ended.last().map(AsRef::as_ref);
    let (output, output_size) = output_of(last);
    v1::TaskExecution {
        task_id: spec.id.clone(),
        agent_id: spec.agent_id.clone(),
        status: task_status(state.status) as i32,
        progress: if state.status.is_terminal() { 100 } else { 0 },
        created_at: Some(timestamp(execution.started_at)),
        started_at: state.started_at.map(timestamp),
        completed_at: state.completed_at.map(timestamp),
        error: task_error(state, last, state.blocked_by.as_ref().map(name).as_deref()),
        attempts,
        output: output.as_ref().map(value_of),
        blocked_by: state.blocked_by.as_ref().map(name).unwrap_or_default(),
        waiting_for: waiting_for(execution, task),
        dependencies: graph.dependencies(task).iter().map(name).collect(),
        dependents: graph.dependents(task).iter().map(name).collect(),
        output_size,
        output_truncated: output.is_some_and(|output| output.size > output.json.len() as u64),
        title: spec.title.clone(),
        role: definition.role(task).as_str().into(),
        reused: state.reused,
    }
}

/// Something that a task waits for.
pub fn blocker(blocker: &Blocker) -> v1::TaskBlocker {
    v1::TaskBlocker {
        kind: blocker.kind.as_str().into(),
        description: blocker.description.clone(),
        since: Some(timestamp(blocker.since)),
        until: blocker.until.map(timestamp),
    }
}

/// An output as free JSON. The beginning of one that is longer is shown as text.
pub fn value_of(output: &Output) -> pbjson_types::Value {
    let kind = match serde_json::from_str(&output.json) {
        Ok(json) => kind_of(json),
        Err(_) => Kind::StringValue(beginning(&output.json)),
    };
    pbjson_types::Value { kind: Some(kind) }
}

/// A whole number that a double cannot hold exactly becomes text: nothing is lost.
pub(super) fn kind_of(json: serde_json::Value) -> Kind {
    const EXACT: u64 = 1 << 53;
    let value = |json| pbjson_types::Value { kind: Some(kind_of(json)) };
    match json {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(flag) => Kind::BoolValue(flag),
        serde_json::Value::Number(number) => {
            let whole = number.as_u64().or_else(|| number.as_i64().map(i64::unsigned_abs));
            match number.as_f64() {
                Some(float) if whole.is_none_or(|whole| whole <= EXACT) => Kind::NumberValue(float),
                _ => Kind::StringValue(number.to_string()),
            }
        }
        serde_json::Value::String(text) => Kind::StringValue(text),
        serde_json::Value::Array(values) => {
            Kind::ListValue(pbjson_types::ListValue { values: values.into_iter().map(value).collect() })
        }
        serde_json::Value::Object(entries) => {
            let fields = entries.into_iter().map(|(key, json)| (key, value(json))).collect();
            Kind::StructValue(pbjson_types::Struct { fields })
        }
    }
}

/// Keeps an answer with many tasks within what clients take without being told to: beyond this many bytes, tasks are
/// shown without outputs, without the tails of standard error, and without their edges where there are many.
const SHOWN_BYTES: usize = 3 * 1_024 * 1_024;

/// Edges of a task that are shown whatever the room.
const FEW_EDGES: usize = 16;

/// Bytes that an answer has left for details.
pub struct Room(usize);

impl Room {
    /// Of a whole answer.
    pub fn of_answer() -> Self {
        Self(SHOWN_BYTES)
    }

    /// The task, without its details where there is no room for them any more: GetTask has them.
    pub fn fit(&mut self, mut task: v1::TaskExecution) -> v1::TaskExecution {
        let size = task.encoded_len();
        if size <= self.0 {
            self.0 -= size;
            return task;
        }
        task.output_truncated |= task.output.take().is_some();
        if task.dependencies.len() + task.dependents.len() > FEW_EDGES {
            task.dependencies.clear();
            task.dependents.clear();
        }
        let errors = task.attempts.iter_mut().filter_map(|attempt| attempt.error.as_mut()).chain(task.error.as_mut());
        errors.for_each(|error| error.stderr_tail.clear());
        task
    }
}

/// Of a string that was cut, what it says; of anything else, the JSON text.
fn beginning(json: &str) -> String {
    // A cut may fall into an escape, which has at most 12 characters where it is a pair.
    let ends = (0..=12.min(json.len())).filter_map(|cut| json.get(..json.len() - cut));
    let closed =
        ends.filter(|_| json.starts_with('"')).find_map(|text| serde_json::from_str(&format!("{text}\"")).ok());
    closed.unwrap_or_else(|| json.to_string())
}

/// An attempt that is over.
pub fn attempt_of(recorded: &Recorded) -> Option<v1::TaskAttempt> {
    let Event::TaskEnded { attempt, end, result, .. } = &recorded.event else { return None };
    let timed_out = result.error.as_ref().is_some_and(|error| error.kind == ErrorKind::Timeout);
    let next_retry_at = match end {
        TaskEnd::Retrying { delay_micros } => Some(recorded.time.0.saturating_add_unsigned(*delay_micros)),
        _ => None,
    };
    Some(v1::TaskAttempt {
        number: *attempt,
        status: match end {
            TaskEnd::Completed => v1::TaskStatus::Completed,
            TaskEnd::TimedOut => v1::TaskStatus::TimedOut,
            TaskEnd::Retrying { .. } if timed_out => v1::TaskStatus::TimedOut,
            TaskEnd::Failed | TaskEnd::Retrying { .. } => v1::TaskStatus::Failed,
            TaskEnd::Cancelled | TaskEnd::Interrupted => v1::TaskStatus::Cancelled,
        } as i32,
        started_at: Some(timestamp(result.started_at)),
        completed_at: Some(timestamp(recorded.time)),
        error: result.error.as_ref().map(|error| error_of(error, result)),
        cpu_time: result.cpu_micros.map(duration),
        peak_memory_bytes: result.peak_memory_bytes.unwrap_or(0),
        next_retry_at: next_retry_at.map(|at| timestamp(Timestamp(at))),
        exit_code: result.exit_code,
        pid: 0,
    })
}

/// The first failure of an execution, in one sentence.
pub fn failure_of(task_id: &str, recorded: &Recorded) -> Option<v1::ExecutionError> {
    let Event::TaskEnded { result, .. } = &recorded.event else { return None };
    let error = result.error.as_ref()?;
    Some(v1::ExecutionError {
        task_id: task_id.into(),
        message: format!("task `{task_id}` failed: {}", error.message),
        task_error: Some(error_of(error, result)),
    })
}

fn running_attempt(state: &TaskState) -> v1::TaskAttempt {
    v1::TaskAttempt {
        number: state.attempt,
        status: v1::TaskStatus::Running as i32,
        started_at: Some(timestamp(state.attempt_started_at)),
        pid: state.pid,
        ..v1::TaskAttempt::default()
    }
}

fn error_of(error: &TaskError, result: &AttemptResult) -> v1::TaskError {
    v1::TaskError {
        kind: error.kind.as_str().into(),
        message: error.message.clone(),
        exit_code: result.exit_code,
        signal: error.signal,
        stderr_tail: error.stderr_tail.clone(),
        remedy: remedy(error, result.exit_code).into(),
    }
}

fn task_error(state: &TaskState, last: Option<&Recorded>, blocked_by: Option<&str>) -> Option<v1::TaskError> {
    if let Some(cause) = blocked_by {
        return Some(v1::TaskError {
            kind: "BLOCKED".into(),
            message: format!("not run, since task `{cause}` before it did not succeed"),
            remedy: format!("see why `{cause}` failed, then execute again"),
            ..v1::TaskError::default()
        });
    }
    let failed = matches!(state.status, TaskStatus::Failed | TaskStatus::TimedOut);
    let Event::TaskEnded { result, .. } = &last.filter(|_| failed)?.event else { return None };
    result.error.as_ref().map(|error| error_of(error, result))
}

fn output_of(last: Option<&Recorded>) -> (Option<Output>, u64) {
    let output = last.and_then(|recorded| match &recorded.event {
        Event::TaskEnded { result, .. } => result.output.clone(),
        _ => None,
    });
    let size = output.as_ref().map_or(0, |output| output.size);
    (output, size)
}

/// What a task waits for now, in words (S-DEP-5).
fn waiting_for(execution: &Execution, task: TaskIndex) -> Vec<String> {
    const NAMED: usize = 20;
    let state = &execution.tasks[task as usize];
    let mut words = Vec::new();
    match state.status {
        TaskStatus::Pending if !execution.has_turn(execution.definition.role(task)) => {
            words.push(format!("its turn: it is `{}`", execution.definition.role(task).as_str()));
        }
        TaskStatus::Pending => {
            let before = execution.definition.graph().dependencies(task).iter();
            let open = before.filter(|before| !execution.tasks[**before as usize].status.is_terminal());
            words.extend(open.take(NAMED).map(|before| format!("task `{}`", execution.definition.task(*before).id)));
            if state.remaining as usize > NAMED {
                words.push(format!("{} more tasks", state.remaining as usize - NAMED));
            }
        }
        TaskStatus::Queued if execution.status == ExecutionStatus::Paused => {
            words.push("the execution is paused".into());
        }
        TaskStatus::Waiting => words.push("a person's answer".into()),
        TaskStatus::Retrying => words.push(format!("the delay after attempt {}", state.attempt)),
        TaskStatus::Queued => words.push("a free slot; `noxctl execution explain` names the limit".into()),
        _ => {}
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_a_long_text_is_shown_as_text() {
        // S-DATA-1
        let shown = |json: &str| value_of(&Output { json: json.into(), size: 1_000_000 }).kind;
        let text = |text: &str| Some(Kind::StringValue(text.into()));
        assert_eq!(shown("\"two\\nlines and"), text("two\nlines and"));
        assert_eq!(shown("\"cut in an escape\\u00"), text("cut in an escape"));
        assert_eq!(shown("{\"a\": [1, 2"), text("{\"a\": [1, 2"));
        assert_eq!(shown("null"), Some(Kind::NullValue(0)));
        assert_eq!(shown("9007199254740993"), text("9007199254740993"));
    }

    #[test]
    fn an_answer_with_many_large_tasks_stays_within_what_clients_take() {
        let text = |length: usize| Some(pbjson_types::Value { kind: Some(Kind::StringValue("x".repeat(length))) });
        let error = || Some(v1::TaskError { stderr_tail: "y".repeat(4_096), ..v1::TaskError::default() });
        let task = || v1::TaskExecution {
            output: text(4_096),
            attempts: vec![v1::TaskAttempt { error: error(), ..v1::TaskAttempt::default() }; 3],
            ..v1::TaskExecution::default()
        };
        let mut room = Room::of_answer();
        let tasks: Vec<_> = (0..1_000).map(|_| room.fit(task())).collect();
        let size: usize = tasks.iter().map(prost::Message::encoded_len).sum();
        assert!((2_000_000..4_000_000).contains(&size), "{size}");
        assert!(tasks[0].output.is_some() && !tasks[0].output_truncated);
        assert!(tasks[999].output.is_none() && tasks[999].output_truncated);
    }
}
