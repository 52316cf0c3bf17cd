//! What expressions, conditions and placeholders may look at: values handed in by whoever evaluates.
//!
//! Read first: [`Facts`]. What is done with them is in `condition` and `placeholder`.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    ids::{ExecutionId, Timestamp, WorkflowId},
    task::TaskStatus,
};

/// Everything that may be looked at. Of tasks only those that are read need to be here: see
/// [`condition::tasks_read`](super::condition::tasks_read) and [`placeholder::tasks_read`](super::placeholder::tasks_read).
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// The execution: `execution.…`.
    pub execution: ExecutionFacts<'a>,
    /// What it was given: a JSON object with the defaults filled in, as [`input::resolve`](super::input::resolve)
    /// makes it; `{}` where it has none. Parsed only if it is read.
    pub inputs: Arc<str>,
    /// Tasks by id: `tasks.<id>.…`.
    pub tasks: BTreeMap<&'a str, TaskFacts<'a>>,
}

/// What is known of the execution: `execution.id`, `.workflow_id`, `.version`, `.started_at`, `.labels`.
#[derive(Clone, Copy, Debug)]
pub struct ExecutionFacts<'a> {
    /// `execution.id`: a UUID as text.
    pub id: ExecutionId,
    /// `execution.workflow_id`: text.
    pub workflow: &'a WorkflowId,
    /// `execution.version`: a number, of the definition that runs.
    pub version: u64,
    /// `execution.started_at`: text, RFC 3339 in UTC with whole seconds, as in `2026-01-31T08:00:00Z`.
    pub started_at: Timestamp,
    /// `execution.labels`: an object of text.
    pub labels: &'a BTreeMap<String, String>,
}

/// What is known of a task that comes before.
#[derive(Clone, Debug)]
pub struct TaskFacts<'a> {
    /// `status`: text, `COMPLETED`.
    pub status: TaskStatus,
    /// `output`: any JSON, given as its text. `None`: it left none, and to look at it is a fault. Parsed only if it is
    /// read, and then once.
    pub output: Option<Arc<str>>,
    /// `metadata`: an object of text, as the definition has it.
    pub metadata: &'a BTreeMap<String, String>,
    /// `exit_code`: a number. `None`: no program exited, and to look at it is a fault.
    pub exit_code: Option<i32>,
    /// `attempts`: a number; those that were interrupted count.
    pub attempts: u32,
}

#[cfg(test)]
#[path = "facts_tests.rs"]
pub(crate) mod tests;
