//! Running an execution again: which results are kept, and which tasks are done anew.
//!
//! What was good is kept: a task that is COMPLETED or SKIPPED, or failed where that is allowed. Redone are the named
//! tasks, or else all that were not good, and everything that comes after one of them. Handlers are always redone: they
//! belong to the end of an execution.

use std::sync::Arc;

use super::{
    decide::{Decided, has_room_for, invalid_state, stored},
    execution::{Execution, is_excused},
    ids::{ExecutionId, TaskIndex},
    message::{Event, Rejection, Reply, Reused, Trigger},
    state::State,
    task::TaskStatus,
    workflow::Role,
};

/// Which tasks keep their result, and which are done again; each ascending, together all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RerunPlan {
    /// With what they keep.
    pub reused: Vec<Reused>,
    /// PENDING again.
    pub redone: Vec<TaskIndex>,
}

/// What a rerun of an execution would keep and do.
///
/// # Errors
/// Where it has not ended, names no task of it, or would do nothing.
pub fn plan(source: &Execution, tasks: &[String]) -> Result<RerunPlan, Rejection> {
    let refuse = |why: String| invalid_state(source.workflow.clone(), "rerun", why);
    if !source.status.is_terminal() {
        return Err(refuse(format!("execution {} has not ended; cancel it or wait for its end", source.id)));
    }
    let definition = &source.definition;
    let mut redo = vec![false; source.tasks.len()];
    for id in tasks {
        let unknown = || Rejection::TaskNotFound { execution: source.id, task: id.clone() };
        redo[definition.index_of(id).ok_or_else(unknown)? as usize] = true;
    }
    for stage in definition.graph().stages() {
        for &task in stage {
            let status = source.tasks[task as usize].status;
            let is_good =
                matches!(status, TaskStatus::Completed | TaskStatus::Skipped) || is_excused(definition, task, status);
            let after_one = definition.graph().dependencies(task).iter().any(|before| redo[*before as usize]);
            // With named tasks, what was not good before is done again all the same: nothing could come after it.
            redo[task as usize] |= !is_good || after_one || definition.role(task) != Role::Ordinary;
        }
    }
    let mut plan = RerunPlan::default();
    for (task, state) in (0..).zip(&source.tasks) {
        if redo[task as usize] {
            plan.redone.push(task);
        } else {
            plan.reused.push(Reused { task, status: state.status, attempts: state.attempt });
        }
    }
    if plan.redone.iter().all(|task| definition.role(*task) != Role::Ordinary) {
        return Err(refuse(format!("every task of execution {} succeeded; name the tasks to do again", source.id)));
    }
    Ok(plan)
}

/// Starts the rerun of an execution, with the version and the inputs that it had.
///
/// # Errors
/// As [`plan`], and where the workflow is deleted or there is no room.
pub(super) fn decide(
    state: &State,
    execution: ExecutionId,
    source: ExecutionId,
    tasks: &[String],
) -> Result<(Vec<Decided>, Reply), Rejection> {
    let source = state.sources.get(&source).ok_or(Rejection::NoSuchExecution(source))?;
    stored(state, &source.workflow)?;
    let plan = plan(source, tasks)?;
    has_room_for(state, source.tasks.len())?;
    let event = Event::ExecutionStarted {
        version: source.version,
        task_count: u32::try_from(source.tasks.len()).expect("bounded by MAX_TASKS"),
        labels: source.labels.clone(),
        trigger: Trigger::Rerun(source.id),
        inputs: Arc::clone(&source.inputs),
        reused: plan.reused.into(),
        expected: state.expected_of(&source.workflow, source.version),
        retry: source.retry.clone(),
    };
    let decided = Decided { workflow: Some(source.workflow.clone()), execution: Some(execution), event };
    Ok((vec![decided], Reply::Executions(vec![execution])))
}
