//! Events as rows: one row has the events of one execution, or of one workflow, in one batch.

use std::sync::Arc;

use prost::Message as _;

use super::{
    LayoutError, Subject, TriggerFields, decode_trigger,
    definition::{decode_retry, encode_retry},
    durations::{decode_expected, encode_expected},
    encode_trigger, rows,
    schedule::{decode_advance, decode_schedule_change, encode_advance, encode_schedule_change},
    unreadable,
};
use crate::machine::{
    ids::{Actor, Elapsed, ScheduleId, TaskIndex, TemplateId, Timestamp, WorkflowId},
    message::{
        AttemptResult, ErrorKind, Event, ExecutionEnd, Output, ProcessIdentity, Recorded, Reused, TaskEnd, TaskError,
        TimeLimit, Waited, WorkflowChange,
    },
    parallel::LimitName,
    task::TaskStatus,
    workflow::Role,
};

/// Longest output that stands in its event whole, in bytes; of a longer one the event has so much.
pub const OUTPUT_PREVIEW_BYTES: usize = 4_096;

/// The row of some events of one subject.
pub fn encode_events<'a>(events: impl IntoIterator<Item = &'a Recorded>) -> Vec<u8> {
    rows::EventRow { events: events.into_iter().map(encode_event).collect() }.encode_to_vec()
}

/// The events in a row. `workflow` is the one that the subject belongs to.
///
/// # Errors
/// Where the bytes are no events.
pub fn decode_events(
    subject: &Subject,
    workflow: Option<&WorkflowId>,
    bytes: &[u8],
) -> Result<Vec<Recorded>, LayoutError> {
    let what = || match subject {
        Subject::Execution(id) => format!("events of execution {id}"),
        Subject::Workflow(id) => format!("events of workflow `{id}`"),
        Subject::Noxd => "noxd's own events".to_string(),
        Subject::Lost => "lost events".to_owned(),
    };
    let row = rows::EventRow::decode(bytes).map_err(|error| unreadable(what(), error))?;
    let execution = if let Subject::Execution(id) = subject { Some(*id) } else { None };
    row.events
        .into_iter()
        .map(|event| {
            let revision = event.revision;
            Ok(Recorded {
                revision,
                time: Timestamp(event.time),
                elapsed: Elapsed(event.elapsed),
                actor: if event.actor.is_empty() { Actor::Noxd } else { Actor::from_text(&event.actor) },
                workflow: workflow.cloned(),
                execution,
                event: decode_kind(event).ok_or_else(|| {
                    unreadable(what(), format!("event {revision} is of a kind that this noxd does not know"))
                })?,
            })
        })
        .collect()
}

/// The output that an event leaves, where it is longer than what stands in the event.
pub fn whole_output(event: &Event) -> Option<(TaskIndex, &Arc<str>)> {
    let Event::TaskEnded { task, result, .. } = event else { return None };
    let output = result.output.as_ref()?;
    (output.json.len() > OUTPUT_PREVIEW_BYTES).then_some((*task, &output.json))
}

fn preview(json: &str) -> &str {
    &json[..json.floor_char_boundary(OUTPUT_PREVIEW_BYTES)]
}

fn encode_change(change: WorkflowChange) -> u32 {
    match change {
        WorkflowChange::Created => 1,
        WorkflowChange::Updated => 2,
        WorkflowChange::Deleted => 3,
    }
}

fn decode_change(number: u32) -> Option<WorkflowChange> {
    match number {
        1 => Some(WorkflowChange::Created),
        2 => Some(WorkflowChange::Updated),
        3 => Some(WorkflowChange::Deleted),
        _ => None,
    }
}

fn encode_event(recorded: &Recorded) -> rows::Event {
    use rows::event::Kind;
    let (task, attempt, kind) = match &recorded.event {
        Event::WorkflowChanged { change, version, .. } => {
            let change = encode_change(*change);
            (None, 0, Kind::WorkflowChanged(rows::WorkflowChanged { change, version: *version }))
        }
        Event::TemplateChanged { template, change, version, .. } => {
            let change = encode_change(*change);
            let template = template.as_str().into();
            (None, 0, Kind::TemplateChanged(rows::TemplateChanged { template, change, version: *version }))
        }
        Event::ScheduleChanged { schedule, change, version, .. } => {
            (None, 0, Kind::ScheduleChanged(encode_schedule_change(schedule, change, *version)))
        }
        Event::ScheduleAdvanced { schedule, nominal, outcome, next } => {
            (None, 0, Kind::ScheduleAdvanced(encode_advance(schedule, *nominal, outcome, *next)))
        }
        Event::ExecutionStarted { version, task_count, labels, trigger, inputs, reused, expected, retry } => {
            let trigger = encode_trigger(trigger);
            let kind = Kind::ExecutionStarted(rows::ExecutionStarted {
                workflow: recorded.workflow.as_ref().map(|id| id.as_str().to_string()).unwrap_or_default(),
                version: *version,
                task_count: *task_count,
                labels: labels.clone().into_iter().collect(),
                trigger: trigger.number,
                inputs: if &**inputs == NO_INPUTS { String::new() } else { inputs.to_string() },
                rerun_of: trigger.rerun_of,
                schedule: trigger.schedule,
                nominal: trigger.nominal,
                backfill: trigger.backfill,
                reused: reused.iter().map(|kept| kept.task).collect(),
                reused_statuses: reused.iter().map(|kept| kept.status as u8).collect(),
                reused_attempts: reused.iter().map(|kept| kept.attempts).collect(),
                expected: expected.as_deref().map(encode_expected),
                retry: retry.as_deref().map(encode_retry),
            });
            (None, 0, kind)
        }
        Event::ExecutionPaused => (None, 0, Kind::ExecutionPaused(rows::Nothing {})),
        Event::ExecutionResumed => (None, 0, Kind::ExecutionResumed(rows::Nothing {})),
        Event::ExecutionCancelRequested { running, finally_too: false } => {
            (None, 0, Kind::ExecutionCancelRequested(*running))
        }
        Event::ExecutionCancelRequested { running, finally_too: true } => {
            (None, 0, Kind::ExecutionCancelRequestedAgain(*running))
        }
        Event::ExecutionFailFast { cause, running } => (Some(*cause), 0, Kind::ExecutionFailFast(*running)),
        Event::ExecutionTimeoutReached { timeout_micros, running } => {
            let kind = rows::OutOfTime { timeout: *timeout_micros, running: *running };
            (None, 0, Kind::ExecutionTimeoutReached(kind))
        }
        Event::HandlersStarted { role } => (None, 0, Kind::HandlersStarted(encode_role(*role))),
        Event::TaskReady { task } => (Some(*task), 0, Kind::TaskReady(rows::Nothing {})),
        Event::ConditionError { task, expression, values, message } => {
            let kind = rows::ConditionError {
                expression: expression.clone(),
                values: values.clone(),
                message: message.clone(),
            };
            (Some(*task), 0, Kind::ConditionError(kind))
        }
        Event::ApprovalRequested { task } => (Some(*task), 0, Kind::ApprovalRequested(rows::Nothing {})),
        Event::ApprovalResolved { task, approved, comment } => {
            let kind = rows::Approval { approved: *approved, comment: comment.clone() };
            (Some(*task), 0, Kind::ApprovalResolved(kind))
        }
        Event::TaskRetryDue { task } => (Some(*task), 0, Kind::TaskRetryDue(rows::Nothing {})),
        Event::ExecutionEnded { end } => {
            let end = match end {
                ExecutionEnd::Completed => 1,
                ExecutionEnd::Failed => 2,
                ExecutionEnd::Cancelled => 3,
            };
            (None, 0, Kind::ExecutionEnded(end))
        }
        Event::TaskStarted { task, attempt, ready_at, queued_at, waited, held_up_by } => {
            let (limit, limit_of) = encode_limit_name(held_up_by.as_ref());
            let kind = Kind::TaskStarted(rows::TaskStarted {
                ready_at: ready_at.0,
                queued_at: queued_at.0,
                waited_dependency: waited.dependency,
                waited_pause: waited.pause,
                waited_limit: waited.limit,
                waited_backoff: waited.backoff,
                waited_queue: waited.queue,
                limit,
                limit_of,
            });
            (Some(*task), *attempt, kind)
        }
        Event::TaskSpawned { task, attempt, process } => {
            let kind = Kind::TaskSpawned(rows::Process {
                pid: process.pid,
                start_time: process.start_time,
                boot_id: process.boot_id.to_string(),
            });
            (Some(*task), *attempt, kind)
        }
        Event::TaskTimeoutReached { task, attempt, limit, timeout_micros } => {
            let kind = match limit {
                TimeLimit::Attempt => Kind::TaskTimeoutReached(*timeout_micros),
                TimeLimit::Idle => Kind::TaskSilent(*timeout_micros),
            };
            (Some(*task), *attempt, kind)
        }
        Event::TaskEnded { task, attempt, end, result } => {
            (Some(*task), *attempt, Kind::TaskEnded(encode_end(*end, result)))
        }
        Event::TasksBlocked { tasks, cause } => {
            (Some(*cause), 0, Kind::TasksBlocked(rows::Tasks { tasks: tasks.clone() }))
        }
        Event::TasksCancelled { tasks } => (None, 0, Kind::TasksCancelled(rows::Tasks { tasks: tasks.clone() })),
        Event::TasksSkipped { tasks, reason } => {
            (None, 0, Kind::TasksSkipped(rows::TasksSkipped { tasks: tasks.clone(), reason: reason.clone() }))
        }
        Event::ConcurrencyLimitSet { agent, limit } => {
            let agent = agent.as_ref().map(ToString::to_string).unwrap_or_default();
            (None, 0, Kind::ConcurrencyLimitSet(rows::ConcurrencyLimit { agent, limit: *limit }))
        }
    };
    rows::Event {
        revision: recorded.revision,
        time: recorded.time.0,
        elapsed: recorded.elapsed.0,
        actor: if recorded.actor == Actor::Noxd { String::new() } else { recorded.actor.as_str().into() },
        task: task.map_or(0, |task| task + 1),
        attempt,
        kind: Some(kind),
    }
}

fn decode_kind(row: rows::Event) -> Option<Event> {
    use rows::event::Kind;
    let (task, attempt) = (row.task.checked_sub(1), row.attempt);
    Some(match row.kind? {
        Kind::WorkflowChanged(row) => {
            Event::WorkflowChanged { change: decode_change(row.change)?, version: row.version, record: None }
        }
        Kind::TemplateChanged(row) => Event::TemplateChanged {
            template: TemplateId::parse(&row.template).ok()?,
            change: decode_change(row.change)?,
            version: row.version,
            record: None,
        },
        Kind::ScheduleChanged(row) => Event::ScheduleChanged {
            schedule: ScheduleId::parse(&row.schedule).ok()?,
            version: row.version,
            change: decode_schedule_change(row)?,
            record: None,
        },
        Kind::ScheduleAdvanced(row) => {
            let (schedule, nominal, outcome, next) = decode_advance(row)?;
            Event::ScheduleAdvanced { schedule, nominal, outcome, next }
        }
        Kind::ExecutionStarted(row) => Event::ExecutionStarted {
            version: row.version,
            task_count: row.task_count,
            labels: row.labels.into_iter().collect(),
            trigger: decode_trigger(&TriggerFields {
                number: row.trigger,
                rerun_of: row.rerun_of,
                schedule: row.schedule,
                nominal: row.nominal,
                backfill: row.backfill,
            })?,
            inputs: if row.inputs.is_empty() { NO_INPUTS.into() } else { row.inputs.into() },
            reused: {
                let statuses = row.reused_statuses.iter().map(|number| TaskStatus::from_number(*number));
                // Rows of earlier builds have no attempts.
                let attempts = row.reused_attempts.iter().copied().chain(std::iter::repeat(0));
                let tasks = row.reused.iter().zip(statuses).zip(attempts);
                let tasks =
                    tasks.map(|((task, status), attempts)| Some(Reused { task: *task, status: status?, attempts }));
                tasks.collect::<Option<Vec<_>>>()?.into()
            },
            expected: row.expected.and_then(decode_expected),
            retry: row.retry.map(|retry| Arc::new(decode_retry(retry))),
        },
        Kind::ExecutionPaused(_) => Event::ExecutionPaused,
        Kind::ExecutionResumed(_) => Event::ExecutionResumed,
        Kind::ExecutionCancelRequested(running) => Event::ExecutionCancelRequested { running, finally_too: false },
        Kind::ExecutionCancelRequestedAgain(running) => Event::ExecutionCancelRequested { running, finally_too: true },
        Kind::ExecutionFailFast(running) => Event::ExecutionFailFast { cause: task?, running },
        Kind::ExecutionTimeoutReached(row) => {
            Event::ExecutionTimeoutReached { timeout_micros: row.timeout, running: row.running }
        }
        Kind::HandlersStarted(role) => Event::HandlersStarted { role: decode_role(role)? },
        Kind::TaskReady(_) => Event::TaskReady { task: task? },
        Kind::ConditionError(row) => {
            Event::ConditionError { task: task?, expression: row.expression, values: row.values, message: row.message }
        }
        Kind::ApprovalRequested(_) => Event::ApprovalRequested { task: task? },
        Kind::ApprovalResolved(row) => {
            Event::ApprovalResolved { task: task?, approved: row.approved, comment: row.comment }
        }
        Kind::TaskRetryDue(_) => Event::TaskRetryDue { task: task? },
        Kind::TasksSkipped(row) => Event::TasksSkipped { tasks: row.tasks, reason: row.reason },
        Kind::ConcurrencyLimitSet(row) => {
            Event::ConcurrencyLimitSet { agent: (!row.agent.is_empty()).then(|| row.agent.into()), limit: row.limit }
        }
        Kind::ExecutionEnded(end) => Event::ExecutionEnded {
            end: match end {
                1 => ExecutionEnd::Completed,
                2 => ExecutionEnd::Failed,
                3 => ExecutionEnd::Cancelled,
                _ => return None,
            },
        },
        Kind::TaskStarted(row) => Event::TaskStarted {
            task: task?,
            attempt,
            ready_at: Timestamp(row.ready_at),
            queued_at: Timestamp(row.queued_at),
            waited: Waited {
                dependency: row.waited_dependency,
                pause: row.waited_pause,
                backoff: row.waited_backoff,
                limit: row.waited_limit,
                queue: row.waited_queue,
            },
            held_up_by: decode_limit_name(row.limit, row.limit_of),
        },
        Kind::TaskSpawned(row) => {
            let process =
                ProcessIdentity { pid: row.pid, start_time: row.start_time, boot_id: row.boot_id.as_str().into() };
            Event::TaskSpawned { task: task?, attempt, process }
        }
        Kind::TaskTimeoutReached(timeout_micros) => {
            Event::TaskTimeoutReached { task: task?, attempt, limit: TimeLimit::Attempt, timeout_micros }
        }
        Kind::TaskSilent(timeout_micros) => {
            Event::TaskTimeoutReached { task: task?, attempt, limit: TimeLimit::Idle, timeout_micros }
        }
        Kind::TaskEnded(row) => {
            let (end, result) = decode_end(row)?;
            Event::TaskEnded { task: task?, attempt, end, result: Box::new(result) }
        }
        Kind::TasksBlocked(row) => Event::TasksBlocked { tasks: row.tasks, cause: task? },
        Kind::TasksCancelled(row) => Event::TasksCancelled { tasks: row.tasks },
    })
}

/// What an execution was given that was given nothing.
const NO_INPUTS: &str = "{}";

fn encode_limit_name(limit: Option<&LimitName>) -> (u32, String) {
    match limit {
        None => (0, String::new()),
        Some(LimitName::Global) => (1, String::new()),
        Some(LimitName::Agent(agent)) => (2, agent.clone()),
        Some(LimitName::ExecutionAll) => (3, String::new()),
        Some(LimitName::ExecutionAgent(agent)) => (4, agent.clone()),
        Some(LimitName::ExecutionGroup(group)) => (5, group.clone()),
    }
}

fn decode_limit_name(kind: u32, of: String) -> Option<LimitName> {
    match kind {
        1 => Some(LimitName::Global),
        2 => Some(LimitName::Agent(of)),
        3 => Some(LimitName::ExecutionAll),
        4 => Some(LimitName::ExecutionAgent(of)),
        5 => Some(LimitName::ExecutionGroup(of)),
        _ => None,
    }
}

fn encode_role(role: Role) -> u32 {
    match role {
        Role::Ordinary => 0,
        Role::OnFailure => 1,
        Role::Finally => 2,
    }
}

fn decode_role(number: u32) -> Option<Role> {
    [Role::OnFailure, Role::Finally].into_iter().find(|role| encode_role(*role) == number)
}

fn encode_end(end: TaskEnd, result: &AttemptResult) -> rows::TaskEnded {
    rows::TaskEnded {
        end: match end {
            TaskEnd::Completed => 1,
            TaskEnd::Failed => 2,
            TaskEnd::TimedOut => 3,
            TaskEnd::Cancelled => 4,
            TaskEnd::Interrupted => 5,
            TaskEnd::Retrying { .. } => 6,
        },
        started_at: result.started_at.0,
        exit_code: result.exit_code,
        cpu: result.cpu_micros,
        peak_memory: result.peak_memory_bytes,
        error: result.error.as_ref().map(|error| rows::Error {
            kind: error.kind.as_str().into(),
            message: error.message.clone(),
            signal: error.signal,
            stderr_tail: error.stderr_tail.clone(),
        }),
        output: result.output.as_ref().map(|output| preview(&output.json).into()),
        output_size: result.output.as_ref().map_or(0, |output| output.size),
        previous: result.previous,
        retry_delay: if let TaskEnd::Retrying { delay_micros } = end { delay_micros } else { 0 },
    }
}

fn decode_end(row: rows::TaskEnded) -> Option<(TaskEnd, AttemptResult)> {
    let end = match row.end {
        1 => TaskEnd::Completed,
        2 => TaskEnd::Failed,
        3 => TaskEnd::TimedOut,
        4 => TaskEnd::Cancelled,
        5 => TaskEnd::Interrupted,
        6 => TaskEnd::Retrying { delay_micros: row.retry_delay },
        _ => return None,
    };
    let error = match row.error {
        None => None,
        Some(error) => Some(TaskError {
            kind: ErrorKind::ALL.into_iter().find(|kind| kind.as_str() == error.kind)?,
            message: error.message,
            signal: error.signal,
            stderr_tail: error.stderr_tail,
        }),
    };
    let result = AttemptResult {
        started_at: Timestamp(row.started_at),
        exit_code: row.exit_code,
        cpu_micros: row.cpu,
        peak_memory_bytes: row.peak_memory,
        error,
        output: row.output.map(|json| Output { json: json.into(), size: row.output_size }),
        previous: row.previous,
    };
    Some((end, result))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{expected::Expected, ids::ExecutionId, message::Trigger, workflow::RetrySpec};

    fn result(output: Option<Output>) -> Box<AttemptResult> {
        Box::new(AttemptResult {
            started_at: Timestamp(5),
            exit_code: Some(-3),
            cpu_micros: Some(6),
            peak_memory_bytes: None,
            error: Some(TaskError {
                kind: ErrorKind::Signal,
                message: "ended by signal 9".into(),
                signal: Some(9),
                stderr_tail: "\u{1b}[31mlast words".into(),
            }),
            output,
            previous: 4,
        })
    }

    #[test]
    fn every_event_reads_back_as_it_was_written() {
        let output = Output { json: "{\"a\":1}".into(), size: 7 };
        let process = ProcessIdentity { pid: 7, start_time: 8, boot_id: "boot".into() };
        let started = |held_up_by| Event::TaskStarted {
            task: 0,
            attempt: 1,
            ready_at: Timestamp(1),
            queued_at: Timestamp(2),
            waited: Waited { dependency: 1, pause: 2, backoff: 4, limit: 3, queue: 5 },
            held_up_by,
        };
        let events = [
            Event::ExecutionStarted {
                version: 3,
                task_count: 2,
                labels: [("k".to_string(), "v".to_string())].into(),
                trigger: Trigger::Rerun(ExecutionId(77)),
                inputs: "{\"a\":[1,\"x\"]}".into(),
                reused: [
                    Reused { task: 0, status: TaskStatus::Completed, attempts: 3 },
                    Reused { task: 70_000, status: TaskStatus::Failed, attempts: 0 },
                ]
                .into(),
                expected: Expected::new(3, 9, vec![5, 0, u64::MAX]).map(Arc::new),
                retry: Some(Arc::new(RetrySpec {
                    max_attempts: 3,
                    retry_on_errors: vec!["SIGNAL".into()],
                    ..RetrySpec::default()
                })),
            },
            Event::ExecutionPaused,
            Event::ExecutionResumed,
            Event::ExecutionCancelRequested { running: 0, finally_too: false },
            Event::ExecutionCancelRequested { running: 3, finally_too: true },
            Event::ExecutionFailFast { cause: 0, running: 2 },
            Event::ExecutionTimeoutReached { timeout_micros: 9, running: 1 },
            Event::HandlersStarted { role: Role::OnFailure },
            Event::HandlersStarted { role: Role::Finally },
            Event::TaskReady { task: 3 },
            Event::ConditionError {
                task: 0,
                expression: "tasks.a.output > 3".into(),
                values: "tasks.a.output = 'x'".into(),
                message: "'x' is no number".into(),
            },
            Event::ApprovalRequested { task: 0 },
            Event::ApprovalResolved { task: 1, approved: true, comment: "go \u{1f980}".into() },
            Event::TaskRetryDue { task: 70_000 },
            Event::TasksSkipped { tasks: vec![0, 9], reason: "nothing failed".into() },
            started(None),
            started(Some(LimitName::Global)),
            started(Some(LimitName::Agent("coder".into()))),
            started(Some(LimitName::ExecutionAll)),
            started(Some(LimitName::ExecutionAgent("coder".into()))),
            started(Some(LimitName::ExecutionGroup("db".into()))),
            Event::TaskSpawned { task: 1, attempt: 2, process },
            Event::TaskTimeoutReached { task: 1, attempt: 2, limit: TimeLimit::Attempt, timeout_micros: 9 },
            Event::TaskTimeoutReached { task: 1, attempt: 2, limit: TimeLimit::Idle, timeout_micros: 9 },
            Event::TaskEnded { task: 1, attempt: 1, end: TaskEnd::Retrying { delay_micros: 5 }, result: result(None) },
            Event::TaskEnded { task: 1, attempt: 2, end: TaskEnd::Interrupted, result: result(Some(output)) },
            Event::TasksBlocked { tasks: vec![1, 70_000], cause: 0 },
            Event::TasksCancelled { tasks: vec![0] },
            Event::ExecutionEnded { end: ExecutionEnd::Cancelled },
        ];
        let workflow = WorkflowId::parse("w").expect("an id");
        let execution = ExecutionId(9);
        let recorded: Vec<Recorded> = events
            .into_iter()
            .zip(11..)
            .map(|(event, revision)| Recorded {
                revision,
                time: Timestamp(1_000 + i64::try_from(revision).expect("small")),
                elapsed: Elapsed(revision),
                actor: if revision % 2 == 0 { Actor::Noxd } else { Actor::from_text("uid:5") },
                workflow: Some(workflow.clone()),
                execution: Some(execution),
                event,
            })
            .collect();
        let row = encode_events(&recorded);
        assert_eq!(decode_events(&Subject::Execution(execution), Some(&workflow), &row).expect("readable"), recorded);
        assert!(decode_events(&Subject::Execution(execution), Some(&workflow), &row[..row.len() - 1]).is_err());
    }

    #[test]
    fn a_long_output_has_its_beginning_in_the_event_and_a_row_of_its_own() {
        // S-DATA-1
        let json: Arc<str> = format!("\"{}\"", "ü".repeat(4_000)).into();
        let size = json.len() as u64;
        let output = Output { json: Arc::clone(&json), size };
        let event = Event::TaskEnded { task: 6, attempt: 1, end: TaskEnd::Completed, result: result(Some(output)) };
        assert_eq!(whole_output(&event), Some((6, &json)));
        let Event::TaskEnded { result, .. } = &event else { unreachable!() };
        let (_, read) = decode_end(encode_end(TaskEnd::Completed, result)).expect("readable");
        let read = read.output.expect("a beginning");
        assert_eq!((read.size, json.starts_with(&*read.json)), (size, true));
        assert!((4_090..=4_096).contains(&read.json.len()), "{}", read.json.len());
    }
}
