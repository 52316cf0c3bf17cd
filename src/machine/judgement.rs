//! Whether a task whose turn may have come is to run: its trigger rule, then its conditions (S-DEP-3, S-COND).
//!
//! [`rule`] needs the counts of the task's dependencies alone. [`judge`] looks at what tasks before it have left, which
//! must have been loaded; what it finds is an event, so nobody evaluates anything twice. How conditions compare is in
//! `condition`.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    condition::{self, Verdict},
    execution::Execution,
    facts::{ExecutionFacts, Facts, TaskFacts},
    ids::{ExecutionId, TaskIndex},
    message::Event,
    task::{TaskState, TaskStatus},
    workflow::{Action, Definition, TriggerRule},
};

/// What a task's rule says of its dependencies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Nothing yet.
    Open,
    /// The task may run.
    Holds,
    /// It can hold no more: the task is SKIPPED, for this reason.
    Never(&'static str),
}

/// What a task left, as conditions and placeholders look at it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskResult {
    /// JSON text; none where it left none.
    pub output: Option<Arc<str>>,
    /// Of its last attempt, where that exited.
    pub exit_code: Option<i32>,
}

/// Results that were loaded for conditions, by execution and task.
pub type Results = BTreeMap<(ExecutionId, TaskIndex), TaskResult>;

/// What comes of judging a task.
#[derive(Debug, PartialEq)]
pub enum Judgement {
    /// This happens, in order.
    Events(Vec<Event>),
    /// These results are needed first.
    Needs(Vec<TaskIndex>),
}

/// What the trigger rule says. A dependency that failed without being allowed to makes a task with one of the first two
/// rules BLOCKED, which is decided with that failure: so they say nothing here.
pub fn rule(definition: &Definition, task: TaskIndex, state: &TaskState) -> Rule {
    let all = definition.graph().dependencies(task).len();
    let (remaining, skipped, failed) = (state.remaining as usize, state.skipped as usize, state.failed as usize);
    let completed = all - remaining - skipped - failed;
    let over = remaining == 0;
    match definition.task(task).trigger_rule {
        TriggerRule::AllSucceeded | TriggerRule::AllCompleted if state.broken || !over => Rule::Open,
        TriggerRule::AllSucceeded => Rule::Holds,
        TriggerRule::AllCompleted if skipped > 0 => Rule::Never("a task before it was skipped"),
        TriggerRule::AllCompleted => Rule::Holds,
        TriggerRule::AllDone if over => Rule::Holds,
        TriggerRule::AllDone => Rule::Open,
        TriggerRule::OneSucceeded if completed > 0 => Rule::Holds,
        TriggerRule::OneSucceeded if over => Rule::Never("no task before it succeeded"),
        TriggerRule::OneFailed if failed > 0 => Rule::Holds,
        TriggerRule::OneFailed if over => Rule::Never("no task before it failed"),
        TriggerRule::OneSucceeded | TriggerRule::OneFailed => Rule::Open,
        TriggerRule::AllFailed if completed + skipped > 0 => Rule::Never("not all tasks before it failed"),
        TriggerRule::AllFailed if over => Rule::Holds,
        TriggerRule::AllFailed => Rule::Open,
    }
}

/// Judges a task whose rule does not leave it open.
pub fn judge(execution: &Execution, task: TaskIndex, results: &Results) -> Judgement {
    let definition = &execution.definition;
    let spec = definition.task(task);
    if let Rule::Never(reason) = rule(definition, task, &execution.tasks[task as usize]) {
        return Judgement::Events(vec![Event::TasksSkipped { tasks: vec![task], reason: reason.into() }]);
    }
    let read = condition::tasks_read(spec);
    let read: Vec<TaskIndex> = read.iter().filter_map(|id| definition.index_of(id)).collect();
    let missing: Vec<TaskIndex> = read.iter().copied().filter(|before| needs(execution, *before, results)).collect();
    if !missing.is_empty() {
        return Judgement::Needs(missing);
    }
    let facts = facts(execution, &read, results);
    let run = || match &spec.action {
        Some(Action::Approval(_)) => Event::ApprovalRequested { task },
        _ => Event::TaskReady { task },
    };
    Judgement::Events(match condition::evaluate(spec, &facts) {
        Verdict::Met => vec![run()],
        Verdict::NotMet { reason } => vec![Event::TasksSkipped { tasks: vec![task], reason }],
        Verdict::Error(failure) => {
            let reason = format!("a condition could not be evaluated: {}", failure.message);
            let error = Event::ConditionError {
                task,
                expression: failure.expression,
                values: failure.values,
                message: failure.message,
            };
            vec![error, Event::TasksSkipped { tasks: vec![task], reason }]
        }
    })
}

/// What conditions and placeholders may look at.
pub fn facts<'a>(execution: &'a Execution, read: &[TaskIndex], results: &Results) -> Facts<'a> {
    let tasks = read.iter().map(|&task| {
        let (spec, state) = (execution.definition.task(task), &execution.tasks[task as usize]);
        // What an attempt left that is not the last one is nothing, even where the same batch happens to hold it.
        let left = results.get(&(execution.id, task)).filter(|_| has_result(state.status));
        let result = left.cloned().unwrap_or_default();
        let facts = TaskFacts {
            status: state.status,
            output: result.output,
            metadata: &spec.metadata,
            exit_code: result.exit_code,
            attempts: state.attempt,
        };
        (spec.id.as_str(), facts)
    });
    Facts {
        execution: ExecutionFacts {
            id: execution.id,
            workflow: &execution.workflow,
            version: execution.version,
            started_at: execution.started_at,
            labels: &execution.labels,
        },
        inputs: Arc::clone(&execution.inputs),
        tasks: tasks.collect(),
    }
}

fn needs(execution: &Execution, task: TaskIndex, results: &Results) -> bool {
    has_result(execution.tasks[task as usize].status) && !results.contains_key(&(execution.id, task))
}

/// Only what an attempt or a person has ended has left anything.
fn has_result(status: TaskStatus) -> bool {
    matches!(status, TaskStatus::Completed | TaskStatus::Failed | TaskStatus::TimedOut)
}
