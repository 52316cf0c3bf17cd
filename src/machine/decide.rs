//! What happens next: commands and deadlines become events, or are refused.
//!
//! Everything here is a pure question to a [`State`] that stays as it is; [`step`](super::step) puts the answers into
//! effect. [`command`] answers a command, [`due`] the first deadline that has come, [`follow_up`] what the machine does
//! by itself: end executions that are done, and give free slots to tasks that wait.

use std::sync::Arc;

use super::{
    execution::{Execution, ExecutionStatus},
    ids::{Actor, AttemptKey, ExecutionId, TaskIndex, Tick, WorkflowId},
    message::{
        AttemptEnd, AttemptOutcome, AttemptResult, Command, Content, ErrorKind, Event, ExecutionEnd, Operation,
        Rejection, Reply, StopCause, TaskEnd, TaskError, Waited, WorkflowChange, WorkflowRecord,
    },
    state::State,
    task::{TaskState, TaskStatus},
};

/// Attempts of one task that noxd's own end may interrupt before the task is given up (S-RETRY-7).
pub const MAX_INTERRUPTIONS: u32 = 5;

/// Tasks of all executions that run or wait for a slot: the hard bound of the queue, some hundred megabytes (S-PAR-2).
pub const MAX_HOT_TASKS: usize = 2_000_000;

/// Tasks that one event of a mass change names: with the longest ids it still fits into a message of a stream.
const TASKS_AT_ONCE: usize = 5_000;

/// What a decision adds to the history of a workflow or of one of its executions.
#[derive(Debug, PartialEq)]
pub struct Decided {
    /// Of which workflow.
    pub workflow: WorkflowId,
    /// Of which execution, if one.
    pub execution: Option<ExecutionId>,
    /// What happens.
    pub event: Event,
}

/// Decides a command.
///
/// # Errors
/// Why it is refused; nothing changes then.
pub fn command(state: &State, command: Command, actor: &Actor, tick: Tick) -> Result<(Vec<Decided>, Reply), Rejection> {
    match command {
        Command::CreateWorkflow { content } => create_workflow(state, content, actor, tick),
        Command::UpdateWorkflow { content, etag } => update_workflow(state, content, etag, tick),
        Command::DeleteWorkflow { workflow, etag } => delete_workflow(state, workflow, etag, tick),
        Command::StartExecution { execution, workflow, labels, trigger } => {
            let record = stored(state, &workflow)?;
            let Content::Ready(definition) = &record.content else {
                return Err(invalid_state(workflow, "execute", draft_words(&record.content)));
            };
            accepts_work(state)?;
            if state.hot_tasks + definition.task_count() > MAX_HOT_TASKS {
                return Err(Rejection::QueueFull { tasks: state.hot_tasks });
            }
            let mut all_labels = definition.spec().labels.clone();
            all_labels.extend(labels);
            let event = Event::ExecutionStarted {
                version: record.version,
                task_count: u32::try_from(definition.task_count()).expect("bounded by MAX_TASKS"),
                labels: all_labels,
                trigger,
            };
            let decided = Decided { workflow, execution: Some(execution), event };
            Ok((vec![decided], Reply::Executions(vec![execution])))
        }
        Command::Control { operation, workflow, execution } => control(state, operation, workflow, execution),
        Command::AttemptSpawned { attempt, process } => {
            let (execution, _) = live_attempt(state, attempt)?;
            let event = Event::TaskSpawned { task: attempt.task, attempt: attempt.attempt, process };
            Ok((vec![of(execution, event)], Reply::Taken))
        }
        Command::AttemptEnded { attempt, outcome } => {
            let (execution, task) = live_attempt(state, attempt)?;
            Ok((attempt_ended(execution, task, attempt, *outcome), Reply::Taken))
        }
        Command::Drain => Ok((Vec::new(), Reply::Taken)),
    }
}

/// The first deadline that has come. `None`: none has.
pub fn due(state: &State, tick: Tick) -> Option<Decided> {
    let (at, key) = state.deadlines.first()?;
    if *at > tick.elapsed {
        return None;
    }
    let execution = state.executions.get(&key.execution)?;
    let timeout_micros = execution.definition.task(key.task).timeout_micros?;
    let event = Event::TaskTimeoutReached { task: key.task, attempt: key.attempt, timeout_micros };
    Some(of(execution, event))
}

/// What the machine does by itself now. `None`: nothing, until the next command or deadline.
pub fn follow_up(state: &State, tick: Tick) -> Option<Decided> {
    if let Some(id) = state.finishing.first() {
        let execution = state.executions.get(id)?;
        return Some(of(execution, Event::ExecutionEnded { end: end_of(execution) }));
    }
    if state.draining || state.held {
        return None;
    }
    let (id, task) = state.admission.next(tick.elapsed)?;
    let execution = state.executions.get(&id)?;
    let waiting = &execution.tasks[task as usize];
    let event = Event::TaskStarted {
        task,
        attempt: waiting.attempt + 1,
        ready_at: waiting.ready_at,
        queued_at: waiting.queued_at,
        waited: waited(execution, waiting, tick),
    };
    Some(of(execution, event))
}

fn of(execution: &Execution, event: Event) -> Decided {
    Decided { workflow: execution.workflow.clone(), execution: Some(execution.id), event }
}

fn accepts_work(state: &State) -> Result<(), Rejection> {
    if state.draining { Err(Rejection::Draining) } else { Ok(()) }
}

fn stored<'a>(state: &'a State, id: &WorkflowId) -> Result<&'a Arc<WorkflowRecord>, Rejection> {
    let record = state.workflows.get(id).filter(|record| !record.deleted);
    record.ok_or_else(|| Rejection::WorkflowNotFound(id.clone()))
}

fn invalid_state(workflow: WorkflowId, operation: &'static str, why: String) -> Rejection {
    Rejection::InvalidWorkflowState { workflow, operation, why }
}

fn draft_words(content: &Content) -> String {
    let faults = match content {
        Content::Ready(_) => 0,
        Content::Draft { violations, .. } => violations.len(),
    };
    format!("it is a DRAFT, with {faults} known faults; `noxctl workflow show` lists them, an update mends them")
}

fn changed(workflow: WorkflowId, change: WorkflowChange, record: WorkflowRecord) -> (Vec<Decided>, Reply) {
    let version = record.version;
    let event = Event::WorkflowChanged { change, version, record: Some(Arc::new(record)) };
    let reply = Reply::Workflow { workflow: workflow.clone(), version };
    (vec![Decided { workflow, execution: None, event }], reply)
}

fn create_workflow(
    state: &State,
    content: Content,
    actor: &Actor,
    tick: Tick,
) -> Result<(Vec<Decided>, Reply), Rejection> {
    let id = content.spec().id.clone();
    let before = state.workflows.get(&id);
    if before.is_some_and(|record| !record.deleted) {
        return Err(Rejection::WorkflowExists(id));
    }
    accepts_work(state)?;
    let record = WorkflowRecord {
        version: before.map_or(0, |record| record.version) + 1,
        created_at: tick.wall,
        updated_at: tick.wall,
        created_by: actor.clone(),
        deleted: false,
        content,
    };
    Ok(changed(id, WorkflowChange::Created, record))
}

fn check_etag(id: &WorkflowId, record: &WorkflowRecord, etag: Option<String>) -> Result<(), Rejection> {
    match etag {
        Some(given) if given != record.etag() => {
            Err(Rejection::EtagMismatch { workflow: id.clone(), current: record.etag(), given })
        }
        _ => Ok(()),
    }
}

fn update_workflow(
    state: &State,
    content: Content,
    etag: Option<String>,
    tick: Tick,
) -> Result<(Vec<Decided>, Reply), Rejection> {
    let id = content.spec().id.clone();
    let before = stored(state, &id)?;
    check_etag(&id, before, etag)?;
    accepts_work(state)?;
    let record =
        WorkflowRecord { version: before.version + 1, updated_at: tick.wall, content, ..before.as_ref().clone() };
    Ok(changed(id, WorkflowChange::Updated, record))
}

fn delete_workflow(
    state: &State,
    id: WorkflowId,
    etag: Option<String>,
    tick: Tick,
) -> Result<(Vec<Decided>, Reply), Rejection> {
    let before = stored(state, &id)?;
    check_etag(&id, before, etag)?;
    if let Some(active) = state.alive_of.get(&id).and_then(|all| all.first().map(|first| (all.len(), *first))) {
        let why =
            format!("executions of it have not ended ({} of them, such as {}); cancel them first", active.0, active.1);
        return Err(invalid_state(id, "delete", why));
    }
    let record = WorkflowRecord { deleted: true, updated_at: tick.wall, ..before.as_ref().clone() };
    Ok(changed(id, WorkflowChange::Deleted, record))
}

/// Pause, resume, cancel (S-STATE-7, S-STATE-8).
fn control(
    state: &State,
    operation: Operation,
    workflow: WorkflowId,
    id: ExecutionId,
) -> Result<(Vec<Decided>, Reply), Rejection> {
    let reply = Reply::Executions(vec![id]);
    let not_found = || Rejection::ExecutionNotFound { workflow: workflow.clone(), execution: id };
    if let Some((of_workflow, status)) = state.ended.get(&id) {
        return match (operation, status) {
            _ if *of_workflow != workflow => Err(not_found()),
            (Operation::Cancel, ExecutionStatus::Cancelled) => Ok((Vec::new(), reply)),
            _ => {
                let why = format!("execution {id} has ended: it is {} for ever; execute it anew", status.as_str());
                Err(invalid_state(workflow, operation.as_str(), why))
            }
        };
    }
    let execution = state.executions.get(&id).filter(|execution| execution.workflow == workflow);
    let execution = execution.ok_or_else(not_found)?;
    let mut decided = Vec::new();
    match (operation, execution.status) {
        (Operation::Pause | Operation::Resume, _) if execution.cancel_requested_at.is_some() => {
            let why = format!("execution {id} is being cancelled");
            return Err(invalid_state(workflow, operation.as_str(), why));
        }
        (Operation::Pause, ExecutionStatus::Running) => decided.push(of(execution, Event::ExecutionPaused)),
        (Operation::Resume, ExecutionStatus::Paused) => decided.push(of(execution, Event::ExecutionResumed)),
        (Operation::Cancel, _) if execution.cancel_requested_at.is_none() => cancel(execution, &mut decided),
        _ => {}
    }
    Ok((decided, reply))
}

/// What a control of every active execution of a workflow is about.
///
/// # Errors
/// No such workflow, or nothing of it is active.
pub fn controlled(state: &State, operation: Operation, workflow: &WorkflowId) -> Result<Vec<ExecutionId>, Rejection> {
    stored(state, workflow)?;
    let active = state.active_of(workflow);
    if active.is_empty() {
        let why = "no execution of it is active; `noxctl workflow execute` starts one".into();
        return Err(invalid_state(workflow.clone(), operation.as_str(), why));
    }
    Ok(active)
}

/// What has not started is CANCELLED at once; what runs is told to end.
fn cancel(execution: &Execution, decided: &mut Vec<Decided>) {
    let running = execution.counts.of(TaskStatus::Running);
    decided.push(of(execution, Event::ExecutionCancelRequested { running }));
    let not_started: Vec<TaskIndex> = (0..)
        .zip(&execution.tasks)
        .filter(|(_, state)| !state.status.is_terminal() && state.status != TaskStatus::Running)
        .map(|(task, _)| task)
        .collect();
    for tasks in not_started.chunks(TASKS_AT_ONCE) {
        decided.push(of(execution, Event::TasksCancelled { tasks: tasks.to_vec() }));
    }
}

/// Fencing: only the live attempt is heard (S-SAFE-2).
fn live_attempt(state: &State, key: AttemptKey) -> Result<(&Execution, &TaskState), Rejection> {
    let execution = state.executions.get(&key.execution);
    let task = execution.and_then(|execution| execution.tasks.get(key.task as usize));
    match (execution, task) {
        (Some(execution), Some(task)) if task.status == TaskStatus::Running && task.attempt == key.attempt => {
            Ok((execution, task))
        }
        _ => Err(Rejection::StaleAttempt(key)),
    }
}

fn attempt_ended(execution: &Execution, state: &TaskState, key: AttemptKey, outcome: AttemptOutcome) -> Vec<Decided> {
    let spec = execution.definition.task(key.task);
    let (end, error) = classify(spec.timeout_micros, state, &outcome);
    let exit_code = match outcome.end {
        AttemptEnd::Succeeded | AttemptEnd::OutputRefused(_) => Some(0),
        AttemptEnd::ExitCode(code) => Some(code),
        _ => None,
    };
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
    let event = Event::TaskEnded { task: key.task, attempt: key.attempt, end, result: Box::new(result) };
    let mut decided = vec![of(execution, event)];
    if matches!(end, TaskEnd::Failed | TaskEnd::TimedOut) {
        let affected = |task: TaskIndex| execution.tasks[task as usize].status == TaskStatus::Pending;
        let tasks = execution.definition.graph().blocked_by(key.task, affected);
        for tasks in tasks.chunks(TASKS_AT_ONCE) {
            decided.push(of(execution, Event::TasksBlocked { tasks: tasks.to_vec(), cause: key.task }));
        }
    }
    decided
}

/// What the end of an attempt means. What noxd wanted of it weighs more than how it went, unless it ended by itself.
fn classify(
    timeout_micros: Option<u64>,
    state: &TaskState,
    outcome: &AttemptOutcome,
) -> (TaskEnd, Option<(ErrorKind, String)>) {
    let failed = |kind, message: String| (TaskEnd::Failed, Some((kind, message)));
    match (&outcome.end, state.stopping) {
        (AttemptEnd::Succeeded, _) => (TaskEnd::Completed, None),
        (AttemptEnd::Stopped | AttemptEnd::Interrupted(_), Some(StopCause::TimedOut)) => {
            let limit = timeout_micros.map_or_else(String::new, |micros| format!(" of {}", seconds(micros)));
            let words = format!("the attempt ran into its `timeout`{limit} and was ended");
            (TaskEnd::TimedOut, Some((ErrorKind::Timeout, words)))
        }
        (AttemptEnd::Stopped | AttemptEnd::Interrupted(_), Some(StopCause::Cancelled)) => {
            (TaskEnd::Cancelled, Some((ErrorKind::Cancelled, "the execution was cancelled".into())))
        }
        (AttemptEnd::Stopped, None) => interrupted(state, "noxd ended it"),
        (AttemptEnd::Interrupted(why), None) => interrupted(state, why),
        (AttemptEnd::ExitCode(code), _) => failed(ErrorKind::ExitCode, format!("exit code {code}")),
        (AttemptEnd::Signal(signal), _) => {
            failed(ErrorKind::Signal, format!("ended by signal {signal}{}", name_of(*signal)))
        }
        (AttemptEnd::NotSpawned(words), _) => failed(ErrorKind::Spawn, words.clone()),
        (AttemptEnd::OutputRefused(words), _) => failed(ErrorKind::Output, words.clone()),
    }
}

fn interrupted(state: &TaskState, why: &str) -> (TaskEnd, Option<(ErrorKind, String)>) {
    if state.interruptions < MAX_INTERRUPTIONS {
        return (TaskEnd::Interrupted, Some((ErrorKind::Lost, format!("{why}; the attempt does not count"))));
    }
    let words = format!("{why}, after {MAX_INTERRUPTIONS} interruptions before; the task is given up");
    (TaskEnd::Failed, Some((ErrorKind::Lost, words)))
}

fn seconds(micros: u64) -> String {
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

fn end_of(execution: &Execution) -> ExecutionEnd {
    if execution.cancel_requested_at.is_some() {
        ExecutionEnd::Cancelled
    } else if execution.counts.failed() > 0 {
        ExecutionEnd::Failed
    } else {
        ExecutionEnd::Completed
    }
}

fn waited(execution: &Execution, state: &TaskState, tick: Tick) -> Waited {
    let span = |from: i64, to: i64| u64::try_from(to - from).unwrap_or(0);
    let pause = execution.paused_in_all(tick.wall).saturating_sub(state.paused_before);
    Waited {
        dependency: span(execution.started_at.0, state.ready_at.0),
        pause,
        limit: span(state.queued_at.0, tick.wall.0).saturating_sub(pause),
    }
}
