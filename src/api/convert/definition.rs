//! Definitions: what a client wrote to a checked definition, or to every fault at once; and back.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{duration, micros_of, timestamp};
use crate::{
    machine::{
        execution::ExecutionStatus,
        ids::WorkflowId,
        message::{Content, WorkflowRecord},
        workflow::{
            Action, BackoffSpec, CommandAction, Comparison, ConditionSpec, ConditionSubject, Definition, MAX_TASKS,
            OutputFormat, Priority, Reason, RetrySpec, TaskSpec, Violation, WorkflowSpec,
        },
    },
    proto::v1,
};

/// Faults that are stored with a draft; ValidateWorkflow tells all.
const KEPT_FAULTS: usize = 1_000;

/// A definition on its way in.
#[derive(Debug)]
pub struct Parsed {
    /// As the machine takes it; absent where even the id is unusable.
    pub spec: Option<WorkflowSpec>,
    /// Values that are no values at all: they cannot stand in a draft either.
    malformed: Vec<Violation>,
    /// Valid, but more than this build can do.
    unsupported: Vec<Violation>,
}

impl Parsed {
    /// What can be stored: ready to run or, on request, a draft.
    ///
    /// # Errors
    /// Every fault at once; those that a client can mend before those that only another build can.
    pub fn into_content(self, save_as_draft: bool) -> Result<Content, Vec<Violation>> {
        let Self { spec, malformed, unsupported } = self;
        let Some(spec) = spec else { return Err(in_order(malformed, unsupported)) };
        let sound = malformed.is_empty() && unsupported.is_empty();
        match Definition::check(spec.clone()) {
            Ok(definition) if sound => Ok(Content::Ready(definition)),
            Err(violations) if sound && save_as_draft => {
                let mut violations = in_order(violations, Vec::new());
                violations.truncate(KEPT_FAULTS);
                Ok(Content::Draft { spec: spec.into(), violations })
            }
            Ok(_) => Err(in_order(malformed, unsupported)),
            Err(violations) => Err(in_order([malformed, violations].concat(), unsupported)),
        }
    }
}

/// Faults in the order of the fields, as a person goes through a file; what only another build can do comes last, and
/// not for a field that is at fault anyway.
fn in_order(mut faults: Vec<Violation>, mut unsupported: Vec<Violation>) -> Vec<Violation> {
    let at_fault: HashSet<String> = faults.iter().map(|fault| fault.field.clone()).collect();
    unsupported.retain(|other| !at_fault.contains(&other.field));
    faults.sort_by_cached_key(|fault| place(&fault.field));
    faults.extend(unsupported);
    faults
}

/// Sorts `tasks[2]` before `tasks[10]`.
fn place(field: &str) -> Vec<(u64, String)> {
    let mut parts = Vec::new();
    let mut rest = field;
    while !rest.is_empty() {
        let words = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let digits = rest[words..].find(|c: char| !c.is_ascii_digit()).map_or(rest.len(), |end| words + end);
        let number = rest[words..digits].parse().unwrap_or(u64::MAX);
        parts.push((0, rest[..words].to_string()));
        parts.push((number, String::new()));
        rest = &rest[digits..];
    }
    parts
}

/// Takes a definition apart. An empty id becomes a UUIDv7.
#[expect(clippy::disallowed_methods, reason = "ids of what clients ask for are made at the edge, and stored")]
pub fn parse(workflow: v1::Workflow) -> Parsed {
    let mut parse = Parse::default();
    if workflow.tasks.len() > MAX_TASKS {
        // Far too many are not looked at one by one.
        let words = format!("{} tasks; at most {MAX_TASKS} are allowed", workflow.tasks.len());
        parse.malformed("tasks", Reason::LimitExceeded, words);
        return Parsed { spec: None, malformed: parse.malformed, unsupported: parse.unsupported };
    }
    parse.unsupported_workflow_fields(&workflow);
    let id = if workflow.id.is_empty() { uuid::Uuid::now_v7().to_string() } else { workflow.id };
    let id = WorkflowId::parse(&id).map_err(|words| parse.malformed("id", Reason::InvalidId, words)).ok();
    let tasks = workflow.tasks.into_iter().enumerate().map(|(at, task)| parse.task(at, task)).collect();
    let spec = id.map(|id| WorkflowSpec {
        name: workflow.name,
        description: workflow.description,
        tasks,
        metadata: sorted(workflow.metadata),
        labels: sorted(workflow.labels),
        ..WorkflowSpec::named(id)
    });
    Parsed { spec, malformed: parse.malformed, unsupported: parse.unsupported }
}

fn sorted(map: HashMap<String, String>) -> BTreeMap<String, String> {
    map.into_iter().collect()
}

#[derive(Default)]
struct Parse {
    malformed: Vec<Violation>,
    unsupported: Vec<Violation>,
}

impl Parse {
    fn malformed(&mut self, field: &str, reason: Reason, description: String) {
        self.malformed.push(Violation { field: field.into(), reason, description });
    }

    /// A field that is set and that this build cannot honour is refused, never ignored (S-DEF-2).
    fn refuse(&mut self, set: bool, field: &str, instead: &str) {
        if set {
            let description = format!("this build of noxd cannot do it yet; {instead}");
            self.unsupported.push(Violation { field: field.into(), reason: Reason::NotSupported, description });
        }
    }

    fn unsupported_workflow_fields(&mut self, workflow: &v1::Workflow) {
        const LEAVE_OUT: &str = "leave it out";
        self.refuse(workflow.notification_config.is_some(), "notification_config", LEAVE_OUT);
        self.refuse(!workflow.concurrency_limits.is_empty(), "concurrency_limits", "noxd's own limit holds for all");
        let mut impossible: Vec<&String> =
            workflow.concurrency_limits.iter().filter(|(_, limit)| **limit == 0).map(|(name, _)| name).collect();
        impossible.sort();
        for name in impossible {
            let words = "a limit of 0 would let nothing run; it is at least 1".to_string();
            self.malformed(&format!("concurrency_limits[{name:?}]"), Reason::InvalidValue, words);
        }
        let fail_fast = workflow.failure_policy == v1::FailurePolicy::FailFast as i32;
        self.refuse(fail_fast, "failure_policy", "CONTINUE is the default");
        if v1::FailurePolicy::try_from(workflow.failure_policy).is_err() {
            self.unknown("failure_policy", workflow.failure_policy);
        }
        self.refuse(!workflow.on_failure.is_empty(), "on_failure", LEAVE_OUT);
        self.refuse(!workflow.finally.is_empty(), "finally", LEAVE_OUT);
        self.refuse(workflow.execution_timeout.is_some(), "execution_timeout", "give each task a `timeout`");
        self.refuse(!workflow.inputs.is_empty(), "inputs", "put the values into the definition");
    }

    fn unknown(&mut self, field: &str, number: i32) {
        self.malformed(field, Reason::InvalidValue, format!("{number} is none of its values"));
    }

    fn task(&mut self, at: usize, task: v1::Task) -> TaskSpec {
        let field = |name: &str| format!("tasks[{at}].{name}");
        self.unsupported_task_fields(&field, &task);
        if v1::TriggerRule::try_from(task.trigger_rule).is_err() {
            self.unknown(&field("trigger_rule"), task.trigger_rule);
        }
        let priority = self.priority(&field("priority"), task.priority);
        let output_format = self.output_format(&field("output_format"), task.output_format);
        let timeout_micros = task.timeout.as_ref().and_then(|span| self.span(&field("timeout"), span));
        let conditions = task
            .conditions
            .into_iter()
            .enumerate()
            .map(|(i, condition)| self.condition(&field(&format!("conditions[{i}]")), condition))
            .collect();
        let retry = task.retry_config.map(Self::retry);
        let action = match task.action {
            Some(v1::task::Action::Command(command)) => Some(Action::Command(CommandAction {
                argv: command.argv,
                env: sorted(command.env),
                working_dir: command.working_dir,
                stdin: command.stdin,
            })),
            Some(v1::task::Action::Noop(noop)) => {
                let span = noop.duration.as_ref().and_then(|span| self.span(&field("noop.duration"), span));
                Some(Action::Noop { duration_micros: span.unwrap_or(0) })
            }
            Some(v1::task::Action::Approval(_)) | None => None,
        };
        TaskSpec {
            id: task.id,
            agent_id: task.agent_id,
            title: task.title,
            description: task.description,
            priority,
            dependencies: task.dependencies,
            conditions,
            when: task.when,
            retry,
            timeout_micros,
            metadata: sorted(task.metadata),
            output_format,
            action,
            ..TaskSpec::default()
        }
    }

    fn unsupported_task_fields(&mut self, field: &dyn Fn(&str) -> String, task: &v1::Task) {
        let mut refuse = |set, name: &str, instead: &str| self.refuse(set, &field(name), instead);
        let rule = task.trigger_rule;
        let known = v1::TriggerRule::try_from(rule).is_ok();
        let other_rule = known && rule != 0 && rule != v1::TriggerRule::AllSucceeded as i32;
        refuse(other_rule, "trigger_rule", "ALL_SUCCEEDED is the default");
        refuse(!task.conditions.is_empty(), "conditions", "decide inside the command");
        refuse(!task.when.is_empty(), "when", "decide inside the command");
        refuse(task.retry_config.is_some(), "retry_config", "retry inside the command");
        refuse(task.queue_timeout.is_some(), "queue_timeout", "leave it out");
        refuse(task.idle_timeout.is_some(), "idle_timeout", "use `timeout`");
        refuse(!task.parallel_group.is_empty(), "parallel_group", "noxd's own limit holds for all");
        refuse(task.allow_failure, "allow_failure", "let the command exit with 0");
        let placeholder = crate::machine::expression::has_placeholder;
        let pass_by_file = "pass values by files in a working directory that both tasks have";
        refuse(placeholder(&task.title), "title", "write it out");
        refuse(placeholder(&task.description), "description", "write it out");
        match &task.action {
            Some(v1::task::Action::Command(command)) => {
                for (at, element) in command.argv.iter().enumerate() {
                    refuse(placeholder(element), &format!("command.argv[{at}]"), pass_by_file);
                }
                for (name, value) in sorted(command.env.clone()) {
                    refuse(placeholder(&value), &format!("command.env[{name:?}]"), pass_by_file);
                }
                refuse(placeholder(&command.stdin), "command.stdin", pass_by_file);
            }
            Some(v1::task::Action::Noop(_)) => {}
            Some(v1::task::Action::Approval(_)) => refuse(true, "approval", "pause the execution instead"),
            None => refuse(true, "action", "agents cannot do work yet: give the task `command` or `noop`"),
        }
    }

    fn span(&mut self, field: &str, span: &pbjson_types::Duration) -> Option<u64> {
        micros_of(field, span).map_err(|fault| self.malformed.push(fault)).ok()
    }

    fn priority(&mut self, field: &str, number: i32) -> Priority {
        match v1::TaskPriority::try_from(number) {
            Ok(v1::TaskPriority::Unspecified | v1::TaskPriority::Medium) => Priority::Medium,
            Ok(v1::TaskPriority::Low) => Priority::Low,
            Ok(v1::TaskPriority::High) => Priority::High,
            Ok(v1::TaskPriority::Critical) => Priority::Critical,
            Err(_) => {
                self.unknown(field, number);
                Priority::Medium
            }
        }
    }

    fn output_format(&mut self, field: &str, number: i32) -> OutputFormat {
        match v1::OutputFormat::try_from(number) {
            Ok(v1::OutputFormat::Unspecified | v1::OutputFormat::Text) => OutputFormat::Text,
            Ok(v1::OutputFormat::Json) => OutputFormat::Json,
            Err(_) => {
                self.unknown(field, number);
                OutputFormat::Text
            }
        }
    }

    fn condition(&mut self, field: &str, condition: v1::TaskCondition) -> ConditionSpec {
        use v1::{ComparisonOperator as Operator, ConditionType as Type};
        let subject = match Type::try_from(condition.condition_type) {
            Ok(Type::TaskStatus) => Some(ConditionSubject::Status),
            Ok(Type::TaskOutput) => Some(ConditionSubject::Output),
            Ok(Type::TaskMetadata) => Some(ConditionSubject::Metadata),
            Ok(Type::Unspecified) => None,
            Err(_) => {
                self.unknown(&format!("{field}.condition_type"), condition.condition_type);
                None
            }
        };
        let operator = match Operator::try_from(condition.operator) {
            Ok(Operator::Equals) => Some(Comparison::Equals),
            Ok(Operator::NotEquals) => Some(Comparison::NotEquals),
            Ok(Operator::Contains) => Some(Comparison::Contains),
            Ok(Operator::GreaterThan) => Some(Comparison::GreaterThan),
            Ok(Operator::LessThan) => Some(Comparison::LessThan),
            Ok(Operator::Unspecified) => None,
            Err(_) => {
                self.unknown(&format!("{field}.operator"), condition.operator);
                None
            }
        };
        ConditionSpec {
            target_task_id: condition.target_task_id,
            subject,
            operator,
            expected_value: condition.expected_value,
            path: condition.path,
        }
    }

    fn retry(retry: v1::RetryConfig) -> RetrySpec {
        use v1::retry_config::BackoffStrategy as Backoff;
        // A negative span is a fault of the definition, told with the others: so it is carried as it was given.
        let seconds = |span: &Option<pbjson_types::Duration>| {
            span.as_ref().map_or(0.0, |span| {
                #[expect(
                    clippy::cast_precision_loss,
                    reason = "a delay of over 2^53 s is refused whatever its last digit"
                )]
                let whole = span.seconds as f64;
                whole + f64::from(span.nanos) / 1e9
            })
        };
        RetrySpec {
            max_attempts: retry.max_attempts,
            backoff: retry.backoff_strategy.map(|backoff| match backoff {
                Backoff::Fixed(fixed) => BackoffSpec::Fixed { delay: seconds(&fixed.delay) },
                Backoff::Exponential(exponential) => BackoffSpec::Exponential {
                    initial_delay: seconds(&exponential.initial_delay),
                    multiplier: exponential.multiplier,
                },
                Backoff::Linear(linear) => BackoffSpec::Linear {
                    initial_delay: seconds(&linear.initial_delay),
                    increment: seconds(&linear.increment),
                },
            }),
            retry_on_errors: retry.retry_on_errors,
            max_delay_seconds: retry.max_delay.as_ref().map(|span| seconds(&Some(*span))),
            jitter: retry.jitter,
        }
    }
}

/// A stored workflow as clients see it, without what its executions add.
pub fn render(record: &WorkflowRecord) -> v1::Workflow {
    let (status, violations) = match &record.content {
        Content::Ready(_) => (v1::WorkflowStatus::Ready, Vec::new()),
        Content::Draft { violations, .. } => (v1::WorkflowStatus::Draft, violations.iter().map(violation).collect()),
    };
    v1::Workflow {
        status: status as i32,
        created_at: Some(timestamp(record.created_at)),
        updated_at: Some(timestamp(record.updated_at)),
        created_by: record.created_by.as_str().into(),
        version: record.version,
        etag: record.etag(),
        violations,
        ..render_spec(record.content.spec())
    }
}

/// A definition as clients write it.
pub fn render_spec(spec: &WorkflowSpec) -> v1::Workflow {
    v1::Workflow {
        id: spec.id.as_str().into(),
        name: spec.name.clone(),
        description: spec.description.clone(),
        tasks: spec.tasks.iter().map(render_task).collect(),
        metadata: spec.metadata.clone().into_iter().collect(),
        labels: spec.labels.clone().into_iter().collect(),
        failure_policy: v1::FailurePolicy::Continue as i32,
        ..v1::Workflow::default()
    }
}

/// A fault as clients see it.
pub fn violation(fault: &Violation) -> v1::Violation {
    v1::Violation {
        field: fault.field.clone(),
        reason: fault.reason.as_str().into(),
        description: fault.description.clone(),
    }
}

/// An execution's status as clients see it.
pub fn status(status: ExecutionStatus) -> v1::WorkflowStatus {
    match status {
        ExecutionStatus::Running => v1::WorkflowStatus::Running,
        ExecutionStatus::Paused => v1::WorkflowStatus::Paused,
        ExecutionStatus::Completed => v1::WorkflowStatus::Completed,
        ExecutionStatus::Failed => v1::WorkflowStatus::Failed,
        ExecutionStatus::Cancelled => v1::WorkflowStatus::Cancelled,
    }
}

/// Only ready definitions and drafts are rendered, and neither holds a field that this build does not support: a draft's
/// faults are in fields that it does.
fn render_task(task: &TaskSpec) -> v1::Task {
    v1::Task {
        id: task.id.clone(),
        agent_id: task.agent_id.clone(),
        title: task.title.clone(),
        description: task.description.clone(),
        priority: match task.priority {
            Priority::Low => v1::TaskPriority::Low,
            Priority::Medium => v1::TaskPriority::Medium,
            Priority::High => v1::TaskPriority::High,
            Priority::Critical => v1::TaskPriority::Critical,
        } as i32,
        dependencies: task.dependencies.clone(),
        trigger_rule: v1::TriggerRule::AllSucceeded as i32,
        timeout: task.timeout_micros.map(duration),
        metadata: task.metadata.clone().into_iter().collect(),
        output_format: match task.output_format {
            OutputFormat::Text => v1::OutputFormat::Text,
            OutputFormat::Json => v1::OutputFormat::Json,
        } as i32,
        action: task.action.as_ref().map(|action| match action {
            Action::Noop { duration_micros } => {
                v1::task::Action::Noop(v1::NoopAction { duration: Some(duration(*duration_micros)) })
            }
            Action::Approval(approval) => v1::task::Action::Approval(v1::ApprovalAction {
                prompt: approval.prompt.clone(),
                approvers: approval.approvers.clone(),
                timeout: approval.timeout_micros.map(duration),
            }),
            Action::Command(command) => v1::task::Action::Command(v1::CommandAction {
                argv: command.argv.clone(),
                env: command.env.clone().into_iter().collect(),
                working_dir: command.working_dir.clone(),
                stdin: command.stdin.clone(),
            }),
        }),
        ..v1::Task::default()
    }
}
