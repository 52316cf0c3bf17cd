//! What is answered: why a command was refused, or what came of it.

use crate::machine::{
    ids::{AttemptKey, ExecutionId, ScheduleId, TemplateId, WorkflowId},
    workflow::Violation,
};

/// Why a command was refused. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// No workflow of that id.
    #[error("workflow `{0}` does not exist; `noxctl workflow list` shows those that do")]
    WorkflowNotFound(WorkflowId),
    /// The id is taken.
    #[error("workflow `{0}` exists already; update it, or choose another id")]
    WorkflowExists(WorkflowId),
    /// Somebody else changed it first.
    #[error("workflow `{workflow}` has etag {current} now, not {given}; read it again and repeat the change")]
    EtagMismatch {
        /// Which.
        workflow: WorkflowId,
        /// What it has.
        current: String,
        /// What was given.
        given: String,
    },
    /// No template of that id.
    #[error("template `{0}` does not exist; `noxctl template list` shows those that do")]
    TemplateNotFound(TemplateId),
    /// The id is taken.
    #[error("template `{0}` exists already; update it, or choose another id")]
    TemplateExists(TemplateId),
    /// Somebody else changed it first.
    #[error("template `{template}` has etag {current} now, not {given}; read it again and repeat the change")]
    TemplateEtagMismatch {
        /// Which.
        template: TemplateId,
        /// What it has.
        current: String,
        /// What was given.
        given: String,
    },
    /// Each version is kept, and there are many.
    #[error(
        "template `{0}` has {max} versions, and more are not kept; store it under another id",
        max = crate::machine::template::MAX_VERSIONS
    )]
    TooManyVersions(TemplateId),
    /// No schedule of that id.
    #[error("schedule `{0}` does not exist; `noxctl schedule list` shows those that do")]
    ScheduleNotFound(ScheduleId),
    /// The id is taken.
    #[error("schedule `{0}` exists already; update it, or choose another id")]
    ScheduleExists(ScheduleId),
    /// Somebody else changed it first.
    #[error("schedule `{schedule}` has etag {current} now, not {given}; read it again and repeat the change")]
    ScheduleEtagMismatch {
        /// Which.
        schedule: ScheduleId,
        /// What it has.
        current: String,
        /// What was given.
        given: String,
    },
    /// It says no time, or none to come.
    #[error("the schedule has faults")]
    InvalidSchedule {
        /// All faults.
        violations: Vec<Violation>,
    },
    /// The span of a backfill is none, or too long.
    #[error("the backfill has faults")]
    InvalidBackfill {
        /// All faults.
        violations: Vec<Violation>,
    },
    /// More would not fit.
    #[error(
        "{waiting} times of earlier backfills of schedule `{schedule}` still wait, and at most {most} may; try again \
         when they have started, or cancel them (`noxctl schedule cancel-backfill`)",
        most = crate::machine::schedule::BACKFILL_AT_MOST
    )]
    BackfillFull {
        /// Which.
        schedule: ScheduleId,
        /// How many wait.
        waiting: usize,
    },
    /// A trigger of a schedule that already has as many executions as it keeps in mind.
    #[error(
        "{running} executions of schedule `{schedule}` have not ended; one more is started when one of them has, or where \
         its `overlap_policy` is ALLOW_ALL"
    )]
    ScheduleBusy {
        /// Which.
        schedule: ScheduleId,
        /// How many have not ended.
        running: usize,
    },
    /// No execution of that id in that workflow.
    #[error("execution {execution} of workflow `{workflow}` does not exist")]
    ExecutionNotFound {
        /// Of which workflow.
        workflow: WorkflowId,
        /// Which.
        execution: ExecutionId,
    },
    /// No execution of that id.
    #[error("execution {0} does not exist")]
    NoSuchExecution(ExecutionId),
    /// No task of that id in that execution.
    #[error("execution {execution} has no task `{task}`")]
    TaskNotFound {
        /// Which execution.
        execution: ExecutionId,
        /// Which task.
        task: String,
    },
    /// What an execution was given is not what the workflow declares.
    #[error("the inputs do not fit workflow `{workflow}`")]
    InvalidInputs {
        /// Which workflow.
        workflow: WorkflowId,
        /// All faults.
        violations: Vec<Violation>,
    },
    /// The task does not wait for an answer.
    #[error("task `{task}` of execution {execution} does not wait for an answer: {why}")]
    NotWaiting {
        /// Which execution.
        execution: ExecutionId,
        /// Which task.
        task: String,
        /// What it is instead.
        why: String,
    },
    /// Another person must answer.
    #[error("`{actor}` may not answer task `{task}`; its approvers are {approvers}")]
    NotAnApprover {
        /// Which task.
        task: String,
        /// Who tried.
        actor: String,
        /// Who may.
        approvers: String,
    },
    /// No limit at all.
    #[error("{0}")]
    InvalidLimit(String),
    /// Not in this state.
    #[error("cannot {operation} workflow `{workflow}`: {why}")]
    InvalidWorkflowState {
        /// Which.
        workflow: WorkflowId,
        /// What was wanted.
        operation: &'static str,
        /// Why not, and what to do.
        why: String,
    },
    /// A report about an attempt that is not the live one.
    #[error("attempt {} of task {} in execution {} is not the live one", .0.attempt, .0.task, .0.execution)]
    StaleAttempt(AttemptKey),
    /// More would not fit into memory.
    #[error(
        "executions with {tasks} tasks run or wait already, and more cannot be queued; try again when some have ended"
    )]
    QueueFull {
        /// How many tasks they have.
        tasks: usize,
    },
    /// noxd is shutting down.
    #[error("noxd is shutting down; try again when it is back")]
    Draining,
}

/// What a command that was accepted answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A workflow was changed, to this version.
    Workflow {
        /// Which.
        workflow: WorkflowId,
        /// Its version since.
        version: u64,
    },
    /// A workflow was stored and run in one step.
    Started {
        /// Which.
        workflow: WorkflowId,
        /// Its version.
        version: u64,
        /// The execution.
        execution: ExecutionId,
    },
    /// A template was changed, to this version.
    Template {
        /// Which.
        template: TemplateId,
        /// Its version since.
        version: u64,
    },
    /// A schedule was changed; this is its version.
    Schedule {
        /// Which.
        schedule: ScheduleId,
        /// Its version since.
        version: u64,
    },
    /// Executions that were started, or that a control is about.
    Executions(Vec<ExecutionId>),
    /// A fact was taken.
    Taken,
}
