//! Questions to people: a task that waits for one holds no slot and no attempt, for days if need be (S-STATE-2).

use super::{
    attempt,
    decide::{Decided, of},
    execution::Execution,
    ids::{Actor, ExecutionId, TaskIndex},
    message::{ErrorKind, Event, Output, Rejection, Reply, TaskEnd},
    state::State,
    task::TaskStatus,
    workflow::{Action, ApprovalAction},
};

/// Longest comment, in bytes.
pub const MAX_COMMENT_BYTES: usize = 16 * 1_024;

/// Takes a person's answer.
///
/// # Errors
/// Where nothing waits for it, or another person must answer; nothing changes then.
pub(super) fn decide(
    state: &State,
    id: ExecutionId,
    task_id: String,
    approved: bool,
    comment: String,
    actor: &Actor,
) -> Result<(Vec<Decided>, Reply), Rejection> {
    let not_waiting = |task: String, why: String| Rejection::NotWaiting { execution: id, task, why };
    if let Some((_, status)) = state.ended.get(&id) {
        return Err(not_waiting(task_id, format!("the execution is {}", status.as_str())));
    }
    let execution = state.executions.get(&id).ok_or(Rejection::NoSuchExecution(id))?;
    let Some(task) = execution.definition.index_of(&task_id) else {
        return Err(Rejection::TaskNotFound { execution: id, task: task_id });
    };
    let Some(Action::Approval(approval)) = &execution.definition.task(task).action else {
        return Err(not_waiting(task_id, "it is no approval".into()));
    };
    let status = execution.tasks[task as usize].status;
    if status != TaskStatus::Waiting {
        return Err(not_waiting(task_id, format!("it is {}", status.as_str())));
    }
    check_approver(approval, task_id, actor)?;
    let output = answer(approved, &comment, actor);
    let (end, error) = if approved {
        (TaskEnd::Completed, None)
    } else {
        let said = if comment.is_empty() { String::new() } else { format!(": {comment}") };
        (TaskEnd::Failed, Some((ErrorKind::Rejected, format!("{} said no{said}", actor.as_str()))))
    };
    let mut decided = vec![of(execution, Event::ApprovalResolved { task, approved, comment })];
    decided.extend(attempt::without_attempt(execution, task, end, error, Some(output)));
    Ok((decided, Reply::Executions(vec![id])))
}

/// Nobody answered in time.
pub(super) fn out_of_time(execution: &Execution, task: TaskIndex) -> Vec<Decided> {
    let limit = match &execution.definition.task(task).action {
        Some(Action::Approval(approval)) => approval.timeout_micros,
        _ => None,
    };
    let limit = limit.map(|micros| format!(" of {}", attempt::seconds(micros))).unwrap_or_default();
    let words = format!("nobody answered within the `approval.timeout`{limit}");
    attempt::without_attempt(execution, task, TaskEnd::TimedOut, Some((ErrorKind::Timeout, words)), None)
}

fn check_approver(approval: &ApprovalAction, task: String, actor: &Actor) -> Result<(), Rejection> {
    let named = |name: &String| name == actor.as_str();
    if approval.approvers.is_empty() || approval.approvers.iter().any(named) {
        return Ok(());
    }
    let (actor, approvers) = (actor.as_str().to_string(), approval.approvers.join(", "));
    Err(Rejection::NotAnApprover { task, actor, approvers })
}

/// What tasks after it can read.
fn answer(approved: bool, comment: &str, actor: &Actor) -> Output {
    let json = serde_json::json!({ "approved": approved, "by": actor.as_str(), "comment": comment }).to_string();
    Output { size: json.len() as u64, json: json.into() }
}
