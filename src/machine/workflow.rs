//! What a workflow is, as its author wrote it: the [`WorkflowSpec`], and the [`Violation`]s that it may have.
//!
//! A spec is data as given, with tasks naming each other by id. [`Definition::check`] turns it into what executions run,
//! or names every fault at once. Nothing here runs anything: see `execution` for that.

use std::collections::BTreeMap;

pub use super::definition::{Definition, Role};
use super::ids::WorkflowId;

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
    /// Most attempts alive at once in one execution: by agent id, `group:<parallel_group>`, or `*` for all.
    pub concurrency_limits: BTreeMap<String, u32>,
    /// What a failed task means for the rest.
    pub failure_policy: FailurePolicy,
    /// Ids of the tasks that run after all ordinary ones, if the execution will be FAILED.
    pub on_failure: Vec<String>,
    /// Ids of the tasks that run last, whatever the outcome.
    pub finally: Vec<String>,
    /// Bounds a whole execution, in microseconds.
    pub execution_timeout_micros: Option<u64>,
    /// What an execution may or must be given.
    pub inputs: Vec<InputSpec>,
}

impl WorkflowSpec {
    /// A workflow without tasks, and without policies other than the defaults.
    pub fn named(id: WorkflowId) -> Self {
        Self {
            id,
            name: String::new(),
            description: String::new(),
            tasks: Vec::new(),
            metadata: BTreeMap::new(),
            labels: BTreeMap::new(),
            concurrency_limits: BTreeMap::new(),
            failure_policy: FailurePolicy::default(),
            on_failure: Vec::new(),
            finally: Vec::new(),
            execution_timeout_micros: None,
            inputs: Vec::new(),
        }
    }

    /// About how many bytes of text it has.
    pub fn weight(&self) -> usize {
        let notes =
            |map: &BTreeMap<String, String>| map.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
        let tasks = self.tasks.iter().map(TaskSpec::weight).sum::<usize>();
        let handlers = self.on_failure.iter().chain(&self.finally).map(String::len).sum::<usize>();
        let limits = self.concurrency_limits.keys().map(String::len).sum::<usize>();
        let inputs = self.inputs.iter().map(InputSpec::weight).sum::<usize>();
        self.description.len() + notes(&self.metadata) + notes(&self.labels) + tasks + handlers + limits + inputs
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
    /// When they count as fulfilled.
    pub trigger_rule: TriggerRule,
    /// Compared with what tasks before this one left.
    pub conditions: Vec<ConditionSpec>,
    /// An expression that must be true; empty: none.
    pub when: String,
    /// How often and how soon to try again.
    pub retry: Option<RetrySpec>,
    /// Bounds one attempt, in microseconds.
    pub timeout_micros: Option<u64>,
    /// Bounds the wait in the queue for the first attempt, in microseconds.
    pub queue_timeout_micros: Option<u64>,
    /// Bounds the silence of an attempt, in microseconds.
    pub idle_timeout_micros: Option<u64>,
    /// What `group:<name>` of the workflow's limits bounds; empty: none.
    pub parallel_group: String,
    /// Its failure neither fails the execution nor blocks what comes after.
    pub allow_failure: bool,
    /// What the end of noxd under it means.
    pub on_interrupt: OnInterrupt,
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
            Some(Action::Approval(approval)) => {
                approval.prompt.len() + approval.approvers.iter().map(String::len).sum::<usize>()
            }
            Some(Action::Noop { .. }) | None => 0,
        };
        let texts = |list: &[String]| list.iter().map(String::len).sum::<usize>();
        let conditions = self.conditions.iter();
        let conditions = conditions.map(|one| one.target_task_id.len() + one.expected_value.len() + one.path.len());
        let retry = self.retry.as_ref().map_or(0, RetrySpec::weight);
        self.id.len()
            + self.title.len()
            + self.description.len()
            + self.when.len()
            + texts(&self.dependencies)
            + conditions.sum::<usize>()
            + retry
            + pairs(&self.metadata)
            + action
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
    /// Waits for a person's yes or no.
    Approval(ApprovalAction),
}

/// Waits for a person's yes or no; holds no slot meanwhile.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ApprovalAction {
    /// What is asked.
    pub prompt: String,
    /// Who may answer, as events name callers (`uid:1000`); empty: anybody.
    pub approvers: Vec<String>,
    /// How long the answer may take, in microseconds; `None`: for ever.
    pub timeout_micros: Option<u64>,
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

impl RetrySpec {
    /// About how many bytes of text it has.
    pub fn weight(&self) -> usize {
        self.retry_on_errors.iter().map(String::len).sum()
    }
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

/// When the dependencies of a task count as fulfilled (S-DEP-1, S-DEP-3). Failed is FAILED, TIMED_OUT, CANCELLED or
/// BLOCKED.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TriggerRule {
    /// All COMPLETED or SKIPPED, or FAILED or TIMED_OUT where that is allowed.
    #[default]
    AllSucceeded,
    /// The same, but a SKIPPED one makes the task SKIPPED.
    AllCompleted,
    /// All ended, however.
    AllDone,
    /// One COMPLETED, whatever the rest.
    OneSucceeded,
    /// One failed, whatever the rest.
    OneFailed,
    /// All failed.
    AllFailed,
}

/// What a failed task means for the rest of its execution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FailurePolicy {
    /// What does not depend on it goes on.
    #[default]
    Continue,
    /// The rest is cancelled.
    FailFast,
}

/// What it means for a task that noxd went down under its attempt (S-RETRY-7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnInterrupt {
    /// It is queued again, and the attempt does not count.
    #[default]
    Retry,
    /// It is FAILED.
    Fail,
}

/// An input that an execution may or must be given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InputSpec {
    /// How expressions call it: `inputs.<name>`.
    pub name: String,
    /// What it may hold.
    pub kind: ParameterKind,
    /// Without a default, it must be given.
    pub required: bool,
    /// Taken where it is not given: JSON text.
    pub default_value: Option<String>,
    /// For people.
    pub description: String,
    /// What a string must match as a whole; empty: anything.
    pub validation_regex: String,
}

impl InputSpec {
    pub(super) fn weight(&self) -> usize {
        let default = self.default_value.as_ref().map_or(0, String::len);
        self.name.len() + default + self.description.len() + self.validation_regex.len()
    }
}

/// What an input, or a template's parameter, may hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ParameterKind {
    /// Any text.
    #[default]
    String,
    /// A whole number.
    Integer,
    /// True or false.
    Boolean,
    /// The id of an agent.
    AgentId,
    /// The id of a task.
    TaskId,
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
    /// A parameter of a template that must be given is not.
    MissingTemplateParameter,
    /// An expression that says no time.
    InvalidCronExpression,
    /// Too many or too large.
    LimitExceeded,
    /// Valid, but this build cannot do it.
    NotSupported,
}

impl Reason {
    /// All of them, for the table in the docs and its test.
    pub const ALL: [Self; 12] = [
        Self::CircularDependency,
        Self::DependencyNotFound,
        Self::DuplicateTaskId,
        Self::InvalidId,
        Self::ConditionInvalid,
        Self::PlaceholderInvalid,
        Self::InvalidValue,
        Self::MissingValue,
        Self::MissingTemplateParameter,
        Self::InvalidCronExpression,
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
            Self::MissingTemplateParameter => "MISSING_TEMPLATE_PARAMETER",
            Self::InvalidCronExpression => "INVALID_CRON_EXPRESSION",
            Self::LimitExceeded => "LIMIT_EXCEEDED",
            Self::NotSupported => "NOT_SUPPORTED",
        }
    }

    /// The reason of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == name)
    }
}
