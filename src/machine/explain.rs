//! Why a task does not run: an ordered list of what it waits for (S-DEP-5).
//!
//! It asks the functions that decide: [`judgement::rule`] and [`Admission::blockers`](super::parallel::Admission). So it
//! cannot say anything else than what is done.

use super::{
    execution::{Execution, ExecutionStatus},
    ids::{AttemptKey, ExecutionId, TaskIndex, Timestamp},
    judgement::{self, Rule},
    message::Rejection,
    parallel::{LimitName, LimitReached},
    state::State,
    task::{TaskState, TaskStatus},
    workflow::{Action, Role, TriggerRule},
};

/// Something that a task waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocker {
    /// What kind.
    pub kind: BlockerKind,
    /// In words.
    pub description: String,
    /// Since when it stands in the way.
    pub since: Timestamp,
    /// When it will be over at the latest, where that is known.
    pub until: Option<Timestamp>,
}

/// Kinds of what a task waits for; each has one stable name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockerKind {
    /// A task before it.
    Dependency,
    /// It is a handler, and others come first.
    Handler,
    /// Its conditions are about to be looked at.
    Condition,
    /// A person.
    Approval,
    /// Its execution is paused.
    Pause,
    /// The delay before its next attempt.
    Backoff,
    /// A limit of attempts that are alive at once.
    Limit,
    /// Nothing but its turn in the queue.
    Queue,
    /// noxd admits nothing now.
    Noxd,
}

impl BlockerKind {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Dependency,
        Self::Handler,
        Self::Condition,
        Self::Approval,
        Self::Pause,
        Self::Backoff,
        Self::Limit,
        Self::Queue,
        Self::Noxd,
    ];

    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dependency => "DEPENDENCY",
            Self::Handler => "HANDLER",
            Self::Condition => "CONDITION",
            Self::Approval => "APPROVAL",
            Self::Pause => "PAUSE",
            Self::Backoff => "BACKOFF",
            Self::Limit => "LIMIT",
            Self::Queue => "QUEUE",
            Self::Noxd => "NOXD",
        }
    }
}

/// Dependencies and holders that are named one by one.
const NAMED: usize = 20;

/// What a task waits for now; empty: for nothing, it runs or is over.
///
/// # Errors
/// Where there is no such task.
pub fn explain(state: &State, id: ExecutionId, task_id: &str) -> Result<Vec<Blocker>, Rejection> {
    if state.ended.contains_key(&id) {
        return Ok(Vec::new());
    }
    let execution = state.executions.get(&id).ok_or(Rejection::NoSuchExecution(id))?;
    let unknown = || Rejection::TaskNotFound { execution: id, task: task_id.into() };
    let task = execution.definition.index_of(task_id).ok_or_else(unknown)?;
    let waiting = &execution.tasks[task as usize];
    Ok(match waiting.status {
        TaskStatus::Pending => pending(execution, task, waiting),
        TaskStatus::Waiting => vec![approval(execution, task, waiting)],
        TaskStatus::Retrying => {
            let words = format!("attempt {} failed, and the delay before the next one is not over", waiting.attempt);
            let backoff =
                Blocker { until: Some(waiting.deadline_at), ..blocker(BlockerKind::Backoff, words, execution) };
            let since = Timestamp(waiting.deadline_at.0.saturating_sub_unsigned(waiting.backoff_micros));
            [Some(Blocker { since, ..backoff }), pause(execution)].into_iter().flatten().collect()
        }
        TaskStatus::Queued => queued(state, execution, task, waiting),
        _ => Vec::new(),
    })
}

fn blocker(kind: BlockerKind, description: String, execution: &Execution) -> Blocker {
    Blocker { kind, description, since: execution.started_at, until: None }
}

fn pending(execution: &Execution, task: TaskIndex, waiting: &TaskState) -> Vec<Blocker> {
    let definition = &execution.definition;
    let role = definition.role(task);
    if !execution.has_turn(role) {
        let first = match role {
            Role::OnFailure => "it runs when all ordinary tasks are over, if one failed",
            Role::Ordinary | Role::Finally => "it runs when all other tasks are over",
        };
        let words = format!("it is a handler (`{}`): {first}", role.as_str());
        return vec![blocker(BlockerKind::Handler, words, execution)];
    }
    if judgement::rule(definition, task, waiting) != Rule::Open {
        return vec![blocker(BlockerKind::Condition, "its conditions are being looked at".into(), execution)];
    }
    let open = definition.graph().dependencies(task).iter();
    let mut open = open.filter(|before| !execution.tasks[**before as usize].status.is_terminal());
    let rule = match definition.task(task).trigger_rule {
        TriggerRule::OneSucceeded => "one of these must succeed: ",
        TriggerRule::OneFailed => "one of these must fail: ",
        TriggerRule::AllFailed => "all of these must fail: ",
        TriggerRule::AllSucceeded | TriggerRule::AllCompleted | TriggerRule::AllDone => "",
    };
    let mut blockers: Vec<Blocker> = (&mut open)
        .take(NAMED)
        .map(|before| {
            let (spec, state) = (definition.task(*before), &execution.tasks[*before as usize]);
            let words = format!("{rule}task `{}` is {}", spec.id, state.status.as_str());
            blocker(BlockerKind::Dependency, words, execution)
        })
        .collect();
    let more = open.count();
    if more > 0 {
        blockers.push(blocker(BlockerKind::Dependency, format!("{more} more tasks have not ended"), execution));
    }
    blockers
}

fn approval(execution: &Execution, task: TaskIndex, waiting: &TaskState) -> Blocker {
    let spec = execution.definition.task(task);
    let who = match &spec.action {
        Some(Action::Approval(approval)) if !approval.approvers.is_empty() => approval.approvers.join(", "),
        _ => "anybody".into(),
    };
    let words =
        format!("it waits for an answer by {who}; `noxctl execution approve {} {}` gives it", execution.id, spec.id);
    let until = waiting.deadline.map(|_| waiting.deadline_at);
    Blocker { since: waiting.ready_at, until, ..blocker(BlockerKind::Approval, words, execution) }
}

fn pause(execution: &Execution) -> Option<Blocker> {
    let since = execution.paused_at.filter(|_| execution.status == ExecutionStatus::Paused)?;
    let words = format!("the execution is paused; `noxctl workflow resume {}` lets it go on", execution.workflow);
    Some(Blocker { since, ..blocker(BlockerKind::Pause, words, execution) })
}

fn queued(state: &State, execution: &Execution, task: TaskIndex, waiting: &TaskState) -> Vec<Blocker> {
    let since = |blocker: Blocker| Blocker { since: waiting.queued_at, ..blocker };
    let mut blockers: Vec<Blocker> = pause(execution).into_iter().collect();
    if state.draining || state.held {
        let why = if state.draining {
            "noxd is shutting down"
        } else {
            "noxd admits nothing: it is still ending what an earlier noxd left behind, or its disk is full"
        };
        blockers.push(since(blocker(BlockerKind::Noxd, why.into(), execution)));
    }
    let limits = state.admission.blockers(execution.id, task, &execution.definition);
    blockers
        .extend(limits.iter().map(|limit| since(blocker(BlockerKind::Limit, limit_words(state, limit), execution))));
    if blockers.is_empty() {
        let words = format!("it has room, and waits for its turn among {} queued tasks", state.admission.queued());
        blockers.push(since(blocker(BlockerKind::Queue, words, execution)));
    }
    blockers
}

fn limit_words(state: &State, reached: &LimitReached) -> String {
    let what = match &reached.limit {
        LimitName::Global => "noxd's concurrency limit".to_string(),
        LimitName::Agent(agent) => format!("the concurrency limit of agent `{agent}`"),
        LimitName::ExecutionAll => "the workflow's limit for one execution (`*`)".into(),
        LimitName::ExecutionAgent(agent) => format!("the workflow's limit for agent `{agent}`"),
        LimitName::ExecutionGroup(group) => format!("the workflow's limit for group `{group}`"),
    };
    let name = |key: &AttemptKey| {
        let held = state.executions.get(&key.execution)?;
        Some(format!("`{}` of execution {}", held.definition.task(key.task).id, key.execution))
    };
    let holders: Vec<String> = reached.holders.iter().filter_map(name).take(3).collect();
    let such = if holders.is_empty() { String::new() } else { format!(", such as {}", holders.join(", ")) };
    format!("{what} of {} is reached: {} attempts hold it{such}", reached.most, reached.held)
}

#[cfg(test)]
#[path = "explain_tests.rs"]
mod tests;
