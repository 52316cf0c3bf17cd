//! What a command must be answered, by what the ledger knows.

use noxd::machine::{
    execution::ExecutionStatus,
    ids::{Actor, AttemptKey},
    message::{Command, Operation, Rejection, Reply},
    task::TaskStatus,
    workflow::Action,
};

use crate::ledger::Ledger;

/// The name of an answer: `Ok`, or of the rejection.
pub fn name_of(answer: &Result<Reply, Rejection>) -> String {
    match answer {
        Ok(_) => "Ok".into(),
        Err(rejection) => format!("{rejection:?}").chars().take_while(|c| c.is_alphanumeric()).collect(),
    }
}

impl Ledger {
    /// The name of the answer that a command has to get.
    pub fn expected(&self, command: &Command, actor: &Actor) -> &'static str {
        match command {
            Command::CreateWorkflow { content } => match self.workflows.get(&content.spec().id) {
                Some((_, false)) => "WorkflowExists",
                _ if self.draining => "Draining",
                _ => "Ok",
            },
            Command::UpdateWorkflow { content, .. } => match self.workflows.get(&content.spec().id) {
                Some((_, false)) if self.draining => "Draining",
                Some((_, false)) => "Ok",
                _ => "WorkflowNotFound",
            },
            Command::DeleteWorkflow { workflow, .. } => {
                let is_active = self.runs.values().any(|run| run.workflow == *workflow && !run.status.is_terminal());
                match self.workflows.get(workflow) {
                    Some((_, false)) if is_active => "InvalidWorkflowState",
                    Some((_, false)) => "Ok",
                    _ => "WorkflowNotFound",
                }
            }
            Command::CreateTemplate { .. } | Command::UpdateTemplate { .. } if self.draining => "Draining",
            Command::CreateTemplate { spec } => self.expected_of_template(&spec.id, None),
            Command::UpdateTemplate { spec, etag } => self.expected_of_template(&spec.id, Some(etag)),
            Command::DeleteTemplate { template, etag } => self.expected_of_template(template, Some(etag)),
            Command::InstantiateTemplate { definition, start, .. } => {
                let inputs = start.iter().flat_map(|start| start.inputs.0.values());
                match self.workflows.get(&definition.spec().id) {
                    Some((_, false)) => "WorkflowExists",
                    _ if self.draining => "Draining",
                    _ if { inputs }.any(|value| !value.is_boolean()) => "InvalidInputs",
                    _ => "Ok",
                }
            }
            Command::StartExecution { workflow, inputs, .. } => match self.workflows.get(workflow) {
                Some((_, false)) if self.draining => "Draining",
                Some((_, false)) if inputs.0.values().any(|value| !value.is_boolean()) => "InvalidInputs",
                Some((_, false)) => "Ok",
                _ => "WorkflowNotFound",
            },
            Command::CreateSchedule { .. }
            | Command::UpdateSchedule { .. }
            | Command::DeleteSchedule { .. }
            | Command::PauseSchedule { .. }
            | Command::ResumeSchedule { .. }
            | Command::TriggerSchedule { .. } => self.expected_of_schedule(command),
            Command::BackfillSchedule { .. } | Command::CancelBackfill { .. } => {
                self.fail("nobody here makes up times")
            }
            Command::RerunExecution { source, tasks, .. } => self.expected_of_rerun(*source, tasks),
            Command::Control { operation, workflow, execution } => {
                let Some(run) = self.runs.get(execution).filter(|run| run.workflow == *workflow) else {
                    return "ExecutionNotFound";
                };
                match (operation, run.status) {
                    (Operation::Cancel, ExecutionStatus::Cancelled) => "Ok",
                    (_, status) if status.is_terminal() => "InvalidWorkflowState",
                    (Operation::Pause | Operation::Resume, _) if run.cancels > 0 => "InvalidWorkflowState",
                    _ => "Ok",
                }
            }
            Command::ResolveApproval { execution, task, .. } => {
                let Some(run) = self.runs.get(execution) else { return "NoSuchExecution" };
                let spec = run.plan.definition.spec();
                let Some(at) = spec.tasks.iter().position(|one| one.id == *task) else {
                    return if run.status.is_terminal() { "NotWaiting" } else { "TaskNotFound" };
                };
                match &spec.tasks[at].action {
                    Some(Action::Approval(approval)) if run.tasks[at].status == TaskStatus::Waiting => {
                        let may =
                            approval.approvers.is_empty() || approval.approvers.iter().any(|one| one == actor.as_str());
                        if may { "Ok" } else { "NotAnApprover" }
                    }
                    _ => "NotWaiting",
                }
            }
            Command::SetConcurrencyLimit { agent, limit } => match (agent, limit) {
                (None, None) | (_, Some(0)) => "InvalidLimit",
                _ => "Ok",
            },
            Command::AttemptSpawned { attempt, .. }
            | Command::AttemptSilent { attempt }
            | Command::AttemptEnded { attempt, .. } => {
                if self.is_live(*attempt) {
                    "Ok"
                } else {
                    "StaleAttempt"
                }
            }
            Command::Drain => "Ok",
        }
    }

    pub fn is_live(&self, key: AttemptKey) -> bool {
        let run = self.runs.get(&key.execution);
        run.is_some_and(|run| {
            let task = &run.tasks[key.task as usize];
            (task.status, task.attempt) == (TaskStatus::Running, key.attempt)
        })
    }

    fn expected_of_rerun(&self, source: noxd::machine::ids::ExecutionId, tasks: &[String]) -> &'static str {
        let Some(run) = self.runs.get(&source) else { return "NoSuchExecution" };
        let spec = run.plan.definition.spec();
        if !matches!(self.workflows.get(&run.workflow), Some((_, false))) {
            return "WorkflowNotFound";
        }
        if !run.status.is_terminal() {
            return "InvalidWorkflowState";
        }
        if tasks.iter().any(|id| !spec.tasks.iter().any(|task| task.id == *id)) {
            return "TaskNotFound";
        }
        let good = |task: usize| {
            matches!(run.tasks[task].status, TaskStatus::Completed | TaskStatus::Skipped) || run.is_excused(task)
        };
        let again = |task: usize| run.plan.role(task) == 0 && (!good(task) || tasks.contains(&spec.tasks[task].id));
        if !(0..run.tasks.len()).any(again) {
            return "InvalidWorkflowState";
        }
        if self.draining { "Draining" } else { "Ok" }
    }
}
