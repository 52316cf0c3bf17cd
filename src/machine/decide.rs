//! What happens next: commands and deadlines become events, or are refused.
//!
//! Everything here is a pure question to a [`State`] that stays as it is; [`step`](super::step) puts the answers into
//! effect. [`command`] answers a command, [`due`] the first deadline that has come, [`follow_up`] what the machine does
//! by itself: end executions that are done, and give free slots to tasks that wait.

use std::sync::Arc;

use super::{
    approval, attempt, control,
    execution::{Execution, Turn},
    ids::{Actor, ExecutionId, TaskIndex, Tick, WorkflowId},
    input,
    judgement::{self, Judgement},
    message::{
        Command, Content, Event, Rejection, Reply, Start, TimeLimit, Trigger, Waited, WorkflowChange, WorkflowRecord,
    },
    rerun, schedule,
    state::State,
    task::{TaskState, TaskStatus},
    template::{self, TemplateOrigin},
    workflow::Definition,
};

/// Tasks of all executions that run or wait for a slot: the hard bound of the queue, some hundred megabytes (S-PAR-2).
pub const MAX_HOT_TASKS: usize = 2_000_000;

/// Tasks that one event of a mass change names: with the longest ids it still fits into a message of a stream.
pub(super) const TASKS_AT_ONCE: usize = 5_000;

/// Largest limit of concurrent attempts: beyond it, a process table is full.
const MAX_CONCURRENCY: u32 = 1_000_000;

/// What a decision adds to the history of a workflow, of one of its executions, or of noxd itself.
#[derive(Debug, PartialEq)]
pub struct Decided {
    /// Of which workflow, if one.
    pub workflow: Option<WorkflowId>,
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
        Command::CreateWorkflow { content } => create_workflow(state, content, None, actor, tick),
        Command::UpdateWorkflow { content, etag } => update_workflow(state, content, etag, tick),
        Command::DeleteWorkflow { workflow, etag } => delete_workflow(state, workflow, etag, tick),
        Command::StartExecution { execution, workflow, labels, inputs, trigger } => {
            start(state, workflow, Start { execution, labels, inputs, retry: None }, trigger)
        }
        Command::CreateTemplate { spec } => {
            accepts_work(state)?;
            template::create(state, spec, actor, tick)
        }
        Command::UpdateTemplate { spec, etag } => {
            accepts_work(state)?;
            template::update(state, spec, etag, tick)
        }
        Command::DeleteTemplate { template, etag } => template::delete(state, template, etag, tick),
        Command::InstantiateTemplate { definition, origin, start } => {
            instantiate(state, &definition, origin, start, actor, tick)
        }
        Command::CreateSchedule { spec, enabled, remaining_runs } => {
            accepts_work(state)?;
            schedule::create(state, spec, enabled, remaining_runs, actor, tick)
        }
        Command::UpdateSchedule { spec, enabled, runs, etag } => {
            accepts_work(state)?;
            schedule::update(state, spec, enabled, runs, etag, tick)
        }
        Command::DeleteSchedule { schedule, etag } => schedule::delete(state, &schedule, etag, tick),
        Command::PauseSchedule { schedule, note } => schedule::pause(state, &schedule, note),
        Command::ResumeSchedule { schedule } => schedule::resume(state, &schedule, tick),
        Command::TriggerSchedule { schedule, execution } => schedule::trigger(state, &schedule, execution, tick),
        Command::BackfillSchedule { schedule, from, to, overlap } => {
            accepts_work(state)?;
            schedule::backfill(state, &schedule, from, to, overlap, tick)
        }
        Command::CancelBackfill { schedule } => schedule::cancel_backfill(state, &schedule),
        Command::RerunExecution { execution, source, tasks } => rerun::decide(state, execution, source, &tasks),
        Command::Control { operation, workflow, execution } => control::decide(state, operation, workflow, execution),
        Command::ResolveApproval { execution, task, approved, comment } => {
            approval::decide(state, execution, task, approved, comment, actor)
        }
        Command::SetConcurrencyLimit { agent, limit } => set_limit(agent, limit),
        Command::AttemptSpawned { attempt, process } => {
            let (execution, _) = attempt::live(state, attempt)?;
            let event = Event::TaskSpawned { task: attempt.task, attempt: attempt.attempt, process };
            Ok((vec![of(execution, event)], Reply::Taken))
        }
        Command::AttemptSilent { attempt } => {
            let (execution, task) = attempt::live(state, attempt)?;
            let limit = execution.definition.task(attempt.task).idle_timeout_micros;
            // One that is being ended already need not be told again.
            let decided = limit.filter(|_| task.stopping.is_none()).map(|timeout_micros| Event::TaskTimeoutReached {
                task: attempt.task,
                attempt: attempt.attempt,
                limit: TimeLimit::Idle,
                timeout_micros,
            });
            Ok((decided.map(|event| of(execution, event)).into_iter().collect(), Reply::Taken))
        }
        Command::AttemptEnded { attempt, outcome } => {
            let (execution, task) = attempt::live(state, attempt)?;
            Ok((attempt::ended(execution, task, attempt, *outcome), Reply::Taken))
        }
        Command::Drain => Ok((Vec::new(), Reply::Taken)),
    }
}

/// What follows from the first deadline that has come. Empty: none has, or its execution is not here
/// ([`State::due_elsewhere`]).
pub fn due(state: &State, tick: Tick) -> Vec<Decided> {
    let Some((_, id)) = state.deadlines.first().filter(|(at, _)| *at <= tick.elapsed) else { return Vec::new() };
    let Some(execution) = state.executions.get(id) else { return Vec::new() };
    let Some((_, what)) = execution.first_timer() else { return Vec::new() };
    let Some(task) = what else { return control::out_of_time(execution) };
    let waiting = &execution.tasks[task as usize];
    let spec = execution.definition.task(task);
    match waiting.status {
        TaskStatus::Running => {
            let timeout_micros = spec.timeout_micros.unwrap_or_default();
            let (attempt, limit) = (waiting.attempt, TimeLimit::Attempt);
            vec![of(execution, Event::TaskTimeoutReached { task, attempt, limit, timeout_micros })]
        }
        TaskStatus::Retrying => vec![of(execution, Event::TaskRetryDue { task })],
        TaskStatus::Waiting => approval::out_of_time(execution, task),
        _ => attempt::queued_too_long(execution, task),
    }
}

/// What the machine does by itself.
#[derive(Debug, PartialEq)]
pub enum FollowUp {
    /// This happens, in order.
    Decided(Vec<Decided>),
    /// These results of tasks are needed first.
    Needs(Vec<(ExecutionId, TaskIndex)>),
    /// Nothing, until the next command or deadline.
    Nothing,
}

/// What the machine does by itself now.
pub fn follow_up(state: &State, tick: Tick) -> FollowUp {
    if let Some(execution) = state.judging.first().and_then(|(id, _)| state.executions.get(id))
        && let Some((_, task)) = state.judging.first()
    {
        return match judgement::judge(execution, *task, &state.results) {
            Judgement::Events(events) => {
                FollowUp::Decided(events.into_iter().map(|event| of(execution, event)).collect())
            }
            Judgement::Needs(tasks) => FollowUp::Needs(tasks.into_iter().map(|task| (execution.id, task)).collect()),
        };
    }
    let turning = state.turning.first().and_then(|id| state.executions.get(id));
    if let Some((execution, turn)) = turning.and_then(|execution| Some((execution, execution.turn()?))) {
        return FollowUp::Decided(vec![of(execution, turn_event(execution, turn))]);
    }
    if state.draining || state.held {
        return FollowUp::Nothing;
    }
    let next = state.admission.next(tick.elapsed);
    match next.and_then(|(id, task)| Some((state.executions.get(&id)?, task))) {
        Some((execution, task)) => FollowUp::Decided(vec![of(execution, start_event(state, execution, task, tick))]),
        None => FollowUp::Nothing,
    }
}

fn turn_event(execution: &Execution, turn: Turn) -> Event {
    match turn {
        Turn::Start(role) => Event::HandlersStarted { role },
        Turn::Skip(role) => Event::TasksSkipped {
            tasks: execution.definition.tasks_of(role).collect(),
            reason: "nothing failed".into(),
        },
        Turn::End(end) => Event::ExecutionEnded { end },
    }
}

fn start_event(state: &State, execution: &Execution, task: TaskIndex, tick: Tick) -> Event {
    let waiting = &execution.tasks[task as usize];
    let held_up_by = state.admission.held_up_by(execution.id, task, waiting.queued_since);
    Event::TaskStarted {
        task,
        attempt: waiting.attempt + 1,
        ready_at: waiting.ready_at,
        queued_at: waiting.queued_at,
        waited: waited(execution, waiting, held_up_by.is_some(), tick),
        held_up_by,
    }
}

/// Starts the newest version of a workflow.
fn start(
    state: &State,
    workflow: WorkflowId,
    start: Start,
    trigger: Trigger,
) -> Result<(Vec<Decided>, Reply), Rejection> {
    let record = stored(state, &workflow)?;
    let Content::Ready(definition) = &record.content else {
        return Err(invalid_state(workflow, "execute", draft_words(&record.content)));
    };
    let execution = start.execution;
    let decided = started(state, definition, record.version, start, trigger)?;
    Ok((vec![decided], Reply::Executions(vec![execution])))
}

/// Stores a workflow that was made of a template, and perhaps starts it: both or neither.
fn instantiate(
    state: &State,
    definition: &Arc<Definition>,
    origin: Arc<TemplateOrigin>,
    start: Option<Start>,
    actor: &Actor,
    tick: Tick,
) -> Result<(Vec<Decided>, Reply), Rejection> {
    let content = Content::Ready(Arc::clone(definition));
    let (mut decided, reply) = create_workflow(state, content, Some(origin), actor, tick)?;
    let (Some(start), Reply::Workflow { workflow, version }) = (start, &reply) else { return Ok((decided, reply)) };
    let (workflow, version, execution) = (workflow.clone(), *version, start.execution);
    decided.push(started(state, definition, version, start, Trigger::Manual)?);
    Ok((decided, Reply::Started { workflow, version, execution }))
}

/// An execution of a version begins.
///
/// # Errors
/// Where the inputs do not fit, noxd shuts down, or there is no room.
pub(super) fn started(
    state: &State,
    definition: &Definition,
    version: u64,
    start: Start,
    trigger: Trigger,
) -> Result<Decided, Rejection> {
    let workflow = definition.spec().id.clone();
    has_room_for(state, definition.task_count())?;
    let inputs = match input::resolve(&definition.spec().inputs, &start.inputs.0) {
        Ok(inputs) => inputs.into(),
        Err(violations) => return Err(Rejection::InvalidInputs { workflow, violations }),
    };
    let mut all_labels = definition.spec().labels.clone();
    all_labels.extend(start.labels);
    let event = Event::ExecutionStarted {
        version,
        task_count: u32::try_from(definition.task_count()).expect("bounded by MAX_TASKS"),
        labels: all_labels,
        trigger,
        inputs,
        reused: Arc::default(),
        expected: state.expected_of(&workflow, version),
        retry: start.retry,
    };
    Ok(Decided { workflow: Some(workflow), execution: Some(start.execution), event })
}

/// Whether so many more tasks may wait or run.
///
/// # Errors
/// Where noxd shuts down, or the hard bound of the queue is reached.
pub(super) fn has_room_for(state: &State, tasks: usize) -> Result<(), Rejection> {
    accepts_work(state)?;
    if state.hot_tasks + tasks > MAX_HOT_TASKS {
        return Err(Rejection::QueueFull { tasks: state.hot_tasks });
    }
    Ok(())
}

fn set_limit(agent: Option<Arc<str>>, limit: Option<u32>) -> Result<(Vec<Decided>, Reply), Rejection> {
    let words = match (&agent, limit) {
        (None, None) => Some("noxd as a whole always has a limit; give a number".to_string()),
        (_, Some(0)) => Some("a limit of 0 would let nothing run; it is at least 1".to_string()),
        (_, Some(limit)) if limit > MAX_CONCURRENCY => Some(format!("the limit is at most {MAX_CONCURRENCY}")),
        _ => None,
    };
    if let Some(words) = words {
        return Err(Rejection::InvalidLimit(words));
    }
    let event = Event::ConcurrencyLimitSet { agent, limit };
    Ok((vec![Decided { workflow: None, execution: None, event }], Reply::Taken))
}

pub(super) fn of(execution: &Execution, event: Event) -> Decided {
    Decided { workflow: Some(execution.workflow.clone()), execution: Some(execution.id), event }
}

fn accepts_work(state: &State) -> Result<(), Rejection> {
    if state.draining { Err(Rejection::Draining) } else { Ok(()) }
}

pub(super) fn stored<'a>(state: &'a State, id: &WorkflowId) -> Result<&'a Arc<WorkflowRecord>, Rejection> {
    let record = state.workflows.get(id).filter(|record| !record.deleted);
    record.ok_or_else(|| Rejection::WorkflowNotFound(id.clone()))
}

pub(super) fn invalid_state(workflow: WorkflowId, operation: &'static str, why: String) -> Rejection {
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
    (vec![Decided { workflow: Some(workflow), execution: None, event }], reply)
}

fn create_workflow(
    state: &State,
    content: Content,
    origin: Option<Arc<TemplateOrigin>>,
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
        origin,
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

fn waited(execution: &Execution, state: &TaskState, by_limit: bool, tick: Tick) -> Waited {
    let span = |from: i64, to: i64| u64::try_from(to - from).unwrap_or(0);
    let pause = execution.paused_in_all(tick.wall).saturating_sub(state.paused_before);
    let queued = span(state.queued_at.0, tick.wall.0).saturating_sub(pause);
    let (limit, queue) = if by_limit { (queued, 0) } else { (0, queued) };
    Waited {
        dependency: span(execution.started_at.0, state.ready_at.0),
        pause,
        backoff: state.backoff_micros,
        limit,
        queue,
    }
}
