//! A checked workflow: what executions run. [`Definition`] is a spec with its graph over dense indices, and with what is
//! asked of it so often that it is computed once.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    condition,
    dependency::Graph,
    ids::TaskIndex,
    placeholder, validation,
    workflow::{Action, TaskSpec, TriggerRule, Violation, WorkflowSpec},
};

/// A checked workflow: what an execution runs. Shared by all executions of its version.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    spec: WorkflowSpec,
    graph: Graph,
    index: BTreeMap<String, TaskIndex>,
    /// By task; empty where all are ordinary.
    roles: Vec<Role>,
    /// Tasks whose results conditions look at, ascending.
    looked_at: Vec<TaskIndex>,
    /// Tasks with placeholders, ascending, with the tasks that they read.
    reads: Vec<(TaskIndex, Vec<TaskIndex>)>,
}

/// When a task has its turn in an execution (S-STATE-5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// As soon as what it depends on allows.
    #[default]
    Ordinary,
    /// After all ordinary ones, if the execution will be FAILED.
    OnFailure,
    /// Last, whatever the outcome.
    Finally,
}

impl Role {
    /// All of them, in the order of their turns.
    pub const ALL: [Self; 3] = [Self::Ordinary, Self::OnFailure, Self::Finally];

    /// As the definition calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ordinary => "ordinary",
            Self::OnFailure => "on_failure",
            Self::Finally => "finally",
        }
    }
}

impl Definition {
    /// Checks a spec.
    ///
    /// # Errors
    /// Every fault at once, in the order of the fields.
    pub fn check(spec: WorkflowSpec) -> Result<Arc<Self>, Vec<Violation>> {
        let graph = validation::check(&spec)?;
        Ok(Self::joined(spec, graph))
    }

    /// Takes a spec that was checked when it was stored. Later releases may refuse more at creation; what runs, runs on.
    ///
    /// # Errors
    /// Where its tasks are no graph at all.
    pub fn stored(spec: WorkflowSpec) -> Result<Arc<Self>, Vec<Violation>> {
        let index = spec.tasks.iter().zip(0..).map(|(task, index)| (task.id.as_str(), index)).collect();
        let graph = Graph::build(&spec.tasks, &index)?;
        Ok(Self::joined(spec, graph))
    }

    fn joined(spec: WorkflowSpec, graph: Graph) -> Arc<Self> {
        let index = spec.tasks.iter().zip(0..).map(|(task, index)| (task.id.clone(), index)).collect();
        let roles = roles(&spec, &index);
        let looked_at = looked_at(&spec, &index);
        let reads = reads(&spec, &index);
        Arc::new(Self { spec, graph, index, roles, looked_at, reads })
    }

    /// As its author wrote it.
    pub fn spec(&self) -> &WorkflowSpec {
        &self.spec
    }

    /// Its dependencies.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// How many tasks it has.
    pub fn task_count(&self) -> usize {
        self.spec.tasks.len()
    }

    /// The task at an index of this definition.
    ///
    /// # Panics
    /// Where the index is not of this definition: indices come from the same definition's events only.
    pub fn task(&self, index: TaskIndex) -> &TaskSpec {
        &self.spec.tasks[index as usize]
    }

    /// The index of a task.
    pub fn index_of(&self, task_id: &str) -> Option<TaskIndex> {
        self.index.get(task_id).copied()
    }

    /// When a task has its turn.
    pub fn role(&self, index: TaskIndex) -> Role {
        self.roles.get(index as usize).copied().unwrap_or_default()
    }

    /// The tasks that have their turn then, ascending.
    pub fn tasks_of(&self, role: Role) -> impl Iterator<Item = TaskIndex> + '_ {
        (0..).zip(&self.spec.tasks).map(|(task, _)| task).filter(move |task| self.role(*task) == role)
    }

    /// Whether any condition or `when` looks at what a task left.
    pub fn is_looked_at(&self, index: TaskIndex) -> bool {
        self.looked_at.binary_search(&index).is_ok()
    }

    /// The tasks that the placeholders of a task read; `None`: it has no placeholders.
    pub fn reads_of(&self, index: TaskIndex) -> Option<&[TaskIndex]> {
        let found = self.reads.binary_search_by_key(&index, |(reader, _)| *reader).ok()?;
        Some(&self.reads[found].1)
    }

    /// Whether a task starts as soon as all that it depends on is fulfilled: it has the default rule, no conditions,
    /// and does not wait for a person.
    pub fn is_plain(&self, index: TaskIndex) -> bool {
        let task = self.task(index);
        task.trigger_rule == TriggerRule::AllSucceeded
            && task.conditions.is_empty()
            && task.when.is_empty()
            && !matches!(task.action, Some(Action::Approval(_)))
    }
}

fn roles(spec: &WorkflowSpec, index: &BTreeMap<String, TaskIndex>) -> Vec<Role> {
    if spec.on_failure.is_empty() && spec.finally.is_empty() {
        return Vec::new();
    }
    let mut roles = vec![Role::Ordinary; spec.tasks.len()];
    for (ids, role) in [(&spec.on_failure, Role::OnFailure), (&spec.finally, Role::Finally)] {
        for task in ids.iter().filter_map(|id| index.get(id)) {
            roles[*task as usize] = role;
        }
    }
    roles
}

fn looked_at(spec: &WorkflowSpec, index: &BTreeMap<String, TaskIndex>) -> Vec<TaskIndex> {
    let mut found = Vec::new();
    for task in &spec.tasks {
        found.extend(condition::tasks_read(task).iter().filter_map(|id| index.get(id)));
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn reads(spec: &WorkflowSpec, index: &BTreeMap<String, TaskIndex>) -> Vec<(TaskIndex, Vec<TaskIndex>)> {
    let mut reads = Vec::new();
    let filled = spec.tasks.iter().zip(0..).filter(|(task, _)| placeholder::is_filled_in(task));
    for (task, reader) in filled {
        let ids = placeholder::tasks_read(task);
        let mut read: Vec<TaskIndex> = ids.iter().filter_map(|id| index.get(id).copied()).collect();
        read.sort_unstable();
        read.dedup();
        reads.push((reader, read));
    }
    reads
}
