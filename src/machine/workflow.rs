//! What a workflow is: the author's [`WorkflowSpec`] and the checked [`Definition`] that executions run.
//!
//! A spec is data as given, with tasks naming each other by id; it may have faults. [`Definition::check`] turns it into
//! a graph over dense indices or names every fault at once. Nothing here runs anything: see `execution` for that.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    dependency::Graph,
    ids::{TaskIndex, WorkflowId},
    validation,
};

/// Most tasks in one workflow.
pub const MAX_TASKS: usize = 100_000;

/// A workflow as its author wrote it.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkflowSpec {
    /// Its unique name.
    pub id: WorkflowId,
    /// What people call it.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// The nodes of the graph.
    pub tasks: Vec<TaskSpec>,
    /// Free notes.
    pub metadata: BTreeMap<String, String>,
    /// Copied to every execution.
    pub labels: BTreeMap<String, String>,
}

impl WorkflowSpec {
    /// About how many bytes of text it has.
    pub fn weight(&self) -> usize {
        let notes =
            |map: &BTreeMap<String, String>| map.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
        let tasks = self.tasks.iter().map(TaskSpec::weight).sum::<usize>();
        self.description.len() + notes(&self.metadata) + notes(&self.labels) + tasks
    }
}

/// A task as its author wrote it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TaskSpec {
    /// Unique in the workflow.
    pub id: String,
    /// Who does the work; a label where the task has an action of its own.
    pub agent_id: String,
    /// One line for people.
    pub title: String,
    /// More for people.
    pub description: String,
    /// Which of the queued tasks goes first.
    pub priority: Priority,
    /// Ids of the tasks that come before.
    pub dependencies: Vec<String>,
    /// Compared with what tasks before this one left.
    pub conditions: Vec<ConditionSpec>,
    /// An expression that must be true; empty: none.
    pub when: String,
    /// How often and how soon to try again.
    pub retry: Option<RetrySpec>,
    /// Bounds one attempt, in microseconds.
    pub timeout_micros: Option<u64>,
    /// Free notes.
    pub metadata: BTreeMap<String, String>,
    /// How the output is read.
    pub output_format: OutputFormat,
    /// What is done; `None`: the agent's work.
    pub action: Option<Action>,
}

impl TaskSpec {
    fn weight(&self) -> usize {
        let pairs =
            |map: &BTreeMap<String, String>| map.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
        let action = match &self.action {
            Some(Action::Command(command)) => {
                command.argv.iter().map(String::len).sum::<usize>()
                    + pairs(&command.env)
                    + command.stdin.len()
                    + command.working_dir.len()
            }
            Some(Action::Noop { .. }) | None => 0,
        };
        let dependencies = self.dependencies.iter().map(String::len).sum::<usize>();
        self.id.len() + self.title.len() + self.description.len() + dependencies + pairs(&self.metadata) + action
    }
}

/// What a task does.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Runs a program.
    Command(CommandAction),
    /// Does nothing for so many microseconds.
    Noop {
        /// How long.
        duration_micros: u64,
    },
}

/// Runs a program; never a shell line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CommandAction {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Added to what is inherited.
    pub env: BTreeMap<String, String>,
    /// An absolute path; empty: a scratch directory of the execution.
    pub working_dir: String,
    /// Written to standard input; empty: no input.
    pub stdin: String,
}

/// A comparison with what a task left.
#[derive(Clone, Debug, PartialEq)]
pub struct ConditionSpec {
    /// Whose.
    pub target_task_id: String,
    /// What is looked at.
    pub subject: Option<ConditionSubject>,
    /// How it is compared.
    pub operator: Option<Comparison>,
    /// With what.
    pub expected_value: String,
    /// Where in the output, or which key of the metadata.
    pub path: String,
}

/// What a condition looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionSubject {
    /// The task's status.
    Status,
    /// The task's output.
    Output,
    /// The task's metadata.
    Metadata,
}

/// How a condition compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// The same text.
    Equals,
    /// Another text.
    NotEquals,
    /// Part of the text, or an element of the array.
    Contains,
    /// A greater number.
    GreaterThan,
    /// A lesser number.
    LessThan,
}

/// How often and how soon to try again. Spans are seconds as the author wrote them, so that faults can be told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RetrySpec {
    /// Counts the first try.
    pub max_attempts: u32,
    /// How the delay grows.
    pub backoff: Option<BackoffSpec>,
    /// Which failures; empty: all.
    pub retry_on_errors: Vec<String>,
    /// Bounds the delay, in seconds.
    pub max_delay_seconds: Option<f64>,
    /// Part of the delay that chance may take away.
    pub jitter: f64,
}

/// How the delay grows.
#[derive(Clone, Debug, PartialEq)]
pub enum BackoffSpec {
    /// The same each time.
    Fixed {
        /// In seconds.
        delay: f64,
    },
    /// Multiplied each time.
    Exponential {
        /// In seconds.
        initial_delay: f64,
        /// By what.
        multiplier: f64,
    },
    /// The same step more each time.
    Linear {
        /// In seconds.
        initial_delay: f64,
        /// In seconds.
        increment: f64,
    },
}

/// Strict classes: a queued task of a higher one goes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Before everything else.
    Critical,
    /// Before medium.
    High,
    /// The default.
    #[default]
    Medium,
    /// After everything else.
    Low,
}

/// How an attempt's output is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutputFormat {
    /// As text.
    #[default]
    Text,
    /// As one JSON document.
    Json,
}

/// A fault of a definition, or something worth a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Where: `tasks[3].dependencies[0]`.
    pub field: String,
    /// What kind.
    pub reason: Reason,
    /// What is wrong and what to do.
    pub description: String,
}

/// The kinds of fault; each has one stable name on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Tasks wait for each other.
    CircularDependency,
    /// A dependency names no task.
    DependencyNotFound,
    /// Two tasks have one id.
    DuplicateTaskId,
    /// A malformed id.
    InvalidId,
    /// A condition or `when` that can never be evaluated.
    ConditionInvalid,
    /// A `{{ … }}` that can never be filled.
    PlaceholderInvalid,
    /// A value that is out of range.
    InvalidValue,
    /// A value that must be given is not.
    MissingValue,
    /// Too many or too large.
    LimitExceeded,
    /// Valid, but this build cannot do it.
    NotSupported,
}

impl Reason {
    /// All of them, for the table in the docs and its test.
    pub const ALL: [Self; 10] = [
        Self::CircularDependency,
        Self::DependencyNotFound,
        Self::DuplicateTaskId,
        Self::InvalidId,
        Self::ConditionInvalid,
        Self::PlaceholderInvalid,
        Self::InvalidValue,
        Self::MissingValue,
        Self::LimitExceeded,
        Self::NotSupported,
    ];

    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CircularDependency => "CIRCULAR_DEPENDENCY",
            Self::DependencyNotFound => "DEPENDENCY_NOT_FOUND",
            Self::DuplicateTaskId => "DUPLICATE_TASK_ID",
            Self::InvalidId => "INVALID_ID",
            Self::ConditionInvalid => "CONDITION_INVALID",
            Self::PlaceholderInvalid => "PLACEHOLDER_INVALID",
            Self::InvalidValue => "INVALID_VALUE",
            Self::MissingValue => "MISSING_VALUE",
            Self::LimitExceeded => "LIMIT_EXCEEDED",
            Self::NotSupported => "NOT_SUPPORTED",
        }
    }

    /// The reason of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == name)
    }
}

/// A checked workflow: what an execution runs. Shared by all executions of its version.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    spec: WorkflowSpec,
    graph: Graph,
    index: BTreeMap<String, TaskIndex>,
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
        Arc::new(Self { spec, graph, index })
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
}
