//! What validation refuses, with which reason and at which field, and what it lets pass.

use super::*;
use crate::machine::{
    ids::WorkflowId,
    workflow::{Comparison, Definition},
};

fn workflow(tasks: Vec<TaskSpec>) -> WorkflowSpec {
    WorkflowSpec { tasks, ..WorkflowSpec::named(WorkflowId::parse("w").expect("an id")) }
}

fn noop(id: &str, dependencies: &[&str]) -> TaskSpec {
    TaskSpec {
        id: id.into(),
        dependencies: dependencies.iter().map(ToString::to_string).collect(),
        action: Some(Action::Noop { duration_micros: 0 }),
        ..TaskSpec::default()
    }
}

fn command(id: &str, argv: &[&str]) -> TaskSpec {
    let argv = argv.iter().map(ToString::to_string).collect();
    TaskSpec { action: Some(Action::Command(CommandAction { argv, ..CommandAction::default() })), ..noop(id, &[]) }
}

fn faults(tasks: Vec<TaskSpec>) -> Vec<(String, &'static str)> {
    let faults = Definition::check(workflow(tasks)).expect_err("faults");
    faults.into_iter().map(|fault| (fault.field, fault.reason.as_str())).collect()
}

#[test]
fn all_faults_are_told_at_once_each_with_its_path() {
    // S-DEF-1, S-DEF-2
    let condition = |target: &str| ConditionSpec {
        target_task_id: target.into(),
        subject: Some(ConditionSubject::Status),
        operator: Some(Comparison::Equals),
        expected_value: "COMPLETED".into(),
        path: String::new(),
    };
    let retry = RetrySpec {
        max_attempts: 3,
        backoff: Some(BackoffSpec::Exponential { initial_delay: -1.0, multiplier: f64::NAN }),
        retry_on_errors: vec!["EXIT_CODE=75".into(), "SOMETIMES".into(), "/(/".into()],
        max_delay_seconds: Some(f64::INFINITY),
        jitter: 1.5,
    };
    let tasks = vec![
        noop("a", &[]),
        noop("a", &[]),
        noop("no spaces", &[]),
        noop("b", &["missing"]),
        TaskSpec { conditions: vec![condition("late"), condition("nobody")], ..noop("c", &["a"]) },
        noop("late", &["c"]),
        TaskSpec { when: "tasks.a.status ==".into(), ..noop("d", &["a"]) },
        TaskSpec { title: "{{ tasks.late.output }}".into(), ..noop("e", &["a"]) },
        TaskSpec { retry: Some(retry), timeout_micros: Some(0), ..noop("f", &[]) },
        command("g", &[]),
    ];
    // The dependencies have a fault, so only unknown ids are told of what conditions and placeholders read.
    assert_eq!(
        faults(tasks),
        [
            ("tasks[1].id".into(), "DUPLICATE_TASK_ID"),
            ("tasks[2].id".into(), "INVALID_ID"),
            ("tasks[8].timeout".into(), "INVALID_VALUE"),
            ("tasks[8].retry_config.exponential.initial_delay".into(), "INVALID_VALUE"),
            ("tasks[8].retry_config.exponential.multiplier".into(), "INVALID_VALUE"),
            ("tasks[8].retry_config.max_delay".into(), "INVALID_VALUE"),
            ("tasks[8].retry_config.jitter".into(), "INVALID_VALUE"),
            ("tasks[8].retry_config.retry_on_errors[1]".into(), "INVALID_VALUE"),
            ("tasks[8].retry_config.retry_on_errors[2]".into(), "INVALID_VALUE"),
            ("tasks[9].command.argv".into(), "MISSING_VALUE"),
            ("tasks[4].conditions[1].target_task_id".into(), "CONDITION_INVALID"),
            ("tasks[6].when".into(), "CONDITION_INVALID"),
            ("tasks[3].dependencies[0]".into(), "DEPENDENCY_NOT_FOUND"),
        ]
    );
}

#[test]
fn what_a_task_reads_comes_before_it() {
    // S-DEF-2: a condition or placeholder that names a task which is not an ancestor
    let far = TaskSpec { when: "tasks.a.status == 'COMPLETED'".into(), ..noop("c", &["b"]) };
    assert!(Definition::check(workflow(vec![noop("a", &[]), noop("b", &["a"]), far])).is_ok());
    let mut echo = command("c", &["echo", "{{ tasks.b.output }}"]);
    echo.dependencies = vec!["a".into()];
    assert_eq!(
        faults(vec![noop("a", &[]), noop("b", &[]), echo]),
        [("tasks[2].command.argv[1]".into(), "PLACEHOLDER_INVALID")]
    );
}

#[test]
fn a_command_is_what_the_system_can_run() {
    // S-DATA-3, S-DATA-4
    let mut bad = command("c", &["echo", "a\0b"]);
    if let Some(Action::Command(command)) = &mut bad.action {
        command.env.insert("NOX_ATTEMPT".into(), "1".into());
        command.env.insert("A=B".into(), "1".into());
        command.working_dir = "here".into();
        command.stdin = "x".repeat(MAX_STDIN_BYTES + 1);
    }
    assert_eq!(
        faults(vec![bad]),
        [
            ("tasks[0].command.argv[1]".into(), "INVALID_VALUE"),
            ("tasks[0].command.env[\"A=B\"]".into(), "INVALID_VALUE"),
            ("tasks[0].command.env[\"NOX_ATTEMPT\"]".into(), "INVALID_VALUE"),
            ("tasks[0].command.working_dir".into(), "INVALID_VALUE"),
            ("tasks[0].command.stdin".into(), "LIMIT_EXCEEDED"),
        ]
    );
}

#[test]
fn a_workflow_without_tasks_is_refused() {
    // S-DEF-2
    assert_eq!(faults(vec![]), [("tasks".into(), "MISSING_VALUE")]);
}

#[test]
fn references_across_generations_are_bounded() {
    // S-DEF-1: a definition cannot make its own check quadratic
    let mut tasks = vec![noop("t0", &[])];
    for i in 1..5_000 {
        let before = format!("t{}", i - 1);
        let mut task = noop(&format!("t{i}"), &[&before]);
        if i > 1 {
            task.when = "tasks.t0.status == 'COMPLETED'".into();
        }
        tasks.push(task);
    }
    let faults = faults(tasks);
    assert!(faults.iter().all(|(_, reason)| *reason == "CONDITION_INVALID"), "{:?}", faults.first());
}
