//! What is done with whole executions: pause, resume, cancel, and what calls their rest off (S-STATE-4, S-STATE-7,
//! S-STATE-8).

use super::{
    decide::{Decided, TASKS_AT_ONCE, invalid_state, of, stored},
    execution::{Execution, ExecutionStatus},
    ids::{ExecutionId, TaskIndex, WorkflowId},
    message::{Event, Operation, Rejection, Reply},
    state::State,
    task::TaskStatus,
    workflow::Role,
};

/// Decides a pause, a resume or a cancel.
///
/// # Errors
/// Why it is refused; nothing changes then.
pub(super) fn decide(
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
        (Operation::Cancel, _) if !execution.is_called_off(Role::Finally) => cancel(execution, &mut decided),
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

/// What has not started is CANCELLED at once; what runs is told to end. The first cancel spares `finally`; the second
/// does not, and is nothing new where there is none (S-STATE-5).
fn cancel(execution: &Execution, decided: &mut Vec<Decided>) {
    let finally_too = execution.cancel_requested_at.is_some();
    if finally_too && execution.definition.spec().finally.is_empty() {
        return;
    }
    let concerns = |role| finally_too || role != Role::Finally;
    let running = running(execution, &concerns);
    decided.push(of(execution, Event::ExecutionCancelRequested { running, finally_too }));
    decided.extend(call_off(execution, concerns, &[]));
}

/// `execution_timeout`: what runs is told to end and will be TIMED_OUT, the rest of the ordinary tasks is CANCELLED
/// (S-STATE-7).
pub(super) fn out_of_time(execution: &Execution) -> Vec<Decided> {
    let timeout_micros = execution.definition.spec().execution_timeout_micros.unwrap_or_default();
    let ordinary = |role| role == Role::Ordinary;
    let running = running(execution, &ordinary);
    let mut decided = vec![of(execution, Event::ExecutionTimeoutReached { timeout_micros, running })];
    decided.extend(call_off(execution, ordinary, &[]));
    decided
}

/// FAIL_FAST: the rest of the ordinary tasks is called off, but for `settled`, which are dealt with (S-STATE-4).
pub(super) fn fail_fast(execution: &Execution, cause: TaskIndex, settled: &[TaskIndex]) -> Vec<Decided> {
    let ordinary = |role| role == Role::Ordinary;
    let others = running(execution, &ordinary);
    let itself = u32::from(execution.tasks[cause as usize].status == TaskStatus::Running);
    let mut decided = vec![of(execution, Event::ExecutionFailFast { cause, running: others - itself })];
    decided.extend(call_off(execution, ordinary, settled));
    decided
}

fn running(execution: &Execution, concerns: &impl Fn(Role) -> bool) -> u32 {
    let count =
        execution.tasks_in(TaskStatus::Running).filter(|task| concerns(execution.definition.role(*task))).count();
    u32::try_from(count).expect("bounded by MAX_TASKS")
}

/// Tasks that have not ended and have no attempt are CANCELLED, but for `settled`, ascending.
fn call_off(execution: &Execution, concerns: impl Fn(Role) -> bool, settled: &[TaskIndex]) -> Vec<Decided> {
    let tasks: Vec<TaskIndex> = (0..)
        .zip(&execution.tasks)
        .filter(|(_, state)| !state.status.is_terminal() && state.status != TaskStatus::Running)
        .map(|(task, _)| task)
        .filter(|task| concerns(execution.definition.role(*task)) && settled.binary_search(task).is_err())
        .collect();
    tasks.chunks(TASKS_AT_ONCE).map(|tasks| of(execution, Event::TasksCancelled { tasks: tasks.to_vec() })).collect()
}
