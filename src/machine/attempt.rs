//! The ends of attempts and tasks: what they mean, whether the task is tried again, and what a failure does to the tasks
//! after it (S-RETRY, S-DEP-2).

use super::{
    control,
    decide::{Decided, TASKS_AT_ONCE, of},
    execution::{Execution, is_excused},
    ids::{AttemptKey, TaskIndex},
    message::{
        AttemptEnd, AttemptOutcome, AttemptResult, ErrorKind, Event, Output, Rejection, StopCause, TaskEnd, TaskError,
        TimeLimit,
    },
    retry,
    state::State,
    task::{TaskState, TaskStatus},
    workflow::{Action, FailurePolicy, OnInterrupt, RetrySpec, Role, TaskSpec, TriggerRule},
};

/// Attempts of one task that noxd's own end may interrupt before the task is given up (S-RETRY-7).
pub const MAX_INTERRUPTIONS: u32 = 5;

/// The live attempt of that key. Fencing: no other is heard (S-SAFE-2).
///
/// # Errors
/// Where it is not the live one.
pub(super) fn live(state: &State, key: AttemptKey) -> Result<(&Execution, &TaskState), Rejection> {
    let execution = state.executions.get(&key.execution);
    let task = execution.and_then(|execution| execution.tasks.get(key.task as usize));
    match (execution, task) {
        (Some(execution), Some(task)) if task.status == TaskStatus::Running && task.attempt == key.attempt => {
            Ok((execution, task))
        }
        _ => Err(Rejection::StaleAttempt(key)),
    }
}

/// What follows from the end of an attempt.
pub(super) fn ended(
    execution: &Execution,
    state: &TaskState,
    key: AttemptKey,
    outcome: AttemptOutcome,
) -> Vec<Decided> {
    let spec = execution.definition.task(key.task);
    let (end, error) = classify(execution, spec, state, &outcome);
    let exit_code = match outcome.end {
        AttemptEnd::Succeeded | AttemptEnd::OutputRefused(_) => Some(0),
        AttemptEnd::ExitCode(code) => Some(code),
        _ => None,
    };
    let end = retried(execution, key, state, end, error.as_ref(), exit_code);
    let result = AttemptResult {
        started_at: state.attempt_started_at,
        exit_code,
        cpu_micros: outcome.cpu_micros,
        peak_memory_bytes: outcome.peak_memory_bytes,
        error: error.map(|(kind, message)| {
            let signal = if let AttemptEnd::Signal(signal) = outcome.end { Some(signal) } else { None };
            TaskError { kind, message, signal, stderr_tail: outcome.stderr_tail }
        }),
        output: outcome.output.filter(|_| end == TaskEnd::Completed),
        previous: state.last_end,
    };
    with_consequences(execution, key.task, key.attempt, end, result)
}

/// `queue_timeout`: the task never started (S-RETRY-5).
pub(super) fn queued_too_long(execution: &Execution, task: TaskIndex) -> Vec<Decided> {
    let limit = execution.definition.task(task).queue_timeout_micros.map(|micros| format!(" of {}", seconds(micros)));
    let words = format!("the task waited in the queue longer than its `queue_timeout`{}", limit.unwrap_or_default());
    without_attempt(execution, task, TaskEnd::TimedOut, Some((ErrorKind::Timeout, words)), None)
}

/// A task ends that has no attempt.
pub(super) fn without_attempt(
    execution: &Execution,
    task: TaskIndex,
    end: TaskEnd,
    error: Option<(ErrorKind, String)>,
    output: Option<Output>,
) -> Vec<Decided> {
    let state = &execution.tasks[task as usize];
    let result = AttemptResult {
        started_at: state.ready_at,
        exit_code: None,
        cpu_micros: None,
        peak_memory_bytes: None,
        error: error.map(|(kind, message)| TaskError { kind, message, signal: None, stderr_tail: String::new() }),
        output,
        previous: state.last_end,
    };
    with_consequences(execution, task, 0, end, result)
}

/// The end of a task, and what a failure means for those after it and for the rest (S-DEP-2, S-STATE-4).
fn with_consequences(
    execution: &Execution,
    task: TaskIndex,
    attempt: u32,
    end: TaskEnd,
    result: AttemptResult,
) -> Vec<Decided> {
    let definition = &execution.definition;
    let mut decided = vec![of(execution, Event::TaskEnded { task, attempt, end, result: Box::new(result) })];
    let status = match end {
        TaskEnd::Failed => TaskStatus::Failed,
        TaskEnd::TimedOut => TaskStatus::TimedOut,
        TaskEnd::Cancelled => TaskStatus::Cancelled,
        TaskEnd::Completed | TaskEnd::Interrupted | TaskEnd::Retrying { .. } => return decided,
    };
    if is_excused(definition, task, status) {
        return decided;
    }
    let affected = |task: TaskIndex| {
        let rule = definition.task(task).trigger_rule;
        matches!(rule, TriggerRule::AllSucceeded | TriggerRule::AllCompleted)
            && execution.tasks[task as usize].status == TaskStatus::Pending
    };
    let blocked = definition.graph().blocked_by(task, affected);
    for tasks in blocked.chunks(TASKS_AT_ONCE) {
        decided.push(of(execution, Event::TasksBlocked { tasks: tasks.to_vec(), cause: task }));
    }
    let fails_fast = definition.spec().failure_policy == FailurePolicy::FailFast
        && definition.role(task) == Role::Ordinary
        && status != TaskStatus::Cancelled
        && !execution.is_called_off(Role::Ordinary);
    if fails_fast {
        let mut settled = blocked;
        let place = settled.binary_search(&task).unwrap_or_else(|place| place);
        settled.insert(place, task);
        decided.extend(control::fail_fast(execution, task, &settled));
    }
    decided
}

/// RETRYING instead of the end, where the task's policy says so (S-RETRY-1, S-RETRY-2).
fn retried(
    execution: &Execution,
    key: AttemptKey,
    state: &TaskState,
    end: TaskEnd,
    error: Option<&(ErrorKind, String)>,
    exit_code: Option<i32>,
) -> TaskEnd {
    let definition = &execution.definition;
    let (Some(policy), Some((kind, message))) = (policy(execution, key.task), error) else { return end };
    let failed = matches!(end, TaskEnd::Failed | TaskEnd::TimedOut);
    if !failed || execution.is_called_off(definition.role(key.task)) {
        return end;
    }
    let tries = state.counted_attempts();
    if retry::may_retry(policy, *kind, exit_code, message, tries) {
        TaskEnd::Retrying { delay_micros: retry::delay(policy, key, tries) }
    } else {
        end
    }
}

/// When a task is tried again: as it says itself, or else as its execution was started with (S-SCHED-8). A person is asked
/// once.
fn policy(execution: &Execution, task: TaskIndex) -> Option<&RetrySpec> {
    let spec = execution.definition.task(task);
    let started_with = execution.retry.as_deref().filter(|_| !matches!(spec.action, Some(Action::Approval(_))));
    spec.retry.as_ref().or(started_with)
}

/// What the end of an attempt means. What noxd wanted of it weighs more than how it went, unless it ended by itself.
fn classify(
    execution: &Execution,
    spec: &TaskSpec,
    state: &TaskState,
    outcome: &AttemptOutcome,
) -> (TaskEnd, Option<(ErrorKind, String)>) {
    let failed = |kind, message: String| (TaskEnd::Failed, Some((kind, message)));
    let timed_out = |what: &str, field: &str, limit: Option<u64>| {
        let limit = limit.map_or_else(String::new, |micros| format!(" of {}", seconds(micros)));
        (
            TaskEnd::TimedOut,
            Some((ErrorKind::Timeout, format!("the {what} ran into its `{field}`{limit} and was ended"))),
        )
    };
    match (&outcome.end, state.stopping) {
        (AttemptEnd::Succeeded, _) => (TaskEnd::Completed, None),
        (AttemptEnd::Stopped | AttemptEnd::Interrupted(_), Some(cause)) => match cause {
            StopCause::TimedOut(limit @ TimeLimit::Attempt) => {
                timed_out("attempt", limit.as_str(), spec.timeout_micros)
            }
            StopCause::TimedOut(limit @ TimeLimit::Idle) => {
                timed_out("silent attempt", limit.as_str(), spec.idle_timeout_micros)
            }
            StopCause::ExecutionTimedOut => {
                let limit = execution.definition.spec().execution_timeout_micros;
                timed_out("execution", "execution_timeout", limit)
            }
            StopCause::Cancelled if execution.cancel_requested_at.is_some() => {
                (TaskEnd::Cancelled, Some((ErrorKind::Cancelled, "the execution was cancelled".into())))
            }
            StopCause::Cancelled => {
                let words = "another task failed, and the workflow is FAIL_FAST";
                (TaskEnd::Cancelled, Some((ErrorKind::Cancelled, words.into())))
            }
        },
        (AttemptEnd::Stopped, None) => interrupted(spec, state, "noxd ended it"),
        (AttemptEnd::Interrupted(why), None) => interrupted(spec, state, why),
        (AttemptEnd::ExitCode(code), _) => failed(ErrorKind::ExitCode, format!("exit code {code}")),
        (AttemptEnd::Signal(signal), _) => {
            failed(ErrorKind::Signal, format!("ended by signal {signal}{}", name_of(*signal)))
        }
        (AttemptEnd::NotSpawned(words), _) => failed(ErrorKind::Spawn, words.clone()),
        (AttemptEnd::OutputRefused(words), _) => failed(ErrorKind::Output, words.clone()),
        (AttemptEnd::NotRendered(words), _) => failed(ErrorKind::Template, words.clone()),
    }
}

fn interrupted(spec: &TaskSpec, state: &TaskState, why: &str) -> (TaskEnd, Option<(ErrorKind, String)>) {
    if spec.on_interrupt == OnInterrupt::Fail {
        let words = format!("{why}, and the task says `on_interrupt: FAIL`");
        return (TaskEnd::Failed, Some((ErrorKind::Lost, words)));
    }
    if state.interruptions < MAX_INTERRUPTIONS {
        return (TaskEnd::Interrupted, Some((ErrorKind::Lost, format!("{why}; the attempt does not count"))));
    }
    let words = format!("{why}, after {MAX_INTERRUPTIONS} interruptions before; the task is given up");
    (TaskEnd::Failed, Some((ErrorKind::Lost, words)))
}

/// A span as people write it.
pub fn seconds(micros: u64) -> String {
    let millis = micros / 1_000;
    if millis.is_multiple_of(1_000) { format!("{} s", millis / 1_000) } else { format!("{millis} ms") }
}

/// Names of signals that people know by name; from signal(7) of Linux.
fn name_of(signal: i32) -> &'static str {
    match signal {
        1 => " (SIGHUP)",
        2 => " (SIGINT)",
        3 => " (SIGQUIT)",
        4 => " (SIGILL)",
        6 => " (SIGABRT)",
        7 => " (SIGBUS)",
        8 => " (SIGFPE)",
        9 => " (SIGKILL)",
        11 => " (SIGSEGV)",
        13 => " (SIGPIPE)",
        15 => " (SIGTERM)",
        24 => " (SIGXCPU)",
        25 => " (SIGXFSZ)",
        _ => "",
    }
}
