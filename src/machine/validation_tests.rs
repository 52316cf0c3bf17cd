//! What validation refuses, with which reason and at which field, and what it lets pass.

use super::{task::MAX_STDIN_BYTES, *};
use crate::machine::{
    ids::WorkflowId,
    workflow::{
        Action, ApprovalAction, BackoffSpec, CommandAction, Comparison, ConditionSpec, ConditionSubject, Definition,
        InputSpec, OnInterrupt, RetrySpec, TriggerRule,
    },
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

fn approval(id: &str, dependencies: &[&str]) -> TaskSpec {
    TaskSpec { action: Some(Action::Approval(ApprovalAction::default())), ..noop(id, dependencies) }
}

fn condition(target: &str) -> ConditionSpec {
    ConditionSpec {
        target_task_id: target.into(),
        subject: Some(ConditionSubject::Status),
        operator: Some(Comparison::Equals),
        expected_value: "COMPLETED".into(),
        path: String::new(),
    }
}

/// With handlers: `on_failure`, then `finally`.
fn handled(tasks: Vec<TaskSpec>, on_failure: &[&str], finally: &[&str]) -> WorkflowSpec {
    let ids = |ids: &[&str]| ids.iter().map(ToString::to_string).collect();
    WorkflowSpec { on_failure: ids(on_failure), finally: ids(finally), ..workflow(tasks) }
}

fn faults(tasks: Vec<TaskSpec>) -> Vec<(String, &'static str)> {
    faults_of(workflow(tasks))
}

fn faults_of(spec: WorkflowSpec) -> Vec<(String, &'static str)> {
    let faults = Definition::check(spec).expect_err("faults");
    faults.into_iter().map(|fault| (fault.field, fault.reason.as_str())).collect()
}

#[test]
fn all_faults_are_told_at_once_each_with_its_path() {
    // S-DEF-1, S-DEF-2
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
            ("tasks[8].retry_config.max_delay".into(), "INVALID_VALUE"),
            ("tasks[8].retry_config.exponential.multiplier".into(), "INVALID_VALUE"),
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

/// The words of the only fault.
fn words(spec: WorkflowSpec) -> String {
    let faults = Definition::check(spec).expect_err("a fault");
    assert_eq!(faults.len(), 1, "{faults:#?}");
    faults[0].description.clone()
}

#[test]
fn a_limit_names_what_it_bounds_and_lets_something_run() {
    // S-PAR-1, S-DEF-2
    let limited = |limits: &[(&str, u32)]| WorkflowSpec {
        concurrency_limits: limits.iter().map(|(key, limit)| (key.to_string(), *limit)).collect(),
        ..workflow(vec![TaskSpec { parallel_group: "heavy".into(), ..noop("a", &[]) }])
    };
    // An agent that no task names is none of our business.
    assert!(Definition::check(limited(&[("*", 1), ("group:heavy", 2), ("somebody", 3)])).is_ok());
    assert_eq!(
        faults_of(limited(&[("*", 0), ("group:", 1), ("group:hevy", 1), ("grp:heavy", 1)])),
        [
            ("concurrency_limits[\"*\"]".into(), "INVALID_VALUE"),
            ("concurrency_limits[\"group:\"]".into(), "INVALID_VALUE"),
            ("concurrency_limits[\"group:hevy\"]".into(), "INVALID_VALUE"),
            ("concurrency_limits[\"grp:heavy\"]".into(), "INVALID_VALUE"),
        ]
    );
    assert!(words(limited(&[("grp:heavy", 1)])).contains("`group:<parallel_group>`"));
    assert!(words(limited(&[("group:hevy", 1)])).contains("no task has `parallel_group: hevy`"));
    let many: Vec<String> = (0..=MAX_LIMITS).map(|i| format!("agent{i}")).collect();
    let many: Vec<(&str, u32)> = many.iter().map(|name| (name.as_str(), 1)).collect();
    assert_eq!(faults_of(limited(&many)), [("concurrency_limits".into(), "LIMIT_EXCEEDED")]);
}

#[test]
fn a_handler_is_a_task_of_one_kind() {
    // S-STATE-5, S-DEF-2
    let tasks = || vec![noop("a", &[]), noop("report", &[]), noop("clean", &[])];
    assert!(Definition::check(handled(tasks(), &["report"], &["clean"])).is_ok());
    assert_eq!(
        faults_of(handled(tasks(), &["report", "nobody", "report"], &["report", "clean"])),
        [
            ("on_failure[1]".into(), "INVALID_VALUE"),
            ("on_failure[2]".into(), "INVALID_VALUE"),
            ("finally[0]".into(), "INVALID_VALUE"),
        ]
    );
    assert_eq!(faults_of(handled(tasks(), &["a", "report"], &["clean"])), [("tasks".into(), "MISSING_VALUE")]);
    assert!(words(handled(tasks(), &["report"], &["report"])).contains("in `on_failure` already"));
}

#[test]
fn handlers_wait_for_their_own_kind_only() {
    // S-STATE-5
    let sound = vec![noop("a", &[]), noop("r1", &[]), noop("r2", &["r1"]), noop("c1", &[]), noop("c2", &["c1"])];
    assert!(Definition::check(handled(sound, &["r1", "r2"], &["c1", "c2"])).is_ok());
    let unsound = vec![noop("a", &[]), noop("b", &["report"]), noop("report", &["a"]), noop("clean", &["report"])];
    assert_eq!(
        faults_of(handled(unsound, &["report"], &["clean"])),
        [
            ("tasks[1].dependencies[0]".into(), "INVALID_VALUE"),
            ("tasks[2].dependencies[0]".into(), "INVALID_VALUE"),
            ("tasks[3].dependencies[0]".into(), "INVALID_VALUE"),
        ]
    );
    let told = words(handled(vec![noop("a", &[]), noop("clean", &["a"])], &[], &["clean"]));
    assert!(told.contains("remove the dependency: `a` has ended before it starts anyway"), "{told}");
}

#[test]
fn a_handler_reads_every_task_of_an_earlier_kind() {
    // S-STATE-5, S-DEF-2
    let reading = |reader: &str, read: &str| {
        let tasks = ["a", "b", "report", "clean"].map(|id| match id == reader {
            true => TaskSpec { conditions: vec![condition(read)], ..noop(id, &[]) },
            false => noop(id, &[]),
        });
        handled(tasks.into(), &["report"], &["clean"])
    };
    for (reader, read) in [("report", "a"), ("clean", "b"), ("clean", "report")] {
        assert!(Definition::check(reading(reader, read)).is_ok(), "{reader} reads {read}");
    }
    for (reader, read) in [("a", "report"), ("b", "clean"), ("report", "clean")] {
        assert!(words(reading(reader, read)).contains("a handler that runs after"), "{reader} reads {read}");
    }
    let when = TaskSpec { title: "{{ tasks.a.status }}".into(), when: "tasks.b.attempts > 1".into(), ..noop("h", &[]) };
    assert!(Definition::check(handled(vec![noop("a", &[]), noop("b", &[]), when], &["h"], &[])).is_ok());
}

#[test]
fn every_timeout_is_between_a_millisecond_and_a_hundred_years() {
    // S-DEF-2, S-RETRY-5
    for (micros, sound) in
        [(0, false), (999, false), (1_000, true), (MAX_SPAN_MICROS, true), (MAX_SPAN_MICROS + 1, false)]
    {
        let approval = ApprovalAction { timeout_micros: Some(micros), ..ApprovalAction::default() };
        let spec = WorkflowSpec {
            execution_timeout_micros: Some(micros),
            ..workflow(vec![
                TaskSpec {
                    timeout_micros: Some(micros),
                    queue_timeout_micros: Some(micros),
                    idle_timeout_micros: Some(micros),
                    ..command("a", &["true"])
                },
                TaskSpec { action: Some(Action::Approval(approval)), ..noop("b", &[]) },
            ])
        };
        let paths = [
            "execution_timeout",
            "tasks[0].timeout",
            "tasks[0].queue_timeout",
            "tasks[0].idle_timeout",
            "tasks[1].approval.timeout",
        ];
        match Definition::check(spec) {
            Ok(_) => assert!(sound, "{micros}"),
            Err(faults) => {
                assert!(!sound, "{micros}: {faults:#?}");
                assert_eq!(faults.iter().map(|fault| fault.field.as_str()).collect::<Vec<_>>(), paths);
            }
        }
    }
}

#[test]
fn an_approval_has_no_attempts_to_bound_or_repeat() {
    // S-STATE-2, S-RETRY-7
    let sound = ApprovalAction {
        prompt: "Ship it?".into(),
        approvers: vec!["uid:1000".into()],
        timeout_micros: Some(1_000_000),
    };
    let asking = |action| TaskSpec { action: Some(Action::Approval(action)), ..noop("ask", &["a"]) };
    assert!(Definition::check(workflow(vec![noop("a", &[]), asking(sound)])).is_ok());
    let bounded = TaskSpec {
        timeout_micros: Some(1_000_000),
        queue_timeout_micros: Some(1_000_000),
        idle_timeout_micros: Some(1_000_000),
        retry: Some(RetrySpec { max_attempts: 2, ..RetrySpec::default() }),
        on_interrupt: OnInterrupt::Fail,
        ..approval("ask", &[])
    };
    let names = ["timeout", "queue_timeout", "idle_timeout", "retry_config", "on_interrupt"];
    assert_eq!(faults(vec![bounded]), names.map(|name| (format!("tasks[0].{name}"), "INVALID_VALUE")));
    let told = words(workflow(vec![TaskSpec { timeout_micros: Some(1_000_000), ..approval("ask", &[]) }]));
    assert!(told.contains("`approval.timeout`"), "{told}");
    let too_much = ApprovalAction {
        prompt: "x".repeat(4_097),
        approvers: vec![" ".into(), "x".repeat(257)],
        timeout_micros: None,
    };
    assert_eq!(
        faults(vec![noop("a", &[]), asking(too_much)]),
        [
            ("tasks[1].approval.prompt".into(), "LIMIT_EXCEEDED"),
            ("tasks[1].approval.approvers[0]".into(), "MISSING_VALUE"),
            ("tasks[1].approval.approvers[1]".into(), "LIMIT_EXCEEDED"),
        ]
    );
    let crowd = ApprovalAction { approvers: vec!["uid:0".into(); 65], ..ApprovalAction::default() };
    assert_eq!(faults(vec![noop("a", &[]), asking(crowd)]), [("tasks[1].approval.approvers".into(), "LIMIT_EXCEEDED")]);
}

#[test]
fn a_field_that_would_mean_nothing_is_refused() {
    // S-DEF-2, S-DEP-3
    let rule = TaskSpec { trigger_rule: TriggerRule::OneFailed, ..noop("a", &[]) };
    assert_eq!(faults(vec![rule.clone()]), [("tasks[0].trigger_rule".into(), "INVALID_VALUE")]);
    let after = TaskSpec { dependencies: vec!["b".into()], ..rule };
    assert!(Definition::check(workflow(vec![after, noop("b", &[])])).is_ok());
    let silent = TaskSpec { idle_timeout_micros: Some(1_000_000), ..noop("a", &[]) };
    assert_eq!(faults(vec![silent]), [("tasks[0].idle_timeout".into(), "INVALID_VALUE")]);
    let group = TaskSpec { parallel_group: "two words".into(), ..noop("a", &[]) };
    assert_eq!(faults(vec![group]), [("tasks[0].parallel_group".into(), "INVALID_ID")]);
}

#[test]
fn retries_are_bounded() {
    // S-RETRY-1, S-RETRY-2, S-DEF-2
    let retrying = |retry| vec![TaskSpec { retry: Some(retry), ..noop("a", &[]) }];
    let once = RetrySpec { max_attempts: 1, backoff: Some(BackoffSpec::Fixed { delay: 1.0 }), ..RetrySpec::default() };
    assert!(Definition::check(workflow(retrying(once))).is_ok(), "retries turned off for a while");
    let most = RetrySpec { max_attempts: 1_000, ..RetrySpec::default() };
    assert!(Definition::check(workflow(retrying(most))).is_ok());
    let endless = RetrySpec {
        max_attempts: 1_001,
        backoff: Some(BackoffSpec::Linear { initial_delay: 4e9, increment: f64::NAN }),
        retry_on_errors: vec!["SIGNAL".into(); 65],
        ..RetrySpec::default()
    };
    assert_eq!(
        faults(retrying(endless)),
        [
            ("tasks[0].retry_config.max_attempts".into(), "LIMIT_EXCEEDED"),
            ("tasks[0].retry_config.linear.initial_delay".into(), "INVALID_VALUE"),
            ("tasks[0].retry_config.linear.increment".into(), "INVALID_VALUE"),
            ("tasks[0].retry_config.retry_on_errors".into(), "LIMIT_EXCEEDED"),
        ]
    );
}

#[test]
fn what_looks_like_a_placeholder_is_never_silently_literal() {
    // S-DATA-2, S-DEF-2
    const TEXT: &str = "{{ execution.id }}";
    let mut run = command("run", &[TEXT]);
    run.conditions = vec![ConditionSpec { expected_value: TEXT.into(), ..condition("ask") }];
    run.dependencies = vec!["ask".into()];
    if let Some(Action::Command(command)) = &mut run.action {
        command.working_dir = format!("/srv/{TEXT}");
        command.env = [(TEXT.to_string(), TEXT.to_string())].into();
        command.stdin = TEXT.into();
    }
    let mut ask = approval("ask", &[]);
    ask.title = TEXT.into();
    ask.description = TEXT.into();
    ask.action = Some(Action::Approval(ApprovalAction { prompt: TEXT.into(), ..ApprovalAction::default() }));
    ask.metadata = [("note".to_string(), TEXT.to_string())].into();
    let paths = [
        "tasks[0].conditions[0].expected_value",
        "tasks[0].command.working_dir",
        "tasks[0].command.env[\"{{ execution.id }}\"]",
        "tasks[1].title",
        "tasks[1].description",
        "tasks[1].approval.prompt",
    ];
    assert_eq!(faults(vec![run, ask]), paths.map(|path| (path.to_string(), "PLACEHOLDER_INVALID")));
}

#[test]
fn an_input_is_declared_before_it_is_read() {
    // S-DATA-2, S-COND-3
    let reading = |inputs: &[&str]| WorkflowSpec {
        inputs: inputs.iter().map(|name| InputSpec { name: name.to_string(), ..InputSpec::default() }).collect(),
        ..workflow(vec![TaskSpec {
            when: "inputs.env == 'test'".into(),
            ..command("a", &["echo", "{{ inputs.env }}"])
        }])
    };
    assert!(Definition::check(reading(&["env"])).is_ok());
    assert_eq!(
        faults_of(reading(&["evn", "evn", "no-name"])),
        [
            ("inputs[1].name".into(), "INVALID_ID"),
            ("inputs[2].name".into(), "INVALID_ID"),
            ("tasks[0].when".into(), "CONDITION_INVALID"),
            ("tasks[0].command.argv[1]".into(), "PLACEHOLDER_INVALID"),
        ]
    );
}

#[test]
fn a_placeholder_never_fills_what_chooses_the_code_that_runs() {
    // S-DATA-4
    let filled = |name: &str| {
        let mut task = command("a", &["true"]);
        if let Some(Action::Command(command)) = &mut task.action {
            command.env = [(name.to_string(), "{{ execution.id }}".to_string())].into();
        }
        workflow(vec![task])
    };
    assert!(Definition::check(filled("VERSION")).is_ok());
    for name in ["LD_PRELOAD", "PATH", "GIT_SSH_COMMAND", "NODE_OPTIONS", "PYTHONSTARTUP", "BASH_ENV"] {
        let path = format!("tasks[0].command.env[{name:?}]");
        assert_eq!(faults_of(filled(name)), [(path, "PLACEHOLDER_INVALID")]);
    }
}
