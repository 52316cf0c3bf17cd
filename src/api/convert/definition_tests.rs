//! Definitions come in and go out whole, and what is no value at all is refused with its path.

use proptest::prelude::*;

use super::*;
use crate::{machine::workflow::Reason, proto::v1};

fn span(seconds: i64, nanos: i32) -> Option<pbjson_types::Duration> {
    Some(pbjson_types::Duration { seconds, nanos })
}

fn noop(id: &str) -> v1::Task {
    let duration = span(0, 0);
    v1::Task {
        id: id.into(),
        action: Some(v1::task::Action::Noop(v1::NoopAction { duration })),
        priority: v1::TaskPriority::Medium as i32,
        trigger_rule: v1::TriggerRule::AllSucceeded as i32,
        on_interrupt: v1::OnInterrupt::Retry as i32,
        output_format: v1::OutputFormat::Text as i32,
        ..v1::Task::default()
    }
}

fn workflow(tasks: Vec<v1::Task>) -> v1::Workflow {
    v1::Workflow {
        id: "w".into(),
        failure_policy: v1::FailurePolicy::Continue as i32,
        tasks,
        ..v1::Workflow::default()
    }
}

/// A sound definition in which every field has another value than its default.
fn everything() -> v1::Workflow {
    use v1::retry_config::BackoffStrategy as Backoff;
    let notes = |name: &str| [(name.to_string(), "\u{1f980} \"x\"".to_string())].into();
    let build = v1::Task {
        agent_id: "builder".into(),
        title: "Build".into(),
        description: "Builds {{ inputs.env }}".into(),
        priority: v1::TaskPriority::Critical as i32,
        dependencies: vec!["ask".into(), "fetch".into()],
        trigger_rule: v1::TriggerRule::AllDone as i32,
        conditions: vec![v1::TaskCondition {
            condition_type: v1::ConditionType::TaskOutput as i32,
            target_task_id: "fetch".into(),
            operator: v1::ComparisonOperator::GreaterThan as i32,
            expected_value: "3".into(),
            path: "/n".into(),
        }],
        when: "tasks.ask.status == 'COMPLETED'".into(),
        retry_config: Some(v1::RetryConfig {
            max_attempts: 3,
            backoff_strategy: Some(Backoff::Exponential(v1::ExponentialBackoff {
                initial_delay: span(1, 500_001_000),
                multiplier: 1.5,
            })),
            retry_on_errors: vec!["SIGNAL".into(), "/late/".into()],
            max_delay: span(3_000_000_000, 1_000),
            jitter: 0.25,
        }),
        timeout: span(5, 1_000),
        queue_timeout: span(6, 0),
        idle_timeout: span(7, 0),
        parallel_group: "heavy".into(),
        metadata: notes("note"),
        allow_failure: true,
        output_format: v1::OutputFormat::Json as i32,
        on_interrupt: v1::OnInterrupt::Fail as i32,
        action: Some(v1::task::Action::Command(v1::CommandAction {
            argv: vec!["make".into(), "{{ tasks.fetch.output }}".into()],
            env: notes("E"),
            working_dir: "/srv".into(),
            stdin: "{{ execution.id }}".into(),
        })),
        ..noop("build")
    };
    let ask = v1::Task {
        action: Some(v1::task::Action::Approval(v1::ApprovalAction {
            prompt: "Ship it?".into(),
            approvers: vec!["uid:1000".into()],
            timeout: span(8, 0),
        })),
        ..noop("ask")
    };
    let text = pbjson_types::Value { kind: Some(pbjson_types::value::Kind::StringValue("prod".into())) };
    v1::Workflow {
        name: "Name".into(),
        description: "Words".into(),
        metadata: notes("m"),
        labels: notes("l"),
        concurrency_limits: [("*".to_string(), 3), ("group:heavy".to_string(), 1), ("builder".to_string(), 2)].into(),
        failure_policy: v1::FailurePolicy::FailFast as i32,
        on_failure: vec!["report".into()],
        finally: vec!["clean".into()],
        execution_timeout: span(9, 0),
        inputs: vec![v1::WorkflowInput {
            name: "env".into(),
            parameter_type: v1::ParameterType::String as i32,
            required: false,
            default_value: Some(text),
            description: "Where to".into(),
            validation_regex: "[a-z]+".into(),
        }],
        ..workflow(vec![ask, noop("fetch"), build, noop("report"), noop("clean")])
    }
}

fn spec(workflow: v1::Workflow) -> WorkflowSpec {
    parse(workflow).spec.expect("an id")
}

fn faults(workflow: v1::Workflow) -> Vec<(String, &'static str)> {
    let faults = parse(workflow).into_content(true).expect_err("faults");
    faults.into_iter().map(|fault| (fault.field, fault.reason.as_str())).collect()
}

#[test]
fn a_definition_with_everything_comes_back_as_it_was_given() {
    // S-DEF-4
    let given = everything();
    assert_eq!(render_spec(&spec(given.clone())), given);
    let content = parse(given).into_content(false).expect("sound");
    assert!(matches!(content, Content::Ready(_)));
}

#[test]
fn what_is_not_said_is_shown_as_the_default() {
    let given = v1::Workflow {
        id: "w".into(),
        tasks: vec![v1::Task {
            id: "a".into(),
            action: Some(v1::task::Action::Noop(v1::NoopAction::default())),
            ..v1::Task::default()
        }],
        ..v1::Workflow::default()
    };
    assert_eq!(render_spec(&spec(given)), workflow(vec![noop("a")]));
}

#[test]
fn a_number_without_a_word_is_refused_with_its_path() {
    // S-DEF-2; and it cannot stand in a draft (S-DEF-3)
    let mut given = everything();
    given.failure_policy = 9;
    given.inputs[0].parameter_type = 9;
    let task = &mut given.tasks[2];
    (task.priority, task.trigger_rule, task.output_format, task.on_interrupt) = (9, -1, 9, 3);
    task.conditions[0].condition_type = 9;
    task.conditions[0].operator = 9;
    let told = faults(given);
    for field in [
        "failure_policy",
        "inputs[0].parameter_type",
        "tasks[2].conditions[0].condition_type",
        "tasks[2].conditions[0].operator",
        "tasks[2].on_interrupt",
        "tasks[2].output_format",
        "tasks[2].priority",
        "tasks[2].trigger_rule",
    ] {
        assert!(told.contains(&(field.to_string(), "INVALID_VALUE")), "{field}: {told:?}");
    }
}

#[test]
fn a_negative_span_is_refused_with_its_path() {
    // S-DEF-2
    let mut given = everything();
    given.execution_timeout = span(-1, 0);
    let task = &mut given.tasks[2];
    (task.timeout, task.queue_timeout, task.idle_timeout) = (span(-1, 0), span(0, -1), span(0, 1_000_000_000));
    if let Some(v1::task::Action::Approval(approval)) = &mut given.tasks[0].action {
        approval.timeout = span(-1, 0);
    }
    let paths = [
        "execution_timeout",
        "tasks[0].approval.timeout",
        "tasks[2].idle_timeout",
        "tasks[2].queue_timeout",
        "tasks[2].timeout",
    ];
    assert_eq!(faults(given), paths.map(|path| (path.to_string(), "INVALID_VALUE")));
}

#[test]
fn only_what_no_build_can_do_yet_is_not_supported() {
    // S-DEF-2
    let given = v1::Workflow {
        notification_config: Some(v1::NotificationConfig::default()),
        tasks: vec![v1::Task { action: None, ..noop("a") }],
        ..everything()
    };
    let told: Vec<_> =
        faults(given).into_iter().filter(|(_, reason)| *reason == Reason::NotSupported.as_str()).collect();
    let paths = ["notification_config", "tasks[0].action"];
    assert_eq!(told, paths.map(|path| (path.to_string(), "NOT_SUPPORTED")));
}

#[test]
fn a_draft_is_shown_with_its_faults_as_they_were_given() {
    // S-DEF-3
    let mut given = everything();
    given.concurrency_limits.insert("*".into(), 0);
    given.finally.push("nobody".into());
    let retry = given.tasks[2].retry_config.as_mut().expect("a retry");
    retry.max_delay = span(-2, -500_000_000);
    retry.backoff_strategy = Some(v1::retry_config::BackoffStrategy::Linear(v1::LinearBackoff {
        initial_delay: span(-1, 0),
        increment: span(4_000_000_000_000, 0),
    }));
    let Content::Draft { spec, violations } = parse(given.clone()).into_content(true).expect("a draft") else {
        panic!("it has faults")
    };
    assert_eq!(render_spec(&spec), given);
    let told: Vec<&str> = violations.iter().map(|fault| fault.field.as_str()).collect();
    assert_eq!(
        told,
        [
            "concurrency_limits[\"*\"]",
            "finally[1]",
            "tasks[2].retry_config.linear.increment",
            "tasks[2].retry_config.linear.initial_delay",
            "tasks[2].retry_config.max_delay",
        ]
    );
}

#[test]
fn a_default_that_is_no_json_is_refused() {
    let mut given = everything();
    given.inputs[0].default_value =
        Some(pbjson_types::Value { kind: Some(pbjson_types::value::Kind::NumberValue(f64::NAN)) });
    assert!(faults(given).contains(&("inputs[0].default_value".to_string(), "INVALID_VALUE")));
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        (-9_007_199_254_740_991_i64..=9_007_199_254_740_991).prop_map(Into::into),
        (any::<i32>(), 1..64_i32).prop_map(|(n, d)| (f64::from(n) + f64::from(d) / 64.0).into()),
        ".{0,8}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            proptest::collection::btree_map(".{0,4}", inner, 0..4)
                .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn a_default_value_comes_back_as_it_was_given(json in json()) {
        let kind = super::super::execution::kind_of(json.clone());
        let default_value = Some(pbjson_types::Value { kind: Some(kind) });
        let input = v1::WorkflowInput { name: "x".into(), parameter_type: 1, default_value, ..Default::default() };
        let given = v1::Workflow { inputs: vec![input], ..workflow(vec![noop("a")]) };
        let spec = spec(given.clone());
        let text = spec.inputs[0].default_value.as_deref().expect("a default");
        prop_assert_eq!(serde_json::from_str::<serde_json::Value>(text).expect("JSON"), json);
        prop_assert_eq!(render_spec(&spec), given);
    }

    #[test]
    fn a_delay_comes_back_as_it_was_given(micros in 0..3_162_240_000_000_000_u64) {
        let delay = Some(super::super::duration(micros));
        let retry = v1::RetryConfig {
            max_attempts: 2,
            backoff_strategy: Some(v1::retry_config::BackoffStrategy::Fixed(v1::FixedBackoff { delay })),
            max_delay: delay,
            ..Default::default()
        };
        let given = workflow(vec![v1::Task { retry_config: Some(retry), ..noop("a") }]);
        prop_assert_eq!(render_spec(&spec(given.clone())), given);
    }
}
