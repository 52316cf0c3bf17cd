//! What the stories of conditions and placeholders look at: one execution with a few tasks.

use std::{collections::BTreeMap, sync::Arc};

use super::*;

/// How a task ended, what it left, and with which exit code.
type Left = (TaskStatus, Option<Arc<str>>, Option<i32>);

/// Owns what [`Facts`] borrow.
pub struct World {
    workflow: WorkflowId,
    notes: BTreeMap<String, String>,
    none: BTreeMap<String, String>,
    inputs: Arc<str>,
    tasks: BTreeMap<String, Left>,
}

impl World {
    pub fn new() -> Self {
        Self {
            workflow: WorkflowId::parse("nightly").expect("an id"),
            notes: BTreeMap::from([("team".into(), "tools".into()), ("size".into(), "12".into())]),
            none: BTreeMap::new(),
            inputs: r#"{"env":"dev","count":3}"#.into(),
            tasks: BTreeMap::new(),
        }
    }

    /// What the execution was given.
    pub fn given(mut self, inputs: &str) -> Self {
        self.inputs = inputs.into();
        self
    }

    /// A task that is COMPLETED and left this JSON.
    pub fn output(mut self, id: &str, json: &str) -> Self {
        self.tasks.insert(id.into(), (TaskStatus::Completed, Some(json.into()), Some(0)));
        self
    }

    /// A task that ended so, and left nothing.
    pub fn ended(mut self, id: &str, status: TaskStatus) -> Self {
        self.tasks.insert(id.into(), (status, None, None));
        self
    }

    pub fn facts(&self) -> Facts<'_> {
        let tasks = self.tasks.iter().map(|(id, (status, output, exit_code))| {
            let output = output.as_ref().map(Arc::clone);
            let task = TaskFacts { status: *status, output, metadata: &self.notes, exit_code: *exit_code, attempts: 2 };
            (id.as_str(), task)
        });
        Facts {
            execution: ExecutionFacts {
                id: ExecutionId(7),
                workflow: &self.workflow,
                version: 4,
                started_at: Timestamp(1_769_846_400_999_999),
                labels: if self.tasks.is_empty() { &self.none } else { &self.notes },
            },
            inputs: Arc::clone(&self.inputs),
            tasks: tasks.collect(),
        }
    }
}
