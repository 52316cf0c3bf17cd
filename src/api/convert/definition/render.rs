//! A definition as clients see it: what can be given back as it is.

use super::{
    super::{duration, execution::kind_of, template, timestamp},
    words::Word,
};
use crate::{
    machine::{
        execution::ExecutionStatus,
        message::{Content, WorkflowRecord},
        workflow::{Action, BackoffSpec, ConditionSpec, InputSpec, RetrySpec, TaskSpec, Violation, WorkflowSpec},
    },
    proto::v1,
};

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
        template: record.origin.as_deref().map(template::origin),
        ..render_spec(record.content.spec())
    }
}

/// A definition as clients write it.
pub fn render_spec(spec: &WorkflowSpec) -> v1::Workflow {
    v1::Workflow {
        id: spec.id.as_str().into(),
        name: spec.name.clone(),
        description: spec.description.clone(),
        tasks: tasks(spec),
        metadata: spec.metadata.clone().into_iter().collect(),
        labels: spec.labels.clone().into_iter().collect(),
        concurrency_limits: spec.concurrency_limits.clone().into_iter().collect(),
        failure_policy: spec.failure_policy.number(),
        on_failure: spec.on_failure.clone(),
        finally: spec.finally.clone(),
        execution_timeout: spec.execution_timeout_micros.map(duration),
        inputs: spec.inputs.iter().map(input).collect(),
        ..v1::Workflow::default()
    }
}

/// The tasks of a definition as clients write them.
pub fn tasks(spec: &WorkflowSpec) -> Vec<v1::Task> {
    spec.tasks.iter().map(task).collect()
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

pub(in crate::api::convert) fn input(input: &InputSpec) -> v1::WorkflowInput {
    let value = |json: &String| {
        // The text was made from a value of the API, and is one again.
        let json = serde_json::from_str(json).unwrap_or(serde_json::Value::Null);
        pbjson_types::Value { kind: Some(kind_of(json)) }
    };
    v1::WorkflowInput {
        name: input.name.clone(),
        parameter_type: input.kind.number(),
        required: input.required,
        default_value: input.default_value.as_ref().map(value),
        description: input.description.clone(),
        validation_regex: input.validation_regex.clone(),
    }
}

fn task(task: &TaskSpec) -> v1::Task {
    v1::Task {
        id: task.id.clone(),
        agent_id: task.agent_id.clone(),
        title: task.title.clone(),
        description: task.description.clone(),
        priority: task.priority.number(),
        dependencies: task.dependencies.clone(),
        trigger_rule: task.trigger_rule.number(),
        conditions: task.conditions.iter().map(condition).collect(),
        when: task.when.clone(),
        retry_config: task.retry.as_ref().map(retry),
        timeout: task.timeout_micros.map(duration),
        queue_timeout: task.queue_timeout_micros.map(duration),
        idle_timeout: task.idle_timeout_micros.map(duration),
        parallel_group: task.parallel_group.clone(),
        metadata: task.metadata.clone().into_iter().collect(),
        allow_failure: task.allow_failure,
        output_format: task.output_format.number(),
        on_interrupt: task.on_interrupt.number(),
        action: task.action.as_ref().map(action),
    }
}

fn action(action: &Action) -> v1::task::Action {
    match action {
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
    }
}

fn condition(condition: &ConditionSpec) -> v1::TaskCondition {
    v1::TaskCondition {
        condition_type: condition.subject.map_or(0, Word::number),
        target_task_id: condition.target_task_id.clone(),
        operator: condition.operator.map_or(0, Word::number),
        expected_value: condition.expected_value.clone(),
        path: condition.path.clone(),
    }
}

/// As the client wrote it.
pub fn retry(retry: &RetrySpec) -> v1::RetryConfig {
    use v1::retry_config::BackoffStrategy as Backoff;
    let backoff = |backoff: &BackoffSpec| match *backoff {
        BackoffSpec::Fixed { delay } => Backoff::Fixed(v1::FixedBackoff { delay: Some(span(delay)) }),
        BackoffSpec::Exponential { initial_delay, multiplier } => {
            Backoff::Exponential(v1::ExponentialBackoff { initial_delay: Some(span(initial_delay)), multiplier })
        }
        BackoffSpec::Linear { initial_delay, increment } => Backoff::Linear(v1::LinearBackoff {
            initial_delay: Some(span(initial_delay)),
            increment: Some(span(increment)),
        }),
    };
    v1::RetryConfig {
        max_attempts: retry.max_attempts,
        backoff_strategy: retry.backoff.as_ref().map(backoff),
        retry_on_errors: retry.retry_on_errors.clone(),
        max_delay: retry.max_delay_seconds.map(span),
        jitter: retry.jitter,
    }
}

/// A span in seconds, to the microsecond. That of a draft may be negative, or longer than any that passes.
fn span(seconds: f64) -> pbjson_types::Duration {
    #[expect(clippy::cast_possible_truncation, reason = "what is too long for microseconds stays too long")]
    let micros = (seconds * 1e6).round() as i128;
    let nanos = i32::try_from(micros % 1_000_000 * 1_000).expect("below a second");
    pbjson_types::Duration { seconds: i64::try_from(micros / 1_000_000).unwrap_or(i64::MAX), nanos }
}
