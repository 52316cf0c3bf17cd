//! What is ordered: what the executor is to do once the events behind it are durable.

use std::{collections::BTreeMap, sync::Arc};

use super::TimeLimit;
use crate::machine::{
    ids::{AttemptKey, ExecutionId, Revision, TaskIndex, Timestamp, WorkflowId},
    task::TaskStatus,
    workflow::Definition,
};

/// What the executor is to do. It leaves the engine only when the events behind it are durable.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Start an attempt.
    StartAttempt {
        /// Which.
        attempt: AttemptKey,
        /// Of which workflow.
        workflow: WorkflowId,
        /// What to do is in its task.
        definition: Arc<Definition>,
        /// What the execution was given: a JSON object.
        inputs: Arc<str>,
        /// What the task's placeholders may look at; `None`: it has none.
        filling: Option<Box<Filling>>,
    },
    /// End an attempt: SIGTERM, grace, SIGKILL.
    StopAttempt {
        /// Which.
        attempt: AttemptKey,
        /// Why.
        cause: StopCause,
    },
}

/// What the placeholders of a task may look at, but for what tasks before it left.
#[derive(Clone, Debug, PartialEq)]
pub struct Filling {
    /// The version that runs.
    pub version: u64,
    /// When the execution started.
    pub started_at: Timestamp,
    /// The execution's labels.
    pub labels: BTreeMap<String, String>,
    /// The tasks that they read, ascending.
    pub reads: Vec<TaskRead>,
}

/// How a task stands whose result another one reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskRead {
    /// Which task.
    pub task: TaskIndex,
    /// Where it stands.
    pub status: TaskStatus,
    /// Its attempts, interrupted ones too.
    pub attempts: u32,
    /// The execution whose result it has.
    pub source: ExecutionId,
    /// Revision of its end there; 0: to be looked for, or it left nothing.
    pub last_end: Revision,
}

/// Why noxd ends an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopCause {
    /// Its execution was cancelled.
    Cancelled,
    /// Its own time is up, or its silence was too long.
    TimedOut(TimeLimit),
    /// Its execution's time is up.
    ExecutionTimedOut,
}
