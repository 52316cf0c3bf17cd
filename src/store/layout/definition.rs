//! Definitions as rows.

use std::sync::Arc;

use prost::Message as _;

use super::{LayoutError, rows, unreadable};
use crate::machine::{
    ids::WorkflowId,
    workflow::{
        Action, ApprovalAction, BackoffSpec, CommandAction, Comparison, ConditionSpec, ConditionSubject, Definition,
        FailurePolicy, InputSpec, OnInterrupt, OutputFormat, ParameterKind, Priority, Reason, RetrySpec, TaskSpec,
        TriggerRule, Violation, WorkflowSpec,
    },
};

pub(super) fn encode(spec: &WorkflowSpec) -> rows::Definition {
    rows::Definition {
        id: spec.id.as_str().into(),
        name: spec.name.clone(),
        description: spec.description.clone(),
        tasks: spec.tasks.iter().map(encode_task).collect(),
        metadata: spec.metadata.clone().into_iter().collect(),
        labels: spec.labels.clone().into_iter().collect(),
        concurrency_limits: spec.concurrency_limits.clone().into_iter().collect(),
        failure_policy: match spec.failure_policy {
            FailurePolicy::Continue => 1,
            FailurePolicy::FailFast => 2,
        },
        on_failure: spec.on_failure.clone(),
        finally: spec.finally.clone(),
        execution_timeout: spec.execution_timeout_micros,
        inputs: spec.inputs.iter().map(encode_input).collect(),
    }
}

/// A version's definition as its author wrote it.
///
/// # Errors
/// Where the bytes are no definition.
pub fn decode(id: &WorkflowId, bytes: &[u8]) -> Result<WorkflowSpec, LayoutError> {
    let what = || format!("the definition of workflow `{id}`");
    let row = rows::Definition::decode(bytes).map_err(|error| unreadable(what(), error))?;
    Ok(decode_row(id, row))
}

pub(super) fn decode_row(id: &WorkflowId, row: rows::Definition) -> WorkflowSpec {
    WorkflowSpec {
        id: id.clone(),
        name: row.name,
        description: row.description,
        tasks: row.tasks.into_iter().map(decode_task).collect(),
        metadata: row.metadata.into_iter().collect(),
        labels: row.labels.into_iter().collect(),
        concurrency_limits: row.concurrency_limits.into_iter().collect(),
        failure_policy: if row.failure_policy == 2 { FailurePolicy::FailFast } else { FailurePolicy::Continue },
        on_failure: row.on_failure,
        finally: row.finally,
        execution_timeout_micros: row.execution_timeout,
        inputs: row.inputs.into_iter().map(decode_input).collect(),
    }
}

/// A version's definition that was checked when it was stored.
///
/// # Errors
/// Where the bytes are no definition, or one whose tasks are no graph.
pub fn decode_checked(id: &WorkflowId, bytes: &[u8]) -> Result<Arc<Definition>, LayoutError> {
    Definition::stored(decode(id, bytes)?).map_err(|faults| {
        let first = faults.first().map(|fault| format!("{}: {}", fault.field, fault.description));
        unreadable(format!("the definition of workflow `{id}`"), first.unwrap_or_default())
    })
}

pub(super) fn encode_fault(fault: &Violation) -> rows::Fault {
    rows::Fault {
        field: fault.field.clone(),
        reason: fault.reason.as_str().into(),
        description: fault.description.clone(),
    }
}

pub(super) fn decode_fault(row: &rows::Fault) -> Option<Violation> {
    let reason = Reason::from_name(&row.reason)?;
    Some(Violation { field: row.field.clone(), reason, description: row.description.clone() })
}

fn encode_task(task: &TaskSpec) -> rows::DefinedTask {
    rows::DefinedTask {
        id: task.id.clone(),
        agent_id: task.agent_id.clone(),
        title: task.title.clone(),
        description: task.description.clone(),
        priority: match task.priority {
            Priority::Low => 1,
            Priority::Medium => 2,
            Priority::High => 3,
            Priority::Critical => 4,
        },
        dependencies: task.dependencies.clone(),
        timeout: task.timeout_micros,
        metadata: task.metadata.clone().into_iter().collect(),
        output_format: match task.output_format {
            OutputFormat::Text => 1,
            OutputFormat::Json => 2,
        },
        action: task.action.as_ref().map(encode_action),
        conditions: task.conditions.iter().map(encode_condition).collect(),
        when: task.when.clone(),
        retry: task.retry.as_ref().map(encode_retry),
        trigger_rule: match task.trigger_rule {
            TriggerRule::AllSucceeded => 1,
            TriggerRule::AllCompleted => 2,
            TriggerRule::AllDone => 3,
            TriggerRule::OneSucceeded => 4,
            TriggerRule::OneFailed => 5,
            TriggerRule::AllFailed => 6,
        },
        queue_timeout: task.queue_timeout_micros,
        idle_timeout: task.idle_timeout_micros,
        parallel_group: task.parallel_group.clone(),
        allow_failure: task.allow_failure,
        on_interrupt: match task.on_interrupt {
            OnInterrupt::Retry => 1,
            OnInterrupt::Fail => 2,
        },
    }
}

fn decode_task(row: rows::DefinedTask) -> TaskSpec {
    TaskSpec {
        id: row.id,
        agent_id: row.agent_id,
        title: row.title,
        description: row.description,
        priority: match row.priority {
            1 => Priority::Low,
            3 => Priority::High,
            4 => Priority::Critical,
            _ => Priority::Medium,
        },
        dependencies: row.dependencies,
        trigger_rule: match row.trigger_rule {
            2 => TriggerRule::AllCompleted,
            3 => TriggerRule::AllDone,
            4 => TriggerRule::OneSucceeded,
            5 => TriggerRule::OneFailed,
            6 => TriggerRule::AllFailed,
            _ => TriggerRule::AllSucceeded,
        },
        conditions: row.conditions.into_iter().map(decode_condition).collect(),
        when: row.when,
        retry: row.retry.map(decode_retry),
        timeout_micros: row.timeout,
        queue_timeout_micros: row.queue_timeout,
        idle_timeout_micros: row.idle_timeout,
        parallel_group: row.parallel_group,
        allow_failure: row.allow_failure,
        on_interrupt: if row.on_interrupt == 2 { OnInterrupt::Fail } else { OnInterrupt::Retry },
        metadata: row.metadata.into_iter().collect(),
        output_format: if row.output_format == 2 { OutputFormat::Json } else { OutputFormat::Text },
        action: row.action.map(decode_action),
    }
}

pub(super) fn encode_input(input: &InputSpec) -> rows::DefinedInput {
    rows::DefinedInput {
        name: input.name.clone(),
        kind: match input.kind {
            ParameterKind::String => 1,
            ParameterKind::Integer => 2,
            ParameterKind::Boolean => 3,
            ParameterKind::AgentId => 4,
            ParameterKind::TaskId => 5,
        },
        required: input.required,
        default_value: input.default_value.clone(),
        description: input.description.clone(),
        validation_regex: input.validation_regex.clone(),
    }
}

pub(super) fn decode_input(row: rows::DefinedInput) -> InputSpec {
    InputSpec {
        name: row.name,
        kind: match row.kind {
            2 => ParameterKind::Integer,
            3 => ParameterKind::Boolean,
            4 => ParameterKind::AgentId,
            5 => ParameterKind::TaskId,
            _ => ParameterKind::String,
        },
        required: row.required,
        default_value: row.default_value,
        description: row.description,
        validation_regex: row.validation_regex,
    }
}

fn encode_action(action: &Action) -> rows::defined_task::Action {
    match action {
        Action::Noop { duration_micros } => rows::defined_task::Action::Noop(*duration_micros),
        Action::Approval(approval) => rows::defined_task::Action::Approval(rows::DefinedApproval {
            prompt: approval.prompt.clone(),
            approvers: approval.approvers.clone(),
            timeout: approval.timeout_micros,
        }),
        Action::Command(command) => rows::defined_task::Action::Command(rows::DefinedCommand {
            argv: command.argv.clone(),
            env: command.env.clone().into_iter().collect(),
            working_dir: command.working_dir.clone(),
            stdin: command.stdin.clone(),
        }),
    }
}

fn decode_action(row: rows::defined_task::Action) -> Action {
    match row {
        rows::defined_task::Action::Noop(duration_micros) => Action::Noop { duration_micros },
        rows::defined_task::Action::Approval(row) => Action::Approval(ApprovalAction {
            prompt: row.prompt,
            approvers: row.approvers,
            timeout_micros: row.timeout,
        }),
        rows::defined_task::Action::Command(row) => Action::Command(CommandAction {
            argv: row.argv,
            env: row.env.into_iter().collect(),
            working_dir: row.working_dir,
            stdin: row.stdin,
        }),
    }
}

fn encode_condition(condition: &ConditionSpec) -> rows::DefinedCondition {
    rows::DefinedCondition {
        target_task_id: condition.target_task_id.clone(),
        subject: match condition.subject {
            None => 0,
            Some(ConditionSubject::Status) => 1,
            Some(ConditionSubject::Output) => 2,
            Some(ConditionSubject::Metadata) => 3,
        },
        operator: match condition.operator {
            None => 0,
            Some(Comparison::Equals) => 1,
            Some(Comparison::NotEquals) => 2,
            Some(Comparison::Contains) => 3,
            Some(Comparison::GreaterThan) => 4,
            Some(Comparison::LessThan) => 5,
        },
        expected_value: condition.expected_value.clone(),
        path: condition.path.clone(),
    }
}

fn decode_condition(row: rows::DefinedCondition) -> ConditionSpec {
    ConditionSpec {
        target_task_id: row.target_task_id,
        subject: match row.subject {
            1 => Some(ConditionSubject::Status),
            2 => Some(ConditionSubject::Output),
            3 => Some(ConditionSubject::Metadata),
            _ => None,
        },
        operator: match row.operator {
            1 => Some(Comparison::Equals),
            2 => Some(Comparison::NotEquals),
            3 => Some(Comparison::Contains),
            4 => Some(Comparison::GreaterThan),
            5 => Some(Comparison::LessThan),
            _ => None,
        },
        expected_value: row.expected_value,
        path: row.path,
    }
}

pub(super) fn encode_retry(retry: &RetrySpec) -> rows::DefinedRetry {
    let (backoff, delay, growth) = match retry.backoff {
        None => (0, 0.0, 0.0),
        Some(BackoffSpec::Fixed { delay }) => (1, delay, 0.0),
        Some(BackoffSpec::Exponential { initial_delay, multiplier }) => (2, initial_delay, multiplier),
        Some(BackoffSpec::Linear { initial_delay, increment }) => (3, initial_delay, increment),
    };
    rows::DefinedRetry {
        max_attempts: retry.max_attempts,
        backoff,
        delay,
        growth,
        retry_on_errors: retry.retry_on_errors.clone(),
        max_delay: retry.max_delay_seconds,
        jitter: retry.jitter,
    }
}

pub(super) fn decode_retry(row: rows::DefinedRetry) -> RetrySpec {
    RetrySpec {
        max_attempts: row.max_attempts,
        backoff: match row.backoff {
            1 => Some(BackoffSpec::Fixed { delay: row.delay }),
            2 => Some(BackoffSpec::Exponential { initial_delay: row.delay, multiplier: row.growth }),
            3 => Some(BackoffSpec::Linear { initial_delay: row.delay, increment: row.growth }),
            _ => None,
        },
        retry_on_errors: row.retry_on_errors,
        max_delay_seconds: row.max_delay,
        jitter: row.jitter,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> WorkflowId {
        WorkflowId::parse("w").expect("an id")
    }

    fn text(name: &str) -> (String, String) {
        (name.to_string(), format!("{name} \u{1f980} \"quoted\"\n"))
    }

    fn read_back(spec: &WorkflowSpec) -> WorkflowSpec {
        decode(&id(), &encode(spec).encode_to_vec()).expect("readable")
    }

    /// Every field has another value than its default, so that one that is forgotten shows.
    fn task_of_everything() -> TaskSpec {
        TaskSpec {
            id: "a".into(),
            agent_id: "coder".into(),
            title: "A".into(),
            description: "does a".into(),
            priority: Priority::Critical,
            dependencies: vec!["b".into(), "c".into()],
            trigger_rule: TriggerRule::AllDone,
            conditions: vec![ConditionSpec {
                target_task_id: "b".into(),
                subject: Some(ConditionSubject::Output),
                operator: Some(Comparison::LessThan),
                expected_value: "3".into(),
                path: "/n".into(),
            }],
            when: "tasks.b.status == 'COMPLETED'".into(),
            retry: Some(RetrySpec {
                max_attempts: 3,
                backoff: Some(BackoffSpec::Linear { initial_delay: 1.5, increment: 0.5 }),
                retry_on_errors: vec!["SIGNAL".into()],
                max_delay_seconds: Some(9.0),
                jitter: 0.25,
            }),
            timeout_micros: Some(5),
            queue_timeout_micros: Some(6),
            idle_timeout_micros: Some(7),
            parallel_group: "heavy".into(),
            allow_failure: true,
            on_interrupt: OnInterrupt::Fail,
            metadata: [text("note")].into(),
            output_format: OutputFormat::Json,
            action: Some(Action::Command(CommandAction {
                argv: vec!["echo".into(), "$(x)".into()],
                env: [text("E")].into(),
                working_dir: "/tmp".into(),
                stdin: "in".into(),
            })),
        }
    }

    #[test]
    fn a_definition_reads_back_as_it_was_written() {
        let approval = ApprovalAction {
            prompt: "Ship it?".into(),
            approvers: vec!["uid:1000".into(), "uid:0".into()],
            timeout_micros: Some(8),
        };
        let spec = WorkflowSpec {
            id: id(),
            name: "name".into(),
            description: "words".into(),
            tasks: vec![
                task_of_everything(),
                TaskSpec { id: "b".into(), action: Some(Action::Noop { duration_micros: 7 }), ..TaskSpec::default() },
                TaskSpec { id: "c".into(), priority: Priority::Low, ..TaskSpec::default() },
                TaskSpec { id: "d".into(), action: Some(Action::Approval(approval)), ..TaskSpec::default() },
            ],
            metadata: [text("m")].into(),
            labels: [text("l")].into(),
            concurrency_limits: [("*".into(), 3), ("group:heavy".into(), 1)].into(),
            failure_policy: FailurePolicy::FailFast,
            on_failure: vec!["c".into()],
            finally: vec!["d".into(), "b".into()],
            execution_timeout_micros: Some(9),
            inputs: vec![InputSpec {
                name: "env".into(),
                kind: ParameterKind::AgentId,
                required: true,
                default_value: Some("\"x\"".into()),
                description: "where".into(),
                validation_regex: "[a-z]+".into(),
            }],
        };
        assert_eq!(read_back(&spec), spec);
        assert!(decode(&id(), b"\xff\xff nonsense").is_err());
    }

    #[test]
    fn every_word_of_a_definition_reads_back() {
        use TriggerRule::{AllCompleted, AllDone, AllFailed, AllSucceeded, OneFailed, OneSucceeded};
        let mut spec = WorkflowSpec::named(id());
        for trigger_rule in [AllSucceeded, AllCompleted, AllDone, OneSucceeded, OneFailed, AllFailed] {
            spec.tasks.push(TaskSpec { trigger_rule, ..TaskSpec::default() });
        }
        for on_interrupt in [OnInterrupt::Retry, OnInterrupt::Fail] {
            spec.tasks.push(TaskSpec { on_interrupt, ..TaskSpec::default() });
        }
        use ParameterKind::{AgentId, Boolean, Integer, String, TaskId};
        spec.inputs =
            [String, Integer, Boolean, AgentId, TaskId].map(|kind| InputSpec { kind, ..InputSpec::default() }).into();
        for failure_policy in [FailurePolicy::Continue, FailurePolicy::FailFast] {
            spec.failure_policy = failure_policy;
            assert_eq!(read_back(&spec), spec);
        }
    }

    #[test]
    fn a_row_of_an_older_release_means_the_defaults() {
        // What a release wrote that knew no more than ids, dependencies and programs.
        let task = |id: &str, dependencies: &[&str]| rows::DefinedTask {
            id: id.into(),
            priority: 2,
            output_format: 1,
            dependencies: dependencies.iter().map(ToString::to_string).collect(),
            action: Some(rows::defined_task::Action::Noop(0)),
            ..Default::default()
        };
        let row =
            rows::Definition { id: "w".into(), tasks: vec![task("a", &[]), task("b", &["a"])], ..Default::default() };
        let noop = |id: &str| TaskSpec {
            id: id.into(),
            action: Some(Action::Noop { duration_micros: 0 }),
            ..TaskSpec::default()
        };
        let meant = WorkflowSpec {
            tasks: vec![noop("a"), TaskSpec { dependencies: vec!["a".into()], ..noop("b") }],
            ..WorkflowSpec::named(id())
        };
        assert_eq!(decode(&id(), &row.encode_to_vec()).expect("readable"), meant);
        assert!(decode_checked(&id(), &row.encode_to_vec()).is_ok());
    }
}
