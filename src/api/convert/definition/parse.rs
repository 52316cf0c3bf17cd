//! A definition as a client wrote it, taken apart.
//!
//! Only what is no value at all is a fault here: a negative span, a number without a word. Whether the values make
//! sense together is the machine's to say.

use std::collections::{BTreeMap, HashMap};

use super::{
    super::{json_of, micros_of},
    Parsed,
    words::Word,
};
use crate::{
    machine::{
        ids::WorkflowId,
        workflow::{
            Action, ApprovalAction, BackoffSpec, CommandAction, ConditionSpec, InputSpec, MAX_TASKS, Reason, RetrySpec,
            TaskSpec, Violation, WorkflowSpec,
        },
    },
    proto::v1,
};

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
    parse.refuse(workflow.notification_config.is_some(), "notification_config", "leave it out");
    let id = if workflow.id.is_empty() { uuid::Uuid::now_v7().to_string() } else { workflow.id };
    let id = WorkflowId::parse(&id).map_err(|words| parse.malformed("id", Reason::InvalidId, words)).ok();
    let failure_policy = parse.word("failure_policy", workflow.failure_policy).unwrap_or_default();
    let execution_timeout_micros = parse.span("execution_timeout", workflow.execution_timeout.as_ref());
    let inputs = workflow.inputs.into_iter().enumerate().map(|(at, input)| parse.input("inputs", at, input)).collect();
    let tasks = workflow.tasks.into_iter().enumerate().map(|(at, task)| parse.task(at, task)).collect();
    let spec = id.map(|id| WorkflowSpec {
        id,
        name: workflow.name,
        description: workflow.description,
        tasks,
        metadata: sorted(workflow.metadata),
        labels: sorted(workflow.labels),
        concurrency_limits: workflow.concurrency_limits.into_iter().collect(),
        failure_policy,
        on_failure: workflow.on_failure,
        finally: workflow.finally,
        execution_timeout_micros,
        inputs,
    });
    Parsed { spec, malformed: parse.malformed, unsupported: parse.unsupported }
}

/// Takes the parameters of a template apart: they are declared as inputs are. The faults are of values that are none.
pub(in crate::api::convert) fn parameters(all: Vec<v1::TemplateParameter>) -> (Vec<InputSpec>, Vec<Violation>) {
    let mut parse = Parse::default();
    let one = |(at, one): (usize, v1::TemplateParameter)| {
        let input = v1::WorkflowInput {
            name: one.name,
            parameter_type: one.parameter_type,
            required: one.required,
            default_value: one.default_value,
            description: one.description,
            validation_regex: one.validation_regex,
        };
        parse.input("parameters", at, input)
    };
    let parameters = all.into_iter().enumerate().map(one).collect();
    (parameters, parse.malformed)
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

    fn span(&mut self, field: &str, span: Option<&pbjson_types::Duration>) -> Option<u64> {
        micros_of(field, span?).map_err(|fault| self.malformed.push(fault)).ok()
    }

    /// The word of a number; `None` where nothing is said.
    fn word<W: Word>(&mut self, field: &str, number: i32) -> Option<W> {
        W::of_number(number).unwrap_or_else(|number| {
            self.malformed(field, Reason::InvalidValue, format!("{number} is none of its values"));
            None
        })
    }

    fn input(&mut self, list: &str, at: usize, input: v1::WorkflowInput) -> InputSpec {
        let field = |name: &str| format!("{list}[{at}].{name}");
        let kind = self.word(&field("parameter_type"), input.parameter_type).unwrap_or_default();
        let default_value = input.default_value.and_then(|value| match json_of(value) {
            Ok(json) => Some(json.to_string()),
            Err(words) => {
                self.malformed(&field("default_value"), Reason::InvalidValue, words);
                None
            }
        });
        InputSpec {
            name: input.name,
            kind,
            required: input.required,
            default_value,
            description: input.description,
            validation_regex: input.validation_regex,
        }
    }

    fn task(&mut self, at: usize, task: v1::Task) -> TaskSpec {
        let field = |name: &str| format!("tasks[{at}].{name}");
        let conditions = task
            .conditions
            .into_iter()
            .enumerate()
            .map(|(i, condition)| self.condition(&field(&format!("conditions[{i}]")), condition))
            .collect();
        TaskSpec {
            id: task.id,
            agent_id: task.agent_id,
            title: task.title,
            description: task.description,
            priority: self.word(&field("priority"), task.priority).unwrap_or_default(),
            dependencies: task.dependencies,
            trigger_rule: self.word(&field("trigger_rule"), task.trigger_rule).unwrap_or_default(),
            conditions,
            when: task.when,
            retry: task.retry_config.map(retry),
            timeout_micros: self.span(&field("timeout"), task.timeout.as_ref()),
            queue_timeout_micros: self.span(&field("queue_timeout"), task.queue_timeout.as_ref()),
            idle_timeout_micros: self.span(&field("idle_timeout"), task.idle_timeout.as_ref()),
            parallel_group: task.parallel_group,
            allow_failure: task.allow_failure,
            on_interrupt: self.word(&field("on_interrupt"), task.on_interrupt).unwrap_or_default(),
            metadata: sorted(task.metadata),
            output_format: self.word(&field("output_format"), task.output_format).unwrap_or_default(),
            action: self.action(&field, task.action),
        }
    }

    fn action(&mut self, field: &dyn Fn(&str) -> String, action: Option<v1::task::Action>) -> Option<Action> {
        const NO_AGENTS: &str = "agents cannot do work yet: give the task `command`, `noop` or `approval`";
        self.refuse(action.is_none(), &field("action"), NO_AGENTS);
        Some(match action? {
            v1::task::Action::Command(command) => Action::Command(CommandAction {
                argv: command.argv,
                env: sorted(command.env),
                working_dir: command.working_dir,
                stdin: command.stdin,
            }),
            v1::task::Action::Noop(noop) => Action::Noop {
                duration_micros: self.span(&field("noop.duration"), noop.duration.as_ref()).unwrap_or(0),
            },
            v1::task::Action::Approval(approval) => Action::Approval(ApprovalAction {
                timeout_micros: self.span(&field("approval.timeout"), approval.timeout.as_ref()),
                prompt: approval.prompt,
                approvers: approval.approvers,
            }),
        })
    }

    fn condition(&mut self, field: &str, condition: v1::TaskCondition) -> ConditionSpec {
        ConditionSpec {
            target_task_id: condition.target_task_id,
            subject: self.word(&format!("{field}.condition_type"), condition.condition_type),
            operator: self.word(&format!("{field}.operator"), condition.operator),
            expected_value: condition.expected_value,
            path: condition.path,
        }
    }
}

/// A negative span is a fault of the definition, told with the others: so it is carried as it was given.
pub fn retry(retry: v1::RetryConfig) -> RetrySpec {
    use v1::retry_config::BackoffStrategy as Backoff;
    let optional = |span: Option<pbjson_types::Duration>| span.map_or(0.0, |span| seconds(&span));
    RetrySpec {
        max_attempts: retry.max_attempts,
        backoff: retry.backoff_strategy.map(|backoff| match backoff {
            Backoff::Fixed(fixed) => BackoffSpec::Fixed { delay: optional(fixed.delay) },
            Backoff::Exponential(exponential) => BackoffSpec::Exponential {
                initial_delay: optional(exponential.initial_delay),
                multiplier: exponential.multiplier,
            },
            Backoff::Linear(linear) => BackoffSpec::Linear {
                initial_delay: optional(linear.initial_delay),
                increment: optional(linear.increment),
            },
        }),
        retry_on_errors: retry.retry_on_errors,
        max_delay_seconds: retry.max_delay.as_ref().map(seconds),
        jitter: retry.jitter,
    }
}

/// Finer than a microsecond is cut off, as of every span: up to 100 years, it reads back as it was given.
fn seconds(span: &pbjson_types::Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a delay of over 2^53 s is refused whatever its last digit")]
    let whole = span.seconds as f64;
    whole + f64::from(span.nanos / 1_000) / 1e6
}
